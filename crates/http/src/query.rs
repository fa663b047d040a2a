//! Query strings, read parameter by parameter: every one at fault is named, also one that is given twice, and one that there
//! isn't, which may be a slip of the pen.

use std::borrow::Cow;

use axum::http::StatusCode;

use crate::problem::{FieldError, Problem, clip};

/// Fields that a problem names.
const NAMED: usize = 10;

/// A query string that is being read.
#[derive(Debug)]
pub struct Query<'t> {
    pairs: Vec<(Cow<'t, str>, Cow<'t, str>)>,
    errors: Vec<FieldError>,
    /// Parameters that there aren't, and then those that are missing.
    others: Vec<FieldError>,
}

impl<'t> Query<'t> {
    /// Of `text`, in which only parameters named in `known` may be; names that aren't are at fault.
    #[must_use]
    pub fn new(text: &'t str, known: &[&str]) -> Self {
        let (pairs, others): (Vec<_>, Vec<_>) =
            form_urlencoded::parse(text.as_bytes()).partition(|(name, _)| known.contains(&&**name));
        let expected = |known: &[&str]| format!("one of {}", known.join(", "));
        let wrong = |(name, value): &(Cow<'_, str>, Cow<'_, str>)| {
            FieldError::wrong(clip(name).into_owned(), expected(known), value)
        };
        let others = others.iter().map(wrong).collect();
        Self { pairs, errors: Vec::new(), others }
    }

    /// What `parse` makes of the parameter `name`, if it is there once and is as `expected`.
    pub fn take<T>(
        &mut self,
        name: &str,
        expected: &'static str,
        mut parse: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let mut found = None;
        for (_, value) in self.pairs.iter().filter(|(known, _)| known == name) {
            match parse(value) {
                Some(read) if found.is_none() => found = Some(read),
                _ => self.errors.push(FieldError::wrong(name, expected, value)),
            }
        }
        found
    }

    /// As [`Query::take`], of one that must be there.
    pub fn require<T>(
        &mut self,
        name: &str,
        expected: &'static str,
        parse: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let found = self.take(name, expected, parse);
        if found.is_none() && !self.pairs.iter().any(|(known, _)| known == name) {
            self.others.push(FieldError::missing(name, expected));
        }
        found
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Every parameter at fault.
    pub fn end(mut self) -> Result<(), Vec<FieldError>> {
        self.errors.append(&mut self.others);
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors) }
    }
}

/// A whole number from 1 to `most`; a sign is no digit, though it can be parsed.
#[must_use]
pub fn number(value: &str, most: usize) -> Option<usize> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|n| digits && (1..=most).contains(n))
}

/// Parameters are not as they should be: 400.
#[must_use]
pub fn invalid_query(mut errors: Vec<FieldError>) -> Problem {
    errors.truncate(NAMED);
    let detail = match errors.as_slice() {
        [one] => format!("{} must be {}.", one.field, one.expected),
        _ => "Several parameters are not as they should be.".to_owned(),
    };
    Problem::new(StatusCode::BAD_REQUEST, "invalid-query", "Invalid query", detail).with_errors(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Option<usize>, Option<bool>), Vec<String>> {
        let mut query = Query::new(text, &["limit", "keep"]);
        let limit = query.take("limit", "an integer from 1 to 5", |value| number(value, 5));
        let keep = query.require("keep", "yes or no", |value| ["no", "yes"].iter().position(|v| *v == value));
        query.end().map(|()| (limit, keep.map(|at| at == 1))).map_err(|e| e.into_iter().map(|e| e.field).collect())
    }

    #[test]
    fn every_parameter_at_fault_is_named() {
        assert_eq!(read("keep=y%65s"), Ok((None, Some(true))));
        assert_eq!(read("limit=5&keep=no"), Ok((Some(5), Some(false))));
        for (text, fields) in [
            ("", &["keep"][..]),
            ("keep=", &["keep"]),
            ("keep=yes&keep=yes", &["keep"]),
            ("limit=6&keep=maybe", &["limit", "keep"]),
            ("limit=%2B5&keep=no", &["limit"]),
            ("limit=0&keep=no&Limit=1", &["limit", "Limit"]),
        ] {
            assert_eq!(read(text), Err(fields.iter().map(|f| (*f).to_owned()).collect()), "{text}");
        }
        let many: Vec<FieldError> = (0..20).map(|n| FieldError::missing(n.to_string(), "nothing")).collect();
        assert_eq!(invalid_query(many).errors.len(), NAMED);
    }
}
