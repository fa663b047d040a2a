//! A retry finds its order wherever that order is by then.

use sluice_pipeline::{
    Receipt::{self, Accepted, Conflict, Replayed},
    Table,
    conformance::{Harness, Order, PLACED_AT_MS, submission},
};
use sluice_schemas::delta::Delta;

use super::world::{World, tiny};

/// The request again, with another body, and with another time.
fn retries() -> [Order; 3] {
    let order = Order::new("a", &["c0"]);
    let body = Order::new("a", &["c1"]);
    let time = Order { placed_at_ms: PLACED_AT_MS - 1, ..order.clone() };
    [order, body, time]
}

fn check(world: &mut World, place: &str) {
    let ticket = world.submit(submission(&retries()));
    world.step_owners();
    world.flush();
    assert_eq!(world.receipts(ticket), Some(vec![Replayed, Conflict, Conflict]), "{place}");
    assert_eq!(world.engine().counts().accepted, 1, "{place}");
}

fn first(world: &mut World) -> usize {
    let ticket = world.submit(submission(&retries()[..1]));
    world.step_owners();
    ticket
}

#[test]
fn in_the_open_group() {
    let mut world = World::mem(tiny());
    let ticket = first(&mut world);
    let again = world.submit(submission(&retries()));
    world.step_owners();
    assert_eq!((world.receipts(ticket), world.receipts(again)), (None, None), "nobody is told before it is durable");
    world.flush();
    assert_eq!(world.receipts(ticket), Some(vec![Accepted]));
    assert_eq!(world.receipts(again), Some(vec![Replayed, Conflict, Conflict]));
}

#[test]
fn in_the_group_in_flight() {
    let mut world = World::mem(tiny());
    let ticket = first(&mut world);
    let (group, completions) = world.write_group(false).unwrap();
    let again = world.submit(submission(&retries()));
    world.step_owners();
    assert_eq!((world.receipts(ticket), world.receipts(again)), (None, None));
    world.engine().journal().complete(group, completions);
    assert_eq!(world.receipts(ticket), Some(vec![Accepted]));
    assert_eq!(world.receipts(again), Some(vec![Replayed, Conflict, Conflict]), "no later group is needed");
}

#[test]
fn durable_frozen_and_spilled() {
    let mut world = World::mem(tiny());
    first(&mut world);
    world.flush();
    check(&mut world, "in memory");
    world.engine().request_checkpoint();
    world.live().checkpointer.step().unwrap();
    world.step_owners();
    check(&mut world, "frozen");
    // Each step of the checkpoint in turn.
    for step in 0..10 {
        world.live().checkpointer.step().unwrap();
        check(&mut world, &format!("after step {step}"));
        if world.engine().checkpoints() == 1 {
            break;
        }
    }
    assert_eq!(world.engine().checkpoints(), 1);
    check(&mut world, "spilled");
    world.power_cycle();
    check(&mut world, "spilled, after a restart");
    world.config.partitions = 3;
    world.power_cycle();
    check(&mut world, "spilled, with another number of partitions");
}

#[test]
fn forgotten_once_no_retry_may_come() {
    let mut world = World::mem(tiny());
    first(&mut world);
    world.flush();
    world.checkpoint();
    let later = PLACED_AT_MS + 2 * world.config.window_ms + 100;
    world.clock.0.store(later, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(world.mem_store().entries(Table::Index(1)), 1);
    world.live().checkpointer.step().unwrap();
    assert_eq!(world.mem_store().entries(Table::Index(1)), 1, "not before the owners have forgotten it");
    world.step_owners();
    world.live().checkpointer.step().unwrap();
    assert_eq!(world.mem_store().entries(Table::Index(1)), 0);
    world.power_cycle();
    let fresh = Order { placed_at_ms: later, ..Order::new("a", &["c0"]) };
    let ticket = world.submit(submission(&[fresh]));
    world.settle_down();
    assert_eq!(world.receipts(ticket), Some(vec![Accepted]), "the key is free again");
}

#[test]
fn many_in_one_submission_each_has_its_own_answer() {
    let mut world = World::mem(tiny());
    let orders: Vec<Order> = (0..300).map(|i| Order::new(format!("k{}", i % 100), &["c0"])).collect();
    let ticket = world.submit(submission(&orders));
    world.settle_down();
    let receipts = world.receipts(ticket).unwrap();
    assert!(receipts[..100].iter().all(|r| *r == Accepted) && receipts[100..].iter().all(|r| *r == Replayed));
    let empty = world.submit(submission(&[]));
    assert_eq!(world.receipts(empty), Some(vec![]));
}

#[test]
fn beyond_the_queue_orders_are_refused_at_once() {
    let mut world = World::mem(tiny());
    let orders: Vec<Order> = (0..9_000).map(|i| Order::new(format!("k{i}"), &["c0"])).collect();
    let ticket = world.submit(submission(&orders));
    world.settle_down();
    let receipts = world.receipts(ticket).unwrap();
    let busy = receipts.iter().filter(|r| matches!(r, Receipt::Busy { retry_after_s: 1, .. })).count();
    let accepted = receipts.iter().filter(|r| **r == Accepted).count();
    assert!(busy > 0 && busy + accepted == 9_000 && accepted > 1_000, "{busy} {accepted}");
    assert_eq!(world.engine().counts().accepted as usize, accepted);
}

#[test]
fn an_order_that_cannot_be_read_is_dead_lettered_and_survives() {
    let mut world = World::mem(tiny());
    let order = Order::new("a", &["c0"]);
    let mut bad = submission(std::slice::from_ref(&order));
    bad.bytes.truncate(40);
    bad.orders[0].record.end = 40;
    let ticket = world.submit(bad);
    world.settle_down();
    assert_eq!(world.receipts(ticket), Some(vec![Accepted]));
    for round in 0..3 {
        let stored = world.read(order.id()).unwrap();
        assert_eq!(stored.record, order.record()[..40], "its bytes are kept");
        let dead = |d: &Result<(u64, Delta<'_>), _>| matches!(d, Ok((_, Delta::DeadLettered { parcel: None, .. })));
        assert!(sluice_schemas::delta::row_deltas(0, &stored.row).any(|d| dead(&d)), "round {round}");
        assert_eq!(world.engine().counts().dead_lettered, 1);
        world.power_cycle();
        if round == 1 {
            world.checkpoint();
        }
    }
    let ticket = world.submit(submission(&[order]));
    world.settle_down();
    assert_eq!(world.receipts(ticket), Some(vec![Conflict]), "its key stays taken");
}
