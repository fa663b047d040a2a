//! Decides what one endpoint is told and when, and what its answers mean. Sans I/O: time comes in, attempts and documents go
//! out, and the same inputs give the same outputs on every machine.
//!
//! ```text
//!  feed ─▶ window ─▶ attempt ─▶ taken ─────────────────────────▶ settled; the cursor moves over it
//!             │         └──────▶ failed ─▶ put aside, durably, with a schedule of its own ─▶ taken, or given up
//!             └─ later ones of the same order ────▲
//! ```
//! | what came back | the event | the endpoint |
//! |---|---|---|
//! | 2xx | settled | counts as working |
//! | 410 | put aside | disabled, until its merchant enables it |
//! | 429 or 503 with Retry-After | put aside | is left alone for so long |
//! | anything else, or nothing | put aside | after some in a row is left alone, ever longer; then one event at a time tries |
//!
//! Of one order there is one attempt at once, and none while an earlier event of it isn't settled. What can't be put aside for
//! want of room stays in the window, and the endpoint waits at its cursor: its backlog is in the log, never in memory.

mod answers;
#[cfg(test)]
mod laws;

use std::{collections::BTreeMap, sync::Arc};

use sluice_domain::OrderId;
use sluice_pipeline::{Change, Cursor, backoff::Seeded};

use crate::{
    config::{WebhookConfig, ms},
    lane::{Lane, State},
    model::{Configured, Item, Message, Replay, Schedule, Standing},
    parked::Parked,
};

/// Replays that are remembered, so that a repeated request is known again.
pub const MAX_REPLAYS: usize = 16;
/// Pause after a read that came to nothing, ms.
const REREAD_MS: u64 = 1_000;

/// Tells one attempt from another. Never used twice by one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// Which of an endpoint's two ways through the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// What comes.
    Live,
    /// What is to come again.
    Replay,
}

/// The event of an attempt.
#[derive(Debug, Clone)]
pub enum Subject {
    /// It is in memory.
    Fresh(Arc<Message>),
    /// It was put aside under this number.
    Parked(u64),
}

/// What is to be done now.
#[derive(Debug)]
pub enum Next {
    /// Post this, then say what came of it by [`Core::answered`]; ask again at once.
    Send(AttemptId, Subject),
    /// Nothing until this time, ms since the Unix epoch, unless something is heard.
    WaitUntil(u64),
    /// Nothing until something is heard.
    Idle,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Taken(u16),
    /// 410.
    Gone,
    /// 429 or 503 with Retry-After: how long, ms.
    Busy(u16, u64),
    /// Another status, or none, and what was wrong.
    Failed(Option<u16>, String),
    /// It was never made, for a reason that isn't the endpoint's.
    Unmade,
}

/// An attempt's outcome, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// What came of it.
    pub outcome: Outcome,
    /// ms.
    pub took_ms: u64,
}

/// What has been done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Events that were taken.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Events that were given up.
    pub given_up: u64,
    /// Times that events were gone before they could be posted.
    pub gaps: u64,
}

enum Flight {
    Window(Way, u64, Arc<Message>),
    Parked(u64),
}

/// How far live delivery and the newest replay are.
fn cursors(standing: &Standing) -> [Option<Cursor>; 2] {
    [standing.cursor.clone(), standing.replays.last().and_then(|replay| replay.cursor.clone())]
}

/// One endpoint's delivery.
pub struct Core {
    id: String,
    types: Vec<String>,
    disabled: bool,
    config: Arc<WebhookConfig>,
    standing: Standing,
    live: Option<Lane>,
    replay: Option<Lane>,
    parked: Parked,
    flights: BTreeMap<AttemptId, (Flight, OrderId)>,
    next_attempt: u64,
    chance: Seeded,
    /// Whether something that was put aside goes before the window.
    parked_first: bool,
    changes: Vec<Change>,
    /// True if the standing differs from what was last taken by [`Core::changes`] in more than its cursor.
    dirty: bool,
    /// The [`cursors`] that were last taken.
    stored: [Option<Cursor>; 2],
    counters: Counters,
}

impl Core {
    /// The endpoint as it was stored; chance comes from `seed` alone.
    pub fn new(id: &str, config: Arc<WebhookConfig>, mut standing: Standing, parked: Vec<Schedule>, seed: u64) -> Self {
        // Where documents aren't written together, what was put aside may be stored and the standing that counts it not.
        for schedule in &parked {
            standing.parked_next = standing.parked_next.max(schedule.number + 1);
            standing.log_next = standing.log_next.max(schedule.log.map_or(0, |number| number + 1));
        }
        let live = standing.cursor.clone().map(Lane::new);
        let replay = standing.replays.last().and_then(|replay| replay.cursor.clone()).map(Lane::new);
        Self {
            id: id.to_owned(),
            types: Vec::new(),
            disabled: false,
            config,
            live,
            replay,
            parked: Parked::new(parked),
            stored: cursors(&standing),
            standing,
            flights: BTreeMap::new(),
            next_attempt: 0,
            chance: Seeded::new(seed),
            parked_first: false,
            changes: Vec::new(),
            dirty: false,
            counters: Counters::default(),
        }
    }

    /// Sets what its merchant has set: the types of events (all if empty), and whether anything is posted.
    pub fn set(&mut self, types: &[String], disabled: bool, now: u64) {
        self.types = types.to_vec();
        if self.disabled && !disabled {
            self.standing.enabled_at_ms = now;
            self.try_again(now);
        }
        self.disabled = disabled;
        self.rest(now);
    }

    /// Forgets past failures: the endpoint was enabled, or leads elsewhere now.
    pub fn try_again(&mut self, now: u64) {
        (self.standing.failures, self.standing.waits_until_ms) = (0, 0);
        self.standing.failing_since_ms = None;
        self.parked.hasten(|| now);
        self.dirty = true;
    }

    /// Takes over the URL of the configuration. True if the endpoint there has said that it is gone; another URL is tried at once.
    pub fn configure(&mut self, url: &str, now: u64) -> bool {
        let before = self.standing.configured.take();
        let same = before.as_ref().is_some_and(|before| before.url == url);
        let gone = same && before.as_ref().is_some_and(|before| before.gone);
        let is_back = before.as_ref().is_some_and(|before| before.removed_at_ms.is_some() || before.gone && !same);
        if is_back || before.is_some() && !same {
            self.try_again(now);
        }
        if is_back {
            // What has waited meanwhile is given up only after it was tried.
            self.standing.enabled_at_ms = now;
        }
        let configured = Some(Configured { url: url.to_owned(), gone, removed_at_ms: None });
        self.dirty |= configured != before;
        self.standing.configured = configured;
        gone
    }

    /// Notes of an endpoint of the configuration whether it is gone.
    pub fn set_gone(&mut self, gone: bool) {
        if let Some(configured) = &mut self.standing.configured {
            self.dirty |= configured.gone != gone;
            configured.gone = gone;
        }
    }

    /// Says where to begin; of an endpoint that has begun, nothing happens.
    pub fn begin(&mut self, at: Cursor) {
        if self.live.is_none() {
            self.standing.cursor = Some(at.clone());
            self.live = Some(Lane::new(at));
            self.dirty = true;
        }
    }

    /// True if it doesn't know where to begin.
    pub fn is_new(&self) -> bool {
        self.live.is_none()
    }

    /// Where it stands, as it is to be stored.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Events put aside.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// The numbers of the events put aside.
    pub fn parked_numbers(&self) -> impl Iterator<Item = u64> {
        self.parked.numbers()
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// True while everything fails.
    pub fn is_failing(&self) -> bool {
        self.standing.failures >= self.config.failing_after
    }

    fn lane(&mut self, way: Way) -> Option<&mut Lane> {
        match way {
            Way::Live => self.live.as_mut(),
            Way::Replay => self.replay.as_mut(),
        }
    }

    /// What is to be read next: from where, and how many events at most. Each is to be followed by [`Core::push`],
    /// [`Core::expired`] or [`Core::unread`].
    pub fn wants(&mut self, now: u64) -> Option<(Way, Cursor, usize)> {
        if self.disabled || now < self.standing.waits_until_ms {
            return None;
        }
        let (events, bytes) = (self.config.window_events, self.config.window_bytes);
        for way in [Way::Replay, Way::Live] {
            let Some(lane) = self.lane(way) else { continue };
            // What comes after the end is not to be replayed, and who waits there for the last answers would read without end.
            let over = way == Way::Replay && lane.is_at_end();
            if !over && !lane.reading && now >= lane.not_before_ms && lane.len() <= events / 2 && lane.bytes() < bytes {
                lane.reading = true;
                return Some((way, lane.read_to.clone(), events - lane.len()));
            }
        }
        None
    }

    /// Takes what was read: its merchant's events, where the page ended, and whether that was the end of the feed.
    pub fn push(&mut self, way: Way, mut items: Vec<Item>, end: Cursor, at_end: bool, now: u64) {
        items.retain(|item| self.types.is_empty() || self.types.iter().any(|kind| *kind == item.message.kind));
        if way == Way::Replay
            && let Some(Replay { from_ms, to_ms, .. }) = self.standing.replays.last()
        {
            items.retain(|item| (*from_ms..*to_ms).contains(&item.message.at_ms));
        }
        if let Some(lane) = self.lane(way)
            && lane.reading
        {
            lane.reading = false;
            lane.push(items, end, at_end);
            self.moved(way);
        }
        self.rest(now);
    }

    /// The read came to nothing; it is asked for again in a moment.
    pub fn unread(&mut self, way: Way, now: u64) {
        if let Some(lane) = self.lane(way) {
            (lane.reading, lane.not_before_ms) = (false, now.saturating_add(REREAD_MS));
        }
    }

    /// What was to be read is gone; `oldest` is the oldest that there is.
    pub fn expired(&mut self, way: Way, oldest: Cursor, now: u64) {
        self.unread(way, now);
        let Some(lane) = self.lane(way) else { return };
        // Only at its end can a window be lost, and then the rest of it is still good.
        if lane.len() == 0 {
            *lane = Lane::new(oldest);
            if way == Way::Live {
                self.standing.missed_at_ms = Some(now);
                self.counters.gaps += 1;
            }
            self.dirty = true;
            self.moved(way);
        }
    }

    /// Takes a lane's cursor over into the standing, and ends a replay that is over.
    fn moved(&mut self, way: Way) {
        match way {
            Way::Live => self.standing.cursor = self.live.as_ref().map(|lane| lane.cursor.clone()),
            Way::Replay => {
                let (Some(lane), Some(replay)) = (&self.replay, self.standing.replays.last_mut()) else { return };
                let over = lane.is_done();
                replay.cursor = (!over).then(|| lane.cursor.clone());
                if over {
                    replay.until = None;
                    self.replay = None;
                    self.dirty = true;
                }
            }
        }
    }

    /// Begins to post events of a range of time again: those from `start` up to where the endpoint is. Only one replay at a
    /// time: see [`Core::replaying`]. Reads for it leave out what lies ahead of [`Core::told`].
    pub fn begin_replay(&mut self, key: &str, from_ms: u64, to_ms: u64, start: Cursor, now: u64) {
        self.replay = Some(Lane::new(start.clone()));
        let (key, cursor) = (key.to_owned(), Some(start));
        let until = self.standing.cursor.clone();
        self.standing.replays.push(Replay { key, from_ms, to_ms, asked_at_ms: now, cursor, until, events: 0 });
        let extra = self.standing.replays.len().saturating_sub(MAX_REPLAYS);
        self.standing.replays.drain(..extra);
        self.dirty = true;
    }

    /// How far the endpoint had been told when the replay that is under way was asked for.
    pub fn told(&self) -> Option<&Cursor> {
        self.standing.replays.last()?.until.as_ref()
    }

    /// True while a replay is under way.
    pub fn replaying(&self) -> bool {
        self.replay.is_some()
    }

    /// What to do at `now`, ms since the Unix epoch.
    pub fn next(&mut self, now: u64) -> Next {
        if self.disabled {
            return Next::Idle;
        }
        if now < self.standing.waits_until_ms {
            return Next::WaitUntil(self.standing.waits_until_ms);
        }
        self.give_up_old(now);
        self.park_followers(now);
        let at_once = if self.is_failing() { 1 } else { self.config.concurrency.max(1) };
        if self.flights.len() >= at_once {
            return Next::Idle;
        }
        let fresh = self.fresh();
        let due = self.parked.next().map(|schedule| (schedule.number, schedule.order, schedule.due_ms));
        // Where everything fails something new tries: were it always the same, one bad event could pass for a bad endpoint.
        let window_first = !self.parked_first || (self.is_failing() && self.parked.len() < self.config.parked);
        match (fresh, due) {
            (Some((way, number, message)), due) if window_first || due.is_none_or(|(_, _, at)| at > now) => {
                self.parked_first = true;
                if let Some(lane) = self.lane(way) {
                    lane.set(number, State::Flying);
                }
                let order = message.order;
                let subject = Subject::Fresh(Arc::clone(&message));
                Next::Send(self.fly(Flight::Window(way, number, message), order), subject)
            }
            (_, Some((number, order, at))) if at <= now => {
                self.parked_first = false;
                self.parked.fly(number);
                Next::Send(self.fly(Flight::Parked(number), order), Subject::Parked(number))
            }
            (_, Some((_, _, at))) => Next::WaitUntil(at),
            (_, None) => Next::Idle,
        }
    }

    fn fly(&mut self, flight: Flight, order: OrderId) -> AttemptId {
        let id = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        self.flights.insert(id, (flight, order));
        id
    }

    /// The first event of the windows that may be posted now. What is asked for again goes first: there is less of it.
    fn fresh(&self) -> Option<(Way, u64, Arc<Message>)> {
        let lanes = [(Way::Replay, &self.replay), (Way::Live, &self.live)];
        lanes.into_iter().find_map(|(way, lane)| {
            let free =
                |order: OrderId| !self.parked.has_order(order) && !self.flights.values().any(|(_, o)| *o == order);
            let mut waiting = lane.as_ref()?.waiting();
            let (slot, _) = waiting.find(|(slot, first)| *first && free(slot.message.order))?;
            Some((way, slot.number, Arc::clone(&slot.message)))
        })
    }

    /// Puts aside what waits in a window behind an event of its order that was put aside.
    fn park_followers(&mut self, now: u64) {
        for way in [Way::Replay, Way::Live] {
            while self.parked.len() < self.config.parked {
                let lane = if way == Way::Live { &self.live } else { &self.replay };
                let behind = lane.as_ref().and_then(|lane| {
                    let mut waiting = lane.waiting();
                    let (slot, _) =
                        waiting.find(|(slot, first)| *first && self.parked.has_order(slot.message.order))?;
                    Some((slot.number, Arc::clone(&slot.message)))
                });
                let Some((number, message)) = behind else { break };
                self.park(&message, Schedule::new(&message, way == Way::Replay, now));
                self.settle(way, number);
            }
        }
    }

    /// Gives up events that were tried, or could not be, for too long.
    fn give_up_old(&mut self, now: u64) {
        let patience = ms(self.config.give_up_after);
        let enabled = self.standing.enabled_at_ms;
        let hopeless = self.standing.failing_since_ms.is_some_and(|since| since.saturating_add(patience) <= now);
        let is_old = |since: u64| since.max(enabled).saturating_add(patience) <= now;
        while let Some(schedule) = self.parked.next()
            && is_old(schedule.since_ms)
            && (schedule.attempts > 0 || hopeless)
        {
            let schedule = schedule.clone();
            self.unpark(schedule.number, now);
            self.give_up(schedule, now);
        }
        if !hopeless {
            return;
        }
        loop {
            let old = self.live.as_ref().and_then(|lane| {
                let (slot, _) = lane.waiting().find(|(slot, first)| {
                    *first && is_old(slot.message.at_ms) && !self.parked.has_order(slot.message.order)
                })?;
                Some((slot.number, Arc::clone(&slot.message)))
            });
            let Some((number, message)) = old else { break };
            self.give_up(Schedule::new(&message, false, now), now);
            self.settle(Way::Live, number);
        }
    }

    pub(super) fn settle(&mut self, way: Way, number: u64) {
        if let Some(lane) = self.lane(way) {
            lane.set(number, State::Settled);
        }
        if way == Way::Replay
            && let Some(replay) = self.standing.replays.last_mut()
        {
            replay.events += 1;
        }
        self.dirty = true;
        self.moved(way);
    }
}
