//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): a structured-field string, or bare, which is
//! what most clients send.

use std::borrow::Cow;

use axum::http::HeaderMap;
use sluice_domain::limits::MAX_IDEMPOTENCY_KEY;

use crate::problem::FieldError;

/// Name of the header, in lower case.
pub const HEADER: &str = "idempotency-key";

/// The key of a request.
///
/// # Errors
/// The header as a field at fault: missing, given twice, badly quoted, or not 1 to 255 visible ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Cow<'_, str>, FieldError> {
    const FIELD: &str = "Idempotency-Key";
    let wrong = |got: &str| FieldError::wrong(FIELD, "one header of 1 to 255 visible ASCII characters", got);
    let mut values = headers.get_all(HEADER).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => {
            return Err(FieldError::missing(FIELD, "a header that names this request, the same on every retry"));
        }
        _ => return Err(wrong("several headers")),
    };
    let text = value.to_str().map_err(|_| wrong("other than ASCII"))?.trim_matches([' ', '\t']);
    let key = if text.starts_with('"') { unquote(text).ok_or_else(|| wrong(text))? } else { Cow::Borrowed(text) };
    if (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(key)
    } else if key.len() > MAX_IDEMPOTENCY_KEY {
        Err(wrong(&format!("{} characters", key.len())))
    } else {
        Err(wrong(&key))
    }
}

/// The content of a structured-field string (RFC 8941, 3.3.3): backslash escapes the quote and itself, nothing else.
fn unquote(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains(['"', '\\']) {
        return Some(Cow::Borrowed(inner));
    }
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return None,
            '\\' => out.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => out.push(c),
        }
    }
    Some(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key(values: &[&str]) -> Result<String, FieldError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        idempotency_key(&headers).map(Cow::into_owned)
    }

    #[test]
    fn quoted_and_bare_keys_are_the_same() {
        assert_eq!(key(&["k-1"]).as_deref(), Ok("k-1"));
        assert_eq!(key(&["\"k-1\""]).as_deref(), Ok("k-1"));
        assert_eq!(key(&["\"a\\\"b\\\\c\""]).as_deref(), Ok("a\"b\\c"));
        assert_eq!(key(&["a\"b\\c"]).as_deref(), Ok("a\"b\\c"));
    }

    #[test]
    fn what_is_not_one_key_is_refused() {
        for bad in [&[][..], &[""], &["\"\""], &["\""], &["\"a"], &["\"a\"b\""], &["\"a\\x\""], &["\"a\\\""]] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        for bad in [&["a b"][..], &["\"a b\""], &["é"], &["a", "b"], &["a", "a"]] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn length_counts_without_the_quotes() {
        for (len, fits) in [(254, true), (255, true), (256, false)] {
            assert_eq!(key(&[&"k".repeat(len)]).is_ok(), fits, "{len}");
            assert_eq!(key(&[&format!("\"{}\"", "k".repeat(len))]).is_ok(), fits, "{len} quoted");
        }
    }
}
