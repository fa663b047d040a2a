//! A customer's orders, listed: all of them, once each, newest first, and nobody else's.

use std::time::Duration;

use serde_json::Value;
use sluice_domain::limits::{MAX_CUSTOMER, MAX_LISTED};

use super::life::wait_for_status;
use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    orders::{BEER, YOGURT, line, now_ms, order, order_of, time},
    setup::{GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(a_customers_orders_are_listed_newest_first, lists_have_their_bounds);

/// An order of `customer`, placed so long ago.
fn of(customer: &str, ago: Duration) -> Value {
    let mut order = order();
    order["customer"] = customer.into();
    order["placed_at"] = time(now_ms() - ago.as_millis() as u64).into();
    order
}

/// All ids of a list, page by page.
#[track_caller]
fn list(client: &Client, customer: &str, limit: usize) -> Vec<String> {
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/orders?customer={customer}&limit={limit}{after}"));
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        let orders = page["orders"].as_array().unwrap();
        assert!(orders.len() <= limit, "{page}");
        for order in orders {
            assert_eq!(order["customer"], customer, "{order}");
            ids.push(order["id"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return ids,
        }
    }
}

fn a_customers_orders_are_listed_newest_first(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let server = world.serve();
    let client = world.client();
    let post = |n: u64| {
        let minutes = Duration::from_secs(60 * (n % 9));
        let id = client.order(&format!("k-{n}"), &of("ada", minutes)).id();
        client.order(&format!("o-{n}"), &of(["bob", "ada2"][n as usize % 2], minutes)).id();
        id
    };
    let mut mine: Vec<String> = (0..25).map(post).collect();
    // The same request again is the same order, and another merchant's customer is another customer.
    let first = order_of(&[(YOGURT, 2), (BEER, 3)]);
    let customer = first["customer"].as_str().unwrap();
    let id = client.order("k", &first).id();
    client.order("k", &first).id();
    let others = world.other_client().order("k", &first).id();
    wait_for("the others' order", || (list(&world.other_client(), customer, 10) == [&*others]).then_some(()));
    wait_for("the order is listed", || (list(&client, customer, 10) == [&*id]).then_some(()));
    // Ids sort by time, as texts, too.
    mine.sort_by(|a, b| b.cmp(a));
    wait_for("all are listed", || (list(&client, "ada", 7) == mine).then_some(()));
    for limit in [1, 25, 26, 100] {
        assert_eq!(list(&client, "ada", limit), mine, "by {limit}");
    }
    assert_eq!(list(&client, "nobody", 10), Vec::<String>::new());
    wait_for_status(&client, &id, "carrier_accepted");
    let page = client.get(&format!("/v1/orders?customer={customer}")).json();
    let (shown, view) = (&page["orders"][0], client.view(&id));
    for field in ["id", "status", "placed_at", "customer"] {
        assert_eq!(shown[field], view[field], "{page}");
    }
    let lines = first["lines"].as_array().unwrap().iter();
    let cost = |line: &Value| line["quantity"].as_u64().unwrap() * line["unit_price"].as_u64().unwrap();
    assert_eq!((&shown["total"], &shown["currency"]), (&lines.map(cost).sum::<u64>().into(), &first["currency"]));
    server.kill();
    let _server = world.serve();
    wait_for("all are listed again", || (list(&client, "ada", 9) == mine).then_some(()));
    // What is listed can be read.
    mine.iter().for_each(|id| drop(client.view(id)));
}

pub fn lists_have_their_bounds(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    let client = world.client();
    let lines: Vec<String> =
        (0..=MAX_LISTED).map(|n| line(&format!("k-{n}"), of("ada", Duration::ZERO)).to_string()).collect();
    assert!(client.batch(lines.join("\n")).lines().iter().all(|result| result["status"] == 201));
    wait_for("all are listed", || (list(&client, "ada", MAX_LISTED).len() == MAX_LISTED + 1).then_some(()));
    let get = |query: &str| client.get(&format!("/v1/orders?{query}"));
    for limit in [0, 1, MAX_LISTED - 1, MAX_LISTED, MAX_LISTED + 1] {
        let answer = get(&format!("customer=ada&limit={limit}"));
        if (1..=MAX_LISTED).contains(&limit) {
            let page = answer.json();
            assert_eq!(page["orders"].as_array().unwrap().len(), limit, "{limit}");
            assert_eq!(page["next"], page["orders"][limit - 1]["id"]);
        } else {
            assert_eq!(answer.problem(400), ["limit"], "{limit}");
        }
    }
    for length in [0, 1, MAX_CUSTOMER, MAX_CUSTOMER + 1] {
        let answer = get(&format!("customer={}", "x".repeat(length)));
        if (1..=MAX_CUSTOMER).contains(&length) {
            assert_eq!(answer.status, 200, "{}", answer.text());
        } else {
            assert_eq!(answer.problem(400), ["customer"], "{length}");
        }
    }
    assert_eq!(get("").problem(400), ["customer"]);
    assert_eq!(get("customer=ada&after=x&limt=1").problem(400), ["after", "limt"]);
}
