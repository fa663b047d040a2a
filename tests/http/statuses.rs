//! Every status that the API's description promises is seen, and carries what the description says.

use std::{cell::Cell, collections::BTreeSet, net::ToSocketAddrs};

use serde_json::{Value, json};
use sluice_domain::limits::{MAX_BATCH_BYTES, MAX_EVENTS_BYTES, MAX_ORDER_BYTES, MAX_RETURN_BYTES, MAX_REVIEW_BYTES};

use super::{
    commands::{bring_back, cancel},
    life::wait_for_status,
    tracking::{event, headers, lines},
};
use crate::support::{
    PATIENCE,
    client::{Answer, Client, Connection},
    engine::{Engine, on_both_engines},
    events::Events,
    journal::{groups, overwrite},
    orders::{order, order_of},
    proxy::Proxy,
    setup::{EVENTS_SECRET, GOOD, SECRET, Setup},
    wait_for,
    world::World,
};

on_both_engines!(every_documented_status_is_seen);

/// What is told of orders.
const TOLD: &str = "/v1/events";
/// Seen where events expire, which takes longer than any test here: `services/events/tests`, and the cluster engine's own.
/// Owners that take their time, and orders with as many commands as are kept: `replay_tests.rs` of
/// `services/operator`. Reviews while something is away: `review_tests.rs` beside it.
const ELSEWHERE: [(&str, &str, u16); 11] = [
    ("get", TOLD, 410),
    ("get", OPERATOR_TOLD, 410),
    ("post", OPERATOR_REPLAY, 202),
    ("post", OPERATOR_REPLAY, 409),
    ("post", REVIEWED, 202),
    ("post", REVIEWED, 408),
    ("post", REVIEWED, 409),
    ("post", REVIEWED, 503),
    ("get", REVIEW, 503),
    ("get", KEPT, 503),
    ("delete", KEPT_ONE, 503),
];
/// What waits for a person, and what decisions about it are kept for.
const REVIEW: &str = "/v1/review";
const REVIEWED: &str = "/v1/review/{id}";
const KEPT: &str = "/v1/review/kept";
const KEPT_ONE: &str = "/v1/review/kept/{id}";
/// What operators are shown.
const OPERATOR_TOLD: &str = "/v1/operator/events";
const OPERATOR_ORDER: &str = "/v1/operator/orders/{id}";
const OPERATOR_REPLAY: &str = "/v1/operator/orders/{id}/replay";
const OPERATOR_KEY: &str = "operators-key";

/// What begins like this has all its statuses produced, and compared with the same description, by the crate's own tests
/// (`every_documented_status_is_seen` of `services/webhooks/tests/api.rs`): most of them take documents or a feed that can be
/// made to fail.
const WEBHOOKS: &str = "/v1/webhooks";

/// Method, path as described, status.
type Seen = BTreeSet<(String, String, u16)>;

const ORDERS: &str = "/v1/orders";
const BATCH: &str = "/v1/orders:batch";
const ORDER: &str = "/v1/orders/{id}";
const CANCEL: &str = "/v1/orders/{id}/cancel";
const RETURNS: &str = "/v1/orders/{id}/returns";
const STREAM: &str = "/v1/orders/{id}/events";
const EVENTS: &str = "/v1/carriers/{carrier}/events";
/// Where the test's carrier tells.
const GOODS_EVENTS: &str = "/v1/carriers/good/events";

/// Notes what was answered, after checking that it is whole.
#[track_caller]
fn note(seen: &mut Seen, method: &str, path: &str, status: u16, answer: &Answer) {
    if status >= 400 {
        answer.problem(status);
    }
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    match status {
        401 if path == EVENTS => assert_eq!(answer.header("www-authenticate"), Some("Signature")),
        401 => assert_eq!(answer.header("www-authenticate"), Some("Bearer")),
        405 => assert!(answer.header("allow").is_some(), "{answer:?}"),
        _ => {}
    }
    seen.insert((method.to_owned(), path.to_owned(), status));
}

fn documented(description: &Value) -> Seen {
    let mut all = Seen::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for status in operation["responses"].as_object().unwrap().keys() {
                all.insert((method.to_owned(), path.clone(), status.parse().unwrap()));
            }
        }
    }
    all
}

fn every_documented_status_is_seen(engine: &Engine) {
    // As little memory for requests as may be configured: one batch as large as it may be is a merchant's whole share.
    let limits = "max_inflight_mb = 32\nmax_event_streams = 2\nmax_streams = 2\ndrain_deadline_s = 60\noperator_key = \"operators-key\"\n";
    let mut setup = Setup::new(&[GOOD]).with(limits);
    setup.merchants.push(("m-3".to_owned(), "key-3".to_owned()));
    let mut world = World::on(engine, setup);
    let store = store_of(engine, &mut world);
    let server = world.serve();
    let client = world.client();
    let mut seen = Seen::new();
    overload(&mut seen, &world);
    // These take as long as the server's patience with a body: they run beside everything else.
    let back = "/v1/orders/01M6VZ4W3V00J8Z8M3C0V9S1QK/returns";
    let (json, ndjson) = ("application/json", "application/x-ndjson");
    let slow = [(ORDERS, json), (BATCH, ndjson), (GOODS_EVENTS, json), (back, json)];
    let slow = slow.map(|(path, kind)| {
        let client = world.client_of("key-3");
        std::thread::spawn(move || never_finished(&client, path, kind))
    });
    refusals(&mut seen, &client);
    let description = client.get("/openapi.json");
    let id = client.order("k", &order()).id();
    operations(&mut seen, &client, &id);
    wishes(&mut seen, &client);
    events(&mut seen, &client, &id);
    told(&mut seen, &world);
    streams(&mut seen, &world, &id);
    operators(&mut seen, &world, &id);
    reviews(&mut seen, &world);
    for (path, answer) in [ORDERS, BATCH, EVENTS, RETURNS].into_iter().zip(slow) {
        note(&mut seen, "post", path, 408, &answer.join().unwrap());
    }

    let taken = client.order("taken", &order()).id();
    wait_for_status(&client, &taken, "carrier_accepted");
    // An order that is still on its way keeps the drain from ending.
    world.carriers.change("good", r#"{"down": true}"#);
    client.order("waits", &order()).id();
    server.start_drain();
    wait_for("the drain begins", || (client.get("/readyz").status == 503).then_some(()));
    note(&mut seen, "get", "/readyz", 503, &client.get("/readyz"));
    note(&mut seen, "get", "/healthz", 200, &client.get("/healthz"));
    note(&mut seen, "post", EVENTS, 503, &tell(&client, EVENTS_SECRET, "msg_late", &delivered(&id)));
    client.view(&id);
    note(&mut seen, "post", CANCEL, 503, &cancel(&client, &taken));
    note(&mut seen, "post", RETURNS, 503, &bring_back(&client, &id, "r-late", &[(0, 1)]));
    world.carriers.change("good", r#"{"down": false}"#);
    server.receipt();

    unreadable(&mut seen, &world, store.as_ref(), &id);
    seen.extend(ELSEWHERE.map(|(method, path, status)| (method.to_owned(), path.to_owned(), status)));
    let description = description.json();
    let missing = documented(&description).difference(&seen).cloned().collect::<Vec<_>>();
    let missing: Vec<_> = missing.iter().filter(|(_, path, _)| !path.starts_with(WEBHOOKS)).collect();
    assert!(missing.is_empty(), "documented and never seen: {missing:?}");
    let more: Vec<_> = seen.difference(&documented(&description)).cloned().collect();
    assert!(more.is_empty(), "seen and not documented: {more:?}");
}

/// What is wrong with a request, by status.
fn refusals(seen: &mut Seen, client: &Client) {
    const JSON: &str = "content-type: application/json";
    const NDJSON: &str = "content-type: application/x-ndjson";
    const KEY: &str = "idempotency-key: k-refused";
    let good = order().to_string();
    let (nobody, order_text) = (Client::new(client.address, "key-none"), good.as_bytes());
    let post = |client: &Client, path: &str, headers: &[&str], body: &[u8]| {
        client.send(&format!("POST {path}"), headers, body)
    };
    note(seen, "post", ORDERS, 400, &post(client, ORDERS, &[JSON], order_text));
    note(seen, "post", ORDERS, 400, &post(client, ORDERS, &[JSON, KEY], b"{"));
    note(seen, "post", ORDERS, 401, &post(&nobody, ORDERS, &[JSON, KEY], order_text));
    note(seen, "post", ORDERS, 401, &post(&Client::new(client.address, ""), ORDERS, &[JSON, KEY], order_text));
    note(seen, "post", ORDERS, 405, &client.send("PUT /v1/orders", &[JSON, KEY], order_text));
    note(seen, "post", ORDERS, 413, &post(client, ORDERS, &[JSON, KEY], &vec![b' '; MAX_ORDER_BYTES + 1]));
    note(seen, "post", ORDERS, 415, &post(client, ORDERS, &["content-type: text/plain", KEY], order_text));
    note(seen, "post", ORDERS, 415, &post(client, ORDERS, &[JSON, KEY, "content-encoding: gzip"], order_text));
    note(seen, "post", ORDERS, 422, &post(client, ORDERS, &[JSON, KEY], b"{}"));
    note(seen, "post", ORDERS, 201, &post(client, ORDERS, &[JSON, KEY], order_text));
    note(seen, "post", BATCH, 400, &post(client, BATCH, &[NDJSON], b""));
    note(seen, "post", BATCH, 401, &post(&nobody, BATCH, &[NDJSON], order_text));
    note(seen, "post", BATCH, 405, &client.send("DELETE /v1/orders:batch", &[], b""));
    note(seen, "post", BATCH, 413, &post(client, BATCH, &[NDJSON], &vec![b'\n'; MAX_BATCH_BYTES + 1]));
    note(seen, "post", BATCH, 415, &post(client, BATCH, &[JSON], order_text));
    note(seen, "post", BATCH, 200, &post(client, BATCH, &[NDJSON], order_text));
    let list = "/v1/orders?customer=c-77";
    note(seen, "get", ORDERS, 200, &client.get(list));
    note(seen, "get", ORDERS, 400, &client.get(ORDERS));
    note(seen, "get", ORDERS, 401, &nobody.get(list));
    note(seen, "get", ORDERS, 405, &client.send(&format!("DELETE {list}"), &[], b""));
    client.get("/nothing/here").problem(404);
}

/// What can become of a merchant's wish about its order.
fn wishes(seen: &mut Seen, client: &Client) {
    let id = client.order("k-wishes", &order()).id();
    wait_for_status(client, &id, "carrier_accepted");
    let nobody = Client::new(client.address, "key-none");
    note(seen, "post", CANCEL, 401, &cancel(&nobody, &id));
    note(seen, "post", CANCEL, 404, &cancel(client, "no-id-at-all"));
    note(seen, "post", CANCEL, 405, &client.get(&format!("/v1/orders/{id}/cancel")));
    note(seen, "post", CANCEL, 202, &cancel(client, &id));
    wait_for_status(client, &id, "cancelled");
    note(seen, "post", CANCEL, 200, &cancel(client, &id));
    let id = client.order("k-back", &order()).id();
    wait_for_status(client, &id, "carrier_accepted");
    note(seen, "post", RETURNS, 409, &bring_back(client, &id, "r-1", &[(0, 1)]));
    assert_eq!(tell(client, EVENTS_SECRET, "msg_back", &delivered(&id)).status, 200);
    wait_for_status(client, &id, "delivered");
    note(seen, "post", CANCEL, 409, &cancel(client, &id));
    let path = format!("POST /v1/orders/{id}/returns");
    let post = |headers: &[&str], body: &[u8]| client.send(&path, headers, body);
    let (json, key) = ("content-type: application/json", "idempotency-key: r-2");
    note(seen, "post", RETURNS, 400, &post(&[json, key], b"{"));
    note(seen, "post", RETURNS, 401, &bring_back(&nobody, &id, "r-2", &[(0, 1)]));
    note(seen, "post", RETURNS, 404, &bring_back(client, "no-id-at-all", "r-2", &[(0, 1)]));
    note(seen, "post", RETURNS, 405, &client.get(&format!("/v1/orders/{id}/returns")));
    note(seen, "post", RETURNS, 413, &post(&[json, key], &vec![b' '; MAX_RETURN_BYTES + 1]));
    note(seen, "post", RETURNS, 415, &post(&["content-type: text/plain", key], b"{}"));
    note(seen, "post", RETURNS, 422, &post(&[json, key], b"{}"));
    note(seen, "post", RETURNS, 202, &bring_back(client, &id, "r-2", &[(0, 1)]));
}

fn delivered(id: &str) -> String {
    json!({"events": [event(id, 0, "delivered", 0)]}).to_string()
}

fn tell(client: &Client, secret: &str, id: &str, body: &str) -> Answer {
    client.send(&format!("POST {GOODS_EVENTS}"), &lines(&headers(secret, id, body)), body.as_bytes())
}

/// What can become of a carrier's message.
fn events(seen: &mut Seen, client: &Client, id: &str) {
    let good = delivered(id);
    note(seen, "post", EVENTS, 200, &tell(client, EVENTS_SECRET, "msg_1", &good));
    note(seen, "post", EVENTS, 400, &tell(client, EVENTS_SECRET, "msg_2", "{"));
    note(seen, "post", EVENTS, 401, &tell(client, SECRET, "msg_3", &good));
    note(seen, "post", EVENTS, 405, &client.get(GOODS_EVENTS));
    note(seen, "post", EVENTS, 413, &tell(client, EVENTS_SECRET, "msg_4", &" ".repeat(MAX_EVENTS_BYTES + 1)));
    let mut plain = headers(EVENTS_SECRET, "msg_5", &good);
    plain[0] = "content-type: text/plain".to_owned();
    note(seen, "post", EVENTS, 415, &client.send(&format!("POST {GOODS_EVENTS}"), &lines(&plain), good.as_bytes()));
    note(seen, "post", EVENTS, 422, &tell(client, EVENTS_SECRET, "msg_6", "{\"events\":[]}"));
}

/// What can become of a request for events.
fn told(seen: &mut Seen, world: &World) {
    let client = world.client();
    note(seen, "get", TOLD, 200, &client.get("/v1/events?wait=10"));
    note(seen, "get", TOLD, 400, &client.get("/v1/events?after=yesterday"));
    note(seen, "get", TOLD, 401, &Client::new(client.address, "key-none").get(TOLD));
    note(seen, "get", TOLD, 405, &client.send("POST /v1/events", &[], b""));
    let open = |client: &Client| -> Connection {
        let mut connection = client.connect().unwrap();
        connection.write(client.head("GET /v1/events?follow=true", &[], 0).as_bytes()).unwrap();
        connection
    };
    // An answer that doesn't end is one that the client can't read: what is refused ends.
    let mut open_until = |hog: &Client, client: &Client, status: u16, streams: &mut Vec<Connection>| {
        let refused = wait_for(&format!("{TOLD} is answered {status}"), || {
            streams.push(open(hog));
            Some(client.get("/v1/events?wait=1")).filter(|answer| answer.status == status)
        });
        note(seen, "get", TOLD, status, &refused);
    };
    let mut streams = Vec::new();
    open_until(&client, &client, 429, &mut streams);
    open_until(&world.other_client(), &world.client_of("key-3"), 503, &mut streams);
    drop(streams);
    wait_for("room again", || (client.get("/v1/events?wait=1").status == 200).then_some(()));
}

/// What an operator can be told.
fn operators(seen: &mut Seen, world: &World, id: &str) {
    let (operator, merchant) = (world.client_of(OPERATOR_KEY), world.client());
    let path = format!("/v1/operator/orders/{id}");
    note(seen, "get", OPERATOR_ORDER, 200, &operator.get(&path));
    note(seen, "get", OPERATOR_ORDER, 401, &merchant.get(&path));
    note(seen, "get", OPERATOR_ORDER, 404, &operator.get("/v1/operator/orders/no-id-at-all"));
    note(seen, "get", OPERATOR_ORDER, 405, &operator.send(&format!("DELETE {path}"), &[], b""));
    let replay = format!("POST {path}/replay");
    note(seen, "post", OPERATOR_REPLAY, 200, &operator.send(&replay, &[], b""));
    note(seen, "post", OPERATOR_REPLAY, 400, &operator.send(&replay, &["idempotency-key: a b"], b""));
    note(seen, "post", OPERATOR_REPLAY, 401, &merchant.send(&replay, &[], b""));
    note(seen, "post", OPERATOR_REPLAY, 404, &operator.send("POST /v1/operator/orders/no-id-at-all/replay", &[], b""));
    note(seen, "post", OPERATOR_REPLAY, 405, &operator.get(&format!("{path}/replay")));
    note(seen, "get", OPERATOR_TOLD, 200, &operator.get("/v1/operator/events?wait=10"));
    note(seen, "get", OPERATOR_TOLD, 400, &operator.get("/v1/operator/events?after=yesterday"));
    note(seen, "get", OPERATOR_TOLD, 401, &merchant.get(OPERATOR_TOLD));
    note(seen, "get", OPERATOR_TOLD, 405, &operator.send("POST /v1/operator/events", &[], b""));
    let mut streams = Vec::new();
    let refused = wait_for("no further stream", || {
        let mut connection = operator.connect().unwrap();
        let head = operator.head("GET /v1/operator/events?follow=true", &[], 0);
        connection.write(head.as_bytes()).unwrap();
        streams.push(connection);
        Some(operator.get("/v1/operator/events?wait=1")).filter(|answer| answer.status == 503)
    });
    note(seen, "get", OPERATOR_TOLD, 503, &refused);
    assert_eq!(merchant.get("/v1/events?wait=1").status, 200, "merchants have places of their own");
}

fn reviews(seen: &mut Seen, world: &World) {
    const JSON: &str = "content-type: application/json";
    let (operator, merchant) = (world.client_of(OPERATOR_KEY), world.client());
    // Nobody knows what it is.
    merchant.order("k-review", &order_of(&[("QWERTYUIOP", 1)])).id();
    let listed = wait_for("it waits", || {
        let answer = operator.get(REVIEW);
        answer.json()["items"].as_array().is_some_and(|items| !items.is_empty()).then_some(answer)
    });
    note(seen, "get", REVIEW, 200, &listed);
    let id = listed.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("POST /v1/review/{id}");
    let post = |client: &Client, headers: &[&str], body: &[u8]| client.send(&path, headers, body);
    let row = br#"{"handling": "chilled", "keep": "row"}"#;
    note(seen, "post", REVIEWED, 400, &post(&operator, &[JSON], b"{"));
    note(seen, "post", REVIEWED, 401, &post(&merchant, &[JSON], row));
    note(seen, "post", REVIEWED, 404, &operator.send("POST /v1/review/no-id-at-all", &[JSON], row));
    note(seen, "post", REVIEWED, 405, &operator.get(&format!("/v1/review/{id}")));
    note(seen, "post", REVIEWED, 413, &post(&operator, &[JSON], &[b' '; MAX_REVIEW_BYTES + 1]));
    note(seen, "post", REVIEWED, 415, &post(&operator, &["content-type: text/plain"], row));
    note(seen, "post", REVIEWED, 422, &post(&operator, &[JSON], b"{}"));
    let decided =
        wait_for("it is decided", || Some(post(&operator, &[JSON], row)).filter(|answer| answer.status == 200));
    note(seen, "post", REVIEWED, 200, &decided);
    for (path, wrong) in [(REVIEW, "/v1/review?limit=0"), (KEPT, "/v1/review/kept?keep=all")] {
        note(seen, "get", path, 400, &operator.get(wrong));
        note(seen, "get", path, 401, &merchant.get(path));
        note(seen, "get", path, 405, &operator.send(&format!("DELETE {path}"), &[], b""));
    }
    note(seen, "get", KEPT, 200, &operator.get("/v1/review/kept?keep=row"));
    let forget = format!("DELETE /v1/review/kept/{id}");
    note(seen, "delete", KEPT_ONE, 401, &merchant.send(&forget, &[], b""));
    note(seen, "delete", KEPT_ONE, 405, &operator.get(&format!("/v1/review/kept/{id}")));
    note(seen, "delete", KEPT_ONE, 204, &operator.send(&forget, &[], b""));
    note(seen, "delete", KEPT_ONE, 404, &operator.send(&forget, &[], b""));
}

fn operations(seen: &mut Seen, client: &Client, id: &str) {
    let path = format!("/v1/orders/{id}");
    client.view(id);
    note(seen, "get", ORDER, 200, &client.get(&path));
    note(seen, "get", ORDER, 401, &Client::new(client.address, "key-none").get(&path));
    note(seen, "get", ORDER, 404, &client.get("/v1/orders/no-id-at-all"));
    note(seen, "get", ORDER, 405, &client.send(&format!("DELETE {path}"), &[], b""));
    for path in ["/healthz", "/readyz", "/metrics"] {
        note(seen, "get", path, 200, &client.get(path));
    }
    // Whoever may not have arrived yet may come back.
    let mut young = ulid::Ulid::from_string(id).unwrap();
    young.0 ^= 1;
    let answer = client.get(&format!("/v1/orders/{young}"));
    assert!(answer.problem(404).is_empty() && answer.header("retry-after").is_some(), "{answer:?}");
}

/// What can become of somebody who wants to follow an order.
fn streams(seen: &mut Seen, world: &World, id: &str) {
    let (client, path) = (world.client(), format!("/v1/orders/{id}/events"));
    note(seen, "get", STREAM, 401, &Client::new(client.address, "key-none").get(&path));
    note(seen, "get", STREAM, 404, &world.other_client().get(&path));
    note(seen, "get", STREAM, 405, &client.send(&format!("POST {path}"), &[], b""));
    let open = Events::open(&client, id, None);
    note(seen, "get", STREAM, 200, &open.answer);
    note(seen, "get", STREAM, 429, &client.get(&path));
    let others = world.other_client().order("k-follow", &order()).id();
    world.other_client().view(&others);
    let _other = Events::open(&world.other_client(), &others, None);
    note(seen, "get", STREAM, 503, &world.client_of("key-3").get(&path));
}

/// Fills the memory for requests with bodies that are announced and don't come.
fn overload(seen: &mut Seen, world: &World) {
    let (one, other) = (world.client(), world.other_client());
    let hog = |client: &Client| -> Connection {
        let mut connection = client.connect().unwrap();
        let head = client.head(&format!("POST {BATCH}"), &["content-type: application/x-ndjson"], MAX_BATCH_BYTES);
        connection.write(head.as_bytes()).unwrap();
        connection
    };
    // A key of its own for every order: placed_at differs, and some are taken before the overload shows.
    let keys = Cell::new(0);
    let post = |client: &Client, path: &str| match path {
        ORDERS => client.order(&format!("k-overload-{}", keys.replace(keys.get() + 1)), &order()),
        _ => client.batch(order().to_string()),
    };
    // The announcement takes a moment to be read, and may itself be refused for want of room while an earlier request
    // is still leaving: announce until it shows.
    let mut hogs = Vec::new();
    let mut refused = |hoggish: &Client, client: &Client, path: &str, status: u16| {
        wait_for(&format!("{path} is answered {status}"), || {
            hogs.push(hog(hoggish));
            Some(post(client, path)).filter(|answer| answer.status == status)
        })
    };
    for path in [ORDERS, BATCH] {
        note(seen, "post", path, 429, &refused(&one, &one, path, 429));
        assert!(post(&other, path).status < 300, "another merchant isn't held up");
    }
    let third = world.client_of("key-3");
    for path in [ORDERS, BATCH] {
        note(seen, "post", path, 503, &refused(&other, &third, path, 503));
    }
    drop(hogs);
    wait_for("room again", || (post(&one, ORDERS).status == 201).then_some(()));
}

/// Announces a body, begins it, and never goes on.
fn never_finished(client: &Client, path: &str, kind: &str) -> Answer {
    let mut all = headers(EVENTS_SECRET, "msg_slow", "");
    all[0] = format!("content-type: {kind}");
    all.push("idempotency-key: k-slow".to_owned());
    let head = client.head(&format!("POST {path}"), &lines(&all), 1_000);
    let mut connection = client.connect().unwrap();
    connection.write(head.as_bytes()).unwrap();
    connection.write(b"{").unwrap();
    let started = std::time::Instant::now();
    let answer = connection.answer().unwrap();
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    answer
}

/// A way to the cluster's store that can be closed.
fn store_of(engine: &Engine, world: &mut World) -> Option<Proxy> {
    let Engine::Cluster(shared) = engine else { return None };
    let proxy = Proxy::start().unwrap();
    proxy.lead_to(shared.brokers.store().to_socket_addrs().unwrap().next().unwrap());
    world.reach_store_at(proxy.address());
    Some(proxy)
}

/// Takes from a server what an order is read from: the store, or the record in its journal.
fn unreadable(seen: &mut Seen, world: &World, store: Option<&Proxy>, id: &str) {
    let server = world.serve();
    let client = world.client();
    client.view(id);
    match store {
        Some(store) => store.close(),
        None => damage(world, id),
    }
    note(seen, "get", ORDER, 503, &client.get(&format!("/v1/orders/{id}")));
    let customer = order()["customer"].as_str().unwrap().to_owned();
    note(seen, "get", ORDERS, 503, &client.get(&format!("/v1/orders?limit=100&customer={customer}")));
    let operator = world.client_of(OPERATOR_KEY);
    let path = format!("/v1/operator/orders/{id}");
    note(seen, "get", OPERATOR_ORDER, 503, &operator.get(&path));
    note(seen, "post", OPERATOR_REPLAY, 503, &operator.send(&format!("POST {path}/replay"), &[], b""));
    assert_eq!(client.order("k-after", &order()).status, 201, "nobody else is held up");
    server.kill();
}

/// Damages the record of an order behind the server's back, after its start has verified all of it.
fn damage(world: &World, id: &str) {
    let needle = ulid::Ulid::from_string(id).unwrap().0.to_be_bytes();
    let group = groups(world.data_dir()).into_iter().find_map(|group| {
        let bytes = std::fs::read(&group.file).unwrap();
        let from = group.offset as usize;
        let at = bytes[from..from + group.len() as usize].windows(16).position(|window| window == needle)?;
        Some((group.file.clone(), group.offset + at as u64))
    });
    let (file, at) = group.expect("the order's id is in its record");
    // What stands before the id says how long the record is and of which kind. A record of a wrong kind is shown to operators
    // as far as it can be; of one without an end there is nothing to show.
    overwrite(&file, at - 3, &[0xFF; 8]);
}
