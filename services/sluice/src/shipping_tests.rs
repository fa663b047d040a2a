//! Splitting and routing together, by one table of carriers: what is packed can be carried, or is dead-lettered by name.

use std::sync::Arc;

use proptest::prelude::*;
use sluice_carrier::routing::{CarrierRule, GroupSet, Route, Table};
use sluice_classify::{Chain, Classified, Classifier, Classify, Fallback, Knowledge, Source};
use sluice_domain::{Fingerprint, Group, Handling, OrderId, SlotCount, limits::MAX_PARCELS};
use sluice_pipeline::{
    Batch, Ctx, Effects, Rows, Stage,
    effects::{Decision, Route as Routed},
};
use sluice_schemas::order::{Head, Line, ShipTo, put_head, put_line};

/// Reads class and grams of a unit from an SKU like `3:500`.
struct Told;

impl Classifier for Told {
    fn version(&self) -> u32 {
        1
    }

    fn classify(&self, line: &Line<'_>) -> Option<Classified<'_>> {
        let (handling, grams) = line.sku.split_once(':')?;
        Some(Classified {
            handling: Handling::ALL[handling.parse::<usize>().unwrap()],
            department: None,
            unit_weight_g: grams.parse().unwrap(),
            estimated: false,
            source: Source::Catalogue,
            confidence: 100,
            hold: false,
        })
    }
}

/// A line: class, grams of a unit, units.
type Goods = (usize, u32, u32);

fn batch_of(goods: &[Goods]) -> Batch {
    let fingerprint = Fingerprint::of("m-1", "k");
    let id = OrderId::new(1_794_268_800_123, fingerprint, SlotCount::DEFAULT);
    let ship_to = ShipTo { name: "A", street: "B 1", city: "C", postal_code: "1", country: "DE" };
    let head = Head {
        id: id.0,
        fingerprint_high: fingerprint.high(),
        accepted_at_ms: 1_794_268_800_200,
        merchant: "m-1",
        customer: "c-77",
        currency: "USD",
        ship_to,
        lines: goods.len(),
    };
    let mut record = Vec::new();
    put_head(&mut record, &head);
    for (handling, grams, quantity) in goods {
        let sku = format!("{handling}:{grams}");
        put_line(&mut record, &Line { sku: &sku, title: "", quantity: *quantity, unit_price: 1 });
    }
    let mut batch = Batch::default();
    batch.push_placed(id, fingerprint, &record);
    batch
}

/// A parcel: group, grams, units of each line, and its carrier or why none.
type Packed = (Group, u32, Vec<(u16, u32)>, Result<usize, String>);

fn shipped(carriers: Vec<CarrierRule>, goods: &[Goods]) -> Result<Vec<Packed>, String> {
    let table = Arc::new(Table::new(1, carriers).unwrap());
    let fallback = Fallback { handling: Handling::AmbientGeneral, unit_weight_g: 1 };
    let knowledge = Arc::new(Knowledge::new(Chain::new(vec![Box::new(Told)], fallback)));
    let (batch, ctx, mut effects) = (batch_of(goods), Ctx { now_ms: 7, carriers: &[] }, Effects::default());
    let stages: [&dyn Stage; 2] = [&Classify::new(knowledge, table.weight_limits()), &Route::new(Arc::clone(&table))];
    stages.iter().for_each(|stage| stage.apply(&ctx, &Rows::default(), &batch.view(0..1), &mut effects));
    let parcel = |index| {
        let parcel = effects.parcel(index);
        let units = |line: u16| goods[usize::from(line)].2;
        let items = effects.items(parcel).iter().map(|item| (item.line, item.quantity.unwrap_or(units(item.line))));
        let carrier = match &parcel.route {
            Routed::Carrier(number) => Ok(usize::from(*number)),
            Routed::Nobody(reason) => Err(effects.text(reason).to_owned()),
            Routed::Open | Routed::Held(..) | Routed::Nothing => panic!("a parcel was forgotten"),
        };
        (parcel.group, parcel.weight.grams, items.collect(), carrier)
    };
    match &effects.decisions()[0].1 {
        Decision::Classified { parcels, .. } => Ok(parcels.clone().map(parcel).collect()),
        Decision::Rejected { reason, .. } => Err(effects.text(reason).to_owned()),
        other => panic!("{other:?}"),
    }
}

fn rule(id: &str, groups: &[Group], max_weight_g: u32) -> CarrierRule {
    CarrierRule { max_weight_g, ..CarrierRule::new(id, GroupSet::of(groups)) }
}

/// Class 0 is chilled, class 5 frozen, class 8 a live plant.
#[test]
fn parcels_are_as_heavy_as_the_strongest_carrier_of_their_group_takes() {
    let (chilled, frozen) = (Group::Chilled, Group::Frozen);
    let nobody = |text: &str| Err(text.to_owned());
    for (strong, goods, expected) in [
        (20_000, vec![(0, 1_000, 30)], vec![(chilled, 20_000, Ok(1)), (chilled, 10_000, Ok(1))]),
        // The same after the strong one has come to take less.
        (
            12_000,
            vec![(0, 1_000, 30)],
            vec![(chilled, 12_000, Ok(1)), (chilled, 12_000, Ok(1)), (chilled, 6_000, Ok(1))],
        ),
        // The strong one takes nothing frozen.
        (20_000, vec![(5, 2_500, 3)], vec![(frozen, 5_000, Ok(0)), (frozen, 2_500, Ok(0))]),
        (
            20_000,
            vec![(0, 25_000, 2), (0, 20_000, 1)],
            vec![
                (chilled, 25_000, nobody("no carrier takes chilled parcels of 25,000 g (limit 20,000 g)")),
                (chilled, 25_000, nobody("no carrier takes chilled parcels of 25,000 g (limit 20,000 g)")),
                (chilled, 20_000, Ok(1)),
            ],
        ),
        (
            20_000,
            vec![(8, 90_000, 2)],
            vec![(Group::LivePlant, 180_000, nobody("no carrier takes live_plant parcels"))],
        ),
    ] {
        let carriers = vec![rule("light", &[chilled, frozen], 5_000), rule("strong", &[chilled], strong)];
        let found = shipped(carriers, &goods).unwrap();
        let found: Vec<_> = found.into_iter().map(|(group, grams, _, carrier)| (group, grams, carrier)).collect();
        assert_eq!(found, expected, "{goods:?}, strong takes {strong} g");
    }
}

fn carriers() -> impl Strategy<Value = Vec<CarrierRule>> {
    let one = (1u8..64, prop_oneof![1u32..3_000, 3_000u32..40_000]);
    proptest::collection::vec(one, 1..6).prop_map(|all| {
        let rule = |(number, (bits, limit_g)): (usize, (u8, u32))| {
            let groups: Vec<Group> = Group::ALL.into_iter().filter(|&group| bits >> group as u8 & 1 == 1).collect();
            rule(&number.to_string(), &groups, limit_g)
        };
        all.into_iter().enumerate().map(rule).collect()
    })
}

proptest! {
    #[test]
    fn what_can_be_carried_is_packed_so_that_it_is(
        carriers in carriers(),
        goods in proptest::collection::vec((0usize..10, prop_oneof![4 => 0u32..2_500, 1 => 0u32..50_000], 1u32..40), 0..12),
    ) {
        let parcels = match shipped(carriers.clone(), &goods) {
            Ok(parcels) => parcels,
            Err(reason) => {
                prop_assert_eq!(reason, format!("the order needs more than {MAX_PARCELS} parcels"));
                return Ok(());
            }
        };
        let mut left: Vec<u32> = goods.iter().map(|line| line.2).collect();
        for (group, grams, items, carrier) in parcels {
            let weighed: u32 = items.iter().map(|(line, units)| goods[usize::from(*line)].1.max(1) * units).sum();
            prop_assert_eq!(weighed, grams);
            for (line, units) in &items {
                prop_assert_eq!(Handling::ALL[goods[usize::from(*line)].0].group(), Some(group));
                left[usize::from(*line)] -= units;
            }
            let limit = carriers.iter().filter(|c| c.groups.contains(group)).map(|c| c.max_weight_g).max();
            let alone = items.len() == 1 && items[0].1 == 1;
            match (limit, carrier) {
                (_, Ok(number)) => {
                    let rule = &carriers[number];
                    prop_assert!(rule.groups.contains(group) && grams <= rule.max_weight_g);
                }
                (Some(limit), Err(reason)) => {
                    prop_assert!(grams > limit && alone, "{} g of {}: {:?}", grams, limit, items);
                    prop_assert!(reason.contains("(limit "), "{}", reason);
                }
                (None, Err(reason)) => prop_assert_eq!(reason, format!("no carrier takes {} parcels", group.name())),
            }
        }
        for (line, left) in left.into_iter().enumerate() {
            let ships = Handling::ALL[goods[line].0].group().is_some();
            prop_assert_eq!(left, if ships { 0 } else { goods[line].2 });
        }
    }
}
