//! The composition root: the only crate that sees every stage, engine and service.

pub mod load;
