//! Rows of young orders, in memory: what was committed since the last checkpoint.
//!
//! A row is a chain of chunks of encoded deltas in an append-only arena, found through one hash table; nothing is
//! allocated for a single order. A checkpoint freezes the whole map and starts an empty one, so memory is bounded by
//! what is committed between two checkpoints.

use hashbrown::HashTable;
use sluice_domain::OrderId;

/// Bytes of one arena block; a chunk never spans two.
const BLOCK: usize = 1 << 20;
/// next u32 · length u16
const CHUNK_HEAD: usize = 6;
/// chunk head · last u32 · order id
const FIRST_HEAD: usize = CHUNK_HEAD + 4 + 16;
/// Longest chunk; longer rows take several.
const MAX_CHUNK: usize = 32 << 10;
const NONE: u32 = u32::MAX;

/// Address of an order's first chunk, and 32 bits of its hash so that growing the table touches no row.
#[derive(Debug, Clone, Copy)]
struct Slot {
    first: u32,
    hash: u32,
}

fn spread(hash: u32) -> u64 {
    // Fibonacci hashing: hashbrown takes its bucket from the low bits and its tag from the high ones.
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Rows by order id.
#[derive(Debug, Default)]
pub struct Hot {
    table: HashTable<Slot>,
    blocks: Vec<Box<[u8]>>,
    /// The block that is being filled, and how far.
    current: usize,
    used: usize,
}

impl Hot {
    /// An empty map with room for `orders` orders before it grows.
    pub fn with_capacity(orders: usize) -> Self {
        Self { table: HashTable::with_capacity(orders), ..Self::default() }
    }

    /// Orders held.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if no order is held.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes of memory in use.
    pub fn memory(&self) -> usize {
        self.current * BLOCK + self.used + self.table.len() * (size_of::<Slot>() + 1)
    }

    /// Appends encoded deltas to the row of `id`, which is begun if there is none; gives its address.
    pub fn append(&mut self, id: OrderId, deltas: &[u8]) -> u32 {
        match self.address(id) {
            Some(first) => {
                self.extend(first, deltas);
                first
            }
            None => self.begin(id, deltas),
        }
    }

    /// Begins the row of an order that has none; gives its address.
    pub fn begin(&mut self, id: OrderId, deltas: &[u8]) -> u32 {
        // Only whole rows are ever read, so a cut within a delta does no harm.
        let (deltas, rest) = deltas.split_at(deltas.len().min(MAX_CHUNK));
        let hash = id.hash64() as u32;
        let at = self.alloc(FIRST_HEAD + deltas.len());
        let chunk = self.bytes_mut(at, FIRST_HEAD + deltas.len());
        chunk[..4].copy_from_slice(&NONE.to_le_bytes());
        chunk[4..6].copy_from_slice(&(deltas.len() as u16).to_le_bytes());
        chunk[6..10].copy_from_slice(&at.to_le_bytes());
        chunk[10..26].copy_from_slice(&id.0.to_le_bytes());
        chunk[FIRST_HEAD..].copy_from_slice(deltas);
        self.table.insert_unique(spread(hash), Slot { first: at, hash }, |s| spread(s.hash));
        if !rest.is_empty() {
            self.extend(at, rest);
        }
        at
    }

    /// Appends encoded deltas to the row at `first`, an address of this map.
    pub fn extend(&mut self, first: u32, mut deltas: &[u8]) {
        loop {
            let (head, rest) = deltas.split_at(deltas.len().min(MAX_CHUNK));
            let at = self.alloc(CHUNK_HEAD + head.len());
            let chunk = self.bytes_mut(at, CHUNK_HEAD + head.len());
            chunk[..4].copy_from_slice(&NONE.to_le_bytes());
            chunk[4..6].copy_from_slice(&(head.len() as u16).to_le_bytes());
            chunk[CHUNK_HEAD..].copy_from_slice(head);
            let last = self.word(first + CHUNK_HEAD as u32);
            self.bytes_mut(last, 4).copy_from_slice(&at.to_le_bytes());
            self.bytes_mut(first + CHUNK_HEAD as u32, 4).copy_from_slice(&at.to_le_bytes());
            if rest.is_empty() {
                return;
            }
            deltas = rest;
        }
    }

    /// The address of the row of `id`; it holds for as long as this map does.
    pub fn address(&self, id: OrderId) -> Option<u32> {
        self.find(id, id.hash64() as u32)
    }

    /// Empties the map and keeps its memory.
    pub fn clear(&mut self) {
        self.table.clear();
        self.current = 0;
        self.used = 0;
    }

    /// Appends the row of `id` to `out`; false if there is none.
    pub fn read(&self, id: OrderId, out: &mut Vec<u8>) -> bool {
        match self.address(id) {
            Some(first) => {
                self.read_chain(first, out);
                true
            }
            None => false,
        }
    }

    fn read_chain(&self, first: u32, out: &mut Vec<u8>) {
        let (mut at, mut head) = (first, FIRST_HEAD);
        while at != NONE {
            let len = usize::from(u16::from_le_bytes([self.byte(at + 4), self.byte(at + 5)]));
            out.extend_from_slice(self.bytes(at + head as u32, len));
            at = self.word(at);
            head = CHUNK_HEAD;
        }
    }

    /// Ids with the address of their row, in no order.
    pub fn ids(&self) -> impl Iterator<Item = (OrderId, u32)> + '_ {
        self.table.iter().map(|s| (self.id_at(s.first), s.first))
    }

    /// Appends the row at an address from [`Hot::ids`] to `out`.
    pub fn read_at(&self, address: u32, out: &mut Vec<u8>) {
        self.read_chain(address, out);
    }

    fn find(&self, id: OrderId, hash: u32) -> Option<u32> {
        let same = |s: &Slot| s.hash == hash && self.id_at(s.first) == id;
        self.table.find(spread(hash), same).map(|s| s.first)
    }

    fn id_at(&self, first: u32) -> OrderId {
        let mut id = [0; 16];
        id.copy_from_slice(self.bytes(first + 10, 16));
        OrderId(u128::from_le_bytes(id))
    }

    fn alloc(&mut self, len: usize) -> u32 {
        if self.used + len > BLOCK {
            self.current += 1;
            self.used = 0;
        }
        if self.current == self.blocks.len() {
            self.blocks.push(vec![0; BLOCK].into_boxed_slice());
        }
        let at = self.current * BLOCK + self.used;
        self.used += len;
        at as u32
    }

    fn bytes(&self, at: u32, len: usize) -> &[u8] {
        let (block, offset) = (at as usize / BLOCK, at as usize % BLOCK);
        &self.blocks[block][offset..offset + len]
    }

    fn bytes_mut(&mut self, at: u32, len: usize) -> &mut [u8] {
        let (block, offset) = (at as usize / BLOCK, at as usize % BLOCK);
        &mut self.blocks[block][offset..offset + len]
    }

    fn byte(&self, at: u32) -> u8 {
        self.blocks[at as usize / BLOCK][at as usize % BLOCK]
    }

    fn word(&self, at: u32) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(self.bytes(at, 4));
        u32::from_le_bytes(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_deltas_in_order() {
        let mut hot = Hot::default();
        let id = |i: u64| OrderId(u128::from(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | u128::from(i) << 80);
        for round in 0..3u8 {
            for i in 0..50_000 {
                hot.append(id(i), &[round, i as u8, 7]);
            }
        }
        let mut row = Vec::new();
        for i in 0..50_000 {
            row.clear();
            assert!(hot.read(id(i), &mut row));
            assert_eq!(row, [0, i as u8, 7, 1, i as u8, 7, 2, i as u8, 7]);
        }
        assert!(!hot.read(id(50_000), &mut row));
        assert_eq!(hot.ids().count(), 50_000);
    }

    #[test]
    fn ids_that_share_a_hash_stay_apart() {
        let mut hot = Hot::default();
        hot.append(OrderId(1 << 80 | 5), b"a");
        hot.append(OrderId(2 << 80 | 5), b"b");
        let mut row = Vec::new();
        assert!(hot.read(OrderId(2 << 80 | 5), &mut row));
        assert_eq!(row, b"b");
    }

    #[test]
    fn a_long_row_spans_chunks() {
        let mut hot = Hot::default();
        let long: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        hot.append(OrderId(9), &long);
        let mut row = Vec::new();
        assert!(hot.read(OrderId(9), &mut row));
        assert_eq!(row, long);
    }
}
