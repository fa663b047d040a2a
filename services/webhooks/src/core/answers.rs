//! What answers mean: for the event, for the endpoint, and for what is stored.

use std::{sync::Arc, time::Duration};

use sluice_domain::limits::MAX_REASON;
use sluice_pipeline::{Change, backoff::Backoff};

use super::{AttemptId, Core, Flight, Heard, Outcome, Way, cursors};
use crate::{
    config::ms,
    lane::State,
    model::{self, Delivery, DeliveryStatus, Message, Schedule},
};

/// After an outage, what was put aside comes back over this time, ms.
const SPREAD_MS: u64 = 60_000;
/// Pause after an attempt that could not be made for a reason of ours.
const UNMADE_PAUSE_MS: u64 = 5_000;

impl Core {
    /// Takes what came of an attempt. True if the endpoint is gone: nothing more is posted, and whoever stores what its
    /// merchant has set has to store that.
    pub fn answered(&mut self, attempt: AttemptId, heard: Heard, now: u64) -> bool {
        let Some((flight, _)) = self.flights.remove(&attempt) else { return false };
        let first = matches!(flight, Flight::Window(..));
        let was_failing = self.is_failing();
        let gone = heard.outcome == Outcome::Gone;
        match &heard.outcome {
            Outcome::Taken(_) => self.works(was_failing, now),
            Outcome::Unmade => self.pause(now.saturating_add(UNMADE_PAUSE_MS)),
            Outcome::Gone => self.disabled = true,
            Outcome::Busy(_, retry_after_ms) => {
                self.fails(first, now);
                self.pause(now.saturating_add((*retry_after_ms).min(ms(self.config.retry_after_cap))));
            }
            Outcome::Failed(..) => self.fails(first, now),
        }
        match flight {
            Flight::Window(way, number, message) => self.window_answered(way, number, &message, heard, now),
            Flight::Parked(number) => self.parked_answered(number, heard, now),
        }
        self.rest(now);
        gone
    }

    fn window_answered(&mut self, way: Way, number: u64, message: &Arc<Message>, heard: Heard, now: u64) {
        let mut schedule = Schedule::new(message, way == Way::Replay, now);
        if self.apply(&mut schedule, heard, now) {
            self.settle(way, number);
        } else if schedule.attempts > 0 && self.parked.len() < self.config.parked {
            self.log(&mut schedule, DeliveryStatus::Retrying, now);
            self.park(message, schedule);
            self.settle(way, number);
        } else {
            // It stays, and so does everything behind it. That it was tried is only the endpoint's matter then.
            if let Some(lane) = self.lane(way) {
                lane.set(number, State::Waiting);
            }
            let over = self.standing.failures.saturating_sub(self.config.failing_after);
            let pause = self.jittered(self.config.endpoint_backoff, over + 1);
            self.pause(now.saturating_add(pause));
        }
    }

    fn parked_answered(&mut self, number: u64, heard: Heard, now: u64) {
        self.parked.land(number);
        let Some(mut schedule) = self.parked.get(number).cloned() else { return };
        if self.apply(&mut schedule, heard, now) {
            self.unpark(number, now);
        } else {
            self.log(&mut schedule, DeliveryStatus::Retrying, now);
            self.changes.push(model::put(model::schedule_key(&self.id, number), &schedule));
            self.parked.set(schedule);
        }
    }

    /// Enters an outcome. True if the event is settled by it.
    fn apply(&mut self, schedule: &mut Schedule, heard: Heard, now: u64) -> bool {
        if heard.outcome == Outcome::Unmade {
            schedule.due_ms = now.saturating_add(UNMADE_PAUSE_MS);
            return false;
        }
        schedule.make_earlier();
        schedule.attempts = schedule.attempts.saturating_add(1);
        (schedule.took_ms, schedule.tried_at_ms) = (Some(heard.took_ms), Some(now));
        let mut pause = self.jittered(self.config.backoff, schedule.attempts);
        let (status, error) = match heard.outcome {
            Outcome::Taken(status) => {
                (schedule.http_status, schedule.error) = (Some(status), String::new());
                self.counters.delivered += 1;
                self.log(schedule, DeliveryStatus::Delivered, now);
                return true;
            }
            Outcome::Gone => (Some(410), "the endpoint says that it is gone; it is disabled".to_owned()),
            Outcome::Busy(status, retry_after_ms) => {
                pause = pause.max(retry_after_ms.min(ms(self.config.retry_after_cap)));
                (Some(status), "the endpoint asks to come back later".to_owned())
            }
            Outcome::Failed(status, error) => (status, error),
            Outcome::Unmade => (None, String::new()),
        };
        self.counters.failed_attempts += 1;
        schedule.http_status = status;
        schedule.error = error;
        schedule.error.truncate(schedule.error.floor_char_boundary(MAX_REASON));
        schedule.due_ms = now.saturating_add(pause);
        let since = schedule.since_ms.max(self.standing.enabled_at_ms);
        if now.saturating_sub(since) >= ms(self.config.give_up_after) {
            self.give_up(schedule.clone(), now);
            return true;
        }
        false
    }

    /// The endpoint took something.
    fn works(&mut self, was_failing: bool, now: u64) {
        (self.standing.failures, self.standing.waits_until_ms) = (0, 0);
        self.standing.failing_since_ms = None;
        self.standing.succeeded_at_ms = Some(now);
        if was_failing {
            let chance = &mut self.chance;
            self.parked.hasten(|| now.saturating_add(chance.up_to(SPREAD_MS)));
        }
        self.dirty = true;
    }

    /// An attempt failed. A repeated failure of one event says nothing of the endpoint, unless everything fails.
    fn fails(&mut self, first: bool, now: u64) {
        if first || self.is_failing() {
            self.standing.failures = self.standing.failures.saturating_add(1);
        }
        if self.is_failing() {
            self.standing.failing_since_ms.get_or_insert(now);
            let over = self.standing.failures - self.config.failing_after;
            let pause = self.jittered(self.config.endpoint_backoff, over.saturating_add(1));
            self.pause(now.saturating_add(pause));
        }
        self.dirty = true;
    }

    fn pause(&mut self, until: u64) {
        self.standing.waits_until_ms = self.standing.waits_until_ms.max(until);
        self.dirty = true;
    }

    /// At least half of the longest wait, so that no chance makes it a hammer; ms.
    fn jittered(&mut self, backoff: Backoff, failures: u32) -> u64 {
        let ceiling = ms(Duration::from_micros(backoff.ceiling_us(failures)));
        ceiling / 2 + self.chance.up_to(ceiling - ceiling / 2)
    }

    pub(super) fn give_up(&mut self, mut schedule: Schedule, now: u64) {
        if schedule.attempts == 0 {
            "the endpoint has taken nothing for as long as events are tried for".clone_into(&mut schedule.error);
        }
        self.counters.given_up += 1;
        self.log(&mut schedule, DeliveryStatus::Failed, now);
    }

    /// Puts an event aside. There must be room.
    pub(super) fn park(&mut self, message: &Message, mut schedule: Schedule) {
        schedule.number = self.standing.parked_next;
        self.standing.parked_next += 1;
        self.changes.push(model::put(model::message_key(&self.id, schedule.number), message));
        self.changes.push(model::put(model::schedule_key(&self.id, schedule.number), &schedule));
        self.parked.insert(schedule);
        self.dirty = true;
    }

    pub(super) fn unpark(&mut self, number: u64, now: u64) {
        let order = self.parked.get(number).map(|schedule| schedule.order);
        self.parked.remove(number);
        self.changes.push(Change::Delete { key: model::schedule_key(&self.id, number) });
        self.changes.push(Change::Delete { key: model::message_key(&self.id, number) });
        // What waited behind it has its own patience from now on.
        if let Some(mut follower) = order.and_then(|order| self.parked.front(order)).cloned() {
            (follower.due_ms, follower.since_ms) = (now, now);
            self.changes.push(model::put(model::schedule_key(&self.id, follower.number), &follower));
            self.parked.set(follower);
        }
        self.dirty = true;
    }

    /// Writes a line of the log, over its earlier one if that is still there, and removes what is too much.
    pub(super) fn log(&mut self, schedule: &mut Schedule, status: DeliveryStatus, now: u64) {
        let kept = schedule.log.filter(|number| *number >= self.standing.log_oldest);
        let number = kept.unwrap_or(self.standing.log_next);
        if kept.is_none() {
            self.standing.log_next += 1;
            self.changes.push(model::name(model::about_key(schedule.order, &self.id, number)));
        }
        schedule.log = Some(number);
        let line = Delivery {
            number,
            event: schedule.event.clone(),
            kind: schedule.kind.clone(),
            order: schedule.order,
            sequence: schedule.sequence,
            event_at_ms: schedule.event_at_ms,
            status,
            attempts: schedule.attempts,
            at_ms: now,
            http_status: schedule.http_status,
            took_ms: schedule.took_ms,
            error: schedule.error.clone(),
            next_at_ms: (status == DeliveryStatus::Retrying).then_some(schedule.due_ms),
            replayed: schedule.replayed,
            tried_at_ms: schedule.tried_at_ms,
            earlier: schedule.earlier.clone(),
        };
        self.changes.push(model::put(model::delivery_key(&self.id, number), &line));
        let kept = self.standing.log_next.saturating_sub(self.config.log_entries.max(1));
        self.forget(kept);
    }

    /// Removes every line of the log before `number`. What names a line as one about its order goes where changes are written.
    pub fn forget(&mut self, number: u64) {
        while self.standing.log_oldest < number.min(self.standing.log_next) {
            self.changes.push(Change::Delete { key: model::delivery_key(&self.id, self.standing.log_oldest) });
            self.standing.log_oldest += 1;
            self.dirty = true;
        }
    }

    /// Lets go of the windows while nothing may be posted: what waits is in the log.
    pub(super) fn rest(&mut self, now: u64) {
        if self.disabled || now < self.standing.waits_until_ms {
            for lane in [&mut self.live, &mut self.replay].into_iter().flatten() {
                if !lane.is_flying() && !lane.reading {
                    lane.release();
                }
            }
        }
    }

    /// Moves what is to be stored to `out`, in order: all of it is to be written before anything later. A cursor that has
    /// moved over nothing of this endpoint's is stored along with something else, or if `idle` is asked for.
    pub fn changes(&mut self, out: &mut Vec<Change>, idle: bool) {
        out.append(&mut self.changes);
        let moved = idle && self.stored != cursors(&self.standing);
        if std::mem::take(&mut self.dirty) || moved {
            self.stored = cursors(&self.standing);
            out.push(model::put(model::standing_key(&self.id), &self.standing));
        }
    }

    /// What is to be stored and wasn't taken yet.
    pub(crate) fn unwritten(&self) -> &[Change] {
        &self.changes
    }

    /// True if there is anything to be stored soon.
    pub fn has_changes(&self) -> bool {
        self.dirty || !self.changes.is_empty()
    }

    /// Everything that is stored of it, to be removed.
    pub fn removal(&self, out: &mut Vec<Change>) {
        let mut delete = |key| out.push(Change::Delete { key });
        delete(model::endpoint_key(&self.id));
        delete(model::standing_key(&self.id));
        for number in self.parked.numbers() {
            delete(model::schedule_key(&self.id, number));
            delete(model::message_key(&self.id, number));
        }
        for number in self.standing.log_oldest..self.standing.log_next {
            delete(model::delivery_key(&self.id, number));
        }
    }
}
