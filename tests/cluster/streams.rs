//! Streams on several status nodes, each of which folds a part of the orders: whoever follows an order sees it change on
//! any of them, and goes on at another when one is gone.

use std::time::Instant;

use super::town::Town;
use crate::{
    http::{
        life::wait_for_status,
        tracking::{event, tell},
    },
    support::{
        client::Client,
        events::{Events, Message},
        setup::EVENTS_SECRET,
    },
};

/// Orders that are followed: enough for each node to fold some of them.
const ORDERS: usize = 12;

#[test]
fn whoever_follows_an_order_may_do_so_at_any_status_node() {
    let Some(mut town) = Town::new("streams") else { return };
    town.start(&["checkout", "classify", "carrier", "status", "status"]);
    town.post(ORDERS);
    let nodes = town.cluster.of("status");
    let readers: Vec<Client> = nodes.iter().map(|&node| Client { lags: true, ..town.cluster.client(node) }).collect();
    town.placed.iter().for_each(|placed| drop(wait_for_status(&readers[0], &placed.id, "carrier_accepted")));
    let mut streams = Vec::new();
    for placed in &town.placed {
        for reader in &readers {
            let mut events = Events::open(reader, &placed.id, None);
            assert_eq!(events.next().data["status"], "carrier_accepted");
            streams.push(events);
        }
    }
    // Whoever has a parcel tells of it; of the others' parcels nothing is believed.
    let carriers = town.client("carrier");
    for carrier in ["good", "careless"] {
        let news: Vec<_> = town.placed.iter().map(|placed| event(&placed.id, 0, "picked_up", 1_000)).collect();
        let answer = tell(&carriers, carrier, EVENTS_SECRET, "msg_1", &news);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let began = Instant::now();
    let last: Vec<Message> = streams.iter_mut().map(Events::next).collect();
    assert!(last.iter().all(|message| message.data["parcels"][0]["status"] == "picked_up"), "{last:?}");
    eprintln!(
        "{} streams on {} nodes saw it within {:.1} s",
        streams.len(),
        nodes.len(),
        began.elapsed().as_secs_f64()
    );
    // The same state has the same name on every node: what one has sent, another doesn't repeat.
    let ids = |node: usize| last.iter().skip(node).step_by(readers.len()).map(|message| message.id.clone());
    assert!(ids(0).eq(ids(1)));
    town.cluster.drain(&nodes[..1]);
    for (placed, known) in town.placed.iter().zip(ids(0)) {
        let mut events = Events::open(&readers[1], &placed.id, Some(&known));
        assert_eq!(events.chunk().unwrap().as_deref(), Some("retry: 2000\n:\n\n"), "{}", placed.id);
    }
}
