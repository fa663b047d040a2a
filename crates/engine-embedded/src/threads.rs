//! The threads of a running engine: one an owner, one for the journal, one for checkpoints.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sluice_pipeline::{LogError, Runner};

use crate::{checkpoint::Checkpointer, engine::Engine, journal::WriterStep, partition::Partition, shared::Counts};

/// An idle journal seals its last group after this long.
const SEAL_AFTER: Duration = Duration::from_secs(1);
/// How often the checkpointer looks without being called.
const CHECKPOINT_TICK: Duration = Duration::from_millis(20);

/// What a drain left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrainReport {
    /// Orders by class at the end.
    pub counts: Counts,
    /// How long it took.
    pub took: Duration,
}

/// See the module.
pub struct Threads {
    engine: Engine,
    owners: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<String>>>,
}

type OnFailure = Arc<dyn Fn(&str) + Send + Sync>;

impl Threads {
    /// Starts all threads. `on_failure` is called, once a failing thread, when the engine can't go on; the process
    /// should end then, and recover when it is started again.
    ///
    /// # Errors
    /// What the system says when a thread can't be started.
    pub fn start(
        engine: &Engine,
        runners: Vec<Runner<Partition>>,
        checkpointer: Checkpointer,
        on_failure: impl Fn(&str) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let failure = Arc::new(Mutex::new(None));
        let on_failure: OnFailure = Arc::new(on_failure);
        let report = {
            let failure = Arc::clone(&failure);
            move |error: &LogError| {
                let text = error.to_string();
                tracing::error!(error = text, "the engine has failed");
                failure.lock().get_or_insert_with(|| text.clone());
                on_failure(&text);
            }
        };
        let mut owners = Vec::new();
        for (n, mut runner) in runners.into_iter().enumerate() {
            let run = move |engine: &Engine, report: &dyn Fn(&LogError)| own(&mut runner, engine, report);
            owners.push(spawn(format!("owner-{n}"), engine, report.clone(), run)?);
        }
        let writer = spawn("journal".into(), engine, report.clone(), write)?;
        let checkpoints = {
            let (stop, mut checkpointer) = (Arc::clone(&stop), checkpointer);
            spawn("checkpoint".into(), engine, report, move |engine, report| {
                take_checkpoints(&mut checkpointer, engine, &stop, report);
            })?
        };
        Ok(Self { engine: engine.clone(), owners, others: vec![checkpoints, writer], stop, failure })
    }

    /// Why the engine has failed, if it has.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Stops everything in order: owners finish their queues, the journal writes what they appended and seals itself.
    /// The caller has stopped notifiers and intake before.
    pub fn join(self) -> DrainReport {
        let started = Instant::now();
        self.engine.close();
        // A thread that panicked has said so; what matters here is that it is gone.
        for owner in self.owners {
            let _ = owner.join();
        }
        self.stop.store(true, Relaxed);
        self.engine.shared.ring();
        self.engine.shared.journal.close();
        for other in self.others {
            let _ = other.join();
        }
        DrainReport { counts: self.engine.counts(), took: started.elapsed() }
    }
}

/// Reports a panic of the thread it lives in: an engine that lost a thread can't go on.
struct PanicGuard<'a> {
    engine: &'a Engine,
    report: &'a dyn Fn(&LogError),
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.engine.stop_orders();
            self.engine.shared.journal.close();
            (self.report)(&LogError::Store("a thread of the engine panicked".into()));
        }
    }
}

fn spawn(
    name: String,
    engine: &Engine,
    report: impl Fn(&LogError) + Send + 'static,
    run: impl FnOnce(&Engine, &dyn Fn(&LogError)) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let engine = engine.clone();
    std::thread::Builder::new().name(name).spawn(move || {
        let _guard = PanicGuard { engine: &engine, report: &report };
        run(&engine, &report);
    })
}

fn own(runner: &mut Runner<Partition>, engine: &Engine, report: &dyn Fn(&LogError)) {
    loop {
        match runner.step() {
            Ok(step) => {
                if step.new_orders > 0 {
                    metrics::counter!("sluice_orders_accepted_total").increment(step.new_orders as u64);
                }
                if step.replayed > 0 {
                    metrics::counter!("sluice_orders_replayed_total").increment(step.replayed as u64);
                }
            }
            Err(LogError::Closed) => return,
            Err(error) => {
                report(&error);
                engine.stop_orders();
                engine.shared.journal.close();
                return;
            }
        }
    }
}

fn write(engine: &Engine, report: &dyn Fn(&LogError)) {
    let journal = &engine.shared.journal;
    let sync_seconds = metrics::histogram!("sluice_journal_sync_seconds");
    let group_bytes = metrics::histogram!("sluice_journal_group_bytes");
    loop {
        if let Err(error) = journal.prepare() {
            return report(&error);
        }
        let came = journal.wait_for_work(SEAL_AFTER);
        let (group, completions) = match journal.begin(!came) {
            WriterStep::Write(group, completions) => (group, completions),
            WriterStep::Idle => continue,
            WriterStep::Done => return,
        };
        let started = Instant::now();
        if let Err(error) = journal.write(&group).and_then(|()| journal.sync(&group)) {
            engine.stop_orders();
            return report(&error);
        }
        sync_seconds.record(started.elapsed().as_secs_f64());
        group_bytes.record(group.payload as f64);
        journal.complete(group, completions);
    }
}

fn take_checkpoints(checkpointer: &mut Checkpointer, engine: &Engine, stop: &AtomicBool, report: &dyn Fn(&LogError)) {
    let (alarm, rung) = &engine.shared.alarm;
    let seconds = metrics::histogram!("sluice_checkpoint_seconds");
    let mut began = None;
    while !stop.load(Relaxed) {
        match checkpointer.step() {
            Ok(true) if checkpointer.is_idle() => {
                if let Some(began) = began.take() {
                    seconds.record(Instant::elapsed(&began).as_secs_f64());
                }
            }
            Ok(true) => {
                began.get_or_insert_with(Instant::now);
            }
            Ok(false) => {
                let mut ringing = alarm.lock();
                if !*ringing {
                    rung.wait_for(&mut ringing, CHECKPOINT_TICK);
                }
                *ringing = false;
            }
            Err(error) => {
                report(&error);
                engine.stop_orders();
                return;
            }
        }
    }
}
