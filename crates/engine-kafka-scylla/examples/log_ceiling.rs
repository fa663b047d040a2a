//! How much of the brokers' speed is left: the engine's way into and out of the orders topic beside bare librdkafka loops
//! over the same records, in one run, alternating.
//!
//! ```text
//! cargo run --release --example log_ceiling -- [BOOTSTRAP]      # starts a broker of its own without an address
//! ```

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement")]

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer},
};
use sluice_brokers::{Brokers, Options};
use sluice_domain::{Fingerprint, OrderId, SlotCount};
use sluice_engine_kafka_scylla::{LogConfig, Writer, topics};
use sluice_pipeline::{Batch, Intake, Receipt, Submission, Submitted};
use sluice_schemas::{
    frame,
    order::{Head, Line, ShipTo, put_head, put_line},
};

const ORDERS: usize = 2_000_000;
const PARTITIONS: u16 = 4;
const ROUNDS: usize = 5;
const SUBMISSION: usize = 1_000;
const WINDOW: usize = 32;

fn main() {
    let owned;
    let bootstrap = match std::env::args().nth(1) {
        Some(address) => address,
        None => {
            owned = Brokers::start(&Options { with_store: false, ..Options::default() }).expect("a broker");
            owned.kafka().to_owned()
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let submissions = submissions();
    println!("{ORDERS} orders of two lines, {PARTITIONS} partitions; orders/s");
    println!(
        "{:>5} {:>12} {:>12} {:>6} {:>12} {:>12} {:>6}",
        "round", "bare write", "writer", "", "bare read", "reader", ""
    );
    let mut ratios = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut config = LogConfig::new(&bootstrap, Vec::new());
        config.prefix = format!("ceiling-{}-{round}", std::process::id());
        config.partitions = PARTITIONS;
        config.replication = 1;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let deployment = runtime.block_on(topics::migrate(&config, now, &Default::default())).unwrap().deployment;
        let topic = topics::Names::new(&config.prefix).orders();
        let writer = rate(|| written(&runtime, &config, deployment, &submissions));
        // What the writer made is what the bare loop writes, into the same partitions once more.
        let mut records = Vec::new();
        let reader = rate(|| read(&config, &topic, &mut |p, bytes| decode(p, bytes)));
        let bare_read = rate(|| read(&config, &topic, &mut |_, _| {}));
        read(&config, &topic, &mut |p, bytes| records.push((p, bytes.to_vec())));
        let bare_write = rate(|| bare(&config, &topic, &records));
        ratios.0.push(writer / bare_write);
        ratios.1.push(reader / bare_read);
        println!(
            "{round:>5} {bare_write:>12.0} {writer:>12.0} {:>5.0}% {bare_read:>12.0} {reader:>12.0} {:>5.0}%",
            100.0 * writer / bare_write,
            100.0 * reader / bare_read
        );
    }
    for (what, ratios) in [("write", &mut ratios.0), ("read", &mut ratios.1)] {
        ratios.sort_by(f64::total_cmp);
        println!("{what}: median {:.0} % of the bare loop", 100.0 * ratios[ROUNDS / 2]);
    }
}

fn rate(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    ORDERS as f64 / started.elapsed().as_secs_f64()
}

fn submissions() -> Vec<Submission> {
    let (mut all, mut submission) = (Vec::new(), Submission::default());
    let ship_to =
        ShipTo { name: "Ada Byron", street: "1 Main St", city: "Springfield", postal_code: "12345", country: "US" };
    for i in 0..ORDERS {
        let fingerprint = Fingerprint::of("m-1", &i.to_string());
        let id = OrderId::new(1_794_268_800_000 + i as u64 / 200, fingerprint, SlotCount::DEFAULT);
        let head = Head {
            id: id.0,
            fingerprint_high: fingerprint.high(),
            accepted_at_ms: id.placed_at_ms() + 5,
            merchant: "m-1",
            customer: "c-77",
            currency: "USD",
            ship_to,
            lines: 2,
        };
        let start = submission.bytes.len();
        put_head(&mut submission.bytes, &head);
        for sku in ["1029743", "951590"] {
            put_line(
                &mut submission.bytes,
                &Line { sku, title: "FLUID MILK WHITE ONLY | 1 GA", quantity: 2, unit_price: 129 },
            );
        }
        submission.orders.push(Submitted { id, fingerprint, record: start..submission.bytes.len() });
        if submission.orders.len() == SUBMISSION {
            all.push(std::mem::take(&mut submission));
        }
    }
    all
}

fn written(
    runtime: &tokio::runtime::Runtime,
    config: &LogConfig,
    deployment: topics::Deployment,
    submissions: &[Submission],
) {
    let writer = Writer::start(config, deployment).unwrap();
    let mut waiting = VecDeque::new();
    let settle = |receipts: Option<Vec<Receipt>>| {
        assert!(receipts.is_none_or(|all| all.iter().all(|r| *r == Receipt::Accepted)), "an order was refused");
    };
    for submission in submissions {
        let copy = Submission { bytes: submission.bytes.clone(), orders: submission.orders.clone() };
        waiting.push_back(writer.submit(copy));
        if waiting.len() > WINDOW {
            settle(waiting.pop_front().map(|receipts| runtime.block_on(receipts)));
        }
    }
    while let Some(receipts) = waiting.pop_front() {
        settle(Some(runtime.block_on(receipts)));
    }
    writer.close();
}

fn bare(config: &LogConfig, topic: &str, records: &[(i32, Vec<u8>)]) {
    let mut client = config.producer();
    client.set("linger.ms", "5");
    let producer: BaseProducer = client.create().unwrap();
    for (partition, bytes) in records {
        let mut next: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(*partition).payload(bytes);
        while let Err((error, back)) = producer.send(next) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull));
            producer.poll(Duration::from_millis(5));
            next = back;
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

fn read(config: &LogConfig, topic: &str, each: &mut dyn FnMut(i32, &[u8])) {
    let mut client = config.consumer("ceiling");
    client.set("enable.partition.eof", "true");
    let consumer: BaseConsumer = client.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::from(PARTITIONS) {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut left = PARTITIONS;
    while left > 0 {
        match consumer.poll(Duration::from_secs(30)).expect("records") {
            Ok(message) => each(message.partition(), message.payload().unwrap()),
            Err(KafkaError::PartitionEOF(_)) => left -= 1,
            Err(error) => panic!("{error}"),
        }
    }
}

/// As an owner takes a frame apart.
fn decode(_: i32, bytes: &[u8]) {
    thread_local! {
        static BATCH: std::cell::RefCell<Batch> = std::cell::RefCell::default();
    }
    BATCH.with_borrow_mut(|batch| {
        let copy = bytes.to_vec();
        for input in frame::inputs(&copy).unwrap().1 {
            if let frame::Input::Placed(record) = input.unwrap() {
                let id = OrderId(sluice_schemas::order::peek_id(record).unwrap());
                batch.push_placed(id, Fingerprint(u128::from(id.hash64())), record);
            }
        }
        if batch.byte_len() > Batch::MAX_BYTES / 2 {
            batch.clear();
        }
    });
}
