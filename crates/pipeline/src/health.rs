//! What this node has measured of each carrier, shared between the notifier that measures and the routing that asks.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A snapshot of one carrier's measured health.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CarrierHealth {
    /// False while the circuit breaker is open.
    pub available: bool,
    /// Moving average of the time a manifest takes, µs; refusals count as slow, not as fast.
    pub latency_us: u32,
    /// Moving average of manifests that got no final answer at once, per mille.
    pub failures_permille: u32,
    /// Shipments decided but not yet answered.
    pub backlog: u64,
}

impl Default for CarrierHealth {
    fn default() -> Self {
        Self { available: true, latency_us: 0, failures_permille: 0, backlog: 0 }
    }
}

/// Written by notifiers, read once a batch by owners. No locks.
#[derive(Debug)]
pub struct HealthBoard(Box<[Cell]>);

#[derive(Debug)]
struct Cell {
    available: AtomicBool,
    latency_us: AtomicU32,
    failures_permille: AtomicU32,
    backlog: AtomicU64,
}

impl HealthBoard {
    /// A board for `carriers` carriers, all healthy.
    pub fn new(carriers: usize) -> Self {
        let cell = |_| Cell {
            available: AtomicBool::new(true),
            latency_us: AtomicU32::new(0),
            failures_permille: AtomicU32::new(0),
            backlog: AtomicU64::new(0),
        };
        Self((0..carriers).map(cell).collect())
    }

    /// Publishes what is now known of carrier number `carrier`.
    pub fn publish(&self, carrier: u16, health: CarrierHealth) {
        let Some(cell) = self.0.get(usize::from(carrier)) else { return };
        cell.available.store(health.available, Relaxed);
        cell.latency_us.store(health.latency_us, Relaxed);
        cell.failures_permille.store(health.failures_permille, Relaxed);
        cell.backlog.store(health.backlog, Relaxed);
    }

    /// Copies all carriers' health into `out`.
    pub fn snapshot(&self, out: &mut Vec<CarrierHealth>) {
        out.clear();
        out.extend(self.0.iter().map(|c| CarrierHealth {
            available: c.available.load(Relaxed),
            latency_us: c.latency_us.load(Relaxed),
            failures_permille: c.failures_permille.load(Relaxed),
            backlog: c.backlog.load(Relaxed),
        }));
    }
}
