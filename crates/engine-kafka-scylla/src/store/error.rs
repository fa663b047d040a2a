//! What can go wrong with the row store, and the one place that says which of it time may mend.

use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError, MetadataError,
    NewSessionError, PrepareError, RequestAttemptError,
};

/// Settings that a refused handshake may be due to.
const HANDSHAKE: &str = "tls, cert_file, key_file";

/// Why the row store didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A setting is outside its bounds.
    #[error("store setting {setting}: expected {expected}")]
    Config {
        /// Which setting.
        setting: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// TLS can't be had.
    #[error("TLS: {0}")]
    Tls(#[from] openssl::error::ErrorStack),
    /// A certificate, key or authority can't be used.
    #[error("{}: {source}", file.display())]
    TlsFile {
        /// Which setting.
        setting: &'static str,
        /// The file that it names.
        file: std::path::PathBuf,
        /// What is wrong with it.
        source: openssl::error::ErrorStack,
    },
    /// No session with the cluster.
    #[error("can't connect to the store at {nodes}: {source}")]
    Connect {
        /// The nodes that were asked.
        nodes: String,
        /// What the driver says.
        source: Box<NewSessionError>,
    },
    /// Several datacentres, and none is named as the local one; or the named one isn't there.
    #[error("store setting datacenter: expected one of {known}")]
    Datacenter {
        /// The datacentres of the cluster.
        known: String,
    },
    /// Rows could never reach their quorum.
    #[error("datacentre {datacenter} has {nodes} nodes, fewer than the {replication} copies asked for")]
    TooFewNodes {
        /// The datacentre.
        datacenter: String,
        /// Nodes in it.
        nodes: usize,
        /// Copies asked for.
        replication: u16,
    },
    /// The keyspace has no finished schema, or an older one.
    #[error("keyspace {keyspace} has schema version {found}, this program needs {wanted}: run `sluice migrate`")]
    SchemaOld {
        /// The keyspace.
        keyspace: String,
        /// Version found; 0 if there is none.
        found: u32,
        /// Version this program knows.
        wanted: u32,
    },
    /// A newer program has changed the schema.
    #[error("keyspace {keyspace} has schema version {found}, newer than this program's {known}: upgrade the program")]
    SchemaNewer {
        /// The keyspace.
        keyspace: String,
        /// Version found.
        found: u32,
        /// Version this program knows.
        known: u32,
    },
    /// A request failed.
    #[error("the store can't {what}: {source}")]
    Request {
        /// What was asked.
        what: &'static str,
        /// What the driver says.
        source: Box<ExecutionError>,
    },
    /// An answer isn't what the schema promises.
    #[error("the store's answer can't be read: {0}")]
    Answer(String),
}

impl StoreError {
    pub(super) fn request(what: &'static str) -> impl FnOnce(ExecutionError) -> Self {
        move |source| Self::Request { what, source: Box::new(source) }
    }

    /// The settings that it may be due to, if there is something to be set right.
    pub fn settings(&self) -> Option<&'static str> {
        match self {
            Self::Config { setting, .. } | Self::TlsFile { setting, .. } => Some(setting),
            Self::Connect { source, .. } => {
                let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(pool)) = &**source else {
                    return None;
                };
                let ConnectionPoolError::Broken { last_connection_error: last } = pool else { return None };
                match last {
                    // Nodes that want TLS, or a certificate, end the connection without a word.
                    ConnectionError::ConnectionSetupRequestError(e)
                        if matches!(e.get_error(), ConnectionSetupRequestErrorKind::BrokenConnection(_)) =>
                    {
                        Some(HANDSHAKE)
                    }
                    ConnectionError::ConnectionSetupRequestError(_) if !transient_pool(pool) => {
                        Some("username, password_env or password_file")
                    }
                    ConnectionError::IoError(error) if error.to_string().contains("certificate verify failed") => {
                        Some("ca_file")
                    }
                    ConnectionError::IoError(error) if error.to_string().contains("SSL routines") => Some(HANDSHAKE),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// True if the same request may succeed later without anybody's help: a node is down, slow or overloaded.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Request { source, .. } => transient(source),
            Self::Connect { source, .. } => match &**source {
                NewSessionError::FailedToResolveAnyHostname(_) => true,
                NewSessionError::MetadataError(MetadataError::ConnectionPoolError(e)) => transient_pool(e),
                NewSessionError::MetadataError(_) => true,
                _ => false,
            },
            _ => false,
        }
    }
}

/// See [`StoreError::is_transient`]. What isn't known to pass is permanent: better to stop than to hammer in silence.
pub(super) fn transient(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::EmptyPlan | ExecutionError::RequestTimeout(_) => true,
        ExecutionError::SchemaAgreementError(_) | ExecutionError::MetadataError(_) => true,
        ExecutionError::ConnectionPoolError(e) => transient_pool(e),
        ExecutionError::LastAttemptError(e) => transient_attempt(e),
        ExecutionError::PrepareError(PrepareError::ConnectionPoolError(e)) => transient_pool(e),
        ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt }) => {
            transient_attempt(first_attempt)
        }
        _ => false,
    }
}

fn transient_pool(error: &ConnectionPoolError) -> bool {
    match error {
        ConnectionPoolError::Broken { last_connection_error } => match last_connection_error {
            ConnectionError::ConnectionSetupRequestError(e) => !matches!(
                e.get_error(),
                ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError | DbError::Unauthorized, _)
                    | ConnectionSetupRequestErrorKind::MissingAuthentication
                    | ConnectionSetupRequestErrorKind::StartAuthSessionError(_)
                    | ConnectionSetupRequestErrorKind::AuthChallengeEvaluationError(_)
                    | ConnectionSetupRequestErrorKind::AuthFinishError(_)
            ),
            _ => true,
        },
        ConnectionPoolError::Initializing => true,
        _ => false,
    }
}

fn transient_attempt(error: &RequestAttemptError) -> bool {
    match error {
        RequestAttemptError::UnableToAllocStreamId | RequestAttemptError::BrokenConnectionError(_) => true,
        RequestAttemptError::DbError(e, _) => matches!(
            e,
            DbError::Unavailable { .. }
                | DbError::Overloaded
                | DbError::IsBootstrapping
                | DbError::TruncateError
                | DbError::ReadTimeout { .. }
                | DbError::WriteTimeout { .. }
                | DbError::ReadFailure { .. }
                | DbError::WriteFailure { .. }
                | DbError::ServerError
                | DbError::RateLimitReached { .. }
                // The driver prepares again once; a busy server may forget it once more.
                | DbError::Unprepared { .. }
        ),
        _ => false,
    }
}
