//! Two orders from their placing to their end, after the storm: one that its customer thinks better of, and one that is
//! delivered, as its carrier tells.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_http::Timestamp;

use super::{DemoError, carriers::Fleet, orders::Merchant, traffic::Api};
use crate::load::Link;

/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// How long one exchange may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An order as its merchant saw it at last.
#[derive(Debug, Clone, Serialize)]
pub struct Journey {
    /// Its id.
    pub id: String,
    /// Its last status.
    pub status: String,
    /// What happened, oldest first.
    pub timeline: Vec<Entry>,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// What.
    pub milestone: String,
    /// When.
    pub at: String,
    /// Who, or why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Deserialize)]
struct Seen {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    timeline: Vec<Entry>,
}

struct Traveller<'a> {
    api: &'a Api,
    merchant: &'a Merchant,
    link: Link,
}

/// Posts both orders and follows them; by the status that they are to end with.
///
/// # Errors
/// [`DemoError::Unanswered`] if one of them doesn't come to its end.
pub async fn travel(
    api: &Api,
    merchant: &Merchant,
    fleet: &Fleet,
) -> Result<BTreeMap<&'static str, Journey>, DemoError> {
    let mut traveller = Traveller { api, merchant, link: Link::new(api.address) };
    let mut journeys = BTreeMap::new();
    let id = traveller.place("changes-mind").await?;
    traveller.wait(&id, "carrier_accepted").await?;
    traveller.send(&format!("POST /v1/orders/{id}/cancel"), &[], "").await?;
    journeys.insert("cancelled", traveller.wait(&id, "cancelled").await?);
    let mut carriers = Link::new(fleet.address().ok_or(DemoError::Broken)?);
    for request in fleet.requests_to_tell() {
        let told = carriers.exchange(request.as_bytes(), TIMEOUT).await;
        told.map_err(|error| DemoError::Carriers(error.to_string()))?;
    }
    let id = traveller.place("is-at-home").await?;
    journeys.insert("delivered", traveller.wait(&id, "delivered").await?);
    Ok(journeys)
}

impl Traveller<'_> {
    async fn place(&mut self, customer: &str) -> Result<String, DemoError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let order = json!({
            "customer": customer, "placed_at": Timestamp(now).to_string(), "currency": "USD",
            "ship_to": {"name": "Ada", "street": "1 Main St", "city": "Springfield", "postal_code": "01101",
                        "country": "US"},
            "lines": [{"sku": "1029743", "title": "MILK | 1 GA", "quantity": 2, "unit_price": 349}],
        });
        let key = format!("idempotency-key: journey-{customer}");
        let seen = self.send("POST /v1/orders", &["content-type: application/json", &key], &order.to_string()).await?;
        Ok(seen.id)
    }

    /// Looks at the order until it has come so far.
    async fn wait(&mut self, id: &str, status: &str) -> Result<Journey, DemoError> {
        let started = Instant::now();
        loop {
            let seen = self.send(&format!("GET /v1/orders/{id}"), &[], "").await;
            match seen {
                Ok(seen) if seen.status == status => {
                    return Ok(Journey { id: seen.id, status: seen.status, timeline: seen.timeline });
                }
                Ok(seen) if started.elapsed() > PATIENCE => {
                    let last = seen.status;
                    return Err(DemoError::Unanswered(format!("order {id} is {last:?} instead of {status:?}")));
                }
                // Over Kafka an order may be readable a moment after it was taken.
                Err(error) if started.elapsed() > PATIENCE => return Err(error),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn send(&mut self, line: &str, headers: &[&str], body: &str) -> Result<Seen, DemoError> {
        let (host, key) = (&self.api.authority, &self.merchant.key);
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        let reply = self.link.exchange(request.as_bytes(), TIMEOUT).await;
        let reply = reply.map_err(|error| DemoError::Unanswered(error.to_string()))?;
        let text = || String::from_utf8_lossy(reply.body).into_owned();
        match serde_json::from_slice(reply.body) {
            Ok(seen) if reply.status < 300 => Ok(seen),
            _ => Err(DemoError::Unanswered(format!("{line} was answered {}: {}", reply.status, text()))),
        }
    }
}
