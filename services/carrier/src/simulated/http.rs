//! The HTTP side of the simulated carriers: routes, signatures, problem details, and answers that come in drops.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::Sleep;

use super::Simulator;
use super::carrier::{Carrier, Drops, Verdict};
use super::manifest::{Manifest, ManifestError};

/// Longest body of a request, in bytes.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// A client that never gives up on a silent carrier is let go after this.
const MAX_SILENCE: Duration = Duration::from_secs(600);

/// Ends the connection with a TCP reset instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connection reset on purpose")]
pub(super) struct Reset;

/// The body of an answer: all at once, or in drops with pauses between them.
pub(super) struct AnswerBody {
    left: Bytes,
    drops: Option<Drops>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let Some(drops) = self.drops else {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.left)))));
        };
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
        }
        self.pause = Some(Box::pin(tokio::time::sleep(drops.pause)));
        let size = drops.bytes.min(self.left.len());
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

type Answer = Response<AnswerBody>;

/// Answers one request. The error asks the connection to reset itself.
pub(super) async fn respond(simulator: &Simulator, request: Request<Incoming>) -> Result<Answer, Reset> {
    let path = request.uri().path().to_owned();
    let mut segments = path.split('/').skip(1);
    let route = [segments.next(), segments.next(), segments.next(), segments.next()];
    match route {
        [Some("healthz"), None, ..] => Ok(only(&request, &Method::GET, || text("ok"))),
        [Some("stats"), None, ..] => Ok(only(&request, &Method::GET, || value(&simulator.stats()))),
        [Some("carriers"), Some(id), Some("manifests"), None] => match simulator.carriers.get(id) {
            None => Ok(problem(StatusCode::NOT_FOUND, "no such carrier")),
            Some(_) if request.method() != Method::POST => Ok(not_allowed(&Method::POST)),
            Some(carrier) => manifest(simulator, carrier, request).await,
        },
        [Some("control"), Some("carriers"), Some(id), None] => match simulator.carriers.get(id) {
            None => Ok(problem(StatusCode::NOT_FOUND, "no such carrier")),
            Some(_) if request.method() != Method::POST => Ok(not_allowed(&Method::POST)),
            Some(carrier) => Ok(control(carrier, request).await),
        },
        _ => Ok(problem(StatusCode::NOT_FOUND, "no such path")),
    }
}

async fn manifest(simulator: &Simulator, carrier: &Carrier, request: Request<Incoming>) -> Result<Answer, Reset> {
    let (head, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => {
            carrier.count(|counts| counts.bad_requests += 1);
            return Ok(refusal);
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if let Err(error) = carrier.secret().verify_headers(&head.headers, &body, now_s) {
        carrier.count(|counts| counts.bad_signatures += 1);
        return Ok(problem(StatusCode::UNAUTHORIZED, &error.to_string()));
    }
    let manifest = match Manifest::parse(&body) {
        Ok(manifest) => manifest,
        Err(error) => {
            carrier.count(|counts| counts.bad_requests += 1);
            let status = match error {
                ManifestError::TooMany(_) => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            return Ok(problem(status, &error.to_string()));
        }
    };
    let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let verdict = carrier.handle(&manifest, &simulator.ledger, &simulator.remembered, now_ms);
    drop(manifest);
    drop(body);
    match verdict {
        Ok(verdict) => follow(verdict).await,
        Err(error) => {
            simulator.fail(error);
            Err(Reset)
        }
    }
}

async fn follow(verdict: Verdict) -> Result<Answer, Reset> {
    match verdict {
        Verdict::Refuse { status, retry_after_s } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let mut answer = problem(status, "refused by the simulated carrier");
            if let Some(seconds) = retry_after_s {
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Ok(answer)
        }
        Verdict::Reset => Err(Reset),
        Verdict::Silence => {
            // Dropped, and so over, when the client closes its connection.
            tokio::time::sleep(MAX_SILENCE).await;
            Err(Reset)
        }
        Verdict::Answer { body, delay, drops } => {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            Ok(response(StatusCode::OK, "application/json", AnswerBody { left: body, drops, pause: None }))
        }
    }
}

async fn control(carrier: &Carrier, request: Request<Incoming>) -> Answer {
    let body = match read(request.into_body()).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let patch: Map<String, Value> = match serde_json::from_slice(&body) {
        Ok(patch) => patch,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match carrier.change(|behaviour| behaviour.patched(&patch)) {
        Ok(behaviour) => value(&behaviour),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

/// The whole body in one piece, as zero-copy parsing needs it.
async fn read(mut body: Incoming) -> Result<Bytes, Answer> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if expected > MAX_BODY_BYTES {
        return Err(too_large());
    }
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(problem(StatusCode::BAD_REQUEST, "the body broke off"));
        };
        let Ok(data) = frame.into_data() else { continue };
        if whole.is_empty() && data.len() == expected && body.is_end_stream() {
            return Ok(data);
        }
        if whole.len() + data.len() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        if whole.is_empty() {
            whole.reserve_exact(expected.max(data.len()));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

fn too_large() -> Answer {
    problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 16 MiB")
}

fn only(request: &Request<Incoming>, method: &Method, answer: impl FnOnce() -> Answer) -> Answer {
    if request.method() == method { answer() } else { not_allowed(method) }
}

fn not_allowed(allowed: &Method) -> Answer {
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "another method is expected here");
    if let Ok(allowed) = HeaderValue::from_str(allowed.as_str()) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

fn text(text: &'static str) -> Answer {
    response(StatusCode::OK, "text/plain; charset=utf-8", whole(Bytes::from_static(text.as_bytes())))
}

fn value(shown: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(shown) {
        Ok(json) => response(StatusCode::OK, "application/json", whole(json.into())),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// RFC 9457.
fn problem(status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or("error");
    let details = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    response(status, "application/problem+json", whole(details.to_string().into()))
}

fn whole(left: Bytes) -> AnswerBody {
    AnswerBody { left, drops: None, pause: None }
}

fn response(status: StatusCode, content_type: &'static str, body: AnswerBody) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
