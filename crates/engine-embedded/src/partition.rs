//! One partition as the Runner drives it: inputs from its queues, commits into the shared journal.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Relaxed, Release},
    },
    time::Duration,
};

use sluice_domain::{Class, Fingerprint, OrderId};
use sluice_pipeline::{
    Batch, BatchView, CommitError, Effects, Index, Log, LogError, Receipt, Rows, Table, Verdict, additions::Settles,
    batch::InputKind, hot::Hot,
};
use sluice_schemas::delta::Delta;

use crate::{
    encode::{Encoder, ORDERS_AT},
    intake::{Acks, Busy, Chunk, busy},
    journal::{AppendError, Completion},
    shared::{BORN, Frozen, Shard, Shared, Young, class_of, read_class, read_older},
};

/// After a batch smaller than [`TRICKLE_BYTES`] an owner lets the next one gather for this long: one order a commit costs
/// two context switches and a group of its own each.
const LINGER: Duration = Duration::from_micros(500);
/// See [`LINGER`].
const TRICKLE_BYTES: usize = 32 << 10;
/// How long an owner without work waits before it looks at its other duties.
const IDLE: Duration = Duration::from_millis(50);

/// See the module.
pub struct Partition {
    number: u16,
    shared: Arc<Shared>,
    index: Index,
    chunk: Chunk,
    /// Outcomes of a refused commit, for which nobody waits, to be polled again.
    held: Vec<(OrderId, Vec<u8>)>,
    /// The last batch was a small one.
    trickle: bool,
    outcomes_taken: u64,
    orders_taken: u64,
    encoder: Encoder,
    /// By input: where the live rows have the orders of the words in the batch under way.
    addresses: Vec<(u32, Option<u32>)>,
    row: Vec<u8>,
    /// Where the oldest order that the batch under way has words about stands in the log, of those that have left memory.
    oldest: Option<u64>,
    /// Answers so far owed to the batch under way start at this asker.
    answered: usize,
}

impl Partition {
    pub(crate) fn new(number: u16, shared: Arc<Shared>, index: Index) -> Self {
        let encoder = Encoder::new(shared.config.carriers.len());
        Self {
            number,
            shared,
            index,
            chunk: Chunk::default(),
            held: Vec::new(),
            trickle: true,
            outcomes_taken: 0,
            orders_taken: 0,
            encoder,
            addresses: Vec::new(),
            row: Vec::new(),
            oldest: None,
            answered: 0,
        }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn shard(&self) -> &Shard {
        &self.shared.shards[usize::from(self.number)]
    }

    fn run_errands(&mut self) {
        let shared = Arc::clone(&self.shared);
        let shard = &shared.shards[usize::from(self.number)];
        if !shard.attention.swap(false, AcqRel) {
            return;
        }
        let mut errands = shard.errands.lock();
        for (number, filter, summary) in errands.install.drain(..) {
            self.index.spilled(number, filter, Some(summary));
        }
        let (index, taken) = (&mut self.index, self.orders_taken);
        errands.expire.retain(|&(number, orders)| {
            if taken >= orders {
                index.expire(number);
            }
            taken < orders
        });
        if !errands.expire.is_empty() {
            shard.attention.store(true, Release);
        }
        let Some((number, outcomes)) = errands.freeze else { return };
        if self.outcomes_taken < outcomes || !self.held.is_empty() {
            shard.attention.store(true, Release);
            return;
        }
        errands.freeze = None;
        errands.frozen = Some(self.freeze(number));
        drop(errands);
        shared.ring();
    }

    fn freeze(&mut self, number: u32) -> Frozen {
        let index = self.index.freeze(number);
        let mut young = self.shard().young.write();
        // What was changed until now is in this checkpoint; but who is looking at the one before must hear of it.
        if !self.shared.horizon.is_looking() {
            self.shard().touched.store(u64::MAX, Relaxed);
        }
        let orders = young.live.len();
        let empty = young.spare.take().unwrap_or_else(|| Hot::with_capacity(orders));
        let rows = Arc::new(std::mem::replace(&mut young.live, empty));
        young.frozen = Some(Arc::clone(&rows));
        let entries = young.entries.freeze();
        young.frozen_entries.clone_from(&entries);
        let (group, replay_from) = self.shared.journal.here();
        Frozen { rows, index, entries, replay_from, group, counts: young.counts }
    }

    /// True while this partition must not take more work.
    fn must_wait(&self) -> bool {
        let young = self.shard().young.read();
        let over = young.memory() > self.shared.config.hot_bytes;
        if over {
            self.shared.want_checkpoint();
        }
        // Once the queue is closed, other owners may have ended, and no checkpoint ends without them; what is still queued
        // is bounded.
        over && young.frozen.is_some() && !self.shard().queue.is_closed()
    }

    fn idle(&self, batch: &mut Batch) -> Result<(), LogError> {
        batch.now_ms = self.shared.clock.now_ms();
        if self.shard().queue.is_finished() && self.held.is_empty() {
            return Err(LogError::Closed);
        }
        if self.shared.config.blocking {
            self.shard().queue.wait(IDLE);
        }
        Ok(())
    }

    /// Adds what was committed at `base` to the rows, and to what they are found by.
    fn extend_rows(
        &mut self,
        batch: &BatchView<'_>,
        base: u64,
        young: &mut Young,
        positions: &mut Vec<u64>,
    ) -> Result<(), LogError> {
        let keys = self.shared.keys;
        for addition in self.encoder.additions().all() {
            let deltas = self.encoder.additions().deltas(addition);
            let anew = addition.settles == Settles::Anew
                && read_class(young, &*self.shared.store, addition.id, &mut self.row)? == Class::DeadLettered;
            if addition.holds {
                keys.enter_held(addition.id, &mut young.entries);
            }
            let address = match addition.born {
                Some((offset, late)) => {
                    let position = base + (ORDERS_AT + offset) as u64;
                    positions.push(position);
                    self.row.clear();
                    Delta::Accepted { position }.encode(late, &mut self.row);
                    self.row.extend_from_slice(deltas);
                    young.counts.born();
                    keys.enter(addition.id, batch.record(addition.input as usize), &mut young.entries);
                    young.live.begin(addition.id, &self.row)
                }
                None => {
                    keys.enter_numbers(addition.id, deltas, &mut young.entries);
                    let known = self.addresses.binary_search_by_key(&addition.input, |k| k.0);
                    match known.ok().and_then(|at| self.addresses[at].1) {
                        Some(first) => {
                            young.live.extend(first, deltas);
                            first
                        }
                        // Two parcels of one order in one batch: the first of them may just have begun the row.
                        None => young.live.append(addition.id, deltas),
                    }
                }
            };
            let class = match addition.settles {
                Settles::No => continue,
                Settles::As(class) => class,
                Settles::Anew => read_class(young, &*self.shared.store, addition.id, &mut self.row)?,
                Settles::Perhaps => {
                    self.row.clear();
                    young.live.read_at(address, &mut self.row);
                    if self.row.first() != Some(&BORN) {
                        read_older(young, &*self.shared.store, addition.id, &mut self.row)?;
                    }
                    class_of(&self.row)
                }
            };
            if anew {
                young.counts.anew();
            }
            young.counts.decided(class);
        }
        Ok(())
    }

    /// Wakes whoever follows an order that was just changed. A reader waits until what it read is durable, so this need not.
    fn wake_watchers(&self) {
        let watchers = &self.shared.watchers;
        if watchers.open() > 0 {
            self.encoder.additions().all().iter().for_each(|addition| watchers.wake(addition.id));
        }
    }

    /// The receipts that `view` owes, to be sent when everything appended so far is durable.
    fn receipts(&mut self, view: &BatchView<'_>, refused: Option<Receipt>) -> Acks {
        let mut acks = Acks::default();
        let mut replayed = 0;
        for i in view.range() {
            let Some(&(ticket, line)) = self.chunk.askers.get(self.answered) else { break };
            self.answered += 1;
            let receipt = match (view.verdict(i), refused) {
                (_, Some(busy)) => busy,
                (Verdict::New, None) => Receipt::Accepted,
                (Verdict::Replayed, None) => {
                    replayed += 1;
                    Receipt::Replayed
                }
                (Verdict::Conflict, None) => Receipt::Conflict,
            };
            acks.push(&self.chunk.tickets[ticket as usize], line, receipt);
        }
        self.shared.replayed.fetch_add(replayed, Relaxed);
        acks
    }

    fn refuse(&mut self, view: &BatchView<'_>, why: Busy) {
        if self.chunk.askers.is_empty() {
            self.held.extend(view.range().map(|i| (view.meta(i).order, view.record(i).to_vec())));
        }
        self.receipts(view, Some(busy(why))).send();
    }
}

impl Log for Partition {
    fn poll(&mut self, batch: &mut Batch) -> Result<(), LogError> {
        self.run_errands();
        self.answered = 0;
        if self.shared.journal.is_backed_up() {
            if !self.shared.config.blocking {
                batch.now_ms = self.shared.clock.now_ms();
                return Ok(());
            }
            self.shared.journal.wait_for_room();
        }
        if self.must_wait() {
            if self.shared.config.blocking {
                self.shard().queue.wait_for_nudge(IDLE);
            }
            return Ok(());
        }
        let queue = &self.shard().queue;
        // There is no room for these outcomes and nobody may wait longer. A restart finds their shipments open. Whoever
        // waits behind them still gets an answer.
        let hopeless = !self.held.is_empty() && queue.is_closed() && self.shared.journal.trouble().is_some();
        if hopeless && queue.is_finished() {
            return Err(LogError::Closed);
        }
        if self.shared.config.blocking && self.trickle {
            std::thread::sleep(LINGER);
        }
        let spent = std::mem::take(&mut self.chunk);
        if self.held.is_empty() || hopeless {
            match self.shard().queue.pop(spent) {
                Some(chunk) => self.chunk = chunk,
                None => return self.idle(batch),
            }
            match self.chunk.askers.len() {
                0 => self.outcomes_taken += self.chunk.batch.len() as u64,
                waited_for => self.orders_taken += waited_for as u64,
            }
            self.trickle = self.chunk.batch.byte_len() < TRICKLE_BYTES;
            std::mem::swap(batch, &mut self.chunk.batch);
        } else {
            for (order, record) in self.held.drain(..) {
                batch.push_word(order, &record);
            }
        }
        batch.now_ms = self.shared.clock.now_ms();
        Ok(())
    }

    fn index(&mut self) -> &mut Index {
        &mut self.index
    }

    fn spilled(&mut self, fingerprint: Fingerprint) -> Result<Option<u64>, LogError> {
        for number in self.index.candidates(fingerprint) {
            if let Some(value) = self.shared.store.get(Table::Index(number), &fingerprint.0.to_be_bytes())? {
                let position = value.try_into().map(u64::from_be_bytes);
                return position.map(Some).map_err(|_| LogError::Store("an index entry is not 8 bytes long".into()));
            }
        }
        Ok(None)
    }

    fn order_at(&mut self, position: u64, out: &mut Vec<u8>) -> Result<(), LogError> {
        self.shared.journal.order_at(position, out)
    }

    fn is_gone(&self, position: u64) -> bool {
        self.shared.horizon.is_leaving(position)
    }

    fn rows(&mut self, batch: &BatchView<'_>, rows: &mut Rows) -> Result<(), LogError> {
        let shared = Arc::clone(&self.shared);
        let young = shared.shards[usize::from(self.number)].young.read();
        // All look-ups first: they miss the cache, but not one after another.
        let words = batch.range().filter(|&i| batch.meta(i).kind == InputKind::Word);
        let retires = shared.config.retention.is_on() || shared.horizon.first() > 0;
        self.oldest = None;
        self.addresses.clear();
        self.addresses.extend(words.map(|i| (i as u32, young.live.address(batch.meta(i).order))));
        for &(input, address) in &self.addresses {
            let id = batch.meta(input as usize).order;
            rows.push_with(input as usize, |out| {
                let start = out.len();
                if let Some(first) = address {
                    young.live.read_at(first, out);
                }
                if out.get(start) == Some(&BORN) {
                    return Ok(());
                }
                read_older(&young, &*shared.store, id, out)?;
                if retires && let Some(position) = shared.horizon.forget(start, out) {
                    self.oldest = Some(self.oldest.map_or(position, |oldest| oldest.min(position)));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn commit(
        &mut self,
        batch: &BatchView<'_>,
        effects: &Effects,
        positions: &mut Vec<u64>,
    ) -> Result<(), CommitError> {
        let shared = Arc::clone(&self.shared);
        let carriers = &shared.config.carriers;
        if let Some(frame) = self.encoder.encode(self.number, carriers, batch, effects) {
            // The last room is for outcomes, which nobody can refuse.
            let refusable = !self.chunk.askers.is_empty();
            let reserve = if refusable { shared.journal.order_reserve() } else { 0 };
            if shared.config.blocking {
                shared.journal.wait_for_frame(frame.len());
            }
            // Readers wait on this lock until the rows are in, so nobody can be answered before they can be read.
            let shard = &shared.shards[usize::from(self.number)];
            let mut young = shard.young.write();
            // Retired since its row was read, or about to be: what is decided on that must not outlive it.
            if self.oldest.is_some_and(|oldest| shared.horizon.is_leaving(oldest)) {
                drop(young);
                self.refuse(batch, Busy::Queue);
                return Err(CommitError::Refused("an order of it was just retired".into()));
            }
            match shared.journal.append(frame, reserve) {
                Ok(base) => {
                    if let Some(oldest) = self.oldest {
                        shard.touched.fetch_min(oldest, Relaxed);
                    }
                    self.extend_rows(batch, base, &mut young, positions)?;
                    drop(young);
                    self.wake_watchers();
                }
                Err(AppendError::Full(why)) => {
                    drop(young);
                    self.refuse(batch, Busy::Disk);
                    if shared.config.blocking && !self.held.is_empty() {
                        std::thread::sleep(IDLE);
                    }
                    return Err(CommitError::Refused(why));
                }
                Err(AppendError::Closed) => return Err(LogError::Closed.into()),
            }
        }
        let acks = self.receipts(batch, None);
        if !acks.is_empty()
            && let Some(now) = shared.journal.after_appended(Completion::Acks(Arc::clone(&shared.pump), acks))
        {
            now.run();
        }
        Ok(())
    }
}
