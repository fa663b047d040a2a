//! What somebody says about an order that is already in the log, as it enters the log of the order's partition: a
//! carrier's answer, its news of a shipment on its way, or what the merchant or an operator wants done. All of them begin alike, so that
//! an engine can tell whom a word is about without knowing what it says.
//!
//! ```text
//! order id 16 bytes BE | parcel u8 | attempt u8 | kind u8 | at signed varint (ms after placed_at)
//! carrier (length + UTF-8) | text (length + UTF-8)
//! ```
//! Kinds below 16 are [`Outcome`]s; those of [`Progress::code`] are [`Tracked`]; from 48 on they are [`Command`]s, which
//! are about a whole order and go on otherwise.

use crate::{
    CodecError,
    command::{self, Command},
    milestone::{Milestone, Remark},
    order::placed_at_ms,
    outcome::Outcome,
    wire::{Reader, put_bytes, put_signed},
};

/// What a carrier says of a shipment on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Progress {
    /// It got further: from [`Milestone::PickedUp`] to [`Milestone::Returned`].
    Reached(Milestone),
    /// Something worth telling that is no status.
    Remarked(Remark),
}

impl Progress {
    /// All of them, milestones by rank first.
    pub const ALL: [Self; 10] = [
        Self::Reached(Milestone::PickedUp),
        Self::Reached(Milestone::InTransit),
        Self::Reached(Milestone::OutForDelivery),
        Self::Reached(Milestone::ReadyForPickup),
        Self::Reached(Milestone::Delivered),
        Self::Reached(Milestone::ReturnToSender),
        Self::Reached(Milestone::Returned),
        Self::Remarked(Remark::OnHold),
        Self::Remarked(Remark::DeliveryDelayed),
        Self::Remarked(Remark::DeliveryFailed),
    ];

    /// The byte it is stored as: 16 + a milestone's rank, or 32 + a remark's number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Reached(milestone) => 16 + milestone as u8,
            Self::Remarked(remark) => 32 + remark as u8,
        }
    }

    /// The one stored as `code`.
    ///
    /// # Errors
    /// [`CodecError`] for a code no version has used.
    pub fn from_code(code: u8) -> Result<Self, CodecError> {
        Self::ALL.into_iter().find(|p| p.code() == code).ok_or(CodecError { what: "progress" })
    }

    /// The name used in every public format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reached(milestone) => milestone.name(),
            Self::Remarked(remark) => remark.name(),
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// A carrier's news of one shipment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked<'a> {
    /// The order.
    pub order: u128,
    /// Parcel number, from 0.
    pub parcel: u8,
    /// Attempt number, from 0.
    pub attempt: u8,
    /// What it says.
    pub progress: Progress,
    /// When that happened by the carrier's clock, ms since the Unix epoch.
    pub at_ms: u64,
    /// The carrier that says so.
    pub carrier: &'a str,
    /// For people; may be empty.
    pub text: &'a str,
}

impl<'a> Tracked<'a> {
    /// Appends the encoded news.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.order.to_be_bytes());
        out.extend_from_slice(&[self.parcel, self.attempt, self.progress.code()]);
        put_signed(out, self.at_ms as i64 - placed_at_ms(self.order) as i64);
        put_bytes(out, self.carrier.as_bytes());
        put_bytes(out, self.text.as_bytes());
    }

    /// Reads what [`Tracked::encode`] wrote.
    ///
    /// # Errors
    /// [`CodecError`] naming the first field that can't be read.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let order = u128::from_be_bytes(r.array("order id")?);
        Ok(Self {
            order,
            parcel: r.byte("parcel")?,
            attempt: r.byte("attempt")?,
            progress: Progress::from_code(r.byte("progress")?)?,
            at_ms: placed_at_ms(order).saturating_add_signed(r.signed("tracked_at")?),
            carrier: r.str("carrier")?,
            text: r.str("text")?,
        })
    }
}

/// Any word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'a> {
    /// What became of an attempt.
    Outcome(Outcome<'a>),
    /// Where a shipment is.
    Tracked(Tracked<'a>),
    /// What the merchant or an operator wants.
    Command(Command<'a>),
}

impl<'a> Word<'a> {
    /// Reads one word.
    ///
    /// # Errors
    /// [`CodecError`] naming the first field that can't be read.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CodecError> {
        match bytes.get(18) {
            Some(..16) | None => Outcome::decode(bytes).map(Self::Outcome),
            Some(16..command::FIRST_KIND) => Tracked::decode(bytes).map(Self::Tracked),
            Some(command::FIRST_KIND..) => Command::decode(bytes).map(Self::Command),
        }
    }

    /// The order it is about.
    #[must_use]
    pub fn order(&self) -> u128 {
        match self {
            Self::Outcome(outcome) => outcome.order,
            Self::Tracked(tracked) => tracked.order,
            Self::Command(command) => command.order,
        }
    }
}

/// What an encoded word is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// One attempt at one parcel, by their numbers.
    Attempt(u8, u8),
    /// Its whole order.
    Order,
}

/// What an encoded word is about, without reading the rest.
///
/// # Errors
/// [`CodecError`] if it is too short.
#[inline]
pub fn peek_about(record: &[u8]) -> Result<About, CodecError> {
    match record.get(16..19) {
        Some(&[_, _, kind]) if kind >= command::FIRST_KIND => Ok(About::Order),
        Some(&[parcel, attempt, _]) => Ok(About::Attempt(parcel, attempt)),
        _ => Err(CodecError { what: "parcel" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_each_ones_own() {
        for progress in Progress::ALL {
            assert_eq!(Progress::from_code(progress.code()), Ok(progress));
            assert_eq!(Progress::from_name(progress.name()), Some(progress));
        }
        for code in [0, 3, 15, 16, 19, 27, 28, 31, 35, 255] {
            assert_eq!(Progress::from_code(code), Err(CodecError { what: "progress" }), "{code}");
        }
        // What only Sluice itself can say, and what carriers say at the call.
        for name in ["accepted", "carrier_accepted", "cancelled", "dead_lettered", "Delivered", ""] {
            assert_eq!(Progress::from_name(name), None, "{name}");
        }
    }
}
