//! What quiet merchants notice of one who posts ten times its share: their p99 alone and beside it, in turns, over HTTP
//! against a real server. The loud one is nobody's friend: it never waits as Retry-After says.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    http::{self, Town},
    report::Origin,
};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct FairnessArgs {
    /// Quiet merchants
    #[arg(long, default_value_t = 4)]
    pub quiet: u32,
    /// A merchant's share, orders/s; quiet ones post four fifths of it, the loud one ten times as much
    #[arg(long, default_value_t = 2_000)]
    pub share: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 10)]
    pub seconds: u32,
    /// Rounds, each with one run alone and one beside the loud merchant
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Connections of the loud merchant
    #[arg(long, default_value_t = 16)]
    pub connections: u32,
    /// The sluice binary; built and found beside this one if absent
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// Folder for the data of the runs; on the disk to be measured
    #[arg(long, default_value = "target/bench")]
    pub folder: PathBuf,
    /// Print figures only; keep no results
    #[arg(long)]
    pub dry: bool,
}

/// Seconds of quiet load before anything is measured.
const WARM_UP_S: u32 = 2;

/// How the loud merchant comes, and what it is held by.
struct Scenario {
    name: &'static str,
    /// Orders in each of its requests.
    batch: u32,
    /// Whether merchants have a rate limit, their share, or only their part of a busy node.
    limited: bool,
}

const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "single orders, rate limit", batch: 1, limited: true },
    Scenario { name: "batches, rate limit", batch: 500, limited: true },
    Scenario { name: "single orders, no limit", batch: 1, limited: false },
    Scenario { name: "batches, no limit", batch: 500, limited: false },
];

/// Latencies of the quiet merchants in one run, ms from the intended time to the acknowledgement.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Quiet {
    p50: f64,
    p99: f64,
    p999: f64,
    /// Orders that were refused at least once.
    refused: u64,
}

/// What became of the loud merchant's orders.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Loud {
    /// Sent, orders/s.
    offered_per_second: f64,
    /// Acknowledged, orders/s.
    taken_per_second: f64,
}

/// One run alone and one beside the loud merchant.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Round {
    alone: Quiet,
    beside: Quiet,
    loud: Loud,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.beside.p99 / self.alone.p99.max(1e-3)
    }
}

/// All rounds of one scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    scenario: &'static str,
    /// Median over the rounds of the p99 beside the loud merchant over the p99 alone.
    p99_ratio: f64,
    rounds: Vec<Round>,
}

/// `fairness.json`.
#[derive(Debug, Clone, Serialize)]
pub struct FairnessReport {
    quiet_merchants: u32,
    share_per_second: u32,
    scenarios: Vec<Outcome>,
    #[serde(flatten)]
    origin: Origin,
}

/// Runs every scenario.
///
/// # Errors
/// Whatever keeps a run from its end.
pub fn run(args: &FairnessArgs) -> Result<FairnessReport, Box<dyn Error>> {
    fs::create_dir_all(&args.folder)?;
    let binary = args.binary.clone().map_or_else(http::binary, Ok)?;
    eprintln!(
        "{:<28} {:>9} {:>10} {:>6} {:>9} {:>10}",
        "p99 of quiet merchants, ms", "alone", "beside", "ratio", "loud/s", "taken/s"
    );
    let mut scenarios = Vec::new();
    for scenario in &SCENARIOS {
        let mut rounds = Vec::new();
        for _ in 0..args.rounds.max(1) {
            let (alone, _) = one(args, &binary, scenario, false)?;
            let (beside, loud) = one(args, &binary, scenario, true)?;
            rounds.push(Round { alone, beside, loud });
        }
        rounds.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        let median = rounds[rounds.len() / 2];
        eprintln!(
            "{:<28} {:>9.2} {:>10.2} {:>6.2} {:>9.0} {:>10.0}",
            scenario.name,
            median.alone.p99,
            median.beside.p99,
            median.ratio(),
            median.loud.offered_per_second,
            median.loud.taken_per_second
        );
        scenarios.push(Outcome { scenario: scenario.name, p99_ratio: median.ratio(), rounds });
    }
    let origin = Origin::find(&args.folder, "cargo run --release -p sluice-benches -- fairness");
    Ok(FairnessReport { quiet_merchants: args.quiet, share_per_second: args.share, scenarios, origin })
}

/// One run on a fresh server.
fn one(
    args: &FairnessArgs,
    binary: &Path,
    scenario: &Scenario,
    with_loud: bool,
) -> Result<(Quiet, Loud), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(&args.folder)?;
    let (mut merchants, mut quiet) = (String::new(), Vec::new());
    let limit = if scenario.limited { format!("rate_limit = {}\n", args.share) } else { String::new() };
    let names: Vec<String> = (1..=args.quiet).map(|n| format!("quiet-{n}")).collect();
    for name in names.iter().map(String::as_str).chain(["loud"]) {
        let _ = write!(merchants, "[[merchant]]\nid = \"{name}\"\napi_key = \"key-of-{name}\"\n{limit}");
    }
    quiet.extend(names.iter().map(|name| format!("{name}:key-of-{name}")));
    let town = Town::start(binary, folder.path(), &merchants)?;
    let rate = (args.quiet * args.share * 4 / 5).to_string();
    let load = |verify: &str, seconds: u32| {
        let duration = format!("{seconds}s");
        let given = ["--verify", verify, "--rate", &rate, "--duration", &duration, "--merchant"];
        let arguments: Vec<String> = given.map(str::to_owned).into_iter().chain(quiet.iter().cloned()).collect();
        town.load(binary, &arguments)
    };
    // The first seconds of a server are nobody's fault, and must not count for one side alone.
    load("0", WARM_UP_S)?;
    if !with_loud {
        return Ok((Quiet::read(&load("1000", args.seconds)?), Loud::default()));
    }
    let address: SocketAddr = town.url.trim_start_matches("http://").parse()?;
    let noise = Noise {
        address,
        connections: args.connections.max(1),
        batch: scenario.batch,
        stop: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        taken: AtomicU64::new(0),
    };
    let each = f64::from(args.share) * 10.0 / f64::from(noise.connections * noise.batch);
    let started = Instant::now();
    let report = thread::scope(|scope| {
        (0..noise.connections).for_each(|number| {
            drop(scope.spawn({
                let noise = &noise;
                move || noise.make(number, each)
            }))
        });
        let report = load("1000", args.seconds).map_err(|error| error.to_string());
        noise.stop.store(true, Relaxed);
        report
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let per_second = |orders: &AtomicU64| orders.load(Relaxed) as f64 / seconds;
    let loud = Loud { offered_per_second: per_second(&noise.sent), taken_per_second: per_second(&noise.taken) };
    Ok((Quiet::read(&report), loud))
}

impl Quiet {
    /// From what `sluice load --json` printed.
    fn read(report: &Value) -> Self {
        let ack = |what: &str| report["latency_ms"]["ack"][what].as_f64().unwrap_or(f64::NAN);
        let refused = report["refusals"].as_u64().unwrap_or(0);
        Self { p50: ack("p50"), p99: ack("p99"), p999: ack("p999"), refused }
    }
}

/// The loud merchant's connections, one thread each.
struct Noise {
    address: SocketAddr,
    connections: u32,
    batch: u32,
    stop: AtomicBool,
    sent: AtomicU64,
    taken: AtomicU64,
}

impl Noise {
    /// Sends `per_second` requests on one connection, as evenly as answers allow, and opens it again when the server
    /// closes it. Whoever falls behind by more than a second forgets what it is behind.
    fn make(&self, number: u32, per_second: f64) {
        let pause = Duration::from_secs_f64(1.0 / per_second.max(1e-3));
        // Connections take turns.
        let first = Instant::now() + pause.mul_f64(f64::from(number) / f64::from(self.connections));
        let (mut due, mut count, mut link) = (first, 0, None);
        while !self.stop.load(Relaxed) {
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                thread::sleep(wait.min(Duration::from_millis(100)));
                continue;
            }
            due = (due + pause).max(Instant::now() - Duration::from_secs(1));
            count += 1;
            let request = self.request(&format!("{number}-{count}"));
            self.sent.fetch_add(self.batch.into(), Relaxed);
            match self.exchange(&mut link, &request) {
                Ok(taken) => drop(self.taken.fetch_add(taken, Relaxed)),
                Err(_) => link = None,
            }
        }
    }

    /// Sends a request, and gives how many of its orders were taken.
    fn exchange(&self, link: &mut Option<TcpStream>, request: &[u8]) -> io::Result<u64> {
        let stream = match link {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                link.insert(stream)
            }
        };
        // A refusal may come, and the connection close, before all is sent.
        let sent = stream.write_all(request);
        let mut input = Vec::new();
        let mut bytes = [0; 16 << 10];
        loop {
            match stream.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => input.extend_from_slice(&bytes[..read]),
            }
            let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
            let field = |name: &str| head.split(name).nth(1).and_then(|rest| rest.lines().next()).map(str::trim);
            let length: usize = field("content-length:").and_then(|text| text.parse().ok()).unwrap_or(0);
            if input.len() < end + 4 + length {
                continue;
            }
            if sent.is_err() || field("connection:") == Some("close") {
                *link = None;
            }
            let body = String::from_utf8_lossy(&input[end + 4..]);
            let lines = body.lines().filter(|line| line.contains("\"status\":201")).count() as u64;
            return Ok(if head.get(9..12) == Some("201") { 1 } else { lines });
        }
    }

    fn request(&self, key: &str) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let stamp = sluice_http::rfc3339::format(now);
        let stamp = String::from_utf8_lossy(&stamp);
        let order = |more: &str| {
            format!(
                "{{{more}\"customer\":\"c-77\",\"placed_at\":\"{stamp}\",\"currency\":\"USD\",\"ship_to\":{{\"name\":\"Ada\",\
                 \"street\":\"12 Mill Lane\",\"city\":\"Springfield\",\"postal_code\":\"12345\",\"country\":\"US\"}},\"lines\":[\
                 {{\"sku\":\"1029743\",\"title\":\"FLUID MILK WHITE ONLY | 1 GA\",\"quantity\":2,\"unit_price\":129}},\
                 {{\"sku\":\"1082185\",\"title\":\"BANANAS | 40 LB\",\"quantity\":1,\"unit_price\":99}}]}}"
            )
        };
        let (path, kind, body) = if self.batch == 1 {
            (String::from("/v1/orders"), format!("application/json\r\nidempotency-key: {key}"), order(""))
        } else {
            let lines = (0..self.batch).map(|n| order(&format!("\"idempotency_key\":\"{key}-{n}\",")) + "\n");
            (String::from("/v1/orders:batch"), String::from("application/x-ndjson"), lines.collect())
        };
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer key-of-loud\r\ncontent-type: {kind}\r\n\
             content-length: {length}\r\n\r\n"
        );
        (head + &body).into_bytes()
    }
}
