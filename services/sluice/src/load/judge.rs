//! The judge: reads acknowledged orders back through the public API until each is decided, and counts by id what became
//! of them. It believes nothing but the client's own list of acknowledgements and what any merchant could read.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::acks::{Ack, AckLog, format_id};
use super::config::{LoadConfig, LoadError, Verify};
use super::http::{Failure, Link, Reply, Target};
use super::orders::Merchant;
use super::progress::{Counters, Phase, Snapshot, add};
use super::sender::on_own_thread;
use super::tally::Latencies;
use super::view::{Class, OrderView, classify};

/// Connections that read back. Few: the orders that are still being worked on need the processor, too.
const CONNECTIONS: usize = 32;
/// The shortest pause between two readings of the same order. A reading of all that are left may take as much of the
/// time as the pause after it, so that the judge never takes more than half of it.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one reading may take; the server waits up to 2 s for a young order to become readable.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How to judge.
#[derive(Debug, Clone)]
pub struct JudgeConfig {
    /// The status API.
    pub target: Target,
    /// The merchants that the acknowledgements index.
    pub merchants: Vec<Merchant>,
    /// Which orders.
    pub verify: Verify,
    /// How long to wait for another order to be decided before the others are judged as they are.
    pub settle: Duration,
    /// Seed of the sample.
    pub seed: u64,
}

impl From<&LoadConfig> for JudgeConfig {
    fn from(config: &LoadConfig) -> Self {
        Self {
            target: config.target.clone(),
            merchants: config.merchants.clone(),
            verify: config.verify,
            settle: config.settle,
            seed: config.seed,
        }
    }
}

/// What became of acknowledged orders. Every judged order is in exactly one of the classes.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    /// Orders that were read back.
    pub judged: u64,
    /// Whether they are a sample.
    pub sampled: bool,
    /// Class [`Class::Finished`].
    pub finished: u64,
    /// Still undecided at the end.
    pub in_flight: u64,
    /// Class [`Class::DeadLettered`].
    pub dead_lettered: u64,
    /// Class [`Class::Cancelled`].
    pub cancelled: u64,
    /// Not found at the end, although acknowledged.
    pub lost: u64,
    /// Without a readable answer at the end.
    pub unread: u64,
    /// Acknowledgements whose id another order was given before.
    pub duplicate_ids: u64,
    /// Parcels whose id another parcel has.
    pub duplicate_parcels: u64,
    /// From placed by the customer to the last parcel taken by a carrier, of decided orders.
    pub carrier: Latencies,
    /// How long the API took to answer a reading.
    pub read: Latencies,
    /// Some ids of orders that are lost, in flight or unread, to look at.
    pub examples: Vec<String>,
    /// The first reading that failed, if any did.
    pub first_problem: Option<String>,
}

impl Judgement {
    /// Whether nothing is lost, doubled, undecided or unreadable.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost + self.in_flight + self.unread + self.duplicate_ids + self.duplicate_parcels == 0
    }
}

/// A judgement that is being made, on a thread of its own. Dropping it stops it.
#[derive(Debug)]
pub struct Judging {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    started: Instant,
    total: u64,
    judgement: oneshot::Receiver<Judgement>,
}

impl Judging {
    /// Starts to read back. The server needn't be up yet: an order counts as unread only at the end.
    ///
    /// # Errors
    /// [`LoadError::Connect`] if the server's name can't be resolved; [`LoadError::Start`].
    pub async fn start(config: JudgeConfig, acks: Arc<AckLog>) -> Result<Self, LoadError> {
        let authority = config.target.authority().to_owned();
        let address = config.target.resolve().await.map_err(|source| LoadError::Connect { authority, source })?;
        let counters = Arc::new(Counters::default());
        let total = match config.verify {
            Verify::All => acks.len(),
            Verify::Sample(size) => size.min(acks.len()),
        } as u64;
        let (done, judgement) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let shared = (Arc::clone(&stop), Arc::clone(&counters));
        on_own_thread("judge", move || async move {
            // Whoever wanted to know may have gone away.
            let _ = done.send(judge(&config, address, &acks, shared).await);
        })?;
        Ok(Self { stop, counters, started: Instant::now(), total, judgement })
    }

    /// How far it is.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.counters.snapshot(Phase::Judging, self.started.elapsed(), self.total)
    }

    /// Waits for the judgement. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`LoadError::Broken`] if the thread died.
    pub async fn finish(&mut self) -> Result<Judgement, LoadError> {
        (&mut self.judgement).await.map_err(|_| LoadError::Broken)
    }
}

impl Drop for Judging {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// What a reading of an order told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Decided,
    InFlight,
    NotFound,
    Failed,
}

struct Bench {
    authority: String,
    keys: Vec<String>,
    judgement: RefCell<Judgement>,
    /// To be read in this pass, and what couldn't be decided in it.
    queue: RefCell<VecDeque<Ack>>,
    undecided: RefCell<Vec<(Ack, Reading)>>,
    /// Fingerprints of all parcel ids, 8 bytes each.
    parcels: RefCell<Vec<u64>>,
    pause: Cell<Duration>,
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

type Shared = (Arc<AtomicBool>, Arc<Counters>);

async fn judge(config: &JudgeConfig, address: SocketAddr, acks: &AckLog, (stop, counters): Shared) -> Judgement {
    let wanted = match config.verify {
        Verify::All => acks.len(),
        Verify::Sample(size) => size,
    };
    let orders = acks.sample(wanted, config.seed);
    let bench = Rc::new(Bench {
        authority: config.target.authority().to_owned(),
        keys: config.merchants.iter().map(|merchant| merchant.key.clone()).collect(),
        judgement: RefCell::new(Judgement {
            judged: orders.len() as u64,
            sampled: orders.len() < acks.len(),
            duplicate_ids: repeated(orders.iter().map(Ack::id).collect()),
            ..Judgement::default()
        }),
        queue: RefCell::new(orders.into()),
        undecided: RefCell::default(),
        parcels: RefCell::default(),
        pause: Cell::new(PAUSE),
        stop,
        counters,
    });
    let mut last_progress = Instant::now();
    let mut done = 0;
    let mut links: Vec<Link> = (0..CONNECTIONS).map(|_| Link::to(address, &config.target)).collect();
    loop {
        let began = Instant::now();
        links = bench.pass(links).await;
        let undecided = bench.undecided.take();
        let pause = bench.pause.replace(PAUSE).max(began.elapsed());
        if bench.counters.done.load(Relaxed) > done {
            done = bench.counters.done.load(Relaxed);
            last_progress = Instant::now();
        }
        let left = config.settle.saturating_sub(last_progress.elapsed());
        if undecided.is_empty() || left.is_zero() || bench.stop.load(Relaxed) {
            return bench.close(&undecided);
        }
        // So that the last pass is at the deadline itself.
        tokio::time::sleep(pause.min(left)).await;
        bench.queue.borrow_mut().extend(undecided.into_iter().map(|(ack, _)| ack));
    }
}

impl Bench {
    /// Reads every queued order once.
    async fn pass(self: &Rc<Self>, links: Vec<Link>) -> Vec<Link> {
        let mut readers = JoinSet::new();
        for link in links {
            readers.spawn_local(Rc::clone(self).read_queued(link));
        }
        readers.join_all().await
    }

    async fn read_queued(self: Rc<Self>, mut link: Link) -> Link {
        let mut request = Vec::new();
        loop {
            if self.stop.load(Relaxed) {
                return link;
            }
            let Some(ack) = self.queue.borrow_mut().pop_front() else { return link };
            self.write_request(&ack, &mut request);
            let began = Instant::now();
            let reading = match link.exchange(&request, READ_TIMEOUT).await {
                Ok(reply) => {
                    self.judgement.borrow_mut().read.record(began.elapsed(), 1);
                    self.read(&ack, &reply)
                }
                Err(failure) => {
                    add(&self.counters.disconnects, 1);
                    let unreachable = matches!(failure, Failure::Connect(_));
                    self.problem(&ack, &failure.to_string());
                    self.undecided.borrow_mut().push((ack, Reading::Failed));
                    if unreachable {
                        // The next orders of this pass would find nobody either.
                        return link;
                    }
                    continue;
                }
            };
            if reading == Reading::Decided {
                add(&self.counters.done, 1);
            } else {
                self.undecided.borrow_mut().push((ack, reading));
            }
        }
    }

    fn write_request(&self, ack: &Ack, request: &mut Vec<u8>) {
        request.clear();
        request.extend_from_slice(b"GET /v1/orders/");
        request.extend_from_slice(&format_id(ack.id()));
        request.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        request.extend_from_slice(self.authority.as_bytes());
        request.extend_from_slice(b"\r\nauthorization: Bearer ");
        let key = self.keys.get(ack.merchant as usize).map_or("", String::as_str);
        request.extend_from_slice(key.as_bytes());
        request.extend_from_slice(b"\r\n\r\n");
    }

    fn read(&self, ack: &Ack, reply: &Reply<'_>) -> Reading {
        if let Some(pause) = reply.retry_after {
            self.pause.set(self.pause.get().max(pause));
        }
        match reply.status {
            200 => {}
            404 => return Reading::NotFound,
            429 | 503 => {
                add(&self.counters.refused, 1);
                return Reading::Failed;
            }
            status => {
                let body = String::from_utf8_lossy(reply.body);
                self.problem(ack, &format!("{status}: {}", body.trim()));
                return Reading::Failed;
            }
        }
        match serde_json::from_slice::<OrderView<'_>>(reply.body) {
            Ok(view) if view.id.as_bytes() == format_id(ack.id()) => self.count(&view),
            Ok(view) => {
                self.problem(ack, &format!("the answer is about order {}", view.id));
                Reading::Failed
            }
            Err(error) => {
                self.problem(ack, &format!("the order can't be read: {error}"));
                Reading::Failed
            }
        }
    }

    fn count(&self, view: &OrderView<'_>) -> Reading {
        let mut judgement = self.judgement.borrow_mut();
        match classify(view) {
            Class::InFlight => return Reading::InFlight,
            Class::Finished => judgement.finished += 1,
            Class::DeadLettered => judgement.dead_lettered += 1,
            Class::Cancelled => judgement.cancelled += 1,
        }
        if let Some(latency) = view.carrier_latency() {
            judgement.carrier.record(latency, 1);
        }
        let ids = view.parcels.iter().map(|parcel| fingerprint(parcel.id.as_bytes()));
        self.parcels.borrow_mut().extend(ids);
        Reading::Decided
    }

    fn problem(&self, ack: &Ack, text: &str) {
        let mut judgement = self.judgement.borrow_mut();
        if judgement.first_problem.is_none() {
            let text: String = text.chars().take(300).collect();
            let id = format_id(ack.id());
            judgement.first_problem = Some(format!("order {}: {text}", String::from_utf8_lossy(&id)));
        }
    }

    /// Counts what is still undecided, and what nobody got to read, as what it was found to be last.
    fn close(&self, undecided: &[(Ack, Reading)]) -> Judgement {
        let mut judgement = self.judgement.take();
        judgement.duplicate_parcels = repeated(self.parcels.take());
        let never_read: Vec<_> = self.queue.take().into_iter().map(|ack| (ack, Reading::Failed)).collect();
        for (ack, reading) in undecided.iter().chain(&never_read) {
            let count = match reading {
                Reading::Decided | Reading::Failed => &mut judgement.unread,
                Reading::InFlight => &mut judgement.in_flight,
                Reading::NotFound => &mut judgement.lost,
            };
            *count += 1;
            if judgement.examples.len() < 5 {
                let id = format_id(ack.id());
                judgement.examples.push(String::from_utf8_lossy(&id).into_owned());
            }
        }
        judgement
    }
}

/// How many values equal one before them.
fn repeated<T: Ord>(mut values: Vec<T>) -> u64 {
    values.sort_unstable();
    values.windows(2).filter(|pair| matches!(pair, [a, b] if a == b)).count() as u64
}

/// 64 bits of a parcel's id: among a million parcels, two that differ look alike once in 37 million runs.
fn fingerprint(id: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(id);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_counted() {
        assert_eq!(repeated(vec![3, 1, 2]), 0);
        assert_eq!(repeated(vec![3, 1, 3, 3, 1]), 3);
        assert_ne!(fingerprint(b"a"), fingerprint(b"b"));
    }

    #[test]
    fn a_judgement_is_clean_only_without_loss_doubling_or_doubt() {
        assert!(Judgement { finished: 3, dead_lettered: 1, cancelled: 1, ..Judgement::default() }.is_clean());
        for change in [
            |judgement: &mut Judgement| judgement.lost = 1,
            |judgement: &mut Judgement| judgement.in_flight = 1,
            |judgement: &mut Judgement| judgement.unread = 1,
            |judgement: &mut Judgement| judgement.duplicate_ids = 1,
            |judgement: &mut Judgement| judgement.duplicate_parcels = 1,
        ] {
            let mut judgement = Judgement::default();
            change(&mut judgement);
            assert!(!judgement.is_clean());
        }
    }
}
