//! What carriers tell of shipments on their way: in any order, any number of times, about anything.

use sluice_domain::{OrderState, ShipmentId, order_state::Class};
use sluice_schemas::{
    milestone::Milestone,
    outcome::OutcomeKind,
    word::{Progress, Tracked},
};

use super::{
    CARRIERS, Harness, Make, Order, PLACED_AT_MS, accept, answer, answers, offered, order, state_of, submission,
};
use crate::{Receipt, Words};

const PICKED_UP: Progress = Progress::Reached(Milestone::PickedUp);
const IN_TRANSIT: Progress = Progress::Reached(Milestone::InTransit);
const DELIVERED: Progress = Progress::Reached(Milestone::Delivered);

/// One piece of news: carrier, shipment, what it says, and how long after the order was placed, ms.
type News = (&'static str, ShipmentId, Progress, u64);

fn words(all: &[News]) -> Words {
    let mut words = Words::default();
    for &(carrier, ShipmentId { order, parcel, attempt }, progress, late) in all {
        let at_ms = PLACED_AT_MS + late;
        words.push(&Tracked { order: order.0, parcel, attempt, progress, at_ms, carrier, text: "van" });
    }
    words
}

fn hear(harness: &mut dyn Harness, all: &[News]) -> Vec<Receipt> {
    let ticket = harness.hear(words(all));
    harness.settle_down();
    harness.receipts(ticket).expect("an answer")
}

/// What is known of each parcel: how often it was tried, its last outcome, what was told and when, and where it stands.
#[derive(Debug, PartialEq)]
struct Known {
    attempts: usize,
    outcome: Option<OutcomeKind>,
    news: Vec<(Progress, u64)>,
    status: Milestone,
}

fn known(harness: &mut dyn Harness, order: &Order) -> (Class, Vec<Known>) {
    let (class, stored) = state_of(harness, order);
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    let parcel = |p| {
        let parcel: &sluice_domain::order_state::Parcel<'_> = p;
        let last = parcel.attempts.last().expect("an attempt");
        let news = last.news.iter().map(|&(progress, at, _)| (progress, at - PLACED_AT_MS)).collect();
        let (attempts, outcome) = (parcel.attempts.len(), last.outcome.map(|o| o.0));
        Known { attempts, outcome, news, status: state.parcel_status(parcel) }
    };
    (class, state.parcels.iter().map(parcel).collect())
}

pub(super) fn news_is_kept_once_and_moves_nothing_back(make: Make<'_>) {
    let mut harness = make();
    let first = order(&*harness, "a", &["c0"]);
    let nobodys = order(&*harness, "never placed", &["c0"]);
    accept(&mut *harness, std::slice::from_ref(&first));
    let shipment = first.shipment(0, 0);
    let (swift, other) = (CARRIERS[0], CARRIERS[1]);
    let delay = Progress::ALL[8];
    let told = [
        (swift, shipment, DELIVERED, 900),
        (swift, shipment, IN_TRANSIT, 500),
        (swift, shipment, DELIVERED, 901),
        (swift, shipment, delay, 600),
        (swift, shipment, delay, 700),
        (swift, shipment, delay, 600),
        // Not its shipment, no such attempt, no such parcel, no such order.
        (other, shipment, PICKED_UP, 100),
        (swift, first.shipment(0, 1), PICKED_UP, 100),
        (swift, first.shipment(7, 0), PICKED_UP, 100),
        (swift, nobodys.shipment(0, 0), PICKED_UP, 100),
    ];
    let wanted = |outcome| Known {
        attempts: 1,
        outcome,
        news: vec![(IN_TRANSIT, 500), (DELIVERED, 900), (delay, 600), (delay, 700)],
        status: Milestone::Delivered,
    };
    assert_eq!(hear(&mut *harness, &told), vec![Receipt::Accepted; told.len()], "what it means is not for the answer");
    // The carrier's answer to the call comes last.
    assert_eq!(known(&mut *harness, &first), (Class::InFlight, vec![wanted(None)]));
    harness.report(vec![answer(shipment, OutcomeKind::Accepted)]);
    harness.settle_down();
    let finished = (Class::Finished, vec![wanted(Some(OutcomeKind::Accepted))]);
    assert_eq!(known(&mut *harness, &first), finished);
    assert!(harness.read(nobodys.id()).is_none());
    harness.spill();
    harness.restart();
    harness.abort_next();
    hear(&mut *harness, &told);
    assert_eq!(known(&mut *harness, &first), finished, "all of it again, from rows out of memory");
    offered(&mut *harness, 1, &[], &[], "nobody else is asked");
    let events = harness.events();
    let tracked = events.iter().filter(|e| e.kind.contains("tracked")).count();
    assert_eq!(tracked, wanted(None).news.len(), "{events:?}");
}

pub(super) fn news_shows_that_a_parcel_was_taken(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0", "c0", "c0", "c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    let [parked, late, refused, rejected] = [0, 1, 2, 3].map(|parcel| order.shipment(parcel, 0));
    let swift = CARRIERS[0];
    harness.report(vec![answer(parked, OutcomeKind::Unknown), answer(rejected, OutcomeKind::Rejected)]);
    harness.settle_down();
    let remark = Progress::ALL[9];
    harness.abort_next();
    hear(&mut *harness, &[(swift, parked, remark, 90), (swift, late, IN_TRANSIT, 95), (swift, refused, PICKED_UP, 95)]);
    // A remark shows nothing; to move a parcel, the carrier must have it.
    assert_eq!(known(&mut *harness, &order).1[0].outcome, Some(OutcomeKind::Unknown));
    harness.abort_next();
    hear(&mut *harness, &[(swift, parked, PICKED_UP, 100), (swift, rejected, PICKED_UP, 100)]);
    harness.report(vec![answer(late, OutcomeKind::Unknown), answer(refused, OutcomeKind::Rejected)]);
    harness.settle_down();
    let (class, parcels) = known(&mut *harness, &order);
    let outcomes: Vec<_> = parcels.iter().map(|p| (p.attempts, p.outcome, p.status)).collect();
    let accepted = |status| (1, Some(OutcomeKind::Accepted), status);
    let wanted = [
        accepted(Milestone::PickedUp),
        accepted(Milestone::InTransit),
        accepted(Milestone::PickedUp),
        // Its final no came first, and another carrier is asked.
        (2, None, Milestone::CarrierRequested),
    ];
    assert_eq!((class, &outcomes[..]), (Class::InFlight, &wanted[..]));
    offered(&mut *harness, 1, &[order.shipment(3, 1)], &[], "only what was turned down before anything was told");
    harness.report(vec![answer(order.shipment(3, 1), OutcomeKind::Accepted)]);
    harness.settle_down();
    assert_eq!(state_of(&mut *harness, &order).0, Class::Finished);
    harness.restart();
    assert_eq!(state_of(&mut *harness, &order).0, Class::Finished);
    if harness.distributed() {
        let events = harness.events();
        let ids: std::collections::BTreeSet<&str> = events.iter().map(|e| e.id.as_str()).collect();
        assert_eq!(ids.len(), events.len(), "an id twice: {events:?}");
        assert_eq!(events.iter().filter(|e| e.kind.contains("tracked")).count(), 4, "{events:?}");
    }
}

pub(super) fn news_of_what_was_given_up_is_kept(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    harness.report(vec![answer(order.shipment(0, 0), OutcomeKind::GivenUp)]);
    hear(&mut *harness, &[(CARRIERS[0], order.shipment(0, 0), DELIVERED, 100)]);
    let (class, parcels) = known(&mut *harness, &order);
    assert_eq!((class, &parcels[0].news[..]), (Class::DeadLettered, &[(DELIVERED, 100)][..]));
    assert_eq!(parcels[0].status, Milestone::DeadLettered, "a person looks at it, and sees that it was delivered");
}

pub(super) fn orders_and_news_in_one_batch_are_each_answered(make: Make<'_>) {
    let mut harness = make();
    let orders = ["first", "second", "third"].map(|key| order(&*harness, key, &["c0"]));
    let [first, second, third] = &orders;
    accept(&mut *harness, std::slice::from_ref(first));
    let (swift, shipment) = (CARRIERS[0], first.shipment(0, 0));
    // Two of them are about one shipment, so that they need several commits.
    let told = [
        (swift, shipment, DELIVERED, 90),
        (swift, second.shipment(0, 0), PICKED_UP, 80),
        (swift, shipment, PICKED_UP, 70),
    ];
    harness.abort_next();
    let posted = harness.submit(submission(&[second.clone(), first.clone()]));
    let heard = harness.hear(words(&told));
    let last = harness.submit(submission(&[third.clone(), second.clone(), third.clone()]));
    harness.settle_down();
    let known_first = answers(&*harness, [Receipt::Accepted, Receipt::Replayed]);
    assert_eq!(harness.receipts(posted), Some(known_first));
    assert_eq!(harness.receipts(heard), Some(vec![Receipt::Accepted; 3]));
    let known_last = answers(&*harness, [Receipt::Accepted, Receipt::Replayed, Receipt::Replayed]);
    assert_eq!(harness.receipts(last), Some(known_last));
    let wanted = vec![(PICKED_UP, 70), (DELIVERED, 90)];
    assert_eq!(known(&mut *harness, first).1[0].news, wanted);
    // Whatever a crash leaves of it, told again it is known once.
    let more = [(swift, shipment, IN_TRANSIT, 75), (swift, third.shipment(0, 0), PICKED_UP, 95)];
    harness.hear(words(&more));
    harness.crash();
    harness.settle_down();
    hear(&mut *harness, &more);
    assert_eq!(known(&mut *harness, first).1[0].news, [(PICKED_UP, 70), (IN_TRANSIT, 75), (DELIVERED, 90)]);
    assert_eq!(known(&mut *harness, third).1[0].news, [(PICKED_UP, 95)]);
    // What was committed and not answered is durable.
    harness.hear(words(&[(swift, third.shipment(0, 0), DELIVERED, 99)]));
    harness.commit_only();
    harness.restart();
    assert_eq!(known(&mut *harness, third).1[0].news, [(PICKED_UP, 95), (DELIVERED, 99)]);
}

pub(super) fn news_that_finds_no_room_is_refused(make: Make<'_>) {
    let mut harness = make();
    let order = order(&*harness, "a", &["c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    let told = [(CARRIERS[0], order.shipment(0, 0), PICKED_UP, 100)];
    harness.refuse_commits(true);
    let refused = hear(&mut *harness, &told);
    assert!(matches!(refused[..], [Receipt::Busy { retry_after_s: 1.., .. }]), "{refused:?}");
    harness.refuse_commits(false);
    assert_eq!(known(&mut *harness, &order).1[0].news, []);
    assert_eq!(hear(&mut *harness, &told), [Receipt::Accepted]);
    assert_eq!(known(&mut *harness, &order).1[0].news, [(PICKED_UP, 100)]);
}
