//! Who may post orders: API keys and the merchants they belong to. Keys are kept only as BLAKE3 hashes, so a core dump or
//! a log line can't give one away.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use arc_swap::ArcSwap;

use crate::limits::MAX_PARTY_ID;

/// Bytes of an API key.
pub const MAX_API_KEY: usize = 256;
/// Keys of one merchant that are valid at the same time.
pub const MAX_KEYS: usize = 8;

/// A merchant as a request sees it; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merchant {
    /// 1 to [`MAX_PARTY_ID`] bytes of visible ASCII.
    pub id: Arc<str>,
    /// Its place in the table, below [`Merchants::len`]: an index for what is kept per merchant.
    pub number: usize,
}

/// An API key as it is kept: its BLAKE3 hash, 64 hexadecimal digits as text.
///
/// Hashes are compared in constant time (that is [`blake3::Hash`]'s `==`), and a map finds their place by a hash of its own
/// that is keyed at random when it is made: how long a look-up takes says nothing about how much of a wrong key was right.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(blake3::Hash);

impl KeyHash {
    /// The hash of a key; `None` if it isn't 1 to [`MAX_API_KEY`] bytes of visible ASCII.
    pub fn of(key: &str) -> Option<Self> {
        is_visible(key, MAX_API_KEY).then(|| Self(blake3::hash(key.as_bytes())))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A text is no hash of a key. It doesn't repeat the text, which may be a key that slipped to the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the BLAKE3 hash of a key: 64 hexadecimal digits")]
pub struct KeyHashError;

impl FromStr for KeyHash {
    type Err = KeyHashError;

    fn from_str(text: &str) -> Result<Self, KeyHashError> {
        blake3::Hash::from_hex(text).map(Self).map_err(|_| KeyHashError)
    }
}

/// Whose key is whose, by hash.
type Keys = HashMap<KeyHash, usize>;

/// API keys by hash. Who the merchants are is fixed when the table is made; their keys may be replaced at any time.
#[derive(Default)]
pub struct Merchants {
    ids: Vec<Arc<str>>,
    keys: ArcSwap<Keys>,
}

/// A merchant can't be entered in the table. No variant carries the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MerchantsError {
    /// The id is empty, too long, or holds something else than visible ASCII.
    #[error("merchant id {0:?} is not 1 to {MAX_PARTY_ID} visible ASCII characters")]
    Id(String),
    /// The key is empty, too long, or holds something else than visible ASCII.
    #[error("an API key of merchant {0} is not 1 to {MAX_API_KEY} visible ASCII characters")]
    Key(String),
    /// The same id twice: requests would be counted for one of the two.
    #[error("merchant {0} is given twice")]
    Twice(String),
    /// It has more keys than may be valid at once.
    #[error("merchant {0} has more than {MAX_KEYS} API keys")]
    Keys(String),
    /// Two merchants share a key, so a request couldn't tell whose it is.
    #[error("merchants {0} and {1} have the same API key")]
    SharedKey(String, String),
    /// Other merchants than the table was made of.
    #[error("merchant {0} is only in one of the two configurations")]
    Others(String),
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
        let mut all: Vec<(String, Vec<KeyHash>)> = Vec::new();
        for (id, key) in pairs {
            let id = id.as_ref();
            let key = KeyHash::of(key.as_ref()).ok_or_else(|| MerchantsError::Key(id.to_owned()))?;
            match all.iter_mut().find(|(known, _)| known == id) {
                Some((_, keys)) => keys.push(key),
                None => all.push((id.to_owned(), vec![key])),
            }
        }
        Self::hashed(all)
    }

    /// A table of merchants with the hashes of their keys; who has none can't do anything.
    ///
    /// # Errors
    /// [`MerchantsError`] naming the first merchant that can't be entered.
    pub fn hashed<I: AsRef<str>>(
        merchants: impl IntoIterator<Item = (I, Vec<KeyHash>)>,
    ) -> Result<Self, MerchantsError> {
        let mut table = Self::default();
        let (mut keys, mut seen) = (Keys::new(), HashSet::new());
        for (id, hashes) in merchants {
            let id = id.as_ref();
            if !is_visible(id, MAX_PARTY_ID) {
                return Err(MerchantsError::Id(id.chars().take(MAX_PARTY_ID).collect()));
            }
            if hashes.len() > MAX_KEYS {
                return Err(MerchantsError::Keys(id.to_owned()));
            }
            let number = table.ids.len();
            table.ids.push(id.into());
            if !seen.insert(Arc::clone(&table.ids[number])) {
                return Err(MerchantsError::Twice(id.to_owned()));
            }
            for hash in hashes {
                if let Some(other) = keys.insert(hash, number)
                    && other != number
                {
                    return Err(MerchantsError::SharedKey(table.ids[other].to_string(), id.to_owned()));
                }
            }
        }
        table.keys = ArcSwap::from_pointee(keys);
        Ok(table)
    }

    /// Takes the keys of `other`, which must have the same merchants in whatever order. What was a key before and isn't one
    /// there is nobody's from now on; requests that were let in before go on.
    ///
    /// # Errors
    /// [`MerchantsError::Others`]; then nothing has changed.
    pub fn take_keys(&self, other: &Self) -> Result<(), MerchantsError> {
        let number_of: HashMap<&str, usize> = self.ids().zip(0..).collect();
        let numbers = other.ids().map(|id| number_of.get(id).copied().ok_or_else(|| MerchantsError::Others(id.into())));
        let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
        let there: HashSet<usize> = numbers.iter().copied().collect();
        if let Some(gone) = (0..self.len()).find(|number| !there.contains(number)) {
            return Err(MerchantsError::Others(self.ids[gone].to_string()));
        }
        let keys: Keys = other.keys.load().iter().map(|(hash, number)| (*hash, numbers[*number])).collect();
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    /// The merchant this key belongs to. What is compared are hashes, in constant time.
    pub fn by_key(&self, key: &str) -> Option<Merchant> {
        let hash = KeyHash(blake3::hash(key.as_bytes()));
        let number = *self.keys.load().get(&hash)?;
        Some(Merchant { id: Arc::clone(&self.ids[number]), number })
    }

    /// Whether this is the key of any of them.
    pub fn has_key(&self, key: &KeyHash) -> bool {
        self.keys.load().contains_key(key)
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

    #[test]
    fn keys_come_as_hashes_and_are_replaced() {
        let hex = |key: &str| KeyHash::from_str(blake3::hash(key.as_bytes()).to_hex().as_str()).unwrap();
        let of = |keys: &[&str], id: &'static str| (id, keys.iter().copied().map(hex).collect::<Vec<_>>());
        let table = Merchants::hashed([of(&["old", "new"], "m-1"), of(&[], "m-2")]).unwrap();
        assert_eq!((table.len(), table.by_key("old").map(|m| m.number)), (2, Some(0)));
        table.take_keys(&Merchants::hashed([of(&["new"], "m-1"), of(&["two"], "m-2")]).unwrap()).unwrap();
        assert_eq!((table.by_key("old"), table.by_key("new").map(|m| m.number)), (None, Some(0)));
        assert_eq!(table.by_key("two").map(|m| m.number), Some(1));
        table.take_keys(&Merchants::hashed([of(&["two"], "m-2"), of(&["new"], "m-1")]).unwrap()).unwrap();
        assert_eq!(table.by_key("two").map(|m| (m.number, m.id)), Some((1, "m-2".into())), "in another order");
        for others in [vec![of(&["x"], "m-1")], vec![of(&["x"], "m-1"), of(&[], "m-3")], vec![]] {
            assert!(matches!(table.take_keys(&Merchants::hashed(others).unwrap()), Err(MerchantsError::Others(_))));
        }
        assert!(table.by_key("x").is_none() && table.by_key("new").is_some());
        let twice = Merchants::hashed([of(&["a"], "m-1"), of(&["b"], "m-1")]);
        assert_eq!(twice.err(), Some(MerchantsError::Twice("m-1".into())));
        for bad in ["", "abc", &"g".repeat(64), &"0".repeat(63)] {
            assert_eq!(bad.parse::<KeyHash>(), Err(KeyHashError), "{bad}");
        }
    }

    #[test]
    fn a_merchant_has_so_many_keys() {
        let with = |keys: usize| Merchants::new((0..keys).map(|n| ("m-1", format!("key-{n}")))).map(|_| ());
        assert_eq!((with(MAX_KEYS - 1), with(MAX_KEYS)), (Ok(()), Ok(())));
        assert_eq!(with(MAX_KEYS + 1), Err(MerchantsError::Keys("m-1".into())));
    }
}
