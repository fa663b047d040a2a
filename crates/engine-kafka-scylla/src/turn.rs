//! Whose turn it is: of the nodes that could do something, one does it at a time and the others stand by. It is the one to
//! which a group assigns the only partition of the deployment's topic; nothing of that topic is read.
//!
//! Who loses the turn in a rebalance is asked to end first, for a bounded time; who was silent for longer than the session has
//! lost it unheard. So what the holder writes must be guarded, too: [`Held::claim`] gives a number for that, which nobody else has
//! had. The group's committed offset counts these, and only its holder can commit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::KafkaError,
};
use tokio::sync::{oneshot, watch};

use crate::{
    config::LogConfig,
    context::{Quiet, leave},
    topics::{Names, PATIENCE},
};

/// How long the thread waits at a time.
const WAIT: Duration = Duration::from_millis(100);
/// How long whoever has the turn may take to end once another is to have it. Below the brokers' bound for a rebalance.
const HAND_OVER: Duration = Duration::from_secs(15);

/// A request for a number above another, and where the answer goes.
type Claim = (i64, oneshot::Sender<Result<i64, KafkaError>>);

/// What the group, its thread and the holder share.
struct Shared {
    /// Number of the assignment by which this node has the turn; `None` if it doesn't.
    turn: watch::Sender<Option<u64>>,
    /// How many there were.
    turns: AtomicU64,
    /// True while somebody acts on it.
    acting: Mutex<bool>,
    ended: Condvar,
}

impl Shared {
    fn take(&self) {
        self.turn.send_replace(Some(self.turns.fetch_add(1, Relaxed)));
    }

    fn lose(&self) {
        let mut acting = self.acting.lock();
        self.turn.send_if_modified(|turn| turn.take().is_some());
        let until = Instant::now() + HAND_OVER;
        while *acting {
            if self.ended.wait_until(&mut acting, until).timed_out() {
                tracing::warn!("whoever had the turn doesn't end; what it still writes doesn't count");
                return;
            }
        }
    }
}

struct Member(Arc<Shared>);

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        Quiet.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(gone) if gone.count() > 0 => self.0.lose(),
            Rebalance::Error(error) => tracing::warn!(%error, "rebalancing whose turn it is"),
            Rebalance::Revoke(_) | Rebalance::Assign(_) => {}
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(came) = rebalance else { return };
        if came.count() > 0 {
            // Nothing is read; what is paused by mistake, or isn't, only costs.
            let _ = consumer.pause(came);
            self.0.take();
        }
    }
}

/// See the module.
pub struct Turn {
    shared: Arc<Shared>,
    claims: mpsc::SyncSender<Claim>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Turn {
    /// Joins the group for `what`, a name like a role's.
    ///
    /// # Errors
    /// [`KafkaError`] if a client or the thread can't be made.
    pub fn start(config: &LogConfig, what: &str) -> Result<Self, KafkaError> {
        let names = Names::new(&config.prefix);
        let topic = names.deployment();
        let turn = watch::Sender::new(None);
        let shared =
            Arc::new(Shared { turn, turns: AtomicU64::new(0), acting: Mutex::new(false), ended: Condvar::new() });
        let member: BaseConsumer<Member> =
            config.consumer(&names.turn(what)).create_with_context(Member(Arc::clone(&shared)))?;
        member.subscribe(&[&topic])?;
        let (claims, asked) = mpsc::sync_channel::<Claim>(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Relaxed) {
                // What it reads doesn't matter; polling keeps it a member.
                drop(member.poll(WAIT));
                if let Ok((above, answer)) = asked.try_recv() {
                    // Whoever asked may have lost its turn meanwhile.
                    drop(answer.send(claim(&member, &topic, above)));
                }
            }
            leave(member);
        };
        let thread = std::thread::Builder::new().name(format!("turn-{what}")).spawn(run);
        let thread = thread.map_err(|e| KafkaError::ClientCreation(e.to_string()))?;
        Ok(Self { shared, claims, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Waits until it is this node's turn. What it gives must be dropped before it is called again: that lets the next node have
    /// its own.
    pub async fn taken(&self) -> Held {
        let mut turn = self.shared.turn.subscribe();
        loop {
            {
                let mut acting = self.shared.acting.lock();
                let now = *turn.borrow_and_update();
                if let Some(number) = now.filter(|_| !*acting) {
                    *acting = true;
                    return Held { shared: Arc::clone(&self.shared), claims: self.claims.clone(), number };
                }
            }
            // The sender is this one's own, so that it can't be gone.
            let _ = turn.changed().await;
        }
    }

    /// Leaves the group and waits for the thread. Blocks.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        if self.thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches whose turn it is panicked");
        }
    }
}

/// Raises the group's offset above itself and `above`. It lies far behind the end of the topic, which doesn't matter.
fn claim(member: &BaseConsumer<Member>, topic: &str, above: i64) -> Result<i64, KafkaError> {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition(topic, 0);
    let committed = member.committed_offsets(offsets, PATIENCE)?;
    let last = match committed.find_partition(topic, 0).map(|element| element.offset()) {
        Some(Offset::Offset(last)) => last,
        _ => 0,
    };
    let number = last.max(above) + 1;
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, Offset::Offset(number))?;
    member.commit(&offsets, CommitMode::Sync)?;
    Ok(number)
}

/// The turn, until it is dropped.
pub struct Held {
    shared: Arc<Shared>,
    claims: mpsc::SyncSender<Claim>,
    number: u64,
}

impl Held {
    /// A number above `above` that nobody has had.
    ///
    /// # Errors
    /// [`KafkaError`] if the turn is lost, or the brokers don't answer.
    pub async fn claim(&self, above: i64) -> Result<i64, KafkaError> {
        let (answer, answered) = oneshot::channel();
        if self.claims.try_send((above, answer)).is_err() {
            return Err(KafkaError::Canceled);
        }
        answered.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Resolves once the turn is lost: then end soon, and drop this.
    pub async fn lost(&self) {
        let mut turn = self.shared.turn.subscribe();
        let _ = turn.wait_for(|turn| *turn != Some(self.number)).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.shared.acting.lock() = false;
        self.shared.ended.notify_all();
    }
}
