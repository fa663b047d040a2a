//! Tells merchants what becomes of their orders.

pub mod guard;
