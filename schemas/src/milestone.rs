//! The one rank table of milestones: a customer's status is the highest-ranked milestone present, and nothing else.

/// A step of an order's or parcel's life, in rank order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Milestone {
    /// Durable and acknowledged.
    Accepted = 0,
    /// Goods known, parcels split.
    Classified = 1,
    /// A carrier is being asked.
    CarrierRequested = 2,
    /// A carrier took it.
    CarrierAccepted = 3,
    /// Handed over.
    PickedUp = 4,
    /// Between depots.
    InTransit = 5,
    /// On the last vehicle.
    OutForDelivery = 6,
    /// Waiting at a pick-up point.
    ReadyForPickup = 7,
    /// With the customer.
    Delivered = 8,
    /// On its way back.
    ReturnToSender = 9,
    /// Back with the merchant.
    Returned = 10,
    /// Called off before any carrier was asked.
    Cancelled = 11,
    /// No stage could decide.
    DeadLettered = 12,
}

impl Milestone {
    /// All milestones, lowest rank first.
    pub const ALL: [Milestone; 13] = [
        Self::Accepted,
        Self::Classified,
        Self::CarrierRequested,
        Self::CarrierAccepted,
        Self::PickedUp,
        Self::InTransit,
        Self::OutForDelivery,
        Self::ReadyForPickup,
        Self::Delivered,
        Self::ReturnToSender,
        Self::Returned,
        Self::Cancelled,
        Self::DeadLettered,
    ];

    /// The name used in every public format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Classified => "classified",
            Self::CarrierRequested => "carrier_requested",
            Self::CarrierAccepted => "carrier_accepted",
            Self::PickedUp => "picked_up",
            Self::InTransit => "in_transit",
            Self::OutForDelivery => "out_for_delivery",
            Self::ReadyForPickup => "ready_for_pickup",
            Self::Delivered => "delivered",
            Self::ReturnToSender => "return_to_sender",
            Self::Returned => "returned",
            Self::Cancelled => "cancelled",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

/// What a carrier may tell that is no status: shown on the time line, as often as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Remark {
    /// It waits, for instance for a customs paper.
    OnHold = 0,
    /// It comes later than was said.
    DeliveryDelayed = 1,
    /// Nobody was there to take it.
    DeliveryFailed = 2,
}

impl Remark {
    /// The name used in every public format.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnHold => "on_hold",
            Self::DeliveryDelayed => "delivery_delayed",
            Self::DeliveryFailed => "delivery_failed",
        }
    }
}

/// A set of milestones, as a lattice: union is merge, `status` is monotone in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Milestones(u16);

impl Milestones {
    /// The set with `milestone` added.
    #[must_use]
    pub fn with(self, milestone: Milestone) -> Self {
        Self(self.0 | 1 << milestone as u8)
    }

    /// Everything in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if `milestone` is in the set.
    pub fn contains(self, milestone: Milestone) -> bool {
        self.0 & 1 << milestone as u8 != 0
    }

    /// The highest-ranked milestone present; `None` only for the empty set.
    pub fn status(self) -> Option<Milestone> {
        Milestone::ALL.into_iter().rev().find(|&m| self.contains(m))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S ⊆ T ⇒ rank(S) ≤ rank(T), over all 2^13 sets and every one-element extension, which implies all of them.
    #[test]
    fn status_is_monotone_for_every_set() {
        for bits in 0..1u16 << Milestone::ALL.len() {
            let set = Milestones(bits);
            for extra in Milestone::ALL {
                assert!(set.status() <= set.with(extra).status(), "{set:?} + {extra:?}");
            }
        }
    }

    #[test]
    fn ranks_follow_the_published_order() {
        let names: Vec<_> = Milestone::ALL.iter().map(|m| m.name()).collect();
        assert_eq!(
            names.join(" "),
            "accepted classified carrier_requested carrier_accepted picked_up in_transit out_for_delivery \
             ready_for_pickup delivered return_to_sender returned cancelled dead_lettered"
        );
        assert!(Milestone::ALL.windows(2).all(|w| w[0] < w[1]));
    }
}
