//! Many seeds at once, and what they add up to.

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{Failure, Options, SeedReport, report::Tally, run_seed};

/// Failures that are kept in full.
const MAX_FAILURES: usize = 20;

/// What many seeds add up to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// Seeds that showed a bug.
    pub violations: u64,
    /// What they went through, added up.
    pub tally: Tally,
    /// The first failures, by seed.
    pub failures: Vec<Failure>,
    /// How long it took, seconds; 0 if nobody measured.
    pub seconds: f64,
}

impl Summary {
    /// Adds what one seed showed.
    pub fn add(&mut self, report: &SeedReport) {
        self.seeds += 1;
        self.tally.add(&report.tally);
        if let Some(failure) = &report.failure {
            self.violations += 1;
            if self.failures.len() < MAX_FAILURES {
                self.failures.push(failure.clone());
            }
        }
    }

    /// Says how long it took.
    #[must_use]
    pub fn took(self, time: Duration) -> Self {
        Self { seconds: time.as_secs_f64(), ..self }
    }

    /// Seeds a minute, if the time was measured.
    pub fn seeds_per_minute(&self) -> f64 {
        if self.seconds > 0.0 { self.seeds as f64 * 60.0 / self.seconds } else { 0.0 }
    }

    /// For a person.
    pub fn table(&self) -> String {
        let t = &self.tally;
        let rows = [
            ("seeds", self.seeds),
            ("seeds a minute", self.seeds_per_minute() as u64),
            ("steps", t.steps),
            ("losses of power", t.power_losses),
            ("process ends", t.kills),
            ("  of them in order", t.drains),
            ("checkpoints", t.checkpoints),
            ("orders sent", t.orders),
            ("orders acknowledged", t.acknowledged),
            ("  finished", t.finished),
            ("  dead-lettered", t.dead_lettered),
            ("  replayed", t.replayed),
            ("  reviewed", t.reviewed),
            ("  parked as unknown", t.parked),
            ("orders retired", t.retired),
            ("commits refused", t.refused),
            ("calls to carriers", t.calls),
            ("damage planted and named", t.rot_found),
            ("violations", self.violations),
        ];
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        for (name, value) in rows {
            table.add_row([name.to_owned(), value.to_string()]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// Runs `seeds`, `jobs` of them at a time, each on one thread; `each` hears of them as they end, in no order.
pub fn run_seeds(seeds: Range<u64>, jobs: usize, options: &Options, each: &(dyn Fn(&SeedReport) + Sync)) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let done: Mutex<Vec<SeedReport>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run_seed(seed, options);
                    each(&report);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(report);
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|report| report.seed);
    let mut summary = Summary::default();
    done.iter().for_each(|report| summary.add(report));
    summary
}
