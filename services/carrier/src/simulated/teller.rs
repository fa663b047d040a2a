//! What simulated carriers tell on their own: a shipment that they took is picked up, moves, and is delivered. As real
//! ones, they tell some of it twice and some of it out of order, and some by tracking number instead of shipment id.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet},
    future::Future,
    str::FromStr as _,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, Uri, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sluice_domain::ShipmentId;
use sluice_schemas::{delta::FIRST_RETURN, milestone::Milestone};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::Instant,
};

use super::{
    seeded::{Seeded, carrier_seed},
    tracking::tracking_number,
};
use crate::webhook::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};

/// Shipments under way at once; what is taken beyond it is delivered in silence.
pub const MAX_UNDER_WAY: usize = 256 << 10;
/// Events of one message.
const MESSAGE_EVENTS: usize = 500;
/// How long events gather for a message.
const GATHER: Duration = Duration::from_millis(20);
/// How long a message may take, and the pause before it is sent again.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(500);
/// Rate of events that are told twice, and of shipments of which two events are told in the wrong order.
const DISORDER: f64 = 0.1;
/// Rate of events that are told by tracking number.
const BY_NUMBER: f64 = 0.5;
/// How often a number that is not known is told again before the shipment id is told instead: it stays unknown if the answer
/// that had it was lost.
const UNKNOWN_TRIES: u8 = 5;
/// What is told of a shipment, in the order in which it happens.
const JOURNEY: [Milestone; 4] =
    [Milestone::PickedUp, Milestone::InTransit, Milestone::OutForDelivery, Milestone::Delivered];
/// What is told of goods that are brought back.
const WAY_BACK: [Milestone; 3] = [Milestone::PickedUp, Milestone::InTransit, Milestone::Returned];

/// Where carriers tell what they do.
#[derive(Debug, Clone)]
pub struct Telling {
    /// Base of Sluice's API; a carrier posts to `/v1/carriers/{id}/events` below it.
    url: Uri,
    /// What they sign with.
    pub secret: Secret,
    /// Time from one event of a shipment to the next.
    pub step: Duration,
}

impl Telling {
    /// Carriers that tell to the API at `url`, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// The URL, if it isn't one of that form.
    pub fn new(url: &str, secret: Secret, step: Duration) -> Result<Self, String> {
        let base = Uri::from_str(url.trim_end_matches('/')).ok().filter(|url| url.scheme_str() == Some("http"));
        let base = base.filter(|url| url.authority().is_some() && url.path() == "/" && url.query().is_none());
        let url = base.ok_or_else(|| format!("{url:?} is not of the form http://127.0.0.1:8080"))?;
        Ok(Self { url, secret, step })
    }
}

/// Events by what became of them, as `GET /stats` shows them.
#[derive(Debug, Default, Serialize)]
pub(super) struct Told {
    /// Taken, repetitions among them.
    events: AtomicU64,
    /// … of these, told by tracking number.
    by_number: AtomicU64,
    /// Answers that a number is not known; told again.
    unknown: AtomicU64,
    /// Refused for good: not sent again.
    refused: AtomicU64,
    /// Messages that had to be sent again.
    retries: AtomicU64,
    /// Shipments that were delivered in silence, for want of room.
    silent: AtomicU64,
}

/// A shipment that a carrier took.
struct Taken {
    carrier: Arc<str>,
    shipment: String,
}

/// The carriers' way to the teller.
#[derive(Clone)]
pub(super) struct Tells {
    to: Sender<Taken>,
    told: Arc<Told>,
    /// Shipments that were taken and not picked up: what can still be forgotten.
    waiting: Arc<Mutex<HashSet<String>>>,
}

impl Tells {
    /// Says that `carrier` took `shipment`.
    pub(super) fn taken(&self, carrier: &Arc<str>, shipment: &str) {
        let taken = Taken { carrier: Arc::clone(carrier), shipment: shipment.to_owned() };
        self.waiting.lock().insert(shipment.to_owned());
        if self.to.try_send(taken).is_err() {
            self.waiting.lock().remove(shipment);
            self.told.silent.fetch_add(1, Relaxed);
        }
    }

    /// Forgets `shipment`, of which nothing is told then; false if it is picked up already.
    pub(super) fn forget(&self, shipment: &str) -> bool {
        self.waiting.lock().remove(shipment)
    }

    pub(super) fn told(&self) -> &Told {
        &self.told
    }
}

/// One event to come: ordered by when it is due.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    /// What happened, by its place in the shipment's journey.
    step: usize,
    carrier: Arc<str>,
    shipment: Arc<str>,
    /// When it happened, ms since the Unix epoch.
    happened_ms: u64,
    again: bool,
    /// Nothing was told of the shipment before: until then it can be forgotten.
    first: bool,
    /// How often it may still be told by number; then, or if never, it is told by shipment id.
    by_number: u8,
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    shipment_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracking_number: Option<String>,
    milestone: &'static str,
    occurred_at: String,
}

impl Due {
    /// What has swapped its place happens later than it is told; nobody tells the future.
    fn event(&self, now_ms: u64) -> Event<'_> {
        let occurred_at = sluice_http::Timestamp(self.happened_ms.min(now_ms)).to_string();
        let tracking_number = (self.by_number > 0).then(|| tracking_number(&self.shipment));
        let shipment_id = tracking_number.is_none().then_some(&*self.shipment);
        Event { shipment_id, tracking_number, milestone: journey(&self.shipment)[self.step].name(), occurred_at }
    }
}

/// What becomes of a shipment.
fn journey(shipment: &str) -> &'static [Milestone] {
    let back = shipment.parse().is_ok_and(|id: ShipmentId| id.parcel >= FIRST_RETURN);
    if back { &WAY_BACK } else { &JOURNEY }
}

/// Tells what carriers do, from when the future is first polled until it is dropped.
pub(super) fn start(telling: Telling, seed: u64) -> (Tells, impl Future<Output = ()> + Send) {
    let (to, taken) = channel(64 << 10);
    let told = Arc::<Told>::default();
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let teller = Teller {
        telling,
        client: Client::builder(TokioExecutor::new()).build(connector),
        due: BinaryHeap::new(),
        draws: Seeded::new(carrier_seed(seed, "teller")),
        told: Arc::clone(&told),
        waiting: Arc::default(),
        messages: 0,
    };
    let waiting = Arc::clone(&teller.waiting);
    (Tells { to, told, waiting }, teller.run(taken))
}

struct Teller {
    telling: Telling,
    client: Client<HttpConnector, Full<Bytes>>,
    due: BinaryHeap<Reverse<Due>>,
    draws: Seeded,
    told: Arc<Told>,
    waiting: Arc<Mutex<HashSet<String>>>,
    messages: u64,
}

impl Teller {
    async fn run(mut self, mut taken: Receiver<Taken>) {
        loop {
            let next = self.due.peek().map(|Reverse(due)| due.at + GATHER);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                one = taken.recv() => match one {
                    Some(one) => self.plan(&one),
                    None => return,
                },
                () = due => self.tell().await,
            }
        }
    }

    fn plan(&mut self, taken: &Taken) {
        if self.due.len() >= MAX_UNDER_WAY * JOURNEY.len() {
            self.told.silent.fetch_add(1, Relaxed);
            self.waiting.lock().remove(&taken.shipment);
            return;
        }
        let (now, now_ms, shipment) = (Instant::now(), unix_ms(), Arc::<str>::from(taken.shipment.as_str()));
        let swapped = self.draws.unit() < DISORDER;
        for step in 0..journey(&shipment).len() {
            let after = |place: usize| self.telling.step * (place as u32 + 1);
            // Told at each other's time, but each with its own.
            let told_at = match step {
                1 if swapped => 2,
                2 if swapped => 1,
                step => step,
            };
            let happened_ms = now_ms + after(step).as_millis() as u64;
            let (carrier, shipment) = (Arc::clone(&taken.carrier), Arc::clone(&shipment));
            let again = self.draws.unit() < DISORDER;
            let by_number = if self.draws.unit() < BY_NUMBER { UNKNOWN_TRIES } else { 0 };
            let (at, first) = (now + after(told_at), step == 0);
            self.due.push(Reverse(Due { at, step, carrier, shipment, happened_ms, again, first, by_number }));
        }
    }

    /// Tells everything that is due by now, a message for each carrier at a time.
    async fn tell(&mut self) {
        let now = Instant::now();
        let mut messages: BTreeMap<Arc<str>, Vec<Due>> = BTreeMap::new();
        while self.due.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Some(Reverse(due)) = self.due.pop() else { break };
            // Picked up now, whatever is told first; or forgotten before.
            if due.first && !self.waiting.lock().remove(&*due.shipment) {
                self.due.retain(|Reverse(other)| other.shipment != due.shipment);
                continue;
            }
            let message = messages.entry(Arc::clone(&due.carrier)).or_default();
            message.push(due);
            if message.len() == MESSAGE_EVENTS {
                break;
            }
        }
        for (carrier, events) in messages {
            self.send(&carrier, events).await;
        }
    }

    async fn send(&mut self, carrier: &str, events: Vec<Due>) {
        self.messages += 1;
        // Unique over restarts, too.
        let id = format!("msg_{:x}_{}", unix_ms(), self.messages);
        let now_ms = unix_ms();
        let told: Vec<Event<'_>> = events.iter().map(|due| due.event(now_ms)).collect();
        let body = serde_json::json!({ "events": told }).to_string();
        let mut unknown = Vec::new();
        loop {
            match tokio::time::timeout(PATIENCE, self.exchange(carrier, &id, body.clone().into())).await {
                Ok(Some((status, results))) if status.is_success() => {
                    unknown = unknown_of(&results);
                    self.taken(&events, &unknown);
                    break;
                }
                Ok(Some((status, _))) if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                    tracing::warn!(carrier, %status, "what a simulated carrier tells is refused");
                    self.told.refused.fetch_add(events.len() as u64, Relaxed);
                    break;
                }
                _ => {
                    self.told.retries.fetch_add(1, Relaxed);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        for (index, due) in events.into_iter().enumerate() {
            if unknown.binary_search(&index).is_ok() {
                let by_number = due.by_number.saturating_sub(1);
                self.due.push(Reverse(Due { at: Instant::now() + AGAIN, by_number, first: false, ..due }));
            } else if due.again {
                let at = Instant::now() + self.telling.step;
                self.due.push(Reverse(Due { at, again: false, first: false, ..due }));
            }
        }
    }

    /// Counts events that were answered, of which these are about unknown numbers.
    fn taken(&self, events: &[Due], unknown: &[usize]) {
        let by_number = events.iter().filter(|due| due.by_number > 0).count().saturating_sub(unknown.len());
        self.told.events.fetch_add((events.len() - unknown.len()) as u64, Relaxed);
        self.told.by_number.fetch_add(by_number as u64, Relaxed);
        self.told.unknown.fetch_add(unknown.len() as u64, Relaxed);
    }

    async fn exchange(&self, carrier: &str, id: &str, body: Bytes) -> Option<(StatusCode, Bytes)> {
        let now_s = (unix_ms() / 1_000) as i64;
        let base = self.telling.url.to_string();
        let request = Request::post(format!("{}/v1/carriers/{carrier}/events", base.trim_end_matches('/')))
            .header(CONTENT_TYPE, "application/json")
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, now_s)
            .header(SIGNATURE_HEADER, self.telling.secret.sign(id, now_s, &body))
            .body(Full::new(body))
            .ok()?;
        let response = self.client.request(request).await.ok()?;
        let status = response.status();
        // Read to its end, so that the connection can be used again.
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    }
}

/// The events whose numbers an answer calls unknown, ascending.
fn unknown_of(answer: &[u8]) -> Vec<usize> {
    #[derive(Deserialize)]
    struct Results<'a> {
        #[serde(borrow)]
        results: Vec<One<'a>>,
    }
    #[derive(Deserialize)]
    struct One<'a> {
        index: usize,
        status: &'a str,
    }
    let read = serde_json::from_slice::<Results<'_>>(answer);
    let results = read.map(|read| read.results).unwrap_or_default();
    results.iter().filter(|one| one.status == "unknown").map(|one| one.index).collect()
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
