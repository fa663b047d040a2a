//! What went wrong, said once and the same way by every service: RFC 9457 problem details, with the offending fields
//! named by RFC 6901 pointers.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// Bytes of a request's value that a problem repeats.
pub const MAX_GOT: usize = 64;

/// One thing wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where: an RFC 6901 JSON pointer into the body, or the name of a header or query parameter.
    #[schema(example = "/lines/0/quantity")]
    pub field: String,
    /// What is expected there.
    #[schema(value_type = String, example = "an integer from 1 to 1000")]
    pub expected: Cow<'static, str>,
    /// What is there instead, cut to 64 bytes; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "0", nullable = false)]
    pub got: Option<String>,
}

impl FieldError {
    /// A field that isn't there.
    pub fn missing(field: impl Into<String>, expected: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), expected: expected.into(), got: None }
    }

    /// A field with something else than expected in it.
    pub fn wrong(field: impl Into<String>, expected: impl Into<Cow<'static, str>>, got: &str) -> Self {
        Self { field: field.into(), expected: expected.into(), got: Some(clip(got).into_owned()) }
    }
}

/// The first [`MAX_GOT`] bytes of `text`, with an ellipsis if that isn't all.
pub fn clip(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_GOT {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(MAX_GOT)]))
}

/// A problem on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The last part of the type URI, stable over releases.
    pub kind: &'static str,
    /// The same for every problem of this kind.
    pub title: &'static str,
    /// What is the matter with this request.
    pub detail: Cow<'static, str>,
    /// The fields at fault.
    pub errors: Vec<FieldError>,
    /// When to come back, seconds, at least 1.
    pub retry_after_s: Option<u32>,
}

/// The JSON of a problem.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    #[schema(format = "uri", example = "urn:sluice:problem:invalid-order")]
    kind: Cow<'a, str>,
    /// The same for every problem of this kind.
    title: &'a str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is the matter with this request.
    detail: &'a str,
    /// The fields at fault, ten at most.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false, max_items = 10)]
    errors: &'a [FieldError],
}

impl Problem {
    /// A problem without fields.
    pub fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, kind, title, detail: detail.into(), errors: Vec::new(), retry_after_s: None }
    }

    /// The problem with the fields at fault.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// The problem with a time to come back, in seconds (0 counts as 1).
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds.max(1));
        self
    }

    /// No or a wrong API key: 401.
    pub fn unauthorized() -> Self {
        let detail = "Send the merchant's API key as `Authorization: Bearer <key>`.";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "No valid API key", detail)
    }

    /// No or a wrong signature: 401. `detail` says how to sign, and not what was wrong.
    pub fn bad_signature(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "bad-signature", "No valid signature", detail)
    }

    /// Nothing here by that name: 404.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// The path exists, the method doesn't: 405.
    pub fn method_not_allowed() -> Self {
        let detail = "This path does not take this method; the Allow header lists those it takes.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    /// No room, or the engine can't answer, now: 503 with Retry-After.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>, retry_after_s: u32) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "unavailable", "Temporarily unavailable", detail).with_retry_after(retry_after_s)
    }

    /// Appends the problem's JSON to `out`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let body = ProblemBody {
            kind: Cow::Owned(format!("urn:sluice:problem:{}", self.kind)),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let start = out.len();
        if serde_json::to_writer(&mut *out, &body).is_err() {
            // Strings and numbers always serialise into memory; if that ever changes, the answer stays valid JSON.
            out.truncate(start);
            out.extend_from_slice(b"{}");
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(256);
        self.write_json(&mut body);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
        set(header::CONTENT_TYPE, "application/problem+json");
        match self.kind {
            "unauthorized" => drop(set(header::WWW_AUTHENTICATE, "Bearer")),
            "bad-signature" => drop(set(header::WWW_AUTHENTICATE, "Signature")),
            _ => {}
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_names_type_status_and_fields() {
        let problem =
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-order", "Invalid order", "Two \"things\".")
                .with_errors(vec![
                    FieldError::missing("/customer", "a string"),
                    FieldError::wrong("/x", "nothing", "y"),
                ]);
        let mut out = Vec::new();
        problem.write_json(&mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "urn:sluice:problem:invalid-order", "title": "Invalid order", "status": 422,
                "detail": "Two \"things\".",
                "errors": [{"field": "/customer", "expected": "a string"}, {"field": "/x", "expected": "nothing", "got": "y"}],
            })
        );
    }

    #[test]
    fn headers_follow_from_the_problem() {
        let response = Problem::unauthorized().into_response();
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(Problem::unavailable("full", 0).into_response().headers()["retry-after"], "1");
        assert_eq!(Problem::unavailable("full", 7).into_response().headers()["retry-after"], "7");
    }

    #[test]
    fn a_repeated_value_is_cut_at_a_character() {
        assert_eq!(clip("short"), "short");
        assert_eq!(clip(&"a".repeat(MAX_GOT)), "a".repeat(MAX_GOT));
        let cut = clip(&"é".repeat(MAX_GOT)).into_owned();
        assert_eq!(cut, "é".repeat(MAX_GOT / 2) + "…");
    }
}
