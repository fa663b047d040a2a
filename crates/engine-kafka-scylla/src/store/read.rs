//! Orders are read by page: the ones that share a partition share a request.

use futures_util::{StreamExt, stream::FuturesOrdered};
use scylla::response::query_result::QueryResult;
use sluice_domain::OrderId;

use super::{Page, READS_IN_FLIGHT, Store, StoreError, StoredRow};

/// Most orders in one request; ScyllaDB refuses more than 100 clustering keys.
const ORDERS_PER_READ: usize = 64;

impl Store {
    /// One order, as of every write that has returned.
    ///
    /// `None` if no event of it holds the order record. Other events of it may be there already: then the fold of the
    /// accepting event lags behind, was lost or has expired, and the order is not (yet, or any more) known; deltas
    /// without their record mean nothing to a reader.
    ///
    /// # Errors
    /// [`StoreError::Request`] if no quorum answered in time (then [`StoreError::is_transient`]) or the request is
    /// refused; [`StoreError::Answer`] if what is stored isn't what the schema promises. Nothing is retried here beyond
    /// the driver's turn to another replica: who waits for the answer knows how long that is worth.
    pub async fn read(&self, order: OrderId) -> Result<Option<StoredRow>, StoreError> {
        Ok(self.read_page(&[order]).await?.pop().flatten())
    }

    /// Many orders at once, answered in the order asked, each like [`Store::read`]. Orders of one page share a request,
    /// and a bounded number of requests is under way at a time, over all calls of one store.
    ///
    /// # Errors
    /// Like [`Store::read`]; the first error ends it.
    pub async fn read_many(&self, orders: &[OrderId]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        let key = |order: OrderId| (Page::of(order), order.0);
        let mut sorted = orders.to_vec();
        sorted.sort_unstable_by_key(|&order| key(order));
        sorted.dedup();

        let page = |a: &OrderId, b: &OrderId| Page::of(*a) == Page::of(*b);
        let pages: Vec<&[OrderId]> = sorted.chunk_by(page).flat_map(|page| page.chunks(ORDERS_PER_READ)).collect();
        let mut found = Vec::with_capacity(sorted.len());
        let (mut pages, mut under_way) = (pages.into_iter(), FuturesOrdered::new());
        loop {
            while under_way.len() < READS_IN_FLIGHT
                && let Some(page) = pages.next()
            {
                under_way.push_back(self.read_page(page));
            }
            match under_way.next().await {
                Some(page) => found.append(&mut page?),
                None => break,
            }
        }

        // An order asked for twice is answered twice; otherwise nothing is copied.
        let repeated = sorted.len() < orders.len();
        let answer = |order: &OrderId| {
            let at = sorted.binary_search_by_key(&key(*order), |&o| key(o)).ok()?;
            let row = found.get_mut(at)?;
            if repeated { row.clone() } else { row.take() }
        };
        Ok(orders.iter().map(answer).collect())
    }

    /// `orders` of one page, sorted by id; one answer each, in their order.
    async fn read_page(&self, orders: &[OrderId]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        let Some(Page { second, slot_group }) = orders.first().map(|&order| Page::of(order)) else {
            return Ok(Vec::new());
        };
        let keys: Vec<[u8; 16]> = orders.iter().map(|order| order.0.to_be_bytes()).collect();
        // The semaphore is never closed, so there is a permit in the result.
        let _permit = self.reads.acquire().await;
        let answer = self.session.execute_unpaged(&self.select, (second, slot_group, &keys)).await;
        collect(&keys, answer.map_err(StoreError::request("read rows"))?)
    }
}

/// Puts the events of each order together.
fn collect(keys: &[[u8; 16]], answer: QueryResult) -> Result<Vec<Option<StoredRow>>, StoreError> {
    let answer = answer.into_rows_result().map_err(|e| StoreError::Answer(e.to_string()))?;
    let events = answer.rows::<(&[u8], Option<&[u8]>, Option<&[u8]>)>();
    let mut orders = vec![(Vec::new(), None::<Vec<u8>>); keys.len()];
    for event in events.map_err(|e| StoreError::Answer(e.to_string()))? {
        let (key, deltas, record) = event.map_err(|e| StoreError::Answer(e.to_string()))?;
        let at = keys.binary_search_by(|probe| probe.as_slice().cmp(key));
        let at = at.map_err(|_| StoreError::Answer(format!("an order that wasn't asked for: {key:02x?}")))?;
        let (all, first) = &mut orders[at];
        all.extend_from_slice(deltas.unwrap_or_default());
        if let (None, Some(record)) = (&first, record) {
            *first = Some(record.to_vec());
        }
    }
    Ok(orders.into_iter().map(|(deltas, record)| Some(StoredRow { deltas, record: record? })).collect())
}
