//! Documents beside the rows: small state that no log tells of, and that one node writes at a time.
//!
//! Who may write has a *term*, a number that none has had before, and every write has a timestamp of its term. So whatever a
//! node whose turn is over still writes, late or by mistake, changes nothing that its successor has written: a clock decides
//! nothing. The successor finds the highest term in what it reads, since it reads what every holder of a turn writes first.
//!
//! What people set, seldom and on any node, nobody has a turn to write ([`CqlDocuments::shared`]): of two changes of one document
//! the later one by the nodes' clocks counts, and one by a node that has read the other counts in any case.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use futures_util::future::try_join_all;
use scylla::{
    client::session::Session, response::query_result::QueryRowsResult, statement::prepared::PreparedStatement,
};
use sluice_pipeline::{
    Change, Clock, Documents, LogError,
    documents::{Entry, MAX_DOCUMENT, MAX_KEY},
};
use tokio::runtime::Handle;

use super::{Store, StoreError, prepare};

/// Writes under way at once, in one folder each.
const WRITES: usize = 32;
/// Bits of a timestamp that count the changes of a term; one that has more goes on in the next one's. Terms stay below
/// anybody's clock, which ScyllaDB asks for, up to 400,000 of them.
const TERM_SHIFT: u32 = 32;

/// The statements that documents are read and written by.
pub(super) struct Statements {
    put: PreparedStatement,
    delete: PreparedStatement,
    get: PreparedStatement,
    scan: PreparedStatement,
}

impl Statements {
    pub async fn new(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let table = format!("{keyspace}.documents");
        let put = format!("INSERT INTO {table} (bucket, key, value) VALUES (?, ?, ?) USING TIMESTAMP ?");
        let delete = format!("DELETE FROM {table} USING TIMESTAMP ? WHERE bucket = ? AND key = ?");
        let read = format!("SELECT key, value, WRITETIME(value) FROM {table} WHERE bucket = ?");
        Ok(Self {
            put: prepare(session, put).await?,
            delete: prepare(session, delete).await?,
            get: prepare(session, format!("{read} AND key = ?")).await?,
            scan: prepare(session, format!("{read} AND key >= ? LIMIT ?")).await?,
        })
    }
}

/// Documents in the row store. See the module.
pub struct CqlDocuments {
    store: Arc<Store>,
    runtime: Handle,
    /// The timestamp of the next change.
    next: AtomicI64,
    /// What timestamps are taken from where nobody has a turn.
    clock: Option<Arc<dyn Clock>>,
    /// The newest timestamp that was read.
    newest: AtomicI64,
}

/// Up to its last slash: what lies together, and is scanned together.
fn bucket(key: &[u8]) -> &[u8] {
    let end = key.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    &key[..end]
}

fn depth(key: &[u8]) -> usize {
    key.iter().filter(|byte| **byte == b'/').count()
}

fn key_of(change: &Change) -> &[u8] {
    match change {
        Change::Put { key, .. } | Change::Delete { key } => key,
    }
}

fn check(change: &Change) -> Result<(), LogError> {
    let (key, value) = match change {
        Change::Put { key, value } => (key.len(), value.len()),
        Change::Delete { key } => (key.len(), 0),
    };
    if (1..=MAX_KEY).contains(&key) && value <= MAX_DOCUMENT {
        return Ok(());
    }
    Err(LogError::Store(format!("a document of {value} bytes under a key of {key} bytes is beyond the bounds")))
}

/// The changes that count, the last one for each key, in the order that the port promises: each of these is written before the
/// next one is begun.
fn waves(changes: &[Change]) -> Vec<Vec<&Change>> {
    let last: BTreeMap<&[u8], &Change> = changes.iter().map(|change| (key_of(change), change)).collect();
    let class = |change: &Change| {
        let key = key_of(change);
        let first = key.split(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        match change {
            Change::Put { .. } => (Reverse(depth(key)), Some(first), None),
            Change::Delete { .. } => (Reverse(depth(key)), None, Some(Reverse(first))),
        }
    };
    let mut waves: BTreeMap<_, Vec<&Change>> = BTreeMap::new();
    for change in last.into_values() {
        let (depth, put, removed) = class(change);
        waves.entry((depth, removed.is_some(), put, removed)).or_default().push(change);
    }
    waves.into_values().collect()
}

impl CqlDocuments {
    /// Documents in `store`, for reading; for writing after [`CqlDocuments::begin`]. Their calls block a thread that isn't one of
    /// `runtime`'s own.
    #[must_use]
    pub fn new(store: Arc<Store>, runtime: Handle) -> Self {
        Self { store, runtime, next: AtomicI64::new(0), clock: None, newest: AtomicI64::new(0) }
    }

    /// Documents in `store` that any node may write, whose changes are ordered by `clock`. None of them may be one that is written
    /// in turn.
    #[must_use]
    pub fn shared(store: Arc<Store>, runtime: Handle, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..Self::new(store, runtime) }
    }

    /// The highest term in which anything was written that was read so far; 0 if there is none.
    #[must_use]
    pub fn newest_term(&self) -> i64 {
        self.newest.load(Relaxed) >> TERM_SHIFT
    }

    /// What is written from now on belongs to `term`, which must be nobody else's and higher than all before.
    pub fn begin(&self, term: i64) {
        self.next.store(term << TERM_SHIFT, Relaxed);
    }

    fn documents(&self, answer: &QueryRowsResult) -> Result<Vec<Entry>, StoreError> {
        let unreadable = |error: String| StoreError::Answer(error);
        let rows = answer.rows::<(Vec<u8>, Option<Vec<u8>>, Option<i64>)>();
        let mut found = Vec::new();
        for row in rows.map_err(|e| unreadable(e.to_string()))? {
            let (key, value, written) = row.map_err(|e| unreadable(e.to_string()))?;
            self.newest.fetch_max(written.unwrap_or(0), Relaxed);
            found.push((key, value.unwrap_or_default()));
        }
        Ok(found)
    }

    async fn read(
        &self,
        statement: &PreparedStatement,
        values: impl scylla::serialize::row::SerializeRow,
    ) -> Result<Vec<Entry>, StoreError> {
        let answer = self.store.session.execute_unpaged(statement, values).await;
        let answer = answer.map_err(StoreError::request("read documents"))?.into_rows_result();
        self.documents(&answer.map_err(|e| StoreError::Answer(e.to_string()))?)
    }

    /// One after the other: a crash leaves out the last ones.
    async fn change_all(&self, folder: &[&Change]) -> Result<(), StoreError> {
        for change in folder {
            self.change(change).await?;
        }
        Ok(())
    }

    /// The timestamp of one change: above that of every change before it, and of all that was read.
    fn timestamp(&self) -> i64 {
        let Some(clock) = &self.clock else { return self.next.fetch_add(1, Relaxed) };
        let now = i64::try_from(clock.now_ms().saturating_mul(1_000)).unwrap_or(i64::MAX);
        let floor = now.max(self.newest.load(Relaxed).saturating_add(1));
        self.next.fetch_max(floor, Relaxed);
        self.next.fetch_add(1, Relaxed)
    }

    async fn change(&self, change: &Change) -> Result<(), StoreError> {
        let (at, statements) = (self.timestamp(), &self.store.documents);
        let done = match change {
            Change::Put { key, value } => {
                self.store.session.execute_unpaged(&statements.put, (bucket(key), key, value, at)).await
            }
            Change::Delete { key } => {
                self.store.session.execute_unpaged(&statements.delete, (at, bucket(key), key)).await
            }
        };
        done.map(drop).map_err(StoreError::request("write a document"))
    }
}

fn away(error: StoreError) -> LogError {
    LogError::Store(error.to_string())
}

impl Documents for CqlDocuments {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        let found = self.runtime.block_on(self.read(&self.store.documents.get, (bucket(key), key)));
        Ok(found.map_err(away)?.pop().map(|(_, value)| value))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, max: usize) -> Result<Vec<Entry>, LogError> {
        // The smallest key behind `after` is `after` with a zero byte; one before the prefix can't be behind it.
        let from =
            after.filter(|after| *after >= prefix).map_or_else(|| prefix.to_vec(), |after| [after, &[0]].concat());
        let limit = i32::try_from(max).unwrap_or(i32::MAX);
        let found = self.runtime.block_on(self.read(&self.store.documents.scan, (bucket(prefix), from, limit)));
        Ok(found.map_err(away)?.into_iter().take_while(|(key, _)| key.starts_with(prefix)).collect())
    }

    fn write(&self, changes: &[Change]) -> Result<(), LogError> {
        if self.clock.is_none() && self.next.load(Relaxed) == 0 {
            return Err(LogError::Store("documents are written by whoever has the turn".to_owned()));
        }
        changes.iter().try_for_each(check)?;
        self.runtime.block_on(async {
            for wave in waves(changes) {
                let folders: Vec<&[&Change]> = wave.chunk_by(|a, b| bucket(key_of(a)) == bucket(key_of(b))).collect();
                for some in folders.chunks(WRITES) {
                    try_join_all(some.iter().map(|folder| self.change_all(folder))).await.map_err(away)?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_written_behind_what_they_count_and_the_last_change_of_a_key_counts() {
        let put = |key: &str, value: &str| Change::Put { key: key.into(), value: value.into() };
        let delete = |key: &str| Change::Delete { key: key.into() };
        let changes = [
            put("s/1", "old"),
            delete("p/1/4"),
            delete("b/1/4"),
            put("p/1/5", "x"),
            put("p/1/6", "x"),
            put("b/1/5", "x"),
            delete("p/1/6"),
            put("s/1", "new"),
        ];
        let expected = [
            vec![&changes[5]],
            vec![&changes[3]],
            vec![&changes[1], &changes[6]],
            vec![&changes[2]],
            vec![&changes[7]],
        ];
        assert_eq!(waves(&changes), expected);
    }

    #[test]
    fn what_lies_in_one_folder_lies_together() {
        assert_eq!(
            [&b"e/1"[..], b"e/", b"p/1/5", b"p/1/", b"x"].map(bucket),
            [&b"e/"[..], b"e/", b"p/1/", b"p/1/", b""]
        );
    }
}
