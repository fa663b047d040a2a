//! The real program over real sockets, with simulated carriers in a process of their own.

mod batches;
mod idempotency;
pub mod life;
mod limits;
mod metrics;
pub mod operation;
mod parcels;
mod statuses;
mod streams;
pub mod tracking;
