//! What carriers tell on their own: where a shipment is. `POST /v1/carriers/{carrier}/events`, signed by the carrier as
//! Sluice signs manifests ([`crate::webhook`]), and durable before the answer.
//!
//! Only form is judged here. What is told of a shipment that nobody knows, twice, or out of order, is taken like any
//! other; the owner of its order decides what it means, and mostly that is nothing. What is told of a tracking number is
//! told of the shipments that have it by then.

use std::{
    collections::{HashSet, VecDeque},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use metrics::{Counter, counter, describe_counter};
use parking_lot::Mutex;
use sluice_domain::{
    SlotCount,
    limits::{MAX_EVENTS_BYTES, MAX_MESSAGE_ID},
};
use sluice_http::{
    Problem, RouteMeter,
    body::{Incoming, SharedRoom, require_type, too_slow},
    responses,
};
use sluice_pipeline::{Clock, Lookup, Receipt, WordIntake, Words};
use tokio::sync::Semaphore;
use utoipa::OpenApi;

use self::body::Checked;
use crate::webhook::{ID_HEADER, SIGNATURE_HEADER, Secret, SecretError, TIMESTAMP_HEADER, TOLERANCE_S, the_header};

mod body;
mod openapi;

/// KiB of messages in memory at once, unless configured otherwise. They count as they arrive, so that who sends nothing
/// keeps nobody out.
pub const DEFAULT_ROOM_KIB: usize = 64 << 10;
/// Time a body may take to arrive. Whoever sends it has not proved yet who it is.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages remembered, so that one that comes again is not put into the log again. What is forgotten beyond it costs a
/// record and changes nothing.
const REMEMBERED: usize = 64 << 10;
/// Messages whose tracking numbers are being looked up at once: up to a thousand numbers each.
const LOOKUPS_AT_ONCE: usize = 4;

/// A carrier and the keys that it may sign with.
#[derive(Debug, Clone)]
pub struct Teller {
    /// Its id.
    pub carrier: Arc<str>,
    /// Any of them will do: two while one replaces the other; none: it may tell nothing.
    pub keys: Vec<Secret>,
}

impl Teller {
    /// Most keys at once.
    pub const MAX_KEYS: usize = 2;

    /// A carrier whose keys are `text`, one or two `whsec_…` with spaces between them.
    ///
    /// # Errors
    /// [`KeysError`]; it never repeats the text.
    pub fn new(carrier: impl Into<Arc<str>>, text: &str) -> Result<Self, KeysError> {
        let keys = text.split_whitespace().map(Secret::from_str).collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            1..=Self::MAX_KEYS => Ok(Self { carrier: carrier.into(), keys }),
            count => Err(KeysError::Count(count)),
        }
    }
}

/// Why a text is no list of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// One of them is no secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// There are none, or too many.
    #[error("expected one key, or two with a space between them while one replaces the other; got {0}")]
    Count(usize),
}

/// What the route needs from the world.
#[derive(Clone)]
pub struct CarrierEvents {
    /// Where events go.
    pub words: Arc<dyn WordIntake>,
    /// Where shipments are found by tracking number.
    pub lookup: Arc<dyn Lookup>,
    /// Who may tell.
    pub tellers: Arc<[Teller]>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The deployment's slots.
    pub slots: SlotCount,
    /// KiB of messages in memory at once.
    pub room_kib: usize,
}

struct App {
    state: CarrierEvents,
    room: Semaphore,
    lookups: Semaphore,
    /// Checked where there is no key, so that an answer's time doesn't tell who has how many; never believed.
    nobody: Option<Secret>,
    recent: Mutex<Recent>,
    meters: Meters,
}

struct Meters {
    route: RouteMeter,
    taken: Counter,
    replayed: Counter,
    unknown: Counter,
    invalid: Counter,
    refused: Counter,
}

impl Meters {
    fn new() -> Self {
        describe_counter!(
            "sluice_carrier_events_total",
            "Events that carriers told, by outcome: taken (durable), replayed (of a message that came before), unknown (of a \
             tracking number that nobody knows), invalid (will never be taken as they are), refused (may be taken later); a message that can't be read counts as one"
        );
        let outcome = |outcome| counter!("sluice_carrier_events_total", "outcome" => outcome);
        Self {
            route: RouteMeter::new("POST /v1/carriers/{carrier}/events"),
            taken: outcome("taken"),
            replayed: outcome("replayed"),
            unknown: outcome("unknown"),
            invalid: outcome("invalid"),
            refused: outcome("refused"),
        }
    }

    /// Counts a message that was not read.
    fn not_read(&self, status: StatusCode) {
        if status == StatusCode::SERVICE_UNAVAILABLE { &self.refused } else { &self.invalid }.increment(1);
    }
}

/// What names a message: its teller, its id, and what of it is good. Under an id that was used, other events are another
/// message; so is the same body once more of it is good, as time goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name([u8; 32]);

impl Name {
    fn of(teller: usize, id: &str, words: &Words) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(teller as u64).to_le_bytes());
        hasher.update(&(id.len() as u64).to_le_bytes());
        hasher.update(id.as_bytes());
        hasher.update(&words.bytes);
        Self(*hasher.finalize().as_bytes())
    }
}

/// Messages that are durable, oldest first.
#[derive(Default)]
struct Recent {
    known: HashSet<Name>,
    order: VecDeque<Name>,
}

impl Recent {
    fn has(&self, name: Name) -> bool {
        self.known.contains(&name)
    }

    fn note(&mut self, name: Name) {
        if !self.known.insert(name) {
            return;
        }
        self.order.push_back(name);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// The route. Called after the metrics recorder is installed, or nothing is counted.
pub fn router(state: CarrierEvents) -> Router {
    let app = App {
        room: Semaphore::new(state.room_kib),
        lookups: Semaphore::new(LOOKUPS_AT_ONCE),
        nobody: Secret::from_bytes(&[0; crate::webhook::SECRET_MIN_BYTES]).ok(),
        recent: Mutex::default(),
        meters: Meters::new(),
        state,
    };
    Router::new()
        .route("/v1/carriers/{carrier}/events", post(events))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(Arc::new(app))
}

/// The part of the API description that is the carriers'.
pub fn openapi() -> utoipa::openapi::OpenApi {
    openapi::Document::openapi()
}

/// Tell where shipments are
///
/// Signed as [Standard Webhooks](https://www.standardwebhooks.com) by the carrier. 200 means that every event with status
/// `taken` is on disk. Events may come in any order and any number of times, and a message may be sent again under its
/// `webhook-id`: a status never moves back. An event that isn't as it should be is refused by itself, with status `refused`,
/// and costs the others nothing; 422 only if all are. One about a tracking number that nobody knows (yet) has status `unknown`,
/// and is to be told again if there is a `retry_after_s`. What an event means is decided later, by the owner of its order;
/// one about a shipment that this carrier doesn't have changes nothing.
#[utoipa::path(
    post,
    path = "/v1/carriers/{carrier}/events",
    operation_id = "tell_events",
    tag = "carriers",
    security(("carrier_signature" = [])),
    params(
        ("carrier" = String, Path, description = "The carrier's id", min_length = 1, max_length = 32, example = "swift"),
        openapi::SignatureHeaders,
    ),
    request_body(content = openapi::Events, content_type = "application/json", description = "At most 1,048,576 bytes."),
    responses(
        (status = 200, description = "Each event with what became of it.", body = openapi::Results,
         content_type = "application/json"),
        openapi::EventsProblems,
        responses::PostOnly,
    )
)]
async fn events(
    State(app): State<Arc<App>>,
    carrier: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let started = app.state.clock.monotonic_us();
    let carrier = carrier.map_or_else(|_| String::new(), |Path(carrier)| carrier);
    let json = |results: openapi::Results| serde_json::to_vec(&results).map_err(|error| unwritten(&error));
    let response = match take(&app, &carrier, request).await.and_then(json) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(problem) => problem.into_response(),
    };
    app.meters.route.record(response.status(), app.state.clock.monotonic_us().saturating_sub(started));
    response
}

async fn take(app: &Arc<App>, carrier: &str, request: Request) -> Result<openapi::Results, Problem> {
    let (parts, body) = request.into_parts();
    // Before the body is read: most strangers don't even try.
    let id = the_header(&parts.headers, ID_HEADER).map_err(|_| unsigned())?;
    the_header(&parts.headers, TIMESTAMP_HEADER).map_err(|_| unsigned())?;
    the_header(&parts.headers, SIGNATURE_HEADER).map_err(|_| unsigned())?;
    if id.len() > MAX_MESSAGE_ID {
        return Err(unsigned());
    }
    let mut room = SharedRoom::new(&app.room, "As much is told by carriers as this node takes at once.");
    let mut incoming = Incoming::new(body, &parts.headers, MAX_EVENTS_BYTES, &mut room);
    let body = tokio::time::timeout(BODY_TIMEOUT, incoming.whole()).await.unwrap_or_else(|_| Err(too_slow()));
    let body = body.inspect_err(|problem| app.meters.not_read(problem.status))?;
    let teller = verify(app, carrier, &parts.headers, &body)?;
    require_type(&parts.headers, "application/json")?;
    let told = &app.state.tellers[teller].carrier;
    let checked = check(app, told, &body).await?;
    let (name, count) = (Name::of(teller, id, &checked.words), checked.taken as u64);
    if app.recent.lock().has(name) {
        app.meters.replayed.increment(count);
        return Ok(checked.results);
    }
    app.meters.invalid.increment(checked.refused as u64);
    app.meters.unknown.increment(checked.unknown as u64);
    if count == 0 {
        return Ok(checked.results);
    }
    // On its own: who asked may go away before it is durable, and then comes again.
    let (storing, words) = (Arc::clone(app), checked.words);
    let stored = tokio::spawn(async move {
        store(&storing, words).await.inspect_err(|_| storing.meters.refused.increment(count))?;
        storing.meters.taken.increment(count);
        storing.recent.lock().note(name);
        Ok::<_, Problem>(())
    });
    stored.await.unwrap_or_else(|_| Err(no_receipt()))?;
    Ok(checked.results)
}

/// Reads what `carrier` tells, and looks up the tracking numbers in it.
async fn check(app: &App, carrier: &str, body: &[u8]) -> Result<Checked, Problem> {
    let invalid = |(problem, events): (Problem, usize)| {
        app.meters.invalid.increment(events as u64);
        problem
    };
    let now_ms = app.state.clock.now_ms();
    let told = body::read(body, now_ms, app.state.slots).map_err(invalid)?;
    let numbers = told.numbers();
    let mut shipments = Vec::new();
    if !numbers.is_empty() {
        let full = |_| Problem::unavailable("As many numbers are being looked up as this node does at once.", 1);
        let _place = app.lookups.try_acquire().map_err(full)?;
        shipments = app.state.lookup.shipments_of(carrier, &numbers).await.map_err(|error| {
            tracing::warn!(carrier, %error, "tracking numbers could not be looked up");
            Problem::unavailable("Tracking numbers can't be looked up now; send the message again.", 1)
        })?;
    }
    told.check(carrier, now_ms, &numbers, &shipments).map_err(invalid)
}

/// The number of the teller that signed this.
fn verify(app: &App, carrier: &str, headers: &HeaderMap, body: &[u8]) -> Result<usize, Problem> {
    let teller = app.state.tellers.iter().position(|t| &*t.carrier == carrier);
    let keys = teller.map_or(&[][..], |number| &app.state.tellers[number].keys);
    let now_s = (app.state.clock.now_ms() / 1_000) as i64;
    let (mut believed, mut why) = (false, None);
    for slot in 0..Teller::MAX_KEYS {
        let key = keys.get(slot);
        match key.or(app.nobody.as_ref()).map(|key| key.verify_headers(headers, body, now_s)) {
            Some(Ok(())) => believed |= key.is_some(),
            Some(Err(error)) => why = Some(error.to_string()),
            None => {}
        }
    }
    if !believed {
        tracing::debug!(carrier, why, "a carrier's message is not believed");
    }
    teller.filter(|_| believed).ok_or_else(unsigned)
}

/// Puts `words` into the log: all of them, or it is to be tried again.
async fn store(app: &App, words: Words) -> Result<(), Problem> {
    let count = words.words.len();
    let receipts = app.state.words.hear(words).await;
    let busy = receipts.iter().find_map(|receipt| match receipt {
        Receipt::Busy { retry_after_s, reason } => Some(Problem::unavailable(*reason, *retry_after_s)),
        _ => None,
    });
    match busy {
        None if receipts.len() == count => Ok(()),
        None => Err(no_receipt()),
        Some(problem) => Err(problem),
    }
}

fn no_receipt() -> Problem {
    tracing::error!("the engine gave no receipt for an event");
    Problem::unavailable("The engine did not say what became of the events; send them again.", 1)
}

fn unwritten(error: &serde_json::Error) -> Problem {
    tracing::error!(%error, "an answer could not be written");
    Problem::unavailable("The answer could not be written; send the events again.", 1)
}

/// Nobody is told whether it is the carrier, the key, the time or the signature that is wrong.
fn unsigned() -> Problem {
    let detail = format!(
        "Sign the body with this carrier's key as Standard Webhooks says: webhook-id, webhook-timestamp within \
         {TOLERANCE_S} s of now, and webhook-signature."
    );
    Problem::bad_signature(detail)
}

#[cfg(test)]
mod tests;
