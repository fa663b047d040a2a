//! What endpoints are told, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use sluice_domain::OrderId;
use sluice_pipeline::Documents as _;
use sluice_webhooks::{
    WebhookConfig,
    about::{self, About},
    testing::{Arrived, Receiver},
};
use support::{ACCEPTED, Scripted, Setup, TRACKED, config, fixed};

fn ids(arrived: &[Arrived]) -> Vec<&str> {
    arrived.iter().map(|arrived| arrived.header("webhook-id")).collect()
}

/// As the merchants' library sees it.
fn is_signed(arrived: &Arrived, secret: &str) -> bool {
    standardwebhooks::Webhook::new(secret).unwrap().verify(&arrived.body, &arrived.headers).is_ok()
}

#[tokio::test]
async fn a_merchant_is_told_of_its_own_events_and_can_tell_who_tells() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    setup.feed.tell("m-1", 1, ACCEPTED, 5);
    let node = setup.start();
    let (id, secret) = node.endpoint(json!({"url": receiver.url(), "types": [TRACKED]})).await;
    let first = setup.feed.tell("m-1", 1, TRACKED, 1_794_355_200_123);
    setup.feed.tell("m-2", 2, TRACKED, 10);
    setup.feed.tell("m-1", 1, ACCEPTED, 10);
    let second = setup.feed.tell("m-1", 1, TRACKED, 11);
    let arrived = receiver.wait_for(2).await;
    assert_eq!(ids(&arrived), [first.as_str(), second.as_str()]);
    for post in &arrived {
        assert!(is_signed(post, &secret));
        assert!(!is_signed(post, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"));
        assert_eq!((post.path.as_str(), post.header("content-type")), ("/hooks", "application/json"));
    }
    let body: Value = serde_json::from_slice(&arrived[0].body).unwrap();
    assert_eq!(
        body,
        json!({
            "specversion": "1.0", "id": first, "source": "/sluice", "type": TRACKED,
            "subject": "00000000000000000000000001", "time": "2026-11-11T00:00:00.123Z",
            "timestamp": "2026-11-11T00:00:00.123Z", "sequence": "0000000001", "datacontenttype": "application/json",
            "data": {"n": 1},
        })
    );
    let log = node
        .until(&format!("/v1/webhooks/{id}/deliveries"), |log| log["deliveries"].as_array().unwrap().len() == 2)
        .await;
    assert_eq!(log["deliveries"][0]["event_id"], second.as_str(), "the newest first");
    assert_eq!(log["deliveries"][1]["status"], "delivered");
    assert_eq!(log["deliveries"][1]["http_status"], 204);
    assert_eq!(log["deliveries"][1]["attempts"], 1);
    node.stop().await;
}

#[tokio::test]
async fn both_secrets_sign_while_one_replaces_the_other() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let node = setup.start();
    let (id, old) = node.endpoint(json!({"url": receiver.url()})).await;
    let rotate = format!("/v1/webhooks/{id}/rotate-secret");
    let rotated = node.post(&rotate, json!({"overlap_s": 3_600})).await.ok(200);
    let new = rotated["secret"].as_str().unwrap().to_owned();
    assert!(rotated["old_secret_until"].is_string() && new != old);
    setup.feed.tell("m-1", 1, TRACKED, 1);
    let arrived = receiver.wait_for(1).await;
    assert!(is_signed(&arrived[0], &old) && is_signed(&arrived[0], &new));
    let last = node.post(&rotate, json!({"overlap_s": 0})).await.ok(200);
    assert_eq!(last.get("old_secret_until"), None);
    setup.feed.tell("m-1", 1, TRACKED, 1);
    let arrived = receiver.wait_for(2).await;
    assert!(is_signed(&arrived[1], last["secret"].as_str().unwrap()));
    assert!(!is_signed(&arrived[1], &old) && !is_signed(&arrived[1], &new));
    let shown = node.get(&format!("/v1/webhooks/{id}")).await.ok(200);
    assert_eq!(shown.get("secret"), None, "shown once");
    node.stop().await;
}

#[tokio::test]
async fn failures_come_again_under_their_id_and_hold_up_their_order_alone() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let node = setup.start();
    let (id, secret) = node.endpoint(json!({"url": receiver.url()})).await;
    receiver.reply([(Some(500), vec![]), (Some(404), vec![]), (Some(301), vec![])]);
    let told: Vec<String> = (0..30).map(|n| setup.feed.tell("m-1", n % 3, TRACKED, 1)).collect();
    node.until(&format!("/v1/webhooks/{id}/deliveries?status=delivered"), |log| {
        log["deliveries"].as_array().unwrap().len() == 30
    })
    .await;
    let arrived = receiver.arrived();
    assert_eq!(arrived.len(), 33, "thirty, and three again");
    assert!(arrived.iter().all(|post| is_signed(post, &secret)));
    let mut taken: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for post in &arrived[3..] {
        let body: Value = serde_json::from_slice(&post.body).unwrap();
        let sequence = body["sequence"].as_str().unwrap().parse().unwrap();
        taken.entry(body["subject"].as_str().unwrap().to_owned()).or_default().push(sequence);
    }
    assert!(taken.values().all(|sequences| sequences.iter().copied().eq(0..10)), "{taken:?}");
    let mut seen = ids(&arrived[3..]);
    seen.sort_unstable();
    assert_eq!(seen, told);
    node.stop().await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (inside, outside) = (Receiver::start("127.0.0.1").await.unwrap(), Receiver::start("127.0.0.1").await.unwrap());
    let setup = Setup::default();
    let node = setup.start();
    for status in [301, 302, 303, 307, 308] {
        outside.reply([(Some(status), vec![("location", inside.url())])]);
    }
    let (id, _) = node.endpoint(json!({"url": outside.url()})).await;
    setup.feed.tell("m-1", 1, TRACKED, 1);
    let arrived = outside.wait_for(6).await;
    assert_eq!(arrived.len(), 6);
    let path = format!("/v1/webhooks/{id}/deliveries?status=delivered");
    let log = node.until(&path, |log| log["deliveries"][0].is_object()).await;
    assert_eq!(log["deliveries"][0]["attempts"], 6);
    assert!(inside.arrived().is_empty(), "what they lead to is never called");
    node.stop().await;
}

#[tokio::test]
async fn a_name_is_resolved_once_a_connection_and_what_changes_is_checked_anew() {
    // Good at first; then it leads to the machine's own network; at last a mixture.
    let answers = [vec!["127.0.0.2"], vec!["10.0.0.1"], vec!["127.0.0.2", "169.254.169.254"], vec!["127.0.0.2"]];
    let resolver = Scripted::new(answers.into());
    let receiver = Receiver::start("127.0.0.2").await.unwrap();
    // Every answer ends its connection, so that each post is a connection of its own.
    receiver.otherwise((Some(204), vec![("connection", "close".to_owned())]));
    let setup = Setup { resolver: resolver.clone(), ..Setup::default() };
    let node = setup.start();
    let url = format!("http://shop.example:{}/hooks", receiver.address().port());
    let (id, _) = node.endpoint(json!({"url": url})).await;
    setup.feed.tell("m-1", 1, TRACKED, 1);
    let arrived = receiver.wait_for(1).await;
    assert_eq!(arrived[0].header("host"), format!("shop.example:{}", receiver.address().port()));
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1, "what was checked is what is connected to");
    setup.feed.tell("m-1", 1, TRACKED, 1);
    receiver.wait_for(2).await;
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 4, "twice refused, then good again");
    let path = format!("/v1/webhooks/{id}/deliveries?status=delivered");
    let log = node.until(&path, |log| log["deliveries"].as_array().unwrap().len() == 2).await;
    assert_eq!(log["deliveries"][0]["attempts"], 3);
    node.stop().await;
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let node = setup.start();
    receiver.reply([(Some(429), vec![("retry-after", "1".to_owned())])]);
    let (id, _) = node.endpoint(json!({"url": receiver.url()})).await;
    setup.feed.tell("m-1", 1, TRACKED, 1);
    receiver.wait_for(1).await;
    let shown = node.until(&format!("/v1/webhooks/{id}"), |shown| shown["next_attempt_at"].is_string()).await;
    assert_eq!((&shown["status"], &shown["waiting_events"]), (&"active".into(), &1.into()));
    setup.feed.tell("m-1", 2, TRACKED, 1);
    let arrived = receiver.wait_for(3).await;
    assert!(arrived[1..].iter().all(|post| post.at - arrived[0].at >= Duration::from_millis(990)));
    node.stop().await;
}

#[tokio::test]
async fn gone_disables_and_enabling_goes_on() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let node = setup.start();
    receiver.reply([(Some(410), vec![])]);
    let (id, _) = node.endpoint(json!({"url": receiver.url()})).await;
    let path = format!("/v1/webhooks/{id}");
    let first = setup.feed.tell("m-1", 1, TRACKED, 1);
    let shown = node.until(&path, |shown| shown["status"] == "disabled").await;
    assert_eq!(shown["disabled_because"], "gone");
    let second = setup.feed.tell("m-1", 1, TRACKED, 1);
    // What is disabled stays so over a restart.
    node.stop().await;
    let node = setup.start();
    assert_eq!(node.get(&path).await.ok(200)["status"], "disabled");
    assert_eq!(receiver.arrived().len(), 1);
    let shown = node.call("key-1", "POST", &format!("{path}/enable"), None).await.ok(200);
    assert_eq!(shown["status"], "active");
    let arrived = receiver.wait_for(3).await;
    assert_eq!(ids(&arrived), [first.as_str(), &first, &second]);
    node.stop().await;
}

#[tokio::test]
async fn who_never_answers_is_left_alone_and_recovers() {
    let config = WebhookConfig { timeout: Duration::from_millis(100), ..config() };
    let setup = Setup { config, ..Setup::default() };
    let receiver = Receiver::start("127.0.0.1").await.unwrap();
    receiver.otherwise((None, vec![]));
    let node = setup.start();
    let (id, _) = node.endpoint(json!({"url": receiver.url()})).await;
    let path = format!("/v1/webhooks/{id}");
    (0..200).for_each(|n| drop(setup.feed.tell("m-1", n, TRACKED, 1)));
    let shown = node.until(&path, |shown| shown["status"] == "failing").await;
    assert!(shown["failing_since"].is_string());
    let log = node.get(&format!("{path}/deliveries?status=retrying&limit=1")).await.ok(200);
    assert_eq!(log["deliveries"][0]["error"], "no answer within 0.1 s");
    receiver.otherwise((Some(200), vec![]));
    // What was put aside comes back over a minute; all else at once.
    node.until(&path, |shown| shown["status"] == "active").await;
    node.call("key-1", "POST", &format!("{path}/enable"), None).await.ok(200);
    node.until(&path, |shown| shown["waiting_events"] == 0).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while delivered(&node, &path).await < 200 {
        assert!(tokio::time::Instant::now() < deadline, "all are delivered in the end");
    }
    node.stop().await;
}

/// Counts what the log has as delivered, page by page.
async fn delivered(node: &support::Node, path: &str) -> usize {
    let (mut after, mut delivered) = (String::new(), 0);
    loop {
        let page = node.get(&format!("{path}/deliveries?status=delivered&limit=70{after}")).await.ok(200);
        delivered += page["deliveries"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { return delivered };
        after = format!("&after={next}");
    }
}

#[tokio::test]
async fn a_restart_goes_on_and_a_crash_repeats_at_most() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let mut node = setup.start();
    let (id, _) = node.endpoint(json!({"url": receiver.url()})).await;
    let mut told = Vec::new();
    for round in 0..6u64 {
        told.extend((0..40).map(|n| setup.feed.tell("m-1", u128::from(n % 7u64), TRACKED, 1)));
        receiver.wait_for(told.len() - 20).await;
        if round % 2 == 0 {
            node.stop().await
        } else {
            node.crash().await
        }
        node = setup.start();
    }
    let path = format!("/v1/webhooks/{id}/deliveries?status=delivered&limit=1");
    let last = told.last().unwrap().clone();
    node.until(&path, |log| log["deliveries"][0]["event_id"] == last.as_str()).await;
    receiver.wait_for(told.len()).await;
    node.stop().await;
    let arrived = receiver.arrived();
    let mut seen = ids(&arrived);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, told, "every event at least once");
}

#[tokio::test]
async fn a_range_of_time_is_posted_again_under_the_same_ids() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let node = setup.start();
    let (id, _) = node.endpoint(json!({"url": receiver.url()})).await;
    let told: Vec<String> = (0..20).map(|n| setup.feed.tell("m-1", n % 2, TRACKED, 1_000 * n as u64)).collect();
    receiver.wait_for(20).await;
    node.until(&format!("/v1/webhooks/{id}/deliveries"), |log| log["deliveries"].as_array().unwrap().len() == 20).await;
    let (from, to) = ("1970-01-01T00:00:05Z", "1970-01-01T00:00:10Z");
    let begun = node.replay(&id, "r-1", from, to).await.ok(202);
    assert_eq!(
        (&begun["from"], &begun["to"]),
        (&"1970-01-01T00:00:05.000Z".into(), &"1970-01-01T00:00:10.000Z".into())
    );
    let arrived = receiver.wait_for(25).await;
    let mut again: Vec<_> = ids(&arrived[20..]).into_iter().map(str::to_owned).collect();
    again.sort_unstable();
    assert_eq!(again, told[5..10]);
    let shown = node.until(&format!("/v1/webhooks/{id}"), |shown| shown["replay"]["done"] == true).await;
    assert_eq!(shown["replay"]["events"], 5);
    // The same request changes nothing; another range under its key is refused.
    assert_eq!(node.replay(&id, "r-1", from, to).await.ok(202)["done"], true);
    assert_eq!(node.replay(&id, "r-1", from, "1970-01-01T00:00:11Z").await.problem(422), ["Idempotency-Key"]);
    let last = setup.feed.tell("m-1", 9, TRACKED, 1);
    let arrived = receiver.wait_for(26).await;
    assert_eq!((arrived.len(), arrived[25].header("webhook-id")), (26, last.as_str()));
    node.stop().await;
}

#[tokio::test]
async fn while_nothing_can_be_stored_nothing_is_promised() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let node = setup.start();
    let (id, _) = node.endpoint(json!({"url": receiver.url()})).await;
    setup.documents.full.store(true, Ordering::Relaxed);
    let refused = node.post("/v1/webhooks", json!({"url": receiver.url()})).await;
    refused.problem(503);
    assert_eq!(refused.headers["retry-after"], "1");
    (0..50).for_each(|n| drop(setup.feed.tell("m-1", n, TRACKED, 1)));
    setup.documents.full.store(false, Ordering::Relaxed);
    receiver.wait_for(50).await;
    let path = format!("/v1/webhooks/{id}/deliveries");
    node.until(&path, |log| log["deliveries"].as_array().unwrap().len() == 50).await;
    node.stop().await;
}

#[tokio::test]
async fn what_the_feed_no_longer_has_is_said() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let node = setup.start();
    let (id, _) = node.endpoint(json!({"url": receiver.url()})).await;
    node.stop().await;
    let told: Vec<String> = (0..10).map(|n| setup.feed.tell("m-1", n, TRACKED, 1)).collect();
    *setup.feed.oldest.lock() = 7;
    let node = setup.start();
    let arrived = receiver.wait_for(3).await;
    let mut seen = ids(&arrived);
    seen.sort_unstable();
    assert_eq!(seen, told[7..]);
    assert!(node.get(&format!("/v1/webhooks/{id}")).await.ok(200)["events_missed_at"].is_string());
    node.stop().await;
}

#[tokio::test]
async fn a_feed_that_fails_is_waited_for() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let setup = Setup { feed: Arc::default(), ..setup };
    let node = setup.start();
    node.endpoint(json!({"url": receiver.url()})).await;
    setup.feed.broken.store(true, Ordering::Relaxed);
    node.post("/v1/webhooks", json!({"url": receiver.url()})).await.problem(503);
    setup.feed.tell("m-1", 1, TRACKED, 1);
    setup.feed.tell("m-1", 2, TRACKED, 1);
    setup.feed.broken.store(false, Ordering::Relaxed);
    assert_eq!(receiver.wait_for(2).await.len(), 2);
    node.stop().await;
}

#[tokio::test]
async fn a_replay_is_not_read_from_the_beginning() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let told: Vec<String> = (0..100).map(|n| setup.feed.tell("m-1", 1, TRACKED, 60_000 * n)).collect();
    let node = setup.start();
    let (id, _) = node.endpoint(json!({"url": receiver.url()})).await;
    node.replay(&id, "r-1", "1970-01-01T01:20:00Z", "1970-01-01T01:30:00Z").await.ok(202);
    let arrived = receiver.wait_for(10).await;
    assert_eq!(ids(&arrived), told[80..90].iter().collect::<Vec<_>>());
    assert_eq!(setup.feed.first_read.load(Ordering::Relaxed), 65, "a quarter of an hour before");
    node.stop().await;
}

/// What is found about an order, of the one endpoint that there is.
fn about(setup: &Setup, order: u128) -> About {
    let fixed = setup.fixed.clone();
    let mut found = about::of_order(&*setup.documents, Some("m-1"), OrderId(order), fixed).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

async fn until(setup: &Setup, order: u128, is: impl Fn(&About) -> bool) -> About {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let about = about(setup, order);
        if is(&about) {
            return about;
        }
        assert!(tokio::time::Instant::now() < deadline, "{about:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_became_of_an_order_is_found_by_it() {
    let (setup, receiver) = (Setup::default(), Receiver::start("127.0.0.1").await.unwrap());
    let node = setup.start();
    let (id, _) = node.endpoint(json!({"url": receiver.url()})).await;
    assert!(about(&setup, 1).lines.is_empty());
    receiver.otherwise((Some(500), vec![]));
    let first = setup.feed.tell("m-1", 1, ACCEPTED, 1);
    let second = setup.feed.tell("m-1", 1, TRACKED, 2);
    let waits = until(&setup, 1, |about| !about.waiting.is_empty() && about.lines.iter().any(|l| l.attempts > 1)).await;
    assert_eq!((waits.lines.len(), waits.lines[0].event.as_str()), (1, first.as_str()));
    assert_eq!((waits.waiting.len(), waits.waiting[0].event.as_str()), (1, second.as_str()));
    assert!(waits.lines[0].next_at_ms.is_some() && waits.endpoint.unwrap().id == id);
    receiver.otherwise((Some(204), vec![]));
    let taken = |about: &About| about.lines.len() == 2 && about.lines.iter().all(|l| l.http_status == Some(204));
    let done = until(&setup, 1, taken).await;
    assert!(done.waiting.is_empty());
    let tries = done.lines[0].tries();
    assert_eq!(tries.len(), (done.lines[0].attempts as usize).min(16));
    let (last, earlier) = tries.split_last().unwrap();
    assert_eq!((last.http_status, last.error.as_str()), (Some(204), ""));
    assert!(earlier.iter().all(|one| one.http_status == Some(500) && !one.error.is_empty()), "{earlier:?}");
    assert!(tries.windows(2).all(|pair| pair[0].at_ms <= pair[1].at_ms));
    // Of others nothing is found; of a removed endpoint nothing is left.
    assert!(about(&setup, 2).lines.is_empty());
    assert!(about::of_order(&*setup.documents, Some("m-2"), OrderId(2), Vec::new()).unwrap().is_empty());
    node.call("key-1", "DELETE", &format!("/v1/webhooks/{id}"), None).await.ok(204);
    assert!(about::of_order(&*setup.documents, Some("m-1"), OrderId(1), Vec::new()).unwrap().is_empty());
    assert_eq!(setup.documents.scan(b"", None, 100).unwrap(), []);
    node.stop().await;
}

#[tokio::test]
async fn an_endpoint_of_the_configuration_is_the_same_at_another_place() {
    let (old, new) = (Receiver::start("127.0.0.1").await.unwrap(), Receiver::start("127.0.0.1").await.unwrap());
    let mut setup = Setup { fixed: vec![fixed(old.url())], ..Setup::default() };
    let path = format!("/v1/webhooks/{}", setup.fixed[0].id);
    let node = setup.start();
    // It begins at the end of the feed, which is found a moment after the start.
    while old.arrived().is_empty() {
        setup.feed.tell("m-1", 1, TRACKED, 1);
        drop(tokio::time::timeout(Duration::from_millis(20), old.wait_for(1)).await);
    }
    old.otherwise((Some(410), vec![]));
    let missed = setup.feed.tell("m-1", 2, TRACKED, 1);
    node.until(&path, |shown| shown["disabled_because"] == "gone").await;
    node.stop().await;
    let node = setup.start();
    assert_eq!(node.get(&path).await.ok(200)["disabled_because"], "gone", "a restart doesn't enable it");
    assert!(about(&setup, 2).standing.configured.unwrap().gone);
    node.stop().await;
    // Elsewhere it goes on where it was, with what it has not taken.
    setup.fixed = vec![fixed(new.url())];
    let node = setup.start();
    let arrived = new.wait_for(1).await;
    assert_eq!(ids(&arrived), [missed.as_str()]);
    assert_eq!(node.get(&path).await.ok(200)["status"], "active");
    node.stop().await;
    // Taken out it is told nothing, and what was told can still be seen; back again it goes on.
    let configured = std::mem::take(&mut setup.fixed);
    let node = setup.start();
    assert_eq!(node.get("/v1/webhooks").await.ok(200), json!({"endpoints": []}));
    node.get(&path).await.problem(404);
    let late = setup.feed.tell("m-1", 2, TRACKED, 1);
    let left = about(&setup, 2);
    let removed = left.standing.configured.unwrap();
    assert!(left.endpoint.is_none() && left.lines.len() == 1 && removed.removed_at_ms.is_some());
    node.stop().await;
    setup.fixed = configured;
    let node = setup.start();
    let arrived = new.wait_for(2).await;
    assert_eq!(ids(&arrived), [missed.as_str(), late.as_str()]);
    node.stop().await;
    assert_eq!(about(&setup, 2).standing.configured.unwrap().removed_at_ms, None);
}
