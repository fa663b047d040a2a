//! Cancelling orders and returning goods, from the request to the carrier and back to the time line.

use serde_json::{Value, json};
use sluice_domain::limits::{MAX_RETURN_BYTES, MAX_RETURN_REASON, MAX_RETURNS};

use super::{life::wait_for_status, tracking};
use crate::support::{
    client::{Answer, Client},
    engine::{Engine, on_both_engines},
    orders::{ICE, YOGURT, order_of},
    setup::{Carrier, EVENTS_SECRET, GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(
    an_order_is_cancelled_once_its_carrier_agrees,
    what_cannot_be_cancelled_stays_as_it_is,
    delivered_goods_come_back_to_the_merchant,
    a_return_has_its_effect_once,
    commands_have_their_bounds,
);

pub fn cancel(client: &Client, id: &str) -> Answer {
    client.send(&format!("POST /v1/orders/{id}/cancel"), &[], b"")
}

/// Asks for units of lines back.
pub fn bring_back(client: &Client, id: &str, key: &str, lines: &[(usize, u32)]) -> Answer {
    let lines: Vec<_> = lines.iter().map(|(line, quantity)| json!({"line": line, "quantity": quantity})).collect();
    let body = json!({"reason": "does not fit", "lines": lines}).to_string();
    // Over Kafka an answer may come before the decision; the same request shows it later.
    wait_for("the decision about a return", || {
        let answer = send_return(client, id, key, &body);
        (answer.status != 202 || answer.json()["returns"] != json!([])).then_some(answer)
    })
}

fn send_return(client: &Client, id: &str, key: &str, body: &str) -> Answer {
    let key = format!("idempotency-key: {key}");
    let headers = ["content-type: application/json", &key];
    client.send(&format!("POST /v1/orders/{id}/returns"), &headers, body.as_bytes())
}

fn milestones(view: &Value) -> Vec<&str> {
    view["timeline"].as_array().unwrap().iter().map(|e| e["milestone"].as_str().unwrap()).collect()
}

fn an_order_is_cancelled_once_its_carrier_agrees(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let mut server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order_of(&[(YOGURT, 1), (ICE, 2)])).id();
    cancel(&world.other_client(), &id).problem(404);
    wait_for_status(&client, &id, "carrier_accepted");
    let answer = cancel(&client, &id);
    assert!([200, 202].contains(&answer.status), "{}", answer.text());
    let parcels = answer.json()["parcels"].as_array().unwrap().clone();
    assert_eq!((parcels.len(), &parcels[1]["id"]), (2, &json!(format!("{id}-1"))));
    // Over Kafka the answer may come before the decision, and after it a carrier may have answered.
    let under_way = ["voidable", "void_requested", "cancelled"];
    assert!(parcels.iter().all(|p| under_way.contains(&p["cancel"].as_str().unwrap())), "{parcels:?}");
    let view = wait_for_status(&client, &id, "cancelled");
    let all = milestones(&view);
    let count = |what: &str| all.iter().filter(|m| **m == what).count();
    assert_eq!((count("void_requested"), count("cancelled")), (2, 2), "{view}");
    let again = cancel(&client, &id);
    assert_eq!((again.status, again.json()["status"].as_str()), (200, Some("cancelled")), "{}", again.text());
    server.kill();
    server = world.serve();
    assert_eq!(client.view(&id)["status"], "cancelled");
    server.drain();
    let (ledger, order) = (world.ledger(), id.parse().unwrap());
    let effects: Vec<_> = ledger.order(order).map(|e| (e.accepted, e.voided)).collect();
    assert_eq!(effects, [(1, 1), (1, 1)], "each taken once and forgotten once");
}

fn what_cannot_be_cancelled_stays_as_it_is(engine: &Engine) {
    let stubborn = Carrier { id: "stubborn", handling: &["frozen"], behaviour: "refuse_void=1", ..GOOD };
    let good = Carrier { handling: &["chilled", "ambient"], ..GOOD };
    let world = World::on(engine, Setup::new(&[good, stubborn]));
    let _server = world.serve();
    let client = world.client();
    let frozen = client.order("k-frozen", &order_of(&[(ICE, 1)])).id();
    wait_for_status(&client, &frozen, "carrier_accepted");
    let first = cancel(&client, &frozen);
    // Over Kafka the carrier may have refused before the answer is made.
    let late = !world.answers_decided() && first.status == 409;
    assert!(first.status == 202 || late, "{}", first.text());
    let refused = |view: &Value| milestones(view).contains(&"void_refused");
    let view = wait_for("the refusal is shown", || Some(client.view(&frozen)).filter(refused));
    assert_eq!(view["status"], "carrier_accepted");
    let answer = cancel(&client, &frozen);
    assert_eq!(answer.problem(409), ["/parcels/0"]);
    assert_eq!(answer.json()["type"], "urn:sluice:problem:not-cancellable");
    assert_eq!(answer.json()["errors"][0]["got"], "void_refused");
    // What moves is past that.
    let moving = client.order("k-moving", &order_of(&[(YOGURT, 1)])).id();
    wait_for_status(&client, &moving, "carrier_accepted");
    let told = tracking::tell(&client, "good", EVENTS_SECRET, "msg_1", &[tracking::event(&moving, 0, "picked_up", 0)]);
    assert_eq!(told.status, 200);
    wait_for_status(&client, &moving, "picked_up");
    let answer = cancel(&client, &moving);
    assert_eq!((answer.problem(409).len(), &answer.json()["errors"][0]["got"]), (1, &json!("on_its_way")));
    // What nobody has answered about can't be forgotten yet.
    world.carriers.change("good", r#"{"down": true}"#);
    let open = client.order("k-open", &order_of(&[(YOGURT, 1)])).id();
    wait_for_status(&client, &open, "carrier_requested");
    let answer = cancel(&client, &open);
    answer.problem(409);
    assert_eq!(answer.json()["type"], "urn:sluice:problem:already-requested");
    world.carriers.change("good", r#"{"down": false}"#);
    wait_for_status(&client, &open, "carrier_accepted");
    assert_eq!(cancel(&client, &open).status, 202, "now it can");
    wait_for_status(&client, &open, "cancelled");
    for unknown in ["no-id", "%ff", "01M6VZ4W3V00J8Z8M3C0V9S1QK"] {
        client.insist(|c| cancel(c, unknown)).problem(404);
    }
}

fn delivered_goods_come_back_to_the_merchant(engine: &Engine) {
    let mut setup = Setup::new(&[GOOD]);
    setup.tells = Some(50);
    let world = World::on(engine, setup);
    let _server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order_of(&[(YOGURT, 3), (ICE, 2)])).id();
    wait_for_status(&client, &id, "delivered");
    let answer = bring_back(&client, &id, "r-1", &[(1, 1), (0, 3)]);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let returns = answer.json()["returns"].clone();
    let brings: Vec<_> =
        returns.as_array().unwrap().iter().map(|r| (r["source"].clone(), r["lines"].clone())).collect();
    let quantities: Vec<_> = brings.iter().map(|(_, lines)| &lines[0]["quantity"]).collect();
    assert_eq!(brings[0].0, json!(format!("{id}-0")), "{returns}");
    assert_eq!((brings.len(), quantities), (2, vec![&json!(3), &json!(1)]), "{returns}");
    assert_eq!(returns[0]["id"], json!(format!("{id}-200")));
    let back = |view: &Value| {
        let returns = view["returns"].as_array().unwrap();
        returns.len() == 2 && returns.iter().all(|r| r["status"] == "returned")
    };
    let view = wait_for("both are back", || Some(client.view(&id)).filter(back));
    let statuses: Vec<_> = view["parcels"].as_array().unwrap().iter().map(|p| p["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["returned", "delivered"], "one unit of two is still there");
    assert_eq!((&view["status"], &view["returns"][0]["reason"]), (&json!("delivered"), &json!("does not fit")));
    assert!(view["returns"][0]["tracking_number"].is_string(), "{view}");
    assert_eq!(bring_back(&client, &id, "r-2", &[(1, 1)]).status, 202);
    wait_for_status(&client, &id, "returned");
    assert_eq!(world.carriers.told("refused"), 0);
    assert_eq!(world.ledger().duplicates().count(), 0);
}

fn a_return_has_its_effect_once(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let mut server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order_of(&[(YOGURT, 3)])).id();
    wait_for_status(&client, &id, "carrier_accepted");
    bring_back(&client, &id, "r-early", &[(0, 1)]).problem(409);
    let told = tracking::tell(&client, "good", EVENTS_SECRET, "msg_1", &[tracking::event(&id, 0, "delivered", 0)]);
    assert_eq!(told.status, 200);
    wait_for_status(&client, &id, "delivered");
    bring_back(&world.other_client(), &id, "r-1", &[(0, 1)]).problem(404);
    let first = bring_back(&client, &id, "r-1", &[(0, 2)]);
    assert_eq!(first.status, 202, "{}", first.text());
    for again in 0..2 {
        let answer = bring_back(&client, &id, "r-1", &[(0, 2)]);
        assert_eq!(answer.json()["returns"][0]["id"], first.json()["returns"][0]["id"], "{again}");
        assert_eq!(answer.json()["returns"].as_array().unwrap().len(), 1);
        server.kill();
        server = world.serve();
    }
    assert_eq!(bring_back(&client, &id, "r-1", &[(0, 1)]).problem(422), ["Idempotency-Key"]);
    bring_back(&client, &id, "r-2", &[(0, 2)]).problem(409);
    // Two at once, of which one only finds enough.
    let rivals = ["r-3", "r-4"].map(|key| {
        let (client, id) = (client.clone(), id.clone());
        std::thread::spawn(move || bring_back(&client, &id, key, &[(0, 1)]).status)
    });
    let mut statuses = rivals.map(|rival| rival.join().unwrap());
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 409]);
    let view = client.view(&id);
    let units: u64 =
        view["returns"].as_array().unwrap().iter().map(|r| r["lines"][0]["quantity"].as_u64().unwrap()).sum();
    assert_eq!(units, 3, "{view}");
    server.drain();
}

pub fn commands_have_their_bounds(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order_of(&[(YOGURT, 100)])).id();
    let parcels = wait_for_status(&client, &id, "carrier_accepted")["parcels"].as_array().unwrap().len();
    let delivered: Vec<_> = (0..parcels).map(|n| tracking::event(&id, n as u8, "delivered", 0)).collect();
    let told = tracking::tell(&client, "good", EVENTS_SECRET, "msg_1", &delivered);
    assert_eq!(told.status, 200);
    wait_for_status(&client, &id, "delivered");
    let body = |reason: &str| json!({"reason": reason, "lines": [{"line": 0, "quantity": 1}]}).to_string();
    for length in [MAX_RETURN_REASON - 1, MAX_RETURN_REASON, MAX_RETURN_REASON + 1] {
        let answer = send_return(&client, &id, &format!("reason-{length}"), &body(&"r".repeat(length)));
        assert_eq!(answer.status, if length <= MAX_RETURN_REASON { 202 } else { 422 }, "{length}");
    }
    for length in [MAX_RETURN_BYTES, MAX_RETURN_BYTES + 1, 3 * MAX_RETURN_BYTES] {
        let body = body("r");
        let text = format!("{body}{}", " ".repeat(length - body.len()));
        let answer = send_return(&client, &id, &format!("bytes-{length}"), &text);
        assert_eq!(answer.status, if length <= MAX_RETURN_BYTES { 202 } else { 413 }, "{length}");
    }
    for count in 3..=MAX_RETURNS {
        let answer = bring_back(&client, &id, &format!("count-{count}"), &[(0, 1)]);
        assert_eq!(answer.status, if count < MAX_RETURNS { 202 } else { 409 }, "{count}: {}", answer.text());
    }
    assert_eq!(client.view(&id)["returns"].as_array().unwrap().len(), MAX_RETURNS);
}
