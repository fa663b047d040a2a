//! What an idempotent carrier remembers: the final answer to every shipment id, in 20-odd bytes each.
//!
//! A run of 20 million orders leaves tens of millions of answers beside the system under test, so a map of strings is out
//! of the question. An entry is 125 bits of the id's hash and three bits of outcome: 16 bytes, in open addressing filled
//! to 60–75 %, which makes 21–27 bytes an answer. The table is cut into shards that grow one by one, so that growing
//! neither doubles the memory nor holds up a request noticeably. Two ids that share 125 bits would be taken for one;
//! among 2²⁶ ids the odds of that are about 2⁻⁷⁴.

use super::seeded::Fingerprint;

/// Most answers that all carriers of one process remember together: at most 1.1 GiB. Beyond it a manifest is refused
/// with 503 before it has any effect; nothing is ever forgotten.
pub const MAX_REMEMBERED: u64 = 40_000_000;

const SHARDS: usize = 256;
const OUTCOME_BITS: u64 = 0b111;
const FIRST_SLOTS: usize = 16;

/// A final answer: code 0 says accepted, the others name the reason of a reject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome(u8);

impl Outcome {
    /// Codes are below this: three bits, one value of which marks an empty slot.
    pub(super) const CODES: usize = 7;
    pub(super) const ACCEPTED: Self = Self(0);

    /// The reject whose reason has this index.
    pub(super) fn rejected(reason: usize) -> Self {
        debug_assert!(reason + 1 < Self::CODES);
        Self((reason + 1).min(Self::CODES - 1) as u8)
    }

    /// The index of the reason, or `None` for an acceptance.
    pub(super) fn reason(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }
}

/// Hash of the id in all bits but the last three, which hold the outcome's code + 1; all zero is an empty slot.
type Slot = [u64; 2];

/// Every final answer of one carrier.
pub(super) struct Answers {
    shards: Vec<Shard>,
}

#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    used: usize,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }

    pub(super) fn get(&self, shipment: &Fingerprint) -> Option<Outcome> {
        let shard = &self.shards[shard_of(shipment)];
        let at = shard.find(shipment.key)?;
        let code = shard.slots[at][1] & OUTCOME_BITS;
        code.checked_sub(1).map(|code| Outcome(code as u8))
    }

    /// Remembers the first answer to a shipment. The caller has asked [`Answers::get`] before.
    pub(super) fn insert(&mut self, shipment: &Fingerprint, outcome: Outcome) {
        let shard = &mut self.shards[shard_of(shipment)];
        shard.make_room();
        let [high, low] = shipment.key;
        if let Some(at) = shard.find(shipment.key) {
            shard.slots[at] = [high, (low & !OUTCOME_BITS) | (u64::from(outcome.0) + 1)];
            shard.used += 1;
        }
    }

    #[cfg(test)]
    fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.slots.len()).sum()
    }
}

fn shard_of(shipment: &Fingerprint) -> usize {
    // From the other word than the slot's place, so that a shard's entries spread over all of it.
    (shipment.key[1] >> 56) as usize
}

impl Shard {
    /// Where the key is, or else the empty slot where it belongs; `None` only while the shard has no slots at all.
    fn find(&self, key: Slot) -> Option<usize> {
        let slots = self.slots.len();
        if slots == 0 {
            return None;
        }
        let mut at = ((u128::from(key[0]) * slots as u128) >> 64) as usize;
        loop {
            let slot = self.slots[at];
            let same = slot[0] == key[0] && (slot[1] ^ key[1]) & !OUTCOME_BITS == 0;
            // At most 75 % are in use, so an empty one always ends this.
            if slot[1] & OUTCOME_BITS == 0 || same {
                return Some(at);
            }
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
    }

    fn make_room(&mut self) {
        let slots = self.slots.len();
        if (self.used + 1) * 4 <= slots * 3 {
            return;
        }
        let more = (slots + slots / 4).max(FIRST_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![[0, 0]; more]);
        for slot in old.into_iter().filter(|slot| slot[1] & OUTCOME_BITS != 0) {
            if let Some(at) = self.find(slot) {
                self.slots[at] = slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded::fingerprint;
    use super::*;

    #[test]
    fn every_answer_is_remembered_as_it_was() {
        let mut answers = Answers::new();
        let outcome = |n: usize| match n % Outcome::CODES {
            0 => Outcome::ACCEPTED,
            code => Outcome::rejected(code - 1),
        };
        let ids: Vec<_> = (0..100_000).map(|n| fingerprint(&n.to_string())).collect();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(answers.get(id), None);
            answers.insert(id, outcome(n));
        }
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(answers.get(id), Some(outcome(n)));
        }
        assert_eq!(answers.get(&fingerprint("another")), None);
        let bytes_each = answers.slots() as f64 * 16.0 / ids.len() as f64;
        assert!((21.0..28.0).contains(&bytes_each), "{bytes_each}");
    }

    #[test]
    fn hashes_that_differ_only_in_one_word_are_told_apart() {
        let mut answers = Answers::new();
        let like = |high, low| Fingerprint { key: [high, low], spare: 0 };
        answers.insert(&like(u64::MAX, 8), Outcome::ACCEPTED);
        answers.insert(&like(u64::MAX, 16), Outcome::rejected(2));
        answers.insert(&like(0, 0), Outcome::rejected(0));
        assert_eq!(answers.get(&like(u64::MAX, 8)), Some(Outcome::ACCEPTED));
        assert_eq!(answers.get(&like(u64::MAX, 16)), Some(Outcome::rejected(2)));
        assert_eq!(answers.get(&like(0, 0)), Some(Outcome::rejected(0)));
        assert_eq!(answers.get(&like(u64::MAX, 24)), None);
        assert_eq!(Outcome::rejected(2).reason(), Some(2));
        assert_eq!(Outcome::ACCEPTED.reason(), None);
    }
}
