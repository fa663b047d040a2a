//! Classification: what each line of an order needs on its way, and which lines share a parcel.
//!
//! * [`classifier`]: the port behind which everything that can name a line's handling plugs in, and the [`Chain`] that
//!   asks them in order.
//! * [`catalogue`]: products that the marketplace knows by SKU.
//! * [`rules`]: words in the title, from a versioned rule file, for what the catalogue lacks.
//! * [`stage`]: the pipeline stage, which turns placed orders into parcels.
//!
//! A learned model joins the chain as one more [`Classifier`]; nothing else changes.

pub mod catalogue;
pub mod classifier;
mod rule_file;
pub mod rules;
mod split;
pub mod stage;

pub use catalogue::ByCatalogue;
pub use classifier::{Chain, Classified, Classifier, Fallback, Source};
pub use rule_file::RulesError;
pub use rules::{Matched, Rules};
pub use stage::Classify;
