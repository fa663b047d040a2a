//! What the HTTP tests stand on: an engine in memory, a clock that is set, and a client that writes its whole request
//! before it reads anything.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use serde_json::{Value, json};
use sluice_checkout::{Checkout, router};
use sluice_domain::{Fingerprint, Merchants, OrderId};
use sluice_pipeline::{BoxFuture, Clock, Intake, LogError, Orders, Receipt, StoredOrder, Submission};
use sluice_schemas::order::OrderRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// 2026-11-11T00:00:00.123Z.
pub const NOW: u64 = 1_794_355_200_123;

/// Takes orders as the embedded engine does, and remembers them.
#[derive(Default)]
pub struct Engine {
    pub orders: Mutex<HashMap<Fingerprint, (OrderId, Vec<u8>)>>,
    pub submissions: AtomicUsize,
    /// From now on everything is answered with this.
    pub busy: Mutex<Option<(u32, &'static str)>>,
    pub closed: Mutex<Option<&'static str>>,
    pub broken: Mutex<bool>,
}

impl Engine {
    pub fn len(&self) -> usize {
        self.orders.lock().unwrap().len()
    }

    fn receipt(&self, id: OrderId, fingerprint: Fingerprint, record: &[u8]) -> Receipt {
        if let Some((retry_after_s, reason)) = *self.busy.lock().unwrap() {
            return Receipt::Busy { retry_after_s, reason };
        }
        let mut orders = self.orders.lock().unwrap();
        let Some((old_id, old)) = orders.get(&fingerprint) else {
            orders.insert(fingerprint, (id, record.to_vec()));
            return Receipt::Accepted;
        };
        let body = |record: &[u8]| OrderRef::decode(record).unwrap().body().to_vec();
        if *old_id == id && body(old) == body(record) { Receipt::Replayed } else { Receipt::Conflict }
    }
}

impl Intake for Engine {
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Vec<Receipt>> {
        self.submissions.fetch_add(1, SeqCst);
        let one = |o: &sluice_pipeline::Submitted| {
            let record = &submission.bytes[o.record.clone()];
            assert_eq!(OrderRef::decode(record).unwrap().id, o.id.0);
            self.receipt(o.id, o.fingerprint, record)
        };
        let receipts = submission.orders.iter().map(one).collect();
        Box::pin(async move {
            tokio::task::yield_now().await;
            receipts
        })
    }

    fn ready(&self) -> Result<(), &'static str> {
        self.closed.lock().unwrap().map_or(Ok(()), Err)
    }
}

impl Orders for Engine {
    fn read(&self, id: OrderId) -> BoxFuture<'_, Result<Option<StoredOrder>, LogError>> {
        let found = if *self.broken.lock().unwrap() {
            Err(LogError::Closed)
        } else {
            let orders = self.orders.lock().unwrap();
            let record = orders.values().find(|(at, _)| *at == id).map(|(_, record)| record.clone());
            Ok(record.map(|record| StoredOrder { row: Vec::new(), record }))
        };
        Box::pin(async move { found })
    }
}

/// Stands still until it is set.
pub struct Now(pub AtomicU64);

impl Clock for Now {
    fn now_ms(&self) -> u64 {
        self.0.load(SeqCst)
    }

    fn monotonic_us(&self) -> u64 {
        self.0.load(SeqCst) * 1_000
    }
}

/// A checkout on a port of its own.
pub struct Server {
    pub address: SocketAddr,
    pub engine: Arc<Engine>,
    pub now: Arc<Now>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Merchants m-1 and m-2 with the keys key-1 and key-2.
    pub async fn with(configure: impl FnOnce(&mut Checkout)) -> Self {
        let (engine, now) = (Arc::new(Engine::default()), Arc::new(Now(AtomicU64::new(NOW))));
        let merchants = Arc::new(Merchants::new([("m-1", "key-1"), ("m-2", "key-2")]).unwrap());
        let mut checkout = Checkout::new(engine.clone(), engine.clone(), merchants, now.clone());
        configure(&mut checkout);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router(checkout)).await });
        Self { address, engine, now }
    }

    /// Sends head and body, all of it, and only then reads.
    pub async fn send(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{head}Host: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        Answer::read(&mut stream).await
    }

    pub async fn order(&self, key: &str, order: &Value) -> Answer {
        self.order_text(key, &order.to_string()).await
    }

    pub async fn order_text(&self, key: &str, body: &str) -> Answer {
        let head = format!(
            "POST /v1/orders HTTP/1.1\r\nAuthorization: Bearer key-1\r\nContent-Type: application/json\r\n\
             Idempotency-Key: {key}\r\n"
        );
        self.send(&head, body.as_bytes()).await
    }

    pub async fn batch(&self, body: impl AsRef<[u8]>) -> Answer {
        let head = "POST /v1/orders:batch HTTP/1.1\r\nAuthorization: Bearer key-1\r\n\
                    Content-Type: application/x-ndjson\r\n";
        self.send(head, body.as_ref()).await
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head[9..12].parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn lines(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("application/x-ndjson"));
        let text = std::str::from_utf8(&self.body).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asserts a problem of this status, and returns the names of the fields at fault.
    pub fn problem(&self, status: u16) -> Vec<String> {
        let problem = self.json();
        assert_eq!(self.status, status, "{problem}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["status"], status);
        fields_of(&problem)
    }
}

/// Names of the fields at fault in a problem, which must have everything a problem has.
pub fn fields_of(problem: &Value) -> Vec<String> {
    assert!(problem["type"].as_str().unwrap().starts_with("urn:sluice:problem:"), "{problem}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    let errors = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    errors.iter().map(|e| e["field"].as_str().unwrap().to_owned()).collect()
}

/// A good order, placed now.
pub fn order() -> Value {
    json!({
        "customer": "c-77", "placed_at": "2026-11-11T00:00:00.123Z", "currency": "USD",
        "ship_to": {"name": "Ada", "street": "12 Mill Lane", "city": "Springfield", "postal_code": "1", "country": "US"},
        "lines": [{"sku": "1029743", "title": "YOGURT | 6 OZ", "quantity": 2, "unit_price": 129}],
    })
}

/// The same as a line of a batch.
pub fn line(key: &str) -> Value {
    let mut order = order();
    order["idempotency_key"] = key.into();
    order
}

/// A good order as text, padded with blanks to `bytes`.
pub fn padded(order: &Value, bytes: usize) -> String {
    let text = order.to_string();
    let mut out = text[..1].to_owned();
    out.extend(std::iter::repeat_n(' ', bytes - text.len()));
    out + &text[1..]
}
