//! What a command means for an order in a given state: which parcels can be cancelled, what goods can come back, and what is
//! decided anew. Pure, and decided on the order's row alone.

use sluice_schemas::{
    command::{Lines, ReturnLine, Verdict, Wish},
    delta::{FIRST_RETURN, Item, Weight},
    milestone::Milestone,
    outcome::OutcomeKind,
    word::Progress,
};

use crate::{
    goods::{Group, Handling},
    limits::{MAX_REPLAYS, MAX_RETURNS},
    order_state::{Attempt, OrderState, Parcel, Return, Standing},
};

/// Commands kept of one order, so that each has its effect once; later ones are refused. More than its returns and what may
/// be refused in passing.
pub const MAX_COMMANDS: usize = 128;
/// … of which cancellations and replays leave room for returns.
pub const MAX_CANCELS: usize = 64;

/// Where a parcel stands towards being cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cancelling {
    /// A carrier took it, and can be asked to forget it.
    Voidable,
    /// Its carrier was asked to forget it and has not answered.
    VoidRequested,
    /// Its carrier has agreed to forget it.
    Cancelled,
    /// A carrier is being asked to take it, or nobody can tell whether one did: only its answer makes it voidable.
    AlreadyRequested,
    /// Its carrier has refused to forget it.
    VoidRefused,
    /// Nobody can tell whether its carrier has forgotten it; a person must ask.
    VoidUnknown,
    /// Its carrier has told that it moves.
    OnItsWay,
    /// No carrier takes it; a person looks at it already.
    DeadLettered,
    /// Nobody has said yet what is in it, and no carrier knows of it: it can be cancelled at once.
    OnHold,
    /// It is no goods; nothing of it ships.
    NotNeeded,
}

impl Cancelling {
    /// The name used in every public format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Voidable => "voidable",
            Self::VoidRequested => "void_requested",
            Self::Cancelled => "cancelled",
            Self::AlreadyRequested => "already_requested",
            Self::VoidRefused => "void_refused",
            Self::VoidUnknown => "void_unknown",
            Self::OnItsWay => "on_its_way",
            Self::DeadLettered => "dead_lettered",
            Self::OnHold => "on_hold",
            Self::NotNeeded => "not_needed",
        }
    }

    /// Where `parcel` of `state` stands.
    #[must_use]
    pub fn of(state: &OrderState<'_>, parcel: &Parcel<'_>) -> Self {
        let Some(accepted) = parcel.accepted() else {
            return match parcel.standing() {
                _ if state.is_dead_lettered() => Self::DeadLettered,
                Standing::DeadLettered => Self::DeadLettered,
                Standing::Cancelled => Self::Cancelled,
                Standing::NotNeeded => Self::NotNeeded,
                _ if parcel.waits().is_some() => Self::OnHold,
                _ => Self::AlreadyRequested,
            };
        };
        match accepted.void.map(|void| void.outcome.map(|o| o.0)) {
            _ if parcel.standing() == Standing::Cancelled => Self::Cancelled,
            _ if accepted.moved() => Self::OnItsWay,
            None => Self::Voidable,
            Some(None) => Self::VoidRequested,
            Some(Some(OutcomeKind::Accepted)) => Self::Cancelled,
            Some(Some(OutcomeKind::Rejected)) => Self::VoidRefused,
            Some(Some(OutcomeKind::Unknown | OutcomeKind::GivenUp)) => Self::VoidUnknown,
        }
    }
}

/// Commands of the order that count towards [`MAX_COMMANDS`] and [`MAX_CANCELS`]: all but those that released a parcel, of
/// which there is one for each.
#[must_use]
pub fn counted(state: &OrderState<'_>) -> usize {
    let released = state.parcels.iter().filter(|p| p.reviewed.is_some_and(|r| r.handling.is_some())).count();
    state.commands.len().saturating_sub(released)
}

/// True if nothing is to be decided about this command: the order knows it already, or has no room for another. Of a return
/// the first half of the id names its key, under which there is one.
#[must_use]
pub fn is_settled(state: &OrderState<'_>, id: u64, wish: Wish<'_>) -> bool {
    let (most, same) = match wish {
        Wish::Cancel | Wish::Replay { .. } => (MAX_CANCELS, 0),
        Wish::Return { .. } => (MAX_COMMANDS, 32),
        Wish::Review { .. } => (MAX_COMMANDS, 0),
    };
    counted(state) >= most || state.commands.iter().any(|c| c.0 >> same == id >> same)
}

/// One parcel to be brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    /// Number of the return parcel.
    pub number: u8,
    /// The parcel that the goods were delivered in.
    pub source: u8,
    /// Units in that parcel, of all its lines.
    pub units: u32,
    /// Code of its handling group.
    pub handling: u8,
    /// Its share of the source's weight by units, rounded up.
    pub weight: Weight,
    /// What is to come back, with quantities.
    pub items: Vec<Item>,
}

/// Shares out what is to come back among the parcels that brought it, those with the lowest numbers first: one return parcel
/// for each, so that what travels apart comes back apart.
///
/// # Errors
/// [`Verdict::NotReturnable`] if nothing is asked for, not all of it was delivered, or some of it is on its way back already;
/// [`Verdict::TooManyReturns`] beyond [`MAX_RETURNS`].
pub fn plan_return(state: &OrderState<'_>, lines: Lines<'_>) -> Result<Vec<Back>, Verdict> {
    // Somebody looks at it; nothing more is decided about it meanwhile.
    if state.is_dead_lettered() {
        return Err(Verdict::NotReturnable);
    }
    let lines: Vec<ReturnLine> = lines.iter().collect();
    let mut wanted: Vec<u32> = lines.iter().map(|line| line.quantity).collect();
    let mut backs: Vec<Back> = Vec::new();
    for parcel in state.parcels.iter().filter(|p| is_delivered(p)) {
        let Some((handling, contents)) = parcel.contents() else { continue };
        let units = |item: &Item| item.quantity.or(lines.get(usize::from(item.line)).map(|line| line.ordered));
        let mut items = Vec::new();
        for item in contents.iter() {
            let Some(want) = wanted.get_mut(usize::from(item.line)) else { continue };
            let left = units(&item).unwrap_or(0).saturating_sub(coming_back(state, parcel.number, item.line));
            let take = left.min(*want);
            if take > 0 {
                *want -= take;
                items.push(Item { line: item.line, quantity: Some(take) });
            }
        }
        if items.is_empty() {
            continue;
        }
        if state.returns.len() + backs.len() == MAX_RETURNS {
            return Err(Verdict::TooManyReturns);
        }
        let number = FIRST_RETURN + (state.returns.len() + backs.len()) as u8;
        let units = contents.iter().filter_map(|item| units(&item)).fold(0, u32::saturating_add);
        let weight = share(weight_of(parcel), &items, (units, contents.len()));
        backs.push(Back { number, source: parcel.number, units, handling, weight, items });
    }
    if backs.is_empty() || wanted.iter().any(|&left| left > 0) {
        return Err(Verdict::NotReturnable);
    }
    Ok(backs)
}

/// What a replay decides anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anew {
    /// The whole order, from its record: nothing has been decided about it but that nothing could be.
    Order,
    /// Parcels as they were packed.
    Parcels(Vec<Again>),
}

/// One parcel to be offered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// Its number.
    pub number: u8,
    /// The attempt to make.
    pub attempt: u8,
    /// That attempt was given up: its carrier may have it, and is asked again under the same shipment id.
    pub same: bool,
}

/// What is to be decided anew of an order. Returns are not: who wants one asks for another.
///
/// # Errors
/// [`Verdict::NothingToReplay`] if nothing is dead-lettered now; [`Verdict::NotReplayable`] if a carrier may have what is, or
/// the merchant has cancelled some of it; [`Verdict::TooManyReplays`] beyond [`MAX_REPLAYS`].
pub fn plan_replay(state: &OrderState<'_>) -> Result<Anew, Verdict> {
    let dead = || state.parcels.iter().filter(|p| p.standing() == Standing::DeadLettered);
    if !state.is_dead_lettered() && dead().next().is_none() {
        return Err(Verdict::NothingToReplay);
    }
    // Nothing of what its merchant wants cancelled is sent on its way.
    let void = state.parcels.iter().flat_map(|p| &p.attempts).any(|a| a.void.is_some());
    let withdrawn = state.parcels.iter().any(|p| p.reviewed.is_some_and(|reviewed| reviewed.handling.is_none()));
    let anew = match state.is_dead_lettered() {
        true if state.classified.is_none() && state.parcels.is_empty() => Anew::Order,
        true => return Err(Verdict::NotReplayable),
        false => Anew::Parcels(dead().filter_map(again).collect()),
    };
    if void || withdrawn || anew == Anew::Parcels(Vec::new()) {
        return Err(Verdict::NotReplayable);
    }
    if state.last_replay() >= MAX_REPLAYS { Err(Verdict::TooManyReplays) } else { Ok(anew) }
}

/// The parcel that a review releases, and what it is; one of no group is no goods.
///
/// # Errors
/// [`Verdict::NotHeld`] if it doesn't wait for that, or the class isn't known to this version.
pub fn plan_review<'s, 'a>(
    state: &'s OrderState<'a>,
    number: u8,
    handling: u8,
) -> Result<(&'s Parcel<'a>, Option<Group>), Verdict> {
    let parcel = state.parcels.iter().find(|p| p.number == number && p.waits().is_some());
    let class = Handling::ALL.get(usize::from(handling));
    match (parcel.filter(|_| !state.is_dead_lettered()), class) {
        (Some(parcel), Some(class)) => Ok((parcel, class.group())),
        _ => Err(Verdict::NotHeld),
    }
}

/// How a dead-lettered parcel is offered again; `None` if a carrier may have it under another shipment id than the next one
/// would have, or nothing says what is in it.
fn again(parcel: &Parcel<'_>) -> Option<Again> {
    let (group, _) = parcel.contents()?;
    Group::from_code(group)?;
    let rejected = |a: &Attempt<'_>| matches!(a.outcome, Some((OutcomeKind::Rejected, ..)));
    let number = parcel.number;
    let Some((last, before)) = parcel.attempts.split_last() else {
        return Some(Again { number, attempt: 0, same: false });
    };
    if !before.iter().all(rejected) || parcel.attempts.iter().any(Attempt::moved) {
        return None;
    }
    let given_up = matches!(last.outcome, Some((OutcomeKind::GivenUp, ..))) && last.requested.is_some();
    match (rejected(last), given_up && !last.was_unknown) {
        (true, _) => Some(Again { number, attempt: last.number + 1, same: false }),
        (_, true) => Some(Again { number, attempt: last.number, same: true }),
        _ => None,
    }
}

/// True if the customer has it, and it was not sent back to the merchant.
fn is_delivered(parcel: &Parcel<'_>) -> bool {
    let told = |a: &Attempt<'_>, milestone| a.news.iter().any(|n| n.0 == Progress::Reached(milestone));
    let back = [Milestone::ReturnToSender, Milestone::Returned];
    let delivered = |a: &Attempt<'_>| told(a, Milestone::Delivered) && !back.iter().any(|m| told(a, *m));
    parcel.standing() == Standing::Accepted && parcel.accepted().is_some_and(delivered)
}

/// Units of a line in `source` that returns bring back, or may; what certainly no carrier takes may be asked for again.
fn coming_back(state: &OrderState<'_>, source: u8, line: u16) -> u32 {
    let given_up = |a: &Attempt<'_>| matches!(a.outcome, Some((OutcomeKind::GivenUp, ..)));
    let may_come =
        |r: &Return<'_>| r.parcel.dead_letter.is_none() || r.parcel.attempts.iter().any(|a| given_up(a) || a.moved());
    let of_source = |r: &&Return<'_>| r.asked.is_some_and(|a| a.source == source) && may_come(r);
    let items = state.returns.iter().filter(of_source).filter_map(|r| r.parcel.contents()).flat_map(|c| c.1.iter());
    items.filter(|item| item.line == line).filter_map(|item| item.quantity).fold(0, u32::saturating_add)
}

/// What a parcel weighs; 0 g if nothing says so.
#[must_use]
pub fn weight_of(parcel: &Parcel<'_>) -> Weight {
    parcel.weight().unwrap_or_default()
}

/// The share of `whole` that `items` have by units, of `units` of so many `lines` in all. A part of several lines is an
/// estimate even if the whole isn't: their units need not weigh the same.
fn share(whole: Weight, items: &[Item], (units, lines): (u32, usize)) -> Weight {
    let some: u64 = items.iter().filter_map(|item| item.quantity).map(u64::from).sum();
    let mixed = lines > 1 && some < u64::from(units);
    let share = (u64::from(whole.grams) * some).div_ceil(u64::from(units.max(1)));
    let grams = u32::try_from(share).unwrap_or(whole.grams).min(whole.grams);
    Weight { grams, estimated: whole.estimated || mixed }
}
