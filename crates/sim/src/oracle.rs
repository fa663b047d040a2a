//! The judge outside: it knows what clients sent and were told, and what carriers saw and did, and holds that against
//! what the system says of its orders. Whatever doesn't agree is a [`Violation`] of a named [`Invariant`].
//!
//! What each invariant means here:
//! - **durable-before-ack**: an order that was acknowledged, or once read back, is there after every recovery with the
//!   same body; a repeated request is answered as what it is; nothing is called a repetition that was never kept.
//! - **one-effect**: no parcel was taken twice, by whomever; no attempt follows one that wasn't rejected; no request is
//!   accepted twice; what is recorded as not taken was not taken.
//! - **decide-before-act**: every shipment that a carrier was asked for is decided in what survived, for that carrier.
//!   Judged after a loss of power this finds calls that ran ahead of the commit.
//! - **monotone-status**: the status of an order never goes back from one look to the next, crashes included, and an
//!   order that was decided stays in its class.
//! - **conservation**: a stored order is one that a client sent and that wasn't refused; its parcels hold exactly the
//!   items of its lines that ship, each group on its own; what is recorded as accepted is in the carrier's ledger.
//! - **bounded**: a busy answer says when to come back.
//! - **torn-is-not-rot**: a crash alone never stops an open; planted rot always does, and is named.
//!
//! A carrier that lied about a shipment excuses what followed for that shipment, and nothing else.
//!
//! Keys are taken to be reused only within the window in which the system remembers them.

mod rows;

use std::collections::{BTreeMap, BTreeSet};

use sluice_domain::{Class, Fingerprint, Group, OrderId, OrderState, ShipmentId, invariants::Invariant};
use sluice_pipeline::{LogError, Receipt, StoredOrder};
use sluice_schemas::{
    CodecError,
    milestone::Milestone,
    order::{Line, OrderRef},
};

use crate::ledger::{Call, Effect, Ledger};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} is broken: {what}")]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// How, with the ids needed to look for it in the trace.
    pub what: String,
}

pub(crate) fn broken<T>(invariant: Invariant, what: String) -> Result<T, Violation> {
    Err(Violation { invariant, what })
}

/// Which group the goods of a line belong to; `None` if they don't ship. Must agree with the rules under test.
pub type GroupOf = dyn Fn(&Line<'_>) -> Option<Group>;

/// Reads an order from the system under test.
pub type Read<'a> = dyn FnMut(OrderId) -> Result<Option<StoredOrder>, LogError> + 'a;

/// Number of a request that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestNo(usize);

/// Damage that a test planted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rot {
    /// The file, as the disk names it.
    pub file: String,
    /// The byte.
    pub offset: u64,
}

/// How many orders are in each class. Every order counted was read by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Orders that some client was told are accepted.
    pub acknowledged: usize,
    /// Orders that are stored; it includes some whose client never heard.
    pub stored: usize,
    /// Of those stored: undecided.
    pub in_flight: usize,
    /// Undecided ones that wait only for a person, because nobody can tell whether a carrier took them.
    pub parked: usize,
    /// Of those stored: every parcel accepted, or nothing ships.
    pub finished: usize,
    /// Of those stored: given to a person.
    pub dead_lettered: usize,
    /// Of those stored: dead-lettered once, and decided anew.
    pub replayed: usize,
    /// Of those stored: a person has said what was in a parcel of it.
    pub reviewed: usize,
    /// Of those stored: called off.
    pub cancelled: usize,
    /// Not stored any more, though it was acknowledged or read: retention let it go.
    pub retired: usize,
}

#[derive(Debug)]
struct Request {
    id: OrderId,
    fingerprint: Fingerprint,
    body: Vec<u8>,
    sent: u64,
    /// The answer and when the client heard it; `None` also for clients that the crash cut off.
    answer: Option<(Receipt, u64)>,
}

impl Request {
    fn same(&self, other: &Request) -> bool {
        self.id == other.id && self.body == other.body
    }

    fn acknowledged(&self) -> bool {
        matches!(self.answer, Some((Receipt::Accepted | Receipt::Replayed, _)))
    }

    fn refused(&self) -> bool {
        matches!(self.answer, Some((Receipt::Busy { .. } | Receipt::Conflict, _)))
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    status: Milestone,
    class: Class,
    parked: bool,
    held: bool,
    replays: u8,
}

/// See the module.
pub struct Oracle {
    group_of: Box<GroupOf>,
    requests: Vec<Request>,
    by_key: BTreeMap<Fingerprint, Vec<usize>>,
    by_id: BTreeMap<OrderId, Vec<usize>>,
    seen: BTreeMap<OrderId, Seen>,
    /// Commands that are durable, as whoever sent them was told.
    heard: BTreeSet<(OrderId, u64)>,
    /// What is over may be gone.
    retires: bool,
    /// Orders that are gone, and must stay so.
    gone: BTreeSet<OrderId>,
    /// Orders events by what could have caused what: one step an event.
    now: u64,
}

/// What the ledgers say about one order.
#[derive(Default)]
pub(crate) struct Evidence<'a> {
    pub(crate) calls: Vec<(&'a Ledger, &'a Call, ShipmentId)>,
    pub(crate) effects: Vec<(&'a Ledger, &'a Effect)>,
}

impl Oracle {
    /// A judge who has seen nothing yet. With `retires`, an order may be gone; whether it was over the caller must tell from
    /// what is counted.
    pub fn new(group_of: Box<GroupOf>, retires: bool) -> Self {
        Self {
            group_of,
            requests: Vec::new(),
            by_key: BTreeMap::new(),
            by_id: BTreeMap::new(),
            seen: BTreeMap::new(),
            heard: BTreeSet::new(),
            retires,
            gone: BTreeSet::new(),
            now: 0,
        }
    }

    /// A client sends the order in `record` (an encoded order record), for the first time or again.
    ///
    /// # Errors
    /// [`CodecError`] if the record can't be read: a mistake of the harness.
    pub fn sent(&mut self, record: &[u8]) -> Result<RequestNo, CodecError> {
        let order = OrderRef::decode(record)?;
        let (id, fingerprint) = (OrderId(order.id), Fingerprint(order.fingerprint()));
        let number = self.requests.len();
        self.now += 1;
        let body = order.body().to_vec();
        self.requests.push(Request { id, fingerprint, body, sent: self.now, answer: None });
        self.by_key.entry(fingerprint).or_default().push(number);
        self.by_id.entry(id).or_default().push(number);
        Ok(RequestNo(number))
    }

    /// The client of `request` hears `receipt`. A client that a crash cut off hears nothing, and this isn't called.
    ///
    /// # Errors
    /// A [`Violation`] if the answer can't be right.
    pub fn answered(&mut self, request: RequestNo, receipt: Receipt) -> Result<(), Violation> {
        self.now += 1;
        self.requests[request.0].answer = Some((receipt, self.now));
        let this = &self.requests[request.0];
        let id = this.id;
        let under_key = self.by_key.get(&this.fingerprint).into_iter().flatten();
        let others: Vec<&Request> = under_key.filter(|&&i| i != request.0).map(|&i| &self.requests[i]).collect();
        let acknowledged_before = |r: &&&Request| r.acknowledged() && r.answer.is_some_and(|a| a.1 < this.sent);
        match receipt {
            Receipt::Accepted => {
                let twice = others.iter().any(|r| matches!(r.answer, Some((Receipt::Accepted, _))))
                    || others.iter().filter(acknowledged_before).any(|r| r.same(this));
                if twice {
                    return broken(Invariant::OneEffect, format!("order {id} was accepted as new twice"));
                }
            }
            Receipt::Replayed => {
                if !others.iter().any(|r| r.same(this) && !r.refused()) {
                    let what = format!("order {id} was answered as a repetition of a request that was never kept");
                    return broken(Invariant::DurableBeforeAck, what);
                }
            }
            Receipt::Conflict => {
                let other_kept = others.iter().any(|r| !r.same(this) && !r.refused());
                if !other_kept || others.iter().any(|r| r.same(this) && r.acknowledged()) {
                    let what = format!("order {id} was refused for a conflict with nothing");
                    return broken(Invariant::DurableBeforeAck, what);
                }
            }
            Receipt::Busy { retry_after_s, .. } => {
                if retry_after_s == 0 {
                    return broken(Invariant::Bounded, format!("order {id} was told to come back at once"));
                }
            }
        }
        if this.acknowledged() && others.iter().any(|r| r.acknowledged() && !r.same(this)) {
            let what = format!("two different requests under the key of order {id} were both acknowledged");
            return broken(Invariant::DurableBeforeAck, what);
        }
        Ok(())
    }

    /// A merchant hears that its command about `id` is durable.
    pub fn heard(&mut self, id: OrderId, command: u64) {
        self.heard.insert((id, command));
    }

    /// Orders that some client was told are accepted, ascending.
    pub fn acknowledged(&self) -> impl Iterator<Item = OrderId> + '_ {
        let acknowledged = |requests: &Vec<usize>| requests.iter().any(|&i| self.requests[i].acknowledged());
        self.by_id.iter().filter(move |(_, requests)| acknowledged(requests)).map(|(id, _)| *id)
    }

    /// The orders that were dead-lettered when they were last judged, ascending.
    pub fn dead_lettered(&self) -> impl Iterator<Item = OrderId> + '_ {
        self.seen.iter().filter(|(_, seen)| seen.class == Class::DeadLettered).map(|(id, _)| *id)
    }

    /// Orders of which a parcel waited for a person when they were last looked at.
    pub fn held(&self) -> impl Iterator<Item = OrderId> {
        self.seen.iter().filter(|(_, seen)| seen.held).map(|(id, _)| *id)
    }

    /// The order ids of all requests sent, ascending.
    pub fn ids(&self) -> impl Iterator<Item = OrderId> + '_ {
        self.by_id.keys().copied()
    }

    /// Holds every order ever sent, as `read` finds it, against what clients and carriers know. To be called after each
    /// recovery and at the end; the device under `read` must not fail meanwhile.
    ///
    /// # Errors
    /// The first [`Violation`], by order id.
    pub fn judge(&mut self, ledgers: &[&Ledger], read: &mut Read<'_>) -> Result<Counts, Violation> {
        let mut evidence = gather(ledgers);
        if let Some(stranger) = evidence.keys().find(|id| !self.by_id.contains_key(id)) {
            let what = format!("a carrier was asked for a parcel of order {stranger}, which nobody sent");
            return broken(Invariant::DecideBeforeAct, what);
        }
        let ids: Vec<OrderId> = self.ids().collect();
        let mut counts = Counts::default();
        for id in ids {
            let stored = match read(id) {
                Ok(stored) => stored,
                Err(e @ LogError::Damaged { .. }) => {
                    return broken(Invariant::TornIsNotRot, format!("order {id} can't be read: {e}"));
                }
                Err(e) => return broken(Invariant::DurableBeforeAck, format!("order {id} can't be read: {e}")),
            };
            let evidence = evidence.remove(&id).unwrap_or_default();
            self.check_order(id, stored.as_ref(), &evidence, &mut counts)?;
        }
        Ok(counts)
    }

    fn check_order(
        &mut self,
        id: OrderId,
        stored: Option<&StoredOrder>,
        evidence: &Evidence<'_>,
        counts: &mut Counts,
    ) -> Result<(), Violation> {
        let requests = || self.by_id.get(&id).into_iter().flatten().map(|&i| &self.requests[i]);
        let acknowledged = requests().find(|r| r.acknowledged());
        counts.acknowledged += usize::from(acknowledged.is_some());
        if stored.is_none() && self.retires && (acknowledged.is_some() || self.seen.contains_key(&id)) {
            self.gone.insert(id);
        }
        if self.gone.contains(&id) {
            self.seen.remove(&id);
            counts.retired += 1;
            return match stored {
                Some(_) => broken(Invariant::Conservation, format!("order {id} was gone and is back")),
                None => Ok(()),
            };
        }
        let Some(stored) = stored else {
            if acknowledged.is_some() {
                return broken(Invariant::DurableBeforeAck, format!("order {id} was acknowledged and is lost"));
            }
            if self.seen.contains_key(&id) {
                return broken(Invariant::DurableBeforeAck, format!("order {id} was readable and is lost"));
            }
            return match evidence.calls.first() {
                Some((ledger, call, shipment)) => rows::undecided(ledger, call, *shipment),
                None => Ok(()),
            };
        };
        let unreadable = |e: CodecError| Violation {
            invariant: Invariant::TornIsNotRot,
            what: format!("order {id} is stored unreadable: {e}"),
        };
        let record = OrderRef::decode(&stored.record).map_err(unreadable)?;
        if acknowledged.is_some_and(|r| record.id != id.0 || r.body != record.body()) {
            return broken(Invariant::DurableBeforeAck, format!("order {id} has another body than was acknowledged"));
        }
        if !requests().any(|r| !r.refused() && record.id == id.0 && r.body == record.body()) {
            return broken(
                Invariant::Conservation,
                format!("order {id} is stored though it was refused or never sent"),
            );
        }
        let state = OrderState::fold(id, &stored.row).map_err(unreadable)?;
        let known = |command: u64| state.commands.iter().any(|c| c.0 == command);
        if let Some((_, command)) = self.heard.range((id, 0)..=(id, u64::MAX)).find(|(_, command)| !known(*command)) {
            let what = format!("command {command} about order {id} was acknowledged and is lost");
            return broken(Invariant::DurableBeforeAck, what);
        }
        self.check_progress(&state, counts)?;
        rows::check_split(&record, &state, &self.group_of)?;
        rows::check_calls(&state, evidence)?;
        rows::check_effects(&record, &state, evidence)
    }

    /// Status and class against the last look.
    fn check_progress(&mut self, state: &OrderState<'_>, counts: &mut Counts) -> Result<(), Violation> {
        let (id, parked) = (state.id, rows::parked(state));
        let held = state.parcels.iter().any(|parcel| parcel.waits().is_some());
        let now = Seen { status: state.status(), class: state.class(), parked, held, replays: state.last_replay() };
        if let Some(before) = self.seen.insert(id, now) {
            if now.status < before.status {
                let what = format!("order {id} went from {} back to {}", before.status.name(), now.status.name());
                return broken(Invariant::MonotoneStatus, what);
            }
            let called_off = before.class == Class::Finished && now.class == Class::Cancelled;
            let replayed = before.class == Class::DeadLettered && now.replays > before.replays;
            if before.class != Class::InFlight && now.class != before.class && !called_off && !replayed {
                let what = format!("order {id} was {:?} and is {:?}", before.class, now.class);
                return broken(Invariant::MonotoneStatus, what);
            }
        }
        counts.stored += 1;
        *match now.class {
            Class::InFlight => &mut counts.in_flight,
            Class::DeadLettered => &mut counts.dead_lettered,
            Class::Finished => &mut counts.finished,
            Class::Cancelled => &mut counts.cancelled,
        } += 1;
        counts.replayed += usize::from(now.replays > 0);
        counts.reviewed += usize::from(state.parcels.iter().any(|p| p.reviewed.is_some_and(|r| r.handling.is_some())));
        counts.parked += usize::from(now.class == Class::InFlight && parked);
        Ok(())
    }

    /// After a run has come to rest and was judged: nothing is in flight but what is parked for a person.
    ///
    /// # Errors
    /// A [`Violation`] of conservation that names an order somebody forgot.
    pub fn at_rest(&self) -> Result<(), Violation> {
        match self.seen.iter().find(|(_, seen)| seen.class == Class::InFlight && !seen.parked) {
            Some((id, seen)) => {
                let what = format!("order {id} is {} for ever: nobody works on it", seen.status.name());
                broken(Invariant::Conservation, what)
            }
            None => Ok(()),
        }
    }

    /// Before a call to `carrier`: each of `shipments` must be decided, for it, in what `read` finds. The check bites
    /// if `read` sees only what is durable at this moment.
    ///
    /// # Errors
    /// A [`Violation`] of decide-before-act.
    pub fn may_call(&self, carrier: &str, shipments: &[ShipmentId], read: &mut Read<'_>) -> Result<(), Violation> {
        let ledger = Ledger { carrier: carrier.to_owned(), ..Ledger::default() };
        let call = Call { at_ms: 0, manifest: "about to be sent".to_owned(), shipments: shipments.to_vec() };
        for &shipment in shipments {
            let Ok(Some(stored)) = read(shipment.order) else { return rows::undecided(&ledger, &call, shipment) };
            let Ok(state) = OrderState::fold(shipment.order, &stored.row) else {
                return rows::undecided(&ledger, &call, shipment);
            };
            let evidence = Evidence { calls: vec![(&ledger, &call, shipment)], effects: Vec::new() };
            rows::check_calls(&state, &evidence)?;
        }
        Ok(())
    }

    /// An open ended with `result`; `rot` is what a test planted before it, where it matters. Device errors are nobody's
    /// fault as long as nothing was planted.
    ///
    /// # Errors
    /// A [`Violation`] of torn-is-not-rot.
    pub fn opened(&self, result: Result<(), &LogError>, rot: Option<&Rot>) -> Result<(), Violation> {
        match (result, rot) {
            (Err(e @ LogError::Damaged { .. }), None) => {
                broken(Invariant::TornIsNotRot, format!("a crash alone stopped the open: {e}"))
            }
            (_, None) => Ok(()),
            (Err(LogError::Damaged { file, offset, .. }), Some(rot))
                if file.ends_with(&rot.file) && *offset <= rot.offset =>
            {
                Ok(())
            }
            (Err(e), Some(rot)) => {
                broken(Invariant::TornIsNotRot, format!("rot in {} at {} was not named: {e}", rot.file, rot.offset))
            }
            (Ok(()), Some(rot)) => {
                broken(Invariant::TornIsNotRot, format!("opened over rot in {} at {}", rot.file, rot.offset))
            }
        }
    }
}

fn gather<'a>(ledgers: &[&'a Ledger]) -> BTreeMap<OrderId, Evidence<'a>> {
    let mut evidence: BTreeMap<OrderId, Evidence<'a>> = BTreeMap::new();
    for &ledger in ledgers {
        for call in &ledger.calls {
            for &shipment in &call.shipments {
                evidence.entry(shipment.order).or_default().calls.push((ledger, call, shipment));
            }
        }
        for effect in &ledger.effects {
            evidence.entry(effect.asked.shipment.order).or_default().effects.push((ledger, effect));
        }
    }
    evidence
}

#[cfg(test)]
mod tests;
