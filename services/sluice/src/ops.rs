//! What operators and their tools ask for: is it alive, does it take orders, what does it measure, what is its API.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use sluice_http::Problem;
use utoipa::OpenApi;

use crate::telemetry;

/// What an engine tells operators.
pub trait Watched: Send + Sync {
    /// `Err` with the reason while no orders are taken.
    ///
    /// # Errors
    /// The reason, for `/readyz`.
    fn ready(&self) -> Result<(), &'static str>;
    /// Publishes what is measured by looking rather than by counting.
    fn publish_metrics(&self);
}

/// What these routes need.
#[derive(Clone)]
pub struct Ops {
    /// Whose readiness and gauges are shown.
    pub engine: Arc<dyn Watched>,
    /// The recorder; `None` shows no metrics.
    pub metrics: Option<PrometheusHandle>,
}

/// The routes, with the whole API's description.
pub fn router(ops: Ops) -> Router {
    let description: Arc<str> = openapi().to_json().unwrap_or_default().into();
    let describe = move || {
        let body = description.to_string();
        async move { ([(header::CONTENT_TYPE, "application/json")], body) }
    };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .route("/openapi.json", get(describe))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(Arc::new(ops))
}

/// The description of the whole API, as `/openapi.json` gives it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    document.merge(sluice_checkout::openapi());
    document.merge(sluice_status::openapi());
    document.merge(sluice_events::openapi());
    document.merge(sluice_operator::openapi());
    document.merge(sluice_carrier::events::openapi());
    document.merge(sluice_webhooks::openapi());
    document
}

/// Publishes everything that is measured by looking rather than by counting. Call it about once a second.
pub fn publish(ops: &Ops) {
    ops.engine.publish_metrics();
    telemetry::publish_process();
    metrics::gauge!("sluice_ready").set(if ops.engine.ready().is_ok() { 1.0 } else { 0.0 });
    if let Some(metrics) = &ops.metrics {
        metrics.run_upkeep();
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sluice",
        description = "Orders in, parcels out: post orders, follow them to the carrier.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(healthz, readyz, show_metrics),
    tags((name = "operation", description = "For operators and their tools; no API key is asked for."))
)]
struct Document;

/// Is the process alive
///
/// Says nothing about whether it takes orders.
#[utoipa::path(get, path = "/healthz", operation_id = "health", tag = "operation",
    responses((status = 200, description = "It is.", body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Does it take orders
///
/// Not while it drains, when the disk is full, or after a failure.
#[utoipa::path(get, path = "/readyz", operation_id = "readiness", tag = "operation",
    responses(
        (status = 200, description = "It does.", body = String, content_type = "text/plain"),
        (status = 503, description = "It doesn't; the detail says why.", body = sluice_http::ProblemBody<'static>,
            content_type = "application/problem+json"),
    ))]
async fn readyz(State(ops): State<Arc<Ops>>) -> Response {
    match ops.engine.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => Problem::unavailable(format!("No orders are taken now: {reason}."), 5).into_response(),
    }
}

/// What is measured
///
/// In the text format of Prometheus, in base units.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "operation",
    responses((status = 200, description = "All metrics.", body = String, content_type = "text/plain")))]
async fn show_metrics(State(ops): State<Arc<Ops>>) -> Response {
    let Some(metrics) = &ops.metrics else {
        return (StatusCode::NOT_FOUND, "metrics are off in this process\n").into_response();
    };
    publish(&ops);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_covers_every_route() {
        let json = serde_json::to_value(openapi()).unwrap();
        for (path, method) in [
            ("/v1/orders", "post"),
            ("/v1/orders:batch", "post"),
            ("/v1/orders/{id}", "get"),
            ("/v1/orders/{id}/events", "get"),
            ("/v1/webhooks/{id}/replay", "post"),
            ("/healthz", "get"),
            ("/readyz", "get"),
            ("/metrics", "get"),
        ] {
            assert!(json["paths"][path][method].is_object(), "{method} {path}");
        }
        assert!(json["components"]["securitySchemes"]["api_key"].is_object());
        assert_eq!(json["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
