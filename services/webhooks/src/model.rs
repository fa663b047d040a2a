//! What is stored of an endpoint, and under which keys.
//!
//! | key | document |
//! |---|---|
//! | `e/<endpoint>` | [`Endpoint`]: what its merchant has set, secrets included |
//! | `s/<endpoint>` | [`Standing`]: how far it has been told |
//! | `p/<endpoint>/<number>` | [`Schedule`] of an event that waits for its next attempt |
//! | `b/<endpoint>/<number>` | that event's [`Message`] |
//! | `d/<endpoint>/<number from the end>` | [`Delivery`]: the log, newest first |
//! | `o/<order>/<endpoint>.<number from the end>` | nothing: that this line of the log is about the order |
//! | `m/<hash of the merchant>/<endpoint>` | nothing: that the merchant has made this endpoint |
//!
//! Endpoints of the configuration have no `e/` and no `m/`. Lines that an earlier version wrote have no `o/`. All are JSON; a field that is new is optional.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sluice_domain::OrderId;
use sluice_pipeline::{Change, Cursor};

/// Attempts before the last one that are kept of an event; older ones are only counted.
pub const MAX_EARLIER: usize = 15;
/// Bytes of what was wrong that are kept of each of them.
pub const MAX_EARLIER_ERROR: usize = 80;

/// An endpoint as its merchant has set it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `whe_` and 26 characters.
    pub id: String,
    /// Whose it is.
    pub merchant: String,
    /// Where events are posted, normalised.
    pub url: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Types of events that are posted; all if empty.
    #[serde(default)]
    pub types: Vec<String>,
    /// What messages are signed with, `whsec_…`.
    pub secret: String,
    /// What they are signed with, too, for a while.
    #[serde(default)]
    pub old_secret: Option<OldSecret>,
    /// Why nothing is posted; `None` if it is.
    #[serde(default)]
    pub disabled: Option<Disabled>,
    /// ms since the Unix epoch.
    pub created_at_ms: u64,
    /// True if it is the configuration's: read-only over the API.
    #[serde(skip)]
    pub fixed: bool,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, merchant, url, types, disabled, fixed, .. } = self;
        write!(f, "Endpoint {{ {id} of {merchant}: {url}, types {types:?}, disabled {disabled:?}, fixed {fixed} }}")
    }
}

impl Endpoint {
    /// True if events of this type are posted.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|wanted| wanted == kind)
    }
}

/// A secret that was replaced.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldSecret {
    /// `whsec_…`.
    pub secret: String,
    /// Until when messages are signed with it, ms since the Unix epoch.
    pub until_ms: u64,
}

/// Why nothing is posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Disabled {
    /// It answered 410.
    Gone,
    /// Its merchant said so.
    ByMerchant,
}

/// How far an endpoint has been told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// Everything before it is settled. `None` until the feed has said where its end is.
    #[serde(with = "cursor_text")]
    pub cursor: Option<Cursor>,
    /// Since when it is enabled, ms since the Unix epoch.
    pub enabled_at_ms: u64,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// Since when all attempts fail.
    pub failing_since_ms: Option<u64>,
    /// No attempt before this.
    pub waits_until_ms: u64,
    /// When the last one succeeded.
    pub succeeded_at_ms: Option<u64>,
    /// When events were last found to be gone before they could be posted.
    pub missed_at_ms: Option<u64>,
    /// Number of the oldest delivery in the log.
    pub log_oldest: u64,
    /// Number of the next one.
    pub log_next: u64,
    /// Number of the next event that is put aside.
    pub parked_next: u64,
    /// Replays, oldest first; only the last one can be under way.
    pub replays: Vec<Replay>,
    /// Of an endpoint of the configuration: what was last known of it. What an earlier version wrote doesn't say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured: Option<Configured>,
}

/// What is stored of an endpoint of the configuration besides how far it has been told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Configured {
    /// Where it was.
    pub url: String,
    /// True if it has answered 410 and wasn't enabled since.
    pub gone: bool,
    /// When a start found it in the configuration no more, ms since the Unix epoch.
    pub removed_at_ms: Option<u64>,
}

/// A range of time that is posted again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// The request's idempotency key.
    pub key: String,
    /// First time that is in it, ms since the Unix epoch.
    pub from_ms: u64,
    /// First time behind it.
    pub to_ms: u64,
    /// When it was asked for.
    pub asked_at_ms: u64,
    /// Everything before it is settled; `None` when it is over.
    #[serde(with = "cursor_text")]
    pub cursor: Option<Cursor>,
    /// How far the endpoint had been told when it was asked for: what lies ahead of it is told anyway.
    #[serde(with = "cursor_text")]
    pub until: Option<Cursor>,
    /// Events settled so far.
    pub events: u64,
}

/// One event, as it is posted and put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// CloudEvents `id`; the `webhook-id`.
    pub id: String,
    /// CloudEvents `type`.
    pub kind: String,
    /// The order.
    #[serde(with = "order_text")]
    pub order: OrderId,
    /// Number among its order's events.
    pub sequence: u64,
    /// CloudEvents `time`, ms since the Unix epoch.
    pub at_ms: u64,
    /// CloudEvents `data`: JSON.
    pub data: String,
}

/// An event's attempts: what came of the last one, and when the next one is due if it was put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its number among those that were put aside: those of one order go by it.
    pub number: u64,
    /// CloudEvents `id`.
    pub event: String,
    /// CloudEvents `type`.
    pub kind: String,
    /// The order.
    #[serde(with = "order_text")]
    pub order: OrderId,
    /// Number among its order's events.
    pub sequence: u64,
    /// CloudEvents `time`, ms since the Unix epoch.
    pub event_at_ms: u64,
    /// Attempts so far; 0 if it waits for an earlier one of its order.
    pub attempts: u32,
    /// When it was put aside, ms since the Unix epoch.
    pub since_ms: u64,
    /// Next attempt, ms since the Unix epoch.
    pub due_ms: u64,
    /// Its number in the log, once it is there.
    #[serde(default)]
    pub log: Option<u64>,
    /// True if it was asked for again.
    #[serde(default)]
    pub replayed: bool,
    /// HTTP status of the last attempt, if there was an answer.
    #[serde(default)]
    pub http_status: Option<u16>,
    /// How long the last attempt took, ms.
    #[serde(default)]
    pub took_ms: Option<u64>,
    /// What was wrong with it; empty if nothing was.
    #[serde(default)]
    pub error: String,
    /// When the last attempt ended, ms since the Unix epoch; what an earlier version wrote doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at_ms: Option<u64>,
    /// The attempts before it, oldest first; at most [`MAX_EARLIER`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Attempt>,
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended, ms since the Unix epoch.
    pub at_ms: u64,
    /// HTTP status, if there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// How long it took, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// What was wrong with it; empty if nothing was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

impl Schedule {
    /// Of an event that wasn't attempted.
    #[must_use]
    pub fn new(message: &Message, replayed: bool, now: u64) -> Self {
        Self {
            number: 0,
            event: message.id.clone(),
            kind: message.kind.clone(),
            order: message.order,
            sequence: message.sequence,
            event_at_ms: message.at_ms,
            attempts: 0,
            since_ms: now,
            due_ms: now,
            log: None,
            replayed,
            http_status: None,
            took_ms: None,
            error: String::new(),
            tried_at_ms: None,
            earlier: Vec::new(),
        }
    }

    /// Puts the last attempt, if there was one, behind the earlier ones: another one has been made.
    pub(crate) fn make_earlier(&mut self) {
        let Some(at_ms) = self.tried_at_ms.take() else { return };
        let mut error = std::mem::take(&mut self.error);
        error.truncate(error.floor_char_boundary(MAX_EARLIER_ERROR));
        let (http_status, took_ms) = (self.http_status.take(), self.took_ms.take());
        self.earlier.push(Attempt { at_ms, http_status, took_ms, error });
        let extra = self.earlier.len().saturating_sub(MAX_EARLIER);
        self.earlier.drain(..extra);
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// The endpoint took it.
    Delivered,
    /// It is tried again.
    Retrying,
    /// It was given up. A replay posts it again.
    Failed,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Ascending, without gaps.
    pub number: u64,
    /// The event's id.
    pub event: String,
    /// Its type.
    pub kind: String,
    /// Its order.
    #[serde(with = "order_text")]
    pub order: OrderId,
    /// Its number among its order's events.
    pub sequence: u64,
    /// Its time, ms since the Unix epoch.
    pub event_at_ms: u64,
    /// What became of it.
    pub status: DeliveryStatus,
    /// Attempts so far.
    pub attempts: u32,
    /// When this was last written, ms since the Unix epoch.
    pub at_ms: u64,
    /// HTTP status of the last attempt, if there was an answer.
    pub http_status: Option<u16>,
    /// How long the last attempt took, ms.
    pub took_ms: Option<u64>,
    /// What was wrong with it; empty if nothing was.
    pub error: String,
    /// Next attempt, ms since the Unix epoch.
    pub next_at_ms: Option<u64>,
    /// True if it was asked for again.
    pub replayed: bool,
    /// When the last attempt ended, ms since the Unix epoch; what an earlier version wrote doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at_ms: Option<u64>,
    /// The attempts before it, oldest first; at most [`MAX_EARLIER`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Attempt>,
}

impl Delivery {
    /// The newest of its attempts, oldest first.
    #[must_use]
    pub fn tries(&self) -> Vec<Attempt> {
        let Self { http_status, took_ms, .. } = *self;
        let last = (self.attempts > 0).then(|| Attempt {
            at_ms: self.tried_at_ms.unwrap_or(self.at_ms),
            http_status,
            took_ms,
            error: self.error.clone(),
        });
        self.earlier.iter().cloned().chain(last).collect()
    }
}

/// Key of an [`Endpoint`]; of all of them, their prefix, if `id` is empty. The same for the others.
#[must_use]
pub fn endpoint_key(id: &str) -> Vec<u8> {
    format!("e/{id}").into_bytes()
}

/// Key of a [`Standing`].
#[must_use]
pub fn standing_key(id: &str) -> Vec<u8> {
    format!("s/{id}").into_bytes()
}

/// What keys of all [`Schedule`]s of an endpoint begin with.
#[must_use]
pub fn schedules_prefix(id: &str) -> Vec<u8> {
    format!("p/{id}/").into_bytes()
}

/// Key of a [`Schedule`].
#[must_use]
pub fn schedule_key(id: &str, number: u64) -> Vec<u8> {
    format!("p/{id}/{number:016x}").into_bytes()
}

/// Key of a [`Message`] that was put aside.
#[must_use]
pub fn message_key(id: &str, number: u64) -> Vec<u8> {
    format!("b/{id}/{number:016x}").into_bytes()
}

/// What keys of all [`Delivery`]s of an endpoint begin with.
#[must_use]
pub fn deliveries_prefix(id: &str) -> Vec<u8> {
    format!("d/{id}/").into_bytes()
}

/// Key of a [`Delivery`]: the newest sorts first.
#[must_use]
pub fn delivery_key(id: &str, number: u64) -> Vec<u8> {
    format!("d/{id}/{:016x}", u64::MAX - number).into_bytes()
}

/// What keys begin with that name lines about an order.
#[must_use]
pub fn about_prefix(order: OrderId) -> Vec<u8> {
    format!("o/{order}/").into_bytes()
}

/// Key that names the line `number` of an endpoint's log as one about `order`.
#[must_use]
pub fn about_key(order: OrderId, id: &str, number: u64) -> Vec<u8> {
    format!("o/{order}/{id}.{:016x}", u64::MAX - number).into_bytes()
}

/// Endpoint and number of the line that a key of [`about_key`] names; `None` if it is another key.
#[must_use]
pub fn about(key: &[u8]) -> Option<(&str, u64)> {
    let (_, line) = str::from_utf8(key).ok()?.strip_prefix("o/")?.split_once('/')?;
    let (id, number) = line.split_once('.')?;
    Some((id, u64::MAX - u64::from_str_radix(number, 16).ok()?))
}

/// Endpoint and number of the line that is stored under a key of [`delivery_key`]; `None` if it is another key.
#[must_use]
pub fn line(key: &[u8]) -> Option<(&str, u64)> {
    let (id, number) = str::from_utf8(key).ok()?.strip_prefix("d/")?.split_once('/')?;
    Some((id, u64::MAX - u64::from_str_radix(number, 16).ok()?))
}

/// What keys begin with that name a merchant's endpoints. Of a hash, since ids may have slashes.
#[must_use]
pub fn made_prefix(merchant: &str) -> Vec<u8> {
    format!("m/{}/", &blake3::hash(merchant.as_bytes()).to_hex()[..32]).into_bytes()
}

/// Key that names an endpoint as one that a merchant has made.
#[must_use]
pub fn made_key(merchant: &str, id: &str) -> Vec<u8> {
    [&made_prefix(merchant), id.as_bytes()].concat()
}

/// Stores a key that says all there is to say.
#[must_use]
pub fn name(key: Vec<u8>) -> Change {
    Change::Put { key, value: Vec::new() }
}

/// Stores `document`.
///
/// # Panics
/// Never: these types always serialise into memory.
#[must_use]
pub fn put<T: Serialize>(key: Vec<u8>, document: &T) -> Change {
    Change::Put { key, value: serde_json::to_vec(document).unwrap_or_default() }
}

/// Reads a document; `None`, with a line in the log, if it can't be.
#[must_use]
pub fn read<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Option<T> {
    let read = serde_json::from_slice(value);
    read.inspect_err(|error| {
        tracing::error!(key = %String::from_utf8_lossy(key), %error, "a document about webhooks can't be read");
    })
    .ok()
}

/// An event with where it stands in the feed.
#[derive(Debug, Clone)]
pub struct Item {
    /// The event.
    pub message: Arc<Message>,
    /// Where a reader goes on after it.
    pub next: Cursor,
}

mod cursor_text {
    //! A cursor as its text.

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};
    use sluice_pipeline::Cursor;

    pub(super) fn serialize<S: Serializer>(cursor: &Option<Cursor>, to: S) -> Result<S::Ok, S::Error> {
        match cursor {
            Some(cursor) => to.collect_str(cursor),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cursor>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

mod order_text {
    //! An order's id as its text.

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};
    use sluice_domain::OrderId;

    pub(super) fn serialize<S: Serializer>(order: &OrderId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(order)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<OrderId, D::Error> {
        String::deserialize(from)?.parse().map_err(|_| D::Error::custom("not an order's id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "00000000000000000000000001";

    /// As they were written before attempts were kept one by one.
    #[test]
    fn what_an_earlier_version_wrote_is_read() {
        let line = format!(
            r#"{{"number":7,"event":"e","kind":"k","order":"{ORDER}","sequence":2,"event_at_ms":1,"status":"retrying",
            "attempts":3,"at_ms":9,"http_status":500,"took_ms":4,"error":"status 500","next_at_ms":99,"replayed":false}}"#
        );
        let line: Delivery = serde_json::from_str(&line).unwrap();
        let last = Attempt { at_ms: 9, http_status: Some(500), took_ms: Some(4), error: "status 500".to_owned() };
        assert_eq!((line.tries(), line.order), (vec![last], OrderId(1)));
        let waits = format!(
            r#"{{"number":1,"event":"e","kind":"k","order":"{ORDER}","sequence":2,"event_at_ms":1,"attempts":3,
            "since_ms":5,"due_ms":9}}"#
        );
        let mut waits: Schedule = serde_json::from_str(&waits).unwrap();
        waits.make_earlier();
        assert_eq!((waits.earlier.len(), waits.attempts), (0, 3));
        let standing: Standing = serde_json::from_str(r#"{"cursor":"1.5","enabled_at_ms":3,"log_next":7}"#).unwrap();
        assert_eq!((standing.cursor, standing.log_next, standing.configured), (Some(Cursor(vec![5])), 7, None));
    }

    fn schedule() -> Schedule {
        let message = Message {
            id: "e".to_owned(),
            kind: "k".to_owned(),
            order: OrderId(1),
            sequence: 2,
            at_ms: 3,
            data: String::new(),
        };
        Schedule::new(&message, false, 4)
    }

    #[test]
    fn what_is_written_today_is_frozen() {
        let attempt = Attempt { at_ms: 1, http_status: Some(500), took_ms: None, error: "x".to_owned() };
        let mut schedule = schedule();
        (schedule.tried_at_ms, schedule.earlier) = (Some(5), vec![attempt]);
        let expected = format!(
            r#"{{"number":0,"event":"e","kind":"k","order":"{ORDER}","sequence":2,"event_at_ms":3,"attempts":0,"since_ms":4,"#
        ) + r#""due_ms":4,"log":null,"replayed":false,"http_status":null,"took_ms":null,"error":"","tried_at_ms":5,"#
            + r#""earlier":[{"at_ms":1,"http_status":500,"error":"x"}]}"#;
        assert_eq!(serde_json::to_string(&schedule).unwrap(), expected);
        assert_eq!(serde_json::from_str::<Schedule>(&expected).unwrap(), schedule);
        let configured = Configured { url: "u".to_owned(), gone: true, removed_at_ms: None };
        let expected = r#"{"url":"u","gone":true,"removed_at_ms":null}"#;
        assert_eq!(serde_json::to_string(&configured).unwrap(), expected);
        assert_eq!(serde_json::from_str::<Configured>(expected).unwrap(), configured);
    }

    #[test]
    fn the_newest_attempts_are_kept_and_no_long_texts() {
        let mut schedule = schedule();
        for at_ms in 0..40 {
            schedule.make_earlier();
            (schedule.tried_at_ms, schedule.error) = (Some(at_ms), "ä".repeat(100));
        }
        assert_eq!(schedule.earlier.iter().map(|one| one.at_ms).collect::<Vec<_>>(), (24..39).collect::<Vec<_>>());
        assert!(schedule.earlier.iter().all(|one| one.error.len() == MAX_EARLIER_ERROR));
    }
}
