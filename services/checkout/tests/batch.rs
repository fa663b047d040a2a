//! Many orders a request, over a real socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

mod support;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use serde_json::{Value, json};
use sluice_domain::limits::MAX_BATCH_BYTES;
use support::{Answer, NOW, Server, fields_of, line, order};
use tokio::{io::AsyncWriteExt, net::TcpStream};

const HEAD: &str = "POST /v1/orders:batch HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer key-1\r\n\
                    Content-Type: application/x-ndjson\r\n";

fn body(lines: &[Value]) -> String {
    lines.iter().map(|l| l.to_string() + "\n").collect()
}

fn statuses(results: &[Value]) -> Vec<u64> {
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result["line"], n + 1);
        assert_eq!(result["status"].as_u64().unwrap() >= 400, result["problem"].is_object(), "{result}");
        if result["problem"].is_object() {
            assert_eq!(result["problem"]["status"], result["status"]);
        }
    }
    results.iter().map(|r| r["status"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn every_line_has_the_answer_it_would_have_got_alone() {
    let server = Server::start().await;
    let single = server.order("k-1", &order()).await;
    let mut other = line("k-1");
    other["customer"] = "c-78".into();
    let results = server.batch(body(&[line("k-1"), line("k-2"), line("k-2"), other])).await.lines();
    assert_eq!(statuses(&results), [201, 201, 201, 422]);
    assert_eq!(results[0]["order"], single.json());
    assert_eq!(results[0]["id"], single.json()["id"]);
    assert_eq!((&results[0]["replayed"], &results[1]["replayed"]), (&json!(true), &Value::Null));
    assert_eq!((&results[1]["id"], &results[2]["replayed"]), (&results[2]["id"], &json!(true)));
    assert_eq!(fields_of(&results[3]["problem"]), ["/idempotency_key"]);
    assert_eq!(server.engine.submissions.load(SeqCst), 2, "a batch is one submission");
}

#[tokio::test]
async fn a_bad_line_fails_alone() {
    let server = Server::start().await;
    let mut bad = line("k-3");
    bad["lines"][0]["quantity"] = 0.into();
    let mut late = line("k-4");
    late["placed_at"] = "2026-11-10T20:00:00Z".into();
    let no_key = order();
    let good = |key: &str| line(key).to_string().into_bytes();
    let lines: Vec<Vec<u8>> = vec![
        good("k-1"),
        b"nonsense".to_vec(),
        Vec::new(),
        b" \r".to_vec(),
        b"{\"customer\":\"\xff\"}".to_vec(),
        bad.to_string().into_bytes(),
        late.to_string().into_bytes(),
        no_key.to_string().into_bytes(),
        good("k-2"),
    ];
    let results = server.batch(lines.join(&b'\n')).await.lines();
    assert_eq!(statuses(&results), [201, 400, 400, 400, 400, 422, 422, 422, 201]);
    assert_eq!(fields_of(&results[5]["problem"]), ["/lines/0/quantity"]);
    assert_eq!(fields_of(&results[6]["problem"]), ["/placed_at"]);
    assert_eq!(fields_of(&results[7]["problem"]), ["/idempotency_key"]);
    assert_eq!(server.engine.len(), 2);
}

#[tokio::test]
async fn nothing_but_bad_lines_reaches_no_engine() {
    let server = Server::start().await;
    let results = server.batch("{}\n".repeat(10_000)).await.lines();
    assert!(statuses(&results).iter().all(|&s| s == 422));
    assert!(results.last().unwrap()["problem"]["errors"].is_null(), "the answer to errors alone is bounded");
    assert_eq!(server.engine.submissions.load(SeqCst), 0);
}

#[tokio::test]
async fn replays_after_the_window_are_found() {
    let server = Server::start().await;
    let lines: Vec<_> = (0..100).map(|i| line(&format!("k-{i}"))).collect();
    let first = server.batch(body(&lines)).await.lines();
    server.now.0.fetch_add(600_001, SeqCst);
    let mut new = line("new");
    new["placed_at"] = sluice_http::Timestamp(NOW + 600_000).to_string().into();
    let mut again = lines;
    again.insert(50, new);
    again.push(line("k-never"));
    let results = server.batch(body(&again)).await.lines();
    assert_eq!(statuses(&results[..101]), [201; 101]);
    assert_eq!(results[101]["status"], 422);
    for (n, result) in results[..101].iter().enumerate() {
        let known = if n < 50 { n } else { n.saturating_sub(1) };
        assert_eq!(result["replayed"] == true, n != 50);
        assert_eq!(result["order"] == first[known]["order"], n != 50, "line {n}");
    }
}

#[tokio::test]
async fn overload_is_said_line_by_line() {
    let server = Server::start().await;
    *server.engine.busy.lock().unwrap() = Some((3, "full"));
    let results = server.batch(body(&[line("a"), json!({}), line("b")])).await.lines();
    assert_eq!(statuses(&results), [503, 422, 503]);
    assert_eq!((&results[0]["retry_after"], &results[2]["retry_after"]), (&json!(3), &json!(3)));
    assert_eq!(results[0]["problem"]["detail"], "full");
    *server.engine.closed.lock().unwrap() = Some("draining");
    let answer = server.batch(body(&[line("a")])).await;
    answer.problem(503);
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn headers_are_checked_first() {
    let server = Server::start().await;
    let (server, body) = (&server, &body(&[line("k")]));
    let send = |head: String| async move { server.send(&head, body.as_bytes()).await };
    let head = HEAD.replace("Host: x\r\nConnection: close\r\n", "");
    send(head.replace("Bearer key-1", "Bearer key-3")).await.problem(401);
    assert_eq!(send(head.replace("x-ndjson", "json")).await.problem(415), ["Content-Type"]);
    assert_eq!(send(head.replace("x-ndjson", "x-ndjson; charset=utf-8")).await.status, 200);
    assert_eq!(send(head.replace("POST", "PUT")).await.header("allow"), Some("POST"));
}

/// Opens a batch of `bytes` and sends nothing of it.
async fn stall(server: &Server, key: &str, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = HEAD.replace("key-1", key) + &format!("Content-Length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream
}

#[tokio::test]
async fn memory_is_bounded_before_it_is_used() {
    let server = Server::with(|c| c.max_inflight_bytes = 2 * MAX_BATCH_BYTES).await;
    let first = stall(&server, "key-1", MAX_BATCH_BYTES - 1_000).await;
    assert_eq!(server.order("k-1", &order()).await.status, 201);
    let refused = Answer::read(&mut stall(&server, "key-1", 2_001).await).await;
    refused.problem(429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let second = stall(&server, "key-2", MAX_BATCH_BYTES).await;
    let third = stall(&server, "key-1", 1_000).await;
    drop((first, second, third));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.batch(body(&[line("k-2")])).await.lines()[0]["status"], 201);
}

#[tokio::test]
async fn a_client_that_stalls_loses_its_place() {
    let server = Server::with(|c| {
        c.max_inflight_bytes = MAX_BATCH_BYTES;
        c.body_timeout = Duration::from_millis(200);
    })
    .await;
    let mut first = stall(&server, "key-1", MAX_BATCH_BYTES).await;
    Answer::read(&mut stall(&server, "key-2", 1_000).await).await.problem(503);
    Answer::read(&mut first).await.problem(408);
    assert_eq!(server.batch(body(&[line("k")])).await.lines()[0]["status"], 201);
}

#[tokio::test]
async fn lines_may_be_cut_anywhere() {
    let server = Server::start().await;
    let lines: Vec<_> = (0..50).map(|i| line(&format!("k-{i}"))).collect();
    let body = body(&lines);
    for size in [7, 100, 333] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = HEAD.to_owned() + &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.set_nodelay(true).unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        for piece in body.as_bytes().chunks(size) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let results = Answer::read(&mut stream).await.lines();
        assert_eq!(statuses(&results), [201; 50], "pieces of {size}");
    }
    assert_eq!(server.engine.len(), 50);
}

#[tokio::test]
async fn a_broken_off_batch_takes_nothing() {
    let server = Server::start().await;
    let body = body(&[line("k-1"), line("k-2")]);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = HEAD.to_owned() + &format!("Content-Length: {}\r\n\r\n", body.len() + 1);
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.engine.len(), 0);
}
