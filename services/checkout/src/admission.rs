//! Who may send a request now, decided before its body is read: the merchant's rate limit, then its share of the node.

use std::sync::Arc;

use metrics::Counter;
use sluice_domain::Merchant;
use sluice_http::Problem;
use sluice_pipeline::{Clock, Receipt};

use crate::{
    Checkout,
    budget::{Budget, Hold, refused_counter, too_many_requests},
    rate::{Bucket, Rate},
};

/// What one merchant may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MerchantLimit {
    /// Orders it may post; `None`: as many as it likes.
    pub rate: Option<Rate>,
    /// Its share of a busy node beside that of others, 1 or more.
    pub weight: u32,
}

impl Default for MerchantLimit {
    fn default() -> Self {
        Self { rate: None, weight: 1 }
    }
}

/// Lets requests in.
pub struct Admission {
    clock: Arc<dyn Clock>,
    /// By merchant number, the limit in words beside what is left of it.
    buckets: Box<[Option<(Bucket, Rate)>]>,
    budget: Arc<Budget>,
    beyond_rate: Counter,
}

impl Admission {
    /// By the limits of `checkout`; merchants that have none there have the default.
    pub fn new(checkout: &Checkout) -> Self {
        let limit = |number: usize| checkout.limits.get(number).copied().unwrap_or_default();
        let limits = || (0..checkout.merchants.len()).map(limit);
        let weights: Vec<u32> = limits().map(|limit| limit.weight.max(1)).collect();
        Self {
            clock: Arc::clone(&checkout.clock),
            buckets: limits().map(|limit| limit.rate.map(|rate| (Bucket::new(rate), rate))).collect(),
            budget: Arc::new(Budget::new(checkout.max_inflight_bytes, &weights, checkout.slow_ack)),
            beyond_rate: refused_counter("rate"),
        }
    }

    /// Lets a request of about `orders` orders and `bytes` bytes in; what it holds is given back when the hold is dropped.
    ///
    /// # Errors
    /// A 429 or 503 problem with Retry-After.
    pub fn enter(&self, merchant: &Merchant, orders: u64, bytes: usize) -> Result<Hold, Problem> {
        if let Some((bucket, rate)) = self.bucket(merchant) {
            let now_ns = self.clock.monotonic_us().saturating_mul(1_000);
            bucket.take(now_ns, orders).map_err(|wait_ns| self.beyond(rate, wait_ns))?;
        }
        let held = self.budget.hold(merchant.number, bytes);
        Ok(held.inspect_err(|_| self.recount(merchant, orders, 0))?)
    }

    /// Has a request that was let in as `taken` orders count as `orders`.
    pub fn recount(&self, merchant: &Merchant, taken: u64, orders: u64) {
        if let Some((bucket, _)) = self.bucket(merchant) {
            bucket.correct(taken, orders);
        }
    }

    /// Notes how long the log took from `since_us` until now to answer. What it refused to queue says nothing of its pace.
    pub fn answered(&self, since_us: u64, receipts: &[Receipt]) {
        if !receipts.iter().any(|receipt| matches!(receipt, Receipt::Busy { .. })) {
            self.budget.acknowledged(self.clock.monotonic_us().saturating_sub(since_us));
        }
    }

    fn bucket(&self, merchant: &Merchant) -> Option<&(Bucket, Rate)> {
        self.buckets.get(merchant.number)?.as_ref()
    }

    fn beyond(&self, rate: &Rate, wait_ns: u64) -> Problem {
        self.beyond_rate.increment(1);
        let seconds = u32::try_from(wait_ns.div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
        let Rate { per_second, burst } = rate;
        let detail = format!("This merchant may post {per_second} orders/s, and {burst} at once.");
        too_many_requests(detail, seconds)
    }
}
