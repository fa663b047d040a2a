//! What webhooks show of themselves. Labels are bounded: no merchant, no endpoint.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::{
    core::{Counters, Heard, Outcome},
    registry::Registry,
};

pub(crate) struct Telemetry {
    /// Taken, failed, busy, gone, unmade.
    attempts: [Counter; 5],
    seconds: Histogram,
    /// Delivered, given up.
    events: [Counter; 2],
    gaps: Counter,
    /// Active, failing, disabled.
    endpoints: [Gauge; 3],
    parked: Gauge,
    in_flight: Gauge,
    waiting: Gauge,
    seen: Counters,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        describe_counter!("sluice_webhook_attempts_total", "Posts to merchants' webhooks, by result");
        describe_histogram!(
            "sluice_webhook_attempt_seconds",
            Unit::Seconds,
            "Time of one post to a merchant's webhook"
        );
        describe_counter!("sluice_webhook_events_total", "Events that webhooks are done with, by outcome");
        describe_counter!(
            "sluice_webhook_gaps_total",
            "Times that events were gone before an endpoint was told of them"
        );
        describe_gauge!("sluice_webhook_endpoints", "Webhook endpoints, by state");
        describe_gauge!("sluice_webhook_parked_events", "Events put aside until their next attempt");
        describe_gauge!("sluice_webhook_attempts_in_flight", "Posts to merchants' webhooks under way");
        describe_gauge!(
            "sluice_webhook_failing_seconds",
            Unit::Seconds,
            "How long the longest failing endpoint has been failing"
        );
        let attempt = |result| counter!("sluice_webhook_attempts_total", "result" => result);
        let event = |outcome| counter!("sluice_webhook_events_total", "outcome" => outcome);
        let endpoint = |state| gauge!("sluice_webhook_endpoints", "state" => state);
        Self {
            attempts: ["taken", "failed", "busy", "gone", "unmade"].map(attempt),
            seconds: histogram!("sluice_webhook_attempt_seconds"),
            events: ["delivered", "given_up"].map(event),
            gaps: counter!("sluice_webhook_gaps_total"),
            endpoints: ["active", "failing", "disabled"].map(endpoint),
            parked: gauge!("sluice_webhook_parked_events"),
            in_flight: gauge!("sluice_webhook_attempts_in_flight"),
            waiting: gauge!("sluice_webhook_failing_seconds"),
            seen: Counters::default(),
        }
    }

    pub(crate) fn attempt(&self, heard: &Heard) {
        let result = match heard.outcome {
            Outcome::Taken(_) => 0,
            Outcome::Failed(..) => 1,
            Outcome::Busy(..) => 2,
            Outcome::Gone => 3,
            Outcome::Unmade => 4,
        };
        self.attempts[result].increment(1);
        self.seconds.record(heard.took_ms as f64 / 1e3);
    }

    pub(crate) fn publish(&mut self, registry: &Registry, in_flight: usize, now: u64) {
        let (mut now_seen, mut states, mut parked, mut longest_ms) = (Counters::default(), [0u32; 3], 0, 0);
        for entry in registry.entries.values() {
            let counters = entry.core.counters();
            now_seen.delivered += counters.delivered;
            now_seen.given_up += counters.given_up;
            now_seen.gaps += counters.gaps;
            parked += entry.core.parked();
            let state = match (entry.endpoint.disabled, entry.core.is_failing()) {
                (Some(_), _) => 2,
                (None, true) => 1,
                (None, false) => 0,
            };
            states[state] += 1;
            if state == 1 {
                let since = entry.core.standing().failing_since_ms.unwrap_or(now);
                longest_ms = longest_ms.max(now.saturating_sub(since));
            }
        }
        // What a removed endpoint had counted is subtracted nowhere: counters never fall.
        self.events[0].increment(now_seen.delivered.saturating_sub(self.seen.delivered));
        self.events[1].increment(now_seen.given_up.saturating_sub(self.seen.given_up));
        self.gaps.increment(now_seen.gaps.saturating_sub(self.seen.gaps));
        self.seen = now_seen;
        self.endpoints.iter().zip(states).for_each(|(gauge, count)| gauge.set(f64::from(count)));
        self.parked.set(parked as f64);
        self.in_flight.set(in_flight as f64);
        self.waiting.set(longest_ms as f64 / 1e3);
    }
}
