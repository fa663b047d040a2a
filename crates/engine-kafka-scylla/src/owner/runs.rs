//! Generations of the duplicate index that left memory: sorted runs in files that no folder lists, so that a killed worker
//! leaves nothing behind. A restart builds the index anew from the log.

use std::{
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use sluice_domain::Fingerprint;
use sluice_pipeline::{Filter, LogError, index::Generation};

/// fingerprint 16 BE · position 8 BE
const ENTRY: usize = 24;

struct Run {
    number: u32,
    /// ms since the epoch when its last entry was added.
    ended_ms: u64,
    entries: u64,
    file: File,
}

/// Runs of one partition.
#[derive(Default)]
pub(crate) struct Runs {
    runs: Vec<Run>,
    next: u32,
}

impl Runs {
    /// Number of the next run.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Writes `generation` to a new run and gives the filter that stands for it.
    ///
    /// # Errors
    /// [`LogError::Io`], such as for a full disk; nothing is changed then.
    pub(crate) fn write(&mut self, folder: &Path, generation: &Generation, now_ms: u64) -> Result<Filter, LogError> {
        let mut entries: Vec<_> = generation.entries.iter().copied().collect();
        entries.sort_unstable();
        let failed = || LogError::io(format!("writing a run of the duplicate index to {}", folder.display()));
        let file = tempfile::tempfile_in(folder).map_err(failed())?;
        let filter = Filter::build(entries.len(), entries.iter().map(sluice_pipeline::index::Entry::fingerprint));
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        for entry in &entries {
            out.write_all(&entry.fingerprint().0.to_be_bytes()).map_err(failed())?;
            out.write_all(&entry.position.to_be_bytes()).map_err(failed())?;
        }
        out.flush().map_err(failed())?;
        drop(out);
        self.next = generation.number + 1;
        self.runs.push(Run { number: generation.number, ended_ms: now_ms, entries: entries.len() as u64, file });
        Ok(filter)
    }

    /// Looks `fingerprint` up in run `number`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub(crate) fn find(&self, number: u32, fingerprint: Fingerprint) -> Result<Option<u64>, LogError> {
        let Some(run) = self.runs.iter().find(|r| r.number == number) else { return Ok(None) };
        let key = fingerprint.0.to_be_bytes();
        let (mut low, mut high) = (0, run.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut entry = [0; ENTRY];
            let read = run.file.read_exact_at(&mut entry, middle * ENTRY as u64);
            read.map_err(LogError::io("reading a run of the duplicate index"))?;
            match entry[..16].cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let mut position = [0; 8];
                    position.copy_from_slice(&entry[16..]);
                    return Ok(Some(u64::from_be_bytes(position)));
                }
            }
        }
        Ok(None)
    }

    /// Drops the runs that ended before `before_ms`, and gives their numbers.
    pub(crate) fn expire(&mut self, before_ms: u64) -> Vec<u32> {
        let mut gone = Vec::new();
        self.runs.retain(|run| {
            if run.ended_ms < before_ms {
                gone.push(run.number);
            }
            run.ended_ms >= before_ms
        });
        gone
    }
}

#[cfg(test)]
mod tests {
    use sluice_pipeline::Index;

    use super::*;

    #[test]
    fn what_left_memory_is_found_until_it_expires() {
        let fp = |i: u64| Fingerprint::of("m", &i.to_string());
        let (mut index, mut runs) = (Index::default(), Runs::default());
        (0..1_000).for_each(|i| index.insert(fp(i), i));
        let generation = index.freeze(runs.next());
        let filter = runs.write(&std::env::temp_dir(), &generation, 100).unwrap();
        index.spilled(generation.number, filter, None);
        for i in 0..1_000 {
            assert_eq!(index.candidates(fp(i)).collect::<Vec<_>>(), [0]);
            assert_eq!(runs.find(0, fp(i)).unwrap(), Some(i));
        }
        assert_eq!(runs.find(0, fp(1_000)).unwrap(), None);
        assert!(runs.expire(100).is_empty());
        assert_eq!((runs.expire(101), runs.next()), (vec![0], 1));
        assert_eq!(runs.find(0, fp(3)).unwrap(), None);
    }
}
