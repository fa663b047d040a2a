//! The whole path over HTTP, as users run it: `sluice serve`, `sluice carrier-sim` and `sluice load` as processes of
//! their own on this machine.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::report::HttpStep;

/// How orders come.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Orders a request, or one.
    pub batch: Option<u32>,
    /// Rates to try, ascending, orders/s.
    pub rates: Vec<u32>,
    /// Seconds each.
    pub seconds: u32,
}

/// A child that doesn't outlive this process's interest in it.
struct Guard(Child);

/// A server with its carriers, until it is dropped.
pub struct Town {
    _sim: Guard,
    serve: Guard,
    /// Where the API is.
    pub url: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SECRET: &str = "whsec_c2x1aWNlLWJlbmNobWFyay1zZWNyZXQtMDEyMzQ1Njc=";
const CARRIERS: [&str; 4] = ["swift", "steady", "value", "metro"];

/// Builds the `sluice` binary beside this one and gives its path.
///
/// # Errors
/// If cargo says so.
pub fn binary() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--release", "--locked", "-p", "sluice"]).status()?;
    if !built.success() {
        return Err("the sluice binary could not be built".into());
    }
    let beside = env::current_exe()?.with_file_name("sluice");
    if beside.is_file() { Ok(beside) } else { Err(format!("{} is not there", beside.display()).into()) }
}

/// Runs every rate of `pattern`, each against fresh processes and folders below `folder`.
///
/// # Errors
/// Whatever keeps a run from its end.
pub fn run(binary: &Path, folder: &Path, pattern: &Pattern) -> Result<Vec<HttpStep>, Box<dyn Error>> {
    let mut steps = Vec::new();
    for &rate in &pattern.rates {
        let fresh = tempfile::tempdir_in(folder)?;
        let step = one(binary, fresh.path(), pattern, rate)?;
        eprintln!("  {rate:>7}/s: {step}");
        let hopeless = !step.held;
        steps.push(step);
        if hopeless {
            break;
        }
    }
    Ok(steps)
}

impl Town {
    /// Starts `sluice carrier-sim` and `sluice serve` with their files in `folder`; `more` is added to the configuration.
    ///
    /// # Errors
    /// Whatever keeps them from being ready.
    pub fn start(binary: &Path, folder: &Path, more: &str) -> Result<Self, Box<dyn Error>> {
        let mut sim = Command::new(binary);
        sim.args(["carrier-sim", "--secret", SECRET, "--ledger"]).arg(folder.join("ledger.tsv"));
        for carrier in CARRIERS {
            sim.args(["--carrier", &format!("{carrier}:latency_ms=2")]);
        }
        let mut sim = Guard(sim.stdout(Stdio::piped()).spawn()?);
        let address = first_line(&mut sim.0)?;
        fs::write(folder.join("sluice.toml"), config(folder, address.trim(), more))?;
        let ready = folder.join("ready");
        let mut serve = Command::new(binary);
        serve.args(["serve", "--config"]).arg(folder.join("sluice.toml")).arg("--ready-file").arg(&ready);
        let serve = Guard(serve.env("SLUICE_LOG", "error").stdout(Stdio::null()).spawn()?);
        let url = wait_for(&ready)?.trim().to_owned();
        Ok(Self { _sim: sim, serve, url })
    }

    /// Runs `sluice load` with these arguments besides the address, and gives its report.
    ///
    /// # Errors
    /// If it gives none.
    pub fn load(&self, binary: &Path, arguments: &[String]) -> Result<Value, Box<dyn Error>> {
        let mut load = Command::new(binary);
        load.args(["load", "--json", "--two-line", "--url", &self.url]).args(arguments);
        let out = load.stderr(Stdio::inherit()).output()?;
        let none = |e| format!("sluice load gave no JSON ({e}): {}", String::from_utf8_lossy(&out.stdout));
        Ok(serde_json::from_slice(&out.stdout).map_err(none)?)
    }
}

fn one(binary: &Path, folder: &Path, pattern: &Pattern, rate: u32) -> Result<HttpStep, Box<dyn Error>> {
    use std::fmt::Write;
    let (mut merchants, mut keys) = (String::new(), Vec::new());
    for n in 1..=4 {
        let _ = write!(merchants, "[[merchant]]\nid = \"m-{n}\"\napi_key = \"bench-key-{n}\"\n");
        keys.push(format!("m-{n}:bench-key-{n}"));
    }
    let town = Town::start(binary, folder, &merchants)?;
    let (rate_text, duration) = (rate.to_string(), format!("{}s", pattern.seconds));
    let ledger = folder.join("ledger.tsv").display().to_string();
    let given = ["--verify", "50000", "--rate", &rate_text, "--duration", &duration, "--ledger", &ledger];
    let mut arguments: Vec<String> = given.map(str::to_owned).into();
    if let Some(batch) = pattern.batch {
        arguments.extend(["--batch".to_owned(), batch.to_string()]);
    }
    arguments.push("--merchant".to_owned());
    arguments.extend(keys);
    let report = town.load(binary, &arguments)?;
    let rss = crate::measure::rss_of(town.serve.0.id());
    Ok(HttpStep::new(rate, &report, rss))
}

fn config(folder: &Path, carriers_at: &str, more: &str) -> String {
    use std::fmt::Write;
    let mut text = format!("listen = \"127.0.0.1:0\"\ndata_dir = {:?}\n{more}", folder.join("data"));
    for carrier in CARRIERS {
        let _ = write!(
            text,
            "[[carrier]]\nid = \"{carrier}\"\nurl = \"{carriers_at}/carriers/{carrier}/manifests\"\n\
             secret = \"{SECRET}\"\nidempotent = true\n\
             handling = [\"chilled\", \"ambient\", \"frozen\", \"age_restricted\", \"hazmat_check\", \"live_plant\"]\n"
        );
    }
    text
}

fn first_line(child: &mut Child) -> Result<String, Box<dyn Error>> {
    use std::io::{BufRead, BufReader};
    let out = child.stdout.take().ok_or("the carriers' output is not piped")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    if line.trim().is_empty() { Err("the simulated carriers did not start".into()) } else { Ok(line) }
}

fn wait_for(file: &Path) -> Result<String, Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Ok(text) = fs::read_to_string(file)
            && text.ends_with('\n')
        {
            return Ok(text);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err("sluice serve did not get ready within 30 s".into())
}
