//! The stage contract.

use crate::{
    batch::{BatchView, Rows},
    effects::Effects,
    health::CarrierHealth,
};

/// What a stage may know besides its input: values, taken once for the whole batch and the same on every replay of it.
#[derive(Debug)]
pub struct Ctx<'a> {
    /// The batch's time, ms since the epoch.
    pub now_ms: u64,
    /// What this node has measured of each carrier, by carrier number.
    pub carriers: &'a [CarrierHealth],
}

/// One step of the pipeline.
///
/// `apply` is synchronous and deterministic, and free of I/O, clock, randomness and spawning. All change goes to
/// `effects`; a bad order goes to [`Effects::reject`], never into an error. Applying a batch equals applying its inputs
/// one by one. A panic is caught: the batch is bisected and the poison order dead-lettered.
pub trait Stage: Send {
    /// Name in metrics and traces.
    fn name(&self) -> &'static str;

    /// Adds this stage's decisions about `batch` to `effects`, which already holds those of earlier stages about the
    /// same inputs. `rows` has, for each word, the order's row as of everything committed before this batch.
    fn apply(&self, ctx: &Ctx<'_>, rows: &Rows, batch: &BatchView<'_>, effects: &mut Effects);
}
