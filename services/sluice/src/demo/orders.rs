//! What the demo posts: real baskets, each by its own store, and a few planted orders that can't be carried.

use std::sync::OnceLock;

use sluice_data::{Baskets, Catalogue, DataError, OrderWriter};
use sluice_http::rfc3339;

use super::carriers::{CAREFUL_REALLY_TAKES_G, FROZEN_LIMIT_G, LIMIT_G};

/// Orders in one batch request, at most; a batch is of one merchant.
const BATCH: usize = 200;
/// One order in so many is posted alone.
const SINGLE_EVERY: u64 = 10;
/// Orders planted to be dead-lettered, in a run that has room for them.
const PLANTED: u64 = 6;
/// Addresses follow from it.
const SEED: u64 = 42;

static DATA: OnceLock<(Catalogue, Baskets)> = OnceLock::new();

/// A planted order: lines as SKU and quantity, and the reason why nobody carries it.
struct Poison {
    lines: &'static [(u32, u32)],
}

/// Real products in amounts that can't be carried, each for another reason.
const POISONS: [Poison; 3] = [
    // One unit weighs 22,453 g, more than any carrier of frozen goods takes: no carrier is ever asked.
    Poison { lines: &[(8_124_675, 1), (1_029_743, 2)] },
    // 1,000 sacks of 22,680 g, one to a parcel: more parcels than an order may have.
    Poison { lines: &[(123_983, 1_000)] },
    // 29,938 g of live plants: `careful` has promised to take that much, and then turns it down.
    Poison { lines: &[(828_613, 1), (967_656, 1), (13_985_925, 2)] },
];

/// A merchant of the demo.
#[derive(Debug, Clone)]
pub struct Merchant {
    /// `m-` and the store's number.
    pub id: String,
    /// Its API key.
    pub key: String,
}

/// Orders of one merchant that are posted together, or one alone.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Index of the merchant.
    pub merchant: usize,
    /// Numbers of the orders.
    pub orders: Vec<u64>,
}

/// Everything to be posted.
pub struct Plan {
    writer: OrderWriter<'static>,
    /// Who posts.
    pub merchants: Vec<Merchant>,
    /// For `/v1/orders:batch`.
    pub batches: Vec<Unit>,
    /// For `/v1/orders`.
    pub singles: Vec<Unit>,
    /// Numbers of the planted orders, ascending.
    pub planted: Vec<u64>,
}

impl Plan {
    /// A plan of `orders` orders.
    ///
    /// # Errors
    /// When the embedded data is damaged.
    pub fn new(orders: u64) -> Result<Self, DataError> {
        let (catalogue, baskets) = match DATA.get() {
            Some(data) => data,
            None => {
                let data = (sluice_data::catalogue()?, sluice_data::baskets()?);
                DATA.get_or_init(|| data)
            }
        };
        let writer = OrderWriter::new(catalogue, baskets)?;
        let mut ids: Vec<&str> = (0..baskets.len()).map(|index| writer.merchant(index)).collect();
        ids.sort_unstable();
        ids.dedup();
        let index_of = |n: u64| ids.binary_search(&writer.merchant(n as usize)).unwrap_or(0);
        let planted = PLANTED.min(orders / 10);
        let planted: Vec<u64> = (1..=planted).map(|k| orders * k / (planted + 1)).collect();
        let (mut batches, mut singles) = (Vec::new(), Vec::new());
        let mut open: Vec<Vec<u64>> = vec![Vec::new(); ids.len()];
        for n in 0..orders {
            let merchant = index_of(n);
            if n % SINGLE_EVERY == 0 || planted.binary_search(&n).is_ok() {
                singles.push(Unit { merchant, orders: vec![n] });
                continue;
            }
            open[merchant].push(n);
            if open[merchant].len() == BATCH {
                batches.push(Unit { merchant, orders: std::mem::take(&mut open[merchant]) });
            }
        }
        let rest = open.into_iter().enumerate().filter(|(_, orders)| !orders.is_empty());
        batches.extend(rest.map(|(merchant, orders)| Unit { merchant, orders }));
        let merchants = ids.iter().map(|id| Merchant { id: (*id).to_owned(), key: format!("demo-key-{id}") }).collect();
        Ok(Self { writer, merchants, batches, singles, planted })
    }

    /// Replaces `request` by the whole request that posts `unit`, placed now.
    pub fn write(
        &self,
        unit: &Unit,
        alone: bool,
        authority: &str,
        now_ms: u64,
        body: &mut Vec<u8>,
        request: &mut Vec<u8>,
    ) {
        body.clear();
        request.clear();
        for &n in &unit.orders {
            self.write_order(n, now_ms, body);
            if !alone {
                // The key goes in before the closing brace.
                body.pop();
                body.extend_from_slice(format!(",\"idempotency_key\":\"demo-{n}\"}}\n").as_bytes());
            }
        }
        let key = self.merchants.get(unit.merchant).map_or("", |merchant| &merchant.key);
        let (path, kind) = if alone { ("/v1/orders", "json") } else { ("/v1/orders:batch", "x-ndjson") };
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {key}\r\ncontent-type: application/{kind}\r\ncontent-length: {}\r\n",
            body.len()
        );
        if let (true, Some(n)) = (alone, unit.orders.first()) {
            head.push_str(&format!("idempotency-key: demo-{n}\r\n"));
        }
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
    }

    fn write_order(&self, n: u64, now_ms: u64, out: &mut Vec<u8>) {
        match self.planted.binary_search(&n) {
            Ok(at) => self.write_poison(&POISONS[at % POISONS.len()], n, now_ms, out),
            Err(_) => self.writer.write_order_json(n as usize, SEED, now_ms, out),
        }
    }

    fn write_poison(&self, poison: &Poison, n: u64, now_ms: u64, out: &mut Vec<u8>) {
        let title =
            |sku| DATA.get().and_then(|(catalogue, _)| catalogue.get(sku)).map_or("", |product| product.title());
        let line = |&(sku, quantity): &(u32, u32)| serde_json::json!({"sku": sku.to_string(), "title": title(sku), "quantity": quantity, "unit_price": 999});
        let placed_at = rfc3339::format(now_ms);
        let order = serde_json::json!({
            "customer": format!("c-{n}"),
            "placed_at": std::str::from_utf8(&placed_at).unwrap_or_default(),
            "currency": "USD",
            "ship_to": {"name": "A. Customer", "street": "1 Main St", "city": "Springfield", "postal_code": "00000", "country": "US"},
            "lines": poison.lines.iter().map(line).collect::<Vec<_>>(),
        });
        out.extend_from_slice(order.to_string().as_bytes());
    }
}

// What the planted orders rest on.
const _: () = assert!(FROZEN_LIMIT_G < 22_453 && CAREFUL_REALLY_TAKES_G < 29_938 && 29_938 <= LIMIT_G);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_order_is_posted_once_and_a_batch_has_one_merchant() {
        for orders in [1, 9, 60, 1_000, 45_000] {
            let plan = Plan::new(orders).unwrap();
            let units = || plan.batches.iter().chain(&plan.singles);
            let numbers: BTreeSet<u64> = units().flat_map(|unit| unit.orders.iter().copied()).collect();
            assert_eq!(numbers.len() as u64, orders);
            assert_eq!(units().map(|unit| unit.orders.len() as u64).sum::<u64>(), orders);
            assert_eq!(plan.planted.len() as u64, (orders / 10).min(6));
            for unit in units() {
                let id = &plan.merchants[unit.merchant].id;
                assert!(unit.orders.iter().all(|&n| plan.writer.merchant(n as usize) == id));
                assert!(unit.orders.len() <= BATCH);
            }
        }
    }

    #[test]
    fn planted_orders_weigh_what_they_are_planted_for() {
        let (catalogue, _) = (Plan::new(1).unwrap(), DATA.get().unwrap()).1;
        let weigh = |at: usize| {
            let lines = POISONS[at].lines.iter();
            lines.map(|&(sku, quantity)| catalogue.get(sku).unwrap().weight_g * quantity).sum::<u32>()
        };
        assert_eq!(catalogue.get(POISONS[0].lines[0].0).unwrap().handling_name(), "frozen");
        assert_eq!(catalogue.get(POISONS[0].lines[0].0).unwrap().weight_g, 22_453);
        assert_eq!(weigh(1), 22_680_000);
        assert_eq!(weigh(2), 29_938);
        assert!(POISONS[2].lines.iter().all(|l| catalogue.get(l.0).unwrap().handling_name() == "live_plant"));
    }

    #[test]
    fn requests_are_whole() {
        let plan = Plan::new(600).unwrap();
        let (mut body, mut request) = (Vec::new(), Vec::new());
        plan.write(&plan.batches[0], false, "h:1", 1_794_355_200_123, &mut body, &mut request);
        let text = String::from_utf8(request.clone()).unwrap();
        let (head, lines) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", lines.len())), "{head}");
        assert_eq!(lines.lines().count(), plan.batches[0].orders.len());
        for line in lines.lines() {
            let order: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(order["idempotency_key"].as_str().unwrap().starts_with("demo-"));
        }
        for unit in &plan.singles {
            plan.write(unit, true, "h:1", 1_794_355_200_123, &mut body, &mut request);
            let order: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(order["placed_at"], "2026-11-11T00:00:00.123Z");
            assert!(String::from_utf8_lossy(&request).contains("idempotency-key: demo-"));
        }
    }
}
