//! The engines that the same test runs on, and what a user can see of their difference.

use super::cluster::{Lent, lend};

/// What a test's world is made on. Held for the whole test: its brokers stay up as long.
pub enum Engine {
    /// `sluice serve`: one process on one journal.
    Embedded,
    /// `sluice worker --all`: a node with every role, on brokers shared with other tests.
    Cluster(Lent),
}

impl Engine {
    /// A cluster; `None`, with a word on standard error, if this machine can't run one.
    pub fn cluster() -> Option<Self> {
        lend().map(Self::Cluster)
    }
}

/// Makes of every function two tests, `embedded::name` and `cluster::name`.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[test]
            fn $name() {
                super::$name(&$crate::support::engine::Engine::Embedded);
            })+
        }

        mod cluster {
            $(#[test]
            fn $name() {
                if let Some(engine) = $crate::support::engine::Engine::cluster() {
                    super::$name(&engine);
                }
            })+
        }
    };
}
pub(crate) use on_both_engines;
