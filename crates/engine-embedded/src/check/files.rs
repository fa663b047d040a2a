//! The store's files, without the store: whoever has to say which byte is damaged can't rely on a library that only says
//! that something is.
//!
//! ```text
//! <n>.jnl                      batches: 1 start (count u32, seqno u64), 2 item…, 4 clear…, 3 end (xxh3-64, "FJL" 3);
//!                              preallocated with zeros
//! keyspaces/<id>/current       number u64, xxh3-128 of the version file, kind u8
//! keyspaces/<id>/v<number>     archive; its section `tables` lists each table with its xxh3-128
//! keyspaces/<id>/tables/<id>   archive; blocks of a 33-byte head ("LSM" 3, type, xxh3-128 of the data, length, length,
//!                              xxh3 of the head) and data
//! ```

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use sluice_pipeline::LogError;
use sluice_schemas::{CodecError, wire::Reader};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

use super::{Pass, Torn};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Bytes before a block's data.
const BLOCK_HEAD: usize = 33;
const BLOCK_MAGIC: &[u8; 4] = b"LSM\x03";
const BATCH_END: &[u8; 4] = b"FJL\x03";

/// All files below `folder` by their path within it, with their lengths, sorted.
pub(super) fn list(folder: &Path) -> io::Result<Vec<(String, u64)>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if let Ok(path) = entry.path().strip_prefix(folder) {
                found.push((path.to_string_lossy().into_owned(), entry.metadata()?.len()));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Verifies every file that counts; what an earlier version of a keyspace used is left alone.
pub(super) fn verify(store: &Path, files: &[(String, u64)], pass: &mut Pass<'_>) -> Result<(), LogError> {
    for (name, _) in files {
        let path = store.join(name);
        let failed = |e: io::Error| LogError::io(format!("reading store/{name}"))(e);
        if name.ends_with(".jnl") {
            batches(&path, name, pass).map_err(failed)?;
        } else if let Some(keyspace) = name.strip_suffix("/current") {
            version(store, keyspace, pass)?;
        }
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------------ keyspaces and tables

fn version(store: &Path, keyspace: &str, pass: &mut Pass<'_>) -> Result<(), LogError> {
    let current = format!("{keyspace}/current");
    let failed = |name: &str| LogError::io(format!("reading store/{name}"));
    let bytes = std::fs::read(store.join(&current)).map_err(failed(&current))?;
    let read = |r: &mut Reader<'_>| -> Result<(u64, u128), CodecError> {
        Ok((u64::from_le_bytes(r.array("version")?), u128::from_le_bytes(r.array("checksum")?)))
    };
    let Ok((number, checksum)) = read(&mut Reader::new(&bytes)) else {
        pass.report.damaged(format!("store/{current}"), 0, "too short for a version and its checksum");
        return Ok(());
    };
    let name = format!("{keyspace}/v{number}");
    let listed = match std::fs::read(store.join(&name)) {
        Ok(bytes) if xxh3_128(&bytes) == checksum => tables_of(&store.join(&name)),
        Ok(_) => Err("its checksum does not fit the one in `current`".into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err("`current` names this file, and it is missing".into()),
        Err(e) => return Err(failed(&name)(e)),
    };
    match listed {
        Ok(tables) => {
            for (id, checksum) in tables {
                table(store, &format!("{keyspace}/tables/{id}"), checksum, pass)?;
            }
        }
        Err(what) => pass.report.damaged(format!("store/{name}"), 0, what),
    }
    Ok(())
}

/// Tables that a version lists, each with its checksum.
fn tables_of(path: &Path) -> Result<Vec<(u64, u128)>, String> {
    let archive = sfa::Reader::new(path).map_err(|e| format!("its table of contents can't be read: {e:?}"))?;
    let section = archive.toc().section(b"tables").ok_or("it lists no tables")?;
    let mut bytes = Vec::new();
    let read = section.buf_reader(path).and_then(|mut r| r.read_to_end(&mut bytes));
    read.map_err(|e| format!("its list of tables can't be read: {e}"))?;
    let mut r = Reader::new(&bytes);
    let mut list = || -> Result<Vec<(u64, u128)>, CodecError> {
        let mut tables = Vec::new();
        for _ in 0..r.byte("levels")? {
            for _ in 0..r.byte("runs")? {
                for _ in 0..u32::from_le_bytes(r.array("tables")?) {
                    let id = u64::from_le_bytes(r.array("table")?);
                    r.byte("kind of checksum")?;
                    tables.push((id, u128::from_le_bytes(r.array("checksum")?)));
                    r.array::<8>("sequence number")?;
                }
            }
        }
        Ok(tables)
    };
    list().map_err(|e| e.to_string())
}

fn table(store: &Path, name: &str, checksum: u128, pass: &mut Pass<'_>) -> Result<(), LogError> {
    let failed = || LogError::io(format!("reading store/{name}"));
    let mut file = match File::open(store.join(name)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            pass.report.damaged(format!("store/{name}"), 0, "the table is missing");
            return Ok(());
        }
        Err(e) => return Err(failed()(e)),
    };
    let (mut hasher, mut chunk) = (Xxh3::new(), vec![0; CHUNK]);
    loop {
        let read = file.read(&mut chunk).map_err(failed())?;
        if read == 0 {
            break;
        }
        hasher.update(&chunk[..read]);
        pass.advance(read as u64);
    }
    if hasher.digest128() == checksum {
        return Ok(());
    }
    let before = pass.report.damage_found;
    blocks(&mut file, name, pass).map_err(failed())?;
    if pass.report.damage_found == before {
        let what = "the checksum of the whole file does not fit, though that of every block does: its end is damaged";
        let end = file.metadata().map_err(failed())?.len();
        pass.report.damaged(format!("store/{name}"), end.saturating_sub(1), what);
    }
    Ok(())
}

/// Walks the blocks of a damaged table and names those that don't fit.
fn blocks(file: &mut File, name: &str, pass: &mut Pass<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    // A table is at most 64 MiB; only damaged ones get here, one at a time.
    file.read_to_end(&mut bytes)?;
    let (mut at, mut lost) = (0, false);
    while let Some(start) = find(&bytes, BLOCK_MAGIC, at) {
        if start > at && !lost && !is_archive_part(&bytes[at..start]) {
            pass.report.damaged(format!("store/{name}"), at as u64, "no block where one should start");
        }
        (at, lost) = match block(&bytes[start..]) {
            Ok(len) => (start + len, false),
            Err(what) => {
                pass.report.damaged(format!("store/{name}"), start as u64, what);
                (start + BLOCK_MAGIC.len(), true)
            }
        };
    }
    Ok(())
}

/// Between blocks an archive has one other part that this store writes: the version of the format, a single byte.
fn is_archive_part(bytes: &[u8]) -> bool {
    bytes == [3]
}

/// The length of the block at the start of `bytes`.
fn block(bytes: &[u8]) -> Result<usize, &'static str> {
    let Some(head) = bytes.get(..BLOCK_HEAD) else { return Err("the file ends within a block's head") };
    let word = |at: usize| head[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
    if xxh3_128(&head[..29]) as u32 != word(29) {
        return Err("the checksum of a block's head does not fit");
    }
    let len = word(21) as usize;
    let Some(data) = bytes.get(BLOCK_HEAD..BLOCK_HEAD + len) else { return Err("the file ends within a block") };
    let expected = head[5..21].try_into().map(u128::from_le_bytes).unwrap_or_default();
    if xxh3_128(data) == expected { Ok(BLOCK_HEAD + len) } else { Err("the checksum of a block does not fit") }
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    bytes.get(from..)?.windows(what.len()).position(|w| w == what).map(|at| from + at)
}

// ----------------------------------------------------------------------------------------------------- the store's log

/// Verifies the store's own log, which has the newest heads and filters.
fn batches(path: &Path, name: &str, pass: &mut Pass<'_>) -> io::Result<()> {
    let bytes = std::fs::read(path)?;
    pass.advance(bytes.len() as u64);
    let mut at = 0;
    while at < bytes.len() {
        match batch(&bytes[at..]) {
            Ok(len) => at += len,
            Err(_) if bytes[at..].iter().all(|&b| b == 0) => return Ok(()),
            Err(what) => {
                let file = format!("store/{name}");
                let Some(end) = find(&bytes, BATCH_END, at) else {
                    pass.report.torn.push(Torn { file, offset: at as u64 });
                    return Ok(());
                };
                pass.report.damaged(file, at as u64, format!("a batch that was written to its end: {what}"));
                at = end + BATCH_END.len();
            }
        }
    }
    Ok(())
}

/// The length of the batch at the start of `bytes`.
fn batch(bytes: &[u8]) -> Result<usize, CodecError> {
    let mut r = Reader::new(bytes);
    if r.byte("start")? != 1 {
        return Err(CodecError { what: "start" });
    }
    let count = u32::from_le_bytes(r.array("count")?);
    r.array::<8>("sequence number")?;
    let start = bytes.len() - r.rest().len();
    for _ in 0..count {
        match r.byte("entry")? {
            2 => {
                r.array::<2>("kinds")?;
                r.array::<8>("keyspace")?;
                let key = u16::from_le_bytes(r.array("key length")?);
                r.array::<4>("value length")?;
                let value = u32::from_le_bytes(r.array("stored length")?);
                r.take(usize::from(key) + value as usize, "key and value")?;
            }
            4 => {
                r.array::<8>("keyspace")?;
            }
            _ => return Err(CodecError { what: "entry" }),
        }
    }
    let items = &bytes[start..bytes.len() - r.rest().len()];
    if r.byte("end")? != 3 {
        return Err(CodecError { what: "end" });
    }
    if u64::from_le_bytes(r.array("checksum")?) != xxh3_64(items) || r.array::<4>("end mark")? != *BATCH_END {
        return Err(CodecError { what: "checksum" });
    }
    Ok(bytes.len() - r.rest().len())
}
