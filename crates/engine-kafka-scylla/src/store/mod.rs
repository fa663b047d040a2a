//! The row store: what the fold of committed events has made of each order, in ScyllaDB or Cassandra.
//!
//! An order's row is a set of deltas (`sluice_schemas::delta`) plus the order's record. Each committed event adds one
//! CQL row that is inserted and never updated or deleted, so a replay writes what is there already and neither order
//! nor repetition of writes matters. Nothing is read before it is written, and no answer depends on write timestamps.
//! The partition is a page, one second of `placed_at` in a group of slots, so a fold of many orders becomes few
//! single-partition batches. The log is the truth: [`Store::drop_rows`] and a replay rebuild everything.

mod config;
mod error;
pub(crate) mod keys;
mod read;
mod retry;
mod schema;
mod session;
#[cfg(test)]
mod tests;
mod write;

use std::time::Duration;

use metrics::{Counter, Histogram};
use scylla::{
    client::session::Session,
    statement::{Statement, prepared::PreparedStatement},
};
use sluice_domain::OrderId;
use tokio::sync::Semaphore;

pub use self::{
    config::{MAX_BATCHES_IN_FLIGHT, MAX_BYTES_PER_BATCH, MAX_RETENTION, MAX_ROWS_PER_BATCH, StoreConfig, StoreTls},
    error::StoreError,
    schema::{Migrated, SCHEMA_VERSION},
};
use self::{keys::Keys, write::Table};

/// Most read requests under way from one [`Store`].
const READS_IN_FLIGHT: usize = 64;

/// How much earlier than it was placed by its own account an order may have been written, ms.
const SLACK_MS: u64 = 3_600_000;

/// One event's share of an order's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The order.
    pub order: OrderId,
    /// The event that decided this, unique within the order and the same in every replay.
    pub event: [u8; 16],
    /// Concatenated deltas.
    pub deltas: &'a [u8],
    /// The order record, in the event that accepted the order.
    pub record: Option<&'a [u8]>,
}

/// An order's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// The deltas of every event, by event id.
    pub deltas: Vec<u8>,
    /// The order record.
    pub record: Vec<u8>,
}

/// Slots that share a page: of 1,024, sixty-four pages a second. At 100,000 orders/s a fold of 0.1 s then finds 150 rows
/// for each page where pages of one slot each would get 10; at 583,000 a page holds 9,000 rows, some 3 MB.
const SLOTS_PER_PAGE: u16 = 16;

/// The partition of an order: one second of `placed_at` in a group of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Page {
    second: i64,
    slot_group: i32,
}

impl Page {
    fn of(order: OrderId) -> Self {
        // 48 bits of milliseconds: always within an i64.
        Self { second: (order.placed_at_ms() / 1000) as i64, slot_group: i32::from(order.slot() / SLOTS_PER_PAGE) }
    }
}

/// A connection to the rows. One per process is enough: it may be used from any number of tasks at once.
pub struct Store {
    session: Session,
    keyspace: String,
    insert: Table,
    select: PreparedStatement,
    keys: Keys,
    limits: Limits,
    writes: Semaphore,
    reads: Semaphore,
    outage: retry::Outage,
    meter: Meter,
    retention: Option<Duration>,
}

struct Limits {
    in_flight: usize,
    rows: usize,
    bytes: usize,
}

struct Meter {
    batches: Counter,
    retries: Counter,
    seconds: Histogram,
}

impl Meter {
    fn new() -> Self {
        metrics::describe_counter!("sluice_store_write_batches_total", "Batches that the row store has taken");
        metrics::describe_counter!(
            "sluice_store_retries_total",
            "Attempts to write a batch that failed and were repeated"
        );
        metrics::describe_histogram!(
            "sluice_store_write_seconds",
            metrics::Unit::Seconds,
            "Time until the row store had a batch, retries included"
        );
        Self {
            batches: metrics::counter!("sluice_store_write_batches_total"),
            retries: metrics::counter!("sluice_store_retries_total"),
            seconds: metrics::histogram!("sluice_store_write_seconds"),
        }
    }
}

impl Store {
    /// Connects, checks the schema and prepares the statements. Install the metrics recorder before.
    ///
    /// # Errors
    /// [`StoreError::SchemaOld`] if `sluice migrate` hasn't been run (or not by this version),
    /// [`StoreError::SchemaNewer`] if it was run by a newer one; [`StoreError::Config`], [`StoreError::Tls`],
    /// [`StoreError::Connect`], [`StoreError::Datacenter`] for settings that lead nowhere; [`StoreError::Request`].
    pub async fn connect(config: &StoreConfig) -> Result<Self, StoreError> {
        let session = session::connect(config).await?.session;
        schema::check(&session, config).await?;
        let keyspace = config.keyspace.clone();
        let insert = format!(
            "INSERT INTO {keyspace}.order_rows (placed_second, slot_group, order_id, event_id, deltas, record) \
             VALUES (?, ?, ?, ?, ?, ?)"
        );
        let select = format!(
            "SELECT order_id, deltas, record FROM {keyspace}.order_rows \
             WHERE placed_second = ? AND slot_group = ? AND order_id IN ?"
        );
        Ok(Self {
            insert: Table::new(prepare(&session, insert).await?, config.rows_per_batch),
            select: prepare(&session, select).await?,
            keys: Keys::new(&session, &keyspace, config.rows_per_batch).await?,
            session,
            keyspace,
            limits: Limits {
                in_flight: config.batches_in_flight,
                rows: config.rows_per_batch,
                bytes: config.bytes_per_batch,
            },
            writes: Semaphore::new(config.batches_in_flight),
            reads: Semaphore::new(READS_IN_FLIGHT),
            outage: retry::Outage::default(),
            meter: Meter::new(),
            retention: config.retention,
        })
    }

    /// True if rows of `order` may be gone at `now_ms`, ms since the Unix epoch: they live as long as the retention after they
    /// were written, and that was not before the order was placed by much more than clocks differ.
    #[must_use]
    pub fn has_expired(&self, order: OrderId, now_ms: u64) -> bool {
        let lives_ms = self.retention.map(|retention| u64::try_from(retention.as_millis()).unwrap_or(u64::MAX));
        lives_ms.is_some_and(|ms| order.placed_at_ms().saturating_add(ms) <= now_ms.saturating_add(SLACK_MS))
    }

    /// Drops every row of every order, and what they are found by, for a rebuild by replay. Nobody may be writing. All nodes must be up.
    ///
    /// # Errors
    /// [`StoreError::Request`], for example while a node is down; rows may be gone on some nodes then, so repeat it.
    pub async fn drop_rows(&self) -> Result<(), StoreError> {
        // Keys first, so that none is found whose row is gone.
        for table in ["order_keys", "order_rows"] {
            let mut truncate = Statement::new(format!("TRUNCATE TABLE {}.{table}", self.keyspace));
            truncate.set_is_idempotent(true);
            truncate.set_request_timeout(Some(schema::SCHEMA_TIMEOUT));
            self.session.query_unpaged(truncate, ()).await.map_err(StoreError::request("drop all rows"))?;
        }
        Ok(())
    }
}

async fn prepare(session: &Session, text: String) -> Result<PreparedStatement, StoreError> {
    let mut statement =
        session.prepare(text).await.map_err(|e| StoreError::request("prepare a statement")(e.into()))?;
    // Repeating either changes nothing, so the driver may turn to another replica after any failure.
    statement.set_is_idempotent(true);
    Ok(statement)
}
