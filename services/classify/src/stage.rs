//! The stage: placed orders, and those that are decided anew, become parcels, or are dead-lettered by name when no parcels can be made of them.

use std::sync::Arc;

use sluice_domain::{
    Group,
    limits::{MAX_LINES, MAX_PARCELS},
};
use sluice_pipeline::{BatchView, Ctx, Effects, Rows, Stage, batch::Anew};
use sluice_schemas::{CodecError, delta::Weight, order::lines_of};

use crate::{
    classifier::Chain,
    knowledge::Knowledge,
    split::{Splitter, TooManyParcels},
};

/// Why an order can't be split. The text is what a person reads on the dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unsplittable {
    #[error("the order record can't be read: {0}")]
    Unreadable(#[from] CodecError),
    #[error("the order has {0} lines, at most {MAX_LINES} are taken")]
    Lines(usize),
    #[error("line {0} has no units")]
    NoUnits(usize),
    #[error("the order needs more than {MAX_PARCELS} parcels")]
    Parcels,
}

impl From<TooManyParcels> for Unsplittable {
    fn from(_: TooManyParcels) -> Self {
        Self::Parcels
    }
}

/// Classifies each placed order's lines and splits the order into parcels. Lines that are no goods are in no parcel; an
/// order of nothing else becomes no parcels at all, which finishes it. A line of which a person must say what it is waits in
/// parcels of its own, and holds up nothing else.
#[derive(Debug, Clone)]
pub struct Classify {
    knowledge: Arc<Knowledge>,
    limits_g: [u32; 6],
}

impl Classify {
    /// A stage that classifies by `knowledge`. `limits_g` is, by group code, the most that any carrier takes in one parcel
    /// of that group, in grams; `u32::MAX` for a group that no carrier takes, since splitting wouldn't help it.
    #[must_use]
    pub fn new(knowledge: Arc<Knowledge>, limits_g: [u32; 6]) -> Self {
        Self { knowledge, limits_g }
    }

    fn split(&self, chain: &Chain, record: &[u8], split: &mut Splitter) -> Result<(), Unsplittable> {
        split.clear();
        let (count, lines) = lines_of(record)?;
        if count > MAX_LINES {
            return Err(Unsplittable::Lines(count));
        }
        for (number, line) in lines.enumerate() {
            let line = line?;
            if line.quantity == 0 {
                return Err(Unsplittable::NoUnits(number));
            }
            let known = chain.classify(&line);
            let unit = Weight { grams: known.unit_weight_g, estimated: known.estimated };
            if known.hold {
                // Whatever it turns out to be, it can then be carried as it is; as what it seems to be if that is too much to ask.
                let strictest = self.limits_g.into_iter().min().unwrap_or(u32::MAX);
                let group = known.handling.group().unwrap_or(Group::Ambient);
                let limits_g = [strictest, self.limits_g[group as usize]];
                let likely = (known.handling, known.confidence);
                split.hold(likely, number as u16, unit, line.quantity, limits_g)?;
            } else if let Some(group) = known.handling.group() {
                let limit_g = self.limits_g[group as usize];
                split.add(group, number as u16, unit, line.quantity, limit_g)?;
            }
        }
        Ok(())
    }
}

impl Stage for Classify {
    fn name(&self) -> &'static str {
        "classify"
    }

    fn apply(&self, _: &Ctx<'_>, rows: &Rows, batch: &BatchView<'_>, effects: &mut Effects) {
        let chain = self.knowledge.now();
        (effects.rules, effects.model) = (chain.version(), chain.model_version());
        let mut split = Splitter::default();
        for (input, _) in batch.placed_metas() {
            match self.split(&chain, batch.record(input), &mut split) {
                Ok(()) => {
                    effects.classified(input);
                    split.emit(effects);
                }
                Err(reason) => effects.reject(input, &reason.to_string()),
            }
        }
        for Anew { input, record, replayed } in rows.anew(batch) {
            match self.split(&chain, record, &mut split) {
                Ok(()) => {
                    effects.classified_anew(input, replayed);
                    split.emit(effects);
                }
                Err(reason) => effects.reject_anew(input, &reason.to_string(), replayed.number),
            }
        }
    }
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
