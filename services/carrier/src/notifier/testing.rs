//! What the tests of this module share: entries with real records, and a notifier driven by hand.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use sluice_domain::{Group, OrderId, ShipmentId};
use sluice_pipeline::{Answer, Clock, Manifest, OutboxBatch, OutboxEntry, OutcomeReport, ShipmentAnswer};
use sluice_schemas::{
    delta::{Item, Items, Weight},
    order::{Head, Line, ShipTo, put_head, put_line},
    outcome::OutcomeKind,
};

use super::{CallId, Moment, Next, Notifier, NotifierConfig};

/// Wall time at 0 on the monotonic clock, ms.
pub(super) const START_MS: u64 = 1_794_268_800_000;

/// Manifests of 10, so that tests stay small; everything else as by default.
pub(super) fn config(idempotent: bool) -> NotifierConfig {
    NotifierConfig { manifest_shipments: 10, ..NotifierConfig::new("acme", idempotent) }
}

pub(super) fn at_us(mono_us: u64) -> Moment {
    Moment { wall_ms: START_MS + mono_us / 1_000, mono_us }
}

pub(super) fn shipment(position: u64) -> ShipmentId {
    let hash = position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let order = OrderId(u128::from(START_MS) << 80 | u128::from(hash % 1_024) << 64 | u128::from(hash));
    ShipmentId { order, parcel: 0, attempt: 0 }
}

/// One entry a position, each an order of two lines, about 230 bytes.
pub(super) fn batch(positions: Range<u64>) -> OutboxBatch {
    let mut batch = OutboxBatch::default();
    for position in positions {
        let shipment = shipment(position);
        let start = batch.bytes.len();
        let ship_to = ShipTo {
            name: "Ada Example",
            street: "12 Mill Lane",
            city: "Springfield",
            postal_code: "12345",
            country: "US",
        };
        let head = Head {
            id: shipment.order.0,
            fingerprint_high: 1,
            accepted_at_ms: START_MS + 5,
            merchant: "m-367",
            customer: "c-77",
            currency: "USD",
            ship_to,
            lines: 2,
        };
        put_head(&mut batch.bytes, &head);
        for (sku, title) in
            [("1029743", "FLUID MILK WHITE ONLY | 1 GA | PRIVATE"), ("981760", "YOGURT | 6 OZ | NATIONAL")]
        {
            put_line(&mut batch.bytes, &Line { sku, title, quantity: 2, unit_price: 129 });
        }
        let record = start..batch.bytes.len();
        Items::encode(&[Item { line: 0, quantity: None }, Item { line: 1, quantity: None }], &mut batch.bytes);
        let items = record.end..batch.bytes.len();
        let group = Group::Chilled;
        batch.entries.push(OutboxEntry {
            position,
            shipment,
            group,
            weight: Weight::known(900),
            maybe_sent: false,
            record,
            items,
        });
    }
    batch
}

pub(super) fn accept(shipment: ShipmentId) -> ShipmentAnswer {
    ShipmentAnswer { shipment, outcome: Ok(format!("T{:x}", shipment.order.0 as u64)) }
}

pub(super) fn accept_all(manifest: &Manifest) -> Answer {
    Answer::Results(manifest.shipments.entries.iter().map(|entry| accept(entry.shipment)).collect())
}

/// The machine's own time.
pub(super) struct RealClock(Instant);

impl RealClock {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for RealClock {
    fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
    }
    fn monotonic_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// A notifier with its time.
pub(super) struct Bench {
    pub(super) notifier: Notifier,
    pub(super) now_us: u64,
    /// Durable at once when asked for, unless a test holds it back.
    pub(super) mark: u64,
    pub(super) marks: Vec<u64>,
    pub(super) hold_mark: bool,
    pub(super) reports: Vec<OutcomeReport>,
}

impl Bench {
    pub(super) fn new(config: NotifierConfig) -> Self {
        let notifier = Notifier::new(config, 42);
        Self { notifier, now_us: 1_000_000, mark: 0, marks: Vec::new(), hold_mark: false, reports: Vec::new() }
    }

    pub(super) fn now(&self) -> Moment {
        at_us(self.now_us)
    }

    pub(super) fn push(&mut self, positions: Range<u64>) {
        self.notifier.push(&batch(positions), self.now());
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        self.now_us += duration.as_micros() as u64;
    }

    /// Every call that is possible now.
    pub(super) fn sends(&mut self) -> Vec<(CallId, Arc<Manifest>)> {
        let mut sends = Vec::new();
        loop {
            match self.notifier.next(self.now(), self.mark) {
                Next::Send(call, manifest) => sends.push((call, manifest)),
                Next::MarkSending(position) => {
                    self.marks.push(position);
                    if !self.hold_mark {
                        self.mark = position;
                    }
                }
                Next::WaitUntil(at) => {
                    assert!(at > self.now_us, "waiting for the past");
                    return sends;
                }
                Next::Idle => return sends,
            }
        }
    }

    /// The one call that is possible now.
    pub(super) fn send(&mut self) -> (CallId, Arc<Manifest>) {
        let mut sends = self.sends();
        assert_eq!(sends.len(), 1);
        sends.remove(0)
    }

    /// Lets time pass until something can be sent, at most `limit`, and says how long that took.
    pub(super) fn wait_for_send(&mut self, limit: Duration) -> (Duration, CallId, Arc<Manifest>) {
        let start = self.now_us;
        let end = start + limit.as_micros() as u64;
        loop {
            match self.notifier.next(self.now(), self.mark) {
                Next::Send(call, manifest) => return (Duration::from_micros(self.now_us - start), call, manifest),
                Next::MarkSending(position) => self.mark = position,
                Next::WaitUntil(at) if at <= end => self.now_us = at,
                other => panic!("nothing to send within {limit:?}: {other:?}"),
            }
        }
    }

    pub(super) fn answer(&mut self, call: CallId, answer: Answer) {
        self.notifier.answered(call, answer, self.now());
        self.hand_over();
    }

    pub(super) fn hand_over(&mut self) {
        let reports = &mut self.reports;
        self.notifier.hand_over(|waiting| reports.append(waiting));
    }

    pub(super) fn kinds(&self) -> Vec<OutcomeKind> {
        self.reports.iter().map(|report| report.kind).collect()
    }
}
