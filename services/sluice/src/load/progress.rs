//! How far a run is, for those who wait for it. Counting must cost the sender nothing: one writer, relaxed atomics, and
//! whoever shows them reads them a few times a second.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Orders are being sent.
    Sending,
    /// Acknowledged orders are being read back.
    Judging,
}

/// The state of a run at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// What is being done.
    pub phase: Phase,
    /// Since when.
    pub elapsed: Duration,
    /// Orders to send, or to judge.
    pub total: u64,
    /// Orders acknowledged, or judged.
    pub done: u64,
    /// Answers 429 and 503 so far.
    pub refused: u64,
    /// Orders that were rejected for good or given up.
    pub errors: u64,
    /// Connections that broke or couldn't be opened.
    pub disconnects: u64,
}

/// Is told ten times a second how far a run is.
pub trait Progress: Sync {
    /// Shows `snapshot`. Must not block.
    fn update(&self, snapshot: &Snapshot);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _: &Snapshot) {}
}

/// A progress bar on standard error; nothing if that isn't a terminal.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar that appears with the first update.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::no_length();
        let template = "{prefix:>8} [{bar:32}] {human_pos}/{human_len} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }
}

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Bar {
    fn update(&self, now: &Snapshot) {
        self.bar.set_prefix(match now.phase {
            Phase::Sending => "sending",
            Phase::Judging => "judging",
        });
        self.bar.set_length(now.total);
        self.bar.set_position(now.done);
        let rate = now.done as f64 / now.elapsed.as_secs_f64().max(1e-3);
        let mut message = format!("{rate:.0}/s");
        for (count, what) in [(now.refused, "refused"), (now.errors, "errors"), (now.disconnects, "disconnects")] {
            if count > 0 {
                message.push_str(&format!(", {count} {what}"));
            }
        }
        self.bar.set_message(message);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Counters that one thread writes and others read.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) done: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) disconnects: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self, phase: Phase, elapsed: Duration, total: u64) -> Snapshot {
        Snapshot {
            phase,
            elapsed,
            total,
            done: self.done.load(Relaxed),
            refused: self.refused.load(Relaxed),
            errors: self.errors.load(Relaxed),
            disconnects: self.disconnects.load(Relaxed),
        }
    }
}

/// Adds to a counter that only this thread writes.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed) + more, Relaxed);
}
