//! Small durable state beside the log, for what is set over the API and what a follower of events has done so far: documents
//! under keys that sort as bytes.

use crate::ports::LogError;

/// Bytes that a key may have.
pub const MAX_KEY: usize = 256;

/// Bytes that a document may have.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// What [`Documents::write`] does to one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Stores it, whether or not there is one.
    Put {
        /// 1 to [`MAX_KEY`] bytes.
        key: Vec<u8>,
        /// At most [`MAX_DOCUMENT`] bytes.
        value: Vec<u8>,
    },
    /// Removes it, if there is one.
    Delete {
        /// 1 to [`MAX_KEY`] bytes.
        key: Vec<u8>,
    },
}

/// Durable documents by key. Keys are paths: a scan finds what lies in the folder that its prefix names, or begins, and not what
/// lies in folders of that. Calls may block: make them from a thread that may.
pub trait Documents: Send + Sync {
    /// The document under `key`.
    ///
    /// # Errors
    /// [`LogError::Store`] when it can't be read now.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError>;

    /// The first `max` documents, with their keys, that begin with `prefix` and lie behind `after`, ascending.
    ///
    /// # Errors
    /// [`LogError::Store`] when they can't be read now.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, max: usize) -> Result<Vec<Entry>, LogError>;

    /// Does all of `changes`, in their order, and returns once they are durable. On the embedded engine all or none of them
    /// outlive a crash. On a cluster each of them does by itself: those whose keys have more slashes before those that have fewer;
    /// of those alike first what is stored, by the first part of its key, in each folder by its key, then what is removed, in
    /// reverse by the first part. So whatever counts or
    /// names something else is there after that and gone before it, if it lies less deep or sorts behind it.
    ///
    /// # Errors
    /// [`LogError::Store`] when they can't be written now; some may be there.
    fn write(&self, changes: &[Change]) -> Result<(), LogError>;
}

/// A key and its document.
pub type Entry = (Vec<u8>, Vec<u8>);
