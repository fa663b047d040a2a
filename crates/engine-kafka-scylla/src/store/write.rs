//! Rows become few requests: sorted by page, cut into batches of one partition each, sent a bounded number at a time,
//! and sent again until the store has them.

use std::{sync::OnceLock, time::Instant};

use futures_util::{StreamExt, stream::FuturesUnordered};
use scylla::{
    errors::{ExecutionError, SerializationError},
    serialize::{
        row::{RowSerializationContext, SerializeRow},
        writers::RowWriter,
    },
    statement::{
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
    value::MaybeUnset,
};

use super::{
    Page, Row, Store, StoreError,
    error::transient,
    retry::{Backoff, Failing},
};

/// Bytes of a batch that belong to a row besides its values: keys and lengths.
const ROW_OVERHEAD: usize = 80;

/// A table's insert, alone and many at a time.
pub(super) struct Table {
    insert: PreparedStatement,
    /// `batches[n]` is the insert repeated n times.
    batches: Vec<OnceLock<Batch>>,
}

impl Table {
    pub fn new(insert: PreparedStatement, rows_per_batch: usize) -> Self {
        Self { insert, batches: (0..=rows_per_batch).map(|_| OnceLock::new()).collect() }
    }

    /// The statement repeated `rows` times, made once per size.
    fn batch(&self, rows: usize) -> &Batch {
        self.batches[rows].get_or_init(|| {
            let statement = BatchStatement::PreparedStatement(self.insert.clone());
            let mut batch = Batch::new_with_statements(BatchType::Unlogged, vec![statement; rows]);
            batch.set_is_idempotent(true);
            batch
        })
    }
}

/// What is written to a table: values of its insert.
pub(super) trait Written: SerializeRow {
    /// What rows of one batch have in common.
    type Partition: PartialEq;

    fn partition(&self) -> Self::Partition;

    /// About as many bytes of a batch.
    fn bytes(&self) -> usize;
}

/// A row with its page worked out once, serialised straight from the caller's slices.
#[derive(Clone, Copy)]
pub(super) struct Bound<'a> {
    page: Page,
    row: &'a Row<'a>,
}

impl<'a> Bound<'a> {
    pub fn new(row: &'a Row<'a>) -> Self {
        Self { page: Page::of(row.order), row }
    }

    #[cfg(test)]
    pub fn page(&self) -> Page {
        self.page
    }
}

impl Written for Bound<'_> {
    type Partition = Page;

    fn partition(&self) -> Page {
        self.page
    }

    fn bytes(&self) -> usize {
        ROW_OVERHEAD + self.row.deltas.len() + self.row.record.map_or(0, <[u8]>::len)
    }
}

impl SerializeRow for Bound<'_> {
    fn serialize(
        &self,
        ctx: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        let Page { second, slot_group } = self.page;
        // Unset instead of null: a null would be stored as a tombstone.
        let record = self.row.record.map_or(MaybeUnset::Unset, MaybeUnset::Set);
        let order = self.row.order.0.to_be_bytes();
        (second, slot_group, order, &self.row.event, self.row.deltas, record).serialize(ctx, writer)
    }

    fn is_empty(&self) -> bool {
        false
    }
}

impl Store {
    /// Writes all `rows`, in any order, and then what they are found by; all of it is durable (LOCAL_QUORUM) when this returns. Writing a row again changes
    /// nothing. Costs the fewest requests if rows of a page (one second of `placed_at` in a group of slots) come together in
    /// one call.
    ///
    /// A store that is down, slow or overloaded is asked again, with growing pauses, for as long as the future is kept:
    /// drop it to stop. What was written until then stays.
    ///
    /// # Errors
    /// [`StoreError::Request`] that no retry can mend: authentication, schema, a row that the server refuses. Some rows
    /// may have been written.
    pub async fn write(&self, rows: &[Row<'_>]) -> Result<(), StoreError> {
        let mut bound: Vec<Bound<'_>> = rows.iter().map(Bound::new).collect();
        // Stable, because it is fast on input that is nearly sorted.
        bound.sort_by_key(|b| b.page);
        self.write_all(&self.insert, &bound).await?;
        self.write_entries(rows).await
    }

    /// Writes `rows` to `table`; those of a partition stand together.
    pub(super) async fn write_all<W: Written>(&self, table: &Table, rows: &[W]) -> Result<(), StoreError> {
        let mut batches = cut(rows, self.limits.rows, self.limits.bytes);
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < self.limits.in_flight
                && let Some(batch) = batches.next()
            {
                under_way.push(self.write_batch(table, batch));
            }
            match under_way.next().await {
                Some(written) => written?,
                None => return Ok(()),
            }
        }
    }

    async fn write_batch<W: Written>(&self, table: &Table, rows: &[W]) -> Result<(), StoreError> {
        let (started, mut backoff, mut failing) = (Instant::now(), Backoff::new(), None::<Failing<'_>>);
        loop {
            // One permit per attempt: a batch that waits for its next one doesn't hold up the pages of healthy nodes.
            // The semaphore is never closed, so there is a permit in the result.
            let permit = self.writes.acquire().await;
            let Err(error) = self.send(table, rows).await else { break };
            drop(permit);
            if !transient(&error) {
                return Err(StoreError::request("write rows")(error));
            }
            self.meter.retries.increment(1);
            failing.get_or_insert_with(|| self.outage.begin(&error));
            tokio::time::sleep(backoff.next_pause()).await;
        }
        drop(failing);
        self.outage.succeeded();
        self.meter.batches.increment(1);
        self.meter.seconds.record(started.elapsed().as_secs_f64());
        Ok(())
    }

    async fn send<W: Written>(&self, table: &Table, rows: &[W]) -> Result<(), ExecutionError> {
        match rows {
            [] => Ok(()),
            [row] => self.session.execute_unpaged(&table.insert, row).await.map(drop),
            // The driver sends a batch to a replica of its first row, which is everyone's: they share the partition.
            _ => self.session.batch(table.batch(rows.len()), rows).await.map(drop),
        }
    }
}

/// Runs of one partition, at most `max_rows` rows and about `max_bytes` bytes each.
pub(super) fn cut<W: Written>(mut rows: &[W], max_rows: usize, max_bytes: usize) -> impl Iterator<Item = &[W]> {
    std::iter::from_fn(move || {
        let first = rows.first()?;
        let mut bytes = first.bytes();
        let fits = |b: &&W| {
            bytes += b.bytes();
            b.partition() == first.partition() && bytes <= max_bytes
        };
        let len = 1 + rows[1..].iter().take(max_rows - 1).take_while(fits).count();
        let (batch, rest) = rows.split_at(len);
        rows = rest;
        Some(batch)
    })
}
