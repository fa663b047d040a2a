//! Whole-pipeline benchmarks: one command makes every figure that the README shows, as data.
#![allow(clippy::print_stderr, reason = "a program for people at a terminal")]

mod cluster;
mod engine;
mod fairness;
mod http;
mod measure;
mod orders;
mod peer;
mod report;
mod settings;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use report::{EngineReport, HttpReport, Origin};

/// As in the `sluice` binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures Sluice on this machine and keeps the results below benches/runs. Without arguments it runs everything,
/// which takes about ten minutes; the machine should be idle.
#[derive(Debug, Parser)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  cargo run --release -p sluice-benches\n  cargo run --release -p sluice-benches -- engine --orders 2000000"
)]
struct Args {
    #[command(subcommand)]
    app: Option<App>,
    /// What to run; everything if none is named
    #[arg(value_enum)]
    what: Vec<What>,
    /// Orders of the engine runs; real baskets are a quarter of it
    #[arg(long, default_value_t = 20_000_000)]
    orders: u64,
    /// Owners in the engine runs
    #[arg(long, default_value_t = 2)]
    partitions: u16,
    /// Threads that decode and submit in the engine runs
    #[arg(long, default_value_t = 2)]
    producers: u64,
    /// Seconds for each rate over HTTP
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Folder for the data of the runs; on the disk to be measured
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// Print figures only; keep no results
    #[arg(long)]
    dry: bool,
}

/// What has arguments of its own: comparisons, and the part of them that is a process of its own.
#[derive(Debug, clap::Subcommand)]
enum App {
    /// The scale-out engine over running brokers; prints one JSON object
    Cluster(cluster::AppArgs),
    /// Sluice beside Kafka Streams on the same broker, in alternating rounds
    KafkaStreams(peer::PeerArgs),
    /// What the others notice of a merchant who posts ten times its share
    Fairness(fairness::FairnessArgs),
    /// The settings of the scale-out engine, each beside its neighbours
    Settings(settings::SettingsArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The engine without HTTP, orders of two lines
    Engine,
    /// The engine without HTTP, real baskets
    Baskets,
    /// The engine without HTTP, orders of two lines, of which the catalogue doesn't know one in ten
    Unknown,
    /// The engine with one carrier of four down for the whole run
    Down,
    /// Over HTTP in batches of 1,000
    HttpBatch,
    /// Over HTTP, one order a request
    HttpSingle,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    match &args.app {
        Some(App::Cluster(app)) => return report::print(&cluster::run(app)?),
        Some(App::KafkaStreams(peers)) => {
            let runs = Runs::new(args.dry || peers.dry)?;
            for report in peer::run(peers)? {
                runs.save(&format!("peer_kafka_streams_{}.json", report.work()), &report)?;
            }
            return Ok(());
        }
        Some(App::Fairness(fairness)) => {
            let report = fairness::run(fairness)?;
            return Ok(Runs::new(args.dry || fairness.dry)?.save("fairness.json", &report)?);
        }
        Some(App::Settings(settings)) => {
            let report = settings::run(settings)?;
            return Ok(Runs::new(args.dry || settings.dry)?.save("cluster_settings.json", &report)?);
        }
        None => {}
    }
    fs::create_dir_all(&args.folder)?;
    let all = args.what.is_empty();
    let wants = |what| all || args.what.contains(&what);
    let runs = Runs::new(args.dry)?;
    for (what, name) in [
        (What::Engine, "engine"),
        (What::Unknown, "engine_unknown"),
        (What::Baskets, "engine_baskets"),
        (What::Down, "engine_carrier_down"),
    ] {
        if wants(what) {
            runs.engine(&args, what, name)?;
        }
    }
    if wants(What::HttpBatch) {
        let rates = vec![100_000, 150_000, 180_000, 210_000, 240_000, 270_000, 300_000, 330_000];
        runs.http(&args, "http_batch", Some(1_000), rates)?;
    }
    if wants(What::HttpSingle) {
        runs.http(&args, "http_single", None, vec![20_000, 30_000, 40_000, 50_000, 60_000, 70_000])?;
    }
    Ok(())
}

/// Where results go.
struct Runs {
    dated: PathBuf,
    latest: PathBuf,
    dry: bool,
}

impl Runs {
    fn new(dry: bool) -> Result<Self, Box<dyn Error>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
        let today = measure::today();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let dated = root.join(format!("{today}-{}-{cores}core", std::env::consts::ARCH));
        let runs = Self { dated, latest: root.join("latest"), dry };
        if !runs.dry {
            fs::create_dir_all(&runs.dated)?;
            fs::create_dir_all(&runs.latest)?;
        }
        Ok(runs)
    }

    fn save(&self, name: &str, value: &impl serde::Serialize) -> std::io::Result<()> {
        if self.dry { Ok(()) } else { report::save(&[&self.dated, &self.latest], name, value) }
    }

    fn engine(&self, args: &Args, what: What, name: &str) -> Result<(), Box<dyn Error>> {
        let orders = if what == What::Baskets { args.orders / 4 } else { args.orders };
        let work = engine::Workload {
            orders,
            two_lines: what != What::Baskets,
            unknown_every: (what == What::Unknown).then_some(10),
            carriers_down: usize::from(what == What::Down),
            partitions: args.partitions,
            producers: args.producers,
            checkpoint_bytes: 512 << 20,
        };
        eprintln!("{name}: {orders} orders");
        let folder = tempfile::tempdir_in(&args.folder)?;
        let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} {per_sec} {eta}")?;
        let bar = ProgressBar::new(orders).with_style(style);
        measure::reset_peak_rss();
        let run = engine::run(folder.path(), &work, &|done| bar.set_position(done))?;
        bar.finish_and_clear();
        let ceiling = measure::bare_appends(folder.path(), run.written_bytes)?;
        let command = format!(
            "cargo run --release -p sluice-benches -- {}",
            what.to_possible_value().map_or(name.into(), |v| v.get_name().to_owned())
        );
        let origin = Origin::find(&args.folder, &command);
        let report = EngineReport::new(orders, work.carriers_down, &run, ceiling.as_secs_f64(), origin);
        eprintln!(
            "  {:.0} orders/s, {:.0} % of the device's {:.0}, {:.0} B/order ({:.0} journal), {:.2} µs CPU/order, \
             {} MiB resident (peak {}), {} checkpoints",
            report.orders_per_second,
            100.0 * report.of_ceiling,
            report.ceiling_orders_per_second,
            report.bytes_per_order,
            report.journal_bytes_per_order,
            report.cpu_us_per_order,
            report.rss_bytes >> 20,
            report.peak_rss_bytes >> 20,
            report.checkpoints
        );
        self.save(&format!("{name}.json"), &report)?;
        if !self.dry {
            let plot = report::cost_plot(&report.samples);
            for folder in [&self.dated, &self.latest] {
                fs::write(folder.join(format!("{name}.svg")), &plot)?;
            }
        }
        Ok(())
    }

    fn http(&self, args: &Args, name: &str, batch: Option<u32>, rates: Vec<u32>) -> Result<(), Box<dyn Error>> {
        eprintln!("{name}:");
        let binary = http::binary()?;
        let steps = http::run(&binary, &args.folder, &http::Pattern { batch, rates, seconds: args.seconds })?;
        let command = format!("cargo run --release -p sluice-benches -- {}", name.replace('_', "-"));
        let report = HttpReport::new(steps, Origin::find(&args.folder, &command));
        eprintln!("  {:.0} orders/s end to end", report.orders_per_second);
        self.save(&format!("{name}.json"), &report)?;
        Ok(())
    }
}
