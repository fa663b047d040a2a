//! The contract between stages and engines: ports, the batch, its effects, and the one Runner that ties them.
//!
//! The Runner does poll → read rows → apply → commit. Stages are pure and see only this crate and the domain, so the
//! same stage code runs fused in one process, spread over many, or under the simulator.

pub mod additions;
pub mod backoff;
pub mod batch;
pub mod commands;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod documents;
pub mod effects;
pub mod feed;
pub mod filter;
pub mod health;
pub mod hot;
pub mod index;
pub mod lookup;
pub mod ports;
pub mod runner;
pub mod stage;
pub mod watch;

pub use batch::{Batch, BatchView, Input, Rows, Verdict};
pub use documents::{Change, Documents};
pub use effects::Effects;
pub use feed::{Cursor, Feed, FeedError, FeedEvent, FeedPage};
pub use filter::Filter;
pub use health::{CarrierHealth, HealthBoard};
pub use index::Index;
pub use lookup::{Listed, Lookup};
pub use ports::*;
pub use runner::Runner;
pub use stage::{Ctx, Stage};
pub use watch::{Closed, Subscription, Watchers};
