//! The catalogue as a classifier: an SKU that is a product number of the marketplace says everything by itself.

use std::sync::Arc;

use sluice_data::Catalogue;
use sluice_domain::Handling;
use sluice_schemas::order::Line;

use crate::classifier::{Classified, Classifier, Source};

/// Looks a line's SKU up in the catalogue. Titles aren't compared: the SKU is the merchant's word on what it sells.
#[derive(Debug, Clone)]
pub struct ByCatalogue(Arc<Catalogue>);

impl ByCatalogue {
    /// A classifier over `catalogue`, which stages of many threads can share.
    #[must_use]
    pub fn new(catalogue: Arc<Catalogue>) -> Self {
        Self(catalogue)
    }
}

/// Grams of one unit of each class, for want of anything better: the lower median of its products.
#[must_use]
pub fn usual_weights(catalogue: &Catalogue) -> [u32; Handling::ALL.len()] {
    let mut weights: [Vec<u32>; Handling::ALL.len()] = Default::default();
    for product in catalogue.iter() {
        if let Some(weights) = weights.get_mut(usize::from(product.handling)) {
            weights.push(product.weight_g);
        }
    }
    weights.map(|mut weights| {
        let middle = weights.len().saturating_sub(1) / 2;
        if weights.is_empty() { 0 } else { *weights.select_nth_unstable(middle).1 }
    })
}

impl Classifier for ByCatalogue {
    fn version(&self) -> u32 {
        self.0.version
    }

    #[inline]
    fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>> {
        let product = self.0.get(product_number(line.sku)?)?;
        Some(Classified {
            handling: *Handling::ALL.get(usize::from(product.handling))?,
            department: Some(product.department()),
            unit_weight_g: product.weight_g,
            estimated: product.estimated,
            source: Source::Catalogue,
            confidence: 100,
            hold: false,
        })
    }
}

/// The number an SKU spells in plain decimal. `007` and `+7` are other SKUs than `7`: merchants choose their own texts.
#[inline]
fn product_number(sku: &str) -> Option<u32> {
    let digits = sku.as_bytes();
    if digits.is_empty() || digits.len() > 10 || digits[0] == b'0' {
        return None;
    }
    let mut number = 0u64;
    for &digit in digits {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return None;
        }
        number = number * 10 + u64::from(value);
    }
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_decimals_are_product_numbers() {
        assert_eq!(product_number("1029743"), Some(1_029_743));
        assert_eq!(product_number("4294967295"), Some(u32::MAX));
        for other in ["", "0", "007", "+7", "-7", " 7", "7 ", "ABC-1", "4294967296", "99999999999", "7a", "٧"] {
            assert_eq!(product_number(other), None, "{other:?}");
        }
    }

    #[test]
    fn classes_are_the_domains_by_the_same_codes() {
        let names: Vec<_> = Handling::ALL.into_iter().map(Handling::name).collect();
        assert_eq!(names, sluice_data::HANDLING);
    }

    #[test]
    fn every_class_has_a_usual_weight() {
        let usual = usual_weights(&sluice_data::catalogue().unwrap());
        assert!(usual.iter().all(|grams| (1..5_000).contains(grams)), "{usual:?}");
        assert!(usual[Handling::LivePlant as usize] > usual[Handling::OtcHealth as usize], "{usual:?}");
    }

    #[test]
    fn a_gallon_of_milk_is_chilled() {
        let catalogue = ByCatalogue::new(Arc::new(sluice_data::catalogue().unwrap()));
        let line = Line { sku: "1029743", title: "anything", quantity: 1, unit_price: 1 };
        let milk = catalogue.classify(&line).unwrap();
        assert_eq!((milk.handling, milk.unit_weight_g, milk.estimated), (Handling::Chilled, 3785, false));
        assert_eq!((milk.department, milk.source), (Some("GROCERY"), Source::Catalogue));
        assert_eq!(catalogue.classify(&Line { sku: "ABC-1", ..line }), None);
        assert_eq!(catalogue.classify(&Line { sku: "1", ..line }), None);
    }
}
