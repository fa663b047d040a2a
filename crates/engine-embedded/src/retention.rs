//! Lets go of what is over and old: whole segments of the journal, oldest first, and what the store has of their orders.
//!
//! What is kept: everything that happened within the configured time, or within the configured bytes of journal, and each
//! order that something happened to meanwhile or that isn't decided. An order that is never decided holds its segment and
//! all later ones; it is named, and never deleted.
//!
//! A segment goes in three steps, each durable before the next: the checkpoint's head says that it is gone, the store's
//! entries of its orders are removed, the file is. After a crash within them the next start goes on. All of it is the
//! checkpointer's work, a group a step, when it has nothing else to do, and nobody who reads or decides waits for it.
//!
//! What an owner has changed since the last checkpoint can't be seen in the store. So owners note how old the oldest order is
//! that they have changed, and a segment with such a one stays. Words about orders of a segment that is about to go are refused
//! until that is durable, and from then on are about orders that nobody knows.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use sluice_domain::{Class, OrderId};
use sluice_pipeline::{LogError, Table, lookup::day_of};
use sluice_schemas::{
    CodecError,
    delta::{Delta, row_deltas},
    order::{peek_customer, peek_id},
};

use crate::{
    checkpoint::put_meta,
    head::{Head, Kept, Mark},
    journal::{Group, format, segment_name},
    lookup::stored_key,
    shared::{Shared, class_of, position_of},
};

/// With a time to keep things for, checkpoints are taken so many times in it at least, if there is anything new …
const MARKS_IN_TIME: u64 = 8;
/// … and not more often than this, ms.
const MIN_MARK_MS: u64 = 60_000;

/// Keys that are removed at once, and a group's more: some hundred kB.
const REMOVED_AT_ONCE: usize = 4_096;

/// How long what is over is kept; whatever one of the two lets go may go. The default is for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// ms after the last thing that happened to an order.
    pub time_ms: Option<u64>,
    /// Bytes of journal behind the last thing that happened to an order.
    pub bytes: Option<u64>,
}

impl Retention {
    /// True if anything ever goes.
    pub fn is_on(&self) -> bool {
        self.time_ms.is_some() || self.bytes.is_some()
    }

    /// True if a checkpoint is due although little has happened: only what a checkpoint holds can go.
    pub(crate) fn wants_mark(&self, head: &Head, appended: u64, now_ms: u64) -> bool {
        let Some(time_ms) = self.time_ms else { return false };
        let (position, at_ms) = head.marks.last().map_or((0, head.kept.since_ms), |last| (last.position, last.at_ms));
        appended > position && at_ms.saturating_add((time_ms / MARKS_IN_TIME).max(MIN_MARK_MS)) <= now_ms
    }

    /// The last checkpoint that is old enough: orders that no later one has anything of may go. `indexed` is the oldest one
    /// whose orders a retry may still ask for.
    fn limit(&self, head: &Head, appended: u64, now_ms: u64, indexed: Option<u32>) -> Option<Mark> {
        let old = |mark: &Mark| {
            self.time_ms.is_some_and(|time| mark.at_ms.saturating_add(time) <= now_ms)
                || self.bytes.is_some_and(|bytes| mark.position.saturating_add(bytes) <= appended)
        };
        let may = |mark: &&Mark| indexed.is_none_or(|oldest| mark.number < oldest) && old(mark);
        // Not behind one that isn't: a clock that was behind for a while makes a checkpoint look old.
        head.marks.iter().take_while(may).last().copied()
    }
}

/// What is gone, for everybody who reads.
#[derive(Debug, Default)]
pub(crate) struct Horizon {
    /// Orders placed before this log position are gone.
    first: AtomicU64,
    /// Those before this one will be in a moment: nothing is decided about them any more.
    leaving: AtomicU64,
    /// Events before this log position are not told any more.
    events: AtomicU64,
    retired: AtomicU64,
    since_ms: AtomicU64,
    /// Bytes of journal that are old enough to go and can't.
    held_bytes: AtomicU64,
    /// When the order was placed that holds them, ms since the epoch; 0 if none does.
    held_by_ms: AtomicU64,
    /// Segments are being looked through: owners go on noting what they change.
    looking: AtomicBool,
}

impl Horizon {
    pub(crate) fn new(kept: &Kept) -> Self {
        let horizon = Self::default();
        horizon.raise(kept);
        horizon
    }

    fn raise(&self, kept: &Kept) {
        // Events first: nobody is told of what is gone.
        self.events.store(kept.events, Release);
        self.leaving.fetch_max(kept.first.0, AcqRel);
        self.first.store(kept.first.0, Release);
        self.retired.store(kept.retired, Relaxed);
        self.since_ms.store(kept.since_ms, Relaxed);
    }

    /// Where the journal begins.
    pub(crate) fn first(&self) -> u64 {
        self.first.load(Acquire)
    }

    /// Events are told from here on.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Acquire)
    }

    /// Orders that are gone.
    pub(crate) fn retired(&self) -> u64 {
        self.retired.load(Relaxed)
    }

    /// True if what stood at `position` is gone.
    pub(crate) fn is_gone(&self, position: u64) -> bool {
        position < self.first()
    }

    /// True if the order at `position` is gone, or will be in a moment.
    pub(crate) fn is_leaving(&self, position: u64) -> bool {
        position < self.leaving.load(Acquire)
    }

    pub(crate) fn is_looking(&self) -> bool {
        self.looking.load(Acquire)
    }

    /// Takes the row of a retired order, which may still be in the store, back from the end of `out`, where it starts at
    /// `start`; else says where the order stands.
    pub(crate) fn forget(&self, start: usize, out: &mut Vec<u8>) -> Option<u64> {
        let position = position_of(out.get(start..).unwrap_or_default());
        let first = self.first();
        if first > 0 && position.is_none_or(|position| position < first) {
            out.truncate(start);
            return None;
        }
        position
    }

    /// Publishes what is kept. `end` is where the segments that exist end.
    pub(crate) fn publish(&self, end: u64, segment_bytes: u64) {
        let first = self.first();
        metrics::gauge!("sluice_journal_bytes").set(end.saturating_sub(first) as f64);
        metrics::counter!("sluice_journal_segments_deleted_total").absolute(first / segment_bytes.max(1));
        metrics::counter!("sluice_orders_retired_total").absolute(self.retired());
        metrics::gauge!("sluice_journal_oldest_timestamp_seconds").set(self.since_ms.load(Relaxed) as f64 / 1e3);
        metrics::gauge!("sluice_retention_held_bytes").set(self.held_bytes.load(Relaxed) as f64);
        let held_by = self.held_by_ms.load(Relaxed) as f64 / 1e3;
        metrics::gauge!("sluice_retention_held_order_timestamp_seconds").set(held_by);
    }
}

/// Why an order stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Something has happened to it not long ago.
    Recent,
    /// It is in flight, or a carrier's answer is missing.
    Undecided,
    /// It has no row.
    Unknown,
}

/// A segment that is looked through.
#[derive(Debug)]
struct Reading {
    at: u64,
    end: u64,
    /// Number that the group at `at` has.
    expected: u64,
    limit: Mark,
    orders: u64,
    /// Everything that happened to its orders stands before this.
    events: u64,
}

/// A segment that is gone, and whose orders are being removed from the store.
#[derive(Debug)]
struct Sweeping {
    index: u64,
    at: u64,
    /// Number of the group before; 0 at the start.
    last: u64,
    keys: Keys,
}

/// Keys that are removed together: each time costs the device a sync or two.
#[derive(Debug, Default)]
struct Keys {
    found_by: Vec<Vec<u8>>,
    rows: Vec<Vec<u8>>,
}

impl Keys {
    /// Removes them, if they are many or `all` is true.
    fn remove(&mut self, shared: &Shared, all: bool) -> Result<(), LogError> {
        if !all && self.found_by.len() + self.rows.len() < REMOVED_AT_ONCE {
            return Ok(());
        }
        // By the rows it is known what else there is, so they go last.
        for (table, keys) in [(Table::Lookup, &mut self.found_by), (Table::Rows, &mut self.rows)] {
            if !keys.is_empty() {
                shared.store.remove(table, keys)?;
                keys.clear();
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
enum Work {
    #[default]
    Idle,
    Reading(Reading),
    Sweeping(Sweeping),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Retirement {
    work: Work,
    /// Segments that a crash has left behind; `None` before anybody has looked.
    left_over: Option<Vec<u64>>,
    /// Limit and checkpoint with which the oldest segment couldn't go.
    tried: Option<(u32, u32)>,
    /// The order that held it.
    holder: Option<OrderId>,
}

impl Retirement {
    /// Does the next piece of work; false if there is none now. No checkpoint may be under way. See [`Retention::limit`] for
    /// `indexed`.
    ///
    /// # Errors
    /// [`LogError`] if the device or the store fails.
    pub(crate) fn step(&mut self, shared: &Shared, head: &mut Head, indexed: Option<u32>) -> Result<bool, LogError> {
        match std::mem::take(&mut self.work) {
            Work::Idle => self.begin(shared, head, indexed),
            Work::Reading(reading) => {
                let first = head.kept.first;
                match self.read(shared, head, reading) {
                    // Nothing has gone yet. What old segments are like must not end an engine that needs none of them.
                    Err(error) if head.kept.first == first => {
                        tracing::error!(%error, "a segment of the journal can't be read, so it and all later ones are kept");
                        shared.horizon.looking.store(false, Release);
                        Ok(true)
                    }
                    done => done,
                }
            }
            Work::Sweeping(sweeping) => self.sweep(shared, sweeping),
        }
    }

    fn begin(&mut self, shared: &Shared, head: &Head, indexed: Option<u32>) -> Result<bool, LogError> {
        let segment = shared.config.journal.segment_bytes;
        let (first, number) = head.kept.first;
        if self.left_over.is_none() {
            let mut indices = shared.journal.segments().indices()?;
            indices.retain(|index| index * segment < first);
            indices.reverse();
            self.left_over = Some(indices);
        }
        if let Some(index) = self.left_over.as_mut().and_then(Vec::pop) {
            self.work = Work::Sweeping(Sweeping { index, at: index * segment, last: 0, keys: Keys::default() });
            return Ok(true);
        }
        let (retention, now_ms) = (shared.config.retention, shared.clock.now_ms());
        let limit = retention.limit(head, shared.journal.appended(), now_ms, indexed);
        let Some(limit) = limit.filter(|_| retention.is_on()) else { return Ok(false) };
        let end = first + segment;
        // Recovery reads the group before the one where it begins.
        if end > limit.position || end >= head.group.0 || self.tried == Some((limit.number, head.number)) {
            return Ok(false);
        }
        self.tried = Some((limit.number, head.number));
        if !shared.are_untouched(end) {
            return Ok(false);
        }
        if let Some(holder) = self.holder
            && let Err(why) = judge(shared, holder, limit.number)?
        {
            self.hold(shared, holder, why, (first, &limit));
            return Ok(false);
        }
        shared.horizon.looking.store(true, Release);
        self.work =
            Work::Reading(Reading { at: first, end, expected: number, limit, orders: 0, events: head.kept.events });
        Ok(true)
    }

    /// Looks through one group.
    fn read(&mut self, shared: &Shared, head: &mut Head, mut reading: Reading) -> Result<bool, LogError> {
        let group = if reading.at < reading.end { shared.journal.whole_group(reading.at)? } else { None };
        let Some(group) = group.filter(|group| group.sequence() == reading.expected) else {
            return self.end(shared, head, &reading);
        };
        for id in orders_of(&group)?.into_iter().map(|order| order.0) {
            let newest = match judge(shared, id, reading.limit.number)? {
                Ok(newest) => newest,
                Err(why) => {
                    self.hold(shared, id, why, (head.kept.first.0, &reading.limit));
                    shared.horizon.looking.store(false, Release);
                    return Ok(true);
                }
            };
            reading.orders += 1;
            reading.events = reading.events.max(head.end_of(newest).unwrap_or(u64::MAX));
        }
        (reading.at, reading.expected) = (group.end(), reading.expected + 1);
        self.work = Work::Reading(reading);
        Ok(true)
    }

    /// Everything in the segment may go, unless an owner has changed some of it meanwhile.
    fn end(&mut self, shared: &Shared, head: &mut Head, reading: &Reading) -> Result<bool, LogError> {
        let segment = shared.config.journal.segment_bytes;
        let Reading { end, expected, .. } = *reading;
        // The rest of the segment was too short for this group; if it isn't the next, one is missing here.
        if shared.journal.whole_group(end)?.is_none_or(|next| next.sequence() != expected) {
            let (file, what) = (segment_name(end / segment), format!("group {expected} is missing or damaged"));
            return Err(LogError::Damaged { file, offset: 0, what });
        }
        let before = head.marks.iter().rfind(|mark| mark.position <= end);
        let kept = Kept {
            first: (end, expected),
            events: reading.events.max(end),
            retired: head.kept.retired + reading.orders,
            since_ms: before.map_or(head.kept.since_ms, |mark| mark.at_ms),
        };
        let owners: Vec<_> = shared.shards.iter().map(|shard| shard.young.write()).collect();
        let untouched = shared.are_untouched(end);
        if untouched {
            shared.horizon.leaving.store(end, Release);
        }
        drop(owners);
        shared.horizon.looking.store(false, Release);
        if !untouched {
            return Ok(true);
        }
        head.kept = kept;
        // What is kept stands behind it, and so does the end of each checkpoint that has any of that.
        head.marks.retain(|mark| mark.position > end);
        put_meta(&*shared.store, b"head", &head.encode())?;
        // Only now: who is told that an order is unknown must never find it again.
        shared.horizon.raise(&kept);
        (self.tried, self.holder) = (None, None);
        for held in [&shared.horizon.held_bytes, &shared.horizon.held_by_ms] {
            held.store(0, Relaxed);
        }
        let at = end - segment;
        self.work = Work::Sweeping(Sweeping { index: at / segment, at, last: 0, keys: Keys::default() });
        Ok(true)
    }

    fn hold(&mut self, shared: &Shared, order: OrderId, why: Held, (first, limit): (u64, &Mark)) {
        let held_bytes = limit.position.saturating_sub(first);
        shared.horizon.held_bytes.store(held_bytes, Relaxed);
        shared.horizon.held_by_ms.store(order.placed_at_ms(), Relaxed);
        if self.holder.replace(order) == Some(order) {
            return;
        }
        match why {
            Held::Recent => {
                tracing::debug!(order_id = %order, held_bytes, "an order keeps old segments of the journal")
            }
            Held::Undecided => {
                tracing::warn!(order_id = %order, held_bytes, "an order that isn't decided keeps old segments of the journal");
            }
            Held::Unknown => {
                tracing::error!(order_id = %order, held_bytes, "an order without a row keeps old segments of the journal");
            }
        }
    }

    /// Removes what the store has of the orders in one group, and the segment behind the last.
    fn sweep(&mut self, shared: &Shared, sweeping: Sweeping) -> Result<bool, LogError> {
        let Sweeping { index, at, last, mut keys } = sweeping;
        let within = at < (index + 1) * shared.config.journal.segment_bytes;
        let read = if within { shared.journal.whole_group(at) } else { Ok(None) };
        let group = match read {
            Err(error @ (LogError::Damaged { .. } | LogError::Io { .. })) => {
                tracing::error!(%error, "what the store has of orders that are gone can't be told, and stays");
                None
            }
            group => group?.filter(|group| last == 0 || group.sequence() == last + 1),
        };
        if let Some(group) = group {
            match gather(shared, &group, &mut keys) {
                Err(error @ LogError::Damaged { .. }) => {
                    tracing::error!(%error, "what the store has of orders that are gone can't be told, and stays");
                }
                done => done?,
            }
            keys.remove(shared, false)?;
            self.work = Work::Sweeping(Sweeping { index, at: group.end(), last: group.sequence(), keys });
            return Ok(true);
        }
        keys.remove(shared, true)?;
        shared.journal.segments().remove(index)?;
        tracing::info!(segment = segment_name(index), "a segment of the journal is deleted");
        Ok(true)
    }
}

/// The newest checkpoint that has anything of an order, or why it stays.
fn judge(shared: &Shared, id: OrderId, last: u32) -> Result<Result<u32, Held>, LogError> {
    let (mut newest, mut row) = (0, Vec::new());
    shared.store.scan(Table::Rows, &id.0.to_be_bytes(), &mut |key, deltas| {
        let number = key.get(16..).and_then(|number| number.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes);
        newest = newest.max(number);
        row.extend_from_slice(deltas);
    })?;
    if row.is_empty() {
        return Ok(Err(Held::Unknown));
    }
    if !is_over(&row) {
        return Ok(Err(Held::Undecided));
    }
    Ok(if newest > last { Err(Held::Recent) } else { Ok(newest) })
}

/// True if the order is decided and every carrier has answered, about voids and returns, too: then no outbox has anything
/// of it that is still to be sent.
fn is_over(row: &[u8]) -> bool {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for delta in row_deltas(0, row) {
        match delta {
            Ok((_, Delta::Requested(requested))) => asked.push((requested.parcel, requested.attempt)),
            Ok((_, Delta::Settled { parcel, attempt, .. })) => answered.push((parcel, attempt)),
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    class_of(row) != Class::InFlight && asked.iter().all(|attempt| answered.contains(attempt))
}

/// The orders that were placed in `group`, each with its record; as the store has their rows, so that reading those goes along.
fn orders_of(group: &Group) -> Result<Vec<(OrderId, &[u8])>, LogError> {
    let read = || -> Result<_, CodecError> {
        let mut orders = Vec::new();
        for frame in format::frames(group.payload()) {
            let Some(section) = frame?.orders() else { continue };
            for item in format::orders(section.body) {
                let (_, record) = item?;
                orders.push((OrderId(peek_id(record)?), record));
            }
        }
        orders.sort_unstable_by_key(|order| order.0);
        Ok(orders)
    };
    read().map_err(|error| LogError::Damaged {
        file: "the journal".into(),
        offset: group.position,
        what: format!("a group's checksum fits, but {error}"),
    })
}

/// What the store has of the orders that were placed in `group`.
fn gather(shared: &Shared, group: &Group, all: &mut Keys) -> Result<(), LogError> {
    for (id, record) in orders_of(group)? {
        let (mut keys, mut deltas) = (Vec::new(), Vec::new());
        shared.store.scan(Table::Rows, &id.0.to_be_bytes(), &mut |key, part| {
            keys.push(key.to_vec());
            deltas.extend_from_slice(part);
        })?;
        // What was cut off here may have been taken again later.
        if position_of(&deltas).is_some_and(|position| !shared.horizon.is_gone(position)) {
            continue;
        }
        let customer = peek_customer(record).ok().map(|customer| shared.keys.customer(customer));
        let others = shared.keys.of_deltas(&deltas);
        all.found_by.extend(customer.into_iter().chain(others).map(|key| stored_key(day_of(id), key, id).to_vec()));
        all.rows.append(&mut keys);
    }
    Ok(())
}
