//! The embedded engine: log, store and commit in one process, behind the ports of the pipeline.
//!
//! Partitions are single-writer and share one journal. What an owner decides goes into the journal together with the
//! order it decides on, in one group; nobody is answered and no carrier called before that group is synced. Rows of
//! young orders live in memory; checkpoints move them to the store as sorted runs. Recovery is the last checkpoint plus
//! the journal behind it.
//!
//! Every component can be stepped without threads ([`Partition`] through the Runner, [`journal::Journal`] through
//! `begin`/`write`/`sync`/`complete`, [`Checkpointer::step`]), which is how the simulator drives them.

mod buffer;
pub mod check;
mod checkpoint;
mod disk;
mod documents;
mod encode;
mod engine;
mod feed;
mod head;
mod intake;
pub mod journal;
mod lock;
mod lookup;
mod outbox;
mod partition;
mod pump;
mod recorded;
mod recovery;
mod retention;
mod shared;
mod store;
#[cfg(test)]
mod tests;
mod threads;

pub use checkpoint::Checkpointer;
pub use disk::RealDisk;
pub use documents::FjallDocuments;
pub use engine::{Engine, Opened};
pub use feed::EngineFeed;
pub use intake::QueueConfig;
pub use journal::{Completion, JournalConfig, WriterStep};
pub use lock::DataLock;
pub use partition::Partition;
pub use pump::HandOut;
pub use recorded::{Recorded, recorded};
pub use recovery::{Recovered, journal_start};
pub use retention::Retention;
pub use shared::{Counts, EngineConfig};
pub use store::FjallStore;
pub use threads::{DrainReport, Threads};
