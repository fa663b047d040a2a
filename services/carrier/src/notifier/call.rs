//! One call to a carrier over HTTP, and what its end means. Never retries by itself: whether a manifest may go out again
//! is for the notifier to decide.

use std::{error::Error, fmt::Write as _, str::FromStr as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use sluice_http::retry_after::retry_after_ms;
use sluice_pipeline::{Answer, Clock, Manifest};

use super::{
    config::NotifierConfig,
    wire::{WireError, read_results, write_manifest},
};
use crate::webhook::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};

/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Most bytes read of an answer that says no more than its status does, so that its connection can be used again.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
/// How long those bytes may take.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(500);
/// A connection unused for this long is closed. Many servers close theirs after 5 s, and a manifest sent into a closing
/// connection is one that nobody can tell the end of.
const IDLE: Duration = Duration::from_secs(3);
/// Most of the time for a call that connecting may take: running out of it later can't be told from a lost answer.
const CONNECT_SHARE: u32 = 2;

/// Where and how a carrier is reached.
#[derive(Debug, Clone)]
pub struct Endpoint {
    url: Uri,
    secret: Secret,
}

/// Why a URL can't be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is no absolute URL.
    #[error("{0:?} is not an absolute URL such as http://carrier.example/manifests")]
    NotAUrl(String),
    /// It is an https URL.
    #[error("{0:?}: https is not spoken yet; put a proxy that speaks TLS on this host and name its http URL")]
    Https(String),
    /// Credentials in a URL end up in logs.
    #[error("a carrier's URL must not carry user or password; manifests are signed with its secret")]
    Credentials,
}

impl Endpoint {
    /// The endpoint at `url`, which must be absolute and `http`; manifests are signed with `secret`.
    ///
    /// # Errors
    /// [`EndpointError`] naming what is wrong with the URL.
    pub fn new(url: &str, secret: Secret) -> Result<Self, EndpointError> {
        let not_a_url = || EndpointError::NotAUrl(url.to_owned());
        let parsed = Uri::from_str(url).map_err(|_| not_a_url())?;
        let authority = parsed.authority().ok_or_else(not_a_url)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::Credentials);
        }
        match parsed.scheme_str() {
            Some("http") if !authority.host().is_empty() => Ok(Self { url: parsed, secret }),
            Some("https") => Err(EndpointError::Https(url.to_owned())),
            _ => Err(not_a_url()),
        }
    }
}

/// What is known when a call has ended.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) answer: Answer,
    /// Results about something that is no shipment id of ours.
    pub(super) alien: usize,
    /// Shipments that could not be written, as indices, and why.
    pub(super) left_out: Vec<(usize, WireError)>,
}

/// Makes calls to one carrier; shared by all of its calls.
pub(super) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    endpoint: Endpoint,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    /// Bodies to be used again; as many as there are calls at once.
    bodies: Mutex<Vec<Vec<u8>>>,
}

impl Caller {
    pub(super) fn new(endpoint: Endpoint, clock: Arc<dyn Clock>, config: &NotifierConfig) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.call_timeout / CONNECT_SHARE));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(config.calls_in_flight)
            .build(connector);
        Self { client, endpoint, clock, timeout: config.call_timeout, bodies: Mutex::default() }
    }

    pub(super) async fn call(&self, manifest: &Manifest) -> Heard {
        let mut body = self.bodies.lock().pop().unwrap_or_default();
        body.clear();
        let left_out = write_manifest(manifest, &mut body);
        if left_out.len() == manifest.shipments.entries.len() {
            let answer = Answer::NotSent("no shipment of the manifest can be written".to_owned());
            return Heard { answer, alien: 0, left_out };
        }
        let body = Bytes::from(body);
        let exchange = self.exchange(&manifest.id, body.clone());
        let (answer, alien) = match tokio::time::timeout(self.timeout, exchange).await {
            Ok(heard) => heard,
            Err(_) => (Answer::Ambiguous(format!("no answer within {} s", self.timeout.as_secs_f64())), 0),
        };
        // A body that the connection still holds is left to it; all others cost their memory only once.
        if body.is_unique() {
            self.bodies.lock().push(body.into());
        }
        Heard { answer, alien, left_out }
    }

    async fn exchange(&self, id: &str, body: Bytes) -> (Answer, usize) {
        let request = match self.request(id, body) {
            Ok(request) => request,
            Err(error) => return (Answer::NotSent(chain(&error)), 0),
        };
        match self.client.request(request).await {
            Ok(response) => self.understand(response).await,
            Err(error) if error.is_connect() => (Answer::NotSent(chain(&error)), 0),
            Err(error) => (Answer::Ambiguous(chain(&error)), 0),
        }
    }

    fn request(&self, id: &str, body: Bytes) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let now_s = i64::try_from(self.clock.now_ms() / 1_000).unwrap_or(i64::MAX);
        Request::builder()
            .method(Method::POST)
            .uri(self.endpoint.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, now_s)
            .header(SIGNATURE_HEADER, self.endpoint.secret.sign(id, now_s, &body))
            .body(Full::new(body))
    }

    async fn understand(&self, response: Response<Incoming>) -> (Answer, usize) {
        let status = response.status();
        if status.is_success() {
            return match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
                Ok(body) => match read_results(&body.to_bytes()) {
                    Ok(results) => (Answer::Results(results.answers), results.alien),
                    Err(error) => (Answer::Ambiguous(format!("the answer can't be read: {error}")), 0),
                },
                Err(error) => (Answer::Ambiguous(format!("the answer broke off: {}", chain(&*error))), 0),
            };
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after_ms = retry_after.and_then(|value| retry_after_ms(value, self.clock.now_ms()));
        let rest = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect();
        let _ = tokio::time::timeout(REFUSAL_PATIENCE, rest).await;
        let answer = match status {
            StatusCode::TOO_MANY_REQUESTS => Answer::Refused { retry_after_ms },
            // Without Retry-After it may come from something in between that gave up on a carrier at work.
            StatusCode::SERVICE_UNAVAILABLE if retry_after_ms.is_some() => Answer::Refused { retry_after_ms },
            _ => Answer::Ambiguous(format!("status {status}")),
        };
        (answer, 0)
    }
}

/// An error with all its causes: the outermost alone says no more than "connect".
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_are_taken() {
        let secret = Secret::from_bytes(&[1; 32]).unwrap();
        let new = |url: &str| Endpoint::new(url, secret.clone()).map(drop);
        new("http://carrier.example/manifests?x=1").unwrap();
        new("http://[::1]:8080").unwrap();
        for url in ["", "carrier", "/manifests", "ftp://carrier.example/", "carrier.example:80", "http://", "a b"] {
            assert_eq!(new(url), Err(EndpointError::NotAUrl(url.to_owned())));
        }
        assert_eq!(new("http://u:p@carrier.example/"), Err(EndpointError::Credentials));
        let https = new("https://carrier.example/").unwrap_err();
        assert!(https.to_string().contains("https is not spoken yet"));
    }
}
