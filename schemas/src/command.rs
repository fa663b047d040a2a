//! What a merchant or an operator wants done with an order that is in the log: a [`crate::word`] of kind 48 to 51, about the
//! whole order.
//!
//! ```text
//! order id 16 bytes BE | 255 u8 | 255 u8 | kind u8 | at signed varint (ms after placed_at) | command id u64 BE
//! kind 49: reason (length + UTF-8) | lines: count varint; per line of the order: quantity and ordered varints
//! kind 50: operator (length + UTF-8)
//! kind 51: parcel u8 | handling class u8 | keep u8 | operator (length + UTF-8)
//! ```

use crate::{
    CodecError,
    order::placed_at_ms,
    wire::{Reader, put_bytes, put_signed, put_varint},
};

/// The lowest kind of a command.
pub const FIRST_KIND: u8 = 48;

const CANCEL: u8 = 48;
const RETURN: u8 = 49;
const REPLAY: u8 = 50;
const REVIEW: u8 = 51;
/// Where other words have parcel and attempt.
const WHOLE_ORDER: [u8; 2] = [u8::MAX; 2];

/// A wish about one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// The order.
    pub order: u128,
    /// The same whenever the same wish is sent again: it has its effect once.
    pub id: u64,
    /// When it was taken, ms since the Unix epoch.
    pub at_ms: u64,
    /// What is wanted.
    pub wish: Wish<'a>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish<'a> {
    /// That nothing more of the order reaches the customer.
    Cancel,
    /// That a carrier brings delivered goods back.
    Return {
        /// The customer's reason, for people.
        reason: &'a str,
        /// What is to come back.
        lines: Lines<'a>,
    },
    /// That what is dead-lettered is decided anew.
    Replay {
        /// The operator who asks.
        by: &'a str,
    },
    /// That a parcel that is held goes on as what a person says it is.
    Review {
        /// The parcel.
        parcel: u8,
        /// Code of its handling class.
        handling: u8,
        /// What else the decision is kept for.
        keep: Keep,
        /// The operator who decides.
        by: &'a str,
    },
}

/// What a reviewer's decision is kept for besides its parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Keep {
    /// Nothing.
    #[default]
    No = 0,
    /// A rule: lines of the same text are decided so from now on.
    Rule = 1,
    /// Training: the next model learns from it.
    Row = 2,
}

impl Keep {
    /// The one with this code.
    ///
    /// # Errors
    /// [`CodecError`] for a code no version has used.
    pub fn from_code(code: u8) -> Result<Self, CodecError> {
        match code {
            0 => Ok(Self::No),
            1 => Ok(Self::Rule),
            2 => Ok(Self::Row),
            _ => Err(CodecError { what: "keep" }),
        }
    }

    /// The name used in every public format; `None` for [`Keep::No`].
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::No => None,
            Self::Rule => Some("rule"),
            Self::Row => Some("row"),
        }
    }
}

/// A line of the order as a return sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReturnLine {
    /// Units to bring back; 0 for none.
    pub quantity: u32,
    /// Units of the line in the order, which its row doesn't know.
    pub ordered: u32,
}

/// Every line of the order that a return is about, encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Lines<'a> {
    /// Appends `lines`.
    pub fn encode(lines: &[ReturnLine], out: &mut Vec<u8>) {
        put_varint(out, lines.len() as u64);
        for line in lines {
            put_varint(out, u64::from(line.quantity));
            put_varint(out, u64::from(line.ordered));
        }
    }

    /// Reads what [`Lines::encode`] wrote.
    ///
    /// # Errors
    /// [`CodecError`] naming the field that can't be read.
    pub fn read(r: &mut Reader<'a>) -> Result<Self, CodecError> {
        let count = r.number("line count")?;
        let start = r.rest();
        for _ in 0..count {
            read_line(r)?;
        }
        Ok(Self { count, bytes: &start[..start.len() - r.rest().len()] })
    }

    /// The order's lines, from the first.
    pub fn iter(&self) -> impl Iterator<Item = ReturnLine> + use<'a> {
        let mut r = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| read_line(&mut r).ok())
    }
}

fn read_line(r: &mut Reader<'_>) -> Result<ReturnLine, CodecError> {
    Ok(ReturnLine { quantity: r.number("quantity")?, ordered: r.number("ordered")? })
}

impl<'a> Command<'a> {
    /// Appends the encoded command.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.order.to_be_bytes());
        out.extend_from_slice(&WHOLE_ORDER);
        out.push(match self.wish {
            Wish::Cancel => CANCEL,
            Wish::Return { .. } => RETURN,
            Wish::Replay { .. } => REPLAY,
            Wish::Review { .. } => REVIEW,
        });
        put_signed(out, self.at_ms as i64 - placed_at_ms(self.order) as i64);
        out.extend_from_slice(&self.id.to_be_bytes());
        match self.wish {
            Wish::Cancel => {}
            Wish::Return { reason, lines } => {
                put_bytes(out, reason.as_bytes());
                put_varint(out, lines.count as u64);
                out.extend_from_slice(lines.bytes);
            }
            Wish::Replay { by } => put_bytes(out, by.as_bytes()),
            Wish::Review { parcel, handling, keep, by } => {
                out.extend_from_slice(&[parcel, handling, keep as u8]);
                put_bytes(out, by.as_bytes());
            }
        }
    }

    /// Reads what [`Command::encode`] wrote.
    ///
    /// # Errors
    /// [`CodecError`] naming the first field that can't be read.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let order = u128::from_be_bytes(r.array("order id")?);
        r.take(WHOLE_ORDER.len(), "parcel")?;
        let kind = r.byte("command kind")?;
        let at_ms = placed_at_ms(order).saturating_add_signed(r.signed("commanded_at")?);
        let id = u64::from_be_bytes(r.array("command id")?);
        let wish = match kind {
            CANCEL => Wish::Cancel,
            RETURN => Wish::Return { reason: r.str("reason")?, lines: Lines::read(&mut r)? },
            REPLAY => Wish::Replay { by: r.str("operator")? },
            REVIEW => Wish::Review {
                parcel: r.byte("parcel")?,
                handling: r.byte("handling")?,
                keep: Keep::from_code(r.byte("keep")?)?,
                by: r.str("operator")?,
            },
            _ => return Err(CodecError { what: "command kind" }),
        };
        Ok(Self { order, id, at_ms, wish })
    }
}

/// True if an encoded word is a command to decide dead letters anew, without reading the rest.
#[inline]
#[must_use]
pub fn is_replay(record: &[u8]) -> bool {
    record.get(18) == Some(&REPLAY)
}

/// True if an encoded word is a command that says what is in a held parcel, without reading the rest.
#[inline]
#[must_use]
pub fn is_review(record: &[u8]) -> bool {
    record.get(18) == Some(&REVIEW)
}

/// What an owner made of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// It had its effect.
    Done = 0,
    /// Nothing of the order can be cancelled now.
    NothingToCancel = 1,
    /// Not so many units of a line were delivered, or they are on their way back already.
    NotReturnable = 2,
    /// The order has as many return shipments as it may have.
    TooManyReturns = 3,
    /// Nothing of the order is dead-lettered now.
    NothingToReplay = 4,
    /// What is dead-lettered can't be decided anew: a carrier may have it, or the merchant has cancelled some of the
    /// order.
    NotReplayable = 5,
    /// The order has been replayed as often as it may be.
    TooManyReplays = 6,
    /// The parcel isn't held: there is none, nobody had to say what it is, or somebody has.
    NotHeld = 7,
}

impl Verdict {
    /// The verdict with this code.
    ///
    /// # Errors
    /// [`CodecError`] for a code no version has used.
    pub fn from_code(code: u8) -> Result<Self, CodecError> {
        match code {
            0 => Ok(Self::Done),
            1 => Ok(Self::NothingToCancel),
            2 => Ok(Self::NotReturnable),
            3 => Ok(Self::TooManyReturns),
            4 => Ok(Self::NothingToReplay),
            5 => Ok(Self::NotReplayable),
            6 => Ok(Self::TooManyReplays),
            7 => Ok(Self::NotHeld),
            _ => Err(CodecError { what: "verdict" }),
        }
    }
}
