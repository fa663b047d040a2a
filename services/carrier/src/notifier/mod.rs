//! Tells carriers what they are to carry, and hears what they say: at least once to those that know a shipment again by
//! its id, at most once to those that don't.
//!
//! [`Notifier`] decides and does nothing else: no clock, no I/O, no spawning, and chance only from a seed, so the code
//! that runs in production is the code that runs under the simulator. [`Driver`] is the other half: it reads the
//! outbox, sends the calls over HTTP and keeps the time.
//!
//! ```text
//!  Outbox ──push──▶ queue ──manifest──▶ call ──answer──▶ outcomes ──hand_over──▶ Outcomes
//!                               ▲                │                      │
//!                               └── retries ◀────┘                      └──▶ settled_position ──▶ Outbox
//! ```
//!
//! | what came back | idempotent carrier | carrier that isn't |
//! |---|---|---|
//! | a result for the shipment | settled by it | settled by it |
//! | nothing about the shipment in a readable answer | sent again under the same shipment id | parked as unknown |
//! | refused before acting (429, or 503 with Retry-After) | sent again | sent again |
//! | never reached (connection refused, no such host) | sent again | sent again |
//! | timeout, reset, 5xx, other 4xx, unreadable answer | sent again under the same shipment id | parked as unknown |
//! | the give-up time is over | given up | given up: it was certainly never taken |

mod breaker;
mod budget;
mod call;
mod config;
mod core;
mod dates;
mod driver;
mod manifest;
mod telemetry;
mod window;
mod wire;

#[cfg(test)]
mod core_tests;
#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod speed_tests;
#[cfg(test)]
mod testing;

pub use breaker::{BreakerConfig, BreakerState};
pub use call::{Endpoint, EndpointError};
pub use config::{Moment, NotifierConfig};
pub use core::{CallId, Counters, Next, Notifier};
pub use driver::{Driver, Summary};
use sluice_pipeline::backoff;
pub use sluice_pipeline::backoff::{Backoff, Seeded};
pub use wire::{Results, WireError, read_results, write_manifest};
