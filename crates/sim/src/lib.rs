//! A small world to run the real engine in: a seeded computer, seeded carriers, and a judge that stands outside.
//!
//! The crate holds no log, no stage and no engine of its own: it implements the ports of `sluice-pipeline` and checks
//! the invariants of `sluice-domain`. Whoever composes a simulation drives the real components over these ports on one
//! thread. Everything here is a function of one seed: no wall clock, no threads, no iteration order that leaks.
//!
//! * [`rng`]: the generator, forked by name.
//! * [`plan`]: which faults a seed turns on, and how much work it brings.
//! * [`machine`]: one computer: [`clock`], [`power`], [`disk`] and [`store`], which fail together. The fault model of
//!   the device is at the top of [`disk`].
//! * [`carriers`]: carriers that are slow, failing, lying, or remember nothing; each keeps a [`ledger`].
//! * [`oracle`]: what clients were told and carriers did, against what the system says; names the broken invariant.
//! * [`trace`]: every step as text, and a digest by which two runs of one seed are compared.

pub mod carriers;
pub mod clock;
pub mod digest;
pub mod disk;
pub mod ledger;
pub mod machine;
pub mod oracle;
pub mod plan;
pub mod power;
pub mod rng;
pub mod store;
pub mod trace;

pub use carriers::{CarrierProfile, SimCarrier};
pub use clock::SimClock;
pub use disk::{DiskFaults, SimDisk};
pub use ledger::Ledger;
pub use machine::Machine;
pub use oracle::{Oracle, Violation};
pub use plan::FaultPlan;
pub use rng::{Chance, Rng};
pub use store::{SimStore, StoreFaults};
pub use trace::Trace;
