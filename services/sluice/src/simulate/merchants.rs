//! Merchants who have orders cancelled that were accepted, and operators who have dead letters replayed and say what is in
//! parcels that are held: some at once, some long after, some twice.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use sluice_domain::{Handling, OrderId, commands::MAX_CANCELS, invariants::Invariant};
use sluice_engine_embedded::Engine;
use sluice_pipeline::{Receipt, WordIntake, Words};
use sluice_schemas::command::{Command, Keep, Wish};
use sluice_sim::{FaultPlan, Oracle, Rng, Violation};

use super::{flag::Flag, looks::broken};

/// Every so manyth wish is for a replay, and the one after it a review.
const REPLAYS: u64 = 3;

type Receipts = Pin<Box<dyn Future<Output = Vec<Receipt>>>>;

struct Waiting {
    about: (OrderId, u64),
    receipts: Receipts,
    woken: Arc<Flag>,
}

/// See the module.
pub(super) struct Merchants {
    rng: Rng,
    left: u32,
    /// Commands that may be sent again under the same id.
    sent: Vec<(OrderId, u64)>,
    waiting: Vec<Waiting>,
}

impl Merchants {
    /// The merchants of `plan`: none in some runs, about one wish for four orders in others.
    pub(super) fn new(plan: &FaultPlan) -> Self {
        let mut rng = plan.rng("merchants");
        let most = rng.pick(&[0, 1, 4]).copied().unwrap_or(0);
        Self { left: plan.workload.orders * most / 4, rng, sent: Vec::new(), waiting: Vec::new() }
    }

    /// Hears an answer, or sends a wish; true if either was possible.
    pub(super) fn step(&mut self, engine: &Engine, oracle: &mut Oracle, now_ms: u64) -> Result<bool, Violation> {
        if self.rng.coin() && self.hear(oracle)? {
            return Ok(true);
        }
        if self.send(engine, oracle, now_ms) { Ok(true) } else { self.hear(oracle) }
    }

    fn send(&mut self, engine: &Engine, oracle: &Oracle, now_ms: u64) -> bool {
        if self.left == 0 {
            return false;
        }
        let again = if self.rng.below(4) == 0 { self.rng.pick(&self.sent).copied() } else { None };
        let about = again.or_else(|| {
            let id = u64::from(self.left);
            let mut ids: Vec<OrderId> = Vec::new();
            match wish_of(id) {
                Wish::Replay { .. } => ids.extend(oracle.dead_lettered()),
                Wish::Review { .. } => ids.extend(oracle.held()),
                Wish::Cancel | Wish::Return { .. } => {}
            }
            if ids.is_empty() {
                ids.extend(oracle.acknowledged());
            }
            Some((*self.rng.pick(&ids)?, id))
        });
        let Some((order, id)) = about else { return false };
        // Beyond its bound an order takes no notice, and who sends more can't tell.
        if self.sent.iter().filter(|sent| sent.0 == order).count() >= MAX_CANCELS {
            return false;
        }
        self.left -= 1;
        self.sent.push((order, id));
        let wish = wish_of(id);
        let words = Words::of_command(&Command { order: order.0, id, at_ms: now_ms, wish });
        let (engine, woken) = (engine.clone(), Flag::up());
        let mut receipts: Receipts = Box::pin(async move { engine.hear(words).await });
        // The first poll is what submits. What it may already answer is heard at the next.
        if let Poll::Ready(early) = poll(&mut receipts, &woken) {
            receipts = Box::pin(std::future::ready(early));
            woken.waker().wake();
        }
        self.waiting.push(Waiting { about: (order, id), receipts, woken });
        true
    }

    fn hear(&mut self, oracle: &mut Oracle) -> Result<bool, Violation> {
        let woken: Vec<usize> = (0..self.waiting.len()).filter(|&i| self.waiting[i].woken.is_up()).collect();
        let Some(&at) = self.rng.pick(&woken) else { return Ok(false) };
        let waiting = &mut self.waiting[at];
        waiting.woken.take();
        let Poll::Ready(receipts) = poll(&mut waiting.receipts, &waiting.woken) else { return Ok(false) };
        let Waiting { about: (order, id), .. } = self.waiting.swap_remove(at);
        match receipts.first() {
            Some(Receipt::Accepted) => oracle.heard(order, id),
            Some(Receipt::Busy { retry_after_s: 1.., .. }) => {}
            other => {
                let what = format!("a command about order {order} was answered {other:?}");
                return broken(Invariant::Bounded, what);
            }
        }
        Ok(true)
    }

    /// So many wishes more.
    pub(super) fn wish_again(&mut self, wishes: u32) {
        self.left += wishes;
    }

    /// The process is gone: who waited hears nothing.
    pub(super) fn cut_off(&mut self) {
        self.waiting.clear();
    }

    /// Wishes that wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// The same whenever it is sent again. What is held is what its rule takes it for, or nothing that ships.
fn wish_of(id: u64) -> Wish<'static> {
    let by = "operator";
    if id.is_multiple_of(REPLAYS) {
        return Wish::Replay { by };
    }
    if id % REPLAYS == 2 {
        return Wish::Cancel;
    }
    let class = if id.is_multiple_of(4) { Handling::NonGoods } else { Handling::HazmatCheck };
    Wish::Review { parcel: (id / REPLAYS % 4) as u8, handling: class as u8, keep: Keep::Rule, by }
}

fn poll(receipts: &mut Receipts, woken: &Arc<Flag>) -> Poll<Vec<Receipt>> {
    receipts.as_mut().poll(&mut Context::from_waker(&woken.waker()))
}
