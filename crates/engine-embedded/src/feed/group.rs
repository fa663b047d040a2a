//! From the frames of a group to the events that they stand for.
//!
//! A frame has the orders that are new in it, and deltas. Those of a new order, wherever they are in the frame, are one
//! event; those of an older order fall into decisions, one event each. The rest of what an event says comes from the order's
//! row.

use std::collections::HashMap;

use sluice_domain::OrderId;
use sluice_pipeline::{Cursor, FeedEvent, LogError};
use sluice_schemas::{
    CodecError,
    delta::{Delta, Requested, row_deltas},
    event::{
        Encoded, EventId,
        decided::{Numbers, attempt_of, begins, encode_added},
        encode_accepted, encode_json,
    },
    order::{OrderRef, peek_id},
    wire::Reader as Bytes,
};

use crate::{
    journal::{
        Group,
        format::{self, Entry, Frame, Section, Target, kind},
    },
    shared::Shared,
};

/// Bytes of events in a page, beyond which nothing is added to it.
const PAGE_BYTES: usize = 1 << 20;

/// What is known of an order besides the decision that is told.
struct Known {
    row: Vec<u8>,
    merchant: String,
    numbers: Numbers,
}

/// Gathers one page.
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    max: usize,
    bytes: usize,
    events: Vec<FeedEvent>,
    /// What is known of the orders of one group; `None` for one that isn't there, or can't be read.
    known: HashMap<u128, Option<Known>>,
    payload: Vec<u8>,
    deltas: Vec<u8>,
}

/// One decision about an order of an earlier frame.
struct Decision<'a> {
    /// Where its first delta stands in the payload.
    at: usize,
    order: u128,
    head: Entry<'a>,
    /// Its other deltas, encoded; with what carriers are asked.
    rest: Vec<&'a [u8]>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(shared: &'a Shared, max: usize) -> Self {
        Self {
            shared,
            max: max.max(1),
            bytes: 0,
            events: Vec::new(),
            known: HashMap::new(),
            payload: Vec::new(),
            deltas: Vec::new(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= self.max || self.bytes >= PAGE_BYTES
    }

    pub(super) fn into_events(self) -> Vec<FeedEvent> {
        self.events
    }

    /// Adds the events of `group` from `offset` of its payload on. Gives the offset to go on from, or `None` if that was all
    /// of it.
    ///
    /// # Errors
    /// [`LogError`] if the group or what belongs to it can't be read.
    pub(super) fn take(&mut self, group: &Group, offset: u64) -> Result<Option<u64>, LogError> {
        // A row has all of a durable group, but what was read for an earlier one may be older than this.
        self.known.clear();
        let damaged = |e: CodecError| LogError::Damaged {
            file: "the journal".into(),
            offset: group.position,
            what: format!("a group's checksum fits, but {e}"),
        };
        for frame in format::frames(group.payload()) {
            let frame = frame.map_err(damaged)?;
            if (frame.end() as u64) <= offset {
                continue;
            }
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            if let Some(next) = self.new_orders(group, &frame, from).map_err(damaged)? {
                return Ok(Some(next as u64));
            }
            for decision in decisions(&frame, from).map_err(damaged)? {
                if self.is_full() {
                    return Ok(Some(decision.at as u64));
                }
                self.decision(group, &decision)?;
            }
        }
        Ok(None)
    }

    /// Adds the orders of `frame` that stand at `from` or behind it. Gives where the first one is for which there is no room.
    fn new_orders(&mut self, group: &Group, frame: &Frame<'_>, from: usize) -> Result<Option<usize>, CodecError> {
        let Some(section) = frame.orders() else { return Ok(None) };
        let mut records = Vec::new();
        let mut left = None;
        for item in format::orders(section.body) {
            let (offset, record) = item?;
            if section.start + offset < from {
                continue;
            }
            if self.events.len() + records.len() >= self.max {
                left = Some(section.start + offset);
                break;
            }
            records.push((offset, record));
        }
        let (Some(&(first, _)), Some(&(last, _))) = (records.first(), records.last()) else { return Ok(left) };
        let mut all = about_new(frame, first..=last)?;
        // As they were decided: what is about the whole order, then each parcel.
        all.sort_by_key(|(offset, parcel, _)| (*offset, *parcel));
        let mut rest = all.as_slice();
        for (offset, record) in records {
            if self.is_full() {
                return Ok(Some(section.start + offset));
            }
            let count = rest.iter().take_while(|one| one.0 == offset).count();
            let (mine, others) = rest.split_at(count);
            rest = others;
            self.deltas.clear();
            mine.iter().for_each(|(_, _, delta)| self.deltas.extend_from_slice(delta));
            self.payload.clear();
            let place = section.start + offset;
            match OrderRef::decode(record).and_then(|o| Ok((encode_accepted(&mut self.payload, &o, &self.deltas)?, o)))
            {
                Ok((event, order)) => self.tell(group, place, &event, order.merchant.to_owned(), 0),
                Err(error) => {
                    let order = peek_id(record).map_or_else(|_| String::new(), |id| OrderId(id).to_string());
                    tracing::error!(order_id = order, %error, "an event could not be written");
                }
            }
        }
        Ok(left)
    }

    fn decision(&mut self, group: &Group, decision: &Decision<'_>) -> Result<(), LogError> {
        let id = OrderId(decision.order);
        self.deltas.clear();
        self.deltas.extend_from_slice(decision.head.bytes);
        decision.rest.iter().for_each(|delta| self.deltas.extend_from_slice(delta));
        if !self.known.contains_key(&decision.order) {
            let known = match known(self.shared, id) {
                // One order must not keep everybody from all others.
                Err(error @ LogError::Damaged { .. }) => {
                    tracing::error!(order_id = %id, %error, "what belongs to an order can't be read");
                    None
                }
                known => known?,
            };
            self.known.insert(decision.order, known);
        }
        let Some(Some(known)) = self.known.get(&decision.order) else {
            tracing::error!(order_id = %id, "what was decided about an unknown or unreadable order is not told");
            return Ok(());
        };
        let carrier = carrier_of(&known.row, &decision.head.delta);
        self.payload.clear();
        let event = encode_added(&mut self.payload, decision.order, &known.merchant, carrier, &self.deltas);
        let number = known.numbers.number(&known.row, decision.head.bytes);
        let merchant = known.merchant.clone();
        match (event, number) {
            (Ok(None), _) => {}
            (Ok(Some(event)), Some(number)) => self.tell(group, decision.at, &event, merchant, number),
            (Err(error), _) => tracing::error!(order_id = %id, %error, "an event could not be written"),
            (Ok(_), None) => tracing::error!(order_id = %id, "a decision is not in its order's row, and is not told"),
        }
        Ok(())
    }

    fn tell(&mut self, group: &Group, at: usize, event: &Encoded, merchant: String, sequence: u64) {
        let data = match encode_json(&self.payload) {
            Ok(data) => data.into_bytes(),
            Err(error) => {
                let order = OrderId(event.order_id);
                tracing::error!(order_id = %order, %error, "an event could not be written");
                return;
            }
        };
        let position = group.payload_position() + at as u64;
        self.bytes += data.len();
        self.events.push(FeedEvent {
            order: OrderId(event.order_id),
            merchant,
            id: EventId { epoch: 0, partition: 0, position, index: 0 }.to_string(),
            kind: event.event_type.name(),
            sequence,
            at_ms: event.occurred_at_ms,
            data,
            next: Cursor(vec![group.position, at as u64 + 1]),
        });
    }
}

/// Sections with entries: each with where those start in its body.
fn sections<'a>(frame: &Frame<'a>) -> impl Iterator<Item = Result<(Section<'a>, usize), CodecError>> + use<'a> {
    frame.sections().filter_map(|section| {
        let section = match section {
            Ok(section) => section,
            Err(error) => return Some(Err(error)),
        };
        match section.kind {
            kind::DELTAS => Some(Ok((section, 0))),
            kind::REQUESTS => Some(format::carrier_of(section.body).map(|(_, from)| (section, from))),
            _ => None,
        }
    })
}

/// One delta of a new order: the order's offset, its parcel's number + 1 or 0, and the delta.
type AboutNew<'a> = (usize, u16, &'a [u8]);

/// The deltas about the new orders at these offsets.
fn about_new<'a>(frame: &Frame<'a>, offsets: std::ops::RangeInclusive<usize>) -> Result<Vec<AboutNew<'a>>, CodecError> {
    let mut all = Vec::new();
    for section in sections(frame) {
        let (section, from) = section?;
        for entry in format::entries(section.body, from) {
            let entry = entry?;
            match entry.target {
                Target::Here(offset) if offsets.contains(&offset) => {
                    all.push((offset, parcel_of(&entry.delta), entry.bytes));
                }
                _ => {}
            }
        }
    }
    Ok(all)
}

fn parcel_of(delta: &Delta<'_>) -> u16 {
    match delta {
        Delta::Requested(requested) => u16::from(requested.parcel) + 1,
        Delta::Packed { parcel, .. }
        | Delta::Held { parcel, .. }
        | Delta::DeadLettered { parcel: Some(parcel), .. } => u16::from(*parcel) + 1,
        _ => 0,
    }
}

/// The decisions about older orders whose first delta stands at `from` or behind it.
fn decisions<'a>(frame: &Frame<'a>, from: usize) -> Result<Vec<Decision<'a>>, CodecError> {
    let mut all: Vec<Decision<'a>> = Vec::new();
    for section in frame.sections() {
        let section = section?;
        if section.kind != kind::DELTAS {
            continue;
        }
        // The order, and the delta, that come before.
        let mut before: Option<(u128, Delta<'a>)> = None;
        for entry in format::entries(section.body, 0) {
            let entry = entry?;
            let Target::Id(order) = entry.target else {
                before = None;
                continue;
            };
            let at = section.start + entry.offset;
            let same = before.as_ref().filter(|before| before.0 == order).map(|before| &before.1);
            let first = same.is_none() || begins(same, &entry.delta);
            before = Some((order, entry.delta));
            if first && at >= from {
                all.push(Decision { at, order, head: entry, rest: Vec::new() });
            } else if !first && let Some(last) = all.last_mut() {
                last.rest.push(entry.bytes);
            }
        }
    }
    follow(frame, &mut all)?;
    Ok(all)
}

/// Adds to decisions what carriers are asked: that stands apart, with what else each is asked.
fn follow<'a>(frame: &Frame<'a>, decisions: &mut [Decision<'a>]) -> Result<(), CodecError> {
    let asks = |d: &Decision<'_>| matches!(d.head.delta, Delta::Settled { .. } | Delta::Commanded { .. });
    if !decisions.iter().any(asks) {
        return Ok(());
    }
    let requests = requests(frame)?;
    for Decision { order, head, rest, .. } in decisions {
        let from = requests.partition_point(|request| request.order < *order);
        let mine = requests[from..].iter().take_while(|request| request.order == *order);
        match head.delta {
            Delta::Settled { parcel, attempt, .. } => {
                let next = (parcel, attempt.wrapping_add(1));
                rest.extend(mine.filter(|request| request.attempt == next).map(|request| request.bytes));
            }
            // Nothing else is decided about its order in the same commit.
            Delta::Commanded { .. } => {
                rest.extend(mine.map(|request| request.bytes));
                rest.sort_by_key(|delta| place_in_command(delta));
            }
            _ => {}
        }
    }
    Ok(())
}

/// As they were decided: parcel by parcel, first what it is, then who carries it or why nobody does.
fn place_in_command(delta: &[u8]) -> (u8, u8) {
    match Delta::read(&mut Bytes::new(delta)) {
        Ok((
            _,
            Delta::Return { parcel, .. }
            | Delta::Replayed { parcel: Some(parcel), .. }
            | Delta::Reviewed { parcel, .. },
        )) => (parcel, 0),
        Ok((_, Delta::Requested(Requested { parcel, .. }) | Delta::Packed { parcel, .. })) => (parcel, 1),
        Ok((_, Delta::DeadLettered { parcel, .. })) => (parcel.unwrap_or(u8::MAX), 2),
        _ => (u8::MAX, 3),
    }
}

/// What a carrier is asked about an older order.
struct Request<'a> {
    order: u128,
    /// Parcel and attempt.
    attempt: (u8, u8),
    /// The delta, encoded.
    bytes: &'a [u8],
}

/// The requests about older orders, by order, and those of each as they stand in the frame.
fn requests<'a>(frame: &Frame<'a>) -> Result<Vec<Request<'a>>, CodecError> {
    let mut all = Vec::new();
    for section in sections(frame) {
        let (section, from) = section?;
        if section.kind != kind::REQUESTS {
            continue;
        }
        for entry in format::entries(section.body, from) {
            let entry = entry?;
            if let (Target::Id(order), Delta::Requested(asked)) = (entry.target, &entry.delta) {
                all.push(Request { order, attempt: (asked.parcel, asked.attempt), bytes: entry.bytes });
            }
        }
    }
    all.sort_by_key(|request| request.order);
    Ok(all)
}

/// Reads the row and the record of an order.
///
/// # Errors
/// [`LogError::Damaged`] if what was read is none of these, and any other if nothing can be read.
fn known(shared: &Shared, id: OrderId) -> Result<Option<Known>, LogError> {
    let mut row = Vec::new();
    shared.read_row_in_order(id, &mut row)?;
    let mut numbers = Numbers::default();
    numbers.read(&row).map_err(garbled("an order's row", 0))?;
    let position = row_deltas(id.placed_at_ms(), &row).find_map(|delta| match delta {
        Ok((_, Delta::Accepted { position })) => Some(position),
        _ => None,
    });
    let Some(position) = position else { return Ok(None) };
    let mut record = Vec::new();
    shared.journal.order_at(position, &mut record)?;
    let order = OrderRef::decode(&record).map_err(garbled("the journal", position))?;
    Ok(Some(Known { merchant: order.merchant.to_owned(), row, numbers }))
}

fn garbled(file: &str, offset: u64) -> impl Fn(CodecError) -> LogError {
    move |error| LogError::Damaged { file: file.to_owned(), offset, what: error.to_string() }
}

/// The carrier that was asked for the shipment which a decision is about.
fn carrier_of<'a>(row: &'a [u8], head: &Delta<'_>) -> &'a str {
    let about = attempt_of(head);
    let carrier = row_deltas(0, row).find_map(|delta| match delta {
        Ok((_, Delta::Requested(asked))) if Some((asked.parcel, asked.attempt)) == about => Some(asked.carrier),
        _ => None,
    });
    carrier.unwrap_or_default()
}
