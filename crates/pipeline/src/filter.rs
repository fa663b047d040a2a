//! A blocked Bloom filter over fingerprints: one cache line a look-up (Putze, Sanders, Singler: Cache-, Hash- and
//! Space-Efficient Bloom Filters, 2007). It stands in memory for index entries that are on disk.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use sluice_domain::Fingerprint;

/// See the module. A clone is the same filter: what is added to one is in all. One thread adds; others may look up
/// meanwhile, and see an entry once something else has told them of it (as a message under a lock does).
#[derive(Debug, Clone)]
pub struct Filter {
    blocks: Arc<[[AtomicU64; 8]]>,
}

impl Filter {
    /// Bits an entry of [`Filter::build`]: about 0.5 % false hits.
    pub const BITS_PER_ENTRY: usize = 12;

    /// An empty filter with room for `count` entries of `bits` bits each.
    pub fn with_room(count: usize, bits: usize) -> Self {
        let blocks = (count * bits).div_ceil(512).max(1);
        Self { blocks: (0..blocks).map(|_| Default::default()).collect() }
    }

    /// A filter over `count` entries.
    pub fn build(count: usize, entries: impl Iterator<Item = Fingerprint>) -> Self {
        let filter = Self::with_room(count, Self::BITS_PER_ENTRY);
        entries.for_each(|fingerprint| filter.add(fingerprint));
        filter
    }

    /// Adds an entry. Only one thread may do so at a time.
    pub fn add(&self, fingerprint: Fingerprint) {
        let block = self.block(fingerprint);
        for (word, bit) in bits(fingerprint) {
            block[word].store(block[word].load(Relaxed) | bit, Relaxed);
        }
    }

    /// False only if `fingerprint` was never added.
    pub fn may_contain(&self, fingerprint: Fingerprint) -> bool {
        let block = self.block(fingerprint);
        bits(fingerprint).all(|(word, bit)| block[word].load(Relaxed) & bit != 0)
    }

    /// True if both are the same filter, not only equal.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.blocks, &other.blocks)
    }

    fn block(&self, fingerprint: Fingerprint) -> &[AtomicU64; 8] {
        &self.blocks[((u128::from(fingerprint.low()) * self.blocks.len() as u128) >> 64) as usize]
    }

    /// The filter as bytes, little endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.blocks.iter().flatten().flat_map(|w| w.load(Relaxed).to_le_bytes()).collect()
    }

    /// Reads what [`Filter::to_bytes`] wrote; `None` if the length can't be right.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(64) {
            return None;
        }
        let word = |b: &[u8]| AtomicU64::new(b.try_into().map(u64::from_le_bytes).unwrap_or_default());
        let block = |b: &[u8]| std::array::from_fn(|i| word(&b[i * 8..i * 8 + 8]));
        Some(Self { blocks: bytes.chunks_exact(64).map(block).collect() })
    }
}

fn bits(fingerprint: Fingerprint) -> impl Iterator<Item = (usize, u64)> {
    // The low 10 bits of the high half choose the slot; the six 9-bit fields come from above them.
    let high = fingerprint.high() >> 10;
    (0..6).map(move |i| {
        let field = (high >> (9 * i)) & 511;
        ((field >> 6) as usize, 1u64 << (field & 63))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fp(i: u64) -> Fingerprint {
        Fingerprint::of("m", &i.to_string())
    }

    #[test]
    fn it_misses_nothing_and_rarely_errs() {
        let filter = Filter::build(100_000, (0..100_000).map(fp));
        let filter = Filter::from_bytes(&filter.to_bytes()).unwrap();
        assert!((0..100_000).all(|i| filter.may_contain(fp(i))));
        let wrong = (100_000..300_000).filter(|&i| filter.may_contain(fp(i))).count();
        assert!(wrong < 4_000, "{wrong} of 200,000");
    }
}
