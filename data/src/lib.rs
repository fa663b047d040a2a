//! Products, baskets and words to try the product with, so that demos, load and benchmarks run on orders whose sizes, mixtures
//! and popularity weren't made up for them.
//!
//! All files are embedded, so nothing has to be found or fetched at run time. Where they come from, under which
//! licences, and what in an order is generated rather than data is written in `data/README.md`.

mod address;
mod baskets;
mod catalogue;
mod error;
pub mod file;
mod orders;
mod text;
mod vectors;

pub use baskets::{Basket, BasketLine, Baskets};
pub use catalogue::{Catalogue, HANDLING, Product};
pub use error::DataError;
pub use orders::OrderWriter;
pub use vectors::WordVectors;

/// The embedded catalogue, unpacked into memory of its own (about 3 MB).
///
/// # Errors
/// When the embedded file is damaged.
pub fn catalogue() -> Result<Catalogue, DataError> {
    Catalogue::from_bytes(include_bytes!("../catalogue.sld"))
}

/// The embedded sample of baskets, unpacked into memory of its own (about 6 MB).
///
/// # Errors
/// When the embedded file is damaged.
pub fn baskets() -> Result<Baskets, DataError> {
    Baskets::from_bytes(include_bytes!("../baskets.sld"))
}

/// The embedded vectors of English words, unpacked into memory of its own (about 2 MB).
///
/// # Errors
/// When the embedded file is damaged.
pub fn vectors() -> Result<WordVectors, DataError> {
    WordVectors::from_bytes(include_bytes!("../vectors.sld"))
}
