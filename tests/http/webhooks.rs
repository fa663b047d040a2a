//! A merchant's endpoint over the real program: told of everything, in order and signed, whatever fails or is killed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    orders::{now_ms, order, time},
    process::{Process, program},
    receiver::{Post, Receiver},
    setup::{GOOD, Setup},
    wait_for,
    world::{Server, World},
};

on_both_engines!(
    an_endpoint_is_told_of_everything_in_order,
    nothing_is_lost_while_the_receiver_fails_and_the_server_is_killed,
    an_endpoint_that_is_gone_goes_on_where_it_was,
    a_trace_tells_what_became_of_an_orders_events,
    an_endpoint_of_the_configuration_goes_on_where_it_was,
);

/// Opens traces, and has loopback called.
const TOP: &str = "operator_key = \"operators-key\"\n[webhooks]\nallow_private_networks = [\"127.0.0.0/8\"]\n";
const ORDERS: usize = 10;
/// What is told of each: that it was taken, and what its carrier answered.
const EVENTS: usize = 2;

struct Shop {
    world: World,
    server: Option<Server>,
    client: Client,
    receiver: Receiver,
    /// Of the endpoint.
    path: String,
    secret: String,
    placed: usize,
}

impl Shop {
    fn open(engine: &Engine) -> Self {
        let world = World::on(engine, Setup::new(&[GOOD]).with(TOP));
        let (server, client, receiver) = (world.serve(), world.client(), Receiver::start());
        let body = json!({"url": receiver.url()}).to_string();
        let made = client
            .insist(|client| client.send("POST /v1/webhooks", &["content-type: application/json"], body.as_bytes()));
        assert_eq!(made.status, 201, "{}", made.text());
        let text = |name: &str| made.json()[name].as_str().unwrap().to_owned();
        let path = format!("/v1/webhooks/{}", text("id"));
        Self { world, server: Some(server), client, receiver, path, secret: text("secret"), placed: 0 }
    }

    fn place(&mut self) {
        for n in self.placed..self.placed + ORDERS {
            self.client.order(&format!("k-{n}"), &order()).id();
        }
        self.placed += ORDERS;
    }

    /// kill -9, and a start.
    fn crash(&mut self) {
        self.server.take().unwrap().kill();
        self.server = Some(self.world.serve());
    }

    /// Everything that was decided, by the word of the API: sequences and order by id.
    fn told(&self) -> BTreeMap<String, (String, u64)> {
        wait_for("every decision is told", || {
            let told = self.client.get("/v1/events?limit=1000").lines();
            let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
            let event = |e: &Value| (text(e, "id"), (text(e, "subject"), text(e, "sequence").parse().unwrap()));
            (told.len() == self.placed * EVENTS).then(|| told.iter().map(event).collect())
        })
    }

    /// Waits until everything was taken, and checks what arrived.
    fn all_is_taken(&self) -> Vec<Post> {
        let told = self.told();
        let ids: BTreeSet<_> = told.keys().cloned().collect();
        wait_for("everything is taken", || (self.receiver.taken() == ids).then_some(()));
        let posts = self.receiver.posts();
        let mut next: BTreeMap<&str, u64> = BTreeMap::new();
        for post in &posts {
            post.verify(&self.secret);
            let (order, sequence) = &told[&post.id()];
            let event = post.event();
            assert_eq!((event["subject"].as_str(), event["source"].as_str()), (Some(&**order), Some("/sluice")));
            assert_eq!(event["sequence"], format!("{sequence:010}"));
            // What is taken for the first time comes behind everything earlier of its order; what comes again may not.
            let next = next.entry(order).or_default();
            assert!(*sequence <= *next, "{event} before number {next}");
            if post.status < 300 && sequence == next {
                *next += 1;
            }
        }
        posts
    }

    /// Returns once what has happened is durable: before a change of the endpoint is answered, everything is.
    fn settle(&self) {
        let request = format!("PATCH {}", self.path);
        assert_eq!(self.client.send(&request, &["content-type: application/json"], b"{}").status, 200);
    }

    fn endpoint(&self) -> Value {
        self.client.insist(|client| client.get(&self.path)).json()
    }

    #[track_caller]
    fn post(&self, what: &str, headers: &[&str], body: &str) -> Value {
        let headers = [headers, &["content-type: application/json"]].concat();
        let request = format!("POST {}/{what}", self.path);
        let answer = self.client.insist(|client| client.send(&request, &headers, body.as_bytes()));
        assert!(answer.status < 300, "{request}: {}", answer.text());
        answer.json()
    }

    /// The whole log of what has come to `status`, page by page.
    fn log(&self, status: &str) -> Vec<Value> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("{}/deliveries?limit=7&status={status}{after}", self.path);
            let page = self.client.insist(|client| client.get(&path)).json();
            all.extend(page["deliveries"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return all,
            }
        }
    }
}

fn event_ids(log: &[Value]) -> BTreeSet<String> {
    log.iter().map(|line| line["event_id"].as_str().unwrap().to_owned()).collect()
}

fn an_endpoint_is_told_of_everything_in_order(engine: &Engine) {
    let mut shop = Shop::open(engine);
    shop.place();
    let posts = shop.all_is_taken();
    assert_eq!(posts.len(), ORDERS * EVENTS, "nothing fails, so nothing comes twice");
    let log = wait_for("everything is in the log", || {
        Some(shop.log("delivered")).filter(|log| event_ids(log) == shop.receiver.taken())
    });
    assert!(log.iter().all(|line| line["attempts"] == 1 && line["http_status"] == 204 && line["replayed"] == false));
    assert_eq!((shop.log("failed"), shop.log("retrying")), (Vec::new(), Vec::new()));

    // All of it again, under the same ids.
    let range = json!({"from": "2026-01-01T00:00:00Z", "to": time(now_ms())}).to_string();
    let replay = || shop.post("replay", &["idempotency-key: again"], &range);
    replay();
    wait_for("the replay is done", || (replay()["done"] == true).then_some(()));
    wait_for("everything has come again", || (shop.receiver.posts().len() == 2 * posts.len()).then_some(()));
    let again: BTreeSet<_> = shop.all_is_taken()[posts.len()..].iter().map(Post::id).collect();
    assert_eq!(again, shop.receiver.taken());
    let replayed = wait_for("all that has come again is in the log", || {
        let log: Vec<_> = shop.log("delivered").into_iter().filter(|line| line["replayed"] == true).collect();
        (log.len() == posts.len()).then_some(log)
    });
    assert_eq!(event_ids(&replayed), again);
    assert_eq!(replay()["events"], posts.len());
}

fn nothing_is_lost_while_the_receiver_fails_and_the_server_is_killed(engine: &Engine) {
    let mut shop = Shop::open(engine);
    // Killed with everything still to be told.
    shop.place();
    shop.crash();
    shop.all_is_taken();
    // … while everything fails,
    shop.receiver.says(500, "");
    let before = shop.receiver.posts().len();
    shop.place();
    wait_for("some attempts fail", || (shop.receiver.posts().len() >= before + 3).then_some(()));
    let before = shop.receiver.posts().len();
    shop.crash();
    wait_for("it is tried again", || (shop.receiver.posts().len() > before).then_some(()));
    // … and while it is asked to wait.
    shop.receiver.says(503, "retry-after: 3600\r\n");
    shop.post("enable", &[], "");
    wait_for("it asks for patience", || shop.receiver.posts().iter().find(|post| post.status == 503).map(drop));
    let waits = wait_for("its patience is honoured", || shop.endpoint()["next_attempt_at"].as_str().map(str::to_owned));
    shop.receiver.says(204, "");
    shop.settle();
    shop.crash();
    assert_eq!(shop.endpoint()["next_attempt_at"], waits, "a restart isn't an excuse");
    assert!(!shop.log("retrying").is_empty());
    shop.post("enable", &[], "");
    shop.place();
    shop.all_is_taken();
    let view = shop.endpoint();
    assert_eq!((&view["status"], &view["events_missed_at"]), (&"active".into(), &Value::Null), "{view}");
    wait_for("nothing waits", || (shop.endpoint()["waiting_events"] == 0).then_some(()));
    wait_for("everything is in the log", || (event_ids(&shop.log("delivered")) == shop.receiver.taken()).then_some(()));
}

fn an_endpoint_that_is_gone_goes_on_where_it_was(engine: &Engine) {
    let mut shop = Shop::open(engine);
    shop.receiver.says(410, "");
    shop.place();
    let gone = wait_for("it is disabled", || Some(shop.endpoint()).filter(|view| view["status"] == "disabled"));
    assert_eq!(gone["disabled_because"], "gone");
    shop.told();
    shop.settle();
    shop.crash();
    let posts = shop.receiver.posts().len();
    shop.place();
    shop.told();
    assert_eq!((shop.endpoint()["status"].as_str(), shop.receiver.posts().len()), (Some("disabled"), posts));
    shop.receiver.says(204, "");
    assert_eq!(shop.post("enable", &[], "")["status"], "active");
    shop.all_is_taken();
}

/// What a trace tells of the merchant's endpoints.
fn traced(world: &World, order: &str) -> Vec<Value> {
    let trace = wait_for("the order can be traced", || {
        let answer = world.client_of("operators-key").get(&format!("/v1/operator/orders/{order}"));
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(trace.get("unreadable"), None, "{trace}");
    trace["webhooks"].as_array().unwrap().clone()
}

/// Of one endpoint: event, what became of it, and the answers to its attempts.
fn deliveries(webhook: &Value) -> Vec<(u64, &str, Vec<u64>)> {
    let all = webhook["deliveries"].as_array().unwrap().iter();
    let answers = |delivery: &Value| -> Vec<u64> {
        delivery["tries"].as_array().unwrap().iter().map(|one| one["http_status"].as_u64().unwrap_or(0)).collect()
    };
    all.map(|d| (d["event"].as_u64().unwrap(), d["status"].as_str().unwrap(), answers(d))).collect()
}

fn a_trace_tells_what_became_of_an_orders_events(engine: &Engine) {
    let mut shop = Shop::open(engine);
    shop.receiver.says(500, "");
    let id = shop.client.order("k-0", &order()).id();
    shop.placed = 1;
    let waits = wait_for("the first event is tried, and the second waits for it", || {
        let webhooks = traced(&shop.world, &id);
        let told = deliveries(&webhooks[0]);
        let first =
            told.first().is_some_and(|(event, status, tries)| (*event, *status, tries[0]) == (0, "retrying", 500));
        let second = told.get(1).is_some_and(|second| *second == (1, "waiting", vec![]));
        (first && second).then(|| webhooks[0].clone())
    });
    assert_eq!(
        (format!("/v1/webhooks/{}", waits["endpoint"].as_str().unwrap()), &waits["status"]),
        (shop.path.clone(), &json!("active"))
    );
    assert_eq!(waits["host"], shop.receiver.url().split('/').nth(2).unwrap());
    assert!(waits["deliveries"][0]["next_attempt_at"].is_string(), "{waits}");
    let told = shop.told();
    let sent = waits["deliveries"].as_array().unwrap().iter().map(|delivery| delivery["message"].as_str().unwrap());
    assert!(sent.clone().count() == 2 && sent.clone().all(|message| told.contains_key(message)), "{waits}");

    // The same after a crash; and what comes then is added to it.
    shop.settle();
    shop.crash();
    assert_eq!(deliveries(&traced(&shop.world, &id)[0])[0].0, 0);
    shop.receiver.says(204, "");
    shop.post("enable", &[], "");
    let done = wait_for("both are delivered", || {
        let webhooks = traced(&shop.world, &id);
        deliveries(&webhooks[0]).iter().all(|delivery| delivery.1 == "delivered").then(|| webhooks[0].clone())
    });
    let done = deliveries(&done);
    let (last, earlier) = done[0].2.split_last().unwrap();
    assert!(*last == 204 && !earlier.is_empty() && earlier.iter().all(|status| *status == 500), "{done:?}");
    assert_eq!((done.len(), &done[1]), (2, &(1, "delivered", vec![204])));

    let mut trace = program(&["trace", &id, "--url", &format!("http://{}", shop.world.address())]);
    trace.env("SLUICE_OPERATOR_KEY", "operators-key");
    let text = Process::run(trace, shop.world.folder(), "trace");
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.out.contains("webhook whe_") && text.out.contains("204 after "), "{}", text.out);
}

fn an_endpoint_of_the_configuration_goes_on_where_it_was(engine: &Engine) {
    const OLD: &str = "whsec_d2ViaG9vay1vbGQtc2VjcmV0LWZvci10ZXN0cy0=";
    const NEW: &str = "whsec_d2ViaG9vay1uZXctc2VjcmV0LWZvci10ZXN0cy0=";
    let (first, second) = (Receiver::start(), Receiver::start());
    let mut world = World::on(engine, Setup::new(&[GOOD]).with(TOP));
    let secret = world.folder().join("webhook-secret");
    std::fs::write(&secret, format!("{OLD}\n")).unwrap();
    let at = |receiver: &Receiver| {
        let url = receiver.url();
        format!("[[merchant.webhook]]\nid = \"main\"\nurl = {url:?}\nsecret_file = {secret:?}\n")
    };
    world.setup.first_merchant = at(&first);
    let server = world.serve();
    let client = world.client();
    let list = || client.insist(|client| client.get("/v1/webhooks")).json()["endpoints"].clone();
    let shown = list();
    assert_eq!((&shown[0]["source"], &shown[0]["url"]), (&json!("configuration"), &json!(first.url())), "{shown}");
    let path = format!("/v1/webhooks/{}", shown[0]["id"].as_str().unwrap());
    let json = ["content-type: application/json"];
    for request in [format!("PATCH {path}"), format!("DELETE {path}"), format!("POST {path}/rotate-secret")] {
        client.insist(|client| client.send(&request, &json, b"{}")).problem(409);
    }
    // It begins at the end of the feed, which is found a moment after the start.
    let mut placed = 0;
    let place = |client: &Client, placed: &mut usize| {
        *placed += 1;
        client.order(&format!("k-{placed}"), &order()).id()
    };
    wait_for("it has begun", || {
        place(&client, &mut placed);
        (!first.posts().is_empty()).then_some(())
    });
    let id = place(&client, &mut placed);
    let told = |world: &World, id: &str, times: usize| {
        wait_for("all of an order is delivered", || {
            let webhooks = traced(world, id);
            let done = deliveries(webhooks.first()?);
            (done.len() == times && done.iter().all(|delivery| delivery.1 == "delivered")).then_some(())
        });
    };
    told(&world, &id, EVENTS);
    first.posts().iter().for_each(|post| post.verify(OLD));
    server.drain();

    // Elsewhere, with a new secret beside the old one: nothing again, and nothing left out.
    let before = first.taken();
    std::fs::write(&secret, format!("{NEW} {OLD}")).unwrap();
    world.setup.first_merchant = at(&second);
    let server = world.serve();
    assert_eq!((list()[0]["id"].as_str(), list()[0]["url"].as_str()), (path.rsplit('/').next(), Some(&*second.url())));
    let id = place(&client, &mut placed);
    told(&world, &id, EVENTS);
    assert!(second.taken().is_disjoint(&before) && first.taken() == before);
    second.posts().iter().for_each(|post| {
        post.verify(NEW);
        post.verify(OLD);
    });
    server.drain();

    // Taken out: nothing is told, and what was can still be seen.
    let posts = second.posts().len();
    world.setup.first_merchant.clear();
    let server = world.serve();
    assert_eq!(list(), json!([]));
    let late = place(&client, &mut placed);
    let left = traced(&world, &id);
    assert_eq!((&left[0]["status"], deliveries(&left[0]).len()), (&json!("removed"), EVENTS), "{left:?}");
    assert!(traced(&world, &late).is_empty());
    server.drain();
    assert_eq!(second.posts().len(), posts);

    // A mistake is named, and nothing starts.
    world.setup.first_merchant = at(&second).replace("http://127.0.0.1", "http://10.0.0.1");
    let ended = world.serve_in_vain();
    assert!(ended.code == Some(2) && ended.log.contains("merchant \"m-1\": webhook: url: expected"), "{ended:?}");
}
