//! JSON → words: each event is judged by itself, so that a bad one costs nothing but itself. Read in place: what a message
//! costs in memory is a few times its length, whatever is in it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use sluice_domain::{
    ShipmentId, SlotCount,
    limits::{MAX_EVENTS, MAX_REASON},
};
use sluice_http::{FieldError, Problem, body::malformed, rfc3339};
use sluice_pipeline::Words;
use sluice_schemas::{
    delta::FIRST_RETURN,
    milestone::Milestone,
    word::{Progress, Tracked},
};

use super::openapi::{EventResult, EventStatus, Results};

/// How far an event may lie ahead of now, ms: clocks differ.
const AHEAD_MS: u64 = 300_000;
/// How far it may lie before its order was placed, ms.
const BEFORE_MS: u64 = 86_400_000;
/// Fields that a problem names.
const NAMED: usize = 10;

/// A body that was read.
pub(super) struct Checked {
    /// The good events.
    pub words: Words,
    /// One an event.
    pub results: Results,
    /// How many are not good.
    pub refused: usize,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    events: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Fields<'a> {
    #[serde(borrow)]
    shipment_id: Option<&'a RawValue>,
    #[serde(borrow)]
    milestone: Option<&'a RawValue>,
    #[serde(borrow)]
    occurred_at: Option<&'a RawValue>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
}

/// Reads what `carrier` tells at `now_ms`.
///
/// # Errors
/// 400 if it is no JSON, 422 if it has not the form of a list of events, or no good one; with the events that were in it, at
/// least 1.
pub(super) fn check(body: &[u8], carrier: &str, now_ms: u64, slots: SlotCount) -> Result<Checked, (Problem, usize)> {
    let not_json = |error: &serde_json::Error| (malformed(format!("Not JSON: {error}.")), 1);
    let whole: &RawValue = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    let message = serde_json::from_str::<Message<'_>>(whole.get()).unwrap_or(Message { events: None });
    let list: Option<Vec<&RawValue>> = message.events.and_then(|events| serde_json::from_str(events.get()).ok());
    let Some(events) = list.filter(|list| (1..=MAX_EVENTS).contains(&list.len())) else {
        let expected = format!("a list of 1 to {MAX_EVENTS} events");
        return Err((invalid(vec![fault("/events".to_owned(), expected, message.events)]), 1));
    };
    let (mut words, mut results, mut named) = (Words::default(), Vec::with_capacity(events.len()), Vec::new());
    for (index, event) in events.iter().enumerate() {
        // What is no object has none of the fields; nor has one that gives a field twice.
        let fields = serde_json::from_str::<Fields<'_>>(event.get()).unwrap_or_default();
        let mut errors = Vec::new();
        match read(&fields, index, now_ms, slots, &mut errors) {
            Some(Event { shipment: ShipmentId { order, parcel, attempt }, progress, at_ms, text }) => {
                let progress = as_of_return(parcel, progress);
                words.push(&Tracked { order: order.0, parcel, attempt, progress, at_ms, carrier, text: &text });
                results.push(EventResult { index, status: EventStatus::Taken, errors: Vec::new() });
            }
            None => {
                named.extend(errors.iter().take(NAMED.saturating_sub(named.len())).cloned());
                results.push(EventResult { index, status: EventStatus::Refused, errors });
            }
        }
    }
    if words.words.is_empty() {
        return Err((invalid(named), events.len()));
    }
    let refused = events.len() - words.words.len();
    Ok(Checked { words, results: Results { results }, refused })
}

struct Event<'a> {
    shipment: ShipmentId,
    progress: Progress,
    at_ms: u64,
    text: Cow<'a, str>,
}

fn read<'a>(
    fields: &Fields<'a>,
    index: usize,
    now_ms: u64,
    slots: SlotCount,
    errors: &mut Vec<FieldError>,
) -> Option<Event<'a>> {
    let mut wrong = |field: &str, expected: String, got: Option<&RawValue>| {
        errors.push(fault(format!("/events/{index}/{field}"), expected, got));
    };
    let shipment = fields.shipment_id.and_then(text).and_then(|text| shipment(&text, slots));
    if shipment.is_none() {
        let expected = "the id that the manifest had, such as 01M6VZ4W3V00J8Z8M3C0V9S1QK-0-0";
        wrong("shipment_id", expected.to_owned(), fields.shipment_id);
    }
    let progress = fields.milestone.and_then(text).and_then(|name| Progress::from_name(&name));
    if progress.is_none() {
        let names = Progress::ALL.map(Progress::name).join(", ");
        wrong("milestone", format!("one of {names}"), fields.milestone);
    }
    let at_ms = fields.occurred_at.and_then(text).and_then(|time| rfc3339::parse(&time));
    let at_ms = at_ms.and_then(|ms| u64::try_from(ms).ok());
    let earliest = shipment.map_or(0, |shipment| shipment.order.placed_at_ms().saturating_sub(BEFORE_MS));
    let at_ms = at_ms.filter(|ms| (earliest..=now_ms + AHEAD_MS).contains(ms));
    if at_ms.is_none() {
        let expected = "an RFC 3339 time, at most five minutes ahead and at most a day before its order";
        wrong("occurred_at", expected.to_owned(), fields.occurred_at);
    }
    let detail = match fields.detail {
        None => Some(Cow::Borrowed("")),
        Some(detail) => text(detail).filter(|t| t.len() <= MAX_REASON && !t.chars().any(char::is_control)),
    };
    if detail.is_none() {
        let expected = format!("a text of at most {MAX_REASON} bytes without control characters");
        wrong("detail", expected, fields.detail);
    }
    Some(Event { shipment: shipment?, progress: progress?, at_ms: at_ms?, text: detail? })
}

/// An id in the one form in which it is given out, of a slot that the deployment has.
fn shipment(text: &str, slots: SlotCount) -> Option<ShipmentId> {
    let id = text.parse::<ShipmentId>().ok()?;
    (id.order.slot() < slots.get() && id.to_string() == text).then_some(id)
}

fn text<'a>(value: &'a RawValue) -> Option<Cow<'a, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'a>>(value.get()).ok().map(|text| text.0)
}

fn fault(field: String, expected: String, got: Option<&RawValue>) -> FieldError {
    match got {
        None => FieldError::missing(field, expected),
        Some(value) => FieldError::wrong(field, expected, &sketch(value)),
    }
}

/// What stands there, for a message: texts as they are, all else as JSON.
fn sketch(value: &RawValue) -> Cow<'_, str> {
    match value.get().as_bytes().first() {
        Some(b'[') => "a list".into(),
        Some(b'{') => "an object".into(),
        _ => text(value).unwrap_or_else(|| value.get().into()),
    }
}

fn invalid(errors: Vec<FieldError>) -> Problem {
    let status = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
    let detail = match errors.as_slice() {
        [one] => format!("{} must be {}.", one.field, one.expected),
        _ => "No event is as it should be.".to_owned(),
    };
    Problem::new(status, "invalid-events", "Invalid events", detail).with_errors(errors)
}

/// What is brought back and delivered is with the merchant.
fn as_of_return(parcel: u8, progress: Progress) -> Progress {
    match progress {
        Progress::Reached(Milestone::Delivered) if parcel >= FIRST_RETURN => Progress::Reached(Milestone::Returned),
        other => other,
    }
}
