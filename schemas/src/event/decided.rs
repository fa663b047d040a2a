//! From the deltas of a decision to the event that tells of it, and the number that the event has among those of its order.
//! Both engines come here, so that they tell the same of the same.
//!
//! A number isn't stored: it follows from the order's row, which an owner reads before it decides about a known order. What
//! a row holds twice, because a replay or a fold has put it there again, counts once; and a decision of which the row has
//! the first delta already adds nothing, and is not told again.

use std::ops::Range;

use super::{
    Encoded,
    encode::{
        encode_cancel, encode_conflict, encode_dead_lettered, encode_replayed, encode_return, encode_reviewed,
        encode_settled, encode_tracked,
    },
};
use crate::{
    CodecError,
    command::Verdict,
    delta::{Delta, row_deltas},
    order::placed_at_ms,
    outcome::OutcomeKind,
    wire::Reader,
    word::Progress,
};

/// Appends the event of a decision about an order that was accepted before; `None` if it is nobody's business: a command that
/// was refused. `carrier` is the one that the decision is about, if it is about one.
///
/// # Errors
/// [`CodecError`] if the deltas can't be read, or are those of no such decision.
pub fn encode_added(
    out: &mut Vec<u8>,
    order_id: u128,
    merchant: &str,
    carrier: &str,
    deltas: &[u8],
) -> Result<Option<Encoded>, CodecError> {
    const WHAT: CodecError = CodecError { what: "deltas of a decision" };
    let has = |what: fn(&Delta<'_>) -> bool| row_deltas(0, deltas).any(|d| d.is_ok_and(|(_, delta)| what(&delta)));
    let event = match row_deltas(placed_at_ms(order_id), deltas).next().ok_or(WHAT)?? {
        (_, Delta::Settled { .. }) => encode_settled(out, order_id, merchant, carrier, deltas),
        (_, Delta::Tracked { .. }) => encode_tracked(out, order_id, merchant, carrier, deltas),
        (at_ms, Delta::Conflicted { order }) => Ok(encode_conflict(out, order_id, merchant, order, at_ms)),
        (_, Delta::DeadLettered { .. }) => encode_dead_lettered(out, order_id, merchant, deltas),
        (_, Delta::Commanded { verdict, .. }) if verdict != Verdict::Done => return Ok(None),
        (_, Delta::Commanded { .. }) if has(|d| matches!(d, Delta::Return { .. })) => {
            encode_return(out, order_id, merchant, deltas)
        }
        (_, Delta::Commanded { .. }) if has(|d| matches!(d, Delta::Replayed { .. })) => {
            encode_replayed(out, order_id, merchant, deltas)
        }
        (_, Delta::Commanded { .. }) if has(|d| matches!(d, Delta::Reviewed { handling: Some(_), .. })) => {
            encode_reviewed(out, order_id, merchant, deltas)
        }
        (_, Delta::Commanded { .. }) => encode_cancel(out, order_id, merchant, deltas),
        _ => Err(WHAT),
    };
    event.map(Some)
}

/// The attempt of which a delta says something: parcel and attempt.
pub fn attempt_of(delta: &Delta<'_>) -> Option<(u8, u8)> {
    match *delta {
        Delta::Settled { parcel, attempt, .. } | Delta::Tracked { parcel, attempt, .. } => Some((parcel, attempt)),
        _ => None,
    }
}

/// True if `delta` is the first of a decision about an order of an earlier commit, given the delta before it among those
/// that one commit adds to that order. Two words about one shipment never share a commit.
pub fn begins(before: Option<&Delta<'_>>, delta: &Delta<'_>) -> bool {
    match delta {
        Delta::Accepted { .. } | Delta::Tracked { .. } | Delta::Conflicted { .. } => true,
        Delta::Settled { .. } => !before.is_some_and(|before| may_resolve(before, delta)),
        Delta::DeadLettered { parcel, .. } => parcel.is_none() && !matches!(before, Some(Delta::Replayed { .. })),
        Delta::Commanded { verdict, .. } => *verdict == Verdict::Done,
        Delta::Classified { .. }
        | Delta::Requested(_)
        | Delta::Packed { .. }
        | Delta::Merchant { .. }
        | Delta::Return { .. }
        | Delta::Replayed { .. }
        | Delta::Held { .. }
        | Delta::Reviewed { .. } => false,
    }
}

/// True if `delta` may be the acceptance that follows from the news `before`.
fn may_resolve(before: &Delta<'_>, delta: &Delta<'_>) -> bool {
    let reached = matches!(before, Delta::Tracked { progress: Progress::Reached(_), .. });
    let accepted = matches!(delta, Delta::Settled { outcome: OutcomeKind::Accepted, text: "", .. });
    reached && accepted && attempt_of(before) == attempt_of(delta)
}

/// Counts the events that a row tells of. Its buffer is reused.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Where the row has the first delta of each decision; ascending by its bytes, the first of equal ones.
    heads: Vec<Range<u32>>,
}

impl Numbers {
    /// Reads the decisions of `row`, in any order and with any repetition, as long as what was added as one stands
    /// together.
    ///
    /// # Errors
    /// [`CodecError`] if it can't be read; what comes before that is counted.
    pub fn read(&mut self, row: &[u8]) -> Result<(), CodecError> {
        let read = self.find(row);
        let bytes = |head: &Range<u32>| &row[head.start as usize..head.end as usize];
        self.heads.sort_unstable_by(|a, b| bytes(a).cmp(bytes(b)).then(a.start.cmp(&b.start)));
        self.heads.dedup_by(|later, first| bytes(later) == bytes(first));
        read
    }

    fn find(&mut self, row: &[u8]) -> Result<(), CodecError> {
        self.heads.clear();
        let (mut r, mut before) = (Reader::new(row), None);
        while !r.is_empty() {
            let start = row.len() - r.rest().len();
            let (_, delta) = Delta::read(&mut r)?;
            if heads_in_row(row, before.as_ref(), &delta) {
                self.heads.push(start as u32..(row.len() - r.rest().len()) as u32);
            }
            before = Some(delta);
        }
        Ok(())
    }

    /// How many events the row last read tells of: the number of the next.
    pub fn count(&self) -> u64 {
        self.heads.len() as u64
    }

    /// The number of the event that begins with `head`, an encoded delta, in `row`, the one last read: how many others come
    /// before it. `None` if the row has no such event.
    pub fn number(&self, row: &[u8], head: &[u8]) -> Option<u64> {
        let bytes = |head: &Range<u32>| &row[head.start as usize..head.end as usize];
        let at = self.heads.binary_search_by(|known| bytes(known).cmp(head)).ok()?;
        let start = self.heads[at].start;
        Some(self.heads.iter().filter(|known| known.start < start).count() as u64)
    }
}

/// As [`begins`], of a whole row, where what one commit added may stand behind what another did.
fn heads_in_row(row: &[u8], before: Option<&Delta<'_>>, delta: &Delta<'_>) -> bool {
    match delta {
        // Only what was parked is settled by news. Else it is an answer that came next, without a tracking number.
        Delta::Settled { .. } if before.is_some_and(|before| may_resolve(before, delta)) => {
            !row_deltas(0, row).any(|other| {
                matches!(other, Ok((_, Delta::Settled { outcome: OutcomeKind::Unknown, parcel, attempt, .. }))
                    if attempt_of(delta) == Some((parcel, attempt)))
            })
        }
        // No stage could decide a new order, or one anew: part of what is told of its acceptance, or of the replay.
        Delta::DeadLettered { parcel: None, .. } => {
            !matches!(before, Some(Delta::Accepted { .. } | Delta::Merchant { .. } | Delta::Replayed { .. }))
        }
        _ => begins(before, delta),
    }
}

/// The first delta of `deltas`, encoded.
pub fn head(deltas: &[u8]) -> &[u8] {
    let mut r = Reader::new(deltas);
    match Delta::read(&mut r) {
        Ok(_) => &deltas[..deltas.len() - r.rest().len()],
        Err(_) => deltas,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        command::Keep,
        delta::{FIRST_RETURN, Items, Requested, VOID, Weight},
        milestone::{Milestone, Remark},
    };

    const PICKED_UP: Progress = Progress::Reached(Milestone::PickedUp);

    fn settled(attempt: u8, outcome: OutcomeKind, text: &str) -> Delta<'_> {
        Delta::Settled { parcel: 0, attempt, outcome, text }
    }

    fn tracked(progress: Progress) -> Delta<'static> {
        Delta::Tracked { parcel: 0, attempt: 0, progress, text: "" }
    }

    fn encoded(deltas: &[Delta<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        deltas.iter().for_each(|delta| delta.encode(7, &mut out));
        out
    }

    /// An order's decisions in the order in which they were made.
    fn life() -> Vec<Vec<u8>> {
        let requested = |attempt| {
            Delta::Requested(Requested {
                parcel: 0,
                attempt,
                handling: 1,
                carrier: "swift",
                weight: Weight::known(5),
                items: Items::default(),
                order_position: None,
            })
        };
        let birth = [Delta::Accepted { position: 9 }, Delta::Merchant { id: "m" }];
        let birth = [&birth[..], &[Delta::Classified { parcels: 1, rules: 1, model: 0 }, requested(0)]].concat();
        [
            &birth[..],
            &[Delta::Conflicted { order: 5 }],
            &[tracked(Progress::Remarked(Remark::OnHold))],
            &[settled(0, OutcomeKind::Unknown, "")],
            &[tracked(PICKED_UP), settled(0, OutcomeKind::Accepted, "")],
            &[tracked(Progress::Reached(Milestone::Delivered))],
            &[settled(1, OutcomeKind::Rejected, "no"), requested(2)],
            &[
                settled(2, OutcomeKind::GivenUp, ""),
                Delta::DeadLettered { parcel: Some(0), rules: 1, reason: "r", replay: 0 },
            ],
            &[Delta::Commanded { id: 1, verdict: Verdict::Done }, requested(VOID)],
            &[
                Delta::Commanded { id: 2, verdict: Verdict::Done },
                Delta::Return { parcel: FIRST_RETURN, source: 0, units: 1, command: 2, reason: "r" },
                Delta::Packed { parcel: FIRST_RETURN, handling: 1, weight: Weight::known(5), items: Items::default() },
                Delta::DeadLettered { parcel: Some(FIRST_RETURN), rules: 1, reason: "nobody", replay: 0 },
            ],
            &[
                Delta::Commanded { id: 4, verdict: Verdict::Done },
                Delta::Replayed { parcel: Some(0), replay: 1, attempt: 3, command: 4, by: "o" },
                requested(3),
            ],
            &[
                Delta::Commanded { id: 5, verdict: Verdict::Done },
                Delta::Replayed { parcel: None, replay: 2, attempt: 0, command: 5, by: "o" },
                Delta::DeadLettered { parcel: None, rules: 1, reason: "still", replay: 2 },
            ],
            &[
                Delta::Commanded { id: 6, verdict: Verdict::Done },
                Delta::Reviewed { parcel: 1, handling: Some(5), keep: Keep::Rule, command: 6, by: "o" },
                requested(4),
            ],
            &[
                Delta::Commanded { id: 7, verdict: Verdict::Done },
                Delta::Reviewed { parcel: 2, handling: None, keep: Keep::No, command: 7, by: "" },
            ],
            &[Delta::DeadLettered { parcel: None, rules: 1, reason: "unreadable", replay: 0 }],
        ]
        .map(encoded)
        .to_vec()
    }

    proptest! {
        #[test]
        fn a_number_is_how_many_decisions_came_before(
            cut in 0..15_usize,
            again in proptest::collection::vec(0..15_usize, 0..6),
        ) {
            let life = life();
            let mut row = life[..cut].concat();
            // What was refused is told nobody.
            row.extend_from_slice(&encoded(&[Delta::Commanded { id: 3, verdict: Verdict::NothingToCancel }]));
            let repeated: Vec<u8> = again.iter().filter(|&&at| at < cut).flat_map(|&at| life[at].clone()).collect();
            row.extend_from_slice(&repeated);
            let mut numbers = Numbers::default();
            numbers.read(&row).unwrap();
            prop_assert_eq!(numbers.count(), cut as u64);
            for (at, decision) in life.iter().enumerate() {
                let expected = (at < cut).then_some(at as u64);
                prop_assert_eq!(numbers.number(&row, head(decision)), expected);
            }
        }
    }

    #[test]
    fn news_before_an_answer_without_a_tracking_number_are_two_decisions() {
        let row =
            encoded(&[Delta::Accepted { position: 9 }, tracked(PICKED_UP), settled(0, OutcomeKind::Accepted, "")]);
        let mut numbers = Numbers::default();
        numbers.read(&row).unwrap();
        assert_eq!(numbers.count(), 3);
    }

    #[test]
    fn a_new_order_that_nothing_could_decide_is_one_event() {
        let dead = Delta::DeadLettered { parcel: None, rules: 1, reason: "r", replay: 0 };
        for before in [&[][..], &[Delta::Merchant { id: "m" }]] {
            let row = encoded(&[&[Delta::Accepted { position: 9 }], before, &[dead]].concat());
            let mut numbers = Numbers::default();
            numbers.read(&row).unwrap();
            assert_eq!(numbers.count(), 1);
        }
        assert!(Numbers::default().read(&[99]).is_err());
    }

    #[test]
    fn the_deltas_of_a_commit_fall_into_decisions() {
        let resolves = [tracked(PICKED_UP), settled(0, OutcomeKind::Accepted, "")];
        assert!(begins(None, &resolves[0]) && !begins(Some(&resolves[0]), &resolves[1]));
        let other = settled(1, OutcomeKind::Accepted, "");
        assert!(begins(Some(&resolves[0]), &other), "of another attempt");
        assert!(begins(Some(&resolves[0]), &settled(0, OutcomeKind::Accepted, "T-1")), "of an answer");
        let mut out = Vec::new();
        for decision in &life()[1..] {
            encode_added(&mut out, 77, "m", "swift", decision).unwrap();
        }
        let refused = encoded(&[Delta::Commanded { id: 3, verdict: Verdict::NotReturnable }]);
        assert_eq!(encode_added(&mut out, 77, "m", "swift", &refused), Ok(None));
        assert!(encode_added(&mut out, 77, "m", "swift", &life()[0]).is_err());
        assert!(encode_added(&mut out, 77, "m", "swift", &[]).is_err());
    }
}
