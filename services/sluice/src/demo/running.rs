//! Which engine the demo runs on: embedded, or a node with every role over brokers.

use std::{net::SocketAddr, time::Duration};

use sluice_brokers::{Brokers, Options};
use sluice_engine_kafka_scylla::{store::Store, topics};
use sluice_pipeline::Clock;

use super::DemoError;
use crate::{
    clock::SystemClock,
    cluster::{ClusterConfig, ClusterError, Node, Role},
    config::Config,
    output,
    topology::{DrainReceipt, Pipeline, StartError},
};

/// An engine at work.
pub(super) enum Running {
    /// In one process.
    Embedded(Box<Pipeline>),
    /// Over brokers, which end with it.
    Cluster(Box<Node>, Brokers),
}

impl Running {
    /// Finds or starts brokers, makes a deployment of its own there, and runs every role in this process.
    pub(super) async fn cluster(mut config: Config) -> Result<Self, DemoError> {
        let started = tokio::task::spawn_blocking(|| Brokers::start(&Options::default())).await;
        let brokers = started.map_err(|_| DemoError::Broken)??;
        output::note(brokers.describe());
        let clock = SystemClock::new();
        // Brokers that are there already may have seen a demo before.
        let name = format!("demo_{:x}", clock.now_ms());
        config.cluster = Some(ClusterConfig {
            brokers: brokers.kafka().to_owned(),
            store: vec![brokers.store().to_owned()],
            prefix: name.clone(),
            keyspace: name,
            partitions: 4,
            replication: 1,
            store_replication: 1,
            ..ClusterConfig::default()
        });
        Self::migrate(&config, &clock).await?;
        let node = Box::pin(Node::start(config, &Role::ALL)).await?;
        Ok(Self::Cluster(Box::new(node), brokers))
    }

    async fn migrate(config: &Config, clock: &SystemClock) -> Result<(), StartError> {
        let Some(cluster) = &config.cluster else { return Ok(()) };
        let log = cluster.log(config)?;
        topics::migrate(&log, clock.now_ms(), &Default::default()).await.map_err(ClusterError::from)?;
        Store::migrate(&cluster.rows()).await.map_err(ClusterError::from)?;
        Ok(())
    }

    /// Where the API listens.
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Embedded(pipeline) => pipeline.address(),
            Self::Cluster(node, _) => node.address(),
        }
    }

    /// Resolves when the engine can't go on. A node goes on trying.
    pub(super) async fn failure(&self) -> String {
        match self {
            Self::Embedded(pipeline) => pipeline.failure().await,
            Self::Cluster(..) => std::future::pending().await,
        }
    }

    /// Ends it, and the brokers that were started for it.
    pub(super) async fn drain(self, deadline: Duration) -> DrainReceipt {
        match self {
            Self::Embedded(pipeline) => Box::pin(pipeline.drain(deadline)).await,
            Self::Cluster(node, brokers) => {
                let receipt = Box::pin(node.drain(deadline)).await;
                // It waits for processes to end.
                drop(tokio::task::spawn_blocking(move || drop(brokers)).await);
                receipt
            }
        }
    }
}
