//! The time in manifests, written into a buffer that is there already.

/// Appends ms since the Unix epoch as `2026-11-11T00:00:00.123Z`. Times beyond the year 9999 are written as its end.
pub(super) fn put_rfc3339(out: &mut Vec<u8>, epoch_ms: u64) {
    /// The last ms of the year 9999.
    const LATEST_MS: u64 = 253_402_300_799_999;
    let at = epoch_ms.min(LATEST_MS);
    let (days, of_day) = (at / 86_400_000, at % 86_400_000);
    let (year, month, day) = civil(days);
    let parts = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (of_day / 3_600_000, 2, b':'),
        (of_day / 60_000 % 60, 2, b':'),
        (of_day / 1_000 % 60, 2, b'.'),
        (of_day % 1_000, 3, b'Z'),
    ];
    for (value, digits, end) in parts {
        for place in (0..digits).rev() {
            out.push(b'0' + (value / 10u64.pow(place) % 10) as u8);
        }
        out.push(end);
    }
}

/// Year, month and day of a day since the epoch (Howard Hinnant's `civil_from_days`, for days from 1970 on).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(at: u64) -> String {
        let mut out = Vec::new();
        put_rfc3339(&mut out, at);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_times_are_written_as_they_should() {
        assert_eq!(shown(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(shown(1_794_355_200_123), "2026-11-11T00:00:00.123Z");
        assert_eq!(shown(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(shown(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
