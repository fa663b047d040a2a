//! Carriers as the other end of the line, with every habit that a sender must live with.
//!
//! # Fault model
//! One call draws one habit; within it each shipment is taken or rejected on its own.
//!
//! - **Down** for spans of time: never reached.
//! - **Refusing**: nothing was done, with or without a time to come back (429, 503).
//! - **Server error** and **reset**: before anything was done, after all of it, or in between.
//! - **Accept, then time out**: all of it was done, nobody hears of it. Any answer slower than the caller's patience is
//!   this too.
//! - **Late**: the caller gives up first; then the call arrives and is acted on, unless it has expired by then.
//! - **Partial**: some shipments are not mentioned, done or not.
//! - **Lying**: answers about shipments nobody asked for; two answers about one shipment; another answer than the one
//!   given before.
//! - **Not idempotent**: remembers nothing, so every repetition is another effect.
//!
//! An idempotent carrier remembers every final answer, rejects included. No carrier acts on an expired manifest.

use std::{collections::BTreeMap, ops::Range};

use sluice_domain::{OrderId, ShipmentId};
use sluice_pipeline::{Answer, Manifest, ShipmentAnswer};
use sluice_schemas::delta::VOID;

use crate::{
    ledger::{Asked, Call, Effect, Ledger},
    rng::{Chance, Rng},
    trace::Trace,
};

/// The habits of a carrier. The default answers everything in 5 to 50 ms, takes all, and forgets what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierProfile {
    /// Carrier id.
    pub name: String,
    /// Remembers every final answer per shipment id.
    pub idempotent: bool,
    /// How long an answer takes, ms, both bounds included.
    pub latency_ms: (u64, u64),
    /// An answer that takes twenty times as long.
    pub slow: Chance,
    /// How long the caller waits, ms.
    pub patience_ms: u64,
    /// A call refused before anything was done.
    pub refuses: Chance,
    /// A call that ends in a server error.
    pub server_error: Chance,
    /// A call whose connection breaks.
    pub reset: Chance,
    /// A call that is done and never answered.
    pub times_out: Chance,
    /// A call that arrives after the caller gave up.
    pub late: Chance,
    /// An answer that doesn't mention every shipment.
    pub partial: Chance,
    /// An answer that isn't true.
    pub lies: Chance,
    /// A shipment that is rejected for good.
    pub rejects: Chance,
    /// Spans in which it can't be reached, ms since the epoch.
    pub down: Vec<Range<u64>>,
}

impl Default for CarrierProfile {
    fn default() -> Self {
        Self {
            name: "carrier".to_owned(),
            idempotent: false,
            latency_ms: (5, 50),
            slow: Chance::NEVER,
            patience_ms: 5_000,
            refuses: Chance::NEVER,
            server_error: Chance::NEVER,
            reset: Chance::NEVER,
            times_out: Chance::NEVER,
            late: Chance::NEVER,
            partial: Chance::NEVER,
            lies: Chance::NEVER,
            rejects: Chance::NEVER,
            down: Vec::new(),
        }
    }
}

/// What one call is met with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Answer,
    Partial,
    Lie,
    Refuse,
    ServerError,
    Reset,
    TimeOut,
    Late,
}

/// A call still on its way to the carrier.
#[derive(Debug)]
struct OnTheWay {
    arrives_ms: u64,
    expires_ms: u64,
    manifest: String,
    asked: Vec<Asked>,
}

/// One carrier. It outlives every crash of the system that calls it.
#[derive(Debug)]
pub struct SimCarrier {
    profile: CarrierProfile,
    rng: Rng,
    trace: Trace,
    remembered: BTreeMap<ShipmentId, Result<String, String>>,
    on_the_way: Vec<OnTheWay>,
    ledger: Ledger,
}

impl SimCarrier {
    /// A carrier with an empty ledger. Its draws come from `rng`, forked by its name.
    pub fn new(profile: CarrierProfile, rng: &Rng, trace: Trace) -> Self {
        let ledger = Ledger { carrier: profile.name.clone(), ..Ledger::default() };
        let rng = rng.fork("carrier").fork(&profile.name);
        Self { profile, rng, trace, remembered: BTreeMap::new(), on_the_way: Vec::new(), ledger }
    }

    /// Everything it saw and did.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Its habits.
    pub fn profile(&self) -> &CarrierProfile {
        &self.profile
    }

    /// From now on it answers every call promptly and truthfully. What it rejects it still rejects, and what it doesn't
    /// remember it still doesn't.
    pub fn heal(&mut self) {
        let CarrierProfile { name, idempotent, rejects, .. } = self.profile.clone();
        self.profile = CarrierProfile { name, idempotent, rejects, ..CarrierProfile::default() };
    }

    /// Calls that haven't arrived yet: when the first of them does, ms since the epoch.
    pub fn next_arrival_ms(&self) -> Option<u64> {
        self.on_the_way.iter().map(|call| call.arrives_ms).min()
    }

    /// Acts on the calls that have arrived by `now_ms`. [`SimCarrier::ask`] does so first.
    pub fn advance(&mut self, now_ms: u64) {
        let (mut arrived, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.on_the_way).into_iter().partition(|call| call.arrives_ms <= now_ms);
        self.on_the_way = waiting;
        arrived.sort_by_key(|call| call.arrives_ms);
        for call in arrived {
            if call.arrives_ms > call.expires_ms {
                self.trace.line(format_args!("{}: {} arrives expired", self.profile.name, call.manifest));
                continue;
            }
            for asked in &call.asked {
                let _unheard = self.act(asked, &call.manifest, call.arrives_ms);
            }
        }
    }

    /// Receives `manifest` at `now_ms` (ms since the epoch): how many ms later the caller hears something, and what.
    pub fn ask(&mut self, manifest: &Manifest, now_ms: u64) -> (u64, Answer) {
        self.advance(now_ms);
        if self.profile.down.iter().any(|span| span.contains(&now_ms)) {
            self.trace.line(format_args!("{}: {} finds it down", self.profile.name, manifest.id));
            return (self.rng.between(0, 3), Answer::NotSent("connection refused".to_owned()));
        }
        let asked = Asked::all(manifest);
        let shipments = asked.iter().map(|a| a.shipment).collect();
        self.ledger.calls.push(Call { at_ms: now_ms, manifest: manifest.id.clone(), shipments });
        let (latency, habit) = (self.latency(), self.habit());
        let patience = self.profile.patience_ms;
        let habit = if latency >= patience && habit != Habit::Late { Habit::TimeOut } else { habit };
        self.trace.line(format_args!(
            "{}: {} with {} shipments at {now_ms}, {habit:?} after {latency} ms",
            self.profile.name,
            manifest.id,
            asked.len()
        ));
        let expired = now_ms > manifest.expires_at_ms;
        let answer = match habit {
            Habit::Refuse => {
                let retry_after_ms = self.rng.coin().then(|| 1_000 * self.rng.between(1, 5));
                Answer::Refused { retry_after_ms }
            }
            Habit::Late => {
                let arrives_ms = now_ms + patience + self.rng.between(1, 2 * patience.max(1));
                let (manifest, expires_ms) = (manifest.id.clone(), manifest.expires_at_ms);
                self.on_the_way.push(OnTheWay { arrives_ms, expires_ms, manifest, asked });
                return (patience, Answer::Ambiguous("timed out".to_owned()));
            }
            Habit::Answer | Habit::Partial | Habit::Lie => {
                Answer::Results(self.results(&asked, habit, manifest, now_ms, expired))
            }
            Habit::TimeOut => {
                self.act_on_some(&asked, asked.len(), manifest, now_ms, expired);
                return (patience, Answer::Ambiguous("timed out".to_owned()));
            }
            Habit::ServerError | Habit::Reset => {
                let done = match self.rng.below(3) {
                    0 => 0,
                    1 => asked.len(),
                    _ => self.rng.below(asked.len() as u64 + 1) as usize,
                };
                self.act_on_some(&asked, done, manifest, now_ms, expired);
                let what = if habit == Habit::Reset { "connection reset" } else { "500 Internal Server Error" };
                Answer::Ambiguous(what.to_owned())
            }
        };
        (latency, answer)
    }

    fn latency(&mut self) -> u64 {
        let (low, high) = self.profile.latency_ms;
        let latency = self.rng.between(low, high);
        if self.rng.hits(self.profile.slow) { latency * 20 } else { latency }
    }

    fn habit(&mut self) -> Habit {
        let p = &self.profile;
        let habits = [
            (p.refuses, Habit::Refuse),
            (p.server_error, Habit::ServerError),
            (p.reset, Habit::Reset),
            (p.times_out, Habit::TimeOut),
            (p.late, Habit::Late),
            (p.partial, Habit::Partial),
            (p.lies, Habit::Lie),
        ];
        // All of them draw, so that changing one chance leaves the other draws where they were.
        let drawn = habits.map(|(chance, habit)| self.rng.hits(chance).then_some(habit));
        drawn.into_iter().flatten().next().unwrap_or(Habit::Answer)
    }

    fn act_on_some(&mut self, asked: &[Asked], count: usize, manifest: &Manifest, now_ms: u64, expired: bool) {
        for one in asked.iter().take(if expired { 0 } else { count }) {
            let _unheard = self.act(one, &manifest.id, now_ms);
        }
    }

    /// Takes or rejects one shipment.
    fn act(&mut self, asked: &Asked, manifest: &str, at_ms: u64) -> Result<String, String> {
        if let Some(answer) = self.remembered.get(&asked.shipment) {
            return answer.clone();
        }
        let answer = if asked.shipment.attempt & VOID != 0 {
            self.forget(asked.shipment)
        } else if self.rng.hits(self.profile.rejects) {
            Err("no capacity".to_owned())
        } else {
            let tracking_number = format!("{}-{}", self.profile.name, self.ledger.effects.len());
            self.trace.line(format_args!("{}: takes {} as {tracking_number}", self.profile.name, asked.shipment));
            let (manifest, asked) = (manifest.to_owned(), asked.clone());
            self.ledger.effects.push(Effect { at_ms, manifest, asked, tracking_number: tracking_number.clone() });
            Ok(tracking_number)
        };
        if self.profile.idempotent {
            self.remembered.insert(asked.shipment, answer.clone());
        }
        answer
    }

    /// Forgets a shipment that it took, or goes on with it.
    fn forget(&mut self, void: ShipmentId) -> Result<String, String> {
        let shipment = ShipmentId { attempt: void.attempt & !VOID, ..void };
        let taken = self.ledger.effects.iter().any(|effect| effect.asked.shipment == shipment);
        if !taken || self.rng.hits(self.profile.rejects) {
            return Err("under way".to_owned());
        }
        self.trace.line(format_args!("{}: forgets {shipment}", self.profile.name));
        self.ledger.voided.insert(void);
        Ok(String::new())
    }

    fn results(
        &mut self,
        asked: &[Asked],
        habit: Habit,
        manifest: &Manifest,
        now_ms: u64,
        expired: bool,
    ) -> Vec<ShipmentAnswer> {
        let mut results = Vec::new();
        for one in asked {
            let known = self.remembered.get(&one.shipment).cloned();
            // An expired call still learns what was answered before; nothing new is done for it.
            let (omit, undone) = (habit == Habit::Partial && self.rng.coin(), self.rng.coin());
            if (expired && known.is_none()) || (omit && undone) {
                continue;
            }
            let mut outcome = self.act(one, &manifest.id, now_ms);
            if habit == Habit::Lie && known.is_some() && self.rng.coin() {
                outcome = self.lie_about(one.shipment, &outcome);
            }
            if !omit {
                results.push(ShipmentAnswer { shipment: one.shipment, outcome });
            }
        }
        if habit == Habit::Lie {
            self.add_lies(&mut results);
        }
        self.rng.shuffle(&mut results);
        results
    }

    fn lie_about(&mut self, shipment: ShipmentId, truth: &Result<String, String>) -> Result<String, String> {
        self.ledger.lied_about.insert(shipment);
        self.trace.line(format_args!("{}: lies about {shipment}", self.profile.name));
        if truth.is_ok() { Err("never heard of it".to_owned()) } else { Ok("made-up".to_owned()) }
    }

    /// Answers nobody asked for: about another attempt, about an order that doesn't exist, and a second, opposite one.
    fn add_lies(&mut self, results: &mut Vec<ShipmentAnswer>) {
        let Some(one) = self.rng.pick(results).cloned() else { return };
        match self.rng.below(3) {
            0 => {
                let shipment = ShipmentId { attempt: one.shipment.attempt.wrapping_add(1), ..one.shipment };
                results.push(ShipmentAnswer { shipment, ..one });
            }
            1 => {
                let order = OrderId(u128::from(self.rng.bits()) << 64 | u128::from(self.rng.bits()));
                results.push(ShipmentAnswer { shipment: ShipmentId { order, ..one.shipment }, ..one });
            }
            _ => {
                let outcome = self.lie_about(one.shipment, &one.outcome);
                results.push(ShipmentAnswer { outcome, ..one });
            }
        }
    }
}

#[cfg(test)]
#[path = "carriers_tests.rs"]
mod tests;
