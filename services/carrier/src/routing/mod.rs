//! Routing: which carrier is asked to take a parcel, decided from a versioned table and what this node has measured,
//! without a central controller.
//!
//! * [`table`]: what each carrier takes, costs and promises, from the configuration.
//! * [`odds`]: how table and measured health become each carrier's share of the parcels.
//! * [`stage`]: the pipeline stage, which routes new parcels and decides what a carrier's answer leads to.

pub mod odds;
pub mod stage;
pub mod table;

#[cfg(test)]
mod laws;

pub use stage::Route;
pub use table::{CarrierRule, CarrierSet, GroupSet, Table, TableError, UnknownGroup};
