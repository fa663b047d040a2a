//! Laws of splitting over arbitrary orders, and the pace of the stage on real ones.

use std::{sync::Arc, time::Instant};

use proptest::prelude::*;
use sluice_domain::{
    Fingerprint, Group, Handling, OrderId, SlotCount,
    limits::{MAX_LINES, MAX_PARCELS},
};
use sluice_pipeline::{
    Batch, Ctx, Effects, Rows, Stage,
    effects::{Decision, Route},
};
use sluice_schemas::{
    delta::Weight,
    order::{Head, Line, ShipTo, put_head, put_line},
};

use crate::{Chain, Classified, Classifier, Classify, Fallback, Knowledge, Learned, Rules, Source};

/// Reads class and weight from an SKU like `3:500`, or `3:~500` if it is a guess, so that a test says what a line is.
struct Told;

impl Classifier for Told {
    fn version(&self) -> u32 {
        1
    }

    fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>> {
        let (handling, weight) = line.sku.trim_start_matches('?').split_once(':')?;
        let guess = weight.strip_prefix('~');
        Some(Classified {
            handling: Handling::ALL[handling.parse::<usize>().unwrap()],
            department: None,
            unit_weight_g: guess.unwrap_or(weight).parse().unwrap(),
            estimated: guess.is_some(),
            source: Source::Catalogue,
            confidence: 41,
            hold: line.sku.starts_with('?'),
        })
    }
}

const FALLBACK: Fallback = Fallback { handling: Handling::AmbientGeneral, unit_weight_g: 500 };

fn told(limits_g: [u32; 6]) -> Classify {
    Classify::new(Arc::new(Knowledge::new(Chain::new(vec![Box::new(Told)], FALLBACK))), limits_g)
}

fn push(batch: &mut Batch, lines: &[(String, u32)]) {
    let fingerprint = Fingerprint::of("m-1", &batch.len().to_string());
    let id = OrderId::new(1_794_268_800_123, fingerprint, SlotCount::DEFAULT);
    let ship_to = ShipTo { name: "A", street: "B 1", city: "C", postal_code: "1", country: "DE" };
    let mut record = Vec::new();
    let head = Head {
        id: id.0,
        fingerprint_high: fingerprint.high(),
        accepted_at_ms: 1_794_268_800_200,
        merchant: "m-1",
        customer: "c-77",
        currency: "USD",
        ship_to,
        lines: lines.len(),
    };
    put_head(&mut record, &head);
    for (sku, quantity) in lines {
        put_line(&mut record, &Line { sku, title: "YOGURT | 6 OZ", quantity: *quantity, unit_price: 129 });
    }
    batch.push_placed(id, fingerprint, &record);
}

fn batch_of(orders: &[Vec<(String, u32)>]) -> Batch {
    let mut batch = Batch::default();
    orders.iter().for_each(|lines| push(&mut batch, lines));
    batch
}

fn apply(stage: &Classify, batch: &Batch, effects: &mut Effects) {
    let ctx = Ctx { now_ms: batch.now_ms, carriers: &[] };
    stage.apply(&ctx, &Rows::default(), &batch.view(0..batch.len()), effects);
}

type Seen = (Group, u8, Weight, Vec<(u16, Option<u32>)>);

/// What was decided about each input, in words that don't depend on where it stands in the arenas.
fn decided(effects: &Effects) -> Vec<(u32, Result<Vec<Seen>, String>)> {
    let parcel = |index| {
        let p = effects.parcel(index);
        let items = effects.items(p).iter().map(|i| (i.line, i.quantity)).collect();
        (p.group, p.number, p.weight, items)
    };
    let what = |decision: &Decision| match decision {
        Decision::Classified { parcels, .. } => Ok(parcels.clone().map(parcel).collect()),
        Decision::Rejected { reason, .. } => Err(effects.text(reason).to_owned()),
        Decision::Settled { .. } | Decision::Tracked { .. } | Decision::Commanded { .. } => panic!("no word was given"),
    };
    effects.decisions().iter().map(|(input, decision)| (*input, what(decision))).collect()
}

fn one(limits_g: [u32; 6], lines: &[(&str, u32)]) -> Result<Vec<Seen>, String> {
    let lines = lines.iter().map(|(sku, quantity)| ((*sku).to_owned(), *quantity)).collect();
    let mut effects = Effects::default();
    apply(&told(limits_g), &batch_of(&[lines]), &mut effects);
    decided(&effects).remove(0).1
}

fn g(grams: u32) -> Weight {
    Weight::known(grams)
}

const LIMITS: [u32; 6] = [1_000, 1_000, 1_000, 1_000, 1_000, u32::MAX];

#[test]
fn groups_part_and_light_lines_share() {
    let parcels = one(LIMITS, &[("0:400", 1), ("2:100", 2), ("1:300", 2), ("9:5", 3), ("4:1", 1)]).unwrap();
    let chilled = (Group::Chilled, 0, g(1_000), vec![(0, None), (2, None)]);
    let ambient = (Group::Ambient, 1, g(201), vec![(1, None), (4, None)]);
    assert_eq!(parcels, [chilled, ambient]);
}

#[test]
fn a_parcel_is_an_estimate_if_any_of_its_goods_is() {
    let parcels = one(LIMITS, &[("0:~400", 1), ("2:100", 2), ("1:300", 2), ("5:~600", 2), ("9:~1", 1)]).unwrap();
    let weights: Vec<Weight> = parcels.iter().map(|p| p.2).collect();
    let guess = |grams| Weight { grams, estimated: true };
    assert_eq!(weights, [guess(1_000), g(200), guess(600), guess(600)]);
}

#[test]
fn a_line_that_fits_a_parcel_is_kept_together() {
    let parcels = one(LIMITS, &[("0:600", 1), ("0:300", 2), ("0:400", 1)]).unwrap();
    let first = (Group::Chilled, 0, g(1_000), vec![(0, None), (2, None)]);
    let second = (Group::Chilled, 1, g(600), vec![(1, None)]);
    assert_eq!(parcels, [first, second]);
}

#[test]
fn a_heavy_line_fills_what_room_there_is() {
    let parcels = one(LIMITS, &[("5:500", 1), ("5:300", 5)]).unwrap();
    let first = (Group::Frozen, 0, g(800), vec![(0, Some(1)), (1, Some(1))]);
    let second = (Group::Frozen, 1, g(900), vec![(1, Some(3))]);
    let third = (Group::Frozen, 2, g(300), vec![(1, Some(1))]);
    assert_eq!(parcels, [first, second, third]);
}

#[test]
fn a_unit_over_every_limit_is_alone() {
    let parcels = one(LIMITS, &[("0:1", 1), ("0:1001", 2), ("0:1", 1), ("1:2000", 1)]).unwrap();
    let light = (Group::Chilled, 0, g(2), vec![(0, None), (2, None)]);
    let heavy = |number, line, grams, quantity| (Group::Chilled, number, g(grams), vec![(line, quantity)]);
    assert_eq!(parcels, [light, heavy(1, 1, 1_001, Some(1)), heavy(2, 1, 1_001, Some(1)), heavy(3, 3, 2_000, None)]);
}

#[test]
fn a_group_that_no_carrier_takes_is_not_split() {
    let parcels = one(LIMITS, &[("8:1000000", 1_000), ("8:7", 1)]).unwrap();
    assert_eq!(parcels, [(Group::LivePlant, 0, g(1_000_000_007), vec![(0, None), (1, None)])]);
    let weights: Vec<Weight> = one(LIMITS, &[("8:4294967295", 2)]).unwrap().iter().map(|p| p.2).collect();
    assert_eq!(weights, [g(u32::MAX), g(u32::MAX)]);
}

#[test]
fn what_is_held_waits_alone_in_parcels_that_any_carrier_takes() {
    let limits = [1_000, 700, 1_000, 1_000, 1_000, u32::MAX];
    let orders =
        [vec![("0:400".to_owned(), 1), ("?7:300".to_owned(), 5), ("?9:1".to_owned(), 1), ("1:1".to_owned(), 1)]];
    let mut effects = Effects::default();
    apply(&told(limits), &batch_of(&orders), &mut effects);
    let seen = |p: &sluice_pipeline::effects::Parcel| {
        let items: Vec<_> = effects.items(p).iter().map(|i| (i.line, i.quantity)).collect();
        (p.route.clone(), p.weight.grams, items)
    };
    let [hazmat, coupon] = [Handling::HazmatCheck, Handling::NonGoods].map(|likely| Route::Held(likely, 41));
    let parcels: Vec<_> = effects.parcels().iter().map(seen).collect();
    assert_eq!(
        parcels,
        [
            (Route::Open, 401, vec![(0, None), (3, None)]),
            (hazmat.clone(), 600, vec![(1, Some(2))]),
            (hazmat.clone(), 600, vec![(1, Some(2))]),
            (hazmat, 300, vec![(1, Some(1))]),
            (coupon, 1, vec![(2, None)]),
        ]
    );
}

#[test]
fn what_is_held_never_asks_for_too_many_parcels() {
    let limits = [2_000, 100_000, 100_000, 100_000, 1_000, 100_000];
    let held = |quantity| {
        let mut effects = Effects::default();
        let orders = [vec![("0:1500".to_owned(), 3), ("?3:500".to_owned(), quantity)]];
        apply(&told(limits), &batch_of(&orders), &mut effects);
        effects.parcels().iter().map(|p| (p.route == Route::Open, p.weight.grams)).collect::<Vec<_>>()
    };
    let all = held(394);
    assert!(all.len() == MAX_PARCELS && all[3..].iter().all(|parcel| *parcel == (false, 1_000)), "{}", all.len());
    // One more would be too many, so they are as large as what they seem to be may be.
    assert_eq!(held(395)[3..], [(false, 100_000), (false, 97_500)]);
}

#[test]
fn what_cannot_be_split_is_rejected_by_name() {
    assert_eq!(one(LIMITS, &[("9:5", 1)]), Ok(Vec::new()));
    assert_eq!(one(LIMITS, &[("0:1000", MAX_PARCELS as u32)]).map(|p| p.len()), Ok(MAX_PARCELS));
    assert_eq!(one(LIMITS, &[("0:1000", 201)]), Err("the order needs more than 200 parcels".to_owned()));
    assert_eq!(one(LIMITS, &[("0:1", 1), ("0:1", 0)]), Err("line 1 has no units".to_owned()));
    assert_eq!(one(LIMITS, &[("0:1", 1); MAX_LINES]).map(|p| p.len()), Ok(1));
    let reason = "the order has 101 lines, at most 100 are taken";
    assert_eq!(one(LIMITS, &[("0:1", 1); MAX_LINES + 1]), Err(reason.to_owned()));
}

#[test]
fn a_malformed_record_is_rejected_and_stops_nobody() {
    let whole = batch_of(&[vec![("0:5".to_owned(), 1)]]);
    let meta = *whole.meta(0);
    for cut in 0..whole.record(0).len() {
        let mut batch = Batch::default();
        batch.push_placed(meta.order, meta.fingerprint, &whole.record(0)[..cut]);
        push(&mut batch, &[("0:5".to_owned(), 1)]);
        let mut effects = Effects::default();
        apply(&told(LIMITS), &batch, &mut effects);
        let decided = decided(&effects);
        let reason = decided[0].1.as_ref().unwrap_err();
        assert!(reason.starts_with("the order record can't be read: "), "{reason}");
        assert_eq!(decided[1].1.as_ref().map(Vec::len), Ok(1));
        assert_eq!(effects.parcels().len(), 1);
    }
}

#[test]
fn decisions_name_the_chain_that_made_them() {
    let stage = told(LIMITS);
    let mut effects = Effects::default();
    apply(&stage, &batch_of(&[]), &mut effects);
    let chain = stage.knowledge.now();
    assert_eq!((effects.rules, effects.model, stage.name()), (chain.version(), 0, "classify"));
    let other = || Chain::new(Vec::new(), FALLBACK).with_model(Box::new(Told));
    stage.knowledge.replace(other());
    apply(&stage, &batch_of(&[]), &mut effects);
    assert_eq!((effects.rules, effects.model), (other().version(), other().model_version()));
    assert!(effects.rules != chain.version() && effects.model > 0);
}

fn orders() -> impl Strategy<Value = Vec<Vec<(String, u32)>>> {
    let weight = prop_oneof![8 => 0u32..2_000, 1 => 2_000u32..60_000, 1 => Just(u32::MAX)];
    let guess = prop_oneof![3 => Just(""), 1 => Just("~")];
    let held = prop_oneof![9 => Just(""), 1 => Just("?")];
    let line = (held, 0usize..10, guess, weight, prop_oneof![9 => 1u32..8, 1 => 0u32..=1_000]);
    let line = line
        .prop_map(|(held, handling, guess, weight, quantity)| (format!("{held}{handling}:{guess}{weight}"), quantity));
    let few = proptest::collection::vec(line.clone(), 0..12);
    let many = proptest::collection::vec(line, 90..105);
    proptest::collection::vec(prop_oneof![9 => few, 1 => many], 0..8)
}

fn limits() -> impl Strategy<Value = [u32; 6]> {
    proptest::array::uniform6(prop_oneof![4 => 1u32..40_000, 1 => Just(u32::MAX)])
}

fn check_order(limits_g: [u32; 6], lines: &[(String, u32)], parcels: &[Seen]) {
    let known = |line: u16| {
        let sku = &lines[usize::from(line)].0;
        Told.classify(&Line { sku, title: "", quantity: 1, unit_price: 1 }).unwrap()
    };
    let mut units = vec![0u64; lines.len()];
    for (index, (group, number, total, items)) in parcels.iter().enumerate() {
        assert_eq!(usize::from(*number), index);
        assert!(!items.is_empty() && (items.iter().all(|i| i.1.is_some()) || items.iter().all(|i| i.1.is_none())));
        let (mut weight, mut count, mut estimated) = (0, 0, false);
        for (line, quantity) in items {
            let quantity = u64::from(quantity.unwrap_or(lines[usize::from(*line)].1));
            let likely = known(*line).handling.group().or(known(*line).hold.then_some(Group::Ambient));
            assert_eq!(likely, Some(*group));
            assert!(!known(*line).hold || items.len() == 1, "what is held shares with nothing");
            units[usize::from(*line)] += quantity;
            count += quantity;
            estimated |= known(*line).estimated;
            weight += quantity * u64::from(known(*line).unit_weight_g.max(1));
        }
        assert_eq!((weight, estimated), (u64::from(total.grams), total.estimated));
        let held = known(items[0].0).hold;
        let strictest = *limits_g.iter().min().unwrap();
        let needed = |line: u16| {
            let unit = known(line).unit_weight_g.max(1);
            lines[usize::from(line)].1.div_ceil((strictest / unit).max(1)) as usize
        };
        let others = parcels.iter().filter(|p| p.3[0].0 != items[0].0).count();
        let strict = held && others + needed(items[0].0) <= MAX_PARCELS;
        let limit_g = if strict { strictest } else { limits_g[*group as usize] };
        assert!(total.grams <= limit_g || count == 1);
    }
    for (line, units) in units.into_iter().enumerate() {
        let ships = known(line as u16).hold || known(line as u16).handling.group().is_some();
        assert_eq!(units, if ships { u64::from(lines[line].1) } else { 0 });
    }
}

proptest! {
    #[test]
    fn items_are_conserved_within_group_and_limit(orders in orders(), limits_g in limits()) {
        let mut effects = Effects::default();
        apply(&told(limits_g), &batch_of(&orders), &mut effects);
        let decided = decided(&effects);
        prop_assert_eq!(decided.len(), orders.len());
        for ((input, done), lines) in decided.iter().zip(&orders) {
            match done {
                Ok(parcels) => check_order(limits_g, lines, parcels),
                Err(reason) => {
                    let poor = lines.len() > MAX_LINES || lines.iter().any(|l| l.1 == 0);
                    prop_assert!(poor || reason.contains("parcels"), "input {}: {}", input, reason);
                }
            }
        }
    }

    #[test]
    fn a_batch_is_its_inputs_one_by_one(orders in orders(), limits_g in limits()) {
        let (stage, batch) = (told(limits_g), batch_of(&orders));
        let (mut together, mut alone) = (Effects::default(), Effects::default());
        apply(&stage, &batch, &mut together);
        let ctx = Ctx { now_ms: 7, carriers: &[] };
        for input in 0..batch.len() {
            stage.apply(&ctx, &Rows::default(), &batch.view(input..input + 1), &mut alone);
        }
        prop_assert_eq!(decided(&together), decided(&alone));
    }
}

/// `cargo test --release -p sluice-classify -- --ignored --nocapture pace`
#[test]
#[ignore = "a measurement"]
fn pace() {
    let (catalogue, baskets) = (Arc::new(sluice_data::catalogue().unwrap()), sluice_data::baskets().unwrap());
    let stage = {
        let (learned, rules) = (Arc::new(Learned::default()), Arc::new(Rules::embedded().unwrap()));
        Classify::new(Arc::new(Knowledge::new(Chain::standard(catalogue, learned, rules))), [30_000; 6])
    };
    let order = |lines: usize, known: bool, basket: sluice_data::Basket<'_>| -> Vec<(String, u32)> {
        let sku = |sku: u32| if known { sku.to_string() } else { format!("ABC-{sku}") };
        basket.lines.iter().take(lines).map(|line| (sku(line.sku), line.quantity)).collect()
    };
    for (name, lines, known) in [
        ("2 lines", 2, true),
        ("baskets", 100, true),
        ("2 lines, by rules", 2, false),
        ("baskets, by rules", 100, false),
    ] {
        let enough = baskets.iter().filter(|b| b.lines.len() >= 2);
        let orders: Vec<_> = enough.take(4_000).map(|b| order(lines, known, b)).collect();
        let all = orders.iter().map(Vec::len).sum::<usize>() as f64 / orders.len() as f64;
        let (batch, mut effects) = (batch_of(&orders), Effects::default());
        let mut best = f64::MAX;
        let mut decode = f64::MAX;
        for _ in 0..50 {
            effects.clear();
            let start = Instant::now();
            apply(&stage, &batch, &mut effects);
            best = best.min(start.elapsed().as_nanos() as f64 / orders.len() as f64);
            let start = Instant::now();
            let view = batch.view(0..batch.len());
            let units: u64 =
                view.placed().flat_map(|(_, o)| o.unwrap().lines()).map(|l| u64::from(l.unwrap().quantity)).sum();
            decode = decode.min(start.elapsed().as_nanos() as f64 / orders.len() as f64);
            assert!(units > 0);
        }
        println!("{name} ({all:.1} a order): {best:.0} ns an order, of which decoding the record {decode:.0} ns");
    }
}
