//! The life of an order as pure functions: identity, limits, goods, attempts, status, and the invariants by name.
//! No I/O, no clock, no randomness: everything here gives the same answer on every machine and every replay.

pub mod commands;
#[cfg(test)]
mod commands_tests;
pub mod goods;
pub mod identity;
pub mod invariants;
pub mod limits;
pub mod merchants;
pub mod operators;
pub mod order_state;
#[cfg(test)]
mod order_state_tests;

pub use goods::{Group, Handling};
pub use identity::{Fingerprint, OrderId, ShipmentId, SlotCount};
pub use merchants::{KeyHash, Merchant, Merchants, MerchantsError};
pub use operators::Operators;
pub use order_state::{Class, OrderState};
