//! Verifying a stopped data folder: every group of the journal, every entry of the store, and that they fit together.
//!
//! Three passes, each with bounded memory: the store's files against their checksums ([`files`]), the journal from its
//! first byte ([`log`]), and then rows, index and checkpoint head against the journal ([`entries`]). Damage is listed and
//! stepped over. A store whose files are damaged is not opened: opening it would change it, and might panic.

mod entries;
mod files;
mod log;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use serde::Serialize;
use sluice_pipeline::{Disk, LogError};

use crate::{DataLock, RealDisk, journal::Segments};

/// Damage listed; more is only counted.
const MAX_LISTED: usize = 100;

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckProgress {
    /// Bytes looked at.
    pub done: u64,
    /// Bytes to look at, in all passes.
    pub total: u64,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// File, below the data folder.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

/// An unfinished last write, which the next start cuts off. A crash leaves it; it is no damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Torn {
    /// File, below the data folder.
    pub file: String,
    /// Where it starts.
    pub offset: u64,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct CheckReport {
    /// True if nothing is damaged.
    pub sound: bool,
    /// Segments of the journal.
    pub segments: u64,
    /// Groups in it, empty ones included.
    pub groups: u64,
    /// Order records in it.
    pub orders: u64,
    /// Deltas in it.
    pub deltas: u64,
    /// Orders that have a row in the store.
    pub rows: u64,
    /// Entries of the duplicate index in the store.
    pub index_entries: u64,
    /// Entries by which orders are found, in the store.
    pub lookup_entries: u64,
    /// Number of the last checkpoint; 0 if there is none.
    pub checkpoint: u32,
    /// Bytes of journal and store.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Unfinished last writes.
    pub torn: Vec<Torn>,
    /// Pieces of damage found.
    pub damage_found: u64,
    /// The first of them.
    pub damage: Vec<Damage>,
    /// What could not be looked at because of damage elsewhere.
    pub skipped: Vec<String>,
}

impl CheckReport {
    fn damaged(&mut self, file: impl Into<String>, offset: u64, what: impl Into<String>) {
        self.damage_found += 1;
        if self.damage.len() < MAX_LISTED {
            self.damage.push(Damage { file: file.into(), offset, what: what.into() });
        }
    }

    /// Notes `error` if it is damage; gives it back if the check can't go on.
    fn note(&mut self, error: LogError) -> Result<(), LogError> {
        match error {
            LogError::Damaged { file, offset, what } => self.damaged(format!("journal/{file}"), offset, what),
            LogError::Store(what) => self.damaged("store", 0, what),
            other => return Err(other),
        }
        Ok(())
    }
}

/// What the passes share.
struct Pass<'a> {
    report: CheckReport,
    progress: CheckProgress,
    tell: &'a mut dyn FnMut(CheckProgress),
}

impl Pass<'_> {
    fn advance(&mut self, bytes: u64) {
        self.progress.done = (self.progress.done + bytes).min(self.progress.total);
        (self.tell)(self.progress);
    }
}

/// Verifies the data folder `data_dir`, which no process may be using.
///
/// # Errors
/// [`LogError`] if the folder is in use or the device fails. Damage is no error: it is what the report is for.
pub fn check(data_dir: &Path, progress: &mut dyn FnMut(CheckProgress)) -> Result<CheckReport, LogError> {
    let started = Instant::now();
    let (journal, store) = (data_dir.join("journal"), data_dir.join("store"));
    if !journal.is_dir() || !store.is_dir() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "it has no folders `journal` and `store`");
        return Err(LogError::Io { what: format!("checking {}", data_dir.display()), source });
    }
    let _lock = DataLock::take(data_dir)?;
    let store_files = files::list(&store).map_err(LogError::io("listing the store"))?;
    let store_bytes: u64 = store_files.iter().map(|f| f.1).sum();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&journal).map_err(LogError::io("opening the journal"))?);
    let journal_bytes = folder_bytes(&journal).map_err(LogError::io("listing the journal"))?;
    // The store is read twice: its files, then its entries.
    let total = journal_bytes + 2 * store_bytes;
    let report = CheckReport { bytes: journal_bytes + store_bytes, ..CheckReport::default() };
    let mut pass = Pass { report, progress: CheckProgress { done: 0, total }, tell: progress };

    files::verify(&store, &store_files, &mut pass)?;
    let files_sound = pass.report.damage_found == 0;
    let opened = if files_sound { entries::open(&store, &mut pass) } else { None };
    if opened.is_none() {
        pass.report.skipped.push("the entries of the store, and whether they fit the journal".into());
    }
    let known = opened.as_ref().map(|o| o.known());
    let log = log::verify(&disk, known, &mut pass)?;
    if let (Some(opened), Some(log)) = (opened, log) {
        let segments = Segments::new(disk, log.segment_bytes);
        entries::verify(opened, &log, &segments, &mut pass)?;
    }
    let CheckProgress { total, .. } = pass.progress;
    pass.advance(total);
    let mut report = pass.report;
    report.sound = report.damage_found == 0;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn folder_bytes(folder: &PathBuf) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}
