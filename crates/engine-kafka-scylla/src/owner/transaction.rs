//! An owner's transactions, one after the other, and the client that makes them.
//!
//! *A client that has to abort is not used again.* librdkafka drops what is still queued when a transaction is aborted, and
//! gives its sequence numbers to the records that come next (`rd_kafka_toppar_purge_queues`, 2.12.1). A record that was
//! sent and not answered, because the connection broke, is queued again; but the brokers may have it. They then take the
//! next record of that number for a repetition, and the client is told that it was written: the transaction commits
//! without it. So an aborted transaction is left to a successor under the same name: the brokers end what its predecessor
//! had open, and take nothing more from it.

use std::time::Duration;

use rdkafka::{
    TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::KafkaError,
    producer::{BaseProducer, Producer},
};

use crate::{config::LogConfig, context::Quiet, topics::PATIENCE};

/// How long a commit is waited for before it is asked for again, and how long the producer is listened to in between.
const COMMIT: Duration = Duration::from_secs(1);
const HEAR: Duration = Duration::from_millis(10);

/// See the module. The producer is heard on the thread that uses it, so no request may wait for what only this thread can
/// hear.
pub(crate) struct Transactions {
    config: LogConfig,
    /// A name of its own for each thread: which partitions it has changes, and fencing goes by the group's generation.
    id: String,
    producer: BaseProducer<Quiet>,
    /// One was begun, and isn't known to have ended.
    open: bool,
}

impl Transactions {
    /// A client that is ready to begin.
    ///
    /// # Errors
    /// [`KafkaError`] if it can't be made or the brokers don't answer within [`PATIENCE`].
    pub(crate) fn new(config: &LogConfig) -> Result<Self, KafkaError> {
        let id = format!("{}-owner-{:032x}", config.prefix, super::token());
        let producer = producer(config, &id)?;
        Ok(Self { config: config.clone(), id, producer, open: false })
    }

    /// Where the records of the transaction go.
    pub(crate) fn producer(&self) -> &BaseProducer<Quiet> {
        &self.producer
    }

    /// Begins the next one; one that could not be aborted until now is aborted first.
    ///
    /// # Errors
    /// [`KafkaError`]; it is to be aborted then.
    pub(crate) fn begin(&mut self) -> Result<(), KafkaError> {
        self.abort()?;
        self.open = true;
        self.producer.begin_transaction()
    }

    /// Writes into it where the group of the member `group` stands once it is committed.
    ///
    /// # Errors
    /// [`KafkaError`]; it is to be aborted then.
    pub(crate) fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), KafkaError> {
        retried(|| self.producer.send_offsets_to_transaction(offsets, group, PATIENCE))
    }

    /// Commits it. Once this was begun only the brokers know how it ends: it is asked for until they say.
    ///
    /// # Errors
    /// [`KafkaError`]: it was not committed, and is to be aborted.
    pub(crate) fn commit(&mut self) -> Result<(), KafkaError> {
        retried(|| {
            let done = self.producer.commit_transaction(COMMIT);
            if done.is_err() {
                // It may wait for word of a record that failed, which only this thread can hear.
                self.producer.poll(HEAR);
            }
            done
        })?;
        self.open = false;
        Ok(())
    }

    /// Aborts it, if there is one: a successor makes the next.
    ///
    /// # Errors
    /// [`KafkaError`] as [`Transactions::new`]; [`Transactions::begin`] tries again.
    pub(crate) fn abort(&mut self) -> Result<(), KafkaError> {
        if self.open {
            self.producer = producer(&self.config, &self.id)?;
            self.open = false;
        }
        Ok(())
    }
}

fn producer(config: &LogConfig, id: &str) -> Result<BaseProducer<Quiet>, KafkaError> {
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
    producer.init_transactions(PATIENCE)?;
    Ok(producer)
}

/// Repeats a request of a transaction for as long as the brokers say that it may be, or records are still under way: those
/// are given up after `delivery.timeout.ms`.
fn retried(mut request: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    loop {
        match request() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                tracing::debug!(%error, "a request of a transaction is repeated");
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(KafkaError::Flush(error)) => tracing::debug!(%error, "records are waited for"),
            done => return done,
        }
    }
}
