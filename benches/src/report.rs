//! Results as data: what is written to `benches/runs`, and the plot of the cost curve.

use std::{fmt, fmt::Write as _, fs, io, path::Path, process::Command};

use serde::Serialize;
use serde_json::Value;

use crate::engine::{Outcome, Sample};

/// What every result says about where it comes from.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    /// Commit of the code, with `+` if the tree had changes.
    pub commit: String,
    /// Processor, cores, memory, kernel, file system.
    pub machine: String,
    /// The command that makes it again.
    pub command: String,
}

impl Origin {
    /// Asks the system.
    pub fn find(folder: &Path, command: &str) -> Self {
        Self { commit: commit(), machine: machine(folder), command: command.into() }
    }
}

fn said(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&out).trim().to_owned()
}

fn commit() -> String {
    let dirty =
        !said("git", &["status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/benches/runs"]).is_empty();
    format!("{}{}", said("git", &["rev-parse", "--short=12", "HEAD"]), if dirty { "+" } else { "" })
}

fn machine(folder: &Path) -> String {
    let line = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(':'));
        found.map_or_else(|| "?".into(), |(_, v)| v.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib: u64 = line("/proc/meminfo", "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let (cpu, gib, kernel) = (line("/proc/cpuinfo", "model name"), kib >> 20, said("uname", &["-r"]));
    let disk = said("stat", &["-f", "-c", "%T", &folder.display().to_string()]);
    format!("{cpu}, {cores} cores, {gib} GiB, Linux {kernel}, {disk}")
}

/// `engine*.json`.
#[derive(Debug, Clone, Serialize)]
pub struct EngineReport {
    /// Orders a second from the first submission until the last order was finished.
    pub orders_per_second: f64,
    /// What the device alone would allow: orders of as many bytes, as bare 4 MiB appends + fdatasync, best of three.
    pub ceiling_orders_per_second: f64,
    /// The ratio of the two.
    pub of_ceiling: f64,
    /// Bytes written to the device an order, journal and store.
    pub bytes_per_order: f64,
    /// Bytes of these in the journal.
    pub journal_bytes_per_order: f64,
    /// Bytes of JSON an order came as.
    pub json_bytes_per_order: f64,
    /// CPU of all threads an order, µs, the making of the JSON bodies included.
    pub cpu_us_per_order: f64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// Highest resident memory.
    pub peak_rss_bytes: u64,
    /// Orders in the run.
    pub orders: u64,
    /// Checkpoints within the run.
    pub checkpoints: u64,
    /// Carriers that never answered, of four.
    pub carriers_down: usize,
    /// The cost curve.
    pub samples: Vec<Sample>,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
}

impl EngineReport {
    /// Puts a run and its ceiling together.
    pub fn new(orders: u64, carriers_down: usize, run: &Outcome, ceiling_s: f64, origin: Origin) -> Self {
        let (n, seconds) = (orders as f64, run.took.as_secs_f64());
        Self {
            orders_per_second: n / seconds,
            ceiling_orders_per_second: n / ceiling_s,
            of_ceiling: ceiling_s / seconds,
            bytes_per_order: run.written_bytes as f64 / n,
            journal_bytes_per_order: run.journal_bytes as f64 / n,
            json_bytes_per_order: run.json_bytes,
            cpu_us_per_order: run.cpu.as_secs_f64() * 1e6 / n,
            rss_bytes: run.rss_bytes,
            peak_rss_bytes: run.peak_rss_bytes,
            orders,
            checkpoints: run.checkpoints,
            carriers_down,
            samples: run.samples.clone(),
            origin,
        }
    }
}

/// One rate tried over HTTP.
#[derive(Debug, Clone, Serialize)]
pub struct HttpStep {
    /// Orders/s intended.
    pub rate: u32,
    /// Acknowledged orders over the time until the last of them was with its carrier.
    pub orders_per_second: f64,
    /// Whether generator and server kept up, nothing was lost, doubled or left in flight, and the carriers were not
    /// behind by more than 5 % of the run.
    pub held: bool,
    /// Acknowledged orders.
    pub orders: u64,
    /// Latencies of the run, ms, from the intended send time.
    pub latency_ms: Value,
    /// Orders refused (429, 503).
    pub refusals: u64,
    /// Orders lost, by id.
    pub orders_lost: u64,
    /// Effects doubled, by the carriers' ledger.
    pub duplicate_effects: u64,
    /// Resident memory of the server at the end.
    pub rss_bytes: u64,
}

impl HttpStep {
    /// Reads what `sluice load --json` printed.
    pub fn new(rate: u32, report: &Value, rss_bytes: u64) -> Self {
        let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
        let whole = |path: &str| report.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let seconds = number("/seconds") + number("/latency_ms/carrier/max") / 1_000.0;
        let orders_per_second = whole("/orders_accepted") as f64 / seconds;
        let clean = ["/orders_lost", "/orders_in_flight", "/duplicate_effects"].iter().all(|p| whole(p) == 0);
        let held = report.pointer("/rate_held").and_then(Value::as_bool).unwrap_or(false);
        Self {
            rate,
            orders_per_second,
            held: held && clean && orders_per_second >= 0.95 * f64::from(rate),
            orders: whole("/orders_accepted"),
            latency_ms: report["latency_ms"].clone(),
            refusals: whole("/refusals"),
            orders_lost: whole("/orders_lost"),
            duplicate_effects: whole("/duplicate_effects"),
            rss_bytes,
        }
    }
}

impl fmt::Display for HttpStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p99 = |what: &str| self.latency_ms[what]["p99"].as_f64().unwrap_or(0.0);
        let held = if self.held { "held" } else { "not held" };
        write!(
            f,
            "{held}, {:.0} orders/s end to end, ack p99 {:.1} ms, carrier p99 {:.1} ms, {} refused, {} MiB",
            self.orders_per_second,
            p99("ack"),
            p99("carrier"),
            self.refusals,
            self.rss_bytes >> 20
        )
    }
}

/// `http_*.json`.
#[derive(Debug, Clone, Serialize)]
pub struct HttpReport {
    /// End to end at the highest rate that was held.
    pub orders_per_second: f64,
    /// Every rate tried.
    pub steps: Vec<HttpStep>,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
}

impl HttpReport {
    /// Sums the steps up.
    pub fn new(steps: Vec<HttpStep>, origin: Origin) -> Self {
        let best = steps.iter().filter(|s| s.held).map(|s| s.orders_per_second).fold(0.0, f64::max);
        Self { orders_per_second: best, steps, origin }
    }
}

/// Writes `value` as `name` into both folders.
///
/// # Errors
/// What the system says.
pub fn save(folders: &[&Path], name: &str, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    folders.iter().try_for_each(|folder| fs::write(folder.join(name), &text))
}

/// Writes `value` to standard output, as one line.
///
/// # Errors
/// What the system says.
pub fn print(value: &impl Serialize) -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write as _;
    Ok(writeln!(io::stdout(), "{}", serde_json::to_string(value)?)?)
}

/// CPU an order and resident memory over the orders of a run, as a picture.
pub fn cost_plot(samples: &[Sample]) -> String {
    const W: f64 = 720.0;
    const H: f64 = 320.0;
    let last = samples.last().map_or(1.0, |s| s.orders as f64);
    let cost = |w: &[Sample]| {
        (w[1].orders as f64, (w[1].cpu_seconds - w[0].cpu_seconds) * 1e6 / (w[1].orders - w[0].orders).max(1) as f64)
    };
    let costs: Vec<(f64, f64)> = samples.windows(2).map(cost).collect();
    let memory: Vec<(f64, f64)> = samples.iter().map(|s| (s.orders as f64, s.rss_bytes as f64 / 1e9)).collect();
    let top = costs.iter().chain(&memory).fold(1.0f64, |m, p| m.max(p.1)) * 1.1;
    let place = |(x, y): (f64, f64)| (60.0 + x / last * (W - 80.0), H - 40.0 - y / top * (H - 60.0));
    let line = |points: &[(f64, f64)], colour: &str| {
        let path = points.iter().fold(String::new(), |mut path, &p| {
            let (x, y) = place(p);
            let _ = write!(path, "{x:.1},{y:.1} ");
            path
        });
        format!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{path}\"/>\n")
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {W} {H}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{W}\" height=\"{H}\" fill=\"white\"/>\n"
    );
    for step in 0..=4 {
        let y = top * f64::from(step) / 4.0;
        let (x0, at) = place((0.0, y));
        let _ = writeln!(out, "<line x1=\"{x0}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>", W - 20.0);
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{y:.1}</text>", x0 - 6.0, at + 4.0);
        let x = last * f64::from(step) / 4.0;
        let (at, _) = place((x, 0.0));
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{:.0}M</text>", H - 22.0, x / 1e6);
    }
    out += &line(&costs, "#1f77b4");
    out += &line(&memory, "#d62728");
    out += "<text x=\"70\" y=\"18\" fill=\"#1f77b4\">CPU per order, µs (all threads, by interval)</text>\n";
    out += "<text x=\"380\" y=\"18\" fill=\"#d62728\">resident memory, GB</text>\n";
    let _ = writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">orders</text>\n</svg>", W / 2.0, H - 4.0);
    out
}
