//! Webhooks on a cluster: one node of the role has the turn, delivers and answers; the others stand by and say so.
//!
//! A hand-over loses nothing: an endpoint's cursor is stored behind whatever was put aside before it, and the next holder goes on
//! from what is stored. What was posted and isn't stored yet is posted again, under the same id.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
};
use parking_lot::RwLock;
use sluice_domain::Merchants;
use sluice_engine_kafka_scylla::{
    Held, KafkaError, LogConfig, TopicFeed, Turn,
    store::{CqlDocuments, Store},
};
use sluice_http::Problem;
use sluice_pipeline::{Change, Clock, Documents, LogError, documents::Entry};
use sluice_webhooks::model;
use tokio::{runtime::Handle, sync::watch, task::JoinHandle, time::Duration};
use tower::ServiceExt as _;

use super::ClusterError;
use crate::{config::Config, topology::StartError, webhooks::Webhooks};

/// What the routes begin with.
const PREFIX: &str = "/v1/webhooks";
/// Pause after a turn that could not be begun.
const PAUSE: Duration = Duration::from_secs(1);
/// Documents read at once.
const SCAN: usize = 1_000;

/// What a turn needs.
pub(super) struct Means {
    pub config: Config,
    pub log: LogConfig,
    pub store: Arc<Store>,
    pub merchants: Arc<Merchants>,
    pub clock: Arc<dyn Clock>,
}

/// The role at work, or standing by.
pub(super) struct Hooks {
    turn: Arc<Turn>,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

/// The routes of whoever has the turn, on this node: `None` while another has it.
#[derive(Clone, Default)]
pub(super) struct Routes(Arc<RwLock<Option<Router>>>);

impl Routes {
    /// Answers what nothing else on this node does, or `otherwise`.
    pub async fn answer(self, request: Request, otherwise: fn() -> Problem) -> Response {
        let path = request.uri().path();
        if !path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return otherwise().into_response();
        }
        let routes = self.0.read().clone();
        let Some(routes) = routes else {
            return Problem::unavailable("Another node has webhooks now, or will in a moment.", 1).into_response();
        };
        let answered = routes.fallback(move || async move { otherwise() }).oneshot(request).await;
        answered.unwrap_or_else(|never| match never {})
    }
}

/// Why a turn can't be begun.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error("no term: {0}")]
    Term(#[from] KafkaError),
    #[error(transparent)]
    Documents(#[from] LogError),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Hooks {
    /// Waits for this node's turn from now on, and has `routes` answer while it lasts.
    ///
    /// # Errors
    /// [`ClusterError::Kafka`] if no client of the brokers can be made.
    pub fn start(means: Means, routes: Routes) -> Result<Self, ClusterError> {
        let turn = Arc::new(Turn::start(&means.log, "webhooks")?);
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(run(means, Arc::clone(&turn), routes, stopped));
        Ok(Self { turn, stop, running })
    }

    /// Ends deliveries under way, stores where every endpoint stands, and leaves the turn to another.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.running.await {
            tracing::error!(%error, "webhooks ended early; the next node goes on from what they had stored");
        }
        let turn = self.turn;
        // A panic there is logged there.
        drop(tokio::task::spawn_blocking(move || turn.stop()).await);
    }
}

async fn run(means: Means, turn: Arc<Turn>, routes: Routes, mut stop: watch::Receiver<bool>) {
    // An error means that whoever would stop it is gone, and then it shall stop, too.
    let mut stop = std::pin::pin!(async move { drop(stop.wait_for(|stop| *stop).await) });
    loop {
        let held = tokio::select! {
            () = &mut stop => return,
            held = turn.taken() => held,
        };
        let begun = tokio::select! {
            () = &mut stop => return,
            () = held.lost() => continue,
            begun = begin(&means, &held) => begun,
        };
        match begun {
            Ok((webhooks, router)) => {
                *routes.0.write() = Some(router);
                let stops = tokio::select! {
                    () = &mut stop => true,
                    () = held.lost() => false,
                };
                *routes.0.write() = None;
                webhooks.stop().await;
                tracing::info!("webhooks are another node's");
                if stops {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "webhooks can't begin; they are tried again");
                tokio::select! {
                    () = &mut stop => return,
                    () = held.lost() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

/// Makes this node's term the highest, and begins to deliver.
async fn begin(means: &Means, held: &Held) -> Result<(Webhooks, Router), TurnError> {
    let documents = Arc::new(CqlDocuments::new(Arc::clone(&means.store), Handle::current()));
    let heads = blocking(&documents, heads).await?;
    let term = held.claim(documents.newest_term()).await?;
    documents.begin(term);
    // Written again in this term, nobody who had the turn before can change them any more.
    let again: Vec<Change> = heads.into_iter().map(|(key, value)| Change::Put { key, value }).collect();
    blocking(&documents, move |documents| documents.write(&again)).await?;
    tracing::info!(term, "webhooks are this node's");
    let feed = Arc::new(TopicFeed::new(&means.log));
    Ok(Webhooks::start(&means.config, feed, documents, &means.merchants, &means.clock).await?)
}

/// What says how each endpoint is set and where it stands.
fn heads(documents: &CqlDocuments) -> Result<Vec<Entry>, LogError> {
    let mut all = Vec::new();
    for prefix in [model::endpoint_key(""), model::standing_key("")] {
        let mut after = None;
        loop {
            let page = documents.scan(&prefix, after.as_deref(), SCAN)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            all.extend(page);
        }
    }
    Ok(all)
}

async fn blocking<T: Send + 'static>(
    documents: &Arc<CqlDocuments>,
    work: impl FnOnce(&CqlDocuments) -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let documents = Arc::clone(documents);
    let done = tokio::task::spawn_blocking(move || work(&documents)).await;
    done.unwrap_or_else(|error| Err(LogError::Store(error.to_string())))
}
