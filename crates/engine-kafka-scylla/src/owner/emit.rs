//! What a transaction writes: decisions in frames, shipments in frames for each carrier, one record a public event, and
//! dead letters. Buffers are reused; a frame goes out when it is full or its batch is over.

use std::{ops::Range, sync::Arc, time::Duration};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord},
};
use sluice_pipeline::additions::{Sink, Subject};
use sluice_schemas::{
    event::{ContentType, Encoded, EventId, Headers, read::encode_json},
    frame::{self, Decision, Place, Shipment},
};

use super::transaction::Transactions;
use crate::{config::LogConfig, context::Quiet, topics::Names};

/// Bytes at which a frame goes out.
const FRAME_BYTES: usize = 256 << 10;

/// See the module.
pub(crate) struct Emitter {
    pub(crate) transactions: Transactions,
    topics: Topics,
    epoch: u16,
    source: String,
    json: bool,
    decisions: Vec<u8>,
    shipments: Vec<Vec<u8>>,
    /// The first thing that went wrong in the transaction under way.
    failed: Option<KafkaError>,
}

struct Topics {
    decisions: String,
    events: String,
    dead_letters: String,
    orders: String,
    shipments: Vec<String>,
}

impl Emitter {
    /// Writes into `transactions`.
    pub(crate) fn new(config: &LogConfig, epoch: u16, transactions: Transactions) -> Self {
        let names = Names::new(&config.prefix);
        Self {
            transactions,
            topics: Topics {
                decisions: names.decisions(),
                events: names.events(),
                dead_letters: names.dead_letters(),
                orders: names.orders(),
                shipments: config.carriers.iter().map(|c: &Arc<str>| names.shipments(c)).collect(),
            },
            epoch,
            source: config.event_source.clone(),
            json: config.json_events,
            decisions: Vec::new(),
            shipments: vec![Vec::new(); config.carriers.len()],
            failed: None,
        }
    }

    /// What went wrong in the transaction under way, if anything; asked once.
    pub(crate) fn failure(&mut self) -> Option<KafkaError> {
        self.failed.take()
    }

    /// Makes the next transaction fail after everything was written.
    #[cfg(test)]
    pub(crate) fn fail(&mut self, error: KafkaError) {
        self.failed = Some(error);
    }

    /// Forgets what is gathered: the transaction is over or aborted.
    pub(crate) fn forget(&mut self) {
        self.decisions.clear();
        self.shipments.iter_mut().for_each(Vec::clear);
        self.failed = None;
    }

    /// Adds a decision of `partition`.
    pub(crate) fn decision(&mut self, partition: u16, decision: &Decision<'_>) {
        if self.decisions.is_empty() {
            frame::start(&mut self.decisions, self.epoch);
        }
        decision.put(&mut self.decisions);
        if self.decisions.len() >= FRAME_BYTES {
            self.flush_decisions(partition);
        }
    }

    /// Adds a shipment for carrier number `carrier`.
    pub(crate) fn shipment(&mut self, partition: u16, carrier: usize, shipment: &Shipment<'_>) {
        let frame = &mut self.shipments[carrier];
        if frame.is_empty() {
            frame::start(frame, self.epoch);
        }
        shipment.put(frame);
        if frame.len() >= FRAME_BYTES {
            self.flush_shipments(partition, carrier);
        }
    }

    /// Writes the frames that `partition` has begun.
    pub(crate) fn flush(&mut self, partition: u16) {
        self.flush_decisions(partition);
        for carrier in 0..self.shipments.len() {
            self.flush_shipments(partition, carrier);
        }
    }

    fn flush_decisions(&mut self, partition: u16) {
        if !self.decisions.is_empty() {
            let sent = send(self.transactions.producer(), record(&self.topics.decisions, partition, &self.decisions));
            self.note(sent);
            self.decisions.clear();
        }
    }

    fn flush_shipments(&mut self, partition: u16, carrier: usize) {
        if !self.shipments[carrier].is_empty() {
            let sent = send(
                self.transactions.producer(),
                record(&self.topics.shipments[carrier], partition, &self.shipments[carrier]),
            );
            self.note(sent);
            self.shipments[carrier].clear();
        }
    }

    /// Writes a public event that follows from the input at `place`, the `number`th of its order.
    pub(crate) fn event(&mut self, partition: u16, place: Place, number: u64, event: &Encoded, payload: &[u8]) {
        let id = EventId {
            epoch: self.epoch,
            partition: place.partition(),
            position: place.offset(),
            index: place.entry() as u32,
        };
        // What can't be shown as JSON goes out as it is, and says so.
        let json = if self.json { encode_json(payload).ok() } else { None };
        let kind = if json.is_some() { ContentType::Json } else { ContentType::Protobuf };
        let headers = Headers::new(event, id, number, &self.source, kind);
        let list = headers.list();
        let mut owned = OwnedHeaders::new_with_capacity(list.len());
        for (key, value) in &list {
            owned = owned.insert(Header { key, value: Some(*value) });
        }
        let payload = json.as_ref().map_or(payload, String::as_bytes);
        let record = Record {
            topic: &self.topics.events,
            partition,
            key: headers.key(),
            payload,
            headers: Some(owned),
            at_ms: None,
        };
        let sent = send(self.transactions.producer(), record);
        self.note(sent);
    }

    /// Writes what no stage could decide, with its bytes.
    pub(crate) fn dead_letter(&mut self, partition: u16, order_id: &str, rules: u32, reason: &str, bytes: &[u8]) {
        let rules = rules.to_string();
        let headers = [("order_id", order_id), ("rules_version", &rules), ("reason", reason)];
        let headers = headers
            .into_iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value.as_bytes()) }));
        let record = Record {
            topic: &self.topics.dead_letters,
            partition,
            key: order_id.as_bytes(),
            payload: bytes,
            headers: Some(headers),
            at_ms: None,
        };
        let sent = send(self.transactions.producer(), record);
        self.note(sent);
    }

    /// Hands inputs of an older epoch on to the partition that decides about them now. They keep the time when they were
    /// first written, ms since the Unix epoch: it says how far back their owner has to look for what they repeat.
    pub(crate) fn forward(&mut self, partition: u16, frame: &[u8], at_ms: u64) {
        let record = Record { at_ms: i64::try_from(at_ms).ok(), ..record(&self.topics.orders, partition, frame) };
        let sent = send(self.transactions.producer(), record);
        self.note(sent);
    }

    fn note(&mut self, sent: Result<(), KafkaError>) {
        if let Err(error) = sent {
            self.failed.get_or_insert(error);
        }
    }
}

/// The requests of one commit, as the encoder hands them over.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) placed: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) all: Vec<(u16, Subject, Range<usize>)>,
}

impl Sink for Requests {
    fn place(&mut self, _: &[u8]) -> usize {
        self.placed += 1;
        self.placed - 1
    }

    fn delta(&mut self, _: Subject, _: &[u8]) {}

    fn request(&mut self, carrier: u16, subject: Subject, delta: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(delta);
        self.all.push((carrier, subject, start..self.bytes.len()));
    }
}

struct Record<'a> {
    topic: &'a str,
    partition: u16,
    key: &'a [u8],
    payload: &'a [u8],
    headers: Option<OwnedHeaders>,
    /// Now, if absent.
    at_ms: Option<i64>,
}

fn record<'a>(topic: &'a str, partition: u16, payload: &'a [u8]) -> Record<'a> {
    Record { topic, partition, key: &[], payload, headers: None, at_ms: None }
}

fn send(producer: &BaseProducer<Quiet>, record: Record<'_>) -> Result<(), KafkaError> {
    let mut next: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(record.topic).partition(i32::from(record.partition)).payload(record.payload);
    if !record.key.is_empty() {
        next = next.key(record.key);
    }
    if let Some(at_ms) = record.at_ms {
        next = next.timestamp(at_ms);
    }
    if let Some(headers) = record.headers {
        next = next.headers(headers);
    }
    loop {
        match producer.send(next) {
            Ok(()) => return Ok(()),
            Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                producer.poll(Duration::from_millis(5));
                next = back;
            }
            Err((error, _)) => return Err(error),
        }
    }
}
