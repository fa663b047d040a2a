//! Open-loop load on the checkout API, and the judge of what became of it.
//!
//! Orders leave when their schedule says so, however slowly the server answers, and latency counts from that moment, so
//! a server that stalls can't make the load generator stall with it and hide the stall. At the end every acknowledged
//! order, or a sample, is read back through the public API and counted by id.
//!
//! [`run`] does all of it. Its parts work alone, too: [`Sending`] sends until it is stopped and survives a server that
//! is killed and started again, [`AckLog`] is what it brings back, [`Judging`] judges it, and [`classify`] tells the class
//! of one order from its view.
//!
//! Memory: [`BYTES_PER_ACK`] bytes for each acknowledged order, at most [`MAX_ACKS`] of them; while judging, another 40
//! bytes for each order and 8 for each parcel that is judged; the baskets, 9 MB once a process; each connection keeps its
//! largest request and answer.

mod acks;
mod answer;
mod cli;
mod client;
mod config;
mod effects;
pub(crate) mod html;
mod http;
mod judge;
mod orders;
pub(crate) mod plot;
mod progress;
mod report;
mod schedule;
mod sender;
mod series;
mod tally;
mod view;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

pub use acks::{Ack, AckLog, BYTES_PER_ACK, MAX_ACKS, format_id, parse_id};
pub(crate) use cli::parse_duration;
pub use cli::{EXIT_NO_RUN, EXIT_NOT_CONSERVED, EXIT_OK, EXIT_USAGE, LoadArgs, command};
pub use config::{
    BATCH_CONNECTIONS, DEFAULT_SAMPLE, LoadConfig, LoadError, MAX_CONNECTIONS, SINGLE_CONNECTIONS, Verify,
};
pub use effects::duplicate_effects;
pub use html::{Curves, Origin, page};
pub use http::{Failure, Link, Reply, Target};
pub use judge::{JudgeConfig, Judgement, Judging};
pub use orders::{MAX_BATCH_BYTES, MAX_BATCH_LINES, Merchant};
pub use progress::{Bar, Phase, Progress, Silent, Snapshot};
pub use report::{LatencyReport, LoadReport};
pub use schedule::{Schedule, Shape};
pub use sender::{Sending, Sent};
pub use series::{Series, Step};
pub use tally::{Latencies, LatencySummary, Tally};
pub use view::{Class, OrderView, ParcelView, TimelineEntry, classify, unix_micros};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(100);

/// Sends what `config` asks for, then judges it. Sending and judging have a thread of their own each, so this may run
/// beside anything. Dropping the future stops both.
///
/// # Errors
/// [`LoadError`] if nothing was sent: wrong usage, no server, or this process can't. What goes wrong later is in the
/// report.
pub async fn run(config: LoadConfig, progress: &dyn Progress) -> Result<LoadReport, LoadError> {
    let judge = JudgeConfig::from(&config);
    let ledgers = config.ledgers.clone();
    let mut sending = Sending::start(config).await?;
    let mut tick = tokio::time::interval(PROGRESS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = loop {
        tokio::select! {
            sent = sending.finish() => break sent?,
            _ = tick.tick() => progress.update(&sending.snapshot()),
        }
    };
    let acks = Arc::new(std::mem::take(&mut sent.acks));
    let judgement = if judge.verify == Verify::Sample(0) || acks.is_empty() {
        Judgement::default()
    } else {
        let mut judging = Judging::start(judge, acks).await?;
        loop {
            tokio::select! {
                judgement = judging.finish() => break judgement?,
                _ = tick.tick() => progress.update(&judging.snapshot()),
            }
        }
    };
    let mut report = LoadReport::new(&sent, &judgement);
    if !ledgers.is_empty() {
        let read = tokio::task::spawn_blocking(move || duplicate_effects(&ledgers)).await;
        report.add_effects(read.map_err(|_| LoadError::Broken)?);
    }
    Ok(report)
}
