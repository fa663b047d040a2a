//! What an event says besides its decision: whose order it is, and its number among the order's events. Both follow from the
//! order's row and what the transaction under way has added to it; an abort takes that back, so a decision that is made
//! again gets the same number.

use sluice_domain::OrderId;
use sluice_schemas::{
    delta::{Delta, row_deltas},
    event::decided::{Numbers, head},
};

use super::overlay::Overlay;

/// Reused buffers.
#[derive(Default)]
pub(super) struct Numbering {
    numbers: Numbers,
    row: Vec<u8>,
}

impl Numbering {
    /// The number of the event that tells of `deltas`, which are not staged yet; `None` if `id` has them already, so that
    /// there is nothing to tell. `row` is what is known of it besides what is staged.
    pub(super) fn next(&mut self, id: OrderId, row: &[u8], overlay: &Overlay, deltas: &[u8]) -> Option<u64> {
        self.row.clear();
        self.row.extend_from_slice(row);
        overlay.staged(id, &mut self.row);
        if let Err(error) = self.numbers.read(&self.row) {
            tracing::error!(order_id = %id, %error, "a row can't be read; its events are numbered by what can be");
        }
        match self.numbers.number(&self.row, head(deltas)) {
            Some(_) => None,
            None => Some(self.numbers.count()),
        }
    }
}

/// Whose order a row is of; nobody's if it doesn't say.
pub(super) fn merchant_of(row: &[u8]) -> &str {
    let merchant = row_deltas(0, row).find_map(|delta| match delta {
        Ok((_, Delta::Merchant { id })) => Some(id),
        _ => None,
    });
    merchant.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use sluice_schemas::outcome::OutcomeKind;

    use super::*;

    #[test]
    fn words_of_one_commit_are_numbered_one_after_another_and_again_the_same_after_an_abort() {
        let (id, mut overlay, mut numbering) = (OrderId(1), Overlay::new(1 << 20), Numbering::default());
        let encoded = |delta: Delta<'_>| {
            let mut out = Vec::new();
            delta.encode(3, &mut out);
            out
        };
        let row = encoded(Delta::Accepted { position: 1 });
        let settled = |parcel| encoded(Delta::Settled { parcel, attempt: 0, outcome: OutcomeKind::Accepted, text: "" });
        for _ in 0..2 {
            for parcel in 0..3 {
                let deltas = settled(parcel);
                assert_eq!(numbering.next(id, &row, &overlay, &deltas), Some(u64::from(parcel) + 1));
                overlay.stage(id, &deltas);
                assert_eq!(numbering.next(id, &row, &overlay, &deltas), None, "it is told");
            }
            overlay.abort();
        }
        // What the fold has stored by now is in the overlay as well.
        overlay.stage(id, &settled(0));
        let both = [row, settled(0)].concat();
        assert_eq!(numbering.next(id, &both, &overlay, &settled(1)), Some(2));
    }
}
