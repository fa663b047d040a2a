//! Times as text. Requests may use any RFC 3339 form; answers always have UTC and three digits of milliseconds, so that
//! the same instant is always the same text.

use std::fmt;

use serde::{Serialize, Serializer};

/// The last millisecond that four digits of year can say, ms since the Unix epoch.
pub const MAX_MS: u64 = 253_402_300_799_999;

/// Bytes of a time in an answer: `2026-11-11T00:00:00.123Z`.
pub const LEN: usize = 24;

/// Reads an RFC 3339 date-time as ms since the Unix epoch (negative before it). Digits beyond milliseconds are cut off,
/// not rounded: nine digits at most. `None` for anything else, a leap second (`:60`) included: it has no number of its
/// own, and two orders a second apart must not get one time.
#[inline]
pub fn parse(text: &str) -> Option<i64> {
    let (head, rest) = text.as_bytes().split_first_chunk::<19>()?;
    let separators = head[4] == b'-' && head[7] == b'-' && head[13] == b':' && head[16] == b':';
    if !separators || !matches!(head[10], b'T' | b't') {
        return None;
    }
    let year = number([head[0], head[1]])? * 100 + number([head[2], head[3]])?;
    let month = number([head[5], head[6]])?;
    let day = number([head[8], head[9]])?;
    let hour = number([head[11], head[12]])?;
    let minute = number([head[14], head[15]])?;
    let second = number([head[17], head[18]])?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (millis, zone) = fraction(rest)?;
    let days = days_from_civil(i64::from(year), i64::from(month), i64::from(day));
    let seconds = days * 86_400 + i64::from(hour * 3_600 + minute * 60 + second) - offset(zone)?;
    let ms = seconds * 1_000 + millis;
    (ms <= MAX_MS as i64).then_some(ms)
}

fn number([tens, ones]: [u8; 2]) -> Option<u32> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| u32::from(tens - b'0') * 10 + u32::from(ones - b'0'))
}

/// Milliseconds of `.digits` at the start of `rest`, and what follows.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', digits)) = rest.split_first() else { return Some((0, rest)) };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if !(1..=9).contains(&count) {
        return None;
    }
    let digit = |i: usize| if i < count { i64::from(digits[i] - b'0') } else { 0 };
    Some((digit(0) * 100 + digit(1) * 10 + digit(2), &digits[count..]))
}

/// Seconds east of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    match *zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h0, b':', m1, m0] => {
            let (hours, minutes) = (number([h1, h0])?, number([m1, m0])?);
            let seconds = i64::from(hours * 3_600 + minutes * 60);
            (hours <= 23 && minutes <= 59).then_some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar (Howard Hinnant, `chrono`-compatible date algorithms).
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a day since 1970-01-01, for days from then on.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The text of a time, without allocating. Times beyond [`MAX_MS`] show as that.
#[inline]
pub fn format(ms: u64) -> [u8; LEN] {
    let ms = ms.min(MAX_MS);
    let (year, month, day) = civil_from_days(ms / 86_400_000);
    let of_day = ms % 86_400_000;
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for place in (at..at + width).rev() {
            out[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, of_day / 3_600_000);
    put(14, 2, of_day / 60_000 % 60);
    put(17, 2, of_day / 1_000 % 60);
    put(20, 3, of_day % 1_000);
    out
}

/// ms since the Unix epoch that show as [`format()`] writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&format(self.0)).unwrap_or_default())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&format(self.0)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_same_instant_is_the_same_number() {
        let ms = 1_794_355_200_123;
        for text in [
            "2026-11-11T00:00:00.123Z",
            "2026-11-11t00:00:00.123z",
            "2026-11-11T00:00:00.123999999Z",
            "2026-11-11T05:30:00.123+05:30",
            "2026-11-10T16:00:00.123-08:00",
            "2026-11-11T00:00:00.123-00:00",
        ] {
            assert_eq!(parse(text), Some(ms), "{text}");
        }
        assert_eq!(parse("2026-11-11T00:00:00Z"), Some(ms - 123));
        assert_eq!(parse("2026-11-11T00:00:00.1Z"), Some(ms - 23));
        assert_eq!(parse("2026-11-11T00:00:00.12Z"), Some(ms - 3));
        assert_eq!(parse("1969-12-31T23:59:59.999Z"), Some(-1));
        assert_eq!(parse("9999-12-31T23:59:59.999Z"), Some(MAX_MS as i64));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "2026-11-11",
            "2026-11-11T00:00:00",
            "2026-11-11 00:00:00Z",
            "2026-11-11T00:00Z",
            "2026-11-11T00:00:60Z",
            "2026-11-11T24:00:00Z",
            "2026-11-11T00:60:00Z",
            "2026-13-11T00:00:00Z",
            "2026-00-11T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-11-11T00:00:00.Z",
            "2026-11-11T00:00:00.1234567890Z",
            "2026-11-11T00:00:00,5Z",
            "2026-11-11T00:00:00+0530",
            "2026-11-11T00:00:00+24:00",
            "2026-11-11T00:00:00+05:60",
            "2026-11-11T00:00:00ZZ",
            "2026-11-11T00:00:00Z ",
            "9999-12-31T23:59:59-00:01",
            "+026-11-11T00:00:00Z",
            "２026-11-11T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse("2000-02-29T00:00:00Z").is_some());
        assert!(parse("2028-02-29T00:00:00Z").is_some());
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut ms = 0;
        while ms < MAX_MS {
            let text = Timestamp(ms).to_string();
            assert_eq!(parse(&text), Some(ms as i64), "{text}");
            ms += 86_399_999 * 7 + 13;
        }
        assert_eq!(Timestamp(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }
}
