//! The order record: what checkout accepted, byte for byte what the log keeps.
//!
//! ```text
//! version u8 = 1
//! order id            16 bytes, big endian (placed_at ms 48 | slot 16 | hash 64)
//! fingerprint, high    8 bytes, big endian (its low half is the id's hash)
//! accepted_at          signed varint, ms after placed_at
//! body: merchant, customer, currency, name, street, city, postal_code, country   (length + UTF-8 each)
//!       line count varint, then per line: sku, title (length + UTF-8), quantity, unit_price (varints)
//! ```
//! Two requests under one idempotency key are the same request when `placed_at` and the body are equal.

use crate::{
    CodecError,
    wire::{Reader, put_bytes, put_signed, put_varint},
};

/// Version byte of the record described above.
pub const VERSION: u8 = 1;

/// Bytes before `accepted_at`: version, id, fingerprint.
const FIXED: usize = 1 + 16 + 8;

/// Where a parcel goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShipTo<'a> {
    /// Recipient.
    pub name: &'a str,
    /// Street and number.
    pub street: &'a str,
    /// Town.
    pub city: &'a str,
    /// Postal code, as written in that country.
    pub postal_code: &'a str,
    /// ISO 3166-1 alpha-2, upper case.
    pub country: &'a str,
}

/// One line of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The merchant's stock keeping unit.
    pub sku: &'a str,
    /// What the customer saw.
    pub title: &'a str,
    /// Units, at least 1.
    pub quantity: u32,
    /// Minor units of the order's currency, for one unit.
    pub unit_price: u64,
}

/// The head of a record to encode; lines follow through [`put_line`].
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Order id.
    pub id: u128,
    /// High 64 bits of the request's fingerprint.
    pub fingerprint_high: u64,
    /// When checkout took the order, ms since the Unix epoch.
    pub accepted_at_ms: u64,
    /// Merchant id.
    pub merchant: &'a str,
    /// Customer id.
    pub customer: &'a str,
    /// ISO 4217, upper case.
    pub currency: &'a str,
    /// Address.
    pub ship_to: ShipTo<'a>,
    /// How many lines follow.
    pub lines: usize,
}

/// Appends a record's head to `out`; the caller then appends exactly `head.lines` lines with [`put_line`].
pub fn put_head(out: &mut Vec<u8>, head: &Head<'_>) {
    out.push(VERSION);
    out.extend_from_slice(&head.id.to_be_bytes());
    out.extend_from_slice(&head.fingerprint_high.to_be_bytes());
    put_signed(out, head.accepted_at_ms as i64 - placed_at_ms(head.id) as i64);
    let to = &head.ship_to;
    for text in [head.merchant, head.customer, head.currency, to.name, to.street, to.city, to.postal_code, to.country] {
        put_bytes(out, text.as_bytes());
    }
    put_varint(out, head.lines as u64);
}

/// Appends one line of a record.
pub fn put_line(out: &mut Vec<u8>, line: &Line<'_>) {
    put_bytes(out, line.sku.as_bytes());
    put_bytes(out, line.title.as_bytes());
    put_varint(out, u64::from(line.quantity));
    put_varint(out, line.unit_price);
}

/// The `placed_at` part of an order id, ms since the Unix epoch.
#[inline]
pub fn placed_at_ms(id: u128) -> u64 {
    (id >> 80) as u64
}

/// A record read in place.
#[derive(Debug, Clone, Copy)]
pub struct OrderRef<'a> {
    /// Order id.
    pub id: u128,
    /// High 64 bits of the request's fingerprint.
    pub fingerprint_high: u64,
    /// When checkout took the order, ms since the Unix epoch.
    pub accepted_at_ms: u64,
    /// Merchant id.
    pub merchant: &'a str,
    /// Customer id.
    pub customer: &'a str,
    /// ISO 4217.
    pub currency: &'a str,
    /// Address.
    pub ship_to: ShipTo<'a>,
    body: &'a [u8],
    line_count: usize,
    lines: &'a [u8],
}

impl<'a> OrderRef<'a> {
    /// Reads a whole record. Lines are checked as [`OrderRef::lines`] walks them.
    ///
    /// # Errors
    /// [`CodecError`] naming the first field that can't be read.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        if r.byte("order version")? != VERSION {
            return Err(CodecError { what: "order version" });
        }
        let id = u128::from_be_bytes(r.array("order id")?);
        let fingerprint_high = u64::from_be_bytes(r.array("fingerprint")?);
        let late = r.signed("accepted_at")?;
        let body = r.rest();
        let merchant = r.str("merchant")?;
        let customer = r.str("customer")?;
        let currency = r.str("currency")?;
        let ship_to = ShipTo {
            name: r.str("name")?,
            street: r.str("street")?,
            city: r.str("city")?,
            postal_code: r.str("postal_code")?,
            country: r.str("country")?,
        };
        let line_count = r.number("line count")?;
        Ok(Self {
            id,
            fingerprint_high,
            accepted_at_ms: placed_at_ms(id).saturating_add_signed(late),
            merchant,
            customer,
            currency,
            ship_to,
            body,
            line_count,
            lines: r.rest(),
        })
    }

    /// 128 bits that stand for (merchant, idempotency key).
    pub fn fingerprint(&self) -> u128 {
        u128::from(self.fingerprint_high) << 64 | (self.id & u128::from(u64::MAX))
    }

    /// When the customer pressed the button, ms since the Unix epoch.
    pub fn placed_at_ms(&self) -> u64 {
        placed_at_ms(self.id)
    }

    /// The bytes that must be equal for a retry to be the same request.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// How many lines the record says it has.
    pub fn line_count(&self) -> usize {
        self.line_count
    }

    /// The lines in order; an error item if the record is cut short.
    pub fn lines(&self) -> Lines<'a> {
        Lines { left: self.line_count, rest: Reader::new(self.lines) }
    }
}

/// The lines of a record, without looking at the strings before them: their number, and each in order.
///
/// # Errors
/// [`CodecError`] if the record is cut short before its lines.
#[inline]
pub fn lines_of(record: &[u8]) -> Result<(usize, Lines<'_>), CodecError> {
    peek_id(record)?;
    let mut r = Reader::new(&record[FIXED..]);
    r.signed("accepted_at")?;
    for what in ["merchant", "customer", "currency", "name", "street", "city", "postal_code", "country"] {
        r.bytes(what)?;
    }
    let count = r.number("line count")?;
    Ok((count, Lines { left: count, rest: r }))
}

/// Lines of a record; an error item if it is cut short.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    left: usize,
    rest: Reader<'a>,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Line<'a>, CodecError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let r = &mut self.rest;
        let mut line = || {
            Ok(Line {
                sku: r.str("sku")?,
                title: r.str("title")?,
                quantity: r.number("quantity")?,
                unit_price: r.varint("unit_price")?,
            })
        };
        Some(line())
    }
}

/// When checkout took the order, ms after `placed_at`, without reading the rest.
///
/// # Errors
/// [`CodecError`] as for [`peek_id`].
#[inline]
pub fn peek_accepted_late(record: &[u8]) -> Result<i64, CodecError> {
    let rest = record.get(FIXED..).ok_or(CodecError { what: "accepted_at" })?;
    Reader::new(rest).signed("accepted_at")
}

/// Whose order it is, as [`put_customer`] writes it, without reading the rest.
///
/// # Errors
/// [`CodecError`] if the record is cut short before that.
#[inline]
pub fn peek_customer(record: &[u8]) -> Result<&[u8], CodecError> {
    let mut r = Reader::new(record.get(FIXED..).ok_or(CodecError { what: "accepted_at" })?);
    r.signed("accepted_at")?;
    let body = r.rest();
    r.bytes("merchant")?;
    r.bytes("customer")?;
    Ok(&body[..body.len() - r.rest().len()])
}

/// Appends what [`peek_customer`] gives of the orders of `customer` at `merchant`; nobody else's begin so.
pub fn put_customer(merchant: &str, customer: &str, out: &mut Vec<u8>) {
    put_bytes(out, merchant.as_bytes());
    put_bytes(out, customer.as_bytes());
}

/// The order id of a record, without reading the rest.
///
/// # Errors
/// [`CodecError`] if the record is shorter than its fixed part or of another version.
#[inline]
pub fn peek_id(record: &[u8]) -> Result<u128, CodecError> {
    let mut r = Reader::new(record);
    if record.len() < FIXED || r.byte("order version")? != VERSION {
        return Err(CodecError { what: "order version" });
    }
    Ok(u128::from_be_bytes(r.array("order id")?))
}
