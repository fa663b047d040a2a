//! How cancelling and returning are described in the API's document.

use serde::{Deserialize, Serialize};
use sluice_domain::OrderId;
use sluice_http::ProblemBody;
use sluice_schemas::milestone::Milestone;
use utoipa::{IntoParams, IntoResponses, ToSchema};

use crate::view::{ParcelId, ReturnView, as_name, as_text};

/// The order that is meant.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes the path")]
pub(crate) struct OrderPath {
    /// The order's id.
    #[param(
        min_length = 26,
        max_length = 26,
        pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        example = "01M6VZ4W3V00J8Z8M3C0V9S1QK"
    )]
    id: String,
}

/// Names one return.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes the header")]
pub(crate) struct ReturnKeyHeader {
    /// Names this return among those of the order; the same on every retry. Visible ASCII; may be sent as a quoted string,
    /// which then has 255 characters at most without its quotes.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = r#"^([!#-~][!-~]*|"([!#-\[\]-~]|\\["\\])+")$"#,
        example = "return-1"
    )]
    idempotency_key: String,
}

/// Goods to bring back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub(crate) struct ReturnRequest {
    /// The customer's reason; at most 200 bytes, no control characters.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "does not fit"
    )]
    reason: String,
    /// What is to come back.
    #[schema(min_items = 1, max_items = 100)]
    lines: Vec<ReturnLineRequest>,
}

/// Units of one line.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub(crate) struct ReturnLineRequest {
    /// The line's place in the order, from 0; each once.
    #[schema(minimum = 0, maximum = 99, example = 0)]
    line: u32,
    /// Units, of those that were delivered and are not on their way back.
    #[schema(minimum = 1, maximum = 1000, example = 1)]
    quantity: u32,
}

/// Where an order stands after the wish to cancel it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Cancelled<'a> {
    /// The order's id.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String, min_length = 26, max_length = 26, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    pub id: OrderId,
    /// The order's status.
    #[serde(serialize_with = "as_name")]
    #[schema(value_type = String, pattern = "^[a-z_]+$", example = "carrier_accepted")]
    pub status: Milestone,
    /// Each parcel on its way to the customer.
    pub parcels: Vec<CancelledParcel<'a>>,
}

/// Where a parcel stands towards being cancelled.
#[derive(Serialize, ToSchema)]
pub(crate) struct CancelledParcel<'a> {
    /// The order's id, `-`, and the parcel's number.
    #[schema(value_type = String, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}-[0-9]{1,3}$")]
    pub id: ParcelId,
    /// `void_requested`: its carrier is asked to forget it; `cancelled`: it has; `void_refused`: it has not;
    /// `void_unknown`: nobody can tell; `already_requested`: a carrier is still being asked to take it; `on_its_way`: it moves; `not_needed`: it is no goods;
    /// `dead_lettered`: nobody carries it; `on_hold` (nobody has said yet what is in it) and `voidable`: the decision is
    /// still under way.
    #[schema(value_type = String,
        pattern = "^(void_requested|cancelled|void_refused|void_unknown|already_requested|on_its_way|dead_lettered|on_hold|not_needed|voidable)$",
        example = "void_requested")]
    pub cancel: &'a str,
}

/// Return parcels that follow from a request.
#[derive(Serialize, ToSchema)]
pub(crate) struct Returned<'a> {
    /// One for each parcel in which the goods were delivered; none while the decision is under way.
    #[schema(max_items = 56)]
    pub returns: Vec<ReturnView<'a>>,
}

/// What can be wrong about cancelling.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub(crate) enum CancelProblems {
    /// No order of this merchant has this id.
    #[response(status = 404, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds; present while the order may still be on its way")))]
    Unknown(ProblemBody<'static>),
    /// Nothing is, or can now become, cancelled: `already-requested` while a carrier is being asked to take it, else
    /// `not-cancellable`; or the order has had as many commands as are kept: `too-many-commands`.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemBody<'static>),
    /// The order can't be read or changed now.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}

/// What can be wrong about a return.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub(crate) enum ReturnProblems {
    /// Not JSON, or without an `Idempotency-Key`.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody<'static>),
    /// No order of this merchant has this id.
    #[response(status = 404, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds; present while the order may still be on its way")))]
    Unknown(ProblemBody<'static>),
    /// The body did not arrive in time.
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(ProblemBody<'static>),
    /// Not so much was delivered, or it is on its way back already: `not-returnable`; or the order has as many return parcels
    /// as it may have: `too-many-returns`; or has had as many commands as are kept: `too-many-commands`.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemBody<'static>),
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody<'static>),
    /// The body is not JSON by its type, or compressed.
    #[response(status = 415, content_type = "application/problem+json")]
    MediaType(ProblemBody<'static>),
    /// Fields are not as they should be, or the key was used for another return.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(ProblemBody<'static>),
    /// The order can't be read or changed now.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Unavailable(ProblemBody<'static>),
}
