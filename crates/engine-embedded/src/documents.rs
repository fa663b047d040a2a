//! Documents in a fjall database of their own beside the store: small, seldom written, and made durable one batch at a time.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use sluice_pipeline::{
    Change, Documents, LogError,
    documents::{Entry, MAX_DOCUMENT, MAX_KEY},
};

/// Bytes of the block cache.
const CACHE_BYTES: u64 = 8 << 20;
/// Bytes of writes in memory before they become a table.
const WRITE_BUFFER_BYTES: u64 = 8 << 20;
/// Bytes of fjall's own log before tables are written; no less is taken.
const LOG_BYTES: u64 = 64 << 20;

/// See the module. One process at a time may have it open: take the [`crate::DataLock`] before.
pub struct FjallDocuments {
    database: Database,
    keyspace: Keyspace,
}

fn failed(error: fjall::Error) -> LogError {
    LogError::Store(error.to_string())
}

impl FjallDocuments {
    /// Opens the documents in `folder`, creating it if need be.
    ///
    /// # Errors
    /// [`LogError::Store`] with what fjall says.
    pub fn open(folder: &Path) -> Result<Self, LogError> {
        let builder = Database::builder(folder).worker_threads(1).cache_size(CACHE_BYTES);
        let database = builder.max_journaling_size(LOG_BYTES).open().map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(WRITE_BUFFER_BYTES);
        let keyspace = database.keyspace("documents", options).map_err(failed)?;
        Ok(Self { database, keyspace })
    }
}

/// fjall panics at keys that it can't store.
fn check(key: &[u8], value: &[u8]) -> Result<(), LogError> {
    if (1..=MAX_KEY).contains(&key.len()) && value.len() <= MAX_DOCUMENT {
        return Ok(());
    }
    let (key, value) = (key.len(), value.len());
    Err(LogError::Store(format!("a document of {value} bytes under a key of {key} bytes is beyond the bounds")))
}

impl Documents for FjallDocuments {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.keyspace.get(key).map_err(failed)?.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, max: usize) -> Result<Vec<Entry>, LogError> {
        // The smallest key behind `after` is `after` with a zero byte; one before the prefix can't be behind it.
        let from =
            after.filter(|after| *after >= prefix).map_or_else(|| prefix.to_vec(), |after| [after, &[0]].concat());
        let mut found = Vec::new();
        for entry in self.keyspace.range(from..).take(max) {
            let (key, value) = entry.into_inner().map_err(failed)?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((key.to_vec(), value.to_vec()));
        }
        Ok(found)
    }

    fn write(&self, changes: &[Change]) -> Result<(), LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for change in changes {
            match change {
                Change::Put { key, value } => {
                    check(key, value)?;
                    batch.insert(&self.keyspace, key.as_slice(), value.as_slice());
                }
                Change::Delete { key } => {
                    check(key, &[])?;
                    batch.remove(&self.keyspace, key.as_slice());
                }
            }
        }
        batch.commit().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Change {
        Change::Put { key: key.into(), value: value.into() }
    }

    fn keys(documents: &FjallDocuments, prefix: &str, after: Option<&str>, max: usize) -> Vec<String> {
        let found = documents.scan(prefix.as_bytes(), after.map(str::as_bytes), max).unwrap();
        found.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let documents = FjallDocuments::open(folder.path()).unwrap();
        documents.write(&[put("a/1", "one"), put("a/2", "two"), put("b", "three"), put("a/2", "2")]).unwrap();
        documents.write(&[Change::Delete { key: b"b".to_vec() }, Change::Delete { key: b"none".to_vec() }]).unwrap();
        drop(documents);
        let documents = FjallDocuments::open(folder.path()).unwrap();
        assert_eq!(documents.get(b"a/2").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!((documents.get(b"b").unwrap(), documents.get(b"a").unwrap()), (None, None));
        assert_eq!(keys(&documents, "a/", None, 9), ["a/1", "a/2"]);
    }

    #[test]
    fn a_scan_goes_on_behind_a_key_and_stays_below_its_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let documents = FjallDocuments::open(folder.path()).unwrap();
        documents.write(&["a", "b/1", "b/1\0", "b/2", "b/3", "b0"].map(|key| put(key, ""))).unwrap();
        assert_eq!(keys(&documents, "b/", None, 2), ["b/1", "b/1\0"]);
        assert_eq!(keys(&documents, "b/", Some("b/1"), 9), ["b/1\0", "b/2", "b/3"]);
        assert_eq!(keys(&documents, "b/", Some("b/3"), 9), [""; 0]);
        assert_eq!(keys(&documents, "b/", Some("a"), 1), ["b/1"]);
        assert_eq!(keys(&documents, "", None, 9).len(), 6);
    }

    #[test]
    fn all_of_a_batch_is_written_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let documents = FjallDocuments::open(folder.path()).unwrap();
        for bad in [put("", "x"), put(&"k".repeat(MAX_KEY + 1), "x"), put("k", &"v".repeat(MAX_DOCUMENT + 1))] {
            assert!(documents.write(&[put("good", "x"), bad]).is_err());
        }
        assert_eq!(documents.get(b"good").unwrap(), None);
        documents.write(&[put(&"k".repeat(MAX_KEY), &"v".repeat(MAX_DOCUMENT))]).unwrap();
    }
}
