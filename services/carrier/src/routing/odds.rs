//! From table and measured health to shares: each carrier gets a score, and of the parcels that several could take each
//! gets a share that falls steeply with its score.
//!
//! The score is what a parcel costs with that carrier, in minor units, with what waiting and trouble are worth added:
//! ```text
//! score = (cost + 50 × promised_days) × (1 + failing + slow + waiting)
//! failing   0 to 4: 4 × the share of manifests that got no final answer
//! slow      0 to 2: 1/4 for each time its latency is once more that of the fastest open carrier of the group; below
//!           50 ms all count as equally fast, since nobody notices and a loaded machine's noise is of that size
//! waiting   0 to 4: 1/4 for each second its backlog needs, at 2,000 shipments per latency (500 a manifest, 4 at once)
//! share     proportional to 1 / score⁴
//! ```
//! So equal carriers share equally, one 10 % dearer gets two thirds of the other's parcels, one twice as dear a
//! sixteenth. Always taking the best one would send a whole batch, on every node at once, to whoever looked best a
//! moment ago; with shares a carrier that gets worse loses parcels gradually, and goes on being measured by the few it
//! keeps.
//!
//! Which parcels make up a share is decided by the order's id, not by chance, so every replay decides alike. Parcels of
//! an order that the same carriers can take go to the same one, since a customer would rather open the door once.
//! Carriers whose circuit breaker is open take part only if nobody else takes the parcel.

use sluice_domain::{Group, OrderId};
use sluice_pipeline::CarrierHealth;

use super::table::{CarrierRule, CarrierSet, Table};

/// What a day sooner is worth, in minor units.
const DAY_VALUE: u64 = 50;
/// Per mille added to the score for each per mille of failures.
const FAILURE_FACTOR: u64 = 4;
/// Latencies below count as this one, µs.
const NOTICEABLE_US: u64 = 50_000;
/// Per mille added for each multiple of the fastest carrier's latency beyond the first, and the most of it.
const SLOW_PERMILLE: u64 = 250;
const SLOW_MOST: u64 = 2_000;
/// Shipments that a carrier is taken to answer in one latency.
const PER_LATENCY: u64 = 2_000;
/// Per mille added for each second of backlog, and the most of it.
const WAIT_PERMILLE: u64 = 250;
const WAIT_MOST: u64 = 4_000;
/// Fixed point of a score's ratio to the best one. Its fourth power times the most carriers stays below 2⁶⁴.
const ONE: u64 = 1 << 13;
const _: () = assert!((super::table::MAX_CARRIERS as u64).checked_mul(ONE * ONE * ONE * ONE).is_some());

/// The carriers' shares of each handling group, for one batch. Groups are worked out when first asked for.
#[derive(Debug)]
pub struct Odds<'a> {
    table: &'a Table,
    health: &'a [CarrierHealth],
    groups: [Option<GroupOdds>; 6],
}

#[derive(Debug)]
struct GroupOdds {
    /// Carriers that may be asked.
    open: Pool,
    /// Carriers behind an open circuit breaker.
    shut: Pool,
}

/// Candidates, highest weight limit first, so that those that take a weight are a prefix.
#[derive(Debug, Default)]
struct Pool {
    carriers: Vec<u16>,
    limits_g: Vec<u32>,
    /// Shares summed up to and including each candidate.
    sums: Vec<u64>,
    /// Up to this weight every candidate takes the parcel.
    least_limit_g: u32,
}

impl<'a> Odds<'a> {
    /// The shares under `table` when the carriers are as `health` says, by number; one that isn't listed is healthy.
    #[must_use]
    pub fn new(table: &'a Table, health: &'a [CarrierHealth]) -> Self {
        Self { table, health, groups: [const { None }; 6] }
    }

    /// The carrier to ask to take a parcel of `order` as `attempt`, or `None` if none takes this group and weight (in
    /// grams) that isn't in `tried`.
    #[inline]
    pub fn pick(
        &mut self,
        group: Group,
        weight_g: u32,
        order: OrderId,
        attempt: u8,
        tried: Option<&CarrierSet>,
    ) -> Option<u16> {
        let (table, health) = (self.table, self.health);
        let odds = self.groups[group as usize].get_or_insert_with(|| GroupOdds::new(table, health, group));
        let point = point(order, attempt);
        match tried {
            None => odds.open.pick(weight_g, point).or_else(|| odds.shut.pick(weight_g, point)),
            Some(tried) => {
                let open = odds.open.pick_untried(weight_g, point, tried);
                open.or_else(|| odds.shut.pick_untried(weight_g, point, tried))
            }
        }
    }
}

/// A place on the circle of shares: uniform, the same for all parcels of an order, another one for each attempt.
#[inline]
fn point(order: OrderId, attempt: u8) -> u64 {
    let x = order.hash64() ^ u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^ x >> 33
}

/// `point` as a number below `total`.
#[inline]
fn scale(point: u64, total: u64) -> u64 {
    ((u128::from(point) * u128::from(total)) >> 64) as u64
}

impl GroupOdds {
    #[cold]
    fn new(table: &Table, health: &[CarrierHealth], group: Group) -> Self {
        let health = |number: u16| health.get(usize::from(number)).copied().unwrap_or_default();
        let pool = |available: bool| {
            let taking = || table.taking(group).filter(move |(number, _)| health(*number).available == available);
            let fastest = taking().map(|(number, _)| latency_us(&health(number))).min().unwrap_or(NOTICEABLE_US);
            Pool::new(taking().map(|(number, rule)| (number, rule, score(rule, &health(number), fastest))).collect())
        };
        Self { open: pool(true), shut: pool(false) }
    }
}

fn latency_us(health: &CarrierHealth) -> u64 {
    u64::from(health.latency_us).max(NOTICEABLE_US)
}

/// Thousandths of a minor unit, at least 1. `fastest` is the lowest latency among those compared, µs.
fn score(rule: &CarrierRule, health: &CarrierHealth, fastest: u64) -> u64 {
    let base = u64::from(rule.cost) + DAY_VALUE * u64::from(rule.promised_days);
    let failing = FAILURE_FACTOR * u64::from(health.failures_permille.min(1_000));
    let slow = ((latency_us(health) - fastest) * SLOW_PERMILLE / fastest).min(SLOW_MOST);
    let drain_ms = health.backlog.saturating_mul(latency_us(health)) / (PER_LATENCY * 1_000);
    let waiting = (drain_ms.saturating_mul(WAIT_PERMILLE) / 1_000).min(WAIT_MOST);
    base.max(1) * (1_000 + failing + slow + waiting)
}

impl Pool {
    fn new(candidates: Vec<(u16, &CarrierRule, u64)>) -> Self {
        let best = candidates.iter().map(|c| c.2).min().unwrap_or(1);
        let mut pool = Self::default();
        let mut sum = 0;
        for (number, rule, score) in candidates {
            let ratio = (best * ONE / score).max(1);
            sum += ratio * ratio * ratio * ratio;
            pool.carriers.push(number);
            pool.limits_g.push(rule.max_weight_g);
            pool.sums.push(sum);
            pool.least_limit_g = rule.max_weight_g;
        }
        pool
    }

    /// How many candidates take this weight.
    #[inline]
    fn taking(&self, weight_g: u32) -> usize {
        if weight_g <= self.least_limit_g {
            self.carriers.len()
        } else {
            self.limits_g.partition_point(|&limit| limit >= weight_g)
        }
    }

    #[inline]
    fn pick(&self, weight_g: u32, point: u64) -> Option<u16> {
        let sums = &self.sums[..self.taking(weight_g)];
        let at = scale(point, *sums.last()?);
        self.carriers.get(sums.partition_point(|&sum| sum <= at)).copied()
    }

    fn pick_untried(&self, weight_g: u32, point: u64, tried: &CarrierSet) -> Option<u16> {
        let untried = || (0..self.taking(weight_g)).filter(|&i| !tried.contains(self.carriers[i]));
        let share = |i: usize| self.sums[i] - i.checked_sub(1).map_or(0, |before| self.sums[before]);
        let mut at = scale(point, untried().map(share).sum());
        for i in untried() {
            match at.checked_sub(share(i)) {
                Some(rest) => at = rest,
                None => return Some(self.carriers[i]),
            }
        }
        None
    }
}
