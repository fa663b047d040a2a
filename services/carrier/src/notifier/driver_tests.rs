//! The driver over real sockets, against a carrier that answers byte by byte what a test tells it to.

use std::{
    collections::VecDeque,
    future::Future,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hyper::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluice_pipeline::{HealthBoard, LogError, Outbox, OutboxBatch, OutcomeReport, Outcomes};
use sluice_schemas::outcome::OutcomeKind::{self, Accepted, GivenUp, Rejected, Unknown};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::{
    Backoff, BreakerConfig, Driver, Endpoint, Notifier, NotifierConfig, Summary,
    testing::{RealClock, batch, shipment},
};
use crate::webhook::Secret;

/// What the carrier does with one request.
#[derive(Debug, Clone)]
enum Reply {
    /// Accepts everything.
    Accept,
    /// Accepts the first so many and rejects the rest but the last, which it doesn't mention.
    Partly(usize),
    /// These bytes, then the connection goes on.
    Raw(String),
    /// The answer of `Accept`, so many bytes at a time, without end if there are none.
    Trickle(usize),
    /// Closes the connection with a reset.
    Reset,
    /// Never answers.
    Hang,
}

fn status(line: &str, headers: &str) -> Reply {
    Reply::Raw(format!("HTTP/1.1 {line}\r\n{headers}content-length: 0\r\n\r\n"))
}

struct Carrier {
    secret: Secret,
    script: Mutex<VecDeque<Reply>>,
    /// When each manifest came, its id, and what it named.
    seen: Mutex<Vec<(Instant, String, Vec<String>)>>,
    came: Notify,
}

impl Carrier {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(Arc::clone(&self).connection(stream));
        }
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        let mut read = Vec::new();
        loop {
            let Some(body) = self.request(&mut stream, &mut read).await else { return };
            let shipments: Vec<_> = body["shipments"].as_array().unwrap().iter().map(|s| &s["shipment_id"]).collect();
            let ids = shipments.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
            self.seen.lock().push((Instant::now(), body["manifest_id"].as_str().unwrap().to_owned(), ids));
            self.came.notify_one();
            let reply = self.script.lock().pop_front().unwrap_or(Reply::Accept);
            let result = |id, outcome| json!({"shipment_id": id, "outcome": outcome, "tracking_number": "T1"});
            let ok = |results: Vec<Value>| {
                let body = json!({ "results": results }).to_string();
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            };
            let accepted = ok(shipments.iter().map(|id| result(id, "accepted")).collect());
            match reply {
                Reply::Accept => stream.write_all(accepted.as_bytes()).await.unwrap(),
                Reply::Partly(n) => {
                    let kind = |at| if at < n { "accepted" } else { "rejected" };
                    let mut results: Vec<_> =
                        shipments.iter().enumerate().map(|(at, id)| result(id, kind(at))).collect();
                    results.pop();
                    stream.write_all(ok(results).as_bytes()).await.unwrap();
                }
                Reply::Raw(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                Reply::Trickle(0) => loop {
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    if stream.write_all(head.as_bytes()).await.is_err() {
                        return;
                    }
                    std::future::pending::<()>().await;
                },
                Reply::Trickle(bytes) => {
                    for drop in accepted.as_bytes().chunks(bytes) {
                        stream.write_all(drop).await.unwrap();
                        stream.flush().await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
                Reply::Reset => return stream.set_zero_linger().unwrap(),
                Reply::Hang => std::future::pending().await,
            }
        }
    }

    /// Reads one signed request.
    async fn request(&self, stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Value> {
        let end = loop {
            if let Some(at) = read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(read).await.unwrap_or(0) == 0 {
                return None;
            }
        };
        let head = String::from_utf8(read[..end].to_vec()).unwrap();
        let mut headers = HeaderMap::new();
        for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name.parse::<hyper::header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        assert!(head.starts_with("POST /manifests?carrier=acme HTTP/1.1\r\n"), "{head}");
        assert_eq!(headers["content-type"], "application/json");
        let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
        while read.len() < end + length {
            if stream.read_buf(read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        let body = &read[end..end + length];
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        self.secret.verify_headers(&headers, body, now_s).unwrap();
        let value: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(headers["webhook-id"], value["manifest_id"].as_str().unwrap());
        read.drain(..end + length);
        Some(value)
    }

    fn ids(&self) -> Vec<String> {
        self.seen.lock().iter().map(|(_, id, _)| id.clone()).collect()
    }
}

#[derive(Default)]
struct Shared {
    waiting: VecDeque<OutboxBatch>,
    closed: bool,
    settled: Option<u64>,
    mark: u64,
    marks_asked: u32,
    /// A mark becomes durable, without anybody being woken, after so many looks at it.
    mark_lag: u32,
    marking: Option<(u64, u32)>,
    waker: Option<Waker>,
}

/// An outbox in memory.
struct MemoryOutbox(Arc<Mutex<Shared>>);

impl Outbox for MemoryOutbox {
    fn poll_entries(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        out: &mut OutboxBatch,
    ) -> Poll<Result<usize, LogError>> {
        let mut shared = self.0.lock();
        let Some(front) = shared.waiting.front_mut() else {
            if shared.closed {
                return Poll::Ready(Err(LogError::Closed));
            }
            shared.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let rest = front.entries.split_off(max.min(front.entries.len()));
        out.bytes.extend_from_slice(&front.bytes);
        out.entries.append(&mut front.entries);
        front.entries = rest;
        if front.entries.is_empty() {
            shared.waiting.pop_front();
        }
        Poll::Ready(Ok(out.entries.len()))
    }
    fn settled(&mut self, position: u64) {
        let mut shared = self.0.lock();
        assert!(shared.settled < Some(position));
        shared.settled = Some(position);
    }
    fn mark_sending(&mut self, position: u64) {
        let mut shared = self.0.lock();
        shared.marks_asked += 1;
        shared.marking = Some((position, shared.mark_lag));
    }
    fn sending_mark(&self) -> u64 {
        let mut shared = self.0.lock();
        match shared.marking {
            Some((position, 0)) => (shared.mark, shared.marking) = (position, None),
            Some((position, looks)) => shared.marking = Some((position, looks - 1)),
            None => {}
        }
        shared.mark
    }
}

/// Takes a few outcomes at a time.
#[derive(Default)]
struct MemoryOutcomes {
    taken: Mutex<Vec<OutcomeReport>>,
    more: Notify,
}

impl Outcomes for MemoryOutcomes {
    fn report(&self, cx: &mut Context<'_>, reports: &mut Vec<OutcomeReport>) {
        let some = reports.len().div_ceil(2);
        self.taken.lock().extend(reports.drain(..some));
        self.more.notify_one();
        cx.waker().wake_by_ref();
    }
}

struct World {
    carrier: Arc<Carrier>,
    outbox: Arc<Mutex<Shared>>,
    outcomes: Arc<MemoryOutcomes>,
    health: Arc<HealthBoard>,
    stop: Arc<Notify>,
    driver: tokio::task::JoinHandle<Result<Summary, LogError>>,
}

fn quick(idempotent: bool) -> NotifierConfig {
    NotifierConfig {
        manifest_shipments: 10,
        call_timeout: Duration::from_millis(300),
        backoff: Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(50) },
        retry_floor: Duration::from_millis(20),
        breaker: BreakerConfig {
            pause: Duration::from_millis(20),
            pause_cap: Duration::from_millis(50),
            ..BreakerConfig::default()
        },
        ..NotifierConfig::new("acme", idempotent)
    }
}

impl World {
    async fn start(config: NotifierConfig, script: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let world = Self::towards(config, script, port);
        tokio::spawn(Arc::clone(&world.carrier).serve(listener));
        world
    }

    fn towards(config: NotifierConfig, script: &[Reply], port: u16) -> Self {
        let secret = Secret::from_bytes(&[7; 32]).unwrap();
        let carrier = Arc::new(Carrier {
            secret: secret.clone(),
            script: Mutex::new(script.iter().cloned().collect()),
            seen: Mutex::default(),
            came: Notify::new(),
        });
        let outbox = Arc::new(Mutex::new(Shared::default()));
        let outcomes = Arc::new(MemoryOutcomes::default());
        let health = Arc::new(HealthBoard::new(1));
        let stop = Arc::new(Notify::new());
        let driver = Driver {
            outbox: Box::new(MemoryOutbox(Arc::clone(&outbox))),
            outcomes: outcomes.clone(),
            endpoint: Endpoint::new(&format!("http://127.0.0.1:{port}/manifests?carrier=acme"), secret).unwrap(),
            clock: Arc::new(RealClock::new()),
            health: health.clone(),
            carrier_no: 0,
            drain: Duration::from_millis(200),
        };
        let asked = Arc::clone(&stop);
        let driver = tokio::spawn(driver.run(Notifier::new(config, 1), async move { asked.notified().await }));
        Self { carrier, outbox, outcomes, health, stop, driver }
    }

    fn push(&self, batch: OutboxBatch) {
        let mut shared = self.outbox.lock();
        shared.waiting.push_back(batch);
        if let Some(waker) = shared.waker.take() {
            waker.wake();
        }
    }

    async fn outcomes(&self, count: usize) -> Vec<OutcomeKind> {
        within(async {
            while self.outcomes.taken.lock().len() < count {
                self.outcomes.more.notified().await;
            }
        })
        .await;
        self.outcomes.taken.lock().iter().map(|report| report.kind).collect()
    }

    async fn stop(self) -> Summary {
        self.stop.notify_one();
        within(self.driver).await.unwrap().unwrap()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it takes too long")
}

#[tokio::test]
async fn manifests_are_signed_sent_and_settled() {
    for idempotent in [true, false] {
        let world = World::start(quick(idempotent), &[]).await;
        world.push(batch(1..36));
        assert_eq!(world.outcomes(35).await, [Accepted; 35]);
        world.push(batch(36..37));
        world.outcomes(36).await;
        let report = world.outcomes.taken.lock()[35].clone();
        assert_eq!((report.shipment, &*report.carrier, &*report.text), (shipment(36), "acme", "T1"));
        let mut board = Vec::new();
        world.health.snapshot(&mut board);
        assert!(board[0].available && board[0].failures_permille == 0);
        let outbox = world.outbox.clone();
        let summary = world.stop().await;
        assert_eq!((summary.left, summary.cut_off, summary.counters.retried_shipments), (0, 0, 0));
        assert_eq!(outbox.lock().settled, Some(36));
    }
}

#[tokio::test]
async fn a_mark_is_noticed_although_nobody_polls_the_outbox() {
    let world = World::start(NotifierConfig { window_entries: 10, ..quick(false) }, &[]).await;
    world.outbox.lock().mark_lag = 5;
    world.push(batch(1..11));
    assert_eq!(world.outcomes(10).await, [Accepted; 10]);
    assert_eq!(world.outbox.lock().marks_asked, 1, "it was noticed only when it was asked for again");
    world.stop().await;
}

#[tokio::test]
async fn every_failure_is_retried_towards_a_carrier_that_remembers() {
    for reply in [
        status("429 Too Many Requests", ""),
        status("429 Too Many Requests", "retry-after: 0\r\n"),
        status("503 Service Unavailable", "retry-after: 0\r\n"),
        status("503 Service Unavailable", ""),
        status("500 Internal Server Error", ""),
        status("401 Unauthorized", ""),
        status("302 Found", "location: /elsewhere\r\n"),
        Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"results\":[{".to_owned()),
        Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"results\":[]}".to_owned()),
        Reply::Raw("what\r\n\r\n".to_owned()),
        Reply::Trickle(0),
        Reply::Reset,
        Reply::Hang,
    ] {
        let world = World::start(quick(true), std::slice::from_ref(&reply)).await;
        world.push(batch(1..11));
        assert_eq!(world.outcomes(10).await, [Accepted; 10], "{reply:?}");
        let ids = world.carrier.ids();
        assert!(ids.len() == 2 && ids[0] == ids[1], "{reply:?}: {ids:?}");
        world.stop().await;
    }
}

#[tokio::test]
async fn only_what_was_surely_not_done_is_retried_towards_a_carrier_that_forgets() {
    for (reply, expected) in [
        (status("429 Too Many Requests", ""), Accepted),
        (status("503 Service Unavailable", "retry-after: 0\r\n"), Accepted),
        (status("503 Service Unavailable", ""), Unknown),
        (status("500 Internal Server Error", ""), Unknown),
        (status("400 Bad Request", ""), Unknown),
        (Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull".to_owned()), Unknown),
        (Reply::Trickle(0), Unknown),
        (Reply::Reset, Unknown),
        (Reply::Hang, Unknown),
    ] {
        let world = World::start(quick(false), std::slice::from_ref(&reply)).await;
        world.push(batch(1..11));
        assert_eq!(world.outcomes(10).await, [expected; 10], "{reply:?}");
        assert_eq!(world.carrier.ids().len(), if expected == Accepted { 2 } else { 1 }, "{reply:?}");
        world.stop().await;
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let reply = status("429 Too Many Requests", "retry-after: 1\r\n");
    let world = World::start(quick(true), &[reply]).await;
    world.push(batch(1..11));
    world.outcomes(10).await;
    let times: Vec<_> = world.carrier.seen.lock().iter().map(|(at, ..)| *at).collect();
    assert!(times[1] - times[0] >= Duration::from_secs(1));
    world.stop().await;
}

#[tokio::test]
async fn partial_answers_settle_one_by_one() {
    let world = World::start(quick(true), &[Reply::Partly(4)]).await;
    world.push(batch(1..11));
    let expected = [vec![Accepted; 4], vec![Rejected; 5], vec![Accepted]].concat();
    assert_eq!(world.outcomes(10).await, expected);
    let second = world.carrier.seen.lock()[1].2.clone();
    assert_eq!(second, [shipment(10).to_string()]);
    world.stop().await;

    let world = World::start(quick(false), &[Reply::Partly(4)]).await;
    world.push(batch(1..11));
    assert_eq!(world.outcomes(10).await, [vec![Accepted; 4], vec![Rejected; 5], vec![Unknown]].concat());
    world.stop().await;
}

#[tokio::test]
async fn an_answer_in_drops_is_put_together() {
    let world = World::start(quick(true), &[Reply::Trickle(7)]).await;
    world.push(batch(1..11));
    assert_eq!(world.outcomes(10).await, [Accepted; 10]);
    assert_eq!(world.carrier.ids().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let body = "x".repeat(5 << 20);
    let reply = Reply::Raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    let world = World::start(NotifierConfig { call_timeout: Duration::from_secs(10), ..quick(false) }, &[reply]).await;
    world.push(batch(1..11));
    assert_eq!(world.outcomes(10).await, [Unknown; 10]);
    let text = world.outcomes.taken.lock()[0].text.clone();
    assert!(text.contains("length limit exceeded"), "{text}");
    world.stop().await;
}

#[tokio::test]
async fn a_carrier_that_is_not_there_is_not_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let config = NotifierConfig { give_up_after: Duration::from_millis(400), ..quick(false) };
    let world = World::towards(config, &[], port);
    world.push(batch(1..21));
    assert_eq!(world.outcomes(20).await, [GivenUp; 20]);
    let text = world.outcomes.taken.lock()[0].text.clone();
    assert!(text.contains("given up after 0.4 s"), "{text}");
    let summary = world.stop().await;
    assert!(summary.counters.retried_shipments > 0 && summary.left == 0);
}

#[tokio::test]
async fn a_carrier_that_comes_back_gets_everything() {
    let world = World::start(quick(true), &vec![Reply::Reset; 30]).await;
    world.push(batch(1..101));
    assert_eq!(world.outcomes(100).await, [Accepted; 100]);
    let outbox = world.outbox.clone();
    world.stop().await;
    assert_eq!(outbox.lock().settled, Some(100));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_nobody() {
    let world = World::start(quick(false), &[]).await;
    let mut entries = batch(1..11);
    let start = entries.entries[4].record.start;
    entries.bytes[start] = 99;
    world.push(entries);
    let kinds = world.outcomes(10).await;
    assert_eq!((kinds[0], &kinds[1..]), (GivenUp, &[Accepted; 9][..]));
    assert_eq!(world.outcomes.taken.lock()[0].shipment, shipment(5));
    let mut alone = batch(11..12);
    alone.bytes[0] = 99;
    world.push(alone);
    assert_eq!(world.outcomes(11).await[10], GivenUp);
    assert_eq!(world.carrier.ids().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_under_way_up_to_its_deadline() {
    let config = NotifierConfig { call_timeout: Duration::from_secs(60), ..quick(true) };
    let world = World::start(config, &[Reply::Hang]).await;
    world.push(batch(1..11));
    within(world.carrier.came.notified()).await;
    let (outbox, taken) = (world.outbox.clone(), world.outcomes.clone());
    let summary = world.stop().await;
    assert_eq!((summary.left, summary.cut_off), (10, 1));
    assert!(taken.taken.lock().is_empty() && outbox.lock().settled.unwrap_or(0) == 0);
}

#[tokio::test]
async fn a_closed_outbox_ends_the_run() {
    let world = World::start(quick(true), &[]).await;
    world.push(batch(1..11));
    world.outcomes(10).await;
    let waker = {
        let mut shared = world.outbox.lock();
        shared.closed = true;
        shared.waker.take()
    };
    waker.unwrap().wake();
    let summary = within(world.driver).await.unwrap().unwrap();
    assert_eq!(summary.left, 0);
}
