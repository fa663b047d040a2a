//! One event as consumers get it: CloudEvents 1.0 in structured mode, a JSON object on one line.

use std::io::Write;

use sluice_pipeline::{Cursor, FeedEvent};
use sluice_schemas::event::{order_id_text, rfc3339, sequence_text};

/// Writes events of one deployment.
pub struct Lines {
    /// What every event says before its own: version and source.
    head: Vec<u8>,
}

impl Lines {
    pub fn new(source: &str) -> Self {
        let mut head = br#"{"specversion":"1.0","datacontenttype":"application/json","source":"#.to_vec();
        // A text always serialises.
        let _ = serde_json::to_writer(&mut head, source);
        Self { head }
    }

    /// Appends `event` without a line end.
    pub fn put(&self, out: &mut Vec<u8>, event: &FeedEvent) {
        out.extend_from_slice(&self.head);
        // Ids, types and cursors are of characters that need no escaping.
        let mut text = |name: &str, value: &[u8]| {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":\"");
            out.extend_from_slice(value);
            out.push(b'"');
        };
        text("id", event.id.as_bytes());
        text("type", event.kind.as_bytes());
        text("subject", &order_id_text(event.order.0));
        text("time", &rfc3339(event.at_ms));
        text("sequence", &sequence_text(event.sequence));
        text("cursor", event.next.to_string().as_bytes());
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(&event.data);
        out.push(b'}');
    }

    /// Appends `event` as a line, or as a server-sent event whose id is the cursor behind it.
    pub fn put_one(&self, out: &mut Vec<u8>, event: &FeedEvent, message: bool) {
        if message {
            put_id(out, &event.next);
            out.extend_from_slice(b"data: ");
        }
        self.put(out, event);
        out.extend_from_slice(if message { b"\n\n" } else { b"\n" });
    }
}

/// Appends the field by which a client of server-sent events says where it was.
pub fn put_id(out: &mut Vec<u8>, cursor: &Cursor) {
    // Writing into memory can't fail.
    let _ = writeln!(out, "id: {cursor}");
}

#[cfg(test)]
mod tests {
    use sluice_domain::OrderId;

    use super::*;

    fn event() -> FeedEvent {
        FeedEvent {
            order: OrderId(0x019b_0000_0000_0000_0000_0000_0000_0001),
            merchant: "m-1".into(),
            id: "0a".into(),
            kind: "com.sluice.parcel.tracked.v1",
            sequence: 12,
            at_ms: 1_794_355_200_123,
            data: br#"{"orderId":"x"}"#.to_vec(),
            next: Cursor(vec![1, 36]),
        }
    }

    #[test]
    fn an_event_is_a_cloudevent_on_one_line() {
        let mut out = Vec::new();
        Lines::new("/a \"b\"").put_one(&mut out, &event(), false);
        let (line, rest) = out.split_at(out.len() - 1);
        assert!(rest == b"\n" && !line.contains(&b'\n'));
        let expected = serde_json::json!({
            "specversion": "1.0", "datacontenttype": "application/json", "source": "/a \"b\"", "id": "0a",
            "type": "com.sluice.parcel.tracked.v1", "subject": event().order.to_string(),
            "time": "2026-11-11T00:00:00.123Z", "sequence": "0000000012", "cursor": "1.1.10", "data": {"orderId": "x"},
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(line).unwrap(), expected);
    }

    #[test]
    fn a_message_says_where_to_go_on() {
        let (mut line, mut message) = (Vec::new(), Vec::new());
        let lines = Lines::new("/sluice");
        lines.put_one(&mut line, &event(), false);
        lines.put_one(&mut message, &event(), true);
        let expected = [b"id: 1.1.10\ndata: ", &line[..], b"\n"].concat();
        assert_eq!(message, expected);
    }
}
