//! Who may post orders: API keys and the merchants they belong to. Keys are kept only as BLAKE3 hashes, so a core dump or
//! a log line can't give one away.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::limits::MAX_PARTY_ID;

/// Bytes of an API key.
pub const MAX_API_KEY: usize = 256;

/// A merchant as a request sees it; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merchant {
    /// 1 to [`MAX_PARTY_ID`] bytes of visible ASCII.
    pub id: Arc<str>,
    /// Its place in the table, below [`Merchants::len`]: an index for what is kept per merchant.
    pub number: usize,
}

/// API keys by hash. Built once at start, then only read.
#[derive(Default)]
pub struct Merchants {
    ids: Vec<Arc<str>>,
    by_key: HashMap<[u8; 32], usize>,
}

/// A merchant can't be entered in the table. No variant carries the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MerchantsError {
    /// The id is empty, too long, or holds something else than visible ASCII.
    #[error("merchant id {0:?} is not 1 to {MAX_PARTY_ID} visible ASCII characters")]
    Id(String),
    /// The key is empty, too long, or holds something else than visible ASCII.
    #[error("the API key of merchant {0} is not 1 to {MAX_API_KEY} visible ASCII characters")]
    Key(String),
    /// Two merchants share a key, so a request couldn't tell whose it is.
    #[error("merchants {0} and {1} have the same API key")]
    SharedKey(String, String),
}

impl Merchants {
    /// A table of (merchant id, API key) pairs. A merchant may have several keys, so that one can be replaced without a
    /// gap.
    ///
    /// # Errors
    /// [`MerchantsError`] naming the first pair that can't be entered.
    pub fn new<I, K>(pairs: impl IntoIterator<Item = (I, K)>) -> Result<Self, MerchantsError>
    where
        I: AsRef<str>,
        K: AsRef<str>,
    {
        let mut table = Self::default();
        let mut numbers = HashMap::new();
        for (id, key) in pairs {
            let (id, key) = (id.as_ref(), key.as_ref());
            if !is_visible(id, MAX_PARTY_ID) {
                return Err(MerchantsError::Id(id.chars().take(MAX_PARTY_ID).collect()));
            }
            if !is_visible(key, MAX_API_KEY) {
                return Err(MerchantsError::Key(id.to_owned()));
            }
            let number = *numbers.entry(id.to_owned()).or_insert_with(|| {
                table.ids.push(id.into());
                table.ids.len() - 1
            });
            if let Some(other) = table.by_key.insert(hash(key), number)
                && other != number
            {
                return Err(MerchantsError::SharedKey(table.ids[other].to_string(), id.to_owned()));
            }
        }
        Ok(table)
    }

    /// The merchant this key belongs to. What is compared are hashes, so the time taken says nothing about how much of a
    /// wrong key was right.
    pub fn by_key(&self, key: &str) -> Option<Merchant> {
        let number = *self.by_key.get(&hash(key))?;
        Some(Merchant { id: Arc::clone(&self.ids[number]), number })
    }

    /// How many merchants there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True if nobody may post orders.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All merchant ids, in the order they were given.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter().map(|id| &**id)
    }
}

impl fmt::Debug for Merchants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merchants").field("ids", &self.ids).finish_non_exhaustive()
    }
}

fn hash(key: &str) -> [u8; 32] {
    *blake3::hash(key.as_bytes()).as_bytes()
}

fn is_visible(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_merchant_and_nothing_else_does() {
        let table = Merchants::new([("m-1", "alpha"), ("m-2", "beta"), ("m-1", "gamma")]).unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!(table.ids().collect::<Vec<_>>(), ["m-1", "m-2"]);
        assert_eq!(table.by_key("alpha"), Some(Merchant { id: "m-1".into(), number: 0 }));
        assert_eq!(table.by_key("gamma").map(|m| m.number), Some(0));
        assert_eq!(table.by_key("beta").map(|m| m.number), Some(1));
        for wrong in ["", "alph", "alphaa", "ALPHA", "m-1"] {
            assert_eq!(table.by_key(wrong), None, "{wrong}");
        }
        assert!(!format!("{table:?}").contains("alpha"));
    }

    #[test]
    fn ids_and_keys_have_their_bounds() {
        let one = |id: &str, key: &str| Merchants::new([(id, key)]).map(|_| ());
        assert_eq!(one(&"m".repeat(MAX_PARTY_ID - 1), "k"), Ok(()));
        assert_eq!(one(&"m".repeat(MAX_PARTY_ID), "k"), Ok(()));
        assert!(matches!(one(&"m".repeat(MAX_PARTY_ID + 1), "k"), Err(MerchantsError::Id(_))));
        assert_eq!(one("m", &"k".repeat(MAX_API_KEY - 1)), Ok(()));
        assert_eq!(one("m", &"k".repeat(MAX_API_KEY)), Ok(()));
        assert!(matches!(one("m", &"k".repeat(MAX_API_KEY + 1)), Err(MerchantsError::Key(_))));
        for bad in ["", "a b", "é", "\n"] {
            assert!(matches!(one(bad, "k"), Err(MerchantsError::Id(_))), "{bad}");
            assert!(matches!(one("m", bad), Err(MerchantsError::Key(_))), "{bad}");
        }
    }

    #[test]
    fn two_merchants_never_share_a_key() {
        let shared = Merchants::new([("m-1", "k"), ("m-2", "k")]);
        assert_eq!(shared.err(), Some(MerchantsError::SharedKey("m-1".into(), "m-2".into())));
    }
}
