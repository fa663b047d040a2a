//! Batches: each line on its own, and bounded both ways.

use sluice_domain::limits::{MAX_BATCH_BYTES, MAX_BATCH_LINES};

use super::idempotency::wait_for_conflict;
use crate::support::{
    client::fields_of,
    engine::{Engine, on_both_engines},
    orders::{line, now_ms, order, time},
    setup::{GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(a_bad_line_fails_alone, a_client_may_write_everything_before_it_reads);

fn a_bad_line_fails_alone(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    let client = world.client();
    let good = |key: &str| line(key, order()).to_string();
    let mut wrong = line("k-wrong", order());
    wrong["lines"][0]["quantity"] = 0.into();
    let mut late = line("k-late", order());
    late["placed_at"] = time(now_ms() - 3_600_000).into();
    let first = good("k-1");
    let mut other = line("k-1", order());
    other["customer"] = "c-78".into();
    let lines =
        [&first, "nonsense", &wrong.to_string(), &good("k-2"), &late.to_string(), &first, &other.to_string(), ""];
    // Whether an order placed before the window was taken then may not be known yet.
    let results = wait_for("every line is answered other than 503", || {
        let results = client.batch(lines.join("\n")).lines();
        let known = results.iter().all(|result| result["status"] != 503);
        assert!(known || client.lags, "{results:?}");
        known.then_some(results)
    });
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    let conflict = if world.answers_decided() { 422 } else { 201 };
    assert_eq!(statuses, [201, 400, 422, 201, 422, 201, conflict]);
    let numbers: Vec<_> = results.iter().map(|result| result["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(fields_of(&results[2]["problem"], 422), ["/lines/0/quantity"]);
    assert_eq!(fields_of(&results[4]["problem"], 422), ["/placed_at"]);
    assert_eq!(results[5]["id"], results[0]["id"]);
    if world.answers_decided() {
        assert_eq!(results[5]["replayed"], true);
        assert_eq!(fields_of(&results[6]["problem"], 422), ["/idempotency_key"]);
    } else {
        assert_eq!(results[5].get("replayed"), None);
        wait_for_conflict(&client, results[0]["id"].as_str().unwrap(), None);
    }
}

/// The client of these tests writes its whole request before it reads: were results sent as they come, both sides would
/// wait for the other to read.
fn a_client_may_write_everything_before_it_reads(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    // As many and as long answers as there can be: nothing but errors, in lines as short as they may be, …
    let answer = world.client().batch("{}\n".repeat(MAX_BATCH_LINES));
    let results = answer.lines();
    assert_eq!(results.len(), MAX_BATCH_LINES);
    assert!(results.iter().all(|result| result["status"] == 422));
    assert!(answer.body.len() <= MAX_BATCH_BYTES, "{} bytes", answer.body.len());
    // … and a request as long as it may be, of which nothing is taken.
    let long = "x".repeat(MAX_BATCH_BYTES / 1_000 - 1) + "\n";
    let results = world.client().batch(long.repeat(1_000)).lines();
    assert_eq!(results.len(), 1_000);
    assert!(results.iter().all(|result| result["status"] == 400));
}
