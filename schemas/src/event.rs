//! Public events: what other systems are told about an order. One event is one committed decision about one order, one
//! record of topic `sluice.order-events`, keyed by the order id.
//!
//! The contract is `proto/sluice/events/v1/order_event.proto` with `asyncapi.json`; a stock client needs nothing else,
//! so whoever changes a byte here changes what other companies' programs read. `proto/` may only grow: every released
//! version of it is frozen in `fixtures/` and compared with today's. Personal data never leaves through an event: the
//! encoder doesn't read names, streets and titles at all.
//!
//! * [`encode`]: writes the Protobuf bytes of an event straight from an order record and the deltas of its decision.
//! * [`decided`]: which event tells of a decision, and its number among those of its order.
//! * [`read`]: the reading side, and the JSON form.
//! * [`asyncapi`]: the description of the topic.

use std::fmt;

use ulid::{ULID_LEN, Ulid};

pub mod asyncapi;
#[cfg(test)]
mod compat_tests;
pub mod decided;
pub mod encode;
#[cfg(test)]
mod golden_tests;
pub mod read;
#[cfg(test)]
mod reader_tests;
#[cfg(test)]
mod samples;

pub use decided::encode_added;
pub use encode::{
    encode_accepted, encode_cancel, encode_conflict, encode_dead_lettered, encode_replayed, encode_return,
    encode_reviewed, encode_settled, encode_tracked,
};
pub use read::encode_json;

/// The contract of the payload, as consumers get it.
pub const PROTO: &str = include_str!("../proto/sluice/events/v1/order_event.proto");

/// The topic's name after the deployment's prefix.
pub const TOPIC: &str = "order-events";

/// The usual `ce_source`.
pub const DEFAULT_SOURCE: &str = "/sluice";

/// What happened; the `ce_type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// An order was accepted and decided.
    OrderAccepted,
    /// An attempt to have a parcel carried has its outcome.
    ParcelSettled,
    /// Another request under the order's idempotency key was refused after it had been acknowledged.
    OrderConflicted,
    /// An accepted order can't go on.
    OrderDeadLettered,
    /// A carrier told where a parcel is.
    ParcelTracked,
    /// The merchant wants an order cancelled, and carriers are asked to forget its shipments.
    CancelRequested,
    /// A carrier's answer to that.
    VoidSettled,
    /// Delivered goods are to come back.
    ReturnRequested,
    /// An attempt to have a return carried has its outcome.
    ReturnSettled,
    /// A carrier told where a return is.
    ReturnTracked,
    /// What was dead-lettered of an order was decided anew.
    OrderReplayed,
    /// A person has said what is in a parcel that was held.
    ParcelReviewed,
}

impl EventType {
    /// Every type that is ever emitted.
    pub const ALL: [Self; 12] = [
        Self::OrderAccepted,
        Self::ParcelSettled,
        Self::OrderConflicted,
        Self::OrderDeadLettered,
        Self::ParcelTracked,
        Self::CancelRequested,
        Self::VoidSettled,
        Self::ReturnRequested,
        Self::ReturnSettled,
        Self::ReturnTracked,
        Self::OrderReplayed,
        Self::ParcelReviewed,
    ];

    /// The name on the wire. Its version changes only if an old reader would misunderstand the new event.
    pub fn name(self) -> &'static str {
        match self {
            Self::OrderAccepted => "com.sluice.order.accepted.v1",
            Self::ParcelSettled => "com.sluice.parcel.settled.v1",
            Self::OrderConflicted => "com.sluice.order.conflicted.v1",
            Self::OrderDeadLettered => "com.sluice.order.dead_lettered.v1",
            Self::ParcelTracked => "com.sluice.parcel.tracked.v1",
            Self::CancelRequested => "com.sluice.order.cancel_requested.v1",
            Self::VoidSettled => "com.sluice.parcel.void_settled.v1",
            Self::ReturnRequested => "com.sluice.return.requested.v1",
            Self::ReturnSettled => "com.sluice.return.settled.v1",
            Self::ReturnTracked => "com.sluice.return.tracked.v1",
            Self::OrderReplayed => "com.sluice.order.replayed.v1",
            Self::ParcelReviewed => "com.sluice.parcel.reviewed.v1",
        }
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

/// The form of an event's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentType {
    /// Protobuf.
    #[default]
    Protobuf,
    /// Protobuf's canonical JSON mapping.
    Json,
}

impl ContentType {
    /// The media type, as the `content-type` header has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Protobuf => "application/protobuf",
            Self::Json => "application/json",
        }
    }
}

/// Identity of an event: where the record it follows from lies in the log. A decision made again from the same record
/// has the same id, so a consumer can drop what it has seen. Shown as 32 hex digits, which sort as the ids do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Epoch of the partition map.
    pub epoch: u16,
    /// Partition of the source record.
    pub partition: u16,
    /// Its position in that partition.
    pub position: u64,
    /// Which input of that record.
    pub index: u32,
}

impl EventId {
    /// 16 bytes that sort as the ids do.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.epoch) << 112
            | u128::from(self.partition) << 96
            | u128::from(self.position) << 32
            | u128::from(self.index))
        .to_be_bytes()
    }

    /// The id that [`EventId::to_bytes`] gave.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(bytes);
        Self {
            epoch: (bits >> 112) as u16,
            partition: (bits >> 96) as u16,
            position: (bits >> 32) as u64,
            index: bits as u32,
        }
    }

    /// The text of [`fmt::Display`], without allocating.
    pub fn to_text(self) -> [u8; 32] {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.to_bytes()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        text
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.to_bytes()))
    }
}

/// An event that was just encoded: what its headers need to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    /// What happened.
    pub event_type: EventType,
    /// To which order.
    pub order_id: u128,
    /// When, ms since the Unix epoch.
    pub occurred_at_ms: u64,
}

/// The headers and the key of one event: CloudEvents 1.0, Kafka binary mode. Nothing here is allocated.
///
/// There is no `ce_dataschema`: `ce_type` carries the version, and the address would cost more bytes than the rest.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    id: [u8; 32],
    time: [u8; 24],
    order_id: [u8; ULID_LEN],
    sequence: [u8; SEQUENCE_LEN],
    source: &'a str,
    event_type: EventType,
    content_type: ContentType,
}

/// How many headers an event has.
pub const HEADER_COUNT: usize = 8;

/// Digits of a sequence number as text.
pub const SEQUENCE_LEN: usize = 10;

/// An event's number among those of its order, as `ce_sequence` shows it: with leading zeros, so that texts sort as the
/// numbers do. No order has so many that they don't fit.
pub fn sequence_text(sequence: u64) -> [u8; SEQUENCE_LEN] {
    let (mut text, mut left) = ([b'0'; SEQUENCE_LEN], sequence);
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    text
}

impl<'a> Headers<'a> {
    /// Headers of `event`, the `sequence`th of its order from 0; `source` is the deployment's `ce_source`, a URI reference.
    pub fn new(event: &Encoded, id: EventId, sequence: u64, source: &'a str, content_type: ContentType) -> Self {
        Self {
            id: id.to_text(),
            time: rfc3339(event.occurred_at_ms),
            order_id: order_id_text(event.order_id),
            sequence: sequence_text(sequence),
            source,
            event_type: event.event_type,
            content_type,
        }
    }

    /// The record's key: the order id's 26 characters.
    pub fn key(&self) -> &[u8; ULID_LEN] {
        &self.order_id
    }

    /// Names and values, all of them UTF-8.
    pub fn list(&self) -> [(&'static str, &[u8]); HEADER_COUNT] {
        [
            ("ce_specversion", b"1.0"),
            ("ce_id", &self.id),
            ("ce_source", self.source.as_bytes()),
            ("ce_type", self.event_type.name().as_bytes()),
            ("ce_time", &self.time),
            ("ce_subject", &self.order_id),
            ("ce_sequence", &self.sequence),
            ("content-type", self.content_type.name().as_bytes()),
        ]
    }
}

/// An order id as events show it: the 26 characters of a ULID.
pub fn order_id_text(id: u128) -> [u8; ULID_LEN] {
    let mut text = [0; ULID_LEN];
    Ulid(id).array_to_str(&mut text);
    text
}

/// The last moment that four digits of a year can tell, ms since the Unix epoch.
const YEAR_9999_END_MS: u64 = 253_402_300_799_999;

/// A time (ms since the Unix epoch) in RFC 3339, UTC with ms: `2026-11-10T00:00:00.123Z`. Later ones than the year 9999
/// are shown as its end.
pub fn rfc3339(ms: u64) -> [u8; 24] {
    let ms = ms.min(YEAR_9999_END_MS);
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days since 0000-03-01, so that a leap day ends its year; 146,097 days are 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |range: std::ops::Range<usize>, mut value: u64| {
        for digit in text[range].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0..4, year);
    put(5..7, month);
    put(8..10, day);
    put(11..13, in_day / 3_600_000);
    put(14..16, in_day / 60_000 % 60);
    put(17..19, in_day / 1_000 % 60);
    put(20..23, in_day % 1_000);
    text
}
