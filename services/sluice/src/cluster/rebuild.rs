//! `sluice rebuild`: drops the rows of a cluster and folds them anew from the log.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sluice_engine_kafka_scylla::{
    LogConfig,
    fold::{self, RebuildProgress},
    store::Store,
    topics,
};

use super::{ClusterConfig, ClusterError};
use crate::{
    config::Config,
    exit,
    output::{self, count},
};

const EXAMPLES: &str = "\
Examples:
  sluice rebuild --config sluice.toml        # with all nodes stopped

The log is the truth and rows are its fold: nothing is lost by dropping them, or the whole keyspace, which is created
again. Interrupted, it is run again, or the next status worker does the rest.";

/// How often a log, which nobody may be watching, says how far it is.
const TELL: Duration = Duration::from_secs(5);

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
    damaged: u64,
    seconds: f64,
}

/// Runs the command and gives the exit code.
pub async fn command(args: RebuildArgs, config: Config) -> u8 {
    let Some(cluster) = config.cluster.clone() else {
        output::fault("cluster: expected a [cluster] section; `sluice worker --example` shows it");
        return exit::USAGE;
    };
    let log = match cluster.log(&config) {
        Ok(log) => log,
        Err(error) => {
            output::fault(error);
            return exit::USAGE;
        }
    };
    let report = match run(log, &cluster).await {
        Ok(report) => report,
        Err(error) => {
            output::fault(&error);
            return exit::NO_SERVER;
        }
    };
    if args.json {
        output::json(&report);
    } else {
        let (records, rows) = (count(report.records), count(report.rows));
        output::result(format!("{rows} rows from {records} records of the log in {:.1} s", report.seconds));
    }
    if report.damaged > 0 {
        output::fault(format_args!("{} records of the log could not be read whole", count(report.damaged)));
        return exit::FOUND_WRONG;
    }
    exit::OK
}

async fn run(log: LogConfig, cluster: &ClusterConfig) -> Result<Report, Box<dyn std::error::Error>> {
    let started = Instant::now();
    let asked = log.clone();
    let deployment = tokio::task::spawn_blocking(move || topics::read_deployment(&asked)).await?;
    let deployment = deployment.map_err(ClusterError::from)?;
    // The whole keyspace may have been dropped.
    Store::migrate(&cluster.rows()).await.map_err(ClusterError::from)?;
    let store = Arc::new(Store::connect(&cluster.rows()).await.map_err(ClusterError::from)?);
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} records, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let (is_watched, mut told) = (output::is_watched(), None);
    let rebuilt = fold::rebuild(&log, &store, deployment, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        if !is_watched {
            log_now_and_then(progress, &mut told);
        }
    })
    .await?;
    bar.finish_and_clear();
    let fold::Rebuilt { records, rows, damaged } = rebuilt;
    Ok(Report { records, rows, damaged, seconds: started.elapsed().as_secs_f64() })
}

/// The first and the last that is told, and some between.
fn log_now_and_then(progress: RebuildProgress, told: &mut Option<Instant>) {
    let RebuildProgress { done, total } = progress;
    if done == total || told.is_none_or(|at| at.elapsed() >= TELL) {
        *told = Some(Instant::now());
        tracing::info!(done, total, "the rows were dropped and are folded anew");
    }
}
