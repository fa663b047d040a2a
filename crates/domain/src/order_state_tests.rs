//! Laws of the fold: it doesn't care in which order or how often it sees a delta, and the owner's decisions keep to it.

use proptest::prelude::*;
use sluice_schemas::{
    command::{Keep, Verdict},
    delta::{Delta, FIRST_RETURN, Item, Items, Requested, VOID, Weight, row_deltas},
    milestone::Milestone,
    outcome::{Outcome, OutcomeKind},
    wire::Reader,
    word::{Progress, Tracked},
};

use crate::{
    Class, Handling, OrderId, OrderState,
    commands::{Again, Anew, plan_replay, plan_review},
    limits::{MAX_ATTEMPTS, MAX_REPLAYS},
    order_state::{Attempt, NewsStep, OutcomeStep, Standing, class_of_row, last_replay, on_news, on_outcome},
};

const ID: OrderId = OrderId(1_794_268_800_123 << 80 | 5);

/// A delta by what it is about; all else follows from that, as it does for deltas that an owner made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Accepted,
    Classified(u8),
    Requested { parcel: u8, attempt: u8 },
    Settled { parcel: u8, attempt: u8, kind: OutcomeKind, at: i64 },
    Dead { parcel: Option<u8>, at: i64, replay: u8 },
    Replayed { parcel: Option<u8>, replay: u8, attempt: u8 },
    Packed(u8),
    Held(u8),
    Reviewed(u8, Option<Handling>),
    Told { parcel: u8, attempt: u8, progress: Progress, at: i64 },
    Commanded { id: u64, at: i64 },
    Return { parcel: u8, at: i64 },
}

impl Step {
    fn encode(&self, row: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        let line = |parcel: u8| Item { line: u16::from(parcel), quantity: (parcel >= FIRST_RETURN).then_some(1) };
        let items = |bytes: &'static [u8]| Items::read(&mut Reader::new(bytes)).unwrap();
        match *self {
            Step::Accepted => Delta::Accepted { position: 99 }.encode(3, row),
            Step::Classified(parcels) => Delta::Classified { parcels, rules: 7, model: 8 }.encode(4, row),
            Step::Requested { parcel, attempt } => {
                Items::encode(&[line(parcel)], &mut bytes);
                let carrier = ["swift", "tortoise"][usize::from(attempt % 2)];
                let items = items(bytes.leak());
                let order_position = (attempt > 0).then_some(99);
                let weight = Weight { grams: u32::from(parcel) + 1, estimated: parcel % 2 == 1 };
                let delta = Requested { parcel, attempt, handling: 1, carrier, weight, items, order_position };
                Delta::Requested(delta).encode(4 + i64::from(attempt), row);
            }
            Step::Settled { parcel, attempt, kind, at } => {
                Delta::Settled { parcel, attempt, outcome: kind, text: "text" }.encode(at, row);
            }
            Step::Dead { parcel, at, replay } => {
                Delta::DeadLettered { parcel, rules: 7, reason: "nobody", replay }.encode(at, row);
            }
            Step::Replayed { parcel, replay, attempt } => {
                Delta::Replayed { parcel, replay, attempt, command: u64::from(replay), by: "o" }.encode(8, row);
            }
            Step::Told { parcel, attempt, progress, at } => {
                Delta::Tracked { parcel, attempt, progress, text: ["van", ""][(at % 2) as usize] }.encode(at, row);
            }
            Step::Commanded { id, at } => Delta::Commanded { id, verdict: Verdict::Done }.encode(at, row),
            // Every return brings the one unit of its source back.
            Step::Return { parcel, at } => {
                Delta::Return { parcel, source: parcel - FIRST_RETURN, units: 1, command: 1, reason: "why" }
                    .encode(at, row);
            }
            Step::Held(parcel) => {
                Items::encode(&[line(parcel)], &mut bytes);
                let items = items(bytes.leak());
                Delta::Held { parcel, handling: 3, confidence: 40, weight: Weight::known(9), items }.encode(4, row);
            }
            Step::Reviewed(parcel, handling) => {
                let handling = handling.map(|class| class as u8);
                Delta::Reviewed { parcel, handling, keep: Keep::No, command: 1, by: "o" }.encode(6, row);
            }
            Step::Packed(parcel) => {
                Items::encode(&[line(parcel)], &mut bytes);
                Delta::Packed { parcel, handling: 1, weight: Weight::known(9), items: items(bytes.leak()) }
                    .encode(4, row);
            }
        }
    }
}

fn row(steps: &[Step]) -> Vec<u8> {
    let mut row = Vec::new();
    steps.iter().for_each(|s| s.encode(&mut row));
    row
}

fn kind() -> impl Strategy<Value = OutcomeKind> {
    (0u8..4).prop_map(|code| OutcomeKind::from_code(code).unwrap())
}

fn progress() -> impl Strategy<Value = Progress> {
    (0..Progress::ALL.len()).prop_map(|pick| Progress::ALL[pick])
}

/// Parcels of an order that are held: what the first turns out to be is sent, the second is cancelled first, the third is no
/// goods. They follow its `parcels` others.
fn held(parcels: u8) -> [(u8, Option<Handling>); 3] {
    [(parcels, Some(Handling::Frozen)), (parcels + 1, None), (parcels + 2, Some(Handling::NonGoods))]
}

/// Any deltas of one order with `parcels` parcels, and those that are [`held`].
fn steps(parcels: u8) -> impl Strategy<Value = Vec<Step>> {
    let parcel = prop_oneof![4 => 0..=parcels, 1 => FIRST_RETURN..FIRST_RETURN + 2];
    let attempt = || prop_oneof![3 => 0u8..3, 1 => VOID..VOID + 2];
    let step = prop_oneof![
        Just(Step::Accepted),
        Just(Step::Classified(parcels + 3)),
        (0..3usize).prop_map(move |which| Step::Held(held(parcels)[which].0)),
        (0..3usize).prop_map(move |which| Step::Reviewed(held(parcels)[which].0, held(parcels)[which].1)),
        (0u64..3, 5i64..9).prop_map(|(id, at)| Step::Commanded { id, at }),
        (FIRST_RETURN..FIRST_RETURN + 2, 5i64..9).prop_map(|(parcel, at)| Step::Return { parcel, at }),
        (parcel.clone(), attempt()).prop_map(|(parcel, attempt)| Step::Requested { parcel, attempt }),
        (parcel.clone(), attempt(), kind(), 5i64..9).prop_map(|(parcel, attempt, kind, at)| Step::Settled {
            parcel,
            attempt,
            kind,
            at
        }),
        (parcel.clone(), 5i64..9, 0u8..3).prop_map(|(parcel, at, replay)| Step::Dead {
            parcel: Some(parcel),
            at,
            replay
        }),
        (5i64..9, 0u8..3).prop_map(|(at, replay)| Step::Dead { parcel: None, at, replay }),
        (prop::option::of(parcel.clone()), 1u8..4, 0u8..3).prop_map(|(parcel, replay, attempt)| Step::Replayed {
            parcel,
            replay,
            attempt
        }),
        parcel.clone().prop_map(Step::Packed),
        (parcel, 0u8..3, progress(), 5i64..9).prop_map(|(parcel, attempt, progress, at)| Step::Told {
            parcel,
            attempt,
            progress,
            at
        }),
    ];
    proptest::collection::vec(step, 0..25)
}

fn any_steps() -> impl Strategy<Value = (u8, Vec<Step>)> {
    (1u8..5).prop_flat_map(|parcels| (Just(parcels), steps(parcels)))
}

/// The class in plain words.
fn expected_class(parcels: u8, steps: &[Step]) -> Class {
    let is_dead = |about: Option<u8>| {
        let dead = steps.iter().filter_map(|s| match s {
            Step::Dead { parcel, replay, .. } if *parcel == about => Some(*replay),
            _ => None,
        });
        let replayed = steps.iter().filter_map(|s| match s {
            Step::Replayed { parcel, replay, .. } if *parcel == about => Some(*replay),
            _ => None,
        });
        dead.max().is_some_and(|dead| dead >= replayed.max().unwrap_or(0))
    };
    if is_dead(None) {
        return Class::DeadLettered;
    }
    if !steps.contains(&Step::Classified(parcels + 3)) {
        return Class::InFlight;
    }
    let yes = |n, void| {
        steps.iter().any(|s| {
            matches!(s, Step::Settled { parcel, attempt, kind: OutcomeKind::Accepted, .. }
                if *parcel == n && (attempt & VOID != 0) == void)
        })
    };
    let accepted = |n| yes(n, false);
    let dead = |n| is_dead(Some(n));
    let [_, withdrawn, no_goods] = held(parcels).map(|(n, class)| steps.contains(&Step::Reviewed(n, class)));
    if (0..=parcels).any(|n| !accepted(n) && !dead(n)) || !withdrawn || !no_goods {
        Class::InFlight
    } else if (0..=parcels).any(|n| !accepted(n)) {
        Class::DeadLettered
    } else if (0..=parcels).all(|n| yes(n, true)) {
        Class::Cancelled
    } else {
        Class::Finished
    }
}

proptest! {
    #[test]
    fn any_order_and_any_repetition_ends_in_the_same_state(
        ((parcels, steps), again, shuffled) in any_steps().prop_flat_map(|(parcels, steps)| {
            let all: Vec<Step> = steps.iter().chain(&steps).cloned().collect();
            let len = steps.len();
            (Just((parcels, steps)), 0..=len, Just(all).prop_shuffle())
        }),
    ) {
        let once = row(&steps);
        let state = OrderState::fold(ID, &once).unwrap();
        let shuffled = row(&shuffled);
        prop_assert_eq!(&OrderState::fold(ID, &shuffled).unwrap(), &state);
        let repeated = row(&[&steps[..], &steps[again..]].concat());
        prop_assert_eq!(&OrderState::fold(ID, &repeated).unwrap(), &state);
        for row in [&once, &shuffled, &repeated] {
            prop_assert_eq!(class_of_row(row).unwrap(), state.class());
        }
        prop_assert_eq!(state.class(), expected_class(parcels, &steps));
    }

    /// Deltas arrive in the groups they were committed in: the first of them has all of an order's parcels.
    #[test]
    fn a_status_never_goes_back_as_commits_arrive((parcels, steps) in any_steps()) {
        let first = (0..parcels).map(|parcel| Step::Requested { parcel, attempt: 0 });
        let first = first.chain(held(parcels).map(|(parcel, _)| Step::Held(parcel)));
        let mut known: Vec<Step> = [Step::Accepted, Step::Classified(parcels + 3)].into_iter().chain(first).collect();
        let mut least = None;
        for step in steps {
            let row = row(&known);
            let status = Some(OrderState::fold(ID, &row).unwrap().status());
            prop_assert!(least <= status, "{:?} after {:?} with {:?}", status, least, known);
            least = status;
            known.push(step);
        }
    }

    #[test]
    fn a_status_never_goes_back_as_single_deltas_arrive((_, steps) in any_steps()) {
        let mut least = None;
        for len in 0..=steps.len() {
            let row = row(&steps[..len]);
            let status = Some(OrderState::fold(ID, &row).unwrap().status());
            prop_assert!(least <= status, "{:?} after {:?} with {:?}", status, least, &steps[..len]);
            least = status;
        }
    }

    /// Whatever carriers answer and tell, in whatever order and however often: at most one attempt per parcel is open,
    /// parked or accepted, and everything decided is decided once.
    #[test]
    fn one_effect_whatever_is_said(
        parcels in 1u8..4,
        words in proptest::collection::vec(
            (0u8..4, 0u8..12, kind(), 5i64..99, prop::option::of(progress()), prop::bool::weighted(0.2)), 0..90,
        ),
    ) {
        let mut known = vec![Step::Accepted, Step::Classified(parcels)];
        known.extend((0..parcels).map(|parcel| Step::Requested { parcel, attempt: 0 }));
        for (parcel, attempt, kind, at, told, replays) in words {
            let before = row(&known);
            if replays {
                replay(&mut known);
                let after = row(&known);
                assert_one_effect(&after);
                // What is in flight again isn't replayed.
                let dead = OrderState::fold(ID, &after).unwrap().parcels.iter().any(|p| p.standing() == Standing::DeadLettered);
                let again = plan_replay(&OrderState::fold(ID, &after).unwrap());
                prop_assert_eq!(again == Err(Verdict::NothingToReplay), !dead);
                continue;
            }
            let carrier = ["swift", "tortoise"][usize::from(attempt % 2)];
            let at_ms = ID.placed_at_ms() + at as u64;
            if let Some(progress) = told {
                let tracked = Tracked { order: ID.0, parcel, attempt, progress, at_ms, carrier, text: "" };
                let (step, note) = (on_news(&before, &tracked).unwrap(), Step::Told { parcel, attempt, progress, at });
                let parked = Step::Settled { parcel, attempt, kind: OutcomeKind::Accepted, at };
                match step {
                    NewsStep::Ignore => {}
                    NewsStep::Note => known.push(note),
                    NewsStep::Resolve => {
                        prop_assert!(is_parked(&before, parcel, OutcomeKind::Unknown));
                        known.extend([note, parked]);
                    }
                }
                let after = row(&known);
                assert_one_effect(&after);
                prop_assert_eq!(on_news(&after, &tracked).unwrap(), NewsStep::Ignore, "told twice");
                continue;
            }
            let outcome = Outcome { order: ID.0, parcel, attempt, kind, at_ms, carrier, text: "text" };
            let settled = Step::Settled { parcel, attempt, kind, at };
            let open = open_attempts(&before, parcel);
            match on_outcome(&before, &outcome).unwrap() {
                OutcomeStep::Ignore => prop_assert!(open != [attempt] || is_parked(&before, parcel, kind)),
                OutcomeStep::Settle => known.push(settled),
                OutcomeStep::Resolve => {
                    prop_assert!(kind != OutcomeKind::Accepted);
                    let state = OrderState::fold(ID, &before).unwrap();
                    prop_assert!(state.parcels[usize::from(parcel)].attempts[usize::from(attempt)].moved());
                    known.push(Step::Settled { parcel, attempt, kind: OutcomeKind::Accepted, at });
                }
                OutcomeStep::DeadLetter => known.extend([settled, Step::Dead { parcel: Some(parcel), at, replay: last_replay(&before) }]),
                OutcomeStep::Reroute { turned_down, next, order_position, since } => {
                    prop_assert_eq!((turned_down.parcel, turned_down.attempt, kind), (parcel, attempt, OutcomeKind::Rejected));
                    prop_assert_eq!((next, order_position), (attempt + 1, 99));
                    prop_assert!(next < since + MAX_ATTEMPTS && next < VOID);
                    known.extend([settled, Step::Requested { parcel, attempt: next }]);
                }
            }
            let after = row(&known);
            assert_one_effect(&after);
            // The same answer again changes nothing.
            prop_assert_eq!(on_outcome(&after, &outcome).unwrap(), OutcomeStep::Ignore);
        }
    }

    /// A parcel waits until it is reviewed, once, and then its order counts as what its other parcels say.
    #[test]
    fn what_is_held_is_released_once(parcels in 0u8..3, order in Just([0usize, 1, 2]).prop_shuffle(), yes: bool) {
        let mut known = vec![Step::Accepted, Step::Classified(parcels + 3)];
        for parcel in 0..parcels {
            known.push(Step::Requested { parcel, attempt: 0 });
            known.push(Step::Settled { parcel, attempt: 0, kind: OutcomeKind::Accepted, at: 5 });
        }
        known.extend(held(parcels).map(|(parcel, _)| Step::Held(parcel)));
        for which in order {
            let (number, class) = held(parcels)[which];
            let code = class.unwrap_or(Handling::Chilled) as u8;
            let before = row(&known);
            let state = OrderState::fold(ID, &before).unwrap();
            prop_assert_eq!((state.class(), state.status()), (Class::InFlight, Milestone::Classified));
            let (parcel, group) = plan_review(&state, number, code).unwrap();
            prop_assert_eq!((parcel.number, group), (number, class.unwrap_or(Handling::Chilled).group()));
            prop_assert_eq!(plan_review(&state, number, 10).map(|_| ()), Err(Verdict::NotHeld), "no such class");
            prop_assert_eq!(plan_review(&state, 199, code).map(|_| ()), Err(Verdict::NotHeld));
            known.push(Step::Reviewed(number, class));
            let after = row(&known);
            let state = OrderState::fold(ID, &after).unwrap();
            prop_assert_eq!(plan_review(&state, number, code).map(|_| ()), Err(Verdict::NotHeld), "twice");
        }
        known.push(Step::Requested { parcel: parcels, attempt: 0 });
        prop_assert_eq!(class_of_row(&row(&known)).unwrap(), Class::InFlight);
        let last = match yes {
            true => Step::Settled { parcel: parcels, attempt: 0, kind: OutcomeKind::Accepted, at: 7 },
            false => Step::Dead { parcel: Some(parcels), at: 7, replay: 0 },
        };
        known.push(last);
        let expected = if yes { Class::Finished } else { Class::DeadLettered };
        prop_assert_eq!(class_of_row(&row(&known)).unwrap(), expected);
    }

    #[test]
    fn no_row_makes_the_fold_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), parcel: u8, attempt: u8) {
        let outcome = Outcome { order: ID.0, parcel, attempt, kind: OutcomeKind::Rejected, at_ms: 0, carrier: "", text: "" };
        let _ = (OrderState::fold(ID, &bytes).is_ok(), class_of_row(&bytes).is_ok(), on_outcome(&bytes, &outcome).is_ok());
        let tracked = Tracked { order: ID.0, parcel, attempt, progress: Progress::ALL[0], at_ms: 0, carrier: "", text: "" };
        let _ = on_news(&bytes, &tracked).is_ok();
    }
}

/// What an owner makes of an operator's wish: nobody is asked who may not be.
fn replay(known: &mut Vec<Step>) {
    let before = row(known);
    let state = OrderState::fold(ID, &before).unwrap();
    let Ok(anew) = plan_replay(&state) else { return };
    let Anew::Parcels(parcels) = anew else { panic!("the order was decided") };
    assert!(state.last_replay() < MAX_REPLAYS && !parcels.is_empty());
    for Again { number, attempt, same } in parcels {
        let parcel = state.parcels.iter().find(|p| p.number == number).unwrap();
        let certain = |a: &Attempt<'_>| matches!(a.outcome, Some((OutcomeKind::Rejected, ..)));
        let others = parcel.attempts.iter().filter(|a| a.number != attempt);
        assert!(parcel.is_dead_lettered() && others.clone().all(certain) && attempt < VOID, "{parcel:?}");
        assert!(!parcel.attempts.iter().any(Attempt::moved), "{parcel:?}");
        // Another shipment id only when nobody has the parcel under the one before.
        assert_eq!(same, others.count() < parcel.attempts.len(), "{parcel:?}");
        let replay = state.last_replay() + 1;
        known.extend([
            Step::Replayed { parcel: Some(number), replay, attempt },
            Step::Requested { parcel: number, attempt },
        ]);
    }
}

/// At most one attempt of each parcel is open or accepted, and the class is what the parcels say.
fn assert_one_effect(row: &[u8]) {
    let state = OrderState::fold(ID, row).unwrap();
    for p in &state.parcels {
        let open = open_attempts(row, p.number);
        let accepted = usize::from(p.standing() == Standing::Accepted);
        assert!(open.len() + accepted <= 1, "parcel {}: {p:?}", p.number);
        assert_eq!(open.is_empty(), p.standing() != Standing::Undecided, "{p:?}");
    }
    assert_eq!(class_of_row(row).unwrap(), state.class());
}

/// Attempts that were requested and have no final answer, unless the parcel is closed.
fn open_attempts(row: &[u8], parcel: u8) -> Vec<u8> {
    let state = OrderState::fold(ID, row).unwrap();
    let Some(parcel) = state.parcels.iter().find(|p| p.number == parcel) else { return vec![] };
    if parcel.is_dead_lettered() {
        return vec![];
    }
    let open = |a: &Attempt<'_>| match a.outcome.map(|o| o.0) {
        None | Some(OutcomeKind::Unknown) => true,
        Some(_) => parcel.asks_again(a),
    };
    let attempts = parcel.attempts.iter().filter(|a| a.requested.is_some() && open(a));
    attempts.map(|a| a.number).collect()
}

/// True if the parcel's attempt is parked and the answer says no more than that.
fn is_parked(row: &[u8], parcel: u8, kind: OutcomeKind) -> bool {
    kind == OutcomeKind::Unknown
        && row_deltas(0, row).any(
            |d| matches!(d, Ok((_, Delta::Settled { parcel: p, outcome: OutcomeKind::Unknown, .. })) if p == parcel),
        )
}
