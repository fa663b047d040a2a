//! The whole pipeline, wired in one function: read [`Pipeline::start`] from top to bottom to see what there is.
//!
//! ```text
//! HTTP ─▶ checkout ─▶ engine: partition ─▶ Runner: classify ▸ route ─▶ outbox of a carrier ─▶ its notifier ─▶ carrier
//!         status  ◀── engine: rows                    ▲                                           │
//!                                                     └────────────── outcomes ◀──────────────────┘
//! ```
//! Threads: one an owner, one for the journal, one for checkpoints (all of the engine); everything else are tasks of the
//! caller's Tokio runtime: connections, one task for each carrier's notifier, one that publishes gauges.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use serde::Serialize;
use sluice_carrier::{
    events::CarrierEvents,
    notifier::{Driver, Notifier, NotifierConfig},
    routing::{Route, Table},
};
use sluice_checkout::Checkout;
use sluice_classify::{Classify, RulesError};
use sluice_domain::{Merchants, Operators, SlotCount};
use sluice_engine_embedded::{
    Counts, DataLock, Engine, EngineConfig, FjallDocuments, FjallStore, Opened, RealDisk, Recovered, Retention, Threads,
};
use sluice_events::Events;
use sluice_http::Problem;
use sluice_operator::{Kept, Operator};
use sluice_pipeline::{Clock, Feed, HealthBoard, Intake, LogError, Lookup, Runner, Stage, WordIntake};
use sluice_schemas::event::DEFAULT_SOURCE;
use sluice_status::{Status, stream::Streams};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::{
    clock::SystemClock,
    cluster::ClusterError,
    config::{CarrierConfig, Config, ConfigError},
    exit,
    knowledge::{Known, Studies},
    ops::{self, Ops, Watched},
    reload::Live,
    server::{Patience, Server, Serving},
    telemetry,
    tls::Tls,
    webhooks::{Log, Webhooks},
};

/// How often gauges are published.
const PUBLISH: Duration = Duration::from_secs(1);
/// How long calls under way may still take once the drain's deadline is over.
const NOTIFIER_GRACE: Duration = Duration::from_secs(2);
/// How long requests under way may still take once nothing else is.
const HTTP_GRACE: Duration = Duration::from_secs(1);
/// A drain doesn't wait for orders about which nothing has moved, and no shipment been held, for this long: what is left
/// waits for outcomes that nobody can get.
const QUIET: Duration = Duration::from_secs(1);
/// How often a drain looks.
const LOOK: Duration = Duration::from_millis(10);

/// Why the pipeline can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The rule file can't be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The model can't be used.
    #[error(transparent)]
    Model(#[from] sluice_goods::ModelError),
    /// The embedded catalogue can't be used.
    #[error("the embedded catalogue can't be read: {0}")]
    Data(#[from] sluice_data::DataError),
    /// The data folder can't be opened.
    #[error("data folder {folder}: {source}")]
    Engine {
        /// The folder.
        folder: String,
        /// Why.
        source: LogError,
    },
    /// The address can't be had.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Threads can't be started.
    #[error("can't start a thread: {0}")]
    Threads(std::io::Error),
    /// Kafka or ScyllaDB can't be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl StartError {
    /// The exit code that says so.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Rules(_) | Self::Model(_) => exit::USAGE,
            Self::Data(_) | Self::Threads(_) => exit::INTERNAL,
            Self::Listen { .. } => exit::NO_ADDRESS,
            Self::Engine { source: LogError::Damaged { .. }, .. } => exit::FOUND_WRONG,
            Self::Engine { source: LogError::Io { source, .. }, .. } if source.kind() == ErrorKind::WouldBlock => {
                exit::IN_USE
            }
            Self::Engine { .. } => exit::IO,
            Self::Cluster(_) => exit::NO_SERVER,
        }
    }
}

/// What a drain did, by the engine's own count. `None`, and absent in JSON: this node's roles don't see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DrainReceipt {
    /// Orders that became durable since the start. A node that takes orders and doesn't decide counts a repeated one again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<u64>,
    /// Orders that were finished since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<u64>,
    /// Orders that were dead-lettered since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_lettered: Option<u64>,
    /// Orders in flight that stay in the journal, with which the next start goes on; of a cluster, records on which nobody
    /// has decided.
    pub left_in_journal: u64,
    /// Requests since the start that were answered as the repetition of an earlier one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicates_suppressed: Option<u64>,
    /// How long the drain took.
    pub seconds: f64,
}

/// A running pipeline. Dropping it stops nothing cleanly: that is as a crash; use [`Pipeline::drain`].
pub struct Pipeline {
    engine: Engine,
    threads: Threads,
    server: Server,
    health: Arc<HealthBoard>,
    notifiers: JoinSet<()>,
    stop_notifiers: watch::Sender<bool>,
    webhooks: Webhooks,
    publisher: JoinHandle<()>,
    studying: JoinHandle<()>,
    receipts: JoinHandle<()>,
    failed: watch::Receiver<Option<String>>,
    recovered: Recovered,
    live: Live,
    /// Counts when it was started.
    before: Counts,
    /// Held until everything else has let go of the data folder.
    _lock: DataLock,
}

impl Pipeline {
    /// Opens the data folder, starts everything, and takes orders from then on.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
        let listen = |source| StartError::Listen { address: config.listen, source };
        let reserved = Server::reserve(config.listen).map_err(listen)?;
        let metrics = telemetry::install_metrics();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let merchants = Arc::new(config.merchant_table()?);
        let operators = Arc::new(config.operators()?);
        let table = Arc::new(config.routing_table()?);
        let known = Known::load(&config)?;
        let health = Arc::new(HealthBoard::new(table.carriers().len()));
        let (lock, opened) = open(&config, &table, &clock).await?;
        let Opened { engine, partitions, checkpointer, recovered } = opened;
        let before = engine.counts();
        let documents = documents(&config).await?;
        // Before the first order is decided.
        let studies = Studies::begun(Some(&known), documents.clone()).await;

        let runner = |partition| {
            let stages: Vec<Box<dyn Stage>> = vec![
                Box::new(Classify::new(known.whole(), table.weight_limits())),
                Box::new(Route::new(Arc::clone(&table))),
            ];
            Runner::new(partition, stages, Arc::clone(&health), Arc::clone(&clock))
        };
        let runners = partitions.into_iter().map(runner).collect();
        let (fail, failed) = watch::channel(None);
        let fail = Arc::new(fail);
        let on_failure = {
            let fail = Arc::clone(&fail);
            move |why: &str| drop(fail.send_replace(Some(why.to_owned())))
        };
        let threads = Threads::start(&engine, runners, checkpointer, on_failure).map_err(StartError::Threads)?;

        let (stop_notifiers, stop) = watch::channel(false);
        let world = World { engine: &engine, clock: &clock, health: &health };
        let notifiers = notifiers(&config.carriers, &world, &stop, &fail)?;

        let ops = Ops { engine: Arc::new(Embedded(engine.clone())), metrics };
        let feed: Arc<dyn Feed> = Arc::new(engine.feed());
        let events = events(&config, Arc::clone(&feed), (&merchants, &operators), &clock, &stop);
        let deliveries = Arc::new(Log::new(&config, documents.clone(), &clock)?);
        let operator = operator(&engine, deliveries, studies.kept(), (&operators, &clock));
        let (webhooks, routes) = Webhooks::start(&config, feed, documents, &merchants, &clock).await?;
        let app = app(&config, &engine, &merchants, &clock, ops.clone())?;
        let app = app.merge(sluice_events::router(events)).merge(sluice_operator::router(operator)).merge(routes);
        let server = match Server::start(reserved, app, serving(&config, &tls)) {
            Ok(server) => server,
            Err(source) => {
                drop(notifiers);
                // Whether they end well doesn't matter: nothing was taken yet.
                drop(tokio::task::spawn_blocking(move || threads.join()).await);
                return Err(listen(source));
            }
        };
        let receipts = tokio::spawn(engine.hand_out_receipts());
        Ok(Self {
            engine,
            threads,
            server,
            health,
            notifiers,
            stop_notifiers,
            webhooks,
            publisher: tokio::spawn(publish(ops)),
            studying: studies.go_on(),
            receipts,
            failed,
            recovered,
            live: Live { merchants, operators, tls, known: Some(known) },
            before,
            _lock: lock,
        })
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What opening the data folder found.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Orders in the data folder by class, now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.engine.counts()
    }

    /// Where the API is reached.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What of it can be replaced while it runs.
    #[must_use]
    pub fn live(&self) -> Live {
        self.live.clone()
    }

    /// The engine, for whoever measures it.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Resolves when the engine has failed, with the reason. Nothing acknowledged is lost then, but nothing goes on
    /// either: the process should end and be started again.
    pub async fn failure(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // Nobody is left who could fail.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops in order: no new orders (503 with Retry-After), then what is in flight until `deadline`, then the notifiers,
    /// the API, and the engine. Nothing is lost whenever the process ends before that.
    pub async fn drain(mut self, deadline: Duration) -> DrainReceipt {
        let started = Instant::now();
        self.engine.stop_orders();
        if tokio::time::timeout(deadline, self.settle()).await.is_err() {
            tracing::warn!("the drain's deadline is over with orders in flight; they stay in the journal");
        }
        self.stop_notifiers.send_replace(true);
        while self.notifiers.join_next().await.is_some() {}
        self.engine.watchers().close();
        self.server.stop(HTTP_GRACE).await;
        self.webhooks.stop().await;
        self.publisher.abort();
        self.studying.abort();
        self.receipts.abort();
        let threads = self.threads;
        // The engine's threads are joined on a thread that may block.
        let joined = tokio::task::spawn_blocking(move || threads.join()).await;
        let now = joined.map_or_else(|_| self.engine.counts(), |report| report.counts);
        DrainReceipt {
            accepted: Some(now.accepted.saturating_sub(self.before.accepted)),
            finished: Some(now.finished.saturating_sub(self.before.finished)),
            dead_lettered: Some(now.dead_lettered.saturating_sub(self.before.dead_lettered)),
            left_in_journal: now.in_flight,
            duplicates_suppressed: Some(now.replayed),
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    /// Waits until nothing is in flight, or nothing that is will move.
    async fn settle(&self) {
        let (mut last, mut quiet_since, mut health) = (self.engine.counts(), Instant::now(), Vec::new());
        while last.in_flight > 0 && quiet_since.elapsed() < QUIET {
            tokio::time::sleep(LOOK).await;
            let now = self.engine.counts();
            self.health.snapshot(&mut health);
            if now != last || !self.engine.is_idle() || health.iter().any(|carrier| carrier.backlog > 0) {
                quiet_since = Instant::now();
            }
            last = now;
        }
    }
}

/// The embedded engine as operators see it.
struct Embedded(Engine);

impl Watched for Embedded {
    fn ready(&self) -> Result<(), &'static str> {
        self.0.ready()
    }

    fn publish_metrics(&self) {
        self.0.publish_metrics();
    }
}

fn engine_config(config: &Config, table: &Table) -> EngineConfig {
    let carriers = table.carriers().iter().map(|carrier| carrier.id.as_str().into()).collect();
    let mut engine = EngineConfig::new(carriers);
    engine.partitions = config.partitions;
    engine.journal.segment_bytes = u64::from(config.segment_mb) << 20;
    engine.checkpoint_bytes = u64::from(config.checkpoint_mb) << 20;
    engine.hot_bytes = (config.hot_mb as usize) << 20;
    engine.queue.order_bytes = (config.queue_mb as usize) << 20;
    engine.retention = Retention {
        time_ms: config.retention.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        bytes: config.retention.bytes,
    };
    engine.window_ms = u64::from(config.placed_at_window_s) * 1_000;
    engine
}

/// Opens the data folder on a thread that may block: recovery reads the journal behind the last checkpoint.
async fn open(config: &Config, table: &Table, clock: &Arc<dyn Clock>) -> Result<(DataLock, Opened), StartError> {
    let engine = engine_config(config, table);
    let (folder, clock) = (config.data_dir.clone(), Arc::clone(clock));
    let failed = |source| StartError::Engine { folder: config.data_dir.display().to_string(), source };
    let opening = tokio::task::spawn_blocking(move || {
        let lock = DataLock::take(&folder)?;
        let disk = RealDisk::open(&folder.join("journal")).map_err(LogError::io("opening the journal"))?;
        let store = FjallStore::open(&folder.join("store"))?;
        Ok((lock, Engine::open(engine, Arc::new(disk), Arc::new(store), clock)?))
    });
    let crashed = |error: tokio::task::JoinError| LogError::Store(format!("opening ended early: {error}"));
    opening.await.map_err(crashed).flatten().map_err(failed)
}

/// Opens the documents beside the store, on a thread that may block.
async fn documents(config: &Config) -> Result<Arc<FjallDocuments>, StartError> {
    let folder = config.data_dir.join("documents");
    let failed = |source| StartError::Engine { folder: config.data_dir.display().to_string(), source };
    let opening = tokio::task::spawn_blocking(move || FjallDocuments::open(&folder)).await;
    let crashed = |error: tokio::task::JoinError| LogError::Store(format!("opening ended early: {error}"));
    opening.map_err(crashed).flatten().map(Arc::new).map_err(failed)
}

/// What all notifiers share.
struct World<'a> {
    engine: &'a Engine,
    clock: &'a Arc<dyn Clock>,
    health: &'a Arc<HealthBoard>,
}

fn notifiers(
    carriers: &[CarrierConfig],
    world: &World<'_>,
    stop: &watch::Receiver<bool>,
    fail: &Arc<watch::Sender<Option<String>>>,
) -> Result<JoinSet<()>, StartError> {
    let mut tasks = JoinSet::new();
    for (carrier, carrier_no) in carriers.iter().zip(0..) {
        let driver = Driver {
            outbox: world.engine.outbox(carrier_no),
            outcomes: Arc::new(world.engine.clone()),
            endpoint: carrier.endpoint()?,
            clock: Arc::clone(world.clock),
            health: Arc::clone(world.health),
            carrier_no,
            drain: NOTIFIER_GRACE,
        };
        let notifier = Notifier::new(notifier_config(carrier), RandomState::new().build_hasher().finish());
        let (mut stop, fail, id) = (stop.clone(), Arc::clone(fail), carrier.id.clone());
        tasks.spawn(async move {
            // An error means that whoever would stop it is gone, and then it shall stop, too.
            let shutdown = async move { drop(stop.wait_for(|stop| *stop).await) };
            if let Err(error) = Box::pin(driver.run(notifier, shutdown)).await {
                tracing::error!(carrier = id, %error, "a notifier has failed");
                fail.send_replace(Some(format!("notifier of carrier {id}: {error}")));
            }
        });
    }
    Ok(tasks)
}

pub(crate) fn notifier_config(carrier: &CarrierConfig) -> NotifierConfig {
    let mut config = NotifierConfig::new(carrier.id.as_str(), carrier.idempotent);
    config.calls_in_flight = usize::from(carrier.concurrency);
    config.call_timeout = Duration::from_secs(carrier.timeout_s.into());
    config.give_up_after = Duration::from_secs(carrier.give_up_after_s.into());
    config.manifest_shipments = carrier.manifest_shipments as usize;
    config.manifest_age = Duration::from_millis(carrier.manifest_age_ms.into());
    config
}

/// All routes.
fn app(
    config: &Config,
    engine: &Engine,
    merchants: &Arc<Merchants>,
    clock: &Arc<dyn Clock>,
    ops: Ops,
) -> Result<Router, ConfigError> {
    let engine = Arc::new(engine.clone());
    let mut checkout = Checkout::new(engine.clone(), engine.clone(), Arc::clone(merchants), Arc::clone(clock));
    checkout.window_ms = u64::from(config.placed_at_window_s) * 1_000;
    checkout.max_inflight_bytes = (config.max_inflight_mb as usize) << 20;
    checkout.slow_ack = Duration::from_millis(config.slow_ack_ms.into());
    checkout.limits = config.merchant_limits();
    let events = carrier_events(config, engine.clone(), engine.clone(), clock)?;
    let watchers = Arc::clone(engine.watchers());
    let (merchants, clock) = (Arc::clone(merchants), Arc::clone(clock));
    let status = Status { orders: engine.clone(), words: engine.clone(), lookup: engine, merchants, clock };
    let streams = Streams { status: status.clone(), watchers, limit: config.stream_limit() };
    Ok(sluice_checkout::router(checkout)
        .merge(sluice_status::router(status))
        .merge(sluice_status::stream::router(streams))
        .merge(sluice_carrier::events::router(events))
        .merge(ops::router(ops))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .fallback(|| async { Problem::not_found("There is nothing at this path; /openapi.json says what there is.") }))
}

/// What operators see and have done.
fn operator(
    engine: &Engine,
    deliveries: Arc<Log>,
    kept: Kept,
    (operators, clock): (&Arc<Operators>, &Arc<dyn Clock>),
) -> Operator {
    let engine = Arc::new(engine.clone());
    let (operators, clock) = (Arc::clone(operators), Arc::clone(clock));
    Operator { orders: engine.clone(), lookup: engine.clone(), words: engine, deliveries, kept, operators, clock }
}

/// What consumers are told, until `stop`.
pub(crate) fn events(
    config: &Config,
    feed: Arc<dyn Feed>,
    (merchants, operators): (&Arc<Merchants>, &Arc<Operators>),
    clock: &Arc<dyn Clock>,
    stop: &watch::Receiver<bool>,
) -> Events {
    let source = config.cluster.as_ref().map_or(DEFAULT_SOURCE, |cluster| &cluster.event_source);
    Events {
        feed,
        merchants: Arc::clone(merchants),
        operators: Arc::clone(operators),
        clock: Arc::clone(clock),
        source: source.to_owned(),
        max_streams: config.max_event_streams as usize,
        stop: stop.clone(),
    }
}

/// What carriers tell, on its way to `words`; of a tracking number, by way of `lookup`.
pub(crate) fn carrier_events(
    config: &Config,
    words: Arc<dyn WordIntake>,
    lookup: Arc<dyn Lookup>,
    clock: &Arc<dyn Clock>,
) -> Result<CarrierEvents, ConfigError> {
    Ok(CarrierEvents {
        words,
        lookup,
        tellers: config.carriers.iter().map(CarrierConfig::teller).collect::<Result<_, _>>()?,
        clock: Arc::clone(clock),
        slots: SlotCount::DEFAULT,
        room_kib: sluice_carrier::events::DEFAULT_ROOM_KIB,
    })
}

/// How connections are served.
pub(crate) fn serving(config: &Config, tls: &Option<Arc<Tls>>) -> Serving {
    Serving { connections: config.max_connections, tls: tls.clone(), patience: Patience::default() }
}

async fn publish(ops: Ops) {
    let mut tick = tokio::time::interval(PUBLISH);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        ops::publish(&ops);
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
