//! A deployment for tests of commands that are run between the nodes' lives: its nodes start and end together, and it
//! remembers every order that was acknowledged, word for word.

use std::sync::Arc;

use serde_json::Value;
use sluice_engine_kafka_scylla::{Deployment, LogConfig, topics::read_deployment};

use crate::support::{
    client::Client,
    cluster::{Cluster, Taken, brokers},
    judge::{Acked, Classes, judge, never_acknowledged},
    orders::{BEER, ICE, PLANT, THING, YOGURT, now_ms, order_of},
    process::{Ended, Process},
    proxy::Weather,
    setup::{Carrier, GOOD},
    wait_for,
};

/// Two who take whatever they are asked to. One of them remembers nothing: asked twice, it takes twice.
const CARRIERS: &[Carrier] = &[
    Carrier { id: "good", more: "cost = 450", ..GOOD },
    Carrier { id: "careless", idempotent: false, behaviour: "idempotent=false", ..GOOD },
];

/// An acknowledged order, as it was posted.
pub struct Placed {
    pub key: String,
    pub body: String,
    pub id: String,
}

/// See the module.
pub struct Town {
    pub cluster: Cluster,
    pub placed: Vec<Placed>,
    pub shared: Taken,
}

impl Town {
    /// A deployment without nodes. `None`, with a word on standard error, if this machine can't run one.
    pub fn new(name: &str) -> Option<Self> {
        let shared = brokers()?;
        // Brokers that were given by address may have seen the same test before.
        let unique = format!("{name}_{:x}", now_ms());
        let cluster = Cluster::new(&unique, shared.brokers.kafka(), shared.brokers.store(), CARRIERS, 1);
        Some(Self { cluster, placed: Vec::new(), shared })
    }

    /// Starts a node of each of these roles, and waits until they are at work.
    pub fn start(&mut self, roles: &[&'static str]) {
        for role in roles {
            self.cluster.start_spare(role);
        }
        self.cluster.all_ready();
    }

    /// Ends every node that is up.
    pub fn stop(&mut self) -> Vec<Value> {
        self.cluster.assert_alive();
        let up: Vec<usize> = (0..self.cluster.nodes.len()).filter(|&n| self.cluster.is_up(n)).collect();
        self.cluster.drain(&up)
    }

    /// A node of this role that is up.
    pub fn client(&self, role: &str) -> Client {
        let number = self.cluster.of(role).into_iter().find(|&number| self.cluster.is_up(number));
        self.cluster.client(number.unwrap_or_else(|| panic!("no {role} node is up")))
    }

    /// The next order under a key of its own: several parcels of changing goods.
    pub fn next(number: usize) -> (String, String) {
        let goods = [(YOGURT, 2), (THING, 1), (ICE, 3), (PLANT, 1), (BEER, 2)];
        (format!("k-{number}"), order_of(&goods[number % 3..number % 3 + 3]).to_string())
    }

    /// Posts so many new orders, and remembers them.
    pub fn post(&mut self, count: usize) {
        let client = self.client("checkout");
        for _ in 0..count {
            let (key, body) = Self::next(self.placed.len());
            let id = client.order_text(&key, &body).id();
            self.placed.push(Placed { key, body, id });
        }
    }

    /// Posts every order once more, and asserts that each is answered as it was.
    pub fn repeat(&self) {
        let client = self.client("checkout");
        for Placed { key, body, id } in &self.placed {
            assert_eq!(&client.order_text(key, body).id(), id, "the answer to a repetition of {key}");
        }
    }

    /// Waits until everything is decided and told, and asserts that every order was finished, with one carrier for each
    /// parcel, and that carriers know of no others.
    pub fn settle(&self) {
        let key = &self.cluster.setup.merchants[0].1;
        let acked: Vec<Acked> = self.placed.iter().map(|p| Acked { id: p.id.clone(), key: key.clone() }).collect();
        let classes = judge(&self.cluster, &acked);
        assert_eq!(classes, Classes { finished: acked.len(), ..Classes::default() });
        assert_eq!(never_acknowledged(&self.cluster, &acked), 0, "orders that nobody was told of");
        self.cluster.wait_for_no_lag();
    }

    /// What is shown of every order now.
    pub fn views(&self) -> Vec<Value> {
        let client = self.client("status");
        self.placed.iter().map(|placed| client.view(&placed.id)).collect()
    }

    /// Runs a command on the deployment.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Process::run(self.cluster.command(arguments), self.cluster.folder(), arguments[0])
    }

    /// Runs a command on the deployment over a slow network, and kills it once it has logged `sign`. False, with a word on
    /// standard error, if there is no proxy to slow it down.
    pub fn kill_at(&self, sign: &str, arguments: &[&str]) -> bool {
        if self.shared.brokers.kafka_behind_proxy().is_none() {
            let brokers = self.shared.brokers.describe();
            sluice_brokers::skipped(format_args!("{arguments:?} is not killed on its way: no proxy before {brokers}"));
            return false;
        }
        let mut command = self.cluster.command(arguments);
        command.env("SLUICE_CLUSTER_BROKERS", self.shared.proxy.address());
        self.shared.proxy.set(Weather { delay_ms: 150, ..Weather::default() });
        let mut process = Process::start(command, self.cluster.folder(), &format!("{}-killed", arguments[0]));
        wait_for(&format!("{arguments:?} says {sign:?}"), || {
            assert!(process.ended().is_none(), "it ended before: {}", process.log());
            process.log().contains(sign).then_some(())
        });
        let ended = process.kill();
        self.shared.proxy.set(Weather::default());
        assert_eq!((ended.code, ended.out.as_str()), (None, ""), "it was done before it was killed");
        true
    }

    /// The map that is in force.
    pub fn deployment(&self) -> Deployment {
        read_deployment(&self.log()).unwrap()
    }

    /// The log, as its nodes have it.
    pub fn log(&self) -> LogConfig {
        let carriers = self.cluster.setup.carriers.iter().map(|carrier| Arc::from(carrier.id)).collect();
        let mut log = LogConfig::new(&self.cluster.kafka, carriers);
        log.prefix.clone_from(&self.cluster.name);
        log
    }
}

/// Asserts that a command was refused because nodes run or something is left to do, and that it said so in these words.
#[track_caller]
pub fn assert_refused(ended: &Ended, words: &[&str]) {
    assert_eq!((ended.code, ended.out.as_str()), (Some(3), ""), "{}", ended.log);
    for word in words {
        assert!(ended.log.contains(word), "{word:?} is not in: {}", ended.log);
    }
}
