//! One moment of a deployment: every node's figures, and what they are together. What `--json` prints.

use std::collections::BTreeMap;

use serde::Serialize;

use super::figures::{Counted, Latency, Reading, Span};

/// What was learned of a node this time.
pub(super) struct Look<'a> {
    pub url: &'a str,
    /// Its last reading but one, if it is of no other time than that before this one's.
    pub before: Option<&'a Reading>,
    /// Its metrics, or why there are none.
    pub now: Result<&'a Reading, &'a str>,
}

/// One moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Frame {
    /// ms since the Unix epoch.
    pub at_ms: u64,
    /// All nodes that answer.
    pub total: Figures,
    /// Each node.
    pub nodes: Vec<Node>,
    /// How long things take, over all nodes, by what.
    pub latencies: BTreeMap<&'static str, Latency>,
    /// What waits, over all nodes, by what; in the unit that its name ends with.
    pub lags: BTreeMap<String, f64>,
    /// Carriers by id.
    pub carriers: BTreeMap<String, CarrierFigures>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    /// Where it was asked.
    pub url: String,
    /// Whether its metrics could be read.
    pub up: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether it takes orders.
    pub ready: bool,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its figures; absent while it is away.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
}

/// Figures of a node, or of all. Absent: it has no such metric, or there is no earlier reading yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Orders acknowledged, a second.
    pub accepted_per_s: Option<f64>,
    /// Orders finished, a second.
    pub finished_per_s: Option<f64>,
    /// Orders dead-lettered, a second.
    pub dead_lettered_per_s: Option<f64>,
    /// Orders undecided now; only the embedded engine knows.
    pub in_flight: Option<f64>,
    /// Orders refused for want of room, a second.
    pub refused_per_s: Option<f64>,
    /// Requests answered 5xx, a second.
    pub server_errors_per_s: Option<f64>,
    /// What went wrong behind the API and was tried again, a second: store, log, transactions.
    pub retries_per_s: Option<f64>,
    /// Open connections.
    pub connections: Option<f64>,
    /// Of these: streams of orders' events.
    pub streams: Option<f64>,
    /// Resident memory, bytes.
    pub memory_bytes: Option<f64>,
}

/// How a carrier does, over all nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CarrierFigures {
    /// The worst of the nodes' circuit breakers: 0 closed, 1 half open, 2 open.
    pub breaker: f64,
    /// Shipments accepted, a second.
    pub accepted_per_s: Option<f64>,
    /// Shipments rejected, a second.
    pub rejected_per_s: Option<f64>,
    /// Calls that failed or were refused, a second.
    pub failed_calls_per_s: Option<f64>,
    /// Calls under way.
    pub calls: f64,
    /// Shipments that wait for an outcome.
    pub waiting: f64,
    /// How long its calls take.
    pub call: Option<Latency>,
}

impl CarrierFigures {
    /// The breaker's state by name.
    #[must_use]
    pub fn breaker_name(&self) -> &'static str {
        match self.breaker {
            state if state >= 2.0 => "open",
            state if state >= 1.0 => "half open",
            _ => "closed",
        }
    }
}

/// Labels that a series must have.
type Labels = &'static [(&'static str, &'static str)];

/// What is shown of how long things take: a name, and the histogram with its labels.
const LATENCIES: [(&str, &str, Labels); 9] = [
    ("POST /v1/orders", REQUEST, &[("route", "POST /v1/orders")]),
    ("POST /v1/orders:batch", REQUEST, &[("route", "POST /v1/orders:batch")]),
    ("GET /v1/orders/{id}", REQUEST, &[("route", "GET /v1/orders/{id}")]),
    ("carrier events", REQUEST, &[("route", "POST /v1/carriers/{carrier}/events")]),
    ("carrier calls", "sluice_carrier_call_seconds", &[]),
    ("journal sync", "sluice_journal_sync_seconds", &[]),
    ("checkpoint", "sluice_checkpoint_seconds", &[]),
    ("owner commit", "sluice_owner_commit_seconds", &[]),
    ("store write", "sluice_store_write_seconds", &[]),
];
const REQUEST: &str = "sluice_http_request_duration_seconds";

/// What is shown of what waits: a name, the gauge, and the label that tells its series apart, if they are shown apart.
const LAGS: [(&str, &str, &str); 8] = [
    ("queue_bytes", "sluice_partition_queue_bytes", ""),
    ("checkpoint_lag_bytes", "sluice_checkpoint_lag_bytes", ""),
    ("outbox_lag_bytes", "sluice_outbox_lag_bytes", "carrier"),
    ("log_waiting_bytes", "sluice_log_waiting_bytes", ""),
    ("lag_records", "sluice_lag_records", "topic"),
    ("fold_lag_records", "sluice_fold_lag_records", ""),
    ("outbox_unsettled_shipments", "sluice_outbox_unsettled", "carrier"),
    ("partitions_waiting", "sluice_owner_partitions_waiting", ""),
];
/// Every node tells the same of these, as it sees it: the most that any sees counts, not the sum.
const SEEN_BY_ALL: &[&str] = &["sluice_lag_records"];

impl Frame {
    /// Puts together what was learned of each node.
    pub(super) fn new(at_ms: u64, looks: &[Look<'_>]) -> Self {
        let nodes: Vec<Node> = looks.iter().map(node).collect();
        let figures: Vec<Figures> = nodes.iter().filter_map(|node| node.figures).collect();
        let spans: Vec<Span<'_>> = looks.iter().filter_map(span).collect();
        let readings: Vec<&Reading> = looks.iter().filter_map(|look| look.now.ok()).collect();
        Self {
            at_ms,
            total: total(&figures),
            nodes,
            latencies: LATENCIES
                .iter()
                .filter_map(|&(what, name, labels)| Some((what, latency(&spans, name, labels)?)))
                .collect(),
            lags: lags(&readings),
            carriers: carriers(&readings, &spans),
        }
    }
}

fn span<'a>(look: &Look<'a>) -> Option<Span<'a>> {
    Some(Span { before: look.before?, now: look.now.ok()? })
}

fn node(look: &Look<'_>) -> Node {
    let (url, now) = (look.url.to_owned(), look.now);
    match now {
        Err(problem) => {
            Node { url, up: false, problem: Some(problem.to_owned()), ready: false, version: None, figures: None }
        }
        Ok(now) => Node {
            url,
            up: true,
            problem: None,
            ready: now.sum("sluice_ready", &[]) == Some(1.0),
            version: now.label("sluice_build_info", "version"),
            figures: Some(figures(now, span(look).as_ref())),
        },
    }
}

fn figures(now: &Reading, span: Option<&Span<'_>>) -> Figures {
    let rate = |name: &str, labels: &[(&str, &str)]| span.and_then(|span| span.rate(name, labels));
    let rise = |class: &str| span.and_then(|span| span.rise("sluice_orders", &[("class", class)]));
    let retries = ["sluice_store_retries_total", "sluice_owner_aborts_total", "sluice_log_write_errors_total"];
    let retries = retries.iter().filter_map(|name| rate(name, &[]));
    Figures {
        // What its checkout has acknowledged; a node without one tells nothing, or orders would count twice.
        accepted_per_s: rate("sluice_checkout_orders_total", &[("outcome", "accepted")]),
        finished_per_s: rate("sluice_orders_finished_total", &[]).or_else(|| rise("finished")),
        dead_lettered_per_s: rate("sluice_orders_dead_lettered_total", &[]).or_else(|| rise("dead_lettered")),
        in_flight: now.sum("sluice_orders", &[("class", "in_flight")]),
        refused_per_s: rate("sluice_checkout_orders_total", &[("outcome", "refused")]),
        server_errors_per_s: rate("sluice_http_requests_total", &[("status", "5xx")]),
        retries_per_s: retries.fold(None, |sum, rate| Some(sum.unwrap_or(0.0) + rate)),
        connections: now.sum("sluice_http_connections", &[]),
        streams: now.sum("sluice_status_streams", &[]),
        memory_bytes: now.sum("process_resident_memory_bytes", &[]),
    }
}

fn total(nodes: &[Figures]) -> Figures {
    let sum = |of: fn(&Figures) -> Option<f64>| {
        nodes.iter().filter_map(of).fold(None, |sum: Option<f64>, one| Some(sum.unwrap_or(0.0) + one))
    };
    Figures {
        accepted_per_s: sum(|f| f.accepted_per_s),
        finished_per_s: sum(|f| f.finished_per_s),
        dead_lettered_per_s: sum(|f| f.dead_lettered_per_s),
        in_flight: sum(|f| f.in_flight),
        refused_per_s: sum(|f| f.refused_per_s),
        server_errors_per_s: sum(|f| f.server_errors_per_s),
        retries_per_s: sum(|f| f.retries_per_s),
        connections: sum(|f| f.connections),
        streams: sum(|f| f.streams),
        memory_bytes: sum(|f| f.memory_bytes),
    }
}

fn latency(spans: &[Span<'_>], name: &str, labels: &[(&str, &str)]) -> Option<Latency> {
    let mut all = Counted::default();
    spans.iter().for_each(|span| all.merge(&span.counted(name, labels)));
    let longest = spans.iter().map(Span::seconds).fold(0.0, f64::max);
    all.latency(longest)
}

fn lags(readings: &[&Reading]) -> BTreeMap<String, f64> {
    let mut lags = BTreeMap::new();
    for (what, name, label) in LAGS {
        let most = SEEN_BY_ALL.contains(&name);
        for reading in readings {
            let mut add = |what: String, value: f64| {
                let lag = lags.entry(what).or_insert(0.0);
                *lag = if most { value.max(*lag) } else { *lag + value };
            };
            match label {
                "" => reading.sum(name, &[]).into_iter().for_each(|value| add(what.to_owned(), value)),
                label => {
                    for value in reading.labels(name, label) {
                        let sum = reading.sum(name, &[(label, value.as_str())]).unwrap_or(0.0);
                        add(format!("{value} {what}"), sum);
                    }
                }
            }
        }
    }
    lags
}

fn carriers(readings: &[&Reading], spans: &[Span<'_>]) -> BTreeMap<String, CarrierFigures> {
    const STATE: &str = "sluice_carrier_breaker_state";
    let mut carriers: BTreeMap<String, CarrierFigures> = BTreeMap::new();
    for reading in readings {
        for id in reading.labels(STATE, "carrier") {
            let gauge = |name: &str| reading.sum(name, &[("carrier", id.as_str())]).unwrap_or(0.0);
            let carrier = carriers.entry(id.clone()).or_default();
            carrier.breaker = carrier.breaker.max(gauge(STATE));
            carrier.calls += gauge("sluice_carrier_calls_in_flight");
            carrier.waiting += gauge("sluice_carrier_held_shipments");
        }
    }
    for (id, carrier) in &mut carriers {
        let of = |name: &str, label: &str, value: &str| {
            let rates = spans.iter().filter_map(|span| span.rate(name, &[("carrier", id.as_str()), (label, value)]));
            rates.fold(None, |sum: Option<f64>, rate| Some(sum.unwrap_or(0.0) + rate))
        };
        carrier.accepted_per_s = of("sluice_carrier_shipments_total", "outcome", "accepted");
        carrier.rejected_per_s = of("sluice_carrier_shipments_total", "outcome", "rejected");
        let failed = ["refused", "not_sent", "ambiguous"];
        let failed = failed.iter().filter_map(|result| of("sluice_carrier_calls_total", "result", result));
        carrier.failed_calls_per_s = failed.fold(None, |sum, rate| Some(sum.unwrap_or(0.0) + rate));
        carrier.call = latency(spans, "sluice_carrier_call_seconds", &[("carrier", id.as_str())]);
    }
    carriers
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub fn reading(at_s: u64, text: &str) -> Reading {
        Reading::parse(Duration::from_secs(at_s), text).unwrap()
    }

    /// A process on the embedded engine that has acknowledged so many orders.
    pub fn embedded(at_s: u64, orders: u64) -> Reading {
        reading(
            at_s,
            &format!(
                "sluice_checkout_orders_total{{outcome=\"accepted\"}} {orders}\n\
                 sluice_checkout_orders_total{{outcome=\"refused\"}} 0\n\
                 sluice_orders{{class=\"finished\"}} {}\nsluice_orders{{class=\"in_flight\"}} 12\n\
                 sluice_http_request_duration_seconds_bucket{{route=\"POST /v1/orders\",le=\"0.005\"}} {orders}\n\
                 sluice_http_request_duration_seconds_bucket{{route=\"POST /v1/orders\",le=\"+Inf\"}} {orders}\n\
                 sluice_outbox_lag_bytes{{carrier=\"swift\"}} 4096\nsluice_carrier_breaker_state{{carrier=\"swift\"}} 2\n\
                 sluice_carrier_shipments_total{{carrier=\"swift\",outcome=\"accepted\"}} {orders}\n\
                 sluice_carrier_calls_total{{carrier=\"swift\",result=\"not_sent\"}} {at_s}\n\
                 sluice_carrier_held_shipments{{carrier=\"swift\"}} 7\n\
                 process_resident_memory_bytes 104857600\nsluice_ready 1\nsluice_build_info{{version=\"0.1.0\"}} 1\n",
                orders / 2,
            ),
        )
    }

    #[test]
    fn one_process_tells_everything() {
        let (before, now) = (embedded(0, 1_000), embedded(10, 3_000));
        let frame = Frame::new(5, &[Look { url: "http://a", before: Some(&before), now: Ok(&now) }]);
        let figures = frame.nodes[0].figures.unwrap();
        assert_eq!((figures, frame.nodes[0].ready), (frame.total, true));
        assert_eq!((figures.accepted_per_s, figures.finished_per_s), (Some(200.0), Some(100.0)));
        assert_eq!((figures.in_flight, figures.memory_bytes), (Some(12.0), Some(104_857_600.0)));
        assert_eq!((figures.retries_per_s, figures.streams), (None, None));
        let ack = frame.latencies["POST /v1/orders"];
        assert_eq!((ack.per_s, ack.p50_ms), (200.0, 2.5));
        assert_eq!(frame.lags, BTreeMap::from([("swift outbox_lag_bytes".to_owned(), 4_096.0)]));
        let swift = frame.carriers["swift"];
        assert_eq!((swift.breaker_name(), swift.accepted_per_s, swift.waiting), ("open", Some(200.0), 7.0));
        assert_eq!(swift.failed_calls_per_s, Some(1.0));
        let json = serde_json::to_value(&frame).unwrap();
        assert_eq!(
            (&json["nodes"][0]["accepted_per_s"], &json["nodes"][0]["url"]),
            (&200.0.into(), &"http://a".into())
        );
    }

    #[test]
    fn roles_of_a_cluster_add_up_and_no_order_counts_twice() {
        let checkout = |at, n: u64| {
            reading(
                at,
                &format!(
                    "sluice_checkout_orders_total{{outcome=\"accepted\"}} {n}\nsluice_lag_records{{topic=\"orders\"}} 9"
                ),
            )
        };
        let classify = |at, n: u64| {
            reading(
                at,
                &format!(
                    "sluice_orders_accepted_total {n}\nsluice_orders_finished_total {n}\nsluice_owner_aborts_total 4\n\
                     sluice_lag_records{{topic=\"orders\"}} 7\nsluice_outbox_unsettled{{carrier=\"a\"}} 2"
                ),
            )
        };
        let readings = [checkout(0, 0), checkout(2, 100), classify(0, 0), classify(2, 60)];
        let look = |n: usize| Look { url: "", before: Some(&readings[n]), now: Ok(&readings[n + 1]) };
        let away = Look { url: "http://c", before: Some(&readings[0]), now: Err("no answer in time") };
        let frame = Frame::new(0, &[look(0), look(2), away]);
        assert_eq!((frame.total.accepted_per_s, frame.total.finished_per_s), (Some(50.0), Some(30.0)));
        assert_eq!(frame.total.retries_per_s, Some(0.0));
        assert_eq!((frame.lags["orders lag_records"], frame.lags["a outbox_unsettled_shipments"]), (9.0, 2.0));
        assert_eq!((frame.nodes[2].up, frame.nodes[2].problem.as_deref()), (false, Some("no answer in time")));
        assert_eq!(frame.nodes[2].figures, None);
    }

    #[test]
    fn without_an_earlier_reading_there_are_no_rates() {
        let now = embedded(10, 3_000);
        let frame = Frame::new(5, &[Look { url: "http://a", before: None, now: Ok(&now) }]);
        assert_eq!((frame.total.accepted_per_s, frame.total.in_flight), (None, Some(12.0)));
        assert!(frame.latencies.is_empty());
        assert_eq!(frame.carriers["swift"].accepted_per_s, None);
    }
}
