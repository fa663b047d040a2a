//! What events tell by name: the enums of the `.proto`.

use prost::Enumeration;

/// What a parcel needs on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "as in the .proto")]
pub enum HandlingGroup {
    Unspecified = 0,
    Chilled = 1,
    Ambient = 2,
    Frozen = 3,
    AgeRestricted = 4,
    HazmatCheck = 5,
    LivePlant = 6,
}

impl HandlingGroup {
    /// The name in the `.proto`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "HANDLING_GROUP_UNSPECIFIED",
            Self::Chilled => "HANDLING_GROUP_CHILLED",
            Self::Ambient => "HANDLING_GROUP_AMBIENT",
            Self::Frozen => "HANDLING_GROUP_FROZEN",
            Self::AgeRestricted => "HANDLING_GROUP_AGE_RESTRICTED",
            Self::HazmatCheck => "HANDLING_GROUP_HAZMAT_CHECK",
            Self::LivePlant => "HANDLING_GROUP_LIVE_PLANT",
        }
    }
}

/// What goods need on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "as in the .proto")]
pub enum HandlingClass {
    Unspecified = 0,
    Chilled = 1,
    FreshProduce = 2,
    AmbientFood = 3,
    AmbientGeneral = 4,
    OtcHealth = 5,
    Frozen = 6,
    AgeRestricted = 7,
    HazmatCheck = 8,
    LivePlant = 9,
    NonGoods = 10,
}

impl HandlingClass {
    /// The name in the `.proto`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "HANDLING_CLASS_UNSPECIFIED",
            Self::Chilled => "HANDLING_CLASS_CHILLED",
            Self::FreshProduce => "HANDLING_CLASS_FRESH_PRODUCE",
            Self::AmbientFood => "HANDLING_CLASS_AMBIENT_FOOD",
            Self::AmbientGeneral => "HANDLING_CLASS_AMBIENT_GENERAL",
            Self::OtcHealth => "HANDLING_CLASS_OTC_HEALTH",
            Self::Frozen => "HANDLING_CLASS_FROZEN",
            Self::AgeRestricted => "HANDLING_CLASS_AGE_RESTRICTED",
            Self::HazmatCheck => "HANDLING_CLASS_HAZMAT_CHECK",
            Self::LivePlant => "HANDLING_CLASS_LIVE_PLANT",
            Self::NonGoods => "HANDLING_CLASS_NON_GOODS",
        }
    }
}

/// What became of asking a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "as in the .proto")]
pub enum Outcome {
    Unspecified = 0,
    Unknown = 1,
    GivenUp = 2,
    Rejected = 3,
    Accepted = 4,
}

impl Outcome {
    /// The name in the `.proto`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "OUTCOME_UNSPECIFIED",
            Self::Unknown => "OUTCOME_UNKNOWN",
            Self::GivenUp => "OUTCOME_GIVEN_UP",
            Self::Rejected => "OUTCOME_REJECTED",
            Self::Accepted => "OUTCOME_ACCEPTED",
        }
    }
}

/// What a carrier says of a parcel on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "as in the .proto")]
pub enum Progress {
    Unspecified = 0,
    PickedUp = 1,
    InTransit = 2,
    OutForDelivery = 3,
    ReadyForPickup = 4,
    Delivered = 5,
    ReturnToSender = 6,
    Returned = 7,
    OnHold = 8,
    DeliveryDelayed = 9,
    DeliveryFailed = 10,
}

impl Progress {
    /// The name in the `.proto`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "PROGRESS_UNSPECIFIED",
            Self::PickedUp => "PROGRESS_PICKED_UP",
            Self::InTransit => "PROGRESS_IN_TRANSIT",
            Self::OutForDelivery => "PROGRESS_OUT_FOR_DELIVERY",
            Self::ReadyForPickup => "PROGRESS_READY_FOR_PICKUP",
            Self::Delivered => "PROGRESS_DELIVERED",
            Self::ReturnToSender => "PROGRESS_RETURN_TO_SENDER",
            Self::Returned => "PROGRESS_RETURNED",
            Self::OnHold => "PROGRESS_ON_HOLD",
            Self::DeliveryDelayed => "PROGRESS_DELIVERY_DELAYED",
            Self::DeliveryFailed => "PROGRESS_DELIVERY_FAILED",
        }
    }
}
