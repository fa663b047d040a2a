//! Reading a journal after a crash: where it ends, and whether what it holds is whole.

use std::sync::Arc;

use sluice_pipeline::{BLOCK, Disk, LogError};

use super::{
    Group,
    segments::{Segments, segment_index, segment_name},
};

/// Where a log ends and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The next group starts here at the earliest.
    pub position: u64,
    /// Its number.
    pub sequence: u64,
    /// Segments that exist: `..prepared`.
    pub prepared: u64,
    /// Where a torn last write was cut off, if there was one.
    pub torn_at: Option<u64>,
    /// True if no group with content is the last one, so that damage to any of them would be noticed.
    pub sealed: bool,
    /// When the last group was closed, s since the Unix epoch; 0 if that isn't known.
    pub time_s: u32,
}

/// Walks the groups of a journal in order.
pub struct Scan {
    segments: Segments,
    segment_bytes: u64,
    journal: u64,
    verify: bool,
    prepared: u64,
    position: u64,
    /// Number the next group must have.
    sequence: u64,
    sealed: bool,
    time_s: u32,
}

impl Scan {
    /// A scan of `journal` from the group at `from` (a group's start) with number `sequence`. Its first segment is the one
    /// at `first`; those before it may be there or not.
    ///
    /// # Errors
    /// [`LogError`] if the folder can't be listed or a segment is missing.
    pub fn new(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        journal: u64,
        first: u64,
        (from, sequence): (u64, u64),
        verify: bool,
    ) -> Result<Self, LogError> {
        let names = disk.list().map_err(LogError::io("listing the journal"))?;
        let indices: Vec<u64> = names.iter().filter_map(|n| segment_index(n)).collect();
        // A log that has come to the middle of a segment has that segment, and all before it that are kept.
        let reached = from.div_ceil(segment_bytes);
        let prepared = indices.last().map_or(0, |last| last + 1);
        for index in first / segment_bytes..prepared.max(reached) {
            if !indices.contains(&index) {
                let what = "the segment is missing".into();
                return Err(LogError::Damaged { file: segment_name(index), offset: 0, what });
            }
        }
        let segments = Segments::new(disk, segment_bytes);
        let (position, sealed, time_s) = (from, true, 0);
        let mut scan = Self { segments, segment_bytes, journal, verify, prepared, position, sequence, sealed, time_s };
        if from > first {
            scan.check_predecessor()?;
        }
        Ok(scan)
    }

    /// The group before the first one must be there and have the number before: a checkpoint of another or a newer log
    /// would otherwise be continued over a hole.
    fn check_predecessor(&mut self) -> Result<(), LogError> {
        let before = self.position - 1;
        let mut at = before - before % self.segment_bytes;
        let mut last_at = None;
        while at < self.position {
            // What is left of a torn write at the end of a segment may still have a head.
            let head = self.segments.head(at, self.journal)?.filter(|head| head.sequence < self.sequence);
            let Some(head) = head else { break };
            last_at = Some((at, head));
            at += super::group_len(head.payload);
        }
        match last_at.map(|(_, head)| head) {
            Some(head) if head.sequence + 1 == self.sequence => {
                (self.sealed, self.time_s) = (head.payload == 0, head.time_s);
                Ok(())
            }
            _ => {
                // A length that has rotted leads nowhere; it is that group then which is damaged.
                let astray = last_at.filter(|&(at, head)| self.segments.read_whole(at, head, true).is_err());
                let what = format!("group {} is missing or damaged", self.sequence.saturating_sub(1));
                Err(self.damaged(astray.map_or(at, |(at, _)| at).min(before), what))
            }
        }
    }

    fn damaged(&self, position: u64, what: String) -> LogError {
        let (index, offset) = (position / self.segment_bytes, position % self.segment_bytes);
        LogError::Damaged { file: segment_name(index), offset, what }
    }

    /// The next group, or where the log ends.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if what stands here is damaged and a valid later group follows.
    pub fn next_group(&mut self) -> Result<Result<Group, End>, LogError> {
        if let Some(group) = self.read_at(self.position)? {
            return Ok(Ok(group));
        }
        // A group that didn't fit starts the next segment.
        let next = (self.position / self.segment_bytes + 1) * self.segment_bytes;
        if !self.position.is_multiple_of(self.segment_bytes)
            && next / self.segment_bytes < self.prepared
            && let Some(group) = self.read_at(next)?
        {
            return Ok(Ok(group));
        }
        if let Some(later) = self.later_group()? {
            let what = format!("group {} is damaged, yet a later group stands at log position {later}", self.sequence);
            // Where nothing whole is left of this segment, the group started the next one.
            let moved = !self.position.is_multiple_of(self.segment_bytes) && later > next && self.anything_at(next)?;
            return Err(self.damaged(if moved { next } else { self.position }, what));
        }
        let torn_at = self.anything_at(self.position)?.then_some(self.position);
        let Self { position, sequence, prepared, sealed, time_s, .. } = *self;
        Ok(Err(End { position, sequence, prepared, torn_at, sealed, time_s }))
    }

    fn read_at(&mut self, position: u64) -> Result<Option<Group>, LogError> {
        if position / self.segment_bytes >= self.prepared {
            return Ok(None);
        }
        let Some(head) = self.segments.head(position, self.journal)? else { return Ok(None) };
        match self.segments.read_whole(position, head, self.verify) {
            Ok(_) if head.sequence != self.sequence && position == self.position => {
                let what = format!("here stands group {}, where group {} belongs", head.sequence, self.sequence);
                Err(self.damaged(position, what))
            }
            Ok(_) if head.sequence != self.sequence => Ok(None),
            Ok(group) => {
                self.position = group.end();
                self.sequence += 1;
                (self.sealed, self.time_s) = (group.payload == 0, group.time_s());
                Ok(Some(group))
            }
            Err(LogError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks for a valid group of a higher number anywhere behind the present position.
    fn later_group(&self) -> Result<Option<u64>, LogError> {
        let mut at = self.position;
        let mut block = vec![0; 256 * BLOCK];
        while at / self.segment_bytes < self.prepared {
            let left = self.segment_bytes - at % self.segment_bytes;
            let len = left.min(block.len() as u64) as usize;
            self.segments.read(at, &mut block[..len])?;
            for offset in (0..len).step_by(BLOCK) {
                let position = at + offset as u64;
                if !block[offset..].starts_with(&super::format::MAGIC) || position <= self.position {
                    continue;
                }
                let Some(head) = self.segments.head(position, self.journal)? else { continue };
                if head.sequence > self.sequence && self.segments.read_whole(position, head, true).is_ok() {
                    return Ok(Some(position));
                }
            }
            at += len as u64;
        }
        Ok(None)
    }

    fn anything_at(&self, position: u64) -> Result<bool, LogError> {
        if position / self.segment_bytes >= self.prepared {
            return Ok(false);
        }
        let mut block = vec![0; BLOCK];
        self.segments.read(position, &mut block)?;
        Ok(block.iter().any(|&b| b != 0))
    }
}
