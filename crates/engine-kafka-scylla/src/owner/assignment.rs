//! Partitions come, go, and are read back when nobody knows how a transaction ended.

use std::{rc::Rc, sync::Arc, time::Instant};

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer, error::KafkaError};
use sluice_pipeline::{LogError, Runner};

use super::{
    Change, PARKED, Part, RoundError, Worker,
    log::{KafkaLog, World},
    rebuild,
};
use crate::topics::{Deployment, Names, PATIENCE, read_deployment};

impl Worker {
    /// Acts on what the group decided since the last poll.
    pub(super) fn rebalance(&mut self) -> Result<(), RoundError> {
        loop {
            let change = {
                let mut changes = self.consumer.context().0.lock();
                if changes.is_empty() {
                    return Ok(());
                }
                changes.remove(0)
            };
            let done = match &change {
                Change::Revoked(numbers) => {
                    tracing::info!(?numbers, "partitions revoked");
                    self.park(numbers);
                    Ok(())
                }
                Change::Assigned(numbers) => {
                    tracing::info!(?numbers, "partitions assigned");
                    self.assigned(numbers)
                }
                Change::Unclear(numbers) => {
                    tracing::info!(?numbers, "read back after a commit without an answer");
                    self.park(numbers);
                    // The brokers have ended it once they take a successor.
                    self.world().and_then(|world| {
                        world.emitter.borrow_mut().transactions.abort(PATIENCE)?;
                        self.assigned(numbers)
                    })
                }
            };
            if let Err(error) = done {
                self.consumer.context().0.lock().insert(0, change);
                return Err(error);
            }
        }
    }

    fn park(&mut self, numbers: &[u16]) {
        for &number in numbers {
            if let Some(mut part) = self.parts.remove(&number) {
                (part.waits, part.paused) = (false, false);
                part.runner.log().park();
                self.parked.insert(number, (part, Instant::now()));
            }
        }
    }

    /// Where the group stands in partitions that this member was given: from there on it reads, whatever it has polled before.
    /// Those that it has lost meanwhile are left out; they are revoked next.
    ///
    /// If the brokers have forgotten the group, its decisions say.
    fn begin(&self, world: &World, numbers: &[u16]) -> Result<Vec<(u16, u64)>, RoundError> {
        let topic = Names::new(&self.config.log.prefix).orders();
        let mut list = TopicPartitionList::new();
        for &number in numbers {
            list.add_partition(&topic, i32::from(number));
        }
        let mut begun = Vec::with_capacity(numbers.len());
        for element in self.consumer.committed_offsets(list, PATIENCE)?.elements() {
            element.error()?;
            let number = element.partition() as u16;
            let next = match element.offset() {
                Offset::Offset(offset) => offset.unsigned_abs(),
                _ => rebuild::decided(world, number)?,
            };
            if let Err(error) = self.fetch(number, next) {
                if self.is_assigned(number) {
                    return Err(error.into());
                }
                tracing::debug!(%error, number, "the partition is gone");
                continue;
            }
            begun.push((number, next));
        }
        Ok(begun)
    }

    /// Goes on fetching a partition, from `next`.
    fn fetch(&self, number: u16, next: u64) -> Result<(), KafkaError> {
        let topic = Names::new(&self.config.log.prefix).orders();
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, i32::from(number));
        self.consumer.resume(&list)?;
        // A pause throws away what was fetched ahead, and may forget a seek before it.
        self.consumer.seek(&topic, i32::from(number), Offset::Offset(next as i64), PATIENCE)
    }

    /// Stops fetching what can't be decided now: the backlog stays with the brokers.
    pub(super) fn pause_what_waits(&mut self) {
        let topic = Names::new(&self.config.log.prefix).orders();
        let turned = |(_, part): &(&u16, &Part)| part.waits != part.paused;
        let turned: Vec<_> = self.parts.iter().filter(turned).map(|(&n, part)| (n, part.waits, part.next)).collect();
        for (number, waits, next) in turned {
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, i32::from(number));
            let done = if waits { self.consumer.pause(&list) } else { self.fetch(number, next) };
            match (done, self.parts.get_mut(&number)) {
                (Ok(()), Some(part)) => part.paused = waits,
                (Ok(()), None) => {}
                (Err(error), _) => tracing::debug!(%error, number, waits, "a partition can't be paused or resumed now"),
            }
        }
    }

    fn assigned(&mut self, numbers: &[u16]) -> Result<(), RoundError> {
        // The slots are dealt out anew only while the group has no members, so an assignment from before that can't commit,
        // and whoever is given one after it sees the new epoch here.
        let Deployment { epoch, .. } = read_deployment(&self.config.log)?;
        if epoch != self.config.deployment.epoch {
            self.outdated = true;
            return Err(RoundError::Outdated(epoch));
        }
        let world = self.world()?;
        let new = numbers.iter().copied().filter(|n| !self.parts.contains_key(n));
        let (new, beyond): (Vec<u16>, Vec<u16>) = new.partition(|&n| n < self.config.deployment.partitions);
        for (number, _) in self.begin(&world, &beyond)? {
            // Topics may have more partitions than the map: there nothing is decided, and what comes is handed on.
            self.parts.insert(number, self.fresh(number, &world));
        }
        let barrier = rebuild::barrier(&world, &new)?;
        for (number, next) in self.begin(&world, &new)? {
            let started = Instant::now();
            // Without it, everything that was ever decided would have to be read.
            let unknown = || LogError::Store("how far the rows are isn't known yet".into());
            let folded = (self.config.folded)(number).ok_or_else(unknown)?;
            let mut part = match self.parked.remove(&number) {
                Some((part, at)) if at.elapsed() < PARKED => part,
                _ => self.fresh(number, &world),
            };
            let waiting_ms = rebuild::oldest_waiting(&world, number, next)?;
            let since = rebuild::Since { known: part.known, folded, waiting_ms };
            part.next = next;
            part.known = rebuild::catch_up(&world, number, since, &barrier, part.runner.log())?;
            tracing::info!(number, seconds = started.elapsed().as_secs_f64(), "partition ready");
            self.parts.insert(number, part);
        }
        Ok(())
    }

    fn fresh(&self, number: u16, world: &Rc<World>) -> Part {
        let log = KafkaLog::new(number, Rc::clone(world));
        let (health, clock) = (Arc::clone(&self.config.health), Arc::clone(&self.config.clock));
        Part {
            runner: Runner::new(log, (self.stages)(), health, clock),
            known: 0,
            frozen: 0,
            waits: false,
            paused: false,
            next: 0,
        }
    }
}
