//! Orders by customer and shipments by tracking number, from the store. What is found was written behind its row; an order
//! that the fold has yet to follow is missing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sluice_domain::{OrderId, ShipmentId};
use sluice_pipeline::{
    BoxFuture, Clock, Listed, LogError, Lookup, StoredOrder,
    lookup::{HELD, NUMBER_ORDERS, first_number_day, is_held, is_of, shipments_under},
};

use crate::store::{
    Store, StoreError,
    keys::{DAYS_AT_ONCE, customer_key, number_key},
};

/// How long one look-up may take in all.
const BOUND: Duration = Duration::from_secs(5);

/// Finds orders of the whole cluster.
pub struct ClusterLookup {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
}

impl ClusterLookup {
    /// Looks up in `store`.
    #[must_use]
    pub fn new(store: Arc<Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Those orders under `key` of which `is_one` says so.
    async fn list(
        &self,
        key: u64,
        before: Option<OrderId>,
        max: usize,
        is_one: impl Fn(OrderId, &StoredOrder) -> Result<bool, LogError>,
    ) -> Result<Listed, LogError> {
        let (ids, next) = self.store.newest(key, before, self.clock.now_ms(), max).await.map_err(away)?;
        let rows = self.store.read_many(&ids).await.map_err(away)?;
        let mut orders = Vec::with_capacity(ids.len());
        for (id, row) in ids.into_iter().zip(rows) {
            // An order's row may be gone a little before its key.
            let Some(row) = row else { continue };
            let order = StoredOrder { row: row.deltas, record: row.record };
            if is_one(id, &order)? {
                orders.push((id, order));
            }
        }
        Ok(Listed { orders, next })
    }

    async fn find(&self, carrier: &str, numbers: &[&str]) -> Result<Vec<Vec<ShipmentId>>, LogError> {
        let now_ms = self.clock.now_ms();
        let mut open: BTreeMap<u64, Open<'_>> = BTreeMap::new();
        for &number in numbers {
            open.entry(number_key(number)).or_default().numbers.push(number);
        }
        let mut known: BTreeMap<&str, Vec<ShipmentId>> = BTreeMap::new();
        let days = self.store.days(now_ms, first_number_day(now_ms), u32::MAX).await.map_err(away)?;
        for some in days.chunks(DAYS_AT_ONCE) {
            if open.is_empty() {
                break;
            }
            let keys: Vec<u64> = open.keys().copied().collect();
            let mut found = self.store.under_any(some, &keys).await.map_err(away)?;
            // The newest first, under each key.
            found.sort_unstable_by_key(|&(key, order)| (key, !order.0));
            found.retain(|(key, _)| open.get_mut(key).is_some_and(Open::look));
            let orders: Vec<OrderId> = found.iter().map(|f| f.1).collect();
            let rows = self.store.read_many(&orders).await.map_err(away)?;
            for ((key, order), row) in found.into_iter().zip(rows) {
                let (Some(row), Some(waits)) = (row, open.get(&key)) else { continue };
                for &number in &waits.numbers {
                    let shipments = shipments_under(order, &row.deltas, carrier, number);
                    if !shipments.is_empty() {
                        known.entry(number).or_insert(shipments);
                    }
                }
            }
            open.retain(|_, waits| {
                waits.looked < NUMBER_ORDERS && waits.numbers.iter().any(|n| !known.contains_key(n))
            });
        }
        Ok(numbers.iter().map(|number| known.get(number).cloned().unwrap_or_default()).collect())
    }
}

/// Numbers under one key that are still looked for: one, unless two share a hash.
#[derive(Default)]
struct Open<'a> {
    numbers: Vec<&'a str>,
    /// Orders looked at so far.
    looked: usize,
}

impl Open<'_> {
    /// True if one more order may be looked at.
    fn look(&mut self) -> bool {
        self.looked += 1;
        self.looked <= NUMBER_ORDERS
    }
}

fn away(error: StoreError) -> LogError {
    LogError::Store(error.to_string())
}

async fn bounded<T>(look: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
    let late = |_| LogError::Store(format!("no answer within {} s", BOUND.as_secs()));
    tokio::time::timeout(BOUND, look).await.map_err(late)?
}

impl Lookup for ClusterLookup {
    fn orders_of<'a>(
        &'a self,
        merchant: &'a str,
        customer: &'a str,
        before: Option<OrderId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Listed, LogError>> {
        let is_one = move |id, order: &StoredOrder| is_of(id, order, merchant, customer);
        Box::pin(bounded(self.list(customer_key(merchant, customer), before, max, is_one)))
    }

    fn held<'a>(&'a self, before: Option<OrderId>, max: usize) -> BoxFuture<'a, Result<Listed, LogError>> {
        Box::pin(bounded(self.list(customer_key(HELD.0, HELD.1), before, max, is_held)))
    }

    fn shipments_of<'a>(
        &'a self,
        carrier: &'a str,
        numbers: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<ShipmentId>>, LogError>> {
        Box::pin(bounded(self.find(carrier, numbers)))
    }
}
