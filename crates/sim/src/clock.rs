//! Time that stands still until somebody moves it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
};

use sluice_pipeline::Clock;

/// A clock of a simulated computer. Clones show the same time.
///
/// Monotonic time only moves forward, through [`SimClock::advance_us`]. Wall time moves with it and can also be set, as
/// a time service sets it, which may put it back.
#[derive(Debug, Clone)]
pub struct SimClock(Arc<State>);

#[derive(Debug)]
struct State {
    monotonic_us: AtomicU64,
    wall_offset_ms: AtomicI64,
}

impl SimClock {
    /// A clock whose wall time is `start_ms` ms since the epoch and whose monotonic time is 0.
    pub fn new(start_ms: u64) -> Self {
        let wall_offset_ms = AtomicI64::new(start_ms.min(i64::MAX as u64) as i64);
        Self(Arc::new(State { monotonic_us: AtomicU64::new(0), wall_offset_ms }))
    }

    /// Lets `us` microseconds pass.
    pub fn advance_us(&self, us: u64) {
        self.0.monotonic_us.fetch_add(us, SeqCst);
    }

    /// Lets `ms` milliseconds pass.
    pub fn advance_ms(&self, ms: u64) {
        self.advance_us(ms.saturating_mul(1_000));
    }

    /// Sets the wall clock forward or back by `ms`; no time passes.
    pub fn step_wall_ms(&self, ms: i64) {
        self.0.wall_offset_ms.fetch_add(ms, SeqCst);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        (self.monotonic_us() / 1_000).saturating_add_signed(self.0.wall_offset_ms.load(SeqCst))
    }

    fn monotonic_us(&self) -> u64 {
        self.0.monotonic_us.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wall_clock_can_go_back() {
        let clock = SimClock::new(1_000_000);
        let same = clock.clone();
        clock.advance_us(1_500);
        assert_eq!((same.now_ms(), same.monotonic_us()), (1_000_001, 1_500));
        clock.step_wall_ms(-600);
        assert_eq!((same.now_ms(), same.monotonic_us()), (999_401, 1_500));
        clock.advance_ms(600);
        assert_eq!((same.now_ms(), same.monotonic_us()), (1_000_001, 601_500));
    }
}
