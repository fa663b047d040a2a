//! Frozen events and the frozen description: what is written today equals them, and they are still read.
//!
//! `cargo test -p sluice-schemas regenerate -- --ignored` adds events of a new version and refuses to change others;
//! `SLUICE_UPDATE_GOLDEN=1 cargo test -p sluice-schemas asyncapi` rewrites the description. Consumers see both, so say
//! what is new in the change log. The description shows the frozen events as examples: write them first.

use std::{fs, path::PathBuf};

use serde_json::Value;

use super::{
    ContentType, DEFAULT_SOURCE, EventId, EventType, Headers, PROTO, TOPIC, asyncapi, encode_json, read, rfc3339,
    samples::{ID, Sample, of_estimates, one_of_each, text},
};
use crate::fixtures_tests::freeze;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn pretty(json: &str) -> String {
    let value: Value = serde_json::from_str(json).unwrap();
    serde_json::to_string_pretty(&value).unwrap() + "\n"
}

fn samples() -> impl Iterator<Item = Sample> {
    one_of_each().into_iter().chain(of_estimates())
}

#[test]
fn events_equal_what_was_frozen_and_are_still_read() {
    for (name, _, bytes, expected) in samples() {
        let frozen = fs::read(path(&format!("fixtures/event-{name}-v1.bin"))).unwrap();
        assert_eq!(frozen, bytes, "{name}");
        assert_eq!(read::decode(&frozen), Ok(expected), "{name}");
        let json = fs::read_to_string(path(&format!("fixtures/event-{name}-v1.json"))).unwrap();
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(value(&json), value(&encode_json(&frozen).unwrap()), "{name}");
    }
}

#[test]
fn personal_data_stays_inside() {
    for (name, _, bytes, _) in samples() {
        assert!(!bytes.windows(6).any(|w| w == b"SECRET"), "{name}");
    }
}

#[test]
#[ignore = "writes the fixtures; run it when a format gets a new version"]
fn regenerate() {
    for (name, _, bytes, _) in samples() {
        let json = pretty(&encode_json(&bytes).unwrap());
        freeze(&path(&format!("fixtures/event-{name}-v1.bin")), &bytes);
        freeze(&path(&format!("fixtures/event-{name}-v1.json")), json.as_bytes());
    }
}

#[test]
fn the_asyncapi_description_is_frozen() {
    let (golden, today) = (path("asyncapi.json"), asyncapi::document(asyncapi::DEFAULT_PREFIX));
    if std::env::var_os("SLUICE_UPDATE_GOLDEN").is_some() {
        fs::write(&golden, serde_json::to_string_pretty(&today).unwrap() + "\n").unwrap();
    }
    let frozen: Value = serde_json::from_str(&fs::read_to_string(golden).unwrap()).unwrap();
    assert!(
        frozen == today,
        "the events' description is not schemas/asyncapi.json any more: clients are written against it. If the change \
         is meant, rewrite the file with SLUICE_UPDATE_GOLDEN=1 and say so in the change log"
    );
}

#[test]
fn the_asyncapi_description_says_what_is_emitted() {
    let document = asyncapi::document(asyncapi::DEFAULT_PREFIX);
    let names = |pointer: &str| -> Vec<String> {
        let mut names: Vec<_> = document.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let mut emitted: Vec<_> = one_of_each().iter().map(|(_, e, ..)| e.event_type.name().to_owned()).collect();
    emitted.sort();
    assert_eq!(names("/channels/orderEvents/messages"), emitted);
    assert_eq!(names("/components/messages"), emitted);
    assert_eq!(document["operations"]["publishOrderEvents"]["messages"].as_array().unwrap().len(), emitted.len());
    assert_eq!(document["channels"]["orderEvents"]["address"], "sluice.order-events");
    let proto = fs::read_to_string(path("proto/sluice/events/v1/order_event.proto")).unwrap();
    assert_eq!(document["components"]["schemas"]["OrderEvent"]["schema"], proto.as_str());
    assert_eq!(proto, PROTO);
    let other = asyncapi::document("eu.sluice");
    assert_eq!(other["channels"]["orderEvents"]["address"], format!("eu.sluice.{TOPIC}"));
    let mut refs = Vec::new();
    references(&document, &mut refs);
    assert_eq!(refs.len(), 3 * emitted.len() + 1);
    for target in refs {
        assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
    }
    for (name, event, _, _) in one_of_each() {
        let message = &document["components"]["messages"][event.event_type.name()];
        let headers = Headers::new(&event, EVENT, 0, DEFAULT_SOURCE, ContentType::Json);
        let mut written: Vec<_> = headers.list().iter().map(|(name, _)| *name).collect();
        let mut required: Vec<_> =
            message["headers"]["required"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        written.sort_unstable();
        required.sort_unstable();
        assert_eq!(written, required);
        let described: Vec<_> = message["headers"]["properties"].as_object().unwrap().keys().collect();
        assert_eq!(described.len(), written.len(), "{name}");
        assert!(message["examples"][0]["payload"]["orderId"] == text(ID).as_str(), "{name}");
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|v| references(v, found));
        }
        Value::Array(all) => all.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

const EVENT: EventId = EventId { epoch: 1, partition: 0x0203, position: 0x0405_0607_0809_0a0b, index: 0x0c0d_0e0f };

#[test]
fn headers_are_those_of_cloudevents() {
    let (_, event, _, _) = &one_of_each()[1];
    let headers = Headers::new(event, EVENT, 42, "/sluice/eu", ContentType::Protobuf);
    let list = headers.list().map(|(name, value)| (name, std::str::from_utf8(value).unwrap()));
    let id = text(ID);
    assert_eq!(
        list,
        [
            ("ce_specversion", "1.0"),
            ("ce_id", "000102030405060708090a0b0c0d0e0f"),
            ("ce_source", "/sluice/eu"),
            ("ce_type", "com.sluice.parcel.settled.v1"),
            ("ce_time", "2026-11-10T00:01:01.123Z"),
            ("ce_subject", id.as_str()),
            ("ce_sequence", "0000000042"),
            ("content-type", "application/protobuf"),
        ]
    );
    assert_eq!(headers.key(), id.as_bytes());
    assert_eq!(ContentType::Json.name(), "application/json");
}

#[test]
fn event_ids_keep_their_order_as_bytes_and_text() {
    let ids = [
        EventId { epoch: 0, partition: 0, position: 0, index: 1 },
        EventId { epoch: 0, partition: 0, position: 1, index: 0 },
        EventId { epoch: 0, partition: 1, position: 0, index: 0 },
        EVENT,
        EventId { epoch: u16::MAX, partition: u16::MAX, position: u64::MAX, index: u32::MAX },
    ];
    assert!(ids.is_sorted() && ids.is_sorted_by_key(|i| i.to_bytes()) && ids.is_sorted_by_key(EventId::to_string));
    for id in ids {
        assert_eq!(EventId::from_bytes(id.to_bytes()), id);
        assert_eq!(id.to_string().as_bytes(), id.to_text());
    }
}

#[test]
fn times_are_those_of_the_calendar() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_709_164_800_007, "2024-02-29T00:00:00.007Z"),
        (1_767_225_599_000, "2025-12-31T23:59:59.000Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (u64::MAX, "9999-12-31T23:59:59.999Z"),
    ] {
        assert_eq!(std::str::from_utf8(&rfc3339(ms)), Ok(text));
    }
}

#[test]
fn types_are_found_by_name() {
    for event_type in EventType::ALL {
        assert_eq!(EventType::from_name(event_type.name()), Some(event_type));
    }
    assert_eq!(EventType::from_name("com.sluice.order.accepted.v2"), None);
}
