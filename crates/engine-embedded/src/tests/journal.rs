//! The journal alone: groups, positions, segments, room, and what is answered when.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use sluice_pipeline::BLOCK;

use super::{
    fakes::{FakeClock, MemDisk},
    world::tiny,
};
use crate::journal::{
    AppendError, Completion, Journal, JournalConfig, WriterStep,
    format::{GROUP_HEAD, frames},
    recovery::{End, Scan},
};

const SEGMENT: u64 = 256 << 10;
const ID: u64 = 0x5EED;

fn config() -> JournalConfig {
    tiny().journal
}

fn clock() -> Arc<FakeClock> {
    Arc::new(FakeClock(5_000.into()))
}

fn fresh(disk: &MemDisk) -> Journal {
    let end = End { position: 0, sequence: 1, prepared: 0, torn_at: None, sealed: true, time_s: 0 };
    let journal = Journal::new(Arc::new(disk.clone()), config(), ID, end, clock());
    journal.prepare().unwrap();
    journal.prepare().unwrap();
    journal
}

/// A frame whose orders body is `len` bytes of an order record that nobody decodes.
fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut writer = crate::journal::format::FrameWriter::default();
    writer.start(3);
    writer.open(crate::journal::format::kind::ORDERS);
    sluice_schemas::wire::put_bytes(writer.body(), &vec![fill; len]);
    writer.close();
    writer.finish().unwrap().to_vec()
}

fn mark() -> (Arc<AtomicU64>, impl Fn(u64) -> Completion) {
    let mark = Arc::new(AtomicU64::new(0));
    let make = {
        let mark = Arc::clone(&mark);
        move |to| Completion::Sending(Arc::clone(&mark), to)
    };
    (mark, make)
}

fn write_one(journal: &Journal) -> bool {
    let WriterStep::Write(group, completions) = journal.begin(false) else { return false };
    journal.write(&group).unwrap();
    journal.sync(&group).unwrap();
    journal.complete(group, completions);
    true
}

fn scan(disk: &MemDisk) -> Scan {
    Scan::new(Arc::new(disk.clone()), SEGMENT, ID, 0, (0, 1), true).unwrap()
}

#[test]
fn frames_appended_are_frames_read() {
    let disk = MemDisk::default();
    let journal = fresh(&disk);
    let first = journal.append(&frame(100, 1), 0).unwrap();
    let second = journal.append(&frame(5_000, 2), 0).unwrap();
    assert_eq!(first, GROUP_HEAD as u64);
    assert_eq!(second, first + frame(100, 1).len() as u64);
    assert!(!journal.is_durable(second + 1));
    assert!(write_one(&journal) && !write_one(&journal));
    assert!(journal.is_durable(journal.appended()));
    assert_eq!(journal.durable() % BLOCK as u64, 0);
    for journal in [&journal, &fresh_over(&disk)] {
        let mut record = Vec::new();
        journal.order_at(second + 13, &mut record).unwrap();
        assert_eq!(record, vec![2; 5_000]);
        let group = journal.group_from(0, 0).unwrap().unwrap();
        assert_eq!(frames(group.payload()).map(|f| f.unwrap().partition).collect::<Vec<_>>(), [3, 3]);
        assert!(journal.group_from(group.end(), group.sequence()).unwrap().is_none());
    }
}

fn fresh_over(disk: &MemDisk) -> Journal {
    let mut scan = scan(disk);
    let end = loop {
        if let Err(end) = scan.next_group().unwrap() {
            break end;
        }
    };
    Journal::new(Arc::new(disk.clone()), config(), ID, end, clock())
}

#[test]
fn an_order_is_found_wherever_its_group_is() {
    let disk = MemDisk::default();
    let journal = fresh(&disk);
    let mut positions = Vec::new();
    let read = |journal: &Journal, position: u64| {
        let mut out = Vec::new();
        journal.order_at(position + 13, &mut out).unwrap();
        out
    };
    for i in 0..60u8 {
        positions.push(journal.append(&frame(6_000, i), 0).unwrap());
        journal.prepare().unwrap();
        match i % 3 {
            0 => {}
            1 => {
                // Closed and on its way.
                let WriterStep::Write(group, completions) = journal.begin(false) else { panic!() };
                for (i, &position) in positions.iter().enumerate() {
                    assert_eq!(read(&journal, position), vec![i as u8; 6_000]);
                }
                journal.write(&group).unwrap();
                journal.complete(group, completions);
            }
            _ => assert!(write_one(&journal)),
        }
    }
    for (i, &position) in positions.iter().enumerate() {
        assert_eq!(read(&journal, position), vec![i as u8; 6_000], "order {i}");
    }
    assert!(positions.last().unwrap() / SEGMENT >= 1, "several segments");
    for garbage in [7, positions[3] + 1, SEGMENT - 1, journal.appended() + (1 << 30), u64::MAX] {
        // Whatever is found there, nothing panics.
        let _ = journal.order_at(garbage, &mut Vec::new());
    }
}

#[test]
fn no_group_spans_two_segments() {
    let disk = MemDisk::default();
    let journal = fresh(&disk);
    for i in 0..200u32 {
        for _ in 0..=i % 3 {
            journal.append(&frame(3_000 + (i as usize * 977) % 12_000, i as u8), 0).unwrap();
        }
        write_one(&journal);
        journal.prepare().unwrap();
    }
    let (mut scan, mut groups, mut end) = (scan(&disk), 0, 0);
    while let Ok(group) = scan.next_group().unwrap() {
        assert!(group.position >= end);
        assert_eq!(group.position / SEGMENT, (group.end() - 1) / SEGMENT);
        end = group.end();
        groups += 1;
    }
    assert_eq!((groups, end), (200, journal.durable()));
    assert!(end > 4 * SEGMENT);
}

#[test]
fn a_group_never_outgrows_its_room() {
    let disk = MemDisk::default();
    let journal = fresh(&disk);
    let room = GROUP_HEAD + config().group_bytes + config().frame_bytes;
    let mut total = GROUP_HEAD;
    loop {
        let frame = frame(9_000, 1);
        match journal.append(&frame, 0) {
            Ok(_) => total += frame.len(),
            Err(AppendError::Full(_)) => break assert!(total + frame.len() > room),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(total <= room);
    assert!(journal.is_backed_up());
    assert!(write_one(&journal));
    assert!(!journal.is_backed_up());
    journal.append(&frame(9_000, 1), 0).unwrap();
    assert!(matches!(journal.append(&frame(60_000, 1), 0), Err(AppendError::Full(_))), "longer than any group");
}

#[test]
fn what_was_appended_is_answered_when_it_is_durable() {
    let disk = MemDisk::default();
    let journal = fresh(&disk);
    let (mark, to) = mark();
    assert!(journal.after_appended(to(1)).is_some(), "nothing to wait for");
    journal.append(&frame(10, 1), 0).unwrap();
    assert!(journal.after_appended(to(2)).is_none());
    let WriterStep::Write(group, completions) = journal.begin(false) else { panic!() };
    assert!(journal.after_appended(to(3)).is_none(), "waits for the group in flight");
    journal.write(&group).unwrap();
    journal.sync(&group).unwrap();
    assert_eq!(mark.load(SeqCst), 0);
    journal.complete(group, completions);
    assert_eq!(mark.load(SeqCst), 3, "without another group, and without a seal");
}

#[test]
fn a_seal_on_its_way_holds_no_answer_back() {
    let disk = MemDisk::default();
    let journal = fresh(&disk);
    let (mark, to) = mark();
    journal.append(&frame(10, 1), 0).unwrap();
    assert!(write_one(&journal));
    let WriterStep::Write(seal, completions) = journal.begin(true) else { panic!("no seal") };
    assert_eq!(seal.payload, 0);
    assert!(journal.after_appended(to(9)).is_none());
    journal.write(&seal).unwrap();
    journal.complete(seal, completions);
    assert_eq!(mark.load(SeqCst), 9);
    assert!(matches!(journal.begin(true), WriterStep::Idle), "sealed once");
}

#[test]
fn closing_writes_what_is_left_and_seals() {
    let disk = MemDisk::default();
    let journal = fresh(&disk);
    journal.append(&frame(10, 1), 0).unwrap();
    journal.close();
    assert_eq!(journal.append(&frame(10, 1), 0), Err(AppendError::Closed));
    assert!(write_one(&journal) && write_one(&journal), "the group, then the seal");
    assert!(matches!(journal.begin(false), WriterStep::Done));
}

#[test]
fn closing_on_a_full_disk_ends_all_the_same() {
    let disk = MemDisk::default();
    let journal = fresh(&disk);
    disk.faults.full.store(true, SeqCst);
    loop {
        journal.prepare().unwrap();
        if journal.append(&frame(4_000, 1), 0).is_err() {
            break;
        }
        write_one(&journal);
    }
    journal.close();
    for _ in 0..3 {
        match journal.begin(true) {
            WriterStep::Done => return,
            WriterStep::Idle => {}
            WriterStep::Write(group, completions) => journal.complete(group, completions),
        }
    }
    panic!("the writer would spin");
}

#[test]
fn a_failed_sync_is_final() {
    let disk = MemDisk::default();
    let journal = fresh(&disk);
    let (mark, to) = mark();
    journal.append(&frame(10, 1), 0).unwrap();
    assert!(journal.after_appended(to(1)).is_none());
    let WriterStep::Write(group, _completions) = journal.begin(false) else { panic!() };
    disk.faults.fail_sync.store(true, SeqCst);
    journal.write(&group).unwrap();
    assert!(journal.sync(&group).is_err());
    disk.faults.fail_sync.store(false, SeqCst);
    assert_eq!(journal.append(&frame(10, 1), 0), Err(AppendError::Closed));
    assert!(matches!(journal.begin(true), WriterStep::Done));
    assert!(journal.trouble().unwrap().contains("syncing journal-0000000000.seg"));
    assert_eq!(mark.load(SeqCst), 0);
    assert!(journal.poll_durable(journal.appended(), std::task::Waker::noop()).is_err());
}

/// A journal that goes on where the disk says, at this time.
fn at_time(disk: &MemDisk, clock: &Arc<FakeClock>) -> Journal {
    let mut scan = scan(disk);
    let end = loop {
        if let Err(end) = scan.next_group().unwrap() {
            break end;
        }
    };
    let journal = Journal::new(Arc::new(disk.clone()), config(), ID, end, clock.clone());
    journal.prepare().unwrap();
    journal.prepare().unwrap();
    journal
}

/// Writes a group; gives where it starts.
fn group(journal: &Journal, len: usize) -> u64 {
    journal.prepare().unwrap();
    let at = journal.append(&frame(len, 1), 0).unwrap();
    assert!(write_one(journal));
    at - GROUP_HEAD as u64
}

#[test]
fn a_group_is_found_by_its_time_over_segments_restarts_and_clocks_that_go_back() {
    let (disk, clock) = (MemDisk::default(), clock());
    // Without a time, as an earlier version wrote them; found by no time, so that nothing is left out.
    clock.0.store(0, SeqCst);
    let mut journal = at_time(&disk, &clock);
    assert_eq!(journal.first_since(1, 0).unwrap(), 0);
    let oldest: Vec<_> = (0..40).map(|_| group(&journal, 9_000)).collect();
    assert!(oldest.last().unwrap() > &SEGMENT);
    assert!([0, 1, 100, u32::MAX].iter().all(|&at| journal.first_since(at, 0).unwrap() == 0));
    let mut known: Vec<(u32, u64)> = Vec::new();
    for round in 0..150u32 {
        // Every tenth time the clock is put back by as much as it has moved on.
        let now = 1_000 + if round % 10 == 9 { 5 } else { 3 * round };
        clock.0.store(u64::from(now) * 1_000, SeqCst);
        let before = known.last().map_or(0, |last| last.0);
        known.push((now.max(before), group(&journal, 5_000 + 70 * round as usize)));
        if round % 40 == 39 {
            journal = at_time(&disk, &clock);
        }
    }
    for at_s in (990..1_470).step_by(3) {
        let found = journal.first_since(at_s, 0).unwrap();
        let wanted = known.iter().find(|(time, _)| *time >= at_s);
        match wanted {
            None => assert_eq!(found, journal.durable()),
            Some(_) if at_s <= known[0].0 => assert_eq!(found, 0, "{at_s}: those before don't say"),
            // The end of the segment before is as good.
            Some(&(_, start)) => {
                let here = journal.group_from(found, 0).unwrap().unwrap();
                assert_eq!(here.position, start, "{at_s}");
            }
        }
    }
    let since = |at_s, begin| journal.first_since(at_s, begin).unwrap();
    assert_eq!((since(0, 0), since(u32::MAX, 0)), (0, journal.durable()));
    // Where older segments are gone, none of them is read.
    let before: Vec<u64> = (990..1_470).map(|at_s| since(at_s, 0).max(SEGMENT)).collect();
    sluice_pipeline::Disk::remove(&disk, &crate::journal::segment_name(0)).unwrap();
    assert_eq!((990..1_470).map(|at_s| since(at_s, SEGMENT)).collect::<Vec<u64>>(), before);
    assert_eq!((since(0, SEGMENT), since(u32::MAX, SEGMENT)), (SEGMENT, journal.durable()));
}

#[test]
fn a_damaged_head_is_not_passed_over_by_a_search() {
    let (disk, clock) = (MemDisk::default(), clock());
    let journal = at_time(&disk, &clock);
    let starts: Vec<_> = (0..60)
        .map(|n| {
            clock.0.store(1_000 * (n + 1), SeqCst);
            group(&journal, 9_000)
        })
        .collect();
    let damaged = starts[40];
    let (name, at) = (crate::journal::segment_name(damaged / SEGMENT), (damaged % SEGMENT) as usize);
    disk.change(&name, |bytes| bytes[at + 1] ^= 1);
    assert!(journal.first_since(45, 0).unwrap() <= damaged, "whoever reads on is told");
    assert_eq!(journal.first_since(20, 0).unwrap(), starts[19]);
    disk.change(&name, |bytes| bytes[..4].fill(0));
    assert!(journal.first_since(45, 0).is_err());
}
