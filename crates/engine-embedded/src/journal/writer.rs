//! The writer's side of the journal: one thread, or a simulator's steps.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, task::Waker, time::Duration};

use sluice_pipeline::{BLOCK, LogError};

use super::{
    Completion, Group, Journal, Standing, State,
    format::{GROUP_HEAD, GroupHead},
};

/// What the writer can do next.
#[derive(Debug)]
pub enum WriterStep {
    /// A group was closed: write it, then sync, then complete.
    Write(Arc<Group>, Vec<Completion>),
    /// Nothing to do.
    Idle,
    /// Everything is written and the journal is closed.
    Done,
}

/// The writer's side; one thread, or a simulator's steps.
impl Journal {
    /// Closes the open group, if it has frames or `seal` asks for an empty one behind the last.
    pub fn begin(&self, seal: bool) -> WriterStep {
        let mut state = self.state.lock();
        let empty = state.open.buf.len() == GROUP_HEAD;
        let fits = state.open.position + self.config.group_limit() <= state.prepared * self.config.segment_bytes;
        if state.failed.is_some() || (empty && state.closed && (state.sealed || !fits)) {
            return WriterStep::Done;
        }
        if empty && (state.sealed || !fits || !(seal || state.closed)) {
            return WriterStep::Idle;
        }
        let next = state.open.position + state.open.buf.len().next_multiple_of(BLOCK) as u64;
        let mut open = std::mem::take(&mut state.open);
        self.start_group(&mut state, next);
        let payload = open.buf.len() - GROUP_HEAD;
        // A clock that is put back doesn't put groups back.
        state.time_s = state.time_s.max(seconds(self.clock.now_ms()));
        let head = GroupHead {
            crc: 0,
            journal: self.id,
            sequence: state.sequence,
            position: open.position,
            payload: payload as u32,
            time_s: state.time_s,
        };
        let head_crc = crc32c::crc32c(&head.to_bytes()[8..]);
        let head = GroupHead { crc: crc32c::crc32c_combine(head_crc, open.crc, payload), ..head };
        open.buf.as_mut_slice()[..GROUP_HEAD].copy_from_slice(&head.to_bytes());
        open.buf.pad_to_block();
        state.sequence += 1;
        state.sealed = empty;
        let group = Arc::new(Group { position: open.position, payload, buf: open.buf });
        state.in_flight = Some(Arc::clone(&group));
        drop(state);
        self.progress.notify_all();
        WriterStep::Write(group, open.completions)
    }

    /// Waits until there is something to write, up to `timeout`; false if nothing came.
    pub fn wait_for_work(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        if state.open.buf.len() == GROUP_HEAD && !state.closed {
            return !self.work.wait_for(&mut state, timeout).timed_out();
        }
        true
    }

    /// Writes a closed group. Not durable before [`Journal::sync`].
    ///
    /// # Errors
    /// [`LogError`]: the journal has failed for good.
    pub fn write(&self, group: &Group) -> Result<(), LogError> {
        let result = self.segments.write(group.position, group.buf.as_slice());
        self.note_failure(result)
    }

    /// Makes a written group durable. A failure is never retried: the kernel may have dropped the pages.
    ///
    /// # Errors
    /// [`LogError`]: the journal has failed for good.
    pub fn sync(&self, group: &Group) -> Result<(), LogError> {
        let result = self.segments.sync(group.position);
        self.note_failure(result)
    }

    fn note_failure(&self, result: Result<(), LogError>) -> Result<(), LogError> {
        if let Err(error) = &result {
            let mut state = self.state.lock();
            state.failed = Some(error.to_string());
            self.standing.store(Standing::Failed as u8, Relaxed);
            let wakers = std::mem::take(&mut state.wakers);
            drop(state);
            self.progress.notify_all();
            wakers.into_iter().for_each(Waker::wake);
        }
        result
    }

    /// Says that `group` is durable: answers go out, outboxes and readers are woken.
    pub fn complete(&self, group: Arc<Group>, mut completions: Vec<Completion>) {
        // Marks first: whoever sees that the group is durable also sees the marks it made durable.
        completions.iter().for_each(Completion::raise);
        let mut state = self.state.lock();
        if state.open.buf.len() == GROUP_HEAD {
            // What waits in a group without frames waits for this one alone.
            completions.append(&mut state.open.completions);
        }
        state.durable = group.end();
        state.in_flight = None;
        state.written_bytes += group.buf.len() as u64;
        state.tail_bytes += group.buf.len();
        state.tail.push_back(group);
        while state.tail_bytes > self.config.tail_bytes && state.tail.len() > 1 {
            let Some(old) = state.tail.pop_front() else { break };
            state.tail_bytes -= old.buf.len();
            if state.pool.len() < 4
                && let Ok(group) = Arc::try_unwrap(old)
            {
                state.pool.push(group.buf);
            }
        }
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.progress.notify_all();
        for completion in completions {
            completion.run();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    fn wants_segment(&self, state: &State) -> bool {
        let left = state.prepared * self.config.segment_bytes
            - state.open.position.min(state.prepared * self.config.segment_bytes);
        left < self.config.segment_bytes + self.config.group_limit()
    }

    /// Creates the next segment if the log is about to need it.
    ///
    /// # Errors
    /// [`LogError`] for anything but a full disk; that is kept as a reason to refuse orders, and tried again.
    pub fn prepare(&self) -> Result<(), LogError> {
        let index = {
            let state = self.state.lock();
            if !self.wants_segment(&state) {
                return Ok(());
            }
            state.prepared
        };
        match self.segments.create(index) {
            Ok(()) => {
                let mut state = self.state.lock();
                state.prepared = index + 1;
                state.full = None;
                self.standing.store(Standing::Sound as u8, Relaxed);
                Ok(())
            }
            Err(LogError::Io { what, source }) if is_full(&source) => {
                let mut state = self.state.lock();
                if state.full.is_none() {
                    tracing::error!(what, "disk full: new orders are refused until there is room");
                }
                state.full = Some(format!("disk full: {what}"));
                self.standing.store(Standing::Full as u8, Relaxed);
                Ok(())
            }
            Err(error) => self.note_failure(Err(error)),
        }
    }
}

/// Whole seconds of a time in ms, which last until 2106.
pub(crate) fn seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1_000).unwrap_or(u32::MAX)
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
