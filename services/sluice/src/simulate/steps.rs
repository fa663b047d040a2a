//! The scheduler: picks which part does its next step, and lets time pass.

use std::sync::Arc;

use sluice_carrier::notifier::Moment;
use sluice_domain::invariants::Invariant;
use sluice_pipeline::{LogError, Manifest};
use sluice_sim::{Chance, FaultPlan, Rng, Violation};

use super::{courier::Act, looks::broken, world::World};

/// A run that isn't at rest after so many steps without faults never will be.
const REST_STEPS: u64 = 400_000;
/// Work with faults is ended after so many steps, whatever is left.
const WORK_STEPS: u64 = 60_000;
/// Clock steps are for the first so many events only, so that the chance of one is per run and not per step.
const MOST_CLOCK_STEPS: u32 = 20;

/// A part of the world that can do a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Send,
    Hear,
    Wish,
    Look,
    Owner(u16),
    Writer,
    Checkpointer,
    Courier(u16),
    Clock,
}

/// How often each part gets its turn: drawn for a run, so that in some the writer is slow, in some a courier.
#[derive(Debug)]
pub(super) struct Schedule {
    rng: Rng,
    parts: Vec<Part>,
    /// Each part as often as its weight.
    lots: Vec<Part>,
    /// Turns without work since the last that had some.
    idle: usize,
    clock_steps: u32,
    /// How far the wall clock is off.
    clock_off_ms: i64,
}

impl Schedule {
    /// The weights of `plan`.
    pub(super) fn new(plan: &FaultPlan) -> Self {
        Self { rng: plan.rng("weights"), parts: Vec::new(), lots: Vec::new(), idle: 0, clock_steps: 0, clock_off_ms: 0 }
    }

    /// A life begins with so many partitions and carriers.
    pub(super) fn begin(&mut self, partitions: u16, carriers: u16) {
        self.parts =
            vec![Part::Send, Part::Hear, Part::Wish, Part::Look, Part::Writer, Part::Checkpointer, Part::Clock];
        self.parts.extend((0..partitions).map(Part::Owner));
        self.parts.extend((0..carriers).map(Part::Courier));
        self.lots.clear();
        for &part in &self.parts {
            let weight = match part {
                Part::Clock | Part::Look | Part::Wish => 1 << self.rng.below(3),
                _ => 1 << self.rng.below(5),
            };
            self.lots.extend(std::iter::repeat_n(part, weight));
        }
        self.idle = 0;
    }

    /// The part whose turn it is.
    pub(super) fn pick(&self, rng: &mut Rng) -> Option<Part> {
        rng.pick(&self.lots).copied()
    }
}

impl World {
    /// Runs until everything was sent and every crash has come, or the run has become long.
    pub(super) fn work(&mut self) -> Result<(), Violation> {
        // Some runs are healed with work left, some after a while of peace.
        let mut peace = self.rng.below(3_000);
        while self.tally.steps < WORK_STEPS && !self.rot_named {
            if self.clients.are_done() && self.crashes.are_over() {
                if peace == 0 {
                    break;
                }
                peace -= 1;
            }
            if !self.step()? && !self.pass_time() {
                if self.crashes.are_over() {
                    break;
                }
                self.crashes.hurry();
            }
        }
        Ok(())
    }

    /// Runs without faults until nothing is left to do.
    pub(super) fn rest(&mut self) -> Result<(), Violation> {
        let end = self.tally.steps + REST_STEPS;
        while !self.rot_named && (self.step()? || self.pass_time()) {
            if self.tally.steps > end {
                let life = self.life.as_ref().map(|life| life.describe()).unwrap_or_default();
                return broken(Invariant::Bounded, format!("it never comes to rest: {life}"));
            }
        }
        self.trace.line(format_args!("at rest: {}", self.life.as_ref().map(|l| l.describe()).unwrap_or_default()));
        Ok(())
    }

    /// One turn; false if no part has anything to do before time passes.
    fn step(&mut self) -> Result<bool, Violation> {
        self.tally.steps += 1;
        if self.crash_if_due()? {
            return Ok(true);
        }
        if self.schedule.clock_steps < MOST_CLOCK_STEPS && self.hits(self.plan.clock_steps) {
            self.step_clock();
        }
        let Some(part) = self.schedule.pick(&mut self.rng) else { return Ok(false) };
        if self.turn(part)? {
            self.schedule.idle = 0;
            return Ok(true);
        }
        self.schedule.idle += 1;
        if self.schedule.idle < 2 * self.schedule.parts.len() {
            return Ok(true);
        }
        self.schedule.idle = 0;
        self.look_round()
    }

    /// Gives every part its turn; false if none had anything to do, twice.
    fn look_round(&mut self) -> Result<bool, Violation> {
        for _ in 0..2 {
            for at in 0..self.schedule.parts.len() {
                let Some(&part) = self.schedule.parts.get(at) else { break };
                if part != Part::Clock && self.turn(part)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Lets time pass to the next moment at which something happens by itself; false if there is none.
    fn pass_time(&mut self) -> bool {
        let now_us = self.now_us();
        let life = self.life.iter().flat_map(|life| life.wakes_at_us());
        let arrivals = self.carriers.iter().filter_map(|c| c.next_arrival_ms());
        let arrivals = arrivals.map(|at| (at.saturating_sub(self.carriers_now_ms())) * 1_000 + now_us);
        let next = life.chain(arrivals).chain(self.clients.wakes_at_us()).filter(|&at| at > now_us).min();
        // What is due now and was not done waits for something else.
        let Some(next) = next else { return false };
        self.advance(next - now_us);
        true
    }

    fn advance(&mut self, us: u64) {
        self.machine.sim_clock().advance_us(us);
        let now_ms = self.carriers_now_ms();
        self.carriers.iter_mut().for_each(|c| c.advance(now_ms));
    }

    fn step_clock(&mut self) {
        self.schedule.clock_steps += 1;
        let by = self.rng.between(1, self.plan.clock_step_ms) as i64;
        let by = if self.rng.coin() { by } else { -by };
        // A clock that wanders by more than a small part of the window for repetitions is an operator's mistake: what is
        // a repetition and what is too old is then no longer the same for checkout and index.
        let most = (self.config.window_ms / 8) as i64;
        let by = (self.schedule.clock_off_ms + by).clamp(-most, most) - self.schedule.clock_off_ms;
        self.schedule.clock_off_ms += by;
        self.trace.line(format_args!("the wall clock is set by {by} ms"));
        self.machine.sim_clock().step_wall_ms(by);
    }

    /// One part's turn; true if it did something.
    pub(super) fn turn(&mut self, part: Part) -> Result<bool, Violation> {
        let did = match part {
            Part::Clock => {
                let most = self.rng.pick(&[1_000, 50_000, 1_000_000]).copied().unwrap_or(1_000);
                let us = self.rng.below(most);
                self.advance(us);
                false
            }
            Part::Send => self.send(),
            Part::Hear => {
                let now_us = self.now_us();
                let heard = self.clients.hear(&mut self.oracle, now_us)?;
                self.note(heard > 0, format_args!("a client hears of {heard} orders"));
                heard > 0
            }
            Part::Wish => {
                let now_ms = self.now_ms();
                let Some(life) = &self.life else { return Ok(false) };
                let did = self.merchants.step(&life.engine, &mut self.oracle, now_ms)?;
                self.note(did, format_args!("a merchant cancels or an operator replays, or hears of it"));
                did
            }
            Part::Look => {
                let Some(life) = &self.life else { return Ok(false) };
                self.looks.step(&life.engine, &self.ids, &mut self.rng)?
            }
            Part::Owner(n) => self.own(n)?,
            Part::Writer => self.write()?,
            Part::Checkpointer => self.checkpoint()?,
            Part::Courier(n) => self.courier(n)?,
        };
        if let Some(life) = &mut self.life
            && let Some(left) = &mut life.steps_left
        {
            if *left == 0 && !self.machine.power_is_cut() {
                let power = !self.healed && self.rng.hits(Chance::percent(30));
                self.crash(power)?;
                return Ok(true);
            }
            *left = left.saturating_sub(1);
            // Time must not pass over a process that is about to end.
            return Ok(true);
        }
        Ok(did)
    }

    fn note(&self, did: bool, text: std::fmt::Arguments<'_>) {
        if did {
            self.trace.line(format_args!("{:>11} {text}", self.now_us()));
        }
    }

    fn send(&mut self) -> bool {
        let (now_us, now_ms) = (self.now_us(), self.now_ms());
        let Some(life) = &self.life else { return false };
        let sent = self.clients.send(&life.engine, &mut self.oracle, now_us, now_ms);
        if sent > 0 {
            self.ids.clear();
            self.ids.extend(self.oracle.ids());
        }
        self.note(sent > 0, format_args!("a client sends {sent} orders"));
        sent > 0
    }

    fn own(&mut self, n: u16) -> Result<bool, Violation> {
        let Some(life) = &mut self.life else { return Ok(false) };
        let Some(slot) = life.owners.get_mut(usize::from(n)) else { return Ok(false) };
        let Some(owner) = slot else { return Ok(false) };
        let step = match owner.step() {
            Ok(step) => step,
            Err(error) => {
                *slot = None;
                // As the thread of an owner does.
                life.engine.stop_orders();
                life.engine.journal().close();
                return self.failed(format_args!("owner {n}"), &error);
            }
        };
        self.tally.refused += u64::from(step.refused > 0);
        self.note(step.inputs > 0, format_args!("owner {n}: {step:?}"));
        self.call_early()?;
        Ok(step.inputs > 0)
    }

    fn call_early(&mut self) -> Result<(), Violation> {
        let calls = self.life.as_ref().map(|life| life.take_early_calls()).unwrap_or_default();
        for call in calls {
            let (id, expires_at_ms) = ("early".to_owned(), self.carriers_now_ms() + 60_000);
            self.call(call.carrier, &Manifest { id, expires_at_ms, shipments: call.shipments })?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<bool, Violation> {
        let now_us = self.now_us();
        let Some(life) = &mut self.life else { return Ok(false) };
        let Some(writer) = &mut life.writer else { return Ok(false) };
        match writer.step(life.engine.journal(), now_us) {
            Ok(did) => {
                self.note(did.is_some(), format_args!("the writer {}", did.unwrap_or_default()));
                Ok(did.is_some())
            }
            Err(error) => {
                life.writer = None;
                self.failed(format_args!("the writer"), &error)
            }
        }
    }

    fn checkpoint(&mut self) -> Result<bool, Violation> {
        let Some(life) = &mut self.life else { return Ok(false) };
        let Some(checkpointer) = &mut life.checkpointer else { return Ok(false) };
        match checkpointer.step() {
            Ok(did) => {
                self.note(did, format_args!("the checkpointer goes on"));
                Ok(did)
            }
            Err(error) => {
                life.checkpointer = None;
                life.engine.stop_orders();
                self.failed(format_args!("the checkpointer"), &error)
            }
        }
    }

    fn courier(&mut self, n: u16) -> Result<bool, Violation> {
        let now = Moment::of(&*self.machine.clock());
        let Some(life) = &mut self.life else { return Ok(false) };
        let Some(slot) = life.couriers.get_mut(usize::from(n)) else { return Ok(false) };
        let Some(courier) = slot else { return Ok(false) };
        let act = match courier.step(&life.engine, &life.health, now, &mut self.rng) {
            Ok(act) => act,
            Err(error) => {
                *slot = None;
                return self.failed(format_args!("courier {n}"), &error);
            }
        };
        match act {
            Act::Nothing => Ok(false),
            Act::Did(what, number) => {
                self.note(true, format_args!("courier {n} {what} {number}"));
                Ok(true)
            }
            Act::Call(call, manifest) => {
                self.note(true, format_args!("courier {n} makes call {}", call.0));
                let (due_us, answer) = self.call(n, &Arc::clone(&manifest))?;
                if let Some(courier) = self.life.as_mut().and_then(|life| life.couriers[usize::from(n)].as_mut()) {
                    courier.called(call, due_us, answer);
                }
                Ok(true)
            }
        }
    }

    /// A part can't go on: the process ends soon.
    pub(super) fn failed(&mut self, part: std::fmt::Arguments<'_>, error: &LogError) -> Result<bool, Violation> {
        self.note(true, format_args!("{part} fails: {error}"));
        if !self.machine.power_is_cut() {
            self.excuse(error)?;
        }
        let steps = self.rng.below(40);
        if let Some(life) = &mut self.life {
            life.fail(steps);
        }
        Ok(true)
    }
}
