//! Laws of commands: nothing comes back twice, nothing comes back that was not delivered, and a parcel whose goods are all
//! back is returned.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sluice_schemas::{
    command::{Keep, Lines, ReturnLine, Verdict, Wish},
    delta::{Delta, FIRST_RETURN, Item, Items, Requested, Weight},
    milestone::Milestone,
    outcome::OutcomeKind,
    wire::Reader,
    word::Progress,
};

use crate::{
    OrderId, OrderState,
    commands::{Again, Anew, Back, MAX_COMMANDS, is_settled, plan_replay, plan_return},
    limits::MAX_REPLAYS,
};

const ID: OrderId = OrderId(1_794_268_800_123 << 80 | 5);

/// Units of each line by the parcel that they ship in.
type Parcels = Vec<Vec<(u16, u32)>>;

fn encoded(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Items::encode(items, &mut bytes);
    bytes
}

fn requested(row: &mut Vec<u8>, parcel: u8, weight: Weight, items: &[Item]) {
    let bytes = encoded(items);
    let items = Items::read(&mut Reader::new(&bytes)).unwrap();
    let delta = Requested { parcel, attempt: 0, handling: 1, carrier: "swift", weight, items, order_position: None };
    Delta::Requested(delta).encode(5, row);
}

fn told(row: &mut Vec<u8>, parcel: u8, milestone: Milestone) {
    Delta::Settled { parcel, attempt: 0, outcome: OutcomeKind::Accepted, text: "T" }.encode(6, row);
    Delta::Tracked { parcel, attempt: 0, progress: Progress::Reached(milestone), text: "" }.encode(7, row);
}

/// An order of these parcels, of which those named are delivered. A line that ships in one parcel ships whole.
fn delivered(parcels: &Parcels, which: &[bool]) -> Vec<u8> {
    let mut row = Vec::new();
    Delta::Accepted { position: 1 }.encode(1, &mut row);
    Delta::Classified { parcels: parcels.len() as u8, rules: 1, model: 0 }.encode(2, &mut row);
    let shipped_in = |line| parcels.iter().flatten().filter(|(l, _)| *l == line).count();
    for (number, parcel) in parcels.iter().enumerate() {
        let part = parcel.iter().any(|(line, _)| shipped_in(*line) > 1);
        let item = |&(line, quantity): &(u16, u32)| Item { line, quantity: part.then_some(quantity) };
        requested(&mut row, number as u8, Weight::known(1_000), &parcel.iter().map(item).collect::<Vec<_>>());
        if which[number] {
            told(&mut row, number as u8, Milestone::Delivered);
        }
    }
    row
}

fn ordered(parcels: &Parcels, lines: u16) -> Vec<u32> {
    (0..lines).map(|line| parcels.iter().flatten().filter(|(l, _)| *l == line).map(|(_, q)| q).sum()).collect()
}

fn plan(row: &[u8], ordered: &[u32], wanted: &[u32]) -> Result<Vec<Back>, Verdict> {
    let line = |(&quantity, &ordered): (&u32, &u32)| ReturnLine { quantity, ordered };
    let mut bytes = Vec::new();
    Lines::encode(&wanted.iter().zip(ordered).map(line).collect::<Vec<_>>(), &mut bytes);
    plan_return(&OrderState::fold(ID, row).unwrap(), Lines::read(&mut Reader::new(&bytes)).unwrap())
}

fn record(row: &mut Vec<u8>, back: &Back) {
    let Back { number: parcel, source, units, weight, ref items, .. } = *back;
    Delta::Return { parcel, source, units, command: 1, reason: "" }.encode(8, row);
    requested(row, parcel, weight, items);
}

fn parcels() -> impl Strategy<Value = (Parcels, Vec<bool>)> {
    let parcel = proptest::collection::btree_map(0u16..4, 1u32..5, 1..4).prop_map(|lines| lines.into_iter().collect());
    proptest::collection::vec((parcel, prop::bool::weighted(0.8)), 1..4).prop_map(|all| all.into_iter().unzip())
}

proptest! {
    #[test]
    fn what_comes_back_was_delivered_and_comes_back_once(
        (parcels, which) in parcels(), asked in proptest::collection::vec(proptest::collection::vec(0u32..6, 4), 1..6),
    ) {
        let ordered = ordered(&parcels, 4);
        let mut row = delivered(&parcels, &which);
        let mut back: BTreeMap<(u8, u16), u32> = BTreeMap::new();
        for wanted in asked {
            let left = |line: usize| -> u32 {
                let units = |(number, parcel): (usize, &Vec<(u16, u32)>)| -> u32 {
                    let gone = back.get(&(number as u8, line as u16)).copied().unwrap_or(0);
                    parcel.iter().filter(|(l, _)| usize::from(*l) == line).map(|(_, q)| q - gone).sum()
                };
                parcels.iter().enumerate().filter(|(number, _)| which[*number]).map(units).sum()
            };
            let fits = wanted.iter().sum::<u32>() > 0 && wanted.iter().enumerate().all(|(line, &n)| n <= left(line));
            let Ok(planned) = plan(&row, &ordered, &wanted) else {
                prop_assert!(!fits, "{:?} of {:?}", wanted, back);
                continue;
            };
            prop_assert!(fits, "{:?} of {:?}", wanted, back);
            let mut brought = vec![0; 4];
            for one in &planned {
                let source = &parcels[usize::from(one.source)];
                prop_assert!(which[usize::from(one.source)] && one.weight.grams > 0 && one.weight.grams <= 1_000);
                // Known only of all of a parcel, or of units of one line.
                prop_assert_eq!(!one.weight.estimated, one.weight.grams == 1_000 || source.len() == 1);
                prop_assert_eq!(one.units, source.iter().map(|(_, q)| q).sum::<u32>());
                for item in &one.items {
                    let quantity = item.quantity.unwrap();
                    brought[usize::from(item.line)] += quantity;
                    let gone = back.entry((one.source, item.line)).or_default();
                    *gone += quantity;
                    prop_assert!(source.iter().any(|(line, units)| *line == item.line && *gone <= *units));
                }
                record(&mut row, one);
            }
            prop_assert_eq!(brought, wanted);
        }
        let numbers: Vec<u8> = OrderState::fold(ID, &row).unwrap().returns.iter().map(|r| r.parcel.number).collect();
        prop_assert!(numbers.iter().copied().eq((FIRST_RETURN..).take(numbers.len())), "{:?}", numbers);
        // Once every return is back, those parcels are returned of which nothing is left.
        for number in &numbers {
            told(&mut row, *number, Milestone::Returned);
        }
        let state = OrderState::fold(ID, &row).unwrap();
        for (parcel, lines) in state.parcels.iter().zip(&parcels) {
            let gone = |(line, units): &(u16, u32)| back.get(&(parcel.number, *line)) == Some(units);
            let all = lines.iter().all(gone);
            prop_assert_eq!(state.parcel_status(parcel) == Milestone::Returned, all, "parcel {}", parcel.number);
        }
    }
}

#[test]
fn an_order_keeps_so_many_commands_and_no_more() {
    let mut row = Vec::new();
    let id = |n: u64| n << 32;
    for n in 0..MAX_COMMANDS as u64 - 1 {
        Delta::Commanded { id: id(n), verdict: Verdict::Done }.encode(5, &mut row);
    }
    let lines = Lines::read(&mut Reader::new(&[0])).unwrap();
    let back = Wish::Return { reason: "", lines };
    let settled = |row: &[u8], id, wish| is_settled(&OrderState::fold(ID, row).unwrap(), id, wish);
    assert!(settled(&row, id(0), back) && settled(&row, id(0) | 7, back), "one under a key");
    assert!(!settled(&row, u64::MAX, back) && settled(&row, u64::MAX, Wish::Cancel), "room is left for returns");
    Delta::Commanded { id: id(999), verdict: Verdict::Done }.encode(5, &mut row);
    assert!(settled(&row, id(999), back) && settled(&row, u64::MAX, back));
    let mut few = Vec::new();
    Delta::Commanded { id: 5, verdict: Verdict::Done }.encode(5, &mut few);
    assert!(settled(&few, 5, Wish::Cancel) && !settled(&few, 6, Wish::Cancel));
}

#[test]
fn an_order_has_so_many_returns_and_no_more() {
    let parcels = vec![vec![(0u16, 100u32)]];
    let mut row = delivered(&parcels, &[true]);
    for number in FIRST_RETURN..=u8::MAX {
        let planned = plan(&row, &[100], &[1]).unwrap();
        assert_eq!(planned[0].number, number);
        record(&mut row, &planned[0]);
    }
    assert_eq!(plan(&row, &[100], &[1]), Err(Verdict::TooManyReturns));
}

fn planned(row: &[u8]) -> Result<Anew, Verdict> {
    plan_replay(&OrderState::fold(ID, row).unwrap())
}

fn dead(row: &mut Vec<u8>, parcel: Option<u8>, replay: u8) {
    Delta::DeadLettered { parcel, rules: 1, reason: "nobody", replay }.encode(9, row);
}

fn replayed(row: &mut Vec<u8>, parcel: Option<u8>, replay: u8, attempt: u8) {
    Delta::Replayed { parcel, replay, attempt, command: u64::from(replay), by: "operator" }.encode(9, row);
}

fn settled(row: &mut Vec<u8>, parcel: u8, attempt: u8, outcome: OutcomeKind) {
    Delta::Settled { parcel, attempt, outcome, text: "" }.encode(8, row);
}

#[test]
fn an_order_that_nothing_could_decide_is_decided_anew_so_often() {
    let mut row = Vec::new();
    Delta::Accepted { position: 1 }.encode(1, &mut row);
    assert_eq!(planned(&row), Err(Verdict::NothingToReplay));
    dead(&mut row, None, 0);
    for replay in 1..=MAX_REPLAYS {
        assert_eq!(planned(&row), Ok(Anew::Order));
        replayed(&mut row, None, replay, 0);
        assert_eq!(planned(&row), Err(Verdict::NothingToReplay));
        dead(&mut row, None, replay);
    }
    assert_eq!(planned(&row), Err(Verdict::TooManyReplays));
    let mut split = Vec::new();
    Delta::Classified { parcels: 1, rules: 1, model: 0 }.encode(2, &mut split);
    dead(&mut split, None, 0);
    assert_eq!(planned(&split), Err(Verdict::NotReplayable), "its parcels are on their way");
}

#[test]
fn a_parcel_goes_out_again_only_if_nobody_may_have_it() {
    let items = [Item { line: 0, quantity: None }];
    let bytes = encoded(&items);
    let packed = |parcel| Delta::Packed {
        parcel,
        handling: 1,
        weight: Weight::known(5),
        items: Items::read(&mut Reader::new(&bytes)).unwrap(),
    };
    let order = |parcels| {
        let mut row = Vec::new();
        Delta::Accepted { position: 1 }.encode(1, &mut row);
        Delta::Classified { parcels, rules: 1, model: 0 }.encode(2, &mut row);
        row
    };
    let again = |number, attempt, same| Ok(Anew::Parcels(vec![Again { number, attempt, same }]));
    let mut unasked = order(1);
    packed(0).encode(3, &mut unasked);
    dead(&mut unasked, Some(0), 0);
    assert_eq!(planned(&unasked), again(0, 0, false));
    let answered = |outcomes: &[OutcomeKind]| {
        let mut row = order(1);
        requested(&mut row, 0, Weight::known(5), &items);
        outcomes.iter().for_each(|outcome| settled(&mut row, 0, 0, *outcome));
        dead(&mut row, Some(0), 0);
        row
    };
    assert_eq!(planned(&answered(&[OutcomeKind::Rejected])), again(0, 1, false));
    // It may have it, and knows it by the id that it was asked under.
    assert_eq!(planned(&answered(&[OutcomeKind::GivenUp])), again(0, 0, true));
    let nobody_knows = [OutcomeKind::Unknown, OutcomeKind::GivenUp];
    assert_eq!(planned(&answered(&nobody_knows)), Err(Verdict::NotReplayable));
    assert_eq!(planned(&answered(&[])), Err(Verdict::NotReplayable), "it is being asked");
    assert_eq!(planned(&answered(&[OutcomeKind::Accepted])), Err(Verdict::NothingToReplay));
    let mut moved = answered(&[OutcomeKind::GivenUp]);
    let progress = Progress::Reached(Milestone::PickedUp);
    Delta::Tracked { parcel: 0, attempt: 0, progress, text: "" }.encode(9, &mut moved);
    assert_eq!(planned(&moved), Err(Verdict::NotReplayable), "it has it");
    // Returns are asked for again instead, and what its merchant wants cancelled goes nowhere.
    let mut back = order(0);
    packed(FIRST_RETURN).encode(3, &mut back);
    dead(&mut back, Some(FIRST_RETURN), 0);
    assert_eq!(planned(&back), Err(Verdict::NothingToReplay));
    let mut cancelled = order(2);
    requested(&mut cancelled, 0, Weight::known(5), &items);
    settled(&mut cancelled, 0, 0, OutcomeKind::Accepted);
    settled(&mut cancelled, 0, sluice_schemas::delta::VOID, OutcomeKind::Accepted);
    packed(1).encode(3, &mut cancelled);
    dead(&mut cancelled, Some(1), 0);
    assert_eq!(planned(&cancelled), Err(Verdict::NotReplayable));
    let mut withdrawn = order(2);
    packed(0).encode(3, &mut withdrawn);
    dead(&mut withdrawn, Some(0), 0);
    let weight = Weight::known(5);
    let items = Items::read(&mut Reader::new(&bytes)).unwrap();
    Delta::Held { parcel: 1, handling: 7, confidence: 50, weight, items }.encode(3, &mut withdrawn);
    assert_eq!(planned(&withdrawn), again(0, 0, false), "what else waits changes nothing");
    Delta::Reviewed { parcel: 1, handling: None, keep: Keep::No, command: 9, by: "" }.encode(4, &mut withdrawn);
    assert_eq!(planned(&withdrawn), Err(Verdict::NotReplayable), "its merchant has cancelled");
}
