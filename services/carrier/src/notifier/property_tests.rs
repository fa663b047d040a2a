//! The notifier's promises over thousands of seeded runs against a carrier that fails in every way it can.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use sluice_domain::ShipmentId;
use sluice_pipeline::{Answer, Manifest, OutcomeReport, ShipmentAnswer};
use sluice_schemas::outcome::OutcomeKind;

use super::{
    Backoff, BreakerConfig, CallId, Next, Notifier, NotifierConfig, Seeded,
    testing::{at_us, batch, shipment},
};

/// A carrier, the outbox and the log, on one seed.
struct World {
    chance: Seeded,
    notifier: Notifier,
    idempotent: bool,
    now_us: u64,
    mark: u64,
    /// A mark on its way, and when it is durable.
    marking: Option<(u64, u64)>,
    /// Entries in all, and the first that was not pushed yet.
    entries: u64,
    next: u64,
    /// Calls at the carrier: when they end, and how.
    calls: BTreeMap<(u64, CallId), Answer>,
    /// What the carrier did for each shipment, and its final answer if it remembers.
    effects: HashMap<ShipmentId, u32>,
    remembered: HashMap<ShipmentId, Result<String, String>>,
    /// Manifest id by its shipments.
    ids: HashMap<Vec<ShipmentId>, String>,
    reports: Vec<OutcomeReport>,
    open: BTreeSet<u64>,
    settled: Option<u64>,
    /// Per mille of calls that fail somehow.
    trouble: u64,
    trace: Vec<u64>,
}

fn config(idempotent: bool, chance: &mut Seeded) -> NotifierConfig {
    NotifierConfig {
        window_entries: 64,
        manifest_shipments: 1 + chance.up_to(9) as usize,
        calls_in_flight: 1 + chance.up_to(3) as usize,
        call_timeout: Duration::from_millis(200),
        give_up_after: Duration::from_secs(2 + chance.up_to(60)),
        backoff: Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(200) },
        retry_floor: Duration::from_millis(100),
        breaker: BreakerConfig { pause: Duration::from_millis(50), ..BreakerConfig::default() },
        ..NotifierConfig::new("acme", idempotent)
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Seeded::new(seed);
        let idempotent = chance.up_to(1) == 0;
        let notifier = Notifier::new(config(idempotent, &mut chance), chance.bits());
        let trouble = [0, 50, 200, 500, 1_000][chance.up_to(4) as usize];
        let entries = 1 + chance.up_to(300);
        Self {
            chance,
            notifier,
            idempotent,
            now_us: 1,
            mark: 0,
            marking: None,
            entries,
            next: 1,
            calls: BTreeMap::new(),
            effects: HashMap::new(),
            remembered: HashMap::new(),
            ids: HashMap::new(),
            reports: Vec::new(),
            open: (1..=entries).collect(),
            settled: None,
            trouble,
            trace: Vec::new(),
        }
    }

    fn act(&mut self, manifest: &Manifest) -> Vec<ShipmentAnswer> {
        let mut results = Vec::new();
        for entry in &manifest.shipments.entries {
            let known = self.remembered.get(&entry.shipment).filter(|_| self.idempotent).cloned();
            let outcome = known.unwrap_or_else(|| {
                if self.chance.up_to(9) == 0 {
                    Err("no".to_owned())
                } else {
                    *self.effects.entry(entry.shipment).or_default() += 1;
                    Ok("T".to_owned())
                }
            });
            self.remembered.insert(entry.shipment, outcome.clone());
            results.push(ShipmentAnswer { shipment: entry.shipment, outcome });
        }
        results
    }

    fn call(&mut self, call: CallId, manifest: &Arc<Manifest>) {
        let entries = &manifest.shipments.entries;
        assert!(!entries.is_empty() && entries.len() <= self.notifier.config().manifest_shipments);
        assert!(self.calls.len() < self.notifier.config().calls_in_flight);
        let ids: Vec<_> = entries.iter().map(|e| e.shipment).collect();
        assert_eq!(self.ids.entry(ids).or_insert_with(|| manifest.id.clone()), &manifest.id);
        if !self.idempotent {
            assert!(entries.iter().all(|e| e.position <= self.mark && !e.maybe_sent), "called beyond the durable mark");
        }
        let fails = self.chance.up_to(999) < self.trouble;
        let answer = match self.chance.up_to(if fails { 5 } else { 0 }) {
            0 if !fails => Answer::Results(self.act(manifest)),
            0 => Answer::Refused { retry_after_ms: None },
            1 => Answer::Refused { retry_after_ms: Some(self.chance.up_to(50)) },
            2 => Answer::NotSent("refused".to_owned()),
            3 => Answer::Ambiguous("before".to_owned()),
            4 => {
                self.act(manifest);
                Answer::Ambiguous("after".to_owned())
            }
            _ => {
                let mut results = self.act(manifest);
                results.push(ShipmentAnswer { shipment: shipment(9_999_999), outcome: Ok(String::new()) });
                results.extend_from_within(..1);
                for n in 0..results.len() {
                    let other = self.chance.up_to(results.len() as u64 - 1) as usize;
                    results.swap(n, other);
                }
                results.truncate(self.chance.up_to(results.len() as u64) as usize);
                Answer::Results(results)
            }
        };
        let ends = self.now_us + 1 + self.chance.up_to(200_000);
        self.calls.insert((ends, call), answer);
    }

    fn hand_over(&mut self) {
        let most = self.chance.up_to(20) as usize;
        let before = self.reports.len();
        let reports = &mut self.reports;
        self.notifier.hand_over(|waiting| reports.extend(waiting.drain(..most.min(waiting.len()))));
        let positions: HashMap<_, _> = self.open.iter().map(|p| (shipment(*p), *p)).collect();
        for report in &self.reports[before..] {
            let position = positions.get(&report.shipment);
            assert!(position.is_some_and(|p| self.open.remove(p)), "an outcome twice, or about nothing");
        }
        let settled = self.notifier.settled_position();
        assert!(settled >= self.settled, "the settled position fell");
        assert!(settled.is_none_or(|s| self.open.first().is_none_or(|open| s < *open)), "settled beyond an open entry");
        self.settled = settled;
    }

    fn check_budget(&self) {
        let counters = self.notifier.counters();
        let config = self.notifier.config();
        let floors = 1 + self.now_us / config.retry_floor.as_micros() as u64;
        let most = counters.first_shipments / 10 + floors * config.manifest_shipments as u64;
        assert!(counters.retried_shipments <= most, "{} of {most} retries", counters.retried_shipments);
    }

    /// Runs until everything has its outcome.
    fn run(&mut self) {
        for steps in 0.. {
            assert!(steps < 100_000, "it does not come to an end");
            let now = at_us(self.now_us);
            let room = (self.notifier.room() as u64).min(self.chance.up_to(30)).min(self.entries + 1 - self.next);
            if room > 0 {
                self.notifier.push(&batch(self.next..self.next + room), now);
                self.next += room;
            }
            self.hand_over();
            self.check_budget();
            let wake = match self.notifier.next(now, self.mark) {
                Next::Send(call, manifest) => {
                    self.trace.extend([self.now_us, call.0, manifest.shipments.entries.len() as u64]);
                    self.call(call, &manifest);
                    continue;
                }
                Next::MarkSending(position) => {
                    assert!(!self.idempotent && position > self.mark);
                    // One in four is refused, for want of room.
                    if self.chance.up_to(3) > 0 {
                        self.marking = Some((self.now_us + self.chance.up_to(9_000), position));
                    }
                    continue;
                }
                Next::WaitUntil(at) => {
                    assert!(at > self.now_us);
                    Some(at)
                }
                Next::Idle => None,
            };
            if self.open.is_empty() {
                break;
            }
            let more = self.next <= self.entries && self.notifier.room() > 0;
            let soon = (more || !self.notifier.outcomes().is_empty()).then_some(self.now_us + 1_000);
            let ends = self.calls.first_key_value().map(|((at, _), _)| *at);
            let marked = self.marking.map(|(at, _)| at);
            let next = [wake, soon, ends, marked].into_iter().flatten().min();
            self.now_us = next.expect("something is open and nothing will ever happen").max(self.now_us);
            if let Some((at, position)) = self.marking
                && at <= self.now_us
            {
                self.mark = position;
                self.marking = None;
            }
            if ends.is_some_and(|at| at <= self.now_us)
                && let Some(((_, call), answer)) = self.calls.pop_first()
            {
                self.notifier.answered(call, answer, at_us(self.now_us));
            }
        }
    }

    fn judge(&self) {
        assert_eq!(self.reports.len() as u64, self.entries);
        assert_eq!(self.settled, Some(self.entries));
        assert!(self.effects.values().all(|&effects| effects == 1), "an effect twice");
        for report in &self.reports {
            let did = self.effects.contains_key(&report.shipment);
            match report.kind {
                OutcomeKind::Accepted => assert!(did),
                OutcomeKind::Rejected => assert!(!did),
                OutcomeKind::GivenUp if !self.idempotent => assert!(!did, "given up, yet it was taken"),
                OutcomeKind::GivenUp => assert!(!did || report.text.contains("may have taken it")),
                OutcomeKind::Unknown => assert!(!self.idempotent),
            }
        }
    }
}

#[test]
fn every_promise_holds_whatever_the_carrier_does() {
    for seed in 0..2_000 {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.run();
            world.judge();
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[test]
fn one_seed_gives_one_run() {
    let trace = |seed| {
        let mut world = World::new(seed);
        world.run();
        world.trace
    };
    for seed in 0..50 {
        assert_eq!(trace(seed), trace(seed));
    }
}
