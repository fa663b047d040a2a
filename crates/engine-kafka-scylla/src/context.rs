//! What librdkafka has to say, as log lines of ours.

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, ConsumerContext},
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
