//! One node of a cluster: the same stages and services as in one process, with Kafka as the log and ScyllaDB for rows.
//!
//! ```text
//! checkout ─▶ orders topic ─▶ classify: owners ─▶ shipments topics ─▶ carrier: notifiers ─▶ carriers
//!                  ▲                     └──────▶ decisions topic ─▶ status: folds ─▶ rows ─▶ GET
//!                  └───────────── outcomes ◀──────────────────────────────┘
//! ```
//! A node has any of the five roles, and there are any number of each; they meet in the log alone.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use serde::Deserialize;
use sluice_carrier::{
    notifier::{Driver, Notifier},
    routing::{Route, Table},
};
use sluice_checkout::Checkout;
use sluice_classify::Classify;
use sluice_domain::{Merchants, Operators};
use sluice_engine_kafka_scylla::{
    ClusterLookup, ClusterOrders, Deployment, Fold, LogConfig, OutcomeWriter, Owners, OwnersConfig, Presence, Progress,
    TopicFeed, Writer, groups,
    outbox::{CarrierConsumer, OutboxOptions},
    owner::MakeStages,
    store::{CqlDocuments, Store},
    topics::{self, read_deployment},
    watch as changes,
};
use sluice_http::Problem;
use sluice_operator::Operator;
use sluice_pipeline::{Clock, HealthBoard, Intake, Stage, Watchers};
use sluice_status::{Status, stream::Streams};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{
    ClusterError,
    webhooks::{Hooks, Means, Routes},
};
use crate::{
    clock::SystemClock,
    config::{Config, ConfigError},
    knowledge::{Known, Studies},
    ops::{self, Ops, Watched},
    reload::Live,
    server::Server,
    telemetry,
    tls::Tls,
    topology::{self, DrainReceipt, StartError},
    webhooks::Log,
};

/// How often gauges are published, and readiness is looked at.
const PUBLISH: Duration = Duration::from_millis(500);
/// How long calls under way may still take once a drain has begun.
const NOTIFIER_GRACE: Duration = Duration::from_secs(2);
/// How long requests under way may still take.
const HTTP_GRACE: Duration = Duration::from_secs(1);
/// A drain ends when nothing has been left to do for so long.
const QUIET: Duration = Duration::from_secs(1);
/// How long a start and a receipt wait for the brokers' word on what is left to do.
const REFRESH: Duration = Duration::from_secs(3);
/// How often a drain looks.
const LOOK: Duration = Duration::from_millis(50);

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes orders over HTTP and makes them durable.
    Checkout,
    /// Decides: classifies goods, splits orders into parcels, routes them.
    Classify,
    /// Tells carriers.
    Carrier,
    /// Folds decisions into rows, and shows orders.
    Status,
    /// Tells merchants' webhooks; one node at a time, the others stand by.
    Webhooks,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 5] = [Role::Checkout, Role::Classify, Role::Carrier, Role::Status, Role::Webhooks];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Checkout => "checkout",
            Self::Classify => "classify",
            Self::Carrier => "carrier",
            Self::Status => "status",
            Self::Webhooks => "webhooks",
        }
    }
}

/// What readiness and gauges are taken from.
struct Health {
    writer: Option<Writer>,
    progress: Arc<Progress>,
}

impl Watched for Health {
    fn ready(&self) -> Result<(), &'static str> {
        if !self.progress.is_fresh() {
            return Err("the brokers can't be reached");
        }
        self.writer.as_ref().map_or(Ok(()), Intake::ready)
    }

    fn publish_metrics(&self) {
        if let Some(writer) = &self.writer {
            metrics::gauge!("sluice_log_waiting_bytes").set(writer.waiting_bytes() as f64);
        }
    }
}

/// A running node. Dropping it stops nothing cleanly; use [`Node::drain`].
pub struct Node {
    server: Server,
    progress: Arc<Progress>,
    health: Arc<HealthBoard>,
    writer: Option<Writer>,
    presence: Arc<Presence>,
    owners: Option<Owners>,
    folds: Option<Fold>,
    carriers: Vec<Arc<CarrierConsumer>>,
    notifiers: JoinSet<()>,
    stop_notifiers: watch::Sender<bool>,
    background: Vec<JoinHandle<()>>,
    watchers: Arc<Watchers>,
    hooks: Option<Hooks>,
    takes_orders: bool,
    deployment: Deployment,
    live: Live,
}

/// What is made before any role.
struct Base {
    config: Config,
    log: LogConfig,
    deployment: Deployment,
    store: Arc<Store>,
    progress: Arc<Progress>,
    clock: Arc<dyn Clock>,
    merchants: Arc<Merchants>,
    operators: Arc<Operators>,
    table: Arc<Table>,
    health: Arc<HealthBoard>,
    /// Who follows which order.
    watchers: Arc<Watchers>,
}

impl Base {
    async fn new(config: Config, roles: &[Role]) -> Result<Self, StartError> {
        let missing = || ConfigError::at("cluster", "expected a [cluster] section; `sluice worker --example` shows it");
        let cluster = config.cluster.clone().ok_or_else(missing)?;
        let log = cluster.log(&config)?;
        let merchants = Arc::new(config.merchant_table()?);
        let operators = Arc::new(config.operators()?);
        let table = Arc::new(config.routing_table()?);
        let asked = log.clone();
        let deployment = tokio::task::spawn_blocking(move || read_deployment(&asked)).await;
        let deployment = deployment.map_err(|e| ClusterError::Internal(e.to_string()))?.map_err(ClusterError::from)?;
        let (asked, carries) = (log.clone(), roles.contains(&Role::Carrier));
        let ready = tokio::task::spawn_blocking(move || {
            topics::complete(&asked, deployment)?;
            if carries { groups::begun(&asked, deployment) } else { Ok(()) }
        });
        ready.await.map_err(|e| ClusterError::Internal(e.to_string()))?.map_err(ClusterError::from)?;
        let store = Arc::new(Store::connect(&cluster.rows()).await.map_err(ClusterError::from)?);
        let health = Arc::new(HealthBoard::new(table.carriers().len()));
        let progress = Progress::start(&log, deployment).map_err(ClusterError::from)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let watchers = Watchers::new();
        Ok(Self { config, log, deployment, store, progress, clock, merchants, operators, table, health, watchers })
    }

    fn owners(&self, known: &Known) -> Result<Owners, StartError> {
        let (knowledge, table) = (known.whole(), Arc::clone(&self.table));
        let stages: MakeStages = Arc::new(move || {
            let stages: Vec<Box<dyn Stage>> = vec![
                Box::new(Classify::new(Arc::clone(&knowledge), table.weight_limits())),
                Box::new(Route::new(Arc::clone(&table))),
            ];
            stages
        });
        let threads = self.config.cluster.as_ref().map_or(1, |c| usize::from(c.owner_threads));
        let owners = OwnersConfig {
            log: self.log.clone(),
            deployment: self.deployment,
            threads,
            store: self.store.clone(),
            folded: {
                let progress = Arc::clone(&self.progress);
                Arc::new(move |partition| progress.fold_offset(partition))
            },
            runtime: tokio::runtime::Handle::current(),
            health: Arc::clone(&self.health),
            clock: Arc::clone(&self.clock),
        };
        Ok(Owners::start(&owners, &stages).map_err(ClusterError::from)?)
    }

    fn fold(&self) -> Result<Fold, StartError> {
        let (store, watchers) = (Arc::clone(&self.store), Arc::clone(&self.watchers));
        let fold = Fold::start(&self.log, store, tokio::runtime::Handle::current(), watchers);
        Ok(fold.map_err(ClusterError::from)?)
    }

    /// What reviewers have decided for good, for `known` to go by.
    async fn studies(&self, known: Option<&Arc<Known>>) -> Arc<Studies> {
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        Studies::begun(known, Arc::new(CqlDocuments::shared(store, Handle::current(), clock))).await
    }

    /// Waits a while for the brokers' first word on how far everybody is: before it a node calls itself not ready.
    async fn learn(&self) {
        let until = Instant::now() + REFRESH;
        while !self.progress.is_fresh() && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The routes of `roles`.
    fn app(
        &self,
        roles: &[Role],
        writer: Option<&Writer>,
        (ops, studies): (Ops, &Arc<Studies>),
        stop: &watch::Receiver<bool>,
    ) -> Result<Router, ConfigError> {
        let orders = Arc::new(ClusterOrders::new(
            Arc::clone(&self.store),
            Arc::clone(&self.progress),
            self.deployment,
            Arc::clone(&self.clock),
        ));
        let lookup = Arc::new(ClusterLookup::new(Arc::clone(&self.store), Arc::clone(&self.clock)));
        let mut app = ops::router(ops);
        if let Some(writer) = writer.filter(|_| roles.contains(&Role::Checkout)) {
            let (merchants, clock) = (Arc::clone(&self.merchants), Arc::clone(&self.clock));
            let mut checkout = Checkout::new(Arc::new(writer.clone()), orders.clone(), merchants, clock);
            checkout.window_ms = u64::from(self.config.placed_at_window_s) * 1_000;
            checkout.max_inflight_bytes = (self.config.max_inflight_mb as usize) << 20;
            checkout.slow_ack = Duration::from_millis(self.config.slow_ack_ms.into());
            checkout.limits = self.config.merchant_limits();
            if let Ok(slots) = self.deployment.slot_count() {
                checkout.slots = slots;
            }
            app = app.merge(sluice_checkout::router(checkout));
        }
        if let Some(writer) = writer.filter(|_| roles.contains(&Role::Status)) {
            let (merchants, clock) = (Arc::clone(&self.merchants), Arc::clone(&self.clock));
            let feed = Arc::new(TopicFeed::new(&self.log));
            let events = topology::events(&self.config, feed, (&merchants, &self.operators), &clock, stop);
            let documents = Arc::new(CqlDocuments::new(Arc::clone(&self.store), Handle::current()));
            let deliveries = Arc::new(Log::new(&self.config, documents, &clock)?);
            let operators = Arc::clone(&self.operators);
            let words = Arc::new(writer.clone());
            let operator = Operator {
                orders: orders.clone(),
                lookup: lookup.clone(),
                words: words.clone(),
                deliveries,
                kept: studies.kept(),
                operators,
                clock: Arc::clone(&clock),
            };
            app = app.merge(sluice_events::router(events)).merge(sluice_operator::router(operator));
            let status = Status { orders, words, lookup: lookup.clone(), merchants, clock };
            let (watchers, limit) = (Arc::clone(&self.watchers), self.config.stream_limit());
            let streams = Streams { status: status.clone(), watchers, limit };
            app = app.merge(sluice_status::router(status)).merge(sluice_status::stream::router(streams));
        }
        if let Some(writer) = writer.filter(|_| roles.contains(&Role::Carrier)) {
            let mut events = topology::carrier_events(&self.config, Arc::new(writer.clone()), lookup, &self.clock)?;
            if let Ok(slots) = self.deployment.slot_count() {
                events.slots = slots;
            }
            app = app.merge(sluice_carrier::events::router(events));
        }
        Ok(app.method_not_allowed_fallback(|| async { Problem::method_not_allowed() }))
    }

    /// Waits for the turn to deliver webhooks.
    fn hooks(&self, routes: &Routes) -> Result<Hooks, StartError> {
        let means = Means {
            config: self.config.clone(),
            log: self.log.clone(),
            store: Arc::clone(&self.store),
            merchants: Arc::clone(&self.merchants),
            clock: Arc::clone(&self.clock),
        };
        Ok(Hooks::start(means, routes.clone())?)
    }
}

impl Node {
    /// Connects and starts `roles`.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then that would matter.
    pub async fn start(config: Config, roles: &[Role]) -> Result<Self, StartError> {
        config.check()?;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
        let listen = |source| StartError::Listen { address: config.listen, source };
        let reserved = Server::reserve(config.listen).map_err(listen)?;
        let metrics = telemetry::install_metrics();
        let has = |role| roles.contains(&role);
        // Before anybody is connected to: a wrong rule file is no matter of the brokers.
        let known = has(Role::Classify).then(|| Known::load(&config)).transpose()?;
        let base = Base::new(config.clone(), roles).await?;
        let writes = [Role::Checkout, Role::Carrier, Role::Status].into_iter().any(has);
        let writer =
            writes.then(|| Writer::start(&base.log, base.deployment).map_err(ClusterError::from)).transpose()?;
        let presence = Presence::start(&base.log, base.deployment, has(Role::Checkout)).map_err(ClusterError::from)?;
        let presence = Arc::new(presence);
        let studies = base.studies(known.as_ref()).await;
        let owners = known.as_deref().map(|known| base.owners(known)).transpose()?;
        let folds = has(Role::Status).then(|| base.fold()).transpose()?;
        let (stop_notifiers, stop) = watch::channel(false);
        let (mut notifiers, mut carriers) = (JoinSet::new(), Vec::new());
        if let Some(writer) = writer.as_ref().filter(|_| has(Role::Carrier)) {
            carriers = start_notifiers(&base, writer, &stop, &mut notifiers)?;
        }
        // Orders can be read whatever can't be written.
        let writer_matters = has(Role::Checkout) || has(Role::Carrier);
        let watched =
            Health { writer: writer.clone().filter(|_| writer_matters), progress: Arc::clone(&base.progress) };
        let ops = Ops { engine: Arc::new(watched), metrics };
        let routes = Routes::default();
        let hooks = has(Role::Webhooks).then(|| base.hooks(&routes)).transpose()?;
        let app = base.app(roles, writer.as_ref(), (ops.clone(), &studies), &stop)?;
        let app = match hooks {
            Some(_) => app.fallback(move |request| routes.clone().answer(request, nothing)),
            None => app.fallback(|| async { nothing() }),
        };
        base.learn().await;
        let server = Server::start(reserved, app, topology::serving(&config, &tls)).map_err(listen)?;
        let mut background = vec![tokio::spawn(publish(ops)), studies.go_on()];
        if let Some(writer) = &writer {
            let (presence, progress) = (Arc::clone(&presence), Arc::clone(&base.progress));
            background.push(tokio::spawn(hold_back(writer.clone(), presence, progress, base.log.max_lag)));
        }
        if has(Role::Status) {
            let (store, watchers) = (Arc::clone(&base.store), Arc::clone(&base.watchers));
            background.push(tokio::spawn(changes::look(store, watchers, Arc::clone(&base.clock))));
        }
        Ok(Self {
            server,
            progress: base.progress,
            health: base.health,
            writer,
            presence,
            owners,
            folds,
            carriers,
            notifiers,
            stop_notifiers,
            background,
            watchers: base.watchers,
            hooks,
            takes_orders: has(Role::Checkout),
            deployment: base.deployment,
            live: Live { merchants: base.merchants, operators: base.operators, tls, known },
        })
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The map of slots it goes by.
    #[must_use]
    pub fn deployment(&self) -> Deployment {
        self.deployment
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

    /// Returns once the slots were dealt out anew: this node goes by an old map, and must be started again.
    pub async fn outdated(&self) {
        let mut tick = tokio::time::interval(PUBLISH);
        while !self.presence.is_outdated() && !self.owners.as_ref().is_some_and(Owners::is_outdated) {
            tick.tick().await;
        }
    }

    /// Stops in order: no new orders (503 with Retry-After); a node with every role goes on until nothing is left or
    /// `deadline` has passed; then notifiers, owners, folds and the API. What is left stays in the log.
    pub async fn drain(mut self, deadline: Duration) -> DrainReceipt {
        let started = Instant::now();
        self.background.iter().for_each(JoinHandle::abort);
        if let Some(writer) = &self.writer {
            writer.hold(Some("it is draining"));
        }
        let whole = self.owners.is_some() && self.folds.is_some() && !self.carriers.is_empty() && self.writer.is_some();
        if whole && tokio::time::timeout(deadline, self.settle()).await.is_err() {
            tracing::warn!("the drain's deadline is over with orders in flight; they stay in the log");
        }
        self.stop_notifiers.send_replace(true);
        while self.notifiers.join_next().await.is_some() {}
        self.watchers.close();
        self.server.stop(HTTP_GRACE).await;
        if let Some(hooks) = self.hooks.take() {
            hooks.stop().await;
        }
        let (writer, carriers, owners) = (self.writer, self.carriers, self.owners);
        let (folds, presence, progress, takes_orders) = (self.folds, self.presence, self.progress, self.takes_orders);
        let stopped = tokio::task::spawn_blocking(move || {
            let acknowledged = writer.map(|writer| {
                writer.close();
                let until = Instant::now() + Duration::from_secs(5);
                while writer.waiting_bytes() > 0 && Instant::now() < until {
                    std::thread::sleep(LOOK);
                }
                writer.acknowledged()
            });
            carriers.into_iter().filter_map(Arc::into_inner).for_each(CarrierConsumer::close);
            let counts = owners.map(Owners::stop);
            if let Some(folds) = folds {
                let summary = folds.stop();
                tracing::info!(?summary, "folded");
            }
            presence.stop();
            if !progress.refresh(REFRESH) {
                tracing::warn!("the brokers don't say what is left in the log; the receipt has what was last known");
            }
            let left = progress.owners_lag();
            progress.stop();
            (acknowledged, counts, left)
        });
        let (acknowledged, counts, left) = stopped.await.unwrap_or_default();
        DrainReceipt {
            // Owners know an order from its repetition.
            accepted: counts.as_ref().map(|counts| counts.accepted).or(acknowledged.filter(|_| takes_orders)),
            finished: counts.as_ref().map(|counts| counts.finished),
            dead_lettered: counts.as_ref().map(|counts| counts.dead_lettered.saturating_sub(counts.reopened)),
            left_in_journal: left,
            duplicates_suppressed: counts.as_ref().map(|counts| counts.replayed),
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    /// Waits until nothing moves any more.
    async fn settle(&self) {
        let (mut quiet_since, mut health) = (Instant::now(), Vec::new());
        let mut last = self.owners.as_ref().map(Owners::counts);
        while quiet_since.elapsed() < QUIET {
            tokio::time::sleep(LOOK).await;
            self.health.snapshot(&mut health);
            let now = self.owners.as_ref().map(Owners::counts);
            let busy = self.writer.as_ref().is_some_and(|w| w.waiting_bytes() > 0);
            let behind = self.progress.owners_lag() + self.progress.folds_lag() > 0;
            if now != last || busy || behind || health.iter().any(|carrier| carrier.backlog > 0) {
                quiet_since = Instant::now();
            }
            last = now;
        }
    }
}

fn nothing() -> Problem {
    Problem::not_found("There is nothing at this path on this node; /openapi.json says what the whole API has.")
}

/// Starts a consumer and a notifier for each carrier. A notifier ends when partitions are taken from its outbox, and
/// another begins over what is left.
fn start_notifiers(
    base: &Base,
    writer: &Writer,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<Arc<CarrierConsumer>>, StartError> {
    let mut consumers = Vec::new();
    for (carrier, carrier_no) in base.config.carriers.iter().zip(0..) {
        let outcomes = Arc::new(OutcomeWriter::new(writer.clone()));
        let partitions = base.deployment.partitions;
        let consumer =
            CarrierConsumer::start(&base.log, partitions, &carrier.id, outcomes.ledger(), OutboxOptions::default());
        let consumer = Arc::new(consumer.map_err(ClusterError::from)?);
        let membership = Arc::clone(&consumer);
        let (clock, health) = (Arc::clone(&base.clock), Arc::clone(&base.health));
        let (endpoint, carrier, mut stop) = (carrier.endpoint()?, carrier.clone(), stop.clone());
        tasks.spawn(async move {
            while !*stop.borrow() {
                let driver = Driver {
                    outbox: Box::new(membership.outbox()),
                    outcomes: outcomes.clone(),
                    endpoint: endpoint.clone(),
                    clock: Arc::clone(&clock),
                    health: Arc::clone(&health),
                    carrier_no,
                    drain: NOTIFIER_GRACE,
                };
                let notifier =
                    Notifier::new(topology::notifier_config(&carrier), RandomState::new().build_hasher().finish());
                let mut stopped = stop.clone();
                let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
                if let Err(error) = Box::pin(driver.run(notifier, shutdown)).await {
                    tracing::error!(carrier = carrier.id, %error, "a notifier has failed; another takes over");
                    // An error that stays must not become a loop without a pause.
                    drop(tokio::time::timeout(Duration::from_secs(1), stop.wait_for(|stop| *stop)).await);
                }
            }
        });
        consumers.push(consumer);
    }
    Ok(consumers)
}

/// Has no orders and no carriers' news taken while the owners lag too far behind, or the slots were dealt out anew. Outcomes
/// still are.
async fn hold_back(writer: Writer, presence: Arc<Presence>, progress: Arc<Progress>, bound: u64) {
    let mut tick = tokio::time::interval(PUBLISH);
    loop {
        tick.tick().await;
        let reason = if presence.is_outdated() {
            Some("the deployment was changed; this node must be started again")
        } else if progress.owners_lag() > bound {
            Some("the owners lag too far behind")
        } else {
            None
        };
        writer.hold(reason);
    }
}

async fn publish(ops: Ops) {
    let mut tick = tokio::time::interval(PUBLISH);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        ops::publish(&ops);
    }
}
