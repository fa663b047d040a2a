//! How far one notifier's outcomes are durable: its outbox may move no further than that.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering::Acquire},
    task::Waker,
};

use parking_lot::Mutex;

/// Which of one notifier's outcomes are durable.
#[derive(Debug, Default)]
pub struct Ledger {
    pub(crate) next: AtomicU64,
    done: Mutex<Done>,
}

#[derive(Debug, Default)]
struct Done {
    /// Every sequence number below is durable.
    below: u64,
    /// Those above it that are.
    beyond: BTreeSet<u64>,
    waker: Option<Waker>,
}

impl Ledger {
    /// Reports handed over so far.
    #[must_use]
    pub fn handed(&self) -> u64 {
        self.next.load(Acquire)
    }

    /// How many of them are durable, counted from the first without a gap.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.done.lock().below
    }

    /// Wakes `waker` when [`Ledger::settled`] rises.
    pub fn wake_on_progress(&self, waker: &Waker) {
        self.done.lock().waker = Some(waker.clone());
    }

    /// The report with this sequence number is durable.
    pub(crate) fn durable(&self, sequence: u64) {
        let mut done = self.done.lock();
        done.beyond.insert(sequence);
        let mut below = done.below;
        while done.beyond.remove(&below) {
            below += 1;
        }
        if below > done.below {
            done.below = below;
            if let Some(waker) = done.waker.take() {
                waker.wake();
            }
        }
    }
}
