//! The engine with its threads: what is acknowledged under load is there after a drain and after a death.

use std::{
    future::Future,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sluice_pipeline::{
    HealthBoard, Intake, LogError, Orders, Outcomes, Receipt, Runner, StoredOrder,
    conformance::{Order, answer, stages, submission},
};
use sluice_schemas::outcome::OutcomeKind;

use super::{
    fakes::{FakeClock, MemDisk, MemStore},
    world::tiny,
};
use crate::{Engine, EngineConfig, FjallStore, Opened, RealDisk, Threads};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn config() -> EngineConfig {
    EngineConfig { blocking: true, checkpoint_bytes: 300 << 10, ..tiny() }
}

fn start(opened: Opened, clock: &Arc<FakeClock>, failures: &Arc<Mutex<Vec<String>>>) -> (Engine, Threads) {
    let health = Arc::new(HealthBoard::new(2));
    let runner = |p| Runner::new(p, stages(), Arc::clone(&health), Arc::clone(clock) as Arc<_>);
    let runners = opened.partitions.into_iter().map(runner).collect();
    let failures = Arc::clone(failures);
    let threads =
        Threads::start(&opened.engine, runners, opened.checkpointer, move |e| failures.lock().push(e.into())).unwrap();
    (opened.engine, threads)
}

fn clock() -> Arc<FakeClock> {
    Arc::new(FakeClock((sluice_pipeline::conformance::PLACED_AT_MS + 5).into()))
}

fn open(folder: &Path, clock: &Arc<FakeClock>) -> Opened {
    let disk = RealDisk::open(&folder.join("journal")).unwrap();
    let store = FjallStore::open(&folder.join("store")).unwrap();
    Engine::open(config(), Arc::new(disk), Arc::new(store), Arc::clone(clock) as Arc<_>).unwrap()
}

fn read(engine: &Engine, order: &Order) -> Option<StoredOrder> {
    block_on(engine.read(order.id())).unwrap()
}

/// Submits orders of its own and of its neighbour, and reports an answer for each that is new; gives those acknowledged.
fn submitter(engine: &Engine, number: usize, batches: usize) -> Vec<Order> {
    let mut acknowledged = Vec::new();
    for batch in 0..batches {
        let order = |of: usize, i: usize| Order::new(format!("{of}-{batch}-{i}"), &["c0", "c1"]);
        let own = (0..40).map(|i| order(number, i));
        // The neighbour submits these too, at about the same time.
        let orders: Vec<Order> = own.chain((0..10).map(|i| order((number + 1) % 4, i))).collect();
        let mut wanted = orders;
        while !wanted.is_empty() {
            let receipts = block_on(engine.submit(submission(&wanted)));
            let mut refused = Vec::new();
            let mut answers = Vec::new();
            for (order, receipt) in wanted.into_iter().zip(receipts) {
                match receipt {
                    Receipt::Accepted => {
                        answers.extend((0..2).map(|p| answer(order.shipment(p, 0), OutcomeKind::Accepted)));
                        acknowledged.push(order);
                    }
                    Receipt::Replayed => acknowledged.push(order),
                    Receipt::Busy { .. } => refused.push(order),
                    Receipt::Conflict => panic!("nobody used this key for another order"),
                }
            }
            block_on(std::future::poll_fn(|cx| {
                engine.report(cx, &mut answers);
                if answers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            }));
            wanted = refused;
        }
    }
    acknowledged
}

/// Orders acknowledged by four submitters at once.
fn load(engine: &Engine, batches: usize) -> Vec<Order> {
    std::thread::scope(|scope| {
        let submitters: Vec<_> = (0..4).map(|n| scope.spawn(move || submitter(engine, n, batches))).collect();
        submitters.into_iter().flat_map(|s| s.join().unwrap()).collect()
    })
}

#[test]
fn under_load_with_checkpoints_nothing_acknowledged_is_lost() {
    let (folder, clock, failures) = (tempfile::tempdir().unwrap(), clock(), Arc::default());
    let (engine, threads) = start(open(folder.path(), &clock), &clock, &failures);
    let mut acknowledged = load(&engine, 15);
    // However fast the load was, a checkpoint has come between its halves, and another is under way in the second.
    engine.request_checkpoint();
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine.checkpoints() == 0 {
        assert!(Instant::now() < deadline, "no checkpoint comes");
        std::thread::yield_now();
    }
    engine.request_checkpoint();
    acknowledged.extend(load(&engine, 25));
    for order in acknowledged.iter().step_by(7) {
        assert!(read(&engine, order).is_some());
    }
    let report = threads.join();
    assert_eq!(*failures.lock(), Vec::<String>::new());
    assert_eq!(report.counts.accepted, 4 * 25 * 40);
    assert_eq!((report.counts.finished, report.counts.in_flight), (4_000, 0));
    assert_eq!(report.counts.replayed as usize, acknowledged.len() - 4_000);
    drop(engine);
    let opened = open(folder.path(), &clock);
    let engine = opened.engine.clone();
    assert_eq!(opened.recovered.torn_at, None);
    for order in &acknowledged {
        assert_eq!(read(&engine, order).unwrap().record, order.record(), "{}", order.key);
    }
    let counts = engine.counts();
    assert_eq!((counts.accepted, counts.finished, counts.in_flight), (4_000, 4_000, 0));
    drop((engine, opened));
    let report = crate::check::check(folder.path(), &mut |_| {}).unwrap();
    assert!(report.sound, "{report:#?}");
}

#[test]
fn a_failed_sync_is_reported_and_answers_nobody() {
    let (disk, clock, failures) = (MemDisk::default(), clock(), Arc::default());
    let opened =
        Engine::open(config(), Arc::new(disk.clone()), Arc::new(MemStore::default()), Arc::clone(&clock) as Arc<_>);
    let (engine, threads) = start(opened.unwrap(), &clock, &failures);
    let first = Order::new("first", &["c0"]);
    assert_eq!(block_on(engine.submit(submission(std::slice::from_ref(&first)))), [Receipt::Accepted]);
    disk.faults.fail_sync.store(true, SeqCst);
    let mut lost = engine.submit(submission(&[Order::new("lost", &["c0"])]));
    let counted = AtomicUsize::new(0);
    while failures.lock().is_empty() {
        counted.fetch_add(1, SeqCst);
        std::thread::yield_now();
    }
    assert!(lost.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "nobody is told it is durable");
    assert!(engine.ready().is_err());
    let later = block_on(engine.submit(submission(&[Order::new("later", &["c0"])])));
    assert!(matches!(later[..], [Receipt::Busy { .. }]), "{later:?}");
    assert!(threads.failure().unwrap().contains("sync failed"));
    threads.join();
    let result = block_on(engine.read(Order::new("lost", &["c0"]).id()));
    assert!(matches!(result, Err(LogError::Closed)), "{result:?}");
}

#[test]
fn a_drain_on_a_full_disk_ends() {
    let (disk, clock, failures) = (MemDisk::default(), clock(), Arc::default());
    let opened =
        Engine::open(config(), Arc::new(disk.clone()), Arc::new(MemStore::default()), Arc::clone(&clock) as Arc<_>);
    let (engine, threads) = start(opened.unwrap(), &clock, &failures);
    disk.faults.full.store(true, SeqCst);
    let mut accepted = Vec::new();
    for i in 0.. {
        let order = Order::new(format!("k{i}"), &["c0"; 60]);
        match block_on(engine.submit(submission(std::slice::from_ref(&order))))[..] {
            [Receipt::Accepted] => accepted.push(order),
            _ => break,
        }
    }
    engine.journal().pretend_full(true);
    let mut answers = vec![answer(accepted[0].shipment(0, 0), OutcomeKind::Accepted)];
    engine.report(&mut Context::from_waker(Waker::noop()), &mut answers);
    assert!(answers.is_empty());
    let report = threads.join();
    assert_eq!(report.counts.accepted as usize, accepted.len());
    assert_eq!(*failures.lock(), Vec::<String>::new());
}
