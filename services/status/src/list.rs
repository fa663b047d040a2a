//! `GET /v1/orders?customer=…`: one customer's orders, newest first, a page at a time.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use serde::Serialize;
use sluice_domain::{
    OrderId, OrderState,
    limits::{MAX_CUSTOMER, MAX_LISTED},
};
use sluice_http::{
    FieldError, Problem, ProblemBody, Timestamp, authenticate,
    query::{self, invalid_query},
    responses,
};
use sluice_pipeline::StoredOrder;
use sluice_schemas::{CodecError, milestone::Milestone, order::OrderRef};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::{
    App, answer,
    view::{as_name, as_text},
};

/// Orders on a page unless the request says otherwise.
const DEFAULT_LIMIT: usize = 20;
/// Lists being read at once: each costs up to a hundred reads and their memory.
pub(super) const LISTS_AT_ONCE: usize = 16;

/// A page of a list.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct OrderList {
    /// Newest first. May be shorter than asked for, or empty, while `next` is there.
    #[schema(max_items = 100)]
    pub orders: Vec<OrderSummary>,
    /// What `after` must be for the next page; null at the end.
    #[serde(serialize_with = "as_cursor")]
    #[schema(value_type = Option<String>, required = true, example = "01M6VZ4W3V00J8Z8M3C0V9S1QK")]
    pub next: Option<OrderId>,
}

/// One order of a list.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct OrderSummary {
    /// The order's id.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String, min_length = 26, max_length = 26, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    pub id: OrderId,
    /// That of its least advanced parcel; it only moves forward.
    #[serde(serialize_with = "as_name")]
    #[schema(value_type = String, pattern = "^[a-z_]+$", example = "carrier_accepted")]
    pub status: Milestone,
    /// When the customer pressed the button.
    #[schema(value_type = String, format = DateTime)]
    pub placed_at: Timestamp,
    /// The merchant's id of the customer.
    #[schema(min_length = 1, max_length = 64, example = "c-77")]
    pub customer: String,
    /// ISO 4217.
    #[schema(min_length = 3, max_length = 3, example = "USD")]
    pub currency: String,
    /// What its lines cost, in minor units of the currency.
    #[schema(minimum = 0, example = 1290)]
    pub total: u64,
}

fn as_cursor<S: serde::Serializer>(id: &Option<OrderId>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}

/// An order as a list shows it.
///
/// # Errors
/// [`CodecError`] if its row or record can't be read.
fn summary(id: OrderId, stored: &StoredOrder) -> Result<OrderSummary, CodecError> {
    let record = OrderRef::decode(&stored.record)?;
    let state = OrderState::fold(id, &stored.row)?;
    let mut total = 0u64;
    for line in record.lines() {
        let line = line?;
        total = total.saturating_add(u64::from(line.quantity).saturating_mul(line.unit_price));
    }
    Ok(OrderSummary {
        id,
        status: state.status(),
        placed_at: Timestamp(record.placed_at_ms()),
        customer: record.customer.to_owned(),
        currency: record.currency.to_owned(),
        total,
    })
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    customer: String,
    limit: usize,
    after: Option<OrderId>,
}

/// Describes [`Query`].
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the request, which is read without it")]
pub struct ListQuery {
    /// The merchant's id of the customer: 1 to 64 bytes, no control characters.
    #[param(min_length = 1, max_length = 64, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$", example = "c-77")]
    customer: String,
    /// Orders on a page.
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
}

impl Query {
    /// Reads a query string.
    ///
    /// # Errors
    /// Every parameter at fault.
    fn read(text: &str) -> Result<Self, Vec<FieldError>> {
        const CUSTOMER: &str = "1 to 64 bytes of text without control characters, once";
        const LIMIT: &str = "an integer from 1 to 100, at most once";
        const AFTER: &str = "`next` of the page before, at most once";
        let mut query = query::Query::new(text, &["customer", "limit", "after"]);
        let customer = query.require("customer", CUSTOMER, |value| {
            let fits = (1..=MAX_CUSTOMER).contains(&value.len()) && !value.chars().any(char::is_control);
            fits.then(|| value.to_owned())
        });
        let limit = query.take("limit", LIMIT, |value| query::number(value, MAX_LISTED));
        let after = query.take("after", AFTER, |value| value.parse().ok());
        query.end()?;
        let customer = customer.unwrap_or_default();
        Ok(Self { customer, limit: limit.unwrap_or(DEFAULT_LIMIT), after })
    }
}

/// List a customer's orders
///
/// Only the merchant's own, newest (by `placed_at`) first. A list that is read while orders come in is as it was when it
/// was begun, and newer ones are missing from it. Where rows follow the log, an order may be missing for a moment after it
/// was acknowledged.
#[utoipa::path(
    get,
    path = "/v1/orders",
    operation_id = "list_orders",
    tag = "orders",
    security(("api_key" = [])),
    params(ListQuery),
    responses(
        (status = 200, description = "A page of the list.", body = OrderList, content_type = "application/json"),
        ListProblems,
        responses::Unauthorized,
    )
)]
pub(super) async fn orders(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let started = app.status.clock.monotonic_us();
    let response = answer(page(&app, query.as_deref().unwrap_or_default(), &headers).await);
    app.meters.list.record(response.status(), app.status.clock.monotonic_us().saturating_sub(started));
    response
}

async fn page(app: &App, query: &str, headers: &HeaderMap) -> Result<Vec<u8>, Problem> {
    let merchant = authenticate(headers, &app.status.merchants)?;
    let Query { customer, limit, after } = Query::read(query).map_err(invalid_query)?;
    let full = |_| Problem::unavailable("As many lists are being read as this node reads at once.", 1);
    let _place = app.lists.try_acquire().map_err(full)?;
    let listed = app.status.lookup.orders_of(&merchant.id, &customer, after, limit).await.map_err(|error| {
        tracing::warn!(%error, "a customer's orders could not be listed");
        unreadable()
    })?;
    let summaries = listed.orders.iter().map(|(id, stored)| {
        summary(*id, stored).map_err(|error| {
            tracing::error!(order_id = %id, %error, "a stored order can't be read");
            unreadable()
        })
    });
    let list = OrderList { orders: summaries.collect::<Result<_, _>>()?, next: listed.next };
    serde_json::to_vec(&list).map_err(|error| {
        tracing::error!(%error, "a list could not be written");
        unreadable()
    })
}

fn unreadable() -> Problem {
    Problem::unavailable("The orders can't be listed now.", 1)
}

/// What can be wrong.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum ListProblems {
    /// A parameter is missing or not as it should be.
    #[response(status = 400, content_type = "application/problem+json")]
    Query(ProblemBody<'static>),
    /// The path takes other methods.
    #[response(status = 405, content_type = "application/problem+json",
        headers(("Allow" = String, description = "The methods it takes")))]
    Method(ProblemBody<'static>),
    /// The orders can't be listed now, or too many lists are being read.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_or_refused_by_name() {
        let id = "01M6VZ4W3V00J8Z8M3C0V9S1QK";
        let query = |text: &str| Query::read(text).map_err(|e| e.into_iter().map(|e| e.field).collect::<Vec<_>>());
        let good = Query { customer: "c 7&7".to_owned(), limit: 100, after: id.parse().ok() };
        assert_eq!(query(&format!("limit=100&customer=c+7%267&after={id}")), Ok(good));
        let plain = Query { customer: "x".repeat(64), limit: DEFAULT_LIMIT, after: None };
        assert_eq!(query(&format!("customer={}", plain.customer)), Ok(plain));
        let long = format!("customer={}", "x".repeat(65));
        for (text, fields) in [
            ("", &["customer"][..]),
            ("limit=1", &["customer"]),
            ("customer=", &["customer"]),
            ("customer=a%0Ab", &["customer"]),
            (&long, &["customer"]),
            ("customer=a&customer=a", &["customer"]),
            ("customer=a&limit=0", &["limit"]),
            ("customer=a&limit=%2B5", &["limit"]),
            ("customer=a&limit=101", &["limit"]),
            ("customer=a&limit=1&limit=2", &["limit"]),
            ("customer=a&limit=x&after=y", &["limit", "after"]),
            ("customer=a&after=", &["after"]),
            ("customer=a&cursor=1", &["cursor"]),
        ] {
            assert_eq!(query(text), Err(fields.iter().map(|f| (*f).to_owned()).collect()), "{text}");
        }
    }
}
