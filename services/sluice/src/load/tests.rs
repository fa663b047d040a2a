//! Whole runs against the stand-in server: nothing that it acknowledged may be missing from the log, whatever it does.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use super::fake::{Act, Fake, Serving, finished};
use super::*;

fn config(serving: &Serving, rate: f64, orders: u64) -> LoadConfig {
    let target = format!("http://{}", serving.address).parse().unwrap();
    let merchants = ["m-a", "m-b", "m-c"].map(|id| Merchant { id: id.into(), key: "k".into() });
    LoadConfig {
        connections: NonZeroUsize::new(8),
        two_line: true,
        ..LoadConfig::new(target, merchants.into(), rate, Duration::from_secs_f64(orders as f64 / rate))
    }
}

fn batches(config: LoadConfig, size: usize) -> LoadConfig {
    LoadConfig { batch: NonZeroUsize::new(size), ..config }
}

async fn send(config: LoadConfig) -> Sent {
    Sending::start(config).await.unwrap().finish().await.unwrap()
}

fn ids(sent: &Sent) -> Vec<u128> {
    let mut ids: Vec<u128> = sent.acks.iter().map(|ack| ack.id()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_calm_run_is_sent_judged_and_conserved() {
    for batch in [None, NonZeroUsize::new(64)] {
        let fake = Fake::new(|_, _| Act::Take);
        let serving = fake.serve("127.0.0.1:0");
        let config = LoadConfig { batch, verify: Verify::Sample(500), ..config(&serving, 5_000.0, 1_000) };
        let report = run(config, &Silent).await.unwrap();
        assert!(report.passed(), "{}", report.table());
        assert_eq!((report.orders_intended, report.orders_sent, report.orders_accepted), (1_000, 1_000, 1_000));
        assert_eq!((report.orders_judged, report.orders_finished, report.sampled), (500, 500, true));
        assert!((report.latency_ms.carrier.p50 - 50.0).abs() < 0.1, "{:?}", report.latency_ms);
        assert_eq!(fake.state.lock().unwrap().orders.len(), 1_000);
        assert_eq!(fake.state.lock().unwrap().batches, batch.map_or(0, |_| 16));
    }
}

#[tokio::test]
async fn refused_orders_are_sent_again_under_the_same_key() {
    for batch in [None, NonZeroUsize::new(50)] {
        // Every third order is refused twice before it is taken.
        let fake = Fake::new(|number, seen| match (number % 3, seen) {
            (0, 0) => Act::Refuse(429),
            (0, 1) => Act::Refuse(503),
            _ => Act::Take,
        });
        let serving = fake.serve("127.0.0.1:0");
        let sent = send(LoadConfig { batch, ..config(&serving, 3_000.0, 300) }).await;
        let tally = &sent.tally;
        assert_eq!((tally.acknowledged, tally.retried, tally.refused), (300, 100, 200), "{tally:?}");
        assert_eq!((tally.rejected, tally.unanswered, tally.not_taken, tally.unsent), (0, 0, 0, 0));
        let state = fake.state.lock().unwrap();
        assert_eq!(ids(&sent), state.taken());
        assert_eq!((state.orders.len(), state.changed), (300, 0));
    }
}

#[tokio::test]
async fn broken_connections_lose_and_double_nothing() {
    for batch in [None, NonZeroUsize::new(20)] {
        let fake = Fake::new(|number, seen| match (number % 10, seen) {
            (1, 0) => Act::Reset,
            (2, 0) => Act::TakeAndReset,
            (3, 0) => Act::Refuse(500),
            _ => Act::Take,
        });
        let serving = fake.serve("127.0.0.1:0");
        let sent = send(LoadConfig { batch, ..config(&serving, 2_000.0, 200) }).await;
        assert_eq!(sent.tally.acknowledged, 200, "{:?}", sent.tally);
        assert!(sent.tally.disconnects >= 20);
        let state = fake.state.lock().unwrap();
        assert_eq!(ids(&sent), state.taken());
        assert_eq!((state.orders.len(), state.changed), (200, 0));
    }
}

#[tokio::test]
async fn every_order_ends_in_one_count() {
    for batch in [None, NonZeroUsize::new(10)] {
        let fake = Fake::new(|number, seen| match number % 10 {
            1 => Act::Refuse(422),
            2 => Act::Refuse(429),
            3 if seen < 1_000 && number < 10 => Act::Refuse(500),
            _ => Act::Take,
        });
        let serving = fake.serve("127.0.0.1:0");
        let give_up_after = Duration::from_millis(200);
        let sent = send(LoadConfig { batch, give_up_after, ..config(&serving, 1_000.0, 100) }).await;
        let tally = &sent.tally;
        assert_eq!(tally.acknowledged, 79, "{tally:?}");
        assert_eq!(tally.rejected, 10, "{tally:?}");
        // In a batch, orders that were only refused share the doubt about the one that failed.
        assert_eq!(tally.not_taken + tally.unanswered, 11, "{tally:?}");
        assert!(tally.unanswered >= 1);
        assert_eq!(tally.statuses.get(&422), Some(&10));
    }
}

#[tokio::test]
async fn a_silent_server_costs_a_timeout_and_no_order() {
    let fake = Fake::new(|number, seen| if number == 5 && seen == 0 { Act::TakeAndHang } else { Act::Take });
    let serving = fake.serve("127.0.0.1:0");
    let request_timeout = Duration::from_millis(500);
    let sent = send(LoadConfig { request_timeout, ..config(&serving, 1_000.0, 50) }).await;
    assert_eq!(sent.tally.acknowledged, 50, "{:?}", sent.tally);
    assert!(sent.tally.retried >= 1 && sent.tally.disconnects >= 1);
    // Measured from the moment it was due, so the whole silence is in it.
    assert!(sent.tally.ack.quantile(1.0) >= request_timeout);
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back_is_found_again() {
    for batch in [None, NonZeroUsize::new(10)] {
        let fake = Fake::new(|_, _| Act::Take);
        let serving = fake.serve("127.0.0.1:0");
        let address = serving.address.to_string();
        let endless = LoadConfig { batch, ..config(&serving, 1_000.0, 3_600_000) };
        let mut sending = Sending::start(endless).await.unwrap();
        wait_until(|| sending.snapshot().done >= 100).await;
        drop(serving);
        wait_until(|| sending.snapshot().disconnects >= 16).await;
        let before = sending.snapshot().done;
        let serving = fake.serve(&address);
        wait_until(|| sending.snapshot().done >= before + 100).await;
        sending.stop();
        let sent = sending.finish().await.unwrap();
        assert_eq!(sent.tally.rejected + sent.tally.unanswered + sent.tally.not_taken, 0, "{:?}", sent.tally);
        assert_eq!(sent.tally.acknowledged, sent.acks.len() as u64);
        assert_eq!(ids(&sent), fake.state.lock().unwrap().taken());
        drop(serving);
    }
}

/// Asks again whenever other tasks have run; the harness's own time limit is the only clock.
async fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn acknowledgements_survive_a_server_that_stays_dead() {
    let fake = Fake::new(|_, _| Act::Take);
    let serving = fake.serve("127.0.0.1:0");
    let drain = Duration::from_millis(100);
    let mut sending = Sending::start(LoadConfig { drain, ..config(&serving, 1_000.0, 3_600_000) }).await.unwrap();
    wait_until(|| sending.snapshot().done >= 100).await;
    drop(serving);
    wait_until(|| sending.snapshot().disconnects >= 8).await;
    sending.stop();
    let sent = sending.finish().await.unwrap();
    let tally = &sent.tally;
    assert!(sent.acks.len() >= 100);
    assert!(tally.unanswered + tally.not_taken > 0);
    assert_eq!(tally.sent, tally.acknowledged + tally.unanswered + tally.not_taken + tally.rejected);
    assert_eq!(sent.intended, tally.sent + tally.unsent);
}

#[tokio::test]
async fn a_rate_that_cannot_be_held_is_not_called_held() {
    // One connection whose every answer comes 20 ms late can't carry 1,000 orders/s.
    let fake = Fake::new(|_, seen| if seen == 0 { Act::TakeAndHang } else { Act::Take });
    let serving = fake.serve("127.0.0.1:0");
    let slow = LoadConfig {
        connections: NonZeroUsize::new(1),
        request_timeout: Duration::from_millis(20),
        drain: Duration::from_millis(300),
        verify: Verify::Sample(0),
        ..config(&serving, 1_000.0, 300)
    };
    let report = run(slow, &Silent).await.unwrap();
    assert!(!report.rate_held);
    assert!(report.orders_unsent > 0 && report.lag_ms.max > 100.0, "{}", report.table());
    assert_eq!(report.orders_judged, 0);
}

/// Orders by their number, from 1: the id that the stand-in gave them.
fn number(id: &str) -> u128 {
    parse_id(id.as_bytes()).unwrap()
}

async fn judged(fake: Fake, orders: u64, settle: Duration) -> Judgement {
    let serving = fake.serve("127.0.0.1:0");
    let config = LoadConfig { settle, verify: Verify::All, ..config(&serving, 10_000.0, orders) };
    let judge = JudgeConfig::from(&config);
    let sent = send(batches(config, 100)).await;
    Judging::start(judge, Arc::new(sent.acks)).await.unwrap().finish().await.unwrap()
}

#[tokio::test]
async fn each_order_is_judged_by_its_own_view() {
    let fake = Fake::new(|_, _| Act::Take).viewed(|id, reads| {
        let view = finished(id);
        match number(id) {
            1..=3 => None,
            4..=5 => Some(view.replace("carrier_accepted", "carrier_requested")),
            6..=10 => Some(view.replace("carrier_accepted", "dead_lettered")),
            11..=13 => Some(view.replace("carrier_accepted", "cancelled")),
            14 => Some("{".into()),
            15 => Some(finished("00000000000000000000000000")),
            16 => Some(view.replace(&format!("{id}-0"), "shared")),
            17 => Some(view.replace(&format!("{id}-0"), "shared")),
            // Not readable and not decided at once.
            18..=20 if reads == 0 => None,
            18..=20 if reads == 1 => Some(view.replace("carrier_accepted", "carrier_requested")),
            _ => Some(view),
        }
    });
    let judgement = judged(fake, 1_000, Duration::from_millis(1_500)).await;
    assert_eq!(judgement.judged, 1_000);
    assert_eq!((judgement.lost, judgement.in_flight, judgement.unread), (3, 2, 2), "{judgement:?}");
    assert_eq!((judgement.dead_lettered, judgement.cancelled, judgement.finished), (5, 3, 985));
    assert_eq!((judgement.duplicate_ids, judgement.duplicate_parcels), (0, 1));
    assert!(!judgement.is_clean() && !judgement.sampled);
    assert_eq!(judgement.examples.len(), 5);
    assert!(judgement.first_problem.is_some());
}

#[tokio::test]
async fn judging_a_dead_server_finds_orders_unread_not_lost() {
    let fake = Fake::new(|_, _| Act::Take);
    let serving = fake.serve("127.0.0.1:0");
    let config = LoadConfig { settle: Duration::ZERO, ..config(&serving, 10_000.0, 100) };
    let judge = JudgeConfig::from(&config);
    let sent = send(config).await;
    drop(serving);
    let judgement = Judging::start(judge, Arc::new(sent.acks)).await.unwrap().finish().await.unwrap();
    assert_eq!((judgement.judged, judgement.unread, judgement.lost), (100, 100, 0), "{judgement:?}");
}

#[tokio::test]
async fn progress_is_told_of_both_phases() {
    struct Phases(Mutex<Vec<Phase>>);
    impl Progress for Phases {
        fn update(&self, snapshot: &Snapshot) {
            self.0.lock().unwrap().push(snapshot.phase);
        }
    }
    let fake = Fake::new(|_, _| Act::Take).viewed(|id, reads| (reads > 0).then(|| finished(id)));
    let serving = fake.serve("127.0.0.1:0");
    let phases = Phases(Mutex::default());
    let report = run(config(&serving, 1_000.0, 200), &phases).await.unwrap();
    assert!(report.passed());
    let seen = phases.0.lock().unwrap();
    assert!(seen.contains(&Phase::Sending) && seen.contains(&Phase::Judging), "{seen:?}");
}

/// How fast the client is: `cargo test --release -p sluice -- --ignored --nocapture speed_of_the_client`.
#[tokio::test]
#[ignore = "a measurement"]
async fn speed_of_the_client() {
    let measure = async |what: &str, batch: Option<usize>, rate: f64, connections: usize| {
        let fake = Fake::new(|_, _| Act::Take);
        let serving = fake.serve("127.0.0.1:0");
        let config = LoadConfig {
            batch: batch.and_then(NonZeroUsize::new),
            connections: NonZeroUsize::new(connections),
            drain: Duration::from_secs(1),
            ..config(&serving, rate, (rate * 5.0) as u64)
        };
        let sent = send(config).await;
        let cpu = sent.cpu.unwrap_or_default();
        let (lag, ack) = (sent.tally.lag.summary(), sent.tally.ack.summary());
        println!(
            "{what}: {:.0} orders/s of {rate:.0}, {:.2} of a core, {:.2} µs an order, lag p99 {:.1} ms, ack p50 {:.2} p99 {:.1} ms",
            sent.achieved_rate(),
            cpu.as_secs_f64() / sent.elapsed.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / sent.tally.sent as f64,
            lag.p99,
            ack.p50,
            ack.p99,
        );
    };
    measure("single", None, 20_000.0, 256).await;
    measure("single", None, 60_000.0, 256).await;
    measure("single", None, 300_000.0, 256).await;
    measure("batches of 1,000", Some(1_000), 320_000.0, 16).await;
    measure("batches of 1,000", Some(1_000), 2_000_000.0, 16).await;
}
