//! The `[cluster]` section: where Kafka and ScyllaDB are and how they are used. `cluster.example.toml` documents every
//! key with its default, and a test keeps it true.

use std::{fs, path::PathBuf, time::Duration};

use serde::Deserialize;
use sluice_engine_kafka_scylla::{
    KafkaSecurity, LogConfig, Secret,
    store::{StoreConfig, StoreTls},
};

use crate::config::{Config, ConfigError, Environment, Hidden, read_secret};

/// The section's example, with every key and its default.
pub const EXAMPLE: &str = include_str!("../../cluster.example.toml");

/// Value of public events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// As schemas/proto describes it.
    #[default]
    Protobuf,
    /// Its canonical JSON.
    Json,
}

/// `[cluster.kafka]` and `[cluster.cql]`: how a server is reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Speak TLS.
    pub tls: bool,
    /// Certificates to trust, PEM.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// SASL mechanism; Kafka only.
    pub sasl: Option<String>,
    /// User.
    pub username: Option<String>,
    /// Environment variable that holds the password.
    pub password_env: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    #[serde(skip)]
    password: Option<Hidden>,
}

/// `[cluster]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Kafka's bootstrap servers.
    pub brokers: String,
    /// Nodes of ScyllaDB, `host:port`.
    pub store: Vec<String>,
    /// First part of the name of every topic and group.
    pub prefix: String,
    /// Keyspace of the rows.
    pub keyspace: String,
    /// Partitions of a new deployment.
    pub partitions: u16,
    /// Copies of each record.
    pub replication: u16,
    /// Copies of each row in each datacentre.
    pub store_replication: u16,
    /// Datacentre of the rows.
    pub datacenter: Option<String>,
    /// Days that rows are kept; 0 keeps them for good.
    pub retention_days: u16,
    /// Threads that decide, in each classify worker.
    pub owner_threads: u16,
    /// A worker that is silent for so long loses its partitions, ms.
    pub session_timeout_ms: u32,
    /// How long inputs may gather before one transaction decides them, ms.
    pub commit_interval_ms: u32,
    /// Orders decided by one transaction, at most.
    pub orders_per_commit: u32,
    /// MiB of young rows for each partition.
    pub overlay_mb: u32,
    /// Entries of the duplicate index in memory for each partition.
    pub index_entries: u32,
    /// Records the owners may lie behind before checkout answers 503.
    pub max_lag_records: u64,
    /// Folder for what outgrows memory.
    pub scratch_dir: Option<PathBuf>,
    /// Value of public events.
    pub events: EventFormat,
    /// `ce_source` of public events.
    pub event_source: String,
    /// How Kafka is reached.
    pub kafka: Access,
    /// How ScyllaDB is reached.
    pub cql: Access,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            store: vec!["127.0.0.1:9042".to_owned()],
            prefix: "sluice".to_owned(),
            keyspace: "sluice".to_owned(),
            partitions: 8,
            replication: 3,
            store_replication: 3,
            datacenter: None,
            retention_days: 0,
            owner_threads: 2,
            session_timeout_ms: 10_000,
            commit_interval_ms: 20,
            orders_per_commit: 20_000,
            overlay_mb: 12,
            index_entries: 2 << 20,
            max_lag_records: 1_000_000,
            scratch_dir: None,
            events: EventFormat::Protobuf,
            event_source: "/sluice".to_owned(),
            kafka: Access::default(),
            cql: Access::default(),
        }
    }
}

fn wrong(key: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::at(format!("cluster.{key}"), problem)
}

impl ClusterConfig {
    /// Applies the environment: addresses, and the variables and files that hold secrets.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, and never quoting a secret.
    pub fn apply(&mut self, environment: Environment<'_>) -> Result<(), ConfigError> {
        if let Some(brokers) = environment("SLUICE_CLUSTER_BROKERS") {
            self.brokers = brokers;
        }
        if let Some(store) = environment("SLUICE_CLUSTER_STORE") {
            self.store = store.split(',').map(|node| node.trim().to_owned()).collect();
        }
        self.kafka.resolve("kafka", environment)?;
        self.cql.resolve("cql", environment)
    }

    /// Checks what types can't say.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bounds: [(&str, u64, u64, u64); 9] = [
            ("partitions", self.partitions.into(), 1, 1_024),
            ("replication", self.replication.into(), 1, 15),
            ("store_replication", self.store_replication.into(), 1, 15),
            ("owner_threads", self.owner_threads.into(), 1, 64),
            ("session_timeout_ms", self.session_timeout_ms.into(), 1_000, 300_000),
            ("commit_interval_ms", self.commit_interval_ms.into(), 0, 1_000),
            ("orders_per_commit", self.orders_per_commit.into(), 1, 1_000_000),
            ("overlay_mb", self.overlay_mb.into(), 1, 3_072),
            ("index_entries", self.index_entries.into(), 1_000, 1 << 30),
        ];
        for (key, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(wrong(key, format!("expected {least} to {most}, got {value}")));
            }
        }
        let name = |key, text: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (key == "prefix" && matches!(b, b'.' | b'-'));
            if (1..=48).contains(&text.len()) && text.bytes().all(fits) {
                return Ok(());
            }
            Err(wrong(key, format!("expected 1 to 48 letters, digits or underscores, got {text:?}")))
        };
        name("prefix", &self.prefix)?;
        name("keyspace", &self.keyspace)?;
        if self.brokers.trim().is_empty() {
            return Err(wrong("brokers", "expected host:port, or several separated by commas"));
        }
        if self.store.iter().all(|node| node.is_empty()) {
            return Err(wrong("store", "expected a list of host:port"));
        }
        if let Some(sasl) = &self.kafka.sasl
            && !matches!(sasl.as_str(), "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512")
        {
            return Err(wrong("kafka.sasl", format!("expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, got {sasl:?}")));
        }
        if self.cql.sasl.is_some() {
            return Err(wrong("cql.sasl", "is for Kafka only"));
        }
        if self.kafka.sasl.is_none() && (self.kafka.username.is_some() || self.kafka.has_password()) {
            return Err(wrong("kafka.sasl", "expected a mechanism to use the user and the password with"));
        }
        if self.kafka.sasl.is_some() && self.kafka.username.is_none() {
            return Err(wrong("kafka.username", "expected a user for SASL"));
        }
        self.kafka.check("kafka")?;
        self.cql.check("cql")
    }

    /// The log's part, for carriers with these ids.
    ///
    /// # Errors
    /// [`ConfigError`] if a carrier's id can't be part of a topic's name.
    pub fn log(&self, config: &Config) -> Result<LogConfig, ConfigError> {
        for carrier in &config.carriers {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            if !carrier.id.bytes().all(fits) {
                let place = format!("carrier {:?}: id", carrier.id);
                let problem = "expected letters, digits, dots, dashes and underscores: it is part of a topic's name";
                return Err(ConfigError::at(place, problem));
            }
        }
        let carriers = config.carriers.iter().map(|c| c.id.as_str().into()).collect();
        let mut log = LogConfig::new(&self.brokers, carriers);
        log.security = KafkaSecurity {
            tls: self.kafka.tls,
            ca_file: self.kafka.ca_file.clone(),
            cert_file: self.kafka.cert_file.clone(),
            key_file: self.kafka.key_file.clone(),
            sasl: self.kafka.sasl.clone(),
            username: self.kafka.username.clone().unwrap_or_default(),
            password: Secret(self.kafka.password.as_ref().map_or_else(String::new, |p| p.reveal().to_owned())),
        };
        log.prefix.clone_from(&self.prefix);
        log.partitions = self.partitions;
        log.replication = self.replication;
        log.window_ms = u64::from(config.placed_at_window_s) * 1_000;
        log.session_timeout = Duration::from_millis(self.session_timeout_ms.into());
        log.commit_interval = Duration::from_millis(self.commit_interval_ms.into());
        log.orders_per_commit = self.orders_per_commit as usize;
        log.queue_bytes = (config.queue_mb as usize * usize::from(config.partitions)) << 20;
        log.overlay_bytes = (self.overlay_mb as usize) << 20;
        log.index_entries = self.index_entries as usize;
        log.scratch = self.scratch_dir.clone().unwrap_or_else(std::env::temp_dir);
        log.max_lag = self.max_lag_records;
        log.json_events = self.events == EventFormat::Json;
        log.event_source.clone_from(&self.event_source);
        (log.events_kept, log.events_bytes) = (config.retention.time, config.retention.bytes);
        Ok(log)
    }

    /// The rows' part.
    #[must_use]
    pub fn rows(&self) -> StoreConfig {
        let mut store = StoreConfig::new(self.store.clone(), self.keyspace.clone());
        store.replication = self.store_replication;
        store.datacenter.clone_from(&self.datacenter);
        store.username.clone_from(&self.cql.username);
        store.password = self.cql.password.as_ref().map(|p| p.reveal().to_owned());
        store.tls = self.cql.tls.then(|| StoreTls {
            ca_file: self.cql.ca_file.clone(),
            cert_file: self.cql.cert_file.clone(),
            key_file: self.cql.key_file.clone(),
            verify: true,
        });
        store.retention =
            (self.retention_days > 0).then(|| Duration::from_secs(u64::from(self.retention_days) * 86_400));
        store
    }

    /// What is allowed and should be known.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (section, access) in [("kafka", &self.kafka), ("cql", &self.cql)] {
            if access.has_password() && !access.tls {
                warnings.push(format!("cluster.{section}.tls is off: the password can be read on its way"));
            }
        }
        for (key, copies) in [("replication", self.replication), ("store_replication", self.store_replication)] {
            if copies < 3 {
                warnings
                    .push(format!("cluster.{key} is {copies}: not durable against the loss of a machine or its power"));
            }
        }
        warnings
    }
}

impl Access {
    fn has_password(&self) -> bool {
        self.password_env.is_some() || self.password_file.is_some()
    }

    fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let all = [("ca_file", &self.ca_file), ("cert_file", &self.cert_file), ("key_file", &self.key_file)];
        all.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?)))
    }

    /// Checks what would be ignored in silence.
    fn check(&self, section: &str) -> Result<(), ConfigError> {
        let at = |key: &str, problem: &str| Err(wrong(&format!("{section}.{key}"), problem));
        if let Some((key, _)) = self.files().find(|_| !self.tls) {
            return at(key, "needs tls = true");
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return at("cert_file", "expected both cert_file and key_file, or neither");
        }
        if self.username.is_some() != self.has_password() {
            return at("username", "expected a user and a password (password_env or password_file), or neither");
        }
        Ok(())
    }

    fn resolve(&mut self, section: &str, environment: Environment<'_>) -> Result<(), ConfigError> {
        let at = |key: &str, problem: String| wrong(&format!("{section}.{key}"), problem);
        for (key, file) in self.files() {
            fs::File::open(file).map_err(|e| at(key, format!("{}: {e}", file.display())))?;
        }
        self.password = match (&self.password_env, &self.password_file) {
            (Some(_), Some(_)) => {
                return Err(at("password_env", "expected either password_env or password_file, got both".into()));
            }
            (Some(variable), None) => {
                let value = environment(variable).filter(|value| !value.is_empty());
                let missing = || at("password_env", format!("the variable {variable} isn't set"));
                Some(Hidden::new(value.ok_or_else(missing)?))
            }
            (None, Some(file)) => Some(read_secret(file).map_err(|problem| at("password_file", problem))?),
            (None, None) => None,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::RetentionConfig;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse("s.toml", text)
    }

    #[test]
    fn the_example_names_every_key_with_its_default() {
        let cluster = parse(EXAMPLE).unwrap().cluster.unwrap();
        assert_eq!(format!("{cluster:?}"), format!("{:?}", ClusterConfig::default()));
        cluster.check().unwrap();
        let mut shown = BTreeSet::new();
        for line in EXAMPLE.lines() {
            let line = line.strip_prefix("# ").unwrap_or(line);
            if line == "[cluster.kafka]" {
                break;
            }
            if let Some((key, _)) = line.split_once(" = ") {
                shown.insert(key.to_owned());
            }
        }
        let error = parse("[cluster]\nnonsense = 1").unwrap_err().to_string();
        let (_, list) = error.split_once("expected one of").unwrap();
        let mut known: BTreeSet<String> = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        known.remove("kafka");
        known.remove("cql");
        assert_eq!(shown, known);
    }

    #[test]
    fn public_events_are_kept_as_long_as_retention_says() {
        let mut config = parse(crate::config::EXAMPLE).unwrap();
        let kept = |config: &Config| {
            let log = ClusterConfig::default().log(config).unwrap();
            (log.events_kept, log.events_bytes)
        };
        assert_eq!(kept(&config), (None, None));
        config.retention = RetentionConfig { time: Some(Duration::from_secs(86_400)), bytes: Some(1 << 30) };
        assert_eq!(kept(&config), (Some(Duration::from_secs(86_400)), Some(1 << 30)));
    }

    #[test]
    fn secrets_come_from_variable_or_file_and_are_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "swordfish\n").unwrap();
        let mut cluster = ClusterConfig::default();
        cluster.kafka.password_env = Some("KAFKA_PASSWORD".into());
        cluster.cql.password_file = Some(file.path().to_owned());
        let error = cluster.clone().apply(&|_| None).unwrap_err().to_string();
        assert_eq!(error, "cluster.kafka.password_env: the variable KAFKA_PASSWORD isn't set");
        cluster.apply(&|name| (name == "KAFKA_PASSWORD").then(|| "open-sesame".to_owned())).unwrap();
        let mut config = parse(crate::config::EXAMPLE).unwrap();
        config.cluster = Some(cluster.clone());
        assert_eq!(cluster.log(&config).unwrap().security.password.0, "open-sesame");
        assert_eq!(cluster.rows().password.as_deref(), Some("swordfish"));
        let shown = format!("{cluster:?} {:?}", cluster.log(&config).unwrap());
        assert!(!shown.contains("open-sesame") && !shown.contains("swordfish"), "{shown}");
    }

    #[test]
    fn what_types_cannot_say_is_checked() {
        let error = |change: fn(&mut ClusterConfig)| {
            let mut cluster = ClusterConfig::default();
            change(&mut cluster);
            cluster.check().unwrap_err().to_string()
        };
        assert_eq!(error(|c| c.partitions = 0), "cluster.partitions: expected 1 to 1024, got 0");
        assert!(error(|c| c.prefix = "a b".into()).starts_with("cluster.prefix: expected 1 to 48 letters"));
        assert!(error(|c| c.keyspace = "a-b".into()).starts_with("cluster.keyspace: "));
        assert!(error(|c| c.kafka.sasl = Some("GSSAPI".into())).starts_with("cluster.kafka.sasl: expected PLAIN"));
        assert!(error(|c| c.kafka.sasl = Some("PLAIN".into())).starts_with("cluster.kafka.username: expected"));
        assert!(error(|c| c.kafka.password_env = Some("P".into())).starts_with("cluster.kafka.sasl: expected"));
        assert!(error(|c| c.cql.password_env = Some("P".into())).starts_with("cluster.cql.username: expected"));
        assert_eq!(error(|c| c.cql.ca_file = Some("ca".into())), "cluster.cql.ca_file: needs tls = true");
        let both = "cluster.cql.cert_file: expected both cert_file and key_file, or neither";
        assert_eq!(error(|c| (c.cql.tls, c.cql.key_file) = (true, Some("key".into()))), both);
    }

    #[test]
    fn addresses_come_from_the_environment_too() {
        let mut cluster = ClusterConfig::default();
        let environment = |name: &str| match name {
            "SLUICE_CLUSTER_BROKERS" => Some("a:1,b:2".to_owned()),
            "SLUICE_CLUSTER_STORE" => Some("c:3, d:4".to_owned()),
            _ => None,
        };
        cluster.apply(&environment).unwrap();
        assert_eq!((cluster.brokers.as_str(), cluster.store), ("a:1,b:2", vec!["c:3".to_owned(), "d:4".to_owned()]));
    }
}
