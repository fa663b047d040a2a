//! A carrier's outbox: the requests to it, read from the durable part of the journal.
//!
//! There is no queue behind it. An outbox that keeps up reads groups that are still in memory; one that lags, because
//! its carrier is down, reads them from the device when the carrier is back, and holds nothing meanwhile.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed},
    },
    task::{Context, Poll, Waker},
};

use sluice_domain::{Group as Handling, OrderId, ShipmentId, order_state::awaits_outcome};
use sluice_pipeline::{LogError, Outbox, OutboxBatch, OutboxEntry};
use sluice_schemas::{
    CodecError,
    delta::{Delta, Requested},
    order::peek_id,
    wire::Reader,
};

use crate::{
    journal::{
        Completion, Group,
        format::{self, FrameWriter, Section, Target, kind},
    },
    shared::{CarrierSlot, Shared},
};

/// See the module.
pub(crate) struct JournalOutbox {
    shared: Arc<Shared>,
    carrier: usize,
    /// Everything below is read.
    cursor: u64,
    group: Option<Arc<Group>>,
    /// Number of the group read last; 0 before the first.
    sequence: u64,
    /// Entries before it were decided by an earlier run, and may be settled.
    recovered_end: u64,
    /// Entries up to it may have been sent by an earlier run.
    recovered_sending: u64,
    /// Entries up to it were handed over by an earlier run.
    recovered_settled: u64,
    row: Vec<u8>,
    /// The reader's last waker, for marks that rise while nobody asks for entries.
    waker: Option<Waker>,
}

impl JournalOutbox {
    pub(crate) fn new(shared: Arc<Shared>, carrier: usize) -> Self {
        // What is durable now may have been handed to an earlier reader, in this process or the one before.
        let recovered_end = shared.journal.durable();
        let slot = &shared.carriers[carrier];
        let (settled, sending) = (slot.settled.load(Acquire), slot.sending.load(Acquire));
        // Groups are found from the start of a segment.
        let cursor = settled - settled % shared.config.journal.segment_bytes;
        Self {
            shared,
            carrier,
            cursor,
            group: None,
            sequence: 0,
            recovered_end,
            recovered_sending: sending,
            recovered_settled: settled,
            row: Vec::new(),
            waker: None,
        }
    }

    fn slot(&self) -> &CarrierSlot {
        &self.shared.carriers[self.carrier]
    }

    /// Reads from the group under way until `max` entries are in `out` or the group ends.
    fn read_group(&mut self, group: &Group, max: usize, out: &mut OutboxBatch) -> Result<usize, LogError> {
        let base = group.payload_position();
        let mut taken = 0;
        let damaged = |e: CodecError| LogError::Damaged {
            file: "the journal".into(),
            offset: base,
            what: format!("a group's checksum fits, but {e}"),
        };
        for frame in format::frames(group.payload()) {
            let frame = frame.map_err(damaged)?;
            let orders = frame.orders();
            for section in frame.sections() {
                let section = section.map_err(damaged)?;
                let end = base + (section.start + section.body.len()) as u64;
                if section.kind != kind::REQUESTS || end <= self.cursor {
                    continue;
                }
                let (carrier, first) = format::carrier_of(section.body).map_err(damaged)?;
                if *carrier != *self.slot().id {
                    continue;
                }
                let resume = self.cursor.saturating_sub(base + section.start as u64) as usize;
                for entry in format::entries(section.body, first.max(resume)) {
                    let entry = entry.map_err(damaged)?;
                    let position = base + (section.start + entry.offset) as u64;
                    if taken == max {
                        self.cursor = position;
                        return Ok(taken);
                    }
                    if let Delta::Requested(r) = entry.delta {
                        let late = Delta::read(&mut Reader::new(entry.bytes)).map_err(damaged)?.0;
                        taken += usize::from(self.entry((position, late), entry.target, &r, orders.as_ref(), out)?);
                    }
                }
                self.cursor = end;
            }
        }
        self.cursor = group.end();
        Ok(taken)
    }

    /// Adds one entry, decided `late` ms after its order was placed, unless an earlier run has settled it.
    fn entry(
        &mut self,
        (position, late): (u64, i64),
        target: Target,
        requested: &Requested<'_>,
        orders: Option<&Section<'_>>,
        out: &mut OutboxBatch,
    ) -> Result<bool, LogError> {
        let start = out.bytes.len();
        let bad = |e: CodecError| LogError::Store(format!("outbox entry at log position {position}: {e}"));
        match (target, orders) {
            (Target::Here(offset), Some(section)) => {
                out.bytes.extend_from_slice(format::order_at(section.body, offset).map_err(bad)?);
            }
            _ => {
                let at = requested.order_position.ok_or_else(|| bad(CodecError { what: "order position" }))?;
                match self.shared.journal.order_at(at, &mut out.bytes) {
                    // Only of an order that every carrier has answered about.
                    _ if self.shared.horizon.is_gone(at) => {
                        out.bytes.truncate(start);
                        return Ok(false);
                    }
                    read => read?,
                }
            }
        }
        let record = start..out.bytes.len();
        let order = OrderId(peek_id(&out.bytes[record.clone()]).map_err(bad)?);
        let shipment = ShipmentId { order, parcel: requested.parcel, attempt: requested.attempt };
        if position < self.recovered_end && (position <= self.recovered_settled || !self.is_open(shipment, late)?) {
            out.bytes.truncate(start);
            return Ok(false);
        }
        let items = out.bytes.len();
        requested.items.encode_again(&mut out.bytes);
        out.entries.push(OutboxEntry {
            position,
            shipment,
            group: Handling::from_code(requested.handling).unwrap_or(Handling::Ambient),
            weight: requested.weight,
            maybe_sent: position <= self.recovered_sending,
            record,
            items: items..out.bytes.len(),
        });
        Ok(true)
    }

    /// Whether an attempt, requested so many ms after its order was placed, still waits for its outcome.
    fn is_open(&mut self, shipment: ShipmentId, late: i64) -> Result<bool, LogError> {
        self.row.clear();
        self.shared.read_row(shipment.order, &mut self.row)?;
        Ok(awaits_outcome(&self.row, (shipment.parcel, shipment.attempt), late))
    }
}

impl Outbox for JournalOutbox {
    fn poll_entries(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        out: &mut OutboxBatch,
    ) -> Poll<Result<usize, LogError>> {
        if !self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        if max == 0 {
            return Poll::Ready(Ok(0));
        }
        loop {
            let group = match self.group.take() {
                Some(group) => group,
                None => match self.next_group(cx)? {
                    Some(group) => {
                        self.sequence = group.sequence();
                        group
                    }
                    None => return Poll::Pending,
                },
            };
            let taken = self.read_group(&group, max, out)?;
            if self.cursor < group.end() {
                self.group = Some(group);
            }
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    fn settled(&mut self, position: u64) {
        self.slot().settled.fetch_max(position, std::sync::atomic::Ordering::AcqRel);
    }

    fn mark_sending(&mut self, position: u64) {
        if self.slot().sending.load(Relaxed) >= position {
            return;
        }
        let mut frame = FrameWriter::default();
        frame.start(0);
        frame.sending(&self.slot().id, position);
        let Some(bytes) = frame.finish() else { return };
        if let Some(waker) = &self.waker {
            self.shared.journal.wake_on_progress(waker);
        }
        // Without room the mark doesn't rise, nothing is sent, and the notifier asks again.
        let done = Completion::Sending(Arc::clone(&self.slot().sending), position);
        let _ = self.shared.journal.append_then(bytes, done);
    }

    fn sending_mark(&self) -> u64 {
        self.slot().sending.load(Acquire)
    }
}

impl JournalOutbox {
    fn next_group(&mut self, cx: &mut Context<'_>) -> Result<Option<Arc<Group>>, LogError> {
        if let Some(group) = self.group_from()? {
            return Ok(Some(group));
        }
        self.shared.journal.wake_on_progress(cx.waker());
        // A group may have become durable between the two calls.
        self.group_from()
    }

    fn group_from(&mut self) -> Result<Option<Arc<Group>>, LogError> {
        loop {
            let first = self.shared.horizon.first();
            if self.cursor < first {
                // Every entry before it is settled, or its order would still be there.
                (self.cursor, self.sequence) = (first, 0);
            }
            match self.shared.journal.group_from(self.cursor, self.sequence) {
                Err(_) if self.shared.horizon.is_gone(self.cursor) => {}
                group => return group,
            }
        }
    }
}
