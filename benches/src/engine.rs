//! The whole engine without HTTP: JSON bodies in; decode, journal with fdatasync, classify, split, route, outbox,
//! notifier, outcome, fold. Carriers are in the process and accept at once, so what is measured is Sluice.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use sluice_carrier::notifier::{Moment, Next, Notifier, NotifierConfig};
use sluice_carrier::routing::{CarrierRule, GroupSet, Route, Table};
use sluice_checkout::decode::{Context as Judged, Key, Scratch, decode};
use sluice_classify::{Chain, Classify, Rules};
use sluice_data::OrderWriter;
use sluice_domain::{Group, SlotCount};
use sluice_engine_embedded::{Engine, EngineConfig, FjallStore, RealDisk, Threads};
use sluice_pipeline::{
    Answer, BoxFuture, Clock, HealthBoard, Intake, Manifest, OutboxBatch, OutboxEntry, Outcomes, Receipt, Runner,
    ShipmentAnswer, Stage, Submission, Submitted,
};

/// What to run.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Orders in all.
    pub orders: u64,
    /// Two lines an order (about 450 B of JSON), or the real basket mix.
    pub two_lines: bool,
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

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn unparker() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// Orders as a storefront would send them, made once: bodies, the place of `placed_at` in each, and merchants.
struct Bodies {
    bytes: Vec<(String, usize, String)>,
}

impl Bodies {
    fn new(two_lines: bool, count: u64) -> Result<Self, Box<dyn std::error::Error>> {
        let (catalogue, baskets) = (sluice_data::catalogue()?, sluice_data::baskets()?);
        let writer = OrderWriter::new(&catalogue, &baskets)?;
        let mut bytes = Vec::new();
        for i in 0..count {
            let mut body = Vec::new();
            let basket = if two_lines {
                writer.write_two_line_order_json(i, 42, 0, &mut body)
            } else {
                writer.write_order_json(i as usize, 42, 0, &mut body);
                i as usize
            };
            let text = String::from_utf8(body)?;
            let at = text.find("1970-01-01T").ok_or("no placed_at in the body")?;
            bytes.push((text, at, writer.merchant(basket).to_owned()));
        }
        Ok(Self { bytes })
    }
}

const STAMP_LEN: usize = "1970-01-01T00:00:00.000Z".len();

fn stages(table: &Arc<Table>) -> Result<Vec<Box<dyn Stage>>, Box<dyn std::error::Error>> {
    let catalogue = Arc::new(sluice_data::catalogue()?);
    let chain = Arc::new(Chain::standard(catalogue, Rules::embedded()?));
    Ok(vec![Box::new(Classify::new(chain, table.weight_limits())), Box::new(Route::new(Arc::clone(table)))])
}

fn carriers() -> Result<Arc<Table>, Box<dyn std::error::Error>> {
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
    let mut runners = Vec::new();
    for partition in opened.partitions {
        runners.push(Runner::new(partition, stages(&table)?, Arc::clone(&health), clock.clone()));
    }
    let threads = Threads::start(&engine, runners, opened.checkpointer, |error| {
        let _ = error;
        std::process::abort();
    })?;
    let bodies = Bodies::new(work.two_lines, 20_000)?;
    let (next, json, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (started, cpu, written) = (Instant::now(), crate::measure::cpu(), crate::measure::written_bytes());
    let mut samples = Vec::new();
    thread::scope(|scope| {
        for _ in 0..work.producers {
            scope.spawn(|| produce(&engine, &bodies, &*clock, work.orders, &next, &json));
        }
        let notifying = scope.spawn(|| notify(&engine, &ids, work.carriers_down, &*clock, &stop));
        let step = (work.orders / 40).max(1);
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
            let done = if work.carriers_down == 0 { counts.finished + counts.dead_lettered } else { counts.accepted };
            if done >= work.orders {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        stop.store(true, Relaxed);
        notifying.thread().unpark();
    });
    let took = started.elapsed();
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

/// Orders in one submission.
const SUBMISSION: u64 = 1_000;
/// Submissions a producer leaves unanswered.
const WINDOW: usize = 16;

fn produce(engine: &Engine, bodies: &Bodies, clock: &dyn Clock, orders: u64, next: &AtomicU64, json: &AtomicU64) {
    let waker = unparker();
    let mut cx = Context::from_waker(&waker);
    let mut waiting = std::collections::VecDeque::new();
    let mut scratch = Scratch::default();
    let (mut body, mut key) = (String::new(), String::new());
    loop {
        let first = next.fetch_add(SUBMISSION, Relaxed);
        if first >= orders {
            break;
        }
        let mut submission = Submission::default();
        let now_ms = clock.now_ms();
        let stamp = stamp(now_ms);
        let mut bytes = 0;
        for sequence in first..(first + SUBMISSION).min(orders) {
            let (text, at, merchant) = &bodies.bytes[sequence as usize % bodies.bytes.len()];
            body.clear();
            body.push_str(&text[..*at]);
            body.push_str(&stamp);
            body.push_str(&text[*at + STAMP_LEN..]);
            key.clear();
            push_number(&mut key, sequence);
            bytes += body.len() as u64;
            let judged = Judged { merchant, slots: SlotCount::DEFAULT, now_ms, window_ms: 600_000 };
            let out = &mut submission.bytes;
            let Ok(decoded) = decode(&body, Key::Given(&key), &judged, &mut scratch, out) else {
                unreachable!("a generated order is a good order")
            };
            let (id, fingerprint, record) = (decoded.id, decoded.fingerprint, decoded.record);
            submission.orders.push(Submitted { id, fingerprint, record });
        }
        json.fetch_add(bytes, Relaxed);
        waiting.push_back(engine.submit(submission));
        if waiting.len() > WINDOW {
            settle(waiting.pop_front(), &mut cx);
        }
    }
    while !waiting.is_empty() {
        settle(waiting.pop_front(), &mut cx);
    }
}

fn settle(receipts: Option<BoxFuture<'_, Vec<Receipt>>>, cx: &mut Context<'_>) {
    let Some(mut receipts) = receipts else { return };
    loop {
        match receipts.as_mut().poll(cx) {
            Poll::Ready(all) => {
                assert!(all.iter().all(|r| *r == Receipt::Accepted), "an order was not accepted");
                return;
            }
            Poll::Pending => thread::park(),
        }
    }
}

fn push_number(out: &mut String, n: u64) {
    use std::fmt::Write;
    let _ = write!(out, "bench-{n:012}");
}

fn stamp(now_ms: u64) -> String {
    String::from_utf8_lossy(&sluice_http::rfc3339::format(now_ms)).into_owned()
}

/// Drives all notifiers on one thread; carriers accept every manifest at once.
fn notify(engine: &Engine, ids: &[Arc<str>], down: usize, clock: &dyn Clock, stop: &AtomicBool) {
    let waker = unparker();
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
