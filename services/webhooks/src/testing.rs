//! A feed, documents and a receiver for tests: in memory, on loopback, and as bad as a test wants them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use sluice_domain::OrderId;
use sluice_pipeline::{
    BoxFuture, Change, Clock, Cursor, Documents, Feed, FeedError, FeedEvent, FeedPage, LogError, documents::Entry,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
};

/// Documents in memory.
#[derive(Debug, Default)]
pub struct MemoryDocuments {
    all: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// While true nothing can be written.
    pub full: AtomicBool,
}

impl Documents for MemoryDocuments {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.all.lock().get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, max: usize) -> Result<Vec<Entry>, LogError> {
        let all = self.all.lock();
        let behind = all.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        let behind = behind.filter(|(key, _)| after.is_none_or(|after| key.as_slice() > after));
        Ok(behind.take(max).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn write(&self, changes: &[Change]) -> Result<(), LogError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(LogError::Store("full".to_owned()));
        }
        let mut all = self.all.lock();
        for change in changes {
            match change {
                Change::Put { key, value } => drop(all.insert(key.clone(), value.clone())),
                Change::Delete { key } => drop(all.remove(key)),
            }
        }
        Ok(())
    }
}

/// Events of one stream.
#[derive(Debug)]
pub struct MemoryFeed {
    events: Mutex<Vec<FeedEvent>>,
    grown: watch::Sender<usize>,
    /// The oldest position that is kept.
    pub oldest: Mutex<u64>,
    /// While true nothing can be read.
    pub broken: AtomicBool,
    /// The first position from which anybody has read.
    pub first_read: AtomicU64,
}

impl Default for MemoryFeed {
    fn default() -> Self {
        Self {
            events: Mutex::default(),
            grown: watch::Sender::new(0),
            oldest: Mutex::default(),
            broken: AtomicBool::new(false),
            first_read: AtomicU64::new(u64::MAX),
        }
    }
}

impl MemoryFeed {
    /// Appends an event about an order and gives its id.
    pub fn tell(&self, merchant: &str, order: u128, kind: &'static str, at_ms: u64) -> String {
        let mut events = self.events.lock();
        let position = events.len() as u64;
        let sequence = events.iter().filter(|event| event.order == OrderId(order)).count() as u64;
        let id = format!("{position:032x}");
        events.push(FeedEvent {
            order: OrderId(order),
            merchant: merchant.to_owned(),
            id: id.clone(),
            kind,
            sequence,
            at_ms,
            data: format!("{{\"n\":{position}}}").into_bytes(),
            next: Cursor(vec![position + 1]),
        });
        self.grown.send_replace(events.len());
        id
    }
}

impl Feed for MemoryFeed {
    fn bounds(&self) -> BoxFuture<'_, Result<(Cursor, Cursor), FeedError>> {
        Box::pin(async {
            if self.broken.load(Ordering::Relaxed) {
                return Err(FeedError::Unavailable("broken".to_owned()));
            }
            Ok((Cursor(vec![*self.oldest.lock()]), Cursor(vec![self.events.lock().len() as u64])))
        })
    }

    /// Events are decided when they happen; the cursor is that of the first one that isn't earlier.
    fn since(&self, at_ms: u64) -> BoxFuture<'_, Result<Cursor, FeedError>> {
        Box::pin(async move {
            let (oldest, _) = self.bounds().await?;
            let events = self.events.lock();
            let first = events.iter().position(|event| event.at_ms >= at_ms).unwrap_or(events.len()) as u64;
            Ok(Cursor(vec![first.max(oldest.0[0])]))
        })
    }

    fn read(&self, after: Cursor, max: usize, wait: Duration) -> BoxFuture<'_, Result<FeedPage, FeedError>> {
        Box::pin(async move {
            if self.broken.load(Ordering::Relaxed) {
                return Err(FeedError::Unavailable("broken".to_owned()));
            }
            let [from] = after.0[..] else { return Err(FeedError::Unknown("one position".to_owned())) };
            let oldest = *self.oldest.lock();
            if from < oldest {
                return Err(FeedError::Expired { oldest: Cursor(vec![oldest]) });
            }
            self.first_read.fetch_min(from, Ordering::Relaxed);
            let mut grown = self.grown.subscribe();
            let more = grown.wait_for(|events| *events as u64 > from);
            let _ = tokio::time::timeout(wait, more).await;
            let events: Vec<_> = self.events.lock().iter().skip(from as usize).take(max).cloned().collect();
            Ok(FeedPage { next: events.last().map_or(after, |event| event.next.clone()), events })
        })
    }
}

/// The machine's time.
#[derive(Debug)]
pub struct RealClock(Instant);

impl Default for RealClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for RealClock {
    fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
    }

    fn monotonic_us(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A post that arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Its path.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// When it arrived.
    pub at: Instant,
}

impl Arrived {
    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What a receiver answers: a status and headers; never, if there is no status.
pub type Reply = (Option<u16>, Vec<(&'static str, String)>);

#[derive(Default)]
struct Inbox {
    arrived: Vec<Arrived>,
    replies: VecDeque<Reply>,
    otherwise: Option<Reply>,
}

/// Takes posts on loopback.
#[derive(Clone)]
pub struct Receiver {
    address: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
    count: watch::Sender<usize>,
}

impl Receiver {
    /// A receiver at a free port of `ip`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn start(ip: &str) -> std::io::Result<Self> {
        let (receiver, listener) = Self::bind(ip).await?;
        let serving = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        Ok(receiver)
    }

    /// A receiver and its listener, for who serves connections in a way of its own.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(ip: &str) -> std::io::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind((ip, 0)).await?;
        let address = listener.local_addr()?;
        Ok((Self { address, inbox: Arc::default(), count: watch::Sender::new(0) }, listener))
    }

    /// Serves one connection.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let service = service_fn(|request| self.clone().answer(request));
        drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let (status, headers) = {
            let mut inbox = self.inbox.lock();
            inbox.arrived.push(Arrived { path: head.uri.to_string(), headers: head.headers, body, at: Instant::now() });
            self.count.send_replace(inbox.arrived.len());
            let otherwise = inbox.otherwise.clone().unwrap_or((Some(204), Vec::new()));
            inbox.replies.pop_front().unwrap_or(otherwise)
        };
        let Some(status) = status else { return std::future::pending().await };
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
        for (name, value) in headers {
            if let Ok(value) = value.parse() {
                response.headers_mut().insert(name, value);
            }
        }
        Ok(response)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    /// Answers the next posts like this, in order.
    pub fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.inbox.lock().replies.extend(replies);
    }

    /// Answers all others like this; 204 unless it is said.
    pub fn otherwise(&self, reply: Reply) {
        self.inbox.lock().otherwise = Some(reply);
    }

    /// What has arrived.
    #[must_use]
    pub fn arrived(&self) -> Vec<Arrived> {
        self.inbox.lock().arrived.clone()
    }

    /// Waits until at least so many have arrived, and gives them; whatever there is after half a minute.
    pub async fn wait_for(&self, count: usize) -> Vec<Arrived> {
        let mut counts = self.count.subscribe();
        let _ = tokio::time::timeout(Duration::from_secs(30), counts.wait_for(|arrived| *arrived >= count)).await;
        self.arrived()
    }
}
