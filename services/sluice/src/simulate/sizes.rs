//! The sizes of one run, drawn so that everything that takes hours in production happens within a few hundred orders:
//! segments roll over, index entries spill, outboxes fall behind memory, queues fill, checkpoints overlap with work.

use std::{sync::Arc, time::Duration};

use sluice_carrier::{
    notifier::{Backoff, BreakerConfig, NotifierConfig},
    routing::{CarrierRule, GroupSet, Table, TableError},
};
use sluice_domain::{Group, SlotCount};
use sluice_engine_embedded::{EngineConfig, JournalConfig, QueueConfig, Retention, journal::format::GROUP_HEAD};
use sluice_pipeline::BLOCK;
use sluice_sim::{Chance, FaultPlan, Rng};

/// Of the runs, so many have retention.
const RETIRING_RUNS: Chance = Chance::percent(30);

/// One of `choices`.
fn one_of<T: Copy>(rng: &mut Rng, choices: &[T], default: T) -> T {
    rng.pick(choices).copied().unwrap_or(default)
}

/// The engine's sizes in the first life.
pub(super) fn engine(plan: &FaultPlan) -> EngineConfig {
    let mut rng = plan.rng("engine");
    let batch_bytes = one_of(&mut rng, &[512, 1_024, 2_048], 1_024);
    // The same multiple of a batch as in production.
    let frame_bytes = 8 * batch_bytes;
    let group_bytes = one_of(&mut rng, &[2 << 10, 4 << 10, 8 << 10], 4 << 10);
    // A segment has room for three groups of the largest size.
    let least = 3 * (GROUP_HEAD + group_bytes + frame_bytes).next_multiple_of(BLOCK) as u64;
    let journal = JournalConfig {
        segment_bytes: one_of(&mut rng, &[32 << 10, 64 << 10, 128 << 10, 256 << 10], 64 << 10).max(least),
        group_bytes,
        frame_bytes,
        tail_bytes: one_of(&mut rng, &[1, 8 << 10, 64 << 10], 8 << 10),
        verify: true,
    };
    let queue = QueueConfig {
        order_bytes: one_of(&mut rng, &[4 << 10, 16 << 10, 1 << 20], 16 << 10),
        outcome_bytes: one_of(&mut rng, &[512, 2 << 10, 1 << 20], 2 << 10),
        batch_bytes,
    };
    let config = EngineConfig {
        partitions: 1,
        slots: SlotCount::DEFAULT,
        journal,
        queue,
        checkpoint_bytes: one_of(&mut rng, &[8 << 10, 32 << 10, 128 << 10], 32 << 10),
        hot_bytes: one_of(&mut rng, &[2 << 10, 16 << 10, 64 << 20], 16 << 10),
        window_ms: one_of(&mut rng, &[60_000, 120_000, 600_000], 60_000),
        blocking: false,
        journal_id: Some(rng.bits()),
        ..EngineConfig::new(plan.carriers.iter().map(|c| Arc::from(c.name.as_str())).collect())
    };
    forgetful(config, plan, least)
}

/// In some runs what is over is kept for a while only. Then segments are as small as can be, and so is the window: within it a
/// retry may still ask.
fn forgetful(config: EngineConfig, plan: &FaultPlan, least: u64) -> EngineConfig {
    let mut rng = plan.rng("retention");
    if !rng.hits(RETIRING_RUNS) {
        return config;
    }
    let by_time = rng.coin();
    let retention = Retention {
        time_ms: by_time.then(|| rng.between(1, 5_000)),
        bytes: (!by_time || rng.coin()).then(|| rng.between(1, 2 * least)),
    };
    let window_ms = one_of(&mut rng, &[50, 200, 1_000], 200);
    let journal = JournalConfig { segment_bytes: least, ..config.journal };
    EngineConfig { retention, journal, window_ms, ..config }
}

/// Where what is over may go, most runs have carriers that let everything be over: who forgets what he was asked leaves orders
/// that nobody can decide, and those hold all that comes after them.
pub(super) fn forgiving(mut plan: FaultPlan, config: &EngineConfig) -> FaultPlan {
    if config.retention.is_on() && plan.rng("forgiving").hits(Chance::percent(80)) {
        plan.carriers.iter_mut().for_each(|carrier| carrier.idempotent = true);
    }
    plan
}

/// What an operator may change from one start to the next, drawn anew. `first` is what the run began with: its segments
/// have no room for larger groups.
pub(super) fn vary(first: &EngineConfig, rng: &mut Rng) -> EngineConfig {
    let smaller = |rng: &mut Rng, most: usize| most >> rng.below(3);
    let batch_bytes = smaller(rng, first.queue.batch_bytes);
    EngineConfig {
        partitions: 1 + rng.below(3) as u16,
        journal: JournalConfig {
            group_bytes: smaller(rng, first.journal.group_bytes),
            frame_bytes: 8 * batch_bytes,
            tail_bytes: smaller(rng, first.journal.tail_bytes),
            ..first.journal.clone()
        },
        queue: QueueConfig { batch_bytes, ..first.queue.clone() },
        checkpoint_bytes: smaller(rng, first.checkpoint_bytes as usize) as u64,
        hot_bytes: smaller(rng, first.hot_bytes),
        ..first.clone()
    }
}

/// Bytes that the disk holds before the machine is healed; `None` in most runs.
pub(super) fn capacity(plan: &FaultPlan, segment_bytes: u64) -> Option<u64> {
    let mut rng = plan.rng("capacity");
    let segments = rng.between(3, 10);
    rng.hits(Chance::percent(15)).then_some(segments * segment_bytes)
}

/// What each carrier takes, costs and promises.
pub(super) fn table(plan: &FaultPlan) -> Result<Table, TableError> {
    let mut rng = plan.rng("table");
    let rule = |carrier: &sluice_sim::CarrierProfile| {
        let taken: Vec<Group> = Group::ALL.into_iter().filter(|_| rng.hits(Chance::percent(85))).collect();
        let groups = if taken.is_empty() { vec![Group::Ambient] } else { taken };
        CarrierRule {
            max_weight_g: one_of(&mut rng, &[1_500, 5_000, 30_000], 5_000),
            cost: rng.between(300, 900) as u32,
            promised_days: rng.between(1, 4) as u16,
            voids: true,
            ..CarrierRule::new(carrier.name.clone(), GroupSet::of(&groups))
        }
    };
    Table::new(1, plan.carriers.iter().map(rule).collect())
}

/// How each carrier is told.
pub(super) fn notifiers(plan: &FaultPlan) -> Vec<NotifierConfig> {
    let mut rng = plan.rng("notifiers");
    let config = |carrier: &sluice_sim::CarrierProfile| {
        let day = 24 * 3_600;
        // Of a carrier that is asked again after a timeout nobody knows for sure that it took nothing, so giving up on
        // one must not happen within a run: its ledger would contradict the record.
        let patient = carrier.idempotent;
        let give_up_s = one_of(&mut rng, &[15, 60, day], day);
        NotifierConfig {
            window_entries: one_of(&mut rng, &[2, 10, 100], 10),
            window_bytes: 64 << 20,
            manifest_shipments: one_of(&mut rng, &[1, 4, 32], 4),
            manifest_bytes: one_of(&mut rng, &[600, 4 << 10, 1 << 20], 4 << 10),
            manifest_age: Duration::from_millis(rng.below(20)),
            calls_in_flight: one_of(&mut rng, &[1, 2, 4], 2),
            call_timeout: Duration::from_millis(carrier.patience_ms),
            give_up_after: Duration::from_secs(if patient { day } else { give_up_s }),
            retry_after_cap: Duration::from_secs(10),
            backoff: Backoff::default(),
            retry_permille: one_of(&mut rng, &[100, 1_000], 100),
            retry_burst: 50,
            retry_floor: Duration::from_millis(one_of(&mut rng, &[10, 1_000], 1_000)),
            breaker: BreakerConfig { consecutive: one_of(&mut rng, &[3, 10], 10), ..BreakerConfig::default() },
            ..NotifierConfig::new(carrier.name.as_str(), carrier.idempotent)
        }
    };
    plan.carriers.iter().map(config).collect()
}
