//! Merchants' rate limits as their clients see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

mod support;

use std::sync::atomic::Ordering::SeqCst;

use sluice_checkout::{MerchantLimit, Rate};
use support::{Server, line, order};

/// Merchant m-1 may post `per_second`, and `burst` at once; m-2 as many as it likes.
async fn limited(per_second: u32, burst: u32) -> Server {
    let limit = MerchantLimit { rate: Some(Rate { per_second, burst }), weight: 1 };
    Server::with(|checkout| checkout.limits = [limit].into()).await
}

fn lines(prefix: &str, count: usize) -> String {
    (0..count).map(|n| line(&format!("{prefix}-{n}")).to_string() + "\n").collect()
}

#[tokio::test]
async fn beyond_the_limit_an_order_is_told_when_to_come_back_and_then_taken() {
    let server = limited(2, 3).await;
    for n in 0..3 {
        assert_eq!(server.order(&format!("k-{n}"), &order()).await.status, 201);
    }
    let refused = server.order("k-3", &order()).await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["type"], "urn:sluice:problem:too-many-requests");
    assert!(refused.problem(429).is_empty());
    let taken = server.engine.len();
    assert_eq!(taken, 3, "nothing of what was refused was taken");
    // As long as it was told.
    server.now.0.fetch_add(1_000, SeqCst);
    assert_eq!(server.order("k-3", &order()).await.status, 201);
}

#[tokio::test]
async fn a_batch_counts_its_lines_and_is_made_up_for() {
    let server = limited(10, 10).await;
    assert_eq!(server.batch(lines("a", 45)).await.lines().len(), 45);
    let refused = server.batch(lines("b", 1)).await;
    // 45 of 10 are taken: 35 owed and one to have, at 10 a second.
    assert_eq!(refused.header("retry-after"), Some("4"));
    refused.problem(429);
    server.now.0.fetch_add(3_500, SeqCst);
    assert_eq!(server.batch(lines("b", 1)).await.header("retry-after"), Some("1"));
    server.now.0.fetch_add(100, SeqCst);
    assert_eq!(server.batch(lines("b", 1)).await.lines()[0]["status"], 201);
}

#[tokio::test]
async fn others_are_not_concerned() {
    let server = limited(1, 1).await;
    assert_eq!(server.order("k-0", &order()).await.status, 201);
    server.order("k-1", &order()).await.problem(429);
    for n in 0..20 {
        let head = format!(
            "POST /v1/orders HTTP/1.1\r\nAuthorization: Bearer key-2\r\nContent-Type: application/json\r\n\
             Idempotency-Key: k-{n}\r\n"
        );
        assert_eq!(server.send(&head, order().to_string().as_bytes()).await.status, 201);
    }
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_answered_before_its_body_comes() {
    use tokio::io::AsyncWriteExt;
    let server = limited(1, 1).await;
    assert_eq!(server.order("k-0", &order()).await.status, 201);
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/orders:batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-1\r\n\
                Content-Type: application/x-ndjson\r\nContent-Length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    support::Answer::read(&mut stream).await.problem(429);
}
