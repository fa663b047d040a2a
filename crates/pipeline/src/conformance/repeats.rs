//! Requests that come again, or under a key that is taken.

use sluice_domain::{OrderState, order_state::Class};

use super::{Harness, Make, Order, PLACED_AT_MS, answers, offered, order, receipts, state_of, submission};
use crate::Receipt::{self, Accepted, Conflict, Replayed};

pub(super) fn the_same_request_is_one_order(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0"]);
    let twice = [order.clone(), order.clone()];
    let (first, again) = (answers(&*harness, [Accepted, Replayed]), answers(&*harness, [Replayed, Replayed]));
    assert_eq!(receipts(&mut *harness, &twice), first, "in one batch");
    assert_eq!(receipts(&mut *harness, &twice), again, "of a durable order");
    offered(&mut *harness, 0, &[order.shipment(0, 0)], &[], "once");
    harness.restart();
    assert_eq!(receipts(&mut *harness, &twice), again, "after a restart");
    harness.spill();
    assert_eq!(receipts(&mut *harness, &twice), again, "out of memory");
    offered(&mut *harness, 0, &[order.shipment(0, 0)], &[], "once more after the restart");
    harness.restart();
    assert_eq!(receipts(&mut *harness, &twice), again, "out of memory, after a restart");
    offered(&mut *harness, 0, &[order.shipment(0, 0)], &[], "once more after the other restart");
    assert_eq!(state_of(&mut *harness, &order).0, Class::InFlight);
    assert_eq!(conflicts(&mut *harness, &order), []);
}

pub(super) fn another_request_under_a_key_is_a_conflict(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0"]);
    let body = Order { skus: vec!["c1".to_owned()], ..order.clone() };
    let time = Order { placed_at_ms: PLACED_AT_MS + 1, ..order.clone() };
    let all = [order.clone(), body, time.clone(), order.clone()];
    let first = answers(&*harness, [Accepted, Conflict, Conflict, Replayed]);
    let again = answers(&*harness, [Replayed, Conflict, Conflict, Replayed]);
    assert_eq!(receipts(&mut *harness, &all), first, "in one batch");
    harness.spill();
    assert_eq!(receipts(&mut *harness, &all), again, "out of memory");
    harness.restart();
    assert_eq!(receipts(&mut *harness, &all), again, "after a restart");
    assert_eq!(state_of(&mut *harness, &order).1.record, order.record());
    assert!(harness.read(time.id()).is_none(), "a conflict is no order");
    offered(&mut *harness, 0, &[order.shipment(0, 0)], &[], "the first counts");
    offered(&mut *harness, 1, &[], &[], "the second has no effect");
    // Who was told 422 needs no note; who was told 201 finds one.
    let mut noted = conflicts(&mut *harness, &order);
    noted.dedup();
    let wanted = if harness.knows_repetitions() { vec![] } else { vec![order.id(), time.id()] };
    assert_eq!(noted, wanted);
}

fn conflicts(harness: &mut dyn Harness, order: &Order) -> Vec<sluice_domain::OrderId> {
    let stored = state_of(harness, order).1;
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    state.conflicts.iter().map(|c| c.0).collect()
}

pub(super) fn a_request_at_two_checkout_nodes_is_one_order(make: Make<'_>) {
    let mut harness = make();
    let orders = [0, 1, 2].map(|i| order(&*harness, i, &["c0"]));
    let tickets = [0, 1].map(|node| harness.submit_at(node, submission(&orders)));
    harness.settle_down();
    let answered: Vec<Vec<Receipt>> = tickets.map(|t| harness.receipts(t).expect("an answer")).into();
    let (first, again) = (answers(&*harness, [Accepted; 3]), answers(&*harness, [Replayed; 3]));
    assert_eq!(answered, [first, again.clone()]);
    let once = orders.each_ref().map(|order| order.shipment(0, 0));
    offered(&mut *harness, 0, &once, &[], "once each");
    // The second node was away and comes with its retry when the owner is another one.
    harness.restart();
    let late = harness.submit_at(1, submission(&orders));
    harness.settle_down();
    assert_eq!(harness.receipts(late), Some(again));
    offered(&mut *harness, 0, &once, &[], "once each, after a restart");
    for order in &orders {
        assert_eq!(state_of(&mut *harness, order).0, Class::InFlight);
    }
}
