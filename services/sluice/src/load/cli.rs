//! The command line of `sluice load`.

use std::fs::{self, OpenOptions};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use sluice_http::Timestamp;

use super::config::{DEFAULT_SAMPLE, LoadConfig, LoadError, Verify};
use super::html::{Origin, page};
use super::http::Target;
use super::orders::Merchant;
use super::progress::Bar;
use super::report::LoadReport;
use super::run;
use super::schedule::Shape;
use crate::{machine, output, tls};

/// Exit code: everything judged is conserved.
pub const EXIT_OK: u8 = 0;
/// Exit code: an order is lost, doubled, unreadable or left in flight, or none was acknowledged.
pub const EXIT_NOT_CONSERVED: u8 = 1;
/// Exit code: the command line can't be followed.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: no run, because there is no server or this process can't send.
pub const EXIT_NO_RUN: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  sluice load --url http://127.0.0.1:8080 --rate 20000 --duration 30s --merchant m-1:secret
  sluice load --url http://127.0.0.1:8080 --rate 150000 --duration 1m --batch 1000 --two-line --merchant m-1:secret
  sluice load --url http://127.0.0.1:8080 --rate 50000 --duration 5m --shape midnight --json --merchant m-1:secret
  sluice load --url http://127.0.0.1:8080 --rate 2000 --duration 1m --merchant m-1:secret --report run.html

Exit codes: 0 all judged orders conserved; 1 an order is lost, doubled, unreadable or left in flight, or none was
acknowledged; 2 wrong usage, or the report can't be written; 3 no connection.";

/// Sends real baskets at a fixed schedule, whatever the server does, then reads the acknowledged orders back and judges
/// that none is lost, doubled or left in flight.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct LoadArgs {
    /// Address of the checkout API, http://host:port or https://host:port
    #[arg(long)]
    pub url: Target,
    /// PEM file with the authorities that are believed when they have signed the server's certificate; needed with https
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Orders per second, at the peak of the shape
    #[arg(long)]
    pub rate: f64,
    /// How long: 30s, 500ms, 5m, 1h
    #[arg(long, value_parser = parse_duration)]
    pub duration: Duration,
    /// Orders per request, sent to /v1/orders:batch; without it, each order is a request
    #[arg(long, value_name = "N")]
    pub batch: Option<NonZeroUsize>,
    /// steady, ramp (linearly from 0 to the rate) or midnight (a tenth, then a step to the rate that decays)
    #[arg(long, default_value_t = Shape::Steady)]
    pub shape: Shape,
    /// Connections, each with one request at a time [default: 256; 16 with --batch]
    #[arg(long, value_name = "C")]
    pub connections: Option<NonZeroUsize>,
    /// Merchants who post the orders; those named m-STORE post their own store's
    #[arg(long = "merchant", value_name = "ID:KEY", num_args = 1.., value_parser = parse_merchant, required = true)]
    pub merchants: Vec<Merchant>,
    /// Seed of what is generated: addresses, draws, samples
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Orders of two lines, about 450 bytes, instead of whole baskets
    #[arg(long)]
    pub two_line: bool,
    /// How many acknowledged orders are read back and judged: all, or a seeded sample
    #[arg(long, value_name = "all|N", default_value_t = DEFAULT_SAMPLE.to_string())]
    pub verify: String,
    /// Ledger of a simulated carrier, to judge doubled effects by; repeat it for every carrier
    #[arg(long = "ledger", value_name = "FILE")]
    pub ledgers: Vec<PathBuf>,
    /// Write a page with plots of the run to this file: one HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
}

impl LoadArgs {
    /// The run that these arguments ask for.
    ///
    /// # Errors
    /// [`LoadError::Usage`].
    pub fn config(&self) -> Result<LoadConfig, LoadError> {
        let unclear = || LoadError::Usage(format!("--verify is \"all\" or a number of orders, not {:?}", self.verify));
        let verify = match self.verify.as_str() {
            "all" => Verify::All,
            number => Verify::Sample(number.parse().map_err(|_| unclear())?),
        };
        let target = match &self.ca {
            Some(file) => {
                let connector = tls::connector("--ca", file).map_err(|error| LoadError::Usage(error.to_string()))?;
                self.url.clone().trusting(connector).map_err(|error| LoadError::Usage(format!("--ca: {error}")))?
            }
            None => self.url.clone(),
        };
        let config = LoadConfig {
            shape: self.shape,
            batch: self.batch,
            connections: self.connections,
            seed: self.seed,
            two_line: self.two_line,
            verify,
            ledgers: self.ledgers.clone(),
            ..LoadConfig::new(target, self.merchants.clone(), self.rate, self.duration)
        };
        config.check()?;
        Ok(config)
    }
}

impl LoadArgs {
    /// Where a report of this run comes from, now.
    fn origin(&self) -> Origin {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Origin {
            command: self.line(),
            machine: machine::describe(),
            at: Timestamp(since.as_millis() as u64).to_string(),
        }
    }

    /// The command line that asks for this run, without the merchants' keys.
    fn line(&self) -> String {
        let mut line = format!("sluice load --url http://{} --rate {}", self.url.authority(), self.rate);
        let mut add =
            |name: &str, value: String| line.extend([" --", name, if value.is_empty() { "" } else { " " }, &value]);
        add("duration", format!("{}s", self.duration.as_secs_f64()));
        for (name, value) in [("batch", self.batch), ("connections", self.connections)] {
            value.into_iter().for_each(|value| add(name, value.to_string()));
        }
        add("shape", self.shape.to_string());
        add("seed", self.seed.to_string());
        add("verify", self.verify.clone());
        if self.two_line {
            add("two-line", String::new());
        }
        self.ledgers.iter().for_each(|ledger| add("ledger", ledger.display().to_string()));
        self.merchants.iter().for_each(|merchant| add("merchant", format!("{}:KEY", merchant.id)));
        line
    }
}

/// Runs `sluice load`, prints its result on standard output and problems on standard error, and gives the exit code.
pub async fn command(args: &LoadArgs) -> u8 {
    // Before the run, not after it.
    if let Some(path) = &args.report
        && let Err(error) = OpenOptions::new().create(true).append(true).open(path)
    {
        output::fault(format_args!("--report {}: {error}", path.display()));
        return EXIT_USAGE;
    }
    let bar = Bar::new();
    let result = match args.config() {
        Ok(config) => Box::pin(run(config, &bar)).await,
        Err(error) => Err(error),
    };
    drop(bar);
    print(&result, args.json);
    if let (Some(path), Ok(report)) = (&args.report, &result)
        && let Err(error) = fs::write(path, page(report, &args.origin()))
    {
        output::fault(format_args!("--report {}: {error}", path.display()));
        return EXIT_USAGE;
    }
    match result {
        Ok(report) if report.passed() => EXIT_OK,
        Ok(_) => EXIT_NOT_CONSERVED,
        Err(LoadError::Usage(_)) => EXIT_USAGE,
        Err(_) => EXIT_NO_RUN,
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the one place where this command talks")]
fn print(result: &Result<LoadReport, LoadError>, json: bool) {
    match result {
        Ok(report) if json => match serde_json::to_string(report) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("error: the report can't be written as JSON: {error}"),
        },
        Ok(report) => println!("{}", report.table()),
        Err(error) => eprintln!("error: {error}"),
    }
}

/// Reads 500ms, 30s, 5m or 1h.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("expected a duration such as 500ms, 30s, 5m or 1h".to_owned()),
    };
    let seconds = number.parse::<f64>().map_err(|_| "expected a number and ms, s, m or h".to_owned())?;
    Duration::try_from_secs_f64(seconds * scale).map_err(|_| "longer than can be counted".to_owned())
}

fn parse_merchant(text: &str) -> Result<Merchant, String> {
    match text.split_once(':') {
        Some((id, key)) if !id.is_empty() && !key.is_empty() => Ok(Merchant { id: id.to_owned(), key: key.to_owned() }),
        _ => Err("expected ID:KEY".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn parse(more: &str) -> Result<LoadArgs, String> {
        let given = format!("load --url http://h:1 --rate 10 --duration 2s {more}");
        Cli::try_parse_from(given.split_whitespace()).map(|cli| cli.load).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_become_a_run() {
        let config = parse("--merchant m-1:k:1 m-2:k2 --batch 5 --shape ramp --verify all").unwrap().config().unwrap();
        assert_eq!(config.merchants.len(), 2);
        assert_eq!(config.merchants[0].key, "k:1");
        assert_eq!((config.verify, config.shape), (Verify::All, Shape::Ramp));
        assert_eq!(config.connection_count(), 16);
        assert_eq!(parse("--merchant a:b").unwrap().config().unwrap().verify, Verify::Sample(DEFAULT_SAMPLE));
    }

    #[test]
    fn the_command_of_a_report_has_no_keys() {
        let args =
            parse("--merchant m-1:hunter2 m-2:hunter3 --batch 5 --two-line --ledger a.log --report r.html").unwrap();
        assert_eq!(
            args.line(),
            "sluice load --url http://h:1 --rate 10 --duration 2s --batch 5 --shape steady --seed 1 --verify 200000 \
             --two-line --ledger a.log --merchant m-1:KEY --merchant m-2:KEY"
        );
        let machine = args.origin().machine;
        assert!(!machine.is_empty());
    }

    #[tokio::test]
    async fn a_report_that_cannot_be_written_is_told_before_the_run() {
        let args = parse("--merchant a:b --report /nowhere/r.html").unwrap();
        assert_eq!(command(&args).await, EXIT_USAGE);
    }

    #[test]
    fn wrong_arguments_say_what_is_expected() {
        assert!(parse("").err().unwrap().contains("--merchant"));
        assert!(parse("--merchant ab").err().unwrap().contains("ID:KEY"));
        assert!(parse("--merchant a:b --shape square").err().unwrap().contains("midnight"));
        assert!(parse("--merchant a:b --batch 0").is_err());
        let unclear = parse("--merchant a:b --verify some").unwrap().config().unwrap_err();
        assert!(unclear.to_string().contains("\"all\""));
    }

    #[test]
    fn durations_have_units() {
        let seconds = |text| parse_duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("500ms"), Ok(0.5));
        assert_eq!(seconds("1.5m"), Ok(90.0));
        assert_eq!(seconds("2h"), Ok(7_200.0));
        assert_eq!(seconds("30"), Ok(30.0));
        for bad in ["", "s", "1d", "-1s", "1e3s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn without_a_server_the_exit_code_says_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut args = parse("--merchant a:b").unwrap();
        args.url = format!("http://{address}").parse().unwrap();
        assert_eq!(command(&args).await, EXIT_NO_RUN);
        args.rate = -1.0;
        assert_eq!(command(&args).await, EXIT_USAGE);
    }
}
