//! What follows from a command about an order that was decided: shipments to be forgotten, goods to be brought back, parcels
//! to be offered again, what was held to go on. Which, is the order's own affair ([`sluice_domain::commands`]); who carries them, is said by the stage
//! that routes.

use sluice_domain::{
    Group, OrderState,
    commands::{Again, Anew, Back, Cancelling, is_settled, plan_replay, plan_return, plan_review, weight_of},
    order_state::Parcel,
};
use sluice_schemas::{
    command::{Command, Lines, Verdict, Wish},
    delta::{Items, Requested, VOID},
    wire::Reader,
};

use crate::effects::Effects;

/// Who can be asked.
pub trait Carriers {
    /// The carrier of this id, if it can be asked to forget what it took.
    fn forgets(&self, id: &str) -> Option<u16>;
    /// The carrier of this id; `None` if the deployment no longer has it, so that it can't be asked anything.
    fn number(&self, id: &str) -> Option<u16>;
    /// The carrier that is asked, as this attempt, to take a parcel of this group and weight (grams), or why none is.
    ///
    /// # Errors
    /// The reason, for a person.
    fn offer(&mut self, group: Group, weight_g: u32, attempt: u8) -> Result<u16, String>;
    /// The carrier that brings `back`, of this group, or why none does.
    ///
    /// # Errors
    /// The reason, for a person.
    fn pick(&mut self, group: Group, back: &Back) -> Result<u16, String>;
}

/// Decides `command`, which is input `input`, about the order in `state`. One about an order that nobody knows, or that comes
/// again, changes nothing.
pub fn decide(
    carriers: &mut impl Carriers,
    input: usize,
    command: &Command<'_>,
    state: &OrderState<'_>,
    effects: &mut Effects,
) {
    let Some((_, order_position)) = state.accepted else { return };
    if is_settled(state, command.id, command.wish) {
        return;
    }
    match command.wish {
        Wish::Cancel => cancel(carriers, input, state, order_position, effects),
        Wish::Return { lines, .. } => bring_back(carriers, input, state, order_position, lines, effects),
        Wish::Replay { .. } => replay(carriers, input, state, order_position, effects),
        Wish::Review { parcel, handling, .. } => {
            review(carriers, input, state, order_position, (parcel, handling), effects);
        }
    }
}

/// Every carrier that took a parcel and has not moved it is asked to forget it. What is held is cancelled at once.
fn cancel(carriers: &impl Carriers, input: usize, state: &OrderState<'_>, order_position: u64, effects: &mut Effects) {
    let voidable = state.parcels.iter().filter(|p| Cancelling::of(state, p) == Cancelling::Voidable);
    let taken = voidable.filter_map(|p| p.accepted()).filter_map(|a| a.requested.as_ref().map(|(_, r)| r));
    let known: Vec<(&Requested<'_>, u16)> = taken.filter_map(|r| Some((r, carriers.forgets(r.carrier)?))).collect();
    let held: Vec<&Parcel<'_>> =
        state.parcels.iter().filter(|p| Cancelling::of(state, p) == Cancelling::OnHold).collect();
    if known.is_empty() && held.is_empty() {
        return effects.commanded(input, Verdict::NothingToCancel);
    }
    effects.commanded(input, Verdict::Done);
    for (taken, carrier) in known {
        let goods = (group_of(taken.handling), taken.weight);
        let index = effects.ask((taken.parcel, taken.attempt | VOID), goods, &taken.items, order_position, None);
        effects.route(index, carrier);
    }
    for parcel in held {
        let (goods, items) = ((Group::Ambient, weight_of(parcel)), parcel.contents().map(|c| c.1).unwrap_or_default());
        let index = effects.ask((parcel.number, 0), goods, &items, order_position, None);
        effects.nothing(index);
    }
}

fn bring_back(
    carriers: &mut impl Carriers,
    input: usize,
    state: &OrderState<'_>,
    order_position: u64,
    lines: Lines<'_>,
    effects: &mut Effects,
) {
    let backs = match plan_return(state, lines) {
        Ok(backs) => backs,
        Err(verdict) => return effects.commanded(input, verdict),
    };
    effects.commanded(input, Verdict::Done);
    let mut bytes = Vec::new();
    for back in backs {
        bytes.clear();
        Items::encode(&back.items, &mut bytes);
        let Ok(items) = Items::read(&mut Reader::new(&bytes)) else { continue };
        let group = group_of(back.handling);
        let goods = (group, back.weight);
        let index = effects.ask((back.number, 0), goods, &items, order_position, Some((back.source, back.units)));
        match carriers.pick(group, &back) {
            Ok(carrier) => effects.route(index, carrier),
            Err(reason) => effects.nobody(index, &reason),
        }
    }
}

/// Parcels that nobody took are offered again. A whole order is decided anew by those stages that decide new ones.
fn replay(
    carriers: &mut impl Carriers,
    input: usize,
    state: &OrderState<'_>,
    order_position: u64,
    effects: &mut Effects,
) {
    let parcels = match plan_replay(state) {
        Ok(Anew::Order) => return,
        Ok(Anew::Parcels(parcels)) => parcels,
        Err(verdict) => return effects.commanded(input, verdict),
    };
    effects.commanded(input, Verdict::Done);
    for Again { number, attempt, same } in parcels {
        let Some(parcel) = state.parcels.iter().find(|p| p.number == number) else { continue };
        let Some((handling, items)) = parcel.contents() else { continue };
        let (group, weight) = (group_of(handling), weight_of(parcel));
        let index = effects.ask((number, attempt), (group, weight), &items, order_position, None);
        effects.replayed(index, state.last_replay() + 1);
        let given_up = parcel.attempts.last().and_then(|a| a.requested.as_ref()).map(|(_, r)| r.carrier);
        let carrier = match given_up.filter(|_| same) {
            // It may have the shipment, and knows its id.
            Some(id) => {
                carriers.number(id).ok_or_else(|| format!("{id}, which may have it, is no carrier here any more"))
            }
            None => carriers.offer(group, weight.grams, attempt),
        };
        match carrier {
            Ok(carrier) => effects.route(index, carrier),
            Err(reason) => effects.nobody(index, &reason),
        }
    }
}

/// What was held goes on as what it is said to be.
fn review(
    carriers: &mut impl Carriers,
    input: usize,
    state: &OrderState<'_>,
    order_position: u64,
    (number, handling): (u8, u8),
    effects: &mut Effects,
) {
    let (parcel, group) = match plan_review(state, number, handling) {
        Ok(planned) => planned,
        Err(verdict) => return effects.commanded(input, verdict),
    };
    effects.commanded(input, Verdict::Done);
    let weight = weight_of(parcel);
    let items = parcel.contents().map(|c| c.1).unwrap_or_default();
    let index = effects.ask((number, 0), (group.unwrap_or(Group::Ambient), weight), &items, order_position, None);
    match group.map(|group| carriers.offer(group, weight.grams, 0)) {
        None => effects.nothing(index),
        Some(Ok(carrier)) => effects.route(index, carrier),
        Some(Err(reason)) => effects.nobody(index, &reason),
    }
}

fn group_of(handling: u8) -> Group {
    Group::from_code(handling).unwrap_or(Group::Ambient)
}
