//! Dead letters get another go: orders after a rule was mended, parcels after a carrier was, by `sluice dlq replay`.

use serde_json::{Value, json};
use sluice_domain::limits::MAX_REPLAYS;
use ulid::Ulid;

use super::{
    life::wait_for_status,
    operator::{KEY, cursor, run, values, world},
};
use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    orders::{BEER, ICE, PLANT, YOGURT, order_of},
    setup::{Carrier, GOOD},
    wait_for,
    world::{Server, World},
};

on_both_engines!(
    what_was_mended_gets_another_go,
    a_dead_letter_is_replayed_so_often,
    a_carrier_that_was_given_up_is_asked_again_under_the_same_id,
);

/// What came of a replay, once that is decided.
fn replay(client: &Client, id: &str, key: &str) -> Value {
    wait_for("the decision about a replay", || {
        let header = format!("idempotency-key: {key}");
        let answer = client.send(&format!("POST /v1/operator/orders/{id}/replay"), &[&header], b"");
        assert!([200, 202].contains(&answer.status), "{}", answer.text());
        Some(answer.json()).filter(|json| json["outcome"] != "undecided")
    })
}

fn class_of(world: &World, id: &str) -> Value {
    values(world, &["trace", id]).remove(0)["class"].clone()
}

fn wait_for_class(world: &World, id: &str, class: &str) {
    wait_for(&format!("order {id} is {class}"), || (class_of(world, id) == class).then_some(()));
}

/// How many orders are dead-lettered now, and finished, by the server's own count; a cluster's node counts what it has decided
/// since it was started.
fn assert_counts(world: &World, server: &Server, dead: f64, finished: f64) {
    let metric = |name: &str| server.metric(name);
    wait_for(&format!("{dead} orders are dead-lettered, and {finished} finished"), || {
        let counted = match world.has_journal() {
            true => (metric("sluice_orders{class=\"dead_lettered\"}")?, metric("sluice_orders{class=\"finished\"}")?),
            false => {
                let reopened = metric("sluice_orders_reopened_total")?;
                (metric("sluice_orders_dead_lettered_total")? - reopened, metric("sluice_orders_finished_total")?)
            }
        };
        (counted == (dead, finished)).then_some(())
    });
}

/// What an operator and the customer see of an order whose second parcel was replayed.
fn assert_told(world: &World, view: &Value, mixed: &str) {
    let trace = values(world, &["trace", mixed]).remove(0);
    let hops: Vec<_> = trace["hops"].as_array().unwrap().iter().filter(|hop| hop["parcel"] == 1).collect();
    let whats: Vec<_> = hops.iter().map(|hop| hop["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["requested", "settled", "dead_lettered", "replayed", "requested", "settled"], "{trace}");
    assert!(hops[3]["detail"].as_str().unwrap().contains("asked for by operator "), "{trace}");
    assert_eq!(hops[3]["event"], hops[4]["event"]);
    assert_eq!(
        (&view["parcels"][1]["status"], &view["parcels"][1]["carrier"]),
        (&json!("dead_lettered"), &json!("picky"))
    );
    assert!(view["timeline"].to_string().contains("\"replayed\""), "{view}");
}

fn what_was_mended_gets_another_go(engine: &Engine) {
    let picky = Carrier { id: "picky", handling: &["frozen"], behaviour: "reject=1", ..GOOD };
    let good = Carrier { handling: &["chilled", "age_restricted"], more: "max_weight_g = 4000", ..GOOD };
    let mut world = world(engine, &[good, picky]);
    let server = world.serve();
    let (client, other, operator) = (world.client(), world.other_client(), world.client_of(KEY));
    let mixed = client.order("k-1", &order_of(&[(YOGURT, 1), (ICE, 1)])).id();
    let plant = client.order("k-2", &order_of(&[(PLANT, 1)])).id();
    let many = other.order("k-3", &order_of(&[(BEER, 201)])).id();
    let fine = other.order("k-4", &order_of(&[(YOGURT, 1)])).id();
    wait_for_status(&client, &plant, "dead_lettered");
    wait_for_status(&other, &many, "dead_lettered");
    wait_for_status(&other, &fine, "carrier_accepted");
    wait_for_class(&world, &mixed, "dead_lettered");
    assert_counts(&world, &server, 3.0, 1.0);

    // What is no dead letter is left alone.
    assert_eq!(replay(&operator, &fine, "r-0")["outcome"], "nothing_to_replay");
    assert_eq!(replay(&operator, &fine, "r-0"), replay(&operator, &fine, "r-0"));
    let dry = values(&world, &["dlq", "replay", "--dry-run"]);
    assert_eq!(dry.len(), 3, "{dry:?}");
    assert!(dry.iter().all(|line| line["outcome"] == "would_replay"), "{dry:?}");
    // Nothing was mended yet: it fails again, and says so.
    let again = values(&world, &["dlq", "replay", &plant]);
    assert_eq!((&again[0]["outcome"], &again[0]["class"]), (&json!("replayed"), &json!("dead_lettered")), "{again:?}");

    let listed = values(&world, &["dlq", "list"]);
    assert_eq!(listed.iter().filter(|letter| letter["order"] == plant).count(), 1, "{listed:?}");

    // The carrier takes them now.
    world.carriers.change("picky", "{\"reject\": 0}");
    let replayed = values(&world, &["dlq", "replay", "--reason", "frozen"]);
    assert_eq!(replayed.len(), 1, "{replayed:?}");
    assert_eq!((&replayed[0]["order"], &replayed[0]["replay"]), (&json!(mixed), &json!(1)));
    wait_for_class(&world, &mixed, "finished");
    assert_told(&world, &client.view(&mixed), &mixed);
    let told = values(&world, &["tap", "--after", "oldest", "--no-follow", "--type", "order.replayed"]);
    assert_eq!(told.len(), 2, "{told:?}");
    // A key has one effect, and one answer.
    let first = replay(&operator, &plant, "r-1");
    assert_eq!((&first["outcome"], &first["replay"]), (&json!("replayed"), &json!(2)));
    assert_eq!(replay(&operator, &plant, "r-1"), first);
    assert_counts(&world, &server, 2.0, 2.0);
    server.kill();

    // Heavier parcels and live plants are taken now. What was asked before the crash has had its effect.
    world.setup.carriers[0] =
        Carrier { handling: &["chilled", "age_restricted", "live_plant"], more: "max_weight_g = 40000", ..GOOD };
    let server = world.serve();
    assert_eq!(replay(&operator, &plant, "r-1"), first);
    if world.has_journal() {
        assert_counts(&world, &server, 2.0, 2.0);
    }
    // One first, and then the rest.
    let canary = run(&world, &["dlq", "replay", "--limit", "1", "--json"]);
    assert_eq!((canary.code, canary.out.lines().count()), (Some(0), 1), "{canary:?}");
    assert!(canary.log.contains("as many as --limit says"), "{}", canary.log);
    let rest = run(&world, &["dlq", "replay", "--since", &cursor(&canary.log)]);
    assert!(rest.code == Some(0) && rest.log.contains("1 replayed and"), "{rest:?}");
    for id in [&plant, &many] {
        wait_for_class(&world, id, "finished");
    }
    assert_eq!(values(&world, &["dlq", "list"]), Vec::<Value>::new());
    assert_eq!(values(&world, &["dlq", "replay"]), Vec::<Value>::new());
    let parcels = other.view(&many)["parcels"].as_array().unwrap().len();
    assert!((2..=200).contains(&parcels), "{parcels}");
    let unknown = run(&world, &["dlq", "replay", "01M6VZ4W3V00J8Z8M3C0V9S1QK"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    let moved = values(&world, &["dlq", "replay", &plant]);
    assert_eq!(moved[0]["outcome"], "nothing_to_replay");
    let before = if world.has_journal() { 0.0 } else { 2.0 };
    assert_counts(&world, &server, 0.0 - before, 4.0 - before);
    // Each parcel was taken once.
    let ledger = world.ledger();
    for (id, expected) in [(&mixed, 2), (&plant, 1), (&many, parcels), (&fine, 1)] {
        let taken: Vec<_> = ledger.order(Ulid::from_string(id).unwrap()).filter(|e| e.accepted > 0).collect();
        assert!(taken.len() == expected && taken.iter().all(|e| e.accepted == 1), "{id}");
    }
}

pub fn a_dead_letter_is_replayed_so_often(engine: &Engine) {
    let world = world(engine, &[Carrier { handling: &["chilled"], ..GOOD }]);
    let server = world.serve();
    let (client, operator) = (world.client(), world.client_of(KEY));
    let id = client.order("k-1", &order_of(&[(PLANT, 1)])).id();
    wait_for_status(&client, &id, "dead_lettered");
    for number in 1..=MAX_REPLAYS {
        let answer = replay(&operator, &id, &format!("r-{number}"));
        assert_eq!((&answer["outcome"], &answer["replay"]), (&json!("replayed"), &json!(number)), "{answer}");
        assert_eq!(answer["class"], "dead_lettered");
        assert!(answer["dead_letters"][0]["reason"].as_str().unwrap().contains("live_plant"), "{answer}");
    }
    let answer = replay(&operator, &id, "r-more");
    assert_eq!((&answer["outcome"], &answer["replay"]), (&json!("too_many_replays"), &Value::Null));
    server.kill();
    let _server = world.serve();
    assert_eq!(replay(&operator, &id, "r-1")["replay"], 1);
    assert_eq!(replay(&operator, &id, "r-more")["outcome"], "too_many_replays");
}

fn a_carrier_that_was_given_up_is_asked_again_under_the_same_id(engine: &Engine) {
    let late = Carrier { behaviour: "down=true", more: "give_up_after_s = 1", ..GOOD };
    let world = world(engine, &[late]);
    let _server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order_of(&[(YOGURT, 1)])).id();
    wait_for_status(&client, &id, "dead_lettered");
    world.carriers.change("good", "{\"down\": false}");
    assert_eq!(values(&world, &["dlq", "replay", &id])[0]["outcome"], "replayed");
    wait_for_class(&world, &id, "finished");
    let trace = values(&world, &["trace", &id]).remove(0);
    let attempts = trace["parcels"][0]["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["outcome"]), (1, &json!("accepted")), "{trace}");
}
