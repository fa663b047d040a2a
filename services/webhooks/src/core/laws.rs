//! Laws of delivery under any sequence of answers, crashes and pauses, in a world of a few lines: a feed, documents, and a
//! receiver that writes down what it was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use sluice_domain::OrderId;
use sluice_pipeline::{Change, Cursor, Documents as _, backoff::Backoff};

use super::{AttemptId, Core, Heard, Next, Outcome, Subject, Way};
use crate::{
    about,
    config::WebhookConfig,
    model::{self, Delivery, DeliveryStatus, Item, Message, Schedule, Standing},
    testing::MemoryDocuments,
};

const ID: &str = "whe_1";

/// What the receiver answers to one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Take,
    Fail,
    Refuse,
    Busy,
    Unmade,
}

fn config() -> WebhookConfig {
    WebhookConfig {
        concurrency: 3,
        window_events: 12,
        parked: 6,
        failing_after: 4,
        log_entries: 1_000_000,
        give_up_after: Duration::from_secs(3_600),
        backoff: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(300) },
        endpoint_backoff: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) },
        ..WebhookConfig::default()
    }
}

struct World {
    config: Arc<WebhookConfig>,
    feed: Vec<Arc<Message>>,
    documents: MemoryDocuments,
    core: Core,
    now: u64,
    seed: u64,
    flying: Vec<(AttemptId, Arc<Message>)>,
    /// Events that were taken, as the receiver saw them.
    taken: Vec<Arc<Message>>,
    most_flying: usize,
}

impl World {
    fn new(config: WebhookConfig, events: &[u8]) -> Self {
        let mut sequences = BTreeMap::new();
        let feed = events.iter().enumerate().map(|(index, order)| {
            let sequence = sequences.entry(*order).and_modify(|next| *next += 1).or_insert(0);
            Arc::new(Message {
                id: format!("{index:032x}"),
                kind: "com.sluice.parcel.tracked.v1".to_owned(),
                order: OrderId(u128::from(*order)),
                sequence: *sequence,
                at_ms: index as u64,
                data: "{}".to_owned(),
            })
        });
        let feed = feed.collect();
        let config = Arc::new(config);
        let standing = Standing { cursor: Some(Cursor(vec![0])), ..Standing::default() };
        let core = Core::new(ID, Arc::clone(&config), standing, Vec::new(), 1);
        Self {
            config,
            feed,
            documents: MemoryDocuments::default(),
            core,
            now: 1_000,
            seed: 1,
            flying: Vec::new(),
            taken: Vec::new(),
            most_flying: 0,
        }
    }

    fn store(&mut self) {
        let mut changes = Vec::new();
        self.core.changes(&mut changes, true);
        about::write(&self.documents, &changes).unwrap();
    }

    /// How many documents there are whose keys begin with this.
    fn count(&self, prefix: &[u8]) -> usize {
        self.documents.scan(prefix, None, usize::MAX).unwrap().len()
    }

    /// Stores a part, in the order that a cluster does, and ends.
    fn tear(&mut self, part: usize) {
        let mut changes = Vec::new();
        self.core.changes(&mut changes, true);
        let standing = model::standing_key(ID);
        let puts = changes.iter().filter_map(|change| match change {
            Change::Put { key, value } if *key != standing => Some((key.clone(), Some(value.clone()))),
            _ => None,
        });
        let removals = changes.iter().filter_map(|change| match change {
            Change::Delete { key } => Some((key.clone(), None)),
            Change::Put { .. } => None,
        });
        // What is stored and removed at once is removed.
        let removed: BTreeSet<_> = removals.clone().map(|(key, _)| key).collect();
        let puts: BTreeMap<_, _> = puts.filter(|(key, _)| !removed.contains(key)).collect();
        let removals: BTreeMap<_, _> = removals.collect();
        for (key, value) in puts.into_iter().chain(removals.into_iter().rev()).take(part) {
            let change = match value {
                Some(value) => Change::Put { key, value },
                None => Change::Delete { key },
            };
            self.documents.write(&[change]).unwrap();
        }
        self.crash();
    }

    /// Ends without a word, and starts again from what was stored.
    fn crash(&mut self) {
        self.flying.clear();
        self.seed += 1;
        let standing = self.documents.get(&model::standing_key(ID)).unwrap();
        let standing = standing.map_or_else(
            || Standing { cursor: Some(Cursor(vec![0])), ..Standing::default() },
            |value| serde_json::from_slice(&value).unwrap(),
        );
        self.core = Core::new(ID, Arc::clone(&self.config), standing, self.schedules(), self.seed);
    }

    fn schedules(&self) -> Vec<Schedule> {
        let all = self.documents.scan(&model::schedules_prefix(ID), None, usize::MAX).unwrap();
        all.iter().map(|(_, value)| serde_json::from_slice(value).unwrap()).collect()
    }

    fn log(&self) -> Vec<Delivery> {
        let all = self.documents.scan(&model::deliveries_prefix(ID), None, usize::MAX).unwrap();
        all.iter().map(|(_, value)| serde_json::from_slice(value).unwrap()).collect()
    }

    fn read(&mut self) {
        while let Some((way, after, max)) = self.core.wants(self.now) {
            let from = after.0[0] as usize;
            let to = (from + max.min(5)).min(self.feed.len());
            let item =
                |index: usize| Item { message: Arc::clone(&self.feed[index]), next: Cursor(vec![index as u64 + 1]) };
            let told = if way == Way::Replay { self.core.told().unwrap().0[0] as usize } else { usize::MAX };
            let items = (from..to).filter(|index| *index < told).map(item).collect();
            self.core.push(way, items, Cursor(vec![to as u64]), to == self.feed.len(), self.now);
            if from == to {
                self.core.unread(way, self.now);
            }
        }
    }

    /// Sends all that may be sent; gives when to come back.
    fn send(&mut self) -> Option<u64> {
        loop {
            self.read();
            match self.core.next(self.now) {
                Next::Send(attempt, subject) => {
                    let message = match subject {
                        Subject::Fresh(message) => message,
                        Subject::Parked(number) => {
                            self.store();
                            let body = self.documents.get(&model::message_key(ID, number)).unwrap().unwrap();
                            Arc::new(serde_json::from_slice(&body).unwrap())
                        }
                    };
                    assert!(
                        !self.flying.iter().any(|(_, other)| other.order == message.order),
                        "one at a time of an order"
                    );
                    self.flying.push((attempt, message));
                    self.most_flying = self.most_flying.max(self.flying.len());
                }
                Next::WaitUntil(at) => return Some(at),
                Next::Idle => return None,
            }
        }
    }

    fn answer(&mut self, which: usize, reply: Reply) {
        let (attempt, message) = self.flying.remove(which % self.flying.len());
        let outcome = match reply {
            Reply::Take => Outcome::Taken(204),
            Reply::Fail => Outcome::Failed(Some(500), "status 500".to_owned()),
            Reply::Refuse => Outcome::Failed(None, "connection refused".to_owned()),
            Reply::Busy => Outcome::Busy(429, 2_000),
            Reply::Unmade => Outcome::Unmade,
        };
        if reply == Reply::Take {
            self.taken.push(message);
        }
        self.core.answered(attempt, Heard { outcome, took_ms: 1 }, self.now);
    }

    /// Answers everything as `reply` says until nothing is left to do or `until` has come.
    fn run(&mut self, until: u64, mut reply: impl FnMut(&Message) -> Reply) {
        loop {
            let wake = self.send();
            if let Some((_, message)) = self.flying.first() {
                let reply = reply(&message.clone());
                self.answer(0, reply);
                continue;
            }
            let settled = self.core.standing().cursor == Some(Cursor(vec![self.feed.len() as u64]));
            let Some(at) = wake.or((!settled || self.core.replaying()).then_some(self.now + 500)) else { break };
            if at > until {
                break;
            }
            self.now = self.now.max(at);
            self.store();
        }
        self.store();
    }

    /// First arrivals of each order's events are in their order, and ids are the events'.
    fn assert_order(&self) {
        let mut next: BTreeMap<OrderId, BTreeSet<u64>> = BTreeMap::new();
        for message in &self.taken {
            assert!(self.feed.iter().any(|known| known == message), "ids and events are as they were");
            let seen = next.entry(message.order).or_default();
            if seen.insert(message.sequence) {
                let later: Vec<_> = seen.iter().filter(|other| **other > message.sequence).collect();
                assert!(later.is_empty(), "event {} of {} came after {later:?}", message.sequence, message.order);
            }
        }
    }

    fn ids(&self, status: DeliveryStatus) -> BTreeSet<String> {
        self.log().into_iter().filter(|line| line.status == status).map(|line| line.event).collect()
    }
}

fn replies() -> impl Strategy<Value = Reply> {
    prop_oneof![
        4 => Just(Reply::Take),
        3 => Just(Reply::Fail),
        1 => Just(Reply::Refuse),
        1 => Just(Reply::Busy),
        1 => Just(Reply::Unmade),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Answer(usize, Reply),
    Wait(u64),
    Store,
    Crash,
    Tear(usize),
    Replay(u64, u64),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0usize..4, replies()).prop_map(|(which, reply)| Step::Answer(which, reply)),
        4 => (0u64..30_000).prop_map(Step::Wait),
        3 => Just(Step::Store),
        1 => Just(Step::Crash),
        1 => (0usize..8).prop_map(Step::Tear),
        1 => (0u64..40, 0u64..40).prop_map(|(from, to)| Step::Replay(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens on the way: once the endpoint works, every event has been taken, those of an order in their order, and
    /// nothing is left.
    #[test]
    fn nothing_is_lost_and_orders_keep_their_order(
        events in prop::collection::vec(0u8..6, 0..60),
        steps in prop::collection::vec(steps(), 0..120),
    ) {
        // Nothing is given up here: an event that is given up lets the next of its order go before its replay.
        let mut world = World::new(WebhookConfig { give_up_after: Duration::from_secs(1 << 40), ..config() }, &events);
        let torn = steps.iter().any(|step| matches!(step, Step::Tear(_)));
        for step in steps {
            world.send();
            match step {
                Step::Answer(which, reply) if !world.flying.is_empty() => world.answer(which, reply),
                Step::Answer(..) => {}
                Step::Wait(ms) => world.now += ms,
                Step::Store => world.store(),
                Step::Crash => world.crash(),
                Step::Tear(part) => world.tear(part),
                Step::Replay(from, to) if !world.core.replaying() => {
                    world.core.begin_replay("k", from, to, Cursor(vec![0]), world.now);
                }
                Step::Replay(..) => {}
            }
            prop_assert!(world.most_flying <= 3);
            // What was removed may be there once more.
            let most = if torn { 12 } else { 6 };
            prop_assert!(world.core.parked() <= most);
        }
        while !world.flying.is_empty() {
            world.answer(0, Reply::Take);
        }
        world.run(u64::MAX, |_| Reply::Take);
        world.assert_order();
        let taken: BTreeSet<&String> = world.taken.iter().map(|message| &message.id).collect();
        prop_assert_eq!(taken.len(), events.len(), "every event was taken");
        prop_assert_eq!(world.core.parked(), 0);
        prop_assert!(world.ids(DeliveryStatus::Failed).is_empty());
        prop_assert_eq!(world.count(b"p/"), 0);
        prop_assert!(torn || world.count(b"o/") == world.count(b"d/"), "every line is named, and nothing else");
        // Of what was torn, lines of the log may be overwritten, and events stay behind that no schedule names.
        prop_assert!(torn || world.ids(DeliveryStatus::Delivered).len() == events.len());
        prop_assert!(torn || world.count(b"b/") == 0);
    }

    /// Every event ends up delivered or, in the log, as failed, even if some are never taken.
    #[test]
    fn every_event_ends_delivered_or_failed(
        events in prop::collection::vec(0u8..8, 1..60),
        bad in prop::collection::btree_set(0usize..60, 0..20),
    ) {
        let mut world = World::new(config(), &events);
        let ids: BTreeSet<String> = bad.iter().map(|index| format!("{index:032x}")).collect();
        world.run(u64::MAX, |message| if ids.contains(&message.id) { Reply::Fail } else { Reply::Take });
        world.assert_order();
        let (delivered, failed) = (world.ids(DeliveryStatus::Delivered), world.ids(DeliveryStatus::Failed));
        prop_assert!(world.ids(DeliveryStatus::Retrying).is_empty());
        prop_assert_eq!(delivered.len() + failed.len(), events.len());
        let expected: BTreeSet<String> =
            ids.into_iter().filter(|id| world.feed.iter().any(|message| message.id == *id)).collect();
        // An endpoint that takes nothing for so long, be it that too much is put aside, gives up what it was never asked, too.
        prop_assert!(failed.is_superset(&expected), "all that was never taken");
        prop_assert!(failed.is_disjoint(&delivered));
        prop_assert_eq!(world.taken.len(), delivered.len(), "nothing twice where nothing crashed");
        // A replay of all of it, now that they are taken, delivers those too.
        world.core.begin_replay("again", 0, u64::MAX, Cursor(vec![0]), world.now);
        let before = world.taken.len();
        world.run(u64::MAX, |_| Reply::Take);
        prop_assert_eq!(world.taken.len() - before, events.len());
        prop_assert!(!world.core.replaying());
        prop_assert_eq!(world.core.standing().replays[0].events, events.len() as u64);
    }
}

#[test]
fn an_endpoint_that_is_down_waits_at_its_cursor_and_holds_nothing() {
    let mut world = World::new(config(), &[0, 1, 2, 3, 4, 5, 6, 7].repeat(100));
    world.run(600_000, |_| Reply::Refuse);
    assert!(world.core.parked() <= 6 && world.core.is_failing());
    let attempts = world.core.counters().failed_attempts;
    assert!(attempts < 60, "{attempts} attempts in ten minutes");
    assert_eq!(world.core.live.as_ref().unwrap().len(), 0, "the backlog is in the log");
    // It works again: everything arrives, in order, within the spread of what was put aside.
    world.run(900_000, |_| Reply::Take);
    world.assert_order();
    assert_eq!(world.taken.len(), 800);
    assert_eq!(world.core.parked(), 0);
    assert!(!world.core.is_failing());
}

#[test]
fn an_endpoint_that_never_works_gives_up_each_event_in_its_time() {
    let mut world = World::new(config(), &[0, 1, 2, 3]);
    world.run(3 * 3_600_000, |_| Reply::Fail);
    assert_eq!(world.ids(DeliveryStatus::Failed).len(), 4);
    assert_eq!(world.core.parked(), 0);
    let log = world.log();
    assert!(log.iter().all(|line| line.next_at_ms.is_none()), "{log:?}");
    assert!(log.iter().all(|line| line.attempts == 0 || line.error == "status 500"), "{log:?}");
}

#[test]
fn one_bad_event_holds_up_its_order_alone() {
    let mut world = World::new(config(), &[0, 1, 0, 2, 0, 3, 1, 2, 3]);
    world.run(600_000, |message| if message.order == OrderId(0) { Reply::Fail } else { Reply::Take });
    assert_eq!(world.taken.len(), 6);
    assert_eq!(world.core.parked(), 3);
    assert!(!world.core.is_failing(), "one event's failures are not the endpoint's");
    world.run(1_200_000, |_| Reply::Take);
    world.assert_order();
    assert_eq!(world.taken.len(), 9);
}

#[test]
fn retry_after_is_honoured_within_its_bound() {
    let config = WebhookConfig { retry_after_cap: Duration::from_secs(100), ..config() };
    let mut world = World::new(config, &[0]);
    for asked in [50_000, 10_000_000] {
        let at = world.send();
        if let Some(at) = at {
            world.now = at;
            world.send();
        }
        let (attempt, _) = world.flying.pop().unwrap();
        let heard = Heard { outcome: Outcome::Busy(503, asked), took_ms: 1 };
        world.core.answered(attempt, heard, world.now);
        let Next::WaitUntil(at) = world.core.next(world.now) else { panic!("it waits") };
        assert_eq!(at - world.now, asked.min(100_000));
        world.now = at - 1;
        assert!(matches!(world.core.next(world.now), Next::WaitUntil(_)));
        world.now = at;
    }
}

#[test]
fn gone_disables_until_it_is_enabled() {
    let mut world = World::new(config(), &[0, 1, 2]);
    world.send();
    let (attempt, _) = world.flying.remove(0);
    assert!(world.core.answered(attempt, Heard { outcome: Outcome::Gone, took_ms: 1 }, world.now));
    while !world.flying.is_empty() {
        world.answer(0, Reply::Take);
    }
    assert!(matches!(world.core.next(u64::MAX), Next::Idle));
    assert_eq!(world.core.wants(u64::MAX), None);
    world.now += 86_400_000;
    world.core.set(&[], false, world.now);
    world.run(world.now + 1_000_000, |_| Reply::Take);
    assert_eq!(world.taken.len(), 3);
    world.assert_order();
}

#[test]
fn only_the_types_that_are_wanted_are_posted() {
    let mut world = World::new(config(), &[0; 20]);
    Arc::make_mut(&mut world.feed[7]).kind = "com.sluice.order.accepted.v1".to_owned();
    world.core.set(&["com.sluice.order.accepted.v1".to_owned()], false, 0);
    world.run(1_000_000, |_| Reply::Take);
    assert_eq!(world.taken.iter().map(|message| message.at_ms).collect::<Vec<_>>(), [7]);
    assert_eq!(world.core.standing().cursor, Some(Cursor(vec![20])));
}

#[test]
fn what_expired_is_skipped_and_said() {
    let mut world = World::new(config(), &[0; 20]);
    assert_eq!(world.core.wants(world.now).map(|(_, at, _)| at), Some(Cursor(vec![0])));
    world.core.expired(Way::Live, Cursor(vec![15]), world.now);
    assert_eq!(world.core.standing().missed_at_ms, Some(1_000));
    world.now += 2_000;
    world.run(1_000_000, |_| Reply::Take);
    assert_eq!(world.taken.len(), 5);
    assert_eq!(world.core.counters().gaps, 1);
}

#[test]
fn the_log_keeps_so_many() {
    let mut world = World::new(WebhookConfig { log_entries: 10, ..config() }, &[0; 25]);
    world.run(1_000_000, |_| Reply::Take);
    let numbers: Vec<u64> = world.log().iter().map(|line| line.number).collect();
    assert_eq!(numbers, (15..25).rev().collect::<Vec<_>>(), "the newest first");
    world.core.forget(20);
    world.store();
    assert_eq!((world.log().len(), world.count(b"o/")), (5, 5));
    let mut removal = Vec::new();
    world.core.removal(&mut removal);
    assert!(removal.iter().all(|change| matches!(change, Change::Delete { .. })));
    about::write(&world.documents, &removal).unwrap();
    assert_eq!(world.count(b""), 0);
}

#[test]
fn a_replay_that_has_read_all_waits_for_answers_without_reading() {
    let mut world = World::new(config(), &[0, 1, 2]);
    world.run(u64::MAX, |_| Reply::Take);
    world.core.begin_replay("again", 0, u64::MAX, Cursor(vec![0]), world.now);
    world.send();
    assert_eq!(world.flying.len(), 3);
    assert!(!matches!(world.core.wants(world.now + 3_600_000), Some((Way::Replay, ..))));
    (0..3).for_each(|_| world.answer(0, Reply::Take));
    assert!(!world.core.replaying());
}
