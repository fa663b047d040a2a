//! Classification: what each line of an order needs on its way, and which lines share a parcel.
//!
//! * [`classifier`]: the port behind which everything that can name a line's handling plugs in, and the [`Chain`] that
//!   asks them in order.
//! * [`catalogue`]: products that the marketplace knows by SKU.
//! * weights: those that the catalogue has read off package sizes, else the size that a title says (`sluice-goods`), else a
//!   guess, which is marked as an estimate from there on.
//! * [`rules`]: words in the title, from a versioned rule file, for what the catalogue lacks.
//! * [`model`]: a learned model, for titles that nothing else knows.
//! * [`learned`]: titles that reviewers have decided for good.
//! * [`knowledge`]: the chain in force, which is replaced as a whole while the process runs.
//! * [`stage`]: the pipeline stage, which turns placed orders into parcels, and holds those of which a person must say what
//!   they are.

pub mod catalogue;
pub mod classifier;
pub mod knowledge;
pub mod learned;
pub mod model;
mod rule_file;
pub mod rules;
mod split;
pub mod stage;

pub use catalogue::{ByCatalogue, usual_weights};
pub use classifier::{Chain, Classified, Classifier, Fallback, Source};
pub use knowledge::Knowledge;
pub use learned::{Learned, MAX_LEARNED};
pub use model::{ByModel, Review};
pub use rule_file::RulesError;
pub use rules::{Matched, Rules};
pub use stage::Classify;
