//! Orders by id, from the store. A row appears a moment after its order was accepted, so a reader who is early waits for
//! the fold instead of being told that the order doesn't exist.

use std::{sync::Arc, time::Duration};

use sluice_domain::OrderId;
use sluice_pipeline::{BoxFuture, Clock, LogError, Orders, StoredOrder};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    progress::Progress,
    store::{Store, StoreError, StoredRow},
    topics::Deployment,
};

/// An order placed at most so long ago is likely to be on its way.
/// A second less than what whoever asked calls young: its "not yet" must not become a "never" on the way.
const YOUNG: Duration = Duration::from_secs(9);
/// How long a reader waits for the fold.
const WAIT: Duration = Duration::from_secs(2);
/// How long one read may take in all, the store's answers included.
const BOUND: Duration = Duration::from_millis(2_500);
/// First and longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// Readers that wait at a time; more are refused.
const WAITING: usize = 4_096;

/// Where rows are looked up.
trait Rows: Send + Sync {
    fn row(&self, id: OrderId) -> BoxFuture<'_, Result<Option<StoredRow>, StoreError>>;
}

impl Rows for Store {
    fn row(&self, id: OrderId) -> BoxFuture<'_, Result<Option<StoredRow>, StoreError>> {
        Box::pin(self.read(id))
    }
}

/// Reads orders of the whole cluster.
pub struct ClusterOrders {
    rows: Arc<dyn Rows>,
    progress: Arc<Progress>,
    deployment: Deployment,
    clock: Arc<dyn Clock>,
    waiting: Semaphore,
}

impl ClusterOrders {
    /// Reads from `store`, and waits by `progress`.
    #[must_use]
    pub fn new(store: Arc<Store>, progress: Arc<Progress>, deployment: Deployment, clock: Arc<dyn Clock>) -> Self {
        Self::over(store, progress, deployment, clock)
    }

    fn over(rows: Arc<dyn Rows>, progress: Arc<Progress>, deployment: Deployment, clock: Arc<dyn Clock>) -> Self {
        Self { rows, progress, deployment, clock, waiting: Semaphore::new(WAITING) }
    }

    async fn find(&self, id: OrderId) -> Result<Option<StoredOrder>, LogError> {
        if id.slot() >= self.deployment.slots {
            // No owner decides there, so nobody's progress would ever say that it isn't.
            return Ok(None);
        }
        let started = Instant::now();
        // Taken before the first look, so that what was there by now is found by a look after it is passed.
        let mut mark = self.progress.mark(self.deployment.partition(id));
        // Asked again after the wait: an order that has grown old meanwhile would be answered as one that never was.
        let is_young = || self.clock.now_ms().abs_diff(id.placed_at_ms()) < YOUNG.as_millis() as u64;
        let (mut pause, mut place) = (PAUSES.0, None);
        loop {
            let passed = self.progress.passed(&mut mark);
            if let Some(found) = self.look(id, started).await? {
                return Ok(Some(found));
            }
            if passed && !is_young() {
                return Ok(None);
            }
            let left = WAIT.saturating_sub(started.elapsed());
            if left.is_zero() {
                return if is_young() { Ok(None) } else { Err(behind()) };
            }
            if place.is_none() {
                let full = |_| LogError::Store("too many readers wait for the fold".to_owned());
                place = Some(self.waiting.try_acquire().map_err(full)?);
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 3 / 2).min(PAUSES.1);
        }
    }

    async fn look(&self, id: OrderId, started: Instant) -> Result<Option<StoredOrder>, LogError> {
        let answer = tokio::time::timeout_at(started + BOUND, self.rows.row(id)).await;
        match answer {
            Ok(Ok(row)) => Ok(row.map(|row| StoredOrder { row: row.deltas, record: row.record })),
            Ok(Err(error)) => Err(LogError::Store(error.to_string())),
            Err(_) => Err(LogError::Store(format!("no answer within {} ms", BOUND.as_millis()))),
        }
    }
}

/// It may be there, so nobody may be told that it isn't.
fn behind() -> LogError {
    LogError::Store("the rows are behind the log, so whether there is such an order isn't known now".to_owned())
}

impl Orders for ClusterOrders {
    /// Waits up to 2 s for an order that may be on its way; `None` for one that isn't known, or is young and has not
    /// come by then. Takes 2.5 s at most.
    ///
    /// # Errors
    /// [`LogError::Store`]: the store doesn't answer, the rows are too far behind the log to say that there is no such
    /// order, or too many readers wait already.
    fn read(&self, id: OrderId) -> BoxFuture<'_, Result<Option<StoredOrder>, LogError>> {
        Box::pin(self.find(id))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    };

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

    /// Rows that appear with the `from`th look, if ever.
    struct Fake {
        from: usize,
        looks: AtomicUsize,
        fails: AtomicBool,
        hangs: AtomicBool,
    }

    impl Rows for Fake {
        fn row(&self, _: OrderId) -> BoxFuture<'_, Result<Option<StoredRow>, StoreError>> {
            Box::pin(async {
                if self.hangs.load(Relaxed) {
                    std::future::pending::<()>().await;
                }
                if self.fails.load(Relaxed) {
                    return Err(StoreError::Answer("none".to_owned()));
                }
                let look = self.looks.fetch_add(1, SeqCst) + 1;
                Ok((look >= self.from).then(|| StoredRow { deltas: b"deltas".to_vec(), record: b"record".to_vec() }))
            })
        }
    }

    /// A reader of rows that appear with the `from`th look.
    fn reader(from: usize) -> (ClusterOrders, Arc<Fake>, Arc<Progress>) {
        let rows =
            Fake { from, looks: AtomicUsize::new(0), fails: AtomicBool::new(false), hangs: AtomicBool::new(false) };
        let (rows, progress) = (Arc::new(rows), Progress::told(2));
        let deployment = Deployment { version: 1, epoch: 1, partitions: 2, slots: 1_024, since_ms: 0 };
        let orders = ClusterOrders::over(rows.clone(), progress.clone(), deployment, Arc::new(Stopped));
        (orders, rows, progress)
    }

    /// An order placed so long ago, of partition 1.
    fn placed_ms_ago(ms: u64) -> OrderId {
        OrderId(u128::from(NOW_MS - ms) << 80 | 1_000 << 64 | 7)
    }

    fn whole() -> Option<StoredOrder> {
        Some(StoredOrder { row: b"deltas".to_vec(), record: b"record".to_vec() })
    }

    #[tokio::test]
    async fn what_is_there_is_answered_at_once_whatever_the_lag() {
        let (orders, rows, _unknown) = reader(1);
        for age in [0, 1_000_000] {
            assert_eq!(orders.read(placed_ms_ago(age)).await.unwrap(), whole());
        }
        assert_eq!(rows.looks.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn a_young_order_is_waited_for() {
        let (orders, rows, progress) = reader(4);
        progress.tell(1, (5, 5), (9, 9));
        assert_eq!(orders.read(placed_ms_ago(8_999)).await.unwrap(), whole());
        assert_eq!(rows.looks.load(SeqCst), 4);

        let (orders, _, progress) = reader(usize::MAX);
        progress.tell(1, (5, 5), (9, 9));
        let start = Instant::now();
        assert_eq!(orders.read(placed_ms_ago(0)).await.unwrap(), None);
        assert!(start.elapsed() >= WAIT && start.elapsed() < BOUND, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn an_old_order_is_unknown_once_the_fold_has_caught_up() {
        let (orders, rows, progress) = reader(usize::MAX);
        progress.tell(1, (5, 5), (9, 9));
        assert_eq!(orders.read(placed_ms_ago(9_000)).await.unwrap(), None);
        assert_eq!(rows.looks.load(SeqCst), 1);

        // The owner, then the fold, get to where the log ended when the reader came, and it goes on meanwhile.
        progress.tell(1, (4, 5), (9, 9));
        let asked = orders.read(placed_ms_ago(9_000));
        let told = async {
            let steps = [((5, 8), (9, 12)), ((6, 9), (11, 13)), ((7, 10), (12, 14))];
            for (owners, fold) in steps {
                let before = rows.looks.load(SeqCst);
                while rows.looks.load(SeqCst) < before + 2 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                progress.tell(1, owners, fold);
            }
        };
        let (answer, ()) = tokio::join!(asked, told);
        assert_eq!(answer.unwrap(), None);
        assert!(rows.looks.load(SeqCst) >= 7);
    }

    #[tokio::test]
    async fn an_id_that_no_order_can_have_is_unknown_at_once() {
        let (orders, rows, _unknown) = reader(usize::MAX);
        for slot in [1_024, u128::from(u16::MAX)] {
            let id = OrderId(u128::from(NOW_MS) << 80 | slot << 64 | 7);
            assert_eq!(orders.read(id).await.unwrap(), None);
        }
        assert_eq!(rows.looks.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn nobody_is_told_that_an_order_is_unknown_while_it_may_be_known() {
        for (owners, fold) in [((5, 5), (8, 9)), ((4, 5), (9, 9))] {
            let (orders, _, progress) = reader(usize::MAX);
            progress.tell(1, owners, fold);
            // The other partition says nothing about this one.
            progress.tell(0, (5, 5), (9, 9));
            let start = Instant::now();
            let answer = orders.read(placed_ms_ago(9_000)).await;
            assert!(matches!(answer, Err(LogError::Store(_))), "{answer:?}");
            assert!(start.elapsed() >= WAIT && start.elapsed() < BOUND);
        }
        // Nor while nothing was learned.
        let (orders, _, _unknown) = reader(usize::MAX);
        assert!(orders.read(placed_ms_ago(9_000)).await.is_err());
        // Who is behind finds it, though.
        let (orders, _, progress) = reader(3);
        progress.tell(1, (5, 5), (8, 9));
        assert_eq!(orders.read(placed_ms_ago(9_000)).await.unwrap(), whole());
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_an_error_in_bounded_time() {
        let (orders, rows, _) = reader(1);
        rows.fails.store(true, Relaxed);
        assert!(matches!(orders.read(placed_ms_ago(0)).await, Err(LogError::Store(_))));
        rows.hangs.store(true, Relaxed);
        let start = Instant::now();
        assert!(matches!(orders.read(placed_ms_ago(0)).await, Err(LogError::Store(_))));
        assert!(start.elapsed() >= BOUND && start.elapsed() < 2 * BOUND);
    }

    #[tokio::test]
    async fn readers_that_wait_are_bounded() {
        let (orders, _, _) = reader(usize::MAX);
        let all = orders.waiting.try_acquire_many(WAITING as u32).unwrap();
        let start = Instant::now();
        assert!(matches!(orders.read(placed_ms_ago(0)).await, Err(LogError::Store(_))));
        assert!(start.elapsed() < WAIT);
        drop(all);
        assert_eq!(orders.read(placed_ms_ago(0)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_was_learned_before_the_question_is_no_answer() {
        let (orders, _, progress) = reader(usize::MAX);
        progress.tell(1, (9, 9), (9, 9));
        progress.tell_late();
        let id = placed_ms_ago(60_000);
        assert!(orders.read(id).await.is_err(), "the order may have been written since");
        progress.tell(1, (9, 9), (9, 9));
        assert_eq!(orders.read(id).await.unwrap(), None);
    }
}
