//! The journal's writer, one operation a step: make room, close a group, write it, sync it, say so. Between any two of
//! them anything else may happen.

use std::sync::Arc;

use sluice_engine_embedded::{
    Completion, WriterStep,
    journal::{Group, Journal},
};
use sluice_pipeline::LogError;

/// An idle journal seals its last group after this long, µs.
const SEAL_AFTER_US: u64 = 1_000_000;

#[derive(Debug)]
enum State {
    /// Nothing is under way; the next step looks whether a segment is needed.
    Idle,
    /// There is room as far as it can be made; the next step closes a group.
    Prepared,
    Begun(Arc<Group>, Vec<Completion>),
    Written(Arc<Group>, Vec<Completion>),
    Synced(Arc<Group>, Vec<Completion>),
    /// Only with the bug: answered before it is durable.
    Owed(Arc<Group>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    state: State,
    /// When the last group was closed, µs on the monotonic clock.
    last_us: u64,
    sealed: bool,
    /// The journal is closed and everything is written.
    done: bool,
    /// The bug: groups count as durable before they are synced.
    hasty: bool,
}

impl Writer {
    /// A writer with nothing under way.
    pub(super) fn new(now_us: u64, hasty: bool) -> Self {
        Self { state: State::Idle, last_us: now_us, sealed: true, done: false, hasty }
    }

    /// Does the next operation; says what, if anything.
    pub(super) fn step(&mut self, journal: &Journal, now_us: u64) -> Result<Option<&'static str>, LogError> {
        let did;
        (self.state, did) = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => {
                journal.prepare()?;
                (State::Prepared, None)
            }
            State::Prepared => self.begin(journal, now_us),
            State::Begun(group, completions) => {
                journal.write(&group)?;
                if self.hasty {
                    journal.complete(Arc::clone(&group), completions);
                    (State::Owed(group), Some("writes a group and says it is durable"))
                } else {
                    (State::Written(group, completions), Some("writes a group"))
                }
            }
            State::Written(group, completions) => {
                journal.sync(&group)?;
                (State::Synced(group, completions), Some("syncs a group"))
            }
            State::Synced(group, completions) => {
                journal.complete(group, completions);
                (State::Idle, Some("says that a group is durable"))
            }
            State::Owed(group) => {
                journal.sync(&group)?;
                (State::Idle, Some("syncs a group at last"))
            }
        };
        Ok(did)
    }

    fn begin(&mut self, journal: &Journal, now_us: u64) -> (State, Option<&'static str>) {
        let quiet = now_us.saturating_sub(self.last_us) >= SEAL_AFTER_US;
        let begun = match journal.begin(false) {
            WriterStep::Idle if quiet => {
                let step = journal.begin(true);
                // What can't be sealed now for want of room is tried again after the next group.
                self.sealed = true;
                step
            }
            WriterStep::Idle => return (State::Idle, None),
            step => {
                self.sealed = false;
                step
            }
        };
        match begun {
            WriterStep::Write(group, completions) => {
                self.last_us = now_us;
                (State::Begun(group, completions), Some(if self.sealed { "seals" } else { "closes a group" }))
            }
            WriterStep::Done => {
                self.done = true;
                (State::Idle, None)
            }
            WriterStep::Idle => (State::Idle, None),
        }
    }

    /// When it will have something to do though nothing is appended, µs.
    pub(super) fn wakes_at_us(&self) -> Option<u64> {
        (!self.sealed).then_some(self.last_us + SEAL_AFTER_US)
    }

    /// True once the journal was closed and everything in it is written.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// True if no group is under way.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle | State::Prepared)
    }
}
