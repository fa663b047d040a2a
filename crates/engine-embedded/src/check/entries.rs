//! Rows, index and look-up entries and the checkpoint's head, each against the journal.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use sluice_domain::{Fingerprint, OrderId};
use sluice_pipeline::{Filter, LogError, Store, Table, lookup::day_of};
use sluice_schemas::{
    delta::{Delta, row_deltas},
    order::{peek_customer, peek_id},
};

use super::{Pass, log::Log};
use crate::{
    FjallStore,
    checkpoint::filter_key,
    head::Head,
    journal::Segments,
    lookup::{Keys, read_key, stored_key},
    recovery::{Deployment, peek_fingerprint, read_head},
    shared::BORN,
};

/// What the store says about the journal.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) journal: u64,
    pub(super) segment_bytes: u64,
    pub(super) head: Head,
}

/// A store whose files are sound, and its head.
pub(super) struct Opened {
    store: FjallStore,
    known: Known,
}

impl Opened {
    pub(super) fn known(&self) -> Known {
        self.known.clone()
    }
}

/// Runs `work` on the store. A panic in it is damage too: the files are as they were written, what they say is not.
fn guarded<T>(
    pass: &mut Pass<'_>,
    work: impl FnOnce(&mut Pass<'_>) -> Result<T, LogError>,
) -> Result<Option<T>, LogError> {
    match catch_unwind(AssertUnwindSafe(|| work(pass))) {
        Ok(Ok(done)) => Ok(Some(done)),
        Ok(Err(error)) => pass.report.note(error).map(|()| None),
        Err(_) => {
            pass.report.damaged("store", 0, "the store panicked while it was read");
            Ok(None)
        }
    }
}

/// Opens the store and reads what it says about itself; `None`, with the damage noted, if it can't.
pub(super) fn open(folder: &Path, pass: &mut Pass<'_>) -> Option<Opened> {
    let work = |_: &mut Pass<'_>| -> Result<Opened, LogError> {
        let store = FjallStore::open(folder)?;
        let missing = || LogError::Store("it has no deployment record: it is not the store of a journal".into());
        let Deployment { journal, segment_bytes, .. } = Deployment::read(&store)?.ok_or_else(missing)?;
        let head = read_head(&store)?.unwrap_or_else(|| Head { group: (0, 1), ..Head::default() });
        Ok(Opened { store, known: Known { journal, segment_bytes, head } })
    };
    match guarded(pass, work) {
        Ok(opened) => opened,
        Err(error) => {
            pass.report.damaged("store", 0, error.to_string());
            None
        }
    }
}

/// Verifies all entries of the store.
pub(super) fn verify(opened: Opened, log: &Log, segments: &Segments, pass: &mut Pass<'_>) -> Result<(), LogError> {
    pass.report.checkpoint = opened.known.head.number;
    guarded(pass, |pass| {
        let keys = Keys::new(opened.known.journal);
        let mut entries = Entries { opened: &opened, log, segments, pass, record: Vec::new(), keys };
        entries.head();
        entries.rows()?;
        entries.index()?;
        entries.lookup()?;
        entries.wanted()
    })?;
    Ok(())
}

/// An order's row, and what the order must be found by.
#[derive(Default)]
struct Row {
    deltas: Vec<u8>,
    /// By its customer; else it is older than look-ups.
    listed: bool,
    /// Keys of its tracking numbers.
    found_by: Vec<u64>,
}

struct Entries<'e, 'p> {
    opened: &'e Opened,
    log: &'e Log,
    segments: &'e Segments,
    pass: &'e mut Pass<'p>,
    record: Vec<u8>,
    keys: Keys,
}

impl Entries<'_, '_> {
    fn damaged(&mut self, table: &str, what: impl Into<String>) {
        self.pass.report.damaged(format!("store, table {table}"), 0, what);
    }

    fn head(&mut self) {
        let head = &self.opened.known.head;
        let end = self.log.end;
        let beyond: Vec<String> = head
            .carriers
            .iter()
            .filter(|(_, settled, sending)| settled.max(sending) > &end)
            .map(|(id, settled, sending)| {
                format!("the outbox of carrier {id} is at {settled} and {sending}, the log ends at {end}")
            })
            .collect();
        for what in beyond {
            self.damaged("meta", what);
        }
        let (says, has) = (head.counts.accepted.saturating_sub(head.kept.retired), self.log.checkpointed);
        if says != has {
            self.damaged("meta", format!("the last checkpoint counts {says} orders, the journal has {has} before it"));
        }
    }

    /// Reads the record at `position` into `self.record`; false, with the damage noted, if it isn't there.
    fn record_at(&mut self, position: u64, whose: &dyn Fn() -> String) -> Result<bool, LogError> {
        self.record.clear();
        let what = if position >= self.log.end {
            format!("{} names log position {position}, the log ends at {}", whose(), self.log.end)
        } else if !self.log.holds(position) {
            format!("{} names log position {position}, whose segment is missing or short", whose())
        } else {
            match self.segments.read_order(position, &mut self.record) {
                Ok(()) => return Ok(true),
                Err(error @ LogError::Damaged { .. }) => format!("{}: {error}", whose()),
                Err(error) => return Err(error),
            }
        };
        self.damaged("rows or index", what);
        Ok(false)
    }

    fn rows(&mut self) -> Result<(), LogError> {
        let opened = self.opened;
        let (last, listed_since) = (opened.known.head.number.to_be_bytes(), opened.known.head.listed_since);
        let (mut current, mut row, mut orders, mut result) = (None::<u128>, Row::default(), 0, Ok(()));
        opened.store.scan(Table::Rows, &[], &mut |key, deltas| {
            self.pass.advance((key.len() + deltas.len()) as u64);
            let Ok(key) = <[u8; 20]>::try_from(key) else {
                return self.damaged("rows", "a key that is not 20 bytes long");
            };
            // Rows of a checkpoint that wasn't finished don't count; the journal still has them.
            if key[16..] > last[..] || result.is_err() {
                return;
            }
            let mut id = [0; 16];
            id.copy_from_slice(&key[..16]);
            let id = u128::from_be_bytes(id);
            if current != Some(id) {
                if let Some(done) = current.replace(id) {
                    match self.row(OrderId(done), &row) {
                        Ok(kept) => orders += u64::from(kept),
                        Err(error) => result = Err(error),
                    }
                }
                row = Row::default();
            }
            if key[16..] >= listed_since.to_be_bytes()[..] {
                row.listed |= deltas.first() == Some(&BORN);
                row.found_by.extend(self.keys.of_deltas(deltas));
            }
            row.deltas.extend_from_slice(deltas);
        })?;
        result?;
        if let Some(done) = current {
            orders += u64::from(self.row(OrderId(done), &row)?);
        }
        self.pass.report.rows = orders;
        let head = &opened.known.head;
        let says = head.counts.accepted.saturating_sub(head.kept.retired);
        if orders != says {
            self.damaged("rows", format!("the last checkpoint counts {says} orders, {orders} have a row"));
        }
        Ok(())
    }

    /// False for the row of a retired order, which is on its way out.
    fn row(&mut self, id: OrderId, row: &Row) -> Result<bool, LogError> {
        let mut position = None;
        for delta in row_deltas(id.placed_at_ms(), &row.deltas) {
            match delta {
                Ok((_, Delta::Accepted { position: at })) => position = Some(at),
                Ok(_) => {}
                Err(error) => self.damaged("rows", format!("the row of order {id}: {error}")),
            }
        }
        let Some(position) = position else {
            self.damaged("rows", format!("the row of order {id} does not say where the order is"));
            return Ok(true);
        };
        if position < self.opened.known.head.kept.first.0 {
            return Ok(false);
        }
        if self.record_at(position, &|| format!("the row of order {id}"))? && peek_id(&self.record) != Ok(id.0) {
            self.damaged(
                "rows",
                format!("the row of order {id} names log position {position}, where another order is"),
            );
            return Ok(true);
        }
        let customer = peek_customer(&self.record).ok().filter(|_| row.listed).map(|c| self.keys.customer(c));
        for &key in customer.iter().chain(&row.found_by) {
            if self.opened.store.get(Table::Lookup, &stored_key(day_of(id), key, id))?.is_none() {
                let by = match (key & 1 == 0, customer == Some(key)) {
                    (true, true) => "its customer",
                    (true, false) => "what waits to be reviewed",
                    (false, _) => "its tracking number",
                };
                self.damaged("lookup", format!("order {id} can't be found by {by}"));
            }
        }
        Ok(true)
    }

    /// Entries of a checkpoint that wasn't finished count, too: the journal still has their orders.
    fn lookup(&mut self) -> Result<(), LogError> {
        let (opened, mut result) = (self.opened, Ok(()));
        opened.store.scan(Table::Lookup, &[], &mut |key, value| {
            self.pass.advance((key.len() + value.len()) as u64);
            self.pass.report.lookup_entries += 1;
            let Some((_, _, order)) = read_key(key) else {
                return self.damaged("lookup", "an entry that is no day, key and order of that day");
            };
            let mut known = self.log.young.contains(&order.0);
            if !known && result.is_ok() {
                result = opened.store.scan(Table::Rows, &order.0.to_be_bytes(), &mut |_, _| known = true);
            }
            if !known {
                self.damaged("lookup", format!("an entry names order {order}, which has no row"));
            }
        })?;
        result
    }

    fn index(&mut self) -> Result<(), LogError> {
        let opened = self.opened;
        for &(generation, _) in &opened.known.head.generations {
            let table = format!("index-{generation}");
            let filter = opened.store.get(Table::Meta, &filter_key(generation))?;
            let filter = filter.as_deref().and_then(Filter::from_bytes);
            if filter.is_none() {
                self.damaged("meta", format!("the filter of {table} is missing or can't be read"));
            }
            let mut result = Ok(());
            opened.store.scan(Table::Index(generation), &[], &mut |key, value| {
                self.pass.advance((key.len() + value.len()) as u64);
                self.pass.report.index_entries += 1;
                let (Ok(key), Ok(value)) = (key.try_into(), value.try_into()) else {
                    return self.damaged(&table, "an entry that is not 16 and 8 bytes long");
                };
                if result.is_ok() {
                    let (fingerprint, position) = (Fingerprint(u128::from_be_bytes(key)), u64::from_be_bytes(value));
                    result = self.index_entry(&table, filter.as_ref(), fingerprint, position);
                }
            })?;
            result?;
        }
        Ok(())
    }

    fn index_entry(
        &mut self,
        table: &str,
        filter: Option<&Filter>,
        fingerprint: Fingerprint,
        position: u64,
    ) -> Result<(), LogError> {
        let name = || format!("the index entry of fingerprint {:032x}", fingerprint.0);
        if filter.is_some_and(|f| !f.may_contain(fingerprint)) {
            self.damaged(table, format!("{} is not in the filter", name()));
        }
        if self.record_at(position, &name)? && peek_fingerprint(&self.record) != Ok(fingerprint) {
            self.damaged(table, format!("{} names log position {position}, where another order is", name()));
        }
        Ok(())
    }

    /// Orders that the journal speaks of behind the checkpoint, and that were taken before it.
    fn wanted(&mut self) -> Result<(), LogError> {
        let opened = self.opened;
        for &id in &self.log.wanted {
            let mut found = false;
            opened.store.scan(Table::Rows, &id.to_be_bytes(), &mut |_, _| found = true)?;
            if !found {
                self.damaged("rows", format!("the journal speaks of order {}, which has no row", OrderId(id)));
            }
        }
        Ok(())
    }
}
