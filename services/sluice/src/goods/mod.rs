//! `sluice goods`: what goods are that nobody knows, and what decisions about them are kept for. `review`: the queue of what waits.

mod review;

use clap::{Args, Subcommand};

use crate::output;

pub use review::{DecideArgs, Filter, ForgetArgs, KeptArgs, ListArgs, ReviewArgs, ReviewCommand};

const EXAMPLES: &str = "\
Examples:
  sluice goods review
  sluice goods review decide 01M6VZ4W3V00J8Z8M3C0V9S1QK-1 frozen --keep rule
  sluice goods review kept --rows --csv > rows.csv";

/// Says what goods are that nobody knows.
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
    Review(ReviewArgs),
}

/// Runs `sluice goods`, and gives the exit code.
pub async fn command(args: GoodsArgs) -> u8 {
    let ended = match args.command {
        GoodsCommand::Review(args) => review::command(args).await,
    };
    ended.unwrap_or_else(|failed| {
        output::fault(&failed);
        failed.exit_code()
    })
}
