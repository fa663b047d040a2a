//! A retry is answered as the first time, whatever has happened to the server in between.

use serde_json::Value;

use crate::support::{
    client::Client,
    orders::{line, order, padded},
    setup::{GOOD, Setup},
    world::{Server, World},
};

/// Asserts that the order that was posted as `body` under `key` is recognised, alone and in a batch, and that another
/// body or another time under the same key is refused.
#[track_caller]
fn assert_recognised(client: &Client, key: &str, body: &Value, first: &[u8]) {
    let again = client.order(key, body);
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")), "{}", again.text());
    assert_eq!(again.body, first, "the same answer");
    let in_batch = client.batch(line(key, body.clone()).to_string()).lines().remove(0);
    assert_eq!((&in_batch["status"], &in_batch["replayed"]), (&201.into(), &true.into()));
    assert_eq!(in_batch["id"], again.json()["id"]);
    for (field, value) in [("customer", "c-78".into()), ("placed_at", order()["placed_at"].clone())] {
        let mut other = body.clone();
        other[field] = value;
        let refused = client.order(key, &other);
        assert_eq!(refused.problem(422), ["Idempotency-Key"], "another {field}");
        assert_eq!(refused.json()["type"], "urn:sluice:problem:key-reused");
    }
}

/// Posts until the server has taken two more checkpoints: the second began after this was called.
fn pass_checkpoints(client: &Client, server: &Server, name: &str) {
    const CHECKPOINTS: &str = "sluice_checkpoints_total";
    let enough = server.metric(CHECKPOINTS).unwrap_or(0.0) + 2.0;
    let mut batch = 0;
    while server.metric(CHECKPOINTS).unwrap_or(0.0) < enough {
        let fresh = order();
        // Long lines: what counts is the journal's growth.
        let lines = (0..40).map(|n| {
            let mut order = line(&format!("{name}-{batch}-{n}"), fresh.clone());
            order["lines"] = (0..100).map(|_| order["lines"][0].clone()).map(long_title).collect();
            padded(&order, 64 << 10)
        });
        let results = client.batch(lines.collect::<Vec<_>>().join("\n")).lines();
        assert!(results.iter().all(|result| result["status"] == 201), "{}", results[0]);
        batch += 1;
        assert!(batch < 1_000, "no checkpoint in {batch} batches");
    }
}

fn long_title(mut line: Value) -> Value {
    line["title"] = "YOGURT ".repeat(28).into();
    line
}

#[test]
fn a_retry_is_recognised_across_checkpoints_kills_and_restarts() {
    let world = World::new(Setup::new(&[GOOD]).with("checkpoint_mb = 1\n"));
    let client = world.client();
    let server = world.serve();
    let (early, late) = (order(), order());
    let early_answer = client.order("early", &early);
    early_answer.id();
    assert_recognised(&client, "early", &early, &early_answer.body);

    pass_checkpoints(&client, &server, "first");
    assert_recognised(&client, "early", &early, &early_answer.body);
    let late_answer = client.order("late", &late);
    late_answer.id();

    // One that only the journal holds, one that only the store holds: by a kill, …
    server.kill();
    let server = world.serve();
    assert_recognised(&client, "early", &early, &early_answer.body);
    assert_recognised(&client, "late", &late, &late_answer.body);
    pass_checkpoints(&client, &server, "second");
    assert_recognised(&client, "late", &late, &late_answer.body);

    // … by a drain, …
    let receipt = server.drain();
    assert!(receipt["duplicates_suppressed"].as_u64().unwrap() >= 6, "{receipt}");
    let mut world = world;
    // … and with other owners than before.
    world.setup = world.setup.clone().with("partitions = 3\n");
    let server = world.serve();
    assert_recognised(&client, "early", &early, &early_answer.body);
    assert_recognised(&client, "late", &late, &late_answer.body);
    // Nothing was sent twice by any of it.
    server.drain();
    assert_eq!(world.ledger().duplicates().count(), 0);
}
