//! What became of an order's events at its merchant's webhook endpoints: the port through which it is read, and what is shown.

use serde::Serialize;
use sluice_domain::OrderId;
use sluice_http::Timestamp;
use sluice_pipeline::LogError;
use utoipa::ToSchema;

/// Where deliveries are found. Whoever composes a node knows who keeps them.
pub trait Deliveries: Send + Sync {
    /// What became of the order's events, by endpoint: those of `merchant`, where that is known, and any other with something
    /// about the order in its log. Blocks; how much is read has a bound of its own.
    ///
    /// # Errors
    /// [`LogError`] when they can't be read now.
    fn of(&self, merchant: Option<&str>, order: OrderId) -> Result<Vec<WebhookTrace>, LogError>;
}

/// A webhook endpoint, and what became there of the order's events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WebhookTrace {
    /// The endpoint's id.
    #[schema(example = "whe_01M6VZ4W3V00J8Z8M3C0V9S1QK")]
    pub endpoint: String,
    /// Host of its URL; null if it is removed.
    #[schema(required = true, example = "shop.example")]
    pub host: Option<String>,
    /// `active`, `failing` (everything fails: what comes waits for it), `disabled`, or `removed` (of the configuration; its log
    /// is kept for a while).
    #[schema(value_type = String, example = "active")]
    pub status: &'static str,
    /// No attempt at it before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub next_attempt_at: Option<Timestamp>,
    /// In the order in which they were first tried; those that weren't come last. An event of which there is none wasn't tried:
    /// it isn't of the endpoint's types, the endpoint waits before it or is younger, or its line is no longer kept.
    pub deliveries: Vec<DeliveryTrace>,
    /// True if older ones are left out because there are too many.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub more: bool,
}

/// One event's way to one endpoint. An event that was posted again on request has another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeliveryTrace {
    /// The event's id: the `webhook-id` of every attempt.
    pub message: String,
    /// The event's type.
    #[schema(example = "com.sluice.order.accepted.v1")]
    pub r#type: String,
    /// The event's number among those of the order, as in `events`.
    pub event: u64,
    /// `delivered`, `retrying`, `failed` (given up), or `waiting` for an earlier event of the order.
    #[schema(value_type = String, example = "delivered")]
    pub status: &'static str,
    /// True if it was asked for again.
    pub replayed: bool,
    /// How often it was tried.
    pub attempts: u32,
    /// The newest of its attempts, oldest first.
    #[schema(max_items = 16)]
    pub tries: Vec<TryTrace>,
    /// Why it was given up without an attempt.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub reason: String,
    /// Next attempt, at the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub next_attempt_at: Option<Timestamp>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TryTrace {
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// HTTP status, if there was an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub http_status: Option<u16>,
    /// How long it took, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub duration_ms: Option<u64>,
    /// What was wrong with it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub error: String,
}
