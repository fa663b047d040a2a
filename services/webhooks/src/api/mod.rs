//! The merchants' side: endpoints, their secrets, what became of what was posted, and posting it again.

mod body;
mod openapi;
mod view;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Path, RawQuery, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;
use sluice_domain::{Merchants, limits::MAX_DELIVERIES};
use sluice_http::{FieldError, Problem, RouteMeter, authenticate, responses};
use sluice_pipeline::{Clock, Documents};

use crate::{
    config::{WebhookConfig, ms},
    driver::Desk,
    model::{self, Delivery, DeliveryStatus, Disabled, Endpoint, OldSecret},
    registry::{AskedReplay, Refusal, Shown},
    tail::Tail,
};

pub use openapi::openapi;
pub use view::{
    DeliveryPage, DeliveryView, EndpointList, EndpointStatus, EndpointView, EndpointWithSecret, ReplayView, Source,
};

/// Bytes of a secret that is made here.
const SECRET_BYTES: usize = 32;
/// Lines of a log that one request looks at, however few of them it asks for.
const LOOKED_AT: usize = 1_000;

/// How far an event's time may lie ahead of the moment when it was decided, ms: a carrier may tell of what is five minutes ahead
/// of its node's clock, and that may lie ten minutes ahead of its owner's. A replay looks so far before its range.
const AHEAD_MS: u64 = 900_000;

/// What the routes need.
#[derive(Clone)]
pub struct Api {
    /// Who does it.
    pub desk: Desk,
    /// Where the feed begins and ends.
    pub tail: Arc<Tail>,
    /// Where the log of deliveries is.
    pub documents: Arc<dyn Documents>,
    /// Who may ask.
    pub merchants: Arc<Merchants>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What may be called, and for how long an old secret signs.
    pub config: Arc<WebhookConfig>,
}

/// Every route's name in metrics.
const ROUTES: [&str; 9] = [
    "POST /v1/webhooks",
    "GET /v1/webhooks",
    "GET /v1/webhooks/{id}",
    "PATCH /v1/webhooks/{id}",
    "DELETE /v1/webhooks/{id}",
    "GET /v1/webhooks/{id}/deliveries",
    "POST /v1/webhooks/{id}/rotate-secret",
    "POST /v1/webhooks/{id}/replay",
    "POST /v1/webhooks/{id}/enable",
];

struct App {
    api: Api,
    meters: [RouteMeter; ROUTES.len()],
}

/// The routes. Called after the metrics recorder is installed, or nothing is counted.
pub fn router(api: Api) -> Router {
    let app = Arc::new(App { api, meters: ROUTES.map(RouteMeter::new) });
    Router::new()
        .route("/v1/webhooks", post(create).get(list))
        .route("/v1/webhooks/{id}", get(show).patch(change).delete(remove))
        .route("/v1/webhooks/{id}/deliveries", get(deliveries))
        .route("/v1/webhooks/{id}/rotate-secret", post(rotate))
        .route("/v1/webhooks/{id}/replay", post(replay))
        .route("/v1/webhooks/{id}/enable", post(enable))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), metered))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(app)
}

async fn metered(
    State(app): State<Arc<App>>,
    path: Option<MatchedPath>,
    method: Method,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let started = app.api.clock.monotonic_us();
    let response = next.run(request).await;
    let took_us = app.api.clock.monotonic_us().saturating_sub(started);
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let known = |route: &&'static str| route.split_once(' ') == Some((method, path));
    if let Some(number) = ROUTES.iter().position(known) {
        app.meters[number].record(response.status(), took_us);
    }
    response
}

type Id = Result<Path<String>, PathRejection>;

/// What isn't text is nobody's id.
fn text(id: Id) -> String {
    id.map_or_else(|_| String::new(), |Path(id)| id)
}

/// Make an endpoint
///
/// It is told of everything that happens from now on. The answer has its secret, which is never shown again.
#[utoipa::path(post, path = "/v1/webhooks", operation_id = "create_webhook", tag = "webhooks", security(("api_key" = [])),
    request_body(content = openapi::NewEndpoint, content_type = "application/json"),
    responses(
        (status = 201, description = "It is made.", body = EndpointWithSecret, content_type = "application/json"),
        openapi::BodyProblems, responses::Unauthorized, openapi::Method, openapi::Conflict))]
async fn create(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let api = &app.api;
    let merchant = authenticate(&headers, &api.merchants)?;
    let mut fields = body::object(&headers, body, false).await?;
    let url = fields.url(&api.config.guard, true);
    let (description, types) = (fields.description(), fields.types());
    fields.done()?;
    let now = api.clock.now_ms();
    let endpoint = Endpoint {
        id: new_id(now)?,
        merchant: merchant.id.to_string(),
        url: url.unwrap_or_default(),
        description: description.unwrap_or_default(),
        types: types.unwrap_or_default(),
        secret: new_secret()?,
        old_secret: None,
        disabled: None,
        created_at_ms: now,
        fixed: false,
    };
    let (_, newest) = api.tail.bounds().await.map_err(|error| unreadable(&error))?;
    let secret = endpoint.secret.clone();
    let shown = api.desk.ask(move |registry, now| registry.create(endpoint, newest, now)).await?;
    let view = EndpointView::new(shown, now);
    let location = HeaderValue::try_from(format!("/v1/webhooks/{}", view.id));
    let mut response = json(StatusCode::CREATED, &EndpointWithSecret { endpoint: view, secret });
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// List endpoints
#[utoipa::path(get, path = "/v1/webhooks", operation_id = "list_webhooks", tag = "webhooks", security(("api_key" = [])),
    responses((status = 200, description = "The merchant's endpoints.", body = EndpointList, content_type = "application/json"),
        openapi::ListProblems, responses::Unauthorized))]
async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Problem> {
    let merchant = authenticate(&headers, &app.api.merchants)?.id.to_string();
    let shown = app.api.desk.look(move |registry| Ok(registry.list(&merchant))).await?;
    let now = app.api.clock.now_ms();
    let endpoints = shown.into_iter().map(|shown| EndpointView::new(shown, now)).collect();
    Ok(json(StatusCode::OK, &EndpointList { endpoints }))
}

/// Read an endpoint
#[utoipa::path(get, path = "/v1/webhooks/{id}", operation_id = "get_webhook", tag = "webhooks", security(("api_key" = [])),
    params(openapi::EndpointId),
    responses((status = 200, description = "The endpoint.", body = EndpointView, content_type = "application/json"),
        openapi::Problems, responses::Unauthorized, openapi::Method))]
async fn show(State(app): State<Arc<App>>, id: Id, headers: HeaderMap) -> Result<Response, Problem> {
    let shown = app.api.own(&headers, &text(id)).await?;
    Ok(app.api.view(shown))
}

/// Change an endpoint
///
/// What isn't named stays as it is. Another URL is tried at once.
#[utoipa::path(patch, path = "/v1/webhooks/{id}", operation_id = "change_webhook", tag = "webhooks",
    security(("api_key" = [])), params(openapi::EndpointId),
    request_body(content = openapi::ChangedEndpoint, content_type = "application/json"),
    responses((status = 200, description = "The endpoint as it is now.", body = EndpointView, content_type = "application/json"),
        openapi::BodyProblems, responses::Unauthorized, openapi::Unknown, openapi::Conflict))]
async fn change(State(app): State<Arc<App>>, id: Id, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let api = &app.api;
    let merchant = authenticate(&headers, &api.merchants)?.id.to_string();
    let mut fields = body::object(&headers, body, false).await?;
    let (url, description) = (fields.url(&api.config.guard, false), fields.description());
    let (types, enabled) = (fields.types(), fields.enabled());
    fields.done()?;
    let id = text(id);
    let shown = api.desk.ask(move |registry, now| {
        registry.edit(&merchant, &id, now, |endpoint| {
            endpoint.url = url.unwrap_or_else(|| std::mem::take(&mut endpoint.url));
            endpoint.description = description.unwrap_or_else(|| std::mem::take(&mut endpoint.description));
            endpoint.types = types.unwrap_or_else(|| std::mem::take(&mut endpoint.types));
            match enabled {
                Some(true) => endpoint.disabled = None,
                Some(false) => endpoint.disabled = Some(endpoint.disabled.unwrap_or(Disabled::ByMerchant)),
                None => {}
            }
        })
    });
    Ok(api.view(shown.await?))
}

/// Remove an endpoint
///
/// With its log and everything that waits for it.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", operation_id = "remove_webhook", tag = "webhooks",
    security(("api_key" = [])), params(openapi::EndpointId),
    responses((status = 204, description = "It is gone."), openapi::Problems, responses::Unauthorized, openapi::Conflict))]
async fn remove(State(app): State<Arc<App>>, id: Id, headers: HeaderMap) -> Result<Response, Problem> {
    let merchant = authenticate(&headers, &app.api.merchants)?.id.to_string();
    let id = text(id);
    app.api.desk.ask(move |registry, _| registry.delete(&merchant, &id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Replace the secret
///
/// Messages are signed with the old one, too, for `overlap_s` seconds (a day if it isn't said), so that a receiver can be
/// changed without a gap.
#[utoipa::path(post, path = "/v1/webhooks/{id}/rotate-secret", operation_id = "rotate_webhook_secret", tag = "webhooks",
    security(("api_key" = [])), params(openapi::EndpointId),
    request_body(content = Option<openapi::Rotation>, content_type = "application/json"),
    responses((status = 200, description = "The endpoint with its new secret, which is never shown again.",
            body = EndpointWithSecret, content_type = "application/json"),
        openapi::BodyProblems, responses::Unauthorized, openapi::Unknown, openapi::Method, openapi::Conflict))]
async fn rotate(State(app): State<Arc<App>>, id: Id, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let api = &app.api;
    let merchant = authenticate(&headers, &api.merchants)?.id.to_string();
    let mut fields = body::object(&headers, body, true).await?;
    let overlap_ms = fields.overlap_s().map_or(ms(api.config.rotation), |seconds| seconds * 1_000);
    fields.done()?;
    let (id, secret) = (text(id), new_secret()?);
    let new = secret.clone();
    let shown = api.desk.ask(move |registry, now| {
        registry.edit(&merchant, &id, now, |endpoint| {
            let old = std::mem::replace(&mut endpoint.secret, new);
            endpoint.old_secret = (overlap_ms > 0).then_some(OldSecret { secret: old, until_ms: now + overlap_ms });
        })
    });
    let endpoint = EndpointView::new(shown.await?, api.clock.now_ms());
    Ok(json(StatusCode::OK, &EndpointWithSecret { endpoint, secret }))
}

/// Enable an endpoint
///
/// One that was disabled goes on where it was; one at which everything fails is tried at once.
#[utoipa::path(post, path = "/v1/webhooks/{id}/enable", operation_id = "enable_webhook", tag = "webhooks",
    security(("api_key" = [])), params(openapi::EndpointId),
    responses((status = 200, description = "The endpoint as it is now.", body = EndpointView, content_type = "application/json"),
        openapi::Problems, responses::Unauthorized, openapi::Method))]
async fn enable(State(app): State<Arc<App>>, id: Id, headers: HeaderMap) -> Result<Response, Problem> {
    let merchant = authenticate(&headers, &app.api.merchants)?.id.to_string();
    let id = text(id);
    let shown = app.api.desk.ask(move |registry, now| registry.enable(&merchant, &id, now)).await?;
    Ok(app.api.view(shown))
}

/// Post a range of time again
///
/// Every event of the endpoint's types whose time is in the range is posted again under its id, beside what happens
/// meanwhile; what it wasn't told of comes by itself. A repeated request under its idempotency key changes nothing and says how far it is.
#[utoipa::path(post, path = "/v1/webhooks/{id}/replay", operation_id = "replay_webhook", tag = "webhooks",
    security(("api_key" = [])), params(openapi::EndpointId, openapi::IdempotencyKey),
    request_body(content = openapi::Range, content_type = "application/json"),
    responses((status = 202, description = "It is begun, or was before.", body = ReplayView, content_type = "application/json"),
        openapi::BodyProblems, responses::Unauthorized, openapi::Unknown, openapi::Method, openapi::Conflict))]
async fn replay(State(app): State<Arc<App>>, id: Id, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let api = &app.api;
    let merchant = authenticate(&headers, &api.merchants)?.id.to_string();
    let key = body::idempotency_key(&headers)?;
    let mut fields = body::object(&headers, body, false).await?;
    let range = fields.range(api.clock.now_ms());
    fields.done()?;
    let (from_ms, to_ms) = range.unwrap_or_default();
    let asked = AskedReplay { merchant, id: text(id), key, from_ms, to_ms };
    let before = asked.clone();
    // A place is looked for only if a replay is to begin there.
    let start = match api.desk.look(move |registry| registry.begun(&before)).await? {
        Some(_) => None,
        None => {
            let start = api.tail.since(from_ms.saturating_sub(AHEAD_MS)).await;
            Some(start.map_err(|error| unreadable(&error))?)
        }
    };
    let begun = api.desk.ask(move |registry, now| registry.replay(&asked, start, now)).await?;
    Ok(json(StatusCode::ACCEPTED, &ReplayView::new(begun)))
}

/// Read the log of deliveries
///
/// One line an event, newest first: taken, tried again, or given up.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries", operation_id = "list_webhook_deliveries", tag = "webhooks",
    security(("api_key" = [])), params(openapi::EndpointId, openapi::DeliveryQuery),
    responses((status = 200, description = "A page of it.", body = DeliveryPage, content_type = "application/json"),
        openapi::Problems, responses::Unauthorized, openapi::Method, openapi::BadQuery))]
async fn deliveries(
    State(app): State<Arc<App>>,
    id: Id,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = app.api.own(&headers, &text(id)).await?.endpoint.id;
    let wanted = Wanted::read(query.as_deref().unwrap_or_default())?;
    let documents = Arc::clone(&app.api.documents);
    let page = tokio::task::spawn_blocking(move || wanted.page(&*documents, &id)).await;
    let failed = |error: String| {
        tracing::warn!(error, "a log of deliveries can't be read");
        Problem::unavailable("The log can't be read now.", 1)
    };
    let page = page.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
    Ok(json(StatusCode::OK, &page))
}

/// Which deliveries are wanted.
struct Wanted {
    /// Number of the line before the first one.
    after: Option<u64>,
    status: Option<DeliveryStatus>,
    limit: usize,
}

impl Wanted {
    fn read(query: &str) -> Result<Self, Problem> {
        let mut wanted = Self { after: None, status: None, limit: MAX_DELIVERIES };
        let mut errors = Vec::new();
        // A sign is no digit, though it can be parsed.
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let mut wrong = |name: &str, expected: String, got: &str| errors.push(FieldError::wrong(name, expected, got));
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "after" => match number(&value) {
                    Some(after) => wanted.after = Some(after),
                    None => wrong("after", "what the page before has as next".to_owned(), &value),
                },
                "status" => match serde_json::from_value(serde_json::Value::String(value.to_string())) {
                    Ok(status) => wanted.status = Some(status),
                    Err(_) => wrong("status", "delivered, retrying or failed".to_owned(), &value),
                },
                "limit" => match number(&value).and_then(|limit| usize::try_from(limit).ok()) {
                    Some(limit @ 1..=MAX_DELIVERIES) => wanted.limit = limit,
                    _ => wrong("limit", format!("a number from 1 to {MAX_DELIVERIES}"), &value),
                },
                other => wrong(&sluice_http::problem::clip(other), "no such parameter".to_owned(), &value),
            }
        }
        if errors.is_empty() { Ok(wanted) } else { Err(body::invalid(errors)) }
    }

    /// Looks through a bounded number of lines. Blocks.
    fn page(&self, documents: &dyn Documents, id: &str) -> Result<DeliveryPage, sluice_pipeline::LogError> {
        let prefix = model::deliveries_prefix(id);
        let mut after = self.after.map(|number| model::delivery_key(id, number));
        let (mut page, mut looked_at) = (DeliveryPage { deliveries: Vec::new(), next: None }, 0);
        while looked_at < LOOKED_AT {
            let lines = documents.scan(&prefix, after.as_deref(), self.limit)?;
            let full = lines.len() == self.limit;
            for (key, value) in lines {
                looked_at += 1;
                after = Some(key.clone());
                let Some(line) = model::read::<Delivery>(&key, &value) else { continue };
                page.next = Some(line.number.to_string());
                if self.status.is_none_or(|status| status == line.status) {
                    page.deliveries.push(DeliveryView::new(line));
                    if page.deliveries.len() == self.limit {
                        return Ok(page);
                    }
                }
            }
            if !full {
                page.next = None;
                return Ok(page);
            }
        }
        Ok(page)
    }
}

impl Api {
    async fn own(&self, headers: &HeaderMap, id: &str) -> Result<Shown, Problem> {
        let merchant = authenticate(headers, &self.merchants)?.id.to_string();
        let id = id.to_owned();
        Ok(self.desk.look(move |registry| registry.get(&merchant, &id)).await?)
    }

    fn view(&self, shown: Shown) -> Response {
        json(StatusCode::OK, &EndpointView::new(shown, self.clock.now_ms()))
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            Problem::unavailable("The answer could not be written.", 1).into_response()
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let conflict = |kind, title| Problem::new(StatusCode::CONFLICT, kind, title, sentence(refusal));
        match refusal {
            Refusal::Unknown => Problem::not_found(sentence(refusal)),
            Refusal::Fixed => conflict("fixed-webhook", "Set in the configuration"),
            Refusal::TooMany => conflict("too-many-webhooks", "Too many webhook endpoints"),
            Refusal::Replaying => conflict("replay-under-way", "A replay is under way").with_retry_after(60),
            Refusal::TooManyReplays => conflict("too-many-replays", "Too many replays").with_retry_after(60),
            Refusal::KeyReused => {
                let error = FieldError::missing("Idempotency-Key", "a key that wasn't used for another range");
                body::invalid(vec![error])
            }
            Refusal::Unstored => Problem::unavailable(sentence(refusal), 1),
        }
    }
}

fn sentence(refusal: Refusal) -> String {
    let text = refusal.to_string();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

fn unreadable(error: &sluice_pipeline::FeedError) -> Problem {
    tracing::warn!(%error, "the feed of events can't be read");
    Problem::unavailable("The events can't be read now.", 5)
}

fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    openssl::rand::rand_bytes(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        Problem::unavailable("No secret can be made now.", 1)
    })?;
    Ok(bytes)
}

/// Sorts by the time it was made.
fn new_id(now_ms: u64) -> Result<String, Problem> {
    let chance = u128::from_be_bytes(random()?) & ((1 << 80) - 1);
    Ok(format!("whe_{}", ulid::Ulid(u128::from(now_ms) << 80 | chance)))
}

fn new_secret() -> Result<String, Problem> {
    use base64::Engine as _;
    Ok(format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(random::<SECRET_BYTES>()?)))
}
