//! What an operator sees of everybody's orders, by the program's own commands: one order hop by hop, decisions as they are
//! made, and what nobody carries.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::{Value, json};

use super::{commands::cancel, life::wait_for_status, tracking};
use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    orders::{BEER, ICE, PLANT, YOGURT, order, order_of},
    process::{Ended, Process, program},
    setup::{Carrier, EVENTS_SECRET, GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(
    an_order_is_traced_hop_by_hop,
    a_tap_goes_on_where_it_was,
    dead_letters_are_found_and_nothing_else,
    each_key_opens_its_own_doors,
);

pub const KEY: &str = "operators-key";

/// A world with an operator.
pub fn world(engine: &Engine, carriers: &[Carrier]) -> World {
    World::on(engine, Setup::new(carriers).with(&format!("operator_key = {KEY:?}\n")))
}

fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = program(arguments);
    command.args(["--url", &format!("http://{}", world.address())]).env("SLUICE_OPERATOR_KEY", KEY);
    command
}

/// Runs a subcommand to its end.
pub fn run(world: &World, arguments: &[&str]) -> Ended {
    Process::run(command(world, arguments), world.folder(), arguments[0])
}

/// As [`run`], of one that prints JSON, one value a line, and ends well.
#[track_caller]
pub fn values(world: &World, arguments: &[&str]) -> Vec<Value> {
    let ended = run(world, &[arguments, &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Where a command said to go on.
pub fn cursor(log: &str) -> String {
    let line = log.lines().rfind(|line| line.contains("go on with --")).unwrap_or_else(|| panic!("{log}"));
    line.rsplit_once(' ').unwrap().1.to_owned()
}

/// What happened to one parcel: what, by which carrier, and its outcome.
fn hops(trace: &Value, parcel: u64) -> Vec<[&str; 3]> {
    let of = trace["hops"].as_array().unwrap().iter().filter(|hop| hop["parcel"] == parcel);
    of.map(|hop| ["what", "carrier", "outcome"].map(|name| hop[name].as_str().unwrap_or_default())).collect()
}

/// A trace once it has its last void's outcome.
fn trace_of(world: &World, id: &str) -> Value {
    wait_for("the void is settled", || {
        let trace = values(world, &["trace", id]).remove(0);
        (hops(&trace, 1).last() == Some(&["void_settled", "good", "accepted"])).then_some(trace)
    })
}

fn an_order_is_traced_hop_by_hop(engine: &Engine) {
    let picky = Carrier { id: "picky", handling: &["chilled"], more: "cost = 1", behaviour: "reject=1", ..GOOD };
    let world = world(engine, &[picky, GOOD]);
    let server = world.serve();
    let client = world.client();
    let posted = order_of(&[(YOGURT, 2), (ICE, 1)]);
    let id = client.order("k-1", &posted).id();
    wait_for_status(&client, &id, "carrier_accepted");
    let mut moved = tracking::event(&id, 0, "picked_up", 60_000);
    moved["shipment_id"] = format!("{id}-0-1").into();
    assert_eq!(
        tracking::tell(&client, "good", EVENTS_SECRET, "msg_1", &[moved]).json()["results"][0]["status"],
        "taken"
    );
    wait_for("it is on its way", || (client.view(&id)["parcels"][0]["status"] == "picked_up").then_some(()));
    // Over Kafka a carrier may have answered before the merchant is.
    assert!(cancel(&client, &id).status < 300);

    let trace = trace_of(&world, &id);
    assert_eq!((&trace["id"], &trace["merchant"], &trace["customer"]), (&json!(id), &json!("m-1"), &json!("c-77")));
    assert_eq!((&trace["class"], &trace["status"]), (&json!("finished"), &json!("picked_up")));
    assert_eq!(trace["placed_at"], posted["placed_at"]);
    let rules = trace["rules"].as_u64().unwrap();
    assert!(rules > 0 && trace["position"].as_str().unwrap().parse::<u64>().is_ok(), "{trace}");
    assert!(trace["accepted_at"].as_str() <= trace["decided_at"].as_str(), "{trace}");
    let first = [
        ["requested", "picky", ""],
        ["settled", "picky", "rejected"],
        ["requested", "good", ""],
        ["settled", "good", "accepted"],
        ["picked_up", "good", ""],
    ];
    assert_eq!(hops(&trace, 0), first, "{trace}");
    let second = [
        ["requested", "good", ""],
        ["settled", "good", "accepted"],
        ["void_requested", "good", ""],
        ["void_settled", "good", "accepted"],
    ];
    assert_eq!(hops(&trace, 1), second, "{trace}");
    let parcel = |n: usize| trace["parcels"][n].clone();
    assert_eq!(parcel(0)["items"], json!([{"line": 0, "sku": "x-0", "quantity": 2}]));
    assert_eq!((&parcel(0)["weight_g"], &parcel(1)["handling"]), (&json!(340), &json!("frozen")));
    assert_eq!(parcel(0)["weight_estimated"], json!(false));
    assert_eq!((&parcel(0)["standing"], &parcel(1)["standing"]), (&json!("accepted"), &json!("cancelled")));
    assert_eq!(parcel(1)["attempts"][0]["void"]["outcome"], "accepted");
    assert_eq!(trace["commands"][0]["verdict"], "done");

    // Its events are those of the feed, and each says where the order stood.
    let told = values(&world, &["tap", "--after", "oldest", "--no-follow"]);
    let numbers: Vec<_> =
        told.iter().map(|event| event["sequence"].as_str().unwrap().parse::<u64>().unwrap()).collect();
    let traced: Vec<_> = trace["events"].as_array().unwrap().iter().map(|e| e["sequence"].as_u64().unwrap()).collect();
    assert_eq!((numbers.len(), &numbers), (7, &traced), "{told:?}");
    assert_eq!(trace["events"][0]["status"], "carrier_requested");
    let taken = values(&world, &["tap", "--after", "oldest", "--no-follow", "--status", "carrier_accepted"]);
    let by_status = trace["events"].as_array().unwrap().iter().filter(|event| event["status"] == "carrier_accepted");
    assert_eq!(taken.len(), by_status.count(), "{trace}");

    // As a person reads it, and across a restart.
    let text = run(&world, &["trace", &id]);
    assert_eq!((text.code, text.log.as_str()), (Some(0), ""));
    for part in [&format!("order {id}  picked_up (finished)"), "picky rejected", "void_settled", "2 × x-0"] {
        assert!(text.out.contains(part), "{part}: {}", text.out);
    }
    server.kill();
    let _server = world.serve();
    assert_eq!(trace_of(&world, &id), trace);
    let unknown = run(&world, &["trace", "01M6VZ4W3V00J8Z8M3C0V9S1QK"]);
    assert_eq!((unknown.code, unknown.log.as_str()), (Some(1), "error: There is no order with this id.\n"));
    assert_eq!(run(&world, &["dlq", "show", &id]).code, Some(1), "nothing of it is dead-lettered");
    let mut wrong = command(&world, &["trace", &id]);
    wrong.env("SLUICE_OPERATOR_KEY", "key-1");
    assert_eq!(Process::run(wrong, world.folder(), "wrong").code, Some(2), "a merchant's key");
}

/// Ids by order, whose numbers must have no gap; nothing twice.
fn by_order(out: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::<String, BTreeSet<String>>::new();
    for line in out.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let of = all.entry(event["subject"].as_str().unwrap().to_owned()).or_default();
        assert_eq!(event["sequence"].as_str().unwrap().parse::<usize>().unwrap(), of.len(), "{event}");
        assert!(of.insert(event["id"].as_str().unwrap().to_owned()), "twice: {event}");
    }
    all
}

fn a_tap_goes_on_where_it_was(engine: &Engine) {
    const ORDERS: usize = 10;
    let slow = Carrier { id: "slow", handling: &["frozen"], ..GOOD };
    let good = Carrier { handling: &["chilled"], ..GOOD };
    let world = world(engine, &[good, slow]);
    let server = world.serve();
    let clients = [world.client(), world.other_client()];
    let place = |from: usize| -> Vec<String> {
        let goods = |n: usize| if n.is_multiple_of(2) { YOGURT } else { ICE };
        let post = |n: usize| clients[n % 2].order(&format!("k-{n}"), &order_of(&[(goods(n), 1)])).id();
        let ids: Vec<String> = (from..from + ORDERS).map(post).collect();
        ids.iter().enumerate().for_each(|(n, id)| drop(wait_for_status(&clients[n % 2], id, "carrier_accepted")));
        ids
    };
    let start = |name: &str, more: &[&str]| {
        Process::start(command(&world, &[&["tap", "--after", "oldest"], more].concat()), world.folder(), name)
    };
    let all = start("tap-all", &["--json"]);
    // The one that fits: merchant m-2's orders are those of frozen goods.
    let few = start("tap-few", &["--merchant", "m-2", "--carrier", "slow", "--milestone", "carrier_accepted"]);
    let none = start("tap-none", &["--merchant", "m-1", "--carrier", "slow"]);
    let told = |process: &Process, lines: usize| {
        wait_for(&format!("{lines} lines"), || (process.out().lines().count() >= lines).then(|| process.out()))
    };
    let ids = place(0);
    told(&all, 2 * ORDERS);
    told(&few, ORDERS / 2);
    server.kill();
    wait_for("the loss is told", || all.log().contains("trying again").then_some(()));
    let _server = world.serve();
    let ids = [ids, place(ORDERS)].concat();
    let out = told(&all, 4 * ORDERS);
    assert_eq!(by_order(&out).into_keys().collect::<BTreeSet<_>>(), ids.iter().cloned().collect());
    assert!(all.log().contains("it is back"), "{}", all.log());
    told(&few, ORDERS);
    for process in [&all, &few, &none] {
        process.signal("INT");
    }
    let (all, few, none) = (all.end(), few.end(), none.end());
    assert_eq!((all.code, by_order(&all.out).len()), (Some(0), 2 * ORDERS), "{}", all.log);
    assert_eq!((few.code, few.out.lines().count()), (Some(0), ORDERS), "{}", few.out);
    // No terminal, no colours.
    let line = few.out.lines().next().unwrap();
    assert!(
        !few.out.contains('\x1b') && line.contains("  m-2 ") && line.contains("parcel 0 carrier_accepted slow"),
        "{line}"
    );
    assert_eq!((none.code, none.out.as_str()), (Some(0), ""));

    // Where it ended there is nothing more, and from there on what comes.
    let end = cursor(&all.log);
    assert_eq!(values(&world, &["tap", "--after", &end, "--no-follow"]), Vec::<Value>::new());
    let last = clients[0].order("k-last", &order()).id();
    let next = values(&world, &["tap", "--after", &end, "--limit", "1"]);
    assert_eq!((next.len(), &next[0]["subject"]), (1, &json!(last)));
    // Whose output nobody reads any more ends, though nothing comes.
    assert_eq!(first_line(&world, &["tap", "--after", &end]).out.lines().count(), 1);
    assert_eq!(run(&world, &["tap", "--after", "1.zzzzzzzzzz.0.0.0", "--no-follow"]).code, Some(2));
}

/// As [`run`], of what is read no further than its first line.
fn first_line(world: &World, arguments: &[&str]) -> Ended {
    let whole = command(world, arguments);
    let mut piped = Command::new("sh");
    piped.args(["-c", "\"$0\" \"$@\" | head -n 1"]).arg(whole.get_program()).args(whole.get_args());
    piped.env("SLUICE_OPERATOR_KEY", KEY);
    Process::run(piped, world.folder(), "first-line")
}

fn dead_letters_are_found_and_nothing_else(engine: &Engine) {
    let good = Carrier { handling: &["chilled", "age_restricted"], more: "max_weight_g = 4000", ..GOOD };
    let world = world(engine, &[good]);
    let _server = world.serve();
    let (one, other) = (world.client(), world.other_client());
    let post = |client: &Client, key: &str, goods: &[(&str, u32)], status: &str| {
        let id = client.order(key, &order_of(goods)).id();
        wait_for_status(client, &id, status);
        id
    };
    assert_eq!(values(&world, &["dlq", "list"]), Vec::<Value>::new());
    let fine = post(&one, "k-0", &[(YOGURT, 1)], "carrier_accepted");
    let plant = post(&one, "k-1", &[(PLANT, 1)], "dead_lettered");
    let mixed = one.order("k-2", &order_of(&[(YOGURT, 1), (PLANT, 2)])).id();
    wait_for("its other parcel is taken", || {
        let parcels = one.view(&mixed)["parcels"].as_array().unwrap().clone();
        parcels.iter().any(|parcel| parcel["status"] == "carrier_accepted").then_some(())
    });
    let many = post(&other, "k-3", &[(BEER, 201)], "dead_lettered");
    post(&other, "k-4", &[(BEER, 2)], "carrier_accepted");

    let letters = values(&world, &["dlq", "list"]);
    let found: Vec<_> = letters.iter().map(|letter| (letter["order"].as_str().unwrap(), &letter["parcel"])).collect();
    let number = |of: &str| {
        let parcels = one.view(of)["parcels"].as_array().unwrap().clone();
        parcels.iter().position(|parcel| parcel["status"] == "dead_lettered").unwrap()
    };
    let (first, second) = (json!(number(&plant)), json!(number(&mixed)));
    let expected = [(plant.as_str(), &first), (&mixed, &second), (&many, &Value::Null)];
    // Partitions of a cluster have an order of their own.
    let sorted = |mut all: Vec<(&str, &Value)>| {
        all.sort_by_key(|(order, _)| order.to_string());
        all.into_iter().map(|(order, parcel)| (order.to_owned(), parcel.clone())).collect::<Vec<_>>()
    };
    assert_eq!(sorted(found), sorted(expected.to_vec()));
    let of = |id: &str| letters.iter().find(|letter| letter["order"] == id).unwrap();
    assert!(of(&plant)["reason"].as_str().unwrap().contains("live_plant"), "{letters:?}");
    assert!(of(&many)["reason"].as_str().unwrap().contains("parcels"), "{letters:?}");
    assert_eq!((&of(&mixed)["merchant"], &of(&mixed)["weight_g"]), (&json!("m-1"), &json!(2_400)));
    assert_eq!(of(&mixed)["weight_estimated"], json!(true));
    let theirs = values(&world, &["dlq", "list", "--merchant", "m-2"]);
    assert_eq!((theirs.len(), &theirs[0]["order"]), (1, &json!(many)));

    // A few at a time, with nothing left out.
    let (mut since, mut seen) = ("oldest".to_owned(), BTreeSet::new());
    for _ in 0..letters.len() {
        let ended = run(&world, &["dlq", "list", "--limit", "1", "--since", &since, "--json"]);
        assert_eq!(ended.out.lines().count(), 1, "{ended:?}");
        seen.insert(ended.out.clone());
        since = cursor(&ended.log);
    }
    assert_eq!(seen.len(), letters.len());
    let text = run(&world, &["dlq", "list", "--since", &since]);
    assert_eq!((text.code, text.out.as_str()), (Some(0), ""));
    assert!(text.log.starts_with("dead letters: 0 in "), "{}", text.log);

    let shown = run(&world, &["dlq", "show", &mixed]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.out.contains("live_plant  ~2,400 g") && shown.out.contains("items  2 × x-1"), "{}", shown.out);
    assert!(!shown.out.contains("parcel 0  chilled"), "{}", shown.out);
    let fine = run(&world, &["dlq", "show", &fine]);
    assert!(fine.code == Some(1) && fine.log.contains("nothing of order"), "{fine:?}");
}

fn each_key_opens_its_own_doors(engine: &Engine) {
    let mut world = world(engine, &[GOOD]);
    let server = world.serve();
    let (merchant, operator) = (world.client(), world.client_of(KEY));
    let id = merchant.order("k-1", &order()).id();
    merchant.view(&id);
    let trace = format!("/v1/operator/orders/{id}");
    for path in ["/v1/events".to_owned(), format!("/v1/orders/{id}"), format!("/v1/orders/{id}/events")] {
        operator.get(&path).problem(401);
    }
    operator.order("k-2", &order()).problem(401);
    operator.batch(order().to_string()).problem(401);
    cancel(&operator, &id).problem(401);
    assert_eq!(operator.get(&trace).status, 200);
    // Another key from now on, without a restart.
    let reload = |world: &World, top: &str| {
        let text = world.config().replace(&format!("operator_key = {KEY:?}\n"), top);
        std::fs::write(world.folder().join("sluice.toml"), text).unwrap();
        server.hang_up();
    };
    reload(&world, "operator_key = \"another\"\n");
    wait_for("the old key is gone", || (operator.get(&trace).status == 401).then_some(()));
    assert_eq!(world.client_of("another").get(&trace).status, 200);
    // Without one there is no operator.
    reload(&world, "");
    wait_for("nobody is an operator", || (world.client_of("another").get(&trace).status == 401).then_some(()));
    for key in ["", KEY, "another", "key-1"] {
        world.client_of(key).get("/v1/operator/events").problem(401);
    }
    server.kill();
    world.setup.top += "operator_key_hash = \"change-me\"\n";
    let ended = world.serve_in_vain();
    assert!(ended.code == Some(2) && ended.log.contains("operator_key_hash: expected the BLAKE3 hash"), "{ended:?}");
}
