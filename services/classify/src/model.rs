//! The learned model as a classifier, for titles that nothing else knows. What might do harm if it were wrong is held.

use std::sync::Arc;

use sluice_domain::Handling;
use sluice_goods::Model;
use sluice_schemas::order::Line;

use crate::classifier::{Classified, Classifier, Source};

/// Judges titles. A line is held if the model says that a person should look, or that it is no goods: what is taken for none
/// is never sent.
pub struct ByModel {
    model: Arc<Model>,
    usual_g: [u32; Handling::ALL.len()],
    holds: bool,
}

impl ByModel {
    /// A classifier over `model`. `usual_g` are grams of one unit by handling class, for titles that say no size. Without `holds`
    /// nothing waits for a person: the likeliest class stands, and what seems to be no goods is left to the chain's fallback.
    #[must_use]
    pub fn new(model: Arc<Model>, usual_g: [u32; Handling::ALL.len()], holds: bool) -> Self {
        Self { model, usual_g, holds }
    }
}

impl Classifier for ByModel {
    /// The model's, and whether it has lines held.
    fn version(&self) -> u32 {
        if self.holds { self.model.version() } else { !self.model.version() }
    }

    fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>> {
        let said = self.model.judge(line.title, None);
        let ships = said.handling != Handling::NonGoods;
        (self.holds || ships).then(|| Classified {
            handling: said.handling,
            department: self.model.about().departments.get(usize::from(said.department)).map(String::as_str),
            unit_weight_g: self.usual_g[said.handling as usize],
            estimated: true,
            source: Source::Model,
            confidence: (said.confidence * 100.0).round() as u8,
            hold: self.holds && (said.review || !ships),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(holds: bool, title: &str) -> Option<(Handling, bool, u8)> {
        let model = ByModel::new(Arc::new(Model::embedded().unwrap()), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], holds);
        let known = model.classify(&Line { sku: "x", title, quantity: 1, unit_price: 1 })?;
        assert_eq!((known.source, known.estimated), (Source::Model, true));
        assert_eq!(known.unit_weight_g, known.handling as u32 + 1);
        assert!(known.department.is_some());
        Some((known.handling, known.hold, known.confidence))
    }

    #[test]
    fn what_is_sure_goes_on_and_what_may_do_harm_waits() {
        let (handling, hold, confidence) = classified(true, "Yogurt | 6 OZ").unwrap();
        assert!(handling == Handling::Chilled && !hold && (51..=100).contains(&confidence), "{confidence}");
        let (.., hold, unsure) = classified(true, "Qwxzjv").unwrap();
        assert!(hold && unsure < confidence, "{unsure}");
        assert!(!classified(false, "Qwxzjv").unwrap().1);
        let coupon = "MISC SALES TRANS COUPONS";
        assert!(classified(true, coupon).is_some_and(|(handling, hold, _)| handling == Handling::NonGoods && hold));
        assert_eq!(classified(false, coupon), None);
    }

    #[test]
    fn holding_or_not_is_another_version() {
        let model = Arc::new(Model::embedded().unwrap());
        let version = |holds| ByModel::new(Arc::clone(&model), [1; 10], holds).version();
        assert_eq!(version(true), model.version());
        assert_ne!(version(true), version(false));
    }
}
