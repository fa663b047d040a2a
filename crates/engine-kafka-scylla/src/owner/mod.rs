//! The owners: threads that decide on orders, each with its share of the partitions.
//!
//! One round of a thread is one Kafka transaction: what was polled from all its partitions goes through the Runner, and
//! decisions, shipments, events and the offsets of what was consumed are committed together or not at all. Whoever has
//! lost a partition to another worker is fenced by its consumer group's generation, which the offsets carry.
//!
//! On assignment a thread first writes a barrier into the partition's decisions and reads them up to it: the barrier can
//! be read only once every older transaction is resolved, so nothing that was committed is missed (see `rebuild`).

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
};
use sluice_domain::OrderId;
use sluice_pipeline::{BoxFuture, Clock, HealthBoard, LogError, Runner, Stage};

use crate::{
    config::LogConfig,
    context::{Quiet, leave},
    store::{Store, StoreError, StoredRow},
    topics::{Deployment, DeploymentError, Names, PATIENCE, reader},
};

mod assignment;
mod counts;
#[cfg(test)]
pub(crate) mod driver;
mod emit;
mod fetch;
mod log;
mod number;
mod older;
mod overlay;
mod rebuild;
mod runs;
mod transaction;

pub use counts::Counts;
use counts::Totals;
use emit::Emitter;
use fetch::Fetcher;
use log::{Frame, KafkaLog, World};
use transaction::Transactions;

/// How long a thread waits for records before it looks at its other duties.
const IDLE: Duration = Duration::from_millis(100);
/// Pause after a transaction that failed, so that an outage isn't met with a flood of attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a transaction that failed is waited for before the group is heard again.
const ABORT: Duration = Duration::from_secs(5);
/// How often overlays and indexes are looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// A transaction has at most so many times the input of a usual one.
const MOST: usize = 4;
/// What was learnt of a partition that was taken away is kept for so long.
const PARKED: Duration = Duration::from_secs(60);

/// Makes the stages of one thread.
pub type MakeStages = Arc<dyn Fn() -> Vec<Box<dyn Stage>> + Send + Sync>;

/// Where an owner reads the rows that its overlay no longer has.
pub trait OlderRows: Send + Sync {
    /// The rows of `orders`, in their order; `None` for one that isn't known.
    ///
    /// # Errors
    /// [`StoreError`]; the owner tries again.
    fn read_many<'a>(&'a self, orders: &'a [OrderId]) -> BoxFuture<'a, Result<Vec<Option<StoredRow>>, StoreError>>;

    /// True if `order` is so old that its row may be gone: what is missing then will not come.
    fn has_expired(&self, order: OrderId, now_ms: u64) -> bool;
}

impl OlderRows for Store {
    fn read_many<'a>(&'a self, orders: &'a [OrderId]) -> BoxFuture<'a, Result<Vec<Option<StoredRow>>, StoreError>> {
        Box::pin(Store::read_many(self, orders))
    }

    fn has_expired(&self, order: OrderId, now_ms: u64) -> bool {
        Store::has_expired(self, order, now_ms)
    }
}

/// What every owner needs.
#[derive(Clone)]
pub struct OwnersConfig {
    /// The log.
    pub log: LogConfig,
    /// The map of slots.
    pub deployment: Deployment,
    /// Threads, each with a consumer and a transaction of its own: one decides while another waits for its commit.
    pub threads: usize,
    /// Rows of older orders.
    pub store: Arc<dyn OlderRows>,
    /// How far the store has the decisions of a partition: see [`crate::Progress::fold_offset`].
    pub folded: Arc<dyn Fn(u16) -> Option<u64> + Send + Sync>,
    /// Where the store's futures run.
    pub runtime: tokio::runtime::Handle,
    /// What was measured of carriers.
    pub health: Arc<HealthBoard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Owners at work.
pub struct Owners {
    stop: Arc<AtomicBool>,
    outdated: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    totals: Arc<Totals>,
}

impl Owners {
    /// Starts the threads; they join the group on their own.
    ///
    /// # Errors
    /// [`KafkaError`] if a thread or a client can't be made.
    pub fn start(config: &OwnersConfig, stages: &MakeStages) -> Result<Self, KafkaError> {
        let (stop, outdated) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let totals = Arc::new(Totals::default());
        let mut threads = Vec::new();
        for number in 0..config.threads.max(1) {
            let (config, stages) = (config.clone(), Arc::clone(stages));
            let (stop, outdated, totals) = (Arc::clone(&stop), Arc::clone(&outdated), Arc::clone(&totals));
            let consumer = consumer(&config.log)?;
            let thread = std::thread::Builder::new().name(format!("owner-{number}")).spawn(move || {
                let mut worker = Worker::new(number, config, stages, consumer, totals);
                while !stop.load(Relaxed) && !worker.outdated {
                    worker.round();
                }
                outdated.fetch_or(worker.outdated, Relaxed);
                worker.leave();
            });
            threads.push(thread.map_err(|e| KafkaError::ClientCreation(e.to_string()))?);
        }
        Ok(Self { stop, outdated, threads, totals })
    }

    /// True once the slots were dealt out anew and this node was about to decide by the old map: it decides no more.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Relaxed)
    }

    /// What was decided since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.totals.counts()
    }

    /// Ends the transactions under way, leaves the group and waits for the threads. May block for some seconds.
    pub fn stop(self) -> Counts {
        self.stop.store(true, Relaxed);
        let Self { threads, totals, .. } = self;
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("an owner panicked; what it had not committed is decided by another");
            }
        }
        totals.counts()
    }
}

/// A change of the assignment, as the callback saw it.
enum Change {
    Assigned(Vec<u16>),
    Revoked(Vec<u16>),
    /// Nobody knows whether the last transaction was committed: what it was about is to be read back.
    Unclear(Vec<u16>),
}

/// Notes rebalances; the thread acts on them when its poll returns.
#[derive(Default)]
struct Rebalances(Mutex<Vec<Change>>);

impl ClientContext for Rebalances {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, fac: &str, message: &str) {
        Quiet.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let numbers = |list: &TopicPartitionList| list.elements().iter().map(|e| e.partition() as u16).collect();
        let change = match rebalance {
            Rebalance::Assign(list) => Change::Assigned(numbers(list)),
            Rebalance::Revoke(list) => {
                // What is paused when it goes would still be paused when it comes back.
                if let Err(error) = consumer.resume(list) {
                    tracing::debug!(%error, "resuming what goes");
                }
                Change::Revoked(numbers(list))
            }
            Rebalance::Error(_) => return,
        };
        self.0.lock().push(change);
    }
}

fn consumer(config: &LogConfig) -> Result<BaseConsumer<Rebalances>, KafkaError> {
    let names = Names::new(&config.prefix);
    let mut client = config.consumer(&names.owners());
    // Long enough to read back what a long outage has left; a process that died is noticed by its session.
    client.set("max.poll.interval.ms", "1800000");
    let consumer: BaseConsumer<Rebalances> = client.create_with_context(Rebalances::default())?;
    consumer.subscribe(&[&names.orders()])?;
    Ok(consumer)
}

/// 128 bits that nobody else has drawn.
fn token() -> u128 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let draw = || u128::from(RandomState::new().build_hasher().finish());
    draw() << 64 | draw()
}

/// A partition that this thread decides for.
struct Part {
    runner: Runner<KafkaLog>,
    /// Everything committed below this offset of the decisions is in overlay and index.
    known: u64,
    /// The same, if this worker is still the owner: the next commit shows.
    frozen: u64,
    /// The overlay is full of what the store doesn't have.
    waits: bool,
    /// Nothing is fetched while it waits.
    paused: bool,
    /// Offset behind the last record that was taken.
    next: u64,
}

struct Worker {
    /// Of the thread.
    number: usize,
    config: OwnersConfig,
    stages: MakeStages,
    consumer: BaseConsumer<Rebalances>,
    world: Option<Rc<World>>,
    parts: BTreeMap<u16, Part>,
    parked: HashMap<u16, (Part, Instant)>,
    totals: Arc<Totals>,
    looked_after: Instant,
    /// An outage is logged when it begins and when it ends.
    troubled: bool,
    /// The deployment is not the one that it knows: it must decide nothing more.
    outdated: bool,
}

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("{0}")]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    #[error("the deployment was changed to epoch {0}; this node must be started again")]
    Outdated(u16),
    #[error("the transaction before is not aborted yet")]
    Open,
}

impl Worker {
    fn new(
        number: usize,
        config: OwnersConfig,
        stages: MakeStages,
        consumer: BaseConsumer<Rebalances>,
        totals: Arc<Totals>,
    ) -> Self {
        Self {
            number,
            config,
            stages,
            consumer,
            world: None,
            parts: BTreeMap::new(),
            parked: HashMap::new(),
            totals,
            looked_after: Instant::now(),
            troubled: false,
            outdated: false,
        }
    }

    /// Polls, decides and commits once. An error is handled here: nothing is lost by it, the inputs come again.
    fn round(&mut self) {
        if let Err(error) = self.try_round() {
            if !std::mem::replace(&mut self.troubled, true) {
                tracing::warn!(%error, "an owner can't commit; it goes on trying");
            }
            metrics::counter!("sluice_owner_aborts_total").increment(1);
            self.abort();
            // The consumer must be heard meanwhile, or the group would think that this worker is gone.
            let until = Instant::now() + PAUSE;
            while Instant::now() < until {
                self.poll(until.saturating_duration_since(Instant::now()));
            }
        } else if std::mem::take(&mut self.troubled) {
            tracing::info!("the owner commits again");
        }
    }

    fn try_round(&mut self) -> Result<(), RoundError> {
        if let Some((world, started)) = self.decide()? {
            let unknown = || KafkaError::ConsumerCommit(RDKafkaErrorCode::UnknownMemberId);
            let group = self.consumer.group_metadata().ok_or_else(unknown)?;
            // The brokers take offsets from somebody who says neither member nor generation as from one who needs no group,
            // and a client that has lost its partitions may say just that.
            if self.consumer.assignment_lost() {
                return Err(unknown().into());
            }
            self.commit_as(&world, &group)?;
            metrics::histogram!("sluice_owner_commit_seconds").record(started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Polls, begins a transaction and writes into it what follows. Says since when; `None` if nothing has come.
    fn decide(&mut self) -> Result<Option<(Rc<World>, Instant)>, RoundError> {
        self.gather();
        self.rebalance()?;
        if self.looked_after.elapsed() >= HOUSEKEEPING {
            self.looked_after = Instant::now();
            let looked_after = self.look_after();
            self.pause_what_waits();
            looked_after?;
        }
        if self.parts.values_mut().all(|p| p.waits || p.runner.log().is_idle()) {
            return Ok(None);
        }
        let started = Instant::now();
        let world = self.world()?;
        world.emitter.borrow_mut().transactions.begin()?;
        // What has gathered in an outage is more than one transaction can hold.
        let mut room = MOST * self.enough();
        // The brokers abort what takes too long, and rows that have to be read take long.
        let share = self.config.log.session_timeout / 4 / (self.parts.len().max(1) as u32);
        for part in self.parts.values_mut().filter(|p| !p.waits) {
            let since = Instant::now();
            while part.runner.log().taken_bytes() < room && !part.runner.log().is_idle() {
                part.runner.step()?;
                if since.elapsed() > share {
                    break;
                }
            }
            room = room.saturating_sub(part.runner.log().taken_bytes());
        }
        match world.emitter.borrow_mut().failure() {
            Some(error) => Err(error.into()),
            None => Ok(Some((Rc::clone(&world), started))),
        }
    }

    /// Where the group stands once the transaction under way is committed.
    fn offsets(&mut self) -> Result<TopicPartitionList, KafkaError> {
        let topic = Names::new(&self.config.log.prefix).orders();
        let mut offsets = TopicPartitionList::new();
        for (&number, part) in &mut self.parts {
            if let Some(next) = part.runner.log().next_offset() {
                offsets.add_partition_offset(&topic, i32::from(number), Offset::Offset(next as i64))?;
            }
        }
        Ok(offsets)
    }

    /// Commits the transaction under way, as the member of its group that `group` says.
    fn commit_as(&mut self, world: &World, group: &ConsumerGroupMetadata) -> Result<(), RoundError> {
        let offsets = self.offsets()?;
        {
            let transactions = &mut world.emitter.borrow_mut().transactions;
            // Before the offsets: the group takes those from its present members alone, and once it has, a worker that stalls
            // may commit long after others have taken over.
            transactions.flush()?;
            transactions.send_offsets(&offsets, group)?;
            if let Err(error) = transactions.commit() {
                self.unclear();
                return Err(error.into());
            }
        }
        for part in self.parts.values_mut() {
            if part.runner.log().next_offset().is_some() {
                // The group takes offsets from its members alone, so nobody else has decided here meanwhile.
                part.known = part.known.max(part.frozen);
            }
            self.totals.add(part.runner.log().committed());
        }
        Ok(())
    }

    /// Nobody knows whether the transaction was committed: before anything else its inputs are looked up.
    fn unclear(&self) {
        let numbers = self.parts.keys().copied().collect();
        self.consumer.context().0.lock().insert(0, Change::Unclear(numbers));
    }

    fn abort(&mut self) {
        for part in self.parts.values_mut() {
            part.runner.log().aborted();
        }
        let Some(world) = &self.world else { return };
        let mut emitter = world.emitter.borrow_mut();
        emitter.forget();
        if let Err(error) = emitter.transactions.abort(ABORT) {
            tracing::debug!(%error, "a transaction isn't aborted yet");
        }
    }

    /// Polls until enough is there for a transaction, or the first has waited long enough.
    fn gather(&mut self) {
        let held = self.parts.values_mut().any(|p| !p.waits && !p.runner.log().is_idle());
        let mut bytes = self.poll(if held { Duration::ZERO } else { IDLE });
        if bytes == 0 {
            return;
        }
        let until = Instant::now() + self.config.log.commit_interval;
        let enough = self.enough();
        while bytes < enough {
            let left = until.saturating_duration_since(Instant::now());
            match self.poll(left) {
                0 if left.is_zero() => return,
                more => bytes += more,
            }
        }
    }

    /// Bytes of input for a transaction of the usual size.
    fn enough(&self) -> usize {
        self.config.log.orders_per_commit * 200
    }

    /// Polls once; gives the bytes that were taken.
    fn poll(&mut self, wait: Duration) -> usize {
        let unclear = match self.consumer.context().0.lock().first() {
            Some(Change::Unclear(numbers)) => numbers.clone(),
            _ => Vec::new(),
        };
        let Some(polled) = self.consumer.poll(wait) else { return 0 };
        match polled {
            Ok(message) => {
                let (number, bytes) = (message.partition() as u16, message.payload().unwrap_or_default().to_vec());
                let at_ms = message.timestamp().to_millis().unwrap_or(0).unsigned_abs();
                let frame = Frame { offset: message.offset() as u64, at_ms, bytes };
                let len = frame.bytes.len();
                drop(message);
                // A partition that was just assigned is not built up yet. One that was taken away and given back between
                // two polls is still here as it was: its record must not go the way of what was polled before.
                if let Err(error) = self.rebalance() {
                    tracing::debug!(%error, number, "an assignment waits");
                }
                match self.parts.get_mut(&number) {
                    // It was polled before its partition was read back, which begins with what comes before it. And comes
                    // to it again.
                    _ if unclear.contains(&number) => 0,
                    // It was sought, and is here already.
                    Some(part) if frame.offset < part.next => 0,
                    Some(part) => {
                        part.next = frame.offset + 1;
                        part.runner.log().push(frame);
                        len
                    }
                    None => {
                        self.again(number, frame.offset);
                        0
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "poll");
                0
            }
        }
    }

    /// A record that can't be taken now is to be polled again.
    fn again(&self, number: u16, offset: u64) {
        let topic = Names::new(&self.config.log.prefix).orders();
        let sought = self.consumer.seek(&topic, i32::from(number), Offset::Offset(offset as i64), PATIENCE);
        if let Err(error) = sought {
            tracing::debug!(%error, number, "a record can't be sought");
            if self.is_assigned(number) {
                self.consumer.context().0.lock().insert(0, Change::Unclear(vec![number]));
            }
        }
    }

    fn is_assigned(&self, number: u16) -> bool {
        let topic = Names::new(&self.config.log.prefix).orders();
        self.consumer.assignment().is_ok_and(|all| all.find_partition(&topic, i32::from(number)).is_some())
    }

    /// What the partitions share; made when it is first needed, because the brokers may be away at the start.
    fn world(&mut self) -> Result<Rc<World>, RoundError> {
        if let Some(world) = &self.world {
            return Ok(Rc::clone(world));
        }
        let config = &self.config;
        let transactions = Transactions::new(&config.log)?;
        let mut ends = reader(&config.log);
        let world = Rc::new(World {
            ends: ends.set("isolation.level", "read_uncommitted").create_with_context(Quiet)?,
            emitter: RefCell::new(Emitter::new(&config.log, config.deployment.epoch, transactions)),
            fetcher: RefCell::new(Fetcher::new(&config.log)),
            config: config.log.clone(),
            deployment: config.deployment,
            store: Arc::clone(&config.store),
            runtime: config.runtime.clone(),
            clock: Arc::clone(&config.clock),
        });
        self.world = Some(Rc::clone(&world));
        Ok(world)
    }

    /// Bounds memory: overlays are trimmed to what the store doesn't have, indexes spill to disk and expire.
    fn look_after(&mut self) -> Result<(), RoundError> {
        let now_ms = self.config.clock.now_ms();
        self.parked.retain(|_, (_, at)| at.elapsed() < PARKED);
        let topic = Names::new(&self.config.log.prefix).decisions();
        for (&number, part) in &mut self.parts {
            let log = part.runner.log();
            if log.overlay.wants_freeze()
                && let Some(world) = &self.world
            {
                // A reader of committed records may be told an end below what this thread has just committed.
                let (_, end) = world.ends.fetch_watermarks(&topic, i32::from(number), PATIENCE)?;
                log.overlay.freeze(end as u64);
                part.frozen = end as u64;
            }
            part.waits = log.overlay.trim((self.config.folded)(number));
            if log.index.len() >= self.config.log.index_entries {
                log.spill(now_ms)?;
            }
            log.expire(now_ms);
        }
        let waits = self.parts.values().filter(|p| p.waits).count();
        let thread = self.number.to_string();
        metrics::gauge!("sluice_owner_partitions_waiting", "thread" => thread.clone()).set(waits as f64);
        let memory: usize = self.parts.values_mut().map(|p| p.runner.log().overlay.memory()).sum();
        metrics::gauge!("sluice_owner_overlay_bytes", "thread" => thread).set(memory as f64);
        Ok(())
    }

    /// Leaves the group, so that others take over at once.
    fn leave(mut self) {
        self.abort();
        leave(self.consumer);
    }
}
