//! One run of a fault: orders are posted and read all the while, the fault happens, and when everything has settled what
//! became of the orders is judged from the clients' acknowledgements and the carriers' ledger.
//!
//! `SLUICE_FAULT_RUNS` says how often each fault is run, each time with another seed (1); `SLUICE_TEST_SEED` moves the
//! seeds; with `SLUICE_FAULT_FULL` outages last as long as they are promised to be survived.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use sluice::load::{LoadConfig, Merchant, Sending};

use crate::support::{
    Random, block_on,
    client::Client,
    cluster::{Cluster, Shared, Taken, brokers},
    judge::{Acked, Court, acknowledged, judge, never_acknowledged},
    orders::now_ms,
    setup::{ALL, Carrier, GOOD},
    wait_at_most,
    witness::{Witness, assert_cancelled, assert_conserved, assert_reviewed},
};

/// Remembers its answers, is slow at times, and fails in most ways that a carrier may fail.
const SWIFT: Carrier = Carrier {
    id: "swift",
    handling: &["chilled", "ambient", "frozen", "hazmat_check"],
    more: "timeout_s = 2\ncost = 400",
    behaviour: "latency_ms=5,latency_jitter_ms=15,error_429=0.03,retry_after_s=0,error_5xx=0.02,reset=0.04,reject=0.03,\
                omit_result=0.02",
    ..GOOD
};
/// Slow, and turns some down.
const STEADY: Carrier = Carrier {
    id: "steady",
    handling: ALL,
    behaviour: "latency_ms=20,latency_jitter_ms=20,reject=0.03,error_429=0.02,retry_after_s=0",
    ..GOOD
};
/// Remembers nothing: what it may have been asked must never be asked again.
const CARELESS: Carrier = Carrier {
    id: "careless",
    idempotent: false,
    more: "cost = 450\nmanifest_shipments = 50",
    behaviour: "idempotent=false,latency_ms=3,latency_jitter_ms=5,reject=0.02,error_429=0.05,retry_after_s=0,reset=0.02",
    ..GOOD
};
/// Who carries in every run.
const CARRIERS: &[Carrier] = &[SWIFT, STEADY, CARELESS];

/// Orders a second, one a request; and as many again in batches.
const RATE: f64 = 80.0;
/// Orders of a batch.
const BATCH: usize = 20;
/// Orders acknowledged before a fault and after it.
const BEFORE: u64 = 150;
const AFTER: u64 = 150;
/// Readings of its orders that the witness must have made.
const READS: u64 = 20;
/// How long orders may go unacknowledged once the fault is over.
const RECOVERY: Duration = Duration::from_secs(120);

/// What a fault works on.
pub struct Run<'a> {
    pub cluster: &'a mut Cluster,
    pub shared: &'a mut Shared,
    pub random: Random,
    sendings: Vec<Sending>,
}

impl Run<'_> {
    /// Orders acknowledged in this run so far.
    pub fn acknowledged(&self) -> u64 {
        self.sendings.iter().map(|sending| sending.snapshot().done).sum()
    }

    /// Waits until so many further orders are acknowledged.
    #[track_caller]
    pub fn flow(&mut self, more: u64) {
        let enough = self.acknowledged() + more;
        wait_at_most(RECOVERY, "orders are acknowledged", || {
            self.cluster.assert_alive();
            (self.acknowledged() >= enough).then_some(())
        });
    }
}

/// Not to wait for anything: the fault goes on for so long.
pub fn last(duration: Duration) {
    std::thread::sleep(duration);
}

/// Whether outages last as long as they are promised to be survived.
pub fn full() -> bool {
    std::env::var_os("SLUICE_FAULT_FULL").is_some_and(|value| value != "0")
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// What a fault is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nodes alone: broker and store may be anybody's.
    Nodes,
    /// Broker or store, which must be ours.
    Kills,
    /// Connections to the broker.
    Proxy,
}

/// Where a scenario runs.
pub struct Stage {
    pub cluster: Cluster,
    acked: Vec<Acked>,
    finished: usize,
    name: &'static str,
    shared: Taken,
}

impl Stage {
    /// A deployment of its own without nodes. `None`, with a word on standard error, if this machine can't run one or what
    /// is needed can't be done to it.
    pub fn new(name: &'static str, needs: Needs) -> Option<Self> {
        let shared = brokers()?;
        let possible = match needs {
            Needs::Nodes => true,
            Needs::Kills => shared.brokers.can_kill(),
            Needs::Proxy => shared.brokers.kafka_behind_proxy().is_some(),
        };
        if !possible {
            sluice_brokers::skipped(format_args!("nothing can be done to {}", shared.brokers.describe()));
            return None;
        }
        let kafka = if needs == Needs::Proxy { shared.proxy.address() } else { shared.brokers.kafka().to_owned() };
        // Brokers that were given by address may have seen the same test before.
        let unique = format!("{name}_{:x}", now_ms());
        let cluster = Cluster::new(&unique, &kafka, shared.brokers.store(), CARRIERS, 1);
        Some(Self { cluster, acked: Vec::new(), finished: 0, name, shared })
    }

    /// Two nodes of each role.
    pub fn start_nodes(&mut self) {
        for role in ["checkout", "checkout", "classify", "classify", "carrier", "carrier", "status", "status"] {
            self.cluster.add(role);
        }
        self.cluster.all_ready();
    }

    /// Runs `fault` as often as asked for, then asks every node to end.
    pub fn run(mut self, mut fault: impl FnMut(&mut Run<'_>)) {
        let moved = 1_000 * number("SLUICE_TEST_SEED", 0);
        for seed in 1..=number("SLUICE_FAULT_RUNS", 1) {
            self.one(moved + seed, seed, &mut fault);
        }
        self.cluster.assert_alive();
        let up: Vec<usize> = (0..self.cluster.nodes.len()).filter(|&n| self.cluster.is_up(n)).collect();
        let receipts = self.cluster.drain(&up);
        for receipt in &receipts {
            assert_eq!(receipt["left_in_journal"], 0, "{receipt}");
        }
    }

    /// Run number `number` of this test.
    fn one(&mut self, seed: u64, number: u64, fault: &mut impl FnMut(&mut Run<'_>)) {
        eprintln!("{} seed {seed}: begins", self.name);
        let (name, nodes) = (self.name, self.cluster.of("checkout"));
        let sendings = nodes.iter().zip([None, NonZeroUsize::new(BATCH)]);
        let sendings: Vec<Sending> = sendings.map(|(&node, batch)| self.send(node, batch, seed)).collect();
        let posters = nodes.iter().map(|&node| self.cluster.client(node)).collect();
        let readers = self.cluster.of("status").iter().map(|&node| self.cluster.client(node)).collect();
        let witness = Witness::apart(posters, readers, &format!("{name}-{seed}"));
        let mut run = Run { cluster: &mut self.cluster, shared: &mut self.shared, random: Random::new(seed), sendings };
        run.flow(BEFORE);
        fault(&mut run);
        run.flow(AFTER);
        let over = Instant::now();
        let sendings = run.sendings;
        self.cluster.all_ready();
        let mut unanswered = 0;
        let before = self.acked.len();
        sendings.iter().for_each(Sending::stop);
        for mut sending in sendings {
            let sent = block_on(sending.finish()).unwrap();
            let tally = &sent.tally;
            assert_eq!((tally.rejected, tally.not_taken), (0, 0), "{:?} {:?}", tally.statuses, tally.first_problem);
            assert_eq!(tally.unanswered, 0, "{:?} {:?}", tally.statuses, tally.first_problem);
            unanswered += tally.unanswered;
            self.acked.extend(acknowledged(&self.cluster, &sent.acks));
        }
        wait_at_most(RECOVERY, "the witness can read", || (witness.reads() >= READS).then_some(()));
        let testimony = witness.finish();
        let key = self.cluster.client(0).key;
        self.acked.extend(testimony.orders.iter().map(|id| Acked { id: id.clone(), key: key.clone() }));
        let accepted = self.acked.len() - before;
        assert!(accepted as u64 >= BEFORE + AFTER, "only {accepted} acknowledged: the run says nothing");
        // Orders of earlier runs too: nothing may be taken back later.
        let classes = judge(&self.cluster, &self.acked);
        let settled = over.elapsed();
        for (nth, id) in testimony.orders.iter().enumerate() {
            let reader = Client { address: self.cluster.address(), ..self.cluster.client(0) };
            assert_conserved(nth, &reader.view(id));
        }
        for id in &testimony.cancelled {
            let reader = Client { address: self.cluster.address(), ..self.cluster.client(0) };
            assert_cancelled(&reader.view(id));
        }
        for (parcel, handling) in &testimony.reviewed {
            let reader = Client { address: self.cluster.address(), ..self.cluster.client(0) };
            assert_reviewed(&reader, parcel, handling);
        }
        self.cluster.wait_for_no_lag();
        // In each run the witness may have been stopped between an order and its answer.
        let unknown = never_acknowledged(&self.cluster, &self.acked) as u64;
        assert!(unknown <= unanswered + number, "carriers know {unknown} orders that nobody was told of");
        self.cluster.assert_alive();
        assert!(testimony.denied.is_empty(), "said not to be there, and acknowledged: {:?}", testimony.denied);
        assert!(classes.finished > self.finished, "nothing was finished");
        self.finished = classes.finished;
        eprintln!(
            "{name} seed {seed}: {accepted} acknowledged, {} in all runs: {classes:?}, {} readings, settled in {:.1} s, \
             lag gone in {:.1} s",
            self.acked.len(),
            testimony.reads,
            settled.as_secs_f64(),
            over.elapsed().as_secs_f64()
        );
    }

    fn send(&self, node: usize, batch: Option<NonZeroUsize>, seed: u64) -> Sending {
        let merchants = self.cluster.setup().merchants.iter();
        let merchants = merchants.map(|(id, key)| Merchant { id: id.clone(), key: key.clone() }).collect();
        let target = format!("http://{}", self.cluster.nodes[node].address).parse().unwrap();
        let config = LoadConfig {
            batch,
            connections: NonZeroUsize::new(if batch.is_some() { 4 } else { 16 }),
            seed,
            run: format!("{}-{seed}-{node}", self.name),
            // Nobody gives up: whatever is sent has an answer in the end.
            request_timeout: Duration::from_secs(20),
            give_up_after: Duration::from_secs(300),
            drain: Duration::from_secs(120),
            ..LoadConfig::new(target, merchants, RATE, Duration::from_secs(900))
        };
        block_on(Sending::start(config)).unwrap()
    }
}
