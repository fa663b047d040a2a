//! The engine driven step by step on one thread: what the cases in this folder are told with.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::SeqCst},
    task::{Context, Poll, Wake, Waker},
};

use sluice_domain::{OrderId, ShipmentId, SlotCount};
use sluice_pipeline::{
    BoxFuture, Cursor, Disk, FeedEvent, HealthBoard, Listed, LogError, Lookup, Orders, Outbox, OutboxBatch,
    OutcomeReport, Outcomes, Receipt, Runner, Store, StoredOrder, Submission, Words,
    conformance::{CARRIERS, Harness, PLACED_AT_MS, Sent, Told, stages},
};

use super::fakes::{FakeClock, MemDisk, MemStore};
use crate::{
    Checkpointer, Completion, Engine, EngineConfig, JournalConfig, Opened, Partition, QueueConfig, Recovered,
    WriterStep, intake::Receipts, journal::Group,
};

/// Tiny sizes, so that every bound is met.
pub fn tiny() -> EngineConfig {
    EngineConfig {
        partitions: 2,
        slots: SlotCount::DEFAULT,
        journal: JournalConfig {
            segment_bytes: 256 << 10,
            group_bytes: 16 << 10,
            frame_bytes: 32 << 10,
            tail_bytes: 64 << 10,
            verify: true,
        },
        queue: QueueConfig { order_bytes: 256 << 10, outcome_bytes: 64 << 10, batch_bytes: 8 << 10 },
        checkpoint_bytes: 1 << 40,
        hot_bytes: 64 << 20,
        blocking: false,
        journal_id: Some(0x5EED),
        ..EngineConfig::new(CARRIERS.into_iter().map(Arc::from).collect())
    }
}

/// Notes that it was called.
#[derive(Default)]
pub struct Bell(pub AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

pub struct Live {
    pub engine: Engine,
    pub runners: Vec<Runner<Partition>>,
    pub checkpointer: Checkpointer,
    pub outboxes: Vec<Box<dyn Outbox>>,
    tickets: Vec<(usize, Receipts)>,
}

pub struct World {
    pub config: EngineConfig,
    pub disk: Arc<dyn Disk>,
    pub store: Arc<dyn Store>,
    pub clock: Arc<FakeClock>,
    pub live: Option<Live>,
    /// The disk again, if it is the one in memory.
    pub mem: Option<(MemDisk, MemStore)>,
    submissions: usize,
}

impl World {
    /// A world in memory.
    pub fn mem(config: EngineConfig) -> Self {
        let (disk, store) = (MemDisk::default(), MemStore::default());
        let mut world = Self::over(config, Arc::new(disk.clone()), Arc::new(store.clone()));
        world.mem = Some((disk, store));
        world
    }

    /// A world over what is there.
    pub fn over(config: EngineConfig, disk: Arc<dyn Disk>, store: Arc<dyn Store>) -> Self {
        let mut world = Self::closed(config, disk, store);
        world.open().unwrap();
        world
    }

    fn closed(config: EngineConfig, disk: Arc<dyn Disk>, store: Arc<dyn Store>) -> Self {
        let clock = Arc::new(FakeClock((PLACED_AT_MS + 5).into()));
        Self { config, disk, store, clock, live: None, mem: None, submissions: 0 }
    }

    /// A world in memory, not open yet.
    pub fn of(disk: MemDisk, store: MemStore) -> Self {
        let mut world = Self::closed(tiny(), Arc::new(disk.clone()), Arc::new(store.clone()));
        world.mem = Some((disk, store));
        world
    }

    pub fn disk(&self) -> &MemDisk {
        &self.mem.as_ref().unwrap().0
    }

    pub fn mem_store(&self) -> &MemStore {
        &self.mem.as_ref().unwrap().1
    }

    pub fn open(&mut self) -> Result<Recovered, LogError> {
        self.live = None;
        let (disk, store, clock) = (Arc::clone(&self.disk), Arc::clone(&self.store), Arc::clone(&self.clock));
        let Opened { engine, partitions, checkpointer, recovered } =
            Engine::open(self.config.clone(), disk, store, clock.clone())?;
        let health = Arc::new(HealthBoard::new(self.config.carriers.len()));
        let runner = |p| Runner::new(p, stages(), Arc::clone(&health), clock.clone() as Arc<_>);
        let runners = partitions.into_iter().map(runner).collect();
        let outboxes = (0..self.config.carriers.len()).map(|c| engine.outbox(c as u16)).collect();
        self.live = Some(Live { engine, runners, checkpointer, outboxes, tickets: Vec::new() });
        Ok(recovered)
    }

    pub fn live(&mut self) -> &mut Live {
        self.live.as_mut().unwrap()
    }

    pub fn engine(&self) -> &Engine {
        &self.live.as_ref().unwrap().engine
    }

    /// Lets the power go and opens again.
    pub fn power_cycle(&mut self) -> Recovered {
        self.live = None;
        self.disk().lose_power();
        self.open().unwrap()
    }

    /// Owners take what is queued; true if there was anything.
    pub fn step_owners(&mut self) -> bool {
        let mut any = false;
        for runner in &mut self.live().runners {
            while runner.step().unwrap().inputs > 0 {
                any = true;
            }
        }
        any
    }

    /// Writes and syncs the open group, if it has anything, and leaves it incomplete.
    pub fn write_group(&mut self, seal: bool) -> Option<(Arc<Group>, Vec<Completion>)> {
        let journal = self.engine().journal();
        journal.prepare().unwrap();
        let WriterStep::Write(group, completions) = journal.begin(seal) else { return None };
        journal.write(&group).unwrap();
        journal.sync(&group).unwrap();
        Some((group, completions))
    }

    /// Makes everything appended durable and answers.
    pub fn flush(&mut self) -> usize {
        let mut groups = 0;
        while let Some((group, completions)) = self.write_group(false) {
            self.engine().journal().complete(group, completions);
            groups += 1;
        }
        groups
    }

    /// Closes the log with an empty group, as an idle writer does.
    pub fn seal(&mut self) -> bool {
        match self.write_group(true) {
            Some((group, completions)) => {
                self.engine().journal().complete(group, completions);
                true
            }
            None => false,
        }
    }

    /// Takes a whole checkpoint.
    pub fn checkpoint(&mut self) {
        self.engine().request_checkpoint();
        let before = self.engine().checkpoints();
        for _ in 0..100 {
            self.live().checkpointer.step().unwrap();
            self.step_owners();
            self.flush();
            if self.engine().checkpoints() > before && self.live().checkpointer.is_idle() {
                self.step_owners();
                return;
            }
        }
        panic!("the checkpoint does not end");
    }

    /// What a reader gets, for whom everything is made durable as often as he waits.
    fn wait_for<T>(&mut self, mut future: BoxFuture<'_, T>) -> T {
        for _ in 0..10_000 {
            if let Poll::Ready(found) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return found;
            }
            self.flush();
        }
        panic!("a read waits for ever");
    }

    /// Answers of one ticket, if they are all there.
    fn poll_ticket(&mut self, number: usize) -> Option<Vec<Receipt>> {
        let (_, receipts) = self.live().tickets.iter_mut().find(|t| t.0 == number)?;
        match Pin::new(receipts).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(receipts) => Some(receipts),
            Poll::Pending => None,
        }
    }
}

impl Harness for World {
    fn submit(&mut self, submission: Submission) -> usize {
        self.submissions += 1;
        let number = self.submissions;
        let live = self.live();
        let ticket = live.engine.push(&submission);
        live.tickets.push((number, Receipts(ticket)));
        number
    }

    fn hear(&mut self, words: Words) -> usize {
        self.submissions += 1;
        let number = self.submissions;
        let live = self.live();
        let ticket = live.engine.push_words(&words);
        live.tickets.push((number, Receipts(ticket)));
        number
    }

    fn report(&mut self, mut reports: Vec<OutcomeReport>) {
        for _ in 0..1_000 {
            self.engine().report(&mut Context::from_waker(Waker::noop()), &mut reports);
            if reports.is_empty() {
                return;
            }
            self.settle_down();
        }
        panic!("the queue of outcomes stays full");
    }

    fn settle_down(&mut self) {
        for _ in 0..10_000 {
            let took = self.step_owners();
            if self.flush() == 0 && !took {
                return;
            }
        }
        panic!("the engine does not settle");
    }

    fn commit_only(&mut self) {
        self.step_owners();
        assert!(self.write_group(false).is_some(), "there is something to commit");
    }

    fn receipts(&mut self, submission: usize) -> Option<Vec<Receipt>> {
        self.poll_ticket(submission)
    }

    fn read(&mut self, id: OrderId) -> Option<StoredOrder> {
        let engine = self.engine().clone();
        self.wait_for(engine.read(id)).unwrap()
    }

    fn list(&mut self, merchant: &str, customer: &str, before: Option<OrderId>, max: usize) -> Listed {
        let engine = self.engine().clone();
        self.wait_for(engine.orders_of(merchant, customer, before, max)).unwrap()
    }

    fn held(&mut self, before: Option<OrderId>, max: usize) -> Listed {
        let engine = self.engine().clone();
        self.wait_for(engine.held(before, max)).unwrap()
    }

    fn shipments(&mut self, carrier: &str, numbers: &[&str]) -> Vec<Vec<ShipmentId>> {
        let engine = self.engine().clone();
        self.wait_for(engine.shipments_of(carrier, numbers)).unwrap()
    }

    fn outbox(&mut self, carrier: u16) -> Vec<Sent> {
        let outbox = &mut self.live().outboxes[usize::from(carrier)];
        let mut all = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut batch = OutboxBatch::default();
            let Poll::Ready(taken) = outbox.poll_entries(&mut cx, 3, &mut batch) else { return all };
            assert!((1..=3).contains(&taken.unwrap()), "at most as many as asked for");
            all.extend(batch.entries.iter().map(|e| Sent {
                position: e.position,
                shipment: e.shipment,
                weight: e.weight,
                record: batch.bytes[e.record.clone()].to_vec(),
                maybe_sent: e.maybe_sent,
            }));
        }
    }

    fn settled(&mut self, carrier: u16, position: u64) {
        self.live().outboxes[usize::from(carrier)].settled(position);
    }

    fn restart(&mut self) {
        self.live = None;
        if let Some((disk, _)) = &self.mem {
            disk.lose_power();
        }
        self.open().unwrap();
    }

    /// The group is written and never synced: a disk in memory loses some or all of it.
    fn crash(&mut self) {
        self.step_owners();
        let journal = self.engine().journal();
        journal.prepare().unwrap();
        if let WriterStep::Write(group, _) = journal.begin(false) {
            journal.write(&group).unwrap();
        }
        self.restart();
    }

    fn refuse_commits(&mut self, refuse: bool) {
        self.engine().journal().pretend_full(refuse);
    }

    fn spill(&mut self) {
        self.checkpoint();
    }

    fn events(&mut self) -> Vec<Told> {
        self.events_behind(Cursor(vec![0, 0]))
    }

    fn events_since(&mut self, at_ms: u64) -> Vec<Told> {
        let after = self.engine().feed().0.place_since(at_ms).unwrap();
        self.events_behind(after)
    }

    fn moment(&mut self) -> u64 {
        // Groups have whole seconds.
        self.clock.0.fetch_add(1_000, SeqCst) + 1_000
    }
}

impl World {
    /// A few at a time, so that pages end anywhere.
    fn events_behind(&self, mut after: Cursor) -> Vec<Told> {
        let feed = self.engine().feed();
        let mut told = Vec::new();
        loop {
            let page = feed.0.page(&after, 3).unwrap();
            assert!(page.events.len() <= 3);
            if page.events.is_empty() && page.next == after {
                return told;
            }
            told.extend(page.events.into_iter().map(|event| {
                let FeedEvent { id, kind, order, sequence, .. } = event;
                Told { id, kind: kind.to_owned(), order, sequence }
            }));
            after = page.next;
        }
    }
}
