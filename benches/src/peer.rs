//! Sluice beside Kafka Streams on the same broker: the same orders, topics, partitions, compression and commit interval,
//! both exactly once, in alternating rounds. `benches/peers/kafka-streams` says how the rival is tuned.

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use serde::Serialize;
use serde_json::Value;
use sluice_brokers::{Brokers, Options};

use crate::{measure, report::Origin};

/// What to compare.
#[derive(Debug, Clone, clap::Args)]
pub struct PeerArgs {
    /// Orders a run
    #[arg(long, default_value_t = 3_000_000)]
    pub orders: u64,
    /// Orders a run with rows in the store
    #[arg(long, default_value_t = 2_000_000)]
    pub stored_orders: u64,
    /// Only this work: stateless or stored
    #[arg(long)]
    pub only: Option<String>,
    /// Rounds, each with one run of either
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Partitions
    #[arg(long, default_value_t = 4)]
    pub partitions: u16,
    /// Threads that decide, in either
    #[arg(long, default_value_t = 4)]
    pub threads: usize,
    /// Commit interval of either, ms
    #[arg(long, default_value_t = 100)]
    pub commit_interval_ms: u64,
    /// Print figures only; keep no results
    #[arg(long)]
    pub dry: bool,
}

/// One run of one application.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    round: usize,
    pub orders_per_second: f64,
    /// CPU of the application, seconds.
    pub cpu_seconds: f64,
    /// CPU of broker and store meanwhile, seconds, the application's start included.
    pub server_cpu_seconds: f64,
    peak_rss_bytes: u64,
    seconds: f64,
}

impl Run {
    /// Orders of the run.
    pub fn orders(&self) -> f64 {
        self.orders_per_second * self.seconds
    }
}

/// Both applications at one kind of work.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// `stateless`: classify and route; `stored`: rows as well.
    work: &'static str,
    orders: u64,
    sluice: Vec<Run>,
    /// The rival at the same: orders in hand are sent to its input topic while it reads them.
    kafka_streams: Vec<Run>,
    /// The rival spared of that: its input topic was filled before the clock started.
    kafka_streams_filled_before: Vec<Run>,
    /// Median of the rounds' ratios of orders/s.
    ratio: f64,
    /// Least and greatest of them.
    ratio_range: [f64; 2],
    /// Median of the ratios to the rival that was spared of filling its input.
    ratio_filled_before: f64,
    /// Least and greatest of them.
    ratio_filled_before_range: [f64; 2],
    /// Median of the ratios of peak memory.
    memory_ratio: f64,
}

/// `peer_kafka_streams_stateless.json` and `peer_kafka_streams_stored.json`.
#[derive(Debug, Clone, Serialize)]
pub struct PeerReport {
    brokers: String,
    #[serde(flatten)]
    comparison: Comparison,
    #[serde(flatten)]
    origin: Origin,
}

impl PeerReport {
    /// Which work was compared.
    pub fn work(&self) -> &'static str {
        self.comparison.work
    }
}

/// Runs all rounds.
///
/// # Errors
/// Whatever goes wrong; what is missing is named.
pub fn run(args: &PeerArgs) -> Result<Vec<PeerReport>, Box<dyn Error>> {
    let peer = build()?;
    // Neither Kafka nor the rival's store syncs before it answers.
    let brokers = Brokers::start(&Options { store_synced: false, ..Options::default() })?;
    eprintln!("{}", brokers.describe());
    let mut reports = Vec::new();
    // The servers' own code is compiled as it is used, and whoever came first would pay for it: a store that has just
    // started takes four times the CPU a row.
    for prefix in ["warm", "warmer", "warmest"] {
        let warm = Stage { args, brokers: &brokers, peer: &peer, prefix, orders: args.stored_orders, stored: true };
        warm.sluice(0)?;
        warm.streams(0)?;
    }
    let works = [("stateless", args.orders), ("stored", args.stored_orders)];
    for (work, orders) in works.into_iter().filter(|(work, _)| args.only.as_ref().is_none_or(|only| only == work)) {
        let mut runs: [Vec<Run>; 3] = Default::default();
        for round in 0..args.rounds {
            let prefix = format!("{work}-{round}");
            let stage =
                Stage { args, brokers: &brokers, peer: &peer, prefix: &prefix, orders, stored: work == "stored" };
            // Whoever comes later finds the broker warmer, so they take turns.
            for turn in 0..3 {
                let who = (round + turn) % 3;
                let run = [Stage::sluice, Stage::streams, Stage::streams_filled_before][who](&stage, round)?;
                eprintln!(
                    "{work} {round}: {:<31} {:>9.0} orders/s, CPU {:.1} s and {:.1} s of the servers, {} MiB",
                    ["sluice", "kafka streams", "kafka streams, filled before"][who],
                    run.orders_per_second,
                    run.cpu_seconds,
                    run.server_cpu_seconds,
                    run.peak_rss_bytes >> 20
                );
                runs[who].push(run);
            }
        }
        let comparison = Comparison::new(work, orders, runs);
        let ([least, most], [low, high]) = (comparison.ratio_range, comparison.ratio_filled_before_range);
        eprintln!(
            "{work}: {:.2} times the orders/s ({least:.2} to {most:.2}), {:.2} of the memory; {:.2} times ({low:.2} to \
             {high:.2}) those of a rival whose input was filled before",
            comparison.ratio, comparison.memory_ratio, comparison.ratio_filled_before
        );
        let command = format!("cargo run --release -p sluice-benches -- kafka-streams --only {work}");
        let origin = Origin::find(Path::new("."), &command);
        reports.push(PeerReport { brokers: brokers.describe(), comparison, origin });
    }
    Ok(reports)
}

impl Comparison {
    fn new(work: &'static str, orders: u64, runs: [Vec<Run>; 3]) -> Self {
        let [sluice, kafka_streams, kafka_streams_filled_before] = runs;
        let (ratio, ratio_range) = ratios(&sluice, &kafka_streams, |r| r.orders_per_second);
        let (ratio_filled_before, ratio_filled_before_range) =
            ratios(&sluice, &kafka_streams_filled_before, |r| r.orders_per_second);
        let (memory_ratio, _) = ratios(&sluice, &kafka_streams, |r| r.peak_rss_bytes as f64);
        Self {
            work,
            orders,
            sluice,
            kafka_streams,
            kafka_streams_filled_before,
            ratio,
            ratio_range,
            ratio_filled_before,
            ratio_filled_before_range,
            memory_ratio,
        }
    }
}

/// Median, least and greatest of the rounds' ratios.
fn ratios(ours: &[Run], theirs: &[Run], of: fn(&Run) -> f64) -> (f64, [f64; 2]) {
    let mut all: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| of(a) / of(b)).collect();
    all.sort_by(f64::total_cmp);
    let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
    (at(all.len() / 2), [at(0), at(all.len().saturating_sub(1))])
}

fn build() -> Result<PathBuf, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/kafka-streams");
    let jar = folder.join("target/kafka-streams-peer.jar");
    let changed = |path: &Path| path.metadata().and_then(|meta| meta.modified());
    if changed(&jar).ok() < newest(&folder.join("src"))?.max(Some(changed(&folder.join("pom.xml"))?)) {
        eprintln!("building {}", folder.display());
        let built = Command::new("mvn").args(["-q", "-DskipTests", "package"]).current_dir(&folder).status();
        if !built.map_err(|e| format!("mvn (Maven builds the rival): {e}"))?.success() {
            return Err("mvn package failed".into());
        }
    }
    Ok(jar)
}

/// When the newest file below `folder` was changed.
fn newest(folder: &Path) -> io::Result<Option<SystemTime>> {
    let mut newest = None;
    for entry in folder.read_dir()? {
        let path = entry?.path();
        newest = newest.max(if path.is_dir() { self::newest(&path)? } else { Some(path.metadata()?.modified()?) });
    }
    Ok(newest)
}

/// One round of all.
struct Stage<'a> {
    args: &'a PeerArgs,
    brokers: &'a Brokers,
    peer: &'a Path,
    prefix: &'a str,
    orders: u64,
    stored: bool,
}

impl Stage<'_> {
    fn sluice(&self, round: usize) -> Result<Run, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["cluster", "--brokers", self.brokers.kafka(), "--prefix", self.prefix]);
        command.args(["--orders", &self.orders.to_string(), "--partitions", &self.args.partitions.to_string()]);
        command.args(["--threads", &self.args.threads.to_string()]);
        command.args(["--commit-interval-ms", &self.args.commit_interval_ms.to_string()]);
        if self.stored {
            command.args(["--store", self.brokers.store()]);
        }
        measured(self.brokers, round, command)
    }

    fn streams(&self, round: usize) -> Result<Run, Box<dyn Error>> {
        let mut run = self.streams_app("ks");
        run.args(["--ingest", &self.orders.to_string(), "--partitions", &self.args.partitions.to_string()]);
        measured(self.brokers, round, run)
    }

    fn streams_filled_before(&self, round: usize) -> Result<Run, Box<dyn Error>> {
        let mut load = self.java();
        load.args(["load", "--brokers", self.brokers.kafka(), "--prefix", &format!("ksf-{}", self.prefix)]);
        load.args(["--orders", &self.orders.to_string(), "--partitions", &self.args.partitions.to_string()]);
        said(load)?;
        measured(self.brokers, round, self.streams_app("ksf"))
    }

    fn streams_app(&self, prefix: &str) -> Command {
        let mut run = self.java();
        run.args(["run", "--brokers", self.brokers.kafka(), "--prefix", &format!("{prefix}-{}", self.prefix)]);
        run.args(["--mode", if self.stored { "store" } else { "stateless" }]);
        run.args(["--threads", &self.args.threads.to_string()]);
        run.args(["--commit-interval-ms", &self.args.commit_interval_ms.to_string()]);
        run
    }

    fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.args(["-XX:+UseParallelGC", "-Xms2g", "-Xmx2g", "-Xmn1400m", "-jar"]).arg(self.peer);
        java
    }
}

/// Runs one application over `brokers`; its report is the line of JSON that it ends with.
pub fn measured(brokers: &Brokers, round: usize, command: Command) -> Result<Run, Box<dyn Error>> {
    measured_together(brokers, round, vec![command])
}

/// Runs several processes of an application at a time: what they used together, until the last of them was done.
pub fn measured_together(brokers: &Brokers, round: usize, commands: Vec<Command>) -> Result<Run, Box<dyn Error>> {
    let servers = || brokers.pids().into_iter().map(|pid| measure::cpu_of(pid).as_secs_f64()).sum::<f64>();
    let before = servers();
    let reports: Vec<Result<Value, String>> = std::thread::scope(|scope| {
        let run = |command| scope.spawn(move || said(command).map_err(|error| error.to_string()));
        let running: Vec<_> = commands.into_iter().map(run).collect();
        running.into_iter().map(|one| one.join().unwrap_or_else(|_| Err("it panicked".to_owned()))).collect()
    });
    let server_cpu_seconds = servers() - before;
    let mut all =
        Run { round, orders_per_second: 0.0, cpu_seconds: 0.0, server_cpu_seconds, peak_rss_bytes: 0, seconds: 0.0 };
    let mut orders = 0.0;
    for value in reports {
        let value = value?;
        let number = |names: &[&str]| {
            let found = names.iter().find_map(|name| value.get(name).and_then(Value::as_f64));
            found.ok_or_else(|| format!("no {} in {value}", names.join(" or ")))
        };
        let seconds = number(&["seconds"])?;
        orders += number(&["orders_per_second"])? * seconds;
        all.cpu_seconds += number(&["cpu_seconds", "process_cpu_seconds"])?;
        all.peak_rss_bytes += number(&["peak_rss_bytes", "max_rss_bytes"])? as u64;
        all.seconds = all.seconds.max(seconds);
    }
    all.orders_per_second = orders / all.seconds;
    Ok(all)
}

/// Runs a command and reads the line of JSON that it ends with.
fn said(mut command: Command) -> Result<Value, Box<dyn Error>> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    if !output.status.success() {
        return Err(format!("{command:?} failed: {last}").into());
    }
    let parsed: Result<BTreeMap<String, Value>, _> = serde_json::from_str(last);
    Ok(Value::Object(parsed.map_err(|e| format!("{command:?}: {e}: {last}"))?.into_iter().collect()))
}
