//! Killed under load just before a checkpoint, with ten million orders in the folder, it serves again within ten
//! seconds. Too long for every run; on a quiet machine with 10 GB of room:
//!
//! ```text
//! cargo test --release -p sluice-tests -- --ignored --nocapture ten_million
//! ```
//! `SLUICE_TEST_ORDERS` takes another number of orders than ten million.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use sluice::load::{LoadConfig, Merchant, Sending, Snapshot};

use crate::support::{
    block_on,
    orders::order,
    setup::{GOOD, Setup},
    wait_at_most,
    world::{Server, World},
};

/// What is promised.
const PROMISE: Duration = Duration::from_secs(10);
/// How long the orders may take to come in.
const LOADING: Duration = Duration::from_secs(3_600);
/// More than any machine takes: as many as it can.
const RATE: f64 = 150_000.0;
/// Bytes of journal between two checkpoints: the default.
const CHECKPOINT_BYTES: f64 = (512 << 20) as f64;
/// Share of that at which the next checkpoint is near.
const NEAR: f64 = 0.8;

fn load(world: &World) -> LoadConfig {
    let merchants =
        world.setup.merchants.iter().map(|(id, key)| Merchant { id: id.clone(), key: key.clone() }).collect();
    let target = format!("http://{}", world.address()).parse().unwrap();
    LoadConfig {
        batch: NonZeroUsize::new(1_000),
        connections: NonZeroUsize::new(8),
        two_line: true,
        // Who is refused under such load comes back.
        give_up_after: Duration::from_secs(60),
        drain: Duration::from_secs(5),
        ..LoadConfig::new(target, merchants, RATE, Duration::from_secs(400))
    }
}

/// Waits until so many orders are acknowledged. A server that is slower than the schedule is sent the rest of it late; one
/// that is faster is sent another.
fn fill(world: &World, orders: u64) -> Sending {
    let mut before = 0;
    let mut sending = block_on(Sending::start(load(world))).unwrap();
    wait_at_most(LOADING, "all orders are taken", || {
        let Snapshot { done, total, errors, .. } = sending.snapshot();
        assert_eq!(errors, 0);
        if done == total {
            before += done;
            sending = block_on(Sending::start(load(world))).unwrap();
        }
        (before + done >= orders).then_some(())
    });
    sending
}

/// What the log says of a field of its line about recovery.
fn recovered(server: &Server, field: &str) -> f64 {
    let log = server.log();
    let text = log.split(&format!(" {field}=")).nth(1).and_then(|rest| rest.split_whitespace().next());
    text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {field}: {log}"))
}

#[test]
#[ignore = "takes minutes and gigabytes; the head of this file says how to run it"]
fn ten_million_orders_are_served_again_within_ten_seconds() {
    if cfg!(debug_assertions) {
        panic!("measure what ships: run it with --release");
    }
    let orders = std::env::var("SLUICE_TEST_ORDERS").map_or(10_000_000, |text| text.parse().unwrap());
    let world = World::new(Setup::with_defaults(&[GOOD]));
    let server = world.serve();
    let client = world.client();
    let first = client.order("first", &order()).id();
    let sending = fill(&world, orders);
    let last = client.order("last", &order()).id();
    wait_at_most(LOADING, "the next checkpoint is near", || {
        let lag = server.metric("sluice_checkpoint_lag_bytes").unwrap_or_default();
        (lag > NEAR * CHECKPOINT_BYTES).then_some(())
    });
    server.kill();
    let started = Instant::now();
    let server = world.launch().ready_within(Duration::from_secs(120));
    wait_at_most(Duration::from_secs(60), "it is ready", || (client.get("/readyz").status == 200).then_some(()));
    let ready = started.elapsed();
    for id in [&first, &last] {
        assert_eq!(client.view(id)["id"], id.as_str());
    }
    let serving = started.elapsed();
    drop(sending);
    let (taken, replayed) = (recovered(&server, "orders"), recovered(&server, "replayed_bytes"));
    eprintln!(
        "{taken} orders in the folder, {:.0} MiB of journal replayed: ready after {:.2} s, acknowledged orders read after \
         {:.2} s",
        replayed / f64::from(1 << 20),
        ready.as_secs_f64(),
        serving.as_secs_f64()
    );
    assert!(taken >= orders as f64);
    assert!(replayed > CHECKPOINT_BYTES / 2.0, "a checkpoint came in between: nothing is shown by this run");
    server.kill();
    assert!(serving <= PROMISE, "{serving:?}");
}
