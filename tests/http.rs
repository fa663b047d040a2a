//! The real program over real sockets, with simulated carriers in a process of their own.

mod batches;
mod commands;
mod events;
mod fairness;
mod idempotency;
mod isolation;
pub mod life;
mod limits;
mod lists;
mod metrics;
pub mod operation;
mod operator;
mod parcels;
mod replays;
mod retention;
mod reviews;
mod statuses;
mod streams;
mod tls;
pub mod tracking;
mod webhooks;
