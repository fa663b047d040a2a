//! Partitions come, go, and are read back when nobody knows how a transaction ended.

use std::{rc::Rc, sync::Arc, time::Instant};

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer};
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
                    self.read_back(numbers)
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
                part.runner.log().park();
                self.parked.insert(number, (part, Instant::now()));
            }
        }
    }

    /// Goes on where the group stands, whatever became of the last transaction.
    fn read_back(&mut self, numbers: &[u16]) -> Result<(), RoundError> {
        // The brokers have ended it once they take a successor.
        self.world()?.emitter.borrow_mut().transactions.abort(PATIENCE)?;
        let topic = Names::new(&self.config.log.prefix).orders();
        let mut list = TopicPartitionList::new();
        for &number in numbers {
            list.add_partition(&topic, i32::from(number));
        }
        for element in self.consumer.committed_offsets(list, PATIENCE)?.elements() {
            element.error()?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Offset::Offset(offset),
                _ => Offset::Beginning,
            };
            if let Err(error) = self.consumer.seek(&topic, element.partition(), offset, PATIENCE) {
                // One that isn't ours any more is revoked next.
                if self.is_assigned(element.partition() as u16) {
                    return Err(error.into());
                }
                tracing::debug!(%error, number = element.partition(), "the partition is gone");
            }
        }
        self.assigned(numbers)
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
        for number in beyond {
            // Topics may have more partitions than the map: there nothing is decided, and what comes is handed on.
            self.parts.insert(number, self.fresh(number, &world));
        }
        let token = rebuild::barrier(&world, &new)?;
        for number in new {
            let started = Instant::now();
            // Without it, everything that was ever decided would have to be read.
            let unknown = || LogError::Store("how far the rows are isn't known yet".into());
            let folded = (self.config.folded)(number).ok_or_else(unknown)?;
            let mut part = match self.parked.remove(&number) {
                Some((part, at)) if at.elapsed() < PARKED => part,
                _ => self.fresh(number, &world),
            };
            part.known = rebuild::catch_up(&world, number, part.known, folded, token, part.runner.log())?;
            tracing::info!(number, seconds = started.elapsed().as_secs_f64(), "partition ready");
            self.parts.insert(number, part);
        }
        Ok(())
    }

    fn fresh(&self, number: u16, world: &Rc<World>) -> Part {
        let log = KafkaLog::new(number, Rc::clone(world));
        let (health, clock) = (Arc::clone(&self.config.health), Arc::clone(&self.config.clock));
        Part { runner: Runner::new(log, (self.stages)(), health, clock), known: 0, frozen: 0, waits: false }
    }
}
