//! Numbers, words and signs of a size, read off a text without allocating.

use crate::size::{SEEN, Unit};

/// Parts of a number's unit that are kept.
pub(crate) const SCALE: u32 = 10_000;
/// Numbers from here on, which no size has, are items' numbers.
const TOO_LARGE: u32 = 100_000;
/// Tokens that are kept of a text: titles of the longest length have half as many words.
const MOST: usize = 64;
/// Letters of the longest word that is known.
const LONGEST: usize = 12;

const NO_BREAK_SPACE: &[u8] = "\u{a0}".as_bytes();
const TIMES: &[u8] = "×".as_bytes();

/// What a size is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// In ten-thousandths, further digits being dropped; `whole` if it has neither point nor comma.
    Number {
        value: u32,
        whole: bool,
    },
    Word(Word),
    Slash,
    Dash,
    /// Anything that parts what is before it from what is behind it.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Unit(Unit),
    /// What is left of `OZ` where a text was cut.
    Z,
    /// Before `OZ`.
    Fluid,
    Half,
    Pack,
    /// A pack, if a size follows.
    P,
    Of,
    Times,
    Count,
    Dozen,
}

/// The first tokens of a text, at most [`MOST`].
pub(crate) struct Tokens {
    tokens: [Token; MOST],
    length: usize,
}

impl Tokens {
    /// Those of the first [`SEEN`] bytes of `text`.
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut all = Self { tokens: [Token::Other; MOST], length: 0 };
        let mut rest = &text[..text.len().min(SEEN)];
        while let Some(&byte) = rest.first() {
            let (token, length) = match byte {
                b'0'..=b'9' => number(rest),
                b'.' if rest.get(1).is_some_and(u8::is_ascii_digit) => number(rest),
                b'/' => (Some(Token::Slash), 1),
                b'-' => (Some(Token::Dash), 1),
                _ if rest.starts_with(NO_BREAK_SPACE) => (None, 2),
                _ if rest.starts_with(TIMES) => (Some(Token::Word(Word::Times)), 2),
                byte if byte.is_ascii_alphabetic() || byte >= 0x80 => word(rest),
                // `FL. OZ.`, `14. OZ`, but `No. 4. 5 OZ` has two numbers.
                b'.' if !rest[1..].trim_ascii_start().first().is_some_and(u8::is_ascii_digit) => (None, 1),
                byte if byte.is_ascii_whitespace() => (None, 1),
                _ => (Some(Token::Other), 1),
            };
            rest = &rest[length..];
            if let Some(token) = token {
                all.push(token);
            }
        }
        all
    }

    fn push(&mut self, token: Token) {
        if let Some(place) = self.tokens.get_mut(self.length) {
            *place = token;
            self.length += 1;
        }
    }

    pub(crate) fn as_slice(&self) -> &[Token] {
        &self.tokens[..self.length]
    }
}

/// The number that `text` starts with. `1,5` and `1.5` have a fraction; `1,000` is a thousand, as no size is that precise.
fn number(text: &[u8]) -> (Option<Token>, usize) {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let integer = digits(text);
    let part = match text.get(integer) {
        Some(b'.' | b',') => &text[integer + 1..][..digits(&text[integer + 1..])],
        _ => &[],
    };
    let length = if part.is_empty() { integer } else { integer + 1 + part.len() };
    let thousands = part.len() == 3 && text[integer] == b',' && text[0] != b'0';
    let value = decimal(&text[..integer]);
    let (value, fraction) = match thousands {
        true => (value.saturating_mul(1_000).saturating_add(decimal(part)), 0),
        false => (value, part.iter().chain(b"0000").take(4).fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'))),
    };
    let whole = thousands || part.is_empty();
    let token = (value < TOO_LARGE).then(|| Token::Number { value: value * SCALE + fraction, whole });
    (Some(token.unwrap_or(Token::Other)), length)
}

fn decimal(digits: &[u8]) -> u32 {
    digits.iter().fold(0u32, |sum, digit| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
}

/// The word that `text` starts with.
fn word(text: &[u8]) -> (Option<Token>, usize) {
    let part = |at: &usize| text[*at].is_ascii_alphabetic() || text[*at] >= 0x80;
    let sign = |at: &usize| text[*at..].starts_with(NO_BREAK_SPACE) || text[*at..].starts_with(TIMES);
    let length = (0..text.len()).take_while(|at| part(at) && !sign(at)).count();
    let mut upper = [0; LONGEST];
    let Some(upper) = upper.get_mut(..length) else { return (Some(Token::Other), length) };
    upper.copy_from_slice(&text[..length]);
    upper.make_ascii_uppercase();
    let word = match &*upper {
        b"OZ" | b"OZS" | b"OUNCE" | b"OUNCES" => Word::Unit(Unit::Ounce),
        b"LB" | b"LBS" | b"POUND" | b"POUNDS" => Word::Unit(Unit::Pound),
        b"G" | b"GM" | b"GMS" | b"GR" | b"GRS" | b"GRAM" | b"GRAMS" | b"GRAMM" | b"GRAMME" | b"GRAMMES" => {
            Word::Unit(Unit::Gram)
        }
        b"KG" | b"KGS" | b"KILO" | b"KILOS" | b"KILOGRAM" | b"KILOGRAMS" | b"KILOGRAMM" => Word::Unit(Unit::Kilogram),
        b"ML" | b"MLS" | b"MILLILITER" | b"MILLILITERS" | b"MILLILITRE" | b"MILLILITRES" => {
            Word::Unit(Unit::Millilitre)
        }
        b"CL" | b"CENTILITER" | b"CENTILITRE" => Word::Unit(Unit::Centilitre),
        b"L" | b"LT" | b"LTR" | b"LTRS" | b"LRT" | b"LITER" | b"LITERS" | b"LITRE" | b"LITRES" => {
            Word::Unit(Unit::Litre)
        }
        b"FLOZ" => Word::Unit(Unit::FluidOunce),
        b"PT" | b"PTS" | b"PINT" | b"PINTS" => Word::Unit(Unit::Pint),
        b"QT" | b"QTS" | b"QUART" | b"QUARTS" => Word::Unit(Unit::Quart),
        b"GAL" | b"GALS" | b"GA" | b"GL" | b"GALLON" | b"GALLONS" => Word::Unit(Unit::Gallon),
        b"Z" => Word::Z,
        b"FL" | b"FLUID" => Word::Fluid,
        b"HALF" | b"HLF" => Word::Half,
        b"PK" | b"PKS" | b"PACK" | b"PACKS" => Word::Pack,
        b"P" => Word::P,
        b"OF" => Word::Of,
        b"X" => Word::Times,
        b"CT" | b"COUNT" | b"PC" | b"PCS" | b"PIECE" | b"PIECES" | b"EA" => Word::Count,
        b"DZ" | b"DOZ" | b"DOZEN" => Word::Dozen,
        _ => return (Some(Token::Other), length),
    };
    // `8 KG51` is no weight: what is cut off nowhere is an item's code.
    let cut = matches!(word, Word::Unit(_)) && text.get(length).is_some_and(u8::is_ascii_digit);
    (Some(if cut { Token::Other } else { Token::Word(word) }), length)
}
