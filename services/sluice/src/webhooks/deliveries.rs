//! What became of an order's events at webhook endpoints, for its trace: read from the same documents that deliveries are written to,
//! by any node that can read them.

use std::{collections::HashMap, sync::Arc};

use sluice_domain::OrderId;
use sluice_http::Timestamp;
use sluice_operator::{Deliveries, DeliveryTrace, TryTrace, WebhookTrace};
use sluice_pipeline::{Clock, Documents, LogError};
use sluice_webhooks::{
    about::{self, About},
    guard::host_of,
    model::{Attempt, Delivery, DeliveryStatus, Endpoint, Schedule},
};

use crate::config::{Config, ConfigError};

/// See the module.
pub(crate) struct Log {
    documents: Arc<dyn Documents>,
    /// Endpoints of the configuration, by merchant.
    fixed: HashMap<String, Vec<Endpoint>>,
    failing_after: u32,
    clock: Arc<dyn Clock>,
}

impl Log {
    /// The log in `documents`, which are only read.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub fn new(config: &Config, documents: Arc<dyn Documents>, clock: &Arc<dyn Clock>) -> Result<Self, ConfigError> {
        let mut fixed: HashMap<String, Vec<Endpoint>> = HashMap::new();
        for endpoint in config.webhooks.endpoints(&config.merchants, clock.now_ms())? {
            fixed.entry(endpoint.merchant.clone()).or_default().push(endpoint);
        }
        let failing_after = config.webhooks.delivery()?.failing_after;
        Ok(Self { documents, fixed, failing_after, clock: Arc::clone(clock) })
    }

    fn shown(&self, about: About) -> WebhookTrace {
        let (standing, now) = (&about.standing, self.clock.now_ms());
        let configured = standing.configured.as_ref();
        let is_gone = configured.is_some_and(|configured| configured.gone);
        let status = match &about.endpoint {
            // Another node may have it in its configuration.
            None if configured.is_none_or(|configured| configured.removed_at_ms.is_some()) => "removed",
            endpoint if is_gone || endpoint.as_ref().is_some_and(|endpoint| endpoint.disabled.is_some()) => "disabled",
            _ if standing.failures >= self.failing_after => "failing",
            _ => "active",
        };
        let waits = ["active", "failing"].contains(&status) && standing.waits_until_ms > now;
        let next_attempt_at = waits.then_some(Timestamp(standing.waits_until_ms));
        let url =
            about.endpoint.as_ref().map(|endpoint| &endpoint.url).or(configured.map(|configured| &configured.url));
        let host = url.and_then(|url| host_of(url));
        let (lines, waiting) = (about.lines.into_iter().map(line), about.waiting.into_iter().map(waiting));
        WebhookTrace {
            endpoint: about.id,
            host,
            status,
            next_attempt_at,
            deliveries: lines.chain(waiting).collect(),
            more: about.more,
        }
    }
}

impl Deliveries for Log {
    fn of(&self, merchant: Option<&str>, order: OrderId) -> Result<Vec<WebhookTrace>, LogError> {
        let fixed = merchant.and_then(|merchant| self.fixed.get(merchant)).cloned().unwrap_or_default();
        let found = about::of_order(&*self.documents, merchant, order, fixed)?;
        Ok(found.into_iter().map(|about| self.shown(about)).collect())
    }
}

fn line(line: Delivery) -> DeliveryTrace {
    let status = match line.status {
        DeliveryStatus::Delivered => "delivered",
        DeliveryStatus::Retrying => "retrying",
        DeliveryStatus::Failed => "failed",
    };
    let tries = line.tries().into_iter().map(attempt).collect();
    DeliveryTrace {
        message: line.event,
        r#type: line.kind,
        event: line.sequence,
        status,
        replayed: line.replayed,
        attempts: line.attempts,
        tries,
        reason: if line.attempts == 0 { line.error } else { String::new() },
        next_attempt_at: line.next_at_ms.map(Timestamp),
    }
}

fn waiting(schedule: Schedule) -> DeliveryTrace {
    DeliveryTrace {
        message: schedule.event,
        r#type: schedule.kind,
        event: schedule.sequence,
        status: "waiting",
        replayed: schedule.replayed,
        attempts: 0,
        tries: Vec::new(),
        reason: String::new(),
        next_attempt_at: None,
    }
}

fn attempt(of: Attempt) -> TryTrace {
    TryTrace { at: Timestamp(of.at_ms), http_status: of.http_status, duration_ms: of.took_ms, error: of.error }
}
