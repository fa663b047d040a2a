//! A retry is answered as the first time, whatever has happened to the server in between.

use serde_json::Value;

use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    orders::{line, order, padded},
    setup::{GOOD, Setup},
    wait_for,
    world::{Server, World},
};

on_both_engines!(a_retry_is_recognised_across_checkpoints_kills_and_restarts);

/// Asserts that the order that was posted as `body` under `key` is recognised, alone and in a batch, and that another
/// body or another time under the same key is refused; where answers come before the decision, that the conflict shows.
#[track_caller]
fn assert_recognised(world: &World, key: &str, body: &Value, first: &[u8]) {
    let (client, decided) = (world.client(), world.answers_decided());
    let again = client.order(key, body);
    assert_eq!(again.header("idempotent-replayed"), decided.then_some("true"));
    assert_eq!(again.body, first, "the same answer");
    let in_batch = client.batch(line(key, body.clone()).to_string()).lines().remove(0);
    assert_eq!((&in_batch["status"], in_batch.get("replayed")), (&201.into(), decided.then_some(&true.into())));
    let id = again.id();
    assert_eq!(in_batch["id"], id);
    for (field, value) in [("customer", "c-78".into()), ("placed_at", order()["placed_at"].clone())] {
        let mut other = body.clone();
        other[field] = value;
        let answer = client.order(key, &other);
        if decided {
            assert_eq!(answer.problem(422), ["Idempotency-Key"], "another {field}");
            assert_eq!(answer.json()["type"], "urn:sluice:problem:key-reused");
        } else {
            let other = answer.id();
            wait_for_conflict(&client, &id, (other != id).then_some(&other));
        }
    }
}

/// Waits until the order's time line has a conflict with the order `other`, or with one of the same id.
#[track_caller]
pub fn wait_for_conflict(client: &Client, id: &str, other: Option<&str>) {
    let named = other.map_or_else(String::new, |other| format!(", as {other}"));
    let detail = format!("another request came under this order's key{named}; it is no order");
    wait_for(&format!("order {id}: {detail}"), || {
        let view = client.view(id);
        let mut entries = view["timeline"].as_array().unwrap().iter();
        entries.any(|entry| entry["milestone"] == "conflict" && entry["detail"] == detail.as_str()).then_some(())
    });
}

/// Posts until the server has taken two more checkpoints: the second began after this was called. A cluster has none.
fn pass_checkpoints(world: &World, server: &Server, name: &str) {
    if !world.has_journal() {
        return;
    }
    const CHECKPOINTS: &str = "sluice_checkpoints_total";
    let enough = server.metric(CHECKPOINTS).unwrap_or(0.0) + 2.0;
    let mut batch = 0;
    while server.metric(CHECKPOINTS).unwrap_or(0.0) < enough {
        post_bulk(&world.client(), &format!("{name}-{batch}"));
        batch += 1;
        assert!(batch < 1_000, "no checkpoint in {batch} batches");
    }
}

/// Posts 40 orders with long lines, some 0.9 MiB of journal; gives their ids.
pub fn post_bulk(client: &Client, name: &str) -> Vec<String> {
    let fresh = order();
    let lines = (0..40).map(|n| {
        let mut order = line(&format!("{name}-{n}"), fresh.clone());
        order["lines"] = (0..100).map(|_| order["lines"][0].clone()).map(long_title).collect();
        padded(&order, 64 << 10)
    });
    let results = client.batch(lines.collect::<Vec<_>>().join("\n")).lines();
    assert!(results.iter().all(|result| result["status"] == 201), "{}", results[0]);
    results.iter().map(|result| result["id"].as_str().unwrap().to_owned()).collect()
}

fn long_title(mut line: Value) -> Value {
    line["title"] = "YOGURT ".repeat(28).into();
    line
}

fn a_retry_is_recognised_across_checkpoints_kills_and_restarts(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]).with("checkpoint_mb = 1\n"));
    let client = world.client();
    let server = world.serve();
    let (early, late) = (order(), order());
    let early_answer = client.order("early", &early);
    early_answer.id();
    assert_recognised(&world, "early", &early, &early_answer.body);

    pass_checkpoints(&world, &server, "first");
    assert_recognised(&world, "early", &early, &early_answer.body);
    let late_answer = client.order("late", &late);
    late_answer.id();

    // One that only the journal holds, one that only the store holds: by a kill, …
    server.kill();
    let server = world.serve();
    assert_recognised(&world, "early", &early, &early_answer.body);
    assert_recognised(&world, "late", &late, &late_answer.body);
    pass_checkpoints(&world, &server, "second");
    assert_recognised(&world, "late", &late, &late_answer.body);

    // … by a drain, …
    let receipt = server.drain();
    assert!(receipt["duplicates_suppressed"].as_u64().unwrap() >= 6, "{receipt}");
    let mut world = world;
    // … and with other owners than before.
    world.setup = world.setup.clone().with("partitions = 3\n");
    let server = world.serve();
    assert_recognised(&world, "early", &early, &early_answer.body);
    assert_recognised(&world, "late", &late, &late_answer.body);
    if !world.answers_decided() {
        let other = client.order("late", &order()).id();
        wait_for_conflict(&client, &late_answer.id(), Some(&other));
        assert!(client.get(&format!("/v1/orders/{other}")).problem(404).is_empty(), "it is no order");
    }
    // Nothing was sent twice by any of it.
    server.drain();
    assert_eq!(world.ledger().duplicates().count(), 0);
}
