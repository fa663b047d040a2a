//! `POST /v1/orders`: one order, durable before the answer.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sluice_domain::{Merchant, OrderId, limits::MAX_ORDER_BYTES};
use sluice_http::{
    Problem, authenticate,
    body::{Incoming, bad_header, malformed, require_type, too_slow},
    idempotency_key, responses,
};
use sluice_pipeline::{Receipt, Submission, Submitted};

use crate::{
    App, answer,
    decode::{Context, Decoded, Key, Scratch, decode},
    openapi,
    replay::{Late, look_up},
};

/// An answer for an order that is durable.
struct Taken {
    id: OrderId,
    replayed: bool,
}

/// Place one order
///
/// 201 means the order is on disk: it will not be lost. Retry with the same `Idempotency-Key` and body after anything
/// that left the outcome open; the answer is then the same, with `Idempotent-Replayed: true`. A node of a cluster answers
/// before the owner of the order has looked: without this header, and 201 also where the key was used for another order,
/// on whose time line the conflict then shows; an order that was answered 503 may still be found taken.
#[utoipa::path(
    post,
    path = "/v1/orders",
    operation_id = "place_order",
    tag = "orders",
    security(("api_key" = [])),
    params(openapi::IdempotencyKeyHeader),
    request_body(content = openapi::Order, content_type = "application/json", description = "At most 65,536 bytes."),
    responses(
        (status = 201, description = "The order is durable.", body = openapi::Answer, content_type = "application/json",
         headers(
            ("Location" = String, description = "Where the order can be followed."),
            ("Idempotent-Replayed" = String, description = "`true` if this order is known to have been taken before; else absent."))),
        openapi::OrderProblems,
        responses::Unauthorized,
        responses::PostOnly,
    )
)]
pub(crate) async fn place_order(State(app): State<Arc<App>>, request: Request) -> Response {
    let started = app.checkout.clock.monotonic_us();
    let response = match place(&app, request).await {
        Ok(taken) => {
            app.meters.taken(taken.replayed);
            created(&taken)
        }
        Err(problem) => {
            app.meters.refused(problem.status);
            problem.into_response()
        }
    };
    app.meters.single.record(response.status(), app.checkout.clock.monotonic_us().saturating_sub(started));
    response
}

async fn place(app: &App, request: Request) -> Result<Taken, Problem> {
    let (parts, body) = request.into_parts();
    let merchant = authenticate(&parts.headers, &app.checkout.merchants)?;
    require_type(&parts.headers, "application/json")?;
    let key = idempotency_key(&parts.headers).map_err(bad_header)?;
    app.checkout.intake.ready().map_err(|reason| Problem::unavailable(reason, 1))?;
    let length = body.size_hint().lower().min(MAX_ORDER_BYTES as u64) as usize;
    let mut hold = app.admission.enter(&merchant, 1, length)?;
    let mut incoming = Incoming::new(body, &parts.headers, MAX_ORDER_BYTES, &mut hold);
    let body = tokio::time::timeout(app.checkout.body_timeout, incoming.whole()).await.map_err(|_| too_slow())??;
    take(app, &merchant, Key::Given(&key), &body).await
}

async fn take(app: &App, merchant: &Merchant, key: Key<'_>, body: &[u8]) -> Result<Taken, Problem> {
    let context = app.context(&merchant.id);
    let text = std::str::from_utf8(body).map_err(|_| malformed("Not JSON: the body is not UTF-8."))?;
    let mut submission = Submission { bytes: Vec::with_capacity(body.len()), orders: Vec::new() };
    let Ok(decoded) = decode(text, key, &context, &mut Scratch::default(), &mut submission.bytes) else {
        return Err(answer::refused(text, key, &context));
    };
    let id = decoded.id;
    if decoded.late {
        return late(app, &decoded, key, &context, &submission.bytes).await;
    }
    submission.orders.push(Submitted { id, fingerprint: decoded.fingerprint, record: decoded.record });
    let since_us = app.checkout.clock.monotonic_us();
    let receipt = app.checkout.intake.submit(submission).await.first().copied();
    app.admission.answered(since_us, receipt.as_slice());
    tracing::debug!(order_id = %id, merchant = context.merchant, ?receipt, "order");
    match receipt {
        Some(Receipt::Accepted) => Ok(Taken { id, replayed: false }),
        Some(Receipt::Replayed) => Ok(Taken { id, replayed: true }),
        Some(Receipt::Conflict) => Err(answer::conflict(key)),
        Some(Receipt::Busy { retry_after_s, reason }) => Err(Problem::unavailable(reason, retry_after_s)),
        None => Err(crate::no_receipt()),
    }
}

async fn late(
    app: &App,
    decoded: &Decoded,
    key: Key<'_>,
    context: &Context<'_>,
    record: &[u8],
) -> Result<Taken, Problem> {
    let id = decoded.id;
    let found = look_up(&*app.checkout.orders, id, decoded.fingerprint, record).await;
    tracing::debug!(order_id = %id, merchant = context.merchant, ?found, "order placed before the window");
    match found {
        Late::Replay => Ok(Taken { id, replayed: true }),
        Late::Conflict => Err(answer::conflict(key)),
        Late::Unknown => Err(answer::too_old(id, context)),
        Late::Failed => Err(crate::no_lookup()),
    }
}

fn created(taken: &Taken) -> Response {
    let mut body = Vec::with_capacity(128);
    answer::put_answer(&mut body, taken.id);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/orders/{}", taken.id)) {
        headers.insert(header::LOCATION, location);
    }
    if taken.replayed {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}
