//! The outbox's bookkeeping without any broker: against a plain model, and what piles up behind an entry that stays open.

use proptest::prelude::*;
use sluice_schemas::{
    delta::{Items, Weight},
    frame::{self, Shipment},
};

use super::*;

fn frame_of(partition: i32, offset: i64, entries: u32) -> Frame {
    let mut payload = Vec::new();
    frame::start(&mut payload, 1);
    for n in 0..entries {
        let mut record = vec![0; 40];
        record[0] = sluice_schemas::order::VERSION;
        record[1..17].copy_from_slice(&u128::from(n).to_be_bytes());
        let items = Items::default();
        Shipment { parcel: 0, attempt: 0, handling: 0, weight: Weight::known(1), items, record: &record }
            .put(&mut payload);
    }
    let (frame, damage) = Frame::read(partition, offset, &payload);
    assert!(damage.is_empty());
    frame
}

fn open(parts: i32) -> State {
    let mut state = State::new();
    (0..parts).for_each(|p| state.assigned(p, None, Mark::default()));
    state.begin();
    state
}

fn take(state: &mut State, max: usize) -> Vec<OutboxEntry> {
    let mut out = OutboxBatch::default();
    assert_eq!(state.take(max, &mut out), out.entries.len());
    out.entries
}

/// Confirms what is planned, and says what that was.
fn commit(state: &mut State) -> Vec<(i32, i64, String)> {
    let planned = state.plan().unwrap_or_default();
    state.committed(true);
    planned.iter().map(|p| (p.partition, p.done.0, p.text())).collect()
}

#[test]
fn what_is_settled_counts_once_its_outcomes_are_durable() {
    let mut state = open(1);
    assert!(state.push(frame_of(0, 5, 4)));
    assert_eq!(take(&mut state, 3).len(), 3);
    assert_eq!(commit(&mut state), []);
    state.settled(2, 20);
    state.advance(19);
    assert_eq!(commit(&mut state), []);
    state.advance(20);
    assert_eq!(commit(&mut state), [(0, 5, "v1;settled=2".to_owned())]);
    assert_eq!(commit(&mut state), []);
    assert_eq!(take(&mut state, 3).len(), 1);
    // More than was handed out can't be settled.
    state.settled(99, 20);
    state.advance(20);
    assert_eq!(commit(&mut state), [(0, 6, "v1;settled=0".to_owned())]);
}

#[test]
fn a_commit_that_fails_raises_no_mark() {
    let mut state = open(2);
    state.push(frame_of(0, 0, 2));
    state.push(frame_of(1, 7, 2));
    take(&mut state, 3);
    state.mark_sending(3);
    let planned = state.plan().unwrap();
    assert!(state.plan().is_none(), "one at a time");
    let offsets: Vec<_> = planned.iter().map(|p| (p.partition, p.done.0, p.text())).collect();
    assert_eq!(offsets, [(0, 0, "v1;settled=0;sending=0:1".into()), (1, 7, "v1;settled=0;sending=7:0".into())]);
    state.committed(false);
    assert!(state.mark == 0 && state.mark_waits() && state.plan().is_none(), "a pause first");
    state.again = None;
    assert_eq!(state.plan(), Some(planned));
    state.committed(true);
    assert_eq!((state.mark, state.mark_waits()), (3, false));
    // The next reader gets them as such, and no others.
    state.begin();
    assert_eq!(state.to_seek(), [(0, 0), (1, 7)]);
    assert!(!state.push(frame_of(0, 0, 2)), "not yet back");
    (0..2).for_each(|p| state.sought(p));
    state.push(frame_of(1, 7, 2));
    let maybe: Vec<_> = take(&mut state, 9).iter().map(|e| e.maybe_sent).collect();
    assert_eq!(maybe, [true, false]);
}

#[test]
fn a_mark_of_an_outbox_that_closed_does_not_rise() {
    let mut state = open(1);
    state.push(frame_of(0, 0, 2));
    take(&mut state, 2);
    state.mark_sending(2);
    state.plan().unwrap();
    state.close();
    state.committed(true);
    assert_eq!(state.mark, 0);
    state.revoked(0);
    state.settled(2, 0);
    state.advance(0);
    assert!(state.quiet() && commit(&mut state).is_empty(), "what isn't ours isn't committed");
}

#[test]
fn little_is_remembered_behind_an_entry_that_stays_open() {
    let mut state = open(8);
    let frames = 4 * SLICES as u64;
    for n in 0..frames {
        state.push(frame_of((n % 8) as i32, (n / 8) as i64, 1));
        take(&mut state, 1);
        assert!(state.slices.len() <= SLICES + 1);
    }
    state.mark_sending(frames);
    assert_eq!(commit(&mut state).len(), 8);
    assert_eq!(state.mark, frames);
    assert_eq!(state.parts[&3].sending, Some((frames as i64 / 8 - 1, 0)));
    state.settled(frames, 0);
    state.advance(0);
    assert!(state.slices.is_empty());
    assert!(commit(&mut state).iter().all(|c| c.1 == frames as i64 / 8));
}

#[test]
fn what_was_settled_is_known_after_a_session_was_lost() {
    let mut state = open(1);
    state.push(frame_of(0, 0, 4));
    take(&mut state, 4);
    state.settled(1, 0);
    state.advance(0);
    state.settled(2, 7);
    state.lost();
    state.advance(7);
    assert_eq!(commit(&mut state), []);
    state.assigned(0, None, Mark::default());
    state.begin();
    assert_eq!(state.start_of(0), Some(0));
    state.push(frame_of(0, 0, 4));
    assert_eq!(take(&mut state, 9).len(), 2);
    assert_eq!(commit(&mut state), [(0, 0, "v1;settled=2".to_owned())]);
    // Another has got further meanwhile.
    state.lost();
    state.assigned(0, Some(3), Mark { settled: 1, sending: None });
    assert_eq!((state.start_of(0), commit(&mut state)), (Some(3), Vec::new()));
}

proptest! {
    /// What is committed never passes an entry that isn't settled, and reaches those that are.
    #[test]
    fn it_agrees_with_a_plain_list(
        frames in proptest::collection::vec((0..3_i32, 0..6_u32), 1..40),
        takes in proptest::collection::vec((1..9_usize, 0..12_u64, any::<bool>()), 1..60),
        merge in any::<bool>(),
    ) {
        let mut state = open(3);
        let mut offsets = [0_i64; 3];
        let mut plain = Vec::new();
        for &(partition, entries) in &frames {
            let offset = &mut offsets[partition as usize];
            prop_assert!(state.push(frame_of(partition, *offset, entries)));
            plain.extend((0..entries).map(|n| (partition, *offset, n)));
            *offset += 1;
        }
        let (mut handed, mut settled, mut marked) = (0, 0_usize, 0_usize);
        for &(max, settle, mark) in &takes {
            let got = take(&mut state, max);
            prop_assert!(got.iter().zip(handed + 1..).all(|(e, position)| e.position == position as u64));
            handed += got.len();
            if merge && state.slices.len() > 3 {
                state.merge(2);
            }
            settled = (settled + settle as usize).min(handed);
            state.settled(settled as u64, 0);
            state.advance(0);
            if mark {
                marked = handed;
                state.mark_sending(handed as u64);
            }
            commit(&mut state);
            prop_assert_eq!(state.mark, marked as u64);
            for partition in 0..3 {
                let of = |all: &[(i32, i64, u32)]| -> Vec<At> {
                    all.iter().filter(|e| e.0 == partition).map(|e| (e.1, e.2)).collect()
                };
                let part = &state.parts[&partition];
                let (done, open) = (part.done.unwrap_or((0, 0)), of(&plain[settled..]));
                prop_assert!(open.iter().all(|&at| at >= done), "{:?} is passed by {:?}", open.first(), done);
                if !merge {
                    prop_assert!(of(&plain[..settled]).iter().all(|&at| at < done));
                }
                let may = part.sending;
                prop_assert!(of(&plain[..marked]).iter().all(|&at| at < done || Some(at) <= may));
                prop_assert!(of(&plain[marked..]).iter().all(|&at| Some(at) > may));
            }
        }
        take(&mut state, plain.len() + 1);
        state.settled(plain.len() as u64, 0);
        state.advance(0);
        prop_assert!(state.slices.is_empty());
        let end = (0..3).all(|p| state.parts[&p].done.is_none_or(|at| at == (offsets[p as usize], 0)));
        prop_assert!(end);
    }
}
