//! The one loop of an owner: poll → find duplicates → read rows → apply → commit.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use hashbrown::{HashTable, hash_table::Entry};
use sluice_domain::{
    OrderId, OrderState, ShipmentId,
    commands::{Anew, is_settled, plan_replay},
    order_state::{NewsStep, OutcomeStep, last_replay, on_news, on_outcome},
};
use sluice_schemas::{
    command::{self, is_replay, is_review},
    delta::VOID,
    order::OrderRef,
    outcome::OutcomeKind,
    word::{About, peek_about},
};

use crate::{
    batch::{Batch, Input, InputKind, InputMeta, Replayed, Rows, Verdict},
    effects::{Decision, Effects, Route},
    health::{CarrierHealth, HealthBoard},
    index::Probe,
    ports::{Clock, CommitError, Log, LogError},
    stage::{Ctx, Stage},
};

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Step {
    /// Inputs taken from the log.
    pub inputs: usize,
    /// New orders among them that were committed.
    pub new_orders: usize,
    /// Orders answered as the repetition of an earlier one.
    pub replayed: usize,
    /// Inputs refused for want of room.
    pub refused: usize,
}

/// Replays that are decided at once: each may bring an order's whole record with it.
const REPLAYS_AT_ONCE: usize = 64;

/// Drives the stages over one partition of an engine.
pub struct Runner<L> {
    log: L,
    stages: Vec<Box<dyn Stage>>,
    health: Arc<HealthBoard>,
    clock: Arc<dyn Clock>,
    batch: Batch,
    rows: Rows,
    effects: Effects,
    carriers: Vec<CarrierHealth>,
    positions: Vec<u64>,
    answered: HashTable<ShipmentId>,
    /// Orders of the segment in the making that a word is about as a whole.
    whole: HashTable<OrderId>,
    /// Orders of the segment in the making, as far as one of those words had to know them.
    noted: HashTable<OrderId>,
    first_record: Vec<u8>,
}

impl<L: Log> Runner<L> {
    /// A runner of `stages`, in that order, over `log`.
    pub fn new(log: L, stages: Vec<Box<dyn Stage>>, health: Arc<HealthBoard>, clock: Arc<dyn Clock>) -> Self {
        Self {
            log,
            stages,
            health,
            clock,
            batch: Batch::default(),
            rows: Rows::default(),
            effects: Effects::default(),
            carriers: Vec::new(),
            positions: Vec::new(),
            answered: HashTable::new(),
            whole: HashTable::new(),
            noted: HashTable::new(),
            first_record: Vec::new(),
        }
    }

    /// The partition driven.
    pub fn log(&mut self) -> &mut L {
        &mut self.log
    }

    /// Takes one batch from the log and commits what follows from it.
    ///
    /// # Errors
    /// [`LogError`] when the engine can't go on; nothing of the batch was acknowledged then.
    pub fn step(&mut self) -> Result<Step, LogError> {
        self.batch.clear();
        self.log.poll(&mut self.batch)?;
        let mut step = Step { inputs: self.batch.len(), ..Step::default() };
        self.health.snapshot(&mut self.carriers);
        let mut start = 0;
        while start < self.batch.len() {
            let end = self.end_of_segment(start);
            self.run_segment(start..end, &mut step)?;
            start = end;
        }
        Ok(step)
    }

    /// Two words about one shipment never share a commit, nor does a word about a whole order with any other about that
    /// order or with the order itself: each is decided on rows that hold what came before it.
    fn end_of_segment(&mut self, start: usize) -> usize {
        self.answered.clear();
        self.whole.clear();
        self.noted.clear();
        let (mut noted_to, mut replays) = (start, 0);
        for i in start..self.batch.len() {
            let InputMeta { kind: InputKind::Word, order, .. } = *self.batch.meta(i) else { continue };
            let free = match peek_about(self.batch.record(i)) {
                Ok(About::Attempt(parcel, attempt)) => {
                    let hash = |s: &ShipmentId| s.order.hash64() ^ u64::from(s.parcel) << 8 ^ u64::from(s.attempt);
                    !has(&self.whole, order) && insert(&mut self.answered, ShipmentId { order, parcel, attempt }, hash)
                }
                Ok(About::Order) => {
                    // Only a batch that has such a word pays for this.
                    for before in noted_to..i {
                        insert(&mut self.noted, self.batch.meta(before).order, |id| id.hash64());
                    }
                    noted_to = i;
                    replays += usize::from(is_replay(self.batch.record(i)));
                    replays <= REPLAYS_AT_ONCE
                        && !has(&self.noted, order)
                        && insert(&mut self.whole, order, |id| id.hash64())
                }
                Err(_) => true,
            };
            if !free {
                return i;
            }
        }
        self.batch.len()
    }

    fn run_segment(&mut self, range: Range<usize>, step: &mut Step) -> Result<(), LogError> {
        self.find_duplicates(range.clone())?;
        self.rows.clear();
        self.effects.clear();
        self.positions.clear();
        self.log.rows(&self.batch.view(range.clone()), &mut self.rows)?;
        self.read_anew(range.clone())?;
        self.apply(range.clone());
        self.close_routes();
        let view = self.batch.view(range.clone());
        match self.log.commit(&view, &self.effects, &mut self.positions) {
            Ok(()) => {
                self.log.index().commit();
                self.count_held();
                let new = range
                    .clone()
                    .filter(|&i| self.batch.meta(i).kind == InputKind::Placed && self.batch.verdict(i) == Verdict::New);
                for (i, &position) in new.zip(&self.positions) {
                    self.log.index().insert(self.batch.meta(i).fingerprint, position);
                }
                step.new_orders += self.positions.len();
                step.replayed += range.filter(|&i| self.batch.verdict(i) == Verdict::Replayed).count();
                Ok(())
            }
            Err(CommitError::Refused(reason)) => {
                self.log.index().abort();
                step.refused += range.len();
                tracing::warn!(reason, inputs = range.len(), "batch refused");
                Ok(())
            }
            Err(CommitError::Fatal(error)) => {
                self.log.index().abort();
                Err(error)
            }
        }
    }

    /// Counts parcels that wait to be reviewed from now on, and those that no longer do.
    fn count_held(&self) {
        let held = self.effects.parcels().iter().filter(|parcel| matches!(parcel.route, Route::Held(..))).count();
        if held > 0 {
            metrics::counter!("sluice_parcels_held_total").increment(held as u64);
        }
        let (mut reviewed, mut withdrawn) = (0, 0);
        for (input, decision) in self.effects.decisions() {
            let Decision::Commanded { verdict, parcels } = decision else { continue };
            if is_review(self.batch.record(*input as usize)) {
                reviewed += u64::from(*verdict == command::Verdict::Done);
            } else {
                // Held, and done away with by a cancellation.
                let gone = |parcel: &u32| self.effects.parcel(*parcel).route == Route::Nothing;
                withdrawn += parcels.clone().filter(gone).count() as u64;
            }
        }
        if reviewed > 0 {
            metrics::counter!("sluice_parcels_reviewed_total").increment(reviewed);
        }
        if withdrawn > 0 {
            metrics::counter!("sluice_parcels_withdrawn_total").increment(withdrawn);
        }
    }

    fn find_duplicates(&mut self, range: Range<usize>) -> Result<(), LogError> {
        for i in range {
            let meta = *self.batch.meta(i);
            if meta.kind != InputKind::Placed {
                continue;
            }
            let first = match self.log.index().probe(meta.fingerprint, i as u32) {
                Probe::New => continue,
                Probe::InBatch(first) => {
                    let verdict = same_request(self.batch.record(first as usize), self.batch.record(i));
                    self.batch.set_verdict(i, verdict);
                    continue;
                }
                Probe::First(position) => Some(position),
                Probe::MaybeSpilled => self.log.spilled(meta.fingerprint)?,
            };
            let Some(position) = first else {
                self.log.index().note(meta.fingerprint, i as u32);
                continue;
            };
            self.first_record.clear();
            self.log.order_at(position, &mut self.first_record)?;
            let verdict = same_request(&self.first_record, self.batch.record(i));
            self.batch.set_verdict(i, verdict);
        }
        Ok(())
    }

    /// Reads the records of those orders that a command has decided anew.
    fn read_anew(&mut self, range: Range<usize>) -> Result<(), LogError> {
        for input in range {
            if self.batch.meta(input).kind != InputKind::Word || !is_replay(self.batch.record(input)) {
                continue;
            }
            let Ok(Input::Command(command)) = self.batch.input(input) else { continue };
            let Ok(state) = OrderState::fold(OrderId(command.order), self.rows.get(input)) else { continue };
            let Some((_, order_position)) = state.accepted else { continue };
            if is_settled(&state, command.id, command.wish) || plan_replay(&state) != Ok(Anew::Order) {
                continue;
            }
            let replayed = Replayed { order_position, number: state.last_replay() + 1 };
            self.first_record.clear();
            match self.log.order_at(order_position, &mut self.first_record) {
                // The batch will be refused, and then nobody knows the order.
                Err(_) if self.log.is_gone(order_position) => continue,
                // Nobody else's orders wait for this one.
                Err(error @ LogError::Damaged { .. }) => {
                    tracing::error!(order_id = %state.id, %error, "an order can't be read, and isn't decided anew");
                    continue;
                }
                read => read?,
            }
            self.rows.push_anew(input, &self.first_record, replayed);
        }
        Ok(())
    }

    /// Applies all stages to `range`; on a panic takes everything back and halves the range until the poison order is
    /// alone, which is then dead-lettered.
    fn apply(&mut self, range: Range<usize>) {
        let mark = self.effects.mark();
        let started = self.clock.monotonic_us();
        let calm = {
            let ctx = Ctx { now_ms: self.batch.now_ms, carriers: &self.carriers };
            let (stages, rows, effects) = (&self.stages, &self.rows, &mut self.effects);
            let view = self.batch.view(range.clone());
            let clock = &self.clock;
            // Stages keep no state of their own that a panic could leave half-changed, and effects are truncated below.
            catch_unwind(AssertUnwindSafe(|| {
                let mut from = started;
                for stage in stages {
                    stage.apply(&ctx, rows, &view, effects);
                    let now = clock.monotonic_us();
                    let seconds = (now - from) as f64 / 1e6;
                    metrics::histogram!("sluice_stage_batch_seconds", "stage" => stage.name()).record(seconds);
                    from = now;
                }
            }))
        };
        let Err(panic) = calm else { return };
        self.effects.truncate(mark);
        if range.len() > 1 {
            let middle = range.start + range.len() / 2;
            self.apply(range.start..middle);
            self.apply(middle..range.end);
            return;
        }
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        self.dead_letter(range.start, &format!("a stage panicked: {text}"));
    }

    fn dead_letter(&mut self, input: usize, reason: &str) {
        tracing::error!(order_id = %self.batch.meta(input).order, reason, "poison order");
        match self.batch.input(input) {
            Ok(Input::Outcome(o)) => {
                match on_outcome(self.rows.get(input), &o) {
                    // What is decided already, or was never asked, needs nobody to look at it.
                    Ok(OutcomeStep::Ignore) => return,
                    Ok(OutcomeStep::Resolve) => {
                        return self.effects.settle(input, o.parcel, o.attempt, OutcomeKind::Accepted);
                    }
                    _ => {}
                }
                self.effects.settle(input, o.parcel, o.attempt, o.kind);
                // A parcel that was taken doesn't end because its carrier wouldn't forget it.
                if o.kind != OutcomeKind::Accepted && o.attempt & VOID == 0 {
                    self.effects.dead_letter(reason, last_replay(self.rows.get(input)));
                }
            }
            // Needs no stage, and its order doesn't end because one panicked.
            Ok(Input::Tracked(t)) => match on_news(self.rows.get(input), &t) {
                Ok(NewsStep::Ignore) | Err(_) => {}
                Ok(step) => self.effects.track(input, step == NewsStep::Resolve),
            },
            // Poison as before, or its sender sees that nothing came of it and the order goes on.
            Ok(Input::Command(_)) => {
                if let Some(anew) = self.rows.anew(&self.batch.view(input..input + 1)).next() {
                    self.effects.reject_anew(input, reason, anew.replayed.number);
                }
            }
            _ => self.effects.reject_anew(input, reason, last_replay(self.rows.get(input))),
        }
    }

    fn close_routes(&mut self) {
        for index in 0..self.effects.parcels().len() {
            if self.effects.parcels()[index].route == Route::Open {
                self.effects.nobody(index, "no stage routed this parcel");
            }
        }
    }
}

fn has(table: &HashTable<OrderId>, id: OrderId) -> bool {
    !table.is_empty() && table.find(id.hash64(), |known| *known == id).is_some()
}

/// False if it was there.
fn insert<T: PartialEq>(table: &mut HashTable<T>, new: T, hash: impl Fn(&T) -> u64) -> bool {
    match table.entry(hash(&new), |known| *known == new, &hash) {
        Entry::Occupied(_) => false,
        Entry::Vacant(place) => {
            place.insert(new);
            true
        }
    }
}

/// Whether two records under one key are one request. What can't be read is no repetition of anything.
fn same_request(first: &[u8], again: &[u8]) -> Verdict {
    match (OrderRef::decode(first), OrderRef::decode(again)) {
        (Ok(a), Ok(b)) if a.id == b.id && a.body() == b.body() => Verdict::Replayed,
        _ => Verdict::Conflict,
    }
}
