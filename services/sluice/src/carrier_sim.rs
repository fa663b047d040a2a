//! `sluice carrier-sim`: simulated carriers in a process of their own.

use std::{io::Read, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use sluice_carrier::{
    simulated::{self, CarrierSpec, SimulatedCarrier, SimulatedConfig, SimulatedError, Telling},
    webhook::Secret,
};
use tokio::sync::oneshot;

use crate::{config::Hidden, exit, output, signals::Stop};

const EXAMPLES: &str = "\
Examples:
  sluice carrier-sim --listen 127.0.0.1:9090 --carrier swift --secret whsec_… --ledger ledger.tsv
  sluice carrier-sim --carrier swift:latency_ms=5,error_429=0.02 --carrier careful:idempotent=false \\
      --secret whsec_… --ledger ledger.tsv --seed 7
  sluice carrier-sim --carrier swift --secret whsec_… --ledger ledger.tsv \\
      --events-url http://127.0.0.1:8080 --events-secret whsec_…
  curl -d '{\"down\": true}' http://127.0.0.1:9090/control/carriers/swift
  curl http://127.0.0.1:9090/stats

Behaviour, as --carrier ID:KEY=VALUE,… and in the JSON of POST /control/carriers/ID (rates are from 0 to 1):
  idempotent            true: a shipment id seen before gets its first answer again, without a second effect [true]
  latency_ms            between the effect and the answer [0]; latency_jitter_ms adds up to as much
  reject                rate of shipments turned down for good [0]
  refuse_void           rate of voids refused although nothing has moved yet [0]
  max_weight_g          heavier shipments are turned down
  error_429             rate of manifests refused with 429; retry_after_s is what they are told [1]
  error_5xx             rate of manifests refused with 500 or 503
  reset_before/_after   rate of connections reset before/after the effect; reset is half of each
  timeout_after_accept  rate of manifests that have their effect and get no answer
  trickle               rate of answers that come trickle_bytes [64] every trickle_pause_ms [5]
  omit_result           rate of answers that leave one shipment out
  alien_result          rate of answers that name a shipment nobody asked for
  malformed             rate of answers that break off in the middle
  down                  true: every manifest is refused with 503 [false]
  silent                true: tells nothing of what it takes from now on [false]

Manifests go to POST /carriers/ID/manifests. The URL is printed on standard output; SIGTERM ends it.";

/// Runs simulated carriers that speak real HTTP, verify signatures and keep a ledger of every effect.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct CarrierSimArgs {
    /// Address and port; port 0 takes a free one. Anybody who can reach it can change the carriers: keep it on loopback
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// A carrier and how it behaves; repeat it for more
    #[arg(long = "carrier", value_name = "ID[:KEY=VALUE,…]", required = true, value_parser = CarrierSpec::from_str)]
    pub carriers: Vec<CarrierSpec>,
    /// What manifests must be signed with, whsec_…
    #[arg(long, env = "SLUICE_CARRIER_SECRET", hide_env_values = true, value_parser = secret)]
    pub secret: Hidden,
    /// Ledger file: created, or continued
    #[arg(long, value_name = "FILE")]
    pub ledger: PathBuf,
    /// Everything drawn by chance follows from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What carriers tell on their own.
    #[command(flatten)]
    pub telling: TellingArgs,
    /// End when standard input closes, and not by Ctrl-C: for a parent process that must not leave this behind
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// What carriers tell on their own.
#[derive(Debug, Clone, Args)]
pub struct TellingArgs {
    /// Sluice's API, such as http://127.0.0.1:8080, to which carriers tell when a shipment that they took is picked up, in
    /// transit, out for delivery and delivered; a tenth of it twice or out of order
    #[arg(long, value_name = "URL", requires = "events_secret")]
    pub events_url: Option<String>,
    /// What their events are signed with, whsec_…; the first, if there are several
    #[arg(long, env = "SLUICE_EVENTS_SECRET", hide_env_values = true, value_parser = secret)]
    pub events_secret: Option<Hidden>,
    /// Milliseconds from one event of a shipment to the next
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    pub events_step_ms: u32,
}

impl TellingArgs {
    fn read(&self) -> Result<Option<Telling>, String> {
        let (Some(url), Some(secret)) = (&self.events_url, &self.events_secret) else { return Ok(None) };
        // Whoever checks takes two while one replaces the other; the first is the new one.
        let first = secret.reveal().split_whitespace().next().unwrap_or_default();
        let secret = Secret::from_str(first).map_err(|error| format!("--events-secret: {error}"))?;
        let step = Duration::from_millis(self.events_step_ms.into());
        Telling::new(url, secret, step).map(Some).map_err(|problem| format!("--events-url: {problem}"))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a value parser")]
fn secret(text: &str) -> Result<Hidden, String> {
    // Checked later: a message of the command line's parser would repeat it.
    Ok(Hidden::new(text))
}

/// Runs the carriers until a signal or, if asked to, the end of standard input, and gives the exit code.
pub async fn command(args: CarrierSimArgs) -> u8 {
    let secret = match Secret::from_str(args.secret.reveal()) {
        Ok(secret) => secret,
        Err(error) => return fault(exit::USAGE, &format!("--secret: {error}")),
    };
    let tells = match args.telling.read() {
        Ok(tells) => tells,
        Err(problem) => return fault(exit::USAGE, &problem),
    };
    let carrier =
        |spec: CarrierSpec| SimulatedCarrier { id: spec.id, secret: secret.clone(), behaviour: spec.behaviour };
    let config = SimulatedConfig {
        carriers: args.carriers.into_iter().map(carrier).collect(),
        ledger: args.ledger,
        seed: args.seed,
        tells,
    };
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => return fault(exit::INTERNAL, &format!("signals can't be taken over: {error}")),
    };
    let bound = std::net::TcpListener::bind(args.listen).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = match bound {
        Ok(bound) => bound,
        Err(error) => return fault(exit::NO_ADDRESS, &format!("can't listen on {}: {error}", args.listen)),
    };
    let until_stdin_closes = args.until_stdin_closes;
    let shutdown = async move {
        if until_stdin_closes {
            tokio::select! {
                () = stdin_closed() => {}
                () = stop.terminated() => {}
            }
        } else {
            stop.next().await;
        }
    };
    // Connections are taken from here on, into the backlog.
    output::result(format_args!("http://{address}"));
    match Box::pin(simulated::serve(listener, config, shutdown)).await {
        Ok(()) => exit::OK,
        Err(error @ (SimulatedError::CarrierId(_) | SimulatedError::Behaviour { .. })) => {
            fault(exit::USAGE, &error.to_string())
        }
        Err(error) => fault(exit::IO, &error.to_string()),
    }
}

fn fault(code: u8, text: &str) -> u8 {
    output::fault(text);
    code
}

/// Resolves at the end of standard input. The thread that waits for it ends with the process.
async fn stdin_closed() {
    let (closed, is_closed) = oneshot::channel();
    let wait = move || {
        let mut nothing = [0; 256];
        while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
        // If nobody waits for it any more, that is fine, too.
        let _ = closed.send(());
    };
    match std::thread::Builder::new().name("stdin".into()).spawn(wait) {
        // An error means that the thread died, and with it the hope to learn of the end.
        Ok(_) => drop(is_closed.await),
        Err(error) => tracing::error!(%error, "can't watch standard input"),
    }
}
