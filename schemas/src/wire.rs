//! The primitives all formats share: LEB128 varints, zigzag, length-prefixed strings.

use crate::CodecError;

/// Appends `value` as an LEB128 varint (1 to 10 bytes).
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed difference, zigzag-coded so that small magnitudes stay short.
#[inline]
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a byte string behind its length.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A cursor over encoded bytes; every read names the field it was for.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not yet read.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True when nothing is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads one byte.
    ///
    /// # Errors
    /// [`CodecError`] at the end of the bytes.
    #[inline]
    pub fn byte(&mut self, what: &'static str) -> Result<u8, CodecError> {
        let (&first, rest) = self.rest.split_first().ok_or(CodecError { what })?;
        self.rest = rest;
        Ok(first)
    }

    /// Reads exactly `len` bytes.
    ///
    /// # Errors
    /// [`CodecError`] if fewer are left.
    #[inline]
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(CodecError { what })?;
        self.rest = rest;
        Ok(head)
    }

    /// Reads `N` bytes as an array.
    ///
    /// # Errors
    /// [`CodecError`] if fewer are left.
    #[inline]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError { what })?;
        self.rest = rest;
        Ok(*head)
    }

    /// Reads an LEB128 varint.
    ///
    /// # Errors
    /// [`CodecError`] if it is cut short or longer than 64 bits.
    #[inline]
    pub fn varint(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            if shift == 63 && byte > 1 {
                return Err(CodecError { what });
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CodecError { what })
    }

    /// Reads a zigzag-coded signed number.
    ///
    /// # Errors
    /// As [`Reader::varint`].
    #[inline]
    pub fn signed(&mut self, what: &'static str) -> Result<i64, CodecError> {
        let raw = self.varint(what)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// Reads a number that must fit `T`.
    ///
    /// # Errors
    /// [`CodecError`] if it is malformed or too large for `T`.
    #[inline]
    pub fn number<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, CodecError> {
        T::try_from(self.varint(what)?).map_err(|_| CodecError { what })
    }

    /// Reads a byte string behind its length.
    ///
    /// # Errors
    /// [`CodecError`] if it is cut short.
    #[inline]
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], CodecError> {
        let len: usize = self.number(what)?;
        self.take(len, what)
    }

    /// Reads a UTF-8 string behind its length.
    ///
    /// # Errors
    /// [`CodecError`] if it is cut short or not UTF-8.
    #[inline]
    pub fn str(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| CodecError { what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_at_every_width() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                put_signed(&mut out, value as i64);
                put_signed(&mut out, (value as i64).wrapping_neg());
                let mut r = Reader::new(&out);
                assert_eq!(r.varint("v"), Ok(value));
                assert_eq!(r.signed("v"), Ok(value as i64));
                assert_eq!(r.signed("v"), Ok((value as i64).wrapping_neg()));
                assert!(r.is_empty());
            }
        }
    }

    #[test]
    fn overlong_and_cut_numbers_are_errors() {
        assert!(Reader::new(&[0x80; 11]).varint("v").is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint("v").is_err());
        assert!(Reader::new(&[0x80]).varint("v").is_err());
        assert!(Reader::new(&[3, b'a']).str("v").is_err());
        assert!(Reader::new(&[1, 0xff]).str("v").is_err());
    }
}
