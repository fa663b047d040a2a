//! Every bound of the delivery of webhooks, in one table.

use std::time::Duration;

use sluice_pipeline::backoff::Backoff;

use crate::guard::Guard;

/// How webhooks are delivered. [`WebhookConfig::default`] gives the defaults named here.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// What may be called.
    pub guard: Guard,
    /// Attempts at one endpoint at once; of one order there is only ever one. Default 4.
    pub concurrency: usize,
    /// Attempts at all endpoints at once. Default 256.
    pub total_concurrency: usize,
    /// How long an attempt may take, from the look-up of the name to the end of the answer's head. Default 15 s.
    pub timeout: Duration,
    /// How long an event is tried for before it is given up. Default 5 days.
    pub give_up_after: Duration,
    /// How attempts of one event are spaced. Default 5 s up to 8 h.
    pub backoff: Backoff,
    /// How attempts at an endpoint at which everything fails are spaced. Default 1 s up to 1 h.
    pub endpoint_backoff: Backoff,
    /// Failures in a row after which everything is taken to fail: then one event at a time tries. Default 5.
    pub failing_after: u32,
    /// Longest Retry-After that is honoured; whoever asks for more is asked again after this. Default 24 h.
    pub retry_after_cap: Duration,
    /// Events of one endpoint that were read and aren't settled. Default 256.
    pub window_events: usize,
    /// … and their bytes, which one page may exceed. Default 1 MiB.
    pub window_bytes: usize,
    /// Events of one endpoint that are put aside. Default 256.
    pub parked: usize,
    /// Deliveries kept in the log of one endpoint. Default 10,000.
    pub log_entries: u64,
    /// How long they are kept. Default 30 days.
    pub log_age: Duration,
    /// How long a replaced secret signs, too, unless the request says otherwise. Default 24 h.
    pub rotation: Duration,
    /// CloudEvents `source` of what is posted. Default `/sluice`.
    pub source: String,
    /// Bytes of events that the shared end of the feed holds in memory. Default 16 MiB.
    pub tail_bytes: usize,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            guard: Guard::default(),
            concurrency: 4,
            total_concurrency: 256,
            timeout: Duration::from_secs(15),
            give_up_after: Duration::from_secs(5 * 86_400),
            backoff: Backoff { base: Duration::from_secs(5), cap: Duration::from_secs(8 * 3_600) },
            endpoint_backoff: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(3_600) },
            failing_after: 5,
            retry_after_cap: Duration::from_secs(86_400),
            window_events: 256,
            window_bytes: 1 << 20,
            parked: 256,
            log_entries: 10_000,
            log_age: Duration::from_secs(30 * 86_400),
            rotation: Duration::from_secs(86_400),
            source: sluice_schemas::event::DEFAULT_SOURCE.to_owned(),
            tail_bytes: 16 << 20,
        }
    }
}

/// Whole ms of a duration.
pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
