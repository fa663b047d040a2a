//! Entries of the look-up index that no checkpoint holds yet. An owner appends, and nothing else: sorting is left to whoever
//! looks first, outside of the owner's lock.

use std::sync::Arc;

use parking_lot::RwLock;
use sluice_domain::OrderId;

/// Entries of a block: what a reader copies of the one that is being filled, and what is allocated at a time.
const BLOCK: usize = 4_096;

/// An order under a key. Three words: a `u128` would pad the entry to four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: u64,
    high: u64,
    low: u64,
}

impl Entry {
    pub(crate) fn new(key: u64, order: OrderId) -> Self {
        Self { key, high: (order.0 >> 64) as u64, low: order.0 as u64 }
    }

    pub(crate) fn order(&self) -> OrderId {
        OrderId(u128::from(self.high) << 64 | u128::from(self.low))
    }

    /// By key, and the newest first.
    fn place(&self) -> (u64, u128) {
        (self.key, !self.order().0)
    }
}

/// Entries that are complete; sorted, and each there once, when somebody has looked.
#[derive(Debug)]
pub(crate) struct Block(RwLock<(bool, Vec<Entry>)>);

impl Block {
    fn new(entries: Vec<Entry>) -> Arc<Self> {
        Arc::new(Self(RwLock::new((false, entries))))
    }

    /// Appends at most `max` orders under `key` below `before` to `out`, newest first.
    fn find(&self, key: u64, before: OrderId, max: usize, out: &mut Vec<OrderId>) {
        let unsorted = !self.0.read().0;
        if unsorted {
            let (sorted, entries) = &mut *self.0.write();
            if !std::mem::replace(sorted, true) {
                entries.sort_unstable_by_key(Entry::place);
                entries.dedup();
            }
        }
        let block = self.0.read();
        // Inverted, so that what is older comes behind.
        let from = block.1.partition_point(|e| e.place() <= (key, !before.0));
        out.extend(block.1[from..].iter().take_while(|e| e.key == key).take(max).map(Entry::order));
    }

    /// Appends all entries to `out`.
    pub(crate) fn read(&self, out: &mut Vec<Entry>) {
        out.extend_from_slice(&self.0.read().1);
    }
}

/// Young entries of one partition.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    sealed: Vec<Arc<Block>>,
    open: Vec<Entry>,
}

impl Entries {
    pub(crate) fn push(&mut self, key: u64, order: OrderId) {
        if self.open.len() == BLOCK {
            self.sealed.push(Block::new(std::mem::take(&mut self.open)));
        }
        if self.open.capacity() == 0 {
            self.open.reserve_exact(BLOCK);
        }
        self.open.push(Entry::new(key, order));
    }

    /// Bytes of memory in use.
    pub(crate) fn memory(&self) -> usize {
        (self.sealed.len() * BLOCK + self.open.capacity()) * size_of::<Entry>()
    }

    /// What is there now. Copies one block at most.
    pub(crate) fn view(&self) -> Vec<Arc<Block>> {
        let mut view = Vec::with_capacity(self.sealed.len() + 1);
        view.extend_from_slice(&self.sealed);
        if !self.open.is_empty() {
            view.push(Block::new(self.open.clone()));
        }
        view
    }

    /// Takes everything out.
    pub(crate) fn freeze(&mut self) -> Vec<Arc<Block>> {
        let Self { mut sealed, open } = std::mem::take(self);
        if !open.is_empty() {
            sealed.push(Block::new(open));
        }
        sealed
    }
}

/// The newest `max` orders under `key` below `before` in `blocks`, newest first.
pub(crate) fn newest(blocks: &[Arc<Block>], key: u64, before: OrderId, max: usize) -> Vec<OrderId> {
    let mut found = Vec::new();
    for block in blocks {
        block.find(key, before, max, &mut found);
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.dedup();
    found.truncate(max);
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_found_is_what_a_scan_finds(
            pushed in proptest::collection::vec((0..3u64, 0..40u128), 0..200),
            times in 1..60usize,
            (key, before, max) in (0..4u64, 0..45u128, 1..30usize),
            frozen in 0..200usize,
        ) {
            let (mut entries, mut old) = (Entries::default(), Vec::new());
            for (n, &(key, order)) in pushed.iter().enumerate() {
                for _ in 0..times {
                    entries.push(key, OrderId(order));
                }
                if n == frozen {
                    old = entries.freeze();
                }
            }
            let mut wanted: Vec<u128> =
                pushed.iter().filter(|&&(k, o)| k == key && o < before).map(|p| p.1).collect();
            wanted.sort_unstable_by(|a, b| b.cmp(a));
            wanted.dedup();
            wanted.truncate(max);
            let mut blocks = entries.view();
            blocks.extend(old);
            // Twice: the second time it is sorted.
            for _ in 0..2 {
                let found = newest(&blocks, key, OrderId(before), max);
                prop_assert_eq!(found.iter().map(|o| o.0).collect::<Vec<_>>(), &wanted[..]);
            }
        }
    }
}
