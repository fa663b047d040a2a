//! Addresses to ship to, since the source has none. Each is put together from the tables below: surnames, streets and
//! towns are invented and postal codes are made up within the state's range, so nobody's address is in an order, and a
//! likeness is chance.
//!
//! A town carries its state because an order's address has no field for it.

use crate::text::{push_digits, push_number};

#[rustfmt::skip]
const GIVEN: [&str; 48] = [
    "Adele", "Alban", "Amara", "Anselm", "Beatrix", "Bram", "Calla", "Cedric", "Cosima", "Damaris", "Dorian", "Edda",
    "Elias", "Elowen", "Emeric", "Fabian", "Fern", "Florian", "Ginevra", "Griffin", "Hanno", "Henrike", "Imogen",
    "Isidor", "Jasper", "Jovana", "Kasimir", "Kestrel", "Leander", "Linnea", "Lorenz", "Maribel", "Marlow", "Nadia",
    "Nicanor", "Odile", "Osric", "Paloma", "Quentin", "Rosalind", "Rufus", "Sabine", "Silvan", "Tamsin", "Theodora",
    "Ulric", "Verena", "Wendel",
];

#[rustfmt::skip]
const SURNAME: [&str; 48] = [
    "Alderquist", "Amberwick", "Ashenfell", "Barrowmere", "Birchmont", "Blackthistle", "Brackenridge", "Brindlecote",
    "Cloverwright", "Cinderford", "Copperwhite", "Dapplewether", "Duskworth", "Elderbeck", "Emberlane", "Fallowhurst",
    "Fennimarsh", "Foxhollow", "Galewether", "Goldenrow", "Graymantle", "Hawkmantle", "Hazelfathom", "Hollisbrook",
    "Ironbridge", "Juniperson", "Kettlesby", "Larkmeadow", "Lindenthorpe", "Maplecroft", "Meadowsweet", "Millowmere",
    "Nettlefield", "Oakenpool", "Orchardmoor", "Pennywhistle", "Pinecastle", "Quillfeather", "Ravenquill", "Rowanberry",
    "Saltheron", "Silverhythe", "Stonewillow", "Tanglewood", "Thistledown", "Umberfield", "Willowmere", "Yarrowstone",
];

#[rustfmt::skip]
const STREET: [&str; 40] = [
    "Amber Quarry", "Beacon Orchard", "Birch Hollow", "Blue Heron", "Bramble Ridge", "Candlewick", "Cedar Mill",
    "Chestnut Crossing", "Clover Meadow", "Copper Kettle", "Cranberry Bog", "Dogwood Glen", "Eagle Rock",
    "Elderberry", "Fernwood", "Foxglove", "Gooseberry Hill", "Granite Ledge", "Harvest Moon", "Hickory Grove",
    "Honeysuckle", "Juniper Point", "Kingfisher", "Lantern Hill", "Larkspur", "Lighthouse", "Maple Terrace",
    "Mill Pond", "Morning Glory", "Old Cannery", "Orchard View", "Pebble Creek", "Pheasant Run", "Quail Hollow",
    "Red Barn", "Sawmill Creek", "Sugar Maple", "Sycamore", "Whispering Pine", "Windmill",
];

#[rustfmt::skip]
const SUFFIX: [&str; 10] =
    ["Street", "Avenue", "Lane", "Drive", "Court", "Boulevard", "Parkway", "Circle", "Road", "Terrace"];

#[rustfmt::skip]
const QUARTER: [&str; 8] = ["North", "South", "East", "West", "Upper", "Lower", "Northeast", "Southwest"];

/// What people who don't live in an apartment write behind their street.
#[rustfmt::skip]
const NOTE: [&str; 8] = [
    "leave at the side door", "leave on the back porch", "ring the lower bell", "behind the white garage",
    "leave with the front desk", "second house on the left", "use the gate on the alley", "knock, bell is broken",
];

/// Town with state, and the first three digits of its postal codes.
#[rustfmt::skip]
const TOWN: [(&str, u64); 32] = [
    ("Alder Falls, Ohio", 441), ("Amberton, Kentucky", 402), ("Ashgrove Heights, Indiana", 461),
    ("Barrow Springs, Tennessee", 371), ("Birchport, Michigan", 482),
    ("Bluewater Junction, Ohio", 452), ("Bramblewood, Illinois", 604),
    ("Candlebury, Pennsylvania", 152), ("Cedar Landing, West Virginia", 254),
    ("Clearbrook Mills, Ohio", 430), ("Copper Ridge, Kentucky", 411), ("Cranfield, Indiana", 474),
    ("Dunmarrow, Georgia", 303), ("East Larkspur, Virginia", 232),
    ("Elmhaven, North Carolina", 276), ("Fallow Creek, Ohio", 456), ("Fernbridge, Michigan", 496),
    ("Foxborough Glen, Pennsylvania", 170), ("Goldenrod, South Carolina", 293),
    ("Granite Bend, Tennessee", 384), ("Harborview Point, Maryland", 216),
    ("Hazelton Crossing, Indiana", 478), ("Ironwood Flats, Illinois", 625),
    ("Juniper Hills, Kentucky", 421), ("Kingsmarrow, Virginia", 245),
    ("Lakemont Shores, Michigan", 490), ("Maple Orchard, Ohio", 446),
    ("North Willowdale, Pennsylvania", 168), ("Pebbleford, North Carolina", 288),
    ("Quarry Hill, West Virginia", 262), ("Sawyer's Landing, Georgia", 317),
    ("Windmere Park, Ohio", 458),
];

/// Whitens `state` (SplitMix64), so that neighbouring numbers give unrelated draws.
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Draws from one seed, one after another.
pub(crate) struct Draws(u64);

impl Draws {
    /// The draws of one `item` under a seed.
    pub(crate) fn new(seed: u64, item: u64) -> Self {
        Self(mix(mix(seed) ^ item))
    }

    /// A number below `bound`, without a division.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = mix(self.0);
        ((u128::from(self.0) * bound as u128) >> 64) as usize
    }

    fn pick<T: Copy + Default>(&mut self, table: &[T]) -> T {
        let at = self.below(table.len());
        table.get(at).copied().unwrap_or_default()
    }
}

/// The household's address under this seed, always the same one, as a JSON object. The tables hold nothing that JSON
/// would have to escape.
pub(crate) fn push_address(out: &mut Vec<u8>, seed: u64, household: u32) {
    // Shipping draws apart from those of lines: an order's number must not decide who lives where.
    let mut draws = Draws::new(seed ^ 0x6164_6472_6573_7365, u64::from(household));
    out.extend_from_slice(b"{\"name\":\"");
    out.extend_from_slice(draws.pick(&GIVEN).as_bytes());
    out.push(b' ');
    out.extend_from_slice(draws.pick(&GIVEN).as_bytes());
    out.push(b' ');
    out.extend_from_slice(draws.pick(&SURNAME).as_bytes());
    out.extend_from_slice(b"\",\"street\":\"");
    push_number(out, draws.below(9_899) + 100);
    out.push(b' ');
    out.extend_from_slice(draws.pick(&QUARTER).as_bytes());
    out.push(b' ');
    out.extend_from_slice(draws.pick(&STREET).as_bytes());
    out.push(b' ');
    out.extend_from_slice(draws.pick(&SUFFIX).as_bytes());
    // About a third of the households of the country live in apartments.
    if draws.below(3) == 0 {
        out.extend_from_slice(b", Building ");
        out.push(b'A' + draws.below(6) as u8);
        out.extend_from_slice(b", Apartment ");
        push_number(out, draws.below(60) + 1);
    } else {
        out.extend_from_slice(b", ");
        out.extend_from_slice(draws.pick(&NOTE).as_bytes());
    }
    let (town, prefix) = draws.pick(&TOWN);
    out.extend_from_slice(b"\",\"city\":\"");
    out.extend_from_slice(town.as_bytes());
    out.extend_from_slice(b"\",\"postal_code\":\"");
    push_digits::<3>(out, prefix);
    push_digits::<2>(out, draws.below(100) as u64);
    out.push(b'-');
    push_digits::<4>(out, draws.below(10_000) as u64);
    out.extend_from_slice(b"\",\"country\":\"US\"}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn address(seed: u64, household: u32) -> String {
        let mut out = Vec::new();
        push_address(&mut out, seed, household);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_household_stays_where_it_lives() {
        assert_eq!(address(1, 77), address(1, 77));
        assert_ne!(address(1, 77), address(2, 77));
        let distinct: HashSet<String> = (1..=2_500).map(|household| address(1, household)).collect();
        assert_eq!(distinct.len(), 2_500);
    }

    #[test]
    fn tables_need_no_escaping() {
        let towns = TOWN.iter().map(|(town, _)| town);
        for text in GIVEN.iter().chain(&SURNAME).chain(&QUARTER).chain(&STREET).chain(&SUFFIX).chain(&NOTE).chain(towns)
        {
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\'), "{text}");
        }
    }

    #[test]
    fn draws_reach_every_value() {
        let mut draws = Draws::new(7, 0);
        let seen: HashSet<usize> = (0..1_000).map(|_| draws.below(48)).collect();
        assert_eq!(seen.len(), 48);
    }
}
