//! Answering a retry that comes after its window: the engine's index has forgotten the key by then, but the id is a
//! function of the request, so the order itself can be asked.

use sluice_domain::{Fingerprint, OrderId};
use sluice_pipeline::Orders;
use sluice_schemas::order::OrderRef;

/// What is known of an order placed before the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// It was taken: this is the same request.
    Replay,
    /// Its key and `placed_at` were taken with another body.
    Conflict,
    /// It was never taken, or is no longer kept.
    Unknown,
    /// The store can't say now.
    Failed,
}

/// Asks whether the order in `record` was taken before.
pub async fn look_up(orders: &dyn Orders, id: OrderId, fingerprint: Fingerprint, record: &[u8]) -> Late {
    let stored = match orders.read(id).await {
        Ok(Some(stored)) => stored,
        Ok(None) => return Late::Unknown,
        Err(error) => {
            tracing::warn!(order_id = %id, %error, "an order placed before the window could not be looked up");
            return Late::Failed;
        }
    };
    match (OrderRef::decode(&stored.record), OrderRef::decode(record)) {
        (Ok(old), Ok(_)) if old.fingerprint() != fingerprint.0 => Late::Unknown,
        (Ok(old), Ok(new)) if old.body() == new.body() => Late::Replay,
        (Ok(_), Ok(_)) => Late::Conflict,
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(order_id = %id, %error, "a stored order can't be read");
            Late::Failed
        }
    }
}
