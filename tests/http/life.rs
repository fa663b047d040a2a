//! An order's whole way, and what else is on the road: rejects, poison, other merchants.

use std::fs;

use serde_json::{Value, json};
use ulid::Ulid;

use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    orders::{BEER, ICE, PLANT, YOGURT, line, order, order_of},
    setup::{Carrier, GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(
    an_order_goes_all_the_way_to_its_carrier,
    what_one_carrier_rejects_goes_to_another,
    an_order_is_its_merchants_own,
    poison_is_dead_lettered_and_stops_nobody,
    the_description_of_the_api_is_frozen,
);

/// Waits until the order's status is `status`, and gives its view.
#[track_caller]
pub fn wait_for_status(client: &Client, id: &str, status: &str) -> Value {
    wait_for(&format!("order {id} is {status}"), || Some(client.view(id)).filter(|view| view["status"] == status))
}

fn milestones(view: &Value) -> Vec<&str> {
    view["timeline"].as_array().unwrap().iter().map(|entry| entry["milestone"].as_str().unwrap()).collect()
}

fn an_order_goes_all_the_way_to_its_carrier(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let server = world.serve();
    let client = world.client();
    let posted = order_of(&[(YOGURT, 2), (ICE, 1), (YOGURT, 1)]);
    let answer = client.order("k-1", &posted);
    let id = answer.id();
    assert_eq!(answer.json(), json!({"id": id, "status": "accepted", "placed_at": posted["placed_at"]}));
    assert_eq!(answer.header("location"), Some(&*format!("/v1/orders/{id}")));
    assert_eq!(answer.header("idempotent-replayed"), None);

    let view = wait_for_status(&client, &id, "carrier_accepted");
    for field in ["customer", "placed_at"] {
        assert_eq!(view[field], posted[field]);
    }
    let parcels = view["parcels"].as_array().unwrap();
    let handling: Vec<_> = parcels.iter().map(|parcel| parcel["handling"].as_str().unwrap()).collect();
    assert_eq!(handling, ["chilled", "frozen"]);
    // What was ordered is what was split, line by line.
    let line = |place: usize| {
        let mut line = posted["lines"][place].clone();
        line["line"] = place.into();
        line
    };
    assert_eq!(parcels[0]["lines"], json!([line(0), line(2)]));
    assert_eq!(parcels[1]["lines"], json!([line(1)]));
    let steps =
        ["accepted", "classified", "carrier_requested", "carrier_requested", "carrier_accepted", "carrier_accepted"];
    let mut seen = milestones(&view);
    seen.sort_by_key(|milestone| steps.iter().position(|step| step == milestone));
    assert_eq!(seen, steps);

    let receipt = server.drain();
    assert_eq!(
        (&receipt["accepted"], &receipt["finished"], &receipt["left_in_journal"]),
        (&1.into(), &1.into(), &0.into())
    );
    let ledger = world.ledger();
    let effects: Vec<_> = ledger.order(Ulid::from_string(&id).unwrap()).collect();
    assert_eq!(effects.len(), 2);
    for (effect, parcel) in effects.iter().zip(parcels) {
        assert_eq!((effect.accepted, effect.rejected), (1, 0));
        assert_eq!(parcel["id"], format!("{id}-{}", effect.parcel));
        assert_eq!(
            (&parcel["carrier"], parcel["tracking_number"].as_str()),
            (&"good".into(), effect.tracking_number().as_deref())
        );
    }
}

fn what_one_carrier_rejects_goes_to_another(engine: &Engine) {
    let picky = Carrier { id: "picky", behaviour: "reject=1", more: "cost = 1\npromised_days = 1", ..GOOD };
    let world = World::on(engine, Setup::new(&[picky, GOOD]));
    let _server = world.serve();
    let client = world.client();
    // Routing gives the better offer most parcels, not all: among so many some are rejected first.
    let ids: Vec<String> = (0..40).map(|n| client.order(&format!("k-{n}"), &order()).id()).collect();
    let views: Vec<Value> = ids.iter().map(|id| wait_for_status(&client, id, "carrier_accepted")).collect();
    assert!(views.iter().all(|view| view["parcels"][0]["carrier"] == "good"));
    let rerouted = views.iter().filter(|view| view.to_string().contains("attempt 2; picky rejected: ")).count() as u64;
    assert!(rerouted > 0 && rerouted == world.carriers.count("picky", "rejected"));
    assert_eq!(world.ledger().totals().accepted, ids.len() as u64);
}

fn an_order_is_its_merchants_own(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    let id = world.client().order("k", &order()).id();
    world.client().view(&id);
    let others = world.other_client().get(&format!("/v1/orders/{id}"));
    assert_eq!(others.problem(404), Vec::<String>::new());
    // As one an hour earlier in the same slot, and one in a slot that there isn't.
    let earlier = Ulid(Ulid::from_string(&id).unwrap().0 - (3_600_000 << 80)).to_string();
    for nobodys in [earlier.as_str(), "01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        let nobodys = world.other_client().insist(|client| client.get(&format!("/v1/orders/{nobodys}")));
        assert_eq!(nobodys.problem(404), Vec::<String>::new());
        assert_eq!(others.text(), nobodys.text(), "one can't tell the other's order from none");
    }
    // The same key means another order to another merchant.
    assert_ne!(world.other_client().order("k", &order()).id(), id);
}

fn poison_is_dead_lettered_and_stops_nobody(engine: &Engine) {
    let light = Carrier { id: "light", more: "max_weight_g = 3999", ..GOOD };
    let world = World::on(engine, Setup::new(&[light]));
    let server = world.serve();
    let client = world.client();
    // In the midst of good ones, in one batch and so most likely in one decision: heavier than any carrier takes.
    let is_poison = |n: &usize| n % 50 == 25;
    let goods = |n: usize| if is_poison(&n) { order_of(&[(PLANT, 1), (BEER, 2)]) } else { order() };
    let lines: Vec<String> = (0..400).map(|n| line(&format!("k-{n}"), goods(n)).to_string()).collect();
    let results = client.batch(lines.join("\n")).lines();
    assert!(results.iter().all(|result| result["status"] == 201));
    for (n, result) in results.iter().enumerate() {
        let id = result["id"].as_str().unwrap();
        let view = wait_for(&format!("order {id} is decided"), || {
            let view = client.view(id);
            let decided =
                view["parcels"].as_array().unwrap().iter().all(|parcel| parcel["status"] != "carrier_requested");
            decided.then_some(view)
        });
        let statuses: Vec<_> =
            view["parcels"].as_array().unwrap().iter().map(|parcel| parcel["status"].as_str().unwrap()).collect();
        if is_poison(&n) {
            assert_eq!(statuses.iter().filter(|status| **status == "dead_lettered").count(), 2, "{view}");
            assert!(view["timeline"].to_string().contains("limit 3,999 g"), "it says why: {view}");
        } else {
            assert_eq!(statuses, ["carrier_accepted"], "{view}");
        }
    }
    let receipt = server.drain();
    assert_eq!((&receipt["finished"], &receipt["dead_lettered"]), (&392.into(), &8.into()), "{receipt}");
}

fn the_description_of_the_api_is_frozen(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    let answer = world.client().get("/openapi.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/openapi.json");
    if std::env::var_os("SLUICE_UPDATE_GOLDEN").is_some() {
        fs::write(golden, serde_json::to_string_pretty(&answer.json()).unwrap() + "\n").unwrap();
    }
    let frozen: Value = serde_json::from_str(&fs::read_to_string(golden).unwrap()).unwrap();
    assert!(
        frozen == answer.json(),
        "the API's description is not schemas/openapi.json any more: clients are written against it. If the change is \
         meant, rewrite the file with SLUICE_UPDATE_GOLDEN=1 and say so in the change log"
    );
}
