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
/// How long nothing more is heard before what was heard is looked at.
const HEAR: Duration = Duration::from_millis(20);
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
        // Serves its queue, to the end: that is how it hears. Without time, a poll would end with the first log line.
        while consumer.poll(HEAR).is_some() {}
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

/// What has to be looked at, if time alone won't mend it: by the code, or by the words of the log, which has none.
fn settings(code: Option<RDKafkaErrorCode>, reason: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|&word| reason.contains(word));
    match code {
        Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => Some(LOGIN),
        _ if says(&["certificate verify failed", "could not be verified"]) => Some("ca_file"),
        Some(RDKafkaErrorCode::SSL) => Some(HANDSHAKE),
        // What a broker says of a client's certificate comes after the handshake.
        _ if says(&["SSL alert", "SSL handshake failed"]) => Some(HANDSHAKE),
        _ if says(&["SASL authentication error"]) => Some(LOGIN),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of librdkafka 2.12.1.
    #[test]
    fn a_log_line_names_the_settings_as_an_error_does() {
        let unknown = "sasl_ssl://127.0.0.1:1/bootstrap: SSL handshake failed: ../ssl/statem/statem_clnt.c:1889:\
            tls_post_process_server_certificate error:0A000086:SSL routines::certificate verify failed: broker \
            certificate could not be verified, verify that ssl.ca.location is correctly configured";
        let alert = "Receive failed: ../ssl/record/rec_layer_s3.c:1601:ssl3_read_bytes error:0A000412:SSL routines::\
            sslv3 alert bad certificate: SSL alert number 42 (after 36ms in state APIVERSION_QUERY)";
        let login = "SASL authentication error: Authentication failed during authentication due to invalid \
            credentials with SASL mechanism SCRAM-SHA-512 (after 9ms in state AUTH_REQ)";
        for code in [None, Some(RDKafkaErrorCode::SSL)] {
            assert_eq!(settings(code, unknown), Some("ca_file"));
            assert_eq!(settings(code, alert), Some(HANDSHAKE));
        }
        for code in [None, Some(RDKafkaErrorCode::Authentication)] {
            assert_eq!(settings(code, login), Some(LOGIN));
        }
        assert_eq!(settings(None, "Connect to ipv4#127.0.0.1:1 failed: Connection refused"), None);
    }
}
