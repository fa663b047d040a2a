//! The engine against the suite that every engine must pass.

use std::sync::Arc;

use sluice_pipeline::conformance::run_all;

use super::world::{World, tiny};
use crate::{FjallStore, RealDisk};

#[test]
fn in_memory() {
    run_all(&mut || Box::new(World::mem(tiny())));
}

#[test]
fn with_one_partition() {
    let config = crate::EngineConfig { partitions: 1, ..tiny() };
    run_all(&mut || Box::new(World::mem(config.clone())));
}

#[test]
fn on_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut number = 0;
    run_all(&mut || {
        number += 1;
        let folder = folder.path().join(number.to_string());
        let disk = RealDisk::open(&folder.join("journal")).unwrap();
        let store = FjallStore::open(&folder.join("store")).unwrap();
        Box::new(World::over(tiny(), Arc::new(disk), Arc::new(store)))
    });
}
