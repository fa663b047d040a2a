//! What became of one order's events at its merchant's endpoints, found by the order: each line of a log is named under its order
//! when it is first written, and what names it goes with it.

use std::collections::{BTreeMap, BTreeSet};

use sluice_domain::OrderId;
use sluice_pipeline::{Change, Documents, LogError};

use crate::model::{self, Delivery, Endpoint, Schedule, Standing};

/// Lines about one order that are looked up, of all endpoints together; those of the endpoints first by id, the newest of each.
pub const MAX_LINES: usize = 500;
/// Endpoints of one merchant that are looked up, besides those of the configuration.
const MAX_MADE: usize = 2 * sluice_domain::limits::MAX_WEBHOOKS;
/// Events put aside that are looked through, of one endpoint: twice as many as there are unless a hand-over has left some behind.
const MAX_PARKED: usize = 512;
/// Lines of a log that are read at once.
const SCAN: usize = 1_000;

/// Writes `changes`, and removes what names the lines that they remove.
///
/// # Errors
/// [`LogError::Store`] as [`Documents::write`].
pub(crate) fn write(documents: &dyn Documents, changes: &[Change]) -> Result<(), LogError> {
    let unnamed = unnamed(documents, changes)?;
    match unnamed.is_empty() {
        true => documents.write(changes),
        false => documents.write(&[changes, &unnamed].concat()),
    }
}

/// Removals of what names the lines that `changes` remove: those that are stored, and those that are among the changes.
fn unnamed(documents: &dyn Documents, changes: &[Change]) -> Result<Vec<Change>, LogError> {
    let mut removed: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for change in changes {
        if let Change::Delete { key } = change
            && let Some((id, number)) = model::line(key)
        {
            removed.entry(id).or_default().insert(number);
        }
    }
    let mut unnamed = Vec::new();
    for (id, numbers) in &removed {
        let (Some(oldest), Some(newest)) = (numbers.first(), numbers.last()) else { continue };
        let mut after = newest.checked_add(1).map(|number| model::delivery_key(id, number));
        // No more than there are: behind the oldest one lies what a store still has of lines that are long gone.
        let max = numbers.len().min(SCAN);
        loop {
            let page = documents.scan(&model::deliveries_prefix(id), after.as_deref(), max)?;
            let lines = page.iter().filter_map(|(key, value)| Some((model::line(key)?.1, key, value)));
            for (number, key, value) in lines.filter(|(number, ..)| numbers.contains(number)) {
                let line: Option<Delivery> = model::read(key, value);
                unnamed.extend(line.map(|line| Change::Delete { key: model::about_key(line.order, id, number) }));
            }
            let last = page.last().map(|(key, _)| key.clone());
            if page.len() < max || last.as_deref().and_then(model::line).is_none_or(|(_, number)| number <= *oldest) {
                break;
            }
            after = last;
        }
    }
    let new = changes.iter().filter_map(|change| match change {
        Change::Put { key, .. } => {
            let (id, number) = model::about(key)?;
            removed.get(id)?.contains(&number).then(|| Change::Delete { key: key.clone() })
        }
        Change::Delete { .. } => None,
    });
    unnamed.extend(new);
    Ok(unnamed)
}

/// One endpoint, and what became there of the events of one order.
#[derive(Debug, Clone)]
pub struct About {
    /// The endpoint's id.
    pub id: String,
    /// `None` if it is neither stored nor among those of the configuration any more: what is left of it is its log.
    pub endpoint: Option<Endpoint>,
    /// How far it has been told.
    pub standing: Standing,
    /// Lines of its log, oldest first.
    pub lines: Vec<Delivery>,
    /// Events that wait for an earlier one of the order and have no line yet, in their order.
    pub waiting: Vec<Schedule>,
    /// True if lines are left out because there are more than [`MAX_LINES`].
    pub more: bool,
}

/// What became of the events of `order`, at the endpoints of `merchant` and at any other that has lines about it, by endpoint.
/// `fixed` are the merchant's endpoints of the configuration. Reads by key, and so many documents at most as the bounds here
/// say, however long the logs are. Blocks.
///
/// # Errors
/// [`LogError::Store`] when the documents can't be read now.
pub fn of_order(
    documents: &dyn Documents,
    merchant: Option<&str>,
    order: OrderId,
    fixed: Vec<Endpoint>,
) -> Result<Vec<About>, LogError> {
    let mut all: BTreeMap<String, About> = BTreeMap::new();
    for endpoint in fixed {
        all.insert(endpoint.id.clone(), About::new(endpoint.id.clone(), Some(endpoint)));
    }
    if let Some(merchant) = merchant {
        let prefix = model::made_prefix(merchant);
        for (key, _) in documents.scan(&prefix, None, MAX_MADE)? {
            let Ok(id) = str::from_utf8(&key[prefix.len()..]) else { continue };
            if let Some(endpoint) = stored(documents, id)?.filter(|endpoint| endpoint.merchant == merchant) {
                all.entry(id.to_owned()).or_insert_with(|| About::new(id.to_owned(), Some(endpoint)));
            }
        }
    }
    let named = documents.scan(&model::about_prefix(order), None, MAX_LINES + 1)?;
    for (key, _) in named.iter().take(MAX_LINES) {
        let Some((id, number)) = model::about(key) else { continue };
        if !all.contains_key(id) {
            all.insert(id.to_owned(), About::new(id.to_owned(), stored(documents, id)?));
        }
        let key = model::delivery_key(id, number);
        let line = documents.get(&key)?.and_then(|value| model::read::<Delivery>(&key, &value));
        // A name that a crash has left behind may lead to another order's line.
        if let (Some(line), Some(about)) = (line.filter(|line| line.order == order), all.get_mut(id)) {
            about.lines.push(line);
        }
    }
    if let Some((cut, _)) = named.get(MAX_LINES).and_then(|(key, _)| model::about(key)) {
        all.iter_mut().filter(|(id, _)| id.as_str() >= cut).for_each(|(_, about)| about.more = true);
    }
    all.values_mut().try_for_each(|about| about.complete(documents, order))?;
    Ok(all.into_values().collect())
}

fn stored(documents: &dyn Documents, id: &str) -> Result<Option<Endpoint>, LogError> {
    let key = model::endpoint_key(id);
    Ok(documents.get(&key)?.and_then(|value| model::read(&key, &value)))
}

impl About {
    fn new(id: String, endpoint: Option<Endpoint>) -> Self {
        Self { id, endpoint, standing: Standing::default(), lines: Vec::new(), waiting: Vec::new(), more: false }
    }

    /// Adds where it stands and what waits there.
    fn complete(&mut self, documents: &dyn Documents, order: OrderId) -> Result<(), LogError> {
        self.lines.reverse();
        let key = model::standing_key(&self.id);
        let standing = documents.get(&key)?.and_then(|value| model::read(&key, &value));
        self.standing = standing.unwrap_or_default();
        for (key, value) in documents.scan(&model::schedules_prefix(&self.id), None, MAX_PARKED)? {
            let Some(schedule) = model::read::<Schedule>(&key, &value) else { continue };
            if schedule.order == order && schedule.attempts == 0 && schedule.log.is_none() {
                self.waiting.push(schedule);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Message, testing::MemoryDocuments};

    const ID: &str = "whe_1";

    fn line(order: u128, number: u64) -> [Change; 2] {
        let message = Message {
            id: format!("e{number}"),
            kind: "k".to_owned(),
            order: OrderId(order),
            sequence: number,
            at_ms: 1,
            data: "{}".to_owned(),
        };
        let of = Schedule::new(&message, false, 1);
        let line = Delivery {
            number,
            event: of.event,
            kind: of.kind,
            order: of.order,
            sequence: of.sequence,
            event_at_ms: 1,
            status: model::DeliveryStatus::Delivered,
            attempts: 1,
            at_ms: 2,
            http_status: Some(204),
            took_ms: Some(1),
            error: String::new(),
            next_at_ms: None,
            replayed: false,
            tried_at_ms: None,
            earlier: Vec::new(),
        };
        let name = model::name(model::about_key(line.order, ID, number));
        [name, model::put(model::delivery_key(ID, number), &line)]
    }

    fn forget(number: u64) -> Change {
        Change::Delete { key: model::delivery_key(ID, number) }
    }

    fn numbers(documents: &MemoryDocuments, order: u128) -> Vec<u64> {
        let found = of_order(documents, None, OrderId(order), Vec::new()).unwrap();
        found.into_iter().flat_map(|about| about.lines).map(|line| line.number).collect()
    }

    fn names(documents: &MemoryDocuments) -> usize {
        documents.scan(b"o/", None, usize::MAX).unwrap().len()
    }

    #[test]
    fn keys_are_read_back() {
        for number in [0, 7, u64::MAX] {
            assert_eq!(model::line(&model::delivery_key(ID, number)), Some((ID, number)));
            assert_eq!(model::about(&model::about_key(OrderId(1), ID, number)), Some((ID, number)));
        }
        assert_eq!((model::line(b"d/x"), model::line(b"e/x/0"), model::about(b"o/x/y")), (None, None, None));
        assert_eq!(model::about(b"o/\xff/y.0"), None);
    }

    #[test]
    fn a_line_is_named_as_long_as_it_is_there() {
        let documents = MemoryDocuments::default();
        for number in 0..2_500 {
            write(&documents, &line(u128::from(number % 3), number)).unwrap();
        }
        assert_eq!(numbers(&documents, 2).len(), MAX_LINES);
        assert_eq!(numbers(&documents, 2).last(), Some(&2_498), "the newest, oldest first");
        assert!(of_order(&documents, None, OrderId(2), Vec::new()).unwrap()[0].more);
        assert!(of_order(&documents, None, OrderId(9), Vec::new()).unwrap().is_empty());
        write(&documents, &(0..2_400).map(forget).collect::<Vec<_>>()).unwrap();
        assert_eq!((numbers(&documents, 0).len(), names(&documents)), (34, 100));
        assert!(!of_order(&documents, None, OrderId(0), Vec::new()).unwrap()[0].more);
        // Written and removed at once; and a removal of what is gone.
        let [name, put] = line(9, 2_500);
        write(&documents, &[name, put, forget(2_500), forget(1)]).unwrap();
        assert_eq!((numbers(&documents, 9), names(&documents)), (vec![], 100));
        // A name that leads to another order's line.
        documents.write(&[model::name(model::about_key(OrderId(77), ID, 2_450))]).unwrap();
        assert_eq!(numbers(&documents, 77), [0; 0]);
    }
}
