//! A carrier's answer about one shipment, as it enters the log of the order's partition: a [`crate::word`] whose kind is
//! below 16 and whose text is the tracking number, or the reason.

use crate::{
    CodecError,
    order::placed_at_ms,
    wire::{Reader, put_bytes, put_signed},
};

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OutcomeKind {
    /// Nobody can tell whether the carrier took it; it is parked, never resent or rerouted.
    Unknown = 0,
    /// Sluice stopped asking (deadline or budget spent). The carrier, which would have recognised a repetition, may have
    /// taken it all the same, if answers were lost.
    GivenUp = 1,
    /// The carrier's final no.
    Rejected = 2,
    /// The carrier's final yes.
    Accepted = 3,
}

impl OutcomeKind {
    /// The kind with this code.
    ///
    /// # Errors
    /// [`CodecError`] for a code no version has used.
    pub fn from_code(code: u8) -> Result<Self, CodecError> {
        match code {
            0 => Ok(Self::Unknown),
            1 => Ok(Self::GivenUp),
            2 => Ok(Self::Rejected),
            3 => Ok(Self::Accepted),
            _ => Err(CodecError { what: "outcome kind" }),
        }
    }
}

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The order.
    pub order: u128,
    /// Parcel number, from 0.
    pub parcel: u8,
    /// Attempt number, from 0.
    pub attempt: u8,
    /// What the carrier (or the notifier on giving up) said.
    pub kind: OutcomeKind,
    /// When it was heard, ms since the Unix epoch.
    pub at_ms: u64,
    /// The carrier asked.
    pub carrier: &'a str,
    /// Tracking number for an acceptance, else the reason.
    pub text: &'a str,
}

impl<'a> Outcome<'a> {
    /// Appends the encoded answer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.order.to_be_bytes());
        out.extend_from_slice(&[self.parcel, self.attempt, self.kind as u8]);
        put_signed(out, self.at_ms as i64 - placed_at_ms(self.order) as i64);
        put_bytes(out, self.carrier.as_bytes());
        put_bytes(out, self.text.as_bytes());
    }

    /// Reads one answer.
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
            kind: OutcomeKind::from_code(r.byte("outcome kind")?)?,
            at_ms: placed_at_ms(order).saturating_add_signed(r.signed("answered_at")?),
            carrier: r.str("carrier")?,
            text: r.str("text")?,
        })
    }
}
