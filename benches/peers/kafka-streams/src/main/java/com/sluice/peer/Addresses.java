package com.sluice.peer;

/** Invented addresses: the tables and draws of Sluice's crate `sluice-data`, so that both are given the same orders. */
final class Addresses {
    private static final String[] GIVEN = {
        "Adele", "Alban", "Amara", "Anselm", "Beatrix", "Bram", "Calla", "Cedric", "Cosima", "Damaris", "Dorian",
        "Edda", "Elias", "Elowen", "Emeric", "Fabian", "Fern", "Florian", "Ginevra", "Griffin", "Hanno", "Henrike",
        "Imogen", "Isidor", "Jasper", "Jovana", "Kasimir", "Kestrel", "Leander", "Linnea", "Lorenz", "Maribel",
        "Marlow", "Nadia", "Nicanor", "Odile", "Osric", "Paloma", "Quentin", "Rosalind", "Rufus", "Sabine", "Silvan",
        "Tamsin", "Theodora", "Ulric", "Verena", "Wendel",
    };
    private static final String[] SURNAME = {
        "Alderquist", "Amberwick", "Ashenfell", "Barrowmere", "Birchmont", "Blackthistle", "Brackenridge",
        "Brindlecote", "Cloverwright", "Cinderford", "Copperwhite", "Dapplewether", "Duskworth", "Elderbeck",
        "Emberlane", "Fallowhurst", "Fennimarsh", "Foxhollow", "Galewether", "Goldenrow", "Graymantle", "Hawkmantle",
        "Hazelfathom", "Hollisbrook", "Ironbridge", "Juniperson", "Kettlesby", "Larkmeadow", "Lindenthorpe",
        "Maplecroft", "Meadowsweet", "Millowmere", "Nettlefield", "Oakenpool", "Orchardmoor", "Pennywhistle",
        "Pinecastle", "Quillfeather", "Ravenquill", "Rowanberry", "Saltheron", "Silverhythe", "Stonewillow",
        "Tanglewood", "Thistledown", "Umberfield", "Willowmere", "Yarrowstone",
    };
    private static final String[] STREET = {
        "Amber Quarry", "Beacon Orchard", "Birch Hollow", "Blue Heron", "Bramble Ridge", "Candlewick", "Cedar Mill",
        "Chestnut Crossing", "Clover Meadow", "Copper Kettle", "Cranberry Bog", "Dogwood Glen", "Eagle Rock",
        "Elderberry", "Fernwood", "Foxglove", "Gooseberry Hill", "Granite Ledge", "Harvest Moon", "Hickory Grove",
        "Honeysuckle", "Juniper Point", "Kingfisher", "Lantern Hill", "Larkspur", "Lighthouse", "Maple Terrace",
        "Mill Pond", "Morning Glory", "Old Cannery", "Orchard View", "Pebble Creek", "Pheasant Run", "Quail Hollow",
        "Red Barn", "Sawmill Creek", "Sugar Maple", "Sycamore", "Whispering Pine", "Windmill",
    };
    private static final String[] SUFFIX = {
        "Street", "Avenue", "Lane", "Drive", "Court", "Boulevard", "Parkway", "Circle", "Road", "Terrace",
    };
    private static final String[] QUARTER = {
        "North", "South", "East", "West", "Upper", "Lower", "Northeast", "Southwest",
    };
    private static final String[] NOTE = {
        "leave at the side door", "leave on the back porch", "ring the lower bell", "behind the white garage",
        "leave with the front desk", "second house on the left", "use the gate on the alley", "knock, bell is broken",
    };
    private static final String[] TOWN = {
        "Alder Falls, Ohio", "Amberton, Kentucky", "Ashgrove Heights, Indiana", "Barrow Springs, Tennessee",
        "Birchport, Michigan", "Bluewater Junction, Ohio", "Bramblewood, Illinois", "Candlebury, Pennsylvania",
        "Cedar Landing, West Virginia", "Clearbrook Mills, Ohio", "Copper Ridge, Kentucky", "Cranfield, Indiana",
        "Dunmarrow, Georgia", "East Larkspur, Virginia", "Elmhaven, North Carolina", "Fallow Creek, Ohio",
        "Fernbridge, Michigan", "Foxborough Glen, Pennsylvania", "Goldenrod, South Carolina",
        "Granite Bend, Tennessee", "Harborview Point, Maryland", "Hazelton Crossing, Indiana",
        "Ironwood Flats, Illinois", "Juniper Hills, Kentucky", "Kingsmarrow, Virginia", "Lakemont Shores, Michigan",
        "Maple Orchard, Ohio", "North Willowdale, Pennsylvania", "Pebbleford, North Carolina",
        "Quarry Hill, West Virginia", "Sawyer's Landing, Georgia", "Windmere Park, Ohio",
    };
    private static final int[] POSTAL_PREFIX = {
        441, 402, 461, 371, 482, 452, 604, 152, 254, 430, 411, 474, 303, 232, 276, 456, 496, 170, 293, 384, 216, 478,
        625, 421, 245, 490, 446, 168, 288, 262, 317, 458,
    };
    private static final long SEED = 0x6164647265737365L;

    private Addresses() {
    }

    /** Appends the household's address as a JSON object. */
    static void append(StringBuilder out, long seed, int household) {
        Draws draws = new Draws(seed ^ SEED, household);
        out.append("{\"name\":\"").append(draws.pick(GIVEN)).append(' ').append(draws.pick(GIVEN)).append(' ')
            .append(draws.pick(SURNAME));
        out.append("\",\"street\":\"").append(draws.below(9_899) + 100).append(' ').append(draws.pick(QUARTER))
            .append(' ').append(draws.pick(STREET)).append(' ').append(draws.pick(SUFFIX));
        if (draws.below(3) == 0) {
            out.append(", Building ").append((char) ('A' + draws.below(6)));
            out.append(", Apartment ").append(draws.below(60) + 1);
        } else {
            out.append(", ").append(draws.pick(NOTE));
        }
        int town = draws.below(TOWN.length);
        out.append("\",\"city\":\"").append(TOWN[town]).append("\",\"postal_code\":\"");
        digits(out, 3, POSTAL_PREFIX[town]);
        digits(out, 2, draws.below(100));
        out.append('-');
        digits(out, 4, draws.below(10_000));
        out.append("\",\"country\":\"US\"}");
    }

    private static void digits(StringBuilder out, int width, int value) {
        String text = Integer.toString(value);
        out.append("0".repeat(width - text.length())).append(text);
    }
}
