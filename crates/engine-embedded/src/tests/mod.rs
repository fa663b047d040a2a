//! Cases of the whole engine: over memory that fails on demand, and over a real folder with the real store.

mod check;
mod checkpoints;
mod conformance;
mod damage;
mod duplicates;
mod fakes;
mod feed;
mod fixtures;
mod full_disk;
mod journal;
mod outboxes;
mod retention;
mod threads;
pub(crate) mod world;
