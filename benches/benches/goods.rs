//! How many titles a model judges on one core, beside what reading and hashing their bytes alone would allow.
//!
//! The model is trained without a fifth of the product types, and judges the titles of those: types that it has never seen.
//! Nothing is kept from one title to the next. `unknown words` are the same titles with every word changed into one that no
//! dictionary has.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark ends at its first surprise")]

use std::{hint::black_box, path::Path};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice_domain::Handling;
use sluice_goods::{
    Model,
    text::Normal,
    train::{Catalogue, Options, Product, train},
};

/// Of so many product types one is held back, by a hash of its name.
const OF: u64 = 5;

fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The kept catalogue, whose titles are `{type} | {size}`.
fn products() -> Vec<Product> {
    let catalogue = sluice_data::catalogue().unwrap();
    let product = |product: sluice_data::Product<'_>| {
        let title = product.title();
        let (kind, size) = title.split_once(" | ").map_or((title, None), |(kind, size)| (kind, Some(size)));
        Product {
            product_type: kind.to_owned(),
            package_size: size.map(str::to_owned),
            manufacturer: None,
            department: Some(product.department().to_owned()),
            handling: Handling::ALL[usize::from(product.handling)],
        }
    };
    catalogue.iter().map(product).collect()
}

/// The title with a letter before and behind each of its words.
fn unknown(title: &str) -> String {
    let (kind, size) = title.split_once(" | ").unwrap_or((title, ""));
    let words = kind.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    let words: Vec<String> = words.map(|word| format!("q{word}x")).collect();
    format!("{} | {size}", words.join(" "))
}

fn goods(c: &mut Criterion) {
    let (held, learned): (Vec<Product>, Vec<Product>) =
        products().into_iter().partition(|product| fnv(product.product_type.as_bytes()).is_multiple_of(OF));
    let options = Options { name: "held back".into(), seed: 1, makers: false };
    let bytes = train(&Catalogue { products: learned }, &options, &|_, _| {}).unwrap();
    let model = Model::parse(&bytes).unwrap();
    let titles: Vec<String> = held.iter().map(Product::title).collect();
    let strange: Vec<String> = titles.iter().map(|title| unknown(title)).collect();
    let mut group = c.benchmark_group("goods");
    for (name, titles) in [("unseen types", &titles), ("unknown words", &strange)] {
        group.throughput(Throughput::Elements(titles.len() as u64));
        group.bench_with_input(BenchmarkId::new("judge", name), titles, |b, titles| {
            b.iter(|| titles.iter().for_each(|title| _ = black_box(model.judge(black_box(title), None))));
        });
        group.bench_with_input(BenchmarkId::new("judge, every word spelled", name), titles, |b, titles| {
            b.iter(|| titles.iter().for_each(|title| _ = black_box(model.judge_spelled(black_box(title), None))));
        });
        group.bench_with_input(BenchmarkId::new("ceiling: normalise and hash", name), titles, |b, titles| {
            b.iter(|| titles.iter().for_each(|title| _ = black_box(fnv(Normal::of(black_box(title)).bytes()))));
        });
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/goods/model.slm");
    group.throughput(Throughput::Elements(1));
    group.bench_function("load the embedded model", |b| b.iter(|| Model::load(&path).unwrap()));
    group.finish();
}

criterion_group!(benches, goods);
criterion_main!(benches);
