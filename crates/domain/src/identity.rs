//! Identity without coordination: every id is a function of the request, so any node gives a retry the same answer.

use std::{fmt, str::FromStr};

use ulid::Ulid;

/// 128 bits of BLAKE3 over (merchant, idempotency key). Two different requests collide with odds of 2⁻¹²⁸ a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

impl Fingerprint {
    /// The fingerprint of a merchant's key. The merchant's length goes first, so no two pairs share an input.
    pub fn of(merchant: &str, idempotency_key: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[merchant.len() as u8]);
        hasher.update(merchant.as_bytes());
        hasher.update(idempotency_key.as_bytes());
        let mut first = [0; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(u128::from_be_bytes(first))
    }

    /// The half that is not part of the order id.
    pub fn high(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The half that the order id carries as its hash.
    pub fn low(self) -> u64 {
        self.0 as u64
    }
}

/// How many slots a deployment has; fixed when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotCount(u16);

impl SlotCount {
    /// The default of a new deployment.
    pub const DEFAULT: SlotCount = SlotCount(1_024);

    /// A slot count, if it is a power of two from 1 to 32,768.
    pub fn new(count: u16) -> Option<Self> {
        count.is_power_of_two().then_some(Self(count))
    }

    /// The number itself.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The slot of a fingerprint.
    pub fn slot(self, fingerprint: Fingerprint) -> u16 {
        fingerprint.high() as u16 & (self.0 - 1)
    }
}

/// placed_at (ms, 48 bits) · slot (16) · hash (64). Shown as a ULID: 26 characters that sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u128);

impl OrderId {
    /// The id of the request with this fingerprint, placed at `placed_at_ms` (below 2⁴⁸).
    pub fn new(placed_at_ms: u64, fingerprint: Fingerprint, slots: SlotCount) -> Self {
        let slot = slots.slot(fingerprint);
        Self(u128::from(placed_at_ms) << 80 | u128::from(slot) << 64 | u128::from(fingerprint.low()))
    }

    /// ms since the Unix epoch.
    pub fn placed_at_ms(self) -> u64 {
        sluice_schemas::order::placed_at_ms(self.0)
    }

    /// The slot whose owner decides for this order.
    pub fn slot(self) -> u16 {
        (self.0 >> 64) as u16
    }

    /// Uniform bits for hash tables.
    pub fn hash64(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; ulid::ULID_LEN];
        f.write_str(Ulid(self.0).array_to_str(&mut text))
    }
}

/// Not an id that Sluice gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a {0}")]
pub struct InvalidId(&'static str);

impl FromStr for OrderId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Ulid::from_string(text)
            .map(|u| Self(u.0))
            .map_err(|_| InvalidId("order id (26 characters of Crockford base32)"))
    }
}

/// One attempt at one parcel, as the carrier sees it: `{order}-{parcel}-{attempt}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShipmentId {
    /// The order.
    pub order: OrderId,
    /// Parcel number, from 0.
    pub parcel: u8,
    /// Attempt number, from 0.
    pub attempt: u8,
}

impl fmt::Display for ShipmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.order, self.parcel, self.attempt)
    }
}

impl FromStr for ShipmentId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        const WHAT: InvalidId = InvalidId("shipment id (order-parcel-attempt)");
        let mut parts = text.splitn(3, '-');
        let mut next = || parts.next().ok_or(WHAT);
        Ok(Self {
            order: next()?.parse().map_err(|_| WHAT)?,
            parcel: next()?.parse().map_err(|_| WHAT)?,
            attempt: next()?.parse().map_err(|_| WHAT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_function_of_the_request() {
        let f = Fingerprint::of("m-1", "key");
        let id = OrderId::new(1_794_268_800_123, f, SlotCount::DEFAULT);
        assert_eq!(id, OrderId::new(1_794_268_800_123, Fingerprint::of("m-1", "key"), SlotCount::DEFAULT));
        assert_eq!(id.placed_at_ms(), 1_794_268_800_123);
        assert_eq!(id.slot(), SlotCount::DEFAULT.slot(f));
        assert_eq!(id.hash64(), f.low());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(Fingerprint::of("m-1", "1key"), Fingerprint::of("m-11", "key"));
    }

    #[test]
    fn ids_sort_by_time_as_text() {
        let early = OrderId::new(1_000, Fingerprint::of("m", "z"), SlotCount::DEFAULT);
        let late = OrderId::new(1_001, Fingerprint::of("m", "a"), SlotCount::DEFAULT);
        assert!(early < late && early.to_string() < late.to_string());
    }

    #[test]
    fn shipment_ids_read_back() {
        let order = OrderId::new(5, Fingerprint::of("m", "k"), SlotCount::DEFAULT);
        let id = ShipmentId { order, parcel: 3, attempt: 1 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "x-1-2", &format!("{order}-1"), &format!("{order}-1-2-3"), &format!("{order}-300-0")] {
            assert!(bad.parse::<ShipmentId>().is_err(), "{bad}");
        }
    }
}
