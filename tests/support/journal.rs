//! The journal's files as an outsider reads them: by the format's description, with none of its code.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Groups start at multiples of this.
const BLOCK: u64 = 4_096;
/// Bytes of a group's head.
pub const HEAD: usize = 40;

/// A group's place and head.
#[derive(Debug, Clone)]
pub struct Group {
    pub file: PathBuf,
    pub offset: u64,
    /// The head as it stands there: magic 4, crc 4, journal 8, sequence 8, position 8, payload length 4, reserved 4.
    pub head: [u8; HEAD],
}

impl Group {
    pub fn sequence(&self) -> u64 {
        u64::from_le_bytes(self.head[16..24].try_into().unwrap())
    }

    pub fn position(&self) -> u64 {
        u64::from_le_bytes(self.head[24..32].try_into().unwrap())
    }

    pub fn payload(&self) -> u64 {
        u32::from_le_bytes(self.head[32..36].try_into().unwrap()).into()
    }

    /// Bytes that it takes.
    pub fn len(&self) -> u64 {
        (HEAD as u64 + self.payload()).next_multiple_of(BLOCK)
    }

    /// Name of the file, without its folder.
    pub fn file_name(&self) -> String {
        self.file.file_name().unwrap().to_string_lossy().into_owned()
    }
}

/// All groups in order, from the first one on.
pub fn groups(data_dir: &Path) -> Vec<Group> {
    let names = std::fs::read_dir(data_dir.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = names.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    files.sort();
    let mut groups: Vec<Group> = Vec::new();
    for path in files {
        let file = File::open(&path).unwrap();
        let mut offset = 0;
        let mut head = [0; HEAD];
        while file.read_exact_at(&mut head, offset).is_ok() && head.starts_with(b"SLG1") {
            let group = Group { file: path.clone(), offset, head };
            if group.sequence() != groups.len() as u64 + 1 {
                break;
            }
            offset += group.len();
            groups.push(group);
        }
    }
    groups
}

/// Overwrites bytes of a file in place.
pub fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// Inverts one byte of a file.
pub fn flip(path: &Path, offset: u64) {
    let mut byte = [0];
    File::open(path).unwrap().read_exact_at(&mut byte, offset).unwrap();
    overwrite(path, offset, &[!byte[0]]);
}
