//! What the stage classifies by, as a whole that is replaced while the process runs: every batch is decided by one of them.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::classifier::Chain;

/// The chain in force.
#[derive(Debug)]
pub struct Knowledge(ArcSwap<Chain>);

impl Knowledge {
    /// Begins with `chain`.
    #[must_use]
    pub fn new(chain: Chain) -> Self {
        announce(&chain);
        Self(ArcSwap::from_pointee(chain))
    }

    /// The chain in force now.
    #[must_use]
    pub fn now(&self) -> Arc<Chain> {
        self.0.load_full()
    }

    /// Has batches decided by `chain` from the next on.
    pub fn replace(&self, chain: Chain) {
        announce(&chain);
        self.0.store(Arc::new(chain));
    }
}

fn announce(chain: &Chain) {
    tracing::info!(rules = chain.version(), model = chain.model_version(), "classification in force");
}
