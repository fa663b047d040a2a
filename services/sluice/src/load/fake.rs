//! A stand-in for the server: answers in the published shapes, keeps what it took, and misbehaves as it is told. It is
//! as cheap as can be, so that the speed of the client can be measured against it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::acks::{format_id, parse_id};

/// What the server does with one attempt of one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Take,
    /// This status, with `Retry-After: 0` if it is 429 or 503.
    Refuse(u16),
    /// Close without taking it.
    Reset,
    /// Take it, then close without an answer.
    TakeAndReset,
    /// Take it and never answer.
    TakeAndHang,
}

/// Decides about an order by its number and by how often it was seen before.
pub(crate) type Policy = Arc<dyn Fn(u64, u32) -> Act + Send + Sync>;
/// The body of an order's view, by its id and by how often it was read before; `None` for 404.
pub(crate) type View = Arc<dyn Fn(&str, u32) -> Option<String> + Send + Sync>;

#[derive(Default)]
pub(crate) struct State {
    /// By key: id, how often it was seen, and a digest of its first body.
    pub(crate) orders: HashMap<String, (u128, u32, u64)>,
    pub(crate) reads: HashMap<String, u32>,
    /// Bodies that came again under the same key but differ.
    pub(crate) changed: u64,
    pub(crate) batches: u64,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) policy: Policy,
    pub(crate) view: View,
}

pub(crate) fn finished(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","status":"carrier_accepted","customer":"c-1","placed_at":"2026-11-11T00:00:00.000Z","parcels":[{{"id":"{id}-0","handling":"ambient","carrier":"north","tracking_number":"1Z","status":"carrier_accepted","lines":[]}}],"timeline":[{{"milestone":"accepted","at":"2026-11-11T00:00:00.001Z"}},{{"milestone":"carrier_accepted","at":"2026-11-11T00:00:00.050Z","parcel":"{id}-0"}}]}}"#
    )
}

impl Fake {
    pub(crate) fn new(policy: impl Fn(u64, u32) -> Act + Send + Sync + 'static) -> Self {
        let view = |id: &str, _| Some(finished(id));
        Self { state: Arc::default(), policy: Arc::new(policy), view: Arc::new(view) }
    }

    pub(crate) fn viewed(mut self, view: impl Fn(&str, u32) -> Option<String> + Send + Sync + 'static) -> Self {
        self.view = Arc::new(view);
        self
    }

    /// Serves on a thread of its own until the handle is dropped; then all connections break at once.
    pub(crate) fn serve(&self, address: &str) -> Serving {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, mut stopped) = watch::channel(());
        let fake = self.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    tokio::select! {
                        _ = stopped.changed() => break,
                        Ok((stream, _)) = listener.accept() => { tokio::spawn(fake.clone().talk(stream)); }
                    }
                }
            });
        });
        Serving { address, stop: Some(stop), thread: Some(thread) }
    }

    async fn talk(self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let (mut input, mut output) = (Vec::new(), Vec::new());
        loop {
            let (head, end) = loop {
                if let Some(found) = whole(&input) {
                    break found;
                }
                input.reserve(64 << 10);
                if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            output.clear();
            match self.answer(&input[..head], &input[head..end], &mut output) {
                Flow::Answer => {}
                Flow::Close => return,
                Flow::Hang => std::future::pending().await,
            }
            input.drain(..end);
            if stream.write_all(&output).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, head: &[u8], body: &[u8], output: &mut Vec<u8>) -> Flow {
        if let Some(rest) = head.strip_prefix(b"GET /v1/orders/") {
            let id = std::str::from_utf8(&rest[..26]).unwrap();
            assert!(field(head, b"authorization: Bearer ").is_some());
            let mut state = self.state.lock().unwrap();
            let reads = state.reads.entry(id.to_owned()).or_default();
            *reads += 1;
            match (self.view)(id, *reads - 1) {
                Some(view) => respond(output, 200, view.as_bytes()),
                None => respond(output, 404, b"{}"),
            }
            return Flow::Answer;
        }
        if head.starts_with(b"POST /v1/orders:batch ") {
            return self.answer_batch(body, output);
        }
        let key = std::str::from_utf8(field(head, b"idempotency-key: ").unwrap()).unwrap();
        let mut answer = Vec::new();
        let mut state = self.state.lock().unwrap();
        match state.take(&self.policy, key, body, &mut answer) {
            Ok(status) => {
                respond(output, status, &answer);
                Flow::Answer
            }
            Err(flow) => flow,
        }
    }

    fn answer_batch(&self, body: &[u8], output: &mut Vec<u8>) -> Flow {
        let mut state = self.state.lock().unwrap();
        state.batches += 1;
        let mut answers = Vec::new();
        for line in body.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n') {
            let key = &line[line.iter().rposition(|&byte| byte == b':').unwrap() + 2..line.len() - 2];
            match state.take(&self.policy, std::str::from_utf8(key).unwrap(), line, &mut answers) {
                Ok(_) => answers.push(b'\n'),
                Err(flow) => return flow,
            }
        }
        respond(output, 200, &answers);
        Flow::Answer
    }
}

enum Flow {
    Answer,
    Close,
    Hang,
}

impl State {
    fn take(&mut self, policy: &Policy, key: &str, body: &[u8], answer: &mut Vec<u8>) -> Result<u16, Flow> {
        let number = key.rsplit('-').next().unwrap().parse().unwrap();
        let fresh = u128::from(number) + 1;
        let digest = u64::from(body.len() as u32) << 32 | body.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        // An id of 0 is one that wasn't taken yet.
        let order = match self.orders.get_mut(key) {
            Some(order) => order,
            None => self.orders.entry(key.to_owned()).or_insert((0, 0, digest)),
        };
        self.changed += u64::from(order.2 != digest);
        let act = policy(number, order.1);
        order.1 += 1;
        if !matches!(act, Act::Refuse(_) | Act::Reset) {
            order.0 = fresh;
        }
        match act {
            Act::Take => {
                answer.extend_from_slice(b"{\"id\":\"");
                answer.extend_from_slice(&format_id(order.0));
                answer.extend_from_slice(br#"","status":"accepted","placed_at":"2026-11-11T00:00:00.123Z"}"#);
                Ok(201)
            }
            Act::Refuse(status) => {
                answer.extend_from_slice(format!(r#"{{"title":"no","status":{status}}}"#).as_bytes());
                Ok(status)
            }
            Act::Reset | Act::TakeAndReset => Err(Flow::Close),
            Act::TakeAndHang => Err(Flow::Hang),
        }
    }

    pub(crate) fn taken(&self) -> Vec<u128> {
        let mut ids: Vec<u128> = self.orders.values().map(|order| order.0).filter(|&id| id != 0).collect();
        ids.sort_unstable();
        ids
    }
}

/// A server that is up.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    stop: Option<watch::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let thread = self.thread.take().unwrap();
        assert!(thread.join().is_ok() || std::thread::panicking());
    }
}

fn respond(output: &mut Vec<u8>, status: u16, body: &[u8]) {
    let wait = if matches!(status, 429 | 503) { "retry-after: 0\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{wait}content-length: {}\r\ndate: Wed, 11 Nov 2026 00:00:00 GMT\r\n\r\n",
        body.len()
    );
    output.extend_from_slice(head.as_bytes());
    output.extend_from_slice(body);
}

fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let line = head.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_ascii())
}

/// End of the head and of the body, once all of it is there.
fn whole(input: &[u8]) -> Option<(usize, usize)> {
    let head = input.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let length = field(&input[..head], b"content-length: ")
        .map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap());
    (input.len() >= head + length).then_some((head, head + length))
}

#[test]
fn ids_of_the_stand_in_are_readable() {
    assert_eq!(parse_id(&format_id(7)), Some(7));
}
