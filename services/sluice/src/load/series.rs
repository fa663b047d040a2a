//! A run over time: how much was sent and answered in each step of it, and how late. Steps follow one another, so latencies
//! of one step at a time are kept in full; of earlier ones stays a summary.

use std::time::Duration;

use super::tally::{Latencies, LatencySummary};

/// Shortest step.
const SHORTEST: Duration = Duration::from_millis(100);
/// Steps that the duration of a run is cut into, unless they would be too short.
const STEPS: u32 = 200;
/// Most steps that are kept; what comes later counts for the last.
const MOST: usize = 2_000;

/// One step of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Step {
    /// Orders sent for the first time.
    pub sent: u64,
    /// Orders acknowledged.
    pub acknowledged: u64,
    /// Orders refused (429, 503).
    pub refused: u64,
    /// Connections lost.
    pub disconnects: u64,
    /// From the intended send time to the acknowledgement, of those acknowledged in this step; `None` if none was.
    pub ack: Option<LatencySummary>,
}

/// See the module. At most 2,000 steps of 72 bytes.
#[derive(Debug, Clone)]
pub struct Series {
    step: Duration,
    steps: Vec<Step>,
    /// Latencies of the last step.
    open: Latencies,
}

impl Default for Series {
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

impl Series {
    /// For a run of about this duration.
    #[must_use]
    pub fn new(duration: Duration) -> Self {
        Self { step: (duration / STEPS).max(SHORTEST), steps: Vec::new(), open: Latencies::default() }
    }

    /// The step that `now` lies in, counted from the start of the run.
    pub(crate) fn at(&mut self, now: Duration) -> &mut Step {
        let number = (now.as_nanos() / self.step.as_nanos()) as usize;
        let number = number.min(MOST - 1);
        if number >= self.steps.len() {
            self.close();
            self.steps.resize(number + 1, Step::default());
        }
        let last = self.steps.len() - 1;
        // Time goes on: nothing belongs to a step that is over.
        &mut self.steps[last]
    }

    /// Counts acknowledged orders and how late they were.
    pub(crate) fn acknowledged(&mut self, now: Duration, orders: u64, latency: Duration) {
        self.at(now).acknowledged += orders;
        self.open.record(latency, orders);
    }

    fn close(&mut self) {
        if let Some(last) = self.steps.last_mut().filter(|_| self.open.count() > 0) {
            last.ack = Some(self.open.summary());
            self.open.clear();
        }
    }

    /// How long a step is.
    #[must_use]
    pub fn step(&self) -> Duration {
        self.step
    }

    /// Every step, the last one as it is now.
    #[must_use]
    pub fn finish(&self) -> Vec<Step> {
        let mut whole = self.clone();
        whole.close();
        whole.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_happens_counts_for_its_step() {
        let mut series = Series::new(Duration::ZERO);
        assert_eq!(series.finish(), []);
        series.at(10 * MS).sent += 3;
        series.acknowledged(90 * MS, 2, 5 * MS);
        series.acknowledged(350 * MS, 1, 40 * MS);
        series.at(399 * MS).refused += 1;
        let steps = series.finish();
        assert_eq!((series.step(), steps.len()), (100 * MS, 4));
        assert_eq!((steps[0].sent, steps[0].acknowledged, steps[3].acknowledged, steps[3].refused), (3, 2, 1, 1));
        assert_eq!((steps[1], steps[2].ack), (Step::default(), None));
        assert!((steps[0].ack.unwrap().max - 5.0).abs() < 0.01 && (steps[3].ack.unwrap().p50 - 40.0).abs() < 0.1);
    }

    #[test]
    fn steps_are_bounded() {
        let mut series = Series::new(Duration::from_secs(3_600));
        assert_eq!(series.step(), Duration::from_secs(18));
        series.acknowledged(Duration::MAX, 1, MS);
        series.acknowledged(Duration::from_secs(1_000_000), 1, MS);
        let steps = series.finish();
        assert_eq!((steps.len(), steps[MOST - 1].acknowledged), (MOST, 2));
    }
}
