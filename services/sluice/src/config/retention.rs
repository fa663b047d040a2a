//! `[retention]`: how long what is over is kept.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

/// Units of [`parse_time`], with their seconds.
const TIMES: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
/// Units of [`parse_bytes`], with their bytes.
const SIZES: [(&str, u64); 3] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)];
/// Seconds that can be set: a minute to 20 years, the longest that a cluster's store takes.
const SECONDS: std::ops::RangeInclusive<u64> = 60..=20 * 365 * 86_400;
/// Bytes that can be set.
const BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;

/// How long what is over is kept: for good, unless one of them says less. Whatever one lets go may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// After the last thing that happened to an order.
    #[serde(deserialize_with = "time")]
    pub time: Option<Duration>,
    /// Bytes of journal behind the last thing that happened to an order.
    #[serde(deserialize_with = "bytes")]
    pub bytes: Option<u64>,
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    parse_time(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    parse_bytes(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

/// Reads a time such as `30d`.
///
/// # Errors
/// What is expected.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let seconds = number(text, &TIMES).filter(|seconds| SECONDS.contains(seconds));
    let expected = || format!("expected a time from 1m to 7300d, such as 30d (s, m, h or d), got {text:?}");
    seconds.map(Duration::from_secs).ok_or_else(expected)
}

/// Reads a number of bytes such as `200GiB`.
///
/// # Errors
/// What is expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bytes = number(text, &SIZES).filter(|bytes| BYTES.contains(bytes));
    bytes.ok_or_else(|| format!("expected bytes from 1MiB to 1024TiB, such as 200GiB (MiB, GiB or TiB), got {text:?}"))
}

fn number(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(*unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_and_anything_else_is_refused() {
        assert_eq!(parse_time("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!([parse_time("1m"), parse_time("60s")], [Ok(Duration::from_secs(60)), Ok(Duration::from_secs(60))]);
        assert_eq!((parse_bytes("1MiB"), parse_bytes("200GiB")), (Ok(1 << 20), Ok(200 << 30)));
        for wrong in ["", "d", "30", "59s", "0d", "-1d", "+1d", "1.5d", "1 d", "7301d", "30D", "18446744073709551615d"]
        {
            assert!(parse_time(wrong).unwrap_err().contains("such as 30d"), "{wrong}");
        }
        for wrong in ["", "1", "1GB", "0MiB", "1025TiB", "99999999999999TiB"] {
            assert!(parse_bytes(wrong).unwrap_err().contains("such as 200GiB"), "{wrong}");
        }
    }
}
