//! The engine that outgrows one machine: Kafka is the log, ScyllaDB holds the rows.
//!
//! * [`topics`]: names, the deployment record, and how both come to be.
//! * [`groups`]: where consumer groups stand, and where carriers' groups begin.
//! * [`writer`]: orders, and words about them, into the orders topic.
//! * [`ledger`]: how far a notifier's outcomes are durable.
//! * [`store`]: rows in ScyllaDB.
//! * [`owner`]: decides; one round is one Kafka transaction.
//! * [`outbox`]: what a carrier is to be told.
//! * [`presence`]: which checkout nodes there are.
//! * [`turn`]: which of several nodes does what only one may do.
//! * [`fold`]: decisions into rows.
//! * [`feed`]: the public events, for whoever doesn't read their topic.
//! * [`progress`]: how far owners and folds are.
//! * [`reader`]: orders by id.
//! * [`watch`]: which of the followed orders have changed.

mod access;
mod config;
mod context;
pub mod feed;
pub mod fold;
pub mod groups;
pub mod ledger;
pub mod lookup;
pub mod outbox;
pub mod owner;
pub mod presence;
pub mod progress;
pub mod reader;
pub mod recorded;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod topics;
pub mod turn;
pub mod watch;
pub mod writer;

pub use config::{KafkaSecurity, LogConfig, Secret};
pub use feed::TopicFeed;
pub use fold::Fold;
pub use lookup::ClusterLookup;
pub use owner::{Owners, OwnersConfig};
pub use presence::Presence;
pub use progress::Progress;
pub use rdkafka::error::KafkaError;
pub use reader::ClusterOrders;
pub use topics::Deployment;
pub use turn::{Held, Turn};
pub use writer::{OutcomeWriter, Writer};
