//! TLS: certificate and key from PEM files, replaced while the server runs when the files change. A pair that can't be used
//! is named by its key, never shown; while there is an older one, that stays in use.

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, ConfigBuilder, ConfigSide, RootCertStore, ServerConfig, WantsVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use serde::Deserialize;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::ConfigError;

/// Bytes of a PEM file, at most.
pub const MAX_PEM: u64 = 1 << 20;
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(30);

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate, and then those between it and the authority's.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// The certificate that the server shows.
pub struct Tls {
    files: TlsConfig,
    current: ArcSwap<ServerConfig>,
    /// What the files held when they were last read, hashed, so that nothing is tried or told twice.
    seen: Mutex<u64>,
    hasher: RandomState,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and what was expected.
    pub fn load(files: &TlsConfig) -> Result<Self, ConfigError> {
        let pems = Pems::read(files)?;
        let current = ArcSwap::from_pointee(pems.server(files)?);
        let hasher = RandomState::new();
        Ok(Self { seen: Mutex::new(hasher.hash_one(&pems)), files: files.clone(), current, hasher })
    }

    /// Answers a handshake with what is current.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.load_full().into()
    }

    /// Reads the files again. What has changed is used for connections from now on, if it can be; else that is logged, once.
    pub fn refresh(&self) {
        let pems = Pems::read(&self.files);
        let hash = match &pems {
            Ok(pems) => self.hasher.hash_one(pems),
            Err(error) => self.hasher.hash_one(error.to_string()),
        };
        if std::mem::replace(&mut *self.seen.lock(), hash) == hash {
            return;
        }
        match pems.and_then(|pems| pems.server(&self.files)) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                tracing::info!(certificate = %self.files.certificate.display(), "the certificate was replaced");
            }
            Err(error) => tracing::error!(%error, "the certificate can't be replaced; the old one stays"),
        }
    }

    /// Looks at the files now and then, until the runtime ends.
    pub fn watch(self: Arc<Self>) {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let tls = Arc::clone(&self);
                // Files may be on a network.
                drop(tokio::task::spawn_blocking(move || tls.refresh()).await);
            }
        });
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What both files hold.
#[derive(Hash)]
struct Pems {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pems {
    fn read(files: &TlsConfig) -> Result<Self, ConfigError> {
        Ok(Self { certificate: read("tls.certificate", &files.certificate)?, key: read("tls.key", &files.key)? })
    }

    fn server(&self, files: &TlsConfig) -> Result<ServerConfig, ConfigError> {
        let chain = certificates("tls.certificate", &files.certificate, &self.certificate)?;
        let wrong = |problem: String| at("tls.key", &files.key, problem);
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            wrong("expected PEM with a private key (PKCS#8, PKCS#1 or SEC1) that has no password".into())
        })?;
        let belongs = |error| match error {
            rustls::Error::InconsistentKeys(_) => wrong(format!(
                "expected the key of the certificate in {}, got another one",
                files.certificate.display()
            )),
            error => wrong(format!("can't be used with {}: {error}", files.certificate.display())),
        };
        let builder = versions(ServerConfig::builder_with_provider(provider()))?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(belongs)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Connects to servers whose certificates one of the authorities in a PEM file has signed.
///
/// # Errors
/// [`ConfigError`] naming `place` and what was expected of the file.
pub fn connector(place: &str, authorities: &Path) -> Result<TlsConnector, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(place, authorities, &read(place, authorities)?)? {
        roots.add(certificate).map_err(|error| at(place, authorities, format!("expected authorities: {error}")))?;
    }
    let mut config =
        versions(ClientConfig::builder_with_provider(provider()))?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn versions<S: ConfigSide>(
    builder: ConfigBuilder<S, rustls::WantsVersions>,
) -> Result<ConfigBuilder<S, WantsVerifier>, ConfigError> {
    builder.with_protocol_versions(&[&TLS13, &TLS12]).map_err(|error| ConfigError::at("tls", error.to_string()))
}

fn certificates(place: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(at(place, path, "expected PEM with at least one certificate".to_owned())),
    }
}

fn read(place: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MAX_PEM + 1).read_to_end(&mut bytes));
    file.map_err(|error| at(place, path, error.to_string()))?;
    if bytes.len() as u64 > MAX_PEM {
        return Err(at(place, path, format!("expected at most {MAX_PEM} bytes")));
    }
    Ok(bytes)
}

fn at(place: &str, path: &Path, problem: String) -> ConfigError {
    ConfigError::at(place, format!("{}: {problem}", path.display()))
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
