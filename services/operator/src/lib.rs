//! Shows operators one order of any merchant with everything that is stored about it, `GET /v1/operator/orders/{id}`, has
//! what is dead-lettered of it decided anew, `POST /v1/operator/orders/{id}/replay`, and lets them say what goods are that nobody
//! knows, `/v1/review`.
//!
//! * [`router`]: the routes, for operators' keys alone.
//! * [`trace()`]: what it shows, a pure function of what is stored. Names, streets and titles aren't in it.
//! * [`Kept`]: what becomes of reviewers' decisions besides; [`rules()`] is what a node that classifies goes by.
//! * [`Deliveries`]: where it finds what became of the order's events at webhook endpoints.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use sluice_domain::{Operators, OrderId};
use sluice_http::{
    FieldError, OperatorKeySecurity, Problem, ProblemBody, RouteMeter, authenticate_operator, responses,
};
use sluice_pipeline::{Clock, LogError, Lookup, Orders, StoredOrder, WordIntake};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::{IntoResponses, OpenApi};

mod decide;
mod deliveries;
mod hops;
mod kept;
mod replay;
mod review;
#[cfg(test)]
mod testing;
mod trace;

pub use deliveries::{Deliveries, DeliveryTrace, TryTrace, WebhookTrace};
pub use hops::{EventTrace, Hop};
pub use kept::{Kept, MAX_ROWS, rules};
pub use replay::{DeadNow, MAX_REPLAYING, Replayed};
pub use review::{MAX_LOOKED_AT, MAX_REVIEW_LISTS, decision::MAX_REVIEWING};
pub use trace::{
    AttemptTrace, CommandTrace, ConflictTrace, DeadLetter, ItemTrace, NewsTrace, ParcelTrace, ReturnTrace, Trace,
    VoidTrace, trace,
};

/// Orders that are read and shown at once; more are answered 503.
pub const MAX_TRACES: usize = 16;
/// Below this age (ms of `placed_at`) an id that isn't known may still be on its way here.
const YOUNG_MS: u64 = 10_000;

/// What the routes need from the world.
#[derive(Clone)]
pub struct Operator {
    /// Where orders are read.
    pub orders: Arc<dyn Orders>,
    /// Where it is found which of them wait to be reviewed.
    pub lookup: Arc<dyn Lookup>,
    /// Where commands go.
    pub words: Arc<dyn WordIntake>,
    /// Where it is found what became of their events.
    pub deliveries: Arc<dyn Deliveries>,
    /// What reviewers' decisions are kept for.
    pub kept: Kept,
    /// Who may ask.
    pub operators: Arc<Operators>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

struct App {
    operator: Operator,
    room: Semaphore,
    /// Replays that wait for their decision.
    replaying: Semaphore,
    /// Reviews that wait for their decision.
    reviewing: Semaphore,
    /// Memory for bodies of reviews, KiB.
    review_room: Semaphore,
    /// Pages of what waits or is kept.
    lists: Arc<Semaphore>,
    meters: Meters,
}

struct Meters {
    trace: RouteMeter,
    replay: RouteMeter,
    review: RouteMeter,
    decision: RouteMeter,
    kept: RouteMeter,
    forget: RouteMeter,
}

impl App {
    /// A place to read a page of what waits or is kept, until it is dropped.
    fn listing(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let full = |_| Problem::unavailable("As many lists are being read as this node reads at once.", 1);
        Arc::clone(&self.lists).try_acquire_owned().map_err(full)
    }
}

/// The routes. Called after the metrics recorder is installed, or nothing is counted.
pub fn router(state: Operator) -> Router {
    let app = App {
        operator: state,
        room: Semaphore::new(MAX_TRACES),
        replaying: Semaphore::new(MAX_REPLAYING),
        reviewing: Semaphore::new(MAX_REVIEWING),
        review_room: Semaphore::new(review::decision::ROOM_KIB),
        lists: Arc::new(Semaphore::new(MAX_REVIEW_LISTS)),
        meters: Meters {
            trace: RouteMeter::new("GET /v1/operator/orders/{id}"),
            replay: RouteMeter::new("POST /v1/operator/orders/{id}/replay"),
            review: RouteMeter::new("GET /v1/review"),
            decision: RouteMeter::new("POST /v1/review/{id}"),
            kept: RouteMeter::new("GET /v1/review/kept"),
            forget: RouteMeter::new("DELETE /v1/review/kept/{id}"),
        },
    };
    Router::new()
        .route("/v1/operator/orders/{id}", get(order))
        .route("/v1/operator/orders/{id}/replay", post(replay::replay_order))
        .route("/v1/review", get(review::list))
        .route("/v1/review/{id}", post(review::decision::review_parcel))
        .route("/v1/review/kept", get(kept::routes::list))
        .route("/v1/review/kept/{id}", delete(kept::routes::forget))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(Arc::new(app))
}

/// The part of the API description that is this service's.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Sluice", description = "Orders in, parcels out."),
    paths(
        order,
        replay::replay_order,
        review::list,
        review::decision::review_parcel,
        kept::routes::list,
        kept::routes::forget
    ),
    components(schemas(ProblemBody<'_>, FieldError)),
    tags((name = "operator", description = "What operators see of every merchant's orders.")),
    modifiers(&OperatorKeySecurity)
)]
struct Document;

/// Trace one order
///
/// Everything that is stored about an order of any merchant: where the log has it, every decision about it in order of time,
/// every attempt at every parcel, and what became of its events at webhook endpoints. An order whose record can't be read is shown as far as it can be.
#[utoipa::path(
    get,
    path = "/v1/operator/orders/{id}",
    operation_id = "get_operator_order",
    tag = "operator",
    security(("operator_key" = [])),
    params(("id" = String, Path, description = "The order's id", min_length = 26, max_length = 26,
        pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "01M6VZ4W3V00J8Z8M3C0V9S1QK")),
    responses(
        (status = 200, description = "The order.", body = Trace<'static>, content_type = "application/json"),
        OperatorProblems,
        responses::OperatorsOnly,
        responses::GetOnly,
    )
)]
async fn order(State(app): State<Arc<App>>, id: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Response {
    let started = app.operator.clock.monotonic_us();
    // What isn't text is nobody's id.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let response = read(&app, &id, &headers).await.map_or_else(IntoResponse::into_response, answer);
    app.meters.trace.record(response.status(), app.operator.clock.monotonic_us().saturating_sub(started));
    response
}

/// An answer in JSON that nobody may keep.
fn answer(json: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(json));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const UNREADABLE: &str = "The order can't be read now.";

async fn read(app: &App, id: &str, headers: &HeaderMap) -> Result<Vec<u8>, Problem> {
    authenticate_operator(headers, &app.operator.operators)?;
    let id: OrderId = id.parse().map_err(|_| unknown())?;
    let full = |_| Problem::unavailable("As many orders are being traced as this node takes.", 1);
    let _place = app.room.try_acquire().map_err(full)?;
    let stored = load(app, id).await?;
    let mut trace = trace(id, &stored);
    let (deliveries, merchant) = (Arc::clone(&app.operator.deliveries), trace.merchant.map(str::to_owned));
    let webhooks = tokio::task::spawn_blocking(move || deliveries.of(merchant.as_deref(), id)).await;
    let webhooks = webhooks.unwrap_or_else(|error| Err(LogError::Store(error.to_string())));
    trace.add_webhooks(webhooks.inspect_err(|error| {
        tracing::warn!(order_id = %id, %error, "what became of an order's events can't be read");
    }));
    let mut json = Vec::with_capacity(4_096);
    serde_json::to_writer(&mut json, &trace).map_err(|error| {
        tracing::error!(order_id = %id, %error, "a trace could not be written");
        Problem::unavailable(UNREADABLE, 1)
    })?;
    Ok(json)
}

async fn load(app: &App, id: OrderId) -> Result<StoredOrder, Problem> {
    let stored = app.operator.orders.read(id).await.map_err(|error| {
        tracing::warn!(order_id = %id, %error, "an order could not be read");
        Problem::unavailable(UNREADABLE, 1)
    })?;
    stored.ok_or_else(|| {
        let age = app.operator.clock.now_ms().abs_diff(id.placed_at_ms());
        if age < YOUNG_MS { unknown().with_retry_after(1) } else { unknown() }
    })
}

/// No order by that id. Of a kind of its own: a tool must be able to tell it from a node that doesn't have this route.
fn unknown() -> Problem {
    Problem { kind: "unknown-order", ..Problem::not_found("There is no order with this id.") }
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
enum OperatorProblems {
    /// No order has this id.
    #[response(status = 404, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds; present while the order may still be on its way")))]
    Unknown(ProblemBody<'static>),
    /// The order can't be read now, or as many are being traced as the node takes.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}
