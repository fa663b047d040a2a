//! The fold against a real log and a real store, each test under a prefix and in a keyspace of its own.

use std::{
    collections::HashMap,
    ops::DerefMut,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use sluice_brokers::Brokers;
use sluice_domain::OrderId;
use sluice_pipeline::{Clock, LogError, Orders, StoredOrder, Watchers};
use sluice_schemas::frame::{self, Decision, Place};
use tokio::runtime::Handle;

use super::{Fold, FoldSummary, RebuildError, RebuildProgress, rebuild};
use crate::{
    config::LogConfig,
    progress::Progress,
    reader::ClusterOrders,
    store::{Store, StoreConfig, StoredRow},
    testing,
    topics::{self, Deployment, DeploymentError, Names},
};

const PARTITIONS: u16 = 4;
const PATIENCE: Duration = Duration::from_secs(90);

/// A deployment of its own.
struct Cluster {
    config: LogConfig,
    store: Arc<Store>,
    deployment: Deployment,
}

async fn shared(name: &str) -> Option<(impl Sized, Cluster)> {
    let brokers = testing::shared()?;
    let cluster = Cluster::new(&brokers, name).await;
    Some((brokers, cluster))
}

async fn alone(name: &str) -> Option<(impl DerefMut<Target = Brokers>, Cluster)> {
    let brokers = testing::alone()?;
    let cluster = Cluster::new(&brokers, name).await;
    Some((brokers, cluster))
}

struct Now;

impl Clock for Now {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Order `n`: pages of 200 orders or so, as in a busy minute.
fn order(n: u64) -> OrderId {
    let placed_at = 1_790_000_000_000 + n / 800 * 1_000 + n % 1_000;
    OrderId(u128::from(placed_at) << 80 | u128::from(n % 4 * 256) << 64 | u128::from(n))
}

fn record(n: u64) -> Vec<u8> {
    let mut record = vec![sluice_schemas::order::VERSION];
    record.extend_from_slice(&order(n).0.to_be_bytes());
    record.extend_from_slice(format!("fingerpr{n:0100}").as_bytes());
    record
}

fn row(n: u64) -> Option<StoredRow> {
    Some(StoredRow { deltas: format!("<accepted {n}><settled {n}>").into_bytes(), record: record(n) })
}

fn rows(orders: std::ops::Range<u64>) -> Vec<Option<StoredRow>> {
    orders.map(row).collect()
}

/// Frames by partition: a barrier first, and each order accepted in one frame and settled in the next.
fn frames(deployment: &Deployment, orders: std::ops::Range<u64>) -> Vec<(i32, Vec<u8>)> {
    let mut by_partition: HashMap<u16, Vec<u64>> = HashMap::new();
    for n in orders {
        by_partition.entry(deployment.partition(order(n))).or_default().push(n);
    }
    let mut frames = Vec::new();
    for (partition, orders) in by_partition {
        for some in orders.chunks(50) {
            let (mut accepted, mut settled) = (Vec::new(), Vec::new());
            frame::start(&mut accepted, deployment.epoch);
            frame::start(&mut settled, deployment.epoch);
            Decision::Barrier { token: [7; 16] }.put(&mut accepted);
            for &n in some {
                let source = |later: u64| Place::new(partition, 2 * n + later, (n % 100) as usize);
                let deltas = format!("<accepted {n}>").into_bytes();
                Decision::New { source: source(0), record: &record(n), deltas: &deltas }.put(&mut accepted);
                let deltas = format!("<settled {n}>").into_bytes();
                Decision::Added { source: source(1), order: order(n).0, deltas: &deltas }.put(&mut settled);
            }
            frames.extend([(i32::from(partition), accepted), (i32::from(partition), settled)]);
        }
    }
    frames
}

impl Cluster {
    async fn new(brokers: &Brokers, name: &str) -> Self {
        // Servers given by address keep what an earlier run left.
        let name = format!("{name}_{}", now_ms() % 1_000_000_000);
        let mut config = LogConfig::new(brokers.kafka(), Vec::new());
        (config.prefix, config.partitions, config.replication) = (name.clone(), PARTITIONS, 1);
        config.session_timeout = Duration::from_secs(6);
        let deployment = topics::migrate(&config, now_ms(), &Default::default()).await.unwrap().deployment;
        let mut rows = StoreConfig::new(vec![brokers.store().to_owned()], name);
        (rows.replication, rows.request_timeout) = (1, Duration::from_secs(3));
        Store::migrate(&rows).await.unwrap();
        Self { config, store: Arc::new(Store::connect(&rows).await.unwrap()), deployment }
    }

    fn fold(&self) -> Fold {
        Fold::start(&self.config, Arc::clone(&self.store), Handle::current(), Watchers::new()).unwrap()
    }

    fn producer(&self, transactional: bool) -> BaseProducer {
        let mut client = self.config.producer();
        if !transactional {
            return client.create().unwrap();
        }
        let producer: BaseProducer =
            client.set("transactional.id", format!("{}-test", self.config.prefix)).create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer
    }

    fn send(&self, producer: &BaseProducer, frames: &[(i32, Vec<u8>)]) {
        let topic = Names::new(&self.config.prefix).decisions();
        for (partition, frame) in frames {
            let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(*partition).payload(frame);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
    }

    fn plain(&self, orders: std::ops::Range<u64>) {
        let producer = self.producer(false);
        self.send(&producer, &frames(&self.deployment, orders));
        producer.flush(PATIENCE).unwrap();
    }

    fn transaction(&self, producer: &BaseProducer, orders: std::ops::Range<u64>, commit: bool) {
        producer.begin_transaction().unwrap();
        self.send(producer, &frames(&self.deployment, orders));
        producer.flush(PATIENCE).unwrap();
        match commit {
            true => producer.commit_transaction(PATIENCE).unwrap(),
            false => producer.abort_transaction(PATIENCE).unwrap(),
        }
    }

    async fn has(&self, orders: std::ops::Range<u64>) -> bool {
        let ids: Vec<_> = orders.clone().map(order).collect();
        self.store.read_many(&ids).await.is_ok_and(|found| found == rows(orders))
    }

    async fn folded(&self, orders: std::ops::Range<u64>) {
        let start = Instant::now();
        while !self.has(orders.clone()).await {
            assert!(start.elapsed() < PATIENCE, "not folded: {orders:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn none_of(&self, orders: std::ops::Range<u64>) {
        let ids: Vec<_> = orders.map(order).collect();
        assert_eq!(self.store.read_many(&ids).await.unwrap(), vec![None; ids.len()]);
    }

    fn group(&self) -> BaseConsumer {
        self.config.consumer(&Names::new(&self.config.prefix).status()).create().unwrap()
    }

    fn members(&self) -> usize {
        let group = Names::new(&self.config.prefix).status();
        let list = self.group().fetch_group_list(Some(&group), PATIENCE).unwrap();
        list.groups().iter().map(|g| g.members().len()).sum()
    }

    fn lag(&self) -> u64 {
        let names = Names::new(&self.config.prefix);
        crate::groups::lag(&self.config, &names.decisions(), &names.status(), PARTITIONS).unwrap()
    }

    /// As if nothing had ever been folded.
    fn set_back(&self) {
        let mut offsets = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            let topic = Names::new(&self.config.prefix).decisions();
            offsets.add_partition_offset(&topic, i32::from(partition), Offset::Offset(0)).unwrap();
        }
        self.group().commit(&offsets, CommitMode::Sync).unwrap();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !tokio::task::block_in_place(&mut holds) {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn stop(fold: Fold) -> FoldSummary {
    tokio::task::block_in_place(|| fold.stop())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_becomes_rows_and_a_replay_the_same_rows() {
    let Some((_server, cluster)) = shared("fold_rows").await else { return };
    let producer = cluster.producer(true);
    let fold = cluster.fold();
    cluster.plain(0..300);
    cluster.transaction(&producer, 300..700, true);
    cluster.transaction(&producer, 10_000..10_100, false);
    // No frame at all, in every partition; one that is cut short; one without a payload.
    let mut damaged: Vec<_> = (0..i32::from(PARTITIONS)).map(|p| (p, b"\x09no frame".to_vec())).collect();
    let mut cut = frames(&cluster.deployment, 700..701);
    cut[1].1.truncate(30);
    damaged.extend([cut[1].clone(), (0, Vec::new())]);
    let plain = cluster.producer(false);
    cluster.send(&plain, &damaged);
    plain.flush(PATIENCE).unwrap();
    cluster.transaction(&producer, 701..900, true);
    // Not yet committed: not yet there.
    producer.begin_transaction().unwrap();
    cluster.send(&producer, &frames(&cluster.deployment, 900..1_000));
    producer.flush(PATIENCE).unwrap();
    cluster.folded(0..700).await;
    cluster.folded(701..900).await;
    cluster.none_of(900..1_000).await;
    producer.commit_transaction(PATIENCE).unwrap();
    cluster.folded(900..1_000).await;
    cluster.none_of(10_000..10_100).await;
    cluster.none_of(700..701).await;

    let first = stop(fold);
    assert_eq!(first.rows, 2 * 999);
    assert_eq!(cluster.members(), 0);
    assert_eq!(cluster.lag(), 0);

    cluster.set_back();
    assert!(cluster.lag() > 0);
    let fold = cluster.fold();
    until("the replay", || cluster.lag() == 0).await;
    assert_eq!(stop(fold), first);
    // Had an event got another id, its deltas would be there twice.
    assert!(cluster.has(0..700).await && cluster.has(701..1_000).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_tells_records_from_markers() {
    let Some((_server, cluster)) = shared("fold_progress").await else { return };
    let progress = Progress::start(&cluster.config, cluster.deployment).unwrap();
    let mut mark = progress.mark(0);
    until("an empty log is known to be folded", || progress.passed(&mut mark)).await;
    assert_eq!((progress.fold_offset(0), progress.folds_lag(), progress.owners_lag()), (Some(0), 0, 0));

    let producer = cluster.producer(true);
    cluster.transaction(&producer, 0..200, true);
    until("the lag", || progress.folds_lag() > 0).await;
    let mut mark = progress.mark(0);
    assert!(!progress.passed(&mut mark));
    // One frame accepts, one settles, and a marker ends the transaction.
    assert!(!progress.fold_caught_up(0, 3));

    let deployment = cluster.deployment;
    let orders = ClusterOrders::new(Arc::clone(&cluster.store), Arc::clone(&progress), deployment, Arc::new(Now));
    let behind = orders.read(order(0)).await;
    assert!(matches!(behind, Err(LogError::Store(_))), "{behind:?}");

    let fold = cluster.fold();
    until("the marker at the end doesn't count", || progress.folds_lag() == 0).await;
    assert!(progress.passed(&mut mark) && progress.fold_caught_up(0, 3) && progress.is_fresh());
    assert_eq!(progress.fold_offset(0), Some(3));
    cluster.folded(0..200).await;
    let StoredRow { deltas, record } = row(0).unwrap();
    assert_eq!(orders.read(order(0)).await.unwrap(), Some(StoredOrder { row: deltas, record }));
    assert_eq!(orders.read(order(99_999)).await.unwrap(), None);
    // Only aborted records follow.
    cluster.transaction(&producer, 200..300, false);
    cluster.plain(300..400);
    cluster.transaction(&producer, 400..500, false);
    cluster.folded(300..400).await;
    until("aborted records don't count", || progress.fold_caught_up(0, 11)).await;
    assert_eq!(progress.folds_lag(), 0);
    // Written, and not seen to be committed yet, as the owners' offset may be by then.
    producer.begin_transaction().unwrap();
    cluster.send(&producer, &frames(&cluster.deployment, 500..600));
    producer.flush(PATIENCE).unwrap();
    let mut open = progress.mark(0);
    assert!(tokio::task::block_in_place(|| progress.refresh(PATIENCE)));
    assert!(!progress.passed(&mut open), "what is about to be committed was passed over");
    producer.commit_transaction(PATIENCE).unwrap();
    until("what was open is folded", || progress.passed(&mut open)).await;
    stop(fold);

    // The owners have read nothing of the orders.
    let topic = Names::new(&cluster.config.prefix).orders();
    let plain = cluster.producer(false);
    for _ in 0..5 {
        plain.send(BaseRecord::<[u8], [u8]>::to(&topic).partition(1).payload(b"an order")).map_err(|e| e.0).unwrap();
    }
    plain.flush(PATIENCE).unwrap();
    until("the owners' lag", || progress.owners_lag() == 5).await;
    let (mut mark, mut idle) = (progress.mark(1), progress.mark(0));
    assert!(!progress.passed(&mut idle), "what was learned before may be outdated");
    until("a partition with nothing to do", || progress.passed(&mut idle)).await;
    assert!(!progress.passed(&mut mark));
    let start = Instant::now();
    tokio::task::block_in_place(|| progress.stop());
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(progress.owners_lag(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn folds_share_partitions_and_hand_them_over() {
    let Some((_server, cluster)) = shared("fold_share").await else { return };
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let (cluster, stopped, orders) = (Arc::new(cluster), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = std::thread::spawn({
        let (cluster, stopped, orders) = (Arc::clone(&cluster), Arc::clone(&stopped), Arc::clone(&orders));
        // A log that is never quiet.
        move || {
            while !stopped.load(relaxed) {
                let first = orders.load(relaxed);
                cluster.plain(first..first + 100);
                orders.store(first + 100, relaxed);
            }
        }
    });
    let more = async || {
        let enough = orders.load(relaxed) + 1_000;
        until("more orders", || orders.load(relaxed) > enough).await;
    };
    let (one, two) = (cluster.fold(), cluster.fold());
    until("two members", || cluster.members() == 2).await;
    more().await;
    let three = cluster.fold();
    until("three members", || cluster.members() == 3).await;
    more().await;
    // One leaves while the others go on.
    let one = stop(one);
    until("two members again", || cluster.members() == 2).await;
    more().await;
    stopped.store(true, relaxed);
    tokio::task::block_in_place(|| writer.join()).unwrap();
    let all = orders.load(relaxed);
    cluster.folded(0..all).await;
    until("nothing left", || cluster.lag() == 0).await;
    let (two, three) = (stop(two), stop(three));
    for summary in [one, two, three] {
        assert!(summary.rows > 0, "a fold had nothing to do");
    }
    // Handing over may write some rows twice, and none never.
    assert!(one.rows + two.rows + three.rows >= 2 * all);
    assert!(cluster.has(0..all).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_gives_the_same_rows() {
    let Some((_server, cluster)) = shared("fold_rebuild").await else { return };
    let producer = cluster.producer(true);
    cluster.plain(0..2_000);
    cluster.transaction(&producer, 2_000..4_000, true);
    cluster.transaction(&producer, 10_000..10_100, false);
    let fold = cluster.fold();
    cluster.folded(0..4_000).await;

    let mut nothing = |_: RebuildProgress| {};
    let refused = rebuild(&cluster.config, &cluster.store, cluster.deployment, &mut nothing).await;
    assert!(matches!(refused, Err(RebuildError::Deployment(DeploymentError::Busy(_)))), "{refused:?}");
    assert!(cluster.has(0..4_000).await);
    let folded = stop(fold);

    let mut told = Vec::new();
    let mut tell = |now| told.push(now);
    let rebuilt = rebuild(&cluster.config, &cluster.store, cluster.deployment, &mut tell).await.unwrap();
    assert_eq!((rebuilt.records, rebuilt.rows, rebuilt.damaged), (folded.records, folded.rows, 0));
    assert!(told.is_sorted_by_key(|now| now.done) && told.last().is_some_and(|now| now.done == now.total), "{told:?}");
    assert!(cluster.has(0..4_000).await);
    assert_eq!(cluster.lag(), 0);

    // Interrupted as soon as rows were dropped: a fold that comes next replays everything.
    let (dropped, interrupted) = tokio::sync::oneshot::channel::<()>();
    let mut dropped = Some(dropped);
    let mut tell = |_| drop(dropped.take());
    tokio::select! {
        biased;
        _ = interrupted => {}
        _ = rebuild(&cluster.config, &cluster.store, cluster.deployment, &mut tell) => {}
    }
    cluster.transaction(&producer, 4_000..5_000, true);
    let fold = cluster.fold();
    cluster.folded(0..5_000).await;
    until("nothing left", || cluster.lag() == 0).await;
    stop(fold);
    let rebuilt = rebuild(&cluster.config, &cluster.store, cluster.deployment, &mut nothing).await.unwrap();
    assert_eq!(rebuilt.rows, 10_000);
    assert!(cluster.has(0..5_000).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_killed_is_waited_for() {
    let Some((mut server, cluster)) = alone("fold_killed").await else { return };
    let fold = cluster.fold();
    cluster.plain(0..1_000);
    cluster.folded(0..1_000).await;
    // Many gathers more than fit into memory.
    cluster.plain(1_000..40_000);
    until("some of it is there", || Handle::current().block_on(cluster.has(1_000..1_001))).await;
    tokio::task::block_in_place(|| server.kill_store());
    cluster.plain(40_000..60_000);
    // Longer than the group would wait for a member that doesn't answer.
    let start = Instant::now();
    while start.elapsed() < cluster.config.session_timeout * 2 {
        assert_eq!(tokio::task::block_in_place(|| cluster.members()), 1);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(tokio::task::block_in_place(|| cluster.lag()) > 0);
    tokio::task::block_in_place(|| server.start_store()).unwrap();
    cluster.folded(40_000..60_000).await;
    cluster.folded(0..40_000).await;
    until("nothing left", || cluster.lag() == 0).await;
    assert_eq!(stop(fold).rows, 120_000);

    // What was read when a fold ends without a store is for the next one; and partitions move meanwhile.
    let fold = cluster.fold();
    until("a member", || cluster.members() == 1).await;
    tokio::task::block_in_place(|| server.kill_store());
    cluster.plain(60_000..61_000);
    let next = cluster.fold();
    until("two members", || cluster.members() == 2).await;
    cluster.plain(61_000..62_000);
    assert_eq!(stop(fold).rows, 0);
    assert!(tokio::task::block_in_place(|| cluster.lag()) > 0);
    until("one is left", || cluster.members() == 1).await;
    tokio::task::block_in_place(|| server.start_store()).unwrap();
    cluster.folded(60_000..62_000).await;
    until("nothing left", || cluster.lag() == 0).await;
    stop(next);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_killed_is_waited_for() {
    let Some((mut server, cluster)) = alone("fold_outage").await else { return };
    let progress = Progress::start(&cluster.config, cluster.deployment).unwrap();
    let fold = cluster.fold();
    let producer = cluster.producer(true);
    cluster.transaction(&producer, 0..2_000, true);
    cluster.folded(0..2_000).await;
    until("progress", || progress.is_fresh() && progress.fold_caught_up(0, 2) && progress.folds_lag() == 0).await;
    let known: Vec<_> = (0..PARTITIONS).map(|p| progress.fold_offset(p)).collect();
    tokio::task::block_in_place(|| server.kill_kafka());
    until("progress is stale", || !progress.is_fresh()).await;
    assert_eq!(known, (0..PARTITIONS).map(|p| progress.fold_offset(p)).collect::<Vec<_>>());
    let mut mark = progress.mark(0);
    assert!(!progress.passed(&mut mark));

    tokio::task::block_in_place(|| server.start_kafka()).unwrap();
    until("progress is fresh", || progress.is_fresh()).await;
    assert!(progress.passed(&mut mark));
    drop(producer);
    cluster.transaction(&cluster.producer(true), 2_000..3_000, true);
    cluster.folded(0..3_000).await;
    until("nothing left", || progress.folds_lag() == 0 && cluster.lag() == 0).await;
    stop(fold);
}
