//! The whole engine without HTTP: JSON bodies in; decode, journal with fdatasync, classify, split, route, outbox,
//! notifier, outcome, fold. Carriers are in the process and accept at once, so what is measured is Sluice.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use sluice_carrier::notifier::{Moment, Next, Notifier, NotifierConfig};
use sluice_carrier::routing::{CarrierRule, GroupSet, Route, Table};
use sluice_classify::{ByModel, Chain, Classify, Knowledge, Review, Rules, usual_weights};
use sluice_domain::Group;
use sluice_engine_embedded::{Engine, EngineConfig, FjallStore, RealDisk, Threads};
use sluice_goods::Model;
use sluice_pipeline::{
    Answer, Clock, HealthBoard, Manifest, OutboxBatch, OutboxEntry, Outcomes, Runner, ShipmentAnswer, Stage,
};

use crate::orders;

/// What to run.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Orders in all.
    pub orders: u64,
    /// Two lines an order (about 450 B of JSON), or the real basket mix.
    pub two_lines: bool,
    /// Of every so manyth line the catalogue doesn't know the SKU; rules and the model judge its title.
    pub unknown_every: Option<u64>,
    /// Carriers that never answer.
    pub carriers_down: usize,
    /// Owners.
    pub partitions: u16,
    /// Threads that decode and submit.
    pub producers: u64,
    /// Bytes of journal between two checkpoints.
    pub checkpoint_bytes: u64,
}

/// A point of the cost curve.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Sample {
    /// Orders done.
    pub orders: u64,
    /// Since the start.
    pub seconds: f64,
    /// CPU of all threads since the start.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Wall time until the last order was finished.
    pub took: Duration,
    /// CPU of all threads.
    pub cpu: Duration,
    /// Bytes given to the device by the process.
    pub written_bytes: u64,
    /// Bytes of them in the journal.
    pub journal_bytes: u64,
    /// Checkpoints taken.
    pub checkpoints: u64,
    /// Mean bytes of JSON an order.
    pub json_bytes: f64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// Highest resident memory.
    pub peak_rss_bytes: u64,
    /// The cost curve.
    pub samples: Vec<Sample>,
}

/// System time.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// A clock that starts now.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn monotonic_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// When nothing has moved for so long, nothing will.
const QUIET: Duration = Duration::from_millis(200);

/// The classifiers, for all stages to share.
pub fn knowledge() -> Result<Arc<Knowledge>, Box<dyn std::error::Error>> {
    let (catalogue, rules) = (Arc::new(sluice_data::catalogue()?), Arc::new(Rules::embedded()?));
    let model = ByModel::new(Arc::new(Model::embedded()?), usual_weights(&catalogue), Review::AsTrained);
    let chain = Chain::standard(catalogue, Arc::default(), rules).with_model(Box::new(model));
    Ok(Arc::new(Knowledge::new(chain)))
}

/// The stages of one owner.
pub fn stages(knowledge: &Arc<Knowledge>, table: &Arc<Table>) -> Vec<Box<dyn Stage>> {
    vec![Box::new(Classify::new(Arc::clone(knowledge), table.weight_limits())), Box::new(Route::new(Arc::clone(table)))]
}

/// Four carriers that take everything.
pub fn carriers() -> Result<Arc<Table>, Box<dyn std::error::Error>> {
    let rules =
        ["swift", "steady", "value", "metro"].map(|id| CarrierRule::new(id, GroupSet::of(&Group::ALL))).to_vec();
    Ok(Arc::new(Table::new(1, rules)?))
}

/// Runs `work` in `folder`.
///
/// # Errors
/// Whatever goes wrong.
pub fn run(
    folder: &Path,
    work: &Workload,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Outcome, Box<dyn std::error::Error>> {
    let clock = SystemClock::new();
    let table = carriers()?;
    let ids: Vec<Arc<str>> = ["swift", "steady", "value", "metro"].map(Arc::from).to_vec();
    let mut config = EngineConfig::new(ids.clone());
    config.partitions = work.partitions;
    config.checkpoint_bytes = work.checkpoint_bytes;
    let disk = Arc::new(RealDisk::open(&folder.join("journal"))?);
    let store = Arc::new(FjallStore::open(&folder.join("store"))?);
    let opened = Engine::open(config, disk, store, clock.clone())?;
    let engine = opened.engine;
    let health = Arc::new(HealthBoard::new(ids.len()));
    let (mut runners, knowledge) = (Vec::new(), knowledge()?);
    for partition in opened.partitions {
        runners.push(Runner::new(partition, stages(&knowledge, &table), Arc::clone(&health), clock.clone()));
    }
    let threads = Threads::start(&engine, runners, opened.checkpointer, |error| {
        let _ = error;
        std::process::abort();
    })?;
    let bodies = orders::Bodies::new(work.two_lines, 20_000, work.unknown_every)?;
    let (next, json, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (started, cpu, written) = (Instant::now(), crate::measure::cpu(), crate::measure::written_bytes());
    let (mut samples, mut ended) = (Vec::new(), started);
    thread::scope(|scope| {
        for _ in 0..work.producers {
            scope.spawn(|| orders::produce(&engine, &bodies, &*clock, work.orders, &next, &json));
        }
        let notifying = scope.spawn(|| notify(&engine, &ids, work.carriers_down, &*clock, &stop));
        let step = (work.orders / 40).max(1);
        let mut last = engine.counts();
        loop {
            let counts = engine.counts();
            progress(counts.accepted);
            if counts.accepted >= (samples.len() as u64 + 1) * step {
                samples.push(Sample {
                    orders: counts.accepted,
                    seconds: started.elapsed().as_secs_f64(),
                    cpu_seconds: (crate::measure::cpu() - cpu).as_secs_f64(),
                    rss_bytes: crate::measure::rss_bytes(),
                });
            }
            if counts != last {
                (last, ended) = (counts, Instant::now());
            }
            let done = if work.carriers_down == 0 { counts.finished + counts.dead_lettered } else { counts.accepted };
            // Orders with goods that nobody knows wait for a person: all that will move has moved.
            let quiet = work.unknown_every.is_some() && ended.elapsed() > QUIET;
            if done >= work.orders || counts.accepted >= work.orders && quiet {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        stop.store(true, Relaxed);
        notifying.thread().unpark();
    });
    let took = ended.duration_since(started);
    let outcome = Outcome {
        took,
        cpu: crate::measure::cpu() - cpu,
        written_bytes: crate::measure::written_bytes() - written,
        journal_bytes: engine.journal().written_bytes(),
        checkpoints: engine.checkpoints(),
        json_bytes: json.load(Relaxed) as f64 / work.orders as f64,
        rss_bytes: crate::measure::rss_bytes(),
        peak_rss_bytes: crate::measure::peak_rss_bytes(),
        samples,
    };
    threads.join();
    Ok(outcome)
}

/// Drives all notifiers on one thread; carriers accept every manifest at once.
fn notify(engine: &Engine, ids: &[Arc<str>], down: usize, clock: &dyn Clock, stop: &AtomicBool) {
    let waker = orders::unparker();
    let mut cx = Context::from_waker(&waker);
    let mut lanes: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(n, id)| (engine.outbox(n as u16), Notifier::new(NotifierConfig::new(Arc::clone(id), true), n as u64)))
        .collect();
    let mut batch = OutboxBatch::default();
    while !stop.load(Relaxed) {
        let mut busy = false;
        let mut wait = Duration::from_millis(20);
        for (n, (outbox, notifier)) in lanes.iter_mut().enumerate() {
            let room = notifier.room();
            if room > 0 {
                batch.bytes.clear();
                batch.entries.clear();
                if let Poll::Ready(taken) = outbox.poll_entries(&mut cx, room, &mut batch) {
                    taken.unwrap_or_else(|e| unreachable!("{e}"));
                    notifier.push(&batch, Moment::of(clock));
                    busy = true;
                }
            }
            loop {
                let now = Moment::of(clock);
                match notifier.next(now, u64::MAX) {
                    Next::Send(call, manifest) => {
                        let answer = if n < down { Answer::NotSent("down".into()) } else { accept(&manifest) };
                        notifier.answered(call, answer, now);
                        busy = n >= down;
                    }
                    Next::WaitUntil(at_us) => {
                        wait = wait.min(Duration::from_micros(at_us.saturating_sub(now.mono_us).max(100)));
                        break;
                    }
                    _ => break,
                }
            }
            notifier.hand_over(|reports| engine.report(&mut cx, reports));
            if let Some(position) = notifier.settled_position() {
                outbox.settled(position);
            }
        }
        if !busy {
            thread::park_timeout(wait);
        }
    }
}

/// Every shipment taken, with a number of the S10 kind made from its order's hash.
fn accept(manifest: &Manifest) -> Answer {
    let one = |entry: &OutboxEntry| {
        let hash = entry.shipment.order.hash64();
        let serial = (hash ^ u64::from(entry.shipment.parcel)) % 100_000_000;
        let digit = |place: u32| serial / 10u64.pow(7 - place) % 10;
        let weighted: u64 = (0..8).zip([8, 6, 4, 2, 3, 5, 9, 7]).map(|(p, w)| digit(p) * w).sum();
        let check = match 11 - weighted % 11 {
            10 => 0,
            11 => 5,
            n => n,
        };
        ShipmentAnswer { shipment: entry.shipment, outcome: Ok(format!("LX{serial:08}{check}US")) }
    };
    Answer::Results(manifest.shipments.entries.iter().map(one).collect())
}
