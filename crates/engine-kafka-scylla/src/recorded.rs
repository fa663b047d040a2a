//! The orders that a cluster's log holds, for who looks at them again: read from the decisions, of which each new order's has its
//! record. Nodes may run meanwhile; what they decide after the beginning is left out.

use std::time::{Duration, Instant};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use sluice_schemas::frame::{self, Decision};

use crate::{
    config::LogConfig,
    topics::{self, Deployment, Names, PATIENCE},
};

/// Longest time without a record before the brokers count as away.
const STALLED: Duration = Duration::from_secs(60);
/// Wait for a message.
const POLL: Duration = Duration::from_millis(50);

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recorded {
    /// Order records.
    pub orders: u64,
    /// Records of the log that can't be read whole.
    pub damaged: u64,
}

/// Calls `each` with the record of every order that was decided, and `tell` with how many offsets of all were read. Blocks.
///
/// # Errors
/// [`KafkaError`] if the brokers are away, or stay silent for a minute.
pub fn recorded(
    config: &LogConfig,
    deployment: Deployment,
    each: &mut dyn FnMut(&[u8]),
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Recorded, KafkaError> {
    let topic = Names::new(&config.prefix).decisions();
    let consumer: BaseConsumer = topics::reader(config).create()?;
    let width = topics::width(&consumer, &topic)?;
    let (mut begin, mut left, mut total) = (TopicPartitionList::new(), Vec::new(), 0);
    for partition in 0..i32::from(width.max(deployment.partitions)) {
        let (from, end) = consumer.fetch_watermarks(&topic, partition, PATIENCE)?;
        begin.add_partition_offset(&topic, partition, Offset::Offset(from))?;
        left.push((from, end));
        total += (end - from).max(0) as u64;
    }
    consumer.assign(&begin)?;
    let (mut all, mut heard) = (Recorded::default(), Instant::now());
    while left.iter().any(|(next, end)| next < end) {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let Some((next, end)) = left.get_mut(message.partition() as usize) else { continue };
                if message.offset() < *end && take(message.payload().unwrap_or_default(), each, &mut all).is_err() {
                    all.damaged += 1;
                }
                *next = message.offset() + 1;
                tell(total - left.iter().map(|(next, end)| (end - next).max(0) as u64).sum::<u64>(), total);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                // Behind the last record are the brokers' markers only.
                if let Some((next, end)) = left.get_mut(partition as usize) {
                    *next = *end;
                }
            }
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error),
            Some(Err(_)) | None if heard.elapsed() > STALLED => {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
            }
            Some(Err(_)) | None => {}
        }
    }
    tell(total, total);
    Ok(all)
}

fn take(payload: &[u8], each: &mut dyn FnMut(&[u8]), all: &mut Recorded) -> Result<(), sluice_schemas::CodecError> {
    for decision in frame::decisions(payload)?.1 {
        if let Decision::New { record, .. } = decision? {
            each(record);
            all.orders += 1;
        }
    }
    Ok(())
}
