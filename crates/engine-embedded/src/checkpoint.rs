//! Checkpoints: young rows and index entries go to the store as sorted runs, then a head makes them count.
//!
//! The head is the commit point. Rows and index runs written before it are harmless without it: a replay finds the
//! same deltas again, and the fold doesn't mind. Nothing reaches the store before the journal has it durably.

use std::sync::{
    Arc,
    atomic::Ordering::{Acquire, Relaxed, Release},
};

use sluice_domain::OrderId;
use sluice_pipeline::{Filter, LogError, Table, index::Entry};

use crate::{
    head::{Head, Mark},
    lookup::store_entries,
    retention::Retirement,
    shared::{Counts, Frozen, Shared},
};

/// Key of the filter of an index generation.
pub(crate) fn filter_key(generation: u32) -> Vec<u8> {
    format!("filter-{generation}").into_bytes()
}

/// Ingests one entry into [`Table::Meta`].
pub(crate) fn put_meta(shared_store: &dyn sluice_pipeline::Store, key: &[u8], value: &[u8]) -> Result<(), LogError> {
    shared_store.ingest(Table::Meta, &mut |put| put(key, value))
}

/// Index generations that share a summary filter, if they are of a size. More would make an owner's look-ups fewer and
/// the first one's memory larger.
const RUNS_IN_SUMMARY: usize = 16;
/// Bits an entry of the summary: 0.15 % false hits, which then go to the generations' own filters.
const BITS_IN_SUMMARY: usize = 16;

#[derive(Debug)]
enum Phase {
    Idle,
    Freezing,
    Durable(Vec<Frozen>),
    Rows(Vec<Frozen>),
    Lookup(Vec<Frozen>),
    Index(Vec<Frozen>),
    Head(Vec<Frozen>, Filter),
}

/// Takes checkpoints, a phase a step.
pub struct Checkpointer {
    shared: Arc<Shared>,
    head: Head,
    /// Journal position at which the last checkpoint began.
    began_at: u64,
    outboxes: Vec<(String, u64, u64)>,
    /// The filter over the latest index generations, and how many entries it still has room for.
    summary: (Filter, usize),
    /// An index generation that owners are about to forget.
    dropping: Option<u32>,
    retirement: Retirement,
    phase: Phase,
}

impl Checkpointer {
    pub(crate) fn new(shared: Arc<Shared>, head: Head) -> Self {
        let began_at = head.group.0;
        Self {
            shared,
            head,
            began_at,
            outboxes: Vec::new(),
            summary: (Filter::with_room(0, 1), 0),
            dropping: None,
            retirement: Retirement::default(),
            phase: Phase::Idle,
        }
    }

    /// Does the next piece of work; false if there is none now.
    ///
    /// # Errors
    /// [`LogError`] when the store or the journal fail; the engine must end then.
    pub fn step(&mut self) -> Result<bool, LogError> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => Ok(self.begin() || self.expire()? || self.retire()?),
            Phase::Freezing => Ok(self.collect()),
            Phase::Durable(frozen) => Ok(self.await_durable(frozen)),
            Phase::Rows(frozen) => self.write_rows(frozen),
            Phase::Lookup(frozen) => self.write_lookup(frozen),
            Phase::Index(frozen) => self.write_index(frozen),
            Phase::Head(frozen, filter) => self.write_head(frozen, &filter),
        }
    }

    /// True if no checkpoint is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    fn begin(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let appended = shared.journal.appended();
        let grown = appended - self.began_at.min(appended) >= shared.config.checkpoint_bytes;
        let aged = || shared.config.retention.wants_mark(&self.head, appended, shared.clock.now_ms());
        if !grown && !shared.checkpoint_wanted.load(Relaxed) && !aged() {
            return false;
        }
        shared.checkpoint_wanted.store(false, Relaxed);
        self.began_at = appended;
        // The order matters: what a notifier calls settled now, it has already handed to a queue, and a partition
        // freezes only after it has taken everything that is in its queue by the time of the second reading.
        let outbox = |c: &crate::shared::CarrierSlot| (c.id.to_string(), c.settled.load(Acquire), 0);
        self.outboxes = shared.carriers.iter().map(outbox).collect();
        for shard in &shared.shards {
            let outcomes = shard.queue.outcomes_pushed();
            shard.errands.lock().freeze = Some((self.head.number + 1, outcomes));
            shard.attention.store(true, Release);
            shard.queue.nudge();
        }
        self.phase = Phase::Freezing;
        true
    }

    fn collect(&mut self) -> bool {
        let shards = &self.shared.shards;
        if shards.iter().any(|s| s.errands.lock().frozen.is_none()) {
            self.phase = Phase::Freezing;
            return false;
        }
        self.phase = Phase::Durable(shards.iter().filter_map(|s| s.errands.lock().frozen.take()).collect());
        true
    }

    fn await_durable(&mut self, frozen: Vec<Frozen>) -> bool {
        let until = frozen.iter().map(|f| f.replay_from).max().unwrap_or(0);
        if !self.shared.journal.is_durable(until) {
            self.phase = Phase::Durable(frozen);
            return false;
        }
        // Read only now: a mark in a group before those to be replayed has risen, and a replay finds all others.
        for (carrier, outbox) in self.shared.carriers.iter().zip(&mut self.outboxes) {
            outbox.2 = carrier.sending.load(Acquire);
        }
        // A carrier that is not configured now may come back, and must then not be asked again.
        let gone = |c: &&(String, u64, u64)| !self.shared.carriers.iter().any(|slot| *slot.id == *c.0);
        self.outboxes.extend(self.head.carriers.iter().filter(gone).cloned());
        self.phase = Phase::Rows(frozen);
        true
    }

    fn write_rows(&mut self, frozen: Vec<Frozen>) -> Result<bool, LogError> {
        let mut ids: Vec<(OrderId, u16, u32)> = Vec::with_capacity(frozen.iter().map(|f| f.rows.len()).sum());
        for (partition, f) in frozen.iter().enumerate() {
            ids.extend(f.rows.ids().map(|(id, at)| (id, partition as u16, at)));
        }
        ids.sort_unstable();
        let mut row = Vec::new();
        let mut key = [0; 20];
        key[16..].copy_from_slice(&(self.head.number + 1).to_be_bytes());
        if !ids.is_empty() {
            self.shared.store.ingest(Table::Rows, &mut |put| {
                for &(id, partition, at) in &ids {
                    key[..16].copy_from_slice(&id.0.to_be_bytes());
                    row.clear();
                    frozen[usize::from(partition)].rows.read_at(at, &mut row);
                    put(&key, &row);
                }
            })?;
        }
        self.phase = Phase::Lookup(frozen);
        Ok(true)
    }

    fn write_lookup(&mut self, frozen: Vec<Frozen>) -> Result<bool, LogError> {
        store_entries(&*self.shared.store, &frozen)?;
        self.phase = Phase::Index(frozen);
        Ok(true)
    }

    fn write_index(&mut self, frozen: Vec<Frozen>) -> Result<bool, LogError> {
        let number = self.head.number + 1;
        let mut entries: Vec<Entry> = Vec::with_capacity(frozen.iter().map(|f| f.index.entries.len()).sum());
        for f in &frozen {
            entries.extend(f.index.entries.iter());
        }
        entries.sort_unstable();
        let filter = Filter::build(entries.len(), entries.iter().map(Entry::fingerprint));
        self.summarise(&entries);
        // A checkpoint that failed half-way may have left a run of this number.
        self.shared.store.drop_table(Table::Index(number))?;
        if !entries.is_empty() {
            self.shared.store.ingest(Table::Index(number), &mut |put| {
                for entry in &entries {
                    put(&entry.fingerprint().0.to_be_bytes(), &entry.position.to_be_bytes());
                }
            })?;
        }
        put_meta(&*self.shared.store, &filter_key(number), &filter.to_bytes())?;
        self.phase = Phase::Head(frozen, filter);
        Ok(true)
    }

    /// Adds `entries` to the summary; to a new one if it is full.
    fn summarise(&mut self, entries: &[Entry]) {
        if self.summary.1 < entries.len() {
            let room = entries.len() * RUNS_IN_SUMMARY;
            self.summary = (Filter::with_room(room, BITS_IN_SUMMARY), room);
        }
        self.summary.1 -= entries.len();
        entries.iter().for_each(|e| self.summary.0.add(e.fingerprint()));
    }

    fn write_head(&mut self, frozen: Vec<Frozen>, filter: &Filter) -> Result<bool, LogError> {
        let mut head = Head {
            number: self.head.number + 1,
            group: frozen.iter().map(|f| f.group).min().unwrap_or_default(),
            replay_from: frozen.iter().map(|f| f.replay_from).collect(),
            carriers: std::mem::take(&mut self.outboxes),
            generations: self.head.generations.clone(),
            counts: Counts::default(),
            listed_since: self.head.listed_since,
            kept: self.head.kept,
            marks: self.head.marks.clone(),
        };
        let now_ms = self.shared.clock.now_ms();
        head.generations.push((head.number, now_ms));
        head.mark(Mark { number: head.number, position: self.shared.journal.durable(), at_ms: now_ms });
        for f in &frozen {
            head.counts.add(f.counts);
        }
        put_meta(&*self.shared.store, b"head", &head.encode())?;
        for (shard, frozen) in self.shared.shards.iter().zip(frozen) {
            shard.errands.lock().install.push((head.number, filter.clone(), self.summary.0.clone()));
            let mut young = shard.young.write();
            young.frozen = None;
            young.frozen_entries = Vec::new();
            young.spare = Arc::into_inner(frozen.rows).map(|mut rows| {
                rows.clear();
                rows
            });
            drop(young);
            shard.attention.store(true, Release);
            shard.queue.nudge();
        }
        self.shared.checkpointed.store(head.group.0, Relaxed);
        self.shared.checkpoints.fetch_add(1, Relaxed);
        metrics::counter!("sluice_checkpoints_total").increment(1);
        tracing::info!(number = head.number, position = head.group.0, "checkpoint");
        self.head = head;
        Ok(true)
    }

    /// Takes what retention lets go out of journal and store.
    fn retire(&mut self) -> Result<bool, LogError> {
        // Owners may still look into the one that is being dropped.
        let indexed = self.head.generations.iter().map(|g| g.0).chain(self.dropping).min();
        self.retirement.step(&self.shared, &mut self.head, indexed)
    }

    /// Drops index generations that no retry can ask for any more.
    fn expire(&mut self) -> Result<bool, LogError> {
        if let Some(number) = self.dropping {
            let waits = |s: &crate::shared::Shard| s.errands.lock().expire.iter().any(|e| e.0 == number);
            if self.shared.shards.iter().any(waits) {
                return Ok(false);
            }
            self.shared.store.drop_table(Table::Index(number))?;
            self.dropping = None;
            return Ok(true);
        }
        let now = self.shared.clock.now_ms();
        // `placed_at` may lie a window ahead of the acceptance, and a retry may come a window after `placed_at`.
        let old = |frozen_at: u64| frozen_at + 2 * self.shared.config.window_ms < now;
        let Some(&(number, _)) = self.head.generations.iter().find(|g| old(g.1)) else { return Ok(false) };
        self.head.generations.retain(|g| g.0 != number);
        // One run, so the head never names a generation without its filter.
        let (head, filter) = (self.head.encode(), filter_key(number));
        self.shared.store.ingest(Table::Meta, &mut |put| {
            put(&filter, b"");
            put(b"head", &head);
        })?;
        for shard in &self.shared.shards {
            // What is queued by now was within the window when it was taken, however long it has waited.
            let orders = shard.queue.orders_pushed();
            shard.errands.lock().expire.push((number, orders));
            shard.attention.store(true, Release);
        }
        self.dropping = Some(number);
        Ok(true)
    }
}
