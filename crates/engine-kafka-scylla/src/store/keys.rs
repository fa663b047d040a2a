//! What orders are found by: an order under the hash of its merchant and customer, again under that of every tracking
//! number that it gets, and under one of its own when a parcel of it must be reviewed. Written behind the rows, so that what is found can be read.

use std::collections::BTreeSet;

use futures_util::{
    StreamExt, TryStreamExt,
    stream::{FuturesOrdered, FuturesUnordered},
};
use parking_lot::Mutex;
use scylla::{
    client::session::Session,
    errors::SerializationError,
    serialize::{
        row::{RowSerializationContext, SerializeRow},
        writers::RowWriter,
    },
    statement::prepared::PreparedStatement,
};
use sluice_domain::OrderId;
use sluice_pipeline::lookup::{HELD, NUMBER_ORDERS, day_of, holds, numbers_in};
use sluice_schemas::order::{peek_customer, put_customer};

use super::{
    Row, SLACK_MS, Store, StoreError, prepare,
    write::{Table, Written},
};

/// Partitions that a day's keys are spread over. A gather of 20 ms at 100,000 orders/s makes batches of 31 rows; with 256 they
/// would have 8, and requests cost more than rows. A day of 100 million orders makes partitions of 1.6 million rows, some
/// 100 MB, which is as large as they should get.
const BUCKETS: u32 = 64;
/// Bytes of an entry in a batch, lengths and keys included.
const ENTRY_BYTES: usize = 60;
/// Days that are asked for at once: mostly the newest few have what is looked for.
pub(crate) const DAYS_AT_ONCE: usize = 4;
/// Days that are asked for on behalf of one page of a list; a page without an order goes on where it ended.
const DAYS_PER_PAGE: usize = 64;
/// Keys in one request; ScyllaDB refuses more than 100.
const KEYS_PER_READ: usize = 64;

const DAY_MS: u64 = 86_400_000;

/// 64 bits of BLAKE3. It is the fold's time, where a hash costs a hundredth of its row.
fn key(kind: u8, bytes: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// The key of a customer's orders.
pub(crate) fn customer_key(merchant: &str, customer: &str) -> u64 {
    let mut bytes = Vec::with_capacity(merchant.len() + customer.len() + 4);
    put_customer(merchant, customer, &mut bytes);
    key(0, &bytes)
}

/// The key of the orders that have a tracking number.
pub(crate) fn number_key(number: &str) -> u64 {
    key(1, number.as_bytes())
}

/// An order under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    day: i32,
    bucket: i32,
    key: i64,
    order: [u8; 16],
}

impl Entry {
    fn new(key: u64, order: OrderId) -> Self {
        let (day, bucket) = partition(day_of(order), key);
        Self { day, bucket, key: key.cast_signed(), order: order.0.to_be_bytes() }
    }

    /// Those of `rows`, sorted, each once.
    pub fn of(rows: &[Row<'_>]) -> Vec<Self> {
        let mut entries = Vec::new();
        for row in rows {
            // An order that can't be read has no customer.
            let customer = row.record.and_then(|record| peek_customer(record).ok());
            entries.extend(customer.map(|customer| Self::new(key(0, customer), row.order)));
            if holds(row.deltas) {
                entries.push(Self::new(customer_key(HELD.0, HELD.1), row.order));
            }
            entries.extend(numbers_in(row.deltas).map(|number| Self::new(number_key(number), row.order)));
        }
        entries.sort_unstable();
        entries.dedup();
        entries
    }
}

fn id(bytes: &[u8]) -> Result<OrderId, StoreError> {
    let id = bytes.try_into().map(|id| OrderId(u128::from_be_bytes(id)));
    id.map_err(|_| StoreError::Answer(format!("an order id of {} bytes", bytes.len())))
}

fn partition(day: u32, key: u64) -> (i32, i32) {
    // 48 bits of milliseconds are 3.3 million days.
    (day.cast_signed(), (key >> (u64::BITS - BUCKETS.ilog2())) as i32)
}

impl SerializeRow for Entry {
    fn serialize(
        &self,
        ctx: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        (self.day, self.bucket, self.key, &self.order).serialize(ctx, writer)
    }

    fn is_empty(&self) -> bool {
        false
    }
}

impl Written for Entry {
    type Partition = (i32, i32);

    fn partition(&self) -> Self::Partition {
        (self.day, self.bucket)
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES
    }
}

/// A day that has orders.
struct Day(i32);

impl SerializeRow for Day {
    fn serialize(
        &self,
        ctx: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        (self.0,).serialize(ctx, writer)
    }

    fn is_empty(&self) -> bool {
        false
    }
}

impl Written for Day {
    type Partition = ();

    fn partition(&self) {}

    fn bytes(&self) -> usize {
        ENTRY_BYTES
    }
}

/// Statements about keys, and what this process knows of them.
pub(super) struct Keys {
    insert: Table,
    insert_day: Table,
    days: PreparedStatement,
    under: PreparedStatement,
    under_any: PreparedStatement,
    /// Days that the store has from here; a day an entry, over the life of a process.
    noted: Mutex<BTreeSet<i32>>,
}

impl Keys {
    pub async fn new(session: &Session, keyspace: &str, rows_per_batch: usize) -> Result<Self, StoreError> {
        let insert =
            format!("INSERT INTO {keyspace}.order_keys (placed_day, bucket, key, order_id) VALUES (?, ?, ?, ?)");
        let insert_day = format!("INSERT INTO {keyspace}.order_days (component, placed_day) VALUES ('order_keys', ?)");
        let days = format!("SELECT placed_day FROM {keyspace}.order_days WHERE component = 'order_keys'");
        let under = format!(
            "SELECT key, order_id FROM {keyspace}.order_keys \
             WHERE placed_day = ? AND bucket = ? AND key = ? AND order_id < ? LIMIT ?"
        );
        let under_any = format!(
            "SELECT key, order_id FROM {keyspace}.order_keys WHERE placed_day = ? AND bucket = ? AND key IN ? LIMIT ?"
        );
        Ok(Self {
            insert: Table::new(prepare(session, insert).await?, rows_per_batch),
            insert_day: Table::new(prepare(session, insert_day).await?, rows_per_batch),
            days: prepare(session, days).await?,
            under: prepare(session, under).await?,
            under_any: prepare(session, under_any).await?,
            noted: Mutex::default(),
        })
    }
}

impl Store {
    /// Writes what `rows` are found by; as [`Store::write`].
    pub(super) async fn write_entries(&self, rows: &[Row<'_>]) -> Result<(), StoreError> {
        let entries = Entry::of(rows);
        self.write_all(&self.keys.insert, &entries).await?;
        let mut days: Vec<i32> = entries.iter().map(|entry| entry.day).collect();
        days.dedup();
        {
            let noted = self.keys.noted.lock();
            days.retain(|day| !noted.contains(day));
        }
        let new: Vec<Day> = days.iter().map(|&day| Day(day)).collect();
        self.write_all(&self.keys.insert_day, &new).await?;
        self.keys.noted.lock().extend(days);
        Ok(())
    }

    /// Days that have orders at `now_ms`, newest first, from `first` to `last`.
    pub(crate) async fn days(&self, now_ms: u64, first: u32, last: u32) -> Result<Vec<u32>, StoreError> {
        let lives_ms = self.retention.map(|retention| u64::try_from(retention.as_millis()).unwrap_or(u64::MAX));
        let oldest = lives_ms.map_or(0, |ms| (now_ms.saturating_sub(ms.saturating_add(SLACK_MS)) / DAY_MS) as u32);
        let days = self.keys_of::<(i32,)>(&self.keys.days, ()).await?;
        let within = |day: &u32| (first.max(oldest)..=last).contains(day);
        Ok(days.into_iter().map(|(day,)| day.cast_unsigned()).filter(within).collect())
    }

    /// The newest orders under `key` below `before`, at most `max`, newest first; and where to go on, if the list may.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub(crate) async fn newest(
        &self,
        key: u64,
        before: Option<OrderId>,
        now_ms: u64,
        max: usize,
    ) -> Result<(Vec<OrderId>, Option<OrderId>), StoreError> {
        let before = before.unwrap_or(OrderId(u128::MAX));
        let days = self.days(now_ms, 0, day_of(before)).await?;
        let mut found = Vec::new();
        for some in days[..days.len().min(DAYS_PER_PAGE)].chunks(DAYS_AT_ONCE) {
            let each = some.iter().map(|&day| self.on_day(day, key, before, max + 1));
            for orders in each.collect::<FuturesOrdered<_>>().try_collect::<Vec<_>>().await? {
                found.extend(orders);
            }
            if found.len() > max {
                found.truncate(max);
                let next = found.last().copied();
                return Ok((found, next));
            }
        }
        let beginning = |&day: &u32| OrderId(u128::from(u64::from(day) * DAY_MS) << 80);
        let next = days.get(DAYS_PER_PAGE..).filter(|rest| !rest.is_empty()).map(|_| &days[DAYS_PER_PAGE - 1]);
        Ok((found, next.map(beginning)))
    }

    /// The newest `max` orders of a day under `key` below `before`, newest first.
    async fn on_day(&self, day: u32, key: u64, before: OrderId, max: usize) -> Result<Vec<OrderId>, StoreError> {
        let (day, bucket) = partition(day, key);
        let values = (day, bucket, key.cast_signed(), before.0.to_be_bytes(), max as i32);
        self.keys_of::<(i64, Vec<u8>)>(&self.keys.under, values).await?.iter().map(|(_, order)| id(order)).collect()
    }

    /// Orders of these days under any of `keys` (sorted), at most [`NUMBER_ORDERS`] for each key and day.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub(crate) async fn under_any(&self, days: &[u32], keys: &[u64]) -> Result<Vec<(u64, OrderId)>, StoreError> {
        let of_bucket = |a: &u64, b: &u64| partition(0, *a) == partition(0, *b);
        let parts: Vec<&[u64]> = keys.chunk_by(of_bucket).flat_map(|keys| keys.chunks(KEYS_PER_READ)).collect();
        let asked: Vec<(u32, &[u64])> =
            days.iter().flat_map(|&day| parts.iter().map(move |&keys| (day, keys))).collect();
        let (mut asked, mut under_way, mut found) = (asked.into_iter(), FuturesUnordered::new(), Vec::new());
        loop {
            while under_way.len() < super::READS_IN_FLIGHT
                && let Some((day, keys)) = asked.next()
            {
                under_way.push(self.part(day, keys));
            }
            match under_way.next().await {
                Some(part) => found.append(&mut part?),
                None => return Ok(found),
            }
        }
    }

    /// Orders of a day under `keys`, all of one bucket.
    async fn part(&self, day: u32, keys: &[u64]) -> Result<Vec<(u64, OrderId)>, StoreError> {
        let Some(&first) = keys.first() else { return Ok(Vec::new()) };
        let (placed_day, bucket) = partition(day, first);
        let (signed, limit) =
            (keys.iter().map(|key| key.cast_signed()).collect::<Vec<_>>(), keys.len() * NUMBER_ORDERS);
        let values = (placed_day, bucket, &signed, limit as i32);
        let found = self.keys_of::<(i64, Vec<u8>)>(&self.keys.under_any, values).await?;
        if found.len() < limit {
            return found.iter().map(|(key, order)| Ok((key.cast_unsigned(), id(order)?))).collect();
        }
        // One of them has so many that others may be missing.
        let mut each = Vec::new();
        for &key in keys {
            let orders = self.on_day(day, key, OrderId(u128::MAX), NUMBER_ORDERS).await?;
            each.extend(orders.into_iter().map(|order| (key, order)));
        }
        Ok(each)
    }

    async fn keys_of<R>(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<Vec<R>, StoreError>
    where
        R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
    {
        // The semaphore is never closed, so there is a permit in the result.
        let _permit = self.reads.acquire().await;
        let answer = self.session.execute_unpaged(statement, values).await.map_err(StoreError::request("read keys"))?;
        let answer = answer.into_rows_result().map_err(|e| StoreError::Answer(e.to_string()))?;
        let rows = answer.rows::<R>().map_err(|e| StoreError::Answer(e.to_string()))?;
        rows.map(|row| row.map_err(|e| StoreError::Answer(e.to_string()))).collect()
    }
}
