//! Spellings by example, laws over the whole grammar, and a cross-check with the catalogue, whose weights another program
//! has read off the same sizes.

use std::{collections::HashMap, time::Instant};

use proptest::prelude::*;

use super::*;

fn size(count: u32, quantity: f64, unit: Unit) -> Option<Size> {
    Some(Size { count, quantity: (quantity * f64::from(SCALE)).round() as u32, unit })
}

#[test]
fn sizes_of_the_catalogue_are_read() {
    use Unit::*;
    for (text, expected) in [
        ("16 OZ", size(1, 16.0, Ounce)),
        ("2 - 12 OZ", size(2, 12.0, Ounce)),
        ("12 PK/12 OZ", size(12, 12.0, Ounce)),
        ("12 OZ/12 PK", size(12, 12.0, Ounce)),
        ("6 P/16.9 OZ", size(6, 16.9, Ounce)),
        ("12 16.9 OZ", size(12, 16.9, Ounce)),
        ("6/.5 L", size(6, 0.5, Litre)),
        ("6 X25 GM", size(6, 25.0, Gram)),
        ("6 CT/15 OZ", size(1, 15.0, Ounce)),
        ("1/2 GAL", size(1, 0.5, Gallon)),
        ("HALF GAL", size(1, 0.5, Gallon)),
        ("GAL", size(1, 1.0, Gallon)),
        ("1 GA", size(1, 1.0, Gallon)),
        ("2 GL", size(1, 2.0, Gallon)),
        ("1 QT.", size(1, 1.0, Quart)),
        ("1/2 PTS", size(1, 0.5, Pint)),
        ("14. OZ", size(1, 14.0, Ounce)),
        ("19.8 Z", size(1, 19.8, Ounce)),
        ("7/8 OZ", size(1, 0.875, Ounce)),
        ("2/8 OZ", size(2, 8.0, Ounce)),
        ("10 3/4 OZ", size(1, 10.75, Ounce)),
        ("1-3/4 LB", size(1, 1.75, Pound)),
        ("3-LB BAG", size(1, 3.0, Pound)),
        ("2 LB 3 OZ", size(1, 35.0, Ounce)),
        ("3-4 LB", None),
        ("1.75 ML", size(1, 1.75, Litre)),
        ("L    16 OZ", size(1, 16.0, Ounce)),
        ("22515 32 OZ", size(1, 32.0, Ounce)),
        ("24 CT", size(1, 24.0, Piece)),
        ("2 DZ", size(1, 24.0, Piece)),
        ("6 PK", size(1, 6.0, Piece)),
        ("12 PK/12 0 Z", size(1, 12.0, Piece)),
        ("51 CT8 KG51", size(1, 51.0, Piece)),
        ("120 CT/81 MG", size(1, 120.0, Piece)),
        ("18 IN", None),
        ("LARGE", None),
        ("0 OZ", None),
        ("", None),
    ] {
        assert_eq!(parse(text), expected, "{text}");
    }
}

#[test]
fn sizes_in_titles_are_read() {
    use Unit::*;
    for (title, expected) in [
        ("FLUID MILK WHITE ONLY | 1 GA", size(1, 1.0, Gallon)),
        ("Olive oil 2 x 750ml", size(2, 750.0, Millilitre)),
        ("Cola 6×330 ml (1.98 L)", size(1, 1.98, Litre)),
        ("Limonade 0,33 L x 6", size(6, 0.33, Litre)),
        ("Mehl 1,5 kg", size(1, 1.5, Kilogram)),
        ("Reis 1,000\u{a0}g", size(1, 1_000.0, Gram)),
        ("Prosecco 75 cl", size(1, 75.0, Centilitre)),
        ("Shampoo, 12 Fl. Oz. (Pack of 3)", size(3, 12.0, FluidOunce)),
        ("Ice cream half gallon", size(1, 0.5, Gallon)),
        ("Protein bar 12 pack 60g", size(12, 60.0, Gram)),
        ("Rice 25 lbs", size(1, 25.0, Pound)),
        ("Eggs free range, 12 count", size(1, 12.0, Piece)),
        ("Vitamin B12 500 tablets", None),
        ("5G phone, 128 GB", None),
        ("Chicken 500-600 g", None),
        ("Bulbs | 3-4 LB", None),
        ("Levi's 501", None),
        ("", None),
    ] {
        assert_eq!(in_title(title), expected, "{title}");
    }
}

#[test]
fn what_fits_in_is_no_weight() {
    let weight = |text, holds_goods| parse(text).and_then(|size| size.weight(holds_goods));
    assert_eq!((weight("1 GAL", true), weight("1 GAL", false)), (Some(3_785), None));
    assert_eq!((weight("13 GAL", true), weight("33 GAL", false)), (None, None));
    assert_eq!(
        (weight("1.5 L", false), weight("30 L", false), weight("20 L", true)),
        (Some(1_500), None, Some(20_000))
    );
    assert_eq!((weight("8 OZ", false), weight("24 CT", true)), (Some(227), None));
    assert_eq!((weight(".01 OZ", true), weight("80 LB", true), weight("25 KG", true)), (None, None, Some(25_000)));
}

/// Products whose size stands in their title: class, weight if the catalogue knows it, title.
fn sized(catalogue: &sluice_data::Catalogue) -> Vec<(bool, Option<u32>, &str)> {
    let sized = catalogue.iter().filter(|product| product.title().contains(" | "));
    let holds_goods = |name| !["ambient_general", "live_plant", "non_goods"].contains(&name);
    sized.map(|p| (holds_goods(p.handling_name()), (!p.estimated).then_some(p.weight_g), p.title())).collect()
}

/// 85 % of the sizes present are the least that is to be read.
#[test]
fn most_sizes_are_weights_or_volumes_and_weigh_what_the_catalogue_says() {
    let catalogue = sluice_data::catalogue().unwrap();
    let products = sized(&catalogue);
    let (mut read, mut distinct, mut differ) = (0, HashMap::new(), Vec::new());
    for &(holds_goods, known, title) in &products {
        let text = title.rsplit(" | ").next().unwrap();
        let found = parse(text);
        let measured = found.is_some_and(|size| size.unit.kind() != Kind::Count);
        // Else what stands before it may say more: `POPULAR 750ML WINES | 75 O ML`.
        assert!(!measured || in_title(title) == found, "{title}");
        read += usize::from(measured);
        distinct.insert(text, measured);
        let weight = found.and_then(|size| size.weight(holds_goods));
        if weight != known {
            differ.push((title, known, weight));
        }
    }
    assert_eq!((read, products.len()), (52_549, 61_745), "85.1 % of products with a size");
    assert_eq!((distinct.values().filter(|measured| **measured).count(), distinct.len()), (2_417, 3_705));
    // Four-and-a-half and a space: two numbers as far as this reads.
    let typo = differ.iter().all(|(title, ..)| title.ends_with("| 4. 5 OZ"));
    assert!(typo && differ.len() == 1, "{differ:?}");
}

/// Decisions name the version of what made them.
#[test]
fn a_text_read_otherwise_is_another_version() {
    let catalogue = sluice_data::catalogue().unwrap();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for product in catalogue.iter() {
        let found = in_title(product.title()).map_or((0, 0, 99), |s| (s.count, s.quantity, s.unit as u32));
        for part in [found.0, found.1, found.2] {
            hash = (hash ^ u64::from(part)).wrapping_mul(0x100_0000_01b3);
        }
    }
    assert_eq!((VERSION, hash), (1, FROZEN), "raise VERSION, and freeze {hash:#x} for it");
}

const FROZEN: u64 = 0xfbdb_fd37_0b69_384a;

const UNITS: [(Unit, &[&str]); 11] = [
    (Unit::Gram, &["G", "GM", "GR", "gram", "Grams"]),
    (Unit::Kilogram, &["KG", "kilo", "kgs"]),
    (Unit::Ounce, &["OZ", "ozs", "Ounces"]),
    (Unit::Pound, &["LB", "LBS", "pounds"]),
    (Unit::Millilitre, &["ML", "mls", "Millilitres"]),
    (Unit::Centilitre, &["CL", "centilitre"]),
    (Unit::Litre, &["L", "LT", "LTR", "litre", "Liters"]),
    (Unit::FluidOunce, &["FL OZ", "fl. oz.", "FLOZ", "Fluid Ounces"]),
    (Unit::Pint, &["PT", "PTS", "pint"]),
    (Unit::Quart, &["QT", "quarts"]),
    (Unit::Gallon, &["GAL", "GA", "GL", "gallon"]),
];

/// A size, and a text that states it.
fn written() -> impl Strategy<Value = (Size, String)> {
    let form = (0usize..UNITS.len(), any::<prop::sample::Index>(), 0u8..7, 1u32..=48);
    (form, 100_000u32..2_000_000, 0u32..4, any::<bool>()).prop_map(
        |((unit, name, form, packs), quantity, digits, tight)| {
            let (unit, names) = UNITS[unit];
            let step = 10u32.pow(4 - digits);
            let quantity = quantity / step * step;
            let name = names[name.index(names.len())];
            let number = f64::from(quantity) / f64::from(SCALE);
            let space = if tight { "" } else { " " };
            let one = format!("{number}{space}{name}");
            let size = Size { count: 1, quantity, unit };
            let (text, packs, written_out) = match form {
                0 => (one, 1, false),
                1 => (format!("{packs} PK/{one}"), packs, false),
                2 => (format!("{one}/{packs} PK"), packs, false),
                3 => (format!("{packs} x {one}"), packs, true),
                4 => (format!("{packs} Pack {one}"), packs, false),
                5 => (format!("{packs}×{one}"), packs, true),
                _ => (format!("{one} x {packs}"), packs, true),
            };
            (size.times(packs, written_out), text)
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back((size, text) in written()) {
        prop_assert_eq!(parse(&text), Some(size), "{}", text);
        prop_assert_eq!(in_title(&format!("Something nice | {text}")), Some(size), "{}", text);
        prop_assert_eq!(in_title(&format!("Something nice, {text}")), Some(size), "{}", text);
    }

    #[test]
    fn fractions_are_read_back(
        whole in 0u32..20,
        (part, of) in prop::sample::select(vec![(1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (5, 8), (7, 8), (9, 16)]),
        unit in 0..UNITS.len(),
        hyphen: bool,
    ) {
        let (unit, names) = UNITS[unit];
        let quantity = whole * SCALE + (f64::from(part * SCALE) / f64::from(of)).round() as u32;
        let sign = if hyphen { "-" } else { " " };
        let text = if whole == 0 { format!("{part}/{of} {}", names[0]) } else { format!("{whole}{sign}{part}/{of} {}", names[0]) };
        // Less than 5 ml is a slip for litres.
        let unit = if unit == Unit::Millilitre && quantity < 5 * SCALE { Unit::Litre } else { unit };
        prop_assert_eq!(parse(&text), Some(Size { count: 1, quantity, unit }), "{}", text);
    }

    #[test]
    fn pounds_and_ounces_add_up(pounds in 1u32..50, tenths in 1u32..160) {
        let ounces = f64::from(tenths) / 10.0;
        let quantity = pounds * 16 * SCALE + tenths * SCALE / 10;
        let size = Size { count: 1, quantity, unit: Unit::Ounce };
        prop_assert_eq!(parse(&format!("{pounds} LB {ounces} OZ")), Some(size));
        prop_assert_eq!(in_title(&format!("Ham, {pounds}lbs {ounces}oz")), Some(size));
    }

    #[test]
    fn case_and_spacing_say_nothing((_, text) in written(), spaces in 1usize..4) {
        let spaced = text.replace(' ', &" ".repeat(spaces));
        for other in [text.to_uppercase(), text.to_lowercase(), spaced.clone(), format!(" {spaced}\t")] {
            prop_assert_eq!(parse(&other), parse(&text), "{} as {}", text, other);
        }
    }

    #[test]
    fn weight_is_linear_in_the_count(count in 1u32..10_000, quantity in 1u32.., unit in 0..UNITS.len()) {
        let one = Size { count: 1, quantity, unit: UNITS[unit].0 };
        let all = Size { count, ..one };
        prop_assert_eq!(all.milligrams(), one.milligrams().map(|mg| mg * u64::from(count)));
        let (one, all) = (one.grams().unwrap(), all.grams().unwrap());
        // Each is rounded once; the sum of rounded ones may be off by half a gram apiece.
        let off = u64::from(all).abs_diff(u64::from(one) * u64::from(count));
        prop_assert!(all == u32::MAX || 2 * off <= u64::from(count) + 1, "{} of {}", off, count);
    }

    #[test]
    fn any_text_is_read_without_a_panic_and_to_a_bounded_size(text in "(\\PC|[0-9 ./,xX×|-]|OZ|PK|LB|KG|ML|PACK OF){0,80}") {
        for found in [parse(&text), in_title(&text)].into_iter().flatten() {
            prop_assert!(found.count >= 1 && found.quantity >= 1);
            for weight in [true, false].into_iter().filter_map(|holds_goods| found.weight(holds_goods)) {
                prop_assert!((1..=MAX_GRAMS).contains(&weight));
            }
        }
    }

    #[test]
    fn what_is_beyond_the_bound_is_not_looked_at((_, text) in written(), more in "\\PC{0,40}") {
        let long = format!("{text}{}", " ".repeat(SEEN));
        prop_assert_eq!(parse(&format!("{long}{more}")), parse(&long));
        prop_assert_eq!(in_title(&format!("{long}{more}")), in_title(&long));
    }
}

/// `cargo test --release -p sluice-goods -- --ignored --nocapture pace`
#[test]
#[ignore = "a measurement"]
fn pace() {
    let catalogue = sluice_data::catalogue().unwrap();
    let titles: Vec<&str> = catalogue.iter().map(|product| product.title()).collect();
    let bytes = titles.iter().map(|title| title.len()).sum::<usize>() / titles.len();
    let best = (0..20).map(|_| {
        let start = Instant::now();
        let found = titles.iter().filter(|title| in_title(title).is_some()).count();
        assert!(found > titles.len() / 2);
        start.elapsed().as_nanos() as f64 / titles.len() as f64
    });
    println!("{:.0} ns a title of {bytes} bytes", best.fold(f64::MAX, f64::min));
}
