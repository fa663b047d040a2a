//! All endpoints, their deliveries, and what may be done to them: the one place that changes either.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    str::FromStr as _,
    sync::Arc,
};

use serde_json::value::RawValue;
use sluice_domain::limits::{MAX_REPLAYING, MAX_WEBHOOKS};
use sluice_http::{Timestamp, webhook::Secret};
use sluice_pipeline::{Change, Cursor};
use sluice_schemas::event::sequence_text;

use crate::{
    config::WebhookConfig,
    core::Core,
    guard::Target,
    model::{self, Disabled, Endpoint, Message, Replay, Schedule, Standing},
};

/// An endpoint, and how it does.
#[derive(Debug, Clone)]
pub struct Shown {
    /// As its merchant has set it.
    pub endpoint: Endpoint,
    /// How far it has been told.
    pub standing: Standing,
    /// Events put aside.
    pub parked: usize,
    /// True while everything fails.
    pub failing: bool,
}

/// Why something isn't done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The merchant has no such endpoint.
    #[error("there is no webhook endpoint with this id")]
    Unknown,
    /// It is the configuration's.
    #[error("this endpoint is set in the server's configuration and can't be changed here")]
    Fixed,
    /// The merchant has [`MAX_WEBHOOKS`].
    #[error("there are {MAX_WEBHOOKS} endpoints already; remove one first")]
    TooMany,
    /// A replay is under way.
    #[error("a replay is under way; it must end first")]
    Replaying,
    /// The merchant has [`MAX_REPLAYING`].
    #[error("{MAX_REPLAYING} replays to this merchant's endpoints are under way; one of them must end first")]
    TooManyReplays,
    /// The replay's key was used for another range.
    #[error("this Idempotency-Key was used for another range")]
    KeyReused,
    /// What was done can't be stored now, or the node is stopping.
    #[error("this can't be stored now")]
    Unstored,
}

/// What messages of an endpoint are signed with.
struct Keys {
    current: Secret,
    old: Option<(Secret, u64)>,
}

impl Keys {
    /// `None`, with a line in the log, if what is stored is no secret.
    fn of(endpoint: &Endpoint) -> Option<Self> {
        let id = &endpoint.id;
        let read = |text: &str| {
            let secret = Secret::from_str(text);
            secret.inspect_err(|error| tracing::error!(endpoint = id, %error, "a webhook's secret can't be used")).ok()
        };
        let old = endpoint.old_secret.as_ref().and_then(|old| Some((read(&old.secret)?, old.until_ms)));
        Some(Self { current: read(&endpoint.secret)?, old })
    }

    fn sign(&self, id: &str, now_ms: u64, body: &[u8]) -> (i64, String) {
        let at_s = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
        let mut signatures = self.current.sign(id, at_s, body);
        if let Some((old, until_ms)) = &self.old
            && now_ms < *until_ms
        {
            signatures.push(' ');
            signatures.push_str(&old.sign(id, at_s, body));
        }
        (at_s, signatures)
    }
}

/// How an endpoint is reached: as it is now, for one attempt.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) target: Arc<Target>,
    keys: Arc<Keys>,
}

impl Reach {
    /// Time and signatures of a message.
    pub(crate) fn sign(&self, id: &str, now_ms: u64, body: &[u8]) -> (i64, String) {
        self.keys.sign(id, now_ms, body)
    }
}

/// One endpoint at work.
pub(crate) struct Entry {
    pub(crate) id: Arc<str>,
    pub(crate) endpoint: Endpoint,
    pub(crate) core: Core,
    /// `None` if it can't be called at all any more: the operator has closed its network, say.
    pub(crate) reach: Option<Reach>,
    /// When it wants to be looked at, ms since the Unix epoch.
    pub(crate) wake_ms: Option<u64>,
}

impl Entry {
    fn new(endpoint: Endpoint, core: Core, config: &WebhookConfig) -> Self {
        let mut entry = Self { id: endpoint.id.as_str().into(), endpoint, core, reach: None, wake_ms: None };
        entry.reach(config);
        entry
    }

    fn reach(&mut self, config: &WebhookConfig) {
        let target = Target::parse(&self.endpoint.url, &config.guard);
        let target = target.inspect_err(|error| {
            tracing::warn!(endpoint = self.endpoint.id, expected = %error, "a webhook's URL may not be called");
        });
        self.reach = target
            .ok()
            .and_then(|target| Some(Reach { target: Arc::new(target), keys: Arc::new(Keys::of(&self.endpoint)?) }));
    }

    fn shown(&self) -> Shown {
        Shown {
            endpoint: self.endpoint.clone(),
            standing: self.core.standing().clone(),
            parked: self.core.parked(),
            failing: self.core.is_failing(),
        }
    }
}

/// Endpoints in turn, each once: whoever is busiest doesn't go before the others.
#[derive(Default)]
pub(crate) struct Queue {
    turns: VecDeque<Arc<str>>,
    queued: BTreeSet<Arc<str>>,
}

impl Queue {
    pub(crate) fn insert(&mut self, id: Arc<str>) {
        if self.queued.insert(Arc::clone(&id)) {
            self.turns.push_back(id);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Arc<str>> {
        let id = self.turns.pop_front()?;
        self.queued.remove(&id);
        Some(id)
    }
}

/// See the module.
pub struct Registry {
    pub(crate) config: Arc<WebhookConfig>,
    pub(crate) entries: BTreeMap<Arc<str>, Entry>,
    by_merchant: HashMap<String, BTreeSet<Arc<str>>>,
    /// Those to be looked at.
    pub(crate) ready: Queue,
    /// Those with something to be stored.
    pub(crate) dirty: BTreeSet<Arc<str>>,
    /// What else is to be stored.
    pub(crate) changes: Vec<Change>,
    seed: u64,
}

impl Registry {
    /// Nothing yet; chance comes from `seed`.
    pub fn new(config: Arc<WebhookConfig>, seed: u64) -> Self {
        Self {
            config,
            entries: BTreeMap::new(),
            by_merchant: HashMap::new(),
            ready: Queue::default(),
            dirty: BTreeSet::new(),
            changes: Vec::new(),
            seed,
        }
    }

    /// Enters an endpoint as it was stored, or as the configuration has it.
    pub fn enter(&mut self, mut endpoint: Endpoint, standing: Standing, parked: Vec<Schedule>, now: u64) {
        self.seed = self.seed.wrapping_add(1);
        let mut core = Core::new(&endpoint.id, Arc::clone(&self.config), standing, parked, self.seed);
        if endpoint.fixed && core.configure(&endpoint.url, now) {
            endpoint.disabled = Some(Disabled::Gone);
        }
        core.set(&endpoint.types, endpoint.disabled.is_some(), now);
        let entry = Entry::new(endpoint, core, &self.config);
        self.ready.insert(Arc::clone(&entry.id));
        self.by_merchant.entry(entry.endpoint.merchant.clone()).or_default().insert(Arc::clone(&entry.id));
        self.entries.insert(Arc::clone(&entry.id), entry);
    }

    fn own(&mut self, merchant: &str, id: &str) -> Result<&mut Entry, Refusal> {
        self.entries.get_mut(id).filter(|entry| entry.endpoint.merchant == merchant).ok_or(Refusal::Unknown)
    }

    /// The merchant's endpoints, by id.
    #[must_use]
    pub fn list(&self, merchant: &str) -> Vec<Shown> {
        let ids = self.by_merchant.get(merchant).into_iter().flatten();
        ids.filter_map(|id| self.entries.get(id)).map(Entry::shown).collect()
    }

    /// One of the merchant's endpoints.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn get(&mut self, merchant: &str, id: &str) -> Result<Shown, Refusal> {
        self.own(merchant, id).map(|entry| entry.shown())
    }

    /// Enters a new endpoint that is told what comes behind `cursor`.
    ///
    /// # Errors
    /// [`Refusal::TooMany`].
    pub fn create(&mut self, endpoint: Endpoint, cursor: Cursor, now: u64) -> Result<Shown, Refusal> {
        let made = self.list(&endpoint.merchant).iter().filter(|shown| !shown.endpoint.fixed).count();
        if made >= MAX_WEBHOOKS {
            return Err(Refusal::TooMany);
        }
        let (id, merchant) = (endpoint.id.clone(), endpoint.merchant.clone());
        self.changes.push(model::name(model::made_key(&merchant, &id)));
        self.changes.push(model::put(model::endpoint_key(&id), &endpoint));
        self.enter(endpoint, Standing { enabled_at_ms: now, ..Standing::default() }, Vec::new(), now);
        let entry = self.own(&merchant, &id)?;
        entry.core.begin(cursor);
        let shown = entry.shown();
        self.dirty.insert(id.as_str().into());
        Ok(shown)
    }

    /// Changes what its merchant has set.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::Fixed`].
    pub fn edit(
        &mut self,
        merchant: &str,
        id: &str,
        now: u64,
        change: impl FnOnce(&mut Endpoint),
    ) -> Result<Shown, Refusal> {
        let config = Arc::clone(&self.config);
        let entry = self.own(merchant, id)?;
        if entry.endpoint.fixed {
            return Err(Refusal::Fixed);
        }
        let before = entry.endpoint.url.clone();
        change(&mut entry.endpoint);
        let shown = entry.changed(&config, before, now);
        self.changes.push(model::put(model::endpoint_key(id), &shown.endpoint));
        self.look_at(id);
        Ok(shown)
    }

    /// Posts to it again.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn enable(&mut self, merchant: &str, id: &str, now: u64) -> Result<Shown, Refusal> {
        let config = Arc::clone(&self.config);
        let entry = self.own(merchant, id)?;
        entry.endpoint.disabled = None;
        let before = entry.endpoint.url.clone();
        entry.core.try_again(now);
        let shown = entry.changed(&config, before, now);
        if shown.endpoint.fixed {
            entry.core.set_gone(false);
        } else {
            self.changes.push(model::put(model::endpoint_key(id), &shown.endpoint));
        }
        self.look_at(id);
        Ok(shown)
    }

    /// It said that it is gone.
    pub(crate) fn gone(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        tracing::warn!(endpoint = id, merchant = entry.endpoint.merchant, "a webhook endpoint is gone; it is disabled");
        entry.endpoint.disabled = Some(Disabled::Gone);
        if entry.endpoint.fixed {
            entry.core.set_gone(true);
        } else {
            self.changes.push(model::put(model::endpoint_key(id), &entry.endpoint));
        }
    }

    fn look_at(&mut self, id: &str) {
        self.ready.insert(id.into());
        self.dirty.insert(id.into());
    }

    /// Removes it, and all that is known of it.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::Fixed`].
    pub fn delete(&mut self, merchant: &str, id: &str) -> Result<(), Refusal> {
        let entry = self.own(merchant, id)?;
        if entry.endpoint.fixed {
            return Err(Refusal::Fixed);
        }
        let mut removal = Vec::new();
        // What it still wants stored must not come after.
        entry.core.changes(&mut removal, false);
        removal.clear();
        entry.core.removal(&mut removal);
        removal.push(Change::Delete { key: model::made_key(merchant, id) });
        self.changes.append(&mut removal);
        self.entries.remove(id);
        if let Some(ids) = self.by_merchant.get_mut(merchant) {
            ids.remove(id);
        }
        self.dirty.remove(id);
        Ok(())
    }

    /// The replay that the same request has begun before, if it has; `None` if one may be begun.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::Replaying`], [`Refusal::TooManyReplays`], [`Refusal::KeyReused`].
    pub fn begun(&mut self, asked: &AskedReplay) -> Result<Option<Replay>, Refusal> {
        let own = self.by_merchant.get(&asked.merchant).into_iter().flatten();
        let replaying = own.filter(|id| self.entries.get(*id).is_some_and(|entry| entry.core.replaying())).count();
        let entry = self.own(&asked.merchant, &asked.id)?;
        let same = entry.core.standing().replays.iter().find(|replay| replay.key == asked.key).cloned();
        match same {
            Some(same) if (same.from_ms, same.to_ms) == (asked.from_ms, asked.to_ms) => Ok(Some(same)),
            Some(_) => Err(Refusal::KeyReused),
            None if entry.core.replaying() => Err(Refusal::Replaying),
            None if replaying >= MAX_REPLAYING => Err(Refusal::TooManyReplays),
            None => Ok(None),
        }
    }

    /// Posts a range of time again, unless the same request has had it done; it is read from `start` on, which may be absent if
    /// [`Registry::begun`] has found it.
    ///
    /// # Errors
    /// As [`Registry::begun`]; [`Refusal::Unstored`] without a start.
    pub fn replay(&mut self, asked: &AskedReplay, start: Option<Cursor>, now: u64) -> Result<Replay, Refusal> {
        if let Some(same) = self.begun(asked)? {
            return Ok(same);
        }
        let start = start.ok_or(Refusal::Unstored)?;
        let entry = self.own(&asked.merchant, &asked.id)?;
        entry.core.begin_replay(&asked.key, asked.from_ms, asked.to_ms, start, now);
        let begun = entry.core.standing().replays.last().cloned().ok_or(Refusal::Unknown)?;
        self.look_at(&asked.id);
        Ok(begun)
    }
}

impl Entry {
    fn changed(&mut self, config: &WebhookConfig, before: String, now: u64) -> Shown {
        if self.endpoint.url != before {
            self.core.try_again(now);
        }
        self.reach(config);
        self.core.set(&self.endpoint.types, self.endpoint.disabled.is_some(), now);
        self.shown()
    }
}

/// A replay that is asked for.
#[derive(Debug, Clone)]
pub struct AskedReplay {
    /// Whose.
    pub merchant: String,
    /// Endpoint.
    pub id: String,
    /// Idempotency key.
    pub key: String,
    /// First time in it, ms since the Unix epoch.
    pub from_ms: u64,
    /// First time behind it.
    pub to_ms: u64,
}

/// The body that is posted: a CloudEvent in JSON, with the `timestamp` that Standard Webhooks asks for.
pub(crate) fn body(message: &Message, source: &str) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(serde::Serialize)]
    struct Body<'a> {
        specversion: &'a str,
        id: &'a str,
        source: &'a str,
        r#type: &'a str,
        subject: String,
        time: Timestamp,
        timestamp: Timestamp,
        sequence: &'a str,
        datacontenttype: &'a str,
        data: &'a RawValue,
    }
    let sequence = sequence_text(message.sequence);
    serde_json::to_vec(&Body {
        specversion: "1.0",
        id: &message.id,
        source,
        r#type: &message.kind,
        subject: message.order.to_string(),
        time: Timestamp(message.at_ms),
        timestamp: Timestamp(message.at_ms),
        // Digits alone.
        sequence: str::from_utf8(&sequence).unwrap_or_default(),
        datacontenttype: "application/json",
        data: serde_json::from_str(&message.data)?,
    })
}
