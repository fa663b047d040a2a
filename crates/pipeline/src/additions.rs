//! Turns a batch's effects into what its commit adds to the orders' rows: encoded deltas, the same on every engine. How
//! they are framed in a log is the engine's own affair, see [`Sink`].

use std::{ops::Range, sync::Arc};

use sluice_domain::{Class, OrderId};
use sluice_schemas::{
    command::{Command, Keep, Verdict, Wish},
    delta::{Delta, FIRST_RETURN, Requested, VOID},
    order::{peek_accepted_late, placed_at_ms},
    outcome::{Outcome, OutcomeKind},
    word::Tracked,
};

use crate::{
    batch::{BatchView, InputKind},
    effects::{Decision, Effects, Parcel, Route},
};

/// Which order a delta is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// An order of an earlier commit.
    Known(u128),
    /// An order of this commit, by what [`Sink::place`] gave for it.
    New(usize),
}

/// Takes the parts of a commit as they are decided.
pub trait Sink {
    /// A new order's record; gives its place within the commit, ascending.
    fn place(&mut self, record: &[u8]) -> usize;
    /// All new orders were placed; deltas follow.
    fn placed(&mut self) {}
    /// One encoded delta.
    fn delta(&mut self, subject: Subject, delta: &[u8]);
    /// One encoded [`Delta::Requested`] for carrier number `carrier`.
    fn request(&mut self, carrier: u16, subject: Subject, delta: &[u8]);
}

/// What a commit adds to one order's row.
#[derive(Debug)]
pub struct Addition {
    /// The order.
    pub id: OrderId,
    /// The input it follows from.
    pub input: u32,
    /// Encoded deltas, for [`Additions::deltas`]; without [`Delta::Accepted`], which needs the commit's position.
    pub deltas: Range<usize>,
    /// For a new order: its place within the commit, and ms from `placed_at` to its acceptance.
    pub born: Option<(usize, i64)>,
    /// What it means for the order's class.
    pub settles: Settles,
    /// A parcel of it waits to be reviewed from now on.
    pub holds: bool,
}

/// What the decision alone tells about an order's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settles {
    /// It stays in flight.
    No,
    /// It is decided.
    As(Class),
    /// The row must be read.
    Perhaps,
    /// What was dead-lettered may be in flight again, or decided otherwise: the row must be read as it was and as it is.
    Anew,
}

/// Reused buffers.
#[derive(Debug, Default)]
pub struct Additions {
    arena: Vec<u8>,
    additions: Vec<Addition>,
    /// Places within the commit, ascending by input.
    places: Vec<(u32, usize)>,
}

/// One batch being encoded.
struct Encoder<'a, S> {
    to: &'a mut Additions,
    view: &'a BatchView<'a>,
    effects: &'a Effects,
    carriers: &'a [Arc<str>],
    sink: &'a mut S,
    /// A parcel of the order that is being encoded waits to be reviewed.
    holds: bool,
}

impl Additions {
    /// Encodes what `effects` decide about `view`, and hands it to `sink`. `carriers` are ids by carrier number.
    pub fn encode<S: Sink>(&mut self, carriers: &[Arc<str>], view: &BatchView<'_>, effects: &Effects, sink: &mut S) {
        self.places.clear();
        self.additions.clear();
        self.arena.clear();
        for (i, _) in view.placed_metas() {
            self.places.push((i as u32, sink.place(view.record(i))));
        }
        sink.placed();
        Encoder { to: self, view, effects, carriers, sink, holds: false }.run();
    }

    /// What was last encoded, new orders ascending by place.
    pub fn all(&self) -> &[Addition] {
        &self.additions
    }

    /// The encoded deltas of an addition.
    pub fn deltas(&self, addition: &Addition) -> &[u8] {
        &self.arena[addition.deltas.clone()]
    }
}

impl<S: Sink> Encoder<'_, S> {
    fn run(mut self) {
        let mut placed = 0;
        for (input, decision) in self.effects.decisions() {
            match decision {
                Decision::Settled { .. } => self.settled(*input as usize, decision),
                Decision::Tracked { resolves } => self.tracked(*input as usize, *resolves),
                Decision::Commanded { verdict, parcels } => self.commanded(*input as usize, *verdict, parcels.clone()),
                Decision::Rejected { .. } | Decision::Classified { .. }
                    if self.view.meta(*input as usize).kind == InputKind::Word =>
                {
                    match Command::decode(self.view.record(*input as usize)) {
                        Ok(command) => self.anew(*input, &command, decision),
                        Err(_) => self.unreadable(*input, decision),
                    }
                }
                _ => {
                    placed = self.skip_undecided(placed, *input);
                    // A second decision on one order, or one out of turn, must not fall on its neighbour.
                    if self.to.places.get(placed).is_none_or(|&(i, _)| i != *input) {
                        tracing::error!(input, "a stage decided an order twice or out of turn; ignored");
                        continue;
                    }
                    self.placed(placed, decision);
                    placed += 1;
                }
            }
        }
        self.skip_undecided(placed, u32::MAX);
    }

    /// Orders that no stage decided on stay in flight, but they are accepted all the same.
    fn skip_undecided(&mut self, mut placed: usize, input: u32) -> usize {
        while self.to.places.get(placed).is_some_and(|&(i, _)| i < input) {
            let (i, place) = self.to.places[placed];
            let born = Some((place, accepted_late(self.view, i as usize)));
            let id = self.view.meta(i as usize).order;
            self.push((id, i), self.to.arena.len(), born, Settles::No);
            placed += 1;
        }
        placed
    }

    /// Ends what is added to an order because of `input`: all deltas from `start` on.
    fn push(&mut self, (id, input): (OrderId, u32), start: usize, born: Option<(usize, i64)>, settles: Settles) {
        let (deltas, holds) = (start..self.to.arena.len(), std::mem::take(&mut self.holds));
        self.to.additions.push(Addition { id, input, deltas, born, settles, holds });
    }

    fn placed(&mut self, placed: usize, decision: &Decision) {
        let (view, effects) = (self.view, self.effects);
        let Some(&(input, place)) = self.to.places.get(placed) else { return };
        let id = view.meta(input as usize).order;
        let late = view.now_ms() as i64 - placed_at_ms(id.0) as i64;
        let (start, target) = (self.to.arena.len(), Subject::New(place));
        let settles = match decision {
            Decision::Classified { parcels, .. } => self.classified(target, late, parcels.clone()),
            Decision::Rejected { reason, replay } => {
                self.dead(target, late, None, effects.text(reason), *replay);
                Settles::As(Class::DeadLettered)
            }
            Decision::Settled { .. } | Decision::Tracked { .. } | Decision::Commanded { .. } => Settles::No,
        };
        let born = Some((place, accepted_late(view, input as usize)));
        self.push((id, input), start, born, settles);
    }

    /// What an order became.
    fn classified(&mut self, target: Subject, late: i64, parcels: Range<u32>) -> Settles {
        let (effects, count) = (self.effects, (parcels.end - parcels.start) as u8);
        self.add(target, late, &Delta::Classified { parcels: count, rules: effects.rules, model: effects.model });
        let mut open = 0;
        for index in parcels {
            open += usize::from(self.parcel(target, late, effects.parcel(index)));
        }
        match (open, count) {
            (0, 0) => Settles::As(Class::Finished),
            (0, _) => Settles::As(Class::DeadLettered),
            _ => Settles::No,
        }
    }

    /// A whole order that a command has decided anew: as a new one, under the command that asked for it.
    fn anew(&mut self, input: u32, &Command { order, id: command, wish, .. }: &Command<'_>, decision: &Decision) {
        let Wish::Replay { by } = wish else { return };
        let late = self.view.now_ms() as i64 - placed_at_ms(order) as i64;
        let (id, start, target) = (OrderId(order), self.to.arena.len(), Subject::Known(order));
        let replay = match decision {
            Decision::Classified { anew: Some(anew), .. } => anew.number,
            Decision::Rejected { replay, .. } => *replay,
            _ => return,
        };
        self.add(target, late, &Delta::Commanded { id: command, verdict: Verdict::Done });
        self.add(target, late, &Delta::Replayed { parcel: None, replay, attempt: 0, command, by });
        match decision {
            Decision::Rejected { reason, .. } => self.dead(target, late, None, self.effects.text(reason), replay),
            Decision::Classified { parcels, .. } => _ = self.classified(target, late, parcels.clone()),
            _ => {}
        }
        self.push((id, input), start, None, Settles::Anew);
    }

    fn settled(&mut self, input: usize, decision: &Decision) {
        let (view, effects) = (self.view, self.effects);
        let Decision::Settled { next, dead_letter, parcel, attempt, kind } = decision else { return };
        let Ok(outcome) = Outcome::decode(view.record(input)) else { return };
        let id = OrderId(outcome.order);
        let placed_at = placed_at_ms(outcome.order) as i64;
        let (start, target) = (self.to.arena.len(), Subject::Known(outcome.order));
        // A tracking number is what came with an acceptance; what else was said is no number.
        let forgotten = *attempt & VOID != 0 && *kind == OutcomeKind::Accepted;
        let text = if *kind == outcome.kind && !forgotten { outcome.text } else { "" };
        let settled = Delta::Settled { parcel: *parcel, attempt: *attempt, outcome: *kind, text };
        self.add(target, outcome.at_ms as i64 - placed_at, &settled);
        let late = view.now_ms() as i64 - placed_at;
        let mut open = *kind == OutcomeKind::Unknown;
        if let Some(index) = next {
            open |= self.parcel(target, late, effects.parcel(*index));
        }
        if let Some((reason, replay)) = dead_letter {
            self.dead(target, late, Some(*parcel), effects.text(reason), *replay);
        }
        // What was decided stays so, whatever becomes of a void or a return.
        let aside = *attempt & VOID != 0 || *parcel >= FIRST_RETURN;
        // A dead letter decides the parcel whatever the answer was.
        let settles = if aside || open && dead_letter.is_none() { Settles::No } else { Settles::Perhaps };
        self.push((id, input as u32), start, None, settles);
    }

    fn tracked(&mut self, input: usize, resolves: bool) {
        let view = self.view;
        let Ok(tracked) = Tracked::decode(view.record(input)) else { return };
        let Tracked { order, parcel, attempt, progress, text, at_ms, .. } = tracked;
        let placed_at = placed_at_ms(order) as i64;
        let (start, target) = (self.to.arena.len(), Subject::Known(order));
        self.add(target, at_ms as i64 - placed_at, &Delta::Tracked { parcel, attempt, progress, text });
        let mut settles = Settles::No;
        if resolves {
            let settled = Delta::Settled { parcel, attempt, outcome: OutcomeKind::Accepted, text: "" };
            self.add(target, view.now_ms() as i64 - placed_at, &settled);
            settles = Settles::Perhaps;
        }
        self.push((OrderId(order), input as u32), start, None, settles);
    }

    fn commanded(&mut self, input: usize, verdict: Verdict, parcels: Range<u32>) {
        let (view, effects) = (self.view, self.effects);
        let Ok(Command { order, id: command, wish, .. }) = Command::decode(view.record(input)) else { return };
        let late = view.now_ms() as i64 - placed_at_ms(order) as i64;
        let (id, start, target) = (OrderId(order), self.to.arena.len(), Subject::Known(order));
        self.add(target, late, &Delta::Commanded { id: command, verdict });
        let mut withdraws = false;
        for index in parcels {
            let parcel = effects.parcel(index);
            match (wish, parcel.source) {
                (Wish::Return { reason, .. }, Some((source, units))) => {
                    self.add(target, late, &Delta::Return { parcel: parcel.number, source, units, command, reason });
                }
                (Wish::Review { handling, keep, by, .. }, _) => {
                    let (parcel, handling) = (parcel.number, Some(handling));
                    self.add(target, late, &Delta::Reviewed { parcel, handling, keep, command, by });
                }
                (Wish::Cancel, _) if parcel.route == Route::Nothing => {
                    let (parcel, keep) = (parcel.number, Keep::No);
                    self.add(target, late, &Delta::Reviewed { parcel, handling: None, keep, command, by: "" });
                    withdraws = true;
                }
                (Wish::Replay { by }, _) => {
                    let (number, replay, attempt) = (Some(parcel.number), parcel.replay, parcel.attempt);
                    self.add(target, late, &Delta::Replayed { parcel: number, replay, attempt, command, by });
                }
                _ => {}
            }
            self.parcel(target, late, parcel);
        }
        // What carriers are asked to forget or to bring back is no part of what an order's class hangs on.
        let settles = match wish {
            Wish::Replay { .. } if verdict == Verdict::Done => Settles::Anew,
            Wish::Review { .. } if verdict == Verdict::Done => Settles::Perhaps,
            Wish::Cancel if withdraws => Settles::Perhaps,
            _ => Settles::No,
        };
        self.push((id, input as u32), start, None, settles);
    }

    /// A word that can't be read: somebody must look at its order.
    fn unreadable(&mut self, input: u32, decision: &Decision) {
        let (view, effects) = (self.view, self.effects);
        let Decision::Rejected { reason, replay } = decision else { return };
        let (id, start) = (view.meta(input as usize).order, self.to.arena.len());
        let late = view.now_ms() as i64 - placed_at_ms(id.0) as i64;
        self.dead(Subject::Known(id.0), late, None, effects.text(reason), *replay);
        self.push((id, input), start, None, Settles::Perhaps);
    }

    /// Adds a parcel's request, or why nobody carries it; true if it stays undecided: a carrier is asked, or a person.
    fn parcel(&mut self, target: Subject, late: i64, parcel: &Parcel) -> bool {
        let effects = self.effects;
        let carrier = match &parcel.route {
            Route::Carrier(number) => *number,
            Route::Nobody(reason) => {
                if parcel.attempt == 0 {
                    let (handling, items) = (parcel.group as u8, effects.items(parcel));
                    let (parcel, weight) = (parcel.number, parcel.weight);
                    self.add(target, late, &Delta::Packed { parcel, handling, weight, items });
                }
                self.dead(target, late, Some(parcel.number), effects.text(reason), parcel.replay);
                return false;
            }
            Route::Held(likely, confidence) => {
                let (handling, items) = (*likely as u8, effects.items(parcel));
                let (parcel, weight, confidence) = (parcel.number, parcel.weight, *confidence);
                self.add(target, late, &Delta::Held { parcel, handling, confidence, weight, items });
                self.holds = true;
                return true;
            }
            Route::Open | Route::Nothing => return false,
        };
        let delta = Delta::Requested(Requested {
            parcel: parcel.number,
            attempt: parcel.attempt,
            handling: parcel.group as u8,
            carrier: &self.carriers[usize::from(carrier)],
            weight: parcel.weight,
            items: effects.items(parcel),
            order_position: parcel.order_position,
        });
        let start = self.to.arena.len();
        delta.encode(late, &mut self.to.arena);
        self.sink.request(carrier, target, &self.to.arena[start..]);
        true
    }

    /// Adds that nobody carries a parcel, or that no stage could decide an order.
    fn dead(&mut self, target: Subject, late: i64, parcel: Option<u8>, reason: &str, replay: u8) {
        let delta = Delta::DeadLettered { parcel, rules: self.effects.rules, reason, replay };
        self.add(target, late, &delta);
    }

    fn add(&mut self, target: Subject, late: i64, delta: &Delta<'_>) {
        let start = self.to.arena.len();
        delta.encode(late, &mut self.to.arena);
        self.sink.delta(target, &self.to.arena[start..]);
    }
}

fn accepted_late(view: &BatchView<'_>, input: usize) -> i64 {
    let now = view.now_ms() as i64 - placed_at_ms(view.meta(input).order.0) as i64;
    peek_accepted_late(view.record(input)).unwrap_or(now)
}
