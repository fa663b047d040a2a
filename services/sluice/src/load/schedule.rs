//! When each order is due. The whole schedule is fixed before the first order leaves, so a slow server can't slow down
//! the question and hide its own latency (no coordinated omission).
//!
//! With rate `R` in orders/s and duration `D`, the number of orders due by time `t` is:
//!
//! - `steady`: `R·t`
//! - `ramp`: `R·t² / 2D`, a rate that grows linearly from 0 to `R`
//! - `midnight`: a tenth of `R` until `D/3`, then a step up to `R` that decays exponentially towards the tenth again:
//!   `0.1·R·t + 0.9·R·τ·(1 − e^(−(t − D/3)/τ))` with `τ = D/6`, the second term from `t = D/3` on

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Share of the peak rate that the `midnight` shape keeps up outside its peak.
const BASE: f64 = 0.1;
/// Newton's method gains about two digits a step from where it starts here; this is enough for nanoseconds.
const NEWTON_STEPS: u32 = 16;

/// How the rate develops over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// The same rate throughout.
    #[default]
    Steady,
    /// Linearly from 0 to the rate.
    Ramp,
    /// Quiet, then a sale opens: a step to the rate after a third of the time, then exponential decay.
    Midnight,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "steady" => Ok(Self::Steady),
            "ramp" => Ok(Self::Ramp),
            "midnight" => Ok(Self::Midnight),
            _ => Err("expected steady, ramp or midnight".to_owned()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steady => "steady",
            Self::Ramp => "ramp",
            Self::Midnight => "midnight",
        })
    }
}

/// Intended send times: order `n` is due at [`Schedule::time_of`]`(n)`, counted from the start of the run.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    shape: Shape,
    rate: f64,
    seconds: f64,
    total: u64,
}

impl Schedule {
    /// A schedule with a peak of `rate` orders/s over `duration`. Both must be positive; a schedule of neither holds no
    /// orders.
    #[must_use]
    pub fn new(shape: Shape, rate: f64, duration: Duration) -> Self {
        let seconds = duration.as_secs_f64();
        let rate = if rate.is_finite() { rate.max(0.0) } else { 0.0 };
        let mut schedule = Self { shape, rate, seconds, total: 0 };
        // A product of decimal fractions may end a hair below the whole number that it means.
        schedule.total = (schedule.due(seconds) + 1e-6).floor() as u64;
        schedule
    }

    /// How many orders the schedule holds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The mean rate over the whole duration, in orders/s: what was intended, beside what was achieved.
    #[must_use]
    pub fn mean_rate(&self) -> f64 {
        if self.seconds > 0.0 { self.total as f64 / self.seconds } else { 0.0 }
    }

    /// How many orders are due once `elapsed` has passed, never more than [`Self::total`].
    #[must_use]
    pub fn due_by(&self, elapsed: Duration) -> u64 {
        let due = self.due(elapsed.as_secs_f64().min(self.seconds));
        // Order 0 is due at 0, so one more is due than intervals have passed.
        (due.floor() as u64).saturating_add(1).min(self.total)
    }

    /// When order `n` (from 0) is due. Grows with `n`.
    #[must_use]
    pub fn time_of(&self, n: u64) -> Duration {
        let n = n as f64;
        if self.rate <= 0.0 {
            return Duration::ZERO;
        }
        let seconds = match self.shape {
            Shape::Steady => n / self.rate,
            Shape::Ramp => (2.0 * self.seconds * n / self.rate).sqrt(),
            Shape::Midnight => self.midnight_time(n),
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    fn due(&self, t: f64) -> f64 {
        match self.shape {
            Shape::Steady => self.rate * t,
            Shape::Ramp if self.seconds > 0.0 => self.rate * t * t / (2.0 * self.seconds),
            Shape::Ramp => 0.0,
            Shape::Midnight => {
                let quiet = BASE * self.rate * t;
                let since = t - self.seconds / 3.0;
                if since <= 0.0 {
                    return quiet;
                }
                let tau = self.seconds / 6.0;
                quiet + (1.0 - BASE) * self.rate * tau * (1.0 - (-since / tau).exp())
            }
        }
    }

    fn midnight_time(&self, n: f64) -> f64 {
        let (base, step) = (BASE * self.rate, self.seconds / 3.0);
        if n <= base * step {
            return n / base;
        }
        let (peak, tau) = ((1.0 - BASE) * self.rate, self.seconds / 6.0);
        let wanted = n - base * step;
        // From the left of a function that grows ever more slowly, Newton's steps approach the answer without passing it.
        let mut since = 0.0;
        for _ in 0..NEWTON_STEPS {
            let left = (-since / tau).exp();
            let missing = wanted - base * since - peak * tau * (1.0 - left);
            since += missing / (base + peak * left);
            if missing < 1e-6 {
                break;
            }
        }
        step + since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [Shape; 3] = [Shape::Steady, Shape::Ramp, Shape::Midnight];

    #[test]
    fn totals_are_the_area_under_the_rate() {
        let total = |shape| Schedule::new(shape, 60_000.0, Duration::from_secs(30)).total();
        assert_eq!(total(Shape::Steady), 1_800_000);
        assert_eq!(total(Shape::Ramp), 900_000);
        // 0.1·R·D + 0.9·R·D/6·(1 − e^-4)
        let midnight: f64 = 180_000.0 + 270_000.0 * (1.0 - (-4.0f64).exp());
        assert_eq!(total(Shape::Midnight), midnight as u64);
        assert_eq!(Schedule::new(Shape::Steady, 0.1, Duration::from_secs(30)).total(), 3);
        assert_eq!(Schedule::new(Shape::Steady, 0.0, Duration::from_secs(30)).total(), 0);
        assert_eq!(Schedule::new(Shape::Steady, f64::NAN, Duration::from_secs(30)).total(), 0);
        assert_eq!(Schedule::new(Shape::Ramp, 5.0, Duration::ZERO).total(), 0);
    }

    #[test]
    fn times_grow_and_agree_with_counts() {
        for shape in SHAPES {
            let schedule = Schedule::new(shape, 997.0, Duration::from_secs(12));
            let mut last = Duration::ZERO;
            for n in 0..schedule.total() {
                let time = schedule.time_of(n);
                assert!(time >= last, "{shape}: {n} at {time:?} after {last:?}");
                assert!(time <= Duration::from_secs(12), "{shape}: {n} at {time:?}");
                let later = time + Duration::from_micros(1);
                assert_eq!(schedule.due_by(later), n + 1, "{shape} at {later:?}");
                last = time;
            }
        }
    }

    #[test]
    fn midnight_steps_up_after_a_third_and_decays() {
        let schedule = Schedule::new(Shape::Midnight, 10_000.0, Duration::from_secs(30));
        let rate = |second: u64| {
            schedule.due_by(Duration::from_secs(second + 1)) - schedule.due_by(Duration::from_secs(second))
        };
        assert_eq!(rate(5), 1_000);
        assert!((9_000..=10_000).contains(&rate(10)), "{}", rate(10));
        assert!((4_000..5_000).contains(&rate(14)), "{}", rate(14));
        assert!((1_000..1_300).contains(&rate(29)), "{}", rate(29));
    }

    #[test]
    fn names_round_trip() {
        for shape in SHAPES {
            assert_eq!(shape.to_string().parse(), Ok(shape));
        }
        assert!("square".parse::<Shape>().is_err());
    }
}
