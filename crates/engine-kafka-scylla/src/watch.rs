//! Notices changes of the orders that this node's clients follow.
//!
//! A node's fold wakes whoever follows an order of the partitions it has, as soon as the rows are durable. Other nodes fold
//! the rest, and partitions move: so every followed order's row is also read again from time to time, by one task for all
//! of them, and compared with what its follower has seen. That alone is enough for no change to be missed; the fold only
//! makes it quick.
//!
//! It costs at most 640 rows a second, however many orders are followed: each is read every second for a minute, every eight
//! seconds for an hour and every half minute after that, by when it was placed, and less often if more are due than that.

use std::{sync::Arc, time::Duration};

use sluice_domain::OrderId;
use sluice_pipeline::{BoxFuture, Clock, Watchers};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::store::{Store, StoreError, StoredRow};

/// Shortest time from one look at an order to the next.
const ROUND: Duration = Duration::from_secs(1);
/// Orders read at a time, …
const BATCH: usize = 64;
/// … and the pause after them.
const PAUSE: Duration = Duration::from_millis(100);
/// Until which age, ms, an order is looked at every so many rounds.
const PACE: [(u64, u64); 2] = [(60_000, 1), (3_600_000, 8)];
/// … and when it is older.
const OLD: u64 = 30;

/// Where rows are read.
trait Rows: Send + Sync {
    fn rows<'a>(&'a self, ids: &'a [OrderId]) -> BoxFuture<'a, Result<Vec<Option<StoredRow>>, StoreError>>;
}

impl Rows for Store {
    fn rows<'a>(&'a self, ids: &'a [OrderId]) -> BoxFuture<'a, Result<Vec<Option<StoredRow>>, StoreError>> {
        Box::pin(self.read_many(ids))
    }
}

/// Looks at followed orders for good; dropping the future ends it. A store that is away delays what is noticed.
pub async fn look(store: Arc<Store>, watchers: Arc<Watchers>, clock: Arc<dyn Clock>) {
    look_at(&*store, &watchers, &*clock).await;
}

async fn look_at(rows: &dyn Rows, watchers: &Watchers, clock: &dyn Clock) {
    metrics::describe_counter!("sluice_status_looks_total", "Rows read to see whether a followed order has changed");
    let looks = metrics::counter!("sluice_status_looks_total");
    looks.increment(0);
    let mut tick = interval(ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due = Vec::new();
    for round in 0_u64.. {
        tick.tick().await;
        due.clear();
        watchers.watched(&mut due);
        let now = clock.now_ms();
        due.retain(|&id| is_due(id, round, now));
        // Orders of one page are read together.
        due.sort_unstable();
        for batch in due.chunks(BATCH) {
            looks.increment(batch.len() as u64);
            match rows.rows(batch).await {
                Ok(found) => {
                    for (&id, row) in batch.iter().zip(&found) {
                        watchers.compare(id, row.as_ref().map_or(&[], |row| &row.deltas));
                    }
                }
                Err(error) => tracing::debug!(%error, "followed orders can't be read now"),
            }
            sleep(PAUSE).await;
        }
    }
}

/// Whether an order's turn comes in this round. Orders of one age are spread over the rounds by their hash.
fn is_due(id: OrderId, round: u64, now_ms: u64) -> bool {
    let age = now_ms.saturating_sub(id.placed_at_ms());
    let every = PACE.iter().find(|(until, _)| age < *until).map_or(OLD, |(_, every)| *every);
    (id.0 as u64).wrapping_add(round).is_multiple_of(every)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use parking_lot::Mutex;
    use tokio::time::{Instant, timeout};

    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;

    struct Stopped;

    impl Clock for Stopped {
        fn now_ms(&self) -> u64 {
            NOW_MS
        }

        fn monotonic_us(&self) -> u64 {
            0
        }
    }

    #[derive(Default)]
    struct Fake {
        rows: Mutex<HashMap<OrderId, Vec<u8>>>,
        reads: AtomicUsize,
        largest: AtomicUsize,
        /// Requests that fail before others are answered.
        failures: AtomicUsize,
    }

    impl Rows for Fake {
        fn rows<'a>(&'a self, ids: &'a [OrderId]) -> BoxFuture<'a, Result<Vec<Option<StoredRow>>, StoreError>> {
            self.reads.fetch_add(ids.len(), SeqCst);
            self.largest.fetch_max(ids.len(), SeqCst);
            let fails = self.failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
            let rows = self.rows.lock();
            let row = |id| rows.get(id).map(|deltas| StoredRow { deltas: deltas.clone(), record: Vec::new() });
            let found = ids.iter().map(row).collect();
            Box::pin(async move { if fails { Err(StoreError::Answer("none".to_owned())) } else { Ok(found) } })
        }
    }

    fn placed_ms_ago(ms: u64, hash: u64) -> OrderId {
        OrderId(u128::from(NOW_MS - ms) << 80 | u128::from(hash))
    }

    /// Looks for so long.
    async fn look_for(fake: &Fake, watchers: &Watchers, time: Duration) {
        assert!(timeout(time, look_at(fake, watchers, &Stopped)).await.is_err(), "it never ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed_within_a_second_or_so_of_a_young_order() {
        let (fake, watchers, id) = (Fake::default(), Watchers::new(), placed_ms_ago(0, 1));
        let subscription = watchers.watch(id);
        subscription.saw(b"a");
        fake.rows.lock().insert(id, b"a".to_vec());
        fake.failures.store(2, SeqCst);
        let follow = async {
            assert!(timeout(10 * ROUND, subscription.changed()).await.is_err(), "nothing has changed");
            fake.rows.lock().insert(id, b"ab".to_vec());
            let changed = Instant::now();
            subscription.changed().await.unwrap();
            assert!(changed.elapsed() <= ROUND + PAUSE, "{:?}", changed.elapsed());
            subscription.saw(b"ab");
            fake.rows.lock().clear();
            subscription.changed().await.unwrap();
        };
        tokio::select! {
            () = look_at(&fake, &watchers, &Stopped) => unreachable!(),
            () = follow => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_while_nobody_follows() {
        let (fake, watchers) = (Fake::default(), Watchers::new());
        drop(watchers.watch(placed_ms_ago(0, 1)));
        look_for(&fake, &watchers, 100 * ROUND).await;
        assert_eq!(fake.reads.load(SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_are_followed_reads_are_bounded_and_everybody_has_a_turn() {
        let (fake, watchers) = (Fake::default(), Watchers::new());
        let all: Vec<_> = (0..3_000).map(|n| watchers.watch(placed_ms_ago(0, n))).collect();
        let seconds = 20;
        look_for(&fake, &watchers, seconds * ROUND).await;
        let reads = fake.reads.load(SeqCst);
        assert!(reads > 2 * all.len() && reads <= 640 * seconds as usize + BATCH, "{reads}");
        assert_eq!(fake.largest.load(SeqCst), BATCH);
        // Who has seen nothing has not seen what there is.
        let woken = all.iter().filter(|s| is_woken(s)).count();
        assert_eq!(woken, all.len());
    }

    fn is_woken(subscription: &sluice_pipeline::Subscription) -> bool {
        subscription.poll_changed(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn older_orders_are_looked_at_less_often_and_each_in_its_turn() {
        for (age, every) in [(0, 1), (59_999, 1), (60_000, 8), (3_599_999, 8), (3_600_000, OLD), (1 << 40, OLD)] {
            for hash in [0, 1, 7, u64::MAX] {
                let turns = (0..2 * every).filter(|&round| is_due(placed_ms_ago(age, hash), round, NOW_MS)).count();
                assert_eq!(turns, 2, "{age} {hash}");
            }
        }
        assert!(is_due(OrderId(u128::from(NOW_MS + 5) << 80), 3, NOW_MS), "clocks differ");
    }
}
