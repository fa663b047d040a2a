//! What the tests against the real program stand on: processes that can't be left behind, a client that is in nobody's
//! way, orders to post, and judges who believe only what an outsider can see.

pub mod carriers;
pub mod client;
pub mod cluster;
pub mod engine;
pub mod events;
pub mod fake;
pub mod journal;
pub mod judge;
pub mod orders;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod setup;
pub mod tmpfs;
pub mod witness;
pub mod world;

use std::time::{Duration, Instant};

/// How long anything that is expected to happen may take: far more than it needs, for machines that are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `look` finds something, and panics with `what` if it doesn't within [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_at_most(PATIENCE, what, look)
}

/// As [`wait_for`], with a patience of its own.
#[track_caller]
pub fn wait_at_most<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Runs a future of the load generator, which does its work on threads of its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A small seeded generator (SplitMix64): the same seed gives the same moments, amounts and choices.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// So many milliseconds, fewer than `bound`.
    pub fn moment(&mut self, bound: u64) -> Duration {
        Duration::from_micros(self.below(bound * 1_000))
    }
}
