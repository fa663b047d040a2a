//! Reads single orders back from the orders topic: for a retry of an order that left memory, and for a manifest that is
//! sent to another carrier long after the first.

use std::time::{Duration, Instant};

use rdkafka::{Message, Offset, TopicPartitionList, consumer::Consumer, error::KafkaError};
use sluice_pipeline::LogError;
use sluice_schemas::frame::{Input, Place, inputs};

use crate::{
    config::LogConfig,
    context::{Quiet, Reader},
    topics,
};

/// Longest time for one look-up.
const PATIENCE: Duration = Duration::from_secs(5);

/// A reader of single frames. Keeps the last one: neighbours are often asked for together.
pub(crate) struct Fetcher {
    config: LogConfig,
    topic: String,
    consumer: Option<Reader>,
    last: Option<(u16, u64, Vec<u8>)>,
}

impl Fetcher {
    /// A fetcher that connects when it is first asked.
    pub(crate) fn new(config: &LogConfig) -> Self {
        let topic = topics::Names::new(&config.prefix).orders();
        Self { config: config.clone(), topic, consumer: None, last: None }
    }

    /// Appends the order record at `place` to `out`.
    ///
    /// # Errors
    /// [`LogError::Store`] if the brokers can't be reached, the record is gone, or it is no order.
    pub(crate) fn order_at(&mut self, place: Place, out: &mut Vec<u8>) -> Result<(), LogError> {
        let held = self.last.as_ref().is_some_and(|(p, o, _)| (*p, *o) == (place.partition(), place.offset()));
        if !held {
            let frame = self.frame(place).map_err(|e| {
                // A connection that failed is not used again.
                self.consumer = None;
                LogError::Store(format!("reading an order at {}:{}: {e}", place.partition(), place.offset()))
            })?;
            self.last = Some((place.partition(), place.offset(), frame));
        }
        let frame = self.last.as_ref().map_or(&[][..], |(_, _, frame)| frame);
        copy_order(frame, place.entry(), out)
    }

    fn frame(&mut self, place: Place) -> Result<Vec<u8>, KafkaError> {
        let consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => topics::reader(&self.config).create_with_context(Quiet)?,
        };
        let mut list = TopicPartitionList::new();
        let (partition, offset) = (i32::from(place.partition()), place.offset() as i64);
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        consumer.assign(&list)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let polled = consumer.poll(left);
            match polled {
                Some(Ok(message)) if message.offset() == offset && message.partition() == partition => {
                    let frame = message.payload().unwrap_or_default().to_vec();
                    drop(message);
                    self.consumer = Some(consumer);
                    return Ok(frame);
                }
                // Left over from the assignment before.
                Some(Ok(message)) if message.partition() != partition || message.offset() < offset => {}
                Some(Ok(_)) => return Err(KafkaError::NoMessageReceived),
                Some(Err(KafkaError::PartitionEOF(p))) if p == partition => return Err(KafkaError::NoMessageReceived),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if left.is_zero() => return Err(error),
                None if left.is_zero() => return Err(KafkaError::NoMessageReceived),
                Some(Err(_)) | None => {}
            }
        }
    }
}

/// Appends entry `entry` of an orders frame, which must be an order, to `out`.
pub(crate) fn copy_order(frame: &[u8], entry: usize, out: &mut Vec<u8>) -> Result<(), LogError> {
    let damaged = |e: sluice_schemas::CodecError| LogError::Store(format!("a frame of orders: {e}"));
    match inputs(frame).map_err(damaged)?.1.nth(entry) {
        Some(Ok(Input::Placed(record))) => {
            out.extend_from_slice(record);
            Ok(())
        }
        Some(Err(error)) => Err(damaged(error)),
        Some(Ok(Input::Word(_))) | None => Err(LogError::Store("there is no order at that position".into())),
    }
}
