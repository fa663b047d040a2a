//! Block-aligned buffers, so that groups can go to the device without passing through the page cache.

use sluice_pipeline::BLOCK;

/// A growable byte buffer whose first byte lies at a multiple of [`BLOCK`] in memory.
#[derive(Debug, Default)]
pub struct AlignedBuf {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let raw = vec![0; capacity + BLOCK];
        let start = raw.as_ptr().align_offset(BLOCK);
        Self { raw, start, len: 0 }
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes in use.
    pub fn as_slice(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }

    /// The bytes in use, to change.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }

    /// Appends `bytes`, growing by doubling.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.reserve(end);
        self.raw[self.start + self.len..self.start + end].copy_from_slice(bytes);
        self.len = end;
    }

    /// Appends zeros up to a multiple of [`BLOCK`].
    pub fn pad_to_block(&mut self) {
        let end = self.len.next_multiple_of(BLOCK);
        self.reserve(end);
        self.raw[self.start + self.len..self.start + end].fill(0);
        self.len = end;
    }

    /// Sets the length, with zeros where it grows.
    pub fn resize(&mut self, len: usize) {
        self.reserve(len);
        if len > self.len {
            self.raw[self.start + self.len..self.start + len].fill(0);
        }
        self.len = len;
    }

    /// Empties the buffer and keeps its memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    fn reserve(&mut self, len: usize) {
        if self.start + len <= self.raw.len() {
            return;
        }
        let mut grown = Self::with_capacity(len.next_power_of_two().max(2 * self.len));
        grown.raw[grown.start..grown.start + self.len].copy_from_slice(self.as_slice());
        grown.len = self.len;
        *self = grown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_while_it_grows() {
        let mut buf = AlignedBuf::with_capacity(10);
        for i in 0..20_000u32 {
            buf.extend(&i.to_le_bytes());
            assert_eq!(buf.as_slice().as_ptr().align_offset(BLOCK), 0);
        }
        buf.pad_to_block();
        assert_eq!(buf.len(), 81_920);
        assert_eq!(buf.as_slice()[79_996..80_000], 19_999u32.to_le_bytes());
        assert!(buf.as_slice()[80_000..].iter().all(|&b| b == 0));
    }
}
