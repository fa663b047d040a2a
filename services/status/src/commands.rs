//! What a merchant wants done with an order that is on its way: `POST /v1/orders/{id}/cancel` and
//! `POST /v1/orders/{id}/returns`. A wish goes into the log of the order's partition, where its owner decides; the answer says
//! what the order's row shows then.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sluice_domain::{
    Fingerprint, Merchant, OrderId, OrderState,
    commands::{Cancelling, MAX_CANCELS, MAX_COMMANDS, counted, plan_return},
    limits::MAX_RETURN_BYTES,
};
use sluice_http::{
    FieldError, Problem, authenticate,
    body::{Incoming, SharedRoom, bad_header, require_type, too_slow},
    idempotency_key, responses,
};
use sluice_pipeline::{Receipt, StoredOrder, Words};
use sluice_schemas::{
    CodecError,
    command::{Command, Lines, ReturnLine, Verdict, Wish},
    order::OrderRef,
    wire::Reader,
};

use crate::{
    App, commands_openapi as openapi, damaged, load,
    returns_body::{self, Wanted},
    view::{return_views, view_of_cancelling},
};

/// How long an answer waits for the owner's decision.
const WAIT: Duration = Duration::from_secs(2);
/// Wishes that wait for a decision at once.
pub(crate) const DECIDED_AT_ONCE: usize = 256;
/// First and longest pause between two looks at the row.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(160));
/// Time that a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Cancel an order
///
/// Parcels are looked at one by one. A carrier that has taken one and not moved it is asked to forget it, if that carrier
/// does so; its answer decides,
/// and until it comes the parcel is `void_requested`. A parcel that a carrier is still being asked to take, or nobody knows
/// whether it took, is `already_requested`: cancel again once that is known. 409 if nothing is, or can become, cancelled.
/// Cancelling again changes nothing about what was asked already.
#[utoipa::path(
    post,
    path = "/v1/orders/{id}/cancel",
    operation_id = "cancel_order",
    tag = "orders",
    security(("api_key" = [])),
    params(openapi::OrderPath),
    responses(
        (status = 200, description = "Everything that can be cancelled is.", body = openapi::Cancelled<'static>,
         content_type = "application/json"),
        (status = 202, description = "Carriers are asked; read the order to see their answers.",
         body = openapi::Cancelled<'static>, content_type = "application/json"),
        openapi::CancelProblems,
        responses::Unauthorized,
        responses::PostOnly,
    )
)]
pub(crate) async fn cancel_order(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let started = app.status.clock.monotonic_us();
    let response = match cancel(&app, id, &headers).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    app.meters.cancel.record(response.status(), app.status.clock.monotonic_us().saturating_sub(started));
    response
}

async fn cancel(app: &App, id: Result<Path<String>, PathRejection>, headers: &HeaderMap) -> Result<Response, Problem> {
    let (merchant, id) = who(app, id, headers)?;
    let stored = load(&app.status, &merchant, id).await?;
    let state = fold(id, &stored)?;
    let standings = |state: &OrderState<'_>| state.parcels.iter().map(|p| Cancelling::of(state, p)).collect::<Vec<_>>();
    let now = standings(&state);
    if !now.iter().any(|now| matches!(now, Cancelling::Voidable | Cancelling::OnHold)) {
        return cancelled(&state, &now, None);
    }
    room_for_another(&state, MAX_CANCELS)?;
    let now_ms = app.status.clock.now_ms();
    // Two wishes of one millisecond are one.
    let name = Fingerprint::of(&merchant.id, &format!("cancel {id} {now_ms}"));
    let command = Command { order: id.0, id: name.low(), at_ms: now_ms, wish: Wish::Cancel };
    let (stored, known) = decide(app, &merchant, &command, stored.clone()).await?;
    let state = fold(id, &stored)?;
    cancelled(&state, &standings(&state), known.map(|(_, verdict)| verdict))
}

/// The answer to the wish to cancel an order whose parcels stand like that; `verdict` is what its owner has decided.
fn cancelled(state: &OrderState<'_>, now: &[Cancelling], verdict: Option<Verdict>) -> Result<Response, Problem> {
    let waits = now.iter().any(|c| match c {
        // Until its owner has decided. A carrier that forgets nothing leaves its parcels voidable, and nothing to wait for.
        Cancelling::Voidable | Cancelling::OnHold => verdict.is_none(),
        Cancelling::VoidRequested => true,
        _ => false,
    });
    let done = now.contains(&Cancelling::Cancelled);
    if waits || done {
        let waits = waits || now.contains(&Cancelling::AlreadyRequested);
        let status = if waits { StatusCode::ACCEPTED } else { StatusCode::OK };
        return json(status, state.id, &view_of_cancelling(state));
    }
    let already = now.contains(&Cancelling::AlreadyRequested) || state.classified.is_none();
    let (kind, title, detail) = match already {
        true => (
            "already-requested",
            "Already requested",
            "A carrier is being asked to take the order; cancel again once it has answered.",
        ),
        false => ("not-cancellable", "Not cancellable", "Nothing of the order can be cancelled."),
    };
    let error = |(number, standing): (usize, &Cancelling)| {
        let expected = "a parcel that its carrier has taken and not moved";
        FieldError::wrong(format!("/parcels/{number}"), expected, standing.name())
    };
    let errors = now.iter().enumerate().map(error).take(10).collect();
    Err(Problem::new(StatusCode::CONFLICT, kind, title, detail).with_errors(errors))
}

/// Return delivered goods
///
/// A carrier is asked to collect them from the customer: one return parcel for each parcel in which they were delivered, with
/// a time line of its own that ends in `returned`. Repeat with the same `Idempotency-Key` and body after anything that left
/// the outcome open: the answer shows the same parcels, and nothing comes back twice. If there is none in it, the decision
/// is still under way.
#[utoipa::path(
    post,
    path = "/v1/orders/{id}/returns",
    operation_id = "return_goods",
    tag = "orders",
    security(("api_key" = [])),
    params(openapi::OrderPath, openapi::ReturnKeyHeader),
    request_body(content = openapi::ReturnRequest, content_type = "application/json", description = "At most 65,536 bytes."),
    responses(
        (status = 202, description = "Carriers are asked; read the order to follow the parcels.",
         body = openapi::Returned<'static>, content_type = "application/json"),
        openapi::ReturnProblems,
        responses::Unauthorized,
        responses::PostOnly,
    )
)]
pub(crate) async fn return_goods(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let started = app.status.clock.monotonic_us();
    let response = match bring_back(&app, id, request).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    app.meters.returns.record(response.status(), app.status.clock.monotonic_us().saturating_sub(started));
    response
}

async fn bring_back(app: &App, id: Result<Path<String>, PathRejection>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let (merchant, id) = who(app, id, &parts.headers)?;
    require_type(&parts.headers, "application/json")?;
    let key = idempotency_key(&parts.headers).map_err(bad_header)?;
    let body = read_body(app, body, &parts.headers).await?;
    let stored = load(&app.status, &merchant, id).await?;
    let ordered = units(&stored).map_err(|error| damaged(id, error))?;
    let wanted = returns_body::read(&body, &ordered)?;
    let lines = wanted.quantities.iter().zip(&ordered).map(|(&quantity, &ordered)| ReturnLine { quantity, ordered });
    let mut encoded = Vec::new();
    Lines::encode(&lines.collect::<Vec<_>>(), &mut encoded);
    let lines = Lines::read(&mut Reader::new(&encoded)).map_err(|error| damaged(id, error))?;
    let wish = Wish::Return { reason: &wanted.reason, lines };
    let name = command_id(&merchant, id, &key, &wanted);
    let command = Command { order: id.0, id: name, at_ms: app.status.clock.now_ms(), wish };
    let state = fold(id, &stored)?;
    let known = decided(&state, name);
    if known.is_none() {
        room_for_another(&state, MAX_COMMANDS)?;
        plan_return(&state, lines).map_err(refused)?;
    }
    let (stored, known) = match known {
        Some(known) => (stored.clone(), Some(known)),
        None => decide(app, &merchant, &command, stored.clone()).await?,
    };
    match known {
        Some((other, _)) if other != name => Err(key_reused()),
        Some((_, Verdict::Done)) | None => {
            let returns = return_views(&stored, name).map_err(|error| damaged(id, error))?;
            json(StatusCode::ACCEPTED, id, &openapi::Returned { returns })
        }
        Some((_, verdict)) => Err(refused(verdict)),
    }
}

fn json(status: StatusCode, id: OrderId, answer: &impl Serialize) -> Result<Response, Problem> {
    let json = serde_json::to_vec(answer).map_err(|error| {
        tracing::error!(order_id = %id, %error, "an answer could not be written");
        Problem::unavailable("The answer could not be written; ask again.", 1)
    })?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// Who asks, and about which order.
fn who(
    app: &App,
    id: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
) -> Result<(Merchant, OrderId), Problem> {
    let merchant = authenticate(headers, &app.status.merchants)?;
    let id = id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| Problem::not_found(crate::UNKNOWN))?;
    Ok((merchant, id))
}

async fn read_body(app: &App, body: Body, headers: &HeaderMap) -> Result<axum::body::Bytes, Problem> {
    let mut room = SharedRoom::new(&app.room, "As many returns are being read as this node takes at once.");
    let mut incoming = Incoming::new(body, headers, MAX_RETURN_BYTES, &mut room);
    tokio::time::timeout(BODY_TIMEOUT, incoming.whole()).await.unwrap_or_else(|_| Err(too_slow()))
}

/// Has the order's owner decide, and waits a while for what it makes of the wish. Gives the order as it is then, and what
/// [`decided`] says by then.
async fn decide(
    app: &App,
    merchant: &Merchant,
    command: &Command<'_>,
    mut stored: StoredOrder,
) -> Result<(StoredOrder, Option<(u64, Verdict)>), Problem> {
    let id = OrderId(command.order);
    let full = "As many cancellations and returns are being decided as this node waits for at once.";
    let _waiting = app.deciding.try_acquire().map_err(|_| Problem::unavailable(full, 1))?;
    match app.status.words.hear(Words::of_command(command)).await.first() {
        Some(Receipt::Busy { retry_after_s, reason }) => return Err(Problem::unavailable(*reason, *retry_after_s)),
        Some(_) => {}
        None => {
            tracing::error!(order_id = %id, "the engine gave no receipt for a command");
            return Err(Problem::unavailable("The engine did not say what became of it; send it again.", 1));
        }
    }
    let deadline = tokio::time::Instant::now() + WAIT;
    let mut pause = PAUSES.0;
    loop {
        stored = match load(&app.status, merchant, id).await {
            // It is over, and was let go meanwhile.
            Err(problem) if problem.status == StatusCode::NOT_FOUND => return Err(problem),
            read => read.unwrap_or(stored),
        };
        let known = decided(&fold(id, &stored)?, command.id);
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if known.is_some() || left.is_zero() {
            return Ok((stored, known));
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// What was decided about the command of this id, or about another one of the same idempotency key, with that one's id.
fn decided(state: &OrderState<'_>, command: u64) -> Option<(u64, Verdict)> {
    state.commands.iter().find(|c| c.0 >> 32 == command >> 32).map(|c| (c.0, c.1))
}

fn fold(id: OrderId, stored: &StoredOrder) -> Result<OrderState<'_>, Problem> {
    OrderState::fold(id, &stored.row).map_err(|error| damaged(id, error))
}

/// Units of each line of the order.
fn units(stored: &StoredOrder) -> Result<Vec<u32>, CodecError> {
    OrderRef::decode(&stored.record)?.lines().map(|line| line.map(|line| line.quantity)).collect()
}

/// Half of it names the key, half the wish: the same key for another wish shows.
fn command_id(merchant: &Merchant, id: OrderId, key: &str, wanted: &Wanted) -> u64 {
    let of = |text: String| Fingerprint::of(&merchant.id, &text).low();
    let wish = of(format!("{:?} {}", wanted.quantities, wanted.reason));
    of(format!("return {id} {key}")) << 32 | wish & u64::from(u32::MAX)
}

fn room_for_another(state: &OrderState<'_>, most: usize) -> Result<(), Problem> {
    if counted(state) < most {
        return Ok(());
    }
    let detail = format!("The order has had {most} cancellations and returns; no more of this are kept.");
    Err(Problem::new(StatusCode::CONFLICT, "too-many-commands", "Too many commands", detail))
}

fn refused(verdict: Verdict) -> Problem {
    let (kind, title, detail) = match verdict {
        Verdict::TooManyReturns => {
            ("too-many-returns", "Too many returns", "The order has as many return parcels as it may have.")
        }
        _ => (
            "not-returnable",
            "Not returnable",
            "Not so many units of these lines have been delivered and are not on their way back already.",
        ),
    };
    Problem::new(StatusCode::CONFLICT, kind, title, detail)
}

fn key_reused() -> Problem {
    let detail = "This idempotency key was used for another return of this order.";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", "Idempotency key reused", detail)
        .with_errors(vec![FieldError::missing("Idempotency-Key", "a key of its own for every return")])
}
