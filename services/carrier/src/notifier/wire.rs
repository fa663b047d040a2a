//! What carriers read and write: a manifest as JSON, straight from the order records, and their results.
//!
//! Writing is by hand because it is the hottest loop of the notifier: one pass over the record, no tree in between.

use std::borrow::Cow;

use serde::Deserialize;
use sluice_domain::ShipmentId;
use sluice_pipeline::{Manifest, OutboxEntry, ShipmentAnswer};
use sluice_schemas::{
    CodecError,
    delta::{FIRST_RETURN, Items, VOID},
    order::{Line, OrderRef},
    wire::Reader,
};
use ulid::Ulid;

use super::dates::put_rfc3339;

/// Why an entry can't be put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Record or items can't be read.
    #[error("the stored order can't be read: {0}")]
    Codec(#[from] CodecError),
    /// The items name a line that the order does not have.
    #[error("the stored order has no line {0}")]
    NoSuchLine(u16),
    /// The record belongs to another order.
    #[error("the stored record is that of another order")]
    OtherOrder,
}

/// What a carrier is asked by an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To bring a parcel to the customer.
    Ship,
    /// To bring goods back from the customer.
    Return,
    /// To forget a shipment that it took.
    Void,
}

impl Purpose {
    pub(super) fn of(entry: &OutboxEntry) -> Self {
        match entry.shipment {
            ShipmentId { attempt, .. } if attempt & VOID != 0 => Self::Void,
            ShipmentId { parcel: FIRST_RETURN.., .. } => Self::Return,
            _ => Self::Ship,
        }
    }
}

/// Appends `manifest` as JSON. Entries that can't be written are left out and returned, as indices with the reason. What is
/// asked lies in a list of its own for each purpose, so that a carrier that doesn't know one takes it for nothing else; only
/// `shipments` is always there.
pub fn write_manifest(manifest: &Manifest, out: &mut Vec<u8>) -> Vec<(usize, WireError)> {
    let mut left_out = Vec::new();
    out.extend_from_slice(b"{\"manifest_id\":");
    put_text(out, &manifest.id);
    out.extend_from_slice(b",\"expires_at\":\"");
    put_rfc3339(out, manifest.expires_at_ms);
    out.extend_from_slice(b"\",\"shipments\":[");
    let others = put_entries(manifest, Purpose::Ship, out, &mut left_out);
    if others {
        for (purpose, list) in [(Purpose::Return, &b"],\"returns\":["[..]), (Purpose::Void, b"],\"voids\":[")] {
            if manifest.shipments.entries.iter().any(|entry| Purpose::of(entry) == purpose) {
                out.extend_from_slice(list);
                put_entries(manifest, purpose, out, &mut left_out);
            }
        }
    }
    out.extend_from_slice(b"]}");
    left_out
}

/// Appends the entries of one purpose; true if there are others.
fn put_entries(
    manifest: &Manifest,
    purpose: Purpose,
    out: &mut Vec<u8>,
    left_out: &mut Vec<(usize, WireError)>,
) -> bool {
    let (first, mut others) = (out.len(), false);
    for (index, entry) in manifest.shipments.entries.iter().enumerate() {
        if Purpose::of(entry) != purpose {
            others = true;
            continue;
        }
        let before = out.len();
        if before > first {
            out.push(b',');
        }
        let put = match purpose {
            Purpose::Void => {
                put_void(entry.shipment, out);
                Ok(())
            }
            Purpose::Ship => put_shipment(&manifest.shipments.bytes, entry, b",\"ship_to\":{\"name\":", out),
            Purpose::Return => put_shipment(&manifest.shipments.bytes, entry, b",\"collect_from\":{\"name\":", out),
        };
        if let Err(error) = put {
            out.truncate(before);
            left_out.push((index, error));
        }
    }
    others
}

fn put_void(void: ShipmentId, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"void_id\":");
    put_id(void, out);
    out.extend_from_slice(b",\"shipment_id\":");
    put_id(ShipmentId { attempt: void.attempt & !VOID, ..void }, out);
    out.push(b'}');
}

fn put_id(id: ShipmentId, out: &mut Vec<u8>) {
    let mut text = [0; ulid::ULID_LEN];
    out.push(b'"');
    out.extend_from_slice(Ulid(id.order.0).array_to_str(&mut text).as_bytes());
    out.push(b'-');
    put_number(out, u64::from(id.parcel));
    out.push(b'-');
    put_number(out, u64::from(id.attempt));
    out.push(b'"');
}

/// `address` opens the field that says where the goods are to be brought, or collected.
fn put_shipment(bytes: &[u8], entry: &OutboxEntry, address: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    let order = OrderRef::decode(bytes.get(entry.record.clone()).unwrap_or_default())?;
    if order.id != entry.shipment.order.0 {
        return Err(WireError::OtherOrder);
    }
    let items = Items::read(&mut Reader::new(bytes.get(entry.items.clone()).unwrap_or_default()))?;
    let mut id = [0; ulid::ULID_LEN];
    let id = Ulid(order.id).array_to_str(&mut id);
    out.extend_from_slice(b"{\"shipment_id\":");
    put_id(entry.shipment, out);
    out.extend_from_slice(b",\"order_id\":\"");
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b"\",\"merchant\":");
    put_text(out, order.merchant);
    out.extend_from_slice(b",\"handling\":\"");
    out.extend_from_slice(entry.group.name().as_bytes());
    out.extend_from_slice(b"\",\"weight_g\":");
    put_number(out, u64::from(entry.weight.grams));
    out.extend_from_slice(b",\"weight_estimated\":");
    out.extend_from_slice(if entry.weight.estimated { b"true" } else { b"false" });
    let to = &order.ship_to;
    for (key, value) in [
        (address, to.name),
        (&b",\"street\":"[..], to.street),
        (b",\"city\":", to.city),
        (b",\"postal_code\":", to.postal_code),
        (b",\"country\":", to.country),
    ] {
        out.extend_from_slice(key);
        put_text(out, value);
    }
    out.extend_from_slice(b"},\"lines\":[");
    put_lines(&order, &items, out)?;
    out.extend_from_slice(b"]}");
    Ok(())
}

/// Items name lines by number, ascending as a rule, so one walk over the lines is enough; it starts again when they don't.
fn put_lines(order: &OrderRef<'_>, items: &Items<'_>, out: &mut Vec<u8>) -> Result<(), WireError> {
    let (mut lines, mut at) = (order.lines(), 0);
    let mut written = 0;
    for item in items.iter() {
        if item.line < at {
            (lines, at) = (order.lines(), 0);
        }
        let line = lines.nth(usize::from(item.line - at)).ok_or(WireError::NoSuchLine(item.line))??;
        at = item.line + 1;
        if written > 0 {
            out.push(b',');
        }
        put_line(&line, item.quantity.unwrap_or(line.quantity), out);
        written += 1;
    }
    // The iterator ends early where an item can't be read.
    if written == items.len() { Ok(()) } else { Err(CodecError { what: "items" }.into()) }
}

fn put_line(line: &Line<'_>, quantity: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"sku\":");
    put_text(out, line.sku);
    out.extend_from_slice(b",\"title\":");
    put_text(out, line.title);
    out.extend_from_slice(b",\"quantity\":");
    put_number(out, u64::from(quantity));
    out.extend_from_slice(b",\"unit_price\":");
    put_number(out, line.unit_price);
    out.push(b'}');
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a JSON string. Only what RFC 8259 asks for is escaped; the rest goes out in runs.
fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\') {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[derive(Deserialize)]
struct ResultsIn<'a> {
    #[serde(borrow)]
    results: Vec<ResultIn<'a>>,
}

#[derive(Deserialize)]
struct ResultIn<'a> {
    /// Of a void; then `shipment_id` may be there, too.
    #[serde(borrow, default)]
    void_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    shipment_id: Option<Cow<'a, str>>,
    outcome: OutcomeIn,
    #[serde(default)]
    tracking_number: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeIn {
    Accepted,
    Rejected,
    #[serde(other)]
    Other,
}

/// What an answer says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Final answers, in the answer's order.
    pub answers: Vec<ShipmentAnswer>,
    /// Results about something that is no shipment id of ours.
    pub alien: usize,
}

/// Reads `{"results":[…]}`, of shipments and returns by `shipment_id`, of voids by `void_id`. Keys that are not known are skipped. A result with an outcome that is not final leaves its
/// shipment unmentioned.
///
/// # Errors
/// When the bytes are not that; nothing of the answer is believed then.
pub fn read_results(body: &[u8]) -> Result<Results, serde_json::Error> {
    let ResultsIn { results } = serde_json::from_slice(body)?;
    let mut read = Results { answers: Vec::with_capacity(results.len()), alien: 0 };
    for ResultIn { void_id, shipment_id, outcome, tracking_number, reason } in results {
        let id = void_id.or(shipment_id);
        let Some(shipment) = id.and_then(|id| id.parse::<ShipmentId>().ok()) else {
            read.alien += 1;
            continue;
        };
        let outcome = match outcome {
            OutcomeIn::Accepted => Ok(tracking_number.unwrap_or_default()),
            OutcomeIn::Rejected => Err(reason.unwrap_or_default()),
            OutcomeIn::Other => continue,
        };
        read.answers.push(ShipmentAnswer { shipment, outcome });
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sluice_domain::{Group, OrderId};
    use sluice_pipeline::OutboxBatch;
    use sluice_schemas::{
        delta::{Item, Weight},
        order::{Head, ShipTo, put_head, put_line as put_record_line},
    };

    use super::*;

    fn entry(batch: &mut OutboxBatch, items: &[Item]) {
        let order = OrderId(1_794_268_800_123 << 80 | 77);
        let start = batch.bytes.len();
        let ship_to = ShipTo {
            name: "Zoë \"Z\" O\\Neil",
            street: "1 \u{1}\n\tRoad",
            city: "Köln",
            postal_code: "50667",
            country: "DE",
        };
        let head = Head {
            id: order.0,
            fingerprint_high: 1,
            accepted_at_ms: 1_794_268_800_200,
            merchant: "m-1",
            customer: "c-77",
            currency: "EUR",
            ship_to,
            lines: 3,
        };
        put_head(&mut batch.bytes, &head);
        for (sku, quantity) in [("a", 1), ("b", 2), ("c", 30)] {
            let line = Line { sku, title: "YOGURT | 6 OZ", quantity, unit_price: 129 };
            put_record_line(&mut batch.bytes, &line);
        }
        let record = start..batch.bytes.len();
        Items::encode(items, &mut batch.bytes);
        let entry_items = record.end..batch.bytes.len();
        let shipment = ShipmentId { order, parcel: batch.entries.len() as u8, attempt: 0 };
        let (group, position) = (Group::AgeRestricted, 9);
        batch.entries.push(OutboxEntry {
            position,
            shipment,
            group,
            weight: Weight { grams: 1_250, estimated: true },
            maybe_sent: false,
            record,
            items: entry_items,
        });
    }

    fn written(shipments: OutboxBatch) -> (Value, Vec<(usize, WireError)>) {
        let mut out = Vec::new();
        let manifest = Manifest { id: "m".into(), expires_at_ms: 1_794_355_200_000, shipments };
        let left_out = write_manifest(&manifest, &mut out);
        (serde_json::from_slice(&out).unwrap(), left_out)
    }

    #[test]
    fn a_manifest_has_the_published_shape() {
        let mut batch = OutboxBatch::default();
        entry(&mut batch, &[Item { line: 2, quantity: Some(7) }, Item { line: 0, quantity: Some(1) }]);
        let (value, left_out) = written(batch);
        assert!(left_out.is_empty());
        let id = OrderId(1_794_268_800_123 << 80 | 77).to_string();
        assert_eq!(
            value,
            json!({"manifest_id": "m", "expires_at": "2026-11-11T00:00:00.000Z", "shipments": [{
                "shipment_id": format!("{id}-0-0"), "order_id": id, "merchant": "m-1", "handling": "age_restricted",
                "weight_g": 1250, "weight_estimated": true,
                "ship_to": {"name": "Zoë \"Z\" O\\Neil", "street": "1 \u{1}\n\tRoad", "city": "Köln",
                            "postal_code": "50667", "country": "DE"},
                "lines": [{"sku": "c", "title": "YOGURT | 6 OZ", "quantity": 7, "unit_price": 129},
                          {"sku": "a", "title": "YOGURT | 6 OZ", "quantity": 1, "unit_price": 129}]}]})
        );
    }

    #[test]
    fn returns_and_voids_lie_in_lists_of_their_own() {
        let mut batch = OutboxBatch::default();
        for _ in 0..4 {
            entry(&mut batch, &[Item { line: 0, quantity: Some(1) }]);
        }
        let id = OrderId(1_794_268_800_123 << 80 | 77);
        for (entry, (parcel, attempt)) in
            batch.entries.iter_mut().zip([(3, VOID | 2), (0, 0), (FIRST_RETURN, 1), (4, VOID)])
        {
            entry.shipment = ShipmentId { order: id, parcel, attempt };
        }
        // What is to be forgotten needs no record.
        batch.entries[3].record = 0..0;
        let (value, left_out) = written(batch);
        assert!(left_out.is_empty());
        let ids =
            |list: &str| value[list].as_array().unwrap().iter().map(|e| e["shipment_id"].clone()).collect::<Vec<_>>();
        assert_eq!(ids("shipments"), [format!("{id}-0-0")]);
        assert_eq!(ids("returns"), [format!("{id}-200-1")]);
        assert_eq!(
            (value["returns"][0]["collect_from"]["city"].as_str(), value["returns"][0].get("ship_to")),
            (Some("Köln"), None)
        );
        let void = |parcel, attempt| json!({"void_id": format!("{id}-{parcel}-{}", 64 + attempt), "shipment_id": format!("{id}-{parcel}-{attempt}")});
        assert_eq!(value["voids"], json!([void(3, 2), void(4, 0)]));
        let (void, shipment) = (format!("{id}-3-66"), format!("{id}-3-2"));
        let result = json!({"void_id": void, "shipment_id": shipment, "outcome": "rejected", "reason": "sorted"});
        let body = json!({"results": [result]});
        let read = read_results(body.to_string().as_bytes()).unwrap();
        let refused = ShipmentId { order: id, parcel: 3, attempt: VOID | 2 };
        assert_eq!(read.answers, [ShipmentAnswer { shipment: refused, outcome: Err("sorted".to_owned()) }]);
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_left_out_alone() {
        let mut batch = OutboxBatch::default();
        let all: Vec<_> = (0..3).map(|line| Item { line, quantity: None }).collect();
        entry(&mut batch, &[Item { line: 3, quantity: None }]);
        entry(&mut batch, &all);
        entry(&mut batch, &all);
        entry(&mut batch, &all);
        entry(&mut batch, &all);
        batch.entries[2].record.end -= 1;
        batch.entries[3].shipment.order.0 += 1;
        let (value, left_out) = written(batch);
        assert_eq!(
            left_out,
            [
                (0, WireError::NoSuchLine(3)),
                (2, WireError::Codec(CodecError { what: "unit_price" })),
                (3, WireError::OtherOrder)
            ]
        );
        let quantities = |at: usize| value["shipments"][at]["lines"].as_array().unwrap().iter().map(|l| &l["quantity"]);
        assert_eq!(quantities(0).collect::<Vec<_>>(), [1, 2, 30]);
        assert_eq!(value["shipments"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn results_are_read_one_by_one() {
        let id = ShipmentId { order: OrderId(5), parcel: 1, attempt: 2 };
        let body = json!({"results": [
            {"shipment_id": id.to_string(), "outcome": "accepted", "tracking_number": "T\"1", "later": {"x": [1]}},
            {"shipment_id": id.to_string(), "outcome": "rejected", "reason": null},
            {"shipment_id": id.to_string(), "outcome": "pending"},
            {"shipment_id": "what", "outcome": "accepted"}], "more": 1});
        let read = read_results(body.to_string().as_bytes()).unwrap();
        assert_eq!(read.alien, 1);
        let outcomes: Vec<_> = read.answers.iter().map(|a| (a.shipment, a.outcome.clone())).collect();
        assert_eq!(outcomes, [(id, Ok("T\"1".to_owned())), (id, Err(String::new()))]);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for body in [
            "",
            "{}",
            "[]",
            "null",
            "{\"results\":[",
            "\u{1}",
            "{\"results\":[{\"shipment_id\":\"x\",\"outcome\":5}]}",
            "{\"results\":[]} x",
        ] {
            assert!(read_results(body.as_bytes()).is_err(), "{body}");
        }
        assert!(read_results(&[0xff, 0xfe]).is_err());
        assert_eq!(read_results(b"{\"results\":[]}").unwrap(), Results::default());
    }
}
