//! The engine as the rest of the process sees it: ports for checkout, status and notifiers.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use sluice_domain::{OrderId, OrderState};
use sluice_pipeline::{
    BoxFuture, Clock, Disk, Intake, LogError, Orders, Outbox, OutcomeReport, Outcomes, Receipt, Store, StoredOrder,
    Submission, Watchers, WordIntake, Words,
};

use crate::{
    checkpoint::Checkpointer,
    feed::{EngineFeed, JournalFeed},
    intake::{Receipts, Ticket},
    journal::{Journal, Standing},
    outbox::JournalOutbox,
    partition::Partition,
    pump::HandOut,
    recovery::{self, Recovered},
    shared::{Counts, EngineConfig, Shared},
};

/// A handle to an open engine; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// What [`Engine::open`] gives.
pub struct Opened {
    /// The handle.
    pub engine: Engine,
    /// Its partitions, each to be driven by one Runner.
    pub partitions: Vec<Partition>,
    /// Its checkpointer.
    pub checkpointer: Checkpointer,
    /// What was found.
    pub recovered: Recovered,
}

impl Engine {
    /// Opens the engine over `disk` and `store`, recovering what they hold.
    ///
    /// # Errors
    /// [`LogError::Damaged`] names the file and offset of damage that no crash can explain; others as they come.
    pub fn open(
        config: EngineConfig,
        disk: Arc<dyn Disk>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Result<Opened, LogError> {
        let (shared, indices, head, recovered) = recovery::open(config, disk, store, clock)?;
        let partition = |(n, index)| Partition::new(n as u16, Arc::clone(&shared), index);
        Ok(Opened {
            partitions: indices.into_iter().enumerate().map(partition).collect(),
            checkpointer: Checkpointer::new(Arc::clone(&shared), head),
            engine: Self { shared },
            recovered,
        })
    }

    /// The outbox of carrier number `carrier`; one reader at a time.
    pub fn outbox(&self, carrier: u16) -> Box<dyn Outbox> {
        Box::new(JournalOutbox::new(Arc::clone(&self.shared), usize::from(carrier)))
    }

    /// The public events, for any number of readers; made once, for those of one share what they read.
    pub fn feed(&self) -> EngineFeed {
        EngineFeed(Arc::new(JournalFeed::new(Arc::clone(&self.shared))))
    }

    /// A task that hands receipts out on the runtime it is spawned on: one wake-up a group instead of one a request.
    /// Receipts go out where they arise before it is made and after it is dropped.
    pub fn hand_out_receipts(&self) -> HandOut {
        HandOut::attach(Arc::clone(&self.shared.pump))
    }

    /// Who follows which order. They are woken when a change can be read, which then waits until it is durable.
    pub fn watchers(&self) -> &Arc<Watchers> {
        &self.shared.watchers
    }

    /// Orders that retention has let go, of all that [`Engine::counts`] has as accepted.
    pub fn retired(&self) -> u64 {
        self.shared.horizon.retired()
    }

    /// Orders by class, now.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// The journal, for whoever drives its writer.
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// Checkpoints finished since the engine was opened.
    pub fn checkpoints(&self) -> u64 {
        self.shared.checkpoints.load(Relaxed)
    }

    /// Asks for a checkpoint now.
    pub fn request_checkpoint(&self) {
        self.shared.want_checkpoint();
    }

    /// Refuses new orders from now on; outcomes still enter.
    pub fn stop_orders(&self) {
        self.shared.shards.iter().for_each(|s| s.queue.close_orders());
    }

    /// Takes no more input; owners end once their queues are empty.
    pub fn close(&self) {
        self.shared.shards.iter().for_each(|s| s.queue.close());
    }

    /// True if no input waits for an owner.
    pub fn is_idle(&self) -> bool {
        self.shared.shards.iter().all(|s| s.queue.is_empty())
    }

    /// Publishes gauges: queue depths, lags, classes.
    pub fn publish_metrics(&self) {
        for (n, shard) in self.shared.shards.iter().enumerate() {
            let partition = n.to_string();
            let waiting = shard.queue.order_bytes() as f64;
            metrics::gauge!("sluice_partition_queue_bytes", "partition" => partition.clone()).set(waiting);
            let young = shard.young.read().memory() as f64;
            metrics::gauge!("sluice_partition_young_rows_bytes", "partition" => partition).set(young);
        }
        let durable = self.shared.journal.durable();
        for carrier in &self.shared.carriers {
            let lag = durable.saturating_sub(carrier.settled.load(Relaxed)) as f64;
            metrics::gauge!("sluice_outbox_lag_bytes", "carrier" => carrier.id.to_string()).set(lag);
        }
        let behind = durable.saturating_sub(self.shared.checkpointed.load(Relaxed)) as f64;
        metrics::gauge!("sluice_checkpoint_lag_bytes").set(behind);
        self.shared.horizon.publish(self.shared.journal.prepared(), self.shared.config.journal.segment_bytes);
        let counts = self.counts();
        for (class, n) in
            [("in_flight", counts.in_flight), ("finished", counts.finished), ("dead_lettered", counts.dead_lettered)]
        {
            metrics::gauge!("sluice_orders", "class" => class).set(n as f64);
        }
    }

    pub(crate) fn push(&self, submission: &Submission) -> Arc<Ticket> {
        let ticket = Ticket::new(submission.orders.len());
        for (partition, shard) in self.shared.shards.iter().enumerate() {
            let mine = submission.orders.iter().enumerate();
            let mine = mine.filter(|(_, o)| self.shared.config.partition_of(o.id) == partition);
            let orders = mine.map(|(line, o)| (line as u32, o, &submission.bytes[o.record.clone()]));
            shard.queue.push_orders(&ticket, orders);
        }
        ticket
    }

    pub(crate) fn push_words(&self, words: &Words) -> Arc<Ticket> {
        let ticket = Ticket::new(words.words.len());
        for (partition, shard) in self.shared.shards.iter().enumerate() {
            let mine = words.words.iter().zip(0..);
            let mine = mine.filter(|((order, _), _)| self.shared.config.partition_of(*order) == partition);
            let mine = mine.map(|((order, range), line)| (line, *order, &words.bytes[range.clone()]));
            shard.queue.push_words(&ticket, mine);
        }
        ticket
    }

    /// As [`Orders::read`], once everything the row may hold is durable.
    pub(crate) fn try_read(&self, id: OrderId) -> Result<Option<StoredOrder>, LogError> {
        let mut row = Vec::new();
        self.shared.read_row(id, &mut row)?;
        let state = OrderState::fold(id, &row).map_err(|e| LogError::Store(format!("row of order {id}: {e}")))?;
        let Some((_, position)) = state.accepted else { return Ok(None) };
        let mut record = Vec::new();
        match self.shared.journal.order_at(position, &mut record) {
            // Retired between the two reads.
            Err(_) if self.shared.horizon.is_gone(position) => Ok(None),
            read => read.map(|()| Some(StoredOrder { row, record })),
        }
    }

    /// Waits until everything that a read may have seen by now is durable: nobody is shown what is only appended.
    pub(crate) async fn seen_is_durable(&self) -> Result<(), LogError> {
        let seen = self.shared.journal.appended();
        poll_fn(|cx| match self.shared.poll_durable(seen, cx.waker()) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }
}

impl Intake for Engine {
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Vec<Receipt>> {
        let ticket = self.push(&submission);
        Box::pin(Receipts(ticket))
    }

    fn ready(&self) -> Result<(), &'static str> {
        if self.shared.shards.iter().any(|s| s.queue.is_stopping()) {
            return Err("stopping");
        }
        match self.shared.journal.standing() {
            Standing::Sound => Ok(()),
            Standing::Full => Err("the disk is full"),
            Standing::Failed => Err("the journal has failed"),
        }
    }
}

impl WordIntake for Engine {
    fn hear(&self, words: Words) -> BoxFuture<'_, Vec<Receipt>> {
        Box::pin(Receipts(self.push_words(&words)))
    }
}

impl Orders for Engine {
    fn read(&self, id: OrderId) -> BoxFuture<'_, Result<Option<StoredOrder>, LogError>> {
        Box::pin(async move {
            let found = self.try_read(id)?;
            self.seen_is_durable().await?;
            Ok(found)
        })
    }
}

impl Outcomes for Engine {
    fn report(&self, cx: &mut Context<'_>, reports: &mut Vec<OutcomeReport>) {
        let mut scratch = Vec::with_capacity(128);
        let taken = reports
            .iter()
            .take_while(|r| self.shared.shard_of(r.shipment.order).queue.push_outcome(r, cx.waker(), &mut scratch))
            .count();
        reports.drain(..taken);
    }
}
