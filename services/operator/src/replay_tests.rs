//! Replays over the route itself, with an owner that decides when the test wants it to.

use std::sync::{Arc, Mutex};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use sluice_domain::{Fingerprint, KeyHash, Operators, OrderId, SlotCount, commands::MAX_CANCELS};
use sluice_pipeline::{BoxFuture, Clock, LogError, Orders, Receipt, StoredOrder, WordIntake, Words};
use sluice_schemas::{
    command::{Command, Verdict, Wish},
    delta::Delta,
};
use tower::ServiceExt;

use crate::{Deliveries, Operator, WebhookTrace, router};

const AT: u64 = 1_794_355_200_000;

/// Rows by themselves; commands are decided at once, or never.
struct World {
    row: Mutex<Vec<u8>>,
    heard: Mutex<Vec<u64>>,
    decides: bool,
}

impl Orders for World {
    fn read(&self, _: OrderId) -> BoxFuture<'_, Result<Option<StoredOrder>, LogError>> {
        let row = self.row.lock().unwrap().clone();
        Box::pin(async move { Ok(Some(StoredOrder { row, record: Vec::new() })) })
    }
}

impl WordIntake for World {
    fn hear(&self, words: Words) -> BoxFuture<'_, Vec<Receipt>> {
        let command = Command::decode(&words.bytes).unwrap();
        assert!(matches!(command.wish, Wish::Replay { by } if by == Operators::name("key")));
        self.heard.lock().unwrap().push(command.id);
        if self.decides {
            let (mut row, id) = (self.row.lock().unwrap(), command.id);
            Delta::Commanded { id, verdict: Verdict::Done }.encode(90, &mut row);
            Delta::Replayed { parcel: None, replay: 1, attempt: 0, command: id, by: "operator" }.encode(90, &mut row);
        }
        Box::pin(async { vec![Receipt::Accepted] })
    }
}

impl Clock for World {
    fn now_ms(&self) -> u64 {
        AT + 60_000
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

impl Deliveries for World {
    fn of(&self, _: Option<&str>, _: OrderId) -> Result<Vec<WebhookTrace>, LogError> {
        Ok(Vec::new())
    }
}

fn world(decides: bool, deltas: &[Delta<'_>]) -> Arc<World> {
    let mut row = Vec::new();
    deltas.iter().for_each(|delta| delta.encode(5, &mut row));
    Arc::new(World { row: Mutex::new(row), heard: Mutex::default(), decides })
}

const DEAD: [Delta<'_>; 2] =
    [Delta::Accepted { position: 1 }, Delta::DeadLettered { parcel: None, rules: 1, reason: "too large", replay: 0 }];

async fn replay(world: &Arc<World>, key: Option<&str>) -> (StatusCode, Value) {
    let operators = Arc::new(Operators::new(vec![KeyHash::of("key").unwrap()]));
    let (orders, words, clock) = (world.clone(), world.clone(), world.clone());
    let id = OrderId::new(AT, Fingerprint::of("m-1", "k-1"), SlotCount::DEFAULT);
    let mut request = Request::post(format!("/v1/operator/orders/{id}/replay")).header("authorization", "Bearer key");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let deliveries = world.clone();
    let routes = router(Operator { orders, words, deliveries, operators, clock });
    let response = routes.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_takes_its_time_is_said_so() {
    let world = world(false, &DEAD);
    let (status, answer) = replay(&world, Some("k")).await;
    assert_eq!((status, &answer["outcome"]), (StatusCode::ACCEPTED, &json!("undecided")), "{answer}");
    assert_eq!(answer["dead_letters"], json!([{"parcel": null, "reason": "too large"}]));
    // Asked again it is the same wish.
    replay(&world, Some("k")).await;
    let heard = world.heard.lock().unwrap().clone();
    assert!(heard.len() == 2 && heard[0] == heard[1], "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_has_one_answer() {
    let world = world(true, &DEAD);
    let first = replay(&world, Some("k")).await;
    assert_eq!((first.0, &first.1["outcome"], &first.1["replay"]), (StatusCode::OK, &json!("replayed"), &json!(1)));
    assert_eq!((&first.1["class"], &first.1["dead_letters"]), (&json!("in_flight"), &json!([])));
    assert_eq!(replay(&world, Some("k")).await, first);
    assert_eq!(world.heard.lock().unwrap().len(), 1);
    // Without one nothing is written down about what is no dead letter.
    let (status, answer) = replay(&world, None).await;
    assert_eq!((status, &answer["outcome"]), (StatusCode::OK, &json!("nothing_to_replay")));
    assert_eq!((&answer["replay"], world.heard.lock().unwrap().len()), (&Value::Null, 1));
}

#[tokio::test(start_paused = true)]
async fn an_order_keeps_so_many_commands() {
    let commands = (0..MAX_CANCELS as u64).map(|id| Delta::Commanded { id, verdict: Verdict::NothingToReplay });
    let world = world(true, &DEAD.into_iter().chain(commands).collect::<Vec<_>>());
    let (status, problem) = replay(&world, Some("k")).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:sluice:problem:too-many-commands")));
    let (status, problem) = replay(&world, Some("k k")).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("Idempotency-Key")));
    assert_eq!(world.heard.lock().unwrap().len(), 0);
}
