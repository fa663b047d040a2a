//! Manifests in the making and on their way. Records are copied once, from the outbox's batch into the manifest's arena;
//! what is sent again whole is the same manifest under the same id.

use std::{ops::Range, sync::Arc};

use sluice_domain::ShipmentId;
use sluice_pipeline::{Manifest, OutboxBatch, OutboxEntry};

use super::{
    config::{Moment, NotifierConfig, ms, us},
    wire::Purpose,
};

/// A manifest that may still grow.
#[derive(Debug)]
pub(super) struct Draft {
    shipments: OutboxBatch,
    /// When the first of its shipments came.
    pub(super) since: Moment,
    /// It is full, or promised as it is.
    pub(super) closed: bool,
    /// Where the record last copied was and is: parcels of one order share one record.
    copied: Option<(Range<usize>, Range<usize>)>,
}

impl Draft {
    pub(super) fn new(since: Moment) -> Self {
        Self { shipments: OutboxBatch::default(), since, closed: false, copied: None }
    }

    /// Whether `entry` still fits; closes the draft if it doesn't. What is asked in one manifest is asked for one purpose, so
    /// that a carrier that stumbles over a void delivers all the same.
    pub(super) fn has_room(&mut self, entry: &OutboxEntry, config: &NotifierConfig) -> bool {
        let bytes = self.shipments.bytes.len() + entry.record.len() + entry.items.len();
        let fits = match self.shipments.entries.last() {
            Some(last) => bytes <= config.manifest_bytes && Purpose::of(last) == Purpose::of(entry),
            None => true,
        };
        self.closed |= self.len() >= config.manifest_shipments || !fits;
        !self.closed
    }

    /// Copies `entry` of `from`, and closes the draft if it is full now.
    pub(super) fn add(&mut self, from: &OutboxBatch, entry: &OutboxEntry, config: &NotifierConfig) {
        let record = match &self.copied {
            Some((there, here)) if *there == entry.record => here.clone(),
            _ => self.copy(from, &entry.record),
        };
        self.copied = Some((entry.record.clone(), record.clone()));
        let items = self.copy(from, &entry.items);
        self.shipments.entries.push(OutboxEntry { record, items, ..entry.clone() });
        self.closed |= self.len() >= config.manifest_shipments;
    }

    /// Has to be called between two source batches: the same range means other bytes there.
    pub(super) fn forget_source(&mut self) {
        self.copied = None;
    }

    fn copy(&mut self, from: &OutboxBatch, range: &Range<usize>) -> Range<usize> {
        let start = self.shipments.bytes.len();
        // A range outside its arena becomes an empty record, which the writer then refuses by name.
        self.shipments.bytes.extend_from_slice(from.bytes.get(range.clone()).unwrap_or_default());
        start..self.shipments.bytes.len()
    }

    pub(super) fn len(&self) -> usize {
        self.shipments.entries.len()
    }

    /// The highest position in it.
    pub(super) fn highest(&self) -> u64 {
        self.shipments.entries.last().map_or(0, |entry| entry.position)
    }

    /// When it is to be sent although it isn't full, µs on the monotonic clock.
    pub(super) fn ripe_at_us(&self, config: &NotifierConfig) -> u64 {
        if self.closed { 0 } else { self.since.mono_us.saturating_add(us(config.manifest_age)) }
    }

    /// When its shipments are given up, µs on the monotonic clock.
    pub(super) fn deadline_us(&self, config: &NotifierConfig) -> u64 {
        self.since.mono_us.saturating_add(us(config.give_up_after))
    }

    pub(super) fn seal(self, config: &NotifierConfig) -> Unit {
        let deadline_us = self.deadline_us(config);
        let expires_at_ms = self.since.wall_ms.saturating_add(ms(config.give_up_after));
        Unit::new(self.shipments, expires_at_ms, deadline_us)
    }
}

/// A manifest that was or will be sent as it is, until its shipments are settled.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) manifest: Arc<Manifest>,
    /// One a shipment: its outcome is known.
    settled: Vec<bool>,
    left: usize,
    /// When it is given up, µs on the monotonic clock.
    pub(super) deadline_us: u64,
    /// Failures so far.
    pub(super) failures: u32,
    /// A call that nobody can tell the end of has been made.
    pub(super) maybe_taken: bool,
    /// What was last wrong, for a person.
    pub(super) trouble: String,
}

impl Unit {
    fn new(shipments: OutboxBatch, expires_at_ms: u64, deadline_us: u64) -> Self {
        let left = shipments.entries.len();
        let manifest = Manifest { id: manifest_id(&shipments.entries), expires_at_ms, shipments };
        Self {
            manifest: Arc::new(manifest),
            settled: vec![false; left],
            left,
            deadline_us,
            failures: 0,
            maybe_taken: false,
            trouble: String::new(),
        }
    }

    /// How many shipments have no outcome yet.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// How many shipments the manifest names.
    pub(super) fn len(&self) -> usize {
        self.settled.len()
    }

    /// Settles shipment `index`; `None` if it was settled before.
    pub(super) fn settle(&mut self, index: usize) -> Option<(u64, ShipmentId)> {
        let settled = self.settled.get_mut(index)?;
        if std::mem::replace(settled, true) {
            return None;
        }
        self.left -= 1;
        let entry = &self.manifest.shipments.entries[index];
        Some((entry.position, entry.shipment))
    }

    /// The manifest to send again: itself while nothing of it is settled, else one of those that are left.
    pub(super) fn rest(self, config: &NotifierConfig) -> Self {
        if self.left == self.len() {
            return self;
        }
        let mut draft = Draft::new(Moment::default());
        let shipments = &self.manifest.shipments;
        for (entry, settled) in shipments.entries.iter().zip(&self.settled) {
            if !settled {
                draft.add(shipments, entry, config);
            }
        }
        let rest = Self::new(draft.shipments, self.manifest.expires_at_ms, self.deadline_us);
        Self { failures: self.failures, maybe_taken: self.maybe_taken, trouble: self.trouble, ..rest }
    }
}

/// 128 bits of BLAKE3 over the shipment ids, as hex: the same shipments are the same manifest, whoever sends it when.
fn manifest_id(entries: &[OutboxEntry]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut ids = Vec::with_capacity(entries.len() * 18);
    for OutboxEntry { shipment, .. } in entries {
        ids.extend_from_slice(&shipment.order.0.to_be_bytes());
        ids.extend_from_slice(&[shipment.parcel, shipment.attempt]);
    }
    hasher.update(&ids);
    let mut id = hasher.finalize().to_hex().to_string();
    id.truncate(32);
    id
}

/// Finds the shipments that an answer names. Answers mostly keep the manifest's order, so the next one is tried first
/// and an index is only built for those that don't.
pub(super) struct Finder<'a> {
    entries: &'a [OutboxEntry],
    next: usize,
    index: Vec<(ShipmentId, usize)>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(entries: &'a [OutboxEntry]) -> Self {
        Self { entries, next: 0, index: Vec::new() }
    }

    pub(super) fn find(&mut self, shipment: ShipmentId) -> Option<usize> {
        let at = match self.entries.get(self.next) {
            Some(entry) if entry.shipment == shipment => self.next,
            _ => self.look_up(shipment)?,
        };
        self.next = at + 1;
        Some(at)
    }

    fn look_up(&mut self, shipment: ShipmentId) -> Option<usize> {
        if self.index.is_empty() {
            self.index = self.entries.iter().enumerate().map(|(at, entry)| (entry.shipment, at)).collect();
            self.index.sort_unstable();
        }
        let found = self.index.binary_search_by_key(&shipment, |(id, _)| *id).ok()?;
        Some(self.index[found].1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, config};
    use super::*;

    fn unit(range: Range<u64>) -> Unit {
        let (config, source) = (config(true), batch(range));
        let mut draft = Draft::new(Moment::default());
        for entry in &source.entries {
            draft.add(&source, entry, &config);
        }
        draft.seal(&config)
    }

    #[test]
    fn the_id_follows_from_the_shipments() {
        assert_eq!(unit(1..9).manifest.id, unit(1..9).manifest.id);
        assert_eq!(unit(1..9).manifest.id.len(), 32);
        assert_ne!(unit(1..9).manifest.id, unit(1..8).manifest.id);
    }

    #[test]
    fn what_is_left_keeps_its_bytes_and_deadline() {
        let mut whole = unit(1..9);
        let (id, deadline) = (whole.manifest.id.clone(), whole.deadline_us);
        whole = whole.rest(&config(true));
        assert_eq!(whole.manifest.id, id, "sent again whole, it is the same manifest");
        for index in [0, 1, 2, 4, 6, 7] {
            assert!(whole.settle(index).is_some() && whole.settle(index).is_none());
        }
        let before = whole.manifest.clone();
        let rest = whole.rest(&config(true));
        assert_eq!((rest.left(), rest.len(), rest.deadline_us), (2, 2, deadline));
        assert_eq!(rest.manifest.expires_at_ms, before.expires_at_ms);
        let bytes = |m: &Manifest, at: usize| {
            let entry = &m.shipments.entries[at];
            [&m.shipments.bytes[entry.record.clone()], &m.shipments.bytes[entry.items.clone()]].concat()
        };
        assert_eq!(bytes(&rest.manifest, 0), bytes(&before, 3));
        assert_eq!(bytes(&rest.manifest, 1), bytes(&before, 5));
    }

    #[test]
    fn parcels_of_one_order_share_its_record() {
        let config = config(true);
        let mut source = batch(1..2);
        let mut second = source.entries[0].clone();
        second.position = 2;
        second.shipment.parcel = 1;
        source.entries.push(second);
        let mut draft = Draft::new(Moment::default());
        for entry in &source.entries {
            draft.add(&source, entry, &config);
        }
        let entries = &draft.shipments.entries;
        assert_eq!(entries[0].record, entries[1].record);
        let before = draft.shipments.bytes.len();
        draft.forget_source();
        draft.add(&source, &source.entries[0], &config);
        assert!(draft.shipments.bytes.len() > before + source.entries[0].record.len());
    }

    #[test]
    fn answers_in_any_order_are_found() {
        let source = batch(1..100);
        let ids: Vec<_> = source.entries.iter().map(|entry| entry.shipment).collect();
        let mut finder = Finder::new(&source.entries);
        assert!(ids.iter().enumerate().all(|(at, id)| finder.find(*id) == Some(at)));
        assert!(finder.index.is_empty());
        assert!(ids.iter().enumerate().rev().all(|(at, id)| finder.find(*id) == Some(at)));
        let alien = ShipmentId { attempt: 7, ..ids[3] };
        assert_eq!(finder.find(alien), None);
    }
}
