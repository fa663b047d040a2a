//! Merchants' webhooks, wired: whoever has a feed of events and somewhere to keep documents gets routes and a task.

mod config;
mod deliveries;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use sluice_domain::Merchants;
use sluice_pipeline::{Clock, Documents, Feed};
use sluice_webhooks::{Api, World, call::Caller, guard::SystemResolver, tail::Tail};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    config::{Config, ConfigError},
    topology::StartError,
};

pub(crate) use deliveries::Log;

pub use config::{MerchantWebhook, WebhooksConfig};

/// How long posts under way may still take once everything stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Webhooks at work.
pub(crate) struct Webhooks {
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Webhooks {
    /// Begins to deliver what `feed` tells, and gives the routes. Nobody else may write to `documents`.
    ///
    /// # Errors
    /// [`StartError::Config`] naming the key, [`StartError::Engine`] when the documents can't be read.
    pub(crate) async fn start(
        config: &Config,
        feed: Arc<dyn Feed>,
        documents: Arc<dyn Documents>,
        merchants: &Arc<Merchants>,
        clock: &Arc<dyn Clock>,
    ) -> Result<(Self, Router), StartError> {
        let mut delivery = config.webhooks.delivery()?;
        if let Some(cluster) = &config.cluster {
            delivery.source.clone_from(&cluster.event_source);
        }
        let caller = Caller::new(&delivery, Arc::new(SystemResolver));
        let caller = caller.map_err(|error| ConfigError::at("webhooks", format!("TLS can't be used: {error}")))?;
        let tail = Arc::new(Tail::new(feed, delivery.tail_bytes));
        let world = World {
            tail: Arc::clone(&tail),
            documents: Arc::clone(&documents),
            clock: Arc::clone(clock),
            caller: Arc::new(caller),
            fixed: config.webhooks.endpoints(&config.merchants, clock.now_ms())?,
            seed: RandomState::new().build_hasher().finish(),
            drain: DRAIN,
        };
        let bounds = delivery.clone();
        let opening = tokio::task::spawn_blocking(move || sluice_webhooks::open(world, bounds)).await;
        let crashed = |error: tokio::task::JoinError| sluice_pipeline::LogError::Store(error.to_string());
        let failed = |source| StartError::Engine { folder: config.data_dir.display().to_string(), source };
        let (desk, driver) = opening.map_err(crashed).flatten().map_err(failed)?;
        let (merchants, clock) = (Arc::clone(merchants), Arc::clone(clock));
        let routes =
            sluice_webhooks::router(Api { desk, tail, documents, merchants, clock, config: Arc::new(delivery) });
        let (stop, stopped) = oneshot::channel();
        // An error means that whoever would stop it is gone, and then it shall stop, too.
        let running = tokio::spawn(driver.run(async move { drop(stopped.await) }));
        Ok((Self { stop, running }, routes))
    }

    /// Stops: posts under way may end, and where every endpoint stands is stored.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.running.await {
            tracing::error!(%error, "webhooks ended early; the next start goes on from what they had stored");
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_engine_embedded::FjallDocuments;
    use sluice_webhooks::testing::{MemoryFeed, Receiver};

    use super::*;
    use crate::clock::SystemClock;

    const KIND: &str = "com.sluice.parcel.tracked.v1";

    #[tokio::test]
    async fn an_endpoint_of_the_configuration_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::start("127.0.0.1").await.unwrap();
        let text = format!(
            "[[merchant]]\nid = \"m-1\"\napi_key = \"k\"\n[[merchant.webhook]]\nurl = \"{}\"\n\
             secret = \"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\"\n[webhooks]\nallow_private_networks = [\"127.0.0.0/8\"]",
            receiver.url()
        );
        let config = Config::parse("x", &text).unwrap();
        let feed = Arc::new(MemoryFeed::default());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let merchants = Arc::new(config.merchant_table().unwrap());
        let start = async || {
            let documents = Arc::new(FjallDocuments::open(folder.path()).unwrap());
            let (webhooks, _routes) =
                Webhooks::start(&config, feed.clone(), documents, &merchants, &clock).await.unwrap();
            webhooks
        };
        let webhooks = start().await;
        // It begins at the end of the feed, which is found a moment after the start.
        let mut first = 0;
        while receiver.arrived().is_empty() {
            first += 1;
            feed.tell("m-1", 1, KIND, first);
            drop(tokio::time::timeout(Duration::from_millis(20), receiver.wait_for(1)).await);
        }
        let before = receiver.arrived().len();
        webhooks.stop().await;
        let missed = feed.tell("m-1", 1, KIND, first + 1);
        let webhooks = start().await;
        let mut wanted = before + 1;
        while receiver.wait_for(wanted).await.last().is_none_or(|last| last.header("webhook-id") != missed) {
            wanted += 1;
        }
        webhooks.stop().await;
        let arrived = receiver.arrived();
        let mut ids: Vec<_> = arrived.iter().map(|post| post.header("webhook-id")).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "nothing twice, nothing left out");
        assert!(ids.last().is_some_and(|last| *last == missed));
    }
}
