//! Finding orders by customer and by tracking number.
//!
//! Each order is entered under a hash of its merchant and customer, and again under one of every tracking number that it
//! gets: young entries beside the young rows ([`young`]), older ones in [`Table::Lookup`], where a checkpoint puts them as
//! one sorted run. Days come first there, the newest of all, so that a run overlaps only those of its day, and merging runs
//! rewrites a day and not the whole table; a look-up seeks once for every day that has orders.

use std::{collections::BTreeSet, fmt::Display, sync::Arc};

use sluice_domain::{OrderId, ShipmentId};
use sluice_pipeline::{
    BoxFuture, Listed, LogError, Lookup, Store, StoredOrder, Table,
    lookup::{HELD, NUMBER_ORDERS, day_of, first_number_day, holds, is_held, is_of, numbers_in, shipments_under},
};
use sluice_schemas::order::{peek_customer, put_customer};
use tokio::runtime::Handle;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    engine::Engine,
    lookup::young::{Block, Entries, newest},
    shared::Frozen,
};

pub(crate) mod young;

/// Look-ups that read at the same time; further ones wait. Each has a thread and up to a hundred orders.
pub(crate) const LOOKUPS_AT_A_TIME: usize = 8;

/// Makes keys. Hashes of 64 bits with a seed that nobody outside knows: what is found is checked, but who could make many
/// others fall on a key would make its look-ups long. XXH3 takes a tenth of the time of BLAKE3 for so few bytes, and it is
/// the owner's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys(u64);

impl Keys {
    /// The keys of the deployment with this journal, whose id is drawn at random.
    pub(crate) fn new(journal: u64) -> Self {
        Self(journal)
    }

    /// The key of what [`put_customer`] writes. The lowest bit tells keys of customers from those of numbers.
    pub(crate) fn customer(self, customer: &[u8]) -> u64 {
        xxh3_64_with_seed(customer, self.0) & !1
    }

    /// The key of a tracking number.
    pub(crate) fn number(self, number: &str) -> u64 {
        xxh3_64_with_seed(number.as_bytes(), !self.0) | 1
    }

    /// Enters a new order; one that can't be read has no customer.
    pub(crate) fn enter(self, order: OrderId, record: &[u8], to: &mut Entries) {
        if let Ok(customer) = peek_customer(record) {
            to.push(self.customer(customer), order);
        }
    }

    /// The key of orders of which a parcel waits, or waited, to be reviewed.
    fn held(self) -> u64 {
        self.customer(&name_of(HELD))
    }

    /// Enters such an order.
    pub(crate) fn enter_held(self, order: OrderId, to: &mut Entries) {
        to.push(self.held(), order);
    }

    /// All keys that encoded deltas bring.
    pub(crate) fn of_deltas(self, deltas: &[u8]) -> impl Iterator<Item = u64> {
        let held = holds(deltas).then(|| self.held());
        numbers_in(deltas).map(move |number| self.number(number)).chain(held)
    }

    /// Enters the tracking numbers that encoded deltas bring.
    pub(crate) fn enter_numbers(self, order: OrderId, deltas: &[u8], to: &mut Entries) {
        numbers_in(deltas).for_each(|number| to.push(self.number(number), order));
    }
}

/// What stands for a customer in a key.
fn name_of((merchant, customer): (&str, &str)) -> Vec<u8> {
    let mut name = Vec::with_capacity(merchant.len() + customer.len() + 4);
    put_customer(merchant, customer, &mut name);
    name
}

/// Bytes of a key in [`Table::Lookup`].
const STORED: usize = 4 + 8 + 16;

pub(crate) fn stored_key(day: u32, key: u64, order: OrderId) -> [u8; STORED] {
    let mut bytes = [0; STORED];
    bytes[..4].copy_from_slice(&(!day).to_be_bytes());
    bytes[4..12].copy_from_slice(&key.to_be_bytes());
    bytes[12..].copy_from_slice(&(!order.0).to_be_bytes());
    bytes
}

/// Day, key and order; `None` if they are no [`stored_key`].
pub(crate) fn read_key(bytes: &[u8]) -> Option<(u32, u64, OrderId)> {
    let (day, rest) = bytes.split_first_chunk()?;
    let (key, rest) = rest.split_first_chunk()?;
    let order = OrderId(!u128::from_be_bytes(rest.try_into().ok()?));
    let day = !u32::from_be_bytes(*day);
    (day == day_of(order)).then_some((day, u64::from_be_bytes(*key), order))
}

/// Adds what was frozen to [`Table::Lookup`], as one run.
pub(crate) fn store_entries(store: &dyn Store, frozen: &[Frozen]) -> Result<(), LogError> {
    let mut entries = Vec::new();
    frozen.iter().flat_map(|f| &f.entries).for_each(|block| block.read(&mut entries));
    if entries.is_empty() {
        return Ok(());
    }
    let place = |e: &young::Entry| (!day_of(e.order()), e.key, !e.order().0);
    entries.sort_unstable_by_key(place);
    entries.dedup();
    store.ingest(Table::Lookup, &mut |put| {
        for entry in &entries {
            put(&stored_key(day_of(entry.order()), entry.key, entry.order()), &[]);
        }
    })
}

/// Runs a look-up, which seeks and reads many times, where nobody waits for its thread. Outside a runtime, where whoever asks
/// is a test of single steps, it runs at once.
async fn aside<T: Send + 'static>(
    engine: Engine,
    look: impl FnOnce(&Engine) -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let ended = |error: &dyn Display| LogError::Store(format!("a look-up has ended early: {error}"));
    let place = Arc::clone(&engine.shared.lookups).acquire_owned().await.map_err(|error| ended(&error))?;
    let look = move || {
        // Until the work is done: it goes on though nobody waits for it any more.
        let _place = place;
        look(&engine)
    };
    let Ok(runtime) = Handle::try_current() else { return look() };
    runtime.spawn_blocking(look).await.map_err(|error| ended(&error))?
}

/// Where one look-up looks: the young entries as of its beginning, then the store. Nothing falls between them, because what
/// leaves memory is in the store before that.
struct View<'a> {
    store: &'a dyn Store,
    young: Vec<Arc<Block>>,
}

impl<'a> View<'a> {
    fn of(engine: &'a Engine) -> Self {
        let mut blocks = Vec::new();
        for shard in &engine.shared.shards {
            let young = shard.young.read();
            blocks.extend(young.entries.view());
            blocks.extend_from_slice(&young.frozen_entries);
        }
        Self { store: &*engine.shared.store, young: blocks }
    }

    /// The newest `max` orders under `key` below `before` that were not placed before day `first`, newest first.
    fn newest(&self, key: u64, before: OrderId, first: u32, max: usize) -> Result<Vec<OrderId>, LogError> {
        let mut found: BTreeSet<OrderId> = newest(&self.young, key, before, max).into_iter().collect();
        self.stored(key, before, first, max, &mut found)?;
        Ok(found.into_iter().rev().take_while(|&order| day_of(order) >= first).take(max).collect())
    }

    fn stored(
        &self,
        key: u64,
        before: OrderId,
        first: u32,
        max: usize,
        found: &mut BTreeSet<OrderId>,
    ) -> Result<(), LogError> {
        let Some(newest) = before.0.checked_sub(1).map(OrderId) else { return Ok(()) };
        let mut from = stored_key(day_of(newest), key, newest);
        let mut taken = 0;
        loop {
            let (mut beside, mut damaged) = (None, false);
            self.store.range(Table::Lookup, &from, &mut |bytes, _| {
                match read_key(bytes) {
                    Some((_, found_key, order)) if found_key == key => {
                        found.insert(order);
                        taken += 1;
                    }
                    Some((day, found_key, _)) => beside = Some((day, found_key)),
                    None => damaged = true,
                }
                taken < max && beside.is_none() && !damaged
            })?;
            if damaged {
                return Err(LogError::Store("an entry of table lookup can't be read".into()));
            }
            // Behind this key, on a day that has orders: the next place where it may be is on that day or the one before.
            let Some((day, found_key)) = beside else { return Ok(()) };
            let day = if found_key < key { Some(day) } else { day.checked_sub(1) };
            let Some(day) = day.filter(|&day| day >= first) else { return Ok(()) };
            from = stored_key(day, key, OrderId(u128::MAX));
        }
    }
}

impl Engine {
    /// Those orders under the key of `name` of which `is_one` says so. A damaged one is an error, unless the list `goes_on`.
    fn orders_under(
        &self,
        name: &[u8],
        before: Option<OrderId>,
        max: usize,
        goes_on: bool,
        is_one: impl Fn(OrderId, &StoredOrder) -> Result<bool, LogError>,
    ) -> Result<Listed, LogError> {
        let (view, key) = (View::of(self), self.shared.keys.customer(name));
        let mut found = view.newest(key, before.unwrap_or(OrderId(u128::MAX)), 0, max + 1)?;
        let more = found.len() > max;
        found.truncate(max);
        let mut listed = Listed { orders: Vec::with_capacity(found.len()), next: None };
        for &id in &found {
            let read = match self.try_read(id) {
                Err(error @ LogError::Damaged { .. }) if goes_on => {
                    tracing::error!(order = %id, %error, "an order is left out of a list");
                    None
                }
                read => read?,
            };
            if let Some(order) = read
                && is_one(id, &order)?
            {
                listed.orders.push((id, order));
            }
        }
        listed.next = found.last().copied().filter(|_| more);
        Ok(listed)
    }

    fn shipments_under(&self, carrier: &str, numbers: &[String]) -> Result<Vec<Vec<ShipmentId>>, LogError> {
        let (view, first) = (View::of(self), first_number_day(self.shared.clock.now_ms()));
        let (mut found, mut row) = (Vec::with_capacity(numbers.len()), Vec::new());
        for number in numbers {
            let key = self.shared.keys.number(number);
            let mut shipments = Vec::new();
            for order in view.newest(key, OrderId(u128::MAX), first, NUMBER_ORDERS)? {
                row.clear();
                self.shared.read_row(order, &mut row)?;
                shipments = shipments_under(order, &row, carrier, number);
                if !shipments.is_empty() {
                    break;
                }
            }
            found.push(shipments);
        }
        Ok(found)
    }
}

impl Lookup for Engine {
    fn orders_of<'a>(
        &'a self,
        merchant: &'a str,
        customer: &'a str,
        before: Option<OrderId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Listed, LogError>> {
        let (merchant, customer) = (merchant.to_owned(), customer.to_owned());
        Box::pin(async move {
            let look = move |engine: &Self| {
                let name = name_of((&merchant, &customer));
                engine.orders_under(&name, before, max, false, |id, order| is_of(id, order, &merchant, &customer))
            };
            let listed = aside(self.clone(), look).await?;
            self.seen_is_durable().await?;
            Ok(listed)
        })
    }

    fn held<'a>(&'a self, before: Option<OrderId>, max: usize) -> BoxFuture<'a, Result<Listed, LogError>> {
        Box::pin(async move {
            let look = move |engine: &Self| engine.orders_under(&name_of(HELD), before, max, true, is_held);
            let listed = aside(self.clone(), look).await?;
            self.seen_is_durable().await?;
            Ok(listed)
        })
    }

    fn shipments_of<'a>(
        &'a self,
        carrier: &'a str,
        numbers: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<ShipmentId>>, LogError>> {
        let carrier = carrier.to_owned();
        let numbers: Vec<String> = numbers.iter().map(|&number| number.to_owned()).collect();
        Box::pin(async move {
            let look = move |engine: &Self| engine.shipments_under(&carrier, &numbers);
            let found = aside(self.clone(), look).await?;
            self.seen_is_durable().await?;
            Ok(found)
        })
    }
}
