//! The partition count changes while nobody runs: what was acknowledged before stays, is recognised when it is asked for
//! again, and goes on to one carrier; whoever still goes by the old map does no harm.

use std::time::Duration;

use serde_json::Value;
use sluice_checkout::decode::{Context, Key, Scratch, decode};
use sluice_engine_kafka_scylla::{Deployment, Writer};
use sluice_pipeline::{Intake, Receipt, Submission, Submitted};
use ulid::Ulid;

use super::town::{Placed, Town, assert_refused};
use crate::support::{
    block_on,
    client::Connection,
    cluster::PARTITIONS,
    orders::{now_ms, order},
    wait_at_most, wait_for,
};

/// One node of each role.
const ROLES: &[&str] = &["checkout", "classify", "carrier", "status"];
/// How long the brokers may take to notice that a member of a group is gone, and as much again.
const GONE: Duration = Duration::from_secs(20);
/// Partitions afterwards, when there are more.
const MORE: &str = "7";

fn migrated(out: &str) -> (u64, u64, usize) {
    let report: Value = serde_json::from_str(out).unwrap();
    let deployment = &report["topics"]["deployment"];
    let widened = report["topics"]["widened"].as_array().unwrap().len();
    (deployment["epoch"].as_u64().unwrap(), deployment["partitions"].as_u64().unwrap(), widened)
}

#[test]
fn more_partitions_lose_and_double_nothing() {
    let Some(mut town) = Town::new("repartition") else { return };
    let widen = ["migrate", "--json", "--partitions", MORE];
    let name = town.cluster.name.clone();
    // Acknowledged, and not decided.
    town.start(&ROLES[..1]);
    town.post(5);
    town.stop();
    assert_refused(&town.run(&widen), &[&format!("records of {name}.orders wait for {name}.classify")]);
    town.start(ROLES);
    town.post(10);
    assert_refused(&town.run(&widen), &["stop all nodes first", &format!("{name}.classify (1 members)")]);
    town.settle();
    town.stop();

    // Killed on its way: some topics have more partitions by now, and the old map is in force.
    let killed = town.kill_at("topic widened", &widen);
    assert_eq!((town.deployment().epoch, town.deployment().partitions), (1, PARTITIONS));
    town.start(ROLES);
    town.post(10);
    town.settle();
    let before = town.views();
    town.stop();

    let done = town.run(&widen);
    assert_eq!(done.code, Some(0), "{}", done.log);
    let (epoch, partitions, widened) = migrated(&done.out);
    assert_eq!((epoch, partitions), (2, 7));
    // Orders, decisions, events, dead letters, and the shipments of two carriers.
    assert!(if killed { (1..6).contains(&widened) } else { widened == 6 }, "{widened} widened");
    assert_eq!(migrated(&town.run(&widen).out), (2, 7, 0), "asked for again");

    town.start(ROLES);
    town.repeat();
    assert_eq!(town.views(), before);
    town.post(20);
    town.settle();
    a_conflict_is_shown(&town, 3);
    // Everything that was repeated was recognised by whoever decides about it now.
    let receipts = town.stop();
    let recognised: u64 = receipts.iter().filter_map(|receipt| receipt["duplicates_suppressed"].as_u64()).sum();
    assert_eq!(recognised, before.len() as u64);
    // Whoever takes orders counts what it has acknowledged, also where others decide: repetitions, new ones, the conflict.
    let takes: Vec<_> = receipts.iter().filter(|r| r["finished"].is_null() && !r["accepted"].is_null()).collect();
    let taken: u64 = takes.iter().map(|receipt| receipt["accepted"].as_u64().unwrap()).sum();
    assert_eq!((takes.len(), taken), (1, before.len() as u64 + 21), "{receipts:?}");
}

/// Posts another order under the key of an order, which then shows it.
fn a_conflict_is_shown(town: &Town, number: usize) {
    let Placed { key, id, .. } = &town.placed[number];
    town.client("checkout").order(key, &order()).id();
    wait_for("the conflict on the time line of the first order", || {
        let view = town.client("status").view(id);
        view["timeline"].as_array().unwrap().iter().any(|entry| entry["milestone"] == "conflict").then_some(())
    });
}

#[test]
fn nodes_by_the_old_map_lose_and_double_nothing() {
    let Some(mut town) = Town::new("oldmap") else { return };
    let old = town.deployment();
    town.start(ROLES);
    town.post(20);
    town.settle();
    let zombies = ["checkout", "classify"].map(|role| town.cluster.of(role)[0]);
    let others = ["carrier", "status"].map(|role| town.cluster.of(role)[0]);
    zombies.iter().for_each(|&zombie| town.cluster.signal(zombie, "STOP"));
    town.cluster.drain(&others);
    // They wait at its door until it moves again: new orders and repetitions.
    let mut waiting = Vec::new();
    for number in (15..20).chain(1_000..1_007) {
        let known = town.placed.get(number).map(|placed| (placed.key.clone(), placed.body.clone()));
        let (key, body) = known.unwrap_or_else(|| Town::next(number));
        waiting.push((ask(&town, zombies[0], &key, &body), key, body));
    }

    // To fewer: topics keep partitions that the map no longer has.
    wait_at_most(GONE, "the brokers notice that nobody runs any more", || {
        let ended = town.run(&["migrate", "--json", "--partitions", "2"]);
        if ended.code == Some(0) {
            assert_eq!(migrated(&ended.out), (2, 2, 0));
            return Some(());
        }
        assert_refused(&ended, &["stop all nodes first"]);
        None
    });
    for role in ROLES {
        match zombies.iter().any(|&zombie| town.cluster.nodes[zombie].role == *role) {
            true => town.cluster.add(role),
            false => town.cluster.start_spare(role),
        };
    }
    town.cluster.all_ready();

    zombies.iter().for_each(|&zombie| town.cluster.signal(zombie, "CONT"));
    let (answered, cut_off): (Vec<_>, Vec<_>) = waiting
        .into_iter()
        .map(|(mut connection, key, body)| (connection.answer(), key, body))
        .partition(|w| w.0.is_ok());
    for zombie in zombies {
        let ended = town.cluster.ended(zombie);
        assert_eq!(ended.code, Some(76), "{}", ended.log);
        assert!(ended.log.contains("start this node again"), "{}", ended.log);
    }
    // It may have ended before it answered: whoever has no answer asks again, and the order may be there by then.
    eprintln!("the node by the old map answered {} requests and left {}", answered.len(), cut_off.len());
    let again = cut_off.into_iter().map(|(_, key, body)| (town.client("checkout").order_text(&key, &body), key, body));
    let answered: Vec<_> =
        answered.into_iter().map(|(answer, key, body)| (answer.unwrap(), key, body)).chain(again).collect();
    for (answer, key, body) in answered {
        match (answer.status, town.placed.iter().find(|placed| placed.key == key)) {
            (201, Some(placed)) => assert_eq!(answer.id(), placed.id),
            (201, None) => town.placed.push(Placed { key, body, id: answer.id() }),
            // By then it knew.
            _ => drop(answer.problem(503)),
        }
    }
    // Nobody knows when it hears of the change; this is one that doesn't for a while.
    write_by(old, &mut town, 12);
    town.repeat();
    town.post(10);
    town.settle();
    assert!(town.cluster.logs("classify").contains("an input of an older epoch is handed on"), "nothing was handed on");
    town.stop();
}

/// Writes so many new orders, and the first once more, as a node does that goes by `map`.
fn write_by(map: Deployment, town: &mut Town, count: usize) {
    let (now_ms, window_ms) = (now_ms(), 3_600_000);
    let context =
        Context { merchant: &town.cluster.setup.merchants[0].0, slots: map.slot_count().unwrap(), now_ms, window_ms };
    let mut submission = Submission { bytes: Vec::new(), orders: Vec::new() };
    let mut take = |key: &str, body: &str| {
        let taken = decode(body, Key::Given(key), &context, &mut Scratch::default(), &mut submission.bytes).unwrap();
        submission.orders.push(Submitted { id: taken.id, fingerprint: taken.fingerprint, record: taken.record });
        Ulid(taken.id.0).to_string()
    };
    let Placed { key, body, id } = &town.placed[0];
    assert_eq!(&take(key, body), id);
    let new = (town.placed.len()..).take(count).map(|number| {
        let (key, body) = Town::next(number);
        Placed { id: take(&key, &body), key, body }
    });
    let new: Vec<Placed> = new.collect();
    let writer = Writer::start(&town.log(), map).unwrap();
    let receipts = block_on(writer.submit(submission));
    assert!(receipts.iter().all(|receipt| *receipt == Receipt::Accepted), "{receipts:?}");
    writer.close();
    town.placed.extend(new);
}

/// Sends an order to a node that may be stopped; what it answers is read later.
fn ask(town: &Town, node: usize, key: &str, body: &str) -> Connection {
    let client = town.cluster.client(node);
    let headers = ["content-type: application/json", &format!("idempotency-key: {key}")];
    let mut connection = client.connect().unwrap();
    connection.write(client.head("POST /v1/orders", &headers, body.len()).as_bytes()).unwrap();
    connection.write(body.as_bytes()).unwrap();
    connection
}
