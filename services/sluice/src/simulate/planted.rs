//! Bugs put in on purpose. Each is what a wrong product would do, made by wrong wiring around the real components: the
//! judge must find every one of them, or its silence about the real product means nothing.

use std::{
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use sluice_domain::{Fingerprint, ShipmentId};
use sluice_engine_embedded::{Engine, Partition};
use sluice_pipeline::{
    Batch, BatchView, CommitError, Ctx, Effects, Index, Log, LogError, OutboxBatch, OutboxEntry, Rows, Stage,
    effects::{Decision, Route},
};
use sluice_schemas::delta::Item;

use super::goods::BRITTLE;

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The writer says that a group is durable when it is written and not yet synced.
    AckBeforeSync,
    /// A shipment that is sent again gets another shipment id.
    NewIdOnRetry,
    /// The carrier is called when the decision is made, not when it is committed.
    CallBeforeCommit,
    /// A commit that is refused leaves its orders in the duplicate index.
    IndexSurvivesAbort,
    /// The status is that of the latest event.
    StatusRegresses,
    /// Splitting forgets the last item of a parcel that has several.
    SplitDropsItem,
    /// A call whose end nobody knows counts as the carrier's final no.
    TimeoutIsReject,
    /// Checksums are not looked at.
    SkippedChecksum,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 8] = [
        Self::AckBeforeSync,
        Self::NewIdOnRetry,
        Self::CallBeforeCommit,
        Self::IndexSurvivesAbort,
        Self::StatusRegresses,
        Self::SplitDropsItem,
        Self::TimeoutIsReject,
        Self::SkippedChecksum,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::NewIdOnRetry => "new-id-on-retry",
            Self::CallBeforeCommit => "call-before-commit",
            Self::IndexSurvivesAbort => "index-survives-abort",
            Self::StatusRegresses => "status-regresses",
            Self::SplitDropsItem => "split-drops-item",
            Self::TimeoutIsReject => "timeout-is-reject",
            Self::SkippedChecksum => "skipped-checksum",
        }
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|bug| bug.name() == name).ok_or_else(|| format!("expected one of {}", names()))
    }
}

/// A partition as its Runner drives it; with [`Planted::IndexSurvivesAbort`] an abort takes back too little.
pub(super) struct Owned {
    pub(super) partition: Partition,
    pub(super) engine: Engine,
    pub(super) leaks: bool,
}

impl Log for Owned {
    fn poll(&mut self, batch: &mut Batch) -> Result<(), LogError> {
        self.partition.poll(batch)
    }

    fn index(&mut self) -> &mut Index {
        self.partition.index()
    }

    fn spilled(&mut self, fingerprint: Fingerprint) -> Result<Option<u64>, LogError> {
        self.partition.spilled(fingerprint)
    }

    fn order_at(&mut self, position: u64, out: &mut Vec<u8>) -> Result<(), LogError> {
        self.partition.order_at(position, out)
    }

    fn is_gone(&self, position: u64) -> bool {
        self.partition.is_gone(position)
    }

    fn rows(&mut self, batch: &BatchView<'_>, rows: &mut Rows) -> Result<(), LogError> {
        self.partition.rows(batch, rows)
    }

    fn commit(
        &mut self,
        batch: &BatchView<'_>,
        effects: &Effects,
        positions: &mut Vec<u64>,
    ) -> Result<(), CommitError> {
        let done = self.partition.commit(batch, effects, positions);
        if self.leaks && matches!(done, Err(CommitError::Refused(_))) {
            // Where they would have been.
            let position = self.engine.journal().appended();
            for (_, meta) in batch.placed_metas() {
                self.partition.index().insert(meta.fingerprint, position);
            }
        }
        done
    }
}

/// Panics over goods that no stage was made for, as a stage with a bug would; else it is the stage within.
pub(super) struct Brittle<S>(pub(super) S);

impl<S: Stage> Stage for Brittle<S> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn apply(&self, ctx: &Ctx<'_>, rows: &Rows, batch: &BatchView<'_>, effects: &mut Effects) {
        for (_, order) in batch.placed() {
            let Ok(order) = order else { continue };
            if order.lines().any(|line| line.is_ok_and(|line| line.sku == BRITTLE)) {
                // Unlike `panic!` this says nothing on standard error.
                std::panic::resume_unwind(Box::new("brittle goods"));
            }
        }
        self.0.apply(ctx, rows, batch, effects);
    }
}

/// With the bug on, forgets the last item of a parcel that has several.
pub(super) struct Dropping<S> {
    pub(super) stage: S,
    pub(super) drops: bool,
}

impl<S: Stage> Stage for Dropping<S> {
    fn name(&self) -> &'static str {
        self.stage.name()
    }

    fn apply(&self, ctx: &Ctx<'_>, rows: &Rows, batch: &BatchView<'_>, effects: &mut Effects) {
        if !self.drops {
            return self.stage.apply(ctx, rows, batch, effects);
        }
        let mut whole = Effects::default();
        self.stage.apply(ctx, rows, batch, &mut whole);
        effects.rules = whole.rules;
        for (input, decision) in whole.decisions() {
            let input = *input as usize;
            match decision {
                Decision::Classified { parcels, anew } => {
                    match anew {
                        Some(replayed) => effects.classified_anew(input, *replayed),
                        None => effects.classified(input),
                    }
                    for parcel in parcels.clone().map(|index| whole.parcel(index)) {
                        let mut items: Vec<Item> = whole.items(parcel).iter().collect();
                        if items.len() > 1 {
                            items.pop();
                        }
                        effects.add_parcel(parcel.group, parcel.weight, &items);
                    }
                }
                Decision::Rejected { reason, replay } => effects.reject_anew(input, whole.text(reason), *replay),
                Decision::Settled { .. } | Decision::Commanded { .. } => {}
                Decision::Tracked { resolves } => effects.track(input, *resolves),
            }
        }
    }
}

/// A call to be made at once.
#[derive(Debug)]
pub(super) struct EarlyCall {
    pub(super) carrier: u16,
    pub(super) shipments: OutboxBatch,
}

/// Calls of [`Eager`] that wait for the owner's step to end.
pub(super) type EarlyCalls = Arc<Mutex<Vec<EarlyCall>>>;

/// With the bug on, has the carrier called as soon as the stage within has decided.
pub(super) struct Eager<S> {
    pub(super) stage: S,
    pub(super) calls: Option<EarlyCalls>,
}

impl<S: Stage> Stage for Eager<S> {
    fn name(&self) -> &'static str {
        self.stage.name()
    }

    fn apply(&self, ctx: &Ctx<'_>, rows: &Rows, batch: &BatchView<'_>, effects: &mut Effects) {
        self.stage.apply(ctx, rows, batch, effects);
        let Some(calls) = &self.calls else { return };
        let mine = |input: u32| batch.range().contains(&(input as usize));
        for parcel in effects.parcels().iter().filter(|p| p.attempt == 0 && mine(p.input)) {
            let Route::Carrier(carrier) = parcel.route else { continue };
            let input = parcel.input as usize;
            let order = batch.meta(input).order;
            let mut shipments = OutboxBatch::default();
            shipments.bytes.extend_from_slice(batch.record(input));
            let record = 0..shipments.bytes.len();
            effects.items(parcel).encode_again(&mut shipments.bytes);
            shipments.entries.push(OutboxEntry {
                position: 0,
                shipment: ShipmentId { order, parcel: parcel.number, attempt: 0 },
                group: parcel.group,
                weight: parcel.weight,
                maybe_sent: false,
                items: record.end..shipments.bytes.len(),
                record,
            });
            calls.lock().unwrap_or_else(PoisonError::into_inner).push(EarlyCall { carrier, shipments });
        }
    }
}
