//! From a catalogue to a model: aggregate, fit, cut down to bytes, calibrate on texts that were held back, write.

mod catalogue;
mod fit;
mod policy;

pub use catalogue::{Catalogue, Product, TrainError};
pub use policy::{Policy, Trade};

pub(crate) use catalogue::{Example, FOLDS, Prepared};
pub(crate) use fit::STEPS;
pub(crate) use policy::trades;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sluice_domain::Handling;

use crate::{
    about::{About, Calibration, LAYOUT, Steps},
    error::ModelError,
    evaluate::{self, Judged, each_fold},
    judge::{DEPARTMENTS, LANES},
    model::{Model, encode},
};

/// How to train.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the catalogue, which the model states.
    pub name: String,
    /// The order in which examples are learned follows from it, and with the catalogue every byte of the file.
    pub seed: u64,
    /// Whether who made the goods counts.
    pub makers: bool,
}

/// Told how far the training is: steps done and all steps.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Trains on all of a catalogue, and gives the bytes of the model's file.
///
/// Five models of parts of the catalogue tell how sure the whole one may be, and how good it is on what it has not seen.
///
/// # Errors
/// [`TrainError`] if the catalogue doesn't do, or word vectors or model can't be written, which tests rule out.
pub fn train(catalogue: &Catalogue, options: &Options, progress: Progress<'_>) -> Result<Vec<u8>, TrainError> {
    let prepared = Prepared::new(catalogue, options.makers)?;
    let steps = (u64::from(FOLDS) + 1) * fit::STEPS;
    let done = AtomicU64::new(0);
    let tick = || progress(done.fetch_add(1, Relaxed) + 1, steps);
    let all: Vec<usize> = (0..prepared.examples.len()).collect();
    let parts = each_fold(|fold| held_back(&prepared, options, &all, |example| example.fold == fold, &tick))?;
    let policy = Policy::set(&parts);
    let draft = fit::fit(&prepared, &all, options.seed, &tick);
    let mut about = about(&prepared, options);
    about.calibration = policy.calibration;
    about.scores = Some(evaluate::scores(&[(&parts.concat(), &policy)]));
    Ok(write(&prepared, draft, about)?)
}

/// What a model that was trained on the other examples says about those `of` them that are held back.
pub(crate) fn held_back(
    prepared: &Prepared,
    options: &Options,
    of: &[usize],
    is_held: impl Fn(&Example) -> bool,
    tick: &(dyn Fn() + Sync),
) -> Result<Vec<Judged>, TrainError> {
    let (held, rest): (Vec<usize>, Vec<usize>) = of.iter().partition(|at| is_held(&prepared.examples[**at]));
    let model = part(prepared, options, &rest, tick)?;
    Ok(evaluate::judge(&model, prepared, &held))
}

/// A model of these examples alone, which has no policy yet.
pub(crate) fn part(
    prepared: &Prepared,
    options: &Options,
    of: &[usize],
    tick: &(dyn Fn() + Sync),
) -> Result<Model, TrainError> {
    let draft = fit::fit(prepared, of, options.seed, tick);
    let bytes = write(prepared, draft, about(prepared, options))?;
    Ok(Model::parse(&bytes)?)
}

fn about(prepared: &Prepared, options: &Options) -> About {
    About {
        layout: LAYOUT,
        data: options.name.clone(),
        rows: prepared.products,
        types: prepared.types,
        seed: options.seed,
        makers: options.makers,
        departments: prepared.departments.clone(),
        handling: Handling::ALL.map(|handling| handling.name().to_owned()).to_vec(),
        scores: None,
        calibration: Calibration::default(),
        steps: Steps { table: 1.0, vectors: 1.0 },
        bias: Vec::new(),
    }
}

/// Cuts a draft down to a signed byte a weight and writes the file.
fn write(prepared: &Prepared, draft: fit::Draft, mut about: About) -> Result<Vec<u8>, ModelError> {
    let lanes = DEPARTMENTS + prepared.departments.len();
    let step = |rows: &mut dyn Iterator<Item = &[f32; LANES]>| {
        let most = rows.flatten().fold(0f32, |most, value| most.max(value.abs()));
        if most > 0.0 { most / 127.0 } else { 1.0 }
    };
    about.steps = Steps {
        table: step(&mut draft.rows.iter().map(|(_, row)| row)),
        vectors: step(&mut draft.words.iter().map(|(_, row)| row)),
    };
    about.bias = draft.bias.iter().take(lanes).copied().collect();
    let cut = |row: &[f32; LANES], step: f32| row.map(|value| (value / step).round() as i8);
    let rows: Vec<_> = draft.rows.iter().map(|(place, row)| (*place, cut(row, about.steps.table))).collect();
    let rows: Vec<_> = rows.into_iter().filter(|(_, row)| row.iter().any(|value| *value != 0)).collect();
    let words: Vec<_> = draft.words.iter().map(|(word, row)| (word.as_str(), cut(row, about.steps.vectors))).collect();
    encode(&about, &words, &rows)
}
