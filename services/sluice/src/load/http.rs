//! The least HTTP/1.1 that a load generator needs, on kept-alive connections with buffers that are reused. It shares its
//! processor with the server that it measures, so every cycle saved here is one that the measured server has.
//!
//! No redirects, no compression, no pipelining: one request, then its answer.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;
use std::{fmt, io};

use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A longer head than this isn't an answer to us.
const MAX_HEAD: usize = 16 << 10;
/// Twice the largest batch: no answer is longer.
const MAX_BODY: usize = 32 << 20;
/// What one read asks for at least.
const READ: usize = 8 << 10;
/// How long the server's kernel may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the orders go: the host as it is named in requests, `host:port`, and whether TLS is spoken there.
#[derive(Debug, Clone)]
pub struct Target {
    authority: String,
    secure: bool,
    trust: Option<Trust>,
}

/// Who must have signed a server's certificate, and for which name.
#[derive(Clone)]
struct Trust {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Target {
    /// `host:port`, or the host alone for the scheme's own port.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Believes a certificate that an authority of this connector has signed.
    ///
    /// # Errors
    /// If TLS isn't spoken there, or the host is neither a name nor an address.
    pub fn trusting(mut self, connector: TlsConnector) -> Result<Self, String> {
        if !self.secure {
            return Err("an authority is for an address that begins with https://".to_owned());
        }
        let (host, _) = self.host_and_port();
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| format!("expected a name or an address, got {host:?}"))?;
        self.trust = Some(Trust { connector, name });
        Ok(self)
    }

    /// Whether it can be talked to: TLS takes an authority to trust.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        !self.secure || self.trust.is_some()
    }

    fn host_and_port(&self) -> (&str, u16) {
        let split = self.authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        split.unwrap_or((&self.authority, if self.secure { 443 } else { 80 }))
    }

    /// The server's address, looked up anew.
    ///
    /// # Errors
    /// When the name can't be resolved.
    pub async fn resolve(&self) -> io::Result<SocketAddr> {
        let (host, port) = self.host_and_port();
        let found = tokio::net::lookup_host(format!("{host}:{port}")).await?.next();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected http://host:port or https://host:port";
        let (secure, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(EXPECTED.to_owned()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(plain) {
            return Err(format!("{EXPECTED}, without a path"));
        }
        Ok(Self { authority: authority.to_owned(), secure, trust: None })
    }
}

/// Why there is no answer. What became of the request is unknown, except after [`Failure::Connect`].
#[derive(Debug, Error)]
pub enum Failure {
    /// No connection, so nothing was sent.
    #[error("can't connect: {0}")]
    Connect(io::Error),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    /// The answer isn't HTTP/1.1 as we know it.
    #[error("not an HTTP/1.1 answer: {0}")]
    Protocol(&'static str),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The `Retry-After` header, if it was given in seconds.
    pub retry_after: Option<Duration>,
    /// Whether the server says that it had answered this request before.
    pub replayed: bool,
    /// The `Link` header: where a page says that the next one is.
    pub link: Option<&'a str>,
    /// The body, whole.
    pub body: &'a [u8],
}

/// What a link runs over.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

/// One connection that is opened when it is first needed and again after it broke.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    trust: Option<Trust>,
    wire: Option<Wire>,
    input: Vec<u8>,
}

impl Link {
    /// A link in the clear to this address, not yet connected.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, trust: None, wire: None, input: Vec::with_capacity(READ) }
    }

    /// A link to this address as `target` says, not yet connected.
    #[must_use]
    pub fn to(address: SocketAddr, target: &Target) -> Self {
        Self { trust: target.trust.clone(), ..Self::new(address) }
    }

    /// Connects unless connected already.
    ///
    /// # Errors
    /// [`Failure::Connect`].
    pub async fn connect(&mut self) -> Result<(), Failure> {
        if self.wire.is_none() {
            let timeout = |_| io::Error::from(io::ErrorKind::TimedOut);
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, open(self.address, self.trust.as_ref())).await;
            self.wire = Some(connected.map_err(timeout).flatten().map_err(Failure::Connect)?);
        }
        Ok(())
    }

    /// Sends a request, head and body, and reads the answer. After an error, or when the future is dropped half-way, the
    /// connection is closed, and the next exchange opens another.
    ///
    /// # Errors
    /// [`Failure`]; [`Failure::Timeout`] after `timeout`.
    pub async fn exchange(&mut self, request: &[u8], timeout: Duration) -> Result<Reply<'_>, Failure> {
        self.connect().await?;
        let Some(mut wire) = self.wire.take() else { return Err(Failure::Protocol("no connection")) };
        let input = &mut self.input;
        let talk = async {
            match &mut wire {
                Wire::Plain(stream) => talk(stream, request, input).await,
                Wire::Secure(stream) => talk(stream, request, input).await,
            }
        };
        let (head, body) = tokio::time::timeout(timeout, talk).await.map_err(|_| Failure::Timeout)??;
        if head.keep_alive {
            self.wire = Some(wire);
        }
        let body = self.input.get(body).unwrap_or_default();
        let link = head.link.and_then(|(from, to)| str::from_utf8(self.input.get(from..to)?).ok());
        Ok(Reply { status: head.status, retry_after: head.retry_after, replayed: head.replayed, link, body })
    }
}

async fn open(address: SocketAddr, trust: Option<&Trust>) -> io::Result<Wire> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let Some(Trust { connector, name }) = trust else { return Ok(Wire::Plain(stream)) };
    Ok(Wire::Secure(Box::new(connector.connect(name.clone(), stream).await?)))
}

async fn talk<S>(stream: &mut S, request: &[u8], input: &mut Vec<u8>) -> Result<(Head, std::ops::Range<usize>), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request).await?;
    stream.flush().await?;
    read_reply(stream, input).await
}

async fn read_reply<S>(stream: &mut S, input: &mut Vec<u8>) -> Result<(Head, std::ops::Range<usize>), Failure>
where
    S: AsyncRead + Unpin,
{
    input.clear();
    let mut head = loop {
        if read_more(stream, input).await? == 0 {
            return Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(head) = Head::parse(input)? {
            break head;
        }
        if input.len() > MAX_HEAD {
            return Err(Failure::Protocol("its head is too long"));
        }
    };
    loop {
        match head.body.end(head.length, input)? {
            Some(end) if end < input.len() => return Err(Failure::Protocol("it goes on after its end")),
            Some(end) if head.body == Framing::Chunked => {
                return Ok((head, head.length..unchunk(head.length, end, input)));
            }
            Some(end) => return Ok((head, head.length..end)),
            None if input.len() - head.length > MAX_BODY => return Err(Failure::Protocol("its body is too long")),
            None => {}
        }
        if read_more(stream, input).await? == 0 {
            if head.body != Framing::UntilClose {
                return Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            head.keep_alive = false;
            return Ok((head, head.length..input.len()));
        }
    }
}

async fn read_more<S: AsyncRead + Unpin>(stream: &mut S, input: &mut Vec<u8>) -> io::Result<usize> {
    if input.capacity() - input.len() < READ / 2 {
        input.reserve(input.len().max(READ));
    }
    stream.read_buf(input).await
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Framing {
    /// Where the body that starts at `start` ends, if that much has arrived.
    fn end(self, start: usize, input: &[u8]) -> Result<Option<usize>, Failure> {
        match self {
            Self::Length(length) => {
                let end = start + length;
                Ok((end <= input.len()).then_some(end))
            }
            Self::UntilClose => Ok(None),
            Self::Chunked => {
                let mut at = start;
                while let Some((size, data)) = chunk(at, input)? {
                    // A chunk ends with a line break; after the last one, which is empty, only that is expected.
                    at = data + size + 2;
                    if size == 0 {
                        return Ok((at <= input.len()).then_some(at));
                    }
                }
                Ok(None)
            }
        }
    }
}

/// Size of the chunk whose header starts at `at`, and where its data starts.
fn chunk(at: usize, input: &[u8]) -> Result<Option<(usize, usize)>, Failure> {
    let Some(rest) = input.get(at..) else { return Ok(None) };
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
    let line = rest.get(..end).unwrap_or_default();
    let digits = line.split(|byte| b";\r".contains(byte)).next().unwrap_or_default();
    let size = std::str::from_utf8(digits).ok().and_then(|hex| usize::from_str_radix(hex.trim(), 16).ok());
    match size {
        Some(size) if size <= MAX_BODY => Ok(Some((size, at + end + 1))),
        _ => Err(Failure::Protocol("a chunk has no sensible size")),
    }
}

/// Moves the data of all chunks together, to the start of the body, and gives its end.
fn unchunk(start: usize, end: usize, input: &mut [u8]) -> usize {
    let (mut at, mut to) = (start, start);
    while at < end {
        let Ok(Some((size, data))) = chunk(at, input) else { break };
        input.copy_within(data..data + size, to);
        to += size;
        at = data + size + 2;
    }
    to
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    status: u16,
    length: usize,
    body: Framing,
    keep_alive: bool,
    retry_after: Option<Duration>,
    replayed: bool,
    /// Where the value of the `Link` header is in the input.
    link: Option<(usize, usize)>,
}

impl Head {
    /// The head at the start of `input`, once it is there as a whole.
    fn parse(input: &[u8]) -> Result<Option<Self>, Failure> {
        let mut lines = Lines { input, at: 0 };
        let Some(first) = lines.next() else { return Ok(None) };
        let bad = || Failure::Protocol("no status line");
        let rest = first.strip_prefix(b"HTTP/1.1 ").ok_or_else(bad)?;
        let status = rest.get(..3).and_then(number).and_then(|status| u16::try_from(status).ok()).ok_or_else(bad)?;
        if status < 200 {
            return Err(Failure::Protocol("an interim answer that nobody asked for"));
        }
        let empty = matches!(status, 204 | 304);
        let body = if empty { Framing::Length(0) } else { Framing::UntilClose };
        let mut head =
            Self { status, length: 0, body, keep_alive: true, retry_after: None, replayed: false, link: None };
        let mut start = lines.at;
        while let Some(line) = lines.next() {
            if line.is_empty() {
                head.length = lines.at;
                return Ok(Some(head));
            }
            match link(line) {
                Some((from, to)) => head.link = Some((start + from, start + to)),
                None => head.field(line)?,
            }
            start = lines.at;
        }
        Ok(None)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Failure> {
        let colon = line.iter().position(|&byte| byte == b':').ok_or(Failure::Protocol("a header without a colon"))?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = number(value).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|&length| length <= MAX_BODY);
            let length = length.ok_or(Failure::Protocol("no sensible content-length"))?;
            if self.body != Framing::Chunked {
                self.body = Framing::Length(length);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.body = Framing::Chunked;
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.keep_alive &= !value.eq_ignore_ascii_case(b"close");
        } else if name.eq_ignore_ascii_case(b"retry-after") {
            self.retry_after = number(value).map(Duration::from_secs);
        } else if name.eq_ignore_ascii_case(b"idempotent-replayed") {
            self.replayed = value.eq_ignore_ascii_case(b"true");
        }
        Ok(())
    }
}

/// Where the value of a header is in its line, if the header is `Link`.
fn link(line: &[u8]) -> Option<(usize, usize)> {
    let (name, value) = line.split_at_checked(5)?;
    let from = line.len() - value.trim_ascii_start().len();
    name.eq_ignore_ascii_case(b"link:").then(|| (from, from + value.trim_ascii().len()))
}

/// Lines that ended, without their ends.
struct Lines<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.input.get(self.at..)?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        self.at += end + 1;
        let line = rest.get(..end)?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 15 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

/// Appends a number in decimal digits.
pub(crate) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Serves each piece as a write of its own to one connection after the other, then closes it.
    async fn answer(connections: Vec<Vec<&'static str>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for pieces in connections {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut request = [0; 64];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        address
    }

    async fn ask(link: &mut Link) -> Result<Reply<'_>, Failure> {
        link.exchange(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn reads_every_framing_however_it_is_cut() {
        let whole = "HTTP/1.1 429 Too Many\r\nRetry-After: 2\r\nlInk:  </x> \r\nidempotent-replayed: true\r\nContent-Length: 5\r\n\r\nhello";
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        let open = "HTTP/1.1 200 OK\r\n\r\nhello";
        for text in [whole, chunked, open] {
            for cut in 1..text.len() - 1 {
                let address = answer(vec![vec![&text[..cut], &text[cut..]]]).await;
                let mut link = Link::new(address);
                let reply = ask(&mut link).await.unwrap();
                assert_eq!(reply.body, b"hello", "{text:?} cut at {cut}");
                if text == whole {
                    assert_eq!(reply.status, 429);
                    assert_eq!(reply.retry_after, Some(Duration::from_secs(2)));
                    assert!(reply.replayed);
                    assert_eq!(reply.link, Some("</x>"));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_lost_connection_is_opened_again() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel";
        let last = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na";
        let next = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb";
        let mut link = Link::new(answer(vec![vec![cut], vec![last], vec![next]]).await);
        assert!(matches!(ask(&mut link).await, Err(Failure::Lost(_))));
        assert_eq!(ask(&mut link).await.unwrap().body, b"a");
        assert_eq!(ask(&mut link).await.unwrap().body, b"b");
        // The listener is gone by now, or at least this connection is.
        assert!(ask(&mut link).await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_answer_is_named() {
        for (text, named) in [
            ("SSH-2.0-OpenSSH\r\n\r\n", "status line"),
            ("HTTP/1.1 2x0 OK\r\n\r\n", "status line"),
            ("HTTP/1.1 100 Continue\r\n\r\n", "interim"),
            ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "content-length"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "chunk"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", "after its end"),
        ] {
            let mut link = Link::new(answer(vec![vec![text]]).await);
            let error = ask(&mut link).await.unwrap_err().to_string();
            assert!(error.contains(named), "{text:?}: {error}");
        }
    }

    #[test]
    fn targets_are_addresses_without_a_path() {
        let authority = |url: &str| url.parse::<Target>().map(|target| target.authority);
        assert_eq!(authority("http://127.0.0.1:8080/").as_deref(), Ok("127.0.0.1:8080"));
        assert_eq!(authority("http://[::1]:8080").as_deref(), Ok("[::1]:8080"));
        assert_eq!(authority("http://shop").as_deref(), Ok("shop"));
        let of = |url: &str| url.parse::<Target>().unwrap();
        assert_eq!(
            (of("http://shop").host_and_port(), of("https://shop").host_and_port()),
            (("shop", 80), ("shop", 443))
        );
        assert_eq!(of("https://[::1]:8443").host_and_port(), ("[::1]", 8443));
        assert!(of("http://shop").is_trusted() && !of("https://shop").is_trusted());
        for url in ["shop:80", "http://", "http://shop/v1/orders", "http://a b"] {
            assert!(authority(url).is_err(), "{url}");
        }
    }

    #[test]
    fn numbers_are_written_in_full() {
        for (number, text) in [(0, "0"), (10, "10"), (u64::MAX, "18446744073709551615")] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, text.as_bytes());
        }
    }
}
