//! What the demo says at its end, to people as tables and to programs as one JSON object.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde::Serialize;

use super::{
    journeys::{Entry, Journey},
    proof::{CarrierEffects, Proof},
    traffic::Sent,
};
use crate::{
    load::{LatencySummary, unix_micros},
    output::count,
};

/// The result of a run. Orders are counted one by one, by id; no class is what is left of the others.
#[derive(Debug, Clone, Serialize)]
pub struct DemoReport {
    /// Whether every order is where it belongs and every effect belongs to one of them.
    pub conserved: bool,
    /// Orders acknowledged.
    pub orders_accepted: u64,
    /// Every parcel taken by a carrier, or nothing to ship.
    pub orders_finished: u64,
    /// Undecided at the end.
    pub orders_in_flight: u64,
    /// Dead-lettered, the planted ones among them.
    pub orders_dead_lettered: u64,
    /// Cancelled.
    pub orders_cancelled: u64,
    /// Acknowledged and not known.
    pub orders_lost: u64,
    /// Acknowledged and not readable.
    pub orders_unread: u64,
    /// Orders planted to be dead-lettered.
    pub orders_planted: u64,
    /// Planted orders that weren't dead-lettered.
    pub planted_astray: u64,
    /// Acknowledgements under an id that another order has.
    pub duplicate_ids: u64,
    /// Times that a carrier took a parcel which had been taken already.
    pub duplicate_effects: u64,
    /// Parcels that are called taken and that no carrier took.
    pub missing_effects: u64,
    /// Parcels that a carrier took, and that are not called so.
    pub stray_effects: u64,
    /// Parcels taken by carriers.
    pub parcels: u64,
    /// Orders posted a second time …
    pub duplicates_sent: u64,
    /// … and recognised, with the first answer's id.
    pub duplicates_recognised: u64,
    /// Answers that said to come back later, one an order.
    pub refusals: u64,
    /// Acknowledged orders a second, from the first request to the last acknowledgement.
    pub orders_per_second: f64,
    /// From the first request to the last acknowledgement.
    pub seconds: f64,
    /// From the first request to the last parcel that a carrier took.
    pub seconds_to_last_carrier: f64,
    /// Latencies.
    pub latency_ms: DemoLatencies,
    /// Orders that `latency_ms.status` was measured on.
    pub status_samples: u64,
    /// What each carrier did, by the ledger.
    pub carriers: BTreeMap<String, CarrierEffects>,
    /// Dead-lettered orders by reason.
    pub dead_letter_reasons: BTreeMap<String, u64>,
    /// Some orders that something is wrong with.
    pub examples: Vec<String>,
    /// The first reading that failed.
    pub first_problem: Option<String>,
    /// Two more orders, followed to their end, by the status that they ended with.
    pub journeys: BTreeMap<&'static str, Journey>,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DemoLatencies {
    /// From the first byte of the request to the answer, by the client's clock.
    pub ack: LatencySummary,
    /// From placed until the goods were known and split, by the order's time line.
    pub classified: LatencySummary,
    /// From placed until a carrier had taken the last parcel, by the order's time line.
    pub carrier: LatencySummary,
    /// From the first byte of the request until a `GET` said that a carrier has taken the order, by the client's clock, on
    /// a sample of single orders that were looked at every 2 ms.
    pub status: LatencySummary,
}

impl DemoReport {
    /// Puts together what was sent and what was proved.
    #[must_use]
    pub fn new(
        sent: &Sent,
        accepted: u64,
        planted: u64,
        proof: &Proof,
        journeys: BTreeMap<&'static str, Journey>,
    ) -> Self {
        let last = proof.last_taken_ms.saturating_sub(sent.started_ms) as f64 / 1e3;
        Self {
            conserved: proof.holds(accepted) && sent.again == sent.recognised,
            orders_accepted: accepted,
            orders_finished: proof.finished,
            orders_in_flight: proof.in_flight,
            orders_dead_lettered: proof.dead_lettered,
            orders_cancelled: proof.cancelled,
            orders_lost: proof.lost,
            orders_unread: proof.unread,
            orders_planted: planted,
            planted_astray: proof.planted_astray,
            duplicate_ids: proof.duplicate_ids,
            duplicate_effects: proof.duplicate_effects,
            missing_effects: proof.missing_effects,
            stray_effects: proof.stray_effects,
            parcels: proof.parcels,
            duplicates_sent: sent.again,
            duplicates_recognised: sent.recognised,
            refusals: sent.refused,
            orders_per_second: (accepted as f64 / sent.seconds.max(1e-6)).round(),
            seconds: sent.seconds,
            seconds_to_last_carrier: last,
            latency_ms: DemoLatencies {
                ack: sent.ack.summary(),
                classified: proof.classified.summary(),
                carrier: proof.carrier.summary(),
                status: sent.status.summary(),
            },
            status_samples: sent.status.count(),
            carriers: proof.carriers.clone(),
            dead_letter_reasons: proof.reasons.clone(),
            examples: proof.examples.clone(),
            first_problem: proof.problem.clone(),
            journeys,
        }
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut parts = vec![self.stages(), self.carriers_table(), self.verdict()];
        parts.extend(self.journeys.values().map(journey));
        if let Some(problem) = &self.first_problem {
            parts.push(format!("first problem: {problem}"));
        }
        if !self.examples.is_empty() {
            parts.push(format!("look at: {}", self.examples.join(", ")));
        }
        parts.join("\n\n")
    }

    fn stages(&self) -> String {
        let mut table = table(&["stage", "orders", "orders/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms"], 1);
        let rate = |orders: u64, seconds: f64| count((orders as f64 / seconds.max(1e-6)) as u64);
        let l = &self.latency_ms;
        let accepted = self.orders_accepted;
        let to_last = self.seconds_to_last_carrier;
        for (stage, orders, per_second, latency) in [
            ("acknowledged (durable)", accepted, rate(accepted, self.seconds), &l.ack),
            ("classified and split", accepted, rate(accepted, self.seconds), &l.classified),
            ("taken by carriers", self.orders_finished, rate(self.orders_finished, to_last), &l.carrier),
            ("status readable (sample)", self.status_samples, String::new(), &l.status),
        ] {
            let mut row = vec![stage.to_owned(), count(orders), per_second];
            let LatencySummary { p50, p99, p999, max } = latency;
            row.extend([p50, p99, p999, max].map(|ms| format!("{ms:.1}")));
            table.add_row(row);
        }
        table.trim_fmt()
    }

    fn carriers_table(&self) -> String {
        let mut table = table(&["carrier's ledger", "parcels taken", "turned down", "asked again"], 1);
        for (id, done) in &self.carriers {
            table.add_row([id.clone(), count(done.accepted), count(done.rejected), count(done.repeated)]);
        }
        table.trim_fmt()
    }

    fn verdict(&self) -> String {
        let mut lines = vec![format!(
            "{} orders acknowledged = {} finished + {} dead-lettered + {} cancelled + {} in flight + {} lost",
            count(self.orders_accepted),
            count(self.orders_finished),
            count(self.orders_dead_lettered),
            count(self.orders_cancelled),
            count(self.orders_in_flight),
            count(self.orders_lost),
        )];
        for (reason, orders) in &self.dead_letter_reasons {
            lines.push(format!("  {} dead-lettered: {reason}", count(*orders)));
        }
        lines.push(format!(
            "{} orders were posted twice, {} of them recognised; {} answers said to come back later",
            count(self.duplicates_sent),
            count(self.duplicates_recognised),
            count(self.refusals)
        ));
        lines.push(format!(
            "{} parcels taken, each in the ledger once: {} doubled, {} missing, {} stray",
            count(self.parcels),
            count(self.duplicate_effects),
            count(self.missing_effects),
            count(self.stray_effects)
        ));
        lines.push(String::new());
        lines.push(if self.conserved {
            "CONSERVED: every acknowledged order is in exactly one class, and every parcel has exactly one carrier.".into()
        } else {
            format!(
                "NOT CONSERVED: {} lost, {} in flight, {} unreadable, {} doubled effects, {} missing, {} stray, {} ids given twice, {} planted orders astray.",
                self.orders_lost,
                self.orders_in_flight,
                self.orders_unread,
                self.duplicate_effects,
                self.missing_effects,
                self.stray_effects,
                self.duplicate_ids,
                self.planted_astray
            )
        });
        lines.join("\n")
    }
}

/// One order's time line, in ms from its first entry.
fn journey(journey: &Journey) -> String {
    let at = |entry: &Entry| unix_micros(&entry.at).unwrap_or(0) / 1_000;
    let first = journey.timeline.first().map_or(0, at);
    let head = format!("order {}", journey.id);
    let mut table = table(&[&head, "ms", ""], 1);
    for entry in &journey.timeline {
        let ms = count(u64::try_from(at(entry) - first).unwrap_or(0));
        table.add_row([entry.milestone.clone(), ms, entry.detail.clone().unwrap_or_default()]);
    }
    if let Some(details) = table.column_mut(2) {
        details.set_cell_alignment(CellAlignment::Left);
    }
    table.trim_fmt()
}

/// A table whose columns from `right` on are numbers.
fn table(head: &[&str], right: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_style(TableComponent::HeaderLines, '─').set_header(head);
    for column in table.column_iter_mut().skip(right) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report(change: impl FnOnce(&mut Proof)) -> DemoReport {
        let mut sent = Sent { started_ms: 1_000, seconds: 0.5, again: 20, recognised: 20, ..Sent::default() };
        sent.ack.record(Duration::from_millis(3), 1_000);
        let mut proof =
            Proof { finished: 997, dead_lettered: 3, parcels: 2_000, last_taken_ms: 3_000, ..Proof::default() };
        proof.reasons.insert("too heavy".into(), 3);
        change(&mut proof);
        let entry = |milestone: &str, at: &str| Entry { milestone: milestone.into(), at: at.into(), detail: None };
        let timeline =
            vec![entry("accepted", "2026-11-11T00:00:00.100Z"), entry("cancelled", "2026-11-11T00:00:01.334Z")];
        let journey = Journey { id: "01X".into(), status: "cancelled".into(), timeline };
        DemoReport::new(&sent, 1_000, 3, &proof, BTreeMap::from([("cancelled", journey)]))
    }

    #[test]
    fn a_kept_promise_is_said_with_its_figures() {
        let report = report(|_| {});
        assert!(report.conserved);
        let text = report.text();
        for part in [
            "1,000 orders acknowledged = 997 finished + 3 dead",
            "3 dead-lettered: too heavy",
            "CONSERVED",
            "2,000",
            "1,234",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        for key in [
            "orders_accepted",
            "orders_finished",
            "orders_in_flight",
            "orders_dead_lettered",
            "orders_cancelled",
            "orders_lost",
            "duplicate_effects",
            "orders_per_second",
        ] {
            assert!(json[key].is_number(), "{key}");
        }
        for stage in ["ack", "carrier", "status"] {
            for figure in ["p50", "p99", "p999", "max"] {
                assert!(json["latency_ms"][stage][figure].is_number(), "{stage} {figure}");
            }
        }
        assert_eq!(json["orders_per_second"], 2_000.0);
        assert_eq!(json["seconds_to_last_carrier"], 2.0);
    }

    #[test]
    fn a_broken_promise_is_named() {
        let report = report(|proof| {
            (proof.finished, proof.lost) = (996, 1);
            proof.examples.push("01X".into());
        });
        assert!(!report.conserved);
        let text = report.text();
        assert!(text.contains("NOT CONSERVED: 1 lost") && text.contains("look at: 01X"), "{text}");
    }
}
