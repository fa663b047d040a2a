//! `POST /v1/operator/orders/{id}/replay`: what is dead-lettered of an order is decided anew. The wish goes into the log of the
//! order's partition, where its owner decides; the answer says what the order's row shows then.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sluice_domain::{
    Fingerprint, OrderId, OrderState,
    commands::{MAX_CANCELS, counted, plan_replay},
    order_state::Standing,
};
use sluice_http::{
    Problem, ProblemBody, authenticate_operator, body::bad_header, idempotency_key, key::HEADER, operator_name,
    responses,
};
use sluice_schemas::command::{Command, Verdict, Wish};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use crate::{
    App, answer,
    decide::{decide, fold, known, too_many_commands},
    hops::verdict_name,
    load,
    trace::{class_name, order_as_text},
    unknown,
};

/// Replays that wait for their decision at once; more are answered 503.
pub const MAX_REPLAYING: usize = 64;
/// What became of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReplayAnswer)]
pub struct Replayed<'a> {
    /// The order's id.
    #[serde(serialize_with = "order_as_text")]
    #[schema(value_type = String, min_length = 26, max_length = 26, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    pub id: OrderId,
    /// `replayed`: decided anew, whatever came of it; `nothing_to_replay`: nothing was dead-lettered; `not_replayable`: a
    /// carrier may have what is, or its merchant has had shipments forgotten; `too_many_replays`: 7 are kept of an order;
    /// `undecided`: its owner has not come to it yet.
    #[schema(value_type = String, pattern = "^(replayed|nothing_to_replay|not_replayable|too_many_replays|undecided)$",
        example = "replayed")]
    pub outcome: &'static str,
    /// Number of the replay among those of the order, from 1; null if nothing was replayed.
    #[schema(required = true, minimum = 1, maximum = 7)]
    pub replay: Option<u8>,
    /// What the order counts as now: `in_flight`, `dead_lettered`, `finished` or `cancelled`.
    #[schema(value_type = String, example = "in_flight")]
    pub class: &'static str,
    /// What is dead-lettered of it now.
    #[schema(max_items = 201)]
    pub dead_letters: Vec<DeadNow<'a>>,
}

/// What nobody carries, as of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReplayDeadLetter)]
pub struct DeadNow<'a> {
    /// The parcel; null: the whole order.
    #[schema(required = true, maximum = 199)]
    pub parcel: Option<u8>,
    /// Why.
    pub reason: &'a str,
}

/// Names one replay.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes the header")]
pub(crate) struct ReplayKeyHeader {
    /// Names this replay among those of the order; the same on every retry. Visible ASCII; may be sent as a quoted string.
    #[param(
        rename = "Idempotency-Key",
        required = false,
        min_length = 1,
        max_length = 255,
        pattern = r#"^([!#-~][!-~]*|"([!#-\[\]-~]|\\["\\])+")$"#,
        example = "replay-1"
    )]
    idempotency_key: Option<String>,
}

/// Replay one order's dead letters
///
/// A whole order that no stage could decide is classified, split and routed by the rules of today. A parcel that nobody took
/// is routed again; one whose carrier was given up goes to that carrier again, under the same shipment id, since it may have
/// it. What is not dead-lettered now is left alone, so repeating this does no harm; with an `Idempotency-Key` it has one effect
/// even if the order is dead-lettered again in between. The customer's status does not go back: it stays `dead_lettered`, and
/// what carriers do from now on is on the time line.
#[utoipa::path(
    post,
    path = "/v1/operator/orders/{id}/replay",
    operation_id = "replay_operator_order",
    tag = "operator",
    security(("operator_key" = [])),
    params(
        ("id" = String, Path, description = "The order's id", min_length = 26, max_length = 26,
            pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "01M6VZ4W3V00J8Z8M3C0V9S1QK"),
        ReplayKeyHeader,
    ),
    responses(
        (status = 200, description = "It is decided.", body = Replayed<'static>, content_type = "application/json"),
        (status = 202, description = "It is in the log and not decided yet: `undecided`; ask again with the same key.",
         body = Replayed<'static>, content_type = "application/json"),
        ReplayProblems,
        responses::OperatorsOnly,
        responses::PostOnly,
    )
)]
pub(crate) async fn replay_order(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let started = app.operator.clock.monotonic_us();
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let response = replay(&app, &id, &headers).await.unwrap_or_else(IntoResponse::into_response);
    app.meters.replay.record(response.status(), app.operator.clock.monotonic_us().saturating_sub(started));
    response
}

async fn replay(app: &App, id: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    authenticate_operator(headers, &app.operator.operators)?;
    let key = match headers.contains_key(HEADER) {
        true => Some(idempotency_key(headers).map_err(bad_header)?),
        false => None,
    };
    let id: OrderId = id.parse().map_err(|_| unknown())?;
    let full = |_| Problem::unavailable("As many replays are being decided as this node waits for at once.", 1);
    let _place = app.replaying.try_acquire().map_err(full)?;
    let stored = load(app, id).await?;
    let now_ms = app.operator.clock.now_ms();
    // Two wishes of one millisecond are one.
    let name = key.as_ref().map_or_else(|| format!("replay {id} at {now_ms}"), |key| format!("replay {id} by {key}"));
    let command = Fingerprint::of("", &name).low();
    let state = fold(id, &stored)?;
    if known(&state, command).is_some() {
        return shown(&state, command, None);
    }
    // Without a key nobody can ask what became of this one.
    if key.is_none()
        && let Err(verdict) = plan_replay(&state)
    {
        return shown(&state, command, Some(verdict));
    }
    if counted(&state) >= MAX_CANCELS {
        return Err(too_many_commands(MAX_CANCELS, "replays"));
    }
    let by = operator_name(headers);
    let command = Command { order: id.0, id: command, at_ms: now_ms, wish: Wish::Replay { by: &by } };
    tracing::info!(order_id = %id, by, "dead letters are replayed");
    let stored = decide(app, &command, stored.clone()).await?;
    shown(&fold(id, &stored)?, command.id, None)
}

/// What the order shows of the command, or what is said instead.
fn shown(state: &OrderState<'_>, command: u64, instead: Option<Verdict>) -> Result<Response, Problem> {
    let verdict = instead.or_else(|| known(state, command));
    let whole = state.dead_letter.filter(|_| state.is_dead_lettered());
    let whole = whole.map(|dead| DeadNow { parcel: None, reason: dead.reason });
    let parcels = state.parcels.iter().filter(|p| p.standing() == Standing::DeadLettered);
    let parcels = parcels.filter_map(|p| Some(DeadNow { parcel: Some(p.number), reason: p.dead_letter?.reason }));
    let shown = Replayed {
        id: state.id,
        outcome: match verdict {
            Some(Verdict::Done) => "replayed",
            Some(verdict) => verdict_name(verdict),
            None => "undecided",
        },
        replay: state.replays.iter().find(|replay| replay.command == command).map(|replay| replay.number),
        class: class_name(state.class()),
        dead_letters: whole.into_iter().chain(parcels).collect(),
    };
    let json = serde_json::to_vec(&shown).map_err(|error| {
        tracing::error!(order_id = %state.id, %error, "an answer could not be written");
        Problem::unavailable("The answer could not be written; ask again.", 1)
    })?;
    let mut response = answer(json);
    *response.status_mut() = if verdict.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(response)
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub(crate) enum ReplayProblems {
    /// The `Idempotency-Key` is none.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(ProblemBody<'static>),
    /// No order has this id.
    #[response(status = 404, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds; present while the order may still be on its way")))]
    Unknown(ProblemBody<'static>),
    /// The order has had 64 commands of its merchant's and of operators; no more replays are kept.
    #[response(status = 409, content_type = "application/problem+json")]
    TooMany(ProblemBody<'static>),
    /// The order can't be read or its log can't be written now, or as many are being decided as the node waits for.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
