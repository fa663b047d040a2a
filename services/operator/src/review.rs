//! `GET /v1/review`: the lines that wait for a person to say what they are, each in a parcel of its own, and how a decision is
//! made about one (`decision`).

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sluice_domain::{
    OrderId, OrderState,
    limits::{MAX_LISTED, MAX_PARTY_ID},
};
use sluice_http::{
    FieldError, Problem, ProblemBody, Timestamp, authenticate_operator,
    query::{Query, invalid_query, number},
    responses,
};
use sluice_pipeline::{LogError, StoredOrder};
use sluice_schemas::{
    CodecError,
    order::{Line, OrderRef},
};
use utoipa::{IntoParams, IntoResponses, ToSchema};

mod body;
pub(crate) mod decision;

pub(crate) use body::keep_of;

use crate::{App, answer, hops::class_name, kept::parcel_id, trace::order_as_text};

/// Orders on a page unless the request says otherwise.
const DEFAULT_LIMIT: usize = 20;
/// Orders that are looked at for one page: most of those that are no longer held are looked at in vain.
pub const MAX_LOOKED_AT: usize = 400;
/// Lines with which a page ends, whatever its limit; those of its last order are all there.
const FULL: usize = 500;
/// Pages of what waits or is kept that are read at once; more are answered 503.
pub const MAX_REVIEW_LISTS: usize = 8;

/// A page of what waits.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReviewList)]
pub(crate) struct ReviewList {
    /// Newest order first. May be shorter than asked for, or empty, while `next` is there.
    #[schema(max_items = 700)]
    items: Vec<Waiting>,
    /// What `after` must be for the next page; null at the end.
    #[schema(required = true, example = "01M6VZ4W3V00J8Z8M3C0V9S1QK")]
    next: Option<String>,
}

/// A line that waits, in a parcel of its own.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReviewItem)]
pub(crate) struct Waiting {
    /// By what it is decided about: the order and the parcel.
    #[schema(example = "01M6VZ4W3V00J8Z8M3C0V9S1QK-1")]
    id: String,
    /// The order's id.
    #[serde(serialize_with = "order_as_text")]
    #[schema(value_type = String, min_length = 26, max_length = 26, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    order: OrderId,
    /// The parcel, from 0.
    #[schema(maximum = 199)]
    parcel: u8,
    /// The line of the order, from 0.
    #[schema(maximum = 99)]
    line: u16,
    /// Whose order it is.
    #[schema(example = "m-1")]
    merchant: String,
    /// The merchant's article number.
    sku: String,
    /// What the merchant calls it.
    title: String,
    /// Units in this parcel.
    #[schema(minimum = 1)]
    quantity: u32,
    /// Grams.
    weight_g: u32,
    /// True if that is a guess.
    weight_estimated: bool,
    /// The handling class that it most likely is of.
    #[schema(example = "hazmat_check")]
    likely: &'static str,
    /// How likely, percent; null if nothing says.
    #[schema(required = true, minimum = 1, maximum = 100)]
    confidence: Option<u8>,
    /// When it was held.
    #[schema(value_type = String, format = DateTime)]
    held_at: Timestamp,
    /// When the customer pressed the button.
    #[schema(value_type = String, format = DateTime)]
    placed_at: Timestamp,
    /// Version of the rules that were gone by; null while that isn't known.
    #[schema(required = true)]
    rules: Option<u32>,
    /// Version of the model that was; null if there was none.
    #[schema(required = true)]
    model: Option<u32>,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    limit: usize,
    after: Option<OrderId>,
    merchant: Option<String>,
}

/// Describes [`Asked`].
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the request, which is read without it")]
pub(crate) struct ReviewQuery {
    /// Orders on a page, each with all of its lines that wait.
    #[param(required = false, nullable = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<u8>,
    /// `next` of the page before; without it the list begins.
    #[param(
        required = false,
        nullable = false,
        pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        example = "01M6VZ4W3V00J8Z8M3C0V9S1QK"
    )]
    after: Option<String>,
    /// Only this merchant's orders.
    #[param(
        required = false,
        nullable = false,
        min_length = 1,
        max_length = 32,
        pattern = "^[!-~]+$",
        example = "m-1"
    )]
    merchant: Option<String>,
}

impl Asked {
    fn read(text: &str) -> Result<Self, Vec<FieldError>> {
        let mut query = Query::new(text, &["limit", "after", "merchant"]);
        let limit = query.take("limit", "an integer from 1 to 100, at most once", |value| number(value, MAX_LISTED));
        let after = query.take("after", "`next` of the page before, at most once", |value| value.parse().ok());
        let merchant = query.take("merchant", "a merchant's id of 1 to 32 visible characters, at most once", |value| {
            let fits = (1..=MAX_PARTY_ID).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic());
            fits.then(|| value.to_owned())
        });
        query.end()?;
        Ok(Self { limit: limit.unwrap_or(DEFAULT_LIMIT), after, merchant })
    }
}

/// List what waits to be reviewed
///
/// Lines that nobody knows how to handle, newest order first. Each waits in parcels of its own, and the rest of its order goes
/// on. What was reviewed or cancelled is no longer listed. Where rows follow the log, an order may be missing for a moment after
/// it was decided.
#[utoipa::path(
    get,
    path = "/v1/review",
    operation_id = "list_review",
    tag = "operator",
    security(("operator_key" = [])),
    params(ReviewQuery),
    responses(
        (status = 200, description = "A page of the list.", body = ReviewList, content_type = "application/json"),
        ReviewListProblems,
        responses::OperatorsOnly,
        responses::GetOnly,
    )
)]
pub(crate) async fn list(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let started = app.operator.clock.monotonic_us();
    let page = page(&app, query.as_deref().unwrap_or_default(), &headers).await;
    let response = page.map_or_else(IntoResponse::into_response, answer);
    app.meters.review.record(response.status(), app.operator.clock.monotonic_us().saturating_sub(started));
    response
}

async fn page(app: &App, query: &str, headers: &HeaderMap) -> Result<Vec<u8>, Problem> {
    authenticate_operator(headers, &app.operator.operators)?;
    let asked = Asked::read(query).map_err(invalid_query)?;
    let _place = app.listing()?;
    let list = gather(app, asked).await.map_err(|error| {
        tracing::warn!(%error, "what waits to be reviewed could not be listed");
        unreadable()
    })?;
    serde_json::to_vec(&list).map_err(|error| {
        tracing::error!(%error, "a list could not be written");
        unreadable()
    })
}

/// Looks at orders until the page is full, or at as many as one request may.
async fn gather(app: &App, Asked { limit, after, merchant }: Asked) -> Result<ReviewList, LogError> {
    let (mut items, mut before, mut listed, mut looked) = (Vec::new(), after, 0, 0);
    loop {
        let max = (limit - listed).max(DEFAULT_LIMIT).min(MAX_LOOKED_AT - looked);
        let found = app.operator.lookup.held(before, max).await?;
        looked += max;
        for (id, stored) in &found.orders {
            // What waits behind it must not wait for ever: it is named and left out.
            let lines = waiting(*id, stored, merchant.as_deref()).unwrap_or_else(|error| {
                tracing::error!(order = %id, %error, "what waits to be reviewed can't be read; look at its trace");
                Vec::new()
            });
            listed += usize::from(!lines.is_empty());
            items.extend(lines);
            if listed == limit || items.len() >= FULL {
                return Ok(ReviewList { items, next: Some(id.to_string()) });
            }
        }
        before = found.next;
        if before.is_none() || looked == MAX_LOOKED_AT {
            return Ok(ReviewList { items, next: before.map(|id| id.to_string()) });
        }
    }
}

/// The lines of an order that wait; none if it is another merchant's.
fn waiting(id: OrderId, stored: &StoredOrder, merchant: Option<&str>) -> Result<Vec<Waiting>, CodecError> {
    let record = OrderRef::decode(&stored.record)?;
    if merchant.is_some_and(|merchant| merchant != record.merchant) {
        return Ok(Vec::new());
    }
    let state = OrderState::fold(id, &stored.row)?;
    let lines: Vec<Line<'_>> = record.lines().collect::<Result<_, _>>()?;
    let mut found = Vec::new();
    for parcel in &state.parcels {
        let Some(held) = parcel.waits() else { continue };
        for item in held.items.iter() {
            let Some(line) = lines.get(usize::from(item.line)) else { continue };
            found.push(Waiting {
                id: parcel_id(id, parcel.number),
                order: id,
                parcel: parcel.number,
                line: item.line,
                merchant: record.merchant.to_owned(),
                sku: line.sku.to_owned(),
                title: line.title.to_owned(),
                quantity: item.quantity.unwrap_or(line.quantity),
                weight_g: held.weight.grams,
                weight_estimated: held.weight.estimated,
                likely: class_name(held.handling),
                confidence: Some(held.confidence).filter(|&percent| percent > 0),
                held_at: Timestamp(held.at_ms),
                placed_at: Timestamp(id.placed_at_ms()),
                rules: state.classified.map(|(_, _, rules, _)| rules),
                model: state.classified.map(|(.., model)| model).filter(|&model| model > 0),
            });
        }
    }
    Ok(found)
}

fn unreadable() -> Problem {
    Problem::unavailable("What waits to be reviewed can't be listed now.", 1)
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub(crate) enum ReviewListProblems {
    /// A parameter is missing or not as it should be.
    #[response(status = 400, content_type = "application/problem+json")]
    Query(ProblemBody<'static>),
    /// The list can't be read now, or as many are being read as the node takes.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
