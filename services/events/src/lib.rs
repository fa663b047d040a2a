//! Tells consumers what was decided: `GET /v1/events`, pages and streams of CloudEvents, from any point that is retained; and
//! operators the same of every merchant's orders, `GET /v1/operator/events`.
//!
//! A reader is a cursor and nothing else: the server keeps none of it between two pages, so readers are independent, and
//! one that is slow holds a page of memory. Delivery is at least once.
//!
//! * [`query`]: what is asked for.
//! * [`page`]: some events, and where to go on.
//! * [`stream`]: events as they come.
//! * [`line`]: one event as a line or a message.
//! * [`room`]: how many readers there are.

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::get,
};
use metrics::{Counter, counter, describe_counter};
use sluice_domain::{Merchant, Merchants, Operators};
use sluice_http::{Problem, RouteMeter, authenticate, authenticate_operator, responses};
use sluice_pipeline::{Clock, Cursor, Feed, FeedError, FeedEvent};
use tokio::sync::watch;

mod line;
mod openapi;
mod page;
mod query;
mod room;
mod stream;

pub use query::{MAX_LIMIT, MAX_WAIT_S};
pub use room::DEFAULT_MAX_STREAMS;

use crate::{
    line::Lines,
    query::{After, Mode, Query},
    room::Room,
};

/// What the route needs from the world.
#[derive(Clone)]
pub struct Events {
    /// Where events are read.
    pub feed: Arc<dyn Feed>,
    /// Who may ask about its own orders.
    pub merchants: Arc<Merchants>,
    /// Who may ask about everybody's.
    pub operators: Arc<Operators>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// CloudEvents `source`, a URI reference.
    pub source: String,
    /// Streams, and pages that wait, at once.
    pub max_streams: usize,
    /// Streams end once it says `true`, so that nobody waits for them.
    pub stop: watch::Receiver<bool>,
}

/// Streams of operators at once, and as many pages that wait. They take none of the merchants' places.
pub const MAX_OPERATOR_STREAMS: usize = 8;

struct App {
    events: Events,
    lines: Lines,
    merchants: Side,
    operators: Side,
    sent: Counter,
}

/// A route with the readers that it has room for.
struct Side {
    path: &'static str,
    room: Room,
    meter: RouteMeter,
}

/// The routes. Called after the metrics recorder is installed, or nothing is counted.
pub fn router(state: Events) -> Router {
    let app = App {
        lines: Lines::new(&state.source),
        merchants: Side {
            path: "/v1/events",
            room: Room::new(state.max_streams, state.merchants.len()),
            meter: RouteMeter::new("GET /v1/events"),
        },
        operators: Side {
            path: "/v1/operator/events",
            room: Room::new(MAX_OPERATOR_STREAMS, 0),
            meter: RouteMeter::new("GET /v1/operator/events"),
        },
        sent: sent(),
        events: state,
    };
    Router::new()
        .route("/v1/events", get(events))
        .route("/v1/operator/events", get(operator_events))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(Arc::new(app))
}

fn sent() -> Counter {
    describe_counter!("sluice_events_sent_total", "Events given to consumers over HTTP");
    let sent = counter!("sluice_events_sent_total");
    // So that it is shown before the first.
    sent.increment(0);
    sent
}

/// The part of the API description that is this service's.
pub fn openapi() -> utoipa::openapi::OpenApi {
    openapi::document()
}

/// Follow what is decided about orders
///
/// CloudEvents 1.0 in JSON, those of this merchant's orders. Without `follow`: up to `limit` events, one a line, and then
/// the end; the header `Link` says where to go on. With `follow=true`, or `Accept: text/event-stream`, the answer stays
/// open and further events come as they are committed; an empty line or a comment comes every 15 s when nothing else does.
/// Any number of consumers read independently, each with a cursor of its own, from any point that is retained. Delivery is
/// at least once: drop an event whose `id` is known. `sequence` counts the events of each order from 0 without gaps.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "get_events",
    tag = "events",
    security(("api_key" = [])),
    params(openapi::Parameters, openapi::LastEventId),
    responses(
        (status = 200, description = "Events, oldest first: one such object a line, or a message. Those of one order are in their order.",
            content((openapi::CloudEvent = "application/x-ndjson"), (openapi::EventMessage = "text/event-stream")),
            headers(("Link" = String, description = "`</v1/events?after=CURSOR>; rel=\"next\"`, where to go on; without \
                `follow`"))),
        openapi::EventsProblems,
        responses::Unauthorized,
        responses::GetOnly,
    )
)]
async fn events(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let who = authenticate(&headers, &app.events.merchants).map(Who::Merchant);
    answer(&app, &app.merchants, who, query, &headers).await
}

/// Follow what is decided about every merchant's orders
///
/// As `GET /v1/events`, for operators; `merchantId` in the data says whose order an event is about.
#[utoipa::path(
    get,
    path = "/v1/operator/events",
    operation_id = "get_operator_events",
    tag = "operator",
    security(("operator_key" = [])),
    params(openapi::Parameters, openapi::LastEventId),
    responses(
        (status = 200, description = "Events, oldest first. Those of one order are in their order.",
            content((openapi::CloudEvent = "application/x-ndjson"), (openapi::EventMessage = "text/event-stream")),
            headers(("Link" = String, description = "`</v1/operator/events?after=CURSOR>; rel=\"next\"`, where to go on; \
                without `follow`"))),
        openapi::OperatorEventsProblems,
        responses::OperatorsOnly,
        responses::GetOnly,
    )
)]
async fn operator_events(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let who = authenticate_operator(&headers, &app.events.operators).map(|()| Who::Operator);
    answer(&app, &app.operators, who, query, &headers).await
}

async fn answer(
    app: &Arc<App>,
    side: &Side,
    who: Result<Who, Problem>,
    query: Option<String>,
    headers: &HeaderMap,
) -> Response {
    let started = app.events.clock.monotonic_us();
    let response = match read(app, side, who, query.as_deref().unwrap_or_default(), headers).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    side.meter.record(response.status(), app.events.clock.monotonic_us().saturating_sub(started));
    response
}

async fn read(
    app: &Arc<App>,
    side: &Side,
    who: Result<Who, Problem>,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let who = who?;
    let query = query::read(query, headers)?;
    let place = side.room.take(who.number(), query.waits())?;
    let after = start(app, &query).await?;
    let reader = Reader { app: Arc::clone(app), path: side.path, who, after, named: query.named, _place: place };
    match query.mode {
        Mode::Page { limit, wait } => page::answer(reader, limit, wait).await,
        Mode::Lines => stream::answer(reader, false).await,
        Mode::Messages => stream::answer(reader, true).await,
    }
}

/// Who reads.
enum Who {
    Merchant(Merchant),
    Operator,
}

impl Who {
    /// A merchant's place in the table.
    fn number(&self) -> Option<usize> {
        match self {
            Self::Merchant(merchant) => Some(merchant.number),
            Self::Operator => None,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Merchant(merchant) => &merchant.id,
            Self::Operator => "operator",
        }
    }

    fn sees(&self, event: &FeedEvent) -> bool {
        match self {
            Self::Merchant(merchant) => *event.merchant == *merchant.id,
            Self::Operator => true,
        }
    }
}

/// One request at work.
struct Reader {
    app: Arc<App>,
    /// The route that was asked.
    path: &'static str,
    who: Who,
    after: Cursor,
    /// The parameter or header that said so.
    named: &'static str,
    /// Given back when the answer ends.
    _place: room::Place,
}

/// Where the reader begins.
async fn start(app: &App, query: &Query) -> Result<Cursor, Problem> {
    if let After::Cursor(cursor) = &query.after {
        return Ok(cursor.clone());
    }
    let (oldest, newest) = app.events.feed.bounds().await.map_err(|error| problem(error, query.named))?;
    Ok(if query.after == After::Latest { newest } else { oldest })
}

/// What a reader is told of an error of the feed; `named` is where its cursor was given.
fn problem(error: FeedError, named: &'static str) -> Problem {
    match error {
        FeedError::Expired { oldest } => query::expired(&oldest),
        FeedError::Unknown(why) => query::unknown(named, &why),
        FeedError::Unavailable(why) => {
            tracing::warn!(why, "events can't be read");
            Problem::unavailable("Events can't be read now.", 1)
        }
    }
}
