//! The frame that all data files share, those of models too: header, checksum, and a zstd frame of columns.
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | magic |
//! | 8..12 | format version, u32 little-endian like all that follow |
//! | 12..16 | rows |
//! | 16..20 | length of the payload, unpacked |
//! | 20..24 | CRC32C of bytes 0..20 and of everything from byte 24 on |
//! | 24.. | the payload as one zstd frame |
//!
//! The payload is a row of columns, each a u32 length and as many bytes. Numbers in a column are unsigned LEB128.

use std::io::Read;

use ruzstd::{
    decoding::StreamingDecoder,
    encoding::{CompressionLevel, compress_to_vec},
};

use crate::DataError;

const FORMAT_VERSION: u32 = 1;
const HEADER: usize = 24;
/// All files, with every basket of the source stay below a third of this; a header that promises more is not ours.
const LARGEST_PAYLOAD: usize = 64 << 20;

/// A file whose checksum holds.
pub struct File {
    name: &'static str,
    /// The checksum in its header, which names its content.
    pub crc: u32,
    /// How many rows it says to have.
    pub rows: usize,
    payload: Vec<u8>,
}

impl File {
    /// Opens `bytes` as a file that begins with `magic`; `name` is what errors call it.
    ///
    /// # Errors
    /// When the frame is short, damaged, of another kind or version, or doesn't unpack.
    pub fn open(name: &'static str, magic: &[u8; 8], bytes: &[u8]) -> Result<Self, DataError> {
        let (Some(head), Some(packed)) = (bytes.first_chunk::<HEADER>(), bytes.get(HEADER..)) else {
            return Err(DataError::Short { file: name, length: bytes.len() });
        };
        let [m0, m1, m2, m3, m4, m5, m6, m7, numbers @ ..] = *head;
        if [m0, m1, m2, m3, m4, m5, m6, m7] != *magic {
            return Err(DataError::Magic { file: name });
        }
        let [v0, v1, v2, v3, r0, r1, r2, r3, l0, l1, l2, l3, c0, c1, c2, c3] = numbers;
        let found = u32::from_le_bytes([v0, v1, v2, v3]);
        let rows = u32::from_le_bytes([r0, r1, r2, r3]) as usize;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let stored = u32::from_le_bytes([c0, c1, c2, c3]);
        let (checked_head, _) = head.split_at(HEADER - 4);
        let computed = crc32c::crc32c_append(crc32c::crc32c(checked_head), packed);
        if stored != computed {
            return Err(DataError::Checksum { file: name, stored, computed });
        }
        if found != FORMAT_VERSION {
            return Err(DataError::Version { file: name, found, supported: FORMAT_VERSION });
        }
        let payload = unpack(name, packed, length)?;
        // A row takes at least a byte, so what is allocated for rows stays in proportion to the file.
        if rows > payload.len() {
            return Err(DataError::Unpack { file: name, reason: format!("{rows} rows don't fit in {length} bytes") });
        }
        Ok(Self { name, crc: stored, rows, payload })
    }

    /// The payload, column by column.
    #[must_use]
    pub fn columns(&self) -> Columns<'_> {
        Columns { file: self.name, rest: &self.payload }
    }
}

/// The bytes of a file with these columns.
///
/// # Errors
/// When a number of the header would need more than 32 bits, or the payload is longer than a reader takes.
pub fn encode(name: &'static str, magic: &[u8; 8], rows: usize, columns: &[&[u8]]) -> Result<Vec<u8>, DataError> {
    let number = |n: usize| {
        let fits = u32::try_from(n).ok().filter(|_| n <= LARGEST_PAYLOAD);
        let reason = format!("{n} is more than {LARGEST_PAYLOAD}, the most that a reader takes");
        fits.map(u32::to_le_bytes).ok_or(DataError::Unpack { file: name, reason })
    };
    let mut payload = Vec::with_capacity(columns.iter().map(|column| column.len() + 4).sum());
    for column in columns {
        payload.extend_from_slice(&number(column.len())?);
        payload.extend_from_slice(column);
    }
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&number(rows)?);
    bytes.extend_from_slice(&number(payload.len())?);
    let packed = compress_to_vec(payload.as_slice(), CompressionLevel::Fastest);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &packed);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&packed);
    Ok(bytes)
}

/// Appends a number as a column's [`Column::number`] reads it.
pub fn push_number(column: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        column.push(number as u8 & 0x7f | 0x80);
        number >>= 7;
    }
    column.push(number as u8);
}

fn unpack(file: &'static str, packed: &[u8], length: usize) -> Result<Vec<u8>, DataError> {
    let refuse = |reason: String| DataError::Unpack { file, reason };
    if length > LARGEST_PAYLOAD {
        return Err(refuse(format!("{length} bytes are more than {LARGEST_PAYLOAD}")));
    }
    let decoder = StreamingDecoder::new(packed).map_err(|error| refuse(error.to_string()))?;
    let mut payload = Vec::with_capacity(length + 1);
    let limit = length as u64 + 1;
    decoder.take(limit).read_to_end(&mut payload).map_err(|error| refuse(error.to_string()))?;
    if payload.len() != length {
        return Err(refuse(format!("{length} bytes were promised, {} or more came", payload.len())));
    }
    Ok(payload)
}

/// The columns of a file, in order.
pub struct Columns<'a> {
    file: &'static str,
    rest: &'a [u8],
}

impl<'a> Columns<'a> {
    /// The next column; `name` is what errors call it.
    ///
    /// # Errors
    /// When there is none, or it is cut short.
    pub fn next(&mut self, name: &'static str) -> Result<Column<'a>, DataError> {
        let missing = DataError::Column { file: self.file, column: name, problem: "is missing or cut short" };
        let Some((length, rest)) = self.rest.split_first_chunk::<4>() else {
            return Err(missing);
        };
        let Some((bytes, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            return Err(missing);
        };
        self.rest = rest;
        Ok(Column { file: self.file, name, rest: bytes })
    }
}

/// One column, read from the front.
pub struct Column<'a> {
    file: &'static str,
    name: &'static str,
    rest: &'a [u8],
}

impl<'a> Column<'a> {
    /// What is wrong with this column.
    #[must_use]
    pub fn error(&self, problem: &'static str) -> DataError {
        DataError::Column { file: self.file, column: self.name, problem }
    }

    /// How many bytes nobody has read.
    #[must_use]
    pub fn bytes_left(&self) -> usize {
        self.rest.len()
    }

    /// All that is left of it, as bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.rest
    }

    /// All that is left of it, as text.
    ///
    /// # Errors
    /// When it isn't UTF-8.
    pub fn text(&self) -> Result<&'a str, DataError> {
        std::str::from_utf8(self.rest).map_err(|_| self.error("is not UTF-8"))
    }

    /// The next byte.
    ///
    /// # Errors
    /// When there is none.
    pub fn byte(&mut self) -> Result<u8, DataError> {
        let (&first, rest) = self.rest.split_first().ok_or_else(|| self.error("ends early"))?;
        self.rest = rest;
        Ok(first)
    }

    /// The next number.
    ///
    /// # Errors
    /// When there is none, or it has more than 32 bits.
    pub fn number(&mut self) -> Result<u32, DataError> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| self.error("holds a number over 32 bits"));
            }
        }
        Err(self.error("holds a number over 32 bits"))
    }

    /// Left-over bytes mean that the columns don't line up, even if every value looked plausible.
    ///
    /// # Errors
    /// When something is left.
    pub fn finish(&self) -> Result<(), DataError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("holds more values than rows")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMBEDDED: &[u8] = include_bytes!("../catalogue.sld");

    fn open(bytes: &[u8]) -> Result<File, DataError> {
        File::open("catalogue", b"SLUICECT", bytes)
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        for at in (0..EMBEDDED.len()).step_by(997).chain(0..HEADER) {
            let mut bytes = EMBEDDED.to_vec();
            bytes[at] ^= 0x10;
            let error = open(&bytes).err().unwrap();
            let named = if at < 8 {
                matches!(error, DataError::Magic { .. })
            } else {
                matches!(error, DataError::Checksum { .. })
            };
            assert!(named, "byte {at}: {error}");
        }
    }

    #[test]
    fn a_cut_file_is_refused() {
        assert_eq!(open(&EMBEDDED[..23]).err(), Some(DataError::Short { file: "catalogue", length: 23 }));
        assert!(matches!(open(&EMBEDDED[..EMBEDDED.len() - 1]).err(), Some(DataError::Checksum { .. })));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut numbers = Vec::new();
        [0, 127, 128, u32::MAX].into_iter().for_each(|number| push_number(&mut numbers, number));
        let mut column = Column { file: "f", name: "c", rest: &numbers };
        assert_eq!([0; 4].map(|_| column.number().unwrap()), [0, 127, 128, u32::MAX]);
        let (text, long) = (b"a\nb".as_slice(), vec![7; 300_000]);
        let bytes = encode("f", b"SLUICECT", 2, &[text, &long]).unwrap();
        assert!(bytes.len() < 10_000);
        let file = open(&bytes).unwrap();
        let mut columns = file.columns();
        assert_eq!((file.rows, columns.next("text").unwrap().text()), (2, Ok("a\nb")));
        assert_eq!(columns.next("long").unwrap().bytes(), long);
        assert!(columns.next("third").is_err());
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = EMBEDDED.to_vec();
        bytes[8] = 9;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..20]), &bytes[24..]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(open(&bytes).err(), Some(DataError::Version { file: "catalogue", found: 9, supported: 1 }));
    }

    #[test]
    fn numbers_end_where_they_should() {
        let mut column = Column { file: "f", name: "c", rest: &[0x00, 0xac, 0x02, 0xff, 0xff, 0xff, 0xff, 0x0f] };
        assert_eq!((column.number(), column.number(), column.number()), (Ok(0), Ok(300), Ok(u32::MAX)));
        assert!(column.finish().is_ok());
        assert!(column.number().is_err());
        let mut wide = Column { file: "f", name: "c", rest: &[0xff, 0xff, 0xff, 0xff, 0x1f] };
        assert!(wide.number().is_err());
    }
}
