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
use sluice_schemas::{
    CodecError,
    wire::{Reader, put_bytes, put_varint},
};

use crate::{
    lookup::store_entries,
    shared::{Counts, Frozen, Shared},
};

/// Version byte of [`Head`].
pub(crate) const HEAD_VERSION: u8 = 2;

/// What a checkpoint says about itself; key `head` in [`Table::Meta`].
///
/// `version u8 | number | group position | group number | partitions: count, replay position each | carriers: count,
/// (id, settled, sending) each | generations: count, (number, frozen at ms) each | accepted | finished | dead-lettered |
/// in flight | listed since`, all numbers varints. Version 1 ends before the last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Head {
    /// From 1.
    pub(crate) number: u32,
    /// Start of the first group to replay, and its number.
    pub(crate) group: (u64, u64),
    /// By partition as of then: its frames before this position are in the store.
    pub(crate) replay_from: Vec<u64>,
    /// By carrier id: outbox settled and sending positions.
    pub(crate) carriers: Vec<(String, u64, u64)>,
    /// Index generations still needed, with the time each was frozen.
    pub(crate) generations: Vec<(u32, u64)>,
    pub(crate) counts: Counts,
    /// Orders of this checkpoint and later ones can be found by customer; 0: all can.
    pub(crate) listed_since: u32,
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![HEAD_VERSION];
        for n in [u64::from(self.number), self.group.0, self.group.1, self.replay_from.len() as u64] {
            put_varint(&mut out, n);
        }
        self.replay_from.iter().for_each(|&p| put_varint(&mut out, p));
        put_varint(&mut out, self.carriers.len() as u64);
        for (id, settled, sending) in &self.carriers {
            put_bytes(&mut out, id.as_bytes());
            put_varint(&mut out, *settled);
            put_varint(&mut out, *sending);
        }
        put_varint(&mut out, self.generations.len() as u64);
        for &(number, frozen_at) in &self.generations {
            put_varint(&mut out, u64::from(number));
            put_varint(&mut out, frozen_at);
        }
        let c = &self.counts;
        for n in [c.accepted, c.finished, c.dead_lettered, c.in_flight, u64::from(self.listed_since)] {
            put_varint(&mut out, n);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let version = r.byte("head version")?;
        if !(1..=HEAD_VERSION).contains(&version) {
            return Err(CodecError { what: "head version" });
        }
        let number: u32 = r.number("checkpoint number")?;
        let group = (r.varint("group position")?, r.varint("group number")?);
        let partitions: usize = r.number("partition count")?;
        let replay_from = (0..partitions).map(|_| r.varint("replay position")).collect::<Result<_, _>>()?;
        let carriers: usize = r.number("carrier count")?;
        let carriers = (0..carriers)
            .map(|_| Ok((r.str("carrier")?.to_owned(), r.varint("settled")?, r.varint("sending")?)))
            .collect::<Result<_, CodecError>>()?;
        let generations: usize = r.number("generation count")?;
        let generations = (0..generations)
            .map(|_| Ok((r.number("generation")?, r.varint("frozen at")?)))
            .collect::<Result<_, CodecError>>()?;
        let mut next = || r.varint("count");
        let counts =
            Counts { accepted: next()?, finished: next()?, dead_lettered: next()?, in_flight: next()?, replayed: 0 };
        // What a journal holds behind the checkpoint is entered as it is replayed.
        let listed_since = if version == 1 { number + 1 } else { r.number("listed since")? };
        Ok(Self { number, group, replay_from, carriers, generations, counts, listed_since })
    }
}

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
            phase: Phase::Idle,
        }
    }

    /// Does the next piece of work; false if there is none now.
    ///
    /// # Errors
    /// [`LogError`] when the store or the journal fail; the engine must end then.
    pub fn step(&mut self) -> Result<bool, LogError> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => self.begin(),
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

    fn begin(&mut self) -> Result<bool, LogError> {
        let shared = Arc::clone(&self.shared);
        let appended = shared.journal.appended();
        let grown = appended - self.began_at.min(appended) >= shared.config.checkpoint_bytes;
        if !grown && !shared.checkpoint_wanted.load(Relaxed) {
            return self.expire();
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
        Ok(true)
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
        };
        head.generations.push((head.number, self.shared.clock.now_ms()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back() {
        let head = Head {
            number: 7,
            group: (1 << 40, 99),
            replay_from: vec![5, 1 << 41],
            carriers: vec![("swift".into(), 3, 4), ("tortoise".into(), 0, u64::MAX)],
            generations: vec![(6, 1), (7, 1_794_268_800_000)],
            counts: Counts { accepted: 10, finished: 5, dead_lettered: 2, in_flight: 3, replayed: 0 },
            listed_since: 5,
        };
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Ok(head));
        for cut in 0..bytes.len() {
            assert!(Head::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        // One of a version that had no look-ups.
        let mut old = bytes[..bytes.len() - 1].to_vec();
        old[0] = 1;
        assert_eq!(Head::decode(&old).map(|head| (head.counts.in_flight, head.listed_since)), Ok((3, 8)));
        old[0] = HEAD_VERSION + 1;
        assert!(Head::decode(&old).is_err());
    }
}
