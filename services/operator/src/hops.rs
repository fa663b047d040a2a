//! Every delta of an order's row in order of time, and the public events that told of them.

use std::{borrow::Cow, collections::HashSet};

use serde::Serialize;
use sluice_domain::{Group, OrderId, OrderState};
use sluice_http::Timestamp;
use sluice_schemas::{
    CodecError,
    command::Verdict,
    delta::{Delta, Requested, VOID},
    event::decided::Numbers,
    milestone::Milestone,
    outcome::OutcomeKind,
    wire::Reader,
};
use utoipa::ToSchema;

/// One thing that was written down about the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Hop<'a> {
    /// When; what a carrier tells has the time of the carrier's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The same in ms after the customer placed the order.
    pub late_ms: i64,
    /// What: `accepted`, `merchant`, `classified`, `packed`, `requested`, `settled`, `dead_lettered`, `conflicted`,
    /// `commanded`, `return_requested`, `void_requested`, `void_settled`, or what a carrier tells, such as `picked_up`.
    #[schema(value_type = String, pattern = "^[a-z_]+$", example = "requested")]
    pub what: &'static str,
    /// Number of the public event that tells of it; absent if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub event: Option<u64>,
    /// Number of the parcel that it is about, from 200 of a return; absent if it is about the whole order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub parcel: Option<u8>,
    /// Number of the attempt, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub attempt: Option<u8>,
    /// The carrier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub carrier: Option<&'a str>,
    /// `accepted`, `rejected`, `given_up` or `unknown`, where something was settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub outcome: Option<&'static str>,
    /// Version of catalogue and rules, where they decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub rules: Option<u32>,
    /// For people: a reason, a tracking number, what a carrier is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub detail: Option<Cow<'a, str>>,
}

/// A public event, and where the order stood after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct EventTrace {
    /// Its number among the events of the order, from 0.
    pub sequence: u64,
    /// When what it tells of happened.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The order's status by everything decided up to then.
    #[serde(serialize_with = "crate::trace::as_name")]
    #[schema(value_type = String, example = "carrier_accepted")]
    pub status: Milestone,
}

/// What a row holds, as far as it can be read.
pub(crate) struct Walked<'a> {
    pub state: OrderState<'a>,
    pub merchant: Option<&'a str>,
    pub hops: Vec<Hop<'a>>,
    pub events: Vec<EventTrace>,
    /// Why the rest is missing.
    pub broken: Option<CodecError>,
}

/// Reads a row, in whatever order and with whatever repetitions it holds its deltas.
pub(crate) fn walk(id: OrderId, row: &[u8]) -> Walked<'_> {
    let mut numbers = Numbers::default();
    // What comes before an unreadable delta is counted; what is unreadable is told below.
    let _ = numbers.read(row);
    let state = OrderState {
        id,
        accepted: None,
        classified: None,
        dead_lettered: None,
        conflicts: Vec::new(),
        parcels: Vec::new(),
        returns: Vec::new(),
        commands: Vec::new(),
    };
    let mut walked = Walked { state, merchant: None, hops: Vec::new(), events: Vec::new(), broken: None };
    let (mut r, mut seen, mut event) = (Reader::new(row), HashSet::new(), None);
    while !r.is_empty() {
        let rest = r.rest();
        let (late_ms, delta) = match Delta::read(&mut r) {
            Ok(read) => read,
            Err(error) => {
                walked.broken = Some(error);
                break;
            }
        };
        let bytes = &rest[..rest.len() - r.rest().len()];
        let first = seen.insert(bytes);
        let at = id.placed_at_ms().saturating_add_signed(late_ms);
        let number = numbers.number(row, bytes);
        if number.is_some() || matches!(delta, Delta::Commanded { .. }) {
            walked.close(event);
            // A refusal is told nobody, and a repetition was told before.
            event = number.filter(|_| first);
            walked.events.extend(event.map(|sequence| EventTrace {
                sequence,
                at: Timestamp(at),
                status: Milestone::Accepted,
            }));
        }
        walked.state.merge(at, delta);
        if let Delta::Merchant { id } = delta {
            walked.merchant = Some(id);
        }
        if first {
            walked.hops.push(Hop { event, ..hop(at, late_ms, &delta) });
        }
    }
    walked.close(event);
    walked.name_carriers();
    walked.hops.sort_by_key(|hop| hop.late_ms);
    walked.events.sort_by_key(|event| event.sequence);
    walked
}

impl Walked<'_> {
    /// Notes where the order stands after the last delta of an event.
    fn close(&mut self, event: Option<u64>) {
        let status = self.state.status();
        if let Some(last) = self.events.last_mut().filter(|last| Some(last.sequence) == event) {
            last.status = status;
        }
    }

    /// Answers and news don't say whose they are; the request does.
    fn name_carriers(&mut self) {
        let state = &self.state;
        let parcels = state.parcels.iter().chain(state.returns.iter().map(|back| &back.parcel));
        let asked = |parcel: u8, attempt: u8| {
            let parcel = parcels.clone().find(|known| known.number == parcel)?;
            let attempt = parcel.attempts.iter().find(|known| known.number == attempt)?;
            attempt.requested.as_ref().map(|(_, requested)| requested.carrier)
        };
        for hop in &mut self.hops {
            if let (None, Some(parcel), Some(attempt)) = (hop.carrier, hop.parcel, hop.attempt) {
                hop.carrier = asked(parcel, attempt);
            }
        }
    }
}

fn hop<'a>(at: u64, late_ms: i64, delta: &Delta<'a>) -> Hop<'a> {
    let text = |text: &'a str| (!text.is_empty()).then_some(Cow::Borrowed(text));
    let blank = Hop {
        at: Timestamp(at),
        late_ms,
        what: "accepted",
        event: None,
        parcel: None,
        attempt: None,
        carrier: None,
        outcome: None,
        rules: None,
        detail: None,
    };
    match *delta {
        Delta::Accepted { position } => Hop { detail: Some(format!("position {position}").into()), ..blank },
        Delta::Merchant { id } => Hop { what: "merchant", detail: text(id), ..blank },
        Delta::Classified { parcels, rules } => {
            let detail = if parcels == 1 { "1 parcel".to_owned() } else { format!("{parcels} parcels") };
            Hop { what: "classified", rules: Some(rules), detail: Some(detail.into()), ..blank }
        }
        Delta::Requested(requested) => request(&requested, blank),
        Delta::Settled { parcel, attempt, outcome, text: said } => Hop {
            what: if attempt & VOID == 0 { "settled" } else { "void_settled" },
            parcel: Some(parcel),
            attempt: Some(attempt & !VOID),
            outcome: Some(outcome_name(outcome)),
            detail: text(said),
            ..blank
        },
        Delta::Packed { parcel, handling, weight_g, .. } => {
            let detail = Some(format!("{}, {weight_g} g", group_name(handling)).into());
            Hop { what: "packed", parcel: Some(parcel), detail, ..blank }
        }
        Delta::Conflicted { order } => {
            Hop { what: "conflicted", detail: Some(OrderId(order).to_string().into()), ..blank }
        }
        Delta::Tracked { parcel, attempt, progress, text: said } => {
            Hop { what: progress.name(), parcel: Some(parcel), attempt: Some(attempt), detail: text(said), ..blank }
        }
        Delta::Commanded { verdict, .. } => {
            Hop { what: "commanded", detail: Some(verdict_name(verdict).into()), ..blank }
        }
        Delta::Return { parcel, source, units, reason, .. } => {
            let units = if units == 1 { "1 unit".to_owned() } else { format!("{units} units") };
            let detail = format!("of the {units} in parcel {source}: {reason}");
            Hop { what: "return_requested", parcel: Some(parcel), detail: Some(detail.into()), ..blank }
        }
        Delta::DeadLettered { parcel, rules, reason } => {
            Hop { what: "dead_lettered", parcel, rules: Some(rules), detail: text(reason), ..blank }
        }
    }
}

fn request<'a>(requested: &Requested<'a>, blank: Hop<'a>) -> Hop<'a> {
    let asked = Hop {
        parcel: Some(requested.parcel),
        attempt: Some(requested.attempt & !VOID),
        carrier: Some(requested.carrier),
        ..blank
    };
    if requested.attempt & VOID != 0 {
        return Hop { what: "void_requested", ..asked };
    }
    let detail = format!("{}, {} g", group_name(requested.handling), requested.weight_g);
    Hop { what: "requested", detail: Some(detail.into()), ..asked }
}

pub(crate) fn group_name(code: u8) -> &'static str {
    Group::from_code(code).map_or("unknown group", Group::name)
}

pub(crate) fn outcome_name(outcome: OutcomeKind) -> &'static str {
    match outcome {
        OutcomeKind::Unknown => "unknown",
        OutcomeKind::GivenUp => "given_up",
        OutcomeKind::Rejected => "rejected",
        OutcomeKind::Accepted => "accepted",
    }
}

pub(crate) fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Done => "done",
        Verdict::NothingToCancel => "nothing_to_cancel",
        Verdict::NotReturnable => "not_returnable",
        Verdict::TooManyReturns => "too_many_returns",
    }
}
