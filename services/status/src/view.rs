//! An order as its merchant reads it: a pure function of the stored row and record.

use serde::{Serialize, Serializer};
use sluice_domain::{
    Group, Handling, OrderId, OrderState,
    commands::Cancelling,
    order_state::{Asked, Attempt, DeadLetter, Parcel, Reviewed, Void},
};
use sluice_http::Timestamp;
use sluice_pipeline::StoredOrder;
use sluice_schemas::{
    CodecError,
    milestone::Milestone,
    order::{Line, OrderRef},
    outcome::OutcomeKind,
    word::Progress,
};
use utoipa::ToSchema;

use crate::commands_openapi::{Cancelled, CancelledParcel};

/// One order.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = OrderView)]
pub struct OrderView<'a> {
    /// The order's id.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String, min_length = 26, max_length = 26, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    pub id: OrderId,
    /// That of its least advanced parcel; it only moves forward.
    #[serde(serialize_with = "as_name")]
    #[schema(value_type = String, pattern = "^(accepted|classified|carrier_requested|carrier_accepted|picked_up|in_transit|out_for_delivery|ready_for_pickup|delivered|return_to_sender|returned|cancelled|dead_lettered)$", example = "carrier_accepted")]
    pub status: Milestone,
    /// The merchant's id of the customer.
    #[schema(min_length = 1, max_length = 64, example = "c-77")]
    pub customer: &'a str,
    /// When the customer pressed the button.
    #[schema(value_type = String, format = DateTime)]
    pub placed_at: Timestamp,
    /// What ships together; empty until the goods are classified, or when nothing ships.
    #[schema(max_items = 200)]
    pub parcels: Vec<ParcelView<'a>>,
    /// What comes back, or is to; absent if nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 56, required = false)]
    pub returns: Vec<ReturnView<'a>>,
    /// What happened, oldest first.
    #[schema(min_items = 1)]
    pub timeline: Vec<TimelineEntry<'a>>,
}

/// Lines that ship together.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ParcelView)]
pub struct ParcelView<'a> {
    /// The order's id, `-`, and the parcel's number from 0.
    #[schema(value_type = String, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}-[0-9]{1,3}$")]
    pub id: ParcelId,
    /// What it needs on its way; null if nobody knows yet, or it could not be offered to any carrier.
    #[schema(value_type = Option<String>, required = true, example = "chilled")]
    pub handling: Option<&'static str>,
    /// Grams; null if nothing says what is in it.
    #[schema(required = true, example = 1250)]
    pub weight_g: Option<u32>,
    /// True if what some of its goods weigh is a guess, and so is `weight_g`; false, too, in orders from before this was told.
    pub weight_estimated: bool,
    /// The carrier that took it, or else was asked last; null before one was.
    #[schema(max_length = 32, required = true)]
    pub carrier: Option<&'a str>,
    /// The carrier's, once it took the parcel; null before.
    #[schema(max_length = 64, required = true)]
    pub tracking_number: Option<&'a str>,
    /// It only moves forward.
    #[serde(serialize_with = "as_name")]
    #[schema(value_type = String, pattern = "^(accepted|classified|carrier_requested|carrier_accepted|picked_up|in_transit|out_for_delivery|ready_for_pickup|delivered|return_to_sender|returned|cancelled|dead_lettered)$", example = "carrier_accepted")]
    pub status: Milestone,
    /// What is in it.
    pub lines: Vec<LineView<'a>>,
}

/// Goods on their way back.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ReturnView)]
pub struct ReturnView<'a> {
    /// The parcel that brings them, as in the time line; its status ends in `returned`.
    #[serde(flatten)]
    pub parcel: ParcelView<'a>,
    /// The parcel in which they were delivered.
    #[schema(value_type = String, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}-[0-9]{1,3}$")]
    pub source: ParcelId,
    /// The customer's.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: &'a str,
}

/// One line's share of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LineView)]
pub struct LineView<'a> {
    /// The line's place in the order, from 0.
    #[schema(minimum = 0, maximum = 99)]
    pub line: u16,
    /// The merchant's stock keeping unit.
    #[schema(min_length = 1, max_length = 64)]
    pub sku: &'a str,
    /// What the customer saw.
    #[schema(min_length = 1, max_length = 200)]
    pub title: &'a str,
    /// Units in this parcel.
    #[schema(minimum = 1, maximum = 1000)]
    pub quantity: u32,
    /// Price of one unit in minor units of the order's currency.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub unit_price: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = TimelineEntry)]
pub struct TimelineEntry<'a> {
    /// A milestone of the life cycle, or a remark, which is never a status: `conflict`, `on_hold`, `delivery_delayed`,
    /// `delivery_failed`, `void_requested`, `void_refused`, `void_unknown`, `return_requested`, `replayed`, `reviewed`.
    #[schema(value_type = String, pattern = "^[a-z_]+$", example = "carrier_requested")]
    pub milestone: &'static str,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The parcel it is about; absent when it is about the whole order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub parcel: Option<ParcelId>,
    /// For people: the carrier, the attempt, a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub detail: Option<std::borrow::Cow<'a, str>>,
}

/// `{order}-{number}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParcelId {
    /// The order.
    pub order: OrderId,
    /// The parcel's number, from 0.
    pub number: u8,
}

impl Serialize for ParcelId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}-{}", self.order, self.number))
    }
}

pub(crate) fn as_text<S: Serializer>(id: &OrderId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

pub(crate) fn as_name<S: Serializer>(milestone: &Milestone, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(milestone.name())
}

/// The view of one order.
///
/// # Errors
/// [`CodecError`] if its row or record can't be read.
pub fn view(stored: &StoredOrder) -> Result<OrderView<'_>, CodecError> {
    let record = OrderRef::decode(&stored.record)?;
    let state = OrderState::fold(OrderId(record.id), &stored.row)?;
    let lines = record.lines().collect::<Result<Vec<_>, _>>()?;
    let parcels = state.parcels.iter().map(|p| parcel_view(&state, p, &lines)).collect::<Result<_, _>>()?;
    Ok(OrderView {
        id: state.id,
        status: state.status(),
        customer: record.customer,
        placed_at: Timestamp(record.placed_at_ms()),
        parcels,
        returns: returns_of(&state, &lines, |_| true)?,
        timeline: timeline(&record, &state),
    })
}

/// The return parcels that follow from one command.
///
/// # Errors
/// [`CodecError`] if the order's row or record can't be read.
pub(crate) fn return_views(stored: &StoredOrder, command: u64) -> Result<Vec<ReturnView<'_>>, CodecError> {
    let record = OrderRef::decode(&stored.record)?;
    let state = OrderState::fold(OrderId(record.id), &stored.row)?;
    let lines = record.lines().collect::<Result<Vec<_>, _>>()?;
    returns_of(&state, &lines, |asked| asked.command == command)
}

fn returns_of<'a>(
    state: &OrderState<'a>,
    lines: &[Line<'a>],
    which: impl Fn(&Asked<'_>) -> bool,
) -> Result<Vec<ReturnView<'a>>, CodecError> {
    let asked = state.returns.iter().filter_map(|r| Some((&r.parcel, r.asked.filter(&which)?)));
    let view = |(parcel, asked): (&Parcel<'a>, Asked<'a>)| {
        let source = ParcelId { order: state.id, number: asked.source };
        Ok(ReturnView { parcel: parcel_view(state, parcel, lines)?, source, reason: asked.reason })
    };
    asked.map(view).collect()
}

/// Where each parcel stands towards being cancelled.
pub(crate) fn view_of_cancelling<'a>(state: &OrderState<'_>) -> Cancelled<'a> {
    let parcel = |p: &Parcel<'_>| CancelledParcel {
        id: ParcelId { order: state.id, number: p.number },
        cancel: Cancelling::of(state, p).name(),
    };
    Cancelled { id: state.id, status: state.status(), parcels: state.parcels.iter().map(parcel).collect() }
}

fn parcel_view<'a>(
    state: &OrderState<'a>,
    parcel: &Parcel<'a>,
    lines: &[Line<'a>],
) -> Result<ParcelView<'a>, CodecError> {
    let contents = parcel.contents();
    let requested = parcel.current().and_then(|a| a.requested.as_ref()).map(|(_, r)| r);
    let mut view = ParcelView {
        id: ParcelId { order: state.id, number: parcel.number },
        handling: contents.and_then(|c| Group::from_code(c.0)).map(Group::name),
        weight_g: parcel.weight().map(|weight| weight.grams),
        weight_estimated: parcel.weight().is_some_and(|weight| weight.estimated),
        carrier: requested.map(|r| r.carrier),
        // Empty: the carrier took it and gave no number that can be shown.
        tracking_number: parcel.accepted().and_then(|a| a.outcome).map(|o| o.2).filter(|number| !number.is_empty()),
        status: state.parcel_status(parcel),
        lines: Vec::new(),
    };
    for item in contents.iter().flat_map(|c| c.1.iter()) {
        let line = lines.get(usize::from(item.line)).ok_or(CodecError { what: "item line" })?;
        let quantity = item.quantity.unwrap_or(line.quantity);
        view.lines.push(LineView {
            line: item.line,
            sku: line.sku,
            title: line.title,
            quantity,
            unit_price: line.unit_price,
        });
    }
    Ok(view)
}

/// Places an entry among those of the same time: by rank, remarks after what they are about.
type Rank = (u64, u8, u8, u8);

struct Timeline<'a> {
    order: OrderId,
    entries: Vec<(Rank, TimelineEntry<'a>)>,
}

/// Sorts right after the acceptance, and before whatever else is decided in that moment.
const CONFLICT: u8 = 2 * Milestone::Accepted as u8 + 1;
/// What keeps a parcel from going on sorts right after what made it.
const AFTER_CLASSIFIED: u8 = 2 * Milestone::Classified as u8 + 1;
/// Remarks sort right after the request they are about.
const REMARK: u8 = 2 * Milestone::CarrierRequested as u8 + 1;
/// What follows when a carrier has a parcel.
const AFTER_ACCEPTED: u8 = 2 * Milestone::CarrierAccepted as u8 + 1;

impl<'a> Timeline<'a> {
    fn add(
        &mut self,
        at: u64,
        (rank, milestone): (u8, &'static str),
        about: Option<(u8, u8)>,
        detail: Option<std::borrow::Cow<'a, str>>,
    ) {
        let (number, attempt) = about.unwrap_or_default();
        let parcel = about.map(|_| ParcelId { order: self.order, number });
        let entry = TimelineEntry { milestone, at: Timestamp(at), parcel, detail };
        self.entries.push(((at, rank, number, attempt), entry));
    }

    fn attempt(&mut self, parcel: u8, attempt: &Attempt<'a>, before: Option<&Attempt<'a>>) {
        let about = Some((parcel, attempt.number));
        let carrier = carrier(attempt);
        if let Some((at, requested)) = &attempt.requested {
            let detail = match (attempt.number, before.and_then(rejected)) {
                (0, _) => requested.carrier.into(),
                (n, None) => format!("{}, attempt {}", requested.carrier, u32::from(n) + 1).into(),
                (n, Some((other, reason))) => {
                    format!("{}, attempt {}; {other} rejected: {reason}", requested.carrier, u32::from(n) + 1).into()
                }
            };
            self.add(*at, step(Milestone::CarrierRequested), about, Some(detail));
        }
        match attempt.outcome {
            Some((OutcomeKind::Accepted, at, _)) => {
                self.add(at, step(Milestone::CarrierAccepted), about, carrier.map(Into::into));
            }
            Some((OutcomeKind::Unknown, at, _)) => {
                let detail = format!("{}: outcome unknown, parked", carrier.unwrap_or("carrier"));
                self.add(at, (REMARK, "on_hold"), about, Some(detail.into()));
            }
            // A reject shows with the attempt it led to, or as the reason of a dead letter; so does giving up.
            Some((OutcomeKind::Rejected | OutcomeKind::GivenUp, ..)) | None => {}
        }
        if let Some(void) = attempt.void {
            self.void(about, carrier, void);
        }
        for &(progress, at, text) in &attempt.news {
            let step = match progress {
                Progress::Reached(milestone) => step(milestone),
                Progress::Remarked(remark) => (REMARK, remark.name()),
            };
            let detail = match (carrier, text) {
                (None, text) => text.into(),
                (Some(carrier), "") => carrier.into(),
                (Some(carrier), text) => format!("{carrier}: {text}").into(),
            };
            self.add(at, step, about, Some(detail));
        }
    }
}

impl<'a> Timeline<'a> {
    /// That nobody knew what is in a parcel, and what ended that.
    fn held(&mut self, parcel: &Parcel<'a>) {
        if let Some(held) = parcel.held {
            let detail = "what is in it must be reviewed before a carrier is asked".into();
            self.add(held.at_ms, (AFTER_CLASSIFIED, "on_hold"), Some((parcel.number, 0)), Some(detail));
        }
        let about = Some((parcel.number, 0));
        match parcel.reviewed {
            Some(Reviewed { at_ms, handling: None, .. }) => self.add(at_ms, step(Milestone::Cancelled), about, None),
            Some(Reviewed { at_ms, handling: Some(code), .. }) => {
                let class = Handling::ALL.get(usize::from(code)).map(|class| class.name().into());
                self.add(at_ms, (AFTER_CLASSIFIED, "reviewed"), about, class);
            }
            None => {}
        }
    }

    fn void(&mut self, about: Option<(u8, u8)>, carrier: Option<&'a str>, void: Void<'a>) {
        let carrier = carrier.unwrap_or("carrier");
        if let Some(at) = void.requested {
            self.add(at, (AFTER_ACCEPTED, "void_requested"), about, Some(carrier.into()));
        }
        match void.outcome {
            Some((OutcomeKind::Accepted, at, _)) => {
                self.add(at, step(Milestone::Cancelled), about, Some(carrier.into()));
            }
            Some((OutcomeKind::Rejected, at, reason)) => {
                self.add(at, (AFTER_ACCEPTED, "void_refused"), about, Some(format!("{carrier}: {reason}").into()));
            }
            Some((OutcomeKind::Unknown | OutcomeKind::GivenUp, at, _)) => {
                let detail = format!("{carrier}: nobody can tell whether it has forgotten the shipment");
                self.add(at, (AFTER_ACCEPTED, "void_unknown"), about, Some(detail.into()));
            }
            None => {}
        }
    }
}

fn carrier<'a>(attempt: &Attempt<'a>) -> Option<&'a str> {
    attempt.requested.as_ref().map(|(_, r)| r.carrier)
}

/// Who rejected the parcel, and why.
fn rejected<'a>(attempt: &Attempt<'a>) -> Option<(&'a str, &'a str)> {
    match attempt.outcome {
        Some((OutcomeKind::Rejected, _, reason)) => Some((carrier(attempt).unwrap_or("carrier"), reason)),
        _ => None,
    }
}

fn step(milestone: Milestone) -> (u8, &'static str) {
    (2 * milestone as u8, milestone.name())
}

fn timeline<'a>(record: &OrderRef<'a>, state: &OrderState<'a>) -> Vec<TimelineEntry<'a>> {
    let mut timeline = Timeline { order: state.id, entries: Vec::with_capacity(2 + 2 * state.parcels.len()) };
    let accepted = state.accepted.map_or(record.accepted_at_ms, |(at, _)| at);
    timeline.add(accepted, step(Milestone::Accepted), None, None);
    if let Some((at, parcels, ..)) = state.classified {
        let detail = match parcels {
            0 => "nothing to ship".into(),
            1 => "1 parcel".into(),
            n => format!("{n} parcels").into(),
        };
        timeline.add(at, step(Milestone::Classified), None, Some(detail));
    }
    if let Some(DeadLetter { at_ms, reason, .. }) = state.dead_letter {
        timeline.add(at_ms, step(Milestone::DeadLettered), None, Some(reason.into()));
    }
    for replay in &state.replays {
        timeline.add(replay.at_ms, (CONFLICT, "replayed"), None, None);
    }
    for &(other, at) in &state.conflicts {
        let detail = match other == state.id {
            true => "another request came under this order's key; it is no order".to_owned(),
            false => format!("another request came under this order's key, as {other}; it is no order"),
        };
        timeline.add(at, (CONFLICT, "conflict"), None, Some(detail.into()));
    }
    for (parcel, asked) in state.returns.iter().filter_map(|r| Some((&r.parcel, r.asked?))) {
        let entry = (REMARK - 2, "return_requested");
        timeline.add(asked.at_ms, entry, Some((parcel.number, 0)), Some(asked.reason.into()));
    }
    for parcel in state.parcels.iter().chain(state.returns.iter().map(|r| &r.parcel)) {
        let before = std::iter::once(None).chain(parcel.attempts.iter().map(Some));
        for (attempt, before) in parcel.attempts.iter().zip(before) {
            timeline.attempt(parcel.number, attempt, before);
        }
        timeline.held(parcel);
        if let Some(DeadLetter { at_ms, reason, .. }) = parcel.dead_letter {
            timeline.add(at_ms, step(Milestone::DeadLettered), Some((parcel.number, u8::MAX)), Some(reason.into()));
        }
    }
    timeline.entries.sort_by_key(|(rank, _)| *rank);
    timeline.entries.into_iter().map(|(_, entry)| entry).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use sluice_domain::{Fingerprint, SlotCount};
    use sluice_schemas::{
        delta::{Delta, Item, Items, Requested, Weight},
        milestone::Remark,
        order::{Head, ShipTo, put_head, put_line},
    };

    use super::*;

    const AT: u64 = 1_794_355_200_000;

    fn stored(deltas: &[(i64, Delta<'_>)]) -> StoredOrder {
        let fingerprint = Fingerprint::of("m-1", "k-1");
        let id = OrderId::new(AT, fingerprint, SlotCount::DEFAULT);
        let ship_to = ShipTo { name: "n", street: "s", city: "c", postal_code: "", country: "US" };
        let head = Head {
            id: id.0,
            fingerprint_high: fingerprint.high(),
            accepted_at_ms: AT + 5,
            merchant: "m-1",
            customer: "c-77",
            currency: "USD",
            ship_to,
            lines: 2,
        };
        let (mut record, mut row) = (Vec::new(), Vec::new());
        put_head(&mut record, &head);
        put_line(&mut record, &Line { sku: "1", title: "MILK", quantity: 7, unit_price: 129 });
        put_line(&mut record, &Line { sku: "2", title: "TEA", quantity: 1, unit_price: 300 });
        for (late, delta) in deltas {
            delta.encode(*late, &mut row);
        }
        StoredOrder { row, record }
    }

    fn items(items: &[Item]) -> Vec<u8> {
        let mut out = Vec::new();
        Items::encode(items, &mut out);
        out
    }

    fn requested<'a>(parcel: u8, attempt: u8, carrier: &'a str, items: &'a [u8]) -> Delta<'a> {
        let items = Items::read(&mut sluice_schemas::wire::Reader::new(items)).unwrap();
        Delta::Requested(Requested {
            parcel,
            attempt,
            handling: parcel,
            carrier,
            weight: Weight { grams: 1_250, estimated: parcel == 1 },
            items,
            order_position: None,
        })
    }

    fn settled(parcel: u8, attempt: u8, outcome: OutcomeKind, text: &str) -> Delta<'_> {
        Delta::Settled { parcel, attempt, outcome, text }
    }

    fn told(parcel: u8, attempt: u8, progress: Progress, text: &str) -> Delta<'_> {
        Delta::Tracked { parcel, attempt, progress, text }
    }

    /// Two parcels: one rerouted, then accepted and on its way, one parked.
    fn story<'a>(milk: &'a [u8], tea: &'a [u8]) -> Vec<(i64, Delta<'a>)> {
        vec![
            (6, Delta::Accepted { position: 9 }),
            (7, Delta::Classified { parcels: 2, rules: 3, model: 0 }),
            (7, requested(0, 0, "swift", milk)),
            (7, requested(1, 0, "slow", tea)),
            (20, settled(0, 0, OutcomeKind::Rejected, "too heavy")),
            (20, requested(0, 1, "strong", milk)),
            (31, settled(0, 1, OutcomeKind::Accepted, "T-1")),
            (30, settled(1, 0, OutcomeKind::Unknown, "timeout")),
            (40, told(0, 1, Progress::Reached(Milestone::PickedUp), "")),
            (41, told(0, 1, Progress::Remarked(Remark::DeliveryDelayed), "snow")),
        ]
    }

    #[test]
    fn the_view_has_the_published_shape() {
        let milk = items(&[Item { line: 0, quantity: Some(4) }]);
        let tea = items(&[Item { line: 1, quantity: None }]);
        let stored = stored(&story(&milk, &tea));
        let view = view(&stored).unwrap();
        let id = view.id.to_string();
        let (first, second) = (format!("{id}-0"), format!("{id}-1"));
        let at = |ms: u32| format!("2026-11-11T00:00:00.{ms:03}Z");
        assert_eq!(
            serde_json::to_value(&view).unwrap(),
            json!({
                "id": id, "status": "carrier_requested", "customer": "c-77", "placed_at": at(0),
                "parcels": [
                    {"id": first, "handling": "chilled", "carrier": "strong", "tracking_number": "T-1",
                     "weight_g": 1_250, "weight_estimated": false, "status": "picked_up",
                     "lines": [{"line": 0, "sku": "1", "title": "MILK", "quantity": 4, "unit_price": 129}]},
                    {"id": second, "handling": "ambient", "carrier": "slow", "tracking_number": null,
                     "weight_g": 1_250, "weight_estimated": true, "status": "carrier_requested",
                     "lines": [{"line": 1, "sku": "2", "title": "TEA", "quantity": 1, "unit_price": 300}]},
                ],
                "timeline": [
                    {"milestone": "accepted", "at": at(6)},
                    {"milestone": "classified", "at": at(7), "detail": "2 parcels"},
                    {"milestone": "carrier_requested", "at": at(7), "parcel": first, "detail": "swift"},
                    {"milestone": "carrier_requested", "at": at(7), "parcel": second, "detail": "slow"},
                    {"milestone": "carrier_requested", "at": at(20), "parcel": first,
                     "detail": "strong, attempt 2; swift rejected: too heavy"},
                    {"milestone": "on_hold", "at": at(30), "parcel": second, "detail": "slow: outcome unknown, parked"},
                    {"milestone": "carrier_accepted", "at": at(31), "parcel": first, "detail": "strong"},
                    {"milestone": "picked_up", "at": at(40), "parcel": first, "detail": "strong"},
                    {"milestone": "delivery_delayed", "at": at(41), "parcel": first, "detail": "strong: snow"},
                ],
            })
        );
    }

    #[test]
    fn an_order_no_stage_has_seen_is_accepted() {
        let stored = stored(&[]);
        let view = view(&stored).unwrap();
        assert_eq!((view.status, view.parcels.len(), view.timeline.len()), (Milestone::Accepted, 0, 1));
        assert_eq!(view.timeline[0].at, Timestamp(AT + 5));
    }

    #[test]
    fn dead_letters_say_why() {
        let whole = stored(&[
            (6, Delta::Accepted { position: 0 }),
            (7, Delta::DeadLettered { parcel: None, rules: 1, reason: "poison", replay: 0 }),
        ]);
        let view_of_whole = view(&whole).unwrap();
        assert_eq!(view_of_whole.status, Milestone::DeadLettered);
        assert_eq!(view_of_whole.timeline[1].detail.as_deref(), Some("poison"));
        let part = stored(&[
            (6, Delta::Classified { parcels: 1, rules: 1, model: 0 }),
            (7, Delta::DeadLettered { parcel: Some(0), rules: 1, reason: "no carrier takes it", replay: 0 }),
        ]);
        let view_of_part = view(&part).unwrap();
        assert_eq!(view_of_part.status, Milestone::DeadLettered);
        assert_eq!((view_of_part.parcels[0].handling, view_of_part.parcels[0].carrier), (None, None));
        assert_eq!(view_of_part.timeline[2].milestone, "dead_lettered");
    }

    #[test]
    fn nothing_to_ship_is_said() {
        let view_json = stored(&[(6, Delta::Classified { parcels: 0, rules: 1, model: 0 })]);
        assert_eq!(view(&view_json).unwrap().timeline[1].detail.as_deref(), Some("nothing to ship"));
    }

    #[test]
    fn damage_is_an_error_and_not_a_wrong_answer() {
        let beyond = items(&[Item { line: 2, quantity: None }]);
        assert_eq!(view(&stored(&[(1, requested(0, 0, "c", &beyond))])), Err(CodecError { what: "item line" }));
        let mut cut = stored(&[]);
        cut.record.pop();
        assert!(view(&cut).is_err());
        cut.record.clear();
        assert!(view(&cut).is_err());
        assert!(view(&StoredOrder { row: vec![77], ..stored(&[]) }).is_err());
    }

    proptest! {
        /// However deltas are reordered, repeated or cut short, the status shown never goes back as more arrive.
        #[test]
        fn a_status_never_goes_back(picks in prop::collection::vec(0usize..10, 1..40)) {
            let milk = items(&[Item { line: 0, quantity: Some(4) }]);
            let tea = items(&[Item { line: 1, quantity: None }]);
            let story = story(&milk, &tea);
            let (mut deltas, mut seen) = (Vec::new(), std::collections::HashMap::new());
            for pick in picks {
                deltas.push(story[pick]);
                let stored = stored(&deltas);
                for parcel in view(&stored).unwrap().parcels {
                    let before = seen.insert(parcel.id.number, parcel.status);
                    prop_assert!(before <= Some(parcel.status), "{before:?} {parcel:?}");
                }
            }
        }
    }
}
