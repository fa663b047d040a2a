//! Decides what a carrier is told and when, and what its answers mean. Sans I/O: time comes in, calls and outcomes go
//! out, and the same inputs give the same outputs on every machine.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use sluice_domain::{
    ShipmentId,
    limits::{MAX_ORDER_BYTES, MAX_REASON, MAX_TRACKING_NUMBER},
};
use sluice_pipeline::{Answer, CarrierHealth, Manifest, OutboxBatch, OutcomeReport, ShipmentAnswer};
use sluice_schemas::outcome::OutcomeKind;

use super::{
    backoff::Seeded,
    breaker::{Breaker, BreakerState, Pass},
    budget::RetryBudget,
    config::{Moment, NotifierConfig, us},
    manifest::{Draft, Finder, Unit},
    window::Window,
};

/// Most bytes of one entry: a record is shorter than the order's JSON, and items are a few bytes each.
pub(super) const MAX_ENTRY_BYTES: usize = MAX_ORDER_BYTES + 2_048;

/// How long a mark may take to become durable before it is asked for again, µs.
const MARK_REPEAT_US: u64 = 100_000;

/// Tells one call from another. Never used twice by one notifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What is to be done now.
#[derive(Debug)]
pub enum Next {
    /// Call the carrier, then say so by [`Notifier::answered`]; ask again at once.
    Send(CallId, Arc<Manifest>),
    /// Ask the outbox for a durable mark up to this position, and ask again at once: more may be possible meanwhile.
    MarkSending(u64),
    /// Nothing before this time (µs on the monotonic clock), unless something is pushed, answered or marked.
    WaitUntil(u64),
    /// Nothing until something is pushed, answered or marked.
    Idle,
}

/// What has been done since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Calls made.
    pub calls: u64,
    /// Shipments sent for the first time.
    pub first_shipments: u64,
    /// Shipments sent again.
    pub retried_shipments: u64,
    /// Results about shipments that the manifest did not name.
    pub alien_results: u64,
    /// Results about a shipment that the same answer, or an earlier one, had settled.
    pub repeated_results: u64,
    /// Tracking numbers over the limit, which were left out.
    pub overlong_tracking_numbers: u64,
    /// Entries whose position did not rise; they were ignored.
    pub repeated_entries: u64,
}

#[derive(Debug)]
struct Flight {
    call: CallId,
    sent_us: u64,
    unit: Unit,
}

/// Everything known about telling one carrier.
#[derive(Debug)]
pub struct Notifier {
    config: NotifierConfig,
    chance: Seeded,
    window: Window,
    queue: VecDeque<Draft>,
    /// By when they are due, then by the call that failed.
    retries: BTreeMap<(u64, CallId), Unit>,
    flights: Vec<Flight>,
    outcomes: Vec<OutcomeReport>,
    /// The positions of `outcomes`.
    handing: VecDeque<u64>,
    breaker: Breaker,
    budget: RetryBudget,
    /// The carrier asked to be left alone until then.
    hold_until_us: u64,
    /// No deadline of `queue` or `retries` is earlier.
    deadline_us: u64,
    /// The mark asked for, and when to ask for it again (µs): the outbox may have had no room for it.
    mark_asked: Option<(u64, u64)>,
    next_call: u64,
    stopped: bool,
    latency_us: Option<u64>,
    failures_permille: u64,
    counters: Counters,
}

impl Notifier {
    /// A notifier that holds nothing. `seed` decides all its jitter.
    pub fn new(config: NotifierConfig, seed: u64) -> Self {
        let config = config.workable();
        Self {
            chance: Seeded::new(seed),
            window: Window::default(),
            queue: VecDeque::new(),
            retries: BTreeMap::new(),
            flights: Vec::new(),
            outcomes: Vec::new(),
            handing: VecDeque::new(),
            breaker: Breaker::new(config.breaker),
            budget: RetryBudget::new(&config),
            hold_until_us: 0,
            deadline_us: u64::MAX,
            mark_asked: None,
            next_call: 0,
            stopped: false,
            latency_us: None,
            failures_permille: 0,
            counters: Counters::default(),
            config,
        }
    }

    /// What it was made with, unworkable values corrected.
    pub fn config(&self) -> &NotifierConfig {
        &self.config
    }

    /// How many entries may be pushed now. Counts every entry as the largest possible, so the byte bound holds whatever
    /// comes; nothing more is wanted once it was stopped.
    pub fn room(&self) -> usize {
        if self.stopped {
            return 0;
        }
        let entries = self.config.window_entries.saturating_sub(self.window.len());
        let bytes = self.config.window_bytes.saturating_sub(self.window.bytes());
        entries.min(bytes / MAX_ENTRY_BYTES)
    }

    /// Takes entries over, ascending by position over all calls. Their bytes are copied: the caller keeps its batch. What
    /// an earlier run may have sent is parked here, so there may be outcomes to hand over afterwards.
    pub fn push(&mut self, batch: &OutboxBatch, now: Moment) {
        if let Some(draft) = self.queue.back_mut() {
            draft.forget_source();
        }
        for entry in &batch.entries {
            let bytes = entry.record.len() + entry.items.len();
            if !self.window.open(entry.position, bytes) {
                self.counters.repeated_entries += 1;
            } else if entry.maybe_sent && !self.config.idempotent {
                let text = "an earlier run may have sent it, and what the carrier said is not known";
                self.settle(entry.position, entry.shipment, OutcomeKind::Unknown, text.to_owned(), now);
            } else {
                if !self.queue.back_mut().is_some_and(|draft| draft.has_room(entry, &self.config)) {
                    let draft = Draft::new(now);
                    self.deadline_us = self.deadline_us.min(draft.deadline_us(&self.config));
                    self.queue.push_back(draft);
                }
                if let Some(draft) = self.queue.back_mut() {
                    draft.add(batch, entry, &self.config);
                }
            }
        }
    }

    /// What to do now. `sending_mark` is the highest position that may be sent to a carrier that isn't idempotent. What is
    /// overdue is given up here, so there may be outcomes to hand over afterwards.
    pub fn next(&mut self, now: Moment, sending_mark: u64) -> Next {
        if self.stopped {
            return Next::Idle;
        }
        if now.mono_us >= self.deadline_us {
            self.give_up_overdue(now);
        }
        if self.queue.is_empty() && self.retries.is_empty() {
            self.deadline_us = u64::MAX;
        }
        let mut wake = self.deadline_us;
        if self.flights.len() < self.config.calls_in_flight {
            match self.breaker.pass(now.mono_us) {
                Pass::Yes if now.mono_us < self.hold_until_us => wake = wake.min(self.hold_until_us),
                Pass::Yes => {
                    if let Some(next) = self.retry_due(now, &mut wake) {
                        return next;
                    }
                    if let Some(next) = self.first_send(now, sending_mark, &mut wake) {
                        return next;
                    }
                }
                Pass::At(at) => wake = wake.min(at),
                Pass::AfterProbe => {}
            }
        }
        if wake == u64::MAX { Next::Idle } else { Next::WaitUntil(wake) }
    }

    fn retry_due(&mut self, now: Moment, wake: &mut u64) -> Option<Next> {
        let (&(due, call), unit) = self.retries.first_key_value()?;
        let shipments = unit.len();
        let at = if due > now.mono_us { Some(due) } else { self.budget.wait_us(shipments, now.mono_us) };
        if let Some(at) = at {
            *wake = (*wake).min(at);
            return None;
        }
        let unit = self.retries.remove(&(due, call))?;
        self.budget.spend(shipments, now.mono_us);
        self.counters.retried_shipments += shipments as u64;
        Some(self.send(unit, now))
    }

    fn first_send(&mut self, now: Moment, sending_mark: u64, wake: &mut u64) -> Option<Next> {
        let first = self.queue.front()?;
        let ripe_at = first.ripe_at_us(&self.config);
        if ripe_at > now.mono_us {
            *wake = (*wake).min(ripe_at);
            return None;
        }
        if !self.config.idempotent && first.highest() > sending_mark {
            return self.ask_for_mark(now, wake);
        }
        let unit = self.queue.pop_front()?.seal(&self.config);
        self.budget.earn(unit.len());
        self.counters.first_shipments += unit.len() as u64;
        Some(self.send(unit, now))
    }

    /// One mark for all manifests that could be sent now, closed so that the mark covers them when it comes.
    fn ask_for_mark(&mut self, now: Moment, wake: &mut u64) -> Option<Next> {
        let free = match self.breaker.state() {
            BreakerState::Closed => self.config.calls_in_flight - self.flights.len(),
            _ => 1,
        };
        let mut highest = 0;
        for draft in self.queue.iter_mut().take(free) {
            if draft.ripe_at_us(&self.config) > now.mono_us {
                break;
            }
            draft.closed = true;
            highest = draft.highest();
        }
        if let Some((asked, again_us)) = self.mark_asked
            && asked >= highest
            && now.mono_us < again_us
        {
            *wake = (*wake).min(again_us);
            return None;
        }
        self.mark_asked = Some((highest, now.mono_us.saturating_add(MARK_REPEAT_US)));
        Some(Next::MarkSending(highest))
    }

    fn send(&mut self, unit: Unit, now: Moment) -> Next {
        let call = CallId(self.next_call);
        self.next_call += 1;
        self.counters.calls += 1;
        self.breaker.sent(call);
        let manifest = Arc::clone(&unit.manifest);
        self.flights.push(Flight { call, sent_us: now.mono_us, unit });
        Next::Send(call, manifest)
    }

    /// Settles shipments of a call under way that can't be put on the wire: they were never sent and never will be.
    /// `shipments` are indices within its manifest.
    pub fn unsendable(&mut self, call: CallId, shipments: &[usize], reason: &str, now: Moment) {
        let Some(at) = self.flights.iter().position(|flight| flight.call == call) else { return };
        for &index in shipments {
            if let Some((position, shipment)) = self.flights[at].unit.settle(index) {
                self.settle(position, shipment, OutcomeKind::GivenUp, cut(reason.to_owned()), now);
            }
        }
    }

    /// Says what came of a call. A call that is not under way changes nothing.
    pub fn answered(&mut self, call: CallId, answer: Answer, now: Moment) {
        let Some(at) = self.flights.iter().position(|flight| flight.call == call) else { return };
        let Flight { sent_us, mut unit, .. } = self.flights.swap_remove(at);
        let took_us = now.mono_us.saturating_sub(sent_us);
        // A failure that comes fast must not look like a fast carrier.
        let slow_us = took_us.max(us(self.config.call_timeout));
        match answer {
            Answer::Results(results) => {
                let asked = unit.left();
                self.take_results(&mut unit, results, now);
                let silent = unit.left();
                self.breaker.heard(call, silent < asked || asked == 0, now.mono_us, &mut self.chance);
                self.measure(took_us, (silent * 1_000) as u64 / asked.max(1) as u64);
                unit.trouble = "the answer did not mention it".to_owned();
                self.not_told(call, unit, now);
            }
            Answer::Refused { retry_after_ms } => {
                let wait_us = retry_after_ms.unwrap_or(0).saturating_mul(1_000).min(us(self.config.retry_after_cap));
                self.hold_until_us = self.hold_until_us.max(now.mono_us.saturating_add(wait_us));
                self.breaker.heard(call, false, now.mono_us, &mut self.chance);
                self.measure(if retry_after_ms.is_some() { took_us.max(wait_us) } else { slow_us }, 1_000);
                unit.trouble = "the carrier refused the manifest for now".to_owned();
                self.send_again(call, unit, wait_us, now);
            }
            Answer::NotSent(why) => {
                self.breaker.heard(call, false, now.mono_us, &mut self.chance);
                self.measure(slow_us, 1_000);
                unit.trouble = why;
                self.send_again(call, unit, 0, now);
            }
            Answer::Ambiguous(why) => {
                self.breaker.heard(call, false, now.mono_us, &mut self.chance);
                self.measure(slow_us, 1_000);
                unit.trouble = why;
                self.not_told(call, unit, now);
            }
        }
    }

    fn take_results(&mut self, unit: &mut Unit, results: Vec<ShipmentAnswer>, now: Moment) {
        let manifest = Arc::clone(&unit.manifest);
        let mut finder = Finder::new(&manifest.shipments.entries);
        for ShipmentAnswer { shipment, outcome } in results {
            let Some(index) = finder.find(shipment) else {
                self.counters.alien_results += 1;
                continue;
            };
            let Some((position, shipment)) = unit.settle(index) else {
                self.counters.repeated_results += 1;
                continue;
            };
            let (kind, text) = match outcome {
                Ok(number) if number.len() > MAX_TRACKING_NUMBER => {
                    // The front of a tracking number is another tracking number: none is better than a wrong one.
                    self.counters.overlong_tracking_numbers += 1;
                    (OutcomeKind::Accepted, String::new())
                }
                Ok(number) => (OutcomeKind::Accepted, number),
                Err(reason) => (OutcomeKind::Rejected, cut(reason)),
            };
            self.settle(position, shipment, kind, text, now);
        }
    }

    /// The carrier may have acted on what is left of `unit`, and has not said so.
    fn not_told(&mut self, call: CallId, mut unit: Unit, now: Moment) {
        if self.config.idempotent {
            unit.maybe_taken = true;
            self.send_again(call, unit, 0, now);
        } else {
            let text = cut(format!("nobody can tell whether the carrier took it: {}", unit.trouble));
            self.settle_rest(unit, OutcomeKind::Unknown, &text, now);
        }
    }

    fn send_again(&mut self, call: CallId, mut unit: Unit, wait_us: u64, now: Moment) {
        if unit.left() == 0 {
            return;
        }
        if unit.deadline_us <= now.mono_us {
            return self.give_up(unit, now);
        }
        unit.failures = unit.failures.saturating_add(1);
        let jitter_us = self.config.backoff.wait_us(unit.failures, &mut self.chance);
        let due_us = now.mono_us.saturating_add(wait_us).saturating_add(jitter_us);
        self.deadline_us = self.deadline_us.min(unit.deadline_us);
        self.retries.insert((due_us, call), unit.rest(&self.config));
    }

    fn give_up_overdue(&mut self, now: Moment) {
        let overdue = |deadline_us: u64| deadline_us <= now.mono_us;
        while self.queue.front().is_some_and(|draft| overdue(draft.deadline_us(&self.config))) {
            if let Some(draft) = self.queue.pop_front() {
                let mut unit = draft.seal(&self.config);
                unit.trouble = "there was no time at which it could be sent".to_owned();
                self.give_up(unit, now);
            }
        }
        let due: Vec<_> = self.retries.iter().filter(|(_, unit)| overdue(unit.deadline_us)).map(|(k, _)| *k).collect();
        for key in due {
            if let Some(unit) = self.retries.remove(&key) {
                self.give_up(unit, now);
            }
        }
        let of_queue = self.queue.front().map(|draft| draft.deadline_us(&self.config));
        let of_retries = self.retries.values().map(|unit| unit.deadline_us).min();
        self.deadline_us = of_queue.into_iter().chain(of_retries).min().unwrap_or(u64::MAX);
    }

    fn give_up(&mut self, unit: Unit, now: Moment) {
        let after = self.config.give_up_after.as_secs_f64();
        let maybe = if unit.maybe_taken { "; the carrier may have taken it" } else { "" };
        let text = cut(format!("given up after {after} s{maybe}: {}", unit.trouble));
        self.settle_rest(unit, OutcomeKind::GivenUp, &text, now);
    }

    fn settle_rest(&mut self, mut unit: Unit, kind: OutcomeKind, text: &str, now: Moment) {
        for index in 0..unit.len() {
            if let Some((position, shipment)) = unit.settle(index) {
                self.settle(position, shipment, kind, text.to_owned(), now);
            }
        }
    }

    fn settle(&mut self, position: u64, shipment: ShipmentId, kind: OutcomeKind, text: String, now: Moment) {
        let carrier = Arc::clone(&self.config.carrier);
        self.outcomes.push(OutcomeReport { shipment, kind, at_ms: now.wall_ms, carrier, text });
        self.handing.push_back(position);
    }

    /// Moving averages over about eight calls.
    fn measure(&mut self, took_us: u64, failures_permille: u64) {
        let before = self.latency_us.unwrap_or(took_us);
        self.latency_us = Some((before * 7).saturating_add(took_us) / 8);
        self.failures_permille = (self.failures_permille * 7 + failures_permille) / 8;
    }

    /// Lets `take` remove outcomes from the front of those that wait, and counts what it took as handed over.
    pub fn hand_over(&mut self, take: impl FnOnce(&mut Vec<OutcomeReport>)) {
        take(&mut self.outcomes);
        let taken = self.handing.len().saturating_sub(self.outcomes.len());
        for position in self.handing.drain(..taken) {
            self.window.settle(position);
        }
    }

    /// Outcomes that wait to be handed over.
    pub fn outcomes(&self) -> &[OutcomeReport] {
        &self.outcomes
    }

    /// A position such that every entry pushed at or below it has had its outcome handed over; never falls. `None`
    /// before there is one.
    pub fn settled_position(&self) -> Option<u64> {
        self.window.settled()
    }

    /// What has been measured. A carrier whose pause is over counts as available when there is nothing here to try it
    /// with: else it would never be asked again.
    pub fn health(&self) -> CarrierHealth {
        let untried = self.queue.is_empty() && self.retries.is_empty() && self.flights.is_empty();
        CarrierHealth {
            available: match self.breaker.state() {
                BreakerState::Closed => true,
                BreakerState::HalfOpen => untried,
                BreakerState::Open => false,
            },
            latency_us: u32::try_from(self.latency_us.unwrap_or(0)).unwrap_or(u32::MAX),
            failures_permille: self.failures_permille as u32,
            backlog: self.window.len() as u64,
        }
    }

    /// Where the circuit breaker stands.
    pub fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Entries held: pushed, and their outcome not handed over.
    pub fn held(&self) -> usize {
        self.window.len()
    }

    /// Calls under way.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// No further call is made and no entry wanted. What was not sent stays in the outbox for the next run.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// True when no call is under way, every outcome is handed over, and (unless it was stopped) nothing is held.
    pub fn drained(&self) -> bool {
        self.flights.is_empty() && self.outcomes.is_empty() && (self.stopped || self.window.len() == 0)
    }
}

/// Cuts a reason to what is kept of it.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_REASON));
    text
}
