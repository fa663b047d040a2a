//! Reading request bodies within bounds: of type, of size, of memory.

use std::borrow::Cow;

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, StatusCode, header},
};
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::problem::{FieldError, Problem};

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

/// The memory that a body may take.
pub trait Room: Send {
    /// Has room for the first `seen` bytes of a body of at most `limit`, until this is dropped.
    ///
    /// # Errors
    /// The problem that says there is none.
    fn cover(&mut self, seen: usize, limit: usize) -> Result<(), Problem>;
}

/// Room by KiB, shared by all that come to a route.
#[derive(Debug)]
pub struct SharedRoom<'r> {
    kib: &'r Semaphore,
    held: Option<SemaphorePermit<'r>>,
    full: &'static str,
}

impl<'r> SharedRoom<'r> {
    /// Takes from `kib` as bytes arrive; `full` is said, with 503, when nothing is left.
    pub fn new(kib: &'r Semaphore, full: &'static str) -> Self {
        Self { kib, held: None, full }
    }
}

impl Room for SharedRoom<'_> {
    fn cover(&mut self, seen: usize, _: usize) -> Result<(), Problem> {
        let held = self.held.as_ref().map_or(0, SemaphorePermit::num_permits);
        let Some(more @ 1..) = seen.div_ceil(1 << 10).checked_sub(held) else { return Ok(()) };
        let permit = self.kib.try_acquire_many(more as u32).map_err(|_| Problem::unavailable(self.full, 1))?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}

/// A body, read chunk by chunk.
pub struct Incoming<'r> {
    body: Body,
    limit: usize,
    seen: usize,
    /// False when the client waits for `100 Continue`: then an unread body needn't be read away.
    flowing: bool,
    room: &'r mut dyn Room,
}

impl<'r> Incoming<'r> {
    /// A body of at most `limit` bytes, for which `room` has to be found as it arrives.
    pub fn new(body: Body, headers: &HeaderMap, limit: usize, room: &'r mut dyn Room) -> Self {
        Self { body, limit, seen: 0, flowing: !headers.contains_key(header::EXPECT), room }
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// A problem: 413 beyond the limit, what the room says beyond it, 400 if the client broke off.
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
            self.room.cover(self.seen, self.limit)?;
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

/// The body isn't what its type says: 400.
pub fn malformed(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", detail)
}

/// A header is missing or wrong: 400.
pub fn bad_header(error: FieldError) -> Problem {
    let detail = format!("{} must be {}.", error.field, error.expected);
    Problem::new(StatusCode::BAD_REQUEST, "bad-header", "Missing or bad header", detail).with_errors(vec![error])
}

/// More than a bound of the API allows: 413.
pub fn too_large(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
}

/// The body did not come in time: 408.
pub fn too_slow() -> Problem {
    let detail = "The body did not arrive in time.";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request timeout", detail)
}

fn broken_off() -> Problem {
    malformed("The body ended before it was complete.")
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

    #[tokio::test]
    async fn what_has_arrived_takes_room_until_it_is_dropped() {
        let kib = Semaphore::new(3);
        let headers = HeaderMap::new();
        let body = |bytes: usize| Body::from(vec![b' '; bytes]);
        let mut room = SharedRoom::new(&kib, "full");
        let first = Incoming::new(body(2_048), &headers, 4_096, &mut room).whole().await.unwrap();
        assert_eq!(first.len(), 2_048);
        let mut other = SharedRoom::new(&kib, "full");
        let refused = Incoming::new(body(1_025), &headers, 4_096, &mut other).whole().await.unwrap_err();
        assert_eq!((refused.status, refused.retry_after_s), (StatusCode::SERVICE_UNAVAILABLE, Some(1)));
        assert!(Incoming::new(body(1_024), &headers, 4_096, &mut other).whole().await.is_ok());
        drop((room, other));
        assert_eq!(kib.available_permits(), 3);
        let mut room = SharedRoom::new(&kib, "full");
        let refused = Incoming::new(body(4_097), &headers, 4_096, &mut room).whole().await.unwrap_err();
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
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
