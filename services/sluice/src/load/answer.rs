//! What an answer means for one order. Nearly all answers are acknowledgements of one known shape, so those are read
//! without a JSON parser; whatever looks different goes through one.

use std::time::Duration;

use serde::Deserialize;

use super::acks::parse_id;
use super::http::Reply;

/// Without `Retry-After`, a refused order waits this long.
const DEFAULT_WAIT: Duration = Duration::from_millis(100);

/// What becomes of an order after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Durable under this id.
    Acknowledged(u128),
    /// 429 or 503: not taken; the same request may be sent again after a while.
    Refused(Duration),
    /// Another 5xx: it may or may not have been taken, so the same key has to be sent again.
    Failed(u16),
    /// Any other status, final.
    Rejected(u16),
    /// An answer of no known shape: a 2xx without an id.
    Unreadable,
}

impl Verdict {
    /// The verdict on an order that was posted alone.
    #[must_use]
    pub fn of_single(reply: &Reply<'_>) -> Self {
        match reply.status {
            200..=299 => read_answer(reply.body).map_or(Self::Unreadable, Self::from),
            status => Self::of_status(status, reply.retry_after),
        }
    }

    /// The verdict that a status other than 2xx means.
    #[must_use]
    pub fn of_status(status: u16, retry_after: Option<Duration>) -> Self {
        match status {
            429 | 503 => Self::Refused(retry_after.unwrap_or(DEFAULT_WAIT)),
            500..=599 => Self::Failed(status),
            _ => Self::Rejected(status),
        }
    }

    /// The verdict on one line of a batch's answer.
    #[must_use]
    pub fn of_line(line: &[u8]) -> Self {
        read_answer(line).map_or(Self::Unreadable, Self::from)
    }
}

enum Answer {
    Id(u128),
    Status(u16, Option<Duration>),
}

impl From<Answer> for Verdict {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Id(id) => Self::Acknowledged(id),
            Answer::Status(status, retry_after) => Self::of_status(status, retry_after),
        }
    }
}

/// An answer that doesn't start as an acknowledgement does. `status` is a word in an order and a number in a problem.
#[derive(Deserialize)]
struct AnyAnswer<'a> {
    #[serde(borrow)]
    id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    status: Option<Status<'a>>,
    retry_after: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Status<'a> {
    Code(u16),
    #[expect(dead_code, reason = "any word will do, but it has to be one")]
    Word(#[serde(borrow)] std::borrow::Cow<'a, str>),
}

fn read_answer(text: &[u8]) -> Option<Answer> {
    if let Some(id) = acknowledged_at_once(text) {
        return Some(Answer::Id(id));
    }
    let answer: AnyAnswer<'_> = serde_json::from_slice(text).ok()?;
    if let Some(Status::Code(status)) = answer.status
        && !(200..300).contains(&status)
    {
        let retry_after = answer.retry_after.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        return Some(Answer::Status(status, retry_after));
    }
    parse_id(answer.id?.as_bytes()).map(Answer::Id)
}

/// The id in `{"id":"<26 characters>","status":"…` or `…,"status":201…`.
fn acknowledged_at_once(text: &[u8]) -> Option<u128> {
    let rest = text.strip_prefix(b"{\"id\":\"")?;
    let (id, rest) = rest.split_at_checked(26)?;
    let status = rest.strip_prefix(b"\",\"status\":")?;
    if !status.starts_with(b"\"") && !status.starts_with(b"20") {
        return None;
    }
    parse_id(id)
}

/// The lines of a batch's answer, without empty ones.
pub(crate) fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn single(status: u16, retry_after: Option<u64>, body: &str) -> Verdict {
        let retry_after = retry_after.map(Duration::from_secs);
        Verdict::of_single(&Reply { status, retry_after, replayed: false, link: None, body: body.as_bytes() })
    }

    #[test]
    fn an_acknowledgement_is_read_in_any_order_of_keys() {
        let id = parse_id(ID.as_bytes()).unwrap();
        for body in [
            format!(r#"{{"id":"{ID}","status":"accepted","placed_at":"2026-11-11T00:00:00.123Z"}}"#),
            format!(r#"{{"id":"{ID}","status":201}}"#),
            format!(r#"{{"status":201,"id":"{ID}"}}"#),
            format!(r#"{{ "placed_at":"x", "status" : "accepted", "id" : "{ID}" }}"#),
            format!(r#"{{"id":"{ID}"}}"#),
        ] {
            assert_eq!(single(201, None, &body), Verdict::Acknowledged(id), "{body}");
            assert_eq!(Verdict::of_line(body.as_bytes()), Verdict::Acknowledged(id), "{body}");
        }
    }

    #[test]
    fn a_problem_is_told_by_its_status() {
        let wait = Duration::from_secs(3);
        assert_eq!(single(429, Some(3), ""), Verdict::Refused(wait));
        assert_eq!(single(503, None, ""), Verdict::Refused(DEFAULT_WAIT));
        assert_eq!(single(500, None, ""), Verdict::Failed(500));
        assert_eq!(single(422, None, "{}"), Verdict::Rejected(422));
        assert_eq!(single(301, None, ""), Verdict::Rejected(301));
        let line = |text: &str| Verdict::of_line(text.as_bytes());
        assert_eq!(line(r#"{"type":"about:blank","status":429,"retry_after":3}"#), Verdict::Refused(wait));
        assert_eq!(line(&format!(r#"{{"id":"{ID}","status":422,"detail":"other body"}}"#)), Verdict::Rejected(422));
    }

    #[test]
    fn a_success_without_an_id_is_not_counted_as_one() {
        for body in ["", "ok", "{}", r#"{"id":"short","status":"accepted"}"#, r#"{"status":201}"#] {
            assert_eq!(single(201, None, body), Verdict::Unreadable, "{body}");
        }
    }
}
