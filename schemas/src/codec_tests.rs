//! Laws of the codecs: what is written is read back, and no bytes at all make a reader panic.

use proptest::prelude::*;

use crate::{
    command::{Command, Keep, Lines, ReturnLine, Verdict, Wish},
    delta::{Delta, Item, Items, Requested, Weight, row_deltas},
    order::{Head, Line, OrderRef, ShipTo, lines_of, peek_accepted_late, peek_id, put_head, put_line},
    outcome::{Outcome, OutcomeKind},
    wire::{Reader, put_signed, put_varint},
    word::{About, Progress, Tracked, Word, peek_about},
};

/// Times fit in 48 bits of ms, as an order id has them.
const LATEST: u64 = (1 << 48) - 1;

fn kind() -> impl Strategy<Value = OutcomeKind> {
    (0u8..4).prop_map(|code| OutcomeKind::from_code(code).unwrap())
}

fn progress(pick: u8) -> Progress {
    Progress::ALL[usize::from(pick) % Progress::ALL.len()]
}

fn verdict(pick: u8) -> Verdict {
    Verdict::from_code(pick % 8).unwrap()
}

fn keep(pick: u8) -> Keep {
    Keep::from_code(pick % 3).unwrap()
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let whole = any::<u16>().prop_map(|line| Item { line, quantity: None });
    let part = (any::<u16>(), any::<u32>()).prop_map(|(line, n)| Item { line, quantity: Some(n) });
    prop_oneof![proptest::collection::vec(whole, 0..20), proptest::collection::vec(part, 0..20)]
}

#[derive(Debug, Clone)]
struct AnyDelta {
    tag: u8,
    small: (u8, u8, u8),
    large: (u32, u64),
    kind: OutcomeKind,
    text: String,
    items: Vec<Item>,
    late: i64,
}

prop_compose! {
    fn delta()(
        tag in 1u8..=15,
        small in (any::<u8>(), any::<u8>(), 0u8..128),
        large in (any::<u32>(), 0..u64::MAX),
        kind in kind(),
        text in ".{0,40}",
        items in items(),
        late in any::<i64>(),
    ) -> AnyDelta {
        AnyDelta { tag, small, large, kind, text, items, late }
    }
}

impl AnyDelta {
    fn with<T>(&self, run: impl FnOnce(Delta<'_>) -> T) -> T {
        let mut bytes = Vec::new();
        Items::encode(&self.items, &mut bytes);
        let items = Items::read(&mut Reader::new(&bytes)).unwrap();
        let ((parcel, attempt, handling), (number, position), text) = (self.small, self.large, self.text.as_str());
        run(match self.tag {
            1 => Delta::Accepted { position },
            2 => Delta::Classified { parcels: parcel, rules: number, model: u32::from(attempt) },
            3 => Delta::Requested(Requested {
                parcel,
                attempt,
                handling,
                carrier: text,
                weight: Weight { grams: number, estimated: position % 3 == 0 },
                items,
                order_position: (position % 2 == 0).then_some(position),
            }),
            4 => Delta::Settled { parcel, attempt, outcome: self.kind, text },
            5 => Delta::DeadLettered {
                parcel: (attempt % 2 == 0).then_some(parcel),
                rules: number,
                reason: text,
                replay: 0,
            },
            7 => Delta::Conflicted { order: u128::from(position) << 64 | u128::from(number) },
            8 => Delta::Merchant { id: text },
            9 => Delta::Tracked { parcel, attempt, progress: progress(handling), text },
            10 => Delta::Commanded { id: position, verdict: verdict(handling) },
            11 => Delta::Return { parcel, source: attempt, units: number, command: position, reason: text },
            12 => Delta::Replayed {
                parcel: (attempt % 2 == 0).then_some(parcel),
                replay: handling,
                attempt,
                command: position,
                by: text,
            },
            14 => Delta::Held {
                parcel,
                handling,
                confidence: attempt,
                weight: Weight { grams: number, estimated: position % 3 == 0 },
                items,
            },
            15 => Delta::Reviewed {
                parcel,
                handling: (attempt % 2 == 0).then_some(handling.min(254)),
                keep: keep(attempt),
                command: position,
                by: text,
            },
            13 => Delta::DeadLettered { parcel: Some(parcel), rules: number, reason: text, replay: attempt },
            _ => Delta::Packed {
                parcel,
                handling,
                weight: Weight { grams: number, estimated: position % 3 == 0 },
                items,
            },
        })
    }
}

fn text() -> impl Strategy<Value = String> {
    ".{0,30}"
}

proptest! {
    #[test]
    fn numbers_read_back(value in any::<u64>(), signed in any::<i64>()) {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        put_signed(&mut out, signed);
        let mut r = Reader::new(&out);
        prop_assert_eq!((r.varint("v"), r.signed("s"), r.is_empty()), (Ok(value), Ok(signed), true));
    }

    #[test]
    fn deltas_read_back(deltas in proptest::collection::vec(delta(), 0..8), placed_at in 0..LATEST) {
        let mut row = Vec::new();
        for any in &deltas {
            any.with(|d| d.encode(any.late, &mut row));
        }
        let mut read = row_deltas(placed_at, &row);
        for any in &deltas {
            let (at, found) = read.next().unwrap().unwrap();
            prop_assert_eq!(at, placed_at.saturating_add_signed(any.late));
            prop_assert!(any.with(|d| d == found));
        }
        prop_assert!(read.next().is_none());
    }

    #[test]
    fn items_read_back(items in items()) {
        let mut bytes = Vec::new();
        Items::encode(&items, &mut bytes);
        let read = Items::read(&mut Reader::new(&bytes)).unwrap();
        prop_assert_eq!(read.iter().collect::<Vec<_>>(), items.clone());
        prop_assert_eq!((read.len(), read.is_empty()), (items.len(), items.is_empty()));
        let mut again = Vec::new();
        read.encode_again(&mut again);
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn orders_read_back(
        placed_at in 0..LATEST,
        low in any::<u64>(),
        slot in any::<u16>(),
        fingerprint_high in any::<u64>(),
        accepted_at_ms in 0..LATEST,
        texts in proptest::array::uniform8(text()),
        lines in proptest::collection::vec((text(), text(), any::<u32>(), any::<u64>()), 0..12),
    ) {
        let id = u128::from(placed_at) << 80 | u128::from(slot) << 64 | u128::from(low);
        let [merchant, customer, currency, name, street, city, postal_code, country] = texts.each_ref().map(String::as_str);
        let ship_to = ShipTo { name, street, city, postal_code, country };
        let head =
            Head { id, fingerprint_high, accepted_at_ms, merchant, customer, currency, ship_to, lines: lines.len() };
        let mut bytes = Vec::new();
        put_head(&mut bytes, &head);
        let lines: Vec<Line<'_>> = lines
            .iter()
            .map(|(sku, title, quantity, unit_price)| Line { sku, title, quantity: *quantity, unit_price: *unit_price })
            .collect();
        lines.iter().for_each(|line| put_line(&mut bytes, line));
        let order = OrderRef::decode(&bytes).unwrap();
        prop_assert_eq!((order.id, order.accepted_at_ms), (id, accepted_at_ms));
        prop_assert_eq!(order.fingerprint(), u128::from(fingerprint_high) << 64 | u128::from(low));
        prop_assert_eq!((order.merchant, order.customer, order.currency), (merchant, customer, currency));
        prop_assert_eq!(order.ship_to, ship_to);
        prop_assert_eq!(order.lines().collect::<Result<Vec<_>, _>>().unwrap(), lines.clone());
        prop_assert_eq!(lines_of(&bytes).unwrap().1.collect::<Result<Vec<_>, _>>().unwrap(), lines);
        prop_assert_eq!(peek_id(&bytes), Ok(id));
        prop_assert_eq!(peek_accepted_late(&bytes), Ok(accepted_at_ms as i64 - placed_at as i64));
    }

    /// A record cut anywhere is an error or, in its lines only, one of `lines`.
    #[test]
    fn a_cut_order_is_an_error(cut in 0usize..200, lines in 1usize..4) {
        let ship_to = ShipTo { name: "n", street: "s", city: "c", postal_code: "p", country: "US" };
        let head = Head {
            id: 7 << 80, fingerprint_high: 1, accepted_at_ms: 9, merchant: "m", customer: "c", currency: "USD", ship_to, lines,
        };
        let mut bytes = Vec::new();
        put_head(&mut bytes, &head);
        (0..lines).for_each(|_| put_line(&mut bytes, &Line { sku: "s", title: "t", quantity: 1, unit_price: 2 }));
        if cut < bytes.len() {
            let whole = OrderRef::decode(&bytes[..cut]).and_then(|o| o.lines().collect::<Result<Vec<_>, _>>());
            prop_assert!(whole.is_err());
        }
    }

    #[test]
    fn outcomes_read_back(
        placed_at in 0..LATEST, low in any::<u64>(), parcel: u8, attempt: u8, kind in kind(), at_ms in 0..LATEST,
        carrier in text(), text in text(),
    ) {
        let order = u128::from(placed_at) << 80 | u128::from(low);
        let outcome = Outcome { order, parcel, attempt, kind, at_ms, carrier: &carrier, text: &text };
        let mut bytes = Vec::new();
        outcome.encode(&mut bytes);
        prop_assert_eq!(Word::decode(&bytes), Ok(Word::Outcome(outcome)));
        prop_assert_eq!(peek_about(&bytes), Ok(About::Attempt(parcel, attempt)));
        for cut in 0..bytes.len() {
            prop_assert!(Outcome::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn news_read_back(
        placed_at in 0..LATEST, low in any::<u64>(), parcel: u8, attempt: u8, pick: u8, at_ms in 0..LATEST,
        carrier in text(), text in text(),
    ) {
        let order = u128::from(placed_at) << 80 | u128::from(low);
        let tracked =
            Tracked { order, parcel, attempt, progress: progress(pick), at_ms, carrier: &carrier, text: &text };
        let mut bytes = Vec::new();
        tracked.encode(&mut bytes);
        prop_assert_eq!(Word::decode(&bytes), Ok(Word::Tracked(tracked)));
        prop_assert_eq!(peek_about(&bytes), Ok(About::Attempt(parcel, attempt)));
        for cut in 0..bytes.len() {
            prop_assert!(Word::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn commands_read_back(
        order in any::<u128>(),
        id in any::<u64>(),
        at_ms in 0..LATEST,
        lines in proptest::option::of(proptest::collection::vec(any::<(u32, u32)>(), 0..20)),
        reason in text(),
        review in proptest::option::of(any::<(u8, u8, u8)>()),
    ) {
        let lines: Option<Vec<_>> =
            lines.map(|l| l.into_iter().map(|(quantity, ordered)| ReturnLine { quantity, ordered }).collect());
        let mut encoded = Vec::new();
        Lines::encode(lines.as_deref().unwrap_or_default(), &mut encoded);
        let read = Lines::read(&mut Reader::new(&encoded)).unwrap();
        let wish = match (review, &lines) {
            (Some((parcel, handling, kept)), _) => Wish::Review { parcel, handling, keep: keep(kept), by: &reason },
            (None, Some(_)) => Wish::Return { reason: &reason, lines: read },
            (None, None) if reason.is_empty() => Wish::Cancel,
            (None, None) => Wish::Replay { by: &reason },
        };
        let command = Command { order, id, at_ms, wish };
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        prop_assert_eq!(Word::decode(&bytes), Ok(Word::Command(command)));
        prop_assert_eq!(peek_about(&bytes), Ok(About::Order));
        prop_assert_eq!(read.iter().collect::<Vec<_>>(), lines.unwrap_or_default());
        for cut in 0..bytes.len() {
            prop_assert!(Word::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), first in 0u8..8) {
        let mut likely = vec![first];
        likely.extend_from_slice(&bytes);
        for bytes in [&bytes, &likely] {
            if let Ok(order) = OrderRef::decode(bytes) {
                let _ = order.lines().take(1_000).take_while(Result::is_ok).count();
            }
            if let Ok((_, lines)) = lines_of(bytes) {
                let _ = lines.take(1_000).take_while(Result::is_ok).count();
            }
            let _ = (peek_id(bytes), peek_accepted_late(bytes), peek_about(bytes), Word::decode(bytes).is_ok());
            for delta in row_deltas(u64::MAX - 5, bytes) {
                if let Ok((_, Delta::Requested(r))) = delta {
                    prop_assert_eq!(r.items.iter().count() <= r.items.len(), true);
                }
            }
        }
    }
}
