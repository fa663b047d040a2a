//! The outbox against a real broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use sluice_brokers::Brokers;
use sluice_domain::{OrderId, ShipmentId};
use sluice_pipeline::{LogError, Outbox, OutboxBatch, OutcomeReport, Outcomes};
use sluice_schemas::{
    delta::{Item, Items, Weight},
    frame::{self, Shipment},
    outcome::OutcomeKind,
    wire::Reader,
};
use tokio::runtime::Runtime;

use super::{CarrierConsumer, KafkaOutbox, OutboxOptions};
use crate::{
    config::LogConfig,
    groups::Forgotten,
    testing,
    topics::{self, Names},
    writer::{OutcomeWriter, Writer},
};

const CARRIER: &str = "north";
const PATIENCE: Duration = Duration::from_secs(30);

/// A deployment of its own.
struct World {
    config: LogConfig,
    partitions: u16,
    runtime: Runtime,
    outcomes: OutcomeWriter,
    writer: Writer,
    producer: BaseProducer,
    now_ms: u64,
}

impl World {
    fn new(brokers: &Brokers, name: &str, partitions: u16, linger: Duration) -> Self {
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let mut config = LogConfig::new(brokers.kafka(), vec![CARRIER.into()]);
        config.prefix = format!("outbox-{name}-{}-{now_ms}", std::process::id());
        (config.replication, config.partitions, config.linger) = (1, partitions, linger);
        config.session_timeout = Duration::from_secs(6);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let deployment = runtime.block_on(topics::migrate(&config, now_ms, &Default::default())).unwrap().deployment;
        let writer = Writer::start(&config, deployment).unwrap();
        let outcomes = OutcomeWriter::new(writer.clone());
        let producer = config.producer().create().unwrap();
        Self { config, partitions, runtime, outcomes, writer, producer, now_ms }
    }

    fn start(&self, options: OutboxOptions) -> CarrierConsumer {
        CarrierConsumer::start(&self.config, self.partitions, CARRIER, self.outcomes.ledger(), options).unwrap()
    }

    fn order(&self, number: u64) -> OrderId {
        OrderId(u128::from(self.now_ms) << 80 | u128::from(number))
    }

    fn record(&self, number: u64) -> Vec<u8> {
        let mut record = vec![sluice_schemas::order::VERSION];
        record.extend_from_slice(&self.order(number).0.to_be_bytes());
        record.extend_from_slice(&[7; 8]);
        record.extend_from_slice(format!("order {number}").as_bytes());
        record
    }

    fn items(number: u64) -> Vec<u8> {
        let mut items = Vec::new();
        Items::encode(
            &[Item { line: number as u16 % 9, quantity: Some(2) }, Item { line: 1, quantity: Some(1) }],
            &mut items,
        );
        items
    }

    fn frame(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut out = Vec::new();
        frame::start(&mut out, 1);
        for number in numbers {
            let (record, items) = (self.record(number), Self::items(number));
            let items = Items::read(&mut Reader::new(&items)).unwrap();
            let weight = Self::weight(number);
            Shipment { parcel: 1, attempt: 2, handling: 0, weight, items, record: &record }.put(&mut out);
        }
        out
    }

    /// Writes a record as it is.
    fn put(&self, partition: i32, payload: &[u8]) {
        let topic = Names::new(&self.config.prefix).shipments(CARRIER);
        let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(partition).payload(payload);
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
        self.producer.flush(PATIENCE).unwrap();
    }

    fn write(&self, partition: i32, numbers: impl IntoIterator<Item = u64>) {
        self.put(partition, &self.frame(numbers));
    }

    /// Hands over an outcome for each.
    fn report(&self, taken: &[Taken]) {
        let mut reports: Vec<_> = taken
            .iter()
            .map(|t| OutcomeReport {
                shipment: ShipmentId { order: self.order(t.number), parcel: 1, attempt: 2 },
                kind: OutcomeKind::Accepted,
                at_ms: self.now_ms,
                carrier: CARRIER.into(),
                text: "tracking".into(),
            })
            .collect();
        self.outcomes.report(&mut Context::from_waker(Waker::noop()), &mut reports);
        assert!(reports.is_empty());
    }

    /// What the group has committed: offset and text.
    fn committed(&self, partition: i32) -> Option<(i64, String)> {
        let names = Names::new(&self.config.prefix);
        let client: BaseConsumer = self.config.consumer(&names.notifiers(CARRIER)).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(&names.shipments(CARRIER), partition);
        let list = client.committed_offsets(list, PATIENCE).unwrap();
        let element = &list.elements()[0];
        match element.offset() {
            Offset::Offset(at) => Some((at, element.metadata().to_owned())),
            _ => None,
        }
    }

    fn settled_at(&self, partition: i32, offset: i64, settled: u32) {
        let text = format!("v1;settled={settled}");
        let done = || self.committed(partition).is_some_and(|(at, m)| at == offset && m.starts_with(&text));
        until(&format!("partition {partition} at {offset}, {settled} settled"), done);
    }

    /// Takes entries, at most `max` at a time, until there are `count`.
    fn take(&self, outbox: &mut KafkaOutbox, count: usize, max: usize) -> Vec<Taken> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.poll(outbox, max.min(count - all.len()), PATIENCE) {
                Some(Ok(taken)) => all.extend(taken),
                other => panic!("{other:?} after {} of {count}: {all:?}", all.len()),
            }
        }
        all
    }

    /// What comes next; `None` if nothing does for `wait`.
    fn poll(&self, outbox: &mut KafkaOutbox, max: usize, wait: Duration) -> Option<Result<Vec<Taken>, LogError>> {
        self.runtime.block_on(async {
            let mut batch = OutboxBatch::default();
            // A batch that isn't empty before.
            batch.bytes.extend_from_slice(b"before");
            let polled = std::future::poll_fn(|cx| outbox.poll_entries(cx, max, &mut batch));
            let count = tokio::time::timeout(wait, polled).await.ok()?;
            Some(count.map(|count| {
                assert_eq!(count, batch.entries.len());
                batch.entries.iter().map(|e| self.check(e, &batch)).collect()
            }))
        })
    }

    fn weight(number: u64) -> Weight {
        Weight { grams: number as u32, estimated: number % 2 == 1 }
    }

    fn check(&self, entry: &sluice_pipeline::OutboxEntry, batch: &OutboxBatch) -> Taken {
        let number = entry.shipment.order.0 as u64;
        assert_eq!((entry.shipment.parcel, entry.shipment.attempt, entry.weight), (1, 2, Self::weight(number)));
        assert_eq!(&batch.bytes[entry.record.clone()], &self.record(number)[..]);
        assert_eq!(&batch.bytes[entry.items.clone()], &Self::items(number)[..]);
        Taken { position: entry.position, number, maybe_sent: entry.maybe_sent }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.writer.close();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    position: u64,
    number: u64,
    maybe_sent: bool,
}

/// What is committed of a partition that nothing was settled of.
fn begun() -> Option<(i64, String)> {
    Some((0, String::new()))
}

fn numbers(taken: &[Taken]) -> Vec<u64> {
    taken.iter().map(|t| t.number).collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn world(name: &str, partitions: u16) -> Option<(impl Sized, World)> {
    let brokers = testing::shared()?;
    let world = World::new(&brokers, name, partitions, Duration::from_millis(2));
    Some((brokers, world))
}

#[test]
fn entries_come_in_order_with_their_bytes() {
    let Some((_brokers, world)) = world("order", 2) else { return };
    for frame in 0..20_u64 {
        world.write((frame % 2) as i32, frame * 100..frame * 100 + 37);
    }
    let consumer = world.start(OutboxOptions::default());
    let mut outbox = consumer.outbox();
    let taken = world.take(&mut outbox, 20 * 37, 10);
    assert!(taken.iter().zip(1..).all(|(t, position)| t.position == position && !t.maybe_sent));
    for partition in 0..2 {
        let got: Vec<_> = numbers(&taken).into_iter().filter(|n| n / 100 % 2 == partition).collect();
        let wrote: Vec<_> = (0..20).filter(|f| f % 2 == partition).flat_map(|f| f * 100..f * 100 + 37).collect();
        assert_eq!(got, wrote, "partition {partition}");
    }
    // The waker of a reader that waits is called.
    assert!(world.poll(&mut outbox, 10, Duration::from_millis(50)).is_none());
    world.write(0, [5_000]);
    assert_eq!(numbers(&world.take(&mut outbox, 1, 10)), [5_000]);
    consumer.close();
    assert!(matches!(world.poll(&mut outbox, 10, PATIENCE), Some(Err(LogError::Closed))));
}

/// What the carrier was told before is known to the group alone.
#[test]
fn a_group_that_was_forgotten_gives_nothing() {
    let Some((_brokers, world)) = world("forgotten", 1) else { return };
    world.write(0, 0..10);
    let group = Names::new(&world.config.prefix).notifiers(CARRIER);
    world.runtime.block_on(testing::forget(&world.config, &group));
    let consumer = world.start(OutboxOptions::default());
    let mut outbox = consumer.outbox();
    assert!(world.poll(&mut outbox, 10, Duration::from_secs(5)).is_none());
    consumer.close();
    assert_eq!(world.committed(0), None);
    world
        .runtime
        .block_on(topics::migrate(&world.config, 1, &[(CARRIER.to_owned(), Forgotten::Earliest)].into()))
        .unwrap();
    let consumer = world.start(OutboxOptions::default());
    assert_eq!(world.take(&mut consumer.outbox(), 10, 10).len(), 10);
    consumer.close();
}

#[test]
fn a_small_buffer_pauses_and_loses_nothing() {
    let Some((_brokers, world)) = world("pause", 2) else { return };
    for frame in 0..200_u64 {
        world.write((frame % 2) as i32, frame * 100..frame * 100 + 20);
    }
    let consumer = world.start(OutboxOptions { buffer_bytes: 8_000, ..OutboxOptions::default() });
    let mut outbox = consumer.outbox();
    let mut got = numbers(&world.take(&mut outbox, 200 * 20, 7));
    assert!(world.poll(&mut outbox, 10, Duration::from_millis(100)).is_none(), "nothing comes twice");
    got.sort_unstable();
    assert_eq!(got, (0..200).flat_map(|f| f * 100..f * 100 + 20).collect::<Vec<_>>());
    consumer.close();
}

#[test]
fn offsets_are_committed_once_outcomes_are_durable() {
    let Some(brokers) = testing::shared() else { return };
    // Outcomes wait so long before they are written.
    let world = World::new(&brokers, "durable", 1, Duration::from_secs(2));
    world.write(0, 0..10);
    world.write(0, 10..20);
    let consumer = world.start(OutboxOptions::default());
    let mut outbox = consumer.outbox();
    let taken = world.take(&mut outbox, 20, 512);
    world.report(&taken[..15]);
    outbox.settled(taken[14].position);
    let ledger = world.outcomes.ledger();
    let mut looked = 0;
    loop {
        let committed = world.committed(0);
        if ledger.settled() >= 15 {
            break;
        }
        assert_eq!(committed, begun());
        looked += 1;
    }
    assert!(looked > 1, "it looked while they were not durable");
    world.settled_at(0, 1, 5);
    consumer.close();
}

#[test]
fn a_restart_resumes_after_what_was_settled() {
    let Some((_brokers, world)) = world("resume", 2) else { return };
    world.write(0, 0..10);
    world.write(0, 10..20);
    let consumer = world.start(OutboxOptions::default());
    let mut outbox = consumer.outbox();
    let taken = world.take(&mut outbox, 20, 512);
    world.report(&taken[..13]);
    outbox.settled(taken[12].position);
    world.settled_at(0, 1, 3);
    // Reported, and settled only as it ends.
    world.report(&taken[13..15]);
    outbox.settled(taken[14].position);
    drop(outbox);
    consumer.close();
    assert_eq!(world.committed(0), Some((1, "v1;settled=5".to_owned())));
    assert_eq!(world.committed(1), begun());

    let consumer = world.start(OutboxOptions::default());
    let mut outbox = consumer.outbox();
    let taken = world.take(&mut outbox, 5, 512);
    assert_eq!(numbers(&taken), [15, 16, 17, 18, 19]);
    assert_eq!((taken[0].position, taken[0].maybe_sent), (1, false));
    // A new outbox of the same process goes on there too, and the one before is closed.
    world.report(&taken[..2]);
    outbox.settled(taken[1].position);
    let mut second = consumer.outbox();
    assert_eq!(numbers(&world.take(&mut second, 3, 512)), [17, 18, 19]);
    assert!(matches!(world.poll(&mut outbox, 1, PATIENCE), Some(Err(LogError::Closed))));
    outbox.settled(5);
    world.write(0, [20]);
    let rest = world.take(&mut second, 1, 512);
    world.report(&rest);
    second.settled(4);
    world.settled_at(0, 3, 0);
    drop(second);
    assert!(world.poll(&mut consumer.outbox(), 1, Duration::from_millis(300)).is_none(), "all is settled");
    drop(consumer);
}

fn mark(world: &World, outbox: &mut KafkaOutbox, position: u64) {
    outbox.mark_sending(position);
    until("the mark rises", || outbox.sending_mark() >= position);
    assert_eq!(outbox.sending_mark(), position);
    assert!(world.committed(0) != begun() || world.committed(1) != begun(), "it is durable by then");
}

#[test]
fn marks_are_durable_and_come_back() {
    let Some((_brokers, world)) = world("marks", 2) else { return };
    world.write(0, 0..10);
    world.write(1, 100..110);
    let consumer = world.start(OutboxOptions::default());
    let mut outbox = consumer.outbox();
    let mut taken = world.take(&mut outbox, 20, 512);
    assert_eq!(outbox.sending_mark(), 0);
    mark(&world, &mut outbox, taken[14].position);
    // The first ten are of one partition, five of the other.
    let (first, second) = if taken[0].number == 0 { (0, 1) } else { (1, 0) };
    assert_eq!(world.committed(first), Some((0, "v1;settled=0;sending=0:9".to_owned())));
    assert_eq!(world.committed(second), Some((0, "v1;settled=0;sending=0:4".to_owned())));
    world.report(&taken[..12]);
    outbox.settled(taken[11].position);
    world.settled_at(first, 1, 0);
    world.settled_at(second, 0, 2);
    assert_eq!(world.committed(first).unwrap().1, "v1;settled=0");
    drop(outbox);

    let maybe = |taken: &[Taken]| taken.iter().map(|t| t.maybe_sent).collect::<Vec<_>>();
    let want = [true, true, true, false, false, false, false, false];
    let mut outbox = consumer.outbox();
    taken = world.take(&mut outbox, 8, 512);
    assert_eq!(maybe(&taken), want);
    assert_eq!(outbox.sending_mark(), 0);
    // What is marked already needs no commit, but asks all the same.
    mark(&world, &mut outbox, 3);
    drop(outbox);
    consumer.close();

    let consumer = world.start(OutboxOptions::default());
    let mut outbox = consumer.outbox();
    taken = world.take(&mut outbox, 8, 512);
    assert_eq!(maybe(&taken), want);
    mark(&world, &mut outbox, 8);
    assert_eq!(world.committed(second).unwrap().1, "v1;settled=2;sending=0:9");
    consumer.close();
    assert_eq!(outbox.sending_mark(), 8, "it stays when it closes");
}

#[test]
fn damage_is_passed_over() {
    let Some((_brokers, world)) = world("damage", 1) else { return };
    world.put(0, b"");
    world.put(0, &[9, 9, 9, 9]);
    world.write(0, 0..3);
    let mut cut = world.frame(3..6);
    cut.truncate(cut.len() - 4);
    world.put(0, &cut);
    let mut alien = world.frame(5..6);
    let (items, weight) = (Items::default(), World::weight(1));
    let short = Shipment { parcel: 0, attempt: 0, handling: 0, weight, items, record: b"no order" };
    short.put(&mut alien);
    alien.extend_from_slice(&world.frame(6..8)[frame::HEAD..]);
    world.put(0, &alien);
    world.put(0, &[1, 0, 0]);

    let consumer = world.start(OutboxOptions::default());
    let mut outbox = consumer.outbox();
    let taken = world.take(&mut outbox, 8, 2);
    assert_eq!(numbers(&taken), [0, 1, 2, 3, 4, 5, 6, 7]);
    // The frames before that hold nothing are done with.
    world.settled_at(0, 2, 0);
    world.report(&taken[..7]);
    outbox.settled(7);
    world.settled_at(0, 4, 3);
    assert!(world.poll(&mut outbox, 1, Duration::from_millis(50)).is_none());
    world.report(&taken[7..]);
    outbox.settled(8);
    world.settled_at(0, 6, 0);
    consumer.close();
}

/// A process: takes what comes, settles it at once, and asks for a new outbox when its own closes.
struct Process {
    consumer: CarrierConsumer,
    outbox: KafkaOutbox,
    generations: usize,
    seen: Vec<u64>,
}

impl Process {
    fn step(&mut self, world: &World, settle: bool) {
        match world.poll(&mut self.outbox, 100, Duration::from_millis(10)) {
            None => {}
            Some(Ok(taken)) => {
                self.seen.extend(taken.iter().map(|t| t.number));
                if settle {
                    world.report(&taken);
                    self.outbox.settled(taken.last().unwrap().position);
                }
            }
            Some(Err(LogError::Closed)) => {
                self.outbox = self.consumer.outbox();
                self.generations += 1;
            }
            Some(Err(error)) => panic!("{error}"),
        }
    }
}

#[test]
fn a_second_process_takes_its_share() {
    let Some((_brokers, world)) = world("share", 4) else { return };
    let process = || {
        let consumer = world.start(OutboxOptions::default());
        Process { outbox: consumer.outbox(), consumer, generations: 1, seen: Vec::new() }
    };
    for frame in 0..40_u64 {
        world.write((frame % 4) as i32, frame * 100..frame * 100 + 10);
    }
    let mut one = process();
    // The last frame of each partition isn't settled while it is handed out the first time.
    until("the first has all", || {
        one.step(&world, false);
        one.seen.len() == 400
    });
    let mut two = process();
    until("both have an outbox, and all entries came again", || {
        one.step(&world, true);
        two.step(&world, true);
        let all: BTreeSet<_> = one.seen[400..].iter().chain(&two.seen).copied().collect();
        !two.seen.is_empty() && all.len() == 400
    });
    assert!(one.generations >= 2, "the outbox of the first has closed");
    until("all is committed", || (0..4).all(|p| world.committed(p).is_some_and(|(at, _)| at == 10)));

    // Both take part, and nothing that is settled comes again when one goes.
    (one.seen, two.seen) = (Vec::new(), Vec::new());
    for frame in 40..80_u64 {
        world.write((frame % 4) as i32, frame * 100..frame * 100 + 10);
    }
    until("the rest", || {
        one.step(&world, true);
        two.step(&world, true);
        one.seen.len() + two.seen.len() >= 400
    });
    assert!(!one.seen.is_empty() && !two.seen.is_empty(), "both share the work");
    drop(two.outbox);
    two.consumer.close();
    world.write(0, [9_000]);
    world.write(1, [9_001]);
    world.write(2, [9_002]);
    world.write(3, [9_003]);
    until("the first has all partitions", || {
        one.step(&world, true);
        one.seen.len() + two.seen.len() >= 404
    });
    let mut times = BTreeMap::new();
    one.seen.iter().chain(&two.seen).for_each(|&n| *times.entry(n).or_insert(0) += 1);
    assert!(times.len() == 404 && times.values().all(|&n| n == 1), "{times:?}");
    one.consumer.close();
}

#[test]
fn partitions_that_go_wait_for_the_last_outcomes() {
    let Some((_brokers, world)) = world("grace", 1) else { return };
    world.write(0, 0..10);
    let one = world.start(OutboxOptions { revoke_grace: Duration::from_secs(20), ..OutboxOptions::default() });
    let mut first = one.outbox();
    let taken = world.take(&mut first, 10, 512);
    // It settles after it was told to stop.
    let closing = std::thread::spawn(move || one.close());
    assert!(matches!(world.poll(&mut first, 1, PATIENCE), Some(Err(LogError::Closed))));
    world.report(&taken[..6]);
    first.settled(6);
    drop(first);
    closing.join().unwrap();
    assert_eq!(world.committed(0), Some((0, "v1;settled=6".to_owned())));
}

#[test]
fn a_broker_that_comes_back_changes_nothing() {
    let Some(mut brokers) = testing::alone() else { return };
    let world = World::new(&brokers, "killed", 2, Duration::from_millis(2));
    world.write(0, 0..10);
    world.write(1, 100..110);
    let consumer = world.start(OutboxOptions::default());
    let mut process = Process { outbox: consumer.outbox(), consumer, generations: 1, seen: Vec::new() };
    let taken = world.take(&mut process.outbox, 20, 512);
    world.report(&taken[..5]);
    process.outbox.settled(5);
    until("durable", || world.outcomes.ledger().settled() >= 5);
    brokers.kill_kafka();
    world.report(&taken[5..12]);
    process.outbox.settled(12);
    process.outbox.mark_sending(15);
    assert!(world.poll(&mut process.outbox, 1, Duration::from_millis(500)).is_none());
    assert_eq!(process.outbox.sending_mark(), 0, "nothing is durable without a broker");
    // One that joins or goes meanwhile doesn't hang.
    drop(world.start(OutboxOptions::default()));
    let began = Instant::now();
    world.start(OutboxOptions::default()).close();
    assert!(began.elapsed() < PATIENCE);
    brokers.start_kafka().unwrap();
    world.write(0, 10..20);
    let wanted: BTreeSet<_> = (10..20).collect();
    until("the frames after", || {
        process.step(&world, false);
        wanted.iter().all(|n| process.seen.contains(n))
    });
    // Twelve of the twenty were settled, also if the session was lost before that could be committed.
    drop(process.outbox);
    until("the group has what was settled", || {
        let of = |p| world.committed(p).map_or(0, |(at, text)| if at > 0 { 10 } else { settled_in(&text) });
        of(0) + of(1) == 12
    });
    process.consumer.close();
}

fn settled_in(text: &str) -> u32 {
    super::mark::Mark::parse(text).unwrap().settled
}

#[test]
fn polling_an_outbox_without_brokers_waits() {
    let mut config = LogConfig::new("127.0.0.1:1", vec![CARRIER.into()]);
    config.session_timeout = Duration::from_secs(6);
    let options = OutboxOptions { revoke_grace: Duration::from_millis(100), ..OutboxOptions::default() };
    let consumer = CarrierConsumer::start(&config, 1, CARRIER, Arc::default(), options).unwrap();
    let mut outbox = consumer.outbox();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(outbox.poll_entries(&mut cx, 10, &mut OutboxBatch::default()), Poll::Pending));
    let began = Instant::now();
    consumer.close();
    assert!(began.elapsed() < PATIENCE);
    assert!(matches!(
        outbox.poll_entries(&mut cx, 10, &mut OutboxBatch::default()),
        Poll::Ready(Err(LogError::Closed))
    ));
}
