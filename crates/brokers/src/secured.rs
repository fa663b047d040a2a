//! A pair that lets nobody in without TLS, a certificate and a password: what is made up for it at start, and what the two
//! servers are told of it.

use std::fmt;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslStream};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

use crate::Missing;
use crate::error::io;

/// Bound on one login's connect, on its writes and on its reads: passwords are slow to check on purpose.
const LOGIN: Duration = Duration::from_secs(5);
/// Days that certificates are good for.
const DAYS: u32 = 30;

/// Somebody who signs certificates.
pub struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    /// A new one, whom nobody trusts yet.
    ///
    /// # Errors
    /// [`Missing::Io`] if OpenSSL can't make it.
    pub fn new(name: &str) -> Result<Self, Missing> {
        let made = key().and_then(|key| Ok(Self { certificate: certificate(name, &key, None)?, key }));
        made.map_err(made_by("an authority"))
    }

    /// Its certificate, PEM.
    ///
    /// # Errors
    /// [`Missing::Io`] if OpenSSL can't write it.
    pub fn pem(&self) -> Result<String, Missing> {
        self.certificate.to_pem().map(text).map_err(made_by("a certificate"))
    }

    /// Certificate and key of somebody at 127.0.0.1, PEM.
    ///
    /// # Errors
    /// [`Missing::Io`] if OpenSSL can't make them.
    pub fn issue(&self, name: &str) -> Result<(String, String), Missing> {
        let make = || {
            let key = key()?;
            let certificate = certificate(name, &key, Some(self))?;
            Ok((text(certificate.to_pem()?), text(key.private_key_to_pem_pkcs8()?)))
        };
        make().map_err(made_by("a certificate"))
    }
}

fn made_by(what: &str) -> impl FnOnce(ErrorStack) -> Missing {
    let what = format!("making {what}");
    move |error| io(what)(Error::other(error))
}

fn text(pem: Vec<u8>) -> String {
    String::from_utf8_lossy(&pem).into_owned()
}

fn key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// A certificate of `key`, by an authority or, if there is none, by itself as one.
fn certificate(name: &str, key: &PKey<Private>, by: Option<&Authority>) -> Result<X509, ErrorStack> {
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
    let subject = subject.build();
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial.to_asn1_integer()?.as_ref())?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(by.map_or(&*subject, |by| by.certificate.subject_name()))?;
    builder.set_pubkey(key)?;
    builder.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
    builder.set_not_after(Asn1Time::days_from_now(DAYS)?.as_ref())?;
    if by.is_none() {
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    } else {
        let place = SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None))?;
        builder.append_extension(place)?;
    }
    builder.sign(by.map_or(key, |by| &by.key), MessageDigest::sha256())?;
    Ok(builder.build())
}

/// What a client needs to be let in, and a folder that has it as PEM files.
#[derive(Clone)]
pub struct Secured {
    /// Who signed the servers' certificates.
    pub ca_file: PathBuf,
    /// A client's certificate, which both servers ask for.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// User of both servers.
    pub username: String,
    /// Its password at Kafka, by PLAIN and by SCRAM-SHA-512.
    pub kafka_password: String,
    /// Its password at the store.
    pub store_password: String,
    /// The servers' key and certificate.
    server_file: PathBuf,
}

impl fmt::Debug for Secured {
    /// Everything but the passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured")
            .field("ca_file", &self.ca_file)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Secured {
    /// Makes everything up anew, in `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self, Missing> {
        std::fs::create_dir_all(folder).map_err(io(format!("creating {}", folder.display())))?;
        let folder = std::path::absolute(folder).map_err(io("making a path absolute"))?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(io(format!("writing {}", path.display())))?;
            Ok::<_, Missing>(path)
        };
        let authority = Authority::new("sluice-test-authority")?;
        let ((server, server_key), (client, client_key)) = (authority.issue("server")?, authority.issue("client")?);
        let password = || {
            let mut bytes = [0; 16];
            openssl::rand::rand_bytes(&mut bytes).map_err(made_by("a password"))?;
            Ok::<_, Missing>(format!("{:032x}", u128::from_be_bytes(bytes)))
        };
        Ok(Self {
            ca_file: write("ca.pem", &authority.pem()?)?,
            cert_file: write("client.pem", &client)?,
            key_file: write("client.key", &client_key)?,
            username: "sluice".to_owned(),
            kafka_password: password()?,
            store_password: password()?,
            server_file: write("server.pem", &format!("{server_key}{server}"))?,
        })
    }

    /// Kafka's properties with a secured listener in the place of the plain one, which moves to `inner` for the broker
    /// itself and for who looks whether it is ready.
    pub(crate) fn kafka(&self, properties: &str, inner: u16) -> String {
        let line = |line: &str| match line.split_once('=') {
            Some(("listeners" | "advertised.listeners", _)) => {
                format!("{},PLAINTEXT://127.0.0.1:{inner}\n", line.replace("=PLAINTEXT", "=SASL_SSL"))
            }
            Some(("listener.security.protocol.map", _)) => format!("{line},SASL_SSL:SASL_SSL\n"),
            _ => format!("{line}\n"),
        };
        let (user, password) = (&self.username, &self.kafka_password);
        let (server, authority) = (self.server_file.display(), self.ca_file.display());
        let lines: String = properties.lines().map(line).collect();
        format!(
            "{lines}sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}=\"{password}\";\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             ssl.keystore.type=PEM\nssl.keystore.location={server}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={authority}\nlistener.name.sasl_ssl.ssl.client.auth=required\n"
        )
    }

    /// What Kafka's folder is formatted with, so that the user is known by SCRAM.
    pub(crate) fn scram(&self) -> String {
        format!("SCRAM-SHA-512=[name={},password={}]", self.username, self.kafka_password)
    }

    /// The store's settings with TLS and passwords.
    pub(crate) fn cassandra(&self, yaml: &str) -> String {
        format!(
            "{yaml}\nauthenticator: PasswordAuthenticator\nclient_encryption_options:\n  enabled: true\n  optional: false\n  \
             require_client_auth: true\n  ssl_context_factory:\n    \
             class_name: org.apache.cassandra.security.PEMBasedSslContextFactory\n  keystore: \"{}\"\n  \
             truststore: \"{}\"\n",
            self.server_file.display(),
            self.ca_file.display()
        )
    }

    /// Ok once the user can log in to the store; makes it when the store has just been born with its own user alone.
    pub(crate) fn admit(&self, address: &str) -> Result<(), Error> {
        if self.login(address, &self.username, &self.store_password).is_ok() {
            return Ok(());
        }
        let mut first = self.login(address, "cassandra", "cassandra")?;
        let statement = format!(
            "CREATE ROLE IF NOT EXISTS {} WITH PASSWORD = '{}' AND LOGIN = true AND SUPERUSER = true",
            self.username, self.store_password
        );
        let mut query = length(statement.len()).to_vec();
        query.extend(statement.as_bytes());
        // Consistency ONE, no flags.
        query.extend([0, 1, 0]);
        ask(&mut first, 0x07, &query, 0x08)?;
        self.login(address, &self.username, &self.store_password).map(drop)
    }

    fn login(&self, address: &str, user: &str, password: &str) -> Result<SslStream<TcpStream>, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LOGIN))?;
        stream.set_write_timeout(Some(LOGIN))?;
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        connector.set_ca_file(&self.ca_file)?;
        connector.set_certificate_chain_file(&self.cert_file)?;
        connector.set_private_key_file(&self.key_file, SslFiletype::PEM)?;
        let mut stream = connector.build().connect("127.0.0.1", stream).map_err(Error::other)?;
        let mut startup = 1_u16.to_be_bytes().to_vec();
        for text in ["CQL_VERSION", "3.0.0"] {
            startup.extend((text.len() as u16).to_be_bytes());
            startup.extend(text.as_bytes());
        }
        ask(&mut stream, 0x01, &startup, 0x03)?;
        let token = format!("\0{user}\0{password}");
        let mut response = length(token.len()).to_vec();
        response.extend(token.as_bytes());
        ask(&mut stream, 0x0f, &response, 0x10)?;
        Ok(stream)
    }
}

fn length(bytes: usize) -> [u8; 4] {
    (bytes as u32).to_be_bytes()
}

/// Sends a frame of CQL's protocol v4, and expects an answer of one kind.
fn ask(stream: &mut SslStream<TcpStream>, opcode: u8, body: &[u8], expected: u8) -> Result<(), Error> {
    let mut frame = vec![0x04, 0, 0, 0, opcode];
    frame.extend(length(body.len()));
    frame.extend(body);
    stream.write_all(&frame)?;
    let mut header = [0; 9];
    stream.read_exact(&mut header)?;
    let size = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    let mut answer = Vec::new();
    stream.take(u64::from(size)).read_to_end(&mut answer)?;
    if header[4] == expected {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer).into_owned();
    Err(Error::new(ErrorKind::PermissionDenied, format!("answered opcode {:#x}: {said}", header[4])))
}
