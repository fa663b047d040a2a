//! How sure a model has to be, set on what models said about texts that they had not seen.

use serde::{Deserialize, Serialize};

use crate::{
    about::Calibration,
    evaluate::Judged,
    judge::{self, DANGEROUS, DEPARTMENTS, LANES, softmax},
    scores::share,
};

/// Wanted of what is decided without review at the confidence that is set for it.
const PRECISION: f64 = 0.95;
/// Share of the dangerous goods that are missed that may pass without review where the risk is set. At most 1 % is wanted of
/// types of goods that nobody has seen; one type of many products can be as much by itself, so less than half is aimed at.
const MAY_PASS: f64 = 0.004;
/// Where the risk is set leniently: misses that may pass, as a share of all dangerous goods; 1 % is wanted of unseen types.
const MAY_PASS_LENIENTLY: f64 = 0.0025;
/// Points of a trade-off.
const TRADES: usize = 24;

/// What follows from held-back texts.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What a model carries.
    pub calibration: Calibration,
    /// From this confidence on, 95 % of the departments were right.
    pub department_confident_from: f32,
    /// Above this risk so much is held that the misses that pass are less than 1 % of all dangerous goods, rather than of the
    /// misses.
    pub lenient_risk: f32,
}

/// What holding back above one risk costs and gives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trade {
    /// Lines with a higher risk are held.
    pub risk: f32,
    /// Share of all lines held.
    pub held: f64,
    /// Share of the misses of dangerous goods that pass.
    pub passed_of_misses: f64,
    /// Misses that pass as a share of all dangerous goods.
    pub passed_of_dangerous: f64,
}

impl Policy {
    pub(crate) fn set(judged: &[Judged]) -> Self {
        let mut calibration = Calibration {
            handling_temperature: temperature(judged, |of| Some((of.handling, of.handling_scores(), DEPARTMENTS))),
            department_temperature: temperature(judged, |of| Some((of.department?, of.all_scores(), of.departments))),
            ..Calibration::default()
        };
        let sure = |of: &Judged| {
            let handled = judge::handled(&of.scores, &calibration);
            Some((handled.confidence, handled.class == of.handling, of.products))
        };
        calibration.confident_from = confident_from(judged.iter().filter_map(sure).collect());
        let sure = |of: &Judged| {
            let (class, confidence) = judge::department(&of.scores, of.departments, &calibration);
            Some((confidence, class == of.department?, of.products))
        };
        let department_confident_from = confident_from(judged.iter().filter_map(sure).collect());
        let risks = Risks::new(judged.iter().map(|of| (of, &calibration)));
        let lenient_risk = risks.least_held(MAY_PASS_LENIENTLY, risks.dangerous);
        calibration.review_above_risk = risks.least_held(MAY_PASS, risks.missed);
        Self { calibration, department_confident_from, lenient_risk }
    }

    /// The same, where the misses that pass may be 1 % of all dangerous goods.
    pub(crate) fn lenient(&self) -> Self {
        let calibration = Calibration { review_above_risk: self.lenient_risk, ..self.calibration };
        Self { calibration, ..self.clone() }
    }
}

/// What holding back more or less costs and gives, of parts that were each judged by a policy of their own.
pub(crate) fn trades(parts: &[(&[Judged], &Policy)]) -> Vec<Trade> {
    Risks::new(parts.iter().flat_map(|(judged, policy)| judged.iter().map(|of| (of, &policy.calibration)))).trades()
}

/// The lowest confidence at and above which the wanted precision was reached; more than 1 if none was.
fn confident_from(mut sure: Vec<(f32, bool, u64)>) -> f32 {
    sure.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut from, mut right, mut all) = (1.1, 0, 0);
    for group in sure.chunk_by(|a, b| a.0 == b.0) {
        all += group.iter().map(|(.., products)| products).sum::<u64>();
        right += group.iter().filter(|(_, right, _)| *right).map(|(.., products)| products).sum::<u64>();
        if share(right, all) >= PRECISION {
            from = group.first().map_or(from, |(confidence, ..)| *confidence);
        }
    }
    from
}

/// The divisor of scores that makes the right classes likeliest, found by narrowing down (golden section).
fn temperature<const N: usize>(judged: &[Judged], of: impl Fn(&Judged) -> Option<(usize, [f32; N], usize)>) -> f32 {
    let all: Vec<_> = judged.iter().filter_map(|judged| Some((of(judged)?, judged.products as f64))).collect();
    let unlikely = |temperature: f32| -> f64 {
        let one = |((right, scores, classes), products): &((usize, [f32; N], usize), f64)| {
            let likely = softmax(scores, *classes, temperature).get(*right).copied().unwrap_or_default();
            -f64::from(likely.max(1e-9)).ln() * products
        };
        all.iter().map(one).sum()
    };
    let golden = (5f32.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (0.2f32, 5.0f32);
    for _ in 0..24 {
        let (left, right) = (high - golden * (high - low), low + golden * (high - low));
        if unlikely(left) < unlikely(right) { high = right } else { low = left }
    }
    (low + high) / 2.0
}

/// Products by risk, highest first, with the misses among them.
struct Risks {
    all: Vec<(f32, u64, bool)>,
    lines: u64,
    missed: u64,
    dangerous: u64,
}

impl Risks {
    fn new<'a>(judged: impl Iterator<Item = (&'a Judged, &'a Calibration)>) -> Self {
        let mut risks = Self { all: Vec::new(), lines: 0, missed: 0, dangerous: 0 };
        for (of, calibration) in judged {
            let handled = judge::handled(&of.scores, calibration);
            let missed = of.is_missed(handled.class);
            risks.all.push((handled.risk, of.products, missed));
            risks.lines += of.products;
            risks.missed += if missed { of.products } else { 0 };
            risks.dangerous += if DANGEROUS.contains(&of.handling) { of.products } else { 0 };
        }
        risks.all.sort_by(|a, b| b.0.total_cmp(&a.0));
        risks
    }

    /// The highest risk above which so much is held that at most `may_pass` of `whole` pass.
    fn least_held(&self, may_pass: f64, whole: u64) -> f32 {
        let mut passing = self.missed;
        // Equal risks are held together or not at all.
        for equal in self.all.chunk_by(|a, b| a.0 == b.0) {
            if share(passing, whole) <= may_pass {
                return equal.first().map_or(0.0, |(risk, ..)| *risk);
            }
            passing -= equal.iter().filter(|(.., missed)| *missed).map(|(_, products, _)| products).sum::<u64>();
        }
        0.0
    }

    /// The trade-off, from nothing held to nearly all.
    fn trades(&self) -> Vec<Trade> {
        let (mut held, mut passing, mut trades) = (0, self.missed, Vec::with_capacity(TRADES));
        for (risk, products, missed) in &self.all {
            // Steps of a seventh upwards: the interesting part is where little is held.
            let next = 0.002 * (0.98 / 0.002f64).powf(trades.len() as f64 / (TRADES - 1) as f64);
            if share(held, self.lines) >= next {
                let (passed_of_misses, passed_of_dangerous) =
                    (share(passing, self.missed), share(passing, self.dangerous));
                trades.push(Trade {
                    risk: *risk,
                    held: share(held, self.lines),
                    passed_of_misses,
                    passed_of_dangerous,
                });
            }
            held += products;
            passing -= if *missed { *products } else { 0 };
        }
        trades
    }
}

impl Judged {
    fn handling_scores(&self) -> [f32; DEPARTMENTS] {
        self.scores.first_chunk().copied().unwrap_or([0.0; DEPARTMENTS])
    }

    fn all_scores(&self) -> [f32; LANES - DEPARTMENTS] {
        self.scores.last_chunk().copied().unwrap_or([0.0; LANES - DEPARTMENTS])
    }

    /// Whether goods that are dangerous were taken for plain ambient ones.
    pub(crate) fn is_missed(&self, class: usize) -> bool {
        use sluice_domain::{Group, Handling};
        DANGEROUS.contains(&self.handling)
            && Handling::ALL.get(class).is_some_and(|class| class.group() == Some(Group::Ambient))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(handling: usize, towards: usize, by: f32, products: u64) -> Judged {
        let mut scores = [0.0; LANES];
        scores[towards] = by;
        Judged { handling, department: None, departments: 0, products, scores }
    }

    #[test]
    fn overconfident_scores_are_softened() {
        // Sure to 99.9 %, and right nine times of ten.
        let all = [judged(0, 0, 9.0, 90), judged(1, 0, 9.0, 10)];
        let policy = Policy::set(&all);
        assert!(policy.calibration.handling_temperature > 1.5);
        let handled = judge::handled(&all[0].scores, &policy.calibration);
        assert!((handled.confidence - 0.9).abs() < 0.02, "{}", handled.confidence);
    }

    #[test]
    fn so_much_is_held_that_few_misses_pass() {
        let mut all: Vec<Judged> = (0..100).map(|n| judged(2, 2, 1.0 + n as f32 / 20.0, 10)).collect();
        all.extend((0..100).map(|n| judged(7, 2, 1.0 + n as f32 / 40.0, 1)));
        let policy = Policy::set(&all);
        let risks = Risks::new(all.iter().map(|of| (of, &policy.calibration)));
        let passes = |above: f32| {
            let pass = |of: &&Judged| of.handling == 7 && judge::handled(&of.scores, &policy.calibration).risk <= above;
            all.iter().filter(pass).count()
        };
        assert_eq!((risks.missed, risks.dangerous, risks.lines), (100, 100, 1_100));
        assert!(passes(policy.calibration.review_above_risk) <= 1 && passes(policy.lenient_risk) <= 1);
        let trades = risks.trades();
        assert!(trades.len() > 10 && trades.is_sorted_by(|a, b| a.held < b.held));
        assert!(trades.is_sorted_by(|a, b| a.passed_of_misses >= b.passed_of_misses));
    }

    #[test]
    fn equal_risks_are_held_together() {
        let all =
            vec![(0.5, 1, true), (0.2, 9, true), (0.2, 5, false), (0.2, 1, true), (0.1, 1, true), (0.1, 80, false)];
        let risks = Risks { all, lines: 97, missed: 12, dangerous: 20 };
        let passing = |above: f32| risks.all.iter().filter(|(risk, _, missed)| *missed && *risk <= above).count();
        assert_eq!((risks.least_held(0.6, 20), risks.least_held(0.5, 20), risks.least_held(0.04, 20)), (0.5, 0.1, 0.0));
        assert_eq!(passing(risks.least_held(0.5, 20)), 1);
    }

    #[test]
    fn confidence_is_set_where_precision_holds() {
        let sure = vec![(0.9, true, 95), (0.9, false, 5), (0.5, true, 5), (0.4, false, 90)];
        assert_eq!(confident_from(sure), 0.5);
        assert_eq!(confident_from(vec![(0.9, false, 1)]), 1.1);
    }
}
