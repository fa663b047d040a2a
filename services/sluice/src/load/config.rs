//! What a run is to do, checked before anything is sent, and why a run couldn't be done.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sluice_data::DataError;
use thiserror::Error;

use super::acks::MAX_ACKS;
use super::http::Target;
use super::orders::{MAX_BATCH_LINES, Merchant};
use super::schedule::{Schedule, Shape};

/// Connections when single orders are sent: each carries one request at a time, so 60,000 orders/s that take 4 ms each
/// need 240.
pub const SINGLE_CONNECTIONS: usize = 256;
/// Connections when batches are sent.
pub const BATCH_CONNECTIONS: usize = 16;
/// The most connections that a run opens.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Acknowledged orders that are read back unless told otherwise.
pub const DEFAULT_SAMPLE: usize = 200_000;

/// Which acknowledged orders are read back at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Every one.
    All,
    /// A seeded sample of at most this many; none for 0.
    Sample(usize),
}

/// A run of `sluice load`. [`LoadConfig::new`] gives a sensible one; the fields are there to be changed.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// The checkout API.
    pub target: Target,
    /// Who posts orders; at least one.
    pub merchants: Vec<Merchant>,
    /// Peak rate in orders/s.
    pub rate: f64,
    /// For how long orders become due.
    pub duration: Duration,
    /// How the rate develops.
    pub shape: Shape,
    /// Orders a request, posted to `/v1/orders:batch`; `None` posts each alone. At most [`MAX_BATCH_LINES`].
    pub batch: Option<NonZeroUsize>,
    /// Connections, each with one request at a time; `None` for [`SINGLE_CONNECTIONS`] or [`BATCH_CONNECTIONS`].
    pub connections: Option<NonZeroUsize>,
    /// What is generated (addresses, draws of lines, samples, jitter) follows from it.
    pub seed: u64,
    /// Orders of two lines, about 450 bytes, instead of whole baskets.
    pub two_line: bool,
    /// Name of the run in its idempotency keys, `load-{run}-{n}`. Must differ from run to run on the same server.
    pub run: String,
    /// How long one request may take before its connection counts as lost.
    pub request_timeout: Duration,
    /// How long after its first sending an order is sent again before it is given up.
    pub give_up_after: Duration,
    /// How long, after the last order became due or the run was stopped, answers are still waited for.
    pub drain: Duration,
    /// Which orders are judged.
    pub verify: Verify,
    /// Ledgers of all simulated carriers, to judge doubled effects by; none if there are none.
    pub ledgers: Vec<PathBuf>,
    /// How long judging waits for another order to be decided before it judges the others as they are.
    pub settle: Duration,
}

impl LoadConfig {
    /// Steady load of single orders with everything else at its default.
    #[must_use]
    pub fn new(target: Target, merchants: Vec<Merchant>, rate: f64, duration: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            target,
            merchants,
            rate,
            duration,
            shape: Shape::Steady,
            batch: None,
            connections: None,
            seed: 1,
            two_line: false,
            run: format!("{:x}-{:x}", now.as_micros(), std::process::id()),
            request_timeout: Duration::from_secs(10),
            give_up_after: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            verify: Verify::Sample(DEFAULT_SAMPLE),
            ledgers: Vec::new(),
            settle: Duration::from_secs(30),
        }
    }

    /// When the orders are due.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule::new(self.shape, self.rate, self.duration)
    }

    /// How many connections the run opens.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        let default = if self.batch.is_some() { BATCH_CONNECTIONS } else { SINGLE_CONNECTIONS };
        self.connections.map_or(default, NonZeroUsize::get)
    }

    /// Checks what the types can't.
    ///
    /// # Errors
    /// [`LoadError::Usage`] naming the option and what it may be.
    pub fn check(&self) -> Result<(), LoadError> {
        let usage = |text: String| Err(LoadError::Usage(text));
        if !self.target.is_trusted() {
            return usage("https:// takes --ca FILE: whom to believe the server's certificate".into());
        }
        if self.merchants.is_empty() {
            return usage(
                "no merchant: give one with --merchant ID:KEY, as in a [[merchant]] of the server's configuration"
                    .into(),
            );
        }
        let printable = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(bad) = self.merchants.iter().find(|merchant| !printable(&merchant.key)) {
            return usage(format!("the key of merchant {} must be of printable ASCII without blanks", bad.id));
        }
        if !printable(&self.run) || self.run.len() > 40 || self.run.contains(['"', '\\']) {
            return usage("the name of the run must be 1 to 40 printable characters without quotes".into());
        }
        if !(self.rate > 0.0 && self.rate.is_finite()) {
            return usage("--rate must be a number of orders/s above 0".into());
        }
        if self.batch.is_some_and(|batch| batch.get() > MAX_BATCH_LINES) {
            return usage(format!("--batch may be 1 to {MAX_BATCH_LINES}, the most lines that the API takes"));
        }
        if self.connection_count() > MAX_CONNECTIONS {
            return usage(format!("--connections may be 1 to {MAX_CONNECTIONS}"));
        }
        if let Some(missing) = self.ledgers.iter().find(|path| !path.is_file()) {
            return usage(format!("--ledger {}: there is no such file", missing.display()));
        }
        match self.schedule().total() {
            0 => usage("this rate over this duration is no order at all: raise --rate or --duration".into()),
            total if total > MAX_ACKS => usage(format!(
                "this would be {total} orders, and at most {MAX_ACKS} acknowledgements are kept for judging: lower --rate or --duration"
            )),
            _ => Ok(()),
        }
    }
}

/// A run couldn't be done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It was asked for wrongly.
    #[error("{0}")]
    Usage(String),
    /// No server at the address.
    #[error(
        "can't connect to {authority}: {source}; is the server up? Start one with `sluice serve --config sluice.toml` or `sluice demo --keep`"
    )]
    Connect {
        /// The address as given.
        authority: String,
        /// What the system says.
        source: io::Error,
    },
    /// The embedded data can't be used.
    #[error("the embedded orders can't be read: {0}; build again from a clean checkout")]
    Data(#[from] DataError),
    /// The thread or runtime that sends couldn't be started.
    #[error("can't start the sender: {0}")]
    Start(io::Error),
    /// The thread that sends ended before its work.
    #[error("the sender ended early, which is a defect: please report it with the message above")]
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LoadConfig {
        let merchant = Merchant { id: "m-1".into(), key: "k".into() };
        let target = "http://127.0.0.1:1".parse().unwrap();
        LoadConfig::new(target, vec![merchant], 100.0, Duration::from_secs(1))
    }

    fn refused(change: impl FnOnce(&mut LoadConfig)) -> String {
        let mut config = config();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_run_is_refused_with_the_next_step() {
        assert!(config().check().is_ok());
        assert!(refused(|config| config.merchants.clear()).contains("--merchant ID:KEY"));
        assert!(refused(|config| config.merchants[0].key = "a b".into()).contains("m-1"));
        assert!(refused(|config| config.rate = f64::NAN).contains("--rate"));
        assert!(refused(|config| config.rate = 0.5).contains("raise"));
        assert!(refused(|config| config.batch = NonZeroUsize::new(10_001)).contains("10000"));
        assert!(refused(|config| config.connections = NonZeroUsize::new(10_001)).contains("10000"));
        assert!(refused(|config| config.ledgers.push("/nowhere/ledger".into())).contains("/nowhere/ledger"));
        assert!(refused(|config| config.run = "a\"b".into()).contains("run"));
    }

    #[test]
    fn the_log_of_acknowledgements_is_bounded_beforehand() {
        let mut config = config();
        (config.rate, config.duration) = (1.0, Duration::from_secs(MAX_ACKS));
        assert!(config.check().is_ok());
        config.duration = Duration::from_secs(MAX_ACKS + 1);
        assert!(config.check().unwrap_err().to_string().contains("lower --rate"));
    }
}
