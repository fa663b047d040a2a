//! Runs one carrier's [`Notifier`] in the real world: outbox, HTTP and time.
//!
//! One task polls everything it waits for by hand, because the outbox and the outcomes are polled ports: whichever of
//! them, the calls, the timer and the shutdown has news wakes it, and it goes round until nobody has.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use sluice_pipeline::{Answer, Clock, HealthBoard, LogError, Manifest, Outbox, OutboxBatch, Outcomes};
use tokio::{
    task::JoinSet,
    time::{Instant, Sleep},
};

use super::{
    call::{Caller, Endpoint, Heard},
    config::{Moment, us},
    core::{CallId, Counters, Next, Notifier},
    telemetry::Telemetry,
};

/// Entries taken from the outbox at once.
const CHUNK: usize = 512;
/// How often a mark that was asked for is looked at when nothing else happens: the outbox wakes its last poller, and
/// while there is no room nobody polls it.
const MARK_RECHECK: Duration = Duration::from_millis(2);

/// Everything around one carrier's notifier.
pub struct Driver {
    /// What is to be told.
    pub outbox: Box<dyn Outbox>,
    /// Takes what is heard.
    pub outcomes: Arc<dyn Outcomes>,
    /// Where the carrier is.
    pub endpoint: Endpoint,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Learns what is measured.
    pub health: Arc<HealthBoard>,
    /// The carrier's number on the board.
    pub carrier_no: u16,
    /// How long calls under way may still take after the shutdown was asked for.
    pub drain: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// What was done.
    pub counters: Counters,
    /// Entries left in the outbox that had been taken out: the next run gets them again.
    pub left: usize,
    /// Calls cut off at the end of the drain; what became of them is not known.
    pub cut_off: usize,
}

impl Driver {
    /// Tells the carrier whatever comes out of the outbox until `shutdown` completes or the outbox closes; then waits for
    /// the calls under way up to the drain time, and hands over what they say. Needs a Tokio runtime with I/O and time.
    ///
    /// Dropping the future cuts off the calls under way, as a crash would.
    ///
    /// # Errors
    /// [`LogError`] when the outbox fails other than by being closed.
    pub async fn run(self, notifier: Notifier, shutdown: impl Future<Output = ()> + Send) -> Result<Summary, LogError> {
        let mut run = Run::new(self, notifier);
        let mut shutdown = std::pin::pin!(shutdown);
        std::future::poll_fn(|cx| {
            if run.drain_until_us.is_none() && shutdown.as_mut().poll(cx).is_ready() {
                run.stop();
            }
            run.poll(cx)
        })
        .await
    }
}

/// A call under way.
struct Open {
    task: tokio::task::Id,
    call: CallId,
    manifest: Arc<Manifest>,
    sent_us: u64,
}

struct Run {
    world: Driver,
    notifier: Notifier,
    caller: Arc<Caller>,
    calls: JoinSet<Heard>,
    open: Vec<Open>,
    batch: OutboxBatch,
    timer: Pin<Box<Sleep>>,
    telemetry: Telemetry,
    /// Outcomes that were counted and could not be handed over.
    counted: usize,
    settled: Option<u64>,
    mark_asked: u64,
    /// The mark that the notifier was last told.
    mark_seen: u64,
    /// Set once it is stopping.
    drain_until_us: Option<u64>,
}

impl Run {
    fn new(world: Driver, notifier: Notifier) -> Self {
        let caller = Caller::new(world.endpoint.clone(), Arc::clone(&world.clock), notifier.config());
        Self {
            telemetry: Telemetry::new(&notifier.config().carrier),
            caller: Arc::new(caller),
            calls: JoinSet::new(),
            open: Vec::new(),
            batch: OutboxBatch::default(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            counted: 0,
            settled: None,
            mark_asked: 0,
            mark_seen: 0,
            drain_until_us: None,
            world,
            notifier,
        }
    }

    fn now(&self) -> Moment {
        Moment::of(&*self.world.clock)
    }

    fn stop(&mut self) {
        if self.drain_until_us.is_none() {
            self.notifier.stop();
            self.drain_until_us = Some(self.now().mono_us.saturating_add(us(self.world.drain)));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Summary, LogError>> {
        loop {
            let heard = self.hear(cx);
            let handed = self.hand_over(cx);
            let taken = self.take_entries(cx)?;
            let (sent, wake_us) = self.act();
            let now = self.now();
            self.telemetry.publish(&self.notifier, now.mono_us);
            self.world.health.publish(self.world.carrier_no, self.notifier.health());
            let over = self.drain_until_us.is_some_and(|until| now.mono_us >= until);
            if self.drain_until_us.is_some() && (over || self.notifier.drained()) {
                return Poll::Ready(Ok(self.summary()));
            }
            // Giving up and parking make outcomes without any call having ended; and a call just made wakes this task only
            // once it has been asked for its end.
            let fresh = sent || self.notifier.outcomes().len() > self.counted;
            if !(heard || handed || taken || fresh) && self.wait(wake_us, now, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Sees what came of calls; true if any has ended.
    fn hear(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some(ended)) = self.calls.poll_join_next_with_id(cx) {
            any = true;
            let (task, heard) = match ended {
                Ok((task, heard)) => (task, heard),
                Err(error) => {
                    let answer = Answer::Ambiguous("the call broke off inside".to_owned());
                    (error.id(), Heard { answer, alien: 0, left_out: Vec::new() })
                }
            };
            if let Some(at) = self.open.iter().position(|open| open.task == task) {
                let open = self.open.swap_remove(at);
                self.ended(&open, heard);
            }
        }
        any
    }

    fn ended(&mut self, open: &Open, heard: Heard) {
        let now = self.now();
        let took_us = now.mono_us.saturating_sub(open.sent_us);
        self.telemetry.call(&open.manifest.id, &heard.answer, took_us, now.mono_us);
        if heard.alien > 0 {
            self.telemetry.odd(heard.alien as u64, 0, 0, now.mono_us);
        }
        for (index, error) in heard.left_out {
            let order_id = open.manifest.shipments.entries[index].shipment.order;
            tracing::error!(%order_id, manifest_id = open.manifest.id, %error, "a shipment can't be put on the wire");
            self.notifier.unsendable(open.call, &[index], &error.to_string(), now);
        }
        self.notifier.answered(open.call, heard.answer, now);
    }

    /// Hands outcomes over and tells the outbox how far everything is settled; true if any were taken.
    fn hand_over(&mut self, cx: &mut Context<'_>) -> bool {
        let now_us = self.now().mono_us;
        self.telemetry.outcomes(self.notifier.outcomes().get(self.counted..).unwrap_or_default(), now_us);
        let waiting = self.notifier.outcomes().len();
        if waiting > 0 {
            self.notifier.hand_over(|reports| self.world.outcomes.report(cx, reports));
        }
        self.counted = self.notifier.outcomes().len();
        let settled = self.notifier.settled_position();
        if settled > self.settled {
            self.settled = settled;
            if let Some(position) = settled {
                self.world.outbox.settled(position);
            }
        }
        self.counted < waiting
    }

    /// Takes what the outbox has and there is room for; true if there was anything.
    fn take_entries(&mut self, cx: &mut Context<'_>) -> Result<bool, LogError> {
        let mut any = false;
        loop {
            let room = self.notifier.room().min(CHUNK);
            if room == 0 {
                return Ok(any);
            }
            self.batch.bytes.clear();
            self.batch.entries.clear();
            match self.world.outbox.poll_entries(cx, room, &mut self.batch) {
                Poll::Pending | Poll::Ready(Ok(0)) => return Ok(any),
                Poll::Ready(Ok(_)) => {
                    self.notifier.push(&self.batch, self.now());
                    any = true;
                }
                Poll::Ready(Err(LogError::Closed)) => {
                    self.stop();
                    return Ok(any);
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
    }

    /// Does what the notifier wants done. Says whether any call was made, and when the notifier wants to be asked again
    /// (µs on the monotonic clock).
    fn act(&mut self) -> (bool, Option<u64>) {
        let mut sent = false;
        loop {
            let now = self.now();
            self.mark_seen = self.world.outbox.sending_mark();
            match self.notifier.next(now, self.mark_seen) {
                Next::Send(call, manifest) => {
                    let (caller, told) = (Arc::clone(&self.caller), Arc::clone(&manifest));
                    let task = self.calls.spawn(async move { caller.call(&told).await }).id();
                    sent = true;
                    self.open.push(Open { task, call, manifest, sent_us: now.mono_us });
                }
                Next::MarkSending(position) => {
                    self.mark_asked = position;
                    self.world.outbox.mark_sending(position);
                }
                Next::WaitUntil(at_us) => return (sent, Some(at_us)),
                Next::Idle => return (sent, None),
            }
        }
    }

    /// Waits for the earliest of what was asked for; ready if that is now.
    fn wait(&mut self, wake_us: Option<u64>, now: Moment, cx: &mut Context<'_>) -> Poll<()> {
        let recheck_us = (self.mark_asked > self.mark_seen).then(|| now.mono_us.saturating_add(us(MARK_RECHECK)));
        let Some(at_us) = [wake_us, recheck_us, self.drain_until_us].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        /// Timers have a far end; being woken once in a while for nothing costs nothing.
        const FAR_US: u64 = 3_600_000_000;
        let wait = Duration::from_micros(at_us.saturating_sub(now.mono_us).min(FAR_US));
        self.timer.as_mut().reset(Instant::now() + wait);
        self.timer.as_mut().poll(cx)
    }

    fn summary(&mut self) -> Summary {
        let cut_off = self.notifier.in_flight();
        self.calls.abort_all();
        if self.notifier.held() > 0 {
            let (carrier, left) = (&*self.notifier.config().carrier, self.notifier.held());
            tracing::info!(carrier, left, cut_off, "the notifier stops; what is left stays in the outbox");
        }
        Summary { counters: self.notifier.counters(), left: self.notifier.held(), cut_off }
    }
}
