//! One run: a computer, carriers and clients that outlive every crash, and the process that doesn't.

use std::{
    collections::BTreeSet,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use sluice_carrier::{notifier::NotifierConfig, routing::Table};
use sluice_domain::{OrderId, ShipmentId, invariants::Invariant};
use sluice_engine_embedded::{Engine, EngineConfig};
use sluice_pipeline::{Answer, LogError, Manifest, Orders, OutboxBatch, StoredOrder};
use sluice_sim::{
    Chance, DiskFaults, FaultPlan, Ledger, Machine, Oracle, Rng, SimCarrier, StoreFaults, Trace, Violation,
    oracle::{Counts, Rot},
    plan::START_MS,
};

use super::{
    Options, Planted,
    clients::Clients,
    crash::Crashes,
    goods::Goods,
    life::Life,
    looks::{Looks, broken},
    merchants::Merchants,
    report::Tally,
    sizes,
    steps::Schedule,
};

/// Of the calls to carriers, every so manyth is held against what is durable at that moment.
const CHECKED_CALLS: u64 = 16;
/// Added to the attempt's number by the bug that gives a retry another id.
const OTHER_ID: u8 = 100;

/// See the module.
pub(super) struct World {
    pub(super) plan: FaultPlan,
    pub(super) goods: Arc<Goods>,
    pub(super) planted: Option<Planted>,
    pub(super) trace: Trace,
    pub(super) machine: Machine,
    pub(super) carriers: Vec<SimCarrier>,
    pub(super) table: Arc<Table>,
    pub(super) notifiers: Vec<NotifierConfig>,
    /// In this life, and in the first.
    pub(super) config: EngineConfig,
    pub(super) first_config: EngineConfig,
    pub(super) oracle: Oracle,
    pub(super) clients: Clients,
    pub(super) merchants: Merchants,
    pub(super) looks: Looks,
    pub(super) life: Option<Life>,
    pub(super) crashes: Crashes,
    pub(super) schedule: Schedule,
    pub(super) rng: Rng,
    /// Every order sent so far.
    pub(super) ids: Vec<OrderId>,
    pub(super) healed: bool,
    /// Damage planted while work went on.
    pub(super) rot: Option<Rot>,
    /// It was met and named: there is nothing more to see.
    pub(super) rot_named: bool,
    pub(super) tally: Tally,
    /// Shipments that carriers were asked for, for the bug that needs to know.
    told: BTreeSet<ShipmentId>,
}

impl World {
    /// The world of `plan`, before the first step.
    pub(super) fn new(plan: FaultPlan, options: &Options, trace: Trace) -> Self {
        let mut config = sizes::engine(&plan);
        let plan = sizes::forgiving(plan, &config);
        config.journal.verify = options.planted != Some(Planted::SkippedChecksum);
        let disk = DiskFaults { capacity: sizes::capacity(&plan, config.journal.segment_bytes), ..plan.disk.clone() };
        let machine = Machine::new(START_MS, disk, plan.store.clone(), &plan.rng("machine"), trace.clone());
        let goods = Arc::clone(&options.goods);
        let judge = Arc::clone(&goods);
        let carrier = |profile: &sluice_sim::CarrierProfile| {
            SimCarrier::new(profile.clone(), &plan.rng("carriers"), trace.clone())
        };
        let newest_wins = options.planted == Some(Planted::StatusRegresses);
        Self {
            carriers: plan.carriers.iter().map(carrier).collect(),
            // The table is drawn within the bounds that it checks.
            table: Arc::new(sizes::table(&plan).unwrap_or_else(|error| unreachable!("{error}"))),
            notifiers: sizes::notifiers(&plan),
            oracle: Oracle::new(Box::new(move |line| judge.group_of(line)), config.retention.is_on()),
            clients: Clients::new(&plan, Arc::clone(&goods), &config),
            merchants: Merchants::new(&plan),
            looks: Looks::new(2 * plan.workload.orders, newest_wins, config.retention.is_on()),
            life: None,
            crashes: Crashes::new(&plan),
            schedule: Schedule::new(&plan),
            rng: plan.rng("scheduler"),
            ids: Vec::new(),
            healed: false,
            rot: None,
            rot_named: false,
            tally: Tally::default(),
            told: BTreeSet::new(),
            planted: options.planted,
            plan,
            goods,
            trace,
            machine,
            first_config: config.clone(),
            config,
        }
    }

    /// What it went through so far.
    pub(super) fn tally(&self) -> Tally {
        let calls = self.carriers.iter().map(|c| c.ledger().calls.len() as u64).sum();
        Tally { calls, orders: u64::from(self.clients.sent()), ..self.tally }
    }

    /// Everything, from the empty disk to the last judgement.
    pub(super) fn run(&mut self) -> Result<(), Violation> {
        for line in self.plan.describe().lines() {
            self.trace.line(format_args!("{line}"));
        }
        self.recover()?;
        self.work()?;
        self.heal();
        self.rest()?;
        if self.rot_named {
            self.tally.rot_found += 1;
            return Ok(());
        }
        self.judge_at_rest()?;
        // What is at rest must still be there after one more loss of power.
        self.crash(true)?;
        if self.rot_named {
            self.tally.rot_found += 1;
            return Ok(());
        }
        self.rest()?;
        self.judge_at_rest()?;
        self.check_rot()
    }

    /// From now on nothing fails.
    fn heal(&mut self) {
        self.trace.line(format_args!("everything is healed"));
        self.healed = true;
        self.machine.heal();
        self.carriers.iter_mut().for_each(SimCarrier::heal);
        self.looks.end();
    }

    fn judge_at_rest(&mut self) -> Result<(), Violation> {
        let counts = self.judge()?;
        self.tally.acknowledged = counts.acknowledged as u64;
        self.tally.finished = (counts.finished + counts.cancelled) as u64;
        self.tally.dead_lettered = counts.dead_lettered as u64;
        self.tally.replayed = counts.replayed as u64;
        self.tally.reviewed = counts.reviewed as u64;
        self.tally.parked = counts.parked as u64;
        self.oracle.at_rest()?;
        let Some(life) = &self.life else { return Ok(()) };
        let (told, retired) = (life.engine.counts(), life.engine.retired());
        self.tally.retired = retired;
        // In which class an order was that is gone nobody knows any more; but none was in flight.
        let over = |finished, dead_lettered| {
            if retired > 0 { (finished + dead_lettered, 0) } else { (finished, dead_lettered) }
        };
        let told = (told.accepted, over(told.finished, told.dead_lettered), told.in_flight);
        let finished = (counts.finished + counts.cancelled) as u64 + retired;
        let found =
            (counts.stored as u64 + retired, over(finished, counts.dead_lettered as u64), counts.in_flight as u64);
        if told != found || counts.retired as u64 > retired {
            let what = format!(
                "accepted, (finished, dead-lettered), in flight: counted {told:?}, there are {found:?} with {retired} that are gone"
            );
            return broken(Invariant::Conservation, what);
        }
        Ok(())
    }

    /// Holds every order against what clients and carriers know. Nothing may be on its way to the journal.
    pub(super) fn judge(&mut self) -> Result<Counts, Violation> {
        let Some(life) = &self.life else { return Ok(Counts::default()) };
        self.machine.sim_store().set_faults(StoreFaults::default());
        let (engine, looks, tally) = (&life.engine, &mut self.looks, &mut self.tally);
        let ledgers: Vec<&Ledger> = self.carriers.iter().map(SimCarrier::ledger).collect();
        let mut shown = Ok(());
        let counts = self.oracle.judge(&ledgers, &mut |id| {
            let stored = read_now(engine, id)?;
            tally.looks += 1;
            if shown.is_ok() {
                shown = looks.judged(id, stored.as_ref());
            }
            Ok(stored)
        })?;
        shown?;
        if !self.healed {
            self.machine.sim_store().set_faults(self.plan.store.clone());
        }
        self.trace.line(format_args!("judged: {counts:?}"));
        Ok(counts)
    }

    /// The carriers' time, ms since the epoch: it knows nothing of the steps of this computer's clock.
    pub(super) fn carriers_now_ms(&self) -> u64 {
        START_MS + self.now_us() / 1_000
    }

    /// µs on the monotonic clock.
    pub(super) fn now_us(&self) -> u64 {
        self.machine.clock().monotonic_us()
    }

    /// ms on this computer's wall clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.machine.clock().now_ms()
    }

    /// Calls a carrier; gives when the answer is heard (µs) and what it is.
    pub(super) fn call(&mut self, number: u16, manifest: &Manifest) -> Result<(u64, Answer), Violation> {
        if self.rng.below(CHECKED_CALLS) == 0 {
            self.check_call(number, manifest)?;
        }
        let now_ms = self.carriers_now_ms();
        let disguised = if self.planted == Some(Planted::NewIdOnRetry) { self.disguise(manifest) } else { None };
        let carrier = &mut self.carriers[usize::from(number)];
        let (delay_ms, answer) = carrier.ask(disguised.as_ref().unwrap_or(manifest), now_ms);
        let answer = match answer {
            Answer::Ambiguous(why) if self.planted == Some(Planted::TimeoutIsReject) => {
                let refused = |shipment| sluice_pipeline::ShipmentAnswer { shipment, outcome: Err(why.clone()) };
                Answer::Results(manifest.shipments.entries.iter().map(|e| refused(e.shipment)).collect())
            }
            Answer::Results(mut results) if disguised.is_some() => {
                results.iter_mut().for_each(|r| r.shipment.attempt %= OTHER_ID);
                Answer::Results(results)
            }
            answer => answer,
        };
        Ok((self.now_us() + 1_000 * delay_ms, answer))
    }

    /// The manifest with other ids for what was sent before.
    fn disguise(&mut self, manifest: &Manifest) -> Option<Manifest> {
        let mut entries = manifest.shipments.entries.clone();
        for entry in &mut entries {
            if !self.told.insert(entry.shipment) {
                entry.shipment.attempt += OTHER_ID;
            }
        }
        let shipments = OutboxBatch { bytes: manifest.shipments.bytes.clone(), entries };
        Some(Manifest { id: manifest.id.clone(), expires_at_ms: manifest.expires_at_ms, shipments })
    }

    /// Whether what `manifest` asks for is decided in what would be left if the power failed now.
    fn check_call(&mut self, number: u16, manifest: &Manifest) -> Result<(), Violation> {
        let (disk, store) = (self.machine.sim_disk().durable_copy(), self.machine.sim_store().durable_copy());
        let opened = Engine::open(self.config.clone(), Arc::new(disk), Arc::new(store), self.machine.clock());
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return self.excuse(&error),
        };
        let shipments: Vec<ShipmentId> = manifest.shipments.entries.iter().map(|e| e.shipment).collect();
        let carrier = self.carriers[usize::from(number)].profile().name.clone();
        self.oracle.may_call(&carrier, &shipments, &mut |id| read_now(&opened.engine, id))
    }

    /// Whether a fault of a device explains `error`.
    pub(super) fn excuse(&mut self, error: &LogError) -> Result<(), Violation> {
        let text = error.to_string();
        match error {
            LogError::Damaged { .. } => {
                self.rot_named = self.rot.is_some();
                self.oracle.opened(Err(error), self.rot.as_ref())
            }
            LogError::Closed => Ok(()),
            _ if text.contains("the device failed") || text.contains("the power is off") => Ok(()),
            _ => broken(Invariant::DurableBeforeAck, format!("the engine stopped though no device failed: {text}")),
        }
    }

    /// True with chance `chance`, unless everything is healed.
    pub(super) fn hits(&mut self, chance: Chance) -> bool {
        self.rng.hits(chance) && !self.healed
    }
}

/// Reads an order at a moment when nothing is on its way to the journal.
fn read_now(engine: &Engine, id: OrderId) -> Result<Option<StoredOrder>, LogError> {
    match engine.read(id).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(stored) => stored,
        Poll::Pending => Err(LogError::Store("a read waits though everything is durable".to_owned())),
    }
}
