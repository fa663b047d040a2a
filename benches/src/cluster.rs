//! The scale-out engine as an application over running brokers, for a comparison with others on the same brokers: JSON
//! bodies in; decode, orders topic, owners' transactions (decisions, shipments, public events), and if asked rows.

use std::{
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use sluice_domain::OrderId;
use sluice_engine_kafka_scylla::{
    Fold, LogConfig, Owners, OwnersConfig, Progress, Writer,
    owner::{MakeStages, OlderRows},
    store::{Store, StoreConfig, StoreError, StoredRow},
    topics,
};
use sluice_pipeline::{BoxFuture, Clock, HealthBoard, Watchers};

use crate::{
    engine::{self, SystemClock},
    measure, orders,
};

/// One run of the application.
#[derive(Debug, Clone, clap::Args)]
pub struct AppArgs {
    /// Bootstrap servers
    #[arg(long)]
    pub brokers: String,
    /// Node of the store; without it no rows are written
    #[arg(long)]
    pub store: Option<String>,
    /// First part of topics' names, and the keyspace
    #[arg(long)]
    pub prefix: String,
    /// Orders of two lines
    #[arg(long, default_value_t = 2_000_000, overrides_with = "orders")]
    pub orders: u64,
    /// Partitions
    #[arg(long, default_value_t = 4, overrides_with = "partitions")]
    pub partitions: u16,
    /// Owners' threads
    #[arg(long, default_value_t = 2, overrides_with = "threads")]
    pub threads: usize,
    /// Threads that decode and submit
    #[arg(long, default_value_t = 1)]
    pub producers: u64,
    /// How long inputs gather before a transaction, ms
    #[arg(long, default_value_t = 20)]
    pub commit_interval_ms: u64,
    /// Orders of a transaction, at most
    #[arg(long)]
    pub orders_per_commit: Option<usize>,
    /// How long orders gather for a record, ms
    #[arg(long)]
    pub linger_ms: Option<u64>,
    /// Rows of a batch, at most
    #[arg(long)]
    pub rows_per_batch: Option<usize>,
    /// Batches of rows under way
    #[arg(long)]
    pub batches_in_flight: Option<usize>,
    /// A setting of librdkafka, `key=value`; any number of them
    #[arg(long)]
    pub set: Vec<String>,
}

/// What it gave.
#[derive(Debug, Clone, Serialize)]
pub struct AppReport {
    /// Orders.
    pub orders: u64,
    /// From the first submission until the last order was committed (and its row durable).
    pub seconds: f64,
    /// The ratio of the two.
    pub orders_per_second: f64,
    /// CPU of this process.
    pub cpu_seconds: f64,
    /// Highest resident memory.
    pub peak_rss_bytes: u64,
    /// The settings.
    pub settings: String,
}

/// No order of a run without outcomes is ever asked for.
struct NoRows;

impl OlderRows for NoRows {
    fn read_many<'a>(&'a self, all: &'a [OrderId]) -> BoxFuture<'a, Result<Vec<Option<StoredRow>>, StoreError>> {
        Box::pin(std::future::ready(Ok(vec![None; all.len()])))
    }

    fn has_expired(&self, _: OrderId, _: u64) -> bool {
        false
    }
}

fn log_config(args: &AppArgs) -> LogConfig {
    let mut log = LogConfig::new(&args.brokers, ["swift", "steady", "value", "metro"].map(Arc::from).to_vec());
    log.prefix.clone_from(&args.prefix);
    log.partitions = args.partitions;
    log.replication = 1;
    log.commit_interval = Duration::from_millis(args.commit_interval_ms);
    log.orders_per_commit = args.orders_per_commit.unwrap_or(log.orders_per_commit);
    log.linger = args.linger_ms.map_or(log.linger, Duration::from_millis);
    log.overrides =
        args.set.iter().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    log
}

/// Runs the application.
///
/// # Errors
/// Whatever goes wrong.
pub fn run(args: &AppArgs) -> Result<AppReport, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let clock = SystemClock::new();
    let table = engine::carriers()?;
    let log = log_config(args);
    let deployment = runtime.block_on(topics::migrate(&log, clock.now_ms(), &Default::default()))?.deployment;
    let mut rows: Arc<dyn OlderRows> = Arc::new(NoRows);
    let mut folds = None;
    if let Some(node) = &args.store {
        let mut config = StoreConfig::new(vec![node.clone()], args.prefix.replace(['-', '.'], "_"));
        config.replication = 1;
        config.rows_per_batch = args.rows_per_batch.unwrap_or(config.rows_per_batch);
        config.batches_in_flight = args.batches_in_flight.unwrap_or(config.batches_in_flight);
        runtime.block_on(Store::migrate(&config))?;
        let store = Arc::new(runtime.block_on(Store::connect(&config))?);
        folds = Some(Fold::start(&log, Arc::clone(&store), runtime.handle().clone(), Watchers::new())?);
        rows = store;
    }
    let progress = Progress::start(&log, deployment)?;
    let health = Arc::new(HealthBoard::new(table.carriers().len()));
    let knowledge = engine::knowledge()?;
    let stages: MakeStages = Arc::new(move || engine::stages(&knowledge, &table));
    // Without a store nothing has to wait for it.
    let stored = folds.is_some();
    let following = Arc::clone(&progress);
    let folded = move |partition| if stored { following.fold_offset(partition) } else { Some(u64::MAX) };
    let owners = OwnersConfig {
        log: log.clone(),
        deployment,
        threads: args.threads,
        store: rows,
        folded: Arc::new(folded),
        runtime: runtime.handle().clone(),
        health,
        clock: clock.clone(),
    };
    let owners = Owners::start(&owners, &stages)?;
    let writer = Writer::start(&log, deployment)?;
    let bodies = orders::Bodies::new(true, 20_000, None)?;
    // Joining the group is no part of the work.
    thread::sleep(Duration::from_secs(4));
    let (next, json) = (AtomicU64::new(0), AtomicU64::new(0));
    measure::reset_peak_rss();
    let (started, cpu) = (Instant::now(), measure::cpu());
    thread::scope(|scope| {
        for _ in 0..args.producers {
            scope.spawn(|| orders::produce(&writer, &bodies, &*clock, args.orders, &next, &json));
        }
        while owners.counts().accepted < args.orders {
            thread::sleep(Duration::from_millis(5));
        }
    });
    while folds.is_some() && progress.folds_lag() > 0 {
        thread::sleep(Duration::from_millis(20));
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = AppReport {
        orders: args.orders,
        seconds,
        orders_per_second: args.orders as f64 / seconds,
        cpu_seconds: (measure::cpu() - cpu).as_secs_f64(),
        peak_rss_bytes: measure::peak_rss_bytes(),
        settings: format!("{args:?}"),
    };
    writer.close();
    owners.stop();
    if let Some(folds) = folds {
        folds.stop();
    }
    progress.stop();
    Ok(report)
}
