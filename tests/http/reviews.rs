//! What nobody knows waits for a person, and nothing else does: the queue, decisions, and what they are kept for.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;
use ulid::Ulid;

use super::{
    commands::cancel,
    life::wait_for_status,
    operator::{KEY, run, values},
};
use crate::support::{
    client::{Answer, Client},
    engine::{Engine, on_both_engines},
    orders::{YOGURT, order_of},
    process::{Process, program},
    setup::{Carrier, GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(
    a_person_says_what_it_is_and_it_goes_on,
    a_rule_is_kept_and_taken_back,
    what_waits_is_cancelled_at_once,
    what_waits_is_cancelled_beside_what_nobody_forgets,
    what_other_rules_would_decide_is_listed,
);

/// Takes what has MYSTERY in its title for hazardous, and leaves it to a person.
const RULES: &str = "version = 1\n[default]\nhandling = \"ambient_general\"\nweight_g = 350\n[[rule]]\nid = \"mystery\"\n\
    any = [\"MYSTERY\"]\nhandling = \"hazmat_check\"\nweight_g = 300\nreview = true\n";
const MYSTERY: &str = "MYSTERY | \"A\", 3 OZ";

/// A world of which a person must look at mysteries; the folder has its rules.
fn world(engine: &Engine, carriers: &[Carrier]) -> (World, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.toml");
    fs::write(&rules, RULES).unwrap();
    let top = format!("operator_key = {KEY:?}\nrules = {:?}\n", rules.display().to_string());
    (World::on(engine, Setup::new(carriers).with(&top)), folder)
}

fn decide(client: &Client, id: &str, body: &Value) -> Answer {
    client.send(&format!("POST /v1/review/{id}"), &["content-type: application/json"], body.to_string().as_bytes())
}

/// What came of a decision, once it is made.
fn decided(client: &Client, id: &str, body: &Value) -> Value {
    wait_for("the decision about a review", || {
        let answer = decide(client, id, body);
        assert!([200, 202].contains(&answer.status), "{}", answer.text());
        Some(answer.json()).filter(|json| json["outcome"] != "undecided")
    })
}

fn listed(client: &Client) -> Vec<Value> {
    client.get("/v1/review").json()["items"].as_array().unwrap().clone()
}

/// What waits, once that are so many.
#[track_caller]
fn wait_for_items(client: &Client, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} lines wait"), || Some(listed(client)).filter(|items| items.len() == count))
}

fn standings(client: &Client, id: &str) -> Vec<String> {
    let view = client.view(id);
    let parcels = view["parcels"].as_array().unwrap().iter();
    parcels.map(|parcel| parcel["status"].as_str().unwrap().to_owned()).collect()
}

fn a_person_says_what_it_is_and_it_goes_on(engine: &Engine) {
    let (world, _rules) = world(engine, &[GOOD]);
    let server = world.serve();
    let (client, operator) = (world.client(), world.client_of(KEY));
    let id = client.order("k-1", &order_of(&[(YOGURT, 2), (MYSTERY, 3)])).id();
    // The rest ships.
    wait_for("the rest is taken", || {
        let standings = standings(&client, &id);
        (standings.len() == 2 && standings.contains(&"carrier_accepted".to_owned())).then_some(())
    });
    let item = wait_for_items(&operator, 1).remove(0);
    let waits = item["id"].as_str().unwrap().to_owned();
    assert_eq!((&item["order"], &item["line"], &item["merchant"]), (&json!(id), &json!(1), &json!("m-1")));
    assert_eq!((&item["title"], &item["quantity"], &item["sku"]), (&json!(MYSTERY), &json!(3), &json!("x-1")));
    assert_eq!((&item["likely"], &item["confidence"]), (&json!("hazmat_check"), &Value::Null), "a rule says so");
    assert!(item["model"].as_u64().is_some_and(|model| model > 0), "{item}");
    assert!(item["rules"].as_u64().is_some_and(|rules| rules > 0), "{item}");
    assert_eq!(operator.get("/v1/review?merchant=m-2").json(), json!({"items": [], "next": null}));
    assert_eq!(server.metric("sluice_parcels_held_total"), Some(1.0));
    // The command line shows the same.
    assert_eq!(values(&world, &["goods", "review", "list"]), [item]);
    let shown = run(&world, &["goods", "review"]);
    assert!(shown.code == Some(0) && shown.out.contains(MYSTERY) && shown.out.contains(&waits), "{shown:?}");
    // Nobody else may, and nothing else is there.
    let frozen = json!({"handling": "frozen", "keep": "row"});
    decide(&client, &waits, &frozen).problem(401);
    assert_eq!(decide(&operator, &waits, &json!({"handling": "warm"})).problem(422), ["/handling"]);
    decide(&operator, &format!("{id}-9"), &frozen).problem(404);
    decide(&operator, "01M6VZ4W3V00J8Z8M3C0V9S1QK-0", &frozen).problem(404);
    let unknown = run(&world, &["goods", "review", "decide", "01M6VZ4W3V00J8Z8M3C0V9S1QK-0", "frozen"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    let other = if waits.ends_with("-0") { 1 } else { 0 };
    assert_eq!(decide(&operator, &format!("{id}-{other}"), &frozen).json()["outcome"], "not_held");
    server.kill();

    // It still waits after a crash.
    let server = world.serve();
    assert_eq!(wait_for_items(&operator, 1)[0]["id"], json!(waits));
    let told = values(&world, &["goods", "review", "decide", &waits, "frozen", "--keep", "row"]).remove(0);
    assert_eq!(
        (&told["outcome"], &told["handling"], &told["kept"]),
        (&json!("released"), &json!("frozen"), &json!("row"))
    );
    assert_eq!(told["parcel"]["carrier"], "good", "{told}");
    wait_for_status(&client, &id, "carrier_accepted");
    wait_for_items(&operator, 0);
    assert_eq!(decided(&operator, &waits, &frozen)["outcome"], "released", "once more");
    let otherwise = decide(&operator, &waits, &json!({"handling": "chilled"}));
    otherwise.problem(409);
    assert!(otherwise.text().contains("frozen"), "{}", otherwise.text());
    let refused = run(&world, &["goods", "review", "decide", &waits, "chilled"]);
    assert!(refused.code == Some(1) && refused.log.contains("frozen"), "{refused:?}");
    wait_for("it is counted", || server.metric("sluice_parcels_reviewed_total").filter(|n| *n >= 1.0));
    assert_followed(&world, &id, &waits);
    let taken: Vec<_> = world.ledger().order(Ulid::from_string(&id).unwrap()).map(|effect| effect.accepted).collect();
    assert_eq!(taken, [1, 1], "each parcel once");
}

/// What there is of a decision afterwards: an event, the trace, and a row for training.
fn assert_followed(world: &World, id: &str, waits: &str) {
    let events = values(world, &["tap", "--after", "oldest", "--no-follow", "--type", "parcel.reviewed"]);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["data"]["reviewed"]["becomesTrainingRow"], true, "{}", events[0]);
    let trace = values(world, &["trace", id]).remove(0);
    let whats: Vec<_> = trace["hops"].as_array().unwrap().iter().map(|hop| hop["what"].as_str().unwrap()).collect();
    assert!(whats.contains(&"held") && whats.contains(&"reviewed"), "{whats:?}");
    let rows = values(world, &["goods", "review", "kept"]);
    assert_eq!((rows.len(), &rows[0]["id"], &rows[0]["handling"]), (1, &json!(waits), &json!("frozen")));
    let csv = run(world, &["goods", "review", "kept", "--rows", "--csv"]);
    assert_eq!(csv.out, "title,handling\n\"MYSTERY | \"\"A\"\", 3 OZ\",frozen\n");
}

fn a_rule_is_kept_and_taken_back(engine: &Engine) {
    let (world, _rules) = world(engine, &[GOOD]);
    let server = world.serve();
    let (client, operator) = (world.client(), world.client_of(KEY));
    let first = client.order("k-1", &order_of(&[(MYSTERY, 1)])).id();
    let waits = wait_for_items(&operator, 1)[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(standings(&client, &first), ["classified"]);
    let rule = json!({"handling": "chilled", "keep": "rule"});
    assert_eq!(decided(&operator, &waits, &rule)["kept"], "rule");
    wait_for_status(&client, &first, "carrier_accepted");
    // Another node may need a moment to learn of it; this one goes by it at once, and after a restart, too.
    let same = order_of(&[("mystery: a 3-oz", 1)]);
    let second = client.order("k-2", &same).id();
    assert_eq!(wait_for_status(&client, &second, "carrier_accepted")["parcels"][0]["handling"], "chilled");
    server.kill();
    let _server = world.serve();
    let third = client.order("k-3", &same).id();
    wait_for_status(&client, &third, "carrier_accepted");
    assert_eq!(listed(&operator), Vec::<Value>::new());

    let kept = values(&world, &["goods", "review", "kept", "--rules"]);
    assert_eq!((kept.len(), &kept[0]["title"], &kept[0]["order"]), (1, &json!(MYSTERY), &json!(first)));
    let id = kept[0]["id"].as_str().unwrap();
    let forgotten = run(&world, &["goods", "review", "forget", id]);
    assert_eq!(forgotten.code, Some(0), "{forgotten:?}");
    assert_eq!(run(&world, &["goods", "review", "forget", id]).code, Some(1));
    assert_eq!(values(&world, &["goods", "review", "kept"]), Vec::<Value>::new());
    let fourth = client.order("k-4", &same).id();
    assert_eq!(wait_for_items(&operator, 1)[0]["order"], json!(fourth), "it is a mystery again");
}

fn what_waits_is_cancelled_at_once(engine: &Engine) {
    let (world, _rules) = world(engine, &[GOOD]);
    let server = world.serve();
    let (client, operator) = (world.client(), world.client_of(KEY));
    let id = client.order("k-1", &order_of(&[(MYSTERY, 1)])).id();
    let waits = wait_for_items(&operator, 1)[0]["id"].as_str().unwrap().to_owned();
    assert!(cancel(&client, &id).status < 300);
    wait_for_status(&client, &id, "cancelled");
    wait_for_items(&operator, 0);
    let late = decide(&operator, &waits, &json!({"handling": "frozen"}));
    late.problem(409);
    assert!(late.text().contains("cancelled"), "{}", late.text());
    wait_for("it is counted", || server.metric("sluice_parcels_withdrawn_total").filter(|n| *n >= 1.0));
    assert_eq!(server.metric("sluice_parcels_reviewed_total"), Some(0.0));
}

fn what_waits_is_cancelled_beside_what_nobody_forgets(engine: &Engine) {
    let (world, _rules) = world(engine, &[Carrier { more: "voids = false", ..GOOD }]);
    let _server = world.serve();
    let (client, operator) = (world.client(), world.client_of(KEY));
    let id = client.order("k-1", &order_of(&[(YOGURT, 1), (MYSTERY, 1)])).id();
    wait_for_items(&operator, 1);
    wait_for("the rest is taken", || standings(&client, &id).contains(&"carrier_accepted".to_owned()).then_some(()));
    let first = cancel(&client, &id);
    // Nobody is asked anything, so there is nothing to wait for but the decision.
    assert!(first.status == 200 || !world.answers_decided() && first.status == 202, "{}", first.text());
    let last = wait_for("it is decided", || Some(cancel(&client, &id)).filter(|answer| answer.status == 200));
    let parcels = last.json()["parcels"].as_array().unwrap().clone();
    let mut said: Vec<_> = parcels.iter().map(|parcel| parcel["cancel"].as_str().unwrap()).collect();
    said.sort_unstable();
    assert_eq!(said, ["cancelled", "voidable"], "{parcels:?}");
    wait_for_items(&operator, 0);
}

/// Of the orders in the log, whichever engine has them, beside a server that goes on.
fn what_other_rules_would_decide_is_listed(engine: &Engine) {
    let (world, folder) = world(engine, &[GOOD]);
    let _server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order_of(&[(YOGURT, 2), (MYSTERY, 3)])).id();
    wait_for_items(&world.client_of(KEY), 1);
    assert_eq!(client.view(&id)["parcels"].as_array().unwrap().len(), 2);
    let (config, rules) = (folder.path().join("sluice.toml"), folder.path().join("rules.toml").display().to_string());
    fs::write(&config, world.config()).unwrap();
    let (config, data) = (config.display().to_string(), world.data_dir().display().to_string());
    let orders = if world.has_journal() { ["--data-dir", &*data] } else { ["--config", &*config] };
    let arguments = [&["goods", "diff", "--json", "--rules", &rules, "--rules", "embedded"], &orders[..]].concat();
    let ended = Process::run(program(&arguments), world.folder(), "goods-diff");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    let numbers = ["orders", "lines", "known", "unreadable"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(numbers, [1, 2, 0, 0], "{report}");
    assert_ne!(report["before"]["rules"], report["after"]["rules"]);
    let mystery = report["titles"].as_array().unwrap().iter().find(|titles| titles["title"] == MYSTERY).unwrap();
    let before = json!({"handling": "hazmat_check", "source": "rule", "confidence": 0, "held": true});
    assert_eq!((&mystery["before"], &mystery["after"]["source"]), (&before, &json!("model")), "{report}");
}
