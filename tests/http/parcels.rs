//! Bounds that show only in what becomes of an order: how many parcels, how many carriers, how much of what they say.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use sluice_domain::limits::{MAX_ATTEMPTS, MAX_PARCELS, MAX_REASON, MAX_TRACKING_NUMBER};

use super::{events::rest, life::wait_for_status};
use crate::support::{
    engine::{Engine, on_both_engines},
    fake::Fake,
    orders::{BEER, ICE, THING, YOGURT, order_of},
    setup::{Carrier, GOOD, Setup},
    world::World,
};

on_both_engines!(
    an_order_becomes_so_many_parcels,
    a_parcel_is_offered_to_so_many_carriers,
    what_carriers_say_has_its_length,
    a_parcel_says_whether_its_weight_is_an_estimate,
);

pub fn an_order_becomes_so_many_parcels(engine: &Engine) {
    // One unit of beer fills a parcel.
    let world = World::on(engine, Setup::new(&[Carrier { more: "max_weight_g = 4000", ..GOOD }]));
    let _server = world.serve();
    let client = world.client();
    let most = MAX_PARCELS as u32;
    for parcels in [1, most - 1, most] {
        let id = client.order(&format!("k-{parcels}"), &order_of(&[(BEER, parcels)])).id();
        let view = wait_for_status(&client, &id, "carrier_accepted");
        assert_eq!(view["parcels"].as_array().unwrap().len(), parcels as usize);
    }
    let id = client.order("k-more", &order_of(&[(BEER, most + 1)])).id();
    let view = wait_for_status(&client, &id, "dead_lettered");
    assert!(view["timeline"].to_string().contains("parcels"), "it says why: {view}");
    let total = u64::from(1 + most - 1 + most);
    assert_eq!(world.ledger().totals().accepted, total, "nothing of the last one was sent");
}

pub fn a_parcel_is_offered_to_so_many_carriers(engine: &Engine) {
    const IDS: [&str; 9] = ["c-0", "c-1", "c-2", "c-3", "c-4", "c-5", "c-6", "c-7", "c-8"];
    let most = usize::from(MAX_ATTEMPTS);
    assert_eq!(IDS.len(), most + 1);
    // Nine take chilled parcels, eight frozen ones, seven the others; or say so, and reject them all.
    let handling = |n| match n {
        8 => &["chilled"][..],
        7 => &["chilled", "frozen"],
        _ => &["chilled", "frozen", "ambient"],
    };
    let carriers: Vec<Carrier> = (0..9).map(|n| Carrier { id: IDS[n], handling: handling(n), ..GOOD }).collect();
    let asked: Arc<Mutex<HashMap<String, Vec<String>>>> = Arc::default();
    let book = Arc::clone(&asked);
    let fake = Fake::start(move |carrier, shipment| {
        let order = shipment["order_id"].as_str().unwrap().to_owned();
        book.lock().unwrap().entry(order).or_default().push(carrier.to_owned());
        json!({"outcome": "rejected", "reason": "no"})
    });
    let world = World::faked(engine, Setup::new(&carriers), &fake);
    let _server = world.serve();
    let client = world.client();
    for (goods, attempts) in [(THING, most - 1), (ICE, most), (YOGURT, most)] {
        let id = client.order(goods.split(' ').next().unwrap(), &order_of(&[(goods, 1)])).id();
        wait_for_status(&client, &id, "dead_lettered");
        let mut carriers = asked.lock().unwrap()[&id].clone();
        assert_eq!(carriers.len(), attempts, "{goods}: {carriers:?}");
        carriers.sort();
        carriers.dedup();
        assert_eq!(carriers.len(), attempts, "{goods}: no carrier is asked twice");
    }
}

/// To carriers, whichever is asked, to customers and to consumers.
pub fn a_parcel_says_whether_its_weight_is_an_estimate(engine: &Engine) {
    type Weights = BTreeMap<String, (u64, bool)>;
    let weight_of = |of: &Value| (of["weight_g"].as_u64().unwrap(), of["weight_estimated"].as_bool().unwrap());
    let asked: Arc<Mutex<Weights>> = Arc::default();
    let book = Arc::clone(&asked);
    let fake = Fake::start(move |_, shipment| {
        let id = shipment["shipment_id"].as_str().unwrap();
        book.lock().unwrap().insert(id.to_owned(), weight_of(shipment));
        // The first that is asked turns it down.
        match id.ends_with("-0") {
            true => json!({"outcome": "rejected", "reason": "no"}),
            false => json!({"outcome": "accepted", "tracking_number": "T"}),
        }
    });
    let carriers = ["a", "b"].map(|id| Carrier { id, ..GOOD });
    let world = World::faked(engine, Setup::new(&carriers), &fake);
    let _server = world.serve();
    let client = world.client();
    // Two parcels of sizes that the titles say, one of a size and a guess.
    let id = client.order("k", &order_of(&[(YOGURT, 2), (ICE, 1), ("SOAP 4 x 100 g", 1), (THING, 1)])).id();
    let view = wait_for_status(&client, &id, "carrier_accepted");
    let expected = [(340, false), (1_361, false), (800, true)];
    let parcels = view["parcels"].as_array().unwrap();
    assert_eq!(parcels.iter().map(weight_of).collect::<Vec<_>>(), expected, "{view}");
    let told = |attempt: u8| (0..).zip(expected).map(|(n, weight)| (format!("{id}-{n}-{attempt}"), weight)).collect();
    let [mut all, next]: [Weights; 2] = [told(0), told(1)];
    all.extend(next);
    assert_eq!(*asked.lock().unwrap(), all);

    let (events, _) = rest(&client, None, 100);
    // Protobuf's JSON leaves out what is false.
    let weight_of = |of: &Value| (of["weightG"].as_u64().unwrap(), of["weightEstimated"] == true);
    let accepted = events.iter().find_map(|event| event["data"]["accepted"]["parcels"].as_array()).unwrap();
    assert_eq!(accepted.iter().map(weight_of).collect::<Vec<_>>(), expected, "{events:?}");
    let mut next: Vec<_> =
        events.iter().map(|e| &e["data"]["settled"]["nextAttempt"]).filter(|n| n.is_object()).map(weight_of).collect();
    // In the order in which carriers answered.
    next.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(next, expected);
}

pub fn what_carriers_say_has_its_length(engine: &Engine) {
    // So much fits one parcel that the quantity of its only line can say how long the answer shall be.
    let roomy = Carrier { more: "max_weight_g = 1000000", ..GOOD };
    let says_no = Carrier { id: "no", handling: &["chilled"], ..roomy.clone() };
    let says_yes = Carrier { id: "yes", handling: &["ambient"], ..roomy };
    let fake = Fake::start(|carrier, shipment| {
        let text = "x".repeat(shipment["lines"][0]["quantity"].as_u64().unwrap() as usize);
        match carrier {
            "yes" => json!({"outcome": "accepted", "tracking_number": text}),
            _ => json!({"outcome": "rejected", "reason": text}),
        }
    });
    let world = World::faked(engine, Setup::new(&[says_yes, says_no]), &fake);
    let _server = world.serve();
    let client = world.client();
    let post = |key: &str, goods: &str, length: usize| -> String {
        client.order(&format!("{key}-{length}"), &order_of(&[(goods, length as u32)])).id()
    };
    for length in [1, MAX_TRACKING_NUMBER - 1, MAX_TRACKING_NUMBER, MAX_TRACKING_NUMBER + 1] {
        let view = wait_for_status(&client, &post("yes", THING, length), "carrier_accepted");
        let shown = if length <= MAX_TRACKING_NUMBER { Value::from("x".repeat(length)) } else { Value::Null };
        // A number that was cut would be another parcel's.
        assert_eq!(view["parcels"][0]["tracking_number"], shown, "{length}");
    }
    for length in [1, MAX_REASON - 1, MAX_REASON, MAX_REASON + 1] {
        let view = wait_for_status(&client, &post("no", YOGURT, length), "dead_lettered");
        let text = view["timeline"].to_string();
        let shown = text.split(|letter| letter != 'x').map(str::len).max().unwrap();
        assert_eq!(shown, length.min(MAX_REASON), "{text}");
    }
}
