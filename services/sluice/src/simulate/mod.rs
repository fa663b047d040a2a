//! `sluice simulate`: the whole pipeline in one thread, on a computer and with carriers that fail as one seed says.
//!
//! Everything that decides is the code that runs in production: engine, journal, checkpoints, Runner, stages, notifiers.
//! What surrounds it comes from `sluice-sim`: disk, store, clock and carriers. A seeded scheduler picks which part does
//! its next step, so every interleaving that threads could show is one that some seed shows, crashes included, and a
//! seed shows it again.
//!
//! * [`world`]: one run from the first order to the last judgement; [`steps`] is its scheduler, [`crash`] its end of a
//!   life and the beginning of the next, [`drain`] an end in order.
//! * [`life`]: one life of the process: an open engine and everything that works on it; [`courier`] is the part that
//!   tells one carrier, [`writer`] the one that makes groups durable.
//! * [`clients`] send orders, [`goods`] is what is in them, [`merchants`] cancel some and have operators who replay some,
//!   [`looks`] are customers who look their order up.
//! * [`planted`]: bugs put in on purpose, to see that the judge finds them.
//! * [`rot`]: damage where no crash can cause any, which must stop an open.

pub mod cli;
mod clients;
mod courier;
mod crash;
mod drain;
mod flag;
mod goods;
mod life;
mod looks;
mod merchants;
mod planted;
mod report;
mod rot;
mod sizes;
mod steps;
mod summary;
mod world;
mod writer;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

pub use goods::{Goods, GoodsError};
pub use planted::Planted;
pub use report::{Failure, SeedReport, Tally};
pub use summary::{Summary, run_seeds};

use sluice_sim::{FaultPlan, Trace};
use world::World;

/// How seeds are run.
#[derive(Debug, Clone)]
pub struct Options {
    /// What orders are made of and how it is classified; read once and shared by all runs.
    pub goods: Arc<Goods>,
    /// A bug to put in.
    pub planted: Option<Planted>,
    /// Lines of the trace to keep.
    pub trace_lines: usize,
}

impl Options {
    /// The product as it is, without a trace.
    ///
    /// # Errors
    /// [`GoodsError`] if the data that is part of this build is damaged.
    pub fn load() -> Result<Self, GoodsError> {
        Ok(Self { goods: Arc::new(Goods::load()?), planted: None, trace_lines: 0 })
    }

    /// The same with `bug` in it.
    #[must_use]
    pub fn with(&self, bug: Planted) -> Self {
        Self { planted: Some(bug), ..self.clone() }
    }
}

/// Runs one seed from the first order to the last judgement.
#[must_use]
pub fn run_seed(seed: u64, options: &Options) -> SeedReport {
    let trace = Trace::last(options.trace_lines);
    let plan = FaultPlan::from_seed(seed);
    let mut report = SeedReport::new(seed);
    // A panic of the code under test is a finding like any other. Nothing of the run is used after it.
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(plan, options, trace.clone());
        let result = world.run();
        (world.tally(), result)
    }));
    match run {
        Ok((tally, result)) => {
            report.tally = tally;
            report.failure = result.err().map(|broken| Failure::broken(seed, options.planted, &broken));
        }
        Err(panic) => report.failure = Some(Failure::panicked(seed, options.planted, &*panic)),
    }
    report.digest = trace.digest();
    report.trace = trace.lines();
    report
}
