//! `/metrics` is what Prometheus reads, shows what is promised, and lets nothing that a request says become a label.

use std::collections::{BTreeMap, BTreeSet};

use super::life::wait_for_status;
use crate::support::{
    client::Client,
    engine::{Engine, on_both_engines},
    orders::{BEER, order, order_of},
    setup::{Carrier, GOOD, Setup},
    wait_for,
    world::World,
};

on_both_engines!(metrics_are_readable_complete_and_bounded);

type Kinds = &'static [(&'static str, &'static str)];

/// Metrics that dashboards and alerts are built on, with their kind.
const PROMISED: Kinds = &[
    ("sluice_orders_accepted_total", "counter"),
    ("sluice_orders_replayed_total", "counter"),
    ("sluice_parcels_held_total", "counter"),
    ("sluice_parcels_reviewed_total", "counter"),
    ("sluice_parcels_withdrawn_total", "counter"),
    ("sluice_stage_batch_seconds", "histogram"),
    ("sluice_carrier_calls_total", "counter"),
    ("sluice_carrier_events_total", "counter"),
    ("sluice_carrier_call_seconds", "histogram"),
    ("sluice_carrier_shipments_total", "counter"),
    ("sluice_carrier_voids_total", "counter"),
    ("sluice_carrier_retried_shipments_total", "counter"),
    ("sluice_carrier_odd_results_total", "counter"),
    ("sluice_carrier_held_shipments", "gauge"),
    ("sluice_carrier_calls_in_flight", "gauge"),
    ("sluice_carrier_breaker_state", "gauge"),
    ("sluice_status_streams", "gauge"),
    ("sluice_status_messages_total", "counter"),
    ("sluice_http_connections", "gauge"),
    ("sluice_http_connections_total", "counter"),
    ("sluice_http_requests_total", "counter"),
    ("sluice_http_request_duration_seconds", "histogram"),
    ("sluice_checkout_orders_total", "counter"),
    ("sluice_checkout_inflight_bytes", "gauge"),
    ("sluice_checkout_refused_total", "counter"),
    ("sluice_event_streams", "gauge"),
    ("sluice_events_sent_total", "counter"),
    ("sluice_webhook_attempts_total", "counter"),
    ("sluice_webhook_attempt_seconds", "histogram"),
    ("sluice_webhook_events_total", "counter"),
    ("sluice_webhook_gaps_total", "counter"),
    ("sluice_webhook_endpoints", "gauge"),
    ("sluice_webhook_parked_events", "gauge"),
    ("sluice_webhook_attempts_in_flight", "gauge"),
    ("sluice_webhook_failing_seconds", "gauge"),
    ("sluice_ready", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("sluice_build_info", "gauge"),
];

/// What only the embedded engine has.
const JOURNAL: Kinds = &[
    ("sluice_orders", "gauge"),
    ("sluice_journal_sync_seconds", "histogram"),
    ("sluice_journal_group_bytes", "histogram"),
    ("sluice_partition_queue_bytes", "gauge"),
    ("sluice_partition_young_rows_bytes", "gauge"),
    ("sluice_outbox_lag_bytes", "gauge"),
    ("sluice_checkpoint_lag_bytes", "gauge"),
    ("sluice_checkpoints_total", "counter"),
    ("sluice_checkpoint_seconds", "histogram"),
    ("sluice_journal_bytes", "gauge"),
    ("sluice_journal_oldest_timestamp_seconds", "gauge"),
    ("sluice_journal_segments_deleted_total", "counter"),
    ("sluice_orders_retired_total", "counter"),
    ("sluice_retention_held_bytes", "gauge"),
    ("sluice_retention_held_order_timestamp_seconds", "gauge"),
];

/// What only a node of a cluster has.
const NODE: Kinds = &[
    ("sluice_orders_finished_total", "counter"),
    ("sluice_orders_dead_lettered_total", "counter"),
    ("sluice_orders_reopened_total", "counter"),
    ("sluice_orders_conflicted_total", "counter"),
    ("sluice_log_waiting_bytes", "gauge"),
    ("sluice_lag_records", "gauge"),
    ("sluice_owner_commit_seconds", "histogram"),
    ("sluice_owner_partitions_waiting", "gauge"),
    ("sluice_owner_overlay_bytes", "gauge"),
    ("sluice_outbox_unsettled", "gauge"),
    ("sluice_outbox_rebalances_total", "counter"),
    ("sluice_status_looks_total", "counter"),
    ("sluice_fold_records_total", "counter"),
    ("sluice_fold_rows_total", "counter"),
    ("sluice_fold_lag_records", "gauge"),
    ("sluice_store_write_batches_total", "counter"),
    ("sluice_store_retries_total", "counter"),
    ("sluice_store_write_seconds", "histogram"),
];

/// … and shows once there is something to count.
const RARE: Kinds = &[
    ("sluice_owner_store_reads_total", "counter"),
    ("sluice_owner_aborts_total", "counter"),
    ("sluice_log_write_errors_total", "counter"),
];

/// Every label, and what it may say: whatever the traffic, there are never more time series than these.
const LABELS: [(&str, &[&str]); 14] = [
    ("carrier", &["good", "light"]),
    ("class", &["in_flight", "finished", "dead_lettered"]),
    (
        "outcome",
        &["accepted", "rejected", "unknown", "given_up", "replayed", "invalid", "refused", "taken", "delivered"],
    ),
    ("partition", &["0", "1"]),
    ("reason", &["rate", "share", "queue", "node"]),
    ("result", &["answered", "refused", "not_sent", "ambiguous", "taken", "failed", "busy", "gone", "unmade"]),
    (
        "route",
        &[
            "POST /v1/orders",
            "POST /v1/orders:batch",
            "GET /v1/orders",
            "GET /v1/orders/{id}",
            "GET /v1/events",
            "GET /v1/operator/events",
            "GET /v1/operator/orders/{id}",
            "POST /v1/operator/orders/{id}/replay",
            "GET /v1/review",
            "POST /v1/review/{id}",
            "GET /v1/review/kept",
            "DELETE /v1/review/kept/{id}",
            "GET /v1/orders/{id}/events",
            "POST /v1/orders/{id}/cancel",
            "POST /v1/orders/{id}/returns",
            "POST /v1/carriers/{carrier}/events",
            "POST /v1/webhooks",
            "GET /v1/webhooks",
            "GET /v1/webhooks/{id}",
            "PATCH /v1/webhooks/{id}",
            "DELETE /v1/webhooks/{id}",
            "GET /v1/webhooks/{id}/deliveries",
            "POST /v1/webhooks/{id}/rotate-secret",
            "POST /v1/webhooks/{id}/replay",
            "POST /v1/webhooks/{id}/enable",
        ],
    ),
    ("stage", &["classify", "route"]),
    ("state", &["active", "failing", "disabled"]),
    ("status", &["1xx", "2xx", "3xx", "4xx", "5xx"]),
    ("thread", &["0", "1"]),
    ("topic", &["orders", "decisions"]),
    ("version", &[env!("CARGO_PKG_VERSION")]),
    ("what", &["alien", "repeated", "overlong_tracking_number"]),
];

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the text format (version 0.0.4), as strictly as it is written.
struct Exposition {
    kinds: BTreeMap<String, String>,
    helped: BTreeSet<String>,
    samples: Vec<Sample>,
}

impl Exposition {
    fn read(client: &Client) -> Self {
        let answer = client.get("/metrics");
        assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
        Self::parse(&answer.text())
    }

    fn parse(text: &str) -> Self {
        let mut all = Self { kinds: BTreeMap::new(), helped: BTreeSet::new(), samples: Vec::new() };
        assert!(text.ends_with('\n'));
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && all.helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(all.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                assert!(!line.starts_with('#'), "{line}");
                all.samples.push(Sample::parse(line));
            }
        }
        all
    }

    fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| self.family(&sample.name) == name)
    }

    /// The metric that a sample belongs to: a histogram's samples have suffixes.
    fn family<'a>(&self, sample: &'a str) -> &'a str {
        let of_histogram = |suffix| {
            let name = sample.strip_suffix(suffix)?;
            (self.kinds.get(name).map(String::as_str) == Some("histogram")).then_some(name)
        };
        ["_bucket", "_sum", "_count"].into_iter().find_map(of_histogram).unwrap_or(sample)
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        let found: Vec<_> = self.samples.iter().filter(fits).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}");
        found[0].value
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap_or_else(|_| panic!("{line}")) };
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}"))),
            None => (series, ""),
        };
        let legal = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        assert!(legal(name), "{line}");
        let label = |text: &str| {
            let (key, value) = text.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            let value = value.strip_suffix('"').unwrap_or_else(|| panic!("{line}"));
            assert!(legal(key) && !value.contains('"'), "{line}");
            (key.to_owned(), value.to_owned())
        };
        let labels = labels.split(',').filter(|text| !text.is_empty()).map(label).collect();
        Self { name: name.to_owned(), labels, value }
    }
}

fn metrics_are_readable_complete_and_bounded(engine: &Engine) {
    let light = Carrier { id: "light", handling: &["age_restricted"], more: "max_weight_g = 3999", ..GOOD };
    let good = Carrier { handling: &["chilled", "ambient", "frozen"], ..GOOD };
    let world = World::on(engine, Setup::new(&[good, light]).with("checkpoint_mb = 1\n"));
    let server = world.serve();
    let client = world.client();
    let first = order();
    let id = client.order("k-1", &first).id();
    wait_for_status(&client, &id, "carrier_accepted");
    assert_eq!(client.order("k-1", &first).id(), id);
    let poison = client.order("k-2", &order_of(&[(BEER, 1)])).id();
    wait_for_status(&client, &poison, "dead_lettered");
    client.order_text("k-3", "{}").problem(422);
    client.get("/v1/orders/none").problem(404);
    let told = client.get("/v1/events?wait=10").lines().len();
    assert!(told > 0);
    // A checkpoint, so that its metrics are there.
    let mut batch = 0;
    while world.has_journal() && server.metric("sluice_checkpoints_total").is_none_or(|checkpoints| checkpoints < 1.0) {
        let mut long = order();
        long["idempotency_key"] = format!("k-{batch}-long").into();
        long["lines"] = vec![long["lines"][0].clone(); 100].into();
        long["lines"].as_array_mut().unwrap().iter_mut().for_each(|line| line["title"] = "YOGURT ".repeat(28).into());
        client.batch(long.to_string()).lines();
        batch += 1;
        assert!(batch < 1_000, "no checkpoint after {batch} long orders");
    }
    wait_for("the repetition is counted", || {
        (server.metric("sluice_orders_replayed_total") == Some(1.0)).then_some(())
    });

    let (own, rare): (Kinds, Kinds) = if world.has_journal() { (JOURNAL, &[]) } else { (NODE, RARE) };
    let promised = [PROMISED, own].concat();
    for (name, _) in &promised {
        wait_for(&format!("a sample of {name}"), || Exposition::read(&client).has(name).then_some(()));
    }
    let shown = Exposition::read(&client);
    assert_bounded(&shown, &[&promised, rare].concat());
    assert_histograms(&shown);
    let value = |name: &str, labels: &[(&str, &str)]| shown.value(name, labels);
    assert_eq!(value("sluice_orders_accepted_total", &[]), f64::from(batch + 2));
    let dead_lettered = match world.has_journal() {
        true => value("sluice_orders", &[("class", "dead_lettered")]),
        false => value("sluice_orders_dead_lettered_total", &[]),
    };
    assert_eq!(dead_lettered, 1.0);
    assert_eq!(value("sluice_checkout_orders_total", &[("outcome", "invalid")]), 1.0);
    assert_eq!(value("sluice_http_requests_total", &[("route", "POST /v1/orders"), ("status", "2xx")]), 3.0);
    assert_eq!((value("sluice_events_sent_total", &[]), value("sluice_event_streams", &[])), (told as f64, 0.0));
    assert_eq!(value("sluice_ready", &[]), 1.0);
    assert!(value("process_resident_memory_bytes", &[]) > 1e6);
}

/// Nothing is shown that isn't promised, and no label says what it may not say.
fn assert_bounded(shown: &Exposition, promised: &[(&str, &str)]) {
    let labels: BTreeMap<&str, &[&str]> = LABELS.into();
    for sample in &shown.samples {
        let family = shown.family(&sample.name);
        let kind = promised.iter().find(|(name, _)| *name == family).map(|(_, kind)| *kind);
        assert!(kind.is_some(), "{family} is promised nowhere");
        assert_eq!(shown.kinds.get(family).map(String::as_str), kind, "{family}");
        assert!(shown.helped.contains(family), "{family} has no help");
        for (key, value) in sample.labels.iter().filter(|(key, _)| *key != "le") {
            let known = labels.get(key.as_str()).is_some_and(|values| values.contains(&value.as_str()));
            assert!(known, "{family} has the label {key}={value:?}");
        }
    }
}

/// Buckets never fall, and the last one counts everything.
fn assert_histograms(shown: &Exposition) {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in shown.samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let le = labels.remove("le").unwrap();
        let le = if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
        series.entry(format!("{} {labels:?}", shown.family(&sample.name))).or_default().push((le, sample.value));
    }
    assert!(!series.is_empty());
    for (name, buckets) in &series {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
        assert_eq!(buckets.last().unwrap().0, f64::INFINITY, "{name}");
    }
    let counts = shown.samples.iter().filter(|s| s.name.ends_with("_count") && shown.family(&s.name) != s.name);
    for count in counts {
        let buckets = &series[&format!("{} {:?}", shown.family(&count.name), count.labels)];
        assert_eq!(buckets.last().unwrap().1, count.value, "{}", count.name);
    }
}
