//! All change a batch makes, gathered by the stages and committed as one.
//!
//! Effects are columns in a few arenas, so that a batch of thousands of orders allocates nothing once warm.

use std::ops::Range;

use sluice_domain::{Group, Handling};
use sluice_schemas::{
    command::Verdict,
    delta::{Item, Items, Weight},
    outcome::OutcomeKind,
    wire::Reader,
};

use crate::batch::Replayed;

/// Bytes kept of a reason, so that a stage can't make the log grow at will.
const MAX_REASON: usize = 400;

/// What was decided about one input.
#[derive(Debug, Clone)]
pub enum Decision {
    /// An order became these parcels (indices for [`Effects::parcel`]); none when nothing ships.
    Classified {
        /// Parcels, by number from 0.
        parcels: Range<u32>,
        /// It is decided anew, because a command asks for it.
        anew: Option<Replayed>,
    },
    /// An order that no stage could decide.
    Rejected {
        /// Text for [`Effects::text`].
        reason: Range<u32>,
        /// The order's last replay before this; 0 for none.
        replay: u8,
    },
    /// An outcome is recorded.
    Settled {
        /// The next attempt (index for [`Effects::parcel`]), if the parcel goes to another carrier.
        next: Option<u32>,
        /// Why the parcel is dead-lettered, if it is, and the order's last replay before that.
        dead_letter: Option<(Range<u32>, u8)>,
        /// Parcel, attempt and kind, so that an engine needn't decode the input again.
        parcel: u8,
        /// Attempt number.
        attempt: u8,
        /// The outcome.
        kind: OutcomeKind,
    },
    /// A carrier's news is recorded.
    Tracked {
        /// It also shows that the carrier took a parcel whose outcome was unknown.
        resolves: bool,
    },
    /// What became of a command.
    Commanded {
        /// What its sender is told.
        verdict: Verdict,
        /// Carriers to ask (indices for [`Effects::parcel`]): voids, parcels to bring back, parcels offered again or no longer
        /// held.
        parcels: Range<u32>,
    },
}

/// A parcel to be carried.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// The input it came from.
    pub input: u32,
    /// Number within the order, from 0.
    pub number: u8,
    /// Attempt, from 0.
    pub attempt: u8,
    /// What it needs on its way.
    pub group: Group,
    /// What it weighs.
    pub weight: Weight,
    /// Set by routing.
    pub route: Route,
    /// Where the order record is; only for what isn't decided with the order itself.
    pub order_position: Option<u64>,
    /// For a return: the parcel that was delivered, and its units.
    pub source: Option<(u8, u32)>,
    /// The order's last replay before this; 0 for none.
    pub replay: u8,
    items: Range<u32>,
}

/// Who carries a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// No stage has said yet.
    Open,
    /// The carrier with this number in the deployment's list.
    Carrier(u16),
    /// Nobody; the text says why.
    Nobody(Range<u32>),
    /// Nobody yet: a person must say what is in it. The likeliest class, and how likely, percent.
    Held(Handling, u8),
    /// Nobody, because nothing ships: what was held is no goods, or was cancelled.
    Nothing,
}

/// All change one batch makes.
#[derive(Debug, Default)]
pub struct Effects {
    /// Version of the catalogue and rules in force; set by the classifying stage.
    pub rules: u32,
    /// Version of the model that judges what those don't know; 0 for none. Set by the classifying stage.
    pub model: u32,
    decisions: Vec<(u32, Decision)>,
    parcels: Vec<Parcel>,
    bytes: Vec<u8>,
}

/// A point to which effects can be taken back.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    decisions: usize,
    parcels: usize,
    bytes: usize,
}

impl Effects {
    /// Empties the effects and keeps their memory.
    pub fn clear(&mut self) {
        self.truncate(Mark { decisions: 0, parcels: 0, bytes: 0 });
    }

    /// The present point.
    pub fn mark(&self) -> Mark {
        Mark { decisions: self.decisions.len(), parcels: self.parcels.len(), bytes: self.bytes.len() }
    }

    /// Takes back everything after `mark`.
    pub fn truncate(&mut self, mark: Mark) {
        self.decisions.truncate(mark.decisions);
        self.parcels.truncate(mark.parcels);
        self.bytes.truncate(mark.bytes);
    }

    /// Starts the decision about the placed order `input`; its parcels follow through [`Effects::add_parcel`].
    pub fn classified(&mut self, input: usize) {
        self.start(input, None);
    }

    /// As [`Effects::classified`], about an order that the command `input` has decided anew.
    pub fn classified_anew(&mut self, input: usize, replayed: Replayed) {
        self.start(input, Some(replayed));
    }

    fn start(&mut self, input: usize, anew: Option<Replayed>) {
        let at = self.parcels.len() as u32;
        self.decisions.push((input as u32, Decision::Classified { parcels: at..at, anew }));
    }

    /// As [`Effects::add_parcel`], of goods that are most likely of class `likely` (how likely, percent), but a person must say
    /// so before a carrier is asked.
    pub fn hold_parcel(&mut self, (likely, percent): (Handling, u8), weight: Weight, items: &[Item]) {
        self.add_parcel(likely.group().unwrap_or(Group::Ambient), weight, items);
        if let (Some(parcel), Some((_, Decision::Classified { .. }))) = (self.parcels.last_mut(), self.decisions.last())
        {
            parcel.route = Route::Held(likely, percent);
        }
    }

    /// Adds a parcel to the order last named by [`Effects::classified`].
    pub fn add_parcel(&mut self, group: Group, weight: Weight, items: &[Item]) {
        let Some((input, Decision::Classified { parcels, anew })) = self.decisions.last_mut() else { return };
        let (input, number, anew) = (*input, (parcels.end - parcels.start) as u8, *anew);
        parcels.end += 1;
        let start = self.bytes.len() as u32;
        Items::encode(items, &mut self.bytes);
        self.parcels.push(Parcel {
            input,
            number,
            attempt: 0,
            group,
            weight,
            route: Route::Open,
            order_position: anew.map(|anew| anew.order_position),
            source: None,
            replay: anew.map_or(0, |anew| anew.number),
            items: start..self.bytes.len() as u32,
        });
    }

    /// Takes back what was decided about `input`, if it is the last decision, and dead-letters the order instead.
    pub fn reject(&mut self, input: usize, reason: &str) {
        self.reject_anew(input, reason, 0);
    }

    /// As [`Effects::reject`], about an order whose last replay is number `replay`; 0 for none.
    pub fn reject_anew(&mut self, input: usize, reason: &str, replay: u8) {
        if let Some((last, decision)) = self.decisions.last()
            && *last == input as u32
        {
            if let Decision::Classified { parcels, .. } = decision {
                self.parcels.truncate(parcels.start as usize);
            }
            self.decisions.pop();
        }
        let reason = self.put_text(reason);
        self.decisions.push((input as u32, Decision::Rejected { reason, replay }));
    }

    /// Records an outcome and nothing more.
    pub fn settle(&mut self, input: usize, parcel: u8, attempt: u8, kind: OutcomeKind) {
        let decision = Decision::Settled { next: None, dead_letter: None, parcel, attempt, kind };
        self.decisions.push((input as u32, decision));
    }

    /// Records a carrier's news; with `resolves` also that the carrier took the parcel.
    pub fn track(&mut self, input: usize, resolves: bool) {
        self.decisions.push((input as u32, Decision::Tracked { resolves }));
    }

    /// Offers the parcel of the outcome last settled to another carrier, as `attempt`.
    pub fn next_attempt(&mut self, attempt: u8, group: Group, weight: Weight, items: &Items<'_>, order_position: u64) {
        let at = self.parcels.len() as u32;
        let Some((input, Decision::Settled { next, parcel, .. })) = self.decisions.last_mut() else { return };
        *next = Some(at);
        let (input, number) = (*input, *parcel);
        let start = self.bytes.len() as u32;
        items.encode_again(&mut self.bytes);
        self.parcels.push(Parcel {
            input,
            number,
            attempt,
            group,
            weight,
            route: Route::Open,
            order_position: Some(order_position),
            source: None,
            replay: 0,
            items: start..self.bytes.len() as u32,
        });
    }

    /// Records what becomes of a command; carriers to ask follow through [`Effects::ask`].
    pub fn commanded(&mut self, input: usize, verdict: Verdict) {
        let at = self.parcels.len() as u32;
        self.decisions.push((input as u32, Decision::Commanded { verdict, parcels: at..at }));
    }

    /// Has a carrier asked for the command last named by [`Effects::commanded`], as `attempt` at parcel `number`; the order's
    /// record is at `order_position`. `source` is a return's: the parcel that was delivered, and its units. Gives the index
    /// by which the carrier is then chosen.
    pub fn ask(
        &mut self,
        (number, attempt): (u8, u8),
        (group, weight): (Group, Weight),
        items: &Items<'_>,
        order_position: u64,
        source: Option<(u8, u32)>,
    ) -> usize {
        let index = self.parcels.len();
        let Some((input, Decision::Commanded { parcels, .. })) = self.decisions.last_mut() else { return index };
        let input = *input;
        parcels.end += 1;
        let start = self.bytes.len() as u32;
        items.encode_again(&mut self.bytes);
        self.parcels.push(Parcel {
            input,
            number,
            attempt,
            group,
            weight,
            route: Route::Open,
            order_position: Some(order_position),
            source,
            replay: 0,
            items: start..self.bytes.len() as u32,
        });
        index
    }

    /// Says that parcel `index` is offered in the order's replay number `replay`.
    pub fn replayed(&mut self, index: usize, replay: u8) {
        self.parcels[index].replay = replay;
    }

    /// Dead-letters the parcel of the outcome last settled; `replay` is the order's last replay, 0 for none.
    pub fn dead_letter(&mut self, reason: &str, replay: u8) {
        let text = self.put_text(reason);
        if let Some((_, Decision::Settled { dead_letter, .. })) = self.decisions.last_mut() {
            *dead_letter = Some((text, replay));
        }
    }

    /// Decides that nobody carries parcel `index`.
    pub fn nobody(&mut self, index: usize, reason: &str) {
        let text = self.put_text(reason);
        self.parcels[index].route = Route::Nobody(text);
    }

    /// Decides that nothing of parcel `index` ships, and that this needs nobody's attention.
    pub fn nothing(&mut self, index: usize) {
        self.parcels[index].route = Route::Nothing;
    }

    /// Decides that carrier number `carrier` is asked to take parcel `index`.
    pub fn route(&mut self, index: usize, carrier: u16) {
        self.parcels[index].route = Route::Carrier(carrier);
    }

    /// Each decision with the input it is about, ascending by input within one `apply`.
    pub fn decisions(&self) -> &[(u32, Decision)] {
        &self.decisions
    }

    /// All parcels, in the order they were added.
    pub fn parcels(&self) -> &[Parcel] {
        &self.parcels
    }

    /// Parcel `index`.
    pub fn parcel(&self, index: u32) -> &Parcel {
        &self.parcels[index as usize]
    }

    /// The items of a parcel.
    pub fn items(&self, parcel: &Parcel) -> Items<'_> {
        let bytes = &self.bytes[parcel.items.start as usize..parcel.items.end as usize];
        Items::read(&mut Reader::new(bytes)).unwrap_or_default()
    }

    /// A reason given earlier.
    pub fn text(&self, range: &Range<u32>) -> &str {
        std::str::from_utf8(&self.bytes[range.start as usize..range.end as usize]).unwrap_or("")
    }

    fn put_text(&mut self, text: &str) -> Range<u32> {
        let start = self.bytes.len() as u32;
        let cut = text.floor_char_boundary(MAX_REASON);
        self.bytes.extend_from_slice(&text.as_bytes()[..cut]);
        start..self.bytes.len() as u32
    }
}
