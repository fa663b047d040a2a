//! A disk, a store and a clock in memory that fail on demand: smaller than the simulator's, and without chance.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use sluice_pipeline::{Clock, Disk, DiskFile, LogError, Store, Table};

/// What to fail.
#[derive(Debug, Default)]
pub struct Faults {
    pub full: AtomicBool,
    pub fail_sync: AtomicBool,
    pub fail_write: AtomicBool,
    pub fail_ingest: AtomicBool,
    pub syncs: AtomicUsize,
    pub writes: AtomicUsize,
    /// Counts down with every run, removal and file removed, if it isn't 0; at 1 that one and all after it fail.
    pub dies_at: AtomicUsize,
    /// The first that fails is done all the same.
    pub dies_late: AtomicBool,
}

impl Faults {
    /// Whether the next lasting change is made, and whether its caller hears that it is.
    fn change(&self) -> (bool, bool) {
        let left = self.dies_at.load(SeqCst);
        match left {
            0 => (true, true),
            1 => (self.dies_late.swap(false, SeqCst), false),
            _ => {
                self.dies_at.store(left - 1, SeqCst);
                (true, true)
            }
        }
    }
}

#[derive(Debug, Default)]
struct Content {
    /// What a power loss leaves.
    durable: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
}

#[derive(Debug, Default, Clone)]
pub struct MemDisk {
    files: Arc<Mutex<BTreeMap<String, Arc<Mutex<Content>>>>>,
    pub faults: Arc<Faults>,
}

impl MemDisk {
    /// Forgets everything that was not synced.
    pub fn lose_power(&self) {
        for content in self.files.lock().values() {
            let content = &mut *content.lock();
            content.seen.clone_from(&content.durable);
        }
    }

    /// The bytes of a file, to look at.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.files.lock()[name].lock().seen.clone()
    }

    /// Changes a file behind everybody's back.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let file = Arc::clone(&self.files.lock()[name]);
        let content = &mut *file.lock();
        change(&mut content.seen);
        content.durable.clone_from(&content.seen);
    }

    /// A copy that shares nothing with this disk.
    pub fn fork(&self) -> Self {
        let copy = |c: &Arc<Mutex<Content>>| {
            let seen = c.lock().seen.clone();
            Arc::new(Mutex::new(Content { durable: seen.clone(), seen }))
        };
        let files = self.files.lock().iter().map(|(n, c)| (n.clone(), copy(c))).collect();
        Self { files: Arc::new(Mutex::new(files)), faults: Arc::default() }
    }
}

struct MemFile {
    content: Arc<Mutex<Content>>,
    faults: Arc<Faults>,
}

fn fail(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

impl Disk for MemDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        if self.faults.full.load(SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let zeros = vec![0; len as usize];
        let content = Arc::new(Mutex::new(Content { durable: zeros.clone(), seen: zeros }));
        self.files.lock().insert(name.to_owned(), content);
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.files.lock().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile { content, faults: Arc::clone(&self.faults) }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (done, heard) = self.faults.change();
        if done {
            self.files.lock().remove(name).ok_or(io::ErrorKind::NotFound)?;
        }
        if heard { Ok(()) } else { Err(fail("the power is off")) }
    }
}

impl DiskFile for MemFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(4096) && bytes.len().is_multiple_of(4096), "unaligned write");
        self.faults.writes.fetch_add(1, SeqCst);
        if self.faults.fail_write.load(SeqCst) {
            return Err(fail("write failed"));
        }
        let content = &mut *self.content.lock();
        let end = offset as usize + bytes.len();
        assert!(end <= content.seen.len(), "a write past the end of the file");
        content.seen[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.syncs.fetch_add(1, SeqCst);
        if self.faults.fail_sync.load(SeqCst) {
            return Err(fail("sync failed"));
        }
        let content = &mut *self.content.lock();
        content.durable.clone_from(&content.seen);
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let content = self.content.lock();
        let from = content.seen.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(into.len());
        into[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().seen.len() as u64)
    }
}

type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Debug, Default, Clone)]
pub struct MemStore {
    tables: Arc<Mutex<Tables>>,
    pub faults: Arc<Faults>,
}

impl MemStore {
    /// A copy that shares nothing with this store.
    pub fn fork(&self) -> Self {
        Self { tables: Arc::new(Mutex::new(self.tables.lock().clone())), faults: Arc::default() }
    }

    pub fn entries(&self, table: Table) -> usize {
        self.tables.lock().get(&table).map_or(0, BTreeMap::len)
    }
}

impl Store for MemStore {
    fn ingest(&self, table: Table, run: &mut sluice_pipeline::Run<'_>) -> Result<(), LogError> {
        if self.faults.fail_ingest.load(SeqCst) {
            return Err(LogError::Store("ingest failed".into()));
        }
        let mut last: Option<Vec<u8>> = None;
        let mut entries = Vec::new();
        run(&mut |key, value| {
            assert!(last.as_deref().is_none_or(|l| l < key), "keys must ascend");
            last = Some(key.to_vec());
            entries.push((key.to_vec(), value.to_vec()));
        });
        let (done, heard) = self.faults.change();
        if done {
            self.tables.lock().entry(table).or_default().extend(entries);
        }
        if heard { Ok(()) } else { Err(LogError::Store("the power is off".into())) }
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.tables.lock().get(&table).and_then(|t| t.get(key).cloned()))
    }

    fn scan(&self, table: Table, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        let tables = self.tables.lock();
        let entries = tables.get(&table).into_iter().flat_map(|t| t.range(prefix.to_vec()..));
        entries.take_while(|(k, _)| k.starts_with(prefix)).for_each(|(k, v)| each(k, v));
        Ok(())
    }

    fn range(&self, table: Table, from: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), LogError> {
        let tables = self.tables.lock();
        let mut entries = tables.get(&table).into_iter().flat_map(|t| t.range(from.to_vec()..));
        while entries.next().is_some_and(|(k, v)| each(k, v)) {}
        Ok(())
    }

    fn remove(&self, table: Table, keys: &[Vec<u8>]) -> Result<(), LogError> {
        let (done, heard) = self.faults.change();
        if let Some(entries) = self.tables.lock().get_mut(&table).filter(|_| done) {
            keys.iter().for_each(|key| drop(entries.remove(key)));
        }
        if heard { Ok(()) } else { Err(LogError::Store("the power is off".into())) }
    }

    fn drop_table(&self, table: Table) -> Result<(), LogError> {
        self.tables.lock().remove(&table);
        Ok(())
    }
}

/// Time that stands still until it is set.
#[derive(Debug)]
pub struct FakeClock(pub AtomicU64);

impl Clock for FakeClock {
    fn now_ms(&self) -> u64 {
        self.0.load(SeqCst)
    }

    fn monotonic_us(&self) -> u64 {
        self.0.load(SeqCst) * 1_000
    }
}
