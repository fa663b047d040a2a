//! The duplicate index of one partition: fingerprint → first position, for as long as a retry may come.
//!
//! Young entries live in a hash table; older generations move to sorted runs in the store, and only a filter (12 bits an
//! entry) stays in memory. What a batch adds counts only once the batch is committed; an abort forgets it.

use std::sync::Arc;

use hashbrown::HashTable;
use sluice_domain::Fingerprint;

/// Fingerprint and first position. Three words: a `u128` would pad the entry to four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    high: u64,
    low: u64,
    /// Where the log has the first order under this fingerprint.
    pub position: u64,
}

impl Entry {
    /// An entry.
    pub fn new(fingerprint: Fingerprint, position: u64) -> Self {
        Self { high: fingerprint.high(), low: fingerprint.low(), position }
    }

    /// The fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(u128::from(self.high) << 64 | u128::from(self.low))
    }

    fn is(&self, fingerprint: Fingerprint) -> bool {
        self.low == fingerprint.low() && self.high == fingerprint.high()
    }
}

/// What the index knows about a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Never seen.
    New,
    /// Committed first at this position.
    First(u64),
    /// First in this very batch, as this input.
    InBatch(u32),
    /// Perhaps in a run that left memory: ask the store.
    MaybeSpilled,
}

/// Entries that left the live table and are being written to the store.
#[derive(Debug)]
pub struct Generation {
    /// Number, ascending over the life of a deployment.
    pub number: u32,
    /// Entries of this partition.
    pub entries: HashTable<Entry>,
}

#[derive(Debug)]
struct Run {
    number: u32,
    filter: Filter,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    live: HashTable<Entry>,
    pending: HashTable<(Fingerprint, u32)>,
    frozen: Option<Arc<Generation>>,
    runs: Vec<Run>,
}

fn hash(fingerprint: Fingerprint) -> u64 {
    fingerprint.low()
}

impl Index {
    /// Looks `fingerprint` up, and if it is new notes it as first seen with `input` of the batch under way.
    pub fn probe(&mut self, fingerprint: Fingerprint, input: u32) -> Probe {
        let same = |e: &Entry| e.is(fingerprint);
        if let Some(entry) = self.live.find(hash(fingerprint), same) {
            return Probe::First(entry.position);
        }
        let frozen = self.frozen.as_ref().and_then(|g| g.entries.find(hash(fingerprint), same));
        if let Some(entry) = frozen {
            return Probe::First(entry.position);
        }
        if let Some(&(_, first)) = self.pending.find(hash(fingerprint), |e| e.0 == fingerprint) {
            return Probe::InBatch(first);
        }
        if self.runs.iter().any(|r| r.filter.may_contain(fingerprint)) {
            return Probe::MaybeSpilled;
        }
        self.note(fingerprint, input);
        Probe::New
    }

    /// Notes `fingerprint` as first seen with `input` of the batch under way.
    pub fn note(&mut self, fingerprint: Fingerprint, input: u32) {
        self.pending.insert_unique(hash(fingerprint), (fingerprint, input), |e| hash(e.0));
    }

    /// Forgets everything noted since the last commit or abort.
    pub fn abort(&mut self) {
        self.pending.clear();
    }

    /// Ends the batch under way; what it added goes in through [`Index::insert`].
    pub fn commit(&mut self) {
        self.pending.clear();
    }

    /// Adds a committed entry. A lower position wins, so a replay changes nothing.
    pub fn insert(&mut self, fingerprint: Fingerprint, position: u64) {
        match self.live.entry(hash(fingerprint), |e| e.is(fingerprint), |e| e.low) {
            hashbrown::hash_table::Entry::Occupied(mut old) => {
                let first = &mut old.get_mut().position;
                *first = position.min(*first);
            }
            hashbrown::hash_table::Entry::Vacant(slot) => {
                slot.insert(Entry::new(fingerprint, position));
            }
        }
    }

    /// Entries in memory.
    pub fn len(&self) -> usize {
        self.live.len() + self.frozen.as_ref().map_or(0, |g| g.entries.len())
    }

    /// True if memory holds no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves the live entries to a generation that is to be stored. They stay known through it until
    /// [`Index::spilled`].
    pub fn freeze(&mut self, number: u32) -> Arc<Generation> {
        let capacity = self.live.len();
        let entries = std::mem::replace(&mut self.live, HashTable::with_capacity(capacity));
        let generation = Arc::new(Generation { number, entries });
        self.frozen = Some(Arc::clone(&generation));
        generation
    }

    /// Says that generation `number` is in the store and `filter` stands for it from now on.
    pub fn spilled(&mut self, number: u32, filter: Filter) {
        self.frozen = None;
        self.runs.push(Run { number, filter });
    }

    /// Numbers of the runs that may hold `fingerprint`, newest first.
    pub fn candidates(&self, fingerprint: Fingerprint) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().rev().filter(move |r| r.filter.may_contain(fingerprint)).map(|r| r.number)
    }

    /// Forgets a run whose entries no retry can ask for any more.
    pub fn expire(&mut self, number: u32) {
        self.runs.retain(|r| r.number != number);
    }
}

/// A blocked Bloom filter: one cache line a look-up, six bits an entry, about 0.5 % false hits at 12 bits an entry
/// (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007).
#[derive(Debug, Clone)]
pub struct Filter {
    blocks: Arc<[[u64; 8]]>,
}

impl Filter {
    /// Bits an entry.
    pub const BITS_PER_ENTRY: usize = 12;

    /// A filter over `entries`.
    pub fn build(count: usize, entries: impl Iterator<Item = Fingerprint>) -> Self {
        let mut blocks = vec![[0u64; 8]; (count * Self::BITS_PER_ENTRY).div_ceil(512).max(1)];
        for fingerprint in entries {
            let at = Self::block(blocks.len(), fingerprint);
            for (word, bit) in Self::bits(fingerprint) {
                blocks[at][word] |= bit;
            }
        }
        Self { blocks: blocks.into() }
    }

    /// False only if `fingerprint` was never added.
    pub fn may_contain(&self, fingerprint: Fingerprint) -> bool {
        let block = &self.blocks[Self::block(self.blocks.len(), fingerprint)];
        Self::bits(fingerprint).all(|(word, bit)| block[word] & bit != 0)
    }

    fn block(blocks: usize, fingerprint: Fingerprint) -> usize {
        ((u128::from(fingerprint.low()) * blocks as u128) >> 64) as usize
    }

    fn bits(fingerprint: Fingerprint) -> impl Iterator<Item = (usize, u64)> {
        // The low 10 bits of the high half choose the slot; the six 9-bit fields come from above them.
        let high = fingerprint.high() >> 10;
        (0..6).map(move |i| {
            let field = (high >> (9 * i)) & 511;
            ((field >> 6) as usize, 1u64 << (field & 63))
        })
    }

    /// The filter as bytes, little endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.blocks.iter().flatten().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// Reads what [`Filter::to_bytes`] wrote; `None` if the length can't be right.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(64) {
            return None;
        }
        let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let block = |b: &[u8]| std::array::from_fn(|i| word(&b[i * 8..i * 8 + 8]));
        Some(Self { blocks: bytes.chunks_exact(64).map(block).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fp(i: u64) -> Fingerprint {
        Fingerprint::of("m", &i.to_string())
    }

    #[test]
    fn an_aborted_batch_leaves_no_entry() {
        let mut index = Index::default();
        assert_eq!(index.probe(fp(1), 0), Probe::New);
        assert_eq!(index.probe(fp(1), 1), Probe::InBatch(0));
        index.abort();
        assert_eq!(index.probe(fp(1), 0), Probe::New);
        index.commit();
        index.insert(fp(1), 77);
        assert_eq!(index.probe(fp(1), 0), Probe::First(77));
    }

    #[test]
    fn the_first_position_wins() {
        let mut index = Index::default();
        index.insert(fp(1), 9);
        index.insert(fp(1), 4);
        index.insert(fp(1), 12);
        assert_eq!(index.probe(fp(1), 0), Probe::First(4));
    }

    #[test]
    fn entries_stay_known_on_their_way_out_of_memory() {
        let mut index = Index::default();
        for i in 0..1_000 {
            index.insert(fp(i), i);
        }
        let generation = index.freeze(3);
        assert_eq!(index.probe(fp(7), 0), Probe::First(7));
        let filter = Filter::build(generation.entries.len(), generation.entries.iter().map(Entry::fingerprint));
        index.spilled(3, filter);
        assert_eq!(index.probe(fp(7), 0), Probe::MaybeSpilled);
        assert_eq!(index.candidates(fp(7)).collect::<Vec<_>>(), [3]);
        index.expire(3);
        assert_eq!(index.probe(fp(7), 0), Probe::New);
    }

    #[test]
    fn the_filter_misses_nothing_and_rarely_errs() {
        let filter = Filter::build(100_000, (0..100_000).map(fp));
        let filter = Filter::from_bytes(&filter.to_bytes()).unwrap();
        assert!((0..100_000).all(|i| filter.may_contain(fp(i))));
        let wrong = (100_000..300_000).filter(|&i| filter.may_contain(fp(i))).count();
        assert!(wrong < 4_000, "{wrong} of 200,000");
    }
}
