//! How long to wait before something that failed is tried again: capped, exponential, and fully jittered, so that what failed
//! together does not come back together.

use std::time::Duration;

/// Whole µs of a duration.
fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The spacing of retries.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Upper end of the first wait. Default 50 ms.
    pub base: Duration,
    /// Upper end of any wait. Default 10 s.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(50), cap: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The longest wait after `failures` failures (at least 1), µs.
    pub fn ceiling_us(&self, failures: u32) -> u64 {
        let doubled = us(self.base).saturating_mul(1 << failures.saturating_sub(1).min(40));
        doubled.min(us(self.cap))
    }

    /// A wait drawn evenly from nothing up to the longest, µs.
    pub fn wait_us(&self, failures: u32, chance: &mut Seeded) -> u64 {
        chance.up_to(self.ceiling_us(failures))
    }
}

/// The only source of chance: SplitMix64, so that one seed replays one run on every machine.
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// A generator that follows from `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number in `0..=most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        ((u128::from(self.bits()) * (u128::from(most) + 1)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_fill_the_whole_range() {
        let backoff = Backoff::default();
        assert_eq!(backoff.ceiling_us(1), 50_000);
        assert_eq!(backoff.ceiling_us(2), 100_000);
        assert_eq!(backoff.ceiling_us(8), 6_400_000);
        for failures in [9, 40, 41, 42, u32::MAX] {
            assert_eq!(backoff.ceiling_us(failures), 10_000_000);
        }
        let mut chance = Seeded::new(7);
        let waits: Vec<_> = (0..1_000).map(|_| backoff.wait_us(3, &mut chance)).collect();
        assert!(waits.iter().all(|w| *w <= 200_000));
        assert!(waits.iter().any(|w| *w < 10_000) && waits.iter().any(|w| *w > 190_000));
        assert_eq!(Seeded::new(1).up_to(0), 0);
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            (0..8)
                .map({
                    let mut s = Seeded::new(seed);
                    move |_| s.bits()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
