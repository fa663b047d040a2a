//! The ledger: what a simulated carrier did, written before anybody is told, so that an outsider can judge a run.
//!
//! A text file, appended only, one line per effect, six columns separated by tabs:
//!
//! | column | content |
//! |---|---|
//! | unix_ms | when, in milliseconds since the Unix epoch |
//! | carrier | the carrier's id |
//! | effect | `accepted`, `rejected`, `voided`, `void_refused`, or `duplicate_request`: an earlier answer was given again, which is no effect |
//! | shipment_id | `{order_id}-{parcel}-{attempt}` as the sender of these manifests forms it; of a void its own id |
//! | manifest_id | the manifest that it came in |
//! | tracking | the S10 number of an accepted shipment; the reason of a rejected one; of a void the shipment's id |
//!
//! The lines of one manifest are handed to the operating system in one write before its answer leaves, so they outlive
//! the death of the process, but not a power cut. A death in the middle of the write leaves an unfinished last line:
//! readers ignore it, and the next writer cuts it off, for nobody was answered on its strength.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// Longest line, in bytes with its newline. Ids are at most 64 bytes each, so a longer one is damage.
const MAX_LINE_BYTES: usize = 512;
const READ_BUFFER_BYTES: usize = 1 << 20;

/// What a line records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The carrier took the parcel.
    Accepted,
    /// The carrier finally refused the parcel.
    Rejected,
    /// The carrier has forgotten a shipment that it took.
    Voided,
    /// The carrier goes on with a shipment that it was asked to forget.
    VoidRefused,
    /// An earlier answer was given again; nothing happened.
    DuplicateRequest,
}

impl Effect {
    /// The word in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Voided => "voided",
            Self::VoidRefused => "void_refused",
            Self::DuplicateRequest => "duplicate_request",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        let all = [Self::Accepted, Self::Rejected, Self::Voided, Self::VoidRefused, Self::DuplicateRequest];
        all.into_iter().find(|effect| effect.as_str() == word)
    }
}

/// Why a ledger could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file could not be read or written.
    #[error("ledger {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A finished line that no carrier writes.
    #[error("ledger {path}, line {line}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// One line, borrowed from the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) unix_ms: u64,
    pub(super) carrier: &'a str,
    pub(super) effect: Effect,
    pub(super) shipment_id: &'a str,
    pub(super) manifest_id: &'a str,
    pub(super) tracking: &'a [u8],
}

impl<'a> Line<'a> {
    /// Appends the line to `out`. The ids are graphic ASCII (checked where manifests are parsed), so no tab or newline
    /// can come in with them.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        push_decimal(out, self.unix_ms);
        let effect = self.effect.as_str();
        for column in [self.carrier, effect, self.shipment_id, self.manifest_id] {
            out.push(b'\t');
            out.extend_from_slice(column.as_bytes());
        }
        out.push(b'\t');
        out.extend_from_slice(self.tracking);
        out.push(b'\n');
    }

    fn parse(line: &'a [u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
        let mut columns = text.split('\t');
        let mut column = || columns.next().filter(|text| !text.is_empty()).ok_or("fewer than six columns");
        let line = Self {
            unix_ms: column()?.parse().map_err(|_| "the time is no number")?,
            carrier: column()?,
            effect: Effect::parse(column()?).ok_or("unknown effect")?,
            shipment_id: column()?,
            manifest_id: column()?,
            tracking: column()?.as_bytes(),
        };
        columns.next().map_or(Ok(line), |_| Err("more than six columns"))
    }
}

fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// What lies behind the last line that was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) finished_bytes: u64,
    pub(super) torn_bytes: u64,
}

/// Calls `each` with every finished line in file order. Memory: one buffer, whatever the size of the file.
pub(super) fn for_each_line(
    path: &Path,
    mut each: impl FnMut(Line<'_>) -> Result<(), &'static str>,
) -> Result<End, LedgerError> {
    let failed = |source| LedgerError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, file);
    let mut bytes = Vec::with_capacity(MAX_LINE_BYTES);
    let mut end = End::default();
    let mut number = 0;
    loop {
        bytes.clear();
        let read = reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut bytes).map_err(failed)?;
        number += 1;
        let malformed = |what| LedgerError::Malformed { path: path.to_owned(), line: number, what };
        match bytes.split_last() {
            Some((b'\n', line)) => Line::parse(line).and_then(&mut each).map_err(malformed)?,
            _ if read == MAX_LINE_BYTES => return Err(malformed("longer than any carrier writes")),
            _ => {
                end.torn_bytes = read as u64;
                return Ok(end);
            }
        }
        end.finished_bytes += read as u64;
    }
}

/// The writing end, shared by all carriers of a process.
pub(super) struct LedgerWriter {
    file: Mutex<File>,
    path: PathBuf,
}

impl LedgerWriter {
    /// Opens or creates the file, shows every line that is already there to `each`, and cuts off an unfinished last one.
    pub(super) fn open(path: &Path, each: impl FnMut(Line<'_>)) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Io { path: path.to_owned(), source };
        let mut each = each;
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        let end = for_each_line(path, |line| {
            each(line);
            Ok(())
        })?;
        if end.torn_bytes > 0 {
            file.set_len(end.finished_bytes).map_err(failed)?;
            tracing::warn!(path = %path.display(), bytes = end.torn_bytes, "cut off an unfinished last line");
        }
        Ok(Self { file: Mutex::new(file), path: path.to_owned() })
    }

    /// Appends the lines of one manifest. They are in the page cache when this returns.
    pub(super) fn append(&self, lines: &[u8]) -> Result<(), LedgerError> {
        let written = self.file.lock().write_all(lines);
        written.map_err(|source| LedgerError::Io { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(shipment_id: &str) -> Line<'_> {
        Line {
            unix_ms: 1_793_750_400_123,
            carrier: "swift",
            effect: Effect::Accepted,
            shipment_id,
            manifest_id: "m-1",
            tracking: b"CA123456785US",
        }
    }

    fn bytes(lines: &[Line<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        lines.iter().for_each(|line| line.write(&mut out));
        out
    }

    fn ids(path: &Path) -> Result<(Vec<String>, End), LedgerError> {
        let mut ids = Vec::new();
        let end = for_each_line(path, |line| {
            ids.push(line.shipment_id.to_owned());
            Ok(())
        })?;
        Ok((ids, end))
    }

    #[test]
    fn a_line_reads_as_documented_and_back() {
        let written = bytes(&[line("o-1-1")]);
        assert_eq!(written, b"1793750400123\tswift\taccepted\to-1-1\tm-1\tCA123456785US\n");
        assert_eq!(Line::parse(&written[..written.len() - 1]), Ok(line("o-1-1")));
    }

    #[test]
    fn an_unfinished_last_line_is_ignored_then_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.tsv");
        let whole = bytes(&[line("a-1-1"), line("b-1-1")]);
        let first = bytes(&[line("a-1-1")]).len();
        for cut in first..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (seen, end) = ids(&path).unwrap();
            assert_eq!(seen, ["a-1-1"]);
            assert_eq!(end, End { finished_bytes: first as u64, torn_bytes: (cut - first) as u64 });
        }
        let mut shown = 0;
        let writer = LedgerWriter::open(&path, |_| shown += 1).unwrap();
        assert_eq!(shown, 1);
        writer.append(&bytes(&[line("c-1-1")])).unwrap();
        assert_eq!(ids(&path).unwrap().0, ["a-1-1", "c-1-1"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_reported() {
        let path = PathBuf::from("/dev/full");
        let file = Mutex::new(OpenOptions::new().append(true).open(&path).unwrap());
        let error = LedgerWriter { file, path }.append(b"line\n").unwrap_err();
        assert!(matches!(error, LedgerError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull));
    }

    #[test]
    fn damage_before_the_end_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.tsv");
        for (damage, named) in [
            ("\n", "fewer"),
            ("1\ta\taccepted\ts\tm\n", "fewer"),
            ("1\ta\taccepted\ts\tm\tt\tmore\n", "more"),
            ("x\ta\taccepted\ts\tm\tt\n", "time"),
            ("1\ta\tlost\ts\tm\tt\n", "effect"),
            (&"x".repeat(600), "longer"),
        ] {
            let mut content = bytes(&[line("a-1-1")]);
            content.extend_from_slice(damage.as_bytes());
            std::fs::write(&path, content).unwrap();
            let error = ids(&path).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(named), "{error}");
        }
    }
}
