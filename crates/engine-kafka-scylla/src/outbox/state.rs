//! What a carrier's outbox knows, without any broker: what waits, what was handed out under which position, what of it is
//! settled, and what is therefore to be committed.

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
    time::{Duration, Instant},
};

use sluice_domain::{Group, OrderId, ShipmentId};
use sluice_pipeline::{OutboxBatch, OutboxEntry};
use sluice_schemas::{CodecError, frame};

use super::mark::{At, Mark};

/// Slices that are remembered one by one. One shipment that stays open for hours lets them pile up behind it: then the
/// older half is remembered by its end alone.
const SLICES: usize = 64 << 10;
/// Pause before a commit that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// A frame, read.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub partition: i32,
    pub offset: i64,
    /// Until they are handed out, entries have their number in the frame for a position.
    pub batch: OutboxBatch,
    /// Entries before it are handed out or settled.
    next: usize,
}

impl Frame {
    /// Reads the frame `payload`, and says at which entries it is damaged. An entry without an order is left out, one
    /// that is cut short ends the frame.
    pub(super) fn read(partition: i32, offset: i64, payload: &[u8]) -> (Self, Vec<(u32, CodecError)>) {
        let mut read = Self { partition, offset, ..Self::default() };
        let mut damage = Vec::new();
        let entries = match frame::shipments(payload) {
            Ok((_, entries)) => entries,
            Err(error) => return (read, vec![(0, error)]),
        };
        let batch = &mut read.batch;
        for (number, shipment) in (0..).zip(entries) {
            match shipment.and_then(|s| s.order().map(|order| (s, OrderId(order)))) {
                Ok((s, order)) => {
                    let record = batch.bytes.len();
                    batch.bytes.extend_from_slice(s.record);
                    let items = batch.bytes.len();
                    s.items.encode_again(&mut batch.bytes);
                    batch.entries.push(OutboxEntry {
                        position: u64::from(number),
                        shipment: ShipmentId { order, parcel: s.parcel, attempt: s.attempt },
                        group: Group::from_code(s.handling).unwrap_or(Group::Ambient),
                        weight: s.weight,
                        maybe_sent: false,
                        record: record..items,
                        items: items..batch.bytes.len(),
                    });
                }
                Err(error) => damage.push((number, error)),
            }
        }
        (read, damage)
    }

    fn bytes(&self) -> usize {
        self.batch.bytes.len() + self.batch.entries.len() * size_of::<OutboxEntry>() + size_of::<Self>()
    }
}

/// Entries of one frame that were handed out with positions in a row.
#[derive(Debug, Clone, Copy)]
struct Slice {
    /// Local positions; `first = last + 1` if there are none, for a frame that has nothing to hand out.
    first: u64,
    last: u64,
    partition: i32,
    offset: i64,
    /// Number in the frame after its last entry.
    end: u32,
    /// Whether the frame ends with it.
    closes: bool,
}

impl Slice {
    fn done(&self) -> At {
        if self.closes { (self.offset + 1, 0) } else { (self.offset, self.end) }
    }
}

/// A partition that is ours.
#[derive(Debug, Default)]
struct Part {
    /// Everything before it is settled, and the outcomes are durable. Unknown until the group has committed something or
    /// the first frame is here.
    done: Option<At>,
    /// Entries up to it may have been sent: what is durable of it.
    sending: Option<At>,
    /// What the group has committed.
    committed: Option<(At, Option<At>)>,
    /// Frames were taken from it since it was last put where `done` is.
    touched: bool,
    /// It is to be put back where `done` is; frames until then don't count.
    back: bool,
    /// Unknown until it was paused or resumed.
    paused: Option<bool>,
}

/// One partition of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    pub partition: i32,
    pub done: At,
    sending: Option<At>,
}

impl Planned {
    pub(super) fn text(&self) -> String {
        Mark { settled: self.done.1, sending: self.sending }.text()
    }
}

#[derive(Debug)]
struct InFlight {
    planned: Vec<Planned>,
    /// The position whose mark it makes durable, and in which generation.
    mark: u64,
    generation: u64,
}

/// How far the outbox made last is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody reads.
    Idle,
    /// Made, but partitions are not yet back where it starts.
    Starting(Instant),
    /// It is read.
    Open,
    /// Partitions were taken away: its reader shall stop.
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub generation: u64,
    pub phase: Phase,
    parts: BTreeMap<i32, Part>,
    /// How far partitions that went are settled: that stays true, also when a session was lost before it was committed.
    gone: BTreeMap<i32, At>,
    queue: VecDeque<Frame>,
    pub buffered: usize,
    /// Ascending by position, and by place within each partition.
    slices: VecDeque<Slice>,
    /// Handed out last; positions start at 1.
    handed: u64,
    /// Settled positions, and how many outcomes must be durable before they count.
    settlements: VecDeque<(u64, u64)>,
    /// Settled for good up to here.
    durable: u64,
    mark_wanted: u64,
    pub mark: u64,
    in_flight: Option<InFlight>,
    again: Option<Instant>,
    pub waker: Option<Waker>,
    /// The reader was told that there is nothing now.
    pub waiting: bool,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            generation: 0,
            phase: Phase::Idle,
            parts: BTreeMap::new(),
            gone: BTreeMap::new(),
            queue: VecDeque::new(),
            buffered: 0,
            slices: VecDeque::new(),
            handed: 0,
            settlements: VecDeque::new(),
            durable: 0,
            mark_wanted: 0,
            mark: 0,
            in_flight: None,
            again: None,
            waker: None,
            waiting: false,
        }
    }

    // ------------------------------------------------------------------------------------------------ the assignment

    /// A partition is ours, from `done` on.
    pub(super) fn assigned(&mut self, partition: i32, done: Option<i64>, mark: Mark) {
        let done = done.map(|offset| (offset, mark.settled));
        let committed = done.map(|done| (done, mark.sending));
        let done = done.max(self.gone.remove(&partition));
        self.parts.insert(partition, Part { done, sending: mark.sending, committed, ..Part::default() });
    }

    /// Where to read a partition from.
    pub(super) fn start_of(&self, partition: i32) -> Option<i64> {
        self.parts.get(&partition)?.done.map(|(offset, _)| offset)
    }

    /// A partition isn't ours any more.
    pub(super) fn revoked(&mut self, partition: i32) {
        if let Some(done) = self.parts.remove(&partition).and_then(|part| part.done) {
            self.gone.insert(partition, done);
        }
    }

    /// Whether anything is ours.
    pub(super) fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Nothing is ours any more.
    pub(super) fn lost(&mut self) {
        for partition in self.parts.keys().copied().collect::<Vec<_>>() {
            self.revoked(partition);
        }
        self.in_flight = None;
        self.again = None;
        self.close();
    }

    /// Tells the reader to stop.
    pub(super) fn close(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closed;
            self.queue.clear();
            self.buffered = 0;
        }
        self.wake();
    }

    /// Nothing that was handed out can settle any more.
    pub(super) fn quiet(&self) -> bool {
        self.settlements.is_empty()
            && (self.slices.is_empty() || matches!(self.phase, Phase::Idle | Phase::Starting(_)))
    }

    /// Forgets what the last reader got, and starts positions anew. Partitions that it got frames of are to be put back.
    pub(super) fn begin(&mut self) {
        self.queue.clear();
        self.buffered = 0;
        self.slices.clear();
        self.settlements.clear();
        (self.handed, self.durable, self.mark, self.mark_wanted) = (0, 0, 0, 0);
        for part in self.parts.values_mut() {
            part.back |= part.touched;
        }
        self.phase = Phase::Open;
    }

    /// Partitions that are to be put back, and to which offset.
    pub(super) fn to_seek(&self) -> Vec<(i32, i64)> {
        let back = self.parts.iter().filter(|(_, part)| part.back);
        back.filter_map(|(&partition, part)| Some((partition, part.done?.0))).collect()
    }

    pub(super) fn sought(&mut self, partition: i32) {
        if let Some(part) = self.parts.get_mut(&partition) {
            (part.back, part.touched) = (false, false);
        }
    }

    /// Partitions that are to be paused, or resumed, and are not.
    pub(super) fn to_pause(&self, pause: bool) -> Vec<i32> {
        self.parts.iter().filter(|(_, part)| part.paused != Some(pause)).map(|(&partition, _)| partition).collect()
    }

    pub(super) fn paused(&mut self, partition: i32, paused: bool) {
        if let Some(part) = self.parts.get_mut(&partition) {
            part.paused = Some(paused);
        }
    }

    // --------------------------------------------------------------------------------------------------- frames

    /// Takes a frame in; false if it doesn't count.
    pub(super) fn push(&mut self, mut frame: Frame) -> bool {
        let Some(part) = self.parts.get_mut(&frame.partition) else { return false };
        part.touched = true;
        let done = part.done.unwrap_or((frame.offset, 0));
        if part.done.is_none() {
            // That it starts at the start needs no commit.
            (part.done, part.committed) = (Some(done), Some((done, None)));
        }
        if part.back || self.phase != Phase::Open || frame.offset < done.0 {
            return false;
        }
        if frame.offset == done.0 {
            frame.next = frame.batch.entries.partition_point(|e| e.position < u64::from(done.1));
        }
        self.buffered += frame.bytes();
        self.queue.push_back(frame);
        true
    }

    /// Hands out up to `max` entries.
    pub(super) fn take(&mut self, max: usize, out: &mut OutboxBatch) -> usize {
        let mut taken = 0;
        while taken < max {
            let Some(mut frame) = self.queue.pop_front() else { break };
            let bytes = frame.bytes();
            let until = frame.batch.entries.len().min(frame.next + max - taken);
            taken += until - frame.next;
            self.hand_out(&mut frame, until, out);
            if until < frame.batch.entries.len() {
                self.queue.push_front(frame);
            } else {
                self.buffered -= bytes;
            }
        }
        if self.slices.len() > SLICES {
            self.merge(SLICES / 2);
        }
        taken
    }

    fn hand_out(&mut self, frame: &mut Frame, until: usize, out: &mut OutboxBatch) {
        let Frame { partition, offset, ref batch, next } = *frame;
        let ends = until == batch.entries.len();
        let entries = &batch.entries[next..until];
        frame.next = until;
        let (Some(head), Some(tail)) = (entries.first(), entries.last()) else {
            return self.nothing(partition, offset);
        };
        // Entries lie one behind the other.
        let (base, start) = (out.bytes.len(), head.record.start);
        out.bytes.extend_from_slice(&batch.bytes[start..tail.items.end]);
        let sending = self.parts.get(&partition).and_then(|part| part.sending);
        for (i, entry) in entries.iter().enumerate() {
            let number = entry.position as u32;
            self.handed += 1;
            match self.slices.back_mut() {
                Some(slice) if i > 0 && slice.end == number => (slice.last, slice.end) = (self.handed, number + 1),
                _ => self.slices.push_back(Slice {
                    first: self.handed,
                    last: self.handed,
                    partition,
                    offset,
                    end: number + 1,
                    closes: false,
                }),
            }
            out.entries.push(OutboxEntry {
                position: self.handed,
                maybe_sent: sending.is_some_and(|at| (offset, number) <= at),
                record: entry.record.start - start + base..entry.record.end - start + base,
                items: entry.items.start - start + base..entry.items.end - start + base,
                ..entry.clone()
            });
        }
        if ends && let Some(slice) = self.slices.back_mut() {
            slice.closes = true;
        }
    }

    /// A frame had nothing to hand out: it is settled once everything before it is.
    fn nothing(&mut self, partition: i32, offset: i64) {
        let (first, last) = (self.handed + 1, self.handed);
        match self.slices.back_mut() {
            Some(slice) if slice.last == last && slice.first == first && slice.partition == partition => {
                slice.offset = offset;
            }
            _ => self.slices.push_back(Slice { first, last, partition, offset, end: 0, closes: true }),
        }
        self.settle_slices();
    }

    /// Remembers of the oldest `count` slices only where each partition is once all of them are settled.
    fn merge(&mut self, count: usize) {
        let Some(last) = self.slices.get(count - 1).map(|slice| slice.last) else { return };
        let ends: BTreeMap<i32, Slice> = self.slices.drain(..count).map(|slice| (slice.partition, slice)).collect();
        for slice in ends.into_values() {
            self.slices.push_front(Slice { first: last + 1, last, ..slice });
        }
    }

    // ------------------------------------------------------------------------------------------------ settling

    /// The reader has settled everything up to `position`, and `handed` outcomes were handed over by then.
    pub(super) fn settled(&mut self, position: u64, handed: u64) {
        let position = position.min(self.handed);
        match self.settlements.back_mut() {
            Some(last) if last.1 == handed => last.0 = last.0.max(position),
            _ => self.settlements.push_back((position, handed)),
        }
    }

    /// `durable` outcomes, counted from the first, are durable.
    pub(super) fn advance(&mut self, durable: u64) {
        let before = self.durable;
        while let Some(&(position, handed)) = self.settlements.front()
            && handed <= durable
        {
            self.settlements.pop_front();
            self.durable = self.durable.max(position);
        }
        if self.durable > before {
            self.settle_slices();
        }
    }

    fn settle_slices(&mut self) {
        while let Some(&slice) = self.slices.front() {
            let done = if slice.last <= self.durable {
                self.slices.pop_front();
                slice.done()
            } else if slice.first <= self.durable {
                (slice.offset, slice.end - (slice.last - self.durable) as u32)
            } else {
                return;
            };
            match self.parts.get_mut(&slice.partition) {
                Some(part) => part.done = part.done.max(Some(done)),
                None => {
                    let gone = self.gone.entry(slice.partition).or_insert(done);
                    *gone = done.max(*gone);
                }
            }
            if slice.last > self.durable {
                return;
            }
        }
    }

    /// Entries handed out whose outcomes are not durable.
    pub(super) fn unsettled(&self) -> u64 {
        self.handed - self.durable
    }

    // ------------------------------------------------------------------------------------------------ committing

    /// The reader wants to send everything up to `position`.
    pub(super) fn mark_sending(&mut self, position: u64) {
        self.mark_wanted = self.mark_wanted.max(position.min(self.handed));
    }

    /// Whether the reader waits for a mark.
    pub(super) fn mark_waits(&self) -> bool {
        self.phase == Phase::Open && self.mark_wanted > self.mark
    }

    /// What differs from what the group has committed.
    pub(super) fn changed(&self) -> Vec<Planned> {
        let wanted = if self.mark_waits() { self.wanted() } else { BTreeMap::new() };
        let changed = self.parts.iter().filter_map(|(&partition, part)| {
            let done = part.done?;
            let sending = part.sending.max(wanted.get(&partition).copied()).filter(|&at| at >= done);
            // A mark that lies behind says nothing any more, and needs no commit of its own to go.
            let old = part.committed.map(|(at, sending)| (at, sending.filter(|&at| at >= done)));
            (old != Some((done, sending))).then_some(Planned { partition, done, sending })
        });
        changed.collect()
    }

    /// What is to be committed now; it counts as under way from then on. One at a time.
    pub(super) fn plan(&mut self) -> Option<Vec<Planned>> {
        if self.committing() || self.again.is_some_and(|again| Instant::now() < again) {
            return None;
        }
        let planned = self.changed();
        if planned.is_empty() {
            if self.mark_waits() {
                self.raise(self.mark_wanted);
            }
            return None;
        }
        let (mark, generation) = (self.mark_wanted, self.generation);
        self.in_flight = Some(InFlight { planned: planned.clone(), mark, generation });
        Some(planned)
    }

    /// Whether a commit is under way.
    pub(super) fn committing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The last entry of each partition that the mark asked for covers.
    fn wanted(&self) -> BTreeMap<i32, At> {
        let from = self.slices.partition_point(|slice| slice.last <= self.mark);
        let mut wanted = BTreeMap::new();
        for slice in self.slices.range(from..) {
            let beyond = slice.last.saturating_sub(self.mark_wanted);
            if slice.first > self.mark_wanted && beyond > 0 {
                break;
            }
            wanted.insert(slice.partition, (slice.offset, slice.end.saturating_sub(1 + beyond as u32)));
        }
        wanted
    }

    fn raise(&mut self, mark: u64) {
        self.mark = self.mark.max(mark);
        self.wake();
    }

    /// What became of the commit under way.
    pub(super) fn committed(&mut self, ok: bool) {
        let Some(flight) = self.in_flight.take() else { return };
        if !ok {
            self.again = Some(Instant::now() + AGAIN);
            return;
        }
        self.again = None;
        for planned in &flight.planned {
            if let Some(part) = self.parts.get_mut(&planned.partition) {
                part.committed = Some((planned.done, planned.sending));
                part.sending = part.sending.max(planned.sending);
            }
        }
        if flight.generation == self.generation && self.phase == Phase::Open && flight.mark > self.mark {
            self.raise(flight.mark);
        }
    }

    pub(super) fn wake(&mut self) {
        self.waiting = false;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
