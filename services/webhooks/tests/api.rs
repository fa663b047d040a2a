//! The routes: what they take, what they refuse by name, and whose endpoints they show.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

mod support;

use std::{collections::BTreeSet, sync::atomic::Ordering};

use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use sluice_domain::limits::{
    MAX_DELIVERIES, MAX_REPLAYING, MAX_WEBHOOK_BYTES, MAX_WEBHOOK_DESCRIPTION, MAX_WEBHOOK_URL, MAX_WEBHOOKS,
};
use sluice_webhooks::guard::Guard;
use support::{ACCEPTED, Answer, Node, Setup, TRACKED, config, fixed};

const URL: &str = "https://shop.example/hooks";

/// As in production: nothing inside may be called.
fn strict() -> Setup {
    let mut config = config();
    config.guard = Guard::default();
    Setup { config, ..Setup::default() }
}

#[tokio::test]
async fn an_endpoint_is_made_read_changed_and_removed() {
    let setup = strict();
    let node = setup.start();
    let answer = node.post("/v1/webhooks", json!({"url": "HTTPS://Shop.Example/hooks", "description": "ours"})).await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    let made = answer.ok(201);
    let id = made["id"].as_str().unwrap();
    assert_eq!(location, format!("/v1/webhooks/{id}"));
    assert_eq!((&made["url"], &made["status"], &made["source"]), (&URL.into(), &"active".into(), &"api".into()));
    assert!(id.starts_with("whe_") && id.len() == 30);
    made["secret"].as_str().unwrap().parse::<sluice_http::webhook::Secret>().unwrap();
    let listed = node.get("/v1/webhooks").await.ok(200);
    assert_eq!(listed["endpoints"].as_array().unwrap().len(), 1);
    let patch = json!({"types": [TRACKED, TRACKED, ACCEPTED], "enabled": false});
    let changed = node.call("key-1", "PATCH", &location, Some(patch)).await.ok(200);
    assert_eq!((&changed["types"], &changed["description"]), (&json!([TRACKED, ACCEPTED]), &"ours".into()));
    assert_eq!((&changed["status"], &changed["disabled_because"]), (&"disabled".into(), &"by_merchant".into()));
    // What was answered is durable.
    node.crash().await;
    let node = setup.start();
    assert_eq!(node.get(&location).await.ok(200), changed);
    let patch = json!({"url": "https://other.example/", "enabled": true, "types": []});
    let changed = node.call("key-1", "PATCH", &location, Some(patch)).await.ok(200);
    assert_eq!((&changed["url"], &changed["status"]), (&"https://other.example/".into(), &"active".into()));
    node.call("key-1", "DELETE", &location, None).await.ok(204);
    node.get(&location).await.problem(404);
    node.crash().await;
    let node = setup.start();
    assert_eq!(node.get("/v1/webhooks").await.ok(200), json!({"endpoints": []}));
}

#[tokio::test]
async fn another_merchants_endpoint_is_unknown() {
    let node = strict().start();
    let (id, _) = node.endpoint(json!({"url": URL})).await;
    let path = format!("/v1/webhooks/{id}");
    for (method, path, body) in [
        ("GET", path.clone(), None),
        ("PATCH", path.clone(), Some(json!({"url": URL}))),
        ("DELETE", path.clone(), None),
        ("GET", format!("{path}/deliveries"), None),
        ("POST", format!("{path}/rotate-secret"), None),
        ("POST", format!("{path}/enable"), None),
    ] {
        let others = node.call("key-2", method, &path, body.clone()).await;
        let nobodys = node.call("key-1", method, &path.replace(&id, "whe_none"), body.clone()).await;
        others.problem(404);
        assert_eq!(others.json, nobodys.json, "{method} {path}: they can't be told apart");
        node.call("key-3", method, &path, body).await.problem(401);
    }
    assert_eq!(node.call("key-2", "GET", "/v1/webhooks", None).await.ok(200), json!({"endpoints": []}));
}

#[tokio::test]
async fn mistakes_are_named() {
    let node = strict().start();
    let post = async |body: Value| node.post("/v1/webhooks", body).await.problem(422);
    assert_eq!(post(json!({})).await, ["/url"]);
    assert_eq!(post(json!([])).await, [""]);
    assert_eq!(post(json!({"url": 5, "types": ["x"], "description": "\n", "more": 1})).await.len(), 4);
    for url in [
        "http://shop.example/",
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://u@shop.example/",
        "x",
        "https://localhost/",
    ] {
        assert_eq!(post(json!({"url": url})).await, ["/url"], "{url}");
    }
    assert_eq!(post(json!({"url": URL, "types": "all"})).await, ["/types"]);
    assert_eq!(post(json!({"url": URL, "secret": "whsec_x", "a/b~c": 1})).await, ["/a~1b~0c", "/secret"]);
    let (id, _) = node.endpoint(json!({"url": URL})).await;
    let path = format!("/v1/webhooks/{id}");
    let answer = node.call("key-1", "PATCH", &path, Some(json!({"url": null, "enabled": 1}))).await;
    assert_eq!(answer.problem(422), ["/url", "/enabled"]);
    let answer = node.post(&format!("{path}/rotate-secret"), json!({"overlap_s": 604_801})).await;
    assert_eq!(answer.problem(422), ["/overlap_s"]);
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    assert_eq!(node.replay(&id, "k", late, early).await.problem(422), ["/to"]);
    assert_eq!(node.replay(&id, "k", early, "9999-01-01T00:00:00Z").await.problem(422), ["/to"]);
    assert_eq!(node.replay(&id, "k", "now", late).await.problem(422), ["/from"]);
    let body = json!({"from": early, "to": late});
    assert_eq!(node.post(&format!("{path}/replay"), body).await.problem(400), ["Idempotency-Key"]);
    for (query, field) in [
        ("after=x", "after"),
        ("after=%2B5", "after"),
        ("status=lost", "status"),
        ("limit=0", "limit"),
        ("limit=%2B5", "limit"),
        ("limit=", "limit"),
        ("page=2", "page"),
    ] {
        assert_eq!(node.get(&format!("{path}/deliveries?{query}")).await.problem(422), [field]);
    }
}

#[tokio::test]
async fn every_bound_is_where_it_is_said_to_be() {
    let node = strict().start();
    let text = |len: usize| "x".repeat(len);
    let url = |len: usize| format!("{URL}/{}", text(len - URL.len() - 1));
    let made = async |body: Value| {
        let answer = node.post("/v1/webhooks", body).await;
        if answer.status == 201 {
            let path = format!("/v1/webhooks/{}", answer.json["id"].as_str().unwrap());
            node.call("key-1", "DELETE", &path, None).await.ok(204);
        }
        answer
    };
    for len in [MAX_WEBHOOK_URL - 1, MAX_WEBHOOK_URL] {
        made(json!({"url": url(len)})).await.ok(201);
    }
    assert_eq!(made(json!({"url": url(MAX_WEBHOOK_URL + 1)})).await.problem(422), ["/url"]);
    for len in [0, MAX_WEBHOOK_DESCRIPTION - 1, MAX_WEBHOOK_DESCRIPTION] {
        made(json!({"url": URL, "description": text(len)})).await.ok(201);
    }
    let long = json!({"url": URL, "description": text(MAX_WEBHOOK_DESCRIPTION + 1)});
    assert_eq!(made(long).await.problem(422), ["/description"]);
    for (bytes, status) in [(MAX_WEBHOOK_BYTES - 1, 201), (MAX_WEBHOOK_BYTES, 201), (MAX_WEBHOOK_BYTES + 1, 413)] {
        let body = format!("{:<bytes$}", json!({"url": URL}).to_string());
        let request = Request::post("/v1/webhooks").header("authorization", "Bearer key-1");
        let request = request.header("content-type", "application/json").body(Body::from(body)).unwrap();
        let answer = node.send(request).await;
        assert_eq!(answer.status, status, "{bytes}");
        if status == 201 {
            let path = format!("/v1/webhooks/{}", answer.json["id"].as_str().unwrap());
            node.call("key-1", "DELETE", &path, None).await.ok(204);
        }
    }
    for _ in 0..MAX_WEBHOOKS {
        node.endpoint(json!({"url": URL})).await;
    }
    node.post("/v1/webhooks", json!({"url": URL})).await.problem(409);
    node.call("key-2", "POST", "/v1/webhooks", Some(json!({"url": URL}))).await.ok(201);
    let listed = node.get("/v1/webhooks").await.ok(200);
    let path = format!("/v1/webhooks/{}/deliveries", listed["endpoints"][0]["id"].as_str().unwrap());
    for (limit, fits) in [(MAX_DELIVERIES, true), (MAX_DELIVERIES + 1, false)] {
        let answer = node.get(&format!("{path}?limit={limit}")).await;
        assert_eq!(answer.status == 200, fits, "{limit}");
    }
}

#[tokio::test]
async fn endpoints_of_the_configuration_are_read_only() {
    let setup = Setup { fixed: vec![fixed(URL.to_owned())], ..strict() };
    let node = setup.start();
    let path = format!("/v1/webhooks/{}", fixed(URL.to_owned()).id);
    assert_eq!(node.get(&path).await.ok(200)["source"], "configuration");
    node.call("key-1", "PATCH", &path, Some(json!({"enabled": false}))).await.problem(409);
    node.call("key-1", "DELETE", &path, None).await.problem(409);
    node.post(&format!("{path}/rotate-secret"), json!({})).await.problem(409);
    node.call("key-1", "POST", &format!("{path}/enable"), None).await.ok(200);
    // They don't count as the merchant's own.
    for _ in 0..MAX_WEBHOOKS {
        node.endpoint(json!({"url": URL})).await;
    }
}

#[tokio::test]
async fn a_merchant_has_so_many_replays_under_way() {
    let node = strict().start();
    let (from, to) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let mut ids = Vec::new();
    for _ in 0..=MAX_REPLAYING {
        let (id, _) = node.endpoint(json!({"url": URL})).await;
        // Where nothing may be posted nothing is read either.
        node.call("key-1", "PATCH", &format!("/v1/webhooks/{id}"), Some(json!({"enabled": false}))).await.ok(200);
        ids.push(id);
    }
    let last = ids.pop().unwrap();
    for id in &ids {
        node.replay(id, "k", from, to).await.ok(202);
    }
    let refused = node.replay(&last, "k", from, to).await;
    refused.problem(409);
    assert_eq!(
        (refused.json["type"].as_str(), &refused.headers["retry-after"]),
        (Some(TOO_MANY), &"60".parse().unwrap())
    );
    assert_eq!(node.replay(&ids[0], "k", from, to).await.ok(202)["done"], false, "the same request is no further one");
    let path = format!("/v1/webhooks/{}", ids[0]);
    node.call("key-1", "POST", &format!("{path}/enable"), None).await.ok(200);
    node.until(&path, |shown| shown["replay"]["done"] == true).await;
    node.replay(&last, "k", from, to).await.ok(202);
}

const TOO_MANY: &str = "urn:sluice:problem:too-many-replays";

fn documented() -> BTreeSet<(String, String, u16)> {
    let description = serde_json::to_value(sluice_webhooks::openapi()).unwrap();
    let mut all = BTreeSet::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for status in operation["responses"].as_object().unwrap().keys() {
                all.insert((method.clone(), path.clone(), status.parse().unwrap()));
            }
        }
    }
    let text = description.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(description.pointer(reference).is_some(), "{reference}");
    }
    all
}

/// What a body may be answered, wherever there is one.
async fn bodies(node: &Node, seen: &mut Seen, method: &str, path: &str, described: &str) {
    let send = async |kind: &str, body: Body| {
        let request = Request::builder().method(method).uri(path).header("authorization", "Bearer key-1");
        let request = request.header("content-type", kind).header("idempotency-key", "k-bad");
        node.send(request.body(body).unwrap()).await
    };
    const JSON: &str = "application/json";
    seen.note(method, described, 400, &send(JSON, Body::from("{")).await);
    seen.note(method, described, 413, &send(JSON, Body::from(vec![b' '; MAX_WEBHOOK_BYTES + 1])).await);
    seen.note(method, described, 415, &send("text/plain", Body::from("{}")).await);
    seen.note(method, described, 422, &send(JSON, Body::from("{\"nonsense\":1}")).await);
    tokio::time::pause();
    seen.note(method, described, 408, &send(JSON, Body::new(Silent)).await);
    tokio::time::resume();
}

/// A body of which nothing ever arrives.
struct Silent;

impl axum::body::HttpBody for Silent {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[derive(Default)]
struct Seen(BTreeSet<(String, String, u16)>);

impl Seen {
    #[track_caller]
    fn is_complete(&self) {
        let documented = documented();
        let none = Vec::<&(String, String, u16)>::new();
        assert_eq!(documented.difference(&self.0).collect::<Vec<_>>(), none, "documented and never seen");
        assert_eq!(self.0.difference(&documented).collect::<Vec<_>>(), none, "seen and not documented");
    }

    #[track_caller]
    fn note(&mut self, method: &str, path: &str, status: u16, answer: &Answer) {
        if status >= 400 {
            answer.problem(status);
        }
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.json);
        match status {
            401 => assert_eq!(answer.headers["www-authenticate"], "Bearer"),
            405 => assert!(answer.headers.contains_key("allow")),
            503 => assert!(answer.headers.contains_key("retry-after")),
            _ => {}
        }
        self.0.insert((method.to_lowercase(), path.to_owned(), status));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn every_documented_status_is_seen() {
    let setup = Setup { fixed: vec![fixed(URL.to_owned())], ..strict() };
    let node = setup.start();
    let mut seen = Seen::default();
    let fixed_id = fixed(URL.to_owned()).id;
    let (one, all) = ("/v1/webhooks/{id}", "/v1/webhooks");
    let made = node.post(all, json!({"url": URL})).await;
    seen.note("post", all, 201, &made);
    let id = made.json["id"].as_str().unwrap().to_owned();
    let own = |path: &str| path.replace("{id}", &id);
    seen.note("get", all, 200, &node.get(all).await);
    let operations: [(&str, String, Option<Value>); 8] = [
        ("GET", one.to_owned(), None),
        ("PATCH", one.to_owned(), Some(json!({}))),
        ("GET", format!("{one}/deliveries"), None),
        ("POST", format!("{one}/rotate-secret"), None),
        ("POST", format!("{one}/enable"), None),
        ("POST", format!("{one}/replay"), Some(json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}))),
        ("DELETE", one.to_owned(), None),
        ("POST", all.to_owned(), Some(json!({"url": URL}))),
    ];
    for (method, path, body) in &operations {
        let send = async |key: &str, path: String| {
            let request = Request::builder().method(*method).uri(path).header("authorization", format!("Bearer {key}"));
            let request = request.header("idempotency-key", "k-1").header("content-type", "application/json");
            let body = body.as_ref().map_or_else(Body::empty, |body| Body::from(body.to_string()));
            node.send(request.body(body).unwrap()).await
        };
        seen.note(method, path, 401, &send("nobody", own(path)).await);
        if path != all {
            seen.note(method, path, 404, &send("key-2", own(path)).await);
        }
        if *method == "DELETE" || *method == "PATCH" || path.ends_with("rotate-secret") {
            seen.note(method, path, 409, &send("key-1", path.replace("{id}", &fixed_id)).await);
        }
        if *method != "GET" && path != &format!("{one}/enable") && *method != "DELETE" {
            bodies(&node, &mut seen, method, &own(path), path).await;
        }
        if *method != "GET" {
            setup.documents.full.store(true, Ordering::Relaxed);
            let answer = send("key-1", own(path)).await;
            seen.note(method, path, 503, &answer);
            setup.documents.full.store(false, Ordering::Relaxed);
        }
    }
    every_good_answer(&setup, &node, &mut seen).await;
    seen.note("get", all, 401, &node.call("nobody", "GET", all, None).await);
    seen.note("post", all, 405, &node.call("key-1", "PUT", all, None).await);
    let deliveries = format!("{one}/deliveries");
    seen.note("get", one, 405, &node.call("key-1", "PUT", &own(one), None).await);
    seen.note("get", &deliveries, 405, &node.call("key-1", "PUT", &own(&deliveries), None).await);
    for last in ["rotate-secret", "enable", "replay"] {
        let path = format!("{one}/{last}");
        seen.note("post", &path, 405, &node.call("key-1", "PUT", &own(&path), None).await);
    }
    seen.note("get", &deliveries, 422, &node.get(&format!("/v1/webhooks/{fixed_id}/deliveries?limit=x")).await);
    // What has stopped can't say anything.
    let router = node.router();
    node.stop().await;
    for path in [all, one, deliveries.as_str()] {
        seen.note("get", path, 503, &support::send(&router, "key-1", "GET", &own(path)).await);
    }
    seen.is_complete();
}

/// Success on every path, and what only some states refuse.
async fn every_good_answer(setup: &Setup, node: &Node, seen: &mut Seen) {
    let one = "/v1/webhooks/{id}";
    let (id, _) = node.endpoint(json!({"url": URL})).await;
    let own = |path: &str| path.replace("{id}", &id);
    seen.note("get", one, 200, &node.get(&own(one)).await);
    seen.note("patch", one, 200, &node.call("key-1", "PATCH", &own(one), Some(json!({}))).await);
    for (last, method, status) in [("deliveries", "GET", 200), ("rotate-secret", "POST", 200), ("enable", "POST", 200)]
    {
        let path = format!("{one}/{last}");
        seen.note(&method.to_lowercase(), &path, status, &node.call("key-1", method, &own(&path), None).await);
    }
    // While it can't read the feed, a replay stays under way.
    setup.feed.tell("m-1", 1, TRACKED, 1_767_225_600_000);
    let path = format!("/v1/webhooks/{id}");
    node.call("key-1", "PATCH", &path, Some(json!({"enabled": false}))).await.ok(200);
    let made = node.endpoint(json!({"url": URL})).await.0;
    node.call("key-1", "PATCH", &format!("/v1/webhooks/{made}"), Some(json!({"enabled": false}))).await.ok(200);
    let (from, to) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let replay = format!("{one}/replay");
    seen.note("post", &replay, 202, &node.replay(&made, "k-2", from, to).await);
    seen.note("post", &replay, 409, &node.replay(&made, "k-3", from, to).await);
    seen.note("delete", one, 204, &node.call("key-1", "DELETE", &path, None).await);
    while node.post("/v1/webhooks", json!({"url": URL})).await.status == 201 {}
    seen.note("post", "/v1/webhooks", 409, &node.post("/v1/webhooks", json!({"url": URL})).await);
}
