//! The fold: what the owners decided and committed becomes rows in the store. Offsets are committed only once the rows
//! are durable, and a row's key follows from what it was decided about, so a fold that dies or a partition that moves
//! costs rows written twice and nothing else.
//!
//! While one gather of rows is being written, the next is read; both are bounded. A store that is away pauses the
//! partitions, and the fold stays in its group for as long as that lasts.

mod gather;
mod member;
mod rebuild;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    Message,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
};
use sluice_pipeline::Watchers;
use tokio::runtime::Handle;

pub use self::rebuild::{RebuildError, RebuildProgress, Rebuilt, rebuild};
use self::{
    gather::{Gather, Pen, Written},
    member::{Member, State},
};
use crate::{config::LogConfig, context::leave, store::Store, topics::Names};

/// How late the end of a write may be noticed while there is nothing to read.
const POLL: Duration = Duration::from_millis(5);
/// Longest wait for a message while nothing is being written, and so for [`Fold::stop`] to be noticed.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// How long a fold whose next gather is full waits for the store before it pauses its partitions, which throws away what
/// was fetched in advance.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a fold with paused partitions looks at its group and at the store.
const PAUSED_POLL: Duration = Duration::from_millis(50);
/// How long [`Fold::stop`] waits for the store; what isn't durable by then is folded again by whoever comes next.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a client that has failed for good is replaced.
const AGAIN: Duration = Duration::from_secs(1);

/// What a fold has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FoldSummary {
    /// Records of the decisions topic whose rows are durable.
    pub records: u64,
    /// Rows written.
    pub rows: u64,
}

/// A running fold: one member of the status group, on a thread of its own. There may be any number of them.
pub struct Fold {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<FoldSummary>>,
}

impl Fold {
    /// Joins the status group and starts the thread. Rows are written by tasks on `runtime`, which must outlive it;
    /// `watchers` are told of orders once their new rows are durable.
    ///
    /// # Errors
    /// [`KafkaError`] if the client can't be made; brokers that don't answer are waited for.
    pub fn start(
        config: &LogConfig,
        store: Arc<Store>,
        runtime: Handle,
        watchers: Arc<Watchers>,
    ) -> Result<Self, KafkaError> {
        describe();
        let stop = Arc::new(AtomicBool::new(false));
        let state = Arc::new(Mutex::new(State::new(Pen::new(store, runtime), watchers)));
        let consumer = join(config, &state)?;
        let worker = Worker { config: config.clone(), state, stop: Arc::clone(&stop), paused: false };
        let thread = std::thread::Builder::new()
            .name("fold".to_owned())
            .spawn(move || worker.run(consumer))
            .map_err(|e| KafkaError::ClientCreation(e.to_string()))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Finishes what was read (for at most 10 s), commits, leaves the group and waits for the thread.
    pub fn stop(mut self) -> FoldSummary {
        self.join()
    }

    fn join(&mut self) -> FoldSummary {
        self.stop.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return FoldSummary::default() };
        thread.join().unwrap_or_else(|_| {
            tracing::error!("a fold has panicked");
            FoldSummary::default()
        })
    }
}

impl Drop for Fold {
    fn drop(&mut self) {
        self.join();
    }
}

fn describe() {
    metrics::describe_counter!("sluice_fold_records_total", "Records of decisions whose rows are durable");
    metrics::describe_counter!("sluice_fold_rows_total", "Rows that the fold has made durable");
    metrics::describe_counter!("sluice_fold_damaged_total", "Records of decisions that could not be read whole");
    metrics::describe_counter!("sluice_fold_refused_total", "Writes that the store refused for good");
    metrics::describe_gauge!("sluice_fold_lag_records", "Decided but not durable in the store, by partition");
}

fn join(config: &LogConfig, state: &Arc<Mutex<State>>) -> Result<BaseConsumer<Member>, KafkaError> {
    let names = Names::new(&config.prefix);
    let mut client = config.consumer(&names.status());
    client.set("enable.partition.eof", "true").set("statistics.interval.ms", "1000");
    let consumer: BaseConsumer<Member> =
        client.create_with_context(Member::new(Arc::clone(state), names.decisions()))?;
    consumer.subscribe(&[&names.decisions()])?;
    Ok(consumer)
}

/// Why a consumer is no longer polled.
enum End {
    Stopped,
    /// It has failed, or rows were lost on their way: everything since the last commit must be read again.
    Failed,
}

struct Worker {
    config: LogConfig,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    paused: bool,
}

impl Worker {
    fn run(mut self, consumer: BaseConsumer<Member>) -> FoldSummary {
        let mut consumer = Some(consumer);
        while !self.stop.load(Relaxed) {
            match consumer.take().map(|member| (self.fold(&member), member)) {
                Some((End::Stopped, member)) => {
                    self.finish(&member);
                    leave(member);
                }
                Some((End::Failed, member)) => {
                    // Before it leaves the group, so that it commits nothing then.
                    self.state.lock().forget();
                    leave(member);
                    std::thread::sleep(AGAIN);
                }
                None => match join(&self.config, &self.state) {
                    Ok(member) => consumer = Some(member),
                    Err(error) => {
                        tracing::warn!(%error, "the fold's client can't be made anew");
                        std::thread::sleep(AGAIN);
                    }
                },
            }
        }
        self.state.lock().summary
    }

    fn fold(&mut self, consumer: &BaseConsumer<Member>) -> End {
        self.paused = false;
        while !self.stop.load(Relaxed) {
            let Ok(wait) = self.turn(consumer) else { return End::Failed };
            match consumer.poll(wait) {
                Some(Ok(message)) => {
                    let mut state = self.state.lock();
                    state.take(message.partition(), message.offset(), message.payload().unwrap_or_default());
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.state.lock().ended(partition),
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                    tracing::error!(%error, "the fold's client has failed; connecting anew");
                    return End::Failed;
                }
                // The client goes on by itself.
                Some(Err(error)) => tracing::debug!(%error, "polling decisions"),
                None => {}
            }
        }
        End::Stopped
    }

    /// Everything between two polls. Says how long the next may wait; `Err` if rows were lost on their way.
    fn turn(&mut self, consumer: &BaseConsumer<Member>) -> Result<Duration, ()> {
        let mut state = self.state.lock();
        state.settle(Duration::ZERO)?;
        if state.pen.is_busy() && state.gather.is_full() && !self.paused {
            state.settle(PATIENCE)?;
        }
        state.write_due();
        let wait = match (state.pen.is_busy(), state.gather.is_empty()) {
            (true, _) => POLL.min(state.gather.room()),
            (false, true) => IDLE_POLL,
            (false, false) => state.gather.room(),
        };
        let blocked = state.pen.is_busy() && state.gather.is_full();
        let (commit, moved) = (state.ask_commit(), std::mem::take(&mut state.moved));
        // Calls into the client may call back into the state.
        drop(state);
        if let Some(offsets) = commit
            && let Err(error) = consumer.commit(&offsets, CommitMode::Async)
        {
            tracing::debug!(%error, "committing");
            self.state.lock().not_committed(&offsets);
        }
        if blocked != self.paused || blocked && moved {
            self.pause(consumer, blocked);
        }
        Ok(match self.paused {
            true => PAUSED_POLL,
            // Never zero: callbacks are served by polls.
            false => wait.max(Duration::from_millis(1)),
        })
    }

    fn pause(&mut self, consumer: &BaseConsumer<Member>, pause: bool) {
        let done = consumer.assignment().and_then(|all| match pause {
            true => consumer.pause(&all),
            false => consumer.resume(&all),
        });
        match done {
            Ok(()) => self.paused = pause,
            // Tried again at the next turn.
            Err(error) => tracing::debug!(%error, pause, "pausing or resuming"),
        }
    }

    /// Makes durable what was read, as far as the store lets it, and commits.
    fn finish(&self, consumer: &BaseConsumer<Member>) {
        let until = Instant::now() + STOP_PATIENCE;
        let mut state = self.state.lock();
        let left = || until.saturating_duration_since(Instant::now());
        while state.pen.is_busy() || !state.gather.is_empty() {
            if left().is_zero() || state.settle(left()).is_err() {
                tracing::warn!("the store is away; what was read but not written is folded again later");
                break;
            }
            state.write_now();
        }
        state.forget_writes();
        let offsets = state.all_durable();
        drop(state);
        if let Some(offsets) = offsets
            && let Err(error) = consumer.commit(&offsets, CommitMode::Sync)
        {
            tracing::warn!(%error, "the fold's last offsets are not committed; some rows will be written again");
        }
    }
}
