//! The size that a package states: `16 OZ`, `12 PK/12 OZ`, `2 x 750ml`, `1/2 GAL`, `24 CT`.
//!
//! Merchants write sizes for people, so there is no grammar to conform to. This reads the forms that the catalogue's sizes
//! and metric titles are written in, most specific first, and gives up on the rest: no size is better than a wrong one, since
//! whoever asks has a guess of its own. Reading allocates nothing and looks at the first [`SEEN`] bytes of a text, and the first
//! 64 words, numbers and signs in them.
//!
//! ```text
//! size    = packs measure | measure packs | measure | amount counted
//! packs   = n ("PK" | "PACK" | "P" | "/" | "-" | "x") …, or behind the measure: ["/" | "-"] n "PK" | "x" n | "PACK OF" n
//! measure = amount ["-"] unit | "HALF" unit | amount "LB" amount "OZ"
//! amount  = decimal | n "/" d | n ["-"] n "/" d
//! ```

use crate::token::{SCALE, Token, Tokens, Word};

/// Changes whenever a text is read otherwise than before.
pub const VERSION: u32 = 1;
/// Bytes of a text that are looked at.
pub const SEEN: usize = 200;
/// The heaviest weight that is believed of one sales unit, in grams.
pub const MAX_GRAMS: u32 = 25_000;
/// More packs than this are an item's number, unless they are multiplied out.
const MAX_PACKS: u32 = 48;
/// What is heavier isn't sold by the pack: the weight beside the count is that of all packs.
const MAX_PACK_MG: u64 = 2_000_000;
/// Gallons above this name what fits in, whatever the goods.
const LARGEST_DRINK_MG: u64 = 3 * 3_785_410;
/// Litres above these name what fits in, unless the goods are food or drink: mouthwash comes in bottles of a litre and a half.
const LARGEST_BOTTLE_MG: u64 = 2_000_000;
/// Titles speak of `5G` telephones more often than of less than so many grams.
const LEAST_GRAMS_IN_TITLE: u32 = 10 * SCALE;

/// What a size is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// `G`.
    Gram,
    /// `KG`.
    Kilogram,
    /// `OZ`, avoirdupois.
    Ounce,
    /// `LB`.
    Pound,
    /// `ML`.
    Millilitre,
    /// `CL`.
    Centilitre,
    /// `L`.
    Litre,
    /// `FL OZ` of the US, as all that follow.
    FluidOunce,
    /// `PT`.
    Pint,
    /// `QT`.
    Quart,
    /// `GAL`.
    Gallon,
    /// Pieces.
    Piece,
}

/// What a unit says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// How heavy it is.
    Weight,
    /// How much of a liquid it is, or what fits in.
    Volume,
    /// How many there are.
    Count,
}

impl Unit {
    /// What it measures.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Gram | Self::Kilogram | Self::Ounce | Self::Pound => Kind::Weight,
            Self::Piece => Kind::Count,
            _ => Kind::Volume,
        }
    }

    /// Micrograms of one unit, of water where it is a volume; 0 for pieces. The factors are those of NIST Handbook 44,
    /// appendix C, to six digits, as `data/convert.py` has them.
    fn micrograms(self) -> u64 {
        match self {
            Self::Gram | Self::Millilitre => 1_000_000,
            Self::Kilogram | Self::Litre => 1_000_000_000,
            Self::Centilitre => 10_000_000,
            Self::Ounce => 28_349_500,
            Self::Pound => 453_592_000,
            Self::FluidOunce => 29_573_500,
            Self::Pint => 473_176_000,
            Self::Quart => 946_353_000,
            Self::Gallon => 3_785_410_000,
            Self::Piece => 0,
        }
    }
}

/// The size of one sales unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Packs, at least 1.
    pub count: u32,
    /// Of one pack, in ten-thousandths of the unit, at least 1.
    pub quantity: u32,
    /// What it is measured in.
    pub unit: Unit,
}

impl Size {
    /// Milligrams of the sales unit, a volume as water; `None` for pieces. Linear in the count.
    #[must_use]
    pub fn milligrams(self) -> Option<u64> {
        let one = u64::from(self.quantity) * self.unit.micrograms() / (1_000 * u64::from(SCALE));
        (self.unit != Unit::Piece).then(|| one.saturating_mul(u64::from(self.count)))
    }

    /// Grams of the sales unit, a volume as water, to the nearest; `None` for pieces.
    #[must_use]
    pub fn grams(self) -> Option<u32> {
        self.milligrams().map(|mg| u32::try_from(mg.saturating_add(500) / 1_000).unwrap_or(u32::MAX))
    }

    /// Grams of the sales unit, from 1 to [`MAX_GRAMS`], if the size says what it weighs and not what fits in: food and
    /// drink are what is in their package (`holds_goods`), a 33-gallon bag or an 8-quart pot is sold empty.
    #[must_use]
    pub fn weight(self, holds_goods: bool) -> Option<u32> {
        let most_mg = match self.unit {
            Unit::Gallon | Unit::Quart | Unit::Pint => {
                if holds_goods {
                    LARGEST_DRINK_MG
                } else {
                    0
                }
            }
            Unit::Litre if !holds_goods => LARGEST_BOTTLE_MG,
            _ => u64::MAX,
        };
        let grams = self.grams().filter(|_| self.milligrams() <= Some(most_mg));
        grams.filter(|grams| (1..=MAX_GRAMS).contains(grams))
    }

    /// The size of `packs` of this, or this alone if that can't be: some texts give the whole pack's weight beside its
    /// count, and some counts are items' numbers. A product that is written as such is believed.
    fn times(self, packs: u32, written_out: bool) -> Self {
        let whole = Self { count: packs, ..self };
        let one = self.milligrams().unwrap_or(u64::MAX);
        let all = whole.milligrams().unwrap_or(u64::MAX);
        let likely = packs <= MAX_PACKS && one <= MAX_PACK_MG && all <= u64::from(MAX_GRAMS) * 1_000;
        if packs > 0 && (likely || written_out) { whole } else { self }
    }
}

/// The size that `text` states and that is all it states, such as a package size.
///
/// The first weight or volume wins, else the first count.
#[must_use]
pub fn parse(text: &str) -> Option<Size> {
    let tokens = Tokens::of(text.as_bytes());
    field(&Reader { tokens: tokens.as_slice(), free: false })
}

/// The size that a title states, among whatever else it says: what stands behind its last `|`, or else its last weight or
/// volume, or else its last count.
///
/// It is read more strictly than a size alone, so that numbers of other kinds make no size.
#[must_use]
pub fn in_title(title: &str) -> Option<Size> {
    let seen = &title.as_bytes()[..title.len().min(SEEN)];
    let own = seen.iter().rposition(|&byte| byte == b'|').map(|bar| Tokens::of(&seen[bar + 1..]));
    let own = own.and_then(|tokens| field(&Reader { tokens: tokens.as_slice(), free: false }));
    if own.is_some_and(|size| size.unit != Unit::Piece) {
        return own;
    }
    let tokens = Tokens::of(seen);
    let reader = Reader { tokens: tokens.as_slice(), free: true };
    reader.last_measure().or(own).or_else(|| reader.starts().rev().find_map(|at| reader.counted(at)))
}

fn field(reader: &Reader<'_>) -> Option<Size> {
    // A unit alone is one of it.
    if let [Token::Word(Word::Unit(unit))] = reader.tokens {
        return Some(Size { count: 1, quantity: SCALE, unit: *unit });
    }
    for at in reader.starts() {
        if reader.range(at).is_some() {
            return None;
        }
        if let Some((size, _)) = reader.measured(at) {
            return Some(size);
        }
    }
    reader.starts().find_map(|at| reader.counted(at))
}

/// A text in tokens.
struct Reader<'a> {
    tokens: &'a [Token],
    /// It says other things besides.
    free: bool,
}

impl Reader<'_> {
    fn starts(&self) -> std::ops::Range<usize> {
        0..self.tokens.len()
    }

    fn at(&self, at: usize) -> Token {
        self.tokens.get(at).copied().unwrap_or(Token::Other)
    }

    fn word(&self, at: usize) -> Option<Word> {
        if let Token::Word(word) = self.at(at) { Some(word) } else { None }
    }

    /// A whole number.
    fn whole(&self, at: usize) -> Option<u32> {
        match self.at(at) {
            Token::Number { value, whole: true } => Some(value / SCALE),
            _ => None,
        }
    }

    /// The last weight or volume of a title.
    fn last_measure(&self) -> Option<Size> {
        let (mut found, mut at) = (None, 0);
        while at < self.tokens.len() {
            match (self.range(at), self.measured(at)) {
                (Some(next), _) => at = next,
                (None, Some((size, next))) => (found, at) = (Some(size), next),
                (None, None) => at += 1,
            }
        }
        let size: Size = found?;
        let of = |at: &usize| self.word(*at) == Some(Word::Pack) && self.word(at + 1) == Some(Word::Of);
        match self.starts().find(of).and_then(|at| self.whole(at + 2)) {
            Some(packs) if size.count == 1 => Some(size.times(packs, false)),
            _ => Some(size),
        }
    }

    /// Where `3-4 LB` ends, and likewise what is sold loose in metric units: neither end is a size.
    fn range(&self, at: usize) -> Option<usize> {
        // `1-3/4 LB` is a mixed number.
        let (_, next) = self.amount(at).filter(|(_, next)| *next == at + 1)?;
        let (_, next) = self.amount(next + 1).filter(|_| self.at(next) == Token::Dash)?;
        let (unit, next) = self.unit(next)?;
        matches!(unit, Unit::Pound | Unit::Gram | Unit::Kilogram).then_some(next)
    }

    /// A weight or volume with its packs that starts here, and where it ends.
    fn measured(&self, at: usize) -> Option<(Size, usize)> {
        // A number in a row of others, such as a date's, is no count.
        let first = at == 0 || !matches!(self.at(at - 1), Token::Slash | Token::Dash | Token::Number { .. });
        if first
            && let Some((packs, written_out, next)) = self.packs_before(at)
            && let Some((one, next)) = self.measure(next)
        {
            return Some((one.times(packs, written_out), next));
        }
        let (one, next) = self.measure(at)?;
        match self.packs_behind(next) {
            Some((packs, written_out, next)) => Some((one.times(packs, written_out), next)),
            None => Some((one, next)),
        }
    }

    /// `12 PK/`, `12 PK `, `12/`, `12-`, `12 x `, `12 `: how many, whether they are multiplied out, and where the measure is.
    fn packs_before(&self, at: usize) -> Option<(u32, bool, usize)> {
        let packs = self.whole(at)?;
        if self.amount(at).is_some_and(|(_, next)| next > at + 1) {
            return None;
        }
        let named = matches!(self.word(at + 1), Some(Word::Pack | Word::P));
        let next = at + 1 + usize::from(named);
        match self.at(next) {
            Token::Word(Word::Times) => Some((packs, true, next + 1)),
            Token::Slash => Some((packs, false, next + 1)),
            Token::Dash if named || !self.free => Some((packs, false, next + 1)),
            Token::Number { .. } if named || !self.free => Some((packs, false, next)),
            _ => None,
        }
    }

    /// `/12 PK`, ` 12 PK`, ` x 12`, ` PACK OF 12`.
    fn packs_behind(&self, at: usize) -> Option<(u32, bool, usize)> {
        if self.word(at) == Some(Word::Times) {
            // `2 L x 3 KG` multiplies nothing.
            return self.whole(at + 1).filter(|_| self.unit(at + 2).is_none()).map(|packs| (packs, true, at + 2));
        }
        let next = at + usize::from(matches!(self.at(at), Token::Slash | Token::Dash));
        let packs = self.whole(next).filter(|_| self.word(next + 1) == Some(Word::Pack))?;
        Some((packs, false, next + 2))
    }

    /// A weight or volume without packs, and where it ends.
    fn measure(&self, at: usize) -> Option<(Size, usize)> {
        let (quantity, next) = match self.word(at) {
            Some(Word::Half) => (SCALE / 2, at + 1),
            _ => self.amount(at)?,
        };
        let (unit, next) = self.unit(next + usize::from(self.at(next) == Token::Dash))?;
        if unit == Unit::Pound
            && let Some((ounces, after)) = self.amount(next)
            && let Some((Unit::Ounce, after)) = self.unit(after)
            && let Some(quantity) = quantity.checked_mul(16).and_then(|pounds| pounds.checked_add(ounces))
        {
            return Some((Size { count: 1, quantity, unit: Unit::Ounce }, after));
        }
        if self.free && unit == Unit::Gram && quantity < LEAST_GRAMS_IN_TITLE {
            return None;
        }
        // "1.75 ML" stands beside bottles of 1.75 L in the catalogue's source.
        let slip = !self.free && unit == Unit::Millilitre && quantity < 5 * SCALE;
        let unit = if slip { Unit::Litre } else { unit };
        (quantity > 0).then_some((Size { count: 1, quantity, unit }, next))
    }

    /// How much, in ten-thousandths, and where that ends. `7/8` is a fraction and `2/8` are two of eight: a fraction is
    /// written in lowest terms.
    fn amount(&self, at: usize) -> Option<(u32, usize)> {
        let Token::Number { value, .. } = self.at(at) else { return None };
        if let Some(part) = self.fraction(at) {
            return Some((part, at + 3));
        }
        let mixed = at + 1 + usize::from(self.at(at + 1) == Token::Dash);
        match (self.whole(at), self.fraction(mixed)) {
            (Some(_), Some(part)) => Some((value.checked_add(part)?, mixed + 3)),
            _ => Some((value, at + 1)),
        }
    }

    fn fraction(&self, at: usize) -> Option<u32> {
        let (Some(part), Token::Slash, Some(of)) = (self.whole(at), self.at(at + 1), self.whole(at + 2)) else {
            return None;
        };
        let lowest = matches!((part % 2, of), (1, 2 | 4 | 8 | 16) | (_, 3));
        (lowest && 0 < part && part < of).then(|| (part * SCALE + of / 2) / of)
    }

    /// A unit of weight or volume.
    fn unit(&self, at: usize) -> Option<(Unit, usize)> {
        match (self.word(at)?, self.word(at + 1)) {
            (Word::Fluid, Some(Word::Unit(Unit::Ounce))) => Some((Unit::FluidOunce, at + 2)),
            (Word::Unit(unit), _) => Some((unit, at + 1)),
            (Word::Z, _) if !self.free => Some((Unit::Ounce, at + 1)),
            _ => None,
        }
    }

    /// A number of pieces.
    fn counted(&self, at: usize) -> Option<Size> {
        let Token::Number { value, .. } = self.at(at) else { return None };
        let each = match self.word(at + 1)? {
            Word::Count | Word::Pack => 1,
            Word::Dozen => 12,
            _ => return None,
        };
        let quantity = value.checked_mul(each).filter(|&quantity| quantity > 0)?;
        Some(Size { count: 1, quantity, unit: Unit::Piece })
    }
}

#[cfg(test)]
#[path = "size_tests.rs"]
mod tests;
