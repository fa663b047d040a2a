//! One connection's life: take the next order that is due, send it until it is answered for good, take the next one.
//!
//! An order that was refused, or whose connection broke, is sent again on the same connection with the same bytes, so
//! with the same key, until an answer is final or its patience ends. That is what idempotency keys are for, and it makes
//! the client outlive a server that is killed and started again.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::acks::{Ack, Random};
use super::answer::{Verdict, lines as answer_lines};
use super::http::{Failure, Link, Reply};
use super::orders::Line;
use super::progress::add;
use super::sender::{Desk, Unit};

/// The first wait after a broken connection; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// The longest wait for a server that is gone: when it is back, it is to be noticed at once.
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);

/// Sends on one connection until there is nothing more to send.
pub(crate) async fn send(desk: Rc<Desk>, link: Link, number: u64) {
    let random = Random::new(desk.config.seed ^ number);
    let mut client =
        Client { desk, link, request: Vec::new(), bytes: Vec::new(), lines: Vec::new(), answered: Vec::new(), random };
    while let Some(unit) = client.desk.next_unit().await {
        if client.desk.config.batch.is_some() {
            client.send_batches(&unit).await;
        } else {
            client.send_single(&unit).await;
        }
    }
}

struct Client {
    desk: Rc<Desk>,
    link: Link,
    request: Vec<u8>,
    /// The lines of a batch that have no answer yet, and their bytes.
    lines: Vec<Line>,
    bytes: Vec<u8>,
    answered: Vec<Ack>,
    random: Random,
}

impl Client {
    async fn send_single(&mut self, unit: &Unit) {
        let merchant = self.desk.orders.borrow_mut().single(unit.first, now_ms(), &mut self.request);
        self.desk.sent(1, unit.due);
        let mut patience = Patience::new(self.desk.config.give_up_after);
        loop {
            let exchange = self.link.exchange(&self.request, self.desk.config.request_timeout);
            let next = match exchange.await {
                Ok(reply) => {
                    let verdict = Verdict::of_single(&reply);
                    if let Verdict::Acknowledged(id) = verdict {
                        let ack = Ack::new(id, merchant, unit.first);
                        return self.desk.acknowledged(&[ack], unit.due, patience.tried, reply.replayed);
                    }
                    self.desk.not_acknowledged(verdict, 1, &reply)
                }
                Err(failure) => self.desk.disconnected(&failure),
            };
            match next {
                Next::Done => return,
                Next::Again(after) if patience.wait(after, &mut self.random).await => {}
                Next::Again(_) => return self.desk.gave_up(1, patience.uncertain),
            }
        }
    }

    /// Sends the orders of a unit in as many batches as they need.
    async fn send_batches(&mut self, unit: &Unit) {
        let mut next = unit.first;
        while next < unit.end {
            let merchant = self.desk.orders.borrow().batch(next..unit.end, now_ms(), &mut self.lines, &mut self.bytes);
            next += self.lines.len() as u64;
            self.desk.sent(self.lines.len() as u64, unit.due);
            self.send_lines(merchant, unit.due).await;
        }
    }

    async fn send_lines(&mut self, merchant: u32, due: Duration) {
        let mut patience = Patience::new(self.desk.config.give_up_after);
        loop {
            self.desk.orders.borrow().batch_request(merchant, &self.bytes, &mut self.request);
            let exchange = self.link.exchange(&self.request, self.desk.config.request_timeout);
            let next = match exchange.await {
                Ok(reply) if (200..300).contains(&reply.status) => {
                    let mut open = OpenLines { lines: &mut self.lines, bytes: &mut self.bytes };
                    let next = open.settle(&self.desk, &reply, merchant, &mut self.answered);
                    self.desk.acknowledged(&self.answered, due, patience.tried, reply.replayed);
                    next
                }
                Ok(reply) => {
                    let verdict = Verdict::of_status(reply.status, reply.retry_after);
                    self.desk.not_acknowledged(verdict, self.lines.len() as u64, &reply)
                }
                Err(failure) => self.desk.disconnected(&failure),
            };
            match next {
                Next::Done => return,
                Next::Again(after) if patience.wait(after, &mut self.random).await => {}
                Next::Again(_) => return self.desk.gave_up(self.lines.len() as u64, patience.uncertain),
            }
        }
    }
}

/// Lines of a batch without a final answer.
struct OpenLines<'a> {
    lines: &'a mut Vec<Line>,
    bytes: &'a mut Vec<u8>,
}

impl OpenLines<'_> {
    /// Matches answers with lines, which come in the same order, collects acknowledgements in `answered`, and keeps only
    /// the lines that have to be sent again.
    fn settle(&mut self, desk: &Desk, reply: &Reply<'_>, merchant: u32, answered: &mut Vec<Ack>) -> Next {
        answered.clear();
        let mut answers = answer_lines(reply.body);
        let (mut kept, mut kept_bytes, mut at) = (0, 0, 0);
        let mut again: Option<Wait> = None;
        for index in 0..self.lines.len() {
            let Some(&line) = self.lines.get(index) else { break };
            let next = match answers.next() {
                Some(text) => match Verdict::of_line(text) {
                    Verdict::Acknowledged(id) => {
                        answered.push(Ack::new(id, merchant, line.sequence));
                        Next::Done
                    }
                    verdict => desk.not_acknowledged(verdict, 1, &Reply { body: text, ..*reply }),
                },
                None => desk.disconnected(&Failure::Protocol("the batch has fewer results than lines")),
            };
            if let Next::Again(wait) = next {
                again = Some(again.map_or(wait, |longest| longest.max(wait)));
                self.bytes.copy_within(at..at + line.length, kept_bytes);
                kept_bytes += line.length;
                if let Some(slot) = self.lines.get_mut(kept) {
                    *slot = line;
                }
                kept += 1;
            }
            at += line.length;
        }
        self.lines.truncate(kept);
        self.bytes.truncate(kept_bytes);
        again.map_or(Next::Done, Next::Again)
    }
}

/// What to do with an order after an attempt.
pub(crate) enum Next {
    /// Its answer was final.
    Done,
    /// Send the same bytes again.
    Again(Wait),
}

/// How long to wait before sending again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wait {
    /// Nothing was sent: there is no server.
    Unreachable,
    /// As long as the server said; it didn't take the order.
    Told(Duration),
    /// Nobody knows whether it was taken.
    Uncertain,
}

/// How long an order is sent again.
struct Patience {
    until: Option<Instant>,
    backoff: Duration,
    /// Attempts so far without a final answer.
    tried: u32,
    /// Whether some attempt may have been taken.
    uncertain: bool,
    give_up_after: Duration,
}

impl Patience {
    fn new(give_up_after: Duration) -> Self {
        Self { until: None, backoff: FIRST_BACKOFF, tried: 0, uncertain: false, give_up_after }
    }

    /// Waits before the next attempt; false, at once, if that would be too late.
    async fn wait(&mut self, wait: Wait, random: &mut Random) -> bool {
        self.tried += 1;
        self.uncertain |= wait == Wait::Uncertain;
        let pause = if let Wait::Told(pause) = wait {
            self.backoff = FIRST_BACKOFF;
            pause
        } else {
            let pause = self.backoff;
            self.backoff = (pause * 2).min(LONGEST_BACKOFF);
            pause
        };
        // Up to a quarter more, so that connections that were refused together don't come back together.
        let pause = pause + Duration::from_micros(random.below(pause.as_micros() as u64 / 4));
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + self.give_up_after);
        if now + pause > until {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

impl Desk {
    fn sent(&self, orders: u64, due: Duration) {
        let mut tally = self.tally.borrow_mut();
        tally.sent += orders;
        let now = self.elapsed();
        tally.series.at(now).sent += orders;
        tally.lag.record(now.saturating_sub(due), orders);
    }

    fn acknowledged(&self, acks: &[Ack], due: Duration, tried: u32, replayed: bool) {
        let orders = acks.len() as u64;
        let now = self.elapsed();
        let mut tally = self.tally.borrow_mut();
        tally.acknowledged += orders;
        tally.retried += if tried > 0 { orders } else { 0 };
        tally.replayed += u64::from(replayed);
        tally.ack.record(now.saturating_sub(due), orders);
        tally.series.acknowledged(now, orders, now.saturating_sub(due));
        self.last_ack.set(now);
        let mut log = self.acks.borrow_mut();
        acks.iter().for_each(|&ack| log.push(ack));
        self.counters.done.store(tally.acknowledged, Relaxed);
    }

    fn not_acknowledged(&self, verdict: Verdict, orders: u64, reply: &Reply<'_>) -> Next {
        let mut tally = self.tally.borrow_mut();
        let status = match verdict {
            Verdict::Refused(after) => {
                tally.refused += orders;
                tally.series.at(self.elapsed()).refused += orders;
                let status = if reply.status < 300 { 429 } else { reply.status };
                tally.status(status, orders, reply.body);
                add(&self.counters.refused, orders);
                return Next::Again(Wait::Told(after));
            }
            Verdict::Failed(status) => {
                tally.status(status, orders, reply.body);
                return Next::Again(Wait::Uncertain);
            }
            Verdict::Rejected(status) => status,
            Verdict::Acknowledged(_) | Verdict::Unreadable => reply.status,
        };
        tally.status(status, orders, reply.body);
        tally.rejected += orders;
        add(&self.counters.errors, orders);
        Next::Done
    }

    fn disconnected(&self, failure: &Failure) -> Next {
        let mut tally = self.tally.borrow_mut();
        tally.disconnects += 1;
        tally.series.at(self.elapsed()).disconnects += 1;
        tally.problem(failure.to_string());
        add(&self.counters.disconnects, 1);
        let sent = !matches!(failure, Failure::Connect(_));
        Next::Again(if sent { Wait::Uncertain } else { Wait::Unreachable })
    }

    fn gave_up(&self, orders: u64, uncertain: bool) {
        let mut tally = self.tally.borrow_mut();
        let count = if uncertain { &mut tally.unanswered } else { &mut tally.not_taken };
        *count += orders;
        add(&self.counters.errors, orders);
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
