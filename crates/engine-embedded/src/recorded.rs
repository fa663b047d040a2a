//! The orders that a journal holds, for who looks at them again: read group by group, and nothing is changed. A process may be
//! writing it meanwhile: what isn't whole yet is left out, and a segment that is retired on the way is skipped.

use std::{io::ErrorKind, path::Path, sync::Arc};

use sluice_pipeline::{Disk, LogError};

use crate::{
    RealDisk,
    journal::{
        Segments,
        format::{self, GROUP_HEAD, GroupHead},
        group_len, segment_index, segment_name,
    },
};

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recorded {
    /// Order records.
    pub orders: u64,
    /// Groups that can't be read; `sluice check` names them.
    pub damaged: u64,
}

/// Calls `each` with the record of every order in the journal of the data folder `folder`, as they were accepted, and `tell` with
/// how many of all segments were read.
///
/// # Errors
/// [`LogError::Io`] if the journal can't be read; what is damaged is counted and passed over.
pub fn recorded(
    folder: &Path,
    each: &mut dyn FnMut(&[u8]),
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Recorded, LogError> {
    let folder = folder.join("journal");
    // Opening would make the folder.
    std::fs::metadata(&folder).map_err(LogError::io(format!("opening {}", folder.display())))?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&folder).map_err(LogError::io("opening the journal"))?);
    let names = disk.list().map_err(LogError::io("listing the journal"))?;
    let indices: Vec<u64> = names.iter().filter_map(|name| segment_index(name)).collect();
    let mut all = Recorded::default();
    for (&index, done) in indices.iter().zip(1..) {
        match segment(&disk, index, each, &mut all) {
            Err(LogError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            read => read?,
        }
        tell(done, indices.len() as u64);
    }
    Ok(all)
}

fn segment(disk: &Arc<dyn Disk>, index: u64, each: &mut dyn FnMut(&[u8]), all: &mut Recorded) -> Result<(), LogError> {
    let name = segment_name(index);
    let failed = || LogError::io(format!("reading {name}"));
    let (mut bytes, file) = ([0; GROUP_HEAD], disk.open(&name).map_err(failed())?);
    file.read_at(0, &mut bytes).map_err(failed())?;
    let len = file.size().map_err(failed())?;
    // One that is prepared for later has no group yet.
    let Some(first) = GroupHead::from_bytes(&bytes).filter(|head| head.position == index * len) else { return Ok(()) };
    let segments = Segments::new(Arc::clone(disk), len);
    let (mut at, mut sequence) = (first.position, first.sequence);
    while at < (index + 1) * len {
        // Behind the last stands nothing, or what an earlier use of the file has left.
        let Some(head) = segments.head(at, first.journal)?.filter(|head| head.sequence == sequence) else { break };
        match segments.read_whole(at, head, true) {
            Ok(group) => {
                all.orders += orders(group.payload(), each).unwrap_or_else(|_| {
                    all.damaged += 1;
                    0
                })
            }
            Err(LogError::Damaged { .. }) => all.damaged += 1,
            Err(error) => return Err(error),
        }
        at += group_len(head.payload);
        sequence += 1;
    }
    Ok(())
}

fn orders(payload: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<u64, sluice_schemas::CodecError> {
    let mut count = 0;
    for frame in format::frames(payload) {
        let Some(section) = frame?.orders() else { continue };
        for item in format::orders(section.body) {
            each(item?.1);
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use sluice_pipeline::conformance::{Harness, Order, submission};
    use sluice_schemas::order::peek_id;

    use super::*;
    use crate::{
        FjallStore,
        tests::world::{World, tiny},
    };

    #[test]
    fn every_order_is_given_once_and_damage_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(&folder.path().join("journal")).unwrap();
        let store = FjallStore::open(&folder.path().join("store")).unwrap();
        let mut world = World::over(tiny(), Arc::new(disk), Arc::new(store));
        let orders: Vec<Order> = (0..300).map(|n| Order::new(n.to_string(), &["c0", "held"])).collect();
        for some in orders.chunks(50) {
            world.submit(submission(some));
            world.settle_down();
        }
        let read = || {
            let (mut found, mut last) = (Vec::new(), (0, 0));
            let mut each = |record: &[u8]| found.push(peek_id(record).unwrap());
            let all = recorded(folder.path(), &mut each, &mut |done, of| last = (done, of)).unwrap();
            assert_eq!((found.len() as u64, last.0), (all.orders, last.1));
            found.sort_unstable();
            (found, all.damaged)
        };
        let mut expected: Vec<u128> = orders.iter().map(|order| order.id().0).collect();
        expected.sort_unstable();
        // While the engine has the folder open.
        assert_eq!(read(), (expected.clone(), 0));
        drop(world);
        assert_eq!(read(), (expected.clone(), 0));
        let first = folder.path().join("journal").join(segment_name(0));
        let mut bytes = std::fs::read(&first).unwrap();
        bytes[GROUP_HEAD + 40] ^= 1;
        std::fs::write(&first, bytes).unwrap();
        let (found, damaged) = read();
        assert!(damaged == 1 && found.len() < expected.len() && !found.is_empty(), "{damaged}, {}", found.len());
        let nowhere = recorded(&folder.path().join("nowhere"), &mut |_| {}, &mut |_, _| {});
        assert!(matches!(nowhere, Err(LogError::Io { .. })), "{nowhere:?}");
    }
}
