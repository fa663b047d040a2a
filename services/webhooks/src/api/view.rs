//! Endpoints, replays and deliveries as their merchant sees them.

use serde::Serialize;
use sluice_http::Timestamp;
use utoipa::ToSchema;

use crate::{
    model::{Delivery, DeliveryStatus, Disabled, Replay},
    registry::Shown,
};

/// How an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointStatus {
    /// It is posted to.
    Active,
    /// Everything fails: it is tried ever more seldom, and what comes waits for it.
    Failing,
    /// It isn't posted to.
    Disabled,
}

/// Where an endpoint comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// It was made here.
    Api,
    /// The server's operator has set it; it can only be looked at, enabled, and asked for a replay.
    Configuration,
}

/// A webhook endpoint.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EndpointView {
    /// Its id.
    #[schema(pattern = "^whe_[0-9A-HJKMNP-TV-Z]{26}$", example = "whe_01M6VZ4W3V00J8Z8M3C0V9S1QK")]
    pub id: String,
    /// Where events are posted.
    #[schema(format = "uri", example = "https://shop.example/hooks")]
    pub url: String,
    /// For people.
    pub description: String,
    /// Types of events that are posted; all if empty.
    pub types: Vec<String>,
    /// How it does.
    pub status: EndpointStatus,
    /// Why it is disabled: it answered 410, or its merchant said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub disabled_because: Option<Disabled>,
    /// Where it comes from.
    pub source: Source,
    /// When it was made; of an endpoint of the configuration, when the server was started.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Events that failed by themselves, or follow one of their order that did, and are tried again.
    pub waiting_events: usize,
    /// Since when everything fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub failing_since: Option<Timestamp>,
    /// No attempt before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub next_attempt_at: Option<Timestamp>,
    /// When it last took an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub last_success_at: Option<Timestamp>,
    /// When events were last found to be gone before they could be posted: it was away for longer than they are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub events_missed_at: Option<Timestamp>,
    /// Until when the secret before the last rotation signs, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub old_secret_until: Option<Timestamp>,
    /// The last replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub replay: Option<ReplayView>,
}

impl EndpointView {
    /// As it is at `now`, ms since the Unix epoch.
    pub fn new(shown: Shown, now: u64) -> Self {
        let Shown { endpoint, standing, parked, failing } = shown;
        let status = match (endpoint.disabled, failing) {
            (Some(_), _) => EndpointStatus::Disabled,
            (None, true) => EndpointStatus::Failing,
            (None, false) => EndpointStatus::Active,
        };
        let waits = status != EndpointStatus::Disabled && standing.waits_until_ms > now;
        Self {
            id: endpoint.id,
            url: endpoint.url,
            description: endpoint.description,
            types: endpoint.types,
            status,
            disabled_because: endpoint.disabled,
            source: if endpoint.fixed { Source::Configuration } else { Source::Api },
            created_at: Timestamp(endpoint.created_at_ms),
            waiting_events: parked,
            failing_since: standing.failing_since_ms.map(Timestamp),
            next_attempt_at: waits.then_some(Timestamp(standing.waits_until_ms)),
            last_success_at: standing.succeeded_at_ms.map(Timestamp),
            events_missed_at: standing.missed_at_ms.map(Timestamp),
            // One of the configuration signs until it is taken out there.
            old_secret_until: endpoint
                .old_secret
                .map(|old| old.until_ms)
                .filter(|at| (now + 1..u64::MAX).contains(at))
                .map(Timestamp),
            replay: standing.replays.into_iter().last().map(ReplayView::new),
        }
    }
}

/// An endpoint with the secret that it has from now on. It is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointWithSecret {
    /// The endpoint.
    #[serde(flatten)]
    pub endpoint: EndpointView,
    /// Standard Webhooks secret that messages are signed with.
    #[schema(example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]
    pub secret: String,
}

/// Endpoints.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointList {
    /// All of the merchant's, oldest first.
    pub endpoints: Vec<EndpointView>,
}

/// A range of time that is posted again.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ReplayView {
    /// First time in it.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// First time behind it.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub asked_at: Timestamp,
    /// True once every event in it was posted, or put aside for another attempt.
    pub done: bool,
    /// How many that were so far.
    pub events: u64,
}

impl ReplayView {
    /// As it is.
    pub fn new(replay: Replay) -> Self {
        Self {
            from: Timestamp(replay.from_ms),
            to: Timestamp(replay.to_ms),
            asked_at: Timestamp(replay.asked_at_ms),
            done: replay.cursor.is_none(),
            events: replay.events,
        }
    }
}

/// One event's way to one endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryView {
    /// The event's id: the `webhook-id` of every attempt.
    pub event_id: String,
    /// Its type.
    pub r#type: String,
    /// Its order.
    pub order_id: String,
    /// Its number among its order's events.
    pub sequence: u64,
    /// Its time.
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Timestamp,
    /// What became of it.
    pub status: DeliveryStatus,
    /// Attempts so far.
    pub attempts: u32,
    /// When this was last so.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// HTTP status of the last attempt, if there was an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub http_status: Option<u16>,
    /// How long the last attempt took, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub duration_ms: Option<u64>,
    /// What was wrong with it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub error: String,
    /// Next attempt, at the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub next_attempt_at: Option<Timestamp>,
    /// True if it was asked for again.
    pub replayed: bool,
}

impl DeliveryView {
    /// A line of the log.
    pub fn new(line: Delivery) -> Self {
        Self {
            event_id: line.event,
            r#type: line.kind,
            order_id: line.order.to_string(),
            sequence: line.sequence,
            occurred_at: Timestamp(line.event_at_ms),
            status: line.status,
            attempts: line.attempts,
            at: Timestamp(line.at_ms),
            http_status: line.http_status,
            duration_ms: line.took_ms,
            error: line.error,
            next_attempt_at: line.next_at_ms.map(Timestamp),
            replayed: line.replayed,
        }
    }
}

/// Deliveries, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryPage {
    /// At most 100.
    pub deliveries: Vec<DeliveryView>,
    /// `after` of the next page; absent on the last one. A page may be short, or empty, and not be the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub next: Option<String>,
}
