//! Every bound of a request at n − 1, n and n + 1, through the real thing.

use std::collections::BTreeSet;

use serde_json::Value;
use sluice_domain::limits::*;

use super::{commands, lists, operation, parcels, replays, tracking};
use crate::support::{
    client::{Client, fields_of},
    engine::{Engine, on_both_engines},
    orders::{line, now_ms, order, padded, time},
    setup::{GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(requests_at_a_bound_are_taken_and_beyond_it_refused_by_name);

/// How far apart the clocks of client and server may be, ms: they are one clock, but an order takes time to arrive.
const SLACK_MS: u64 = 5_000;

enum Covered {
    /// By this function, against one server for all.
    Request(fn(&Client)),
    /// By a test elsewhere, which needs a server of its own.
    Elsewhere(fn(&Engine)),
    /// By the service's own tests, in this file.
    InItsCrate(&'static str),
}
use Covered::{Elsewhere, InItsCrate, Request};

/// Every constant of `limits.rs`, and what tests it.
const BOUNDS: [(&str, Covered); 34] = [
    ("MAX_LINES", Request(lines_of_an_order)),
    ("MAX_QUANTITY", Request(|c| number(c, "/lines/0/quantity", 1, u64::from(MAX_QUANTITY)))),
    ("MAX_UNIT_PRICE", Request(|c| number(c, "/lines/0/unit_price", 0, MAX_UNIT_PRICE))),
    ("MAX_CUSTOMER", Request(|c| text(c, &["/customer"], 1, MAX_CUSTOMER))),
    ("MAX_SKU", Request(|c| text(c, &["/lines/0/sku"], 1, MAX_SKU))),
    ("MAX_TITLE", Request(|c| text(c, &["/lines/0/title"], 1, MAX_TITLE))),
    (
        "MAX_ADDRESS_FIELD",
        Request(|c| text(c, &["/ship_to/name", "/ship_to/street", "/ship_to/city"], 1, MAX_ADDRESS_FIELD)),
    ),
    ("MAX_POSTAL_CODE", Request(|c| text(c, &["/ship_to/postal_code"], 0, MAX_POSTAL_CODE))),
    ("MAX_IDEMPOTENCY_KEY", Request(idempotency_key)),
    ("MAX_ORDER_BYTES", Request(bytes_of_an_order)),
    ("MAX_BATCH_LINES", Request(lines_of_a_batch)),
    ("MAX_BATCH_BYTES", Request(bytes_of_a_batch)),
    ("MAX_LISTED", Elsewhere(lists::lists_have_their_bounds)),
    ("DEFAULT_WINDOW_MS", Request(window)),
    ("MAX_PARCELS", Elsewhere(parcels::an_order_becomes_so_many_parcels)),
    ("MAX_ATTEMPTS", Elsewhere(parcels::a_parcel_is_offered_to_so_many_carriers)),
    ("MAX_REPLAYS", Elsewhere(replays::a_dead_letter_is_replayed_so_often)),
    ("MAX_PARTY_ID", Elsewhere(operation::ids_of_merchants_and_carriers_have_their_length)),
    ("MAX_TRACKING_NUMBER", Elsewhere(parcels::what_carriers_say_has_its_length)),
    ("MAX_REASON", Elsewhere(parcels::what_carriers_say_has_its_length)),
    ("MAX_REMARKS", Elsewhere(tracking::messages_of_carriers_have_their_bounds)),
    ("MAX_MESSAGE_ID", Elsewhere(tracking::messages_of_carriers_have_their_bounds)),
    ("MAX_EVENTS", Elsewhere(tracking::messages_of_carriers_have_their_bounds)),
    ("MAX_EVENTS_BYTES", Elsewhere(tracking::messages_of_carriers_have_their_bounds)),
    ("MAX_RETURNS", Elsewhere(commands::commands_have_their_bounds)),
    ("MAX_RETURN_BYTES", Elsewhere(commands::commands_have_their_bounds)),
    ("MAX_RETURN_REASON", Elsewhere(commands::commands_have_their_bounds)),
    ("MAX_WEBHOOKS", InItsCrate("services/webhooks/tests/api.rs")),
    ("MAX_REPLAYING", InItsCrate("services/webhooks/tests/api.rs")),
    ("MAX_WEBHOOK_URL", InItsCrate("services/webhooks/tests/api.rs")),
    ("MAX_WEBHOOK_DESCRIPTION", InItsCrate("services/webhooks/tests/api.rs")),
    ("MAX_WEBHOOK_BYTES", InItsCrate("services/webhooks/tests/api.rs")),
    ("MAX_REVIEW_BYTES", InItsCrate("services/operator/src/review_tests.rs")),
    ("MAX_DELIVERIES", InItsCrate("services/webhooks/tests/api.rs")),
];

#[test]
fn every_bound_has_its_test() {
    let source = include_str!("../../crates/domain/src/limits.rs");
    let constants = source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let constants: BTreeSet<&str> = constants.collect();
    assert_eq!(constants, BOUNDS.iter().map(|(name, _)| *name).collect());
    for (name, covered) in &BOUNDS {
        if let InItsCrate(file) = covered {
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
            assert!(std::fs::read_to_string(format!("{root}/{file}")).unwrap().contains(name), "{name} in {file}");
        }
    }
}

fn requests_at_a_bound_are_taken_and_beyond_it_refused_by_name(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let server = world.serve();
    for (name, covered) in &BOUNDS {
        match covered {
            Request(check) => check(&world.client()),
            Elsewhere(test) => eprintln!("{name} is tested at {test:p}"),
            InItsCrate(file) => eprintln!("{name} is tested in {file}"),
        }
    }
    // Whatever was refused left nothing behind: as many were taken as were told so.
    let told = server.metric("sluice_checkout_orders_total{outcome=\"accepted\"}").unwrap();
    wait_for("what was acknowledged is decided", || {
        let taken = server.metric("sluice_orders_accepted_total").unwrap();
        assert!(taken <= told, "{taken} taken, {told} acknowledged");
        (taken == told).then_some(())
    });
}

/// Posts the order that `change` makes of a good one, alone and in a batch, and expects both to be taken, or both to be
/// refused at `field`.
#[track_caller]
fn check(client: &Client, name: &str, field: &str, fits: bool, change: impl Fn(&mut Value)) {
    let mut changed = order();
    change(&mut changed);
    let answer = client.insist(|client| client.order(&format!("{name}-single"), &changed));
    let in_batch = line(&format!("{name}-batch"), changed).to_string();
    let result = wait_for("a line that is answered other than 503", || {
        let result = client.batch(&in_batch).lines().remove(0);
        (!client.lags || result["status"] != 503).then_some(result)
    });
    if fits {
        answer.id();
        assert_eq!(result["status"], 201, "{name}: {result}");
    } else {
        assert_eq!(answer.problem(422), [field], "{name}");
        assert_eq!(result["status"], 422, "{name}: {result}");
        assert_eq!(fields_of(&result["problem"], 422), [field], "{name}");
    }
}

fn text(client: &Client, fields: &[&str], min: usize, max: usize) {
    for field in fields {
        let lengths = BTreeSet::from([min.saturating_sub(1), min, min + 1, max - 1, max, max + 1]);
        for len in lengths {
            let name = format!("{}-{len}", field.replace('/', "."));
            let set = |order: &mut Value| *order.pointer_mut(field).unwrap() = "x".repeat(len).into();
            check(client, &name, field, (min..=max).contains(&len), set);
        }
    }
}

fn number(client: &Client, field: &str, min: u64, max: u64) {
    let numbers = [min as i64 - 1, min as i64, min as i64 + 1, max as i64 - 1, max as i64, max as i64 + 1];
    for number in numbers {
        let name = format!("{}-{number}", field.replace('/', "."));
        let fits = (min as i64..=max as i64).contains(&number);
        check(client, &name, field, fits, |order| *order.pointer_mut(field).unwrap() = number.into());
    }
}

fn lines_of_an_order(client: &Client) {
    for count in [0, 1, 2, MAX_LINES - 1, MAX_LINES, MAX_LINES + 1] {
        let set = |order: &mut Value| order["lines"] = vec![order["lines"][0].clone(); count].into();
        check(client, &format!("lines-{count}"), "/lines", (1..=MAX_LINES).contains(&count), set);
    }
}

fn idempotency_key(client: &Client) {
    for len in [0, 1, 2, MAX_IDEMPOTENCY_KEY - 1, MAX_IDEMPOTENCY_KEY, MAX_IDEMPOTENCY_KEY + 1] {
        let fits = (1..=MAX_IDEMPOTENCY_KEY).contains(&len);
        let alone = client.order(&"h".repeat(len), &order());
        let in_batch = client.batch(line(&"b".repeat(len), order()).to_string()).lines().remove(0);
        if fits {
            alone.id();
            assert_eq!(in_batch["status"], 201, "{len}: {in_batch}");
        } else {
            assert_eq!(alone.problem(400), ["Idempotency-Key"], "{len}");
            assert_eq!(fields_of(&in_batch["problem"], 422), ["/idempotency_key"], "{len}");
        }
    }
}

fn bytes_of_an_order(client: &Client) {
    for (bytes, status) in [(MAX_ORDER_BYTES - 1, 201), (MAX_ORDER_BYTES, 201), (MAX_ORDER_BYTES + 1, 413)] {
        let alone = client.order_text(&format!("bytes-{bytes}"), &padded(&order(), bytes));
        assert_eq!(alone.status, status, "{bytes}: {}", alone.text());
        let lines = padded(&line(&format!("bytes-b-{bytes}"), order()), bytes) + "\n";
        let results = client.batch(lines + &line(&format!("bytes-c-{bytes}"), order()).to_string()).lines();
        assert_eq!((&results[0]["status"], &results[1]["status"]), (&status.into(), &201.into()), "{bytes}");
    }
    client.order_text("far-too-many", &padded(&order(), 2 * MAX_ORDER_BYTES)).problem(413);
}

fn lines_of_a_batch(client: &Client) {
    for count in [0, 1, MAX_BATCH_LINES - 1, MAX_BATCH_LINES, MAX_BATCH_LINES + 1] {
        let fresh = order();
        let lines: Vec<String> =
            (0..count).map(|n| line(&format!("lines-{count}-{n}"), fresh.clone()).to_string()).collect();
        let answer = client.batch(lines.join("\n"));
        match count {
            0 => drop(answer.problem(400)),
            1..=MAX_BATCH_LINES => {
                let results = answer.lines();
                assert_eq!(results.len(), count);
                assert!(results.iter().all(|result| result["status"] == 201), "{count}");
            }
            _ => {
                answer.problem(413);
                // Nothing of it was taken: its first line is new.
                assert_eq!(client.batch(&lines[0]).lines()[0].get("replayed"), None);
            }
        }
    }
}

fn bytes_of_a_batch(client: &Client) {
    for bytes in [MAX_BATCH_BYTES - 1, MAX_BATCH_BYTES, MAX_BATCH_BYTES + 1] {
        // Lines of 64 KiB with their ends, and a last one that makes it the length it shall have.
        let count = MAX_BATCH_BYTES / MAX_ORDER_BYTES - 1;
        let whole = |n| padded(&line(&format!("batch-{bytes}-{n}"), order()), MAX_ORDER_BYTES - 1) + "\n";
        let mut body: String = (0..count).map(whole).collect();
        let rest = bytes - body.len();
        body += &padded(&line(&format!("batch-{bytes}-last"), order()), rest.min(MAX_ORDER_BYTES));
        body += &"\n".repeat(rest.saturating_sub(MAX_ORDER_BYTES));
        assert_eq!(body.len(), bytes);
        let answer = client.batch(&body);
        if bytes <= MAX_BATCH_BYTES {
            let results = answer.lines();
            assert!(results.len() == count + 1 && results.iter().all(|result| result["status"] == 201), "{bytes}");
        } else {
            answer.problem(413);
            let first = body.lines().next().unwrap();
            assert_eq!(client.batch(first).lines()[0].get("replayed"), None, "nothing of it was taken");
        }
    }
    client.batch(vec![b'\n'; 2 * MAX_BATCH_BYTES]).problem(413);
}

fn window(client: &Client) {
    for (name, inside, outside) in [
        ("past", now_ms() - DEFAULT_WINDOW_MS + SLACK_MS, now_ms() - DEFAULT_WINDOW_MS - 1),
        ("future", now_ms() + DEFAULT_WINDOW_MS - 1, now_ms() + DEFAULT_WINDOW_MS + SLACK_MS),
    ] {
        check(client, &format!("in-{name}"), "/placed_at", true, |order| order["placed_at"] = time(inside).into());
        check(client, &format!("out-{name}"), "/placed_at", false, |order| order["placed_at"] = time(outside).into());
    }
}
