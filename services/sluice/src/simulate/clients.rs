//! Clients: checkouts that submit orders for their customers, send some again, some again with another body, and come
//! back when they were cut off or told to.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use sluice_domain::SlotCount;
use sluice_engine_embedded::{Engine, EngineConfig};
use sluice_pipeline::{Intake, Receipt, Submission};
use sluice_sim::{FaultPlan, Oracle, Rng, Violation, oracle::RequestNo, plan::Workload};

use super::{
    flag::Flag,
    goods::{Flaw, Goods, Wish},
};

/// A client that was turned away this often gives up.
const MAX_TRIES: u8 = 12;

type Receipts = Pin<Box<dyn Future<Output = Vec<Receipt>>>>;

struct Waiting {
    asked: Vec<(RequestNo, Wish)>,
    receipts: Receipts,
    woken: Arc<Flag>,
}

/// In runs with retention: what waits holds its segment and all later ones, and then nothing would ever be retired.
const HOLDS_EVERY: u32 = 60;

/// See the module.
pub(super) struct Clients {
    rng: Rng,
    work: Workload,
    goods: Arc<Goods>,
    slots: SlotCount,
    window_ms: u64,
    /// Every so manyth order may have goods that wait for a person.
    holds_every: u32,
    /// The longest pause between two submissions, µs.
    pause_us: u64,
    fresh_left: u32,
    next_key: u32,
    next_at_us: u64,
    /// What is to be sent again, by time and number.
    again: BTreeMap<(u64, u64), Wish>,
    numbers: u64,
    waiting: Vec<Waiting>,
}

impl Clients {
    /// The clients of `plan`.
    pub(super) fn new(plan: &FaultPlan, goods: Arc<Goods>, config: &EngineConfig) -> Self {
        let mut rng = plan.rng("clients");
        Self {
            pause_us: rng.pick(&[0, 2_000, 50_000, 1_000_000]).copied().unwrap_or(0),
            rng,
            work: plan.workload.clone(),
            goods,
            slots: config.slots,
            window_ms: config.window_ms,
            holds_every: if config.retention.is_on() { HOLDS_EVERY } else { 1 },
            fresh_left: plan.workload.orders,
            next_key: 0,
            next_at_us: 0,
            again: BTreeMap::new(),
            numbers: 0,
            waiting: Vec::new(),
        }
    }

    /// How many new orders have been sent.
    pub(super) fn sent(&self) -> u32 {
        self.next_key
    }

    /// True if everything new has been sent.
    pub(super) fn are_done(&self) -> bool {
        self.fresh_left == 0
    }

    /// When they next send something, µs.
    pub(super) fn wakes_at_us(&self) -> Option<u64> {
        let again = self.again.first_key_value().map(|(at, _)| at.0);
        again.into_iter().chain((self.fresh_left > 0).then_some(self.next_at_us)).min()
    }

    /// Sends what is due; gives how many orders that were.
    pub(super) fn send(&mut self, engine: &Engine, oracle: &mut Oracle, now_us: u64, now_ms: u64) -> usize {
        let mut wishes = Vec::new();
        let (low, high) = self.work.submission;
        let most = self.rng.between(low, high) as usize;
        while wishes.len() < most
            && let Some(entry) = self.again.first_entry()
            && entry.key().0 <= now_us
        {
            let wish = entry.remove();
            // Checkout takes no order whose time of placing is further away.
            if now_ms.abs_diff(wish.placed_at_ms) <= self.window_ms {
                wishes.push(wish);
            }
        }
        if self.fresh_left > 0 && self.next_at_us <= now_us {
            while wishes.len() < most && self.fresh_left > 0 {
                let wish = self.fresh(now_ms);
                self.plan_repetitions(&wish, now_us, &mut wishes);
                wishes.push(wish);
            }
            self.next_at_us = now_us + self.rng.below(self.pause_us + 1);
        }
        if !wishes.is_empty() { self.submit(engine, oracle, wishes, now_ms) } else { 0 }
    }

    fn fresh(&mut self, now_ms: u64) -> Wish {
        self.fresh_left -= 1;
        let rng = &mut self.rng;
        let merchant = if rng.coin() { 0 } else { rng.below(u64::from(self.work.merchants)) as u16 };
        let count = rng.between(self.work.lines.0, self.work.lines.1);
        // The last kind waits for a person.
        let waits = self.next_key.is_multiple_of(self.holds_every);
        let kinds = self.goods.kinds() as u64 - u64::from(!waits);
        let lines = (0..count).map(|_| (rng.below(kinds) as u16, rng.between(1, 3) as u32)).collect();
        let poison = rng.hits(self.work.poison);
        let flaw = match rng.below(3) {
            _ if !poison => Flaw::None,
            0 => Flaw::NoUnits,
            1 => Flaw::CutShort,
            _ => Flaw::Brittle,
        };
        // A customer's clock is never quite right. What is far ahead could be asked for again after the index has
        // forgotten it if this computer's clock were put back as well, so it stays well within the window.
        let placed_at_ms = now_ms - rng.below(self.window_ms / 4) + rng.below(self.window_ms / 8);
        self.next_key += 1;
        Wish { merchant, key: self.next_key, placed_at_ms, lines, flaw, revision: 0, tries: 0 }
    }

    /// Decides when `wish` will be sent again, changed or not; some of it goes into the same submission.
    fn plan_repetitions(&mut self, wish: &Wish, now_us: u64, wishes: &mut Vec<Wish>) {
        let mut repeated = Vec::new();
        if self.rng.hits(self.work.duplicates) {
            repeated.push(wish.clone());
        }
        if self.rng.hits(self.work.conflicts) {
            let mut other = wish.clone();
            if self.rng.coin() {
                other.revision = 1 + self.rng.below(3) as u8;
            } else {
                // Still within the window of the first: a key is not used again beyond it.
                other.placed_at_ms += 1 + self.rng.below(1_000.min(self.window_ms / 8));
            }
            repeated.push(other);
        }
        for wish in repeated {
            match self.rng.below(4) {
                0 => wishes.push(wish),
                1 => self.put_off(wish, now_us, self.window_ms * 1_000),
                _ => self.put_off(wish, now_us, 2_000_000),
            }
        }
    }

    fn put_off(&mut self, wish: Wish, now_us: u64, most_us: u64) {
        self.numbers += 1;
        self.again.insert((now_us + self.rng.below(most_us), self.numbers), wish);
    }

    fn submit(&mut self, engine: &Engine, oracle: &mut Oracle, wishes: Vec<Wish>, now_ms: u64) -> usize {
        let mut submission = Submission::default();
        for wish in &wishes {
            wish.put(&self.goods, self.slots, now_ms, &mut submission);
        }
        let mut asked = Vec::new();
        for (mut wish, order) in wishes.into_iter().zip(&submission.orders) {
            wish.tries += 1;
            // Every record here has a head that can be read.
            if let Ok(number) = oracle.sent(&submission.bytes[order.record.clone()]) {
                asked.push((number, wish));
            }
        }
        let count = asked.len();
        let (engine, woken) = (engine.clone(), Flag::up());
        let mut receipts: Receipts = Box::pin(async move { engine.submit(submission).await });
        // The first poll is what submits. What it may already answer is heard at the next.
        let early = poll(&mut receipts, &woken);
        if let Poll::Ready(early) = early {
            receipts = Box::pin(std::future::ready(early));
            woken.waker().wake();
        }
        self.waiting.push(Waiting { asked, receipts, woken });
        count
    }

    /// One client who was woken hears its answer; gives how many orders that were.
    pub(super) fn hear(&mut self, oracle: &mut Oracle, now_us: u64) -> Result<usize, Violation> {
        let woken: Vec<usize> = (0..self.waiting.len()).filter(|&i| self.waiting[i].woken.is_up()).collect();
        let Some(&at) = self.rng.pick(&woken) else { return Ok(0) };
        let waiting = &mut self.waiting[at];
        waiting.woken.take();
        let Poll::Ready(receipts) = poll(&mut waiting.receipts, &waiting.woken) else { return Ok(0) };
        let Waiting { asked, .. } = self.waiting.swap_remove(at);
        let count = asked.len();
        for ((number, wish), receipt) in asked.into_iter().zip(receipts) {
            oracle.answered(number, receipt)?;
            if let Receipt::Busy { retry_after_s, .. } = receipt
                && wish.tries < MAX_TRIES
                && self.rng.hits(self.work.retries)
            {
                self.put_off(wish, now_us + u64::from(retry_after_s) * 1_000_000, 1_000_000);
            }
        }
        Ok(count)
    }

    /// The process is gone: who waited hears nothing, and may come back.
    pub(super) fn cut_off(&mut self, now_us: u64) {
        for Waiting { asked, .. } in std::mem::take(&mut self.waiting) {
            for (_, wish) in asked {
                if wish.tries < MAX_TRIES && self.rng.hits(self.work.retries) {
                    self.put_off(wish, now_us, 3_000_000);
                }
            }
        }
    }
}

impl Clients {
    /// Submissions that wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

fn poll(receipts: &mut Receipts, woken: &Arc<Flag>) -> Poll<Vec<Receipt>> {
    receipts.as_mut().poll(&mut Context::from_waker(&woken.waker()))
}
