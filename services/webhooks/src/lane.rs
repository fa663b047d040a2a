//! A way through the feed: from a cursor on, a bounded window of events that were read and aren't settled. An endpoint has one
//! for what comes, and for a while a second one for what is to come again.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use sluice_domain::OrderId;
use sluice_pipeline::Cursor;

use crate::model::{Item, Message};

/// Where an event of the window stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Waiting,
    Flying,
    Settled,
}

#[derive(Debug)]
pub(crate) struct Slot {
    /// Stays the same while the window moves.
    pub(crate) number: u64,
    pub(crate) message: Arc<Message>,
    pub(crate) state: State,
    next: Cursor,
}

#[derive(Debug)]
pub(crate) struct Lane {
    /// Everything before it is settled.
    pub(crate) cursor: Cursor,
    /// Where the next read begins.
    pub(crate) read_to: Cursor,
    /// True while a read is under way.
    pub(crate) reading: bool,
    /// True if the last read came to the end of the feed.
    at_end: bool,
    /// No read before this, ms since the Unix epoch.
    pub(crate) not_before_ms: u64,
    slots: VecDeque<Slot>,
    bytes: usize,
    next_number: u64,
    /// Ids of events that were settled before others that aren't, when the window was let go.
    ahead: HashSet<String>,
}

impl Lane {
    pub(crate) fn new(cursor: Cursor) -> Self {
        Self {
            read_to: cursor.clone(),
            cursor,
            reading: false,
            at_end: false,
            not_before_ms: 0,
            slots: VecDeque::new(),
            bytes: 0,
            next_number: 0,
            ahead: HashSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the events of a page that are this endpoint's, and where the page ends.
    pub(crate) fn push(&mut self, items: Vec<Item>, end: Cursor, at_end: bool) {
        self.at_end = at_end;
        for Item { message, next, .. } in items {
            let state = if self.ahead.remove(&message.id) { State::Settled } else { State::Waiting };
            self.bytes += message.data.len();
            self.slots.push_back(Slot { number: self.next_number, message, state, next });
            self.next_number += 1;
        }
        if let Some(last) = self.slots.back_mut() {
            last.next = end.clone();
        }
        self.read_to = end;
        self.advance();
    }

    /// Moves the cursor over what is settled at the front.
    fn advance(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.state == State::Settled)
            && let Some(slot) = self.slots.pop_front()
        {
            self.bytes -= slot.message.data.len();
            self.cursor = slot.next;
        }
        if self.slots.is_empty() {
            self.cursor = self.read_to.clone();
        }
    }

    fn at(&mut self, number: u64) -> Option<&mut Slot> {
        let first = self.slots.front()?.number;
        self.slots.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    pub(crate) fn set(&mut self, number: u64, state: State) {
        if let Some(slot) = self.at(number) {
            slot.state = state;
        }
        if state == State::Settled {
            self.advance();
        }
    }

    /// Those that nothing has been done about, each with whether it is the first unsettled one of its order here.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&Slot, bool)> {
        let mut seen: HashSet<OrderId> = HashSet::new();
        self.slots.iter().filter(|slot| slot.state != State::Settled).filter_map(move |slot| {
            let first = seen.insert(slot.message.order);
            (slot.state == State::Waiting).then_some((slot, first))
        })
    }

    pub(crate) fn is_flying(&self) -> bool {
        self.slots.iter().any(|slot| slot.state == State::Flying)
    }

    /// Lets the window go: it is read again from the cursor. Nothing may be flying.
    pub(crate) fn release(&mut self) {
        let settled = self.slots.drain(..).filter(|slot| slot.state == State::Settled);
        self.ahead.extend(settled.map(|slot| slot.message.id.clone()));
        self.bytes = 0;
        self.read_to = self.cursor.clone();
        self.at_end = false;
    }

    /// True if the last read came to the end of the feed.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// True if everything up to the end of the feed, as it was at the last read, is settled.
    pub(crate) fn is_done(&self) -> bool {
        self.at_end && self.slots.is_empty()
    }
}
