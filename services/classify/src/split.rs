//! Splitting an order into parcels: goods of one handling group share parcels up to the weight that carriers take.
//!
//! First fit, in line order, so the same order always becomes the same parcels. A line that fits a parcel whole is kept
//! together; a heavier one fills what room its group has left and then parcels of its own. A unit that is too heavy for
//! every carrier gets a parcel to itself, so that routing can say by weight why nobody takes it.

use sluice_domain::{Group, Handling, limits::MAX_PARCELS};
use sluice_pipeline::Effects;
use sluice_schemas::delta::{Item, Weight};

/// Ends the list of a parcel's shares.
const END: u16 = u16::MAX;

// Each of MAX_LINES lines has at most one share in each parcel, and shares are numbered by u16.
const _: () = assert!(sluice_domain::limits::MAX_LINES * MAX_PARCELS < END as usize && MAX_PARCELS <= u8::MAX as usize);

/// The order needs more parcels than an order may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyParcels;

#[derive(Debug)]
struct Open {
    group: Group,
    /// Waits to be reviewed: the likeliest class, and how likely, percent. Shares with nothing.
    held: Option<(Handling, u8)>,
    weight: Weight,
    /// Some share is less than its whole line.
    partial: bool,
    first: u16,
    last: u16,
}

impl Open {
    fn takes(&self, group: Group) -> bool {
        self.group == group && self.held.is_none()
    }
}

#[derive(Debug)]
struct Share {
    line: u16,
    quantity: u32,
    next: u16,
}

fn of_units(unit: Weight, units: u32) -> Weight {
    Weight { grams: units * unit.grams, ..unit }
}

/// Splits one order at a time; reused for a whole batch, so that an order allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    parcels: Vec<Open>,
    shares: Vec<Share>,
    items: Vec<Item>,
}

impl Splitter {
    /// Starts the next order.
    pub(crate) fn clear(&mut self) {
        self.parcels.clear();
        self.shares.clear();
    }

    /// Adds a line of `quantity` units of `unit` each; `limit_g` is what a parcel of its group may weigh.
    pub(crate) fn add(
        &mut self,
        group: Group,
        line: u16,
        unit: Weight,
        quantity: u32,
        limit_g: u32,
    ) -> Result<(), TooManyParcels> {
        let unit = Weight { grams: unit.grams.max(1), ..unit };
        let whole = u64::from(unit.grams) * u64::from(quantity);
        match u32::try_from(whole) {
            Ok(grams) if grams <= limit_g => {
                let fits = |p: &Open| p.takes(group) && limit_g.checked_sub(p.weight.grams).is_some_and(|r| r >= grams);
                let parcel = match self.parcels.iter().position(fits) {
                    Some(parcel) => parcel,
                    None => self.open(group)?,
                };
                self.put(parcel, (line, quantity), Weight { grams, ..unit }, false);
                Ok(())
            }
            _ => self.add_over(group, line, unit, quantity, limit_g),
        }
    }

    /// Adds a line that is too heavy for one parcel.
    #[cold]
    fn add_over(
        &mut self,
        group: Group,
        line: u16,
        unit: Weight,
        quantity: u32,
        limit_g: u32,
    ) -> Result<(), TooManyParcels> {
        let mut left = quantity;
        for parcel in 0..self.parcels.len() {
            let open = &self.parcels[parcel];
            let room = if open.takes(group) { limit_g.saturating_sub(open.weight.grams) / unit.grams } else { 0 };
            let units = room.min(left);
            if units > 0 {
                self.put(parcel, (line, units), of_units(unit, units), true);
                left -= units;
            }
        }
        self.fill(line, (unit, limit_g), (left, quantity), |split| split.open(group))
    }

    /// Puts what is `left` of a line's `quantity` into parcels of its own, as `open` gives them.
    fn fill(
        &mut self,
        line: u16,
        (unit, limit_g): (Weight, u32),
        (mut left, quantity): (u32, u32),
        open: impl Fn(&mut Self) -> Result<usize, TooManyParcels>,
    ) -> Result<(), TooManyParcels> {
        while left > 0 {
            let units = (limit_g / unit.grams).max(1).min(left);
            let parcel = open(self)?;
            self.put(parcel, (line, units), of_units(unit, units), units < quantity);
            left -= units;
        }
        Ok(())
    }

    /// Adds a line of which a person must say what it is: in parcels of its own, none heavier than the first of `limits_g`; if
    /// those were too many, than the second.
    #[cold]
    pub(crate) fn hold(
        &mut self,
        held: (Handling, u8),
        line: u16,
        unit: Weight,
        quantity: u32,
        limits_g: [u32; 2],
    ) -> Result<(), TooManyParcels> {
        let unit = Weight { grams: unit.grams.max(1), ..unit };
        let (parcels, shares) = (self.parcels.len(), self.shares.len());
        let mut into = |limit_g| {
            self.parcels.truncate(parcels);
            self.shares.truncate(shares);
            self.fill(line, (unit, limit_g), (quantity, quantity), |split| {
                let parcel = split.open(Group::Ambient)?;
                split.parcels[parcel].held = Some(held);
                Ok(parcel)
            })
        };
        into(limits_g[0]).or_else(|TooManyParcels| into(limits_g[1]))
    }

    fn open(&mut self, group: Group) -> Result<usize, TooManyParcels> {
        if self.parcels.len() == MAX_PARCELS {
            return Err(TooManyParcels);
        }
        self.parcels.push(Open { group, held: None, weight: Weight::default(), partial: false, first: END, last: END });
        Ok(self.parcels.len() - 1)
    }

    fn put(&mut self, parcel: usize, (line, quantity): (u16, u32), weight: Weight, partial: bool) {
        let share = self.shares.len() as u16;
        self.shares.push(Share { line, quantity, next: END });
        let open = &mut self.parcels[parcel];
        open.weight.grams += weight.grams;
        open.weight.estimated |= weight.estimated;
        open.partial |= partial;
        let last = std::mem::replace(&mut open.last, share);
        match self.shares.get_mut(usize::from(last)) {
            Some(last) => last.next = share,
            None => open.first = share,
        }
    }

    /// Adds the order's parcels to the decision that `effects` last started.
    pub(crate) fn emit(&mut self, effects: &mut Effects) {
        for parcel in &self.parcels {
            self.items.clear();
            let mut at = parcel.first;
            while let Some(share) = self.shares.get(usize::from(at)) {
                // Quantities are stored for all items of a parcel or for none.
                let quantity = parcel.partial.then_some(share.quantity);
                self.items.push(Item { line: share.line, quantity });
                at = share.next;
            }
            match parcel.held {
                Some(held) => effects.hold_parcel(held, parcel.weight, &self.items),
                None => effects.add_parcel(parcel.group, parcel.weight, &self.items),
            }
        }
    }
}
