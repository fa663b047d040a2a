//! The check of a stopped folder: sound folders pass, and every damaged byte is named.

use std::{
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use sluice_domain::OrderId;
use sluice_pipeline::{
    Store, Table,
    conformance::{Harness, Order, answer, submission},
    lookup::day_of,
};
use sluice_schemas::outcome::OutcomeKind;

use super::world::{World, tiny};
use crate::{
    DataLock, FjallStore, RealDisk,
    check::{CheckReport, check},
    journal::format::GROUP_HEAD,
    lookup::stored_key,
};

fn open(folder: &Path) -> World {
    let disk = RealDisk::open(&folder.join("journal")).unwrap();
    let store = FjallStore::open(&folder.join("store")).unwrap();
    World::over(tiny(), Arc::new(disk), Arc::new(store))
}

/// A folder with three checkpoints, reroutes, marks, dead letters, and a tail that no checkpoint holds.
fn folder() -> tempfile::TempDir {
    folder_of(200)
}

fn folder_of(orders_a_round: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut world = open(folder.path());
    let mut before: Vec<Order> = Vec::new();
    for round in 0..4 {
        let kinds = [&["c0", "c1"][..], &["c1"], &["none"], &["nobody"], &["bad"]];
        let orders: Vec<Order> =
            (0..orders_a_round).map(|i| Order::new(format!("{round}-{i}"), kinds[i % kinds.len()])).collect();
        for some in orders.chunks(40) {
            world.submit(submission(some));
            world.settle_down();
        }
        let kinds = [OutcomeKind::Accepted, OutcomeKind::Rejected, OutcomeKind::Unknown];
        let answers = before.iter().enumerate().map(|(i, o)| answer(o.shipment(0, 0), kinds[i % 3]));
        world.report(answers.collect());
        let last = world.outbox(0).last().unwrap().position;
        world.live().outboxes[0].mark_sending(last);
        world.settle_down();
        if round < 3 {
            world.checkpoint();
        }
        before = orders;
    }
    world.seal();
    drop(world);
    folder
}

fn run(folder: &Path) -> CheckReport {
    let mut last = 0;
    check(folder, &mut |p| {
        assert!(p.done >= last && p.done <= p.total);
        last = p.done;
    })
    .unwrap()
}

/// A copy of `from`. By hand: a child process would hold the locks of other tests' folders from its fork to its exec.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_into(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_sound_folder_is_sound_again_and_again() {
    let folder = folder();
    for round in 0..2 {
        let report = run(folder.path());
        assert!(report.sound && report.torn.is_empty() && report.skipped.is_empty(), "{report:#?}");
        assert_eq!((report.orders, report.rows, report.index_entries, report.checkpoint), (800, 600, 600, 3));
        assert!(report.lookup_entries > 600, "an order has one entry, and one for each tracking number: {report:#?}");
        assert!(report.groups > 20 && report.deltas > 1_500 && report.bytes > 500_000, "{report:#?}");
        if round == 0 {
            // The engine still opens what was checked.
            assert_eq!(open(folder.path()).engine().counts().accepted, 800);
        }
    }
}

#[test]
fn an_empty_folder_is_sound_and_no_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(check(folder.path(), &mut |_| {}).unwrap_err().to_string().contains("no folders"));
    drop(open(folder.path()));
    let report = run(folder.path());
    assert!(report.sound, "{report:#?}");
    assert_eq!((report.orders, report.groups, report.checkpoint), (0, 0, 0));
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = folder();
    let _lock = DataLock::take(folder.path()).unwrap();
    let error = check(folder.path(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("another process uses this data folder"), "{error}");
}

#[test]
fn all_damage_in_the_journal_is_listed() {
    let folder = folder();
    let segment = folder.path().join("journal/journal-0000000000.seg");
    let bytes = std::fs::read(&segment).unwrap();
    let groups: Vec<u64> =
        (0..bytes.len() as u64).step_by(4096).filter(|&at| bytes[at as usize..].starts_with(b"SLG1")).collect();
    // A head, a payload, and padding, of three groups that stand apart.
    flip(&segment, groups[1] + 17);
    flip(&segment, groups[4] + GROUP_HEAD as u64 + 100);
    let len = u32::from_le_bytes(bytes[groups[7] as usize + 32..][..4].try_into().unwrap());
    let padding = groups[7] + GROUP_HEAD as u64 + u64::from(len);
    assert!(!padding.is_multiple_of(4096));
    flip(&segment, padding);
    let report = run(folder.path());
    let named: Vec<_> = report.damage.iter().map(|d| (d.file.as_str(), d.offset)).collect();
    let file = "journal/journal-0000000000.seg";
    for expected in [(file, groups[1]), (file, groups[4]), (file, padding)] {
        assert!(named.contains(&expected), "{expected:?} in {report:#?}");
    }
    assert!(!report.sound);
}

#[test]
fn a_torn_end_is_no_damage() {
    let folder = folder();
    let (segment, start) = last_group(folder.path());
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(&[0; 8], start + 16).unwrap();
    let report = run(folder.path());
    assert!(report.sound, "{report:#?}");
    assert_eq!(report.torn.len(), 1);
    assert_eq!(report.torn[0].offset, start);
    assert_eq!(report.torn[0].file, format!("journal/{}", segment.file_name().unwrap().to_str().unwrap()));
}

/// The seal at the end of the log.
fn last_group(folder: &Path) -> (PathBuf, u64) {
    files(&folder.join("journal"))
        .into_iter()
        .rev()
        .find_map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            let at = (0..bytes.len()).step_by(4096).rev().find(|&at| bytes[at..].starts_with(b"SLG1"))?;
            Some((path, at as u64))
        })
        .unwrap()
}

#[test]
fn a_missing_and_a_short_segment_are_named() {
    let sound = folder_of(900);
    let missing = copy(sound.path());
    std::fs::remove_file(missing.path().join("journal/journal-0000000000.seg")).unwrap();
    let report = run(missing.path());
    assert_eq!(report.damage[0].file, "journal/journal-0000000000.seg", "{report:#?}");
    assert!(report.orders > 0, "the other segments are read all the same");
    let short = copy(sound.path());
    let file = short.path().join("journal/journal-0000000001.seg");
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(8_192).unwrap();
    let report = run(short.path());
    assert_eq!((report.damage[0].file.as_str(), report.damage[0].offset), ("journal/journal-0000000001.seg", 8_192));
}

#[test]
fn a_damaged_table_is_named_with_the_block() {
    let sound = folder();
    let tables: Vec<PathBuf> =
        files(sound.path()).into_iter().filter(|p| p.parent().unwrap().ends_with("tables")).collect();
    assert!(tables.len() >= 4, "{tables:?}");
    for table in &tables {
        let name = table.strip_prefix(sound.path()).unwrap();
        let bytes = std::fs::read(table).unwrap();
        for offset in [0, 20, 32, 33, 1_000, bytes.len() / 2, bytes.len() - 300, bytes.len() - 1] {
            flip(table, offset as u64);
            let report = run(sound.path());
            flip(table, offset as u64);
            let found = &report.damage[0];
            assert_eq!(Path::new(&found.file), name, "byte {offset}: {report:#?}");
            let (from, to) = (found.offset, found.offset + 5_000);
            assert!(offset + 1 == bytes.len() || (from..to).contains(&(offset as u64)), "{offset}: {found:?}");
            assert!(report.groups > 20, "the journal is read all the same");
        }
    }
}

#[test]
fn every_file_of_the_store_that_counts_is_verified() {
    let sound = folder();
    for path in files(&sound.path().join("store")) {
        let name = path.strip_prefix(sound.path()).unwrap().to_owned();
        let text = name.to_str().unwrap();
        let counts = text.ends_with("current") || text.ends_with(".jnl");
        if !counts {
            continue;
        }
        // The store protects each entry of its log, not the number in front of them.
        let at = if text.ends_with("current") { 12 } else { 40 };
        flip(&path, at);
        let report = run(sound.path());
        flip(&path, at);
        assert!(!report.sound, "{text}");
        let number = report.damage.iter().any(|d| d.file == text || text.ends_with("current"));
        assert!(number, "{text}: {report:#?}");
    }
    let versions = files(&sound.path().join("store/keyspaces/0"));
    let current = std::fs::read(sound.path().join("store/keyspaces/0/current")).unwrap();
    let number = u64::from_le_bytes(current[..8].try_into().unwrap());
    let version = versions.iter().find(|v| v.ends_with(format!("v{number}"))).unwrap();
    flip(version, 40);
    assert_eq!(run(sound.path()).damage[0].file, format!("store/keyspaces/0/v{number}"));
    flip(version, 40);
    assert!(run(sound.path()).sound, "nothing was changed by looking");
}

#[test]
fn a_store_and_a_journal_that_do_not_belong_together_are_told() {
    let (one, two) = (folder(), tempfile::tempdir().unwrap());
    {
        let mut world = open(two.path());
        world.submit(submission(&[Order::new("alone", &["c0"])]));
        world.settle_down();
    }
    let mixed = copy(one.path());
    std::fs::remove_dir_all(mixed.path().join("journal")).unwrap();
    copy_into(&two.path().join("journal"), &mixed.path().join("journal"));
    let report = run(mixed.path());
    assert!(report.damage_found > 500, "every row and index entry: {}", report.damage_found);
    assert_eq!(report.damage.len(), 100, "the list is bounded");
}

#[test]
fn what_cannot_be_found_is_damage() {
    let folder = folder();
    let entries = run(folder.path()).lookup_entries;
    {
        let store = FjallStore::open(&folder.path().join("store")).unwrap();
        store.drop_table(Table::Lookup).unwrap();
        let stranger = OrderId(1_794_268_800_123 << 80 | 77);
        store.ingest(Table::Lookup, &mut |put| put(&stored_key(day_of(stranger), 4, stranger), b"")).unwrap();
    }
    let report = run(folder.path());
    // Each order by its customer, those that have one by their tracking number, and the stranger.
    assert_eq!((report.damage_found, report.lookup_entries), (entries + 1, 1));
    let named = |what: &str| report.damage.iter().any(|d| d.file == "store, table lookup" && d.what.contains(what));
    assert!(named("can't be found by its customer") && named("can't be found by its tracking number"), "{report:#?}");
}

#[test]
fn entries_of_nobody_are_damage() {
    let folder = folder();
    let stranger = OrderId(1_794_268_800_123 << 80 | 77);
    let entries = [&stored_key(day_of(stranger), 4, stranger)[..], b"no entry"];
    for entry in entries {
        let store = FjallStore::open(&folder.path().join("store")).unwrap();
        store.ingest(Table::Lookup, &mut |put| put(entry, b"")).unwrap();
    }
    let report = run(folder.path());
    let named = |what: &str| report.damage.iter().any(|d| d.file == "store, table lookup" && d.what.contains(what));
    assert!(named("which has no row") && named("no day, key and order"), "{report:#?}");
    assert_eq!(report.damage_found, 2, "{report:#?}");
}

#[test]
fn a_checkpoint_that_was_not_finished_is_no_damage() {
    let folder = folder();
    let mut world = open(folder.path());
    world.submit(submission(&[Order::new("late", &["c0"])]));
    world.settle_down();
    world.engine().request_checkpoint();
    for _ in 0..5 {
        world.live().checkpointer.step().unwrap();
        world.step_owners();
    }
    assert_eq!(world.engine().checkpoints(), 0);
    drop(world);
    let report = run(folder.path());
    assert!(report.sound, "{report:#?}");
    assert_eq!((report.orders, report.rows), (801, 600));
}
