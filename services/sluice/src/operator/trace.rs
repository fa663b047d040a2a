//! `sluice trace`: everything that happened to one order.

use clap::Args;
use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde::Deserialize;
use sluice_domain::OrderId;

use super::{
    client::{Client, Failed, ServerArgs},
    paint::plain,
    webhooks::{self, Webhook},
};
use crate::{exit, output, output::count};

const EXAMPLES: &str = "\
Examples:
  sluice trace 01M6VZ4W3V00J8Z8M3C0V9S1QK
  sluice trace 01M6VZ4W3V00J8Z8M3C0V9S1QK --json | jq '.parcels[].attempts'
  SLUICE_OPERATOR_KEY=… sluice trace 01M6VZ4W3V00J8Z8M3C0V9S1QK --url https://node:8080 --ca ca.pem

Exit codes: 0 shown; 1 there is no such order; 2 wrong usage or key; 3 no server, or one that doesn't do this.";

/// Shows every hop of an order: where the log has it, when what was decided by which rules, every attempt at every parcel,
/// what carriers told, the number of the public event that tells of each, and what became of these events at the merchant's
/// webhook endpoints.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct TraceArgs {
    /// The order's id
    #[arg(value_name = "ORDER_ID", value_parser = order_id)]
    pub order: OrderId,
    /// The node
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print the trace as one JSON object
    #[arg(long)]
    pub json: bool,
}

pub(super) fn order_id(text: &str) -> Result<OrderId, String> {
    text.parse::<OrderId>().map_err(|_| "expected the 26 characters of an order's id".to_owned())
}

/// Runs `sluice trace`, and gives the exit code.
pub async fn command(args: TraceArgs) -> u8 {
    let traced = async {
        let json = Client::new(&args.server)?.trace(args.order).await?;
        match args.json {
            true => output::result(String::from_utf8_lossy(&json).trim_end()),
            false => output::result(Trace::read(&json)?.text()),
        }
        Ok::<(), Failed>(())
    };
    match traced.await {
        Ok(()) => exit::OK,
        Err(failed) => {
            output::fault(&failed);
            failed.exit_code()
        }
    }
}

/// A trace as the server wrote it; what is missing here is for programs alone.
#[derive(Debug, Deserialize)]
pub(super) struct Trace {
    pub id: String,
    pub merchant: Option<String>,
    pub customer: Option<String>,
    pub status: String,
    pub class: String,
    pub slot: u16,
    pub position: Option<String>,
    pub placed_at: String,
    pub accepted_at: Option<String>,
    pub decided_at: Option<String>,
    pub rules: Option<u32>,
    pub dead_letter: Option<DeadLetter>,
    pub unreadable: Option<String>,
    pub parcels: Vec<Parcel>,
    pub returns: Vec<Parcel>,
    hops: Vec<Hop>,
    /// None of a server that doesn't tell.
    #[serde(default)]
    webhooks: Vec<Webhook>,
}

#[derive(Debug, Deserialize)]
pub(super) struct DeadLetter {
    pub at: String,
    pub reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Parcel {
    pub number: u8,
    pub status: String,
    pub standing: String,
    pub handling: Option<String>,
    pub weight_g: Option<u32>,
    pub weight_estimated: bool,
    pub items: Vec<Item>,
    pub dead_letter: Option<DeadLetter>,
    pub attempts: Vec<Attempt>,
}

impl Parcel {
    /// Its weight for people, where `~` marks an estimate.
    pub(super) fn grams(&self) -> String {
        let mark = if self.weight_estimated { "~" } else { "" };
        self.weight_g.map_or("?".into(), |grams| format!("{mark}{}", count(grams.into())))
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Item {
    pub line: u16,
    pub sku: Option<String>,
    pub quantity: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Attempt {
    pub carrier: Option<String>,
    pub outcome: Option<String>,
    pub tracking_number: Option<String>,
    pub reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Hop {
    at: String,
    late_ms: i64,
    what: String,
    event: Option<u64>,
    parcel: Option<u8>,
    attempt: Option<u8>,
    carrier: Option<String>,
    outcome: Option<String>,
    rules: Option<u32>,
    detail: Option<String>,
}

impl Trace {
    pub fn read(json: &[u8]) -> Result<Self, Failed> {
        let odd = |error| Failed::Refused { status: 200, said: format!("no trace: {error}"), retry_after: None };
        serde_json::from_slice(json).map_err(odd)
    }

    /// Parcels to the customer, then those that come back.
    pub fn all_parcels(&self) -> impl Iterator<Item = &Parcel> {
        self.parcels.iter().chain(&self.returns)
    }

    /// Number of the event that tells of the last dead letter of a parcel, or of the whole order.
    pub fn dead_letter_told(&self, parcel: Option<u8>) -> Option<u64> {
        let dead = self.hops.iter().filter(|hop| hop.what == "dead_lettered" && hop.parcel == parcel);
        dead.filter_map(|hop| hop.event).max()
    }

    /// The order as a person reads it.
    fn text(&self) -> String {
        let mut text = self.head();
        if self.all_parcels().next().is_some() {
            text.push_str(&format!("\n\n{}", self.parcel_table()));
        }
        text = text + "\n\n" + &self.hop_table();
        self.webhooks.iter().for_each(|webhook| text.push_str(&format!("\n\n{}", webhooks::text(webhook))));
        text
    }

    /// What is to be said about the order as a whole.
    pub fn head(&self) -> String {
        let or = |text: &Option<String>| text.as_deref().map_or("unknown".into(), plain).into_owned();
        let time = |text: &Option<String>| text.as_deref().map_or("-".into(), plain).into_owned();
        let mut lines = vec![
            format!("order {}  {} ({})", plain(&self.id), plain(&self.status), plain(&self.class)),
            format!("  merchant {}  customer {}", or(&self.merchant), or(&self.customer)),
            format!("  log position {}  slot {}", time(&self.position), self.slot),
            format!("  placed {}  accepted {}", plain(&self.placed_at), time(&self.accepted_at)),
        ];
        let rules = self.rules.map_or(String::new(), |rules| format!(" by rules {rules}"));
        lines[3].push_str(&format!("  decided {}{rules}", time(&self.decided_at)));
        if let Some(dead) = &self.dead_letter {
            lines.push(format!("  dead-lettered {}: {}", plain(&dead.at), plain(&dead.reason)));
        }
        if let Some(what) = &self.unreadable {
            lines.push(format!("  can't be read: {}", plain(what)));
        }
        lines.join("\n")
    }

    fn parcel_table(&self) -> String {
        let mut table = table(&["parcel", "g", "status", "counts as", "handling", "items", "attempts"], &[0, 1]);
        for parcel in self.all_parcels() {
            table.add_row([
                parcel.number.to_string(),
                parcel.grams(),
                plain(&parcel.status).into_owned(),
                plain(&parcel.standing).into_owned(),
                parcel.handling.as_deref().map_or("?".into(), plain).into_owned(),
                items(&parcel.items),
                attempts(&parcel.attempts),
            ]);
        }
        table.trim_fmt()
    }

    fn hop_table(&self) -> String {
        let mut table = table(&["at", "ms", "event", "parcel", "attempt", "what", ""], &[1, 2, 3, 4]);
        let number = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
        for hop in &self.hops {
            let late = if hop.late_ms < 0 { "-" } else { "" };
            let said = [&hop.outcome, &hop.carrier, &hop.detail].into_iter().flatten().map(|text| plain(text));
            let mut said: Vec<_> = said.map(|text| text.into_owned()).collect();
            said.extend(hop.rules.map(|rules| format!("rules {rules}")));
            table.add_row([
                plain(&hop.at).into_owned(),
                format!("{late}{}", count(hop.late_ms.unsigned_abs())),
                number(hop.event),
                number(hop.parcel.map(u64::from)),
                number(hop.attempt.map(u64::from)),
                plain(&hop.what).into_owned(),
                said.join(", "),
            ]);
        }
        table.trim_fmt()
    }
}

/// What is in a parcel, on one line.
pub(super) fn items(items: &[Item]) -> String {
    let one = |item: &Item| {
        let sku = item.sku.as_deref().map_or_else(|| format!("line {}", item.line), |sku| plain(sku).into_owned());
        item.quantity.map_or(sku.clone(), |quantity| format!("{quantity} × {sku}"))
    };
    items.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Who was asked and what they said, on one line.
pub(super) fn attempts(attempts: &[Attempt]) -> String {
    let one = |attempt: &Attempt| {
        let carrier = attempt.carrier.as_deref().map_or("a carrier".into(), plain);
        let outcome = attempt.outcome.as_deref().map_or("asked".into(), plain);
        let said = attempt.tracking_number.as_ref().or(attempt.reason.as_ref());
        said.map_or(format!("{carrier} {outcome}"), |said| format!("{carrier} {outcome} ({})", plain(said)))
    };
    attempts.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// A table in which these columns are numbers.
pub(super) fn table(head: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_style(TableComponent::HeaderLines, '─').set_header(head);
    for &number in numbers {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The trace that is frozen where it is made.
    pub const GOLDEN: &[u8] = include_bytes!("../../../operator/src/trace_golden.json");

    #[test]
    fn a_trace_is_told_hop_by_hop() {
        let text = Trace::read(GOLDEN).unwrap().text();
        let told = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let told: Vec<_> = told.collect();
        for line in [
            "order 01M73YF0000BPNWFZHPPKC7FDC delivered (finished)",
            "merchant m-1 customer c-77",
            "log position 4136 slot 749",
            "placed 2026-11-11T00:00:00.000Z accepted 2026-11-11T00:00:00.005Z decided 2026-11-11T00:00:00.005Z by rules 3",
            "0 1,250 delivered accepted chilled 7 × x-0 picky rejected (too round); good accepted (T-0)",
            "200 1,250 carrier_requested undecided chilled 2 × x-0 good asked",
            "2026-11-11T00:00:00.040Z 40 1 0 0 settled rejected, picky, too round",
            "2026-11-11T00:00:04.000Z 4,000 9 200 return_requested of the 7 units in parcel 0: too small",
        ] {
            assert!(told.iter().any(|told| told == line), "{line}:\n{text}");
        }
        assert_eq!(text.lines().count(), 4 + 1 + 5 + 1 + 2 + 18, "{text}");
    }

    #[test]
    fn what_is_missing_is_said_and_nothing_steers_the_terminal() {
        let mut json: serde_json::Value = serde_json::from_slice(GOLDEN).unwrap();
        json["merchant"] = serde_json::Value::Null;
        json["unreadable"] = "record: order version is malformed".into();
        json["dead_letter"] = serde_json::json!({"at": "then", "reason": "poison\x1b[2J"});
        let text = Trace::read(json.to_string().as_bytes()).unwrap().text();
        assert!(
            text.contains("  merchant unknown") && text.contains("  can't be read: record: order version"),
            "{text}"
        );
        assert!(text.contains("  dead-lettered then: poison\u{fffd}[2J") && !text.contains('\x1b'), "{text}");
        assert!(Trace::read(b"{}").unwrap_err().to_string().contains("no trace"));
    }
}
