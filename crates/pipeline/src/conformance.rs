//! What every engine must do, as cases that run against any of them: an engine that passes needs no stage, service or
//! test to know which one it is.
//!
//! An engine implements [`Harness`] over its own ports, with the stages of [`stages`], and calls [`run_all`] from its
//! tests. Cases panic where an engine departs from the contract. The few things that a user may see differently are
//! capabilities of the harness, so that a case asserts the right answer for each engine, and one effect for all of them.

#![allow(clippy::expect_used, clippy::panic, reason = "a suite of assertions; nothing else is built with it")]

mod commands;
mod failures;
mod life;
mod lookup;
mod news;
mod numbers;
mod repeats;
mod replays;
mod reviews;
mod since;
mod stages;

use std::sync::Arc;

use sluice_domain::{Fingerprint, OrderId, OrderState, ShipmentId, SlotCount, order_state::Class};
use sluice_schemas::{
    delta::{FIRST_RETURN, Weight},
    order::{Head, Line, ShipTo, put_head, put_line},
    outcome::OutcomeKind,
};

pub use self::stages::stages;
use self::stages::weight_of;
use crate::{Listed, OutcomeReport, Receipt, StoredOrder, Submission, Submitted, Words};

/// Carriers of the suite, by number.
pub const CARRIERS: [&str; 2] = ["swift", "tortoise"];

/// Time at which the suite's orders are placed, ms since the epoch. A harness's clock shows this or a little more.
pub const PLACED_AT_MS: u64 = 1_794_268_800_123;

/// The merchant of the suite's orders.
pub const MERCHANT: &str = "m-1";

/// An order of the suite. What becomes of it is written in its SKUs, see [`stages`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Idempotency key.
    pub key: String,
    /// When it was placed, ms since the epoch.
    pub placed_at_ms: u64,
    /// The merchant's id of the customer.
    pub customer: String,
    /// One line each.
    pub skus: Vec<String>,
}

impl Order {
    /// An order under `key` with these lines.
    pub fn new(key: impl Into<String>, skus: &[&str]) -> Self {
        Self {
            key: key.into(),
            placed_at_ms: PLACED_AT_MS,
            customer: "c-77".to_owned(),
            skus: skus.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    /// The fingerprint of its request.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(MERCHANT, &self.key)
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
            merchant: MERCHANT,
            customer: &self.customer,
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

/// One entry of a carrier's outbox, as a notifier would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its place.
    pub position: u64,
    /// The shipment.
    pub shipment: ShipmentId,
    /// What it weighs.
    pub weight: Weight,
    /// The order record that came with it.
    pub record: Vec<u8>,
    /// True if an earlier run may have sent it.
    pub maybe_sent: bool,
}

/// One public event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its id, by which consumers drop repetitions.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// The order it is about.
    pub order: OrderId,
    /// Its number among those of its order.
    pub sequence: u64,
}

/// An engine under test, driven step by step on one thread. What has a default is a capability that not every engine
/// has; those of distributed engines must be there if it says that it is one.
pub trait Harness {
    /// Hands a submission to the engine; the number names its answer.
    fn submit(&mut self, submission: Submission) -> usize;
    /// Hands words to the engine, whose answer is waited for; the number names it.
    fn hear(&mut self, words: Words) -> usize;
    /// Hands carriers' answers to the engine.
    fn report(&mut self, reports: Vec<OutcomeReport>);
    /// Steps until nothing is left to do: all input is committed, durable, and answered.
    fn settle_down(&mut self);
    /// Steps until all input is committed and durable, and does nothing of what follows: no answer, no outbox.
    fn commit_only(&mut self);
    /// The receipts of a submission, once all are there.
    fn receipts(&mut self, submission: usize) -> Option<Vec<Receipt>>;
    /// The order, as a reader sees it once rows have followed what was committed.
    fn read(&mut self, id: OrderId) -> Option<StoredOrder>;
    /// A customer's orders at a merchant, as a reader lists them once what is looked up has followed what was committed.
    fn list(&mut self, merchant: &str, customer: &str, before: Option<OrderId>, max: usize) -> Listed;
    /// Orders of which a parcel waits to be reviewed, likewise.
    fn held(&mut self, before: Option<OrderId>, max: usize) -> Listed;
    /// The shipments that a carrier took under each of these numbers, likewise.
    fn shipments(&mut self, carrier: &str, numbers: &[&str]) -> Vec<Vec<ShipmentId>>;
    /// What the carrier's outbox gives beyond what it gave before; after a restart, what a new notifier gets.
    fn outbox(&mut self, carrier: u16) -> Vec<Sent>;
    /// Says that the carrier's entries up to here are settled.
    fn settled(&mut self, carrier: u16, position: u64);
    /// Kills the engine without warning and opens it again.
    fn restart(&mut self);
    /// Kills the engine while a commit of all input is under way, written but not complete, and opens it again.
    fn crash(&mut self);
    /// From now on no order finds room (`true`), or all do (`false`).
    fn refuse_commits(&mut self, refuse: bool);
    /// Moves everything from memory to the store, where the engine has such a thing.
    fn spill(&mut self) {}

    /// First part of the keys of this engine's orders, so that several engines may use one deployment.
    fn salt(&self) -> &str {
        ""
    }
    /// Whether checkout knows what was ordered before. Else it accepts every request, and only its owner finds out: a
    /// repetition has no effect, and a conflict is shown on the time line of the first order.
    fn knows_repetitions(&self) -> bool {
        true
    }
    /// Whether an outbox gives an entry again after a restart as long as nobody said that it is settled, although its
    /// outcome is known.
    fn repeats_unsettled(&self) -> bool {
        false
    }
    /// Like [`Harness::submit`], at one of two checkout nodes.
    fn submit_at(&mut self, _node: usize, submission: Submission) -> usize {
        self.submit(submission)
    }
    /// Whether several workers share it, with rows that may lag and commits that may be aborted.
    fn distributed(&self) -> bool {
        false
    }
    /// Rows stay as they are from now on (`true`), or follow again (`false`).
    fn lag(&mut self, _lags: bool) {
        assert!(!self.distributed(), "rows that lag");
    }
    /// The next commit fails after its batch was applied and written; its inputs come again.
    fn abort_next(&mut self) {
        assert!(!self.distributed(), "aborts");
    }
    /// Another worker comes and takes its share of the partitions (`true`), or goes (`false`).
    fn another_worker(&mut self, _comes: bool) {
        assert!(!self.distributed(), "several workers");
    }
    /// The worker decides on all input and stalls before it can commit; another one takes its partitions over and
    /// decides in its place; then the first comes back, tries to commit, and gets its partitions again.
    fn stall_and_come_back(&mut self) {
        assert!(!self.distributed(), "workers that stall");
    }
    /// All public events about this engine's orders, as a consumer of committed ones gets them.
    fn events(&mut self) -> Vec<Told>;
    /// Of these, those behind the cursor that the feed finds for this time, ms since the epoch.
    fn events_since(&mut self, at_ms: u64) -> Vec<Told>;
    /// Waits for, or makes, a time in ms since the epoch that lies behind all that was decided so far, and before all that will
    /// be, by the clock of the log.
    fn moment(&mut self) -> u64;
}

/// Makes an empty engine.
pub type Make<'a> = &'a mut dyn FnMut() -> Box<dyn Harness>;

/// One case: asserts what it asserts about engines of its maker.
pub type Case = fn(Make<'_>);

/// All cases by name. Each gets a maker of empty engines.
pub const CASES: &[(&str, Case)] = &[
    ("an order is accepted, read and offered", life::an_order_is_accepted_read_and_offered),
    ("a refused commit leaves no trace", life::a_refused_commit_leaves_no_trace),
    ("refused outcomes come again", life::refused_outcomes_come_again),
    ("a poison order stops nobody", life::a_poison_order_stops_nobody),
    ("an outcome twice in one batch counts once", life::an_outcome_twice_in_one_batch_counts_once),
    ("a turned-down parcel goes to the other carrier", life::a_turned_down_parcel_goes_to_the_other_carrier),
    ("settled entries do not come back", life::settled_entries_do_not_come_back),
    ("a batch equals its orders one by one", life::a_batch_equals_its_orders_one_by_one),
    ("an outcome in the batch of its order", life::an_outcome_in_the_batch_of_its_order),
    ("the same request is one order", repeats::the_same_request_is_one_order),
    ("another request under a key is a conflict", repeats::another_request_under_a_key_is_a_conflict),
    ("a request at two checkout nodes is one order", repeats::a_request_at_two_checkout_nodes_is_one_order),
    ("nothing is lost between commit and answer", failures::nothing_is_lost_between_commit_and_answer),
    ("an aborted batch is decided once", failures::an_aborted_batch_is_decided_once),
    ("a crash within a commit leaves nothing half done", failures::a_crash_within_a_commit_leaves_nothing_half_done),
    ("a crash between commit and fold loses no row", failures::a_crash_between_commit_and_fold_loses_no_row),
    ("a reroute needs no row", failures::a_reroute_needs_no_row),
    ("workers come and go", failures::workers_come_and_go),
    ("a worker that lost its partitions comes back", failures::a_worker_that_lost_its_partitions_comes_back),
    ("a decision is told once", failures::a_decision_is_told_once),
    ("news is kept once and moves nothing back", news::news_is_kept_once_and_moves_nothing_back),
    ("news shows that a parcel was taken", news::news_shows_that_a_parcel_was_taken),
    ("news that finds no room is refused", news::news_that_finds_no_room_is_refused),
    ("news of what was given up is kept", news::news_of_what_was_given_up_is_kept),
    ("orders and news in one batch are each answered", news::orders_and_news_in_one_batch_are_each_answered),
    ("what no carrier has moved can be cancelled", commands::what_no_carrier_has_moved_can_be_cancelled),
    ("only a carrier's yes cancels", commands::only_a_carriers_yes_cancels),
    ("a command in the batch of its order", commands::a_command_in_the_batch_of_its_order),
    ("delivered goods come back once", commands::delivered_goods_come_back_once),
    ("an order no stage could decide is decided anew", replays::an_order_that_no_stage_could_decide_is_decided_anew),
    ("a parcel that nobody took is offered again", replays::a_parcel_that_nobody_took_is_offered_again),
    ("what is held goes on as what it is said to be", reviews::what_is_held_goes_on_as_what_it_is_said_to_be),
    ("what is held is cancelled at once", reviews::what_is_held_is_cancelled_at_once),
    ("what is held is listed until it is reviewed", reviews::what_is_held_is_listed_until_it_is_reviewed),
    ("events of an order are numbered without a gap", numbers::events_of_an_order_are_numbered_without_a_gap),
    ("events are found by the time they were decided at", since::events_are_found_by_time),
    ("a customer's orders are listed newest first", lookup::a_customers_orders_are_listed_newest_first),
    ("a shipment is found by its tracking number", lookup::a_shipment_is_found_by_its_tracking_number),
    ("who shares a number is told apart", lookup::who_shares_a_number_is_told_apart),
    ("a look-up finds what a look at every order finds", lookup::a_look_up_finds_what_a_look_at_every_order_finds),
];

/// Runs every case against fresh engines from `make`.
pub fn run_all(make: Make<'_>) {
    for (name, case) in CASES {
        tracing::info!(name, "conformance");
        case(make);
    }
}

/// An order under a key of this engine.
fn order(harness: &dyn Harness, key: impl std::fmt::Display, skus: &[&str]) -> Order {
    Order::new(format!("{}{key}", harness.salt()), skus)
}

fn state_of(harness: &mut dyn Harness, order: &Order) -> (Class, StoredOrder) {
    let stored = harness.read(order.id()).unwrap_or_else(|| panic!("order {} is lost", order.key));
    let state = OrderState::fold(order.id(), &stored.row).expect("a row that reads");
    check_weights(&state, &stored.record);
    let class = state.class();
    (class, stored)
}

/// What was decided about weights is what the row says: of parcels, and of returns as a part of them.
fn check_weights(state: &OrderState<'_>, record: &[u8]) {
    for parcel in &state.parcels {
        assert!(parcel.weight().is_none_or(|weight| weight == weight_of(record, parcel.number)), "{parcel:?}");
    }
    for back in &state.returns {
        let (Some(weight), Some(asked)) = (back.parcel.weight(), back.asked) else { continue };
        assert_eq!(weight.estimated, weight_of(record, asked.source).estimated, "{back:?}");
    }
}

fn accept(harness: &mut dyn Harness, orders: &[Order]) {
    let answers = receipts(harness, orders);
    assert_eq!(answers, vec![Receipt::Accepted; orders.len()]);
}

fn receipts(harness: &mut dyn Harness, orders: &[Order]) -> Vec<Receipt> {
    let ticket = harness.submit(submission(orders));
    harness.settle_down();
    harness.receipts(ticket).expect("an answer")
}

/// These answers, as an engine gives them whose checkout knows what was ordered before; or may not.
fn answers<const N: usize>(harness: &dyn Harness, known: [Receipt; N]) -> Vec<Receipt> {
    known.into_iter().map(|r| if harness.knows_repetitions() { r } else { Receipt::Accepted }).collect()
}

/// Asserts that the carrier's outbox gives `wanted` once each, and nothing else but, after a restart, what was given
/// before it and never said to be settled.
fn offered(harness: &mut dyn Harness, carrier: u16, wanted: &[ShipmentId], unsettled: &[ShipmentId], what: &str) {
    let mut given = shipments(&harness.outbox(carrier));
    given.sort_unstable();
    assert!(given.windows(2).all(|w| w[0] != w[1]), "{what}: given twice: {given:?}");
    if harness.repeats_unsettled() {
        given.retain(|s| wanted.contains(s) || !unsettled.contains(s));
    }
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    assert_eq!(given, wanted, "{what}");
}

/// What was sent, whose weight is always that of the parcel; returns are weighed in [`check_weights`].
fn shipments(sent: &[Sent]) -> Vec<ShipmentId> {
    for Sent { shipment, weight, record, .. } in sent.iter().filter(|s| s.shipment.parcel < FIRST_RETURN) {
        assert_eq!(*weight, weight_of(record, shipment.parcel), "{shipment}");
    }
    sent.iter().map(|s| s.shipment).collect()
}
