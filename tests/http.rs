//! The real program over real sockets, with simulated carriers in a process of their own.

mod batches;
mod idempotency;
mod life;
mod limits;
mod lists;
mod metrics;
pub mod operation;
mod parcels;
mod statuses;
mod tracking;
