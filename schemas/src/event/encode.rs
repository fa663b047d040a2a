//! Writes events. An engine emits one per decision at its full rate, so nothing is allocated but the growth of the
//! caller's buffer: strings go straight from the order record and the deltas into the output.
//!
//! A nested message's length stands before it and isn't known yet: one byte is left for it and filled in afterwards; the
//! few messages of 128 bytes and more are then moved up to make room. Fields are written by number and defaults are left
//! out, so the bytes are those that every other Protobuf library writes.
//!
//! On an error `out` is as it was before.

use super::{Encoded, EventType, order_id_text};
use crate::{
    CodecError,
    delta::{Delta, FIRST_RETURN, Items, Requested, VOID},
    order::{OrderRef, placed_at_ms},
    outcome::OutcomeKind,
    wire::{Reader, put_bytes, put_varint},
    word::Progress,
};

mod commands;

pub use commands::{encode_cancel, encode_replayed, encode_return, encode_reviewed};

/// Appends `order.accepted`: an order and the deltas of the one decision that followed from it; no deltas if no stage
/// decided it.
///
/// # Errors
/// [`CodecError`] if the record's lines or the deltas can't be read, or hold what no such decision writes.
pub fn encode_accepted(out: &mut Vec<u8>, order: &OrderRef<'_>, deltas: &[u8]) -> Result<Encoded, CodecError> {
    let event =
        Encoded { event_type: EventType::OrderAccepted, order_id: order.id, occurred_at_ms: order.accepted_at_ms };
    whole_or_nothing(out, event, order.merchant, |w| accepted(w, order, Deltas::new(order.id, deltas)))
}

/// Appends `parcel.settled`, `parcel.void_settled` or `return.settled`: the deltas of the decision that followed from one
/// outcome. `carrier` is the one that was asked.
///
/// # Errors
/// [`CodecError`] if the deltas can't be read, or are not those of one settled attempt.
pub fn encode_settled(
    out: &mut Vec<u8>,
    order_id: u128,
    merchant: &str,
    carrier: &str,
    deltas: &[u8],
) -> Result<Encoded, CodecError> {
    let settled = Settled::of(Deltas::new(order_id, deltas))?;
    let event_type = match (settled.parcel, settled.attempt) {
        (FIRST_RETURN.., _) => EventType::ReturnSettled,
        (_, attempt) if attempt & VOID != 0 => EventType::VoidSettled,
        _ => EventType::ParcelSettled,
    };
    let event = Encoded { event_type, order_id, occurred_at_ms: settled.at_ms };
    whole_or_nothing(out, event, merchant, |w| settled.encode(w, carrier))
}

/// Appends `parcel.tracked` or `return.tracked`: the deltas of the decision that followed from a carrier's news. `carrier` is the one that
/// told it.
///
/// # Errors
/// [`CodecError`] if the deltas can't be read, or are not those of one carrier's news.
pub fn encode_tracked(
    out: &mut Vec<u8>,
    order_id: u128,
    merchant: &str,
    carrier: &str,
    deltas: &[u8],
) -> Result<Encoded, CodecError> {
    const WHAT: CodecError = CodecError { what: "deltas of a tracked parcel" };
    let mut all = Deltas::new(order_id, deltas);
    let (at_ms, Delta::Tracked { parcel, attempt, progress, text }) = all.next().ok_or(WHAT)?? else {
        return Err(WHAT);
    };
    let settles = match all.next().transpose()? {
        None => false,
        Some((_, Delta::Settled { parcel: p, attempt: a, outcome: OutcomeKind::Accepted, .. }))
            if (p, a) == (parcel, attempt) =>
        {
            true
        }
        Some(_) => return Err(WHAT),
    };
    if all.next().is_some() {
        return Err(WHAT);
    }
    let event_type = if parcel < FIRST_RETURN { EventType::ParcelTracked } else { EventType::ReturnTracked };
    let event = Encoded { event_type, order_id, occurred_at_ms: at_ms };
    whole_or_nothing(out, event, merchant, |w| {
        w.number_if(1, u64::from(parcel));
        w.number_if(2, u64::from(attempt));
        w.text_if(3, carrier);
        w.number(4, progress_number(progress));
        w.text_if(5, text);
        w.number_if(6, u64::from(settles));
        Ok(())
    })
}

/// Appends `order.conflicted`: a request acknowledged under `conflicting_order_id` is refused, because `order_id` has its
/// idempotency key and another content. `found_at_ms` is when that was found, ms since the Unix epoch.
pub fn encode_conflict(
    out: &mut Vec<u8>,
    order_id: u128,
    merchant: &str,
    conflicting_order_id: u128,
    found_at_ms: u64,
) -> Encoded {
    let event = Encoded { event_type: EventType::OrderConflicted, order_id, occurred_at_ms: found_at_ms };
    let mut w = Writer { out };
    let change = w.start(&event, merchant);
    w.bytes(1, &order_id_text(conflicting_order_id));
    w.number_if(2, as_i64(placed_at_ms(conflicting_order_id)));
    w.close(change);
    event
}

/// Appends `order.dead_lettered`: the delta of a decision that an order already accepted can't go on.
///
/// # Errors
/// [`CodecError`] if the deltas can't be read, or are not one dead letter of a whole order.
pub fn encode_dead_lettered(
    out: &mut Vec<u8>,
    order_id: u128,
    merchant: &str,
    deltas: &[u8],
) -> Result<Encoded, CodecError> {
    const WHAT: CodecError = CodecError { what: "deltas of a dead-lettered order" };
    let mut all = Deltas::new(order_id, deltas);
    let (at_ms, Delta::DeadLettered { parcel: None, rules, reason, .. }) = all.next().ok_or(WHAT)?? else {
        return Err(WHAT);
    };
    if all.next().is_some() {
        return Err(WHAT);
    }
    let event = Encoded { event_type: EventType::OrderDeadLettered, order_id, occurred_at_ms: at_ms };
    whole_or_nothing(out, event, merchant, |w| {
        w.text_if(1, reason);
        w.number_if(2, u64::from(rules));
        Ok(())
    })
}

fn whole_or_nothing(
    out: &mut Vec<u8>,
    event: Encoded,
    merchant: &str,
    change: impl FnOnce(&mut Writer<'_>) -> Result<(), CodecError>,
) -> Result<Encoded, CodecError> {
    let before = out.len();
    let mut w = Writer { out };
    let at = w.start(&event, merchant);
    if let Err(error) = change(&mut w) {
        out.truncate(before);
        return Err(error);
    }
    w.close(at);
    Ok(event)
}

/// The deltas of one decision, each with its time; can be walked again, unlike [`crate::delta::row_deltas`]. Whose order
/// it is may be among them; every event says that anyway.
#[derive(Clone, Copy)]
struct Deltas<'a> {
    placed_at_ms: u64,
    rest: Reader<'a>,
}

impl<'a> Deltas<'a> {
    fn new(order_id: u128, deltas: &'a [u8]) -> Self {
        Self { placed_at_ms: placed_at_ms(order_id), rest: Reader::new(deltas) }
    }
}

impl<'a> Iterator for Deltas<'a> {
    type Item = Result<(u64, Delta<'a>), CodecError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            match Delta::read(&mut self.rest) {
                Ok((_, Delta::Merchant { .. })) => {}
                Ok((late, delta)) => return Some(Ok((self.placed_at_ms.saturating_add_signed(late), delta))),
                Err(error) => {
                    self.rest = Reader::new(&[]);
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Which parcel numbers have a property.
#[derive(Default, Clone, Copy)]
struct Parcels([u64; 4]);

impl Parcels {
    fn has(&self, number: u8) -> bool {
        self.0[usize::from(number / 64)] & 1 << (number % 64) != 0
    }

    /// False if the number was there already.
    fn insert(&mut self, number: u8) -> bool {
        let new = !self.has(number);
        self.0[usize::from(number / 64)] |= 1 << (number % 64);
        new
    }
}

/// What has to be known of a decision about a whole order before its first parcel is written.
#[derive(Default)]
struct Accepted<'a> {
    classified: Option<(u64, u8, u32, u32)>,
    dead_letter: Option<(u64, u32, &'a str)>,
    packed: Parcels,
    dead: Parcels,
}

impl<'a> Accepted<'a> {
    fn of(deltas: impl Iterator<Item = Result<(u64, Delta<'a>), CodecError>>) -> Result<Self, CodecError> {
        let mut seen = Self::default();
        for delta in deltas {
            let (at, delta) = delta?;
            let first = match delta {
                Delta::Accepted { .. } | Delta::Merchant { .. } => true,
                Delta::Classified { parcels, rules, model } => {
                    seen.classified.replace((at, parcels, rules, model)).is_none()
                }
                Delta::Requested(Requested { parcel, .. })
                | Delta::Packed { parcel, .. }
                | Delta::Held { parcel, .. } => seen.packed.insert(parcel),
                Delta::DeadLettered { parcel: Some(parcel), .. } => seen.dead.insert(parcel),
                Delta::DeadLettered { parcel: None, rules, reason, .. } => {
                    seen.dead_letter.replace((at, rules, reason)).is_none()
                }
                Delta::Settled { .. }
                | Delta::Conflicted { .. }
                | Delta::Tracked { .. }
                | Delta::Commanded { .. }
                | Delta::Return { .. }
                | Delta::Replayed { .. }
                | Delta::Reviewed { .. } => false,
            };
            if !first {
                return Err(CodecError { what: "deltas of an accepted order" });
            }
        }
        Ok(seen)
    }

    /// Version of the catalogue and rules that decided, if any did.
    fn rules(&self) -> Option<u32> {
        self.classified.map(|c| c.2).or(self.dead_letter.map(|d| d.1))
    }

    /// Version of the model that took part in it, if one did.
    fn model(&self) -> Option<u32> {
        self.classified.map(|c| c.3).filter(|&model| model > 0)
    }
}

fn accepted(w: &mut Writer<'_>, order: &OrderRef<'_>, deltas: Deltas<'_>) -> Result<(), CodecError> {
    w.text_if(1, order.customer);
    w.text_if(2, order.currency);
    w.text_if(3, order.ship_to.country);
    for line in order.lines() {
        let line = line?;
        let at = w.open(4);
        w.text_if(1, line.sku);
        w.number_if(2, u64::from(line.quantity));
        w.number_if(3, line.unit_price);
        w.close(at);
    }
    let seen = Accepted::of(deltas)?;
    decided(w, 5, &seen, deltas)?;
    let decided_at = seen.classified.map(|c| c.0).or(seen.dead_letter.map(|d| d.0));
    if let Some(at) = decided_at {
        w.number(9, as_i64(at));
    }
    if let Some(model) = seen.model() {
        w.number(10, u64::from(model));
    }
    Ok(())
}

/// Writes what the stages have decided about a whole order: rules, number of parcels, each parcel, and why nothing could be, as
/// fields from `tag` on.
fn decided(w: &mut Writer<'_>, tag: u64, seen: &Accepted<'_>, all: Deltas<'_>) -> Result<(), CodecError> {
    if let Some(rules) = seen.rules() {
        w.number(tag, u64::from(rules));
    }
    if let Some((_, parcels, ..)) = seen.classified {
        w.number(tag + 1, u64::from(parcels));
    }
    parcels(w, tag + 2, seen, all)?;
    if let Some((_, _, reason)) = seen.dead_letter {
        w.bytes(tag + 3, reason.as_bytes());
    }
    Ok(())
}

/// Writes each parcel as field `tag`.
fn parcels(w: &mut Writer<'_>, tag: u64, seen: &Accepted<'_>, all: Deltas<'_>) -> Result<(), CodecError> {
    let mut rest = all;
    while let Some(delta) = rest.next() {
        let (number, handling, weight, items, asked) = match delta?.1 {
            Delta::Requested(r) => (r.parcel, r.handling, r.weight, r.items, Some((r.carrier, r.attempt))),
            Delta::Packed { parcel, handling, weight, items } => (parcel, handling, weight, items, None),
            Delta::Held { parcel, handling, confidence, weight, items } => {
                let at = w.open(tag);
                w.number_if(1, u64::from(parcel));
                w.number_if(3, u64::from(weight.grams));
                w.items(4, &items)?;
                w.number_if(8, u64::from(weight.estimated));
                let held = w.open(9);
                w.number(1, handling_number(handling));
                w.number_if(2, u64::from(confidence));
                w.close(held);
                w.close(at);
                continue;
            }
            // Nothing says what is in it.
            Delta::DeadLettered { parcel: Some(number), reason, .. } if !seen.packed.has(number) => {
                let at = w.open(tag);
                w.number_if(1, u64::from(number));
                w.bytes(7, reason.as_bytes());
                w.close(at);
                continue;
            }
            _ => continue,
        };
        let at = w.open(tag);
        w.number_if(1, u64::from(number));
        w.number_if(2, handling_number(handling));
        w.number_if(3, u64::from(weight.grams));
        w.items(4, &items)?;
        if let Some((carrier, attempt)) = asked {
            w.bytes(5, carrier.as_bytes());
            w.number(6, u64::from(attempt));
        }
        if seen.dead.has(number) {
            // Mostly the very next delta.
            let reason = rest.chain(all).find_map(|delta| match delta {
                Ok((_, Delta::DeadLettered { parcel: Some(n), reason, .. })) if n == number => Some(reason),
                _ => None,
            });
            w.bytes(7, reason.unwrap_or_default().as_bytes());
        }
        w.number_if(8, u64::from(weight.estimated));
        w.close(at);
    }
    Ok(())
}

/// The decision that follows from one outcome.
struct Settled<'a> {
    at_ms: u64,
    parcel: u8,
    attempt: u8,
    outcome: OutcomeKind,
    text: &'a str,
    next: Option<Requested<'a>>,
    dead_letter: Option<(u64, &'a str, u32)>,
}

impl<'a> Settled<'a> {
    fn of(mut deltas: Deltas<'a>) -> Result<Self, CodecError> {
        const WHAT: CodecError = CodecError { what: "deltas of a settled attempt" };
        let (at_ms, Delta::Settled { parcel, attempt, outcome, text }) = deltas.next().ok_or(WHAT)?? else {
            return Err(WHAT);
        };
        let mut settled = Self { at_ms, parcel, attempt, outcome, text, next: None, dead_letter: None };
        for delta in deltas {
            match delta? {
                (_, Delta::Requested(next)) if next.parcel == parcel && settled.next.is_none() => {
                    settled.next = Some(next);
                }
                (at, Delta::DeadLettered { parcel: Some(n), rules, reason, .. }) if n == parcel => {
                    // Of two reasons, the one that a status shows.
                    if settled.dead_letter.is_none_or(|old| (at, reason) < (old.0, old.1)) {
                        settled.dead_letter = Some((at, reason, rules));
                    }
                }
                _ => return Err(WHAT),
            }
        }
        Ok(settled)
    }

    fn encode(&self, w: &mut Writer<'_>, carrier: &str) -> Result<(), CodecError> {
        w.number_if(1, u64::from(self.parcel));
        w.number_if(2, u64::from(if self.parcel < FIRST_RETURN { self.attempt & !VOID } else { self.attempt }));
        w.number(3, outcome_number(self.outcome));
        w.text_if(4, carrier);
        let tag = if self.outcome == OutcomeKind::Accepted { 5 } else { 6 };
        w.text_if(tag, self.text);
        if let Some(next) = &self.next {
            let at = w.open(7);
            w.text_if(1, next.carrier);
            w.number_if(2, u64::from(next.attempt));
            w.number_if(3, handling_number(next.handling));
            w.number_if(4, u64::from(next.weight.grams));
            w.items(5, &next.items)?;
            w.number_if(6, u64::from(next.weight.estimated));
            w.close(at);
        }
        if let Some((_, reason, rules)) = self.dead_letter {
            w.bytes(8, reason.as_bytes());
            w.number(9, u64::from(rules));
        }
        Ok(())
    }
}

/// A group's or class's stored code as its number in `HandlingGroup` or `HandlingClass`, where 0 means none. One that is newer
/// than the `.proto` goes out by number, as Protobuf's enums allow.
fn handling_number(code: u8) -> u64 {
    u64::from(code) + 1
}

fn outcome_number(outcome: OutcomeKind) -> u64 {
    outcome as u64 + 1
}

/// The number in `Progress`, whose order is that of [`Progress::ALL`].
fn progress_number(progress: Progress) -> u64 {
    Progress::ALL.iter().position(|p| *p == progress).map_or(0, |at| at as u64 + 1)
}

/// Times as `int64`; the end of time stays there.
fn as_i64(ms: u64) -> u64 {
    ms.min(i64::MAX as u64)
}

const VARINT: u64 = 0;
const LENGTH: u64 = 2;

struct Writer<'o> {
    out: &'o mut Vec<u8>,
}

impl Writer<'_> {
    /// Writes the common fields and opens the change.
    fn start(&mut self, event: &Encoded, merchant: &str) -> usize {
        self.bytes(1, &order_id_text(event.order_id));
        self.text_if(2, merchant);
        self.number_if(3, as_i64(placed_at_ms(event.order_id)));
        self.number_if(4, as_i64(event.occurred_at_ms));
        self.open(match event.event_type {
            EventType::OrderAccepted => 10,
            EventType::ParcelSettled => 11,
            EventType::OrderConflicted => 12,
            EventType::OrderDeadLettered => 13,
            EventType::ParcelTracked => 14,
            EventType::CancelRequested => 15,
            EventType::VoidSettled => 16,
            EventType::ReturnRequested => 17,
            EventType::ReturnSettled => 18,
            EventType::ReturnTracked => 19,
            EventType::OrderReplayed => 20,
            EventType::ParcelReviewed => 21,
        })
    }

    fn number(&mut self, tag: u64, value: u64) {
        put_varint(self.out, tag << 3 | VARINT);
        put_varint(self.out, value);
    }

    /// Writes a number whose default is 0.
    fn number_if(&mut self, tag: u64, value: u64) {
        if value != 0 {
            self.number(tag, value);
        }
    }

    fn bytes(&mut self, tag: u64, value: &[u8]) {
        put_varint(self.out, tag << 3 | LENGTH);
        put_bytes(self.out, value);
    }

    /// Writes a text whose default is "".
    fn text_if(&mut self, tag: u64, value: &str) {
        if !value.is_empty() {
            self.bytes(tag, value.as_bytes());
        }
    }

    fn items(&mut self, tag: u64, items: &Items<'_>) -> Result<(), CodecError> {
        let mut left = items.len();
        for item in items.iter() {
            let at = self.open(tag);
            self.number_if(1, u64::from(item.line));
            if let Some(quantity) = item.quantity {
                self.number(2, u64::from(quantity));
            }
            self.close(at);
            left -= 1;
        }
        // The iterator ends early at a number that is too large.
        if left == 0 { Ok(()) } else { Err(CodecError { what: "items" }) }
    }

    /// Starts a nested message; gives where it starts.
    fn open(&mut self, tag: u64) -> usize {
        put_varint(self.out, tag << 3 | LENGTH);
        self.out.push(0);
        self.out.len()
    }

    /// Ends the nested message that starts at `start`: fills in its length.
    fn close(&mut self, start: usize) {
        let len = self.out.len() - start;
        if len < 0x80 {
            self.out[start - 1] = len as u8;
            return;
        }
        // Written behind the message first, to see how long it is.
        let end = self.out.len();
        put_varint(self.out, len as u64);
        let width = self.out.len() - end;
        self.out.pop();
        self.out.copy_within(start..end, start + width - 1);
        let mut left = len;
        for (at, byte) in self.out[start - 1..start - 1 + width].iter_mut().enumerate() {
            *byte = left as u8 & 0x7f | if at + 1 < width { 0x80 } else { 0 };
            left >>= 7;
        }
    }
}
