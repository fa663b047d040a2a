//! The promises of Sluice by name, so that code, tests, simulation and benchmarks speak of the same things.

use std::fmt;

/// A promise that no crash, retry or overload may break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// An acknowledged order is never lost, whatever is killed or cut off.
    DurableBeforeAck,
    /// At most one attempt per parcel is open or accepted.
    OneEffect,
    /// A carrier is called only after the decision to call it is committed.
    DecideBeforeAct,
    /// No permutation, duplication or delay of events makes a status go back.
    MonotoneStatus,
    /// Every accepted order is, by id, in exactly one class; splitting conserves its items.
    Conservation,
    /// One merchant, carrier or poison order doesn't slow the others.
    Bulkhead,
    /// Every queue, batch, retry, index and cache has a named bound.
    Bounded,
    /// An unfinished last write is cut off; damage anywhere else is named and stops the open.
    TornIsNotRot,
}

impl Invariant {
    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::DurableBeforeAck => "durable-before-ack",
            Self::OneEffect => "one-effect",
            Self::DecideBeforeAct => "decide-before-act",
            Self::MonotoneStatus => "monotone-status",
            Self::Conservation => "conservation",
            Self::Bulkhead => "bulkhead",
            Self::Bounded => "bounded",
            Self::TornIsNotRot => "torn-is-not-rot",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
