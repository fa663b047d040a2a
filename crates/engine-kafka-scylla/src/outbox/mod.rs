//! A carrier's outbox: the shipments topic of one carrier, read by any number of processes that are members of one
//! group. Each process has one [`CarrierConsumer`] for each carrier, and at any time one [`KafkaOutbox`] of it, which
//! one notifier reads: the frames of all partitions that the group gave to this process, merged.
//!
//! *Positions* are local: they count what this outbox has handed out. The consumer remembers which frame each belongs to.
//!
//! *Settling.* An offset is committed once every entry of its frame is settled and every outcome handed over until then
//! is durable in the orders topic. What is settled within the frame after it is committed as text beside the offset (see
//! [`mark`]), so that a restart resumes with the first entry that isn't settled. What was sent and not settled when a
//! process died comes again: at least once.
//!
//! *Marks.* The same text says up to which entry calls may have been made. A mark counts once the brokers have confirmed
//! the commit; entries up to it come with `maybe_sent` when they come again.
//!
//! *Rebalances.* Partitions that come join the outbox that is open (the group is cooperative, so that nothing else stops).
//! When one goes, the outbox closes: its notifier finishes what is under way, and gets a new outbox over what is left.
//! Until that has settled, but no longer than [`OutboxOptions::revoke_grace`], the partition stays.
//!
//! *Damage.* An entry that can't be read is logged with its place, counted in `sluice_outbox_damaged_total` and passed
//! over; if it is cut short, so is the rest of its frame. It stays in the topic until that forgets it.

mod consumer;
mod mark;
mod state;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rdkafka::error::KafkaError;
use sluice_pipeline::{LogError, Outbox, OutboxBatch};

use self::{consumer::Shared, state::Phase};
use crate::{config::LogConfig, ledger::Ledger};

/// Bounds of a [`CarrierConsumer`].
#[derive(Debug, Clone)]
pub struct OutboxOptions {
    /// How long partitions that go to another process wait for the notifier's last outcomes; also how long a new outbox
    /// and [`CarrierConsumer::close`] wait for them.
    pub revoke_grace: Duration,
    /// Bytes of frames read ahead, at which reading pauses.
    pub buffer_bytes: usize,
    /// How often what is settled is committed.
    pub commit_interval: Duration,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        Self { revoke_grace: Duration::from_secs(2), buffer_bytes: 4 << 20, commit_interval: Duration::from_millis(50) }
    }
}

/// This process's membership in the group of one carrier's notifiers. See the module.
///
/// Dropping it leaves the group in the background; [`CarrierConsumer::close`] waits for it.
pub struct CarrierConsumer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CarrierConsumer {
    /// Joins the group of `carrier`, whose topic has `partitions` partitions. `ledger` is that of the
    /// [`OutcomeWriter`](crate::writer::OutcomeWriter) to which the notifier hands its outcomes.
    ///
    /// # Errors
    /// [`KafkaError`] if the client or its thread can't be made. That the brokers can't be reached is no error: it tries on.
    pub fn start(
        config: &LogConfig,
        partitions: u16,
        carrier: &str,
        ledger: Arc<Ledger>,
        options: OutboxOptions,
    ) -> Result<Self, KafkaError> {
        let shared = Shared::new(config, partitions, carrier, ledger, options);
        let client = shared.connect()?;
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("outbox-{carrier}"))
            .spawn(move || consumer::run(&theirs, client))
            .map_err(|e| KafkaError::ClientCreation(e.to_string()))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A new outbox over the partitions that are ours now or come later, from the first entry that isn't settled. The
    /// outbox before it, if any, closes.
    #[must_use]
    pub fn outbox(&self) -> KafkaOutbox {
        let mut inner = self.shared.inner.lock();
        let state = &mut inner.state;
        state.generation += 1;
        state.phase = Phase::Starting(Instant::now());
        state.wake();
        state.waker = None;
        KafkaOutbox { shared: Arc::clone(&self.shared), generation: state.generation, mark: AtomicU64::new(0) }
    }

    /// Closes the outbox, waits up to [`OutboxOptions::revoke_grace`] for what its notifier still settles, commits it and
    /// leaves the group. Blocks; without brokers up to the session timeout longer.
    pub fn close(mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(carrier = &*self.shared.carrier, "the outbox's thread has failed");
        }
    }

    fn stop(&self) {
        self.shared.inner.lock().stop = true;
        self.shared.news.notify_all();
    }
}

impl Drop for CarrierConsumer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What one notifier reads. See the module.
///
/// Once partitions go, [`Outbox::poll_entries`] fails with [`LogError::Closed`]; what is settled after that still counts
/// until [`CarrierConsumer::outbox`] is asked for the next.
pub struct KafkaOutbox {
    shared: Arc<Shared>,
    generation: u64,
    /// The highest mark it has seen, which stays when it closes.
    mark: AtomicU64,
}

impl Outbox for KafkaOutbox {
    fn poll_entries(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        out: &mut OutboxBatch,
    ) -> Poll<Result<usize, LogError>> {
        let mut inner = self.shared.inner.lock();
        let stop = inner.stop;
        let state = &mut inner.state;
        if state.generation != self.generation || stop {
            return Poll::Ready(Err(LogError::Closed));
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        let taken = match state.phase {
            Phase::Starting(_) => 0,
            Phase::Open => {
                let (full, before) = (self.shared.options.buffer_bytes, state.buffered);
                let taken = state.take(max, out);
                if before >= full && state.buffered < full {
                    self.shared.news.notify_all();
                }
                taken
            }
            Phase::Idle | Phase::Closed => return Poll::Ready(Err(LogError::Closed)),
        };
        if taken == 0 && max > 0 {
            state.waiting = true;
            return Poll::Pending;
        }
        Poll::Ready(Ok(taken))
    }

    fn settled(&mut self, position: u64) {
        // Read before it is said, so that outcomes handed over by then are among them.
        let handed = self.shared.ledger.handed();
        let mut inner = self.shared.inner.lock();
        if inner.state.generation == self.generation && matches!(inner.state.phase, Phase::Open | Phase::Closed) {
            inner.state.settled(position, handed);
            drop(inner);
            self.shared.news.notify_all();
        }
    }

    fn mark_sending(&mut self, position: u64) {
        let mut inner = self.shared.inner.lock();
        if inner.state.generation == self.generation && inner.state.phase == Phase::Open {
            inner.state.mark_sending(position);
            // Calls wait for it, so it doesn't wait for the next round of commits.
            drop(inner);
            self.shared.asked.notify_all();
        }
    }

    fn sending_mark(&self) -> u64 {
        let inner = self.shared.inner.lock();
        if inner.state.generation == self.generation && matches!(inner.state.phase, Phase::Open | Phase::Closed) {
            self.mark.fetch_max(inner.state.mark, Relaxed);
        }
        drop(inner);
        self.mark.load(Relaxed)
    }
}

impl Drop for KafkaOutbox {
    fn drop(&mut self) {
        let mut inner = self.shared.inner.lock();
        if inner.state.generation == self.generation {
            inner.state.phase = Phase::Idle;
            inner.state.waker = None;
            drop(inner);
            self.shared.news.notify_all();
        }
    }
}
