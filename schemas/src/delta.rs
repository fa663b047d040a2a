//! What the stages add to an order. A row (the state of one order) is the concatenation of its deltas, in any
//! order and with any repetition: reading it is a fold over a lattice, so replay is harmless.
//!
//! Every delta is `tag u8 | at: signed varint, ms after the order's placed_at | fields`. Strings are length + UTF-8.
//! ```text
//! 1 accepted       position varint (where the log keeps the order record)
//! 2 classified     parcels u8, rules u32 varint
//! 3 requested      parcel u8, attempt u8, handling u8, carrier str, weight_g varint, items, order position varint + 1 or 0
//!                  items: count << 1 | partial varint; per item: line varint, and quantity varint if partial
//! 4 settled        parcel u8, attempt u8, outcome u8, text str (tracking number, or the reason)
//! 5 dead-lettered  parcel u8 + 1, or 0 for the whole order; rules varint; reason str
//! 6 packed         parcel u8, handling u8, weight_g varint, items; only for a parcel that no carrier was asked for
//! 7 conflicted     order id 16 bytes BE: a later request under the same key that is no order of its own
//! 8 merchant       merchant str; where a decision is made without the order record at hand
//! 9 tracked        parcel u8, attempt u8, progress u8, text str; at = when it happened by the carrier's clock
//! 10 commanded     command id u64 BE, verdict u8
//! 11 return        parcel u8 (of the return), source u8 (the parcel that was delivered), units varint (in the source),
//!                  command id u64 BE, reason str
//! 12 replayed      parcel u8 + 1, or 0 for the whole order; replay u8, from 1; attempt u8 (the next one of the parcel);
//!                  command id u64 BE, operator str
//! 13 dead-lettered as 5, then replay u8: that of the order's last replay before it; 5 if there was none
//! 14 classified    as 2, then model u32 varint; 2 if none took part
//! 15 held          parcel u8, handling class u8 (the likeliest), confidence u8 (percent), weight_g varint, items
//! 16 reviewed      parcel u8, handling class u8 + 1, or 0 for none: it was cancelled; keep u8; command id u64 BE, operator str
//! ```
//!
//! Numbers say what an attempt is for. Parcels from [`FIRST_RETURN`] on bring goods back; an attempt with the bit [`VOID`]
//! asks a carrier to forget the attempt without it. All else about them is as with any other parcel and attempt.
//!
//! The handling byte is the group's code (0..=127), with the bit [`ESTIMATED`] if the weight is an estimate. Deltas written
//! before that was told have it unset.

use crate::{
    CodecError,
    command::{Keep, Verdict},
    outcome::OutcomeKind,
    wire::{Reader, put_bytes, put_signed, put_varint},
    word::Progress,
};

/// Number of an order's first return parcel; parcels below are on their way to the customer.
pub const FIRST_RETURN: u8 = 200;
/// Set in the number of an attempt to have a carrier forget the attempt whose number is the rest.
pub const VOID: u8 = 64;

/// Set in a stored handling byte if the weight beside it is an estimate.
const ESTIMATED: u8 = 0x80;

/// What a parcel weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Weight {
    /// Grams.
    pub grams: u32,
    /// What one of its goods weighs is a guess. False in what was stored before that was told.
    pub estimated: bool,
}

impl Weight {
    /// So many grams, which no guess is part of.
    pub const fn known(grams: u32) -> Self {
        Self { grams, estimated: false }
    }

    /// The stored byte of a handling group's code (at most 127), in which it stands whether this is an estimate.
    pub(crate) fn handling_byte(self, code: u8) -> u8 {
        code & !ESTIMATED | if self.estimated { ESTIMATED } else { 0 }
    }

    /// Reads the weight to which `handling`, a byte of [`Weight::handling_byte`], belongs.
    pub(crate) fn read(handling: u8, r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { grams: r.number("weight")?, estimated: handling & ESTIMATED != 0 })
    }
}

/// The handling group's code in a byte of [`Weight::handling_byte`].
pub(crate) fn handling_code(byte: u8) -> u8 {
    byte & !ESTIMATED
}

/// One line's share of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Index of the line in the order.
    pub line: u16,
    /// Units of that line in this parcel; `None` = all of them.
    pub quantity: Option<u32>,
}

/// The items of a parcel, encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Items<'a> {
    count: usize,
    partial: bool,
    bytes: &'a [u8],
}

impl<'a> Items<'a> {
    /// Appends `items`; if any of them has a quantity, all must.
    pub fn encode(items: &[Item], out: &mut Vec<u8>) {
        let partial = items.iter().any(|i| i.quantity.is_some());
        put_varint(out, (items.len() as u64) << 1 | u64::from(partial));
        for item in items {
            put_varint(out, u64::from(item.line));
            if partial {
                put_varint(out, u64::from(item.quantity.unwrap_or(0)));
            }
        }
    }

    /// Reads what [`Items::encode`] wrote.
    ///
    /// # Errors
    /// [`CodecError`] if it is cut short.
    pub fn read(r: &mut Reader<'a>) -> Result<Self, CodecError> {
        let head = r.varint("item count")?;
        let (count, partial) = ((head >> 1) as usize, head & 1 == 1);
        let start = r.rest();
        for _ in 0..count {
            r.varint("item line")?;
            if partial {
                r.varint("item quantity")?;
            }
        }
        Ok(Self { count, partial, bytes: &start[..start.len() - r.rest().len()] })
    }

    /// Appends the same items again.
    pub fn encode_again(&self, out: &mut Vec<u8>) {
        put_varint(out, (self.count as u64) << 1 | u64::from(self.partial));
        out.extend_from_slice(self.bytes);
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True for a parcel without items, which no stage makes.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = Item> + use<'a> {
        let (mut r, partial) = (Reader::new(self.bytes), self.partial);
        (0..self.count).map_while(move |_| {
            let line = r.number("item line").ok()?;
            let quantity = if partial { Some(r.number("item quantity").ok()?) } else { None };
            Some(Item { line, quantity })
        })
    }
}

/// One step of an order's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta<'a> {
    /// The order is durable.
    Accepted {
        /// Where the log keeps the order record.
        position: u64,
    },
    /// Its goods are known and split.
    Classified {
        /// How many parcels it became.
        parcels: u8,
        /// Version of the catalogue and rules that decided.
        rules: u32,
        /// Version of the model that judged what those didn't know; 0 for none.
        model: u32,
    },
    /// A carrier is to be asked to take a parcel.
    Requested(Requested<'a>),
    /// An attempt has its outcome.
    Settled {
        /// Parcel number.
        parcel: u8,
        /// Attempt number.
        attempt: u8,
        /// The outcome.
        outcome: OutcomeKind,
        /// Tracking number, or the reason.
        text: &'a str,
    },
    /// What is in a parcel that no carrier was asked for, so that no item is unaccounted for.
    Packed {
        /// Parcel number.
        parcel: u8,
        /// Handling group code, at most 127.
        handling: u8,
        /// What it weighs.
        weight: Weight,
        /// What is in the parcel.
        items: Items<'a>,
    },
    /// A later request under the same key, which was answered before its owner could refuse it.
    Conflicted {
        /// The id it was given; that of the order itself if only the body differs.
        order: u128,
    },
    /// Whose order it is.
    Merchant {
        /// Merchant id.
        id: &'a str,
    },
    /// A carrier's news of a shipment on its way.
    Tracked {
        /// Parcel number.
        parcel: u8,
        /// Attempt number.
        attempt: u8,
        /// What it says.
        progress: Progress,
        /// For people; may be empty.
        text: &'a str,
    },
    /// What the owner made of a command.
    Commanded {
        /// The command's id.
        id: u64,
        /// What became of it.
        verdict: Verdict,
    },
    /// Goods of a delivered parcel are to come back, as a parcel of their own.
    Return {
        /// Number of the new parcel, from [`FIRST_RETURN`].
        parcel: u8,
        /// The parcel that they were delivered in.
        source: u8,
        /// Units in that parcel, of all its lines.
        units: u32,
        /// The command that asked for it.
        command: u64,
        /// The customer's reason.
        reason: &'a str,
    },
    /// What was dead-lettered is decided anew: dead letters of the same that come before this replay no longer count.
    Replayed {
        /// The parcel, or `None` for the whole order.
        parcel: Option<u8>,
        /// Number of the replay among those of the order, from 1.
        replay: u8,
        /// The lowest number of the attempts that may follow; 0 for the whole order.
        attempt: u8,
        /// The command that asked for it.
        command: u64,
        /// The operator who asked.
        by: &'a str,
    },
    /// Nobody knows what is in a parcel, and a wrong guess might do harm: it waits until a person has said so.
    Held {
        /// Parcel number.
        parcel: u8,
        /// Code of the handling class that it most likely has.
        handling: u8,
        /// How likely, percent.
        confidence: u8,
        /// What it weighs.
        weight: Weight,
        /// What is in the parcel: one line, or some units of it.
        items: Items<'a>,
    },
    /// A parcel waits no longer to be reviewed.
    Reviewed {
        /// Parcel number.
        parcel: u8,
        /// Code of the handling class that it has; `None`: the order was cancelled before anybody said.
        handling: Option<u8>,
        /// What else the decision is kept for.
        keep: Keep,
        /// The command that asked for it.
        command: u64,
        /// The operator who decided; empty if it was cancelled.
        by: &'a str,
    },
    /// No stage could decide; somebody must look.
    DeadLettered {
        /// The parcel, or `None` for the whole order.
        parcel: Option<u8>,
        /// Version of the catalogue and rules that failed.
        rules: u32,
        /// Why, for a person.
        reason: &'a str,
        /// The order's last replay before this; 0 for none.
        replay: u8,
    },
}

/// The decision to ask a carrier: everything its manifest needs besides the order record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested<'a> {
    /// Parcel number.
    pub parcel: u8,
    /// Attempt number.
    pub attempt: u8,
    /// Handling group code, at most 127.
    pub handling: u8,
    /// The carrier to ask.
    pub carrier: &'a str,
    /// What it weighs.
    pub weight: Weight,
    /// What is in the parcel.
    pub items: Items<'a>,
    /// Where the order record is, when it isn't in the same commit.
    pub order_position: Option<u64>,
}

impl<'a> Delta<'a> {
    /// What it begins with.
    #[inline]
    fn tag(&self) -> u8 {
        match self {
            Delta::Accepted { .. } => 1,
            Delta::Classified { model: 0, .. } => 2,
            Delta::Classified { .. } => 14,
            Delta::Requested(_) => 3,
            Delta::Settled { .. } => 4,
            Delta::DeadLettered { replay: 0, .. } => 5,
            Delta::DeadLettered { .. } => 13,
            Delta::Packed { .. } => 6,
            Delta::Conflicted { .. } => 7,
            Delta::Merchant { .. } => 8,
            Delta::Tracked { .. } => 9,
            Delta::Commanded { .. } => 10,
            Delta::Return { .. } => 11,
            Delta::Replayed { .. } => 12,
            Delta::Held { .. } => 15,
            Delta::Reviewed { .. } => 16,
        }
    }

    /// Appends this delta; `late_ms` is its time in ms after the order's `placed_at`.
    pub fn encode(&self, late_ms: i64, out: &mut Vec<u8>) {
        out.push(self.tag());
        put_signed(out, late_ms);
        match *self {
            Delta::Accepted { position } => {
                put_varint(out, position);
            }
            Delta::Classified { parcels, rules, model } => {
                out.push(parcels);
                put_varint(out, u64::from(rules));
                if model > 0 {
                    put_varint(out, u64::from(model));
                }
            }
            Delta::Requested(r) => {
                out.extend_from_slice(&[r.parcel, r.attempt, r.weight.handling_byte(r.handling)]);
                put_bytes(out, r.carrier.as_bytes());
                put_varint(out, u64::from(r.weight.grams));
                r.items.encode_again(out);
                put_varint(out, r.order_position.map_or(0, |p| p + 1));
            }
            Delta::Settled { parcel, attempt, outcome, text } => {
                out.extend_from_slice(&[parcel, attempt, outcome as u8]);
                put_bytes(out, text.as_bytes());
            }
            Delta::Packed { parcel, handling, weight, items } => {
                out.extend_from_slice(&[parcel, weight.handling_byte(handling)]);
                put_varint(out, u64::from(weight.grams));
                items.encode_again(out);
            }
            Delta::Conflicted { order } => {
                out.extend_from_slice(&order.to_be_bytes());
            }
            Delta::Merchant { id } => {
                put_bytes(out, id.as_bytes());
            }
            Delta::Tracked { parcel, attempt, progress, text } => {
                out.extend_from_slice(&[parcel, attempt, progress.code()]);
                put_bytes(out, text.as_bytes());
            }
            _ => self.encode_command(out),
        }
    }

    /// The fields of what follows from people's wishes, and of what they must look at.
    fn encode_command(&self, out: &mut Vec<u8>) {
        match *self {
            Delta::Commanded { id, verdict } => {
                out.extend_from_slice(&id.to_be_bytes());
                out.push(verdict as u8);
            }
            Delta::Return { parcel, source, units, command, reason } => {
                out.extend_from_slice(&[parcel, source]);
                put_varint(out, u64::from(units));
                out.extend_from_slice(&command.to_be_bytes());
                put_bytes(out, reason.as_bytes());
            }
            Delta::Replayed { parcel, replay, attempt, command, by } => {
                put_varint(out, parcel.map_or(0, |p| u64::from(p) + 1));
                out.extend_from_slice(&[replay, attempt]);
                out.extend_from_slice(&command.to_be_bytes());
                put_bytes(out, by.as_bytes());
            }
            Delta::Held { parcel, handling, confidence, weight, items } => {
                out.extend_from_slice(&[parcel, weight.handling_byte(handling), confidence]);
                put_varint(out, u64::from(weight.grams));
                items.encode_again(out);
            }
            Delta::Reviewed { parcel, handling, keep, command, by } => {
                out.extend_from_slice(&[parcel, handling.map_or(0, |class| class + 1), keep as u8]);
                out.extend_from_slice(&command.to_be_bytes());
                put_bytes(out, by.as_bytes());
            }
            Delta::DeadLettered { parcel, rules, reason, replay } => {
                put_varint(out, parcel.map_or(0, |p| u64::from(p) + 1));
                put_varint(out, u64::from(rules));
                put_bytes(out, reason.as_bytes());
                if replay > 0 {
                    out.push(replay);
                }
            }
            _ => {}
        }
    }

    /// Reads one delta and its time (ms after the order's `placed_at`).
    ///
    /// # Errors
    /// [`CodecError`] naming the first field that can't be read.
    #[inline]
    pub fn read(r: &mut Reader<'a>) -> Result<(i64, Self), CodecError> {
        let tag = r.byte("delta tag")?;
        let late = r.signed("delta time")?;
        let delta = match tag {
            1 => Delta::Accepted { position: r.varint("position")? },
            2 | 14 => Delta::Classified {
                parcels: r.byte("parcels")?,
                rules: r.number("rules")?,
                model: if tag == 2 { 0 } else { r.number("model")? },
            },
            3 => {
                let (parcel, attempt, handling) = (r.byte("parcel")?, r.byte("attempt")?, r.byte("handling")?);
                Delta::Requested(Requested {
                    parcel,
                    attempt,
                    handling: handling_code(handling),
                    carrier: r.str("carrier")?,
                    weight: Weight::read(handling, r)?,
                    items: Items::read(r)?,
                    order_position: r.varint("order position")?.checked_sub(1),
                })
            }
            4 => Delta::Settled {
                parcel: r.byte("parcel")?,
                attempt: r.byte("attempt")?,
                outcome: OutcomeKind::from_code(r.byte("outcome kind")?)?,
                text: r.str("text")?,
            },
            5 | 13 => Delta::DeadLettered {
                parcel: parcel_or_order(r)?,
                rules: r.number("rules")?,
                reason: r.str("reason")?,
                replay: if tag == 5 { 0 } else { r.byte("replay")? },
            },
            6 => {
                let (parcel, handling) = (r.byte("parcel")?, r.byte("handling")?);
                let (weight, items) = (Weight::read(handling, r)?, Items::read(r)?);
                Delta::Packed { parcel, handling: handling_code(handling), weight, items }
            }
            7 => Delta::Conflicted { order: u128::from_be_bytes(r.array("conflicting order")?) },
            8 => Delta::Merchant { id: r.str("merchant")? },
            9 => Delta::Tracked {
                parcel: r.byte("parcel")?,
                attempt: r.byte("attempt")?,
                progress: Progress::from_code(r.byte("progress")?)?,
                text: r.str("text")?,
            },
            _ => Self::read_command(tag, r)?,
        };
        Ok((late, delta))
    }

    /// Reads the fields of what follows from people's wishes, and of what they must look at.
    fn read_command(tag: u8, r: &mut Reader<'a>) -> Result<Self, CodecError> {
        Ok(match tag {
            10 => Delta::Commanded {
                id: u64::from_be_bytes(r.array("command id")?),
                verdict: Verdict::from_code(r.byte("verdict")?)?,
            },
            11 => Delta::Return {
                parcel: r.byte("parcel")?,
                source: r.byte("source parcel")?,
                units: r.number("units")?,
                command: u64::from_be_bytes(r.array("command id")?),
                reason: r.str("reason")?,
            },
            12 => Delta::Replayed {
                parcel: parcel_or_order(r)?,
                replay: r.byte("replay")?,
                attempt: r.byte("attempt")?,
                command: u64::from_be_bytes(r.array("command id")?),
                by: r.str("operator")?,
            },
            15 => {
                let (parcel, handling) = (r.byte("parcel")?, r.byte("handling")?);
                Delta::Held {
                    parcel,
                    handling: handling_code(handling),
                    confidence: r.byte("confidence")?,
                    weight: Weight::read(handling, r)?,
                    items: Items::read(r)?,
                }
            }
            16 => Delta::Reviewed {
                parcel: r.byte("parcel")?,
                handling: r.byte("handling")?.checked_sub(1),
                keep: Keep::from_code(r.byte("keep")?)?,
                command: u64::from_be_bytes(r.array("command id")?),
                by: r.str("operator")?,
            },
            _ => return Err(CodecError { what: "delta tag" }),
        })
    }
}

/// A parcel's number, or `None` for the whole order.
fn parcel_or_order(r: &mut Reader<'_>) -> Result<Option<u8>, CodecError> {
    match r.varint("parcel")? {
        0 => Ok(None),
        n => u8::try_from(n - 1).map(Some).map_err(|_| CodecError { what: "parcel" }),
    }
}

/// Walks a row: each delta with its time in ms since the Unix epoch, given the order's `placed_at`.
pub fn row_deltas(placed_at_ms: u64, row: &[u8]) -> impl Iterator<Item = Result<(u64, Delta<'_>), CodecError>> {
    row_late_deltas(row).map(move |delta| delta.map(|(late, d)| (placed_at_ms.saturating_add_signed(late), d)))
}

/// Walks a row: each delta with its time in ms after the order's `placed_at`.
pub fn row_late_deltas(row: &[u8]) -> impl Iterator<Item = Result<(i64, Delta<'_>), CodecError>> {
    let mut r = Reader::new(row);
    std::iter::from_fn(move || {
        if r.is_empty() {
            return None;
        }
        let next = Delta::read(&mut r);
        if next.is_err() {
            r = Reader::new(&[]);
        }
        Some(next)
    })
}
