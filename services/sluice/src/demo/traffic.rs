//! Posts the plan over real HTTP, as fast as answers come, and measures as a client can: with its own clock.
//!
//! Batches and single orders go side by side. Some are posted twice, on purpose, and must come back under the same ids.
//! Of the single orders some are watched: their status is polled until it says that a carrier has taken them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use tokio::task::JoinSet;

use super::{
    DemoError,
    orders::{Plan, Unit},
};
use crate::load::{Class, Latencies, Link, OrderView, Reply, classify, format_id, parse_id};

/// Connections that post batches.
const BATCH_LINKS: usize = 8;
/// Connections that post single orders.
const SINGLE_LINKS: usize = 32;
/// Orders watched at once.
const WATCHED: usize = 16;
/// One unit in so many is posted again after its answer.
const AGAIN_EVERY: usize = 20;
/// Pause between two looks at a watched order: what its latency may be too long by.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a watched order is looked at.
const WATCH_FOR: Duration = Duration::from_secs(20);
/// How long one exchange may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a unit is tried for.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Pause after an answer that says to come back, but not when.
const WAIT: Duration = Duration::from_millis(50);

/// An acknowledged order.
#[derive(Debug, Clone, Copy)]
pub struct Acked {
    /// Its id.
    pub id: u128,
    /// Index of its merchant.
    pub merchant: usize,
    /// Whether it was planted to be dead-lettered.
    pub planted: bool,
}

/// What was posted, and what came back.
#[derive(Debug, Default)]
pub struct Sent {
    /// Every acknowledged order, once.
    pub acked: Vec<Acked>,
    /// From the first byte sent to the answer, of every order; an order of a batch has its batch's.
    pub ack: Latencies,
    /// From the first byte sent until a `GET` said that a carrier has taken the order, of the watched orders.
    pub status: Latencies,
    /// Orders posted a second time.
    pub again: u64,
    /// Of these: answered with the first answer's id and as a repetition.
    pub recognised: u64,
    /// Answers that said to come back later.
    pub refused: u64,
    /// When the first request was sent, ms since the epoch.
    pub started_ms: u64,
    /// From the first request to the last acknowledgement.
    pub seconds: f64,
}

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Api {
    /// Its address.
    pub address: SocketAddr,
    /// … as requests name it.
    pub authority: String,
    /// Whether it says of a repetition that it is one. Over Kafka, an answer comes before anybody could know.
    pub tells_repetitions: bool,
}

impl Api {
    /// A `GET` of an order on behalf of the merchant with this key.
    pub fn write_get(&self, id: u128, key: &str, request: &mut Vec<u8>) {
        let id = format_id(id);
        request.clear();
        for part in [
            &b"GET /v1/orders/"[..],
            &id,
            b" HTTP/1.1\r\nhost: ",
            self.authority.as_bytes(),
            b"\r\nauthorization: Bearer ",
            key.as_bytes(),
            b"\r\n\r\n",
        ] {
            request.extend_from_slice(part);
        }
    }
}

/// What one connection brings back.
#[derive(Default)]
struct Share {
    acked: Vec<Acked>,
    /// How long how many orders waited for their acknowledgement.
    acks: Vec<(Duration, u64)>,
    again: u64,
    recognised: u64,
    refused: u64,
}

struct Desk {
    plan: Arc<Plan>,
    api: Api,
    next_batch: AtomicUsize,
    next_single: AtomicUsize,
    done: Arc<AtomicU64>,
    /// Connections for watching that nobody uses now.
    links: Mutex<Vec<Link>>,
    watching: Mutex<JoinSet<Option<Duration>>>,
}

/// Posts the whole plan; `done` counts acknowledged orders meanwhile.
///
/// # Errors
/// [`DemoError`] when an order is turned down, or the server is gone.
pub async fn send(plan: &Arc<Plan>, api: &Api, done: Arc<AtomicU64>) -> Result<Sent, DemoError> {
    let desk = Arc::new(Desk {
        plan: Arc::clone(plan),
        api: api.clone(),
        next_batch: AtomicUsize::new(0),
        next_single: AtomicUsize::new(0),
        done,
        links: Mutex::new((0..WATCHED).map(|_| Link::new(api.address)).collect()),
        watching: Mutex::new(JoinSet::new()),
    });
    let (started, started_ms) = (Instant::now(), now_ms());
    let mut senders = JoinSet::new();
    for number in 0..BATCH_LINKS + SINGLE_LINKS {
        senders.spawn(Box::pin(Arc::clone(&desk).post_all(number >= BATCH_LINKS)));
    }
    let mut all = Sent { started_ms, ..Sent::default() };
    while let Some(ended) = senders.join_next().await {
        let one = ended.map_err(|_| DemoError::Broken)??;
        all.acked.extend(one.acked);
        one.acks.iter().for_each(|&(latency, orders)| all.ack.record(latency, orders));
        all.again += one.again;
        all.recognised += one.recognised;
        all.refused += one.refused;
    }
    all.seconds = started.elapsed().as_secs_f64();
    let mut watching = std::mem::take(&mut *desk.watching.lock().unwrap_or_else(PoisonError::into_inner));
    while let Some(seen) = watching.join_next().await {
        if let Ok(Some(latency)) = seen {
            all.status.record(latency, 1);
        }
    }
    Ok(all)
}

/// ms since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What one order was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    id: u128,
    replayed: bool,
}

/// What a reply says about a whole unit.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Taken(Vec<Answer>),
    Later(Duration),
    Wrong(String),
}

/// A line of a batch's answer, or the answer to a single order.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: Option<&'a str>,
    #[serde(default)]
    replayed: bool,
}

impl Desk {
    async fn post_all(self: Arc<Self>, alone: bool) -> Result<Share, DemoError> {
        let (next, units) =
            if alone { (&self.next_single, &self.plan.singles) } else { (&self.next_batch, &self.plan.batches) };
        let mut sent = Share::default();
        let (mut link, mut body, mut request) = (Link::new(self.api.address), Vec::new(), Vec::new());
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some(unit) = units.get(number) else { return Ok(sent) };
            self.plan.write(unit, alone, &self.api.authority, now_ms(), &mut body, &mut request);
            let started = Instant::now();
            let answers = post(&mut link, &request, unit, alone, &mut sent.refused).await?;
            sent.acks.push((started.elapsed(), answers.len() as u64));
            self.done.fetch_add(answers.len() as u64, Relaxed);
            for (&n, answer) in unit.orders.iter().zip(&answers) {
                let planted = self.plan.planted.binary_search(&n).is_ok();
                sent.acked.push(Acked { id: answer.id, merchant: unit.merchant, planted });
            }
            if alone && let Some(answer) = answers.first() {
                self.watch(answer.id, unit.merchant, started);
            }
            if number % AGAIN_EVERY == 0 {
                let again = post(&mut link, &request, unit, alone, &mut sent.refused).await?;
                sent.again += again.len() as u64;
                let told = |second: &Answer| second.replayed || !self.api.tells_repetitions;
                let same = answers.iter().zip(&again).filter(|(first, second)| first.id == second.id && told(second));
                sent.recognised += same.count() as u64;
            }
        }
    }

    /// Watches this order if few enough others are watched.
    fn watch(self: &Arc<Self>, id: u128, merchant: usize, started: Instant) {
        let Some(mut link) = self.links.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return };
        let desk = Arc::clone(self);
        let look = async move {
            let seen = Box::pin(desk.look(&mut link, id, merchant, started)).await;
            desk.links.lock().unwrap_or_else(PoisonError::into_inner).push(link);
            seen
        };
        self.watching.lock().unwrap_or_else(PoisonError::into_inner).spawn(look);
    }

    async fn look(&self, link: &mut Link, id: u128, merchant: usize, started: Instant) -> Option<Duration> {
        let mut request = Vec::new();
        self.api.write_get(id, &self.plan.merchants.get(merchant)?.key, &mut request);
        while started.elapsed() < WATCH_FOR {
            if let Ok(reply) = link.exchange(&request, TIMEOUT).await
                && reply.status == 200
                && let Ok(view) = serde_json::from_slice::<OrderView<'_>>(reply.body)
            {
                match classify(&view) {
                    Class::InFlight => {}
                    // Where nothing ships there is nothing to wait for, and nothing to measure.
                    Class::Finished if view.parcels.is_empty() => return None,
                    Class::Finished => return Some(started.elapsed()),
                    Class::DeadLettered | Class::Cancelled => return None,
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        None
    }
}

/// Posts one unit until it is taken.
async fn post(
    link: &mut Link,
    request: &[u8],
    unit: &Unit,
    alone: bool,
    refused: &mut u64,
) -> Result<Vec<Answer>, DemoError> {
    let started = Instant::now();
    let mut trouble = String::new();
    while started.elapsed() < GIVE_UP {
        let wait = match link.exchange(request, TIMEOUT).await {
            Ok(reply) => match read(&reply, unit.orders.len(), alone) {
                Said::Taken(answers) => return Ok(answers),
                Said::Wrong(why) => return Err(DemoError::TurnedDown(why)),
                Said::Later(wait) => {
                    *refused += unit.orders.len() as u64;
                    "it asks to come back later".clone_into(&mut trouble);
                    wait
                }
            },
            Err(failure) => {
                trouble = failure.to_string();
                WAIT
            }
        };
        tokio::time::sleep(wait).await;
    }
    Err(DemoError::Unanswered(trouble))
}

fn read(reply: &Reply<'_>, orders: usize, alone: bool) -> Said {
    let quote = |text: &[u8]| String::from_utf8_lossy(text).trim().chars().take(300).collect::<String>();
    match reply.status {
        200..=299 => {}
        429 | 503 => return Said::Later(reply.retry_after.unwrap_or(WAIT)),
        status => return Said::Wrong(format!("{status}: {}", quote(reply.body))),
    }
    let lines = reply.body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut answers = Vec::with_capacity(orders);
    for line in lines {
        let read = serde_json::from_slice::<Line<'_>>(line).ok();
        match read.and_then(|read| Some((parse_id(read.id?.as_bytes())?, read.replayed))) {
            Some((id, replayed)) => answers.push(Answer { id, replayed: replayed || (alone && reply.replayed) }),
            None => {
                // A line that wasn't taken: its problem says when to come back, if ever.
                let status = serde_json::from_slice::<serde_json::Value>(line).ok().map(|v| v["status"].clone());
                return match status.as_ref().and_then(serde_json::Value::as_u64) {
                    Some(429 | 503) => Said::Later(WAIT),
                    _ => Said::Wrong(quote(line)),
                };
            }
        }
    }
    if answers.len() == orders {
        Said::Taken(answers)
    } else {
        Said::Wrong(format!("{} answers to {orders} orders", answers.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str, replayed: bool) -> Reply<'_> {
        Reply { status, retry_after: None, replayed, link: None, body: body.as_bytes() }
    }

    const ID: &str = "01M6VZ4W3V00J8Z8M3C0V9S1QK";

    #[test]
    fn answers_are_read_in_order() {
        let id = parse_id(ID.as_bytes()).unwrap();
        let one = format!("{{\"id\":\"{ID}\",\"status\":\"accepted\",\"placed_at\":\"x\"}}");
        assert_eq!(read(&reply(201, &one, true), 1, true), Said::Taken(vec![Answer { id, replayed: true }]));
        let lines = format!(
            "{{\"line\":1,\"status\":201,\"id\":\"{ID}\",\"replayed\":true}}\n{{\"line\":2,\"status\":201,\"id\":\"{ID}\"}}\n"
        );
        let taken = vec![Answer { id, replayed: true }, Answer { id, replayed: false }];
        assert_eq!(read(&reply(200, &lines, false), 2, false), Said::Taken(taken));
        assert!(matches!(read(&reply(200, &lines, false), 3, false), Said::Wrong(_)));
    }

    #[test]
    fn refusals_and_errors_differ() {
        assert_eq!(read(&reply(503, "", false), 1, true), Said::Later(WAIT));
        let busy = "{\"line\":1,\"status\":503,\"error\":{}}";
        assert_eq!(read(&reply(200, busy, false), 1, false), Said::Later(WAIT));
        let bad = "{\"line\":1,\"status\":422,\"error\":{\"title\":\"Invalid order\"}}";
        assert!(matches!(read(&reply(200, bad, false), 1, false), Said::Wrong(why) if why.contains("Invalid order")));
        assert!(matches!(read(&reply(401, "no", false), 1, true), Said::Wrong(why) if why.contains("401: no")));
    }
}
