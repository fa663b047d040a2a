//! Damage where no crash can cause any: one bit of a group that others follow. It must stop the open, and be named.

use sluice_domain::invariants::Invariant;
use sluice_engine_embedded::{
    Engine,
    journal::{format::GROUP_HEAD, recovery::Scan, segment_name},
    journal_start,
};
use sluice_pipeline::LogError;
use sluice_sim::{Chance, Violation, oracle::Rot};

use super::{looks::broken, world::World};

/// Of the runs, so many have a group's head rot while work goes on.
const ROTTEN_RUNS: Chance = Chance::percent(10);
/// Wishes that merchants still have when the run is at rest.
const LAST_WISHES: u32 = 8;

impl World {
    /// Between two lives: in some runs the head of a group rots, of any but the last. Recovery may read it, or an outbox
    /// that has fallen behind; whoever does must name it, and nobody may pass over it.
    pub(super) fn rot_if_due(&mut self) {
        let mut chance = self.plan.rng("rot");
        if self.healed || self.rot.is_some() || !chance.hits(ROTTEN_RUNS) || !self.rng.coin() {
            return;
        }
        // Bytes of orders are left alone: reading one order doesn't look at its group's checksum.
        let groups = self.groups().unwrap_or_default();
        let Some((_, groups)) = groups.split_last() else { return };
        let Some(&(position, _)) = self.rng.pick(groups) else { return };
        let at = position + self.rng.below(GROUP_HEAD as u64);
        let segment_bytes = self.config.journal.segment_bytes;
        let rot = Rot { file: segment_name(at / segment_bytes), offset: at % segment_bytes };
        self.machine.sim_disk().corrupt(&rot.file, rot.offset);
        self.rot = Some(rot);
    }

    /// Flips one bit in a group that recovery reads, other than the last, and opens once more. What a journal holds
    /// before its last checkpoint is not read by an open, so damage there is not looked for here.
    pub(super) fn check_rot(&mut self) -> Result<(), Violation> {
        if self.rot.is_some() {
            return Ok(());
        }
        self.write_past_checkpoint()?;
        self.life = None;
        self.machine.kill();
        let opened = Engine::open(self.config.clone(), self.machine.disk(), self.machine.store(), self.machine.clock());
        let replayed = match opened {
            Ok(opened) => opened.recovered.groups as usize,
            Err(error) => return self.excuse(&error),
        };
        let groups = match self.groups() {
            Ok(groups) => groups,
            Err(error) => return broken(Invariant::TornIsNotRot, format!("the journal can't be read: {error}")),
        };
        // A last group that has rotted looks like one that was never finished.
        let read = &groups[groups.len() - replayed.min(groups.len())..];
        let Some((_, read)) = read.split_last() else { return Ok(()) };
        let Some(&(position, len)) = self.rng.pick(read) else { return Ok(()) };
        let (at, segment_bytes) = (position + self.rng.below(len), self.config.journal.segment_bytes);
        let rot = Rot { file: segment_name(at / segment_bytes), offset: at % segment_bytes };
        self.machine.sim_disk().corrupt(&rot.file, rot.offset);
        self.machine.kill();
        let opened = Engine::open(self.config.clone(), self.machine.disk(), self.machine.store(), self.machine.clock());
        self.trace.line(format_args!("opened over rot: {:?}", opened.as_ref().map(|o| o.recovered)));
        self.oracle.opened(opened.as_ref().map(|_| ()), Some(&rot))?;
        self.tally.rot_found += 1;
        Ok(())
    }

    /// Merchants have a last word, and no checkpoint comes after it: the next open has groups to read.
    fn write_past_checkpoint(&mut self) -> Result<(), Violation> {
        if let Some(life) = &mut self.life {
            life.checkpointer = None;
        }
        self.merchants.wish_again(LAST_WISHES);
        self.rest()
    }

    /// Start and length of every group of the journal, oldest first.
    fn groups(&self) -> Result<Vec<(u64, u64)>, LogError> {
        let config = &self.config.journal;
        let id = self.config.journal_id.unwrap_or_default();
        let start = if self.config.retention.is_on() { journal_start(&*self.machine.store())? } else { (0, 1) };
        let mut scan = Scan::new(self.machine.disk(), config.segment_bytes, id, start.0, start, true)?;
        let mut groups = Vec::new();
        while let Ok(group) = scan.next_group()? {
            groups.push((group.position, (GROUP_HEAD + group.payload) as u64));
        }
        Ok(groups)
    }
}
