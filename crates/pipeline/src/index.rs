//! The duplicate index of one partition: fingerprint → first position, for as long as a retry may come.
//!
//! Young entries live in a hash table; older generations move to sorted runs in the store, and only filters stay in
//! memory (12 bits an entry, and 16 more for a summary of many runs, so that a look-up doesn't ask each run). What a
//! batch adds counts only once the batch is committed; an abort forgets it.

use std::sync::Arc;

use hashbrown::HashTable;
use sluice_domain::Fingerprint;

use crate::filter::Filter;

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

/// Runs that one summary stands for. Runs of an earlier process have none: it is not stored.
#[derive(Debug)]
struct Group {
    summary: Option<Filter>,
    runs: Vec<Run>,
}

impl Group {
    fn may_contain(&self, fingerprint: Fingerprint) -> bool {
        self.summary.as_ref().is_none_or(|s| s.may_contain(fingerprint))
            && self.runs.iter().any(|r| r.filter.may_contain(fingerprint))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    live: HashTable<Entry>,
    pending: HashTable<(Fingerprint, u32)>,
    frozen: Option<Arc<Generation>>,
    groups: Vec<Group>,
}

fn hash(fingerprint: Fingerprint) -> u64 {
    fingerprint.low()
}

impl Index {
    /// Looks `fingerprint` up, and if it is new notes it as first seen with `input` of the batch under way.
    pub fn probe(&mut self, fingerprint: Fingerprint, input: u32) -> Probe {
        let found = self.find(fingerprint);
        if found == Probe::New {
            self.note(fingerprint, input);
        }
        found
    }

    /// Looks `fingerprint` up.
    pub fn find(&self, fingerprint: Fingerprint) -> Probe {
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
        if self.groups.iter().any(|g| g.may_contain(fingerprint)) {
            return Probe::MaybeSpilled;
        }
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

    /// Takes back an entry that was inserted since the last [`Index::freeze`], if it stands at `position`.
    pub fn remove(&mut self, fingerprint: Fingerprint, position: u64) {
        let same = |e: &Entry| e.is(fingerprint) && e.position == position;
        if let Ok(entry) = self.live.find_entry(hash(fingerprint), same) {
            entry.remove();
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

    /// Says that generation `number` is in the store; from now on `filter` stands for it, and `summary` for it and those
    /// before it that came with the same one.
    pub fn spilled(&mut self, number: u32, filter: Filter, summary: Option<Filter>) {
        self.frozen = None;
        let run = Run { number, filter };
        match self.groups.last_mut() {
            Some(group) if same(group.summary.as_ref(), summary.as_ref()) => group.runs.push(run),
            _ => self.groups.push(Group { summary, runs: vec![run] }),
        }
    }

    /// Numbers of the runs that may hold `fingerprint`, newest first.
    pub fn candidates(&self, fingerprint: Fingerprint) -> impl Iterator<Item = u32> + '_ {
        let runs = self.groups.iter().rev().flat_map(|g| g.runs.iter().rev());
        runs.filter(move |r| r.filter.may_contain(fingerprint)).map(|r| r.number)
    }

    /// Forgets a run whose entries no retry can ask for any more.
    pub fn expire(&mut self, number: u32) {
        self.groups.iter_mut().for_each(|g| g.runs.retain(|r| r.number != number));
        self.groups.retain(|g| !g.runs.is_empty());
    }
}

fn same(a: Option<&Filter>, b: Option<&Filter>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.is(b),
        (None, None) => true,
        _ => false,
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
        index.spilled(3, filter, None);
        assert_eq!(index.probe(fp(7), 0), Probe::MaybeSpilled);
        assert_eq!(index.candidates(fp(7)).collect::<Vec<_>>(), [3]);
        index.expire(3);
        assert_eq!(index.probe(fp(7), 0), Probe::New);
    }

    #[test]
    fn a_summary_hides_nothing() {
        let mut index = Index::default();
        let run = |range: std::ops::Range<u64>| Filter::build(1_000, range.map(fp));
        index.spilled(1, run(0..1_000), None);
        let summary = Filter::with_room(2_000, 16);
        for (number, range) in [(2, 1_000..2_000), (3, 2_000..3_000)] {
            range.clone().for_each(|i| summary.add(fp(i)));
            index.spilled(number, run(range), Some(summary.clone()));
        }
        index.spilled(4, run(3_000..4_000), Some(Filter::build(1_000, (3_000..4_000).map(fp))));
        assert_eq!(index.groups.len(), 3);
        for i in 0..4_000 {
            assert_eq!(index.probe(fp(i), 0), Probe::MaybeSpilled, "{i}");
            assert!(index.candidates(fp(i)).any(|n| u64::from(n) == i / 1_000 + 1), "{i}");
        }
        index.expire(2);
        index.expire(4);
        assert_eq!(index.groups.len(), 2);
        assert!((0..1_000).chain(2_000..3_000).all(|i| index.probe(fp(i), 0) == Probe::MaybeSpilled));
    }
}
