//! The first word with the brokers. What they refuse for good, a certificate or a password, they say to their clients'
//! logs alone, while every request just waits; here it becomes an error that names the setting.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{
    context::Quiet,
    topics::{DeploymentError, PATIENCE},
};

/// How long one request may take before what was heard meanwhile is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long other brokers may take to let this client in although one has refused it.
const GRACE: Duration = Duration::from_secs(3);

/// Keys of `[cluster.kafka]` that a refused user may be due to.
const LOGIN: &str = "username, password_env or password_file, sasl";
/// … that a refused handshake may be due to.
const HANDSHAKE: &str = "tls, cert_file, key_file";
/// The client's own names of files, and ours.
const FILES: [(&str, &str); 3] = [("ssl.ca.", "ca_file"), ("ssl.certificate.", "cert_file"), ("ssl.key.", "key_file")];

/// Remembers what the brokers said last.
#[derive(Default)]
pub(crate) struct Meeting(Mutex<Option<(Option<RDKafkaErrorCode>, String)>>);

impl ClientContext for Meeting {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        Quiet.log(level, fac, message);
        // Some failures are told to the log alone.
        let mut heard = self.0.lock();
        if fac == "FAIL" && heard.as_ref().is_none_or(|(code, _)| code.is_none()) {
            *heard = Some((None, message.to_owned()));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        Quiet.error(error, reason);
        let mut heard = self.0.lock();
        // That nobody is left who would let it in says less than why.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) || heard.is_none() {
            *heard = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Meeting {}

/// A consumer whom the brokers have answered, and whether they know `topic`.
///
/// # Errors
/// [`DeploymentError::Access`] if they refuse it, [`DeploymentError::Kafka`] if there is no answer.
pub(crate) fn meet(client: &ClientConfig, topic: &str) -> Result<(BaseConsumer<Meeting>, bool), DeploymentError> {
    let consumer = BaseConsumer::from_config_and_context(client, Meeting::default()).map_err(not_made)?;
    let began = Instant::now();
    loop {
        let error = match consumer.fetch_metadata(Some(topic), LOOK) {
            Ok(metadata) => {
                let is_it = |t: &rdkafka::metadata::MetadataTopic| t.name() == topic && t.error().is_none();
                let known = metadata.topics().iter().any(|t| is_it(t) && !t.partitions().is_empty());
                return Ok((consumer, known));
            }
            Err(error) => error,
        };
        // Serves its queue: that is how it hears.
        while consumer.poll(Duration::ZERO).is_some() {}
        let heard = consumer.context().0.lock().clone();
        if let Some((code, reason)) = &heard
            && let Some(settings) = settings(*code, reason)
            && began.elapsed() >= GRACE
        {
            return Err(DeploymentError::Access { settings, reason: reason.clone() });
        }
        if began.elapsed() >= PATIENCE {
            // A broker that wants TLS just ends the connection, but so does one that is about to end.
            if let Some((_, reason)) = heard.as_ref().filter(|(_, reason)| reason.contains("APIVERSION_QUERY")) {
                return Err(DeploymentError::Access { settings: "tls", reason: reason.clone() });
            }
            let brokers = client.get("bootstrap.servers").unwrap_or_default();
            let why = heard.map(|(_, reason)| format!(" ({reason})")).unwrap_or_default();
            return Err(DeploymentError::Kafka { what: format!("no answer from {brokers}{why}"), source: error });
        }
    }
}

/// What has to be looked at, if time alone won't mend it.
fn settings(code: Option<RDKafkaErrorCode>, reason: &str) -> Option<&'static str> {
    match code {
        Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => Some(LOGIN),
        Some(RDKafkaErrorCode::SSL) if reason.contains("verif") => Some("ca_file"),
        Some(RDKafkaErrorCode::SSL) => Some(HANDSHAKE),
        // What a broker says of a client's certificate comes after the handshake.
        _ if reason.contains("SSL alert") => Some(HANDSHAKE),
        _ => None,
    }
}

/// A client that can't even be made: most often a file isn't what it should be.
fn not_made(error: KafkaError) -> DeploymentError {
    let reason = error.to_string();
    match FILES.iter().find(|(theirs, _)| reason.contains(theirs)) {
        Some((_, settings)) => DeploymentError::Access { settings, reason },
        None => DeploymentError::Kafka { what: "connecting".to_owned(), source: error },
    }
}
