//! The command line: one subcommand each for what can be run.

use std::{future::Future, path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    carrier_sim::{self, CarrierSimArgs},
    check::{self, CheckArgs},
    cluster::{self, MigrateArgs, RebuildArgs, WorkerArgs},
    config::{Config, LogFormat},
    demo::{self, DemoArgs},
    exit,
    goods::{self, GoodsArgs},
    load::{self, LoadArgs},
    operator::{self, DlqArgs, TapArgs, TraceArgs},
    output,
    serve::{self, ServeArgs},
    simulate::cli::{self as simulate, SimulateArgs},
    telemetry,
    top::{self, TopArgs},
};

/// Threads that serve connections. The engine has threads of its own.
const WORKERS: usize = 2;

const EXAMPLES: &str = "\
Examples:
  sluice demo                                    # everything, on real orders, in a few seconds
  sluice demo --orders 200000 --json
  sluice serve --example > sluice.toml && sluice serve --config sluice.toml
  sluice check sluice-data
  sluice top
  sluice trace 01M6VZ4W3V00J8Z8M3C0V9S1QK

Environment:
  RUST_LOG, SLUICE_LOG   log directives such as info or info,sluice_carrier=debug; they go to standard error
  SLUICE_LOG_FORMAT      pretty or json
  SLUICE_<KEY>           overrides a top-level key of the configuration, such as SLUICE_LISTEN";

/// Swallows a midnight sale: takes orders durably, splits them into parcels, and brings each to exactly one carrier.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub struct Cli {
    /// How log lines look
    #[arg(long, global = true, value_enum)]
    pub log_format: Option<LogFormat>,
    /// What to run
    #[command(subcommand)]
    pub command: Command,
}

/// What can be run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show it: the whole pipeline and four simulated carriers on this machine, real orders, and a proof that none is lost
    Demo(DemoArgs),
    /// Run the pipeline for good
    Serve(ServeArgs),
    /// Run one node of a cluster
    Worker(WorkerArgs),
    /// Create or upgrade the topics and tables of a cluster
    Migrate(MigrateArgs),
    /// Fold the rows of a cluster anew from its log
    Rebuild(RebuildArgs),
    /// Run simulated carriers
    CarrierSim(CarrierSimArgs),
    /// Send orders at a fixed schedule, measure, and judge what became of them
    Load(LoadArgs),
    /// Show what running nodes do, live
    Top(TopArgs),
    /// Show every hop of one order, of any merchant
    Trace(TraceArgs),
    /// Show what is decided about all merchants' orders, live
    Tap(TapArgs),
    /// Show what nobody carries
    Dlq(DlqArgs),
    /// Say what goods are that nobody knows: what waits for a person, models that judge titles, and why
    Goods(GoodsArgs),
    /// Verify a stopped data folder, and name any damage by file and offset
    Check(CheckArgs),
    /// Run the pipeline in a simulated world that crashes and misbehaves, and check every invariant
    Simulate(SimulateArgs),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    run(Cli::parse()).into()
}

/// Runs a command and gives its exit code.
#[must_use]
pub fn run(cli: Cli) -> u8 {
    let logs = |level: &str| telemetry::start_logs(format(cli.log_format), level);
    match cli.command {
        Command::Demo(args) => {
            // Its carriers fail on purpose, and what comes of that is counted in its table.
            logs("error");
            on_workers(demo::command(args))
        }
        Command::Serve(args) => serve(cli.log_format, args),
        Command::Worker(args) => {
            let Some(path) = args.config.clone().filter(|_| !args.example) else { return cluster::example() };
            with_config(cli.log_format, &path, |config, warnings| on_workers(cluster::worker(args, config, warnings)))
        }
        Command::Migrate(args) => {
            let path = args.config.clone();
            with_config(cli.log_format, &path, |config, _| on_workers(cluster::migrate(args, config)))
        }
        Command::Rebuild(args) => {
            let path = args.config.clone();
            with_config(cli.log_format, &path, |config, _| on_workers(cluster::rebuild(args, config)))
        }
        Command::CarrierSim(args) => {
            logs("warn");
            on_one_thread(carrier_sim::command(args))
        }
        Command::Load(args) => {
            logs("warn");
            on_one_thread(async move { load::command(&args).await })
        }
        Command::Top(args) => {
            logs("error");
            on_one_thread(top::command(args))
        }
        Command::Trace(args) => {
            logs("error");
            on_one_thread(operator::trace::command(args))
        }
        Command::Tap(args) => {
            logs("error");
            on_one_thread(operator::tap::command(args))
        }
        Command::Dlq(args) => {
            logs("error");
            on_one_thread(operator::dlq::command(args))
        }
        Command::Goods(args) => {
            logs("error");
            on_one_thread(goods::command(args))
        }
        Command::Check(args) => {
            logs("warn");
            check::command(&args)
        }
        Command::Simulate(args) => {
            logs("off");
            simulate::command(&args)
        }
    }
}

fn serve(log_format: Option<LogFormat>, args: ServeArgs) -> u8 {
    let Some(path) = args.config.clone().filter(|_| !args.example) else { return serve::example() };
    with_config(log_format, &path, |config, warnings| on_workers(serve::command(args, config, warnings)))
}

/// Reads the configuration, starts the logs that it asks for, and runs `work`.
fn with_config(log_format: Option<LogFormat>, path: &Path, work: impl FnOnce(Config, Vec<String>) -> u8) -> u8 {
    let environment = |name: &str| std::env::var(name).ok();
    match Config::load(path, &environment) {
        Ok((config, warnings)) => {
            telemetry::start_logs(log_format.unwrap_or(config.log_format), &config.log_level);
            work(config, warnings)
        }
        Err(error) => {
            output::fault(error);
            exit::USAGE
        }
    }
}

/// The format that was asked for on the command line, else in the environment.
fn format(asked: Option<LogFormat>) -> LogFormat {
    let named = || {
        let text = std::env::var("SLUICE_LOG_FORMAT").ok()?;
        clap::ValueEnum::from_str(&text, true).ok()
    };
    asked.or_else(named).unwrap_or_default()
}

fn on_workers(work: impl Future<Output = u8>) -> u8 {
    block_on(tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build(), work)
}

fn on_one_thread(work: impl Future<Output = u8>) -> u8 {
    block_on(tokio::runtime::Builder::new_current_thread().enable_all().build(), work)
}

fn block_on(runtime: std::io::Result<tokio::runtime::Runtime>, work: impl Future<Output = u8>) -> u8 {
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(Box::pin(work));
            // What is still running was left behind on purpose; waiting for it would only delay the end.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            output::fault(format_args!("can't start the runtime: {error}"));
            exit::INTERNAL
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_examples_and_the_whole_shows_exit_codes() {
        let mut command = Cli::command();
        assert!(command.render_help().to_string().contains("Exit codes:\n    0  done"));
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        for name in names.into_iter().filter(|name| name != "help") {
            let sub = command.find_subcommand_mut(&name).unwrap();
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Examples:") && help.contains(&format!("sluice {name}")), "{name}: {help}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert!(parse("sluice serve").unwrap_err().contains("--config"));
        assert!(parse("sluice serve --example").is_ok());
        assert!(parse("sluice carrier-sim --ledger l --secret s").unwrap_err().contains("--carrier"));
        let error = parse("sluice carrier-sim --ledger l --secret s --carrier a:speed=1").unwrap_err();
        assert!(error.contains("speed"), "{error}");
        assert!(parse("sluice demo --orders 0").unwrap_err().contains("--orders"));
        assert!(parse("sluice check").unwrap_err().contains("DATA_DIR"));
    }

    #[test]
    fn options_are_read() {
        let Command::CarrierSim(args) =
            parse("sluice carrier-sim --carrier a:latency_ms=5 --carrier b --secret s --ledger l --seed 9")
                .unwrap()
                .command
        else {
            panic!("another command")
        };
        assert_eq!((args.carriers.len(), args.carriers[0].behaviour.latency_ms, args.seed), (2, 5, 9));
        assert!(!format!("{args:?}").contains("\"s\""));
        let cli = parse("sluice demo --log-format json --json --keep").unwrap();
        assert_eq!(cli.log_format, Some(LogFormat::Json));
        let Command::Demo(args) = cli.command else { panic!("another command") };
        assert_eq!((args.orders, args.json, args.keep), (20_000, true, true));
    }

    #[test]
    fn what_waits_is_listed_unless_something_else_is_asked() {
        let review = |line: &str| match parse(line).unwrap().command {
            Command::Goods(GoodsArgs { command: goods::GoodsCommand::Review(args) }) => args,
            other => panic!("{other:?}"),
        };
        let plain = review("sluice goods review --key k --merchant m-1");
        assert!(plain.command.is_none() && plain.server.is_some() && plain.filter.merchant.is_some(), "{plain:?}");
        assert!(review("sluice goods review decide o-1 frozen --key k --keep row").command.is_some());
        assert!(parse("sluice goods review decide o-1 warm --key k").unwrap_err().contains("one of chilled"));
        assert!(parse("sluice goods review kept --rules --rows --key k").is_err());
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_wrong_usage() {
        assert_eq!(run(parse("sluice serve --config /nowhere/sluice.toml").unwrap()), exit::USAGE);
        assert_eq!(run(parse("sluice serve --example").unwrap()), exit::OK);
    }
}
