//! The cluster with real processes: a broker, a store, nodes of each role, carriers.

mod faults;
mod poison;
mod rebuild;
mod repartition;
mod run;
mod secured;
mod streams;
mod town;
mod webhooks;
