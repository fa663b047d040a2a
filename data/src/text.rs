//! Writers for the few kinds of text in an order. They append to a buffer that the caller reuses, since a load
//! generator that allocates measures its allocator.

const HEX: &[u8; 16] = b"0123456789abcdef";

pub(crate) fn push_number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `value` in exactly `N` digits; higher digits are dropped.
fn digits<const N: usize>(mut value: u64) -> [u8; N] {
    let mut text = [b'0'; N];
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    text
}

pub(crate) fn push_digits<const N: usize>(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&digits::<N>(value));
}

/// Text inside a JSON string, without its quotes.
pub(crate) fn push_json(out: &mut Vec<u8>, text: &str) {
    let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    if !text.as_bytes().iter().any(special) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => {
                let low = HEX[usize::from(byte & 15)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), low]);
            }
            _ => out.push(byte),
        }
    }
}

/// A time as RFC 3339 in UTC with milliseconds; years beyond 9999 lose their first digit.
pub(crate) fn push_rfc3339(out: &mut Vec<u8>, unix_ms: u64) {
    let seconds = unix_ms / 1000;
    let (year, month, day) = civil(seconds / 86_400);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    text[0..4].copy_from_slice(&digits::<4>(year));
    text[5..7].copy_from_slice(&digits::<2>(month));
    text[8..10].copy_from_slice(&digits::<2>(day));
    text[11..13].copy_from_slice(&digits::<2>(seconds / 3600 % 24));
    text[14..16].copy_from_slice(&digits::<2>(seconds / 60 % 60));
    text[17..19].copy_from_slice(&digits::<2>(seconds % 60));
    text[20..23].copy_from_slice(&digits::<3>(unix_ms % 1000));
    out.extend_from_slice(&text);
}

/// Year, month and day of a day since 1970-01-01. Counting years from March puts the leap day last, so months have a
/// fixed start (the method of H. Hinnant's `civil_from_days`, for days from 1970 on).
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(unix_ms: u64) -> String {
        let mut out = Vec::new();
        push_rfc3339(&mut out, unix_ms);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_794_355_200_123), "2026-11-11T00:00:00.123Z");
        assert_eq!(time(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn days_follow_one_another_for_a_whole_era() {
        let mut yesterday = civil(0);
        for day in 1..146_097 {
            let today = civil(day);
            let (year, month, number) = yesterday;
            let next = [(year, month, number + 1), (year, month + 1, 1), (year + 1, 1, 1)];
            assert!(next.contains(&today), "{yesterday:?} then {today:?}");
            yesterday = today;
        }
        assert_eq!(civil(146_097), (2370, 1, 1));
    }

    #[test]
    fn json_text_is_escaped() {
        let text = "a \"b\" \\ \n \u{1f} é";
        let mut out = b"\"".to_vec();
        push_json(&mut out, text);
        out.push(b'"');
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}
