//! Customers who look their order up while everything goes on. What one was shown must still be true at every later
//! look, whatever crashed in between.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use sluice_domain::{Class, OrderId, OrderState, invariants::Invariant};
use sluice_engine_embedded::Engine;
use sluice_pipeline::{LogError, Orders, StoredOrder};
use sluice_schemas::{
    delta::{Delta, row_deltas},
    milestone::Milestone,
};
use sluice_sim::{Rng, Violation};

use super::flag::Flag;

type Answer = Pin<Box<dyn Future<Output = Result<Option<StoredOrder>, LogError>>>>;

#[derive(Debug, Clone, Copy)]
struct Seen {
    status: Milestone,
    class: Class,
    replays: u8,
}

struct Look {
    id: OrderId,
    /// What had been shown when this look began.
    floor: Option<Seen>,
    answer: Answer,
    woken: Arc<Flag>,
}

/// See the module.
pub(super) struct Looks {
    pending: Vec<Look>,
    seen: BTreeMap<OrderId, Seen>,
    left: u32,
    /// The bug: the latest event alone is the status.
    newest_wins: bool,
    /// What is over may be gone.
    retires: bool,
}

impl Looks {
    /// Customers who will look `most` times.
    pub(super) fn new(most: u32, newest_wins: bool, retires: bool) -> Self {
        Self { pending: Vec::new(), seen: BTreeMap::new(), left: most, newest_wins, retires }
    }

    /// Begins a look at one of the orders sent, or hears the answer of one under way; true if either was possible.
    pub(super) fn step(&mut self, engine: &Engine, ids: &[OrderId], rng: &mut Rng) -> Result<bool, Violation> {
        if rng.coin() && self.hear(rng)? {
            return Ok(true);
        }
        let Some(&id) = rng.pick(ids) else { return self.hear(rng) };
        if self.left == 0 {
            return self.hear(rng);
        }
        self.left -= 1;
        let engine = engine.clone();
        let answer = Box::pin(async move { engine.read(id).await });
        self.pending.push(Look { id, floor: self.seen.get(&id).copied(), answer, woken: Flag::up() });
        self.poll(self.pending.len() - 1)?;
        Ok(true)
    }

    fn hear(&mut self, rng: &mut Rng) -> Result<bool, Violation> {
        let woken: Vec<usize> = (0..self.pending.len()).filter(|&i| self.pending[i].woken.is_up()).collect();
        let Some(&at) = rng.pick(&woken) else { return Ok(false) };
        self.poll(at)?;
        Ok(true)
    }

    fn poll(&mut self, at: usize) -> Result<(), Violation> {
        let look = &mut self.pending[at];
        look.woken.take();
        let waker = look.woken.waker();
        let Poll::Ready(answer) = look.answer.as_mut().poll(&mut Context::from_waker(&waker)) else { return Ok(()) };
        let Look { id, floor, .. } = self.pending.swap_remove(at);
        match answer {
            Ok(stored) => self.compare(id, floor, stored.as_ref()),
            // The customer is told to try later.
            Err(_) => Ok(()),
        }
    }

    /// The judge's own look counts as one.
    pub(super) fn judged(&mut self, id: OrderId, stored: Option<&StoredOrder>) -> Result<(), Violation> {
        self.compare(id, self.seen.get(&id).copied(), stored)
    }

    fn compare(&mut self, id: OrderId, floor: Option<Seen>, stored: Option<&StoredOrder>) -> Result<(), Violation> {
        let Some(stored) = stored else {
            return match floor {
                // The judge knows how many there may be of these.
                Some(_) if self.retires => Ok(()),
                Some(_) => {
                    broken(Invariant::DurableBeforeAck, format!("order {id} was shown to a customer and is lost"))
                }
                None => Ok(()),
            };
        };
        let Ok(now) = self.read(id, &stored.row) else {
            return broken(Invariant::TornIsNotRot, format!("order {id} is stored unreadable"));
        };
        if let Some(before) = floor {
            if now.status < before.status {
                let what = format!("order {id} was shown as {}, then as {}", before.status.name(), now.status.name());
                return broken(Invariant::MonotoneStatus, what);
            }
            let called_off = before.class == Class::Finished && now.class == Class::Cancelled;
            let replayed = before.class == Class::DeadLettered && now.replays > before.replays;
            if before.class != Class::InFlight && now.class != before.class && !called_off && !replayed {
                let what = format!("order {id} was {:?} and is {:?}", before.class, now.class);
                return broken(Invariant::MonotoneStatus, what);
            }
        }
        let best = self.seen.entry(id).or_insert(now);
        if best.status <= now.status {
            *best = now;
        }
        Ok(())
    }

    fn read(&self, id: OrderId, row: &[u8]) -> Result<Seen, sluice_schemas::CodecError> {
        let state = OrderState::fold(id, row)?;
        let (class, replays) = (state.class(), state.last_replay());
        if !self.newest_wins {
            return Ok(Seen { status: state.status(), class, replays });
        }
        let deltas: Vec<(u64, Delta<'_>)> = row_deltas(id.placed_at_ms(), row).collect::<Result<_, _>>()?;
        let mut newest = OrderState::fold(id, &[])?;
        if let Some((at, _, rules, model)) = state.classified {
            newest.merge(at, Delta::Classified { parcels: 1, rules, model });
        }
        if let Some((at, delta)) = deltas.into_iter().max_by_key(|(at, _)| *at) {
            newest.merge(at, delta);
        }
        Ok(Seen { status: newest.status(), class, replays })
    }

    /// The process is gone, and with it every look under way.
    pub(super) fn cut_off(&mut self) {
        self.pending.clear();
    }

    /// Nobody begins to look any more.
    pub(super) fn end(&mut self) {
        self.left = 0;
    }
}

/// A broken promise.
pub(super) fn broken<T>(invariant: Invariant, what: String) -> Result<T, Violation> {
    Err(Violation { invariant, what })
}
