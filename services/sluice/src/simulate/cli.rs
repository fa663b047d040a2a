//! The command line of `sluice simulate`.

use std::{num::NonZeroUsize, time::Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Options, Planted, SeedReport, run_seed, summary::run_seeds};

/// Exit code: no seed broke a promise.
pub const EXIT_OK: u8 = 0;
/// Exit code: a seed broke a promise.
pub const EXIT_VIOLATION: u8 = 1;
/// Exit code: the data in this build can't be read.
pub const EXIT_NO_RUN: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  sluice simulate --seeds 5000
  sluice simulate --seed 4711 --trace
  sluice simulate --seeds 200 --plant ack-before-sync

Exit codes: 0 every promise was kept; 1 a seed broke one; 2 wrong usage; 3 no run.";

/// Runs the pipeline in one thread on a simulated computer that fails as each seed says, and judges every promise from
/// outside. A seed always shows the same run.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// How many seeds
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub from: u64,
    /// Run this one alone
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Print everything that happens, with --seed
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Seeds at a time, a thread each [default: one a processor]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Put a bug in, to see it found
    #[arg(long, value_name = "BUG")]
    pub plant: Option<Planted>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
}

/// Runs `sluice simulate`, prints its result on standard output and broken promises on standard error, and gives the
/// exit code.
#[expect(clippy::print_stderr, reason = "the one place where this command talks")]
pub fn command(args: &SimulateArgs) -> u8 {
    let mut options = match Options::load() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return EXIT_NO_RUN;
        }
    };
    options.planted = args.plant;
    match args.seed {
        Some(seed) => replay(seed, args, &Options { trace_lines: if args.trace { usize::MAX } else { 0 }, ..options }),
        None => range(args, &options),
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the one place where this command talks")]
fn replay(seed: u64, args: &SimulateArgs, options: &Options) -> u8 {
    let report = run_seed(seed, options);
    report.trace.iter().enumerate().for_each(|(number, line)| println!("{number:>7} {line}"));
    if args.json {
        match serde_json::to_string(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("error: the report can't be written as JSON: {error}"),
        }
    } else {
        let t = &report.tally;
        println!(
            "seed {seed}: digest {:016x}, {} steps, {} crashes, {} orders, {} acknowledged",
            report.digest,
            t.steps,
            t.crashes(),
            t.orders,
            t.acknowledged
        );
    }
    match report.failure {
        Some(failure) => {
            eprintln!("{}", failure.message);
            EXIT_VIOLATION
        }
        None => EXIT_OK,
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the one place where this command talks")]
fn range(args: &SimulateArgs, options: &Options) -> u8 {
    let bar = ProgressBar::new(args.seeds);
    if let Ok(style) = ProgressStyle::with_template("{prefix:>8} [{bar:32}] {human_pos}/{human_len} {per_sec} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix("seeds");
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let each = |report: &SeedReport| {
        bar.inc(1);
        if let Some(failure) = &report.failure {
            bar.suspend(|| eprintln!("{}", failure.message));
        }
    };
    let started = Instant::now();
    let seeds = args.from..args.from.saturating_add(args.seeds);
    let summary = run_seeds(seeds, jobs, options, &each).took(started.elapsed());
    bar.finish_and_clear();
    if args.json {
        match serde_json::to_string(&summary) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("error: the summary can't be written as JSON: {error}"),
        }
    } else {
        println!("{}", summary.table());
    }
    if summary.violations > 0 { EXIT_VIOLATION } else { EXIT_OK }
}
