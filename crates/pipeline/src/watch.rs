//! How whoever follows an order learns that it has changed: where engines, which know, and streams, which wait, meet.
//!
//! A [`Subscription`] says that its order may have changed and not how: whoever holds it reads the order again. It costs
//! about two hundred bytes, however often its order changes and however slowly that is read. An engine that extends rows
//! calls [`Watchers::wake`]; one that sees only rows, and those of others, compares them ([`Watchers::compare`]) with what
//! was last read.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::poll_fn,
    hash::{DefaultHasher, Hasher},
    sync::{
        Arc,
        atomic::{
            AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Relaxed, Release},
        },
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use sluice_domain::OrderId;

/// Parts of the table, each under a lock of its own.
const SHARDS: usize = 64;
/// Counters of the filter: 128 KiB. With 5,000 orders watched one in seven others is looked up for nothing.
const FILTER: usize = 1 << 15;

/// The subscriptions of one process.
#[derive(Debug)]
pub struct Watchers {
    open: AtomicUsize,
    /// Subscriptions by a part of their order's hash: nearly all orders are watched by nobody, and owners are told so
    /// without a lock.
    filter: Box<[AtomicU32]>,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug, Default)]
struct Shard {
    signals: HashMap<OrderId, Vec<Arc<Signal>>>,
    closed: bool,
}

/// One subscription's state.
#[derive(Debug, Default)]
struct Signal {
    waker: AtomicWaker,
    /// [`CHANGED`] and [`CLOSED`].
    flags: AtomicU8,
    /// [`digest`] of the row that was last read; 0 before the first.
    seen: AtomicU64,
}

const CHANGED: u8 = 1;
const CLOSED: u8 = 2;

impl Signal {
    fn raise(&self, flag: u8) {
        self.flags.fetch_or(flag, Release);
        self.waker.wake();
    }
}

/// Nobody will say any more whether the order changes: the process is about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no longer watched")]
pub struct Closed;

/// Tells rows apart, within this process.
fn digest(row: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(row);
    hasher.finish()
}

/// The low bits of an id are a hash already.
fn place(id: OrderId) -> (usize, usize) {
    let hash = id.0 as usize;
    (hash % FILTER, (hash / FILTER) % SHARDS)
}

impl Watchers {
    /// A table without subscriptions.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            filter: (0..FILTER).map(|_| AtomicU32::new(0)).collect(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        })
    }

    /// Watches an order, known or not, until the subscription is dropped. What changes before this returns may go unnoticed:
    /// read the order afterwards.
    pub fn watch(self: &Arc<Self>, id: OrderId) -> Subscription {
        let (slot, shard) = place(id);
        let signal = Arc::new(Signal::default());
        self.open.fetch_add(1, AcqRel);
        self.filter[slot].fetch_add(1, AcqRel);
        let mut shard = self.shards[shard].lock();
        if shard.closed {
            signal.raise(CLOSED);
        }
        shard.signals.entry(id).or_default().push(Arc::clone(&signal));
        drop(shard);
        Subscription { id, signal, watchers: Arc::clone(self) }
    }

    /// Subscriptions there are.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Says that the order has changed. Two loads for an order that nobody watches.
    ///
    /// Call it once the change can be read, by whoever changed it, behind a lock that readers take, too: then a reader who
    /// subscribed first and did not see the change is woken, because its subscription comes before its reading, that before
    /// the change, and that before this.
    pub fn wake(&self, id: OrderId) {
        self.each(id, |signal| signal.raise(CHANGED));
    }

    /// As [`Watchers::wake`], for those who have read another row than `row` of this order.
    pub fn compare(&self, id: OrderId, row: &[u8]) {
        let now = digest(row);
        self.each(id, |signal| {
            if signal.seen.load(Relaxed) != now {
                signal.raise(CHANGED);
            }
        });
    }

    fn each(&self, id: OrderId, tell: impl Fn(&Signal)) {
        let (slot, shard) = place(id);
        if self.open() == 0 || self.filter[slot].load(Relaxed) == 0 {
            return;
        }
        if let Some(signals) = self.shards[shard].lock().signals.get(&id) {
            signals.iter().for_each(|signal| tell(signal));
        }
    }

    /// Appends the orders that are watched to `out`, each once.
    pub fn watched(&self, out: &mut Vec<OrderId>) {
        self.shards.iter().for_each(|shard| out.extend(shard.lock().signals.keys()));
    }

    /// Ends every subscription, and those that come.
    pub fn close(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.closed = true;
            shard.signals.values().flatten().for_each(|signal| signal.raise(CLOSED));
        }
    }

    fn forget(&self, id: OrderId, signal: &Arc<Signal>) {
        let (slot, shard) = place(id);
        if let Entry::Occupied(mut entry) = self.shards[shard].lock().signals.entry(id) {
            entry.get_mut().retain(|known| !Arc::ptr_eq(known, signal));
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        self.filter[slot].fetch_sub(1, AcqRel);
        self.open.fetch_sub(1, AcqRel);
    }
}

/// Somebody's interest in one order; dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    id: OrderId,
    signal: Arc<Signal>,
    watchers: Arc<Watchers>,
}

impl Subscription {
    /// The order.
    #[must_use]
    pub fn id(&self) -> OrderId {
        self.id
    }

    /// Notes which row was read, for engines that compare.
    pub fn saw(&self, row: &[u8]) {
        self.signal.seen.store(digest(row), Relaxed);
    }

    /// Resolves once the order may have changed since this last did. Any number of changes may be told at once.
    ///
    /// # Errors
    /// [`Closed`] when nobody watches any more.
    pub async fn changed(&self) -> Result<(), Closed> {
        poll_fn(|cx| self.poll_changed(cx)).await
    }

    /// As [`Subscription::changed`].
    ///
    /// # Errors
    /// [`Closed`] when nobody watches any more.
    pub fn poll_changed(&self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        self.signal.waker.register(cx.waker());
        match self.signal.flags.fetch_and(!CHANGED, AcqRel) {
            0 => Poll::Pending,
            flags if flags & CLOSED != 0 => Poll::Ready(Err(Closed)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.watchers.forget(self.id, &self.signal);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, task::Wake, thread};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, AcqRel);
        }
    }

    fn poll(subscription: &Subscription) -> Poll<Result<(), Closed>> {
        subscription.poll_changed(&mut Context::from_waker(std::task::Waker::noop()))
    }

    fn id(n: u128) -> OrderId {
        OrderId(n)
    }

    #[test]
    fn a_change_is_told_once_to_everybody_who_watches_and_to_nobody_else() {
        let watchers = Watchers::new();
        let (first, second, other) = (watchers.watch(id(7)), watchers.watch(id(7)), watchers.watch(id(8)));
        // The same slot of the filter, and the same shard.
        let collides = watchers.watch(id(7 | 1 << 64));
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        assert_eq!(first.poll_changed(&mut Context::from_waker(&waker)), Poll::Pending);
        watchers.wake(id(7));
        watchers.wake(id(7));
        watchers.wake(id(9));
        assert_eq!(woken.0.load(Relaxed), 1, "a task is woken once until it looks");
        for subscription in [&first, &second] {
            assert_eq!(poll(subscription), Poll::Ready(Ok(())));
            assert_eq!(poll(subscription), Poll::Pending);
        }
        assert_eq!((poll(&other), poll(&collides)), (Poll::Pending, Poll::Pending));
    }

    #[test]
    fn nothing_stays_of_who_has_gone() {
        let watchers = Watchers::new();
        let all: Vec<_> = (0..1_000).map(|n| watchers.watch(id(n % 300))).collect();
        let mut watched = Vec::new();
        watchers.watched(&mut watched);
        watched.sort_unstable_by_key(|id| id.0);
        assert_eq!(watched, (0..300).map(id).collect::<Vec<_>>());
        assert_eq!(watchers.open(), 1_000);
        drop(all);
        assert_eq!(watchers.open(), 0);
        assert!(watchers.filter.iter().all(|count| count.load(Relaxed) == 0));
        assert!(watchers.shards.iter().all(|shard| shard.lock().signals.is_empty()));
    }

    #[test]
    fn only_who_has_read_another_row_is_woken() {
        let watchers = Watchers::new();
        let (early, late) = (watchers.watch(id(1)), watchers.watch(id(1)));
        early.saw(b"a");
        late.saw(b"ab");
        watchers.compare(id(1), b"ab");
        assert_eq!((poll(&early), poll(&late)), (Poll::Ready(Ok(())), Poll::Pending));
        let new = watchers.watch(id(2));
        watchers.compare(id(2), b"");
        assert_eq!(poll(&new), Poll::Ready(Ok(())), "who has read nothing yet has not read this");
    }

    #[test]
    fn the_end_is_told_to_all_and_to_who_comes_later() {
        let watchers = Watchers::new();
        let before = watchers.watch(id(1));
        watchers.wake(id(1));
        watchers.close();
        assert_eq!(poll(&before), Poll::Ready(Err(Closed)));
        assert_eq!(poll(&before), Poll::Ready(Err(Closed)), "it stays so");
        assert_eq!(poll(&watchers.watch(id(2))), Poll::Ready(Err(Closed)));
    }

    #[test]
    fn no_change_is_missed_between_subscribing_and_reading() {
        const CHANGES: usize = 20_000;
        let (watchers, row) = (Watchers::new(), Arc::new(parking_lot::RwLock::new(0)));
        let owner = {
            let (watchers, row) = (Arc::clone(&watchers), Arc::clone(&row));
            thread::spawn(move || {
                for n in 1..=CHANGES {
                    *row.write() = n;
                    watchers.wake(id(1));
                }
            })
        };
        // Somebody new each time, who reads once and then waits to be woken unless that was the last.
        let mut read = 0;
        while read < CHANGES {
            let subscription = watchers.watch(id(1));
            read = *row.read();
            while read < CHANGES && poll(&subscription).is_pending() {
                if owner.is_finished() {
                    assert!(poll(&subscription).is_ready() || *row.read() == read, "a change was missed");
                    break;
                }
                thread::yield_now();
            }
        }
        owner.join().unwrap();
    }
}
