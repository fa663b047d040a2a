//! Torn is not rot: what a crash may leave is cut off, anything else is named and stops the open.

use sluice_domain::order_state::Class;
use sluice_pipeline::{
    BLOCK, LogError, Receipt,
    conformance::{Harness, Order, answer, submission},
};
use sluice_schemas::outcome::OutcomeKind;

use super::world::{World, tiny};
use crate::journal::{format::GROUP_HEAD, segment_name};

/// A log of `groups` groups with one order each, the last one not sealed; and where each group starts.
fn log(groups: usize) -> (World, Vec<Order>, Vec<u64>) {
    let mut world = World::mem(tiny());
    let orders: Vec<Order> = (0..groups).map(|i| Order::new(format!("k{i}"), &["c0", "c1"])).collect();
    let mut starts = Vec::new();
    for order in &orders {
        starts.push(world.engine().journal().durable());
        world.submit(submission(std::slice::from_ref(order)));
        world.settle_down();
    }
    (world, orders, starts)
}

/// Opens a copy of `world` whose first segment was changed.
fn reopened(world: &World, change: impl FnOnce(&mut Vec<u8>)) -> (World, Result<crate::Recovered, LogError>) {
    let (disk, store) = (world.disk().fork(), world.mem_store().fork());
    disk.change(&segment_name(0), change);
    let mut copy = World::of(disk, store);
    let result = copy.open();
    (copy, result)
}

#[test]
fn every_torn_end_is_cut_off_and_overwritten() {
    let (world, orders, starts) = log(3);
    let last = starts[2] as usize;
    let bytes = world.disk().bytes(&segment_name(0));
    let end = world.engine().journal().durable() as usize;
    let payload_end = bytes[..end].iter().rposition(|&b| b != 0).unwrap() + 1;
    // Every byte of head and payload in turn is where the device stopped writing.
    for cut in last..payload_end {
        let (mut copy, result) = reopened(&world, |b| b[cut..end].fill(0));
        let recovered = result.unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        assert_eq!((recovered.orders, recovered.end), (2, starts[2]), "cut at {cut}");
        assert_eq!(recovered.torn_at.is_some(), cut > last, "cut at {cut}");
        let ticket = copy.submit(submission(&orders));
        copy.settle_down();
        use Receipt::{Accepted, Replayed};
        assert_eq!(copy.receipts(ticket), Some(vec![Replayed, Replayed, Accepted]), "cut at {cut}");
        assert_eq!(copy.open().unwrap().orders, 3, "cut at {cut}");
    }
}

#[test]
fn every_damaged_byte_before_a_later_group_is_named() {
    let (mut world, _, starts) = log(3);
    assert!(world.seal());
    let bytes = world.disk().bytes(&segment_name(0));
    let head = (starts[1] as usize)..(starts[1] as usize + GROUP_HEAD);
    let payload_len = u32::from_le_bytes(bytes[head.start + 32..head.start + 36].try_into().unwrap());
    let payload = head.end..head.end + payload_len as usize;
    for at in head.chain(payload.clone()) {
        let (_, result) = reopened(&world, |b| b[at] ^= 0x40);
        match result {
            Err(LogError::Damaged { file, offset, what }) => {
                assert_eq!((file, offset), (segment_name(0), starts[1]), "byte {at}: {what}");
                assert!(what.contains("group 2 is damaged"), "{what}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
    // Padding holds nothing.
    for at in payload.end..starts[2] as usize {
        let (_, result) = reopened(&world, |b| b[at] ^= 0x40);
        assert_eq!(result.unwrap().orders, 3, "byte {at}");
    }
}

#[test]
fn a_seal_protects_the_last_order() {
    let (mut world, _, starts) = log(2);
    let rot = |b: &mut Vec<u8>| b[starts[1] as usize + 60] ^= 1;
    let (_, unsealed) = reopened(&world, rot);
    assert!(unsealed.unwrap().torn_at.is_some(), "nobody can tell it from a torn write");
    assert!(world.seal() && !world.seal());
    let (_, sealed) = reopened(&world, rot);
    assert!(matches!(sealed, Err(LogError::Damaged { offset, .. }) if offset == starts[1]), "{sealed:?}");
}

#[test]
fn a_log_that_was_killed_is_sealed_after_it_opens() {
    let (mut world, _, starts) = log(2);
    world.power_cycle();
    assert!(world.seal(), "the last group with content was open to damage");
    let (_, result) = reopened(&world, |b| b[starts[1] as usize + 60] ^= 1);
    assert!(matches!(result, Err(LogError::Damaged { .. })));
    world.power_cycle();
    assert!(!world.seal(), "it is sealed already");
}

#[test]
fn unsynced_bytes_that_read_well_are_synced_before_they_count() {
    let (mut world, orders, _) = log(1);
    let second = Order::new("second", &["c0"]);
    world.submit(submission(std::slice::from_ref(&second)));
    world.step_owners();
    let journal = world.engine().journal();
    let crate::WriterStep::Write(group, _) = journal.begin(false) else { panic!() };
    journal.write(&group).unwrap();
    // The process dies here; the page cache does not.
    assert_eq!(world.open().unwrap().orders, 2);
    assert_eq!(world.power_cycle().orders, 2, "the open had to make it durable");
    let ticket = world.submit(submission(&[orders[0].clone(), second]));
    world.settle_down();
    assert_eq!(world.receipts(ticket), Some(vec![Receipt::Replayed; 2]));
}

/// A world of several segments; the middle of it is behind a checkpoint.
fn long() -> (World, Vec<Order>) {
    let mut world = World::mem(tiny());
    let orders: Vec<Order> = (0..120).map(|i| Order::new(format!("k{i}"), &["c0"; 60])).collect();
    for (i, order) in orders.iter().enumerate() {
        world.submit(submission(std::slice::from_ref(order)));
        world.settle_down();
        if i == 80 {
            world.checkpoint();
        }
    }
    assert!(world.seal());
    (world, orders)
}

#[test]
fn a_missing_segment_is_named() {
    let (mut world, orders) = long();
    let segments = sluice_pipeline::Disk::list(world.disk()).unwrap();
    assert!(segments.len() >= 4, "{segments:?}");
    let stored = world.read(orders[0].id()).unwrap();
    assert_eq!(stored.record, orders[0].record());
    world.live = None;
    // The last one was made ahead of need and holds nothing yet.
    for name in &segments[..segments.len() - 2] {
        let (disk, store) = (world.disk().fork(), world.mem_store().fork());
        sluice_pipeline::Disk::remove(&disk, name).unwrap();
        let mut copy = World::of(disk, store);
        match copy.open() {
            Err(LogError::Damaged { file, offset: 0, .. }) => assert_eq!(&file, name),
            other => panic!("without {name}: {other:?}"),
        }
    }
}

#[test]
fn a_checkpoint_of_another_log_is_refused() {
    let (world, _) = long();
    // The store is newer than the journal beside it.
    let mut early = World::mem(tiny());
    for i in 0..80 {
        early.submit(submission(&[Order::new(format!("other{i}"), &["c0"; 250])]));
        early.settle_down();
    }
    let (disk, store) = (early.disk().fork(), world.mem_store().fork());
    let mut mixed = World::of(disk, store);
    let result = mixed.open();
    assert!(matches!(result, Err(LogError::Damaged { .. })), "{result:?}");
}

#[test]
fn a_shortened_segment_is_named() {
    let (world, _, _) = log(3);
    for len in [0, 100, BLOCK, BLOCK + 1, 3 * BLOCK - 7, 10 * BLOCK] {
        let (_, result) = reopened(&world, |b| b.truncate(len));
        let named = matches!(&result, Err(LogError::Damaged { file, .. }) if *file == segment_name(0));
        assert!(named, "{len}: {result:?}");
    }
}

#[test]
fn a_journal_without_its_store_is_refused() {
    let (world, _, _) = log(1);
    let mut copy = World::of(world.disk().fork(), super::fakes::MemStore::default());
    let result = copy.open();
    let Err(LogError::Damaged { file, what, .. }) = result else { panic!("{result:?}") };
    assert_eq!(file, segment_name(0));
    assert!(what.contains("without its store"), "{what}");
}

#[test]
fn slots_are_fixed_and_partitions_are_not() {
    let (mut world, orders, _) = log(20);
    for (round, partitions) in [3, 1, 4, 2].into_iter().enumerate() {
        world.config.partitions = partitions;
        world.restart();
        let ticket = world.submit(submission(&orders));
        world.report(vec![answer(orders[round].shipment(0, 0), OutcomeKind::Accepted)]);
        world.report(vec![answer(orders[round].shipment(1, 0), OutcomeKind::Accepted)]);
        world.settle_down();
        assert_eq!(world.receipts(ticket), Some(vec![Receipt::Replayed; 20]), "{partitions} partitions");
        let counts = world.engine().counts();
        assert_eq!((counts.accepted, counts.finished, counts.in_flight), (20, round as u64 + 1, 19 - round as u64));
        if round % 2 == 0 {
            world.checkpoint();
        }
        let row = world.read(orders[round].id()).unwrap().row;
        assert_eq!(sluice_domain::order_state::class_of_row(&row), Ok(Class::Finished));
    }
    world.config.slots = sluice_domain::SlotCount::new(512).unwrap();
    let error = world.open().unwrap_err().to_string();
    assert!(error.contains("1024 slots") && error.contains("512"), "{error}");
}

#[test]
fn sizes_that_cannot_work_are_refused() {
    let mut world = World::mem(tiny());
    world.mem = None;
    world.config.journal.frame_bytes = 128 << 10;
    assert!(world.open().unwrap_err().to_string().contains("segment_bytes is 262144"));
}
