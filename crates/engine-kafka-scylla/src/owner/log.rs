//! One partition of the orders topic as the Runner drives it, within the transaction of its thread.
//!
//! Nothing that the Runner commits counts before that transaction does: rows are staged, index entries can be taken back,
//! and the inputs stay here until then, so that an abort only puts them back in front.

use std::{cell::RefCell, collections::VecDeque, ops::Range, rc::Rc, sync::Arc};

use hashbrown::HashSet;
use sluice_domain::{Class, Fingerprint, OrderId, order_state::class_of_row};
use sluice_pipeline::{
    Batch, BatchView, Clock, CommitError, Effects, Index, Log, LogError, Rows, Verdict,
    additions::{Addition, Additions, Settles, Subject},
    batch::InputKind,
};
use sluice_schemas::{
    delta::{Delta, row_deltas},
    event::{encode, encode_added},
    frame::{self, Decision, Input, Place, Shipment},
    order::{OrderRef, peek_id, placed_at_ms},
    wire,
    word::Word,
};

use super::{
    Counts, OlderRows,
    emit::{Emitter, Requests},
    fetch::{Fetcher, copy_order},
    number::{Numbering, merchant_of},
    older::Older,
    overlay::Overlay,
    runs::Runs,
};
use crate::{config::LogConfig, context::Reader, topics::Deployment};

/// Bytes of frames already decided that are kept for retries, each partition.
const RECENT_BYTES: usize = 2 << 20;

/// A frame of the orders topic.
pub(crate) struct Frame {
    pub(crate) offset: u64,
    /// When it was written, ms since the Unix epoch.
    pub(crate) at_ms: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The time before which nothing was decided that a retry written at `at_ms` may repeat: an order may be placed the window
/// of `placed_at` ahead of its acceptance, and its retries come until that window after. With a minute for clocks.
pub(crate) fn window_from(at_ms: u64, window_ms: u64) -> u64 {
    at_ms.saturating_sub(2 * window_ms + 60_000)
}

/// What the partitions of one thread share.
pub(crate) struct World {
    pub(crate) config: LogConfig,
    pub(crate) deployment: Deployment,
    pub(crate) emitter: RefCell<Emitter>,
    pub(crate) fetcher: RefCell<Fetcher>,
    pub(crate) store: Arc<dyn OlderRows>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) clock: Arc<dyn Clock>,
    /// Says where partitions end, records that are not committed yet included.
    pub(crate) ends: Reader,
}

/// See the module.
pub(crate) struct KafkaLog {
    partition: u16,
    world: Rc<World>,
    pub(crate) index: Index,
    pub(crate) runs: Runs,
    pub(crate) overlay: Overlay,
    /// Polled, not yet in the transaction.
    inbox: VecDeque<Frame>,
    /// In the transaction.
    taken: VecDeque<Frame>,
    /// Decided and committed, oldest first.
    recent: VecDeque<Frame>,
    recent_bytes: usize,
    /// Everything that was written until then is decided, ms since the Unix epoch.
    reached_ms: u64,
    /// Entries that the transaction added to the index.
    noted: Vec<(Fingerprint, u64)>,
    counts: Counts,
    /// Where the log has each input of the batch under way.
    places: Vec<Place>,
    /// The orders placed by its first `noted_to` inputs.
    placed: HashSet<OrderId>,
    noted_to: usize,
    older: Older,
    /// Rows of the batch's words by input, in `row_bytes`.
    rows: Vec<(u32, Range<usize>)>,
    row_bytes: Vec<u8>,
    additions: Additions,
    requests: Requests,
    numbering: Numbering,
    scratch: Vec<u8>,
    event: Vec<u8>,
}

impl KafkaLog {
    pub(crate) fn new(partition: u16, world: Rc<World>) -> Self {
        let overlay = Overlay::new(world.config.overlay_bytes);
        Self {
            partition,
            world,
            index: Index::default(),
            runs: Runs::default(),
            overlay,
            inbox: VecDeque::new(),
            taken: VecDeque::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            reached_ms: 0,
            noted: Vec::new(),
            counts: Counts::default(),
            places: Vec::new(),
            placed: HashSet::new(),
            noted_to: 0,
            older: Older::default(),
            rows: Vec::new(),
            row_bytes: Vec::new(),
            additions: Additions::default(),
            requests: Requests::default(),
            numbering: Numbering::default(),
            scratch: Vec::new(),
            event: Vec::new(),
        }
    }

    /// Takes a polled frame.
    pub(crate) fn push(&mut self, frame: Frame) {
        self.inbox.push_back(frame);
    }

    /// True if nothing polled waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Bytes of the inputs of the transaction under way.
    pub(crate) fn taken_bytes(&self) -> usize {
        self.taken.iter().map(|frame| frame.bytes.len()).sum()
    }

    /// The offset that a commit of the transaction leads to, if it has inputs of this partition.
    pub(crate) fn next_offset(&self) -> Option<u64> {
        self.taken.back().map(|frame| frame.offset + 1)
    }

    /// The offset behind everything that was polled and is not decided yet.
    #[cfg(test)]
    pub(crate) fn polled(&self) -> Option<u64> {
        self.inbox.back().map(|frame| frame.offset + 1)
    }

    /// Records that were polled and are not decided.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.inbox.len()
    }

    /// Forgets the orders that are kept for retries: from now on they are read back.
    #[cfg(test)]
    pub(crate) fn forget_recent(&mut self) {
        self.recent.clear();
        self.recent_bytes = 0;
    }

    /// The transaction was committed; gives what it decided.
    pub(crate) fn committed(&mut self) -> Counts {
        self.overlay.commit();
        self.noted.clear();
        for frame in self.taken.drain(..) {
            self.reached_ms = frame.at_ms;
            self.recent_bytes += frame.bytes.len();
            self.recent.push_back(frame);
        }
        while self.recent_bytes > RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= oldest.bytes.len();
        }
        std::mem::take(&mut self.counts)
    }

    /// The transaction was aborted: its inputs come again.
    pub(crate) fn aborted(&mut self) {
        self.overlay.abort();
        // A step that ended early has left what its batch had noted.
        self.index.abort();
        for (fingerprint, position) in self.noted.drain(..) {
            self.index.remove(fingerprint, position);
        }
        self.counts = Counts::default();
        while let Some(frame) = self.taken.pop_back() {
            self.inbox.push_front(frame);
        }
    }

    /// Lets go of everything that was polled; what was learnt stays, in case the partition comes back soon.
    pub(crate) fn park(&mut self) {
        self.aborted();
        self.inbox.clear();
    }

    /// Moves the index's entries to a run on disk, and forgets runs that no retry can ask for.
    ///
    /// # Errors
    /// [`LogError`] if the disk has no room; the entries stay in memory then.
    pub(crate) fn spill(&mut self, now_ms: u64) -> Result<(), LogError> {
        let generation = self.index.freeze(self.runs.next());
        match self.runs.write(&self.world.config.scratch, &generation, now_ms) {
            Ok(filter) => self.index.spilled(generation.number, filter, None),
            Err(error) => {
                generation.entries.iter().for_each(|e| self.index.insert(e.fingerprint(), e.position));
                return Err(error);
            }
        }
        self.expire(now_ms);
        Ok(())
    }

    /// Forgets runs that no retry can ask for: none that comes now, and none that waits here or in the topic.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let before_ms = window_from(self.reached_ms.min(now_ms), self.world.config.window_ms);
        for number in self.runs.expire(before_ms) {
            self.index.expire(number);
        }
    }

    /// Decodes `frame` into `batch`; inputs of another partition's slots are handed on.
    fn take(&mut self, frame: &Frame, batch: &mut Batch) {
        let unreadable = |what: &str| {
            tracing::error!(partition = self.partition, offset = frame.offset, what, "a record of orders is skipped");
            metrics::counter!("sluice_log_damaged_records_total").increment(1);
        };
        let (epoch, inputs) = match frame::inputs(&frame.bytes) {
            Ok(read) => read,
            Err(error) => {
                let mut emitter = self.world.emitter.borrow_mut();
                emitter.dead_letter(self.partition, "", 0, &error.to_string(), &frame.bytes);
                return unreadable(&error.to_string());
            }
        };
        for (entry, input) in inputs.enumerate() {
            let place = Place::new(self.partition, frame.offset, entry);
            let read = input.and_then(|input| match input {
                Input::Placed(record) => peek_id(record).map(|id| (OrderId(id), input)),
                Input::Word(bytes) => Word::decode(bytes).map(|word| (OrderId(word.order()), input)),
            });
            let (id, input) = match read {
                Ok(read) => read,
                Err(error) => {
                    let mut emitter = self.world.emitter.borrow_mut();
                    emitter.dead_letter(self.partition, "", 0, &error.to_string(), &frame.bytes);
                    unreadable(&error.to_string());
                    continue;
                }
            };
            let owner = self.world.deployment.partition(id);
            if owner != self.partition {
                self.hand_on(owner, epoch, input, frame.at_ms);
                continue;
            }
            match input {
                Input::Placed(record) => {
                    // Its low half is the id's hash, see the record's format.
                    let mut high = [0; 8];
                    high.copy_from_slice(record.get(17..25).unwrap_or(&[0; 8]));
                    let fingerprint = u128::from(u64::from_be_bytes(high)) << 64 | u128::from(id.hash64());
                    batch.push_placed(id, Fingerprint(fingerprint), record);
                }
                Input::Word(bytes) => batch.push_word(id, bytes),
            }
            self.places.push(place);
        }
    }

    /// True if `frame` has a word about an order that is new in `batch`: its row is there only for the next batch.
    fn answers_within(&mut self, frame: &Frame, batch: &Batch) -> bool {
        let Ok((_, inputs)) = frame::inputs(&frame.bytes) else { return false };
        for input in inputs {
            let Ok(Input::Word(bytes)) = input else { continue };
            // Only a batch that has both pays for this.
            let new = (self.noted_to..batch.len()).map(|i| batch.meta(i)).filter(|m| m.kind == InputKind::Placed);
            self.placed.extend(new.map(|meta| meta.order));
            self.noted_to = batch.len();
            if Word::decode(bytes).is_ok_and(|word| self.placed.contains(&OrderId(word.order()))) {
                return true;
            }
        }
        false
    }

    fn hand_on(&self, owner: u16, epoch: u16, input: Input<'_>, at_ms: u64) {
        tracing::info!(from = self.partition, to = owner, epoch, "an input of an older epoch is handed on");
        let mut frame = Vec::new();
        frame::start(&mut frame, self.world.deployment.epoch);
        match input {
            Input::Placed(record) => frame::put_placed(&mut frame, record),
            Input::Word(word) => frame::put_word(&mut frame, word),
        }
        self.world.emitter.borrow_mut().forward(owner, &frame, at_ms);
    }

    /// The row of a word's order as it was before the batch.
    fn row(&self, input: u32) -> &[u8] {
        match self.rows.binary_search_by_key(&input, |r| r.0) {
            Ok(at) => &self.row_bytes[self.rows[at].1.clone()],
            Err(_) => &[],
        }
    }

    /// Reads all that is known of `id`, what the transaction has added included, into the end of `out`, and gives where it
    /// starts there; nothing if the order is unknown.
    fn whole_row(&mut self, id: OrderId, batch: &BatchView<'_>, out: &mut Vec<u8>) -> Result<usize, LogError> {
        let start = out.len();
        if self.overlay.read(id, out) {
            return Ok(start);
        }
        let young = start..out.len();
        match self.older.row(id, batch, &self.overlay, &self.world)? {
            Some(stored) => {
                out.extend_from_slice(&stored.deltas);
                out.extend_from_within(young.clone());
                Ok(young.end)
            }
            None if young.is_empty() || self.world.store.has_expired(id, batch.now_ms()) => {
                out.truncate(start);
                Ok(start)
            }
            None => Err(LogError::Store(format!("the store doesn't have the beginning of order {id} yet"))),
        }
    }

    /// Writes decision, event and dead letter of one addition, and stages its row.
    fn add(&mut self, at: usize, additions: &Additions, view: &BatchView<'_>, rules: u32) -> Option<u64> {
        let addition = &additions.all()[at];
        let (input, place) = (addition.input as usize, self.places[addition.input as usize]);
        let deltas = additions.deltas(addition);
        let world = Rc::clone(&self.world);
        let mut emitter = world.emitter.borrow_mut();
        let mut bytes = std::mem::take(&mut self.event);
        bytes.clear();
        let mut number = Some(0);
        let event = match addition.born {
            Some((_, late)) => {
                let record = view.record(input);
                self.scratch.clear();
                Delta::Accepted { position: place.0 }.encode(late, &mut self.scratch);
                let order = OrderRef::decode(record);
                if let Ok(order) = &order {
                    Delta::Merchant { id: order.merchant }.encode(late, &mut self.scratch);
                }
                self.scratch.extend_from_slice(deltas);
                emitter.decision(self.partition, &Decision::New { source: place, record, deltas: &self.scratch });
                self.overlay.stage(addition.id, &self.scratch);
                order.and_then(|order| encode::encode_accepted(&mut bytes, &order, deltas)).map(Some)
            }
            None => {
                let decision = Decision::Added { source: place, order: addition.id.0, deltas };
                emitter.decision(self.partition, &decision);
                let mut numbering = std::mem::take(&mut self.numbering);
                let row = self.row(addition.input);
                number = numbering.next(addition.id, row, &self.overlay, deltas);
                self.numbering = numbering;
                self.overlay.stage(addition.id, deltas);
                let carrier = match Word::decode(view.record(input)) {
                    Ok(Word::Outcome(o)) => o.carrier,
                    Ok(Word::Tracked(t)) => t.carrier,
                    // A command is about carriers that its deltas name.
                    Ok(Word::Command(_)) | Err(_) => "",
                };
                let merchant = merchant_of(self.row(addition.input));
                encode_added(&mut bytes, addition.id.0, merchant, carrier, deltas)
            }
        };
        match (event, number) {
            (Ok(Some(event)), Some(number)) => emitter.event(self.partition, place, number, &event, &bytes),
            (Ok(None), _) => {}
            (Ok(_), None) => tracing::debug!(order_id = %addition.id, "what is decided again is not told again"),
            (Err(error), _) => tracing::error!(order_id = %addition.id, %error, "an event could not be written"),
        }
        self.event = bytes;
        if addition.settles != Settles::No || addition.born.is_none() {
            self.dead_letters(addition, deltas, view, rules, &mut emitter);
        }
        drop(emitter);
        self.count(addition);
        addition.born.map(|_| place.0)
    }

    fn dead_letters(
        &self,
        addition: &Addition,
        deltas: &[u8],
        view: &BatchView<'_>,
        rules: u32,
        emitter: &mut Emitter,
    ) {
        for delta in row_deltas(0, deltas) {
            if let Ok((_, Delta::DeadLettered { reason, .. })) = delta {
                let id = addition.id.to_string();
                emitter.dead_letter(self.partition, &id, rules, reason, view.record(addition.input as usize));
            }
        }
    }

    fn count(&mut self, addition: &Addition) {
        self.counts.accepted += u64::from(addition.born.is_some());
        match addition.settles {
            Settles::No => {}
            Settles::As(class) => self.counts.decided(class),
            Settles::Perhaps | Settles::Anew => {
                let mut row = std::mem::take(&mut self.scratch);
                row.clear();
                row.extend_from_slice(self.row(addition.input));
                let before = class_of_row(&row).unwrap_or(Class::InFlight);
                self.overlay.staged(addition.id, &mut row);
                let after = class_of_row(&row).unwrap_or(Class::InFlight);
                self.scratch = row;
                self.counts.moved(before, after, addition.settles == Settles::Anew);
            }
        }
    }

    /// A later request under a key that is taken: shown on the time line of the first.
    fn conflict(&mut self, input: usize, view: &BatchView<'_>) -> Result<(), LogError> {
        let (meta, place) = (view.meta(input), self.places[input]);
        let mut record = Vec::new();
        let in_batch = view.placed_metas().find(|(i, m)| *i < input && m.fingerprint == meta.fingerprint);
        match in_batch {
            Some((first, _)) => record.extend_from_slice(view.record(first)),
            None => {
                let Some(position) = self.position_of(meta.fingerprint)? else { return Ok(()) };
                self.order_at(position, &mut record)?;
            }
        }
        let damaged = |e: sluice_schemas::CodecError| LogError::Store(format!("the first order under a key: {e}"));
        let first = OrderRef::decode(&record).map_err(damaged)?;
        let late = view.now_ms() as i64 - placed_at_ms(first.id) as i64;
        self.scratch.clear();
        Delta::Conflicted { order: meta.order.0 }.encode(late, &mut self.scratch);
        let (id, mut row) = (OrderId(first.id), Vec::new());
        let start = self.whole_row(id, view, &mut row)?;
        let number = self.numbering.next(id, &row[start..], &self.overlay, &self.scratch);
        self.event.clear();
        let event = encode::encode_conflict(&mut self.event, first.id, first.merchant, meta.order.0, view.now_ms());
        let mut emitter = self.world.emitter.borrow_mut();
        let decision = Decision::Added { source: place, order: first.id, deltas: &self.scratch };
        emitter.decision(self.partition, &decision);
        if let Some(number) = number {
            emitter.event(self.partition, place, number, &event, &self.event);
        }
        self.overlay.stage(id, &self.scratch);
        self.counts.conflicts += 1;
        Ok(())
    }

    fn position_of(&mut self, fingerprint: Fingerprint) -> Result<Option<u64>, LogError> {
        use sluice_pipeline::index::Probe;
        Ok(match self.index.find(fingerprint) {
            Probe::First(position) => Some(position),
            Probe::MaybeSpilled => self.spilled(fingerprint)?,
            Probe::New | Probe::InBatch(_) => None,
        })
    }

    /// Writes the shipments that were decided.
    fn ship(&mut self, view: &BatchView<'_>) -> Result<(), LogError> {
        let requests = std::mem::take(&mut self.requests);
        let inputs: Vec<usize> = view.placed_metas().map(|(i, _)| i).collect();
        let mut record = Vec::new();
        for (carrier, subject, range) in &requests.all {
            let delta = Delta::read(&mut wire::Reader::new(&requests.bytes[range.clone()]));
            let Ok((_, Delta::Requested(requested))) = delta else { continue };
            let bytes = match *subject {
                Subject::New(number) => view.record(inputs[number]),
                Subject::Known(_) => {
                    let missing = || LogError::Store("a request without its order's position".into());
                    record.clear();
                    self.order_at(requested.order_position.ok_or_else(missing)?, &mut record)?;
                    &record
                }
            };
            let shipment = Shipment {
                parcel: requested.parcel,
                attempt: requested.attempt,
                handling: requested.handling,
                weight: requested.weight,
                items: requested.items,
                record: bytes,
            };
            self.world.emitter.borrow_mut().shipment(self.partition, usize::from(*carrier), &shipment);
        }
        self.requests = requests;
        Ok(())
    }
}

impl Log for KafkaLog {
    fn poll(&mut self, batch: &mut Batch) -> Result<(), LogError> {
        self.places.clear();
        self.placed.clear();
        self.noted_to = 0;
        self.older.clear();
        while batch.byte_len() < Batch::MAX_BYTES / 2 && batch.len() < self.world.config.orders_per_commit {
            let Some(frame) = self.inbox.pop_front() else { break };
            if self.answers_within(&frame, batch) {
                self.inbox.push_front(frame);
                break;
            }
            self.take(&frame, batch);
            self.taken.push_back(frame);
        }
        batch.now_ms = self.world.clock.now_ms();
        Ok(())
    }

    fn index(&mut self) -> &mut Index {
        &mut self.index
    }

    fn spilled(&mut self, fingerprint: Fingerprint) -> Result<Option<u64>, LogError> {
        for number in self.index.candidates(fingerprint) {
            if let Some(position) = self.runs.find(number, fingerprint)? {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    fn order_at(&mut self, position: u64, out: &mut Vec<u8>) -> Result<(), LogError> {
        let place = Place(position);
        if place.partition() == self.partition {
            for frames in [&self.taken, &self.recent] {
                if let Ok(at) = frames.binary_search_by_key(&place.offset(), |f| f.offset) {
                    return copy_order(&frames[at].bytes, place.entry(), out);
                }
            }
        }
        self.world.fetcher.borrow_mut().order_at(place, out)
    }

    fn rows(&mut self, batch: &BatchView<'_>, rows: &mut Rows) -> Result<(), LogError> {
        self.rows.clear();
        self.row_bytes.clear();
        for input in batch.range().filter(|&i| batch.meta(i).kind == InputKind::Word) {
            let mut bytes = std::mem::take(&mut self.row_bytes);
            let start = self.whole_row(batch.meta(input).order, batch, &mut bytes);
            self.row_bytes = bytes;
            self.rows.push((input as u32, start?..self.row_bytes.len()));
        }
        for (input, range) in &self.rows {
            let row = &self.row_bytes[range.clone()];
            rows.push_with(*input as usize, |out| {
                out.extend_from_slice(row);
                Ok::<_, LogError>(())
            })?;
        }
        Ok(())
    }

    fn commit(
        &mut self,
        batch: &BatchView<'_>,
        effects: &Effects,
        positions: &mut Vec<u64>,
    ) -> Result<(), CommitError> {
        self.requests.placed = 0;
        self.requests.bytes.clear();
        self.requests.all.clear();
        let mut additions = std::mem::take(&mut self.additions);
        let world = Rc::clone(&self.world);
        additions.encode(&world.config.carriers, batch, effects, &mut self.requests);
        for at in 0..additions.all().len() {
            if let Some(position) = self.add(at, &additions, batch, effects.rules) {
                positions.push(position);
                self.noted.push((batch.meta(additions.all()[at].input as usize).fingerprint, position));
            }
        }
        self.additions = additions;
        self.ship(batch)?;
        for input in batch.range().filter(|&i| batch.meta(i).kind == InputKind::Placed) {
            match batch.verdict(input) {
                Verdict::New => {}
                Verdict::Replayed => self.counts.replayed += 1,
                Verdict::Conflict => self.conflict(input, batch)?,
            }
        }
        self.world.emitter.borrow_mut().flush(self.partition);
        Ok(())
    }
}
