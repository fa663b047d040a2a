//! What the merchants' part of the API looks like to them, and what it answers.

use serde::Serialize;
use sluice_http::{ApiKeySecurity, FieldError, ProblemBody};
use sluice_schemas::event::EventType;
use utoipa::{
    IntoParams, IntoResponses, OpenApi, PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use super::view::{
    DeliveryPage, DeliveryView, EndpointList, EndpointStatus, EndpointView, EndpointWithSecret, ReplayView, Source,
};
use crate::model::{DeliveryStatus, Disabled};

#[derive(OpenApi)]
#[openapi(
    info(title = "Sluice", description = "Orders in, parcels out."),
    paths(
        super::create, super::list, super::show, super::change, super::remove, super::deliveries, super::rotate, super::replay,
        super::enable
    ),
    components(schemas(
        EndpointView, EndpointWithSecret, EndpointList, EndpointStatus, Source, Disabled, ReplayView, DeliveryPage,
        DeliveryView, DeliveryStatus, NewEndpoint, ChangedEndpoint, Rotation, Range, ProblemBody<'_>, FieldError
    )),
    tags((name = "webhooks", description = "Telling merchants' own systems what happens, by Standard Webhooks.")),
    modifiers(&ApiKeySecurity)
)]
struct Document;

/// The part of the API description that is webhooks'.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// An endpoint to be made.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEndpoint {
    /// Where events are posted: https, on port 443 or from 1024 on, at a public address. Redirects are not followed.
    #[schema(format = "uri", max_length = 2048, example = "https://shop.example/hooks")]
    url: String,
    /// For people; no control characters.
    #[schema(required = false, nullable = false, max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    description: Option<String>,
    /// Types of events that are posted; all if empty or absent.
    #[schema(required = false, nullable = false, example = json!(["com.sluice.parcel.tracked.v1"]))]
    types: Option<Vec<EventName>>,
}

/// A type of events.
#[derive(Serialize)]
pub struct EventName;

impl PartialSchema for EventName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(EventType::ALL.map(EventType::name))).into()
    }
}

impl ToSchema for EventName {}

/// What is to be changed of an endpoint.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangedEndpoint {
    /// As in [`NewEndpoint`].
    #[schema(format = "uri", required = false, nullable = false, max_length = 2048)]
    url: Option<String>,
    /// For people.
    #[schema(required = false, nullable = false, max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    description: Option<String>,
    /// Types of events that are posted; all if empty.
    #[schema(required = false, nullable = false)]
    types: Option<Vec<EventName>>,
    /// False: nothing is posted until it is true again; then it goes on where it was.
    #[schema(required = false, nullable = false)]
    enabled: Option<bool>,
}

/// How a secret is replaced.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Seconds for which messages are signed with the old secret, too.
    #[schema(required = false, nullable = false, minimum = 0, maximum = 604800, example = 86400)]
    overlap_s: Option<u64>,
}

/// A range of time that is over.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// First time in it.
    #[schema(format = DateTime, example = "2026-11-11T00:00:00Z")]
    from: String,
    /// First time behind it; not in the future.
    #[schema(format = DateTime, example = "2026-11-11T01:00:00Z")]
    to: String,
}

/// Which endpoint.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes the request, never built")]
pub struct EndpointId {
    /// The endpoint's id.
    #[param(pattern = "^whe_[0-9A-HJKMNP-TV-Z]{26}$", example = "whe_01M6VZ4W3V00J8Z8M3C0V9S1QK")]
    id: String,
}

/// Makes a replay repeatable.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes the request, never built")]
pub struct IdempotencyKey {
    /// The same on every repetition of this request, another for every other one.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: String,
}

/// Which deliveries.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the request, never built")]
pub struct DeliveryQuery {
    /// `next` of the page before.
    #[param(pattern = "^[0-9]{1,19}$", required = false, nullable = false)]
    after: Option<String>,
    /// Only these.
    #[param(required = false, nullable = false)]
    status: Option<DeliveryStatus>,
    /// How many at most.
    #[param(minimum = 1, maximum = 100, default = 100, required = false, nullable = false)]
    limit: Option<usize>,
}

/// What can be wrong with a request for a list.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum ListProblems {
    /// The node is stopping, or can't read or store what is asked for.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

/// What can be wrong with a request about one endpoint.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum Problems {
    /// No endpoint of this merchant has this id.
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(ProblemBody<'static>),
    /// The node is stopping, or can't read or store what is asked for.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

/// What can be wrong with a request that has a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum BodyProblems {
    /// Not JSON, or a header is missing.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody<'static>),
    /// The body did not arrive in time.
    #[response(status = 408, content_type = "application/problem+json")]
    TooSlow(ProblemBody<'static>),
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody<'static>),
    /// The body is not `application/json`.
    #[response(status = 415, content_type = "application/problem+json")]
    Media(ProblemBody<'static>),
    /// A field isn't as it should be; all of them are named.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(ProblemBody<'static>),
    /// The node is stopping, or can't read or store what is asked for.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

/// … about one endpoint.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum Unknown {
    /// No endpoint of this merchant has this id.
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(ProblemBody<'static>),
}

/// … that a path doesn't take.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum Method {
    /// Another method than the path takes.
    #[response(status = 405, content_type = "application/problem+json",
        headers(("Allow" = String, description = "What it takes")))]
    Method(ProblemBody<'static>),
}

/// … that doesn't fit what is there.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum Conflict {
    /// The endpoint is the configuration's, there are too many, or a replay is under way.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemBody<'static>),
}

/// … with wrong parameters.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum BadQuery {
    /// A parameter isn't as it should be; all of them are named.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(ProblemBody<'static>),
}
