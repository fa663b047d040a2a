//! Measures `Store::write` beside the bare driver sending ready-made batches of the same rows, and prints a table; the
//! defaults of `StoreConfig` come from it. Give the address of a server (`host:port`), or one is started.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::{
    error::Error,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::{
    client::{execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder},
    statement::{
        Consistency,
        batch::{Batch, BatchType},
    },
    value::MaybeUnset,
};
use sluice_brokers::{Brokers, Options};
use sluice_domain::OrderId;
use sluice_engine_kafka_scylla::store::{Row, Store, StoreConfig};

const KEYSPACE: &str = "store_write_example";
/// Orders of one measurement; each has two rows, accept and settle.
const ORDERS: usize = 40_000;
const SLOTS: usize = 64;
/// 200 orders, 400 rows a page.
const ORDERS_PER_SECOND: usize = 200 * SLOTS;
const ROUNDS: usize = 11;
const DELTAS: [u8; 120] = [0xDE; 120];

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Values<'a> = (i64, i32, [u8; 16], [u8; 16], &'a [u8], MaybeUnset<&'a [u8]>);

#[tokio::main]
async fn main() -> Result<()> {
    let (_brokers, address) = match std::env::args().nth(1) {
        Some(address) => (None, address),
        None => {
            // A store that waits for its disk hides what its clients cost.
            let options = Options { kafka_heap_mb: 256, store_synced: false, ..Options::default() };
            let brokers = Brokers::start(&options)?;
            println!("{}", brokers.describe());
            let address = brokers.store().to_owned();
            (Some(brokers), address)
        }
    };
    let mut config = StoreConfig::new(vec![address.clone()], KEYSPACE);
    config.replication = 1;
    Store::migrate(&config).await?;
    let session = bare_session(&address, &config).await?;

    let mut clock = Clock(1_790_000_000);
    // The first rounds are the server's warm-up.
    for _ in 0..4 {
        bare(&session, &clock.orders(), 200, 16).await?;
    }
    println!("{ORDERS} orders, {} rows a round; rows/s and ratio, medians of {ROUNDS} pairs of rounds", 2 * ORDERS);
    println!("{:>10} {:>10} {:>10} {:>10} {:>7}", "rows/batch", "in flight", "bare", "write", "ratio");
    for rows_per_batch in [20, 50, 100, 200] {
        for in_flight in [4, 16, 64] {
            (config.rows_per_batch, config.batches_in_flight) = (rows_per_batch, in_flight);
            let store = Store::connect(&config).await?;
            let mut rates = Vec::new();
            for round in 0..ROUNDS {
                // Whoever goes second finds the server compacting, so they take turns.
                let first = if round % 2 == 0 { Some(write(&store, &clock.orders(), usize::MAX).await?) } else { None };
                let bare = bare(&session, &clock.orders(), rows_per_batch, in_flight).await?;
                let write = match first {
                    Some(rate) => rate,
                    None => write(&store, &clock.orders(), usize::MAX).await?,
                };
                rates.push((bare, write));
            }
            store.drop_rows().await?;
            print_line(rows_per_batch, in_flight, &rates);
        }
    }
    let config = StoreConfig { replication: 1, ..StoreConfig::new(vec![address], KEYSPACE) };
    let store = Store::connect(&config).await?;
    for rows_per_call in [2_000, 10_000, 40_000] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(write(&store, &clock.orders(), rows_per_call).await?);
        }
        store.drop_rows().await?;
        println!("defaults, one call at a time of {rows_per_call} rows: {:.0}", median(rates));
    }
    session.query_unpaged(format!("DROP KEYSPACE {KEYSPACE}"), ()).await?;
    Ok(())
}

fn print_line(rows_per_batch: usize, in_flight: usize, rates: &[(f64, f64)]) {
    let of = |figure: fn(&(f64, f64)) -> f64| median(rates.iter().map(figure).collect());
    let (bare, write, ratio) = (of(|r| r.0), of(|r| r.1), of(|r| r.1 / r.0) * 100.0);
    println!("{rows_per_batch:>10} {in_flight:>10} {bare:>10.0} {write:>10.0} {ratio:>6.0}%");
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Never the same second twice, so that no measurement overwrites another's rows.
struct Clock(u64);

impl Clock {
    /// Ids and records in the order of their arrival, over all slots.
    fn orders(&mut self) -> Vec<(OrderId, Vec<u8>)> {
        let start_ms = self.0 * 1000;
        self.0 += (ORDERS / ORDERS_PER_SECOND) as u64 + 2;
        let order = |i: usize| {
            let placed_at = u128::from(start_ms) + (i * 1000 / ORDERS_PER_SECOND) as u128;
            // Not compressible beyond what orders are.
            let hash = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let slot = (hash >> 32) as u128 % SLOTS as u128;
            let record: Vec<u8> = hash.to_be_bytes().repeat(30);
            (OrderId(placed_at << 80 | slot << 64 | u128::from(hash)), record)
        };
        (0..ORDERS).map(order).collect()
    }
}

/// Accept and settle of each order.
fn rows(orders: &[(OrderId, Vec<u8>)]) -> impl Iterator<Item = Row<'_>> {
    orders.iter().flat_map(|(order, record)| {
        let row = |event, record| Row { order: *order, event: [event; 16], deltas: &DELTAS, record };
        [row(1, Some(&record[..])), row(2, None)]
    })
}

async fn write(store: &Store, orders: &[(OrderId, Vec<u8>)], rows_per_call: usize) -> Result<f64> {
    let rows: Vec<_> = rows(orders).collect();
    let start = Instant::now();
    for call in rows.chunks(rows_per_call.min(rows.len())) {
        store.write(call).await?;
    }
    Ok(rows.len() as f64 / start.elapsed().as_secs_f64())
}

/// The upper bound: rows are sorted, cut and bound beforehand, and nothing is retried or counted.
async fn bare(session: &Session, orders: &[(OrderId, Vec<u8>)], per_batch: usize, in_flight: usize) -> Result<f64> {
    let insert = format!(
        "INSERT INTO {KEYSPACE}.order_rows (placed_second, slot_group, order_id, event_id, deltas, record) VALUES (?, ?, ?, ?, ?, ?)"
    );
    let insert = session.prepare(insert).await?;
    let mut values: Vec<Values<'_>> = rows(orders).map(values_of).collect();
    values.sort_by_key(|v| (v.0, v.1));
    let batches: Vec<(Batch, &[Values<'_>])> = values
        .chunk_by(|a, b| (a.0, a.1) == (b.0, b.1))
        .flat_map(|page| page.chunks(per_batch))
        .map(|values| {
            let statements = vec![insert.clone().into(); values.len()];
            (Batch::new_with_statements(BatchType::Unlogged, statements), values)
        })
        .collect();
    let start = Instant::now();
    stream::iter(&batches)
        .map(|(batch, values)| session.batch(batch, *values))
        .buffer_unordered(in_flight)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(values.len() as f64 / start.elapsed().as_secs_f64())
}

fn values_of(row: Row<'_>) -> Values<'_> {
    let record = row.record.map_or(MaybeUnset::Unset, MaybeUnset::Set);
    let second = (row.order.placed_at_ms() / 1000) as i64;
    (second, i32::from(row.order.slot() / 16), row.order.0.to_be_bytes(), row.event, row.deltas, record)
}

async fn bare_session(address: &str, config: &StoreConfig) -> Result<Session> {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .request_timeout(Some(config.request_timeout.max(Duration::from_secs(10))))
        .build();
    let builder = SessionBuilder::new().known_node(address).default_execution_profile_handle(profile.into_handle());
    Ok(builder.build().await?)
}
