//! The figures of a run while it sends: what was answered how often, and how late.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::series::Series;

/// Latencies beyond an hour count as an hour.
const MAX_MICROS: u64 = 3_600_000_000;
/// The first problem is quoted to this many characters.
const QUOTE: usize = 300;

/// Latencies from 1 µs to one hour, to three significant digits; about 180 KiB.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    #[expect(clippy::expect_used, reason = "the bounds are constants that the constructor takes")]
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("1 < 2 · 1 < an hour of microseconds"))
    }
}

impl Latencies {
    /// Records `latency` for each of `count` orders.
    pub fn record(&mut self, latency: Duration, count: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record_n(micros.clamp(1, MAX_MICROS), count);
    }

    /// Forgets them all.
    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share (0 to 1) of all orders didn't exceed; zero if there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        if self.0.is_empty() { Duration::ZERO } else { Duration::from_micros(self.0.value_at_quantile(share)) }
    }

    /// The share of orders (0 to 1) that was at most so late, and how late, in milliseconds: ten points for each nine that
    /// there are enough orders for, and the slowest.
    #[must_use]
    pub fn percentiles(&self) -> Vec<(f64, f64)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let last = 1.0 - 1.0 / self.count() as f64;
        let shares = (0..).map(|n| 1.0 - 10_f64.powf(-f64::from(n) / 10.0)).take_while(|share| *share < last);
        shares
            .chain([last])
            .map(|share| (share, if share < last { share } else { 1.0 }))
            .map(|(at, share)| (at, self.quantile(share).as_micros() as f64 / 1e3))
            .collect()
    }

    /// The usual four, in milliseconds.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        // Whole microseconds first: their thousandth prints without a tail of rounding.
        let ms = |share| self.quantile(share).as_micros() as f64 / 1e3;
        LatencySummary { p50: ms(0.5), p99: ms(0.99), p999: ms(0.999), max: ms(1.0) }
    }
}

/// Latency in milliseconds; all zero when nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencySummary {
    /// Half of the orders were faster.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// What became of the orders of a run, each in exactly one of: acknowledged, rejected, unanswered, not taken, unsent.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Orders that were sent at least once.
    pub sent: u64,
    /// Orders acknowledged.
    pub acknowledged: u64,
    /// Of these: after the same key had been sent more than once.
    pub retried: u64,
    /// Requests whose answer says that it was given before.
    pub replayed: u64,
    /// Answers 429 and 503, one for each order in each refused request.
    pub refused: u64,
    /// Orders answered by a status that is final, or by nothing readable.
    pub rejected: u64,
    /// Orders given up, or still open at the end, that may have been taken: a connection broke or a 5xx came.
    pub unanswered: u64,
    /// Orders given up that were certainly not taken: every attempt was refused or found no server.
    pub not_taken: u64,
    /// Orders that were due but never sent.
    pub unsent: u64,
    /// Connections that broke, timed out or couldn't be opened.
    pub disconnects: u64,
    /// Answers by status other than 2xx, per order.
    pub statuses: BTreeMap<u16, u64>,
    /// The first problem that was met, to start looking from.
    pub first_problem: Option<String>,
    /// From the intended send time to the acknowledgement.
    pub ack: Latencies,
    /// From the intended to the real send time.
    pub lag: Latencies,
    /// The run over time.
    pub series: Series,
}

impl Tally {
    /// Counts an answer that is no acknowledgement.
    pub(crate) fn status(&mut self, status: u16, orders: u64, body: &[u8]) {
        *self.statuses.entry(status).or_default() += orders;
        if self.first_problem.is_none() {
            self.problem(format!("{status}: {}", String::from_utf8_lossy(body)));
        }
    }

    /// Keeps the first problem.
    pub(crate) fn problem(&mut self, text: String) {
        if self.first_problem.is_none() {
            self.first_problem = Some(text.trim().chars().take(QUOTE).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_milliseconds_within_a_thousandth() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), LatencySummary { p50: 0.0, p99: 0.0, p999: 0.0, max: 0.0 });
        latencies.record(Duration::from_millis(2), 990);
        latencies.record(Duration::from_millis(40), 9);
        latencies.record(Duration::from_secs(1), 1);
        let summary = latencies.summary();
        for (is, shall) in [(summary.p50, 2.0), (summary.p99, 2.0), (summary.p999, 40.0), (summary.max, 1000.0)] {
            assert!((is / shall - 1.0).abs() < 1e-3, "{summary:?}");
        }
        latencies.record(Duration::MAX, 1);
        latencies.record(Duration::ZERO, 1);
        assert_eq!(latencies.count(), 1_002);
    }

    #[test]
    fn percentiles_reach_as_far_as_there_are_orders() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), []);
        latencies.record(Duration::from_millis(2), 1);
        assert_eq!(latencies.percentiles(), [(0.0, 2.0)]);
        latencies.record(Duration::from_millis(2), 989);
        latencies.record(Duration::from_secs(1), 10);
        let points = latencies.percentiles();
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{points:?}");
        let (share, slowest) = points[points.len() - 1];
        assert!((share - 0.999).abs() < 1e-9 && (slowest - 1_000.0).abs() < 1.0 && points.len() == 31, "{points:?}");
        assert!(points[10].1 < 2.1, "nine of ten: {points:?}");
    }

    #[test]
    fn only_the_first_problem_is_quoted() {
        let mut tally = Tally::default();
        tally.status(401, 2, b"no such key ");
        tally.status(401, 1, "é".repeat(1_000).as_bytes());
        assert_eq!(tally.first_problem.as_deref(), Some("401: no such key"));
        assert_eq!(tally.statuses.get(&401), Some(&3));
    }
}
