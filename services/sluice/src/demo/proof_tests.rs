//! Every way in which the two witnesses can disagree is found.

use sluice_carrier::simulated::tracking_number;

use super::*;

fn text(id: u128) -> String {
    String::from_utf8(format_id(id).to_vec()).unwrap()
}

/// An order's view with one parcel in this state, taken by this attempt's carrier if any.
fn view(id: u128, status: &str, taken: Option<(&str, u8)>) -> Vec<u8> {
    let (carrier, number) = match taken {
        Some((carrier, attempt)) => (Some(carrier), Some(tracking_number(&format!("{}-0-{attempt}", text(id))))),
        None => (None, None),
    };
    serde_json::json!({
        "id": text(id), "status": status, "placed_at": "2026-11-11T00:00:00.000Z",
        "parcels": [{"id": format!("{}-0", text(id)), "status": status, "carrier": carrier, "tracking_number": number}],
        "timeline": [
            {"milestone": "classified", "at": "2026-11-11T00:00:00.004Z"},
            {"milestone": status, "at": "2026-11-11T00:00:00.030Z", "detail": "because"},
        ],
    })
    .to_string()
    .into_bytes()
}

fn ledger(lines: &[(u128, &str, &str)]) -> Ledger {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.tsv");
    let line = |(id, rest, carrier): &(u128, &str, &str)| {
        let shipment = format!("{}-{rest}", text(*id));
        format!("1794355200123\t{carrier}\taccepted\t{shipment}\tmf-1\t{}\n", tracking_number(&shipment))
    };
    std::fs::write(&path, lines.iter().map(line).collect::<String>()).unwrap();
    Ledger::read(&path).unwrap()
}

fn acked(id: u128) -> Acked {
    Acked { id, merchant: 0, planted: false }
}

fn proof(orders: &[(Acked, Reading)], lines: &[(u128, &str, &str)]) -> Proof {
    let acked: Vec<Acked> = orders.iter().map(|(order, _)| *order).collect();
    let again = |reading: &Reading| match reading {
        Reading::Decided(fact) => Reading::Decided(Fact {
            class: fact.class,
            parcels: fact.parcels.clone(),
            classified: fact.classified,
            carrier: fact.carrier,
            last_taken_ms: fact.last_taken_ms,
            reason: fact.reason.clone(),
        }),
        Reading::InFlight => Reading::InFlight,
        Reading::NotFound => Reading::NotFound,
        Reading::Failed(why) => Reading::Failed(why.clone()),
    };
    judge(&acked, orders.iter().map(|(_, reading)| again(reading)).collect(), &ledger(lines)).unwrap()
}

fn taken(id: u128, carrier: &str, attempt: u8) -> (Acked, Reading) {
    (acked(id), understand(200, &view(id, "carrier_accepted", Some((carrier, attempt))), id))
}

#[test]
fn two_witnesses_that_agree_are_a_proof() {
    let dead = (Acked { planted: true, ..acked(2) }, understand(200, &view(2, "dead_lettered", None), 2));
    let found = proof(&[taken(1, "swift", 1), dead], &[(1, "0-1", "swift")]);
    assert!(found.holds(2), "{found:?}");
    assert_eq!((found.finished, found.dead_lettered, found.parcels), (1, 1, 1));
    assert_eq!(found.reasons.get("because"), Some(&1));
    assert_eq!(found.carriers["swift"].accepted, 1);
    assert_eq!(found.last_taken_ms, 1_794_355_200_030);
    assert!(!found.holds(3), "an order that nobody looked at");
}

#[test]
fn every_disagreement_is_found() {
    let one = || taken(1, "swift", 0);
    let found = proof(&[one()], &[]);
    assert_eq!((found.missing_effects, found.holds(1)), (1, false));
    let found = proof(&[one()], &[(1, "0-0", "swift"), (1, "0-0", "swift")]);
    assert_eq!((found.duplicate_effects, found.holds(1)), (1, false));
    let found = proof(&[one()], &[(1, "0-0", "swift"), (1, "0-1", "polar")]);
    assert_eq!((found.duplicate_effects, found.stray_effects, found.holds(1)), (1, 1, false));
    let found = proof(&[one()], &[(1, "0-0", "polar")]);
    assert_eq!((found.stray_effects, found.missing_effects), (1, 1));
    let found = proof(&[one()], &[(1, "0-0", "swift"), (9, "0-0", "swift")]);
    assert_eq!((found.stray_effects, found.holds(1)), (1, false));
    let dead = (acked(2), understand(200, &view(2, "dead_lettered", None), 2));
    let found = proof(&[dead], &[(2, "0-0", "swift")]);
    assert_eq!((found.stray_effects, found.holds(1)), (1, false));
}

#[test]
fn orders_that_are_nowhere_are_counted() {
    let lost = (acked(1), understand(404, b"", 1));
    let open = (acked(2), understand(200, &view(2, "carrier_requested", None), 2));
    let broken = (acked(3), understand(500, b"oh", 3));
    let other = (acked(4), understand(200, &view(5, "carrier_accepted", Some(("swift", 0))), 4));
    let found = proof(&[lost, open, broken, other], &[]);
    assert_eq!((found.lost, found.in_flight, found.unread), (1, 1, 2));
    assert!(!found.holds(4) && found.examples.len() == 4);
    assert!(found.problem.unwrap().contains("500: oh"));
    let found = proof(&[taken(1, "swift", 0), taken(1, "swift", 0)], &[(1, "0-0", "swift")]);
    assert_eq!((found.duplicate_ids, found.holds(2)), (1, false));
    let astray = (Acked { planted: true, ..acked(1) }, taken(1, "swift", 0).1);
    let found = proof(&[astray], &[(1, "0-0", "swift")]);
    assert_eq!((found.planted_astray, found.holds(1)), (1, false));
}
