//! What checkout counts. Handles are made once; labels are bounded.

use axum::http::StatusCode;
use metrics::{Counter, counter, describe_counter};
use sluice_http::RouteMeter;

/// Request meters by route, and orders by outcome.
#[derive(Debug)]
pub struct Meters {
    /// `POST /v1/orders`.
    pub single: RouteMeter,
    /// `POST /v1/orders:batch`.
    pub batch: RouteMeter,
    accepted: Counter,
    replayed: Counter,
    invalid: Counter,
    refused: Counter,
}

impl Meters {
    /// The meters, for as long as the service lives.
    pub fn new() -> Self {
        describe_counter!(
            "sluice_checkout_orders_total",
            "Orders by outcome: accepted (new and durable), replayed (the same request again), invalid (will never be \
             taken as they are), refused (may be taken later: overload, or the engine is not ready)"
        );
        let outcome = |outcome: &'static str| counter!("sluice_checkout_orders_total", "outcome" => outcome);
        Self {
            single: RouteMeter::new("POST /v1/orders"),
            batch: RouteMeter::new("POST /v1/orders:batch"),
            accepted: outcome("accepted"),
            replayed: outcome("replayed"),
            invalid: outcome("invalid"),
            refused: outcome("refused"),
        }
    }

    /// Counts an order that is durable.
    pub fn taken(&self, replayed: bool) {
        if replayed { &self.replayed } else { &self.accepted }.increment(1);
    }

    /// Counts an order that was not taken, by the status it got; who has no key has no orders.
    pub fn refused(&self, status: StatusCode) {
        match status {
            StatusCode::UNAUTHORIZED => {}
            StatusCode::TOO_MANY_REQUESTS => self.refused.increment(1),
            status if status.is_server_error() => self.refused.increment(1),
            _ => self.invalid.increment(1),
        }
    }
}
