//! What a well-formed order looks like, once: the decoder that must be fast and the diagnosis that must be helpful both
//! ask here, so they can't come to different answers.

use std::ops::RangeInclusive;

use sluice_domain::limits::{
    MAX_ADDRESS_FIELD, MAX_CUSTOMER, MAX_IDEMPOTENCY_KEY, MAX_LINES, MAX_POSTAL_CODE, MAX_QUANTITY, MAX_SKU, MAX_TITLE,
    MAX_UNIT_PRICE,
};

/// Which characters a text may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Anything but control characters.
    Text,
    /// A to Z.
    Upper,
    /// ASCII from `!` to `~`.
    Visible,
}

/// What a text field must be.
#[derive(Debug)]
pub struct TextRule {
    /// Bytes of UTF-8.
    len: RangeInclusive<usize>,
    shape: Shape,
    /// Said in a problem when the bounds alone wouldn't tell.
    wording: Option<&'static str>,
}

const fn text(min: usize, max: usize) -> TextRule {
    TextRule { len: min..=max, shape: Shape::Text, wording: None }
}

/// The merchant's id of the customer.
pub static CUSTOMER: TextRule = text(1, MAX_CUSTOMER);
/// Each of name, street and city.
pub static ADDRESS: TextRule = text(1, MAX_ADDRESS_FIELD);
/// May be empty: not every country has postal codes.
pub static POSTAL_CODE: TextRule = text(0, MAX_POSTAL_CODE);
/// The merchant's stock keeping unit.
pub static SKU: TextRule = text(1, MAX_SKU);
/// What the customer saw.
pub static TITLE: TextRule = text(1, MAX_TITLE);
/// ISO 4217.
pub static CURRENCY: TextRule =
    TextRule { len: 3..=3, shape: Shape::Upper, wording: Some("three upper-case letters, an ISO 4217 currency") };
/// ISO 3166-1 alpha-2.
pub static COUNTRY: TextRule =
    TextRule { len: 2..=2, shape: Shape::Upper, wording: Some("two upper-case letters, an ISO 3166-1 country") };
/// Names one request of a merchant.
pub static IDEMPOTENCY_KEY: TextRule = TextRule { len: 1..=MAX_IDEMPOTENCY_KEY, shape: Shape::Visible, wording: None };

/// Units in a line.
pub const QUANTITY: RangeInclusive<u64> = 1..=MAX_QUANTITY as u64;
/// Minor units of the order's currency.
pub const UNIT_PRICE: RangeInclusive<u64> = 0..=MAX_UNIT_PRICE;
/// Lines in an order.
pub const LINES: RangeInclusive<usize> = 1..=MAX_LINES;

impl TextRule {
    /// True if `text` keeps the rule.
    #[inline(always)]
    pub fn accepts(&self, text: &str) -> bool {
        self.len.contains(&text.len())
            && match self.shape {
                Shape::Text => !has_control(text),
                Shape::Upper => text.bytes().all(|b| b.is_ascii_uppercase()),
                Shape::Visible => text.bytes().all(|b| b.is_ascii_graphic()),
            }
    }

    /// True if `text` is too long, whatever is in it.
    pub fn is_too_long(&self, text: &str) -> bool {
        text.len() > *self.len.end()
    }

    /// The rule in words.
    pub fn expected(&self) -> String {
        if let Some(wording) = self.wording {
            return wording.to_owned();
        }
        let (min, max) = (self.len.start(), self.len.end());
        match self.shape {
            Shape::Visible => format!("a string of {min} to {max} visible ASCII characters"),
            _ => format!("a string of {min} to {max} bytes of UTF-8 without control characters"),
        }
    }
}

/// True if `text` has a character of the Unicode category Cc: nothing a customer typed, and trouble in labels and logs.
#[inline(always)]
fn has_control(text: &str) -> bool {
    // One pass without branches settles plain ASCII, which is nearly everything; the rest is looked at by character.
    let plain = text.bytes().fold(true, |plain, b| plain & (0x20..0x7f).contains(&b));
    !plain && text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bytes_at_every_bound() {
        for rule in [&CUSTOMER, &ADDRESS, &POSTAL_CODE, &SKU, &TITLE, &IDEMPOTENCY_KEY] {
            let (min, max) = (*rule.len.start(), *rule.len.end());
            for (len, fits) in [(max - 1, true), (max, true), (max + 1, false)] {
                assert_eq!(rule.accepts(&"x".repeat(len)), fits, "{rule:?} at {len}");
            }
            assert_eq!(rule.accepts(""), min == 0, "{rule:?}");
            assert!(rule.accepts(&"x".repeat(min)), "{rule:?}");
            if rule.shape == Shape::Text {
                assert!(rule.accepts(&"é".repeat(max / 2)) && !rule.accepts(&"é".repeat(max / 2 + 1)), "{rule:?}");
            }
        }
    }

    #[test]
    fn control_characters_are_refused_and_other_scripts_taken() {
        for bad in ["\0", "a\nb", "\u{1f}", "\u{7f}", "\u{80}", "\u{9f}", "é\u{85}"] {
            assert!(!TITLE.accepts(bad), "{bad:?}");
        }
        for good in [" ", "~", "\u{a0}", "Œuvre", "寿司", "🍣", "a\u{301}"] {
            assert!(TITLE.accepts(good), "{good:?}");
        }
    }

    #[test]
    fn codes_are_upper_case_of_their_length() {
        assert!(CURRENCY.accepts("USD") && COUNTRY.accepts("US"));
        for bad in ["US", "USDT", "usd", "U D", "ÚSD", "U1D", ""] {
            assert!(!CURRENCY.accepts(bad), "{bad}");
        }
        for bad in ["U", "USA", "us", "Ü", "1S", ""] {
            assert!(!COUNTRY.accepts(bad), "{bad}");
        }
        for bad in ["a b", "é", "\t"] {
            assert!(!IDEMPOTENCY_KEY.accepts(bad), "{bad}");
        }
    }
}
