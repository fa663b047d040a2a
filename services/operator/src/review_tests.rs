//! What waits, over the routes themselves: listed, decided, kept and taken back.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use sluice_domain::{Fingerprint, Handling, commands::MAX_COMMANDS, limits::MAX_REVIEW_BYTES};
use sluice_schemas::{
    command::{Keep, Verdict},
    delta::{Delta, Item, Items, Weight},
    order::{Head, ShipTo, put_head, put_line},
    wire::Reader,
};

use super::*;
use crate::testing::{World, id, row, world};

fn record(n: u64, merchant: &str, titles: &[&str]) -> Vec<u8> {
    let ship_to = ShipTo { name: "Ada", street: "Mill Lane", city: "c", postal_code: "", country: "US" };
    let head = Head {
        id: id(n).0,
        fingerprint_high: Fingerprint::of("m-1", &format!("k-{n}")).high(),
        accepted_at_ms: id(n).placed_at_ms() + 5,
        merchant,
        customer: "c-77",
        currency: "USD",
        ship_to,
        lines: titles.len(),
    };
    let mut record = Vec::new();
    put_head(&mut record, &head);
    for title in titles {
        put_line(&mut record, &Line { sku: "x-1", title, quantity: 7, unit_price: 129 });
    }
    record
}

/// An order of which the last line waits, in parcel 1, and what else there is to its row.
fn held(n: u64, merchant: &str, title: &str, more: &[Delta<'_>]) -> (OrderId, StoredOrder) {
    let mut bytes = Vec::new();
    Items::encode(&[Item { line: 1, quantity: Some(3) }], &mut bytes);
    let items = Items::read(&mut Reader::new(&bytes)).unwrap();
    let (likely, confidence) = (Handling::HazmatCheck as u8, if n.is_multiple_of(2) { 41 } else { 0 });
    let deltas = [
        Delta::Accepted { position: 1 },
        Delta::Classified { parcels: 2, rules: 7, model: n as u32 },
        Delta::Held { parcel: 1, handling: likely, confidence, weight: Weight::known(300), items },
    ];
    (id(n), StoredOrder { row: row(&[&deltas, more].concat()), record: record(n, merchant, &["MILK", title]) })
}

const CANCELLED: Delta<'_> = Delta::Reviewed { parcel: 1, handling: None, keep: Keep::No, command: 1, by: "" };

async fn ask(world: &Arc<World>, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path).header("authorization", "Bearer key");
    let request = request.header("content-type", "application/json").body(Body::from(body.to_owned())).unwrap();
    world.ask(request).await
}

async fn get(world: &Arc<World>, path: &str) -> Value {
    let (status, answer) = ask(world, "GET", path, "").await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

async fn decide(world: &Arc<World>, n: u64, body: &Value) -> (StatusCode, Value) {
    ask(world, "POST", &format!("/v1/review/{}-1", id(n)), &body.to_string()).await
}

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|item| item["order"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_waits_is_listed_newest_first() {
    let orders = vec![held(3, "m-1", "GLOW", &[]), held(2, "m-2", "SEA", &[]), held(0, "m-1", "AIR", &[CANCELLED])];
    let world = world(true, orders);
    let page = get(&world, "/v1/review").await;
    assert_eq!((ids(&page), &page["next"]), (vec![id(3).to_string(), id(2).to_string()], &Value::Null));
    let item = json!({"id": format!("{}-1", id(2)), "order": id(2).to_string(), "parcel": 1, "line": 1, "merchant": "m-2",
        "sku": "x-1", "title": "SEA", "quantity": 3, "weight_g": 300, "weight_estimated": false, "likely": "hazmat_check", "confidence": 41,
        "held_at": "2026-11-11T00:00:00.007Z", "placed_at": "2026-11-11T00:00:00.002Z", "rules": 7, "model": 2});
    assert_eq!(page["items"][1], item);
    assert_eq!(page["items"][0]["confidence"], Value::Null);
    assert_eq!(ids(&get(&world, "/v1/review?merchant=m-2").await), [id(2).to_string()]);
    let first = get(&world, "/v1/review?limit=1").await;
    assert_eq!((ids(&first), &first["next"]), (vec![id(3).to_string()], &json!(id(3).to_string())));
    let rest = get(&world, &format!("/v1/review?limit=100&after={}", id(3))).await;
    assert_eq!(ids(&rest), [id(2).to_string()]);
    for (query, field) in [("limit=101", "limit"), ("after=x", "after"), ("merchant=", "merchant"), ("of=x", "of")] {
        let (status, problem) = ask(&world, "GET", &format!("/v1/review?{query}"), "").await;
        assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!(field)), "{problem}");
    }
    let nobody = Request::get("/v1/review").header("authorization", "Bearer other").body(Body::empty()).unwrap();
    assert_eq!(world.ask(nobody).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_request_looks_at_so_many_orders() {
    let gone = |n| held(n, "m-1", "AIR", &[CANCELLED]);
    let count = MAX_LOOKED_AT as u64 + 5;
    let mut orders: Vec<_> = (1..=count).rev().map(gone).collect();
    orders.push(held(0, "m-1", "LAST", &[]));
    let world = world(true, orders);
    let page = get(&world, "/v1/review?limit=3").await;
    assert_eq!((ids(&page).len(), *world.looked.lock().unwrap()), (0, MAX_LOOKED_AT));
    let next = page["next"].as_str().unwrap().to_owned();
    assert_eq!(ids(&get(&world, &format!("/v1/review?after={next}")).await), [id(0).to_string()]);
}

#[tokio::test(start_paused = true)]
async fn a_decision_has_its_effect_and_its_answer_once() {
    let world = world(true, vec![held(0, "m-1", "SEA GLOW", &[])]);
    let frozen = json!({"handling": "frozen", "keep": "rule"});
    let first = decide(&world, 0, &frozen).await;
    let parcel = json!({"number": 1, "status": "classified", "carrier": null, "dead_letter": null});
    let answer = json!({"id": format!("{}-1", id(0)), "outcome": "released", "handling": "frozen", "kept": "rule",
        "parcel": parcel});
    assert_eq!(first, (StatusCode::OK, answer));
    // A crash before it was kept is mended by whoever asks again.
    world.documents.0.lock().unwrap().clear();
    assert_eq!(decide(&world, 0, &frozen).await, first);
    assert_eq!(world.heard.lock().unwrap().len(), 1);
    let kept = get(&world, "/v1/review/kept?keep=rule").await;
    let rule = &kept["items"][0];
    assert_eq!((&rule["title"], &rule["handling"], &rule["by"]), (&json!("SEA GLOW"), &json!("frozen"), &json!("ann")));
    assert_eq!(rule["at"], "2026-11-11T00:00:00.090Z");
    for other in [json!({"handling": "chilled"}), json!({"handling": "frozen"})] {
        let (status, problem) = decide(&world, 0, &other).await;
        assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:sluice:problem:already-reviewed")));
        assert_eq!(problem["detail"], "ann has decided that it is frozen, kept as a rule.");
    }
    let path = format!("/v1/review/kept/{}", rule["id"].as_str().unwrap());
    assert_eq!(ask(&world, "DELETE", &path, "").await.0, StatusCode::NO_CONTENT);
    let (status, problem) = ask(&world, "DELETE", &path, "").await;
    assert_eq!((status, &problem["type"]), (StatusCode::NOT_FOUND, &json!("urn:sluice:problem:unknown-kept")));
    assert_eq!(get(&world, "/v1/review/kept?keep=rule").await, json!({"items": [], "next": null}));
}

#[tokio::test(start_paused = true)]
async fn what_cant_be_decided_is_said_and_leaves_nothing_behind() {
    let so_many = (0..MAX_COMMANDS as u64).map(|id| Delta::Commanded { id, verdict: Verdict::NotHeld });
    let orders = vec![
        held(3, "m-1", "!!!", &[]),
        held(2, "m-1", "FULL", &so_many.collect::<Vec<_>>()),
        held(1, "m-1", "GONE", &[CANCELLED]),
        held(0, "m-1", "ICE", &[]),
    ];
    let world = world(true, orders);
    let frozen = json!({"handling": "frozen"});
    let kind = async |path: String, body: &Value| {
        let (status, answer) = ask(&world, "POST", &path, &body.to_string()).await;
        (status.as_u16(), answer["type"].as_str().unwrap_or_default().rsplit(':').next().unwrap().to_owned())
    };
    let of = |status, kind: &str| (status, kind.to_owned());
    let path = |n, parcel: &str| format!("/v1/review/{}-{parcel}", id(n));
    assert_eq!(kind(path(9, "1"), &frozen).await, of(404, "unknown-order"));
    assert_eq!(kind("/v1/review/x".to_owned(), &frozen).await, of(404, "unknown-order"));
    assert_eq!(kind(path(0, "7"), &frozen).await, of(404, "unknown-parcel"));
    assert_eq!(kind(path(1, "1"), &frozen).await, of(409, "already-reviewed"));
    assert_eq!(kind(path(2, "1"), &frozen).await, of(409, "too-many-commands"));
    assert_eq!(kind(path(0, "1"), &json!({"handling": "warm"})).await, of(422, "invalid-review"));
    let rule = json!({"handling": "frozen", "keep": "rule"});
    let (status, problem) = decide(&world, 0, &json!({"handling": "frozen", "x": "y".repeat(MAX_REVIEW_BYTES)})).await;
    assert_eq!((status, &problem["type"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("urn:sluice:problem:too-large")));
    let lesson = |n: u64| (format!("goods/rules/{n:032x}").into_bytes(), Vec::new());
    world.documents.0.lock().unwrap().extend([lesson(1), lesson(2)]);
    assert_eq!(kind(path(0, "1"), &rule).await, of(409, "too-many-kept"));
    assert_eq!(world.heard.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_takes_its_time_is_said_so() {
    let world = world(false, vec![held(0, "m-1", "ICE", &[])]);
    let row = json!({"handling": "chilled", "keep": "row"});
    let (status, answer) = decide(&world, 0, &row).await;
    assert_eq!((status, &answer["outcome"]), (StatusCode::ACCEPTED, &json!("undecided")), "{answer}");
    assert_eq!((&answer["handling"], &answer["kept"]), (&Value::Null, &Value::Null));
    decide(&world, 0, &row).await;
    let heard = world.heard.lock().unwrap().clone();
    assert!(heard.len() == 2 && heard[0] == heard[1], "the same wish: {heard:?}");
    assert!(world.documents.0.lock().unwrap().is_empty(), "nothing is kept of what isn't decided");
}

#[tokio::test]
async fn what_is_kept_is_listed_by_pages() {
    let world = world(true, (0..3).rev().map(|n| held(n, "m-1", "ICE", &[])).collect());
    for n in 0..3 {
        let (status, answer) = decide(&world, n, &json!({"handling": "frozen", "keep": "row"})).await;
        assert_eq!((status, &answer["kept"]), (StatusCode::OK, &json!("row")));
    }
    let first = get(&world, "/v1/review/kept?keep=row&limit=2").await;
    let next = first["next"].as_str().unwrap();
    assert_eq!((ids(&first), next), (vec![id(0).to_string(), id(1).to_string()], &*format!("{}-1", id(1))));
    let rest = get(&world, &format!("/v1/review/kept?keep=row&limit=2&after={next}")).await;
    assert_eq!((ids(&rest), &rest["next"]), (vec![id(2).to_string()], &Value::Null));
    for (query, field) in
        [("", "keep"), ("keep=no", "keep"), ("keep=rule&limit=1001", "limit"), ("keep=rule&after=x", "after")]
    {
        let (status, problem) = ask(&world, "GET", &format!("/v1/review/kept?{query}"), "").await;
        assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!(field)), "{problem}");
    }
    // Any id is a place among rules, too.
    assert_eq!(ids(&get(&world, &format!("/v1/review/kept?keep=rule&after={next}")).await), Vec::<String>::new());
}

/// What the integration tests don't bring about: see `every_documented_status_is_seen` there.
#[tokio::test(start_paused = true)]
async fn what_is_away_is_said_to_be_and_what_never_comes_is_not_waited_for() {
    let world = world(true, vec![held(0, "m-1", "ICE", &[])]);
    let path = format!("/v1/review/{}-1", id(0));
    let endless = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request = Request::post(&path).header("authorization", "Bearer key").header("content-type", "application/json");
    let (status, problem) = world.ask(request.body(endless).unwrap()).await;
    assert_eq!((status, &problem["type"]), (StatusCode::REQUEST_TIMEOUT, &json!("urn:sluice:problem:request-timeout")));
    world.away.store(true, Relaxed);
    world.documents.1.store(true, Relaxed);
    let row = json!({"handling": "frozen", "keep": "row"}).to_string();
    for (method, path, body) in [
        ("GET", "/v1/review", ""),
        ("POST", &path, &row),
        ("GET", "/v1/review/kept?keep=row", ""),
        ("DELETE", &format!("/v1/review/kept/{}-1", id(0)), ""),
    ] {
        let (status, problem) = ask(&world, method, path, body).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{method} {path}: {problem}");
    }
    assert_eq!(world.heard.lock().unwrap().len(), 0);
}
