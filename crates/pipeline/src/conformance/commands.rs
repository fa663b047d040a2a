//! What merchants want done with orders that have their carriers: shipments forgotten, goods brought back.

use sluice_domain::{
    OrderState, ShipmentId,
    commands::Cancelling,
    order_state::{Class, Standing},
};
use sluice_schemas::{
    command::{Command, Lines, ReturnLine, Verdict, Wish},
    delta::{FIRST_RETURN, VOID},
    milestone::Milestone,
    outcome::OutcomeKind,
    wire::Reader,
    word::{Progress, Tracked},
};

use super::{CARRIERS, Harness, Make, Order, PLACED_AT_MS, accept, answer, check_weights, offered, order, submission};
use crate::{Receipt, Words};

fn command(order: &Order, id: u64, wish: Wish<'_>) -> Words {
    Words::of_command(&Command { order: order.id().0, id, at_ms: PLACED_AT_MS + 70, wish })
}

fn hear(harness: &mut dyn Harness, words: Words) {
    let ticket = harness.hear(words);
    harness.settle_down();
    assert_eq!(harness.receipts(ticket), Some(vec![Receipt::Accepted]));
}

fn cancel(harness: &mut dyn Harness, order: &Order, id: u64) {
    hear(harness, command(order, id, Wish::Cancel));
}

/// Asks for so many units of each line back, of two each.
fn bring_back(harness: &mut dyn Harness, order: &Order, id: u64, quantities: &[u32]) {
    let lines: Vec<_> = quantities.iter().map(|&quantity| ReturnLine { quantity, ordered: 2 }).collect();
    let mut bytes = Vec::new();
    Lines::encode(&lines, &mut bytes);
    let lines = Lines::read(&mut Reader::new(&bytes)).expect("lines that read");
    hear(harness, command(order, id << 32, Wish::Return { reason: "too small", lines }));
}

fn told(harness: &mut dyn Harness, (parcel, carrier): (u8, &str), order: &Order, milestone: Milestone) {
    let mut words = Words::default();
    let (progress, at_ms) = (Progress::Reached(milestone), PLACED_AT_MS + 60);
    words.push(&Tracked { order: order.id().0, parcel, attempt: 0, progress, at_ms, carrier, text: "" });
    hear(harness, words);
}

fn settle(harness: &mut dyn Harness, shipment: ShipmentId, kind: OutcomeKind) {
    harness.report(vec![answer(shipment, kind)]);
    harness.settle_down();
}

fn with_state<T>(harness: &mut dyn Harness, order: &Order, look: impl FnOnce(&OrderState<'_>) -> T) -> T {
    let stored = harness.read(order.id()).expect("an order");
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    check_weights(&state, &stored.record);
    look(&state)
}

/// Class, what became of commands by id, and where each parcel stands towards being cancelled.
fn standing(harness: &mut dyn Harness, order: &Order) -> (Class, Vec<(u64, Verdict)>, Vec<Cancelling>) {
    with_state(harness, order, |state| {
        let parcels = state.parcels.iter().map(|p| Cancelling::of(state, p)).collect();
        // Of a return the key's half of the id.
        let short = |id: u64| if id >> 32 == 0 { id } else { id >> 32 };
        (state.class(), state.commands.iter().map(|&(id, verdict, _)| (short(id), verdict)).collect(), parcels)
    })
}

fn void(order: &Order, parcel: u8) -> ShipmentId {
    order.shipment(parcel, VOID)
}

pub(super) fn what_no_carrier_has_moved_can_be_cancelled(make: Make<'_>) {
    use Cancelling::{AlreadyRequested, Cancelled, DeadLettered, OnItsWay, VoidRequested};
    let mut harness = make();
    let order = order(&*harness, "a", &["c0~", "c0", "c0", "nobody"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    harness.outbox(0);
    let [first, second, third] = [0, 1, 2].map(|parcel| order.shipment(parcel, 0));
    settle(&mut *harness, first, OutcomeKind::Accepted);
    settle(&mut *harness, third, OutcomeKind::Accepted);
    told(&mut *harness, (2, CARRIERS[0]), &order, Milestone::PickedUp);
    harness.abort_next();
    cancel(&mut *harness, &order, 1);
    cancel(&mut *harness, &order, 1);
    let wanted = vec![VoidRequested, AlreadyRequested, OnItsWay, DeadLettered];
    assert_eq!(standing(&mut *harness, &order), (Class::InFlight, vec![(1, Verdict::Done)], wanted));
    let open = [second];
    offered(&mut *harness, 0, &[void(&order, 0)], &open, "asked once to forget what it took and has not moved");
    harness.spill();
    harness.restart();
    offered(&mut *harness, 0, &[void(&order, 0), second], &[first, third], "nobody has said what became of these");
    harness.abort_next();
    settle(&mut *harness, void(&order, 0), OutcomeKind::Accepted);
    settle(&mut *harness, second, OutcomeKind::Accepted);
    cancel(&mut *harness, &order, 7);
    settle(&mut *harness, void(&order, 1), OutcomeKind::Accepted);
    cancel(&mut *harness, &order, 8);
    let verdicts = vec![(1, Verdict::Done), (7, Verdict::Done), (8, Verdict::NothingToCancel)];
    let wanted = vec![Cancelled, Cancelled, OnItsWay, DeadLettered];
    assert_eq!(standing(&mut *harness, &order), (Class::DeadLettered, verdicts, wanted));
    offered(&mut *harness, 0, &[void(&order, 1)], &[void(&order, 0), first, second, third], "the other one, once");
    let events = harness.events();
    let count = |part: &str| events.iter().filter(|e| e.kind.contains(part)).count();
    assert_eq!((count("cancel_requested"), count("void_settled")), (2, 2), "{events:?}");
}

pub(super) fn only_a_carriers_yes_cancels(make: Make<'_>) {
    use Cancelling::{Cancelled, VoidRefused, VoidUnknown};
    let mut harness = make();
    let order = order(&*harness, "a", &["c0", "c0", "c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    for parcel in 0..3 {
        settle(&mut *harness, order.shipment(parcel, 0), OutcomeKind::Accepted);
    }
    // Nobody was asked yet: an answer to what was not asked is none.
    settle(&mut *harness, void(&order, 0), OutcomeKind::Accepted);
    assert_eq!(standing(&mut *harness, &order).2, vec![Cancelling::Voidable; 3]);
    cancel(&mut *harness, &order, 1);
    settle(&mut *harness, void(&order, 0), OutcomeKind::Unknown);
    settle(&mut *harness, void(&order, 1), OutcomeKind::Rejected);
    settle(&mut *harness, void(&order, 2), OutcomeKind::GivenUp);
    settle(&mut *harness, void(&order, 1), OutcomeKind::Accepted);
    let wanted = vec![VoidUnknown, VoidRefused, VoidUnknown];
    assert_eq!(standing(&mut *harness, &order), (Class::Finished, vec![(1, Verdict::Done)], wanted));
    offered(&mut *harness, 1, &[], &[], "what stays where it is goes to nobody else");
    // A late answer still counts where there was none.
    settle(&mut *harness, void(&order, 0), OutcomeKind::Accepted);
    assert_eq!(standing(&mut *harness, &order).2, [Cancelled, VoidRefused, VoidUnknown]);
    let statuses =
        with_state(&mut *harness, &order, |s| s.parcels.iter().map(|p| s.parcel_status(p)).collect::<Vec<_>>());
    assert_eq!(statuses, [Milestone::Cancelled, Milestone::CarrierAccepted, Milestone::CarrierAccepted]);

    let whole = super::order(&*harness, "b", &["c1"]);
    accept(&mut *harness, std::slice::from_ref(&whole));
    settle(&mut *harness, whole.shipment(0, 0), OutcomeKind::Accepted);
    cancel(&mut *harness, &whole, 1);
    settle(&mut *harness, void(&whole, 0), OutcomeKind::Accepted);
    harness.restart();
    assert_eq!(standing(&mut *harness, &whole).0, Class::Cancelled);
}

/// A merchant who has its order's id may be so quick.
pub(super) fn a_command_in_the_batch_of_its_order(make: Make<'_>) {
    let mut harness = make();
    let (order, nobodys) = (order(&*harness, "a", &["c0"]), order(&*harness, "never-placed", &["c0"]));
    harness.abort_next();
    let ticket = harness.submit(submission(std::slice::from_ref(&order)));
    let heard = harness.hear(command(&order, 5, Wish::Cancel));
    let unknown = harness.hear(command(&nobodys, 5, Wish::Cancel));
    harness.settle_down();
    for ticket in [ticket, heard, unknown] {
        assert_eq!(harness.receipts(ticket), Some(vec![Receipt::Accepted]));
    }
    let wanted = (Class::InFlight, vec![(5, Verdict::NothingToCancel)], vec![Cancelling::AlreadyRequested]);
    assert_eq!(standing(&mut *harness, &order), wanted, "decided after its order");
    assert!(harness.read(nobodys.id()).is_none());
    // An answer and a command in one batch, in the order in which they came.
    harness.report(vec![answer(order.shipment(0, 0), OutcomeKind::Accepted)]);
    harness.settle_down();
    let first = harness.hear(command(&order, 6, Wish::Cancel));
    let again = harness.hear(command(&order, 7, Wish::Cancel));
    harness.settle_down();
    assert!(harness.receipts(first).is_some() && harness.receipts(again).is_some());
    let verdicts = vec![(5, Verdict::NothingToCancel), (6, Verdict::Done), (7, Verdict::NothingToCancel)];
    assert_eq!(standing(&mut *harness, &order).1, verdicts);
    offered(&mut *harness, 0, &[order.shipment(0, 0), void(&order, 0)], &[], "asked once");
}

pub(super) fn delivered_goods_come_back_once(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0~", "none", "c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    for parcel in 0..2 {
        settle(&mut *harness, order.shipment(parcel, 0), OutcomeKind::Accepted);
    }
    told(&mut *harness, (0, CARRIERS[0]), &order, Milestone::Delivered);
    bring_back(&mut *harness, &order, 1, &[0, 0, 1]);
    bring_back(&mut *harness, &order, 2, &[3, 0, 0]);
    bring_back(&mut *harness, &order, 3, &[0, 1, 0]);
    bring_back(&mut *harness, &order, 4, &[0, 0, 0]);
    let refused: Vec<_> = [1, 2, 3, 4].map(|id| (id, Verdict::NotReturnable)).into();
    assert_eq!(standing(&mut *harness, &order).1, refused, "not delivered, too many, nothing shipped, nothing asked");
    // Of what nobody brings nothing is on its way, and it may be asked for again.
    bring_back(&mut *harness, &order, 5, &[1, 0, 0]);
    harness.abort_next();
    bring_back(&mut *harness, &order, 6, &[2, 0, 0]);
    bring_back(&mut *harness, &order, 6, &[2, 0, 0]);
    bring_back(&mut *harness, &order, 7, &[1, 0, 0]);
    let back = order.shipment(FIRST_RETURN + 1, 0);
    offered(&mut *harness, 1, &[back], &[], "one parcel comes back");
    let look = |s: &OrderState<'_>| {
        let returns = s.returns.iter().map(|r| {
            let asked = r.asked.expect("what was asked for");
            (r.parcel.number, asked.source, asked.units, r.units(), r.parcel.standing(), s.parcel_status(&r.parcel))
        });
        (s.class(), s.status(), returns.collect::<Vec<_>>())
    };
    let nobody = (FIRST_RETURN, 0, 2, 1, Standing::DeadLettered, Milestone::DeadLettered);
    let asked = |standing, status| (FIRST_RETURN + 1, 0, 2, 2, standing, status);
    let wanted = vec![nobody, asked(Standing::Undecided, Milestone::CarrierRequested)];
    let status = Milestone::CarrierAccepted;
    assert_eq!(with_state(&mut *harness, &order, look), (Class::Finished, status, wanted));
    harness.spill();
    harness.restart();
    settle(&mut *harness, back, OutcomeKind::Accepted);
    told(&mut *harness, (back.parcel, CARRIERS[1]), &order, Milestone::Returned);
    told(&mut *harness, (1, CARRIERS[0]), &order, Milestone::Delivered);
    let wanted = vec![nobody, asked(Standing::Accepted, Milestone::Returned)];
    assert_eq!(with_state(&mut *harness, &order, look), (Class::Finished, Milestone::Delivered, wanted));
    let first = with_state(&mut *harness, &order, |s| s.parcel_status(&s.parcels[0]));
    assert_eq!(first, Milestone::Returned, "all of it is back");
    bring_back(&mut *harness, &order, 8, &[1, 0, 1]);
    assert_eq!(standing(&mut *harness, &order).1.last(), Some(&(8, Verdict::NotReturnable)), "it came back already");
    let events = harness.events();
    let count = |part: &str| events.iter().filter(|e| e.kind.contains(part)).count();
    let counts = ["return.requested", "return.settled", "return.tracked"].map(count);
    assert_eq!((counts, count("parcel.settled")), ([2, 1, 1], 2), "{events:?}");
}
