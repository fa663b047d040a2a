//! One carrier's notifier, driven by the scheduler the way the driver over HTTP drives it: take entries, act, hand over,
//! hear. Each of the four is a step.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use sluice_carrier::notifier::{CallId, Moment, Next, Notifier};
use sluice_engine_embedded::Engine;
use sluice_pipeline::{Answer, HealthBoard, LogError, Manifest, Outbox, OutboxBatch, Outcomes};
use sluice_sim::Rng;

use super::flag::Flag;

#[derive(Debug)]
struct Flight {
    call: CallId,
    due_us: u64,
    answer: Answer,
}

/// What a step did.
#[derive(Debug)]
pub(super) enum Act {
    /// There was nothing to do.
    Nothing,
    /// It did this.
    Did(&'static str, u64),
    /// The carrier is to be called; [`Courier::called`] says what comes of it.
    Call(CallId, Arc<Manifest>),
}

/// See the module.
pub(super) struct Courier {
    number: u16,
    notifier: Notifier,
    outbox: Box<dyn Outbox>,
    batch: OutboxBatch,
    news: Arc<Flag>,
    room: Arc<Flag>,
    flights: Vec<Flight>,
    wake_us: Option<u64>,
    settled: Option<u64>,
}

impl Courier {
    /// A courier that holds nothing.
    pub(super) fn new(number: u16, notifier: Notifier, outbox: Box<dyn Outbox>) -> Self {
        Self {
            number,
            notifier,
            outbox,
            batch: OutboxBatch::default(),
            news: Flag::up(),
            room: Flag::up(),
            flights: Vec::new(),
            wake_us: None,
            settled: None,
        }
    }

    /// Does one of its four duties; begins to look with any of them.
    pub(super) fn step(
        &mut self,
        engine: &Engine,
        health: &HealthBoard,
        now: Moment,
        rng: &mut Rng,
    ) -> Result<Act, LogError> {
        let first = rng.below(4);
        for duty in first..first + 4 {
            let act = match duty % 4 {
                0 => self.hear(now, rng),
                1 => self.hand_over(engine, rng),
                2 => self.take(now, rng)?,
                _ => self.act(now),
            };
            if !matches!(act, Act::Nothing) {
                health.publish(self.number, self.notifier.health());
                return Ok(act);
            }
        }
        health.publish(self.number, self.notifier.health());
        Ok(Act::Nothing)
    }

    /// Hears any of the answers that have come.
    fn hear(&mut self, now: Moment, rng: &mut Rng) -> Act {
        let come: Vec<usize> = (0..self.flights.len()).filter(|&i| self.flights[i].due_us <= now.mono_us).collect();
        let Some(&at) = rng.pick(&come) else { return Act::Nothing };
        let Flight { call, answer, .. } = self.flights.swap_remove(at);
        self.notifier.answered(call, answer, now);
        Act::Did("hears of call", call.0)
    }

    /// Hands over some or all outcomes, and says how far everything is settled.
    fn hand_over(&mut self, engine: &Engine, rng: &mut Rng) -> Act {
        let waiting = self.notifier.outcomes().len();
        if waiting > 0 && self.room.take() {
            let waker = self.room.waker();
            let mut cx = Context::from_waker(&waker);
            let most = if rng.coin() { waiting } else { 1 + rng.below(waiting as u64) as usize };
            self.notifier.hand_over(|reports| {
                let mut rest = reports.split_off(most);
                engine.report(&mut cx, reports);
                reports.append(&mut rest);
            });
            let taken = waiting - self.notifier.outcomes().len();
            if taken == most {
                // Nobody was asked to wait.
                self.room = Flag::up();
            }
            if taken > 0 {
                return Act::Did("hands over outcomes", taken as u64);
            }
        }
        let settled = self.notifier.settled_position();
        match settled {
            Some(position) if settled > self.settled => {
                self.settled = settled;
                self.outbox.settled(position);
                Act::Did("has settled everything up to", position)
            }
            _ => Act::Nothing,
        }
    }

    /// Takes entries from the outbox.
    fn take(&mut self, now: Moment, rng: &mut Rng) -> Result<Act, LogError> {
        let room = self.notifier.room();
        if room == 0 || !self.news.take() {
            return Ok(Act::Nothing);
        }
        let most = if rng.coin() { room } else { 1 + rng.below(room as u64) as usize };
        self.batch.bytes.clear();
        self.batch.entries.clear();
        let waker = self.news.waker();
        match self.outbox.poll_entries(&mut Context::from_waker(&waker), most, &mut self.batch) {
            Poll::Pending | Poll::Ready(Ok(0)) => Ok(Act::Nothing),
            Poll::Ready(Ok(taken)) => {
                // There may be more, and nobody was asked to wait.
                self.news = Flag::up();
                self.notifier.push(&self.batch, now);
                Ok(Act::Did("takes entries", taken as u64))
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    fn act(&mut self, now: Moment) -> Act {
        self.wake_us = None;
        match self.notifier.next(now, self.outbox.sending_mark()) {
            Next::Send(call, manifest) => Act::Call(call, manifest),
            Next::MarkSending(position) => {
                self.outbox.mark_sending(position);
                Act::Did("asks for a mark up to", position)
            }
            Next::WaitUntil(at_us) => {
                self.wake_us = Some(at_us);
                Act::Nothing
            }
            Next::Idle => Act::Nothing,
        }
    }

    /// The call was made; `answer` will be heard at `due_us`.
    pub(super) fn called(&mut self, call: CallId, due_us: u64, answer: Answer) {
        self.flights.push(Flight { call, due_us, answer });
    }

    /// When time alone gives it something to do, µs.
    pub(super) fn wakes_at_us(&self) -> Option<u64> {
        self.flights.iter().map(|f| f.due_us).chain(self.wake_us).min()
    }

    /// What it holds and has heard, for a person who wonders why it doesn't go on.
    pub(super) fn describe(&self) -> String {
        format!(
            "courier {}: {} held, {} calls under way, {} outcomes waiting, mark {}, news {}, breaker {:?}",
            self.number,
            self.notifier.held(),
            self.notifier.in_flight(),
            self.notifier.outcomes().len(),
            self.outbox.sending_mark(),
            self.news.is_up(),
            self.notifier.breaker(),
        )
    }
}
