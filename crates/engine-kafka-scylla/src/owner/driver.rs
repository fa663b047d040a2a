//! An owner's worker driven step by step on the thread of a test, and stopped where no step would end.

use std::{rc::Rc, sync::Arc, time::Instant};

use rdkafka::{
    consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata},
    error::KafkaError,
    producer::Producer,
};

use super::{
    Change, Counts, MakeStages, Names, OwnersConfig, PATIENCE, Rebalances, RoundError, Totals, Worker, consumer,
    log::World,
};

/// See the module.
pub(crate) struct Driver {
    worker: Worker,
    totals: Arc<Totals>,
}

/// What a worker has decided on and not committed when it stalled.
pub(crate) struct Stalled {
    world: Rc<World>,
    /// As it was when the worker last heard from its group.
    group: ConsumerGroupMetadata,
}

impl Driver {
    pub(crate) fn new(config: &OwnersConfig, stages: &MakeStages) -> Self {
        let totals = Arc::new(Totals::default());
        let member = consumer(&config.log).unwrap();
        Self { worker: Worker::new(0, config.clone(), Arc::clone(stages), member, Arc::clone(&totals)), totals }
    }

    /// What it decided and committed.
    pub(crate) fn counts(&self) -> Counts {
        self.totals.counts()
    }

    /// The partitions it decides for.
    pub(crate) fn partitions(&self) -> Vec<u16> {
        self.worker.parts.keys().copied().collect()
    }

    /// True if it has to wait for the store in any partition.
    pub(crate) fn waits(&self) -> bool {
        self.worker.parts.values().any(|part| part.waits)
    }

    /// Records that were polled and are not decided.
    pub(crate) fn held(&mut self) -> usize {
        self.worker.parts.values_mut().map(|part| part.runner.log().held()).sum()
    }

    /// Polls until it holds everything below these offsets, so that one transaction decides it.
    pub(crate) fn hold(&mut self, due: &[(u16, u64)], until: Instant) {
        while !due.iter().all(|(number, end)| {
            let part = self.worker.parts.get_mut(number);
            part.is_some_and(|part| part.runner.log().polled().is_some_and(|polled| polled >= *end))
        }) {
            assert!(Instant::now() < until, "{due:?} does not come to {:?}", self.partitions());
            self.worker.poll(std::time::Duration::from_millis(20));
            if self.worker.rebalance().is_err() {
                self.worker.abort();
            }
        }
    }

    /// One round; false if it came to nothing.
    pub(crate) fn round(&mut self) -> bool {
        self.worker.round();
        !self.worker.troubled
    }

    /// The next transaction fails once everything in it is written.
    pub(crate) fn fail_next(&mut self) {
        self.worker.world().unwrap().emitter.borrow_mut().fail(KafkaError::Canceled);
    }

    /// Everything of a round but the commit; what it wrote is with the brokers.
    fn decide(&mut self) -> Rc<World> {
        let (world, _) = self.worker.decide().unwrap().expect("something to decide");
        world.emitter.borrow_mut().transactions.producer().flush(PATIENCE).unwrap();
        world
    }

    /// Everything of a round but the commit, the offsets too.
    fn write(&mut self) -> Rc<World> {
        let world = self.decide();
        let group = self.worker.consumer.group_metadata().unwrap();
        let offsets = self.worker.offsets().unwrap();
        world.emitter.borrow_mut().transactions.send_offsets(&offsets, &group).unwrap();
        world
    }

    /// Writes all of a transaction, its offsets too, and dies before it commits.
    pub(crate) fn die_before_commit(mut self) {
        self.write();
    }

    /// Has a transaction committed, or not, and is told neither.
    pub(crate) fn hear_no_answer(&mut self, committed: bool) {
        let world = self.write();
        if committed {
            world.emitter.borrow_mut().transactions.producer().commit_transaction(PATIENCE).unwrap();
        }
        self.worker.unclear();
    }

    /// Writes a transaction and is not heard of any more: the group goes on without it.
    pub(crate) fn stall(&mut self) -> Stalled {
        let world = self.decide();
        let group = self.worker.consumer.group_metadata().unwrap();
        let log = &self.worker.config.log;
        let silent: BaseConsumer<Rebalances> =
            log.consumer(&Names::new(&log.prefix).owners()).create_with_context(Rebalances::default()).unwrap();
        drop(std::mem::replace(&mut self.worker.consumer, silent));
        Stalled { world, group }
    }

    /// Goes on where it stalled: with the commit. Gives what came of that, and joins the group again.
    pub(crate) fn come_back(&mut self, stalled: &Stalled) -> Result<(), String> {
        let committed = self.worker.commit_as(&stalled.world, &stalled.group);
        // What the client says of partitions that it finds lost.
        let lost = self.partitions();
        if committed.is_err() {
            self.worker.abort();
        }
        self.worker.consumer.context().0.lock().push(Change::Revoked(lost));
        let topic = Names::new(&self.worker.config.log.prefix).orders();
        self.worker.consumer.subscribe(&[&topic]).unwrap();
        committed.map_err(|error: RoundError| error.to_string())
    }

    /// Drops from memory what stands below these offsets of the decisions and is in the store; index entries go to runs,
    /// and orders have to be read back from the log.
    pub(crate) fn spill(&mut self, ends: &[u64]) {
        let now_ms = self.worker.config.clock.now_ms();
        for (&number, part) in &mut self.worker.parts {
            let (log, end) = (part.runner.log(), ends[usize::from(number)]);
            log.overlay.spill(end);
            log.forget_recent();
            log.spill(now_ms).unwrap();
        }
    }

    /// Leaves as a worker that is stopped.
    pub(crate) fn leave(self) {
        self.worker.leave();
    }
}
