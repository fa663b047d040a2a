//! Checkpoints: what they hold equals what was committed, wherever the process dies.

use std::collections::BTreeMap;

use sluice_domain::{OrderId, OrderState};
use sluice_pipeline::{
    Receipt, Table,
    conformance::{Harness, Order, answer, submission},
};
use sluice_schemas::outcome::OutcomeKind;

use super::world::{World, tiny};
use crate::Counts;

/// What can be seen of every order, without where it is.
type Seen = BTreeMap<OrderId, (String, Vec<u8>)>;

fn look(world: &mut World, orders: &[Order]) -> Seen {
    let mut seen = Seen::new();
    for order in orders {
        if let Some(stored) = world.read(order.id()) {
            let state = OrderState::fold(order.id(), &stored.row).unwrap();
            seen.insert(order.id(), (format!("{state:?}"), stored.record));
        }
    }
    seen
}

/// Counts by looking at every order.
fn recount(world: &mut World, orders: &[Order]) -> Counts {
    use sluice_domain::order_state::{Class, class_of_row};
    let mut counts = Counts::default();
    for order in orders {
        let Some(stored) = world.read(order.id()) else { continue };
        counts.accepted += 1;
        match class_of_row(&stored.row).unwrap() {
            Class::InFlight => counts.in_flight += 1,
            Class::DeadLettered => counts.dead_lettered += 1,
            Class::Finished | Class::Cancelled => counts.finished += 1,
        }
    }
    counts
}

fn counts(world: &World) -> Counts {
    Counts { replayed: 0, ..world.engine().counts() }
}

fn order(i: usize) -> Order {
    let kinds = [&["c0", "c1"][..], &["c1"], &["none"], &["nobody"], &["bad"], &["c0", "nobody"], &["poison"]];
    Order::new(format!("k{i}"), kinds[i % kinds.len()])
}

/// Work of one round: new orders, old ones again, and answers about some of those before.
fn work(world: &mut World, orders: &mut Vec<Order>, round: usize) {
    let new: Vec<Order> = (orders.len()..orders.len() + 12).map(order).collect();
    orders.extend(new.iter().cloned());
    let again = orders[orders.len() / 3].clone();
    world.submit(submission(&[&new[..], &[again]].concat()));
    let kinds = [OutcomeKind::Accepted, OutcomeKind::Rejected, OutcomeKind::GivenUp, OutcomeKind::Unknown];
    let old = orders.iter().enumerate().filter(|(i, _)| (i + round).is_multiple_of(3));
    let answers = old.flat_map(|(i, o)| (0..2).map(move |p| answer(o.shipment(p, 0), kinds[(i + usize::from(p)) % 4])));
    world.report(answers.collect());
    // The owners' turns come in between.
    world.step_owners();
}

#[test]
fn rows_counts_and_index_are_the_same_after_each_checkpoint_and_restart() {
    let mut world = World::mem(tiny());
    let mut orders = Vec::new();
    for round in 0..8 {
        work(&mut world, &mut orders, round);
        world.settle_down();
        let before = look(&mut world, &orders);
        assert_eq!(before.len(), orders.len());
        assert_eq!(counts(&world), recount(&mut world, &orders), "round {round}");
        if round % 2 == 0 {
            world.checkpoint();
        }
        assert_eq!(look(&mut world, &orders), before, "round {round}, checkpoint");
        world.power_cycle();
        assert_eq!(look(&mut world, &orders), before, "round {round}, restart");
        assert_eq!(counts(&world), recount(&mut world, &orders), "round {round}, restart");
        let ticket = world.submit(submission(&orders));
        world.settle_down();
        assert_eq!(world.receipts(ticket), Some(vec![Receipt::Replayed; orders.len()]), "round {round}");
    }
}

/// Runs a checkpoint under load and dies after `steps` of its steps; then everything acknowledged must be there.
fn die_after(steps: usize) -> bool {
    let mut world = World::mem(tiny());
    let mut orders = Vec::new();
    for round in 0..3 {
        work(&mut world, &mut orders, round);
    }
    world.settle_down();
    world.checkpoint();
    work(&mut world, &mut orders, 3);
    world.settle_down();
    world.engine().request_checkpoint();
    for step in 0..steps {
        work(&mut world, &mut orders, 4 + step);
        world.live().checkpointer.step().unwrap();
        world.settle_down();
    }
    let finished = world.engine().checkpoints() == 2;
    let (before, counted) = (look(&mut world, &orders), counts(&world));
    assert_eq!(counted, recount(&mut world, &orders), "{steps} steps");
    for life in 0..3 {
        world.power_cycle();
        assert_eq!(counts(&world), counted, "{steps} steps, life {life}");
        assert_eq!(look(&mut world, &orders), before, "{steps} steps, life {life}");
        if life == 1 {
            world.checkpoint();
        }
    }
    let ticket = world.submit(submission(&orders));
    world.settle_down();
    assert_eq!(world.receipts(ticket), Some(vec![Receipt::Replayed; orders.len()]), "{steps} steps");
    finished
}

#[test]
fn a_crash_in_any_phase_loses_and_doubles_nothing() {
    let mut finished = 0;
    for steps in 0..10 {
        finished += usize::from(die_after(steps));
    }
    assert!((2..=6).contains(&finished), "the phases were all met: {finished}");
}

/// Its rows are in the store, its head is not: what they say is replayed, delta by delta, and must count once.
#[test]
fn a_checkpoint_that_was_not_finished_counts_nothing_twice() {
    for steps in 0..8 {
        let mut world = World::mem(tiny());
        let order = Order::new("a", &["c0", "c1", "c0"]);
        world.submit(submission(std::slice::from_ref(&order)));
        world.settle_down();
        world.checkpoint();
        for parcel in 0..3 {
            world.report(vec![answer(order.shipment(parcel, 0), OutcomeKind::Accepted)]);
            world.settle_down();
        }
        world.engine().request_checkpoint();
        for _ in 0..steps {
            world.live().checkpointer.step().unwrap();
            world.settle_down();
        }
        for life in 0..2 {
            world.power_cycle();
            let expected = Counts { accepted: 1, finished: 1, ..Counts::default() };
            assert_eq!(counts(&world), expected, "{steps} steps, life {life}");
        }
    }
}

#[test]
fn a_store_that_fails_ends_the_checkpoint_and_nothing_else() {
    let mut world = World::mem(tiny());
    let mut orders = Vec::new();
    work(&mut world, &mut orders, 0);
    world.settle_down();
    let before = look(&mut world, &orders);
    world.mem_store().faults.fail_ingest.store(true, std::sync::atomic::Ordering::SeqCst);
    world.engine().request_checkpoint();
    let mut failed = false;
    for _ in 0..10 {
        failed |= world.live().checkpointer.step().is_err();
        world.settle_down();
    }
    assert!(failed && world.engine().checkpoints() == 0);
    world.mem_store().faults.fail_ingest.store(false, std::sync::atomic::Ordering::SeqCst);
    world.power_cycle();
    assert_eq!(look(&mut world, &orders), before);
}

#[test]
fn grown_by_so_much_the_log_asks_for_a_checkpoint_itself() {
    let mut world = World::mem(crate::EngineConfig { checkpoint_bytes: 64 << 10, ..tiny() });
    for i in 0..60 {
        world.submit(submission(&[order(i)]));
        world.settle_down();
        world.live().checkpointer.step().unwrap();
        world.step_owners();
    }
    assert!(world.engine().checkpoints() >= 2, "{}", world.engine().checkpoints());
    let replayed = world.power_cycle();
    assert!(replayed.orders < 40, "{replayed:?}");
}

#[test]
fn full_memory_asks_for_a_checkpoint_and_waits_for_it() {
    let mut world = World::mem(crate::EngineConfig { hot_bytes: 4 << 10, partitions: 1, ..tiny() });
    for i in 0..200 {
        world.submit(submission(&[order(i)]));
        world.settle_down();
        // The checkpoint is begun, and not taken further.
        if world.live().checkpointer.is_idle() || i > 150 {
            world.live().checkpointer.step().unwrap();
        }
    }
    assert_eq!(world.mem_store().entries(Table::Index(9)), 0);
    for _ in 0..200 {
        world.live().checkpointer.step().unwrap();
        world.settle_down();
    }
    assert_eq!(world.engine().counts().accepted, 200);
    assert!(world.engine().checkpoints() > 1);
}
