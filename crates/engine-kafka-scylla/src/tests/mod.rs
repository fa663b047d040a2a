//! The whole engine against the suite that every engine must pass, over real brokers and a real store.

mod cluster;
mod tail;
mod world;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Instant};

use sluice_pipeline::conformance::{CASES, Harness, Order, submission};

use self::{cluster::Cluster, world::World};
use crate::testing;

/// All cases on one deployment, one after another: each has keys of its own.
#[test]
fn conformance() {
    let Some(brokers) = testing::shared() else { return };
    let cluster = Rc::new(RefCell::new(Cluster::new("conformance", &brokers)));
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
