//! How much of requests may be in memory at once, in all and per merchant: beyond it a request is turned away before its
//! body is read, so overload costs a few hundred bytes a request and one merchant can't take everybody's room.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use metrics::{Gauge, describe_gauge, gauge};
use sluice_domain::limits::MAX_BATCH_BYTES;
use sluice_http::Problem;

/// The bytes of all requests in flight.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// What one merchant may hold: half of it all, unless there is only one merchant.
    share: usize,
    shares: Box<[AtomicUsize]>,
    gauge: Gauge,
}

/// Which bound a request would go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// Its merchant's share: 429.
    Share,
    /// The node's: 503.
    Node,
}

impl From<Overload> for Problem {
    fn from(overload: Overload) -> Self {
        match overload {
            Overload::Share => Problem::new(
                axum::http::StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "Too many requests",
                "This merchant has as many bytes of orders in flight as its share allows.",
            )
            .with_retry_after(1),
            Overload::Node => Problem::unavailable("As many bytes of orders are in flight as this node takes.", 1),
        }
    }
}

impl Budget {
    /// A budget of `limit` bytes (raised to one full batch if it is less) for `merchants` merchants.
    pub fn new(limit: usize, merchants: usize) -> Self {
        describe_gauge!(
            "sluice_checkout_inflight_bytes",
            metrics::Unit::Bytes,
            "Bytes of order requests and their answers in memory"
        );
        let limit = limit.max(MAX_BATCH_BYTES);
        Self {
            limit,
            used: AtomicUsize::new(0),
            share: if merchants > 1 { (limit / 2).max(MAX_BATCH_BYTES) } else { usize::MAX },
            shares: (0..merchants).map(|_| AtomicUsize::new(0)).collect(),
            gauge: gauge!("sluice_checkout_inflight_bytes"),
        }
    }

    /// Takes `bytes` for a request of merchant number `merchant`, until the hold is dropped.
    ///
    /// # Errors
    /// [`Overload`]; then nothing is taken.
    pub fn hold(self: &Arc<Self>, merchant: usize, bytes: usize) -> Result<Hold, Overload> {
        let mut hold = Hold { budget: Arc::clone(self), merchant, bytes: 0 };
        hold.grow(bytes)?;
        Ok(hold)
    }

    fn take(&self, merchant: usize, bytes: usize) -> Result<(), Overload> {
        let add = |cell: &AtomicUsize, limit: usize| {
            let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
            cell.fetch_update(Relaxed, Relaxed, fits).is_ok()
        };
        if self.shares.get(merchant).is_some_and(|share| !add(share, self.share)) {
            return Err(Overload::Share);
        }
        if !add(&self.used, self.limit) {
            if let Some(share) = self.shares.get(merchant) {
                share.fetch_sub(bytes, Relaxed);
            }
            return Err(Overload::Node);
        }
        self.gauge.increment(bytes as f64);
        Ok(())
    }

    fn give_back(&self, merchant: usize, bytes: usize) {
        if let Some(share) = self.shares.get(merchant) {
            share.fetch_sub(bytes, Relaxed);
        }
        self.used.fetch_sub(bytes, Relaxed);
        self.gauge.decrement(bytes as f64);
    }
}

/// Bytes taken from the budget; dropping it gives them back.
#[derive(Debug)]
pub struct Hold {
    budget: Arc<Budget>,
    merchant: usize,
    bytes: usize,
}

impl Hold {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `bytes` more.
    ///
    /// # Errors
    /// [`Overload`]; then what was held before is still held, and no more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Overload> {
        self.budget.take(self.merchant, bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives back everything above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        if bytes < self.bytes {
            self.budget.give_back(self.merchant, self.bytes - bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_last_byte_fits_and_the_next_does_not() {
        let budget = Arc::new(Budget::new(64 * MIB, 1));
        let mut hold = budget.hold(0, 64 * MIB - 1).unwrap();
        assert_eq!(hold.grow(2), Err(Overload::Node));
        assert_eq!(hold.grow(1), Ok(()));
        assert_eq!(budget.hold(0, 1).map(|_| ()), Err(Overload::Node));
        hold.shrink_to(10);
        assert_eq!(hold.bytes(), 10);
        assert!(budget.hold(0, 64 * MIB - 10).is_ok());
        drop(hold);
        assert_eq!(budget.used.load(Relaxed), 0);
    }

    #[test]
    fn one_merchant_leaves_room_for_the_others() {
        let budget = Arc::new(Budget::new(64 * MIB, 3));
        let first = budget.hold(0, 32 * MIB).unwrap();
        assert_eq!(budget.hold(0, 1).map(|_| ()), Err(Overload::Share));
        let second = budget.hold(1, 32 * MIB).unwrap();
        assert_eq!(budget.hold(2, 1).map(|_| ()), Err(Overload::Node));
        drop(second);
        assert!(budget.hold(2, 1).is_ok());
        drop(first);
        assert!(budget.shares.iter().all(|s| s.load(Relaxed) == 0));
    }

    #[test]
    fn a_full_batch_always_fits_an_idle_node() {
        for merchants in [1, 2, 100] {
            assert!(Arc::new(Budget::new(0, merchants)).hold(0, MAX_BATCH_BYTES).is_ok());
        }
    }
}
