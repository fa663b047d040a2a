//! A TCP proxy on loopback that delays what it passes on and resets connections, as a bad network would.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
};

use super::Random;

/// Bytes that are passed on, delayed and counted as one.
const CHUNK: usize = 16 << 10;

/// How bad the network is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Longest delay of a chunk, ms.
    pub delay_ms: u64,
    /// Of 10,000 chunks so many reset their connection instead.
    pub resets: u64,
    /// Whoever writes records has its connection reset when the first answer comes: the brokers have them by then.
    pub deaf_writers: bool,
}

struct State {
    upstream: Mutex<Option<SocketAddr>>,
    weather: Mutex<Weather>,
    random: Mutex<Random>,
    /// Rises when every connection is to be reset.
    cuts: watch::Sender<u64>,
    resets: AtomicU64,
}

/// See the module. Dropping it closes everything.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    _runtime: Runtime,
}

impl Proxy {
    /// Listens on a port of its own, and passes nothing on before [`Proxy::lead_to`].
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            upstream: Mutex::default(),
            weather: Mutex::default(),
            random: Mutex::new(Random::new(1)),
            cuts: watch::channel(0).0,
            resets: AtomicU64::new(0),
        });
        runtime.spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { port, state, _runtime: runtime })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where connections are passed on to.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.state.upstream.lock() = Some(upstream);
    }

    /// Passes nothing on any more, and resets what is open.
    pub fn close(&self) {
        *self.state.upstream.lock() = None;
        self.cut();
    }

    /// Changes the weather, for connections that are open too.
    pub fn set(&self, weather: Weather) {
        *self.state.weather.lock() = weather;
    }

    /// Resets every connection that is open.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Connections reset so far.
    pub fn resets(&self) -> u64 {
        self.state.resets.load(SeqCst)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let Some(upstream) = *state.upstream.lock() else { return };
            let Ok(server) = TcpStream::connect(upstream).await else { return };
            let mut cuts = state.cuts.subscribe();
            let (mut client, mut server) = (client, server);
            let writes = AtomicBool::new(false);
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let reset = {
                let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
                tokio::select! {
                    reset = pass(from_client, to_server, &state, &writes, true) => reset,
                    reset = pass(from_server, to_client, &state, &writes, false) => reset,
                    _ = cuts.changed() => true,
                }
            };
            if reset {
                state.resets.fetch_add(1, Relaxed);
                // Closing sends RST then, and what was under way is lost.
                let _ = (client.set_zero_linger(), server.set_zero_linger());
            }
        });
    }
}

/// Passes on until the end; true if the connection is to be reset.
async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    state: &State,
    writes: &AtomicBool,
    requests: bool,
) -> bool {
    let (mut bytes, mut kinds) = (vec![0; CHUNK], Kinds::default());
    loop {
        let read = match from.read(&mut bytes).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => read,
        };
        let weather = *state.weather.lock();
        let (reset, delay) = {
            let mut random = state.random.lock();
            (random.below(10_000) < weather.resets, random.moment(weather.delay_ms.max(1)))
        };
        if requests && kinds.read(&bytes[..read]).contains(&PRODUCE) {
            writes.store(true, SeqCst);
        }
        if reset || weather.deaf_writers && !requests && writes.load(SeqCst) {
            return true;
        }
        if weather.delay_ms > 0 && delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return false;
        }
    }
}

/// Kind of a request that writes records, in Kafka's protocol.
const PRODUCE: u16 = 0;

/// Reads the kind of each request in a stream of them: four bytes of length, then two of kind.
#[derive(Default)]
struct Kinds {
    head: Vec<u8>,
    /// Bytes of the request under way that are still to come.
    left: usize,
}

impl Kinds {
    /// The kinds of those requests whose head ends in `bytes`.
    fn read(&mut self, mut bytes: &[u8]) -> Vec<u16> {
        let mut kinds = Vec::new();
        loop {
            let passed = self.left.min(bytes.len());
            (self.left, bytes) = (self.left - passed, &bytes[passed..]);
            let wanted = (6 - self.head.len()).min(bytes.len());
            if wanted == 0 {
                return kinds;
            }
            self.head.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if let [a, b, c, d, high, low] = self.head[..] {
                kinds.push(u16::from_be_bytes([high, low]));
                self.left = u32::from_be_bytes([a, b, c, d]) as usize - 2;
                self.head.clear();
            }
        }
    }
}

#[test]
fn kinds_are_read_from_any_pieces() {
    let stream = [0, 0, 0, 4, 0, 7, 9, 9, 0, 0, 0, 2, 0, 0, 0, 0, 0, 3, 1, 2, 5];
    for piece in 1..stream.len() {
        let mut kinds = Kinds::default();
        let read: Vec<u16> = stream.chunks(piece).flat_map(|bytes| kinds.read(bytes)).collect();
        assert_eq!(read, [7, 0, 258], "in pieces of {piece}");
    }
}
