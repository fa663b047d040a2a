//! Tells merchants what becomes of their orders.

pub mod config;
pub mod core;
pub mod guard;
mod lane;
pub mod model;
mod parked;
