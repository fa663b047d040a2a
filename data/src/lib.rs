//! Products and baskets to try the product with, so that demos, load and benchmarks run on orders whose sizes, mixtures
//! and popularity weren't made up for them.
//!
//! Both files are embedded, so nothing has to be found or fetched at run time. Where they come from, under which
//! licences, and what in an order is generated rather than data is written in `data/README.md`.

mod address;
mod baskets;
mod catalogue;
mod error;
mod file;
mod orders;
mod text;

pub use baskets::{Basket, BasketLine, Baskets};
pub use catalogue::{Catalogue, HANDLING, Product};
pub use error::DataError;
pub use orders::OrderWriter;

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
