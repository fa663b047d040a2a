//! Merchants' webhooks, wired: whoever has a feed of events and somewhere to keep documents gets routes and a task.

mod config;

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

pub use config::{MerchantWebhook, WebhooksConfig};

/// How long posts under way may still take once everything stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Webhooks at work.
pub(crate) struct Webhooks {
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Webhooks {
    /// Begins to deliver what `feed` tells, and gives the routes. `documents` may have no other user.
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
        let delivery = config.webhooks.delivery()?;
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
