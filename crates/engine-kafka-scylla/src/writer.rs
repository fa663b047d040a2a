//! Writes orders and words about them to the orders topic: one thread gathers what many requests bring into frames, one record
//! each, and a request is answered once the brokers have acknowledged every frame that it is part of.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message,
    client::Client,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};
use sluice_domain::OrderId;
use sluice_pipeline::{BoxFuture, Intake, OutcomeReport, Outcomes, Receipt, Submission, WordIntake, Words};
use sluice_schemas::frame;
use tokio::sync::oneshot;

use crate::{
    config::LogConfig,
    context::Quiet,
    ledger::Ledger,
    topics::{Deployment, Names, PATIENCE},
};

/// Bytes at which a frame is written without waiting for more.
const FRAME_BYTES: usize = 256 << 10;
/// How long a record may wait for its acknowledgement before its orders are answered 503.
const DELIVERY: Duration = Duration::from_secs(15);
/// Submissions that may wait for the thread.
const SUBMISSIONS: usize = 16 << 10;
/// Pause before a record that the brokers refused is written again.
const AGAIN: Duration = Duration::from_millis(100);
/// What a client is told to wait when the log can't be reached.
const BUSY: Receipt = Receipt::Busy { retry_after_s: 1, reason: "the log can't be reached" };

/// Who waits for entries of a frame.
enum Waiter {
    Ticket(Arc<Ticket>),
    Outcomes(Arc<Ledger>, u64),
}

/// One submission on its way.
struct Ticket {
    /// Of orders, not of words about them.
    orders: bool,
    receipts: Mutex<Vec<Receipt>>,
    left: AtomicUsize,
    answer: Mutex<Option<oneshot::Sender<Vec<Receipt>>>>,
}

impl Ticket {
    fn settle(&self, entries: &[u32], delivered: bool) {
        if !delivered {
            let mut receipts = self.receipts.lock();
            entries.iter().for_each(|&i| receipts[i as usize] = BUSY);
        }
        if self.left.fetch_sub(entries.len(), AcqRel) == entries.len()
            && let Some(answer) = self.answer.lock().take()
        {
            // Who asked may have gone.
            let _ = answer.send(std::mem::take(&mut *self.receipts.lock()));
        }
    }
}

/// What rides with a record until it is acknowledged.
struct Cargo {
    partition: u16,
    bytes: usize,
    outcomes: bool,
    waiters: Vec<(Waiter, Range<u32>)>,
    entries: Vec<u32>,
}

impl Cargo {
    /// How many of its entries are orders.
    fn orders(&self) -> u64 {
        let of_orders = self.waiters.iter().filter(|(w, _)| matches!(w, Waiter::Ticket(ticket) if ticket.orders));
        of_orders.map(|(_, range)| range.len() as u64).sum()
    }

    fn settle(&self, delivered: bool) {
        for (waiter, range) in &self.waiters {
            match waiter {
                Waiter::Ticket(ticket) => {
                    ticket.settle(&self.entries[range.start as usize..range.end as usize], delivered);
                }
                Waiter::Outcomes(ledger, sequence) if delivered => ledger.durable(*sequence),
                // Their outbox entries stay unsettled and come again.
                Waiter::Outcomes(..) => {}
            }
        }
    }
}

enum Work {
    Orders(Submission, Arc<Ticket>),
    Words(Words, Arc<Ticket>),
    /// Encoded outcomes: order, and where its bytes are.
    Outcomes(Vec<u8>, Vec<(OrderId, Range<usize>)>, Arc<Ledger>, u64),
}

/// A record that the brokers refused, and when it is written again.
type Refused = (Instant, Vec<u8>, Box<Cargo>);

/// What the thread, the brokers' answers and the ports share.
struct Shared {
    topic: String,
    deployment: Deployment,
    linger: Duration,
    queue_bytes: usize,
    waiting: AtomicUsize,
    /// Orders that are durable, since the start.
    acknowledged: AtomicU64,
    closed: AtomicBool,
    /// Records refused since the last one that was acknowledged.
    refused: AtomicU64,
    /// Set from outside while no orders shall be taken, with the reason.
    held: Mutex<Option<&'static str>>,
    work: SyncSender<Work>,
    /// Records of outcomes that the brokers refused, and when they are written again. Bounded: their bytes still count as
    /// waiting.
    again: Mutex<VecDeque<Refused>>,
    wakers: Mutex<Vec<Waker>>,
}

struct Delivery(Arc<Shared>);

impl ClientContext for Delivery {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, fac: &str, message: &str) {
        Quiet.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = Box<Cargo>;

    fn delivery(&self, result: &DeliveryResult<'_>, cargo: Box<Cargo>) {
        let shared = &self.0;
        match result {
            Ok(_) => {
                shared.refused.store(0, Relaxed);
                shared.release(cargo.bytes);
                shared.acknowledged.fetch_add(cargo.orders(), Relaxed);
                cargo.settle(true);
            }
            Err((error, message)) => {
                shared.refused.fetch_add(1, Relaxed);
                metrics::counter!("sluice_log_write_errors_total").increment(1);
                tracing::debug!(%error, partition = cargo.partition, "a record was not acknowledged");
                if cargo.outcomes && !shared.closed.load(Acquire) {
                    // Outcomes are never given up: the carrier has acted.
                    let payload = message.payload().unwrap_or_default().to_vec();
                    shared.again.lock().push_back((Instant::now() + AGAIN, payload, cargo));
                    return;
                }
                shared.release(cargo.bytes);
                cargo.settle(false);
            }
        }
    }
}

impl Shared {
    fn release(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, AcqRel);
        for waker in self.wakers.lock().drain(..) {
            waker.wake();
        }
    }
}

/// The way into the orders topic. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
}

impl Writer {
    /// Connects and starts the thread.
    ///
    /// # Errors
    /// [`KafkaError`] if the client can't be made.
    pub fn start(config: &LogConfig, deployment: Deployment) -> Result<Self, KafkaError> {
        let (work, inbox) = sync_channel(SUBMISSIONS);
        let shared = Arc::new(Shared {
            topic: Names::new(&config.prefix).orders(),
            deployment,
            linger: config.linger,
            queue_bytes: config.queue_bytes,
            waiting: AtomicUsize::new(0),
            acknowledged: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            held: Mutex::new(None),
            work,
            again: Mutex::new(VecDeque::new()),
            wakers: Mutex::new(Vec::new()),
        });
        let thread = Thread {
            producer: connect(config, &shared)?,
            config: config.clone(),
            frames: (0..2 * deployment.partitions).map(|_| Frame::default()).collect(),
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || thread.run(&inbox))
            .map_err(|e| KafkaError::ClientCreation(e.to_string()))?;
        Ok(Self { shared })
    }

    /// From now on no orders are taken, with the reason for `/readyz`; `None` takes them again.
    pub fn hold(&self, reason: Option<&'static str>) {
        *self.shared.held.lock() = reason;
    }

    /// Bytes that wait for the brokers.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.shared.waiting.load(Relaxed)
    }

    /// Orders that became durable since the start, repetitions among them.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Relaxed)
    }

    /// Takes nothing any more; what was taken is still written.
    pub fn close(&self) {
        self.shared.closed.store(true, Release);
    }

    /// Hands `count` inputs of `bytes` bytes to the thread; resolves when the brokers have them all, or don't.
    fn enqueue(
        &self,
        count: usize,
        bytes: usize,
        orders: bool,
        work: impl FnOnce(Arc<Ticket>) -> Work,
    ) -> BoxFuture<'_, Vec<Receipt>> {
        let at_once = |receipt| -> BoxFuture<'_, Vec<Receipt>> { Box::pin(std::future::ready(vec![receipt; count])) };
        if count == 0 {
            return at_once(BUSY);
        }
        if let Some(busy) = self.busy(bytes) {
            return at_once(busy);
        }
        let (answer, answered) = oneshot::channel();
        let ticket = Arc::new(Ticket {
            orders,
            receipts: Mutex::new(vec![Receipt::Accepted; count]),
            left: AtomicUsize::new(count),
            answer: Mutex::new(Some(answer)),
        });
        self.shared.waiting.fetch_add(bytes, AcqRel);
        if self.shared.work.try_send(work(ticket)).is_err() {
            self.shared.release(bytes);
            return at_once(Receipt::Busy { retry_after_s: 1, reason: "too many requests wait for the log" });
        }
        Box::pin(async move { answered.await.unwrap_or_else(|_| vec![BUSY; count]) })
    }

    fn busy(&self, bytes: usize) -> Option<Receipt> {
        let shared = &self.shared;
        if shared.waiting.load(Relaxed) + bytes > shared.queue_bytes {
            return Some(Receipt::Busy { retry_after_s: 1, reason: "too much waits for the log" });
        }
        self.ready().err().map(|reason| Receipt::Busy { retry_after_s: 1, reason })
    }
}

fn connect(config: &LogConfig, shared: &Arc<Shared>) -> Result<ThreadedProducer<Delivery>, KafkaError> {
    let mut client = config.producer();
    // The thread has gathered what belongs together.
    client.set("linger.ms", "0").set("delivery.timeout.ms", DELIVERY.as_millis().to_string());
    client.create_with_context(Delivery(Arc::clone(shared)))
}

impl Intake for Writer {
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Vec<Receipt>> {
        let (count, bytes) = (submission.orders.len(), submission.bytes.len());
        self.enqueue(count, bytes, true, |ticket| Work::Orders(submission, ticket))
    }

    fn ready(&self) -> Result<(), &'static str> {
        if self.shared.closed.load(Relaxed) {
            return Err("it is draining");
        }
        if let Some(reason) = *self.shared.held.lock() {
            return Err(reason);
        }
        // Nothing was acknowledged since several records were refused.
        if self.shared.refused.load(Relaxed) >= 3 && self.shared.waiting.load(Relaxed) > 0 {
            return Err("the log can't be reached");
        }
        Ok(())
    }
}

impl WordIntake for Writer {
    fn hear(&self, words: Words) -> BoxFuture<'_, Vec<Receipt>> {
        let (count, bytes) = (words.words.len(), words.bytes.len());
        self.enqueue(count, bytes, false, |ticket| Work::Words(words, ticket))
    }
}

/// One notifier's way into the log.
pub struct OutcomeWriter {
    writer: Writer,
    ledger: Arc<Ledger>,
}

impl OutcomeWriter {
    /// Writes through `writer`.
    #[must_use]
    pub fn new(writer: Writer) -> Self {
        Self { writer, ledger: Arc::default() }
    }

    /// What of it is durable.
    #[must_use]
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }
}

impl Outcomes for OutcomeWriter {
    fn report(&self, cx: &mut Context<'_>, reports: &mut Vec<OutcomeReport>) {
        let shared = &self.writer.shared;
        if reports.is_empty() {
            return;
        }
        // Outcomes may use half as much again as orders, so that a flood of orders can't shut them out.
        if shared.waiting.load(Relaxed) > shared.queue_bytes + shared.queue_bytes / 2 {
            shared.wakers.lock().push(cx.waker().clone());
            return;
        }
        let (mut bytes, mut entries) = (Vec::with_capacity(reports.len() * 64), Vec::with_capacity(reports.len()));
        for report in reports.iter() {
            let start = bytes.len();
            report.outcome().encode(&mut bytes);
            entries.push((report.shipment.order, start..bytes.len()));
        }
        let (len, count) = (bytes.len(), reports.len() as u64);
        let first = self.ledger.next.load(Acquire);
        shared.waiting.fetch_add(len, AcqRel);
        match shared.work.try_send(Work::Outcomes(bytes, entries, Arc::clone(&self.ledger), first)) {
            Ok(()) => {
                self.ledger.next.store(first + count, Release);
                reports.clear();
            }
            Err(_) => {
                shared.wakers.lock().push(cx.waker().clone());
                shared.release(len);
            }
        }
    }
}

/// A record being gathered.
#[derive(Default)]
struct Frame {
    bytes: Vec<u8>,
    payload: usize,
    waiters: Vec<(Waiter, Range<u32>)>,
    entries: Vec<u32>,
    since: Option<Instant>,
}

struct Thread {
    producer: ThreadedProducer<Delivery>,
    config: LogConfig,
    /// Orders by partition, then outcomes by partition.
    frames: Vec<Frame>,
    shared: Arc<Shared>,
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Work>) {
        loop {
            let wait = match self.frames.iter().filter_map(|f| f.since).min() {
                Some(since) => self.shared.linger.saturating_sub(since.elapsed()),
                None => AGAIN,
            };
            match inbox.recv_timeout(wait) {
                Ok(work) => self.take(work),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(work) = inbox.try_recv() {
                self.take(work);
            }
            self.write_due();
            self.write_again();
            let idle = self.frames.iter().all(|f| f.since.is_none()) && self.shared.waiting.load(Acquire) == 0;
            if self.shared.closed.load(Acquire) && idle {
                // The shared part keeps a sender, so the channel alone never says that it's over.
                return drop(self.producer.flush(PATIENCE));
            }
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Orders(submission, ticket) => {
                for (order, line) in submission.orders.iter().zip(0..) {
                    let record = &submission.bytes[order.record.clone()];
                    self.awaited(order.id, record, line, &ticket, frame::put_placed);
                }
                // Bytes of the arena that belong to no record would never be released.
                let used: usize = submission.orders.iter().map(|o| o.record.len()).sum();
                self.shared.release(submission.bytes.len().saturating_sub(used));
            }
            Work::Words(words, ticket) => {
                for ((order, range), line) in words.words.iter().zip(0..) {
                    self.awaited(*order, &words.bytes[range.clone()], line, &ticket, frame::put_word);
                }
            }
            Work::Outcomes(bytes, entries, ledger, first) => {
                for ((order, range), sequence) in entries.into_iter().zip(first..) {
                    let partition = self.shared.deployment.partition(order);
                    let at = usize::from(self.shared.deployment.partitions + partition);
                    self.room(at);
                    let frame = &mut self.frames[at];
                    frame::put_word(&mut frame.bytes, &bytes[range.clone()]);
                    frame.note(range.len(), 0, |_| false, || Waiter::Outcomes(Arc::clone(&ledger), sequence));
                }
            }
        }
    }

    /// Adds an input that `ticket` waits for to the frame of its partition.
    fn awaited(
        &mut self,
        order: OrderId,
        record: &[u8],
        line: u32,
        ticket: &Arc<Ticket>,
        put: fn(&mut Vec<u8>, &[u8]),
    ) {
        let at = usize::from(self.shared.deployment.partition(order));
        self.room(at);
        let frame = &mut self.frames[at];
        put(&mut frame.bytes, record);
        let same = |w: &Waiter| matches!(w, Waiter::Ticket(t) if Arc::ptr_eq(t, ticket));
        frame.note(record.len(), line, same, || Waiter::Ticket(Arc::clone(ticket)));
    }

    /// Makes sure that one more entry fits into frame `at`, and that it is begun.
    fn room(&mut self, at: usize) {
        if self.frames[at].bytes.len() >= FRAME_BYTES || self.frames[at].entries.len() >= frame::MAX_ENTRIES - 1 {
            self.write(at);
        }
        let frame = &mut self.frames[at];
        if frame.since.is_none() {
            frame.since = Some(Instant::now());
            frame::start(&mut frame.bytes, self.shared.deployment.epoch);
        }
    }

    fn write_due(&mut self) {
        for at in 0..self.frames.len() {
            let frame = &self.frames[at];
            let due = frame.since.is_some_and(|since| since.elapsed() >= self.shared.linger);
            if due || frame.bytes.len() >= FRAME_BYTES {
                self.write(at);
            }
        }
    }

    fn write_again(&mut self) {
        loop {
            let due = {
                let mut again = self.shared.again.lock();
                match again.front() {
                    Some((at, ..)) if *at <= Instant::now() => again.pop_front(),
                    _ => None,
                }
            };
            let Some((_, payload, cargo)) = due else { return };
            self.send(payload, cargo);
        }
    }

    fn write(&mut self, at: usize) {
        let Frame { bytes, payload, waiters, entries, since } = std::mem::take(&mut self.frames[at]);
        if since.is_none() {
            return;
        }
        let partitions = usize::from(self.shared.deployment.partitions);
        let (partition, outcomes) = ((at % partitions) as u16, at >= partitions);
        self.send(bytes, Box::new(Cargo { partition, bytes: payload, outcomes, waiters, entries }));
    }

    fn send(&mut self, payload: Vec<u8>, mut cargo: Box<Cargo>) {
        let shared = Arc::clone(&self.shared);
        loop {
            let partition = i32::from(cargo.partition);
            let record: BaseRecord<'_, [u8], [u8], Box<Cargo>> =
                BaseRecord::with_opaque_to(&shared.topic, cargo).partition(partition).payload(&payload);
            let Err((error, record)) = self.producer.send(record) else { return };
            cargo = record.delivery_opaque;
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            if Client::fatal_error(self.producer.client()).is_some() {
                tracing::warn!(%error, "the producer has failed; connecting anew");
                if let Ok(fresh) = connect(&self.config, &shared) {
                    self.producer = fresh;
                }
                std::thread::sleep(AGAIN);
                continue;
            }
            tracing::error!(%error, bytes = payload.len(), "a record could not be written");
            shared.release(cargo.bytes);
            return cargo.settle(false);
        }
    }
}

impl Frame {
    fn note(&mut self, bytes: usize, entry: u32, same: impl Fn(&Waiter) -> bool, waiter: impl Fn() -> Waiter) {
        self.payload += bytes;
        self.entries.push(entry);
        let end = self.entries.len() as u32;
        match self.waiters.last_mut() {
            Some((last, range)) if same(last) => range.end = end,
            _ => self.waiters.push((waiter(), end - 1..end)),
        }
    }
}
