//! The thread that is a member of a carrier's group: it polls, puts partitions back where an outbox starts, pauses them
//! while the outbox is full, commits, and lets partitions go once what was handed over is committed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    client::Client as Native,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};

use super::{
    OutboxOptions,
    mark::Mark,
    state::{Frame, Phase, State},
};
use crate::{
    config::LogConfig,
    context::Quiet,
    topics::Names,
    writer::Ledger,
};

/// How long a poll waits when nothing comes.
const POLL: Duration = Duration::from_millis(20);
/// How often the end of a wait is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// How long the brokers may take to say what is committed before they are asked again.
const COMMITTED: Duration = Duration::from_secs(2);
/// Pause before a client that failed is replaced.
const RECONNECT: Duration = Duration::from_secs(1);
/// How often the same trouble is logged.
const REPEAT: Duration = Duration::from_secs(10);

pub(super) type Client = BaseConsumer<Member>;

/// What the thread, the callbacks and the outboxes share.
pub(super) struct Shared {
    config: LogConfig,
    options: OutboxOptions,
    pub carrier: Arc<str>,
    topic: String,
    partitions: u16,
    pub ledger: Arc<Ledger>,
    pub inner: Mutex<Inner>,
    /// Something settled, a reader has gone, or it is to stop.
    pub news: Condvar,
}

pub(super) struct Inner {
    pub state: State,
    /// Only used under the lock, so that the thread's own handle is the last one and callbacks run there.
    client: Option<Arc<Client>>,
    pub stop: bool,
}

impl Inner {
    /// Commits what there is to commit, unless a commit is under way.
    pub(super) fn commit(&mut self, topic: &str) {
        if let Some(client) = &self.client {
            commit(&mut self.state, client, topic, false);
        }
    }
}

fn commit(state: &mut State, client: &Client, topic: &str, force: bool) {
    let Some(planned) = state.plan(force) else { return };
    let mut list = TopicPartitionList::with_capacity(planned.len());
    for part in &planned {
        let mut element = list.add_partition(topic, part.partition);
        if element.set_offset(Offset::Offset(part.done.0)).is_err() {
            return state.not_committed();
        }
        element.set_metadata(part.text());
    }
    if let Err(error) = client.commit(&list, CommitMode::Async) {
        tracing::debug!(topic, %error, "a commit could not be asked for");
        state.not_committed();
    }
}

impl Shared {
    pub(super) fn new(
        config: &LogConfig,
        partitions: u16,
        carrier: &str,
        ledger: Arc<Ledger>,
        options: OutboxOptions,
    ) -> Arc<Self> {
        Arc::new(Self {
            topic: Names::new(&config.prefix).shipments(carrier),
            config: config.clone(),
            options,
            carrier: carrier.into(),
            partitions,
            ledger,
            inner: Mutex::new(Inner { state: State::new(), client: None, stop: false }),
            news: Condvar::new(),
        })
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Makes the client and subscribes.
    pub(super) fn connect(self: &Arc<Self>) -> KafkaResult<Arc<Client>> {
        let mut client = self.config.consumer(&Names::new(&self.config.prefix).notifiers(&self.carrier));
        client
            // Only partitions that really move are taken away, and only then a notifier has to stop.
            .set("partition.assignment.strategy", "cooperative-sticky")
            // Pausing throws away what was fetched ahead, so that is little.
            .set("queued.max.messages.kbytes", "4096")
            .set("max.partition.fetch.bytes", "1048576");
        let client: Client = client.create_with_context(Member(Arc::clone(self)))?;
        client.subscribe(&[&self.topic])?;
        Ok(Arc::new(client))
    }

    /// Waits until everything that was handed to the reader is settled for good or its reader has gone, at most `bound`.
    fn settle(&self, bound: Duration) -> MutexGuard<'_, Inner> {
        let until = Instant::now() + bound;
        let mut inner = self.inner.lock();
        loop {
            inner.state.advance(self.ledger.settled());
            let now = Instant::now();
            if inner.state.quiet() || now >= until {
                return inner;
            }
            self.news.wait_until(&mut inner, until.min(now + LOOK));
        }
    }

    /// Pauses, unless it is to stop; says whether it is.
    fn nap(&self, time: Duration) -> bool {
        let mut inner = self.inner.lock();
        if !inner.stop {
            self.news.wait_for(&mut inner, time);
        }
        inner.stop
    }
}

/// Hears what the group says.
pub(super) struct Member(Arc<Shared>);

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        Quiet.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ConsumerContext for Member {
    fn rebalance(&self, client: &Client, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(client, list),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.revoked(client, list),
            _ => client.unassign(),
        };
        if let Err(error) = done {
            tracing::warn!(topic = self.0.topic, %error, "a rebalance failed");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        let ok = result.is_ok() && list.elements().iter().all(|e| e.error().is_ok());
        if let Err(error) = &result {
            tracing::debug!(topic = self.0.topic, %error, "a commit failed");
        }
        let offsets = list.elements().into_iter().filter_map(|e| match e.offset() {
            Offset::Offset(at) => Some((e.partition(), at, e.metadata().to_owned())),
            _ => None,
        });
        let offsets: Vec<_> = offsets.collect();
        let mut inner = self.0.inner.lock();
        inner.state.committed(ok, &offsets);
        // A reader that waits for its mark does not wait for the thread's next round.
        if ok && inner.state.mark_waits() {
            inner.commit(&self.0.topic);
        }
    }
}

impl Member {
    /// Partitions come, each from what its group has committed.
    fn assigned(&self, client: &Client, list: &mut TopicPartitionList) -> KafkaResult<()> {
        let shared = &self.0;
        metrics::counter!("sluice_outbox_rebalances_total", "carrier" => shared.carrier.to_string()).increment(1);
        let Some(committed) = self.committed(client, list) else { return client.incremental_assign(list) };
        for (partition, offset, _) in &committed {
            list.set_partition_offset(&shared.topic, *partition, offset.map_or(Offset::Beginning, Offset::Offset))?;
        }
        client.incremental_assign(list)?;
        let mut inner = shared.inner.lock();
        for (partition, offset, mark) in committed {
            if partition >= i32::from(shared.partitions) {
                tracing::warn!(topic = shared.topic, partition, "a partition that the deployment doesn't have");
            }
            inner.state.assigned(partition, offset, mark);
        }
        drop(inner);
        tracing::info!(topic = shared.topic, partitions = list.count(), "partitions of the outbox came");
        Ok(())
    }

    /// What the group has committed for `list`; asks until the brokers answer, or it is to stop.
    fn committed(&self, client: &Client, list: &TopicPartitionList) -> Option<Vec<(i32, Option<i64>, Mark)>> {
        let shared = &self.0;
        let mut told = false;
        loop {
            let mut ask = TopicPartitionList::with_capacity(list.count());
            list.elements().iter().for_each(|e| drop(ask.add_partition(&shared.topic, e.partition())));
            let answer = client.committed_offsets(ask, COMMITTED);
            let answer = answer.and_then(|list| list.elements().iter().try_for_each(|e| e.error()).map(|()| list));
            match answer {
                Ok(list) => return Some(list.elements().iter().map(|e| self.resume(e)).collect()),
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(topic = shared.topic, %error, "the group's offsets can't be read; asking again");
                }
                Err(_) => {}
            }
            if shared.nap(RECONNECT / 10) {
                return None;
            }
        }
    }

    fn resume(&self, element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>) -> (i32, Option<i64>, Mark) {
        let partition = element.partition();
        let Offset::Offset(offset) = element.offset() else { return (partition, None, Mark::default()) };
        let mark = Mark::parse(element.metadata()).unwrap_or_else(|| {
            let (topic, text) = (&self.0.topic, element.metadata());
            tracing::warn!(topic, partition, offset, text, "a commit's mark can't be read; entries may come again");
            Mark::default()
        });
        (partition, Some(offset), mark)
    }

    /// Partitions go. Their outbox closes; what it has settled by the time is committed before they are let go: they
    /// aren't given on before commits under way are answered.
    fn revoked(&self, client: &Client, list: &TopicPartitionList) -> KafkaResult<()> {
        let shared = &self.0;
        metrics::counter!("sluice_outbox_rebalances_total", "carrier" => shared.carrier.to_string()).increment(1);
        let lost = client.assignment_lost();
        let stop = {
            let mut inner = shared.inner.lock();
            inner.state.close();
            inner.stop
        };
        // When it stops, the thread has waited already; and what is lost is another member's by now.
        let mut inner = shared.settle(if stop || lost { Duration::ZERO } else { shared.options.revoke_grace });
        if !lost {
            commit(&mut inner.state, client, &shared.topic, true);
        }
        list.elements().iter().for_each(|e| inner.state.revoked(e.partition()));
        let unsettled = inner.state.unsettled();
        drop(inner);
        tracing::info!(topic = shared.topic, partitions = list.count(), lost, unsettled, "partitions of the outbox go");
        // Without a group there is nothing to be incremental about.
        client.incremental_unassign(list).or_else(|_| client.unassign())
    }
}

/// Serves `client`, and those after it, until it is to stop.
pub(super) fn run(shared: &Arc<Shared>, client: Arc<Client>) {
    let mut next = Some(client);
    loop {
        let Some(client) = next.take().or_else(|| reconnect(shared)) else { return };
        shared.inner.lock().client = Some(Arc::clone(&client));
        let stop = serve(shared, &client);
        if stop {
            shared.inner.lock().state.close();
            let mut inner = shared.settle(shared.options.revoke_grace);
            commit(&mut inner.state, &client, &shared.topic, true);
        }
        shared.inner.lock().client = None;
        // Leaves the group; what was asked to be committed is committed first.
        drop(client);
        shared.inner.lock().state.lost();
        if stop {
            return;
        }
    }
}

fn reconnect(shared: &Arc<Shared>) -> Option<Arc<Client>> {
    loop {
        if shared.nap(RECONNECT) {
            return None;
        }
        match shared.connect() {
            Ok(client) => return Some(client),
            Err(error) => tracing::warn!(topic = shared.topic, %error, "a consumer can't be made; trying again"),
        }
    }
}

/// True if it is to stop, false if the client has failed.
fn serve(shared: &Arc<Shared>, client: &Client) -> bool {
    let mut round = Round { shared, client, due: Instant::now(), told: None };
    loop {
        match client.poll(POLL) {
            Some(Ok(message)) => round.take(message.partition(), message.offset(), message.payload().unwrap_or_default()),
            Some(Err(error)) => round.trouble(&error),
            None => {}
        }
        if let Some((code, reason)) = Native::fatal_error(client.client()) {
            tracing::warn!(topic = shared.topic, %code, reason, "the consumer has failed; making a new one");
            return false;
        }
        if round.tick() {
            return true;
        }
    }
}

struct Round<'a> {
    shared: &'a Arc<Shared>,
    client: &'a Client,
    /// When to commit next.
    due: Instant,
    told: Option<Instant>,
}

impl Round<'_> {
    fn take(&self, partition: i32, offset: i64, payload: &[u8]) {
        let shared = self.shared;
        let (frame, damage) = Frame::read(partition, offset, payload);
        let mut inner = shared.inner.lock();
        if !inner.state.push(frame) {
            return;
        }
        if inner.state.waiting {
            inner.state.wake();
        }
        drop(inner);
        for (entry, error) in damage {
            metrics::counter!("sluice_outbox_damaged_total", "carrier" => shared.carrier.to_string()).increment(1);
            let topic = &shared.topic;
            tracing::error!(topic, partition, offset, entry, %error, "an entry of the outbox can't be read; skipped");
        }
    }

    fn trouble(&mut self, error: &KafkaError) {
        if self.told.is_none_or(|told| told.elapsed() >= REPEAT) {
            self.told = Some(Instant::now());
            tracing::warn!(topic = self.shared.topic, %error, "the outbox can't be read now; trying on");
        }
    }

    /// Does what is due; true if it is to stop.
    fn tick(&mut self) -> bool {
        let shared = self.shared;
        let now = Instant::now();
        let mut inner = shared.inner.lock();
        if inner.stop {
            return true;
        }
        if let Phase::Starting(since) = inner.state.phase {
            // What the reader before has handed over is worth waiting for: it would be sent again.
            inner.state.advance(shared.ledger.settled());
            if inner.state.quiet() || now.duration_since(since) >= shared.options.revoke_grace {
                inner.state.begin();
            }
        }
        if now >= self.due {
            self.due = now + shared.options.commit_interval;
            inner.state.advance(shared.ledger.settled());
            inner.commit(&shared.topic);
            let unsettled = inner.state.unsettled() as f64;
            metrics::gauge!("sluice_outbox_unsettled", "carrier" => shared.carrier.to_string()).set(unsettled);
        }
        let (open, buffered) = (inner.state.phase == Phase::Open, inner.state.buffered);
        let full = shared.options.buffer_bytes;
        let pause = match (open, inner.state.to_pause(true), inner.state.to_pause(false)) {
            (false, running, _) => Some((true, running)),
            (true, running, _) if buffered >= full => Some((true, running)),
            (true, _, resting) if buffered <= full / 4 => Some((false, resting)),
            _ => None,
        };
        let back = if open { inner.state.to_seek() } else { Vec::new() };
        drop(inner);
        if let Some((pause, partitions)) = pause.filter(|(_, partitions)| !partitions.is_empty()) {
            self.pause(pause, &partitions);
        }
        if !back.is_empty() {
            self.seek(&back);
        }
        false
    }

    fn pause(&self, pause: bool, partitions: &[i32]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        partitions.iter().for_each(|&partition| drop(list.add_partition(&self.shared.topic, partition)));
        let done = if pause { self.client.pause(&list) } else { self.client.resume(&list) };
        match done {
            Ok(()) => {
                let mut inner = self.shared.inner.lock();
                partitions.iter().for_each(|&partition| inner.state.paused(partition, pause));
            }
            Err(error) => tracing::debug!(topic = self.shared.topic, %error, pause, "trying again"),
        }
    }

    /// Puts partitions back; those where that fails are tried again in the next round.
    fn seek(&self, back: &[(i32, i64)]) {
        let mut list = TopicPartitionList::with_capacity(back.len());
        for &(partition, offset) in back {
            if let Err(error) = list.add_partition_offset(&self.shared.topic, partition, Offset::Offset(offset)) {
                tracing::error!(topic = self.shared.topic, partition, offset, %error, "an offset can't be sought");
            }
        }
        match self.client.seek_partitions(list, COMMITTED) {
            Ok(list) => {
                let mut inner = self.shared.inner.lock();
                for element in list.elements() {
                    match element.error() {
                        Ok(()) => inner.state.sought(element.partition()),
                        Err(error) => tracing::debug!(topic = self.shared.topic, %error, "seeking again"),
                    }
                }
            }
            Err(error) => tracing::debug!(topic = self.shared.topic, %error, "seeking again"),
        }
    }
}
