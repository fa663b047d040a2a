//! `sluice serve`: the pipeline for good, until a signal drains it.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    config::Config,
    exit,
    output::{self, count},
    signals::{Hangup, Stop},
    telemetry,
    topology::{DrainReceipt, Pipeline},
};

const EXAMPLES: &str = "\
Examples:
  sluice serve --config sluice.toml
  SLUICE_LISTEN=0.0.0.0:8080 SLUICE_LOG_FORMAT=json sluice serve --config /etc/sluice.toml
  sluice serve --example > sluice.toml

SIGTERM or SIGINT drains: no new orders (503 with Retry-After), what is in flight is finished up to drain_deadline_s, and
a receipt goes to standard output. A second signal ends the process at once; nothing acknowledged is lost by that either.
SIGHUP has merchants' and operators' keys, the certificate, rules and model read again.";

/// Runs the pipeline: takes orders over HTTP, makes them durable, and brings them to their carriers.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    pub config: Option<PathBuf>,
    /// Print the receipt as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write the URL of the API to this file once it takes orders
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Print a configuration with every key, its meaning and its default, and end
    #[arg(long)]
    pub example: bool,
}

/// Runs the pipeline until a signal or a failure, and gives the exit code.
pub async fn command(args: ServeArgs, config: Config, warnings: Vec<String>) -> u8 {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let deadline = Duration::from_secs(config.drain_deadline_s.into());
    let folder = config.data_dir.display().to_string();
    let (mut stop, hangup) = match Stop::listen().and_then(|stop| Ok((stop, Hangup::listen()?))) {
        Ok(signals) => signals,
        Err(error) => {
            output::fault(format_args!("signals can't be taken over: {error}"));
            return exit::INTERNAL;
        }
    };
    let pipeline = match Box::pin(Pipeline::start(config)).await {
        Ok(pipeline) => pipeline,
        Err(error) => {
            output::fault(&error);
            return error.exit_code();
        }
    };
    announce(&pipeline, &folder);
    if let Some(path) = &args.config {
        pipeline.live().watch(hangup, path.clone());
    }
    if let Some(path) = &args.ready_file
        && let Err(error) = std::fs::write(path, format!("{}\n", pipeline.url()))
    {
        output::fault(format_args!("--ready-file {}: {error}", path.display()));
        return exit::USAGE;
    }
    tokio::select! {
        why = pipeline.failure() => {
            tracing::error!(why, "ending: the engine can't go on; nothing acknowledged is lost, a restart recovers it");
            return exit::IO;
        }
        (signal, _) = stop.next() => tracing::info!(signal, "draining"),
    }
    let receipt = tokio::select! {
        receipt = Box::pin(pipeline.drain(deadline)) => receipt,
        (signal, code) = stop.next() => {
            tracing::warn!(signal, "ending at once; what is in flight stays in the journal");
            return code;
        }
    };
    show(&receipt, args.json);
    exit::OK
}

/// Prints a receipt, for people or machines.
pub(crate) fn show(receipt: &DrainReceipt, json: bool) {
    if json {
        output::json(receipt);
    } else {
        output::result(table(receipt));
    }
}

/// Prints the example configuration.
#[must_use]
pub fn example() -> u8 {
    output::result(crate::config::EXAMPLE.trim_end());
    exit::OK
}

fn announce(pipeline: &Pipeline, folder: &str) {
    let (found, counts) = (pipeline.recovered(), pipeline.counts());
    tracing::info!(
        folder,
        orders = counts.accepted,
        in_flight = counts.in_flight,
        replayed_orders = found.orders,
        replayed_groups = found.groups,
        replayed_bytes = found.bytes,
        "recovered"
    );
    if let Some(position) = found.torn_at {
        tracing::warn!(position, "an unfinished last write was cut off; nothing in it was acknowledged");
    }
    let rss_bytes = telemetry::resident_bytes().unwrap_or(0);
    tracing::info!(url = pipeline.url(), rss_bytes, "listening");
}

fn table(receipt: &DrainReceipt) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    for (name, value) in [
        ("accepted", receipt.accepted.map(count)),
        ("finished", receipt.finished.map(count)),
        ("dead-lettered", receipt.dead_lettered.map(count)),
        ("left in the journal", Some(count(receipt.left_in_journal))),
        ("duplicates suppressed", receipt.duplicates_suppressed.map(count)),
        ("drained in", Some(format!("{:.2} s", receipt.seconds))),
    ] {
        if let Some(value) = value {
            table.add_row([name.to_owned(), value]);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_has_everything_in_both_forms() {
        let receipt = DrainReceipt {
            accepted: Some(12_345),
            finished: Some(12_000),
            dead_lettered: Some(5),
            left_in_journal: 340,
            duplicates_suppressed: Some(7),
            seconds: 1.5,
        };
        let text = table(&receipt);
        for part in ["12,345", "12,000", "340", "7", "1.50 s"] {
            assert!(text.contains(part), "{text}");
        }
        let json = serde_json::to_value(&receipt).unwrap();
        assert_eq!(json["left_in_journal"], 340);
        assert_eq!(json["duplicates_suppressed"], 7);
    }
}
