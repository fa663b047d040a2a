//! Reads a topic as any consumer of committed records would, from its beginning and then whatever is new.

use std::time::{Duration, Instant};

use rdkafka::{Message, Offset, TopicPartitionList, consumer::Consumer, error::KafkaError, message::Headers};

use super::cluster::PATIENCE;
use crate::{
    config::LogConfig,
    context::{Quiet, Reader},
    topics,
};

/// One record.
pub struct Read {
    pub partition: u16,
    pub offset: u64,
    pub key: String,
    pub headers: Vec<(String, String)>,
    pub payload: Vec<u8>,
}

pub struct Tail {
    topic: String,
    committed: Reader,
    all: Reader,
    /// Behind the last record, by partition.
    pub next: Vec<u64>,
}

impl Tail {
    pub fn new(config: &LogConfig, topic: String, partitions: u16) -> Self {
        let committed = topics::reader(config).create_with_context(Quiet).unwrap();
        let mut all = topics::reader(config);
        let all = all.set("isolation.level", "read_uncommitted").create_with_context(Quiet).unwrap();
        Self { topic, committed, all, next: vec![0; usize::from(partitions)] }
    }

    /// Where each partition ends, once no transaction is open in it.
    pub fn ends(&self) -> Vec<u64> {
        let until = Instant::now() + PATIENCE;
        let end = |reader: &Reader, partition| reader.fetch_watermarks(&self.topic, partition, PATIENCE).unwrap().1;
        let one = |partition| loop {
            let high = end(&self.all, partition);
            if end(&self.committed, partition) == high {
                return high as u64;
            }
            assert!(Instant::now() < until, "a transaction stays open in {} {partition}", self.topic);
            std::thread::sleep(Duration::from_millis(5));
        };
        (0..self.next.len() as i32).map(one).collect()
    }

    /// What has come since the last call.
    pub fn new_records(&mut self) -> Vec<Read> {
        let ends = self.ends();
        let mut from = TopicPartitionList::new();
        for (partition, (&next, &end)) in self.next.iter().zip(&ends).enumerate() {
            if next < end {
                from.add_partition_offset(&self.topic, partition as i32, Offset::Offset(next as i64)).unwrap();
            }
        }
        let (mut records, mut ended) = (Vec::new(), 0);
        if from.count() == 0 {
            return records;
        }
        self.committed.assign(&from).unwrap();
        let until = Instant::now() + PATIENCE;
        while ended < from.count() {
            assert!(Instant::now() < until, "{} can't be read", self.topic);
            match self.committed.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
                    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                    let record = Read {
                        partition: message.partition() as u16,
                        offset: message.offset() as u64,
                        key: text(message.key()),
                        headers: headers.map(|h| (h.key.to_owned(), text(h.value))).collect(),
                        payload: message.payload().unwrap_or_default().to_vec(),
                    };
                    self.next[usize::from(record.partition)] = record.offset + 1;
                    records.push(record);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(_)) | None => {}
            }
        }
        self.committed.unassign().unwrap();
        records
    }
}
