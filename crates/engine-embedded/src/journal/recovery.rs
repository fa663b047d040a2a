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
}

/// Walks the groups of a journal in order.
pub struct Scan {
    segments: Segments,
    segment_bytes: u64,
    journal: u64,
    verify: bool,
    prepared: u64,
    position: u64,
    /// Number the next group must have; 0 while the first one is still to be met.
    sequence: u64,
}

impl Scan {
    /// A scan of `journal` from the group at `from` (a group's start) with number `sequence`.
    ///
    /// # Errors
    /// [`LogError`] if the folder can't be listed or a segment is missing.
    pub fn new(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        journal: u64,
        from: u64,
        sequence: u64,
        verify: bool,
    ) -> Result<Self, LogError> {
        let names = disk.list().map_err(LogError::io("listing the journal"))?;
        let indices: Vec<u64> = names.iter().filter_map(|n| segment_index(n)).collect();
        let prepared = indices.last().map_or(0, |last| last + 1);
        for index in from / segment_bytes..prepared {
            if !indices.contains(&index) {
                let what = "the segment is missing".into();
                return Err(LogError::Damaged { file: segment_name(index), offset: 0, what });
            }
        }
        let segments = Segments::new(disk, segment_bytes);
        Ok(Self { segments, segment_bytes, journal, verify, prepared, position: from, sequence })
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
            let (index, offset) = (self.position / self.segment_bytes, self.position % self.segment_bytes);
            let what = format!("group {} is damaged, yet a later group stands at log position {later}", self.sequence);
            return Err(LogError::Damaged { file: segment_name(index), offset, what });
        }
        let torn_at = self.anything_at(self.position)?.then_some(self.position);
        Ok(Err(End { position: self.position, sequence: self.sequence, prepared: self.prepared, torn_at }))
    }

    fn read_at(&mut self, position: u64) -> Result<Option<Group>, LogError> {
        if position / self.segment_bytes >= self.prepared {
            return Ok(None);
        }
        let Some(head) = self.segments.head(position, self.journal)? else { return Ok(None) };
        if head.sequence != self.sequence {
            return Ok(None);
        }
        match self.segments.read_whole(position, head, self.verify) {
            Ok(group) => {
                self.position = group.end();
                self.sequence += 1;
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
