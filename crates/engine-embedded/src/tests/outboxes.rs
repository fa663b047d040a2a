//! Outboxes: from memory, from the device, over restarts; and what may have been sent.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Waker},
};

use sluice_pipeline::{
    OutboxBatch,
    conformance::{Harness, Order, Sent, answer, submission},
};
use sluice_schemas::outcome::OutcomeKind;

use super::world::{Bell, World, tiny};

fn place(world: &mut World, from: usize, count: usize) -> Vec<Order> {
    let orders: Vec<Order> = (from..from + count).map(|i| Order::new(format!("k{i}"), &["c0"; 3])).collect();
    for order in &orders {
        world.submit(submission(std::slice::from_ref(order)));
        world.settle_down();
    }
    orders
}

fn expected(orders: &[Order]) -> Vec<sluice_domain::ShipmentId> {
    orders.iter().flat_map(|o| (0..3).map(|p| o.shipment(p, 0))).collect()
}

fn ids(sent: &[Sent]) -> Vec<sluice_domain::ShipmentId> {
    sent.iter().map(|s| s.shipment).collect()
}

#[test]
fn one_that_keeps_up_and_one_that_lags_see_the_same() {
    let mut world = World::mem(tiny());
    let (mut keeps_up, mut orders) = (Vec::new(), Vec::new());
    for round in 0..40 {
        orders.extend(place(&mut world, round * 5, 5));
        keeps_up.extend(world.outbox(0));
    }
    assert!(world.engine().journal().durable() > 2 * world.config.journal.segment_bytes, "far behind the tail");
    assert_eq!(ids(&keeps_up), expected(&orders));
    assert!(keeps_up.is_sorted_by(|a, b| a.position < b.position));
    let mut lagging = world.engine().outbox(0);
    let (mut seen, mut cx) = (Vec::new(), Context::from_waker(Waker::noop()));
    for max in (0..9).cycle() {
        let mut batch = OutboxBatch::default();
        match lagging.poll_entries(&mut cx, max, &mut batch) {
            std::task::Poll::Ready(taken) => {
                assert!(taken.unwrap() == batch.entries.len() && batch.entries.len() <= max)
            }
            std::task::Poll::Pending => break,
        }
        seen.extend(batch.entries.iter().map(|e| e.shipment));
    }
    assert_eq!(seen, expected(&orders));
}

#[test]
fn nothing_is_offered_before_it_is_durable() {
    let mut world = World::mem(tiny());
    world.submit(submission(&[Order::new("a", &["c0"])]));
    world.step_owners();
    assert!(world.outbox(0).is_empty(), "open");
    let (group, completions) = world.write_group(false).unwrap();
    assert!(world.outbox(0).is_empty(), "in flight");
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut batch = OutboxBatch::default();
    assert!(world.live().outboxes[0].poll_entries(&mut Context::from_waker(&waker), 9, &mut batch).is_pending());
    world.engine().journal().complete(group, completions);
    assert!(bell.0.load(SeqCst), "the reader is called");
    assert_eq!(world.outbox(0).len(), 1);
}

#[test]
fn a_mark_is_visible_only_once_durable_and_rings() {
    let mut world = World::mem(tiny());
    place(&mut world, 0, 2);
    let sent = world.outbox(0);
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let outbox = &mut world.live().outboxes[0];
    assert!(outbox.poll_entries(&mut Context::from_waker(&waker), 9, &mut OutboxBatch::default()).is_pending());
    outbox.mark_sending(sent[3].position);
    assert_eq!(outbox.sending_mark(), 0, "asked for");
    let (group, completions) = world.write_group(false).unwrap();
    assert_eq!(world.live().outboxes[0].sending_mark(), 0, "written");
    assert!(!bell.0.load(SeqCst));
    world.engine().journal().complete(group, completions);
    assert_eq!(world.live().outboxes[0].sending_mark(), sent[3].position);
    assert!(bell.0.load(SeqCst));
    bell.0.store(false, SeqCst);
    // The next one rings too, though nobody has asked for entries since.
    world.live().outboxes[0].mark_sending(sent[4].position);
    world.flush();
    assert!(bell.0.load(SeqCst));
}

/// Marks the first four of six entries and kills the process at once, or after what `then` does.
fn maybe_sent_after(then: impl Fn(&mut World)) -> Vec<bool> {
    let mut world = World::mem(tiny());
    place(&mut world, 0, 2);
    let sent = world.outbox(0);
    world.live().outboxes[0].mark_sending(sent[3].position);
    world.flush();
    assert_eq!(world.live().outboxes[0].sending_mark(), sent[3].position);
    then(&mut world);
    world.power_cycle();
    let again = world.outbox(0);
    assert_eq!(ids(&again), ids(&sent));
    again.iter().map(|s| s.maybe_sent).collect()
}

#[test]
fn after_a_restart_marked_entries_may_have_been_sent() {
    let expected = [true, true, true, true, false, false];
    assert_eq!(maybe_sent_after(|_| {}), expected);
    assert_eq!(maybe_sent_after(World::checkpoint), expected, "with a checkpoint");
    assert_eq!(
        maybe_sent_after(|w| {
            w.power_cycle();
            w.checkpoint();
            w.power_cycle();
        }),
        expected,
        "twice"
    );
}

/// The mark is asked for while a checkpoint is under way, after each number of its steps.
#[test]
fn no_checkpoint_forgets_a_mark() {
    for steps in 0..8 {
        for completed in [false, true] {
            let mut world = World::mem(tiny());
            place(&mut world, 0, 2);
            let sent = world.outbox(0);
            world.engine().request_checkpoint();
            let step = |world: &mut World| {
                world.live().checkpointer.step().unwrap();
                world.step_owners();
            };
            (0..steps).for_each(|_| step(&mut world));
            world.live().outboxes[0].mark_sending(sent[2].position);
            if completed {
                world.flush();
            }
            for further in 0..10 {
                step(&mut world);
                if further == 2 {
                    world.flush();
                }
            }
            assert!(world.engine().checkpoints() == 1, "{steps} steps");
            let marked = world.live().outboxes[0].sending_mark() == sent[2].position;
            assert!(marked, "{steps} steps: the mark is durable");
            place(&mut world, 2, 1);
            world.power_cycle();
            let may = world.outbox(0).iter().filter(|s| s.maybe_sent).count();
            assert_eq!(may, 3, "{steps} steps, completed before: {completed}");
        }
    }
}

#[test]
fn a_carrier_that_was_away_is_remembered() {
    let mut world = World::mem(tiny());
    place(&mut world, 0, 2);
    let sent = world.outbox(0);
    world.live().outboxes[0].mark_sending(sent[1].position);
    world.flush();
    let all = world.config.carriers.clone();
    for checkpoint_before in [true, false] {
        world.config.carriers = vec![Arc::clone(&all[1])];
        if checkpoint_before {
            world.checkpoint();
        }
        world.power_cycle();
        world.checkpoint();
        world.config.carriers.clone_from(&all);
        world.power_cycle();
        assert_eq!(world.outbox(0).iter().filter(|s| s.maybe_sent).count(), 2);
    }
}

#[test]
fn a_new_reader_in_the_same_process_starts_like_after_a_restart() {
    let mut world = World::mem(tiny());
    place(&mut world, 0, 2);
    let sent = world.outbox(0);
    world.live().outboxes[0].mark_sending(sent[3].position);
    world
        .report(vec![answer(sent[0].shipment, OutcomeKind::Accepted), answer(sent[2].shipment, OutcomeKind::Accepted)]);
    world.live().outboxes[0].settled(sent[0].position);
    world.settle_down();
    let outbox = world.engine().outbox(0);
    world.live().outboxes[0] = outbox;
    let again = world.outbox(0);
    let seen: Vec<_> = again.iter().map(|s| (s.shipment, s.maybe_sent)).collect();
    let wanted = [1, 3, 4, 5].map(|i: usize| (sent[i].shipment, i <= 3));
    assert_eq!(seen, wanted);
}

#[test]
fn settled_entries_are_skipped_without_their_orders() {
    let mut world = World::mem(tiny());
    let orders = place(&mut world, 0, 60);
    let sent = world.outbox(0);
    world.report(sent.iter().map(|s| answer(s.shipment, OutcomeKind::Accepted)).collect());
    world.live().outboxes[0].settled(sent.last().unwrap().position);
    world.settle_down();
    world.checkpoint();
    world.power_cycle();
    assert!(world.outbox(0).is_empty());
    assert_eq!(world.engine().counts().finished as usize, orders.len());
}

#[test]
fn an_outcome_in_a_queue_is_not_settled_by_a_checkpoint() {
    let mut world = World::mem(tiny());
    place(&mut world, 0, 1);
    let sent = world.outbox(0);
    // Handed over, called settled, and not taken by the owner when the checkpoint begins.
    world.report(vec![answer(sent[0].shipment, OutcomeKind::Accepted)]);
    world.live().outboxes[0].settled(sent[0].position);
    world.engine().request_checkpoint();
    for _ in 0..3 {
        world.live().checkpointer.step().unwrap();
    }
    world.power_cycle();
    assert_eq!(ids(&world.outbox(0)), ids(&sent), "its outcome was lost with the process, so it is open");
}
