//! JSON → what is to come back: reason and units of each line, or the fields at fault by name.

use serde_json::Value;
use sluice_domain::limits::MAX_RETURN_REASON;
use sluice_http::{FieldError, Problem, Whole, body::malformed};

use axum::http::StatusCode;

/// Fields that a problem names.
const NAMED: usize = 10;

/// A wish that is well-formed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The customer's reason.
    pub reason: String,
    /// Units to bring back, by line of the order.
    pub quantities: Vec<u32>,
}

/// Reads a body about an order whose lines have so many units.
///
/// # Errors
/// 400 if it is no JSON, 422 if it isn't a return of this order's lines.
pub(crate) fn read(body: &[u8], ordered: &[u32]) -> Result<Wanted, Problem> {
    let value: Value = serde_json::from_slice(body).map_err(|error| malformed(format!("Not JSON: {error}.")))?;
    let mut errors = Vec::new();
    let Some(fields) = value.as_object() else {
        return Err(invalid(vec![FieldError::wrong("", "an object with reason and lines", &value.to_string())]));
    };
    for name in fields.keys().filter(|name| !matches!(name.as_str(), "reason" | "lines")) {
        errors.push(FieldError::wrong(format!("/{name}"), "no such field", name));
    }
    let reason = reason(fields.get("reason"), &mut errors);
    let quantities = lines(fields.get("lines"), ordered, &mut errors);
    if errors.is_empty() { Ok(Wanted { reason, quantities }) } else { Err(invalid(errors)) }
}

fn reason(value: Option<&Value>, errors: &mut Vec<FieldError>) -> String {
    let expected = format!("text of 1 to {MAX_RETURN_REASON} bytes without control characters");
    match value {
        Some(Value::String(text))
            if (1..=MAX_RETURN_REASON).contains(&text.len()) && !text.chars().any(char::is_control) =>
        {
            return text.clone();
        }
        Some(Value::String(text)) => errors.push(FieldError::wrong("/reason", expected, text)),
        Some(other) => errors.push(FieldError::wrong("/reason", expected, &other.to_string())),
        None => errors.push(FieldError::missing("/reason", expected)),
    }
    String::new()
}

fn lines(value: Option<&Value>, ordered: &[u32], errors: &mut Vec<FieldError>) -> Vec<u32> {
    let expected = format!("a list of 1 to {} lines of the order", ordered.len());
    let mut quantities = vec![0; ordered.len()];
    let items = match value {
        Some(Value::Array(items)) if (1..=ordered.len()).contains(&items.len()) => items,
        Some(other) => {
            let got = other.as_array().map_or_else(|| other.to_string(), |items| format!("{} items", items.len()));
            errors.push(FieldError::wrong("/lines", expected, &got));
            return quantities;
        }
        None => {
            errors.push(FieldError::missing("/lines", expected));
            return quantities;
        }
    };
    for (at, item) in items.iter().enumerate() {
        let field = |name: &str| format!("/lines/{at}/{name}");
        for name in
            item.as_object().iter().flat_map(|o| o.keys()).filter(|n| !matches!(n.as_str(), "line" | "quantity"))
        {
            errors.push(FieldError::wrong(field(name), "no such field", name));
        }
        let most = ordered.len() - 1;
        let expected = format!("the line's place in the order, an integer from 0 to {most}, once");
        let Some(line) = whole(item.get("line"), 0, most as u64, (field("line"), expected), errors) else { continue };
        let line = line as usize;
        if quantities[line] > 0 {
            let expected = "each line of the order once";
            errors.push(FieldError::wrong(field("line"), expected, &line.to_string()));
            continue;
        }
        let expected = format!("an integer from 1 to {}, the units ordered", ordered[line]);
        let most = u64::from(ordered[line]);
        if let Some(quantity) = whole(item.get("quantity"), 1, most, (field("quantity"), expected), errors) {
            quantities[line] = quantity as u32;
        }
    }
    quantities
}

fn whole(
    value: Option<&Value>,
    least: u64,
    most: u64,
    (field, expected): (String, String),
    errors: &mut Vec<FieldError>,
) -> Option<u64> {
    match value {
        None => errors.push(FieldError::missing(field, expected)),
        Some(value) => match value.as_number().and_then(Whole::of).filter(|n| (least..=most).contains(&n.0)) {
            Some(number) => return Some(number.0),
            None => errors.push(FieldError::wrong(field, expected, &value.to_string())),
        },
    }
    None
}

fn invalid(mut errors: Vec<FieldError>) -> Problem {
    let detail = match errors.as_slice() {
        [one] if one.field.is_empty() => format!("The return must be {}.", one.expected),
        [one] => format!("{} must be {}.", one.field, one.expected),
        several => format!("{} fields are not as they should be.", several.len()),
    };
    errors.truncate(NAMED);
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-return", "Invalid return", detail).with_errors(errors)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_to_come_back_is_read() {
        let body = json!({"reason": "too small", "lines": [{"line": 2, "quantity": 3}, {"line": 0, "quantity": 1}]});
        let wanted = read(body.to_string().as_bytes(), &[1, 7, 3]).unwrap();
        assert_eq!(wanted, Wanted { reason: "too small".to_owned(), quantities: vec![1, 0, 3] });
    }

    #[test]
    fn fields_at_fault_are_named() {
        let line =
            |line: Value, quantity: Value| json!({"reason": "r", "lines": [{"line": line, "quantity": quantity}]});
        let long = "x".repeat(MAX_RETURN_REASON + 1);
        let cases = [
            (json!([]), ""),
            (json!({}), "/reason"),
            (json!({"reason": "", "lines": [{"line": 0, "quantity": 1}]}), "/reason"),
            (json!({"reason": long, "lines": [{"line": 0, "quantity": 1}]}), "/reason"),
            (json!({"reason": "a\u{0}", "lines": [{"line": 0, "quantity": 1}]}), "/reason"),
            (json!({"reason": "r"}), "/lines"),
            (json!({"reason": "r", "lines": []}), "/lines"),
            (json!({"reason": "r", "lines": {}}), "/lines"),
            (json!({"reason": "r", "lines": [1, 2, 3]}), "/lines"),
            (json!({"reason": "r", "lines": [{"line": 0, "quantity": 1}], "why": 1}), "/why"),
            (json!({"reason": "r", "lines": [{"line": 0, "quantity": 1, "sku": 1}]}), "/lines/0/sku"),
            (
                json!({"reason": "r", "lines": [{"line": 0, "quantity": 1}, {"line": 0, "quantity": 1}]}),
                "/lines/1/line",
            ),
            (json!({"reason": "r", "lines": [7]}), "/lines/0/line"),
            (line(json!(2), json!(1)), "/lines/0/line"),
            (line(json!(-1), json!(1)), "/lines/0/line"),
            (line(json!("0"), json!(1)), "/lines/0/line"),
            (line(json!(1), json!(0)), "/lines/0/quantity"),
            (line(json!(1), json!(8)), "/lines/0/quantity"),
            (line(json!(1), json!(1.5)), "/lines/0/quantity"),
            (line(json!(1.5), json!(1)), "/lines/0/line"),
            (line(json!(1), Value::Null), "/lines/0/quantity"),
        ];
        for (body, field) in cases {
            let problem = read(body.to_string().as_bytes(), &[1, 7]).unwrap_err();
            assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
            assert_eq!(problem.errors[0].field, field, "{body}: {problem:?}");
        }
        assert_eq!(read(b"{", &[1]).unwrap_err().status, StatusCode::BAD_REQUEST);
        let many = json!({"reason": "r", "lines": vec![json!({"line": -1}); 40]});
        assert_eq!(read(many.to_string().as_bytes(), &[1; 40]).unwrap_err().errors.len(), NAMED);
    }
}
