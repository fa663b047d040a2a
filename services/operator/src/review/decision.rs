//! `POST /v1/review/{id}`: a person says what is in a parcel that waits. The wish goes into the log of the order's partition, where
//! its owner releases the parcel; what else it is kept for is written once that is so.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use sluice_domain::{
    Fingerprint, OrderId, OrderState,
    commands::{MAX_COMMANDS, counted, plan_review},
    limits::MAX_REVIEW_BYTES,
    order_state::{Parcel, Reviewed},
};
use sluice_http::{
    FieldError, Problem, ProblemBody, authenticate_operator,
    body::{Incoming, SharedRoom, require_type, too_slow},
    operator_name, responses,
};
use sluice_pipeline::StoredOrder;
use sluice_schemas::{
    CodecError,
    command::{Command, Keep, Verdict, Wish},
    milestone::Milestone,
    order::OrderRef,
};
use utoipa::{IntoResponses, ToSchema};

use super::body::{self, Decision};
use crate::{
    App, UNREADABLE, answer,
    decide::{decide, fold, known, too_many_commands},
    hops::class_name,
    kept::{Lesson, blocking, parcel_id, parse_parcel_id},
    load,
    trace::as_name,
    unknown,
};

/// Reviews that wait for their decision at once; more are answered 503.
pub const MAX_REVIEWING: usize = 64;
/// Bodies that are being read at once may take so much memory, KiB.
pub(crate) const ROOM_KIB: usize = 64;
/// Time that a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const UNKEPT: &str = "What is to be kept of the decision can't be read or written now; send it again.";

/// What a reviewer says of a parcel.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReviewDecision)]
#[expect(dead_code, reason = "describes the body, which is read without it")]
pub(crate) struct DecisionBody {
    /// What is in it: a handling class.
    #[schema(
        pattern = "^(chilled|fresh_produce|ambient_food|ambient_general|otc_health|frozen|age_restricted|hazmat_check|live_plant|non_goods)$",
        example = "frozen"
    )]
    handling: String,
    /// What else the decision is kept for: `rule`, lines of the same text are decided so from now on; `row`, the next model learns
    /// from it; null, nothing.
    #[schema(required = false, nullable = true, pattern = "^(rule|row)$", example = "rule")]
    keep: Option<String>,
}

/// What became of a decision.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReviewAnswer)]
pub(crate) struct Answer<'a> {
    /// The order and the parcel.
    #[schema(example = "01M6VZ4W3V00J8Z8M3C0V9S1QK-1")]
    id: String,
    /// `released`: it goes on as what it is said to be; `not_held`: it doesn't wait, and never did; `undecided`: its owner has
    /// not come to it yet.
    #[schema(value_type = String, pattern = "^(released|not_held|undecided)$", example = "released")]
    outcome: &'static str,
    /// What it was decided as; null unless it is released.
    #[schema(required = true, value_type = Option<String>, example = "frozen")]
    handling: Option<&'static str>,
    /// What else that is kept for: `rule`, `row`, or null.
    #[schema(required = true, value_type = Option<String>, example = "rule")]
    kept: Option<&'static str>,
    /// The parcel as it is now.
    parcel: ParcelNow<'a>,
}

/// A parcel that was reviewed, as of now.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReviewedParcel)]
pub(crate) struct ParcelNow<'a> {
    /// From 0.
    #[schema(maximum = 199)]
    number: u8,
    /// As the customer sees it.
    #[serde(serialize_with = "as_name")]
    #[schema(value_type = String, pattern = "^[a-z_]+$", example = "carrier_requested")]
    status: Milestone,
    /// The carrier that was last asked, or took it; null if none was.
    #[schema(required = true, example = "swift")]
    carrier: Option<&'a str>,
    /// Why nobody carries it; null if it isn't dead-lettered.
    #[schema(required = true)]
    dead_letter: Option<&'a str>,
}

/// Decide what is in a parcel that waits
///
/// The parcel goes on at once, to a carrier that takes such goods. A decision has its effect once: the same one sent again is
/// answered the same, and another one about the same parcel is refused with 409. With `keep` it is kept, too, as a rule or for
/// training; repeat the request after anything that left the outcome open, and it is kept after all.
#[utoipa::path(
    post,
    path = "/v1/review/{id}",
    operation_id = "review_parcel",
    tag = "operator",
    security(("operator_key" = [])),
    params(("id" = String, Path, description = "`id` of the list: order and parcel", min_length = 28, max_length = 30,
        pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}-(0|[1-9][0-9]?|1[0-9]{2})$", example = "01M6VZ4W3V00J8Z8M3C0V9S1QK-1")),
    request_body(content = DecisionBody, content_type = "application/json", description = "At most 1,024 bytes."),
    responses(
        (status = 200, description = "It is decided.", body = Answer<'static>, content_type = "application/json"),
        (status = 202, description = "It is in the log and not decided yet: `undecided`; send the same again.",
         body = Answer<'static>, content_type = "application/json"),
        ReviewProblems,
        responses::OperatorsOnly,
        responses::PostOnly,
    )
)]
pub(crate) async fn review_parcel(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let started = app.operator.clock.monotonic_us();
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let response = review(&app, &id, request).await.unwrap_or_else(IntoResponse::into_response);
    app.meters.decision.record(response.status(), app.operator.clock.monotonic_us().saturating_sub(started));
    response
}

async fn review(app: &App, id: &str, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    authenticate_operator(&parts.headers, &app.operator.operators)?;
    let (order, number) = parse_parcel_id(id).ok_or_else(unknown)?;
    require_type(&parts.headers, "application/json")?;
    let decision = body::read(&read_body(app, body, &parts.headers).await?)?;
    let full = |_| Problem::unavailable("As many reviews are being decided as this node waits for at once.", 1);
    let _place = app.reviewing.try_acquire().map_err(full)?;
    let stored = load(app, order).await?;
    let wish = Asked { order, number, decision, command: command_id(id, decision) };
    let state = fold(order, &stored)?;
    let parcel = find(&state, number)?;
    if parcel.reviewed.is_some() || known(&state, wish.command).is_some() {
        return wish.close(app, &stored, None).await;
    }
    // Nothing is written down about what doesn't wait.
    if let Err(verdict) = plan_review(&state, number, decision.handling as u8) {
        return wish.close(app, &stored, Some(verdict)).await;
    }
    if counted(&state) >= MAX_COMMANDS {
        return Err(too_many_commands(MAX_COMMANDS, "reviews"));
    }
    wish.find_room(app, &stored).await?;
    let by = operator_name(&parts.headers);
    let review = Wish::Review { parcel: number, handling: decision.handling as u8, keep: decision.keep, by: &by };
    let command = Command { order: order.0, id: wish.command, at_ms: app.operator.clock.now_ms(), wish: review };
    tracing::info!(order_id = %order, parcel = number, handling = decision.handling.name(), by, "a parcel is reviewed");
    let stored = decide(app, &command, stored.clone()).await?;
    wish.close(app, &stored, None).await
}

async fn read_body(app: &App, body: Body, headers: &HeaderMap) -> Result<Bytes, Problem> {
    let mut room = SharedRoom::new(&app.review_room, "As many reviews are being read as this node takes at once.");
    let mut incoming = Incoming::new(body, headers, MAX_REVIEW_BYTES, &mut room);
    tokio::time::timeout(BODY_TIMEOUT, incoming.whole()).await.unwrap_or_else(|_| Err(too_slow()))
}

/// The same whenever the same is said of the same parcel, whoever says it.
fn command_id(parcel: &str, Decision { handling, keep }: Decision) -> u64 {
    let keep = keep.name().unwrap_or("nothing");
    Fingerprint::of("", &format!("review {parcel} as {} for {keep}", handling.name())).low()
}

fn find<'s, 'a>(state: &'s OrderState<'a>, number: u8) -> Result<&'s Parcel<'a>, Problem> {
    let detail = "The order has no parcel of this number; GET /v1/review lists what waits.";
    let missing = || Problem { kind: "unknown-parcel", ..Problem::not_found(detail) };
    state.parcels.iter().find(|parcel| parcel.number == number).ok_or_else(missing)
}

/// What is asked for.
struct Asked {
    order: OrderId,
    number: u8,
    decision: Decision,
    command: u64,
}

impl Asked {
    /// What the decision teaches about the parcel's line.
    fn lesson(&self, stored: &StoredOrder, (by, at): (&str, u64)) -> Result<Lesson, CodecError> {
        let record = OrderRef::decode(&stored.record)?;
        let state = OrderState::fold(self.order, &stored.row)?;
        let missing = CodecError { what: "line of a held parcel" };
        let held = state.parcels.iter().find(|parcel| parcel.number == self.number).and_then(|parcel| parcel.held);
        let item = held.and_then(|held| held.items.iter().next()).ok_or(missing)?;
        let line = record.lines().nth(usize::from(item.line)).transpose()?.ok_or(missing)?;
        Ok(Lesson {
            title: line.title.to_owned(),
            sku: line.sku.to_owned(),
            merchant: record.merchant.to_owned(),
            handling: self.decision.handling.name().to_owned(),
            by: by.to_owned(),
            at,
            order: self.order.to_string(),
            parcel: self.number,
        })
    }

    fn readable<T>(&self, read: Result<T, CodecError>) -> Result<T, Problem> {
        read.map_err(|error| {
            tracing::error!(order_id = %self.order, %error, "a stored order can't be read");
            Problem::unavailable(UNREADABLE, 1)
        })
    }

    /// Refuses what could not be kept, before it is decided.
    async fn find_room(&self, app: &App, stored: &StoredOrder) -> Result<(), Problem> {
        let keep = self.decision.keep;
        if keep == Keep::No {
            return Ok(());
        }
        let kept = &app.operator.kept;
        let Lesson { title, .. } = self.readable(self.lesson(stored, ("", 0)))?;
        if keep == Keep::Rule && (kept.title_key)(&title).is_empty() {
            let expected = "`row` or null: the title has no words that a rule could go by";
            return Err(body::invalid(vec![FieldError::wrong("/keep", expected, "rule")]));
        }
        let id = kept.id_of(keep, &title, &parcel_id(self.order, self.number));
        if blocking(kept, UNKEPT, move |kept| kept.has_room(keep, &id)).await? {
            return Ok(());
        }
        let name = keep.name().unwrap_or_default();
        let detail = format!(
            "As many {name}s are kept as may be. Train a model with what is kept (GET /v1/review/kept?keep={name}), take back \
             those that it knows, or decide without `keep`."
        );
        Err(Problem::new(StatusCode::CONFLICT, "too-many-kept", "Too many decisions kept", detail))
    }

    /// What the order shows of the decision, or what is said instead; what is to be kept of it is, before that is said.
    async fn close(&self, app: &App, stored: &StoredOrder, instead: Option<Verdict>) -> Result<Response, Problem> {
        let state = fold(self.order, stored)?;
        let parcel = find(&state, self.number)?;
        let released = parcel.reviewed.is_some();
        if let Some(reviewed) = parcel.reviewed {
            self.is_own(&reviewed)?;
            self.keep(app, stored, &reviewed).await?;
        }
        let verdict = instead.or_else(|| known(&state, self.command));
        let Decision { handling, keep } = self.decision;
        let shown = Answer {
            id: parcel_id(self.order, self.number),
            outcome: match (released, verdict) {
                (true, _) => "released",
                (false, Some(_)) => "not_held",
                (false, None) => "undecided",
            },
            handling: released.then(|| handling.name()),
            kept: keep.name().filter(|_| released),
            parcel: now(&state, parcel),
        };
        let json = serde_json::to_vec(&shown).map_err(|error| {
            tracing::error!(order_id = %self.order, %error, "an answer could not be written");
            Problem::unavailable("The answer could not be written; send it again.", 1)
        })?;
        let mut response = answer(json);
        if shown.outcome == "undecided" {
            *response.status_mut() = StatusCode::ACCEPTED;
        }
        Ok(response)
    }

    /// Refuses a decision about what was decided otherwise.
    fn is_own(&self, reviewed: &Reviewed<'_>) -> Result<(), Problem> {
        let detail = match reviewed.handling {
            Some(_) if reviewed.command == self.command => return Ok(()),
            Some(code) => {
                let kept = reviewed.keep.name().map_or_else(String::new, |keep| format!(", kept as a {keep}"));
                format!("{} has decided that it is {}{kept}.", reviewed.by, class_name(code))
            }
            None => "It was cancelled before anybody had decided what is in it.".to_owned(),
        };
        Err(Problem::new(StatusCode::CONFLICT, "already-reviewed", "Already reviewed", detail))
    }

    async fn keep(&self, app: &App, stored: &StoredOrder, reviewed: &Reviewed<'_>) -> Result<(), Problem> {
        let keep = reviewed.keep;
        if keep == Keep::No {
            return Ok(());
        }
        let lesson = self.readable(self.lesson(stored, (reviewed.by, reviewed.at_ms)))?;
        let id = app.operator.kept.id_of(keep, &lesson.title, &parcel_id(self.order, self.number));
        blocking(&app.operator.kept, UNKEPT, move |kept| kept.keep(keep, &id, &lesson)).await
    }
}

fn now<'s>(state: &'s OrderState<'_>, parcel: &'s Parcel<'_>) -> ParcelNow<'s> {
    let requested = parcel.current().and_then(|attempt| attempt.requested.as_ref());
    ParcelNow {
        number: parcel.number,
        status: state.parcel_status(parcel),
        carrier: requested.map(|(_, requested)| requested.carrier),
        dead_letter: parcel.dead_letter.filter(|_| parcel.is_dead_lettered()).map(|dead| dead.reason),
    }
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub(crate) enum ReviewProblems {
    /// The body is no JSON.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody<'static>),
    /// No order, or no parcel of it, has this id.
    #[response(status = 404, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds; present while the order may still be on its way")))]
    Unknown(ProblemBody<'static>),
    /// The body did not arrive in time.
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(ProblemBody<'static>),
    /// It was decided otherwise before, or cancelled; as many decisions are kept as may be; or the order has had 128 commands.
    #[response(status = 409, content_type = "application/problem+json")]
    Decided(ProblemBody<'static>),
    /// The body is larger than 1,024 bytes.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody<'static>),
    /// The body is not `application/json`, or compressed.
    #[response(status = 415, content_type = "application/problem+json")]
    Type(ProblemBody<'static>),
    /// The body isn't a decision.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(ProblemBody<'static>),
    /// The order can't be read or its log can't be written now, what is kept can't be, or as many are being decided as the node
    /// waits for.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}
