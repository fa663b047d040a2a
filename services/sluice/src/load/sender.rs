//! The pace of a run and the thread it lives on.
//!
//! Everything that sends shares one thread with a runtime of its own, so a run takes at most one core whatever else the
//! process does, and nothing it touches needs a lock. A pacemaker wakes idle connections once a millisecond; a connection
//! that is busy takes the next due order by itself when it becomes free. Orders are therefore sent up to about a
//! millisecond late and never early; the lateness is part of the latency that is reported.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::MissedTickBehavior;

use super::acks::AckLog;
use super::client::send;
use super::config::{LoadConfig, LoadError};
use super::http::{Failure, Link};
use super::orders::{Orders, Source};
use super::progress::{Counters, Phase, Snapshot};
use super::schedule::Schedule;
use super::series::Series;
use super::tally::Tally;

/// How often idle connections are given what became due; the runtime's timers aren't finer.
const TICK: Duration = Duration::from_millis(1);

/// Orders that are sent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) first: u64,
    /// One past the last.
    pub(crate) end: u64,
    /// When its last order is due, from the start of the run.
    pub(crate) due: Duration,
}

/// What the connections of a run share.
pub(crate) struct Desk {
    pub(crate) config: LoadConfig,
    pub(crate) orders: RefCell<Orders<'static>>,
    pub(crate) tally: RefCell<Tally>,
    pub(crate) acks: RefCell<AckLog>,
    pub(crate) last_ack: Cell<Duration>,
    pub(crate) counters: Arc<Counters>,
    schedule: Schedule,
    started: Instant,
    /// The unit to be sent next, computed once although many may ask whether it is due yet.
    next: Cell<Unit>,
    closed: Cell<bool>,
    idle: RefCell<VecDeque<Waker>>,
}

impl Desk {
    fn new(config: LoadConfig, orders: Orders<'static>, counters: Arc<Counters>) -> Self {
        let schedule = config.schedule();
        let desk = Self {
            orders: RefCell::new(orders),
            tally: RefCell::new(Tally { series: Series::new(config.duration), ..Tally::default() }),
            acks: RefCell::default(),
            last_ack: Cell::new(Duration::ZERO),
            counters,
            schedule,
            started: Instant::now(),
            next: Cell::new(Unit { first: 0, end: 0, due: Duration::ZERO }),
            closed: Cell::new(false),
            idle: RefCell::default(),
            config,
        };
        desk.next.set(desk.unit(0));
        desk
    }

    /// Time since the start of the run.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The next unit once it is due, or `None` when there will be none.
    pub(crate) async fn next_unit(&self) -> Option<Unit> {
        poll_fn(|context| self.poll_unit(context)).await
    }

    fn poll_unit(&self, context: &Context<'_>) -> Poll<Option<Unit>> {
        let unit = self.next.get();
        if self.closed.get() || unit.first == unit.end {
            return Poll::Ready(None);
        }
        if unit.due > self.elapsed() {
            self.idle.borrow_mut().push_back(context.waker().clone());
            return Poll::Pending;
        }
        self.next.set(self.unit(unit.end));
        Poll::Ready(Some(unit))
    }

    fn unit(&self, first: u64) -> Unit {
        let size = self.config.batch.map_or(1, |batch| batch.get() as u64);
        let end = (first + size).min(self.schedule.total());
        Unit { first, end, due: self.schedule.time_of(end.saturating_sub(1)) }
    }

    /// Wakes as many idle connections as there are units due, the longest idle ones first.
    fn wake_due(&self) {
        let (next, due) = (self.next.get(), self.schedule.due_by(self.elapsed()));
        let size = (next.end - next.first).max(1);
        // Rounded up, so that a last unit that is smaller is counted; who is woken for nothing goes idle again.
        let waiting = due.saturating_sub(next.first).div_ceil(size);
        let mut idle = self.idle.borrow_mut();
        let count = usize::try_from(waiting).unwrap_or(usize::MAX).min(idle.len());
        idle.drain(..count).for_each(Waker::wake);
    }

    /// Ends the run for every connection that is idle now or next.
    fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Lets units go as they become due, until all have been taken, the run is stopped, or its time is up.
    async fn pace(&self, stop: &AtomicBool) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let time_is_up = self.config.duration + self.config.drain;
        loop {
            tick.tick().await;
            let unit = self.next.get();
            if stop.load(Relaxed) || unit.first == unit.end || self.elapsed() > time_is_up {
                return self.close();
            }
            self.wake_due();
        }
    }
}

/// What a run leaves behind.
#[derive(Debug)]
pub struct Sent {
    /// Every acknowledged order.
    pub acks: AckLog,
    /// What was answered how often, and how late.
    pub tally: Tally,
    /// Orders that were due until the end of the schedule, or until the run was stopped.
    pub intended: u64,
    /// The mean rate that was intended until then, in orders/s.
    pub intended_rate: f64,
    /// From the start to the last acknowledgement.
    pub elapsed: Duration,
    /// Processor time that sending took; `None` where the system doesn't tell.
    pub cpu: Option<Duration>,
}

impl Sent {
    /// Acknowledged orders per second, from the start to the last acknowledgement.
    #[must_use]
    pub fn achieved_rate(&self) -> f64 {
        self.tally.acknowledged as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }
}

/// A run that is being sent, on a thread of its own. Dropping it stops it.
#[derive(Debug)]
pub struct Sending {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    started: Instant,
    total: u64,
    sent: oneshot::Receiver<Result<Sent, LoadError>>,
}

impl Sending {
    /// Opens all connections and then starts to send.
    ///
    /// # Errors
    /// [`LoadError::Usage`] if the configuration can't run; [`LoadError::Connect`] if no server is there;
    /// [`LoadError::Start`] and [`LoadError::Data`] if this process can't.
    pub async fn start(config: LoadConfig) -> Result<Self, LoadError> {
        config.check()?;
        let total = config.schedule().total();
        let (stop, counters) = (Arc::new(AtomicBool::new(false)), Arc::new(Counters::default()));
        let (ready, is_ready) = oneshot::channel();
        let (done, sent) = oneshot::channel();
        let shared = (Arc::clone(&stop), Arc::clone(&counters));
        on_own_thread("load", move || async move {
            let (stop, counters) = shared;
            match warm_up(&config).await {
                Ok((links, orders)) => {
                    // Whoever started this may have gone away; then `stop` says so.
                    let _ = ready.send(Ok(()));
                    let _ = done.send(Ok(run(config, orders, links, counters, &stop).await));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
        is_ready.await.map_err(|_| LoadError::Broken)??;
        Ok(Self { stop, counters, started: Instant::now(), total, sent })
    }

    /// No further order is sent; those under way are still waited for, up to the configuration's `drain`.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// How far it is.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.counters.snapshot(Phase::Sending, self.started.elapsed(), self.total)
    }

    /// Waits until all is sent and answered, or given up. Dropping the future loses nothing; it can be called again until
    /// it has given an answer.
    ///
    /// # Errors
    /// [`LoadError::Broken`] if the thread died.
    pub async fn finish(&mut self) -> Result<Sent, LoadError> {
        (&mut self.sent).await.unwrap_or(Err(LoadError::Broken))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a future on a new thread with a single-threaded runtime.
pub(crate) fn on_own_thread<F, T>(name: &str, make: F) -> Result<(), LoadError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LoadError::Start)?;
    let work = move || LocalSet::new().block_on(&runtime, async { make().await });
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(LoadError::Start)?;
    Ok(())
}

/// Opens every connection before the clock starts, so that the first orders don't pay for it.
async fn warm_up(config: &LoadConfig) -> Result<(Vec<Link>, Orders<'static>), LoadError> {
    let failed = |source: io::Error| LoadError::Connect { authority: config.target.authority().to_owned(), source };
    let address = config.target.resolve().await.map_err(failed)?;
    let source = Source::shared()?;
    let orders = source.orders(&config.merchants, &config.target, &config.run)?.with(config.seed, config.two_line);
    let mut links = Vec::with_capacity(config.connection_count());
    for _ in 0..config.connection_count() {
        let mut link = Link::to(address, &config.target);
        link.connect().await.map_err(|failure| match failure {
            Failure::Connect(source) | Failure::Lost(source) => failed(source),
            other => failed(io::Error::other(other)),
        })?;
        links.push(link);
    }
    Ok((links, orders))
}

async fn run(
    config: LoadConfig,
    orders: Orders<'static>,
    links: Vec<Link>,
    counters: Arc<Counters>,
    stop: &AtomicBool,
) -> Sent {
    let drain = config.drain;
    let cpu_before = thread_cpu();
    let desk = Rc::new(Desk::new(config, orders, counters));
    let mut clients = JoinSet::new();
    for (link, number) in links.into_iter().zip(0..) {
        clients.spawn_local(send(Rc::clone(&desk), link, number));
    }
    desk.pace(stop).await;
    let stopped = stop.load(Relaxed).then(|| desk.elapsed().min(desk.config.duration));
    let all_done = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all_done).await.is_err() {
        clients.shutdown().await;
    }
    let cpu = thread_cpu().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    desk.sum_up(stopped, cpu)
}

impl Desk {
    fn sum_up(&self, stopped: Option<Duration>, cpu: Option<Duration>) -> Sent {
        let mut tally = self.tally.take();
        let until = stopped.unwrap_or(self.config.duration);
        let intended = self.schedule.due_by(until).max(tally.sent);
        tally.unsent = intended - tally.sent;
        // Whatever has no other end was cut off while it was under way.
        let ended = tally.acknowledged + tally.rejected + tally.unanswered + tally.not_taken;
        tally.unanswered += tally.sent.saturating_sub(ended);
        Sent {
            acks: self.acks.take(),
            tally,
            intended,
            intended_rate: intended as f64 / until.as_secs_f64().max(1e-6),
            elapsed: self.last_ack.get(),
            cpu,
        }
    }
}

/// Processor time of this thread so far.
fn thread_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}
