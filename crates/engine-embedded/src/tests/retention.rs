//! What retention takes away: old segments with all that was in them, at once or not at all, and nothing that is not over.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use sluice_domain::{OrderState, ShipmentId};
use sluice_pipeline::{
    Cursor, Disk, FeedError, LogError, Receipt, Table, Words,
    conformance::{Harness, MERCHANT, Order, answer, submission},
};
use sluice_schemas::{
    milestone::Milestone,
    outcome::OutcomeKind,
    word::{Progress, Tracked},
};

use super::{
    fakes::{MemDisk, MemStore},
    world::{World, tiny},
};
use crate::{EngineConfig, Retention, check::check, journal::segment_index};

/// Longer than a retry may come.
const LATER_MS: u64 = 25 * 60_000;
/// Bytes of journal that are kept.
const BYTES: u64 = 300 << 10;

fn config(retention: Retention) -> EngineConfig {
    EngineConfig { retention, ..tiny() }
}

fn by_bytes() -> Retention {
    Retention { bytes: Some(BYTES), ..Retention::default() }
}

fn later(world: &World) {
    world.clock.0.fetch_add(LATER_MS, SeqCst);
}

/// Some 200 kB of orders, everything decided but the last shipment of every tenth order, which another carrier takes next.
fn place(world: &mut World, round: usize) -> Vec<Order> {
    let kinds = [&["c0"][..], &["c0", "none"], &["none"], &["nobody"], &["bad"]];
    let orders: Vec<Order> = (0..500).map(|i| Order::new(format!("{round}-{i}"), kinds[i % kinds.len()])).collect();
    for some in orders.chunks(50) {
        world.submit(submission(some));
        world.settle_down();
    }
    let kind = |i| if i % 10 == 0 { OutcomeKind::Rejected } else { OutcomeKind::Accepted };
    let asked = orders.iter().enumerate().filter(|(i, _)| i % 5 < 2);
    world.report(asked.map(|(i, order)| answer(order.shipment(0, 0), kind(i))).collect());
    world.settle_down();
    orders
}

/// The second carrier takes what the first didn't.
fn finish(world: &mut World, orders: &[Order]) {
    world.report(orders.iter().step_by(10).map(|o| answer(o.shipment(0, 1), OutcomeKind::Accepted)).collect());
    world.settle_down();
}

/// Rounds of orders, of which all but the last are finished, each with a checkpoint and long after the one before.
fn fill(world: &mut World, rounds: usize) -> Vec<Vec<Order>> {
    let mut all: Vec<Vec<Order>> = Vec::new();
    for round in 0..rounds {
        let orders = place(world, round);
        if let Some(before) = all.last() {
            finish(world, before);
        }
        all.push(orders);
        world.checkpoint();
        later(world);
    }
    all
}

/// Rounds of orders that are all finished.
fn fill_whole(world: &mut World, rounds: std::ops::Range<usize>) {
    for round in rounds {
        let orders = place(world, round);
        finish(world, &orders);
        world.checkpoint();
        later(world);
    }
}

/// The checkpointer does all there is to do.
fn try_upkeep(world: &mut World) -> Result<(), LogError> {
    let mut idle = 0;
    for _ in 0..10_000 {
        let did = world.live().checkpointer.step()?;
        world.step_owners();
        world.flush();
        idle = if did { 0 } else { idle + 1 };
        if idle == 3 {
            return Ok(());
        }
    }
    panic!("the checkpointer finds no end");
}

fn upkeep(world: &mut World) {
    try_upkeep(world).unwrap();
}

fn segments(world: &World) -> Vec<u64> {
    world.disk.list().unwrap().iter().filter_map(|name| segment_index(name)).collect()
}

/// Orders that are there, of each round. Whoever is there is whole.
fn there(world: &mut World, rounds: &[Vec<Order>]) -> Vec<usize> {
    let mut count = |orders: &Vec<Order>| {
        let one = |order: &&Order| match world.read(order.id()) {
            Some(stored) => {
                assert_eq!(stored.record, order.record());
                true
            }
            None => false,
        };
        orders.iter().filter(one).count()
    };
    rounds.iter().map(&mut count).collect()
}

/// The events after `after`: how many, or from where there are some.
fn events(world: &World, after: Cursor) -> Result<usize, Cursor> {
    let (feed, mut after, mut count) = (world.engine().feed(), after, 0);
    loop {
        let page = match feed.0.page(&after, 100) {
            Ok(page) => page,
            Err(FeedError::Expired { oldest }) => return Err(oldest),
            Err(other) => panic!("{other}"),
        };
        count += page.events.len();
        if page.events.is_empty() && page.next == after {
            return Ok(count);
        }
        after = page.next;
    }
}

#[test]
fn without_retention_nothing_ever_goes() {
    let mut world = World::mem(config(Retention::default()));
    let rounds = fill(&mut world, 4);
    upkeep(&mut world);
    assert_eq!(there(&mut world, &rounds), [500; 4]);
    assert_eq!((segments(&world)[0], world.engine().retired()), (0, 0));
    assert!(events(&world, Cursor(vec![0, 0])).unwrap() > 2_000);
}

#[test]
fn what_is_over_and_old_goes_with_its_segment() {
    let mut world = World::mem(config(by_bytes()));
    let rounds = fill(&mut world, 14);
    let everything = events(&world, Cursor(vec![0, 0])).unwrap();
    upkeep(&mut world);
    for restarted in [false, true] {
        let kept = there(&mut world, &rounds);
        assert_eq!((kept[0], kept[12], kept[13]), (0, 500, 500), "{kept:?}");
        assert!(kept.is_sorted(), "the oldest first: {kept:?}");
        let first = segments(&world)[0];
        assert!(first > 1, "whole segments are gone");
        let retired = world.engine().retired();
        assert_eq!(retired, 14 * 500 - kept.iter().sum::<usize>() as u64);
        assert_eq!(world.engine().counts().accepted, 14 * 500, "that they were there is still known");
        // Nothing is left of them in the store.
        let mut rows = std::collections::BTreeSet::new();
        world.store.scan(Table::Rows, &[], &mut |key, _| rows.extend([key[..16].to_vec()])).unwrap();
        assert_eq!(rows.len() as u64, 14 * 500 - retired);
        let number = format!("T-{}", rounds[0][1].id());
        assert_eq!(world.shipments("swift", &[&number]), [Vec::<ShipmentId>::new()]);
        let listed = world.list(MERCHANT, "c-77", None, 8_000).orders.len() as u64;
        assert_eq!(listed, 14 * 500 - retired);
        // Events: all that are told are told whole, and before them there is a clear no.
        let oldest = events(&world, Cursor(vec![0, 0])).unwrap_err();
        assert!(oldest.0[0] >= first * world.config.journal.segment_bytes);
        let told = events(&world, oldest.clone()).unwrap();
        assert!(told > 500 && told < everything, "{told} of {everything}");
        assert_eq!(events(&world, Cursor(vec![oldest.0[0] - 4_096, 0])), Err(oldest));
        // Outboxes that never read what is gone, some of it by the order's place alone, go on behind it.
        let given = world.outbox(0).len() + world.outbox(1).len();
        assert!(given > 0 || restarted);
        if !restarted {
            world.restart();
            upkeep(&mut world);
        }
    }
}

#[test]
fn by_time_it_goes_when_nothing_has_happened_for_that_long() {
    let retention = Retention { time_ms: Some(4 * LATER_MS), bytes: None };
    let mut world = World::mem(config(retention));
    let rounds = fill(&mut world, 3);
    finish(&mut world, &rounds[2]);
    world.checkpoint();
    upkeep(&mut world);
    assert_eq!(there(&mut world, &rounds), [500; 3]);
    // An eighth of the time has passed since the last checkpoint: what is new gets one though it is little.
    for _ in 0..5 {
        later(&world);
        upkeep(&mut world);
    }
    let kept = there(&mut world, &rounds);
    assert_eq!(kept[0], 0, "{kept:?}");
    assert!(segments(&world)[0] > 0);
}

#[test]
fn an_order_that_is_not_decided_holds_its_segment_and_all_later_ones() {
    let mut world = World::mem(config(by_bytes()));
    let stuck = Order::new("stuck", &["c0"]);
    world.submit(submission(std::slice::from_ref(&stuck)));
    world.settle_down();
    let rounds = fill(&mut world, 8);
    upkeep(&mut world);
    assert_eq!((there(&mut world, &rounds), segments(&world)[0]), (vec![500; 8], 0));
    // A restart doesn't forget it.
    world.restart();
    world.checkpoint();
    upkeep(&mut world);
    assert_eq!(segments(&world)[0], 0);
    world.report(vec![answer(stuck.shipment(0, 0), OutcomeKind::Accepted)]);
    world.settle_down();
    world.checkpoint();
    upkeep(&mut world);
    assert_eq!(segments(&world)[0], 0, "it was decided just now");
    fill_whole(&mut world, 10..13);
    upkeep(&mut world);
    assert!(segments(&world)[0] > 0);
    assert_eq!(world.read(stuck.id()), None);
}

#[test]
fn a_retry_that_may_still_come_holds_it() {
    let mut world = World::mem(config(by_bytes()));
    let rounds: Vec<Vec<Order>> = (0..6).map(|round| place(&mut world, round)).collect();
    rounds.iter().for_each(|orders| finish(&mut world, orders));
    world.checkpoint();
    for round in 6..9 {
        let orders = place(&mut world, round);
        finish(&mut world, &orders);
        world.checkpoint();
    }
    upkeep(&mut world);
    assert_eq!(there(&mut world, &rounds), [500; 6]);
    let ticket = world.submit(submission(&rounds[0][..40]));
    world.settle_down();
    assert_eq!(world.receipts(ticket), Some(vec![Receipt::Replayed; 40]));
    later(&world);
    world.checkpoint();
    upkeep(&mut world);
    assert_eq!(there(&mut world, &rounds)[0], 0);
}

fn news(order: &Order) -> Words {
    let mut words = Words::default();
    words.push(&Tracked {
        order: order.id().0,
        parcel: 0,
        attempt: 0,
        progress: Progress::Reached(Milestone::Delivered),
        at_ms: order.placed_at_ms + 9_000,
        carrier: "swift",
        text: "",
    });
    words
}

#[test]
fn news_that_comes_while_its_segment_is_looked_through_is_never_lost() {
    let mut base = World::mem(config(by_bytes()));
    let rounds = fill(&mut base, 8);
    let order = &rounds[0][1];
    // The news comes after so many steps of the checkpointer, with or without a checkpoint in between.
    let (mut kept, mut gone) = (0, 0);
    for steps in 0..60 {
        let (disk, store) = (base.disk().fork(), base.mem_store().fork());
        let mut world = World::of(disk, store);
        (world.config, world.clock) = (base.config.clone(), Arc::clone(&base.clock));
        world.open().unwrap();
        world.checkpoint();
        for _ in 0..steps {
            world.live().checkpointer.step().unwrap();
            world.step_owners();
            world.flush();
        }
        let ticket = world.hear(news(order));
        world.settle_down();
        world.receipts(ticket).expect("an answer");
        let heard = world.read(order.id()).is_some();
        if steps % 2 == 0 {
            world.engine().request_checkpoint();
        }
        upkeep(&mut world);
        let found = world.read(order.id());
        world.restart();
        assert_eq!(world.read(order.id()), found);
        match found {
            Some(stored) => {
                let state = OrderState::fold(order.id(), &stored.row).unwrap();
                assert_eq!(state.status(), Milestone::Delivered, "after {steps} steps");
                assert_eq!(segments(&world)[0], 0);
                kept += 1;
            }
            None => {
                assert!(!heard && segments(&world)[0] > 0, "heard after {steps} steps, and lost");
                let oldest = events(&world, Cursor(vec![0, 0])).unwrap_err();
                events(&world, oldest).unwrap();
                gone += 1;
            }
        }
    }
    assert!(kept > 2 && gone > 2, "{kept} kept, {gone} gone");
}

fn end_of(disk: &MemDisk, store: &MemStore) -> (Vec<String>, usize, usize) {
    (disk.list().unwrap(), store.entries(Table::Rows), store.entries(Table::Lookup))
}

#[test]
fn a_crash_at_any_step_leaves_all_of_an_order_or_nothing() {
    let mut base = World::mem(config(by_bytes()));
    let rounds = fill(&mut base, 10);
    finish(&mut base, &rounds[9]);
    base.checkpoint();
    let (mut late, mut cut) = (false, 0);
    let mut ends = Vec::new();
    for dies_at in 1.. {
        let (disk, mut store) = (base.disk().fork(), base.mem_store().fork());
        store.faults = Arc::clone(&disk.faults);
        let mut world = World::of(disk.clone(), store.clone());
        (world.config, world.clock) = (base.config.clone(), Arc::clone(&base.clock));
        world.open().unwrap();
        world.checkpoint();
        disk.faults.dies_at.store(dies_at, SeqCst);
        late = !late;
        disk.faults.dies_late.store(late, SeqCst);
        let died = try_upkeep(&mut world).is_err();
        disk.faults.dies_at.store(0, SeqCst);
        world.power_cycle();
        let kept = there(&mut world, &rounds);
        assert_eq!(kept[9], 500, "died at {dies_at}");
        assert_eq!(world.engine().retired(), 10 * 500 - kept.iter().sum::<usize>() as u64);
        if let Err(oldest) = events(&world, Cursor(vec![0, 0])) {
            events(&world, oldest).unwrap();
        }
        world.outbox(0);
        world.outbox(1);
        world.checkpoint();
        upkeep(&mut world);
        ends.push(end_of(&disk, &store));
        cut += usize::from(died);
        if !died {
            break;
        }
    }
    assert!(cut > 10, "{cut} places to die at");
    let (files, rows, lookups) = ends.last().unwrap();
    for (at, end) in ends.iter().enumerate() {
        assert_eq!((end.1, end.2), (*rows, *lookups), "died at {}: nothing is left behind", at + 1);
        assert_eq!(end.0.first(), files.first(), "died at {}", at + 1);
    }
}

#[test]
fn a_folder_whose_beginning_is_gone_is_sound_and_a_hole_in_it_is_not() {
    use crate::{FjallStore, RealDisk};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let open = || {
        let disk = RealDisk::open(&path.join("journal")).unwrap();
        let store = FjallStore::open(&path.join("store")).unwrap();
        World::over(config(by_bytes()), Arc::new(disk), Arc::new(store))
    };
    let mut world = open();
    let rounds = fill(&mut world, 2);
    drop(world);
    let first = path.join("journal/journal-0000000000.seg");
    let aside = folder.path().join("aside");
    std::fs::copy(&first, &aside).unwrap();
    let mut world = open();
    world.clock.0.fetch_add(2 * LATER_MS, SeqCst);
    finish(&mut world, &rounds[1]);
    fill_whole(&mut world, 10..20);
    upkeep(&mut world);
    world.seal();
    let retired = world.engine().retired();
    assert!(retired > 500 && !first.exists());
    drop(world);
    let report = check(path, &mut |_| {}).unwrap();
    assert!(report.sound, "{report:#?}");
    assert_eq!((report.orders, report.rows), (12 * 500 - retired, 12 * 500 - retired));
    // A file that a crash has brought back is nobody's, and goes.
    std::fs::copy(&aside, &first).unwrap();
    assert!(check(path, &mut |_| {}).unwrap().sound);
    let mut world = open();
    upkeep(&mut world);
    assert!(!first.exists());
    let left = segments(&world);
    drop(world);
    std::fs::remove_file(path.join(format!("journal/{}", crate::journal::segment_name(left[1])))).unwrap();
    let report = check(path, &mut |_| {}).unwrap();
    assert!(!report.sound && report.damage[0].what.contains("should have"), "{report:#?}");
    let disk = RealDisk::open(&path.join("journal")).unwrap();
    let store = FjallStore::open(&path.join("store")).unwrap();
    let error = crate::Engine::open(
        tiny(),
        Arc::new(disk),
        Arc::new(store),
        Arc::new(crate::tests::fakes::FakeClock(1.into())),
    );
    assert!(error.is_err_and(|error| error.to_string().contains("the segment is missing")));
}
