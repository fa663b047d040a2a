//! The journal alone: groups, positions, segments, room, and what is answered when.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use sluice_pipeline::BLOCK;

use super::{fakes::MemDisk, world::tiny};
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

fn fresh(disk: &MemDisk) -> Journal {
    let end = End { position: 0, sequence: 1, prepared: 0, torn_at: None, sealed: true };
    let journal = Journal::new(Arc::new(disk.clone()), config(), ID, end);
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
    Journal::new(Arc::new(disk.clone()), config(), ID, end)
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
