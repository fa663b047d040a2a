//! The class of an order, from its public view alone. This code shares nothing with the pipeline that it judges: the
//! names below are those of the published API, written down a second time.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Statuses of a parcel that a carrier has taken.
const ACCEPTED_OR_LATER: [&str; 8] = [
    "carrier_accepted",
    "picked_up",
    "in_transit",
    "out_for_delivery",
    "ready_for_pickup",
    "delivered",
    "return_to_sender",
    "returned",
];
const CANCELLED: &str = "cancelled";
const DEAD_LETTERED: &str = "dead_lettered";

/// Where an accepted order stands. Every order is in exactly one class at every moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Some parcel, or the order itself, is undecided.
    InFlight,
    /// Some parcel, or the order itself, was dead-lettered, and none is undecided.
    DeadLettered,
    /// Some parcel was taken by a carrier and the others were decided, or nothing has to be shipped.
    Finished,
    /// Everything was called off.
    Cancelled,
}

/// What `GET /v1/orders/{id}` answers, as far as judging needs it.
#[derive(Debug, Clone, Deserialize)]
pub struct OrderView<'a> {
    /// The order's id.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// The highest-ranked milestone.
    #[serde(borrow)]
    pub status: Cow<'a, str>,
    /// When the customer placed it (RFC 3339).
    #[serde(borrow)]
    pub placed_at: Cow<'a, str>,
    /// What ships; empty until the order is classified.
    #[serde(borrow, default)]
    pub parcels: Vec<ParcelView<'a>>,
    /// What happened.
    #[serde(borrow, default)]
    pub timeline: Vec<TimelineEntry<'a>>,
}

/// A parcel of an order's view.
#[derive(Debug, Clone, Deserialize)]
pub struct ParcelView<'a> {
    /// The parcel's id.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// The highest-ranked milestone of the parcel.
    #[serde(borrow)]
    pub status: Cow<'a, str>,
}

/// A step of an order's view.
#[derive(Debug, Clone, Deserialize)]
pub struct TimelineEntry<'a> {
    /// Its name.
    #[serde(borrow)]
    pub milestone: Cow<'a, str>,
    /// When it happened (RFC 3339).
    #[serde(borrow)]
    pub at: Cow<'a, str>,
    /// Which parcel it is about; `None` for the whole order.
    #[serde(borrow, default)]
    pub parcel: Option<Cow<'a, str>>,
}

impl OrderView<'_> {
    fn has(&self, milestone: &str) -> bool {
        self.timeline.iter().any(|entry| entry.milestone == milestone)
    }

    /// From the customer's click until the last parcel that a carrier took was taken; `None` if there is no such parcel or
    /// a time can't be read. Clocks that differ can't make it negative.
    #[must_use]
    pub fn carrier_latency(&self) -> Option<Duration> {
        let taken = self.timeline.iter().filter(|entry| entry.milestone == "carrier_accepted");
        let last = taken.filter_map(|entry| unix_micros(&entry.at)).max()?;
        let placed = unix_micros(&self.placed_at)?;
        Some(Duration::from_micros(u64::try_from(last - placed).unwrap_or(0)))
    }
}

/// The class of an order: in flight if any parcel is undecided; else dead-lettered if any parcel, or the order, is; else
/// finished if any parcel was taken by a carrier or nothing ships; else cancelled. An order that isn't classified yet has
/// no parcels, but is in flight unless it was cancelled or dead-lettered as a whole.
#[must_use]
pub fn classify(view: &OrderView<'_>) -> Class {
    let accepted = |status: &str| ACCEPTED_OR_LATER.contains(&status);
    let decided = |status: &str| accepted(status) || status == CANCELLED || status == DEAD_LETTERED;
    let parcels = &view.parcels;
    if parcels.iter().any(|parcel| !decided(&parcel.status)) {
        Class::InFlight
    } else if view.status == DEAD_LETTERED || parcels.iter().any(|parcel| parcel.status == DEAD_LETTERED) {
        Class::DeadLettered
    } else if parcels.iter().any(|parcel| accepted(&parcel.status)) {
        Class::Finished
    } else if !parcels.is_empty() || view.status == CANCELLED {
        Class::Cancelled
    } else if view.has("classified") {
        Class::Finished
    } else {
        Class::InFlight
    }
}

/// Microseconds since 1970 of an RFC 3339 time such as `2026-11-11T00:00:00.123Z` or `…+01:00`.
#[must_use]
pub fn unix_micros(text: &str) -> Option<i64> {
    let field = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, byte)| text.as_bytes().get(at).is_none_or(|b| !b.eq_ignore_ascii_case(&byte))) {
        return None;
    }
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let seconds = field(11, 13)? * 3_600 + field(14, 16)? * 60 + field(17, 19)?;
    let rest = text.get(19..)?;
    let digits = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, zone) = if digits > 0 { (rest.get(1..=digits)?, rest.get(digits + 1..)?) } else { ("", rest) };
    let mut micros = 0;
    for place in 0..6 {
        micros = micros * 10 + fraction.as_bytes().get(place).map_or(0, |digit| i64::from(digit - b'0'));
    }
    let local = days_since_1970(year, month, day)? * 86_400 + seconds;
    Some((local - zone_seconds(zone)?) * 1_000_000 + micros)
}

fn zone_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60;
    match zone.as_bytes().first()? {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

/// Days of the Gregorian calendar, counted in years that start in March so that the leap day is a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(year * 365 + year / 4 - year / 100 + year / 400 + in_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(status: &str, parcels: &[&str], milestones: &[&str]) -> OrderView<'static> {
        let entry = |name: &str| TimelineEntry {
            milestone: name.to_owned().into(),
            at: "2026-11-11T00:00:01Z".into(),
            parcel: None,
        };
        let parcel = |status: &str| ParcelView { id: "p".into(), status: status.to_owned().into() };
        OrderView {
            id: "x".into(),
            status: status.to_owned().into(),
            placed_at: "2026-11-11T00:00:00.123Z".into(),
            parcels: parcels.iter().map(|status| parcel(status)).collect(),
            timeline: milestones.iter().map(|name| entry(name)).collect(),
        }
    }

    fn class(status: &str, parcels: &[&str]) -> Class {
        classify(&view(status, parcels, &["accepted", "classified"]))
    }

    #[test]
    fn one_undecided_parcel_keeps_an_order_in_flight() {
        for undecided in ["accepted", "classified", "carrier_requested", "parked", "unheard_of"] {
            for other in ["carrier_accepted", "dead_lettered", "cancelled"] {
                assert_eq!(class(other, &[other, undecided]), Class::InFlight);
            }
        }
    }

    #[test]
    fn decided_parcels_rank_dead_then_taken_then_cancelled() {
        for taken in ACCEPTED_OR_LATER {
            assert_eq!(class(taken, &[taken]), Class::Finished);
            assert_eq!(class(taken, &[taken, CANCELLED]), Class::Finished);
            assert_eq!(class(DEAD_LETTERED, &[taken, DEAD_LETTERED]), Class::DeadLettered);
        }
        assert_eq!(class(CANCELLED, &[CANCELLED, CANCELLED]), Class::Cancelled);
        assert_eq!(class(DEAD_LETTERED, &[CANCELLED, DEAD_LETTERED]), Class::DeadLettered);
    }

    #[test]
    fn an_order_without_parcels_is_told_by_itself() {
        assert_eq!(class("classified", &[]), Class::Finished);
        assert_eq!(class(CANCELLED, &[]), Class::Cancelled);
        assert_eq!(class(DEAD_LETTERED, &[]), Class::DeadLettered);
        assert_eq!(classify(&view("accepted", &[], &["accepted"])), Class::InFlight);
        assert_eq!(classify(&view(DEAD_LETTERED, &[], &["accepted"])), Class::DeadLettered);
        assert_eq!(classify(&view(CANCELLED, &[], &["accepted"])), Class::Cancelled);
    }

    #[test]
    fn the_published_shape_is_read() {
        let text = r#"{"id":"01","status":"carrier_accepted","customer":"c-\u00e9","placed_at":"2026-11-11T00:00:00.100Z",
            "parcels":[{"id":"01-0","handling":"frozen","carrier":"north","tracking_number":"1Z","status":"carrier_accepted",
            "lines":[{"sku":"1","quantity":2}]}],"timeline":[{"milestone":"accepted","at":"2026-11-11T00:00:00.101Z"},
            {"milestone":"carrier_accepted","at":"2026-11-11T00:00:00.300Z","parcel":"01-0","detail":"x"}],"more":null}"#;
        let view: OrderView<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(classify(&view), Class::Finished);
        assert_eq!(view.carrier_latency(), Some(Duration::from_millis(200)));
        assert_eq!(view.timeline[1].parcel.as_deref(), Some("01-0"));
    }

    #[test]
    fn the_last_parcel_counts_and_clocks_may_differ() {
        let mut view = view("x", &[], &["accepted", "carrier_accepted", "carrier_accepted"]);
        view.timeline[1].at = "2026-11-11T00:00:02.123Z".into();
        assert_eq!(view.carrier_latency(), Some(Duration::from_secs(2)));
        view.placed_at = "2026-11-11T00:00:09Z".into();
        assert_eq!(view.carrier_latency(), Some(Duration::ZERO));
        view.timeline.truncate(1);
        assert_eq!(view.carrier_latency(), None);
    }

    #[test]
    fn times_are_read() {
        assert_eq!(unix_micros("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_micros("2026-11-11T00:00:00.123Z"), Some(1_794_355_200_123_000));
        assert_eq!(unix_micros("2026-11-11T01:00:00.1234567+01:00"), Some(1_794_355_200_123_456));
        assert_eq!(unix_micros("2024-02-29T23:59:59.5-00:30"), Some(1_709_252_999_500_000));
        for bad in ["", "2026-11-11", "2026-13-11T00:00:00Z", "2026-11-11T00:00:00", "2026-11-1éT00:00:00Z", "x"] {
            assert_eq!(unix_micros(bad), None, "{bad}");
        }
    }
}
