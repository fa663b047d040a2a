//! The generator behind every draw of a simulation, forked by name, so that one more draw in one component leaves the
//! draws of all others as they were. It is written out here, not taken from a library, because a seed that showed a bug
//! must show it again after any update.

use crate::digest::{Digest, mix};

/// A chance in a million. Draws compare with it without floating point, so they are the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Chance(u32);

impl Chance {
    /// What never happens.
    pub const NEVER: Chance = Chance(0);
    /// What always happens.
    pub const ALWAYS: Chance = Chance(1_000_000);

    /// `n` in a million; more than a million is always.
    pub const fn ppm(n: u32) -> Self {
        Self(if n < 1_000_000 { n } else { 1_000_000 })
    }

    /// `n` in a hundred; more than a hundred is always.
    pub const fn percent(n: u32) -> Self {
        Self::ppm(n.saturating_mul(10_000))
    }

    /// The number out of a million.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014): 64 bits of state, passes BigCrush, and splits by choosing another seed.
#[derive(Debug, Clone)]
pub struct Rng {
    seed: u64,
    state: u64,
}

impl Rng {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: mix(seed ^ 0x5107_ce00_5107_ce00) }
    }

    /// Another generator, a function of this one's seed and `name` only: what was drawn before doesn't matter.
    #[must_use]
    pub fn fork(&self, name: &str) -> Self {
        let mut digest = Digest::default();
        digest.number(self.seed);
        digest.bytes(name.as_bytes());
        Self::new(digest.value())
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number from 0 to `n - 1`; 0 if `n` is 0. The bias is below n / 2⁶⁴.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included; `low` if they are the wrong way round.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True with the given chance. Draws even when the chance is nil, so turning a fault off shifts no later draw.
    pub fn hits(&mut self, chance: Chance) -> bool {
        self.below(1_000_000) < u64::from(chance.0)
    }

    /// True half of the time.
    pub fn coin(&mut self) -> bool {
        self.bits() >> 63 == 1
    }

    /// One of `choices`; `None` only if there is none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        choices.get(self.below(choices.len() as u64) as usize)
    }

    /// Puts `items` into a uniform random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..100).map(|_| rng.bits()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        // Frozen: a seed in an old report must still mean the same run.
        assert_eq!(draw(7)[..2], [0x807f_a614_3109_db07, 0x82c3_a7d0_5e1e_39df]);
    }

    #[test]
    fn forks_depend_on_the_name_and_not_on_earlier_draws() {
        let fresh = Rng::new(1);
        let mut used = Rng::new(1);
        used.bits();
        assert_eq!(fresh.fork("disk").bits(), used.fork("disk").bits());
        assert_ne!(fresh.fork("disk").bits(), fresh.fork("store").bits());
        assert_ne!(fresh.fork("a").fork("b").bits(), fresh.fork("b").fork("a").bits());
    }

    #[test]
    fn draws_keep_their_bounds_and_chances() {
        let mut rng = Rng::new(3);
        assert_eq!((rng.below(0), rng.below(1), rng.between(5, 5), rng.between(6, 5)), (0, 0, 5, 6));
        assert!((0..1_000).all(|_| (10..=12).contains(&rng.between(10, 12))));
        assert_ne!(rng.between(0, u64::MAX), rng.between(0, u64::MAX));
        assert!((0..1_000).all(|_| !rng.hits(Chance::NEVER) && rng.hits(Chance::ALWAYS)));
        let hits = (0..100_000).filter(|_| rng.hits(Chance::percent(30))).count();
        assert!((29_000..31_000).contains(&hits), "{hits}");
        assert_eq!(rng.pick::<u8>(&[]), None);
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut rng = Rng::new(4);
        let mut items: Vec<_> = (0..50).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
