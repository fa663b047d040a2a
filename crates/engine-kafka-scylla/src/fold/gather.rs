//! What a fold holds between the log and the store: rows of many frames in one arena, and the one gather whose rows are
//! being written while the next is filled.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use sluice_domain::OrderId;
use sluice_pipeline::Watchers;
use sluice_schemas::{
    CodecError,
    frame::{self, Decision, Place},
    order::peek_id,
};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::store::{Row, Store};

/// Rows of a gather; the frame that reaches it is still taken whole. 40,000 rows keep a store busy for 0.2 s.
const MAX_ROWS: usize = 40_000;
/// Bytes of a gather, likewise.
const MAX_BYTES: usize = 16 << 20;
/// How long rows may gather while nothing else is being written. Much more would be felt by a customer who looks at an
/// order just placed; much less makes requests of few rows.
const MAX_AGE: Duration = Duration::from_millis(20);

/// Pause before a write that the store refused for good is tried again: somebody has to mend it.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// The id of the row that a decision about `source` makes; the same in every replay.
pub(super) fn event_id(epoch: u16, source: Place) -> [u8; 16] {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&epoch.to_be_bytes());
    id[2..4].copy_from_slice(&source.partition().to_be_bytes());
    id[4..12].copy_from_slice(&source.0.to_be_bytes());
    id
}

/// How far a partition has been read: the assignment it was read under, and the next offset.
pub(super) type Reached = (u64, i64);

/// Rows on their way from frames to the store.
#[derive(Default)]
pub(super) struct Gather {
    arena: Vec<u8>,
    rows: Vec<Entry>,
    /// Kafka records in it.
    pub records: u64,
    /// What its rows reach to, by partition.
    pub reached: BTreeMap<i32, Reached>,
    since: Option<Instant>,
}

struct Entry {
    order: OrderId,
    event: [u8; 16],
    /// Where its record (if any) and then its deltas start in the arena.
    at: usize,
    record: Option<usize>,
    deltas: usize,
}

impl Gather {
    /// Adds the rows of a frame, and what it reaches to.
    ///
    /// # Errors
    /// The first [`CodecError`]. What could be read is in the gather, and so is what the frame reaches to: what is
    /// damaged stays damaged.
    pub fn take(&mut self, partition: i32, reached: Reached, frame: &[u8]) -> Result<(), CodecError> {
        self.since.get_or_insert_with(Instant::now);
        self.records += 1;
        self.reached.insert(partition, reached);
        let (epoch, decisions) = frame::decisions(frame)?;
        let mut whole = Ok(());
        for decision in decisions {
            if let Err(error) = decision.and_then(|decision| self.add(epoch, decision)) {
                whole = whole.and(Err(error));
            }
        }
        whole
    }

    fn add(&mut self, epoch: u16, decision: Decision<'_>) -> Result<(), CodecError> {
        let (source, order, record, deltas) = match decision {
            Decision::New { source, record, deltas } => (source, peek_id(record)?, Some(record), deltas),
            Decision::Added { source, order, deltas } => (source, order, None, deltas),
            Decision::Barrier { .. } => return Ok(()),
        };
        let at = self.arena.len();
        self.arena.extend_from_slice(record.unwrap_or_default());
        self.arena.extend_from_slice(deltas);
        self.rows.push(Entry {
            order: OrderId(order),
            event: event_id(epoch, source),
            at,
            record: record.map(<[u8]>::len),
            deltas: deltas.len(),
        });
        Ok(())
    }

    /// The rows, for the store.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let row = |e: &Entry| {
            let middle = e.at + e.record.unwrap_or(0);
            Row {
                order: e.order,
                event: e.event,
                deltas: &self.arena[middle..middle + e.deltas],
                record: e.record.map(|_| &self.arena[e.at..middle]),
            }
        };
        self.rows.iter().map(row).collect()
    }

    /// Tells whoever follows its orders.
    pub fn tell(&self, watchers: &Watchers) {
        if watchers.open() > 0 {
            self.rows.iter().for_each(|row| watchers.wake(row.order));
        }
    }

    /// Rows in it.
    pub fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    /// True if no frame was taken.
    pub fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// True if no further frame should be taken.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= MAX_ROWS || self.arena.len() >= MAX_BYTES
    }

    /// How long it may still wait for company; zero if it should be written.
    pub fn room(&self) -> Duration {
        match self.since {
            Some(_) if self.is_full() => Duration::ZERO,
            Some(since) => MAX_AGE.saturating_sub(since.elapsed()),
            None => MAX_AGE,
        }
    }

    /// Empties it and keeps its memory.
    fn clear(&mut self) {
        self.arena.clear();
        self.rows.clear();
        self.reached.clear();
        (self.records, self.since) = (0, None);
    }
}

/// What became of the gather that is being written.
pub(super) enum Written {
    /// Every row is durable.
    Durable(Gather),
    /// It is still being written, or nothing is.
    Waiting,
    /// The task that wrote it is gone, and nobody knows how far it came.
    Lost,
}

/// Writes one gather at a time, on the runtime's threads.
pub(super) struct Pen {
    store: Arc<Store>,
    runtime: Handle,
    under_way: Option<(Receiver<Gather>, JoinHandle<()>)>,
    spare: Option<Gather>,
}

impl Pen {
    pub fn new(store: Arc<Store>, runtime: Handle) -> Self {
        Self { store, runtime, under_way: None, spare: None }
    }

    /// True while a gather is being written.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Starts writing what is in `gather`, which is empty afterwards. Only while it isn't busy.
    pub fn start(&mut self, gather: &mut Gather) {
        let full = std::mem::replace(gather, self.spare.take().unwrap_or_default());
        let (done, written) = sync_channel(1);
        let task = self.runtime.spawn(write(Arc::clone(&self.store), full, done));
        self.under_way = Some((written, task));
    }

    /// Waits for the gather under way for at most `wait`.
    pub fn wait(&mut self, wait: Duration) -> Written {
        let Some((written, _)) = &self.under_way else { return Written::Waiting };
        match written.recv_timeout(wait) {
            Ok(gather) => {
                self.under_way = None;
                Written::Durable(gather)
            }
            Err(RecvTimeoutError::Timeout) => Written::Waiting,
            Err(RecvTimeoutError::Disconnected) => {
                self.under_way = None;
                Written::Lost
            }
        }
    }

    /// Gives a gather's memory back, for the next but one.
    pub fn reuse(&mut self, mut gather: Gather) {
        gather.clear();
        self.spare = Some(gather);
    }

    /// Gives up what is being written; some of its rows may be there, and a replay writes them again.
    pub fn abandon(&mut self) {
        if let Some((_, task)) = self.under_way.take() {
            task.abort();
        }
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Writes until every row is durable. An outage is waited for in the store; a refusal is reported and tried again,
/// because going on would lose rows.
async fn write(store: Arc<Store>, gather: Gather, done: SyncSender<Gather>) {
    let rows = gather.rows();
    while let Err(error) = store.write(&rows).await {
        metrics::counter!("sluice_fold_refused_total").increment(1);
        tracing::error!(%error, rows = rows.len(), "the store refuses rows; nothing is folded until it takes them");
        tokio::time::sleep(REFUSED_PAUSE).await;
    }
    drop(rows);
    // Whoever asked may have gone.
    let _ = done.send(gather);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(order: u128) -> Vec<u8> {
        let mut record = vec![sluice_schemas::order::VERSION];
        record.extend_from_slice(&order.to_be_bytes());
        record.extend_from_slice(b"fingerpr and the rest");
        record
    }

    fn frame(epoch: u16, decisions: &[Decision<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::start(&mut bytes, epoch);
        decisions.iter().for_each(|d| d.put(&mut bytes));
        bytes
    }

    #[test]
    fn decisions_become_rows_and_barriers_nothing() {
        let (source, record) = (Place::new(3, 77, 5), record(9));
        let later = Place::new(3, 78, 0);
        let frame = frame(
            0x0102,
            &[
                Decision::Barrier { token: [1; 16] },
                Decision::New { source, record: &record, deltas: b"first" },
                Decision::Added { source: later, order: 9, deltas: b"then" },
            ],
        );
        let mut gather = Gather::default();
        assert!(gather.is_empty());
        gather.take(3, (1, 12), &frame).unwrap();
        let rows = gather.rows();
        let id = event_id(0x0102, source);
        assert_eq!(id[..4], [1, 2, 0, 3]);
        assert_eq!(id[4..12], source.0.to_be_bytes());
        assert_eq!(id[12..], [0; 4]);
        assert_eq!(
            rows,
            [
                Row { order: OrderId(9), event: id, deltas: b"first", record: Some(&record) },
                Row { order: OrderId(9), event: event_id(0x0102, later), deltas: b"then", record: None },
            ]
        );
        assert_eq!((gather.reached[&3], gather.records, gather.len()), ((1, 12), 1, 2));
        gather.clear();
        assert!(gather.is_empty() && gather.rows().is_empty() && gather.room() == MAX_AGE);
    }

    #[test]
    fn what_can_be_read_of_a_damaged_frame_is_kept() {
        let whole = record(9);
        let added = Decision::Added { source: Place(7), order: 8, deltas: b"d" };
        let mut gather = Gather::default();
        // No frame at all.
        assert!(gather.take(0, (1, 1), b"").is_err());
        // A record without an id, between two that are whole.
        let short = Decision::New { source: Place(6), record: b"short", deltas: b"d" };
        let long = Decision::New { source: Place(5), record: &whole, deltas: b"d" };
        assert!(gather.take(0, (1, 2), &frame(1, &[long, short, added])).is_err());
        // Cut off.
        let mut cut = frame(1, &[added, added]);
        cut.pop();
        assert!(gather.take(0, (1, 3), &cut).is_err());
        let orders: Vec<_> = gather.rows().iter().map(|r| r.order.0).collect();
        assert_eq!((orders, gather.reached[&0], gather.records), (vec![9, 8, 8], (1, 3), 3));
    }

    #[test]
    fn a_gather_is_bounded() {
        let mut gather = Gather::default();
        let deltas = vec![7; 100_000];
        let frame = frame(1, &[Decision::Added { source: Place(7), order: 8, deltas: &deltas }]);
        for n in 0..168 {
            assert!(!gather.is_full());
            gather.take(0, (1, n), &frame).unwrap();
        }
        assert!(gather.is_full() && gather.room() == Duration::ZERO);
    }

    proptest! {
        #[test]
        fn noise_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut frame = vec![frame::VERSION, 0, 0];
            frame.extend_from_slice(&noise);
            let mut gather = Gather::default();
            let _ = gather.take(0, (1, 1), &frame);
            gather.rows();
        }
    }
}
