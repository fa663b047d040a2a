//! What nobody knows the goods of: parcels that wait until a person has said so, while the rest of their order ships.

use sluice_domain::{Handling, OrderId, OrderState, order_state::Class};
use sluice_schemas::{
    command::{Command, Keep, Verdict, Wish},
    milestone::Milestone,
    outcome::OutcomeKind,
};

use super::{Harness, Make, Order, PLACED_AT_MS, accept, answer, offered, order};
use crate::{Listed, Receipt, Words};

fn hear(harness: &mut dyn Harness, order: &Order, id: u64, wish: Wish<'_>) {
    let command = Command { order: order.id().0, id, at_ms: PLACED_AT_MS + 70, wish };
    let ticket = harness.hear(Words::of_command(&command));
    harness.settle_down();
    assert_eq!(harness.receipts(ticket), Some(vec![Receipt::Accepted]));
}

fn review(harness: &mut dyn Harness, order: &Order, id: u64, parcel: u8, class: Handling) {
    let wish = Wish::Review { parcel, handling: class as u8, keep: Keep::Rule, by: "operator" };
    hear(harness, order, id, wish);
}

fn settle(harness: &mut dyn Harness, order: &Order, parcel: u8) {
    harness.report(vec![answer(order.shipment(parcel, 0), OutcomeKind::Accepted)]);
    harness.settle_down();
}

/// Class, status, what became of commands by id, and the parcels that wait.
fn standing(harness: &mut dyn Harness, order: &Order) -> (Class, Milestone, Vec<(u64, Verdict)>, Vec<u8>) {
    let stored = harness.read(order.id()).expect("an order");
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    let commands = state.commands.iter().map(|&(id, verdict, _)| (id, verdict)).collect();
    let waiting = state.parcels.iter().filter(|p| p.waits().is_some()).map(|p| p.number).collect();
    (state.class(), state.status(), commands, waiting)
}

fn told(harness: &mut dyn Harness, kind: &str) -> usize {
    harness.events().iter().filter(|event| event.kind.contains(kind)).count()
}

pub(super) fn what_is_held_goes_on_as_what_it_is_said_to_be(make: Make<'_>) {
    use Verdict::{Done, NotHeld};
    let mut harness = make();
    let order = order(&*harness, "a", &["c0", "held", "held~", "held"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    // The rest ships; the customer sees no more than is true of every parcel.
    offered(&mut *harness, 0, &[order.shipment(0, 0)], &[], "what is known");
    settle(&mut *harness, &order, 0);
    assert_eq!(standing(&mut *harness, &order), (Class::InFlight, Milestone::Classified, vec![], vec![1, 2, 3]));
    harness.spill();
    harness.abort_next();
    review(&mut *harness, &order, 1, 2, Handling::Frozen);
    review(&mut *harness, &order, 1, 2, Handling::Frozen);
    offered(&mut *harness, 1, &[order.shipment(2, 0)], &[], "what is said to be frozen");
    // Nothing is said twice, of what isn't there, or of what was never held.
    review(&mut *harness, &order, 2, 2, Handling::Chilled);
    review(&mut *harness, &order, 3, 0, Handling::Chilled);
    review(&mut *harness, &order, 4, 77, Handling::Chilled);
    harness.restart();
    let known = vec![(1, Done), (2, NotHeld), (3, NotHeld), (4, NotHeld)];
    assert_eq!(standing(&mut *harness, &order), (Class::InFlight, Milestone::Classified, known, vec![1, 3]));
    settle(&mut *harness, &order, 2);
    // What is no goods needs nobody.
    review(&mut *harness, &order, 5, 1, Handling::NonGoods);
    review(&mut *harness, &order, 6, 3, Handling::LivePlant);
    let (class, _, _, waiting) = standing(&mut *harness, &order);
    assert_eq!((class, waiting), (Class::DeadLettered, vec![]), "nobody takes plants");
    let stored = harness.read(order.id()).expect("an order");
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    assert_eq!(state.parcels[3].dead_letter.map(|d| d.reason), Some("nobody takes plants"));
    assert_eq!(state.classified.map(|c| (c.2, c.3)), Some((7, 0)), "rules, and no model");
    assert_eq!(told(&mut *harness, "parcel.reviewed"), 3);
    // A dead letter is decided anew as what it was said to be.
    hear(&mut *harness, &order, 7, Wish::Replay { by: "operator" });
    assert_eq!(standing(&mut *harness, &order).0, Class::DeadLettered);
}

pub(super) fn what_is_held_is_cancelled_at_once(make: Make<'_>) {
    let mut harness = make();
    let [both, alone] =
        [("a", &["c0", "held", "held"][..]), ("b", &["held"])].map(|(key, skus)| order(&*harness, key, skus));
    accept(&mut *harness, &[both.clone(), alone.clone()]);
    settle(&mut *harness, &both, 0);
    harness.abort_next();
    for order in [&both, &alone] {
        hear(&mut *harness, order, 1, Wish::Cancel);
        review(&mut *harness, order, 2, if order.id() == alone.id() { 0 } else { 1 }, Handling::Chilled);
    }
    let known = vec![(1, Verdict::Done), (2, Verdict::NotHeld)];
    let done = (Class::Cancelled, Milestone::Cancelled, known.clone(), vec![]);
    assert_eq!(standing(&mut *harness, &alone), done);
    // The carrier has not said yet whether it forgets the other parcel.
    assert_eq!(standing(&mut *harness, &both), (Class::Finished, Milestone::CarrierAccepted, known, vec![]));
    assert_eq!(told(&mut *harness, "cancel_requested"), 2);
    harness.restart();
    assert_eq!(standing(&mut *harness, &alone), done);
    offered(&mut *harness, 1, &[], &[], "nothing of it ships");
}

/// All that is listed, two orders at a time.
fn list(harness: &mut dyn Harness) -> Vec<OrderId> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let Listed { orders, next } = harness.held(before, 2);
        found.extend(orders.into_iter().map(|(id, _)| id));
        match next {
            Some(next) => before = Some(next),
            None => return found,
        }
    }
}

pub(super) fn what_is_held_is_listed_until_it_is_reviewed(make: Make<'_>) {
    let mut harness = make();
    let kinds = [&["held"][..], &["c0"], &["c1", "held", "held"], &["bad"], &["held", "c0"], &["held"]];
    let orders: Vec<Order> = kinds
        .iter()
        .enumerate()
        .map(|(n, skus)| Order { placed_at_ms: PLACED_AT_MS + n as u64, ..order(&*harness, n, skus) })
        .collect();
    accept(&mut *harness, &orders);
    // Other cases of the suite may have left theirs.
    let mine: Vec<OrderId> = orders.iter().map(Order::id).collect();
    let listed = |harness: &mut dyn Harness| {
        let found = list(harness).into_iter().filter_map(|id| mine.iter().position(|m| *m == id));
        found.collect::<Vec<_>>()
    };
    assert_eq!(listed(&mut *harness), [5, 4, 2, 0], "newest first");
    harness.spill();
    harness.restart();
    assert_eq!(listed(&mut *harness), [5, 4, 2, 0]);
    review(&mut *harness, &orders[0], 1, 0, Handling::Chilled);
    review(&mut *harness, &orders[2], 1, 1, Handling::Chilled);
    hear(&mut *harness, &orders[5], 1, Wish::Cancel);
    assert_eq!(listed(&mut *harness), [4, 2], "one parcel still waits");
    review(&mut *harness, &orders[2], 2, 2, Handling::Chilled);
    harness.spill();
    assert_eq!(listed(&mut *harness), [4]);
}
