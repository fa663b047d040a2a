//! Keeps retries from multiplying the load of a carrier that is already failing: at most a tenth of what is sent for
//! the first time, and a slow floor.
//!
//! The bound, in shipments, for any stretch of time from the start:
//! `retried ≤ first × retry_permille / 1000 + manifest_shipments × (1 + elapsed / retry_floor)`.
//! The second part is the floor: without it, a lone failure at a quiet carrier would wait for traffic that earns its
//! retry, which may never come.

use super::config::NotifierConfig;
use super::config::us;

/// Tokens in thousandths of a shipment: whole numbers add up the same way everywhere.
#[derive(Debug, Clone)]
pub(super) struct RetryBudget {
    saved: u64,
    most: u64,
    earned_each: u64,
    floor_us: u64,
    /// When the floor next allows a manifest, µs on the monotonic clock.
    floor_at_us: u64,
}

const SHIPMENT: u64 = 1_000;

impl RetryBudget {
    pub(super) fn new(config: &NotifierConfig) -> Self {
        Self {
            saved: 0,
            most: u64::from(config.retry_burst) * SHIPMENT,
            earned_each: u64::from(config.retry_permille),
            floor_us: us(config.retry_floor),
            floor_at_us: 0,
        }
    }

    /// `shipments` were sent for the first time.
    pub(super) fn earn(&mut self, shipments: usize) {
        self.saved = (self.saved + shipments as u64 * self.earned_each).min(self.most);
    }

    /// `None` if `shipments` may be sent again now; else when the floor will allow it, should nothing be earned before.
    pub(super) fn wait_us(&self, shipments: usize, now_us: u64) -> Option<u64> {
        let affordable = self.saved >= shipments as u64 * SHIPMENT;
        (!affordable && now_us < self.floor_at_us).then_some(self.floor_at_us)
    }

    /// `shipments` are sent again. Only after [`RetryBudget::wait_us`] allowed it.
    pub(super) fn spend(&mut self, shipments: usize, now_us: u64) {
        match self.saved.checked_sub(shipments as u64 * SHIPMENT) {
            Some(rest) => self.saved = rest,
            None => self.floor_at_us = now_us.saturating_add(self.floor_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_earned_and_the_floor_goes_beside_it() {
        let mut budget = RetryBudget::new(&NotifierConfig::new("c", true));
        assert_eq!(budget.wait_us(500, 10), None, "the floor allows the first");
        budget.spend(500, 10);
        assert_eq!(budget.wait_us(1, 11), Some(1_000_010));
        budget.earn(9);
        assert_eq!(budget.wait_us(1, 11), Some(1_000_010));
        budget.earn(1);
        assert_eq!(budget.wait_us(1, 11), None);
        budget.spend(1, 11);
        assert_eq!(budget.wait_us(1, 12), Some(1_000_010), "spending from the budget leaves the floor alone");
        assert_eq!(budget.wait_us(500, 1_000_010), None);
    }

    #[test]
    fn what_is_saved_is_bounded() {
        let mut budget = RetryBudget::new(&NotifierConfig::new("c", true));
        budget.floor_at_us = u64::MAX;
        budget.earn(1_000_000);
        assert_eq!(budget.wait_us(5_000, 0), None);
        assert!(budget.wait_us(5_001, 0).is_some());
    }
}
