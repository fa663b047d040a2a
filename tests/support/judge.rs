//! Judges a run from outside: the client's own acknowledgements, the public API, and what the carriers wrote down.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Mutex,
    time::Instant,
};

use serde_json::Value;
use sluice::load::{AckLog, Class, OrderView, classify, format_id};
use sluice_carrier::simulated::Ledger;
use ulid::Ulid;

use super::{PATIENCE, client::Client, setup::Setup, world::World};

/// Connections that read back.
const READERS: usize = 4;

/// What a judge needs of the place where a run happened.
pub trait Court: Sync {
    /// Its merchants and carriers.
    fn setup(&self) -> &Setup;
    /// Where orders are read.
    fn address(&self) -> SocketAddr;
    /// What the carriers wrote down.
    fn ledger(&self) -> Ledger;
    /// Whether an acknowledged order may take a while to become readable.
    fn lags(&self) -> bool;
}

impl Court for World {
    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn address(&self) -> SocketAddr {
        World::address(self)
    }

    fn ledger(&self) -> Ledger {
        World::ledger(self)
    }

    fn lags(&self) -> bool {
        false
    }
}

/// An order that somebody was told is durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Acked {
    pub id: String,
    /// API key of its merchant.
    pub key: String,
}

/// The acknowledgements of a load run by the merchants of a world.
pub fn acknowledged(world: &impl Court, log: &AckLog) -> Vec<Acked> {
    let keys: Vec<&String> = world.setup().merchants.iter().map(|(_, key)| key).collect();
    let acked = log.iter().map(|ack| Acked {
        id: String::from_utf8(format_id(ack.id()).to_vec()).unwrap(),
        key: keys[ack.merchant as usize].clone(),
    });
    acked.collect()
}

/// How many orders ended in which class.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Classes {
    pub finished: usize,
    pub dead_lettered: usize,
    /// In flight for good: a carrier that can't be asked twice may have taken a parcel.
    pub parked: usize,
    /// Every parcel forgotten by its carrier.
    pub cancelled: usize,
}

/// Waits until every acknowledged order is decided or parked, and counts the classes. Then asserts, by the carriers'
/// ledger, that no parcel was accepted twice, and that order and carriers say the same of every parcel.
pub fn judge(world: &impl Court, acked: &[Acked]) -> Classes {
    let ids: HashSet<&str> = acked.iter().map(|ack| ack.id.as_str()).collect();
    assert_eq!(ids.len(), acked.len(), "two acknowledgements have the same id");
    let views = settled_views(world, acked);
    assert_eq!(views.len(), acked.len());
    let ledger = world.ledger();
    let twice: Vec<_> = ledger.duplicates().collect();
    assert!(twice.is_empty(), "parcels with two effects: {twice:?}");
    let mut classes = Classes::default();
    for (id, view) in &views {
        assert_agrees(world, &ledger, id, view);
        match class(view) {
            Class::Finished => classes.finished += 1,
            Class::DeadLettered => classes.dead_lettered += 1,
            Class::InFlight => classes.parked += 1,
            Class::Cancelled => classes.cancelled += 1,
        }
    }
    classes
}

/// Orders that a carrier heard of, and that nobody was told are durable.
pub fn never_acknowledged(world: &impl Court, acked: &[Acked]) -> usize {
    let ids: HashSet<&str> = acked.iter().map(|ack| ack.id.as_str()).collect();
    world.ledger().orders().filter(|order| !ids.contains(order.to_string().as_str())).count()
}

fn class(view: &Value) -> Class {
    let text = view.to_string();
    classify(&serde_json::from_str::<OrderView<'_>>(&text).unwrap())
}

/// Whether every parcel is decided, or waits for an answer that nobody can get.
fn is_settled(view: &Value) -> bool {
    let decided = |parcel: &Value| is_decided(parcel) || is_parked(view, parcel);
    class(view) != Class::InFlight && parcels(view).iter().all(|parcel| !awaits_void(view, parcel))
        || parcels(view).iter().all(|parcel| decided(parcel) && !awaits_void(view, parcel))
}

/// Whether the time line says this of a parcel.
fn has(view: &Value, parcel: &Value, milestone: &str) -> bool {
    times(view, parcel, milestone) > 0
}

fn times(view: &Value, parcel: &Value, milestone: &str) -> usize {
    let timeline = view["timeline"].as_array().unwrap().iter();
    timeline.filter(|entry| entry["milestone"] == milestone && entry["parcel"] == parcel["id"]).count()
}

/// Whether its carrier was asked to forget it and has not answered.
fn awaits_void(view: &Value, parcel: &Value) -> bool {
    let answers = ["cancelled", "void_refused", "void_unknown"];
    has(view, parcel, "void_requested") && !answers.iter().any(|answer| has(view, parcel, answer))
}

fn parcels(view: &Value) -> &[Value] {
    view["parcels"].as_array().unwrap()
}

fn is_decided(parcel: &Value) -> bool {
    ["carrier_accepted", "cancelled", "dead_lettered"].iter().any(|status| parcel["status"] == *status)
}

/// Whether it is on hold for another reason than that a person had to look at it, which the witness has done.
fn is_parked(view: &Value, parcel: &Value) -> bool {
    times(view, parcel, "on_hold") > times(view, parcel, "reviewed")
}

/// Reads all orders until all are settled; gives up once nothing has changed for too long.
fn settled_views(world: &impl Court, acked: &[Acked]) -> HashMap<String, Value> {
    let mut views = HashMap::new();
    let mut left: Vec<Acked> = acked.to_vec();
    let mut progress = Instant::now();
    while !left.is_empty() {
        let (found, open) = read_once(world, &left);
        if !found.is_empty() {
            progress = Instant::now();
        }
        views.extend(found);
        left = open;
        let example =
            left.first().map(|ack| Client::new(world.address(), &ack.key).get(&format!("/v1/orders/{}", ack.id)));
        assert!(progress.elapsed() < PATIENCE, "{} orders never settle, such as {example:?}", left.len());
    }
    views
}

type Views = Vec<(String, Value)>;

/// Reads all of these orders once: those that are settled, and those to be read again.
fn read_once(world: &impl Court, orders: &[Acked]) -> (Views, Vec<Acked>) {
    let (found, open) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for part in orders.chunks(orders.len().div_ceil(READERS)) {
            let (found, open) = (&found, &open);
            scope.spawn(move || {
                let (mut settled, unsettled) = read_part(world, part);
                found.lock().unwrap().append(&mut settled);
                open.lock().unwrap().extend(unsettled);
            });
        }
    });
    (found.into_inner().unwrap(), open.into_inner().unwrap())
}

fn read_part(world: &impl Court, orders: &[Acked]) -> (Views, Vec<Acked>) {
    let (mut settled, mut unsettled) = (Vec::new(), Vec::new());
    let mut connection = Client::new(world.address(), "").connect().unwrap();
    for ack in orders {
        let client = Client::new(world.address(), &ack.key);
        let head = client.head(&format!("GET /v1/orders/{}", ack.id), &[], 0);
        let answer = connection.exchange(&head, b"").unwrap();
        if world.lags() && matches!(answer.status, 404 | 503) {
            unsettled.push(ack.clone());
            continue;
        }
        assert_eq!(answer.status, 200, "acknowledged order {}: {}", ack.id, answer.text());
        let view = answer.json();
        assert_eq!(view["id"], ack.id.as_str());
        if is_settled(&view) {
            settled.push((ack.id.clone(), view));
        } else {
            unsettled.push(ack.clone());
        }
    }
    (settled, unsettled)
}

/// Asserts that the ledger bears out what the order says of each of its parcels.
fn assert_agrees(world: &impl Court, ledger: &Ledger, id: &str, view: &Value) {
    let effects: Vec<_> = ledger.order(Ulid::from_string(id).unwrap()).collect();
    for parcel in parcels(view) {
        let number: u16 = parcel["id"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        let of_parcel = || effects.iter().filter(|effect| effect.parcel == number);
        let accepted: Vec<_> = of_parcel().filter(|effect| effect.accepted > 0).collect();
        let say = || format!("{view}\n{:?}", of_parcel().collect::<Vec<_>>());
        let forgotten = of_parcel().any(|effect| effect.voided > 0);
        if parcel["status"] == "cancelled" {
            assert!(forgotten && has(view, parcel, "void_requested"), "cancelled, and its carrier goes on\n{}", say());
        } else if forgotten {
            assert!(has(view, parcel, "void_unknown"), "forgotten by its carrier, and not cancelled\n{}", say());
        }
        if ["carrier_accepted", "cancelled"].iter().any(|status| parcel["status"] == *status) {
            assert_eq!(accepted.len(), 1, "taken by exactly one carrier\n{}", say());
            assert_eq!((&parcel["carrier"], accepted[0].accepted), (&accepted[0].carrier.into(), 1), "{}", say());
            let tracking = accepted[0].tracking_number();
            assert_eq!(parcel["tracking_number"].as_str(), tracking.as_deref(), "{}", say());
        } else if parcel["status"] == "dead_lettered" {
            assert!(accepted.is_empty(), "dead-lettered, and yet taken\n{}", say());
        } else {
            let carrier = world.setup().carriers.iter().find(|carrier| parcel["carrier"] == carrier.id).unwrap();
            assert!(!carrier.idempotent && is_parked(view, parcel), "{}", say());
            assert!(accepted.iter().all(|effect| effect.carrier == carrier.id), "{}", say());
        }
    }
}
