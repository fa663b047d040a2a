//! What two readings of a node's metrics tell about the time between them. Pure arithmetic.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::exposition::{Sample, Unreadable, samples};

/// One reading of one node's metrics.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// Since some moment that all readings share.
    pub at: Duration,
    /// Counters and gauges, by name and labels.
    values: BTreeMap<Series, f64>,
    /// Histograms' buckets: upper bound and how many up to there, ascending; by name and labels.
    buckets: BTreeMap<Series, Vec<(f64, f64)>>,
}

/// A metric and those of its labels that are looked at.
type Series = (String, Vec<(String, String)>);

impl Reading {
    /// Reads the text of `/metrics`.
    ///
    /// # Errors
    /// [`Unreadable`] for the first line that is no sample.
    pub fn parse(at: Duration, text: &str) -> Result<Self, Unreadable> {
        let mut reading = Self { at, ..Self::default() };
        for sample in samples(text)? {
            reading.add(&sample);
        }
        for buckets in reading.buckets.values_mut() {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        Ok(reading)
    }

    fn add(&mut self, sample: &Sample<'_>) {
        let labels = sample.labels.iter().filter(|(name, _)| **name != "le");
        let labels = labels.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        match sample.name.strip_suffix("_bucket") {
            Some(name) => {
                if let Ok(bound) = sample.label("le").parse() {
                    self.buckets.entry((name.to_owned(), labels)).or_default().push((bound, sample.value));
                }
            }
            None => drop(self.values.insert((sample.name.to_owned(), labels), sample.value)),
        }
    }

    /// Every series of a metric, with its labels.
    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Series, f64)> {
        let from = (name.to_owned(), Vec::new());
        self.values
            .range(from..)
            .take_while(move |((found, _), _)| found == name)
            .map(|(series, value)| (series, *value))
    }

    /// The sum of a metric over the series that have these labels; `None` if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fitting = self.of(name).filter(|(series, _)| has(series, labels)).map(|(_, value)| value);
        fitting.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// The values that a label has.
    pub fn labels(&self, name: &str, label: &str) -> Vec<String> {
        let mut found: Vec<String> = self.of(name).filter_map(|((_, labels), _)| value_of(labels, label)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The value of a label that every series of the metric shares.
    pub fn label(&self, name: &str, label: &str) -> Option<String> {
        self.labels(name, label).into_iter().next()
    }
}

fn value_of(labels: &[(String, String)], label: &str) -> Option<String> {
    labels.iter().find(|(name, _)| name == label).map(|(_, value)| value.clone())
}

fn has((_, all): &Series, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(label, value)| all.iter().any(|(l, v)| l == label && v == value))
}

/// Two readings of one process, the earlier first.
pub(super) struct Span<'a> {
    pub before: &'a Reading,
    pub now: &'a Reading,
}

impl Span<'_> {
    /// From one to the other.
    pub fn seconds(&self) -> f64 {
        self.now.at.saturating_sub(self.before.at).as_secs_f64()
    }

    /// How much a counter rose, a second, over the series that have these labels. `None` if there is no such counter.
    ///
    /// One that is less than before began anew, with its process: what it has is what it rose by since then.
    pub fn rate(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.rose(name, labels, |before, now| if now < before { now } else { now - before })
    }

    /// As [`Span::rate`], of a gauge that only rises, and whose new process finds it as it was: less than before means that
    /// it is another's.
    pub fn rise(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.rose(name, labels, |before, now| (now - before).max(0.0))
    }

    fn rose(&self, name: &str, labels: &[(&str, &str)], rose: impl Fn(f64, f64) -> f64) -> Option<f64> {
        let mut sum = None;
        for (series, now) in self.now.of(name).filter(|(series, _)| has(series, labels)) {
            // Who wasn't there began at nothing.
            let before = self.before.values.get(series).copied().unwrap_or(0.0);
            sum = Some(sum.unwrap_or(0.0) + rose(before, now));
        }
        let seconds = self.seconds();
        sum.filter(|_| seconds > 0.0).map(|sum: f64| sum / seconds)
    }

    /// What a histogram counted in between, over the series that have these labels.
    pub fn counted(&self, name: &str, labels: &[(&str, &str)]) -> Counted {
        let mut counted = Counted::default();
        let from = (name.to_owned(), Vec::new());
        let all = self.now.buckets.range(from..).take_while(|((found, _), _)| found == name);
        for (series, now) in all.filter(|(series, _)| has(series, labels)) {
            let before = self.before.buckets.get(series);
            let count = |buckets: &[(f64, f64)]| buckets.last().map_or(0.0, |last| last.1);
            // A histogram that counts less than before began anew.
            let before = before.filter(|before| count(before) <= count(now) && before.len() == now.len());
            for (n, &(bound, up_to)) in now.iter().enumerate() {
                let earlier = before.and_then(|before| before.get(n)).map_or(0.0, |b| b.1);
                counted.add(bound, (up_to - earlier).max(0.0));
            }
        }
        counted
    }
}

/// What was counted up to each bound, over any number of histograms with the same bounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counted(Vec<(f64, f64)>);

impl Counted {
    fn add(&mut self, bound: f64, up_to: f64) {
        match self.0.binary_search_by(|b| b.0.total_cmp(&bound)) {
            Ok(at) => self.0[at].1 += up_to,
            Err(at) => self.0.insert(at, (bound, up_to)),
        }
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|&(bound, up_to)| self.add(bound, up_to));
    }

    /// How many.
    pub fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |last| last.1)
    }

    /// The value that `share` of what was counted lies below, by straight lines within the buckets; what lies beyond the
    /// last bound counts as that bound. `None` if nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count();
        if self.count() <= 0.0 {
            return None;
        }
        let (mut lower, mut below) = (0.0, 0.0);
        for &(bound, up_to) in &self.0 {
            if up_to >= rank && up_to > below {
                let within = (rank - below) / (up_to - below);
                return Some(if bound.is_finite() { lower + (bound - lower) * within } else { lower });
            }
            (lower, below) = (if bound.is_finite() { bound } else { lower }, up_to);
        }
        Some(lower)
    }

    /// The quantiles that are shown.
    pub fn latency(&self, span_s: f64) -> Option<Latency> {
        let ms = |share| self.quantile(share).map(|seconds| seconds * 1e3);
        Some(Latency {
            per_s: if span_s > 0.0 { self.count() / span_s } else { 0.0 },
            p50_ms: ms(0.5)?,
            p99_ms: ms(0.99)?,
        })
    }
}

/// How long something took, of those that ended since the last reading.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// How many, a second.
    pub per_s: f64,
    /// Half took at most so long, ms.
    pub p50_ms: f64,
    /// 99 % did.
    pub p99_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at_s: u64, text: &str) -> Reading {
        Reading::parse(Duration::from_secs(at_s), text).unwrap()
    }

    #[test]
    fn rates_are_of_counters_and_survive_a_restart() {
        let before = reading(10, "a_total{x=\"1\"} 100\na_total{x=\"2\"} 50\ng 7\nab_total 9");
        let now = reading(12, "a_total{x=\"1\"} 140\na_total{x=\"2\"} 6\na_total{x=\"3\"} 4\ng 5\nab_total 9");
        let span = Span { before: &before, now: &now };
        assert_eq!(span.rate("a_total", &[]), Some((40.0 + 6.0 + 4.0) / 2.0));
        assert_eq!(span.rate("a_total", &[("x", "2")]), Some(3.0), "it began anew");
        assert_eq!(span.rate("ab_total", &[]), Some(0.0));
        assert_eq!(span.rate("none_total", &[]), None);
        assert_eq!(span.rate("a_total", &[("x", "9")]), None);
        assert_eq!(span.rise("g", &[]), Some(0.0));
        assert_eq!(Span { before: &now, now: &now }.rate("a_total", &[]), None, "no time has passed");
        assert_eq!((now.sum("a_total", &[]), now.sum("g", &[]), now.sum("h", &[])), (Some(150.0), Some(5.0), None));
        assert_eq!(now.labels("a_total", "x"), ["1", "2", "3"]);
    }

    fn histogram(at_s: u64, counts: [u64; 4]) -> Reading {
        let bounds = ["0.1", "0.2", "0.4", "+Inf"];
        let line = |(bound, count): (&str, u64)| format!("h_seconds_bucket{{route=\"r\",le=\"{bound}\"}} {count}\n");
        reading(at_s, &bounds.into_iter().zip(counts).map(line).collect::<String>())
    }

    #[test]
    fn quantiles_are_of_what_was_counted_in_between() {
        let (before, now) = (histogram(0, [100, 100, 100, 100]), histogram(10, [100, 150, 190, 200]));
        let counted = Span { before: &before, now: &now }.counted("h_seconds", &[("route", "r")]);
        assert_eq!(counted.count(), 100.0);
        let near = |share, wanted: f64| assert!((counted.quantile(share).unwrap() - wanted).abs() < 1e-9, "{share}");
        near(0.5, 0.2);
        near(0.25, 0.15);
        near(0.7, 0.3);
        near(0.9, 0.4);
        near(0.99, 0.4);
        near(0.0, 0.1);
        let latency = counted.latency(10.0).unwrap();
        assert_eq!((latency.per_s, latency.p50_ms.round()), (10.0, 200.0));
        let other = Span { before: &before, now: &now }.counted("h_seconds", &[("route", "s")]);
        assert_eq!((other.quantile(0.5), other.latency(1.0)), (None, None));
    }

    #[test]
    fn a_histogram_that_began_anew_counts_from_nothing() {
        let (before, now) = (histogram(0, [100, 100, 100, 100]), histogram(10, [0, 10, 10, 10]));
        let counted = Span { before: &before, now: &now }.counted("h_seconds", &[]);
        assert_eq!((counted.count(), counted.quantile(1.0)), (10.0, Some(0.2)));
        let none = Span { before: &now, now: &now }.counted("h_seconds", &[]);
        assert_eq!(none.quantile(0.5), None);
    }

    #[test]
    fn nodes_are_added_up_bucket_by_bucket() {
        let (before, now) = (Reading::default(), histogram(10, [0, 10, 10, 10]));
        let one = Span { before: &before, now: &now }.counted("h_seconds", &[]);
        let mut both = one.clone();
        both.merge(&one);
        assert_eq!((both.count(), both.quantile(0.5)), (20.0, one.quantile(0.5)));
    }
}
