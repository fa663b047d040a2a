//! fjall behind the [`Store`] port: checkpoints go in as sorted runs, past its own log and memtables.

use std::{collections::HashMap, path::Path, sync::Arc};

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    compaction::Leveled,
    config::{CompressionPolicy, FilterPolicy},
};
use parking_lot::Mutex;
use sluice_pipeline::{LogError, Store, Table};

/// Bytes of the block cache.
const CACHE_BYTES: u64 = 32 << 20;
/// Runs of [`Table::Lookup`] that lie side by side before they are merged. Those of one day overlap all over, so that merging
/// rewrites that day: seldom enough, an entry is written two or three times; a look-up seeks in this many runs at most.
const LOOKUP_RUNS: u8 = 16;

/// See the module.
pub struct FjallStore {
    database: Database,
    open: Mutex<HashMap<Table, Keyspace>>,
}

fn failed(error: fjall::Error) -> LogError {
    LogError::Store(error.to_string())
}

fn name(table: Table) -> String {
    match table {
        Table::Rows => "rows".into(),
        Table::Meta => "meta".into(),
        Table::Lookup => "lookup".into(),
        Table::Index(generation) => format!("index-{generation}"),
    }
}

impl FjallStore {
    /// Opens the store in `folder`, creating it if need be.
    ///
    /// # Errors
    /// [`LogError::Store`] with what fjall says.
    pub fn open(folder: &Path) -> Result<Self, LogError> {
        let database = Database::builder(folder).worker_threads(1).cache_size(CACHE_BYTES).open().map_err(failed)?;
        Ok(Self { database, open: Mutex::new(HashMap::new()) })
    }

    fn keyspace(&self, table: Table) -> Result<Keyspace, LogError> {
        if let Some(keyspace) = self.open.lock().get(&table) {
            return Ok(keyspace.clone());
        }
        // Rows and index entries are mostly hashes and numbers: compressing them costs time and saves little. fjall's
        // own filters are never asked: rows are read by prefix, and index runs have ours.
        let options = || {
            let options = KeyspaceCreateOptions::default()
                .data_block_compression_policy(CompressionPolicy::disabled())
                .filter_policy(FilterPolicy::disabled());
            match table {
                Table::Lookup => {
                    options.compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(LOOKUP_RUNS)))
                }
                _ => options,
            }
        };
        let keyspace = self.database.keyspace(&name(table), options).map_err(failed)?;
        self.open.lock().insert(table, keyspace.clone());
        Ok(keyspace)
    }
}

impl Store for FjallStore {
    fn ingest(&self, table: Table, run: &mut sluice_pipeline::Run<'_>) -> Result<(), LogError> {
        let keyspace = self.keyspace(table)?;
        let mut result = Ok(());
        if table == Table::Meta {
            let mut batch = self.database.batch();
            run(&mut |key, value| batch.insert(&keyspace, key, value));
            batch.commit().map_err(failed)?;
            return self.database.persist(PersistMode::SyncAll).map_err(failed);
        }
        let mut ingestion = keyspace.start_ingestion().map_err(failed)?;
        run(&mut |key, value| {
            if result.is_ok() {
                result = ingestion.write(key, value);
            }
        });
        result.map_err(failed)?;
        ingestion.finish().map_err(failed)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.keyspace(table)?.get(key).map_err(failed)?.map(|v| v.to_vec()))
    }

    fn scan(&self, table: Table, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        for entry in self.keyspace(table)?.prefix(prefix) {
            let (key, value) = entry.into_inner().map_err(failed)?;
            each(&key, &value);
        }
        Ok(())
    }

    fn range(&self, table: Table, from: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), LogError> {
        for entry in self.keyspace(table)?.range(from..) {
            let (key, value) = entry.into_inner().map_err(failed)?;
            if !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn remove(&self, table: Table, keys: &[Vec<u8>]) -> Result<(), LogError> {
        let keyspace = self.keyspace(table)?;
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        keys.iter().for_each(|key| batch.remove(&keyspace, key.as_slice()));
        batch.commit().map_err(failed)
    }

    fn drop_table(&self, table: Table) -> Result<(), LogError> {
        let keyspace = self.keyspace(table)?;
        self.open.lock().remove(&table);
        self.database.delete_keyspace(keyspace).map_err(failed)
    }
}
