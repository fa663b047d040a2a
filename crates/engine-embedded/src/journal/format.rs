//! The journal on disk.
//!
//! ```text
//! segment file  journal-<index, 10 digits>.seg, preallocated; position in the log = index × segment size + offset
//! group         the unit of writing and of durability; starts at a multiple of 4,096 bytes, zeros after it
//!   magic "SLG1" | crc32c u32 (of all that follows, to the end of the payload) | journal u64 | sequence u64
//!   | position u64 | payload length u32 | time u32                               (40 bytes, little endian) | payload
//! frame         one commit of one partition; a payload is a sequence of frames
//!   length u32 | partition u16 | version u8 = 1 | 0 | sections
//! section       kind u8 | length u32 | body
//!   1 orders     (length varint, order record)*            at most one, and first
//!   2 deltas     (target, delta)*
//!   3 requests   carrier str, (target, requested delta)*   the outbox of that carrier
//!   4 sending    carrier str, position u64                 entries up to it may have been sent
//! target        0, order id 16 bytes BE | offset + 1 varint of the order within this frame's orders body
//! ```
//! A group is written only after the one before it is synced, so a crash can damage the last group alone. Damage with
//! a valid group of a higher sequence behind it is therefore rot, and stops the open; damage in the last group is a
//! torn write, and is cut off. `journal` is drawn when the log is created: bytes of another log can't pass for ours.
//! `time` is when the group was closed, s since the Unix epoch, and never less than that of a group before it. It is 0 where an
//! earlier version has written: all such groups stand before the others.

use sluice_schemas::{
    CodecError,
    delta::Delta,
    order::peek_id,
    wire::{Reader, put_bytes, put_varint},
};

/// First bytes of a group.
pub const MAGIC: [u8; 4] = *b"SLG1";
/// Bytes before a group's payload.
pub const GROUP_HEAD: usize = 40;
/// Bytes before a frame's sections.
pub const FRAME_HEAD: usize = 8;
/// Bytes before a section's body.
pub const SECTION_HEAD: usize = 5;
/// Version byte of the frames described above.
pub const FRAME_VERSION: u8 = 1;

/// Section kinds.
pub mod kind {
    /// Order records.
    pub const ORDERS: u8 = 1;
    /// Deltas of any order.
    pub const DELTAS: u8 = 2;
    /// Requests to one carrier.
    pub const REQUESTS: u8 = 3;
    /// A sending mark of one carrier.
    pub const SENDING: u8 = 4;
}

/// A group's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHead {
    /// CRC32C of everything behind this field.
    pub crc: u32,
    /// Which log.
    pub journal: u64,
    /// From 1, without gaps.
    pub sequence: u64,
    /// Where the group starts in the log.
    pub position: u64,
    /// Bytes of payload.
    pub payload: u32,
    /// When it was closed, s since the Unix epoch; 0 if an earlier version has written it.
    pub time_s: u32,
}

impl GroupHead {
    /// The head as bytes, with its checksum as given.
    pub fn to_bytes(self) -> [u8; GROUP_HEAD] {
        let mut out = [0; GROUP_HEAD];
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.crc.to_le_bytes());
        out[8..16].copy_from_slice(&self.journal.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.position.to_le_bytes());
        out[32..36].copy_from_slice(&self.payload.to_le_bytes());
        out[36..].copy_from_slice(&self.time_s.to_le_bytes());
        out
    }

    /// Reads a head; `None` if it isn't one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        if r.array::<4>("magic").ok()? != MAGIC {
            return None;
        }
        Some(Self {
            crc: u32::from_le_bytes(r.array("crc").ok()?),
            journal: u64::from_le_bytes(r.array("journal").ok()?),
            sequence: u64::from_le_bytes(r.array("sequence").ok()?),
            position: u64::from_le_bytes(r.array("position").ok()?),
            payload: u32::from_le_bytes(r.array("payload").ok()?),
            time_s: u32::from_le_bytes(r.array("time").ok()?),
        })
    }

    /// The checksum that `payload_crc` (of the payload alone) makes with this head.
    pub fn checksum(self, payload: &[u8]) -> u32 {
        let head = self.to_bytes();
        crc32c::crc32c_append(crc32c::crc32c(&head[8..]), payload)
    }
}

/// Builds one frame in a reused buffer.
#[derive(Debug, Default)]
pub struct FrameWriter {
    bytes: Vec<u8>,
    section: usize,
}

impl FrameWriter {
    /// Starts an empty frame of `partition`.
    pub fn start(&mut self, partition: u16) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&partition.to_le_bytes());
        self.bytes.extend_from_slice(&[FRAME_VERSION, 0]);
    }

    /// Starts a section; everything appended to [`FrameWriter::body`] until [`FrameWriter::close`] is its body.
    pub fn open(&mut self, kind: u8) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&[0; 4]);
        self.section = self.bytes.len();
    }

    /// The buffer that the open section's body is appended to.
    pub fn body(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Offset in the open section's body.
    pub fn offset(&self) -> usize {
        self.bytes.len() - self.section
    }

    /// Ends the open section; an empty one is taken back.
    pub fn close(&mut self) {
        let len = self.offset();
        if len == 0 {
            self.bytes.truncate(self.section - SECTION_HEAD);
        } else {
            self.bytes[self.section - 4..self.section].copy_from_slice(&(len as u32).to_le_bytes());
        }
    }

    /// Adds a sending mark.
    pub fn sending(&mut self, carrier: &str, position: u64) {
        self.open(kind::SENDING);
        put_bytes(&mut self.bytes, carrier.as_bytes());
        self.bytes.extend_from_slice(&position.to_le_bytes());
        self.close();
    }

    /// Ends the frame and gives its bytes; `None` if it has no section.
    pub fn finish(&mut self) -> Option<&[u8]> {
        if self.bytes.len() == FRAME_HEAD {
            return None;
        }
        let len = (self.bytes.len() - FRAME_HEAD) as u32;
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        Some(&self.bytes)
    }
}

/// Which order an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An order of an earlier frame.
    Id(u128),
    /// An order of this frame, by offset within the orders body.
    Here(usize),
}

impl Target {
    /// Appends the target.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Target::Id(id) => {
                out.push(0);
                out.extend_from_slice(&id.to_be_bytes());
            }
            Target::Here(offset) => put_varint(out, offset as u64 + 1),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match r.number::<usize>("target")? {
            0 => Target::Id(u128::from_be_bytes(r.array("target id")?)),
            n => Target::Here(n - 1),
        })
    }
}

/// A frame read in place.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The partition that committed it.
    pub partition: u16,
    /// Where its first section starts, within the bytes it was read from.
    pub start: usize,
    sections: &'a [u8],
}

/// A section read in place.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// See [`kind`].
    pub kind: u8,
    /// Where the body starts, within the bytes the frame was read from.
    pub start: usize,
    /// The body.
    pub body: &'a [u8],
}

/// Walks the frames of a payload.
pub fn frames(payload: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, CodecError>> {
    let mut at = 0;
    let mut next = move || -> Result<Option<Frame<'_>>, CodecError> {
        if at == payload.len() {
            return Ok(None);
        }
        let mut r = Reader::new(&payload[at..]);
        let len = u32::from_le_bytes(r.array("frame length")?) as usize;
        let partition = u16::from_le_bytes(r.array("frame partition")?);
        if r.byte("frame version")? != FRAME_VERSION {
            return Err(CodecError { what: "frame version" });
        }
        r.byte("frame version")?;
        let frame = Frame { partition, start: at + FRAME_HEAD, sections: r.take(len, "frame")? };
        at += FRAME_HEAD + len;
        Ok(Some(frame))
    };
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let item = next().transpose();
        failed = matches!(item, Some(Err(_)));
        item
    })
}

impl<'a> Frame<'a> {
    /// Where it ends, within the bytes it was read from.
    pub fn end(&self) -> usize {
        self.start + self.sections.len()
    }

    /// Walks the sections.
    pub fn sections(&self) -> impl Iterator<Item = Result<Section<'a>, CodecError>> + use<'a> {
        let (sections, start) = (self.sections, self.start);
        let mut r = Reader::new(sections);
        std::iter::from_fn(move || {
            if r.is_empty() {
                return None;
            }
            let read = |r: &mut Reader<'a>| {
                let kind = r.byte("section kind")?;
                let len = u32::from_le_bytes(r.array("section length")?) as usize;
                let at = start + sections.len() - r.rest().len();
                Ok(Section { kind, start: at, body: r.take(len, "section")? })
            };
            let item = read(&mut r);
            if item.is_err() {
                r = Reader::new(&[]);
            }
            Some(item)
        })
    }

    /// The orders body, if the frame has one.
    pub fn orders(&self) -> Option<Section<'a>> {
        self.sections().next()?.ok().filter(|s| s.kind == kind::ORDERS)
    }
}

/// Walks an orders body: offset of each record's length, and the record.
pub fn orders(body: &[u8]) -> impl Iterator<Item = Result<(usize, &[u8]), CodecError>> {
    let mut r = Reader::new(body);
    std::iter::from_fn(move || {
        if r.is_empty() {
            return None;
        }
        let offset = body.len() - r.rest().len();
        let item = r.bytes("order record").map(|record| (offset, record));
        if item.is_err() {
            r = Reader::new(&[]);
        }
        Some(item)
    })
}

/// The order record at `offset` of an orders body, or of any bytes that start with its length.
///
/// # Errors
/// [`CodecError`] if it is cut short.
pub fn order_at(body: &[u8], offset: usize) -> Result<&[u8], CodecError> {
    let tail = body.get(offset..).ok_or(CodecError { what: "order offset" })?;
    Reader::new(tail).bytes("order record")
}

/// An entry of a deltas or requests body.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Where the entry starts in the body.
    pub offset: usize,
    /// Which order.
    pub target: Target,
    /// ms after the order's `placed_at`.
    pub late_ms: i64,
    /// The delta, decoded.
    pub delta: Delta<'a>,
    /// The delta as bytes.
    pub bytes: &'a [u8],
}

/// Walks the entries of a body from `from` on.
pub fn entries(body: &[u8], from: usize) -> impl Iterator<Item = Result<Entry<'_>, CodecError>> {
    let mut r = Reader::new(body.get(from..).unwrap_or_default());
    std::iter::from_fn(move || {
        if r.is_empty() {
            return None;
        }
        let item = next_entry(body, &mut r);
        if item.is_err() {
            r = Reader::new(&[]);
        }
        Some(item)
    })
}

fn next_entry<'a>(body: &'a [u8], r: &mut Reader<'a>) -> Result<Entry<'a>, CodecError> {
    let offset = body.len() - r.rest().len();
    let target = Target::read(r)?;
    let before = r.rest();
    let (late_ms, delta) = Delta::read(r)?;
    let bytes = &before[..before.len() - r.rest().len()];
    Ok(Entry { offset, target, late_ms, delta, bytes })
}

/// The carrier that a requests or sending body is for, and where the rest starts.
///
/// # Errors
/// [`CodecError`] if it is cut short.
pub fn carrier_of(body: &[u8]) -> Result<(&str, usize), CodecError> {
    let mut r = Reader::new(body);
    let carrier = r.str("carrier")?;
    Ok((carrier, body.len() - r.rest().len()))
}

/// The order id an entry is about.
///
/// # Errors
/// [`CodecError`] if the frame holds no such order.
pub fn target_id(target: Target, orders: Option<&Section<'_>>) -> Result<u128, CodecError> {
    match target {
        Target::Id(id) => Ok(id),
        Target::Here(offset) => {
            let section = orders.ok_or(CodecError { what: "target order" })?;
            peek_id(order_at(section.body, offset)?)
        }
    }
}
