//! One life of the process: an open engine and everything that works on it. It ends with a crash, or because a part of
//! it failed and nothing may go on.

use std::sync::{Arc, PoisonError};

use sluice_carrier::{
    notifier::{Notifier, NotifierConfig},
    routing::{self, Table},
};
use sluice_classify::Classify;
use sluice_engine_embedded::{Checkpointer, Engine, Opened};
use sluice_pipeline::{Clock, HealthBoard, Runner, Stage};

use super::{
    courier::Courier,
    goods::Goods,
    planted::{Brittle, Dropping, Eager, EarlyCall, EarlyCalls, Owned, Planted},
    writer::Writer,
};

/// See the module. A part that failed is `None` from then on.
pub(super) struct Life {
    pub(super) engine: Engine,
    pub(super) health: Arc<HealthBoard>,
    pub(super) owners: Vec<Option<Runner<Owned>>>,
    pub(super) writer: Option<Writer>,
    pub(super) checkpointer: Option<Checkpointer>,
    pub(super) couriers: Vec<Option<Courier>>,
    /// Steps until the process ends, once a part has failed.
    pub(super) steps_left: Option<u64>,
    early: EarlyCalls,
}

/// What every life is begun with.
pub(super) struct Wiring<'a> {
    pub(super) goods: &'a Goods,
    pub(super) table: &'a Arc<Table>,
    pub(super) notifiers: &'a [NotifierConfig],
    pub(super) clock: Arc<dyn Clock>,
    pub(super) planted: Option<Planted>,
    /// Decides the notifiers' jitter.
    pub(super) seed: u64,
}

impl Life {
    /// A life over what was opened.
    pub(super) fn new(opened: Opened, wiring: &Wiring<'_>) -> Self {
        let Opened { engine, partitions, checkpointer, .. } = opened;
        let has = |bug| wiring.planted == Some(bug);
        let health = Arc::new(HealthBoard::new(wiring.notifiers.len()));
        let early = EarlyCalls::default();
        let stages = || -> Vec<Box<dyn Stage>> {
            let classify = Classify::new(Arc::clone(&wiring.goods.knowledge), wiring.table.weight_limits());
            let classify = Dropping { stage: Brittle(classify), drops: has(Planted::SplitDropsItem) };
            let calls = has(Planted::CallBeforeCommit).then(|| Arc::clone(&early));
            let route = Eager { stage: routing::Route::new(Arc::clone(wiring.table)), calls };
            vec![Box::new(classify), Box::new(route)]
        };
        let owner = |partition| {
            let log = Owned { partition, engine: engine.clone(), leaks: has(Planted::IndexSurvivesAbort) };
            Some(Runner::new(log, stages(), Arc::clone(&health), Arc::clone(&wiring.clock)))
        };
        let courier = |(number, config): (usize, &NotifierConfig)| {
            let number = number as u16;
            let notifier = Notifier::new(config.clone(), wiring.seed ^ u64::from(number));
            Some(Courier::new(number, notifier, engine.outbox(number)))
        };
        Self {
            owners: partitions.into_iter().map(owner).collect(),
            couriers: wiring.notifiers.iter().enumerate().map(courier).collect(),
            writer: Some(Writer::new(wiring.clock.monotonic_us(), has(Planted::AckBeforeSync))),
            checkpointer: Some(checkpointer),
            steps_left: None,
            health,
            early,
            engine,
        }
    }

    /// Calls that a planted bug wants made at once.
    pub(super) fn take_early_calls(&self) -> Vec<EarlyCall> {
        std::mem::take(&mut *self.early.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A part has failed: the process ends within a few steps.
    pub(super) fn fail(&mut self, steps: u64) {
        self.steps_left.get_or_insert(steps);
    }

    /// When time alone gives any part of it something to do, µs.
    pub(super) fn wakes_at_us(&self) -> impl Iterator<Item = u64> + '_ {
        let couriers = self.couriers.iter().flatten().filter_map(Courier::wakes_at_us);
        couriers.chain(self.writer.as_ref().and_then(Writer::wakes_at_us))
    }

    /// Why it may not be at rest, for a person.
    pub(super) fn describe(&self) -> String {
        let engine = &self.engine;
        let mut text = format!(
            "queues idle: {}, writer idle: {}, journal: {} durable of {}, trouble {:?}",
            engine.is_idle(),
            self.writer.as_ref().is_some_and(Writer::is_idle),
            engine.journal().durable(),
            engine.journal().appended(),
            engine.journal().trouble(),
        );
        for courier in self.couriers.iter().flatten() {
            text.push_str("; ");
            text.push_str(&courier.describe());
        }
        text
    }
}
