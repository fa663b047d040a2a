//! What reviewers' decisions are kept for: rules, by which lines of the same text are decided from now on, and rows, which the
//! next model learns from. Documents beside the log, written once the decision is in it; a repeated decision writes them again,
//! so that a crash in between is mended by whoever asks again.
//!
//! ```text
//! goods/rules/<fingerprint of the title's words, 32 hex digits>   JSON
//! goods/rows/<order>-<parcel>                                     JSON
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sluice_domain::{Fingerprint, Handling, OrderId, limits::MAX_PARCELS};
use sluice_http::Problem;
use sluice_pipeline::{Change, Documents, LogError, documents::Entry};
use sluice_schemas::command::Keep;

pub(crate) mod routes;

const RULES: &str = "goods/rules/";
const ROWS: &str = "goods/rows/";
/// Rows that are kept; beyond them a model should be trained and they be taken back.
pub const MAX_ROWS: usize = 20_000;
/// Documents read at once.
const SCAN: usize = 1_000;

/// Held while a decision is kept, which is reading what is there and then writing: the later decision has to win.
static TURN: Mutex<()> = Mutex::new(());

/// Where decisions are kept, and what they are known by.
#[derive(Clone)]
pub struct Kept {
    /// The documents. On a cluster, those of any node that shows orders.
    pub documents: Arc<dyn Documents>,
    /// The text under which goods of a title are known; titles that read the same share it.
    pub title_key: fn(&str) -> String,
    /// Rules that may be kept; those beyond, which only decisions of one moment can add, would not be gone by.
    pub most_rules: usize,
    /// Has this node go by the rules as they are now, if it classifies. Blocks.
    pub taught: Arc<dyn Fn() + Send + Sync>,
}

/// A decision as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lesson {
    /// The title of the line.
    pub title: String,
    /// The merchant's article number.
    pub sku: String,
    pub merchant: String,
    /// Name of the handling class.
    pub handling: String,
    /// The operator who decided.
    pub by: String,
    /// When, ms since the Unix epoch.
    pub at: u64,
    pub order: String,
    pub parcel: u8,
}

/// The name by which a parcel is reviewed.
pub(crate) fn parcel_id(order: OrderId, parcel: u8) -> String {
    format!("{order}-{parcel}")
}

/// What [`parcel_id`] names.
pub(crate) fn parse_parcel_id(id: &str) -> Option<(OrderId, u8)> {
    let (order, parcel) = id.split_once('-')?;
    let (order, parcel) = (order.parse().ok()?, parcel.parse().ok()?);
    // One parcel has one name.
    (usize::from(parcel) < MAX_PARCELS && parcel_id(order, parcel) == id).then_some((order, parcel))
}

/// What is kept under this id, and its key.
pub(crate) fn key_of(id: &str) -> Option<(Keep, Vec<u8>)> {
    let is_rule = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let keep = match is_rule {
        true => Keep::Rule,
        false => parse_parcel_id(id).map(|_| Keep::Row)?,
    };
    Some((keep, [folder(keep), id].concat().into_bytes()))
}

fn folder(keep: Keep) -> &'static str {
    if keep == Keep::Rule { RULES } else { ROWS }
}

fn read((key, value): &Entry) -> Result<Lesson, LogError> {
    let unreadable = |error| LogError::Store(format!("document {}: {error}", String::from_utf8_lossy(key)));
    serde_json::from_slice(value).map_err(unreadable)
}

/// The rules that are kept: titles with what each is.
///
/// # Errors
/// [`LogError::Store`] when they can't be read now.
pub fn rules(documents: &dyn Documents) -> Result<Vec<(String, Handling)>, LogError> {
    let (mut rules, mut after) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let page = documents.scan(RULES.as_bytes(), after.as_deref(), SCAN)?;
        for entry in &page {
            let Lesson { title, handling, .. } = read(entry)?;
            let unknown = || LogError::Store(format!("a rule has the handling class {handling:?}"));
            rules.push((title, Handling::from_name(&handling).ok_or_else(unknown)?));
        }
        match page.into_iter().next_back() {
            Some((last, _)) => after = Some(last),
            None => return Ok(rules),
        }
    }
}

impl Kept {
    /// The id under which a decision is kept.
    pub(crate) fn id_of(&self, keep: Keep, title: &str, parcel: &str) -> String {
        match keep {
            Keep::Rule => format!("{:032x}", Fingerprint::of("", &(self.title_key)(title)).0),
            _ => parcel.to_owned(),
        }
    }

    /// True if there is room for what is kept under `id`: it is there already, or there are not too many.
    pub(crate) fn has_room(&self, keep: Keep, id: &str) -> Result<bool, LogError> {
        let (prefix, most) = (folder(keep), if keep == Keep::Rule { self.most_rules } else { MAX_ROWS });
        if self.documents.get([prefix, id].concat().as_bytes())?.is_some() {
            return Ok(true);
        }
        let (mut count, mut after) = (0, None::<Vec<u8>>);
        while count < most {
            let mut page = self.documents.scan(prefix.as_bytes(), after.as_deref(), SCAN)?;
            count += page.len();
            match page.pop() {
                Some((last, _)) => after = Some(last),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Keeps a decision, unless a later one is kept in its place.
    ///
    /// # Errors
    /// [`LogError::Store`] if it can't be read or written now, or isn't there afterwards: where nodes write with clocks of their
    /// own, one whose clock is ahead may have taken it back.
    pub(crate) fn keep(&self, keep: Keep, id: &str, lesson: &Lesson) -> Result<(), LogError> {
        let key = [folder(keep), id].concat().into_bytes();
        let is_there = || -> Result<bool, LogError> {
            let Some(value) = self.documents.get(&key)? else { return Ok(false) };
            Ok(read(&(key.clone(), value)).is_ok_and(|stored| stored == *lesson || stored.at > lesson.at))
        };
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if is_there()? {
            return Ok(());
        }
        let value = serde_json::to_vec(lesson).map_err(|error| LogError::Store(error.to_string()))?;
        self.documents.write(&[Change::Put { key: key.clone(), value }])?;
        if !is_there()? {
            return Err(LogError::Store(format!("document {id} was written and is not there")));
        }
        if keep == Keep::Rule {
            (self.taught)();
        }
        Ok(())
    }

    /// Takes back what is kept under `key`. False if nothing is.
    pub(crate) fn forget(&self, keep: Keep, key: Vec<u8>) -> Result<bool, LogError> {
        if self.documents.get(&key)?.is_none() {
            return Ok(false);
        }
        self.documents.write(&[Change::Delete { key }])?;
        if keep == Keep::Rule {
            (self.taught)();
        }
        Ok(true)
    }

    /// The next decisions behind the id `after`, by id.
    pub(crate) fn page(&self, keep: Keep, after: Option<&str>, max: usize) -> Result<Vec<(String, Lesson)>, LogError> {
        let prefix = folder(keep);
        let after = after.map(|id| [prefix, id].concat().into_bytes());
        let page = self.documents.scan(prefix.as_bytes(), after.as_deref(), max)?;
        let id = |key: &[u8]| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        page.iter().map(|entry| Ok((id(&entry.0), read(entry)?))).collect()
    }
}

/// Does `work` on a thread that may block.
///
/// # Errors
/// 503 with `detail` when documents can't be read or written now.
pub(crate) async fn blocking<T: Send + 'static>(
    kept: &Kept,
    detail: &'static str,
    work: impl FnOnce(&Kept) -> Result<T, LogError> + Send + 'static,
) -> Result<T, Problem> {
    let kept = kept.clone();
    let done = tokio::task::spawn_blocking(move || work(&kept)).await;
    done.unwrap_or_else(|error| Err(LogError::Store(error.to_string()))).map_err(|error| {
        tracing::warn!(%error, "what reviewers keep can't be read or written");
        Problem::unavailable(detail, 1)
    })
}

#[cfg(test)]
#[path = "kept_tests.rs"]
pub(crate) mod tests;
