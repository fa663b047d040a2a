//! What was acknowledged, compactly: the only evidence that conservation is judged by, so it belongs to the client alone
//! and survives whatever happens to the server.

/// Bytes that one acknowledgement takes: id 16, merchant 4, sequence number 4.
pub const BYTES_PER_ACK: usize = size_of::<Ack>();
/// The most acknowledgements that a log takes: 1.5 GiB of them.
pub const MAX_ACKS: u64 = 1 << 26;
/// Acknowledgements are kept in blocks of this many, so that growing never copies what is there.
const BLOCK: usize = 1 << 16;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// One acknowledged order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    // In halves, because a u128 is aligned to 16 bytes and would take 8 more.
    high: u64,
    low: u64,
    /// Index into the run's merchants.
    pub merchant: u32,
    /// The order's number within the run, modulo 2³².
    pub sequence: u32,
}

impl Ack {
    /// An acknowledgement of order `sequence` of the run, posted for the merchant at index `merchant`.
    #[must_use]
    pub fn new(id: u128, merchant: u32, sequence: u64) -> Self {
        Self { high: (id >> 64) as u64, low: id as u64, merchant, sequence: sequence as u32 }
    }

    /// The order's id.
    #[must_use]
    pub fn id(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

/// Every acknowledged order of a run, in the order of the answers. At most [`MAX_ACKS`] of [`BYTES_PER_ACK`] bytes.
#[derive(Debug, Default)]
pub struct AckLog {
    blocks: Vec<Vec<Ack>>,
    len: usize,
}

impl AckLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many orders were acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one. Runs are refused beforehand when they could exceed [`MAX_ACKS`].
    pub fn push(&mut self, ack: Ack) {
        match self.blocks.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(ack),
            _ => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(ack);
                self.blocks.push(block);
            }
        }
        self.len += 1;
    }

    /// The acknowledgement at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Ack> {
        self.blocks.get(index / BLOCK)?.get(index % BLOCK).copied()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Ack> {
        self.blocks.iter().flatten().copied()
    }

    /// At most `size` of them, every one with the same chance, drawn from `seed`, without repetition and in the order of
    /// the log.
    #[must_use]
    pub fn sample(&self, size: usize, seed: u64) -> Vec<Ack> {
        let mut wanted = size.min(self.len);
        let mut left = self.len;
        let mut random = Random::new(seed);
        let mut sample = Vec::with_capacity(wanted);
        for ack in self.iter() {
            // Selection sampling: of those left, each is equally likely to be among those still wanted.
            if random.below(left as u64) < wanted as u64 {
                sample.push(ack);
                wanted -= 1;
            }
            left -= 1;
        }
        sample
    }
}

impl FromIterator<Ack> for AckLog {
    fn from_iter<I: IntoIterator<Item = Ack>>(acks: I) -> Self {
        let mut log = Self::new();
        acks.into_iter().for_each(|ack| log.push(ack));
        log
    }
}

/// A small seeded generator (SplitMix64) for samples and jitter; nothing here needs more.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Reads the 26 characters of an order id (a ULID: Crockford's base 32, at most 128 bits). Lower case is taken too.
#[must_use]
pub fn parse_id(text: &[u8]) -> Option<u128> {
    const VALUE: [u8; 256] = {
        let mut table = [0xFF; 256];
        let mut value = 0;
        while value < 32 {
            let letter = ALPHABET[value];
            table[letter as usize] = value as u8;
            table[letter.to_ascii_lowercase() as usize] = value as u8;
            value += 1;
        }
        table
    };
    if text.len() != 26 {
        return None;
    }
    let mut id = 0u128;
    for (position, &letter) in text.iter().enumerate() {
        let value = *VALUE.get(letter as usize)?;
        // 26 characters hold 130 bits, so the first one has two too many.
        if value == 0xFF || (position == 0 && value > 7) {
            return None;
        }
        id = id << 5 | u128::from(value);
    }
    Some(id)
}

/// The 26 characters of an order id.
#[must_use]
pub fn format_id(mut id: u128) -> [u8; 26] {
    let mut text = [b'0'; 26];
    for letter in text.iter_mut().rev() {
        *letter = ALPHABET.get((id & 31) as usize).copied().unwrap_or(b'0');
        id >>= 5;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_takes_24_bytes_and_keeps_its_id() {
        assert_eq!(BYTES_PER_ACK, 24);
        let id = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210;
        let ack = Ack::new(id, 7, (1 << 32) + 5);
        assert_eq!((ack.id(), ack.merchant, ack.sequence), (id, 7, 5));
    }

    #[test]
    fn ids_round_trip() {
        for id in [0, 1, u128::MAX, 0x0193_1f2a_7c00_0017_dead_beef_0bad_cafe] {
            assert_eq!(parse_id(&format_id(id)), Some(id));
            assert_eq!(parse_id(&format_id(id).to_ascii_lowercase()), Some(id));
        }
        assert_eq!(&format_id(u128::MAX), b"7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(parse_id(b"8ZZZZZZZZZZZZZZZZZZZZZZZZZ"), None);
        assert_eq!(parse_id(b"0000000000000000000000000U"), None);
        assert_eq!(parse_id(b"000000000000000000000000"), None);
    }

    #[test]
    fn a_log_grows_over_blocks() {
        let log: AckLog = (0..BLOCK as u64 * 2 + 3).map(|n| Ack::new(u128::from(n), 0, n)).collect();
        assert_eq!(log.len(), BLOCK * 2 + 3);
        assert!(log.iter().enumerate().all(|(at, ack)| ack.id() == at as u128));
        assert_eq!(log.get(BLOCK).map(|ack| ack.id()), Some(BLOCK as u128));
        assert_eq!(log.get(log.len()), None);
    }

    #[test]
    fn a_sample_is_seeded_spread_and_without_repetition() {
        let log: AckLog = (0..10_000).map(|n| Ack::new(n, 0, n as u64)).collect();
        let ids = |seed| log.sample(1_000, seed).iter().map(Ack::id).collect::<Vec<_>>();
        let drawn = ids(1);
        assert_eq!(drawn.len(), 1_000);
        assert!(drawn.is_sorted_by(|a, b| a < b));
        assert!((400..600).contains(&drawn.iter().filter(|&&id| id < 5_000).count()));
        assert_eq!(drawn, ids(1));
        assert_ne!(drawn, ids(2));
        assert_eq!(log.sample(20_000, 1).len(), 10_000);
        assert!(AckLog::new().sample(5, 1).is_empty());
    }
}
