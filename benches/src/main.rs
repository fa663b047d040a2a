//! Whole-pipeline benchmarks: one command makes every figure that the README shows, as data.

mod engine;
mod measure;

use std::path::PathBuf;

use clap::Parser;

/// Measures Sluice on this machine.
#[derive(Debug, Parser)]
struct Args {
    /// Orders.
    #[arg(long, default_value_t = 2_000_000)]
    orders: u64,
    /// Real baskets instead of orders of two lines.
    #[arg(long)]
    baskets: bool,
    /// Owners.
    #[arg(long, default_value_t = 2)]
    partitions: u16,
    /// Threads that decode and submit.
    #[arg(long, default_value_t = 2)]
    producers: u64,
    /// Carriers that are down.
    #[arg(long, default_value_t = 0)]
    down: usize,
    /// Folder for data.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.folder)?;
    let folder = tempfile::tempdir_in(&args.folder)?;
    let work = engine::Workload {
        orders: args.orders,
        two_lines: !args.baskets,
        carriers_down: args.down,
        partitions: args.partitions,
        producers: args.producers,
        checkpoint_bytes: 512 << 20,
    };
    let o = engine::run(folder.path(), &work, &|_| {})?;
    let rate = args.orders as f64 / o.took.as_secs_f64();
    eprintln!(
        "{rate:.0}/s took {:?} cpu {:?} ({:.2} us/order) written {} B/order journal {} B/order ckpt {} json {:.0} rss {} MB peak {} MB",
        o.took, o.cpu, o.cpu.as_secs_f64() * 1e6 / args.orders as f64, o.written_bytes / args.orders, o.journal_bytes / args.orders, o.checkpoints, o.json_bytes, o.rss_bytes >> 20, o.peak_rss_bytes >> 20
    );
    Ok(())
}
