//! Whole numbers as JSON has them: `3`, `3.0` and `3e0` are one number, and clients whose numbers are all floating-point write
//! the others.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// 2⁵⁰. serde_json may read a long number as one beside it: up to here that is a fraction and refused, never another whole
/// number.
const MAX_EXACT: f64 = 1_125_899_906_842_624.0;

/// A whole number from 0, however it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole(pub u64);

impl Whole {
    /// The number that `value` is, if it is a whole one from 0 to 2⁵⁰.
    #[must_use]
    pub fn of_f64(value: f64) -> Option<Self> {
        ((0.0..=MAX_EXACT).contains(&value) && value.fract() == 0.0).then_some(Self(value as u64))
    }

    /// The number that `number` is, if it is a whole one from 0.
    #[must_use]
    pub fn of(number: &serde_json::Number) -> Option<Self> {
        number.as_u64().map(Self).or_else(|| number.as_f64().and_then(Self::of_f64))
    }
}

impl<'de> Deserialize<'de> for Whole {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0")
    }

    #[inline]
    fn visit_u64<E>(self, value: u64) -> Result<Whole, E> {
        Ok(Whole(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Whole, E> {
        Whole::of_f64(value).ok_or_else(|| E::invalid_type(de::Unexpected::Float(value), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for (text, number) in [
            ("0", 0),
            ("-0.0", 0),
            ("3", 3),
            ("3.0", 3),
            ("30e-1", 3),
            ("1e9", 1_000_000_000),
            ("18446744073709551615", u64::MAX),
            ("1125899906842624.0", 1_125_899_906_842_624),
        ] {
            assert_eq!(serde_json::from_str::<Whole>(text).unwrap(), Whole(number), "{text}");
        }
        for text in ["-1", "-1.0", "3.5", "1e-1", "1125899906842625.0", "1e300", "\"3\"", "true", "null", "[3]"] {
            assert!(serde_json::from_str::<Whole>(text).is_err(), "{text}");
        }
    }
}
