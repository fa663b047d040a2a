//! A world for tests of the routes: orders by themselves, and an owner that decides at once, or never.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use serde_json::Value;
use sluice_domain::{Fingerprint, KeyHash, Operators, OrderId, SlotCount};
use sluice_pipeline::{
    BoxFuture, Clock, LogError, Lookup, Orders, Receipt, StoredOrder, WordIntake, Words,
    lookup::{Listed, is_held},
};
use sluice_schemas::{
    command::{Command, Verdict, Wish},
    delta::Delta,
};
use tower::ServiceExt;

use crate::{
    Deliveries, Operator, WebhookTrace,
    kept::tests::{Memory, kept},
    router,
};

pub(crate) const AT: u64 = 1_794_355_200_000;

pub(crate) struct World {
    /// Newest first.
    pub orders: Mutex<Vec<(OrderId, StoredOrder)>>,
    pub heard: Mutex<Vec<u64>>,
    pub decides: bool,
    pub documents: Arc<Memory>,
    /// How many orders were looked at.
    pub looked: Mutex<usize>,
    /// The store is away.
    pub away: AtomicBool,
}

pub(crate) fn id(n: u64) -> OrderId {
    OrderId::new(AT + n, Fingerprint::of("m-1", &format!("k-{n}")), SlotCount::DEFAULT)
}

pub(crate) fn world(decides: bool, orders: Vec<(OrderId, StoredOrder)>) -> Arc<World> {
    let (orders, heard, documents) = (Mutex::new(orders), Mutex::default(), Arc::default());
    Arc::new(World { orders, heard, decides, documents, looked: Mutex::default(), away: AtomicBool::default() })
}

/// A row of these deltas.
pub(crate) fn row(deltas: &[Delta<'_>]) -> Vec<u8> {
    let mut row = Vec::new();
    deltas.iter().for_each(|delta| delta.encode(5, &mut row));
    row
}

impl World {
    /// An answer to `request`, and its JSON if it has any.
    pub async fn ask(self: &Arc<Self>, request: Request<Body>) -> (StatusCode, Value) {
        let operators = Arc::new(Operators::new(vec![KeyHash::of("key").unwrap()]));
        let kept = kept(self.documents.clone()).0;
        let operator = Operator {
            orders: self.clone(),
            lookup: self.clone(),
            words: self.clone(),
            deliveries: self.clone(),
            kept,
            operators,
            clock: self.clone(),
        };
        let response = router(operator).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
    }
}

impl Orders for World {
    fn read(&self, id: OrderId) -> BoxFuture<'_, Result<Option<StoredOrder>, LogError>> {
        if self.away.load(Relaxed) {
            return Box::pin(async { Err(LogError::Store("away".into())) });
        }
        let found =
            self.orders.lock().unwrap().iter().find(|(known, _)| *known == id).map(|(_, stored)| stored.clone());
        Box::pin(async move { Ok(found) })
    }
}

impl Lookup for World {
    fn orders_of<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Option<OrderId>,
        _: usize,
    ) -> BoxFuture<'a, Result<Listed, LogError>> {
        unreachable!("operators don't ask for customers")
    }

    fn held<'a>(&'a self, before: Option<OrderId>, max: usize) -> BoxFuture<'a, Result<Listed, LogError>> {
        if self.away.load(Relaxed) {
            return Box::pin(async { Err(LogError::Store("away".into())) });
        }
        let all = self.orders.lock().unwrap();
        let mut rest = all.iter().filter(|(id, _)| before.is_none_or(|before| *id < before)).cloned();
        let page: Vec<_> = rest.by_ref().take(max).collect();
        *self.looked.lock().unwrap() += page.len();
        let next = rest.next().and_then(|_| page.last().map(|(id, _)| *id));
        let orders = page.into_iter().filter(|(id, stored)| is_held(*id, stored).unwrap()).collect();
        Box::pin(async move { Ok(Listed { orders, next }) })
    }

    fn shipments_of<'a>(
        &'a self,
        _: &'a str,
        _: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<sluice_domain::ShipmentId>>, LogError>> {
        unreachable!("operators don't ask for tracking numbers")
    }
}

impl WordIntake for World {
    fn hear(&self, words: Words) -> BoxFuture<'_, Vec<Receipt>> {
        let command = Command::decode(&words.bytes).unwrap();
        self.heard.lock().unwrap().push(command.id);
        let (order, id) = (OrderId(command.order), command.id);
        let mut orders = self.orders.lock().unwrap();
        let row = &mut orders.iter_mut().find(|(known, _)| *known == order).unwrap().1.row;
        if self.decides {
            Delta::Commanded { id, verdict: Verdict::Done }.encode(90, row);
        }
        match command.wish {
            Wish::Replay { by } => {
                assert_eq!(by, Operators::name("key"));
                let replayed = Delta::Replayed { parcel: None, replay: 1, attempt: 0, command: id, by: "operator" };
                self.decides.then(|| replayed.encode(90, row));
            }
            Wish::Review { parcel, handling, keep, by } => {
                assert_eq!(by, Operators::name("key"));
                let reviewed = Delta::Reviewed { parcel, handling: Some(handling), keep, command: id, by: "ann" };
                self.decides.then(|| reviewed.encode(90, row));
            }
            other => panic!("{other:?}"),
        }
        Box::pin(async { vec![Receipt::Accepted] })
    }
}

impl Clock for World {
    fn now_ms(&self) -> u64 {
        AT + 60_000
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

impl Deliveries for World {
    fn of(&self, _: Option<&str>, _: OrderId) -> Result<Vec<WebhookTrace>, LogError> {
        Ok(Vec::new())
    }
}
