//! What a consumer asks for: where to begin, and whether it wants a page or a stream.

use std::{fmt::Display, str::FromStr, time::Duration};

use axum::http::{HeaderMap, StatusCode, header};
use sluice_http::{FieldError, Problem};
use sluice_pipeline::Cursor;

/// Events of a page, at most.
pub const MAX_LIMIT: usize = 1_000;
/// Events of a page unless said otherwise.
const DEFAULT_LIMIT: usize = 100;
/// Seconds that a page may wait for its first event, at most.
pub const MAX_WAIT_S: u64 = 30;

/// Where a reader begins.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    /// With the oldest event that is retained.
    Oldest,
    /// With what comes from now on.
    Latest,
    /// Where it was.
    Cursor(Cursor),
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Mode {
    /// Some events, and then the end.
    Page {
        /// At most so many.
        limit: usize,
        /// How long the first may take.
        wait: Duration,
    },
    /// NDJSON without end.
    Lines,
    /// Server-sent events.
    Messages,
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
pub struct Query {
    pub after: After,
    /// The parameter or header that said so.
    pub named: &'static str,
    pub mode: Mode,
}

impl Query {
    /// Whether it takes a stream's place.
    pub fn waits(&self) -> bool {
        !matches!(self.mode, Mode::Page { wait: Duration::ZERO, .. })
    }
}

const AFTER: &str = "`latest`, or a cursor that an earlier answer gave";
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// Reads the query and the headers of a request.
///
/// # Errors
/// A 400 problem that names the parameter or header, and what is expected there.
pub fn read(query: &str, headers: &HeaderMap) -> Result<Query, Problem> {
    let [mut after, mut limit, mut wait, mut follow] = [None; 4];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let slot = match name {
            "after" => &mut after,
            "limit" => &mut limit,
            "wait" => &mut wait,
            "follow" => &mut follow,
            _ => return Err(bad(FieldError::wrong("query", "after, limit, wait or follow", name))),
        };
        if slot.replace(value).is_some() {
            return Err(bad(FieldError::wrong(name, "given once", value)));
        }
    }
    let messages = accepts_messages(headers);
    let follow = match follow {
        None => messages,
        Some("true") => true,
        Some("false") if !messages => false,
        Some("false") => return Err(bad(FieldError::wrong("follow", "`true` with text/event-stream", "false"))),
        Some(other) => return Err(bad(FieldError::wrong("follow", "`true` or `false`", other))),
    };
    let of_pages = |name: &str, value: Option<&str>| match value {
        Some(value) if follow => Err(bad(FieldError::wrong(name, "absent where `follow` is true", value))),
        _ => Ok(()),
    };
    of_pages("limit", limit)?;
    of_pages("wait", wait)?;
    let limit = number("limit", limit, 1, MAX_LIMIT, DEFAULT_LIMIT)?;
    let wait = Duration::from_secs(number("wait", wait, 0, MAX_WAIT_S, 0)?);
    let mode = match (messages, follow) {
        (true, _) => Mode::Messages,
        (false, true) => Mode::Lines,
        (false, false) => Mode::Page { limit, wait },
    };
    // A stream that broke off goes on where it was, whatever it first asked for.
    let last = headers.get(LAST_EVENT_ID).filter(|id| messages && !id.is_empty());
    let (named, text) = match last {
        Some(id) => (LAST_EVENT_ID, Some(id.to_str().unwrap_or("not text"))),
        None => ("after", after),
    };
    Ok(Query { after: begin(named, text)?, named, mode })
}

fn begin(named: &'static str, text: Option<&str>) -> Result<After, Problem> {
    match text {
        None => Ok(After::Oldest),
        Some("latest") => Ok(After::Latest),
        Some(text) => text.parse().map(After::Cursor).map_err(|_| bad(FieldError::wrong(named, AFTER, text))),
    }
}

fn number<T: FromStr + PartialOrd + Display>(
    name: &'static str,
    text: Option<&str>,
    least: T,
    most: T,
    default: T,
) -> Result<T, Problem> {
    let Some(text) = text else { return Ok(default) };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse().ok().filter(|number| digits && (&least..=&most).contains(&number)) {
        Some(number) => Ok(number),
        None => Err(bad(FieldError::wrong(name, format!("an integer from {least} to {most}"), text))),
    }
}

/// Whether the client wants server-sent events: named in `Accept` and not refused there.
fn accepts_messages(headers: &HeaderMap) -> bool {
    let types = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = types.flat_map(|value| value.split(','));
    types.any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("text/event-stream"));
        named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// A parameter or header is wrong: 400.
fn bad(error: FieldError) -> Problem {
    let detail = format!("{} must be {}.", error.field, error.expected);
    Problem::new(StatusCode::BAD_REQUEST, "bad-parameter", "Bad parameter", detail).with_errors(vec![error])
}

/// A cursor that is none of this deployment's: 400.
pub fn unknown(named: &'static str, why: &str) -> Problem {
    bad(FieldError::wrong(named, format!("{AFTER}, of this deployment ({why})"), ""))
}

/// Events that are no longer kept: 410.
pub fn expired(oldest: &Cursor) -> Problem {
    let detail = format!("Events after this cursor are no longer kept; the oldest that are come after {oldest}.");
    let error = FieldError { field: "after".into(), expected: oldest.to_string().into(), got: None };
    Problem::new(StatusCode::GONE, "expired-cursor", "Expired cursor", detail).with_errors(vec![error])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str, headers: &[(&'static str, &'static str)]) -> Result<Query, Problem> {
        let parsed = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        read(query, &parsed.collect())
    }

    const SSE: (&str, &str) = ("accept", "text/html, text/event-stream;q=0.9");

    #[test]
    fn a_page_is_what_is_asked_for_unless_said_otherwise() {
        let page = |limit, wait| Mode::Page { limit, wait: Duration::from_secs(wait) };
        for (query, after, mode) in [
            ("", After::Oldest, page(DEFAULT_LIMIT, 0)),
            ("after=latest&wait=30", After::Latest, page(DEFAULT_LIMIT, 30)),
            ("limit=1000&after=1.5.z&follow=false", After::Cursor(Cursor(vec![5, 35])), page(1_000, 0)),
            ("follow=true&after=1.0", After::Cursor(Cursor(vec![0])), Mode::Lines),
        ] {
            assert_eq!(of(query, &[]), Ok(Query { after, named: "after", mode }), "{query}");
        }
        for accept in ["*/*", "application/x-ndjson", "text/event-stream;q=0, application/json"] {
            assert!(matches!(of("", &[("accept", accept)]).unwrap().mode, Mode::Page { .. }), "{accept}");
        }
        assert!(of("wait=1", &[]).unwrap().waits() && !of("wait=0", &[]).unwrap().waits());
    }

    #[test]
    fn a_stream_goes_on_after_its_last_event() {
        let query = of("after=latest", &[SSE, ("last-event-id", "1.7")]).unwrap();
        let after = After::Cursor(Cursor(vec![7]));
        assert_eq!(query, Query { after, named: LAST_EVENT_ID, mode: Mode::Messages });
        assert_eq!(of("after=latest", &[SSE, ("last-event-id", "")]).unwrap().after, After::Latest);
        // It is of streams alone.
        assert_eq!(of("after=latest", &[("last-event-id", "1.7")]).unwrap().after, After::Latest);
        assert!(of("follow=true", &[SSE]).unwrap().waits());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, headers, field) in [
            ("after=", &[][..], "after"),
            ("after=2.0", &[], "after"),
            ("after=1.0&after=1.0", &[], "after"),
            ("limit=0", &[], "limit"),
            ("limit=1001", &[], "limit"),
            ("limit=+1", &[], "limit"),
            ("limit=", &[], "limit"),
            ("wait=31", &[], "wait"),
            ("wait=1.5", &[], "wait"),
            ("follow=yes", &[], "follow"),
            ("follow=true&limit=1", &[], "limit"),
            ("follow=true&wait=1", &[], "wait"),
            ("follow=false", &[SSE], "follow"),
            ("limit=5", &[SSE], "limit"),
            ("cursor=1.0", &[], "query"),
            ("", &[SSE, ("last-event-id", "7")], LAST_EVENT_ID),
        ] {
            let problem = of(query, headers).unwrap_err();
            assert_eq!((problem.status, problem.errors[0].field.as_str()), (StatusCode::BAD_REQUEST, field), "{query}");
        }
    }
}
