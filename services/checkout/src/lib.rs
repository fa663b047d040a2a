//! Takes orders: checks who asks and what, gives the request its id, hands it to the engine, and answers once it is
//! durable.
//!
//! * [`router`]: `POST /v1/orders` and `POST /v1/orders:batch`.
//! * [`decode`]: JSON → record, the hot path; [`diagnose`]: why an order was refused; [`rules`]: what both go by.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::post};
use sluice_domain::{Merchants, SlotCount, limits::DEFAULT_WINDOW_MS};
use sluice_http::Problem;
use sluice_pipeline::{Clock, Intake, Orders};
use utoipa::OpenApi;

mod admission;
mod answer;
mod batch;
mod body;
mod budget;
pub mod decode;
pub mod diagnose;
mod meters;
mod ndjson;
mod openapi;
mod rate;
mod replay;
mod results;
pub mod rules;
mod single;

pub use admission::MerchantLimit;
pub use rate::Rate;

/// Bytes of requests in memory at once, unless configured otherwise.
pub const DEFAULT_MAX_INFLIGHT_BYTES: usize = 256 << 20;
/// Time a body may take to arrive, unless configured otherwise.
pub const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Time the log may take to acknowledge before it counts as slow, unless configured otherwise.
pub const DEFAULT_SLOW_ACK: Duration = Duration::from_millis(20);

/// What checkout needs from the world.
#[derive(Clone)]
pub struct Checkout {
    /// Where orders go.
    pub intake: Arc<dyn Intake>,
    /// Where orders placed before the window are looked up.
    pub orders: Arc<dyn Orders>,
    /// Who may post.
    pub merchants: Arc<Merchants>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The deployment's slots.
    pub slots: SlotCount,
    /// How far `placed_at` may lie from now, ms; both ends belong to the window.
    pub window_ms: u64,
    /// Bytes of requests and answers in memory at once; less than one full batch (16 MiB) counts as that.
    pub max_inflight_bytes: usize,
    /// How long the log may take to acknowledge before the loudest merchants are held at what the others do.
    pub slow_ack: Duration,
    /// Limits and weights by merchant number; who is beyond its end has the default.
    pub limits: Arc<[MerchantLimit]>,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
}

impl Checkout {
    /// A checkout with the default slots, window, memory and patience.
    pub fn new(
        intake: Arc<dyn Intake>,
        orders: Arc<dyn Orders>,
        merchants: Arc<Merchants>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            intake,
            orders,
            merchants,
            clock,
            slots: SlotCount::DEFAULT,
            window_ms: DEFAULT_WINDOW_MS,
            max_inflight_bytes: DEFAULT_MAX_INFLIGHT_BYTES,
            slow_ack: DEFAULT_SLOW_ACK,
            limits: Arc::new([]),
            body_timeout: DEFAULT_BODY_TIMEOUT,
        }
    }
}

/// Checkout at work.
struct App {
    checkout: Checkout,
    admission: admission::Admission,
    meters: meters::Meters,
}

impl App {
    fn context<'a>(&self, merchant: &'a str) -> decode::Context<'a> {
        decode::Context {
            merchant,
            slots: self.checkout.slots,
            now_ms: self.checkout.clock.now_ms(),
            window_ms: self.checkout.window_ms,
        }
    }
}

/// The routes of checkout. Called after the metrics recorder is installed, or nothing is counted.
pub fn router(state: Checkout) -> Router {
    let app = App { admission: admission::Admission::new(&state), meters: meters::Meters::new(), checkout: state };
    Router::new()
        .route("/v1/orders", post(single::place_order))
        .route("/v1/orders:batch", post(batch::place_orders))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(Arc::new(app))
}

/// The part of the API description that is checkout's.
pub fn openapi() -> utoipa::openapi::OpenApi {
    openapi::Document::openapi()
}

/// The engine resolved a submission without a receipt for every order, which its contract rules out. Nobody can tell
/// whether the order was taken; a retry will.
fn no_receipt() -> Problem {
    tracing::error!("the engine gave no receipt for an order");
    Problem::unavailable("The engine did not say what became of the order; retry with the same key.", 1)
}

/// The store can't say whether an order placed before the window was taken.
fn no_lookup() -> Problem {
    Problem::unavailable("Orders placed before the window can't be looked up now.", 1)
}
