//! What checkout answers, as bytes: good news without allocating, bad news as problems.

use std::io::Write;

use axum::http::StatusCode;
use sluice_domain::OrderId;
use sluice_http::{FieldError, Problem, body::malformed, rfc3339};

use crate::{
    decode::{Context, Key},
    diagnose::{Diagnosis, diagnose, window},
};

/// Appends the answer to an accepted order: the same bytes for the first request and every replay.
pub fn put_answer(out: &mut Vec<u8>, id: OrderId) {
    out.extend_from_slice(b"{\"id\":\"");
    put_id(out, id);
    out.extend_from_slice(b"\",\"status\":\"accepted\",\"placed_at\":\"");
    out.extend_from_slice(&rfc3339::format(id.placed_at_ms()));
    out.extend_from_slice(b"\"}");
}

/// Appends an order id.
pub fn put_id(out: &mut Vec<u8>, id: OrderId) {
    // Writing into memory can't fail.
    let _ = write!(out, "{id}");
}

/// Fields that are not as they should be: 422.
pub fn invalid(errors: Vec<FieldError>) -> Problem {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    let detail = match errors.as_slice() {
        [one] if one.field.is_empty() => format!("The order must be {}.", one.expected),
        [one] => format!("{} must be {}.", one.field, one.expected),
        several => format!("{} fields are not as they should be.", several.len()),
    };
    Problem::new(status, "invalid-order", "Invalid order", detail).with_errors(errors)
}

/// The key stands for another request: 422.
pub fn conflict(key: Key<'_>) -> Problem {
    let field = match key {
        Key::Given(_) => "Idempotency-Key",
        Key::InBody => "/idempotency_key",
    };
    let detail = "This idempotency key was used for another order: its body or placed_at differs.";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", "Idempotency key reused", detail)
        .with_errors(vec![FieldError::missing(field, "a key of its own for every order")])
}

/// Placed before the window, and not a replay of an order that was taken: 422.
pub fn too_old(id: OrderId, context: &Context<'_>) -> Problem {
    let got = rfc3339::format(id.placed_at_ms());
    let got = std::str::from_utf8(&got).unwrap_or_default();
    invalid(vec![FieldError::wrong("/placed_at", window(context), got)])
}

/// Why the decoder refused this order.
pub fn refused(text: &str, key: Key<'_>, context: &Context<'_>) -> Problem {
    match diagnose(text, matches!(key, Key::InBody), context) {
        Diagnosis::Malformed(reason) => malformed(format!("Not JSON: {reason}.")),
        Diagnosis::Fields(errors) => invalid(errors),
    }
}
