//! What a feed does while something else happens: a page that others write beside, and one that nobody waits for.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use sluice_pipeline::conformance::{Harness, Order, answer, submission};
use sluice_schemas::outcome::OutcomeKind;

use super::*;
use crate::tests::world::{World, tiny};

/// An order of two parcels, and the answer to the first.
fn half_answered(world: &mut World) -> Order {
    let order = Order::new("k", &["c0", "c1"]);
    world.submit(submission(std::slice::from_ref(&order)));
    world.settle_down();
    world.report(vec![answer(order.shipment(0, 0), OutcomeKind::Accepted)]);
    world.settle_down();
    order
}

#[test]
fn what_is_decided_while_a_page_is_read_is_told() {
    let mut world = World::mem(tiny());
    let shared = Arc::clone(&world.engine().feed().0.shared);
    let order = half_answered(&mut world);
    let mut reader = Reader::new(&shared, 100);
    let (mut at, mut last) = (0, 0);
    let mut take_all = |reader: &mut Reader<'_>| {
        while let Some(group) = shared.journal.group_from(at, last).unwrap() {
            assert_eq!(reader.take(&group, 0).unwrap(), None);
            (at, last) = (group.end(), group.sequence());
        }
    };
    take_all(&mut reader);
    world.report(vec![answer(order.shipment(1, 0), OutcomeKind::Accepted)]);
    world.settle_down();
    take_all(&mut reader);
    let told: Vec<_> = reader.into_events().iter().map(|event| event.sequence).collect();
    assert_eq!(told, [0, 1, 2]);
}

#[test]
fn a_page_that_nobody_waits_for_keeps_its_turn() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut world = World::mem(tiny());
    let feed = world.engine().feed().0;
    half_answered(&mut world);
    let shared = Arc::clone(&feed.shared);
    runtime.block_on(async {
        // The row can't be read as long as an owner writes.
        let owners: Vec<_> = shared.shards.iter().map(|shard| shard.young.write()).collect();
        {
            let page = pin!(Arc::clone(&feed).page_in_turn(Cursor(vec![0, 0]), 10));
            assert!(matches!(page.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        }
        assert_eq!(feed.turns.available_permits(), AT_A_TIME - 1, "it is read all the same");
        drop(owners);
        while feed.turns.available_permits() < AT_A_TIME {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}
