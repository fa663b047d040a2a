//! What every engine must do, as cases that run against any of them: an engine that passes needs no stage, service or
//! test to know which one it is.
//!
//! An engine implements [`Harness`] over its own ports, with the stages of [`stages`], and calls [`run_all`] from its
//! tests. Cases panic where an engine departs from the contract.

#![allow(clippy::expect_used, clippy::panic, reason = "a suite of assertions; nothing else is built with it")]

use std::sync::Arc;

use sluice_domain::{
    Fingerprint, Group, OrderId, OrderState, ShipmentId, SlotCount,
    order_state::{Class, OutcomeStep, on_outcome},
};
use sluice_schemas::{
    delta::Item,
    order::{Head, Line, OrderRef, ShipTo, put_head, put_line},
    outcome::OutcomeKind,
};

use crate::{BatchView, Ctx, Effects, OutcomeReport, Receipt, Rows, Stage, StoredOrder, Submission, Submitted};

/// Carriers of the suite, by number.
pub const CARRIERS: [&str; 2] = ["swift", "tortoise"];

/// Time at which the suite's orders are placed, ms since the epoch. A harness's clock shows this or a little more.
pub const PLACED_AT_MS: u64 = 1_794_268_800_123;

/// An order of the suite. What becomes of it is written in its SKUs, see [`stages`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Idempotency key.
    pub key: String,
    /// When it was placed, ms since the epoch.
    pub placed_at_ms: u64,
    /// One line each.
    pub skus: Vec<String>,
}

impl Order {
    /// An order under `key` with these lines.
    pub fn new(key: impl Into<String>, skus: &[&str]) -> Self {
        Self { key: key.into(), placed_at_ms: PLACED_AT_MS, skus: skus.iter().map(|s| (*s).to_owned()).collect() }
    }

    /// The fingerprint of its request.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of("m-1", &self.key)
    }

    /// Its id.
    pub fn id(&self) -> OrderId {
        OrderId::new(self.placed_at_ms, self.fingerprint(), SlotCount::DEFAULT)
    }

    /// Its record.
    pub fn record(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let ship_to =
            ShipTo { name: "Ada", street: "Main St 1", city: "Springfield", postal_code: "12345", country: "US" };
        let head = Head {
            id: self.id().0,
            fingerprint_high: self.fingerprint().high(),
            accepted_at_ms: self.placed_at_ms + 5,
            merchant: "m-1",
            customer: "c-77",
            currency: "USD",
            ship_to,
            lines: self.skus.len(),
        };
        put_head(&mut out, &head);
        for sku in &self.skus {
            put_line(&mut out, &Line { sku, title: "a thing", quantity: 2, unit_price: 129 });
        }
        out
    }

    /// The shipment of one of its parcels.
    pub fn shipment(&self, parcel: u8, attempt: u8) -> ShipmentId {
        ShipmentId { order: self.id(), parcel, attempt }
    }
}

/// These orders as a submission.
pub fn submission(orders: &[Order]) -> Submission {
    let mut submission = Submission::default();
    for order in orders {
        let start = submission.bytes.len();
        submission.bytes.extend_from_slice(&order.record());
        let record = start..submission.bytes.len();
        submission.orders.push(Submitted { id: order.id(), fingerprint: order.fingerprint(), record });
    }
    submission
}

/// A carrier's answer.
pub fn answer(shipment: ShipmentId, kind: OutcomeKind) -> OutcomeReport {
    let text = if kind == OutcomeKind::Accepted { format!("T-{}", shipment.order) } else { "no".into() };
    OutcomeReport { shipment, kind, at_ms: PLACED_AT_MS + 50, carrier: Arc::from("swift"), text }
}

/// The stages of the suite. Each line of an order is a parcel of its own, and its SKU says what becomes of it: `c0` and
/// `c1` name the carrier, `nobody` is carried by nobody, `none` needs no parcel, `poison` makes the stage panic, `bad`
/// makes it reject the order. A parcel that a carrier turns down goes to the other one.
pub fn stages() -> Vec<Box<dyn Stage>> {
    vec![Box::new(BySku)]
}

struct BySku;

impl BySku {
    fn placed(input: usize, order: &OrderRef<'_>, effects: &mut Effects) {
        effects.classified(input);
        for (number, line) in order.lines().enumerate() {
            let Ok(line) = line else { return effects.reject(input, "a line can't be read") };
            let carrier = match line.sku {
                "none" => continue,
                "bad" => return effects.reject(input, "a bad order"),
                "poison" => panic!("poison"),
                sku => sku.strip_prefix('c').and_then(|n| n.parse().ok()),
            };
            effects.add_parcel(Group::Ambient, 500, &[Item { line: number as u16, quantity: None }]);
            let parcel = effects.parcels().len() - 1;
            match carrier {
                Some(carrier) => effects.route(parcel, carrier),
                None => effects.nobody(parcel, "nobody takes it"),
            }
        }
    }
}

impl Stage for BySku {
    fn name(&self) -> &'static str {
        "by-sku"
    }

    fn apply(&self, _: &Ctx<'_>, rows: &Rows, batch: &BatchView<'_>, effects: &mut Effects) {
        effects.rules = 7;
        for (input, order) in batch.placed() {
            match order {
                Ok(order) => Self::placed(input, &order, effects),
                Err(error) => effects.reject(input, &error.to_string()),
            }
        }
        for (input, outcome) in batch.outcomes() {
            let Ok(outcome) = outcome else { continue };
            assert!(outcome.text != "poison", "poison");
            let (parcel, attempt, kind) = (outcome.parcel, outcome.attempt, outcome.kind);
            match on_outcome(rows.get(input), &outcome) {
                Err(_) | Ok(OutcomeStep::Ignore) => {}
                Ok(OutcomeStep::Settle) => effects.settle(input, parcel, attempt, kind),
                Ok(OutcomeStep::DeadLetter) => {
                    effects.settle(input, parcel, attempt, kind);
                    effects.dead_letter("nobody is left to ask");
                }
                Ok(OutcomeStep::Reroute { turned_down, next, order_position }) => {
                    effects.settle(input, parcel, attempt, kind);
                    let weight_g = turned_down.weight_g;
                    effects.next_attempt(next, Group::Ambient, weight_g, &turned_down.items, order_position);
                    let other = u16::from(turned_down.carrier == CARRIERS[0]);
                    effects.route(effects.parcels().len() - 1, other);
                }
            }
        }
    }
}

/// One entry of a carrier's outbox, as a notifier would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its place.
    pub position: u64,
    /// The shipment.
    pub shipment: ShipmentId,
    /// The order record that came with it.
    pub record: Vec<u8>,
    /// True if an earlier run may have sent it.
    pub maybe_sent: bool,
}

/// An engine under test, driven step by step on one thread.
pub trait Harness {
    /// Hands a submission to the engine; the number names its answer.
    fn submit(&mut self, submission: Submission) -> usize;
    /// Hands carriers' answers to the engine.
    fn report(&mut self, reports: Vec<OutcomeReport>);
    /// Steps until nothing is left to do: all input is committed, durable, and answered.
    fn settle_down(&mut self);
    /// Steps until all input is committed and durable, and does nothing of what follows: no answer, no outbox.
    fn commit_only(&mut self);
    /// The receipts of a submission, once all are there.
    fn receipts(&mut self, submission: usize) -> Option<Vec<Receipt>>;
    /// The order, as a reader sees it.
    fn read(&mut self, id: OrderId) -> Option<StoredOrder>;
    /// What the carrier's outbox gives beyond what it gave before; after a restart, what a new notifier gets.
    fn outbox(&mut self, carrier: u16) -> Vec<Sent>;
    /// Says that the carrier's entries up to here are settled.
    fn settled(&mut self, carrier: u16, position: u64);
    /// Kills the engine without warning and opens it again.
    fn restart(&mut self);
    /// From now on no commit finds room (`true`), or all do (`false`).
    fn refuse_commits(&mut self, refuse: bool);
    /// Moves everything from memory to the store, where the engine has such a thing.
    fn spill(&mut self) {}
}

type Make<'a> = &'a mut dyn FnMut() -> Box<dyn Harness>;

/// One case: asserts what it asserts about engines of its maker.
pub type Case = fn(Make<'_>);

/// All cases by name. Each gets a maker of empty engines.
pub const CASES: &[(&str, Case)] = &[
    ("an order is accepted, read and offered", an_order_is_accepted_read_and_offered),
    ("the same request is one order", the_same_request_is_one_order),
    ("another request under a key is a conflict", another_request_under_a_key_is_a_conflict),
    ("a refused commit leaves no trace", a_refused_commit_leaves_no_trace),
    ("refused outcomes come again", refused_outcomes_come_again),
    ("a poison order stops nobody", a_poison_order_stops_nobody),
    ("an outcome twice in one batch counts once", an_outcome_twice_in_one_batch_counts_once),
    ("a turned-down parcel goes to the other carrier", a_turned_down_parcel_goes_to_the_other_carrier),
    ("nothing is lost between commit and answer", nothing_is_lost_between_commit_and_answer),
    ("settled entries do not come back", settled_entries_do_not_come_back),
    ("a batch equals its orders one by one", a_batch_equals_its_orders_one_by_one),
];

/// Runs every case against fresh engines from `make`.
pub fn run_all(make: Make<'_>) {
    for (name, case) in CASES {
        tracing::info!(name, "conformance");
        case(make);
    }
}

fn state_of(harness: &mut dyn Harness, order: &Order) -> (Class, StoredOrder) {
    let stored = harness.read(order.id()).unwrap_or_else(|| panic!("order {} is lost", order.key));
    let class = OrderState::fold(order.id(), &stored.row).expect("a row that reads").class();
    (class, stored)
}

fn accept(harness: &mut dyn Harness, orders: &[Order]) {
    let ticket = harness.submit(submission(orders));
    harness.settle_down();
    assert_eq!(harness.receipts(ticket), Some(vec![Receipt::Accepted; orders.len()]));
}

fn receipts(harness: &mut dyn Harness, orders: &[Order]) -> Vec<Receipt> {
    let ticket = harness.submit(submission(orders));
    harness.settle_down();
    harness.receipts(ticket).expect("an answer")
}

fn shipments(sent: &[Sent]) -> Vec<ShipmentId> {
    sent.iter().map(|s| s.shipment).collect()
}

fn an_order_is_accepted_read_and_offered(make: Make<'_>) {
    let mut harness = make();
    let order = Order::new("a", &["c0", "c1", "none"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    for round in 0..3 {
        let (class, stored) = state_of(&mut *harness, &order);
        assert_eq!((class, stored.record), (Class::InFlight, order.record()), "round {round}");
        let (first, second) = (harness.outbox(0), harness.outbox(1));
        assert_eq!(shipments(&first), [order.shipment(0, 0)], "round {round}");
        assert_eq!(shipments(&second), [order.shipment(1, 0)], "round {round}");
        assert_eq!(first[0].record, order.record());
        assert!(harness.outbox(0).is_empty(), "an entry is given once");
        if round == 1 {
            harness.spill();
        }
        harness.restart();
    }
    harness.report(vec![
        answer(order.shipment(0, 0), OutcomeKind::Accepted),
        answer(order.shipment(1, 0), OutcomeKind::Accepted),
    ]);
    harness.settle_down();
    assert_eq!(state_of(&mut *harness, &order).0, Class::Finished);
    assert!(harness.read(Order::new("unknown", &[]).id()).is_none());
}

fn the_same_request_is_one_order(make: Make<'_>) {
    use Receipt::{Accepted, Replayed};
    let mut harness = make();
    let order = Order::new("a", &["c0"]);
    let twice = [order.clone(), order.clone()];
    assert_eq!(receipts(&mut *harness, &twice), [Accepted, Replayed], "in one batch");
    assert_eq!(receipts(&mut *harness, &twice), [Replayed, Replayed], "of a durable order");
    harness.restart();
    assert_eq!(receipts(&mut *harness, &twice), [Replayed, Replayed], "after a restart");
    harness.spill();
    assert_eq!(receipts(&mut *harness, &twice), [Replayed, Replayed], "out of memory");
    harness.restart();
    assert_eq!(receipts(&mut *harness, &twice), [Replayed, Replayed], "out of memory, after a restart");
    assert_eq!(shipments(&harness.outbox(0)), [order.shipment(0, 0)]);
}

fn another_request_under_a_key_is_a_conflict(make: Make<'_>) {
    use Receipt::{Accepted, Conflict, Replayed};
    let mut harness = make();
    let order = Order::new("a", &["c0"]);
    let body = Order::new("a", &["c1"]);
    let time = Order { placed_at_ms: PLACED_AT_MS + 1, ..order.clone() };
    let all = [order.clone(), body, time.clone(), order.clone()];
    assert_eq!(receipts(&mut *harness, &all), [Accepted, Conflict, Conflict, Replayed], "in one batch");
    harness.spill();
    assert_eq!(receipts(&mut *harness, &all), [Replayed, Conflict, Conflict, Replayed], "out of memory");
    harness.restart();
    assert_eq!(receipts(&mut *harness, &all), [Replayed, Conflict, Conflict, Replayed], "after a restart");
    assert_eq!(state_of(&mut *harness, &order).1.record, order.record());
    assert!(harness.read(time.id()).is_none(), "a conflict is no order");
    assert_eq!(shipments(&harness.outbox(0)), [order.shipment(0, 0)]);
    assert!(harness.outbox(1).is_empty());
}

fn a_refused_commit_leaves_no_trace(make: Make<'_>) {
    let mut harness = make();
    let order = Order::new("a", &["c0"]);
    harness.refuse_commits(true);
    let answers = receipts(&mut *harness, &[order.clone(), order.clone()]);
    assert!(answers.iter().all(|r| matches!(r, Receipt::Busy { retry_after_s: 1.., .. })), "{answers:?}");
    assert!(harness.read(order.id()).is_none());
    harness.refuse_commits(false);
    accept(&mut *harness, std::slice::from_ref(&order));
    assert_eq!(state_of(&mut *harness, &order).0, Class::InFlight);
    harness.restart();
    assert_eq!(shipments(&harness.outbox(0)), [order.shipment(0, 0)]);
}

fn refused_outcomes_come_again(make: Make<'_>) {
    let mut harness = make();
    let order = Order::new("a", &["c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    harness.refuse_commits(true);
    harness.report(vec![answer(order.shipment(0, 0), OutcomeKind::Accepted)]);
    harness.refuse_commits(false);
    harness.settle_down();
    assert_eq!(state_of(&mut *harness, &order).0, Class::Finished);
}

fn a_poison_order_stops_nobody(make: Make<'_>) {
    let mut harness = make();
    let skus = |i: usize| match i {
        11 | 12 => "poison",
        20 => "bad",
        _ => "c0",
    };
    let orders: Vec<Order> = (0..32).map(|i| Order::new(format!("k{i}"), &[skus(i)])).collect();
    accept(&mut *harness, &orders);
    for (i, order) in orders.iter().enumerate() {
        let dead = matches!(i, 11 | 12 | 20);
        let (class, stored) = state_of(&mut *harness, order);
        assert_eq!(class, if dead { Class::DeadLettered } else { Class::InFlight }, "order {i}");
        assert_eq!(stored.record, order.record(), "order {i} keeps its bytes");
    }
    assert_eq!(harness.outbox(0).len(), 29);
    assert_eq!(receipts(&mut *harness, &orders[11..12]), [Receipt::Replayed], "its key stays taken");
    let mut poison = answer(orders[0].shipment(0, 0), OutcomeKind::Rejected);
    poison.text = "poison".into();
    harness.report(vec![poison, answer(orders[1].shipment(0, 0), OutcomeKind::Accepted)]);
    harness.settle_down();
    assert_eq!(state_of(&mut *harness, &orders[0]).0, Class::DeadLettered);
    assert_eq!(state_of(&mut *harness, &orders[1]).0, Class::Finished);
}

fn an_outcome_twice_in_one_batch_counts_once(make: Make<'_>) {
    let mut harness = make();
    let order = Order::new("a", &["c0", "c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    let no = answer(order.shipment(0, 0), OutcomeKind::Rejected);
    let yes = answer(order.shipment(1, 0), OutcomeKind::Accepted);
    let later_yes = answer(order.shipment(0, 0), OutcomeKind::Accepted);
    harness.report(vec![no.clone(), yes.clone(), no.clone(), later_yes, yes, no]);
    harness.settle_down();
    let (class, stored) = state_of(&mut *harness, &order);
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    assert_eq!((class, state.parcels[0].attempts.len()), (Class::InFlight, 2), "{state:?}");
    assert_eq!(state.parcels[0].attempts[0].outcome.map(|o| o.0), Some(OutcomeKind::Rejected));
    assert_eq!(shipments(&harness.outbox(1)), [order.shipment(0, 1)], "offered once more, once");
}

fn a_turned_down_parcel_goes_to_the_other_carrier(make: Make<'_>) {
    let mut harness = make();
    let order = Order::new("a", &["c0"]);
    accept(&mut *harness, std::slice::from_ref(&order));
    for attempt in 0..7u8 {
        let carrier = u16::from(attempt % 2);
        let sent = harness.outbox(carrier);
        assert_eq!(shipments(&sent), [order.shipment(0, attempt)], "attempt {attempt}");
        assert_eq!(sent[0].record, order.record(), "attempt {attempt} brings the order");
        harness.settled(carrier, sent[0].position);
        harness.report(vec![answer(order.shipment(0, attempt), OutcomeKind::Rejected)]);
        harness.settle_down();
        match attempt {
            2 => harness.spill(),
            4 => harness.restart(),
            _ => {}
        }
    }
    harness.report(vec![answer(order.shipment(0, 7), OutcomeKind::Rejected)]);
    harness.settle_down();
    assert_eq!(state_of(&mut *harness, &order).0, Class::DeadLettered, "nobody is left");
}

fn nothing_is_lost_between_commit_and_answer(make: Make<'_>) {
    let mut harness = make();
    let (first, second) = (Order::new("a", &["c0"]), Order::new("b", &["c1"]));
    accept(&mut *harness, std::slice::from_ref(&first));
    harness.report(vec![answer(first.shipment(0, 0), OutcomeKind::Rejected)]);
    harness.submit(submission(std::slice::from_ref(&second)));
    harness.commit_only();
    harness.restart();
    let both = [first.clone(), second.clone()];
    assert_eq!(receipts(&mut *harness, &both), [Receipt::Replayed; 2], "committed is committed");
    assert!(harness.outbox(0).is_empty(), "the turned-down attempt has its outcome");
    let mut sent = shipments(&harness.outbox(1));
    sent.sort_unstable();
    let mut wanted = [first.shipment(0, 1), second.shipment(0, 0)];
    wanted.sort_unstable();
    assert_eq!(sent, wanted);
}

fn settled_entries_do_not_come_back(make: Make<'_>) {
    let mut harness = make();
    let orders: Vec<Order> = (0..10).map(|i| Order::new(format!("k{i}"), &["c0"])).collect();
    for order in &orders {
        accept(&mut *harness, std::slice::from_ref(order));
    }
    let sent = harness.outbox(0);
    assert!(sent.is_sorted_by_key(|s| s.position) && sent.len() == 10);
    harness.report(sent[..4].iter().map(|s| answer(s.shipment, OutcomeKind::Accepted)).collect());
    harness.report(vec![answer(sent[7].shipment, OutcomeKind::Unknown)]);
    harness.settled(0, sent[3].position);
    harness.settle_down();
    for round in 0..2 {
        harness.restart();
        let again = harness.outbox(0);
        let wanted: Vec<_> = [4, 5, 6, 8, 9].map(|i: usize| sent[i].shipment).into();
        assert_eq!(shipments(&again), wanted, "round {round}");
        assert!(again.iter().all(|s| !s.maybe_sent), "no mark was asked for");
        harness.spill();
    }
}

fn a_batch_equals_its_orders_one_by_one(make: Make<'_>) {
    let kinds = [&["c0"][..], &["c1", "none"], &["nobody"], &["none"], &["poison"], &["bad"], &["c0", "c1", "nobody"]];
    let orders: Vec<Order> = (0..42).map(|i| Order::new(format!("k{}", i % 35), kinds[i % kinds.len()])).collect();
    let answers: Vec<OutcomeReport> = orders
        .iter()
        .enumerate()
        .flat_map(|(i, order)| {
            let kind = [OutcomeKind::Accepted, OutcomeKind::Rejected, OutcomeKind::Unknown, OutcomeKind::GivenUp];
            (0..2).map(move |parcel| answer(order.shipment(parcel, 0), kind[(i + usize::from(parcel)) % 4]))
        })
        .collect();
    let (mut at_once, mut singly) = (make(), make());
    let ticket = at_once.submit(submission(&orders));
    at_once.settle_down();
    at_once.report(answers.clone());
    at_once.settle_down();
    let together = at_once.receipts(ticket).expect("answers");
    let single: Vec<Receipt> =
        orders.iter().flat_map(|order| receipts(&mut *singly, std::slice::from_ref(order))).collect();
    for one in answers {
        singly.report(vec![one]);
        singly.settle_down();
    }
    assert_eq!(together, single);
    for order in &orders {
        let state = |harness: &mut dyn Harness| {
            let stored = harness.read(order.id()).expect("an order");
            let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
            let attempts = |p: &sluice_domain::order_state::Parcel<'_>| {
                let kinds = p.attempts.iter().map(|a| (a.number, a.outcome.map(|o| o.0)));
                (p.number, p.dead_lettered.is_some(), kinds.collect::<Vec<_>>())
            };
            (state.class(), state.status(), state.parcels.iter().map(attempts).collect::<Vec<_>>())
        };
        assert_eq!(state(&mut *at_once), state(&mut *singly), "order {}", order.key);
    }
}
