//! What goods need on their way: handling classes, and the groups that may share a parcel.

/// How one product must be handled. The codes are part of the stored formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Handling {
    /// Kept cold.
    Chilled = 0,
    /// Fruit, vegetables, cut flowers.
    FreshProduce = 1,
    /// Food that keeps at room temperature.
    AmbientFood = 2,
    /// Everything else that keeps at room temperature.
    AmbientGeneral = 3,
    /// Over-the-counter health goods.
    OtcHealth = 4,
    /// Kept frozen.
    Frozen = 5,
    /// Needs an adult at the door.
    AgeRestricted = 6,
    /// May need a hazardous-goods declaration.
    HazmatCheck = 7,
    /// Living plants.
    LivePlant = 8,
    /// Coupons, fees, services: nothing to ship.
    NonGoods = 9,
}

impl Handling {
    /// All classes by code.
    pub const ALL: [Handling; 10] = [
        Self::Chilled,
        Self::FreshProduce,
        Self::AmbientFood,
        Self::AmbientGeneral,
        Self::OtcHealth,
        Self::Frozen,
        Self::AgeRestricted,
        Self::HazmatCheck,
        Self::LivePlant,
        Self::NonGoods,
    ];

    /// The name used in data and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chilled => "chilled",
            Self::FreshProduce => "fresh_produce",
            Self::AmbientFood => "ambient_food",
            Self::AmbientGeneral => "ambient_general",
            Self::OtcHealth => "otc_health",
            Self::Frozen => "frozen",
            Self::AgeRestricted => "age_restricted",
            Self::HazmatCheck => "hazmat_check",
            Self::LivePlant => "live_plant",
            Self::NonGoods => "non_goods",
        }
    }

    /// The class of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.name() == name)
    }

    /// The group its parcel belongs to; `None` when nothing ships.
    pub fn group(self) -> Option<Group> {
        match self {
            Self::Chilled | Self::FreshProduce => Some(Group::Chilled),
            Self::AmbientFood | Self::AmbientGeneral | Self::OtcHealth => Some(Group::Ambient),
            Self::Frozen => Some(Group::Frozen),
            Self::AgeRestricted => Some(Group::AgeRestricted),
            Self::HazmatCheck => Some(Group::HazmatCheck),
            Self::LivePlant => Some(Group::LivePlant),
            Self::NonGoods => None,
        }
    }
}

/// Goods of one group may share a parcel. The codes are part of the stored formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Group {
    /// Chilled goods and fresh produce.
    Chilled = 0,
    /// Anything that keeps at room temperature.
    Ambient = 1,
    /// Frozen goods.
    Frozen = 2,
    /// Goods for adults.
    AgeRestricted = 3,
    /// Goods that may be hazardous.
    HazmatCheck = 4,
    /// Living plants.
    LivePlant = 5,
}

impl Group {
    /// All groups by code.
    pub const ALL: [Group; 6] =
        [Self::Chilled, Self::Ambient, Self::Frozen, Self::AgeRestricted, Self::HazmatCheck, Self::LivePlant];

    /// The name used in every public format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chilled => "chilled",
            Self::Ambient => "ambient",
            Self::Frozen => "frozen",
            Self::AgeRestricted => "age_restricted",
            Self::HazmatCheck => "hazmat_check",
            Self::LivePlant => "live_plant",
        }
    }

    /// The group of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|g| g.name() == name)
    }

    /// The group with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_stable() {
        for (code, handling) in Handling::ALL.into_iter().enumerate() {
            assert_eq!(handling as usize, code);
            assert_eq!(Handling::from_name(handling.name()), Some(handling));
        }
        for (code, group) in Group::ALL.into_iter().enumerate() {
            assert_eq!(group as usize, code);
            assert_eq!(Group::from_code(code as u8), Some(group));
            assert_eq!(Group::from_name(group.name()), Some(group));
        }
    }

    #[test]
    fn only_non_goods_need_no_parcel() {
        for handling in Handling::ALL {
            assert_eq!(handling.group().is_none(), handling == Handling::NonGoods);
        }
    }
}
