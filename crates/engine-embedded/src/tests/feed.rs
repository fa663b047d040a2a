//! The event feed: from memory and from the device, over restarts and checkpoints, and what no cursor may name.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sluice_pipeline::{
    Cursor, Feed, FeedError, FeedEvent,
    conformance::{Harness, Order, answer, submission},
};
use sluice_schemas::{
    delta::{Delta, row_deltas},
    outcome::OutcomeKind,
};

use super::world::{World, tiny};
use crate::{EngineConfig, EngineFeed, journal::segment_name};

fn place(world: &mut World, from: usize, count: usize) -> Vec<Order> {
    let orders: Vec<Order> = (from..from + count).map(|i| Order::new(format!("k{i}"), &["c0", "c1"])).collect();
    world.submit(submission(&orders));
    world.settle_down();
    orders
}

/// Everything behind `after`, `max` at a time, each page asked for twice.
fn rest(feed: &EngineFeed, mut after: Cursor, max: usize) -> Vec<FeedEvent> {
    let mut all = Vec::new();
    loop {
        let page = feed.0.page(&after, max).unwrap();
        assert_eq!(feed.0.page(&after, max).unwrap(), page);
        assert!(page.events.len() <= max);
        if page.events.is_empty() && page.next == after {
            return all;
        }
        all.extend(page.events);
        after = page.next;
    }
}

fn oldest() -> Cursor {
    Cursor(vec![0, 0])
}

#[test]
fn one_that_keeps_up_and_one_that_lags_read_the_same() {
    let mut world = World::mem(tiny());
    let feed = world.engine().feed();
    let (mut kept_up, mut after, mut orders) = (Vec::new(), oldest(), Vec::new());
    for round in 0..100 {
        let new = place(&mut world, round * 20, 20);
        let kinds = [OutcomeKind::Accepted, OutcomeKind::Rejected, OutcomeKind::Unknown];
        let answers = new.iter().zip(kinds.into_iter().cycle()).flat_map(|(order, kind)| {
            [answer(order.shipment(0, 0), OutcomeKind::Accepted), answer(order.shipment(1, 0), kind)]
        });
        world.report(answers.collect());
        world.settle_down();
        if round % 25 == 10 {
            world.checkpoint();
        }
        orders.extend(new);
        let new = rest(&feed, after.clone(), 50);
        after = new.last().unwrap().next.clone();
        kept_up.extend(new);
    }
    let log = world.engine().journal().durable();
    assert!(log > 3 * world.config.journal.segment_bytes && log > 10 * world.config.journal.tail_bytes as u64);
    assert_eq!(kept_up.len(), 3 * orders.len(), "an acceptance and two answers each");
    for max in [1, 7, 1_000] {
        assert!(rest(&feed, oldest(), max) == kept_up, "{max} at a time");
    }
    for order in &orders {
        let mine: Vec<_> = kept_up.iter().filter(|event| event.order == order.id()).collect();
        assert_eq!(mine.iter().map(|event| event.sequence).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(mine.iter().all(|event| event.merchant == "m-1"));
    }
    // From anywhere, after a restart with and without a fresh checkpoint.
    for fresh in [false, true] {
        if fresh {
            world.checkpoint();
        }
        world.restart();
        let feed = world.engine().feed();
        for at in (0..kept_up.len()).step_by(997) {
            assert!(rest(&feed, kept_up[at].next.clone(), 400) == kept_up[at + 1..], "from {at}");
        }
    }
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    let mut world = World::mem(tiny());
    let feed = world.engine().feed();
    let order = Order::new("k", &["c0"]);
    world.submit(submission(std::slice::from_ref(&order)));
    world.step_owners();
    assert_eq!(rest(&feed, oldest(), 10), []);
    let (group, completions) = world.write_group(false).unwrap();
    assert_eq!(rest(&feed, oldest(), 10), [], "synced, and nobody was told yet");
    world.engine().journal().complete(group, completions);
    assert_eq!(rest(&feed, oldest(), 10).len(), 1);
}

#[test]
fn what_is_told_is_what_was_decided() {
    let mut world = World::mem(EngineConfig { partitions: 1, ..tiny() });
    let order = Order::new("k", &["c1", "nobody", "c0"]);
    let other = Order::new("bad", &["bad"]);
    world.submit(submission(&[order.clone(), other.clone()]));
    world.settle_down();
    world.report(vec![
        answer(order.shipment(0, 0), OutcomeKind::Accepted),
        answer(order.shipment(2, 0), OutcomeKind::Rejected),
    ]);
    world.settle_down();
    let events = rest(&world.engine().feed(), oldest(), 10);
    let data: Vec<serde_json::Value> = events.iter().map(|e| serde_json::from_slice(&e.data).unwrap()).collect();
    let parcels = data[0]["accepted"]["parcels"].as_array().unwrap();
    let carriers: Vec<_> = parcels.iter().map(|parcel| parcel["carrierId"].as_str()).collect();
    assert_eq!(carriers, [Some("tortoise"), None, Some("swift")], "by number, whoever carries them");
    assert_eq!(parcels[1]["deadLetterReason"], "nobody takes it");
    assert_eq!(data[1]["accepted"]["deadLetterReason"], "a bad order");
    assert_eq!(
        (&data[2]["settled"]["carrierId"], &data[2]["settled"]["outcome"]),
        (&"tortoise".into(), &"OUTCOME_ACCEPTED".into())
    );
    let settled = &data[3]["settled"];
    assert_eq!((&settled["carrierId"], &settled["parcelNumber"]), (&"swift".into(), &2.into()));
    assert_eq!(
        (&settled["nextAttempt"]["carrierId"], &settled["nextAttempt"]["attempt"]),
        (&"tortoise".into(), &1.into())
    );
    let told: Vec<_> = events.iter().map(|e| (e.order, e.sequence, e.kind)).collect();
    let (accepted, settled) = ("com.sluice.order.accepted.v1", "com.sluice.parcel.settled.v1");
    let (id, other) = (order.id(), other.id());
    assert_eq!(told, [(id, 0, accepted), (other, 0, accepted), (id, 1, settled), (id, 2, settled)]);
}

#[test]
fn a_cursor_that_leads_nowhere_is_refused() {
    let mut world = World::mem(tiny());
    for round in 0..40 {
        place(&mut world, round * 20, 20);
    }
    let feed = world.engine().feed();
    let durable = world.engine().journal().durable();
    assert_eq!(feed.0.page(&Cursor(vec![durable, 0]), 10).unwrap().next, Cursor(vec![durable, 0]), "the end");
    for cursor in [vec![], vec![0], vec![0, 0, 0], vec![1, 0], vec![durable + 4096, 0], vec![u64::MAX - 4095, 0]] {
        let refused = feed.0.page(&Cursor(cursor.clone()), 10);
        assert!(matches!(refused, Err(FeedError::Unknown(_))), "{cursor:?}: {refused:?}");
    }
    let beyond = feed.0.page(&Cursor(vec![0, u64::MAX]), 10).unwrap();
    assert!(beyond.next.0[0] > 0, "an offset behind the group's end is its end");
}

/// Where the groups start that hold these events.
fn groups(events: &[FeedEvent]) -> Vec<u64> {
    let mut starts: Vec<u64> = events.iter().map(|event| event.next.0[0]).collect();
    starts.dedup();
    starts
}

#[test]
fn a_block_within_a_group_is_refused() {
    let mut world = World::mem(tiny());
    for round in 0..80 {
        place(&mut world, round * 40, 40);
    }
    let feed = world.engine().feed();
    let starts = groups(&rest(&feed, oldest(), 1_000));
    let (segment, tail) = (world.config.journal.segment_bytes, world.config.journal.tail_bytes as u64);
    let older = starts.windows(2).filter(|pair| pair[1] + 2 * tail < world.engine().journal().durable());
    let mut refused = 0;
    // With another group behind them, so that they aren't the end of a segment.
    for pair in older.filter(|pair| pair[0] / segment == pair[1] / segment) {
        for block in (pair[0] + 4096..pair[1]).step_by(4096) {
            let page = feed.0.page(&Cursor(vec![block, 0]), 10);
            assert!(matches!(page, Err(FeedError::Unknown(_))), "{block}: {page:?}");
            refused += 1;
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn the_end_of_a_segment_is_known_after_sizes_have_changed() {
    let mut world = World::mem(tiny());
    for round in 0..150 {
        place(&mut world, round, 1);
    }
    let events = rest(&world.engine().feed(), oldest(), 1_000);
    world.config.journal.group_bytes = 4 << 10;
    world.config.journal.frame_bytes = 8 << 10;
    world.restart();
    let (feed, segment) = (world.engine().feed(), world.config.journal.segment_bytes);
    let starts = groups(&events);
    let last = starts.windows(2).position(|pair| pair[0] / segment < pair[1] / segment).unwrap();
    let end = starts[last] + 4096;
    assert!(segment - end > world.config.journal.group_limit(), "there would be room today");
    assert!(rest(&feed, Cursor(vec![end, 0]), 1_000) == events[last + 1..]);
    assert!(rest(&feed, oldest(), 1_000) == events);
}

#[test]
fn damage_stops_a_reader_and_nothing_is_passed_over() {
    let mut world = World::mem(tiny());
    for round in 0..150 {
        place(&mut world, round, 1);
    }
    let events = rest(&world.engine().feed(), oldest(), 1_000);
    let starts = groups(&events);
    assert_eq!(starts.len(), events.len());
    let segment = world.config.journal.segment_bytes;
    let last = starts.windows(2).position(|pair| pair[0] / segment < pair[1] / segment).unwrap();
    // A byte of the head's magic, and one of the payload; in the middle of a segment, and at its end.
    for (group, byte) in [(20, 1), (20, 100), (last, 1), (last, 100)] {
        let at = (starts[group] + byte) as usize;
        world.disk().change(&segment_name(0), |bytes| bytes[at] ^= 0x40);
        // Another feed has read nothing yet.
        let feed = world.engine().feed();
        let (mut after, mut told) = (oldest(), Vec::new());
        let error = loop {
            match feed.0.page(&after, 7) {
                Ok(page) => {
                    assert!(page.next.0[0] <= starts[group], "passed over");
                    (after, told) = (page.next, [told, page.events].concat());
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(error, FeedError::Unavailable(_)), "{error}");
        assert_eq!(after, Cursor(vec![starts[group], 0]));
        assert!(told == events[..group], "what comes before is told");
        let behind = rest(&feed, Cursor(vec![starts[group + 1], 0]), 7);
        assert!(behind == events[group + 1..], "and what comes behind, if asked for");
        world.disk().change(&segment_name(0), |bytes| bytes[at] ^= 0x40);
    }
}

#[test]
fn an_order_that_cannot_be_read_keeps_nobody_from_others() {
    let mut world = World::mem(tiny());
    let orders = place(&mut world, 0, 3);
    for round in 1..60 {
        place(&mut world, round * 20, 20);
    }
    let after = Cursor(vec![world.engine().journal().durable(), 0]);
    world.report(orders.iter().map(|order| answer(order.shipment(0, 0), OutcomeKind::Accepted)).collect());
    world.settle_down();
    let feed = world.engine().feed();
    assert_eq!(rest(&feed, after.clone(), 10).len(), 3);
    let row = world.read(orders[1].id()).unwrap().row;
    let position = row_deltas(0, &row).find_map(|delta| match delta {
        Ok((_, Delta::Accepted { position })) => Some(position as usize),
        _ => None,
    });
    let position = position.unwrap();
    world.disk().change(&segment_name(0), |bytes| bytes[position..position + 20].fill(0xFF));
    let told: BTreeSet<_> = rest(&feed, after, 10).iter().map(|event| event.order).collect();
    assert_eq!(told, BTreeSet::from([orders[0].id(), orders[2].id()]));
}

#[test]
fn pages_without_events_end_and_move_on() {
    let mut world = World::mem(tiny());
    let id = world.config.carriers[0].clone();
    for n in 0..200 {
        let mut frame = crate::journal::format::FrameWriter::default();
        frame.start(0);
        frame.sending(&id, n);
        world.engine().journal().append(frame.finish().unwrap(), 0).unwrap();
        world.flush();
    }
    let feed = world.engine().feed();
    let (mut after, mut pages) = (oldest(), 0);
    while after.0[0] < world.engine().journal().durable() {
        let page = feed.0.page(&after, 10).unwrap();
        assert!(page.events.is_empty() && page.next.0[0] > after.0[0]);
        (after, pages) = (page.next, pages + 1);
    }
    assert!((2..10).contains(&pages), "{pages}");
}

#[test]
fn who_waits_is_woken_by_what_comes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut world = World::mem(tiny());
    let feed = world.engine().feed();
    let (_, newest) = runtime.block_on(feed.bounds()).unwrap();
    assert_eq!(runtime.block_on(feed.read(newest.clone(), 10, Duration::ZERO)).unwrap().events, []);
    let readers: Vec<_> =
        (0..3).map(|_| Arc::clone(&feed.0).follow(newest.clone(), 10, Duration::from_secs(60))).collect();
    let readers: Vec<_> = readers.into_iter().map(|reader| runtime.spawn(reader)).collect();
    // One has looked and waits.
    runtime.block_on(async {
        while !world.engine().journal().is_waited_for() {
            tokio::task::yield_now().await;
        }
    });
    let order = place(&mut world, 0, 1).remove(0);
    for reader in readers {
        let page = runtime.block_on(reader).unwrap().unwrap();
        assert_eq!(page.events.iter().map(|event| event.order).collect::<Vec<_>>(), [order.id()]);
    }
}
