//! The end of a life and the beginning of the next.

use std::collections::VecDeque;

use sluice_engine_embedded::Engine;
use sluice_sim::{FaultPlan, Violation};

use super::{
    life::{Life, Wiring},
    world::World,
};

/// A recovery that was cut off this often is let through.
const PATIENCE: u32 = 8;
/// A cut in the middle of an operation that didn't come by so many steps comes between two.
const CUT_STEPS: u64 = 400;

#[derive(Debug, Clone, Copy)]
struct Planned {
    /// Once so many orders have been sent …
    sent: u32,
    /// … and so many steps have passed since.
    steps: u64,
    power: bool,
}

/// When the machine goes down.
#[derive(Debug)]
pub(super) struct Crashes {
    planned: VecDeque<Planned>,
    /// Steps until the next, counted down once it is due.
    countdown: Option<u64>,
    /// A cut was asked for: by this step it has happened, or it is made to happen.
    pub(super) cut_by: Option<u64>,
}

impl Crashes {
    /// The crashes of `plan`, spread over the whole run.
    pub(super) fn new(plan: &FaultPlan) -> Self {
        let mut rng = plan.rng("crashes");
        let orders = u64::from(plan.workload.orders);
        let kinds = [(plan.crashes.power_losses, true), (plan.crashes.kills, false)];
        let mut planned: Vec<Planned> = Vec::new();
        for (count, power) in kinds {
            for _ in 0..count {
                // A quarter of them when everything is sent and being worked off.
                let sent = rng.below(orders * 4 / 3 + 1).min(orders) as u32;
                planned.push(Planned { sent, steps: rng.below(300), power });
            }
        }
        planned.sort_by_key(|p| (p.sent, p.steps));
        Self { planned: planned.into(), countdown: None, cut_by: None }
    }

    /// True if none is planned any more.
    pub(super) fn are_over(&self) -> bool {
        self.planned.is_empty() && self.cut_by.is_none()
    }

    /// A step has begun after `sent` orders were sent; says whether a crash is due, and if so, whether of the power.
    pub(super) fn due(&mut self, sent: u32) -> Option<bool> {
        let next = self.planned.front().filter(|p| p.sent <= sent)?;
        let left = self.countdown.get_or_insert(next.steps);
        if *left > 0 {
            *left -= 1;
            return None;
        }
        self.countdown = None;
        self.planned.pop_front().map(|p| p.power)
    }

    /// The next comes at the next step: nothing else happens any more.
    pub(super) fn hurry(&mut self) {
        if !self.planned.is_empty() {
            self.countdown = Some(0);
        }
        self.cut_by = self.cut_by.map(|_| 0);
    }
}

impl World {
    /// Brings down what is due, if anything; true if that ended a life.
    pub(super) fn crash_if_due(&mut self) -> Result<bool, Violation> {
        if self.machine.power_is_cut() || self.crashes.cut_by.is_some_and(|by| by <= self.tally.steps) {
            self.crash(true)?;
            return Ok(true);
        }
        if self.healed {
            return Ok(false);
        }
        match self.crashes.due(self.clients.sent()) {
            Some(true) if self.crashes.cut_by.is_none() && self.hits(self.plan.crashes.within_step) => {
                self.machine.cut_power_after(self.rng.below(12));
                self.crashes.cut_by = Some(self.tally.steps + CUT_STEPS);
                Ok(false)
            }
            Some(false) if self.crashes.cut_by.is_none() && self.rng.coin() => {
                self.drain()?;
                Ok(true)
            }
            Some(power) => {
                self.crash(power)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Ends this life by a loss of power or of the process, and begins the next.
    pub(super) fn crash(&mut self, power: bool) -> Result<(), Violation> {
        if let Some(life) = self.life.take() {
            self.tally.checkpoints += life.engine.checkpoints();
        }
        let now_us = self.now_us();
        self.clients.cut_off(now_us);
        self.merchants.cut_off();
        self.looks.cut_off();
        self.go_down(power);
        self.rot_if_due();
        self.recover()
    }

    fn go_down(&mut self, power: bool) {
        self.crashes.cut_by = None;
        if power || self.machine.power_is_cut() {
            self.tally.power_losses += 1;
            self.machine.lose_power();
        } else {
            self.tally.kills += 1;
            self.machine.kill();
        }
    }

    /// Opens the engine, however often that is cut off, and judges what survived.
    pub(super) fn recover(&mut self) -> Result<(), Violation> {
        for attempt in 0.. {
            if attempt == PATIENCE {
                self.machine.heal();
            }
            let cut = self.hits(self.plan.crashes.in_recovery);
            if cut && attempt < PATIENCE {
                self.machine.cut_power_after(self.rng.below(8));
                self.crashes.cut_by = Some(self.tally.steps + CUT_STEPS);
            }
            if self.open()? || self.rot_named {
                break;
            }
            let power = self.rng.coin();
            self.go_down(power);
        }
        if !self.healed {
            self.machine.sim_disk().set_faults(sluice_sim::DiskFaults {
                capacity: super::sizes::capacity(&self.plan, self.config.journal.segment_bytes),
                ..self.plan.disk.clone()
            });
        }
        self.judge()?;
        Ok(())
    }

    /// Tries to open the engine; false if a device failed or the power went.
    fn open(&mut self) -> Result<bool, Violation> {
        self.config = super::sizes::vary(&self.first_config, &mut self.rng);
        let (disk, store, clock) = (self.machine.disk(), self.machine.store(), self.machine.clock());
        let opened = Engine::open(self.config.clone(), disk, store, clock);
        match opened {
            _ if self.machine.power_is_cut() => Ok(false),
            Ok(opened) => {
                let partitions = self.config.partitions;
                self.trace.line(format_args!("opened with {partitions} partitions: {:?}", opened.recovered));
                let wiring = Wiring {
                    goods: &self.goods,
                    table: &self.table,
                    notifiers: &self.notifiers,
                    clock: self.machine.clock(),
                    planted: self.planted,
                    seed: self.rng.bits(),
                };
                self.life = Some(Life::new(opened, &wiring));
                self.schedule.begin(partitions, self.carriers.len() as u16);
                Ok(true)
            }
            Err(error) => {
                self.trace.line(format_args!("open fails: {error}"));
                self.excuse(&error)?;
                Ok(false)
            }
        }
    }
}
