//! `sluice goods`: what waits for a person to say what it is (`review`), and models that tell from titles what goods are: train one, judge how good such models are, ask why a
//! line was taken for what it was, and what another one would have said.

mod catalogue;
mod diff;
mod evaluate;
mod explain;
mod html;
mod review;
mod train;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use diff::DiffArgs;
use evaluate::EvaluateArgs;
use explain::ExplainArgs;
use train::TrainArgs;

use crate::output;

pub use review::{DecideArgs, Filter, ForgetArgs, KeptArgs, ListArgs, ReviewArgs, ReviewCommand};

const EXAMPLES: &str = "\
Examples:
  sluice goods review
  sluice goods review decide 01M6VZ4W3V00J8Z8M3C0V9S1QK-1 frozen --keep rule
  sluice goods explain 'SMOKED TROUT | 8 OZ'
  sluice goods evaluate data/products.parquet --html report.html
  sluice goods train my-catalogue.csv --out goods.slm
  sluice goods diff --data-dir sluice-data --model goods.slm";

/// Says what goods are that nobody knows: by a person, or by models that judge titles.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct GoodsArgs {
    /// What to do
    #[command(subcommand)]
    pub command: GoodsCommand,
}

/// What can be done about goods.
#[derive(Debug, Clone, Subcommand)]
pub enum GoodsCommand {
    /// Look at what waits for a person to say what it is, and say so
    Review(Box<ReviewArgs>),
    /// Train a model on a catalogue, and write its file
    Train(TrainArgs),
    /// Say how good models of a catalogue are on types of goods that they have never seen
    Evaluate(EvaluateArgs),
    /// Say what a line is taken for, and why
    Explain(ExplainArgs),
    /// List what would be decided otherwise of recorded orders by another model or other rules
    Diff(DiffArgs),
}

/// Runs `sluice goods`, and gives the exit code.
pub async fn command(args: GoodsArgs) -> u8 {
    let ended = match args.command {
        GoodsCommand::Review(args) => review::command(*args).await,
        GoodsCommand::Train(args) => return train::command(&args),
        GoodsCommand::Evaluate(args) => return evaluate::command(&args),
        GoodsCommand::Explain(args) => return explain::command(&args),
        GoodsCommand::Diff(args) => return diff::command(&args),
    };
    ended.unwrap_or_else(|failed| {
        output::fault(&failed);
        failed.exit_code()
    })
}

/// A progress bar on standard error; nothing if that isn't a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(what: &'static str) -> Self {
        let bar = ProgressBar::no_length().with_prefix(what);
        if let Ok(style) = ProgressStyle::with_template("{prefix:>10} [{bar:32}] {percent:>3} %, {eta} left") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    fn show(&self, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A share for people: `87.6 %`.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
