//! What librdkafka has to say, as log lines of ours; and how its consumers end.

use std::{
    sync::mpsc::{RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    message::DeliveryResult,
    producer::ProducerContext,
};

/// Passes warnings on, and keeps the rest for debugging: an outage makes a client say the same thing many times, and
/// what it means for orders is logged where it is handled.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(target: "librdkafka", fac, message);
            }
            _ => tracing::debug!(target: "librdkafka", fac, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
    }
}

/// A consumer that reads from given places.
pub(crate) type Reader = BaseConsumer<Quiet>;

impl ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    /// Only failures are reported; they fail the transaction, and that is handled.
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            tracing::debug!(target: "librdkafka", %error, "a record of a transaction was not acknowledged");
        }
    }
}

/// How long a member may take to leave its group: to hand over its partitions, which commits, and to be let go.
const LEAVE: Duration = Duration::from_secs(15);
/// Of that, how long its partitions may take.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Takes a consumer out of its group and ends it, in bounded time: see [`LEAVE`].
///
/// A client that is closed in the middle of a rebalance may wait for ever (librdkafka issues 4527 and 4884, rust-rdkafka
/// issue 509). So it hands over its partitions first, as it does in any rebalance, and is closed without any; and should
/// that not end either, it is left behind on a thread of its own, which the end of the process ends.
pub(crate) fn leave<C: ConsumerContext + 'static>(consumer: BaseConsumer<C>) {
    let (ended, end) = sync_channel::<()>(1);
    let leaving = move || {
        hand_over(&consumer);
        drop(consumer);
        // Whoever waited may have gone on.
        let _ = ended.try_send(());
    };
    match std::thread::Builder::new().name("leaving".to_owned()).spawn(leaving) {
        // Disconnected: it panicked, which is an end too.
        Ok(_) if end.recv_timeout(LEAVE) == Err(RecvTimeoutError::Timeout) => {
            tracing::warn!("a client of the brokers does not end; it is left behind");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "no thread to leave a group on"),
    }
}

/// Gives back all partitions and says so to the group, within some seconds.
pub(crate) fn hand_over<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    consumer.unsubscribe();
    let until = Instant::now() + HAND_OVER;
    while consumer.assignment().is_ok_and(|all| all.count() > 0) && Instant::now() < until {
        drop(consumer.poll(Duration::from_millis(20)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogConfig;

    #[test]
    fn brokers_that_are_away_keep_nobody_from_leaving() {
        let consumer: Reader =
            LogConfig::new("127.0.0.1:1", Vec::new()).consumer("g").create_with_context(Quiet).unwrap();
        consumer.subscribe(&["t"]).unwrap();
        let started = Instant::now();
        leave(consumer);
        assert!(started.elapsed() < LEAVE);
    }
}
