//! One order a request, over a real socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

mod support;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use serde_json::json;
use sluice_domain::{Fingerprint, OrderId, SlotCount};
use sluice_http::Timestamp;
use support::{Answer, NOW, Server, order};
use tokio::{io::AsyncWriteExt, net::TcpStream};

const HEAD: &str = "POST /v1/orders HTTP/1.1\r\nAuthorization: Bearer key-1\r\nContent-Type: application/json\r\n";

#[tokio::test]
async fn an_order_is_answered_with_its_id() {
    let server = Server::start().await;
    let answer = server.order("k-1", &order()).await;
    let id = OrderId::new(NOW, Fingerprint::of("m-1", "k-1"), SlotCount::DEFAULT).to_string();
    assert_eq!(answer.status, 201);
    assert_eq!(answer.json(), json!({"id": id, "status": "accepted", "placed_at": "2026-11-11T00:00:00.123Z"}));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("location"), Some(format!("/v1/orders/{id}").as_str()));
    assert_eq!(answer.header("idempotent-replayed"), None);
}

#[tokio::test]
async fn a_retry_gets_the_same_answer() {
    let server = Server::start().await;
    let first = server.order("k-1", &order()).await;
    let mut later = order();
    later["placed_at"] = "2026-11-11T01:00:00.123+01:00".into();
    for key in ["k-1", "\"k-1\""] {
        server.now.0.fetch_add(1_000, SeqCst);
        let again = server.order(key, &later).await;
        assert_eq!((again.status, &again.body), (201, &first.body));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.header("location"), first.header("location"));
    }
    assert_eq!(server.engine.len(), 1);
}

#[tokio::test]
async fn another_order_under_the_same_key_is_refused() {
    let server = Server::start().await;
    assert_eq!(server.order("k-1", &order()).await.status, 201);
    for (field, value) in [("customer", "c-78"), ("placed_at", "2026-11-11T00:00:00.124Z")] {
        let mut other = order();
        other[field] = value.into();
        let answer = server.order("k-1", &other).await;
        assert_eq!(answer.problem(422), ["Idempotency-Key"]);
        assert_eq!(answer.json()["type"], "urn:sluice:problem:key-reused");
    }
    let head = HEAD.replace("key-1", "key-2") + "Idempotency-Key: k-1\r\n";
    let others = server.send(&head, order().to_string().as_bytes()).await;
    assert_eq!((others.status, others.header("idempotent-replayed")), (201, None));
    assert_eq!(server.engine.len(), 2);
}

#[tokio::test]
async fn who_has_no_key_gets_nothing() {
    let server = Server::start().await;
    let body = order().to_string();
    for authorization in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic key-1\r\n"] {
        let head = format!(
            "POST /v1/orders HTTP/1.1\r\n{authorization}Content-Type: application/json\r\nIdempotency-Key: k\r\n"
        );
        let answer = server.send(&head, body.as_bytes()).await;
        assert_eq!(answer.problem(401), [""; 0]);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(server.engine.len(), 0);
}

#[tokio::test]
async fn headers_are_checked_by_name() {
    let server = Server::start().await;
    let body = order().to_string();
    let with = |extra: &str| format!("{HEAD}{extra}");
    assert_eq!(server.send(HEAD, body.as_bytes()).await.problem(400), ["Idempotency-Key"]);
    for bad in ["", "a b", "\"a", &"k".repeat(256)] {
        let head = with(&format!("Idempotency-Key: {bad}\r\n"));
        assert_eq!(server.send(&head, body.as_bytes()).await.problem(400), ["Idempotency-Key"], "{bad}");
    }
    for (len, status) in [(254, 201), (255, 201)] {
        let head = with(&format!("Idempotency-Key: {}\r\n", "k".repeat(len)));
        assert_eq!(server.send(&head, body.as_bytes()).await.status, status);
    }
    let text = with("Idempotency-Key: k\r\n").replace("application/json", "text/plain");
    assert_eq!(server.send(&text, body.as_bytes()).await.problem(415), ["Content-Type"]);
    let zipped = with("Idempotency-Key: k\r\nContent-Encoding: gzip\r\n");
    assert_eq!(server.send(&zipped, body.as_bytes()).await.problem(415), ["Content-Encoding"]);
    let charset = with("Idempotency-Key: k\r\n").replace("application/json", "application/json; charset=utf-8");
    assert_eq!(server.send(&charset, body.as_bytes()).await.status, 201);
    let get = with("Idempotency-Key: k\r\n").replace("POST", "GET");
    let answer = server.send(&get, b"").await;
    assert_eq!(answer.problem(405), [""; 0]);
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[tokio::test]
async fn a_body_that_is_no_order_is_refused_by_field() {
    let server = Server::start().await;
    for text in ["", "{", "nonsense", "{\"customer\":}"] {
        assert_eq!(server.order_text("k", text).await.problem(400), [""; 0], "{text}");
    }
    let head = HEAD.to_owned() + "Idempotency-Key: k\r\n";
    assert_eq!(server.send(&head, b"{\"customer\":\"\xff\"}").await.problem(400), [""; 0]);
    let mut bad = order();
    bad["lines"][0]["quantity"] = 0.into();
    bad["surprise"] = true.into();
    bad["idempotency_key"] = "k".into();
    bad["ship_to"]["country"] = "usa".into();
    let mut fields = server.order("k", &bad).await.problem(422);
    fields.sort();
    assert_eq!(fields, ["/idempotency_key", "/lines/0/quantity", "/ship_to/country", "/surprise"]);
    assert_eq!(server.engine.len(), 0);
}

#[tokio::test]
async fn the_window_has_two_ends() {
    let server = Server::start().await;
    let at = |ms: u64| {
        let mut order = order();
        order["placed_at"] = Timestamp(ms).to_string().into();
        order
    };
    let window = 600_000;
    for (n, ms) in [NOW - window, NOW - window + 1, NOW + window - 1, NOW + window].into_iter().enumerate() {
        assert_eq!(server.order(&format!("k-{n}"), &at(ms)).await.status, 201, "{ms}");
    }
    for ms in [NOW - window - 1, NOW + window + 1] {
        let answer = server.order("k", &at(ms)).await;
        assert_eq!(answer.problem(422), ["/placed_at"]);
        let error = &answer.json()["errors"][0];
        assert!(error["expected"].as_str().unwrap().starts_with("a time within 600 s of now: "), "{error}");
        assert_eq!(error["got"], Timestamp(ms).to_string());
    }
}

#[tokio::test]
async fn a_retry_after_the_window_finds_its_order() {
    let server = Server::start().await;
    let first = server.order("k-1", &order()).await;
    server.now.0.fetch_add(600_001, SeqCst);
    let again = server.order("k-1", &order()).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let mut other = order();
    other["customer"] = "c-78".into();
    assert_eq!(server.order("k-1", &other).await.problem(422), ["Idempotency-Key"]);
    assert_eq!(server.order("k-2", &order()).await.problem(422), ["/placed_at"]);
    *server.engine.broken.lock().unwrap() = true;
    let answer = server.order("k-1", &order()).await;
    answer.problem(503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(server.engine.submissions.load(SeqCst), 1);
}

#[tokio::test]
async fn no_room_is_said_with_a_time_to_come_back() {
    let server = Server::start().await;
    *server.engine.busy.lock().unwrap() = Some((7, "the journal is full"));
    let answer = server.order("k", &order()).await;
    answer.problem(503);
    assert_eq!(answer.header("retry-after"), Some("7"));
    assert_eq!(answer.json()["detail"], "the journal is full");
    *server.engine.closed.lock().unwrap() = Some("draining");
    let answer = server.order("k", &order()).await;
    answer.problem(503);
    assert_eq!(answer.json()["detail"], "draining");
    assert_eq!(server.engine.submissions.load(SeqCst), 1);
}

#[tokio::test]
async fn a_body_in_pieces_is_the_same_body() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head =
        format!("{HEAD}Idempotency-Key: k\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in order().to_string().as_bytes().chunks(40) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
        stream.write_all(piece).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(Answer::read(&mut stream).await.status, 201);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Server::with(|c| c.body_timeout = Duration::from_millis(50)).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!("{HEAD}Idempotency-Key: k\r\nHost: x\r\nConnection: close\r\nContent-Length: 500\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.unwrap();
    Answer::read(&mut stream).await.problem(408);
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_cut_off() {
    use tokio::io::AsyncWriteExt;
    let server = Server::with(|checkout| checkout.body_timeout = std::time::Duration::from_millis(300)).await;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-1\r\nContent-Type: application/json\r\n\
                Idempotency-Key: k\r\nContent-Length: 60000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let drip = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let mut answer = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut read, &mut answer).await.unwrap();
    assert_eq!(&answer[9..], b"408");
    drop(read);
    drip.await.unwrap();
}
