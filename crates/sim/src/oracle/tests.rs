//! Each promise, broken on purpose in the smallest way, is named; and what is honest passes.

use std::collections::BTreeSet;

use sluice_domain::SlotCount;
use sluice_schemas::{
    delta::{Delta, Item, Items, Requested, Weight},
    order::{Head, ShipTo, put_head, put_line},
    outcome::OutcomeKind,
    wire::Reader,
};

use super::*;
use crate::{digest::Digest, ledger::Asked};

const AT: u64 = 1_000_000;

/// SKU "n" is no goods, "f" is frozen, anything else ambient.
fn oracle() -> Oracle {
    Oracle::new(
        Box::new(|line| match line.sku {
            "n" => None,
            "f" => Some(Group::Frozen),
            _ => Some(Group::Ambient),
        }),
        false,
    )
}

fn record(key: &str, skus: &[&str]) -> Vec<u8> {
    let fingerprint = Fingerprint::of("m", key);
    let ship_to = ShipTo { name: "N", street: "S", city: "C", postal_code: "1", country: "DE" };
    let head = Head {
        id: OrderId::new(AT, fingerprint, SlotCount::DEFAULT).0,
        fingerprint_high: fingerprint.high(),
        accepted_at_ms: AT,
        merchant: "m",
        customer: "c",
        currency: "USD",
        ship_to,
        lines: skus.len(),
    };
    let mut out = Vec::new();
    put_head(&mut out, &head);
    skus.iter().for_each(|sku| put_line(&mut out, &Line { sku, title: "t", quantity: 3, unit_price: 1 }));
    out
}

fn id_of(record: &[u8]) -> OrderId {
    OrderId(OrderRef::decode(record).unwrap().id)
}

fn row(deltas: &[Delta<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    deltas.iter().for_each(|d| d.encode(5, &mut out));
    out
}

const ACCEPTED: Delta<'static> = Delta::Accepted { position: 1 };

fn classified(parcels: u8) -> Delta<'static> {
    Delta::Classified { parcels, rules: 1, model: 0 }
}

fn items(lines: &[u16]) -> Vec<u8> {
    let items: Vec<Item> = lines.iter().map(|&line| Item { line, quantity: None }).collect();
    let mut out = Vec::new();
    Items::encode(&items, &mut out);
    out
}

fn asks<'a>(parcel: u8, attempt: u8, carrier: &'a str, group: Group, items: &'a [u8]) -> Delta<'a> {
    let items = Items::read(&mut Reader::new(items)).unwrap();
    let handling = group as u8;
    Delta::Requested(Requested {
        parcel,
        attempt,
        handling,
        carrier,
        weight: Weight::known(1),
        items,
        order_position: None,
    })
}

fn settled(attempt: u8, outcome: OutcomeKind, text: &str) -> Delta<'_> {
    Delta::Settled { parcel: 0, attempt, outcome, text }
}

fn ledger(name: &str) -> Ledger {
    Ledger { carrier: name.to_owned(), ..Ledger::default() }
}

/// The carrier is asked for one parcel of `record` with the given lines, and takes it if `number` is given.
fn asked(ledger: &mut Ledger, record: &[u8], attempt: u8, lines: &[u16], number: Option<&str>) {
    let shipment = ShipmentId { order: id_of(record), parcel: 0, attempt };
    ledger.calls.push(Call { at_ms: AT, manifest: "mf".to_owned(), shipments: vec![shipment] });
    if let Some(number) = number {
        let body = Some(Digest::of(OrderRef::decode(record).unwrap().body()));
        let items = Some(lines.iter().map(|&line| Item { line, quantity: None }).collect());
        let asked = Asked { shipment, items, body };
        let (manifest, tracking_number) = ("mf".to_owned(), number.to_owned());
        ledger.effects.push(Effect { at_ms: AT, manifest, asked, tracking_number });
    }
}

/// The verdict on one acknowledged order stored as `row`.
fn verdict(record: &[u8], row: Vec<u8>, ledgers: &[&Ledger]) -> Result<Counts, Violation> {
    let mut oracle = oracle();
    let no = oracle.sent(record).unwrap();
    oracle.answered(no, Receipt::Accepted)?;
    judge(&mut oracle, record, Some(row), ledgers)
}

fn judge(oracle: &mut Oracle, record: &[u8], row: Option<Vec<u8>>, ledgers: &[&Ledger]) -> Result<Counts, Violation> {
    oracle.judge(ledgers, &mut |_| Ok(row.clone().map(|row| StoredOrder { row, record: record.to_vec() })))
}

#[track_caller]
fn breaks<T: std::fmt::Debug>(result: Result<T, Violation>, invariant: Invariant) {
    assert_eq!(result.unwrap_err().invariant, invariant);
}

#[test]
fn an_honest_order_passes_and_is_counted() {
    let record = record("k", &["a", "n"]);
    let mut a = ledger("a");
    asked(&mut a, &record, 0, &[0], Some("a-0"));
    let lines = items(&[0]);
    let deltas =
        [ACCEPTED, classified(1), asks(0, 0, "a", Group::Ambient, &lines), settled(0, OutcomeKind::Accepted, "a-0")];
    let counts = verdict(&record, row(&deltas), &[&a]).unwrap();
    assert_eq!(counts, Counts { acknowledged: 1, stored: 1, finished: 1, ..Counts::default() });
}

#[test]
fn a_lost_or_changed_order_is_durable_before_ack() {
    let mine = record("k", &["a"]);
    let mut o = oracle();
    let no = o.sent(&mine).unwrap();
    assert_eq!(judge(&mut o, &mine, None, &[]).unwrap(), Counts::default());
    o.answered(no, Receipt::Accepted).unwrap();
    breaks(judge(&mut o, &mine, None, &[]), Invariant::DurableBeforeAck);
    breaks(judge(&mut o, &record("k", &["b"]), Some(row(&[ACCEPTED])), &[]), Invariant::DurableBeforeAck);
    let error = o.judge(&[], &mut |_| Err(LogError::Closed));
    breaks(error, Invariant::DurableBeforeAck);
}

#[test]
fn an_order_once_read_stays_readable() {
    let mine = record("k", &["a"]);
    let mut o = oracle();
    o.sent(&mine).unwrap();
    judge(&mut o, &mine, Some(row(&[ACCEPTED])), &[]).unwrap();
    breaks(judge(&mut o, &mine, None, &[]), Invariant::DurableBeforeAck);
}

#[test]
fn a_refused_order_must_not_be_kept() {
    let mine = record("k", &["a"]);
    let mut o = oracle();
    let no = o.sent(&mine).unwrap();
    o.answered(no, Receipt::Busy { retry_after_s: 1, reason: "full" }).unwrap();
    breaks(judge(&mut o, &mine, Some(row(&[ACCEPTED])), &[]), Invariant::Conservation);
    let again = o.sent(&mine).unwrap();
    judge(&mut o, &mine, Some(row(&[ACCEPTED])), &[]).unwrap();
    breaks(o.answered(again, Receipt::Busy { retry_after_s: 0, reason: "full" }), Invariant::Bounded);
}

#[test]
fn answers_to_repeated_requests_are_checked() {
    let (mine, other) = (record("k", &["a"]), record("k", &["b"]));
    let busy = Receipt::Busy { retry_after_s: 1, reason: "full" };
    let run = |steps: &[(&[u8], Receipt)]| {
        let mut o = oracle();
        steps.iter().try_for_each(|(record, receipt)| {
            let no = o.sent(record).unwrap();
            o.answered(no, *receipt)
        })
    };
    run(&[(&mine, Receipt::Accepted), (&mine, Receipt::Replayed), (&other, Receipt::Conflict)]).unwrap();
    run(&[(&mine, busy), (&mine, Receipt::Accepted), (&mine, Receipt::Replayed)]).unwrap();
    breaks(run(&[(&mine, Receipt::Accepted), (&mine, Receipt::Accepted)]), Invariant::OneEffect);
    breaks(run(&[(&mine, Receipt::Replayed)]), Invariant::DurableBeforeAck);
    breaks(run(&[(&mine, busy), (&mine, Receipt::Replayed)]), Invariant::DurableBeforeAck);
    breaks(run(&[(&mine, Receipt::Conflict)]), Invariant::DurableBeforeAck);
    breaks(run(&[(&mine, Receipt::Accepted), (&mine, Receipt::Conflict)]), Invariant::DurableBeforeAck);
    breaks(run(&[(&mine, Receipt::Accepted), (&other, Receipt::Replayed)]), Invariant::DurableBeforeAck);
}

#[test]
fn a_request_in_doubt_may_have_been_kept_or_not() {
    let (mine, other) = (record("k", &["a"]), record("k", &["b"]));
    let mut o = oracle();
    o.sent(&mine).unwrap();
    let again = o.sent(&mine).unwrap();
    let another = o.sent(&other).unwrap();
    o.answered(again, Receipt::Replayed).unwrap();
    o.answered(another, Receipt::Conflict).unwrap();
    let mut o = oracle();
    o.sent(&mine).unwrap();
    let again = o.sent(&mine).unwrap();
    let late = o.sent(&mine).unwrap();
    o.answered(late, Receipt::Replayed).unwrap();
    o.answered(again, Receipt::Accepted).unwrap();
    let last = o.sent(&mine).unwrap();
    breaks(o.answered(last, Receipt::Accepted), Invariant::OneEffect);
}

#[test]
fn a_status_that_goes_back_is_named() {
    let mine = record("k", &["n"]);
    let mut o = oracle();
    let no = o.sent(&mine).unwrap();
    o.answered(no, Receipt::Accepted).unwrap();
    let counts = judge(&mut o, &mine, Some(row(&[ACCEPTED, classified(0)])), &[]).unwrap();
    assert_eq!(counts.finished, 1);
    breaks(judge(&mut o, &mine, Some(row(&[ACCEPTED])), &[]), Invariant::MonotoneStatus);
}

#[test]
fn a_decided_order_stays_in_its_class() {
    let mine = record("k", &["n"]);
    let mut o = oracle();
    o.sent(&mine).unwrap();
    judge(&mut o, &mine, Some(row(&[ACCEPTED, classified(0)])), &[]).unwrap();
    let dead = Delta::DeadLettered { parcel: None, rules: 1, reason: "x", replay: 0 };
    breaks(judge(&mut o, &mine, Some(row(&[ACCEPTED, classified(0), dead])), &[]), Invariant::MonotoneStatus);
}

#[test]
fn a_split_keeps_every_item_in_its_group() {
    let mine = record("k", &["a", "f", "n"]);
    let (a, f, both, n) = (items(&[0]), items(&[1]), items(&[0, 1]), items(&[0, 2]));
    let split = |deltas: &[Delta<'_>]| verdict(&mine, row(&[&[ACCEPTED], deltas].concat()), &[]);
    let (ask_a, ask_f) = (asks(0, 0, "a", Group::Ambient, &a), asks(1, 0, "a", Group::Frozen, &f));
    assert_eq!(split(&[classified(2), ask_a, ask_f]).unwrap().in_flight, 1);
    let dead = Delta::DeadLettered { parcel: Some(1), rules: 1, reason: "nobody carries it", replay: 0 };
    assert_eq!(split(&[classified(2), ask_a, dead]).unwrap().in_flight, 1);
    breaks(split(&[classified(1), ask_a]), Invariant::Conservation);
    breaks(split(&[classified(1), ask_a, ask_f]), Invariant::Conservation);
    breaks(split(&[classified(1), asks(0, 0, "a", Group::Ambient, &both)]), Invariant::Conservation);
    breaks(split(&[classified(2), asks(0, 0, "a", Group::Ambient, &n), ask_f]), Invariant::Conservation);
    breaks(split(&[classified(2), ask_a, asks(1, 0, "a", Group::Ambient, &a)]), Invariant::Conservation);
    breaks(split(&[ask_a]), Invariant::Conservation);
}

#[test]
fn a_call_must_be_decided_and_for_that_carrier() {
    let mine = record("k", &["a"]);
    let lines = items(&[0]);
    let decided = row(&[ACCEPTED, classified(1), asks(0, 0, "a", Group::Ambient, &lines)]);
    let (mut a, mut b, mut next) = (ledger("a"), ledger("b"), ledger("a"));
    asked(&mut a, &mine, 0, &[0], None);
    asked(&mut b, &mine, 0, &[0], None);
    asked(&mut next, &mine, 1, &[0], None);
    verdict(&mine, decided.clone(), &[&a]).unwrap();
    breaks(verdict(&mine, decided.clone(), &[&b]), Invariant::DecideBeforeAct);
    breaks(verdict(&mine, decided.clone(), &[&next]), Invariant::DecideBeforeAct);
    breaks(verdict(&mine, row(&[ACCEPTED]), &[&a]), Invariant::DecideBeforeAct);
    let mut o = oracle();
    breaks(judge(&mut o, &mine, None, &[&a]), Invariant::DecideBeforeAct);
    o.sent(&mine).unwrap();
    breaks(judge(&mut o, &mine, None, &[&a]), Invariant::DecideBeforeAct);
    let shipments = &a.calls[0].shipments;
    let stored = StoredOrder { row: decided, record: mine };
    o.may_call("a", shipments, &mut |_| Ok(Some(stored.clone()))).unwrap();
    breaks(o.may_call("b", shipments, &mut |_| Ok(Some(stored.clone()))), Invariant::DecideBeforeAct);
    breaks(o.may_call("a", shipments, &mut |_| Ok(None)), Invariant::DecideBeforeAct);
}

#[test]
fn a_second_effect_is_named_unless_the_carrier_lied() {
    let mine = record("k", &["a"]);
    let lines = items(&[0]);
    let (mut a, mut b) = (ledger("a"), ledger("b"));
    asked(&mut a, &mine, 0, &[0], Some("a-0"));
    asked(&mut b, &mine, 1, &[0], Some("b-0"));
    let rerouted = row(&[
        ACCEPTED,
        classified(1),
        asks(0, 0, "a", Group::Ambient, &lines),
        settled(0, OutcomeKind::Rejected, "no"),
        asks(0, 1, "b", Group::Ambient, &lines),
        settled(1, OutcomeKind::Accepted, "b-0"),
    ]);
    breaks(verdict(&mine, rerouted.clone(), &[&a, &b]), Invariant::OneEffect);
    a.lied_about = BTreeSet::from([a.calls[0].shipments[0]]);
    assert_eq!(verdict(&mine, rerouted, &[&a, &b]).unwrap().finished, 1);
    let mut twice = ledger("a");
    asked(&mut twice, &mine, 0, &[0], Some("a-0"));
    asked(&mut twice, &mine, 0, &[0], Some("a-1"));
    let open = row(&[ACCEPTED, classified(1), asks(0, 0, "a", Group::Ambient, &lines)]);
    breaks(verdict(&mine, open, &[&twice]), Invariant::OneEffect);
}

#[test]
fn rows_and_ledgers_must_tell_the_same_story() {
    let mine = record("k", &["a"]);
    let lines = items(&[0]);
    let ask = asks(0, 0, "a", Group::Ambient, &lines);
    let with =
        |more: &[Delta<'_>], a: &Ledger| verdict(&mine, row(&[&[ACCEPTED, classified(1), ask], more].concat()), &[a]);
    let (mut took, mut refused, mut other) = (ledger("a"), ledger("a"), ledger("a"));
    asked(&mut took, &mine, 0, &[0], Some("a-0"));
    asked(&mut refused, &mine, 0, &[0], None);
    asked(&mut other, &mine, 0, &[0, 0], Some("a-0"));
    with(&[settled(0, OutcomeKind::Unknown, "")], &took).unwrap();
    breaks(with(&[settled(0, OutcomeKind::Accepted, "a-0")], &refused), Invariant::Conservation);
    breaks(with(&[settled(0, OutcomeKind::Accepted, "a-7")], &took), Invariant::Conservation);
    breaks(with(&[settled(0, OutcomeKind::GivenUp, "")], &took), Invariant::OneEffect);
    breaks(with(&[settled(0, OutcomeKind::Rejected, "")], &took), Invariant::OneEffect);
    breaks(with(&[], &other), Invariant::Conservation);
    breaks(with(&[settled(1, OutcomeKind::Rejected, "")], &refused), Invariant::OneEffect);
    let next = asks(0, 1, "a", Group::Ambient, &lines);
    breaks(with(&[settled(0, OutcomeKind::Unknown, ""), next], &refused), Invariant::OneEffect);
}

#[test]
fn at_rest_only_what_is_parked_may_be_in_flight() {
    let mine = record("k", &["a"]);
    let lines = items(&[0]);
    let ask = asks(0, 0, "a", Group::Ambient, &lines);
    let mut o = oracle();
    o.sent(&mine).unwrap();
    judge(&mut o, &mine, Some(row(&[ACCEPTED, classified(1), ask])), &[]).unwrap();
    breaks(o.at_rest(), Invariant::Conservation);
    let parked = row(&[ACCEPTED, classified(1), ask, settled(0, OutcomeKind::Unknown, "")]);
    let counts = judge(&mut o, &mine, Some(parked), &[]).unwrap();
    assert_eq!((counts.in_flight, counts.parked), (1, 1));
    o.at_rest().unwrap();
}

#[test]
fn torn_is_not_rot() {
    let o = oracle();
    let damaged = |file: &str, offset| LogError::Damaged { file: file.to_owned(), offset, what: "crc".to_owned() };
    let rot = Rot { file: "seg-1".to_owned(), offset: 5_000 };
    o.opened(Ok(()), None).unwrap();
    o.opened(Err(&LogError::Closed), None).unwrap();
    o.opened(Err(&damaged("journal/seg-1", 4_096)), Some(&rot)).unwrap();
    breaks(o.opened(Err(&damaged("seg-1", 0)), None), Invariant::TornIsNotRot);
    breaks(o.opened(Ok(()), Some(&rot)), Invariant::TornIsNotRot);
    breaks(o.opened(Err(&damaged("seg-2", 0)), Some(&rot)), Invariant::TornIsNotRot);
    breaks(o.opened(Err(&damaged("seg-1", 8_192)), Some(&rot)), Invariant::TornIsNotRot);
    let mine = record("k", &["a"]);
    breaks(verdict(&mine, vec![99], &[]), Invariant::TornIsNotRot);
}
