//! What consumers are told: every decision once, and those of each order numbered without a gap.

use sluice_schemas::{
    milestone::Milestone,
    outcome::OutcomeKind,
    word::{Progress, Tracked},
};

use super::{CARRIERS, Harness, Make, Order, PLACED_AT_MS, Told, accept, answer, order, receipts};
use crate::{OutcomeReport, Words};

const PICKED_UP: Progress = Progress::Reached(Milestone::PickedUp);
const DELIVERED: Progress = Progress::Reached(Milestone::Delivered);

/// The kinds of what was told about an order, which must be numbered from 0 as they were told.
fn told_of(events: &[Told], order: &Order) -> Vec<String> {
    let mine: Vec<&Told> = events.iter().filter(|told| told.order == order.id()).collect();
    let numbers: Vec<u64> = mine.iter().map(|told| told.sequence).collect();
    assert_eq!(numbers, (0..mine.len() as u64).collect::<Vec<_>>(), "{mine:?}");
    let name = |told: &&Told| told.kind.split('.').rev().nth(1).unwrap_or_default().to_owned();
    mine.iter().map(name).collect()
}

fn hear(harness: &mut dyn Harness, all: &[(&str, &Order, u8, Progress)]) {
    let mut words = Words::default();
    for &(carrier, order, parcel, progress) in all {
        let (order, at_ms) = (order.id().0, PLACED_AT_MS + 900);
        words.push(&Tracked { order, parcel, attempt: 0, progress, at_ms, carrier, text: "" });
    }
    harness.hear(words);
}

fn answers_to(order: &Order) -> Vec<OutcomeReport> {
    let kinds = [OutcomeKind::Accepted, OutcomeKind::Rejected, OutcomeKind::Unknown];
    let mut all: Vec<_> = (0..).zip(kinds).map(|(parcel, kind)| answer(order.shipment(parcel, 0), kind)).collect();
    all[2].carrier = CARRIERS[1].into();
    all
}

pub(super) fn events_of_an_order_are_numbered_without_a_gap(make: Make<'_>) {
    let mut harness = make();
    let first = order(&*harness, "a", &["c0", "c0", "c1"]);
    let others = [order(&*harness, "b", &["bad"]), order(&*harness, "c", &["c1"])];
    let orders = [&[first.clone()][..], &others].concat();
    harness.abort_next();
    accept(&mut *harness, &orders);
    // Several words of one order in one commit, which is made twice.
    harness.abort_next();
    harness.report(answers_to(&first));
    harness.settle_down();
    let before = harness.events();
    assert_eq!(told_of(&before, &first), ["accepted", "settled", "settled", "settled"]);

    // From rows out of memory: what is known, and what is new, two of it about one shipment.
    harness.spill();
    harness.restart();
    harness.report(answers_to(&first));
    harness.crash();
    harness.abort_next();
    let (swift, tortoise) = (CARRIERS[0], CARRIERS[1]);
    hear(
        &mut *harness,
        &[
            (swift, &first, 0, PICKED_UP),
            (swift, &first, 0, DELIVERED),
            (swift, &first, 0, PICKED_UP),
            (tortoise, &first, 2, PICKED_UP),
            (tortoise, &others[1], 0, PICKED_UP),
        ],
    );
    let mut again = answers_to(&first);
    again.push(answer(first.shipment(1, 1), OutcomeKind::Accepted));
    harness.report(again);
    harness.settle_down();
    let after = harness.events();
    assert!(before.iter().all(|told| after.contains(told)), "told again otherwise: {before:?} {after:?}");
    let mut kinds = told_of(&after, &first);
    // Which comes first of words that came in different ways is the engine's affair.
    kinds[4..].sort_unstable();
    assert_eq!(kinds[4..], ["settled", "tracked", "tracked", "tracked"]);
    assert_eq!(told_of(&after, &others[0]), ["accepted"]);
    assert_eq!(told_of(&after, &others[1]), ["accepted", "tracked"]);

    // A request that was acknowledged and then refused, where that can happen.
    harness.spill();
    harness.abort_next();
    let taken =
        [Order { skus: vec!["c1".into()], ..first.clone() }, Order { skus: vec!["c0".into()], ..first.clone() }];
    receipts(&mut *harness, &taken);
    harness.spill();
    harness.report(vec![answer(others[1].shipment(0, 0), OutcomeKind::Accepted)]);
    receipts(&mut *harness, &taken[..1]);
    let kinds = told_of(&harness.events(), &first);
    assert_eq!(kinds.iter().any(|kind| kind == "conflicted"), !harness.knows_repetitions(), "{kinds:?}");
    assert_eq!(told_of(&harness.events(), &others[1]), ["accepted", "tracked", "settled"]);
}
