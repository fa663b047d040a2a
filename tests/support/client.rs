//! A plain blocking HTTP client: it writes its whole request before it reads anything, and shares no code with the
//! server or the load generator.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use super::wait_for;

/// How long an answer may take: longer than the server waits for a body.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Somebody who talks to the API at `address` with `key`; every request has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub key: String,
    /// Whether an acknowledged order may take a while to become readable.
    pub lags: bool,
}

impl Client {
    pub fn new(address: SocketAddr, key: &str) -> Self {
        Self { address, key: key.to_owned(), lags: false }
    }

    pub fn connect(&self) -> io::Result<Connection> {
        Connection::open(self.address)
    }

    /// Sends a request with the API key; `headers` are whole lines.
    pub fn try_send(&self, request: &str, headers: &[&str], body: &[u8]) -> io::Result<Answer> {
        self.connect()?.exchange(&self.head(request, headers, body.len()), body)
    }

    /// As [`Client::try_send`] to a server that is there.
    #[track_caller]
    pub fn send(&self, request: &str, headers: &[&str], body: &[u8]) -> Answer {
        self.try_send(request, headers, body).unwrap_or_else(|error| panic!("{request}: {error}"))
    }

    /// The head of a request.
    pub fn head(&self, request: &str, headers: &[&str], length: usize) -> String {
        let mut head = format!("{request} HTTP/1.1\r\nhost: sluice\r\ncontent-length: {length}\r\n");
        if !self.key.is_empty() {
            head += &format!("authorization: Bearer {}\r\n", self.key);
        }
        headers.iter().for_each(|line| head += &format!("{line}\r\n"));
        head + "\r\n"
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[], b"")
    }

    /// One order.
    #[track_caller]
    pub fn order(&self, key: &str, order: &Value) -> Answer {
        self.order_text(key, &order.to_string())
    }

    #[track_caller]
    pub fn order_text(&self, key: &str, order: &str) -> Answer {
        let key = format!("idempotency-key: {key}");
        self.send("POST /v1/orders", &["content-type: application/json", &key], order.as_bytes())
    }

    /// Many orders, one a line.
    #[track_caller]
    pub fn batch(&self, lines: impl AsRef<[u8]>) -> Answer {
        self.send("POST /v1/orders:batch", &["content-type: application/x-ndjson"], lines.as_ref())
    }

    /// What is answered in the end. Where orders lag, whether there is an old one may not be known yet, and who asks is told
    /// to come again.
    #[track_caller]
    pub fn insist(&self, mut ask: impl FnMut(&Self) -> Answer) -> Answer {
        wait_for("an answer other than 503", || Some(ask(self)).filter(|answer| !self.lags || answer.status != 503))
    }

    /// The view of an order that must be there.
    #[track_caller]
    pub fn view(&self, id: &str) -> Value {
        wait_for(&format!("order {id} is readable"), || {
            let answer = self.get(&format!("/v1/orders/{id}"));
            let may_come = self.lags && answer.status == 404 && answer.header("retry-after").is_some();
            assert!(answer.status == 200 || may_come, "order {id}: {}", answer.text());
            (answer.status == 200).then(|| answer.json())
        })
    }
}

/// An open connection.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// Sends head and body, all of it, and only then reads the answer. A server that has no room answers before it has
    /// read the body, and reads no further: then the answer is there although the rest could not be sent.
    pub fn exchange(&mut self, head: &str, body: &[u8]) -> io::Result<Answer> {
        let sent = self.write(head.as_bytes()).and_then(|()| self.write(body));
        match (self.answer(), sent) {
            (Ok(answer), Err(_)) if answer.status < 400 => Err(io::Error::other("taken before it was sent")),
            (Ok(answer), _) => Ok(answer),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer.
    pub fn answer(&mut self) -> io::Result<Answer> {
        self.input.clear();
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at;
            }
            self.read_more()?;
        };
        let wrong = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
        let head = String::from_utf8(self.input[..end].to_vec()).map_err(|_| wrong("a head that is not text"))?;
        let status = head.get(9..12).and_then(|text| text.parse().ok()).ok_or_else(|| wrong("no status"))?;
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("content-length").and_then(|text| text.parse::<usize>().ok());
        // RFC 9110, 8.6: there is none where there is no content.
        let length = length.or((status == 204).then_some(0));
        let length = length.ok_or_else(|| wrong("no content-length"))?;
        while self.input.len() < end + 4 + length {
            self.read_more()?;
        }
        answer.body = self.input.split_off(end + 4);
        if answer.body.len() == length { Ok(answer) } else { Err(wrong("more than one answer")) }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut bytes = [0; 64 << 10];
        match self.stream.read(&mut bytes) {
            // A signal, such as that of a child that ended: nothing was read.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.input.extend_from_slice(&bytes[..read]);
                Ok(())
            }
        }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// One value a line, of an answer that says it is that.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        assert_eq!((self.status, self.header("content-type")), (200, Some("application/x-ndjson")), "{}", self.text());
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The id in an answer that says the order is durable.
    #[track_caller]
    pub fn id(&self) -> String {
        assert_eq!(self.status, 201, "{}", self.text());
        self.json()["id"].as_str().unwrap().to_owned()
    }

    /// Asserts a whole problem of this status, and gives the fields at fault.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Vec<String> {
        assert_eq!((self.status, self.header("content-type")), (status, Some("application/problem+json")), "{self:?}");
        if matches!(status, 429 | 503) {
            let seconds = self.header("retry-after").and_then(|text| text.parse::<u32>().ok());
            assert!(seconds.is_some_and(|seconds| seconds >= 1), "{self:?}");
        }
        fields_of(&self.json(), status)
    }
}

/// Asserts that `problem` is whole and of this status, and gives the fields at fault.
#[track_caller]
pub fn fields_of(problem: &Value, status: u16) -> Vec<String> {
    assert!(problem["type"].as_str().unwrap().starts_with("urn:sluice:problem:"), "{problem}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    assert_eq!(problem["status"], status, "{problem}");
    let errors = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
}
