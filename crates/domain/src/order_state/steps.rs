//! What an owner decides from an order's row alone: its class, and what an answer or news changes. In one pass each, and
//! without allocating, since every outcome pays for it.

use sluice_schemas::{
    CodecError,
    delta::{Delta, FIRST_RETURN, Requested, VOID, row_deltas, row_late_deltas},
    outcome::{Outcome, OutcomeKind},
    word::{Progress, Tracked},
};

use super::{Class, OrderState};
use crate::{
    identity::OrderId,
    limits::{MAX_ATTEMPTS, MAX_REMARKS},
};

/// The class of a row, as [`OrderState::class`] has it, in one pass and without allocating.
///
/// # Errors
/// [`CodecError`] if the row can't be read.
pub fn class_of_row(row: &[u8]) -> Result<Class, CodecError> {
    let (mut expected, mut requested, mut accepted, mut dead) = (None, [0u64; 4], [0u64; 4], [0u64; 4]);
    let (mut void, mut whole) = ([0u64; 4], false);
    let mark = |set: &mut [u64; 4], n: u8| set[usize::from(n / 64)] |= 1 << (n % 64);
    for delta in row_deltas(0, row) {
        match delta?.1 {
            Delta::Classified { parcels, .. } => expected = Some(parcels),
            // What becomes of an order doesn't hang on what comes back of it.
            Delta::Requested(Requested { parcel: FIRST_RETURN.., .. })
            | Delta::Settled { parcel: FIRST_RETURN.., .. }
            | Delta::DeadLettered { parcel: Some(FIRST_RETURN..), .. } => {}
            Delta::Requested(r) => mark(&mut requested, r.parcel),
            Delta::Settled { parcel, attempt, outcome, .. } if attempt & VOID != 0 => {
                if outcome == OutcomeKind::Accepted {
                    mark(&mut void, parcel);
                }
            }
            Delta::Settled { parcel, outcome, .. } => {
                mark(&mut requested, parcel);
                if outcome == OutcomeKind::Accepted {
                    mark(&mut accepted, parcel);
                }
            }
            // Few orders are replayed or held, and what that means hangs on more than bits.
            Delta::Held { .. }
            | Delta::Reviewed { .. }
            | Delta::Replayed { .. }
            | Delta::DeadLettered { replay: 1.., .. } => {
                return Ok(OrderState::fold(OrderId(0), row)?.class());
            }
            Delta::DeadLettered { parcel: None, .. } => whole = true,
            Delta::DeadLettered { parcel: Some(n), .. } => mark(&mut dead, n),
            Delta::Accepted { .. }
            | Delta::Packed { .. }
            | Delta::Conflicted { .. }
            | Delta::Merchant { .. }
            | Delta::Commanded { .. }
            | Delta::Return { .. }
            | Delta::Tracked { .. } => {}
        }
    }
    if whole {
        return Ok(Class::DeadLettered);
    }
    let Some(expected) = expected else { return Ok(Class::InFlight) };
    let sum = |bits: &dyn Fn(usize) -> u64| (0..4).map(|w| bits(w).count_ones()).sum::<u32>();
    let known = sum(&|w| requested[w] | dead[w]);
    let undecided = sum(&|w| requested[w] & !accepted[w] & !dead[w]);
    Ok(if known < u32::from(expected) || undecided > 0 {
        Class::InFlight
    } else if sum(&|w| dead[w] & !accepted[w]) > 0 {
        Class::DeadLettered
    } else if expected > 0 && sum(&|w| accepted[w] & !void[w]) == 0 {
        Class::Cancelled
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
        /// The lowest attempt that counts: those before it came before the parcel's last replay.
        since: u8,
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
    if outcome.attempt & VOID != 0 {
        return on_void_outcome(row, outcome);
    }
    let (mut requested, mut known, mut position) = (None, None, None);
    let (mut latest, mut moved, mut closing) = (0, false, Closing::default());
    for delta in row_deltas(0, row) {
        match delta?.1 {
            Delta::Accepted { position: p } => position = Some(p),
            Delta::Requested(r) if r.parcel == outcome.parcel && r.attempt & VOID == 0 => {
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
            delta => closing.see(&delta, outcome.parcel),
        }
    }
    let Some(turned_down) = requested else { return Ok(OutcomeStep::Ignore) };
    let (closed, since) = (closing.is_closed(), closing.since());
    // A carrier that was given up is asked again under the same number: only what it answers now counts.
    let again = known == Some(OutcomeKind::GivenUp) && closing.is_replayed() && outcome.attempt == since;
    if again {
        known = None;
    }
    if closed || latest != outcome.attempt || known.is_some_and(|k| k >= outcome.kind || k > OutcomeKind::Unknown) {
        return Ok(OutcomeStep::Ignore);
    }
    Ok(match (outcome.kind, position) {
        (OutcomeKind::Accepted, _) => OutcomeStep::Settle,
        _ if moved => OutcomeStep::Resolve,
        // It can't be parked, for having been given up once says more.
        (OutcomeKind::Unknown, _) if again => OutcomeStep::DeadLetter,
        (OutcomeKind::Unknown, _) => OutcomeStep::Settle,
        (OutcomeKind::Rejected, Some(order_position)) if outcome.attempt < since.saturating_add(MAX_ATTEMPTS - 1) => {
            OutcomeStep::Reroute { turned_down, next: outcome.attempt + 1, order_position, since }
        }
        (OutcomeKind::Rejected | OutcomeKind::GivenUp, _) => OutcomeStep::DeadLetter,
    })
}

/// Whether a parcel is closed: it, or its whole order, is dead-lettered and was not replayed since.
#[derive(Default)]
struct Closing {
    /// Of the parcel and of the whole order: the highest replay before a dead letter, and the last replay of it.
    dead: [Option<u8>; 2],
    replayed: [(u8, u8); 2],
}

impl Closing {
    fn see(&mut self, delta: &Delta<'_>, about: u8) {
        let place = |parcel: Option<u8>| match parcel {
            Some(parcel) => (parcel == about).then_some(0),
            None => Some(1),
        };
        match *delta {
            Delta::DeadLettered { parcel, replay, .. } => {
                if let Some(place) = place(parcel) {
                    self.dead[place] = self.dead[place].max(Some(replay));
                }
            }
            Delta::Replayed { parcel, replay, attempt, .. } => {
                if let Some(place) = place(parcel) {
                    self.replayed[place] = self.replayed[place].max((replay, attempt));
                }
            }
            _ => {}
        }
    }

    fn is_closed(&self) -> bool {
        self.dead.iter().zip(&self.replayed).any(|(dead, replayed)| dead.is_some_and(|replay| replay >= replayed.0))
    }

    /// True if the parcel was replayed.
    fn is_replayed(&self) -> bool {
        self.replayed[0].0 > 0
    }

    /// The lowest attempt since the parcel was last replayed.
    fn since(&self) -> u8 {
        self.replayed[0].1
    }
}

/// Whether a request to a carrier, decided `late_ms` after the order was placed, still waits for its outcome. One that was given
/// up waits again once a replay has repeated it, and then the repetition alone does. What can't be read of the row says nothing.
#[must_use]
pub fn awaits_outcome(row: &[u8], (parcel, attempt): (u8, u8), late_ms: i64) -> bool {
    let (mut known, mut last, mut closing) = (None, i64::MIN, Closing::default());
    for delta in row_late_deltas(row).map_while(Result::ok) {
        match delta {
            (late, Delta::Requested(r)) if (r.parcel, r.attempt) == (parcel, attempt) => last = last.max(late),
            (_, Delta::Settled { parcel: p, attempt: a, outcome, .. }) if (p, a) == (parcel, attempt) => {
                known = known.max(Some(outcome));
            }
            (_, delta) => closing.see(&delta, parcel),
        }
    }
    let again = closing.is_replayed() && closing.since() == attempt && !closing.is_closed();
    match known {
        None => true,
        Some(OutcomeKind::Unknown | OutcomeKind::GivenUp) => again && late_ms == last,
        Some(OutcomeKind::Rejected | OutcomeKind::Accepted) => false,
    }
}

/// Number of the order's last replay, by its row; 0 for none. What can't be read ends the search.
#[must_use]
pub fn last_replay(row: &[u8]) -> u8 {
    let replays = row_deltas(0, row).map_while(Result::ok).filter_map(|(_, delta)| match delta {
        Delta::Replayed { replay, .. } => Some(replay),
        _ => None,
    });
    replays.max().unwrap_or(0)
}

/// A carrier's answer to a request to forget a shipment: recorded, and nothing follows from it but what it says.
fn on_void_outcome<'a>(row: &[u8], outcome: &Outcome<'_>) -> Result<OutcomeStep<'a>, CodecError> {
    let about = (outcome.parcel, outcome.attempt);
    let (mut asked, mut known) = (false, None);
    for delta in row_deltas(0, row) {
        match delta?.1 {
            Delta::Requested(r) => asked |= (r.parcel, r.attempt) == about,
            Delta::Settled { parcel, attempt, outcome, .. } if (parcel, attempt) == about => {
                known = known.max(Some(outcome));
            }
            _ => {}
        }
    }
    let decided = known.is_some_and(|k| k >= outcome.kind || k > OutcomeKind::Unknown);
    Ok(if asked && !decided { OutcomeStep::Settle } else { OutcomeStep::Ignore })
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
    let (mut asked, mut told, mut known, mut remarks) = (false, false, None, 0);
    let mut closing = Closing::default();
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
            (_, delta) => closing.see(&delta, tracked.parcel),
        }
    }
    Ok(match (known, tracked.progress) {
        // A request to forget a shipment is none that moves.
        _ if !asked || told || tracked.attempt & VOID != 0 => NewsStep::Ignore,
        (Some(OutcomeKind::Rejected), _) => NewsStep::Ignore,
        (_, Progress::Remarked(_)) if remarks >= MAX_REMARKS => NewsStep::Ignore,
        (Some(OutcomeKind::Unknown), Progress::Reached(_)) if !closing.is_closed() => NewsStep::Resolve,
        _ => NewsStep::Note,
    })
}
