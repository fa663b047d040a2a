//! How much of requests may be in memory at once, in all and per merchant: beyond it a request is turned away before its
//! body is read, so overload costs a few hundred bytes a request and one merchant can't take everybody's room.
//!
//! A merchant's share is dynamic, and needs no list of who is active:
//!
//! * It may hold as much as is free, times its weight. One busy merchant gets half of the node, two get a third each, *n*
//!   get one part of *n* + 1 each; one part is left for whoever comes next.
//! * While the log is slow to acknowledge, what waits in its queue is everybody's latency. Then a merchant may hold no more
//!   than all others together, times its weight, and not less than [`LEAST_SHARE`]: who posts ten times what the others do
//!   is held at what they do, and who posts like all others never notices.
//!
//! Whatever its share, a merchant that has nothing in flight may send one request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use sluice_domain::limits::MAX_BATCH_BYTES;
use sluice_http::Problem;

/// Bytes that a merchant of weight 1 may hold however slow the log is: some ten thousand small orders.
const LEAST_SHARE: usize = 4 << 20;
/// What one acknowledgement counts in the smoothed time that they take: an eighth.
const SMOOTHING: u32 = 3;

/// The bytes of all requests in flight.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    shares: Box<[Share]>,
    pressure: Pressure,
    gauge: Gauge,
    refused: [Counter; 3],
}

/// What one merchant holds.
#[derive(Debug)]
struct Share {
    held: AtomicUsize,
    weight: usize,
}

/// How long the log takes to acknowledge.
#[derive(Debug)]
struct Pressure {
    smoothed_us: AtomicU64,
    high_us: u64,
}

impl Pressure {
    /// Threads that come together lose a sample, which is nothing beside a locked instruction for every request.
    fn observe(&self, us: u64) {
        let before = self.smoothed_us.load(Relaxed);
        self.smoothed_us.store(before - (before >> SMOOTHING) + (us >> SMOOTHING), Relaxed);
    }

    fn is_high(&self) -> bool {
        self.smoothed_us.load(Relaxed) > self.high_us
    }
}

/// Which bound a request would go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// Its merchant's share of the node's memory: 429.
    Share = 0,
    /// Its merchant's share of a slow log's queue: 429.
    Queue = 1,
    /// The node's memory: 503.
    Node = 2,
}

impl From<Overload> for Problem {
    fn from(overload: Overload) -> Self {
        match overload {
            Overload::Share => {
                too_many_requests("This merchant has as many bytes of orders in flight as its share allows.", 1)
            }
            Overload::Queue => {
                too_many_requests("Orders are waiting, and this merchant has more of them than its share allows.", 1)
            }
            Overload::Node => Problem::unavailable("As many bytes of orders are in flight as this node takes.", 1),
        }
    }
}

/// More than this merchant may have or send: 429.
pub fn too_many_requests(detail: impl Into<std::borrow::Cow<'static, str>>, retry_after_s: u32) -> Problem {
    let status = axum::http::StatusCode::TOO_MANY_REQUESTS;
    Problem::new(status, "too-many-requests", "Too many requests", detail).with_retry_after(retry_after_s)
}

/// `sluice_checkout_refused_total` for one reason.
pub fn refused_counter(reason: &'static str) -> Counter {
    describe_counter!(
        "sluice_checkout_refused_total",
        "Requests turned away before they were read, by reason: rate (the merchant's limit), share (its share of the \
         node's memory), queue (its share of a slow log's queue), node (the node's memory)"
    );
    counter!("sluice_checkout_refused_total", "reason" => reason)
}

impl Budget {
    /// A budget of `limit` bytes (raised to one full batch if it is less) for merchants of these weights. The log is slow
    /// when acknowledgements take longer than `slow`.
    pub fn new(limit: usize, weights: &[u32], slow: Duration) -> Self {
        describe_gauge!(
            "sluice_checkout_inflight_bytes",
            metrics::Unit::Bytes,
            "Bytes of order requests and their answers in memory"
        );
        let share = |weight: &u32| Share { held: AtomicUsize::new(0), weight: *weight as usize };
        Self {
            limit: limit.max(MAX_BATCH_BYTES),
            used: AtomicUsize::new(0),
            shares: weights.iter().map(share).collect(),
            pressure: Pressure { smoothed_us: AtomicU64::new(0), high_us: slow.as_micros() as u64 },
            gauge: gauge!("sluice_checkout_inflight_bytes"),
            refused: ["share", "queue", "node"].map(refused_counter),
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

    /// Notes that the log took `us` to acknowledge what it was given.
    pub fn acknowledged(&self, us: u64) {
        self.pressure.observe(us);
    }

    /// `own` is what the request holds already.
    fn take(&self, merchant: usize, own: usize, bytes: usize) -> Result<(), Overload> {
        // Taken first and given back if it doesn't fit: who comes in between may be refused for nothing, and nothing is
        // ever taken twice.
        let used = self.used.fetch_add(bytes, Relaxed);
        let share = self.shares.get(merchant);
        let held = share.map_or(0, |share| share.held.fetch_add(bytes, Relaxed));
        let overload = if used.saturating_add(bytes) > self.limit {
            Some(Overload::Node)
        } else {
            share.and_then(|share| self.beyond(share, held, own, used, bytes))
        };
        let Some(overload) = overload else {
            self.gauge.increment(bytes as f64);
            return Ok(());
        };
        self.used.fetch_sub(bytes, Relaxed);
        if let Some(share) = share {
            share.held.fetch_sub(bytes, Relaxed);
        }
        self.refused[overload as usize].increment(1);
        Err(overload)
    }

    /// Which of its shares a merchant goes over that held `held` of `used` bytes and takes `bytes` more.
    fn beyond(&self, share: &Share, held: usize, own: usize, used: usize, bytes: usize) -> Option<Overload> {
        // Its only request, or there is nobody else.
        if held <= own || self.shares.len() == 1 {
            return None;
        }
        let weighed = |bytes: usize| bytes.saturating_mul(share.weight);
        if held + bytes > weighed(self.limit.saturating_sub(used)) {
            return Some(Overload::Share);
        }
        // Its other requests alone count: a large one right behind another must not be refused for what is still leaving.
        let (its, others) = (held - own, used.saturating_sub(held));
        (self.pressure.is_high() && its >= weighed(others.max(LEAST_SHARE))).then_some(Overload::Queue)
    }

    fn give_back(&self, merchant: usize, bytes: usize) {
        if let Some(share) = self.shares.get(merchant) {
            share.held.fetch_sub(bytes, Relaxed);
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
        self.budget.take(self.merchant, self.bytes, bytes)?;
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
    const SLOW: Duration = Duration::from_millis(50);

    fn budget(limit: usize, weights: &[u32]) -> Arc<Budget> {
        Arc::new(Budget::new(limit, weights, SLOW))
    }

    fn refusal(budget: &Arc<Budget>, merchant: usize, bytes: usize) -> Option<Overload> {
        budget.hold(merchant, bytes).err()
    }

    #[test]
    fn the_last_byte_fits_and_the_next_does_not() {
        let budget = budget(64 * MIB, &[1]);
        let mut hold = budget.hold(0, 64 * MIB - 1).unwrap();
        assert_eq!(hold.grow(2), Err(Overload::Node));
        assert_eq!(hold.grow(1), Ok(()));
        assert_eq!(refusal(&budget, 0, 1), Some(Overload::Node));
        hold.shrink_to(10);
        assert_eq!(hold.bytes(), 10);
        assert!(budget.hold(0, 64 * MIB - 10).is_ok());
        drop(hold);
        assert_eq!(budget.used.load(Relaxed), 0);
    }

    #[test]
    fn one_merchant_leaves_room_for_the_others() {
        let budget = budget(64 * MIB, &[1, 1, 1]);
        let first = budget.hold(0, 32 * MIB).unwrap();
        assert_eq!(refusal(&budget, 0, 1), Some(Overload::Share));
        let second = budget.hold(1, 32 * MIB).unwrap();
        assert_eq!(refusal(&budget, 2, 1), Some(Overload::Node));
        drop(second);
        assert!(budget.hold(2, 1).is_ok());
        drop(first);
        assert!(budget.shares.iter().all(|share| share.held.load(Relaxed) == 0));
    }

    /// Takes MiB after MiB for these merchants in turns until none gets another, and gives what each has.
    fn fill(budget: &Arc<Budget>, merchants: &[usize]) -> Vec<usize> {
        let mut holds: Vec<Vec<Hold>> = merchants.iter().map(|_| Vec::new()).collect();
        loop {
            let mut took = false;
            for (holds, merchant) in holds.iter_mut().zip(merchants) {
                let hold = budget.hold(*merchant, MIB);
                took |= hold.is_ok();
                holds.extend(hold);
            }
            if !took {
                return holds.iter().map(Vec::len).collect();
            }
        }
    }

    #[test]
    fn the_busy_share_alike_and_leave_a_part() {
        let budget = budget(240 * MIB, &[1, 1, 1, 1, 3]);
        assert_eq!(fill(&budget, &[0]), [120]);
        assert_eq!(fill(&budget, &[0, 1]), [80, 80]);
        assert_eq!(fill(&budget, &[0, 1, 2, 3]), [48, 48, 48, 48]);
        // Three parts of five for a weight of three.
        assert_eq!(fill(&budget, &[0, 4, 4, 4]), [48, 48, 48, 48]);
    }

    #[test]
    fn who_comes_later_gets_as_much() {
        let budget = budget(240 * MIB, &[1, 1]);
        let mut first: Vec<Hold> = std::iter::from_fn(|| budget.hold(0, MIB).ok()).collect();
        let second: Vec<Hold> = std::iter::from_fn(|| budget.hold(1, MIB).ok()).collect();
        assert_eq!((first.len(), second.len()), (120, 60));
        // What the first finishes becomes the second's until they are even.
        first.truncate(80);
        assert_eq!(
            second.len() + std::iter::from_fn(|| budget.hold(1, MIB).ok()).take(100).collect::<Vec<_>>().len(),
            80
        );
    }

    #[test]
    fn a_slow_log_holds_the_loudest_at_what_the_others_do() {
        let budget = budget(256 * MIB, &[1, 1, 1, 1]);
        let quiet: Vec<Hold> = (1..4).map(|merchant| budget.hold(merchant, 2 * MIB).unwrap()).collect();
        let loud = |holds: &mut Vec<Hold>| {
            while let Ok(hold) = budget.hold(0, MIB) {
                holds.push(hold);
            }
            holds.len()
        };
        let mut holds = Vec::new();
        assert_eq!(loud(&mut holds), 125, "half of what the others leave");
        (0..64).for_each(|_| budget.acknowledged(200_000));
        holds.truncate(100);
        assert_eq!(refusal(&budget, 0, 1), Some(Overload::Queue));
        holds.clear();
        assert_eq!(loud(&mut holds), 6, "as much as the three others");
        drop(quiet);
        holds.clear();
        assert_eq!(loud(&mut holds), LEAST_SHARE / MIB);
        // The others go on meanwhile, and all is well once it is fast again.
        assert!(budget.hold(1, 3 * MIB).is_ok());
        (0..64).for_each(|_| budget.acknowledged(1_000));
        assert!(budget.hold(0, MIB).is_ok());
    }

    #[test]
    fn a_full_batch_always_fits_an_idle_node() {
        for merchants in [1, 2, 100] {
            let budget = budget(0, &vec![1; merchants]);
            (0..64).for_each(|_| budget.acknowledged(1_000_000));
            assert!(budget.hold(0, MAX_BATCH_BYTES).is_ok());
        }
    }
}
