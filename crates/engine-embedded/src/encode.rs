//! Turns a batch's effects into one frame of the journal and the additions to its orders' rows.

use std::{ops::Range, sync::Arc};

use sluice_domain::{Class, OrderId};
use sluice_pipeline::{
    BatchView, Effects,
    batch::InputKind,
    effects::{Decision, Parcel, Route},
};
use sluice_schemas::{
    delta::{Delta, Requested},
    order::{peek_accepted_late, placed_at_ms},
    outcome::{Outcome, OutcomeKind},
    wire::put_bytes,
};

use crate::journal::format::{FRAME_HEAD, FrameWriter, SECTION_HEAD, Target, kind};

/// Where the body of a frame's orders starts, counted from the frame's first byte.
pub(crate) const ORDERS_AT: usize = FRAME_HEAD + SECTION_HEAD;

/// What a commit adds to one order's row.
#[derive(Debug)]
pub(crate) struct Addition {
    pub(crate) id: OrderId,
    /// The input it follows from.
    pub(crate) input: u32,
    /// Encoded deltas, in [`Encoder::deltas`].
    pub(crate) deltas: Range<usize>,
    /// For a new order: offset in the orders body, and ms from `placed_at` to its acceptance.
    pub(crate) born: Option<(usize, i64)>,
    /// What it means for the order's class.
    pub(crate) settles: Settles,
}

/// What the decision alone tells about an order's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settles {
    /// It stays in flight.
    No,
    /// It is decided.
    As(Class),
    /// The row must be read.
    Perhaps,
}

/// Reused buffers.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    frame: FrameWriter,
    sections: Vec<u8>,
    requests: Vec<Vec<u8>>,
    arena: Vec<u8>,
    additions: Vec<Addition>,
    /// Offsets in the orders body, ascending by input.
    offsets: Vec<(u32, u32)>,
}

impl Encoder {
    pub(crate) fn new(carriers: usize) -> Self {
        Self { requests: vec![Vec::new(); carriers], ..Self::default() }
    }

    /// The frame for `view`; `None` if nothing is to be written.
    pub(crate) fn encode(
        &mut self,
        partition: u16,
        carriers: &[Arc<str>],
        view: &BatchView<'_>,
        effects: &Effects,
    ) -> Option<&[u8]> {
        self.offsets.clear();
        self.additions.clear();
        self.arena.clear();
        self.sections.clear();
        self.requests.iter_mut().for_each(Vec::clear);
        self.frame.start(partition);
        self.frame.open(kind::ORDERS);
        for (i, _) in view.placed_metas() {
            self.offsets.push((i as u32, self.frame.offset() as u32));
            put_bytes(self.frame.body(), view.record(i));
        }
        self.frame.close();
        let mut placed = 0;
        for (input, decision) in effects.decisions() {
            match decision {
                Decision::Settled { .. } => self.settled(*input as usize, decision, view, effects, carriers),
                Decision::Rejected { reason } if view.meta(*input as usize).kind == InputKind::Outcome => {
                    self.unreadable(*input, view, effects.text(reason), effects.rules);
                }
                _ => {
                    placed = self.skip_undecided(placed, *input, view);
                    // A second decision on one order, or one out of turn, must not fall on its neighbour.
                    if self.offsets.get(placed).is_none_or(|&(i, _)| i != *input) {
                        tracing::error!(input, "a stage decided an order twice or out of turn; ignored");
                        continue;
                    }
                    self.placed(placed, decision, view, effects, carriers);
                    placed += 1;
                }
            }
        }
        self.skip_undecided(placed, u32::MAX, view);
        self.finish(carriers)
    }

    /// Orders that no stage decided on stay in flight, but they are accepted all the same.
    fn skip_undecided(&mut self, mut placed: usize, input: u32, view: &BatchView<'_>) -> usize {
        while self.offsets.get(placed).is_some_and(|&(i, _)| i < input) {
            let (i, offset) = self.offsets[placed];
            let at = self.arena.len();
            let born = Some((offset as usize, accepted_late(view, i as usize)));
            let id = view.meta(i as usize).order;
            self.additions.push(Addition { id, input: i, deltas: at..at, born, settles: Settles::No });
            placed += 1;
        }
        placed
    }

    fn placed(
        &mut self,
        placed: usize,
        decision: &Decision,
        view: &BatchView<'_>,
        effects: &Effects,
        carriers: &[Arc<str>],
    ) {
        let Some(&(input, offset)) = self.offsets.get(placed) else { return };
        let id = view.meta(input as usize).order;
        let late = view.now_ms() as i64 - placed_at_ms(id.0) as i64;
        let (start, target) = (self.arena.len(), Target::Here(offset as usize));
        let settles = match decision {
            Decision::Classified { parcels } => {
                let count = (parcels.end - parcels.start) as u8;
                self.add(target, late, &Delta::Classified { parcels: count, rules: effects.rules });
                let mut open = 0;
                for index in parcels.clone() {
                    open += usize::from(self.parcel(target, late, effects.parcel(index), effects, carriers));
                }
                match (open, count) {
                    (0, 0) => Settles::As(Class::Finished),
                    (0, _) => Settles::As(Class::DeadLettered),
                    _ => Settles::No,
                }
            }
            Decision::Rejected { reason } => {
                let reason = effects.text(reason);
                self.add(target, late, &Delta::DeadLettered { parcel: None, rules: effects.rules, reason });
                Settles::As(Class::DeadLettered)
            }
            Decision::Settled { .. } => Settles::No,
        };
        let born = Some((offset as usize, accepted_late(view, input as usize)));
        self.additions.push(Addition { id, input, deltas: start..self.arena.len(), born, settles });
    }

    fn settled(
        &mut self,
        input: usize,
        decision: &Decision,
        view: &BatchView<'_>,
        effects: &Effects,
        carriers: &[Arc<str>],
    ) {
        let Decision::Settled { next, dead_letter, parcel, attempt, kind } = decision else { return };
        let Ok(outcome) = Outcome::decode(view.record(input)) else { return };
        let id = OrderId(outcome.order);
        let placed_at = placed_at_ms(outcome.order) as i64;
        let (start, target) = (self.arena.len(), Target::Id(outcome.order));
        let settled = Delta::Settled { parcel: *parcel, attempt: *attempt, outcome: *kind, text: outcome.text };
        self.add(target, outcome.at_ms as i64 - placed_at, &settled);
        let late = view.now_ms() as i64 - placed_at;
        let mut open = *kind == OutcomeKind::Unknown;
        if let Some(index) = next {
            open |= self.parcel(target, late, effects.parcel(*index), effects, carriers);
        }
        if let Some(reason) = dead_letter {
            let delta =
                Delta::DeadLettered { parcel: Some(*parcel), rules: effects.rules, reason: effects.text(reason) };
            self.add(target, late, &delta);
        }
        // A dead letter decides the parcel whatever the answer was.
        let settles = if open && dead_letter.is_none() { Settles::No } else { Settles::Perhaps };
        let deltas = start..self.arena.len();
        self.additions.push(Addition { id, input: input as u32, deltas, born: None, settles });
    }

    /// An outcome that can't be read: somebody must look at its order.
    fn unreadable(&mut self, input: u32, view: &BatchView<'_>, reason: &str, rules: u32) {
        let (id, start) = (view.meta(input as usize).order, self.arena.len());
        let late = view.now_ms() as i64 - placed_at_ms(id.0) as i64;
        self.add(Target::Id(id.0), late, &Delta::DeadLettered { parcel: None, rules, reason });
        let deltas = start..self.arena.len();
        self.additions.push(Addition { id, input, deltas, born: None, settles: Settles::Perhaps });
    }

    /// Adds a parcel's request, or why nobody carries it; true if a carrier is asked.
    fn parcel(&mut self, target: Target, late: i64, parcel: &Parcel, effects: &Effects, carriers: &[Arc<str>]) -> bool {
        let carrier = match &parcel.route {
            Route::Carrier(number) => *number,
            Route::Nobody(reason) => {
                if parcel.attempt == 0 {
                    let (handling, items) = (parcel.group as u8, effects.items(parcel));
                    let (parcel, weight_g) = (parcel.number, parcel.weight_g);
                    self.add(target, late, &Delta::Packed { parcel, handling, weight_g, items });
                }
                let (number, reason) = (Some(parcel.number), effects.text(reason));
                self.add(target, late, &Delta::DeadLettered { parcel: number, rules: effects.rules, reason });
                return false;
            }
            Route::Open => return false,
        };
        let delta = Delta::Requested(Requested {
            parcel: parcel.number,
            attempt: parcel.attempt,
            handling: parcel.group as u8,
            carrier: &carriers[usize::from(carrier)],
            weight_g: parcel.weight_g,
            items: effects.items(parcel),
            order_position: parcel.order_position,
        });
        let start = self.arena.len();
        delta.encode(late, &mut self.arena);
        let section = &mut self.requests[usize::from(carrier)];
        target.encode(section);
        section.extend_from_slice(&self.arena[start..]);
        true
    }

    fn add(&mut self, target: Target, late: i64, delta: &Delta<'_>) {
        let start = self.arena.len();
        delta.encode(late, &mut self.arena);
        target.encode(&mut self.sections);
        self.sections.extend_from_slice(&self.arena[start..]);
    }

    fn finish(&mut self, carriers: &[Arc<str>]) -> Option<&[u8]> {
        self.frame.open(kind::DELTAS);
        self.frame.body().extend_from_slice(&self.sections);
        self.frame.close();
        for (carrier, entries) in carriers.iter().zip(&self.requests).filter(|(_, e)| !e.is_empty()) {
            self.frame.open(kind::REQUESTS);
            put_bytes(self.frame.body(), carrier.as_bytes());
            self.frame.body().extend_from_slice(entries);
            self.frame.close();
        }
        self.frame.finish()
    }

    /// What the last frame adds to rows, new orders ascending by offset.
    pub(crate) fn additions(&self) -> &[Addition] {
        &self.additions
    }

    /// The encoded deltas of an addition.
    pub(crate) fn deltas(&self, addition: &Addition) -> &[u8] {
        &self.arena[addition.deltas.clone()]
    }
}

fn accepted_late(view: &BatchView<'_>, input: usize) -> i64 {
    let now = view.now_ms() as i64 - placed_at_ms(view.meta(input).order.0) as i64;
    peek_accepted_late(view.record(input)).unwrap_or(now)
}
