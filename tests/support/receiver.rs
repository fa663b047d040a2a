//! A merchant's receiver of webhooks: takes posts on loopback, answers as a test says, and forgets nothing.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use serde_json::Value;

/// A post that arrived.
#[derive(Debug, Clone)]
pub struct Post {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What it was answered.
    pub status: u16,
}

impl Post {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// The event's id.
    pub fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks it as merchants do, by the library of Standard Webhooks, and that it says the same id twice.
    #[track_caller]
    pub fn verify(&self, secret: &str) {
        let mut headers = http::HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        standardwebhooks::Webhook::new(secret).unwrap().verify(&self.body, &headers).unwrap();
        assert_eq!(self.event()["id"], self.id());
    }
}

#[derive(Default)]
struct Inbox {
    posts: Vec<Post>,
    /// Status and whole header lines; 204 if absent.
    says: Option<(u16, &'static str)>,
}

/// See the module. Dropping it takes no further connections.
pub struct Receiver {
    address: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
    stop: Arc<AtomicBool>,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (inbox, stop) = (Arc::<Mutex<Inbox>>::default(), Arc::new(AtomicBool::new(false)));
        let (serving, stopped) = (Arc::clone(&inbox), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(SeqCst) {
                    return;
                }
                let (stream, inbox) = (stream.unwrap(), Arc::clone(&serving));
                std::thread::spawn(move || serve(stream, &inbox));
            }
        });
        Self { address, inbox, stop }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    /// Answers everything like this from now on, with whole header lines, each with its end.
    pub fn says(&self, status: u16, headers: &'static str) {
        self.inbox.lock().says = Some((status, headers));
    }

    /// What has arrived, in order.
    pub fn posts(&self) -> Vec<Post> {
        self.inbox.lock().posts.clone()
    }

    /// Ids of the events that were taken.
    pub fn taken(&self) -> BTreeSet<String> {
        self.inbox.lock().posts.iter().filter(|post| post.status < 300).map(Post::id).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // Wakes the listener; if it can't be reached, it is gone.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers posts until the other side closes.
fn serve(stream: TcpStream, inbox: &Mutex<Inbox>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some((headers, body)) = read_post(&mut reader) {
        let (status, lines) = {
            let mut inbox = inbox.lock();
            let (status, lines) = inbox.says.unwrap_or((204, ""));
            inbox.posts.push(Post { headers, body, status });
            (status, lines)
        };
        let length = if status == 204 { "" } else { "content-length: 0\r\n" };
        let answer = format!("HTTP/1.1 {status} Said\r\n{length}{lines}\r\n");
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

type Read = (Vec<(String, String)>, Vec<u8>);

fn read_post(reader: &mut impl BufRead) -> Option<Read> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    assert!(line.starts_with("POST /hooks "), "{line}");
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length?.1.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some((headers, body))
}
