//! The segmented journal: many owners append, one writer makes a group of what they appended durable at a time.
//!
//! The group that is open, the one in flight and the youngest durable ones are kept in memory, so that duplicates,
//! reads and outboxes that keep up never touch the device.

mod config;
pub mod format;
pub mod recovery;
mod segments;
mod writer;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::Waker,
};

use parking_lot::{Condvar, Mutex};
use sluice_pipeline::{BLOCK, Clock, Disk, LogError};

use crate::{buffer::AlignedBuf, intake::Acks, pump::Pump};
pub use config::JournalConfig;
use format::{GROUP_HEAD, GroupHead};
pub(crate) use segments::segment_index;
pub use segments::{Segments, segment_name};
pub use writer::WriterStep;
pub(crate) use writer::seconds;

/// A closed group: head, payload, zeros to the end of the block.
#[derive(Debug)]
pub struct Group {
    /// Where it starts in the log.
    pub position: u64,
    /// Bytes of payload.
    pub payload: usize,
    buf: AlignedBuf,
}

impl Group {
    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.buf.as_slice()[GROUP_HEAD..GROUP_HEAD + self.payload]
    }

    /// Its number.
    pub(crate) fn sequence(&self) -> u64 {
        GroupHead::from_bytes(self.buf.as_slice()).map_or(0, |head| head.sequence)
    }

    /// When it was closed, s since the Unix epoch; 0 if that isn't known.
    pub(crate) fn time_s(&self) -> u32 {
        GroupHead::from_bytes(self.buf.as_slice()).map_or(0, |head| head.time_s)
    }

    /// The zeros between the payload and the end of its last block.
    pub(crate) fn padding(&self) -> &[u8] {
        &self.buf.as_slice()[GROUP_HEAD + self.payload..]
    }

    /// Where the payload starts in the log.
    pub fn payload_position(&self) -> u64 {
        self.position + GROUP_HEAD as u64
    }

    /// Where the next group may start at the earliest.
    pub fn end(&self) -> u64 {
        self.position + self.buf.len() as u64
    }
}

/// Bytes that a group with so much payload takes on the device.
pub(crate) fn group_len(payload: u32) -> u64 {
    (GROUP_HEAD as u64 + u64::from(payload)).next_multiple_of(BLOCK as u64)
}

/// Something to do once a group is durable.
#[derive(Debug)]
pub enum Completion {
    /// Answer checkout.
    Acks(Arc<Pump>, Acks),
    /// A carrier's entries up to this position may be sent.
    Sending(Arc<std::sync::atomic::AtomicU64>, u64),
}

#[derive(Debug, Default)]
struct Open {
    position: u64,
    buf: AlignedBuf,
    crc: u32,
    completions: Vec<Completion>,
}

#[derive(Debug)]
struct State {
    open: Open,
    in_flight: Option<Arc<Group>>,
    sequence: u64,
    /// When the last group was closed, s since the Unix epoch.
    time_s: u32,
    durable: u64,
    tail: VecDeque<Arc<Group>>,
    tail_bytes: usize,
    pool: Vec<AlignedBuf>,
    wakers: Vec<Waker>,
    /// Segments that exist, by index: `..prepared`.
    prepared: u64,
    full: Option<String>,
    failed: Option<String>,
    sealed: bool,
    closed: bool,
    written_bytes: u64,
    #[cfg(test)]
    pretend_full: bool,
}

/// How a journal stands, for whoever asks once a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It takes orders.
    Sound = 0,
    /// No segment can be created.
    Full = 1,
    /// The device has failed.
    Failed = 2,
}

/// See the module.
pub struct Journal {
    /// A [`Standing`], readable without the lock.
    standing: AtomicU8,
    config: JournalConfig,
    id: u64,
    clock: Arc<dyn Clock>,
    segments: Segments,
    state: Mutex<State>,
    /// Signals the writer: something to write.
    work: Condvar,
    /// Signals owners and waiters: a group became durable.
    progress: Condvar,
}

/// Why bytes were not appended.
#[derive(Debug, PartialEq, Eq)]
pub enum AppendError {
    /// No segment has room; the text says why none could be made.
    Full(String),
    /// The journal failed or is closed.
    Closed,
}

impl Journal {
    /// A journal that continues where `end` says.
    pub fn new(disk: Arc<dyn Disk>, config: JournalConfig, id: u64, end: recovery::End, clock: Arc<dyn Clock>) -> Self {
        let segments = Segments::new(disk, config.segment_bytes);
        let state = State {
            open: Open { position: 0, ..Open::default() },
            in_flight: None,
            sequence: end.sequence,
            time_s: end.time_s,
            durable: end.position,
            tail: VecDeque::new(),
            tail_bytes: 0,
            pool: Vec::new(),
            wakers: Vec::new(),
            prepared: end.prepared,
            full: None,
            failed: None,
            sealed: end.sealed,
            closed: false,
            written_bytes: 0,
            #[cfg(test)]
            pretend_full: false,
        };
        let journal = Self {
            standing: AtomicU8::new(Standing::Sound as u8),
            config,
            id,
            clock,
            segments,
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
        };
        journal.start_group(&mut journal.state.lock(), end.position);
        journal
    }

    /// Takes the head of a torn group away if no group will overwrite it: with other sizes than those of the run before,
    /// the log may go on in the next segment, and readers would stumble over what is left here.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub(crate) fn erase_torn(&self, end: recovery::End) -> Result<(), LogError> {
        if let Some(torn) = end.torn_at
            && self.state.lock().open.position != torn
        {
            let mut zeros = AlignedBuf::with_capacity(BLOCK);
            zeros.resize(BLOCK);
            self.segments.write(torn, zeros.as_slice())?;
            self.segments.sync(torn)?;
        }
        Ok(())
    }

    fn start_group(&self, state: &mut State, after: u64) {
        let segment = self.config.segment_bytes;
        let room = segment - after % segment;
        let position = if room < self.config.group_limit() && !after.is_multiple_of(segment) {
            (after / segment + 1) * segment
        } else {
            after
        };
        let mut buf = state.pool.pop().unwrap_or_else(|| AlignedBuf::with_capacity(64 << 10));
        buf.clear();
        buf.resize(GROUP_HEAD);
        state.open = Open { position, buf, crc: 0, completions: Vec::new() };
    }

    /// Appends a frame to the open group; gives the position of its first byte. `reserve` bytes of the segments that
    /// exist are left untouched (new orders leave room for the outcomes of those already taken).
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended then.
    pub fn append(&self, frame: &[u8], reserve: u64) -> Result<u64, AppendError> {
        self.append_inner(frame, reserve, None)
    }

    /// As [`Journal::append`], and runs `completion` once the frame is durable: before anybody is told that it is.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended then, and `completion` is dropped.
    pub fn append_then(&self, frame: &[u8], completion: Completion) -> Result<u64, AppendError> {
        self.append_inner(frame, 0, Some(completion))
    }

    fn append_inner(&self, frame: &[u8], reserve: u64, then: Option<Completion>) -> Result<u64, AppendError> {
        let mut state = self.state.lock();
        if state.failed.is_some() || state.closed {
            return Err(AppendError::Closed);
        }
        #[cfg(test)]
        if state.pretend_full {
            return Err(AppendError::Full("by a test".into()));
        }
        let len = state.open.buf.len() + frame.len();
        if len > self.group_room() {
            self.work.notify_one();
            return Err(AppendError::Full("the open group has no room for a frame of this length".into()));
        }
        let end = state.open.position + len.next_multiple_of(BLOCK) as u64;
        if end + reserve > state.prepared * self.config.segment_bytes {
            let why = state.full.clone().unwrap_or_else(|| "the next segment is being prepared".into());
            self.work.notify_one();
            return Err(AppendError::Full(why));
        }
        let at = state.open.position + state.open.buf.len() as u64;
        state.open.buf.extend(frame);
        state.open.crc = crc32c::crc32c_append(state.open.crc, frame);
        state.open.completions.extend(then);
        drop(state);
        self.work.notify_one();
        Ok(at)
    }

    /// Bytes up to which a group may grow, its head included: it has to fit the rest of its segment.
    fn group_room(&self) -> usize {
        GROUP_HEAD + self.config.group_bytes + self.config.frame_bytes
    }

    /// Refuses everything for want of room, or no longer.
    #[cfg(test)]
    pub(crate) fn pretend_full(&self, full: bool) {
        self.state.lock().pretend_full = full;
    }

    /// Room that new orders leave for the outcomes of those already taken, bytes.
    pub fn order_reserve(&self) -> u64 {
        2 * self.config.group_limit()
    }

    /// Runs `completion` once everything appended so far is durable; gives it back if it already is.
    pub fn after_appended(&self, completion: Completion) -> Option<Completion> {
        let mut state = self.state.lock();
        if state.open.buf.len() == GROUP_HEAD && state.in_flight.is_none() {
            return Some(completion);
        }
        state.open.completions.push(completion);
        drop(state);
        self.work.notify_one();
        None
    }

    /// True if an owner should wait before committing more.
    pub fn is_backed_up(&self) -> bool {
        let state = self.state.lock();
        state.open.buf.len() >= self.config.group_bytes
    }

    /// Waits until the open group has room again, or the journal ended.
    pub fn wait_for_room(&self) {
        self.wait_while(|len| len >= self.config.group_bytes);
    }

    /// Waits until the open group has room for a frame of `len` bytes, or the journal ended.
    pub fn wait_for_frame(&self, len: usize) {
        self.wait_while(|open| open > GROUP_HEAD && open + len > self.group_room());
    }

    fn wait_while(&self, crowded: impl Fn(usize) -> bool) {
        let mut state = self.state.lock();
        while crowded(state.open.buf.len()) && state.failed.is_none() && !state.closed {
            self.progress.wait(&mut state);
        }
    }

    /// Everything below this position is durable.
    pub fn durable(&self) -> u64 {
        self.state.lock().durable
    }

    /// The end of everything appended.
    pub fn appended(&self) -> u64 {
        let state = self.state.lock();
        let open = if state.open.buf.len() > GROUP_HEAD { state.open.buf.len() } else { 0 };
        state.open.position + open as u64
    }

    /// Start and number of the open group, and the end of everything appended.
    pub fn here(&self) -> ((u64, u64), u64) {
        let state = self.state.lock();
        ((state.open.position, state.sequence), state.open.position + state.open.buf.len() as u64)
    }

    /// True once everything appended below `position` is durable.
    pub fn is_durable(&self, position: u64) -> bool {
        let state = self.state.lock();
        let open = if state.open.buf.len() > GROUP_HEAD { state.open.position } else { u64::MAX };
        state.durable >= position || (state.in_flight.is_none() && open >= position)
    }

    /// True once everything appended below `position` is durable; else `waker` is called when that may have changed.
    ///
    /// # Errors
    /// [`LogError::Closed`] if it will never be.
    pub fn poll_durable(&self, position: u64, waker: &Waker) -> Result<bool, LogError> {
        let mut state = self.state.lock();
        // An open group without frames has nothing to wait for, wherever it starts.
        let pending = if state.open.buf.len() > GROUP_HEAD { state.open.position } else { u64::MAX };
        if state.durable >= position || (state.in_flight.is_none() && pending >= position) {
            return Ok(true);
        }
        if state.failed.is_some() {
            return Err(LogError::Closed);
        }
        state.wakers.push(waker.clone());
        Ok(false)
    }

    /// Calls `waker` when the next group becomes durable.
    pub fn wake_on_progress(&self, waker: &Waker) {
        let mut state = self.state.lock();
        if !state.wakers.iter().any(|w| w.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
    }

    /// How the journal stands; no lock.
    pub fn standing(&self) -> Standing {
        match self.standing.load(Relaxed) {
            0 => Standing::Sound,
            1 => Standing::Full,
            _ => Standing::Failed,
        }
    }

    /// Why the journal takes nothing, if so.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.lock();
        state.failed.clone().or_else(|| state.full.clone())
    }

    /// Bytes written to segments so far, heads and padding included.
    pub fn written_bytes(&self) -> u64 {
        self.state.lock().written_bytes
    }

    /// No frame is taken from now on; what was appended is still written.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// The durable group that starts at or follows `position`, from memory or device; `None` if there is none yet. It is
    /// the one behind group number `last`, unless that is 0; then `position` must be where a group ends or a segment starts.
    ///
    /// # Errors
    /// [`LogError`] if the device fails, the group is damaged, or `position` is no such place.
    pub fn group_from(&self, position: u64, last: u64) -> Result<Option<Arc<Group>>, LogError> {
        let end = {
            let state = self.state.lock();
            let durable_number = state.sequence - 1 - u64::from(state.in_flight.is_some());
            if position >= state.durable || last >= durable_number {
                return Ok(None);
            }
            if state.tail.front().is_some_and(|first| first.position <= position) {
                let at = state.tail.partition_point(|g| g.end() <= position);
                return Ok(state.tail.get(at).cloned());
            }
            state.durable
        };
        let expected = (last > 0).then_some(last + 1);
        self.segments.read_group(position, expected, end, self.id, self.config.verify).map(Some)
    }

    /// True if a group starts at `position`, or would have if there had been room, whether it can be read or not.
    ///
    /// # Errors
    /// [`LogError`] if the device fails.
    pub(crate) fn is_between_groups(&self, position: u64) -> Result<bool, LogError> {
        Ok(self.segments.ends_at(position, self.id)?.is_some())
    }

    /// The files.
    pub(crate) fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The group that starts at `position`, from the device; `None` if none does.
    ///
    /// # Errors
    /// [`LogError`] if the device fails or the group is damaged.
    pub(crate) fn whole_group(&self, position: u64) -> Result<Option<Group>, LogError> {
        let head = self.segments.head(position, self.id)?;
        head.map(|head| self.segments.read_whole(position, head, self.config.verify)).transpose()
    }

    /// Where the segments that exist end.
    pub(crate) fn prepared(&self) -> u64 {
        self.state.lock().prepared * self.config.segment_bytes
    }

    /// Where the first durable group from `begin` on, where a segment begins, starts, or might have, that was closed at `at_s` (s
    /// since the Unix epoch) or later; the end if there is none. `begin` if groups before it don't say when they were. Reads heads:
    /// one of some segments, then those of one.
    ///
    /// # Errors
    /// [`LogError`] if the device fails, or a head is damaged.
    pub(crate) fn first_since(&self, at_s: u32, begin: u64) -> Result<u64, LogError> {
        self.segments.first_since(at_s, (begin, self.durable()), self.id)
    }

    /// True if somebody waits for the next group.
    #[cfg(test)]
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.state.lock().wakers.is_empty()
    }

    /// True if what stands at `position` is in memory.
    pub(crate) fn remembers(&self, position: u64) -> bool {
        self.state.lock().tail.front().is_some_and(|first| first.position <= position)
    }

    /// Appends the order record at `position` to `out`.
    ///
    /// # Errors
    /// [`LogError`] if there is none, or the device fails.
    pub fn order_at(&self, position: u64, out: &mut Vec<u8>) -> Result<(), LogError> {
        let group = {
            let state = self.state.lock();
            if position >= state.open.position {
                let offset = (position - state.open.position) as usize;
                return copy_order(state.open.buf.as_slice(), offset, position, out);
            }
            let in_flight = state.in_flight.iter().find(|g| g.position <= position);
            in_flight.cloned().or_else(|| {
                let first = state.tail.front().filter(|first| first.position <= position)?;
                let at = state.tail.partition_point(|g| g.end() <= position);
                Some(Arc::clone(state.tail.get(at).unwrap_or(first)))
            })
        };
        match group {
            // A position between two groups is nobody's; the subtraction then gives an offset that no group has.
            Some(group) => {
                let offset = position.wrapping_sub(group.position) as usize;
                copy_order(group.buf.as_slice(), offset, position, out)
            }
            None => self.segments.read_order(position, out),
        }
    }
}

fn copy_order(bytes: &[u8], offset: usize, position: u64, out: &mut Vec<u8>) -> Result<(), LogError> {
    match format::order_at(bytes, offset) {
        Ok(record) => {
            out.extend_from_slice(record);
            Ok(())
        }
        Err(error) => Err(LogError::Damaged {
            file: "the open group".into(),
            offset: position,
            what: format!("no order record: {error}"),
        }),
    }
}

impl Completion {
    /// Does it.
    pub fn run(self) {
        self.raise();
        if let Completion::Acks(pump, acks) = self {
            pump.send(acks);
        }
    }

    fn raise(&self) {
        if let Completion::Sending(mark, position) = self {
            mark.fetch_max(*position, std::sync::atomic::Ordering::AcqRel);
        }
    }
}
