//! placeholder
pub mod simulated;
pub mod webhook;
