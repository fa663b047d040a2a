//! What made-up merchants sell, and the orders made of it: real products of every handling class, some goods that only
//! their title tells, some that nobody knows.

use std::sync::Arc;

use sluice_classify::{Chain, Knowledge, Rules, RulesError};
use sluice_data::DataError;
use sluice_domain::{Fingerprint, Group, OrderId, SlotCount};
use sluice_pipeline::{Submission, Submitted};
use sluice_schemas::order::{Head, Line, ShipTo, put_head, put_line};

/// The SKU that makes the stage under test panic.
pub(super) const BRITTLE: &str = "brittle";
/// Products of one handling class on the shelf.
const OF_A_CLASS: usize = 3;
/// Goods that the catalogue lacks.
const UNKNOWN: [(&str, &str); 5] = [
    ("x-cone", "VANILLA ICE CREAM | 1 GA"),
    ("x-fee", "DELIVERY FEE"),
    ("x-wine", "RED WINE | 750 ML"),
    ("x-thing", "THINGUMMY"),
    ("x-kit", "CHEMISTRY KIT"),
];
/// Rules of which one has a person look.
const RULES: &str = r#"
version = 1
[default]
handling = "ambient_general"
weight_g = 350
[[rule]]
id = "kit"
any = ["CHEMISTRY KIT"]
handling = "hazmat_check"
weight_g = 900
review = true
[[rule]]
id = "fee"
any = ["DELIVERY FEE"]
handling = "non_goods"
weight_g = 1
[[rule]]
id = "wine"
any = ["WINE"]
handling = "age_restricted"
weight_g = 1300
[[rule]]
id = "ice"
any = ["ICE CREAM"]
handling = "frozen"
weight_g = 900
"#;

/// The data that is part of this build can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GoodsError {
    /// The catalogue.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The rule file.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// A shelf, and how its goods are classified.
#[derive(Debug)]
pub struct Goods {
    pub(super) knowledge: Arc<Knowledge>,
    shelf: Vec<(String, String)>,
}

impl Goods {
    /// A shelf from the catalogue and rules of this build.
    ///
    /// # Errors
    /// [`GoodsError`] if they are damaged.
    pub fn load() -> Result<Self, GoodsError> {
        let catalogue = Arc::new(sluice_data::catalogue()?);
        let mut shelf: Vec<(String, String)> = Vec::new();
        for class in 0..sluice_data::HANDLING.len() {
            let of_class: Vec<_> = catalogue.iter().filter(|p| usize::from(p.handling) == class).collect();
            let step = of_class.len().div_ceil(OF_A_CLASS).max(1);
            let picked = of_class.iter().step_by(step);
            shelf.extend(picked.map(|p| (p.sku.to_string(), p.title().to_owned())));
        }
        shelf.extend(UNKNOWN.map(|(sku, title)| (sku.to_owned(), title.to_owned())));
        let rules = Arc::new(Rules::parse(RULES)?);
        let chain = Chain::standard(catalogue, Arc::default(), rules);
        Ok(Self { knowledge: Arc::new(Knowledge::new(chain)), shelf })
    }

    /// How many kinds of goods there are.
    pub(super) fn kinds(&self) -> usize {
        self.shelf.len()
    }

    /// The group of a line, as the judge sees it.
    pub(super) fn group_of(&self, line: &Line<'_>) -> Option<Group> {
        self.knowledge.now().classify(line).handling.group()
    }
}

/// What is wrong with an order, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Nothing.
    None,
    /// A line without units.
    NoUnits,
    /// A record that ends before its last line.
    CutShort,
    /// Goods that make a stage panic.
    Brittle,
}

/// An order that a client wants to place, whatever it takes.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) merchant: u16,
    pub(super) key: u32,
    pub(super) placed_at_ms: u64,
    /// Kinds of goods, and units.
    pub(super) lines: Vec<(u16, u32)>,
    pub(super) flaw: Flaw,
    /// Raised to make another body under the same key.
    pub(super) revision: u8,
    /// How often it was sent.
    pub(super) tries: u8,
}

impl Wish {
    /// Appends the order to `submission`, as a checkout that takes it at `now_ms` would.
    pub(super) fn put(&self, goods: &Goods, slots: SlotCount, now_ms: u64, submission: &mut Submission) {
        let merchant = format!("m-{}", self.merchant);
        let fingerprint = Fingerprint::of(&merchant, &format!("key-{}", self.key));
        let id = OrderId::new(self.placed_at_ms, fingerprint, slots);
        let customer = format!("c-{}-{}", self.key, self.revision);
        let ship_to =
            ShipTo { name: "Ada Example", street: "1 Mill Lane", city: "Sim", postal_code: "1", country: "US" };
        let extra = usize::from(matches!(self.flaw, Flaw::CutShort | Flaw::Brittle));
        let start = submission.bytes.len();
        let head = Head {
            id: id.0,
            fingerprint_high: fingerprint.high(),
            accepted_at_ms: now_ms,
            merchant: &merchant,
            customer: &customer,
            currency: "USD",
            ship_to,
            lines: self.lines.len() + extra,
        };
        put_head(&mut submission.bytes, &head);
        for (i, &(kind, quantity)) in self.lines.iter().enumerate() {
            let (sku, title) = &goods.shelf[usize::from(kind)];
            let quantity = if i == 0 && self.flaw == Flaw::NoUnits { 0 } else { quantity };
            put_line(&mut submission.bytes, &Line { sku, title, quantity, unit_price: 100 });
        }
        if self.flaw == Flaw::Brittle {
            put_line(&mut submission.bytes, &Line { sku: BRITTLE, title: "", quantity: 1, unit_price: 1 });
        }
        let record = start..submission.bytes.len();
        submission.orders.push(Submitted { id, fingerprint, record });
    }
}
