//! Runs all endpoints in the real world: feed, HTTP, documents and time. One task looks at whatever has news and no other
//! endpoint; reads, attempts and writes are tasks of their own.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use sluice_pipeline::{Change, Clock, Cursor, Documents, FeedError, LogError};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    about,
    call::{Caller, Post},
    config::{WebhookConfig, ms},
    core::{AttemptId, Heard, Next, Outcome, Subject, Way},
    leftovers,
    model::{self, Delivery, Endpoint, Message},
    registry::{Entry, Reach, Refusal, Registry, body},
    tail::{Found, Tail},
    telemetry::Telemetry,
};

/// How long changes are gathered before they are written.
const GATHER: Duration = Duration::from_millis(50);
/// Pause after documents could not be written.
const REWRITE: Duration = Duration::from_secs(1);
/// How often cursors that have moved over nothing are stored, and what is old is looked for.
const TIDY: Duration = Duration::from_secs(10);
/// How many of those make up the time between two looks at the age of the log.
const TIDIES_PER_SWEEP: u64 = 360;
/// Lines of one log that one look removes at most.
const SWEEP: u64 = 1_000;
/// Changes that wait to be written; beyond it nothing is posted until they are.
const MAX_UNWRITTEN: usize = 10_000;
/// Requests of the API that wait.
const REQUESTS: usize = 64;
/// Documents read at once.
const SCAN: usize = 1_000;

type Work = Box<dyn FnOnce(&mut Run) + Send>;

/// Asks the driver on behalf of the API.
#[derive(Clone)]
pub struct Desk {
    work: mpsc::Sender<Work>,
}

impl Desk {
    /// Does `what` and answers once that is durable.
    ///
    /// # Errors
    /// What `what` says; [`Refusal::Unstored`] when the driver has ended or the documents can't be written now: what was done
    /// is then written as soon as they can, unless the process ends before.
    pub async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Registry, u64) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tell, told) = oneshot::channel();
        let work: Work = Box::new(move |run| {
            let now = run.clock.now_ms();
            let answer = what(&mut run.registry, now);
            if answer.is_err() {
                drop(tell.send(answer));
                return;
            }
            run.urgent = true;
            run.answers
                .push(Box::new(move |stored| drop(tell.send(if stored { answer } else { Err(Refusal::Unstored) }))));
        });
        self.hand_over(work, told).await
    }

    /// Looks, without waiting for anything to be stored.
    ///
    /// # Errors
    /// What `what` says; [`Refusal::Unstored`] when the driver has ended.
    pub async fn look<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Registry) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tell, told) = oneshot::channel();
        self.hand_over(Box::new(move |run| drop(tell.send(what(&mut run.registry)))), told).await
    }

    /// Whoever finds no room is answered 503.
    async fn hand_over<T>(&self, work: Work, told: oneshot::Receiver<Result<T, Refusal>>) -> Result<T, Refusal> {
        self.work.try_send(work).map_err(|_| Refusal::Unstored)?;
        told.await.unwrap_or(Err(Refusal::Unstored))
    }
}

/// What the driver needs from the world.
pub struct World {
    /// The events.
    pub tail: Arc<Tail>,
    /// Where everything is stored.
    pub documents: Arc<dyn Documents>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Posts.
    pub caller: Arc<Caller>,
    /// Endpoints of the configuration.
    pub fixed: Vec<Endpoint>,
    /// Where chance comes from.
    pub seed: u64,
    /// How long attempts under way may still take once it is stopping.
    pub drain: Duration,
}

/// What a task that has ended says.
enum Done {
    Attempt(Arc<str>, AttemptId, Heard),
    Read(Arc<str>, Way, Result<Found, FeedError>),
    Begin(Arc<str>, Result<(Cursor, Cursor), FeedError>),
    Written(Result<(), LogError>),
    Swept(Arc<str>, u64),
}

struct Run {
    registry: Registry,
    config: Arc<WebhookConfig>,
    world: World,
    clock: Arc<dyn Clock>,
    tasks: JoinSet<Done>,
    attempts: usize,
    /// What is being written.
    writing: Option<Arc<Vec<Change>>>,
    /// When to try again to write what could not be.
    rewrite_at_ms: Option<u64>,
    urgent: bool,
    answers: Vec<Box<dyn FnOnce(bool) + Send>>,
    written: Vec<Box<dyn FnOnce(bool) + Send>>,
    /// When what waits is written.
    write_at_ms: Option<u64>,
    wakes: BTreeSet<(u64, Arc<str>)>,
    /// Endpoints that the configuration doesn't name any more.
    leftovers: Arc<[String]>,
    telemetry: Telemetry,
}

/// Reads what is stored and gives the driver, which runs until `shutdown` completes, and what asks it. Blocks: call it from a
/// thread that may.
///
/// # Errors
/// [`LogError`] when the documents can't be read.
pub fn open(world: World, config: WebhookConfig) -> Result<(Desk, Driver), LogError> {
    let config = Arc::new(config);
    let now = world.clock.now_ms();
    let mut registry = Registry::new(Arc::clone(&config), world.seed);
    let documents = &*world.documents;
    let stored = all::<Endpoint>(documents, &model::endpoint_key(""))?;
    // An earlier version didn't name them by merchant; and on a cluster what does must be of this term, like they are.
    let names: Vec<_> = stored.iter().map(|of| model::name(model::made_key(&of.merchant, &of.id))).collect();
    if let Err(error) = documents.write(&names) {
        tracing::warn!(%error, "traces may leave out webhook endpoints until the next start");
    }
    // What the configuration names goes before anything that was stored under the same id.
    let stored = stored.into_iter().filter(|stored| world.fixed.iter().all(|fixed| fixed.id != stored.id));
    for endpoint in world.fixed.iter().cloned().chain(stored) {
        let key = model::standing_key(&endpoint.id);
        let standing = documents.get(&key)?.and_then(|value| model::read(&key, &value));
        let parked = all(documents, &model::schedules_prefix(&endpoint.id))?;
        registry.enter(endpoint, standing.unwrap_or_default(), parked, now);
    }
    let known = registry.entries.keys().map(|id| id.to_string()).collect();
    let leftovers = leftovers::find(documents, &known, now).unwrap_or_else(|error| {
        tracing::warn!(%error, "what is left of webhook endpoints stays until the next start");
        Vec::new()
    });
    let (work, works) = mpsc::channel(REQUESTS);
    let clock = Arc::clone(&world.clock);
    let run = Run {
        registry,
        config,
        world,
        clock,
        tasks: JoinSet::new(),
        attempts: 0,
        writing: None,
        rewrite_at_ms: None,
        urgent: false,
        answers: Vec::new(),
        written: Vec::new(),
        write_at_ms: None,
        wakes: BTreeSet::new(),
        leftovers: leftovers.into(),
        telemetry: Telemetry::new(),
    };
    Ok((Desk { work }, Driver { run, works }))
}

fn all<T: serde::de::DeserializeOwned>(documents: &dyn Documents, prefix: &[u8]) -> Result<Vec<T>, LogError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = documents.scan(prefix, after.as_deref(), SCAN)?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        after = Some(last.clone());
        found.extend(page.iter().filter_map(|(key, value)| model::read(key, value)));
    }
}

/// The driver, to be run.
pub struct Driver {
    run: Run,
    works: mpsc::Receiver<Work>,
}

impl Driver {
    /// Delivers until `shutdown` completes; then waits for attempts under way, up to the drain time, and stores what they say.
    /// Dropping the future cuts them off, as a crash would.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { mut run, mut works } = self;
        let tail = Arc::clone(&run.world.tail);
        let follower = tokio::spawn(async move { tail.follow().await });
        let mut shutdown = std::pin::pin!(shutdown);
        let mut tidy = tokio::time::interval(TIDY);
        let mut tidies = 0u64;
        loop {
            run.act();
            let wait = run.wait();
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                // Before what keeps coming under load: there are few of these.
                Some(work) = works.recv() => work(&mut run),
                _ = tidy.tick() => {
                    tidies += 1;
                    run.tidy(tidies.is_multiple_of(TIDIES_PER_SWEEP));
                }
                Some(done) = run.tasks.join_next(), if !run.tasks.is_empty() => run.hear(done),
                () = tokio::time::sleep(wait) => {}
            }
        }
        follower.abort();
        run.stop().await;
    }
}

impl Run {
    /// Does what there is to do, and nothing else.
    fn act(&mut self) {
        let now = self.clock.now_ms();
        while let Some((at, _)) = self.wakes.first()
            && *at <= now
            && let Some((_, id)) = self.wakes.pop_first()
        {
            if let Some(entry) = self.registry.entries.get_mut(&id) {
                entry.wake_ms = None;
            }
            self.registry.ready.insert(id);
        }
        let unwritten = self.writing.as_ref().map_or(0, |writing| writing.len()) + self.registry.changes.len();
        if self.rewrite_at_ms.is_none() && unwritten < MAX_UNWRITTEN {
            while self.attempts < self.config.total_concurrency
                && let Some(id) = self.registry.ready.pop()
            {
                self.look_at(&id, now);
            }
        }
        self.write(now);
    }

    /// Reads, posts and notes whatever the endpoint wants.
    fn look_at(&mut self, id: &Arc<str>, now: u64) {
        let Some(entry) = self.registry.entries.get_mut(id) else { return };
        if entry.core.is_new() {
            let (id, tail) = (Arc::clone(id), Arc::clone(&self.world.tail));
            self.tasks.spawn(async move { Done::Begin(id, tail.bounds().await) });
            return;
        }
        while let Some((way, after, max)) = entry.core.wants(now) {
            let (id, tail) = (Arc::clone(id), Arc::clone(&self.world.tail));
            let merchant = entry.endpoint.merchant.clone();
            let told = if way == Way::Replay { entry.core.told().cloned() } else { None };
            let read = async move { tail.read(after, &merchant, max, told.as_ref()).await };
            self.tasks.spawn(async move { Done::Read(id, way, read.await) });
        }
        let mut wake = None;
        while self.attempts < self.config.total_concurrency {
            match entry.core.next(now) {
                Next::Send(attempt, subject) => {
                    let unwritten = [self.writing.as_deref().map(Vec::as_slice), Some(&self.registry.changes)];
                    let parcel = Parcel::new(entry, subject, &unwritten);
                    self.attempts += 1;
                    self.tasks.spawn(parcel.post(attempt, &self.world, &self.config));
                }
                Next::WaitUntil(at) => {
                    wake = Some(at);
                    break;
                }
                Next::Idle => break,
            }
        }
        if self.attempts >= self.config.total_concurrency {
            self.registry.ready.insert(Arc::clone(id));
        }
        if let Some(at) = std::mem::replace(&mut entry.wake_ms, wake) {
            self.wakes.remove(&(at, Arc::clone(id)));
        }
        if let Some(at) = wake {
            self.wakes.insert((at, Arc::clone(id)));
        }
        if entry.core.has_changes() {
            self.registry.dirty.insert(Arc::clone(id));
        }
    }

    fn hear(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = self.clock.now_ms();
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                // A task that panicked has lost its endpoint's name: that endpoint hangs until the next start, which is told.
                tracing::error!(%error, "a task of webhooks ended early");
                return;
            }
        };
        let id = match done {
            Done::Written(result) => return self.wrote(result, now),
            Done::Attempt(id, attempt, heard) => {
                self.attempts -= 1;
                self.telemetry.attempt(&heard);
                let Some(entry) = self.registry.entries.get_mut(&id) else { return };
                if entry.core.answered(attempt, heard, now) {
                    self.registry.gone(&id);
                }
                id
            }
            Done::Read(id, way, result) => {
                let Some(entry) = self.registry.entries.get_mut(&id) else { return };
                match result {
                    Ok(found) => entry.core.push(way, found.items, found.next, found.at_end, now),
                    Err(FeedError::Expired { oldest }) => {
                        tracing::warn!(endpoint = %id, %oldest, "events are gone before a webhook endpoint was told of them");
                        entry.core.expired(way, oldest, now);
                        self.wakes.insert((now + ms(REWRITE), Arc::clone(&id)));
                    }
                    Err(error) => {
                        tracing::warn!(endpoint = %id, %error, "events for a webhook endpoint can't be read");
                        entry.core.unread(way, now);
                        self.wakes.insert((now + ms(REWRITE), Arc::clone(&id)));
                        return;
                    }
                }
                id
            }
            Done::Begin(id, Ok((_, newest))) => {
                if let Some(entry) = self.registry.entries.get_mut(&id) {
                    entry.core.begin(newest);
                }
                id
            }
            Done::Begin(id, Err(error)) => {
                tracing::warn!(endpoint = %id, %error, "the end of the feed can't be found");
                self.wakes.insert((now + ms(REWRITE), id));
                return;
            }
            Done::Swept(id, keep_from) => {
                if let Some(entry) = self.registry.entries.get_mut(&id) {
                    entry.core.forget(keep_from);
                }
                id
            }
        };
        self.registry.ready.insert(id);
    }

    /// Begins to write what waits, if it has waited long enough.
    fn write(&mut self, now: u64) {
        if let Some(at) = self.rewrite_at_ms {
            if now >= at
                && let Some(writing) = &self.writing
            {
                self.rewrite_at_ms = None;
                self.spawn_write(Arc::clone(writing));
            }
            return;
        }
        let waits = !self.registry.dirty.is_empty() || !self.registry.changes.is_empty() || !self.answers.is_empty();
        if self.writing.is_some() || !waits {
            return;
        }
        let at = *self.write_at_ms.get_or_insert(now + ms(GATHER));
        if now < at && !self.urgent {
            return;
        }
        (self.urgent, self.write_at_ms) = (false, None);
        let mut batch = std::mem::take(&mut self.registry.changes);
        for id in std::mem::take(&mut self.registry.dirty) {
            if let Some(entry) = self.registry.entries.get_mut(&id) {
                entry.core.changes(&mut batch, true);
            }
        }
        self.written.append(&mut self.answers);
        if batch.is_empty() {
            self.written.drain(..).for_each(|answer| answer(true));
            return;
        }
        let batch = Arc::new(batch);
        self.writing = Some(Arc::clone(&batch));
        self.spawn_write(batch);
    }

    fn spawn_write(&mut self, batch: Arc<Vec<Change>>) {
        let documents = Arc::clone(&self.world.documents);
        self.tasks.spawn_blocking(move || Done::Written(about::write(&*documents, &batch)));
    }

    fn wrote(&mut self, result: Result<(), LogError>, now: u64) {
        let stored = result.is_ok();
        match result {
            Ok(()) => self.writing = None,
            Err(error) => {
                tracing::warn!(%error, "what webhooks have done can't be stored; nothing is posted until it can");
                self.rewrite_at_ms = Some(now + ms(REWRITE));
            }
        }
        self.written.drain(..).for_each(|answer| answer(stored));
        if !stored {
            // What was asked for meanwhile waits for the same documents.
            self.answers.drain(..).for_each(|answer| answer(false));
        }
    }

    /// How long nothing needs to be done unless something is heard.
    fn wait(&self) -> Duration {
        let now = self.clock.now_ms();
        let wakes = self.wakes.first().map(|(at, _)| *at);
        let write = if self.writing.is_none() { self.write_at_ms } else { self.rewrite_at_ms };
        let at = [wakes, write].into_iter().flatten().min();
        at.map_or(TIDY, |at| Duration::from_millis(at.saturating_sub(now)).min(TIDY))
    }

    /// Stores cursors that have moved over nothing, publishes gauges, and now and then looks for lines of the log that are old.
    fn tidy(&mut self, sweep: bool) {
        let now = self.clock.now_ms();
        self.world.caller.close_unused();
        self.telemetry.publish(&self.registry, self.attempts, now);
        let before = now.saturating_sub(ms(self.config.log_age));
        if sweep && !self.leftovers.is_empty() {
            let (documents, ids) = (Arc::clone(&self.world.documents), Arc::clone(&self.leftovers));
            tokio::task::spawn_blocking(move || {
                if let Err(error) = leftovers::remove(&*documents, &ids, before) {
                    tracing::warn!(%error, "what is left of webhook endpoints can't be removed now");
                }
            });
        }
        for (id, entry) in &self.registry.entries {
            self.registry.dirty.insert(Arc::clone(id));
            if sweep {
                let (id, documents, standing) =
                    (Arc::clone(id), Arc::clone(&self.world.documents), entry.core.standing());
                let (oldest, next) = (standing.log_oldest, standing.log_next);
                self.tasks.spawn_blocking(move || {
                    let keep_from = old_lines(&*documents, &id, oldest..next.min(oldest + SWEEP), before);
                    Done::Swept(id, keep_from)
                });
            }
        }
    }

    /// Hears what is under way, up to the drain time, and stores it.
    async fn stop(mut self) {
        let until = tokio::time::Instant::now() + self.world.drain;
        while self.attempts > 0 || self.writing.is_some() {
            let Ok(Some(done)) = tokio::time::timeout_at(until, self.tasks.join_next()).await else { break };
            self.hear(done);
        }
        self.tasks.abort_all();
        let mut batch = std::mem::take(&mut self.registry.changes);
        for entry in self.registry.entries.values_mut() {
            entry.core.changes(&mut batch, true);
        }
        let (documents, earlier) = (Arc::clone(&self.world.documents), self.writing.take());
        let stored = tokio::task::spawn_blocking(move || {
            // Written twice it is the same.
            earlier.map_or(Ok(()), |earlier| about::write(&*documents, &earlier))?;
            about::write(&*documents, &batch)
        });
        if let Ok(Err(error)) = stored.await {
            tracing::warn!(%error, "the last of what webhooks have done can't be stored; it is done again after the start");
        }
    }
}

/// The first of `numbers` that isn't older than `before`, ms since the Unix epoch.
fn old_lines(documents: &dyn Documents, id: &str, numbers: std::ops::Range<u64>, before: u64) -> u64 {
    let end = numbers.end;
    let is_young = |number: &u64| {
        let key = model::delivery_key(id, *number);
        match documents.get(&key) {
            Ok(line) => line.and_then(|value| model::read::<Delivery>(&key, &value)).is_some_and(|l| l.at_ms >= before),
            // Whoever can't tell forgets nothing.
            Err(_) => true,
        }
    };
    numbers.into_iter().find(is_young).unwrap_or(end)
}

/// An event on its way to an endpoint.
struct Parcel {
    endpoint: Arc<str>,
    reach: Option<Reach>,
    message: Content,
}

enum Content {
    Here(Arc<Message>),
    /// Put aside so lately that it isn't written yet.
    Unwritten(Vec<u8>),
    Stored(Vec<u8>),
}

impl Parcel {
    fn new(entry: &Entry, subject: Subject, unwritten: &[Option<&[Change]>]) -> Self {
        let message = match subject {
            Subject::Fresh(message) => Content::Here(message),
            Subject::Parked(number) => {
                let wanted = model::message_key(&entry.id, number);
                let mut changes = unwritten.iter().flatten().copied().chain([entry.core.unwritten()]).flatten();
                let found = changes.find_map(|change| match change {
                    Change::Put { key, value } if *key == wanted => Some(value.clone()),
                    _ => None,
                });
                found.map_or(Content::Stored(wanted), Content::Unwritten)
            }
        };
        Self { endpoint: Arc::clone(&entry.id), reach: entry.reach.clone(), message }
    }

    fn post(
        self,
        attempt: AttemptId,
        world: &World,
        config: &Arc<WebhookConfig>,
    ) -> impl Future<Output = Done> + Send + 'static {
        let (documents, clock) = (Arc::clone(&world.documents), Arc::clone(&world.clock));
        let (caller, config) = (Arc::clone(&world.caller), Arc::clone(config));
        async move {
            let id = Arc::clone(&self.endpoint);
            let started = clock.monotonic_us();
            let outcome = self.exchange(documents, &caller, &*clock, &config).await;
            let took_ms = clock.monotonic_us().saturating_sub(started) / 1_000;
            Done::Attempt(id, attempt, Heard { outcome, took_ms })
        }
    }

    async fn exchange(
        self,
        documents: Arc<dyn Documents>,
        caller: &Caller,
        clock: &dyn Clock,
        config: &WebhookConfig,
    ) -> Outcome {
        let Some(reach) = self.reach else {
            return Outcome::Failed(None, "the URL may not be called, or the secret can't be used".to_owned());
        };
        let message = match self.message {
            Content::Here(message) => Some(message),
            Content::Unwritten(value) => model::read(b"", &value).map(Arc::new),
            Content::Stored(key) => {
                let read = tokio::task::spawn_blocking(move || Ok((documents.get(&key)?, key))).await;
                let read = read.unwrap_or_else(|error| Err(LogError::Store(error.to_string())));
                match read {
                    Ok((Some(value), key)) => model::read(&key, &value).map(Arc::new),
                    Ok((None, _)) => None,
                    Err(error) => {
                        tracing::warn!(%error, "an event that was put aside can't be read");
                        return Outcome::Unmade;
                    }
                }
            }
        };
        let Some(message) = message else {
            return Outcome::Failed(None, "the event can't be read; a replay of its time posts it again".to_owned());
        };
        let Ok(body) = body(&message, &config.source) else {
            return Outcome::Failed(None, "the event is no JSON".to_owned());
        };
        let now_ms = clock.now_ms();
        let (at_s, signatures) = reach.sign(&message.id, now_ms, &body);
        let post = Post {
            endpoint: self.endpoint,
            target: reach.target,
            id: message.id.clone(),
            at_s,
            signatures,
            body: Bytes::from(body),
        };
        caller.post(&post, now_ms).await
    }
}
