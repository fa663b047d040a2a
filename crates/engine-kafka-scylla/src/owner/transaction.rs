//! An owner's transactions, one after the other, and the client that makes them.
//!
//! *A client that has to abort is not used again.* librdkafka drops what is still queued when a transaction is aborted, and
//! gives its sequence numbers to the records that come next (`rd_kafka_toppar_purge_queues`, 2.12.1). A record that was
//! sent and not answered, because the connection broke, is queued again; but the brokers may have it. They then take the
//! next record of that number for a repetition, and the client is told that it was written: the transaction commits
//! without it. So an aborted transaction is left to a successor under the same name: the brokers end what its predecessor
//! had open, and take nothing more from it.

use std::time::{Duration, Instant};

use rdkafka::{
    TopicPartitionList,
    bindings::rd_kafka_flush,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, Producer},
    types::RDKafkaRespErr,
};

use super::RoundError;
use crate::{config::LogConfig, context::Quiet, topics::PATIENCE};

/// How long records are waited for before this thread looks whether one of them has failed.
const HEAR: Duration = Duration::from_millis(100);
/// Pause before a request is repeated.
const AGAIN: Duration = Duration::from_millis(20);

/// See the module. The producer is heard on the thread that uses it, so no request may wait for what only this thread can
/// hear.
pub(crate) struct Transactions {
    config: LogConfig,
    /// A name of its own for each thread: which partitions it has changes, and fencing goes by the group's generation.
    id: String,
    producer: BaseProducer<Quiet>,
    phase: Phase,
}

/// What the brokers may know of the transaction under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Ended,
    /// It was begun, and nothing was written.
    Empty,
    /// Something was written, and it isn't known to have ended.
    Open,
}

impl Transactions {
    /// A client that is ready to begin.
    ///
    /// # Errors
    /// [`KafkaError`] if it can't be made or the brokers don't answer within [`PATIENCE`].
    pub(crate) fn new(config: &LogConfig) -> Result<Self, KafkaError> {
        let id = format!("{}-owner-{:032x}", config.prefix, super::token());
        let producer = producer(config, &id, PATIENCE)?;
        Ok(Self { config: config.clone(), id, producer, phase: Phase::Ended })
    }

    /// Where the records of the transaction go.
    pub(crate) fn producer(&mut self) -> &BaseProducer<Quiet> {
        self.phase = Phase::Open;
        &self.producer
    }

    /// Begins the next one, or goes on with one in which nothing was written.
    ///
    /// # Errors
    /// [`RoundError::Open`] while one is to be aborted; [`KafkaError`].
    pub(super) fn begin(&mut self) -> Result<(), RoundError> {
        match self.phase {
            Phase::Ended => {
                // Whatever a client says that can't begin: its successor can.
                self.phase = Phase::Open;
                self.producer.begin_transaction()?;
                self.phase = Phase::Empty;
                Ok(())
            }
            Phase::Empty => Ok(()),
            Phase::Open => Err(RoundError::Open),
        }
    }

    /// Writes into it where the group of the member `group` stands once it is committed. What it decides must have been
    /// [flushed](Self::flush): whoever is given the partitions next finds nothing of it behind its own barrier then.
    ///
    /// # Errors
    /// [`KafkaError`]; it is to be aborted then.
    pub(crate) fn send_offsets(
        &mut self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), KafkaError> {
        self.phase = Phase::Open;
        retried(|| self.producer.send_offsets_to_transaction(offsets, group, PATIENCE))
    }

    /// Commits it.
    ///
    /// # Errors
    /// [`KafkaError`]. Nobody knows then whether it was committed, until [`Transactions::abort`] was done.
    pub(crate) fn commit(&mut self) -> Result<(), KafkaError> {
        self.flush()?;
        retried(|| self.producer.commit_transaction(PATIENCE))?;
        self.phase = Phase::Ended;
        Ok(())
    }

    /// Sends what is left without delay, and waits until every record is acknowledged or given up.
    ///
    /// # Errors
    /// [`KafkaError`]; the transaction is to be aborted then.
    pub(super) fn flush(&self) -> Result<(), KafkaError> {
        let until = Instant::now() + PATIENCE;
        loop {
            // [`Producer::flush`] sends nothing early, and looks only every 100 ms whether it is over.
            // SAFETY: the client lives as long as `self.producer`; the call only waits, and may be made from any thread.
            #[allow(unsafe_code, reason = "100 orders are decided after 55 ms rather than 140")]
            let flushed = unsafe { rd_kafka_flush(self.producer.client().native_ptr(), HEAR.as_millis() as i32) };
            match flushed {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => return Ok(()),
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT if Instant::now() < until => {
                    self.producer.poll(Duration::ZERO);
                    if self.producer.client().fatal_error().is_some() {
                        return Err(KafkaError::Flush(RDKafkaErrorCode::Fatal));
                    }
                }
                error => return Err(KafkaError::Flush(error.into())),
            }
        }
    }

    /// Aborts it, if anything was written: a successor makes the next. If it was committed after all, that stays.
    ///
    /// # Errors
    /// [`KafkaError`] if the brokers don't take a successor within `patience`; to be tried again.
    pub(crate) fn abort(&mut self, patience: Duration) -> Result<(), KafkaError> {
        if self.phase == Phase::Open {
            self.producer = producer(&self.config, &self.id, patience)?;
            self.phase = Phase::Ended;
        }
        Ok(())
    }
}

fn producer(config: &LogConfig, id: &str, patience: Duration) -> Result<BaseProducer<Quiet>, KafkaError> {
    let timeout = config.session_timeout.as_millis().max(1_000).to_string();
    let mut client = config.producer();
    client
        .set("transactional.id", id)
        .set("transaction.timeout.ms", &timeout)
        .set("delivery.timeout.ms", &timeout)
        .set("delivery.report.only.error", "true")
        // The commit sends what is left; until then records gather into large batches.
        .set("linger.ms", config.commit_interval.as_millis().max(5).to_string());
    let producer: BaseProducer<Quiet> = client.create_with_context(Quiet)?;
    producer.init_transactions(patience)?;
    Ok(producer)
}

/// Repeats a request of a transaction for as long as its client says that it may be, within [`PATIENCE`].
fn retried(mut request: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match request() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < until => {
                tracing::debug!(%error, "a request of a transaction is repeated");
                std::thread::sleep(AGAIN);
            }
            done => return done,
        }
    }
}
