//! The settings of the scale-out engine that were chosen by measurement, each beside its neighbours: one is changed at a
//! time and all values of it take turns. The last ones show what an order costs as partitions, threads and work grow.

use std::{error::Error, path::Path, process::Command};

use serde::Serialize;
use sluice_brokers::{Brokers, Options};

use crate::{peer, report::Origin};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct SettingsArgs {
    /// Orders a run
    #[arg(long, default_value_t = 600_000)]
    pub orders: u64,
    /// Rounds, each with one run of every value
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Only settings whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// Print figures only; keep no results
    #[arg(long)]
    pub dry: bool,
}

/// A setting, whether rows are stored in its runs, and its values: what each is called and how the application is told.
/// The one that is told nothing is the default.
struct Setting {
    name: &'static str,
    stored: bool,
    values: &'static [(&'static str, &'static [&'static str])],
}

const fn setting(
    name: &'static str,
    stored: bool,
    values: &'static [(&'static str, &'static [&'static str])],
) -> Setting {
    Setting { name, stored, values }
}

/// Its value is a number of processes, each with a partition and a thread of its own, which share the orders.
const PROCESSES: &str = "--processes";

const SETTINGS: [Setting; 12] = [
    setting(
        "compression",
        false,
        &[
            ("none", &["--set", "compression.type=none"]),
            ("lz4", &[]),
            ("snappy", &["--set", "compression.type=snappy"]),
        ],
    ),
    setting(
        "orders gather for a record (linger)",
        false,
        &[("0 ms", &["--linger-ms", "0"]), ("2 ms", &[]), ("10 ms", &["--linger-ms", "10"])],
    ),
    setting(
        "batch.size of the producers",
        false,
        &[("128 KiB", &["--set", "batch.size=131072"]), ("1 MiB", &[]), ("4 MiB", &["--set", "batch.size=4194304"])],
    ),
    setting(
        "orders gather for a transaction",
        false,
        &[
            ("5 ms", &["--commit-interval-ms", "5"]),
            ("20 ms", &[]),
            ("100 ms", &["--commit-interval-ms", "100"]),
            ("250 ms", &["--commit-interval-ms", "250"]),
        ],
    ),
    setting(
        "orders of a transaction, at most",
        false,
        &[("5,000", &["--orders-per-commit", "5000"]), ("20,000", &[]), ("80,000", &["--orders-per-commit", "80000"])],
    ),
    setting(
        "fetched ahead (queued.max.messages.kbytes)",
        false,
        &[
            ("1 MiB", &["--set", "queued.max.messages.kbytes=1024"]),
            ("6 MiB", &[]),
            ("32 MiB", &["--set", "queued.max.messages.kbytes=32768"]),
        ],
    ),
    setting(
        "rows of a batch, at most",
        true,
        &[
            ("25", &["--rows-per-batch", "25"]),
            ("50", &["--rows-per-batch", "50"]),
            ("100", &[]),
            ("200", &["--rows-per-batch", "200"]),
        ],
    ),
    setting(
        "batches in flight",
        true,
        &[("4", &["--batches-in-flight", "4"]), ("16", &[]), ("64", &["--batches-in-flight", "64"])],
    ),
    setting(
        "partitions and deciding threads",
        false,
        &[
            ("1", &["--partitions", "1", "--threads", "1"]),
            ("2", &["--partitions", "2", "--threads", "2"]),
            ("4", &[]),
            ("8", &["--partitions", "8", "--threads", "8"]),
        ],
    ),
    setting(
        "processes, with a partition and a thread each",
        false,
        &[("1", &[PROCESSES, "1"]), ("2", &[PROCESSES, "2"]), ("4", &[PROCESSES, "4"])],
    ),
    setting(
        "orders of the run",
        false,
        &[("600,000", &[]), ("1,200,000", &["--orders", "1200000"]), ("2,400,000", &["--orders", "2400000"])],
    ),
    setting(
        "orders of the run, with rows",
        true,
        &[("600,000", &[]), ("1,200,000", &["--orders", "1200000"]), ("2,400,000", &["--orders", "2400000"])],
    ),
];

/// What one value gave.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    setting: &'static str,
    value: &'static str,
    /// It is what Sluice does by default.
    default: bool,
    stored: bool,
    /// Median of the rounds.
    orders_per_second: f64,
    rounds: Vec<f64>,
    /// CPU of the application, µs; median.
    cpu_us_per_order: f64,
    /// CPU of broker and store meanwhile, µs; median.
    server_cpu_us_per_order: f64,
}

/// `cluster_settings.json`.
#[derive(Debug, Clone, Serialize)]
pub struct SettingsReport {
    brokers: String,
    rows: Vec<Row>,
    #[serde(flatten)]
    origin: Origin,
}

/// Runs all rounds of all settings.
///
/// # Errors
/// Whatever goes wrong; what is missing is named.
pub fn run(args: &SettingsArgs) -> Result<SettingsReport, Box<dyn Error>> {
    let brokers = Brokers::start(&Options { store_synced: false, ..Options::default() })?;
    eprintln!("{}", brokers.describe());
    for round in 0..4 {
        // The servers' code is compiled as it is used.
        app(args, &brokers, &format!("warm-{round}"), true, &["--orders", "1500000"])?;
    }
    let mut rows = Vec::new();
    for (at, setting) in SETTINGS.iter().enumerate().filter(|(_, setting)| setting.name.contains(&args.only)) {
        eprintln!("{}{}", setting.name, if setting.stored { " (with rows)" } else { "" });
        let mut runs: Vec<Vec<peer::Run>> = vec![Vec::new(); setting.values.len()];
        for round in 0..args.rounds {
            for (value, (_, how)) in setting.values.iter().enumerate() {
                let prefix = format!("s{at}-{value}-{round}");
                runs[value].push(app(args, &brokers, &prefix, setting.stored, how)?);
            }
        }
        for ((value, how), runs) in setting.values.iter().zip(&runs) {
            let row = row(setting, value, how.is_empty(), runs);
            eprintln!(
                "  {}{value:<10} {:>8.0} orders/s, CPU {:.1} µs an order and {:.1} µs of the servers",
                if row.default { "* " } else { "  " },
                row.orders_per_second,
                row.cpu_us_per_order,
                row.server_cpu_us_per_order
            );
            rows.push(row);
        }
    }
    let origin = Origin::find(Path::new("."), "cargo run --release -p sluice-benches -- settings");
    Ok(SettingsReport { brokers: brokers.describe(), rows, origin })
}

fn row(setting: &Setting, value: &'static str, default: bool, runs: &[peer::Run]) -> Row {
    let median = |of: fn(&peer::Run) -> f64| {
        let mut all: Vec<f64> = runs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Row {
        setting: setting.name,
        value,
        default,
        stored: setting.stored,
        orders_per_second: median(|run| run.orders_per_second),
        rounds: runs.iter().map(|run| run.orders_per_second).collect(),
        cpu_us_per_order: median(|run| 1e6 * run.cpu_seconds / run.orders()),
        server_cpu_us_per_order: median(|run| 1e6 * run.server_cpu_seconds / run.orders()),
    }
}

fn app(
    args: &SettingsArgs,
    brokers: &Brokers,
    prefix: &str,
    stored: bool,
    how: &[&str],
) -> Result<peer::Run, Box<dyn Error>> {
    if let [PROCESSES, processes] = how {
        let processes: u64 = processes.parse()?;
        let mut commands = Vec::new();
        for process in 0..processes {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["cluster", "--brokers", brokers.kafka(), "--prefix", &format!("{prefix}-{process}")]);
            command.args(["--orders", &(args.orders / processes).to_string(), "--partitions", "1", "--threads", "1"]);
            commands.push(command);
        }
        return peer::measured_together(brokers, 0, commands);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["cluster", "--brokers", brokers.kafka(), "--prefix", prefix]);
    command.args(["--orders", &args.orders.to_string(), "--partitions", "4", "--threads", "4"]);
    if stored {
        command.args(["--store", brokers.store()]);
    }
    command.args(how);
    peer::measured(brokers, 0, command)
}
