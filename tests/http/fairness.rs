//! A merchant beyond its rate limit is told when to come back, and nobody else notices.

use std::time::{Duration, Instant};

use super::operation::post_batch;
use crate::support::{
    engine::{Engine, on_both_engines},
    orders::{line, order},
    setup::{GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(a_rate_limit_is_kept_and_retry_after_is_true);

fn a_rate_limit_is_kept_and_retry_after_is_true(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]).with("rate_limit = 10\nburst = 20\n"));
    let server = world.serve();
    let (loud, quiet) = (world.client(), world.other_client());
    // A batch is taken as a whole: 70 of 20 are taken, and the next is due when 51 have been made up for.
    let began = Instant::now();
    post_batch(&loud, "loud", 70);
    let single = loud.order("loud-next", &order());
    single.problem(429);
    assert_eq!(single.json()["type"], "urn:sluice:problem:too-many-requests");
    let batch = loud.batch(line("loud-more", order()).to_string());
    batch.problem(429);
    let told: u64 = batch.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=6).contains(&told), "{told}");
    post_batch(&quiet, "quiet", 19);
    quiet.order("quiet-last", &order()).id();
    assert_eq!(server.metric("sluice_checkout_refused_total{reason=\"rate\"}"), Some(2.0));
    // Nobody is let in early, and whoever comes back as told is.
    let taken = wait_for("it is let in again", || Some(loud.order("loud-again", &order())).filter(|a| a.status == 201));
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(5_000) && !taken.id().is_empty(), "{waited:?}");
}
