//! What the row store must be told, and the bounds of it: a wrong setting is refused before anything is connected.

use std::{fmt, path::PathBuf, time::Duration};

use super::StoreError;

/// Most rows in one batch; also bounds the cache of prepared batches (a few MB).
pub const MAX_ROWS_PER_BATCH: usize = 256;
/// Most bytes in one batch: ScyllaDB and Cassandra refuse a mutation above half a commit log segment (16 MiB).
pub const MAX_BYTES_PER_BATCH: usize = 4 << 20;
/// Most batches under way from one [`super::Store`].
pub const MAX_BATCHES_IN_FLIGHT: usize = 1024;
/// Longest retention a server accepts (20 years).
pub const MAX_RETENTION: Duration = Duration::from_secs(630_720_000);

/// Where the rows live and how hard to push.
#[derive(Clone)]
pub struct StoreConfig {
    /// Nodes to ask first, `host` or `host:port`; the rest of the cluster is found through them.
    pub nodes: Vec<String>,
    /// Keyspace: a lower case letter, then lower case letters, digits and `_`; at most 48 characters.
    pub keyspace: String,
    /// Copies per datacentre, used when the keyspace is created. Durable means 3 or more.
    pub replication: u16,
    /// The datacentre that is local to this process; `None` if the cluster has only one.
    pub datacenter: Option<String>,
    /// User, together with `password`.
    pub username: Option<String>,
    /// Password, together with `username`.
    pub password: Option<String>,
    /// TLS to every node; `None` = plain text.
    pub tls: Option<StoreTls>,
    /// Most batches under way at a time, over all calls of one store.
    pub batches_in_flight: usize,
    /// Most rows in one batch, at most [`MAX_ROWS_PER_BATCH`].
    pub rows_per_batch: usize,
    /// A batch is closed before it would exceed this many bytes of values; one larger row goes alone.
    pub bytes_per_batch: usize,
    /// How long one request may take before it counts as failed.
    pub request_timeout: Duration,
    /// Rows vanish this long after they were written (whole seconds); `None` = never.
    pub retention: Option<Duration>,
}

/// TLS material, PEM files.
#[derive(Debug, Clone)]
pub struct StoreTls {
    /// Authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate chain, together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// This client's private key, together with `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Whether the server's chain must lead to a trusted authority. Host names are not compared: nodes are
    /// discovered by address.
    pub verify: bool,
}

impl StoreConfig {
    /// The defaults: three copies, no TLS, no user, no retention. `examples/store_write.rs` chose the batches: from 50
    /// rows and 16 in flight on, larger figures gain nothing that can be told from noise.
    pub fn new(nodes: Vec<String>, keyspace: impl Into<String>) -> Self {
        Self {
            nodes,
            keyspace: keyspace.into(),
            replication: 3,
            datacenter: None,
            username: None,
            password: None,
            tls: None,
            batches_in_flight: 16,
            rows_per_batch: 100,
            bytes_per_batch: 128 << 10,
            request_timeout: Duration::from_secs(10),
            retention: None,
        }
    }

    /// Checks every bound named on the fields.
    ///
    /// # Errors
    /// [`StoreError::Config`] naming the setting and what it may be.
    pub fn validate(&self) -> Result<(), StoreError> {
        let check = |holds: bool, setting, expected| match holds {
            true => Ok(()),
            false => Err(StoreError::Config { setting, expected }),
        };
        let name = self.keyspace.as_bytes();
        let in_name = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_';
        let named = name.first().is_some_and(u8::is_ascii_lowercase) && name.iter().all(in_name) && name.len() <= 48;
        let retention = self.retention.unwrap_or(MAX_RETENTION);
        check(!self.nodes.is_empty(), "nodes", "at least one host or host:port")?;
        check(named, "keyspace", "a lower case letter, then lower case letters, digits or _, at most 48 in all")?;
        check(self.replication > 0, "replication", "at least 1")?;
        check(
            self.username.is_some() == self.password.is_some(),
            "username",
            "both username and password, or neither",
        )?;
        check((1..=MAX_ROWS_PER_BATCH).contains(&self.rows_per_batch), "rows_per_batch", "1 to 256")?;
        check((1..=MAX_BYTES_PER_BATCH).contains(&self.bytes_per_batch), "bytes_per_batch", "1 to 4194304")?;
        check((1..=MAX_BATCHES_IN_FLIGHT).contains(&self.batches_in_flight), "batches_in_flight", "1 to 1024")?;
        check(!self.request_timeout.is_zero(), "request_timeout", "more than 0")?;
        check(retention >= Duration::from_secs(1), "retention", "at least 1 s")?;
        check(retention <= MAX_RETENTION, "retention", "at most 20 years")?;
        let pair = self.tls.as_ref().is_none_or(|t| t.cert_file.is_some() == t.key_file.is_some());
        check(pair, "tls", "both cert_file and key_file, or neither")
    }
}

impl fmt::Debug for StoreConfig {
    /// Everything but the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("nodes", &self.nodes)
            .field("keyspace", &self.keyspace)
            .field("replication", &self.replication)
            .field("datacenter", &self.datacenter)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("tls", &self.tls)
            .field("batches_in_flight", &self.batches_in_flight)
            .field("rows_per_batch", &self.rows_per_batch)
            .field("bytes_per_batch", &self.bytes_per_batch)
            .field("request_timeout", &self.request_timeout)
            .field("retention", &self.retention)
            .finish()
    }
}
