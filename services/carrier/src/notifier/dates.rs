//! The two spellings of time that carriers and we exchange: RFC 3339 in manifests, HTTP dates in Retry-After.

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

/// Days from the epoch to a date; the inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let y = year - u64::from(month <= 2);
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * if month > 2 { month - 3 } else { month + 9 } + 2) / 5 + day - 1;
    (era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy).checked_sub(719_468)
}

/// A Retry-After value as ms from now: whole seconds, or an HTTP date (IMF-fixdate; the obsolete forms are not read).
pub(super) fn retry_after_ms(value: &str, now_ms: u64) -> Option<u64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(value.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1_000));
    }
    http_date_ms(value).map(|at| at.saturating_sub(now_ms))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as ms since the epoch.
fn http_date_ms(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split_once(", ")?.1.split(' ');
    let mut next = || parts.next();
    let (day, month, year, time, zone) = (next()?, next()?, next()?, next()?, next()?);
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year) = (number(day, 31)?, number(year, 9_999)?);
    let mut clock = time.split(':');
    let (hour, minute) = (number(clock.next()?, 23)?, number(clock.next()?, 59)?);
    let second = number(clock.next()?, 60)?;
    let spurious = parts.next().is_some() || clock.next().is_some() || zone != "GMT" || day == 0 || year < 1_970;
    let seconds = days(year, month, day)? * 86_400 + hour * 3_600 + minute * 60 + second;
    (!spurious).then_some(seconds * 1_000)
}

fn number(text: &str, most: u64) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| plain && *n <= most)
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

    #[test]
    fn every_day_reads_back() {
        for day in 0..200_000 {
            let (y, m, d) = civil(day);
            assert_eq!(days(y, m, d), Some(day));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after_ms("120", 5), Some(120_000));
        assert_eq!(retry_after_ms(" 0 ", 5), Some(0));
        assert_eq!(retry_after_ms("99999999999999999999999", 5), Some(u64::MAX));
        let at = 784_111_777_000;
        assert_eq!(retry_after_ms("Sun, 06 Nov 1994 08:49:37 GMT", at - 1_500), Some(1_500));
        assert_eq!(retry_after_ms("Sun, 06 Nov 1994 08:49:37 GMT", at + 1), Some(0), "a time gone by means now");
        for odd in [
            "",
            "-1",
            "1.5",
            "soon",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT x",
            "Sun, +6 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(retry_after_ms(odd, 0), None, "{odd:?}");
        }
    }
}
