//! What one seed showed.

use std::any::Any;

use serde::Serialize;
use sluice_sim::Violation;

use super::Planted;

/// What a run went through, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Steps of the scheduler.
    pub steps: u64,
    /// Losses of power.
    pub power_losses: u64,
    /// Ends of the process while the computer stayed up.
    pub kills: u64,
    /// Of those, ends in order: everything in the queues finished, everybody answered.
    pub drains: u64,
    /// Orders under a key of their own that clients sent.
    pub orders: u64,
    /// Orders that some client was told are accepted.
    pub acknowledged: u64,
    /// Of those stored at the end: every parcel accepted, or nothing ships.
    pub finished: u64,
    /// Of those stored at the end: given to a person.
    pub dead_lettered: u64,
    /// Of those stored at the end: dead-lettered once, and decided anew.
    pub replayed: u64,
    /// Of those stored at the end: a person has said what was in a parcel of it.
    pub reviewed: u64,
    /// Of those stored at the end: nobody can tell whether a carrier took them.
    pub parked: u64,
    /// Orders that retention let go.
    pub retired: u64,
    /// Calls to carriers.
    pub calls: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Commits refused for want of room.
    pub refused: u64,
    /// Customers' looks at an order, the judge's included.
    pub looks: u64,
    /// Damage planted and named.
    pub rot_found: u64,
}

impl Tally {
    /// Adds another run's numbers.
    pub fn add(&mut self, other: &Tally) {
        let Tally {
            steps,
            power_losses,
            kills,
            drains,
            orders,
            acknowledged,
            finished,
            dead_lettered,
            replayed,
            reviewed,
            parked,
            retired,
            calls,
            checkpoints,
            refused,
            looks,
            rot_found,
        } = other;
        self.steps += steps;
        self.power_losses += power_losses;
        self.kills += kills;
        self.drains += drains;
        self.orders += orders;
        self.acknowledged += acknowledged;
        self.finished += finished;
        self.dead_lettered += dead_lettered;
        self.replayed += replayed;
        self.reviewed += reviewed;
        self.parked += parked;
        self.retired += retired;
        self.calls += calls;
        self.checkpoints += checkpoints;
        self.refused += refused;
        self.looks += looks;
        self.rot_found += rot_found;
    }

    /// Ends of a life, of either kind.
    pub fn crashes(&self) -> u64 {
        self.power_losses + self.kills
    }
}

/// A seed that showed a bug.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The broken invariant by name; `None` for a panic.
    pub invariant: Option<&'static str>,
    /// What happened, the seed, and the command that shows it again.
    pub message: String,
}

impl Failure {
    pub(super) fn broken(seed: u64, planted: Option<Planted>, violation: &Violation) -> Self {
        let message = format!("seed {seed}: {violation}; {}", replay(seed, planted));
        Self { invariant: Some(violation.invariant.name()), message }
    }

    pub(super) fn panicked(seed: u64, planted: Option<Planted>, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Self { invariant: None, message: format!("seed {seed}: panic: {text}; {}", replay(seed, planted)) }
    }
}

fn replay(seed: u64, planted: Option<Planted>) -> String {
    let plant = planted.map(|bug| format!(" --plant {}", bug.name())).unwrap_or_default();
    format!("replay it with: sluice simulate --seed {seed} --trace{plant}")
}

/// What one seed showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// Stands for everything that happened: two runs of one seed have the same.
    pub digest: u64,
    /// What it went through.
    pub tally: Tally,
    /// The bug it showed, if any.
    pub failure: Option<Failure>,
    /// As many lines as were to be kept, oldest first.
    #[serde(skip)]
    pub trace: Vec<String>,
}

impl SeedReport {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, digest: 0, tally: Tally::default(), failure: None, trace: Vec::new() }
    }
}
