//! The decoder and the diagnosis must come to the same answer about every text: otherwise an order could be refused
//! without a reason, or taken against the rules.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what must hold")]

use proptest::{prelude::*, sample::Index};
use sluice_checkout::{
    decode::{Context, Decoded, Key, Scratch, Unfit, decode},
    diagnose::{Diagnosis, MAX_ERRORS, diagnose},
};
use sluice_domain::{Fingerprint, OrderId, SlotCount};
use sluice_schemas::order::OrderRef;

const NOW: u64 = 1_794_355_200_123;
const CONTEXT: Context<'static> =
    Context { merchant: "m-1", slots: SlotCount::DEFAULT, now_ms: NOW, window_ms: 600_000 };

const ORDER: &str = r#"{"customer":"c-77","placed_at":"2026-11-11T00:00:00.123Z","currency":"USD",
    "ship_to":{"name":"Ada \"A.\" L","street":"12 Mill Läne","city":"Springfield","postal_code":"12345","country":"US"},
    "lines":[{"sku":"1029743","title":"YOGURT | 6 OZ","quantity":2,"unit_price":129},
             {"unit_price":0,"quantity":1,"title":"\ud83c\udf63 \u00e9","sku":"7"}],"idempotency_key":"k-1"}"#;

fn run(text: &str, key: Key<'_>) -> (Result<Decoded, Unfit>, Vec<u8>) {
    let mut out = b"before".to_vec();
    let result = decode(text, key, &CONTEXT, &mut Scratch::default(), &mut out);
    (result, out)
}

#[test]
fn a_record_holds_what_the_order_said() {
    let (decoded, out) = run(ORDER, Key::InBody);
    let decoded = decoded.unwrap();
    let fingerprint = Fingerprint::of("m-1", "k-1");
    assert_eq!(decoded.id, OrderId::new(NOW, fingerprint, SlotCount::DEFAULT));
    assert_eq!((decoded.fingerprint, decoded.late, decoded.record.clone()), (fingerprint, false, 6..out.len()));
    let order = OrderRef::decode(&out[decoded.record]).unwrap();
    assert_eq!((order.id, order.fingerprint(), order.accepted_at_ms), (decoded.id.0, fingerprint.0, NOW));
    assert_eq!((order.merchant, order.customer, order.currency), ("m-1", "c-77", "USD"));
    let to = order.ship_to;
    assert_eq!((to.name, to.street, to.city), ("Ada \"A.\" L", "12 Mill Läne", "Springfield"));
    assert_eq!((to.postal_code, to.country), ("12345", "US"));
    let lines: Vec<_> = order.lines().map(Result::unwrap).collect();
    let flat: Vec<_> = lines.iter().map(|l| (l.sku, l.title, l.quantity, l.unit_price)).collect();
    assert_eq!(flat, [("1029743", "YOGURT | 6 OZ", 2, 129), ("7", "🍣 é", 1, 0)]);
}

#[test]
fn the_same_order_makes_the_same_record_whatever_its_order_of_fields() {
    let (_, one) = run(ORDER, Key::InBody);
    let shuffled = r#"{"idempotency_key":"k\u002d1","lines":[{"title":"YOGURT | 6 OZ","unit_price":129,"sku":"1029743",
        "quantity":2},{"sku":"7","title":"🍣 é","quantity":1,"unit_price":0}],"ship_to":{"country":"US",
        "postal_code":"12345","city":"Springfield","street":"12 Mill L\u00e4ne","name":"Ada \"A.\" L"},
        "currency":"USD","placed_at":"2026-11-11T01:00:00.1239+01:00","customer":"c-77"}"#;
    let (_, other) = run(shuffled, Key::InBody);
    assert_eq!(one, other);
}

#[test]
fn an_unfit_order_leaves_no_bytes_behind() {
    for bad in ["", "{}", "[]", "null", &ORDER[..ORDER.len() - 1], &format!("{ORDER}x"), &ORDER.replace("US\"", "us\"")]
    {
        assert_eq!(run(bad, Key::InBody), (Err(Unfit), b"before".to_vec()), "{bad}");
    }
}

#[test]
fn the_key_is_in_the_body_or_nowhere() {
    assert!(run(ORDER, Key::Given("k-1")).0.is_err());
    let without = ORDER.replace(r#","idempotency_key":"k-1""#, "");
    assert!(run(&without, Key::InBody).0.is_err());
    assert_eq!(run(&without, Key::Given("k-1")), run(ORDER, Key::InBody));
}

#[test]
fn a_whole_number_is_one_however_it_is_written() {
    for same in ["2.0", "2e0", "20E-1"] {
        let text = ORDER.replacen("\"quantity\":2", &format!("\"quantity\":{same}"), 1);
        assert_eq!((run(&text, Key::InBody), fields(&text)), (run(ORDER, Key::InBody), vec![]), "{same}");
    }
}

fn fields(text: &str) -> Vec<(String, String, Option<String>)> {
    match diagnose(text, true, &CONTEXT) {
        Diagnosis::Fields(errors) => errors.into_iter().map(|e| (e.field, e.expected.into_owned(), e.got)).collect(),
        Diagnosis::Malformed(reason) => panic!("{text} is malformed: {reason}"),
    }
}

#[test]
fn every_fault_is_named_where_it_is() {
    let cases = [
        ("\"customer\":\"c-77\"", "\"customer\":7", "/customer", "a string of 1 to 64 bytes", Some("7")),
        ("\"customer\":\"c-77\",", "", "/customer", "a string of 1 to 64 bytes", None),
        ("\"customer\"", "\"cu~st/omer\"", "/cu~0st~1omer", "only the fields customer, placed_at", Some("c-77")),
        ("\"currency\":\"USD\"", "\"currency\":\"usd\"", "/currency", "three upper-case letters", Some("usd")),
        ("\"currency\":", "\"currency\":\"EUR\",\"currency\":", "/currency", "a field given once", Some("USD")),
        ("\"country\":\"US\"", "\"country\":\"USA\"", "/ship_to/country", "two upper-case letters", Some("3 bytes")),
        ("\"city\":\"Springfield\",", "", "/ship_to/city", "a string of 1 to 100 bytes", None),
        ("\"quantity\":2", "\"quantity\":0", "/lines/0/quantity", "an integer from 1 to 1000", Some("0")),
        ("\"quantity\":2", "\"quantity\":2.5", "/lines/0/quantity", "an integer from 1 to 1000", Some("2.5")),
        ("\"quantity\":1", "\"quantity\":-1", "/lines/1/quantity", "an integer from 1 to 1000", Some("-1")),
        (
            "\"unit_price\":0",
            "\"unit_price\":\"0\"",
            "/lines/1/unit_price",
            "an integer from 0 to 1000000000",
            Some("0"),
        ),
        ("\"sku\":\"7\"", "\"sku\":\"\\u0007\"", "/lines/1/sku", "without control characters", Some("\u{7}")),
        (
            "00:00:00.123Z",
            "00:10:00.124Z",
            "/placed_at",
            "a time within 600 s of now",
            Some("2026-11-11T00:10:00.124Z"),
        ),
        ("00:00:00.123Z", "00:00:60Z", "/placed_at", "an RFC 3339 date-time", Some("2026-11-11T00:00:60Z")),
        ("k-1", "k 1", "/idempotency_key", "a string of 1 to 255 visible ASCII characters", Some("k 1")),
    ];
    for (from, to, field, expected, got) in cases {
        let text = ORDER.replacen(from, to, 1);
        let faults = fields(&text);
        let hit = faults.iter().find(|f| f.0 == field).unwrap_or_else(|| panic!("{to}: {faults:?}"));
        assert!(hit.1.contains(expected), "{to}: {hit:?}");
        assert_eq!(hit.2.as_deref(), got, "{to}");
    }
    assert_eq!(fields(ORDER), []);
}

#[test]
fn a_wrong_shape_is_one_fault() {
    for (text, field) in [("[]", ""), ("7", ""), ("null", "")] {
        assert_eq!(fields(text).iter().map(|f| f.0.as_str()).collect::<Vec<_>>(), [field], "{text}");
    }
    assert_eq!(fields(&ORDER.replace("\"lines\":[", "\"lines\":[7,"))[0].0, "/lines/0");
    let none = ORDER.find("\"lines\":[").map(|at| format!("{}\"lines\":[],\"idempotency_key\":\"k\"}}", &ORDER[..at]));
    assert_eq!(fields(&none.unwrap())[0].2.as_deref(), Some("0 lines"));
}

#[test]
fn at_most_ten_faults_are_named() {
    let faults = |n: usize| {
        let extra: String = (0..n).map(|i| format!("\"x{i}\":1,")).collect();
        fields(&ORDER.replacen('{', &format!("{{{extra}"), 1)).len()
    };
    assert_eq!((faults(9), faults(10), faults(11), faults(500)), (9, MAX_ERRORS, MAX_ERRORS, MAX_ERRORS));
}

#[test]
fn what_is_not_json_is_malformed() {
    let deep = "[".repeat(1_000);
    for text in ["", "{", "{\"a\":}", "{\"a\":\"\\ud800\"}", "{\"a\":1e999}", "\u{feff}{}", "{\"a\":\"\n\"}", &deep] {
        assert!(matches!(diagnose(text, true, &CONTEXT), Diagnosis::Malformed(_)), "{text}");
        assert!(run(text, Key::InBody).0.is_err());
    }
}

#[test]
fn the_window_has_both_its_ends() {
    let late = |ms: u64| {
        let text = ORDER.replace("2026-11-11T00:00:00.123Z", &sluice_http::Timestamp(ms).to_string());
        run(&text, Key::InBody).0.map(|d| d.late)
    };
    assert_eq!(late(NOW - 600_001), Ok(true));
    assert_eq!(late(NOW - 600_000), Ok(false));
    assert_eq!(late(NOW - 599_999), Ok(false));
    assert_eq!(late(NOW + 599_999), Ok(false));
    assert_eq!(late(NOW + 600_000), Ok(false));
    assert_eq!(late(NOW + 600_001), Err(Unfit));
    let before_1970 = ORDER.replace("2026-11-11", "1969-11-11");
    assert_eq!(run(&before_1970, Key::InBody).0, Err(Unfit));
    assert_eq!(fields(&before_1970)[0].0, "/placed_at");
}

/// JSON that may repeat fields and hold anything as a value.
#[derive(Debug, Clone)]
enum Json {
    Raw(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn write(&self, out: &mut String) {
        match self {
            Json::Raw(text) => out.push_str(text),
            Json::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    out.push(if i == 0 { '[' } else { ',' });
                    item.write(out);
                }
                out.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Json::Object(fields) => {
                for (i, (name, value)) in fields.iter().enumerate() {
                    out.push(if i == 0 { '{' } else { ',' });
                    out.push_str(name);
                    out.push(':');
                    value.write(out);
                }
                out.push_str(if fields.is_empty() { "{}" } else { "}" });
            }
        }
    }

    /// Calls `change` on the `at`-th node, counted depth first.
    fn change_at(&mut self, at: &mut usize, change: &mut dyn FnMut(&mut Json)) {
        let here = *at == 0;
        // After the hit this wraps to a number no order reaches.
        *at = at.wrapping_sub(1);
        if here {
            return change(self);
        }
        match self {
            Json::Raw(_) => {}
            Json::Array(items) => items.iter_mut().for_each(|i| i.change_at(at, change)),
            Json::Object(fields) => fields.iter_mut().for_each(|(_, v)| v.change_at(at, change)),
        }
    }

    fn count(&self) -> usize {
        1 + match self {
            Json::Raw(_) => 0,
            Json::Array(items) => items.iter().map(Json::count).sum(),
            Json::Object(fields) => fields.iter().map(|(_, v)| v.count()).sum(),
        }
    }
}

fn good() -> Json {
    fn from(value: &serde_json::Value) -> Json {
        match value {
            serde_json::Value::Array(items) => Json::Array(items.iter().map(from).collect()),
            serde_json::Value::Object(fields) => {
                Json::Object(fields.iter().map(|(k, v)| (format!("\"{k}\""), from(v))).collect())
            }
            other => Json::Raw(other.to_string()),
        }
    }
    from(&serde_json::from_str(ORDER).unwrap())
}

/// One way to spoil an order, or not.
#[derive(Debug, Clone)]
enum Change {
    Replace(String),
    Remove(Index),
    Repeat(Index),
    Rename(Index, String),
    Add(String, String),
}

impl Change {
    fn apply(&self, node: &mut Json) {
        match (self, node) {
            (Change::Replace(raw), node) => *node = Json::Raw(raw.clone()),
            (Change::Remove(at), Json::Object(fields)) if !fields.is_empty() => {
                fields.remove(at.index(fields.len()));
            }
            (Change::Repeat(at), Json::Object(fields)) if !fields.is_empty() => {
                fields.push(fields[at.index(fields.len())].clone());
            }
            (Change::Rename(at, name), Json::Object(fields)) if !fields.is_empty() => {
                let at = at.index(fields.len());
                fields[at].0.clone_from(name);
            }
            (Change::Add(name, raw), Json::Object(fields)) => fields.push((name.clone(), Json::Raw(raw.clone()))),
            (Change::Remove(at), Json::Array(items)) if !items.is_empty() => {
                items.remove(at.index(items.len()));
            }
            (Change::Repeat(at), Json::Array(items)) if !items.is_empty() => {
                let item = items[at.index(items.len())].clone();
                items.resize(items.len() + at.index(120), item);
            }
            (Change::Add(_, raw), Json::Array(items)) => items.push(Json::Raw(raw.clone())),
            _ => {}
        }
    }
}

/// Values at and around every bound, right and wrong ones alike.
fn raw() -> impl Strategy<Value = String> {
    let text = |len: usize| format!("\"{}\"", "x".repeat(len));
    let texts = [0, 1, 2, 3, 15, 16, 17, 63, 64, 65, 99, 100, 101, 199, 200, 201, 254, 255, 256].map(text);
    let numbers = "0 1 2 -0 -1 0.5 1.0 1e0 999 1000 1001 999999999 1000000000 1000000001 4294967297 \
                   18446744073709551615 18446744073709551616 1e400 01 null true [] {} [[]] {\"a\":1}";
    let odd = [
        "\"EUR\"",
        "\"eur\"",
        "\"\\u0045UR\"",
        "\"DE\"",
        "\"\\u00e9\"",
        "\"é\"",
        "\"\\u0000\"",
        "\"\u{7f}\"",
        "\"\\u0085\"",
        "\"a b\"",
        "\"\\ud83c\\udf63\"",
        "\"\\ud83c\"",
        "\"2026-11-11T00:09:59Z\"",
        "\"2026-11-10T23:00:00Z\"",
        "\"2026-11-11T00:10:00.123Z\"",
        "\"2026-11-11T00:10:00.124Z\"",
        "\"2026-11-11T00:00:60Z\"",
        "\"1960-01-01T00:00:00Z\"",
        "\"9999-12-31T23:59:59Z\"",
        "\"2026-11-11T05:30:00+05:30\"",
        "\"2026-02-29T00:00:00Z\"",
        "\"\\n\"",
        "\"",
        "tru",
        "nan",
    ];
    let all: Vec<String> = texts.into_iter().chain(numbers.split(' ').chain(odd).map(str::to_owned)).collect();
    prop::sample::select(all)
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "\"customer\"",
        "\"placed_at\"",
        "\"currency\"",
        "\"ship_to\"",
        "\"lines\"",
        "\"idempotency_key\"",
        "\"name\"",
        "\"sku\"",
        "\"quantity\"",
        "\"Customer\"",
        "\"\"",
        "\"\\u0063ustomer\"",
        "\"x\"",
        "\"\\ud800\"",
        "7",
    ])
    .prop_map(str::to_owned)
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => raw().prop_map(Change::Replace),
        1 => any::<Index>().prop_map(Change::Remove),
        1 => any::<Index>().prop_map(Change::Repeat),
        1 => (any::<Index>(), name()).prop_map(|(at, name)| Change::Rename(at, name)),
        1 => (name(), raw()).prop_map(|(name, raw)| Change::Add(name, raw)),
    ]
}

fn assert_same_answer(text: &str) -> Result<(), TestCaseError> {
    for (key, in_body) in [(Key::InBody, true), (Key::Given("k"), false)] {
        let (fast, out) = run(text, key);
        let slow = diagnose(text, in_body, &CONTEXT);
        prop_assert_eq!(fast.is_ok(), slow == Diagnosis::Fields(Vec::new()), "{}: {:?}", text, slow);
        if let Diagnosis::Fields(errors) = slow {
            prop_assert!(errors.len() <= MAX_ERRORS);
        }
        if let Ok(decoded) = fast {
            let order = OrderRef::decode(&out[decoded.record]).unwrap();
            prop_assert_eq!(order.lines().filter(Result::is_ok).count(), order.line_count());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn both_readings_agree_on_changed_orders(changes in prop::collection::vec((any::<Index>(), change()), 0..4)) {
        let mut order = good();
        for (at, change) in &changes {
            let mut at = at.index(order.count());
            order.change_at(&mut at, &mut |node| change.apply(node));
        }
        let mut text = String::new();
        order.write(&mut text);
        assert_same_answer(&text)?;
    }

    #[test]
    fn both_readings_agree_on_damaged_text(cuts in prop::collection::vec((any::<Index>(), any::<char>()), 1..4)) {
        let mut chars: Vec<char> = ORDER.chars().collect();
        for (at, c) in cuts {
            let at = at.index(chars.len());
            chars[at] = c;
        }
        assert_same_answer(&chars.into_iter().collect::<String>())?;
    }

    #[test]
    fn both_readings_agree_on_every_beginning(end in 0..ORDER.len()) {
        assert_same_answer(&ORDER[..ORDER.floor_char_boundary(end)])?;
    }
}
