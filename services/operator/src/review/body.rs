//! JSON → what a reviewer says of a parcel, or the fields at fault by name.

use axum::http::StatusCode;
use serde_json::Value;
use sluice_domain::Handling;
use sluice_http::{FieldError, Problem, body::malformed};
use sluice_schemas::command::Keep;

/// A decision that is well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    /// What is in the parcel.
    pub handling: Handling,
    /// What else the decision is kept for.
    pub keep: Keep,
}

/// What `keep` may be.
pub(crate) const KEEP: &str = "`rule`, `row` or null";

/// Reads a body.
///
/// # Errors
/// 400 if it is no JSON, 422 if it isn't a decision.
pub(crate) fn read(body: &[u8]) -> Result<Decision, Problem> {
    let value: Value = serde_json::from_slice(body).map_err(|error| malformed(format!("Not JSON: {error}.")))?;
    let Some(fields) = value.as_object() else {
        return Err(invalid(vec![FieldError::wrong("", "an object with handling and keep", &value.to_string())]));
    };
    let mut errors = Vec::new();
    for name in fields.keys().filter(|name| !matches!(name.as_str(), "handling" | "keep")).take(8) {
        errors.push(FieldError::wrong(format!("/{}", sluice_http::clip(name)), "no such field", name));
    }
    let handling = handling(fields.get("handling"), &mut errors);
    let keep = match fields.get("keep") {
        None | Some(Value::Null) => Some(Keep::No),
        Some(value) => value.as_str().and_then(keep_of),
    };
    if keep.is_none() {
        errors.push(FieldError::wrong("/keep", KEEP, &text_of(&fields["keep"])));
    }
    match (handling, keep) {
        (Some(handling), Some(keep)) if errors.is_empty() => Ok(Decision { handling, keep }),
        _ => Err(invalid(errors)),
    }
}

/// What is kept under this name.
pub(crate) fn keep_of(name: &str) -> Option<Keep> {
    [Keep::Rule, Keep::Row].into_iter().find(|keep| keep.name() == Some(name))
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn handling(value: Option<&Value>, errors: &mut Vec<FieldError>) -> Option<Handling> {
    let expected = || format!("one of {}", Handling::ALL.map(Handling::name).join(", "));
    let Some(value) = value else {
        errors.push(FieldError::missing("/handling", expected()));
        return None;
    };
    let found = value.as_str().and_then(Handling::from_name);
    if found.is_none() {
        errors.push(FieldError::wrong("/handling", expected(), &text_of(value)));
    }
    found
}

/// The decision isn't one: 422.
pub(crate) fn invalid(errors: Vec<FieldError>) -> Problem {
    let detail = match errors.as_slice() {
        [one] if one.field.is_empty() => format!("The decision must be {}.", one.expected),
        [one] => format!("{} must be {}.", one.field, one.expected),
        several => format!("{} fields are not as they should be.", several.len()),
    };
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-review", "Invalid review", detail).with_errors(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_read_or_refused_by_name() {
        let good = |handling, keep| Ok(Decision { handling, keep });
        assert_eq!(read(b"{\"handling\":\"frozen\"}"), good(Handling::Frozen, Keep::No));
        assert_eq!(read(b"{\"keep\":null,\"handling\":\"non_goods\"}"), good(Handling::NonGoods, Keep::No));
        assert_eq!(read(b"{\"handling\":\"chilled\",\"keep\":\"rule\"}"), good(Handling::Chilled, Keep::Rule));
        assert_eq!(read(b"{\"handling\":\"chilled\",\"keep\":\"row\"}"), good(Handling::Chilled, Keep::Row));
        for (body, fields) in [
            ("[]", &[""][..]),
            ("{}", &["/handling"]),
            ("{\"handling\":\"warm\"}", &["/handling"]),
            ("{\"handling\":5,\"keep\":\"\"}", &["/handling", "/keep"]),
            ("{\"handling\":\"frozen\",\"keep\":\"no\"}", &["/keep"]),
            ("{\"handling\":\"frozen\",\"why\":1}", &["/why"]),
        ] {
            let problem = read(body.as_bytes()).unwrap_err();
            assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
            assert_eq!(problem.errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), fields, "{body}");
        }
        assert!(read(b"{\"handling\":\"warm\"}").unwrap_err().detail.contains("fresh_produce, ambient_food"));
        assert_eq!(read(b"{").unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
