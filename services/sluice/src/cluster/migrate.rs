//! `sluice migrate`: topics and tables of a deployment, and the change of its partition count.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use sluice_engine_kafka_scylla::{
    LogConfig,
    groups::Forgotten,
    store::Store,
    topics::{self, MigratedTopics},
};
use sluice_pipeline::Clock;

use super::{ClusterConfig, ClusterError};
use crate::{clock::SystemClock, config::Config, exit, output};

const EXAMPLES: &str = "\
Examples:
  sluice migrate --config sluice.toml                  # creates what is missing; safe to repeat, once for a new carrier
  sluice migrate --config sluice.toml --partitions 64  # with all nodes stopped and nothing left to do
  sluice migrate --config sluice.toml --forgotten swift=latest   # with that carrier's nodes stopped; may be repeated";

/// Creates and upgrades the topics and tables of a deployment.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct MigrateArgs {
    /// Configuration file with a [cluster] section
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Deal the slots out to this many partitions. Refused while any node runs or anything lags
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: Option<u16>,
    /// Where a carrier goes on whose offsets the brokers have forgotten, as they do after a week without its workers: with
    /// every shipment again ("earliest"), or with the next one ("latest")
    #[arg(long, value_name = "CARRIER=WHERE", value_parser = forgotten)]
    pub forgotten: Vec<(String, Forgotten)>,
    /// Print what was done as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Reads `CARRIER=earliest` or `CARRIER=latest`.
fn forgotten(text: &str) -> Result<(String, Forgotten), String> {
    let at = match text.split_once('=') {
        Some((carrier, "earliest")) => (carrier, Forgotten::Earliest),
        Some((carrier, "latest")) => (carrier, Forgotten::Latest),
        _ => return Err("expected CARRIER=earliest or CARRIER=latest".to_owned()),
    };
    Ok((at.0.to_owned(), at.1))
}

#[derive(Serialize)]
struct Report {
    topics: MigratedTopics,
    schema_from: u32,
    schema_to: u32,
}

/// Runs the command and gives the exit code.
pub async fn command(args: MigrateArgs, config: Config) -> u8 {
    let Some(cluster) = config.cluster.clone() else {
        output::fault("cluster: expected a [cluster] section; `sluice worker --example` shows it");
        return exit::USAGE;
    };
    for warning in cluster.warnings() {
        tracing::warn!("{warning}");
    }
    let log = match cluster.log(&config) {
        Ok(log) => log,
        Err(error) => {
            output::fault(error);
            return exit::USAGE;
        }
    };
    if let Some((carrier, _)) = args.forgotten.iter().find(|(id, _)| log.carriers.iter().all(|known| **known != **id)) {
        output::fault(format_args!("--forgotten {carrier:?}: expected one of {}", log.carriers.join(", ")));
        return exit::USAGE;
    }
    match run(&args, &log, &cluster).await {
        Ok(report) if args.json => output::json(&report),
        Ok(report) => show(&report),
        Err(error) => {
            output::fault(&error);
            return exit::NO_SERVER;
        }
    }
    exit::OK
}

async fn run(args: &MigrateArgs, log: &LogConfig, cluster: &ClusterConfig) -> Result<Report, ClusterError> {
    let clock = SystemClock::new();
    let forgotten = args.forgotten.iter().cloned().collect();
    // Tables first: what a newer program has left there ends this before any topic is touched.
    let schema = Store::migrate(&cluster.rows()).await?;
    let mut done = topics::migrate(log, clock.now_ms(), &forgotten).await?;
    if let Some(partitions) = args.partitions.filter(|&n| n != done.deployment.partitions) {
        let changed = topics::repartition(log, partitions, clock.now_ms()).await?;
        done.widened = changed.widened;
        done.deployment = changed.deployment;
    }
    Ok(Report { topics: done, schema_from: schema.from, schema_to: schema.to })
}

fn show(report: &Report) {
    let deployment = report.topics.deployment;
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    output::result(format!(
        "deployment     epoch {}, {} partitions, {} slots\ntopics created {}\ntopics widened {}\ngroups moved   {}\nschema         {} -> {}",
        deployment.epoch,
        deployment.partitions,
        deployment.slots,
        list(&report.topics.created),
        list(&report.topics.widened),
        list(&report.topics.moved),
        report.schema_from,
        report.schema_to,
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_carrier_goes_on_is_said_by_its_name() {
        assert_eq!(forgotten("swift=earliest"), Ok(("swift".to_owned(), Forgotten::Earliest)));
        assert_eq!(forgotten("swift=latest"), Ok(("swift".to_owned(), Forgotten::Latest)));
        for wrong in ["swift", "latest", "swift=", "swift=last", "=", ""] {
            assert!(forgotten(wrong).is_err_and(|error| error.contains("CARRIER=earliest")), "{wrong}");
        }
    }
}
