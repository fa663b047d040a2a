//! Orders as storefronts would send them, handed to an engine's intake as fast as it takes them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use sluice_checkout::decode::{Context as Judged, Key, Scratch, decode};
use sluice_data::OrderWriter;
use sluice_domain::SlotCount;
use sluice_pipeline::{BoxFuture, Clock, Intake, Receipt, Submission, Submitted};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A waker of this thread.
pub fn unparker() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// Orders as a storefront would send them, made once: bodies, the place of `placed_at` in each, and merchants.
pub struct Bodies {
    bytes: Vec<(String, usize, String)>,
}

impl Bodies {
    /// Makes `count` of them, of two lines or as whole baskets; of every so manyth line the catalogue doesn't know the SKU.
    pub fn new(two_lines: bool, count: u64, unknown_every: Option<u64>) -> Result<Self, Box<dyn std::error::Error>> {
        let (catalogue, baskets) = (sluice_data::catalogue()?, sluice_data::baskets()?);
        let writer = OrderWriter::new(&catalogue, &baskets)?;
        let (mut bytes, mut lines) = (Vec::new(), 0);
        for i in 0..count {
            let mut body = Vec::new();
            let basket = if two_lines {
                writer.write_two_line_order_json(i, 42, 0, &mut body)
            } else {
                writer.write_order_json(i as usize, 42, 0, &mut body);
                i as usize
            };
            let text = String::from_utf8(body)?;
            let text = unknown_every.map_or_else(|| text.clone(), |every| with_unknown(&text, every, &mut lines));
            let at = text.find("1970-01-01T").ok_or("no placed_at in the body")?;
            bytes.push((text, at, writer.merchant(basket).to_owned()));
        }
        Ok(Self { bytes })
    }
}

/// A body in which every so manyth line, counted on from `lines`, has an SKU that is no product's; its title stays.
fn with_unknown(body: &str, every: u64, lines: &mut u64) -> String {
    const SKU: &str = "\"sku\":\"";
    let mut parts = body.split(SKU);
    let mut changed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        *lines += 1;
        changed.push_str(SKU);
        if lines.is_multiple_of(every) {
            changed.push_str("X-");
        }
        changed.push_str(part);
    }
    changed
}

const STAMP_LEN: usize = "1970-01-01T00:00:00.000Z".len();

/// Orders in one submission.
const SUBMISSION: u64 = 1_000;
/// Submissions a producer leaves unanswered.
const WINDOW: usize = 16;

/// Decodes and submits until `orders` of all threads together were taken; adds up the bytes of JSON.
pub fn produce(
    engine: &dyn Intake,
    bodies: &Bodies,
    clock: &dyn Clock,
    orders: u64,
    next: &AtomicU64,
    json: &AtomicU64,
) {
    let waker = unparker();
    let mut cx = Context::from_waker(&waker);
    let mut waiting = std::collections::VecDeque::new();
    let mut scratch = Scratch::default();
    let (mut body, mut key) = (String::new(), String::new());
    loop {
        let first = next.fetch_add(SUBMISSION, Relaxed);
        if first >= orders {
            break;
        }
        let mut submission = Submission::default();
        let now_ms = clock.now_ms();
        let stamp = stamp(now_ms);
        let mut bytes = 0;
        for sequence in first..(first + SUBMISSION).min(orders) {
            let (text, at, merchant) = &bodies.bytes[sequence as usize % bodies.bytes.len()];
            body.clear();
            body.push_str(&text[..*at]);
            body.push_str(&stamp);
            body.push_str(&text[*at + STAMP_LEN..]);
            key.clear();
            push_number(&mut key, sequence);
            bytes += body.len() as u64;
            let judged = Judged { merchant, slots: SlotCount::DEFAULT, now_ms, window_ms: 600_000 };
            let out = &mut submission.bytes;
            let Ok(decoded) = decode(&body, Key::Given(&key), &judged, &mut scratch, out) else {
                unreachable!("a generated order is a good order")
            };
            let (id, fingerprint, record) = (decoded.id, decoded.fingerprint, decoded.record);
            submission.orders.push(Submitted { id, fingerprint, record });
        }
        json.fetch_add(bytes, Relaxed);
        waiting.push_back(engine.submit(submission));
        if waiting.len() > WINDOW {
            settle(waiting.pop_front(), &mut cx);
        }
    }
    while !waiting.is_empty() {
        settle(waiting.pop_front(), &mut cx);
    }
}

fn settle(receipts: Option<BoxFuture<'_, Vec<Receipt>>>, cx: &mut Context<'_>) {
    let Some(mut receipts) = receipts else { return };
    loop {
        match receipts.as_mut().poll(cx) {
            Poll::Ready(all) => {
                assert!(all.iter().all(|r| *r == Receipt::Accepted), "an order was not accepted");
                return;
            }
            Poll::Pending => thread::park(),
        }
    }
}

fn push_number(out: &mut String, n: u64) {
    use std::fmt::Write;
    let _ = write!(out, "bench-{n:012}");
}

fn stamp(now_ms: u64) -> String {
    String::from_utf8_lossy(&sluice_http::rfc3339::format(now_ms)).into_owned()
}
