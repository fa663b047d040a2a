//! What a URL says: scheme, host and port, and whether they are any that may be called at all.

use std::net::IpAddr;

use sluice_domain::limits::MAX_WEBHOOK_URL;
use url::{Host, Url};

use super::{Guard, address};

/// Names that aren't of the public internet: the last labels.
const PRIVATE_SUFFIXES: [&str; 14] = [
    "localhost",
    "local",
    "localdomain",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "arpa",
    "test",
    "invalid",
    "onion",
    "alt",
];
/// The one port below 1,024 that a merchant's endpoint may have. Those below belong to other protocols.
const TLS_PORT: u16 = 443;
/// The first port that isn't the system's.
const FIRST_USER_PORT: u16 = 1_024;

/// A URL that may be called, as far as it can be said without resolving its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The URL as it is kept: normalised, so that one endpoint has one spelling.
    pub url: String,
    /// Host as a name or an address without brackets.
    pub host: String,
    /// The address, if the host is one.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// True for https.
    pub tls: bool,
    /// `Host` header: the host, with the port unless it is the scheme's.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// Why a URL isn't taken. What is expected is said; it fits behind "must be".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Longer than [`MAX_WEBHOOK_URL`].
    #[error("a URL of at most {MAX_WEBHOOK_URL} bytes")]
    Length,
    /// It can't be parsed, has no host, or has spaces or control characters that a parser would quietly drop.
    #[error("an absolute URL such as https://shop.example/hooks")]
    NotAUrl,
    /// Neither https nor, where the operator allows the network, http.
    #[error("an https URL")]
    Scheme,
    /// User or password.
    #[error("a URL without user and password")]
    Credentials,
    /// A fragment, which is never sent.
    #[error("a URL without a fragment")]
    Fragment,
    /// A port of another protocol.
    #[error("a URL with port 443, or 1024 and above")]
    Port,
    /// The host is an address that isn't public.
    #[error("a URL with a public address")]
    Address,
    /// The host's name can't be one of the public internet.
    #[error("a URL with a public host name")]
    Name,
}

impl Target {
    /// Reads `text`.
    ///
    /// # Errors
    /// [`UrlError`] with what is expected instead.
    pub fn parse(text: &str, guard: &Guard) -> Result<Self, UrlError> {
        if text.len() > MAX_WEBHOOK_URL {
            return Err(UrlError::Length);
        }
        // A parser drops tabs and line ends, and takes backslashes for slashes: what reads differently to different eyes is
        // refused.
        if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(UrlError::NotAUrl);
        }
        let url = Url::parse(text).map_err(|_| UrlError::NotAUrl)?;
        let tls = match url.scheme() {
            "https" => true,
            "http" if !guard.allowed.is_empty() => false,
            _ => return Err(UrlError::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() || has_at_sign(text) {
            return Err(UrlError::Credentials);
        }
        if url.fragment().is_some() {
            return Err(UrlError::Fragment);
        }
        let (host, address) = match url.host().ok_or(UrlError::NotAUrl)? {
            Host::Ipv4(address) => (address.to_string(), Some(IpAddr::V4(address))),
            Host::Ipv6(address) => (address.to_string(), Some(IpAddr::V6(address))),
            Host::Domain(name) => (name.trim_end_matches('.').to_owned(), None),
        };
        let port = url.port_or_known_default().ok_or(UrlError::Port)?;
        // Whoever lets a network be called lets all of its ports be called.
        let system = is_system(port);
        if system && guard.allowed.is_empty() {
            return Err(UrlError::Port);
        }
        match address {
            Some(address) if guard.is_allowed(address) => {}
            Some(_) if !tls => return Err(UrlError::Scheme),
            Some(address) if !address::is_public(address) => return Err(UrlError::Address),
            Some(_) if system => return Err(UrlError::Port),
            Some(_) => {}
            // Where private networks may be called their names may be, too: what they lead to decides.
            None if guard.allowed.is_empty() && !is_public_name(&host) => return Err(UrlError::Name),
            None if host.is_empty() => return Err(UrlError::NotAUrl),
            None => {}
        }
        let authority = authority(&url);
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        Ok(Self { url: url.into(), host, address, port, tls, authority, path })
    }

    /// True if a public address may be called like this.
    #[must_use]
    pub fn is_for_public(&self) -> bool {
        self.tls && !is_system(self.port)
    }
}

/// Host and, unless it is the scheme's, port of a URL that was taken once: for people.
#[must_use]
pub fn host_of(url: &str) -> Option<String> {
    Url::parse(url).ok().map(|url| authority(&url))
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// True for a port of another protocol.
fn is_system(port: u16) -> bool {
    port < FIRST_USER_PORT && port != TLS_PORT
}

/// `https://@host` and `https://:@host` parse as if nothing were there.
fn has_at_sign(text: &str) -> bool {
    let behind = text.split_once("://").map_or(text, |(_, rest)| rest);
    behind.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
}

/// At least two labels, none of them empty, and no last one that is only used inside.
fn is_public_name(name: &str) -> bool {
    let mut labels = name.rsplit('.');
    let last = labels.next().unwrap_or_default();
    !PRIVATE_SUFFIXES.contains(&last) && name.contains('.') && labels.all(|label| !label.is_empty())
}
