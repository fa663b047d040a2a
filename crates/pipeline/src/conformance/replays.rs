//! What operators have decided anew: orders that no stage could decide, parcels that nobody took.

use sluice_domain::{
    OrderState,
    order_state::{Class, Standing},
};
use sluice_schemas::{
    command::{Command, Verdict, Wish},
    milestone::Milestone,
    outcome::OutcomeKind,
};

use super::{Harness, Make, Order, PLACED_AT_MS, accept, answer, offered, order, shipments};
use crate::{Receipt, Words};

fn wish(order: &Order, id: u64) -> Words {
    let wish = Wish::Replay { by: "operator" };
    Words::of_command(&Command { order: order.id().0, id, at_ms: PLACED_AT_MS + 70, wish })
}

fn replay(harness: &mut dyn Harness, order: &Order, id: u64) {
    let ticket = harness.hear(wish(order, id));
    harness.settle_down();
    assert_eq!(harness.receipts(ticket), Some(vec![Receipt::Accepted]));
}

/// Class, status, what became of commands by id, and how often it was replayed.
fn standing(harness: &mut dyn Harness, order: &Order) -> (Class, Milestone, Vec<(u64, Verdict)>, u8) {
    let stored = harness.read(order.id()).expect("an order");
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    let commands = state.commands.iter().map(|&(id, verdict, _)| (id, verdict)).collect();
    (state.class(), state.status(), commands, state.last_replay())
}

fn reason(harness: &mut dyn Harness, order: &Order) -> Option<(u8, String)> {
    let stored = harness.read(order.id()).expect("an order");
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    let parcels = state.parcels.iter().filter(|p| p.standing() == Standing::DeadLettered);
    let dead = state.dead_letter.or_else(|| parcels.filter_map(|p| p.dead_letter).next());
    dead.map(|dead| (dead.replay, dead.reason.to_owned()))
}

fn replays_told(harness: &mut dyn Harness) -> usize {
    harness.events().iter().filter(|event| event.kind.contains("order.replayed")).count()
}

pub(super) fn an_order_that_no_stage_could_decide_is_decided_anew(make: Make<'_>) {
    use Milestone::DeadLettered;
    use Verdict::{Done, NothingToReplay};
    let mut harness = make();
    let [mended, bad, poison, fine] =
        [("a", "mended"), ("b", "bad"), ("c", "poison"), ("d", "c0")].map(|(key, sku)| order(&*harness, key, &[sku]));
    accept(&mut *harness, &[mended.clone(), bad.clone(), poison.clone(), fine.clone()]);
    let first = standing(&mut *harness, &mended);
    assert_eq!(first, (Class::DeadLettered, DeadLettered, vec![], 0));
    harness.spill();
    harness.abort_next();
    // Twice in one batch, beside others.
    let tickets = [&mended, &mended, &bad, &poison, &fine].map(|order| harness.hear(wish(order, 1)));
    harness.settle_down();
    for ticket in tickets {
        assert_eq!(harness.receipts(ticket), Some(vec![Receipt::Accepted]));
    }
    // A customer's status doesn't go back.
    let once = vec![(1, Done)];
    assert_eq!(standing(&mut *harness, &mended), (Class::InFlight, DeadLettered, once.clone(), 1));
    for order in [&bad, &poison] {
        assert_eq!(standing(&mut *harness, order), (Class::DeadLettered, DeadLettered, once.clone(), 1));
    }
    assert_eq!(reason(&mut *harness, &bad), Some((1, "a bad order".to_owned())));
    assert_eq!(reason(&mut *harness, &poison), Some((1, "a stage panicked: poison".to_owned())));
    let left = (Class::InFlight, Milestone::CarrierRequested, vec![(1, NothingToReplay)], 0);
    assert_eq!(standing(&mut *harness, &fine), left);
    let sent = harness.outbox(1);
    assert_eq!(shipments(&sent), [mended.shipment(0, 0)]);
    assert_eq!(sent[0].record, mended.record(), "with the order that it is of");
    assert_eq!(replays_told(&mut *harness), 3);
    harness.restart();
    // Nothing of it happens again under the same id, and nothing under another one.
    replay(&mut *harness, &mended, 1);
    replay(&mut *harness, &mended, 2);
    let known = vec![(1, Done), (2, NothingToReplay)];
    assert_eq!(standing(&mut *harness, &mended), (Class::InFlight, DeadLettered, known.clone(), 1));
    harness.report(vec![answer(mended.shipment(0, 0), OutcomeKind::Accepted)]);
    harness.settle_down();
    assert_eq!(standing(&mut *harness, &mended), (Class::Finished, DeadLettered, known, 1));
    replay(&mut *harness, &bad, 1);
    replay(&mut *harness, &bad, 3);
    harness.restart();
    assert_eq!(standing(&mut *harness, &bad).3, 2);
    assert_eq!(reason(&mut *harness, &bad), Some((2, "a bad order".to_owned())));
    assert_eq!(replays_told(&mut *harness), 4);
}

pub(super) fn a_parcel_that_nobody_took_is_offered_again(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0~", "nobody~", "c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    offered(&mut *harness, 0, &[order.shipment(0, 0), order.shipment(2, 0)], &[], "two have a carrier");
    harness.report(vec![answer(order.shipment(0, 0), OutcomeKind::GivenUp)]);
    harness.settle_down();
    // The third is still being asked for: the order is in flight, and two of its parcels are dead letters.
    assert_eq!(standing(&mut *harness, &order).0, Class::InFlight);
    harness.abort_next();
    replay(&mut *harness, &order, 1);
    replay(&mut *harness, &order, 1);
    let unsettled = [order.shipment(2, 0)];
    offered(&mut *harness, 0, &[order.shipment(0, 0)], &unsettled, "whom it was given up with may have it");
    offered(&mut *harness, 1, &[order.shipment(1, 0)], &[], "nobody had it");
    harness.report(vec![answer(order.shipment(2, 0), OutcomeKind::Accepted)]);
    harness.settle_down();
    harness.report(vec![
        answer(order.shipment(0, 0), OutcomeKind::Rejected),
        answer(order.shipment(1, 0), OutcomeKind::GivenUp),
    ]);
    harness.settle_down();
    offered(&mut *harness, 1, &[order.shipment(0, 1)], &[order.shipment(1, 0)], "its no sends it on");
    harness.report(vec![answer(order.shipment(0, 1), OutcomeKind::Accepted)]);
    harness.settle_down();
    assert_eq!(standing(&mut *harness, &order).0, Class::DeadLettered);
    harness.spill();
    harness.restart();
    replay(&mut *harness, &order, 2);
    assert_eq!((standing(&mut *harness, &order).0, standing(&mut *harness, &order).3), (Class::InFlight, 2));
    harness.report(vec![answer(order.shipment(1, 0), OutcomeKind::Accepted)]);
    harness.settle_down();
    replay(&mut *harness, &order, 3);
    let verdicts = vec![(1, Verdict::Done), (2, Verdict::Done), (3, Verdict::NothingToReplay)];
    // Of what was a dead letter the customer goes on seeing that; the order is no less taken.
    assert_eq!(standing(&mut *harness, &order), (Class::Finished, Milestone::CarrierAccepted, verdicts, 2));
    assert_eq!(replays_told(&mut *harness), 2);
}
