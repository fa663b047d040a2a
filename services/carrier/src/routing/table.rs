//! The routing table: checked once when it is made, so that routing itself can't fail.

use sluice_domain::{Group, limits::MAX_PARTY_ID};

/// Carriers of a deployment.
pub const MAX_CARRIERS: usize = 256;
/// Most that a parcel may cost, in minor units.
pub const MAX_COST: u32 = 1_000_000_000;
/// Longest promise, in days.
pub const MAX_PROMISED_DAYS: u16 = 365;

/// Handling groups that a carrier takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupSet(u8);

/// No handling group has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no handling group; there are chilled, ambient, frozen, age_restricted, hazmat_check, live_plant")]
pub struct UnknownGroup(pub String);

impl GroupSet {
    /// These groups.
    #[must_use]
    pub fn of(groups: &[Group]) -> Self {
        Self(groups.iter().fold(0, |set, &group| set | 1 << group as u8))
    }

    /// The groups of these names, as the configuration has them.
    ///
    /// # Errors
    /// [`UnknownGroup`] for the first that isn't one.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<Self, UnknownGroup> {
        let group = |name: &S| Group::from_name(name.as_ref()).ok_or_else(|| UnknownGroup(name.as_ref().to_owned()));
        names.iter().try_fold(Self::default(), |set, name| Ok(Self(set.0 | 1 << group(name)? as u8)))
    }

    /// Whether `group` is one of them.
    #[must_use]
    pub fn contains(self, group: Group) -> bool {
        self.0 >> group as u8 & 1 == 1
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What one carrier takes, costs and promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierRule {
    /// Unique in a table.
    pub id: String,
    /// What it takes.
    pub groups: GroupSet,
    /// Heaviest parcel it takes, in grams, at least 1.
    pub max_weight_g: u32,
    /// What one parcel costs, in minor units, at most [`MAX_COST`].
    pub cost: u32,
    /// Days from its yes to the customer's door, at most [`MAX_PROMISED_DAYS`].
    pub promised_days: u16,
    /// Whether it can be asked to forget a shipment that it took.
    pub voids: bool,
    /// Whether it brings goods back from customers.
    pub returns: bool,
}

impl CarrierRule {
    /// Where the configuration doesn't say: grams.
    pub const DEFAULT_MAX_WEIGHT_G: u32 = 30_000;
    /// Where the configuration doesn't say: minor units.
    pub const DEFAULT_COST: u32 = 500;
    /// Where the configuration doesn't say: days.
    pub const DEFAULT_PROMISED_DAYS: u16 = 3;

    /// A carrier with the defaults.
    #[must_use]
    pub fn new(id: impl Into<String>, groups: GroupSet) -> Self {
        Self {
            id: id.into(),
            groups,
            max_weight_g: Self::DEFAULT_MAX_WEIGHT_G,
            cost: Self::DEFAULT_COST,
            promised_days: Self::DEFAULT_PROMISED_DAYS,
            voids: false,
            returns: false,
        }
    }
}

/// A table can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Nobody to route to, or more than the table holds.
    #[error("there must be 1 to {MAX_CARRIERS} carriers, not {0}")]
    Count(usize),
    /// A carrier's rule is wrong.
    #[error("carrier {number} ({id:?}): {field} {problem}")]
    Carrier {
        /// Place in the list, from 1.
        number: usize,
        /// Its id, right or wrong.
        id: String,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// A set of carriers by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CarrierSet([u64; MAX_CARRIERS / 64]);

impl CarrierSet {
    /// Adds carrier number `carrier`.
    pub fn insert(&mut self, carrier: u16) {
        if let Some(word) = self.0.get_mut(usize::from(carrier / 64)) {
            *word |= 1 << (carrier % 64);
        }
    }

    /// Whether carrier number `carrier` is one of them.
    #[must_use]
    pub fn contains(&self, carrier: u16) -> bool {
        self.0.get(usize::from(carrier / 64)).is_some_and(|word| word >> (carrier % 64) & 1 == 1)
    }
}

/// All carriers of a deployment. A carrier's number is its place in the list the table was made from.
#[derive(Debug, Clone)]
pub struct Table {
    version: u32,
    carriers: Vec<CarrierRule>,
    /// By group code the carriers that take it, highest weight limit first: those that take a weight are a prefix.
    by_group: [Vec<u16>; 6],
}

impl Table {
    /// A table of `carriers`, by number from 0.
    ///
    /// # Errors
    /// [`TableError`] naming the carrier and the field that is wrong.
    pub fn new(version: u32, carriers: Vec<CarrierRule>) -> Result<Self, TableError> {
        if carriers.is_empty() || carriers.len() > MAX_CARRIERS {
            return Err(TableError::Count(carriers.len()));
        }
        for (index, carrier) in carriers.iter().enumerate() {
            check(carrier, &carriers[..index]).map_err(|(field, problem)| TableError::Carrier {
                number: index + 1,
                id: carrier.id.clone(),
                field,
                problem,
            })?;
        }
        let by_group = Group::ALL.map(|group| {
            let taking = |&number: &u16| carriers[usize::from(number)].groups.contains(group);
            let mut numbers: Vec<u16> = (0..carriers.len() as u16).filter(taking).collect();
            numbers.sort_by_key(|&number| std::cmp::Reverse(carriers[usize::from(number)].max_weight_g));
            numbers
        });
        Ok(Self { version, carriers, by_group })
    }

    /// The version it was made with.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All carriers, by number.
    #[must_use]
    pub fn carriers(&self) -> &[CarrierRule] {
        &self.carriers
    }

    /// The number of the carrier with this id.
    #[must_use]
    pub fn number(&self, id: &str) -> Option<u16> {
        self.carriers.iter().position(|carrier| carrier.id == id).map(|at| at as u16)
    }

    /// The carrier with this id, if it can be asked to forget what it took.
    #[must_use]
    pub fn forgets(&self, id: &str) -> Option<u16> {
        self.number(id).filter(|number| self.carriers[usize::from(*number)].voids)
    }

    /// Those that bring nothing back.
    #[must_use]
    pub fn one_way(&self) -> CarrierSet {
        let mut set = CarrierSet::default();
        let all = self.carriers.iter().enumerate();
        all.filter(|(_, carrier)| !carrier.returns).for_each(|(number, _)| set.insert(number as u16));
        set
    }

    /// By group code, the heaviest parcel that any carrier takes, in grams; `u32::MAX` for a group that none takes,
    /// since no split would help it.
    #[must_use]
    pub fn weight_limits(&self) -> [u32; 6] {
        Group::ALL.map(|group| self.limit(group).unwrap_or(u32::MAX))
    }

    /// Numbers and rules of the carriers that take `group`, highest weight limit first.
    pub(super) fn taking(&self, group: Group) -> impl Iterator<Item = (u16, &CarrierRule)> {
        self.by_group[group as usize].iter().map(|&number| (number, &self.carriers[usize::from(number)]))
    }

    /// The heaviest parcel of `group` that any carrier takes.
    pub(super) fn limit(&self, group: Group) -> Option<u32> {
        self.taking(group).next().map(|(_, carrier)| carrier.max_weight_g)
    }
}

fn check(carrier: &CarrierRule, earlier: &[CarrierRule]) -> Result<(), (&'static str, String)> {
    let plain = carrier.id.bytes().all(|byte| byte.is_ascii_graphic());
    if carrier.id.is_empty() || carrier.id.len() > MAX_PARTY_ID || !plain {
        return Err(("id", format!("must be 1 to {MAX_PARTY_ID} visible ASCII characters")));
    }
    if let Some(twin) = earlier.iter().position(|other| other.id == carrier.id) {
        return Err(("id", format!("is that of carrier {} too", twin + 1)));
    }
    if carrier.groups.is_empty() {
        return Err(("handling", "must name at least one handling group".to_owned()));
    }
    if carrier.max_weight_g == 0 {
        return Err(("max_weight_g", "must be at least 1".to_owned()));
    }
    if carrier.cost > MAX_COST {
        return Err(("cost", format!("must be at most {MAX_COST}, not {}", carrier.cost)));
    }
    if carrier.promised_days > MAX_PROMISED_DAYS {
        return Err(("promised_days", format!("must be at most {MAX_PROMISED_DAYS}, not {}", carrier.promised_days)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: &str) -> CarrierRule {
        CarrierRule::new(id, GroupSet::of(&[Group::Ambient]))
    }

    #[test]
    fn group_names_are_read_or_named() {
        let set = GroupSet::from_names(&["frozen", "chilled", "frozen"]).unwrap();
        assert_eq!(set, GroupSet::of(&[Group::Chilled, Group::Frozen]));
        assert!(set.contains(Group::Frozen) && !set.contains(Group::Ambient) && !set.is_empty());
        let error = GroupSet::from_names(&["frozen", "ambient_food"]).unwrap_err();
        assert_eq!(error, UnknownGroup("ambient_food".to_owned()));
        for group in Group::ALL {
            assert!(error.to_string().contains(group.name()));
        }
    }

    #[test]
    fn a_bad_field_is_named_with_its_carrier() {
        let error = |carriers: Vec<CarrierRule>| Table::new(1, carriers).unwrap_err().to_string();
        assert_eq!(error(vec![]), "there must be 1 to 256 carriers, not 0");
        let many = |n: usize| (0..n).map(|i| rule(&i.to_string())).collect::<Vec<_>>();
        assert_eq!(error(many(257)), "there must be 1 to 256 carriers, not 257");
        assert!(Table::new(1, many(256)).is_ok());
        for (bad, expected) in [
            (rule(""), "(\"\"): id must be 1 to 32 visible ASCII characters"),
            (rule(&"x".repeat(33)), "id must be 1 to 32"),
            (rule("a b"), "(\"a b\"): id must be 1 to 32"),
            (rule("a"), "(\"a\"): id is that of carrier 1 too"),
            (CarrierRule { groups: GroupSet::default(), ..rule("b") }, "handling must name at least one"),
            (CarrierRule { max_weight_g: 0, ..rule("b") }, "max_weight_g must be at least 1"),
            (CarrierRule { cost: MAX_COST + 1, ..rule("b") }, "cost must be at most 1000000000, not 1000000001"),
            (CarrierRule { promised_days: 366, ..rule("b") }, "promised_days must be at most 365, not 366"),
        ] {
            let error = error(vec![rule("a"), bad]);
            assert!(error.starts_with("carrier 2 (") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn limits_are_the_highest_of_each_group() {
        let heavy = CarrierRule { max_weight_g: 70_000, ..rule("heavy") };
        let cold = CarrierRule::new("cold", GroupSet::of(&[Group::Chilled, Group::Frozen, Group::Ambient]));
        let table = Table::new(4, vec![rule("a"), heavy, cold]).unwrap();
        let none = u32::MAX;
        assert_eq!(table.weight_limits(), [30_000, 70_000, 30_000, none, none, none]);
        assert_eq!((table.version(), table.number("cold"), table.number("x")), (4, Some(2), None));
        let ambient: Vec<u16> = table.taking(Group::Ambient).map(|(number, _)| number).collect();
        assert_eq!(ambient, [1, 0, 2]);
    }

    #[test]
    fn sets_hold_every_number_there_is() {
        let mut set = CarrierSet::default();
        for number in [0, 63, 64, 255, 256, u16::MAX] {
            assert!(!set.contains(number));
            set.insert(number);
            assert_eq!(set.contains(number), usize::from(number) < MAX_CARRIERS);
        }
    }
}
