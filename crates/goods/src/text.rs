//! What is looked at of a title, and in which form: the same words must be the same bytes, however somebody typed, encoded or
//! disguised them.
//!
//! Case is folded, the form is NFKC (Unicode Standard Annex #15), accents are taken off, control and format characters are
//! dropped (so neither a right-to-left mark nor a zero-width space splits a word), and letters of other scripts that look
//! like Latin ones become those. At most [`SEEN`] bytes are read and as many written, on the stack.

use sluice_domain::limits::MAX_TITLE;
use unicode_normalization::UnicodeNormalization;

/// Changes whenever a text gets another form than before: rules and models read by it.
pub const VERSION: u32 = 1;
/// Bytes of a text that are looked at, to the last whole character; checkout takes no longer titles.
pub const SEEN: usize = MAX_TITLE;

/// Cyrillic and Greek letters that look like Latin ones in capitals or small letters; the folded letter, then its double.
/// A selection from the confusables of Unicode Technical Standard #39: the letters that everyday fonts draw alike.
#[rustfmt::skip]
const LOOK_ALIKES: [(char, char); 37] = [
    ('α', 'a'), ('β', 'b'), ('ε', 'e'), ('ζ', 'z'), ('η', 'h'), ('ι', 'i'), ('κ', 'k'), ('μ', 'm'), ('ν', 'n'),
    ('ο', 'o'), ('ρ', 'p'), ('τ', 't'), ('υ', 'y'), ('χ', 'x'), ('ϲ', 'c'), ('ϳ', 'j'),
    ('а', 'a'), ('в', 'b'), ('е', 'e'), ('к', 'k'), ('м', 'm'), ('н', 'h'), ('о', 'o'), ('р', 'p'), ('с', 'c'),
    ('т', 't'), ('у', 'y'), ('х', 'x'), ('ѕ', 's'), ('і', 'i'), ('ј', 'j'), ('һ', 'h'), ('ү', 'y'), ('ԁ', 'd'),
    ('ԛ', 'q'), ('ԝ', 'w'), ('ӏ', 'l'),
];

/// Characters that show nothing: the general category Cf, variation selectors and fillers. Ranges, ascending.
#[rustfmt::skip]
const INVISIBLE: [(char, char); 24] = [
    ('\u{ad}', '\u{ad}'), ('\u{600}', '\u{605}'), ('\u{61c}', '\u{61c}'), ('\u{6dd}', '\u{6dd}'), ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'), ('\u{8e2}', '\u{8e2}'), ('\u{115f}', '\u{1160}'), ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'), ('\u{202a}', '\u{202e}'), ('\u{2060}', '\u{206f}'), ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'), ('\u{feff}', '\u{feff}'), ('\u{ffa0}', '\u{ffa0}'), ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'), ('\u{110cd}', '\u{110cd}'), ('\u{13430}', '\u{1343f}'), ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'), ('\u{e0000}', '\u{e007f}'), ('\u{e0100}', '\u{e01ef}'),
];

/// A text in its normal form.
#[derive(Clone, Copy)]
pub struct Normal {
    bytes: [u8; SEEN],
    length: usize,
}

impl Normal {
    /// The normal form of `text`.
    #[must_use]
    #[inline]
    pub fn of(text: &str) -> Self {
        let seen = text.get(..text.floor_char_boundary(SEEN)).unwrap_or_default();
        let mut normal = Self { bytes: [0; SEEN], length: 0 };
        if seen.is_ascii() {
            normal.fill_ascii(seen.as_bytes());
        } else {
            normal.fill(seen);
        }
        normal
    }

    /// Its bytes; they are UTF-8.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The same as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    #[inline]
    fn fill_ascii(&mut self, text: &[u8]) {
        let mut dropped = false;
        for (to, &from) in self.bytes.iter_mut().zip(text) {
            *to = from.to_ascii_lowercase();
            dropped |= from.is_ascii_control();
        }
        self.length = text.len();
        if dropped {
            self.length = 0;
            for &byte in text {
                self.push(char::from(byte.to_ascii_lowercase()));
            }
        }
    }

    /// The order matters: marks come off decomposed letters, what a compatibility form stands for may have a case again, and
    /// what is dropped is gone before its neighbours are composed.
    fn fill(&mut self, text: &str) {
        let letters = text.chars().flat_map(folded).nfkd().filter(|&letter| !is_dropped(letter)).flat_map(folded);
        for letter in letters.map(look_alike).filter(|&letter| !is_dropped(letter)).nfkc() {
            if !self.push(letter) {
                break;
            }
        }
    }

    /// False when it is full.
    fn push(&mut self, letter: char) -> bool {
        let letter = match letter {
            '\t'..='\r' => ' ',
            letter if is_dropped(letter) => return true,
            letter => letter,
        };
        let end = self.length + letter.len_utf8();
        let Some(room) = self.bytes.get_mut(self.length..end) else { return false };
        letter.encode_utf8(room);
        self.length = end;
        true
    }
}

impl std::fmt::Debug for Normal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Through capitals and back, so that `ß`, `ς` and `ı` meet what they are capitalised to.
fn folded(letter: char) -> impl Iterator<Item = char> {
    letter.to_uppercase().flat_map(char::to_lowercase)
}

/// Accents that stand over, under or through a letter, and what shows nothing at all.
fn is_dropped(letter: char) -> bool {
    let control = letter.is_control() && !matches!(letter, '\t'..='\r');
    control || matches!(letter, '\u{300}'..='\u{36f}') || is_invisible(letter)
}

fn is_invisible(letter: char) -> bool {
    letter >= '\u{ad}' && INVISIBLE.iter().any(|&(from, to)| (from..=to).contains(&letter))
}

fn look_alike(letter: char) -> char {
    if !matches!(letter, '\u{370}'..='\u{52f}') {
        return letter;
    }
    LOOK_ALIKES.iter().find(|(other, _)| *other == letter).map_or(letter, |(_, latin)| *latin)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> String {
        Normal::of(text).as_str().to_owned()
    }

    #[test]
    fn what_looks_alike_is_alike() {
        let cases = [
            ("FRZ Pizza | 12 OZ", "frz pizza | 12 oz"),
            ("ＢＥＥＲ", "beer"),
            ("ВЕЕR", "beer"),
            ("ΒΕΕR", "beer"),
            ("be\u{200b}er\u{202e}", "beer"),
            ("b\u{0}e\u{7f}er\tale", "beer ale"),
            ("be\u{ad}er", "beer"),
            ("JALAPEÑO PÂTÉ", "jalapeno pate"),
            ("JALAPEN\u{303}O", "jalapeno"),
            ("STRASSE straße", "strasse strasse"),
            ("ﬁsh ½ ㎏", "fish 1⁄2 kg"),
            ("한국 김치", "한국 김치"),
            ("\u{1100}\u{1161}\u{13}\u{11a8}", "각"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(normal(text), expected, "{text:?}");
        }
    }

    #[test]
    fn only_so_much_is_looked_at() {
        assert_eq!(normal(&"a".repeat(100_000)).len(), SEEN);
        assert_eq!(normal(&"é".repeat(100_000)), "e".repeat(SEEN / 2));
        assert!(normal(&format!("{}한", "a".repeat(SEEN - 1))).len() < SEEN);
        assert!(normal(&"\u{fdfa}".repeat(100)).len() <= SEEN);
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_done_once(text in any::<String>()) {
            let once = normal(&text);
            prop_assert!(once.len() <= SEEN);
            prop_assert_eq!(normal(&once), once);
        }

        #[test]
        fn case_does_not_matter(text in "\\PC{0,20}") {
            let same = normal(&text);
            prop_assert_eq!(normal(&text.to_uppercase()), &*same);
            prop_assert_eq!(normal(&text.to_lowercase()), &*same);
        }

        #[test]
        fn what_is_not_seen_does_not_matter(text in "[a-zà-ж ]{0,20}", at in 0usize..20, mark in "[\u{0}-\u{8}\u{200b}-\u{200f}\u{202a}-\u{202e}\u{feff}\u{ad}]") {
            let letters: Vec<char> = text.chars().collect();
            let (before, after) = letters.split_at(at.min(letters.len()));
            let split: String = before.iter().copied().chain(mark.chars()).chain(after.iter().copied()).collect();
            prop_assert_eq!(normal(&split), normal(&text));
        }
    }
}
