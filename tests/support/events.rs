//! Following an order: by a stock client of server-sent events, which reconnects by itself, and by hand.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use eventsource_client::{Client as _, ClientBuilder, ReconnectOptions, SSE};
use futures_util::StreamExt;
use launchdarkly_sdk_transport::HyperTransport;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{
    PATIENCE,
    client::{Answer, Client},
};

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub event: String,
    pub id: String,
    pub data: Value,
}

/// A stock client at work.
pub struct Follower {
    messages: Receiver<Message>,
    /// Times that it was connected.
    connected: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Follower {
    /// Follows an order at `address` with merchant m-1's key, for good.
    pub fn start(address: SocketAddr, id: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let transport = HyperTransport::builder().build_http().unwrap();
        let patience =
            ReconnectOptions::reconnect(true).retry_initial(true).delay_max(Duration::from_millis(500)).build();
        let url = format!("http://{address}/v1/orders/{id}/events");
        let client = ClientBuilder::for_url(&url).unwrap().header("authorization", "Bearer key-1").unwrap();
        let client = client.reconnect(patience).build_with_transport(transport);
        let (send, messages) = channel();
        let connected = Arc::new(AtomicUsize::new(0));
        let connections = Arc::clone(&connected);
        runtime.spawn(async move {
            let mut stream = client.stream();
            while let Some(next) = stream.next().await {
                match next {
                    Ok(SSE::Connected(_)) => drop(connections.fetch_add(1, SeqCst)),
                    Ok(SSE::Event(event)) => {
                        let data = serde_json::from_str(&event.data).unwrap();
                        let _ = send.send(Message { event: event.event_type, id: event.id.unwrap(), data });
                    }
                    // It says that it was cut off, and reconnects.
                    Ok(SSE::Comment(_)) | Err(_) => {}
                }
            }
        });
        Self { messages, connected, _runtime: runtime }
    }

    /// The next message.
    #[track_caller]
    pub fn next(&self) -> Message {
        self.messages.recv_timeout(PATIENCE).expect("a message")
    }

    /// What has come and wasn't taken.
    pub fn waiting(&self) -> Vec<Message> {
        self.messages.try_iter().collect()
    }

    /// Times that it was connected so far.
    pub fn connected(&self) -> usize {
        self.connected.load(SeqCst)
    }
}

/// A stream read by hand, when the test wants to.
pub struct Events {
    stream: TcpStream,
    input: Vec<u8>,
    /// Head of the answer; with its body if it is not a stream.
    pub answer: Answer,
}

impl Events {
    /// Asks for an order's events, and reads the head of the answer.
    pub fn open(client: &Client, id: &str, last: Option<&str>) -> Self {
        let last = last.map(|last| format!("last-event-id: {last}"));
        let headers: Vec<&str> = last.iter().map(String::as_str).collect();
        let mut stream = TcpStream::connect(client.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(client.head(&format!("GET /v1/orders/{id}/events"), &headers, 0).as_bytes()).unwrap();
        let mut events =
            Self { stream, input: Vec::new(), answer: Answer { status: 0, head: String::new(), body: Vec::new() } };
        let head = events.until(b"\r\n\r\n").unwrap();
        events.answer.head = String::from_utf8(head).unwrap();
        events.answer.status = events.answer.head[9..12].parse().unwrap();
        let length = events.answer.header("content-length").and_then(|text| text.parse().ok());
        events.answer.body = length.map_or_else(Vec::new, |length| events.take(length).unwrap());
        events
    }

    /// The next chunk as it was sent; `None` at a proper end.
    pub fn chunk(&mut self) -> io::Result<Option<String>> {
        let length = String::from_utf8(self.until(b"\r\n")?).unwrap();
        let length = usize::from_str_radix(length.trim_end(), 16).unwrap();
        let chunk = self.take(length)?;
        assert_eq!(self.take(2)?, b"\r\n");
        Ok((length > 0).then(|| String::from_utf8(chunk).unwrap()))
    }

    /// The next message, past comments.
    #[track_caller]
    pub fn next(&mut self) -> Message {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "waited {PATIENCE:?} in vain for a message");
            let chunk = self.chunk().unwrap().expect("a message");
            let field = |name: &str| chunk.lines().find_map(|line| line.strip_prefix(name));
            if let Some(data) = field("data: ") {
                let (event, id) = (field("event: ").unwrap().to_owned(), field("id: ").unwrap().to_owned());
                return Message { event, id, data: serde_json::from_str(data).unwrap() };
            }
        }
    }

    fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.input.windows(end.len()).position(|bytes| bytes == end) {
                return self.take(at + end.len());
            }
            self.more()?;
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.input.len() < length {
            self.more()?;
        }
        Ok(self.input.drain(..length).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4_096];
        match self.stream.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.input.extend_from_slice(&bytes[..read]);
                Ok(())
            }
        }
    }
}
