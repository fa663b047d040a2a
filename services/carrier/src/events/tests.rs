//! The route as a carrier meets it: who is believed, what is taken, what is said of the rest.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{Request, StatusCode},
};
use hyper::body::Frame;
use serde_json::{Value, json};
use sluice_domain::{
    Fingerprint, OrderId, ShipmentId, SlotCount,
    limits::{MAX_EVENTS, MAX_EVENTS_BYTES, MAX_TRACKING_NUMBER},
};
use sluice_pipeline::{BoxFuture, Clock, Listed, LogError, Lookup, Receipt, WordIntake, Words};
use sluice_schemas::word::Word;
use tower::ServiceExt;

use super::*;

const NOW_MS: u64 = 1_794_355_200_123;
const KEY: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NEW_KEY: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

#[derive(Default)]
struct Log {
    words: Mutex<Vec<String>>,
    messages: AtomicUsize,
    busy: Mutex<Option<(u32, &'static str)>>,
    /// Nothing is durable before it has a permit.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

impl WordIntake for Log {
    fn hear(&self, words: Words) -> BoxFuture<'_, Vec<Receipt>> {
        self.messages.fetch_add(1, SeqCst);
        let mut receipts = vec![Receipt::Accepted; words.words.len()];
        if let Some((retry_after_s, reason)) = *self.busy.lock().unwrap() {
            // The last one alone: the others are durable all the same.
            *receipts.last_mut().unwrap() = Receipt::Busy { retry_after_s, reason };
        }
        for (order, range) in &words.words {
            let Ok(Word::Tracked(t)) = Word::decode(&words.bytes[range.clone()]) else { panic!("no news") };
            assert_eq!(order.0, t.order);
            let said =
                format!("{} {}-{} {} {} {:?}", t.carrier, t.parcel, t.attempt, t.progress.name(), t.at_ms, t.text);
            self.words.lock().unwrap().push(said);
        }
        let gate = self.gate.lock().unwrap().clone();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            receipts
        })
    }
}

/// Numbers that carriers gave.
#[derive(Default)]
struct Numbers {
    known: Mutex<Vec<(&'static str, String, Vec<ShipmentId>)>>,
    away: Mutex<bool>,
    /// How many were asked for at a time.
    asked: Mutex<Vec<usize>>,
    gate: Mutex<Option<Arc<Semaphore>>>,
}

impl Lookup for Numbers {
    fn held<'a>(&'a self, _: Option<OrderId>, _: usize) -> BoxFuture<'a, Result<Listed, LogError>> {
        unreachable!("nobody reviews here")
    }

    fn orders_of<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Option<OrderId>,
        _: usize,
    ) -> BoxFuture<'a, Result<Listed, LogError>> {
        Box::pin(async { panic!("nobody lists orders here") })
    }

    fn shipments_of<'a>(
        &'a self,
        carrier: &'a str,
        numbers: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<ShipmentId>>, LogError>> {
        self.asked.lock().unwrap().push(numbers.len());
        let gate = self.gate.lock().unwrap().clone();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            if *self.away.lock().unwrap() {
                return Err(LogError::Closed);
            }
            let known = self.known.lock().unwrap();
            let find = |number: &&str| known.iter().find(|k| k.0 == carrier && k.1 == *number).map(|k| k.2.clone());
            Ok(numbers.iter().map(|number| find(number).unwrap_or_default()).collect())
        })
    }
}

/// A body that is announced and never comes.
struct Silent;

impl HttpBody for Silent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

struct Now(AtomicU64);

impl Clock for Now {
    fn now_ms(&self) -> u64 {
        self.0.load(SeqCst)
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

struct World {
    log: Arc<Log>,
    numbers: Arc<Numbers>,
    clock: Arc<Now>,
    router: Router,
}

/// Carriers swift (one key), polar (two, one of them new), mute (none).
fn world() -> World {
    let (log, numbers) = (Arc::new(Log::default()), Arc::new(Numbers::default()));
    let clock = Arc::new(Now(AtomicU64::new(NOW_MS)));
    let polar = Teller::new("polar", &format!("{NEW_KEY} {KEY}")).unwrap();
    let tellers = vec![Teller::new("swift", KEY).unwrap(), polar, Teller { carrier: "mute".into(), keys: vec![] }];
    let state = CarrierEvents {
        words: log.clone(),
        lookup: numbers.clone(),
        tellers: tellers.into(),
        clock: clock.clone(),
        slots: SlotCount::DEFAULT,
        room_kib: 2 << 10,
    };
    World { log, numbers, clock, router: router(state) }
}

fn shipment() -> String {
    let order = OrderId::new(NOW_MS - 60_000, Fingerprint::of("m-1", "k-1"), SlotCount::DEFAULT);
    format!("{order}-1-0")
}

fn event(milestone: &str) -> Value {
    json!({"shipment_id": shipment(), "milestone": milestone, "occurred_at": "2026-11-11T00:00:00Z"})
}

/// A message as a carrier sends it; `change` may spoil it after it was signed.
struct Message {
    carrier: &'static str,
    key: &'static str,
    id: &'static str,
    sent_s: i64,
    body: String,
    change: fn(&mut Request<Body>),
}

impl Message {
    fn new(body: &Value) -> Self {
        let sent_s = (NOW_MS / 1_000) as i64;
        Self { carrier: "swift", key: KEY, id: "msg_1", sent_s, body: body.to_string(), change: |_| {} }
    }

    async fn send(self, world: &World) -> (StatusCode, Option<String>, Value) {
        let signature = self.key.parse::<Secret>().unwrap().sign(self.id, self.sent_s, self.body.as_bytes());
        let mut request = Request::post(format!("/v1/carriers/{}/events", self.carrier))
            .header("content-type", "application/json")
            .header(ID_HEADER, self.id)
            .header(TIMESTAMP_HEADER, self.sent_s.to_string())
            .header(SIGNATURE_HEADER, signature)
            .body(Body::from(self.body))
            .unwrap();
        (self.change)(&mut request);
        let response = world.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let retry_after = headers.get("retry-after").map(|v| v.to_str().unwrap().to_owned());
        (status, retry_after, serde_json::from_slice(&body).unwrap())
    }
}

#[tokio::test]
async fn good_events_are_taken_as_they_are_told() {
    let world = world();
    let mut second = event("on_hold");
    second["detail"] = "customs ⚖".into();
    let (status, _, body) = Message::new(&json!({"events": [event("delivered"), second]})).send(&world).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body, json!({"results": [{"index": 0, "status": "taken"}, {"index": 1, "status": "taken"}]}));
    let words = world.log.words.lock().unwrap().clone();
    assert_eq!(words, ["swift 1-0 delivered 1794355200000 \"\"", "swift 1-0 on_hold 1794355200000 \"customs ⚖\""]);
}

#[tokio::test]
async fn a_bad_event_costs_nothing_but_itself() {
    let world = world();
    let spoil = |key: &str, value: Value| {
        let mut event = event("delivered");
        event[key] = value;
        event
    };
    let order = OrderId(u128::from(NOW_MS) << 80 | 5_000 << 64);
    let cases = [
        (spoil("shipment_id", Value::Null), "shipment_id", None),
        (spoil("shipment_id", "x".into()), "shipment_id", Some("x")),
        (spoil("shipment_id", format!("{order}-0-0").into()), "shipment_id", Some("01")),
        (spoil("milestone", "accepted".into()), "milestone", Some("accepted")),
        (spoil("milestone", 7.into()), "milestone", Some("7")),
        (spoil("occurred_at", "yesterday".into()), "occurred_at", Some("yesterday")),
        (spoil("occurred_at", "2026-11-11T00:05:01Z".into()), "occurred_at", Some("2026")),
        (spoil("occurred_at", "2026-11-09T00:00:00Z".into()), "occurred_at", Some("2026")),
        (spoil("detail", "x".repeat(201).into()), "detail", Some("xxx")),
        (spoil("detail", "a\nb".into()), "detail", Some("a\nb")),
        (json!("text"), "shipment_id", None),
    ];
    for (bad, field, got) in cases {
        let body = json!({"events": [bad, event("picked_up")]});
        let message = Message { id: bad_id(field), ..Message::new(&body) };
        let (status, _, answer) = message.send(&world).await;
        assert_eq!(status, 200, "{answer}");
        let (first, second) = (&answer["results"][0], &answer["results"][1]);
        assert_eq!((first["status"].as_str(), second["status"].as_str()), (Some("refused"), Some("taken")), "{answer}");
        let error = &first["errors"][0];
        assert_eq!(error["field"], format!("/events/0/{field}"), "{answer}");
        assert!(!error["expected"].as_str().unwrap().is_empty());
        match got {
            Some(got) => assert!(error["got"].as_str().unwrap().starts_with(got), "{answer}"),
            None => assert!(error.get("got").is_none(), "{answer}"),
        }
        // Alone, it is the request that is wrong.
        let (status, _, problem) = Message::new(&json!({"events": [body["events"][0]]})).send(&world).await;
        assert_eq!((status, &problem["errors"][0]), (StatusCode::UNPROCESSABLE_ENTITY, error));
    }
    assert!(world.log.words.lock().unwrap().iter().all(|word| word.contains("picked_up")));
}

/// Messages about different fields are different messages.
fn bad_id(field: &str) -> &'static str {
    match field {
        "shipment_id" => "msg_a",
        "milestone" => "msg_b",
        "occurred_at" => "msg_c",
        _ => "msg_d",
    }
}

fn numbered(number: &str) -> Value {
    json!({"tracking_number": number, "milestone": "delivered", "occurred_at": "2026-11-11T00:00:00Z"})
}

#[tokio::test]
async fn a_tracking_number_stands_for_its_shipments() {
    let world = world();
    let shipments = |n: u8| (0..n).map(|n| ShipmentId { parcel: n, ..shipment().parse().unwrap() }).collect::<Vec<_>>();
    let longest = "⚖".repeat(MAX_TRACKING_NUMBER / 3) + "x";
    *world.numbers.known.lock().unwrap() = vec![
        ("swift", "one".to_owned(), shipments(1)),
        ("swift", longest.clone(), shipments(1)),
        ("swift", "three".to_owned(), shipments(3)),
        ("polar", "polars".to_owned(), shipments(1)),
    ];
    let mut stale = numbered("never");
    stale["occurred_at"] = "2026-11-09T23:59:00Z".into();
    let mut early = numbered("one");
    early["occurred_at"] = "2026-11-09T00:00:00Z".into();
    let events = [
        numbered("one"),
        event("picked_up"),
        numbered("three"),
        numbered("never"),
        stale,
        numbered("polars"),
        early,
        numbered(&longest),
        numbered("one"),
    ];
    let (status, _, answer) = Message::new(&json!({"events": events})).send(&world).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap();
    let statuses: Vec<_> = results.iter().map(|r| r["status"].as_str().unwrap()).collect();
    let wanted = ["taken", "taken", "taken", "unknown", "unknown", "unknown", "refused", "taken", "taken"];
    assert_eq!(statuses, wanted, "{answer}");
    let retry: Vec<_> = results.iter().map(|r| r["retry_after_s"].as_u64()).collect();
    assert_eq!(retry, [None, None, None, Some(60), None, Some(60), None, None, None]);
    assert_eq!(results[6]["errors"][0]["field"], "/events/6/occurred_at");
    assert_eq!(results[6]["errors"][0]["got"], "2026-11-09T00:00:00.000Z");
    assert_eq!(*world.numbers.asked.lock().unwrap(), [5], "each number once, all of them at once");
    let parcels: Vec<String> =
        world.log.words.lock().unwrap().iter().map(|w| w.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(parcels, ["0-0", "1-0", "0-0", "1-0", "2-0", "0-0", "0-0"]);
}

#[tokio::test]
async fn an_unknown_number_is_no_outage_and_an_outage_is_no_unknown_number() {
    let world = world();
    let message = || Message::new(&json!({"events": [numbered("late"), numbered("never")]}));
    let (status, _, answer) = message().send(&world).await;
    assert_eq!((status, &answer["results"][1]["status"]), (StatusCode::OK, &"unknown".into()), "{answer}");
    assert_eq!(world.log.messages.load(SeqCst), 0, "there is nothing to store");
    *world.numbers.away.lock().unwrap() = true;
    let (status, retry_after, _) = message().send(&world).await;
    assert_eq!((status, retry_after.as_deref()), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    *world.numbers.away.lock().unwrap() = false;
    // Known by now: the same message is another one.
    world.numbers.known.lock().unwrap().push(("swift", "late".to_owned(), vec![shipment().parse().unwrap()]));
    let (_, _, answer) = message().send(&world).await;
    assert_eq!((&answer["results"][0]["status"], world.log.messages.load(SeqCst)), (&"taken".into(), 1));
}

#[tokio::test]
async fn an_event_is_told_of_one_thing() {
    let world = world();
    let neither = json!({"milestone": "delivered", "occurred_at": "2026-11-11T00:00:00Z"});
    let mut both = event("delivered");
    both["tracking_number"] = "one".into();
    let events = [
        neither,
        both,
        numbered(""),
        numbered(&"x".repeat(MAX_TRACKING_NUMBER + 1)),
        numbered("a\nb"),
        json!({"tracking_number": 7, "milestone": "delivered", "occurred_at": "2026-11-11T00:00:00Z"}),
    ];
    let (status, _, answer) = Message::new(&json!({"events": events})).send(&world).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let fields: Vec<_> = answer["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    let wanted = [
        "/events/0/shipment_id",
        "/events/1/shipment_id",
        "/events/1/tracking_number",
        "/events/2/tracking_number",
        "/events/3/tracking_number",
        "/events/4/tracking_number",
        "/events/5/tracking_number",
    ];
    assert_eq!(fields, wanted, "{answer}");
    assert!(world.numbers.asked.lock().unwrap().is_empty(), "nothing is looked up for them");
}

#[tokio::test]
async fn so_many_messages_look_numbers_up_at_once() {
    let world = world();
    let gate = Arc::new(Semaphore::new(0));
    *world.numbers.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let message = || Message::new(&json!({"events": [numbered("one")]}));
    let mut waiting: Vec<_> = (0..LOOKUPS_AT_ONCE).map(|_| Box::pin(message().send(&world))).collect();
    for message in &mut waiting {
        assert!(futures_poll(message.as_mut()).is_pending());
    }
    let (status, retry_after, _) = message().send(&world).await;
    assert_eq!((status, retry_after.as_deref()), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    // Who asks for no number isn't held up.
    assert_eq!(Message::new(&json!({"events": [event("picked_up")]})).send(&world).await.0, 200);
    gate.add_permits(LOOKUPS_AT_ONCE + 1);
    for message in waiting {
        assert_eq!(message.await.0, 200);
    }
    assert_eq!(message().send(&world).await.0, 200);
}

fn futures_poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test]
async fn the_last_moment_that_may_be_told_is_taken() {
    let world = world();
    let at = |time: &str| {
        let mut event = event("delivered");
        event["occurred_at"] = time.into();
        event
    };
    let body = json!({"events": [at("2026-11-11T00:05:00.123Z"), at("2026-11-09T23:59:00.123Z"), at("2026-11-11T01:00:00+01:00")]});
    let (status, _, answer) = Message::new(&body).send(&world).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["results"].as_array().unwrap().iter().all(|r| r["status"] == "taken"), "{answer}");
}

#[tokio::test]
async fn only_the_carrier_itself_is_believed() {
    let world = world();
    let message = || Message::new(&json!({"events": [event("delivered")]}));
    let spoilt: [Message; 9] = [
        Message { carrier: "unknown", ..message() },
        Message { carrier: "mute", ..message() },
        Message { key: NEW_KEY, ..message() },
        Message { sent_s: message().sent_s - TOLERANCE_S - 1, ..message() },
        Message { sent_s: message().sent_s + TOLERANCE_S + 1, ..message() },
        Message { change: |r| *r.body_mut() = Body::from("{\"events\":[]}"), ..message() },
        Message { change: |r| drop(r.headers_mut().remove(SIGNATURE_HEADER)), ..message() },
        Message { change: |r| drop(r.headers_mut().remove(ID_HEADER)), ..message() },
        Message { change: |r| drop(r.headers_mut().insert(ID_HEADER, "msg_2".parse().unwrap())), ..message() },
    ];
    let mut answers = Vec::new();
    for message in spoilt {
        let (status, _, answer) = message.send(&world).await;
        assert_eq!(status, 401, "{answer}");
        answers.push(answer);
    }
    assert!(answers.windows(2).all(|w| w[0] == w[1]), "nobody learns what was wrong: {answers:?}");
    assert_eq!(world.log.messages.load(SeqCst), 0);
    for key in [KEY, NEW_KEY] {
        let message =
            Message { carrier: "polar", key, id: if key == KEY { "msg_old" } else { "msg_new" }, ..message() };
        assert_eq!(message.send(&world).await.0, 200, "both keys are valid while one replaces the other");
    }
    let sent_s = message().sent_s - TOLERANCE_S;
    assert_eq!(Message { sent_s, ..message() }.send(&world).await.0, 200);
}

#[tokio::test]
async fn a_message_that_comes_again_is_answered_and_not_stored_again() {
    let world = world();
    let message = || Message::new(&json!({"events": [event("delivered"), json!(1)]}));
    let first = message().send(&world).await;
    world.clock.0.fetch_add(100_000, SeqCst);
    assert_eq!(message().send(&world).await, first);
    assert_eq!((first.0, world.log.messages.load(SeqCst)), (StatusCode::OK, 1));
    // Another carrier's message of that id is another message.
    let other = Message { carrier: "polar", ..message() };
    assert_eq!((other.send(&world).await.0, world.log.messages.load(SeqCst)), (StatusCode::OK, 2));
    assert_eq!(Message { id: "msg_2", ..message() }.send(&world).await.0, 200);
    assert_eq!(world.log.messages.load(SeqCst), 3);
}

#[tokio::test]
async fn nothing_is_called_taken_that_is_not_stored() {
    let world = world();
    // Six minutes ahead of our clock: refused now, and good two minutes later.
    let mut ahead = event("delivered");
    ahead["occurred_at"] = "2026-11-11T00:06:00Z".into();
    let message = || Message::new(&json!({"events": [event("picked_up"), ahead]}));
    let (_, _, answer) = message().send(&world).await;
    assert_eq!(answer["results"][1]["status"], "refused");
    world.clock.0.fetch_add(120_000, SeqCst);
    let (_, _, answer) = message().send(&world).await;
    assert_eq!(answer["results"][1]["status"], "taken");
    assert!(world.log.words.lock().unwrap().iter().any(|word| word.contains("delivered")));
    // Nor under an id that was used for something else.
    let other = Message::new(&json!({"events": [event("in_transit")]}));
    assert_eq!(other.send(&world).await.0, 200);
    assert!(world.log.words.lock().unwrap().iter().any(|word| word.contains("in_transit")));
}

#[tokio::test]
async fn who_asked_may_go_before_it_is_durable() {
    let world = world();
    let gate = Arc::new(Semaphore::new(0));
    *world.log.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let message = || Message::new(&json!({"events": [event("delivered")]}));
    let left = tokio::time::timeout(Duration::from_millis(20), message().send(&world)).await;
    assert!(left.is_err());
    gate.add_permits(1);
    while gate.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    // What follows on the one thread of this test, it does without waiting.
    tokio::task::yield_now().await;
    assert_eq!(message().send(&world).await.0, 200);
    assert_eq!(world.log.messages.load(SeqCst), 1, "it was remembered all the same");
}

#[tokio::test]
async fn more_than_there_is_room_for_is_refused_and_silence_costs_nothing() {
    let world = world();
    // Twenty senders that announce a body and send none of it.
    let silent = |n: usize| {
        let change: fn(&mut Request<Body>) = |r| *r.body_mut() = Body::new(Silent);
        let message = Message { change, ..Message::new(&json!({"n": n})) };
        let World { log, numbers, clock, router } = &world;
        let router = World { log: log.clone(), numbers: numbers.clone(), clock: clock.clone(), router: router.clone() };
        tokio::spawn(async move { message.send(&router).await.0 })
    };
    let waiting: Vec<_> = (0..20).map(silent).collect();
    tokio::task::yield_now().await;
    let message = Message::new(&json!({"events": [event("delivered")]}));
    assert_eq!(message.send(&world).await.0, 200);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn what_found_no_room_is_to_be_sent_again() {
    let world = world();
    let message = || Message::new(&json!({"events": [event("delivered"), event("picked_up")]}));
    *world.log.busy.lock().unwrap() = Some((7, "full"));
    let (status, retry_after, problem) = message().send(&world).await;
    assert_eq!((status, retry_after.as_deref()), (StatusCode::SERVICE_UNAVAILABLE, Some("7")), "{problem}");
    *world.log.busy.lock().unwrap() = None;
    assert_eq!(message().send(&world).await.0, 200);
    assert_eq!(world.log.messages.load(SeqCst), 2, "the first one was not remembered");
}

#[tokio::test]
async fn forms_and_bounds_are_named() {
    let world = world();
    let events = |count: usize| json!({"events": vec![event("delivered"); count]}).to_string();
    let cases = [
        ("{".to_owned(), 400, "malformed"),
        ("[]".to_owned(), 422, "invalid-events"),
        ("{\"events\":{}}".to_owned(), 422, "invalid-events"),
        ("{\"events\":[]}".to_owned(), 422, "invalid-events"),
        (events(MAX_EVENTS + 1), 422, "invalid-events"),
        // Far deeper than anything that reads by calling itself would survive.
        (format!("{{\"events\":{}{}}}", "[".repeat(400_000), "]".repeat(400_000)), 422, "invalid-events"),
        (format!("{{\"events\":[],\"x\":\"{}\"}}", "x".repeat(MAX_EVENTS_BYTES)), 413, "too-large"),
    ];
    for (body, status, kind) in cases {
        let answer = Message { body, ..Message::new(&json!({})) }.send(&world).await;
        assert_eq!(
            (answer.0.as_u16(), answer.2["type"].as_str().unwrap().split(':').next_back()),
            (status, Some(kind))
        );
    }
    let most = Message { body: events(MAX_EVENTS), ..Message::new(&json!({})) }.send(&world).await;
    assert_eq!((most.0.as_u16(), most.2["results"].as_array().unwrap().len()), (200, MAX_EVENTS));
    let plain: fn(&mut Request<Body>) = |r| drop(r.headers_mut().insert("content-type", "text/plain".parse().unwrap()));
    let body = json!({"events": [event("delivered")]});
    assert_eq!(Message { change: plain, id: "msg_2", ..Message::new(&body) }.send(&world).await.0, 415);
    let get: fn(&mut Request<Body>) = |r| *r.method_mut() = axum::http::Method::GET;
    assert_eq!(Message { change: get, ..Message::new(&body) }.send(&world).await.0, 405);
}

#[test]
fn the_oldest_message_is_forgotten_first() {
    let name = |n: usize| Name::of(0, &n.to_string(), &Words::default());
    let mut recent = Recent::default();
    for n in 0..=REMEMBERED {
        recent.note(name(n));
        recent.note(name(n));
    }
    assert_eq!((recent.known.len(), recent.order.len()), (REMEMBERED, REMEMBERED));
    assert!(!recent.has(name(0)) && recent.has(name(1)) && recent.has(name(REMEMBERED)));
    let ids =
        [Name::of(0, "a", &Words::default()), Name::of(1, "a", &Words::default()), Name::of(0, "b", &Words::default())];
    assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
}

#[test]
fn keys_are_one_or_two_and_never_shown() {
    assert_eq!(Teller::new("a", &format!(" {KEY}  {NEW_KEY} ")).unwrap().keys.len(), 2);
    assert_eq!(Teller::new("a", "").unwrap_err(), KeysError::Count(0));
    assert_eq!(Teller::new("a", &[KEY; 3].join(" ")).unwrap_err(), KeysError::Count(3));
    let error = Teller::new("a", "whsec_secret!").unwrap_err();
    assert!(matches!(error, KeysError::Secret(_)) && !error.to_string().contains("secret!"), "{error}");
    assert!(!format!("{:?}", Teller::new("a", KEY).unwrap()).contains("C2FV"));
}

#[test]
fn the_description_covers_every_answer() {
    let document = serde_json::to_value(openapi()).unwrap();
    let responses = &document["paths"]["/v1/carriers/{carrier}/events"]["post"]["responses"];
    for status in ["200", "400", "401", "405", "408", "413", "415", "422", "503"] {
        assert!(responses[status]["content"].is_object(), "{status}");
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
    let names = &document["components"]["schemas"]["Progress"]["enum"];
    let known = sluice_schemas::word::Progress::ALL.map(|p| Value::from(p.name()));
    let listed: Vec<&Value> = document["components"]["schemas"]["Progress"]["oneOf"]
        .as_array()
        .map(|all| all.iter().map(|one| &one["enum"][0]).collect())
        .unwrap_or_else(|| names.as_array().unwrap().iter().collect());
    assert_eq!(listed, known.iter().collect::<Vec<_>>());
    assert_eq!(document["components"]["schemas"]["Events"]["properties"]["events"]["maxItems"], MAX_EVENTS);
}
