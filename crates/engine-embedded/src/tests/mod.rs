//! Cases of the whole engine: over memory that fails on demand, and over a real folder with the real store.

mod conformance;
mod damage;
mod fakes;
mod journal;
mod world;
