//! Bodies of requests: read within bounds of size and time, and every field that is wrong named.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};
use sluice_domain::limits::{MAX_IDEMPOTENCY_KEY, MAX_WEBHOOK_BYTES, MAX_WEBHOOK_DESCRIPTION};
use sluice_http::{FieldError, Problem, Whole, rfc3339};
use sluice_schemas::event::EventType;

use crate::guard::{Guard, Target};

/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Fields that a problem names.
const NAMED: usize = 10;
/// Longest time that a replaced secret signs, too, seconds.
pub(super) const MAX_OVERLAP_S: u64 = 7 * 86_400;

/// A JSON object whose fields are taken one by one; what nobody has taken is wrong.
pub(super) struct Fields {
    values: Map<String, Value>,
    errors: Vec<FieldError>,
}

/// Reads the body of a request as a JSON object; nothing at all, or null, is an empty one if `optional`.
///
/// # Errors
/// 400, 408, 413, 415, or 422 if it is something else than an object.
pub(super) async fn object(headers: &HeaderMap, body: Body, optional: bool) -> Result<Fields, Problem> {
    let whole = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_WEBHOOK_BYTES).collect()).await;
    let too_slow = |_| {
        let detail = "The body did not arrive in time.";
        Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request timeout", detail)
    };
    let bytes = whole.map_err(too_slow)?.map_err(|error| match error.is::<LengthLimitError>() {
        true => {
            let detail = format!("The body has more than {MAX_WEBHOOK_BYTES} bytes.");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
        }
        false => malformed("The body ended before it was complete."),
    })?;
    let bytes = bytes.to_bytes();
    if optional && bytes.is_empty() {
        return Ok(Fields { values: Map::new(), errors: Vec::new() });
    }
    require_json(headers)?;
    match serde_json::from_slice(&bytes).map_err(|error| malformed(format!("Not JSON: {error}.")))? {
        Value::Null if optional => Ok(Fields { values: Map::new(), errors: Vec::new() }),
        Value::Object(values) => Ok(Fields { values, errors: Vec::new() }),
        other => Err(invalid(vec![FieldError::wrong("", "an object", &sketch(&other))])),
    }
}

impl Fields {
    fn wrong(&mut self, field: &str, expected: impl Into<String>, got: Option<&Value>) {
        let (field, expected) = (format!("/{field}"), expected.into());
        self.errors.push(match got {
            None | Some(Value::Null) => FieldError::missing(field, expected),
            Some(got) => FieldError::wrong(field, expected, &sketch(got)),
        });
    }

    fn take<T>(&mut self, field: &str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.values.remove(field)?;
        let read = read(&value);
        if read.is_none() {
            self.wrong(field, expected, Some(&value));
        }
        read
    }

    /// A URL that may be called, normalised.
    pub(super) fn url(&mut self, guard: &Guard, required: bool) -> Option<String> {
        let value = self.values.remove("url");
        let Some(text) = value.as_ref().and_then(Value::as_str) else {
            if required || value.is_some() {
                self.wrong("url", "an absolute URL such as https://shop.example/hooks", value.as_ref());
            }
            return None;
        };
        match Target::parse(text, guard) {
            Ok(target) => Some(target.url),
            Err(expected) => {
                self.wrong("url", expected.to_string(), value.as_ref());
                None
            }
        }
    }

    pub(super) fn description(&mut self) -> Option<String> {
        let expected = format!("a text of at most {MAX_WEBHOOK_DESCRIPTION} bytes without control characters");
        self.take("description", &expected, |value| {
            let text = value.as_str()?;
            let fits = text.len() <= MAX_WEBHOOK_DESCRIPTION && !text.chars().any(char::is_control);
            fits.then(|| text.to_owned())
        })
    }

    /// Types of events; none are all.
    pub(super) fn types(&mut self) -> Option<Vec<String>> {
        let names = EventType::ALL.map(EventType::name).join(", ");
        self.take("types", &format!("a list of {names}; or an empty one for all of them"), |value| {
            let mut types = Vec::new();
            for name in value.as_array()? {
                let kind = EventType::from_name(name.as_str()?)?.name();
                if types.iter().all(|known| known != kind) {
                    types.push(kind.to_owned());
                }
            }
            Some(types)
        })
    }

    pub(super) fn enabled(&mut self) -> Option<bool> {
        self.take("enabled", "true or false", Value::as_bool)
    }

    pub(super) fn overlap_s(&mut self) -> Option<u64> {
        let expected = format!("a whole number of seconds up to {MAX_OVERLAP_S}");
        self.take("overlap_s", &expected, |value| {
            value.as_number().and_then(Whole::of).map(|seconds| seconds.0).filter(|seconds| *seconds <= MAX_OVERLAP_S)
        })
    }

    /// A range of time that is over: ms since the Unix epoch.
    pub(super) fn range(&mut self, now_ms: u64) -> Option<(u64, u64)> {
        let time = |value: &Value| rfc3339::parse(value.as_str()?).and_then(|ms| u64::try_from(ms).ok());
        let expected = "an RFC 3339 time such as 2026-11-11T00:00:00Z";
        let mut required = |field: &'static str| {
            if !self.values.contains_key(field) {
                self.wrong(field, expected, None);
            }
            self.take(field, expected, time)
        };
        let (from, to) = (required("from"), required("to"));
        let (from, to) = (from?, to?);
        if to <= from || to > now_ms {
            let text = sluice_http::Timestamp(to).to_string();
            self.wrong("to", "a time behind from, and not in the future", Some(&Value::String(text)));
            return None;
        }
        Some((from, to))
    }

    /// Whether everything was as it should be.
    ///
    /// # Errors
    /// 422 naming every field that wasn't.
    pub(super) fn done(mut self) -> Result<(), Problem> {
        for (field, value) in std::mem::take(&mut self.values) {
            // JSON pointers have escapes of their own.
            let field = field.replace('~', "~0").replace('/', "~1");
            self.wrong(&sluice_http::problem::clip(&field), "no such field", Some(&value));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(invalid(self.errors)) }
    }
}

/// The request's idempotency key.
///
/// # Errors
/// 400 naming the header.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<String, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let key = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    };
    let good = |key: &&str| (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    key.filter(good).map(str::to_owned).ok_or_else(|| {
        let expected = format!("1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters, once");
        malformed("The request needs an Idempotency-Key.")
            .with_errors(vec![FieldError::missing("Idempotency-Key", expected)])
    })
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).map(str::trim);
    if essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let (status, detail) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json.");
    Err(Problem::new(status, "unsupported-media-type", "Unsupported media type", detail))
}

fn malformed(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", detail)
}

/// 422 with the fields at fault.
pub(super) fn invalid(mut errors: Vec<FieldError>) -> Problem {
    errors.truncate(NAMED);
    let detail = match errors.as_slice() {
        [one] => format!("{} must be {}.", if one.field.is_empty() { "The body" } else { &one.field }, one.expected),
        _ => "Several fields are not as they should be.".to_owned(),
    };
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-webhook", "Invalid request about webhooks", detail)
        .with_errors(errors)
}

/// What stands there, for a message: texts as they are, all else as JSON.
fn sketch(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
