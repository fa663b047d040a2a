//! Orders to post, as JSON written by hand: nothing here is shared with the code that reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sluice_http::rfc3339;

/// One of these weighs 4,000 g, an estimate, and needs an age check.
pub const BEER: &str = "BEER | 24 PK";
/// 1,200 g, an estimate; a live plant.
pub const PLANT: &str = "ORCHID | 1 CT";
/// 170 g, chilled.
pub const YOGURT: &str = "YOGURT | 6 OZ";
/// 1,361 g, frozen.
pub const ICE: &str = "ICE CREAM | 48 OZ";
/// 400 g, an estimate; ambient.
pub const THING: &str = "SHIRT";

/// Nothing that a catalogue, a rule or a model knows: it waits for a person.
pub const ODDITY: &str = "QWXZJV GRUMBLEF | 3 CT";

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// `ms` as the API writes times.
pub fn time(ms: u64) -> String {
    String::from_utf8(rfc3339::format(ms).to_vec()).unwrap()
}

/// An order placed now, of these goods and quantities.
pub fn order_of(goods: &[(&str, u32)]) -> Value {
    let line = |(n, (title, quantity)): (usize, &(&str, u32))| json!({"sku": format!("x-{n}"), "title": title, "quantity": quantity, "unit_price": 129});
    let lines: Vec<Value> = goods.iter().enumerate().map(line).collect();
    json!({
        "customer": "c-77", "placed_at": time(now_ms()), "currency": "USD",
        "ship_to": {"name": "Ada", "street": "12 Mill Lane", "city": "Springfield", "postal_code": "12345", "country": "US"},
        "lines": lines,
    })
}

/// A small order of one parcel, placed now.
pub fn order() -> Value {
    order_of(&[(YOGURT, 2)])
}

/// The order as a line of a batch.
pub fn line(key: &str, mut order: Value) -> Value {
    order["idempotency_key"] = key.into();
    order
}

/// The JSON of `value` in exactly `bytes` bytes: blanks before its end.
pub fn padded(value: &Value, bytes: usize) -> String {
    let mut text = value.to_string();
    assert_eq!(text.pop(), Some('}'));
    let blanks = " ".repeat(bytes - text.len() - 1);
    text + &blanks + "}"
}
