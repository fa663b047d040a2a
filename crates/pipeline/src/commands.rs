//! What follows from a merchant's command about an order whose parcels have their carriers: shipments to be forgotten, goods
//! to be brought back. Which, is the order's own affair ([`sluice_domain::commands`]); who brings goods back, is said by the
//! stage that routes.

use sluice_domain::{
    Group, OrderState,
    commands::{Back, Cancelling, is_settled, plan_return},
};
use sluice_schemas::{
    command::{Command, Lines, Verdict, Wish},
    delta::{Items, Requested, VOID},
    wire::Reader,
};

use crate::effects::Effects;

/// Who can be asked.
pub trait Carriers {
    /// The carrier of this id; `None` if the deployment no longer has it, so that it can't be asked anything.
    fn number(&self, id: &str) -> Option<u16>;
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
    }
}

/// Every carrier that took a parcel and has not moved it is asked to forget it.
fn cancel(carriers: &impl Carriers, input: usize, state: &OrderState<'_>, order_position: u64, effects: &mut Effects) {
    let voidable = state.parcels.iter().filter(|p| Cancelling::of(state, p) == Cancelling::Voidable);
    let taken = voidable.filter_map(|p| p.accepted()).filter_map(|a| a.requested.as_ref().map(|(_, r)| r));
    let known: Vec<(&Requested<'_>, u16)> = taken.filter_map(|r| Some((r, carriers.number(r.carrier)?))).collect();
    if known.is_empty() {
        return effects.commanded(input, Verdict::NothingToCancel);
    }
    effects.commanded(input, Verdict::Done);
    for (taken, carrier) in known {
        let goods = (group_of(taken.handling), taken.weight_g);
        let index = effects.ask((taken.parcel, taken.attempt | VOID), goods, &taken.items, order_position, None);
        effects.route(index, carrier);
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
        let goods = (group, back.weight_g);
        let index = effects.ask((back.number, 0), goods, &items, order_position, Some((back.source, back.units)));
        match carriers.pick(group, &back) {
            Ok(carrier) => effects.route(index, carrier),
            Err(reason) => effects.nobody(index, &reason),
        }
    }
}

fn group_of(handling: u8) -> Group {
    Group::from_code(handling).unwrap_or(Group::Ambient)
}
