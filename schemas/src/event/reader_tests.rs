//! A stock reader, which has the `.proto` file and nothing else, finds what the encoder wrote: every event is read here
//! by reflection over the compiled `.proto`, and by the message types that mirror it.

use proptest::prelude::*;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};

use super::{
    compat_tests::{compile, pool},
    encode_accepted, encode_added, encode_cancel, encode_conflict, encode_dead_lettered, encode_json, encode_return,
    encode_settled, encode_tracked,
    read::{self, Change},
    samples::{ID, borrowed, deltas, items, one_of_each, record, text},
};
use crate::{
    CodecError,
    command::{Keep, Verdict},
    delta::{Delta, FIRST_RETURN, Item, Requested, VOID, Weight},
    order::{OrderRef, placed_at_ms},
    outcome::OutcomeKind,
    word::Progress,
};

fn descriptor() -> MessageDescriptor {
    pool(&compile(super::PROTO)).get_message_by_name("sluice.events.v1.OrderEvent").unwrap()
}

/// What a stock reader makes of the bytes, as Protobuf's JSON.
fn by_reflection(descriptor: &MessageDescriptor, bytes: &[u8]) -> serde_json::Value {
    let event = DynamicMessage::decode(descriptor.clone(), bytes).unwrap();
    assert_eq!(event.unknown_fields().count(), 0);
    let options = SerializeOptions::new().stringify_64_bit_integers(true);
    event.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
}

/// Today's bytes are canonical, and all three readers agree on them.
fn check(descriptor: &MessageDescriptor, bytes: &[u8]) -> read::OrderEvent {
    let event = read::decode(bytes).unwrap();
    assert_eq!(event.encode_to_vec(), bytes);
    let json: serde_json::Value = serde_json::from_str(&encode_json(bytes).unwrap()).unwrap();
    assert_eq!(json, by_reflection(descriptor, bytes));
    event
}

#[test]
fn a_reader_with_the_proto_alone_finds_every_field() {
    let descriptor = descriptor();
    for (name, _, bytes, expected) in one_of_each() {
        assert_eq!(check(&descriptor, &bytes), expected, "{name}");
    }
    let found = by_reflection(&descriptor, &one_of_each()[0].2);
    let id = text(ID);
    let expected = serde_json::json!({
        "orderId": id, "merchantId": "m-1", "placedAtMs": "1794268800123", "occurredAtMs": "1794268800456",
        "accepted": {
            "customerId": "c-77", "currency": "USD", "country": "BR",
            "lines": [
                {"sku": "1029743", "quantity": 2, "unitPrice": "129"},
                {"sku": "ä-1", "quantity": 1000, "unitPrice": "1000000000"},
                {"sku": "ice", "quantity": 4},
            ],
            "rulesVersion": 20261101, "parcelCount": 3, "decidedAtMs": "1794268800463",
            "parcels": [
                {"handlingGroup": "HANDLING_GROUP_CHILLED", "weightG": 1250, "items": [{}], "carrierId": "swift",
                 "attempt": 0},
                {"number": 1, "handlingGroup": "HANDLING_GROUP_AMBIENT", "weightG": 60000,
                 "items": [{"lineIndex": 1, "quantity": 400}], "carrierId": "strong", "attempt": 0},
                {"number": 2, "handlingGroup": "HANDLING_GROUP_FROZEN", "weightG": 90000,
                 "items": [{"lineIndex": 1, "quantity": 600}, {"lineIndex": 2, "quantity": 4}],
                 "deadLetterReason": "no carrier takes frozen to BR"},
            ],
        },
    });
    assert_eq!(found, expected);
}

/// The accepted event of an order of two lines with this decision.
fn accept(decision: &[(i64, Delta<'_>)]) -> read::OrderAccepted {
    let record = record(ID, ["m-1", "c", "EUR", "DE"], &[("a", 1, 100), ("b", 2, 200)]);
    let mut out = b"before".to_vec();
    encode_accepted(&mut out, &OrderRef::decode(&record).unwrap(), &deltas(decision)).unwrap();
    assert!(out.starts_with(b"before"));
    match check(&descriptor(), &out[6..]).change {
        Some(Change::Accepted(accepted)) => accepted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_accepted_order_without_parcels_says_which_kind_it_is() {
    let undecided = accept(&[]);
    assert_eq!((undecided.lines.len(), undecided.parcels.len()), (2, 0));
    assert_eq!((undecided.parcel_count, undecided.rules_version, undecided.decided_at_ms), (None, None, None));
    assert_eq!(undecided.dead_letter_reason, None);
    let nothing_ships = accept(&[(9, Delta::Classified { parcels: 0, rules: 0, model: 0 })]);
    assert_eq!((nothing_ships.parcel_count, nothing_ships.rules_version), (Some(0), Some(0)));
    assert_eq!(nothing_ships.decided_at_ms, Some(placed_at_ms(ID) as i64 + 9));
    let dead = accept(&[(9, Delta::DeadLettered { parcel: None, rules: 4, reason: "", replay: 0 })]);
    assert_eq!((dead.parcel_count, dead.rules_version), (None, Some(4)));
    assert_eq!(dead.dead_letter_reason.as_deref(), Some(""));
    assert_eq!(dead.decided_at_ms, Some(placed_at_ms(ID) as i64 + 9));
    let not_routed = accept(&[(9, Delta::Classified { parcels: 2, rules: 1, model: 0 })]);
    assert_eq!((not_routed.parcel_count, not_routed.parcels.len()), (Some(2), 0));
}

#[test]
fn a_parcel_that_is_held_says_what_it_likely_is() {
    let one = items(&[Item { line: 1, quantity: Some(2) }]);
    let held = Delta::Held {
        parcel: 0,
        handling: 7,
        confidence: 41,
        weight: Weight { grams: 900, estimated: true },
        items: borrowed(&one),
    };
    let accepted = accept(&[(9, Delta::Classified { parcels: 1, rules: 1, model: 5 }), (9, held)]);
    let expected = read::Parcel {
        weight_g: 900,
        weight_estimated: true,
        items: vec![read::Item { line_index: 1, quantity: Some(2) }],
        held: Some(read::Held { handling_class: read::HandlingClass::HazmatCheck as i32, confidence_percent: 41 }),
        ..read::Parcel::default()
    };
    assert_eq!((accepted.model_version, accepted.parcels), (Some(5), vec![expected]));
}

#[test]
fn what_is_reviewed_may_not_ship_and_what_is_withdrawn_is_told_with_its_cancellation() {
    let commanded = (5, Delta::Commanded { id: 1, verdict: Verdict::Done });
    let reviewed = |handling| Delta::Reviewed { parcel: 3, handling, keep: Keep::Row, command: 1, by: "o" };
    let mut out = Vec::new();
    let decision = deltas(&[commanded, (5, reviewed(Some(9)))]);
    encode_added(&mut out, ID, "m", "", &decision).unwrap().unwrap();
    let Some(Change::Reviewed(said)) = check(&descriptor(), &out).change else { panic!("{out:?}") };
    assert_eq!((said.parcel, said.handling_class, said.becomes_training_row), (None, 10, true));
    out.clear();
    let other = Delta::Reviewed { parcel: 199, handling: None, keep: Keep::No, command: 1, by: "" };
    let decision = deltas(&[commanded, (5, reviewed(None)), (5, other)]);
    encode_added(&mut out, ID, "m", "", &decision).unwrap().unwrap();
    let Some(Change::CancelRequested(cancel)) = check(&descriptor(), &out).change else { panic!("{out:?}") };
    assert_eq!((cancel.voids, cancel.withdrawn_parcel_numbers), (Vec::new(), vec![3, 199]));
}

#[test]
fn a_parcel_that_nobody_carries_is_listed_once_wherever_its_reason_is() {
    let all = items(&[Item { line: 0, quantity: None }]);
    let packed = |parcel| Delta::Packed { parcel, handling: 5, weight: Weight::known(1), items: borrowed(&all) };
    let dead = |parcel, reason| Delta::DeadLettered { parcel: Some(parcel), rules: 1, reason, replay: 0 };
    let decision = [(0, dead(1, "one")), (0, packed(0)), (0, packed(1)), (0, dead(7, "seven")), (0, dead(0, "nought"))];
    let parcels = accept(&decision).parcels;
    let found: Vec<_> =
        parcels.iter().map(|p| (p.number, p.items.len(), p.dead_letter_reason.as_deref().unwrap())).collect();
    assert_eq!(found, [(0, 1, "nought"), (1, 1, "one"), (7, 0, "seven")]);
}

#[test]
fn settled_attempts_tell_outcome_and_what_follows() {
    let descriptor = descriptor();
    let settle = |outcome, text, then: &[(i64, Delta<'_>)]| {
        let mut all = vec![(50, Delta::Settled { parcel: 0, attempt: 2, outcome, text })];
        all.extend_from_slice(then);
        let mut out = Vec::new();
        let event = encode_settled(&mut out, ID, "m-1", "swift", &deltas(&all)).unwrap();
        assert_eq!(event.occurred_at_ms, placed_at_ms(ID) + 50);
        match check(&descriptor, &out).change {
            Some(Change::Settled(settled)) => settled,
            other => panic!("{other:?}"),
        }
    };
    let accepted = settle(OutcomeKind::Accepted, "T-1", &[]);
    assert_eq!((accepted.outcome(), accepted.attempt), (read::Outcome::Accepted, 2));
    assert_eq!((accepted.tracking_number.as_deref(), accepted.reason), (Some("T-1"), None));
    assert_eq!(settle(OutcomeKind::Accepted, "", &[]).tracking_number, None);
    let unknown = settle(OutcomeKind::Unknown, "timeout", &[]);
    assert_eq!((unknown.outcome(), unknown.reason.as_deref()), (read::Outcome::Unknown, Some("timeout")));
    let dead = |reason| (51, Delta::DeadLettered { parcel: Some(0), rules: 8, reason, replay: 0 });
    let given_up = settle(OutcomeKind::GivenUp, "", &[dead("z"), dead("b")]);
    assert_eq!((given_up.outcome(), given_up.reason), (read::Outcome::GivenUp, None));
    assert_eq!((given_up.dead_letter_reason.as_deref(), given_up.rules_version), (Some("b"), Some(8)));
}

#[test]
fn deltas_of_another_decision_are_refused_and_leave_nothing() {
    let settled = Delta::Settled { parcel: 0, attempt: 0, outcome: OutcomeKind::Accepted, text: "t" };
    let classified = Delta::Classified { parcels: 1, rules: 1, model: 0 };
    let conflicted = Delta::Conflicted { order: ID };
    let dead = |parcel| Delta::DeadLettered { parcel, rules: 1, reason: "r", replay: 0 };
    let record = record(ID, ["m", "c", "EUR", "DE"], &[("a", 1, 1)]);
    let order = OrderRef::decode(&record).unwrap();
    let mut out = b"kept".to_vec();
    for refused in [vec![settled], vec![conflicted], vec![classified, classified], vec![dead(None), dead(None)]] {
        let refused = deltas(&refused.into_iter().map(|d| (0, d)).collect::<Vec<_>>());
        assert_eq!(
            encode_accepted(&mut out, &order, &refused),
            Err(CodecError { what: "deltas of an accepted order" })
        );
    }
    for refused in
        [vec![], vec![classified], vec![settled, settled], vec![settled, dead(None)], vec![settled, dead(Some(1))]]
    {
        let refused = deltas(&refused.into_iter().map(|d| (0, d)).collect::<Vec<_>>());
        let error = encode_settled(&mut out, ID, "m", "c", &refused);
        assert_eq!(error, Err(CodecError { what: "deltas of a settled attempt" }));
    }
    for refused in [vec![], vec![settled], vec![dead(Some(0))], vec![dead(None), dead(None)]] {
        let refused = deltas(&refused.into_iter().map(|d| (0, d)).collect::<Vec<_>>());
        let error = encode_dead_lettered(&mut out, ID, "m", &refused);
        assert_eq!(error, Err(CodecError { what: "deltas of a dead-lettered order" }));
    }
    let tracked = Delta::Tracked { parcel: 0, attempt: 0, progress: Progress::ALL[0], text: "" };
    let unknown = Delta::Settled { parcel: 0, attempt: 0, outcome: OutcomeKind::Unknown, text: "" };
    let others = Delta::Settled { parcel: 1, attempt: 0, outcome: OutcomeKind::Accepted, text: "" };
    for refused in
        [vec![], vec![settled], vec![tracked, unknown], vec![tracked, others], vec![tracked, settled, settled]]
    {
        let refused = deltas(&refused.into_iter().map(|d| (0, d)).collect::<Vec<_>>());
        let error = encode_tracked(&mut out, ID, "m", "c", &refused);
        assert_eq!(error, Err(CodecError { what: "deltas of a tracked parcel" }));
    }
    let cut = OrderRef::decode(&record[..record.len() - 1]).unwrap();
    assert!(encode_accepted(&mut out, &cut, &[]).is_err());
    assert!(encode_accepted(&mut out, &order, &[77]).is_err());
    assert_eq!(out, b"kept");
}

type AnyParcel = (u8, u8, Weight, Vec<Item>, Option<(String, u8)>, Option<String>);

fn any_items() -> impl Strategy<Value = Vec<Item>> {
    let whole = any::<u16>().prop_map(|line| Item { line, quantity: None });
    let part = (any::<u16>(), any::<u32>()).prop_map(|(line, n)| Item { line, quantity: Some(n) });
    prop_oneof![prop::collection::vec(whole, 0..20), prop::collection::vec(part, 0..90)]
}

fn any_parcel() -> impl Strategy<Value = AnyParcel> {
    let asked = prop::option::of((".{0,20}", any::<u8>()));
    let weight = (any::<u32>(), any::<bool>()).prop_map(|(grams, estimated)| Weight { grams, estimated });
    (any::<u8>(), 0u8..128, weight, any_items(), asked, prop::option::of(".{0,200}"))
}

fn any_parcels() -> impl Strategy<Value = Vec<AnyParcel>> {
    prop::collection::vec(any_parcel(), 0..12).prop_map(|mut parcels| {
        parcels.sort_by_key(|p| p.0);
        parcels.dedup_by_key(|p| p.0);
        parcels
    })
}

fn read_items(items: &[Item]) -> Vec<read::Item> {
    let read = |i: &Item| read::Item { line_index: u32::from(i.line), quantity: i.quantity };
    items.iter().map(read).collect()
}

/// The deltas of a decision on `parcels`, in the order in which engines write them.
fn parcel_deltas(parcels: &[AnyParcel], late: i64, out: &mut Vec<u8>) {
    for (number, handling, weight, list, asked, dead) in parcels {
        let list = items(list);
        let (parcel, handling, weight, items) = (*number, *handling, *weight, borrowed(&list));
        let delta = match asked {
            Some((carrier, attempt)) => {
                let (attempt, order_position) = (*attempt, None);
                Delta::Requested(Requested { parcel, attempt, handling, carrier, weight, items, order_position })
            }
            None => Delta::Packed { parcel, handling, weight, items },
        };
        delta.encode(late, out);
        if let Some(reason) = dead {
            Delta::DeadLettered { parcel: Some(*number), rules: 1, reason, replay: 0 }.encode(late, out);
        }
    }
}

fn read_parcel((number, handling, weight, items, asked, dead): &AnyParcel) -> read::Parcel {
    read::Parcel {
        number: u32::from(*number),
        handling_group: i32::from(*handling) + 1,
        weight_g: weight.grams,
        items: read_items(items),
        carrier_id: asked.as_ref().map(|a| a.0.clone()),
        attempt: asked.as_ref().map(|a| u32::from(a.1)),
        dead_letter_reason: dead.clone(),
        weight_estimated: weight.estimated,
        held: None,
    }
}

proptest! {
    #[test]
    fn accepted_orders_keep_everything(
        id in any::<u128>(),
        heads in prop::array::uniform4(".{0,30}"),
        lines in prop::collection::vec((".{0,60}", any::<u32>(), any::<u64>()), 0..20),
        classified in prop::option::of((any::<u8>(), any::<u32>(), any::<u32>())),
        parcels in any_parcels(),
        whole in prop::option::of(".{0,200}"),
        late in any::<i64>(),
    ) {
        let borrowed_lines: Vec<_> = lines.iter().map(|(sku, n, price)| (sku.as_str(), *n, *price)).collect();
        let record = record(id, heads.each_ref().map(String::as_str), &borrowed_lines);
        let mut decision = Vec::new();
        if let Some((parcels, rules, model)) = classified {
            Delta::Classified { parcels, rules, model }.encode(late, &mut decision);
        }
        parcel_deltas(&parcels, late, &mut decision);
        if let Some(reason) = &whole {
            Delta::DeadLettered { parcel: None, rules: 77, reason, replay: 0 }.encode(late, &mut decision);
        }
        let order = OrderRef::decode(&record).unwrap();
        let mut out = Vec::new();
        let encoded = encode_accepted(&mut out, &order, &decision).unwrap();
        prop_assert_eq!((encoded.order_id, encoded.occurred_at_ms), (id, order.accepted_at_ms));
        let decided = classified.is_some() || whole.is_some();
        let decided_at = placed_at_ms(id).saturating_add_signed(late).min(i64::MAX as u64) as i64;
        let [merchant_id, customer_id, currency, country] = heads;
        let expected = read::OrderEvent {
            order_id: text(id),
            merchant_id,
            placed_at_ms: placed_at_ms(id) as i64,
            occurred_at_ms: order.accepted_at_ms as i64,
            change: Some(Change::Accepted(read::OrderAccepted {
                customer_id,
                currency,
                country,
                lines: lines.into_iter().map(|(sku, quantity, unit_price)| read::Line { sku, quantity, unit_price }).collect(),
                rules_version: classified.map(|c| c.1).or(whole.as_ref().map(|_| 77)),
                parcel_count: classified.map(|c| u32::from(c.0)),
                parcels: parcels.iter().map(read_parcel).collect(),
                dead_letter_reason: whole,
                decided_at_ms: decided.then_some(decided_at),
                model_version: classified.map(|c| c.2).filter(|&model| model > 0),
            })),
        };
        prop_assert_eq!(check(&descriptor(), &out), expected);
    }

    #[test]
    fn settled_attempts_keep_everything(
        id in any::<u128>(), merchant in ".{0,30}", carrier in ".{0,30}", attempt: u8, code in 0u8..4, said in ".{0,200}",
        parcel in any_parcel(), late in -1_000_000i64..1_000_000_000,
    ) {
        let outcome = OutcomeKind::from_code(code).unwrap();
        let mut decision = deltas(&[(late, Delta::Settled { parcel: parcel.0, attempt, outcome, text: &said })]);
        if parcel.4.is_some() {
            parcel_deltas(std::slice::from_ref(&parcel), late, &mut decision);
        } else if let Some(reason) = &parcel.5 {
            Delta::DeadLettered { parcel: Some(parcel.0), rules: 1, reason, replay: 0 }.encode(late, &mut decision);
        }
        let mut out = Vec::new();
        let encoded = encode_settled(&mut out, id, &merchant, &carrier, &decision).unwrap();
        let at = placed_at_ms(id).saturating_add_signed(late);
        prop_assert_eq!((encoded.order_id, encoded.occurred_at_ms), (id, at));
        let said = Some(said).filter(|s| !s.is_empty());
        let (tracking_number, reason) = if code == 3 { (said, None) } else { (None, said) };
        let of_purpose = match (parcel.0, attempt & VOID) {
            (FIRST_RETURN.., _) => Change::ReturnSettled,
            (_, VOID) => Change::VoidSettled,
            _ => Change::Settled,
        };
        let (number, handling, weight, items, asked, dead_letter_reason) = parcel;
        let expected = read::OrderEvent {
            order_id: text(id),
            merchant_id: merchant,
            placed_at_ms: placed_at_ms(id) as i64,
            occurred_at_ms: at as i64,
            change: Some(of_purpose(read::ParcelSettled {
                parcel_number: u32::from(number),
                attempt: u32::from(if number < FIRST_RETURN { attempt & !VOID } else { attempt }),
                outcome: i32::from(code) + 1,
                carrier_id: carrier,
                tracking_number,
                reason,
                next_attempt: asked.map(|(carrier_id, attempt)| read::NextAttempt {
                    carrier_id,
                    attempt: u32::from(attempt),
                    handling_group: i32::from(handling) + 1,
                    weight_g: weight.grams,
                    items: read_items(&items),
                    weight_estimated: weight.estimated,
                }),
                rules_version: dead_letter_reason.as_ref().map(|_| 1),
                dead_letter_reason,
            })),
        };
        prop_assert_eq!(check(&descriptor(), &out), expected);
    }

    #[test]
    fn news_keep_everything(
        id in any::<u128>(), merchant in ".{0,30}", carrier in ".{0,30}", parcel: u8, attempt: u8, pick in 0usize..10,
        said in ".{0,200}", late in -1_000_000i64..1_000_000_000, settles: bool,
    ) {
        let (progress, accepted) = (Progress::ALL[pick], OutcomeKind::Accepted);
        let mut decision = deltas(&[(late, Delta::Tracked { parcel, attempt, progress, text: &said })]);
        if settles {
            Delta::Settled { parcel, attempt, outcome: accepted, text: "" }.encode(late + 5, &mut decision);
        }
        let mut out = Vec::new();
        let encoded = encode_tracked(&mut out, id, &merchant, &carrier, &decision).unwrap();
        let of_purpose = if parcel < FIRST_RETURN { Change::Tracked } else { Change::ReturnTracked };
        let at = placed_at_ms(id).saturating_add_signed(late);
        prop_assert_eq!((encoded.order_id, encoded.occurred_at_ms), (id, at));
        let expected = read::OrderEvent {
            order_id: text(id),
            merchant_id: merchant,
            placed_at_ms: placed_at_ms(id) as i64,
            occurred_at_ms: at as i64,
            change: Some(of_purpose(read::ParcelTracked {
                parcel_number: u32::from(parcel),
                attempt: u32::from(attempt),
                carrier_id: carrier,
                progress: pick as i32 + 1,
                detail: Some(said).filter(|s| !s.is_empty()),
                settles_attempt: settles,
            })),
        };
        prop_assert_eq!(check(&descriptor(), &out), expected);
    }

    #[test]
    fn the_rest_keeps_everything(
        id in any::<u128>(), other in any::<u128>(), merchant in ".{0,30}", found_at in any::<u64>(), rules: u32,
        reason in ".{0,300}",
    ) {
        let (mut conflicted, mut dead) = (Vec::new(), Vec::new());
        encode_conflict(&mut conflicted, id, &merchant, other, found_at);
        let decision = deltas(&[(5, Delta::DeadLettered { parcel: None, rules, reason: &reason, replay: 0 })]);
        encode_dead_lettered(&mut dead, id, &merchant, &decision).unwrap();
        let event = |occurred_at: u64, change| read::OrderEvent {
            order_id: text(id),
            merchant_id: merchant.clone(),
            placed_at_ms: placed_at_ms(id) as i64,
            occurred_at_ms: i64::try_from(occurred_at).unwrap_or(i64::MAX),
            change: Some(change),
        };
        let conflict = Change::Conflicted(read::OrderConflicted {
            conflicting_order_id: text(other),
            conflicting_placed_at_ms: placed_at_ms(other) as i64,
        });
        prop_assert_eq!(check(&descriptor(), &conflicted), event(found_at, conflict));
        let dead_letter = Change::DeadLettered(read::OrderDeadLettered { reason, rules_version: rules });
        prop_assert_eq!(check(&descriptor(), &dead), event(placed_at_ms(id) + 5, dead_letter));
    }

    #[test]
    fn no_bytes_make_the_encoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), first in 1u8..12) {
        let mut likely = vec![first];
        likely.extend_from_slice(&bytes);
        let record = record(ID, ["m", "c", "EUR", "DE"], &[("a", 1, 1)]);
        let order = OrderRef::decode(&record).unwrap();
        for deltas in [&bytes, &likely] {
            let mut out = Vec::new();
            let all = [
                encode_accepted(&mut out, &order, deltas).is_ok(),
                encode_settled(&mut out, ID, "m", "c", deltas).is_ok(),
                encode_dead_lettered(&mut out, ID, "m", deltas).is_ok(),
                encode_tracked(&mut out, ID, "m", "c", deltas).is_ok(),
                encode_cancel(&mut out, ID, "m", deltas).is_ok(),
                encode_return(&mut out, ID, "m", deltas).is_ok(),
            ];
            prop_assert_eq!(out.is_empty(), all == [false; 6]);
            let _ = (read::decode(deltas), encode_json(deltas));
        }
    }
}
