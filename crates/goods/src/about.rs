//! What a model file says of itself.

use serde::{Deserialize, Serialize};
use sluice_domain::{Group, Handling};

use crate::scores::Scores;

/// Where a model comes from, what it tells apart, how good it was on texts it had not seen, and how sure it has to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The layout of this description and of the features behind the table: [`LAYOUT`].
    pub layout: u32,
    /// Name of the catalogue that it was trained on.
    pub data: String,
    /// Products of it that were used.
    pub rows: u64,
    /// Different product types among them.
    pub types: u64,
    /// The seed of the training.
    pub seed: u64,
    /// Whether it was trained with manufacturers, and so listens to them.
    pub makers: bool,
    /// The departments it tells apart, in order of their numbers.
    pub departments: Vec<String>,
    /// The handling classes it tells apart, in order of their codes.
    pub handling: Vec<String>,
    /// How good it was: five models of the same kind, each on the product types that it had not seen.
    pub scores: Option<Scores>,
    /// How sure it has to be.
    pub calibration: Calibration,
    /// What one step of each part of the file stands for.
    pub(crate) steps: Steps,
    /// What speaks for each class before a text is looked at: ten handling classes, then departments.
    pub(crate) bias: Vec<f32>,
}

/// The layout that this build reads and writes. A change of features that would read old tables wrong raises it.
pub const LAYOUT: u32 = 1;

/// What turns scores into probabilities, and probabilities into a decision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Scores of handling classes are divided by this.
    pub handling_temperature: f32,
    /// Scores of departments are divided by this.
    pub department_temperature: f32,
    /// A line that seems to be plain ambient goods is held for review at a higher risk.
    pub review_above_risk: f32,
    /// Any other line is held at a higher risk than this: it is handled with care anyway.
    pub review_others_above_risk: f32,
    /// From this confidence on, 95 % of the handling classes given to unseen texts were right.
    pub confident_from: f32,
}

impl Default for Calibration {
    /// Scores as they are, and everything held.
    fn default() -> Self {
        Self {
            handling_temperature: 1.0,
            department_temperature: 1.0,
            review_above_risk: 0.0,
            review_others_above_risk: 0.0,
            confident_from: 1.0,
        }
    }
}

impl Calibration {
    /// The risk above which lines that seem to be of a class are held for review.
    #[must_use]
    pub fn held_above(&self, class: Handling) -> f32 {
        if class.group() == Some(Group::Ambient) { self.review_above_risk } else { self.review_others_above_risk }
    }
}

/// What a step of 1 is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Steps {
    /// In the table of features.
    pub table: f32,
    /// In what vectors of words say.
    pub vectors: f32,
}
