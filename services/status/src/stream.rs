//! `GET /v1/orders/{id}/events`: an order's view now and whenever it changes, as server-sent events.
//!
//! Each message is the whole view, so none depends on another: a client that reads slowly, or was away, gets the newest one
//! and misses nothing but states that are over. What is kept of a stream is therefore small and of one size: which order,
//! for whom, and a digest of the view that was sent last. A message's id is that digest and follows from what is stored
//! alone, so any node recognises it in `Last-Event-ID`, before and after a restart.
//!
//! A stream doesn't end with its order: a carrier may tell about a parcel that was delivered, and what it tells is shown. It
//! ends when the node drains, when the order is gone, and after about an hour, so that streams follow when nodes join or keys
//! change. A client that was told `retry` comes back by itself.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics::{Counter, counter, describe_counter};
use sluice_domain::{Merchant, OrderId};
use sluice_http::{ApiKeySecurity, Problem, ProblemBody, RouteMeter, authenticate, responses};
use sluice_pipeline::{Subscription, Watchers};
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoResponses, OpenApi, ToSchema};

use self::places::{Place, Places};
use crate::{Shown, Status, UNKNOWN, show};

mod places;
#[cfg(test)]
mod tests;

/// How long a stream is silent at most: proxies and clients take a longer silence for a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a stream lasts, …
const LIFETIME: Duration = Duration::from_secs(3_600);
/// … less up to so much, by the order's id, so that streams that began together don't end together.
const SPREAD_MS: u64 = 600_000;
/// When an order that couldn't be read is read again.
const AGAIN: Duration = Duration::from_secs(1);
/// What a client is told to wait before it comes back; and the heartbeat.
const RETRY: &str = "retry: 2000\n";
const BEAT: Bytes = Bytes::from_static(b":\n\n");

/// What streams need from the world.
#[derive(Clone)]
pub struct Streams {
    /// Orders, and who may ask.
    pub status: Status,
    /// Tells which orders change. Closing it ends the streams.
    pub watchers: Arc<Watchers>,
    /// Streams open at once, at most; of several merchants one gets half of them.
    pub limit: usize,
}

struct App {
    status: Status,
    watchers: Arc<Watchers>,
    places: Arc<Places>,
    meter: RouteMeter,
    messages: Counter,
}

/// The route of streams. Called after the metrics recorder is installed, or nothing is counted.
pub fn router(streams: Streams) -> Router {
    let Streams { status, watchers, limit } = streams;
    describe_counter!("sluice_status_messages_total", "Messages sent in streams of orders' events");
    let places = Places::new(limit, status.merchants.len());
    let meter = RouteMeter::new("GET /v1/orders/{id}/events");
    let app = App { status, watchers, places, meter, messages: counter!("sluice_status_messages_total") };
    Router::new()
        .route("/v1/orders/{id}/events", get(events))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(Arc::new(app))
}

/// The part of the API description that is streams'.
pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(paths(events), modifiers(&ApiKeySecurity))]
struct Document;

/// A server-sent event: its fields.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer, which is written without it")]
struct OrderMessage {
    /// Always `order`.
    #[schema(pattern = "^order$", example = "order")]
    event: String,
    /// The same for the same view.
    #[schema(pattern = "^[0-9a-f]{32}$", example = "925d7ae6ae91549bc3c865c8c9885ad2")]
    id: String,
    /// An OrderView.
    #[schema(content_media_type = "application/json")]
    data: String,
    /// Milliseconds to wait before coming back; in the first message.
    #[schema(required = false)]
    retry: u32,
}

/// Follow one order
///
/// Server-sent events. The first message is the order as it is now, each later one as it is after a change: always the
/// whole view, as `GET /v1/orders/{id}` gives it, so the last message is all that matters. States that came and went faster
/// than the client reads may be skipped. A client that comes back with the id of the last message it has gets nothing until
/// the order changes. A comment comes after 15 s of silence. The stream doesn't end with the order; it does, after about an
/// hour and when the server drains, and clients come back.
#[utoipa::path(
    get,
    path = "/v1/orders/{id}/events",
    operation_id = "follow_order",
    tag = "orders",
    security(("api_key" = [])),
    params(
        ("id" = String, Path, description = "The order's id", min_length = 26, max_length = 26,
            pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "01M6VZ4W3V00J8Z8M3C0V9S1QK"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last message that the client has"),
    ),
    responses(
        (status = 200, description = "Each message is one such object.", body = OrderMessage,
            content_type = "text/event-stream", headers(("Cache-Control" = String, description = "`no-cache`"))),
        StreamProblems,
        responses::Unauthorized,
        responses::GetOnly,
    )
)]
async fn events(State(app): State<Arc<App>>, id: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Response {
    let started = app.status.clock.monotonic_us();
    // What isn't text is nobody's id.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let response = match Follower::start(&app, &id, &headers).await {
        Ok(follower) => stream(follower),
        Err(problem) => problem.into_response(),
    };
    app.meter.record(response.status(), app.status.clock.monotonic_us().saturating_sub(started));
    response
}

fn stream(follower: Follower) -> Response {
    let messages = futures_util::stream::unfold(follower, |mut follower| async {
        let message = follower.next().await?;
        Some((Ok::<_, Infallible>(message), follower))
    });
    let mut response = Response::new(Body::from_stream(messages));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies that know it pass each message on at once.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The id of a message: 128 bits of a digest of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version([u8; 16]);

impl Version {
    fn of(json: &[u8]) -> Self {
        let mut version = [0; 16];
        blake3::Hasher::new().update(json).finalize_xof().fill(&mut version);
        Self(version)
    }

    /// As it stands in a message.
    fn text(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// Whether this is what a client says it has.
    fn is_known_by(self, headers: &HeaderMap) -> bool {
        headers.get("last-event-id").is_some_and(|known| known.as_bytes() == self.text().as_bytes())
    }

    fn message(self, json: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(json.len() + 80);
        message.extend_from_slice(b"event: order\nid: ");
        message.extend_from_slice(self.text().as_bytes());
        // Within JSON line breaks are escaped, so it is one line.
        message.extend_from_slice(b"\ndata: ");
        message.extend_from_slice(json);
        message.extend_from_slice(b"\n\n");
        message
    }
}

/// Whoever follows an order.
struct Follower {
    app: Arc<App>,
    merchant: Merchant,
    subscription: Subscription,
    _place: Place,
    /// What was sent last.
    sent: Version,
    /// What is to be sent before anything else.
    first: Option<Bytes>,
    /// When the next heartbeat is due.
    beat: Instant,
    /// When the order is read again although nothing says that it has changed: it couldn't be read.
    again: Option<Instant>,
    ends: Instant,
}

impl Follower {
    /// Reads the order and begins to follow it.
    async fn start(app: &Arc<App>, id: &str, headers: &HeaderMap) -> Result<Self, Problem> {
        let merchant = authenticate(headers, &app.status.merchants)?;
        let id: OrderId = id.parse().map_err(|_| Problem::not_found(UNKNOWN))?;
        let place = app.places.take(merchant.number)?;
        // Before it is read: whatever changes from here on is told.
        let subscription = app.watchers.watch(id);
        let Shown { row, json } = show(&app.status, &merchant, id).await?;
        subscription.saw(&row);
        let sent = Version::of(&json);
        let mut first = RETRY.as_bytes().to_vec();
        match sent.is_known_by(headers) {
            // Something has to come, so that the client knows that it is heard.
            true => first.extend_from_slice(&BEAT),
            false => {
                first.extend(sent.message(&json));
                app.messages.increment(1);
            }
        }
        let now = Instant::now();
        let ends = now + LIFETIME - Duration::from_millis(id.0 as u64 % SPREAD_MS);
        Ok(Self {
            app: Arc::clone(app),
            merchant,
            subscription,
            _place: place,
            sent,
            first: Some(first.into()),
            beat: now + HEARTBEAT,
            again: None,
            ends,
        })
    }

    /// What is to be sent next, as soon as there is something; `None` at the end. Only called once the connection has room:
    /// until then changes leave nothing but a mark.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let until = self.again.map_or(self.beat, |again| again.min(self.beat));
            match timeout_at(until, self.subscription.changed()).await {
                Ok(Err(_closed)) => return None,
                Ok(Ok(())) => {}
                Err(_) if Instant::now() >= self.ends => return None,
                Err(_) if until == self.beat => {
                    self.beat = Instant::now() + HEARTBEAT;
                    return Some(BEAT);
                }
                Err(_) => {}
            }
            match show(&self.app.status, &self.merchant, self.subscription.id()).await {
                Ok(shown) => {
                    self.again = None;
                    if let Some(message) = self.renewed(&shown) {
                        return Some(message);
                    }
                }
                // Rows may be given a lifetime.
                Err(problem) if problem.status == StatusCode::NOT_FOUND => return None,
                Err(_) => self.again = Some(Instant::now() + AGAIN),
            }
        }
    }

    /// The message that says so, if the view has changed.
    fn renewed(&mut self, shown: &Shown) -> Option<Bytes> {
        self.subscription.saw(&shown.row);
        let version = Version::of(&shown.json);
        if version == self.sent {
            return None;
        }
        self.sent = version;
        self.beat = Instant::now() + HEARTBEAT;
        self.app.messages.increment(1);
        Some(version.message(&shown.json).into())
    }
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
enum StreamProblems {
    /// No order of this merchant has this id.
    #[response(status = 404, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds; present while the order may still be on its way")))]
    Unknown(ProblemBody<'static>),
    /// This merchant follows as many orders as its share of the node allows.
    #[response(status = 429, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Share(ProblemBody<'static>),
    /// As many orders are followed as the node takes, or the order can't be read now.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}
