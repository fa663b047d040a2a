//! What an operator does: start, drain, start again, get a configuration wrong, check a folder.

use sluice_domain::limits::MAX_PARTY_ID;

use super::life::wait_for_status;
use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    journal::{flip, groups, overwrite},
    orders::{line, order},
    process::{Ended, Process},
    setup::{Carrier, GOOD, SECRET, Setup},
    wait_for,
    world::World,
};

on_both_engines!(
    who_says_that_it_takes_orders_is_ready,
    a_drain_finishes_what_is_in_flight,
    what_a_drain_leaves_the_next_start_serves,
    a_wrong_configuration_is_refused_by_name,
    ids_of_merchants_and_carriers_have_their_length,
);

/// Posts so many orders in one batch, and gives their ids.
pub fn post_batch(client: &Client, name: &str, orders: usize) -> Vec<String> {
    let lines: Vec<String> = (0..orders).map(|n| line(&format!("{name}-{n}"), order()).to_string()).collect();
    let results = client.batch(lines.join("\n")).lines();
    assert!(results.iter().all(|result| result["status"] == 201), "{}", results[0]);
    results.iter().map(|result| result["id"].as_str().unwrap().to_owned()).collect()
}

fn who_says_that_it_takes_orders_is_ready(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    let client = world.client();
    let readiness = client.get("/readyz");
    assert_eq!(readiness.status, 200, "{}", readiness.text());
    client.order("k", &order()).id();
}

fn a_drain_finishes_what_is_in_flight(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    world.carriers.change("good", r#"{"down": true}"#);
    let server = world.serve();
    let client = world.client();
    let first = order();
    let id = client.order("k-0", &first).id();
    post_batch(&client, "more", 499);
    client.order("k-0", &first);
    server.start_drain();
    let readiness = wait_for("the drain begins", || Some(client.get("/readyz")).filter(|answer| answer.status == 503));
    readiness.problem(503);
    for refused in [client.order("k-new", &order()), client.batch(line("k-new-b", order()).to_string())] {
        refused.problem(503);
    }
    assert_eq!(client.get("/healthz").status, 200);
    wait_for_status(&client, &id, "carrier_requested");
    world.carriers.change("good", r#"{"down": false}"#);
    let receipt = server.receipt();
    for (field, value) in [
        ("accepted", 500),
        ("finished", 500),
        ("dead_lettered", 0),
        ("left_in_journal", 0),
        ("duplicates_suppressed", 1),
    ] {
        assert_eq!(receipt[field], value, "{field} in {receipt}");
    }
    assert!(receipt["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(world.ledger().totals().accepted, 500);
}

fn what_a_drain_leaves_the_next_start_serves(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]).with("drain_deadline_s = 1\n"));
    let server = world.serve();
    let client = world.client();
    let done = post_batch(&client, "done", 30);
    done.iter().for_each(|id| drop(wait_for_status(&client, id, "carrier_accepted")));
    world.carriers.change("good", r#"{"down": true}"#);
    let left = post_batch(&client, "left", 20);
    let receipt = server.drain();
    let count = |field: &str| receipt[field].as_u64().unwrap();
    assert_eq!((count("accepted"), count("finished"), count("dead_lettered")), (50, 30, 0), "{receipt}");
    // A cluster's outboxes are nobody's own, so a node tells only of what is undecided.
    assert_eq!(count("left_in_journal"), if world.has_journal() { 20 } else { 0 }, "{receipt}");

    world.carriers.change("good", r#"{"down": false}"#);
    let server = world.serve();
    for id in left.iter().chain(&done) {
        wait_for_status(&client, id, "carrier_accepted");
    }
    let receipt = server.drain();
    let count = |field: &str| receipt[field].as_u64().unwrap();
    assert_eq!((count("accepted"), count("finished"), count("left_in_journal")), (0, 20, 0), "{receipt}");
    let ledger = world.ledger();
    assert_eq!((ledger.totals().accepted, ledger.duplicates().count()), (50, 0));
}

/// Starts a server with this configuration and these variables, which is expected to end by itself.
fn start(world: &World, config: &str, variables: &[(&str, &str)]) -> Ended {
    let path = world.folder().join("wrong.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = world.command(&path);
    command.envs(variables.iter().copied());
    Process::run(command, world.folder(), "wrong")
}

fn a_wrong_configuration_is_refused_by_name(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let good = world.config();
    let top = |line: &str| format!("{line}\n{good}");
    let without = |part: &str| good.lines().filter(|line| !line.contains(part)).collect::<Vec<_>>().join("\n");
    let segment = |value: &str| good.replace("segment_mb = 40", &format!("segment_mb = {value}"));
    let carrier = |line: &str| format!("{good}{line}\n");
    let merchants = |table: &str| format!("{good}\n[[merchant]]\n{table}\n");
    let cases = [
        (top("chekpoint_mb = 1"), "chekpoint_mb"),
        (top("checkpoint_mb = \"much\""), "wrong.toml:1"),
        (top("partitions = 0"), "partitions"),
        (top("partitions = 65"), "partitions"),
        (top("placed_at_window_s = 0"), "placed_at_window_s"),
        (top("checkpoint_mb = 0"), "checkpoint_mb"),
        (top("hot_mb = 0"), "hot_mb"),
        (top("queue_mb = 0"), "queue_mb"),
        (top("max_inflight_mb = 15"), "max_inflight_mb"),
        (top("max_connections = 0"), "max_connections"),
        (top("rate_limit = 10000001"), "rate_limit"),
        (top("burst = 10000001"), "burst"),
        (top("slow_ack_ms = 0"), "slow_ack_ms"),
        (top("max_event_streams = 0"), "max_event_streams"),
        (top("log_format = \"xml\""), "log_format"),
        (segment("15"), "segment_mb"),
        (segment("4097"), "segment_mb"),
        (good.replace("listen = ", "listen = \"nowhere\" # "), "wrong.toml:1"),
        (good.replace("[[merchant]]\nid = \"m-2\"", "[[merchant]]\nid = \"m-1\""), "m-1"),
        (merchants("id = \"m-9\""), "m-9"),
        (merchants("id = \"m-9\"\napi_key_env = \"SLUICE_TEST_NO_SUCH_KEY\""), "SLUICE_TEST_NO_SUCH_KEY"),
        (merchants("id = \"m-9\"\napi_key = 5"), "api_key"),
        (merchants("id = \"m-9\"\napi_keys = \"key-1\""), "api_keys"),
        (merchants("id = \"m-9\"\napi_keys = [\"key-1\"]"), "m-1 and m-9 have the same API key"),
        (merchants("id = \"m-9\"\napi_key_hashes = [\"abc\"]"), "\"m-9\": api_key_hashes"),
        (merchants("id = \"m-9\"\napi_key = \"k\"\nweight = 1001"), "\"m-9\": weight"),
        (carrier("[tls]\ncertificate = \"/nowhere/tls.crt\"\nkey = \"/nowhere/tls.key\""), "/nowhere/tls.crt"),
        (carrier("[tls]\ncertificate = \"/nowhere/tls.crt\""), "key"),
        (without("url ="), "url"),
        (good.replace(SECRET, "whsec_c2hvcnQ="), "secret"),
        (good.replace("url = \"http:", "url = \"https:"), "url"),
        (good.replace("\"chilled\"", "\"warm\""), "handling"),
        (carrier("concurrency = 0"), "concurrency"),
        (carrier("timeout_s = 0"), "timeout_s"),
        (carrier("give_up_after_s = 0"), "give_up_after_s"),
        (carrier("manifest_shipments = 10001"), "manifest_shipments"),
        (top("rules = \"/nowhere/rules.toml\""), "/nowhere/rules.toml"),
    ];
    for (config, named) in cases {
        let ended = start(&world, &config, &[]);
        assert_eq!(ended.code, Some(2), "{named}: {}", ended.log);
        assert!(ended.log.contains(named), "{named} isn't named: {}", ended.log);
        assert!(!ended.log.contains(SECRET) && !ended.log.contains("key-1"), "a secret is shown: {}", ended.log);
    }
    let ended = start(&world, &good, &[("SLUICE_PARTITIONS", "many")]);
    assert!(ended.code == Some(2) && ended.log.contains("SLUICE_PARTITIONS"), "{ended:?}");
    // The same port twice, and the same folder twice.
    let _server = world.serve();
    let ended = start(&world, &good.replace("data\"", "other\""), &[]);
    assert!(ended.code == Some(69) && ended.log.contains(&world.address().to_string()), "{ended:?}");
    if !world.has_journal() {
        return;
    }
    let ended = start(&world, &good, &[("SLUICE_LISTEN", "127.0.0.1:0")]);
    assert!(ended.code == Some(75) && ended.log.contains("data"), "{ended:?}");
}

pub fn ids_of_merchants_and_carriers_have_their_length(engine: &Engine) {
    for length in [MAX_PARTY_ID - 1, MAX_PARTY_ID] {
        let id = "i".repeat(length);
        let mut world = World::on(engine, Setup::new(&[Carrier { id: id.clone().leak(), ..GOOD }]));
        world.setup.merchants[0].0.clone_from(&id);
        let _server = world.serve();
        let order = world.client().order("k", &order()).id();
        assert_eq!(wait_for_status(&world.client(), &order, "carrier_accepted")["parcels"][0]["carrier"], id.as_str());
    }
    let world = World::on(engine, Setup::new(&[GOOD]));
    let good = world.config();
    let long = format!("id = {:?}", "i".repeat(MAX_PARTY_ID + 1));
    for (id, named) in [("id = \"m-1\"", "merchant"), ("id = \"good\"", "carrier")] {
        let ended = start(&world, &good.replace(id, &long), &[]);
        assert!(ended.code == Some(2) && ended.log.contains(named), "{ended:?}");
    }
}

/// Looks into the journal's files: the embedded engine alone has any.
#[test]
fn a_good_folder_passes_the_check_and_damage_is_named() {
    let world = World::new(Setup::new(&[GOOD]));
    let server = world.serve();
    let client = world.client();
    for batch in 0..10 {
        post_batch(&client, &format!("k-{batch}"), 50);
    }
    assert_eq!(world.check().code, Some(75), "a folder in use isn't checked");
    server.drain();
    let good = world.check();
    assert_eq!(good.code, Some(0), "{good:?}");

    // What was being written when the power went: garbage where the next group would be.
    let all = groups(world.data_dir());
    assert!(all.len() > 10, "{}", all.len());
    let last = all.last().unwrap();
    overwrite(&last.file, last.offset + last.len(), &[0xAB; 10_000]);
    let torn = world.check();
    assert_eq!(torn.code, Some(0), "a torn tail is no damage: {torn:?}");
    assert!(torn.out.contains("torn"), "it is told, though: {torn:?}");

    // A byte in the midst of what is durable: nobody but rot does that.
    let hurt = &all[all.len() / 2];
    flip(&hurt.file, hurt.offset + 50);
    let damaged = world.check();
    assert_eq!(damaged.code, Some(1), "{damaged:?}");
    let said = damaged.out + &damaged.log;
    assert!(said.contains(&hurt.file_name()) && said.contains(&hurt.offset.to_string()), "{said}");
    let refused = world.serve_in_vain();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.log.contains(&hurt.file_name()) && refused.log.contains(&hurt.offset.to_string()), "{refused:?}");
}
