//! What a run says at its end, to people as a table and to programs as one JSON object.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use sluice_carrier::simulated::LedgerError;

use super::html::Curves;
use super::judge::Judgement;
use super::sender::Sent;
use super::tally::LatencySummary;

/// The rate was held if 99 % of the orders left at most this long after they were due …
const MAX_LAG_P99: Duration = Duration::from_millis(100);
/// … and this share of those intended was acknowledged.
const MIN_ACKNOWLEDGED: f64 = 0.99;

/// The result of a run. Orders are counted one by one, never by subtraction of other classes.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// Orders that were due.
    pub orders_intended: u64,
    /// Orders that were sent at least once.
    pub orders_sent: u64,
    /// Orders acknowledged, each under its own key.
    pub orders_accepted: u64,
    /// Of these: after the same key had been sent more than once.
    pub orders_retried: u64,
    /// Orders with a final answer other than an acknowledgement.
    pub orders_rejected: u64,
    /// Orders without an answer that may have been taken.
    pub orders_unanswered: u64,
    /// Orders given up that were certainly not taken.
    pub orders_not_taken: u64,
    /// Orders that were due but never sent.
    pub orders_unsent: u64,
    /// Answers 429 and 503, one per order in each refused request.
    pub refusals: u64,
    /// Connections that broke, timed out or couldn't be opened.
    pub disconnects: u64,
    /// Answers other than 2xx by status, per order.
    pub statuses: BTreeMap<u16, u64>,
    /// Whether the generator and the server kept up: 99 % of the orders left within 100 ms of their intended time, and
    /// 99 % of those intended were acknowledged.
    pub rate_held: bool,
    /// Intended mean rate, orders/s.
    pub intended_per_second: f64,
    /// Acknowledged orders/s from the start to the last acknowledgement.
    pub orders_per_second: f64,
    /// From the start to the last acknowledgement, in seconds.
    pub seconds: f64,
    /// How late orders left, in milliseconds; up to about 1 ms is the pacemaker's own.
    pub lag_ms: LatencySummary,
    /// Processor time of the sender, in seconds; null where the system doesn't tell.
    pub sender_cpu_seconds: Option<f64>,
    /// Latencies in milliseconds.
    pub latency_ms: LatencyReport,
    /// Acknowledged orders that were read back; the counts below are among these.
    pub orders_judged: u64,
    /// Whether those are a sample.
    pub sampled: bool,
    /// Taken by a carrier, or nothing to ship.
    pub orders_finished: u64,
    /// Undecided at the end.
    pub orders_in_flight: u64,
    /// Dead-lettered.
    pub orders_dead_lettered: u64,
    /// Cancelled.
    pub orders_cancelled: u64,
    /// Acknowledged and not found.
    pub orders_lost: u64,
    /// Acknowledged and never readable.
    pub orders_unread: u64,
    /// Ids that were given to more than one order.
    pub duplicate_ids: u64,
    /// Parcel ids that more than one parcel has.
    pub duplicate_parcels: u64,
    /// How often a carrier took a parcel that had been taken already; null without readable ledgers.
    pub duplicate_effects: Option<u64>,
    /// Why the carriers' ledgers couldn't be read, if they were given.
    pub ledger_problem: Option<String>,
    /// Some orders that are lost, in flight or unread.
    pub examples: Vec<String>,
    /// The first thing that went wrong, as the server or the system put it.
    pub first_problem: Option<String>,
    /// What plots are drawn from.
    #[serde(skip)]
    pub curves: Curves,
}

/// Latencies of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyReport {
    /// From the intended send time to the acknowledgement.
    pub ack: LatencySummary,
    /// From placed to the last parcel that a carrier took, by the server's own time line.
    pub carrier: LatencySummary,
    /// Of reading one order back.
    pub read: LatencySummary,
}

impl LoadReport {
    /// Puts together what was sent and what became of it.
    #[must_use]
    pub fn new(sent: &Sent, judgement: &Judgement) -> Self {
        let tally = &sent.tally;
        let enough = tally.acknowledged as f64 >= sent.intended as f64 * MIN_ACKNOWLEDGED;
        Self {
            orders_intended: sent.intended,
            orders_sent: tally.sent,
            orders_accepted: tally.acknowledged,
            orders_retried: tally.retried,
            orders_rejected: tally.rejected,
            orders_unanswered: tally.unanswered,
            orders_not_taken: tally.not_taken,
            orders_unsent: tally.unsent,
            refusals: tally.refused,
            disconnects: tally.disconnects,
            statuses: tally.statuses.clone(),
            rate_held: enough && tally.lag.quantile(0.99) <= MAX_LAG_P99,
            intended_per_second: sent.intended_rate,
            orders_per_second: sent.achieved_rate(),
            seconds: sent.elapsed.as_secs_f64(),
            lag_ms: tally.lag.summary(),
            sender_cpu_seconds: sent.cpu.map(|cpu| cpu.as_secs_f64()),
            latency_ms: LatencyReport {
                ack: tally.ack.summary(),
                carrier: judgement.carrier.summary(),
                read: judgement.read.summary(),
            },
            orders_judged: judgement.judged,
            sampled: judgement.sampled,
            orders_finished: judgement.finished,
            orders_in_flight: judgement.in_flight,
            orders_dead_lettered: judgement.dead_lettered,
            orders_cancelled: judgement.cancelled,
            orders_lost: judgement.lost,
            orders_unread: judgement.unread,
            duplicate_ids: judgement.duplicate_ids,
            duplicate_parcels: judgement.duplicate_parcels,
            duplicate_effects: None,
            ledger_problem: None,
            examples: judgement.examples.clone(),
            first_problem: tally.first_problem.clone().or_else(|| judgement.first_problem.clone()),
            curves: Curves {
                series: tally.series.clone(),
                ack: tally.ack.clone(),
                carrier: judgement.carrier.clone(),
                read: judgement.read.clone(),
            },
        }
    }

    /// Adds what the carriers' ledgers tell.
    pub fn add_effects(&mut self, read: Result<u64, LedgerError>) {
        match read {
            Ok(duplicates) => self.duplicate_effects = Some(duplicates),
            Err(error) => self.ledger_problem = Some(error.to_string()),
        }
    }

    /// Whether the run shows what it is there to show: something was acknowledged, and none of it that was judged is lost,
    /// doubled, in flight or unreadable.
    #[must_use]
    pub fn passed(&self) -> bool {
        let bad = self.orders_lost + self.orders_in_flight + self.orders_unread;
        let doubled = self.duplicate_ids + self.duplicate_parcels + self.duplicate_effects.unwrap_or(0);
        self.orders_accepted > 0 && bad + doubled == 0 && self.ledger_problem.is_none()
    }

    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        let held = if self.rate_held { "yes" } else { "no" };
        row("rate held", held.to_owned());
        row("intended rate", format!("{} orders/s", count(self.intended_per_second as u64)));
        row("achieved rate", format!("{} orders/s", count(self.orders_per_second as u64)));
        let lag = &self.lag_ms;
        row("schedule lag", format!("p99 {:.1} ms, max {:.1} ms", lag.p99, lag.max));
        if let Some(cpu) = self.sender_cpu_seconds {
            row("sender", format!("{:.2} of a core", cpu / self.seconds.max(1e-6)));
        }
        row("intended", count(self.orders_intended));
        row("acknowledged", format!("{} ({} after a retry)", count(self.orders_accepted), count(self.orders_retried)));
        row("refused (429, 503)", count(self.refusals));
        let errors = [
            (self.orders_rejected, "rejected"),
            (self.orders_unanswered, "unanswered"),
            (self.orders_not_taken, "not taken"),
            (self.orders_unsent, "unsent"),
            (self.disconnects, "connections lost"),
        ];
        row("errors", list(&errors));
        row("ack latency", latency(&self.latency_ms.ack));
        if self.orders_judged > 0 {
            row("carrier latency", latency(&self.latency_ms.carrier));
            row("read latency", latency(&self.latency_ms.read));
            row("judged", self.judged());
        }
        if self.orders_judged > 0 || self.duplicate_effects.is_some() {
            let bad = [
                (self.orders_lost, "lost"),
                (self.orders_in_flight, "in flight"),
                (self.orders_unread, "unreadable"),
                (self.duplicate_ids, "order ids given twice"),
                (self.duplicate_parcels, "parcel ids given twice"),
                (self.duplicate_effects.unwrap_or(0), "effects doubled at carriers"),
            ];
            let all_good = bad.iter().all(|(number, _)| *number == 0);
            row("conservation", if all_good { "kept".to_owned() } else { list(&bad) });
        }
        if let Some(column) = table.column_mut(0) {
            column.set_cell_alignment(CellAlignment::Left);
        }
        let mut text = table.trim_fmt();
        if !self.examples.is_empty() {
            text.push_str(&format!("\nlook at: GET /v1/orders/{}", self.examples.join(", ")));
        }
        if let Some(problem) = &self.ledger_problem {
            text.push_str(&format!("\nthe effects aren't judged: {problem}"));
        }
        if let Some(problem) = &self.first_problem {
            text.push_str(&format!("\nfirst problem: {problem}"));
            if self.statuses.contains_key(&401) || self.statuses.contains_key(&403) {
                text.push_str("\nthe server doesn't know the key: give --merchant ID:KEY as in its configuration");
            }
        }
        text
    }

    fn judged(&self) -> String {
        let classes = [
            (self.orders_finished, "finished"),
            (self.orders_dead_lettered, "dead-lettered"),
            (self.orders_cancelled, "cancelled"),
        ];
        let which = if self.sampled { "a sample of " } else { "all " };
        format!("{which}{}: {}", count(self.orders_judged), list(&classes))
    }
}

fn latency(summary: &LatencySummary) -> String {
    let LatencySummary { p50, p99, p999, max } = summary;
    format!("p50 {p50:.1} ms, p99 {p99:.1} ms, p99.9 {p999:.1} ms, max {max:.1} ms")
}

/// The counts that aren't zero, or `none`.
fn list(counts: &[(u64, &str)]) -> String {
    let named: Vec<String> = counts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, name)| format!("{} {name}", count(*number)))
        .collect();
    if named.is_empty() { "none".to_owned() } else { named.join(", ") }
}

/// A number with its thousands apart.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::acks::AckLog;
    use crate::load::tally::Tally;

    fn sent(change: impl FnOnce(&mut Tally)) -> Sent {
        let mut tally = Tally { sent: 1_000, acknowledged: 1_000, ..Tally::default() };
        tally.ack.record(Duration::from_millis(3), 1_000);
        tally.lag.record(Duration::from_millis(1), 1_000);
        change(&mut tally);
        Sent {
            acks: AckLog::new(),
            tally,
            intended: 1_000,
            intended_rate: 500.0,
            elapsed: Duration::from_secs(2),
            cpu: Some(Duration::from_millis(500)),
        }
    }

    fn judgement() -> Judgement {
        Judgement { judged: 1_000, finished: 990, dead_lettered: 10, ..Judgement::default() }
    }

    #[test]
    fn a_good_run_says_so() {
        let report = LoadReport::new(&sent(|_| {}), &judgement());
        assert!(report.passed() && report.rate_held);
        let table = report.table();
        for text in
            ["yes", "500 orders/s", "0.25 of a core", "p50 3.0 ms", "all 1,000: 990 finished, 10 dead-lettered", "kept"]
        {
            assert!(table.contains(text), "{text}:\n{table}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["orders_finished"], 990);
        assert_eq!(json["latency_ms"]["ack"]["p50"], 3.001, "to three digits");
    }

    #[test]
    fn what_went_wrong_is_told_with_the_next_step() {
        let sent = sent(|tally| {
            tally.acknowledged = 10;
            tally.rejected = 990;
            tally.status(401, 990, b"unknown key");
        });
        let judgement = Judgement { lost: 2, examples: vec!["01X".into()], ..judgement() };
        let report = LoadReport::new(&sent, &judgement);
        assert!(!report.passed() && !report.rate_held);
        let table = report.table();
        for text in ["990 rejected", "2 lost", "GET /v1/orders/01X", "401: unknown key", "--merchant ID:KEY"] {
            assert!(table.contains(text), "{text}:\n{table}");
        }
    }

    #[test]
    fn a_doubled_effect_fails_the_run_whatever_the_views_say() {
        let mut report = LoadReport::new(&sent(|_| {}), &judgement());
        report.add_effects(Ok(0));
        assert!(report.passed());
        report.add_effects(Ok(1));
        assert!(!report.passed());
        assert!(report.table().contains("1 effects doubled at carriers"), "{}", report.table());
        report.add_effects(Ok(0));
        report.ledger_problem = Some("ledger x, line 3".into());
        assert!(!report.passed() && report.table().contains("line 3"));
    }

    #[test]
    fn a_rate_is_held_only_without_lag_and_with_answers() {
        let held = |change: fn(&mut Tally)| LoadReport::new(&sent(change), &judgement()).rate_held;
        assert!(held(|tally| tally.acknowledged = 990));
        assert!(!held(|tally| tally.acknowledged = 989));
        assert!(held(|tally| tally.lag.record(Duration::from_secs(1), 10)));
        assert!(!held(|tally| tally.lag.record(Duration::from_secs(1), 11)));
    }

    #[test]
    fn nothing_acknowledged_shows_nothing() {
        let sent = sent(|tally| tally.acknowledged = 0);
        assert!(!LoadReport::new(&sent, &Judgement::default()).passed());
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
