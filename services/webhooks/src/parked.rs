//! Events that were put aside, durably: one that failed by itself, and behind it the later ones of its order. In memory is only
//! when each is due.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use sluice_domain::OrderId;

use crate::model::Schedule;

#[derive(Debug, Default)]
pub(crate) struct Parked {
    all: BTreeMap<u64, Schedule>,
    /// Numbers by order; the first of each is the one that is due.
    orders: HashMap<OrderId, VecDeque<u64>>,
    flying: HashSet<u64>,
}

impl Parked {
    pub(crate) fn new(schedules: Vec<Schedule>) -> Self {
        let mut parked = Self::default();
        let sorted: BTreeMap<u64, Schedule> = schedules.into_iter().map(|s| (s.number, s)).collect();
        sorted.into_values().for_each(|schedule| parked.insert(schedule));
        parked
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The newest of its order so far.
    pub(crate) fn insert(&mut self, schedule: Schedule) {
        self.orders.entry(schedule.order).or_default().push_back(schedule.number);
        self.all.insert(schedule.number, schedule);
    }

    pub(crate) fn has_order(&self, order: OrderId) -> bool {
        self.orders.contains_key(&order)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Schedule> {
        self.all.get(&number)
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.all.keys().copied()
    }

    pub(crate) fn fly(&mut self, number: u64) {
        self.flying.insert(number);
    }

    pub(crate) fn land(&mut self, number: u64) {
        self.flying.remove(&number);
    }

    pub(crate) fn set(&mut self, schedule: Schedule) {
        self.all.insert(schedule.number, schedule);
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.flying.remove(&number);
        let Some(schedule) = self.all.remove(&number) else { return };
        if let Some(queue) = self.orders.get_mut(&schedule.order) {
            queue.retain(|other| *other != number);
            if queue.is_empty() {
                self.orders.remove(&schedule.order);
            }
        }
    }

    /// The first of its order.
    pub(crate) fn front(&self, order: OrderId) -> Option<&Schedule> {
        self.all.get(self.orders.get(&order)?.front()?)
    }

    /// The first of each order, unless it is flying.
    fn fronts(&self) -> impl Iterator<Item = &Schedule> {
        let fronts = self.orders.values().filter_map(|queue| queue.front());
        fronts.filter(|number| !self.flying.contains(number)).filter_map(|number| self.all.get(number))
    }

    /// The one that is due first.
    pub(crate) fn next(&self) -> Option<&Schedule> {
        self.fronts().min_by_key(|schedule| (schedule.due_ms, schedule.number))
    }

    /// Brings every first one forward to at most `due(number)`.
    pub(crate) fn hasten(&mut self, mut due: impl FnMut() -> u64) {
        let fronts: Vec<u64> = self.fronts().map(|schedule| schedule.number).collect();
        for number in fronts {
            if let Some(schedule) = self.all.get_mut(&number) {
                schedule.due_ms = schedule.due_ms.min(due());
            }
        }
    }
}
