//! JSON → words: each event is judged by itself, so that a bad one costs nothing but itself.

use serde_json::Value;
use sluice_domain::{
    ShipmentId, SlotCount,
    limits::{MAX_EVENTS, MAX_REASON},
};
use sluice_http::{FieldError, Problem, rfc3339};
use sluice_pipeline::Words;
use sluice_schemas::word::{Progress, Tracked};

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

/// Reads what `carrier` tells at `now_ms`.
///
/// # Errors
/// 400 if it is no JSON, 422 if it has not the form of a list of events, or no good one.
pub(super) fn check(body: &[u8], carrier: &str, now_ms: u64, slots: SlotCount) -> Result<Checked, Problem> {
    let json: Value = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    let form = || {
        let expected = format!("a list of 1 to {MAX_EVENTS} events");
        match json.get("events") {
            None => FieldError::missing("/events", expected),
            Some(other) => FieldError::wrong("/events", expected, &sketch(other)),
        }
    };
    let events = json.get("events").and_then(Value::as_array).filter(|e| (1..=MAX_EVENTS).contains(&e.len()));
    let events = events.ok_or_else(|| invalid(vec![form()]))?;
    let (mut words, mut results, mut named) = (Words::default(), Vec::with_capacity(events.len()), Vec::new());
    for (index, event) in events.iter().enumerate() {
        let mut errors = Vec::new();
        match read(event, index, now_ms, slots, &mut errors) {
            Some(event) => {
                let ShipmentId { order, parcel, attempt } = event.shipment;
                let Event { progress, at_ms, text, .. } = event;
                words.push(&Tracked { order: order.0, parcel, attempt, progress, at_ms, carrier, text });
                results.push(EventResult { index, status: EventStatus::Taken, errors: Vec::new() });
            }
            None => {
                named.extend(errors.iter().take(NAMED.saturating_sub(named.len())).cloned());
                results.push(EventResult { index, status: EventStatus::Refused, errors });
            }
        }
    }
    if words.words.is_empty() {
        return Err(invalid(named));
    }
    let refused = events.len() - words.words.len();
    Ok(Checked { words, results: Results { results }, refused })
}

struct Event<'a> {
    shipment: ShipmentId,
    progress: Progress,
    at_ms: u64,
    text: &'a str,
}

fn read<'a>(
    event: &'a Value,
    index: usize,
    now_ms: u64,
    slots: SlotCount,
    errors: &mut Vec<FieldError>,
) -> Option<Event<'a>> {
    let mut fault = |field: &str, expected: String, got: Option<&Value>| {
        let field = format!("/events/{index}/{field}");
        errors.push(match got {
            None | Some(Value::Null) => FieldError::missing(field, expected),
            Some(got) => FieldError::wrong(field, expected, &sketch(got)),
        });
    };
    let id = event.get("shipment_id");
    let shipment = id.and_then(Value::as_str).and_then(|id| id.parse::<ShipmentId>().ok());
    // An id whose slot the deployment doesn't have was never given out.
    let shipment = shipment.filter(|shipment| shipment.order.slot() < slots.get());
    if shipment.is_none() {
        fault("shipment_id", "the id that the manifest had, such as 01M6VZ4W3V00J8Z8M3C0V9S1QK-0-0".to_owned(), id);
    }
    let milestone = event.get("milestone");
    let progress = milestone.and_then(Value::as_str).and_then(Progress::from_name);
    if progress.is_none() {
        let names = Progress::ALL.map(Progress::name).join(", ");
        fault("milestone", format!("one of {names}"), milestone);
    }
    let at = event.get("occurred_at");
    let at_ms = at.and_then(Value::as_str).and_then(rfc3339::parse).and_then(|ms| u64::try_from(ms).ok());
    let earliest = shipment.map_or(0, |shipment| shipment.order.placed_at_ms().saturating_sub(BEFORE_MS));
    let at_ms = at_ms.filter(|ms| (earliest..=now_ms + AHEAD_MS).contains(ms));
    if at_ms.is_none() {
        let expected = "an RFC 3339 time, at most five minutes ahead and not before its order";
        fault("occurred_at", expected.to_owned(), at);
    }
    let detail = event.get("detail");
    let text = match detail {
        None | Some(Value::Null) => Some(""),
        Some(value) => value.as_str().filter(|t| t.len() <= MAX_REASON && !t.chars().any(char::is_control)),
    };
    if text.is_none() {
        fault("detail", format!("a text of at most {MAX_REASON} bytes without control characters"), detail);
    }
    Some(Event { shipment: shipment?, progress: progress?, at_ms: at_ms?, text: text? })
}

/// What stands there, for a message: texts as they are, all else as JSON.
fn sketch(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    }
}

fn malformed(error: &serde_json::Error) -> Problem {
    let status = axum::http::StatusCode::BAD_REQUEST;
    Problem::new(status, "malformed", "Malformed request", format!("Not JSON: {error}."))
}

fn invalid(errors: Vec<FieldError>) -> Problem {
    let status = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
    let detail = match errors.as_slice() {
        [one] => format!("{} must be {}.", one.field, one.expected),
        _ => "No event is as it should be.".to_owned(),
    };
    Problem::new(status, "invalid-events", "Invalid events", detail).with_errors(errors)
}
