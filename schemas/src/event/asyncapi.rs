//! The AsyncAPI 3.0 description of the topic, made from the types that write the events so that the two can't differ.
//! `schemas/asyncapi.json` is its frozen copy; a deployment with another topic prefix can give out its own.

use serde_json::{Value, json};

use super::{ContentType, DEFAULT_SOURCE, EventType, PROTO, TOPIC};

/// The usual prefix of topics.
pub const DEFAULT_PREFIX: &str = "sluice";

const ABOUT: &str = "Sluice takes orders, splits them into parcels and finds a carrier for each. Every committed \
decision about an order is one event, one Kafka record. Events hold no names, streets or product titles.";

const CHANNEL: &str = "One record per event. The topic's name is the deployment's prefix (`sluice` unless configured) \
and `.order-events`.\n\nThe value is an `OrderEvent`, in Protobuf (`content-type: application/protobuf`) or, where the \
deployment is set so, in Protobuf's canonical JSON mapping (`application/json`). A value is self-contained: there is no \
schema id before it. Headers are those of CloudEvents 1.0 in Kafka's binary mode; `ce_type` tells the kinds of event \
apart without opening the value.";

const OBLIGATIONS: &str = "A consumer must:\n\
\n\
- read with `isolation.level=read_committed`: records of aborted transactions are decisions that were never made;\n\
- drop an event whose `ce_id` it has seen: delivery is at least once, and after a failure or a restore records may be \
written again, always under the same `ce_id`;\n\
- commit its offset only after an event has taken effect;\n\
- skip events whose `ce_type` it doesn't know, and fields it doesn't know: both are added without notice, while \
nothing is renumbered, retyped or removed under an existing `ce_type`.\n\
\n\
A consumer may rely on:\n\
\n\
- all records of one order being in one partition, keyed by the order id, in the order in which the decisions were \
made; between orders there is no order to rely on, and `ce_time` may go back from one record to the next;\n\
- `ce_sequence` counting the events of each order from 0 without gaps, so that a number that is left out is an event that \
was missed, or that the topic no longer retains;\n\
- `com.sluice.order.accepted.v1` coming before any other event of its order, as long as the topic retains it.";

/// Order ids, as keys and in `ce_subject`.
const ULID_PATTERN: &str = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$";

/// The document for a deployment whose topics start with `prefix` (and a dot).
pub fn document(prefix: &str) -> Value {
    let each = |to: fn(EventType) -> Value| -> serde_json::Map<String, Value> {
        EventType::ALL.into_iter().map(|t| (t.name().to_owned(), to(t))).collect()
    };
    let refs: Vec<Value> = EventType::ALL
        .into_iter()
        .map(|t| json!({"$ref": format!("#/channels/orderEvents/messages/{}", t.name())}))
        .collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Sluice order events",
            "version": "1.0.0",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": ContentType::Protobuf.name(),
        "channels": {
            "orderEvents": {
                "address": format!("{prefix}.{TOPIC}"),
                "title": "Order events",
                "description": CHANNEL,
                "messages": each(|t| json!({"$ref": format!("#/components/messages/{}", t.name())})),
                "bindings": {"kafka": {"topic": format!("{prefix}.{TOPIC}"), "bindingVersion": "0.5.0"}},
            },
        },
        "operations": {
            "publishOrderEvents": {
                "action": "send",
                "channel": {"$ref": "#/channels/orderEvents"},
                "summary": "Sluice tells what it decided about an order.",
                "description": OBLIGATIONS,
                "messages": refs,
            },
        },
        "components": {
            "messages": each(message),
            "schemas": {
                "OrderEvent": {
                    "schemaFormat": "application/vnd.google.protobuf;version=3",
                    "schema": PROTO,
                },
            },
        },
    })
}

fn message(event_type: EventType) -> Value {
    let (title, summary, example) = about(event_type);
    let example: Value = serde_json::from_str(example).unwrap_or_default();
    json!({
        "name": event_type.name(),
        "title": title,
        "summary": summary,
        "contentType": ContentType::Protobuf.name(),
        "headers": headers(event_type),
        "payload": {"$ref": "#/components/schemas/OrderEvent"},
        "bindings": {
            "kafka": {
                "key": {
                    "type": "string",
                    "pattern": ULID_PATTERN,
                    "description": "The order id. Records of one key are in one partition.",
                },
                "bindingVersion": "0.5.0",
            },
        },
        "examples": [{
            "name": "json",
            "summary": "The value in Protobuf's JSON mapping.",
            "payload": example,
        }],
    })
}

fn headers(event_type: EventType) -> Value {
    json!({
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "ce_sequence", "content-type"],
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": {
                "type": "string",
                "pattern": "^[0-9a-f]{32}$",
                "description": "Identity of the event within ce_source; the same whenever it is written again. Opaque.",
            },
            "ce_source": {
                "type": "string",
                "format": "uri-reference",
                "default": DEFAULT_SOURCE,
                "description": "The deployment.",
            },
            "ce_type": {"type": "string", "const": event_type.name()},
            "ce_time": {
                "type": "string",
                "format": "date-time",
                "description": "occurred_at_ms in RFC 3339, UTC.",
            },
            "ce_subject": {"type": "string", "pattern": ULID_PATTERN, "description": "The order id."},
            "ce_sequence": {
                "type": "string",
                "pattern": "^[0-9]{10}$",
                "description": "Number of the event among those of its order: from 0, without gaps, in the order in which \
                                the decisions were made; the same whenever it is written again.",
            },
            "content-type": {
                "type": "string",
                "enum": [ContentType::Protobuf.name(), ContentType::Json.name()],
                "description": "The form of the value.",
            },
        },
    })
}

/// Title, summary and an example in JSON.
fn about(event_type: EventType) -> (&'static str, &'static str, &'static str) {
    match event_type {
        EventType::OrderAccepted => (
            "Order accepted",
            "The order was accepted, and what becomes of its goods was decided: change.accepted.",
            include_str!("../../fixtures/event-order-accepted-v1.json"),
        ),
        EventType::ParcelSettled => (
            "Parcel settled",
            "An attempt to have a parcel carried has its outcome: change.settled.",
            include_str!("../../fixtures/event-parcel-settled-v1.json"),
        ),
        EventType::OrderConflicted => (
            "Order conflicted",
            "Another request under the order's idempotency key was refused after it had been acknowledged: \
             change.conflicted.",
            include_str!("../../fixtures/event-order-conflicted-v1.json"),
        ),
        EventType::OrderDeadLettered => (
            "Order dead-lettered",
            "An order already accepted can't go on, so that a person must look at it: change.dead_lettered.",
            include_str!("../../fixtures/event-order-dead-lettered-v1.json"),
        ),
        EventType::ParcelTracked => (
            "Parcel tracked",
            "A carrier told where a parcel is: change.tracked. Its ce_time is the carrier's.",
            include_str!("../../fixtures/event-parcel-tracked-v1.json"),
        ),
        EventType::CancelRequested => (
            "Cancel requested",
            "Carriers are asked to forget what they have taken of the order: change.cancel_requested.",
            include_str!("../../fixtures/event-order-cancel-requested-v1.json"),
        ),
        EventType::VoidSettled => (
            "Void settled",
            "A carrier's answer to that; accepted: the parcel is cancelled: change.void_settled.",
            include_str!("../../fixtures/event-parcel-void-settled-v1.json"),
        ),
        EventType::ReturnRequested => (
            "Return requested",
            "Delivered goods are to come back, and carriers are asked to collect them: change.return_requested.",
            include_str!("../../fixtures/event-return-requested-v1.json"),
        ),
        EventType::ReturnSettled => (
            "Return settled",
            "An attempt to have a return carried has its outcome: change.return_settled.",
            include_str!("../../fixtures/event-return-settled-v1.json"),
        ),
        EventType::ReturnTracked => (
            "Return tracked",
            "A carrier told where a return is: change.return_tracked. Its ce_time is the carrier's.",
            include_str!("../../fixtures/event-return-tracked-v1.json"),
        ),
        EventType::OrderReplayed => (
            "Order replayed",
            "What was dead-lettered of the order, a parcel or all of it, was decided anew: change.replayed.",
            include_str!("../../fixtures/event-order-replayed-v1.json"),
        ),
        EventType::ParcelReviewed => (
            "Parcel reviewed",
            "A person has said what is in a parcel that was held, and it goes on, unless that is no goods: change.reviewed.",
            include_str!("../../fixtures/event-parcel-reviewed-v1.json"),
        ),
    }
}
