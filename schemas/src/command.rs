//! What a merchant wants done with an order that is in the log: a [`crate::word`] of kind 48 or 49, about the whole order.
//!
//! ```text
//! order id 16 bytes BE | 255 u8 | 255 u8 | kind u8 | at signed varint (ms after placed_at) | command id u64 BE
//! kind 49: reason (length + UTF-8) | lines: count varint; per line of the order: quantity and ordered varints
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

/// What a merchant wants.
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
        });
        put_signed(out, self.at_ms as i64 - placed_at_ms(self.order) as i64);
        out.extend_from_slice(&self.id.to_be_bytes());
        if let Wish::Return { reason, lines } = self.wish {
            put_bytes(out, reason.as_bytes());
            put_varint(out, lines.count as u64);
            out.extend_from_slice(lines.bytes);
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
            _ => return Err(CodecError { what: "command kind" }),
        };
        Ok(Self { order, id, at_ms, wish })
    }
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
            _ => Err(CodecError { what: "verdict" }),
        }
    }
}
