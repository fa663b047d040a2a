//! Why an order was refused: reads it again, slowly, into a tree, and names every field at fault with what was expected.

use std::{fmt, ops::RangeInclusive};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use sluice_http::{FieldError, Timestamp, Whole, problem::clip, rfc3339};

use crate::{
    decode::{Context, Placed},
    rules::{self, TextRule},
};

/// Fields that one problem names.
pub const MAX_ERRORS: usize = 10;

/// What is wrong with an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diagnosis {
    /// It isn't JSON, for the reason given.
    Malformed(String),
    /// It is JSON, but these fields are not as they should be; at most [`MAX_ERRORS`]. None if it is a good order.
    Fields(Vec<FieldError>),
}

/// Reads the order in `text` and says what is wrong with it. An order placed before the window is not wrong here.
pub fn diagnose(text: &str, key_in_body: bool, context: &Context<'_>) -> Diagnosis {
    let node = match serde_json::from_str::<Node>(text) {
        Ok(node) => node,
        Err(error) => return Diagnosis::Malformed(error.to_string()),
    };
    let mut walk = Walk { errors: Vec::new() };
    walk.order(&node, key_in_body, context);
    Diagnosis::Fields(walk.errors)
}

/// JSON as it was sent: fields in order, repeated ones kept.
enum Node {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// The value in a few words.
    fn got(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(b) => b.to_string(),
            Self::Number(n) => n.to_string(),
            Self::String(s) => s.clone(),
            Self::Array(_) => "an array".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Node::Null, Node::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Object(fields))
    }
}

/// A field's name within a pointer (RFC 6901, 3), cut to a bearable length.
fn pointer(parent: &str, name: &str) -> String {
    let name = clip(name);
    if name.contains(['~', '/']) {
        format!("{parent}/{}", name.replace('~', "~0").replace('/', "~1"))
    } else {
        format!("{parent}/{name}")
    }
}

struct Walk {
    errors: Vec<FieldError>,
}

impl Walk {
    fn push(&mut self, error: FieldError) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        }
    }

    fn wrong(&mut self, path: &str, expected: impl Into<String>, got: &str) {
        self.push(FieldError::wrong(path, expected.into(), got));
    }

    fn order(&mut self, node: &Node, key_in_body: bool, context: &Context<'_>) {
        const FIELDS: [&str; 6] = ["customer", "placed_at", "currency", "ship_to", "lines", "idempotency_key"];
        let known = if key_in_body { &FIELDS[..] } else { &FIELDS[..5] };
        let Some(fields) = self.object("", node, "an object: one order", known) else { return };
        for (name, value) in fields {
            let path = pointer("", name);
            match name.as_str() {
                "customer" => self.text(&path, value, &rules::CUSTOMER),
                "placed_at" => self.placed_at(&path, value, context),
                "currency" => self.text(&path, value, &rules::CURRENCY),
                "ship_to" => self.address(&path, value),
                "lines" => self.lines(&path, value),
                "idempotency_key" if key_in_body => self.text(&path, value, &rules::IDEMPOTENCY_KEY),
                _ => {}
            }
        }
    }

    /// The fields of an object, after naming those that are unknown, repeated or missing.
    fn object<'n>(
        &mut self,
        path: &str,
        node: &'n Node,
        expected: &'static str,
        known: &[&str],
    ) -> Option<&'n [(String, Node)]> {
        let Node::Object(fields) = node else {
            self.wrong(path, expected, &node.got());
            return None;
        };
        // `known` is short and each of its names counts once, so this stays linear in the number of fields.
        let mut seen = [false; 8];
        for (name, value) in fields {
            match known.iter().position(|k| k == name) {
                None => self.wrong(&pointer(path, name), format!("only the fields {}", known.join(", ")), &value.got()),
                Some(at) if seen[at] => self.wrong(&pointer(path, name), "a field given once", &value.got()),
                Some(at) => seen[at] = true,
            }
        }
        for (at, name) in known.iter().enumerate().filter(|(at, _)| !seen[*at]) {
            debug_assert!(at < seen.len());
            self.push(FieldError::missing(pointer(path, name), what(name)));
        }
        Some(fields)
    }

    fn text(&mut self, path: &str, node: &Node, rule: &TextRule) {
        match node {
            Node::String(text) if rule.accepts(text) => {}
            Node::String(text) if rule.is_too_long(text) => {
                self.wrong(path, rule.expected(), &format!("{} bytes", text.len()));
            }
            other => self.wrong(path, rule.expected(), &other.got()),
        }
    }

    fn integer(&mut self, path: &str, node: &Node, range: &RangeInclusive<u64>) {
        if let Node::Number(number) = node
            && Whole::of(number).is_some_and(|n| range.contains(&n.0))
        {
            return;
        }
        self.wrong(path, format!("an integer from {} to {}", range.start(), range.end()), &node.got());
    }

    fn placed_at(&mut self, path: &str, node: &Node, context: &Context<'_>) {
        let time = if let Node::String(text) = node { rfc3339::parse(text) } else { None };
        match time {
            None => self.wrong(path, "an RFC 3339 date-time with seconds up to 59 and an offset or Z", &node.got()),
            Some(ms) if context.place(ms) == Placed::Impossible => {
                self.wrong(path, window(context), &node.got());
            }
            Some(_) => {}
        }
    }

    fn address(&mut self, path: &str, node: &Node) {
        let known = ["name", "street", "city", "postal_code", "country"];
        let Some(fields) = self.object(path, node, "an object: an address", &known) else { return };
        for (name, value) in fields {
            let rule = match name.as_str() {
                "name" | "street" | "city" => &rules::ADDRESS,
                "postal_code" => &rules::POSTAL_CODE,
                "country" => &rules::COUNTRY,
                _ => continue,
            };
            self.text(&pointer(path, name), value, rule);
        }
    }

    fn lines(&mut self, path: &str, node: &Node) {
        let expected = || format!("an array of {} to {} lines", rules::LINES.start(), rules::LINES.end());
        let Node::Array(lines) = node else { return self.wrong(path, expected(), &node.got()) };
        if !rules::LINES.contains(&lines.len()) {
            self.wrong(path, expected(), &format!("{} lines", lines.len()));
        }
        for (number, line) in lines.iter().enumerate() {
            if self.errors.len() == MAX_ERRORS {
                return;
            }
            self.line(&format!("{path}/{number}"), line);
        }
    }

    fn line(&mut self, path: &str, node: &Node) {
        let known = ["sku", "title", "quantity", "unit_price"];
        let Some(fields) = self.object(path, node, "an object: a line", &known) else { return };
        for (name, value) in fields {
            let path = pointer(path, name);
            match name.as_str() {
                "sku" => self.text(&path, value, &rules::SKU),
                "title" => self.text(&path, value, &rules::TITLE),
                "quantity" => self.integer(&path, value, &rules::QUANTITY),
                "unit_price" => self.integer(&path, value, &rules::UNIT_PRICE),
                _ => {}
            }
        }
    }
}

/// What a missing field should hold.
fn what(name: &str) -> String {
    let rule = match name {
        "customer" => &rules::CUSTOMER,
        "currency" => &rules::CURRENCY,
        "idempotency_key" => &rules::IDEMPOTENCY_KEY,
        "name" | "street" | "city" => &rules::ADDRESS,
        "postal_code" => &rules::POSTAL_CODE,
        "country" => &rules::COUNTRY,
        "sku" => &rules::SKU,
        "title" => &rules::TITLE,
        "placed_at" => return "an RFC 3339 date-time".to_owned(),
        "ship_to" => return "an object: an address".to_owned(),
        "lines" => return format!("an array of {} to {} lines", rules::LINES.start(), rules::LINES.end()),
        "quantity" => return format!("an integer from {} to {}", rules::QUANTITY.start(), rules::QUANTITY.end()),
        _ => return format!("an integer from {} to {}", rules::UNIT_PRICE.start(), rules::UNIT_PRICE.end()),
    };
    rule.expected()
}

/// The window in words.
pub fn window(context: &Context<'_>) -> String {
    let from = Timestamp(context.now_ms.saturating_sub(context.window_ms));
    let to = Timestamp(context.now_ms.saturating_add(context.window_ms));
    format!("a time within {} s of now: {from} to {to}", context.window_ms / 1_000)
}
