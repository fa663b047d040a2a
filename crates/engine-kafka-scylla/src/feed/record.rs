//! One record of the events topic as an event of the feed, whichever form its value has.

use rdkafka::{Message, message::Headers};
use serde::Deserialize;
use sluice_pipeline::{Cursor, FeedEvent};
use sluice_schemas::{
    CodecError,
    event::{ContentType, EventType, encode_json, read},
};

/// What of a value in JSON is shown beside it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Common {
    merchant_id: String,
    occurred_at_ms: String,
}

/// The event of a record, after which a reader is at `next`; `None` for a kind that this program doesn't know.
///
/// # Errors
/// [`CodecError`] naming the part that can't be read.
pub(super) fn read(message: &impl Message, next: &[u64]) -> Result<Option<FeedEvent>, CodecError> {
    let header = |name: &'static str| {
        let all = message.headers().into_iter().flat_map(|headers| headers.iter());
        let value = all.filter(|header| header.key == name).find_map(|header| header.value);
        value.and_then(|value| std::str::from_utf8(value).ok())
    };
    let missing = |what| CodecError { what };
    let Some(kind) = EventType::from_name(header("ce_type").ok_or(missing("ce_type"))?) else { return Ok(None) };
    let order = header("ce_subject").and_then(|id| id.parse().ok()).ok_or(missing("ce_subject"))?;
    // Records of a version that didn't number them yet stand before all others.
    let sequence = header("ce_sequence").map_or(Ok(0), |text| text.parse().map_err(|_| missing("ce_sequence")))?;
    let payload = message.payload().unwrap_or_default();
    let (merchant, at_ms, data) = match header("content-type") {
        Some(name) if name == ContentType::Json.name() => {
            let common: Common = serde_json::from_slice(payload).map_err(|_| missing("value"))?;
            let at_ms = common.occurred_at_ms.parse().map_err(|_| missing("occurredAtMs"))?;
            (common.merchant_id, at_ms, payload.to_vec())
        }
        _ => {
            let event = read::decode(payload)?;
            (event.merchant_id, event.occurred_at_ms.unsigned_abs(), encode_json(payload)?.into_bytes())
        }
    };
    Ok(Some(FeedEvent {
        order,
        merchant,
        id: header("ce_id").ok_or(missing("ce_id"))?.to_owned(),
        kind: kind.name(),
        sequence,
        at_ms,
        data,
        next: Cursor(next.to_vec()),
    }))
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage, Timestamp};
    use sluice_domain::OrderId;
    use sluice_schemas::event::{EventId, Headers as Written, encode_conflict};

    use super::*;

    fn message(payload: &[u8], headers: &[(&str, &[u8])]) -> OwnedMessage {
        let add = |all: OwnedHeaders, &(key, value): &(&str, &[u8])| all.insert(Header { key, value: Some(value) });
        let headers = headers.iter().fold(OwnedHeaders::new(), add);
        OwnedMessage::new(Some(payload.to_vec()), None, "t".into(), Timestamp::NotAvailable, 0, 4, Some(headers))
    }

    #[test]
    fn a_record_of_either_form_is_the_same_event() {
        let (order, mut value) = (OrderId(0x0192_0000_0000_0000_0000_0000_0000_0001), Vec::new());
        let event = encode_conflict(&mut value, order.0, "m-1", 7, 1_790_000_000_123);
        let json = encode_json(&value).unwrap();
        let id = EventId { epoch: 1, partition: 0, position: 9, index: 2 };
        for (kind, payload) in [(ContentType::Protobuf, &value[..]), (ContentType::Json, json.as_bytes())] {
            let headers = Written::new(&event, id, 3, "/sluice", kind);
            let list = headers.list();
            let read = super::read(&message(payload, &list), &[5, 6]).unwrap().unwrap();
            let expected = FeedEvent {
                order,
                merchant: "m-1".into(),
                id: id.to_string(),
                kind: "com.sluice.order.conflicted.v1",
                sequence: 3,
                at_ms: 1_790_000_000_123,
                data: json.clone().into_bytes(),
                next: Cursor(vec![5, 6]),
            };
            assert_eq!(read, expected);
            // Whatever is missing or wrong is named, and nothing panics.
            for left_out in 0..list.len() {
                let some: Vec<_> = (0..).zip(list).filter(|(nth, _)| *nth != left_out).map(|(_, h)| h).collect();
                let read = super::read(&message(payload, &some), &[5]);
                let needed = ["ce_id", "ce_type", "ce_subject"].contains(&list[left_out].0);
                assert!(read.is_err() || !needed, "{}", list[left_out].0);
            }
            assert!(super::read(&message(b"\xff", &list), &[5]).is_err());
        }
        let headers = Written::new(&event, id, 3, "/sluice", ContentType::Protobuf);
        let mut list = headers.list();
        list[3].1 = b"com.sluice.order.newer.v1";
        assert_eq!(super::read(&message(&value, &list), &[5]), Ok(None), "of a newer version");
    }
}
