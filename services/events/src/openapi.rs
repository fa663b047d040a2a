//! What the route looks like to consumers.

use serde::Serialize;
use sluice_http::{ApiKeySecurity, FieldError, OperatorKeySecurity, ProblemBody};
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema};

/// This service's part of the document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Sluice", description = "Orders in, parcels out."),
    paths(super::events, super::operator_events),
    components(schemas(CloudEvent, EventMessage, ProblemBody<'_>, FieldError)),
    tags(
        (name = "events", description = "What was decided about orders, for other systems."),
        (name = "operator", description = "What operators see of every merchant's orders.")
    ),
    modifiers(&ApiKeySecurity, &OperatorKeySecurity)
)]
struct Document;

/// Where to begin and what to get.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the request, which is read without it")]
pub struct Parameters {
    /// Begin after this cursor, which an earlier answer gave; with `latest` from now on. Absent: with the oldest event that
    /// is retained.
    #[param(required = false, pattern = r"^(latest|1(\.[0-9a-z]{1,13}){1,1024})$", example = "1.2gosa7pa2gv.5k")]
    after: String,
    /// Events to give, at most; fewer are given if they are large. Not with `follow`.
    #[param(required = false, minimum = 1, maximum = 1000, default = 100)]
    limit: u32,
    /// Seconds to wait for the first event. Not with `follow`.
    #[param(required = false, minimum = 0, maximum = 30, default = 0)]
    wait: u32,
    /// Keep the answer open and send further events as they come. Always with `Accept: text/event-stream`.
    #[param(required = false, default = false)]
    follow: bool,
}

/// How a stream of server-sent events goes on.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes the request, which is read without it")]
pub struct LastEventId {
    /// The id of the last message, a cursor; it goes before `after`. Only with `Accept: text/event-stream`.
    #[param(rename = "Last-Event-ID", required = false, example = "1.2gosa7pa2gv.5k")]
    last_event_id: String,
}

/// One event: CloudEvents 1.0 in JSON. As a server-sent event it is the `data`, and the `id` is its cursor.
#[derive(Serialize, ToSchema)]
pub struct CloudEvent {
    /// Always `1.0`.
    #[schema(example = "1.0")]
    specversion: String,
    /// Identity of the event within its source; the same whenever it is given again.
    #[schema(pattern = "^[0-9a-f]{32}$", example = "00000000000000000000a00000000000")]
    id: String,
    /// The deployment.
    #[schema(format = "uri-reference", example = "/sluice")]
    source: String,
    /// What happened; skip those that you don't know.
    #[schema(example = "com.sluice.order.accepted.v1")]
    r#type: String,
    /// The order's id.
    #[schema(pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "01M6VZ4W3V00J8Z8M3C0V9S1QK")]
    subject: String,
    /// When it happened.
    #[schema(format = DateTime)]
    time: String,
    /// Number among the events of its order, from 0 without gaps.
    #[schema(pattern = "^[0-9]{10}$", example = "0000000000")]
    sequence: String,
    /// Where to go on after this event.
    #[schema(pattern = r"^1(\.[0-9a-z]{1,13}){1,1024}$", example = "1.2gosa7pa2gv.5k")]
    cursor: String,
    /// The form of `data`.
    #[schema(example = "application/json")]
    datacontenttype: String,
    /// An `OrderEvent` in Protobuf's canonical JSON, as asyncapi.json describes it.
    data: serde_json::Map<String, serde_json::Value>,
}

/// A server-sent event: its fields.
#[derive(Serialize, ToSchema)]
pub struct EventMessage {
    /// The cursor of the event: where to go on after it.
    #[schema(pattern = r"^1(\.[0-9a-z]{1,13}){1,1024}$", example = "1.2gosa7pa2gv.5k")]
    id: String,
    /// A CloudEvent.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum EventsProblems {
    /// A parameter or header is wrong, or the cursor isn't one of this deployment's.
    #[response(status = 400, content_type = "application/problem+json")]
    Parameter(ProblemBody<'static>),
    /// Events after the cursor are no longer kept; the problem names the oldest cursor after which they are.
    #[response(status = 410, content_type = "application/problem+json")]
    Expired(ProblemBody<'static>),
    /// The merchant has as many streams as its share allows.
    #[response(status = 429, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Share(ProblemBody<'static>),
    /// As many streams are open as the node takes, or events can't be read now.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

/// What can be wrong when an operator asks.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum OperatorEventsProblems {
    /// A parameter or header is wrong, or the cursor isn't one of this deployment's.
    #[response(status = 400, content_type = "application/problem+json")]
    Parameter(ProblemBody<'static>),
    /// Events after the cursor are no longer kept; the problem names the oldest cursor after which they are.
    #[response(status = 410, content_type = "application/problem+json")]
    Expired(ProblemBody<'static>),
    /// As many streams of operators are open as the node takes, or events can't be read now.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_covers_every_answer() {
        let document = serde_json::to_value(document()).unwrap();
        let operation = &document["paths"]["/v1/events"]["get"];
        for status in ["400", "401", "405", "410", "429", "503"] {
            assert!(operation["responses"][status]["content"].is_object(), "{status}");
        }
        for kind in ["application/x-ndjson", "text/event-stream"] {
            assert!(operation["responses"]["200"]["content"][kind].is_object(), "{kind}");
        }
        let parameters: Vec<_> = operation["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
        assert_eq!(parameters, ["after", "limit", "wait", "follow", "Last-Event-ID"]);
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
    }
}
