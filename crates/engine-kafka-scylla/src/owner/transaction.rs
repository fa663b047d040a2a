//! The requests of a transaction that may take several attempts. The producer is heard on the thread that makes them, so
//! none of them may wait for what only this thread can hear.

use std::time::Duration;

use rdkafka::{
    error::KafkaError,
    producer::{BaseProducer, Producer},
};

use crate::{context::Quiet, topics::PATIENCE};

/// How long the first request to abort may wait.
const BEGIN_ABORT: Duration = Duration::from_millis(10);
/// How long a commit is waited for before it is asked for again, and how long the producer is listened to in between.
const COMMIT: Duration = Duration::from_secs(1);
const HEAR: Duration = Duration::from_millis(10);

/// Commits the transaction under way. Once this was begun only the brokers know how it ends: it is asked for until they say.
///
/// The client itself waits until every record is acknowledged, and is woken for it. [`Producer::flush`] would not do: it
/// looks every 100 ms, and with a shorter wait it spins.
pub(super) fn commit(producer: &BaseProducer<Quiet>) -> Result<(), KafkaError> {
    retried(|| {
        let done = producer.commit_transaction(COMMIT);
        if done.is_err() {
            // It may wait for word of a record that failed, which only this thread can hear.
            producer.poll(HEAR);
        }
        done
    })
}

/// Aborts the transaction under way, if there is one.
pub(super) fn abort(producer: &BaseProducer<Quiet>) -> Result<(), KafkaError> {
    // The client drops what is queued, and then waits until it was heard what became of each record. Only this thread
    // hears that, so the first request must end without; the next ones go on where it ended.
    let mut wait = BEGIN_ABORT;
    retried(|| {
        let aborted = producer.abort_transaction(std::mem::replace(&mut wait, PATIENCE));
        if aborted.is_err()
            && let Err(error) = producer.flush(PATIENCE)
        {
            tracing::debug!(%error, "records of a transaction that is aborted");
        }
        aborted
    })
}

/// Repeats a request of a transaction for as long as the brokers say that it may be.
pub(super) fn retried(mut request: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    loop {
        match request() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                tracing::debug!(%error, "a request of a transaction is repeated");
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}
