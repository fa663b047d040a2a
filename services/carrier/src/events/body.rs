//! JSON → words: each event is judged by itself, so that a bad one costs nothing but itself. Read in place: what a message
//! costs in memory is a few times its length, whatever is in it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use sluice_domain::{
    ShipmentId, SlotCount,
    limits::{MAX_EVENTS, MAX_REASON, MAX_TRACKING_NUMBER},
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

/// Somebody who asks for an unknown number again should wait so long, seconds.
const UNKNOWN_RETRY_S: u32 = 60;
/// What happened longer ago than this is not news of a shipment whose acceptance is still to be decided, ms.
const UNDECIDED_MS: u64 = 86_400_000;

/// A message whose events have the right form; those told of a tracking number wait for its shipments.
pub(super) struct Told<'a> {
    events: Vec<Result<Event<'a>, Vec<FieldError>>>,
}

/// What is to be stored of a message, and what is to be said of it.
#[derive(Debug)]
pub(super) struct Checked {
    /// The good events; one told of a number that several parcels travel under is a word for each.
    pub words: Words,
    /// One an event.
    pub results: Results,
    /// How many are good.
    pub taken: usize,
    /// How many are not good.
    pub refused: usize,
    /// How many are about numbers that nobody knows.
    pub unknown: usize,
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
    tracking_number: Option<&'a RawValue>,
    #[serde(borrow)]
    milestone: Option<&'a RawValue>,
    #[serde(borrow)]
    occurred_at: Option<&'a RawValue>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
}

/// Reads what a carrier tells at `now_ms`.
///
/// # Errors
/// 400 if it is no JSON, 422 if it has not the form of a list of events; with the events that were in it, at least 1.
pub(super) fn read<'b>(body: &'b [u8], now_ms: u64, slots: SlotCount) -> Result<Told<'b>, (Problem, usize)> {
    let not_json = |error: &serde_json::Error| (malformed(format!("Not JSON: {error}.")), 1);
    let whole: &RawValue = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    let message = serde_json::from_str::<Message<'_>>(whole.get()).unwrap_or(Message { events: None });
    let list: Option<Vec<&RawValue>> = message.events.and_then(|events| serde_json::from_str(events.get()).ok());
    let Some(events) = list.filter(|list| (1..=MAX_EVENTS).contains(&list.len())) else {
        let expected = format!("a list of 1 to {MAX_EVENTS} events");
        return Err((invalid(vec![fault("/events".to_owned(), expected, message.events)]), 1));
    };
    let read = |(index, event): (usize, &'b RawValue)| {
        // What is no object has none of the fields; nor has one that gives a field twice.
        let fields = serde_json::from_str::<Fields<'b>>(event.get()).unwrap_or_default();
        let mut errors = Vec::new();
        read_event(&fields, index, now_ms, slots, &mut errors).ok_or(errors)
    };
    Ok(Told { events: events.into_iter().enumerate().map(read).collect() })
}

impl Told<'_> {
    /// The tracking numbers in it, once each, sorted.
    pub(super) fn numbers(&self) -> Vec<&str> {
        let mut numbers: Vec<&str> = self
            .events
            .iter()
            .flatten()
            .filter_map(|event| match &event.about {
                About::Number(number) => Some(&**number),
                About::Shipment(_) => None,
            })
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// What is to be stored of it, given the shipments under each of [`Told::numbers`].
    ///
    /// # Errors
    /// 422 if no event is as it should be; with the events that were in it.
    pub(super) fn check(
        &self,
        carrier: &str,
        now_ms: u64,
        numbers: &[&str],
        shipments: &[Vec<ShipmentId>],
    ) -> Result<Checked, (Problem, usize)> {
        let results = Vec::with_capacity(self.events.len());
        let mut checked =
            Checked { words: Words::default(), results: Results { results }, taken: 0, refused: 0, unknown: 0 };
        let mut named = Vec::new();
        for (index, event) in self.events.iter().enumerate() {
            let judged = match event {
                Err(errors) => Judged::Refused(errors.clone()),
                Ok(event) => {
                    let own = match &event.about {
                        About::Shipment(shipment) => std::slice::from_ref(shipment),
                        About::Number(number) => {
                            let at = numbers.binary_search(&&**number).ok().and_then(|at| shipments.get(at));
                            at.map_or(&[][..], Vec::as_slice)
                        }
                    };
                    event.judge(index, now_ms, own)
                }
            };
            let result = match judged {
                Judged::About(own) => {
                    checked.taken += 1;
                    own.iter()
                        .for_each(|shipment| event.iter().for_each(|e| e.tell(carrier, *shipment, &mut checked.words)));
                    EventResult::new(index, EventStatus::Taken)
                }
                Judged::Unknown(retry_after_s) => {
                    checked.unknown += 1;
                    EventResult { retry_after_s, ..EventResult::new(index, EventStatus::Unknown) }
                }
                Judged::Refused(errors) => {
                    checked.refused += 1;
                    named.extend(errors.iter().take(NAMED.saturating_sub(named.len())).cloned());
                    EventResult { errors, ..EventResult::new(index, EventStatus::Refused) }
                }
            };
            checked.results.results.push(result);
        }
        if checked.refused == self.events.len() {
            return Err((invalid(named), checked.refused));
        }
        Ok(checked)
    }
}

/// What an event is about.
enum About<'a> {
    Shipment(ShipmentId),
    /// A tracking number.
    Number(Cow<'a, str>),
}

struct Event<'a> {
    about: About<'a>,
    progress: Progress,
    at_ms: u64,
    text: Cow<'a, str>,
}

/// What becomes of an event.
enum Judged<'s> {
    About(&'s [ShipmentId]),
    /// Nobody knows the number; with when to tell it again, if that may help.
    Unknown(Option<u32>),
    Refused(Vec<FieldError>),
}

impl Event<'_> {
    /// Judges the event, which is about `own`: shipments of one order.
    fn judge<'s>(&self, index: usize, now_ms: u64, own: &'s [ShipmentId]) -> Judged<'s> {
        let Some(first) = own.first() else {
            let fresh = self.at_ms.saturating_add(UNDECIDED_MS) >= now_ms;
            return Judged::Unknown(fresh.then_some(UNKNOWN_RETRY_S));
        };
        if self.at_ms < earliest(*first) {
            let got = sluice_http::Timestamp(self.at_ms).to_string();
            let field = format!("/events/{index}/occurred_at");
            return Judged::Refused(vec![FieldError::wrong(field, WHEN, &got)]);
        }
        Judged::About(own)
    }

    fn tell(&self, carrier: &str, ShipmentId { order, parcel, attempt }: ShipmentId, words: &mut Words) {
        let (progress, at_ms, text) = (as_of_return(parcel, self.progress), self.at_ms, &*self.text);
        words.push(&Tracked { order: order.0, parcel, attempt, progress, at_ms, carrier, text });
    }
}

const WHEN: &str = "an RFC 3339 time, at most five minutes ahead and at most a day before its order";

/// When something may have happened to a shipment at the earliest, ms since the epoch.
fn earliest(shipment: ShipmentId) -> u64 {
    shipment.order.placed_at_ms().saturating_sub(BEFORE_MS)
}

fn read_event<'a>(
    fields: &Fields<'a>,
    index: usize,
    now_ms: u64,
    slots: SlotCount,
    errors: &mut Vec<FieldError>,
) -> Option<Event<'a>> {
    let mut wrong = |field: &str, expected: String, got: Option<&RawValue>| {
        errors.push(fault(format!("/events/{index}/{field}"), expected, got));
    };
    let about = match (fields.shipment_id, fields.tracking_number) {
        (Some(_), Some(_)) => {
            for (field, got) in [("shipment_id", fields.shipment_id), ("tracking_number", fields.tracking_number)] {
                wrong(field, "given without the other: shipment_id or tracking_number".to_owned(), got);
            }
            None
        }
        (None, Some(number)) => {
            let fits =
                |t: &Cow<'_, str>| (1..=MAX_TRACKING_NUMBER).contains(&t.len()) && !t.chars().any(char::is_control);
            let number = text(number).filter(fits);
            if number.is_none() {
                let expected = format!("1 to {MAX_TRACKING_NUMBER} bytes of text without control characters");
                wrong("tracking_number", expected, fields.tracking_number);
            }
            number.map(About::Number)
        }
        (given, None) => {
            let shipment = given.and_then(text).and_then(|text| shipment(&text, slots));
            if shipment.is_none() {
                let expected = "the id that the manifest had, such as 01M6VZ4W3V00J8Z8M3C0V9S1QK-0-0, unless there is a \
                                tracking_number";
                wrong("shipment_id", expected.to_owned(), given);
            }
            shipment.map(About::Shipment)
        }
    };
    let progress = fields.milestone.and_then(text).and_then(|name| Progress::from_name(&name));
    if progress.is_none() {
        let names = Progress::ALL.map(Progress::name).join(", ");
        wrong("milestone", format!("one of {names}"), fields.milestone);
    }
    let at_ms = fields.occurred_at.and_then(text).and_then(|time| rfc3339::parse(&time));
    let at_ms = at_ms.and_then(|ms| u64::try_from(ms).ok());
    let from = match about {
        Some(About::Shipment(shipment)) => earliest(shipment),
        _ => 0,
    };
    let at_ms = at_ms.filter(|ms| (from..=now_ms + AHEAD_MS).contains(ms));
    if at_ms.is_none() {
        wrong("occurred_at", WHEN.to_owned(), fields.occurred_at);
    }
    let detail = match fields.detail {
        None => Some(Cow::Borrowed("")),
        Some(detail) => text(detail).filter(|t| t.len() <= MAX_REASON && !t.chars().any(char::is_control)),
    };
    if detail.is_none() {
        let expected = format!("a text of at most {MAX_REASON} bytes without control characters");
        wrong("detail", expected, fields.detail);
    }
    Some(Event { about: about?, progress: progress?, at_ms: at_ms?, text: detail? })
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
