//! Orders and decisions for the tests of the events, with what a reader must find in them.

use super::{
    Encoded, EventType, encode_accepted, encode_cancel, encode_conflict, encode_dead_lettered, encode_replayed,
    encode_return, encode_reviewed, encode_settled, encode_tracked, order_id_text,
    read::{self, Change, OrderEvent},
};
use crate::{
    command::{Keep, Verdict},
    delta::{Delta, FIRST_RETURN, Item, Items, Requested, VOID, Weight},
    milestone::Milestone,
    order::{Head, Line, OrderRef, ShipTo, placed_at_ms, put_head, put_line},
    outcome::OutcomeKind,
    wire::Reader,
    word::Progress,
};

pub(super) const ID: u128 = 1_794_268_800_123 << 80 | 777 << 64 | 0x0123_4567_89ab_cdef;

/// A record of an order with these lines, taken 333 ms after it was placed.
pub(super) fn record(
    id: u128,
    [merchant, customer, currency, country]: [&str; 4],
    lines: &[(&str, u32, u64)],
) -> Vec<u8> {
    let head = Head {
        id,
        fingerprint_high: 9,
        accepted_at_ms: placed_at_ms(id) + 333,
        merchant,
        customer,
        currency,
        ship_to: ShipTo {
            name: "SECRET NAME",
            street: "SECRET STREET",
            city: "SECRET",
            postal_code: "SECRET",
            country,
        },
        lines: lines.len(),
    };
    let mut out = Vec::new();
    put_head(&mut out, &head);
    for &(sku, quantity, unit_price) in lines {
        put_line(&mut out, &Line { sku, title: "SECRET TITLE", quantity, unit_price });
    }
    out
}

/// Encoded items, kept alive for the deltas that borrow them.
pub(super) fn items(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    Items::encode(items, &mut out);
    out
}

pub(super) fn borrowed(items: &[u8]) -> Items<'_> {
    Items::read(&mut Reader::new(items)).unwrap()
}

pub(super) fn deltas(all: &[(i64, Delta<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    all.iter().for_each(|(late, delta)| delta.encode(*late, &mut out));
    out
}

/// One event of each type: the name of its fixtures, its bytes, and what a reader must find.
pub(super) fn one_of_each() -> Vec<Sample> {
    let mut all = of_orders_on_their_way();
    all.extend(of_commands());
    assert!(all.iter().map(|(_, e, ..)| e.event_type).eq(EventType::ALL));
    all
}

/// Events of parcels whose weight is an estimate, as [`one_of_each`].
pub(super) fn of_estimates() -> Vec<Sample> {
    let (record, decision, mut expected) = (accepted_record(), accepted_deltas(true), accepted());
    expected.parcels.iter_mut().for_each(|parcel| parcel.weight_estimated = true);
    let mut out = Vec::new();
    let encoded = encode_accepted(&mut out, &OrderRef::decode(&record).unwrap(), &decision).unwrap();
    let first = ("order-accepted-estimated", encoded, out, event(333, Change::Accepted(expected)));
    let (decision, mut expected, mut out) = (settled_deltas(true), settled(), Vec::new());
    expected.next_attempt.as_mut().unwrap().weight_estimated = true;
    let encoded = encode_settled(&mut out, ID, "m-1", "swift", &decision).unwrap();
    let second = ("parcel-settled-estimated", encoded, out, event(61_000, Change::Settled(expected)));
    let (decision, mut expected, mut out) = (return_deltas(true), return_requested(), Vec::new());
    expected.parcels.iter_mut().for_each(|parcel| parcel.weight_estimated = true);
    let encoded = encode_return(&mut out, ID, "m-1", &decision).unwrap();
    let third = ("return-requested-estimated", encoded, out, event(172_800_000, Change::ReturnRequested(expected)));
    vec![first, second, third]
}

pub(super) type Sample = (&'static str, Encoded, Vec<u8>, OrderEvent);

fn event(occurred_late: i64, change: Change) -> OrderEvent {
    OrderEvent {
        order_id: text(ID),
        merchant_id: "m-1".to_owned(),
        placed_at_ms: 1_794_268_800_123,
        occurred_at_ms: 1_794_268_800_123 + occurred_late,
        change: Some(change),
    }
}

fn of_orders_on_their_way() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |name, write: &dyn Fn(&mut Vec<u8>) -> Encoded, expected| {
        let mut out = Vec::new();
        let encoded = write(&mut out);
        all.push((name, encoded, out, expected));
    };
    let (record, decision) = (accepted_record(), accepted_deltas(false));
    let accept = |out: &mut Vec<u8>| encode_accepted(out, &OrderRef::decode(&record).unwrap(), &decision).unwrap();
    add("order-accepted", &accept, event(333, Change::Accepted(accepted())));
    let decision = settled_deltas(false);
    let settle = |out: &mut Vec<u8>| encode_settled(out, ID, "m-1", "swift", &decision).unwrap();
    add("parcel-settled", &settle, event(61_000, Change::Settled(settled())));
    let other = ID + (5_000 << 80);
    let conflict = |out: &mut Vec<u8>| encode_conflict(out, ID, "m-1", other, 1_794_268_806_000);
    let conflicted =
        read::OrderConflicted { conflicting_order_id: text(other), conflicting_placed_at_ms: 1_794_268_805_123 };
    add("order-conflicted", &conflict, event(5_877, Change::Conflicted(conflicted)));
    let reason = "outcome is malformed or cut short";
    let merchant = Delta::Merchant { id: "m-1" };
    let decision = deltas(&[
        (6_000, merchant),
        (7_000, Delta::DeadLettered { parcel: None, rules: 20_261_101, reason, replay: 0 }),
    ]);
    let dead = |out: &mut Vec<u8>| encode_dead_lettered(out, ID, "m-1", &decision).unwrap();
    let dead_lettered = read::OrderDeadLettered { reason: reason.to_owned(), rules_version: 20_261_101 };
    add("order-dead-lettered", &dead, event(7_000, Change::DeadLettered(dead_lettered)));
    let decision = tracked_deltas();
    let track = |out: &mut Vec<u8>| encode_tracked(out, ID, "m-1", "swift", &decision).unwrap();
    add("parcel-tracked", &track, event(86_400_000, Change::Tracked(tracked())));
    all
}

fn of_commands() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |name, write: &dyn Fn(&mut Vec<u8>) -> Encoded, expected| {
        let mut out = Vec::new();
        let encoded = write(&mut out);
        all.push((name, encoded, out, expected));
    };
    let decision = cancel_deltas();
    let cancel = |out: &mut Vec<u8>| encode_cancel(out, ID, "m-1", &decision).unwrap();
    add("order-cancel-requested", &cancel, event(70_000, Change::CancelRequested(cancel_requested())));
    let (outcome, text) = (OutcomeKind::Rejected, "already sorted");
    let decision = deltas(&[(71_000, Delta::Settled { parcel: 1, attempt: VOID | 2, outcome, text })]);
    let void = |out: &mut Vec<u8>| encode_settled(out, ID, "m-1", "swift", &decision).unwrap();
    let refused =
        read::ParcelSettled { attempt: 2, reason: Some("already sorted".to_owned()), next_attempt: None, ..settled() };
    add("parcel-void-settled", &void, event(71_000, Change::VoidSettled(refused)));
    let decision = return_deltas(false);
    let back = |out: &mut Vec<u8>| encode_return(out, ID, "m-1", &decision).unwrap();
    add("return-requested", &back, event(172_800_000, Change::ReturnRequested(return_requested())));
    let (outcome, text) = (OutcomeKind::Accepted, "T-2");
    let decision = deltas(&[(172_801_000, Delta::Settled { parcel: FIRST_RETURN, attempt: 0, outcome, text })]);
    let taken = |out: &mut Vec<u8>| encode_settled(out, ID, "m-1", "swift", &decision).unwrap();
    let accepted = read::ParcelSettled {
        parcel_number: 200,
        outcome: read::Outcome::Accepted as i32,
        tracking_number: Some("T-2".to_owned()),
        reason: None,
        next_attempt: None,
        ..settled()
    };
    add("return-settled", &taken, event(172_801_000, Change::ReturnSettled(accepted)));
    let progress = Progress::Reached(Milestone::Returned);
    let decision =
        deltas(&[(259_200_000, Delta::Tracked { parcel: FIRST_RETURN, attempt: 0, progress, text: "dock 4" })]);
    let told = |out: &mut Vec<u8>| encode_tracked(out, ID, "m-1", "swift", &decision).unwrap();
    let returned = read::ParcelTracked {
        parcel_number: 200,
        progress: read::Progress::Returned as i32,
        detail: Some("dock 4".to_owned()),
        settles_attempt: false,
        ..tracked()
    };
    add("return-tracked", &told, event(259_200_000, Change::ReturnTracked(returned)));
    let decision = replay_deltas();
    let again = |out: &mut Vec<u8>| encode_replayed(out, ID, "m-1", &decision).unwrap();
    add("order-replayed", &again, event(345_600_000, Change::Replayed(replayed())));
    let decision = review_deltas();
    let said = |out: &mut Vec<u8>| encode_reviewed(out, ID, "m-1", &decision).unwrap();
    add("parcel-reviewed", &said, event(3_600_000, Change::Reviewed(reviewed())));
    all
}

pub(super) fn text(id: u128) -> String {
    String::from_utf8(order_id_text(id).to_vec()).unwrap()
}

fn accepted_record() -> Vec<u8> {
    record(ID, ["m-1", "c-77", "USD", "BR"], &[("1029743", 2, 129), ("ä-1", 1_000, 1_000_000_000), ("ice", 4, 0)])
}

/// Three parcels: two asked for, of which one has a part of a line; the last carried by nobody.
fn accepted_deltas(estimated: bool) -> Vec<u8> {
    let chilled = items(&[Item { line: 0, quantity: None }]);
    let part = items(&[Item { line: 1, quantity: Some(400) }]);
    let rest = items(&[Item { line: 1, quantity: Some(600) }, Item { line: 2, quantity: Some(4) }]);
    let requested = |parcel, handling, carrier, grams, items| {
        let (attempt, order_position, weight) = (0, None, Weight { grams, estimated });
        Delta::Requested(Requested { parcel, attempt, handling, carrier, weight, items, order_position })
    };
    deltas(&[
        (340, Delta::Classified { parcels: 3, rules: 20_261_101, model: 0 }),
        (340, requested(0, 0, "swift", 1_250, borrowed(&chilled))),
        (340, requested(1, 1, "strong", 60_000, borrowed(&part))),
        (
            340,
            Delta::Packed {
                parcel: 2,
                handling: 2,
                weight: Weight { grams: 90_000, estimated },
                items: borrowed(&rest),
            },
        ),
        (
            340,
            Delta::DeadLettered {
                parcel: Some(2),
                rules: 20_261_101,
                reason: "no carrier takes frozen to BR",
                replay: 0,
            },
        ),
    ])
}

fn accepted() -> read::OrderAccepted {
    let line = |sku: &str, quantity, unit_price| read::Line { sku: sku.to_owned(), quantity, unit_price };
    let item = |line_index, quantity| read::Item { line_index, quantity };
    let asked = |carrier: &str| (Some(carrier.to_owned()), Some(0));
    let parcel = |number, group: read::HandlingGroup, weight_g, items, (carrier_id, attempt)| read::Parcel {
        number,
        handling_group: group as i32,
        weight_g,
        items,
        carrier_id,
        attempt,
        dead_letter_reason: None,
        weight_estimated: false,
        held: None,
    };
    let mut nobody =
        parcel(2, read::HandlingGroup::Frozen, 90_000, vec![item(1, Some(600)), item(2, Some(4))], (None, None));
    nobody.dead_letter_reason = Some("no carrier takes frozen to BR".to_owned());
    read::OrderAccepted {
        customer_id: "c-77".to_owned(),
        currency: "USD".to_owned(),
        country: "BR".to_owned(),
        lines: vec![line("1029743", 2, 129), line("ä-1", 1_000, 1_000_000_000), line("ice", 4, 0)],
        rules_version: Some(20_261_101),
        parcel_count: Some(3),
        parcels: vec![
            parcel(0, read::HandlingGroup::Chilled, 1_250, vec![item(0, None)], asked("swift")),
            parcel(1, read::HandlingGroup::Ambient, 60_000, vec![item(1, Some(400))], asked("strong")),
            nobody,
        ],
        dead_letter_reason: None,
        decided_at_ms: Some(1_794_268_800_463),
        model_version: None,
    }
}

fn settled_deltas(estimated: bool) -> Vec<u8> {
    let whole = items(&[Item { line: 0, quantity: None }]);
    let again = Requested {
        parcel: 1,
        attempt: 1,
        handling: 0,
        carrier: "strong",
        weight: Weight { grams: 1_250, estimated },
        items: borrowed(&whole),
        order_position: Some(77),
    };
    let (outcome, text) = (OutcomeKind::Rejected, "too heavy ⚖");
    deltas(&[(61_000, Delta::Settled { parcel: 1, attempt: 0, outcome, text }), (61_050, Delta::Requested(again))])
}

fn settled() -> read::ParcelSettled {
    read::ParcelSettled {
        parcel_number: 1,
        attempt: 0,
        outcome: read::Outcome::Rejected as i32,
        carrier_id: "swift".to_owned(),
        tracking_number: None,
        reason: Some("too heavy ⚖".to_owned()),
        next_attempt: Some(read::NextAttempt {
            carrier_id: "strong".to_owned(),
            attempt: 1,
            handling_group: read::HandlingGroup::Chilled as i32,
            weight_g: 1_250,
            items: vec![read::Item { line_index: 0, quantity: None }],
            weight_estimated: false,
        }),
        dead_letter_reason: None,
        rules_version: None,
    }
}

/// News that also shows that the carrier took the parcel.
fn tracked_deltas() -> Vec<u8> {
    let progress = Progress::Reached(Milestone::Delivered);
    deltas(&[
        (86_400_000, Delta::Tracked { parcel: 1, attempt: 0, progress, text: "left with a neighbour ⌂" }),
        (86_400_500, Delta::Settled { parcel: 1, attempt: 0, outcome: OutcomeKind::Accepted, text: "" }),
    ])
}

fn tracked() -> read::ParcelTracked {
    read::ParcelTracked {
        parcel_number: 1,
        attempt: 0,
        carrier_id: "swift".to_owned(),
        progress: read::Progress::Delivered as i32,
        detail: Some("left with a neighbour ⌂".to_owned()),
        settles_attempt: true,
    }
}

/// Two carriers are asked to forget a parcel each.
fn cancel_deltas() -> Vec<u8> {
    let whole = items(&[Item { line: 0, quantity: None }]);
    let void = |parcel, attempt, carrier| {
        let (items, order_position, weight) = (borrowed(&whole), Some(77), Weight::known(1_250));
        Delta::Requested(Requested { parcel, attempt, handling: 0, carrier, weight, items, order_position })
    };
    deltas(&[
        (70_000, Delta::Commanded { id: 9, verdict: Verdict::Done }),
        (70_000, void(0, VOID, "swift")),
        (70_000, void(1, VOID | 2, "strong")),
    ])
}

fn cancel_requested() -> read::CancelRequested {
    let void =
        |parcel_number, attempt, carrier: &str| read::Void { parcel_number, attempt, carrier_id: carrier.to_owned() };
    read::CancelRequested {
        voids: vec![void(0, 0, "swift"), void(1, 2, "strong")],
        withdrawn_parcel_numbers: Vec::new(),
    }
}

/// Two parcels, of which one is carried by nobody.
fn return_deltas(estimated: bool) -> Vec<u8> {
    let (two, all) = (items(&[Item { line: 0, quantity: Some(2) }]), items(&[Item { line: 2, quantity: Some(4) }]));
    let (parcel, reason) = (FIRST_RETURN + 1, "does not fit ⌂");
    let requested = Requested {
        parcel: FIRST_RETURN,
        attempt: 0,
        handling: 0,
        carrier: "swift",
        weight: Weight { grams: 1_250, estimated },
        items: borrowed(&two),
        order_position: Some(77),
    };
    deltas(&[
        (172_800_000, Delta::Commanded { id: 10, verdict: Verdict::Done }),
        (172_800_000, Delta::Return { parcel: FIRST_RETURN, source: 0, units: 2, command: 10, reason }),
        (172_800_000, Delta::Requested(requested)),
        (172_800_000, Delta::Return { parcel, source: 2, units: 604, command: 10, reason }),
        (
            172_800_000,
            Delta::Packed { parcel, handling: 2, weight: Weight { grams: 597, estimated }, items: borrowed(&all) },
        ),
        (
            172_800_000,
            Delta::DeadLettered {
                parcel: Some(parcel),
                rules: 20_261_101,
                reason: "no carrier takes frozen",
                replay: 0,
            },
        ),
    ])
}

fn return_requested() -> read::ReturnRequested {
    let item = |line_index, quantity| read::Item { line_index, quantity: Some(quantity) };
    let first = read::ReturnParcel {
        number: 200,
        source_parcel_number: 0,
        handling_group: read::HandlingGroup::Chilled as i32,
        weight_g: 1_250,
        items: vec![item(0, 2)],
        carrier_id: Some("swift".to_owned()),
        dead_letter_reason: None,
        weight_estimated: false,
    };
    let second = read::ReturnParcel {
        number: 201,
        source_parcel_number: 2,
        handling_group: read::HandlingGroup::Frozen as i32,
        weight_g: 597,
        items: vec![item(2, 4)],
        carrier_id: None,
        dead_letter_reason: Some("no carrier takes frozen".to_owned()),
        weight_estimated: false,
    };
    read::ReturnRequested { reason: "does not fit ⌂".to_owned(), parcels: vec![first, second] }
}

/// Two parcels are offered again: one is taken up by another carrier, one by nobody.
fn replay_deltas() -> Vec<u8> {
    let whole = items(&[Item { line: 0, quantity: None }]);
    let (command, by) = (11, "operator 1f2e3d4c");
    let requested = Requested {
        parcel: 0,
        attempt: 3,
        handling: 0,
        carrier: "swift",
        weight: Weight::known(1_250),
        items: borrowed(&whole),
        order_position: Some(77),
    };
    let (rules, reason) = (20_261_101, "no carrier takes frozen");
    deltas(&[
        (345_600_000, Delta::Commanded { id: 11, verdict: Verdict::Done }),
        (345_600_000, Delta::Replayed { parcel: Some(0), replay: 1, attempt: 3, command, by }),
        (345_600_000, Delta::Requested(requested)),
        (345_600_000, Delta::Replayed { parcel: Some(2), replay: 1, attempt: 8, command, by }),
        (345_600_000, Delta::DeadLettered { parcel: Some(2), rules, reason, replay: 1 }),
    ])
}

fn replayed() -> read::OrderReplayed {
    let asked = read::Parcel {
        number: 0,
        handling_group: read::HandlingGroup::Chilled as i32,
        weight_g: 1_250,
        items: vec![read::Item { line_index: 0, quantity: None }],
        carrier_id: Some("swift".to_owned()),
        attempt: Some(3),
        dead_letter_reason: None,
        weight_estimated: false,
        held: None,
    };
    let reason = Some("no carrier takes frozen".to_owned());
    let nobody = read::Parcel { number: 2, dead_letter_reason: reason, ..read::Parcel::default() };
    read::OrderReplayed {
        rules_version: None,
        parcel_count: None,
        parcels: vec![asked, nobody],
        dead_letter_reason: None,
        model_version: None,
    }
}

/// A parcel that was held is frozen, and a carrier is asked.
fn review_deltas() -> Vec<u8> {
    let whole = items(&[Item { line: 2, quantity: None }]);
    let (command, by) = (12, "operator 1f2e3d4c");
    let requested = Requested {
        parcel: 3,
        attempt: 0,
        handling: 2,
        carrier: "strong",
        weight: Weight::known(900),
        items: borrowed(&whole),
        order_position: Some(77),
    };
    deltas(&[
        (3_600_000, Delta::Commanded { id: 12, verdict: Verdict::Done }),
        (3_600_000, Delta::Reviewed { parcel: 3, handling: Some(5), keep: Keep::Rule, command, by }),
        (3_600_000, Delta::Requested(requested)),
    ])
}

fn reviewed() -> read::ParcelReviewed {
    read::ParcelReviewed {
        parcel_number: 3,
        handling_class: read::HandlingClass::Frozen as i32,
        parcel: Some(read::Parcel {
            number: 3,
            handling_group: read::HandlingGroup::Frozen as i32,
            weight_g: 900,
            items: vec![read::Item { line_index: 2, quantity: None }],
            carrier_id: Some("strong".to_owned()),
            attempt: Some(0),
            dead_letter_reason: None,
            weight_estimated: false,
            held: None,
        }),
        becomes_rule: true,
        becomes_training_row: false,
    }
}
