//! The ports of the pipeline: what a stage host needs from the world, so that engines, disks, clocks and carriers can
//! be swapped, and simulated.

use std::{future::Future, io, ops::Range, pin::Pin, sync::Arc, task};

use sluice_domain::{Fingerprint, Group, OrderId, ShipmentId};
use sluice_schemas::{
    command::Command,
    delta::Weight,
    outcome::{Outcome, OutcomeKind},
    word::Tracked,
};

use crate::{
    batch::{Batch, BatchView, Rows},
    effects::Effects,
    index::Index,
};

/// A boxed future, so that ports stay object-safe on both engines.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Time. Wall time for what is stored and shown, monotonic time for measuring.
pub trait Clock: Send + Sync {
    /// ms since the Unix epoch.
    fn now_ms(&self) -> u64;
    /// µs from an arbitrary start; never goes back.
    fn monotonic_us(&self) -> u64;
}

// ---------------------------------------------------------------------------------------------------- the Runner's side

/// An engine can't go on.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The device failed. What was not durable is gone; nothing is retried; the process must end and recover.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Stored bytes are damaged where no crash can have damaged them.
    #[error("damage in {file} at byte {offset}: {what}")]
    Damaged {
        /// File name below the data folder.
        file: String,
        /// Offset in the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The store failed.
    #[error("store: {0}")]
    Store(String),
    /// The engine is shutting down.
    #[error("the engine is closed")]
    Closed,
}

impl LogError {
    /// An I/O error with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}

/// Why a batch was not committed. Its changes must be taken back.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// There is no room for it; its orders were answered busy, and outcomes will be polled again.
    #[error("no room: {0}")]
    Refused(String),
    /// The engine can't go on.
    #[error(transparent)]
    Fatal(#[from] LogError),
}

/// One partition of an engine, as the Runner drives it. Single-threaded; one owner.
pub trait Log {
    /// Fills the empty `batch` with the next inputs, and its time. May wait for a while; may come back empty.
    ///
    /// # Errors
    /// [`LogError`] when the engine can't go on, [`LogError::Closed`] when it is drained.
    fn poll(&mut self, batch: &mut Batch) -> Result<(), LogError>;

    /// The duplicate index of this partition.
    fn index(&mut self) -> &mut Index;

    /// Looks `fingerprint` up in the index runs that were moved out of memory.
    ///
    /// # Errors
    /// [`LogError`] when the store fails.
    fn spilled(&mut self, fingerprint: Fingerprint) -> Result<Option<u64>, LogError>;

    /// Appends the order record at `position` of the log to `out`.
    ///
    /// # Errors
    /// [`LogError`] when the log fails or holds no order there.
    fn order_at(&mut self, position: u64, out: &mut Vec<u8>) -> Result<(), LogError>;

    /// True if what stood at `position` is gone or about to go: nothing is committed that was decided on it.
    fn is_gone(&self, position: u64) -> bool {
        let _ = position;
        false
    }

    /// Reads the rows of the orders that the words in `batch` are about.
    ///
    /// # Errors
    /// [`LogError`] when the store fails.
    fn rows(&mut self, batch: &BatchView<'_>, rows: &mut Rows) -> Result<(), LogError>;

    /// Commits the inputs of `batch`, with `effects`, as one: all of it becomes durable or none. Pushes one position for
    /// each new placed order, ascending. Answers to checkout, outbox entries and rows appear once it is durable.
    ///
    /// # Errors
    /// [`CommitError::Refused`] leaves no trace; [`CommitError::Fatal`] ends the engine.
    fn commit(&mut self, batch: &BatchView<'_>, effects: &Effects, positions: &mut Vec<u64>)
    -> Result<(), CommitError>;
}

// ----------------------------------------------------------------------------------------------------- checkout's side

/// Orders on their way into the log: encoded records in one arena.
#[derive(Debug, Default)]
pub struct Submission {
    /// Records, one after another.
    pub bytes: Vec<u8>,
    /// One an order.
    pub orders: Vec<Submitted>,
}

/// One order of a [`Submission`].
#[derive(Debug, Clone)]
pub struct Submitted {
    /// Its id.
    pub id: OrderId,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Its record within the arena.
    pub record: Range<usize>,
}

/// Words about known orders on their way into the log, encoded in one arena.
#[derive(Debug, Default)]
pub struct Words {
    /// Encoded [`sluice_schemas::word::Word`]s, one after another.
    pub bytes: Vec<u8>,
    /// The order of each, and where it stands within the arena.
    pub words: Vec<(OrderId, Range<usize>)>,
}

impl Words {
    /// Appends a carrier's news.
    pub fn push(&mut self, tracked: &Tracked<'_>) {
        let start = self.bytes.len();
        tracked.encode(&mut self.bytes);
        self.words.push((OrderId(tracked.order), start..self.bytes.len()));
    }

    /// A merchant's command alone.
    #[must_use]
    pub fn of_command(command: &Command<'_>) -> Self {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        let words = vec![(OrderId(command.order), 0..bytes.len())];
        Self { bytes, words }
    }
}

/// What became of one submitted order, once that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It is durable, and new.
    Accepted,
    /// It was durable before: the same request again.
    Replayed,
    /// Its key was used for another request.
    Conflict,
    /// There is no room now. Nothing was kept.
    Busy {
        /// When to come back, seconds, at least 1.
        retry_after_s: u32,
        /// Which bound was reached.
        reason: &'static str,
    },
}

/// Takes orders into the log.
pub trait Intake: Send + Sync {
    /// Submits orders; resolves, in their order, when each is durable or refused. Dropping the future withdraws nothing.
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Vec<Receipt>>;

    /// `Err` with the reason while the engine takes no new orders (draining, disk full, failed).
    ///
    /// # Errors
    /// The reason, for `/readyz`.
    fn ready(&self) -> Result<(), &'static str>;
}

/// Takes words into the log, for who waits until they are durable.
pub trait WordIntake: Send + Sync {
    /// Resolves, in their order, when each is durable ([`Receipt::Accepted`]) or refused ([`Receipt::Busy`]); what the
    /// owner makes of it isn't told. Dropping the future withdraws nothing.
    fn hear(&self, words: Words) -> BoxFuture<'_, Vec<Receipt>>;
}

// ------------------------------------------------------------------------------------------------------ status's side

/// One order as stored: its row (deltas to fold) and its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOrder {
    /// [`sluice_schemas::delta`]s.
    pub row: Vec<u8>,
    /// [`sluice_schemas::order`] record.
    pub record: Vec<u8>,
}

/// Reads orders by id.
pub trait Orders: Send + Sync {
    /// The order as of everything durable when the future resolves, or `None` if it isn't known.
    ///
    /// # Errors
    /// [`LogError`] when log or store fail.
    fn read(&self, id: OrderId) -> BoxFuture<'_, Result<Option<StoredOrder>, LogError>>;
}

// ------------------------------------------------------------------------------------------------------ carrier's side

/// A committed decision to ask a carrier.
#[derive(Debug, Clone)]
pub struct OutboxEntry {
    /// Its place in the carrier's outbox; ascending, not dense.
    pub position: u64,
    /// The shipment.
    pub shipment: ShipmentId,
    /// Handling group.
    pub group: Group,
    /// What it weighs.
    pub weight: Weight,
    /// True if an earlier run of this process may have sent it and its outcome is not known.
    pub maybe_sent: bool,
    /// Order record, in [`OutboxBatch::bytes`].
    pub record: Range<usize>,
    /// Encoded [`sluice_schemas::delta::Items`], in [`OutboxBatch::bytes`].
    pub items: Range<usize>,
}

/// Entries of one carrier's outbox.
#[derive(Debug, Default)]
pub struct OutboxBatch {
    /// Arena for records and items.
    pub bytes: Vec<u8>,
    /// Entries, ascending by position.
    pub entries: Vec<OutboxEntry>,
}

/// One carrier's outbox: durable, read by one notifier.
pub trait Outbox: Send {
    /// Appends up to `max` further entries to `out` and says how many. `Pending` when there are none now; the waker is
    /// called when there may be.
    ///
    /// # Errors
    /// [`LogError`] when the log fails.
    fn poll_entries(
        &mut self,
        cx: &mut task::Context<'_>,
        max: usize,
        out: &mut OutboxBatch,
    ) -> task::Poll<Result<usize, LogError>>;

    /// Says that every entry up to `position` has had its outcome handed to [`Outcomes`]: a restart resumes after it.
    fn settled(&mut self, position: u64);

    /// Asks for a durable mark that entries up to `position` may be sent. Needed before calling a carrier that isn't
    /// idempotent, so that a restart knows which calls may have happened.
    fn mark_sending(&mut self, position: u64);

    /// The highest position whose mark is durable. The outbox's waker is called when it rises.
    fn sending_mark(&self) -> u64;
}

/// A carrier's answer about one shipment, on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeReport {
    /// The shipment.
    pub shipment: ShipmentId,
    /// What became of it.
    pub kind: OutcomeKind,
    /// When it was heard, ms since the epoch.
    pub at_ms: u64,
    /// Carrier id.
    pub carrier: Arc<str>,
    /// Tracking number, or the reason.
    pub text: String,
}

impl OutcomeReport {
    /// The report as the log keeps it.
    pub fn outcome(&self) -> Outcome<'_> {
        Outcome {
            order: self.shipment.order.0,
            parcel: self.shipment.parcel,
            attempt: self.shipment.attempt,
            kind: self.kind,
            at_ms: self.at_ms,
            carrier: &self.carrier,
            text: &self.text,
        }
    }
}

/// Takes outcomes into the log.
pub trait Outcomes: Send + Sync {
    /// Hands over as many of `reports` as there is room for, from the front, and removes them. What is left is to be
    /// offered again after the waker was called.
    fn report(&self, cx: &mut task::Context<'_>, reports: &mut Vec<OutcomeReport>);
}

/// A call to a carrier, as decided by the notifier.
#[derive(Debug)]
pub struct Manifest {
    /// Stable over retries of the same shipments.
    pub id: String,
    /// The carrier must not act on it after this, ms since the epoch.
    pub expires_at_ms: u64,
    /// What is to be carried.
    pub shipments: OutboxBatch,
}

/// What a carrier said about one shipment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipmentAnswer {
    /// The shipment.
    pub shipment: ShipmentId,
    /// `Ok(tracking number)` or `Err(reason)`: both final.
    pub outcome: Result<String, String>,
}

/// What came of one call to a carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It answered; shipments it doesn't mention have no outcome yet.
    Results(Vec<ShipmentAnswer>),
    /// It refused the whole call before acting (429, or 503 with Retry-After).
    Refused {
        /// How long to stay away, ms, if it said so.
        retry_after_ms: Option<u64>,
    },
    /// It was certainly never reached (connection refused, name not found).
    NotSent(String),
    /// Nobody can tell whether it acted (timeout, reset, 5xx, unreadable answer).
    Ambiguous(String),
}

// ------------------------------------------------------------------------------------------------------ the device side

/// A file of preallocated size.
pub trait DiskFile: Send + Sync {
    /// Writes all of `bytes` at `offset`. Both are multiples of [`BLOCK`].
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written so far durable. A failure is final: the caller must not retry.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;
    /// Reads up to `into.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Bytes.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self) -> io::Result<u64>;
}

/// Unit of writing, bytes. Buffers handed to [`DiskFile::write_at`] start at a multiple of it in memory.
pub const BLOCK: usize = 4096;

/// A folder of files.
pub trait Disk: Send + Sync {
    /// Creates `name` with `len` bytes reserved. Durable, with its name, on return.
    ///
    /// # Errors
    /// What the system says; `StorageFull` leaves nothing behind.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens `name`.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of all files, sorted.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes `name`.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A table of a [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// order id (16 bytes BE) + checkpoint number (4 bytes BE) → deltas.
    Rows,
    /// One generation of the duplicate index: fingerprint (16 bytes BE) → position (8 bytes BE).
    Index(u32),
    /// What orders are found by: day of `placed_at`, inverted (4 bytes BE) + key (8 bytes BE) + order id, inverted (16 bytes
    /// BE) → nothing.
    Lookup,
    /// Checkpoint heads and filters, by name.
    Meta,
}

/// Gives the entries of a run, in order, to its argument.
pub type Run<'a> = dyn FnMut(&mut dyn FnMut(&[u8], &[u8])) + 'a;

/// Sorted runs of key and value, atomic and durable one run at a time.
pub trait Store: Send + Sync {
    /// Adds a run of ascending, unique keys to `table`: all of it is visible and durable on return, or none of it.
    /// The run calls its argument once an entry.
    ///
    /// # Errors
    /// What the store says.
    fn ingest(&self, table: Table, run: &mut Run<'_>) -> Result<(), LogError>;
    /// The value of `key`.
    ///
    /// # Errors
    /// What the store says.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LogError>;
    /// Calls `each` for every entry whose key starts with `prefix`, ascending.
    ///
    /// # Errors
    /// What the store says.
    fn scan(&self, table: Table, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError>;
    /// Gives the entries of `table` from key `from` on, ascending by key, to `each`, until it says `false`.
    ///
    /// # Errors
    /// What the store says.
    fn range(&self, table: Table, from: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), LogError>;
    /// Removes `keys` from `table`: all of them for good on return, or none. One that isn't there is no error.
    ///
    /// # Errors
    /// What the store says.
    fn remove(&self, table: Table, keys: &[Vec<u8>]) -> Result<(), LogError>;
    /// Drops a whole table.
    ///
    /// # Errors
    /// What the store says.
    fn drop_table(&self, table: Table) -> Result<(), LogError>;
}
