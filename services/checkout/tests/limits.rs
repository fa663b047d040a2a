//! Every bound of the API at n − 1, n and n + 1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

mod support;

use serde_json::{Value, json};
use sluice_domain::limits::{
    MAX_ADDRESS_FIELD, MAX_BATCH_BYTES, MAX_BATCH_LINES, MAX_CUSTOMER, MAX_IDEMPOTENCY_KEY, MAX_LINES, MAX_ORDER_BYTES,
    MAX_POSTAL_CODE, MAX_QUANTITY, MAX_SKU, MAX_TITLE, MAX_UNIT_PRICE,
};
use support::{Server, fields_of, line, order, padded};

/// Posts the order that `change` makes of a good one, alone and in a batch, and expects both to be taken, or both to be
/// refused at `field`.
async fn check(server: &Server, field: &str, fits: bool, change: impl Fn(&mut Value)) {
    let mut single = order();
    change(&mut single);
    let key = format!("k-{}", server.engine.len());
    let answer = server.order(&key, &single).await;
    let mut in_batch = line(&format!("{key}-batch"));
    change(&mut in_batch);
    let result = server.batch(in_batch.to_string()).await.lines().remove(0);
    if fits {
        assert_eq!((answer.status, &result["status"]), (201, &json!(201)), "{field} {result}");
    } else {
        assert_eq!(answer.problem(422), [field]);
        assert_eq!((&result["status"], fields_of(&result["problem"])), (&json!(422), vec![field.to_owned()]));
    }
}

#[tokio::test]
async fn texts_have_their_lengths() {
    let server = Server::start().await;
    let fields = [
        ("/customer", 1, MAX_CUSTOMER),
        ("/ship_to/name", 1, MAX_ADDRESS_FIELD),
        ("/ship_to/street", 1, MAX_ADDRESS_FIELD),
        ("/ship_to/city", 1, MAX_ADDRESS_FIELD),
        ("/ship_to/postal_code", 0, MAX_POSTAL_CODE),
        ("/lines/0/sku", 1, MAX_SKU),
        ("/lines/0/title", 1, MAX_TITLE),
    ];
    for (field, min, max) in fields {
        for len in [0, 1, max - 1, max, max + 1] {
            let set = |o: &mut Value| *o.pointer_mut(field).unwrap() = "x".repeat(len).into();
            check(&server, field, (min..=max).contains(&len), set).await;
        }
    }
    for (field, exact) in [("/currency", 3), ("/ship_to/country", 2)] {
        for len in [exact - 1, exact, exact + 1] {
            let set = |o: &mut Value| *o.pointer_mut(field).unwrap() = "X".repeat(len).into();
            check(&server, field, len == exact, set).await;
        }
    }
}

#[tokio::test]
async fn numbers_have_their_ranges() {
    let server = Server::start().await;
    let (quantity, price) = (u64::from(MAX_QUANTITY), MAX_UNIT_PRICE);
    for (field, min, max) in [("/lines/0/quantity", 1, quantity), ("/lines/0/unit_price", 0, price)] {
        for number in [0, 1, 2, max - 1, max, max + 1, u64::MAX] {
            let set = |o: &mut Value| *o.pointer_mut(field).unwrap() = number.into();
            check(&server, field, (min..=max).contains(&number), set).await;
        }
        let below_zero = |o: &mut Value| *o.pointer_mut(field).unwrap() = (-1).into();
        check(&server, field, false, below_zero).await;
    }
}

#[tokio::test]
async fn orders_have_one_to_a_hundred_lines() {
    let server = Server::start().await;
    for count in [0, 1, 2, MAX_LINES - 1, MAX_LINES, MAX_LINES + 1] {
        let set = |o: &mut Value| o["lines"] = vec![o["lines"][0].clone(); count].into();
        check(&server, "/lines", (1..=MAX_LINES).contains(&count), set).await;
    }
}

#[tokio::test]
async fn times_have_up_to_nine_digits_of_a_second() {
    let server = Server::start().await;
    for (digits, fits) in [(0, false), (1, true), (8, true), (9, true), (10, false)] {
        let text = format!("2026-11-11T00:00:00.{}Z", "1".repeat(digits));
        check(&server, "/placed_at", fits, |o| o["placed_at"] = text.as_str().into()).await;
    }
}

#[tokio::test]
async fn keys_in_a_batch_have_their_length() {
    let server = Server::start().await;
    for len in [0, 1, MAX_IDEMPOTENCY_KEY - 1, MAX_IDEMPOTENCY_KEY, MAX_IDEMPOTENCY_KEY + 1] {
        let result = server.batch(line(&"k".repeat(len)).to_string()).await.lines().remove(0);
        if (1..=MAX_IDEMPOTENCY_KEY).contains(&len) {
            assert_eq!(result["status"], 201, "{len}");
        } else {
            assert_eq!(
                (&result["status"], fields_of(&result["problem"])),
                (&json!(422), vec!["/idempotency_key".into()])
            );
        }
    }
}

#[tokio::test]
async fn one_order_has_its_bytes() {
    let server = Server::start().await;
    for (bytes, status) in [(MAX_ORDER_BYTES - 1, 201), (MAX_ORDER_BYTES, 201), (MAX_ORDER_BYTES + 1, 413)] {
        let answer = server.order_text(&format!("k-{bytes}"), &padded(&order(), bytes)).await;
        assert_eq!(answer.status, status, "{bytes}");
        let in_batch = padded(&line(&format!("b-{bytes}")), bytes) + "\n" + &line("after").to_string();
        let results = server.batch(in_batch).await.lines();
        assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!(status), &json!(201)), "{bytes}");
    }
    // Far more than the limit, from a client that doesn't read before it has written it all.
    server.order_text("k", &padded(&order(), 2 * MAX_ORDER_BYTES)).await.problem(413);
}

#[tokio::test]
async fn a_batch_has_its_lines() {
    let server = Server::start().await;
    for (count, taken) in [(MAX_BATCH_LINES - 1, true), (MAX_BATCH_LINES, true), (MAX_BATCH_LINES + 1, false)] {
        let before = server.engine.len();
        for end in ["", "\n"] {
            let lines: Vec<_> = (0..count).map(|i| line(&format!("{count}-{i}")).to_string()).collect();
            let answer = server.batch(lines.join("\n") + end).await;
            if taken {
                assert_eq!(answer.lines().len(), count);
                assert_eq!(server.engine.len(), before + count);
            } else {
                answer.problem(413);
                assert_eq!(server.engine.len(), before, "nothing is taken");
            }
        }
    }
    server.batch("").await.problem(400);
    assert_eq!(server.batch("\n").await.lines()[0]["status"], 400);
}

#[tokio::test]
async fn a_batch_has_its_bytes() {
    let server = Server::start().await;
    let full = |bytes: usize| {
        // Lines of 64 KiB with their newline, and a last one without.
        let count = MAX_BATCH_BYTES / MAX_ORDER_BYTES;
        let lines = (0..count - 1).map(|i| padded(&line(&format!("{bytes}-{i}")), MAX_ORDER_BYTES - 1) + "\n");
        let mut body: String = lines.collect();
        let rest = bytes - body.len();
        body += &padded(&line("last"), rest.min(MAX_ORDER_BYTES));
        body.extend(std::iter::repeat_n('\n', rest.saturating_sub(MAX_ORDER_BYTES)));
        assert_eq!(body.len(), bytes);
        body
    };
    for bytes in [MAX_BATCH_BYTES - 1, MAX_BATCH_BYTES] {
        let results = server.batch(full(bytes)).await.lines();
        assert!(results.iter().all(|r| r["status"] == 201), "{bytes}");
    }
    let before = server.engine.len();
    server.batch(full(MAX_BATCH_BYTES + 1)).await.problem(413);
    server.batch(vec![b'\n'; 2 * MAX_BATCH_BYTES]).await.problem(413);
    assert_eq!(server.engine.len(), before, "nothing is taken");
}

#[tokio::test]
async fn json_has_its_depth() {
    let server = Server::start().await;
    // A level more than the reader follows is refused as that; up to there, as a field that nobody asked for.
    for (depth, status) in [(126, 422), (127, 400), (20_000, 400)] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let good = order().to_string();
        let text = format!("{},\"nested\":{nested}}}", good.strip_suffix('}').unwrap());
        let alone = server.order_text("k-deep", &text).await;
        let mut in_batch = line("k-deep-b");
        in_batch["nested"] = "?".into();
        let in_batch = server.batch(in_batch.to_string().replace("\"?\"", &nested)).await.lines().remove(0);
        for problem in [alone.json(), in_batch["problem"].clone()] {
            assert_eq!(problem["status"], status, "{depth}: {problem}");
            if status == 422 {
                assert_eq!(fields_of(&problem), ["/nested"], "{depth}");
            } else {
                assert!(problem["detail"].as_str().unwrap().contains("recursion limit exceeded"), "{problem}");
            }
        }
    }
    assert_eq!(server.engine.len(), 0);
}
