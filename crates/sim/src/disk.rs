//! A disk in memory that fails the way disks fail.
//!
//! # Fault model
//! A file has a durable layer and, above it, what was written since the last successful sync, in blocks of
//! [`BLOCK`](sluice_pipeline::BLOCK) bytes. What can happen to them:
//!
//! - **Process killed** ([`SimDisk::kill`]): every write stays readable, none of it is any more durable than before. A
//!   recovery that builds on what it read without a sync of its own builds on sand.
//! - **Power lost** ([`SimDisk::crash`]): each block that was not synced becomes, independently, its newest version, its
//!   durable one, any version written in between, or a mixture by sectors of 512 bytes. How much survives is drawn once
//!   a crash: nothing, everything, what was written up to some moment (the last write torn), or any part. A sector is
//!   never mixed within itself. Synced blocks are never touched by a crash, unless they were written again.
//! - **Names**: a created file is durable on return. A removal is durable only once a later creation is, until then a
//!   power loss may undo the latest removals, as a journalling file system does: never an earlier one without the later.
//! - **Failed sync** (EIO): each unsynced block ends up durable, lost or torn, as after a crash; yet until the machine
//!   stops it still reads as written, and a second sync says all is well. This is what Linux does, and why a failed
//!   sync must never be tried again.
//! - **Failed write** (EIO): any number of the leading blocks were written.
//! - **Full disk** (ENOSPC): a creation beyond [`DiskFaults::capacity`] fails and leaves nothing. Space is reserved by
//!   creating a file, so a write never runs out of it.
//! - **Slow operations**: writes and syncs that take up to [`DiskFaults::slow_us`], on the simulated clock.
//! - **Power cut within an operation** ([`Power::cut_after`]): a write or creation happens in part or not at all, a sync
//!   has not returned.
//! - **Rot**: only where a test asks for it ([`SimDisk::corrupt`]); a crash never makes any.
//!
//! Not modelled: misdirected writes, reads that differ from one to the next, lost directories.
//!
//! Writes that don't begin and end at a multiple of the block are a bug of the caller: a panic in debug builds, else an
//! error. The alignment of the buffer in memory is not looked at.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, ErrorKind},
    sync::Arc,
};

use parking_lot::Mutex;
use sluice_pipeline::{BLOCK, Disk, DiskFile};

use crate::{
    clock::SimClock,
    digest::Digest,
    power::{Power, Pulse, gone},
    rng::{Chance, Rng},
    trace::Trace,
};

/// What a crash leaves whole, bytes.
const SECTOR: usize = 512;

/// What goes wrong on a disk, and how often. The default is a disk without faults and without end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskFaults {
    /// Bytes that all files together may reserve; `None` for no bound.
    pub capacity: Option<u64>,
    /// A sync that fails.
    pub failed_sync: Chance,
    /// A write that fails.
    pub failed_write: Chance,
    /// A write or sync that is slow.
    pub slow: Chance,
    /// The longest a slow one takes, µs.
    pub slow_us: u64,
}

/// What a crash did to the blocks that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrashReport {
    /// Blocks that kept their newest version.
    pub kept: u64,
    /// Blocks that went back to their durable version.
    pub dropped: u64,
    /// Blocks that became something in between.
    pub torn: u64,
    /// Removed files that came back.
    pub files_back: u64,
}

type Block = Arc<[u8; BLOCK]>;

/// A handle of a disk, valid for one life of its computer. Clones are of the same life.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
    life: u64,
}

struct Shared {
    power: Power,
    clock: SimClock,
    trace: Trace,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    faults: DiskFaults,
    fail_next_sync: bool,
    fail_next_write: bool,
    names: BTreeMap<String, Arc<Mutex<Content>>>,
    /// Removals that a power loss may undo, oldest first.
    removed: Vec<(String, Arc<Mutex<Content>>)>,
    writes: u64,
}

#[derive(Default)]
struct Content {
    len: u64,
    durable: BTreeMap<u64, Block>,
    /// Unsynced versions of a block, oldest first, each with the number of its write.
    unsynced: BTreeMap<u64, Vec<(u64, Block)>>,
    /// What still reads as written though a failed sync has lost it.
    ghosts: BTreeMap<u64, Block>,
}

/// How much a crash leaves of what was not synced.
enum Survival {
    Nothing,
    Everything,
    /// Writes before this one; of this one, some blocks torn.
    Until(u64),
    Some(Chance),
}

fn zeroes() -> Block {
    Arc::new([0; BLOCK])
}

impl Content {
    fn read(&self, block: u64) -> Option<&Block> {
        let newest = self.unsynced.get(&block).and_then(|v| v.last()).map(|v| &v.1);
        newest.or_else(|| self.ghosts.get(&block)).or_else(|| self.durable.get(&block))
    }

    /// Makes of every unsynced block what `survival` and chance leave of it.
    fn settle(&mut self, survival: &Survival, rng: &mut Rng, report: &mut CrashReport) {
        for (number, versions) in std::mem::take(&mut self.unsynced) {
            let old = self.durable.get(&number).cloned().unwrap_or_else(zeroes);
            let left = surviving(&old, &versions, survival, rng);
            if versions.last().is_some_and(|newest| newest.1 == left) {
                report.kept += 1;
            } else if left == old {
                report.dropped += 1;
            } else {
                report.torn += 1;
            }
            self.durable.insert(number, left);
        }
    }
}

fn surviving(old: &Block, versions: &[(u64, Block)], survival: &Survival, rng: &mut Rng) -> Block {
    let newest = versions.last().map_or(old, |v| &v.1);
    match *survival {
        Survival::Nothing => old.clone(),
        Survival::Everything => newest.clone(),
        Survival::Until(write) => {
            let whole = versions.iter().rev().find(|v| v.0 < write).map_or(old, |v| &v.1);
            match versions.iter().find(|v| v.0 == write) {
                Some(last) if rng.coin() => mixed(&[whole, &last.1], rng),
                Some(last) if rng.coin() => last.1.clone(),
                _ => whole.clone(),
            }
        }
        Survival::Some(chance) => {
            let all: Vec<&Block> = std::iter::once(old).chain(versions.iter().map(|v| &v.1)).collect();
            match rng.below(4) {
                0 => mixed(&all, rng),
                1 => rng.pick(&all).map_or_else(|| old.clone(), |&b| b.clone()),
                _ if rng.hits(chance) => newest.clone(),
                _ => old.clone(),
            }
        }
    }
}

/// Each sector from any of `versions`.
fn mixed(versions: &[&Block], rng: &mut Rng) -> Block {
    let mut block = [0; BLOCK];
    for start in (0..BLOCK).step_by(SECTOR) {
        if let Some(from) = rng.pick(versions) {
            block[start..start + SECTOR].copy_from_slice(&from[start..start + SECTOR]);
        }
    }
    Arc::new(block)
}

impl SimDisk {
    /// An empty disk. Its own faults are drawn from `rng`, forked as `disk`.
    pub fn new(faults: DiskFaults, rng: &Rng, power: Power, clock: SimClock, trace: Trace) -> Self {
        let life = power.life();
        let state = State {
            rng: rng.fork("disk"),
            faults,
            fail_next_sync: false,
            fail_next_write: false,
            names: BTreeMap::new(),
            removed: Vec::new(),
            writes: 0,
        };
        Self { shared: Arc::new(Shared { power, clock, trace, state: Mutex::new(state) }), life }
    }

    /// The power is lost and comes back: draws what is left of everything that was not durable. Other handles and all
    /// open files are dead when the caller has restarted the [`Power`]; this handle belongs to the next life.
    pub fn crash(&mut self, rng: &mut Rng) -> CrashReport {
        let state = &mut *self.shared.state.lock();
        let survival = match rng.below(4) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 => Survival::Until(state.writes.saturating_sub(rng.below(8))),
            _ => Survival::Some(Chance::percent(rng.below(101) as u32)),
        };
        let mut report = CrashReport::default();
        let undone = rng.below(state.removed.len() as u64 + 1);
        for (name, content) in state.removed.split_off(state.removed.len() - undone as usize) {
            state.names.insert(name, content);
            report.files_back += 1;
        }
        state.removed.clear();
        for content in state.names.values() {
            let content = &mut *content.lock();
            content.ghosts.clear();
            content.settle(&survival, rng, &mut report);
        }
        let CrashReport { kept, dropped, torn, files_back } = report;
        self.shared.trace.line(format_args!(
            "disk: power lost, unsynced blocks kept {kept} dropped {dropped} torn {torn}, files back {files_back}"
        ));
        self.life = self.shared.power.life();
        report
    }

    /// The process is killed and the machine stays up: nothing is lost and nothing becomes durable. This handle belongs
    /// to the next life.
    pub fn kill(&mut self) {
        self.life = self.shared.power.life();
    }

    /// Replaces the faults from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        let state = &mut *self.shared.state.lock();
        state.faults = faults;
        (state.fail_next_sync, state.fail_next_write) = (false, false);
    }

    /// The next sync fails.
    pub fn fail_next_sync(&self) {
        self.shared.state.lock().fail_next_sync = true;
    }

    /// The next write fails.
    pub fn fail_next_write(&self) {
        self.shared.state.lock().fail_next_write = true;
    }

    /// Flips one bit of the byte at `offset`, in every layer: it rots, and no sync or crash mends it. False if there is
    /// no such byte.
    pub fn corrupt(&self, name: &str, offset: u64) -> bool {
        let state = self.shared.state.lock();
        let Some(content) = state.names.get(name) else { return false };
        let content = &mut *content.lock();
        if offset >= content.len {
            return false;
        }
        let (number, at) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
        let rot = |block: &mut Block| Arc::make_mut(block)[at] ^= 0x10;
        rot(content.durable.entry(number).or_insert_with(zeroes));
        content.unsynced.get_mut(&number).into_iter().flatten().for_each(|v| rot(&mut v.1));
        content.ghosts.get_mut(&number).into_iter().for_each(rot);
        self.shared.trace.line(format_args!("disk: rot in {name} at {offset}"));
        true
    }

    /// Offsets of the blocks of `name` that a sync has made durable, ascending: where rot can be planted.
    pub fn durable_blocks(&self, name: &str) -> Vec<u64> {
        let state = self.shared.state.lock();
        let content = state.names.get(name).map(|c| c.lock());
        content.map_or_else(Vec::new, |c| c.durable.keys().map(|n| n * BLOCK as u64).collect())
    }

    /// Blocks written and not synced, over all files.
    pub fn unsynced_blocks(&self) -> usize {
        self.shared.state.lock().names.values().map(|c| c.lock().unsynced.len()).sum()
    }

    /// Another disk, without faults, that holds what is durable now and nothing more: what a reader would find if the
    /// power failed at this moment and every unsynced block were lost.
    #[must_use]
    pub fn durable_copy(&self) -> SimDisk {
        let (clock, trace) = (self.shared.clock.clone(), Trace::digest_only());
        let copy = SimDisk::new(DiskFaults::default(), &Rng::new(0), Power::default(), clock, trace);
        for (name, content) in &self.shared.state.lock().names {
            let content = content.lock();
            let kept = Content { len: content.len, durable: content.durable.clone(), ..Content::default() };
            copy.shared.state.lock().names.insert(name.clone(), Arc::new(Mutex::new(kept)));
        }
        copy
    }

    fn file(&self, name: &str, content: &Arc<Mutex<Content>>) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), name: name.to_owned(), content: Arc::clone(content) })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.shared.state.lock().names.keys().cloned().collect();
        f.debug_struct("SimDisk").field("life", &self.life).field("names", &names).finish()
    }
}

impl Shared {
    /// Lets a slow operation take its time.
    fn dawdle(&self, state: &mut State) {
        if state.rng.hits(state.faults.slow) {
            let us = state.rng.between(1, state.faults.slow_us);
            self.clock.advance_us(us);
            self.trace.line(format_args!("disk: slow, {us} µs"));
        }
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let pulse = self.shared.power.pulse(self.life)?;
        let state = &mut *self.shared.state.lock();
        let trace = &self.shared.trace;
        if state.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let used: u64 = state.names.values().map(|c| c.lock().len).sum();
        if state.faults.capacity.is_some_and(|most| used.saturating_add(len) > most) {
            trace.line(format_args!("disk: create {name} {len}: no space, {used} used"));
            return Err(ErrorKind::StorageFull.into());
        }
        if pulse == Pulse::Cut && state.rng.coin() {
            trace.line(format_args!("disk: create {name} {len}: power cut before"));
            return Err(gone());
        }
        let content = Arc::new(Mutex::new(Content { len, ..Content::default() }));
        state.names.insert(name.to_owned(), Arc::clone(&content));
        // One folder, one journal of names: what came before this creation is as durable as this.
        state.removed.clear();
        if pulse == Pulse::Cut {
            trace.line(format_args!("disk: create {name} {len}: power cut after"));
            return Err(gone());
        }
        trace.line(format_args!("disk: create {name} {len}"));
        Ok(self.file(name, &content))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.shared.power.check(self.life)?;
        let state = self.shared.state.lock();
        let content = state.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(self.file(name, content))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.shared.power.check(self.life)?;
        Ok(self.shared.state.lock().names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let pulse = self.shared.power.pulse(self.life)?;
        let state = &mut *self.shared.state.lock();
        let content = state.names.remove(name).ok_or(ErrorKind::NotFound)?;
        state.removed.push((name.to_owned(), content));
        self.shared.trace.line(format_args!("disk: remove {name}: {pulse:?}"));
        if pulse == Pulse::Cut { Err(gone()) } else { Ok(()) }
    }
}

struct SimFile {
    disk: SimDisk,
    name: String,
    content: Arc<Mutex<Content>>,
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let aligned = offset.is_multiple_of(BLOCK as u64) && rest.is_empty();
        debug_assert!(aligned, "unaligned write of {} bytes at {offset} of {}", bytes.len(), self.name);
        let shared = &*self.disk.shared;
        let pulse = shared.power.pulse(self.disk.life)?;
        let state = &mut *shared.state.lock();
        let content = &mut *self.content.lock();
        if !aligned || offset.saturating_add(bytes.len() as u64) > content.len {
            return Err(ErrorKind::InvalidInput.into());
        }
        shared.dawdle(state);
        let failed = state.rng.hits(state.faults.failed_write) || std::mem::take(&mut state.fail_next_write);
        let whole = pulse == Pulse::Steady && !failed;
        let done = if whole { blocks.len() } else { state.rng.below(blocks.len() as u64 + 1) as usize };
        state.writes += 1;
        for (number, block) in (offset / BLOCK as u64..).zip(&blocks[..done]) {
            content.ghosts.remove(&number);
            content.unsynced.entry(number).or_default().push((state.writes, Arc::new(*block)));
        }
        shared.trace.line(format_args!(
            "disk: write {} at {offset}, {done} of {} blocks, digest {:016x}",
            self.name,
            blocks.len(),
            Digest::of(bytes)
        ));
        match (pulse, failed) {
            (Pulse::Cut, _) => Err(gone()),
            (Pulse::Steady, true) => Err(io::Error::other("the device failed to write")),
            (Pulse::Steady, false) => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let shared = &*self.disk.shared;
        let pulse = shared.power.pulse(self.disk.life)?;
        if pulse == Pulse::Cut {
            // The crash that follows draws which blocks got through.
            shared.trace.line(format_args!("disk: sync {}: power cut", self.name));
            return Err(gone());
        }
        let state = &mut *shared.state.lock();
        let content = &mut *self.content.lock();
        shared.dawdle(state);
        let count = content.unsynced.len();
        if state.rng.hits(state.faults.failed_sync) || std::mem::take(&mut state.fail_next_sync) {
            for (&number, versions) in &content.unsynced {
                if let Some((_, newest)) = versions.last() {
                    content.ghosts.insert(number, newest.clone());
                }
            }
            let survival = Survival::Some(Chance::percent(state.rng.below(101) as u32));
            content.settle(&survival, &mut state.rng, &mut CrashReport::default());
            shared.trace.line(format_args!("disk: sync {} FAILED, {count} blocks", self.name));
            return Err(io::Error::other("the device failed to sync"));
        }
        for (number, versions) in std::mem::take(&mut content.unsynced) {
            content.durable.extend(versions.last().map(|newest| (number, newest.1.clone())));
        }
        shared.trace.line(format_args!("disk: sync {}, {count} blocks", self.name));
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk.shared.power.check(self.disk.life)?;
        let content = self.content.lock();
        let len = (content.len.saturating_sub(offset)).min(into.len() as u64) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % BLOCK as u64) as usize;
            let step = (BLOCK - within).min(len - done);
            match content.read(at / BLOCK as u64) {
                Some(block) => into[done..done + step].copy_from_slice(&block[within..within + step]),
                None => into[done..done + step].fill(0),
            }
            done += step;
        }
        Ok(len)
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.shared.power.check(self.disk.life)?;
        Ok(self.content.lock().len)
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
