//! Opening a data folder: the last checkpoint, then the journal behind it.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use sluice_domain::{Class, Fingerprint, OrderId};
use sluice_pipeline::{Clock, Disk, Filter, Index, LogError, Store, Table};
use sluice_schemas::{
    CodecError,
    delta::Delta,
    order::{peek_accepted_late, peek_id},
    wire::{Reader, put_varint},
};

use crate::{
    checkpoint::{filter_key, put_meta},
    head::{Head, Kept},
    journal::{
        Group, Journal,
        format::{self, Frame, Section, kind},
        recovery::Scan,
        segment_index, segment_name,
    },
    lookup::Keys,
    shared::{BORN, EngineConfig, Shared, Young, class_of, may_decide, read_older_until},
};

/// Version byte of the deployment record.
const DEPLOYMENT_VERSION: u8 = 1;

/// What was fixed when a data folder was created; key `deployment` in [`Table::Meta`]:
/// `version u8 | journal id u64 LE | segment bytes varint | slots varint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deployment {
    pub(crate) journal: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) slots: u16,
}

impl Deployment {
    fn encode(self) -> Vec<u8> {
        let mut out = vec![DEPLOYMENT_VERSION];
        out.extend_from_slice(&self.journal.to_le_bytes());
        put_varint(&mut out, self.segment_bytes);
        put_varint(&mut out, u64::from(self.slots));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        if r.byte("deployment version")? != DEPLOYMENT_VERSION {
            return Err(CodecError { what: "deployment version" });
        }
        Ok(Self {
            journal: u64::from_le_bytes(r.array("journal id")?),
            segment_bytes: r.varint("segment bytes")?,
            slots: r.number("slots")?,
        })
    }

    /// The deployment of `store`, if it has one.
    pub(crate) fn read(store: &dyn Store) -> Result<Option<Self>, LogError> {
        let Some(bytes) = store.get(Table::Meta, b"deployment")? else { return Ok(None) };
        Self::decode(&bytes).map(Some).map_err(|e| LogError::Store(format!("key deployment: {e}")))
    }
}

/// The head of `store`'s last checkpoint, if there is one.
pub(crate) fn read_head(store: &dyn Store) -> Result<Option<Head>, LogError> {
    let Some(bytes) = store.get(Table::Meta, b"head")? else { return Ok(None) };
    Head::decode(&bytes).map(Some).map_err(|e| LogError::Store(format!("key head: {e}")))
}

/// Where the journal that belongs to `store` begins: position and number of its first group.
///
/// # Errors
/// [`LogError`] if the store can't be read.
pub fn journal_start(store: &dyn Store) -> Result<(u64, u64), LogError> {
    Ok(read_head(store)?.unwrap_or_default().kept.first)
}

/// What opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Groups replayed behind the last checkpoint.
    pub groups: u64,
    /// Orders among them.
    pub orders: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Log position of a torn last write that was cut off.
    pub torn_at: Option<u64>,
    /// Where the log goes on: outbox entries before it belong to an earlier run.
    pub end: u64,
}

fn deployment(config: &EngineConfig, disk: &dyn Disk, store: &dyn Store) -> Result<Deployment, LogError> {
    if let Some(found) = Deployment::read(store)? {
        if found.slots != config.slots.get() {
            let (has, wants) = (found.slots, config.slots.get());
            return Err(LogError::Store(format!("the data folder has {has} slots, the configuration {wants}")));
        }
        return Ok(found);
    }
    let names = disk.list().map_err(LogError::io("listing the journal"))?;
    if let Some(index) = names.iter().find_map(|name| segment_index(name)) {
        let what = "a journal without its store; restore the folder `store` that belongs to it".into();
        return Err(LogError::Damaged { file: segment_name(index), offset: 0, what });
    }
    let journal = config.journal_id.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let new = Deployment { journal, segment_bytes: config.journal.segment_bytes, slots: config.slots.get() };
    put_meta(store, b"deployment", &new.encode())?;
    Ok(new)
}

/// Opens everything: the shared state with recovered rows, and each partition's index.
pub(crate) fn open(
    mut config: EngineConfig,
    disk: Arc<dyn Disk>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<Shared>, Vec<Index>, Head, Recovered), LogError> {
    let deployment = deployment(&config, &*disk, &*store)?;
    config.journal.segment_bytes = deployment.segment_bytes;
    config.journal.validate()?;
    let head = read_head(&*store)?;
    let mut indices: Vec<Index> = (0..config.partitions).map(|_| Index::default()).collect();
    for &(generation, _) in head.iter().flat_map(|h| &h.generations) {
        let bytes = store.get(Table::Meta, &filter_key(generation))?.unwrap_or_default();
        let filter = Filter::from_bytes(&bytes)
            .ok_or_else(|| LogError::Store(format!("the filter of index generation {generation} is damaged")))?;
        indices.iter_mut().for_each(|index| index.spilled(generation, filter.clone(), None));
    }
    let since_ms = clock.now_ms();
    let new = || Head { group: (0, 1), kept: Kept { since_ms, ..Kept::default() }, ..Head::default() };
    let mut head = head.unwrap_or_else(new);
    // A head that a failed write left in doubt must not come to light after a later crash: the next checkpoint takes its
    // number and drops the index run that it names.
    put_meta(&*store, b"head", &head.encode())?;
    let mut scan = Scan::new(
        Arc::clone(&disk),
        deployment.segment_bytes,
        deployment.journal,
        head.kept.first.0,
        head.group,
        config.journal.verify,
    )?;
    let keys = Keys::new(deployment.journal);
    let mut replay = Replay::new(&config, keys, store, clock, &head, &mut indices);
    let mut last = None;
    let end = loop {
        match scan.next_group()? {
            Ok(group) => {
                replay.group(&group)?;
                last = Some(group);
            }
            Err(end) => break end,
        }
    };
    let (shards, carriers, mut recovered, parts, absent) = replay.finish();
    head.carriers = absent;
    recovered.torn_at = end.torn_at;
    recovered.end = end.position;
    let journal = Journal::new(disk, config.journal.clone(), deployment.journal, end, Arc::clone(&parts.1));
    journal.erase_torn(end)?;
    if let Some(group) = last {
        // A crash between write and sync leaves a group that reads well and is not durable. Nobody may be answered from
        // it, and no group may follow it, before it is.
        journal.write(&group)?;
        journal.sync(&group)?;
    }
    // Twice: at the end of a segment a new log needs two before it takes orders.
    journal.prepare()?;
    journal.prepare()?;
    let shared = Shared::new(config, journal, keys, parts, carriers, shards, &head);
    Ok((Arc::new(shared), indices, head, recovered))
}

/// The fingerprint of a record, from its fixed part.
pub(crate) fn peek_fingerprint(record: &[u8]) -> Result<Fingerprint, CodecError> {
    let mut r = Reader::new(record);
    r.byte("order version")?;
    let id = u128::from_be_bytes(r.array("order id")?);
    let high = u64::from_be_bytes(r.array("fingerprint")?);
    Ok(Fingerprint(u128::from(high) << 64 | (id & u128::from(u64::MAX))))
}

type Parts = (Arc<dyn Store>, Arc<dyn Clock>);
type Replayed = (Vec<crate::shared::Shard>, Vec<crate::shared::CarrierSlot>, Recovered, Parts, Vec<(String, u64, u64)>);

struct Replay<'a> {
    config: &'a EngineConfig,
    keys: Keys,
    parts: Parts,
    head: &'a Head,
    indices: &'a mut [Index],
    shards: Vec<crate::shared::Shard>,
    carriers: Vec<crate::shared::CarrierSlot>,
    /// Outbox positions of all carriers that were ever configured.
    known: Vec<(String, u64, u64)>,
    recovered: Recovered,
    row: Vec<u8>,
}

impl<'a> Replay<'a> {
    fn new(
        config: &'a EngineConfig,
        keys: Keys,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        head: &'a Head,
        indices: &'a mut [Index],
    ) -> Self {
        let shards = Shared::new_shards(config);
        if let Some(first) = shards.first() {
            first.young.write().counts = head.counts;
        }
        let carriers = Shared::new_carriers(config, &head.carriers);
        let recovered = Recovered::default();
        let known = head.carriers.clone();
        Self { config, keys, parts: (store, clock), head, indices, shards, carriers, known, recovered, row: Vec::new() }
    }

    fn finish(self) -> Replayed {
        (self.shards, self.carriers, self.recovered, self.parts, self.known)
    }

    fn group(&mut self, group: &Group) -> Result<(), LogError> {
        self.recovered.groups += 1;
        self.recovered.bytes += group.payload as u64;
        let damaged = |e: CodecError| LogError::Damaged {
            file: segment_name(group.position / self.config.journal.segment_bytes),
            offset: group.position % self.config.journal.segment_bytes,
            what: format!("the group's checksum fits, but {e}"),
        };
        for frame in format::frames(group.payload()) {
            let frame = frame.map_err(damaged)?;
            let start = group.payload_position() + frame.start as u64 - format::FRAME_HEAD as u64;
            let known = self.head.replay_from.get(usize::from(frame.partition));
            if known.is_some_and(|&from| start < from) {
                continue;
            }
            self.frame(group.payload_position(), &frame)?.map_err(damaged)?;
        }
        Ok(())
    }

    fn frame(&mut self, payload_at: u64, frame: &Frame<'_>) -> Result<Result<(), CodecError>, LogError> {
        let orders = frame.orders();
        for section in frame.sections() {
            let section = match section {
                Ok(section) => section,
                Err(error) => return Ok(Err(error)),
            };
            let done = match section.kind {
                kind::ORDERS => self.orders(payload_at, &section),
                kind::DELTAS => self.entries(&section, 0, orders.as_ref())?,
                kind::REQUESTS => match format::carrier_of(section.body) {
                    Ok((_, from)) => self.entries(&section, from, orders.as_ref())?,
                    Err(error) => Err(error),
                },
                kind::SENDING => self.sending(&section),
                _ => Err(CodecError { what: "section kind" }),
            };
            if done.is_err() {
                return Ok(done);
            }
        }
        Ok(Ok(()))
    }

    fn orders(&mut self, payload_at: u64, section: &Section<'_>) -> Result<(), CodecError> {
        for item in format::orders(section.body) {
            let (offset, record) = item?;
            // Only the fixed part: an order may have been dead-lettered because the rest of it can't be read.
            let id = OrderId(peek_id(record)?);
            let fingerprint = peek_fingerprint(record)?;
            let position = payload_at + (section.start + offset) as u64;
            let partition = self.config.partition_of(id);
            self.indices[partition].insert(fingerprint, position);
            self.row.clear();
            let late = peek_accepted_late(record).unwrap_or(0);
            Delta::Accepted { position }.encode(late, &mut self.row);
            let mut young = self.shards[partition].young.write();
            young.live.begin(id, &self.row);
            self.keys.enter(id, record, &mut young.entries);
            young.counts.born();
            self.recovered.orders += 1;
        }
        Ok(())
    }

    fn entries(
        &mut self,
        section: &Section<'_>,
        from: usize,
        orders: Option<&Section<'_>>,
    ) -> Result<Result<(), CodecError>, LogError> {
        for entry in format::entries(section.body, from) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Ok(Err(error)),
            };
            let id = match format::target_id(entry.target, orders) {
                Ok(id) => OrderId(id),
                Err(error) => return Ok(Err(error)),
            };
            let mut young = self.shards[self.config.partition_of(id)].young.write();
            let replayed = matches!(entry.delta, Delta::Replayed { .. });
            let was_dead = replayed && {
                self.row.clear();
                young.live.read(id, &mut self.row);
                class_of_whole(&young, &*self.parts.0, (id, self.head.number), &mut self.row)? == Class::DeadLettered
            };
            let first = young.live.append(id, entry.bytes);
            self.keys.enter_numbers(id, entry.bytes, &mut young.entries);
            if matches!(entry.delta, Delta::Held { .. }) {
                self.keys.enter_held(id, &mut young.entries);
            }
            if !replayed && !may_decide(&entry.delta) {
                continue;
            }
            self.row.clear();
            young.live.read_at(first, &mut self.row);
            match class_of_whole(&young, &*self.parts.0, (id, self.head.number), &mut self.row)? {
                Class::InFlight if was_dead => young.counts.anew(),
                // What follows in the same decision says what it is now.
                _ if replayed => {}
                class => young.counts.decided(class),
            }
        }
        Ok(Ok(()))
    }

    fn sending(&mut self, section: &Section<'_>) -> Result<(), CodecError> {
        let (carrier, from) = format::carrier_of(section.body)?;
        let mut r = Reader::new(&section.body[from..]);
        let position = u64::from_le_bytes(r.array("sending position")?);
        if let Some(slot) = self.carriers.iter().find(|c| *c.id == *carrier) {
            slot.sending.fetch_max(position, Relaxed);
        }
        match self.known.iter_mut().find(|k| k.0 == carrier) {
            Some(known) => known.2 = known.2.max(position),
            None => self.known.push((carrier.to_owned(), 0, position)),
        }
        Ok(())
    }
}

/// The class of an order, whose young part is in `row`. A checkpoint after `last` that wasn't finished may have stored what
/// is replayed only later: that doesn't count yet.
fn class_of_whole(
    young: &Young,
    store: &dyn Store,
    (id, last): (OrderId, u32),
    row: &mut Vec<u8>,
) -> Result<Class, LogError> {
    if row.first() != Some(&BORN) {
        read_older_until(young, store, id, last, row)?;
    }
    Ok(class_of(row))
}
