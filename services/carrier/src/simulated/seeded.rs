//! Chance that can be repeated: every draw of a simulated carrier comes from its seed, never from the machine.

/// SplitMix64: eight bytes of state, good enough for fault rates, and the same on every platform.
#[derive(Debug, Clone)]
pub(super) struct Seeded(u64);

impl Seeded {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `0.0..1.0`.
    pub(super) fn unit(&mut self) -> f64 {
        unit(self.next())
    }

    /// Uniform in `0..=most` (to within 2⁻⁶⁴ · `most`).
    pub(super) fn up_to(&mut self, most: u64) -> u64 {
        let wide = u128::from(self.next()) * (u128::from(most) + 1);
        (wide >> 64) as u64
    }
}

/// The seed of one carrier: another one for each id and each seed of the run.
pub(super) fn carrier_seed(run_seed: u64, carrier: &str) -> u64 {
    mix(run_seed ^ fingerprint(carrier).spare)
}

/// A draw that belongs to a thing rather than to a moment: uniform in `0.0..1.0`, the same whenever it is asked.
pub(super) fn unit_of(seed: u64, thing: &Fingerprint) -> f64 {
    unit(mix(seed ^ thing.spare))
}

fn unit(bits: u64) -> f64 {
    // The 53 bits that an f64 can hold exactly.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// 192 bits of BLAKE3 of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// What the memory of answers is keyed by.
    pub(super) key: [u64; 2],
    /// Independent of `key`: for draws and for the serial of the tracking number.
    pub(super) spare: u64,
}

/// The fingerprint of a shipment's or a carrier's id.
pub(super) fn fingerprint(id: &str) -> Fingerprint {
    let hash = blake3::hash(id.as_bytes());
    let mut words = [0_u64; 3];
    for (word, bytes) in words.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |acc, byte| (acc << 8) | u64::from(*byte));
    }
    Fingerprint { key: [words[0], words[1]], spare: words[2] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = |seed| {
            let mut seeded = Seeded::new(seed);
            [seeded.next(), seeded.next(), seeded.next()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_ne!(carrier_seed(1, "swift"), carrier_seed(1, "tortoise"));
        assert_ne!(carrier_seed(1, "swift"), carrier_seed(2, "swift"));
    }

    #[test]
    fn draws_are_spread_evenly() {
        let mut seeded = Seeded::new(1);
        let mut low = 0;
        for _ in 0..10_000 {
            let unit = seeded.unit();
            assert!((0.0..1.0).contains(&unit));
            low += u32::from(unit < 0.1);
            assert!(seeded.up_to(3) <= 3);
        }
        assert!((850..1150).contains(&low), "{low}");
        assert_eq!(seeded.up_to(0), 0);
    }
}
