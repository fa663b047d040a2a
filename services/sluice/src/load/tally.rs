//! The figures of a run while it sends: what was answered how often, and how late.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies beyond an hour count as an hour.
const MAX_MICROS: u64 = 3_600_000_000;
/// The first problem is quoted to this length.
const QUOTE: usize = 300;

/// Latencies in microseconds, to three significant digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // The bounds are constants that the constructor takes; the other arm only spares us a panic.
        let bounded = Histogram::new_with_bounds(1, MAX_MICROS, 3);
        Self(bounded.unwrap_or_else(|_| Histogram::new_from(&Histogram::<u64>::new(3).unwrap_or_else(|_| unreachable!()))))
    }
}
