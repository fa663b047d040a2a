//! The body of a message that nobody has vouched for yet, within bounds of size, memory and time.

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, StatusCode, header},
};
use http_body_util::BodyExt;
use sluice_domain::limits::MAX_EVENTS_BYTES;
use sluice_http::Problem;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A body, read chunk by chunk; what has arrived counts against the node's room until this is dropped.
pub(super) struct Incoming<'r> {
    body: Body,
    seen: usize,
    /// False when the sender waits for `100 Continue`: then an unread body needn't be read away.
    flowing: bool,
    room: &'r Semaphore,
    held: Option<SemaphorePermit<'r>>,
}

impl<'r> Incoming<'r> {
    pub(super) fn new(body: Body, headers: &HeaderMap, room: &'r Semaphore) -> Self {
        Self { body, seen: 0, flowing: !headers.contains_key(header::EXPECT), room, held: None }
    }

    /// The whole body.
    ///
    /// # Errors
    /// 413 if it is longer than [`MAX_EVENTS_BYTES`], 503 if there is no room, 400 if the sender broke off.
    pub(super) async fn whole(&mut self) -> Result<Vec<u8>, Problem> {
        let mut all = Vec::new();
        if self.body.size_hint().lower() > MAX_EVENTS_BYTES as u64 {
            return Err(self.too_large().await);
        }
        while let Some(frame) = self.body.frame().await {
            let broken_off = |_| malformed("The body ended before it was complete.");
            let Ok(chunk) = frame.map_err(broken_off)?.into_data() else { continue };
            self.seen += chunk.len();
            if self.seen > MAX_EVENTS_BYTES {
                return Err(self.too_large().await);
            }
            self.hold(self.seen.div_ceil(1 << 10))?;
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// Holds so many KiB.
    fn hold(&mut self, kib: usize) -> Result<(), Problem> {
        let held = self.held.as_ref().map_or(0, SemaphorePermit::num_permits);
        let Some(more @ 1..) = kib.checked_sub(held) else { return Ok(()) };
        let full = |_| Problem::unavailable("As much is told by carriers as this node takes at once.", 1);
        let permit = self.room.try_acquire_many(more as u32).map_err(full)?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }

    /// Reads the rest away, up to the limit once more: a sender that writes everything before it reads would otherwise see
    /// its connection reset instead of the answer.
    async fn too_large(&mut self) -> Problem {
        let end = 2 * MAX_EVENTS_BYTES;
        let expected = self.seen as u64 + self.body.size_hint().lower();
        while self.flowing
            && expected <= end as u64
            && self.seen <= end
            && let Some(Ok(frame)) = self.body.frame().await
        {
            self.seen += frame.data_ref().map_or(0, |data| data.len());
        }
        let detail = format!("The body has more than {MAX_EVENTS_BYTES} bytes.");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
    }
}

/// The body isn't what its type says: 400.
pub(super) fn malformed(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", detail)
}

/// The body did not come in time: 408.
pub(super) fn too_slow() -> Problem {
    let detail = "The body did not arrive in time.";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request timeout", detail)
}
