//! Stored bytes of every version, frozen: what is written today equals them, and what they say is still read.
//!
//! A format that changes gets a new version and new files beside the old ones. The files are made by
//! `cargo test -p sluice-schemas regenerate -- --ignored`; a change to an existing file means that stored data of
//! yesterday would be read differently.

use std::{fmt::Write as _, path::PathBuf};

use crate::{
    delta::{Delta, Item, Items, Requested},
    order::{Head, Line, OrderRef, ShipTo, put_head, put_line},
    outcome::{Outcome, OutcomeKind},
    wire::Reader,
};

const ID: u128 = 1_794_268_800_123 << 80 | 777 << 64 | 0x0123_4567_89ab_cdef;

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")).join(name)
}

fn frozen(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn lines() -> [Line<'static>; 2] {
    [
        Line { sku: "1029743", title: "YOGURT | 6 OZ", quantity: 2, unit_price: 129 },
        Line { sku: "ä-1", title: "", quantity: 1_000, unit_price: 1_000_000_000 },
    ]
}

fn ship_to() -> ShipTo<'static> {
    ShipTo { name: "Ada Lovelace", street: "Main St 1", city: "São Paulo", postal_code: "01000-000", country: "BR" }
}

fn order() -> Vec<u8> {
    let mut out = Vec::new();
    let head = Head {
        id: ID,
        fingerprint_high: 0xfedc_ba98_7654_3309,
        accepted_at_ms: 1_794_268_800_456,
        merchant: "m-1",
        customer: "c-77",
        currency: "USD",
        ship_to: ship_to(),
        lines: 2,
    };
    put_head(&mut out, &head);
    lines().iter().for_each(|line| put_line(&mut out, line));
    out
}

fn outcome() -> Outcome<'static> {
    Outcome {
        order: ID,
        parcel: 1,
        attempt: 2,
        kind: OutcomeKind::Rejected,
        at_ms: 1_794_268_799_999,
        carrier: "swift",
        text: "too heavy ⚖",
    }
}

const WHOLE: [Item; 2] = [Item { line: 0, quantity: None }, Item { line: 300, quantity: None }];
const PARTS: [Item; 2] = [Item { line: 0, quantity: Some(1) }, Item { line: 1, quantity: Some(500) }];

/// Every kind of delta by the name of its file, with its time.
fn with_deltas(each: &mut dyn FnMut(&str, i64, Delta<'_>)) {
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    Items::encode(&WHOLE, &mut whole);
    Items::encode(&PARTS, &mut parts);
    let read = |bytes| Items::read(&mut Reader::new(bytes)).unwrap();
    let first = Requested {
        parcel: 0,
        attempt: 0,
        handling: 1,
        carrier: "swift",
        weight_g: 1_250,
        items: read(&whole),
        order_position: None,
    };
    let again = Requested { parcel: 199, attempt: 7, items: read(&parts), order_position: Some(1 << 40), ..first };
    each("accepted", 333, Delta::Accepted { position: 53 });
    each("classified", 340, Delta::Classified { parcels: 3, rules: 20_261_101 });
    each("requested", 340, Delta::Requested(first));
    each("requested-again", 90_000, Delta::Requested(again));
    let text = "T-0123456789";
    each("settled", -5, Delta::Settled { parcel: 0, attempt: 0, outcome: OutcomeKind::Accepted, text });
    each("dead-lettered-parcel", 99, Delta::DeadLettered { parcel: Some(0), rules: 7, reason: "nobody takes it" });
    each("dead-lettered-order", 99, Delta::DeadLettered { parcel: None, rules: 7, reason: "" });
    each("conflicted", 777, Delta::Conflicted { order: ID + 1 });
    each("merchant", 333, Delta::Merchant { id: "m-1" });
    each("packed", 340, Delta::Packed { parcel: 2, handling: 4, weight_g: 60_000, items: read(&parts) });
}

/// Each file with the bytes written for it today.
fn written() -> Vec<(String, Vec<u8>)> {
    let mut all = vec![("order-v1.bin".to_owned(), order()), ("outcome-v1.bin".to_owned(), Vec::new())];
    outcome().encode(&mut all[1].1);
    with_deltas(&mut |name, late, delta| {
        let mut bytes = Vec::new();
        delta.encode(late, &mut bytes);
        all.push((format!("delta-{name}-v1.bin"), bytes));
    });
    let damaged = damaged(&all);
    all.push(("records-damaged-v1.txt".to_owned(), damaged.into_bytes()));
    all
}

/// What is said of each file when it is cut short at each byte, and when its first byte is another.
fn damaged(files: &[(String, Vec<u8>)]) -> String {
    let read = |name: &str, bytes: &[u8]| -> String {
        let result = match name.split('-').next() {
            Some("order") => OrderRef::decode(bytes).and_then(|o| o.lines().try_for_each(|l| l.map(|_| ()))),
            Some("outcome") => Outcome::decode(bytes).map(|_| ()),
            _ => Delta::read(&mut Reader::new(bytes)).map(|_| ()),
        };
        result.map_or_else(|e| e.to_string(), |()| "reads".into())
    };
    let mut out = String::new();
    for (name, bytes) in files {
        for cut in 0..bytes.len() {
            writeln!(out, "{name} cut to {cut} bytes: {}", read(name, &bytes[..cut])).unwrap();
        }
        let mut other = bytes.clone();
        other[0] = 0xee;
        writeln!(out, "{name} with first byte 238: {}", read(name, &other)).unwrap();
    }
    out
}

#[test]
fn what_is_written_today_equals_what_was_frozen() {
    for (name, bytes) in written() {
        assert_eq!(frozen(&name), bytes, "{name}");
    }
}

#[test]
fn what_was_frozen_is_still_read() {
    let bytes = frozen("order-v1.bin");
    let order = OrderRef::decode(&bytes).unwrap();
    assert_eq!((order.id, order.fingerprint()), (ID, 0xfedc_ba98_7654_3309_0123_4567_89ab_cdef));
    assert_eq!((order.placed_at_ms(), order.accepted_at_ms), (1_794_268_800_123, 1_794_268_800_456));
    assert_eq!((order.merchant, order.customer, order.currency), ("m-1", "c-77", "USD"));
    assert_eq!(order.ship_to, ship_to());
    assert_eq!(order.lines().map(Result::unwrap).collect::<Vec<_>>(), lines());
    assert_eq!(Outcome::decode(&frozen("outcome-v1.bin")), Ok(outcome()));
    with_deltas(&mut |name, late, delta| {
        let bytes = frozen(&format!("delta-{name}-v1.bin"));
        let mut r = Reader::new(&bytes);
        assert_eq!(Delta::read(&mut r), Ok((late, delta)), "{name}");
        assert!(r.is_empty(), "{name}");
        match delta {
            Delta::Packed { items, .. } => assert_eq!(items.iter().collect::<Vec<_>>(), PARTS),
            Delta::Requested(r) if r.attempt == 0 => assert_eq!(r.items.iter().collect::<Vec<_>>(), WHOLE),
            _ => {}
        }
    });
}

#[test]
#[ignore = "writes the fixtures; run it when a format gets a new version"]
fn regenerate() {
    for (name, bytes) in written() {
        std::fs::write(path(&name), bytes).unwrap();
    }
}
