//! The real disk behind the [`Disk`] port.
//!
//! Groups are written with O_DIRECT where the file system has it: the page cache would copy every byte once more and
//! cost half a second of CPU a gigabyte. Reads go through a second, buffered descriptor.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use sluice_pipeline::{Disk, DiskFile};

/// A folder on a file system.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
}

impl RealDisk {
    /// Uses `folder`, creating it if need be.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn attach(&self, path: &Path) -> io::Result<RealFile> {
        let read = File::open(path)?;
        let direct = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path);
        let write = match direct {
            Ok(file) => file,
            // Some file systems (tmpfs, some network mounts) refuse the flag; plain writes are just slower there.
            Err(_) => OpenOptions::new().write(true).open(path)?,
        };
        Ok(RealFile { write, read })
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let (path, draft) = (self.folder.join(name), self.folder.join(format!("{name}.tmp")));
        let reserve = || {
            let file = File::create(&draft)?;
            fallocate(&file, FallocateFlags::empty(), 0, len)?;
            file.sync_all()?;
            std::fs::rename(&draft, &path)?;
            self.sync_folder()
        };
        if let Err(error) = reserve() {
            // The error that matters is the first; a draft that stays is removed when its name is used again.
            let _ = std::fs::remove_file(&draft);
            return Err(error);
        }
        Ok(Arc::new(self.attach(&path)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.attach(&self.folder.join(name))?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))?;
        self.sync_folder()
    }
}

#[derive(Debug)]
struct RealFile {
    write: File,
    read: File,
}

impl DiskFile for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.write.sync_data()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.read.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.read.metadata()?.len())
    }
}
