//! Who may see every merchant's orders: operators' keys, kept only as BLAKE3 hashes like those of merchants.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;

use crate::merchants::KeyHash;

/// Operators' keys. They may be replaced at any time; without any, nobody is an operator.
#[derive(Default)]
pub struct Operators {
    keys: ArcSwap<Vec<KeyHash>>,
}

impl Operators {
    /// Whoever has one of these keys.
    pub fn new(keys: Vec<KeyHash>) -> Self {
        Self { keys: ArcSwap::from_pointee(keys) }
    }

    /// Whether this is an operator's key. It is compared with every key there is, by hash and in constant time.
    pub fn knows(&self, key: &str) -> bool {
        let Some(hash) = KeyHash::of(key) else { return false };
        self.keys.load().iter().fold(false, |found, known| found | (*known == hash))
    }

    /// What an operator is called where it is written down who asked: a key tells no more of itself than which one it is.
    #[must_use]
    pub fn name(key: &str) -> String {
        format!("operator {}", &blake3::hash(key.as_bytes()).to_hex()[..8])
    }

    /// Takes the keys of `other`. What was a key before and isn't one there is none from now on.
    pub fn take_keys(&self, other: &Self) {
        self.keys.store(Arc::clone(&other.keys.load()));
    }
}

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operators").field("keys", &self.keys.load().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_key_that_is_known_will_do() {
        let of = |keys: &[&str]| Operators::new(keys.iter().filter_map(|key| KeyHash::of(key)).collect());
        let operators = of(&["old", "new"]);
        assert!(operators.knows("old") && operators.knows("new"));
        for wrong in ["", "ol", "oldd", "OLD", "o ld", blake3::hash(b"old").to_hex().as_str()] {
            assert!(!operators.knows(wrong) && !Operators::default().knows(wrong), "{wrong}");
        }
        let name = Operators::name("old");
        assert!(name.starts_with("operator ") && name.len() == 17 && name != Operators::name("new"), "{name}");
        operators.take_keys(&of(&["new"]));
        assert!(!operators.knows("old") && operators.knows("new"));
        operators.take_keys(&Operators::default());
        assert!(!operators.knows("new") && !format!("{operators:?}").contains("new"));
    }
}
