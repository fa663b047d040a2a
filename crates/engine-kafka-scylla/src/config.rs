//! Where the cluster is and how its log is used.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rdkafka::ClientConfig;
use sluice_domain::SlotCount;

/// How clients reach the brokers.
#[derive(Debug, Clone, Default)]
pub struct KafkaSecurity {
    /// Speak TLS.
    pub tls: bool,
    /// Certificates to trust, PEM; the system's if absent.
    pub ca_file: Option<PathBuf>,
    /// The client's own certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// SASL mechanism: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub sasl: Option<String>,
    /// SASL user.
    pub username: String,
    /// SASL password. Never shown.
    pub password: Secret,
}

/// A text that is never shown.
#[derive(Clone, Default)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The log of a cluster.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Bootstrap servers, `host:port,…`.
    pub brokers: String,
    /// How they are reached.
    pub security: KafkaSecurity,
    /// First part of the name of every topic, group and transactional id.
    pub prefix: String,
    /// Partitions of a new deployment, 1 to 1,024; an existing one keeps what it has.
    pub partitions: u16,
    /// Copies of each record.
    pub replication: u16,
    /// Slots of a new deployment; an existing one keeps what it has.
    pub slots: SlotCount,
    /// Carrier ids, by carrier number.
    pub carriers: Vec<Arc<str>>,
    /// How far `placed_at` may lie from now, ms.
    pub window_ms: u64,
    /// A node that is silent for so long loses its partitions.
    pub session_timeout: Duration,
    /// How long orders and outcomes may gather before a transaction decides them.
    pub commit_interval: Duration,
    /// Orders decided by one transaction, at most.
    pub orders_per_commit: usize,
    /// How long checkout lets orders of different requests gather for one record.
    pub linger: Duration,
    /// Bytes of orders that wait for the brokers, at most; beyond it 503.
    pub queue_bytes: usize,
    /// Bytes of young rows that an owner keeps for each partition, beyond what the store doesn't have yet.
    pub overlay_bytes: usize,
    /// Entries of the duplicate index that stay in memory for each partition; the others go to sorted runs in `scratch`.
    pub index_entries: usize,
    /// Where sorted runs go; removed at once from the folder's listing, so that nothing stays behind.
    pub scratch: PathBuf,
    /// Records the owners may lie behind before checkout answers 503.
    pub max_lag: u64,
    /// Emit public events as JSON rather than Protobuf.
    pub json_events: bool,
    /// `ce_source` of public events.
    pub event_source: String,
    /// How long a new deployment's public events are kept; as the brokers have it if absent.
    pub events_kept: Option<Duration>,
    /// Bytes of them, over all partitions, likewise.
    pub events_bytes: Option<u64>,
    /// Settings of librdkafka in place of those made here, for measurements.
    pub overrides: Vec<(String, String)>,
}

impl LogConfig {
    /// The log at `brokers` with every default.
    #[must_use]
    pub fn new(brokers: impl Into<String>, carriers: Vec<Arc<str>>) -> Self {
        Self {
            brokers: brokers.into(),
            security: KafkaSecurity::default(),
            prefix: "sluice".to_owned(),
            partitions: 8,
            replication: 3,
            slots: SlotCount::DEFAULT,
            carriers,
            window_ms: sluice_domain::limits::DEFAULT_WINDOW_MS,
            session_timeout: Duration::from_secs(10),
            commit_interval: Duration::from_millis(20),
            orders_per_commit: 20_000,
            linger: Duration::from_millis(2),
            queue_bytes: 32 << 20,
            overlay_bytes: 12 << 20,
            index_entries: 2 << 20,
            scratch: std::env::temp_dir(),
            max_lag: 1_000_000,
            json_events: false,
            event_source: "/sluice".to_owned(),
            events_kept: None,
            events_bytes: None,
            overrides: Vec::new(),
        }
    }

    /// What every client of the brokers is made from.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config.set("client.id", format!("{}-{}", self.prefix, std::process::id()));
        // Topics are `migrate`'s to make: one that a broker makes by itself has its default width and retention.
        config.set("allow.auto.create.topics", "false");
        // A broker that comes back is found soon.
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        let s = &self.security;
        let protocol = match (s.tls, s.sasl.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        let files = [("ssl.ca.location", &s.ca_file), ("ssl.certificate.location", &s.cert_file)];
        for (key, file) in files.into_iter().chain([("ssl.key.location", &s.key_file)]) {
            if let Some(file) = file {
                config.set(key, file.display().to_string());
            }
        }
        if let Some(mechanism) = &s.sasl {
            config.set("sasl.mechanism", mechanism);
            config.set("sasl.username", &s.username).set("sasl.password", &s.password.0);
        }
        config
    }

    /// A consumer of `group` that sees committed records only, from the oldest if it has never committed.
    #[must_use]
    pub fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", self.session_timeout.as_millis().to_string())
            .set("heartbeat.interval.ms", (self.session_timeout.as_millis() / 4).max(100).to_string())
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("fetch.wait.max.ms", "20")
            .set("queued.max.messages.kbytes", "6144")
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.error.backoff.ms", "100")
            .set("max.partition.fetch.bytes", "2097152");
        self.overridden(config)
    }

    /// A producer that neither loses, doubles nor reorders within a partition.
    #[must_use]
    pub fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("message.max.bytes", "8388608")
            .set("batch.size", "1048576")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "16384");
        self.overridden(config)
    }

    fn overridden(&self, mut config: ClientConfig) -> ClientConfig {
        for (key, value) in &self.overrides {
            config.set(key, value);
        }
        config
    }
}
