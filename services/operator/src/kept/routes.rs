//! `GET /v1/review/kept` and `DELETE /v1/review/kept/{id}`: what reviewers' decisions are kept for, for people and for training,
//! and how one is taken back.

use std::sync::Arc;

use axum::{
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sluice_http::{
    FieldError, Problem, ProblemBody, Timestamp, authenticate_operator,
    query::{Query, invalid_query, number},
    responses,
};
use sluice_schemas::command::Keep;
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::{Lesson, blocking, key_of};
use crate::{
    App, answer,
    review::{ReviewListProblems, keep_of},
};

/// Decisions on a page unless the request says otherwise, and at most.
const LIMITS: (usize, usize) = (100, 1_000);
const UNREADABLE: &str = "What is kept can't be read or written now.";

/// A page of what is kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeptList)]
pub(crate) struct KeptList {
    /// By id.
    #[schema(max_items = 1_000)]
    items: Vec<KeptItem>,
    /// What `after` must be for the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

/// A decision that is kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeptItem)]
pub(crate) struct KeptItem {
    /// By what it is taken back.
    #[schema(example = "01M6VZ4W3V00J8Z8M3C0V9S1QK-1")]
    id: String,
    /// `rule` or `row`.
    #[schema(value_type = String, example = "row")]
    keep: &'static str,
    /// What the merchant calls it.
    title: String,
    /// What it is: a handling class.
    #[schema(example = "frozen")]
    handling: String,
    /// The merchant's article number.
    sku: String,
    /// Whose order it was in.
    merchant: String,
    /// The operator who decided.
    by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The order's id.
    order: String,
    /// The parcel, from 0.
    #[schema(maximum = 199)]
    parcel: u8,
}

/// Describes the query.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the request, which is read without it")]
pub(crate) struct KeptQuery {
    /// What is listed: `rule`, what lines of the same text are decided by; `row`, what is kept for training.
    #[param(pattern = "^(rule|row)$", example = "row")]
    keep: String,
    /// Decisions on a page.
    #[param(required = false, nullable = false, minimum = 1, maximum = 1_000, default = 100)]
    limit: Option<u16>,
    /// `next` of the page before; without it the list begins.
    #[param(
        required = false,
        nullable = false,
        pattern = "^([0-9a-f]{32}|[0-7][0-9A-HJKMNP-TV-Z]{25}-(0|[1-9][0-9]?|1[0-9]{2}))$",
        example = "01M6VZ4W3V00J8Z8M3C0V9S1QK-1"
    )]
    after: Option<String>,
}

struct Asked {
    keep: Keep,
    limit: usize,
    after: Option<String>,
}

impl Asked {
    fn read(text: &str) -> Result<Self, Vec<FieldError>> {
        let mut query = Query::new(text, &["keep", "limit", "after"]);
        let keep = query.require("keep", "`rule` or `row`, once", keep_of);
        let limit = query.take("limit", "an integer from 1 to 1000, at most once", |value| number(value, LIMITS.1));
        // Of rules or of rows: it is a place among ids.
        let after = query
            .take("after", "`next` of the page before, at most once", |value| key_of(value).map(|_| value.to_owned()));
        query.end()?;
        Ok(Self { keep: keep.unwrap_or_default(), limit: limit.unwrap_or(LIMITS.0), after })
    }
}

/// List what decisions are kept for
///
/// Rules, by which lines of the same text are decided, or rows, which a model learns from; by id.
#[utoipa::path(
    get,
    path = "/v1/review/kept",
    operation_id = "list_kept_reviews",
    tag = "operator",
    security(("operator_key" = [])),
    params(KeptQuery),
    responses(
        (status = 200, description = "A page of the list.", body = KeptList, content_type = "application/json"),
        ReviewListProblems,
        responses::OperatorsOnly,
        responses::GetOnly,
    )
)]
pub(crate) async fn list(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let started = app.operator.clock.monotonic_us();
    let page = page(&app, query.as_deref().unwrap_or_default(), &headers).await;
    let response = page.map_or_else(IntoResponse::into_response, answer);
    app.meters.kept.record(response.status(), app.operator.clock.monotonic_us().saturating_sub(started));
    response
}

async fn page(app: &App, query: &str, headers: &HeaderMap) -> Result<Vec<u8>, Problem> {
    authenticate_operator(headers, &app.operator.operators)?;
    let Asked { keep, limit, after } = Asked::read(query).map_err(invalid_query)?;
    let place = app.listing()?;
    let read = blocking(&app.operator.kept, UNREADABLE, move |kept| {
        // Until it is read, whether or not somebody still waits for it.
        let _place = place;
        kept.page(keep, after.as_deref(), limit)
    });
    let page = read.await?;
    let next = page.last().filter(|_| page.len() == limit).map(|(id, _)| id.clone());
    let items = page.into_iter().map(|(id, lesson)| item(id, keep, lesson)).collect();
    serde_json::to_vec(&KeptList { items, next }).map_err(|error| {
        tracing::error!(%error, "a list could not be written");
        Problem::unavailable(UNREADABLE, 1)
    })
}

fn item(id: String, keep: Keep, lesson: Lesson) -> KeptItem {
    let Lesson { title, sku, merchant, handling, by, at, order, parcel } = lesson;
    let keep = keep.name().unwrap_or_default();
    KeptItem { id, keep, title, handling, sku, merchant, by, at: Timestamp(at), order, parcel }
}

/// Take back what a decision is kept for
///
/// Lines are no longer decided by the rule, or a model no longer learns from the row. What was decided stays decided; the same
/// decision sent again is kept again.
#[utoipa::path(
    delete,
    path = "/v1/review/kept/{id}",
    operation_id = "forget_kept_review",
    tag = "operator",
    security(("operator_key" = [])),
    params(("id" = String, Path, description = "`id` of the list", min_length = 28, max_length = 32,
        pattern = "^([0-9a-f]{32}|[0-7][0-9A-HJKMNP-TV-Z]{25}-(0|[1-9][0-9]?|1[0-9]{2}))$", example = "01M6VZ4W3V00J8Z8M3C0V9S1QK-1")),
    responses(
        (status = 204, description = "It is taken back."),
        ForgetProblems,
        responses::OperatorsOnly,
    )
)]
pub(crate) async fn forget(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let started = app.operator.clock.monotonic_us();
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let response = take_back(&app, &id, &headers).await.unwrap_or_else(IntoResponse::into_response);
    app.meters.forget.record(response.status(), app.operator.clock.monotonic_us().saturating_sub(started));
    response
}

async fn take_back(app: &App, id: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    authenticate_operator(headers, &app.operator.operators)?;
    let (keep, key) = key_of(id).ok_or_else(unknown)?;
    let _place = app.listing()?;
    if blocking(&app.operator.kept, UNREADABLE, move |kept| kept.forget(keep, key)).await? {
        tracing::info!(id, "a kept decision is taken back");
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(unknown())
}

fn unknown() -> Problem {
    let detail = "Nothing is kept under this id; GET /v1/review/kept lists what is.";
    Problem { kind: "unknown-kept", ..Problem::not_found(detail) }
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub(crate) enum ForgetProblems {
    /// Nothing is kept under this id.
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(ProblemBody<'static>),
    /// The path takes other methods.
    #[response(status = 405, content_type = "application/problem+json",
        headers(("Allow" = String, description = "`DELETE`")))]
    Method(ProblemBody<'static>),
    /// What is kept can't be written now, or as many requests about it are under way as the node takes.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}
