//! Faults of processes and of the network. After each: nothing acknowledged is lost, no parcel has two carriers, no status
//! went back, the lag is back to zero, and every order is conserved by its id.

use std::time::{Duration, Instant};

use super::run::{Needs, Run, Stage, full, last};
use crate::support::{cluster::SESSION_MS, proxy::Weather};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A stage with all its nodes, on which `fault` is run.
fn stage(name: &'static str, needs: Needs, fault: impl FnMut(&mut Run<'_>)) {
    if let Some(mut stage) = Stage::new(name, needs) {
        stage.start_nodes();
        stage.run(fault);
    }
}

#[test]
fn nodes_are_killed_at_random() {
    stage("kills", Needs::Nodes, |run| {
        let nodes = run.cluster.nodes.len() as u64;
        // Each once, in a random order, and some more.
        let mut numbers: Vec<u64> = (0..nodes).collect();
        (0..nodes as usize).for_each(|at| numbers.swap(at, at + run.random.below(nodes - at as u64) as usize));
        numbers.extend((0..2).map(|_| run.random.below(nodes)));
        for number in numbers {
            let number = number as usize;
            last(run.random.moment(400));
            run.cluster.kill(number);
            last(run.random.moment(1_000));
            run.cluster.start(number);
            // Now and then the next one is killed while this one starts.
            if run.random.below(3) > 0 {
                run.cluster.ready(number);
            }
        }
    });
}

#[test]
fn a_worker_that_was_stopped_comes_back_as_a_zombie() {
    stage("zombie", Needs::Nodes, |run| {
        let workers = run.cluster.of("classify");
        for round in 0..2 {
            let number = workers[(run.random.below(2) as usize + round) % 2];
            last(run.random.moment(300));
            run.cluster.signal(number, "STOP");
            last(Duration::from_millis(SESSION_MS + 1_500) + run.random.moment(2_000));
            run.cluster.signal(number, "CONT");
            run.flow(50);
        }
    });
}

#[test]
fn the_broker_is_killed() {
    stage("broker", Needs::Kills, |run| {
        last(run.random.moment(500));
        run.shared.brokers.kill_kafka();
        last(run.random.moment(3_000));
        run.shared.brokers.start_kafka().unwrap();
    });
}

#[test]
fn the_store_is_killed() {
    stage("store", Needs::Kills, |run| {
        last(run.random.moment(500));
        run.shared.brokers.kill_store();
        last(run.random.moment(3_000));
        run.shared.brokers.start_store().unwrap();
    });
}

#[test]
fn broker_and_store_are_killed() {
    stage("both", Needs::Kills, |run| {
        last(run.random.moment(500));
        run.shared.brokers.kill_kafka();
        last(run.random.moment(500));
        run.shared.brokers.kill_store();
        last(run.random.moment(2_000));
        run.shared.brokers.start_store().unwrap();
        run.shared.brokers.start_kafka().unwrap();
    });
}

#[test]
fn the_store_is_away_for_long() {
    stage("storeless", Needs::Kills, |run| {
        let away = Instant::now();
        run.shared.brokers.kill_store();
        // Orders are taken all the while.
        run.flow(300);
        last(seconds(if full() { 60 } else { 15 }).saturating_sub(away.elapsed()));
        run.flow(50);
        run.shared.brokers.start_store().unwrap();
    });
}

#[test]
fn workers_come_and_go() {
    stage("comings", Needs::Nodes, |run| {
        let (began, mut third, mut leaves) = (Instant::now(), None, 0);
        while began.elapsed() < seconds(if full() { 30 } else { 12 }) {
            let next = Instant::now() + seconds(2);
            match third.take() {
                None => {
                    let role = ["classify", "carrier", "status"][run.random.below(3) as usize];
                    let number = run.cluster.start_spare(role);
                    run.cluster.ready(number);
                    third = Some(number);
                }
                Some(number) if leaves % 2 == run.random.below(2) => {
                    leaves += 1;
                    run.cluster.kill(number);
                }
                Some(number) => {
                    leaves += 1;
                    run.cluster.drain(&[number]);
                }
            }
            last(next.saturating_duration_since(Instant::now()));
        }
        if let Some(number) = third {
            run.cluster.drain(&[number]);
        }
    });
}

#[test]
fn connections_to_the_broker_are_reset_and_delayed() {
    stage("network", Needs::Proxy, |run| {
        let (began, before) = (Instant::now(), run.shared.proxy.resets());
        while began.elapsed() < seconds(if full() { 30 } else { 10 }) {
            let weather =
                Weather { delay_ms: run.random.below(60), resets: run.random.below(60), ..Weather::default() };
            run.shared.proxy.set(weather);
            last(run.random.moment(2_000));
            run.shared.proxy.cut();
        }
        run.shared.proxy.set(Weather::default());
        assert!(run.shared.proxy.resets() >= before + 20, "hardly any connection was reset");
    });
}

/// The brokers have what was written, and whoever wrote it can't know: for less and for longer than its transaction lasts.
#[test]
fn nobody_is_told_that_records_were_written() {
    stage("deaf", Needs::Proxy, |run| {
        for deaf_ms in [SESSION_MS, SESSION_MS * 3 / 2, SESSION_MS * 3] {
            let before = run.shared.proxy.resets();
            run.shared.proxy.set(Weather { deaf_writers: true, ..Weather::default() });
            last(Duration::from_millis(deaf_ms) + run.random.moment(500));
            run.shared.proxy.set(Weather::default());
            assert!(run.shared.proxy.resets() >= before + 5, "hardly any answer was lost");
            run.flow(50);
        }
    });
}
