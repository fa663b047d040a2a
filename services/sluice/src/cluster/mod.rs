//! Many nodes: `sluice worker`, `migrate` and `rebuild`, over Kafka and ScyllaDB.

mod config;
mod migrate;
mod node;
mod rebuild;
mod webhooks;
mod worker;

use sluice_engine_kafka_scylla::{KafkaError, store::StoreError, topics::DeploymentError};

pub use config::{Access, ClusterConfig, EXAMPLE, EventFormat};
pub use migrate::{MigrateArgs, command as migrate};
pub use node::{Node, Role};
pub use rebuild::{RebuildArgs, command as rebuild};
pub use worker::{WorkerArgs, command as worker, example};

/// A node can't start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The brokers did not do what was asked.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The deployment can't be read or changed.
    #[error("{}", of_kafka(.0))]
    Deployment(#[from] DeploymentError),
    /// The rows can't be had.
    #[error("{}", of_store(.0))]
    Store(#[from] StoreError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

/// With the keys of the configuration that it may be due to.
fn of_kafka(error: &DeploymentError) -> String {
    match error {
        DeploymentError::Access { settings, .. } => format!("cluster.kafka.{settings}: {error}"),
        _ => error.to_string(),
    }
}

fn of_store(error: &StoreError) -> String {
    match error.settings() {
        Some(settings) => format!("cluster.cql.{settings}: {error}"),
        None => format!("store: {error}"),
    }
}
