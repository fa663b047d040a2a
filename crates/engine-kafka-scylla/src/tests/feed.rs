//! The feed over the real topic: several readers, from anywhere, of what is committed alone.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use sluice_domain::OrderId;
use sluice_pipeline::{
    Cursor, Feed, FeedError, FeedEvent,
    conformance::{Harness, Order, Told, answer, submission},
};
use sluice_schemas::outcome::OutcomeKind;

use super::{cluster::Cluster, world::World};
use crate::{TopicFeed, testing};

/// Reads from `after` until nothing comes, `max` at a time.
pub(super) fn rest(cluster: &Cluster, feed: &TopicFeed, mut after: Cursor, max: usize) -> (Vec<FeedEvent>, Cursor) {
    let mut all = Vec::new();
    loop {
        let page = cluster.runtime.block_on(feed.read(after, max, Duration::ZERO)).unwrap();
        assert!(page.events.len() <= max);
        after = page.next;
        if page.events.is_empty() {
            return (all, after);
        }
        all.extend(page.events);
    }
}

/// Ids in order, for each order; its numbers have no gap.
fn by_order<'a>(events: impl Iterator<Item = (OrderId, &'a str, u64)>) -> BTreeMap<OrderId, Vec<String>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (order, id, sequence) in events {
        let ids = all.entry(order).or_default();
        assert_eq!(sequence, ids.len() as u64, "{order}");
        ids.push(id.to_owned());
    }
    all
}

fn told(events: &[Told]) -> BTreeMap<OrderId, Vec<String>> {
    by_order(events.iter().map(|e| (e.order, e.id.as_str(), e.sequence)))
}

fn read(events: &[FeedEvent]) -> BTreeMap<OrderId, Vec<String>> {
    by_order(events.iter().map(|e| (e.order, e.id.as_str(), e.sequence)))
}

#[test]
fn readers_follow_what_is_committed_from_anywhere() {
    let Some(brokers) = testing::shared() else { return };
    let cluster = Rc::new(RefCell::new(Cluster::new("feed", &brokers)));
    let mut world = World::new(&cluster, 0);
    let orders: Vec<Order> = (0..20).map(|n| Order::new(format!("feed-{n}"), &["c0"])).collect();
    let feed = cluster.borrow().feed();
    let oldest = Cursor(vec![0, 0]);
    assert_eq!(rest(&cluster.borrow(), &feed, oldest.clone(), 5).0, []);
    world.submit(submission(&orders));
    world.settle_down();
    // The other form of values; and a transaction that comes to nothing.
    world.restart();
    world.abort_next();
    world.report(orders.iter().map(|order| answer(order.shipment(0, 0), OutcomeKind::Accepted)).collect());
    world.settle_down();

    let expected = told(cluster.borrow_mut().events());
    assert_eq!(expected.values().map(Vec::len).sum::<usize>(), 40);
    let (all, end) = rest(&cluster.borrow(), &feed, oldest.clone(), 7);
    assert_eq!(read(&all), expected);
    let (_, newest) = cluster.borrow().runtime.block_on(feed.bounds()).unwrap();
    assert_eq!(end, newest, "behind what ends the transactions, too");
    assert!(all.iter().all(|event| event.merchant == "m-1" && event.data.starts_with(b"{\"orderId\":")));
    let other = cluster.borrow().feed();
    assert_eq!(rest(&cluster.borrow(), &other, oldest.clone(), 1_000).0.len(), 40, "another reader, at the same time");
    for (nth, event) in all.iter().enumerate() {
        if nth % 9 == 0 {
            let (again, _) = rest(&cluster.borrow(), &feed, event.next.clone(), 100);
            assert_eq!(again.len(), all.len() - nth - 1, "from a cursor in the middle");
            assert!(again.iter().all(|event| all[nth + 1..].iter().any(|known| known.id == event.id)));
        }
    }
    // A cursor from before the topic was widened.
    assert_eq!(rest(&cluster.borrow(), &feed, Cursor(vec![0]), 100).0.len(), 40);

    // Who waits is told what comes; `end` has not passed it.
    let late = Order::new("feed-late", &["c0"]);
    let runtime = cluster.borrow().runtime.handle().clone();
    let (waits, from) = (feed.clone(), end.clone());
    let waiting = runtime.spawn(async move { waits.read(from, 10, Duration::from_secs(30)).await });
    world.submit(submission(std::slice::from_ref(&late)));
    world.settle_down();
    let page = runtime.block_on(waiting).unwrap().unwrap();
    assert_eq!(page.events.iter().map(|e| (e.order, e.sequence)).collect::<Vec<_>>(), [(late.id(), 0)]);
    let (_, newest) = runtime.block_on(feed.bounds()).unwrap();
    assert_eq!(rest(&cluster.borrow(), &feed, newest.clone(), 10).0, []);

    let refused = |cursor: Cursor| runtime.block_on(feed.read(cursor, 10, Duration::ZERO)).unwrap_err();
    assert!(matches!(refused(Cursor(vec![0; 3])), FeedError::Unknown(_)));
    assert!(matches!(refused(Cursor(vec![0, 1 << 40])), FeedError::Unknown(_)));
    assert!(matches!(refused(Cursor(vec![u64::MAX, 0])), FeedError::Unknown(_)));
    let left = cluster.borrow_mut().expire_events();
    let FeedError::Expired { oldest } = refused(Cursor(vec![0, 0])) else { panic!("what is gone is not said to be") };
    assert_eq!(oldest, Cursor(left.clone()));
    assert_eq!(runtime.block_on(feed.bounds()).unwrap(), (Cursor(left), newest));
    rest(&cluster.borrow(), &feed, oldest, 10);
    world.outbox(0);
    world.settled(0, u64::MAX);
    drop(world);
    cluster.borrow_mut().stop();
}
