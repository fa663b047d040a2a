//! Every bound of a notifier in one table, and the two times it is told.

use std::{sync::Arc, time::Duration};

use sluice_pipeline::Clock;

use super::{backoff::Backoff, breaker::BreakerConfig};

/// Now, on both clocks: waiting is measured on the one that never jumps, what is stored and shown is wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// ms since the Unix epoch.
    pub wall_ms: u64,
    /// µs from an arbitrary start; never goes back.
    pub mono_us: u64,
}

impl Moment {
    /// What `clock` says now.
    pub fn of(clock: &dyn Clock) -> Self {
        Self { wall_ms: clock.now_ms(), mono_us: clock.monotonic_us() }
    }
}

/// How one carrier is told. [`NotifierConfig::new`] gives the defaults named here.
#[derive(Debug, Clone)]
pub struct NotifierConfig {
    /// Carrier id, put into every outcome.
    pub carrier: Arc<str>,
    /// True if the carrier remembers its final answer to every shipment id, rejects included.
    pub idempotent: bool,
    /// Entries held at once, from the outbox until their outcome is handed over. Default 8,192.
    pub window_entries: usize,
    /// Bytes of records and items held at once. Default 8 MiB.
    pub window_bytes: usize,
    /// Shipments in one manifest. Default 500.
    pub manifest_shipments: usize,
    /// Bytes of records and items in one manifest; one shipment may exceed it alone. Default 1 MiB.
    pub manifest_bytes: usize,
    /// How long the first shipment of a manifest waits for others. Default 5 ms.
    pub manifest_age: Duration,
    /// Calls at the carrier at once. Default 4.
    pub calls_in_flight: usize,
    /// How long a call may take before nobody can tell what became of it; what a failed call counts as in the measured
    /// latency. Default 10 s.
    pub call_timeout: Duration,
    /// How long a shipment is tried, from when the notifier took it out of the outbox; `expires_at` of its manifests.
    /// A restart starts it anew. Default 24 h.
    pub give_up_after: Duration,
    /// Longest Retry-After that is honoured; a carrier that asks for more is asked again after this. Default 1 h.
    pub retry_after_cap: Duration,
    /// How failed manifests are spaced.
    pub backoff: Backoff,
    /// Shipments that may be sent again, per mille of those sent for the first time. Default 100.
    pub retry_permille: u32,
    /// Most retries that may be saved up, shipments. Default 5,000.
    pub retry_burst: u32,
    /// Beside the budget one manifest may be sent again each such period, so that a lone failure is not stuck for want of
    /// other traffic. Default 1 s.
    pub retry_floor: Duration,
    /// When to leave a failing carrier alone.
    pub breaker: BreakerConfig,
}

impl NotifierConfig {
    /// The defaults, for one carrier.
    pub fn new(carrier: impl Into<Arc<str>>, idempotent: bool) -> Self {
        Self {
            carrier: carrier.into(),
            idempotent,
            window_entries: 8_192,
            window_bytes: 8 << 20,
            manifest_shipments: 500,
            manifest_bytes: 1 << 20,
            manifest_age: Duration::from_millis(5),
            calls_in_flight: 4,
            call_timeout: Duration::from_secs(10),
            give_up_after: Duration::from_secs(24 * 3_600),
            retry_after_cap: Duration::from_secs(3_600),
            backoff: Backoff::default(),
            retry_permille: 100,
            retry_burst: 5_000,
            retry_floor: Duration::from_secs(1),
            breaker: BreakerConfig::default(),
        }
    }

    /// The same with every bound at least 1, so that no setting can stop the flow for good.
    pub(super) fn workable(mut self) -> Self {
        self.window_entries = self.window_entries.max(1);
        self.window_bytes = self.window_bytes.max(super::core::MAX_ENTRY_BYTES);
        self.manifest_shipments = self.manifest_shipments.max(1);
        self.manifest_bytes = self.manifest_bytes.max(1);
        self.calls_in_flight = self.calls_in_flight.max(1);
        self.retry_floor = self.retry_floor.max(Duration::from_millis(1));
        self.give_up_after = self.give_up_after.max(Duration::from_millis(1));
        self
    }
}

/// Whole µs of a duration.
pub(super) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Whole ms of a duration.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
