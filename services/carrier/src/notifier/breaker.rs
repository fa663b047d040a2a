//! Leaves a carrier that keeps failing alone, and asks it with one manifest at a time whether it is back.

use std::time::Duration;

use super::{backoff::Seeded, config::us, core::CallId};

/// When to stop calling, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BreakerConfig {
    /// Calls failing one after another that open it. Default 10.
    pub consecutive: u32,
    /// Failures among the last 64 calls that open it. Default 48.
    pub of_last_64: u32,
    /// First pause, half of it jittered; each failed probe doubles it. Default 1 s.
    pub pause: Duration,
    /// Longest pause. Default 10 s.
    pub pause_cap: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { consecutive: 10, of_last_64: 48, pause: Duration::from_secs(1), pause_cap: Duration::from_secs(10) }
    }
}

/// What the breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// One call, to see whether the carrier is back.
    HalfOpen,
    /// Nothing.
    Open,
}

/// Whether a call may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    Yes,
    /// Not before this time, µs on the monotonic clock.
    At(u64),
    /// Not before the probe under way has been answered.
    AfterProbe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until_us: u64 },
    HalfOpen { probe: Option<CallId> },
}

#[derive(Debug, Clone)]
pub(super) struct Breaker {
    config: BreakerConfig,
    state: State,
    consecutive: u32,
    /// One bit a call, the newest lowest: 1 = failed.
    history: u64,
    /// Pauses since it was last closed.
    pauses: u32,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self { config, state: State::Closed, consecutive: 0, history: 0, pauses: 0 }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a call may be made; ends a pause that is over.
    pub(super) fn pass(&mut self, now_us: u64) -> Pass {
        match self.state {
            State::Open { until_us } if now_us < until_us => Pass::At(until_us),
            State::Open { .. } => {
                self.state = State::HalfOpen { probe: None };
                Pass::Yes
            }
            State::HalfOpen { probe: Some(_) } => Pass::AfterProbe,
            State::Closed | State::HalfOpen { probe: None } => Pass::Yes,
        }
    }

    /// A call that [`Breaker::pass`] allowed is being made.
    pub(super) fn sent(&mut self, call: CallId) {
        if let State::HalfOpen { probe } = &mut self.state {
            *probe = Some(call);
        }
    }

    /// A call has ended. Once it is open only the probe's end counts: the others were sent before.
    pub(super) fn heard(&mut self, call: CallId, ok: bool, now_us: u64, chance: &mut Seeded) {
        match self.state {
            State::Closed => {
                self.history = self.history << 1 | u64::from(!ok);
                self.consecutive = if ok { 0 } else { self.consecutive + 1 };
                let of_last = self.history.count_ones();
                if !ok && (self.consecutive >= self.config.consecutive || of_last >= self.config.of_last_64) {
                    self.open(now_us, chance);
                }
            }
            State::HalfOpen { probe } if probe == Some(call) => {
                if ok {
                    *self = Self::new(self.config);
                } else {
                    self.open(now_us, chance);
                }
            }
            State::HalfOpen { .. } | State::Open { .. } => {}
        }
    }

    fn open(&mut self, now_us: u64, chance: &mut Seeded) {
        let pause = us(self.config.pause).saturating_mul(1 << self.pauses.min(40)).min(us(self.config.pause_cap));
        self.pauses = self.pauses.saturating_add(1);
        let pause = (pause / 2 + chance.up_to(pause / 2)).max(1);
        self.state = State::Open { until_us: now_us.saturating_add(pause) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> (Breaker, Seeded) {
        (Breaker::new(BreakerConfig::default()), Seeded::new(1))
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_a_good_probe() {
        let (mut b, mut chance) = breaker();
        for n in 0..10 {
            assert_eq!(b.pass(0), Pass::Yes);
            b.heard(CallId(n), false, 0, &mut chance);
        }
        assert_eq!(b.state(), BreakerState::Open);
        let Pass::At(until) = b.pass(1) else { panic!("open") };
        assert!((500_000..=1_000_000).contains(&until), "{until}");
        b.heard(CallId(90), true, 2, &mut chance);
        assert_eq!(b.state(), BreakerState::Open, "a call from before says nothing");
        assert_eq!(b.pass(until), Pass::Yes);
        b.sent(CallId(20));
        assert_eq!(b.pass(until), Pass::AfterProbe);
        b.heard(CallId(91), true, until, &mut chance);
        assert_eq!(b.pass(until), Pass::AfterProbe);
        b.heard(CallId(20), false, until, &mut chance);
        let Pass::At(again) = b.pass(until) else { panic!("open") };
        assert!((1_000_000..=2_000_000).contains(&(again - until)), "{until} {again}");
        assert_eq!(b.pass(again), Pass::Yes);
        b.sent(CallId(21));
        b.heard(CallId(21), true, again, &mut chance);
        assert_eq!((b.state(), b.pass(again)), (BreakerState::Closed, Pass::Yes));
    }

    #[test]
    fn it_opens_when_most_of_the_last_calls_failed() {
        let (mut b, mut chance) = breaker();
        let mut calls = 0;
        while b.state() == BreakerState::Closed {
            b.heard(CallId(calls), calls % 5 == 4, 0, &mut chance);
            calls += 1;
        }
        assert_eq!(calls, 59, "four fifths fail: the 59th call is the 48th failure");
        let (mut b, mut chance) = breaker();
        for n in 0..10_000 {
            b.heard(CallId(n), n % 2 == 0, 0, &mut chance);
        }
        assert_eq!(b.state(), BreakerState::Closed, "half of the calls is not enough");
    }
}
