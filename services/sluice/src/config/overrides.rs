//! Environment variables that go before the configuration file.

use std::{path::PathBuf, str::FromStr};

use super::{Config, Hidden, LogFormat, retention};

/// Sets one key of a configuration from a text.
pub(super) type Setter = fn(&mut Config, &str) -> Result<(), String>;

/// Every key that an environment variable overrides: `SLUICE_` and the key in upper case, behind its table's name.
pub(super) const ALL: [(&str, Setter); 27] = [
    ("SLUICE_LISTEN", |c, v| set(&mut c.listen, v, "an address and port such as 127.0.0.1:8080")),
    ("SLUICE_DATA_DIR", |c, v| set(&mut c.data_dir, v, "a folder")),
    ("SLUICE_PLACED_AT_WINDOW_S", |c, v| set(&mut c.placed_at_window_s, v, "a number of seconds")),
    ("SLUICE_PARTITIONS", |c, v| set(&mut c.partitions, v, "a number")),
    ("SLUICE_SEGMENT_MB", |c, v| set(&mut c.segment_mb, v, "a number of MiB")),
    ("SLUICE_CHECKPOINT_MB", |c, v| set(&mut c.checkpoint_mb, v, "a number of MiB")),
    ("SLUICE_HOT_MB", |c, v| set(&mut c.hot_mb, v, "a number of MiB")),
    ("SLUICE_QUEUE_MB", |c, v| set(&mut c.queue_mb, v, "a number of MiB")),
    ("SLUICE_MAX_INFLIGHT_MB", |c, v| set(&mut c.max_inflight_mb, v, "a number of MiB")),
    ("SLUICE_SLOW_ACK_MS", |c, v| set(&mut c.slow_ack_ms, v, "a number of milliseconds")),
    ("SLUICE_MAX_CONNECTIONS", |c, v| set(&mut c.max_connections, v, "a number")),
    ("SLUICE_RATE_LIMIT", |c, v| set(&mut c.rate_limit, v, "a number of orders a second")),
    ("SLUICE_BURST", |c, v| set(&mut c.burst, v, "a number of orders")),
    ("SLUICE_MAX_EVENT_STREAMS", |c, v| set(&mut c.max_event_streams, v, "a number")),
    ("SLUICE_MAX_STREAMS", |c, v| set(&mut c.max_streams, v, "a number")),
    ("SLUICE_DRAIN_DEADLINE_S", |c, v| set(&mut c.drain_deadline_s, v, "a number of seconds")),
    ("SLUICE_LOG_FORMAT", |c, v| {
        let format = <LogFormat as clap::ValueEnum>::from_str(v, true);
        c.log_format = format.map_err(|_| "expected pretty or json".to_owned())?;
        Ok(())
    }),
    ("SLUICE_LOG_LEVEL", |c, v| set(&mut c.log_level, v, "a level")),
    ("SLUICE_RULES", |c, v| {
        c.rules = Some(PathBuf::from(v));
        Ok(())
    }),
    ("SLUICE_MODEL", |c, v| {
        c.model = Some(PathBuf::from(v));
        Ok(())
    }),
    ("SLUICE_REVIEW", |c, v| set(&mut c.review, v, "true or false")),
    ("SLUICE_REVIEW_ABOVE_RISK", |c, v| set(c.review_above_risk.insert(0.0), v, "a number from 0 to 1")),
    ("SLUICE_OPERATOR_KEY", |c, v| {
        (c.operator_key, c.operator_key_env) = (Some(Hidden::new(v)), None);
        Ok(())
    }),
    ("SLUICE_OPERATOR_KEY_ENV", |c, v| {
        (c.operator_key, c.operator_key_env) = (None, Some(v.to_owned()));
        Ok(())
    }),
    ("SLUICE_OPERATOR_KEY_HASH", |c, v| {
        c.operator_key_hash = Some(Hidden::new(v));
        Ok(())
    }),
    ("SLUICE_RETENTION_TIME", |c, v| {
        c.retention.time = Some(retention::parse_time(v)?);
        Ok(())
    }),
    ("SLUICE_RETENTION_BYTES", |c, v| {
        c.retention.bytes = Some(retention::parse_bytes(v)?);
        Ok(())
    }),
];

fn set<T: FromStr>(field: &mut T, text: &str, expected: &str) -> Result<(), String> {
    *field = text.parse().map_err(|_| format!("expected {expected}, got {text:?}"))?;
    Ok(())
}
