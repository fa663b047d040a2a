//! What one seed brings: how much work, which faults, how often. About half of the kinds of fault are off in any one
//! run, because a run in which everything fails never gets far enough to meet the rare combinations (Groce et al.:
//! Swarm Testing, 2012).

use std::fmt::Write as _;

use crate::{
    carriers::CarrierProfile,
    disk::DiskFaults,
    rng::{Chance, Rng},
    store::StoreFaults,
};

/// When every simulation starts: 2026-11-11T00:00:00Z, ms since the epoch.
pub const START_MS: u64 = 1_794_355_200_000;

/// How much work, and how clients behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Orders under keys of their own.
    pub orders: u32,
    /// Merchants they come from; the first sends about half of them.
    pub merchants: u16,
    /// Lines of an order, both bounds included.
    pub lines: (u64, u64),
    /// Orders submitted at once, both bounds included.
    pub submission: (u64, u64),
    /// An order that is sent again, whatever was heard.
    pub duplicates: Chance,
    /// A repetition with another body or time under the same key.
    pub conflicts: Chance,
    /// An order that no stage can decide.
    pub poison: Chance,
    /// A client that heard nothing (crash) or was told to come back, and does.
    pub retries: Chance,
}

/// How often the machine goes down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crashes {
    /// Losses of power, over the run.
    pub power_losses: u32,
    /// Kills of the process, over the run.
    pub kills: u32,
    /// A crash that comes in the middle of an operation of the device, not between two steps.
    pub within_step: Chance,
    /// A recovery that is itself cut off.
    pub in_recovery: Chance,
}

/// Everything that a seed decides before the run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultPlan {
    /// The seed.
    pub seed: u64,
    /// Work.
    pub workload: Workload,
    /// Crashes.
    pub crashes: Crashes,
    /// Disk.
    pub disk: DiskFaults,
    /// Store.
    pub store: StoreFaults,
    /// Carriers; at least two, never two of a name.
    pub carriers: Vec<CarrierProfile>,
    /// A step of the wall clock, before a step of the run.
    pub clock_steps: Chance,
    /// The furthest such a step goes either way, ms.
    pub clock_step_ms: u64,
}

/// Draws which faults are on.
struct Swarm(Rng);

impl Swarm {
    /// Off half of the time; else up to `most`, small values as likely as large ones.
    fn chance(&mut self, most: Chance) -> Chance {
        let on = self.0.coin();
        let scaled = u64::from(most.get()) >> self.0.below(5);
        let drawn = self.0.between(scaled / 2, scaled);
        if on { Chance::ppm(drawn as u32) } else { Chance::NEVER }
    }
}

impl FaultPlan {
    /// The plan of `seed`.
    pub fn from_seed(seed: u64) -> Self {
        let rng = Rng::new(seed).fork("plan");
        let mut swarm = Swarm(rng.fork("crashes"));
        let crashes = Crashes {
            power_losses: swarm.0.below(5) as u32,
            kills: swarm.0.below(4) as u32,
            within_step: Chance::percent(50),
            in_recovery: swarm.chance(Chance::percent(40)),
        };
        let mut swarm = Swarm(rng.fork("disk"));
        let disk = DiskFaults {
            // The harness knows what a run needs and sets a bound near it when it wants a full disk.
            capacity: None,
            failed_sync: swarm.chance(Chance::ppm(10_000)),
            failed_write: swarm.chance(Chance::ppm(10_000)),
            slow: swarm.chance(Chance::percent(10)),
            slow_us: swarm.0.between(100, 200_000),
        };
        let mut swarm = Swarm(rng.fork("store"));
        let store = StoreFaults {
            failed_ingest: swarm.chance(Chance::percent(5)),
            failed_get: swarm.chance(Chance::ppm(5_000)),
        };
        let mut swarm = Swarm(rng.fork("clock"));
        let (clock_steps, clock_step_ms) = (swarm.chance(Chance::ppm(5_000)), swarm.0.between(1, 30_000));
        let workload = workload(rng.fork("workload"));
        let carriers = carriers(&rng.fork("carriers"));
        Self { seed, workload, crashes, disk, store, carriers, clock_steps, clock_step_ms }
    }

    /// The same work with nothing failing: the run against which the others are held.
    pub fn without_faults(seed: u64) -> Self {
        let plan = Self::from_seed(seed);
        let calm = |c: &CarrierProfile| CarrierProfile {
            name: c.name.clone(),
            idempotent: c.idempotent,
            ..CarrierProfile::default()
        };
        Self {
            crashes: Crashes { power_losses: 0, kills: 0, within_step: Chance::NEVER, in_recovery: Chance::NEVER },
            disk: DiskFaults::default(),
            store: StoreFaults::default(),
            carriers: plan.carriers.iter().map(calm).collect(),
            clock_steps: Chance::NEVER,
            ..plan
        }
    }

    /// The generator of the part of the run called `name`.
    pub fn rng(&self, name: &str) -> Rng {
        Rng::new(self.seed).fork("run").fork(name)
    }

    /// The plan for a person: what is on, line by line.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let mut say = |line: std::fmt::Arguments<'_>| {
            let _ = writeln!(out, "{line}");
        };
        let w = &self.workload;
        say(format_args!("seed {}", self.seed));
        say(format_args!(
            "work: {} orders of {}-{} lines from {} merchants, {}-{} at once{}",
            w.orders,
            w.lines.0,
            w.lines.1,
            w.merchants,
            w.submission.0,
            w.submission.1,
            faults(&[
                ("sent again", w.duplicates),
                ("conflicting", w.conflicts),
                ("poison", w.poison),
                ("retried", w.retries)
            ])
        ));
        let c = &self.crashes;
        say(format_args!(
            "crashes: {} losses of power, {} kills{}",
            c.power_losses,
            c.kills,
            faults(&[("within a step", c.within_step), ("in a recovery", c.in_recovery)])
        ));
        let d = &self.disk;
        let room = d.capacity.map_or_else(|| "no bound".to_owned(), |bytes| format!("{bytes} bytes"));
        say(format_args!(
            "disk: {room}{}",
            faults(&[("failed sync", d.failed_sync), ("failed write", d.failed_write), ("slow", d.slow)])
        ));
        let s = &self.store;
        say(format_args!("store{}", faults(&[("failed ingest", s.failed_ingest), ("failed get", s.failed_get)])));
        let step = self.clock_step_ms;
        say(format_args!("clock{}, by up to {step} ms", faults(&[("stepped", self.clock_steps)])));
        for c in &self.carriers {
            let memory = if c.idempotent { "idempotent" } else { "remembers nothing" };
            let habits = faults(&[
                ("slow", c.slow),
                ("refuses", c.refuses),
                ("server error", c.server_error),
                ("reset", c.reset),
                ("times out", c.times_out),
                ("late", c.late),
                ("partial", c.partial),
                ("lies", c.lies),
                ("rejects", c.rejects),
            ]);
            let (low, high) = c.latency_ms;
            let down: Vec<String> =
                c.down.iter().map(|s| format!("{}..{}", s.start - START_MS, s.end - START_MS)).collect();
            let down = if down.is_empty() { String::new() } else { format!(", down {} ms", down.join(" ")) };
            say(format_args!("carrier {}: {memory}, {low}-{high} ms{habits}{down}", c.name));
        }
        out
    }
}

fn faults(list: &[(&str, Chance)]) -> String {
    let on = list.iter().filter(|(_, chance)| *chance != Chance::NEVER);
    on.map(|(name, chance)| format!(", {name} {:.2} %", f64::from(chance.get()) / 10_000.0)).collect()
}

fn workload(rng: Rng) -> Workload {
    let mut swarm = Swarm(rng);
    let most = *swarm.0.pick(&[20, 60, 200, 400]).unwrap_or(&60);
    let at_once = *swarm.0.pick(&[1, 8, 50]).unwrap_or(&8);
    Workload {
        orders: swarm.0.between(most / 2, most) as u32,
        merchants: swarm.0.between(1, 8) as u16,
        lines: (1, swarm.0.between(1, 12)),
        submission: (1, at_once),
        duplicates: swarm.chance(Chance::percent(30)),
        conflicts: swarm.chance(Chance::percent(30)),
        poison: swarm.chance(Chance::percent(5)),
        retries: Chance::percent(80),
    }
}

fn carriers(rng: &Rng) -> Vec<CarrierProfile> {
    let count = rng.fork("count").between(2, 4) as usize;
    let names = ["alder", "birch", "cedar", "dogwood"];
    names.iter().take(count).map(|name| carrier(name, rng.fork(name))).collect()
}

fn carrier(name: &str, rng: Rng) -> CarrierProfile {
    let mut swarm = Swarm(rng);
    let fastest = swarm.0.between(1, 20);
    let down = match swarm.0.below(4) {
        0 => {
            let start = START_MS + swarm.0.between(0, 60_000);
            std::iter::once(start..start + swarm.0.between(100, 120_000)).collect()
        }
        _ => Vec::new(),
    };
    CarrierProfile {
        name: name.to_owned(),
        idempotent: swarm.0.below(3) > 0,
        latency_ms: (fastest, fastest + swarm.0.between(0, 500)),
        patience_ms: 5_000,
        slow: swarm.chance(Chance::percent(20)),
        refuses: swarm.chance(Chance::percent(30)),
        server_error: swarm.chance(Chance::percent(20)),
        reset: swarm.chance(Chance::percent(20)),
        times_out: swarm.chance(Chance::percent(20)),
        late: swarm.chance(Chance::percent(10)),
        partial: swarm.chance(Chance::percent(30)),
        lies: swarm.chance(Chance::percent(10)),
        rejects: swarm.chance(Chance::percent(30)),
        down,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        assert_eq!(FaultPlan::from_seed(1), FaultPlan::from_seed(1));
        assert_ne!(FaultPlan::from_seed(1), FaultPlan::from_seed(2));
        let (plan, calm) = (FaultPlan::from_seed(3), FaultPlan::without_faults(3));
        assert_eq!(plan.workload, calm.workload);
        assert_eq!((calm.disk, calm.store), (DiskFaults::default(), StoreFaults::default()));
        assert_eq!(plan.rng("x").bits(), FaultPlan::from_seed(3).rng("x").bits());
    }

    #[test]
    fn every_fault_is_on_in_some_plans_and_off_in_others() {
        let plans: Vec<_> = (0..300).map(FaultPlan::from_seed).collect();
        let share = |on: &dyn Fn(&FaultPlan) -> bool| plans.iter().filter(|p| on(p)).count();
        let first = |p: &FaultPlan| p.carriers[0].clone();
        let faults: [&dyn Fn(&FaultPlan) -> bool; 14] = [
            &|p| p.disk.failed_sync != Chance::NEVER,
            &|p| p.disk.failed_write != Chance::NEVER,
            &|p| p.store.failed_ingest != Chance::NEVER,
            &|p| p.store.failed_get != Chance::NEVER,
            &|p| p.clock_steps != Chance::NEVER,
            &|p| p.crashes.power_losses > 0,
            &|p| p.crashes.kills > 0,
            &|p| first(p).idempotent,
            &|p| first(p).refuses != Chance::NEVER,
            &|p| first(p).times_out != Chance::NEVER,
            &|p| first(p).lies != Chance::NEVER,
            &|p| first(p).rejects != Chance::NEVER,
            &|p| !first(p).down.is_empty(),
            &|p| p.workload.poison != Chance::NEVER,
        ];
        for (i, fault) in faults.iter().enumerate() {
            assert!((30..270).contains(&share(fault)), "fault {i}: {} of 300", share(fault));
        }
        for plan in &plans {
            let names: BTreeSet<_> = plan.carriers.iter().map(|c| &c.name).collect();
            assert!(names.len() == plan.carriers.len() && names.len() >= 2);
            assert!((10..=400).contains(&plan.workload.orders) && plan.workload.merchants >= 1);
        }
    }

    #[test]
    fn the_description_says_what_is_on() {
        let text = FaultPlan::from_seed(7).describe();
        for word in ["seed 7", "work: ", "crashes: ", "disk: ", "carrier alder: ", "carrier birch: "] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!FaultPlan::without_faults(7).describe().contains("failed"));
    }
}
