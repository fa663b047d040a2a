//! Each sentence of the disk's fault model, shown to hold.

use super::*;

const B: u64 = BLOCK as u64;

struct Bench {
    disk: SimDisk,
    power: Power,
    clock: SimClock,
}

fn bench(faults: DiskFaults) -> Bench {
    let (power, clock) = (Power::default(), SimClock::new(0));
    let disk = SimDisk::new(faults, &Rng::new(1), power.clone(), clock.clone(), Trace::digest_only());
    Bench { disk, power, clock }
}

fn filled(byte: u8, blocks: usize) -> Vec<u8> {
    vec![byte; blocks * BLOCK]
}

fn read(file: &Arc<dyn DiskFile>) -> Vec<u8> {
    let mut bytes = vec![0xee; file.size().unwrap() as usize];
    let len = bytes.len();
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), len);
    bytes
}

#[test]
fn a_new_file_reads_as_zeroes_and_reads_end_with_it() {
    let b = bench(DiskFaults::default());
    let file = b.disk.create("a", 2 * B).unwrap();
    assert_eq!(read(&file), filled(0, 2));
    file.write_at(B, &filled(7, 1)).unwrap();
    let mut some = [0xee; 10];
    assert_eq!(file.read_at(B - 5, &mut some).unwrap(), 10);
    assert_eq!(some, [0, 0, 0, 0, 0, 7, 7, 7, 7, 7]);
    assert_eq!(file.read_at(2 * B - 3, &mut some).unwrap(), 3);
    assert_eq!(file.read_at(2 * B + 3, &mut some).unwrap(), 0);
    assert_eq!(file.write_at(2 * B, &filled(7, 1)).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(b.disk.create("a", B).err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(b.disk.open("b").err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "unaligned write")]
fn an_unaligned_write_is_a_bug() {
    let file = bench(DiskFaults::default()).disk.create("a", 2 * B).unwrap();
    let _ = file.write_at(0, &[1; 100]);
}

#[test]
fn synced_blocks_survive_every_crash_and_unsynced_ones_become_old_new_or_a_mixture_of_sectors() {
    let (mut kept, mut dropped, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let mut b = bench(DiskFaults::default());
        let file = b.disk.create("a", 8 * B).unwrap();
        file.write_at(0, &filled(1, 8)).unwrap();
        file.sync().unwrap();
        file.write_at(4 * B, &filled(2, 4)).unwrap();
        file.write_at(6 * B, &filled(3, 1)).unwrap();
        assert_eq!(b.disk.unsynced_blocks(), 4);
        b.power.restart();
        let report = b.disk.crash(&mut Rng::new(seed));
        assert_eq!(report.kept + report.dropped + report.torn, 4);
        (kept, dropped, torn) = (kept + report.kept, dropped + report.dropped, torn + report.torn);
        let bytes = read(&b.disk.open("a").unwrap());
        assert_eq!(bytes[..4 * BLOCK], filled(1, 4));
        for sector in bytes[4 * BLOCK..].chunks(SECTOR) {
            assert!((1..=3).contains(&sector[0]) && sector.iter().all(|&b| b == sector[0]));
        }
        assert_eq!(b.disk.unsynced_blocks(), 0);
    }
    assert!(kept > 100 && dropped > 100 && torn > 50, "kept {kept}, dropped {dropped}, torn {torn}");
}

#[test]
fn a_kill_loses_nothing_and_makes_nothing_durable() {
    let mut b = bench(DiskFaults::default());
    let file = b.disk.create("a", B).unwrap();
    file.write_at(0, &filled(5, 1)).unwrap();
    b.power.restart();
    b.disk.kill();
    assert!(file.sync().is_err() && file.write_at(0, &filled(6, 1)).is_err() && file.size().is_err());
    let file = b.disk.open("a").unwrap();
    assert_eq!((read(&file), b.disk.unsynced_blocks()), (filled(5, 1), 1));
    assert_eq!(read(&b.disk.durable_copy().open("a").unwrap()), filled(0, 1));
    file.sync().unwrap();
    assert_eq!(read(&b.disk.durable_copy().open("a").unwrap()), filled(5, 1));
}

#[test]
fn after_a_failed_sync_a_second_one_lies() {
    let mut lost = 0;
    for seed in 0..50 {
        let mut b = bench(DiskFaults::default());
        b.disk.shared.state.lock().rng = Rng::new(seed);
        let file = b.disk.create("a", 4 * B).unwrap();
        file.write_at(0, &filled(1, 4)).unwrap();
        b.disk.fail_next_sync();
        assert!(file.sync().is_err());
        assert_eq!(read(&file), filled(1, 4), "still in the page cache");
        file.sync().unwrap();
        b.power.restart();
        b.disk.crash(&mut Rng::new(seed));
        lost += u32::from(read(&b.disk.open("a").unwrap()) != filled(1, 4));
    }
    assert!(lost > 25, "{lost} of 50");
}

#[test]
fn a_block_written_again_after_a_failed_sync_is_durable_after_the_next() {
    let b = bench(DiskFaults { failed_sync: Chance::ALWAYS, ..DiskFaults::default() });
    let file = b.disk.create("a", B).unwrap();
    file.write_at(0, &filled(1, 1)).unwrap();
    assert!(file.sync().is_err());
    b.disk.set_faults(DiskFaults::default());
    file.write_at(0, &filled(2, 1)).unwrap();
    file.sync().unwrap();
    assert_eq!(read(&b.disk.durable_copy().open("a").unwrap()), filled(2, 1));
}

#[test]
fn a_failed_write_leaves_a_leading_part() {
    let b = bench(DiskFaults { failed_write: Chance::ALWAYS, ..DiskFaults::default() });
    let mut parts = std::collections::BTreeSet::new();
    for i in 0..100 {
        let file = b.disk.create(&format!("{i}"), 3 * B).unwrap();
        assert!(file.write_at(0, &filled(1, 3)).is_err());
        let bytes = read(&file);
        let part = bytes.iter().filter(|&&b| b == 1).count() / BLOCK;
        assert_eq!(bytes, [filled(1, part), filled(0, 3 - part)].concat());
        parts.insert(part);
    }
    assert_eq!(parts.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn a_full_disk_leaves_nothing_and_a_removal_makes_room() {
    let b = bench(DiskFaults { capacity: Some(3 * B), ..DiskFaults::default() });
    b.disk.create("a", 2 * B).unwrap();
    assert_eq!(b.disk.create("b", 2 * B).err().unwrap().kind(), ErrorKind::StorageFull);
    assert_eq!(b.disk.list().unwrap(), ["a"]);
    b.disk.create("c", B).unwrap();
    b.disk.remove("a").unwrap();
    b.disk.create("b", 2 * B).unwrap();
    assert_eq!(b.disk.list().unwrap(), ["b", "c"]);
}

#[test]
fn the_latest_removals_may_be_undone_until_a_creation() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let mut b = bench(DiskFaults::default());
        for name in ["a", "b", "c"] {
            b.disk.create(name, B).unwrap();
        }
        b.disk.remove("a").unwrap();
        b.disk.create("d", B).unwrap();
        b.disk.remove("b").unwrap();
        b.disk.remove("c").unwrap();
        b.power.restart();
        b.disk.crash(&mut Rng::new(seed));
        seen.insert(b.disk.list().unwrap().concat());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["bcd", "cd", "d"]);
}

#[test]
fn slow_operations_take_simulated_time() {
    let b = bench(DiskFaults { slow: Chance::ALWAYS, slow_us: 50, ..DiskFaults::default() });
    let file = b.disk.create("a", B).unwrap();
    for _ in 0..10 {
        file.sync().unwrap();
    }
    let us = sluice_pipeline::Clock::monotonic_us(&b.clock);
    assert!((10..=500).contains(&us), "{us}");
}

#[test]
fn a_power_cut_stops_everything_in_the_middle_of_a_write() {
    for blocks_before in 0..3 {
        let mut b = bench(DiskFaults::default());
        let file = b.disk.create("a", 4 * B).unwrap();
        b.power.cut_after(blocks_before);
        for _ in 0..blocks_before {
            file.sync().unwrap();
        }
        assert!(file.write_at(0, &filled(1, 4)).is_err());
        assert!(b.power.is_cut() && b.disk.list().is_err() && b.disk.create("z", B).is_err());
        b.power.restart();
        b.disk.crash(&mut Rng::new(9));
        assert_eq!(b.disk.list().unwrap(), ["a"]);
        assert!(file.size().is_err());
    }
}

#[test]
fn rot_is_where_it_was_asked_for_and_stays() {
    let mut b = bench(DiskFaults::default());
    let file = b.disk.create("a", 2 * B).unwrap();
    file.write_at(0, &filled(1, 1)).unwrap();
    file.sync().unwrap();
    assert_eq!(b.disk.durable_blocks("a"), [0]);
    assert!(b.disk.corrupt("a", 100) && !b.disk.corrupt("a", 2 * B) && !b.disk.corrupt("b", 0));
    b.power.restart();
    b.disk.crash(&mut Rng::new(1));
    let bytes = read(&b.disk.open("a").unwrap());
    let wrong: Vec<_> = (0..BLOCK).filter(|&i| bytes[i] != 1).collect();
    assert_eq!((wrong, bytes[100]), (vec![100], 0x11));
}
