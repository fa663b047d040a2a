//! Why a data file was refused. A damaged catalogue must stop the start-up by name: orders would otherwise be
//! classified by nonsense.

use thiserror::Error;

/// A data file can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file is shorter than its own header.
    #[error("{file}: cut short: {length} bytes don't hold a header")]
    Short {
        /// Which file.
        file: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// The first bytes are those of something else.
    #[error("{file}: not a file of this kind: it doesn't begin with its magic")]
    Magic {
        /// Which file.
        file: &'static str,
    },
    /// The bytes aren't those that were written.
    #[error("{file}: damaged: its header says crc32c {stored:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// Which file.
        file: &'static str,
        /// The checksum in the header.
        stored: u32,
        /// The checksum of what is there.
        computed: u32,
    },
    /// The file was written by another version of the program that makes it.
    #[error(
        "{file}: format version {found}, but this build reads version {supported}; make the file anew with this version"
    )]
    Version {
        /// Which file.
        file: &'static str,
        /// The version in the header.
        found: u32,
        /// The one version that this build reads.
        supported: u32,
    },
    /// The compressed part doesn't unpack to what the header promises, or is more than a header can.
    #[error("{file}: can't be unpacked: {reason}")]
    Unpack {
        /// Which file.
        file: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// A column is missing, too short, too long or holds a value that can't be.
    #[error("{file}: column {column}: {problem}")]
    Column {
        /// Which file.
        file: &'static str,
        /// Which column.
        column: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The two files don't belong together.
    #[error("basket {basket} holds SKU {sku}, which the catalogue doesn't know")]
    UnknownSku {
        /// Index of the basket.
        basket: usize,
        /// The SKU.
        sku: u32,
    },
    /// There is nothing to write orders from.
    #[error("no basket has two lines or more")]
    NoBaskets,
}
