//! With retention the data folder stops growing: what is over goes, readers that are too far behind are told so, and what is
//! young or not decided stays.

use super::{
    events::{rest, text},
    idempotency::post_bulk,
    life::wait_for_status,
};
use crate::support::{
    orders::{ICE, order, order_of},
    setup::{Carrier, GOOD, Setup},
    wait_for,
    world::{Server, World},
};

const DELETED: &str = "sluice_journal_segments_deleted_total";

/// More than a segment of orders that all end well; the ids of the last.
fn fill(world: &World, name: &str) -> Vec<String> {
    (0..60).map(|batch| post_bulk(&world.client(), &format!("{name}-{batch}"))).last().unwrap()
}

fn setup(carriers: &[Carrier]) -> Setup {
    // A retry may come for so long, and until then nothing goes.
    Setup::new(carriers).with("checkpoint_mb = 1\nplaced_at_window_s = 3\n[retention]\nbytes = \"1MiB\"\n")
}

fn deleted(server: &Server) -> f64 {
    server.metric(DELETED).unwrap_or(0.0)
}

#[test]
fn what_is_over_goes_and_readers_that_are_behind_are_told() {
    let world = World::new(setup(&[GOOD]));
    let server = world.serve();
    let client = world.client();
    let posted = order();
    let first = client.order("first", &posted).id();
    wait_for_status(&client, &first, "carrier_accepted");
    let begun = text(&rest(&client, None, 100).0[0], "cursor").to_owned();
    let segments = server.metric("sluice_journal_bytes").unwrap();
    let young = fill(&world, "bulk");
    wait_for("a segment is deleted", || (deleted(&server) >= 1.0).then_some(()));
    assert!(server.metric("sluice_orders_retired_total").unwrap() > 1_000.0);
    assert!(server.metric("sluice_journal_oldest_timestamp_seconds").unwrap() > 1e9);
    assert!(server.metric("sluice_journal_bytes").unwrap() < segments + 2.0 * f64::from(40 << 20));

    let looked = |server: Server| {
        assert!(client.get(&format!("/v1/orders/{first}")).problem(404).is_empty());
        assert_eq!(client.view(young.last().unwrap())["id"], young.last().unwrap().as_str());
        let listed = client.get("/v1/orders?customer=c-77").text();
        assert!(listed.contains(&young[0]) && !listed.contains(&first));
        // What came with the old key and the old time can't be told from what never was.
        assert_eq!(client.order("first", &posted).problem(422), ["/placed_at"]);
        for path in [format!("/v1/events?after={begun}"), format!("/v1/events?limit=1&after={begun}")] {
            let gone = client.get(&path);
            let oldest = gone.json()["errors"][0]["expected"].as_str().unwrap().to_owned();
            assert_eq!(
                (gone.problem(410), gone.json()["type"].as_str().unwrap().contains("expired-cursor")),
                (vec!["after".to_owned()], true)
            );
            let told = client.get(&format!("/v1/events?limit=100&after={oldest}")).lines();
            assert!(told.len() == 100 && told.iter().all(|event| text(event, "subject") != first));
            assert_eq!(client.get("/v1/events?limit=100").lines(), told, "without a cursor from there");
        }
        server
    };
    let server = looked(server);
    server.kill();
    let server = looked(world.serve());
    server.drain();
    let report = world.check();
    assert_eq!(report.code, Some(0), "{}", report.out);
}

#[test]
fn an_order_that_is_not_decided_is_never_deleted() {
    let away = Carrier { id: "away", handling: &["frozen"], behaviour: "down=true", ..GOOD };
    let good = Carrier { handling: &["chilled", "ambient"], ..GOOD };
    let world = World::new(setup(&[away, good]));
    let server = world.serve();
    let client = world.client();
    let stuck = client.order("stuck", &order_of(&[(ICE, 1)])).id();
    fill(&world, "bulk");
    const HELD: &str = "sluice_retention_held_bytes";
    wait_for("the order holds a segment", || server.metric(HELD).filter(|held| *held >= f64::from(40 << 20)));
    assert!(server.metric("sluice_retention_held_order_timestamp_seconds").unwrap() > 1e9);
    assert!(server.log().contains(&stuck), "it is named");
    assert_eq!(deleted(&server), 0.0);
    assert_eq!(client.view(&stuck)["status"], "carrier_requested");
}
