//! Tells where an order stands: the row that the stages wrote, folded into the view that its merchant reads; and takes what
//! the merchant wants done with it from then on.
//!
//! * [`router`]: `GET /v1/orders/{id}`, `GET /v1/orders?customer=…`, `POST …/cancel`, `POST …/returns`.
//! * [`stream`]: `GET …/events`, the same view whenever it changes.
//! * [`view()`]: the view itself, a pure function of what is stored.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use sluice_domain::{Merchant, Merchants, OrderId};
use sluice_http::{ApiKeySecurity, FieldError, Problem, ProblemBody, RouteMeter, authenticate, responses};
use sluice_pipeline::{Clock, Lookup, Orders, StoredOrder, WordIntake};
use sluice_schemas::{CodecError, order::OrderRef};
use tokio::sync::Semaphore;
use utoipa::{IntoResponses, OpenApi};

mod commands;
mod commands_openapi;
mod list;
mod returns_body;
pub mod stream;
mod view;

pub use list::{OrderList, OrderSummary};
pub use view::{LineView, OrderView, ParcelView, ReturnView, TimelineEntry, view};

/// Below this age (ms of `placed_at`) an id that isn't known may still be on its way here.
const YOUNG_MS: u64 = 10_000;

/// What status needs from the world.
#[derive(Clone)]
pub struct Status {
    /// Where orders are read.
    pub orders: Arc<dyn Orders>,
    /// Where merchants' wishes go.
    pub words: Arc<dyn WordIntake>,
    /// Where they are found by customer.
    pub lookup: Arc<dyn Lookup>,
    /// Who may ask.
    pub merchants: Arc<Merchants>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// KiB of bodies in memory at once.
const ROOM_KIB: usize = 16 << 10;

struct App {
    status: Status,
    room: Semaphore,
    lists: Semaphore,
    deciding: Semaphore,
    meters: Meters,
}

struct Meters {
    order: RouteMeter,
    list: RouteMeter,
    cancel: RouteMeter,
    returns: RouteMeter,
}

/// The routes of status. Called after the metrics recorder is installed, or nothing is counted. `/v1/orders` is checkout's,
/// too: what other methods are told there is said where the two come together.
pub fn router(state: Status) -> Router {
    let meters = Meters {
        order: RouteMeter::new("GET /v1/orders/{id}"),
        list: RouteMeter::new("GET /v1/orders"),
        cancel: RouteMeter::new("POST /v1/orders/{id}/cancel"),
        returns: RouteMeter::new("POST /v1/orders/{id}/returns"),
    };
    let (room, lists) = (Semaphore::new(ROOM_KIB), Semaphore::new(list::LISTS_AT_ONCE));
    let deciding = Semaphore::new(commands::DECIDED_AT_ONCE);
    let app = App { status: state, room, lists, deciding, meters };
    Router::new()
        .route("/v1/orders/{id}", get(order))
        .route("/v1/orders/{id}/cancel", post(commands::cancel_order))
        .route("/v1/orders/{id}/returns", post(commands::return_goods))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .route("/v1/orders", get(list::orders))
        .with_state(Arc::new(app))
}

/// The part of the API description that is status's.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    document.merge(stream::openapi());
    document
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Sluice", description = "Orders in, parcels out."),
    paths(order, list::orders, commands::cancel_order, commands::return_goods),
    components(schemas(ProblemBody<'_>, FieldError)),
    tags((name = "orders", description = "Placing orders and following them.")),
    modifiers(&ApiKeySecurity)
)]
struct Document;

/// Read one order
///
/// Status, parcels and time line, as of everything durable. The status only moves forward. Another merchant's order is as
/// unknown as one that never was.
#[utoipa::path(
    get,
    path = "/v1/orders/{id}",
    operation_id = "get_order",
    tag = "orders",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The order's id", min_length = 26, max_length = 26,
        pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "01M6VZ4W3V00J8Z8M3C0V9S1QK")),
    responses(
        (status = 200, description = "The order.", body = OrderView<'static>, content_type = "application/json"),
        StatusProblems,
        responses::Unauthorized,
        responses::GetOnly,
    )
)]
async fn order(State(app): State<Arc<App>>, id: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Response {
    let started = app.status.clock.monotonic_us();
    // What isn't text is nobody's id.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let response = answer(read(&app.status, &id, &headers).await);
    app.meters.order.record(response.status(), app.status.clock.monotonic_us().saturating_sub(started));
    response
}

fn answer(json: Result<Vec<u8>, Problem>) -> Response {
    match json {
        Ok(json) => {
            let mut response = Response::new(Body::from(json));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(problem) => problem.into_response(),
    }
}

async fn read(status: &Status, id: &str, headers: &HeaderMap) -> Result<Vec<u8>, Problem> {
    let merchant = authenticate(headers, &status.merchants)?;
    let id: OrderId = id.parse().map_err(|_| Problem::not_found(UNKNOWN))?;
    Ok(show(status, &merchant, id).await?.json)
}

/// An order that its merchant may see.
struct Shown {
    /// Its row, as stored.
    row: Vec<u8>,
    /// Its view.
    json: Vec<u8>,
}

async fn show(status: &Status, merchant: &Merchant, id: OrderId) -> Result<Shown, Problem> {
    let stored = load(status, merchant, id).await?;
    let view = view(&stored).map_err(|error| damaged(id, error))?;
    let mut json = Vec::with_capacity(1_024);
    serde_json::to_writer(&mut json, &view).map_err(|error| {
        tracing::error!(order_id = %id, %error, "a view could not be written");
        Problem::unavailable(UNREADABLE, 1)
    })?;
    Ok(Shown { row: stored.row, json })
}

/// The order with this id, if it is the merchant's.
async fn load(status: &Status, merchant: &Merchant, id: OrderId) -> Result<StoredOrder, Problem> {
    let stored = status.orders.read(id).await.map_err(|error| {
        tracing::warn!(order_id = %id, %error, "an order could not be read");
        Problem::unavailable(UNREADABLE, 1)
    })?;
    let Some(stored) = stored else { return Err(unknown(status, id)) };
    let record = OrderRef::decode(&stored.record).map_err(|error| damaged(id, error))?;
    if record.merchant != &*merchant.id {
        return Err(unknown(status, id));
    }
    Ok(stored)
}

const UNKNOWN: &str = "There is no order with this id.";
const UNREADABLE: &str = "The order can't be read now.";

fn damaged(id: OrderId, error: CodecError) -> Problem {
    tracing::error!(order_id = %id, %error, "a stored order can't be read");
    Problem::unavailable(UNREADABLE, 1)
}

/// The same answer for an order that is another merchant's, that never was, and that is not here yet.
fn unknown(status: &Status, id: OrderId) -> Problem {
    let problem = Problem::not_found(UNKNOWN);
    let age = status.clock.now_ms().abs_diff(id.placed_at_ms());
    if age < YOUNG_MS { problem.with_retry_after(1) } else { problem }
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
enum StatusProblems {
    /// No order of this merchant has this id, or it is over and no longer kept.
    #[response(status = 404, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds; present while the order may still be on its way")))]
    Unknown(ProblemBody<'static>),
    /// The order can't be read now.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_covers_every_answer() {
        let document = serde_json::to_value(openapi()).unwrap();
        for (path, statuses) in [
            ("/v1/orders/{id}", ["200", "401", "404", "405", "503"]),
            ("/v1/orders", ["200", "400", "401", "405", "503"]),
        ] {
            let responses = &document["paths"][path]["get"]["responses"];
            for status in statuses {
                assert!(responses[status]["content"].is_object(), "{path}: {status}");
            }
        }
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
        let parcel = &document["components"]["schemas"]["ParcelView"];
        for field in ["id", "handling", "carrier", "tracking_number", "status", "lines"] {
            assert!(parcel["required"].as_array().unwrap().iter().any(|f| f == field), "{field}: {parcel}");
        }
    }
}
