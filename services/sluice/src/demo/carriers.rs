//! The four simulated carriers of the demo, in a process of their own that can't outlive this one.
//!
//! Between them they do everything that carriers do to their callers. The one that isn't idempotent refuses and rejects,
//! but never leaves it open what became of a manifest: such shipments are parked for a person, and the demo shall end
//! with nothing left to do.

use std::{
    fmt::Write as _,
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::Engine as _;
use sluice_domain::Group;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::DemoError;
use crate::config::{CarrierConfig, Hidden};

/// How long the process may take to say where it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a call to a carrier may take, seconds: its silence shall not make the demo long.
const CALL_TIMEOUT_S: u32 = 1;

/// Time from one event of a shipment to the next, ms.
const STEP_MS: &str = "100";

/// A carrier as we know it, and as it really is.
struct Profile {
    id: &'static str,
    handling: &'static [Group],
    idempotent: bool,
    cost: u32,
    promised_days: u16,
    max_weight_g: u32,
    /// In the words of `sluice carrier-sim`.
    behaviour: &'static str,
}

/// Heaviest frozen parcel that any of them takes, grams.
pub const FROZEN_LIMIT_G: u32 = 20_000;
/// Heaviest parcel that any of them takes, grams.
pub const LIMIT_G: u32 = 30_000;
/// What `careful` really takes, although it promised [`LIMIT_G`].
pub const CAREFUL_REALLY_TAKES_G: u32 = 29_500;

const PROFILES: [Profile; 4] = [
    Profile {
        id: "swift",
        handling: &[Group::Chilled, Group::Ambient, Group::Frozen],
        idempotent: true,
        cost: 700,
        promised_days: 1,
        max_weight_g: FROZEN_LIMIT_G,
        behaviour: "latency_ms=2,latency_jitter_ms=4,error_429=0.02,retry_after_s=1,reject=0.01",
    },
    Profile {
        id: "polar",
        handling: &[Group::Chilled, Group::Frozen],
        idempotent: true,
        cost: 600,
        promised_days: 2,
        max_weight_g: FROZEN_LIMIT_G,
        behaviour: "latency_ms=6,latency_jitter_ms=8,error_5xx=0.05,malformed=0.02,timeout_after_accept=0.01",
    },
    Profile {
        id: "tortoise",
        handling: &[Group::Chilled, Group::Ambient],
        idempotent: true,
        cost: 350,
        promised_days: 5,
        max_weight_g: LIMIT_G,
        behaviour: "latency_ms=15,latency_jitter_ms=20,reset=0.05,omit_result=0.02,trickle=0.05",
    },
    Profile {
        id: "careful",
        handling: &[Group::AgeRestricted, Group::HazmatCheck, Group::LivePlant],
        idempotent: false,
        cost: 900,
        promised_days: 2,
        max_weight_g: LIMIT_G,
        behaviour: "idempotent=false,latency_ms=5,latency_jitter_ms=5,error_429=0.03,retry_after_s=1,max_weight_g=29500",
    },
];

/// The running carriers.
pub struct Fleet {
    child: Child,
    /// Their URL, without a slash at its end.
    pub url: String,
    /// What they write down.
    pub ledger: PathBuf,
    secret: String,
}

impl Fleet {
    /// Starts them, with their ledger in `folder`. They tell to the API at `api`, once they are asked to.
    ///
    /// # Errors
    /// [`DemoError::Carriers`].
    pub async fn start(folder: &Path, api: SocketAddr) -> Result<Self, DemoError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| DemoError::Carriers(format!("{what}: {error}"));
        let ledger = folder.join("ledger.tsv");
        let secret = secret();
        let program = std::env::current_exe().map_err(|e| failed("this program can't be found", &e))?;
        let mut command = Command::new(program);
        command.args(["carrier-sim", "--listen", "127.0.0.1:0", "--until-stdin-closes", "--ledger"]).arg(&ledger);
        for profile in &PROFILES {
            command.arg("--carrier").arg(format!("{}:{},silent=true", profile.id, profile.behaviour));
        }
        command.args(["--events-step-ms", STEP_MS, "--events-url"]).arg(format!("http://{api}"));
        command.env("SLUICE_CARRIER_SECRET", &secret).env("SLUICE_EVENTS_SECRET", &secret);
        // Its end of the pipe closes whatever ends this process, and then it ends, too.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| failed("can't be started", &e))?;
        let said = child.stdout.take().map(|out| BufReader::new(out).lines());
        let first = async {
            match said {
                Some(mut lines) => lines.next_line().await.ok().flatten(),
                None => None,
            }
        };
        let url = tokio::time::timeout(START_TIMEOUT, first).await.ok().flatten();
        let Some(url) = url.filter(|line| line.starts_with("http://")) else {
            return Err(failed("can't be started", &"they don't say where they listen"));
        };
        Ok(Self { child, url, ledger, secret })
    }

    /// The request that has a carrier tell what becomes of what it takes from now on, for each of them.
    pub fn requests_to_tell(&self) -> impl Iterator<Item = String> {
        let host = self.url.trim_start_matches("http://").to_owned();
        let body = r#"{"silent": false}"#;
        PROFILES.iter().map(move |profile| {
            let id = profile.id;
            format!(
                "POST /control/carriers/{id} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        })
    }

    /// Where they listen.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.url.trim_start_matches("http://").parse().ok()
    }

    /// What the pipeline is told about them.
    #[must_use]
    pub fn config(&self) -> Vec<CarrierConfig> {
        let carrier = |profile: &Profile| {
            let url = format!("{}/carriers/{}/manifests", self.url, profile.id);
            CarrierConfig {
                idempotent: profile.idempotent,
                voids: true,
                returns: true,
                cost: profile.cost,
                promised_days: profile.promised_days,
                max_weight_g: profile.max_weight_g,
                timeout_s: CALL_TIMEOUT_S,
                events_secret: Some(Hidden::new(self.secret.clone())),
                ..CarrierConfig::new(profile.id, url, &self.secret, profile.handling)
            }
        };
        PROFILES.iter().map(carrier).collect()
    }

    /// Ends them. Dropping does so, too, less politely.
    pub async fn stop(mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(END_TIMEOUT, self.child.wait()).await.is_err() {
            // If it can't be killed either, it is gone already.
            let _ = self.child.kill().await;
        }
    }
}

/// A secret for this run alone.
fn secret() -> String {
    let random = || RandomState::new().build_hasher().finish().to_le_bytes();
    let bytes: Vec<u8> = (0..4).flat_map(|_| random()).collect();
    let mut text = String::from("whsec_");
    // Writing into memory can't fail.
    let _ = write!(text, "{}", base64::engine::general_purpose::STANDARD.encode(bytes));
    text
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use sluice_carrier::{simulated::CarrierSpec, webhook::Secret};

    use super::*;

    #[test]
    fn behaviours_are_those_we_are_told_of() {
        for profile in &PROFILES {
            let spec = CarrierSpec::from_str(&format!("{}:{}", profile.id, profile.behaviour)).unwrap();
            assert_eq!(spec.behaviour.idempotent, profile.idempotent, "{}", profile.id);
            let b = &spec.behaviour;
            let open =
                b.error_5xx + b.reset_before + b.reset_after + b.timeout_after_accept + b.omit_result + b.malformed;
            assert!(profile.idempotent || open == 0.0, "{} would leave shipments parked", profile.id);
            let real = b.max_weight_g.unwrap_or(u64::from(profile.max_weight_g));
            assert!(real == u64::from(profile.max_weight_g) || real == u64::from(CAREFUL_REALLY_TAKES_G));
        }
        for group in Group::ALL {
            assert!(PROFILES.iter().any(|profile| profile.handling.contains(&group)), "{}", group.name());
        }
    }

    #[test]
    fn secrets_are_good_and_differ() {
        assert!(Secret::from_str(&secret()).is_ok());
        assert_ne!(secret(), secret());
    }
}
