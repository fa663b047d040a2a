//! What goods are, learned from their titles: a handling class and a department for goods that no catalogue knows, how sure
//! that is, and whether a person should look first.
//!
//! A [`Model`] is loaded once, never changes and judges a title in less than a microsecond without allocating. It is one
//! table: what each word, n-gram, pair of words and package size says about each class. [`train`] makes one from a
//! catalogue, [`evaluate`] says how good such models are on types of goods that they have never seen. [`size`] reads what a
//! package holds off its title.

mod about;
mod error;
pub mod evaluate;
mod explain;
mod features;
mod judge;
mod model;
mod scores;
pub mod size;
pub mod text;
mod token;
pub mod train;

pub use about::{About, Calibration};
pub use error::ModelError;
pub use explain::{Explanation, Reason};
pub use model::{Judgement, Model};
pub use scores::{DangerScores, Scores, TaskScores};
