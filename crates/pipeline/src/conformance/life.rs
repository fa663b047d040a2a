//! Orders from checkout to their last outcome.

use sluice_domain::{
    OrderState,
    order_state::{Class, Parcel},
};
use sluice_schemas::outcome::OutcomeKind;

use super::{Harness, Make, Order, accept, answer, answers, offered, order, receipts, shipments, state_of, submission};
use crate::{OutcomeReport, Receipt};

pub(super) fn an_order_is_accepted_read_and_offered(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0~", "c1", "none"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    for round in 0..3 {
        let (class, stored) = state_of(&mut *harness, &order);
        assert_eq!((class, stored.record), (Class::InFlight, order.record()), "round {round}");
        let (first, second) = (harness.outbox(0), harness.outbox(1));
        assert_eq!(shipments(&first), [order.shipment(0, 0)], "round {round}");
        assert_eq!(shipments(&second), [order.shipment(1, 0)], "round {round}");
        assert_eq!(first[0].record, order.record());
        assert!(harness.outbox(0).is_empty(), "an entry is given once");
        if round == 1 {
            harness.spill();
        }
        harness.restart();
    }
    harness.report(vec![
        answer(order.shipment(0, 0), OutcomeKind::Accepted),
        answer(order.shipment(1, 0), OutcomeKind::Accepted),
    ]);
    harness.settle_down();
    assert_eq!(state_of(&mut *harness, &order).0, Class::Finished);
    let unknown = super::order(&*harness, "unknown", &[]);
    assert!(harness.read(unknown.id()).is_none());
}

pub(super) fn a_refused_commit_leaves_no_trace(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0"]);
    harness.refuse_commits(true);
    let answers = receipts(&mut *harness, &[order.clone(), order.clone()]);
    assert!(answers.iter().all(|r| matches!(r, Receipt::Busy { retry_after_s: 1.., .. })), "{answers:?}");
    assert!(harness.read(order.id()).is_none());
    harness.refuse_commits(false);
    accept(&mut *harness, std::slice::from_ref(&order));
    assert_eq!(state_of(&mut *harness, &order).0, Class::InFlight);
    harness.restart();
    assert_eq!(shipments(&harness.outbox(0)), [order.shipment(0, 0)]);
}

pub(super) fn refused_outcomes_come_again(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    harness.refuse_commits(true);
    harness.report(vec![answer(order.shipment(0, 0), OutcomeKind::Accepted)]);
    harness.refuse_commits(false);
    harness.settle_down();
    assert_eq!(state_of(&mut *harness, &order).0, Class::Finished);
}

pub(super) fn a_poison_order_stops_nobody(make: Make<'_>) {
    let mut harness = make();
    let skus = |i: usize| match i {
        11 | 12 => "poison",
        20 => "bad",
        _ => "c0",
    };
    let orders: Vec<Order> = (0..32).map(|i| order(&*harness, format_args!("k{i}"), &[skus(i)])).collect();
    accept(&mut *harness, &orders);
    for (i, order) in orders.iter().enumerate() {
        let dead = matches!(i, 11 | 12 | 20);
        let (class, stored) = state_of(&mut *harness, order);
        assert_eq!(class, if dead { Class::DeadLettered } else { Class::InFlight }, "order {i}");
        assert_eq!(stored.record, order.record(), "order {i} keeps its bytes");
    }
    assert_eq!(harness.outbox(0).len(), 29, "each of the others is offered");
    let again = answers(&*harness, [Receipt::Replayed]);
    assert_eq!(receipts(&mut *harness, &orders[11..12]), again, "its key stays taken");
    assert!(harness.outbox(0).is_empty(), "and it has no effect");
    let mut poison = answer(orders[0].shipment(0, 0), OutcomeKind::Rejected);
    poison.text = "poison".into();
    harness.report(vec![poison, answer(orders[1].shipment(0, 0), OutcomeKind::Accepted)]);
    harness.settle_down();
    assert_eq!(state_of(&mut *harness, &orders[0]).0, Class::DeadLettered);
    assert_eq!(state_of(&mut *harness, &orders[1]).0, Class::Finished);
}

pub(super) fn an_outcome_twice_in_one_batch_counts_once(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0", "c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    let no = answer(order.shipment(0, 0), OutcomeKind::Rejected);
    let yes = answer(order.shipment(1, 0), OutcomeKind::Accepted);
    let later_yes = answer(order.shipment(0, 0), OutcomeKind::Accepted);
    harness.report(vec![no.clone(), yes.clone(), no.clone(), later_yes, yes, no]);
    harness.settle_down();
    let (class, stored) = state_of(&mut *harness, &order);
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    assert_eq!((class, state.parcels[0].attempts.len()), (Class::InFlight, 2), "{state:?}");
    assert_eq!(state.parcels[0].attempts[0].outcome.map(|o| o.0), Some(OutcomeKind::Rejected));
    assert_eq!(shipments(&harness.outbox(1)), [order.shipment(0, 1)], "offered once more, once");
}

pub(super) fn a_turned_down_parcel_goes_to_the_other_carrier(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0~"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    for attempt in 0..7u8 {
        let carrier = u16::from(attempt % 2);
        let sent = harness.outbox(carrier);
        assert_eq!(shipments(&sent), [order.shipment(0, attempt)], "attempt {attempt}");
        assert_eq!(sent[0].record, order.record(), "attempt {attempt} brings the order");
        harness.report(vec![answer(order.shipment(0, attempt), OutcomeKind::Rejected)]);
        harness.settled(carrier, sent[0].position);
        harness.settle_down();
        match attempt {
            2 => harness.spill(),
            4 => harness.restart(),
            _ => {}
        }
    }
    harness.report(vec![answer(order.shipment(0, 7), OutcomeKind::Rejected)]);
    harness.settle_down();
    assert_eq!(state_of(&mut *harness, &order).0, Class::DeadLettered, "nobody is left");
}

pub(super) fn settled_entries_do_not_come_back(make: Make<'_>) {
    let mut harness = make();
    let orders: Vec<Order> = (0..10).map(|i| order(&*harness, format_args!("k{i}"), &["c0"])).collect();
    for order in &orders {
        accept(&mut *harness, std::slice::from_ref(order));
    }
    let sent = harness.outbox(0);
    assert!(sent.is_sorted_by_key(|s| s.position) && sent.len() == 10);
    harness.report(sent[..4].iter().map(|s| answer(s.shipment, OutcomeKind::Accepted)).collect());
    harness.report(vec![answer(sent[7].shipment, OutcomeKind::Unknown)]);
    harness.settled(0, sent[3].position);
    harness.settle_down();
    let open = [4, 5, 6, 8, 9].map(|i: usize| sent[i].shipment);
    for round in 0..2 {
        harness.restart();
        let again = harness.outbox(0);
        assert!(again.iter().all(|s| !s.maybe_sent), "no mark was asked for");
        let mut given = shipments(&again);
        // Its outcome is known, but so far nobody has said that it is settled.
        given.retain(|s| !harness.repeats_unsettled() || *s != sent[7].shipment);
        given.sort_unstable();
        let mut wanted = open.to_vec();
        wanted.sort_unstable();
        assert_eq!(given, wanted, "round {round}");
        harness.spill();
    }
}

pub(super) fn a_batch_equals_its_orders_one_by_one(make: Make<'_>) {
    let kinds = [&["c0"][..], &["c1", "none"], &["nobody"], &["none"], &["poison"], &["bad"], &["c0", "c1", "nobody"]];
    let orders_of = |harness: &dyn Harness| -> Vec<Order> {
        (0..35).map(|i| order(harness, format_args!("k{}", i % 28), kinds[i % kinds.len()])).collect()
    };
    let answers_to = |orders: &[Order]| -> Vec<OutcomeReport> {
        let kinds = [OutcomeKind::Accepted, OutcomeKind::Rejected, OutcomeKind::Unknown, OutcomeKind::GivenUp];
        let both = |(i, order): (usize, &Order)| {
            [0, 1].map(|parcel| answer(order.shipment(parcel, 0), kinds[(i + usize::from(parcel)) % 4]))
        };
        orders.iter().enumerate().flat_map(both).collect()
    };
    let mut at_once = make();
    let together = orders_of(&*at_once);
    let ticket = at_once.submit(submission(&together));
    at_once.settle_down();
    at_once.report(answers_to(&together));
    at_once.settle_down();
    let receipts_together = at_once.receipts(ticket).expect("answers");
    let together: Vec<_> = together.iter().map(|order| summary(&mut *at_once, order)).collect();
    drop(at_once);

    let mut singly = make();
    let single = orders_of(&*singly);
    let receipts_single: Vec<Receipt> =
        single.iter().flat_map(|order| receipts(&mut *singly, std::slice::from_ref(order))).collect();
    for one in answers_to(&single) {
        singly.report(vec![one]);
        singly.settle_down();
    }
    assert_eq!(receipts_together, receipts_single);
    for (order, together) in single.iter().zip(together) {
        assert_eq!(together, summary(&mut *singly, order), "order {}", order.key);
    }
}

/// Everything about an order that doesn't depend on its id.
fn summary(harness: &mut dyn Harness, order: &Order) -> impl PartialEq + std::fmt::Debug + use<> {
    let stored = harness.read(order.id()).expect("an order");
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    let attempts = |p: &Parcel<'_>| {
        let kinds = p.attempts.iter().map(|a| (a.number, a.outcome.map(|o| o.0)));
        (p.number, p.is_dead_lettered(), kinds.collect::<Vec<_>>())
    };
    (state.class(), state.status(), state.parcels.iter().map(attempts).collect::<Vec<_>>())
}

/// Nobody can have answered before the order was committed, unless that commit was lost and comes again.
pub(super) fn an_outcome_in_the_batch_of_its_order(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0", "c0"]);
    let ticket = harness.submit(submission(std::slice::from_ref(&order)));
    harness.report(vec![
        answer(order.shipment(0, 0), OutcomeKind::Accepted),
        answer(order.shipment(1, 0), OutcomeKind::Rejected),
    ]);
    harness.settle_down();
    assert_eq!(harness.receipts(ticket), Some(vec![Receipt::Accepted]));
    let stored = state_of(&mut *harness, &order).1;
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    assert_eq!(state.parcels[0].attempts[0].outcome.map(|o| o.0), Some(OutcomeKind::Accepted), "{state:?}");
    assert_eq!(state.parcels[1].attempts.len(), 2, "{state:?}");
    offered(&mut *harness, 1, &[order.shipment(1, 1)], &[], "turned down in the batch that first asked");
}
