//! Nobody learns anything about what is another's: every route, asked by everyone who has no business there.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use super::{
    commands,
    tracking::{event, headers, lines},
};
use crate::support::{
    client::{Answer, Client},
    engine::{Engine, on_both_engines},
    orders::{line, now_ms, order, time},
    setup::{EVENTS_SECRET, GOOD, SECRET, Setup},
    wait_for,
    world::World,
};

on_both_engines!(every_route_tells_strangers_nothing);

/// A merchant whose id and key stand out wherever they show.
const OWNER: (&str, &str) = ("owner-5d1f", "owner-key-93ab");
/// A merchant whose key was valid until it was revoked.
const FORMER: (&str, &str) = ("former-77c0", "former-key-0e42");
/// Signed with by somebody who is no carrier.
const STRANGE_SECRET: &str = "whsec_c2x1aWNlLXRlc3RzLW5vYm9keXMtc2VjcmV0LTAxLi4=";

/// Who asks: the API key that is sent along, and the secret that carriers' messages are signed with.
struct Caller {
    name: &'static str,
    key: &'static str,
    secret: Option<&'static str>,
}

const CALLERS: [Caller; 5] = [
    Caller { name: "no key", key: "", secret: None },
    Caller { name: "a wrong key", key: "nobodys-key", secret: Some(STRANGE_SECRET) },
    Caller { name: "a revoked key", key: FORMER.1, secret: None },
    Caller { name: "another merchant's key", key: "key-2", secret: None },
    // What it signs events with is a key of its own; what its manifests are signed with must not do for events either.
    Caller { name: "a carrier's key", key: EVENTS_SECRET, secret: Some(SECRET) },
];

/// A route, how it is asked about something of the owner's or about nothing at all, and the status that each caller gets.
struct Row {
    method: &'static str,
    path: &'static str,
    ask: fn(&Scene, &Client, &Caller, Whose) -> Answer,
    gets: [u16; 5],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Owners,
    Nobodys,
}

/// Every route there is. Who adds one says here what strangers get.
const ROWS: [Row; 29] = [
    // First, as long as nobody but the owner has any.
    Row { method: "get", path: "/v1/events", ask: |_, c, _, _| c.get("/v1/events"), gets: [401, 401, 401, 200, 401] },
    Row { method: "get", path: "/v1/orders", ask: list, gets: [401, 401, 401, 200, 401] },
    Row { method: "post", path: "/v1/orders", ask: place, gets: [401, 401, 401, 201, 401] },
    Row { method: "post", path: "/v1/orders:batch", ask: place_many, gets: [401, 401, 401, 200, 401] },
    Row { method: "get", path: "/v1/orders/{id}", ask: read, gets: [401, 401, 401, 404, 401] },
    Row { method: "get", path: "/v1/orders/{id}/events", ask: follow, gets: [401, 401, 401, 404, 401] },
    Row { method: "post", path: "/v1/orders/{id}/cancel", ask: cancel, gets: [401, 401, 401, 404, 401] },
    Row { method: "post", path: "/v1/orders/{id}/returns", ask: bring_back, gets: [401, 401, 401, 404, 401] },
    Row { method: "post", path: "/v1/carriers/{carrier}/events", ask: tell, gets: [401; 5] },
    // Before strangers make endpoints of their own.
    Row { method: "get", path: HOOKS, ask: |_, c, _, _| c.get(HOOKS), gets: [401, 401, 401, 200, 401] },
    Row { method: "post", path: HOOKS, ask: make_hook, gets: [401, 401, 401, 201, 401] },
    hook("get", "/v1/webhooks/{id}", |s, c, _, w| ask_hook(s, c, w, "GET", "", "")),
    hook("patch", "/v1/webhooks/{id}", |s, c, _, w| ask_hook(s, c, w, "PATCH", "", "{\"enabled\":false}")),
    hook("get", "/v1/webhooks/{id}/deliveries", |s, c, _, w| ask_hook(s, c, w, "GET", "/deliveries", "")),
    hook("post", "/v1/webhooks/{id}/rotate-secret", |s, c, _, w| ask_hook(s, c, w, "POST", "/rotate-secret", "")),
    hook("post", "/v1/webhooks/{id}/enable", |s, c, _, w| ask_hook(s, c, w, "POST", "/enable", "")),
    hook("post", "/v1/webhooks/{id}/replay", |s, c, _, w| ask_hook(s, c, w, "POST", "/replay", RANGE)),
    hook("delete", "/v1/webhooks/{id}", |s, c, _, w| ask_hook(s, c, w, "DELETE", "", "")),
    Row { method: "get", path: "/v1/operator/events", ask: |_, c, _, _| c.get("/v1/operator/events"), gets: [401; 5] },
    Row { method: "get", path: "/v1/operator/orders/{id}", ask: trace, gets: [401; 5] },
    Row { method: "post", path: "/v1/operator/orders/{id}/replay", ask: replay, gets: [401; 5] },
    Row { method: "get", path: "/v1/review", ask: |_, c, _, _| c.get("/v1/review"), gets: [401; 5] },
    Row { method: "post", path: "/v1/review/{id}", ask: review, gets: [401; 5] },
    Row {
        method: "get",
        path: "/v1/review/kept",
        ask: |_, c, _, _| c.get("/v1/review/kept?keep=rule"),
        gets: [401; 5],
    },
    Row { method: "delete", path: "/v1/review/kept/{id}", ask: forget, gets: [401; 5] },
    Row { method: "get", path: "/healthz", ask: |_, c, _, _| c.get("/healthz"), gets: [200; 5] },
    Row { method: "get", path: "/readyz", ask: |_, c, _, _| c.get("/readyz"), gets: [200; 5] },
    Row { method: "get", path: "/metrics", ask: |_, c, _, _| c.get("/metrics"), gets: [200; 5] },
    Row { method: "get", path: "/openapi.json", ask: |_, c, _, _| c.get("/openapi.json"), gets: [200; 5] },
];

const HOOKS: &str = "/v1/webhooks";
/// Nothing of this kind happens here, so that nobody is called.
const NEVER: &str = "com.sluice.return.tracked.v1";

/// A route about one webhook endpoint.
const fn hook(method: &'static str, path: &'static str, ask: fn(&Scene, &Client, &Caller, Whose) -> Answer) -> Row {
    Row { method, path, ask, gets: [401, 401, 401, 404, 401] }
}

const RANGE: &str = r#"{"from":"2026-01-01T00:00:00Z","to":"2026-01-02T00:00:00Z"}"#;

/// What the owner has.
struct Scene {
    hook: String,
    hook_secret: String,
    order: Value,
    /// Orders posted alone and in a batch, under these keys.
    single: String,
    batch: String,
}

const SINGLE: &str = "owners-single";
const BATCH: &str = "owners-batch";

impl Scene {
    fn set(owner: &Client) -> Self {
        // Too old to be on its way still, so that whether it is there can't be a matter of time.
        let mut order = order();
        order["placed_at"] = time(now_ms() - 60_000).into();
        order["customer"] = "owners-customer".into();
        let single = owner.insist(|owner| owner.order(SINGLE, &order)).id();
        let result = owner.batch(line(BATCH, order.clone()).to_string()).lines().remove(0);
        let (hook, hook_secret) = Self::hook(owner);
        let scene = Self { hook, hook_secret, order, single, batch: result["id"].as_str().unwrap().to_owned() };
        for id in [&scene.single, &scene.batch] {
            let readable = || owner.get(&format!("/v1/orders/{id}")).status == 200;
            wait_for("the owner's order is readable", || readable().then_some(()));
        }
        scene
    }

    /// The id of an endpoint of the owner's, and its secret.
    fn hook(owner: &Client) -> (String, String) {
        let made = owner.insist(|owner| post_hook(owner, "https://first-shop.example/hooks"));
        assert_eq!(made.status, 201, "{}", made.text());
        let text = |name: &str| made.json()[name].as_str().unwrap().to_owned();
        (text("id"), text("secret"))
    }

    /// What no stranger may ever be told.
    fn secrets(&self) -> [&str; 12] {
        [
            &self.hook,
            &self.hook_secret,
            &self.single,
            &self.batch,
            OWNER.0,
            OWNER.1,
            "owners-",
            FORMER.1,
            "key-2",
            SECRET,
            EVENTS_SECRET,
            "operators-key",
        ]
    }
}

fn place(scene: &Scene, client: &Client, caller: &Caller, whose: Whose) -> Answer {
    client.order(
        &if whose == Whose::Owners { SINGLE.to_owned() } else { format!("new {}", caller.name) }.replace(' ', "-"),
        &scene.order,
    )
}

fn place_many(scene: &Scene, client: &Client, caller: &Caller, whose: Whose) -> Answer {
    let key = if whose == Whose::Owners { BATCH.to_owned() } else { format!("new-batch {}", caller.name) };
    client.batch(line(&key.replace(' ', "-"), scene.order.clone()).to_string())
}

fn list(_: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    let customer = if whose == Whose::Owners { "owners-customer" } else { "nobody" };
    client.insist(|client| client.get(&format!("/v1/orders?customer={customer}")))
}

/// The id of the owner's order, or one that nobody has.
fn id(scene: &Scene, whose: Whose) -> String {
    let mut id = ulid::Ulid::from_string(&scene.single).unwrap();
    id.0 ^= u128::from(whose == Whose::Nobodys);
    id.to_string()
}

fn read(scene: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    client.insist(|client| client.get(&format!("/v1/orders/{}", id(scene, whose))))
}

fn follow(scene: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    client.insist(|client| client.get(&format!("/v1/orders/{}/events", id(scene, whose))))
}

fn trace(scene: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    client.get(&format!("/v1/operator/orders/{}", id(scene, whose)))
}

fn replay(scene: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    client.send(&format!("POST /v1/operator/orders/{}/replay", id(scene, whose)), &[], b"")
}

fn review(scene: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    let request = format!("POST /v1/review/{}-0", id(scene, whose));
    client.send(&request, &["content-type: application/json"], b"{\"handling\":\"frozen\"}")
}

fn forget(scene: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    client.send(&format!("DELETE /v1/review/kept/{}-0", id(scene, whose)), &[], b"")
}

fn cancel(scene: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    client.insist(|client| commands::cancel(client, &id(scene, whose)))
}

fn bring_back(scene: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    client.insist(|client| commands::bring_back(client, &id(scene, whose), "r-stranger", &[(0, 1)]))
}

fn post_hook(client: &Client, url: &str) -> Answer {
    let body = json!({"url": url, "types": [NEVER]}).to_string();
    client.send(&format!("POST {HOOKS}"), &["content-type: application/json"], body.as_bytes())
}

/// With the owner's URL, or another.
fn make_hook(_: &Scene, client: &Client, _: &Caller, whose: Whose) -> Answer {
    let host = if whose == Whose::Owners { "first" } else { "other" };
    post_hook(client, &format!("https://{host}-shop.example/hooks"))
}

fn ask_hook(scene: &Scene, client: &Client, whose: Whose, method: &str, what: &str, body: &str) -> Answer {
    let id = if whose == Whose::Owners { &scene.hook } else { "whe_00000000000000000000000000" };
    let headers = ["content-type: application/json", "idempotency-key: k-stranger"];
    client.send(&format!("{method} {HOOKS}/{id}{what}"), &headers, body.as_bytes())
}

fn tell(scene: &Scene, client: &Client, caller: &Caller, whose: Whose) -> Answer {
    let body = json!({"events": [event(&scene.single, 0, "delivered", 0)]}).to_string();
    let carrier = if whose == Whose::Owners { "good" } else { "none" };
    let mut signed = headers(caller.secret.unwrap_or(STRANGE_SECRET), "msg_isolation", &body);
    signed.truncate(if caller.secret.is_some() { 4 } else { 1 });
    client.send(&format!("POST /v1/carriers/{carrier}/events"), &lines(&signed), body.as_bytes())
}

/// All of an answer but its date, with what is the caller's own blanked out: of what it has just made, the id, and of an
/// endpoint what it has said, and was given, about it.
fn comparable(answer: &Answer) -> String {
    let head = answer.head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("date:"));
    let text = head.chain([answer.text().as_str()]).collect::<Vec<_>>().join("\n");
    let own = answer.text().lines().next().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let own = ["id", "secret", "created_at", "url"].map(|name| own.as_ref().and_then(|own| own[name].as_str()));
    own.into_iter().flatten().fold(text, |text, own| text.replace(own, "[own]"))
}

fn every_route_tells_strangers_nothing(engine: &Engine) {
    // There is an operator, and it is none of these.
    let mut setup = Setup::new(&[GOOD]).with("operator_key = \"operators-key-2b90\"\n");
    setup.merchants[0] = (OWNER.0.to_owned(), OWNER.1.to_owned());
    setup.merchants.push((FORMER.0.to_owned(), FORMER.1.to_owned()));
    let world = World::on(engine, setup);
    let server = world.serve();
    let owner = world.client_of(OWNER.1);
    let scene = Scene::set(&owner);
    let former = world.client_of(FORMER.1);
    former.order("formers-own", &order()).id();
    let text = world.config().replace(&format!("{:?}\n", FORMER.1), &format!("{:?}\nrevoked = true\n", FORMER.1));
    fs::write(world.folder().join("sluice.toml"), text).unwrap();
    server.hang_up();
    wait_for("the key is revoked", || (former.order("too-late", &order()).status == 401).then_some(()));

    let untouched = owner.get(HOOKS).json();
    for row in &ROWS {
        for (caller, status) in CALLERS.iter().zip(row.gets) {
            let what = format!("{} {} with {}", row.method, row.path, caller.name);
            let client = world.client_of(caller.key);
            let [about_owners, about_nobodys] =
                [Whose::Owners, Whose::Nobodys].map(|whose| (row.ask)(&scene, &client, caller, whose));
            assert_eq!(about_owners.status, status, "{what}: {}", about_owners.text());
            for answer in [&about_owners, &about_nobodys] {
                let said = format!("{}\n{}", answer.head, answer.text());
                let leaked = scene.secrets().into_iter().find(|secret| said.contains(secret));
                assert_eq!(leaked, None, "{what}: {said}");
            }
            // Their numbers and cursors move by themselves.
            if !["/metrics", "/v1/events"].contains(&row.path) {
                assert_eq!(comparable(&about_owners), comparable(&about_nobodys), "{what}");
            }
        }
    }
    // Nobody changed anything either.
    let view = owner.view(&scene.single);
    assert_ne!(view["status"], "delivered", "{view}");
    assert_eq!(owner.get(HOOKS).json(), untouched);
    assert_eq!(owner.insist(|owner| owner.order(SINGLE, &scene.order)).id(), scene.single);
}

fn rows() -> BTreeSet<(String, String)> {
    ROWS.iter().map(|row| (row.method.to_owned(), row.path.to_owned())).collect()
}

#[test]
fn every_described_route_is_in_the_table() {
    let description: Value = serde_json::from_str(include_str!("../../schemas/openapi.json")).unwrap();
    let mut described = BTreeSet::from([("get".to_owned(), "/openapi.json".to_owned())]);
    for (path, operations) in description["paths"].as_object().unwrap() {
        described.extend(operations.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())));
    }
    assert_eq!(rows(), described);
}

fn entry_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Also one that somebody forgot to describe.
#[test]
fn every_route_in_the_sources_is_in_the_table() {
    let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services");
    let mut found = BTreeSet::new();
    let mut folders = vec![services];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = entry_name(&path);
            // The simulated carriers are nobody's API, and tests have servers of their own.
            if path.is_dir() && name != "simulated" && name != "tests" {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let source = fs::read_to_string(&path).unwrap();
                let routes = source.split(".route(").skip(1).filter_map(|rest| rest.split('"').nth(1));
                // Carriers are routed to as well.
                found.extend(routes.filter(|route| route.starts_with('/')).map(str::to_owned));
            }
        }
    }
    assert_eq!(rows().into_iter().map(|(_, path)| path).collect::<BTreeSet<_>>(), found);
}
