//! `POST /v1/orders:batch`: thousands of orders a request, each durable and answered on its own.
//!
//! Lines are decoded as they arrive, so that the body is never in memory as a whole, and in turns of [`TURN`], so that
//! single orders on the same threads wait for one turn and not for ten thousand lines. The engine gets all good lines as
//! one submission. Results go out only when all are known: a client may write everything before it reads anything.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use sluice_domain::{
    Fingerprint, Merchant, OrderId,
    limits::{MAX_BATCH_BYTES, MAX_BATCH_LINES, MAX_ORDER_BYTES},
};
use sluice_http::{
    Problem, authenticate,
    body::{Incoming, malformed, require_type, too_large, too_slow},
    responses,
};
use sluice_pipeline::{Submission, Submitted};

use crate::{
    App,
    admission::Admission,
    answer,
    budget::Hold,
    decode::{Context, Decoded, Key, Scratch, decode},
    ndjson::{Line, Lines},
    openapi,
    replay::{Late, look_up},
    results::Results,
};

/// Lines decoded before others on the same thread get their turn: about 50 µs.
const TURN: usize = 64;
/// Bytes of a line, as a guess.
const USUAL_BYTES: usize = 512;
/// Orders placed before the window that are looked up at the same time.
const LOOK_UPS: usize = 16;
/// Bytes of problems in one answer before they leave out the fields at fault: a batch of nothing but errors must not
/// become many times its own size.
const MAX_PROBLEM_BYTES: usize = 4 << 20;

/// What is known of a line before the engine has spoken.
enum Outcome {
    /// It goes to the engine, in the order of the lines.
    Submitted(OrderId),
    /// It was placed before the window: number of its look-up.
    Late(OrderId, usize),
    /// Status, and where the problem's JSON is in [`Decoding::problems`].
    Problem(StatusCode, std::ops::Range<usize>),
}

struct LateOrder {
    id: OrderId,
    fingerprint: Fingerprint,
    record: Vec<u8>,
}

/// A batch being read.
struct Decoding<'a> {
    context: Context<'a>,
    scratch: Scratch,
    submission: Submission,
    late: Vec<LateOrder>,
    problems: Vec<u8>,
    outcomes: Vec<Outcome>,
}

/// Place many orders
///
/// The body is NDJSON: one order a line, each with its `idempotency_key`; at most 10,000 lines and 16 MiB. The answer has
/// one line per line, in the same order, each with a status of its own; a bad line fails alone. Beyond the bounds nothing
/// is taken. After an answer that was lost, send the same batch again.
#[utoipa::path(
    post,
    path = "/v1/orders:batch",
    operation_id = "place_orders",
    tag = "orders",
    security(("api_key" = [])),
    request_body(content = openapi::BatchOrder, content_type = "application/x-ndjson",
        description = "Each line is one such object of at most 65,536 bytes."),
    responses(
        (status = 200, description = "Each line is one such object.", body = openapi::BatchResult,
         content_type = "application/x-ndjson"),
        openapi::BatchProblems,
        responses::Unauthorized,
        responses::PostOnly,
    )
)]
pub(crate) async fn place_orders(State(app): State<Arc<App>>, request: Request) -> Response {
    let started = app.checkout.clock.monotonic_us();
    let response = match place(&app, request).await {
        Ok(body) => {
            let mut response = Response::new(Body::from(body));
            let value = HeaderValue::from_static("application/x-ndjson");
            response.headers_mut().insert(header::CONTENT_TYPE, value);
            response
        }
        Err(problem) => problem.into_response(),
    };
    app.meters.batch.record(response.status(), app.checkout.clock.monotonic_us().saturating_sub(started));
    response
}

/// What a batch counts as against its merchant's rate: what was read, and nothing if it never was.
struct Charge<'a> {
    admission: &'a Admission,
    merchant: &'a Merchant,
    guess: u64,
    orders: u64,
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.admission.recount(self.merchant, self.guess, self.orders);
    }
}

async fn place(app: &App, request: Request) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let merchant = authenticate(&parts.headers, &app.checkout.merchants)?;
    require_type(&parts.headers, "application/x-ndjson")?;
    app.checkout.intake.ready().map_err(|reason| Problem::unavailable(reason, 1))?;
    let length = body.size_hint().lower().min(MAX_BATCH_BYTES as u64) as usize;
    // How many lines there are is known when all are read; until then their usual length says.
    let guess = (length / USUAL_BYTES).clamp(1, MAX_BATCH_LINES) as u64;
    let mut hold = app.admission.enter(&merchant, guess, length)?;
    let mut charge = Charge { admission: &app.admission, merchant: &merchant, guess, orders: 0 };
    let mut decoding = Decoding::new(app.context(&merchant.id), length);
    let incoming = Incoming::new(body, &parts.headers, MAX_BATCH_BYTES, &mut hold);
    let read = Box::pin(decoding.read(app, incoming));
    tokio::time::timeout(app.checkout.body_timeout, read).await.map_err(|_| too_slow())??;
    charge.orders = decoding.outcomes.len() as u64;
    drop(charge);
    if decoding.outcomes.is_empty() {
        return Err(malformed("The body has no lines; one order a line is expected."));
    }
    let answer = decoding.settle(app).await?;
    hold.shrink_to(answer.len());
    Ok(Bytes::from_owner(HeldBytes { bytes: answer, _hold: hold }))
}

/// An answer that counts in the budget until its last byte is handed to the socket.
struct HeldBytes {
    bytes: Vec<u8>,
    _hold: Hold,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<'a> Decoding<'a> {
    /// `length` is the body's, if it is known.
    fn new(context: Context<'a>, length: usize) -> Self {
        Self {
            context,
            scratch: Scratch::default(),
            // A record takes about half of its JSON.
            submission: Submission {
                bytes: Vec::with_capacity(length / 2),
                orders: Vec::with_capacity(length / USUAL_BYTES),
            },
            late: Vec::new(),
            problems: Vec::new(),
            outcomes: Vec::with_capacity(length / USUAL_BYTES),
        }
    }

    async fn read(&mut self, app: &App, mut incoming: Incoming<'_>) -> Result<(), Problem> {
        let mut lines = Lines::default();
        while let Some(chunk) = incoming.next().await? {
            self.context.now_ms = app.checkout.clock.now_ms();
            let mut chunk = &chunk[..];
            while lines.next(&mut chunk, |line| self.line(line)) {
                if self.outcomes.len() > MAX_BATCH_LINES {
                    incoming.discard().await;
                    return Err(too_many_lines());
                }
                if self.outcomes.len().is_multiple_of(TURN) {
                    tokio::task::yield_now().await;
                }
            }
        }
        lines.finish(|line| self.line(line));
        if self.outcomes.len() > MAX_BATCH_LINES { Err(too_many_lines()) } else { Ok(()) }
    }

    fn line(&mut self, line: Line<'_>) {
        let Line::Bytes(bytes) = line else {
            return self.problem(too_large(format!("The line has more than {MAX_ORDER_BYTES} bytes.")));
        };
        let Ok(text) = std::str::from_utf8(bytes) else {
            return self.problem(malformed("Not JSON: the line is not UTF-8."));
        };
        let out = &mut self.submission.bytes;
        match decode(text, Key::InBody, &self.context, &mut self.scratch, out) {
            Ok(Decoded { id, fingerprint, record, late: false }) => {
                self.submission.orders.push(Submitted { id, fingerprint, record });
                self.outcomes.push(Outcome::Submitted(id));
            }
            Ok(Decoded { id, fingerprint, record, late: true }) => {
                self.outcomes.push(Outcome::Late(id, self.late.len()));
                let record = out.split_off(record.start);
                self.late.push(LateOrder { id, fingerprint, record });
            }
            Err(_) if text.trim_ascii().is_empty() => {
                self.problem(malformed("The line is blank; one order is expected."));
            }
            Err(_) => self.problem(answer::refused(text, Key::InBody, &self.context)),
        }
    }

    fn problem(&mut self, mut problem: Problem) {
        let start = self.problems.len();
        if start > MAX_PROBLEM_BYTES {
            problem.errors.clear();
        }
        problem.write_json(&mut self.problems);
        self.outcomes.push(Outcome::Problem(problem.status, start..self.problems.len()));
    }

    /// Waits for the engine and the look-ups, and words the results.
    async fn settle(self, app: &App) -> Result<Vec<u8>, Problem> {
        let Self { context, submission, late, problems, outcomes, .. } = self;
        let submitted = submission.orders.len();
        let receipts = async {
            if submitted == 0 {
                return Vec::new();
            }
            let since_us = app.checkout.clock.monotonic_us();
            let receipts = app.checkout.intake.submit(submission).await;
            app.admission.answered(since_us, &receipts);
            receipts
        };
        let orders = &*app.checkout.orders;
        let look_ups = late
            .into_iter()
            .map(|order| async move { look_up(orders, order.id, order.fingerprint, &order.record).await });
        let look_ups = futures_util::stream::iter(look_ups).buffered(LOOK_UPS).collect::<Vec<Late>>();
        let (receipts, found) = tokio::join!(receipts, look_ups);
        if receipts.len() != submitted {
            return Err(crate::no_receipt());
        }
        let mut receipts = receipts.into_iter();
        let mut results = Results::new(outcomes.len(), problems.len());
        for outcome in outcomes {
            let status = match outcome {
                Outcome::Submitted(id) => receipts.next().map(|receipt| results.receipt(id, receipt)),
                Outcome::Late(id, look_up) => found.get(look_up).map(|late| results.late(id, *late, &context)),
                Outcome::Problem(status, json) => Some(results.problem(status, &problems[json])),
            };
            let Some(status) = status else { return Err(crate::no_receipt()) };
            match status {
                Ok(replayed) => app.meters.taken(replayed),
                Err(status) => app.meters.refused(status),
            }
        }
        Ok(results.into_bytes())
    }
}

fn too_many_lines() -> Problem {
    too_large(format!("The body has more than {MAX_BATCH_LINES} lines; none was taken."))
}
