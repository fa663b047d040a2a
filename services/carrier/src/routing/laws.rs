//! Laws of routing over arbitrary tables, health, orders and rows, and the pace of the stage.

use std::{sync::Arc, time::Instant};

use proptest::prelude::*;
use sluice_domain::{Fingerprint, Group, OrderId, SlotCount, limits::MAX_ATTEMPTS};
use sluice_pipeline::{
    Batch, CarrierHealth, Ctx, Effects, Rows, Stage,
    effects::{Decision, Route as Routed},
};
use sluice_schemas::{
    delta::{Delta, Item, Items, Requested, Weight},
    outcome::{Outcome, OutcomeKind},
    wire::Reader,
    word::{Progress, Tracked},
};

use super::{CarrierRule, CarrierSet, GroupSet, Route, Table, odds::Odds};

const PLACED_AT: u64 = 1_794_268_800_123;

fn order(n: usize) -> OrderId {
    OrderId::new(PLACED_AT, Fingerprint::of("m-1", &n.to_string()), SlotCount::DEFAULT)
}

fn carrier(id: &str, cost: u32) -> CarrierRule {
    CarrierRule { cost, promised_days: 0, ..CarrierRule::new(id, GroupSet::of(&Group::ALL)) }
}

fn table(carriers: Vec<CarrierRule>) -> Arc<Table> {
    Arc::new(Table::new(1, carriers).unwrap())
}

fn items() -> Vec<u8> {
    let mut bytes = Vec::new();
    Items::encode(&[Item { line: 0, quantity: Some(2) }, Item { line: 3, quantity: Some(1) }], &mut bytes);
    bytes
}

/// A row whose parcel 0 was offered to `asked`, each but the last of which turned it down.
fn row(asked: &[&str], group: Group, weight_g: u32) -> Vec<u8> {
    let (mut row, items) = (Vec::new(), items());
    Delta::Accepted { position: 77 }.encode(50, &mut row);
    Delta::Classified { parcels: 1, rules: 5, model: 0 }.encode(60, &mut row);
    for (attempt, carrier) in asked.iter().enumerate() {
        let requested = Requested {
            parcel: 0,
            attempt: attempt as u8,
            handling: group as u8,
            carrier,
            weight: Weight { grams: weight_g, estimated: true },
            items: Items::read(&mut Reader::new(&items)).unwrap(),
            order_position: None,
        };
        Delta::Requested(requested).encode(60, &mut row);
        if attempt + 1 < asked.len() {
            let outcome = OutcomeKind::Rejected;
            Delta::Settled { parcel: 0, attempt: attempt as u8, outcome, text: "full" }.encode(70, &mut row);
        }
    }
    row
}

fn push_outcome(batch: &mut Batch, order: OrderId, attempt: u8, kind: OutcomeKind, carrier: &str) {
    let mut record = Vec::new();
    let at_ms = PLACED_AT + 900;
    Outcome { order: order.0, parcel: 0, attempt, kind, at_ms, carrier, text: "no van" }.encode(&mut record);
    batch.push_word(order, &record);
}

/// What was decided about one input, in words that don't depend on where it stands in the arenas.
type Said = (u32, Vec<(u8, u8, Group, u32, Result<u16, String>)>, Option<String>);

fn said(effects: &Effects) -> Vec<Said> {
    let parcel = |index| {
        let p = effects.parcel(index);
        let route = match &p.route {
            Routed::Open => Err("open".to_owned()),
            Routed::Carrier(number) => Ok(*number),
            Routed::Nobody(reason) => Err(effects.text(reason).to_owned()),
            held @ (Routed::Held(..) | Routed::Nothing) => Err(format!("{held:?}")),
        };
        (p.number, p.attempt, p.group, p.weight.grams, route)
    };
    let what = |(input, decision): &(u32, Decision)| match decision {
        Decision::Classified { parcels, .. } => (*input, parcels.clone().map(parcel).collect(), None),
        Decision::Rejected { reason, .. } => (*input, Vec::new(), Some(effects.text(reason).to_owned())),
        Decision::Commanded { verdict, parcels } => {
            (*input, parcels.clone().map(parcel).collect(), Some(format!("commanded: {verdict:?}")))
        }
        Decision::Tracked { resolves } => (*input, Vec::new(), Some(format!("tracked, resolves: {resolves}"))),
        Decision::Settled { next, dead_letter, .. } => {
            let text = dead_letter.as_ref().map(|(range, _)| effects.text(range).to_owned());
            (*input, next.iter().map(|&index| parcel(index)).collect(), text)
        }
    };
    effects.decisions().iter().map(what).collect()
}

fn add_row(rows: &mut Rows, input: usize, row: &[u8]) {
    let fill = |out: &mut Vec<u8>| {
        out.extend_from_slice(row);
        Ok::<_, ()>(())
    };
    rows.push_with(input, fill).unwrap();
}

/// One outcome about one row, decided alone.
fn after(table: &Arc<Table>, row: &[u8], attempt: u8, kind: OutcomeKind) -> (Vec<Said>, Effects) {
    let (mut batch, mut rows, mut effects) = (Batch::default(), Rows::default(), Effects::default());
    push_outcome(&mut batch, order(0), attempt, kind, "a");
    add_row(&mut rows, 0, row);
    let ctx = Ctx { now_ms: PLACED_AT + 1_000, carriers: &[] };
    Route::new(table.clone()).apply(&ctx, &rows, &batch.view(0..1), &mut effects);
    (said(&effects), effects)
}

/// How many of `orders` orders each carrier gets.
fn shares(table: &Table, health: &[CarrierHealth], orders: usize) -> Vec<usize> {
    let mut odds = Odds::new(table, health);
    let mut counts = vec![0; table.carriers().len()];
    for n in 0..orders {
        counts[usize::from(odds.pick(Group::Ambient, 500, order(n), 0, None).unwrap())] += 1;
    }
    counts
}

fn near(count: usize, expected: f64) -> bool {
    (count as f64 - expected).abs() < 4.0 * expected.sqrt().max(5.0)
}

#[test]
fn shares_fall_with_the_fourth_power_of_the_score() {
    let equal = table(vec![carrier("a", 500), carrier("b", 500), carrier("c", 500)]);
    assert!(shares(&equal, &[], 30_000).into_iter().all(|n| near(n, 10_000.0)));
    let unequal = table(vec![carrier("a", 1_000), carrier("b", 500), carrier("c", 550)]);
    let counts = shares(&unequal, &[], 30_000);
    let weights = [1.0 / 16.0, 1.0, (500.0f64 / 550.0).powi(4)];
    let all: f64 = weights.iter().sum();
    for (count, weight) in counts.iter().zip(weights) {
        assert!(near(*count, 30_000.0 * weight / all), "{counts:?}");
    }
}

#[test]
fn promised_days_are_worth_money() {
    let slow = CarrierRule { promised_days: 4, ..carrier("slow", 400) };
    let fast = CarrierRule { promised_days: 1, ..carrier("fast", 550) };
    assert!(shares(&table(vec![slow, fast]), &[], 30_000).into_iter().all(|n| near(n, 15_000.0)));
}

#[test]
fn trouble_costs_shares_and_noise_does_not() {
    let two = table(vec![carrier("a", 500), carrier("b", 500)]);
    let fine = CarrierHealth::default();
    let share = |health: CarrierHealth| shares(&two, &[fine, health], 20_000)[1];
    assert!(near(share(CarrierHealth { latency_us: 49_000, backlog: 150, ..fine }), 10_000.0));
    // Each doubles the score: a sixteenth against a whole.
    for bad in [
        CarrierHealth { failures_permille: 250, ..fine },
        CarrierHealth { latency_us: 250_000, ..fine },
        CarrierHealth { backlog: 160_000, ..fine },
    ] {
        assert!(near(share(bad), 20_000.0 / 17.0), "{bad:?}: {}", share(bad));
    }
    let worst = CarrierHealth { available: true, latency_us: u32::MAX, failures_permille: u32::MAX, backlog: u64::MAX };
    assert!(share(worst) < 20);
    assert!(shares(&two, &[worst, worst], 20_000).into_iter().all(|n| near(n, 10_000.0)));
}

#[test]
fn a_carrier_behind_an_open_breaker_is_the_last_resort() {
    let light = CarrierRule { max_weight_g: 1_000, ..carrier("light", 9_000) };
    let two = table(vec![carrier("a", 1), light]);
    let shut = CarrierHealth { available: false, ..CarrierHealth::default() };
    assert_eq!(shares(&two, &[shut], 100), [0, 100]);
    let health = [shut, shut];
    let mut odds = Odds::new(&two, &health[..1]);
    assert_eq!(odds.pick(Group::Ambient, 1_001, order(1), 0, None), Some(0));
    assert_eq!(odds.pick(Group::Ambient, 30_001, order(1), 0, None), None);
    assert!(shares(&two, &health, 100)[0] > 90);
}

#[test]
fn weights_decide_who_may_be_asked() {
    let limit = |id: &str, max_weight_g| CarrierRule { max_weight_g, ..carrier(id, 500) };
    let three = table(vec![limit("a", 10), limit("b", 30), limit("c", 20)]);
    let mut odds = Odds::new(&three, &[]);
    let mut asked = |weight_g| {
        let mut all: Vec<_> = (0..200).map(|n| odds.pick(Group::Frozen, weight_g, order(n), 0, None)).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    assert_eq!(asked(10), [Some(0), Some(1), Some(2)]);
    assert_eq!(asked(11), [Some(1), Some(2)]);
    assert_eq!(asked(21), [Some(1)]);
    assert_eq!(asked(31), [None]);
}

#[test]
fn parcels_that_nobody_takes_are_dead_lettered_by_name() {
    let cold = GroupSet::of(&[Group::Frozen]);
    let stage = Route::new(table(vec![CarrierRule::new("cold", cold)]));
    let (mut batch, mut effects) = (Batch::default(), Effects::default());
    batch.push_placed(order(0), Fingerprint(1), b"");
    effects.classified(0);
    effects.add_parcel(Group::Frozen, Weight::known(31_000), &[Item { line: 0, quantity: None }]);
    effects.add_parcel(Group::Frozen, Weight::known(1_234_567), &[Item { line: 0, quantity: None }]);
    effects.add_parcel(Group::LivePlant, Weight::known(1), &[Item { line: 0, quantity: None }]);
    effects.add_parcel(Group::Frozen, Weight::known(30_000), &[Item { line: 0, quantity: None }]);
    stage.apply(&Ctx { now_ms: 0, carriers: &[] }, &Rows::default(), &batch.view(0..1), &mut effects);
    let routes: Vec<_> = said(&effects).remove(0).1.into_iter().map(|p| p.4).collect();
    let nobody = |text: &str| Err(text.to_owned());
    assert_eq!(
        routes,
        [
            nobody("no carrier takes frozen parcels of 31,000 g (limit 30,000 g)"),
            nobody("no carrier takes frozen parcels of 1,234,567 g (limit 30,000 g)"),
            nobody("no carrier takes live_plant parcels"),
            Ok(0),
        ]
    );
}

#[test]
fn a_reject_goes_on_with_the_same_goods() {
    let two = table(vec![carrier("a", 500), carrier("b", 90_000)]);
    let (decided, effects) = after(&two, &row(&["a"], Group::Frozen, 900), 0, OutcomeKind::Rejected);
    assert_eq!(decided, [(0, vec![(0, 1, Group::Frozen, 900, Ok(1))], None)]);
    let parcel = effects.parcel(0);
    assert_eq!((parcel.order_position, parcel.weight), (Some(77), Weight { grams: 900, estimated: true }));
    let quantities: Vec<_> = effects.items(parcel).iter().map(|i| (i.line, i.quantity)).collect();
    assert_eq!(quantities, [(0, Some(2)), (3, Some(1))]);
}

/// What was packed for one carrier may be too heavy for the others, and after a change of the table for all.
#[test]
fn a_parcel_too_heavy_for_those_left_is_dead_lettered_by_weight() {
    let limit = |id: &str, max_weight_g| CarrierRule { max_weight_g, ..carrier(id, 500) };
    let frozen = Group::Frozen;
    let asked_a = row(&["a"], frozen, 20_000);
    for (b, c, expected) in [
        (20_000, 5_000, Ok(1)),
        (19_999, 5_000, Err(" (limit of the others 19,999 g)")),
        (5_000, 19_000, Err(" (limit of the others 19,000 g)")),
    ] {
        // The one that turned it down takes less by now, too.
        let three = table(vec![limit("a", 4_000), limit("b", b), limit("c", c)]);
        let (mut decided, _) = after(&three, &asked_a, 0, OutcomeKind::Rejected);
        let (_, parcels, reason) = decided.remove(0);
        match expected {
            Ok(carrier) => assert_eq!(parcels, [(0, 1, frozen, 20_000, Ok(carrier))]),
            Err(left) => {
                let taken = "every carrier that takes frozen parcels of 20,000 g has turned it down";
                assert_eq!((parcels.len(), reason), (0, Some(format!("{taken}{left}; a: no van"))));
            }
        }
    }
}

#[test]
fn the_end_of_the_road_is_named() {
    let two = table(vec![carrier("a", 500), carrier("b", 500)]);
    let dead = |row: &[u8], attempt, kind| {
        let (mut decided, effects) = after(&two, row, attempt, kind);
        assert!(effects.parcels().is_empty());
        decided.remove(0).2.unwrap()
    };
    let rejected = OutcomeKind::Rejected;
    assert_eq!(
        dead(&row(&["b", "a"], Group::Frozen, 31_900), 1, rejected),
        "every carrier that takes frozen parcels of 31,900 g has turned it down; a: no van"
    );
    let reason = dead(&row(&["a"], Group::Frozen, 9), 0, OutcomeKind::GivenUp);
    assert_eq!(reason, "the carrier could not be asked in time; a: no van");
    let gone: Vec<String> = (0..MAX_ATTEMPTS).map(|n| format!("gone-{n}")).collect();
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    let reason = dead(&row(&gone, Group::Frozen, 9), MAX_ATTEMPTS - 1, rejected);
    assert_eq!(reason, "8 carriers have turned it down; a: no van");
    // A carrier that has left the table isn't asked, and doesn't stop the others.
    let (decided, _) = after(&two, &row(&["gone", "a"], Group::Frozen, 9), 1, rejected);
    assert_eq!(decided[0].1, [(0, 2, Group::Frozen, 9, Ok(1))]);
}

#[test]
fn what_cannot_be_read_is_dead_lettered_unless_a_carrier_may_have_it() {
    let two = table(vec![carrier("a", 500), carrier("b", 500)]);
    let mut broken = row(&["a"], Group::Frozen, 9);
    broken.push(99);
    for kind in [OutcomeKind::Unknown, OutcomeKind::GivenUp, OutcomeKind::Rejected, OutcomeKind::Accepted] {
        let (decided, effects) = after(&two, &broken, 0, kind);
        assert!(effects.parcels().is_empty() && decided.len() == 1);
        let lost = matches!(kind, OutcomeKind::GivenUp | OutcomeKind::Rejected);
        assert_eq!(decided[0].2.is_some(), lost, "{decided:?}");
    }
    let (mut batch, mut effects) = (Batch::default(), Effects::default());
    batch.push_word(order(0), b"short");
    let ctx = Ctx { now_ms: 0, carriers: &[] };
    Route::new(two).apply(&ctx, &Rows::default(), &batch.view(0..1), &mut effects);
    let reason = said(&effects).remove(0).2.unwrap();
    assert!(reason.starts_with("what was said can't be read: "), "{reason}");
}

#[test]
fn answers_about_nothing_decide_nothing() {
    let two = table(vec![carrier("a", 500), carrier("b", 500)]);
    let once = row(&["a"], Group::Frozen, 9);
    assert!(after(&two, &[], 0, OutcomeKind::Rejected).0.is_empty());
    assert!(after(&two, &once, 1, OutcomeKind::Rejected).0.is_empty());
    assert!(after(&two, &row(&["a", "b"], Group::Frozen, 9), 0, OutcomeKind::Rejected).0.is_empty());
}

fn carriers() -> impl Strategy<Value = Vec<CarrierRule>> {
    let rule = (1u8..64, 1u32..40_000, 0u32..2_000, 0u16..10);
    proptest::collection::vec(rule, 1..9).prop_map(|rules| {
        let rule = |(n, (bits, max_weight_g, cost, promised_days)): (usize, (u8, u32, u32, u16))| {
            let groups: Vec<Group> = Group::ALL.into_iter().filter(|&g| bits >> g as u8 & 1 == 1).collect();
            CarrierRule { max_weight_g, cost, promised_days, ..CarrierRule::new(n.to_string(), GroupSet::of(&groups)) }
        };
        rules.into_iter().enumerate().map(rule).collect()
    })
}

fn health() -> impl Strategy<Value = Vec<CarrierHealth>> {
    let one = (any::<bool>(), 0u32..20_000_000, 0u32..=1_000, 0u64..2_000_000);
    let one = one.prop_map(|(available, latency_us, failures_permille, backlog)| CarrierHealth {
        available,
        latency_us,
        failures_permille,
        backlog,
    });
    proptest::collection::vec(one, 0..9)
}

#[derive(Debug, Clone)]
enum Event {
    Placed(Vec<(usize, u32)>),
    Answered { asked: usize, first: usize, attempt: u8, kind: OutcomeKind, group: usize, weight_g: u32 },
    Told { asked: usize, first: usize, parked: bool, progress: Progress },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let placed = proptest::collection::vec((0usize..6, 1u32..45_000), 0..5).prop_map(Event::Placed);
    let answered = (1usize..10, 0usize..9, 0u8..10, 0u8..4, 0usize..6, 1u32..45_000);
    let answered = answered.prop_map(|(asked, first, attempt, kind, group, weight_g)| {
        let attempt = if attempt == 9 { 0 } else { asked as u8 - 1 };
        Event::Answered { asked, first, attempt, kind: OutcomeKind::from_code(kind).unwrap(), group, weight_g }
    });
    let told = (1usize..4, 0usize..9, any::<bool>(), 0usize..10);
    let told = told.prop_map(|(asked, first, parked, pick)| Event::Told {
        asked,
        first,
        parked,
        progress: Progress::ALL[pick],
    });
    proptest::collection::vec(prop_oneof![placed, answered, told], 0..12)
}

/// Ids of the carriers asked before; some aren't in the table.
fn asked_before(asked: usize, first: usize) -> Vec<String> {
    (0..asked).map(|n| (first + n).to_string()).collect()
}

fn batch_of(events: &[Event]) -> (Batch, Rows) {
    let (mut batch, mut rows) = (Batch::default(), Rows::default());
    for (n, event) in events.iter().enumerate() {
        match event {
            Event::Placed(_) => batch.push_placed(order(n), Fingerprint(1), b""),
            Event::Answered { asked, first, attempt, kind, group, weight_g } => {
                let ids = asked_before(*asked, *first);
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                let bytes = row(&ids, Group::ALL[*group], *weight_g);
                add_row(&mut rows, n, &bytes);
                push_outcome(&mut batch, order(n), *attempt, *kind, ids.last().unwrap());
            }
            Event::Told { asked, first, parked, progress } => {
                let ids = asked_before(*asked, *first);
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                let (attempt, outcome) = (*asked as u8 - 1, OutcomeKind::Unknown);
                let mut bytes = row(&ids, Group::Ambient, 500);
                if *parked {
                    Delta::Settled { parcel: 0, attempt, outcome, text: "" }.encode(80, &mut bytes);
                }
                add_row(&mut rows, n, &bytes);
                let (order, carrier, mut record) = (order(n), *ids.last().unwrap(), Vec::new());
                let (progress, at_ms) = (*progress, PLACED_AT + 900);
                Tracked { order: order.0, parcel: 0, attempt, progress, at_ms, carrier, text: "" }.encode(&mut record);
                batch.push_word(order, &record);
            }
        }
    }
    (batch, rows)
}

/// As the classifying stage does for the placed orders in `range`.
fn classify(events: &[Event], range: std::ops::Range<usize>, effects: &mut Effects) {
    for n in range {
        if let Event::Placed(parcels) = &events[n] {
            effects.classified(n);
            for &(group, weight_g) in parcels {
                effects.add_parcel(Group::ALL[group], Weight::known(weight_g), &[Item { line: 0, quantity: None }]);
            }
        }
    }
}

fn check_pick(
    rules: &[CarrierRule],
    health: &[CarrierHealth],
    group: Group,
    weight_g: u32,
    pick: u16,
    tried: &CarrierSet,
) {
    let takes = |n: usize| rules[n].groups.contains(group) && rules[n].max_weight_g >= weight_g;
    let open = |n: usize| health.get(n).is_none_or(|h| h.available);
    let pick = usize::from(pick);
    assert!(takes(pick) && !tried.contains(pick as u16));
    assert!(open(pick) || (0..rules.len()).all(|n| !takes(n) || !open(n) || tried.contains(n as u16)));
}

proptest! {
    #[test]
    fn a_batch_is_its_inputs_one_by_one(
        rules in carriers(), health in health(), events in events(), cut in 0usize..12,
    ) {
        let stage = Route::new(table(rules));
        let ctx = Ctx { now_ms: 7, carriers: &health };
        let (batch, rows) = batch_of(&events);
        let run = |ranges: Vec<std::ops::Range<usize>>| {
            let mut effects = Effects::default();
            for range in ranges {
                classify(&events, range.clone(), &mut effects);
                stage.apply(&ctx, &rows, &batch.view(range), &mut effects);
            }
            let mut said = said(&effects);
            said.sort_by_key(|s| s.0);
            said
        };
        let (end, cut) = (events.len(), cut.min(events.len()));
        let together = run(std::iter::once(0..end).collect());
        prop_assert_eq!(&together, &run((0..end).map(|n| n..n + 1).collect()));
        prop_assert_eq!(&together, &run(vec![0..cut, cut..end]));
    }

    #[test]
    fn parcels_go_where_they_may(rules in carriers(), health in health(), events in events()) {
        let stage = Route::new(table(rules.clone()));
        let ctx = Ctx { now_ms: 7, carriers: &health };
        let (batch, rows) = batch_of(&events);
        let mut effects = Effects::default();
        classify(&events, 0..events.len(), &mut effects);
        stage.apply(&ctx, &rows, &batch.view(0..events.len()), &mut effects);
        for parcel in effects.parcels() {
            let mut tried = CarrierSet::default();
            if let Event::Answered { asked, first, .. } = &events[parcel.input as usize] {
                asked_before(*asked, *first).iter().for_each(|id| tried.insert(id.parse().unwrap()));
                prop_assert_eq!(usize::from(parcel.attempt), *asked);
            }
            match &parcel.route {
                Routed::Open => prop_assert!(false, "a parcel was forgotten"),
                Routed::Held(..) | Routed::Nothing => prop_assert!(false, "nothing is held here"),
                Routed::Carrier(n) => check_pick(&rules, &health, parcel.group, parcel.weight.grams, *n, &tried),
                Routed::Nobody(_) => {
                    let takes = |r: &CarrierRule| r.groups.contains(parcel.group) && r.max_weight_g >= parcel.weight.grams;
                    prop_assert!(!rules.iter().any(takes));
                }
            }
        }
    }

    #[test]
    fn news_is_noted_and_resolves_only_what_is_parked(rules in carriers(), events in events()) {
        let stage = Route::new(table(rules));
        let (batch, rows) = batch_of(&events);
        let mut effects = Effects::default();
        stage.apply(&Ctx { now_ms: 7, carriers: &[] }, &rows, &batch.view(0..events.len()), &mut effects);
        for (n, event) in events.iter().enumerate() {
            let Event::Told { parked, progress, .. } = event else { continue };
            let said = effects.decisions().iter().find(|(input, _)| *input as usize == n).map(|(_, said)| said.clone());
            let wanted = *parked && matches!(progress, Progress::Reached(_));
            prop_assert!(matches!(said, Some(Decision::Tracked { resolves }) if resolves == wanted), "{event:?}: {said:?}");
        }
    }

    #[test]
    fn only_a_reject_is_followed_by_another_attempt(rules in carriers(), events in events()) {
        let stage = Route::new(table(rules));
        let (batch, rows) = batch_of(&events);
        let mut effects = Effects::default();
        stage.apply(&Ctx { now_ms: 7, carriers: &[] }, &rows, &batch.view(0..events.len()), &mut effects);
        for (_, decision) in effects.decisions() {
            let Decision::Settled { next, dead_letter, kind, .. } = decision else { continue };
            match kind {
                OutcomeKind::Unknown | OutcomeKind::Accepted => prop_assert!(next.is_none() && dead_letter.is_none()),
                OutcomeKind::GivenUp => prop_assert!(next.is_none() && dead_letter.is_some()),
                OutcomeKind::Rejected => prop_assert!(next.is_some() != dead_letter.is_some()),
            }
        }
    }

    #[test]
    fn parcels_of_one_order_and_group_meet_at_one_carrier(
        n in 0usize..10_000, weights in proptest::collection::vec(1u32..30_000, 2..6),
    ) {
        let three = table(vec![carrier("a", 500), carrier("b", 510), carrier("c", 490)]);
        let mut odds = Odds::new(&three, &[]);
        let first = odds.pick(Group::Chilled, 1, order(n), 0, None);
        for weight_g in weights {
            prop_assert_eq!(odds.pick(Group::Chilled, weight_g, order(n), 0, None), first);
        }
    }
}

/// `cargo test --release -p sluice-carrier -- --ignored --nocapture routing`
#[test]
#[ignore = "a measurement"]
fn pace() {
    for carriers in [4, 16, 256] {
        let rules = (0..carriers).map(|n| carrier(&n.to_string(), 500 + n)).collect();
        let stage = Route::new(table(rules));
        let (mut batch, mut effects) = (Batch::default(), Effects::default());
        const ORDERS: usize = 10_000;
        (0..ORDERS).for_each(|n| batch.push_placed(order(n), Fingerprint(1), b""));
        let ctx = Ctx { now_ms: 7, carriers: &[] };
        let (mut best, mut alone) = (f64::MAX, f64::MAX);
        for _ in 0..50 {
            effects.clear();
            for n in 0..ORDERS {
                effects.classified(n);
                effects.add_parcel(Group::ALL[n % 3], Weight::known(500), &[Item { line: 0, quantity: None }]);
            }
            let start = Instant::now();
            stage.apply(&ctx, &Rows::default(), &batch.view(0..ORDERS), &mut effects);
            best = best.min(start.elapsed().as_nanos() as f64 / ORDERS as f64);
            effects.clear();
            effects.classified(0);
            effects.add_parcel(Group::Ambient, Weight::known(500), &[Item { line: 0, quantity: None }]);
            let start = Instant::now();
            stage.apply(&ctx, &Rows::default(), &batch.view(0..1), &mut effects);
            alone = alone.min(start.elapsed().as_nanos() as f64);
        }
        println!("{carriers} carriers: {best:.1} ns a parcel, {alone:.0} ns for a batch of one");
    }
}
