//! What reviewers have decided for good, as a classifier: a title that reads the same is the same goods.

use std::collections::HashMap;

use sluice_domain::Handling;
use sluice_schemas::order::Line;

use crate::{
    classifier::{Classified, Classifier, Fnv, Source},
    rules::{SEEN, reduce},
};

/// Decisions that are kept as rules; beyond them a model should be trained.
pub const MAX_LEARNED: usize = 10_000;

/// Titles, reduced to their words, with what each is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Learned {
    by_title: HashMap<Box<[u8]>, Handling>,
    version: u32,
    weights_g: [u32; Handling::ALL.len()],
}

impl Learned {
    /// What is learned from these titles, of those alike the last; at most [`MAX_LEARNED`]. `weights_g` are grams of one unit by
    /// handling class, for want of anything better.
    #[must_use]
    pub fn new<'a>(
        decided: impl IntoIterator<Item = (&'a str, Handling)>,
        weights_g: [u32; Handling::ALL.len()],
    ) -> Self {
        let (mut by_title, mut buffer) = (HashMap::new(), [0; _]);
        for (title, handling) in decided.into_iter().take(MAX_LEARNED) {
            let length = reduce(title, &mut buffer);
            by_title.insert(Box::from(&buffer[..length]), handling);
        }
        let mut version = 0;
        for (title, handling) in &by_title {
            let mut hash = Fnv::default();
            hash.write(title);
            hash.write(&[*handling as u8]);
            // Their order says nothing.
            version ^= (hash.finish() >> 32) as u32;
        }
        Self { by_title, version, weights_g }
    }

    /// The text under which a title is known: its words between single spaces, ASCII letters in upper case.
    #[must_use]
    pub fn key_of(title: &str) -> String {
        let mut buffer = [0; SEEN + 2];
        let length = reduce(title, &mut buffer);
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    }

    /// How many titles are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_title.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_title.is_empty()
    }
}

impl Classifier for Learned {
    fn version(&self) -> u32 {
        self.version
    }

    fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>> {
        if self.by_title.is_empty() {
            return None;
        }
        let mut buffer = [0; _];
        let length = reduce(line.title, &mut buffer);
        self.by_title.get(&buffer[..length]).map(|&handling| Classified {
            handling,
            department: None,
            unit_weight_g: self.weights_g[handling as usize],
            estimated: true,
            source: Source::Reviewed,
            confidence: 100,
            hold: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_title(learned: &Learned, title: &str) -> Option<(Handling, u32)> {
        let known = learned.classify(&Line { sku: "x", title, quantity: 1, unit_price: 1 })?;
        assert_eq!(known.source, Source::Reviewed);
        Some((known.handling, known.unit_weight_g))
    }

    #[test]
    fn a_title_that_reads_the_same_is_the_same() {
        let weights_g = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        let decided = [("Sea Glow | 3 OZ", Handling::HazmatCheck), ("ice pops", Handling::Frozen)];
        let learned = Learned::new(decided, weights_g);
        assert_eq!(by_title(&learned, "SEA-GLOW 3 oz"), Some((Handling::HazmatCheck, 8)));
        assert_eq!(by_title(&learned, "Ice Pops"), Some((Handling::Frozen, 6)));
        assert_eq!((by_title(&learned, "sea glow"), by_title(&learned, "")), (None, None));
        assert_eq!(Learned::key_of(" Sea-Glow |  3 oz"), "SEA GLOW 3 OZ");
        let again = Learned::new(decided.into_iter().rev(), weights_g);
        assert_eq!((again.version(), again.len()), (learned.version(), 2));
        let other = Learned::new([decided[0], ("ice pops", Handling::Chilled)], weights_g);
        assert_ne!(other.version(), learned.version());
        assert_eq!(Learned::default().version(), 0);
    }
}
