//! The hot functions, each on its own: what an order costs between the socket and the journal.
#![allow(missing_docs, clippy::unwrap_used, clippy::type_complexity, reason = "a benchmark ends at its first surprise")]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice_carrier::{
    routing::{CarrierRule, GroupSet, Route, Table},
    simulated::tracking_number,
    webhook::Secret,
};
use sluice_checkout::decode::{Context, Key, Scratch, decode};
use sluice_classify::{Chain, Classify, Knowledge, Rules};
use sluice_data::OrderWriter;
use sluice_domain::{Fingerprint, Group, OrderId, OrderState, SlotCount, order_state::class_of_row};
use sluice_pipeline::{Batch, CarrierHealth, Ctx, Effects, Index, Rows, Stage};
use sluice_schemas::{
    delta::{Delta, Item, Items, Requested, Weight},
    order::OrderRef,
    outcome::OutcomeKind,
    wire::Reader,
};

const NOW_MS: u64 = 1_794_268_800_000;
const ORDERS: u64 = 1_000;

/// JSON bodies of two-line orders, and their records.
fn orders() -> (Vec<String>, Vec<(OrderId, Fingerprint, Vec<u8>)>) {
    let (catalogue, baskets) = (sluice_data::catalogue().unwrap(), sluice_data::baskets().unwrap());
    let writer = OrderWriter::new(&catalogue, &baskets).unwrap();
    let (mut bodies, mut records, mut scratch) = (Vec::new(), Vec::new(), Scratch::default());
    for i in 0..ORDERS {
        let mut body = Vec::new();
        writer.write_two_line_order_json(i, 7, NOW_MS, &mut body);
        let body = String::from_utf8(body).unwrap();
        let mut record = Vec::new();
        let key = i.to_string();
        let order = decode(&body, Key::Given(&key), &context(), &mut scratch, &mut record).unwrap();
        records.push((order.id, order.fingerprint, record));
        bodies.push(body);
    }
    (bodies, records)
}

fn context() -> Context<'static> {
    Context { merchant: "m-1", slots: SlotCount::DEFAULT, now_ms: NOW_MS, window_ms: 600_000 }
}

fn batch(records: &[(OrderId, Fingerprint, Vec<u8>)]) -> Batch {
    let mut batch = Batch::default();
    batch.now_ms = NOW_MS;
    for (id, fingerprint, record) in records {
        batch.push_placed(*id, *fingerprint, record);
    }
    batch
}

fn checkout(c: &mut Criterion) {
    let (bodies, records) = orders();
    let mut group = c.benchmark_group("checkout");
    group.throughput(Throughput::Elements(ORDERS));
    group.bench_function("decode JSON into a record", |b| {
        let (mut scratch, mut out) = (Scratch::default(), Vec::new());
        b.iter(|| {
            out.clear();
            for body in &bodies {
                black_box(decode(body, Key::Given("key-1"), &context(), &mut scratch, &mut out).unwrap());
            }
        });
    });
    group.bench_function("read a record", |b| {
        b.iter(|| records.iter().map(|r| OrderRef::decode(&r.2).unwrap().lines().count()).sum::<usize>());
    });
    group.bench_function("fingerprint", |b| {
        b.iter(|| {
            for _ in 0..ORDERS {
                black_box(Fingerprint::of("m-330", black_box("load-20260101-000000123456")));
            }
        });
    });
    group.finish();
}

fn stages(c: &mut Criterion) {
    let (_, records) = orders();
    let batch = batch(&records);
    let rules = ["a", "b", "c", "d"].map(|id| CarrierRule::new(id, GroupSet::of(&Group::ALL))).to_vec();
    let table = Arc::new(Table::new(1, rules).unwrap());
    let (catalogue, rules) = (Arc::new(sluice_data::catalogue().unwrap()), Arc::new(Rules::embedded().unwrap()));
    let knowledge = Arc::new(Knowledge::new(Chain::standard(catalogue, Arc::default(), rules)));
    let (classify, route) = (Classify::new(knowledge, table.weight_limits()), Route::new(table));
    let carriers = [CarrierHealth::default(); 4];
    let ctx = Ctx { now_ms: NOW_MS, carriers: &carriers };
    let (rows, view) = (Rows::default(), batch.view(0..batch.len()));
    let mut effects = Effects::default();
    let mut group = c.benchmark_group("stages");
    group.throughput(Throughput::Elements(ORDERS));
    group.bench_function("classify and split", |b| {
        b.iter(|| {
            effects.clear();
            classify.apply(&ctx, &rows, &view, &mut effects);
        });
    });
    group.bench_function("classify, split and route", |b| {
        b.iter(|| {
            effects.clear();
            classify.apply(&ctx, &rows, &view, &mut effects);
            route.apply(&ctx, &rows, &view, &mut effects);
        });
    });
    group.bench_function("index: probe and insert", |b| {
        b.iter_with_large_drop(|| {
            let mut index = Index::default();
            for (i, r) in records.iter().enumerate() {
                black_box(index.probe(r.1, i as u32));
            }
            index.commit();
            records.iter().enumerate().for_each(|(i, r)| index.insert(r.1, i as u64));
            index
        });
    });
    group.finish();
}

fn row() -> (OrderId, Vec<u8>) {
    let id = OrderId::new(NOW_MS, Fingerprint::of("m", "k"), SlotCount::DEFAULT);
    let (mut items, mut row) = (Vec::new(), Vec::new());
    Items::encode(&[Item { line: 0, quantity: None }, Item { line: 1, quantity: None }], &mut items);
    let requested = Requested {
        parcel: 0,
        attempt: 0,
        handling: 1,
        carrier: "swift",
        weight: Weight::known(900),
        items: Items::read(&mut Reader::new(&items)).unwrap(),
        order_position: None,
    };
    Delta::Accepted { position: 1 << 30 }.encode(3, &mut row);
    Delta::Classified { parcels: 1, rules: 77, model: 0 }.encode(4, &mut row);
    Delta::Requested(requested).encode(4, &mut row);
    let outcome = OutcomeKind::Accepted;
    Delta::Settled { parcel: 0, attempt: 0, outcome, text: "LX123456785US" }.encode(20, &mut row);
    (id, row)
}

fn rows(c: &mut Criterion) {
    let (id, row) = row();
    let secret = Secret::from_bytes(&[7; 32]).unwrap();
    let body = vec![b'x'; 200_000];
    c.bench_function("rows/fold", |b| b.iter(|| black_box(OrderState::fold(id, black_box(&row)).unwrap().class())));
    c.bench_function("rows/class", |b| b.iter(|| black_box(class_of_row(black_box(&row)).unwrap())));
    c.bench_function("carrier/sign a manifest of 500", |b| b.iter(|| black_box(secret.sign("id", 1, &body))));
    c.bench_function("carrier/tracking number", |b| b.iter(|| black_box(tracking_number(black_box("01J-0-0")))));
}

criterion_group!(hot, checkout, stages, rows);
criterion_main!(hot);
