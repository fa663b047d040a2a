//! One attempt over HTTP, and what its end means. Never repeats by itself what may have arrived, but for a connection that was
//! kept and turns out to be closed.

use std::{
    collections::HashMap,
    error::Error,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use openssl::{
    error::ErrorStack,
    ssl::{SslConnector, SslMethod, SslVersion},
};
use parking_lot::Mutex;
use sluice_http::{
    retry_after::retry_after_ms,
    webhook::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_openssl::SslStream;

use crate::{
    config::WebhookConfig,
    core::Outcome,
    guard::{Guard, Refused, Resolver, Target},
};

/// Bytes of an answer's body that are read, so that its connection can be kept; nothing is done with them.
const MAX_BODY: usize = 64 << 10;
/// How long those bytes may take.
const BODY_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of an answer's head.
const MAX_HEAD: usize = 32 << 10;
/// Addresses that are tried, one after the other.
const ADDRESSES: usize = 3;
/// A connection unused for this long is closed: many servers close theirs after 5 s.
const IDLE: Duration = Duration::from_secs(4);
/// A connection is kept this long at most: then its name is resolved and checked anew.
const LIFE: Duration = Duration::from_secs(60);

/// What is posted.
#[derive(Debug, Clone)]
pub struct Post {
    /// Which endpoint's connections may be used.
    pub endpoint: Arc<str>,
    /// Where to.
    pub target: Arc<Target>,
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`, seconds since the Unix epoch.
    pub at_s: i64,
    /// `webhook-signature`.
    pub signatures: String,
    /// JSON.
    pub body: Bytes,
}

type Sender = SendRequest<Full<Bytes>>;

/// A connection that was kept.
struct Kept {
    sender: Sender,
    target: Arc<Target>,
    opened: Instant,
    used: Instant,
}

/// Posts to endpoints; shared by all attempts.
pub struct Caller {
    guard: Guard,
    resolver: Arc<dyn Resolver>,
    tls: SslConnector,
    timeout: Duration,
    /// By endpoint; as many as were used at once.
    kept: Mutex<HashMap<Arc<str>, Vec<Kept>>>,
}

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("can't connect: {0}")]
    Connect(std::io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("{}", chain(.0))]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
}

impl Caller {
    /// A caller that trusts the system's certificate authorities.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub fn new(config: &WebhookConfig, resolver: Arc<dyn Resolver>) -> Result<Self, ErrorStack> {
        Self::trusting(config, resolver, |_| Ok(()))
    }

    /// … and what `more` adds to them.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub fn trusting(
        config: &WebhookConfig,
        resolver: Arc<dyn Resolver>,
        more: impl FnOnce(&mut openssl::ssl::SslConnectorBuilder) -> Result<(), ErrorStack>,
    ) -> Result<Self, ErrorStack> {
        // The builder verifies certificates and names unless it is told not to.
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        builder.set_alpn_protos(b"\x08http/1.1")?;
        more(&mut builder)?;
        let (guard, timeout) = (config.guard.clone(), config.timeout);
        Ok(Self { guard, resolver, tls: builder.build(), timeout, kept: Mutex::default() })
    }

    /// Posts, and says what came of it. `now_ms` is the time, ms since the Unix epoch.
    pub async fn post(&self, post: &Post, now_ms: u64) -> Outcome {
        match tokio::time::timeout(self.timeout, self.exchange(post)).await {
            Ok(Ok(response)) => self.understand(post, response, now_ms).await,
            Ok(Err(error)) => Outcome::Failed(None, error.to_string()),
            Err(_) => Outcome::Failed(None, format!("no answer within {} s", self.timeout.as_secs_f64())),
        }
    }

    async fn exchange(&self, post: &Post) -> Result<(Response<Incoming>, Kept), CallError> {
        if let Some(mut kept) = self.take(post) {
            // Its other side may be closing it at this moment. Whatever arrived has the id of what is sent again.
            if let Ok(response) = kept.sender.send_request(request(post)?).await {
                return Ok((response, kept));
            }
        }
        let mut sender = self.connect(&post.target).await?;
        let response = sender.send_request(request(post)?).await?;
        let now = Instant::now();
        Ok((response, Kept { sender, target: Arc::clone(&post.target), opened: now, used: now }))
    }

    /// A kept connection of this endpoint to this very target.
    fn take(&self, post: &Post) -> Option<Kept> {
        let mut kept = self.kept.lock();
        let all = kept.get_mut(&post.endpoint)?;
        let good = |kept: &Kept| {
            kept.target == post.target
                && kept.sender.is_ready()
                && kept.used.elapsed() < IDLE
                && kept.opened.elapsed() < LIFE
        };
        all.retain(good);
        all.pop()
    }

    /// Closes kept connections that nobody has used for a while. To be called now and then.
    pub fn close_unused(&self) {
        self.kept.lock().retain(|_, all| {
            all.retain(|kept| kept.used.elapsed() < IDLE && !kept.sender.is_closed());
            !all.is_empty()
        });
    }

    /// Connects to one of the addresses that were checked, and to no other.
    async fn connect(&self, target: &Target) -> Result<Sender, CallError> {
        let addresses = self.guard.admit(target, &*self.resolver).await?;
        let stream = first_that_connects(&addresses, target.port, self.timeout).await.map_err(CallError::Connect)?;
        stream.set_nodelay(true).map_err(CallError::Connect)?;
        if target.tls { handshake(self.secure(target, stream).await?).await } else { handshake(stream).await }
    }

    async fn secure(&self, target: &Target, stream: TcpStream) -> Result<SslStream<TcpStream>, CallError> {
        let failed = |error: &dyn Error| CallError::Tls(chain(error));
        let ssl = self.tls.configure().and_then(|tls| tls.into_ssl(&target.host)).map_err(|error| failed(&error))?;
        let mut stream = SslStream::new(ssl, stream).map_err(|error| failed(&error))?;
        Pin::new(&mut stream).connect().await.map_err(|error| failed(&error))?;
        Ok(stream)
    }

    async fn understand(&self, post: &Post, (response, kept): (Response<Incoming>, Kept), now_ms: u64) -> Outcome {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| retry_after_ms(value, now_ms));
        let body = Limited::new(response.into_body(), MAX_BODY).collect();
        if let Ok(Ok(_)) = tokio::time::timeout(BODY_PATIENCE, body).await {
            self.keep(&post.endpoint, kept);
        }
        let code = status.as_u16();
        match (status, retry_after) {
            (status, _) if status.is_success() => Outcome::Taken(code),
            (StatusCode::GONE, _) => Outcome::Gone,
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Some(ms)) => Outcome::Busy(code, ms),
            (status, _) if status.is_redirection() => Outcome::Failed(
                Some(code),
                format!("status {code}: redirects are not followed; set the URL they lead to"),
            ),
            _ => Outcome::Failed(Some(code), format!("status {code}")),
        }
    }

    fn keep(&self, endpoint: &Arc<str>, mut kept: Kept) {
        kept.used = Instant::now();
        if !kept.sender.is_closed() {
            self.kept.lock().entry(Arc::clone(endpoint)).or_default().push(kept);
        }
    }
}

fn request(post: &Post) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    Request::builder()
        .method(Method::POST)
        .uri(&post.target.path)
        .header(HOST, &post.target.authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
        .header(ID_HEADER, &post.id)
        .header(TIMESTAMP_HEADER, post.at_s)
        .header(SIGNATURE_HEADER, &post.signatures)
        .body(Full::new(post.body.clone()))
}

async fn first_that_connects(addresses: &[IpAddr], port: u16, timeout: Duration) -> std::io::Result<TcpStream> {
    let mut failure = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    let tried = addresses.len().min(ADDRESSES);
    let share = timeout / (tried as u32 + 1);
    for address in &addresses[..tried] {
        match tokio::time::timeout(share, TcpStream::connect((*address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = std::io::ErrorKind::TimedOut.into(),
        }
    }
    // What the system says may name the address, which is nobody's business but the merchant's; its kind says enough.
    Err(failure.kind().into())
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<Sender, CallError> {
    let (sender, connection) = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    // Ends when the sender is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a webhook endpoint ended early");
        }
    });
    Ok(sender)
}

/// An error with all its causes: the outermost alone says little.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
