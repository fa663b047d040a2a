//! The cluster with real processes: a broker, a store, a node for each role, carriers.

mod faults;
mod poison;
mod rebuild;
mod repartition;
mod run;
mod secured;
mod town;
