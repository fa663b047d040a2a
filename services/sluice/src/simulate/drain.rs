//! The orderly end of a life: no new orders, then no input at all, owners finish their queues, the journal seals itself.
//! Whoever waits for an answer gets one.

use sluice_domain::invariants::Invariant;
use sluice_pipeline::LogError;
use sluice_sim::Violation;

use super::{looks::broken, steps::Part, world::World};

/// Steps that what is in flight gets before input ends.
const GRACE: u64 = 300;
/// An owner that needs more turns than this to finish its queue never ends.
const TURNS: u32 = 20_000;

impl World {
    /// Ends this life as a shutdown does, and begins the next. A device that fails on the way makes it a crash.
    pub(super) fn drain(&mut self) -> Result<(), Violation> {
        self.trace.line(format_args!("the process is asked to end"));
        let lives = self.tally.crashes();
        if let Some(life) = &self.life {
            life.engine.stop_orders();
        }
        for _ in 0..self.rng.below(GRACE) {
            if self.is_failing(lives) {
                return self.give_up(lives);
            }
            let part = self.schedule.pick(&mut self.rng);
            if part.is_some_and(|part| part != Part::Clock) {
                part.map(|part| self.turn(part)).transpose()?;
            }
        }
        if let Some(life) = &mut self.life {
            life.couriers.clear();
            life.engine.close();
        }
        if self.finish_queues(lives)? && self.finish_journal(lives)? {
            self.hear_all()?;
        }
        self.give_up(lives)
    }

    /// Ends this life, unless it has ended meanwhile.
    fn give_up(&mut self, lives: u64) -> Result<(), Violation> {
        if self.tally.crashes() == lives { self.crash(false) } else { Ok(()) }
    }

    /// True if this life, which began after so many crashes, is ending or has ended.
    fn is_failing(&self, lives: u64) -> bool {
        self.machine.power_is_cut()
            || self.tally.crashes() != lives
            || self.life.as_ref().is_none_or(|life| life.steps_left.is_some())
    }

    /// Owners and the writer in turn, until every owner has ended; false if a device failed meanwhile.
    fn finish_queues(&mut self, lives: u64) -> Result<bool, Violation> {
        for _ in 0..TURNS {
            let Some(life) = &mut self.life else { return Ok(false) };
            if life.owners.iter().all(Option::is_none) {
                return Ok(true);
            }
            let n = self.rng.below(life.owners.len() as u64) as usize;
            let Some(slot) = life.owners.get_mut(n) else { continue };
            match slot.as_mut().map(|owner| owner.step()) {
                Some(Err(LogError::Closed)) => *slot = None,
                Some(Err(error)) => {
                    *slot = None;
                    self.failed(format_args!("owner {n}"), &error)?;
                }
                Some(Ok(_)) | None => {}
            }
            for part in [Part::Writer, Part::Checkpointer] {
                self.turn(part)?;
            }
            if self.is_failing(lives) {
                return Ok(false);
            }
        }
        let life = self.life.as_ref().map(|life| life.describe()).unwrap_or_default();
        broken(Invariant::Bounded, format!("an owner never ends though its queue was closed: {life}"))
    }

    /// The journal writes what is left and seals itself; false if a device failed meanwhile.
    fn finish_journal(&mut self, lives: u64) -> Result<bool, Violation> {
        let Some(life) = &self.life else { return Ok(false) };
        life.engine.journal().close();
        for _ in 0..TURNS {
            if self.is_failing(lives) {
                return Ok(false);
            }
            let writer = self.life.as_ref().and_then(|life| life.writer.as_ref());
            if writer.is_some_and(|writer| writer.is_done()) {
                return Ok(true);
            }
            self.turn(Part::Writer)?;
        }
        broken(Invariant::Bounded, "the journal never ends though it was closed".to_owned())
    }

    /// Nobody is left without an answer.
    fn hear_all(&mut self) -> Result<(), Violation> {
        while self.turn(Part::Hear)? || self.turn(Part::Wish)? {}
        match self.clients.waiting() + self.merchants.waiting() {
            0 => {
                self.trace.line(format_args!("the process has ended in order"));
                self.tally.drains += 1;
                Ok(())
            }
            n => {
                broken(Invariant::DurableBeforeAck, format!("{n} clients were never answered by a process that ended"))
            }
        }
    }
}
