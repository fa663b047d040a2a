//! Stored bytes of every version, frozen: what is written today equals them, and what they say is still read.
//!
//! A format that changes gets a new version and new files beside the old ones. The files are made by
//! `cargo test -p sluice-schemas regenerate -- --ignored`, which adds what is missing and refuses to change a file that
//! exists: stored data of yesterday would be read differently.

use std::{
    fmt::Write as _,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{
    CodecError,
    command::{Command, Keep, Lines, ReturnLine, Verdict, Wish},
    delta::{Delta, FIRST_RETURN, Item, Items, Requested, Weight},
    frame::{self, Decision, Input, Place, Shipment},
    milestone::Milestone,
    order::{Head, Line, OrderRef, ShipTo, put_head, put_line},
    outcome::{Outcome, OutcomeKind},
    wire::Reader,
    word::{Progress, Tracked, Word},
};

const ID: u128 = 1_794_268_800_123 << 80 | 777 << 64 | 0x0123_4567_89ab_cdef;

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")).join(name)
}

fn frozen(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Writes a file that is missing; one that exists stays as it was released.
pub(crate) fn freeze(path: &Path, bytes: &[u8]) {
    let name = path.display();
    match std::fs::read(path) {
        Ok(old) => assert!(old == bytes, "frozen: {name} differs; a released format never changes, add a new version"),
        Err(e) if e.kind() == ErrorKind::NotFound => std::fs::write(path, bytes).unwrap(),
        Err(e) => panic!("{name}: {e}"),
    }
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

fn tracked() -> Tracked<'static> {
    let progress = Progress::Reached(Milestone::OutForDelivery);
    Tracked {
        order: ID, parcel: 1, attempt: 2, progress, at_ms: 1_794_355_199_999, carrier: "swift", text: "van 7 ⚖"
    }
}

/// The delta that follows from it, with its time.
fn tracked_delta() -> (i64, Delta<'static>) {
    let Tracked { parcel, attempt, progress, text, .. } = tracked();
    (86_399_876, Delta::Tracked { parcel, attempt, progress, text })
}

/// Commands by the names of their files.
fn commands() -> [(&'static str, Command<'static>); 4] {
    let mut lines = Vec::new();
    Lines::encode(&[ReturnLine { quantity: 0, ordered: 2 }, ReturnLine { quantity: 500, ordered: 1_000 }], &mut lines);
    let lines = Lines::read(&mut Reader::new(lines.leak())).unwrap();
    let cancel = Command { order: ID, id: 0x0102_0304_0506_0708, at_ms: 1_794_268_900_000, wish: Wish::Cancel };
    let wish = Wish::Return { reason: "does not fit ⌂", lines };
    let back = Command { id: u64::MAX, at_ms: 1_794_355_199_999, wish, ..cancel };
    [
        ("cancel", cancel),
        ("return", back),
        ("replay", Command { wish: Wish::Replay { by: "operator 1f2e3d4c" }, ..back }),
        (
            "review",
            Command {
                wish: Wish::Review { parcel: 199, handling: 5, keep: Keep::Rule, by: "operator 1f2e3d4c" },
                ..back
            },
        ),
    ]
}

/// Deltas that follow from commands, or came later than the rest, by the names of their files, with their times.
fn commanded() -> [(&'static str, i64, Delta<'static>); 9] {
    let (reason, command, by) = ("does not fit ⌂", u64::MAX, "operator 1f2e3d4c");
    let mut parts = Vec::new();
    Items::encode(&PARTS, &mut parts);
    let items = Items::read(&mut Reader::new(parts.leak())).unwrap();
    [
        ("classified-by-model", 340, Delta::Classified { parcels: 3, rules: 20_261_101, model: 1_234_567 }),
        ("held", 340, Delta::Held { parcel: 2, handling: 7, confidence: 41, weight: Weight::known(1_250), items }),
        ("commanded", 99_877, Delta::Commanded { id: 0x0102_0304_0506_0708, verdict: Verdict::NotReturnable }),
        (
            "return",
            86_399_876,
            Delta::Return { parcel: FIRST_RETURN, source: 3, units: 1_002, command: u64::MAX, reason },
        ),
        ("replayed-parcel", 86_399_876, Delta::Replayed { parcel: Some(199), replay: 2, attempt: 8, command, by }),
        ("replayed-order", 86_399_876, Delta::Replayed { parcel: None, replay: 1, attempt: 0, command, by }),
        ("reviewed", 3_600_000, Delta::Reviewed { parcel: 199, handling: Some(0), keep: Keep::Row, command, by }),
        ("withdrawn", 3_600_000, Delta::Reviewed { parcel: 199, handling: None, keep: Keep::No, command, by: "" }),
        (
            "dead-lettered-again",
            86_399_876,
            Delta::DeadLettered { parcel: Some(199), rules: 7, reason: "nobody takes it", replay: 2 },
        ),
    ]
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
        weight: Weight::known(1_250),
        items: read(&whole),
        order_position: None,
    };
    let again = Requested { parcel: 199, attempt: 7, items: read(&parts), order_position: Some(1 << 40), ..first };
    each("accepted", 333, Delta::Accepted { position: 53 });
    each("classified", 340, Delta::Classified { parcels: 3, rules: 20_261_101, model: 0 });
    each("requested", 340, Delta::Requested(first));
    each("requested-again", 90_000, Delta::Requested(again));
    let text = "T-0123456789";
    each("settled", -5, Delta::Settled { parcel: 0, attempt: 0, outcome: OutcomeKind::Accepted, text });
    each(
        "dead-lettered-parcel",
        99,
        Delta::DeadLettered { parcel: Some(0), rules: 7, reason: "nobody takes it", replay: 0 },
    );
    each("dead-lettered-order", 99, Delta::DeadLettered { parcel: None, rules: 7, reason: "", replay: 0 });
    each("conflicted", 777, Delta::Conflicted { order: ID + 1 });
    each("merchant", 333, Delta::Merchant { id: "m-1" });
    each("packed", 340, Delta::Packed { parcel: 2, handling: 4, weight: Weight::known(60_000), items: read(&parts) });
}

/// Of every frame; its bytes differ, so that their order shows.
const EPOCH: u16 = 0x0102;
const KINDS: [OutcomeKind; 4] =
    [OutcomeKind::Unknown, OutcomeKind::GivenUp, OutcomeKind::Rejected, OutcomeKind::Accepted];

/// An order, an outcome of each kind, and an entry without bytes.
fn inputs() -> Vec<Input<'static>> {
    let outcomes = KINDS.map(|kind| {
        let mut out = Vec::new();
        let text = if kind == OutcomeKind::Unknown { "" } else { "T-1" };
        Outcome { kind, text, ..outcome() }.encode(&mut out);
        Input::Word(out.leak())
    });
    [Input::Placed(order().leak())].into_iter().chain(outcomes).chain([Input::Placed(&[])]).collect()
}

fn decisions() -> [Decision<'static>; 5] {
    let (source, last) = (Place::new(3, 77, 5), Place::new(1_023, (1 << 40) - 1, frame::MAX_ENTRIES - 1));
    let (record, mut first, mut long): (&[u8], _, _) = (order().leak(), Vec::new(), Vec::new());
    Delta::Accepted { position: source.0 }.encode(333, &mut first);
    Delta::DeadLettered { parcel: None, rules: 7, reason: &"long ".repeat(40), replay: 0 }.encode(340, &mut long);
    [
        Decision::Barrier { token: *b"0123456789abcdef" },
        Decision::New { source, record, deltas: first.leak() },
        Decision::Added { source: last, order: ID, deltas: long.leak() },
        Decision::New { source: Place(0), record: &[], deltas: &[] },
        Decision::Added { source: Place(0), order: u128::MAX, deltas: &[] },
    ]
}

/// One of whole lines, one of parts of lines, one of nothing.
fn shipments() -> [Shipment<'static>; 3] {
    let items = |items: &[Item]| {
        let mut out = Vec::new();
        Items::encode(items, &mut out);
        Items::read(&mut Reader::new(out.leak())).unwrap()
    };
    let record = order().leak();
    let whole =
        Shipment { parcel: 0, attempt: 1, handling: 2, weight: Weight::known(1_250), items: items(&WHOLE), record };
    let parts = Shipment {
        parcel: 199,
        attempt: 255,
        handling: 5,
        weight: Weight::known(u32::MAX),
        items: items(&PARTS),
        ..whole
    };
    [whole, parts, Shipment { weight: Weight::known(0), items: items(&[]), ..whole }]
}

/// Deltas of parcels whose weight is an estimate, by the names of their files, with their times.
fn guessed() -> [(&'static str, i64, Delta<'static>); 2] {
    let Shipment { parcel, attempt, handling, weight, items, .. } = guessed_shipment();
    let requested =
        Requested { parcel, attempt, handling, carrier: "swift", weight, items, order_position: Some(1 << 40) };
    [
        ("requested-estimated", 340, Delta::Requested(requested)),
        ("packed-estimated", 340, Delta::Packed { parcel, handling, weight, items }),
    ]
}

/// A shipment whose weight is an estimate.
fn guessed_shipment() -> Shipment<'static> {
    Shipment { weight: Weight { grams: 60_000, estimated: true }, ..shipments()[1] }
}

/// Frames by the names of their files.
fn frames() -> [(&'static str, Vec<u8>); 4] {
    let start = || {
        let mut out = Vec::new();
        frame::start(&mut out, EPOCH);
        out
    };
    let mut all = ["empty", "orders", "decisions", "shipments"].map(|name| (name, start()));
    for input in inputs() {
        match input {
            Input::Placed(record) => frame::put_placed(&mut all[1].1, record),
            Input::Word(word) => frame::put_word(&mut all[1].1, word),
        }
    }
    decisions().iter().for_each(|d| d.put(&mut all[2].1));
    shipments().iter().for_each(|s| s.put(&mut all[3].1));
    all
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
    // What is added from here on isn't in that file, which is frozen too.
    all.extend(frames().map(|(name, bytes)| (format!("frame-{name}-v1.bin"), bytes)));
    let (mut word, mut bytes) = (Vec::new(), Vec::new());
    tracked().encode(&mut word);
    tracked_delta().1.encode(tracked_delta().0, &mut bytes);
    all.extend([("tracked-v1.bin".to_owned(), word), ("delta-tracked-v1.bin".to_owned(), bytes)]);
    for (name, command) in commands() {
        let mut word = Vec::new();
        command.encode(&mut word);
        all.push((format!("command-{name}-v1.bin"), word));
    }
    for (name, late, delta) in commanded() {
        let mut bytes = Vec::new();
        delta.encode(late, &mut bytes);
        all.push((format!("delta-{name}-v1.bin"), bytes));
    }
    for (name, late, delta) in guessed() {
        let mut bytes = Vec::new();
        delta.encode(late, &mut bytes);
        all.push((format!("delta-{name}-v1.bin"), bytes));
    }
    let mut frame = Vec::new();
    frame::start(&mut frame, EPOCH);
    guessed_shipment().put(&mut frame);
    all.push(("frame-shipments-estimated-v1.bin".to_owned(), frame));
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
    assert_eq!(Word::decode(&frozen("outcome-v1.bin")), Ok(Word::Outcome(outcome())));
    assert_eq!(Word::decode(&frozen("tracked-v1.bin")), Ok(Word::Tracked(tracked())));
    assert_eq!(Delta::read(&mut Reader::new(&frozen("delta-tracked-v1.bin"))), Ok(tracked_delta()));
    for (name, command) in commands() {
        assert_eq!(Word::decode(&frozen(&format!("command-{name}-v1.bin"))), Ok(Word::Command(command)));
    }
    for (name, late, delta) in commanded() {
        assert_eq!(Delta::read(&mut Reader::new(&frozen(&format!("delta-{name}-v1.bin")))), Ok((late, delta)));
    }
    for (name, late, delta) in guessed() {
        assert_eq!(Delta::read(&mut Reader::new(&frozen(&format!("delta-{name}-v1.bin")))), Ok((late, delta)));
    }
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

/// The entries of a frame, if it is of the right epoch.
fn entries<T>(read: Result<(u16, impl Iterator<Item = Result<T, CodecError>>), CodecError>) -> Vec<T> {
    let (epoch, entries) = read.unwrap();
    assert_eq!(epoch, EPOCH);
    entries.map(Result::unwrap).collect()
}

#[test]
fn frozen_frames_are_still_read() {
    let [empty, orders, decided, shipped] = frames().map(|(name, _)| frozen(&format!("frame-{name}-v1.bin")));
    assert_eq!(entries(frame::inputs(&empty)), []);
    assert_eq!(entries(frame::decisions(&empty)), []);
    assert_eq!(entries(frame::shipments(&empty)), []);

    let read = entries(frame::inputs(&orders));
    assert_eq!(read, inputs());
    let outcomes = read.iter().filter_map(|i| if let Input::Word(o) = i { Some(*o) } else { None });
    assert!(outcomes.map(|o| Outcome::decode(o).unwrap().kind).eq(KINDS));

    let read = entries(frame::decisions(&decided));
    assert_eq!(read, decisions());
    let Decision::New { source, deltas, .. } = read[1] else { panic!("{:?}", read[1]) };
    assert_eq!((source.partition(), source.offset(), source.entry()), (3, 77, 5));
    assert_eq!(Delta::read(&mut Reader::new(deltas)), Ok((333, Delta::Accepted { position: source.0 })));

    assert_eq!(entries(frame::shipments(&frozen("frame-shipments-estimated-v1.bin"))), [guessed_shipment()]);
    let read = entries(frame::shipments(&shipped));
    assert_eq!(read, shipments());
    for (shipment, items) in read.iter().zip([&WHOLE[..], &PARTS, &[]]) {
        assert_eq!((shipment.order(), shipment.items.iter().collect::<Vec<_>>()), (Ok(ID), items.to_vec()));
    }
}

#[test]
fn a_file_that_exists_is_never_changed() {
    let path = std::env::temp_dir().join(format!("sluice-frozen-{}", std::process::id()));
    freeze(&path, b"released");
    freeze(&path, b"released");
    let refused = std::panic::catch_unwind(|| freeze(&path, b"another")).unwrap_err();
    let stays = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(stays, b"released");
    assert!(refused.downcast::<String>().unwrap().starts_with(&format!("frozen: {} differs", path.display())));
}

#[test]
#[ignore = "writes the fixtures; run it when a format gets a new version"]
fn regenerate() {
    for (name, bytes) in written() {
        freeze(&path(&name), &bytes);
    }
}
