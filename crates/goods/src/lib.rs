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

/// What must hold for any bytes that are taken for a title, well-formed or not: what a fuzzer tries to break. Panics if it
/// doesn't.
#[doc(hidden)]
pub fn check_text(model: &Model, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let normal = text::Normal::of(&text);
    assert!(normal.bytes().len() <= text::SEEN, "{} bytes", normal.bytes().len());
    assert_eq!(text::Normal::of(normal.as_str()).as_str(), normal.as_str(), "normal twice");
    let said = model.judge(&text, Some(&text));
    assert_eq!(said, model.judge_spelled(&text, Some(&text)), "spelled");
    let sane = |share: f32| (0.0..=1.001).contains(&share);
    assert!(sane(said.confidence) && sane(said.risk) && sane(said.department_confidence), "{said:?}");
    let reasons = model.explain(&text, None).reasons;
    assert!(reasons.iter().all(|reason| reason.adds.is_finite()), "{reasons:?}");
}
