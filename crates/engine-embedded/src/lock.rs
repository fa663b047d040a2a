//! One process a data folder: whoever opens it takes this lock first.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Write},
    path::Path,
};

use sluice_pipeline::LogError;

/// Name of the lock file in the data folder.
const LOCK: &str = "LOCK";

/// Holds a data folder. The system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    /// Takes the lock of `data_dir`, creating the folder if need be.
    ///
    /// # Errors
    /// [`LogError::Io`] if another process holds it, or the folder can't be written.
    pub fn take(data_dir: &Path) -> Result<Self, LogError> {
        let path = data_dir.join(LOCK);
        let what = || format!("locking {}", path.display());
        std::fs::create_dir_all(data_dir).map_err(LogError::io(what()))?;
        let options = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let mut file = options.map_err(LogError::io(what()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = "another process uses this data folder; stop it first";
                return Err(LogError::Io { what: what(), source: io::Error::new(io::ErrorKind::WouldBlock, text) });
            }
            Err(TryLockError::Error(error)) => return Err(LogError::io(what())(error)),
        }
        // For whoever looks into the folder; the lock itself doesn't need it.
        let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        noted.map_err(LogError::io(what()))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = DataLock::take(folder.path()).unwrap();
        let refused = DataLock::take(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("another process"), "{refused}");
        drop(held);
        DataLock::take(folder.path()).unwrap();
    }
}
