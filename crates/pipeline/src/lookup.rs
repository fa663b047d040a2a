//! Finding orders by what is in them: a customer's orders, the shipments behind a tracking number.
//!
//! To an engine both are one question: which orders stand under a key, newest first? A key is a hash, so what is found
//! under it is checked against the order itself ([`is_of`], [`shipments_under`]): who shares a hash with somebody else is
//! neither shown nor told of.

use sluice_domain::{OrderId, OrderState, ShipmentId};
use sluice_schemas::{
    delta::{Delta, VOID, row_deltas},
    order::OrderRef,
    outcome::OutcomeKind,
};

use crate::ports::{BoxFuture, LogError, StoredOrder};

/// A tracking number is looked for among orders placed in so many days: shipments are on their way for a shorter time,
/// and carriers use their numbers again after a longer one.
pub const NUMBER_DAYS: u32 = 60;
/// Orders that are looked at, newest first, for one tracking number: more share one only by mistake.
pub const NUMBER_ORDERS: usize = 8;
/// Parcels of one order that may travel under one tracking number; what more there are is not told of.
pub const NUMBER_PARCELS: usize = 16;

const DAY_MS: u64 = 86_400_000;

/// A piece of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// Orders, newest first; fewer than asked for, or none, is not the end.
    pub orders: Vec<(OrderId, StoredOrder)>,
    /// The list goes on below this id; `None` at its end.
    pub next: Option<OrderId>,
}

/// Finds orders by what is in them.
pub trait Lookup: Send + Sync {
    /// Orders of `customer` at `merchant` with ids below `before`, newest (by `placed_at`) first, at most `max` of them.
    /// Each can be read by its id. On an engine whose rows follow its log, the youngest may be missing for a moment.
    ///
    /// # Errors
    /// [`LogError`] when log or store fail.
    fn orders_of<'a>(
        &'a self,
        merchant: &'a str,
        customer: &'a str,
        before: Option<OrderId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Listed, LogError>>;

    /// Orders with ids below `before` of which a parcel waits to be reviewed, newest (by `placed_at`) first; at most `max` are
    /// looked at. Each can be read by its id. On an engine whose rows follow its log, the youngest may be missing for a moment.
    ///
    /// # Errors
    /// [`LogError`] when log or store fail.
    fn held<'a>(&'a self, before: Option<OrderId>, max: usize) -> BoxFuture<'a, Result<Listed, LogError>>;

    /// For each tracking number the shipments that `carrier` took under it: those of the newest order that has any, at
    /// most [`NUMBER_PARCELS`]; none if nobody knows it (yet). Reaches back for [`NUMBER_DAYS`].
    ///
    /// # Errors
    /// [`LogError`] when log or store fail.
    fn shipments_of<'a>(
        &'a self,
        carrier: &'a str,
        numbers: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<ShipmentId>>, LogError>>;
}

/// The day on which an order was placed, from the Unix epoch.
#[must_use]
pub fn day_of(order: OrderId) -> u32 {
    // 48 bits of milliseconds are 3.3 million days.
    (order.placed_at_ms() / DAY_MS) as u32
}

/// The first day, from the Unix epoch, on which a tracking number is still looked for at `now_ms`.
#[must_use]
pub fn first_number_day(now_ms: u64) -> u32 {
    ((now_ms / DAY_MS) as u32).saturating_sub(NUMBER_DAYS)
}

/// Merchant and customer under whom orders are entered that have, or had, a parcel to be reviewed: no merchant has an empty id.
pub const HELD: (&str, &str) = ("", "held");

/// True if encoded deltas have a parcel wait to be reviewed; what can't be read doesn't.
#[must_use]
pub fn holds(deltas: &[u8]) -> bool {
    row_deltas(0, deltas).any(|delta| matches!(delta, Ok((_, Delta::Held { .. }))))
}

/// True if a parcel of the order waits to be reviewed now.
///
/// # Errors
/// [`LogError::Store`] if its row can't be read: nobody must take a list for whole that isn't.
pub fn is_held(id: OrderId, order: &StoredOrder) -> Result<bool, LogError> {
    let unreadable = |error| LogError::Store(format!("row of order {id}: {error}"));
    let state = OrderState::fold(id, &order.row).map_err(unreadable)?;
    Ok(!state.is_dead_lettered() && state.parcels.iter().any(|parcel| parcel.waits().is_some()))
}

/// True if `order` is one of `customer` at `merchant`.
///
/// # Errors
/// [`LogError::Store`] if its record can't be read: nobody must take a list for whole that isn't.
pub fn is_of(id: OrderId, order: &StoredOrder, merchant: &str, customer: &str) -> Result<bool, LogError> {
    let unreadable = |error| LogError::Store(format!("record of order {id}: {error}"));
    let record = OrderRef::decode(&order.record).map_err(unreadable)?;
    Ok(record.merchant == merchant && record.customer == customer)
}

/// The shipments of an order that `carrier` took under `number`, as its row has them; at most [`NUMBER_PARCELS`].
#[must_use]
pub fn shipments_under(order: OrderId, row: &[u8], carrier: &str, number: &str) -> Vec<ShipmentId> {
    let Ok(state) = OrderState::fold(order, row) else { return Vec::new() };
    let parcels = state.parcels.iter().chain(state.returns.iter().map(|back| &back.parcel));
    let attempts = parcels.flat_map(|parcel| parcel.attempts.iter().map(|a| (parcel.number, a)));
    let its = attempts.filter(|(_, attempt)| {
        matches!(attempt.outcome, Some((OutcomeKind::Accepted, _, text)) if text == number)
            && attempt.requested.as_ref().is_some_and(|(_, requested)| requested.carrier == carrier)
    });
    its.map(|(parcel, attempt)| ShipmentId { order, parcel, attempt: attempt.number }).take(NUMBER_PARCELS).collect()
}

/// The tracking numbers that encoded deltas bring; what can't be read brings none.
pub fn numbers_in(deltas: &[u8]) -> impl Iterator<Item = &str> {
    row_deltas(0, deltas).filter_map(|delta| match delta {
        // Who agrees to forget a shipment gives it no number.
        Ok((_, Delta::Settled { outcome: OutcomeKind::Accepted, attempt, text, .. })) => {
            Some(text).filter(|text| !text.is_empty() && attempt & VOID == 0)
        }
        _ => None,
    })
}
