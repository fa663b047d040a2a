//! One case's view of the shared deployment: its own orders, and the suite's steps.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    rc::Rc,
    task::{Context, Waker},
    time::{SystemTime, UNIX_EPOCH},
};

use sluice_domain::{OrderId, ShipmentId};
use sluice_pipeline::{
    Feed, Intake, Listed, Lookup, Orders, OutcomeReport, Outcomes, Receipt, StoredOrder, Submission, WordIntake, Words,
    conformance::{Harness, Sent, Told},
};

use super::cluster::{Cluster, until};

pub struct World {
    cluster: Rc<RefCell<Cluster>>,
    salt: String,
    mine: BTreeSet<OrderId>,
    answers: Vec<Vec<Receipt>>,
    given: [Vec<Sent>; 2],
}

impl World {
    pub fn new(cluster: &Rc<RefCell<Cluster>>, number: u32) -> Self {
        Self {
            cluster: Rc::clone(cluster),
            salt: format!("{number}-"),
            mine: BTreeSet::new(),
            answers: Vec::new(),
            given: [Vec::new(), Vec::new()],
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.cluster.borrow_mut().tidy();
        }
    }
}

impl Harness for World {
    fn submit(&mut self, submission: Submission) -> usize {
        self.submit_at(0, submission)
    }

    /// The brokers answer at once, whatever the owners do.
    fn submit_at(&mut self, node: usize, submission: Submission) -> usize {
        self.mine.extend(submission.orders.iter().map(|order| order.id));
        let mut cluster = self.cluster.borrow_mut();
        let writer = cluster.live().writers[node].clone();
        self.answers.push(cluster.runtime.block_on(writer.submit(submission)));
        self.answers.len() - 1
    }

    fn hear(&mut self, words: Words) -> usize {
        let mut cluster = self.cluster.borrow_mut();
        let writer = cluster.live().writers[0].clone();
        self.answers.push(cluster.runtime.block_on(writer.hear(words)));
        self.answers.len() - 1
    }

    fn report(&mut self, mut reports: Vec<OutcomeReport>) {
        let mut cluster = self.cluster.borrow_mut();
        let outcomes = &cluster.live().outcomes;
        until("outcomes find room", || {
            outcomes.report(&mut Context::from_waker(Waker::noop()), &mut reports);
            reports.is_empty()
        });
        let ledger = outcomes.ledger();
        until("outcomes are durable", || ledger.settled() == ledger.handed());
    }

    fn settle_down(&mut self) {
        let mut cluster = self.cluster.borrow_mut();
        cluster.decide_all();
        cluster.settle_outboxes();
    }

    fn commit_only(&mut self) {
        self.cluster.borrow_mut().decide_all();
    }

    fn receipts(&mut self, submission: usize) -> Option<Vec<Receipt>> {
        self.answers.get(submission).cloned()
    }

    fn read(&mut self, id: OrderId) -> Option<StoredOrder> {
        let mut cluster = self.cluster.borrow_mut();
        cluster.folded();
        cluster.runtime.block_on(cluster.orders.read(id)).unwrap()
    }

    fn list(&mut self, merchant: &str, customer: &str, before: Option<OrderId>, max: usize) -> Listed {
        let mut cluster = self.cluster.borrow_mut();
        cluster.folded();
        cluster.runtime.block_on(cluster.lookup.orders_of(merchant, customer, before, max)).unwrap()
    }

    fn held(&mut self, before: Option<OrderId>, max: usize) -> Listed {
        let mut cluster = self.cluster.borrow_mut();
        cluster.folded();
        cluster.runtime.block_on(cluster.lookup.held(before, max)).unwrap()
    }

    fn shipments(&mut self, carrier: &str, numbers: &[&str]) -> Vec<Vec<ShipmentId>> {
        let mut cluster = self.cluster.borrow_mut();
        cluster.folded();
        cluster.runtime.block_on(cluster.lookup.shipments_of(carrier, numbers)).unwrap()
    }

    fn outbox(&mut self, carrier: u16) -> Vec<Sent> {
        let mut cluster = self.cluster.borrow_mut();
        cluster.take(carrier);
        let given = cluster.given(carrier, &self.mine);
        self.given[usize::from(carrier)].extend_from_slice(&given);
        given
    }

    fn settled(&mut self, carrier: u16, position: u64) {
        self.cluster.borrow_mut().settled(carrier, position, &self.given[usize::from(carrier)]);
    }

    fn restart(&mut self) {
        self.given = [Vec::new(), Vec::new()];
        self.cluster.borrow_mut().restart();
    }

    fn crash(&mut self) {
        self.given = [Vec::new(), Vec::new()];
        self.cluster.borrow_mut().crash();
    }

    /// Checkout finds no room; outcomes always do.
    fn refuse_commits(&mut self, refuse: bool) {
        let mut cluster = self.cluster.borrow_mut();
        cluster.live().writers.iter().for_each(|writer| writer.hold(refuse.then_some("the owners lag")));
    }

    fn spill(&mut self) {
        self.cluster.borrow_mut().spill();
    }

    fn salt(&self) -> &str {
        &self.salt
    }

    fn knows_repetitions(&self) -> bool {
        false
    }

    fn repeats_unsettled(&self) -> bool {
        true
    }

    fn distributed(&self) -> bool {
        true
    }

    fn lag(&mut self, lags: bool) {
        self.cluster.borrow_mut().lag(lags);
    }

    fn abort_next(&mut self) {
        self.cluster.borrow_mut().live().drivers[0].fail_next();
    }

    fn another_worker(&mut self, comes: bool) {
        self.cluster.borrow_mut().another_worker(comes);
    }

    fn stall_and_come_back(&mut self) {
        self.cluster.borrow_mut().stall_and_come_back();
    }

    fn events(&mut self) -> Vec<Told> {
        let mut cluster = self.cluster.borrow_mut();
        cluster.events().iter().filter(|told| self.mine.contains(&told.order)).cloned().collect()
    }

    fn events_since(&mut self, at_ms: u64) -> Vec<Told> {
        let cluster = self.cluster.borrow();
        let feed = cluster.feed();
        let after = cluster.runtime.block_on(feed.since(at_ms)).unwrap();
        let (found, _) = super::feed::rest(&cluster, &feed, after, 1_000);
        let told = found.into_iter().filter(|event| self.mine.contains(&event.order)).map(|event| Told {
            id: event.id,
            kind: event.kind.to_owned(),
            order: event.order,
            sequence: event.sequence,
        });
        told.collect()
    }

    /// Records have the machine's time.
    fn moment(&mut self) -> u64 {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let started = now();
        until("the clock moves on", || now() > started);
        now()
    }
}
