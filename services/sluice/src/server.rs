//! The HTTP server: a listener, and hyper's HTTP/1 connections straight on top of it.
//!
//! Connections are bounded: beyond the bound they wait in the listener's backlog. A slow client keeps its place for a bounded
//! time whatever it is slow at: the handshake, the head of a request, an idle connection, taking its answer ([`Patience`]).
//! Bodies have a timeout of their own where they are read.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics::{Counter, Gauge, counter, gauge};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
};

use crate::{patient::Patient, tls::Tls};

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the handshake of TLS.
    pub handshake: Duration,
    /// For the head of a request, from the end of the one before: so long may a connection be idle, too.
    pub head: Duration,
    /// For taking its answer, from the first byte that it doesn't take.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(10), head: Duration::from_secs(75), answer: Duration::from_secs(60) }
    }
}

/// How long what was sent may stay unacknowledged by the client's kernel, ms: then whoever followed has gone without a word.
const GONE_MS: u32 = 75_000;
/// Pause after a failed `accept`, such as for want of file descriptors, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a request's head, at most; also the size of a read, and so of a connection's buffer.
const HEAD_BYTES: usize = 64 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Connections at once; more wait.
    pub connections: u32,
    /// The certificate; without it HTTP is spoken in the clear.
    pub tls: Option<Arc<Tls>>,
    /// How long a client may take.
    pub patience: Patience,
}

/// A server at work.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    close: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    slots: Arc<Semaphore>,
    connections: u32,
}

impl Server {
    /// Takes `address` without listening yet, so that a server that can't have it fails before it has done any work.
    ///
    /// # Errors
    /// What the system says when the address can't be had.
    pub fn reserve(address: SocketAddr) -> std::io::Result<TcpSocket> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the last connections' time-wait.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    }

    /// Listens at a reserved address and serves `app`.
    ///
    /// # Errors
    /// What the system says when somebody else has come first.
    pub fn start(reserved: TcpSocket, app: Router, serving: Serving) -> std::io::Result<Self> {
        let Serving { connections, tls, patience } = serving;
        let listener = reserved.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let slots = Arc::new(Semaphore::new(connections as usize));
        let (close, closing) = watch::channel(false);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let host = Host { app, tls, patience, closing };
        let accepting = tokio::spawn(accept(listener, host, Arc::clone(&slots)));
        Ok(Self { address, scheme, close, accepting, slots, connections })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is reached.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Takes no further connection, lets every open one finish the request it is at, and waits for that at most `grace`.
    pub async fn stop(self, grace: Duration) {
        self.close.send_replace(true);
        // Every slot is free again once every connection has ended.
        let all = self.slots.acquire_many(self.connections);
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::info!("connections were still busy at the end of the grace period");
        }
        self.accepting.abort();
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Host {
    app: Router,
    tls: Option<Arc<Tls>>,
    patience: Patience,
    closing: watch::Receiver<bool>,
}

async fn accept(listener: TcpListener, host: Host, slots: Arc<Semaphore>) {
    let mut closing = host.closing.clone();
    let accepted = counter!("sluice_http_connections_total");
    let open = gauge!("sluice_http_connections");
    loop {
        let slot = tokio::select! {
            biased;
            _ = closing.changed() => return,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { return };
        let stream = tokio::select! {
            biased;
            _ = closing.changed() => return,
            stream = listener.accept() => stream,
        };
        match stream {
            Ok((stream, _)) => {
                let guard = Open::new(&accepted, &open, slot);
                tokio::spawn(host.clone().welcome(stream, guard));
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// An open connection's share: counted while it lives.
struct Open {
    open: Gauge,
    _slot: OwnedSemaphorePermit,
}

impl Open {
    fn new(accepted: &Counter, open: &Gauge, slot: OwnedSemaphorePermit) -> Self {
        accepted.increment(1);
        open.increment(1.0);
        Self { open: open.clone(), _slot: slot }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

impl Host {
    async fn welcome(mut self, stream: TcpStream, open: Open) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, GONE_MS) {
            tracing::debug!(%error, "TCP_USER_TIMEOUT was refused");
        }
        let Some(tls) = &self.tls else { return self.serve(stream, open).await };
        let handshake = tokio::time::timeout(self.patience.handshake, tls.acceptor().accept(stream));
        let shaken = tokio::select! {
            biased;
            shaken = handshake => shaken,
            _ = self.closing.changed() => return,
        };
        match shaken {
            Ok(Ok(stream)) => Box::pin(self.serve(stream, open)).await,
            Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
            Err(_) => tracing::debug!("a handshake took too long"),
        }
    }

    async fn serve<S>(mut self, stream: S, _open: Open)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = Patient::new(stream, self.patience.answer);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.patience.head)
            .max_buf_size(HEAD_BYTES)
            // The buffer may grow beyond its size a little.
            .max_header_size(HEAD_BYTES)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.app));
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            _ = self.closing.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
