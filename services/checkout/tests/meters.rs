//! What is counted, and under which names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

mod support;

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use sluice_checkout::{Checkout, router};
use sluice_domain::Merchants;
use support::{Engine, NOW, Now, Server, line, order};

#[tokio::test]
async fn requests_and_orders_are_counted_by_outcome() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (engine, now) = (Arc::new(Engine::default()), Arc::new(Now(NOW.into())));
    let merchants = Arc::new(Merchants::new([("m-1", "key-1")]).unwrap());
    let checkout = Checkout::new(engine.clone(), engine.clone(), merchants, now.clone());
    let routes = metrics::with_local_recorder(&recorder, || router(checkout));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server { address: listener.local_addr().unwrap(), engine, now };
    tokio::spawn(async move { axum::serve(listener, routes).await });

    for _ in 0..3 {
        assert_eq!(server.order("k", &order()).await.status, 201);
    }
    assert_eq!(server.order("k", &json!({})).await.status, 422);
    server.batch(format!("{}\n{{}}\n{}\n", line("a"), line("b"))).await.lines();
    *server.engine.busy.lock().unwrap() = Some((1, "full"));
    server.batch(format!("{}\n", line("c"))).await.lines();
    assert_eq!(server.order("k", &order()).await.status, 503);

    let text = recorder.handle().render();
    for line in [
        "sluice_checkout_orders_total{outcome=\"accepted\"} 3",
        "sluice_checkout_orders_total{outcome=\"replayed\"} 2",
        "sluice_checkout_orders_total{outcome=\"invalid\"} 2",
        "sluice_checkout_orders_total{outcome=\"refused\"} 2",
        "sluice_http_requests_total{route=\"POST /v1/orders\",status=\"2xx\"} 3",
        "sluice_http_requests_total{route=\"POST /v1/orders\",status=\"4xx\"} 1",
        "sluice_http_requests_total{route=\"POST /v1/orders\",status=\"5xx\"} 1",
        "sluice_http_requests_total{route=\"POST /v1/orders:batch\",status=\"2xx\"} 2",
        "sluice_http_request_duration_seconds_count{route=\"POST /v1/orders\"} 5",
        "sluice_checkout_inflight_bytes 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}
