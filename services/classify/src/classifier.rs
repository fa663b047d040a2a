//! The port of classification. A chain asks its links in order and takes the first answer, so a source that knows
//! (the catalogue) is never overruled by one that guesses (words, a model).

use std::sync::Arc;

use sluice_data::Catalogue;
use sluice_domain::Handling;
use sluice_goods::{size, text};
use sluice_schemas::order::Line;

use crate::{catalogue::ByCatalogue, learned::Learned, rules::Rules};

/// Who said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source<'a> {
    /// The catalogue knows the SKU.
    Catalogue,
    /// A reviewer has decided a line of the same text, for good.
    Reviewed,
    /// The rule with this id matched the title.
    Rule(&'a str),
    /// The model judged the title.
    Model,
    /// Nobody knew; see [`Fallback`].
    Default,
}

impl Source<'_> {
    /// The name used in every public format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Catalogue => "catalogue",
            Self::Reviewed => "reviewed",
            Self::Rule(_) => "rule",
            Self::Model => "model",
            Self::Default => "default",
        }
    }
}

/// What is known of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classified<'a> {
    /// What the goods need.
    pub handling: Handling,
    /// The department, where the source knows it.
    pub department: Option<&'a str>,
    /// Grams of one unit; 0 counts as 1.
    pub unit_weight_g: u32,
    /// The weight is a guess: a median of others, a rule's, or the fallback.
    pub estimated: bool,
    /// Who said so.
    pub source: Source<'a>,
    /// How likely the class is, percent; 0 where nobody says.
    pub confidence: u8,
    /// A wrong guess might do harm: a person must say what it is before it ships.
    pub hold: bool,
}

/// Something that may know what a line is. Answers depend on the line and [`Classifier::version`] alone.
pub trait Classifier: Send + Sync {
    /// Changes whenever an answer may change.
    fn version(&self) -> u32;

    /// What the line is, or `None` to let the next one of the chain answer.
    fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>>;
}

impl<C: Classifier + ?Sized> Classifier for Arc<C> {
    fn version(&self) -> u32 {
        (**self).version()
    }

    #[inline]
    fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>> {
        (**self).classify(line)
    }
}

/// What a line is taken for when nobody knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fallback {
    /// What the goods need.
    pub handling: Handling,
    /// Grams of one unit.
    pub unit_weight_g: u32,
}

/// Classifiers in order of trust. The first that answers wins.
pub struct Chain {
    links: Vec<Box<dyn Classifier>>,
    /// Asked behind them all.
    model: Option<Box<dyn Classifier>>,
    fallback: Fallback,
    version: u32,
    model_version: u32,
}

impl Chain {
    /// Bits of [`Chain::version`]: three bytes in every stored order, and two given versions are mistaken for one
    /// another with odds of 1 in two million.
    pub const VERSION_BITS: u32 = 21;

    /// A chain of `links`, most trusted first.
    #[must_use]
    pub fn new(links: Vec<Box<dyn Classifier>>, fallback: Fallback) -> Self {
        let mut hash = Fnv::default();
        for link in &links {
            hash.write(&link.version().to_le_bytes());
        }
        hash.write(&[fallback.handling as u8]);
        hash.write(&fallback.unit_weight_g.to_le_bytes());
        hash.write(&size::VERSION.to_le_bytes());
        hash.write(&text::VERSION.to_le_bytes());
        let version = (hash.finish() >> (u64::BITS - Self::VERSION_BITS)) as u32;
        Self { links, model: None, fallback, version, model_version: 0 }
    }

    /// This chain with a model that is asked when no link answers. Its version is named beside the chain's.
    #[must_use]
    pub fn with_model(mut self, model: Box<dyn Classifier>) -> Self {
        // 0 stands for no model.
        let mut hash = Fnv::default();
        hash.write(&model.version().to_le_bytes());
        hash.write(&text::VERSION.to_le_bytes());
        self.model_version = ((hash.finish() >> (u64::BITS - Self::VERSION_BITS)) as u32).max(1);
        self.model = Some(model);
        self
    }

    /// The catalogue, then what reviewers have decided for good, then the rules, then the rules' default.
    #[must_use]
    pub fn standard(catalogue: Arc<Catalogue>, learned: Arc<Learned>, rules: Arc<Rules>) -> Self {
        let fallback = rules.fallback();
        let links: Vec<Box<dyn Classifier>> =
            vec![Box::new(ByCatalogue::new(catalogue)), Box::new(learned), Box::new(rules)];
        Self::new(links, fallback)
    }

    /// Names this chain in decisions: a hash over the versions of its links in order, the fallback and how sizes and texts are read, in
    /// [`Chain::VERSION_BITS`] bits. It says whether two decisions were made by the same knowledge; it has no order.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Names the model in decisions, in [`Chain::VERSION_BITS`] bits; 0 if there is none.
    #[must_use]
    pub fn model_version(&self) -> u32 {
        self.model_version
    }

    /// What the line is. Of what the catalogue doesn't know, the size in the title says the weight if it has one.
    #[must_use]
    #[inline]
    pub fn classify(&self, line: &Line<'_>) -> Classified<'_> {
        let known = self.links.iter().chain(&self.model).find_map(|link| link.classify(line)).unwrap_or(Classified {
            handling: self.fallback.handling,
            department: None,
            unit_weight_g: self.fallback.unit_weight_g,
            estimated: true,
            source: Source::Default,
            confidence: 0,
            hold: false,
        });
        if known.estimated && known.source != Source::Catalogue { sized(known, line.title) } else { known }
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("links", &self.links.len())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// `known`, with the weight that the title says instead of a guess. Goods of these classes may be sold by what fits into them.
fn sized<'a>(known: Classified<'a>, title: &str) -> Classified<'a> {
    let holds_goods = !matches!(known.handling, Handling::AmbientGeneral | Handling::LivePlant | Handling::NonGoods);
    match size::in_title(title).and_then(|size| size.weight(holds_goods)) {
        Some(unit_weight_g) => Classified { unit_weight_g, estimated: false, ..known },
        None => known,
    }
}

/// FNV-1a with a final mix: versions must be the same on every machine and in every build, which the hasher of the
/// standard library doesn't promise.
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    pub(crate) fn finish(self) -> u64 {
        let x = (self.0 ^ self.0 >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x ^ x >> 33
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Knows(u32, &'static str);

    impl Classifier for Knows {
        fn version(&self) -> u32 {
            self.0
        }

        fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>> {
            (line.sku == self.1).then_some(Classified {
                handling: Handling::Frozen,
                department: Some("test"),
                unit_weight_g: self.0,
                estimated: false,
                source: Source::Catalogue,
                confidence: 100,
                hold: false,
            })
        }
    }

    const FALLBACK: Fallback = Fallback { handling: Handling::AmbientGeneral, unit_weight_g: 500 };

    fn chain(links: &[(u32, &'static str)]) -> Chain {
        let link = |&(version, sku): &(u32, &'static str)| Box::new(Knows(version, sku)) as Box<dyn Classifier>;
        Chain::new(links.iter().map(link).collect(), FALLBACK)
    }

    #[test]
    fn the_first_that_answers_wins() {
        let chain = chain(&[(1, "a"), (2, "b"), (3, "a")]);
        let weight = |sku| chain.classify(&Line { sku, title: "", quantity: 1, unit_price: 1 }).unit_weight_g;
        assert_eq!((weight("a"), weight("b"), weight("c")), (1, 2, 500));
        let unknown = chain.classify(&Line { sku: "c", title: "", quantity: 1, unit_price: 1 });
        assert_eq!((unknown.handling, unknown.source), (Handling::AmbientGeneral, Source::Default));
    }

    #[test]
    fn the_model_is_asked_last_and_has_a_version_of_its_own() {
        let plain = chain(&[(1, "a"), (2, "b")]);
        let model = chain(&[(1, "a"), (2, "b")]).with_model(Box::new(Knows(u32::MAX, "c")));
        let weight = |sku| model.classify(&Line { sku, title: "", quantity: 1, unit_price: 1 }).unit_weight_g;
        assert_eq!((weight("b"), weight("c"), weight("d")), (2, u32::MAX, 500));
        assert_eq!((model.version(), plain.model_version()), (plain.version(), 0));
        assert!((1..1 << Chain::VERSION_BITS).contains(&model.model_version()), "none is 0");
        assert_ne!(plain.with_model(Box::new(Knows(1, "c"))).model_version(), model.model_version());
    }

    #[test]
    fn the_size_in_a_title_beats_a_guess_but_no_catalogue() {
        struct Guesses(Handling, Source<'static>, bool);
        impl Classifier for Guesses {
            fn version(&self) -> u32 {
                1
            }

            fn classify(&self, _: &Line<'_>) -> Option<Classified<'_>> {
                let Self(handling, source, estimated) = *self;
                Some(Classified {
                    handling,
                    department: None,
                    unit_weight_g: 700,
                    estimated,
                    source,
                    confidence: 0,
                    hold: false,
                })
            }
        }
        let weighed = |handling, source, estimated, title| {
            let chain = Chain::new(vec![Box::new(Guesses(handling, source, estimated))], FALLBACK);
            let known = chain.classify(&Line { sku: "a", title, quantity: 1, unit_price: 1 });
            assert_eq!((known.handling, known.source), (handling, source));
            (known.unit_weight_g, known.estimated)
        };
        let (rule, chilled, general) = (Source::Rule("r"), Handling::Chilled, Handling::AmbientGeneral);
        assert_eq!(weighed(chilled, rule, true, "Milk | 1 GA"), (3_785, false));
        assert_eq!(weighed(chilled, rule, true, "Yogurt 6 x 125g"), (750, false));
        assert_eq!(weighed(chilled, rule, true, "Yogurt | 6 CT"), (700, true));
        assert_eq!(weighed(chilled, rule, true, "Milk for a regiment 40 kg"), (700, true));
        assert_eq!(weighed(general, rule, true, "Trash bags | 33 GAL"), (700, true));
        assert_eq!(weighed(general, rule, true, "Soap | 8 OZ"), (227, false));
        assert_eq!(weighed(chilled, Source::Catalogue, true, "Milk | 1 GA"), (700, true));
        assert_eq!(weighed(chilled, rule, false, "Milk | 1 GA"), (700, false));
        let chain = chain(&[]);
        let unknown = chain.classify(&Line { sku: "a", title: "Thing 2 kg", quantity: 1, unit_price: 1 });
        assert_eq!((unknown.unit_weight_g, unknown.estimated, unknown.source), (2_000, false, Source::Default));
    }

    #[test]
    fn the_version_depends_on_every_link_and_its_place() {
        let version = |links: &[(u32, &'static str)]| chain(links).version();
        let all = [
            version(&[]),
            version(&[(1, "")]),
            version(&[(1, ""), (2, "")]),
            version(&[(2, ""), (1, "")]),
            Chain::new(Vec::new(), Fallback { unit_weight_g: 501, ..FALLBACK }).version(),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "{all:?}");
            assert!(*a < 1 << Chain::VERSION_BITS);
        }
        assert_eq!(version(&[(7, "x")]), version(&[(7, "y")]));
    }
}
