//! A deployment with its nodes, which the cases of the suite share: checkout nodes, an owner that is driven step by step,
//! a fold, and notifiers' outboxes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::Consumer,
    producer::{BaseProducer, BaseRecord, Producer},
};
use sluice_brokers::Brokers;
use sluice_domain::ShipmentId;
use sluice_pipeline::{
    Clock, HealthBoard, Outbox, OutboxBatch, Watchers,
    conformance::{CARRIERS, Order, PLACED_AT_MS, Sent, Told, stages},
};
use sluice_schemas::{
    delta::{Items, Weight},
    event::{self, ContentType, read::Change},
    frame::{self, Shipment},
    wire::Reader as Bytes,
};
use tokio::runtime::Runtime;

use super::tail::Tail;
use crate::{
    ClusterLookup, ClusterOrders, Deployment, Fold, LogConfig, OutcomeWriter, OwnersConfig, Progress, TopicFeed,
    Writer,
    context::{Quiet, Reader},
    outbox::{CarrierConsumer, KafkaOutbox, OutboxOptions},
    owner::{MakeStages, driver::Driver},
    store::{Store, StoreConfig},
    topics::{self, Names},
};

pub const PATIENCE: Duration = Duration::from_secs(30);
const PARTITIONS: u16 = 2;

/// Stands still until it is set.
struct Set(AtomicU64);

impl Clock for Set {
    fn now_ms(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

/// What a restart kills.
pub struct Live {
    /// Two checkout nodes.
    pub writers: [Writer; 2],
    pub outcomes: OutcomeWriter,
    pub drivers: Vec<Driver>,
    fold: Option<Fold>,
    notifiers: [Option<Notifier>; 2],
}

struct Notifier {
    consumer: CarrierConsumer,
    outbox: KafkaOutbox,
    last: u64,
}

pub struct Cluster {
    config: LogConfig,
    deployment: Deployment,
    owners: OwnersConfig,
    stages: MakeStages,
    store: Arc<Store>,
    pub runtime: Runtime,
    pub orders: ClusterOrders,
    pub lookup: ClusterLookup,
    pub live: Option<Live>,
    lags: bool,
    /// How far the owners and the folds are, as their groups say.
    groups: [Reader; 2],
    inputs: Tail,
    decisions: Tail,
    shipments: [Tail; 2],
    /// Every shipment in the log: partition, offset and place within the frame.
    log: [Vec<(ShipmentId, u16, u64, usize)>; 2],
    events: Tail,
    /// Content types of the events so far.
    pub formats: BTreeSet<String>,
    told: Vec<Told>,
    /// Entries given and not asked for yet.
    pub given: [Vec<Sent>; 2],
    /// Said to be settled, and perhaps not committed yet.
    unsettled: Vec<(u16, ShipmentId)>,
    producer: BaseProducer,
    sentinels: u64,
    clock: Arc<Set>,
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Cluster {
    /// Under a name that no other test has: they start at the same moment.
    pub fn new(name: &str, brokers: &Brokers) -> Self {
        // The suite's orders were placed in another time than the brokers'.
        let cluster = Self::with(name, brokers, |config| config.window_ms = 1 << 42);
        cluster.clock.0.store(PLACED_AT_MS + 5, Relaxed);
        cluster
    }

    /// The same at the present time, with other settings.
    pub fn with(name: &str, brokers: &Brokers, set: impl FnOnce(&mut LogConfig)) -> Self {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let name = format!("{name}_{}_{}", std::process::id(), now_ms % 1_000_000);
        let mut config = LogConfig::new(brokers.kafka(), CARRIERS.into_iter().map(Arc::from).collect());
        (config.prefix, config.partitions, config.replication) = (name.clone(), PARTITIONS, 1);
        config.session_timeout = Duration::from_millis(1_500);
        config.commit_interval = Duration::from_millis(5);
        config.index_entries = 64;
        set(&mut config);
        let runtime = Runtime::new().unwrap();
        let mut rows = StoreConfig::new(vec![brokers.store().to_owned()], name);
        rows.replication = 1;
        let forgotten = BTreeMap::new();
        let migrated = async {
            let (deployment, _) = tokio::join!(topics::migrate(&config, now_ms, &forgotten), Store::migrate(&rows));
            (deployment.unwrap().deployment, Arc::new(Store::connect(&rows).await.unwrap()))
        };
        let (deployment, store) = runtime.block_on(migrated);
        let set = Arc::new(Set(AtomicU64::new(now_ms)));
        let clock: Arc<dyn Clock> = set.clone();
        let progress = Progress::start(&config, deployment).unwrap();
        let names = Names::new(&config.prefix);
        let tail = |topic| Tail::new(&config, topic, PARTITIONS);
        let mut cluster = Self {
            orders: ClusterOrders::new(store.clone(), Arc::clone(&progress), deployment, Arc::clone(&clock)),
            lookup: ClusterLookup::new(store.clone(), Arc::clone(&clock)),
            owners: OwnersConfig {
                log: config.clone(),
                deployment,
                threads: 1,
                store: store.clone(),
                folded: Arc::new(move |partition| progress.fold_offset(partition)),
                runtime: runtime.handle().clone(),
                health: Arc::new(HealthBoard::new(CARRIERS.len())),
                clock,
            },
            stages: Arc::new(stages),
            store,
            live: None,
            lags: false,
            groups: [names.owners(), names.status()].map(|g| config.consumer(&g).create_with_context(Quiet).unwrap()),
            inputs: tail(names.orders()),
            decisions: tail(names.decisions()),
            shipments: CARRIERS.map(|carrier| tail(names.shipments(carrier))),
            log: [Vec::new(), Vec::new()],
            events: tail(names.events()),
            formats: BTreeSet::new(),
            told: Vec::new(),
            given: [Vec::new(), Vec::new()],
            unsettled: Vec::new(),
            producer: config.producer().create().unwrap(),
            sentinels: 0,
            clock: set,
            config,
            deployment,
            runtime,
        };
        cluster.start();
        cluster
    }

    pub fn live(&mut self) -> &mut Live {
        self.live.as_mut().unwrap()
    }

    fn fold(&self) -> Fold {
        Fold::start(&self.config, Arc::clone(&self.store), self.runtime.handle().clone(), Watchers::new()).unwrap()
    }

    fn start(&mut self) {
        let writers = [(); 2].map(|()| Writer::start(&self.config, self.deployment).unwrap());
        self.live = Some(Live {
            outcomes: OutcomeWriter::new(writers[0].clone()),
            writers,
            drivers: vec![self.driver()],
            fold: (!self.lags).then(|| self.fold()),
            notifiers: [None, None],
        });
    }

    fn driver(&self) -> Driver {
        Driver::new(&self.owners, &self.stages)
    }

    /// Ends everything; what an owner has begun stays as it is.
    pub fn stop(&mut self) {
        let Some(Live { writers, drivers, fold, notifiers, .. }) = self.live.take() else { return };
        drop((drivers, fold));
        for Notifier { consumer, outbox, .. } in notifiers.into_iter().flatten() {
            drop(outbox);
            consumer.close();
        }
        writers.iter().for_each(Writer::close);
        self.given = [Vec::new(), Vec::new()];
        self.unsettled.clear();
    }

    pub fn restart(&mut self) {
        self.stop();
        // A deployment may change how its events are written at any time.
        self.owners.log.json_events = !self.owners.log.json_events;
        self.start();
    }

    /// Where a group is in its topic, by partition.
    fn committed(group: &Reader, topic: &str) -> Vec<u64> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, i32::from(PARTITIONS) - 1);
        let list = group.committed_offsets(list, PATIENCE).unwrap();
        let at = |offset| if let Offset::Offset(at) = offset { at as u64 } else { 0 };
        list.elements().iter().map(|e| at(e.offset())).collect()
    }

    /// Inputs that no owner has decided: partition and where they end.
    fn due(&self) -> Vec<(u16, u64)> {
        let decided = Self::committed(&self.groups[0], &Names::new(&self.config.prefix).orders());
        let ends = self.inputs.ends().into_iter().zip(0..);
        ends.filter(|(end, number)| *end > decided[usize::from(*number)]).map(|(end, number)| (number, end)).collect()
    }

    /// Steps until every input is decided, by one transaction if one owner does it and nothing goes wrong.
    pub fn decide_all(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let due = self.due();
            if due.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "not decided: {due:?}");
            match &mut self.live().drivers[..] {
                [only] => {
                    only.hold(&due, end);
                    if only.round() {
                        return;
                    }
                }
                more => more.iter_mut().for_each(|driver| {
                    driver.round();
                }),
            }
        }
    }

    /// Waits until what is said to be settled is committed: a kill after that doesn't bring it back.
    pub fn settle_outboxes(&mut self) {
        for (carrier, shipment) in std::mem::take(&mut self.unsettled) {
            let (log, tail) = (&mut self.log[usize::from(carrier)], &mut self.shipments[usize::from(carrier)]);
            for read in tail.new_records() {
                let entries = frame::shipments(&read.payload).unwrap().1.map(Result::unwrap).enumerate();
                log.extend(entries.map(|(nth, s)| {
                    let order = sluice_domain::OrderId(sluice_schemas::order::peek_id(s.record).unwrap());
                    let shipment = ShipmentId { order, parcel: s.parcel, attempt: s.attempt };
                    (shipment, read.partition, read.offset, nth)
                }));
            }
            let (_, partition, offset, nth) = *log.iter().find(|entry| entry.0 == shipment).unwrap();
            let names = Names::new(&self.config.prefix);
            let carrier = CARRIERS[usize::from(carrier)];
            let group: Reader = self.config.consumer(&names.notifiers(carrier)).create_with_context(Quiet).unwrap();
            until("a settled entry is committed", || {
                let mut list = TopicPartitionList::new();
                list.add_partition(&names.shipments(carrier), i32::from(partition));
                let list = group.committed_offsets(list, PATIENCE).unwrap();
                let element = &list.elements()[0];
                let Offset::Offset(at) = element.offset() else { return false };
                let settled = element.metadata().split(';').find_map(|part| part.strip_prefix("settled="));
                let settled: usize = settled.map_or(0, |n| n.parse().unwrap());
                (at as u64, settled) >= (offset, nth + 1)
            });
        }
    }

    /// Waits until the rows have followed everything that was decided.
    pub fn folded(&mut self) {
        assert!(!self.lags, "rows don't follow now");
        let topic = Names::new(&self.config.prefix).decisions();
        drop(self.decisions.new_records());
        let ends = &self.decisions.next;
        until("folded", || Self::committed(&self.groups[1], &topic).iter().zip(ends).all(|(at, end)| at >= end));
    }

    pub fn lag(&mut self, lags: bool) {
        if std::mem::replace(&mut self.lags, lags) == lags {
            return;
        }
        if lags {
            self.lags = false;
            self.folded();
            self.lags = true;
        }
        let fold = (!lags).then(|| self.fold());
        self.live().fold = fold;
    }

    /// Moves what the owner has in memory to the store and to runs.
    pub fn spill(&mut self) {
        self.folded();
        self.all_assigned(0);
        self.expire();
    }

    /// The same, whatever waits to be decided; runs that are too old are forgotten.
    pub fn expire(&mut self) {
        let ends = self.decisions.ends();
        self.live().drivers[0].spill(&ends);
    }

    pub fn later(&mut self, ms: u64) {
        self.clock.0.fetch_add(ms, Relaxed);
    }

    /// The brokers forget the owners' group, as they do some days after its last member left.
    pub fn forget_owners(&mut self) {
        let live = self.live();
        live.drivers.drain(..).for_each(Driver::leave);
        let (config, group) = (&self.config, Names::new(&self.config.prefix).owners());
        self.runtime.block_on(crate::testing::forget(config, &group));
        let driver = self.driver();
        self.live().drivers.push(driver);
    }

    /// Steps until every input is decided, by however many transactions that takes.
    pub fn decide_on(&mut self) {
        until("everything is decided", || {
            self.live().drivers[0].round();
            self.due().is_empty()
        });
    }

    /// Steps until worker `number` has as many partitions as it should.
    fn all_assigned(&mut self, number: usize) {
        let drivers = &mut self.live().drivers;
        let share = usize::from(PARTITIONS) / drivers.len();
        until("partitions are shared", || {
            drivers.iter_mut().for_each(|driver| {
                driver.round();
            });
            drivers[number].partitions().len() == share
        });
    }

    pub fn another_worker(&mut self, comes: bool) {
        self.all_assigned(0);
        if comes {
            let driver = self.driver();
            self.live().drivers.push(driver);
            self.all_assigned(1);
        } else if let Some(last) = self.live().drivers.pop() {
            last.leave();
        }
        self.all_assigned(0);
    }

    /// The owner writes its transaction, and dies instead of committing.
    pub fn crash(&mut self) {
        let due = self.due();
        assert!(!due.is_empty(), "there is something to commit");
        let mut owner = self.live().drivers.pop().unwrap();
        owner.hold(&due, Instant::now() + PATIENCE);
        owner.die_before_commit();
        self.restart();
    }

    /// The owner never hears whether its transaction was committed.
    pub fn hear_no_answer(&mut self, committed: bool) {
        let due = self.due();
        let owner = &mut self.live().drivers[0];
        owner.hold(&due, Instant::now() + PATIENCE);
        owner.hear_no_answer(committed);
    }

    pub fn stall_and_come_back(&mut self) {
        let due = self.due();
        assert!(!due.is_empty(), "there is something to decide");
        let mut first = self.live().drivers.pop().unwrap();
        first.hold(&due, Instant::now() + PATIENCE);
        let (before, stalled) = (first.counts(), first.stall());
        let second = self.driver();
        self.live().drivers.push(second);
        self.decide_all();
        let late = first.come_back(&stalled);
        assert!(late.is_err(), "who was replaced must not commit");
        assert_eq!(first.counts(), before);
        self.live().drivers.insert(0, first);
        self.all_assigned(0);
        self.another_worker(false);
    }

    /// Writes an entry of no order into each partition of a carrier's outbox: whoever gets it has got what came before.
    fn sentinel(&mut self, carrier: u16) -> ShipmentId {
        self.sentinels += 1;
        let order = Order::new(format!("sentinel-{}", self.sentinels), &[]);
        let (mut items, mut bytes) = (Vec::new(), Vec::new());
        Items::encode(&[], &mut items);
        frame::start(&mut bytes, self.deployment.epoch);
        let items = Items::read(&mut Bytes::new(&items)).unwrap();
        let record = order.record();
        Shipment { parcel: 0, attempt: 0, handling: 0, weight: Weight::known(1), items, record: &record }
            .put(&mut bytes);
        let topic = Names::new(&self.config.prefix).shipments(CARRIERS[usize::from(carrier)]);
        for partition in 0..i32::from(PARTITIONS) {
            let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(partition).payload(&bytes);
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
        order.shipment(0, 0)
    }

    /// Takes everything that the carrier's outbox has.
    pub fn take(&mut self, carrier: u16) {
        let at = usize::from(carrier);
        let sentinel = self.sentinel(carrier);
        let (config, live) = (&self.config, self.live.as_mut().unwrap());
        let notifier = live.notifiers[at].get_or_insert_with(|| {
            let options = OutboxOptions { revoke_grace: Duration::from_millis(100), ..OutboxOptions::default() };
            let ledger = live.outcomes.ledger();
            let consumer = CarrierConsumer::start(config, PARTITIONS, CARRIERS[at], ledger, options).unwrap();
            Notifier { outbox: consumer.outbox(), consumer, last: 0 }
        });
        let mut seen = 0;
        while seen < PARTITIONS {
            let mut batch = OutboxBatch::default();
            let polled = std::future::poll_fn(|cx| notifier.outbox.poll_entries(cx, 3, &mut batch));
            let taken = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, polled).await });
            let taken = taken.expect("the outbox gives what was written").unwrap();
            assert!((1..=3).contains(&taken) && taken == batch.entries.len(), "at most as many as asked for");
            for entry in batch.entries {
                notifier.last = entry.position;
                seen += u16::from(entry.shipment == sentinel);
                self.given[at].push(Sent {
                    position: entry.position,
                    shipment: entry.shipment,
                    weight: entry.weight,
                    record: batch.bytes[entry.record].to_vec(),
                    maybe_sent: entry.maybe_sent,
                });
            }
        }
    }

    pub fn settled(&mut self, carrier: u16, position: u64, given: &[Sent]) {
        let notifier = self.live().notifiers[usize::from(carrier)].as_mut().unwrap();
        notifier.outbox.settled(position);
        self.unsettled.extend(given.iter().filter(|s| s.position <= position).map(|s| (carrier, s.shipment)));
    }

    /// Settles everything that was given, so that no other case gets it.
    pub fn tidy(&mut self) {
        if let Some(live) = &mut self.live {
            for notifier in live.notifiers.iter_mut().flatten() {
                notifier.outbox.settled(notifier.last);
            }
            live.writers.iter().for_each(|writer| writer.hold(None));
        }
    }

    /// Writes a record of orders past every check.
    pub fn put(&self, partition: u16, payload: &[u8]) {
        let topic = Names::new(&self.config.prefix).orders();
        let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(i32::from(partition)).payload(payload);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.producer.flush(PATIENCE).unwrap();
    }

    /// The topic of dead letters.
    pub fn dead_letters(&self) -> Tail {
        Tail::new(&self.config, Names::new(&self.config.prefix).dead_letters(), PARTITIONS)
    }

    /// The feed of its events.
    pub fn feed(&self) -> TopicFeed {
        TopicFeed::new(&self.config)
    }

    /// Has the brokers forget all events so far but the last of each partition; gives how many offsets that is.
    pub fn expire_events(&mut self) -> Vec<u64> {
        let (topic, ends) = (Names::new(&self.config.prefix).events(), self.events.ends());
        let mut before = TopicPartitionList::new();
        for (partition, &end) in (0..).zip(&ends) {
            before.add_partition_offset(&topic, partition, Offset::Offset(end as i64 - 1)).unwrap();
        }
        let admin: AdminClient<DefaultClientContext> = self.config.client().create().unwrap();
        self.runtime.block_on(admin.delete_records(&before, &AdminOptions::new())).unwrap();
        ends.iter().map(|end| end - 1).collect()
    }

    /// Every public event so far, each taken apart as its consumer would.
    pub fn events(&mut self) -> &[Told] {
        for read in self.events.new_records() {
            let header = |name: &str| read.headers.iter().find(|h| h.0 == name).unwrap().1.clone();
            let (subject, kind) = (header("ce_subject"), header("ce_type"));
            let format = header("content-type");
            let (of, is_accepted) = if format == ContentType::Json.name() {
                let event: serde_json::Value = serde_json::from_slice(&read.payload).unwrap();
                (event["orderId"].as_str().unwrap().to_owned(), event.get("accepted").is_some())
            } else {
                assert_eq!(format, ContentType::Protobuf.name());
                let event = event::read::decode(&read.payload).unwrap();
                (event.order_id, matches!(event.change, Some(Change::Accepted(_))))
            };
            assert_eq!((&read.key, &of), (&subject, &subject), "keyed by its order");
            assert_eq!(is_accepted, kind.contains("accepted"), "{kind}");
            self.formats.insert(format);
            let sequence = header("ce_sequence").parse().unwrap();
            self.told.push(Told { id: header("ce_id"), kind, order: subject.parse().unwrap(), sequence });
        }
        &self.told
    }

    /// Takes what was given of these orders.
    pub fn given(&mut self, carrier: u16, mine: &BTreeSet<sluice_domain::OrderId>) -> Vec<Sent> {
        let all = std::mem::take(&mut self.given[usize::from(carrier)]);
        let (mine, others) = all.into_iter().partition(|s| mine.contains(&s.shipment.order));
        self.given[usize::from(carrier)] = others;
        mine
    }
}
