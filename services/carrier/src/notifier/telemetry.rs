//! What a notifier shows of itself: metrics with the carrier as their only free label, and log lines at a bounded rate,
//! since a carrier that is down says the same thing thousands of times.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use sluice_pipeline::{Answer, OutcomeReport};
use sluice_schemas::{delta::VOID, outcome::OutcomeKind};

use super::{
    breaker::BreakerState,
    core::{Counters, Notifier},
};

/// Lines about one carrier's failed calls in each [`PERIOD_US`].
const FAILURE_LINES: u32 = 3;
/// Lines about one carrier's orders without an answer in each [`PERIOD_US`].
const ORDER_LINES: u32 = 50;
const PERIOD_US: u64 = 10_000_000;
/// Names of [`OutcomeKind`]s, by code.
const OUTCOMES: [&str; 4] = ["unknown", "given_up", "rejected", "accepted"];

/// Lets so many lines through in each period and counts the others.
#[derive(Debug)]
struct Gate {
    lines: u32,
    left: u32,
    until_us: u64,
    suppressed: u64,
}

impl Gate {
    fn new(lines: u32) -> Self {
        Self { lines, left: lines, until_us: 0, suppressed: 0 }
    }

    /// `Some(how many were held back before)` if a line may be written.
    fn pass(&mut self, now_us: u64) -> Option<u64> {
        if now_us >= self.until_us {
            self.left = self.lines;
            self.until_us = now_us.saturating_add(PERIOD_US);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed += 1;
                None
            }
        }
    }
}

pub(super) struct Telemetry {
    carrier: Arc<str>,
    /// Answered, refused, not sent, ambiguous.
    calls: [Counter; 4],
    /// By [`OutcomeKind`].
    shipments: [Counter; 4],
    /// Likewise, of requests to forget one.
    voids: [Counter; 4],
    seconds: Histogram,
    held: Gauge,
    in_flight: Gauge,
    breaker: Gauge,
    retried: Counter,
    alien: Counter,
    repeated: Counter,
    overlong: Counter,
    seen: Counters,
    failures: Gate,
    orders: Gate,
    oddities: Gate,
}

impl Telemetry {
    pub(super) fn new(carrier: &Arc<str>) -> Self {
        let name = || carrier.to_string();
        let calls = |result| counter!("sluice_carrier_calls_total", "carrier" => name(), "result" => result);
        let outcome = |outcome| counter!("sluice_carrier_shipments_total", "carrier" => name(), "outcome" => outcome);
        let void = |outcome| counter!("sluice_carrier_voids_total", "carrier" => name(), "outcome" => outcome);
        let odd = |what| counter!("sluice_carrier_odd_results_total", "carrier" => name(), "what" => what);
        Self {
            calls: ["answered", "refused", "not_sent", "ambiguous"].map(calls),
            shipments: OUTCOMES.map(outcome),
            voids: OUTCOMES.map(void),
            seconds: histogram!("sluice_carrier_call_seconds", "carrier" => name()),
            held: gauge!("sluice_carrier_held_shipments", "carrier" => name()),
            in_flight: gauge!("sluice_carrier_calls_in_flight", "carrier" => name()),
            breaker: gauge!("sluice_carrier_breaker_state", "carrier" => name()),
            retried: counter!("sluice_carrier_retried_shipments_total", "carrier" => name()),
            alien: odd("alien"),
            repeated: odd("repeated"),
            overlong: odd("overlong_tracking_number"),
            seen: Counters::default(),
            failures: Gate::new(FAILURE_LINES),
            orders: Gate::new(ORDER_LINES),
            oddities: Gate::new(FAILURE_LINES),
            carrier: Arc::clone(carrier),
        }
    }

    /// A call has ended.
    pub(super) fn call(&mut self, manifest_id: &str, answer: &Answer, took_us: u64, now_us: u64) {
        let (result, trouble) = match answer {
            Answer::Results(_) => (0, None),
            Answer::Refused { .. } => (1, Some("refused")),
            Answer::NotSent(why) => (2, Some(why.as_str())),
            Answer::Ambiguous(why) => (3, Some(why.as_str())),
        };
        self.calls[result].increment(1);
        self.seconds.record(took_us as f64 / 1e6);
        let carrier = &*self.carrier;
        match trouble {
            None => tracing::debug!(carrier, manifest_id, took_us, "manifest answered"),
            Some(trouble) => {
                tracing::debug!(carrier, manifest_id, took_us, trouble, "manifest not answered");
                if let Some(suppressed) = self.failures.pass(now_us) {
                    tracing::warn!(carrier, manifest_id, trouble, suppressed, "a call to the carrier failed");
                }
            }
        }
    }

    /// Outcomes that were not there before.
    pub(super) fn outcomes(&mut self, new: &[OutcomeReport], now_us: u64) {
        let (mut shipments, mut voids) = ([0; 4], [0; 4]);
        for report in new {
            let counts = if report.shipment.attempt & VOID == 0 { &mut shipments } else { &mut voids };
            counts[report.kind as usize] += 1;
            if matches!(report.kind, OutcomeKind::Accepted | OutcomeKind::Rejected) {
                continue;
            }
            if let Some(suppressed) = self.orders.pass(now_us) {
                let (carrier, outcome, reason) = (&*self.carrier, report.kind, &*report.text);
                let (order_id, shipment_id) = (report.shipment.order, report.shipment);
                tracing::warn!(%order_id, %shipment_id, carrier, ?outcome, reason, suppressed, "no answer for a shipment");
            }
        }
        let counted = self.shipments.iter().zip(shipments).chain(self.voids.iter().zip(voids));
        for (counter, count) in counted {
            if count > 0 {
                counter.increment(count);
            }
        }
    }

    /// Shows where the notifier stands.
    pub(super) fn publish(&mut self, notifier: &Notifier, now_us: u64) {
        self.held.set(notifier.held() as f64);
        self.in_flight.set(notifier.in_flight() as f64);
        self.breaker.set(match notifier.breaker() {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        });
        let (now, before) = (notifier.counters(), std::mem::replace(&mut self.seen, notifier.counters()));
        self.retried.increment(now.retried_shipments - before.retried_shipments);
        let alien = now.alien_results - before.alien_results;
        let repeated = now.repeated_results - before.repeated_results;
        let overlong = now.overlong_tracking_numbers - before.overlong_tracking_numbers;
        if alien + repeated + overlong > 0 {
            self.odd(alien, repeated, overlong, now_us);
        }
    }

    /// The carrier said things it was not asked for.
    pub(super) fn odd(&mut self, alien: u64, repeated: u64, overlong: u64, now_us: u64) {
        self.alien.increment(alien);
        self.repeated.increment(repeated);
        self.overlong.increment(overlong);
        if let Some(suppressed) = self.oddities.pass(now_us) {
            let carrier = &*self.carrier;
            tracing::warn!(carrier, alien, repeated, overlong, suppressed, "odd results were ignored");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_those_held_back_are_counted() {
        let mut gate = Gate::new(2);
        let passed: Vec<_> = (0..5).map(|at| gate.pass(at)).collect();
        assert_eq!(passed, [Some(0), Some(0), None, None, None]);
        assert_eq!(gate.pass(PERIOD_US), Some(3));
        assert_eq!(gate.pass(PERIOD_US), Some(0));
        assert_eq!(gate.pass(PERIOD_US + 1), None);
    }
}
