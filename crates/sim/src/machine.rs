//! One simulated computer: clock, disk and store behind one power switch, so that they die and come back together.

use std::sync::Arc;

use sluice_pipeline::{Clock, Disk, Store};

use crate::{
    clock::SimClock,
    disk::{CrashReport, DiskFaults, SimDisk},
    power::Power,
    rng::Rng,
    store::{SimStore, StoreFaults},
    trace::Trace,
};

/// See the module. Handles given out belong to the present life: after [`Machine::lose_power`] or [`Machine::kill`] the
/// old ones only return errors, and the engine is opened again on new ones.
#[derive(Debug)]
pub struct Machine {
    clock: SimClock,
    power: Power,
    disk: SimDisk,
    store: SimStore,
    rng: Rng,
    trace: Trace,
}

impl Machine {
    /// A computer that starts at `start_ms` ms since the epoch with empty disk and store.
    pub fn new(start_ms: u64, disk: DiskFaults, store: StoreFaults, rng: &Rng, trace: Trace) -> Self {
        let (clock, power) = (SimClock::new(start_ms), Power::default());
        let disk = SimDisk::new(disk, rng, power.clone(), clock.clone(), trace.clone());
        let store = SimStore::new(store, rng, power.clone(), trace.clone());
        Self { clock, power, disk, store, rng: rng.fork("machine"), trace }
    }

    /// The clock, to move and to look at. It outlives crashes.
    pub fn sim_clock(&self) -> &SimClock {
        &self.clock
    }

    /// The clock as the engine sees it.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    /// The disk as the engine sees it in this life.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    /// The store as the engine sees it in this life.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    /// The disk as the harness sees it.
    pub fn sim_disk(&self) -> &SimDisk {
        &self.disk
    }

    /// The store as the harness sees it.
    pub fn sim_store(&self) -> &SimStore {
        &self.store
    }

    /// Cuts the power in the middle of the changing operation after the next `operations`, wherever that is: within a
    /// step of a component, between the parts of a checkpoint, in a recovery.
    pub fn cut_power_after(&self, operations: u64) {
        self.trace.line(format_args!("machine: the power will fail after {operations} operations"));
        self.power.cut_after(operations);
    }

    /// True from the moment of such a cut; then [`Machine::lose_power`] is due.
    pub fn power_is_cut(&self) -> bool {
        self.power.is_cut()
    }

    /// The power is lost and comes back.
    pub fn lose_power(&mut self) -> CrashReport {
        self.power.restart();
        self.store.crash(&mut self.rng);
        self.disk.crash(&mut self.rng)
    }

    /// The process is killed and started again; the machine stays up. After a power cut this is [`Machine::lose_power`].
    pub fn kill(&mut self) {
        if self.power.is_cut() {
            self.lose_power();
            return;
        }
        self.trace.line(format_args!("machine: process killed"));
        self.power.restart();
        self.store.kill();
        self.disk.kill();
    }

    /// From now on nothing fails: for the end of a run, when everything must come to rest.
    pub fn heal(&self) {
        self.disk.set_faults(DiskFaults::default());
        self.store.set_faults(StoreFaults::default());
    }
}

#[cfg(test)]
mod tests {
    use sluice_pipeline::{BLOCK, Table};

    use super::*;

    fn machine(seed: u64, trace: &Trace) -> Machine {
        Machine::new(1_000, DiskFaults::default(), StoreFaults::default(), &Rng::new(seed), trace.clone())
    }

    #[test]
    fn disk_and_store_die_together() {
        let mut m = machine(1, &Trace::full());
        let (disk, store) = (m.disk(), m.store());
        let file = disk.create("a", BLOCK as u64).unwrap();
        m.cut_power_after(0);
        assert!(file.sync().is_err() && m.power_is_cut());
        assert!(store.get(Table::Rows, b"k").is_err() && disk.list().is_err());
        m.lose_power();
        assert!(disk.list().is_err() && store.get(Table::Rows, b"k").is_err(), "old handles stay dead");
        assert_eq!(m.disk().list().unwrap(), ["a"]);
        m.store().get(Table::Rows, b"k").unwrap();
        m.kill();
        assert_eq!(m.disk().list().unwrap(), ["a"]);
        assert_eq!(m.clock().now_ms(), 1_000);
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        let run = |seed| {
            let trace = Trace::full();
            let mut m = machine(seed, &trace);
            for round in 0..20 {
                let name = format!("{round}");
                let file = m.disk().create(&name, 8 * BLOCK as u64).unwrap();
                file.write_at(0, &vec![round; 4 * BLOCK]).unwrap();
                if round % 3 == 0 {
                    file.sync().unwrap();
                }
                m.lose_power();
            }
            let last = m.disk().open("19").unwrap();
            let mut bytes = vec![0; 8 * BLOCK];
            last.read_at(0, &mut bytes).unwrap();
            (trace.digest(), crate::digest::Digest::of(&bytes))
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}
