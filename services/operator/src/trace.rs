//! An order as an operator sees it: a pure function of the stored row and record.

use serde::{Serialize, Serializer};
use sluice_domain::{
    Class, OrderId, OrderState, ShipmentId,
    order_state::{self, Attempt, Parcel, Return, Standing},
};
use sluice_http::Timestamp;
use sluice_pipeline::{LogError, StoredOrder};
use sluice_schemas::{
    CodecError,
    milestone::Milestone,
    order::{Line, OrderRef},
    outcome::OutcomeKind,
};
use utoipa::ToSchema;

use crate::{
    deliveries::WebhookTrace,
    hops::{EventTrace, Hop, group_name, outcome_name, verdict_name, walk},
};

/// Everything stored about an order.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = OrderTrace)]
pub struct Trace<'a> {
    /// The order's id.
    #[serde(serialize_with = "order_as_text")]
    #[schema(value_type = String, min_length = 26, max_length = 26, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    pub id: OrderId,
    /// Whose order it is; null if nothing readable says so.
    #[schema(max_length = 64, required = true)]
    pub merchant: Option<&'a str>,
    /// The merchant's id of the customer.
    #[schema(max_length = 64, required = true)]
    pub customer: Option<&'a str>,
    /// The customer's status.
    #[serde(serialize_with = "as_name")]
    #[schema(value_type = String, example = "carrier_accepted")]
    pub status: Milestone,
    /// `in_flight`, `dead_lettered`, `finished` or `cancelled`: what the order counts as.
    #[schema(value_type = String, example = "finished")]
    pub class: &'static str,
    /// Which slot its id is of; partitions own ranges of slots.
    pub slot: u16,
    /// Where the log has its record, a number in decimal; null if the row doesn't say.
    #[schema(required = true, pattern = "^[0-9]{1,20}$", example = "4136")]
    pub position: Option<String>,
    /// When the customer pressed the button.
    #[schema(value_type = String, format = DateTime)]
    pub placed_at: Timestamp,
    /// When checkout had taken it.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub accepted_at: Option<Timestamp>,
    /// When its goods were known and split.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub decided_at: Option<Timestamp>,
    /// Version of the catalogue and rules that decided.
    #[schema(required = true)]
    pub rules: Option<u32>,
    /// Version of the model that judged what those didn't know; null if none took part.
    #[schema(required = true)]
    pub model: Option<u32>,
    /// Why the whole order is dead-lettered, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub dead_letter: Option<DeadLetter<'a>>,
    /// What of it can't be read, if anything: the rest is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub unreadable: Option<String>,
    /// What ships together.
    #[schema(max_items = 200)]
    pub parcels: Vec<ParcelTrace<'a>>,
    /// What comes back.
    #[schema(max_items = 56)]
    pub returns: Vec<ReturnTrace<'a>>,
    /// What the merchant or an operator wanted, and what became of it.
    pub commands: Vec<CommandTrace>,
    /// Later requests under the same key that are no orders.
    pub conflicts: Vec<ConflictTrace>,
    /// Everything that was written down, oldest first.
    pub hops: Vec<Hop<'a>>,
    /// The public events about it.
    pub events: Vec<EventTrace>,
    /// What became of them at the merchant's webhook endpoints, by endpoint.
    pub webhooks: Vec<WebhookTrace>,
}

/// Why somebody must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeadLetter<'a> {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Why.
    pub reason: &'a str,
}

/// Lines that ship together, and every attempt to have them carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ParcelTrace<'a> {
    /// From 0; from 200 for returns.
    pub number: u8,
    /// The parcel's status.
    #[serde(serialize_with = "as_name")]
    #[schema(value_type = String, example = "carrier_accepted")]
    pub status: Milestone,
    /// `undecided`, `accepted`, `dead_lettered`, `cancelled` or `not_needed` (no goods): what the parcel counts as. A carrier's
    /// yes goes before a dead letter.
    #[schema(value_type = String, example = "accepted")]
    pub standing: &'static str,
    /// What it needs on its way.
    #[schema(value_type = Option<String>, required = true, example = "chilled")]
    pub handling: Option<&'static str>,
    /// Grams.
    #[schema(required = true)]
    pub weight_g: Option<u32>,
    /// Whether what some of its goods weigh is a guess; false, too, where this was not told yet.
    pub weight_estimated: bool,
    /// What is in it.
    pub items: Vec<ItemTrace<'a>>,
    /// Why it was last dead-lettered, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub dead_letter: Option<DeadLetter<'a>>,
    /// Carriers that were asked, in order.
    pub attempts: Vec<AttemptTrace<'a>>,
}

/// One line's share of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct ItemTrace<'a> {
    /// The line's place in the order, from 0.
    pub line: u16,
    /// The merchant's stock keeping unit; null if the record can't be read.
    #[schema(required = true)]
    pub sku: Option<&'a str>,
    /// Units; null if the record that says so can't be read.
    #[schema(required = true)]
    pub quantity: Option<u32>,
}

/// One carrier asked to take one parcel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AttemptTrace<'a> {
    /// From 0.
    pub number: u8,
    /// The id under which the carrier knows it.
    pub shipment: String,
    /// The carrier.
    #[schema(required = true)]
    pub carrier: Option<&'a str>,
    /// When it was decided to ask.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub requested_at: Option<Timestamp>,
    /// `accepted`, `rejected`, `given_up` or `unknown`; null while the carrier is being asked.
    #[schema(value_type = Option<String>, required = true)]
    pub outcome: Option<&'static str>,
    /// When the outcome was known.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub settled_at: Option<Timestamp>,
    /// The carrier's, if it accepted and gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub tracking_number: Option<&'a str>,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub reason: Option<&'a str>,
    /// What the carrier has told since.
    pub news: Vec<NewsTrace<'a>>,
    /// The request to forget it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub void: Option<VoidTrace<'a>>,
}

/// What a carrier told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewsTrace<'a> {
    /// What, such as `picked_up`.
    #[schema(value_type = String)]
    pub what: &'static str,
    /// When, by the carrier's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// For people; may be empty.
    pub detail: &'a str,
}

/// A request to a carrier to forget a shipment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct VoidTrace<'a> {
    /// When it was decided to ask.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub requested_at: Option<Timestamp>,
    /// As of an attempt; `accepted`: it is cancelled.
    #[schema(value_type = Option<String>, required = true)]
    pub outcome: Option<&'static str>,
    /// When the outcome was known.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub settled_at: Option<Timestamp>,
    /// What the carrier said; may be empty.
    #[schema(required = true)]
    pub reason: Option<&'a str>,
}

/// Goods on their way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReturnTrace<'a> {
    /// The parcel that brings them.
    #[serde(flatten)]
    pub parcel: ParcelTrace<'a>,
    /// The parcel that they were delivered in.
    #[schema(required = true)]
    pub source: Option<u8>,
    /// When it was decided.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub asked_at: Option<Timestamp>,
    /// The customer's.
    #[schema(required = true)]
    pub reason: Option<&'a str>,
    /// The command that asked for it, as in `commands`.
    #[schema(required = true)]
    pub command: Option<String>,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CommandTrace {
    /// Its id: 16 hexadecimal digits.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    pub id: String,
    /// `done`, `nothing_to_cancel`, `not_returnable`, `too_many_returns`, `nothing_to_replay`, `not_replayable`,
    /// `too_many_replays` or `not_held`.
    #[schema(value_type = String)]
    pub verdict: &'static str,
    /// When it was decided.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// A later request under the order's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConflictTrace {
    /// The id that it was given; that of the order itself if only the body differs.
    #[serde(serialize_with = "order_as_text")]
    #[schema(value_type = String)]
    pub order: OrderId,
    /// When that was found.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

pub(crate) fn order_as_text<S: Serializer>(id: &OrderId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

pub(crate) fn as_name<S: Serializer>(milestone: &Milestone, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(milestone.name())
}

/// Everything that is stored about the order `id`, as far as it can be read; without [`Trace::add_webhooks`].
pub fn trace(id: OrderId, stored: &StoredOrder) -> Trace<'_> {
    let walked = walk(id, &stored.row);
    let (record, mut unreadable) = match OrderRef::decode(&stored.record) {
        Ok(record) => (Some(record), None),
        Err(error) => (None, Some(error)),
    };
    let lines: Result<Vec<Line<'_>>, CodecError> = record.iter().flat_map(OrderRef::lines).collect();
    let lines = lines.unwrap_or_else(|error| {
        unreadable.get_or_insert(error);
        Vec::new()
    });
    let unreadable = match (unreadable, walked.broken) {
        (None, None) => None,
        (Some(record), None) => Some(format!("record: {record}")),
        (None, Some(row)) => Some(format!("row: {row}")),
        (Some(record), Some(row)) => Some(format!("record: {record}; row: {row}")),
    };
    let state = &walked.state;
    Trace {
        id,
        merchant: record.map(|record| record.merchant).or(walked.merchant),
        customer: record.map(|record| record.customer),
        status: state.status(),
        class: class_name(state.class()),
        slot: id.slot(),
        position: state.accepted.map(|(_, position)| position.to_string()),
        placed_at: Timestamp(id.placed_at_ms()),
        accepted_at: state.accepted.map(|(at, _)| at).or(record.map(|record| record.accepted_at_ms)).map(Timestamp),
        decided_at: state.classified.map(|(at, ..)| Timestamp(at)),
        rules: state.classified.map(|(_, _, rules, _)| rules),
        model: state.classified.map(|(.., model)| model).filter(|&model| model > 0),
        dead_letter: state.dead_letter.filter(|_| state.is_dead_lettered()).map(dead_letter),
        unreadable,
        parcels: state.parcels.iter().map(|parcel| parcel_trace(state, parcel, &lines)).collect(),
        returns: state.returns.iter().map(|back| return_trace(state, back, &lines)).collect(),
        commands: state
            .commands
            .iter()
            .map(|&(id, verdict, at)| command_trace(id, verdict_name(verdict), at))
            .collect(),
        conflicts: state.conflicts.iter().map(|&(order, at)| ConflictTrace { order, at: Timestamp(at) }).collect(),
        hops: walked.hops,
        events: walked.events,
        webhooks: Vec::new(),
    }
}

impl Trace<'_> {
    /// Adds what became of its events, or that it can't be read.
    pub fn add_webhooks(&mut self, read: Result<Vec<WebhookTrace>, LogError>) {
        match read {
            Ok(webhooks) => self.webhooks = webhooks,
            Err(error) => {
                let before = self.unreadable.take().map_or_else(String::new, |before| before + "; ");
                self.unreadable = Some(format!("{before}webhooks: {error}"));
            }
        }
    }
}

fn dead_letter(letter: order_state::DeadLetter<'_>) -> DeadLetter<'_> {
    DeadLetter { at: Timestamp(letter.at_ms), reason: letter.reason }
}

fn command_trace(id: u64, verdict: &'static str, at: u64) -> CommandTrace {
    CommandTrace { id: format!("{id:016x}"), verdict, at: Timestamp(at) }
}

fn return_trace<'a>(state: &OrderState<'a>, back: &Return<'a>, lines: &[Line<'a>]) -> ReturnTrace<'a> {
    ReturnTrace {
        parcel: parcel_trace(state, &back.parcel, lines),
        source: back.asked.map(|asked| asked.source),
        asked_at: back.asked.map(|asked| Timestamp(asked.at_ms)),
        reason: back.asked.map(|asked| asked.reason),
        command: back.asked.map(|asked| format!("{:016x}", asked.command)),
    }
}

fn parcel_trace<'a>(state: &OrderState<'a>, parcel: &Parcel<'a>, lines: &[Line<'a>]) -> ParcelTrace<'a> {
    let contents = parcel.contents();
    let items = contents.iter().flat_map(|(_, items)| items.iter()).map(|item| {
        let line = lines.get(usize::from(item.line));
        let quantity = item.quantity.or(line.map(|line| line.quantity));
        ItemTrace { line: item.line, sku: line.map(|line| line.sku), quantity }
    });
    ParcelTrace {
        number: parcel.number,
        status: state.parcel_status(parcel),
        standing: standing_name(parcel.standing()),
        handling: contents.map(|(group, _)| group_name(group)),
        weight_g: parcel.weight().map(|weight| weight.grams),
        weight_estimated: parcel.weight().is_some_and(|weight| weight.estimated),
        items: items.collect(),
        dead_letter: parcel.dead_letter.map(dead_letter),
        attempts: parcel.attempts.iter().map(|attempt| attempt_trace(state.id, parcel, attempt)).collect(),
    }
}

fn attempt_trace<'a>(order: OrderId, parcel: &Parcel<'a>, attempt: &Attempt<'a>) -> AttemptTrace<'a> {
    let outcome = attempt.outcome.filter(|_| !parcel.asks_again(attempt));
    let said = outcome.map(|(_, _, text)| text).filter(|text| !text.is_empty());
    let accepted = matches!(outcome, Some((OutcomeKind::Accepted, ..)));
    let news = attempt.news.iter().map(|&(progress, at, detail)| NewsTrace {
        what: progress.name(),
        at: Timestamp(at),
        detail,
    });
    let mut news: Vec<_> = news.collect();
    news.sort_by_key(|news| news.at);
    AttemptTrace {
        number: attempt.number,
        shipment: ShipmentId { order, parcel: parcel.number, attempt: attempt.number }.to_string(),
        carrier: attempt.requested.as_ref().map(|(_, requested)| requested.carrier),
        requested_at: attempt.requested.as_ref().map(|(at, _)| Timestamp(*at)),
        outcome: outcome.map(|(outcome, ..)| outcome_name(outcome)),
        settled_at: outcome.map(|(_, at, _)| Timestamp(at)),
        tracking_number: said.filter(|_| accepted),
        reason: said.filter(|_| !accepted),
        news,
        void: attempt.void.map(|void| VoidTrace {
            requested_at: void.requested.map(Timestamp),
            outcome: void.outcome.map(|(outcome, ..)| outcome_name(outcome)),
            settled_at: void.outcome.map(|(_, at, _)| Timestamp(at)),
            reason: void.outcome.map(|(_, _, text)| text),
        }),
    }
}

pub(crate) fn class_name(class: Class) -> &'static str {
    match class {
        Class::InFlight => "in_flight",
        Class::DeadLettered => "dead_lettered",
        Class::Finished => "finished",
        Class::Cancelled => "cancelled",
    }
}

fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Undecided => "undecided",
        Standing::Accepted => "accepted",
        Standing::DeadLettered => "dead_lettered",
        Standing::Cancelled => "cancelled",
        Standing::NotNeeded => "not_needed",
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
