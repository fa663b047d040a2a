//! How much of a core the simulated carriers cost, for they share the machine with what they measure. Ignored by
//! default; run with
//! `cargo test --release -p sluice-carrier speed -- --ignored --nocapture --test-threads 1`.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::seeded::fingerprint;
use super::*;
use crate::webhook::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};

const SHIPMENTS: u64 = 500;
const MANIFESTS: u64 = 2_000;

/// A manifest of the size that two-line orders make: about 450 bytes a shipment.
fn manifest(number: u64, shipments: u64) -> Bytes {
    let mut body = format!(r#"{{"manifest_id":"m-{number}","expires_at":"2026-11-11T00:05:00.000Z","shipments":["#);
    for n in 0..shipments {
        let order = ulid::Ulid((0x0193_5B2F_0000 << 80) + u128::from(number * shipments + n) * 0x9E37_79B9_7F4A_7C15);
        write!(
            body,
            r#"{}{{"shipment_id":"{order}-1-1","order_id":"{order}","merchant":"store-{n}","handling":"ambient","weight_g":{},"ship_to":{{"name":"Household {n}","street":"{n} Main Street","city":"Cincinnati","postal_code":"45202","country":"US"}},"lines":[{{"sku":"1029743","title":"YOGURT | 6 OZ","quantity":2}},{{"sku":"995242","title":"FLUID MILK WHITE ONLY | 1 GA","quantity":1}}]}}"#,
            if n == 0 { "" } else { "," },
            200 + n,
        )
        .unwrap();
    }
    body.push_str("]}");
    body.into()
}

fn config(dir: &tempfile::TempDir) -> SimulatedConfig {
    let carrier = SimulatedCarrier {
        id: "swift".into(),
        secret: Secret::from_bytes(&[9; 32]).unwrap(),
        behaviour: "swift:reject=0.01".parse::<CarrierSpec>().unwrap().behaviour,
    };
    SimulatedConfig { carriers: vec![carrier], ledger: dir.path().join("ledger.tsv"), seed: 1, tells: None }
}

fn report(what: &str, shipments: u64, took: Duration) {
    let each_ns = took.as_nanos() as f64 / shipments as f64;
    println!("{what:<34} {each_ns:>7.0} ns a shipment {:>12.0} shipments/s", 1e9 / each_ns);
}

fn timed<T>(what: &str, bodies: &[Bytes], mut step: impl FnMut(&Bytes) -> T) {
    let start = Instant::now();
    for body in bodies {
        std::hint::black_box(step(body));
    }
    report(what, bodies.len() as u64 * SHIPMENTS, start.elapsed());
}

#[test]
#[ignore = "a measurement"]
fn speed_of_the_parts() {
    let dir = tempfile::tempdir().unwrap();
    let (failed, _failures) = mpsc::channel(1);
    let simulator = Simulator::new(config(&dir), None, failed).unwrap();
    let swift = &simulator.carriers["swift"];
    let bodies: Vec<_> = (0..MANIFESTS / 4).map(|n| manifest(n, SHIPMENTS)).collect();
    println!("{} bytes a shipment", bodies[0].len() as u64 / SHIPMENTS);
    timed("signature", &bodies, |body| swift.secret().sign("m", 1, body));
    timed("JSON", &bodies, |body| manifest::Manifest::parse(body).unwrap().shipments.len());
    timed("decision, ledger and answer", &bodies, |body| {
        // The parse is part of this figure.
        let manifest = manifest::Manifest::parse(body).unwrap();
        swift.handle(&manifest, &simulator.ledger, &simulator.remembered, 1).unwrap()
    });
    timed("the same again (all replayed)", &bodies, |body| {
        let manifest = manifest::Manifest::parse(body).unwrap();
        swift.handle(&manifest, &simulator.ledger, &simulator.remembered, 1).unwrap()
    });
    let ids: Vec<String> = (0..SHIPMENTS * 100).map(|n| format!("01ARZ3NDEKTSV4RRFFQ69G5FAV-{n}-1")).collect();
    let start = Instant::now();
    for id in &ids {
        std::hint::black_box(fingerprint(id));
    }
    report("fingerprint", ids.len() as u64, start.elapsed());
    let start = Instant::now();
    let lines = Ledger::read(&dir.path().join("ledger.tsv")).unwrap().shipments().count();
    report("Ledger::read", lines as u64 * 2, start.elapsed());
}

/// CPU time that this thread has used.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Runs the simulator on a thread of its own and returns the CPU time that it used.
fn serve_alone(
    config: SimulatedConfig,
    stop: tokio::sync::oneshot::Receiver<()>,
) -> (std::net::SocketAddr, std::thread::JoinHandle<Duration>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let before = thread_cpu();
        runtime.block_on(serve(listener, config, async { drop(stop.await) })).unwrap();
        thread_cpu() - before
    });
    (address, thread)
}

fn over_http(shipments: u64, manifests: u64) {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    let secret = config.carriers[0].secret.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (address, thread) = serve_alone(config, stopped);
    let url = format!("http://{address}/carriers/swift/manifests");
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let requests: Vec<_> = (0..manifests)
        .map(|n| {
            let body = manifest(n, shipments);
            (secret.sign("m", now_s, &body), body)
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = Instant::now();
    runtime.block_on(async {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        for pair in requests.chunks(4) {
            let mut answers = JoinSet::new();
            for (signature, body) in pair {
                let request = Request::post(&url)
                    .header(ID_HEADER, "m")
                    .header(TIMESTAMP_HEADER, now_s)
                    .header(SIGNATURE_HEADER, signature)
                    .body(Full::new(body.clone()))
                    .unwrap();
                let answer = client.request(request);
                answers.spawn(async move {
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.status(), 200);
                    answer.into_body().collect().await.unwrap().to_bytes().len()
                });
            }
            answers.join_all().await;
        }
    });
    let took = start.elapsed();
    stop.send(()).unwrap();
    let cpu = thread.join().unwrap();
    println!("manifests of {shipments} shipments, four at once, one connection each");
    report("  by the clock (with the client)", shipments * manifests, took);
    report("  by the simulator's CPU time", shipments * manifests, cpu);
}

#[test]
#[ignore = "a measurement"]
fn speed_over_http() {
    over_http(500, MANIFESTS);
    over_http(50, MANIFESTS);
    over_http(1, MANIFESTS * 10);
}
