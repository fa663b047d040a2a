//! Rows that an owner has decided on and the store may not have yet, and as many younger ones as fit.
//!
//! Generations of [`Hot`]: the newest takes what is committed; the oldest is dropped once the fold has passed its last
//! decision and memory is short. What the transaction under way adds is staged apart, so that an abort forgets it.

use std::collections::VecDeque;

use sluice_domain::OrderId;
use sluice_pipeline::hot::Hot;

/// First byte of a delta `accepted`: a row that begins with it is whole.
pub(crate) const BORN: u8 = 1;

/// Parts that a full overlay has: what is dropped at once is this share of it.
const GENERATIONS: usize = 8;

struct Generation {
    rows: Hot,
    /// Every decision in it stands below this offset of the decisions topic; unknown for the newest.
    end: Option<u64>,
}

/// See the module.
pub(crate) struct Overlay {
    old: VecDeque<Generation>,
    live: Hot,
    staged: Hot,
    bound: usize,
    row: Vec<u8>,
}

impl Overlay {
    /// An empty overlay that drops what it may beyond `bound` bytes.
    pub(crate) fn new(bound: usize) -> Self {
        Self { old: VecDeque::new(), live: Hot::default(), staged: Hot::default(), bound, row: Vec::new() }
    }

    /// Adds deltas to the transaction under way.
    pub(crate) fn stage(&mut self, id: OrderId, deltas: &[u8]) {
        self.staged.append(id, deltas);
    }

    /// Adds committed deltas.
    pub(crate) fn add(&mut self, id: OrderId, deltas: &[u8]) {
        self.live.append(id, deltas);
    }

    /// The transaction was committed.
    pub(crate) fn commit(&mut self) {
        for (id, address) in self.staged.ids() {
            self.row.clear();
            self.staged.read_at(address, &mut self.row);
            self.live.append(id, &self.row);
        }
        self.staged.clear();
    }

    /// The transaction was aborted.
    pub(crate) fn abort(&mut self) {
        self.staged.clear();
    }

    /// Appends everything known of `id` to `out`; true if that is its whole row.
    pub(crate) fn read(&self, id: OrderId, out: &mut Vec<u8>) -> bool {
        let mut whole = false;
        for rows in self.old.iter().map(|g| &g.rows).chain([&self.live, &self.staged]) {
            let start = out.len();
            if rows.read(id, out) {
                whole |= out.get(start) == Some(&BORN);
            }
        }
        whole
    }

    /// What the transaction under way has added to `id`.
    pub(crate) fn staged(&self, id: OrderId, out: &mut Vec<u8>) {
        self.staged.read(id, out);
    }

    /// True if the newest generation is full: [`Overlay::freeze`] wants to be called.
    pub(crate) fn wants_freeze(&self) -> bool {
        self.live.memory() >= self.bound / GENERATIONS
    }

    /// Ends the newest generation; all its decisions stand below `end`.
    pub(crate) fn freeze(&mut self, end: u64) {
        let rows = std::mem::take(&mut self.live);
        self.old.push_back(Generation { rows, end: Some(end) });
    }

    /// Drops what the store has and there is no room for. True if what must stay is too much: the owner has to wait.
    pub(crate) fn trim(&mut self, folded: Option<u64>) -> bool {
        while self.memory() > self.bound {
            let in_store = |g: &Generation| matches!((g.end, folded), (Some(end), Some(folded)) if end <= folded);
            match self.old.front() {
                Some(oldest) if in_store(oldest) => drop(self.old.pop_front()),
                _ => break,
            }
        }
        // Half as much again: the fold is given time before new orders are held back.
        self.memory() > self.bound + self.bound / 2
    }

    /// Drops everything below `end`, all of which is in the store.
    #[cfg(test)]
    pub(crate) fn spill(&mut self, end: u64) {
        self.freeze(end);
        let bound = std::mem::take(&mut self.bound);
        self.trim(Some(end));
        self.bound = bound;
        assert!(self.old.iter().all(|generation| generation.rows.memory() == 0));
    }

    /// Bytes in use.
    pub(crate) fn memory(&self) -> usize {
        self.old.iter().map(|g| g.rows.memory()).sum::<usize>() + self.live.memory() + self.staged.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(overlay: &Overlay, id: u128) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let whole = overlay.read(OrderId(id), &mut out);
        (out, whole)
    }

    #[test]
    fn an_abort_forgets_and_a_commit_keeps() {
        let mut overlay = Overlay::new(1 << 20);
        overlay.stage(OrderId(1), &[BORN, 7]);
        assert_eq!(row(&overlay, 1), (vec![BORN, 7], true), "a batch sees its own transaction");
        overlay.abort();
        assert_eq!(row(&overlay, 1), (vec![], false));
        overlay.stage(OrderId(1), &[BORN, 8]);
        overlay.commit();
        overlay.stage(OrderId(1), &[4]);
        assert_eq!(row(&overlay, 1), (vec![BORN, 8, 4], true));
    }

    #[test]
    fn only_what_the_store_has_is_dropped() {
        let mut overlay = Overlay::new(8 << 10);
        let big = [BORN; 900];
        for i in 0..40 {
            overlay.add(OrderId(i), &big);
            if overlay.wants_freeze() {
                overlay.freeze(i as u64 + 1);
            }
        }
        assert!(overlay.trim(None), "nothing may go, and it is too much");
        assert!(row(&overlay, 0).1);
        assert!(!overlay.trim(Some(40)));
        assert!(!row(&overlay, 0).1 && row(&overlay, 39).1);
    }

    #[test]
    fn a_row_over_generations_is_whole_only_with_its_birth() {
        let mut overlay = Overlay::new(1 << 20);
        overlay.add(OrderId(1), &[BORN]);
        overlay.freeze(10);
        overlay.add(OrderId(1), &[4]);
        overlay.add(OrderId(2), &[4]);
        assert_eq!(row(&overlay, 1), (vec![BORN, 4], true));
        assert_eq!(row(&overlay, 2), (vec![4], false));
    }
}
