//! The queues in front of each partition: what somebody waits for (orders from checkout, carriers' news), outcomes from
//! notifiers, and the answers on their way back. Both queues are bounded in bytes; what doesn't fit is refused at once, or
//! offered again (outcomes).

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use sluice_domain::OrderId;
use sluice_pipeline::{Batch, OutcomeReport, Receipt, Submitted};

/// Bounds of one partition's queues.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// Bytes of orders and of carriers' news waiting for the owner; beyond it they are answered busy.
    pub order_bytes: usize,
    /// Bytes of outcomes waiting for the owner; beyond it notifiers wait.
    pub outcome_bytes: usize,
    /// A batch handed to the owner closes at this many bytes.
    pub batch_bytes: usize,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { order_bytes: 32 << 20, outcome_bytes: 8 << 20, batch_bytes: 1 << 20 }
    }
}

/// The answers to one submission; resolves when every order has its receipt.
#[derive(Debug)]
pub struct Ticket {
    left: AtomicU32,
    receipts: Box<[AtomicU32]>,
    waker: Mutex<Option<Waker>>,
}

const BUSY_SHIFT: u32 = 8;
/// Reasons for [`Receipt::Busy`], by code.
const REASONS: [&str; 3] = ["the partition's queue is full", "the disk is full", "the engine is stopping"];

/// Reason codes for [`busy`].
#[derive(Debug, Clone, Copy)]
pub enum Busy {
    /// The partition's queue is at its bound.
    Queue = 0,
    /// The journal has no room.
    Disk = 1,
    /// The engine drains or failed.
    Stopping = 2,
}

/// The receipt for a refused order.
pub fn busy(why: Busy) -> Receipt {
    let retry_after_s = if matches!(why, Busy::Queue) { 1 } else { 5 };
    Receipt::Busy { retry_after_s, reason: REASONS[why as usize] }
}

fn to_code(receipt: Receipt) -> u32 {
    match receipt {
        Receipt::Accepted => 1,
        Receipt::Replayed => 2,
        Receipt::Conflict => 3,
        Receipt::Busy { retry_after_s, reason } => {
            let why = REASONS.iter().position(|r| *r == reason).unwrap_or(0) as u32;
            4 | why << BUSY_SHIFT | retry_after_s << (2 * BUSY_SHIFT)
        }
    }
}

fn from_code(code: u32) -> Receipt {
    match code & 0xff {
        1 => Receipt::Accepted,
        2 => Receipt::Replayed,
        3 => Receipt::Conflict,
        _ => Receipt::Busy {
            retry_after_s: code >> (2 * BUSY_SHIFT),
            reason: REASONS[(code >> BUSY_SHIFT & 0xff) as usize % REASONS.len()],
        },
    }
}

impl Ticket {
    /// A ticket for `orders` orders.
    pub fn new(orders: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU32::new(orders as u32),
            receipts: (0..orders).map(|_| AtomicU32::new(0)).collect(),
            waker: Mutex::new(None),
        })
    }

    /// Gives `lines` their receipts.
    fn settle(&self, lines: &[(u32, Receipt)]) {
        for &(line, receipt) in lines {
            self.receipts[line as usize].store(to_code(receipt), Ordering::Relaxed);
        }
        // Release pairs with the acquire in `poll`: whoever sees zero sees all receipts.
        let before = self.left.fetch_sub(lines.len() as u32, Ordering::AcqRel);
        if before == lines.len() as u32
            && let Some(waker) = self.waker.lock().take()
        {
            waker.wake();
        }
    }
}

/// Resolves to the receipts of a ticket.
#[derive(Debug)]
pub struct Receipts(pub Arc<Ticket>);

impl Future for Receipts {
    type Output = Vec<Receipt>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<Receipt>> {
        let ticket = &self.0;
        if ticket.left.load(Ordering::Acquire) != 0 {
            *ticket.waker.lock() = Some(cx.waker().clone());
            if ticket.left.load(Ordering::Acquire) != 0 {
                return Poll::Pending;
            }
        }
        Poll::Ready(ticket.receipts.iter().map(|r| from_code(r.load(Ordering::Relaxed))).collect())
    }
}

/// Receipts to hand out together, in runs of one ticket each.
#[derive(Debug, Default)]
pub struct Acks {
    tickets: Vec<(Arc<Ticket>, usize)>,
    lines: Vec<(u32, Receipt)>,
}

impl Acks {
    /// Adds a receipt; consecutive ones of one ticket are settled in one go.
    pub fn push(&mut self, ticket: &Arc<Ticket>, line: u32, receipt: Receipt) {
        self.lines.push((line, receipt));
        match self.tickets.last_mut() {
            Some((last, end)) if Arc::ptr_eq(last, ticket) => *end = self.lines.len(),
            _ => self.tickets.push((Arc::clone(ticket), self.lines.len())),
        }
    }

    /// True if there is nobody to answer.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Hands all receipts out.
    pub fn send(self) {
        let mut start = 0;
        for (ticket, end) in &self.tickets {
            ticket.settle(&self.lines[start..*end]);
            start = *end;
        }
    }
}

/// Inputs on their way to the owner, with who waits for them.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The inputs.
    pub batch: Batch,
    /// Tickets named by `askers`.
    pub tickets: Vec<Arc<Ticket>>,
    /// One an input of `batch`, or none at all if nobody waits: ticket number and line.
    pub askers: Vec<(u32, u32)>,
}

impl Chunk {
    fn clear(&mut self) {
        self.batch.clear();
        self.tickets.clear();
        self.askers.clear();
    }
}

#[derive(Debug, Default)]
struct Queues {
    orders: VecDeque<Chunk>,
    order_bytes: usize,
    orders_pushed: u64,
    outcomes: VecDeque<Chunk>,
    outcome_bytes: usize,
    outcomes_pushed: u64,
    spare: Vec<Chunk>,
    wakers: Vec<Waker>,
    orders_next: bool,
    orders_closed: bool,
    closed: bool,
}

/// The queues of one partition.
#[derive(Debug)]
pub struct Queue {
    config: QueueConfig,
    queues: Mutex<Queues>,
    arrival: Condvar,
    /// True once it takes no further orders; readable without the lock.
    stopping: AtomicBool,
}

impl Queue {
    /// Empty queues.
    pub fn new(config: QueueConfig) -> Self {
        Self {
            config,
            queues: Mutex::new(Queues::default()),
            arrival: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Queues the orders that `orders` yields: line number in `ticket`, id, fingerprint, record. Refused ones get their
    /// receipt at once.
    pub fn push_orders<'a>(&self, ticket: &Arc<Ticket>, orders: impl Iterator<Item = (u32, &'a Submitted, &'a [u8])>) {
        self.push_waited_for(ticket, orders, |batch, order, record| {
            batch.push_placed(order.id, order.fingerprint, record);
        });
    }

    /// Likewise the words that `words` yields.
    pub fn push_words<'a>(&self, ticket: &Arc<Ticket>, words: impl Iterator<Item = (u32, OrderId, &'a [u8])>) {
        self.push_waited_for(ticket, words, |batch, order, record| batch.push_word(order, record));
    }

    fn push_waited_for<'a, T>(
        &self,
        ticket: &Arc<Ticket>,
        inputs: impl Iterator<Item = (u32, T, &'a [u8])>,
        push: impl Fn(&mut Batch, T, &'a [u8]),
    ) {
        let mut refused = Acks::default();
        {
            let mut guard = self.queues.lock();
            let q = &mut *guard;
            for (line, input, record) in inputs {
                if q.orders_closed || q.closed {
                    refused.push(ticket, line, busy(Busy::Stopping));
                    continue;
                }
                if q.order_bytes + record.len() > self.config.order_bytes {
                    refused.push(ticket, line, busy(Busy::Queue));
                    continue;
                }
                q.order_bytes += record.len();
                q.orders_pushed += 1;
                let chunk = open_chunk(&mut q.orders, &mut q.spare, self.config.batch_bytes);
                if chunk.tickets.last().is_none_or(|last| !Arc::ptr_eq(last, ticket)) {
                    chunk.tickets.push(Arc::clone(ticket));
                }
                chunk.askers.push((chunk.tickets.len() as u32 - 1, line));
                push(&mut chunk.batch, input, record);
            }
        }
        self.arrival.notify_one();
        refused.send();
    }

    /// Queues the report if there is room; else the waker is called when there may be.
    pub fn push_outcome(&self, report: &OutcomeReport, waker: &Waker, scratch: &mut Vec<u8>) -> bool {
        scratch.clear();
        report.outcome().encode(scratch);
        let mut guard = self.queues.lock();
        let q = &mut *guard;
        if q.closed || q.outcome_bytes + scratch.len() > self.config.outcome_bytes {
            if !q.wakers.iter().any(|w| w.will_wake(waker)) {
                q.wakers.push(waker.clone());
            }
            return false;
        }
        q.outcome_bytes += scratch.len();
        q.outcomes_pushed += 1;
        let chunk = open_chunk(&mut q.outcomes, &mut q.spare, self.config.batch_bytes);
        chunk.batch.push_word(report.shipment.order, scratch);
        drop(guard);
        self.arrival.notify_one();
        true
    }

    /// Takes the next chunk, orders and outcomes in turn; `spent` is reused.
    pub fn pop(&self, mut spent: Chunk) -> Option<Chunk> {
        spent.clear();
        let mut q = self.queues.lock();
        if q.spare.len() < 8 {
            q.spare.push(spent);
        }
        q.orders_next = !q.orders_next;
        let from_orders = if q.orders_next { !q.orders.is_empty() } else { q.outcomes.is_empty() };
        let chunk = if from_orders { q.orders.pop_front() } else { q.outcomes.pop_front() };
        let chunk = chunk?;
        if from_orders {
            q.order_bytes -= chunk.batch.byte_len();
        } else {
            q.outcome_bytes -= chunk.batch.byte_len();
            let wakers = std::mem::take(&mut q.wakers);
            drop(q);
            wakers.into_iter().for_each(Waker::wake);
        }
        Some(chunk)
    }

    /// Waits until something is queued, the queue is closed, or `timeout` passed.
    pub fn wait(&self, timeout: Duration) {
        let mut q = self.queues.lock();
        if q.orders.is_empty() && q.outcomes.is_empty() && !q.closed {
            self.arrival.wait_for(&mut q, timeout);
        }
    }

    /// Waits until the owner is woken, or `timeout` passed.
    pub fn wait_for_nudge(&self, timeout: Duration) {
        self.arrival.wait_for(&mut self.queues.lock(), timeout);
    }

    /// Wakes the owner, so that it looks at its other duties.
    pub fn nudge(&self) {
        self.arrival.notify_one();
    }

    /// Inputs ever queued that somebody waits for: orders, and carriers' news.
    pub fn orders_pushed(&self) -> u64 {
        self.queues.lock().orders_pushed
    }

    /// Outcomes ever queued.
    pub fn outcomes_pushed(&self) -> u64 {
        self.queues.lock().outcomes_pushed
    }

    /// Bytes of orders waiting.
    pub fn order_bytes(&self) -> usize {
        self.queues.lock().order_bytes
    }

    /// True if it takes no further orders.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Takes no further orders.
    pub fn close_orders(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.queues.lock().orders_closed = true;
    }

    /// Takes nothing more.
    pub fn close(&self) {
        let mut q = self.queues.lock();
        self.stopping.store(true, Ordering::Relaxed);
        q.closed = true;
        let wakers = std::mem::take(&mut q.wakers);
        drop(q);
        self.arrival.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// True if nothing more is taken.
    pub fn is_closed(&self) -> bool {
        self.queues.lock().closed
    }

    /// True once closed and empty.
    pub fn is_finished(&self) -> bool {
        let q = self.queues.lock();
        q.closed && q.orders.is_empty() && q.outcomes.is_empty()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        let q = self.queues.lock();
        q.orders.is_empty() && q.outcomes.is_empty()
    }
}

fn open_chunk<'q>(queue: &'q mut VecDeque<Chunk>, spare: &mut Vec<Chunk>, batch_bytes: usize) -> &'q mut Chunk {
    if queue.back().is_none_or(|c| c.batch.byte_len() >= batch_bytes) {
        queue.push_back(spare.pop().unwrap_or_default());
    }
    let last = queue.len() - 1;
    &mut queue[last]
}
