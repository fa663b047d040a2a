//! How many streams may be open, in all and per merchant: beyond it a client is turned away before anything is read.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use axum::http::StatusCode;
use metrics::{Gauge, Unit, describe_gauge, gauge};
use sluice_http::Problem;

/// Seconds after which somebody who found no place may come back: streams last.
const RETRY_AFTER_S: u32 = 5;

/// Places for streams.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    taken: AtomicUsize,
    /// What one merchant may have: half of them, unless there is only one merchant.
    share: usize,
    shares: Box<[AtomicUsize]>,
    open: Gauge,
}

/// Which bound a stream would go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Its merchant's share: 429.
    Share,
    /// The node's: 503.
    Node,
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        match full {
            Full::Share => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "Too many requests",
                "This merchant follows as many orders as its share of this node allows.",
            )
            .with_retry_after(RETRY_AFTER_S),
            Full::Node => Problem::unavailable("As many orders are followed as this node takes.", RETRY_AFTER_S),
        }
    }
}

impl Places {
    /// So many places, for so many merchants.
    pub fn new(limit: usize, merchants: usize) -> Arc<Self> {
        describe_gauge!("sluice_status_streams", Unit::Count, "Open streams of orders' events");
        Arc::new(Self {
            limit,
            taken: AtomicUsize::new(0),
            share: if merchants > 1 { limit.div_ceil(2) } else { usize::MAX },
            shares: (0..merchants).map(|_| AtomicUsize::new(0)).collect(),
            open: gauge!("sluice_status_streams"),
        })
    }

    /// Takes one for merchant number `merchant`, until it is dropped.
    ///
    /// # Errors
    /// [`Full`]; then nothing is taken.
    pub fn take(self: &Arc<Self>, merchant: usize) -> Result<Place, Full> {
        let add = |cell: &AtomicUsize, limit: usize| {
            cell.fetch_update(Relaxed, Relaxed, |taken| (taken < limit).then_some(taken + 1)).is_ok()
        };
        if self.shares.get(merchant).is_some_and(|share| !add(share, self.share)) {
            return Err(Full::Share);
        }
        if !add(&self.taken, self.limit) {
            self.leave_share(merchant);
            return Err(Full::Node);
        }
        self.open.increment(1.0);
        Ok(Place { places: Arc::clone(self), merchant })
    }

    fn leave_share(&self, merchant: usize) {
        if let Some(share) = self.shares.get(merchant) {
            share.fetch_sub(1, Relaxed);
        }
    }
}

/// A place that is taken.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    merchant: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.leave_share(self.merchant);
        self.places.taken.fetch_sub(1, Relaxed);
        self.places.open.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_given_and_none_after_it() {
        let places = Places::new(2, 1);
        let (first, second) = (places.take(0).unwrap(), places.take(0).unwrap());
        assert_eq!(places.take(0).map(drop), Err(Full::Node));
        drop(first);
        assert!(places.take(0).is_ok());
        drop(second);
        assert_eq!((places.taken.load(Relaxed), places.shares[0].load(Relaxed)), (0, 0));
        assert_eq!(Places::new(0, 1).take(0).map(drop), Err(Full::Node));
    }

    #[test]
    fn one_merchant_leaves_room_for_the_others() {
        let places = Places::new(5, 3);
        let first: Vec<_> = (0..3).map(|_| places.take(0).unwrap()).collect();
        assert_eq!(places.take(0).map(drop), Err(Full::Share));
        let _second: Vec<_> = (0..2).map(|_| places.take(1).unwrap()).collect();
        assert_eq!(places.take(2).map(drop), Err(Full::Node));
        assert_eq!(places.shares[2].load(Relaxed), 0, "who was refused by the node has nothing of its share");
        drop(first);
        assert!(places.take(2).is_ok());
    }
}
