//! The state of an order as a fold of its deltas. The fold is a lattice: it takes deltas in any order, any number of
//! times, and ends in the same state, so a replay or a late event can never move a customer's status back.

use sluice_schemas::{
    CodecError,
    command::{Keep, Verdict},
    delta::{Delta, FIRST_RETURN, Items, Requested, VOID, Weight, row_deltas},
    milestone::{Milestone, Milestones},
    outcome::OutcomeKind,
    word::Progress,
};

use crate::{goods::Handling, identity::OrderId};

mod steps;

pub use steps::{NewsStep, OutcomeStep, awaits_outcome, class_of_row, last_replay, on_news, on_outcome};

/// Stands for the group of what nobody knows; no [`crate::Group`] has this code.
pub const UNKNOWN_GROUP: u8 = u8::MAX;

/// One carrier asked to take one parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// From 0.
    pub number: u8,
    /// When and what was requested; `None` only while a fold has seen the outcome first.
    pub requested: Option<(u64, Requested<'a>)>,
    /// Outcome, when (ms since the epoch), tracking number or reason.
    pub outcome: Option<(OutcomeKind, u64, &'a str)>,
    /// At some time nobody could tell whether the carrier took it.
    pub was_unknown: bool,
    /// The carrier's news, when (ms since the epoch, by its clock) and its text; ascending, once each, and of what is
    /// reached only the earliest.
    pub news: Vec<(Progress, u64, &'a str)>,
    /// The carrier was asked to forget it.
    pub void: Option<Void<'a>>,
}

/// A request to a carrier to forget a shipment that it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Void<'a> {
    /// When it was decided, ms since the epoch; `None` only while a fold has seen the outcome first.
    pub requested: Option<u64>,
    /// Outcome, when (ms since the epoch), and the reason. Accepted: the shipment is cancelled.
    pub outcome: Option<(OutcomeKind, u64, &'a str)>,
}

/// Lines that ship together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel<'a> {
    /// From 0.
    pub number: u8,
    /// Attempts by number.
    pub attempts: Vec<Attempt<'a>>,
    /// Group code, weight and items of a parcel that no carrier was asked for.
    pub packed: Option<(u8, Weight, Items<'a>)>,
    /// Its last dead letter, whether it still counts or not.
    pub dead_letter: Option<DeadLetter<'a>>,
    /// The last replay of it: number among those of the order, and the lowest attempt that may follow; (0, 0) for none.
    pub replayed: (u8, u8),
    /// That nobody knew what is in it.
    pub held: Option<Held<'a>>,
    /// What ended that.
    pub reviewed: Option<Reviewed<'a>>,
}

/// What is likely in a parcel that waits for a person to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held<'a> {
    /// When it was decided, ms since the epoch.
    pub at_ms: u64,
    /// Code of the likeliest handling class.
    pub handling: u8,
    /// How likely, percent.
    pub confidence: u8,
    /// What it weighs.
    pub weight: Weight,
    /// What is in it.
    pub items: Items<'a>,
}

/// What a person has said of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reviewed<'a> {
    /// When it was decided, ms since the epoch.
    pub at_ms: u64,
    /// Code of its handling class; `None`: the order was cancelled first.
    pub handling: Option<u8>,
    /// What else it is kept for.
    pub keep: Keep,
    /// The command that asked for it.
    pub command: u64,
    /// The operator who decided.
    pub by: &'a str,
}

/// That nobody takes a parcel, or that no stage could decide an order. Of those after one replay the earliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The order's last replay before it; 0 for none.
    pub replay: u8,
    /// When, ms since the epoch.
    pub at_ms: u64,
    /// Why.
    pub reason: &'a str,
}

impl<'a> DeadLetter<'a> {
    fn keep(slot: &mut Option<Self>, new: Self) {
        let rank = |d: &Self| (std::cmp::Reverse(d.replay), d.at_ms, d.reason);
        if slot.as_ref().is_none_or(|old| rank(&new) < rank(old)) {
            *slot = Some(new);
        }
    }
}

/// One replay of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replay<'a> {
    /// From 1.
    pub number: u8,
    /// When, ms since the epoch.
    pub at_ms: u64,
    /// The command that asked for it.
    pub command: u64,
    /// The operator who asked.
    pub by: &'a str,
}

/// Goods on their way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return<'a> {
    /// The parcel that brings them; its number is from [`FIRST_RETURN`].
    pub parcel: Parcel<'a>,
    /// What was asked for; `None` only while a fold has seen something else first.
    pub asked: Option<Asked<'a>>,
}

/// What a return brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked<'a> {
    /// When it was decided, ms since the epoch.
    pub at_ms: u64,
    /// The parcel that the goods were delivered in.
    pub source: u8,
    /// Units in that parcel, of all its lines.
    pub units: u32,
    /// The command that asked for it.
    pub command: u64,
    /// The customer's reason.
    pub reason: &'a str,
}

/// Where a parcel stands for the sake of conservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// An attempt is open, or parked with an unknown outcome, or nobody has said yet what is in it.
    Undecided,
    /// A carrier took it.
    Accepted,
    /// Nobody takes it; a person must look.
    DeadLettered,
    /// The carrier that took it has agreed to forget it, or it was cancelled while no carrier knew of it.
    Cancelled,
    /// What is in it turned out to be no goods: nothing ships.
    NotNeeded,
}

/// The class an order counts in; every accepted order is in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Any parcel is undecided.
    InFlight,
    /// No parcel is undecided and one is dead-lettered.
    DeadLettered,
    /// A parcel was accepted and stays so, or nothing ships.
    Finished,
    /// Every parcel is cancelled.
    Cancelled,
}

/// Everything known about one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderState<'a> {
    /// The order.
    pub id: OrderId,
    /// When it became durable (ms since the epoch) and where the log keeps its record.
    pub accepted: Option<(u64, u64)>,
    /// When its goods were known, how many parcels, under which rules and which model.
    pub classified: Option<(u64, u8, u32, u32)>,
    /// The last dead letter of the whole order, whether it still counts or not.
    pub dead_letter: Option<DeadLetter<'a>>,
    /// Number of the last replay of the whole order; 0 for none.
    pub replayed: u8,
    /// What operators had decided anew, by number.
    pub replays: Vec<Replay<'a>>,
    /// Later requests under the same key that were answered before they were refused: id and when, ascending, once each.
    pub conflicts: Vec<(OrderId, u64)>,
    /// Parcels to the customer, by number.
    pub parcels: Vec<Parcel<'a>>,
    /// Parcels back from the customer, by number.
    pub returns: Vec<Return<'a>>,
    /// Commands by id, each with what became of it and when (ms since the epoch).
    pub commands: Vec<(u64, Verdict, u64)>,
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
            dead_letter: None,
            replayed: 0,
            replays: Vec::new(),
            conflicts: Vec::new(),
            parcels: Vec::new(),
            returns: Vec::new(),
            commands: Vec::new(),
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
            Delta::Classified { parcels, rules, model } => {
                keep_least(&mut self.classified, (at, parcels, rules, model));
            }
            Delta::DeadLettered { parcel, reason, replay, .. } => {
                let slot = match parcel {
                    None => &mut self.dead_letter,
                    Some(n) => &mut self.parcel(n).dead_letter,
                };
                DeadLetter::keep(slot, DeadLetter { replay, at_ms: at, reason });
            }
            Delta::Replayed { parcel, replay: number, attempt, command, by } => {
                match parcel {
                    None => self.replayed = self.replayed.max(number),
                    Some(n) => {
                        let replayed = &mut self.parcel(n).replayed;
                        *replayed = (*replayed).max((number, attempt));
                    }
                }
                self.replay(Replay { number, at_ms: at, command, by });
            }
            Delta::Conflicted { order } => self.conflict(OrderId(order), at),
            Delta::Merchant { .. } => {}
            Delta::Packed { parcel, handling, weight, items } => {
                let slot = &mut self.parcel(parcel).packed;
                if slot.as_ref().is_none_or(|old| (handling, weight) < (old.0, old.1)) {
                    *slot = Some((handling, weight, items));
                }
            }
            Delta::Held { parcel, handling, confidence, weight, items } => {
                let slot = &mut self.parcel(parcel).held;
                let new = Held { at_ms: at, handling, confidence, weight, items };
                let rank = |held: &Held<'_>| (held.at_ms, held.handling, held.confidence, held.weight);
                if slot.as_ref().is_none_or(|old| rank(&new) < rank(old)) {
                    *slot = Some(new);
                }
            }
            Delta::Reviewed { parcel, handling, keep, command, by } => {
                keep_least(&mut self.parcel(parcel).reviewed, Reviewed { at_ms: at, handling, keep, command, by });
            }
            Delta::Commanded { id, verdict } => self.command(id, verdict, at),
            Delta::Return { parcel, source, units, command, reason } => {
                keep_least(&mut self.back(parcel).asked, Asked { at_ms: at, source, units, command, reason });
            }
            Delta::Requested(requested) if requested.attempt & VOID != 0 => {
                keep_least(&mut self.void(requested.parcel, requested.attempt).requested, at);
            }
            Delta::Settled { parcel, attempt, outcome, text } if attempt & VOID != 0 => {
                keep_highest(&mut self.void(parcel, attempt).outcome, (outcome, at, text));
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
                let settled = self.attempt(parcel, attempt);
                settled.was_unknown |= outcome == OutcomeKind::Unknown;
                keep_highest(&mut settled.outcome, (outcome, at, text));
            }
        }
    }

    fn conflict(&mut self, order: OrderId, at: u64) {
        match self.conflicts.binary_search_by_key(&order, |c| c.0) {
            Ok(known) => self.conflicts[known].1 = self.conflicts[known].1.min(at),
            Err(place) => self.conflicts.insert(place, (order, at)),
        }
    }

    fn command(&mut self, id: u64, verdict: Verdict, at: u64) {
        match self.commands.binary_search_by_key(&id, |c| c.0) {
            Ok(known) => self.commands[known] = self.commands[known].min((id, verdict, at)),
            Err(place) => self.commands.insert(place, (id, verdict, at)),
        }
    }

    fn replay(&mut self, new: Replay<'a>) {
        match self.replays.binary_search_by_key(&new.number, |r| r.number) {
            Ok(known) => self.replays[known] = self.replays[known].min(new),
            Err(place) => self.replays.insert(place, new),
        }
    }

    fn back(&mut self, number: u8) -> &mut Return<'a> {
        let at = match self.returns.binary_search_by_key(&number, |r| r.parcel.number) {
            Ok(at) => at,
            Err(at) => {
                self.returns.insert(at, Return { parcel: Parcel::new(number), asked: None });
                at
            }
        };
        &mut self.returns[at]
    }

    fn void(&mut self, parcel: u8, attempt: u8) -> &mut Void<'a> {
        self.attempt(parcel, attempt & !VOID).void.get_or_insert_default()
    }

    fn parcel(&mut self, number: u8) -> &mut Parcel<'a> {
        if number >= FIRST_RETURN {
            return &mut self.back(number).parcel;
        }
        let at = match self.parcels.binary_search_by_key(&number, |p| p.number) {
            Ok(at) => at,
            Err(at) => {
                self.parcels.insert(at, Parcel::new(number));
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
                let attempt = Attempt {
                    number,
                    requested: None,
                    outcome: None,
                    was_unknown: false,
                    news: Vec::new(),
                    void: None,
                };
                attempts.insert(at, attempt);
                at
            }
        };
        &mut attempts[at]
    }

    /// Number of the order's last replay; 0 for none.
    #[must_use]
    pub fn last_replay(&self) -> u8 {
        self.replays.last().map_or(0, |r| r.number)
    }

    /// True if the whole order is dead-lettered now.
    #[must_use]
    pub fn is_dead_lettered(&self) -> bool {
        self.dead_letter.is_some_and(|d| d.replay >= self.replayed)
    }

    /// The class the order counts in.
    pub fn class(&self) -> Class {
        if self.is_dead_lettered() {
            return Class::DeadLettered;
        }
        let Some((_, expected, ..)) = self.classified else { return Class::InFlight };
        let standings = || self.parcels.iter().map(Parcel::standing).filter(|s| *s != Standing::NotNeeded);
        if self.parcels.len() < usize::from(expected) || standings().any(|s| s == Standing::Undecided) {
            Class::InFlight
        } else if standings().any(|s| s == Standing::DeadLettered) {
            Class::DeadLettered
        } else if standings().next().is_some() && standings().all(|s| s == Standing::Cancelled) {
            Class::Cancelled
        } else {
            Class::Finished
        }
    }

    /// The customer's status: that of the least advanced parcel, so it says no more than is true of every parcel.
    pub fn status(&self) -> Milestone {
        let own = self.own_milestones();
        // A parcel not yet seen would pull the minimum back when it appears.
        let all_known = self.classified.is_some_and(|(_, expected, ..)| self.parcels.len() >= usize::from(expected));
        // What doesn't ship holds nothing back.
        let shown = |p: &&Parcel<'_>| all_known && p.standing() != Standing::NotNeeded;
        let of_parcels = self.parcels.iter().filter(shown).filter_map(|p| own.union(self.milestones_of(p)).status());
        of_parcels.min().or_else(|| own.status()).unwrap_or(Milestone::Accepted)
    }

    /// The status of one parcel.
    pub fn parcel_status(&self, parcel: &Parcel<'_>) -> Milestone {
        self.own_milestones().union(self.milestones_of(parcel)).status().unwrap_or(Milestone::Accepted)
    }

    /// A parcel's own milestones, and `returned` once everything in it is back.
    fn milestones_of(&self, parcel: &Parcel<'_>) -> Milestones {
        let set = parcel.milestones();
        let back = |r: &&Return<'_>| r.asked.is_some_and(|a| a.source == parcel.number) && r.is_back();
        let units: u64 = self.returns.iter().filter(back).map(|r| u64::from(r.units())).sum();
        let source = self.returns.iter().filter_map(|r| r.asked).find(|a| a.source == parcel.number);
        match source {
            Some(asked) if units >= u64::from(asked.units) => set.with(Milestone::Returned),
            _ => set,
        }
    }

    fn own_milestones(&self) -> Milestones {
        let mut set = Milestones::default().with(Milestone::Accepted);
        if self.classified.is_some() {
            set = set.with(Milestone::Classified);
        }
        if self.dead_letter.is_some() {
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

    /// True if the carrier has agreed to forget it.
    pub fn is_void(&self) -> bool {
        self.void.is_some_and(|v| matches!(v.outcome, Some((OutcomeKind::Accepted, ..))))
    }

    /// True if the carrier has told that the shipment is on its way, which it can be only if the carrier took it.
    pub fn moved(&self) -> bool {
        self.news.iter().any(|(progress, ..)| matches!(progress, Progress::Reached(_)))
    }
}

impl<'a> Return<'a> {
    /// True once the merchant has the goods.
    pub fn is_back(&self) -> bool {
        self.parcel.milestones().contains(Milestone::Returned)
    }

    /// Units that it brings.
    pub fn units(&self) -> u32 {
        let items = self.parcel.contents();
        items.iter().flat_map(|(_, items)| items.iter()).filter_map(|item| item.quantity).fold(0, u32::saturating_add)
    }
}

impl<'a> Parcel<'a> {
    fn new(number: u8) -> Self {
        Self {
            number,
            attempts: Vec::new(),
            packed: None,
            dead_letter: None,
            replayed: (0, 0),
            held: None,
            reviewed: None,
        }
    }

    /// True if it has a dead letter that no replay came after.
    #[must_use]
    pub fn is_dead_lettered(&self) -> bool {
        self.dead_letter.is_some_and(|d| d.replay >= self.replayed.0)
    }

    /// Where the parcel stands.
    pub fn standing(&self) -> Standing {
        if self.accepted().is_some() {
            if self.attempts.iter().any(Attempt::is_void) { Standing::Cancelled } else { Standing::Accepted }
        } else if self.is_dead_lettered() {
            Standing::DeadLettered
        } else {
            match self.reviewed.map(|r| r.handling) {
                Some(None) => Standing::Cancelled,
                Some(Some(class)) if class == Handling::NonGoods as u8 => Standing::NotNeeded,
                _ => Standing::Undecided,
            }
        }
    }

    /// What it is held for, as long as it is.
    #[must_use]
    pub fn waits(&self) -> Option<&Held<'a>> {
        self.held.as_ref().filter(|_| self.reviewed.is_none() && self.standing() == Standing::Undecided)
    }

    /// True if `attempt` was given up and its carrier is being asked again since a replay: its outcome is one of before.
    #[must_use]
    pub fn asks_again(&self, attempt: &Attempt<'_>) -> bool {
        let given_up = matches!(attempt.outcome, Some((OutcomeKind::GivenUp, ..)));
        let again = self.replayed.0 > 0 && self.replayed.1 == attempt.number;
        given_up && again && self.standing() == Standing::Undecided
    }

    /// The attempt a carrier accepted.
    pub fn accepted(&self) -> Option<&Attempt<'a>> {
        self.attempts.iter().find(|a| matches!(a.outcome, Some((OutcomeKind::Accepted, ..))))
    }

    /// The attempt that speaks for the parcel: the accepted one, else the latest.
    pub fn current(&self) -> Option<&Attempt<'a>> {
        self.accepted().or_else(|| self.attempts.last())
    }

    /// What it weighs, from whatever says so.
    pub fn weight(&self) -> Option<Weight> {
        let requested = self.attempts.iter().find_map(|a| a.requested.as_ref());
        let known = requested.map(|(_, r)| r.weight).or(self.packed.map(|(_, weight, _)| weight));
        known.or(self.held.map(|held| held.weight))
    }

    /// Group code and items, from whatever says so; [`UNKNOWN_GROUP`] as long as nobody has said what is in it.
    pub fn contents(&self) -> Option<(u8, Items<'a>)> {
        let requested = self.attempts.iter().find_map(|a| a.requested.as_ref());
        let known = requested.map(|(_, r)| (r.handling, r.items));
        let known = known.or_else(|| self.packed.map(|(group, _, items)| (group, items)));
        known.or_else(|| self.held.map(|held| (UNKNOWN_GROUP, held.items)))
    }

    fn milestones(&self) -> Milestones {
        let mut set = Milestones::default();
        if self.attempts.iter().any(|a| a.requested.is_some()) {
            set = set.with(Milestone::CarrierRequested);
        }
        if self.accepted().is_some() {
            set = set.with(Milestone::CarrierAccepted);
        }
        let withdrawn = self.reviewed.is_some_and(|r| r.handling.is_none());
        if withdrawn || self.standing() == Standing::Cancelled {
            set = set.with(Milestone::Cancelled);
        }
        if self.dead_letter.is_some() {
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

fn keep_highest<'a>(slot: &mut Option<(OutcomeKind, u64, &'a str)>, new: (OutcomeKind, u64, &'a str)) {
    let rank = |o: &(OutcomeKind, u64, &'a str)| (o.0, std::cmp::Reverse((o.1, o.2)));
    if slot.as_ref().is_none_or(|old| rank(old) < rank(&new)) {
        *slot = Some(new);
    }
}

fn keep_least<T: PartialOrd>(slot: &mut Option<T>, new: T) {
    if slot.as_ref().is_none_or(|old| new < *old) {
        *slot = Some(new);
    }
}
