//! Following an order that a test changes, under a clock that it moves.

use std::sync::Mutex;

use futures_util::FutureExt;
use sluice_domain::{Fingerprint, Merchants, ShipmentId, SlotCount};
use sluice_pipeline::{BoxFuture, Clock, Listed, LogError, Lookup, Orders, Receipt, StoredOrder, WordIntake, Words};
use sluice_schemas::{
    delta::Delta,
    order::{Head, Line, ShipTo, put_head, put_line},
};

use super::*;

/// 2026-11-11T00:00:00.000Z.
const NOW: u64 = 1_794_355_200_000;

/// One order, in a store that may be away.
#[derive(Default)]
struct Store {
    order: Mutex<Option<StoredOrder>>,
    away: Mutex<bool>,
}

impl Orders for Store {
    fn read(&self, _: OrderId) -> BoxFuture<'_, Result<Option<StoredOrder>, LogError>> {
        let found =
            if *self.away.lock().unwrap() { Err(LogError::Closed) } else { Ok(self.order.lock().unwrap().clone()) };
        Box::pin(async move { found })
    }
}

struct Now;

impl Clock for Now {
    fn now_ms(&self) -> u64 {
        NOW
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

/// Nobody wants anything here.
struct Deaf;

impl WordIntake for Deaf {
    fn hear(&self, _: Words) -> BoxFuture<'_, Vec<Receipt>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

impl Lookup for Deaf {
    fn held<'a>(&'a self, _: Option<OrderId>, _: usize) -> BoxFuture<'a, Result<Listed, LogError>> {
        unreachable!("nobody reviews here")
    }

    fn orders_of<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Option<OrderId>,
        _: usize,
    ) -> BoxFuture<'a, Result<Listed, LogError>> {
        Box::pin(std::future::ready(Err(LogError::Closed)))
    }

    fn shipments_of<'a>(
        &'a self,
        _: &'a str,
        _: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<ShipmentId>>, LogError>> {
        Box::pin(std::future::ready(Err(LogError::Closed)))
    }
}

struct World {
    store: Arc<Store>,
    app: Arc<App>,
    id: OrderId,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(Store::default());
        let merchants = Arc::new(Merchants::new([("m-1", "key-1"), ("m-2", "key-2")]).unwrap());
        let status = Status {
            orders: store.clone(),
            words: Arc::new(Deaf),
            lookup: Arc::new(Deaf),
            merchants,
            clock: Arc::new(Now),
        };
        let meter = RouteMeter::new("test");
        let (watchers, places) = (Watchers::new(), Places::new(4, 2));
        let app = Arc::new(App { status, watchers, places, meter, messages: Counter::noop() });
        let fingerprint = Fingerprint::of("m-1", "k-1");
        let id = OrderId::new(NOW, fingerprint, SlotCount::DEFAULT);
        let ship_to = ShipTo { name: "n", street: "s", city: "c", postal_code: "", country: "US" };
        let head = Head {
            id: id.0,
            fingerprint_high: fingerprint.high(),
            accepted_at_ms: NOW,
            merchant: "m-1",
            customer: "c\r\n\"77\"",
            currency: "USD",
            ship_to,
            lines: 1,
        };
        let mut record = Vec::new();
        put_head(&mut record, &head);
        put_line(&mut record, &Line { sku: "1", title: "MILK", quantity: 1, unit_price: 129 });
        *store.order.lock().unwrap() = Some(StoredOrder { row: Vec::new(), record });
        let world = Self { store, app, id };
        world.add(Delta::Accepted { position: 0 });
        world
    }

    /// Adds to the row, and tells nobody.
    fn add(&self, delta: Delta<'_>) {
        delta.encode(2, &mut self.store.order.lock().unwrap().as_mut().unwrap().row);
    }

    /// Adds a conflict to the time line, and says so.
    fn change(&self, n: u128) {
        self.add(Delta::Conflicted { order: n });
        self.app.watchers.wake(self.id);
    }

    async fn follow(&self, key: &str, last: Option<&str>) -> Result<Follower, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
        if let Some(last) = last {
            headers.insert("last-event-id", HeaderValue::from_str(last).unwrap());
        }
        Follower::start(&self.app, &self.id.to_string(), &headers).await
    }

    async fn view(&self) -> String {
        let merchant = self.app.status.merchants.by_key("key-1").unwrap();
        let shown = show(&self.app.status, &merchant, self.id).await.ok().unwrap();
        String::from_utf8(shown.json).unwrap()
    }
}

/// What is there to send now, without waiting.
fn now(follower: &mut Follower) -> Option<String> {
    let next = follower.next().now_or_never()?;
    Some(next.map_or_else(|| "the end".to_owned(), |bytes| String::from_utf8(bytes.to_vec()).unwrap()))
}

/// The value of a message's field.
fn field<'a>(message: &'a str, name: &str) -> &'a str {
    let mut lines = message.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(field, _)| *field == name).unwrap_or_else(|| panic!("no {name} in {message}")).1
}

#[tokio::test(start_paused = true)]
async fn the_present_comes_first_and_then_what_changes() {
    let world = World::new();
    let mut follower = world.follow("key-1", None).await.unwrap();
    let first = now(&mut follower).unwrap();
    assert!(first.starts_with("retry: 2000\nevent: order\nid: ") && first.ends_with("\n\n"), "{first}");
    assert_eq!(field(&first, "data"), world.view().await);
    assert_eq!(first.matches('\n').count(), 5, "what a merchant wrote makes no lines: {first}");
    assert_eq!(now(&mut follower), None);
    world.app.watchers.wake(world.id);
    assert_eq!(now(&mut follower), None, "nothing has changed");
    world.change(1);
    let second = now(&mut follower).unwrap();
    assert_eq!(field(&second, "data"), world.view().await);
    assert!(field(&second, "data").contains("conflict") && field(&first, "id") != field(&second, "id"));
    assert_eq!(now(&mut follower), None);
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_gets_the_newest() {
    let world = World::new();
    let mut follower = world.follow("key-1", None).await.unwrap();
    (1..20).for_each(|n| world.change(n));
    // Its first message was made before.
    assert!(!now(&mut follower).unwrap().contains("conflict"));
    (20..40).for_each(|n| world.change(n));
    assert_eq!(field(&now(&mut follower).unwrap(), "data"), world.view().await);
    assert_eq!(now(&mut follower), None);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_gets_what_it_does_not_have() {
    let world = World::new();
    let first = now(&mut world.follow("key-1", None).await.unwrap()).unwrap();
    let known = field(&first, "id");
    let mut follower = world.follow("key-1", Some(known)).await.unwrap();
    assert_eq!(now(&mut follower).as_deref(), Some("retry: 2000\n:\n\n"));
    assert_eq!(now(&mut follower), None);
    world.change(1);
    assert_eq!(field(&now(&mut follower).unwrap(), "data"), world.view().await);
    for unknown in [known, "", "0", &known.to_uppercase()] {
        let mut follower = world.follow("key-1", Some(unknown)).await.unwrap();
        assert_eq!(field(&now(&mut follower).unwrap(), "data"), world.view().await, "{unknown:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_and_the_stream_ends_after_its_time() {
    let world = World::new();
    let mut follower = world.follow("key-1", None).await.unwrap();
    drop(now(&mut follower));
    tokio::time::advance(HEARTBEAT - Duration::from_millis(1)).await;
    assert_eq!(now(&mut follower), None);
    let start = Instant::now();
    let mut beats = 0;
    while let Some(beat) = follower.next().await {
        assert_eq!(beat, BEAT);
        beats += 1;
    }
    let lasted = start.elapsed() + HEARTBEAT;
    assert!(lasted > LIFETIME - Duration::from_millis(SPREAD_MS) && lasted < LIFETIME + HEARTBEAT, "{lasted:?}");
    assert_eq!(beats, lasted.as_secs() / HEARTBEAT.as_secs() - 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_delays_and_ends_nothing() {
    let world = World::new();
    let mut follower = world.follow("key-1", None).await.unwrap();
    drop(now(&mut follower));
    *world.store.away.lock().unwrap() = true;
    world.change(1);
    assert_eq!(now(&mut follower), None);
    tokio::time::advance(2 * HEARTBEAT).await;
    assert_eq!(follower.next().await, Some(BEAT), "it still lives");
    *world.store.away.lock().unwrap() = false;
    let message = follower.next().await.unwrap();
    assert_eq!(field(str::from_utf8(&message).unwrap(), "data"), world.view().await);
    *world.store.order.lock().unwrap() = None;
    world.app.watchers.wake(world.id);
    assert_eq!(follower.next().await, None, "the order is gone");
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_streams_and_places_are_given_back() {
    let world = World::new();
    assert_eq!(world.follow("key-2", None).await.err().unwrap().status, StatusCode::NOT_FOUND);
    assert_eq!(world.follow("key-3", None).await.err().unwrap().status, StatusCode::UNAUTHORIZED);
    let mut both = [world.follow("key-1", None).await.unwrap(), world.follow("key-1", None).await.unwrap()];
    let refused = world.follow("key-1", None).await.err().unwrap();
    assert_eq!((refused.status, refused.retry_after_s), (StatusCode::TOO_MANY_REQUESTS, Some(5)));
    world.app.watchers.close();
    for follower in &mut both {
        assert!(now(follower).unwrap().starts_with("retry: "), "what was read is still sent");
        assert_eq!(now(follower).as_deref(), Some("the end"));
    }
    drop(both);
    assert_eq!(world.app.watchers.open(), 0);
    assert!(world.follow("key-1", None).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_small() {
    let world = World::new();
    let mut follower = world.follow("key-1", None).await.unwrap();
    drop(now(&mut follower));
    let waiting = size_of_val(&follower.next());
    let all = size_of::<Follower>() + waiting;
    assert!(all <= 768, "{all} bytes: {} and {waiting}", size_of::<Follower>());
}
