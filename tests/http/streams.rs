//! Following one order: what is there, what comes, what is missed by nobody, and what it costs.

use serde_json::Value;
use sluice_domain::limits::MAX_REMARKS;

use super::{
    life::wait_for_status,
    tracking::{event, tell},
};
use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    events::{Events, Follower, Message},
    orders::order,
    proxy::Proxy,
    setup::{EVENTS_SECRET, GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(
    a_stock_client_sees_the_present_and_what_comes,
    a_stock_client_reconnects_without_a_gap,
    a_version_outlives_its_server,
    who_reads_slowly_holds_up_nobody_and_gets_the_newest,
    streams_are_bounded_in_all_and_for_each_merchant,
    a_drain_ends_streams,
    thousands_of_streams_cost_little,
);

/// Streams that the last test opens: on each side a file descriptor each.
const MANY: usize = 2_000;

#[track_caller]
fn told(client: &Client, id: &str, message: &str, milestone: &str, late_ms: i64) {
    let answer = tell(client, "good", EVENTS_SECRET, message, &[event(id, 0, milestone, late_ms)]);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Reads messages until one says that the order is `status`.
#[track_caller]
fn until(next: &mut dyn FnMut() -> Message, status: &str) -> Message {
    loop {
        let message = next();
        assert_eq!(message.event, "order");
        if message.data["status"] == status {
            return message;
        }
    }
}

fn steps(view: &Value) -> usize {
    view["timeline"].as_array().unwrap().len()
}

fn a_stock_client_sees_the_present_and_what_comes(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    world.carriers.change("good", r#"{"down": true}"#);
    let _server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order()).id();
    wait_for_status(&client, &id, "carrier_requested");
    let follower = Follower::start(world.address(), &id);
    let first = follower.next();
    assert_eq!((first.event.as_str(), &first.data["status"]), ("order", &"carrier_requested".into()));
    assert_eq!(first.data, client.view(&id));
    world.carriers.change("good", r#"{"down": false}"#);
    let mut seen = vec![first, until(&mut || follower.next(), "carrier_accepted")];
    for (milestone, late_ms) in [("picked_up", 1_000), ("delivered", 2_000)] {
        told(&client, &id, milestone, milestone, late_ms);
        seen.push(until(&mut || follower.next(), milestone));
        assert_eq!(seen.last().unwrap().data, client.view(&id));
    }
    assert!(seen.is_sorted_by(|a, b| a.id != b.id && steps(&a.data) < steps(&b.data)), "{seen:?}");
    assert_eq!(follower.connected(), 1);
    // What changes the row and not the view is no message.
    told(&client, &id, "again", "delivered", 2_000);
    told(&client, &id, "last", "on_hold", 3_000);
    assert!(follower.next().data.to_string().contains("on_hold"));
    assert_eq!(follower.waiting(), []);
}

fn a_stock_client_reconnects_without_a_gap(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order()).id();
    wait_for_status(&client, &id, "carrier_accepted");
    let proxy = Proxy::start().unwrap();
    proxy.lead_to(world.address());
    let follower = Follower::start(proxy.address().parse().unwrap(), &id);
    assert_eq!(follower.next().data["status"], "carrier_accepted");
    // Something happens while it is away.
    proxy.close();
    told(&client, &id, "m-1", "picked_up", 1_000);
    wait_for_status(&client, &id, "picked_up");
    proxy.lead_to(world.address());
    assert_eq!(follower.next().data["status"], "picked_up");
    // Nothing does: what it has isn't sent again.
    let before = follower.connected();
    proxy.cut();
    wait_for("it is back", || (follower.connected() > before).then_some(()));
    let streams = || server.metric("sluice_status_streams").unwrap();
    wait_for("the old stream is gone", || (streams() == 1.0).then_some(()));
    told(&client, &id, "m-2", "delivered", 2_000);
    assert_eq!(follower.next().data["status"], "delivered");
    assert_eq!(follower.waiting(), []);
}

fn a_version_outlives_its_server(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order()).id();
    wait_for_status(&client, &id, "carrier_accepted");
    let first = Events::open(&client, &id, None).next();
    server.kill();
    let _server = world.serve();
    client.view(&id);
    let mut known = Events::open(&client, &id, Some(&first.id));
    assert_eq!(known.answer.header("content-type"), Some("text/event-stream"));
    assert_eq!(known.answer.header("cache-control"), Some("no-cache"));
    assert_eq!(known.chunk().unwrap().as_deref(), Some("retry: 2000\n:\n\n"));
    assert_eq!(Events::open(&client, &id, Some("another")).next(), first);
    told(&client, &id, "m-1", "delivered", 1_000);
    assert_eq!(known.next().data["status"], "delivered");
}

fn who_reads_slowly_holds_up_nobody_and_gets_the_newest(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order()).id();
    wait_for_status(&client, &id, "carrier_accepted");
    let mut slow = Events::open(&client, &id, None);
    let quick = Follower::start(world.address(), &id);
    assert_eq!(quick.next().data["status"], "carrier_accepted");
    for n in 0..MAX_REMARKS {
        let mut remark = event(&id, 0, "on_hold", 1_000 + n as i64);
        remark["detail"] = "snow ".repeat(40).into();
        assert_eq!(tell(&client, "good", EVENTS_SECRET, &format!("m-{n}"), &[remark]).status, 200);
    }
    told(&client, &id, "last", "delivered", 9_000);
    let newest = until(&mut || quick.next(), "delivered");
    let mut messages = 0;
    let last = until(
        &mut || {
            messages += 1;
            slow.next()
        },
        "delivered",
    );
    assert_eq!((&last.id, &last.data), (&newest.id, &client.view(&id)));
    assert!(messages <= MAX_REMARKS + 2, "{messages}");
}

fn streams_are_bounded_in_all_and_for_each_merchant(engine: &Engine) {
    let mut setup = Setup::new(&[GOOD]).with("max_streams = 4\n");
    setup.merchants.push(("m-3".to_owned(), "key-3".to_owned()));
    let world = World::on(engine, setup);
    let server = world.serve();
    let (one, other, third) = (world.client(), world.other_client(), world.client_of("key-3"));
    let ids = [&one, &other, &third].map(|client| client.order("k-1", &order()).id());
    for (client, id) in [&one, &other, &third].into_iter().zip(&ids) {
        client.view(id);
    }
    let open = |client: &Client, id: &str| Events::open(client, id, None);
    let mut first = vec![open(&one, &ids[0]), open(&one, &ids[0])];
    assert!(first.iter().all(|events| events.answer.status == 200));
    assert_eq!(open(&one, &ids[0]).answer.problem(429), Vec::<String>::new());
    let second = [open(&other, &ids[1]), open(&other, &ids[1])];
    assert!(second.iter().all(|events| events.answer.status == 200));
    assert_eq!(open(&third, &ids[2]).answer.problem(503), Vec::<String>::new());
    assert_eq!(server.metric("sluice_status_streams"), Some(4.0));
    one.order("k-2", &order()).id();
    first.pop();
    let third = wait_for("a place", || Some(open(&third, &ids[2])).filter(|events| events.answer.status == 200));
    drop((first, second, third));
    wait_for("all places are free", || (server.metric("sluice_status_streams") == Some(0.0)).then_some(()));
}

fn a_drain_ends_streams(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let server = world.serve();
    let client = world.client();
    let id = client.order("k-1", &order()).id();
    wait_for_status(&client, &id, "carrier_accepted");
    let mut events = Events::open(&client, &id, None);
    assert_eq!(events.next().data["status"], "carrier_accepted");
    server.start_drain();
    while let Some(chunk) = events.chunk().expect("a proper end") {
        assert_eq!(chunk, ":\n\n");
    }
    server.receipt();
}

fn thousands_of_streams_cost_little(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]).with("max_streams = 5000\n"));
    let server = world.serve();
    let client = world.client();
    let ids: Vec<String> = (0..20).map(|n| client.order(&format!("k-{n}"), &order()).id()).collect();
    ids.iter().for_each(|id| drop(wait_for_status(&client, id, "carrier_accepted")));
    let memory = || server.metric("process_resident_memory_bytes").unwrap();
    // What is made once, and the journal's memory.
    drop(Events::open(&client, &ids[0], None).next());
    let before = memory();
    let all: Vec<Events> = (0..MANY).map(|n| Events::open(&client, &ids[n % ids.len()], None)).collect();
    let mut all: Vec<Events> = all
        .into_iter()
        .map(|mut events| {
            assert_eq!(events.next().data["status"], "carrier_accepted");
            events
        })
        .collect();
    let each = (memory() - before) / MANY as f64;
    eprintln!("{MANY} open streams: {each:.0} bytes of memory each, connections included");
    assert!(each < 48e3, "{each} bytes a stream");
    // One change, told to everybody who follows the order.
    told(&client, &ids[0], "m-1", "delivered", 1_000);
    for events in all.iter_mut().step_by(ids.len()) {
        assert_eq!(events.next().data["status"], "delivered");
    }
}
