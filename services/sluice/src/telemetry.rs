//! Logs and metrics of the process: installed once, described in one table.
//!
//! Names follow Prometheus: base units, `_total` for counters. Labels are bounded by the configuration (carriers,
//! partitions) or by the code (routes, outcomes); nothing that a request says becomes a label.

use std::sync::OnceLock;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Upper bounds of the buckets of every histogram of seconds: 50 µs to 30 s, about three a decade.
const SECONDS: [f64; 19] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 20.0, 30.0,
];
/// … of bytes: 4 KiB to 16 MiB.
const BYTES: [f64; 7] = [4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

enum Kind {
    Counter,
    Gauge,
    Histogram,
}
use Kind::{Counter, Gauge, Histogram};

/// Every metric that no service describes itself.
const METRICS: [(Kind, &str, Unit, &str); 50] = [
    (Counter, "sluice_orders_accepted_total", Unit::Count, "Orders that became durable"),
    (Counter, "sluice_orders_replayed_total", Unit::Count, "Requests answered as the repetition of an earlier one"),
    (Gauge, "sluice_orders", Unit::Count, "Orders in this data folder by class: in_flight, finished, dead_lettered"),
    (Counter, "sluice_parcels_held_total", Unit::Count, "Parcels held for a person to say what is in them"),
    (Counter, "sluice_parcels_reviewed_total", Unit::Count, "Held parcels that a person has released"),
    (Counter, "sluice_parcels_withdrawn_total", Unit::Count, "Held parcels whose order was cancelled"),
    (Histogram, "sluice_stage_batch_seconds", Unit::Seconds, "Time a stage took for one batch, by stage"),
    (Histogram, "sluice_journal_sync_seconds", Unit::Seconds, "Time to write and sync one group of the journal"),
    (Histogram, "sluice_journal_group_bytes", Unit::Bytes, "Payload of one group of the journal"),
    (Gauge, "sluice_partition_queue_bytes", Unit::Bytes, "Orders that wait for their owner, by partition"),
    (Gauge, "sluice_partition_young_rows_bytes", Unit::Bytes, "Rows that no checkpoint holds yet, by partition"),
    (Gauge, "sluice_outbox_lag_bytes", Unit::Bytes, "Journal behind the last settled entry of an outbox, by carrier"),
    (Gauge, "sluice_checkpoint_lag_bytes", Unit::Bytes, "Journal that a recovery would replay"),
    (Counter, "sluice_checkpoints_total", Unit::Count, "Checkpoints finished"),
    (Histogram, "sluice_checkpoint_seconds", Unit::Seconds, "Time one checkpoint took"),
    (Gauge, "sluice_journal_bytes", Unit::Bytes, "Segments of the journal"),
    (Gauge, "sluice_journal_oldest_timestamp_seconds", Unit::Seconds, "Nothing that is kept was written before this"),
    (Counter, "sluice_journal_segments_deleted_total", Unit::Count, "Segments of the journal that retention let go"),
    (Counter, "sluice_orders_retired_total", Unit::Count, "Orders that retention let go"),
    (Gauge, "sluice_retention_held_bytes", Unit::Bytes, "Journal that is old enough to go and that an order holds"),
    (
        Gauge,
        "sluice_retention_held_order_timestamp_seconds",
        Unit::Seconds,
        "When the order was placed that holds it; 0 if none does",
    ),
    (Counter, "sluice_carrier_calls_total", Unit::Count, "Calls to carriers, by carrier and result"),
    (Histogram, "sluice_carrier_call_seconds", Unit::Seconds, "Time of one call to a carrier, by carrier"),
    (Counter, "sluice_carrier_shipments_total", Unit::Count, "Shipments by carrier and outcome"),
    (Counter, "sluice_carrier_voids_total", Unit::Count, "Requests to forget a shipment, by carrier and outcome"),
    (Counter, "sluice_carrier_retried_shipments_total", Unit::Count, "Shipments sent again, by carrier"),
    (
        Counter,
        "sluice_carrier_odd_results_total",
        Unit::Count,
        "Results that were ignored, by carrier and what was odd",
    ),
    (Gauge, "sluice_carrier_held_shipments", Unit::Count, "Shipments a notifier has taken from its outbox, by carrier"),
    (Gauge, "sluice_carrier_calls_in_flight", Unit::Count, "Calls under way, by carrier"),
    (Gauge, "sluice_carrier_breaker_state", Unit::Count, "Circuit breaker: 0 closed, 1 half open, 2 open; by carrier"),
    (Gauge, "sluice_http_connections", Unit::Count, "Open HTTP connections"),
    (Counter, "sluice_http_connections_total", Unit::Count, "HTTP connections accepted"),
    (Gauge, "sluice_ready", Unit::Count, "1 while orders are taken"),
    (Gauge, "process_resident_memory_bytes", Unit::Bytes, "Resident memory"),
    (Gauge, "sluice_build_info", Unit::Count, "1, labelled with the version"),
    // Of a cluster's nodes alone.
    (Counter, "sluice_orders_finished_total", Unit::Count, "Orders that were finished"),
    (Counter, "sluice_orders_dead_lettered_total", Unit::Count, "Orders that were dead-lettered"),
    (Counter, "sluice_orders_reopened_total", Unit::Count, "Dead-lettered orders that were decided anew"),
    (Counter, "sluice_orders_conflicted_total", Unit::Count, "Requests under a key that another request had taken"),
    (Gauge, "sluice_log_waiting_bytes", Unit::Bytes, "Orders and outcomes that the brokers don't have yet"),
    (Counter, "sluice_log_write_errors_total", Unit::Count, "Records that the brokers did not take"),
    (Counter, "sluice_log_damaged_records_total", Unit::Count, "Records that could not be read and were skipped"),
    (Histogram, "sluice_owner_commit_seconds", Unit::Seconds, "Time to commit one transaction of decisions"),
    (Counter, "sluice_owner_aborts_total", Unit::Count, "Transactions that came to nothing"),
    (Counter, "sluice_owner_store_reads_total", Unit::Count, "Rows that owners had to ask the store for"),
    (Gauge, "sluice_owner_partitions_waiting", Unit::Count, "Partitions that wait for the store or the fold"),
    (Gauge, "sluice_owner_overlay_bytes", Unit::Bytes, "Rows that owners hold in memory"),
    (Gauge, "sluice_outbox_unsettled", Unit::Count, "Shipments that this node has no outcome of, by carrier"),
    (Counter, "sluice_outbox_rebalances_total", Unit::Count, "Changes of the partitions of an outbox, by carrier"),
    (Counter, "sluice_outbox_damaged_total", Unit::Count, "Records of an outbox that could not be read, by carrier"),
];

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the recorder, once a process, and describes what it records. `None` if something else has installed another:
/// then `/metrics` is empty and everything else works.
pub fn install_metrics() -> Option<PrometheusHandle> {
    HANDLE.get_or_init(build).clone()
}

fn build() -> Option<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES));
    let handle = match builder.map(PrometheusBuilder::install_recorder) {
        Ok(Ok(handle)) => handle,
        Ok(Err(error)) | Err(error) => {
            tracing::warn!(%error, "metrics are off");
            return None;
        }
    };
    for (kind, name, unit, text) in METRICS {
        match kind {
            Counter => describe_counter!(name, unit, text),
            Gauge => describe_gauge!(name, unit, text),
            Histogram => describe_histogram!(name, unit, text),
        }
    }
    gauge!("sluice_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // So that they are shown before the first of their kind.
    for name in [
        "sluice_orders_accepted_total",
        "sluice_orders_replayed_total",
        "sluice_parcels_held_total",
        "sluice_parcels_reviewed_total",
        "sluice_parcels_withdrawn_total",
    ] {
        counter!(name).increment(0);
    }
    Some(handle)
}

/// Publishes what the system knows of this process.
pub fn publish_process() {
    if let Some(bytes) = resident_bytes() {
        gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
}

/// Resident memory; `None` where the system doesn't tell.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

/// Starts logging to standard error: `RUST_LOG`, else `SLUICE_LOG`, else `level`. What can't be read as directives is
/// said, and `info` is used.
pub fn start_logs(format: LogFormat, level: &str) {
    let named = ["RUST_LOG", "SLUICE_LOG"].into_iter().find_map(|name| std::env::var(name).ok());
    let wanted = named.as_deref().filter(|text| !text.is_empty()).unwrap_or(level);
    let (filter, wrong) = match EnvFilter::try_new(directives(wanted)) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Pretty => builder.with_ansi(crate::output::is_watched()).try_init(),
    };
    // In a test process somebody else may have started it; the lines go there then.
    if started.is_ok()
        && let Some(error) = wrong
    {
        tracing::warn!(%error, wanted, "not a log level, using info");
    }
}

/// A plain level is meant for the product; what store and
/// brokers' client have to say of themselves is for those who ask for it.
fn directives(wanted: &str) -> String {
    match wanted {
        "warn" | "info" => format!("{wanted},fjall=warn,lsm_tree=warn,scylla=warn,rdkafka=off,librdkafka=warn"),
        _ => wanted.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_level_is_the_products() {
        assert_eq!(directives("info"), "info,fjall=warn,lsm_tree=warn,scylla=warn,rdkafka=off,librdkafka=warn");
        assert_eq!(directives("info,fjall=info"), "info,fjall=info");
        assert_eq!(directives("debug"), "debug");
    }

    #[test]
    fn histograms_have_buckets_and_metrics_their_help() {
        let handle = install_metrics().unwrap();
        metrics::histogram!("sluice_journal_sync_seconds").record(0.003);
        metrics::histogram!("sluice_journal_group_bytes").record(5_000.0);
        publish_process();
        let text = handle.render();
        assert!(text.contains("sluice_journal_sync_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("sluice_journal_group_bytes_bucket{le=\"16384\"} 1"), "{text}");
        assert!(text.contains("# HELP sluice_journal_sync_seconds Time to write"), "{text}");
        assert!(text.contains("sluice_build_info{version="), "{text}");
        assert!(resident_bytes().unwrap() > 1 << 20);
        assert!(install_metrics().is_some(), "again gives the same");
    }

    #[test]
    fn names_are_in_base_units() {
        for (kind, name, unit, _) in METRICS {
            assert_eq!(matches!(kind, Counter), name.ends_with("_total"), "{name}");
            assert_eq!(matches!(unit, Unit::Seconds), name.ends_with("_seconds"), "{name}");
            assert_eq!(matches!(unit, Unit::Bytes), name.ends_with("_bytes"), "{name}");
        }
    }
}
