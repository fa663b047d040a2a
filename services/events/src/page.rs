//! A page: what there is now, or the first that comes in a while, and where to go on.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use sluice_http::Problem;

use crate::{Reader, problem};

/// How long a page may look through other merchants' events; then it is given as it is, with where to go on.
const LOOKING: Duration = Duration::from_secs(2);
/// Events read at a time where most are others'.
const READ: usize = 200;
/// Bytes of a page, beyond which no event is added.
const PAGE_BYTES: usize = 1 << 20;

/// The answer to a request for up to `limit` events, the first of which may take `wait`.
///
/// # Errors
/// A problem, if nothing could be read.
pub async fn answer(mut reader: Reader, limit: usize, wait: Duration) -> Result<Response, Problem> {
    let started = Instant::now();
    let (mut body, mut count, mut others) = (Vec::new(), 0, false);
    let mut stop = reader.app.events.stop.clone();
    loop {
        let left = if count == 0 { wait.saturating_sub(started.elapsed()) } else { Duration::ZERO };
        // No more than is given, so that the next page begins where a reader of the log stands; unless most are others'.
        let max = if others { READ.max(limit - count) } else { limit - count };
        let reading = reader.app.events.feed.read(reader.after.clone(), max, left);
        let page = tokio::select! {
            page = reading => page,
            _ = stop.wait_for(|stop| *stop), if !left.is_zero() => break,
        };
        let page = match page {
            Ok(page) => page,
            // What was read is given; the next page finds the error again.
            Err(_) if count > 0 => break,
            Err(error) => return Err(problem(error, reader.named)),
        };
        // A part of the log may have no events at all.
        let nothing = page.events.is_empty() && page.next == reader.after;
        let (read, known) = (page.events.len(), count);
        reader.after = page.next;
        for event in page.events.into_iter().filter(|event| reader.who.sees(event)) {
            reader.app.lines.put_one(&mut body, &event, false);
            count += 1;
            if count == limit || body.len() >= PAGE_BYTES {
                reader.after = event.next;
                break;
            }
        }
        others = count - known < read;
        let in_time = started.elapsed() < LOOKING.max(wait);
        if (nothing && left.is_zero()) || count >= limit || body.len() >= PAGE_BYTES || !in_time {
            break;
        }
    }
    reader.app.sent.increment(count as u64);
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(link) = HeaderValue::try_from(format!("<{}?after={}>; rel=\"next\"", reader.path, reader.after)) {
        headers.insert(header::LINK, link);
    }
    Ok(response)
}
