//! What the owners, the checkpointer, the outboxes and the readers of one engine share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use parking_lot::{Mutex, RwLock};
use sluice_domain::{Class, OrderId, SlotCount, order_state::class_of_row};
use sluice_pipeline::{Clock, Filter, LogError, Store, Table, Watchers, hot::Hot, index::Generation};
use sluice_schemas::delta::{Delta, FIRST_RETURN, VOID, row_deltas};
use tokio::sync::Semaphore;

use crate::{
    head::Head,
    intake::{Queue, QueueConfig},
    journal::{Journal, JournalConfig},
    lookup::{
        Keys, LOOKUPS_AT_A_TIME,
        young::{Block, Entries},
    },
    pump::Pump,
    retention::{Horizon, Retention},
};

/// Sizes and numbers of an embedded engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Owners, each with its share of the slots. May change from one start to the next.
    pub partitions: u16,
    /// Slots of the deployment; fixed when it is created.
    pub slots: SlotCount,
    /// Carrier ids, by carrier number.
    pub carriers: Vec<Arc<str>>,
    /// Sizes of the journal.
    pub journal: JournalConfig,
    /// Bounds of each partition's queues.
    pub queue: QueueConfig,
    /// A checkpoint starts when the journal has grown by this many bytes.
    pub checkpoint_bytes: u64,
    /// … or when a partition holds this many bytes of young rows.
    pub hot_bytes: usize,
    /// How long what is over is kept.
    pub retention: Retention,
    /// How long a retry may come after its order's `placed_at`, ms.
    pub window_ms: u64,
    /// True: owners wait for work. False: they come back empty, for a simulator.
    pub blocking: bool,
    /// The journal's id when one is created; drawn at random unless given.
    pub journal_id: Option<u64>,
}

impl EngineConfig {
    /// The defaults, for these carriers.
    pub fn new(carriers: Vec<Arc<str>>) -> Self {
        Self {
            partitions: 2,
            slots: SlotCount::DEFAULT,
            carriers,
            journal: JournalConfig::default(),
            queue: QueueConfig::default(),
            checkpoint_bytes: 512 << 20,
            hot_bytes: 192 << 20,
            retention: Retention::default(),
            window_ms: sluice_domain::limits::DEFAULT_WINDOW_MS,
            blocking: true,
            journal_id: None,
        }
    }

    /// The partition that owns a slot.
    pub fn partition_of(&self, id: OrderId) -> usize {
        usize::from(id.slot()) % usize::from(self.partitions)
    }
}

/// How many orders are in which class, for receipts and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Orders ever accepted in this data folder.
    pub accepted: u64,
    /// Orders with every parcel accepted, or nothing to ship.
    pub finished: u64,
    /// Orders of which nothing is undecided and something is dead-lettered.
    pub dead_lettered: u64,
    /// Orders with an undecided parcel.
    pub in_flight: u64,
    /// Requests answered as the repetition of an earlier one, since the start of the process.
    pub replayed: u64,
}

impl Young {
    /// Bytes of memory that the next checkpoint frees.
    pub(crate) fn memory(&self) -> usize {
        self.live.memory() + self.entries.memory()
    }
}

impl Counts {
    pub(crate) fn born(&mut self) {
        self.accepted += 1;
        self.in_flight = self.in_flight.wrapping_add(1);
    }

    pub(crate) fn decided(&mut self, class: Class) {
        match class {
            Class::InFlight => return,
            Class::DeadLettered => self.dead_lettered = self.dead_lettered.wrapping_add(1),
            Class::Finished | Class::Cancelled => self.finished += 1,
        }
        // An order may be born in one partition's count and decided in another's, after a restart: only the sum counts.
        self.in_flight = self.in_flight.wrapping_sub(1);
    }

    /// A dead-lettered order is decided anew.
    pub(crate) fn anew(&mut self) {
        self.dead_lettered = self.dead_lettered.wrapping_sub(1);
        self.in_flight = self.in_flight.wrapping_add(1);
    }

    /// Adds another partition's counts.
    pub(crate) fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.finished += other.finished;
        self.dead_lettered = self.dead_lettered.wrapping_add(other.dead_lettered);
        self.in_flight = self.in_flight.wrapping_add(other.in_flight);
    }
}

/// Young rows of one partition, and what they are found by.
#[derive(Debug, Default)]
pub(crate) struct Young {
    pub(crate) live: Hot,
    /// On its way to the store.
    pub(crate) frozen: Option<Arc<Hot>>,
    /// Memory of rows that are in the store by now, to be filled again.
    pub(crate) spare: Option<Hot>,
    /// What the live rows are found by.
    pub(crate) entries: Entries,
    /// What those on their way to the store are found by.
    pub(crate) frozen_entries: Vec<Arc<Block>>,
    /// Counts of this partition.
    pub(crate) counts: Counts,
}

/// What one partition froze for a checkpoint.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) rows: Arc<Hot>,
    pub(crate) index: Arc<Generation>,
    pub(crate) entries: Vec<Arc<Block>>,
    /// Where frames of this partition start that the frozen rows don't hold.
    pub(crate) replay_from: u64,
    /// Start and number of the group to replay from.
    pub(crate) group: (u64, u64),
    pub(crate) counts: Counts,
}

/// Errands between the checkpointer and an owner.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    /// Freeze as this checkpoint, once so many outcomes have been taken from the queue.
    pub(crate) freeze: Option<(u32, u64)>,
    pub(crate) frozen: Option<Frozen>,
    /// Generations that are in the store now, each with its filter and the summary that it is in.
    pub(crate) install: Vec<(u32, Filter, Filter)>,
    /// Forget this index generation, once so many inputs that somebody waits for have been taken from the queue.
    pub(crate) expire: Vec<(u32, u64)>,
}

pub(crate) struct Shard {
    pub(crate) queue: Queue,
    pub(crate) young: RwLock<Young>,
    pub(crate) errands: Mutex<Errands>,
    /// True when `errands` holds something for the owner.
    pub(crate) attention: AtomicBool,
    /// Where the oldest order stands in the log that was changed since the last checkpoint, of those that have left memory.
    /// Written under the lock of `young`.
    pub(crate) touched: AtomicU64,
}

pub(crate) struct CarrierSlot {
    pub(crate) id: Arc<str>,
    /// Every outbox entry up to here has had its outcome handed over.
    pub(crate) settled: AtomicU64,
    /// Entries up to here may have been sent; durable.
    pub(crate) sending: Arc<AtomicU64>,
}

pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) journal: Journal,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keys: Keys,
    /// Places for look-ups.
    pub(crate) lookups: Arc<Semaphore>,
    pub(crate) carriers: Vec<CarrierSlot>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) replayed: AtomicU64,
    pub(crate) pump: Arc<Pump>,
    /// Who follows which order.
    pub(crate) watchers: Arc<Watchers>,
    /// Log position up to which the last checkpoint holds everything.
    pub(crate) checkpointed: AtomicU64,
    /// What retention has let go.
    pub(crate) horizon: Horizon,
    /// Checkpoints finished since the start.
    pub(crate) checkpoints: AtomicU64,
    /// A partition asks for a checkpoint.
    pub(crate) checkpoint_wanted: AtomicBool,
    /// Checkpoint thread's alarm.
    pub(crate) alarm: (Mutex<bool>, parking_lot::Condvar),
}

impl Shared {
    pub(crate) fn new(
        config: EngineConfig,
        journal: Journal,
        keys: Keys,
        (store, clock): (Arc<dyn Store>, Arc<dyn Clock>),
        carriers: Vec<CarrierSlot>,
        shards: Vec<Shard>,
        head: &Head,
    ) -> Self {
        Self {
            config,
            journal,
            store,
            clock,
            keys,
            lookups: Arc::new(Semaphore::new(LOOKUPS_AT_A_TIME)),
            carriers,
            shards,
            replayed: AtomicU64::new(0),
            pump: Arc::default(),
            watchers: Watchers::new(),
            checkpointed: AtomicU64::new(head.group.0),
            horizon: Horizon::new(&head.kept),
            checkpoints: AtomicU64::new(0),
            checkpoint_wanted: AtomicBool::new(false),
            alarm: (Mutex::new(false), parking_lot::Condvar::new()),
        }
    }

    pub(crate) fn new_shards(config: &EngineConfig) -> Vec<Shard> {
        let shard = |_| Shard {
            queue: Queue::new(config.queue.clone()),
            young: RwLock::new(Young::default()),
            errands: Mutex::new(Errands::default()),
            attention: AtomicBool::new(false),
            // What is replayed is in no checkpoint.
            touched: AtomicU64::new(0),
        };
        (0..config.partitions).map(shard).collect()
    }

    /// Carriers by number, with the positions that a checkpoint has for them.
    pub(crate) fn new_carriers(config: &EngineConfig, known: &[(String, u64, u64)]) -> Vec<CarrierSlot> {
        let slot = |id: &Arc<str>| {
            let (settled, sending) = known.iter().find(|k| k.0 == **id).map_or((0, 0), |k| (k.1, k.2));
            CarrierSlot {
                id: Arc::clone(id),
                settled: AtomicU64::new(settled),
                sending: Arc::new(AtomicU64::new(sending)),
            }
        };
        config.carriers.iter().map(slot).collect()
    }

    pub(crate) fn shard_of(&self, id: OrderId) -> &Shard {
        &self.shards[self.config.partition_of(id)]
    }

    /// Appends the row of `id` to `out`; nothing if the order is unknown.
    pub(crate) fn read_row(&self, id: OrderId, out: &mut Vec<u8>) -> Result<(), LogError> {
        let young = self.shard_of(id).young.read();
        let start = out.len();
        young.live.read(id, out);
        if out.get(start) != Some(&BORN) {
            read_older(&young, &*self.store, id, out)?;
            self.horizon.forget(start, out);
        }
        Ok(())
    }

    /// True if nothing before `position` was changed since the last checkpoint.
    pub(crate) fn are_untouched(&self, position: u64) -> bool {
        self.shards.iter().all(|shard| shard.touched.load(Relaxed) >= position)
    }

    /// As [`Shared::read_row`], in the order in which it was decided, though some of it perhaps twice; and owners wait no
    /// longer than it takes to copy what is young.
    pub(crate) fn read_row_in_order(&self, id: OrderId, out: &mut Vec<u8>) -> Result<(), LogError> {
        let (start, mut live, mut frozen) = (out.len(), Vec::new(), Vec::new());
        let on_its_way = {
            let young = self.shard_of(id).young.read();
            young.live.read(id, &mut live);
            young.frozen.clone()
        };
        if live.first() != Some(&BORN) {
            if let Some(rows) = on_its_way {
                rows.read(id, &mut frozen);
            }
            if frozen.first() != Some(&BORN) {
                self.store.scan(Table::Rows, &id.0.to_be_bytes(), &mut |_, deltas| out.extend_from_slice(deltas))?;
            }
        }
        out.extend_from_slice(&frozen);
        out.extend_from_slice(&live);
        self.horizon.forget(start, out);
        Ok(())
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts { replayed: self.replayed.load(Relaxed), ..Counts::default() };
        for shard in &self.shards {
            sum.add(shard.young.read().counts);
        }
        sum
    }

    pub(crate) fn want_checkpoint(&self) {
        if !self.checkpoint_wanted.swap(true, Relaxed) {
            self.ring();
        }
    }

    /// Wakes the checkpointer.
    pub(crate) fn ring(&self) {
        *self.alarm.0.lock() = true;
        self.alarm.1.notify_one();
    }

    /// True once everything appended before `position` is durable.
    pub(crate) fn poll_durable(&self, position: u64, waker: &Waker) -> Result<bool, LogError> {
        self.journal.poll_durable(position, waker)
    }
}

/// First byte of a row, or of that part of it, that goes back to the order's birth: the tag of `accepted`.
pub(crate) const BORN: u8 = 1;

/// Where the log has the order of a row; `None` if the row doesn't say.
pub(crate) fn position_of(row: &[u8]) -> Option<u64> {
    row_deltas(0, row).find_map(|delta| match delta {
        Ok((_, Delta::Accepted { position })) => Some(position),
        _ => None,
    })
}

/// Appends to `out` what the live rows don't hold of `id`.
pub(crate) fn read_older(young: &Young, store: &dyn Store, id: OrderId, out: &mut Vec<u8>) -> Result<(), LogError> {
    read_older_until(young, store, id, u32::MAX, out)
}

/// As [`read_older`], without what checkpoints after `last` have stored.
pub(crate) fn read_older_until(
    young: &Young,
    store: &dyn Store,
    id: OrderId,
    last: u32,
    out: &mut Vec<u8>,
) -> Result<(), LogError> {
    if let Some(frozen) = &young.frozen {
        let start = out.len();
        frozen.read(id, out);
        if out.get(start) == Some(&BORN) {
            return Ok(());
        }
    }
    store.scan(Table::Rows, &id.0.to_be_bytes(), &mut |key, deltas| {
        if key.get(16..) <= Some(&last.to_be_bytes()[..]) {
            out.extend_from_slice(deltas);
        }
    })
}

/// True if `delta` may be the last thing an order waited for.
pub(crate) fn may_decide(delta: &Delta<'_>) -> bool {
    use sluice_schemas::outcome::OutcomeKind::Accepted;
    match *delta {
        // Of a void or a return nothing hangs.
        Delta::Settled { parcel: FIRST_RETURN.., .. } | Delta::DeadLettered { parcel: Some(FIRST_RETURN..), .. } => {
            false
        }
        Delta::Settled { outcome: Accepted, attempt, .. } => attempt & VOID == 0,
        Delta::DeadLettered { .. } | Delta::Reviewed { .. } | Delta::Classified { parcels: 0, .. } => true,
        _ => false,
    }
}

/// The class of an order by all that is known of it now; `row` is a buffer.
pub(crate) fn read_class(young: &Young, store: &dyn Store, id: OrderId, row: &mut Vec<u8>) -> Result<Class, LogError> {
    row.clear();
    young.live.read(id, row);
    if row.first() != Some(&BORN) {
        read_older(young, store, id, row)?;
    }
    Ok(class_of(row))
}

/// The class of a row; a row that can't be read counts as in flight.
pub(crate) fn class_of(row: &[u8]) -> Class {
    class_of_row(row).unwrap_or(Class::InFlight)
}
