//! How far the owners and the folds are, as the brokers know it: one small thread asks every half second, everybody else
//! reads atomics. Readers of orders wait by it, checkout refuses by it, and operators see it as gauges.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use metrics::Gauge;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
};

use crate::{
    config::LogConfig,
    context::Quiet,
    topics::{self, Deployment, Names},
};

/// How often the brokers are asked.
pub const EVERY: Duration = Duration::from_millis(500);
/// What was learned longer ago counts as stale.
pub const STALE: Duration = Duration::from_secs(10);
/// Longest time for one request.
const REQUEST: Duration = Duration::from_secs(2);
/// Longest time for looking whether there is anything between two offsets.
const PROBE: Duration = Duration::from_millis(500);
/// Offsets at the end of a partition that may well be the brokers' markers alone, so it is worth looking at once.
const MARKERS: i64 = 16;

/// "Nothing was learned yet".
const UNKNOWN: u64 = u64::MAX;

/// Where one group is in one partition of its topic.
#[derive(Debug)]
struct Side {
    /// The next offset of the group. Markers of the brokers' at the end count as read.
    at: AtomicU64,
    /// Where the committed records end.
    end: AtomicU64,
    /// Where all records end. A group's offset may be seen to be committed a moment before the records that its
    /// transaction wrote are: each partition is told for itself.
    high: AtomicU64,
}

impl Default for Side {
    fn default() -> Self {
        Self { at: AtomicU64::new(UNKNOWN), end: AtomicU64::new(UNKNOWN), high: AtomicU64::new(UNKNOWN) }
    }
}

impl Side {
    fn lag(&self) -> u64 {
        match (self.at.load(Acquire), self.end.load(Acquire)) {
            (UNKNOWN, _) | (_, UNKNOWN) => 0,
            (at, end) => end.saturating_sub(at),
        }
    }
}

/// One partition.
#[derive(Debug, Default)]
struct Part {
    orders: Side,
    decisions: Side,
}

#[derive(Debug)]
struct Shared {
    parts: Vec<Part>,
    started: Instant,
    /// ms after `started` at which everything was last learned.
    learned_ms: AtomicU64,
    /// ms after `started` at which that learning began: what is known is at least as young.
    began_ms: AtomicU64,
}

impl Shared {
    fn new(partitions: u16) -> Self {
        Self {
            parts: (0..partitions).map(|_| Part::default()).collect(),
            started: Instant::now(),
            learned_ms: AtomicU64::new(UNKNOWN),
            began_ms: AtomicU64::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Everything was learned, by asking that began at `began_ms`.
    fn learned(&self, began_ms: u64) {
        self.began_ms.store(began_ms, Release);
        self.learned_ms.store(self.now_ms(), Release);
    }
}

/// What must be folded before an order that isn't in the store is known to be nowhere: see [`Progress::mark`].
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    partition: u16,
    /// When it was taken. What was learned before may be from before the order was written.
    asked_ms: u64,
    orders: Option<u64>,
    decisions: Option<u64>,
}

/// How far owners and folds are. Values are as old as [`EVERY`], more while the brokers are away: then the last values
/// stay, and [`Progress::is_fresh`] says so.
pub struct Progress {
    shared: Arc<Shared>,
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Progress {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`KafkaError`] if a client can't be made; brokers that don't answer are waited for.
    pub fn start(config: &LogConfig, deployment: Deployment) -> Result<Arc<Self>, KafkaError> {
        metrics::describe_gauge!("sluice_lag_records", "Records that wait for their group, by topic");
        let shared = Arc::new(Shared::new(deployment.partitions));
        let watch = Watch::new(config, Arc::clone(&shared))?;
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || watch.run(&stopped))
            .map_err(|e| KafkaError::ClientCreation(e.to_string()))?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some((stop, thread))) }))
    }

    /// Ends the thread; takes one request's time (2 s) at most. The last values stay.
    pub fn stop(&self) {
        if let Some((stop, thread)) = self.thread.lock().take() {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("the thread that watches progress has panicked");
            }
        }
    }

    /// Everything that the owner of `partition` decided before this offset of the decisions topic is durable in the
    /// store. `None` until it was learned.
    #[must_use]
    pub fn fold_offset(&self, partition: u16) -> Option<u64> {
        let at = self.shared.parts.get(usize::from(partition))?.decisions.at.load(Acquire);
        (at != UNKNOWN).then_some(at)
    }

    /// True if everything before `offset` of a partition of decisions is durable in the store.
    #[must_use]
    pub fn fold_caught_up(&self, partition: u16, offset: u64) -> bool {
        self.fold_offset(partition).is_some_and(|at| at >= offset)
    }

    /// Records of the orders topic that no owner has decided yet.
    #[must_use]
    pub fn owners_lag(&self) -> u64 {
        self.shared.parts.iter().map(|part| part.orders.lag()).sum()
    }

    /// Records of the decisions topic that are not in the store yet.
    #[must_use]
    pub fn folds_lag(&self) -> u64 {
        self.shared.parts.iter().map(|part| part.decisions.lag()).sum()
    }

    /// True if everything was learned within the last 10 s.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        let learned = self.shared.learned_ms.load(Acquire);
        learned != UNKNOWN && self.shared.started.elapsed() < Duration::from_millis(learned) + STALE
    }

    /// Waits until everything was learned anew, at most so long; blocks. False if it wasn't.
    #[must_use]
    pub fn refresh(&self, wait: Duration) -> bool {
        let (asked_ms, until) = (self.shared.now_ms(), Instant::now() + wait);
        while self.shared.began_ms.load(Acquire) <= asked_ms {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// Notes the present, for an order of `partition`: where the log ends is what is learned next.
    #[must_use]
    pub fn mark(&self, partition: u16) -> Mark {
        Mark { partition, asked_ms: self.shared.now_ms(), orders: None, decisions: None }
    }

    /// True once everything that was in the log at [`Progress::mark`] is durable in the store: first its owner must have
    /// decided, then what it decided must be folded. Never true while this isn't fresh.
    pub fn passed(&self, mark: &mut Mark) -> bool {
        let Some(part) = self.shared.parts.get(usize::from(mark.partition)) else { return false };
        if !self.is_fresh() {
            return false;
        }
        let below = |value: u64, than: u64| value == UNKNOWN || than == UNKNOWN || value < than;
        if mark.orders.is_none() && self.shared.began_ms.load(Acquire) > mark.asked_ms {
            mark.orders = Some(part.orders.high.load(Acquire));
        }
        let Some(orders) = mark.orders else { return false };
        if mark.decisions.is_none() {
            if below(part.orders.at.load(Acquire), orders) {
                return false;
            }
            // Was learned after the owners' offset was, and stored before.
            mark.decisions = Some(part.decisions.high.load(Acquire));
        }
        mark.decisions.is_some_and(|end| !below(part.decisions.at.load(Acquire), end))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
impl Progress {
    /// One that knows what it is told and asks nobody.
    pub(crate) fn told(partitions: u16) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(Shared::new(partitions)), thread: Mutex::new(None) })
    }

    /// Where owners and fold are in a partition, and where its topics end: `(at, end)`.
    pub(crate) fn tell(&self, partition: u16, orders: (u64, u64), decisions: (u64, u64)) {
        let part = &self.shared.parts[usize::from(partition)];
        for (side, (at, end)) in [(&part.decisions, decisions), (&part.orders, orders)] {
            side.end.store(end, Release);
            side.high.store(end, Release);
            side.at.store(at, Release);
        }
        // It knows of everything that anybody will ask for.
        self.shared.learned(UNKNOWN);
    }

    /// What it knows was asked for before any mark.
    pub(crate) fn tell_late(&self) {
        self.shared.learned(0);
    }
}

/// Clients that only ask.
struct Asking;

impl ClientContext for Asking {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        Quiet.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ConsumerContext for Asking {}

/// One topic and the group that reads it.
struct Watched {
    topic: String,
    group: BaseConsumer<Asking>,
    gauge: Gauge,
    /// By partition: what was last seen between the group's offset and the end.
    gaps: Vec<Gap>,
    /// By partition: where all records end.
    highs: Vec<i64>,
}

/// The offsets from `at` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Gap {
    at: i64,
    end: i64,
    /// Whether there is a record in it; `None` if nobody has looked.
    records: Option<bool>,
}

impl Gap {
    /// The gap now, with what is known of it from before.
    fn now(self, at: i64, end: i64) -> Self {
        let records = match self.records {
            _ if at >= end => Some(false),
            // More at its end changes nothing.
            Some(true) if self.at == at => Some(true),
            Some(false) if self.at == at && self.end >= end => Some(false),
            _ => None,
        };
        Self { at, end, records }
    }

    /// Whether it is worth looking into: it is small, or nobody works on it.
    fn is_due(self, before: Self) -> bool {
        let rests = (self.at, self.end) == (before.at, before.end);
        self.records.is_none() && (rests || self.end - self.at <= MARKERS)
    }
}

struct Watch {
    shared: Arc<Shared>,
    orders: Watched,
    decisions: Watched,
    /// For the ends of topics, and for looking into gaps.
    reader: BaseConsumer<Asking>,
}

impl Watch {
    fn new(config: &LogConfig, shared: Arc<Shared>) -> Result<Self, KafkaError> {
        let names = Names::new(&config.prefix);
        let watched = |topic: String, group: &str, label: &'static str| {
            let mut client = config.consumer(group);
            // Else an offset within an open transaction would be waited for. Only committed ones are told either way.
            client.set("isolation.level", "read_uncommitted");
            Ok::<_, KafkaError>(Watched {
                topic,
                group: client.create_with_context(Asking)?,
                gauge: metrics::gauge!("sluice_lag_records", "topic" => label),
                gaps: vec![Gap::default(); shared.parts.len()],
                highs: Vec::new(),
            })
        };
        let mut reader = topics::reader(config);
        // Whether there is a record is all that it is for.
        reader.set("queued.max.messages.kbytes", "1024").set("max.partition.fetch.bytes", "65536");
        Ok(Self {
            orders: watched(names.orders(), &names.owners(), "orders")?,
            decisions: watched(names.decisions(), &names.status(), "decisions")?,
            reader: reader.create_with_context(Asking)?,
            shared,
        })
    }

    fn run(mut self, stopped: &Receiver<()>) {
        let mut away = false;
        loop {
            match self.learn(stopped) {
                Ok(()) => away = false,
                Err(error) if !away => {
                    away = true;
                    tracing::warn!(%error, "the brokers don't say how far owners and folds are; the last values stay");
                }
                Err(_) => {}
            }
            if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Asks for everything, in this order, so that a partition which seems caught up was so when this began.
    fn learn(&mut self, stopped: &Receiver<()>) -> Result<(), KafkaError> {
        let began_ms = self.shared.now_ms();
        // Serves its queue, or what it has to say would pile up.
        while self.reader.poll(Duration::ZERO).is_some() {}
        let partitions = self.shared.parts.len();
        let go_on = || stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty);
        for watched in [&mut self.orders, &mut self.decisions] {
            watched.highs = watermarks(&watched.group, &watched.topic, partitions, Offset::End)?;
            let ends = watermarks(&self.reader, &watched.topic, partitions, Offset::End)?;
            if !go_on() {
                return Ok(());
            }
            watched.learn(&self.reader, &ends)?;
            if !go_on() {
                return Ok(());
            }
        }
        // Decisions first: who sees the owners' offset must see what they had decided by then.
        for (partition, part) in self.shared.parts.iter().enumerate() {
            for (watched, side) in [(&self.decisions, &part.decisions), (&self.orders, &part.orders)] {
                let gap = watched.gaps[partition];
                let at = if gap.records == Some(false) { gap.at.max(gap.end) } else { gap.at };
                side.end.store(gap.end.max(0) as u64, Release);
                side.high.store(watched.highs[partition].max(0) as u64, Release);
                side.at.store(at.max(0) as u64, Release);
            }
        }
        let lag = |side: fn(&Part) -> &Side| self.shared.parts.iter().map(|p| side(p).lag()).sum::<u64>() as f64;
        self.orders.gauge.set(lag(|p| &p.orders));
        self.decisions.gauge.set(lag(|p| &p.decisions));
        self.shared.learned(began_ms);
        Ok(())
    }
}

impl Watched {
    /// Asks where the group is, and looks into what lies between it and the `ends`.
    fn learn(&mut self, reader: &BaseConsumer<Asking>, ends: &[i64]) -> Result<(), KafkaError> {
        while self.group.poll(Duration::ZERO).is_some() {}
        let committed = self.group.committed_offsets(partitions(&self.topic, ends.len())?, REQUEST)?;
        let mut at: Vec<Option<i64>> = vec![None; ends.len()];
        for element in committed.elements() {
            element.error()?;
            if let (Offset::Offset(offset), Some(at)) = (element.offset(), at.get_mut(element.partition() as usize)) {
                *at = Some(offset);
            }
        }
        if at.contains(&None) {
            // A group that has never committed starts with the oldest.
            let lows = watermarks(reader, &self.topic, ends.len(), Offset::Beginning)?;
            at.iter_mut().zip(lows).for_each(|(at, low)| *at = at.or(Some(low)));
        }
        let mut due = Vec::new();
        for (partition, (gap, (at, end))) in self.gaps.iter_mut().zip(at.into_iter().zip(ends)).enumerate() {
            let before = *gap;
            *gap = before.now(at.unwrap_or(0), *end);
            if gap.is_due(before) {
                due.push(partition);
            }
        }
        if due.is_empty() { Ok(()) } else { self.look(reader, due) }
    }

    /// Finds out which gaps hold records. The others are markers at the end of transactions and records that were
    /// aborted, which no reader gets and behind which no group commits.
    fn look(&mut self, reader: &BaseConsumer<Asking>, mut due: Vec<usize>) -> Result<(), KafkaError> {
        let mut from = TopicPartitionList::new();
        for &partition in &due {
            from.add_partition_offset(&self.topic, partition as i32, Offset::Offset(self.gaps[partition].at))?;
        }
        reader.assign(&from)?;
        let until = Instant::now() + PROBE;
        while !due.is_empty() && Instant::now() < until {
            let (partition, found) = match reader.poll(until.saturating_duration_since(Instant::now())) {
                Some(Ok(message)) => (message.partition(), Some(message.offset())),
                Some(Err(KafkaError::PartitionEOF(partition))) => (partition, None),
                // What isn't found out now counts as lag, and is looked at again.
                Some(Err(_)) | None => continue,
            };
            if let Some(nth) = due.iter().position(|&p| p as i32 == partition) {
                let gap = &mut self.gaps[due.swap_remove(nth)];
                gap.records = Some(found.is_some_and(|offset| offset < gap.end));
            }
        }
        reader.unassign()
    }
}

fn partitions(topic: &str, count: usize) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(count);
    for partition in 0..count as i32 {
        list.add_partition(topic, partition);
    }
    Ok(list)
}

/// Where each partition begins or ends, for what `reader` may read: one request a broker.
fn watermarks(reader: &BaseConsumer<Asking>, topic: &str, count: usize, which: Offset) -> Result<Vec<i64>, KafkaError> {
    let mut list = partitions(topic, count)?;
    list.set_all_offsets(which)?;
    let list = reader.offsets_for_times(list, REQUEST)?;
    let mut offsets = vec![0; count];
    for element in list.elements() {
        element.error()?;
        if let (Offset::Offset(offset), Some(at)) = (element.offset(), offsets.get_mut(element.partition() as usize)) {
            *at = offset;
        }
    }
    Ok(offsets)
}
