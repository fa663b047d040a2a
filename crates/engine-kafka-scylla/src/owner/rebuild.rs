//! Builds up a partition that was just assigned: duplicate index and overlay from its committed decisions.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode},
    producer::BaseRecord,
};
use sluice_domain::{Fingerprint, OrderId};
use sluice_pipeline::LogError;
use sluice_schemas::{
    frame::{self, Decision},
    order::OrderRef,
};

use super::{
    RoundError,
    log::{KafkaLog, World, window_from},
};
use crate::{
    context::{Quiet, Reader},
    topics::{self, Names, PATIENCE, reader},
};

/// A partition's decisions must come within this time of each other.
const STALL: Duration = Duration::from_secs(60);

/// What was written into the decisions of some partitions, so that it can be told when they are read to their end.
pub(super) struct Barrier {
    token: [u8; 16],
    /// It stands at or behind this offset, by partition.
    behind: HashMap<u16, u64>,
}

/// Writes a barrier into the decisions of `partitions`, in one transaction.
pub(super) fn barrier(world: &World, partitions: &[u16]) -> Result<Barrier, RoundError> {
    let token = super::token().to_be_bytes();
    let topic = Names::new(&world.config.prefix).decisions();
    let mut behind = HashMap::new();
    for &partition in partitions {
        let (_, end) = world.ends.fetch_watermarks(&topic, i32::from(partition), PATIENCE)?;
        behind.insert(partition, end.unsigned_abs());
    }
    let mut bytes = Vec::new();
    frame::start(&mut bytes, world.deployment.epoch);
    Decision::Barrier { token }.put(&mut bytes);
    let transactions = &mut world.emitter.borrow_mut().transactions;
    transactions.begin()?;
    for &partition in partitions {
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&topic).partition(i32::from(partition)).payload(&bytes);
        transactions.producer().send(record).map_err(|(error, _)| error)?;
    }
    transactions.commit()?;
    Ok(Barrier { token, behind })
}

/// When the oldest record of orders was written that `partition`'s owners have not decided, ms since the Unix epoch; now if
/// none waits. `from` is their group's offset.
pub(super) fn oldest_waiting(world: &World, partition: u16, from: u64) -> Result<u64, RoundError> {
    let topic = Names::new(&world.config.prefix).orders();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, i32::from(partition), Offset::Offset(from as i64))?;
    // What an open transaction hides waits as well.
    let consumer = &world.ends;
    consumer.assign(&list)?;
    let asked = Instant::now();
    let found = loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) if message.partition() == i32::from(partition) => {
                break Ok(message.timestamp().to_millis().unwrap_or(0).unsigned_abs().min(world.clock.now_ms()));
            }
            Some(Err(KafkaError::PartitionEOF(p))) if p == i32::from(partition) => break Ok(world.clock.now_ms()),
            Some(Ok(_) | Err(_)) | None if asked.elapsed() < STALL => {}
            Some(Ok(_) | Err(_)) | None => break Err(stalled("looking for what waits in", partition)),
        }
    };
    consumer.unassign()?;
    found
}

/// The offset of orders behind the last input of `partition` that a decision stands for: its owners decide in order. 0 if
/// there is none.
pub(super) fn decided(world: &World, partition: u16) -> Result<u64, RoundError> {
    let consumer: Reader = reader(&world.config).create_with_context(Quiet)?;
    let topic = Names::new(&world.config.prefix).decisions();
    let (low, high) = consumer.fetch_watermarks(&topic, i32::from(partition), PATIENCE)?;
    let (low, high) = (low.unsigned_abs(), high.unsigned_abs());
    let mut back = 64;
    loop {
        let (from, mut decided) = (high.saturating_sub(back).max(low), 0);
        read(world, &consumer, partition, from, None, &mut |_, decision| {
            if let Decision::New { source, .. } | Decision::Added { source, .. } = decision {
                decided = decided.max(source.offset() + 1);
            }
            Ok(())
        })?;
        // The last ones may be barriers alone.
        if decided > 0 || from == low {
            tracing::info!(partition, decided, "the group has no offset; its decisions say where it was");
            return Ok(decided);
        }
        back *= 16;
    }
}

/// From where decisions matter to the owner of a partition.
#[derive(Clone, Copy)]
pub(super) struct Since {
    /// What came before is in the log's memory, if above 0: the rest doesn't matter then.
    pub(super) known: u64,
    /// The rows of what came before are in the store.
    pub(super) folded: u64,
    /// When the oldest order was written that is still to be decided: what it may repeat must be in the index.
    pub(super) waiting_ms: u64,
}

/// Reads the decisions of `partition` up to the barrier into `log`, from where they matter; gives the offset behind it.
///
/// If the slots were dealt out anew since then, all partitions are asked for their index entries, those that the map no
/// longer has too.
pub(super) fn catch_up(
    world: &World,
    partition: u16,
    since: Since,
    barrier: &Barrier,
    log: &mut KafkaLog,
) -> Result<u64, RoundError> {
    let Since { known, folded, waiting_ms } = since;
    let window_from = window_from(waiting_ms, world.config.window_ms);
    let consumer: Reader = reader(&world.config).create_with_context(Quiet)?;
    if known == 0 && world.deployment.epoch > 1 && world.deployment.since_ms > window_from {
        let width = topics::width(&consumer, &Names::new(&world.config.prefix).decisions())?;
        for other in (0..width).filter(|&p| p != partition) {
            let from = first_since(world, &consumer, other, window_from)?;
            read(world, &consumer, other, from, None, &mut |_, decision| index(log, world, partition, decision))?;
        }
    }
    let from = match known {
        // The fold may have passed the barrier by now.
        0 => first_since(world, &consumer, partition, window_from)?
            .min(folded)
            .min(barrier.behind.get(&partition).copied().unwrap_or(0)),
        known => known,
    };
    read(world, &consumer, partition, from, Some(barrier.token), &mut |offset, decision| {
        index(log, world, partition, decision)?;
        // What `log` has from before may begin rows that the fold has passed since: a row must have all that follows.
        let below_fold = known == 0 && offset < folded;
        match decision {
            _ if below_fold => {}
            Decision::New { record, deltas, .. } => {
                if let Ok(id) = sluice_schemas::order::peek_id(record) {
                    log.overlay.add(OrderId(id), deltas);
                }
            }
            Decision::Added { order, deltas, .. } => log.overlay.add(OrderId(order), deltas),
            Decision::Barrier { .. } => {}
        }
        if log.overlay.wants_freeze() {
            log.overlay.freeze(offset + 1);
            log.overlay.trim(Some(folded));
        }
        Ok(())
    })
}

/// Adds a new order to the index, if this partition decides for it now.
fn index(log: &mut KafkaLog, world: &World, partition: u16, decision: Decision<'_>) -> Result<(), LogError> {
    let Decision::New { source, record, .. } = decision else { return Ok(()) };
    if let Ok(order) = OrderRef::decode(record)
        && world.deployment.partition(OrderId(order.id)) == partition
    {
        log.index.insert(Fingerprint(order.fingerprint()), source.0);
    }
    if log.index.len() >= world.config.index_entries {
        log.spill(world.clock.now_ms())?;
    }
    Ok(())
}

/// Offset of the first decision written at or after `from_ms`; the end if there is none.
fn first_since(world: &World, consumer: &Reader, partition: u16, from_ms: u64) -> Result<u64, KafkaError> {
    let topic = Names::new(&world.config.prefix).decisions();
    let mut times = TopicPartitionList::new();
    times.add_partition_offset(&topic, i32::from(partition), Offset::Offset(from_ms as i64))?;
    let found = consumer.offsets_for_times(times, PATIENCE)?;
    let first = found.elements().into_iter().next();
    match first.map(|e| e.error().map(|()| e.offset())).transpose()? {
        Some(Offset::Offset(offset)) => Ok(offset as u64),
        // A leader that is just changing says so in the partition's error, with no offset either.
        _ => Ok(consumer.fetch_watermarks(&topic, i32::from(partition), PATIENCE)?.1 as u64),
    }
}

/// Gives every committed decision from `from` to the barrier with `token`, or to the present end without one. Gives the
/// offset behind the last.
fn read(
    world: &World,
    consumer: &Reader,
    partition: u16,
    from: u64,
    token: Option<[u8; 16]>,
    each: &mut dyn FnMut(u64, Decision<'_>) -> Result<(), LogError>,
) -> Result<u64, RoundError> {
    let topic = Names::new(&world.config.prefix).decisions();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, i32::from(partition), Offset::Offset(from as i64))?;
    consumer.assign(&list)?;
    let (mut end, mut heard) = (from, Instant::now());
    while heard.elapsed() < STALL {
        let message = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) if message.partition() == i32::from(partition) => message,
            Some(Err(KafkaError::PartitionEOF(p))) if p == i32::from(partition) && token.is_none() => return Ok(end),
            Some(Ok(_) | Err(_)) | None => continue,
        };
        heard = Instant::now();
        end = message.offset() as u64 + 1;
        let decisions = match frame::decisions(message.payload().unwrap_or_default()) {
            Ok((_, decisions)) => decisions,
            Err(error) => {
                tracing::error!(partition, offset = message.offset(), %error, "a record of decisions is skipped");
                continue;
            }
        };
        for decision in decisions {
            match decision {
                Ok(Decision::Barrier { token: found }) if Some(found) == token => return Ok(end),
                Ok(decision) => each(message.offset() as u64, decision)?,
                Err(error) => {
                    tracing::error!(partition, offset = message.offset(), %error, "the rest of a record is skipped");
                }
            }
        }
    }
    Err(stalled("reading back the decisions of", partition))
}

fn stalled(what: &str, partition: u16) -> RoundError {
    let timeout = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
    LogError::Store(format!("{what} partition {partition}: {timeout}")).into()
}
