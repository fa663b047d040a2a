//! What is kept, over documents in memory; the stored format is frozen here.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use super::*;

/// Documents in memory; whether they are away, and whether what is written is lost.
#[derive(Default)]
pub(crate) struct Memory(pub Mutex<BTreeMap<Vec<u8>, Vec<u8>>>, pub AtomicBool, pub AtomicBool);

impl Memory {
    fn there(&self) -> Result<(), LogError> {
        if self.1.load(Relaxed) { Err(LogError::Store("away".to_owned())) } else { Ok(()) }
    }
}

impl Documents for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        self.there()?;
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, max: usize) -> Result<Vec<Entry>, LogError> {
        self.there()?;
        let all = self.0.lock().unwrap();
        let found =
            all.iter().filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after));
        Ok(found.take(max).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn write(&self, changes: &[Change]) -> Result<(), LogError> {
        self.there()?;
        for change in changes {
            match change.clone() {
                Change::Put { .. } if self.2.load(Relaxed) => None,
                Change::Put { key, value } => self.0.lock().unwrap().insert(key, value),
                Change::Delete { key } => self.0.lock().unwrap().remove(&key),
            };
        }
        Ok(())
    }
}

/// Decisions kept in `documents`, with room for two rules.
pub(crate) fn kept(documents: Arc<Memory>) -> (Kept, Arc<AtomicUsize>) {
    let taught = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taught);
    let taught_now = Arc::new(move || {
        count.fetch_add(1, Relaxed);
    });
    (Kept { documents, title_key: str::to_uppercase, most_rules: 2, taught: taught_now }, taught)
}

const ROW: &str = "01M73YF0000BPNWFZHPPKC7FDC-1";

fn lesson(title: &str, handling: Handling, at: u64) -> Lesson {
    Lesson {
        title: title.to_owned(),
        sku: "x-1".to_owned(),
        merchant: "m-1".to_owned(),
        handling: handling.name().to_owned(),
        by: "operator 5".to_owned(),
        at,
        order: ROW[..26].to_owned(),
        parcel: 1,
    }
}

#[test]
fn what_is_stored_is_frozen() {
    let documents = Arc::new(Memory::default());
    let (kept, _) = kept(documents.clone());
    let id = kept.id_of(Keep::Rule, "Sea glow", ROW);
    assert_eq!((id.as_str(), kept.id_of(Keep::Row, "Sea glow", ROW).as_str()), (RULE, ROW));
    for keep in [Keep::Rule, Keep::Row] {
        let id = kept.id_of(keep, "Sea glow", ROW);
        kept.keep(keep, &id, &lesson("Sea glow", Handling::HazmatCheck, 1_794_355_200_000)).unwrap();
    }
    let value = "{\"title\":\"Sea glow\",\"sku\":\"x-1\",\"merchant\":\"m-1\",\"handling\":\"hazmat_check\",\
        \"by\":\"operator 5\",\"at\":1794355200000,\"order\":\"01M73YF0000BPNWFZHPPKC7FDC\",\"parcel\":1}";
    let stored: Vec<(String, String)> = documents
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|(key, value)| [key, value].map(|bytes| String::from_utf8(bytes.clone()).unwrap()).into())
        .collect();
    let expected = [format!("goods/rows/{ROW}"), format!("goods/rules/{RULE}")].map(|key| (key, value.to_owned()));
    assert_eq!(stored, expected);
    assert_eq!(rules(&*documents).unwrap(), [("Sea glow".to_owned(), Handling::HazmatCheck)]);
}

/// Of `SEA GLOW`.
const RULE: &str = "cad89c41ed3f90c2ada15ddf98b59b7d";

#[test]
fn the_last_decision_about_a_title_counts() {
    let documents = Arc::new(Memory::default());
    let (kept, taught) = kept(documents.clone());
    let id = kept.id_of(Keep::Rule, "Ice", ROW);
    assert_eq!(id, kept.id_of(Keep::Rule, "ICE", "another parcel"));
    for (handling, at) in [(Handling::Frozen, 20), (Handling::Chilled, 10), (Handling::Frozen, 20)] {
        kept.keep(Keep::Rule, &id, &lesson("Ice", handling, at)).unwrap();
    }
    assert_eq!(rules(&*documents).unwrap(), [("Ice".to_owned(), Handling::Frozen)]);
    assert_eq!(taught.load(Relaxed), 1, "nothing changed since");
    let (keep, key) = key_of(&id).unwrap();
    assert!(kept.forget(keep, key.clone()).unwrap() && !kept.forget(keep, key).unwrap());
    assert_eq!((rules(&*documents).unwrap(), taught.load(Relaxed)), (vec![], 2));
}

#[test]
fn what_is_not_there_afterwards_is_not_said_to_be_kept() {
    let documents = Arc::new(Memory::default());
    let (kept, taught) = kept(documents.clone());
    // As when a node whose clock is ahead has taken it back.
    documents.2.store(true, Relaxed);
    let id = kept.id_of(Keep::Rule, "Ice", ROW);
    let error = kept.keep(Keep::Rule, &id, &lesson("Ice", Handling::Frozen, 1)).unwrap_err();
    assert!(error.to_string().contains("is not there") && taught.load(Relaxed) == 0, "{error}");
}

#[test]
fn there_is_room_for_so_many() {
    let (kept, _) = kept(Arc::default());
    for title in ["a", "b"] {
        let id = kept.id_of(Keep::Rule, title, ROW);
        assert!(kept.has_room(Keep::Rule, &id).unwrap());
        kept.keep(Keep::Rule, &id, &lesson(title, Handling::Frozen, 1)).unwrap();
    }
    assert!(!kept.has_room(Keep::Rule, &kept.id_of(Keep::Rule, "c", ROW)).unwrap());
    assert!(kept.has_room(Keep::Rule, &kept.id_of(Keep::Rule, "A", ROW)).unwrap(), "it is there");
    assert!(kept.has_room(Keep::Row, ROW).unwrap());
}

#[test]
fn rules_are_read_whole_or_not_at_all() {
    let documents = Arc::new(Memory::default());
    let (kept, _) = kept(documents.clone());
    for n in 0..SCAN + 1 {
        let title = n.to_string();
        kept.keep(Keep::Rule, &kept.id_of(Keep::Rule, &title, ROW), &lesson(&title, Handling::Frozen, 1)).unwrap();
    }
    assert_eq!(rules(&*documents).unwrap().len(), SCAN + 1);
    let mut warm = lesson("x", Handling::Frozen, 1);
    "warm".clone_into(&mut warm.handling);
    kept.keep(Keep::Rule, &"f".repeat(32), &warm).unwrap();
    assert!(rules(&*documents).unwrap_err().to_string().contains("warm"));
}

#[test]
fn ids_name_one_thing() {
    assert_eq!(key_of(ROW).map(|k| k.0), Some(Keep::Row));
    assert_eq!(parse_parcel_id(ROW).map(|p| p.1), Some(1));
    for wrong in [
        "",
        "x",
        "01M73YF0000BPNWFZHPPKC7FDC",
        "01M73YF0000BPNWFZHPPKC7FDC-",
        "01M73YF0000BPNWFZHPPKC7FDC-01",
        "01M73YF0000BPNWFZHPPKC7FDC-200",
        "01M73YF0000BPNWFZHPPKC7FDC-+1",
        "01m73yf0000bpnwfzhppkc7fdc-1",
        "01M73YF0000BPNWFZHPPKC7FDC-256",
        "ABCDEF0123456789ABCDEF0123456789",
        "../../x",
    ] {
        assert_eq!(key_of(wrong), None, "{wrong}");
    }
}
