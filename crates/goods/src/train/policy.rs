//! How sure a model has to be, set on what models said about texts that they had not seen.

use serde::{Deserialize, Serialize};
use sluice_domain::{Group, Handling};

use crate::{
    about::Calibration,
    evaluate::Judged,
    judge::{self, DANGEROUS, DEPARTMENTS, Handled, LANES, softmax},
    scores::share,
};

/// Wanted of what is decided without review at the confidence that is set for it.
const PRECISION: f64 = 0.95;
/// Share of the misses (dangerous goods that seem to be plain ambient ones) that may pass without review, in each part of what
/// was held back. At most 1 % is wanted of types of goods that nobody has seen; one type of many products can be as much by
/// itself, so half is aimed at.
const MAY_PASS: f64 = 0.005;
/// The same leniently: misses that may pass, as a share of all dangerous goods.
const MAY_PASS_LENIENTLY: f64 = 0.005;
/// Share of the goods that seem to be anything else and pass that may be dangerous in another way: handled with care, but not
/// with that which they need.
const MAY_DIFFER: f64 = 0.005;
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
    /// The policy that follows from several parts of what was held back, each of product types of its own.
    pub(crate) fn set(parts: &[Vec<Judged>]) -> Self {
        let all = || parts.iter().flatten();
        let mut calibration = Calibration {
            handling_temperature: temperature(all(), |of| Some((of.handling, of.handling_scores(), DEPARTMENTS))),
            department_temperature: temperature(all(), |of| Some((of.department?, of.all_scores(), of.departments))),
            ..Calibration::default()
        };
        let sure = |of: &Judged| {
            let handled = judge::handled(&of.scores, &calibration);
            Some((handled.confidence, handled.class == of.handling, of.products))
        };
        calibration.confident_from = confident_from(all().filter_map(sure).collect());
        let sure = |of: &Judged| {
            let (class, confidence) = judge::department(&of.scores, of.departments, &calibration);
            Some((confidence, class == of.department?, of.products))
        };
        let department_confident_from = confident_from(all().filter_map(sure).collect());
        // Of every part: the bound has to do for types that are none of all these.
        let risks: Vec<Risks> = parts.iter().map(|part| Risks::new(part.iter().map(|of| (of, &calibration)))).collect();
        let least = |bound: &dyn Fn(&Risks) -> f32| risks.iter().map(bound).fold(1.0, f32::min);
        let lenient_risk = least(&|risks| risks.least_held(MAY_PASS_LENIENTLY, risks.dangerous));
        let review_above_risk = least(&|risks| risks.least_held(MAY_PASS, risks.missed));
        let others = others(all().map(|of| (judge::handled(&of.scores, &calibration), of)));
        calibration.review_others_above_risk = safe_up_to(others).max(review_above_risk);
        calibration.review_above_risk = review_above_risk;
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

/// Risk, products and whether they are dangerous in another way, of what doesn't seem to be plain ambient goods.
fn others<'a>(of: impl Iterator<Item = (Handled, &'a Judged)>) -> Vec<(f32, u64, bool)> {
    let differs = |handled: &Handled, of: &Judged| handled.class != of.handling && DANGEROUS.contains(&of.handling);
    of.filter(|(handled, _)| !is_ambient(handled.class))
        .map(|(handled, of)| (handled.risk, of.products, differs(&handled, of)))
        .collect()
}

/// The highest risk up to which few enough are dangerous in another way than they seem to be.
fn safe_up_to(mut others: Vec<(f32, u64, bool)>) -> f32 {
    others.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut up_to, mut differ, mut all) = (0.0, 0, 0);
    for equal in others.chunk_by(|a, b| a.0 == b.0) {
        all += equal.iter().map(|(_, products, _)| products).sum::<u64>();
        differ += equal.iter().filter(|(.., differs)| *differs).map(|(_, products, _)| products).sum::<u64>();
        if share(differ, all) <= MAY_DIFFER {
            up_to = equal.first().map_or(up_to, |(risk, ..)| *risk);
        }
    }
    up_to
}

fn is_ambient(class: usize) -> bool {
    Handling::ALL.get(class).is_some_and(|class| class.group() == Some(Group::Ambient))
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
fn temperature<'a, const N: usize>(
    judged: impl Iterator<Item = &'a Judged>,
    of: impl Fn(&Judged) -> Option<(usize, [f32; N], usize)>,
) -> f32 {
    let all: Vec<_> = judged.filter_map(|judged| Some((of(judged)?, judged.products as f64))).collect();
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

    /// The trade-off, from nothing held to nearly all, with one bound for all lines.
    fn trades(&self) -> Vec<Trade> {
        let (mut held, mut passing, mut trades) = (0, self.missed, Vec::with_capacity(TRADES));
        for (risk, products, missed) in &self.all {
            // Growing steps: the interesting part is where little is held.
            let next = 0.01 * (0.98 / 0.01f64).powf(trades.len() as f64 / (TRADES - 1) as f64);
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
        DANGEROUS.contains(&self.handling) && is_ambient(class)
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
        let all = vec![judged(0, 0, 9.0, 90), judged(1, 0, 9.0, 10)];
        let policy = Policy::set(std::slice::from_ref(&all));
        assert!(policy.calibration.handling_temperature > 1.5);
        let handled = judge::handled(&all[0].scores, &policy.calibration);
        assert!((handled.confidence - 0.9).abs() < 0.02, "{}", handled.confidence);
    }

    #[test]
    fn so_much_is_held_that_few_misses_pass() {
        let mut all: Vec<Judged> = (0..100).map(|n| judged(2, 2, 1.0 + n as f32 / 20.0, 10)).collect();
        all.extend((0..100).map(|n| judged(7, 2, 1.0 + n as f32 / 40.0, 1)));
        let policy = Policy::set(std::slice::from_ref(&all));
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
    fn the_bound_does_for_every_part() {
        // Goods that seem to be ambient: harmless ones of every risk, and frozen ones that are so much surer.
        let part = |by: f32, products| -> Vec<Judged> {
            let mut part: Vec<Judged> = (0..100).map(|n| judged(2, 2, 1.0 + n as f32 / 10.0, 10)).collect();
            part.push(judged(5, 2, by, products));
            part
        };
        let bound = |parts: &[Vec<Judged>]| Policy::set(parts).calibration;
        // Of all misses together those of the second part are too few to count.
        let (both, surer) = (bound(&[part(3.05, 10_000), part(7.05, 10)]), part(7.05, 10));
        let risk = judge::handled(&surer[100].scores, &both).risk;
        assert!(both.review_above_risk < risk, "{} {risk}", both.review_above_risk);
        assert!(both.held_above(Handling::Chilled) >= both.held_above(Handling::AmbientFood));
    }

    #[test]
    fn what_seems_to_be_no_ambient_goods_may_differ_a_little() {
        let others = |dangerous| vec![(0.3, 1, true), (0.1, 199, false), (0.2, dangerous, true), (0.4, 9, false)];
        assert_eq!((safe_up_to(others(1)), safe_up_to(others(2)), safe_up_to(Vec::new())), (0.2, 0.1, 0.0));
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
