//! The files of a journal, and reading groups and orders back from them.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use sluice_pipeline::{BLOCK, Disk, DiskFile, LogError};

use super::{
    Group,
    format::{GROUP_HEAD, GroupHead},
    group_len,
};
use crate::buffer::AlignedBuf;

/// Open files kept, so that a long journal doesn't use up descriptors.
const MAX_OPEN: usize = 64;

/// Name of segment `index`.
pub fn segment_name(index: u64) -> String {
    format!("journal-{index:010}.seg")
}

/// The index in a segment's name.
pub fn segment_index(name: &str) -> Option<u64> {
    name.strip_prefix("journal-")?.strip_suffix(".seg")?.parse().ok()
}

/// See the module.
pub struct Segments {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    open: Mutex<BTreeMap<u64, Arc<dyn DiskFile>>>,
}

impl Segments {
    /// Segments of `segment_bytes` on `disk`.
    pub fn new(disk: Arc<dyn Disk>, segment_bytes: u64) -> Self {
        Self { disk, segment_bytes, open: Mutex::new(BTreeMap::new()) }
    }

    /// Creates segment `index`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn create(&self, index: u64) -> Result<(), LogError> {
        let name = segment_name(index);
        let file = self.disk.create(&name, self.segment_bytes).map_err(LogError::io(format!("creating {name}")))?;
        self.keep(index, file);
        Ok(())
    }

    /// Indices of the segments that exist, ascending.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn indices(&self) -> Result<Vec<u64>, LogError> {
        let names = self.disk.list().map_err(LogError::io("listing the journal"))?;
        Ok(names.iter().filter_map(|name| segment_index(name)).collect())
    }

    /// Removes segment `index`; one that isn't there is no error.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn remove(&self, index: u64) -> Result<(), LogError> {
        let name = segment_name(index);
        let removed = self.disk.remove(&name);
        self.open.lock().remove(&index);
        match removed {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(LogError::io(format!("removing {name}"))),
        }
    }

    fn keep(&self, index: u64, file: Arc<dyn DiskFile>) {
        let mut open = self.open.lock();
        open.insert(index, file);
        if open.len() > MAX_OPEN {
            open.pop_first();
        }
    }

    fn file(&self, index: u64) -> Result<Arc<dyn DiskFile>, LogError> {
        if let Some(file) = self.open.lock().get(&index) {
            return Ok(Arc::clone(file));
        }
        let name = segment_name(index);
        let file = self.disk.open(&name).map_err(LogError::io(format!("opening {name}")))?;
        self.keep(index, Arc::clone(&file));
        Ok(file)
    }

    /// Writes `bytes` at `position`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn write(&self, position: u64, bytes: &[u8]) -> Result<(), LogError> {
        let (index, offset) = (position / self.segment_bytes, position % self.segment_bytes);
        let result = self.file(index)?.write_at(offset, bytes);
        result.map_err(LogError::io(format!("writing {} at byte {offset}", segment_name(index))))
    }

    /// Makes what was written to the segment of `position` durable.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&self, position: u64) -> Result<(), LogError> {
        let index = position / self.segment_bytes;
        self.file(index)?.sync().map_err(LogError::io(format!("syncing {}", segment_name(index))))
    }

    /// Fills `into` from `position`, within one segment.
    ///
    /// # Errors
    /// [`LogError`] if the device fails or the segment is too short.
    pub fn read(&self, position: u64, into: &mut [u8]) -> Result<(), LogError> {
        let (index, offset) = (position / self.segment_bytes, position % self.segment_bytes);
        let name = || segment_name(index);
        let read = self.file(index)?.read_at(offset, into).map_err(LogError::io(format!("reading {}", name())))?;
        if read < into.len() {
            let what = format!("the file ends {} bytes early", into.len() - read);
            return Err(LogError::Damaged { file: name(), offset: offset + read as u64, what });
        }
        Ok(())
    }

    fn damaged(&self, position: u64, what: impl Into<String>) -> LogError {
        let (index, offset) = (position / self.segment_bytes, position % self.segment_bytes);
        LogError::Damaged { file: segment_name(index), offset, what: what.into() }
    }

    /// The head at `position` if one of this journal stands there and names that position.
    ///
    /// # Errors
    /// [`LogError`] if the device fails.
    pub fn head(&self, position: u64, journal: u64) -> Result<Option<GroupHead>, LogError> {
        let mut bytes = [0; GROUP_HEAD];
        self.read(position, &mut bytes)?;
        let fits = |h: &GroupHead| {
            let end = position % self.segment_bytes + GROUP_HEAD as u64 + u64::from(h.payload);
            h.journal == journal && h.position == position && end <= self.segment_bytes
        };
        Ok(GroupHead::from_bytes(&bytes).filter(fits))
    }

    /// The group whose head stands at `position`, read whole and, if asked to, verified.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if the checksum doesn't fit.
    pub fn read_whole(&self, position: u64, head: GroupHead, verify: bool) -> Result<Group, LogError> {
        let payload = head.payload as usize;
        let len = (GROUP_HEAD + payload).next_multiple_of(BLOCK);
        let mut buf = AlignedBuf::with_capacity(len);
        buf.resize(len);
        let in_segment = (self.segment_bytes - position % self.segment_bytes).min(len as u64) as usize;
        self.read(position, &mut buf.as_mut_slice()[..in_segment])?;
        let group = Group { position, payload, buf };
        if verify && head.checksum(group.payload()) != head.crc {
            return Err(self.damaged(position, format!("group {}: checksum does not fit", head.sequence)));
        }
        Ok(group)
    }

    /// The group that starts at `position`, or that would have if there had been room, and that has the number `expected`
    /// where that is known; else the group before it says. The caller knows that there is one below `end`.
    ///
    /// # Errors
    /// [`LogError`] if the device fails or the group is damaged.
    pub fn read_group(
        &self,
        position: u64,
        expected: Option<u64>,
        end: u64,
        journal: u64,
        verify: bool,
    ) -> Result<Arc<Group>, LogError> {
        let position = position.next_multiple_of(BLOCK as u64);
        let fits = |head: &GroupHead| expected.is_none_or(|number| number == head.sequence);
        let none = |at| self.damaged(at, "no group where one was written");
        let here = match self.head(position, journal)?.filter(fits) {
            Some(head) => self.read_whole(position, head, verify),
            None => Err(none(position)),
        };
        let next = (position / self.segment_bytes + 1) * self.segment_bytes;
        if here.is_ok() || position.is_multiple_of(self.segment_bytes) || next >= end {
            return here.map(Arc::new);
        }
        let before = || Ok(self.ends_at(position, journal)?.map(|last| last + 1));
        let Some(expected) = expected.map_or_else(before, |number| Ok(Some(number)))? else {
            return here.map(Arc::new);
        };
        // The rest of a segment that was too short for it, whatever earlier writes have left there.
        match self.head(next, journal)? {
            Some(head) if head.sequence == expected => self.read_whole(next, head, verify).map(Arc::new),
            // A sound one that comes later: it is this segment where one is missing.
            Some(head) if self.read_whole(next, head, verify).is_ok() => here.map(Arc::new),
            _ => Err(none(next)),
        }
    }

    /// The number of the group that ends at `position`, within its segment; 0 at the segment's start, where none has to.
    /// `None` if no group ends there: then none begins there either. Reads all heads from the start of the segment, because
    /// no size says how short its rest was: groups may have been of other sizes when it was written.
    ///
    /// # Errors
    /// [`LogError`] if the device fails.
    pub fn ends_at(&self, position: u64, journal: u64) -> Result<Option<u64>, LogError> {
        let (mut at, mut last) = (position - position % self.segment_bytes, 0);
        while at < position {
            let Some(head) = self.head(at, journal)? else { return Ok(None) };
            at += group_len(head.payload);
            last = head.sequence;
        }
        Ok((at == position).then_some(last))
    }

    /// Where the first group of those from `begin`, where a segment begins, to `end` starts, or might have, whose time is `at_s` or
    /// later; `end` if there is none. `begin` if the time of those before it isn't known.
    ///
    /// # Errors
    /// [`LogError`] if the device fails, or a segment doesn't start with a group.
    pub fn first_since(&self, at_s: u32, (begin, end): (u64, u64), journal: u64) -> Result<u64, LogError> {
        let start = |segment: u64| segment * self.segment_bytes;
        let first = |segment| {
            let head = self.head(start(segment), journal)?;
            head.ok_or_else(|| self.damaged(start(segment), "no group where one was written"))
        };
        // The first segment that begins at that time or later; those before it begin earlier.
        let oldest = begin / self.segment_bytes;
        let (mut low, mut high) = (oldest, end.div_ceil(self.segment_bytes));
        while low < high {
            let middle = low.midpoint(high);
            if first(middle)?.time_s < at_s { low = middle + 1 } else { high = middle }
        }
        let Some(segment) = low.checked_sub(1).filter(|&segment| segment >= oldest) else { return Ok(begin) };
        let (mut at, mut before) = (start(segment), first(segment)?);
        let number = before.sequence;
        for expected in number.. {
            // Behind the last group of a segment there may be what a torn write has left.
            let head = if at < end.min(start(low)) { self.head(at, journal)? } else { None };
            match head.filter(|head| head.sequence == expected && head.time_s < at_s) {
                Some(head) => {
                    at += group_len(head.payload);
                    before = head;
                }
                None => break,
            }
        }
        Ok(if before.time_s == 0 { begin } else { at })
    }

    /// Appends the order record at `position` to `out`.
    ///
    /// # Errors
    /// [`LogError`] if the device fails or there is no record.
    pub fn read_order(&self, position: u64, out: &mut Vec<u8>) -> Result<(), LogError> {
        let left = self.segment_bytes - position % self.segment_bytes;
        let mut bytes = vec![0; left.min(1_024) as usize];
        self.read(position, &mut bytes)?;
        let mut r = sluice_schemas::wire::Reader::new(&bytes);
        let len: usize = r.number("order length").map_err(|e| self.damaged(position, e.to_string()))?;
        let total = (bytes.len() - r.rest().len()).saturating_add(len);
        if total as u64 > left {
            return Err(self.damaged(position, "an order record that leaves its segment"));
        }
        if total > bytes.len() {
            bytes.resize(total, 0);
            self.read(position, &mut bytes)?;
        }
        let record = super::format::order_at(&bytes, 0).map_err(|e| self.damaged(position, e.to_string()))?;
        out.extend_from_slice(record);
        Ok(())
    }
}
