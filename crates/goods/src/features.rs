//! What a model sees of a text: one walk over its words that training, serving and explaining share, so that a model can't
//! be trained on one thing and asked about another.
//!
//! A text is cut into words (runs of letters) and numbers. A number with a unit behind it, and all of a
//! part behind `|` that begins with one, is a size: how much there is says a lot about what it is. Everything is named by
//! its place in one table of [`ROWS`] rows; names that share a place are learned together.

/// Rows of the table, a power of two. With half as many, three of ten n-grams share theirs with another; with as many, one
/// of six.
pub const ROWS: usize = 1 << ROW_BITS;
const ROW_BITS: u32 = 17;
/// Bytes of a word that are looked at.
const WORD: usize = 32;
/// Words of a text that are looked at, and parts of its size: no title of the catalogue has more than a third.
const WORDS: usize = 40;
const SIZES: usize = 16;
/// Lengths of the n-grams of a word between two spaces, in bytes.
const GRAMS: std::ops::RangeInclusive<usize> = 2..=4;

/// Units of package sizes, sorted; a number before one is no word.
const UNITS: [&[u8]; 40] = [
    b"cm", b"ct", b"ctn", b"doz", b"dz", b"ea", b"fl", b"ft", b"g", b"ga", b"gal", b"gm", b"gr", b"in", b"kg", b"l",
    b"lb", b"lbs", b"ld", b"lds", b"load", b"loads", b"lt", b"ltr", b"ml", b"mm", b"oz", b"ozs", b"p", b"pc", b"pck",
    b"pk", b"pt", b"qt", b"roll", b"sq", b"stem", b"x", b"yd", b"z",
];

/// How much each kind of feature weighs beside the others; chosen once on the fold protocol, see README.md.
pub(crate) mod weight {
    /// The word itself.
    pub(crate) const WORD: f32 = 0.5;
    /// All n-grams of a word together, as the length of their vector.
    pub(crate) const GRAMS: f32 = 0.6;
    /// The first and the last word, in tenths.
    pub(crate) const EDGE: i32 = 8;
    /// Two words that stand together, in tenths.
    pub(crate) const PAIR: i32 = 4;
    /// The mean of the vectors of all words.
    pub(crate) const VECTOR: f32 = 3.5;
    /// All of the size together, as the length of its vector.
    pub(crate) const SIZE: f32 = 1.0;
    /// Who made it, and that with the unit.
    pub(crate) const MAKER: f32 = 3.0;
}

/// What is told apart of equal bytes in different places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    Word = 1,
    First,
    Last,
    Pair,
    Gram,
    Amount,
    Unit,
    Magnitude,
    NoSize,
    Maker,
    MakerUnit,
}

/// A word of a text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word<'a> {
    /// Its letters or digits, at most [`WORD`] bytes.
    pub bytes: &'a [u8],
    /// Names it among all words.
    pub hash: u64,
}

impl<'a> Word<'a> {
    /// The word of these bytes.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        let bytes = bytes.get(..WORD).unwrap_or(bytes);
        Self { bytes, hash: hash(bytes) }
    }

    /// The row of the word itself.
    #[inline]
    pub fn row(&self) -> usize {
        place(self.hash, Kind::Word)
    }

    /// The rows of its n-grams; none if it is a number.
    #[inline]
    pub fn grams(&self, mut each: impl FnMut(usize)) {
        if self.bytes.first().is_none_or(|&byte| class(byte) != Class::Letter) {
            return;
        }
        let mut framed = [b' '; WORD + 2];
        let length = self.bytes.len() + 2;
        let Some(inner) = framed.get_mut(1..length - 1) else { return };
        inner.copy_from_slice(self.bytes);
        let Some(framed) = framed.get(..length) else { return };
        for n in GRAMS {
            for gram in framed.windows(n) {
                let bits = gram.iter().fold(n as u64, |bits, &byte| bits << 8 | u64::from(byte));
                each(place(bits, Kind::Gram));
            }
        }
    }
}

/// Takes what a walk finds, in order of the text.
pub(crate) trait Sink {
    /// A word.
    fn word(&mut self, word: Word<'_>);
    /// A row for where a word stands, or for two that stand together.
    fn around(&mut self, row: usize, what: Around<'_>);
    /// A row for a part of the size.
    fn size(&mut self, row: usize, what: &[u8]);
    /// A row for who made it.
    fn maker(&mut self, row: usize);
}

/// What a row beside those of single words stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Around<'a> {
    First(&'a [u8]),
    Last(&'a [u8]),
    Pair(&'a [u8], &'a [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Bar,
    Other,
}

#[inline]
fn class(byte: u8) -> Class {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => Class::Letter,
        b'0'..=b'9' => Class::Digit,
        b'|' => Class::Bar,
        _ => Class::Other,
    }
}

/// Whitens what names a feature (the finaliser of SplitMix64) and takes its place in the table.
#[inline]
fn place(bits: u64, kind: Kind) -> usize {
    (mix(bits ^ (kind as u64) << 56) >> (u64::BITS - ROW_BITS)) as usize
}

#[inline]
fn mix(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// A hash of up to [`WORD`] bytes, eight at a time. The same on every machine: models are stored by it.
#[inline]
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut state = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut eight = [0; 8];
        for (to, &from) in eight.iter_mut().zip(chunk) {
            *to = from;
        }
        state = (state ^ u64::from_le_bytes(eight)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^= state >> 29;
    }
    mix(state)
}

/// Words and numbers of a normal text. Numbers keep their decimal point.
struct Tokens<'a> {
    rest: &'a [u8],
}

/// One of them, and what it is.
#[derive(Clone, Copy)]
struct Token<'a> {
    bytes: &'a [u8],
    class: Class,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    #[inline]
    fn next(&mut self) -> Option<Token<'a>> {
        let start = self.rest.iter().position(|&byte| class(byte) != Class::Other)?;
        let rest = self.rest.get(start..)?;
        let first = class(*rest.first()?);
        let inside = |(at, &byte): (usize, &u8)| match first {
            Class::Letter => class(byte) == Class::Letter,
            Class::Digit => {
                class(byte) == Class::Digit || byte == b'.' && rest.get(at + 1).is_some_and(u8::is_ascii_digit)
            }
            _ => at == 0,
        };
        let end = rest.iter().enumerate().position(|pair| !inside(pair)).unwrap_or(rest.len());
        let (bytes, after) = rest.split_at_checked(end)?;
        self.rest = after;
        Some(Token { bytes: bytes.get(..WORD).unwrap_or(bytes), class: first })
    }
}

fn is_unit(token: &Token<'_>) -> bool {
    token.class == Class::Letter && token.bytes.len() <= 5 && UNITS.binary_search(&token.bytes).is_ok()
}

/// Shows `sink` what a model sees of a text in its normal form and of who made the goods.
#[inline]
pub(crate) fn walk(text: &[u8], maker: Option<&str>, sink: &mut impl Sink) {
    let mut tokens = Tokens { rest: text };
    let (mut words, mut sizes) = (0, Size::default());
    let mut previous: Option<Word<'_>> = None;
    let (mut in_size, mut begins) = (false, false);
    let mut ahead = tokens.next();
    while let Some(token) = ahead {
        ahead = tokens.next();
        if token.class == Class::Bar {
            (in_size, begins) = (false, true);
            continue;
        }
        let counted = token.class == Class::Digit && ahead.as_ref().is_some_and(is_unit);
        let measures = token.class == Class::Digit || is_unit(&token);
        in_size = in_size || begins && measures;
        begins = false;
        if in_size || counted || sizes.expects_unit(&token) {
            sizes.take(&token, ahead.as_ref(), sink);
        } else if words < WORDS {
            let word = Word::new(token.bytes);
            sink.word(word);
            match previous {
                None => sink.around(place(word.hash, Kind::First), Around::First(word.bytes)),
                Some(before) => {
                    let row = place(before.hash.rotate_left(17) ^ word.hash, Kind::Pair);
                    sink.around(row, Around::Pair(before.bytes, word.bytes));
                }
            }
            previous = Some(word);
            words += 1;
        }
    }
    if let Some(last) = previous {
        sink.around(place(last.hash, Kind::Last), Around::Last(last.bytes));
    }
    if sizes.count == 0 {
        sink.size(place(0, Kind::NoSize), b"");
    }
    if let Some(maker) = maker {
        let maker = hash(maker.trim().as_bytes());
        sink.maker(place(maker, Kind::Maker));
        sink.maker(place(maker.rotate_left(17) ^ sizes.unit, Kind::MakerUnit));
    }
}

/// What a walk knows of the size so far.
#[derive(Default)]
struct Size {
    count: usize,
    /// The first unit's hash.
    unit: u64,
    /// The last number, as [`magnitude`] has it.
    number: Option<u64>,
    /// Whether the last token was a number that a unit follows.
    open: bool,
}

impl Size {
    fn expects_unit(&self, token: &Token<'_>) -> bool {
        self.open && token.class == Class::Letter
    }

    #[inline]
    fn take(&mut self, token: &Token<'_>, ahead: Option<&Token<'_>>, sink: &mut impl Sink) {
        self.count += 1;
        if self.count > SIZES {
            return;
        }
        let name = hash(token.bytes);
        self.open = token.class == Class::Digit && ahead.is_some_and(is_unit);
        if token.class == Class::Digit {
            let unit = ahead.filter(|ahead| ahead.class == Class::Letter).map_or(0, |ahead| hash(ahead.bytes));
            self.number = Some(magnitude(token.bytes));
            sink.size(place(name.rotate_left(17) ^ unit, Kind::Amount), token.bytes);
            return;
        }
        sink.size(place(name, Kind::Unit), token.bytes);
        if let Some(number) = self.number {
            sink.size(place(name ^ mix(number + 1), Kind::Magnitude), token.bytes);
        }
        if self.unit == 0 {
            self.unit = name;
        }
    }
}

/// Which half octave of thousandths a decimal number lies in.
fn magnitude(digits: &[u8]) -> u64 {
    let mut thousandths = 0u64;
    let mut decimals = None;
    for &byte in digits {
        match (byte, decimals) {
            (b'.', None) => decimals = Some(0),
            (b'.', Some(_)) | (_, Some(3..)) => break,
            (digit, _) => {
                thousandths = thousandths.saturating_mul(10).saturating_add(u64::from(digit.wrapping_sub(b'0')));
                decimals = decimals.map(|count| count + 1);
            }
        }
    }
    for _ in decimals.unwrap_or(0)..3 {
        thousandths = thousandths.saturating_mul(10);
    }
    let octave = u64::from(thousandths.max(1).ilog2());
    2 * octave + (thousandths >> octave.saturating_sub(1) & 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Normal;

    #[derive(Default)]
    struct Seen {
        words: Vec<String>,
        around: Vec<String>,
        sizes: Vec<String>,
        rows: Vec<usize>,
    }

    impl Sink for Seen {
        fn word(&mut self, word: Word<'_>) {
            self.words.push(text(word.bytes));
            self.rows.push(word.row());
            word.grams(|row| self.rows.push(row));
        }

        fn around(&mut self, row: usize, what: Around<'_>) {
            self.rows.push(row);
            self.around.push(match what {
                Around::First(word) => format!("^{}", text(word)),
                Around::Last(word) => format!("{}$", text(word)),
                Around::Pair(a, b) => format!("{} {}", text(a), text(b)),
            });
        }

        fn size(&mut self, row: usize, what: &[u8]) {
            self.rows.push(row);
            self.sizes.push(text(what));
        }

        fn maker(&mut self, row: usize) {
            self.rows.push(row);
        }
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn seen(title: &str) -> Seen {
        let mut seen = Seen::default();
        walk(Normal::of(title).bytes(), Some("69"), &mut seen);
        assert!(seen.rows.iter().all(|row| *row < ROWS));
        seen
    }

    #[test]
    fn a_title_is_words_and_a_size() {
        let pizza = seen("PIZZA/FRZN Joe's | 12.5 OZ");
        assert_eq!(pizza.words, ["pizza", "frzn", "joe", "s"]);
        assert_eq!(pizza.around, ["^pizza", "pizza frzn", "frzn joe", "joe s", "s$"]);
        assert_eq!(pizza.sizes, ["12.5", "oz", "oz"]);
        assert_eq!(seen("Frozen pizza 12 oz, crisp").words, ["frozen", "pizza", "crisp"]);
        assert_eq!(seen("Frozen pizza 12 oz, crisp").sizes, ["12", "oz", "oz"]);
        assert_eq!(seen("Acme | Frozen pizza | 12 PK/12 OZ").sizes, ["12", "pk", "pk", "12", "oz", "oz"]);
        assert_eq!(seen("Acme | Frozen pizza").words, ["acme", "frozen", "pizza"]);
        assert_eq!(seen("STRING CHEESE").sizes, [""]);
        assert_eq!(seen("PT BOATS | PT").sizes, ["pt"]);
    }

    #[test]
    fn whatever_comes_is_bounded() {
        assert_eq!(seen("").rows.len(), 3);
        assert_eq!(seen(&"a ".repeat(50_000)).words.len(), WORDS);
        assert!(seen(&"1 oz ".repeat(1_000)).sizes.len() <= 2 * SIZES);
        assert_eq!(seen(&"x".repeat(100_000)).words[0].len(), WORD);
        assert!(seen("| | || |").words.is_empty());
    }

    #[test]
    fn units_are_sorted_and_magnitudes_ascend() {
        assert!(UNITS.is_sorted_by(|a, b| a < b));
        let sizes = ["0", "0.001", ".5", "1", "1.5", "2", "12", "16.9", "1000", "99999999999999999999999"];
        let all: Vec<u64> = sizes.into_iter().map(|size| magnitude(size.as_bytes())).collect();
        assert!(all.is_sorted(), "{all:?}");
        assert_eq!(magnitude(b"16"), magnitude(b"16.000"));
        assert_ne!(magnitude(b"16"), magnitude(b"12"));
    }

    #[test]
    fn places_are_frozen() {
        // Stored models are tables by these.
        let milk = Word::new(b"milk");
        let mut rows = vec![milk.row()];
        milk.grams(|row| rows.push(row));
        assert_eq!(rows, [28851, 56371, 52057, 32979, 81952, 22211, 24508, 28958, 108208, 93626, 92951, 75822, 110063]);
    }
}
