//! One event as operators' commands see it: what it is about, what it says happened, and what nobody carries.

use serde::Deserialize;
use serde_json::Value;
use sluice_domain::OrderId;
use sluice_schemas::event::EventType;

use super::paint::{Look, Paint, plain};

/// An event of the feed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Event {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// The order.
    pub subject: String,
    pub time: String,
    pub sequence: String,
    /// Where a reader goes on after it.
    pub cursor: String,
    pub data: Value,
}

/// What an event says that nobody carries, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dead {
    /// The parcel; `None`: the whole order.
    pub parcel: Option<u8>,
    pub reason: String,
}

/// Something that an event says happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// As on the time line.
    pub milestone: String,
    /// The parcel; `None`: the whole order.
    pub parcel: Option<u64>,
    pub carrier: Option<String>,
    /// A reason, a tracking number.
    pub detail: String,
}

impl Event {
    /// The order that it is about.
    pub fn order(&self) -> Option<OrderId> {
        self.subject.parse().ok()
    }

    /// Whose order it is.
    pub fn merchant(&self) -> &str {
        self.data["merchantId"].as_str().unwrap_or_default()
    }

    /// Its number among those of its order.
    pub fn number(&self) -> Option<u64> {
        self.sequence.parse().ok()
    }

    /// The type without what all types have in common.
    pub fn short_kind(&self) -> &str {
        short(&self.kind)
    }

    /// Whether any carrier that it names is this one.
    pub fn names_carrier(&self, carrier: &str) -> bool {
        names(&self.data, carrier)
    }

    /// What it says happened, in the words of the time line.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (name, payload) in self.data.as_object().into_iter().flatten() {
            match name.as_str() {
                "accepted" => accepted(payload, &mut steps),
                "settled" | "returnSettled" => settled(payload, &mut steps),
                "tracked" | "returnTracked" => tracked(payload, &mut steps),
                "conflicted" => steps.push(about(payload, "conflict", text(payload, "conflictingOrderId"))),
                "deadLettered" => steps.push(about(payload, DEAD_LETTERED, text(payload, "reason"))),
                "cancelRequested" => {
                    steps.extend(
                        list(payload, "voids").map(|void| of_parcel(void, "parcelNumber", "void_requested", "")),
                    );
                }
                "voidSettled" => {
                    let milestone = match enum_name(payload, "outcome", "OUTCOME_").as_str() {
                        "accepted" => "cancelled",
                        "rejected" => "void_refused",
                        _ => "void_unknown",
                    };
                    steps.push(of_parcel(payload, "parcelNumber", milestone, text(payload, "reason")));
                }
                "replayed" => {
                    steps.push(about(payload, "replayed", ""));
                    steps.extend(decided(payload));
                }
                "reviewed" => reviewed(payload, &mut steps),
                "returnRequested" => {
                    let reason = text(payload, "reason");
                    steps.extend(list(payload, "parcels").map(|p| of_parcel(p, "number", "return_requested", reason)));
                    steps.extend(list(payload, "parcels").filter_map(fate));
                }
                _ => {}
            }
        }
        steps
    }

    /// What it says nobody carries.
    pub fn dead(&self) -> Vec<Dead> {
        let dead = self.steps().into_iter().filter(|step| step.milestone == DEAD_LETTERED);
        dead.map(|step| Dead { parcel: step.parcel.and_then(|n| u8::try_from(n).ok()), reason: step.detail }).collect()
    }

    /// One line about it, without its end.
    pub fn line(&self, paint: Paint, out: &mut String) {
        paint.put(out, Look::Faint, &plain(&self.time));
        let number = self.number().unwrap_or_default();
        out.push_str(&format!("  {}  {:<12}", plain(&self.subject), plain(self.merchant())));
        paint.put(out, Look::Faint, &format!("  {number:>3}  {:<22}", plain(self.short_kind())));
        let steps = self.steps();
        for (place, step) in steps.iter().take(SHOWN).enumerate() {
            out.push_str(if place == 0 { "  " } else { "; " });
            step.put(paint, out);
        }
        if steps.len() > SHOWN {
            paint.put(out, Look::Faint, &format!("; and {} more", steps.len() - SHOWN));
        }
    }
}

/// Things that one line tells; an order may have 200 parcels.
const SHOWN: usize = 6;
const DEAD_LETTERED: &str = "dead_lettered";

impl Step {
    fn put(&self, paint: Paint, out: &mut String) {
        if let Some(parcel) = self.parcel {
            out.push_str(&format!("parcel {parcel} "));
        }
        paint.put(out, self.look(), &plain(&self.milestone));
        if let Some(carrier) = &self.carrier {
            out.push_str(&format!(" {}", plain(carrier)));
        }
        if !self.detail.is_empty() {
            paint.put(out, Look::Faint, &format!(" ({})", plain(&self.detail)));
        }
    }

    fn look(&self) -> Look {
        match self.milestone.as_str() {
            "carrier_accepted" | "delivered" | "returned" => Look::Good,
            "rejected" | "given_up" | "unknown" | "on_hold" | "delivery_delayed" | "delivery_failed"
            | "return_to_sender" | "conflict" | "void_refused" | "void_unknown" | "cancelled" => Look::Odd,
            DEAD_LETTERED => Look::Bad,
            _ => Look::Usual,
        }
    }
}

/// A type's name without `com.sluice.` and its version.
fn short(kind: &str) -> &str {
    let name = kind.strip_prefix("com.sluice.").unwrap_or(kind);
    name.rsplit_once(".v").map_or(name, |(name, _)| name)
}

/// The type that is meant by its whole or its short name.
pub(super) fn kind_of(name: &str) -> Result<&'static str, String> {
    let known = EventType::ALL.map(EventType::name);
    let found = known.into_iter().find(|kind| *kind == name || short(kind) == name);
    found.ok_or_else(|| format!("expected one of {}", known.map(short).join(", ")))
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_default()
}

/// `OUTCOME_GIVEN_UP` as `given_up`.
fn enum_name(of: &Value, name: &str, prefix: &str) -> String {
    let value = text(of, name);
    value.strip_prefix(prefix).unwrap_or(value).to_ascii_lowercase()
}

fn list<'a>(of: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    of[name].as_array().into_iter().flatten()
}

fn about(payload: &Value, milestone: &str, detail: &str) -> Step {
    let carrier = payload["carrierId"].as_str().map(str::to_owned);
    Step { milestone: milestone.to_owned(), parcel: None, carrier, detail: detail.to_owned() }
}

/// Absent numbers are 0, as Protobuf's JSON has it.
fn of_parcel(payload: &Value, number: &str, milestone: &str, detail: &str) -> Step {
    Step { parcel: Some(payload[number].as_u64().unwrap_or(0)), ..about(payload, milestone, detail) }
}

/// What was decided about a parcel: a carrier is asked, or nobody carries it.
fn fate(parcel: &Value) -> Option<Step> {
    if let Some(reason) = parcel["deadLetterReason"].as_str() {
        return Some(of_parcel(parcel, "number", DEAD_LETTERED, reason));
    }
    if parcel["held"].is_object() {
        return Some(of_parcel(parcel, "number", "on_hold", &likely(&parcel["held"])));
    }
    parcel["carrierId"].as_str().map(|_| of_parcel(parcel, "number", "carrier_requested", ""))
}

/// What a parcel that waits is taken for.
fn likely(held: &Value) -> String {
    let class = enum_name(held, "handlingClass", "HANDLING_CLASS_");
    match held["confidencePercent"].as_u64() {
        Some(percent @ 1..) => format!("to be reviewed; likely {class}, {percent} %"),
        _ => format!("to be reviewed; likely {class}"),
    }
}

/// What a person has said of a parcel, and how it goes on.
fn reviewed(payload: &Value, steps: &mut Vec<Step>) {
    let mut detail = enum_name(payload, "handlingClass", "HANDLING_CLASS_");
    for (name, kept) in [("becomesRule", ", kept as a rule"), ("becomesTrainingRow", ", kept for training")] {
        detail.push_str(if payload[name] == true { kept } else { "" });
    }
    steps.push(of_parcel(payload, "parcelNumber", "reviewed", &detail));
    steps.extend(fate(&payload["parcel"]));
}

fn accepted(payload: &Value, steps: &mut Vec<Step>) {
    steps.push(about(payload, "accepted", ""));
    steps.extend(decided(payload));
}

/// What was decided about a whole order, or some of its parcels.
fn decided(payload: &Value) -> impl Iterator<Item = Step> {
    let known = payload["rulesVersion"].is_u64() && payload["parcelCount"].is_u64();
    let classified = known.then(|| about(payload, "classified", ""));
    let dead = payload["deadLetterReason"].as_str().map(|reason| about(payload, DEAD_LETTERED, reason));
    classified.into_iter().chain(dead).chain(list(payload, "parcels").filter_map(fate))
}

fn settled(payload: &Value, steps: &mut Vec<Step>) {
    let outcome = enum_name(payload, "outcome", "OUTCOME_");
    let detail = [text(payload, "trackingNumber"), text(payload, "reason")].concat();
    let milestone = if outcome == "accepted" { "carrier_accepted" } else { &outcome };
    steps.push(of_parcel(payload, "parcelNumber", milestone, &detail));
    let parcel = steps.last().and_then(|step| step.parcel);
    if payload["nextAttempt"].is_object() {
        steps.push(Step { parcel, ..about(&payload["nextAttempt"], "carrier_requested", "") });
    }
    if let Some(reason) = payload["deadLetterReason"].as_str() {
        steps.push(Step { milestone: DEAD_LETTERED.into(), parcel, carrier: None, detail: reason.to_owned() });
    }
}

fn tracked(payload: &Value, steps: &mut Vec<Step>) {
    let progress = enum_name(payload, "progress", "PROGRESS_");
    if payload["settlesAttempt"] == true {
        steps.push(of_parcel(payload, "parcelNumber", "carrier_accepted", ""));
    }
    steps.push(of_parcel(payload, "parcelNumber", &progress, text(payload, "detail")));
}

fn names(value: &Value, carrier: &str) -> bool {
    match value {
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| (name == "carrierId" && value == carrier) || names(value, carrier))
        }
        Value::Array(values) => values.iter().any(|value| names(value, carrier)),
        _ => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The events that are frozen in the schemas, by name.
    pub fn sample(name: &str) -> Event {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/fixtures");
        let json = std::fs::read_to_string(format!("{folder}/event-{name}-v1.json")).unwrap();
        let data: Value = serde_json::from_str(&json).unwrap();
        Event {
            id: name.to_owned(),
            kind: format!("com.sluice.{}.v1", name.replacen('-', ".", 1).replace('-', "_")),
            subject: data["orderId"].as_str().unwrap().to_owned(),
            time: "2026-11-10T00:00:00.456Z".to_owned(),
            sequence: "0000000003".to_owned(),
            cursor: "1.4".to_owned(),
            data,
        }
    }

    fn told(name: &str) -> String {
        let mut line = String::new();
        sample(name).line(Paint(false), &mut line);
        line.split_once("    3  ").unwrap().1.to_owned()
    }

    #[test]
    fn every_type_of_event_is_told_in_a_line() {
        for (name, line) in [
            (
                "order-accepted",
                "order.accepted          accepted; classified; parcel 0 carrier_requested swift; parcel 1 \
                carrier_requested strong; parcel 2 dead_lettered (no carrier takes frozen to BR)",
            ),
            (
                "parcel-settled",
                "parcel.settled          parcel 1 rejected swift (too heavy ⚖); parcel 1 \
                carrier_requested strong",
            ),
            (
                "parcel-tracked",
                "parcel.tracked          parcel 1 carrier_accepted swift; parcel 1 delivered swift (left \
                with a neighbour ⌂)",
            ),
            ("order-conflicted", "order.conflicted        conflict (01M71C2E030C4G28T5CY4TQKFF)"),
            ("order-dead-lettered", "order.dead_lettered     dead_lettered (outcome is malformed or cut short)"),
            (
                "order-cancel-requested",
                "order.cancel_requested  parcel 0 void_requested swift; parcel 1 void_requested \
                strong",
            ),
            ("parcel-void-settled", "parcel.void_settled     parcel 1 void_refused swift (already sorted)"),
            (
                "return-requested",
                "return.requested        parcel 200 return_requested swift (does not fit ⌂); parcel 201 \
                return_requested (does not fit ⌂); parcel 200 carrier_requested swift; parcel 201 dead_lettered (no \
                carrier takes frozen)",
            ),
            ("return-settled", "return.settled          parcel 200 carrier_accepted swift (T-2)"),
            ("return-tracked", "return.tracked          parcel 200 returned swift (dock 4)"),
            (
                "order-replayed",
                "order.replayed          replayed; parcel 0 carrier_requested swift; parcel 2 dead_lettered (no carrier takes \
                frozen)",
            ),
            (
                "parcel-reviewed",
                "parcel.reviewed         parcel 3 reviewed (frozen, kept as a rule); parcel 3 carrier_requested strong",
            ),
        ] {
            assert_eq!(told(name), line, "{name}");
            assert_eq!(kind_of(sample(name).short_kind()), Ok(sample(name).kind.as_str()));
        }
        let whole = sample("return-tracked");
        let mut line = String::new();
        whole.line(Paint(false), &mut line);
        assert!(
            line.starts_with("2026-11-10T00:00:00.456Z  01M71C293V0C4G28T5CY4TQKFF  m-1             3  "),
            "{line}"
        );
        let mut coloured = String::new();
        sample("order-accepted").line(Paint(true), &mut coloured);
        assert!(coloured.contains("\x1b[1;31mdead_lettered\x1b[0m"), "{coloured:?}");
        assert!(kind_of("order.lost").unwrap_err().contains("order.accepted, parcel.settled"));
    }

    #[test]
    fn what_waits_is_told() {
        let mut event = sample("order-accepted");
        event.data["accepted"] = serde_json::json!({"rulesVersion": 7, "parcelCount": 1, "parcels": [
            {"number": 0, "held": {"handlingClass": "HANDLING_CLASS_HAZMAT_CHECK", "confidencePercent": 41}},
        ]});
        let mut line = String::new();
        event.line(Paint(false), &mut line);
        let told = "accepted; classified; parcel 0 on_hold (to be reviewed; likely hazmat_check, 41 %)";
        assert!(line.ends_with(told), "{line}");
        event.data["accepted"]["parcels"][0]["held"]["confidencePercent"] = 0.into();
        assert!(event.steps()[2].detail.ends_with("likely hazmat_check"));
        assert_eq!(event.dead(), []);
    }

    #[test]
    fn a_line_is_bounded_whatever_an_order_has() {
        let mut event = sample("order-accepted");
        let parcel = event.data["accepted"]["parcels"][0].clone();
        event.data["accepted"]["parcels"] = vec![parcel; 200].into();
        let mut line = String::new();
        event.line(Paint(false), &mut line);
        assert!(line.ends_with("; and 196 more") && line.len() < 400, "{line}");
    }

    #[test]
    fn dead_letters_are_found_wherever_an_event_has_them() {
        let dead = |name: &str| sample(name).dead();
        let of = |parcel, reason: &str| Dead { parcel, reason: reason.to_owned() };
        assert_eq!(dead("order-accepted"), [of(Some(2), "no carrier takes frozen to BR")]);
        assert_eq!(dead("order-dead-lettered"), [of(None, "outcome is malformed or cut short")]);
        assert_eq!(dead("return-requested"), [of(Some(201), "no carrier takes frozen")]);
        assert_eq!(dead("parcel-settled"), []);
        let mut last = sample("parcel-settled");
        last.data["settled"]["deadLetterReason"] = "nobody is left".into();
        assert_eq!(last.dead(), [of(Some(1), "nobody is left")]);
        let mut poison = sample("order-accepted");
        poison.data["accepted"] = serde_json::json!({"deadLetterReason": "more than 200 parcels"});
        assert_eq!(poison.dead(), [of(None, "more than 200 parcels")]);
    }
}
