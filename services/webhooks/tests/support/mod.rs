//! A node of webhooks in this process, and its API as a merchant calls it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use http_body_util::BodyExt as _;
use serde_json::Value;
use sluice_domain::Merchants;
use sluice_pipeline::{BoxFuture, Clock, Feed, backoff::Backoff};
use sluice_webhooks::{
    Api, WebhookConfig, World,
    call::Caller,
    guard::{Guard, Resolver, SystemResolver},
    model::Endpoint,
    tail::Tail,
    testing::{MemoryDocuments, MemoryFeed, RealClock},
};
use tokio::{sync::oneshot, task::JoinHandle};
use tower::ServiceExt as _;

pub const TRACKED: &str = "com.sluice.parcel.tracked.v1";
pub const ACCEPTED: &str = "com.sluice.order.accepted.v1";

/// An endpoint of the configuration.
pub fn fixed(url: String) -> Endpoint {
    Endpoint {
        id: "whe_00000000000000000000000001".to_owned(),
        merchant: "m-1".to_owned(),
        url,
        description: String::new(),
        types: Vec::new(),
        secret: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".to_owned(),
        old_secret: None,
        disabled: None,
        created_at_ms: 1,
        fixed: true,
    }
}

/// Quick, and allowed to call loopback.
pub fn config() -> WebhookConfig {
    WebhookConfig {
        guard: Guard { allowed: vec!["127.0.0.0/8".parse().unwrap()] },
        timeout: Duration::from_secs(2),
        backoff: Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(200) },
        endpoint_backoff: Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(200) },
        ..WebhookConfig::default()
    }
}

pub struct Setup {
    pub config: WebhookConfig,
    pub feed: Arc<MemoryFeed>,
    pub documents: Arc<MemoryDocuments>,
    pub resolver: Arc<dyn Resolver>,
    pub fixed: Vec<Endpoint>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: config(),
            feed: Arc::default(),
            documents: Arc::default(),
            resolver: Arc::new(SystemResolver),
            fixed: Vec::new(),
        }
    }
}

pub struct Node {
    router: Router,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Setup {
    pub fn start(&self) -> Node {
        let caller = Caller::new(&self.config, Arc::clone(&self.resolver)).unwrap();
        self.start_with(caller)
    }

    pub fn start_with(&self, caller: Caller) -> Node {
        let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
        let feed: Arc<dyn Feed> = self.feed.clone();
        let tail = Arc::new(Tail::new(feed, self.config.tail_bytes));
        let world = World {
            tail: Arc::clone(&tail),
            documents: self.documents.clone(),
            clock: Arc::clone(&clock),
            caller: Arc::new(caller),
            fixed: self.fixed.clone(),
            seed: 7,
            drain: Duration::from_secs(2),
        };
        let (desk, driver) = sluice_webhooks::open(world, self.config.clone()).unwrap();
        let merchants = Arc::new(Merchants::new([("m-1", "key-1"), ("m-2", "key-2")]).unwrap());
        let config = Arc::new(self.config.clone());
        let api = Api { desk, tail, documents: self.documents.clone(), merchants, clock, config };
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(driver.run(async move { drop(stopped.await) }));
        Node { router: sluice_webhooks::router(api), stop, running }
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Answer {
    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.json);
        self.json
    }

    /// The fields that a problem names.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Vec<String> {
        assert_eq!(self.status.as_u16(), status, "{}", self.json);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json["status"], status);
        let errors = self.json["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    }
}

async fn answer(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&bytes).unwrap_or_default();
    Answer { status: head.status, headers: head.headers, json }
}

/// A request without a body.
pub async fn send(router: &Router, key: &str, method: &str, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
    answer(router, request.body(Body::empty()).unwrap()).await
}

impl Node {
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }

    /// Ends it without a word.
    pub async fn crash(self) {
        self.running.abort();
        drop(self.running.await);
    }

    /// Its routes, which may outlive it.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        answer(&self.router, request).await
    }

    pub async fn call(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("key-1", "GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("key-1", "POST", path, Some(body)).await
    }

    /// Makes an endpoint of merchant m-1 and gives its id and secret.
    pub async fn endpoint(&self, body: Value) -> (String, String) {
        let made = self.post("/v1/webhooks", body).await.ok(201);
        (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    }

    pub async fn replay(&self, id: &str, key: &str, from: &str, to: &str) -> Answer {
        let request = Request::builder().method("POST").uri(format!("/v1/webhooks/{id}/replay"));
        let request = request.header("authorization", "Bearer key-1").header("content-type", "application/json");
        let body = serde_json::json!({"from": from, "to": to}).to_string();
        self.send(request.header("idempotency-key", key).body(Body::from(body)).unwrap()).await
    }

    /// Asks until `path` is as `is` wants it.
    pub async fn until(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let json = self.get(path).await.ok(200);
            if is(&json) {
                return json;
            }
            assert!(tokio::time::Instant::now() < deadline, "{json}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Answers as it is told, one answer after the other, the last one for good; counts how often it was asked.
pub struct Scripted {
    pub answers: parking_lot::Mutex<Vec<Vec<&'static str>>>,
    pub asked: std::sync::atomic::AtomicUsize,
}

impl Scripted {
    pub fn new(answers: Vec<Vec<&'static str>>) -> Arc<Self> {
        Arc::new(Self { answers: parking_lot::Mutex::new(answers), asked: Default::default() })
    }
}

impl Resolver for Scripted {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async {
            self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut answers = self.answers.lock();
            let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            Ok(answer.into_iter().map(|text| text.parse().unwrap()).collect())
        })
    }
}
