//! How good are models on goods that they have never seen? Five times a model is trained on four fifths of the product
//! types and judges the last one; how sure it has to be is set within those four fifths, by five models of parts of them.

mod measure;

pub use measure::{Bin, Matrix};

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::Serialize;
use sluice_domain::Handling;

use crate::{
    judge::{DANGEROUS, DEPARTMENTS, LANES, department, handled},
    model::Model,
    scores::Scores,
    train::{self, Catalogue, FOLDS, Options, Policy, Prepared, Progress, STEPS, Trade, TrainError},
};

pub(crate) use measure::scores;

/// What a model's scores were for some products that are alike, and what they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged {
    pub handling: usize,
    pub department: Option<usize>,
    pub departments: usize,
    pub products: u64,
    pub scores: [f32; LANES],
}

/// How good models of a catalogue are.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of each fold, by the policy that was set without it.
    pub folds: Vec<Fold>,
    /// Of all folds together.
    pub pooled: Scores,
    /// The same, where less was held: misses of 1 % of all dangerous goods might pass.
    pub lenient: Scores,
    /// What handling classes were taken for.
    pub handling: Matrix,
    /// What departments were taken for.
    pub departments: Matrix,
    /// Confidence in handling classes beside how many were right.
    pub handling_calibration: Vec<Bin>,
    /// Confidence in departments beside how many were right.
    pub department_calibration: Vec<Bin>,
    /// What holding lines for review costs and gives, in the held-out folds.
    pub trades: Vec<Trade>,
    /// All folds together, with rules before the model.
    pub chain: ChainScores,
}

/// One fold.
#[derive(Debug, Clone, Serialize)]
pub struct Fold {
    /// Its number.
    pub fold: u32,
    /// How good the model without it was on it.
    pub scores: Scores,
    /// Above which risk lines were held, as set without it.
    pub review_above_risk: f32,
    /// The same, where misses of 1 % of all dangerous goods might pass.
    pub lenient_risk: f32,
    /// By what its scores of handling classes were divided.
    pub handling_temperature: f32,
    /// By what its scores of departments were divided.
    pub department_temperature: f32,
}

/// What a chain does with types of goods that its model has never seen: rules decide first, the model what is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ChainScores {
    /// Products that were judged.
    pub products: u64,
    /// Decided by a rule.
    pub by_rules: u64,
    /// … and of the class that it says.
    pub rules_right: u64,
    /// Products that got their class, whether held or not.
    pub right: u64,
    /// Held for review by the model or a rule.
    pub held: u64,
    /// Dangerous products: frozen, for adults, hazardous.
    pub dangerous: u64,
    /// Those of them that pass as plain ambient goods.
    pub passed: u64,
}

/// A rule's answer to a title, if there is one for it, and whether a person must look all the same.
pub type Before<'a> = &'a dyn Fn(&str) -> Option<(Handling, bool)>;

/// What came of one fold.
struct Outcome {
    held: Vec<usize>,
    judged: Vec<Judged>,
    policy: Policy,
}

/// Runs the protocol, and says what rules `before` the model change. It takes as long as thirty trainings, spread over the
/// processors.
///
/// # Errors
/// [`TrainError`] as [`train::train`].
pub fn evaluate(
    catalogue: &Catalogue,
    options: &Options,
    before: Before<'_>,
    progress: Progress<'_>,
) -> Result<Report, TrainError> {
    let prepared = Prepared::new(catalogue, options.makers)?;
    let steps = u64::from(FOLDS * (FOLDS + 1)) * STEPS;
    let done = AtomicU64::new(0);
    let tick = || progress(done.fetch_add(1, Relaxed) + 1, steps);
    let outcomes = each_fold(|fold| outcome(&prepared, options, fold, &tick))?;
    Ok(report(&prepared, &outcomes, before))
}

fn outcome(prepared: &Prepared, options: &Options, fold: u32, tick: &(dyn Fn() + Sync)) -> Result<Outcome, TrainError> {
    let all = 0..prepared.examples.len();
    let (held, rest): (Vec<usize>, Vec<usize>) = all.partition(|example| prepared.examples[*example].fold == fold);
    let mut within = Vec::with_capacity(rest.len());
    for inner in 0..FOLDS {
        within.push(train::held_back(prepared, options, &rest, |example| example.inner_fold == inner, tick)?);
    }
    let model = train::part(prepared, options, &rest, tick)?;
    Ok(Outcome { judged: judge(&model, prepared, &held), held, policy: Policy::set(&within) })
}

/// Runs `work` for every fold, on as many threads as there are processors, and gives what came of them in order.
pub(crate) fn each_fold<T: Send>(work: impl Fn(u32) -> Result<T, TrainError> + Sync) -> Result<Vec<T>, TrainError> {
    let (next, done) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(FOLDS as usize);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let fold = next.fetch_add(1, Relaxed) as u32;
                    if fold >= FOLDS {
                        return;
                    }
                    let result = work(fold);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((fold, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(fold, _)| *fold);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What `model` says about these examples.
pub(crate) fn judge(model: &Model, prepared: &Prepared, of: &[usize]) -> Vec<Judged> {
    let one = |example: &usize| {
        let example = &prepared.examples[*example];
        Judged {
            handling: example.handling,
            department: example.department,
            departments: prepared.departments.len(),
            products: example.products,
            scores: model.scores(&example.title, example.maker.as_deref(), true),
        }
    };
    of.iter().map(one).collect()
}

fn report(prepared: &Prepared, outcomes: &[Outcome], before: Before<'_>) -> Report {
    let departments = prepared.departments.len();
    let fold = |(fold, outcome): (u32, &Outcome)| {
        let policy = &outcome.policy;
        Fold {
            fold,
            scores: scores(&[(&outcome.judged, policy)]),
            review_above_risk: policy.calibration.review_above_risk,
            lenient_risk: policy.lenient_risk,
            handling_temperature: policy.calibration.handling_temperature,
            department_temperature: policy.calibration.department_temperature,
        }
    };
    let lenient: Vec<Policy> = outcomes.iter().map(|outcome| outcome.policy.lenient()).collect();
    let all: Vec<_> = outcomes.iter().map(|outcome| (outcome.judged.as_slice(), &outcome.policy)).collect();
    let leniently: Vec<_> = all.iter().zip(&lenient).map(|((judged, _), policy)| (*judged, policy)).collect();
    let names = Handling::ALL.map(|handling| handling.name().to_owned()).to_vec();
    let (mut handling, mut of_departments) = (Matrix::new(names), Matrix::new(prepared.departments.clone()));
    let (mut handling_bins, mut department_bins) = (Bin::all(), Bin::all());
    for (judged, policy) in &all {
        for of in *judged {
            let as_handled = handled(&of.scores, &policy.calibration);
            handling.add(of.handling, as_handled.class, of.products);
            Bin::add(&mut handling_bins, as_handled.confidence, as_handled.class == of.handling, of.products);
            if let Some(right) = of.department {
                let (class, confidence) = department(&of.scores, departments, &policy.calibration);
                of_departments.add(right, class, of.products);
                Bin::add(&mut department_bins, confidence, class == right, of.products);
            }
        }
    }
    Report {
        folds: (0..).zip(outcomes).map(fold).collect(),
        pooled: scores(&all),
        lenient: scores(&leniently),
        handling,
        departments: of_departments,
        handling_calibration: handling_bins,
        department_calibration: department_bins,
        trades: train::trades(&all),
        chain: chain(prepared, outcomes, before),
    }
}

fn chain(prepared: &Prepared, outcomes: &[Outcome], before: Before<'_>) -> ChainScores {
    let mut scores = ChainScores::default();
    for Outcome { held, judged, policy } in outcomes {
        for (example, of) in held.iter().zip(judged) {
            let ruled = before(&prepared.examples[*example].title);
            let handled = handled(&of.scores, &policy.calibration);
            let said = (handled.class, handled.is_held(&policy.calibration));
            let (class, review) = ruled.map_or(said, |(class, review)| (class as usize, review));
            let count = |counts: bool| if counts { of.products } else { 0 };
            scores.products += of.products;
            scores.by_rules += count(ruled.is_some());
            scores.rules_right += count(ruled.is_some() && class == of.handling);
            scores.right += count(class == of.handling);
            scores.held += count(review);
            scores.dangerous += count(DANGEROUS.contains(&of.handling));
            scores.passed += count(!review && of.is_missed(class));
        }
    }
    scores
}

const _: () = assert!(DEPARTMENTS == Handling::ALL.len());
