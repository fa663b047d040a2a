//! The journal from the first byte that is kept: every group, frame, section, entry and record.

use std::{collections::HashSet, sync::Arc};

use sluice_pipeline::{BLOCK, Disk, LogError};
use sluice_schemas::{
    CodecError,
    delta::Delta,
    order::{OrderRef, peek_id},
    wire::Reader,
};

use super::{Pass, Torn, entries::Known};
use crate::{
    head::{Head, Kept},
    journal::{
        Group, Segments,
        format::{self, Frame, GROUP_HEAD, GroupHead, MAGIC, Section, Target, kind},
        segment_index, segment_name,
    },
};

/// What the journal says, for the other passes.
pub(super) struct Log {
    pub(super) segment_bytes: u64,
    /// Segments that are there in full.
    pub(super) whole: Vec<bool>,
    /// Where it ends.
    pub(super) end: u64,
    /// Orders in frames that the last checkpoint holds.
    pub(super) checkpointed: u64,
    /// Orders in frames behind it.
    pub(super) young: HashSet<u128>,
    /// Orders that frames behind it are about, without holding them.
    pub(super) wanted: HashSet<u128>,
}

impl Log {
    /// True if the segment of `position` is there in full.
    pub(super) fn holds(&self, position: u64) -> bool {
        self.whole.get((position / self.segment_bytes) as usize).is_some_and(|&whole| whole)
    }
}

struct Walk<'p, 'a> {
    segments: Segments,
    known: Known,
    pass: &'p mut Pass<'a>,
    log: Log,
}

/// Verifies the journal; `None` if not even its number can be found.
pub(super) fn verify(disk: &Arc<dyn Disk>, known: Option<Known>, pass: &mut Pass<'_>) -> Result<Option<Log>, LogError> {
    let names = disk.list().map_err(LogError::io("listing the journal"))?;
    let indices: Vec<u64> = names.iter().filter_map(|n| segment_index(n)).collect();
    pass.report.segments = indices.len() as u64;
    let Some(known) = known.map_or_else(|| guess(disk, &indices), |known| Ok(Some(known)))? else {
        pass.report.skipped.push("the journal, which nothing says the number of".into());
        return Ok(None);
    };
    let reached = known.head.group.0.div_ceil(known.segment_bytes);
    let prepared = indices.last().map_or(0, |last| last + 1).max(reached);
    let first = known.head.kept.first.0 / known.segment_bytes;
    // Those before the first may still be there, on their way out.
    let mut whole = vec![false; first.min(prepared) as usize];
    for index in first..prepared {
        let name = segment_name(index);
        let len = match disk.open(&name) {
            Ok(file) => file.size().map_err(LogError::io(format!("opening {name}")))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(LogError::io(format!("opening {name}"))(e)),
        };
        if len != known.segment_bytes {
            let what = format!("the segment should have {} bytes and has {len}", known.segment_bytes);
            pass.report.damaged(format!("journal/{name}"), len, what);
        }
        whole.push(len == known.segment_bytes);
    }
    let segment_bytes = known.segment_bytes;
    let log = Log { segment_bytes, whole, end: 0, checkpointed: 0, young: HashSet::new(), wanted: HashSet::new() };
    let segments = Segments::new(Arc::clone(disk), segment_bytes);
    let mut walk = Walk { segments, known, pass, log };
    walk.groups()?;
    Ok(Some(walk.log))
}

/// What the first group says about the journal, where the store can't.
fn guess(disk: &Arc<dyn Disk>, indices: &[u64]) -> Result<Option<Known>, LogError> {
    for &index in indices {
        let name = segment_name(index);
        let mut bytes = [0; GROUP_HEAD];
        let read = disk.open(&name).and_then(|file| Ok((file.read_at(0, &mut bytes)?, file.size()?)));
        let (_, segment_bytes) = read.map_err(LogError::io(format!("reading {name}")))?;
        if let Some(head) = GroupHead::from_bytes(&bytes)
            && head.position == index * segment_bytes
        {
            let kept = Kept { first: (head.position, head.sequence), ..Kept::default() };
            let start = Head { kept, ..Head::default() };
            return Ok(Some(Known { journal: head.journal, segment_bytes, head: start }));
        }
    }
    Ok(None)
}

impl Walk<'_, '_> {
    fn damaged(&mut self, position: u64, what: impl Into<String>) {
        let (index, offset) = (position / self.known.segment_bytes, position % self.known.segment_bytes);
        self.pass.report.damaged(format!("journal/{}", segment_name(index)), offset, what);
    }

    /// The whole group at `position`, with its number.
    fn group_at(&self, position: u64) -> Result<Option<(u64, Group)>, LogError> {
        if !self.log.holds(position) {
            return Ok(None);
        }
        let Some(head) = self.segments.head(position, self.known.journal)? else { return Ok(None) };
        match self.segments.read_whole(position, head, true) {
            Ok(group) => Ok(Some((head.sequence, group))),
            Err(LogError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn groups(&mut self) -> Result<(), LogError> {
        let (mut at, mut expected) = self.known.head.kept.first;
        let mut met_head = false;
        loop {
            let next = (at / self.known.segment_bytes + 1) * self.known.segment_bytes;
            let mut found = self.group_at(at)?;
            if found.is_none() && !at.is_multiple_of(self.known.segment_bytes) {
                // A group that didn't fit started the next segment.
                found = self.group_at(next)?.filter(|(sequence, _)| *sequence == expected);
            }
            if found.is_none() {
                found = self.resync(at, expected)?;
            }
            let Some((sequence, group)) = found else { break };
            if sequence != expected && group.position == at {
                self.damaged(at, format!("here stands group {sequence}, where group {expected} belongs"));
            }
            let (head_at, head_number) = self.known.head.group;
            if group.position >= head_at && !std::mem::replace(&mut met_head, true) && sequence != head_number {
                let what =
                    format!("the last checkpoint goes on with group {head_number}, here stands group {sequence}");
                self.damaged(group.position, what);
            }
            self.group(&group)?;
            self.pass.advance(group.end() - at);
            (at, expected) = (group.end(), sequence + 1);
        }
        if !met_head && self.known.head.group.1 > expected {
            let (head_at, number) = self.known.head.group;
            self.damaged(
                at,
                format!("the log ends before group {number} at log position {head_at}, a checkpoint's start"),
            );
        }
        self.log.end = at;
        Ok(())
    }

    /// The first whole group behind `at`, after naming what stands at `at`; `None` at the end of the log.
    fn resync(&mut self, at: u64, expected: u64) -> Result<Option<(u64, Group)>, LogError> {
        let mut chunk = vec![0; 256 * BLOCK];
        let (segment, mut from, mut dirty) = (self.known.segment_bytes, at, false);
        while from / segment < self.log.whole.len() as u64 {
            if !self.log.whole[(from / segment) as usize] {
                from = (from / segment + 1) * segment;
                continue;
            }
            let len = (segment - from % segment).min(chunk.len() as u64) as usize;
            self.segments.read(from, &mut chunk[..len])?;
            dirty |= from == at && chunk[..BLOCK.min(len)].iter().any(|&b| b != 0);
            for offset in (0..len).step_by(BLOCK).filter(|&o| chunk[o..].starts_with(&MAGIC)) {
                let position = from + offset as u64;
                if position > at
                    && let Some((sequence, group)) = self.group_at(position)?
                {
                    let what = format!("group {expected} is damaged; the next whole one is {sequence} at {position}");
                    self.damaged(at, what);
                    return Ok(Some((sequence, group)));
                }
            }
            from += len as u64;
        }
        if dirty {
            let file = format!("journal/{}", segment_name(at / segment));
            self.pass.report.torn.push(Torn { file, offset: at % segment });
        }
        Ok(None)
    }

    fn group(&mut self, group: &Group) -> Result<(), LogError> {
        self.pass.report.groups += 1;
        if let Some(at) = group.padding().iter().position(|&b| b != 0) {
            let position = group.payload_position() + (group.payload + at) as u64;
            self.damaged(position, "a byte behind a group that should be zero");
        }
        for frame in format::frames(group.payload()) {
            match frame {
                Ok(frame) => {
                    let start = group.payload_position() + frame.start as u64;
                    if let Err(error) = self.frame(group.payload_position(), &frame)? {
                        self.damaged(start, format!("the group's checksum fits, but {error}"));
                    }
                }
                Err(error) => {
                    self.damaged(group.payload_position(), format!("the group's checksum fits, but {error}"));
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, payload_at: u64, frame: &Frame<'_>) -> Result<Result<(), CodecError>, LogError> {
        let start = payload_at + (frame.start - format::FRAME_HEAD) as u64;
        let from = self.known.head.replay_from.get(usize::from(frame.partition)).copied();
        let checkpointed = start < self.known.head.group.0 || from.is_some_and(|from| start < from);
        let orders = frame.orders();
        for (number, section) in frame.sections().enumerate() {
            let section = match section {
                Ok(section) => section,
                Err(error) => return Ok(Err(error)),
            };
            let result = match section.kind {
                kind::ORDERS if number == 0 => self.orders(frame, &section, checkpointed),
                kind::DELTAS => self.entries(payload_at, &section, 0, orders.as_ref(), checkpointed)?,
                kind::REQUESTS => match format::carrier_of(section.body) {
                    Ok((_, from)) => self.entries(payload_at, &section, from, orders.as_ref(), checkpointed)?,
                    Err(error) => Err(error),
                },
                kind::SENDING => format::carrier_of(section.body).and_then(|(_, from)| {
                    Reader::new(&section.body[from..]).array::<8>("sending position").map(|_| ())
                }),
                _ => Err(CodecError { what: "section kind" }),
            };
            if result.is_err() {
                return Ok(result);
            }
        }
        Ok(Ok(()))
    }

    fn orders(&mut self, frame: &Frame<'_>, section: &Section<'_>, checkpointed: bool) -> Result<(), CodecError> {
        for item in format::orders(section.body) {
            let (offset, record) = item?;
            let id = peek_id(record)?;
            // What can't be read further was dead-lettered as such, or it is damage.
            if let Err(error) = read_record(record)
                && !rejects(frame, offset)
            {
                return Err(error);
            }
            self.pass.report.orders += 1;
            if checkpointed {
                self.log.checkpointed += 1;
            } else {
                self.log.young.insert(id);
            }
        }
        Ok(())
    }

    fn entries(
        &mut self,
        payload_at: u64,
        section: &Section<'_>,
        from: usize,
        orders: Option<&Section<'_>>,
        checkpointed: bool,
    ) -> Result<Result<(), CodecError>, LogError> {
        for entry in format::entries(section.body, from) {
            let (entry, id) = match entry.and_then(|e| Ok((e, format::target_id(e.target, orders)?))) {
                Ok(found) => found,
                Err(error) => return Ok(Err(error)),
            };
            self.pass.report.deltas += 1;
            if !checkpointed && matches!(entry.target, Target::Id(_)) && !self.log.young.contains(&id) {
                self.log.wanted.insert(id);
            }
            if let Delta::Requested(r) = entry.delta
                && let Some(order_at) = r.order_position
                // What was retired had all its answers.
                && order_at >= self.known.head.kept.first.0
            {
                let here = payload_at + (section.start + entry.offset) as u64;
                self.elsewhere(here, order_at, id)?;
            }
        }
        Ok(Ok(()))
    }

    /// The order of a request that doesn't bring it must be where the request says.
    fn elsewhere(&mut self, here: u64, order_at: u64, id: u128) -> Result<(), LogError> {
        let mut record = Vec::new();
        let there = order_at < here && self.log.holds(order_at);
        let found = if there { self.segments.read_order(order_at, &mut record) } else { Ok(()) };
        match found {
            Ok(()) if peek_id(&record) == Ok(id) => Ok(()),
            Ok(()) | Err(LogError::Damaged { .. }) => {
                self.damaged(here, format!("a request names log position {order_at}, where its order is not"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn read_record(record: &[u8]) -> Result<(), CodecError> {
    OrderRef::decode(record)?.lines().try_for_each(|line| line.map(|_| ()))
}

/// True if the frame dead-letters the whole order at `offset` of its orders body.
fn rejects(frame: &Frame<'_>, offset: usize) -> bool {
    let deltas = frame.sections().filter_map(Result::ok).filter(|s| s.kind == kind::DELTAS);
    deltas
        .flat_map(|s| format::entries(s.body, 0))
        .filter_map(Result::ok)
        .any(|e| e.target == Target::Here(offset) && matches!(e.delta, Delta::DeadLettered { parcel: None, .. }))
}
