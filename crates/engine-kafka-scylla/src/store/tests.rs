//! The row store against a real server, each test in a keyspace of its own.

use std::{
    ops::DerefMut,
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_brokers::Brokers;
use sluice_domain::OrderId;
use sluice_pipeline::{
    conformance::{MERCHANT, Order},
    lookup::NUMBER_ORDERS,
};
use sluice_schemas::{delta::Delta, outcome::OutcomeKind};

use super::{
    MAX_ROWS_PER_BATCH, Migrated, Page, Row, SCHEMA_VERSION, Store, StoreConfig, StoreError, StoredRow, keys, retry,
    schema, session,
    write::{self, Written},
};
use crate::testing;

async fn shared(keyspace: &str) -> Option<(impl Sized, StoreConfig)> {
    let brokers = testing::shared()?;
    let config = config(&brokers, keyspace).await;
    Some((brokers, config))
}

async fn alone(keyspace: &str) -> Option<(impl DerefMut<Target = Brokers>, StoreConfig)> {
    let brokers = testing::alone()?;
    let config = config(&brokers, keyspace).await;
    Some((brokers, config))
}

/// A keyspace that isn't there, also when the server outlives the tests.
async fn config(brokers: &Brokers, keyspace: &str) -> StoreConfig {
    let mut config = StoreConfig::new(vec![brokers.store().to_owned()], keyspace);
    config.replication = 1;
    execute(&config, &format!("DROP KEYSPACE IF EXISTS {keyspace}")).await;
    config
}

async fn execute(config: &StoreConfig, statement: &str) {
    let mut statement = scylla::statement::Statement::new(statement);
    statement.set_request_timeout(Some(schema::SCHEMA_TIMEOUT));
    let session = session::connect(config).await.unwrap().session;
    session.query_unpaged(statement, ()).await.unwrap();
}

async fn migrated(config: &StoreConfig) -> Store {
    Store::migrate(config).await.unwrap();
    Store::connect(config).await.unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "never happened: {what}");
        tokio::task::yield_now().await;
    }
}

fn id(second: u64, slot: u16, n: u64) -> OrderId {
    OrderId(u128::from(second * 1000 + n % 1000) << 80 | u128::from(slot) << 64 | u128::from(n))
}

fn event(n: u8) -> [u8; 16] {
    let mut event = [0xEE; 16];
    event[0] = n;
    event
}

/// Accept and settle of `n` orders, spread over `pages` pages of several seconds and slots, oldest first.
fn orders(n: u64, pages: u64) -> Vec<OrderId> {
    (0..n).map(|i| id(1_790_000_000 + i % pages / 4, (i % pages % 4) as u16 * 21_845, i)).collect()
}

fn rows(orders: &[OrderId]) -> Vec<Row<'_>> {
    let row = |&order, n, record| Row {
        order,
        event: event(n),
        deltas: if n == 1 { b"<accept>" } else { b"<settle>" },
        record,
    };
    let accept = orders.iter().map(|order| row(order, 1, Some(&b"the order"[..])));
    accept.chain(orders.iter().map(|order| row(order, 2, None))).collect()
}

fn whole() -> Option<StoredRow> {
    Some(StoredRow { deltas: b"<accept><settle>".to_vec(), record: b"the order".to_vec() })
}

fn is_send<T: Send>(future: T) -> T {
    future
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_can_be_repeated_and_run_from_several_nodes_at_once() {
    let Some((_server, mut config)) = shared("store_migrate").await else { return };
    assert!(matches!(Store::connect(&config).await.err(), Some(StoreError::SchemaOld { found: 0, .. })));

    let many = futures_util::future::join_all((0..6).map(|_| is_send(Store::migrate(&config)))).await;
    let many: Vec<Migrated> = many.into_iter().map(Result::unwrap).collect();
    assert!(many.iter().any(|m| m.created && m.from == 0) && many.iter().all(|m| m.to == SCHEMA_VERSION), "{many:?}");
    let again = Store::migrate(&config).await.unwrap();
    assert_eq!(again, Migrated { created: false, from: SCHEMA_VERSION, to: SCHEMA_VERSION });

    let store = Store::connect(&config).await.unwrap();
    let order = id(1_790_000_000, 7, 7);
    store.write(&rows(&[order])).await.unwrap();
    assert_eq!(store.read(order).await.unwrap(), whole());

    // Another retention holds for the rows from now on.
    config.retention = Some(Duration::from_secs(1));
    assert!(!Store::migrate(&config).await.unwrap().created);
    let brief = id(1_790_000_000, 7, 8);
    store.write(&rows(&[brief])).await.unwrap();
    let start = Instant::now();
    while store.read(brief).await.unwrap().is_some() {
        assert!(start.elapsed() < Duration::from_secs(30), "the row outlives its retention");
    }
    // Who reads knows that it may be gone, with an hour's slack; without a retention nothing ever is.
    let reader = Store::connect(&config).await.unwrap();
    let expired = |second: u64| reader.has_expired(brief, second * 1_000);
    assert!(expired(1_790_000_001) && expired(1_789_996_402) && !expired(1_789_996_401));
    assert!(!store.has_expired(order, u64::MAX));
    assert_eq!(store.read(order).await.unwrap(), whole());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused() {
    let Some((_server, config)) = shared("store_newer").await else { return };
    migrated(&config).await;
    execute(&config, "INSERT INTO store_newer.schema_version (component, version) VALUES ('order_rows', 999)").await;
    let newer =
        |e: Option<StoreError>| matches!(e, Some(StoreError::SchemaNewer { found: 999, known: SCHEMA_VERSION, .. }));
    assert!(newer(Store::migrate(&config).await.err()));
    assert!(newer(Store::connect(&config).await.err()));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_lead_nowhere_are_refused() {
    let Some((_server, config)) = shared("store_settings").await else { return };
    let with = |change: fn(&mut StoreConfig)| {
        let mut config = config.clone();
        change(&mut config);
        config
    };
    let copies = Store::migrate(&with(|c| c.replication = 3)).await;
    assert!(matches!(copies, Err(StoreError::TooFewNodes { nodes: 1, replication: 3, .. })), "{copies:?}");
    let datacenter = Store::migrate(&with(|c| c.datacenter = Some("nowhere".into()))).await;
    assert!(matches!(datacenter, Err(StoreError::Datacenter { .. })), "{datacenter:?}");
    let nobody = Store::connect(&with(|c| c.nodes = vec!["127.0.0.1:1".into()])).await.err();
    assert!(nobody.as_ref().is_some_and(StoreError::is_transient), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_many_pages_are_read_back_and_replays_change_nothing() {
    let Some((_server, mut config)) = shared("store_round_trip").await else { return };
    (config.rows_per_batch, config.bytes_per_batch, config.batches_in_flight) = (7, 600, 3);
    let store = migrated(&config).await;
    let orders = orders(500, 23);
    let mut rows = rows(&orders);
    is_send(store.write(&rows)).await.unwrap();
    let wanted = vec![whole(); orders.len()];
    assert_eq!(is_send(store.read_many(&orders)).await.unwrap(), wanted);

    // A replay comes in other batches, and some of it twice.
    rows.reverse();
    rows.extend_from_within(..100);
    store.write(&rows).await.unwrap();
    assert_eq!(store.read_many(&orders).await.unwrap(), wanted);
    store.write(&[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn read_many_answers_in_the_order_asked() {
    let Some((_server, config)) = shared("store_read_many").await else { return };
    let store = migrated(&config).await;
    let mut orders = orders(200, 1);
    let records: Vec<Vec<u8>> = orders.iter().map(|order| order.0.to_be_bytes().to_vec()).collect();
    let rows = orders.iter().zip(&records);
    let rows: Vec<_> =
        rows.map(|(&order, record)| Row { order, event: event(1), deltas: &[], record: Some(record) }).collect();
    store.write(&rows).await.unwrap();

    orders.rotate_left(77);
    orders.insert(3, id(5, 5, 5));
    orders.insert(150, orders[20]);
    let found = store.read_many(&orders).await.unwrap();
    let wanted = |order: &OrderId| {
        let record = order.0.to_be_bytes().to_vec();
        (*order != id(5, 5, 5)).then_some(StoredRow { deltas: Vec::new(), record })
    };
    assert_eq!(found, orders.iter().map(wanted).collect::<Vec<_>>());
    assert_eq!(store.read_many(&[]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_unknown_until_its_accepting_event_is_there() {
    let Some((_server, config)) = shared("store_partial").await else { return };
    let store = migrated(&config).await;
    let orders = [id(1_790_000_000, 1, 1)];
    let rows = rows(&orders);
    assert_eq!(store.read(orders[0]).await.unwrap(), None);
    store.write(&rows[1..]).await.unwrap();
    assert_eq!(store.read(orders[0]).await.unwrap(), None);
    store.write(&rows[..1]).await.unwrap();
    assert_eq!(store.read(orders[0]).await.unwrap(), whole());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_rows_are_gone_and_can_be_rebuilt() {
    let Some((_server, config)) = shared("store_drop").await else { return };
    let store = migrated(&config).await;
    let orders = orders(50, 5);
    store.write(&rows(&orders)).await.unwrap();
    store.drop_rows().await.unwrap();
    assert_eq!(store.read_many(&orders).await.unwrap(), vec![None; 50]);
    store.write(&rows(&orders)).await.unwrap();
    assert_eq!(store.read_many(&orders).await.unwrap(), vec![whole(); 50]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_gone_ends_the_write() {
    let Some((_server, config)) = shared("store_gone").await else { return };
    let store = migrated(&config).await;
    execute(&config, "DROP KEYSPACE store_gone").await;
    let orders = orders(50, 5);
    let written = tokio::time::timeout(Duration::from_secs(60), async { store.write(&rows(&orders)).await });
    let error = written.await.unwrap().unwrap_err();
    assert!(!error.is_transient(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_wait_for_a_store_that_was_killed() {
    let Some((mut server, mut config)) = alone("store_killed").await else { return };
    (config.rows_per_batch, config.batches_in_flight, config.request_timeout) = (5, 1, Duration::from_secs(2));
    let store = Arc::new(migrated(&config).await);
    let write = |orders: &[OrderId]| {
        let (store, orders) = (store.clone(), orders.to_vec());
        tokio::spawn(async move { store.write(&rows(&orders)).await })
    };
    let (early, late) = (orders(4_000, 40), orders(500, 10));
    let under_way = write(&early);
    while store.read(early[0]).await.unwrap().is_none() {
        assert!(!under_way.is_finished());
    }
    tokio::task::block_in_place(|| server.kill_store());
    assert!(!under_way.is_finished());
    let (given_up, begun_without_a_store) = (write(&early[..9]), write(&late));
    until("the outage is noticed", || store.outage.is_open()).await;
    given_up.abort();

    tokio::task::block_in_place(|| server.start_store()).unwrap();
    begun_without_a_store.await.unwrap().unwrap();
    assert_eq!(store.read_many(&late).await.unwrap(), vec![whole(); late.len()]);
    under_way.await.unwrap().unwrap();
    // Of what was acknowledged just before the kill, one copy may have lost some; the log would be replayed.
    store.write(&rows(&early)).await.unwrap();
    assert_eq!(store.read_many(&early).await.unwrap(), vec![whole(); early.len()]);
    assert!(!store.outage.is_open());
}

#[test]
fn batches_hold_one_page_and_keep_their_bounds() {
    let orders = orders(300, 7);
    let rows = rows(&orders);
    let mut bound: Vec<_> = rows.iter().map(write::Bound::new).collect();
    bound.sort_by_key(|b| b.page());
    let cut = |max_rows, max_bytes| write::cut(&bound, max_rows, max_bytes).collect::<Vec<_>>();
    for (max_rows, max_bytes) in [(1, 1 << 20), (16, 1 << 20), (256, 1 << 20), (256, 1000), (256, 1)] {
        let batches = cut(max_rows, max_bytes);
        assert_eq!(batches.iter().map(|b| b.len()).sum::<usize>(), rows.len());
        for batch in batches {
            assert!(batch.len() <= max_rows && batch.iter().all(|b| b.page() == batch[0].page()));
            assert!(batch.len() == 1 || batch.iter().map(Written::bytes).sum::<usize>() <= max_bytes);
        }
    }
    assert_eq!(cut(256, 1 << 20).len(), 7);
    assert_eq!(cut(256, 1).len(), rows.len());
}

#[test]
fn a_page_is_a_second_of_a_group_of_slots() {
    let largest = OrderId(u128::MAX);
    assert_eq!(Page::of(largest), Page { second: ((1i64 << 48) - 1) / 1000, slot_group: 4_095 });
    assert_eq!(Page::of(id(77, 19, 999)), Page { second: 77, slot_group: 1 });
    assert_eq!(Page::of(id(77, 19, 999)), Page::of(id(77, 16, 0)));
}

#[test]
fn settings_outside_their_bounds_are_named() {
    let good = StoreConfig::new(vec!["node".into()], "sluice");
    good.validate().unwrap();
    let refused = |change: fn(&mut StoreConfig)| {
        let mut config = good.clone();
        change(&mut config);
        match config.validate().unwrap_err() {
            StoreError::Config { setting, .. } => setting,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused(|c| c.nodes.clear()), "nodes");
    assert_eq!(refused(|c| c.keyspace = "Sluice".into()), "keyspace");
    assert_eq!(refused(|c| c.keyspace = "s; DROP KEYSPACE t".into()), "keyspace");
    assert_eq!(refused(|c| c.replication = 0), "replication");
    assert_eq!(refused(|c| c.username = Some("u".into())), "username");
    assert_eq!(refused(|c| c.rows_per_batch = MAX_ROWS_PER_BATCH + 1), "rows_per_batch");
    assert_eq!(refused(|c| c.batches_in_flight = 0), "batches_in_flight");
    assert_eq!(refused(|c| c.retention = Some(Duration::from_millis(900))), "retention");
}

#[test]
fn a_password_is_not_shown() {
    let mut config = StoreConfig::new(vec!["node".into()], "sluice");
    (config.username, config.password) = (Some("u".into()), Some("secret".into()));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn pauses_grow_to_their_bound() {
    let mut backoff = retry::Backoff::new();
    let pauses: Vec<_> = (0..12).map(|_| backoff.next_pause()).collect();
    assert!(pauses[0] >= Duration::from_millis(10) && pauses[0] <= Duration::from_millis(20), "{pauses:?}");
    assert!(pauses[11] >= Duration::from_secs(1) && pauses[11] <= Duration::from_secs(2), "{pauses:?}");
}

/// An order of the suite's merchant, so many days after the first, and its row with these tracking numbers.
fn order_on(day: u64, key: impl std::fmt::Display, customer: &str, numbers: &[&str]) -> (OrderId, Vec<u8>, Vec<u8>) {
    let placed_at_ms = (20_000 + day) * 86_400_000 + 5;
    let order = Order { placed_at_ms, customer: customer.to_owned(), ..Order::new(key.to_string(), &["c0"]) };
    let mut deltas = Vec::new();
    for (parcel, text) in (0..).zip(numbers) {
        Delta::Settled { parcel, attempt: 0, outcome: OutcomeKind::Accepted, text }.encode(3, &mut deltas);
    }
    (order.id(), order.record(), deltas)
}

fn as_rows(orders: &[(OrderId, Vec<u8>, Vec<u8>)]) -> Vec<Row<'_>> {
    orders
        .iter()
        .map(|(order, record, deltas)| Row { order: *order, event: event(1), deltas, record: Some(record) })
        .collect()
}

/// The whole list, and how many pages it took.
async fn list(store: &Store, customer: &str, max: usize) -> (Vec<OrderId>, usize) {
    let (mut all, mut before, mut pages) = (Vec::new(), None, 0);
    loop {
        let (found, next) = store.newest(keys::customer_key(MERCHANT, customer), before, 0, max).await.unwrap();
        assert!(found.len() <= max);
        all.extend(found);
        pages += 1;
        match next {
            Some(next) => before = Some(next),
            None => return (all, pages),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_found_by_customer_whatever_day_they_came() {
    let Some((_server, mut config)) = shared("store_keys").await else { return };
    (config.rows_per_batch, config.bytes_per_batch) = (7, 600);
    let store = migrated(&config).await;
    // One customer every day, another on the first and the last only, and so many on one day.
    let mut orders: Vec<_> = (0..150).map(|day| order_on(day, day, "daily", &[])).collect();
    orders.extend([0, 149].map(|day| order_on(day, format!("rare-{day}"), "rare", &[])));
    orders.extend((0..40).map(|n| order_on(77, format!("busy-{n}"), "busy", &[])));
    is_send(store.write(&as_rows(&orders))).await.unwrap();
    store.write(&as_rows(&orders[..20])).await.unwrap();
    let of = |range: std::ops::Range<usize>| {
        let mut ids: Vec<OrderId> = orders[range].iter().map(|o| o.0).collect();
        ids.sort_by(|a, b| b.cmp(a));
        ids
    };
    for max in [1, 6, 100, 1_000] {
        assert_eq!(list(&store, "daily", max).await.0, of(0..150), "by {max}");
        assert_eq!(list(&store, "busy", max).await.0, of(152..192), "by {max}");
        let (rare, pages) = list(&store, "rare", max).await;
        // A page asks for so many days, and then goes on where it ended.
        assert!(rare == of(150..152) && pages >= 3, "by {max}: {rare:?}, {pages} pages");
    }
    assert_eq!(list(&store, "nobody", 10).await.0, []);
    // What has expired is not asked for.
    let mut brief = config.clone();
    brief.retention = Some(Duration::from_secs(10 * 86_400));
    let reader = Store::connect(&brief).await.unwrap();
    let days = reader.days(20_149 * 86_400_000, 0, u32::MAX).await.unwrap();
    assert_eq!((days[0], days.len()), (20_149, 12), "ten days, and an hour's slack");
    assert_eq!(store.days(0, 20_010, 20_012).await.unwrap(), [20_012, 20_011, 20_010]);
    store.drop_rows().await.unwrap();
    assert_eq!(list(&store, "daily", 10).await.0, []);
    store.write(&as_rows(&orders)).await.unwrap();
    assert_eq!(list(&store, "daily", 10).await.0, of(0..150));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_found_together_and_none_crowds_out_another() {
    let Some((_server, config)) = shared("store_numbers").await else { return };
    let store = migrated(&config).await;
    let numbers: Vec<String> = (0..300).map(|n| format!("N-{n}")).collect();
    // One is on every order: it must not hide those that share its bucket.
    let mut orders: Vec<_> = (0..300).map(|n| order_on(n % 3, n, "c", &[&numbers[n as usize], "everywhere"])).collect();
    orders.extend((0..900).map(|n| order_on(1, format!("more-{n}"), "c", &["everywhere"])));
    store.write(&as_rows(&orders)).await.unwrap();
    let mut asked: Vec<u64> = numbers.iter().map(|number| keys::number_key(number)).collect();
    asked.extend([keys::number_key("everywhere"), keys::number_key("nowhere")]);
    asked.sort_unstable();
    let found = is_send(store.under_any(&[20_000, 20_001, 20_002, 20_003], &asked)).await.unwrap();
    for (number, order) in numbers.iter().zip(&orders) {
        let its: Vec<_> = found.iter().filter(|f| f.0 == keys::number_key(number)).map(|f| f.1).collect();
        assert_eq!(its, [order.0], "{number}");
    }
    let everywhere = found.iter().filter(|f| f.0 == keys::number_key("everywhere")).count();
    assert_eq!(everywhere, 3 * NUMBER_ORDERS, "so many of each day");
    assert_eq!(found.len(), 300 + everywhere);
    assert_eq!(store.under_any(&[], &asked).await.unwrap(), []);
    assert_eq!(store.under_any(&[20_000], &[]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_without_look_ups_gets_them() {
    let Some((_server, config)) = shared("store_v1").await else { return };
    let store = migrated(&config).await;
    let order = [order_on(0, "old", "c", &[])];
    store.write(&as_rows(&order)).await.unwrap();
    for statement in [
        "DROP TABLE store_v1.order_keys",
        "DROP TABLE store_v1.order_days",
        "DELETE FROM store_v1.schema_version WHERE component = 'order_rows' AND version = 2",
    ] {
        execute(&config, statement).await;
    }
    assert!(matches!(Store::connect(&config).await.err(), Some(StoreError::SchemaOld { found: 1, .. })));
    let changed = Store::migrate(&config).await.unwrap();
    assert_eq!(changed, Migrated { created: false, from: 1, to: SCHEMA_VERSION });
    let store = Store::connect(&config).await.unwrap();
    assert!(store.read(order[0].0).await.unwrap().is_some(), "its rows are as they were");
    assert_eq!(list(&store, "c", 10).await.0, [], "and are found once they are folded again");
    store.write(&as_rows(&order)).await.unwrap();
    assert_eq!(list(&store, "c", 10).await.0, [order[0].0]);
}
