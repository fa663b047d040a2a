//! How many orders a second a merchant may post: a token bucket whose whole state is one number, the time at which it is
//! full again (the "generic cell rate algorithm"). Taking from it is one atomic operation a request, whatever a batch holds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SECOND_NS: u64 = 1_000_000_000;

/// A merchant's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Orders a second in the long run, 1 or more.
    pub per_second: u32,
    /// Orders at once before that counts, 1 or more.
    pub burst: u32,
}

/// What a merchant has left of its limit. Times are ns of a clock that doesn't go back.
#[derive(Debug)]
pub struct Bucket {
    full_at: AtomicU64,
    order_ns: u64,
    burst_ns: u64,
}

impl Bucket {
    /// A full bucket. Rates are kept to the ns an order.
    pub fn new(rate: Rate) -> Self {
        let order_ns = SECOND_NS / u64::from(rate.per_second.max(1));
        Self { full_at: AtomicU64::new(0), order_ns, burst_ns: order_ns * u64::from(rate.burst.max(1)) }
    }

    /// Takes `orders`. One that is left lets any number in, and the next request waits until that is made up for: a batch is
    /// taken as a whole, and the rate is kept all the same.
    ///
    /// # Errors
    /// In how many ns one will be left, if none is now.
    pub fn take(&self, now: u64, orders: u64) -> Result<(), u64> {
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let missing = full_at.saturating_sub(now);
            let more = orders.saturating_mul(self.order_ns);
            (missing + self.order_ns <= self.burst_ns).then(|| full_at.max(now).saturating_add(more))
        });
        taken.map(drop).map_err(|full_at| full_at.saturating_sub(now) + self.order_ns - self.burst_ns)
    }

    /// Makes `orders` of what was taken as `taken`, once it is known how many there are.
    pub fn correct(&self, taken: u64, orders: u64) {
        match orders.checked_sub(taken) {
            Some(more) => self.full_at.fetch_add(more.saturating_mul(self.order_ns), Relaxed),
            None => self.full_at.fetch_sub((taken - orders).saturating_mul(self.order_ns), Relaxed),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn bucket() -> Bucket {
        Bucket::new(Rate { per_second: 10, burst: 3 })
    }

    #[test]
    fn a_burst_fits_and_then_the_rate_counts() {
        let bucket = bucket();
        let start = 1_000 * MS;
        assert_eq!([0, 1, 2].map(|_| bucket.take(start, 1)), [Ok(()); 3]);
        assert_eq!(bucket.take(start, 1), Err(100 * MS));
        assert_eq!(bucket.take(start + 99 * MS, 1), Err(MS));
        assert_eq!(bucket.take(start + 100 * MS, 1), Ok(()));
        assert_eq!(bucket.take(start + 100 * MS, 1), Err(100 * MS));
        // However long it rests, no more than the burst is saved.
        let later = start + 3_600_000 * MS;
        assert_eq!([0, 1, 2].map(|_| bucket.take(later, 1)), [Ok(()); 3]);
        assert!(bucket.take(later, 1).is_err());
    }

    #[test]
    fn a_batch_is_made_up_for() {
        let bucket = bucket();
        assert_eq!(bucket.take(0, 2), Ok(()));
        assert_eq!(bucket.take(0, 50), Ok(()));
        // 52 of 3 are taken: 49 are owed, and the fiftieth makes one that is left.
        assert_eq!(bucket.take(0, 1), Err(5_000 * MS));
        bucket.correct(50, 10);
        assert_eq!(bucket.take(0, 1), Err(1_000 * MS));
        bucket.correct(2, 3);
        assert_eq!(bucket.take(0, 1), Err(1_100 * MS));
        assert_eq!(bucket.take(1_100 * MS, 1), Ok(()));
    }

    #[test]
    fn over_time_as_many_are_taken_as_the_limit_says() {
        let bucket = Bucket::new(Rate { per_second: 1_000, burst: 1_000 });
        let taken = (0..100_000u64).filter(|tick| bucket.take(tick * MS / 10, 1).is_ok()).count();
        assert!((10_990..=11_010).contains(&taken), "{taken} in ten seconds, with the burst");
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let bucket = Bucket::new(Rate { per_second: 1, burst: 1_000 });
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..1_000).filter(|_| bucket.take(0, 1).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1_000);
    }
}
