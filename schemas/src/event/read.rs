//! The reading side of the events, and their JSON form: the same messages as `order_event.proto`, whose comments say what
//! each field means. For tests, tools and deployments that emit JSON; encoding for the log goes through
//! [`super::encode`].

use prost::{Message, Oneof};
use serde::{Serialize, Serializer};

use crate::CodecError;

mod enums;

pub use enums::{HandlingClass, HandlingGroup, Outcome, Progress};

/// Reads an event from its Protobuf bytes.
///
/// # Errors
/// [`CodecError`] if the bytes are not an `OrderEvent`.
pub fn decode(event: &[u8]) -> Result<OrderEvent, CodecError> {
    OrderEvent::decode(event).map_err(|_| CodecError { what: "event" })
}

/// The JSON form of an event: Protobuf's canonical mapping (lowerCamelCase names, 64-bit numbers as strings, enum values
/// by name, defaults left out).
///
/// # Errors
/// [`CodecError`] if the bytes are not an `OrderEvent`.
pub fn encode_json(event: &[u8]) -> Result<String, CodecError> {
    serde_json::to_string(&decode(event)?).map_err(|_| CodecError { what: "event" })
}

/// One decision about one order.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderEvent {
    /// ULID, 26 characters.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub order_id: String,
    /// The merchant.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub merchant_id: String,
    /// ms since the Unix epoch.
    #[prost(int64, tag = "3")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "text")]
    pub placed_at_ms: i64,
    /// ms since the Unix epoch.
    #[prost(int64, tag = "4")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "text")]
    pub occurred_at_ms: i64,
    /// What was decided.
    #[prost(oneof = "Change", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21")]
    #[serde(flatten)]
    pub change: Option<Change>,
}

/// What was decided.
#[derive(Clone, PartialEq, Oneof, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// The order was accepted and decided.
    #[prost(message, tag = "10")]
    Accepted(OrderAccepted),
    /// An attempt has its outcome.
    #[prost(message, tag = "11")]
    Settled(ParcelSettled),
    /// Another request under its key was refused.
    #[prost(message, tag = "12")]
    Conflicted(OrderConflicted),
    /// It can't go on.
    #[prost(message, tag = "13")]
    DeadLettered(OrderDeadLettered),
    /// A carrier told where a parcel is.
    #[prost(message, tag = "14")]
    Tracked(ParcelTracked),
    /// Carriers are asked to forget its shipments.
    #[prost(message, tag = "15")]
    CancelRequested(CancelRequested),
    /// A carrier's answer to that.
    #[prost(message, tag = "16")]
    VoidSettled(ParcelSettled),
    /// Delivered goods are to come back.
    #[prost(message, tag = "17")]
    ReturnRequested(ReturnRequested),
    /// An attempt to have them carried has its outcome.
    #[prost(message, tag = "18")]
    ReturnSettled(ParcelSettled),
    /// A carrier told where they are.
    #[prost(message, tag = "19")]
    ReturnTracked(ParcelTracked),
    /// What was dead-lettered was decided anew.
    #[prost(message, tag = "20")]
    Replayed(OrderReplayed),
    /// A person has said what is in a parcel that was held.
    #[prost(message, tag = "21")]
    Reviewed(ParcelReviewed),
}

/// The order was accepted, and what becomes of its goods was decided.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderAccepted {
    /// The merchant's id of the customer.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub customer_id: String,
    /// ISO 4217.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub currency: String,
    /// ISO 3166-1 alpha-2.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub country: String,
    /// What was ordered.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Line>,
    /// Version of the catalogue and rules.
    #[prost(uint32, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules_version: Option<u32>,
    /// How many parcels the order became.
    #[prost(uint32, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parcel_count: Option<u32>,
    /// The parcels.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parcels: Vec<Parcel>,
    /// Why nothing could decide the order.
    #[prost(string, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_reason: Option<String>,
    /// ms since the Unix epoch.
    #[prost(int64, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_text")]
    pub decided_at_ms: Option<i64>,
    /// Version of the model, if one took part.
    #[prost(uint32, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_version: Option<u32>,
}

/// One line of an order.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Stock keeping unit.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sku: String,
    /// Units.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub quantity: u32,
    /// Minor units, for one unit.
    #[prost(uint64, tag = "3")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "text")]
    pub unit_price: u64,
}

/// A parcel waits until a person has said what is in it.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The likeliest [`HandlingClass`].
    #[prost(enumeration = "HandlingClass", tag = "1")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "handling_class")]
    pub handling_class: i32,
    /// How likely.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub confidence_percent: u32,
}

/// One line's share of a parcel.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Index in [`OrderAccepted::lines`].
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub line_index: u32,
    /// Units; absent: all of the line.
    #[prost(uint32, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantity: Option<u32>,
}

/// Items that ship together.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parcel {
    /// From 0.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub number: u32,
    /// A [`HandlingGroup`].
    #[prost(enumeration = "HandlingGroup", tag = "2")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "handling")]
    pub handling_group: i32,
    /// Grams.
    #[prost(uint32, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub weight_g: u32,
    /// What is in it.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
    /// The carrier asked.
    #[prost(string, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier_id: Option<String>,
    /// From 0.
    #[prost(uint32, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Why nobody carries it.
    #[prost(string, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_reason: Option<String>,
    /// Some of the weight is a guess.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub weight_estimated: bool,
    /// That it waits to be reviewed.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// An attempt to have a parcel carried has its outcome.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelSettled {
    /// The parcel, from 0.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub parcel_number: u32,
    /// The attempt, from 0.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub attempt: u32,
    /// An [`Outcome`].
    #[prost(enumeration = "Outcome", tag = "3")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "outcome")]
    pub outcome: i32,
    /// The carrier that was asked.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub carrier_id: String,
    /// The carrier's.
    #[prost(string, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracking_number: Option<String>,
    /// Why it did not accept.
    #[prost(string, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The next carrier asked.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<NextAttempt>,
    /// Why nobody carries it.
    #[prost(string, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_reason: Option<String>,
    /// Version of the rules that dead-lettered it.
    #[prost(uint32, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules_version: Option<u32>,
}

/// The next carrier that is asked.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NextAttempt {
    /// The carrier.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub carrier_id: String,
    /// From 0.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub attempt: u32,
    /// A [`HandlingGroup`].
    #[prost(enumeration = "HandlingGroup", tag = "3")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "handling")]
    pub handling_group: i32,
    /// Grams.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub weight_g: u32,
    /// What is in the parcel.
    #[prost(message, repeated, tag = "5")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
    /// Some of the weight is a guess.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub weight_estimated: bool,
}

/// Another request under this order's key was refused after it had been acknowledged.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderConflicted {
    /// ULID, 26 characters.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub conflicting_order_id: String,
    /// ms since the Unix epoch.
    #[prost(int64, tag = "2")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "text")]
    pub conflicting_placed_at_ms: i64,
}

/// An accepted order can't go on.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderDeadLettered {
    /// Why.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Version of the rules in force.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub rules_version: u32,
}

/// A carrier told where a parcel is.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelTracked {
    /// The parcel, from 0.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub parcel_number: u32,
    /// The attempt, from 0.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub attempt: u32,
    /// The carrier.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub carrier_id: String,
    /// A [`Progress`].
    #[prost(enumeration = "Progress", tag = "4")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "progress")]
    pub progress: i32,
    /// For people.
    #[prost(string, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The attempt counts as accepted now.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub settles_attempt: bool,
}

/// Carriers are asked to forget what they took.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CancelRequested {
    /// The attempts.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub voids: Vec<Void>,
    /// Parcels that were held and are cancelled with this.
    #[prost(uint32, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withdrawn_parcel_numbers: Vec<u32>,
}

/// A carrier is asked to forget a shipment.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Void {
    /// The parcel, from 0.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub parcel_number: u32,
    /// The attempt, from 0.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub attempt: u32,
    /// The carrier.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub carrier_id: String,
}

/// Delivered goods are to come back.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReturnRequested {
    /// The customer's.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// One for each parcel in which they were delivered.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parcels: Vec<ReturnParcel>,
}

/// Goods that come back together.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReturnParcel {
    /// From 200.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub number: u32,
    /// The parcel that they were delivered in.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub source_parcel_number: u32,
    /// A [`HandlingGroup`].
    #[prost(enumeration = "HandlingGroup", tag = "3")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "handling")]
    pub handling_group: i32,
    /// Grams.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub weight_g: u32,
    /// What comes back.
    #[prost(message, repeated, tag = "5")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
    /// The carrier asked.
    #[prost(string, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier_id: Option<String>,
    /// Why nobody carries it.
    #[prost(string, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_reason: Option<String>,
    /// Some of the weight is a guess.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub weight_estimated: bool,
}

/// What was dead-lettered was decided anew.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderReplayed {
    /// Version of the catalogue and rules, if the whole order was decided.
    #[prost(uint32, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules_version: Option<u32>,
    /// How many parcels the whole order became.
    #[prost(uint32, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parcel_count: Option<u32>,
    /// The parcels that were decided.
    #[prost(message, repeated, tag = "3")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parcels: Vec<Parcel>,
    /// Why nothing could decide the order this time either.
    #[prost(string, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_reason: Option<String>,
    /// Version of the model, if one took part.
    #[prost(uint32, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_version: Option<u32>,
}

/// A person has said what is in a parcel that was held.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelReviewed {
    /// From 0.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub parcel_number: u32,
    /// A [`HandlingClass`].
    #[prost(enumeration = "HandlingClass", tag = "2")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "handling_class")]
    pub handling_class: i32,
    /// How it goes on; absent if nothing ships.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parcel: Option<Parcel>,
    /// Lines of the same text are decided so from now on.
    #[prost(bool, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub becomes_rule: bool,
    /// The next model learns from it.
    #[prost(bool, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub becomes_training_row: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// 64-bit numbers are strings in Protobuf's JSON, since JSON readers may hold numbers as doubles.
fn text<T: std::fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[expect(clippy::ref_option, reason = "serde gives it so")]
fn optional_text<S: Serializer>(value: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn handling<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    by_name(*value, HandlingGroup::try_from(*value).ok().map(HandlingGroup::name), serializer)
}

fn handling_class<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    by_name(*value, HandlingClass::try_from(*value).ok().map(HandlingClass::name), serializer)
}

fn outcome<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    by_name(*value, Outcome::try_from(*value).ok().map(Outcome::name), serializer)
}

fn progress<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    by_name(*value, Progress::try_from(*value).ok().map(Progress::name), serializer)
}

/// A value that is newer than this reader stays a number.
fn by_name<S: Serializer>(value: i32, name: Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.serialize_str(name),
        None => serializer.serialize_i32(value),
    }
}
