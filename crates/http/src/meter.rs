//! Request metrics with bounded labels. Handles are looked up once, so a request costs a few atomic additions.

use axum::http::StatusCode;
use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};

/// `sluice_http_requests_total` by route and status class, and `sluice_http_request_duration_seconds` by route.
#[derive(Debug)]
pub struct RouteMeter {
    /// 1xx to 5xx.
    classes: [Counter; 5],
    seconds: Histogram,
}

impl RouteMeter {
    /// The meter of `route`, e.g. `POST /v1/orders`. Made after the metrics recorder is installed; before that it counts
    /// into nothing.
    pub fn new(route: &'static str) -> Self {
        describe_counter!("sluice_http_requests_total", "HTTP requests answered, by route and status class");
        describe_histogram!(
            "sluice_http_request_duration_seconds",
            metrics::Unit::Seconds,
            "Time from the request's head to its answer, by route"
        );
        let class = |status| counter!("sluice_http_requests_total", "route" => route, "status" => status);
        Self {
            classes: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(class),
            seconds: histogram!("sluice_http_request_duration_seconds", "route" => route),
        }
    }

    /// Counts one answer that took `us` microseconds.
    pub fn record(&self, status: StatusCode, us: u64) {
        if let Some(class) = self.classes.get(usize::from(status.as_u16() / 100) - 1) {
            class.increment(1);
        }
        self.seconds.record(us as f64 / 1e6);
    }
}
