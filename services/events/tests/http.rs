//! Pages and streams of events from a feed in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, BodyDataStream},
    http::{Request, Response},
};
use futures_util::StreamExt;
use serde_json::Value;
use sluice_domain::{KeyHash, Merchants, Operators, OrderId};
use sluice_events::{Events, MAX_OPERATOR_STREAMS, router};
use sluice_pipeline::{BoxFuture, Clock, Cursor, Feed, FeedError, FeedEvent, FeedPage};
use tokio::sync::{Notify, watch};
use tower::ServiceExt;

/// A cursor is the number of an event.
#[derive(Default)]
struct Memory {
    events: Mutex<Vec<FeedEvent>>,
    oldest: AtomicU64,
    reads: AtomicUsize,
    broken: AtomicBool,
    more: Notify,
}

impl Memory {
    fn tell(&self, merchant: &str, count: usize) {
        let mut events = self.events.lock().unwrap();
        for _ in 0..count {
            let number = events.len() as u64;
            events.push(FeedEvent {
                order: OrderId(u128::from(number)),
                merchant: merchant.to_owned(),
                id: format!("{number:032x}"),
                kind: "com.sluice.order.accepted.v1",
                sequence: 0,
                at_ms: 1_794_355_200_123,
                data: b"{}".to_vec(),
                next: Cursor(vec![number + 1]),
            });
        }
        drop(events);
        self.more.notify_waiters();
    }

    fn page(&self, after: &Cursor, max: usize) -> Result<FeedPage, FeedError> {
        self.reads.fetch_add(1, SeqCst);
        if self.broken.load(SeqCst) {
            return Err(FeedError::Unavailable("down".into()));
        }
        let [at] = after.0[..] else { return Err(FeedError::Unknown("not one number".into())) };
        let oldest = self.oldest.load(SeqCst);
        if at < oldest {
            return Err(FeedError::Expired { oldest: Cursor(vec![oldest]) });
        }
        let events = self.events.lock().unwrap();
        let all = events.get(at as usize..).ok_or_else(|| FeedError::Unknown("ahead".into()))?;
        let events: Vec<_> = all.iter().take(max).cloned().collect();
        let next = Cursor(vec![at + events.len() as u64]);
        Ok(FeedPage { events, next })
    }
}

impl Feed for Memory {
    fn bounds(&self) -> BoxFuture<'_, Result<(Cursor, Cursor), FeedError>> {
        let newest = self.events.lock().unwrap().len() as u64;
        let bounds = [self.oldest.load(SeqCst), newest].map(|at| Cursor(vec![at]));
        Box::pin(async move { Ok(bounds.into()) })
    }

    fn since(&self, _: u64) -> BoxFuture<'_, Result<Cursor, FeedError>> {
        Box::pin(async { Ok(Cursor(vec![self.oldest.load(SeqCst)])) })
    }

    fn read(&self, after: Cursor, max: usize, wait: Duration) -> BoxFuture<'_, Result<FeedPage, FeedError>> {
        Box::pin(async move {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            let page = self.page(&after, max)?;
            if page.events.is_empty() && tokio::time::timeout(wait, more).await.is_ok() {
                return self.page(&after, max);
            }
            Ok(page)
        })
    }
}

struct Now;

impl Clock for Now {
    fn now_ms(&self) -> u64 {
        1_794_355_200_123
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

struct World {
    feed: Arc<Memory>,
    routes: Router,
    stop: watch::Sender<bool>,
}

impl World {
    fn new() -> Self {
        let (feed, (stop, stopped)) = (Arc::<Memory>::default(), watch::channel(false));
        let merchants = Merchants::new([("m-1", "key-1"), ("m-2", "key-2"), ("m-3", "key-3")]).unwrap();
        let routes = router(Events {
            feed: feed.clone(),
            merchants: Arc::new(merchants),
            operators: Arc::new(Operators::new(KeyHash::of("operator").into_iter().collect())),
            clock: Arc::new(Now),
            source: "/sluice".to_owned(),
            max_streams: 3,
            stop: stopped,
        });
        Self { feed, routes, stop }
    }

    async fn ask(&self, key: &str, query: &str, headers: &[(&str, &str)]) -> Response<Body> {
        self.ask_at("/v1/events", key, query, headers).await
    }

    async fn ask_at(&self, path: &str, key: &str, query: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = Request::get(format!("{path}{query}")).header("authorization", format!("Bearer {key}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.routes.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    /// Merchant m-1's page, and where it says to go on.
    async fn page(&self, query: &str) -> (Vec<Value>, String) {
        let response = self.ask("key-1", query, &[]).await;
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, "application/x-ndjson"));
        let link = header(&response, "link").to_owned();
        let body = all(response).await;
        (body.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), link)
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers()[name].to_str().unwrap()
}

async fn all(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn next(stream: &mut BodyDataStream) -> Option<String> {
    let chunk = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.unwrap()?;
    Some(String::from_utf8(chunk.unwrap().to_vec()).unwrap())
}

fn cursors(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["cursor"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_page_ends_with_where_to_go_on() {
    let world = World::new();
    world.feed.tell("m-1", 3);
    world.feed.tell("m-2", 300);
    world.feed.tell("m-1", 2);
    let link = |at| format!("</v1/events?after=1.{at}>; rel=\"next\"");
    let (events, next) = world.page("?limit=2").await;
    assert_eq!((cursors(&events), next), (vec!["1.1", "1.2"], link("2")));
    // Another merchant's events aren't shown, and don't count.
    let (events, next) = world.page("?limit=2&after=1.2").await;
    assert_eq!((cursors(&events), next), (vec!["1.3", "1.8g"], link("8g")));
    let (events, next) = world.page("?after=1.8g").await;
    assert_eq!((cursors(&events), next), (vec!["1.8h"], link("8h")));
    assert_eq!(world.page("?after=latest").await, (vec![], link("8h")));
    assert_eq!(world.page("").await.0.len(), 5);
    world.feed.oldest.store(2, SeqCst);
    assert_eq!(world.page("").await.0.len(), 3, "from the oldest that there is");
}

#[tokio::test]
async fn a_page_waits_for_its_first_event() {
    let world = World::new();
    let waiting = world.page("?wait=30");
    let tell = async {
        while world.feed.reads.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // Of another merchant: it goes on waiting.
        world.feed.tell("m-2", 1);
        while world.feed.reads.load(SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        world.feed.tell("m-1", 2);
    };
    let ((events, _), ()) = tokio::join!(waiting, tell);
    assert_eq!(cursors(&events), ["1.2", "1.3"]);
    // A drain ends the wait.
    let waiting = world.page("?wait=30&after=latest");
    let stop = async {
        tokio::task::yield_now().await;
        world.stop.send_replace(true);
    };
    let ((events, _), ()) = tokio::join!(waiting, stop);
    assert!(events.is_empty());
}

#[tokio::test]
async fn what_cant_be_given_is_a_problem() {
    let world = World::new();
    world.feed.tell("m-1", 9);
    world.feed.oldest.store(4, SeqCst);
    let sse = ("accept", "text/event-stream");
    for (query, headers, status, field, expected) in [
        ("?after=1.3", &[][..], 410, "after", "1.4"),
        ("?after=1.3&follow=true", &[], 410, "after", "1.4"),
        ("", &[sse, ("last-event-id", "1.0")], 410, "after", "1.4"),
        ("?after=1.a", &[], 400, "after", "ahead"),
        ("?after=1.a.b", &[], 400, "after", "not one number"),
        ("", &[sse, ("last-event-id", "1.z")], 400, "Last-Event-ID", "ahead"),
        ("?limit=x", &[], 400, "limit", "1000"),
    ] {
        let response = world.ask("key-1", query, headers).await;
        assert_eq!(
            (response.status().as_u16(), header(&response, "content-type")),
            (status, "application/problem+json")
        );
        let error = serde_json::from_str::<Value>(&all(response).await).unwrap()["errors"][0].clone();
        assert_eq!(error["field"], field, "{query}");
        assert!(error["expected"].as_str().unwrap().contains(expected), "{error}");
    }
    assert_eq!(world.ask("key-none", "", &[]).await.status(), 401);
    world.feed.broken.store(true, SeqCst);
    for query in ["?after=1.5", "?after=1.5&follow=true"] {
        let response = world.ask("key-1", query, &[]).await;
        assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (503, "1"));
    }
}

#[tokio::test]
async fn a_stream_gives_what_comes_and_goes_on_where_it_was() {
    let world = World::new();
    world.feed.tell("m-1", 2);
    let response = world.ask("key-1", "", &[("accept", "text/event-stream")]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    let first = next(&mut stream).await.unwrap();
    assert!(first.starts_with("retry: 2000\nid: 1.0\n\nid: 1.1\ndata: {") && first.ends_with("}\n\n"), "{first}");
    assert_eq!(first.matches("\ndata: ").count(), 2);
    let (more, ()) = tokio::join!(next(&mut stream), async { world.feed.tell("m-1", 1) });
    assert!(more.unwrap().starts_with("id: 1.3\ndata: {"));
    drop(stream);
    let headers = [("accept", "text/event-stream"), ("last-event-id", "1.2")];
    let mut stream = world.ask("key-1", "?after=latest", &headers).await.into_body().into_data_stream();
    let first = next(&mut stream).await.unwrap();
    assert!(first.contains("id: 1.2\n\nid: 1.3\ndata: {"), "{first}");
    // It ends when the feed fails, and with a drain.
    let mut lines = world.ask("key-1", "?follow=true&after=1.2", &[]).await.into_body().into_data_stream();
    let line = next(&mut lines).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["cursor"], "1.3");
    world.feed.broken.store(true, SeqCst);
    let (end, ()) = tokio::join!(next(&mut lines), async { world.feed.tell("m-1", 1) });
    assert_eq!(end, None);
    world.feed.broken.store(false, SeqCst);
    world.stop.send_replace(true);
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn an_operator_sees_everybodys_and_takes_nobodys_place() {
    const PATH: &str = "/v1/operator/events";
    let world = World::new();
    for (merchant, count) in [("m-1", 2), ("m-2", 1), ("gone", 1)] {
        world.feed.tell(merchant, count);
    }
    let page = world.ask_at(PATH, "operator", "?limit=3", &[]).await;
    assert_eq!(header(&page, "link"), "</v1/operator/events?after=1.3>; rel=\"next\"");
    assert_eq!(all(page).await.lines().count(), 3);
    let sse = [("accept", "text/event-stream"), ("last-event-id", "1.2")];
    let mut stream = world.ask_at(PATH, "operator", "", &sse).await.into_body().into_data_stream();
    assert_eq!(next(&mut stream).await.unwrap().matches("\ndata: ").count(), 2);
    // Each key opens one of the two.
    assert_eq!(world.ask_at(PATH, "key-1", "", &[]).await.status(), 401);
    assert_eq!(world.ask("operator", "", &[]).await.status(), 401);
    let mut streams = vec![stream];
    for _ in 1..MAX_OPERATOR_STREAMS {
        let open = world.ask_at(PATH, "operator", "?follow=true", &[]).await;
        assert_eq!(open.status(), 200);
        streams.push(open.into_body().into_data_stream());
    }
    let refused = world.ask_at(PATH, "operator", "?wait=1", &[]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (503, "10"));
    assert_eq!(world.ask("key-1", "?follow=true", &[]).await.status(), 200, "merchants have places of their own");
    world.feed.oldest.store(2, SeqCst);
    assert_eq!(world.ask_at(PATH, "operator", "?after=1.1", &[]).await.status(), 410);
}

#[tokio::test]
async fn a_slow_reader_holds_one_page() {
    let world = World::new();
    world.feed.tell("m-1", 1_000);
    let mut stream = world.ask("key-1", "?follow=true", &[]).await.into_body().into_data_stream();
    for pages in 1..=5 {
        assert_eq!(world.feed.reads.load(SeqCst), pages.max(2) - 1, "nothing is read before the last page is taken");
        assert_eq!(next(&mut stream).await.unwrap().lines().count(), 200);
    }
}

#[tokio::test]
async fn streams_are_bounded() {
    let world = World::new();
    let open = async |key: &str| world.ask(key, "?follow=true", &[]).await;
    let first = [open("key-1").await, open("key-1").await];
    assert!(first.iter().all(|response| response.status() == 200));
    let refused = open("key-1").await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (429, "10"));
    let third = open("key-2").await;
    assert_eq!((third.status().as_u16(), open("key-3").await.status().as_u16()), (200, 503));
    assert_eq!(world.ask("key-3", "", &[]).await.status(), 200, "a page that waits for nothing has a place of its own");
    drop((first, third));
    assert_eq!(open("key-3").await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_events_says_that_it_lives() {
    let world = World::new();
    let mut messages = world.ask("key-1", "", &[("accept", "text/event-stream")]).await.into_body().into_data_stream();
    assert_eq!(next(&mut messages).await.unwrap(), "retry: 2000\nid: 1.0\n\n");
    let started = tokio::time::Instant::now();
    // Where it is by now moves with what is told to others.
    world.feed.tell("m-2", 40);
    assert_eq!(next(&mut messages).await.unwrap(), ": nothing new\nid: 1.14\n\n");
    assert_eq!(started.elapsed().as_secs(), 15);
    let mut lines = world.ask("key-1", "?follow=true", &[]).await.into_body().into_data_stream();
    assert_eq!(next(&mut lines).await.unwrap(), "\n");
    assert_eq!(started.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_an_hour_at_most() {
    let world = World::new();
    for _ in 0..3 {
        let began = tokio::time::Instant::now();
        all(world.ask("key-1", "?follow=true", &[]).await).await;
        let lasted = began.elapsed().as_secs();
        assert!((3_000..=3_615).contains(&lasted), "{lasted} s");
    }
}
