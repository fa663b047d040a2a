//! What a text says about goods, without I/O: the size that a package states.

pub mod size;
mod token;
