//! Cuts a body into lines as its chunks arrive. A line within one chunk is used where it lies; only what is split between
//! chunks is copied.

use sluice_domain::limits::MAX_ORDER_BYTES;

/// One line of a body, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// At most [`MAX_ORDER_BYTES`].
    Bytes(&'a [u8]),
    /// Longer than that; its bytes were not kept.
    TooLong,
}

/// What is left of the last chunk: the start of a line.
#[derive(Debug, Default)]
pub struct Lines {
    carry: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// Cuts the next line off `chunk` and hands it to `each`. False, with `chunk` used up, when its end is not there yet.
    #[inline]
    pub fn next<'c>(&mut self, chunk: &mut &'c [u8], each: impl FnOnce(Line<'_>)) -> bool {
        let Some(end) = memchr::memchr(b'\n', chunk) else {
            self.carry_on(chunk);
            *chunk = &[];
            return false;
        };
        let (line, rest): (&'c [u8], &'c [u8]) = (&chunk[..end], &chunk[end + 1..]);
        *chunk = rest;
        if self.carry.is_empty() && !self.too_long {
            each(if line.len() > MAX_ORDER_BYTES { Line::TooLong } else { Line::Bytes(line) });
        } else {
            self.carry_on(line);
            self.hand_over(each);
        }
        true
    }

    /// Hands over a last line that has no newline, if there is one.
    pub fn finish(&mut self, each: impl FnOnce(Line<'_>)) {
        if !self.carry.is_empty() || self.too_long {
            self.hand_over(each);
        }
    }

    fn hand_over(&mut self, each: impl FnOnce(Line<'_>)) {
        each(if self.too_long { Line::TooLong } else { Line::Bytes(&self.carry) });
        self.carry.clear();
        self.too_long = false;
    }

    fn carry_on(&mut self, part: &[u8]) {
        if self.too_long || self.carry.len() + part.len() > MAX_ORDER_BYTES {
            self.too_long = true;
            self.carry.clear();
        } else {
            self.carry.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths of the lines, `None` for one that is too long.
    fn cut<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Option<Vec<u8>>> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        let mut each = |line: Line<'_>| match line {
            Line::Bytes(b) => out.push(Some(b.to_vec())),
            Line::TooLong => out.push(None),
        };
        for mut chunk in chunks {
            while lines.next(&mut chunk, &mut each) {}
        }
        lines.finish(&mut each);
        out
    }

    #[test]
    fn lines_are_the_same_however_the_body_is_chunked() {
        let text = b"one\n\nthree\r\n \nfive";
        let expected: Vec<_> = text.split(|&b| b == b'\n').map(|l| Some(l.to_vec())).collect();
        for size in 1..=text.len() {
            assert_eq!(cut(text.chunks(size)), expected, "chunks of {size}");
        }
        assert_eq!(cut(b"a\n".chunks(1)), [Some(b"a".to_vec())]);
        assert_eq!(cut(b"\n".chunks(1)), [Some(Vec::new())]);
        assert!(cut(b"".chunks(1)).is_empty());
    }

    #[test]
    fn only_the_long_line_is_lost() {
        for len in [MAX_ORDER_BYTES - 1, MAX_ORDER_BYTES, MAX_ORDER_BYTES + 1, MAX_ORDER_BYTES * 3] {
            let mut text = b"a\n".to_vec();
            text.resize(2 + len, b'x');
            text.extend_from_slice(b"\nb");
            let fits = len <= MAX_ORDER_BYTES;
            for size in [1_000, MAX_ORDER_BYTES - 2, MAX_ORDER_BYTES, MAX_ORDER_BYTES + 2, text.len()] {
                let lines = cut(text.chunks(size));
                assert_eq!(lines.len(), 3, "{len} in chunks of {size}");
                assert_eq!(lines[1].as_ref().map(Vec::len), fits.then_some(len), "{len} in chunks of {size}");
                assert_eq!(lines[2].as_deref(), Some(&b"b"[..]));
            }
        }
    }
}
