//! Streams on several status nodes, each of which folds a part of the orders: whoever follows an order sees it change on
//! any of them, and goes on at another when one is gone.

use std::time::Instant;

use super::town::Town;
use crate::support::{client::Client, events::Events};

/// Orders that are followed: enough for each node to fold some of them.
const ORDERS: usize = 12;

#[test]
fn whoever_follows_an_order_may_do_so_at_any_status_node() {
    let Some(mut town) = Town::new("streams") else { return };
    town.start(&["checkout", "classify", "carrier", "status", "status"]);
    for carrier in ["good", "careless"] {
        town.cluster.carriers.change(carrier, r#"{"down": true}"#);
    }
    town.post(ORDERS);
    let nodes = town.cluster.of("status");
    let readers: Vec<Client> = nodes.iter().map(|&node| Client { lags: true, ..town.cluster.client(node) }).collect();
    let mut streams = Vec::new();
    for placed in &town.placed {
        for reader in &readers {
            reader.view(&placed.id);
            let mut events = Events::open(reader, &placed.id, None);
            assert_ne!(events.next().data["status"], "carrier_accepted");
            streams.push(events);
        }
    }
    for carrier in ["good", "careless"] {
        town.cluster.carriers.change(carrier, r#"{"down": false}"#);
    }
    let began = Instant::now();
    let mut last = Vec::new();
    for events in &mut streams {
        last.push(loop {
            let message = events.next();
            if message.data["status"] == "carrier_accepted" {
                break message;
            }
        });
    }
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
