//! How good a model is, in figures that a file can carry.

use serde::{Deserialize, Serialize};

/// Of both tasks, and of what is dangerous.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Of the handling classes.
    pub handling: TaskScores,
    /// Of the departments.
    pub departments: TaskScores,
    /// Of what a wrong guess does harm to.
    pub danger: DangerScores,
}

/// Of one task. Every product counts once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// Products judged.
    pub products: u64,
    /// Share of them that got their class.
    pub accuracy: f64,
    /// Mean F1 of the classes that occur.
    pub macro_f1: f64,
    /// Expected calibration error: the mean distance of confidence from accuracy in 15 equally wide bins, by products.
    pub calibration_error: f64,
    /// Share of products at or above the confidence that was set for a precision of 95 %.
    pub coverage: f64,
    /// Share of those that got their class.
    pub precision: f64,
}

/// Of products that are frozen, for adults only or hazardous.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DangerScores {
    /// How many there are.
    pub products: u64,
    /// How many were taken for plain ambient goods.
    pub misses: u64,
    /// How many of those were not held for review.
    pub passed: u64,
    /// Share of all products that were held.
    pub held: f64,
}

impl DangerScores {
    /// Share of the misses that were not held.
    #[must_use]
    pub fn passed_of_misses(&self) -> f64 {
        share(self.passed, self.misses)
    }

    /// Share of all dangerous products that were missed and not held.
    #[must_use]
    pub fn passed_of_dangerous(&self) -> f64 {
        share(self.passed, self.products)
    }
}

/// 0 of nothing is 0.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
