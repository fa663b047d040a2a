//! The learned model as a classifier, for titles that nothing else knows. What might do harm if it were wrong is held.

use std::sync::Arc;

use sluice_domain::Handling;
use sluice_goods::Model;
use sluice_schemas::order::Line;

use crate::classifier::{Classified, Classifier, Source};

/// Which lines wait for a person because of what the model says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Review {
    /// None: the likeliest class stands, and what seems to be no goods is left to the chain's fallback.
    Never,
    /// Those that are riskier than the bounds which the model was given when it was trained.
    AsTrained,
    /// Those that are dangerous in another way than they seem with a higher probability than this, 0 to 1.
    AboveRisk(f32),
}

/// Judges titles. What is taken for no goods is never sent: it is held if anything is.
pub struct ByModel {
    model: Arc<Model>,
    usual_g: [u32; Handling::ALL.len()],
    review: Review,
}

impl ByModel {
    /// A classifier over `model`. `usual_g` are grams of one unit by handling class, for titles that say no size.
    #[must_use]
    pub fn new(model: Arc<Model>, usual_g: [u32; Handling::ALL.len()], review: Review) -> Self {
        Self { model, usual_g, review }
    }
}

impl Classifier for ByModel {
    /// The model's, and another for every other way to have lines held.
    fn version(&self) -> u32 {
        match self.review {
            Review::AsTrained => self.model.version(),
            Review::Never => !self.model.version(),
            // An odd factor gives every risk a number of its own, and the sign bit none the number 0.
            Review::AboveRisk(risk) => self.model.version() ^ (risk.to_bits() | 1 << 31).wrapping_mul(0x9e37_79b1),
        }
    }

    fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>> {
        let said = self.model.judge(line.title, None);
        let ships = said.handling != Handling::NonGoods;
        let risky = match self.review {
            Review::Never => false,
            Review::AsTrained => said.review,
            Review::AboveRisk(risk) => said.risk > risk,
        };
        let holds = self.review != Review::Never;
        (holds || ships).then(|| Classified {
            handling: said.handling,
            department: self.model.about().departments.get(usize::from(said.department)).map(String::as_str),
            unit_weight_g: self.usual_g[said.handling as usize],
            estimated: true,
            source: Source::Model,
            confidence: (said.confidence * 100.0).round() as u8,
            hold: holds && (risky || !ships),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(review: Review, title: &str) -> Option<(Handling, bool, u8)> {
        let model = ByModel::new(Arc::new(Model::embedded().unwrap()), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], review);
        let known = model.classify(&Line { sku: "x", title, quantity: 1, unit_price: 1 })?;
        assert_eq!((known.source, known.estimated), (Source::Model, true));
        assert_eq!(known.unit_weight_g, known.handling as u32 + 1);
        assert!(known.department.is_some());
        Some((known.handling, known.hold, known.confidence))
    }

    #[test]
    fn what_is_sure_goes_on_and_what_may_do_harm_waits() {
        let (handling, hold, confidence) = classified(Review::AsTrained, "Yogurt | 6 OZ").unwrap();
        assert!(handling == Handling::Chilled && !hold && (51..=100).contains(&confidence), "{confidence}");
        let (.., hold, unsure) = classified(Review::AsTrained, "Qwxzjv").unwrap();
        assert!(hold && unsure < confidence, "{unsure}");
        assert!(!classified(Review::Never, "Qwxzjv").unwrap().1);
        let coupon = "MISC SALES TRANS COUPONS";
        assert!(
            classified(Review::AsTrained, coupon)
                .is_some_and(|(handling, hold, _)| handling == Handling::NonGoods && hold)
        );
        assert_eq!(classified(Review::Never, coupon), None);
    }

    #[test]
    fn the_risk_that_is_run_is_the_operators_choice() {
        let held = |risk, title| classified(Review::AboveRisk(risk), title).unwrap().1;
        assert!(held(0.0, "Yogurt | 6 OZ") && !held(1.0, "Qwxzjv") && held(1.0, "MISC SALES TRANS COUPONS"));
    }

    #[test]
    fn another_way_to_hold_lines_is_another_version() {
        let model = Arc::new(Model::embedded().unwrap());
        let version = |review| ByModel::new(Arc::clone(&model), [1; 10], review).version();
        assert_eq!(version(Review::AsTrained), model.version());
        let all =
            [Review::Never, Review::AsTrained, Review::AboveRisk(0.0), Review::AboveRisk(0.1), Review::AboveRisk(1.0)];
        let versions: std::collections::HashSet<u32> = all.into_iter().map(version).collect();
        assert_eq!(versions.len(), all.len());
    }
}
