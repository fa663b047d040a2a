//! Which entries are still held, so that the outbox learns how far everything is settled.
//!
//! Entries settle in any order, but the outbox only knows one position. The oldest open entry decides it; entries settled
//! behind it are dropped from here in passing, so one shipment that stays open for hours costs no memory for all those
//! that went by.

use std::collections::VecDeque;

#[derive(Debug, Clone, Copy)]
struct Slot {
    position: u64,
    bytes: u32,
    open: bool,
}

/// The entries between the outbox and their outcome.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Ascending by position.
    slots: VecDeque<Slot>,
    open: usize,
    bytes: usize,
    last: Option<u64>,
    /// Entries mostly settle in order, so the next one is probably here.
    hint: usize,
}

/// Fewer slots than this are never worth sweeping.
const SWEEP_FROM: usize = 1_024;

impl Window {
    /// Adds an entry of `bytes`; false if its position does not rise, which would be the same entry twice.
    pub(super) fn open(&mut self, position: u64, bytes: usize) -> bool {
        if self.last.is_some_and(|last| position <= last) {
            return false;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.last = Some(position);
        self.slots.push_back(Slot { position, bytes, open: true });
        self.open += 1;
        self.bytes += bytes as usize;
        true
    }

    /// Removes an entry; one that isn't held changes nothing.
    pub(super) fn settle(&mut self, position: u64) {
        let at = match self.slots.get(self.hint) {
            Some(slot) if slot.position == position => self.hint,
            _ => match self.slots.binary_search_by_key(&position, |slot| slot.position) {
                Ok(at) => at,
                Err(_) => return,
            },
        };
        let slot = &mut self.slots[at];
        if !std::mem::replace(&mut slot.open, false) {
            return;
        }
        self.open -= 1;
        self.bytes -= slot.bytes as usize;
        self.hint = at + 1;
        while self.slots.front().is_some_and(|slot| !slot.open) {
            self.slots.pop_front();
            self.hint = self.hint.saturating_sub(1);
        }
        // Each sweep drops at least half of the slots, so it is paid for by those that were added since the last.
        if self.slots.len() > SWEEP_FROM.max(2 * self.open) {
            self.slots.retain(|slot| slot.open);
            self.hint = 0;
        }
    }

    /// How many entries are held.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// Bytes of the entries held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The highest position known at or below which no entry is held; `None` while that is unknown.
    pub(super) fn settled(&self) -> Option<u64> {
        match self.slots.front() {
            Some(slot) => slot.position.checked_sub(1),
            None => self.last,
        }
    }

    #[cfg(test)]
    fn slots(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::backoff::Seeded;
    use super::*;

    #[test]
    fn the_oldest_open_entry_decides() {
        let mut window = Window::default();
        assert_eq!(window.settled(), None);
        for position in [0, 3, 7, 9] {
            assert!(window.open(position, 10));
        }
        assert!(!window.open(9, 10) && !window.open(4, 10));
        assert_eq!((window.len(), window.bytes(), window.settled()), (4, 40, None));
        window.settle(7);
        assert_eq!(window.settled(), None);
        window.settle(0);
        assert_eq!(window.settled(), Some(2));
        window.settle(0);
        window.settle(5);
        window.settle(3);
        assert_eq!((window.len(), window.settled()), (1, Some(8)));
        window.settle(9);
        assert_eq!((window.len(), window.bytes(), window.settled()), (0, 0, Some(9)));
    }

    #[test]
    fn one_old_entry_costs_no_memory_for_those_that_pass_it() {
        let mut window = Window::default();
        window.open(1, 1);
        for position in 2..200_000 {
            window.open(position, 1);
            window.settle(position);
            assert!(window.slots() <= SWEEP_FROM + 1);
        }
        assert_eq!(window.settled(), Some(0));
        window.settle(1);
        assert_eq!(window.settled(), Some(199_999));
    }

    #[test]
    fn it_agrees_with_a_plain_set() {
        let mut chance = Seeded::new(5);
        let (mut window, mut plain) = (Window::default(), std::collections::BTreeSet::new());
        let mut next = 0;
        for _ in 0..50_000 {
            if plain.len() < 3_000 && chance.up_to(1) == 0 {
                next += 1 + chance.up_to(3);
                window.open(next, 1);
                plain.insert(next);
            } else if let Some(&position) = plain.range(chance.up_to(next)..).next() {
                plain.remove(&position);
                window.settle(position);
            }
            let settled = window.settled().unwrap_or(0);
            assert!(plain.first().map_or(settled == next, |first| settled < *first), "{settled} {plain:?}");
            assert_eq!(window.len(), plain.len());
        }
    }
}
