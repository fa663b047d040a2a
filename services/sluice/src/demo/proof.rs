//! The proof of conservation, by id, from two witnesses that share nothing with the pipeline: what any merchant can read
//! through the public API, and what the carriers wrote into their ledger.
//!
//! Every acknowledged order is read until it is decided. It must be in exactly one class, and each of its parcels that
//! the API calls taken must have exactly one effect in the ledger, by the carrier and under the tracking number that the
//! API names; any other parcel must have none.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sluice_carrier::simulated::{Ledger, LedgerError};
use tokio::task::JoinSet;

use super::{
    DemoError,
    orders::Plan,
    traffic::{Acked, Api},
};
use crate::load::{Class, Latencies, Link, OrderView, classify, format_id, unix_micros};

/// Connections that read.
const LINKS: usize = 16;
/// Pause between two readings of the orders that are not decided yet.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for another order to be decided.
const SETTLE: Duration = Duration::from_secs(30);
/// How long one reading may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Ids that are named when something is wrong with them.
const EXAMPLES: usize = 5;

/// What a carrier did, by the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CarrierEffects {
    /// Parcels taken.
    pub accepted: u64,
    /// Parcels turned down.
    pub rejected: u64,
    /// Requests for a shipment that it had answered before, and answered again without another effect.
    pub repeated: u64,
}

/// What the two witnesses say.
#[derive(Debug, Default)]
pub struct Proof {
    /// Orders by class, counted one by one.
    pub finished: u64,
    /// … with a parcel that is undecided.
    pub in_flight: u64,
    /// … of which something was dead-lettered.
    pub dead_lettered: u64,
    /// … that were called off.
    pub cancelled: u64,
    /// … that were acknowledged and aren't known.
    pub lost: u64,
    /// … that couldn't be read.
    pub unread: u64,
    /// Acknowledgements under an id that another order has.
    pub duplicate_ids: u64,
    /// Planted orders that ended otherwise than planned.
    pub planted_astray: u64,
    /// Parcels that a carrier took.
    pub parcels: u64,
    /// Times that a carrier took a parcel which had been taken already.
    pub duplicate_effects: u64,
    /// Parcels that are called taken and that no carrier took.
    pub missing_effects: u64,
    /// Parcels that a carrier took and that are not called taken, or under another carrier or number.
    pub stray_effects: u64,
    /// What each carrier did.
    pub carriers: BTreeMap<String, CarrierEffects>,
    /// Dead-lettered orders by reason.
    pub reasons: BTreeMap<String, u64>,
    /// From placed to classified, by the time line.
    pub classified: Latencies,
    /// From placed to the last parcel taken, by the time line.
    pub carrier: Latencies,
    /// When the last parcel was taken, ms since the epoch.
    pub last_taken_ms: u64,
    /// Some orders that something is wrong with.
    pub examples: Vec<String>,
    /// The first reading that failed.
    pub problem: Option<String>,
}

/// A parcel of a decided order.
#[derive(Debug, Clone, Copy)]
struct Parcel {
    number: u16,
    /// Effects found in the ledger.
    effects: u32,
    /// A hash of carrier and tracking number, if a carrier is said to have taken it.
    taken: Option<u64>,
}

/// What a view said.
#[derive(Debug)]
struct Fact {
    class: Class,
    parcels: Vec<Parcel>,
    classified: Option<Duration>,
    carrier: Option<Duration>,
    last_taken_ms: u64,
    reason: Option<String>,
}

/// What reading an order gave.
#[derive(Debug)]
enum Reading {
    Decided(Fact),
    InFlight,
    NotFound,
    Failed(String),
}

/// What [`OrderView`] leaves out.
#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    parcels: Vec<ParcelDetail>,
    #[serde(default)]
    timeline: Vec<Entry>,
}

#[derive(Deserialize)]
struct ParcelDetail {
    id: String,
    status: String,
    carrier: Option<String>,
    tracking_number: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    milestone: String,
    detail: Option<String>,
}

/// Reads every order until it is decided, or until nothing has been for a while; `done` counts those that are.
///
/// # Errors
/// [`DemoError::Broken`] if a reader died; [`DemoError::Ledger`] if the ledger can't be read.
pub async fn prove(
    plan: &Arc<Plan>,
    api: &Api,
    acked: Arc<Vec<Acked>>,
    ledger: &Path,
    done: Arc<AtomicU64>,
) -> Result<Proof, DemoError> {
    let mut readings: Vec<Reading> = Vec::new();
    readings.resize_with(acked.len(), || Reading::InFlight);
    let mut open: Arc<Vec<usize>> = Arc::new((0..acked.len()).collect());
    let mut last_progress = Instant::now();
    loop {
        let before = open.len();
        for (index, reading) in pass(plan, api, &acked, &open, &done).await? {
            readings[index] = reading;
        }
        open = Arc::new(open.iter().copied().filter(|&i| !matches!(readings[i], Reading::Decided(_))).collect());
        if open.len() < before {
            last_progress = Instant::now();
        }
        if open.is_empty() || last_progress.elapsed() > SETTLE {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let path = ledger.to_owned();
    let judging = tokio::task::spawn_blocking(move || judge(&acked, readings, &Ledger::read(&path)?));
    Ok(judging.await.map_err(|_| DemoError::Broken)??)
}

type Readings = Vec<(usize, Reading)>;

/// Reads every open order once.
async fn pass(
    plan: &Arc<Plan>,
    api: &Api,
    acked: &Arc<Vec<Acked>>,
    open: &Arc<Vec<usize>>,
    done: &Arc<AtomicU64>,
) -> Result<Readings, DemoError> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..LINKS {
        let (plan, api, acked, open) = (Arc::clone(plan), api.clone(), Arc::clone(acked), Arc::clone(open));
        let (next, done) = (Arc::clone(&next), Arc::clone(done));
        readers.spawn(async move {
            let (mut link, mut request, mut readings) = (Link::new(api.address), Vec::new(), Vec::new());
            while let Some(&index) = open.get(next.fetch_add(1, Relaxed)) {
                let order = acked[index];
                let key = plan.merchants.get(order.merchant).map_or("", |merchant| &merchant.key);
                api.write_get(order.id, key, &mut request);
                let reading = match link.exchange(&request, TIMEOUT).await {
                    Ok(reply) => understand(reply.status, reply.body, order.id),
                    Err(failure) => Reading::Failed(failure.to_string()),
                };
                if matches!(reading, Reading::Decided(_)) {
                    done.fetch_add(1, Relaxed);
                }
                readings.push((index, reading));
            }
            readings
        });
    }
    let mut all = Vec::with_capacity(open.len());
    while let Some(readings) = readers.join_next().await {
        all.extend(readings.map_err(|_| DemoError::Broken)?);
    }
    Ok(all)
}

fn understand(status: u16, body: &[u8], id: u128) -> Reading {
    let quote = || String::from_utf8_lossy(body).chars().take(200).collect::<String>();
    match status {
        200 => {}
        404 => return Reading::NotFound,
        status => return Reading::Failed(format!("{status}: {}", quote())),
    }
    let (view, detail) = match (serde_json::from_slice::<OrderView<'_>>(body), serde_json::from_slice::<Detail>(body)) {
        (Ok(view), Ok(detail)) if view.id.as_bytes() == format_id(id) => (view, detail),
        (Ok(view), Ok(_)) => return Reading::Failed(format!("the answer is about order {}", view.id)),
        (Err(error), _) | (_, Err(error)) => return Reading::Failed(format!("{error}: {}", quote())),
    };
    let class = classify(&view);
    if class == Class::InFlight {
        return Reading::InFlight;
    }
    let placed = unix_micros(&view.placed_at).unwrap_or(0);
    let at = |name: &str| {
        let entries = view.timeline.iter().filter(|entry| entry.milestone == name);
        entries.filter_map(|entry| unix_micros(&entry.at)).max()
    };
    let after = |at: i64| Duration::from_micros(u64::try_from(at - placed).unwrap_or(0));
    let dead = |entry: &&Entry| entry.milestone == "dead_lettered";
    Reading::Decided(Fact {
        class,
        parcels: detail.parcels.iter().map(Parcel::from).collect(),
        classified: at("classified").map(after),
        carrier: view.carrier_latency(),
        last_taken_ms: at("carrier_accepted").and_then(|us| u64::try_from(us / 1_000).ok()).unwrap_or(0),
        reason: detail.timeline.iter().find(dead).and_then(|entry| entry.detail.clone()),
    })
}

impl From<&ParcelDetail> for Parcel {
    fn from(parcel: &ParcelDetail) -> Self {
        let number = parcel.id.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(u16::MAX);
        let untaken = parcel.status == "dead_lettered" || parcel.status == "cancelled";
        let name = |text: &Option<String>| text.clone().unwrap_or_default();
        let taken = (!untaken).then(|| fingerprint(&name(&parcel.carrier), &name(&parcel.tracking_number)));
        Self { number, effects: 0, taken }
    }
}

fn fingerprint(carrier: &str, tracking_number: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (carrier, tracking_number).hash(&mut hasher);
    hasher.finish()
}

/// Holds what the API said against what the carriers wrote down.
fn judge(acked: &[Acked], mut readings: Vec<Reading>, ledger: &Ledger) -> Result<Proof, LedgerError> {
    let mut proof = Proof::default();
    let mut index_of: HashMap<u128, usize> = HashMap::with_capacity(acked.len());
    for (index, order) in acked.iter().enumerate() {
        if index_of.insert(order.id, index).is_some() {
            proof.duplicate_ids += 1;
            proof.example(order.id);
        }
    }
    for shipment in ledger.shipments() {
        let done = proof.carriers.entry(shipment.carrier.to_owned()).or_default();
        done.accepted += u64::from(shipment.accepted);
        done.rejected += u64::from(shipment.rejected);
        done.repeated += u64::from(shipment.duplicate_requests);
        if shipment.accepted == 0 {
            continue;
        }
        let id = u128::from(shipment.order_id);
        let said = fingerprint(shipment.carrier, &shipment.tracking_number().unwrap_or_default());
        let parcel = match index_of.get(&id).map(|&index| &mut readings[index]) {
            Some(Reading::Decided(fact)) => fact.parcels.iter_mut().find(|parcel| parcel.number == shipment.parcel),
            _ => None,
        };
        match parcel {
            Some(parcel) if parcel.taken == Some(said) => parcel.effects += shipment.accepted,
            _ => {
                proof.stray_effects += u64::from(shipment.accepted);
                proof.example(id);
            }
        }
    }
    proof.duplicate_effects = ledger.duplicates().map(|twice| u64::from(twice.accepted) - 1).sum();
    for (order, reading) in acked.iter().zip(readings) {
        proof.count(order, reading);
    }
    Ok(proof)
}

impl Proof {
    fn count(&mut self, order: &Acked, reading: Reading) {
        let fact = match reading {
            Reading::Decided(fact) => fact,
            other => {
                match other {
                    Reading::NotFound => self.lost += 1,
                    Reading::Failed(why) => {
                        self.unread += 1;
                        self.problem.get_or_insert(why);
                    }
                    _ => self.in_flight += 1,
                }
                return self.example(order.id);
            }
        };
        match fact.class {
            Class::Finished => self.finished += 1,
            Class::Cancelled => self.cancelled += 1,
            _ => self.dead_lettered += 1,
        }
        if order.planted != (fact.class == Class::DeadLettered) && order.planted {
            self.planted_astray += 1;
            self.example(order.id);
        }
        for parcel in fact.parcels.iter().filter(|parcel| parcel.taken.is_some()) {
            self.parcels += 1;
            if parcel.effects == 0 {
                self.missing_effects += 1;
                self.example(order.id);
            }
        }
        if let Some(latency) = fact.classified {
            self.classified.record(latency, 1);
        }
        if let Some(latency) = fact.carrier {
            self.carrier.record(latency, 1);
        }
        self.last_taken_ms = self.last_taken_ms.max(fact.last_taken_ms);
        if fact.class == Class::DeadLettered {
            *self.reasons.entry(fact.reason.unwrap_or_else(|| "no reason given".to_owned())).or_default() += 1;
        }
    }

    fn example(&mut self, id: u128) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(String::from_utf8_lossy(&format_id(id)).into_owned());
        }
    }

    /// Whether every one of `accepted` orders is where it belongs, and every effect belongs to one of them.
    #[must_use]
    pub fn holds(&self, accepted: u64) -> bool {
        let wrong = self.lost + self.unread + self.in_flight + self.duplicate_ids + self.planted_astray;
        let effects = self.duplicate_effects + self.missing_effects + self.stray_effects;
        wrong + effects == 0 && self.finished + self.dead_lettered + self.cancelled == accepted
    }
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
