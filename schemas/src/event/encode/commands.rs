//! Events that follow from what a merchant or an operator wants done with an order.

use super::{Accepted, Deltas, EventType, decided, handling_number, parcels, whole_or_nothing};
use crate::{
    CodecError,
    command::Keep,
    delta::{Delta, Requested, VOID},
    event::Encoded,
    wire::put_varint,
};

/// Appends `order.cancel_requested`: the deltas of the decision that followed from it.
///
/// # Errors
/// [`CodecError`] if the deltas can't be read, or are not those of a cancellation.
pub fn encode_cancel(out: &mut Vec<u8>, order_id: u128, merchant: &str, deltas: &[u8]) -> Result<Encoded, CodecError> {
    const WHAT: CodecError = CodecError { what: "deltas of a cancellation" };
    let mut all = Deltas::new(order_id, deltas);
    let (at_ms, Delta::Commanded { .. }) = all.next().ok_or(WHAT)?? else { return Err(WHAT) };
    let event = Encoded { event_type: EventType::CancelRequested, order_id, occurred_at_ms: at_ms };
    whole_or_nothing(out, event, merchant, |w| {
        let mut withdrawn = Vec::new();
        for delta in all {
            let void = match delta?.1 {
                Delta::Requested(void) => void,
                Delta::Reviewed { parcel, handling: None, .. } => {
                    put_varint(&mut withdrawn, u64::from(parcel));
                    continue;
                }
                _ => return Err(WHAT),
            };
            if void.attempt & VOID == 0 {
                return Err(WHAT);
            }
            let at = w.open(1);
            w.number_if(1, u64::from(void.parcel));
            w.number_if(2, u64::from(void.attempt & !VOID));
            w.text_if(3, void.carrier);
            w.close(at);
        }
        if !withdrawn.is_empty() {
            w.bytes(2, &withdrawn);
        }
        Ok(())
    })
}

/// Appends `return.requested`: the deltas of the decision that followed from it.
///
/// # Errors
/// [`CodecError`] if the deltas can't be read, or are not those of a return.
pub fn encode_return(out: &mut Vec<u8>, order_id: u128, merchant: &str, deltas: &[u8]) -> Result<Encoded, CodecError> {
    const WHAT: CodecError = CodecError { what: "deltas of a return" };
    let mut all = Deltas::new(order_id, deltas);
    let (at_ms, Delta::Commanded { .. }) = all.next().ok_or(WHAT)?? else { return Err(WHAT) };
    let event = Encoded { event_type: EventType::ReturnRequested, order_id, occurred_at_ms: at_ms };
    whole_or_nothing(out, event, merchant, |w| {
        let reason = all.clone().find_map(|delta| match delta {
            Ok((_, Delta::Return { reason, .. })) => Some(reason),
            _ => None,
        });
        w.text_if(1, reason.ok_or(WHAT)?);
        // Each parcel is what it brings back, then who carries it or what is in it, then why nobody does.
        while let Some(delta) = all.next() {
            let (_, Delta::Return { parcel, source, .. }) = delta? else { return Err(WHAT) };
            let at = w.open(2);
            w.number_if(1, u64::from(parcel));
            w.number_if(2, u64::from(source));
            let (handling, weight, items, asked) = match all.next().ok_or(WHAT)??.1 {
                Delta::Requested(Requested { handling, weight, items, carrier, .. }) => {
                    (handling, weight, items, Some(carrier))
                }
                Delta::Packed { handling, weight, items, .. } => (handling, weight, items, None),
                _ => return Err(WHAT),
            };
            w.number_if(3, handling_number(handling));
            w.number_if(4, u64::from(weight.grams));
            w.items(5, &items)?;
            match asked {
                Some(carrier) => w.bytes(6, carrier.as_bytes()),
                None => {
                    let Delta::DeadLettered { reason, .. } = all.next().ok_or(WHAT)??.1 else { return Err(WHAT) };
                    w.bytes(7, reason.as_bytes());
                }
            }
            w.number_if(8, u64::from(weight.estimated));
            w.close(at);
        }
        Ok(())
    })
}

/// Appends `order.replayed`: the deltas of the decision that followed from it.
///
/// # Errors
/// [`CodecError`] if the deltas can't be read, or are not those of a replay.
pub fn encode_replayed(
    out: &mut Vec<u8>,
    order_id: u128,
    merchant: &str,
    deltas: &[u8],
) -> Result<Encoded, CodecError> {
    const WHAT: CodecError = CodecError { what: "deltas of a replay" };
    let mut all = Deltas::new(order_id, deltas);
    let (at_ms, Delta::Commanded { .. }) = all.next().ok_or(WHAT)?? else { return Err(WHAT) };
    let event = Encoded { event_type: EventType::OrderReplayed, order_id, occurred_at_ms: at_ms };
    // What follows is as of a new order, but that each part says before it what it replays.
    let known = all.filter(|delta| !matches!(delta, Ok((_, Delta::Replayed { .. }))));
    whole_or_nothing(out, event, merchant, |w| {
        let seen = Accepted::of(known)?;
        decided(w, 1, &seen, all)?;
        if let Some(model) = seen.model() {
            w.number(5, u64::from(model));
        }
        Ok(())
    })
}

/// Appends `parcel.reviewed`: the deltas of the decision that followed from it.
///
/// # Errors
/// [`CodecError`] if the deltas can't be read, or are not those of a review.
pub fn encode_reviewed(
    out: &mut Vec<u8>,
    order_id: u128,
    merchant: &str,
    deltas: &[u8],
) -> Result<Encoded, CodecError> {
    const WHAT: CodecError = CodecError { what: "deltas of a review" };
    let mut all = Deltas::new(order_id, deltas);
    let (at_ms, Delta::Commanded { .. }) = all.next().ok_or(WHAT)?? else { return Err(WHAT) };
    let (_, Delta::Reviewed { parcel, handling: Some(handling), keep, .. }) = all.next().ok_or(WHAT)?? else {
        return Err(WHAT);
    };
    let event = Encoded { event_type: EventType::ParcelReviewed, order_id, occurred_at_ms: at_ms };
    whole_or_nothing(out, event, merchant, |w| {
        w.number_if(1, u64::from(parcel));
        w.number(2, handling_number(handling));
        parcels(w, 3, &Accepted::of(all)?, all)?;
        w.number_if(4, u64::from(keep == Keep::Rule));
        w.number_if(5, u64::from(keep == Keep::Row));
        Ok(())
    })
}
