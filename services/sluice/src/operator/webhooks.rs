//! What a trace tells of webhook endpoints, as text: each endpoint, and every attempt to tell it of the order.

use comfy_table::Table;
use serde::Deserialize;

use super::{paint::plain, trace::table};
use crate::output::count;

/// An endpoint, as the server wrote it.
#[derive(Debug, Deserialize)]
pub(super) struct Webhook {
    endpoint: String,
    host: Option<String>,
    status: String,
    next_attempt_at: Option<String>,
    deliveries: Vec<Delivery>,
    #[serde(default)]
    more: bool,
}

#[derive(Debug, Deserialize)]
struct Delivery {
    message: String,
    r#type: String,
    event: u64,
    status: String,
    replayed: bool,
    attempts: u32,
    tries: Vec<Try>,
    #[serde(default)]
    reason: String,
    next_attempt_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Try {
    at: String,
    http_status: Option<u16>,
    duration_ms: Option<u64>,
    #[serde(default)]
    error: String,
}

/// One endpoint as a person reads it.
pub(super) fn text(webhook: &Webhook) -> String {
    let host = webhook.host.as_deref().map_or("unknown host".into(), plain);
    let mut text = format!("webhook {}  {host}  {}", plain(&webhook.endpoint), plain(&webhook.status));
    if let Some(at) = &webhook.next_attempt_at {
        text.push_str(&format!("  next attempt {}", plain(at)));
    }
    if webhook.deliveries.is_empty() {
        return text + "\n  was told nothing of the order that its log still has";
    }
    if webhook.more {
        text.push_str("\n  the newest deliveries");
    }
    let mut table = table(&["event", "type", "message", "delivery", "attempt", "at", "answer"], &[0, 4]);
    webhook.deliveries.iter().for_each(|delivery| rows(&mut table, delivery));
    text + "\n" + &table.trim_fmt()
}

/// A row for each attempt, and one for what is still to come.
fn rows(table: &mut Table, delivery: &Delivery) {
    let again = if delivery.replayed { " again" } else { "" };
    let mut head = [
        delivery.event.to_string(),
        plain(&delivery.r#type).into_owned(),
        plain(&delivery.message).into_owned(),
        format!("{}{again}", plain(&delivery.status)),
    ];
    let mut row = |attempt: String, at: &str, answer: String| {
        // What is the same in every row of it stands in the first.
        let [event, kind, message, status] = std::mem::take(&mut head);
        table.add_row([event, kind, message, status, attempt, plain(at).into_owned(), answer]);
    };
    let before = u64::from(delivery.attempts).saturating_sub(delivery.tries.len() as u64);
    for (number, one) in (before + 1..).zip(&delivery.tries) {
        row(number.to_string(), &one.at, answer(one));
    }
    match &delivery.next_attempt_at {
        Some(at) => row(String::new(), at, "next attempt".to_owned()),
        None if delivery.status == "waiting" => {
            row(String::new(), "", "waits for an earlier event of the order".to_owned());
        }
        None if delivery.tries.is_empty() => row(String::new(), "", plain(&delivery.reason).into_owned()),
        None => {}
    }
}

fn answer(one: &Try) -> String {
    let status = one.http_status.map_or("no answer".to_owned(), |status| status.to_string());
    let took = one.duration_ms.map_or(String::new(), |ms| format!(" after {} ms", count(ms)));
    let error = if one.error.is_empty() { String::new() } else { format!(": {}", plain(&one.error)) };
    format!("{status}{took}{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: serde_json::Value) -> Vec<String> {
        let text = text(&serde_json::from_value(json).unwrap());
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn every_attempt_is_told() {
        let told = shown(serde_json::json!({
            "endpoint": "whe_1", "host": "shop.example", "status": "failing", "next_attempt_at": "soon", "deliveries": [
                {"message": "m-0", "type": "accepted", "event": 0, "status": "delivered", "replayed": true, "attempts": 18,
                 "tries": [{"at": "t1", "duration_ms": 15_000, "error": "timed out\u{1b}[2J"},
                           {"at": "t2", "http_status": 204, "duration_ms": 12}]},
                {"message": "m-1", "type": "settled", "event": 1, "status": "retrying", "replayed": false, "attempts": 1,
                 "tries": [{"at": "t3", "http_status": 500, "duration_ms": 1, "error": "status 500"}],
                 "next_attempt_at": "t4"},
                {"message": "m-2", "type": "tracked", "event": 2, "status": "waiting", "replayed": false, "attempts": 0,
                 "tries": []},
                {"message": "m-3", "type": "tracked", "event": 3, "status": "failed", "replayed": false, "attempts": 0,
                 "tries": [], "reason": "too late"},
            ]
        }));
        let expected = [
            "webhook whe_1 shop.example failing next attempt soon",
            "event type message delivery attempt at answer",
            "0 accepted m-0 delivered again 17 t1 no answer after 15,000 ms: timed out\u{fffd}[2J",
            "18 t2 204 after 12 ms",
            "1 settled m-1 retrying 1 t3 500 after 1 ms: status 500",
            "t4 next attempt",
            "2 tracked m-2 waiting waits for an earlier event of the order",
            "3 tracked m-3 failed too late",
        ];
        let told: Vec<_> = told.iter().map(String::as_str).filter(|line| !line.starts_with('─')).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn an_endpoint_without_deliveries_is_told_too() {
        let told = shown(serde_json::json!({"endpoint": "whe_1", "host": null, "status": "removed", "deliveries": []}));
        assert_eq!(
            told,
            ["webhook whe_1 unknown host removed", "was told nothing of the order that its log still has"]
        );
    }
}
