//! A journal, a checkpoint head, a deployment record and a filter as they were written, frozen beside the record formats.
//!
//! The log holds two partitions, a reroute, a dead letter, a rejected order, an order that ships nothing, a sending mark
//! and a seal. Made by `cargo test -p sluice-engine-embedded regenerate -- --ignored`; see the fixtures of the records
//! for what a change means.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use sluice_domain::{Class, order_state::class_of_row};
use sluice_pipeline::{
    Disk, Receipt, Store, Table,
    conformance::{Harness, MERCHANT, Order, answer, submission},
};
use sluice_schemas::outcome::OutcomeKind;

use super::{
    fakes::{MemDisk, MemStore},
    world::{World, tiny},
};
use crate::{EngineConfig, JournalConfig, journal::segment_name};

/// What happened, as it is known in this log.
const ORDERS: [(&str, &[&str], Class); 6] = [
    ("finished", &["c0", "none"], Class::Finished),
    ("rerouted", &["c0"], Class::InFlight),
    ("given-up", &["c1"], Class::DeadLettered),
    ("rejected", &["bad"], Class::DeadLettered),
    ("nothing", &["none"], Class::Finished),
    ("half", &["c1", "nobody"], Class::InFlight),
];

fn config() -> EngineConfig {
    let journal =
        JournalConfig { segment_bytes: 24 << 10, group_bytes: 4_056, frame_bytes: 4_096, ..JournalConfig::default() };
    EngineConfig { journal, ..tiny() }
}

fn orders() -> Vec<Order> {
    ORDERS.iter().map(|(key, skus, _)| Order::new(*key, skus)).collect()
}

/// The log; `None` for a world that has taken no checkpoint.
fn write(checkpoint: bool) -> World {
    let (disk, store) = (MemDisk::default(), MemStore::default());
    let mut world = World::of(disk, store);
    world.config = config();
    world.open().unwrap();
    let orders = orders();
    world.submit(submission(&orders[..3]));
    world.settle_down();
    world.live().outboxes[0].mark_sending(60);
    world.report(vec![
        answer(orders[0].shipment(0, 0), OutcomeKind::Accepted),
        answer(orders[1].shipment(0, 0), OutcomeKind::Rejected),
        answer(orders[2].shipment(0, 0), OutcomeKind::GivenUp),
    ]);
    world.settle_down();
    world.submit(submission(&orders[3..]));
    world.settle_down();
    assert!(world.seal());
    if checkpoint {
        world.checkpoint();
    }
    world
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/fixtures")).join(name)
}

fn frozen(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Each file with the bytes written for it today.
fn written() -> Vec<(&'static str, Vec<u8>)> {
    let world = write(true);
    let meta = |key: &[u8]| world.mem_store().get(Table::Meta, key).unwrap().unwrap();
    let segment = world.disk().bytes(&segment_name(0));
    let damaged = damaged(&segment, &meta(b"deployment"), "time");
    vec![
        ("journal-v2.seg", segment),
        ("checkpoint-head-v3.bin", meta(b"head")),
        ("deployment-v1.bin", meta(b"deployment")),
        ("index-filter-v1.bin", meta(b"filter-1")),
        ("journal-damaged-v2.txt", damaged.into_bytes()),
    ]
}

/// A closed world over a log of one segment.
fn over(segment: &[u8], deployment: &[u8]) -> World {
    let (disk, store) = (MemDisk::default(), MemStore::default());
    disk.create(&segment_name(0), segment.len() as u64).unwrap();
    disk.change(&segment_name(0), |bytes| bytes.copy_from_slice(segment));
    store.ingest(Table::Meta, &mut |put| put(b"deployment", deployment)).unwrap();
    let mut world = World::of(disk, store);
    world.config = config();
    world
}

/// What opening says when one byte of each interesting place is another, and when the end is torn.
fn damaged(segment: &[u8], deployment: &[u8], last_field: &str) -> String {
    let mut out = String::new();
    let mut say = |name: String, bytes: &[u8]| {
        let result = over(bytes, deployment).open();
        let text = result.map_or_else(|e| e.to_string(), |r| format!("opens: {r:?}"));
        writeln!(out, "{name}: {text}").unwrap();
    };
    let starts = (0..segment.len()).step_by(4_096).filter(|&at| segment[at..].starts_with(b"SLG1"));
    let starts: Vec<usize> = starts.collect();
    for &start in &starts {
        for (what, at) in [("magic", 0), ("checksum", 4), ("journal", 8), ("sequence", 16), ("position", 24)] {
            let mut bytes = segment.to_vec();
            bytes[start + at] ^= 1;
            say(format!("{what} of the group at byte {start} changed"), &bytes);
        }
        for (what, at) in [("length", 32), (last_field, 36), ("payload", 45), ("padding", 4_095)] {
            let mut bytes = segment.to_vec();
            bytes[start + at] ^= 1;
            say(format!("{what} of the group at byte {start} changed"), &bytes);
        }
        let mut bytes = segment.to_vec();
        bytes[start + 64..].fill(0);
        say(format!("written only to byte {}", start + 64), &bytes);
    }
    out
}

#[test]
fn what_is_written_today_equals_what_was_frozen() {
    for (name, bytes) in written() {
        let frozen = frozen(name);
        if name.ends_with(".txt") {
            assert_eq!(String::from_utf8_lossy(&frozen), String::from_utf8_lossy(&bytes), "{name}");
        } else {
            let at = frozen.iter().zip(&bytes).position(|(a, b)| a != b);
            assert!(
                frozen == bytes,
                "{name} differs from byte {at:?}, {} and {} bytes long",
                frozen.len(),
                bytes.len()
            );
        }
    }
}

/// The same order states, receipts and outboxes from a frozen log.
fn judge(world: &mut World) {
    for (order, (key, _, class)) in orders().iter().zip(ORDERS) {
        let stored = world.read(order.id()).unwrap();
        assert_eq!(stored.record, order.record(), "{key}");
        assert_eq!(class_of_row(&stored.row), Ok(class), "{key}");
    }
    let orders = orders();
    let (first, second) = (world.outbox(0), world.outbox(1));
    assert!(first.is_empty(), "both of its shipments have their answer");
    let mut waiting: Vec<_> = second.iter().map(|s| s.shipment).collect();
    waiting.sort_unstable();
    let mut expected = [orders[1].shipment(0, 1), orders[5].shipment(0, 0)];
    expected.sort_unstable();
    assert_eq!(waiting, expected);
    assert_eq!(world.live().outboxes[0].sending_mark(), 60);
    let ticket = world.submit(submission(&orders));
    world.settle_down();
    assert_eq!(world.receipts(ticket), Some(vec![Receipt::Replayed; ORDERS.len()]));
    let counts = world.engine().counts();
    assert_eq!((counts.accepted, counts.finished, counts.dead_lettered, counts.in_flight), (6, 2, 2, 2));
}

#[test]
fn a_frozen_journal_is_still_read() {
    for name in ["journal-v1.seg", "journal-v2.seg"] {
        let mut world = over(&frozen(name), &frozen("deployment-v1.bin"));
        let recovered = world.open().unwrap();
        assert_eq!((recovered.orders, recovered.torn_at), (6, None), "{name}");
        judge(&mut world);
    }
    // In the first version what is the time now was reserved.
    let damaged = damaged(&frozen("journal-v1.seg"), &frozen("deployment-v1.bin"), "reserved");
    assert_eq!(damaged, String::from_utf8_lossy(&frozen("journal-damaged-v1.txt")));
}

#[test]
fn a_frozen_checkpoint_is_still_read() {
    let heads = [("checkpoint-head-v1.bin", 2), ("checkpoint-head-v2.bin", 0), ("checkpoint-head-v3.bin", 0)];
    for (name, listed_since) in heads {
        let head = crate::head::Head::decode(&frozen(name)).unwrap();
        assert_eq!((head.number, head.replay_from.len(), head.generations.len()), (1, 2, 1));
        assert_eq!((head.counts.accepted, head.counts.finished, head.listed_since), (6, 2, listed_since));
        a_checkpoint_is_read(&frozen(name), listed_since == 0);
    }
}

fn a_checkpoint_is_read(head: &[u8], lists: bool) {
    // Its rows are not frozen: they are deltas, which are. Made anew from the same log they belong to the same head.
    let world = write(true);
    let (disk, store) = (world.disk().fork(), world.mem_store().fork());
    store.ingest(Table::Meta, &mut |put| put(b"head", head)).unwrap();
    if !lists {
        store.drop_table(Table::Lookup).unwrap();
    }
    let filter = frozen("index-filter-v1.bin");
    store.ingest(Table::Meta, &mut |put| put(b"filter-1", &filter)).unwrap();
    let mut world = World::of(disk, store);
    world.config = config();
    assert_eq!(world.open().unwrap().orders, 0, "all of it is behind the checkpoint");
    judge(&mut world);
    // What an older version took is not listed; what is taken from now on is.
    let newer = Order::new("newer", &["c0"]);
    world.submit(submission(std::slice::from_ref(&newer)));
    world.settle_down();
    world.checkpoint();
    let listed = world.list(MERCHANT, &newer.customer, None, 100).orders.len();
    assert_eq!(listed, if lists { ORDERS.len() + 1 } else { 1 });
}

#[test]
fn a_frozen_deployment_is_still_read() {
    let store: Arc<dyn Store> = Arc::new(MemStore::default());
    let bytes = frozen("deployment-v1.bin");
    store.ingest(Table::Meta, &mut |put| put(b"deployment", &bytes)).unwrap();
    let found = crate::recovery::Deployment::read(&*store).unwrap().unwrap();
    assert_eq!((found.journal, found.segment_bytes, found.slots), (0x5EED, 24 << 10, 1_024));
    for cut in 0..bytes.len() {
        store.ingest(Table::Meta, &mut |put| put(b"deployment", &bytes[..cut])).unwrap();
        assert!(crate::recovery::Deployment::read(&*store).is_err(), "cut to {cut}");
    }
}

#[test]
#[ignore = "writes the fixtures; run it when a format gets a new version"]
fn regenerate() {
    for (name, bytes) in written() {
        std::fs::write(path(name), bytes).unwrap();
    }
}
