//! Rows of known orders as the store has them, read once for a whole batch: a carrier's news is mostly about orders that the
//! overlay has dropped long ago, and two words about one shipment never share a commit, so that reading for each commit
//! would cost a round trip for every few words.

use hashbrown::HashMap;
use sluice_domain::OrderId;
use sluice_pipeline::{BatchView, LogError, batch::InputKind};

use super::{log::World, overlay::Overlay};
use crate::store::StoredRow;

/// What the store said about the orders of the batch under way.
#[derive(Default)]
pub(super) struct Older {
    rows: HashMap<OrderId, Option<StoredRow>>,
}

impl Older {
    /// Another batch comes.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }

    /// The store's row of `id`, which the overlay doesn't have whole, or `None` if it has none. Reads with it those of all
    /// words from `batch` onwards of which that is true, unless that was done.
    ///
    /// # Errors
    /// [`LogError::Store`]
    pub(super) fn row(
        &mut self,
        id: OrderId,
        batch: &BatchView<'_>,
        overlay: &Overlay,
        world: &World,
    ) -> Result<Option<&StoredRow>, LogError> {
        if !self.rows.contains_key(&id) {
            self.read(id, &batch.onwards(), overlay, world)?;
        }
        Ok(self.rows.get(&id).and_then(Option::as_ref))
    }

    fn read(&mut self, id: OrderId, batch: &BatchView<'_>, overlay: &Overlay, world: &World) -> Result<(), LogError> {
        let mut young = Vec::new();
        let words = batch.range().map(|i| batch.meta(i)).filter(|meta| meta.kind == InputKind::Word);
        let ids = words.map(|meta| meta.order).chain([id]);
        let mut ids: Vec<OrderId> = ids.filter(|id| !self.rows.contains_key(id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|&id| {
            young.clear();
            !overlay.read(id, &mut young)
        });
        metrics::counter!("sluice_owner_store_reads_total").increment(ids.len() as u64);
        let read = world.runtime.block_on(world.store.read_many(&ids));
        let read = read.map_err(|e| LogError::Store(e.to_string()))?;
        let unknown = read.iter().filter(|row| row.is_none()).count();
        if unknown > 0 {
            tracing::warn!(orders = unknown, "what is said about orders that nobody knows is ignored");
        }
        self.rows.extend(ids.into_iter().zip(read));
        Ok(())
    }
}
