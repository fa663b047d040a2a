//! Every delta of an order's row in order of time, and the public events that told of them.

use std::{borrow::Cow, collections::HashSet};

use serde::Serialize;
use sluice_domain::{Group, Handling, OrderId, OrderState};
use sluice_http::Timestamp;
use sluice_schemas::{
    CodecError,
    command::{Keep, Verdict},
    delta::{Delta, FIRST_RETURN, Requested, VOID, Weight},
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
    /// `commanded`, `replayed`, `return_requested`, `void_requested`, `void_settled`, or what a carrier tells, such as `picked_up`.
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
    /// Version of the model, where one took part.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub model: Option<u32>,
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
    let (deltas, broken) = read(id, row);
    let told = Told::new(&deltas);
    let mut state = blank(id);
    let (mut merchant, mut hops) = (None, Vec::with_capacity(deltas.len()));
    for read in &deltas {
        state.merge(read.at, read.delta);
        if let Delta::Merchant { id } = read.delta {
            merchant = Some(id);
        }
        hops.push(Hop { event: told.by(read), ..hop(read.at, read.late_ms, &read.delta) });
    }
    name_carriers(&state, &mut hops);
    let events = events(id, &deltas, &hops);
    // What one commit wrote down of several decisions is in the row in one order or another.
    hops.sort_by_key(|hop| (hop.late_ms, hop.event.unwrap_or(u64::MAX)));
    Walked { state, merchant, hops, events, broken }
}

/// A delta of the row, the first of equal ones.
struct Read<'a> {
    at: u64,
    late_ms: i64,
    delta: Delta<'a>,
    /// Number of the event that it begins.
    begins: Option<u64>,
    /// Number of the event that the delta before it is of or begins; of what is told with it.
    beside: Option<u64>,
}

fn read(id: OrderId, row: &[u8]) -> (Vec<Read<'_>>, Option<CodecError>) {
    let mut numbers = Numbers::default();
    // What comes before an unreadable delta is counted; what is unreadable is told below.
    let _ = numbers.read(row);
    let (mut deltas, mut seen) = (Vec::new(), HashSet::new());
    let (mut r, mut beside) = (Reader::new(row), None);
    while !r.is_empty() {
        let rest = r.rest();
        let (late_ms, delta) = match Delta::read(&mut r) {
            Ok(read) => read,
            Err(error) => return (deltas, Some(error)),
        };
        let bytes = &rest[..rest.len() - r.rest().len()];
        if seen.insert(bytes) {
            let begins = numbers.number(row, bytes);
            let at = id.placed_at_ms().saturating_add_signed(late_ms);
            deltas.push(Read { at, late_ms, delta, begins, beside });
            beside = begins.or(beside);
        }
    }
    (deltas, None)
}

/// Which event tells of what doesn't begin one. A row may have the deltas of several decisions of one commit interleaved, so it
/// follows from what they say, not from where they stand.
#[derive(Default)]
struct Told {
    /// Attempts that came to nothing: parcel, attempt, event, ms after the order was placed.
    failed: Vec<(u8, u8, u64, i64)>,
    /// Commands that had an effect: id, ms after the order was placed, event.
    done: Vec<(u64, i64, u64)>,
    /// Return parcels, and the commands that asked for them.
    returns: Vec<(u8, u64)>,
    /// What was decided anew, by number of the replay.
    replays: Vec<Replay>,
    /// Parcels that were reviewed, and the commands that did it.
    reviews: Vec<(u8, u64)>,
}

/// What was decided anew.
#[derive(Clone, Copy)]
struct Replay {
    /// From 1.
    number: u8,
    /// `None`: the whole order.
    parcel: Option<u8>,
    /// The lowest attempt that may follow.
    attempt: u8,
    command: u64,
    late_ms: i64,
}

impl Told {
    fn new(deltas: &[Read<'_>]) -> Self {
        let mut told = Self::default();
        for read in deltas {
            match (read.delta, read.begins) {
                (Delta::Settled { parcel, attempt, outcome, .. }, Some(event)) if outcome <= OutcomeKind::Rejected => {
                    told.failed.push((parcel, attempt, event, read.late_ms));
                }
                (Delta::Commanded { id, .. }, Some(event)) => told.done.push((id, read.late_ms, event)),
                (Delta::Return { parcel, command, .. }, _) => told.returns.push((parcel, command)),
                (Delta::Reviewed { parcel, handling: Some(_), command, .. }, _) => told.reviews.push((parcel, command)),
                (Delta::Replayed { parcel, replay: number, attempt, command, .. }, _) => {
                    told.replays.push(Replay { number, parcel, attempt, command, late_ms: read.late_ms });
                }
                _ => {}
            }
        }
        told.replays.sort_by_key(|replay| replay.number);
        told
    }

    /// Number of the event that tells of a delta.
    fn by(&self, read: &Read<'_>) -> Option<u64> {
        if read.begins.is_some() {
            return read.begins;
        }
        match read.delta {
            Delta::Accepted { .. } | Delta::Conflicted { .. } | Delta::Tracked { .. } => None,
            Delta::Classified { .. } | Delta::Held { .. } => self.classified(),
            // An acceptance that news have brought, or the merchant of whatever was decided.
            Delta::Settled { .. } | Delta::Merchant { .. } => read.beside,
            // A refusal is told nobody.
            Delta::Commanded { .. } => None,
            Delta::Return { command, .. } | Delta::Replayed { command, .. } | Delta::Reviewed { command, .. } => {
                self.of_command(command)
            }
            Delta::Requested(requested) if requested.attempt & VOID != 0 => {
                let before = self.done.iter().filter(|(_, late_ms, _)| *late_ms <= read.late_ms);
                before.max_by_key(|(_, late_ms, event)| (*late_ms, *event)).map(|(_, _, event)| *event)
            }
            Delta::Requested(requested) => {
                let (parcel, attempt) = (requested.parcel, requested.attempt);
                let anew = self.of_parcel(parcel).rfind(|r| r.attempt == attempt && r.late_ms <= read.late_ms);
                match (anew, attempt.checked_sub(1)) {
                    (Some(replay), _) => self.of_command(replay.command),
                    (None, Some(before)) => self.failed.iter().find(|f| (f.0, f.1) == (parcel, before)).map(|f| f.2),
                    (None, None) => self.made(parcel),
                }
            }
            Delta::Packed { parcel, .. } => {
                let anew = self.of_parcel(parcel).rfind(|replay| replay.late_ms == read.late_ms);
                anew.map_or_else(|| self.made(parcel), |replay| self.of_command(replay.command))
            }
            Delta::DeadLettered { parcel: None, replay, .. } => self.whole(replay).or(Some(0)),
            Delta::DeadLettered { parcel: Some(parcel), replay, .. } => self.dead(parcel, replay),
        }
    }

    /// Replays of a parcel, by number.
    fn of_parcel(&self, parcel: u8) -> impl DoubleEndedIterator<Item = &Replay> {
        self.replays.iter().filter(move |replay| replay.parcel == Some(parcel))
    }

    /// The event of a replay of the whole order.
    fn whole(&self, number: u8) -> Option<u64> {
        let whole = self.replays.iter().find(|replay| replay.parcel.is_none() && replay.number == number);
        whole.and_then(|replay| self.of_command(replay.command))
    }

    /// The event by which it is known what the order's goods are: of its last replay, if that was one of the whole order.
    fn classified(&self) -> Option<u64> {
        let whole = self.replays.iter().rfind(|replay| replay.parcel.is_none());
        whole.map_or(Some(0), |replay| self.of_command(replay.command))
    }

    /// The event that tells of a parcel's dead letter after replay number `after`: the last attempt since then that came to
    /// nothing, or that nobody was asked.
    fn dead(&self, parcel: u8, after: u8) -> Option<u64> {
        let last = self.of_parcel(parcel).rfind(|replay| replay.number <= after);
        let next = self.of_parcel(parcel).find(|replay| replay.number > after);
        let (since, until) = (last.map_or(0, |r| r.attempt), next.map(|r| r.late_ms));
        let failed = self.failed.iter().filter(|f| f.0 == parcel && f.1 & VOID == 0 && f.1 >= since);
        let failed = failed.filter(|f| last.is_none_or(|r| f.3 > r.late_ms) && until.is_none_or(|at| f.3 <= at));
        let made = || last.map_or_else(|| self.made(parcel), |replay| self.of_command(replay.command));
        failed.max_by_key(|f| (f.1, f.3)).map(|f| f.2).or_else(made)
    }

    /// The event by which it is known what is in a parcel.
    fn made(&self, parcel: u8) -> Option<u64> {
        if let Some((_, command)) = self.reviews.iter().find(|(known, _)| *known == parcel) {
            return self.of_command(*command);
        }
        if parcel < FIRST_RETURN {
            return self.classified();
        }
        self.returns.iter().find(|(known, _)| *known == parcel).and_then(|(_, command)| self.of_command(*command))
    }

    fn of_command(&self, command: u64) -> Option<u64> {
        self.done.iter().find(|(id, ..)| *id == command).map(|(.., event)| *event)
    }
}

/// The events, each with where the order stood after it.
fn events(id: OrderId, deltas: &[Read<'_>], hops: &[Hop<'_>]) -> Vec<EventTrace> {
    let mut by_event: Vec<_> = deltas.iter().zip(hops).filter_map(|(read, hop)| Some((hop.event?, read))).collect();
    by_event.sort_by_key(|(event, _)| *event);
    let (mut state, mut events) = (blank(id), Vec::new());
    for decision in by_event.chunk_by(|a, b| a.0 == b.0) {
        decision.iter().for_each(|(_, read)| state.merge(read.at, read.delta));
        let first = decision.iter().find(|(event, read)| read.begins == Some(*event));
        events.extend(first.map(|&(sequence, read)| EventTrace {
            sequence,
            at: Timestamp(read.at),
            status: state.status(),
        }));
    }
    events
}

fn blank<'a>(id: OrderId) -> OrderState<'a> {
    OrderState {
        id,
        accepted: None,
        classified: None,
        dead_letter: None,
        replayed: 0,
        replays: Vec::new(),
        conflicts: Vec::new(),
        parcels: Vec::new(),
        returns: Vec::new(),
        commands: Vec::new(),
    }
}

/// Answers and news don't say whose they are; the request does.
fn name_carriers<'a>(state: &OrderState<'a>, hops: &mut [Hop<'a>]) {
    let parcels = state.parcels.iter().chain(state.returns.iter().map(|back| &back.parcel));
    let asked = |parcel: u8, attempt: u8| {
        let parcel = parcels.clone().find(|known| known.number == parcel)?;
        let attempt = parcel.attempts.iter().find(|known| known.number == attempt)?;
        attempt.requested.as_ref().map(|(_, requested)| requested.carrier)
    };
    for hop in hops {
        if let (None, Some(parcel), Some(attempt)) = (hop.carrier, hop.parcel, hop.attempt) {
            hop.carrier = asked(parcel, attempt);
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
        model: None,
        detail: None,
    };
    match *delta {
        Delta::Accepted { position } => Hop { detail: Some(format!("position {position}").into()), ..blank },
        Delta::Merchant { id } => Hop { what: "merchant", detail: text(id), ..blank },
        Delta::Classified { parcels, rules, model } => {
            let detail = if parcels == 1 { "1 parcel".to_owned() } else { format!("{parcels} parcels") };
            let model = Some(model).filter(|&model| model > 0);
            Hop { what: "classified", rules: Some(rules), model, detail: Some(detail.into()), ..blank }
        }
        Delta::Held { parcel, handling, confidence, weight, .. } => {
            let detail =
                format!("to be reviewed; most likely {}, {confidence} %, {}", class_name(handling), weighing(weight));
            Hop { what: "held", parcel: Some(parcel), detail: Some(detail.into()), ..blank }
        }
        Delta::Reviewed { parcel, handling, keep, by, .. } => review(parcel, handling, (keep, by), blank),
        Delta::Requested(requested) => request(&requested, blank),
        Delta::Settled { parcel, attempt, outcome, text: said } => Hop {
            what: if attempt & VOID == 0 { "settled" } else { "void_settled" },
            parcel: Some(parcel),
            attempt: Some(attempt & !VOID),
            outcome: Some(outcome_name(outcome)),
            detail: text(said),
            ..blank
        },
        Delta::Packed { parcel, handling, weight, .. } => {
            let detail = Some(goods(handling, weight).into());
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
        Delta::Replayed { parcel, replay, by, .. } => Hop {
            what: "replayed",
            parcel,
            detail: Some(format!("replay {replay}, asked for by {by}").into()),
            ..blank
        },
        Delta::DeadLettered { parcel, rules, reason, .. } => {
            Hop { what: "dead_lettered", parcel, rules: Some(rules), detail: text(reason), ..blank }
        }
    }
}

/// What has ended that a parcel was held.
fn review<'a>(parcel: u8, handling: Option<u8>, (keep, by): (Keep, &str), blank: Hop<'a>) -> Hop<'a> {
    let Some(handling) = handling else {
        let detail = Some("cancelled while it was held".into());
        return Hop { what: "withdrawn", parcel: Some(parcel), detail, ..blank };
    };
    let kept = keep.name().map(|name| format!(", kept as a {name}")).unwrap_or_default();
    let detail = format!("{} by {by}{kept}", class_name(handling));
    Hop { what: "reviewed", parcel: Some(parcel), detail: Some(detail.into()), ..blank }
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
    let detail = goods(requested.handling, requested.weight);
    Hop { what: "requested", detail: Some(detail.into()), ..asked }
}

/// Handling group and weight, which `~` marks as an estimate.
fn goods(handling: u8, weight: Weight) -> String {
    format!("{}, {}", group_name(handling), weighing(weight))
}

fn weighing(Weight { grams, estimated }: Weight) -> String {
    format!("{}{grams} g", if estimated { "~" } else { "" })
}

pub(crate) fn group_name(code: u8) -> &'static str {
    Group::from_code(code).map_or("unknown group", Group::name)
}

pub(crate) fn class_name(code: u8) -> &'static str {
    Handling::ALL.get(usize::from(code)).map_or("unknown class", |class| class.name())
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
        Verdict::NothingToReplay => "nothing_to_replay",
        Verdict::NotReplayable => "not_replayable",
        Verdict::TooManyReplays => "too_many_replays",
        Verdict::NotHeld => "not_held",
    }
}
