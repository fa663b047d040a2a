//! Tells merchants what becomes of their orders: signed posts to endpoints of their own, by Standard Webhooks.
//!
//! ```text
//!  Feed ─▶ Tail (read once) ─▶ Core of each endpoint ─▶ Caller behind the Guard ─▶ merchant
//!                                │      ▲ answers                │
//!  API ─▶ Desk ─▶ Registry ──────┴──────┴──▶ Documents (what is set, where each stands, what waits, the log)
//! ```
//! * [`core`]: what one endpoint is told and when, without I/O, clock or chance.
//! * [`guard`]: what may be called.
//! * [`driver`]: all endpoints at work.
//! * [`api`]: the routes.
//! * [`about`]: what became of one order's events, for whoever traces it.
//!
//! At least once: an event comes again under its id after a crash, or when an answer was lost. An endpoint is run by one node
//! at a time; whoever composes a cluster sees to that.

pub mod about;
pub mod api;
pub mod call;
pub mod config;
pub mod core;
pub mod driver;
pub mod guard;
mod lane;
mod leftovers;
pub mod model;
mod parked;
pub mod registry;
pub mod tail;
mod telemetry;
pub mod testing;

pub use api::{Api, openapi, router};
pub use config::WebhookConfig;
pub use driver::{Desk, Driver, World, open};
