//! How many readers there are at once, in all and of one merchant: each holds a page of memory and now and then a reader of
//! the log, so they are bounded, and one merchant can't take everybody's place.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use axum::http::StatusCode;
use metrics::{Gauge, describe_gauge, gauge};
use sluice_http::Problem;

/// Streams at once unless configured otherwise.
pub const DEFAULT_MAX_STREAMS: usize = 64;

/// Pages that are read at once and wait for nothing. They take milliseconds.
const PAGES: usize = 32;

/// Seconds after which a place may be free: streams last, pages don't.
const RETRY_AFTER_S: [u32; 2] = [1, 10];

/// The places of one kind.
struct Places {
    limit: usize,
    used: AtomicUsize,
    /// What one merchant may have: half of all, unless there is only one merchant.
    share: usize,
    shares: Box<[AtomicUsize]>,
}

impl Places {
    fn new(limit: usize, merchants: usize) -> Self {
        let share = if merchants > 1 { limit.div_ceil(2) } else { limit };
        Self { limit, used: AtomicUsize::new(0), share, shares: (0..merchants).map(|_| AtomicUsize::new(0)).collect() }
    }
}

/// See the module.
pub struct Room {
    /// Pages, and streams.
    places: [Arc<Places>; 2],
    streams: Gauge,
}

impl Room {
    pub fn new(max_streams: usize, merchants: usize) -> Self {
        describe_gauge!("sluice_event_streams", "Open streams of events, and pages that wait for one");
        let streams = gauge!("sluice_event_streams");
        streams.set(0.0);
        Self { places: [PAGES, max_streams].map(|limit| Arc::new(Places::new(limit, merchants))), streams }
    }

    /// A place for a reader of the merchant with this number, until it is dropped; without a number it has no share that
    /// bounds it.
    ///
    /// # Errors
    /// A problem: 429 beyond the merchant's share, 503 beyond them all.
    pub fn take(&self, merchant: Option<usize>, waits: bool) -> Result<Place, Problem> {
        let kind = usize::from(waits);
        let (places, retry_after_s) = (&self.places[kind], RETRY_AFTER_S[kind]);
        let add = |cell: &AtomicUsize, limit| {
            cell.fetch_update(Relaxed, Relaxed, |used| (used < limit).then_some(used + 1)).is_ok()
        };
        let share = || merchant.and_then(|number| places.shares.get(number));
        if share().is_some_and(|share| !add(share, places.share)) {
            let detail = "This merchant reads as many streams of events as its share allows.";
            let status = StatusCode::TOO_MANY_REQUESTS;
            let problem = Problem::new(status, "too-many-requests", "Too many requests", detail);
            return Err(problem.with_retry_after(retry_after_s));
        }
        if !add(&places.used, places.limit) {
            if let Some(share) = share() {
                share.fetch_sub(1, Relaxed);
            }
            let detail = "As many streams of events are open as this node takes.";
            return Err(Problem::unavailable(detail, retry_after_s));
        }
        let gauge = waits.then(|| self.streams.clone());
        gauge.iter().for_each(|gauge| gauge.increment(1.0));
        Ok(Place { places: Arc::clone(places), merchant, gauge })
    }
}

/// A reader's place.
pub struct Place {
    places: Arc<Places>,
    merchant: Option<usize>,
    gauge: Option<Gauge>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.used.fetch_sub(1, Relaxed);
        if let Some(share) = self.merchant.and_then(|number| self.places.shares.get(number)) {
            share.fetch_sub(1, Relaxed);
        }
        if let Some(gauge) = &self.gauge {
            gauge.decrement(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(taken: Result<Place, Problem>) -> u16 {
        taken.map_or_else(|problem| problem.status.as_u16(), |_| 200)
    }

    #[test]
    fn a_merchant_has_its_share_and_all_have_the_rest() {
        let room = Room::new(3, 3);
        let two: Vec<_> = (0..2).map(|_| room.take(Some(0), true).unwrap()).collect();
        assert_eq!(status(room.take(Some(0), true)), 429);
        assert_eq!(status(room.take(Some(0), false)), 200, "pages are apart from streams");
        let third = room.take(Some(1), true).unwrap();
        assert_eq!(status(room.take(Some(1), true)), 503);
        assert_eq!(status(room.take(Some(2), true)), 503);
        drop(two);
        let again: Vec<_> = (0..2).map(|_| room.take(Some(2), true).unwrap()).collect();
        assert_eq!(status(room.take(Some(0), true)), 503, "a refusal takes nothing");
        drop((third, again));
        assert_eq!(status(room.take(Some(0), true)), 200);
        let nobodys = Room::new(2, 0);
        let two: Vec<_> = (0..2).map(|_| nobodys.take(None, true).unwrap()).collect();
        assert_eq!(status(nobodys.take(None, true)), 503, "without a share all may be one's");
        drop(two);
        assert_eq!(status(nobodys.take(None, true)), 200);
        let alone = Room::new(1, 1);
        let _only = alone.take(Some(0), true).unwrap();
        let Err(problem) = alone.take(Some(0), true) else { panic!("two in one place") };
        assert_eq!((problem.status.as_u16(), problem.retry_after_s), (429, Some(10)));
    }
}
