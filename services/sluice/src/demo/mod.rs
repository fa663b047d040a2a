//! `sluice demo`: the whole pipeline on this machine, shown and proved in a few seconds.
//!
//! * [`carriers`]: four simulated carriers, in a process of their own.
//! * [`orders`]: what is posted; [`traffic`]: how, and what is measured meanwhile.
//! * [`proof`]: what became of every order, by id; [`journeys`]: two orders to their end; [`report`]: how that is said.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sluice_carrier::simulated::LedgerError;
use sluice_data::DataError;
use tempfile::TempDir;

mod carriers;
mod journeys;
mod orders;
mod proof;
mod report;
mod running;
mod traffic;

pub use journeys::Journey;
pub use report::{DemoLatencies, DemoReport};

use crate::{
    config::{Config, MerchantConfig},
    exit,
    load::format_id,
    output::{self, count},
    server::Server,
    signals::Stop,
    topology::{Pipeline, StartError},
};
use carriers::Fleet;
use orders::Plan;
use running::Running;
use traffic::{Api, Sent};

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);
/// How long the pipeline may take to end.
const DRAIN: Duration = Duration::from_secs(3);

const EXAMPLES: &str = "\
Examples:
  sluice demo
  sluice demo --orders 200000
  sluice demo --json | jq .latency_ms
  sluice demo --keep                   # leaves it running, with three curl lines to try
  sluice demo --cluster                # the same on Kafka and a CQL store, which are started if need be

Latencies: ack and status by the client's clock, classified and carrier by the time line that the API shows.
Exit codes: 0 conserved; 1 an order lost, doubled or left in flight; 130 interrupted; others as in `sluice --help`.";

/// Runs the pipeline on a temporary data folder, posts real orders over HTTP, and proves from the carriers' ledger and the
/// public API that each acknowledged order has reached exactly one end.
///
/// Baskets, products and prices are real data; addresses and the hurry are not. Some orders are posted twice, and a few are
/// planted that nobody can carry. The carriers refuse, fail, time out, reset connections and turn parcels down.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Orders to post
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    pub orders: u64,
    /// Print one JSON object instead of the tables
    #[arg(long)]
    pub json: bool,
    /// Leave it running at the end, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Run on Kafka and ScyllaDB: those at SLUICE_TEST_KAFKA and SLUICE_TEST_STORE, else in containers, else Apache Kafka and
    /// Apache Cassandra as processes, fetched by Maven
    #[arg(long)]
    pub cluster: bool,
    /// Address and port of the API; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
}

/// The demo can't be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// No temporary folder.
    #[error("no temporary folder: {0}; TMPDIR says where it shall be")]
    Folder(std::io::Error),
    /// The simulated carriers.
    #[error("the simulated carriers: {0}")]
    Carriers(String),
    /// The pipeline.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The brokers.
    #[error("no brokers: {0}")]
    Brokers(#[from] sluice_brokers::Missing),
    /// The orders.
    #[error("the embedded orders can't be read: {0}")]
    Data(#[from] DataError),
    /// An order was turned down.
    #[error("a good order was turned down: {0}")]
    TurnedDown(String),
    /// No answer.
    #[error("an order got no answer: {0}")]
    Unanswered(String),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The pipeline failed on the way.
    #[error("the pipeline has failed: {0}")]
    Failed(String),
    /// A task of the demo itself ended early.
    #[error("a part of the demo ended early, which is a defect: please report it with the message above")]
    Broken,
}

impl DemoError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Start(error) => error.exit_code(),
            Self::Folder(_) | Self::Ledger(_) | Self::Failed(_) => exit::IO,
            Self::TurnedDown(_) | Self::Unanswered(_) => exit::FOUND_WRONG,
            Self::Brokers(_) => exit::NO_SERVER,
            Self::Carriers(_) | Self::Data(_) | Self::Broken => exit::INTERNAL,
        }
    }
}

/// Gives the demo, and the exit code.
pub async fn command(args: DemoArgs) -> u8 {
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => {
            output::fault(format_args!("signals can't be taken over: {error}"));
            return exit::INTERNAL;
        }
    };
    // Dropped half-way, everything that was started goes with it: the carriers' process, the folder, the pipeline.
    let given = tokio::select! {
        given = Box::pin(give(&args)) => given,
        (_, code) = stop.next() => return code,
    };
    let (stage, report) = match given {
        Ok(given) => given,
        Err(error) => {
            output::fault(&error);
            return error.exit_code();
        }
    };
    if args.json {
        output::json(&report);
    } else {
        output::result(report.text());
    }
    if args.keep {
        stage.invite();
        stop.next().await;
    }
    Box::pin(stage.close()).await;
    if report.conserved { exit::OK } else { exit::FOUND_WRONG }
}

/// Everything that runs.
struct Stage {
    engine: Running,
    fleet: Fleet,
    plan: Arc<Plan>,
    /// Some order to look at, with its merchant.
    sample: Option<(u128, usize)>,
    folder: TempDir,
}

async fn give(args: &DemoArgs) -> Result<(Stage, DemoReport), DemoError> {
    let folder = tempfile::Builder::new().prefix("sluice-demo-").tempdir().map_err(DemoError::Folder)?;
    let bar = Bar::new(args.orders);
    bar.say("starting");
    let plan = Arc::new(Plan::new(args.orders)?);
    // Held, so that carriers can be told where to tell before anybody listens there.
    let no_address = |source| StartError::Listen { address: args.listen, source };
    let held = Server::reserve(args.listen).map_err(no_address)?;
    let listen = held.local_addr().map_err(no_address)?;
    let fleet = Fleet::start(folder.path(), listen).await?;
    let merchants = plan.merchants.iter().map(|merchant| MerchantConfig::new(&merchant.id, &merchant.key));
    let config = Config {
        listen,
        data_dir: folder.path().join("data"),
        merchants: merchants.collect(),
        carriers: fleet.config(),
        ..Config::default()
    };
    let engine = match args.cluster {
        true => Box::pin(Running::cluster(config)).await?,
        false => Running::Embedded(Box::new(Box::pin(Pipeline::start(config)).await?)),
    };
    let address = engine.address();
    let tells_repetitions = matches!(engine, Running::Embedded(_));
    let api = Api { address, authority: address.to_string(), tells_repetitions };
    let work = async {
        bar.say("posting");
        let sent = bar.follow(|done| Box::pin(traffic::send(&plan, &api, done))).await?;
        let acked = Arc::new(sent.acked.clone());
        bar.say("proving");
        let ledger = &fleet.ledger;
        let proof = bar.follow(|done| Box::pin(proof::prove(&plan, &api, Arc::clone(&acked), ledger, done))).await?;
        let merchant = plan.merchants.first().ok_or(DemoError::Broken)?;
        let journeys = Box::pin(journeys::travel(&api, merchant, &fleet)).await?;
        Ok::<_, DemoError>((sent, proof, journeys))
    };
    let (sent, proof, journeys): (Sent, proof::Proof, _) = tokio::select! {
        done = Box::pin(work) => done?,
        why = engine.failure() => return Err(DemoError::Failed(why)),
    };
    drop(held);
    let report = DemoReport::new(&sent, sent.acked.len() as u64, plan.planted.len() as u64, &proof, journeys);
    let sample = sent.acked.first().map(|order| (order.id, order.merchant));
    Ok((Stage { engine, fleet, plan, sample, folder }, report))
}

impl Stage {
    /// Says how to go on by hand.
    fn invite(&self) {
        let url = format!("http://{}", self.engine.address());
        let (id, merchant) = self.sample.unwrap_or_default();
        let key = self.plan.merchants.get(merchant).map_or("", |merchant| &merchant.key);
        let id = format_id(id);
        let id = String::from_utf8_lossy(&id);
        output::note(format_args!(
            "
It is still running; Ctrl-C ends it and removes its folder.
  API       {url}   (description: {url}/openapi.json)
  carriers  {carriers}/stats
  data      {folder}

Post an order, read one, see what is measured:
  curl -i {url}/v1/orders -H 'Authorization: Bearer {key}' -H 'Idempotency-Key: try-1' -H 'Content-Type: application/json' -d '{{\"customer\":\"c-1\",\"placed_at\":\"'$(date -u +%FT%TZ)'\",\"currency\":\"USD\",\"ship_to\":{{\"name\":\"Ada\",\"street\":\"1 Main St\",\"city\":\"Springfield\",\"postal_code\":\"01101\",\"country\":\"US\"}},\"lines\":[{{\"sku\":\"1029743\",\"title\":\"MILK | 1 GA\",\"quantity\":2,\"unit_price\":349}}]}}'
  curl -s {url}/v1/orders/{id} -H 'Authorization: Bearer {key}'
  curl -s {url}/metrics",
            carriers = self.fleet.url,
            folder = self.folder.path().display(),
        ));
    }

    /// Ends everything and removes the folder.
    async fn close(self) {
        let receipt = Box::pin(self.engine.drain(DRAIN)).await;
        tracing::info!(?receipt, "drained");
        self.fleet.stop().await;
        if let Err(error) = self.folder.close() {
            output::note(format_args!("the temporary folder could not be removed: {error}"));
        }
    }
}

/// The progress bar, on standard error; nothing if that isn't a terminal.
struct Bar {
    bar: ProgressBar,
    total: u64,
}

impl Bar {
    fn new(total: u64) -> Self {
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template("{prefix:>9} [{bar:32}] {human_pos}/{human_len} orders {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, total }
    }

    fn say(&self, what: &'static str) {
        self.bar.set_prefix(what);
        self.bar.set_position(0);
        self.bar.tick();
    }

    /// Runs `work`, which counts, and shows the count.
    async fn follow<F: Future + Unpin>(&self, work: impl FnOnce(Arc<AtomicU64>) -> F) -> F::Output {
        let done = Arc::new(AtomicU64::new(0));
        let started = std::time::Instant::now();
        let mut work = work(Arc::clone(&done));
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = tokio::time::sleep(TICK) => {
                    let now = done.load(Relaxed).min(self.total);
                    self.bar.set_position(now);
                    let rate = now as f64 / started.elapsed().as_secs_f64();
                    self.bar.set_message(format!("{}/s", count(rate as u64)));
                }
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
