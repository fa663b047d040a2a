//! kill -9 at random moments under load, each followed by a start on the same folder and port, while the carriers stay
//! up and misbehave.

use std::{num::NonZeroUsize, time::Duration};

use sluice::load::{LoadConfig, Merchant, Sending, Sent};

use crate::support::{
    Random, block_on,
    judge::{Acked, Classes, acknowledged, judge, never_acknowledged},
    setup::{Carrier, GOOD, OPERATOR_KEY, Setup},
    wait_for,
    witness::{Testimony, Witness, assert_cancelled, assert_reviewed},
    world::{Server, World},
};

/// Fails in every way that a carrier may fail, and remembers its answers.
const SWIFT: Carrier = Carrier {
    id: "swift",
    handling: &["chilled", "ambient", "frozen", "hazmat_check"],
    more: "timeout_s = 1\ncost = 400",
    behaviour: "latency_ms=4,latency_jitter_ms=8,error_429=0.05,retry_after_s=0,error_5xx=0.03,reset=0.08,reject=0.02,\
                timeout_after_accept=0.01,omit_result=0.02,malformed=0.02",
    ..GOOD
};
/// Slow, and turns some down.
const STEADY: Carrier = Carrier {
    id: "steady",
    behaviour: "latency_ms=25,latency_jitter_ms=10,reject=0.03,error_429=0.02,retry_after_s=0",
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

/// What the witness reads at least between two kills.
const READS: u64 = 40;

/// A run with many kills.
struct Storm {
    name: &'static str,
    seed: u64,
    /// Under load; those during a start come on top.
    kills: u32,
    carriers: &'static [Carrier],
    /// Orders a second that are intended; the server takes what it can.
    rate: f64,
    batch: Option<usize>,
    /// Numbers of owners, in turn.
    partitions: &'static [u16],
    /// Acknowledgements below which the run says nothing.
    least: usize,
}

impl Storm {
    /// Its own, moved by `SLUICE_TEST_SEED` for whoever looks for more.
    fn seed(&self) -> u64 {
        let moved = std::env::var("SLUICE_TEST_SEED").map_or(0, |text| text.parse::<u64>().unwrap());
        self.seed + 1_000 * moved
    }

    fn setup(&self, start: u32) -> Setup {
        let partitions = self.partitions[start as usize % self.partitions.len()];
        // Checkpoints all the time, so that kills meet them in every phase.
        let top = format!(
            "checkpoint_mb = 1\nhot_mb = 1\npartitions = {partitions}\nplaced_at_window_s = 3600\noperator_key = {OPERATOR_KEY:?}\n"
        );
        Setup::new(self.carriers).with(&top)
    }

    fn load(&self, world: &World) -> LoadConfig {
        let merchants = world.setup.merchants.iter();
        let merchants = merchants.map(|(id, key)| Merchant { id: id.clone(), key: key.clone() }).collect();
        let target = format!("http://{}", world.address()).parse().unwrap();
        LoadConfig {
            batch: self.batch.and_then(NonZeroUsize::new),
            connections: NonZeroUsize::new(if self.batch.is_some() { 4 } else { 48 }),
            seed: self.seed(),
            // Nobody gives up: whatever is sent has an answer in the end.
            give_up_after: Duration::from_secs(120),
            drain: Duration::from_secs(120),
            ..LoadConfig::new(target, merchants, self.rate, Duration::from_secs(600))
        }
    }

    /// Runs it, judges it, and gives what became of the orders.
    fn run(&self) -> Classes {
        let mut world = World::new(self.setup(0));
        let server = world.serve();
        let witness = Witness::start(world.client(), self.name);
        let (server, early, sent) = self.rage(&mut world, server, &witness);
        world.carriers.assert_alive();
        let testimony = witness.finish();
        let acked = self.assert_sound(&world, &sent, &testimony);
        let classes = judge(&world, &acked);
        testimony.cancelled.iter().for_each(|id| assert_cancelled(&world.client().view(id)));
        assert!(testimony.reviewed.len() >= 2, "hardly anything waited for a person");
        for (parcel, handling) in &testimony.reviewed {
            assert_reviewed(&world.client(), parcel, handling);
        }
        let waiting = world.client_of(OPERATOR_KEY).get("/v1/review").json();
        assert_eq!(waiting["items"].as_array().map(Vec::len), Some(0), "{waiting}");
        let unknown = never_acknowledged(&world, &acked) as u64;
        assert!(unknown <= sent.tally.unanswered, "carriers know {unknown} orders that nobody was told of");
        self.assert_counts(&server, &acked, &sent);
        let checkpoints = checkpoints(&world);
        assert!(checkpoints >= 3, "only {checkpoints} checkpoints: the kills can't have met them");
        eprintln!(
            "{}: {} kills and {early} during a start, {checkpoints} checkpoints, {} acknowledged ({} after a retry), \
             {classes:?}, {} readings of which {} by the next server",
            self.name,
            self.kills,
            acked.len(),
            sent.tally.retried,
            testimony.reads,
            testimony.across_restarts
        );
        let receipt = server.drain();
        assert_eq!(receipt["left_in_journal"], classes.parked, "{receipt}");
        let again = judge_again(&world, &acked);
        assert_eq!(again, classes, "a restart in peace changes nothing");
        classes
    }

    /// The kills. Gives the last server, which is up, how many were killed during their start, and what the client brings
    /// back.
    fn rage(&self, world: &mut World, mut server: Server, witness: &Witness) -> (Server, u32, Sent) {
        let mut random = Random::new(self.seed());
        let mut sending = block_on(Sending::start(self.load(world))).unwrap();
        let (mut starts, mut early) = (0, 0);
        for _ in 0..self.kills {
            let (half, reads) = (self.rate as u64 / 2, witness.reads() + READS);
            let enough = sending.snapshot().done + half + random.below(half);
            wait_for("orders are acknowledged and read", || {
                (sending.snapshot().done >= enough && witness.reads() >= reads).then_some(())
            });
            // Not to wait for anything: this is the moment of the kill.
            std::thread::sleep(random.moment(50));
            assert!(server.is_alive(), "the server ended by itself: {}", server.log());
            server.kill();
            starts += 1;
            world.setup = self.setup(starts);
            while random.below(2) == 0 {
                // While it recovers, or has just begun to serve.
                let starting = world.launch();
                std::thread::sleep(random.moment(200));
                starting.kill();
                early += 1;
            }
            server = world.serve();
        }
        let enough = sending.snapshot().done + self.rate as u64 / 2;
        wait_for("orders are acknowledged after the last kill", || (sending.snapshot().done >= enough).then_some(()));
        sending.stop();
        let sent = block_on(sending.finish()).unwrap();
        (server, early, sent)
    }

    /// Asserts that the client's side of the run is as it must be, and gives all acknowledgements.
    fn assert_sound(&self, world: &World, sent: &Sent, testimony: &Testimony) -> Vec<Acked> {
        let tally = &sent.tally;
        let problem = &tally.first_problem;
        assert_eq!((tally.rejected, tally.not_taken, tally.unanswered), (0, 0, 0), "{:?} {problem:?}", tally.statuses);
        assert!(tally.retried > 0, "no kill left a request without its answer");
        assert!(testimony.orders.len() >= 10 && testimony.across_restarts >= 60, "the witness saw too little");
        let mut acked = acknowledged(world, &sent.acks);
        assert!(acked.len() >= self.least, "only {} acknowledged: the run says nothing", acked.len());
        let key = world.client().key;
        acked.extend(testimony.orders.iter().map(|id| Acked { id: id.clone(), key: key.clone() }));
        acked
    }

    /// Asserts that the server counts the same orders: those acknowledged, and none besides.
    fn assert_counts(&self, server: &Server, acked: &[Acked], sent: &Sent) {
        let of_class = |class| server.metric(&format!("sluice_orders{{class=\"{class}\"}}")).unwrap();
        let counted = ["in_flight", "finished", "dead_lettered"].map(of_class).iter().sum::<f64>();
        let most = acked.len() as u64 + sent.tally.unanswered;
        // The witness may have been stopped between an order and its answer.
        assert!(
            (acked.len() as f64..=(most + 1) as f64).contains(&counted),
            "{counted} counted, {} known",
            acked.len()
        );
    }
}

fn judge_again(world: &World, acked: &[Acked]) -> Classes {
    let server = world.serve();
    let classes = judge(world, acked);
    server.kill();
    classes
}

fn checkpoints(world: &World) -> usize {
    let logs = std::fs::read_dir(world.folder()).unwrap().map(|entry| entry.unwrap().path());
    let logs = logs.filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.map(|path| std::fs::read_to_string(path).unwrap().matches(" checkpoint number=").count()).sum()
}

#[test]
fn single_orders_survive_kills() {
    let storm = Storm {
        name: "singles",
        seed: 1,
        kills: 6,
        carriers: &[SWIFT, STEADY],
        rate: 3_000.0,
        batch: None,
        partitions: &[2],
        least: 9_000,
    };
    let classes = storm.run();
    assert_eq!(classes.parked, 0, "carriers that remember can always be asked again");
    assert!(classes.finished >= storm.least);
}

#[test]
fn batches_survive_kills() {
    let storm = Storm {
        name: "batches",
        seed: 2,
        kills: 6,
        carriers: &[SWIFT, STEADY],
        rate: 6_000.0,
        batch: Some(250),
        partitions: &[2],
        least: 18_000,
    };
    let classes = storm.run();
    assert_eq!(classes.parked, 0, "carriers that remember can always be asked again");
    assert!(classes.finished >= storm.least);
}

#[test]
fn a_careless_carrier_is_never_asked_twice_across_kills() {
    let storm = Storm {
        name: "careless",
        seed: 3,
        kills: 6,
        carriers: &[SWIFT, STEADY, CARELESS],
        rate: 3_000.0,
        batch: None,
        partitions: &[2],
        least: 9_000,
    };
    let classes = storm.run();
    assert!(classes.parked > 0, "no kill left it open what the careless carrier had done");
    assert!(classes.finished >= storm.least / 2, "{classes:?}");
}

#[test]
fn owners_may_change_from_kill_to_kill() {
    let storm = Storm {
        name: "owners",
        seed: 4,
        kills: 6,
        carriers: &[SWIFT, CARELESS],
        rate: 4_000.0,
        batch: Some(100),
        partitions: &[2, 1, 3],
        least: 12_000,
    };
    let classes = storm.run();
    assert!(classes.finished >= storm.least / 2, "{classes:?}");
}
