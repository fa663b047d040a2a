//! The simulated carriers as a client meets them: real TCP, real HTTP, real signatures.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;
use crate::webhook::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};

const ORDER: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
/// Fails a test that would hang, instead of waiting for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running simulation; stopped, and its end checked, by [`Running::stop`].
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), SimulatedError>>,
}

impl Running {
    fn start(ledger: &Path, specs: &[&str]) -> Self {
        let config = config(ledger, specs);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, config, async { drop(stopped.await) }))
        });
        Self { address, stop, thread }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    fn stats(&self) -> Value {
        self.connect().call("GET", "/stats", &[], b"").unwrap().json()
    }

    fn patch(&self, carrier: &str, patch: &Value) -> Reply {
        let path = format!("/control/carriers/{carrier}");
        self.connect().call("POST", &path, &[], patch.to_string().as_bytes()).unwrap()
    }

    /// Asks for the stats until they are as wanted.
    fn wait_for(&self, wanted: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        while !wanted(&self.stats()) {
            assert!(start.elapsed() < PATIENCE, "{}", self.stats());
            std::thread::yield_now();
        }
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap().unwrap();
    }
}

fn secret() -> Secret {
    Secret::from_bytes(&[3; 32]).unwrap()
}

fn config(ledger: &Path, specs: &[&str]) -> SimulatedConfig {
    let carriers = specs
        .iter()
        .map(|spec| spec.parse::<CarrierSpec>().unwrap())
        .map(|CarrierSpec { id, behaviour }| SimulatedCarrier { id, secret: secret(), behaviour })
        .collect();
    SimulatedConfig { carriers, ledger: ledger.to_owned(), seed: 42, tells: None }
}

struct Client(TcpStream);

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn outcomes(&self) -> Vec<String> {
        let json = self.json();
        let results = json["results"].as_array().unwrap();
        results.iter().map(|result| result["outcome"].as_str().unwrap().to_owned()).collect()
    }

    fn is_problem(&self, status: u16) {
        assert_eq!((self.status, &self.json()["status"]), (status, &json!(status)), "{self:?}");
        assert!(self.head.contains("application/problem+json"), "{self:?}");
    }
}

impl Client {
    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        request.push_str("\r\n");
        self.0.write_all(&[request.as_bytes(), body].concat()).unwrap();
    }

    /// Reads up to the end of the head; one byte at a time, so that the body is left alone.
    fn head(&mut self) -> std::io::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        Ok(String::from_utf8(head).unwrap())
    }

    fn reply(&mut self) -> std::io::Result<Reply> {
        let head = self.head()?;
        let status = head[9..12].parse().unwrap();
        let mut body = vec![0; length(&head)];
        self.0.read_exact(&mut body)?;
        Ok(Reply { status, head, body })
    }

    fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Reply> {
        self.send(method, path, headers, body);
        self.reply()
    }

    fn send_manifest(&mut self, carrier: &str, body: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let signature = secret().sign("m-1", i64::try_from(now).unwrap(), body);
        let now = now.to_string();
        let headers = [(ID_HEADER, "m-1"), (TIMESTAMP_HEADER, &now), (SIGNATURE_HEADER, &signature)];
        self.send("POST", &format!("/carriers/{carrier}/manifests"), &headers, body);
    }

    fn manifest(&mut self, carrier: &str, body: &[u8]) -> std::io::Result<Reply> {
        self.send_manifest(carrier, body);
        self.reply()
    }

    fn has_nothing_to_read(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let read = (&self.0).read(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

fn length(head: &str) -> usize {
    let line = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    line.unwrap().parse().unwrap()
}

/// Parcels 1..=`parcels` of one order, of 1,000 g each.
fn manifest(parcels: u32, attempt: u32) -> Vec<u8> {
    let shipments: Vec<_> = (1..=parcels)
        .map(|parcel| {
            json!({"shipment_id": format!("{ORDER}-{parcel}-{attempt}"), "order_id": ORDER, "merchant": "store-1",
                   "handling": "ambient", "weight_g": 1000, "ship_to": {"city": "Ohio \u{1F600}"}, "lines": []})
        })
        .collect();
    json!({"manifest_id": "m-1", "expires_at": "2026-11-11T00:05:00Z", "shipments": shipments}).to_string().into()
}

fn dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.tsv");
    (dir, path)
}

#[test]
fn carriers_are_told_apart_and_a_connection_serves_many_requests() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["swift", "light:max_weight_g=999"]);
    let mut client = running.connect();
    for _ in 0..3 {
        assert_eq!(client.manifest("swift", &manifest(2, 1)).unwrap().outcomes(), ["accepted"; 2]);
        assert_eq!(client.manifest("light", &manifest(1, 2)).unwrap().outcomes(), ["rejected"]);
    }
    assert_eq!(client.call("GET", "/healthz", &[], b"").unwrap().body, b"ok");
    let stats = running.stats();
    assert_eq!(stats["carriers"]["swift"]["accepted"], 2);
    assert_eq!(stats["carriers"]["swift"]["duplicate_requests"], 4);
    assert_eq!(stats["carriers"]["light"]["rejected"], 1);
    assert_eq!(stats["remembered"], 3);
    drop(client);
    running.stop();
    let ledger = Ledger::read(&path).unwrap();
    assert_eq!(ledger.duplicates().count(), 0);
    assert_eq!((ledger.totals().accepted, ledger.totals().duplicate_requests), (2, 6));
}

#[test]
fn the_ledger_is_written_before_the_answer() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["swift"]);
    let reply = running.connect().manifest("swift", &manifest(1, 1)).unwrap();
    let ledger = Ledger::read(&path).unwrap();
    let effects: Vec<_> = ledger.shipments().collect();
    let told = reply.json()["results"][0]["tracking_number"].as_str().unwrap().to_owned();
    assert!(is_s10(&told));
    assert_eq!(effects[0].tracking_number(), Some(told));
    running.stop();
}

#[test]
fn a_careless_carrier_ships_twice_and_the_ledger_shows_it() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["careless:idempotent=false"]);
    let mut client = running.connect();
    client.manifest("careless", &manifest(2, 1)).unwrap();
    client.manifest("careless", &manifest(1, 1)).unwrap();
    let duplicates: Vec<_> = Ledger::read(&path).unwrap().duplicates().collect();
    assert_eq!(duplicates.len(), 1);
    assert_eq!((duplicates[0].parcel, duplicates[0].accepted), (1, 2));
    drop(client);
    running.stop();
}

#[test]
fn a_restarted_carrier_recalls_its_answers() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["swift:reject=0.5"]);
    let first = running.connect().manifest("swift", &manifest(20, 1)).unwrap();
    running.stop();
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"17\tswift\tacc").unwrap();
    let running = Running::start(&path, &["swift"]);
    let again = running.connect().manifest("swift", &manifest(20, 1)).unwrap();
    assert_eq!(again.body, first.body);
    assert_eq!(Ledger::read(&path).unwrap().totals().duplicate_requests, 20);
    running.stop();
}

#[test]
fn strangers_and_nonsense_are_refused_without_effect() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["swift"]);
    let mut client = running.connect();
    let manifests = "/carriers/swift/manifests";
    client.call("POST", manifests, &[], &manifest(1, 1)).unwrap().is_problem(401);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    let forged = Secret::from_bytes(&[4; 32]).unwrap().sign("m-1", now.parse().unwrap(), &manifest(1, 1));
    let headers = [(ID_HEADER, "m-1"), (TIMESTAMP_HEADER, now.as_str()), (SIGNATURE_HEADER, &forged)];
    client.call("POST", manifests, &headers, &manifest(1, 1)).unwrap().is_problem(401);
    client.manifest("swift", b"{\"manifest_id\":").unwrap().is_problem(400);
    client.manifest("swift", b"{\"manifest_id\":\"m\"}").unwrap().is_problem(400);
    client.manifest("swift", b"{\"manifest_id\":\"\",\"shipments\":[]}").unwrap().is_problem(400);
    client.manifest("tortoise", &manifest(1, 1)).unwrap().is_problem(404);
    client.call("POST", "/carriers/swift", &[], b"").unwrap().is_problem(404);
    client.call("POST", "/carriers/swift/manifests/x", &[], b"").unwrap().is_problem(404);
    let wrong_method = client.call("GET", manifests, &[], b"").unwrap();
    wrong_method.is_problem(405);
    assert!(wrong_method.head.contains("allow: POST"));
    let counts = &running.stats()["carriers"]["swift"];
    assert_eq!((&counts["bad_signatures"], &counts["bad_requests"]), (&json!(2), &json!(3)));
    // A length beyond the bound is refused before its bytes are sent.
    let length = (MAX_BODY_BYTES + 1).to_string();
    write!(client.0, "POST {manifests} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n").unwrap();
    client.reply().unwrap().is_problem(413);
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    drop(client);
    running.stop();
}

#[test]
fn a_carrier_is_taken_down_and_up_while_it_runs() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["swift", "tortoise"]);
    let mut client = running.connect();
    assert_eq!(running.patch("swift", &json!({"down": true})).json()["down"], true);
    client.manifest("swift", &manifest(1, 1)).unwrap().is_problem(503);
    assert_eq!(client.manifest("tortoise", &manifest(1, 2)).unwrap().status, 200);
    running.patch("swift", &json!({"down": false, "error_429": 1, "retry_after_s": 7}));
    let refused = client.manifest("swift", &manifest(1, 1)).unwrap();
    refused.is_problem(429);
    assert!(refused.head.contains("retry-after: 7\r\n"), "{}", refused.head);
    running.patch("swift", &json!({"error_429": 0}));
    assert_eq!(client.manifest("swift", &manifest(1, 1)).unwrap().outcomes(), ["accepted"]);
    for nonsense in [json!({"downn": true}), json!({"reject": 2}), json!([])] {
        running.patch("swift", &nonsense).is_problem(400);
    }
    running.patch("hare", &json!({})).is_problem(404);
    drop(client);
    running.stop();
}

#[test]
fn resets_are_real_and_come_before_or_after_the_effect() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["before:reset_before=1", "after:reset_after=1"]);
    for (carrier, effects) in [("before", 0), ("after", 1)] {
        let error = running.connect().manifest(carrier, &manifest(1, 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(Ledger::read(&path).unwrap().totals().accepted, effects);
    }
    running.stop();
}

#[test]
fn a_silent_carrier_has_its_effect_and_waits_for_the_client_to_give_up() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["swift:timeout_after_accept=1"]);
    let mut client = running.connect();
    client.send_manifest("swift", &manifest(1, 1));
    running.wait_for(|stats| stats["carriers"]["swift"]["silent"] == 1 && stats["connections"] == 2);
    assert_eq!(Ledger::read(&path).unwrap().totals().accepted, 1);
    assert!(client.has_nothing_to_read());
    drop(client);
    // Only the connection that asks.
    running.wait_for(|stats| stats["connections"] == 1);
    // The next attempt learns what happened.
    running.patch("swift", &json!({"timeout_after_accept": 0}));
    assert_eq!(running.connect().manifest("swift", &manifest(1, 1)).unwrap().outcomes(), ["accepted"]);
    assert_eq!(Ledger::read(&path).unwrap().duplicates().count(), 0);
    running.stop();
}

#[test]
fn an_answer_can_come_in_drops() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["swift:trickle=1,trickle_bytes=7,trickle_pause_ms=3600000"]);
    let mut client = running.connect();
    client.send_manifest("swift", &manifest(3, 1));
    let head = client.head().unwrap();
    assert!(length(&head) > 7);
    let mut drop_ = [0; 7];
    client.0.read_exact(&mut drop_).unwrap();
    assert_eq!(&drop_, br#"{"resul"#);
    assert!(client.has_nothing_to_read());
    running.patch("swift", &json!({"trickle_pause_ms": 0}));
    let whole = running.connect().manifest("swift", &manifest(3, 1)).unwrap();
    assert_eq!(whole.outcomes(), ["accepted"; 3]);
    drop(client);
    running.stop();
}

#[test]
fn answers_can_be_late_and_can_lie() {
    let (_dir, path) = dir();
    let specs = ["late:latency_ms=30,latency_jitter_ms=5", "omits:omit_result=1", "breaks:malformed=1"];
    let running = Running::start(&path, &specs);
    let start = Instant::now();
    assert_eq!(running.connect().manifest("late", &manifest(1, 1)).unwrap().status, 200);
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(running.connect().manifest("omits", &manifest(3, 2)).unwrap().outcomes().len(), 2);
    let broken = running.connect().manifest("breaks", &manifest(3, 3)).unwrap();
    assert_eq!(broken.status, 200);
    serde_json::from_slice::<Value>(&broken.body).unwrap_err();
    running.stop();
}

#[test]
fn a_shutdown_does_not_wait_for_the_silent() {
    let (_dir, path) = dir();
    let running = Running::start(&path, &["swift:timeout_after_accept=1"]);
    let mut client = running.connect();
    client.send_manifest("swift", &manifest(1, 1));
    running.wait_for(|stats| stats["carriers"]["swift"]["silent"] == 1);
    running.stop();
    client.reply().unwrap_err();
}

#[test]
fn a_bad_configuration_does_not_start() {
    let (_dir, path) = dir();
    let start = |config: SimulatedConfig| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(listener, config, std::future::pending())).unwrap_err()
    };
    for specs in [["swift", "swift"], ["a/b", "c"], ["a b", "c"]] {
        assert!(matches!(start(config(&path, &specs)), SimulatedError::CarrierId(_)));
    }
    let mut wild = config(&path, &["swift"]);
    wild.carriers[0].behaviour.reject = f64::NAN;
    assert!(matches!(start(wild), SimulatedError::Behaviour { .. }));
    std::fs::write(&path, "nonsense\n").unwrap();
    assert!(matches!(start(config(&path, &["swift"])), SimulatedError::Ledger(_)));
}
