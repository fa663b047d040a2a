//! Reading orders over a real socket, from a store in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use serde_json::Value;
use sluice_domain::{Fingerprint, Merchants, OrderId, ShipmentId, SlotCount};
use sluice_pipeline::{
    BoxFuture, Clock, Listed, LogError, Lookup, Orders, Receipt, StoredOrder, WordIntake, Words, lookup::is_of,
};
use sluice_schemas::{
    delta::Delta,
    order::{Head, Line, ShipTo, put_head, put_line},
};
use sluice_status::{Status, router};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// 2026-11-11T00:00:00.123Z.
const NOW: u64 = 1_794_355_200_123;

#[derive(Default)]
struct Store {
    orders: HashMap<u128, StoredOrder>,
    broken: bool,
    gate: Option<Arc<Gate>>,
}

/// Lists come in, and are answered once they are let through.
struct Gate {
    entered: Semaphore,
    open: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self { entered: Semaphore::new(0), open: Semaphore::new(0) }
    }
}

impl Orders for Store {
    fn read(&self, id: OrderId) -> BoxFuture<'_, Result<Option<StoredOrder>, LogError>> {
        let found = if self.broken { Err(LogError::Closed) } else { Ok(self.orders.get(&id.0).cloned()) };
        Box::pin(async move { found })
    }
}

/// Lists by looking at every order; knows of no numbers.
impl Lookup for Store {
    fn held<'a>(&'a self, _: Option<OrderId>, _: usize) -> BoxFuture<'a, Result<Listed, LogError>> {
        unreachable!("nobody reviews here")
    }

    fn orders_of<'a>(
        &'a self,
        merchant: &'a str,
        customer: &'a str,
        before: Option<OrderId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Listed, LogError>> {
        Box::pin(async move {
            if let Some(gate) = &self.gate {
                gate.entered.add_permits(1);
                gate.open.acquire().await.unwrap().forget();
            }
            if self.broken {
                return Err(LogError::Closed);
            }
            let mut orders: Vec<(OrderId, StoredOrder)> = self
                .orders
                .iter()
                .filter(|(id, order)| {
                    before.is_none_or(|before| **id < before.0)
                        && is_of(OrderId(**id), order, merchant, customer).unwrap()
                })
                .map(|(id, order)| (OrderId(*id), order.clone()))
                .collect();
            orders.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
            let more = orders.len() > max;
            orders.truncate(max);
            Ok(Listed { next: orders.last().map(|o| o.0).filter(|_| more), orders })
        })
    }

    fn shipments_of<'a>(
        &'a self,
        _: &'a str,
        numbers: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<ShipmentId>>, LogError>> {
        Box::pin(async move { Ok(vec![Vec::new(); numbers.len()]) })
    }
}

struct Now;

impl Clock for Now {
    fn now_ms(&self) -> u64 {
        NOW
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

/// Takes nothing.
struct Deaf;

impl WordIntake for Deaf {
    fn hear(&self, words: Words) -> BoxFuture<'_, Vec<Receipt>> {
        let busy = Receipt::Busy { retry_after_s: 7, reason: "full" };
        Box::pin(std::future::ready(vec![busy; words.words.len()]))
    }
}

fn id(key: &str, placed_at: u64) -> OrderId {
    OrderId::new(placed_at, Fingerprint::of("m-1", key), SlotCount::DEFAULT)
}

fn stored(key: &str) -> (u128, StoredOrder) {
    let id = id(key, NOW);
    let ship_to = ShipTo { name: "n", street: "s", city: "c", postal_code: "", country: "US" };
    let head = Head {
        id: id.0,
        fingerprint_high: Fingerprint::of("m-1", key).high(),
        accepted_at_ms: NOW,
        merchant: "m-1",
        customer: "c \"77\"",
        currency: "USD",
        ship_to,
        lines: 1,
    };
    let (mut record, mut row) = (Vec::new(), Vec::new());
    put_head(&mut record, &head);
    put_line(&mut record, &Line { sku: "1", title: "MILK", quantity: 1, unit_price: 129 });
    Delta::Accepted { position: 0 }.encode(2, &mut row);
    (id.0, StoredOrder { row, record })
}

async fn start(store: Store) -> SocketAddr {
    let merchants = Arc::new(Merchants::new([("m-1", "key-1"), ("m-2", "key-2")]).unwrap());
    let (store, words) = (Arc::new(store), Arc::new(Deaf));
    let routes = router(Status { orders: store.clone(), words, lookup: store, merchants, clock: Arc::new(Now) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

/// Status, head in lower case, and body.
async fn send(address: SocketAddr, method: &str, id: &str, key: &str) -> (u16, String, Value) {
    ask(address, method, &format!("/v1/orders/{id}"), key).await
}

async fn ask(address: SocketAddr, method: &str, path: &str, key: &str) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test]
async fn a_merchant_reads_its_order() {
    let address = start(Store { orders: HashMap::from([stored("k")]), ..Store::default() }).await;
    let id = id("k", NOW).to_string();
    for text in [id.clone(), id.to_lowercase()] {
        let (status, head, body) = send(address, "GET", &text, "key-1").await;
        assert_eq!((status, &body["id"], &body["status"]), (200, &id.as_str().into(), &"accepted".into()));
        assert_eq!((&body["customer"], &body["placed_at"]), (&"c \"77\"".into(), &"2026-11-11T00:00:00.123Z".into()));
        assert_eq!(
            (body["parcels"].as_array().map(Vec::len), &body["timeline"][0]["milestone"]),
            (Some(0), &"accepted".into())
        );
        assert!(head.contains("content-type: application/json"), "{head}");
    }
    let (status, _, body) = send(address, "HEAD", &id, "key-1").await;
    assert_eq!((status, body), (200, Value::Null));
}

#[tokio::test]
async fn what_is_not_ones_own_is_unknown() {
    let address = start(Store { orders: HashMap::from([stored("k")]), ..Store::default() }).await;
    let (own, never) = (id("k", NOW).to_string(), id("other", NOW).to_string());
    let of_others = send(address, "GET", &own, "key-2").await;
    let of_nobody = send(address, "GET", &never, "key-2").await;
    assert_eq!(of_others, of_nobody, "they can't be told apart");
    assert_eq!(of_others.0, 404);
    assert_eq!(of_others.2["type"], "urn:sluice:problem:not-found");
    assert!(of_others.1.contains("content-type: application/problem+json"));
    for bad in ["x", "0", &"Z".repeat(26), &"U".repeat(26), &own[1..], &format!("{own}0"), "%ff", "%F0%9F%8D%A3"] {
        let (status, head, _) = send(address, "GET", bad, "key-1").await;
        assert!(status == 404 && !head.contains("retry-after"), "{bad} {head}");
    }
}

#[tokio::test]
async fn a_young_order_may_still_come() {
    let address = start(Store::default()).await;
    for (age, young) in [(0, true), (9_999, true), (10_000, false), (10_001, false)] {
        for placed_at in [NOW - age, NOW + age] {
            let (status, head, _) = send(address, "GET", &id("k", placed_at).to_string(), "key-1").await;
            assert_eq!((status, head.contains("retry-after: 1\r\n")), (404, young), "{placed_at}");
        }
    }
}

#[tokio::test]
async fn other_refusals_are_problems_too() {
    let address = start(Store { broken: true, ..Store::default() }).await;
    let own = id("k", NOW).to_string();
    let (status, head, body) = send(address, "GET", &own, "key-1").await;
    assert_eq!((status, &body["status"]), (503, &503.into()));
    assert!(head.contains("retry-after: 1"));
    let (status, head, _) = send(address, "GET", &own, "wrong").await;
    assert!(status == 401 && head.contains("www-authenticate: bearer"));
    let (status, head, body) = send(address, "DELETE", &own, "key-1").await;
    assert_eq!((status, &body["status"]), (405, &405.into()));
    assert!(head.contains("allow: get,head"));
}

#[tokio::test]
async fn a_damaged_order_is_not_shown() {
    let (key, mut order) = stored("k");
    order.row.push(99);
    let address = start(Store { orders: HashMap::from([(key, order)]), ..Store::default() }).await;
    assert_eq!(send(address, "GET", &id("k", NOW).to_string(), "key-1").await.0, 503);
}

#[tokio::test]
async fn a_customers_orders_are_listed_by_pages() {
    let keys = ["a", "b", "c", "d", "e"];
    let address = start(Store { orders: keys.map(stored).into(), ..Store::default() }).await;
    let mut ids = keys.map(|key| id(key, NOW).to_string());
    ids.sort_by(|a, b| b.cmp(a));
    let (mut found, mut path) = (Vec::new(), "/v1/orders?customer=c%20%2277%22&limit=2".to_owned());
    for page in 0..3 {
        let (status, head, body) = ask(address, "GET", &path, "key-1").await;
        assert!(status == 200 && head.contains("content-type: application/json"), "{head}");
        let orders = body["orders"].as_array().unwrap();
        assert_eq!(orders.len(), if page < 2 { 2 } else { 1 });
        for order in orders {
            assert_eq!((&order["customer"], &order["status"]), (&"c \"77\"".into(), &"accepted".into()));
            assert_eq!((&order["currency"], &order["total"]), (&"USD".into(), &129.into()));
            assert_eq!(order["placed_at"], "2026-11-11T00:00:00.123Z");
            found.push(order["id"].as_str().unwrap().to_owned());
        }
        match body["next"].as_str() {
            Some(next) => path = format!("/v1/orders?customer=c%20%2277%22&limit=2&after={next}"),
            None => assert!(page == 2 && body["next"].is_null(), "{body}"),
        }
    }
    assert_eq!(found, ids);
    let none = serde_json::json!({"orders": [], "next": null});
    for (customer, key) in [("c", "key-1"), ("c+%2277%22", "key-2")] {
        assert_eq!(ask(address, "GET", &format!("/v1/orders?customer={customer}"), key).await.2, none);
    }
}

#[tokio::test]
async fn lists_that_cannot_be_read_are_problems() {
    let address = start(Store { broken: true, ..Store::default() }).await;
    let (status, head, _) = ask(address, "GET", "/v1/orders?customer=c", "key-1").await;
    assert!(status == 503 && head.contains("retry-after: 1"), "{head}");
    assert_eq!(ask(address, "GET", "/v1/orders?customer=c", "wrong").await.0, 401);
    let (status, _, body) = ask(address, "GET", "/v1/orders?limit=0", "key-1").await;
    let fields: Vec<_> = body["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!((status, fields), (400, vec!["limit", "customer"]), "{body}");
    // One order that can't be read, and nobody is told that the list is whole.
    let (key, mut order) = stored("k");
    order.row.push(99);
    let address = start(Store { orders: HashMap::from([(key, order)]), ..Store::default() }).await;
    assert_eq!(ask(address, "GET", "/v1/orders?customer=c%20%2277%22", "key-1").await.0, 503);
}

#[tokio::test]
async fn so_many_lists_are_read_at_once() {
    let gate = Arc::new(Gate::default());
    let address = start(Store { gate: Some(Arc::clone(&gate)), ..Store::default() }).await;
    let list = move || async move { ask(address, "GET", "/v1/orders?customer=c", "key-1").await };
    let sixteen: Vec<_> = (0..16).map(|_| tokio::spawn(list())).collect();
    gate.entered.acquire_many(16).await.unwrap().forget();
    let (status, head, _) = list().await;
    assert!(status == 503 && head.contains("retry-after: 1"), "{head}");
    gate.open.add_permits(17);
    for task in sixteen {
        assert_eq!(task.await.unwrap().0, 200);
    }
    assert_eq!(list().await.0, 200);
}
