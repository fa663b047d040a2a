//! A store in memory that fails the way a store fails.
//!
//! # Fault model
//! - A run is in the store as a whole or not at all. **Power cut within an ingest**: which of the two is drawn.
//! - **Failed ingest**: nothing of the run is to be seen; after the next power loss it may have got there nevertheless,
//!   unless a later run of that table was taken.
//! - **Failed get or scan**: an error now, the truth the next time.
//! - **Removed keys**: all of a call's or none; of a call that fails, a power loss may bring to light that they are gone.
//! - **Dropped tables**: until a later ingest or drop, a power loss may bring the last one dropped back.
//!
//! What was ingested is never lost or damaged: that is the store's own promise, tested where the real one is built.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use sluice_pipeline::{LogError, Store, Table};

use crate::{
    digest::Digest,
    power::{Power, Pulse},
    rng::{Chance, Rng},
    trace::Trace,
};

/// What goes wrong in a store, and how often. The default is a store without faults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreFaults {
    /// An ingest that fails.
    pub failed_ingest: Chance,
    /// A get or scan that fails.
    pub failed_get: Chance,
}

type Run = BTreeMap<Vec<u8>, Vec<u8>>;

/// A handle of a store, valid for one life of its computer. Clones are of the same life.
#[derive(Clone)]
pub struct SimStore {
    shared: Arc<Shared>,
    life: u64,
}

struct Shared {
    power: Power,
    trace: Trace,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    faults: StoreFaults,
    fail_next_ingest: bool,
    tables: BTreeMap<Table, Arc<Run>>,
    /// Runs whose ingest failed and that a power loss may bring to light.
    limbo: BTreeMap<Table, Run>,
    /// Keys whose removal failed, and that a power loss may take.
    doomed: BTreeMap<Table, Vec<Vec<u8>>>,
    /// The table dropped last, which a power loss may bring back.
    dropped: Option<(Table, Arc<Run>)>,
}

impl SimStore {
    /// An empty store. Its own faults are drawn from `rng`, forked as `store`.
    pub fn new(faults: StoreFaults, rng: &Rng, power: Power, trace: Trace) -> Self {
        let life = power.life();
        let state = State {
            rng: rng.fork("store"),
            faults,
            fail_next_ingest: false,
            tables: BTreeMap::new(),
            limbo: BTreeMap::new(),
            doomed: BTreeMap::new(),
            dropped: None,
        };
        Self { shared: Arc::new(Shared { power, trace, state: Mutex::new(state) }), life }
    }

    /// The power is lost and comes back: draws what was uncertain. Other handles are dead when the caller has restarted
    /// the [`Power`]; this handle belongs to the next life.
    pub fn crash(&mut self, rng: &mut Rng) {
        let state = &mut *self.shared.state.lock();
        for (table, run) in std::mem::take(&mut state.limbo) {
            let there = rng.coin();
            self.shared.trace.line(format_args!("store: the run in doubt of {table:?} is there: {there}"));
            if there {
                state.add(table, run);
            }
        }
        for (table, keys) in std::mem::take(&mut state.doomed) {
            let gone = state.tables.contains_key(&table) && rng.coin();
            self.shared.trace.line(format_args!("store: the keys in doubt of {table:?} are gone: {gone}"));
            if gone {
                state.take(table, &keys);
            }
        }
        if let Some((table, run)) = state.dropped.take()
            && rng.coin()
        {
            self.shared.trace.line(format_args!("store: {table:?} is back"));
            state.tables.insert(table, run);
        }
        self.life = self.shared.power.life();
    }

    /// The process is killed and the machine stays up: what was visible stays. This handle belongs to the next life.
    pub fn kill(&mut self) {
        self.life = self.shared.power.life();
    }

    /// Replaces the faults from now on.
    pub fn set_faults(&self, faults: StoreFaults) {
        let state = &mut *self.shared.state.lock();
        (state.faults, state.fail_next_ingest) = (faults, false);
    }

    /// The next ingest fails.
    pub fn fail_next_ingest(&self) {
        self.shared.state.lock().fail_next_ingest = true;
    }

    /// Entries of `table`.
    pub fn len(&self, table: Table) -> usize {
        self.shared.state.lock().tables.get(&table).map_or(0, |run| run.len())
    }

    /// Another store, without faults, that holds what this one does.
    #[must_use]
    pub fn durable_copy(&self) -> SimStore {
        let faults = StoreFaults::default();
        let copy = SimStore::new(faults, &Rng::new(0), Power::default(), Trace::digest_only());
        copy.shared.state.lock().tables = self.shared.state.lock().tables.clone();
        copy
    }

    fn check(&self) -> Result<(), LogError> {
        self.shared.power.check(self.life).map_err(|e| LogError::Store(e.to_string()))
    }

    fn pulse(&self) -> Result<Pulse, LogError> {
        self.shared.power.pulse(self.life).map_err(|e| LogError::Store(e.to_string()))
    }

    /// The table as it is now, so that no lock is held while a caller's closure runs.
    fn look(&self, table: Table, what: &str) -> Result<Option<Arc<Run>>, LogError> {
        self.check()?;
        let state = &mut *self.shared.state.lock();
        if state.rng.hits(state.faults.failed_get) {
            self.shared.trace.line(format_args!("store: {what} {table:?} FAILED"));
            return Err(LogError::Store(format!("the device failed to read {table:?}")));
        }
        Ok(state.tables.get(&table).cloned())
    }
}

impl State {
    fn add(&mut self, table: Table, run: Run) {
        Arc::make_mut(self.tables.entry(table).or_default()).extend(run);
        self.dropped = None;
    }

    fn take(&mut self, table: Table, keys: &[Vec<u8>]) {
        if let Some(run) = self.tables.get_mut(&table) {
            let run = Arc::make_mut(run);
            keys.iter().for_each(|key| drop(run.remove(key)));
        }
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<Table> = self.shared.state.lock().tables.keys().copied().collect();
        f.debug_struct("SimStore").field("life", &self.life).field("tables", &tables).finish()
    }
}

impl Store for SimStore {
    fn ingest(&self, table: Table, run: &mut sluice_pipeline::Run<'_>) -> Result<(), LogError> {
        let pulse = self.pulse()?;
        let (mut entries, mut digest, mut ascending) = (Run::new(), Digest::default(), true);
        run(&mut |key, value| {
            ascending &= entries.last_key_value().is_none_or(|(last, _)| last.as_slice() < key);
            digest.bytes(key);
            digest.bytes(value);
            entries.insert(key.to_vec(), value.to_vec());
        });
        debug_assert!(ascending, "a run of {table:?} is not ascending and unique");
        let state = &mut *self.shared.state.lock();
        let failed = state.rng.hits(state.faults.failed_ingest) || std::mem::take(&mut state.fail_next_ingest);
        let (count, digest) = (entries.len(), digest.value());
        let trace = &self.shared.trace;
        if !ascending {
            return Err(LogError::Store(format!("a run of {table:?} is not ascending and unique")));
        }
        if pulse == Pulse::Cut || failed {
            trace.line(format_args!("store: ingest {table:?}, {count} entries, {digest:016x}: FAILED ({pulse:?})"));
            state.limbo.insert(table, entries);
            return Err(LogError::Store(format!("the device failed to take a run of {table:?}")));
        }
        trace.line(format_args!("store: ingest {table:?}, {count} entries, digest {digest:016x}"));
        state.limbo.remove(&table);
        state.add(table, entries);
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.look(table, "get")?.and_then(|run| run.get(key).cloned()))
    }

    fn scan(&self, table: Table, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        if let Some(run) = self.look(table, "scan")? {
            let from = run.range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
            from.take_while(|(key, _)| key.starts_with(prefix)).for_each(|(key, value)| each(key, value));
        }
        Ok(())
    }

    fn range(&self, table: Table, from: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), LogError> {
        if let Some(run) = self.look(table, "range")? {
            let mut from = run.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded));
            while from.next().is_some_and(|(key, value)| each(key, value)) {}
        }
        Ok(())
    }

    fn remove(&self, table: Table, keys: &[Vec<u8>]) -> Result<(), LogError> {
        let pulse = self.pulse()?;
        let state = &mut *self.shared.state.lock();
        let failed = state.rng.hits(state.faults.failed_ingest);
        self.shared
            .trace
            .line(format_args!("store: remove {} keys of {table:?}: {pulse:?}, fails: {failed}", keys.len()));
        if pulse == Pulse::Cut || failed {
            state.doomed.insert(table, keys.to_vec());
            return Err(LogError::Store(format!("the device failed to remove keys of {table:?}")));
        }
        state.doomed.remove(&table);
        state.take(table, keys);
        Ok(())
    }

    fn drop_table(&self, table: Table) -> Result<(), LogError> {
        let pulse = self.pulse()?;
        let state = &mut *self.shared.state.lock();
        state.limbo.remove(&table);
        state.dropped = state.tables.remove(&table).map(|run| (table, run));
        self.shared.trace.line(format_args!("store: drop {table:?}: {pulse:?}"));
        if pulse == Pulse::Cut { Err(LogError::Store("the power is off".to_owned())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(faults: StoreFaults) -> (SimStore, Power) {
        let power = Power::default();
        (SimStore::new(faults, &Rng::new(1), power.clone(), Trace::digest_only()), power)
    }

    fn put(store: &SimStore, table: Table, keys: &[&str]) -> Result<(), LogError> {
        store.ingest(table, &mut |each| keys.iter().for_each(|k| each(k.as_bytes(), b"v")))
    }

    fn keys(store: &SimStore, table: Table, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        store.scan(table, prefix.as_bytes(), &mut |k, _| keys.push(String::from_utf8_lossy(k).into_owned())).unwrap();
        keys
    }

    #[test]
    fn runs_add_up_and_scans_are_in_order() {
        let (store, _) = bench(StoreFaults::default());
        put(&store, Table::Rows, &["ab", "b"]).unwrap();
        put(&store, Table::Rows, &["aa", "ac", "b"]).unwrap();
        put(&store, Table::Index(1), &["ab"]).unwrap();
        assert_eq!(keys(&store, Table::Rows, "a"), ["aa", "ab", "ac"]);
        assert_eq!(store.get(Table::Rows, b"b").unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!(store.get(Table::Meta, b"b").unwrap(), None);
        store.drop_table(Table::Rows).unwrap();
        assert_eq!((store.len(Table::Rows), store.len(Table::Index(1))), (0, 1));
    }

    #[test]
    fn a_run_cut_off_is_there_as_a_whole_or_not_at_all() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let (mut store, power) = bench(StoreFaults::default());
            power.cut_after(0);
            assert!(put(&store, Table::Rows, &["a", "b", "c"]).is_err());
            let old = store.clone();
            power.restart();
            store.crash(&mut Rng::new(seed));
            assert!(old.get(Table::Rows, b"a").is_err());
            seen.insert(keys(&store, Table::Rows, "").concat());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["", "abc"]);
    }

    #[test]
    fn a_failed_run_is_not_seen_and_a_retry_settles_it() {
        let (store, _) = bench(StoreFaults::default());
        store.fail_next_ingest();
        assert!(put(&store, Table::Rows, &["a"]).is_err());
        assert_eq!(store.len(Table::Rows), 0);
        put(&store, Table::Rows, &["b"]).unwrap();
        let mut after = store.clone();
        after.crash(&mut Rng::new(0));
        assert_eq!(keys(&after, Table::Rows, ""), ["b"]);
    }

    #[test]
    fn a_failed_get_says_so_and_changes_nothing() {
        let (store, _) = bench(StoreFaults { failed_get: Chance::ALWAYS, ..StoreFaults::default() });
        put(&store, Table::Meta, &["a"]).unwrap();
        assert!(store.get(Table::Meta, b"a").is_err());
        store.set_faults(StoreFaults::default());
        assert!(store.get(Table::Meta, b"a").unwrap().is_some());
    }

    #[test]
    fn a_table_dropped_last_may_come_back() {
        let mut back = 0;
        for seed in 0..40 {
            let (mut store, power) = bench(StoreFaults::default());
            put(&store, Table::Index(1), &["a"]).unwrap();
            put(&store, Table::Index(2), &["a"]).unwrap();
            store.drop_table(Table::Index(1)).unwrap();
            store.drop_table(Table::Index(2)).unwrap();
            power.restart();
            store.crash(&mut Rng::new(seed));
            assert_eq!(store.len(Table::Index(1)), 0);
            back += store.len(Table::Index(2));
        }
        assert!((5..35).contains(&back), "{back} of 40");
    }
}
