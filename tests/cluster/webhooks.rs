//! Two nodes for webhooks, of which one delivers: stopped, killed or drained, the other goes on, and nothing is left out.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::town::Town;
use crate::support::{client::Answer, receiver::Receiver, wait_for};

const ORDERS: usize = 6;

struct Shop {
    town: Town,
    receiver: Receiver,
    path: String,
    secret: String,
}

impl Shop {
    fn ask(&self, node: usize, request: &str, body: &str) -> Answer {
        self.town.cluster.client(node).send(request, &["content-type: application/json"], body.as_bytes())
    }

    /// Waits until this node answers for webhooks, and gives how the endpoint is.
    fn endpoint_at(&self, node: usize) -> Value {
        wait_for(&format!("node {node} has the turn"), || {
            let answer = self.ask(node, &format!("GET {}", self.path), "");
            assert!([200, 503].contains(&answer.status), "{}", answer.text());
            (answer.status == 200).then(|| answer.json())
        })
    }

    /// Everything that is told of the orders, by the word of a status node.
    fn told(&self) -> BTreeSet<String> {
        let events = self.town.client("status").get("/v1/events?limit=1000").lines();
        events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Posts some orders, and waits until all that is told of all orders has arrived.
    fn trade(&mut self) {
        self.town.post(ORDERS);
        self.town.settle();
        let told = self.told();
        assert!(told.len() >= 2 * self.town.placed.len());
        wait_for("everything is taken", || told.is_subset(&self.receiver.taken()).then_some(()));
        self.receiver.posts().iter().for_each(|post| post.verify(&self.secret));
    }
}

#[test]
fn one_node_delivers_and_another_goes_on_where_it_was() {
    let Some(mut town) = Town::new("hooks") else { return };
    town.start(&["checkout", "classify", "carrier", "status", "webhooks", "webhooks"]);
    let (nodes, receiver) = (town.cluster.of("webhooks"), Receiver::start());
    let mut shop = Shop { town, receiver, path: String::new(), secret: String::new() };
    let body = json!({"url": shop.receiver.url()}).to_string();
    let (mut holder, made) = wait_for("a node has the turn", || {
        let tried = nodes.iter().map(|&node| (node, shop.ask(node, "POST /v1/webhooks", &body)));
        tried.into_iter().find(|(_, answer)| answer.status == 201)
    });
    let text = |name: &str| made.json()[name].as_str().unwrap().to_owned();
    (shop.path, shop.secret) = (format!("/v1/webhooks/{}", text("id")), text("secret"));
    let mut other = nodes[usize::from(holder == nodes[0])];
    shop.ask(other, "GET /v1/webhooks", "").problem(503);
    shop.trade();

    // Stopped in the middle, it is silent for longer than a session, and wakes up when another has its turn.
    shop.town.post(ORDERS);
    shop.town.cluster.signal(holder, "STOP");
    shop.endpoint_at(other);
    let patch = format!("PATCH {}", shop.path);
    assert_eq!(shop.ask(other, &patch, "{\"description\":\"moved\"}").status, 200);
    shop.trade();
    shop.town.cluster.signal(holder, "CONT");
    wait_for("it stands by", || (shop.ask(holder, "GET /v1/webhooks", "").status == 503).then_some(()));
    shop.trade();
    (holder, other) = (other, holder);
    assert_eq!(shop.endpoint_at(holder)["description"], "moved");

    // Killed in the middle.
    shop.town.post(ORDERS);
    shop.town.cluster.kill(holder);
    assert_eq!(shop.endpoint_at(other)["description"], "moved");
    shop.trade();
    shop.town.cluster.start(holder);
    shop.town.cluster.all_ready();
    (holder, other) = (other, holder);

    // Drained, it hands over at once.
    shop.town.post(ORDERS);
    shop.town.cluster.drain(&[holder]);
    assert_eq!(shop.endpoint_at(other)["description"], "moved");
    shop.trade();
    shop.town.stop();
}
