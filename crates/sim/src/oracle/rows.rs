//! What one order's row must agree with: its own lines, the calls made for it, and what carriers did.

use sluice_domain::{
    OrderId, OrderState, ShipmentId,
    invariants::Invariant,
    order_state::{Attempt, Standing, Void},
};
use sluice_schemas::{
    delta::{Item, Requested, VOID},
    order::{Line, OrderRef},
    outcome::OutcomeKind,
};

use super::{Evidence, GroupOf, Violation, broken};
use crate::{
    digest::Digest,
    ledger::{Call, Ledger},
};

/// True if every undecided parcel waits for an outcome that nobody can tell, or for a person.
pub(super) fn parked(state: &OrderState<'_>) -> bool {
    let complete = state.classified.is_some_and(|(_, parcels, ..)| usize::from(parcels) == state.parcels.len());
    complete
        && state.parcels.iter().filter(|p| p.standing() == Standing::Undecided).all(|p| {
            let outcome = p.attempts.last().and_then(|a| a.outcome);
            matches!(outcome, Some((OutcomeKind::Unknown, ..))) || p.waits().is_some()
        })
}

/// The parcels hold exactly the items that ship.
pub(super) fn check_split(record: &OrderRef<'_>, state: &OrderState<'_>, group_of: &GroupOf) -> Result<(), Violation> {
    let id = state.id;
    let lines: Result<Vec<Line<'_>>, _> = record.lines().collect();
    let Ok(lines) = lines else {
        // Checkout never lets such a record pass; if a poison order is planted, it must have been dead-lettered.
        return match state.dead_letter {
            Some(_) => Ok(()),
            None => broken(Invariant::Conservation, format!("order {id} has unreadable lines and was not set aside")),
        };
    };
    let Some((_, parcels, ..)) = state.classified else {
        let early = state.parcels.first().map_or(Ok(()), |p| {
            broken(Invariant::Conservation, format!("parcel {} of order {id} came before its split", p.number))
        });
        return early;
    };
    if state.parcels.iter().any(|p| p.number >= parcels) {
        return broken(Invariant::Conservation, format!("order {id} has more parcels than it was split into"));
    }
    let mut packed = vec![0u64; lines.len()];
    let mut all_known = state.parcels.len() == usize::from(parcels);
    for parcel in &state.parcels {
        let first = parcel.attempts.first().filter(|a| a.number == 0).and_then(|a| a.requested);
        // A parcel that nobody could be asked for has no attempt, and its items are not written down.
        let Some((_, first)) = first else {
            all_known = false;
            continue;
        };
        check_parcel(id, &first, &lines, group_of, &mut packed)?;
        for (_, again) in parcel.attempts.iter().filter_map(|a| a.requested) {
            if again.items.iter().ne(first.items.iter()) || again.handling != first.handling {
                let what =
                    format!("attempt {} of parcel {} of order {id} has other items", again.attempt, first.parcel);
                return broken(Invariant::Conservation, what);
            }
        }
    }
    for (i, (line, packed)) in lines.iter().zip(packed).enumerate() {
        let ships = if group_of(line).is_some() { u64::from(line.quantity) } else { 0 };
        if packed > ships || (all_known && packed != ships) {
            let what = format!("line {i} of order {id}: {packed} of {ships} units in parcels");
            return broken(Invariant::Conservation, what);
        }
    }
    Ok(())
}

fn check_parcel(
    id: OrderId,
    first: &Requested<'_>,
    lines: &[Line<'_>],
    group_of: &GroupOf,
    packed: &mut [u64],
) -> Result<(), Violation> {
    let parcel = first.parcel;
    if first.items.is_empty() {
        return broken(Invariant::Conservation, format!("parcel {parcel} of order {id} is empty"));
    }
    for Item { line, quantity } in first.items.iter() {
        let Some(goods) = lines.get(usize::from(line)) else {
            return broken(
                Invariant::Conservation,
                format!("parcel {parcel} of order {id} holds line {line} of nowhere"),
            );
        };
        if group_of(goods).is_none_or(|group| group as u8 != first.handling) {
            let what = format!("parcel {parcel} of order {id} holds line {line}, which belongs to another group");
            return broken(Invariant::Conservation, what);
        }
        packed[usize::from(line)] += u64::from(quantity.unwrap_or(goods.quantity));
    }
    Ok(())
}

/// A call without a decision behind it.
pub(super) fn undecided<T>(ledger: &Ledger, call: &Call, shipment: ShipmentId) -> Result<T, Violation> {
    let what = format!("carrier {} was asked for {shipment} (manifest {}) undecided", ledger.carrier, call.manifest);
    broken(Invariant::DecideBeforeAct, what)
}

fn requested<'a>(state: &OrderState<'a>, shipment: ShipmentId) -> Option<Requested<'a>> {
    attempt_of(state, shipment)?.requested.map(|r| r.1)
}

fn attempt_of<'s, 'a>(state: &'s OrderState<'a>, shipment: ShipmentId) -> Option<&'s Attempt<'a>> {
    let parcel = state.parcels.iter().find(|p| p.number == shipment.parcel)?;
    parcel.attempts.iter().find(|a| a.number == shipment.attempt)
}

fn is_void_requested(state: &OrderState<'_>, shipment: ShipmentId) -> bool {
    attempt_of(state, shipment).is_some_and(|a| a.void.is_some_and(|v| v.requested.is_some()))
}

/// Every call was for a decided attempt, and to the carrier it was decided for.
pub(super) fn check_calls(state: &OrderState<'_>, evidence: &Evidence<'_>) -> Result<(), Violation> {
    for &(ledger, call, shipment) in &evidence.calls {
        let taken = ShipmentId { attempt: shipment.attempt & !VOID, ..shipment };
        if taken != shipment && !is_void_requested(state, taken) {
            return undecided(ledger, call, shipment);
        }
        if requested(state, taken).is_none_or(|r| r.carrier != ledger.carrier) {
            return undecided(ledger, call, shipment);
        }
    }
    Ok(())
}

/// At most one effect a parcel, of the right goods, and the row says what the ledgers say.
pub(super) fn check_effects(
    record: &OrderRef<'_>,
    state: &OrderState<'_>,
    evidence: &Evidence<'_>,
) -> Result<(), Violation> {
    let id = state.id;
    let mut taken: Vec<u8> = Vec::new();
    for (ledger, effect) in &evidence.effects {
        let shipment = effect.asked.shipment;
        let decided = requested(state, shipment).map(|r| r.items.iter().collect::<Vec<_>>());
        if effect.asked.body != Some(Digest::of(record.body())) || effect.asked.items != decided {
            let what = format!("carrier {} was given other goods or another address for {shipment}", ledger.carrier);
            return broken(Invariant::Conservation, what);
        }
        if ledger.lied_about.contains(&shipment) {
            continue;
        }
        if taken.contains(&shipment.parcel) {
            return broken(Invariant::OneEffect, format!("parcel {} of order {id} was taken twice", shipment.parcel));
        }
        taken.push(shipment.parcel);
    }
    for parcel in &state.parcels {
        for (i, attempt) in parcel.attempts.iter().enumerate() {
            let shipment = ShipmentId { order: id, parcel: parcel.number, attempt: attempt.number };
            let outcome = attempt.outcome.map(|o| (o.0, o.2));
            if attempt.requested.is_none() {
                let what = format!("{shipment} has an outcome and was never decided");
                return broken(Invariant::DecideBeforeAct, what);
            }
            let rejected = matches!(outcome, Some((OutcomeKind::Rejected, _)));
            if i + 1 < parcel.attempts.len() && !rejected {
                let what = format!("{shipment} was followed by another attempt without having been rejected");
                return broken(Invariant::OneEffect, what);
            }
            // What nobody could tell at some time may have been taken, and so may what a carrier is being asked again.
            let open = attempt.was_unknown || parcel.asks_again(attempt);
            if let Some((kind, text)) = outcome.filter(|(kind, _)| *kind != OutcomeKind::GivenUp || !open) {
                check_outcome(shipment, kind, text, evidence)?;
            }
            if let Some(void) = attempt.void {
                check_void(shipment, attempt, void, evidence)?;
            }
        }
    }
    Ok(())
}

/// Only what was taken is to be forgotten, and it is called so only if its carrier said so.
fn check_void(
    shipment: ShipmentId,
    attempt: &Attempt<'_>,
    void: Void<'_>,
    evidence: &Evidence<'_>,
) -> Result<(), Violation> {
    if void.requested.is_none() {
        let what = format!("{shipment} has an answer about forgetting it, which was never decided");
        return broken(Invariant::DecideBeforeAct, what);
    }
    if !matches!(attempt.outcome, Some((OutcomeKind::Accepted, ..))) {
        return broken(Invariant::OneEffect, format!("{shipment} is to be forgotten though nobody took it"));
    }
    let asked = ShipmentId { attempt: shipment.attempt | VOID, ..shipment };
    if evidence.calls.iter().any(|(ledger, ..)| ledger.lied_about.contains(&asked)) {
        return Ok(());
    }
    let forgotten = evidence.calls.iter().any(|(ledger, ..)| ledger.voided.contains(&asked));
    match void.outcome.map(|o| o.0) {
        Some(OutcomeKind::Accepted) if !forgotten => {
            broken(Invariant::Conservation, format!("{shipment} is called cancelled, and its carrier goes on with it"))
        }
        Some(OutcomeKind::Rejected) if forgotten => {
            broken(Invariant::Conservation, format!("{shipment} is called under way, and its carrier has forgotten it"))
        }
        _ => Ok(()),
    }
}

/// A recorded outcome is what happened.
fn check_outcome(
    shipment: ShipmentId,
    kind: OutcomeKind,
    text: &str,
    evidence: &Evidence<'_>,
) -> Result<(), Violation> {
    if evidence.calls.iter().any(|(ledger, ..)| ledger.lied_about.contains(&shipment)) {
        return Ok(());
    }
    let mut effects = evidence.effects.iter().filter(|(_, e)| e.asked.shipment == shipment);
    match kind {
        OutcomeKind::Unknown => Ok(()),
        OutcomeKind::Accepted => match effects.any(|(_, e)| e.tracking_number == text) {
            true => Ok(()),
            false => broken(
                Invariant::Conservation,
                format!("{shipment} is recorded as accepted under {text:?}, which no carrier knows"),
            ),
        },
        OutcomeKind::Rejected | OutcomeKind::GivenUp => match effects.next() {
            None => Ok(()),
            Some((ledger, _)) => broken(
                Invariant::OneEffect,
                format!("{shipment} is recorded as {kind:?}, and carrier {} took it", ledger.carrier),
            ),
        },
    }
}
