//! Asks a node, and says what its answer means.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use clap::Args;
use serde::Deserialize;
use sluice_domain::OrderId;
use tokio::time::{Instant, sleep};

use super::paint::plain;
use crate::{
    config::Hidden,
    exit,
    load::{Failure, Link, Reply, Target},
    tls,
};

/// What a node calls an order, a parcel or a kept decision that it doesn't know; other things may be unknown as well, such as
/// the route.
const UNKNOWN: [&str; 3] =
    ["urn:sluice:problem:unknown-order", "urn:sluice:problem:unknown-parcel", "urn:sluice:problem:unknown-kept"];

/// How long an answer may take that waits for nothing.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node may say that it can't tell yet: an order on its way to the rows, a store that is away for a moment.
const PATIENCE: Duration = Duration::from_secs(5);
/// Waits of at least and at most so long before it asks again.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Which node is asked, and with which key.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address of a node that shows orders, http://host:port or https://host:port
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub url: Target,
    /// An operator's key (operator_key of the configuration)
    #[arg(long, env = "SLUICE_OPERATOR_KEY", hide_env_values = true, value_name = "KEY", value_parser = hidden)]
    pub key: Hidden,
    /// PEM file with the authorities that are believed when they have signed the server's certificate; needed with https
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

fn hidden(text: &str) -> Result<Hidden, Infallible> {
    Ok(Hidden::new(text))
}

/// Why there is no answer that is of use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    /// The command line can't be followed.
    #[error("{0}")]
    Usage(String),
    /// Nobody is there, or the connection broke.
    #[error("{0}")]
    Away(String),
    /// There is no such order, or whatever else is asked about.
    #[error("{said}")]
    Unknown {
        /// What the node says.
        said: String,
        /// Whether it may still be on its way.
        may_come: bool,
    },
    /// The node doesn't do what it is asked.
    #[error("{said} (status {status})")]
    Refused {
        /// The status.
        status: u16,
        /// What it says.
        said: String,
        /// When it says that it may be asked again.
        retry_after: Option<Duration>,
    },
}

impl Failed {
    /// The exit code that says so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unknown { .. } | Self::Refused { status: 409, .. } => exit::FOUND_WRONG,
            Self::Usage(_) | Self::Refused { status: 400 | 401 | 410 | 422, .. } => exit::USAGE,
            Self::Away(_) | Self::Refused { .. } => exit::NO_SERVER,
        }
    }

    /// How long to wait before the same is asked again; `None` if that would change nothing.
    pub fn may_pass(&self) -> Option<Duration> {
        match self {
            Self::Away(_) => Some(WAITS.0),
            _ => self.come_again(),
        }
    }

    /// The same, of a node that is there and says so itself.
    fn come_again(&self) -> Option<Duration> {
        match self {
            Self::Unknown { may_come: true, .. } => Some(WAITS.0),
            Self::Refused { status: 429 | 502..=504, retry_after, .. } => {
                Some(retry_after.unwrap_or_default().clamp(WAITS.0, WAITS.1))
            }
            _ => None,
        }
    }
}

/// An answer of use.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The `Link` header.
    pub link: Option<String>,
    pub body: Vec<u8>,
}

/// A problem as RFC 9457 has it.
#[derive(Debug, Deserialize)]
struct Problem {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    detail: String,
}

/// Asks one node, on a connection that is kept.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    key: Hidden,
    link: Option<Link>,
}

impl Client {
    /// Whom these arguments name.
    ///
    /// # Errors
    /// [`Failed::Usage`].
    pub fn new(args: &ServerArgs) -> Result<Self, Failed> {
        let target = match &args.ca {
            Some(file) => {
                let connector = tls::connector("--ca", file).map_err(|error| Failed::Usage(error.to_string()))?;
                args.url.clone().trusting(connector).map_err(|error| Failed::Usage(format!("--ca: {error}")))?
            }
            None => args.url.clone(),
        };
        if !target.is_trusted() {
            return Err(Failed::Usage("an address that begins with https:// needs --ca".to_owned()));
        }
        let key = args.key.reveal();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failed::Usage("--key: expected visible ASCII characters".to_owned()));
        }
        Ok(Self { target, key: args.key.clone(), link: None })
    }

    /// The answer to a GET that may take `wait` longer than an answer does.
    ///
    /// # Errors
    /// [`Failed`]; the next one opens another connection then, if the old one is of no use.
    pub async fn get(&mut self, path: &str, wait: Duration) -> Result<Answer, Failed> {
        self.ask(&format!("GET {path} HTTP/1.1"), "", wait).await
    }

    /// The answer to a request that begins with `head`, without the headers that all have.
    async fn ask(&mut self, head: &str, body: &str, wait: Duration) -> Result<Answer, Failed> {
        let kept = self.link.is_some();
        match self.exchange(head, body, wait).await {
            // A node closes connections that were silent for long. Asking twice does no harm.
            Err(Failure::Lost(_)) if kept => self.exchange(head, body, wait).await,
            answer => answer,
        }
        .map_err(|failure| Failed::Away(format!("{}: {failure}", self.target.authority())))?
    }

    async fn exchange(&mut self, head: &str, body: &str, wait: Duration) -> Result<Result<Answer, Failed>, Failure> {
        let (authority, key) = (self.target.authority(), self.key.reveal());
        let request = format!("{head}\r\nhost: {authority}\r\nauthorization: Bearer {key}\r\n\r\n{body}");
        let mut link = match self.link.take() {
            Some(link) => link,
            // Looked up anew: a node that comes back may have another address.
            None => Link::to(self.target.resolve().await.map_err(Failure::Connect)?, &self.target),
        };
        let reply = link.exchange(request.as_bytes(), TIMEOUT + wait).await?;
        let answer = match reply.status {
            200 | 202 | 204 => Ok(Answer { link: reply.link.map(str::to_owned), body: reply.body.to_vec() }),
            _ => Err(refused(&reply)),
        };
        self.link = Some(link);
        Ok(answer)
    }

    /// As [`Client::get`], and for a while again if the node says that it can't tell yet.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn insist(&mut self, path: &str) -> Result<Answer, Failed> {
        self.insist_on(&format!("GET {path} HTTP/1.1"), "").await
    }

    /// As [`Client::insist`], of a POST of JSON that has its effect once however often it is sent.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn post(&mut self, path: &str, json: &str) -> Result<Answer, Failed> {
        let length = json.len();
        let head = format!("POST {path} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {length}");
        self.insist_on(&head, json).await
    }

    /// As [`Client::insist`], of a DELETE.
    ///
    /// # Errors
    /// [`Failed`]; [`Failed::Unknown`] if there is nothing to remove.
    pub async fn delete(&mut self, path: &str) -> Result<Answer, Failed> {
        self.insist_on(&format!("DELETE {path} HTTP/1.1\r\ncontent-length: 0"), "").await
    }

    async fn insist_on(&mut self, head: &str, body: &str) -> Result<Answer, Failed> {
        let until = Instant::now() + PATIENCE;
        loop {
            let failed = match self.ask(head, body, Duration::ZERO).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            match failed.come_again().filter(|wait| Instant::now() + *wait < until) {
                Some(wait) => sleep(wait).await,
                None => return Err(failed),
            }
        }
    }

    /// The trace of an order, as the server wrote it.
    ///
    /// # Errors
    /// [`Failed`]; [`Failed::Unknown`] if there is no such order.
    pub async fn trace(&mut self, order: OrderId) -> Result<Vec<u8>, Failed> {
        Ok(self.insist(&format!("/v1/operator/orders/{order}")).await?.body)
    }

    /// Has what is dead-lettered of an order decided anew: once under `key`, however often it is asked for.
    ///
    /// # Errors
    /// [`Failed`]; [`Failed::Unknown`] if there is no such order.
    pub async fn replay(&mut self, order: OrderId, key: Option<&str>) -> Result<Vec<u8>, Failed> {
        let key = key.map_or_else(String::new, |key| format!("\r\nidempotency-key: {key}"));
        let head = format!("POST /v1/operator/orders/{order}/replay HTTP/1.1\r\ncontent-length: 0{key}");
        Ok(self.insist_on(&head, "").await?.body)
    }
}

fn refused(reply: &Reply<'_>) -> Failed {
    let status = reply.status;
    let problem = serde_json::from_slice::<Problem>(reply.body).ok();
    let (kind, detail) = problem.map(|problem| (problem.kind, problem.detail)).unwrap_or_default();
    let said = if detail.is_empty() { "the answer is no problem document".to_owned() } else { plain(&detail).into() };
    match UNKNOWN.contains(&&*kind) {
        true => Failed::Unknown { said, may_come: reply.retry_after.is_some() },
        false => Failed::Refused { status, said, retry_after: reply.retry_after },
    }
}
