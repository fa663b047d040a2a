//! What an operator can set: `sluice.toml`, and environment variables over it. `sluice.example.toml` documents every key
//! with its default, and a test keeps it true.
//!
//! Secrets are read and never shown: [`std::fmt::Debug`] redacts them, and error messages name keys and lines without
//! quoting them.

use std::{collections::HashSet, fmt, net::SocketAddr, path::Path, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};
use sluice_carrier::{
    events::Teller,
    notifier::{Endpoint, NotifierConfig},
    routing::{CarrierRule, GroupSet, Table},
    webhook::Secret,
};
use sluice_domain::Group;

use crate::{cluster::ClusterConfig, tls::TlsConfig, webhooks::WebhooksConfig};

mod merchant;
mod operator;
mod overrides;
mod retention;

pub use merchant::MerchantConfig;
pub use retention::RetentionConfig;

/// The example, with every key and its default.
pub const EXAMPLE: &str = include_str!("../sluice.example.toml");

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whoever needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // By way of a value, because the message about a wrong type would quote it.
        match toml::Value::deserialize(from)? {
            toml::Value::String(text) => Ok(Self(text)),
            _ => Err(D::Error::custom("expected a text in quotes")),
        }
    }
}

/// A `[[carrier]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarrierConfig {
    /// Its id.
    pub id: String,
    /// Where manifests are posted.
    pub url: String,
    /// What manifests are signed with, `whsec_…`.
    pub secret: Option<Hidden>,
    /// … or the environment variable that holds it.
    pub secret_env: Option<String>,
    /// What its events must be signed with: `whsec_…`, or two with a space between them while one replaces the other.
    /// Without any it can't tell where shipments are.
    pub events_secret: Option<Hidden>,
    /// … or the environment variable that holds it.
    pub events_secret_env: Option<String>,
    /// Whether it remembers its final answer to every shipment id. If not, nothing is ever sent to it twice.
    #[serde(default)]
    pub idempotent: bool,
    /// Whether it can be asked to forget a shipment that it took: it answers `voids` in manifests.
    #[serde(default)]
    pub voids: bool,
    /// Whether it brings goods back: it answers `returns` in manifests.
    #[serde(default)]
    pub returns: bool,
    /// Handling groups it takes.
    pub handling: Vec<String>,
    /// What a parcel costs, in minor units.
    #[serde(default = "defaults::cost")]
    pub cost: u32,
    /// Days from its yes to the customer's door.
    #[serde(default = "defaults::promised_days")]
    pub promised_days: u16,
    /// Heaviest parcel it takes, grams.
    #[serde(default = "defaults::max_weight_g")]
    pub max_weight_g: u32,
    /// Calls at it at once.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: u16,
    /// Seconds a call may take.
    #[serde(default = "defaults::timeout_s")]
    pub timeout_s: u32,
    /// Seconds a shipment is tried for before it is dead-lettered.
    #[serde(default = "defaults::give_up_after_s")]
    pub give_up_after_s: u32,
    /// Shipments in one manifest.
    #[serde(default = "defaults::manifest_shipments")]
    pub manifest_shipments: u32,
    /// Milliseconds that a manifest waits for more shipments.
    #[serde(default = "defaults::manifest_age_ms")]
    pub manifest_age_ms: u32,
}

mod defaults {
    use super::{CarrierRule, NotifierConfig};
    use std::sync::LazyLock;

    static NOTIFIER: LazyLock<NotifierConfig> = LazyLock::new(|| NotifierConfig::new("", false));

    pub fn cost() -> u32 {
        CarrierRule::DEFAULT_COST
    }
    pub fn promised_days() -> u16 {
        CarrierRule::DEFAULT_PROMISED_DAYS
    }
    pub fn max_weight_g() -> u32 {
        CarrierRule::DEFAULT_MAX_WEIGHT_G
    }
    pub fn concurrency() -> u16 {
        NOTIFIER.calls_in_flight as u16
    }
    pub fn timeout_s() -> u32 {
        NOTIFIER.call_timeout.as_secs() as u32
    }
    pub fn give_up_after_s() -> u32 {
        NOTIFIER.give_up_after.as_secs() as u32
    }
    pub fn manifest_shipments() -> u32 {
        NOTIFIER.manifest_shipments as u32
    }
    pub fn manifest_age_ms() -> u32 {
        NOTIFIER.manifest_age.as_millis() as u32
    }
}

impl CarrierConfig {
    /// A carrier with the defaults.
    pub fn new(id: impl Into<String>, url: impl Into<String>, secret: impl Into<String>, handling: &[Group]) -> Self {
        Self {
            id: id.into(),
            url: url.into(),
            secret: Some(Hidden::new(secret)),
            secret_env: None,
            events_secret: None,
            events_secret_env: None,
            idempotent: false,
            voids: false,
            returns: false,
            handling: handling.iter().map(|group| group.name().to_owned()).collect(),
            cost: defaults::cost(),
            promised_days: defaults::promised_days(),
            max_weight_g: defaults::max_weight_g(),
            concurrency: defaults::concurrency(),
            timeout_s: defaults::timeout_s(),
            give_up_after_s: defaults::give_up_after_s(),
            manifest_shipments: defaults::manifest_shipments(),
            manifest_age_ms: defaults::manifest_age_ms(),
        }
    }

    /// Where and how it is reached.
    ///
    /// # Errors
    /// What is wrong with `url` or `secret`.
    pub fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let at = |key: &str, problem: String| ConfigError::at(format!("carrier {:?}: {key}", self.id), problem);
        let text = self.secret.as_ref().ok_or_else(|| at("secret", "is missing".into()))?;
        let secret = Secret::from_str(text.reveal()).map_err(|error| at("secret", error.to_string()))?;
        Endpoint::new(&self.url, secret).map_err(|error| at("url", error.to_string()))
    }

    /// How it is known when it tells something.
    ///
    /// # Errors
    /// What is wrong with `events_secret`.
    pub fn teller(&self) -> Result<Teller, ConfigError> {
        let Some(keys) = &self.events_secret else {
            return Ok(Teller { carrier: self.id.as_str().into(), keys: Vec::new() });
        };
        let at = |problem: String| ConfigError::at(format!("carrier {:?}: events_secret", self.id), problem);
        Teller::new(self.id.as_str(), keys.reveal()).map_err(|error| at(error.to_string()))
    }
}

/// The configuration. [`Config::default`] has every default and nobody to serve.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port of the HTTP API; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of journal and store; created if need be.
    pub data_dir: PathBuf,
    /// Seconds that `placed_at` may lie from now, either way.
    pub placed_at_window_s: u32,
    /// Owners, each a thread with its share of the orders.
    pub partitions: u16,
    /// MiB of one journal file; fixed when the data folder is created.
    pub segment_mb: u32,
    /// MiB of journal after which a checkpoint is taken.
    pub checkpoint_mb: u32,
    /// MiB of young rows in memory, for each partition, after which a checkpoint is taken.
    pub hot_mb: u32,
    /// MiB of orders that may wait for each partition.
    pub queue_mb: u32,
    /// MiB of requests and answers in memory at once.
    pub max_inflight_mb: u32,
    /// Milliseconds that the log may take to acknowledge before the loudest merchants are held at what the others do.
    pub slow_ack_ms: u32,
    /// Connections served at once; more wait.
    pub max_connections: u32,
    /// Orders a second that a merchant may post, unless it has a limit of its own; 0: as many as it likes.
    pub rate_limit: u32,
    /// Orders that a merchant may post at once before that counts; 0: one second's.
    pub burst: u32,
    /// Streams of events at once; more are refused.
    pub max_event_streams: u32,
    /// Streams of orders' events at once; never more than half of the connections.
    pub max_streams: u32,
    /// Seconds that a drain waits for what is in flight.
    pub drain_deadline_s: u32,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are: a level, or directives as in `RUST_LOG`.
    pub log_level: String,
    /// Rule file for goods that the catalogue doesn't know; the embedded one if absent.
    pub rules: Option<PathBuf>,
    /// Model file for goods that neither catalogue nor rules know; the embedded one if absent.
    pub model: Option<PathBuf>,
    /// Whether goods of which a wrong guess might do harm wait for a person.
    pub review: bool,
    /// The probability of being dangerous in another way above which they do, instead of the model's bounds.
    pub review_above_risk: Option<f32>,
    /// The key by which an operator sees every merchant's orders.
    pub operator_key: Option<Hidden>,
    /// … or the environment variable that holds it.
    pub operator_key_env: Option<String>,
    /// A further one as a BLAKE3 hash, 64 hexadecimal digits.
    pub operator_key_hash: Option<Hidden>,
    /// Who may post orders.
    #[serde(rename = "merchant")]
    pub merchants: Vec<MerchantConfig>,
    /// Who takes parcels.
    #[serde(rename = "carrier")]
    pub carriers: Vec<CarrierConfig>,
    /// The certificate of the HTTP API; in the clear if absent.
    pub tls: Option<TlsConfig>,
    /// How merchants are told what happens.
    pub webhooks: WebhooksConfig,
    /// How long what is over is kept.
    pub retention: RetentionConfig,
    /// Where Kafka and ScyllaDB are; only workers of a cluster need it.
    pub cluster: Option<ClusterConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data_dir: PathBuf::from("sluice-data"),
            placed_at_window_s: 600,
            partitions: 2,
            segment_mb: 128,
            checkpoint_mb: 512,
            hot_mb: 192,
            queue_mb: 32,
            max_inflight_mb: 256,
            slow_ack_ms: 20,
            max_connections: 10_000,
            rate_limit: 0,
            burst: 0,
            max_event_streams: sluice_events::DEFAULT_MAX_STREAMS as u32,
            max_streams: 5_000,
            drain_deadline_s: 30,
            log_format: LogFormat::Pretty,
            log_level: "info".to_owned(),
            rules: None,
            model: None,
            review: true,
            review_above_risk: None,
            operator_key: None,
            operator_key_env: None,
            operator_key_hash: None,
            merchants: Vec::new(),
            carriers: Vec::new(),
            tls: None,
            webhooks: WebhooksConfig::default(),
            retention: RetentionConfig::default(),
            cluster: None,
        }
    }
}

/// The configuration can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    /// File and line, variable or key.
    place: String,
    /// What is wrong there, and what is expected.
    problem: String,
}

impl ConfigError {
    pub(crate) fn at(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }
}

/// Reads an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Reads `path`, applies the environment, and checks the whole. Also gives warnings about what is allowed and
    /// probably not meant.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file and line, the variable or the key, and what is expected.
    pub fn load(path: &Path, environment: Environment<'_>) -> Result<(Self, Vec<String>), ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::at(&name, format!("{error}; `sluice serve --example` prints a file to start from"))
        })?;
        let mut config = Self::parse(&name, &text)?;
        config.apply(environment)?;
        let warnings = config.check()?;
        Ok((config, warnings))
    }

    /// Reads TOML; `name` is said in errors.
    ///
    /// # Errors
    /// [`ConfigError`] with the line.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map(|before| before.matches('\n').count() + 1);
            let place = line.map_or_else(
                || name.to_owned(),
                |line| match key_of(text, line) {
                    Some(key) => format!("{name}:{line}: {key}"),
                    None => format!("{name}:{line}"),
                },
            );
            ConfigError::at(place, error.message().trim().replace('\n', " "))
        })
    }

    /// Applies environment variables: the overrides, and those that merchants and carriers name for their secrets.
    ///
    /// # Errors
    /// [`ConfigError`] naming the variable.
    pub fn apply(&mut self, environment: Environment<'_>) -> Result<(), ConfigError> {
        for (name, setter) in overrides::ALL {
            if let Some(value) = environment(name) {
                setter(self, value.trim()).map_err(|problem| ConfigError::at(name, problem))?;
            }
        }
        resolve("", "operator_key", &mut self.operator_key, self.operator_key_env.as_deref(), environment)?;
        self.merchants.iter_mut().try_for_each(|merchant| merchant.apply(environment))?;
        for carrier in &mut self.carriers {
            let who = format!("carrier {:?}", carrier.id);
            resolve(&who, "secret", &mut carrier.secret, carrier.secret_env.as_deref(), environment)?;
            let (secret, variable) = (&mut carrier.events_secret, carrier.events_secret_env.as_deref());
            resolve(&who, "events_secret", secret, variable, environment)?;
        }
        self.cluster.as_mut().map_or(Ok(()), |cluster| cluster.apply(environment))
    }

    /// Checks what types can't say, and gives warnings.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub fn check(&self) -> Result<Vec<String>, ConfigError> {
        let bounds: [(&str, u32, u32, u32); 13] = [
            ("placed_at_window_s", self.placed_at_window_s, 1, 7 * 86_400),
            ("partitions", u32::from(self.partitions), 1, 64),
            ("segment_mb", self.segment_mb, 40, 4_096),
            ("checkpoint_mb", self.checkpoint_mb, 1, 1 << 20),
            ("hot_mb", self.hot_mb, 1, 3_072),
            ("queue_mb", self.queue_mb, 1, 4_096),
            ("max_inflight_mb", self.max_inflight_mb, 16, 1 << 20),
            ("slow_ack_ms", self.slow_ack_ms, 1, 60_000),
            ("max_connections", self.max_connections, 1, 1_000_000),
            ("rate_limit", self.rate_limit, 0, merchant::MAX_RATE),
            ("burst", self.burst, 0, merchant::MAX_RATE),
            ("max_event_streams", self.max_event_streams, 1, 10_000),
            ("max_streams", self.max_streams, 1, 1_000_000),
        ];
        for (key, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::at(key, format!("expected {least} to {most}, got {value}")));
            }
        }
        if let Some(risk) = self.review_above_risk.filter(|risk| !(0.0..=1.0).contains(risk)) {
            return Err(ConfigError::at("review_above_risk", format!("expected a number from 0 to 1, got {risk}")));
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::at("data_dir", "expected a folder"));
        }
        self.merchants.iter().try_for_each(MerchantConfig::check)?;
        self.merchant_table()?;
        self.operators()?;
        self.routing_table()?;
        for carrier in &self.carriers {
            carrier.endpoint()?;
            carrier.teller()?;
            carrier.check()?;
        }
        self.webhooks.endpoints(&self.merchants, 0)?;
        if let Some(cluster) = &self.cluster {
            cluster.check()?;
        }
        Ok(self.warnings())
    }

    /// Streams that may be open at once: whoever follows orders leaves half of the connections to whoever posts them.
    #[must_use]
    pub fn stream_limit(&self) -> usize {
        self.max_streams.min(self.max_connections.div_ceil(2)) as usize
    }

    fn warnings(&self) -> Vec<String> {
        let taken: HashSet<&str> = self.carriers.iter().flat_map(|c| c.handling.iter().map(String::as_str)).collect();
        let untaken = Group::ALL.into_iter().filter(|group| !taken.contains(group.name()));
        let untaken =
            untaken.map(|group| format!("no carrier takes {} parcels: they will be dead-lettered", group.name()));
        untaken.collect()
    }

    /// Who takes what, by carrier number.
    ///
    /// # Errors
    /// [`ConfigError`] naming the carrier.
    pub fn routing_table(&self) -> Result<Table, ConfigError> {
        if self.carriers.is_empty() {
            return Err(ConfigError::at(
                "carrier",
                "expected at least one [[carrier]] with id, url, secret and handling",
            ));
        }
        let rule = |carrier: &CarrierConfig| {
            let groups = GroupSet::from_names(&carrier.handling);
            Ok(CarrierRule {
                id: carrier.id.clone(),
                groups: groups
                    .map_err(|e| ConfigError::at(format!("carrier {:?}: handling", carrier.id), e.to_string()))?,
                max_weight_g: carrier.max_weight_g,
                cost: carrier.cost,
                promised_days: carrier.promised_days,
                voids: carrier.voids,
                returns: carrier.returns,
            })
        };
        let rules = self.carriers.iter().map(rule).collect::<Result<_, ConfigError>>()?;
        Table::new(1, rules).map_err(|error| ConfigError::at("carrier", error.to_string()))
    }
}

impl CarrierConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let bounds: [(&str, u32, u32); 4] = [
            ("concurrency", u32::from(self.concurrency), 1_000),
            ("timeout_s", self.timeout_s, 3_600),
            ("give_up_after_s", self.give_up_after_s, 30 * 86_400),
            ("manifest_shipments", self.manifest_shipments, 10_000),
        ];
        for (key, value, most) in bounds {
            if !(1..=most).contains(&value) {
                let problem = format!("expected 1 to {most}, got {value}");
                return Err(ConfigError::at(format!("carrier {:?}: {key}", self.id), problem));
            }
        }
        Ok(())
    }
}

/// The key that is set in a line, counted from 1, of a TOML text. Only one that there is: anything else may be a secret
/// that slipped to where a key belongs.
fn key_of(text: &str, line: usize) -> Option<&str> {
    let (key, _) = text.lines().nth(line - 1)?.split_once('=')?;
    let known =
        |known: &str| known.trim_start_matches(['#', ' ']).strip_prefix(key.trim())?.strip_prefix(" = ").map(drop);
    EXAMPLE.lines().any(|line| known(line).is_some()).then(|| key.trim())
}

/// Takes a secret from the variable that is named for it; `who` is empty at the top level.
pub(crate) fn resolve(
    who: &str,
    key: &str,
    secret: &mut Option<Hidden>,
    variable: Option<&str>,
    environment: Environment<'_>,
) -> Result<(), ConfigError> {
    let Some(variable) = variable else { return Ok(()) };
    let place = if who.is_empty() { key.to_owned() } else { format!("{who}: {key}") };
    if secret.is_some() {
        return Err(ConfigError::at(place, format!("expected either {key} or {key}_env, got both")));
    }
    let value = environment(variable).filter(|value| !value.is_empty());
    let missing = || ConfigError::at(format!("{place}_env"), format!("the variable {variable} isn't set"));
    *secret = Some(Hidden(value.ok_or_else(missing)?));
    Ok(())
}

/// The secret in a file, without the end of its line.
///
/// # Errors
/// The file, and what the system says.
pub(crate) fn read_secret(file: &Path) -> Result<Hidden, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Hidden::new(text.trim_end_matches(['\r', '\n'])))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
