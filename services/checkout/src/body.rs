//! Reading request bodies within bounds: of type, of size, of memory, of time.

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, StatusCode, header},
};
use http_body_util::BodyExt;
use sluice_http::{FieldError, Problem};

use crate::budget::Hold;

/// By how much the hold on the budget grows when a body's length isn't known beforehand.
const STEP: usize = 64 * 1024;

/// Checks that the body is of the media type `expected`, whatever its parameters, and not compressed.
///
/// # Errors
/// A 415 problem that names the header.
pub fn require_type(headers: &HeaderMap, expected: &'static str) -> Result<(), Problem> {
    let refuse = |field: &str, expected: &'static str, got: Option<&str>| {
        let error = match got {
            Some(got) => FieldError::wrong(field, expected, got),
            None => FieldError::missing(field, expected),
        };
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Problem::new(status, "unsupported-media-type", "Unsupported media type", format!("{field} must be {expected}."))
            .with_errors(vec![error])
    };
    let value = |name| headers.get(name).map(|v| v.to_str().unwrap_or("other than ASCII"));
    let content_type = value(header::CONTENT_TYPE);
    let essence = content_type.and_then(|t| t.split(';').next()).map(str::trim);
    if !essence.is_some_and(|t| t.eq_ignore_ascii_case(expected)) {
        return Err(refuse("Content-Type", expected, content_type));
    }
    match value(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.eq_ignore_ascii_case("identity") => {
            Err(refuse("Content-Encoding", "identity", Some(encoding)))
        }
        _ => Ok(()),
    }
}

/// A body, read chunk by chunk.
pub struct Incoming<'h> {
    body: Body,
    limit: usize,
    seen: usize,
    /// False when the client waits for `100 Continue`: then an unread body needn't be read away.
    flowing: bool,
    hold: &'h mut Hold,
}

impl<'h> Incoming<'h> {
    /// A body of at most `limit` bytes; `hold` grows where the body is longer than it.
    pub fn new(body: Body, headers: &HeaderMap, limit: usize, hold: &'h mut Hold) -> Self {
        Self { body, limit, seen: 0, flowing: !headers.contains_key(header::EXPECT), hold }
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// A problem: 413 beyond the limit, 429 or 503 beyond the budget, 400 if the client broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.seen == 0 && self.body.size_hint().lower() > self.limit as u64 {
            return Err(self.too_large().await);
        }
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let Ok(chunk) = frame.map_err(|_| broken_off())?.into_data() else { continue };
            self.seen += chunk.len();
            if self.seen > self.limit {
                return Err(self.too_large().await);
            }
            if let Some(more @ 1..) = self.seen.checked_sub(self.hold.bytes()) {
                self.hold.grow(more.max(STEP.min(self.limit - self.hold.bytes())))?;
            }
            return Ok(Some(chunk));
        }
    }

    /// The whole body at once.
    ///
    /// # Errors
    /// As [`Incoming::next`].
    pub async fn whole(&mut self) -> Result<Bytes, Problem> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        // Nearly always the one chunk is all there is, and is used where it lies.
        if self.body.is_end_stream() {
            return Ok(first);
        }
        let mut all = Vec::from(first);
        while let Some(chunk) = self.next().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }

    /// Reads the rest of the body away, up to the limit once more: a client that writes everything before it reads would
    /// otherwise see its connection reset instead of the answer.
    pub async fn discard(&mut self) {
        let end = self.limit * 2;
        let expected = self.seen as u64 + self.body.size_hint().lower();
        if !self.flowing || expected > end as u64 {
            return;
        }
        while self.seen <= end
            && let Some(Ok(frame)) = self.body.frame().await
        {
            self.seen += frame.data_ref().map_or(0, Bytes::len);
        }
    }

    async fn too_large(&mut self) -> Problem {
        self.discard().await;
        too_large(format!("The body has more than {} bytes.", self.limit))
    }
}

/// More than a bound of the API allows: 413.
pub fn too_large(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
}

/// The body did not come in time: 408.
pub fn too_slow() -> Problem {
    let detail = "The body did not arrive in time.";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request timeout", detail)
}

fn broken_off() -> Problem {
    crate::answer::malformed("The body ended before it was complete.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&'static str, &'static str)]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        require_type(&headers, "application/json").err().map(|p| p.status.as_u16())
    }

    #[test]
    fn parameters_are_ignored_and_other_types_refused() {
        for good in ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;x=y"]
        {
            assert_eq!(check(&[("content-type", good)]), None, "{good}");
        }
        for bad in ["", "text/plain", "application/jsonx", "application/x-ndjson", "application"] {
            assert_eq!(check(&[("content-type", bad)]), Some(415), "{bad}");
        }
        assert_eq!(check(&[]), Some(415));
        assert_eq!(check(&[("content-type", "application/json"), ("content-encoding", "identity")]), None);
        assert_eq!(check(&[("content-type", "application/json"), ("content-encoding", "gzip")]), Some(415));
    }
}
