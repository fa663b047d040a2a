//! The HTTP server: a listener, and hyper's HTTP/1 connections straight on top of it.
//!
//! Connections are bounded: beyond the bound they wait in the listener's backlog. A client that takes too long over the
//! head of a request, or keeps a connection idle for as long, is disconnected; so is one that takes nothing of an answer or
//! of a stream of events, or has gone without a word. Bodies have a timeout of their own, in checkout.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics::{Counter, Gauge, counter, gauge};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
};

/// Longest time for the head of a request, and longest time that a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// How long what was sent may stay unacknowledged by the client's kernel, or unsent because the client takes nothing, ms.
const TAKE_TIMEOUT_MS: u32 = 75_000;
/// Pause after a failed `accept`, such as for want of file descriptors, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a request's head, at most; also the size of a read, and so of a connection's buffer.
const HEAD_BYTES: usize = 64 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// A server at work.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
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

    /// Listens at a reserved address and serves `app` on at most `connections` connections.
    ///
    /// # Errors
    /// What the system says when somebody else has come first.
    pub fn start(reserved: TcpSocket, app: Router, connections: u32) -> std::io::Result<Self> {
        let listener = reserved.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let slots = Arc::new(Semaphore::new(connections as usize));
        let (close, closing) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, app, Arc::clone(&slots), closing));
        Ok(Self { address, close, accepting, slots, connections })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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

async fn accept(listener: TcpListener, app: Router, slots: Arc<Semaphore>, mut closing: watch::Receiver<bool>) {
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
                tokio::spawn(connection(stream, app.clone(), guard, closing.clone()));
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

async fn connection(stream: TcpStream, app: Router, _open: Open, mut closing: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, TAKE_TIMEOUT_MS) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT was refused");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .half_close(false)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        _ = closing.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
