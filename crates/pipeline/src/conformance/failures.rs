//! Crashes, aborts, and workers that come and go.

use std::collections::BTreeSet;

use sluice_domain::{OrderState, order_state::Class};
use sluice_schemas::outcome::OutcomeKind;

use super::{Harness, Make, Order, accept, answer, answers, offered, order, receipts, state_of, submission};
use crate::{OutcomeReport, Receipt};

fn yes(order: &Order, parcel: u8, attempt: u8) -> OutcomeReport {
    answer(order.shipment(parcel, attempt), OutcomeKind::Accepted)
}

fn no(order: &Order, parcel: u8, attempt: u8) -> OutcomeReport {
    answer(order.shipment(parcel, attempt), OutcomeKind::Rejected)
}

/// How often each parcel was tried, and its last outcome.
fn attempts(harness: &mut dyn Harness, order: &Order) -> Vec<(usize, Option<OutcomeKind>)> {
    let stored = state_of(harness, order).1;
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    let of = |p: &sluice_domain::order_state::Parcel<'_>| {
        (p.attempts.len(), p.attempts.last().and_then(|a| a.outcome).map(|o| o.0))
    };
    state.parcels.iter().map(of).collect()
}

pub(super) fn nothing_is_lost_between_commit_and_answer(make: Make<'_>) {
    let mut harness = make();
    let (first, second) = (order(&*harness, "a", &["c0"]), order(&*harness, "b", &["c1"]));
    accept(&mut *harness, std::slice::from_ref(&first));
    harness.report(vec![no(&first, 0, 0)]);
    harness.submit(submission(std::slice::from_ref(&second)));
    harness.commit_only();
    harness.restart();
    let both = [first.clone(), second.clone()];
    let again = answers(&*harness, [Receipt::Replayed; 2]);
    assert_eq!(receipts(&mut *harness, &both), again, "committed is committed");
    offered(&mut *harness, 0, &[], &[first.shipment(0, 0)], "the turned-down attempt has its outcome");
    offered(&mut *harness, 1, &[first.shipment(0, 1), second.shipment(0, 0)], &[], "decided before the kill");
}

pub(super) fn an_aborted_batch_is_decided_once(make: Make<'_>) {
    let mut harness = make();
    let orders = ["a", "b"].map(|key| order(&*harness, key, &["c0", "nobody"]));
    let (first, second) = (&orders[0], &orders[1]);
    // A new order, with its repetition in the same batch: the abort must not leave the first in the index, or the
    // second would be taken for the repetition of an order that isn't there.
    harness.abort_next();
    let twice = [first.clone(), first.clone()];
    let known = answers(&*harness, [Receipt::Accepted, Receipt::Replayed]);
    assert_eq!(receipts(&mut *harness, &twice), known);
    offered(&mut *harness, 0, &[first.shipment(0, 0)], &[], "a new order");
    assert_eq!(attempts(&mut *harness, first), [(1, None), (0, None)]);
    // A reroute, beside a new order.
    harness.abort_next();
    harness.report(vec![no(first, 0, 0)]);
    accept(&mut *harness, std::slice::from_ref(second));
    offered(&mut *harness, 0, &[second.shipment(0, 0)], &[], "a new order again");
    offered(&mut *harness, 1, &[first.shipment(0, 1)], &[], "a reroute");
    // Out of memory and after a restart, with a repetition and the last outcomes.
    harness.spill();
    harness.restart();
    harness.abort_next();
    harness.report(vec![yes(first, 0, 1), yes(second, 0, 0)]);
    let known = answers(&*harness, [Receipt::Replayed, Receipt::Replayed]);
    assert_eq!(receipts(&mut *harness, &orders), known);
    assert_eq!(attempts(&mut *harness, first), [(2, Some(OutcomeKind::Accepted)), (0, None)]);
    assert_eq!(attempts(&mut *harness, second), [(1, Some(OutcomeKind::Accepted)), (0, None)]);
    for order in &orders {
        assert_eq!(state_of(&mut *harness, order).0, Class::DeadLettered, "its other parcel");
    }
    let given = orders.each_ref().map(|o| o.shipment(0, 0));
    offered(&mut *harness, 0, &[], &given, "nothing is left for the first carrier");
    offered(&mut *harness, 1, &[], &[first.shipment(0, 1)], "nor for the second");
}

pub(super) fn a_crash_within_a_commit_leaves_nothing_half_done(make: Make<'_>) {
    let mut harness = make();
    let (old, new) = (order(&*harness, "old", &["c0"]), order(&*harness, "new", &["c0", "c1"]));
    accept(&mut *harness, std::slice::from_ref(&old));
    harness.report(vec![no(&old, 0, 0)]);
    harness.submit(submission(std::slice::from_ref(&new)));
    harness.crash();
    harness.settle_down();
    // Who got no answer asks again, be it customer or notifier.
    harness.report(vec![no(&old, 0, 0)]);
    let answered = receipts(&mut *harness, std::slice::from_ref(&new));
    assert!(matches!(answered[..], [Receipt::Accepted | Receipt::Replayed]), "{answered:?}");
    assert_eq!(attempts(&mut *harness, &old), [(2, None)]);
    assert_eq!(attempts(&mut *harness, &new), [(1, None), (1, None)]);
    offered(&mut *harness, 0, &[new.shipment(0, 0)], &[old.shipment(0, 0)], "first carrier");
    offered(&mut *harness, 1, &[new.shipment(1, 0), old.shipment(0, 1)], &[], "second carrier");
}

pub(super) fn a_crash_between_commit_and_fold_loses_no_row(make: Make<'_>) {
    let mut harness = make();
    let orders = [0, 1, 2].map(|i| order(&*harness, i, &["c0"]));
    accept(&mut *harness, &orders[..1]);
    harness.lag(true);
    harness.report(vec![no(&orders[0], 0, 0)]);
    accept(&mut *harness, &orders[1..]);
    harness.restart();
    harness.report(vec![yes(&orders[1], 0, 0)]);
    harness.settle_down();
    harness.lag(false);
    assert_eq!(attempts(&mut *harness, &orders[0]), [(2, None)]);
    assert_eq!(attempts(&mut *harness, &orders[1]), [(1, Some(OutcomeKind::Accepted))]);
    assert_eq!(attempts(&mut *harness, &orders[2]), [(1, None)]);
    for order in &orders {
        assert_eq!(state_of(&mut *harness, order).1.record, order.record());
    }
}

pub(super) fn a_reroute_needs_no_row(make: Make<'_>) {
    let mut harness = make();
    let (before, lagging) = (order(&*harness, "before", &["c0"]), order(&*harness, "lagging", &["c0"]));
    accept(&mut *harness, std::slice::from_ref(&before));
    // The one has a row that is out of memory; the other is in no row at all.
    harness.spill();
    harness.lag(true);
    accept(&mut *harness, std::slice::from_ref(&lagging));
    offered(&mut *harness, 0, &[before.shipment(0, 0), lagging.shipment(0, 0)], &[], "first attempts");
    harness.report(vec![no(&before, 0, 0), no(&lagging, 0, 0)]);
    harness.settle_down();
    offered(&mut *harness, 1, &[before.shipment(0, 1), lagging.shipment(0, 1)], &[], "second attempts");
    harness.report(vec![no(&before, 0, 1)]);
    harness.settle_down();
    offered(&mut *harness, 0, &[before.shipment(0, 2)], &[], "the third decides on the second");
    harness.restart();
    harness.report(vec![no(&lagging, 0, 1), no(&before, 0, 2), no(&before, 0, 1)]);
    harness.settle_down();
    let given = [&before, &lagging].map(|o| o.shipment(0, 0));
    let given = [given[0], given[1], before.shipment(0, 2)];
    offered(&mut *harness, 0, &[lagging.shipment(0, 2)], &given, "the third, after a restart");
    let given = [before.shipment(0, 1), lagging.shipment(0, 1)];
    offered(&mut *harness, 1, &[before.shipment(0, 3)], &given, "the fourth, after a restart");
    harness.lag(false);
    assert_eq!(attempts(&mut *harness, &before), [(4, None)]);
    assert_eq!(attempts(&mut *harness, &lagging), [(3, None)]);
}

pub(super) fn workers_come_and_go(make: Make<'_>) {
    let mut harness = make();
    let orders: Vec<Order> = (0..12).map(|i| order(&*harness, i, &["c0"])).collect();
    accept(&mut *harness, &orders[..4]);
    for round in 0..2 {
        let (retried, new) = (&orders[..4 + 4 * round], &orders[4 + 4 * round..8 + 4 * round]);
        // On the second round one goes, and its partitions come back to who had them before.
        harness.another_worker(round == 0);
        let again = receipts(&mut *harness, retried);
        assert!(!harness.knows_repetitions() || again.iter().all(|r| *r == Receipt::Replayed), "{again:?}");
        harness.report(vec![no(&orders[4 * round], 0, 0), yes(&orders[4 * round + 1], 0, 0)]);
        accept(&mut *harness, new);
        harness.report(vec![yes(&orders[4 * round], 0, 1)]);
        harness.settle_down();
    }
    let once: Vec<_> = orders.iter().map(|order| order.shipment(0, 0)).collect();
    offered(&mut *harness, 0, &once, &[], "once each");
    offered(&mut *harness, 1, &[orders[0].shipment(0, 1), orders[4].shipment(0, 1)], &[], "and twice rerouted");
    for (i, order) in orders.iter().enumerate() {
        let wanted = match i {
            0 | 4 => (2, Some(OutcomeKind::Accepted)),
            1 | 5 => (1, Some(OutcomeKind::Accepted)),
            _ => (1, None),
        };
        assert_eq!(attempts(&mut *harness, order), [wanted], "order {i}");
    }
}

pub(super) fn a_worker_that_lost_its_partitions_comes_back(make: Make<'_>) {
    let mut harness = make();
    let orders: Vec<Order> = (0..6).map(|i| order(&*harness, i, &["c0"])).collect();
    accept(&mut *harness, &orders[..2]);
    let ticket = harness.submit(submission(&orders[2..4]));
    harness.report(vec![no(&orders[0], 0, 0)]);
    harness.stall_and_come_back();
    harness.settle_down();
    assert_eq!(harness.receipts(ticket), Some(vec![Receipt::Accepted; 2]));
    // What the other decided is known to who came back.
    let known = answers(&*harness, [Receipt::Replayed; 4]);
    assert_eq!(receipts(&mut *harness, &orders[..4]), known);
    harness.report(vec![no(&orders[0], 0, 0), yes(&orders[0], 0, 1), no(&orders[2], 0, 0)]);
    accept(&mut *harness, &orders[4..]);
    let once: Vec<_> = orders.iter().map(|order| order.shipment(0, 0)).collect();
    offered(&mut *harness, 0, &once, &[], "once each");
    offered(&mut *harness, 1, &[orders[0].shipment(0, 1), orders[2].shipment(0, 1)], &[], "rerouted once each");
    let got: Vec<_> = orders.iter().map(|order| attempts(&mut *harness, order)[0]).collect();
    assert_eq!(got, [(2, Some(OutcomeKind::Accepted)), (1, None), (2, None), (1, None), (1, None), (1, None)]);
}

pub(super) fn a_decision_is_told_once(make: Make<'_>) {
    let mut harness = make();
    let orders = [0, 1, 2, 3].map(|i| order(&*harness, i, &["c0"]));
    harness.abort_next();
    accept(&mut *harness, &orders[..2]);
    harness.submit(submission(&orders[2..3]));
    harness.report(vec![yes(&orders[0], 0, 0)]);
    harness.crash();
    harness.settle_down();
    harness.abort_next();
    harness.report(vec![yes(&orders[0], 0, 0), no(&orders[1], 0, 0)]);
    receipts(&mut *harness, &orders[2..]);
    harness.restart();
    receipts(&mut *harness, &orders);
    let events = harness.events();
    let ids: BTreeSet<&str> = events.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids.len(), events.len(), "an id twice: {events:?}");
    for (i, order) in orders.iter().enumerate() {
        let count = |kind: &str| events.iter().filter(|e| e.order == order.id() && e.kind.contains(kind)).count();
        assert_eq!(count("accepted"), 1, "order {i}: {events:?}");
        assert_eq!(count("settled"), usize::from(i < 2), "order {i}: {events:?}");
    }
}
