//! Patience with a store that is down: back-off between attempts, and one warning per outage instead of one per attempt.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use scylla::errors::ExecutionError;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Pauses that double up to a bound; each is drawn from its upper half, so that clients don't come back together.
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    pub fn new() -> Self {
        Self { ceiling: FIRST_PAUSE }
    }

    pub fn next_pause(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(LONGEST_PAUSE);
        // A fresh hasher's keys are random enough to spread clients, and need no generator.
        let random = RandomState::new().hash_one(ceiling) >> 32;
        ceiling / 2 + (ceiling / 2).mul_f64(random as f64 / u32::MAX as f64)
    }
}

/// Whether the store takes writes, as its clients see it.
#[derive(Default)]
pub(super) struct Outage {
    /// Batches that failed and wait for their next attempt.
    failing: AtomicUsize,
    /// Cheap look before the lock: a healthy store costs one load per batch.
    open: AtomicBool,
    since: Mutex<Option<Instant>>,
}

/// A batch that has failed and isn't written yet; dropping it means somebody gave up or it succeeded.
pub(super) struct Failing<'a>(&'a Outage);

impl Outage {
    pub fn begin(&self, error: &ExecutionError) -> Failing<'_> {
        self.failing.fetch_add(1, Ordering::SeqCst);
        let mut since = self.since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            self.open.store(true, Ordering::SeqCst);
            tracing::warn!(%error, "the store doesn't take writes; they are retried until it does");
        }
        Failing(self)
    }

    /// Call after a success, when the batch's own [`Failing`] is dropped. The outage is over once no batch is failing.
    pub fn succeeded(&self) {
        if !self.open.load(Ordering::Relaxed) || self.failing.load(Ordering::SeqCst) > 0 {
            return;
        }
        if let Some(since) = self.since.lock().take() {
            self.open.store(false, Ordering::SeqCst);
            tracing::info!(seconds = since.elapsed().as_secs_f64(), "the store takes writes again");
        }
    }
}

#[cfg(test)]
impl Outage {
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.0.failing.fetch_sub(1, Ordering::SeqCst);
    }
}
