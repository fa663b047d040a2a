//! The whole engine against the suite that every engine must pass, over real brokers and a real store.

mod cluster;
mod feed;
mod tail;
mod world;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Instant,
};

use sluice_pipeline::conformance::{CASES, Harness, Order, submission};
use sluice_schemas::frame;

use self::{
    cluster::{Cluster, until},
    world::World,
};
use crate::testing;

/// All cases on one deployment, one after another: each has keys of its own.
#[test]
fn conformance() {
    let Some(brokers) = testing::shared() else { return };
    let cluster = Rc::new(RefCell::new(Cluster::new("conformance", &brokers)));
    assert!(World::new(&cluster, 0).distributed(), "or half of the cases would do nothing");
    let mut number = 0;
    let only = std::env::var("SLUICE_TEST_CASE").unwrap_or_default();
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(&only)) {
        let started = Instant::now();
        case(&mut || {
            number += 1;
            Box::new(World::new(&cluster, number))
        });
        println!("{:6.2} s  {name}", started.elapsed().as_secs_f64());
    }
    every_decision_is_told_once(&mut cluster.borrow_mut());
    let mut cluster = cluster.borrow_mut();
    assert!(!only.is_empty() || cluster.formats.len() == 2, "{:?}", cluster.formats);
    cluster.stop();
}

#[test]
fn a_commit_without_an_answer_is_looked_up() {
    let Some(brokers) = testing::shared() else { return };
    let cluster = Rc::new(RefCell::new(Cluster::new("unanswered", &brokers)));
    for (number, committed) in (0..).zip([true, false, true, false, false, true]) {
        let mut world = World::new(&cluster, number);
        let [before, unheard, after] =
            ["before", "unheard", "after"].map(|key| Order::new(format!("{number}-{key}"), &["c0"]));
        world.submit(submission(std::slice::from_ref(&before)));
        world.settle_down();
        world.submit(submission(std::slice::from_ref(&unheard)));
        cluster.borrow_mut().hear_no_answer(committed);
        // Again: whether it is new depends on what became of the first. Or not again: then it is still the first.
        let next = [after.clone(), unheard.clone(), before.clone()];
        world.submit(submission(if number % 2 == 0 { &next } else { &next[..1] }));
        world.settle_down();
        let orders = [before, unheard, after];
        for order in &orders {
            assert!(world.read(order.id()).is_some(), "{committed}: an order is gone");
        }
        let offered: Vec<_> = world.outbox(0).iter().map(|sent| sent.shipment).collect();
        assert_eq!(offered.len(), 3, "{committed}: {offered:?}");
        assert!(orders.iter().all(|order| offered.contains(&order.shipment(0, 0))), "{committed}: {offered:?}");
        world.settled(0, u64::MAX);
    }
    every_decision_is_told_once(&mut cluster.borrow_mut());
    cluster.borrow_mut().stop();
}

/// A retry was acknowledged, and it took an hour until an owner got to it: nobody decided meanwhile.
#[test]
fn what_waits_for_longer_than_the_window_is_not_decided_twice() {
    const WINDOW_MS: u64 = 600_000;
    let Some(brokers) = testing::shared() else { return };
    let cluster = Rc::new(RefCell::new(Cluster::with("waits", &brokers, |config| config.window_ms = WINDOW_MS)));
    let mut world = World::new(&cluster, 0);
    let orders: Vec<_> = (0..3).map(|n| Order::new(format!("waits-{n}"), &["c0"])).collect();
    type Outage = fn(&mut Cluster);
    let outages: [(&str, Outage); 3] = [
        ("the store is away, and what the owner remembers goes to disk", |cluster| cluster.expire()),
        ("all owners are away", |cluster| cluster.restart()),
        ("the group is forgotten", |cluster| cluster.forget_owners()),
    ];
    for (order, (name, outage)) in orders.iter().zip(outages) {
        println!("{name}");
        world.submit(submission(std::slice::from_ref(order)));
        world.settle_down();
        world.spill();
        world.submit(submission(std::slice::from_ref(order)));
        cluster.borrow_mut().later(6 * WINDOW_MS);
        outage(&mut cluster.borrow_mut());
        world.settle_down();
        let offered = world.outbox(0).iter().filter(|sent| sent.shipment == order.shipment(0, 0)).count();
        assert_eq!(offered, 1, "{name}");
        world.settled(0, u64::MAX);
    }
    drop(world);
    every_decision_is_told_once(&mut cluster.borrow_mut());
    cluster.borrow_mut().stop();
}

/// An owner whose memory is full of what the store doesn't have takes no more: what waits does so with the brokers.
#[test]
fn a_backlog_is_not_kept_in_memory() {
    let Some(brokers) = testing::shared() else { return };
    let cluster = Rc::new(RefCell::new(Cluster::with("backlog", &brokers, |config| config.overlay_bytes = 16 << 10)));
    let mut world = World::new(&cluster, 0);
    let mut orders = Vec::new();
    let mut place = |world: &mut World| {
        orders.push(Order::new(format!("backlog-{}", orders.len()), &["c0"]));
        world.submit(submission(&orders[orders.len() - 1..]));
    };
    for outage in 0..2 {
        world.lag(true);
        until("the owner waits", || {
            (0..10).for_each(|_| place(&mut world));
            let mut cluster = cluster.borrow_mut();
            let driver = &mut cluster.live().drivers[0];
            driver.round();
            driver.waits()
        });
        (0..300).for_each(|_| place(&mut world));
        let mut held = 0;
        for _ in 0..20 {
            let mut cluster = cluster.borrow_mut();
            let driver = &mut cluster.live().drivers[0];
            driver.round();
            held = held.max(driver.held());
        }
        assert!(held < 50, "outage {outage}: {held} records in memory");
        if outage > 0 {
            // What is paused changes hands, and comes back.
            cluster.borrow_mut().another_worker(true);
            cluster.borrow_mut().another_worker(false);
        }
        world.lag(false);
        cluster.borrow_mut().decide_on();
    }
    for order in orders.iter().step_by(50) {
        assert!(world.read(order.id()).is_some(), "an order is gone");
    }
    let offered: BTreeSet<_> = world.outbox(0).iter().map(|sent| sent.shipment).collect();
    assert_eq!(offered.len(), orders.len());
    world.settled(0, u64::MAX);
    drop(world);
    every_decision_is_told_once(&mut cluster.borrow_mut());
    cluster.borrow_mut().stop();
}

#[test]
fn what_cannot_be_read_is_a_dead_letter_with_its_bytes() {
    let Some(brokers) = testing::shared() else { return };
    let cluster = Rc::new(RefCell::new(Cluster::new("letters", &brokers)));
    let mut world = World::new(&cluster, 0);
    // A record that is no frame, and a frame whose order ends before its id does.
    let mut cut = Vec::new();
    frame::start(&mut cut, 1);
    frame::put_placed(&mut cut, &[1, 2, 3]);
    let poisons = [&b"no frame"[..], &cut];
    poisons.iter().for_each(|poison| cluster.borrow().put(0, poison));
    let order = Order::new("after".to_owned(), &["c0"]);
    world.submit(submission(std::slice::from_ref(&order)));
    world.settle_down();
    assert!(world.read(order.id()).is_some(), "the order behind them is decided");
    let letters = cluster.borrow().dead_letters().new_records();
    assert_eq!(letters.iter().map(|letter| &letter.payload[..]).collect::<Vec<_>>(), poisons);
    for letter in letters {
        let header = |name: &str| letter.headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str());
        assert_eq!((header("order_id"), header("rules_version")), (Some(""), Some("0")));
        assert!(header("reason").is_some_and(|reason| !reason.is_empty()), "{:?}", letter.headers);
    }
    world.outbox(0);
    world.settled(0, u64::MAX);
    drop(world);
    cluster.borrow_mut().stop();
}

/// Whatever was aborted, killed and repeated above: a consumer of committed events gets each id once.
fn every_decision_is_told_once(cluster: &mut Cluster) {
    let (mut ids, mut accepted) = (BTreeMap::new(), BTreeMap::new());
    for told in cluster.events() {
        *ids.entry(told.id.clone()).or_insert(0) += 1;
        if told.kind.contains("accepted") {
            *accepted.entry(told.order).or_insert(0) += 1;
        }
    }
    let mut twice: Vec<_> = ids.iter().filter(|(_, times)| **times != 1).map(|(id, _)| id.clone()).collect();
    twice.extend(accepted.iter().filter(|(_, times)| **times != 1).map(|(id, _)| id.to_string()));
    assert!(twice.is_empty(), "told twice: {twice:?}");
    assert!(ids.len() >= accepted.len());
    println!("{} events about {} orders", ids.len(), accepted.len());
}
