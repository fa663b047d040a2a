//! A stream: events as they are committed, for as long as the client stays. The next page is read when the one before was
//! taken by the connection, so a slow client holds one page.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream::unfold;
use sluice_http::Problem;
use sluice_pipeline::{FeedError, FeedPage};
use tokio::time::Instant;

use crate::{Reader, line::put_id, problem};

/// Events read at a time.
const PAGE: usize = 200;
/// Something is sent at least so often, so that whatever stands between doesn't take the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a stream lasts, so that it follows when keys change or nodes come and go, …
const LIFETIME: Duration = Duration::from_secs(3_600);
/// … less up to so much, by chance, so that streams that began together don't end together.
const SPREAD_MS: u64 = 600_000;
/// How long a client of server-sent events should wait before it comes again.
const RETRY: &[u8] = b"retry: 2000\n";

struct Stream {
    reader: Reader,
    messages: bool,
    /// What was read to see whether the stream can begin.
    first: Option<FeedPage>,
    /// When something was sent last.
    sent: Instant,
    ends: Instant,
}

/// The answer to a request for a stream, of server-sent `messages` or of lines.
///
/// # Errors
/// A problem, if it can't begin where it should.
pub async fn answer(reader: Reader, messages: bool) -> Result<Response, Problem> {
    // A cursor that leads nowhere must be said before the stream begins.
    let first = reader.app.events.feed.read(reader.after.clone(), PAGE, Duration::ZERO).await;
    let first = first.map_err(|error| problem(error, reader.named))?;
    let sent = Instant::now();
    let ends = sent + LIFETIME - Duration::from_millis(RandomState::new().hash_one(0) % SPREAD_MS);
    let stream = Stream { reader, messages, first: Some(first), sent, ends };
    let chunks = unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        let chunk = stream.next().await?;
        Some((Ok::<_, Infallible>(chunk), Some(stream)))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let kind = if messages { "text/event-stream" } else { "application/x-ndjson" };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Stream {
    /// What to send next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut stop = self.reader.app.events.stop.clone();
        let mut out = Vec::new();
        if self.messages && self.first.is_some() {
            // With where it began, for a client that loses the connection before the first event.
            out.extend_from_slice(RETRY);
            put_id(&mut out, &self.reader.after);
            out.push(b'\n');
        }
        loop {
            let page = match self.first.take() {
                Some(page) => page,
                None if Instant::now() >= self.ends => return None,
                None => {
                    let wait = HEARTBEAT.saturating_sub(self.sent.elapsed());
                    let reading = self.reader.app.events.feed.read(self.reader.after.clone(), PAGE, wait);
                    let page = tokio::select! {
                        page = reading => page,
                        _ = stop.wait_for(|stop| *stop) => return None,
                    };
                    page.map_err(|error| self.broken(&error)).ok()?
                }
            };
            if *stop.borrow() {
                return None;
            }
            self.reader.after = page.next;
            let mut count = 0;
            for event in page.events.iter().filter(|event| self.reader.who.sees(event)) {
                self.reader.app.lines.put_one(&mut out, event, self.messages);
                count += 1;
            }
            self.reader.app.sent.increment(count);
            if out.is_empty() && self.sent.elapsed() >= HEARTBEAT {
                self.heartbeat(&mut out);
            }
            if !out.is_empty() {
                self.sent = Instant::now();
                return Some(out.into());
            }
        }
    }

    /// Nothing to tell; where the reader is by now, so that it needn't look again through what is others'.
    fn heartbeat(&self, out: &mut Vec<u8>) {
        if self.messages {
            out.extend_from_slice(b": nothing new\n");
            put_id(out, &self.reader.after);
        }
        out.push(b'\n');
    }

    /// The stream ends, and its client comes again: then it is told what is the matter.
    fn broken(&self, error: &FeedError) {
        tracing::warn!(reader = self.reader.who.name(), %error, "a stream of events ends");
    }
}
