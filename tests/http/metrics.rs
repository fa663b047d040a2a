//! `/metrics` is what Prometheus reads, shows what is promised, and lets nothing that a request says become a label.

use std::collections::{BTreeMap, BTreeSet};

use super::life::wait_for_status;
use crate::support::{
    orders::{BEER, order, order_of},
    setup::{Carrier, GOOD, Setup},
    world::World,
};

/// Metrics that dashboards and alerts are built on, with their kind.
const PROMISED: [(&str, &str); 29] = [
    ("sluice_orders_accepted_total", "counter"),
    ("sluice_orders_replayed_total", "counter"),
    ("sluice_orders", "gauge"),
    ("sluice_stage_batch_seconds", "histogram"),
    ("sluice_journal_sync_seconds", "histogram"),
    ("sluice_journal_group_bytes", "histogram"),
    ("sluice_partition_queue_bytes", "gauge"),
    ("sluice_partition_young_rows_bytes", "gauge"),
    ("sluice_outbox_lag_bytes", "gauge"),
    ("sluice_checkpoint_lag_bytes", "gauge"),
    ("sluice_checkpoints_total", "counter"),
    ("sluice_checkpoint_seconds", "histogram"),
    ("sluice_carrier_calls_total", "counter"),
    ("sluice_carrier_call_seconds", "histogram"),
    ("sluice_carrier_shipments_total", "counter"),
    ("sluice_carrier_retried_shipments_total", "counter"),
    ("sluice_carrier_odd_results_total", "counter"),
    ("sluice_carrier_held_shipments", "gauge"),
    ("sluice_carrier_calls_in_flight", "gauge"),
    ("sluice_carrier_breaker_state", "gauge"),
    ("sluice_http_connections", "gauge"),
    ("sluice_http_connections_total", "counter"),
    ("sluice_http_requests_total", "counter"),
    ("sluice_http_request_duration_seconds", "histogram"),
    ("sluice_checkout_orders_total", "counter"),
    ("sluice_checkout_inflight_bytes", "gauge"),
    ("sluice_ready", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("sluice_build_info", "gauge"),
];

/// Every label, and what it may say: whatever the traffic, there are never more time series than these.
const LABELS: [(&str, &[&str]); 10] = [
    ("carrier", &["good", "light"]),
    ("class", &["in_flight", "finished", "dead_lettered"]),
    ("outcome", &["accepted", "rejected", "unknown", "given_up", "replayed", "invalid", "refused"]),
    ("partition", &["0", "1"]),
    ("result", &["answered", "refused", "not_sent", "ambiguous"]),
    ("route", &["POST /v1/orders", "POST /v1/orders:batch", "GET /v1/orders/{id}"]),
    ("stage", &["classify", "route"]),
    ("status", &["1xx", "2xx", "3xx", "4xx", "5xx"]),
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

#[test]
fn metrics_are_readable_complete_and_bounded() {
    let light = Carrier { id: "light", handling: &["age_restricted"], more: "max_weight_g = 3999", ..GOOD };
    let good = Carrier { handling: &["chilled", "ambient", "frozen"], ..GOOD };
    let world = World::new(Setup::new(&[good, light]).with("checkpoint_mb = 1\n"));
    let server = world.serve();
    let client = world.client();
    let first = order();
    let id = client.order("k-1", &first).id();
    wait_for_status(&client, &id, "carrier_accepted");
    assert_eq!(client.order("k-1", &first).header("idempotent-replayed"), Some("true"));
    let poison = client.order("k-2", &order_of(&[(BEER, 1)])).id();
    wait_for_status(&client, &poison, "dead_lettered");
    client.order_text("k-3", "{}").problem(422);
    client.get("/v1/orders/none").problem(404);
    // A checkpoint, so that its metrics are there.
    let mut batch = 0;
    while server.metric("sluice_checkpoints_total").is_none_or(|checkpoints| checkpoints < 1.0) {
        let mut long = order();
        long["idempotency_key"] = format!("k-{batch}-long").into();
        long["lines"] = vec![long["lines"][0].clone(); 100].into();
        long["lines"].as_array_mut().unwrap().iter_mut().for_each(|line| line["title"] = "YOGURT ".repeat(28).into());
        client.batch(long.to_string()).lines();
        batch += 1;
        assert!(batch < 1_000, "no checkpoint after {batch} long orders");
    }

    let answer = client.get("/metrics");
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let shown = Exposition::parse(&answer.text());
    for (name, kind) in PROMISED {
        assert_eq!(shown.kinds.get(name).map(String::as_str), Some(kind), "{name}");
        assert!(shown.helped.contains(name), "{name} has no help");
        assert!(shown.samples.iter().any(|sample| shown.family(&sample.name) == name), "{name} has no sample");
    }
    let labels: BTreeMap<&str, &[&str]> = LABELS.into();
    for sample in &shown.samples {
        let family = shown.family(&sample.name);
        assert!(PROMISED.iter().any(|(name, _)| *name == family), "{family} is promised nowhere");
        for (key, value) in sample.labels.iter().filter(|(key, _)| *key != "le") {
            let known = labels.get(key.as_str()).is_some_and(|values| values.contains(&value.as_str()));
            assert!(known, "{family} has the label {key}={value:?}");
        }
    }
    assert_histograms(&shown);
    let value = |name: &str, labels: &[(&str, &str)]| shown.value(name, labels);
    assert_eq!(value("sluice_orders_accepted_total", &[]), f64::from(batch + 2));
    assert_eq!(value("sluice_orders_replayed_total", &[]), 1.0);
    assert_eq!(value("sluice_orders", &[("class", "dead_lettered")]), 1.0);
    assert_eq!(value("sluice_checkout_orders_total", &[("outcome", "invalid")]), 1.0);
    assert_eq!(value("sluice_http_requests_total", &[("route", "POST /v1/orders"), ("status", "2xx")]), 3.0);
    assert_eq!(value("sluice_ready", &[]), 1.0);
    assert!(value("process_resident_memory_bytes", &[]) > 1e6);
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
