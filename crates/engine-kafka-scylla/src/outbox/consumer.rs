//! The threads behind a carrier's outbox. One is a member of the group: it polls, puts partitions back where an outbox
//! starts, pauses them while the outbox is full, and lets them go once what was handed over is committed. The other
//! commits.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    client::Client as Native,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    topic_partition_list::TopicPartitionListElem,
    types::RDKafkaRespErr,
};

use super::{
    OutboxOptions,
    mark::Mark,
    state::{Frame, Phase, Planned, State},
};
use crate::{
    config::LogConfig,
    context::{Quiet, hand_over, leave},
    ledger::Ledger,
    topics::Names,
};

/// How long a poll waits when nothing comes.
const POLL: Duration = Duration::from_millis(20);
/// How long a full buffer keeps the thread from polling before it pauses: what was paused is fetched again only up to a
/// second after it is resumed, which a reader that is just about as fast would notice.
const FULL: Duration = Duration::from_millis(250);
/// How often the end of a wait is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// How long the brokers may take to say what is committed before they are asked again.
const COMMITTED: Duration = Duration::from_secs(2);
/// A commit that has no answer by then is not waited for any longer: librdkafka sets no bound on a synchronous one. Longer
/// than its own bound on a request.
const UNANSWERED: Duration = Duration::from_secs(15);
/// Pause before a client that failed is replaced.
const RECONNECT: Duration = Duration::from_secs(1);
/// How often the same trouble is logged.
const REPEAT: Duration = Duration::from_secs(10);

pub(super) type Client = BaseConsumer<Member>;

/// What the thread, the callbacks and the outboxes share.
pub(super) struct Shared {
    config: LogConfig,
    pub options: OutboxOptions,
    pub carrier: Arc<str>,
    topic: String,
    partitions: u16,
    pub ledger: Arc<Ledger>,
    pub inner: Mutex<Inner>,
    /// Something settled, a reader has gone, or it is to stop.
    pub news: Condvar,
    /// A mark is asked for, or the client goes.
    pub asked: Condvar,
}

pub(super) struct Inner {
    pub state: State,
    pub stop: bool,
    /// Number of the client that may commit; 0 when it goes, and its committer with it.
    committer: u64,
    /// Since when the commit under way waits for its answer, and of which client it is.
    commit_since: Option<(u64, Instant)>,
}

fn commit(client: &Client, topic: &str, planned: &[Planned], mode: CommitMode) -> KafkaResult<()> {
    let mut list = TopicPartitionList::with_capacity(planned.len());
    for part in planned {
        let mut element = list.add_partition(topic, part.partition);
        element.set_offset(Offset::Offset(part.done.0))?;
        element.set_metadata(part.text());
    }
    client.commit(&list, mode)
}

/// Commits what is settled, every so often, and marks at once. On a thread of its own: only a commit that blocks says
/// what became of it, and the group must be polled meanwhile.
fn commits(shared: &Shared, client: &Client, number: u64) {
    let mut due = Instant::now();
    let mut inner = shared.inner.lock();
    while inner.committer == number {
        let now = Instant::now();
        inner.state.advance(shared.ledger.settled());
        let asked = now >= due || inner.state.mark_waits();
        if let Some(planned) = asked.then(|| inner.state.plan()).flatten() {
            inner.commit_since = Some((number, Instant::now()));
            drop(inner);
            let done = commit(client, &shared.topic, &planned, CommitMode::Sync);
            inner = shared.inner.lock();
            if inner.commit_since.is_none_or(|(whose, _)| whose != number) {
                // It was given up meanwhile; what it was about has been forgotten.
                return;
            }
            inner.commit_since = None;
            inner.state.committed(done.is_ok());
            shared.news.notify_all();
            if let Err(error) = done {
                tracing::debug!(topic = shared.topic, %error, "a commit failed; trying again while it is ours");
            }
        }
        if now >= due {
            due = now + shared.options.commit_interval;
            let unsettled = inner.state.unsettled() as f64;
            metrics::gauge!("sluice_outbox_unsettled", "carrier" => shared.carrier.to_string()).set(unsettled);
        }
        if inner.committer == number {
            let wait = if inner.state.mark_waits() { LOOK } else { due.saturating_duration_since(Instant::now()) };
            shared.asked.wait_for(&mut inner, wait);
        }
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
            inner: Mutex::new(Inner { state: State::new(), stop: false, committer: 0, commit_since: None }),
            news: Condvar::new(),
            asked: Condvar::new(),
        })
    }

    /// Makes the client and subscribes.
    pub(super) fn connect(self: &Arc<Self>) -> KafkaResult<Client> {
        let mut client = self.config.consumer(&Names::new(&self.config.prefix).notifiers(&self.carrier));
        client
            // Only partitions that really move are taken away, and only then a notifier has to stop.
            .set("partition.assignment.strategy", "cooperative-sticky")
            // Pausing throws away what was fetched ahead, so that is little.
            .set("queued.max.messages.kbytes", "4096")
            .set("max.partition.fetch.bytes", "1048576")
            // A commit that nobody answers ends, too.
            .set("socket.timeout.ms", "10000");
        let client: Client = client.create_with_context(Member(Arc::clone(self)))?;
        client.subscribe(&[&self.topic])?;
        Ok(client)
    }

    /// Waits until everything that was handed to the reader is settled for good or its reader has gone, and no commit is
    /// under way, at most `bound`.
    fn settle(&self, bound: Duration) -> MutexGuard<'_, Inner> {
        let until = Instant::now() + bound;
        let mut inner = self.inner.lock();
        loop {
            inner.state.advance(self.ledger.settled());
            let now = Instant::now();
            if inner.state.quiet() && !inner.state.committing() || now >= until {
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
}

impl Member {
    /// Partitions come, each from what its group has committed.
    fn assigned(&self, client: &Client, list: &mut TopicPartitionList) -> KafkaResult<()> {
        let shared = &self.0;
        metrics::counter!("sluice_outbox_rebalances_total", "carrier" => shared.carrier.to_string()).increment(1);
        let Some(committed) = self.committed(client, list) else { return client.incremental_assign(list) };
        let mut inner = shared.inner.lock();
        for (partition, offset, mark) in committed {
            if partition >= i32::from(shared.partitions) {
                tracing::warn!(topic = shared.topic, partition, "a partition that the deployment doesn't have");
            }
            inner.state.assigned(partition, offset, mark);
            let start = inner.state.start_of(partition).map_or(Offset::Beginning, Offset::Offset);
            list.set_partition_offset(&shared.topic, partition, start)?;
        }
        drop(inner);
        client.incremental_assign(list)?;
        tracing::info!(topic = shared.topic, partitions = list.count(), "partitions of the outbox came");
        Ok(())
    }

    /// What the group has committed for `list`; asks until the brokers answer, or it is to stop.
    fn committed(&self, client: &Client, list: &TopicPartitionList) -> Option<Vec<(i32, Option<i64>, Mark)>> {
        let shared = &self.0;
        let mut told = false;
        loop {
            let mut ask = TopicPartitionList::with_capacity(list.count());
            for element in list.elements() {
                ask.add_partition(&shared.topic, element.partition());
            }
            let answer = client.committed_offsets(ask, COMMITTED);
            let answer = answer.and_then(|list| list.elements().iter().try_for_each(|e| e.error()).map(|()| list));
            match answer {
                Ok(list) if list.elements().iter().any(|e| self.is_forgotten(e)) => {
                    if !std::mem::replace(&mut told, true) {
                        let topic = &shared.topic;
                        tracing::error!(topic, "the group has no offset; stop the nodes and run `sluice migrate`");
                    }
                }
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

    /// Nobody but an operator can say where the group is to begin: see [`crate::groups`].
    fn is_forgotten(&self, element: &TopicPartitionListElem<'_>) -> bool {
        element.partition() < i32::from(self.0.partitions) && !matches!(element.offset(), Offset::Offset(_))
    }

    fn resume(&self, element: &TopicPartitionListElem<'_>) -> (i32, Option<i64>, Mark) {
        let partition = element.partition();
        let Offset::Offset(offset) = element.offset() else { return (partition, None, Mark::default()) };
        let mark = Mark::parse(element.metadata()).unwrap_or_else(|| {
            let (topic, text) = (&self.0.topic, element.metadata());
            tracing::warn!(topic, partition, offset, text, "a commit's mark can't be read; entries may come again");
            Mark::default()
        });
        (partition, Some(offset), mark)
    }

    /// Partitions go. Their outbox closes; what it has settled by the time is committed before they are let go: the client
    /// doesn't give them on before commits under way are answered.
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
            last_commit(shared, client, &inner.state);
        }
        list.elements().iter().for_each(|e| inner.state.revoked(e.partition()));
        let unsettled = inner.state.unsettled();
        drop(inner);
        tracing::info!(topic = shared.topic, partitions = list.count(), lost, unsettled, "partitions of the outbox go");
        // Without a group there is nothing to be incremental about.
        client.incremental_unassign(list).or_else(|_| client.unassign())
    }
}

/// Commits what is settled without waiting for the answer, as the client does itself before it lets anything go.
fn last_commit(shared: &Shared, client: &Client, state: &State) {
    let planned = state.changed();
    if !planned.is_empty()
        && let Err(error) = commit(client, &shared.topic, &planned, CommitMode::Async)
    {
        tracing::warn!(topic = shared.topic, %error, "what is settled could not be committed; it comes again");
    }
}

/// Why a client is no longer served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is to stop.
    Stop,
    /// It has failed for good.
    Failed,
    /// A commit is never answered, and the thread that waits for it keeps the client.
    Unanswered,
}

/// Serves `client`, and those after it, until it is to stop.
pub(super) fn run(shared: &Arc<Shared>, client: Client) {
    let mut next = Some(client);
    for number in 1.. {
        let Some(client) = next.take().or_else(|| reconnect(shared)) else { return };
        let client = Arc::new(client);
        shared.inner.lock().committer = number;
        let committer = {
            let (shared, client) = (Arc::clone(shared), Arc::clone(&client));
            std::thread::Builder::new()
                .name("outbox-commits".to_owned())
                .spawn(move || commits(&shared, &client, number))
        };
        let end = match &committer {
            Ok(_) => serve(shared, &client),
            Err(error) => {
                tracing::warn!(topic = shared.topic, %error, "no thread to commit on; trying again");
                End::Failed
            }
        };
        if end == End::Stop {
            shared.inner.lock().state.close();
            drop(shared.settle(shared.options.revoke_grace));
        }
        shared.inner.lock().committer = 0;
        shared.asked.notify_all();
        retire(shared, client, committer.ok(), end);
        shared.inner.lock().state.lost();
        if end == End::Stop {
            return;
        }
    }
}

/// Takes a client out of the group; what was asked to be committed is committed first, unless that is what can't be had.
fn retire(shared: &Shared, client: Arc<Client>, committer: Option<JoinHandle<()>>, end: End) {
    let until = Instant::now() + if end == End::Unanswered { Duration::ZERO } else { UNANSWERED };
    if let Some(committer) = committer {
        while !committer.is_finished() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }
    match Arc::try_unwrap(client) {
        Ok(client) => {
            if end == End::Stop {
                last_commit(shared, &client, &shared.inner.lock().state);
            }
            leave(client);
        }
        Err(client) => {
            shared.inner.lock().commit_since = None;
            tracing::warn!(topic = shared.topic, "a commit is not answered; its client is left behind");
            // The group gives its partitions to others, and takes no commit from it any more.
            hand_over(&*client);
        }
    }
}

fn reconnect(shared: &Arc<Shared>) -> Option<Client> {
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

fn serve(shared: &Arc<Shared>, client: &Client) -> End {
    let mut round = Round { shared, client, told: None };
    loop {
        match client.poll(POLL) {
            Some(Ok(message)) => {
                round.take(message.partition(), message.offset(), message.payload().unwrap_or_default())
            }
            Some(Err(error)) => round.trouble(&error),
            None => {}
        }
        if let Some((code, reason)) = Native::fatal_error(client.client()) {
            tracing::warn!(topic = shared.topic, %code, reason, "the consumer has failed; making a new one");
            return End::Failed;
        }
        if shared.inner.lock().commit_since.is_some_and(|(_, since)| since.elapsed() >= UNANSWERED) {
            return End::Unanswered;
        }
        if round.tick() {
            return End::Stop;
        }
    }
}

struct Round<'a> {
    shared: &'a Arc<Shared>,
    client: &'a Client,
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
        let mut inner = shared.inner.lock();
        if inner.stop {
            return true;
        }
        if let Phase::Starting(since) = inner.state.phase {
            // What the reader before has handed over is worth waiting for: it would be sent again.
            inner.state.advance(shared.ledger.settled());
            if !inner.state.has_parts() {
                inner.state.phase = Phase::Starting(Instant::now());
            } else if inner.state.quiet() || since.elapsed() >= shared.options.revoke_grace {
                inner.state.begin();
            }
        }
        let full = shared.options.buffer_bytes;
        let until = Instant::now() + FULL;
        while inner.state.phase == Phase::Open && inner.state.buffered >= full && !inner.stop {
            let over = inner.state.to_pause(true).is_empty();
            if over || shared.news.wait_until(&mut inner, until).timed_out() {
                break;
            }
        }
        let (open, buffered) = (inner.state.phase == Phase::Open, inner.state.buffered);
        let pause = match (open, inner.state.to_pause(true), inner.state.to_pause(false)) {
            (false, running, _) => Some((true, running)),
            (true, running, _) if buffered >= full => Some((true, running)),
            (true, _, resting) if buffered <= full / 4 * 3 => Some((false, resting)),
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
        for &partition in partitions {
            list.add_partition(&self.shared.topic, partition);
        }
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
