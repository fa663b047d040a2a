//! Frames of the cluster's internal topics: one Kafka record carries many orders of one slot range, because a record
//! costs more than its bytes. Public events stay one a record, see `event`.
//!
//! Every frame starts `version u8 = 1 | epoch u16 LE` (the epoch of the slot map its writer went by); entries follow to
//! the end of the record. Texts and byte strings stand behind their length (varint).
//! ```text
//! orders      1 | order record                                    an order that checkout took
//!             2 | word                                            what is said about one that it took
//! decisions   1 | source | order record | deltas                  an order became durable and was decided
//!             2 | source | order id 16 bytes BE | deltas          what was decided about an order of an earlier frame
//!             3 | token 16 bytes                                  an owner starts here; everything before it is resolved
//! shipments   parcel u8 | attempt u8 | handling u8 | weight_g varint | items | order record
//! ```
//! source: place of the input that was decided, [`Place`] as varint. handling: as in [`crate::delta`]. Kafka checks each record's CRC.

use crate::{
    CodecError,
    delta::{Items, Weight, handling_code},
    order::peek_id,
    wire::{Reader, put_bytes, put_varint},
};

/// Version byte of all frames.
pub const VERSION: u8 = 1;

/// Bytes before the first entry.
pub const HEAD: usize = 3;

/// Entries that one frame of the orders topic may hold: as many as [`Place`] can number.
pub const MAX_ENTRIES: usize = 1 << 14;

/// Where the log has an input: partition of the orders topic (10 bits), offset (40 bits), entry of the frame (14 bits).
/// Ascends within a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u64);

impl Place {
    /// Highest partition number that a place can name.
    pub const MAX_PARTITION: u16 = 1_023;

    /// The place of entry `entry` (below [`MAX_ENTRIES`]) of the frame at `offset` (below 2⁴⁰).
    pub fn new(partition: u16, offset: u64, entry: usize) -> Self {
        Self(u64::from(partition) << 54 | (offset & ((1 << 40) - 1)) << 14 | (entry as u64 & 0x3fff))
    }

    /// Partition of the orders topic.
    pub fn partition(self) -> u16 {
        (self.0 >> 54) as u16
    }

    /// Offset within the partition.
    pub fn offset(self) -> u64 {
        self.0 >> 14 & ((1 << 40) - 1)
    }

    /// Number of the entry in the frame.
    pub fn entry(self) -> usize {
        (self.0 & 0x3fff) as usize
    }
}

/// Starts a frame of `epoch` in the empty `out`.
pub fn start(out: &mut Vec<u8>, epoch: u16) {
    out.push(VERSION);
    out.extend_from_slice(&epoch.to_le_bytes());
}

/// Appends an order record to a frame of the orders topic.
pub fn put_placed(out: &mut Vec<u8>, record: &[u8]) {
    out.push(1);
    put_bytes(out, record);
}

/// Appends an encoded word to a frame of the orders topic.
pub fn put_word(out: &mut Vec<u8>, word: &[u8]) {
    out.push(2);
    put_bytes(out, word);
}

/// An entry of the orders topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// [`crate::order`] record.
    Placed(&'a [u8]),
    /// Encoded [`crate::word::Word`].
    Word(&'a [u8]),
}

/// The epoch of a frame, and the reader behind its head.
fn open(frame: &[u8]) -> Result<(u16, Reader<'_>), CodecError> {
    let mut r = Reader::new(frame);
    if r.byte("frame version")? != VERSION {
        return Err(CodecError { what: "frame version" });
    }
    Ok((u16::from_le_bytes(r.array("epoch")?), r))
}

/// Entries one after another; the last is an error if the frame is damaged there.
fn each<'a, T>(
    mut r: Reader<'a>,
    read: impl Fn(&mut Reader<'a>) -> Result<T, CodecError>,
) -> impl Iterator<Item = Result<T, CodecError>> {
    std::iter::from_fn(move || {
        if r.is_empty() {
            return None;
        }
        let next = read(&mut r);
        if next.is_err() {
            r = Reader::new(&[]);
        }
        Some(next)
    })
}

/// The epoch and the entries of a frame of the orders topic.
///
/// # Errors
/// [`CodecError`] if it is no frame of a known version.
pub fn inputs(frame: &[u8]) -> Result<(u16, impl Iterator<Item = Result<Input<'_>, CodecError>>), CodecError> {
    let (epoch, r) = open(frame)?;
    Ok((epoch, each(r, read_input)))
}

fn read_input<'a>(r: &mut Reader<'a>) -> Result<Input<'a>, CodecError> {
    match r.byte("entry tag")? {
        1 => r.bytes("order record").map(Input::Placed),
        2 => r.bytes("word").map(Input::Word),
        _ => Err(CodecError { what: "entry tag" }),
    }
}

/// An entry of the decisions topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// An order became durable.
    New {
        /// The input.
        source: Place,
        /// Order record.
        record: &'a [u8],
        /// Its deltas, the first of which is [`crate::delta::Delta::Accepted`] with `source` as its position.
        deltas: &'a [u8],
    },
    /// An order got further.
    Added {
        /// The input.
        source: Place,
        /// The order.
        order: u128,
        /// Its deltas.
        deltas: &'a [u8],
    },
    /// An owner starts here.
    Barrier {
        /// Chosen by the owner, unique.
        token: [u8; 16],
    },
}

impl Decision<'_> {
    /// Appends the entry to a frame of the decisions topic.
    pub fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Self::New { source, record, deltas } => {
                out.push(1);
                put_varint(out, source.0);
                put_bytes(out, record);
                put_bytes(out, deltas);
            }
            Self::Added { source, order, deltas } => {
                out.push(2);
                put_varint(out, source.0);
                out.extend_from_slice(&order.to_be_bytes());
                put_bytes(out, deltas);
            }
            Self::Barrier { token } => {
                out.push(3);
                out.extend_from_slice(&token);
            }
        }
    }
}

/// The epoch and the entries of a frame of the decisions topic.
///
/// # Errors
/// [`CodecError`] if it is no frame of a known version.
pub fn decisions(frame: &[u8]) -> Result<(u16, impl Iterator<Item = Result<Decision<'_>, CodecError>>), CodecError> {
    let (epoch, r) = open(frame)?;
    Ok((epoch, each(r, read_decision)))
}

fn read_decision<'a>(r: &mut Reader<'a>) -> Result<Decision<'a>, CodecError> {
    Ok(match r.byte("entry tag")? {
        1 => Decision::New {
            source: Place(r.varint("source")?),
            record: r.bytes("order record")?,
            deltas: r.bytes("deltas")?,
        },
        2 => Decision::Added {
            source: Place(r.varint("source")?),
            order: u128::from_be_bytes(r.array("order id")?),
            deltas: r.bytes("deltas")?,
        },
        3 => Decision::Barrier { token: r.array("token")? },
        _ => return Err(CodecError { what: "entry tag" }),
    })
}

/// An entry of a carrier's shipments topic: everything that its manifest needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shipment<'a> {
    /// Parcel number.
    pub parcel: u8,
    /// Attempt number.
    pub attempt: u8,
    /// Handling group code, at most 127.
    pub handling: u8,
    /// What it weighs.
    pub weight: Weight,
    /// What is in the parcel.
    pub items: Items<'a>,
    /// Order record.
    pub record: &'a [u8],
}

impl Shipment<'_> {
    /// Appends the entry to a frame of a shipments topic.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.parcel, self.attempt, self.weight.handling_byte(self.handling)]);
        put_varint(out, u64::from(self.weight.grams));
        self.items.encode_again(out);
        put_bytes(out, self.record);
    }

    /// The order's id.
    ///
    /// # Errors
    /// [`CodecError`] if the record is malformed.
    pub fn order(&self) -> Result<u128, CodecError> {
        peek_id(self.record)
    }
}

/// The epoch and the entries of a frame of a shipments topic.
///
/// # Errors
/// [`CodecError`] if it is no frame of a known version.
pub fn shipments(frame: &[u8]) -> Result<(u16, impl Iterator<Item = Result<Shipment<'_>, CodecError>>), CodecError> {
    let (epoch, r) = open(frame)?;
    Ok((epoch, each(r, read_shipment)))
}

fn read_shipment<'a>(r: &mut Reader<'a>) -> Result<Shipment<'a>, CodecError> {
    let (parcel, attempt, handling) = (r.byte("parcel")?, r.byte("attempt")?, r.byte("handling")?);
    Ok(Shipment {
        parcel,
        attempt,
        handling: handling_code(handling),
        weight: Weight::read(handling, r)?,
        items: Items::read(r)?,
        record: r.bytes("order record")?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delta::Item;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..40)
    }

    #[test]
    fn places_ascend_and_read_back() {
        let place = Place::new(1_023, (1 << 40) - 1, MAX_ENTRIES - 1);
        assert_eq!((place.partition(), place.offset(), place.entry()), (1_023, (1 << 40) - 1, MAX_ENTRIES - 1));
        assert!(Place::new(3, 7, 9) < Place::new(3, 7, 10) && Place::new(3, 7, 10) < Place::new(3, 8, 0));
    }

    proptest! {
        #[test]
        fn inputs_survive(epoch in any::<u16>(), entries in proptest::collection::vec((any::<bool>(), bytes()), 0..20)) {
            let mut frame = Vec::new();
            start(&mut frame, epoch);
            for (placed, bytes) in &entries {
                if *placed { put_placed(&mut frame, bytes) } else { put_word(&mut frame, bytes) }
            }
            let (read_epoch, read) = inputs(&frame).unwrap();
            let read: Vec<_> = read.map(Result::unwrap).collect();
            let wrote: Vec<_> = entries.iter().map(|(p, b)| if *p { Input::Placed(b) } else { Input::Word(b) }).collect();
            prop_assert_eq!((read_epoch, read), (epoch, wrote));
        }

        #[test]
        fn decisions_survive(source in any::<u64>(), order in any::<u128>(), record in bytes(), deltas in bytes(), token in any::<[u8; 16]>()) {
            let wrote = [
                Decision::New { source: Place(source), record: &record, deltas: &deltas },
                Decision::Added { source: Place(source), order, deltas: &deltas },
                Decision::Barrier { token },
            ];
            let mut frame = Vec::new();
            start(&mut frame, 7);
            wrote.iter().for_each(|d| d.put(&mut frame));
            let read: Vec<_> = decisions(&frame).unwrap().1.map(Result::unwrap).collect();
            prop_assert_eq!(&read[..], &wrote[..]);
        }

        #[test]
        fn shipments_survive(parcel: u8, attempt: u8, handling in 0u8..128, grams: u32, estimated: bool, line: u16, record in bytes()) {
            let mut items = Vec::new();
            Items::encode(&[Item { line, quantity: Some(3) }], &mut items);
            let items = Items::read(&mut Reader::new(&items)).unwrap();
            let wrote = Shipment { parcel, attempt, handling, weight: Weight { grams, estimated }, items, record: &record };
            let mut frame = Vec::new();
            start(&mut frame, 7);
            wrote.put(&mut frame);
            let read: Vec<_> = shipments(&frame).unwrap().1.map(Result::unwrap).collect();
            prop_assert_eq!(&read[..], &[wrote][..]);
        }

        #[test]
        fn noise_is_no_panic(noise in bytes()) {
            let mut frame = vec![VERSION, 0, 0];
            frame.extend_from_slice(&noise);
            inputs(&frame).unwrap().1.for_each(drop);
            decisions(&frame).unwrap().1.for_each(drop);
            shipments(&frame).unwrap().1.for_each(drop);
            prop_assert!(inputs(&[9, 0, 0]).is_err());
        }
    }
}
