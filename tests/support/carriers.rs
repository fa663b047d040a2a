//! The simulated carriers, in a process of their own that lives as long as the test and outlives every server.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use sluice_carrier::simulated::Ledger;

use super::{
    client::Client,
    process::{Process, program},
    setup::{Carrier, EVENTS_SECRET, SECRET},
    wait_for,
};

/// Running carriers.
pub struct Carriers {
    process: Process,
    /// Without a slash at its end.
    pub url: String,
    ledger: PathBuf,
}

impl Carriers {
    /// Starts them, with their ledger in `folder`.
    pub fn start(folder: &Path, carriers: &[Carrier], seed: u64) -> Self {
        Self::telling(folder, carriers, seed, None)
    }

    /// … with what they tell, if they do, going to this address, so many milliseconds after one another.
    pub fn telling(folder: &Path, carriers: &[Carrier], seed: u64, tells: Option<(SocketAddr, u32)>) -> Self {
        let ledger = folder.join("ledger.tsv");
        let mut command = program(&["carrier-sim", "--until-stdin-closes", "--secret", SECRET, "--ledger"]);
        command.arg(&ledger).arg("--seed").arg(seed.to_string());
        for Carrier { id, behaviour, .. } in carriers {
            command.arg("--carrier").arg(format!("{id}:{behaviour}"));
        }
        if let Some((address, step_ms)) = tells {
            command.args(["--events-secret", EVENTS_SECRET, "--events-url", &format!("http://{address}")]);
            command.arg("--events-step-ms").arg(step_ms.to_string());
        }
        let mut process = Process::start(command, folder, "carriers");
        let url = wait_for("the carriers' URL", || {
            assert!(process.ended().is_none(), "the carriers ended: {}", process.log());
            let said = process.out();
            said.strip_suffix('\n').map(str::to_owned)
        });
        Self { process, url, ledger }
    }

    /// Changes a carrier's behaviour from its next manifest on.
    pub fn change(&self, carrier: &str, patch: &str) {
        let answer = self.client().send(&format!("POST /control/carriers/{carrier}"), &[], patch.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// What a carrier counts under this name.
    pub fn count(&self, carrier: &str, name: &str) -> u64 {
        let stats = self.client().get("/stats").json();
        let count = stats.pointer(&format!("/carriers/{carrier}/{name}"));
        count.and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{carrier} {name}: {stats}"))
    }

    /// What they told, by what became of it.
    pub fn told(&self, what: &str) -> u64 {
        let stats = self.client().get("/stats").json();
        stats["told"][what].as_u64().unwrap_or_else(|| panic!("{what}: {stats}"))
    }

    fn client(&self) -> Client {
        Client::new(self.url.strip_prefix("http://").unwrap().parse().unwrap(), "")
    }

    /// What they wrote down.
    pub fn ledger(&self) -> Ledger {
        Ledger::read(&self.ledger).unwrap()
    }

    /// Asserts that they are still up.
    pub fn assert_alive(&mut self) {
        assert!(self.process.ended().is_none(), "the carriers ended: {}", self.process.log());
    }
}
