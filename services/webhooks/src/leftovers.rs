//! What is left of endpoints that the configuration doesn't name any more: kept as long as a log is, for whoever looks, and so that
//! an endpoint that comes back goes on where it was; then removed.

use std::collections::BTreeSet;

use sluice_pipeline::{Change, Documents, LogError};

use crate::{
    about,
    model::{self, Schedule, Standing},
};

/// Documents read, or removed, at once.
const SCAN: usize = 1_000;

/// The ids of endpoints that have a standing and aren't among the `known`; from now on it is known since when.
///
/// # Errors
/// [`LogError::Store`] when the documents can't be read or written now.
pub(crate) fn find(documents: &dyn Documents, known: &BTreeSet<String>, now: u64) -> Result<Vec<String>, LogError> {
    let (prefix, mut after) = (model::standing_key(""), None);
    let (mut found, mut changes) = (Vec::new(), Vec::new());
    loop {
        let page = documents.scan(&prefix, after.as_deref(), SCAN)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (key, value) in &page {
            let Some(id) = str::from_utf8(&key[prefix.len()..]).ok().filter(|id| !known.contains(*id)) else {
                continue;
            };
            let Some(mut standing) = model::read::<Standing>(key, value) else { continue };
            // One that is stored and can't be read isn't left: somebody may still mend it.
            if documents.get(&model::endpoint_key(id))?.is_some() {
                continue;
            }
            let configured = standing.configured.get_or_insert_default();
            if configured.removed_at_ms.is_none() {
                configured.removed_at_ms = Some(now);
                changes.push(model::put(key.clone(), &standing));
            }
            found.push(id.to_owned());
        }
    }
    if !changes.is_empty() {
        documents.write(&changes)?;
    }
    Ok(found)
}

/// Removes everything of those among `ids` that were found to be left before `before`, ms since the Unix epoch.
///
/// # Errors
/// [`LogError::Store`] when the documents can't be read or written now; what is left is removed the next time.
pub(crate) fn remove(documents: &dyn Documents, ids: &[String], before: u64) -> Result<(), LogError> {
    for id in ids {
        let key = model::standing_key(id);
        let Some(standing) = documents.get(&key)?.and_then(|value| model::read::<Standing>(&key, &value)) else {
            continue;
        };
        let since = standing.configured.as_ref().and_then(|configured| configured.removed_at_ms);
        if since.is_none_or(|since| since >= before) {
            continue;
        }
        loop {
            let page = documents.scan(&model::schedules_prefix(id), None, SCAN)?;
            let waiting = page.iter().filter_map(|(key, value)| model::read::<Schedule>(key, value));
            let bodies = waiting.map(|schedule| Change::Delete { key: model::message_key(id, schedule.number) });
            let gone: Vec<_> = page.iter().map(|(key, _)| Change::Delete { key: key.clone() }).chain(bodies).collect();
            if gone.is_empty() {
                break;
            }
            documents.write(&gone)?;
        }
        loop {
            let page = documents.scan(&model::deliveries_prefix(id), None, SCAN)?;
            if page.is_empty() {
                break;
            }
            let gone: Vec<_> = page.into_iter().map(|(key, _)| Change::Delete { key }).collect();
            about::write(documents, &gone)?;
        }
        // Last: as long as it is there, the rest is looked for.
        documents.write(&[Change::Delete { key }])?;
        tracing::info!(endpoint = id, "what was left of a webhook endpoint that isn't configured any more is removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Message, testing::MemoryDocuments};

    const DAY: u64 = 86_400_000;

    fn documents() -> MemoryDocuments {
        let (documents, message) = (
            MemoryDocuments::default(),
            Message {
                id: "e".to_owned(),
                kind: "k".to_owned(),
                order: sluice_domain::OrderId(1),
                sequence: 0,
                at_ms: 1,
                data: "{}".to_owned(),
            },
        );
        for id in ["a", "b"] {
            let mut changes = vec![
                model::put(model::standing_key(id), &Standing::default()),
                model::put(model::schedule_key(id, 0), &Schedule::new(&message, false, 1)),
                model::put(model::message_key(id, 0), &message),
            ];
            for number in 0..1_500 {
                changes.push(model::name(model::delivery_key(id, number)));
            }
            documents.write(&changes).unwrap();
        }
        documents
    }

    #[test]
    fn what_is_left_goes_when_its_time_has_come() {
        let (documents, known) = (documents(), BTreeSet::from(["b".to_owned()]));
        let all = |documents: &MemoryDocuments| documents.scan(b"", None, usize::MAX).unwrap().len();
        let before = all(&documents);
        let left = find(&documents, &known, DAY).unwrap();
        assert_eq!(left, ["a"]);
        assert_eq!(find(&documents, &known, 9 * DAY).unwrap(), ["a"], "since when stays");
        remove(&documents, &left, DAY).unwrap();
        assert_eq!(all(&documents), before);
        remove(&documents, &left, DAY + 1).unwrap();
        assert_eq!(all(&documents), before / 2);
        assert!(documents.get(&model::standing_key("b")).unwrap().is_some());
        assert_eq!(find(&documents, &known, DAY).unwrap(), [""; 0]);
        // An id that is another's beginning; and an endpoint that is stored, be it unreadable.
        documents
            .write(&[
                model::put(model::standing_key("c"), &Standing::default()),
                Change::Put { key: model::endpoint_key("c"), value: b"?".to_vec() },
            ])
            .unwrap();
        let more = model::put(model::standing_key("bb"), &Standing::default());
        documents.write(&[more]).unwrap();
        assert_eq!(find(&documents, &known, DAY).unwrap(), ["bb"]);
    }

    #[test]
    fn what_comes_back_in_time_is_kept() {
        let documents = documents();
        let left = find(&documents, &BTreeSet::new(), DAY).unwrap();
        let key = model::standing_key("a");
        documents.write(&[model::put(key.clone(), &Standing::default())]).unwrap();
        remove(&documents, &left, 99 * DAY).unwrap();
        assert!(documents.get(&key).unwrap().is_some() && documents.get(&model::standing_key("b")).unwrap().is_none());
    }
}
