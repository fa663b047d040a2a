//! `sluice rebuild`: drops the rows of a cluster and folds them anew from the log.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sluice_engine_kafka_scylla::{fold, store::Store, topics};

use super::{ClusterConfig, ClusterError};
use crate::{
    config::Config,
    exit,
    output::{self, count},
};

const EXAMPLES: &str = "\
Examples:
  sluice rebuild --config sluice.toml        # with all nodes stopped

The log is the truth and rows are its fold: nothing is lost by dropping them. Interrupted, it is run again, or the next
status worker does the rest.";

/// Drops the rows of a cluster and folds them anew from the log.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct RebuildArgs {
    /// Configuration file with a [cluster] section
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print what was done as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report {
    records: u64,
    rows: u64,
    seconds: f64,
}

/// Runs the command and gives the exit code.
pub async fn command(args: RebuildArgs, config: Config) -> u8 {
    let Some(cluster) = config.cluster.clone() else {
        output::fault("cluster: expected a [cluster] section; `sluice worker --example` shows it");
        return exit::USAGE;
    };
    match run(&config, &cluster).await {
        Ok(report) if args.json => output::json(&report),
        Ok(report) => {
            let (records, rows) = (count(report.records), count(report.rows));
            output::result(format!("{rows} rows from {records} records of the log in {:.1} s", report.seconds));
        }
        Err(error) => {
            output::fault(&error);
            return exit::NO_SERVER;
        }
    }
    exit::OK
}

async fn run(config: &Config, cluster: &ClusterConfig) -> Result<Report, Box<dyn std::error::Error>> {
    let started = std::time::Instant::now();
    let log = cluster.log(config)?;
    let asked = log.clone();
    let deployment = tokio::task::spawn_blocking(move || topics::read_deployment(&asked)).await?;
    let deployment = deployment.map_err(ClusterError::from)?;
    let store = Arc::new(Store::connect(&cluster.rows()).await.map_err(ClusterError::from)?);
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} records, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let rebuilt = fold::rebuild(&log, &store, deployment, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })
    .await?;
    bar.finish_and_clear();
    Ok(Report { records: rebuilt.records, rows: rebuilt.rows, seconds: started.elapsed().as_secs_f64() })
}
