//! A disk without a byte left: new orders are refused and told when to come back, those already taken go on, and nothing
//! is lost whatever happens next.

use std::io;

use serde_json::Value;

use crate::support::{
    client::{Answer, Client},
    judge::{Acked, judge},
    orders::{YOGURT, line, order, order_of},
    setup::{GOOD, Setup},
    tmpfs::Tmpfs,
    wait_for,
    world::World,
};

/// Room for the journal's first files, the store, and some more.
const MIB: u32 = 256;

/// Posts so many orders of nearly 64 KiB.
fn post_long(client: &Client, name: &str, orders: usize) -> io::Result<Answer> {
    let mut long = order_of(&[(YOGURT, 1); 100]);
    long["lines"].as_array_mut().unwrap().iter_mut().for_each(|line| line["title"] = "YOGURT ".repeat(28).into());
    let lines: Vec<String> = (0..orders).map(|n| line(&format!("{name}-{n}"), long.clone()).to_string()).collect();
    client.try_send("POST /v1/orders:batch", &["content-type: application/x-ndjson"], lines.join("\n").as_bytes())
}

/// Posts long orders until one is refused for want of room; gives those that were taken.
fn post_until_refused(client: &Client, name: &str) -> Vec<Acked> {
    let mut acked = Vec::new();
    for batch in 0..1_000 {
        let answer = post_long(client, &format!("{name}-{batch}"), 100).unwrap();
        if answer.status == 503 {
            assert_disk_full(&answer.json(), answer.header("retry-after").and_then(|text| text.parse().ok()));
            return acked;
        }
        for result in answer.lines() {
            match result["status"].as_u64().unwrap() {
                201 => acked.push(Acked { id: result["id"].as_str().unwrap().to_owned(), key: client.key.clone() }),
                503 => assert_disk_full(&result["problem"], result["retry_after"].as_u64()),
                _ => panic!("{result}"),
            }
        }
    }
    panic!("a full disk takes order after order");
}

/// Also for want of time: the next file of the journal may just be on its way.
fn assert_disk_full(problem: &Value, retry_after: Option<u64>) {
    assert_eq!(problem["status"], 503, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("full"), "{problem}");
    assert!(retry_after.is_some_and(|seconds| seconds >= 1), "{problem}");
}

/// A small disk, or what is missing for it, said loudly.
fn mount() -> Option<Tmpfs> {
    match Tmpfs::mount(MIB) {
        Ok(disk) => Some(disk),
        Err(missing) => {
            sluice_brokers::skipped(format_args!("no file system can be mounted here: {missing}; run as root"));
            None
        }
    }
}

/// A checkpoint that finds no room is fatal to the process, which says so and is started again: with room, all is there.
#[test]
fn a_checkpoint_without_room_loses_nothing() {
    let Some(disk) = mount() else { return };
    let world = World::with_data_in(Setup::new(&[GOOD]).with("checkpoint_mb = 8\n"), disk.path().join("data"));
    let server = world.serve();
    let client = world.client();
    let filler = disk.fill();
    let mut acked = Vec::new();
    while let Ok(answer) = post_long(&client, &format!("k-{}", acked.len()), 20) {
        if answer.status == 503 {
            break;
        }
        let taken = answer.lines().into_iter().filter(|result| result["status"] == 201);
        acked.extend(
            taken.map(|result| Acked { id: result["id"].as_str().unwrap().to_owned(), key: client.key.clone() }),
        );
        assert!(acked.len() < 10_000, "no checkpoint found out");
    }
    let ended = server.end();
    assert_eq!(ended.code, Some(74), "{}", ended.log);
    assert!(ended.log.contains("No space left"), "{}", ended.log);
    assert!(acked.len() > 100);
    std::fs::remove_file(filler).unwrap();
    let server = world.serve();
    assert_eq!(judge(&world, &acked).finished, acked.len());
    server.drain();
    assert_eq!(world.check().code, Some(0));
}

#[test]
fn a_full_disk_loses_nothing_and_serves_again_with_room() {
    let Some(disk) = mount() else { return };
    let world = World::with_data_in(Setup::new(&[GOOD]), disk.path().join("data"));
    let mut server = world.serve();
    let client = world.client();
    let mut acked = vec![Acked { id: client.order("first", &order()).id(), key: client.key.clone() }];

    let filler = disk.fill();
    acked.extend(post_until_refused(&client, "filling"));
    assert!(acked.len() > 100, "{}", acked.len());
    let readiness = wait_for("/readyz says it", || Some(client.get("/readyz")).filter(|answer| answer.status == 503));
    readiness.problem(503);
    assert!(readiness.text().contains("disk is full"), "{}", readiness.text());
    client.order("refused", &order()).problem(503);
    assert_eq!(client.get("/healthz").status, 200);
    // What was taken before goes all the way: the answers of carriers have room that orders don't get.
    let classes = judge(&world, &acked);
    assert_eq!(classes.finished, acked.len());
    assert!(server.is_alive(), "a full disk is no reason to end: {}", server.log());

    // Killed with the disk still full, it starts with the disk still full: all can be read, and nothing new is taken.
    server.kill();
    let mut server = world.serve();
    let some: Vec<Acked> = acked.iter().step_by(10).cloned().collect();
    assert_eq!(judge(&world, &some).finished, some.len());
    client.order("refused", &order()).problem(503);
    assert!(server.is_alive(), "{}", server.log());

    std::fs::remove_file(filler).unwrap();
    wait_for("there is room again", || (client.get("/readyz").status == 200).then_some(()));
    acked.push(Acked { id: client.order("after", &order()).id(), key: client.key.clone() });
    server.kill();
    let server = world.serve();
    assert_eq!(judge(&world, &acked).finished, acked.len());
    let receipt = server.drain();
    assert_eq!(receipt["left_in_journal"], 0, "{receipt}");
}
