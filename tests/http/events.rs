//! What consumers are told over HTTP: several readers, from anywhere, across a restart, with no gap and nothing twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

use super::life::wait_for_status;
use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    orders::{THING, order, order_of},
    setup::{Carrier, GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(readers_follow_from_anywhere_and_across_a_restart, a_merchant_is_told_of_its_own_orders,);

/// An answer that stays open, read line by line.
struct Stream(BufReader<TcpStream>);

impl Stream {
    /// As HTTP/1.0, whose answers have no framing of their own.
    fn open(client: &Client, path: &str, headers: &[&str]) -> Self {
        let mut stream = TcpStream::connect(client.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let head = client.head(&format!("GET {path}"), headers, 0).replace("HTTP/1.1", "HTTP/1.0");
        stream.write_all(head.as_bytes()).unwrap();
        let mut stream = Self(BufReader::new(stream));
        let status = stream.line().unwrap();
        assert!(status.contains(" 200 "), "{status}");
        while !stream.line().unwrap().is_empty() {}
        stream
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.0.read_line(&mut line).unwrap() > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next line with an event, and the id before it, if it is a server-sent event.
    fn event(&mut self) -> Option<(Option<String>, Value)> {
        let mut id = None;
        loop {
            let line = self.line()?;
            if let Some(cursor) = line.strip_prefix("id: ") {
                id = Some(cursor.to_owned());
            }
            let json = line.strip_prefix("data: ").unwrap_or(&line);
            if json.starts_with('{') {
                return Some((id, serde_json::from_str(json).unwrap()));
            }
        }
    }
}

pub fn text<'a>(event: &'a Value, name: &str) -> &'a str {
    event[name].as_str().unwrap_or_else(|| panic!("{name}: {event}"))
}

/// Ids by order, whose numbers must have no gap; nothing twice.
fn by_order(events: &[Value]) -> BTreeMap<String, Vec<String>> {
    let (mut all, mut ids) = (BTreeMap::<String, Vec<String>>::new(), BTreeSet::new());
    for event in events {
        let of = all.entry(text(event, "subject").to_owned()).or_default();
        assert_eq!(text(event, "sequence").parse::<usize>().unwrap(), of.len(), "{event}");
        assert!(ids.insert(text(event, "id")), "twice: {event}");
        assert_eq!((text(event, "specversion"), text(event, "source")), ("1.0", "/sluice"));
        assert_eq!(text(&event["data"], "orderId"), text(event, "subject"));
        of.push(text(event, "id").to_owned());
    }
    all
}

/// Pages of `limit` from `after` on until nothing comes.
pub fn rest(client: &Client, after: Option<&str>, limit: usize) -> (Vec<Value>, String) {
    let mut all = Vec::new();
    let mut path = format!("/v1/events?limit={limit}");
    after.into_iter().for_each(|cursor| path += &format!("&after={cursor}"));
    loop {
        let answer = client.get(&path);
        let events = answer.lines();
        assert!(events.len() <= limit);
        let link = answer.header("link").unwrap();
        let next =
            link.strip_prefix("</v1/events?after=").and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap();
        if events.is_empty() {
            return (all, next.to_owned());
        }
        path = format!("/v1/events?limit={limit}&after={next}");
        all.extend(events);
    }
}

fn readers_follow_from_anywhere_and_across_a_restart(engine: &Engine) {
    const ORDERS: usize = 30;
    // The first carrier turns some parcels down, so that orders have more than two events.
    let picky = Carrier { id: "picky", more: "cost = 1", behaviour: "reject=0.3", ..GOOD };
    let world = World::on(engine, Setup::new(&[picky, GOOD]));
    let server = world.serve();
    let client = world.client();
    // Two who follow from the beginning, each at its own pace.
    let mut streams = [
        Stream::open(&client, "/v1/events?follow=true", &[]),
        Stream::open(&client, "/v1/events", &["accept: text/event-stream"]),
    ];
    let place = |from: usize| -> Vec<String> {
        (from..from + ORDERS).map(|n| client.order(&format!("k-{n}"), &order()).id()).collect()
    };
    let accepted = |ids: &[String]| {
        for id in ids {
            wait_for_status(&client, id, "carrier_accepted");
        }
    };
    let ids = place(0);
    accepted(&ids);
    let total = wait_for("every decision is told", || {
        let (all, _) = rest(&client, None, 1_000);
        (all.iter().filter(|e| e["data"]["settled"]["outcome"] == "OUTCOME_ACCEPTED").count() == ORDERS).then_some(all)
    });
    let known = by_order(&total);
    assert_eq!(known.keys().collect::<BTreeSet<_>>(), ids.iter().collect());
    assert!(known.values().any(|events| events.len() > 2) && known.values().all(|events| events.len() > 1));
    for limit in [1, 7] {
        assert_eq!(by_order(&rest(&client, None, limit).0), known, "{limit} at a time");
    }
    let mut last = Vec::new();
    for stream in &mut streams {
        let read: Vec<_> = (0..total.len()).map(|_| stream.event().unwrap()).collect();
        assert_eq!(by_order(&read.iter().map(|(_, event)| event.clone()).collect::<Vec<_>>()), known);
        assert!(read.iter().all(|(id, event)| id.as_ref().is_none_or(|id| id == text(event, "cursor"))));
        last.push(text(&read[read.len() - 1].1, "cursor").to_owned());
    }

    // From the middle, before and after the server was killed: the same.
    let middle = text(&total[total.len() / 2], "cursor");
    let after: BTreeSet<_> = rest(&client, Some(middle), 5).0.iter().map(|e| text(e, "id").to_owned()).collect();
    assert!(after.len() >= total.len() - total.len() / 2 - 1);
    server.kill();
    let server = world.serve();
    let again: BTreeSet<_> = rest(&client, Some(middle), 1_000).0.iter().map(|e| text(e, "id").to_owned()).collect();
    assert_eq!(again, after);
    assert_eq!(by_order(&rest(&client, None, 1_000).0), known);

    // Both go on where they were.
    let last_id = format!("last-event-id: {}", last[1]);
    let mut streams = [
        Stream::open(&client, &format!("/v1/events?follow=true&after={}", last[0]), &[]),
        Stream::open(&client, "/v1/events?after=latest", &["accept: text/event-stream", &last_id]),
    ];
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || client.get("/v1/events?after=latest&wait=30"))
    };
    let more = place(ORDERS);
    accepted(&more);
    assert!(!waiting.join().unwrap().lines().is_empty());
    streams.iter_mut().for_each(|stream| goes_on(stream, &total, &more));

    // A drain ends them rather than wait.
    server.start_drain();
    streams.iter_mut().for_each(|stream| while stream.line().is_some() {});
    server.receipt();
}

/// What comes after `known` has the next numbers, up to the acceptance of all of `orders`.
fn goes_on(stream: &mut Stream, known: &[Value], orders: &[String]) {
    let (mut settled, mut seen) = (BTreeSet::new(), known.to_vec());
    while settled.len() < orders.len() {
        let event = stream.event().unwrap().1;
        if event["data"]["settled"]["outcome"] == "OUTCOME_ACCEPTED" {
            settled.insert(text(&event, "subject").to_owned());
        }
        seen.push(event);
    }
    assert_eq!(settled, orders.iter().cloned().collect());
    assert_eq!(by_order(&seen).len(), 2 * orders.len());
}

fn a_merchant_is_told_of_its_own_orders(engine: &Engine) {
    let world = World::on(engine, Setup::new(&[GOOD]));
    let _server = world.serve();
    let (one, other) = (world.client(), world.other_client());
    let mut theirs = Stream::open(&other, "/v1/events?follow=true", &[]);
    let ids: Vec<_> = (0..5).map(|n| one.order(&format!("k-{n}"), &order_of(&[(THING, 1)])).id()).collect();
    let own = other.order("k-0", &order()).id();
    let told = wait_for("all is told", || {
        let (all, _) = rest(&one, None, 2);
        (all.len() == 2 * ids.len()).then_some(all)
    });
    assert_eq!(by_order(&told).into_keys().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    let first = theirs.event().unwrap().1;
    assert_eq!((text(&first, "subject"), text(&first, "sequence")), (own.as_str(), "0000000000"));
    assert_eq!(text(&first["data"], "merchantId"), "m-2");
    for (path, field) in [
        ("/v1/events?after=x", "after"),
        ("/v1/events?after=1.0.0.0.0.0", "after"),
        ("/v1/events?after=1.zzzzzzzzzz.0", "after"),
        ("/v1/events?limit=1001", "limit"),
        ("/v1/events?from=now", "query"),
    ] {
        assert_eq!(one.get(path).problem(400), [field], "{path}");
    }
}
