//! What happened, line by line. Two runs of one seed are the same run if their traces have the same digest; a run that
//! failed is explained by printing its trace.

use std::{collections::VecDeque, fmt, sync::Arc};

use parking_lot::Mutex;

use crate::digest::Digest;

/// A trace that all components of a run share. Clones write to the same trace.
#[derive(Debug, Clone)]
pub struct Trace(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    digest: Digest,
    count: u64,
    keep: usize,
    lines: VecDeque<String>,
    buffer: String,
}

impl Trace {
    /// Keeps the last `keep` lines; the digest is over all of them.
    pub fn last(keep: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            digest: Digest::default(),
            count: 0,
            keep,
            lines: VecDeque::new(),
            buffer: String::new(),
        })))
    }

    /// Keeps every line: memory grows with the run.
    pub fn full() -> Self {
        Self::last(usize::MAX)
    }

    /// Keeps no text, only the digest.
    pub fn digest_only() -> Self {
        Self::last(0)
    }

    /// Adds a line: `trace.line(format_args!("sync {name}"))`.
    pub fn line(&self, text: fmt::Arguments<'_>) {
        let state = &mut *self.0.lock();
        state.buffer.clear();
        // Writing to a String fails only if a Display does, and then what it wrote so far is the line.
        let _ = fmt::Write::write_fmt(&mut state.buffer, text);
        state.digest.bytes(state.buffer.as_bytes());
        state.count += 1;
        if state.keep == 0 {
            return;
        }
        if state.lines.len() >= state.keep {
            state.lines.pop_front();
        }
        state.lines.push_back(state.buffer.clone());
    }

    /// Stands for every line so far.
    pub fn digest(&self) -> u64 {
        self.0.lock().digest.value()
    }

    /// Lines written so far, kept or not.
    pub fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// The lines kept, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().lines.iter().cloned().collect()
    }
}

impl fmt::Display for Trace {
    /// The lines kept, each behind its number in the whole trace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        let first = state.count - state.lines.len() as u64;
        for (i, line) in state.lines.iter().enumerate() {
            writeln!(f, "{:>7}  {line}", first + i as u64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_covers_lines_that_are_no_longer_kept() {
        let (short, full, none) = (Trace::last(2), Trace::full(), Trace::digest_only());
        for trace in [&short, &full, &none] {
            for i in 0..5 {
                trace.line(format_args!("step {i}"));
            }
        }
        assert_eq!(short.digest(), full.digest());
        assert_eq!(none.digest(), full.digest());
        assert_eq!(short.lines(), ["step 3", "step 4"]);
        assert_eq!(short.to_string(), "      3  step 3\n      4  step 4\n");
        assert_eq!((full.lines().len(), none.lines().len(), none.count()), (5, 0, 5));
        short.line(format_args!("more"));
        assert_ne!(short.digest(), full.digest());
    }
}
