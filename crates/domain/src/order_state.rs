//! The state of an order as a fold of its deltas. The fold is a lattice: it takes deltas in any order, any number of
//! times, and ends in the same state, so a replay or a late event can never move a customer's status back.

use sluice_schemas::{
    CodecError,
    delta::{Delta, Items, Requested, row_deltas},
    milestone::{Milestone, Milestones},
    outcome::{Outcome, OutcomeKind},
    word::{Progress, Tracked},
};

use crate::{
    identity::OrderId,
    limits::{MAX_ATTEMPTS, MAX_REMARKS},
};

/// One carrier asked to take one parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// From 0.
    pub number: u8,
    /// When and what was requested; `None` only while a fold has seen the outcome first.
    pub requested: Option<(u64, Requested<'a>)>,
    /// Outcome, when (ms since the epoch), tracking number or reason.
    pub outcome: Option<(OutcomeKind, u64, &'a str)>,
    /// The carrier's news, when (ms since the epoch, by its clock) and its text; ascending, once each, and of what is
    /// reached only the earliest.
    pub news: Vec<(Progress, u64, &'a str)>,
}

/// Lines that ship together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel<'a> {
    /// From 0.
    pub number: u8,
    /// Attempts by number.
    pub attempts: Vec<Attempt<'a>>,
    /// Group code, grams and items of a parcel that no carrier was asked for.
    pub packed: Option<(u8, u32, Items<'a>)>,
    /// When and why it was dead-lettered.
    pub dead_lettered: Option<(u64, &'a str)>,
}

/// Where a parcel stands for the sake of conservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// An attempt is open, or parked with an unknown outcome.
    Undecided,
    /// A carrier took it.
    Accepted,
    /// Nobody takes it; a person must look.
    DeadLettered,
}

/// The class an order counts in; every accepted order is in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Any parcel is undecided.
    InFlight,
    /// No parcel is undecided and one is dead-lettered.
    DeadLettered,
    /// Every parcel was accepted, or nothing ships.
    Finished,
    /// Nothing was accepted and nothing failed.
    Cancelled,
}

/// Everything known about one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderState<'a> {
    /// The order.
    pub id: OrderId,
    /// When it became durable (ms since the epoch) and where the log keeps its record.
    pub accepted: Option<(u64, u64)>,
    /// When its goods were known, how many parcels, under which rules.
    pub classified: Option<(u64, u8, u32)>,
    /// When and why the whole order was dead-lettered.
    pub dead_lettered: Option<(u64, &'a str)>,
    /// Later requests under the same key that were answered before they were refused: id and when, ascending, once each.
    pub conflicts: Vec<(OrderId, u64)>,
    /// Parcels by number.
    pub parcels: Vec<Parcel<'a>>,
}

impl<'a> OrderState<'a> {
    /// Folds a row.
    ///
    /// # Errors
    /// [`CodecError`] if a delta can't be read.
    pub fn fold(id: OrderId, row: &'a [u8]) -> Result<Self, CodecError> {
        let mut state = Self {
            id,
            accepted: None,
            classified: None,
            dead_lettered: None,
            conflicts: Vec::new(),
            parcels: Vec::new(),
        };
        for delta in row_deltas(id.placed_at_ms(), row) {
            let (at, delta) = delta?;
            state.merge(at, delta);
        }
        Ok(state)
    }

    /// Adds one delta with its time (ms since the epoch).
    pub fn merge(&mut self, at: u64, delta: Delta<'a>) {
        match delta {
            Delta::Accepted { position } => keep_least(&mut self.accepted, (at, position)),
            Delta::Classified { parcels, rules } => keep_least(&mut self.classified, (at, parcels, rules)),
            Delta::DeadLettered { parcel: None, reason, .. } => keep_least(&mut self.dead_lettered, (at, reason)),
            Delta::DeadLettered { parcel: Some(n), reason, .. } => {
                keep_least(&mut self.parcel(n).dead_lettered, (at, reason));
            }
            Delta::Conflicted { order } => self.conflict(OrderId(order), at),
            Delta::Merchant { .. } => {}
            Delta::Packed { parcel, handling, weight_g, items } => {
                let slot = &mut self.parcel(parcel).packed;
                if slot.as_ref().is_none_or(|old| (handling, weight_g) < (old.0, old.1)) {
                    *slot = Some((handling, weight_g, items));
                }
            }
            Delta::Requested(requested) => {
                let slot = &mut self.attempt(requested.parcel, requested.attempt).requested;
                let earlier = |old: &(u64, Requested<'_>)| (at, requested.carrier) < (old.0, old.1.carrier);
                if slot.as_ref().is_none_or(earlier) {
                    *slot = Some((at, requested));
                }
            }
            Delta::Tracked { parcel, attempt, progress, text } => {
                self.attempt(parcel, attempt).hear((progress, at, text))
            }
            Delta::Settled { parcel, attempt, outcome, text } => {
                let slot = &mut self.attempt(parcel, attempt).outcome;
                let rank = |o: &(OutcomeKind, u64, &'a str)| (o.0, std::cmp::Reverse((o.1, o.2)));
                let new = (outcome, at, text);
                if slot.as_ref().is_none_or(|old| rank(old) < rank(&new)) {
                    *slot = Some(new);
                }
            }
        }
    }

    fn conflict(&mut self, order: OrderId, at: u64) {
        match self.conflicts.binary_search_by_key(&order, |c| c.0) {
            Ok(known) => self.conflicts[known].1 = self.conflicts[known].1.min(at),
            Err(place) => self.conflicts.insert(place, (order, at)),
        }
    }

    fn parcel(&mut self, number: u8) -> &mut Parcel<'a> {
        let at = match self.parcels.binary_search_by_key(&number, |p| p.number) {
            Ok(at) => at,
            Err(at) => {
                self.parcels.insert(at, Parcel { number, attempts: Vec::new(), packed: None, dead_lettered: None });
                at
            }
        };
        &mut self.parcels[at]
    }

    fn attempt(&mut self, parcel: u8, number: u8) -> &mut Attempt<'a> {
        let attempts = &mut self.parcel(parcel).attempts;
        let at = match attempts.binary_search_by_key(&number, |a| a.number) {
            Ok(at) => at,
            Err(at) => {
                attempts.insert(at, Attempt { number, requested: None, outcome: None, news: Vec::new() });
                at
            }
        };
        &mut attempts[at]
    }

    /// The class the order counts in.
    pub fn class(&self) -> Class {
        if self.dead_lettered.is_some() {
            return Class::DeadLettered;
        }
        let Some((_, expected, _)) = self.classified else { return Class::InFlight };
        let standings = || self.parcels.iter().map(Parcel::standing);
        if self.parcels.len() < usize::from(expected) || standings().any(|s| s == Standing::Undecided) {
            Class::InFlight
        } else if standings().any(|s| s == Standing::DeadLettered) {
            Class::DeadLettered
        } else {
            Class::Finished
        }
    }

    /// The customer's status: that of the least advanced parcel, so it says no more than is true of every parcel.
    pub fn status(&self) -> Milestone {
        let own = self.own_milestones();
        // A parcel not yet seen would pull the minimum back when it appears.
        let all_known = self.classified.is_some_and(|(_, expected, _)| self.parcels.len() >= usize::from(expected));
        let of_parcels = self.parcels.iter().filter(|_| all_known).filter_map(|p| own.union(p.milestones()).status());
        of_parcels.min().or_else(|| own.status()).unwrap_or(Milestone::Accepted)
    }

    /// The status of one parcel.
    pub fn parcel_status(&self, parcel: &Parcel<'_>) -> Milestone {
        self.own_milestones().union(parcel.milestones()).status().unwrap_or(Milestone::Accepted)
    }

    fn own_milestones(&self) -> Milestones {
        let mut set = Milestones::default().with(Milestone::Accepted);
        if self.classified.is_some() {
            set = set.with(Milestone::Classified);
        }
        if self.dead_lettered.is_some() {
            set = set.with(Milestone::DeadLettered);
        }
        set
    }
}

impl<'a> Attempt<'a> {
    fn hear(&mut self, new: (Progress, u64, &'a str)) {
        match self.news.binary_search_by(|old| old.cmp(&new)) {
            Ok(_) => {}
            Err(place) => self.news.insert(place, new),
        }
        // They ascend, so the earliest of a milestone comes first.
        self.news.dedup_by(|later, first| matches!(later.0, Progress::Reached(_)) && later.0 == first.0);
    }

    /// True if the carrier has told that the shipment is on its way, which it can be only if the carrier took it.
    pub fn moved(&self) -> bool {
        self.news.iter().any(|(progress, ..)| matches!(progress, Progress::Reached(_)))
    }
}

impl<'a> Parcel<'a> {
    /// Where the parcel stands.
    pub fn standing(&self) -> Standing {
        if self.accepted().is_some() {
            Standing::Accepted
        } else if self.dead_lettered.is_some() {
            Standing::DeadLettered
        } else {
            Standing::Undecided
        }
    }

    /// The attempt a carrier accepted.
    pub fn accepted(&self) -> Option<&Attempt<'a>> {
        self.attempts.iter().find(|a| matches!(a.outcome, Some((OutcomeKind::Accepted, ..))))
    }

    /// The attempt that speaks for the parcel: the accepted one, else the latest.
    pub fn current(&self) -> Option<&Attempt<'a>> {
        self.accepted().or_else(|| self.attempts.last())
    }

    /// Group code and items, from whatever says so.
    pub fn contents(&self) -> Option<(u8, Items<'a>)> {
        let requested = self.attempts.iter().find_map(|a| a.requested.as_ref());
        requested.map(|(_, r)| (r.handling, r.items)).or_else(|| self.packed.map(|(group, _, items)| (group, items)))
    }

    fn milestones(&self) -> Milestones {
        let mut set = Milestones::default();
        if self.attempts.iter().any(|a| a.requested.is_some()) {
            set = set.with(Milestone::CarrierRequested);
        }
        if self.accepted().is_some() {
            set = set.with(Milestone::CarrierAccepted);
        }
        if self.dead_lettered.is_some() {
            set = set.with(Milestone::DeadLettered);
        }
        for (progress, ..) in self.attempts.iter().flat_map(|a| &a.news) {
            if let Progress::Reached(milestone) = progress {
                set = set.with(*milestone);
            }
        }
        set
    }
}

fn keep_least<T: PartialOrd>(slot: &mut Option<T>, new: T) {
    if slot.as_ref().is_none_or(|old| new < *old) {
        *slot = Some(new);
    }
}

/// The class of a row, as [`OrderState::class`] has it, in one pass and without allocating.
///
/// # Errors
/// [`CodecError`] if the row can't be read.
pub fn class_of_row(row: &[u8]) -> Result<Class, CodecError> {
    let (mut expected, mut requested, mut accepted, mut dead) = (None, [0u64; 4], [0u64; 4], [0u64; 4]);
    let mark = |set: &mut [u64; 4], n: u8| set[usize::from(n / 64)] |= 1 << (n % 64);
    for delta in row_deltas(0, row) {
        match delta?.1 {
            Delta::Classified { parcels, .. } => expected = Some(parcels),
            Delta::Requested(r) => mark(&mut requested, r.parcel),
            Delta::Settled { parcel, outcome, .. } => {
                mark(&mut requested, parcel);
                if outcome == OutcomeKind::Accepted {
                    mark(&mut accepted, parcel);
                }
            }
            Delta::DeadLettered { parcel: None, .. } => return Ok(Class::DeadLettered),
            Delta::DeadLettered { parcel: Some(n), .. } => mark(&mut dead, n),
            Delta::Accepted { .. }
            | Delta::Packed { .. }
            | Delta::Conflicted { .. }
            | Delta::Merchant { .. }
            | Delta::Tracked { .. } => {}
        }
    }
    let Some(expected) = expected else { return Ok(Class::InFlight) };
    let sum = |bits: &dyn Fn(usize) -> u64| (0..4).map(|w| bits(w).count_ones()).sum::<u32>();
    let known = sum(&|w| requested[w] | dead[w]);
    let undecided = sum(&|w| requested[w] & !accepted[w] & !dead[w]);
    Ok(if known < u32::from(expected) || undecided > 0 {
        Class::InFlight
    } else if sum(&|w| dead[w] & !accepted[w]) > 0 {
        Class::DeadLettered
    } else {
        Class::Finished
    })
}

/// What an outcome means for an order in a given state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeStep<'a> {
    /// Already known, or about an attempt nobody decided: nothing changes.
    Ignore,
    /// Record the outcome, and nothing more.
    Settle,
    /// Record it and offer the parcel to another carrier as the given attempt.
    Reroute {
        /// The attempt that was turned down.
        turned_down: Requested<'a>,
        /// Number of the attempt to make.
        next: u8,
        /// Where the order record is.
        order_position: u64,
    },
    /// Record it and dead-letter the parcel.
    DeadLetter,
    /// The carrier has told that the shipment is on its way, so it took it: record an acceptance, whatever was answered.
    Resolve,
}

/// Decides what `outcome` changes, from the order's row alone, without allocating.
///
/// Only a final reject of the latest attempt leads to another one; an unknown outcome is parked, and a late answer, or the
/// carrier's news of the shipment, may still resolve it.
///
/// # Errors
/// [`CodecError`] if the row can't be read.
pub fn on_outcome<'a>(row: &'a [u8], outcome: &Outcome<'_>) -> Result<OutcomeStep<'a>, CodecError> {
    let (mut requested, mut known, mut position) = (None, None, None);
    let (mut latest, mut closed, mut moved) = (0, false, false);
    for delta in row_deltas(0, row) {
        match delta?.1 {
            Delta::Accepted { position: p } => position = Some(p),
            Delta::Requested(r) if r.parcel == outcome.parcel => {
                latest = latest.max(r.attempt);
                if r.attempt == outcome.attempt {
                    requested = Some(r);
                }
            }
            Delta::Settled { parcel, attempt, outcome: kind, .. }
                if (parcel, attempt) == (outcome.parcel, outcome.attempt) =>
            {
                known = known.max(Some(kind));
            }
            Delta::Tracked { parcel, attempt, progress: Progress::Reached(_), .. }
                if (parcel, attempt) == (outcome.parcel, outcome.attempt) =>
            {
                moved = true;
            }
            Delta::DeadLettered { parcel, .. } if parcel.is_none_or(|p| p == outcome.parcel) => closed = true,
            _ => {}
        }
    }
    let Some(turned_down) = requested else { return Ok(OutcomeStep::Ignore) };
    if closed || latest != outcome.attempt || known.is_some_and(|k| k >= outcome.kind || k > OutcomeKind::Unknown) {
        return Ok(OutcomeStep::Ignore);
    }
    Ok(match (outcome.kind, position) {
        (OutcomeKind::Accepted, _) => OutcomeStep::Settle,
        _ if moved => OutcomeStep::Resolve,
        (OutcomeKind::Unknown, _) => OutcomeStep::Settle,
        (OutcomeKind::Rejected, Some(order_position)) if outcome.attempt < MAX_ATTEMPTS - 1 => {
            OutcomeStep::Reroute { turned_down, next: outcome.attempt + 1, order_position }
        }
        (OutcomeKind::Rejected | OutcomeKind::GivenUp, _) => OutcomeStep::DeadLetter,
    })
}

/// What a carrier's news means for an order in a given state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewsStep {
    /// Known already, one remark too many, or about a shipment that this carrier was never asked for or has turned down:
    /// nothing changes.
    Ignore,
    /// Record it.
    Note,
    /// Record it, and with it that the carrier took what was parked with an unknown outcome.
    Resolve,
}

/// Decides what `tracked` changes, from the order's row alone, without allocating.
///
/// News may come in any order and any number of times, and before the answer to the call that it follows from. What was
/// given up may have been taken all the same: its news is kept, for the person who looks at the parcel.
///
/// # Errors
/// [`CodecError`] if the row can't be read.
pub fn on_news(row: &[u8], tracked: &Tracked<'_>) -> Result<NewsStep, CodecError> {
    let about = (tracked.parcel, tracked.attempt);
    let (mut asked, mut told, mut closed, mut known, mut remarks) = (false, false, false, None, 0);
    for delta in row_deltas(OrderId(tracked.order).placed_at_ms(), row) {
        match delta? {
            (_, Delta::Requested(r)) if (r.parcel, r.attempt) == about => asked |= r.carrier == tracked.carrier,
            (_, Delta::Settled { parcel, attempt, outcome, .. }) if (parcel, attempt) == about => {
                known = known.max(Some(outcome));
            }
            (at, Delta::Tracked { parcel, attempt, progress, .. }) if (parcel, attempt) == about => {
                let remark = matches!(progress, Progress::Remarked(_));
                remarks += usize::from(remark);
                told |= progress == tracked.progress && (!remark || at == tracked.at_ms);
            }
            (_, Delta::DeadLettered { parcel, .. }) => closed |= parcel.is_none_or(|p| p == tracked.parcel),
            _ => {}
        }
    }
    Ok(match (known, tracked.progress) {
        _ if !asked || told => NewsStep::Ignore,
        (Some(OutcomeKind::Rejected), _) => NewsStep::Ignore,
        (_, Progress::Remarked(_)) if remarks >= MAX_REMARKS => NewsStep::Ignore,
        (Some(OutcomeKind::Unknown), Progress::Reached(_)) if !closed => NewsStep::Resolve,
        _ => NewsStep::Note,
    })
}
