//! What an operator asks a deployment about orders: `sluice trace`, `sluice tap` and `sluice dlq`, over HTTP with an
//! operator's key.
//!
//! * `client`: the routes, and what their answers mean for an exit code; `feed`: pages of events, one after the other.
//! * `event`: one event as these commands see it; `filter`: which of them are wanted; `paint`: what a terminal may be told.
//! * `trace`, `tap`, `dlq`, `replay`: the commands; `webhooks`: a trace's part about webhook endpoints.

pub(crate) mod client;
pub mod dlq;
mod event;
mod feed;
mod filter;
pub(crate) mod paint;
mod replay;
pub mod tap;
pub mod trace;
mod webhooks;

pub use dlq::{DlqArgs, DlqCommand};
pub(crate) use paint::plain;
pub use tap::TapArgs;
pub use trace::TraceArgs;
