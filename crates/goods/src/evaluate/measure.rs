//! Counting: confusion, F1, calibration and coverage, in products.

use serde::Serialize;

use crate::{
    judge::{DANGEROUS, DEPARTMENTS, department, handled},
    scores::{DangerScores, Scores, TaskScores, share},
    train::Policy,
};

use super::Judged;

/// Bins of a calibration, equally wide.
pub(crate) const BINS: usize = 15;

/// How many products of each class were taken for which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// The classes.
    pub names: Vec<String>,
    /// A row a class, with the number taken for each.
    pub counts: Vec<Vec<u64>>,
}

impl Matrix {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { counts: vec![vec![0; names.len()]; names.len()], names }
    }

    pub(crate) fn add(&mut self, right: usize, taken: usize, products: u64) {
        if let Some(count) = self.counts.get_mut(right).and_then(|row| row.get_mut(taken)) {
            *count += products;
        }
    }

    /// All of them.
    #[must_use]
    pub fn products(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    fn right(&self, class: usize) -> u64 {
        self.counts.get(class).and_then(|row| row.get(class)).copied().unwrap_or_default()
    }

    fn accuracy(&self) -> f64 {
        share((0..self.names.len()).map(|class| self.right(class)).sum(), self.products())
    }

    /// Share of the class's products that got it (recall), of those that got it that are of the class (precision), and F1.
    #[must_use]
    pub fn class(&self, class: usize) -> (f64, f64, f64) {
        let of: u64 = self.counts.get(class).into_iter().flatten().sum();
        let taken: u64 = self.counts.iter().filter_map(|row| row.get(class)).sum();
        let right = self.right(class);
        (share(right, of), share(right, taken), share(2 * right, of + taken))
    }

    fn macro_f1(&self) -> f64 {
        let occurs = |class: &usize| self.counts.get(*class).into_iter().flatten().any(|count| *count > 0);
        let classes: Vec<usize> = (0..self.names.len()).filter(occurs).collect();
        let sum: f64 = classes.iter().map(|class| self.class(*class).2).sum();
        if classes.is_empty() { 0.0 } else { sum / classes.len() as f64 }
    }
}

/// Products of about one confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// How many.
    pub products: u64,
    /// How many of them got their class.
    pub right: u64,
    /// Their mean confidence.
    pub confidence: f64,
}

impl Bin {
    pub(crate) fn all() -> Vec<Self> {
        vec![Self { products: 0, right: 0, confidence: 0.0 }; BINS]
    }

    pub(crate) fn add(bins: &mut [Self], confidence: f32, right: bool, products: u64) {
        let at = ((confidence * BINS as f32) as usize).min(BINS - 1);
        if let Some(bin) = bins.get_mut(at) {
            let before = bin.products as f64;
            bin.products += products;
            bin.right += if right { products } else { 0 };
            bin.confidence = (bin.confidence * before + f64::from(confidence) * products as f64) / bin.products as f64;
        }
    }

    /// Share of them that got their class.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        share(self.right, self.products)
    }

    fn error(bins: &[Self]) -> f64 {
        let all: u64 = bins.iter().map(|bin| bin.products).sum();
        let distance = |bin: &Self| (bin.confidence - bin.accuracy()).abs() * share(bin.products, all);
        bins.iter().map(distance).sum()
    }
}

/// Counts of one task.
struct Task {
    matrix: Matrix,
    bins: Vec<Bin>,
    sure: u64,
    surely_right: u64,
}

impl Task {
    fn new(classes: usize) -> Self {
        Self { matrix: Matrix::new(vec![String::new(); classes]), bins: Bin::all(), sure: 0, surely_right: 0 }
    }

    fn add(&mut self, right: usize, (taken, confidence): (usize, f32), confident_from: f32, products: u64) {
        self.matrix.add(right, taken, products);
        Bin::add(&mut self.bins, confidence, right == taken, products);
        if confidence >= confident_from {
            self.sure += products;
            self.surely_right += if right == taken { products } else { 0 };
        }
    }

    fn scores(&self) -> TaskScores {
        TaskScores {
            products: self.matrix.products(),
            accuracy: self.matrix.accuracy(),
            macro_f1: self.matrix.macro_f1(),
            calibration_error: Bin::error(&self.bins),
            coverage: share(self.sure, self.matrix.products()),
            precision: share(self.surely_right, self.sure),
        }
    }
}

/// How good models were on what they judged, each by its policy.
pub(crate) fn scores(parts: &[(&[Judged], &Policy)]) -> Scores {
    let departments = parts.iter().flat_map(|(judged, _)| *judged).map(|of| of.departments).max().unwrap_or_default();
    let (mut of_handling, mut of_departments) = (Task::new(DEPARTMENTS), Task::new(departments));
    let mut danger = DangerScores { products: 0, misses: 0, passed: 0, held: 0.0 };
    let (mut held, mut all) = (0, 0);
    for (judged, policy) in parts {
        let calibration = &policy.calibration;
        for of in *judged {
            let judged = handled(&of.scores, calibration);
            of_handling.add(of.handling, (judged.class, judged.confidence), calibration.confident_from, of.products);
            if let Some(right) = of.department {
                let taken = department(&of.scores, of.departments, calibration);
                of_departments.add(right, taken, policy.department_confident_from, of.products);
            }
            let review = judged.is_held(calibration);
            all += of.products;
            held += if review { of.products } else { 0 };
            danger.products += if DANGEROUS.contains(&of.handling) { of.products } else { 0 };
            if of.is_missed(judged.class) {
                danger.misses += of.products;
                danger.passed += if review { 0 } else { of.products };
            }
        }
    }
    danger.held = share(held, all);
    Scores { handling: of_handling.scores(), departments: of_departments.scores(), danger }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_read_both_ways() {
        let mut matrix = Matrix::new(["a", "b", "c"].map(str::to_owned).to_vec());
        for (right, taken, products) in [(0, 0, 6), (0, 1, 2), (1, 1, 1), (1, 0, 1)] {
            matrix.add(right, taken, products);
        }
        assert_eq!((matrix.products(), matrix.accuracy()), (10, 0.7));
        assert_eq!(matrix.class(0), (0.75, 6.0 / 7.0, 0.8));
        // Class c doesn't occur and doesn't count.
        assert_eq!(matrix.macro_f1(), (0.8 + 0.4) / 2.0);
    }

    #[test]
    fn calibration_is_a_distance_by_products() {
        let mut bins = Bin::all();
        Bin::add(&mut bins, 0.9, true, 9);
        Bin::add(&mut bins, 0.9, false, 1);
        assert!(Bin::error(&bins) < 1e-6);
        Bin::add(&mut bins, 1.0, false, 10);
        assert!((Bin::error(&bins) - 0.5).abs() < 0.03, "{}", Bin::error(&bins));
    }
}
