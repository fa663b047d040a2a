//! What a checkpoint says about itself: the record that makes it count, and by which an opening knows where to begin.

use sluice_schemas::{
    CodecError,
    wire::{Reader, put_bytes, put_varint},
};

use crate::shared::Counts;

/// Version byte of [`Head`].
pub(crate) const HEAD_VERSION: u8 = 3;
/// Checkpoints that are remembered by number at most; beyond it every second one is forgotten.
pub(crate) const MAX_MARKS: usize = 1_024;

/// What a checkpoint says about itself; key `head` in [`sluice_pipeline::Table::Meta`].
///
/// `version u8 | number | group position | group number | partitions: count, replay position each | carriers: count,
/// (id, settled, sending) each | generations: count, (number, frozen at ms) each | accepted | finished | dead-lettered |
/// in flight | listed since | kept: first position, its group's number, events, retired, since ms | marks: count, (number,
/// position, at ms) each`, all numbers varints. Version 1 ends before `listed since`, version 2 behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Head {
    /// From 1.
    pub(crate) number: u32,
    /// Start of the first group to replay, and its number.
    pub(crate) group: (u64, u64),
    /// By partition as of then: its frames before this position are in the store.
    pub(crate) replay_from: Vec<u64>,
    /// By carrier id: outbox settled and sending positions.
    pub(crate) carriers: Vec<(String, u64, u64)>,
    /// Index generations still needed, with the time each was frozen.
    pub(crate) generations: Vec<(u32, u64)>,
    pub(crate) counts: Counts,
    /// Orders of this checkpoint and later ones can be found by customer; 0: all can.
    pub(crate) listed_since: u32,
    pub(crate) kept: Kept,
    /// Checkpoints by number, ascending.
    pub(crate) marks: Vec<Mark>,
}

/// What retention has left of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Where the first segment that is kept starts, and the number of its first group. Orders before it are gone.
    pub(crate) first: (u64, u64),
    /// Events are told from the group on that starts here: of those before it some are gone with their orders.
    pub(crate) events: u64,
    /// Orders that are gone.
    pub(crate) retired: u64,
    /// What is kept was not written before this, ms since the epoch; 0 if nobody knows.
    pub(crate) since_ms: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { first: (0, 1), events: 0, retired: 0, since_ms: 0 }
    }
}

/// How far the log was when a checkpoint was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The checkpoint's number.
    pub(crate) number: u32,
    /// A group starts here or later; everything that this checkpoint and those before it hold stands before it.
    pub(crate) position: u64,
    /// ms since the epoch.
    pub(crate) at_ms: u64,
}

impl Head {
    /// Remembers that the log was at `mark` when this checkpoint was finished.
    pub(crate) fn mark(&mut self, mark: Mark) {
        self.marks.push(mark);
        if self.marks.len() > MAX_MARKS {
            // What a forgotten one held counts as held by the next: it is then only kept longer.
            let mut nth = 0;
            let newest = self.marks.len();
            self.marks.retain(|_| {
                nth += 1;
                nth % 2 == 0 || nth == newest
            });
        }
    }

    /// A position that everything in checkpoint `number` stands before; `None` if it isn't finished.
    pub(crate) fn end_of(&self, number: u32) -> Option<u64> {
        let at = self.marks.partition_point(|mark| mark.number < number);
        self.marks.get(at).map(|mark| mark.position)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![HEAD_VERSION];
        for n in [u64::from(self.number), self.group.0, self.group.1, self.replay_from.len() as u64] {
            put_varint(&mut out, n);
        }
        self.replay_from.iter().for_each(|&p| put_varint(&mut out, p));
        put_varint(&mut out, self.carriers.len() as u64);
        for (id, settled, sending) in &self.carriers {
            put_bytes(&mut out, id.as_bytes());
            put_varint(&mut out, *settled);
            put_varint(&mut out, *sending);
        }
        put_varint(&mut out, self.generations.len() as u64);
        for &(number, frozen_at) in &self.generations {
            put_varint(&mut out, u64::from(number));
            put_varint(&mut out, frozen_at);
        }
        let c = &self.counts;
        for n in [c.accepted, c.finished, c.dead_lettered, c.in_flight, u64::from(self.listed_since)] {
            put_varint(&mut out, n);
        }
        let Kept { first, events, retired, since_ms } = self.kept;
        for n in [first.0, first.1, events, retired, since_ms, self.marks.len() as u64] {
            put_varint(&mut out, n);
        }
        for mark in &self.marks {
            put_varint(&mut out, u64::from(mark.number));
            put_varint(&mut out, mark.position);
            put_varint(&mut out, mark.at_ms);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let version = r.byte("head version")?;
        if !(1..=HEAD_VERSION).contains(&version) {
            return Err(CodecError { what: "head version" });
        }
        let number: u32 = r.number("checkpoint number")?;
        let group = (r.varint("group position")?, r.varint("group number")?);
        let partitions: usize = r.number("partition count")?;
        let replay_from = (0..partitions).map(|_| r.varint("replay position")).collect::<Result<_, _>>()?;
        let carriers: usize = r.number("carrier count")?;
        let carriers = (0..carriers)
            .map(|_| Ok((r.str("carrier")?.to_owned(), r.varint("settled")?, r.varint("sending")?)))
            .collect::<Result<_, CodecError>>()?;
        let generations: usize = r.number("generation count")?;
        let generations = (0..generations)
            .map(|_| Ok((r.number("generation")?, r.varint("frozen at")?)))
            .collect::<Result<_, CodecError>>()?;
        let mut next = || r.varint("count");
        let counts =
            Counts { accepted: next()?, finished: next()?, dead_lettered: next()?, in_flight: next()?, replayed: 0 };
        // What a journal holds behind the checkpoint is entered as it is replayed.
        let listed_since = if version == 1 { number + 1 } else { r.number("listed since")? };
        let (kept, marks) = if version < 3 { (Kept::default(), Vec::new()) } else { read_kept(&mut r)? };
        Ok(Self { number, group, replay_from, carriers, generations, counts, listed_since, kept, marks })
    }
}

fn read_kept(r: &mut Reader<'_>) -> Result<(Kept, Vec<Mark>), CodecError> {
    let first = (r.varint("first position")?, r.varint("first group")?);
    let (events, retired) = (r.varint("first event")?, r.varint("retired orders")?);
    let kept = Kept { first, events, retired, since_ms: r.varint("kept since")? };
    let marks: usize = r.number("mark count")?;
    let mark = |r: &mut Reader<'_>| -> Result<Mark, CodecError> {
        Ok(Mark { number: r.number("mark")?, position: r.varint("mark position")?, at_ms: r.varint("mark time")? })
    };
    let marks = (0..marks).map(|_| mark(r)).collect::<Result<_, _>>()?;
    Ok((kept, marks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back() {
        let head = Head {
            number: 7,
            group: (1 << 40, 99),
            replay_from: vec![5, 1 << 41],
            carriers: vec![("swift".into(), 3, 4), ("tortoise".into(), 0, u64::MAX)],
            generations: vec![(6, 1), (7, 1_794_268_800_000)],
            counts: Counts { accepted: 10, finished: 5, dead_lettered: 2, in_flight: 3, replayed: 0 },
            listed_since: 5,
            kept: Kept { first: (1 << 39, 70), events: 1 << 40, retired: 4, since_ms: 1_794_268_700_000 },
            marks: vec![Mark { number: 7, position: 1 << 40, at_ms: 1_794_268_800_000 }],
        };
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Ok(head.clone()));
        for cut in 0..bytes.len() {
            assert!(Head::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        // Those of versions that had no retention, and no look-ups.
        let nothing = Head { kept: Kept::default(), marks: Vec::new(), ..head.clone() };
        let mut tail = Vec::new();
        [0, 1, 0, 0, 0, 0].into_iter().for_each(|n| put_varint(&mut tail, n));
        let mut old = nothing.encode();
        assert!(old.ends_with(&tail));
        old.truncate(old.len() - tail.len());
        old[0] = 2;
        assert_eq!(Head::decode(&old), Ok(nothing));
        old.pop();
        old[0] = 1;
        assert_eq!(Head::decode(&old).map(|head| (head.counts.in_flight, head.listed_since)), Ok((3, 8)));
        old[0] = HEAD_VERSION + 1;
        assert!(Head::decode(&old).is_err());
    }

    #[test]
    fn marks_are_bounded_and_what_one_held_the_next_holds() {
        let mut head = Head::default();
        for number in 1..=10 * MAX_MARKS as u32 {
            head.mark(Mark { number, position: u64::from(number) * 100, at_ms: 0 });
            assert!(head.marks.len() <= MAX_MARKS);
            assert_eq!(head.end_of(number), Some(u64::from(number) * 100), "the newest is never forgotten");
            assert_eq!(head.end_of(number + 1), None);
            let other = number / 3 + 1;
            assert!(head.end_of(other).is_some_and(|end| end >= u64::from(other) * 100));
        }
    }
}
