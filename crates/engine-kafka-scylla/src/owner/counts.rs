//! What the owners of a process have decided, for its status page and metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sluice_domain::Class;

/// What owners decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Orders that became part of the log's truth: acknowledged, and no repetition.
    pub accepted: u64,
    /// Orders that were finished.
    pub finished: u64,
    /// Orders that were dead-lettered.
    pub dead_lettered: u64,
    /// Dead-lettered orders that were decided anew.
    pub reopened: u64,
    /// Requests that repeated an earlier one.
    pub replayed: u64,
    /// Requests under a key that another request had taken.
    pub conflicts: u64,
}

impl Counts {
    /// An order in flight has been decided, or is still in flight.
    pub(super) fn decided(&mut self, class: Class) {
        match class {
            Class::InFlight => {}
            Class::Finished | Class::Cancelled => self.finished += 1,
            Class::DeadLettered => self.dead_lettered += 1,
        }
    }

    /// What an order counted as has changed, or may have; `anew`: because dead letters of it were decided anew.
    pub(super) fn moved(&mut self, before: Class, after: Class, anew: bool) {
        match before {
            Class::InFlight => self.decided(after),
            Class::DeadLettered if anew => {
                self.reopened += 1;
                self.decided(after);
            }
            // A parcel that was dead-lettered and is accepted late stays counted where it was.
            _ => {}
        }
    }
}

/// Counts of all owners of a process.
#[derive(Debug, Default)]
pub(super) struct Totals {
    accepted: AtomicU64,
    finished: AtomicU64,
    dead_lettered: AtomicU64,
    reopened: AtomicU64,
    replayed: AtomicU64,
    conflicts: AtomicU64,
}

impl Totals {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            accepted: self.accepted.load(Relaxed),
            finished: self.finished.load(Relaxed),
            dead_lettered: self.dead_lettered.load(Relaxed),
            reopened: self.reopened.load(Relaxed),
            replayed: self.replayed.load(Relaxed),
            conflicts: self.conflicts.load(Relaxed),
        }
    }

    pub(super) fn add(&self, counts: Counts) {
        self.accepted.fetch_add(counts.accepted, Relaxed);
        self.finished.fetch_add(counts.finished, Relaxed);
        self.dead_lettered.fetch_add(counts.dead_lettered, Relaxed);
        self.reopened.fetch_add(counts.reopened, Relaxed);
        self.replayed.fetch_add(counts.replayed, Relaxed);
        self.conflicts.fetch_add(counts.conflicts, Relaxed);
        metrics::counter!("sluice_orders_accepted_total").increment(counts.accepted);
        metrics::counter!("sluice_orders_finished_total").increment(counts.finished);
        metrics::counter!("sluice_orders_dead_lettered_total").increment(counts.dead_lettered);
        metrics::counter!("sluice_orders_reopened_total").increment(counts.reopened);
        metrics::counter!("sluice_orders_replayed_total").increment(counts.replayed);
        metrics::counter!("sluice_orders_conflicted_total").increment(counts.conflicts);
    }
}
