//! What carriers tell of shipments on their way, from the signed message to the time line.

use serde_json::{Value, json};
use sluice_carrier::webhook::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};
use sluice_domain::{
    Fingerprint, OrderId, SlotCount,
    limits::{MAX_EVENTS, MAX_EVENTS_BYTES, MAX_MESSAGE_ID, MAX_REMARKS},
};
use sluice_http::Timestamp;

use super::life::wait_for_status;
use crate::support::{
    client::{Answer, Client},
    engine::{Engine, on_both_engines},
    orders::{ICE, YOGURT, now_ms, order, order_of},
    setup::{Carrier, EVENTS_SECRET, GOOD, SECRET, Setup},
    wait_for,
    world::World,
};

on_both_engines!(
    what_a_carrier_tells_is_shown_and_never_goes_back,
    a_tracking_number_stands_for_its_shipment,
    a_stranger_tells_nothing,
    parcels_of_carriers_that_tell_are_delivered,
    messages_of_carriers_have_their_bounds,
);

/// Something that happened to the first attempt at a parcel of order `id`, so many ms after now.
pub fn event(id: &str, parcel: u8, milestone: &str, late_ms: i64) -> Value {
    let at = Timestamp(now_ms().saturating_add_signed(late_ms)).to_string();
    json!({"shipment_id": format!("{id}-{parcel}-0"), "milestone": milestone, "occurred_at": at})
}

/// Posts events as a carrier does.
pub fn tell(client: &Client, carrier: &str, secret: &str, id: &str, events: &[Value]) -> Answer {
    let body = json!({ "events": events }).to_string();
    client.send(&format!("POST /v1/carriers/{carrier}/events"), &lines(&headers(secret, id, &body)), body.as_bytes())
}

/// Headers of a message of JSON, signed with `secret`.
pub fn headers(secret: &str, id: &str, body: &str) -> Vec<String> {
    let now_s = (now_ms() / 1_000) as i64;
    let signature = secret.parse::<Secret>().unwrap().sign(id, now_s, body.as_bytes());
    vec![
        "content-type: application/json".to_owned(),
        format!("{ID_HEADER}: {id}"),
        format!("{TIMESTAMP_HEADER}: {now_s}"),
        format!("{SIGNATURE_HEADER}: {signature}"),
    ]
}

pub fn lines(headers: &[String]) -> Vec<&str> {
    headers.iter().map(String::as_str).collect()
}

/// What carriers told, by a view's time line, with what is said of it.
fn told(view: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let own = ["accepted", "classified", "carrier_requested", "carrier_accepted"];
    let all = view["timeline"].as_array().unwrap().iter().map(|e| (text(&e["milestone"]), text(&e["detail"])));
    all.filter(|(milestone, _)| !own.contains(&milestone.as_str())).collect()
}

fn what_a_carrier_tells_is_shown_and_never_goes_back(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let mut server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order()).id();
    wait_for_status(&client, &id, "carrier_accepted");
    let mut delayed = event(&id, 0, "delivery_delayed", 2_000);
    delayed["detail"] = "snow".into();
    let bad = json!({"shipment_id": id, "milestone": "delivered", "occurred_at": "yesterday"});
    // The last comes first, and then all of it again under another id.
    let all = [event(&id, 0, "delivered", 4_000), delayed, bad, event(&id, 0, "in_transit", 1_000)];
    let answer = tell(&client, "good", EVENTS_SECRET, "msg_1", &all[..1]);
    assert_eq!((answer.status, answer.json()), (200, json!({"results": [{"index": 0, "status": "taken"}]})));
    wait_for_status(&client, &id, "delivered");
    let answer = tell(&client, "good", EVENTS_SECRET, "msg_2", &all).json();
    let statuses: Vec<&str> =
        answer["results"].as_array().unwrap().iter().map(|r| r["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["taken", "taken", "refused", "taken"], "{answer}");
    let fields: Vec<&str> =
        answer["results"][2]["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["/events/2/shipment_id", "/events/2/occurred_at"]);
    let good = |milestone: &str| (milestone.to_owned(), "good".to_owned());
    let wanted = [good("in_transit"), ("delivery_delayed".to_owned(), "good: snow".to_owned()), good("delivered")];
    let shown = || {
        let view = client.view(&id);
        assert_eq!((&view["status"], &view["parcels"][0]["status"]), (&json!("delivered"), &json!("delivered")));
        (told(&view) == wanted).then_some(())
    };
    wait_for("everything told is shown", shown);
    // What nobody has, and what came before, is taken and changes nothing; so does a restart.
    let unplaced = OrderId::new(now_ms(), Fingerprint::of("m-1", "never placed"), SlotCount::DEFAULT).to_string();
    let nobodys = event(&unplaced, 0, "delivered", 0);
    for (n, events) in
        [&all[..2], &[event(&id, 0, "picked_up", 0), event(&id, 9, "returned", 0)], &[nobodys]].iter().enumerate()
    {
        let answer = tell(&client, "good", EVENTS_SECRET, &format!("msg_3{n}"), events);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    wait_for("the pick-up is shown", || (told(&client.view(&id)).len() == 4).then_some(()));
    server.kill();
    server = world.serve();
    let view = client.view(&id);
    assert_eq!((view["status"].as_str(), told(&view).len()), (Some("delivered"), 4), "{view}");
    drop(server);
}

fn a_tracking_number_stands_for_its_shipment(engine: &Engine) {
    let light = Carrier { id: "light", handling: &["frozen"], ..GOOD };
    let world = World::on(engine, Setup::new(&[Carrier { handling: &["chilled", "ambient"], ..GOOD }, light]));
    let server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order_of(&[(YOGURT, 1), (ICE, 1)])).id();
    let view = wait_for_status(&client, &id, "carrier_accepted");
    let number = |parcel: usize| view["parcels"][parcel]["tracking_number"].as_str().unwrap().to_owned();
    let about = |number: &str, milestone: &str| {
        let mut event = event(&id, 0, milestone, 0);
        event.as_object_mut().unwrap().remove("shipment_id");
        event["tracking_number"] = number.into();
        event
    };
    // Its own parcel's, the other carrier's, and nobody's.
    let events = [about(&number(0), "picked_up"), about(&number(1), "delivered"), about("NOBODYS", "delivered")];
    let taken = wait_for("the number is known", || {
        let answer = tell(&client, "good", EVENTS_SECRET, "msg_1", &events).json();
        Some(answer).filter(|answer| answer["results"][0]["status"] == "taken")
    });
    for unknown in [&taken["results"][1], &taken["results"][2]] {
        assert_eq!((&unknown["status"], &unknown["retry_after_s"]), (&json!("unknown"), &json!(60)), "{taken}");
    }
    let picked_up = |view: &Value| view["parcels"][0]["status"] == "picked_up";
    let view = wait_for("the pick-up is shown", || Some(client.view(&id)).filter(picked_up));
    assert_eq!(view["parcels"][1]["status"], "carrier_accepted", "{view}");
    let unknown = tell(&client, "good", EVENTS_SECRET, "msg_2", &events[1..]);
    assert_eq!(unknown.status, 200, "to be told again is no refusal: {}", unknown.text());
    let mut both = event(&id, 0, "delivered", 0);
    both["tracking_number"] = number(0).into();
    let fields = ["/events/0/shipment_id", "/events/0/tracking_number"];
    assert_eq!(tell(&client, "good", EVENTS_SECRET, "msg_3", &[both]).problem(422), fields);
    server.kill();
    let _server = world.serve();
    let told = [about(&number(1), "delivered")];
    assert_eq!(tell(&client, "light", EVENTS_SECRET, "msg_4", &told).json()["results"][0]["status"], "taken");
    wait_for("the delivery is shown", || {
        Some(client.view(&id)).filter(|view| view["parcels"][1]["status"] == "delivered")
    });
}

fn a_stranger_tells_nothing(engine: &Engine) {
    let light = Carrier { id: "light", handling: &["frozen"], ..GOOD };
    let world = World::on(engine, Setup::new(&[Carrier { handling: &["chilled", "ambient"], ..GOOD }, light]));
    let _server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order_of(&[(YOGURT, 1), (ICE, 1)])).id();
    wait_for_status(&client, &id, "carrier_accepted");
    let delivered = [event(&id, 0, "delivered", 0)];
    let strangers = [("nobody", EVENTS_SECRET), ("good", SECRET), ("good%00", EVENTS_SECRET), ("%ff", EVENTS_SECRET)];
    for (carrier, secret) in strangers {
        let answer = tell(&client, carrier, secret, "msg_1", &delivered);
        assert_eq!(answer.header("www-authenticate"), Some("Signature"), "{}", answer.text());
        answer.problem(401);
    }
    // A merchant's key is no carrier's.
    let unsigned = client.send("POST /v1/carriers/good/events", &["content-type: application/json"], b"{}");
    unsigned.problem(401);
    // Another carrier's word about it is taken, and is nothing to it.
    assert_eq!(tell(&client, "light", EVENTS_SECRET, "msg_1", &delivered).status, 200);
    assert_eq!(tell(&client, "good", EVENTS_SECRET, "msg_1", &[event(&id, 0, "picked_up", 0)]).status, 200);
    let picked_up = |view: &Value| view["parcels"][0]["status"] == "picked_up";
    let view = wait_for("the pick-up is shown", || Some(client.view(&id)).filter(picked_up));
    assert_eq!(told(&view).iter().filter(|(milestone, _)| milestone == "delivered").count(), 0, "{view}");
    assert_eq!(view["status"], "carrier_accepted", "that of the other parcel");
    client.send("GET /v1/carriers/good/events", &[], b"").problem(405);
}

fn parcels_of_carriers_that_tell_are_delivered(engine: &Engine) {
    let mut setup = Setup::new(&[GOOD, Carrier { id: "other", ..GOOD }]);
    setup.tells = Some(50);
    let world = World::on(engine, setup);
    let _server = world.serve();
    let client = world.client();
    let ids: Vec<String> = (0..40).map(|n| client.order(&format!("k-{n}"), &order()).id()).collect();
    for id in &ids {
        let view = wait_for_status(&client, id, "delivered");
        let known = |milestone| told(&view).iter().filter(|(m, _)| m == milestone).count();
        wait_for("the way there", || (told(&client.view(id)).len() == 4).then_some(()));
        assert_eq!(known("delivered"), 1, "{view}");
    }
    assert_eq!(world.carriers.told("refused"), 0);
    assert!(world.carriers.told("by_number") > 0, "some of it by tracking number");
    wait_for("four for each are answered", || (world.carriers.told("events") >= 160).then_some(()));
}

pub fn messages_of_carriers_have_their_bounds(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order()).id();
    wait_for_status(&client, &id, "carrier_accepted");
    let status = |message: &str, events: &[Value]| tell(&client, "good", EVENTS_SECRET, message, events).status;
    for length in [1, MAX_MESSAGE_ID - 1, MAX_MESSAGE_ID, MAX_MESSAGE_ID + 1] {
        let wanted = if length <= MAX_MESSAGE_ID { 200 } else { 401 };
        assert_eq!(status(&"m".repeat(length), &[event(&id, 0, "picked_up", 0)]), wanted, "{length}");
    }
    let picked_up = event(&id, 0, "picked_up", 0);
    for count in [1, MAX_EVENTS - 1, MAX_EVENTS, MAX_EVENTS + 1] {
        let wanted = if count <= MAX_EVENTS { 200 } else { 422 };
        assert_eq!(status(&format!("count-{count}"), &vec![picked_up.clone(); count]), wanted, "{count}");
    }
    let bare = json!({ "events": [picked_up] }).to_string().len();
    for bytes in [MAX_EVENTS_BYTES - 1, MAX_EVENTS_BYTES, MAX_EVENTS_BYTES + 1, 3 * MAX_EVENTS_BYTES] {
        let mut padded = picked_up.clone();
        padded["x"] = "".into();
        padded["x"] = "x".repeat(bytes - bare - ",\"x\":\"\"".len()).into();
        let answer = tell(&client, "good", EVENTS_SECRET, &format!("bytes-{bytes}"), &[padded]);
        assert_eq!(answer.status, if bytes <= MAX_EVENTS_BYTES { 200 } else { 413 }, "{bytes}: {}", answer.text());
    }
    // One too many, and then something else, which comes behind it.
    let remark = |n: usize| event(&id, 0, "on_hold", 1_000 + n as i64);
    let remarks: Vec<Value> = (0..=MAX_REMARKS).map(remark).collect();
    assert_eq!(status("remarks", &remarks), 200);
    assert_eq!(status("delivered", &[event(&id, 0, "delivered", 0)]), 200);
    let view = wait_for_status(&client, &id, "delivered");
    assert_eq!(told(&view).iter().filter(|(milestone, _)| milestone == "on_hold").count(), MAX_REMARKS);
}
