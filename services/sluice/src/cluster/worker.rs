//! `sluice worker`: one node of a cluster, until a signal drains it.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::node::{Node, Role};
use crate::{
    config::Config,
    exit, output, serve,
    signals::{Hangup, Stop},
    telemetry,
};

const EXAMPLES: &str = "\
Examples:
  sluice worker --example > sluice.toml && sluice migrate --config sluice.toml
  sluice worker checkout --config sluice.toml
  sluice worker classify --config sluice.toml          # any number of each, on any machines
  sluice worker --all --config sluice.toml             # every role in one process

SIGTERM or SIGINT drains: no new orders (503 with Retry-After); what this node was at is finished or left to others, and
a receipt goes to standard output. A second signal ends the process at once; nothing acknowledged is lost by that either.
SIGHUP has merchants' and operators' keys, the certificate, rules and model read again.
A node that finds the partition count changed ends by itself with exit code 76, to be started again.";

/// Runs one node of a cluster over Kafka and ScyllaDB.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct WorkerArgs {
    /// What this node does; several may be given
    #[arg(value_enum, required_unless_present_any = ["all", "example"])]
    pub roles: Vec<Role>,
    /// Do everything
    #[arg(long, conflicts_with = "roles")]
    pub all: bool,
    /// Configuration file with a [cluster] section
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    pub config: Option<PathBuf>,
    /// Print the receipt as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write the URL of the API to this file once the node is at work
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Print a configuration with every key, its meaning and its default, and end
    #[arg(long)]
    pub example: bool,
}

impl WorkerArgs {
    /// The roles asked for, each once.
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        Role::ALL.into_iter().filter(|role| self.all || self.roles.contains(role)).collect()
    }
}

/// Runs the node until a signal, and gives the exit code.
pub async fn command(args: WorkerArgs, config: Config, mut warnings: Vec<String>) -> u8 {
    warnings.extend(config.cluster.iter().flat_map(super::ClusterConfig::warnings));
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let deadline = Duration::from_secs(config.drain_deadline_s.into());
    let (mut stop, hangup) = match Stop::listen().and_then(|stop| Ok((stop, Hangup::listen()?))) {
        Ok(signals) => signals,
        Err(error) => {
            output::fault(format_args!("signals can't be taken over: {error}"));
            return exit::INTERNAL;
        }
    };
    let roles = args.roles();
    let node = match Box::pin(Node::start(config, &roles)).await {
        Ok(node) => node,
        Err(error) => {
            output::fault(&error);
            return error.exit_code();
        }
    };
    if let Some(path) = &args.config {
        node.live().watch(hangup, path.clone());
    }
    let (rss_bytes, deployment) = (telemetry::resident_bytes().unwrap_or(0), node.deployment());
    let roles: Vec<_> = roles.into_iter().map(Role::name).collect();
    let (epoch, partitions) = (deployment.epoch, deployment.partitions);
    tracing::info!(url = node.url(), ?roles, epoch, partitions, rss_bytes, "at work");
    if let Some(path) = &args.ready_file
        && let Err(error) = std::fs::write(path, format!("{}\n", node.url()))
    {
        output::fault(format_args!("--ready-file {}: {error}", path.display()));
        return exit::USAGE;
    }
    let (deadline, code) = tokio::select! {
        (signal, _) = stop.next() => {
            tracing::info!(signal, "draining");
            (deadline, exit::OK)
        }
        () = node.outdated() => {
            output::fault(format_args!("the deployment was changed since epoch {epoch}; start this node again"));
            // By its map nothing must be decided any more.
            (Duration::ZERO, exit::OUTDATED)
        }
    };
    let receipt = tokio::select! {
        receipt = Box::pin(node.drain(deadline)) => receipt,
        (signal, code) = stop.next() => {
            tracing::warn!(signal, "ending at once; what is in flight stays in the log");
            return code;
        }
    };
    serve::show(&receipt, args.json);
    code
}

/// Prints the example configuration.
#[must_use]
pub fn example() -> u8 {
    output::result(format!("{}\n{}", crate::config::EXAMPLE.trim_end(), super::EXAMPLE.trim_end()));
    exit::OK
}
