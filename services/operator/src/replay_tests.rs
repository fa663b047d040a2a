//! Replays over the route itself, with an owner that decides when the test wants it to.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use sluice_domain::commands::MAX_CANCELS;
use sluice_pipeline::StoredOrder;
use sluice_schemas::{command::Verdict, delta::Delta};

use crate::testing::{self, World, id, row};

fn world(decides: bool, deltas: &[Delta<'_>]) -> Arc<World> {
    testing::world(decides, vec![(id(0), StoredOrder { row: row(deltas), record: Vec::new() })])
}

const DEAD: [Delta<'_>; 2] =
    [Delta::Accepted { position: 1 }, Delta::DeadLettered { parcel: None, rules: 1, reason: "too large", replay: 0 }];

async fn replay(world: &Arc<World>, key: Option<&str>) -> (StatusCode, Value) {
    let path = format!("/v1/operator/orders/{}/replay", id(0));
    let mut request = Request::post(path).header("authorization", "Bearer key");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    world.ask(request.body(Body::empty()).unwrap()).await
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
