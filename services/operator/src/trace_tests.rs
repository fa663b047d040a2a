//! The whole trace of one eventful order, frozen; and what becomes of it when parts can't be read.

use serde_json::{Value, json};
use sluice_domain::{Fingerprint, SlotCount};
use sluice_schemas::{
    command::Verdict,
    delta::{Delta, FIRST_RETURN, Item, Items, Requested, VOID, Weight},
    milestone::Remark,
    order::{Head, ShipTo, put_head, put_line},
    word::Progress,
};

use super::*;

const AT: u64 = 1_794_355_200_000;

fn id() -> OrderId {
    OrderId::new(AT, Fingerprint::of("m-1", "k-1"), SlotCount::DEFAULT)
}

fn stored(deltas: &[(i64, Delta<'_>)]) -> StoredOrder {
    let ship_to = ShipTo { name: "Ada", street: "Mill Lane", city: "c", postal_code: "", country: "US" };
    let head = Head {
        id: id().0,
        fingerprint_high: Fingerprint::of("m-1", "k-1").high(),
        accepted_at_ms: AT + 5,
        merchant: "m-1",
        customer: "c-77",
        currency: "USD",
        ship_to,
        lines: 2,
    };
    let (mut record, mut row) = (Vec::new(), Vec::new());
    put_head(&mut record, &head);
    put_line(&mut record, &Line { sku: "x-0", title: "MILK", quantity: 7, unit_price: 129 });
    put_line(&mut record, &Line { sku: "x-1", title: "TEA", quantity: 1, unit_price: 300 });
    deltas.iter().for_each(|(late, delta)| delta.encode(*late, &mut row));
    StoredOrder { row, record }
}

fn items(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    Items::encode(items, &mut out);
    out
}

fn requested<'a>(parcel: u8, attempt: u8, carrier: &'a str, items: &'a [u8]) -> Delta<'a> {
    let items = Items::read(&mut sluice_schemas::wire::Reader::new(items)).unwrap();
    Delta::Requested(Requested {
        parcel,
        attempt,
        handling: 0,
        carrier,
        weight: Weight::known(1_250),
        items,
        order_position: None,
    })
}

fn settled(parcel: u8, attempt: u8, outcome: OutcomeKind, text: &str) -> Delta<'_> {
    Delta::Settled { parcel, attempt, outcome, text }
}

fn tracked(progress: Progress, text: &str) -> Delta<'_> {
    Delta::Tracked { parcel: 0, attempt: 1, progress, text }
}

/// Two parcels: one is turned down, taken by another carrier, delivered and comes back; the other is called off.
fn life<'a>(first: &'a [u8], second: &'a [u8], back: &'a [u8]) -> Vec<(i64, Delta<'a>)> {
    let done = |id| Delta::Commanded { id, verdict: Verdict::Done };
    let returned = Delta::Return { parcel: FIRST_RETURN, source: 0, units: 7, command: 2, reason: "too small" };
    vec![
        (5, Delta::Accepted { position: 4_136 }),
        (5, Delta::Classified { parcels: 2, rules: 3, model: 0 }),
        (5, requested(0, 0, "picky", first)),
        (5, requested(1, 0, "good", second)),
        (40, settled(0, 0, OutcomeKind::Rejected, "too round")),
        (40, requested(0, 1, "good", first)),
        (50, settled(1, 0, OutcomeKind::Accepted, "T-1")),
        (60, Delta::Commanded { id: 9, verdict: Verdict::NothingToCancel }),
        (90, settled(0, 1, OutcomeKind::Accepted, "T-0")),
        (95, Delta::Conflicted { order: id().0 }),
        (99, done(1)),
        (99, requested(1, VOID, "good", second)),
        (120, settled(1, VOID, OutcomeKind::Accepted, "")),
        (3_000, tracked(Progress::Reached(Milestone::Delivered), "with a neighbour")),
        // Told later, and earlier by the carrier's clock.
        (2_000, tracked(Progress::Remarked(Remark::OnHold), "")),
        (4_000, done(2)),
        (4_000, returned),
        (4_000, requested(FIRST_RETURN, 0, "good", back)),
    ]
}

fn shown(stored: &StoredOrder) -> Value {
    serde_json::to_value(trace(id(), stored)).unwrap()
}

fn contents() -> [Vec<u8>; 3] {
    let all = |line| Item { line, quantity: None };
    [items(&[all(0)]), items(&[all(1)]), items(&[Item { line: 0, quantity: Some(2) }])]
}

#[test]
fn the_trace_of_an_eventful_order_is_frozen() {
    let [first, second, back] = contents();
    let shown = shown(&stored(&life(&first, &second, &back)));
    if std::env::var_os("SLUICE_UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/trace_golden.json");
        std::fs::write(path, format!("{}\n", serde_json::to_string_pretty(&shown).unwrap())).unwrap();
    }
    let golden: Value = serde_json::from_str(include_str!("trace_golden.json")).unwrap();
    assert_eq!(shown, golden, "if this is meant, run it once with SLUICE_UPDATE_GOLDEN=1");
    for personal in ["Ada", "Mill", "MILK"] {
        assert!(!shown.to_string().contains(personal), "{personal}");
    }
}

#[test]
fn repetitions_add_nothing() {
    let [first, second, back] = contents();
    let life = life(&first, &second, &back);
    let mut twice = life.clone();
    // What one commit added stands together, wherever a replay has put it again.
    twice.extend_from_slice(&life[4..6]);
    twice.extend_from_slice(&life[10..12]);
    twice.extend_from_slice(&life);
    assert_eq!(shown(&stored(&twice)), shown(&stored(&life)));
}

#[test]
fn what_one_commit_wrote_down_may_stand_in_any_order() {
    let [first, second, back] = contents();
    let life = life(&first, &second, &back);
    let mut mixed = life.clone();
    // Two answers in one batch: first what both say, then what follows from them.
    mixed.swap(5, 6);
    mixed[4..7].iter_mut().for_each(|(late, _)| *late = 50);
    let mut apart = life;
    apart[4..7].iter_mut().for_each(|(late, _)| *late = 50);
    assert_eq!(shown(&stored(&mixed)), shown(&stored(&apart)));
}

#[test]
fn an_event_says_where_the_order_stood_after_it() {
    let [first, second, back] = contents();
    let shown = shown(&stored(&life(&first, &second, &back)));
    let statuses: Vec<_> = shown["events"].as_array().unwrap().iter().map(|event| &event["status"]).collect();
    let expected = [
        "carrier_requested", // accepted
        "carrier_requested", // turned down, and another asked
        "carrier_requested", // the other parcel taken
        "carrier_accepted",
        "carrier_accepted", // conflict
        "carrier_accepted", // cancel asked
        "carrier_accepted", // the other parcel is cancelled
        "delivered",
        "delivered", // a remark
        "delivered", // return asked
    ];
    assert_eq!(statuses, expected);
    let of_event = |n: u64| shown["hops"].as_array().unwrap().iter().filter(|hop| hop["event"] == n).count();
    assert_eq!([0, 1, 5, 9].map(of_event), [4, 2, 2, 3]);
}

#[test]
fn dead_letters_are_told_apart_from_what_a_carrier_took_after_all() {
    let [first, second, _] = contents();
    let dead = |parcel, reason| Delta::DeadLettered { parcel, rules: 3, reason, replay: 0 };
    let shown = shown(&stored(&[
        (5, Delta::Accepted { position: 1 }),
        (5, Delta::Classified { parcels: 2, rules: 3, model: 0 }),
        (5, requested(0, 0, "good", &first)),
        (5, requested(1, 0, "good", &second)),
        (9, settled(0, 0, OutcomeKind::GivenUp, "no answer")),
        (9, dead(Some(0), "given up")),
        (9, settled(1, 0, OutcomeKind::GivenUp, "no answer")),
        (9, dead(Some(1), "given up")),
        (20, settled(1, 0, OutcomeKind::Accepted, "T-1")),
    ]));
    assert_eq!((&shown["class"], &shown["status"]), (&json!("dead_lettered"), &json!("dead_lettered")));
    let standings: Vec<_> = shown["parcels"].as_array().unwrap().iter().map(|parcel| &parcel["standing"]).collect();
    assert_eq!(standings, ["dead_lettered", "accepted"]);
    assert_eq!(shown["parcels"][0]["dead_letter"]["reason"], "given up");
    assert_eq!(shown["parcels"][0]["attempts"][0]["reason"], "no answer");
}

#[test]
fn what_a_replay_has_decided_is_told_by_its_event() {
    let [first, ..] = contents();
    let all = Items::read(&mut sluice_schemas::wire::Reader::new(&first)).unwrap();
    let packed = Delta::Packed { parcel: 0, handling: 1, weight: Weight { grams: 5, estimated: true }, items: all };
    let dead = |replay| Delta::DeadLettered { parcel: Some(0), rules: 3, reason: "nobody", replay };
    let again = Delta::Replayed { parcel: Some(0), replay: 1, attempt: 0, command: 7, by: "operator" };
    let shown = shown(&stored(&[
        (5, Delta::Accepted { position: 1 }),
        (5, Delta::Classified { parcels: 1, rules: 3, model: 0 }),
        (5, packed),
        (5, dead(0)),
        (90, Delta::Commanded { id: 7, verdict: Verdict::Done }),
        (90, again),
        (90, packed),
        (90, dead(1)),
    ]));
    let told: Vec<_> = shown["hops"].as_array().unwrap().iter().map(|hop| (&hop["what"], &hop["event"])).collect();
    let by_replay: Vec<_> = told.iter().filter(|(_, event)| **event == 1).map(|(kind, _)| *kind).collect();
    assert_eq!(told.len() - by_replay.len(), 4, "{told:?}");
    assert_eq!(by_replay, ["commanded", "replayed", "packed", "dead_lettered"], "{told:?}");
}

#[test]
fn what_can_be_read_is_shown() {
    let reason = Delta::DeadLettered { parcel: None, rules: 3, reason: "order is malformed", replay: 0 };
    let poison = [(5, Delta::Accepted { position: 1 }), (5, Delta::Merchant { id: "m-9" }), (5, reason)];
    let mut stored = stored(&poison);
    stored.record.truncate(20);
    let shown_of = |stored: &StoredOrder| shown(stored);
    let shown = shown_of(&stored);
    assert_eq!(shown["unreadable"], "record: fingerprint is malformed or cut short");
    assert_eq!((&shown["merchant"], &shown["customer"]), (&json!("m-9"), &Value::Null));
    assert_eq!(shown["dead_letter"]["reason"], "order is malformed");
    stored.row.push(99);
    let shown = shown_of(&stored);
    assert!(shown["unreadable"].as_str().unwrap().ends_with("; row: delta time is malformed or cut short"), "{shown}");
    assert_eq!(shown["hops"].as_array().unwrap().len(), 3);
    let [first, ..] = contents();
    stored.row.clear();
    requested(0, 0, "good", &first).encode(5, &mut stored.row);
    assert_eq!(shown_of(&stored)["parcels"][0]["items"], json!([{"line": 0, "sku": null, "quantity": null}]));
}
