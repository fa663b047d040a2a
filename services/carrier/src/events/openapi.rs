//! What the carriers' part of the API looks like to them, and what it answers.

use serde::Serialize;
use sluice_http::{FieldError, ProblemBody};
use utoipa::{
    IntoParams, IntoResponses, Modify, OpenApi, ToSchema,
    openapi::{
        ComponentsBuilder,
        security::{ApiKey, ApiKeyValue, SecurityScheme},
    },
};

/// The carriers' part of the document.
#[derive(OpenApi)]
#[openapi(
    info(title = "Sluice", description = "Orders in, parcels out."),
    paths(super::events),
    components(schemas(
        Events, Event, ShipmentEvent, TrackingEvent, Progress, Results, EventResult, EventStatus, ProblemBody<'_>, FieldError
    )),
    tags((name = "carriers", description = "What carriers tell of shipments on their way.")),
    modifiers(&CarrierSignature)
)]
pub struct Document;

/// Adds the scheme `carrier_signature` that the operation refers to.
struct CarrierSignature;

impl Modify for CarrierSignature {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let about = "Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over id, timestamp and body.";
        let scheme = ApiKey::Header(ApiKeyValue::with_description("webhook-signature", about));
        let components = openapi.components.get_or_insert_with(|| ComponentsBuilder::new().build());
        components.add_security_scheme("carrier_signature", SecurityScheme::ApiKey(scheme));
    }
}

/// Headers of Standard Webhooks, besides the signature itself.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes the request, never built")]
pub struct SignatureHeaders {
    /// Names this message: the same on every retry, another for every message. ASCII without full stops.
    #[param(
        rename = "webhook-id",
        min_length = 1,
        max_length = 255,
        pattern = r"^[!-\-/-~]([\t -\-/-~]*[!-\-/-~])?$",
        example = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"
    )]
    webhook_id: String,
    /// When it was sent, in whole seconds since the Unix epoch; at most 300 away from now.
    #[param(rename = "webhook-timestamp", pattern = "^[0-9]+$", example = "1794355200")]
    webhook_timestamp: String,
}

/// What a carrier tells.
#[derive(Serialize, ToSchema)]
pub struct Events {
    #[schema(min_items = 1, max_items = 1000)]
    events: Vec<Event>,
}

/// One thing that happened to one shipment, or to all that travel under one tracking number: it names either.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the request, which is read without it")]
pub enum Event {
    /// It happened to one shipment.
    Shipment(ShipmentEvent),
    /// It happened to what has a tracking number.
    Tracking(TrackingEvent),
}

/// One thing that happened to one shipment.
#[derive(Serialize, ToSchema)]
pub struct ShipmentEvent {
    /// As the manifest had it.
    #[schema(
        pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}(-([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])){2}$",
        example = "01M6VZ4W3V00J8Z8M3C0V9S1QK-0-0"
    )]
    shipment_id: String,
    milestone: Progress,
    /// When it happened (RFC 3339): at most a day before its order, and at most five minutes ahead.
    #[schema(format = DateTime, example = "2026-11-12T09:30:00Z")]
    occurred_at: String,
    /// For people; at most 200 bytes, no control characters.
    #[schema(
        required = false,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$",
        example = "Memphis hub"
    )]
    detail: Option<String>,
}

/// One thing that happened to the parcels under one tracking number.
#[derive(Serialize, ToSchema)]
pub struct TrackingEvent {
    /// As the carrier gave it when it took the parcel, in an order of the last 60 days; every parcel of that order which
    /// travels under it is meant (16 at most). Should several orders have it, the newest is meant.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$",
        example = "CA473124829US"
    )]
    tracking_number: String,
    milestone: Progress,
    /// When it happened (RFC 3339): at most a day before its order, and at most five minutes ahead.
    #[schema(format = DateTime, example = "2026-11-12T09:30:00Z")]
    occurred_at: String,
    /// For people; at most 200 bytes, no control characters.
    #[schema(
        required = false,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$",
        example = "Memphis hub"
    )]
    detail: Option<String>,
}

/// What happened. The last three are shown on the time line as often as they are told and are no status.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes the request, which is read without it")]
pub enum Progress {
    /// The carrier has it.
    PickedUp,
    /// Between depots.
    InTransit,
    /// On the last vehicle.
    OutForDelivery,
    /// Waiting at a pick-up point.
    ReadyForPickup,
    /// With the customer.
    Delivered,
    /// On its way back to the merchant.
    ReturnToSender,
    /// Back with the merchant.
    Returned,
    /// It waits.
    OnHold,
    /// It comes later than was said.
    DeliveryDelayed,
    /// Nobody was there to take it.
    DeliveryFailed,
}

/// What became of each event.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Results {
    /// One an event, in their order.
    pub results: Vec<EventResult>,
}

/// What became of one event.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EventResult {
    /// Which event, from 0.
    #[schema(minimum = 0, maximum = 999)]
    pub index: usize,
    /// Whether it is durable.
    pub status: EventStatus,
    /// What is wrong with it; only if it was refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
    /// Seconds; only if the number is unknown and may become known, because what the carrier answered to the manifest may not
    /// have been decided yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, minimum = 1, example = 60)]
    pub retry_after_s: Option<u32>,
}

impl EventResult {
    /// A result that needs no more words.
    pub fn new(index: usize, status: EventStatus) -> Self {
        Self { index, status, errors: Vec::new(), retry_after_s: None }
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventStatus {
    /// It is durable.
    Taken,
    /// It is not as it should be, and will never be taken like this.
    Refused,
    /// No shipment that this carrier took has this tracking number now. Tell it again after `retry_after_s`, in another
    /// message; without that, it will hardly be found.
    Unknown,
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum EventsProblems {
    /// Not JSON.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody<'static>),
    /// An unknown carrier, no or a wrong signature, or a time too far from now.
    #[response(status = 401, content_type = "application/problem+json",
        headers(("WWW-Authenticate" = String, description = "`Signature`")))]
    Unauthorized(ProblemBody<'static>),
    /// The body did not arrive in time.
    #[response(status = 408, content_type = "application/problem+json")]
    TooSlow(ProblemBody<'static>),
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody<'static>),
    /// The body is not `application/json`.
    #[response(status = 415, content_type = "application/problem+json")]
    Media(ProblemBody<'static>),
    /// No list of events, or no event in it is as it should be.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(ProblemBody<'static>),
    /// No room now; send the message again under the same id.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}
