//! Simulated carriers that speak real HTTP, so that demos, tests and benchmarks need no real ones.
//!
//! One process and one listener serve any number of carriers:
//!
//! | request | answer |
//! |---|---|
//! | `POST /carriers/{id}/manifests` | a signed manifest → results, shipment by shipment, or whatever the [`Behaviour`] says |
//! | `POST /control/carriers/{id}` | a JSON object of [`Behaviour`] keys → the new behaviour, from the next manifest on |
//! | `GET /stats` | counts per carrier, open connections, answers remembered |
//! | `GET /healthz` | `ok` |
//!
//! Signatures are checked first (401), then the JSON (400); only then chance decides. Effects go to the ledger (format:
//! the [`ledger`] module) before the answer leaves; [`Ledger`] reads it back and judges. The control
//! endpoint asks for no credentials: bind the listener to loopback.
//!
//! Started on an existing ledger, idempotent carriers recall what they answered. A ledger that can't be written ends
//! [`serve`]: carriers whose effects leave no trace are worse than none.
//!
//! It is meant to be cheap: a request costs one pass for the signature, one for the JSON, and one write. Run it on a
//! current-thread runtime if it shares the machine with what it is measuring.

mod answers;
mod behaviour;
mod carrier;
mod http;
mod judge;
pub mod ledger;
mod manifest;
mod seeded;
#[cfg(test)]
mod socket_tests;
#[cfg(test)]
mod speed_tests;
mod teller;
mod tracking;

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

pub use answers::MAX_REMEMBERED;
pub use behaviour::{Behaviour, BehaviourError, CarrierSpec};
pub use carrier::CarrierCounts;
pub use http::MAX_BODY_BYTES;
pub use judge::{DuplicateEffect, Ledger, LedgerTotals, ShipmentEffects};
pub use ledger::{Effect, LedgerError};
pub use manifest::{MAX_ID_BYTES, MAX_SHIPMENTS};
pub use teller::Telling;
pub use tracking::{is_s10, tracking_number};

use crate::webhook::Secret;
use carrier::Carrier;
use http::Reset;
use ledger::LedgerWriter;
use teller::{Tells, Told};

/// Most connections served at once; more wait in the listener's backlog.
pub const MAX_CONNECTIONS: usize = 1024;
/// How long requests under way may go on after the shutdown was asked for.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed `accept`, such as for want of file descriptors, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What to simulate.
#[derive(Debug, Clone)]
pub struct SimulatedConfig {
    /// The carriers, ids unique.
    pub carriers: Vec<SimulatedCarrier>,
    /// The ledger file: created, or continued if it exists.
    pub ledger: PathBuf,
    /// Everything drawn by chance follows from this and the carriers' ids.
    pub seed: u64,
    /// Where carriers tell what becomes of the shipments that they took; nowhere if absent.
    pub tells: Option<Telling>,
}

/// One carrier to simulate.
#[derive(Debug, Clone)]
pub struct SimulatedCarrier {
    /// Its id in paths and in the ledger: 1 to 64 visible ASCII characters without `"`, `\` and `/`.
    pub id: String,
    /// What its manifests have to be signed with.
    pub secret: Secret,
    /// How it behaves at first.
    pub behaviour: Behaviour,
}

/// Why the simulation could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum SimulatedError {
    /// An id that can't stand in a path or a ledger column, or that two carriers share.
    #[error("carrier id {0:?} is given twice, or is not 1 to 64 visible ASCII characters without \", \\ and /")]
    CarrierId(String),
    /// A behaviour that contradicts itself.
    #[error("carrier {id:?}: {source}")]
    Behaviour {
        /// The carrier.
        id: String,
        /// What is wrong with it.
        source: BehaviourError,
    },
    /// The ledger can't be read at the start or written later.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The listener can't be used.
    #[error("listener: {0}")]
    Listener(#[from] io::Error),
}

/// The body of `GET /stats`.
#[derive(Debug, Serialize)]
struct Stats<'a> {
    carriers: BTreeMap<&'a str, CarrierCounts>,
    connections: usize,
    remembered: u64,
    /// What they told; absent if they tell nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<&'a Told>,
}

/// Everything that connections share.
struct Simulator {
    carriers: HashMap<String, Carrier>,
    ledger: LedgerWriter,
    remembered: AtomicU64,
    connections: AtomicUsize,
    tells: Option<Tells>,
    failed: mpsc::Sender<LedgerError>,
}

impl Simulator {
    fn new(
        config: SimulatedConfig,
        tells: Option<Tells>,
        failed: mpsc::Sender<LedgerError>,
    ) -> Result<Self, SimulatedError> {
        let mut carriers = HashMap::new();
        for SimulatedCarrier { id, secret, behaviour } in config.carriers {
            if !manifest::is_id(&id) || id.contains('/') || carriers.contains_key(&id) {
                return Err(SimulatedError::CarrierId(id));
            }
            if let Err(source) = behaviour.check() {
                return Err(SimulatedError::Behaviour { id, source });
            }
            let mut carrier = Carrier::new(id.clone(), secret, behaviour, config.seed);
            carrier.tells = tells.clone();
            carriers.insert(id, carrier);
        }
        let remembered = AtomicU64::new(0);
        let ledger = LedgerWriter::open(&config.ledger, |line| {
            if let Some(carrier) = carriers.get(line.carrier) {
                carrier.recall(&line, &remembered);
            }
        })?;
        Ok(Self { carriers, ledger, remembered, connections: AtomicUsize::new(0), tells, failed })
    }

    fn stats(&self) -> Stats<'_> {
        Stats {
            carriers: self.carriers.iter().map(|(id, carrier)| (id.as_str(), carrier.counts())).collect(),
            connections: self.connections.load(Ordering::Relaxed),
            remembered: self.remembered.load(Ordering::Relaxed),
            told: self.tells.as_ref().map(Tells::told),
        }
    }

    fn fail(&self, error: LedgerError) {
        tracing::error!(%error, "the ledger can't be written");
        // One failure is enough to end it all; others find the channel full.
        let _ = self.failed.try_send(error);
    }
}

/// Serves the carriers on `listener` until `shutdown` completes; requests under way then have [`SHUTDOWN_GRACE`] left.
///
/// Runs on the caller's runtime, whose timer and I/O must be enabled. Ledger writes are done in place: they go to the page
/// cache and take microseconds.
///
/// # Errors
/// At the start: a bad configuration, or a ledger that can't be opened or read. Later: a ledger that can't be written.
pub async fn serve(
    listener: std::net::TcpListener,
    config: SimulatedConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), SimulatedError> {
    let (failed, mut failures) = mpsc::channel(1);
    // Dropped, and so ended, with this call.
    let mut telling = JoinSet::new();
    let tells = config.tells.clone().map(|to| {
        let (tells, teller) = teller::start(to, config.seed);
        telling.spawn(teller);
        tells
    });
    let simulator = Arc::new(Simulator::new(config, tells, failed)?);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (close, closing) = watch::channel(());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    tracing::info!(carriers = simulator.carriers.len(), "simulated carriers are ready");
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(error) = failures.recv() => return Err(error.into()),
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &slots) => {
                if let Some((stream, slot)) = accepted {
                    let open = Open::new(Arc::clone(&simulator), slot);
                    connections.spawn(connection(stream, open, closing.clone()));
                }
            }
        }
    }
    drop(listener);
    drop(close);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_GRACE, drained).await.is_err() {
        tracing::info!("connections were still busy at the end of the grace period");
    }
    // A failure in the last requests still counts.
    failures.try_recv().map_or(Ok(()), |error| Err(error.into()))
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            tracing::warn!(%error, "accept failed");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// An open connection's share: counted while it lives.
struct Open {
    simulator: Arc<Simulator>,
    _slot: OwnedSemaphorePermit,
}

impl Open {
    fn new(simulator: Arc<Simulator>, slot: OwnedSemaphorePermit) -> Self {
        simulator.connections.fetch_add(1, Ordering::Relaxed);
        Self { simulator, _slot: slot }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.simulator.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection, any number of requests. `closing` changes (its sender is dropped) when no more should be taken.
async fn connection(stream: TcpStream, open: Open, mut closing: watch::Receiver<()>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let service = service_fn(|request| {
        let simulator = Arc::clone(&open.simulator);
        async move { http::respond(&simulator, request).await }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut taking = true;
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut connection => break ended,
            _ = closing.changed(), if taking => {
                taking = false;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let Err(error) = ended else { return };
    if error.source().is_some_and(|source| source.is::<Reset>()) {
        // With a linger time of zero, closing sends RST instead of FIN, and what was buffered is thrown away.
        let stream = connection.into_parts().io.into_inner();
        if let Err(error) = stream.set_zero_linger() {
            tracing::warn!(%error, "a reset will look like an orderly end");
        }
    } else {
        tracing::debug!(%error, "a connection ended early");
    }
}
