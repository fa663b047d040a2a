//! Each habit of a carrier, shown alone.

use std::collections::BTreeSet;

use sluice_domain::{Fingerprint, Group, SlotCount};
use sluice_pipeline::{OutboxBatch, OutboxEntry};

use super::*;

const NOW: u64 = 1_000_000;

fn shipment(i: u8) -> ShipmentId {
    let order = OrderId::new(NOW, Fingerprint::of("m", &i.to_string()), SlotCount::DEFAULT);
    ShipmentId { order, parcel: 0, attempt: 0 }
}

fn manifest(count: u8) -> Manifest {
    let entry = |i| OutboxEntry {
        position: u64::from(i),
        shipment: shipment(i),
        group: Group::Ambient,
        weight: sluice_schemas::delta::Weight::known(1),
        maybe_sent: false,
        record: 0..0,
        items: 0..0,
    };
    let shipments = OutboxBatch { bytes: Vec::new(), entries: (0..count).map(entry).collect() };
    Manifest { id: "m-1".to_owned(), expires_at_ms: NOW + 60_000, shipments }
}

fn carrier(seed: u64, profile: CarrierProfile) -> SimCarrier {
    SimCarrier::new(profile, &Rng::new(seed), Trace::digest_only())
}

fn quiet() -> CarrierProfile {
    CarrierProfile { idempotent: true, ..CarrierProfile::default() }
}

fn outcomes(answer: Answer) -> BTreeMap<ShipmentId, Result<String, String>> {
    let Answer::Results(results) = answer else { panic!("{answer:?}") };
    results.into_iter().map(|r| (r.shipment, r.outcome)).collect()
}

#[test]
fn an_idempotent_carrier_repeats_its_answers_and_acts_once() {
    let mut c = carrier(1, CarrierProfile { rejects: Chance::percent(50), ..quiet() });
    let (delay, first) = c.ask(&manifest(20), NOW);
    assert!((5..=50).contains(&delay));
    let first = outcomes(first);
    let again = outcomes(c.ask(&manifest(20), NOW + 1).1);
    assert_eq!(first, again);
    let taken = first.values().filter(|o| o.is_ok()).count();
    assert!((1..20).contains(&taken));
    assert_eq!((c.ledger().effects.len(), c.ledger().calls.len()), (taken, 2));
}

#[test]
fn a_carrier_without_a_memory_acts_every_time() {
    let mut c = carrier(1, CarrierProfile::default());
    c.ask(&manifest(2), NOW);
    c.ask(&manifest(2), NOW);
    assert_eq!(c.ledger().effects.len(), 4);
    let numbers: BTreeSet<_> = c.ledger().effects.iter().map(|e| &e.tracking_number).collect();
    assert_eq!(numbers.len(), 4);
}

#[test]
fn a_refusal_and_a_carrier_that_is_down_do_nothing() {
    let mut hints = BTreeSet::new();
    let mut c = carrier(
        1,
        CarrierProfile { refuses: Chance::ALWAYS, down: std::iter::once(NOW..NOW + 10).collect(), ..quiet() },
    );
    assert!(matches!(c.ask(&manifest(1), NOW + 9).1, Answer::NotSent(_)));
    assert!(c.ledger().calls.is_empty());
    for _ in 0..20 {
        match c.ask(&manifest(1), NOW + 10).1 {
            Answer::Refused { retry_after_ms } => hints.insert(retry_after_ms.is_some()),
            other => panic!("{other:?}"),
        };
    }
    assert_eq!((hints.len(), c.ledger().effects.len(), c.ledger().calls.len()), (2, 0, 20));
}

#[test]
fn errors_and_resets_come_before_after_or_within_the_effects() {
    for profile in [
        CarrierProfile { server_error: Chance::ALWAYS, ..quiet() },
        CarrierProfile { reset: Chance::ALWAYS, ..quiet() },
    ] {
        let done: BTreeSet<_> = (0..60)
            .map(|seed| {
                let mut c = carrier(seed, profile.clone());
                assert!(matches!(c.ask(&manifest(4), NOW).1, Answer::Ambiguous(_)));
                c.ledger().effects.len()
            })
            .collect();
        assert!(done.contains(&0) && done.contains(&4) && done.len() > 2, "{done:?}");
    }
}

#[test]
fn what_timed_out_was_done_and_can_be_asked_again() {
    for profile in [
        CarrierProfile { times_out: Chance::ALWAYS, ..quiet() },
        CarrierProfile { latency_ms: (400, 500), slow: Chance::ALWAYS, ..quiet() },
    ] {
        let mut c = carrier(1, profile);
        let (delay, answer) = c.ask(&manifest(3), NOW);
        assert!(matches!(answer, Answer::Ambiguous(_)) && delay == 5_000);
        assert_eq!(c.ledger().effects.len(), 3);
        c.heal();
        assert!(outcomes(c.ask(&manifest(3), NOW).1).values().all(Result::is_ok));
        assert_eq!(c.ledger().effects.len(), 3);
    }
}

#[test]
fn a_late_call_acts_when_it_arrives_unless_it_has_expired() {
    let mut acted = BTreeSet::new();
    for seed in 0..40 {
        let mut c = carrier(seed, CarrierProfile { late: Chance::ALWAYS, ..quiet() });
        let expires_at_ms = NOW + 10_000;
        let (delay, _) = c.ask(&Manifest { expires_at_ms, ..manifest(1) }, NOW);
        assert_eq!((delay, c.ledger().effects.len()), (5_000, 0));
        let arrival = c.next_arrival_ms().unwrap();
        assert!(arrival > NOW + 5_000);
        c.advance(arrival - 1);
        assert!(c.ledger().effects.is_empty());
        c.advance(arrival);
        assert_eq!(c.ledger().effects.is_empty(), arrival > expires_at_ms);
        assert_eq!(c.next_arrival_ms(), None);
        acted.insert(c.ledger().effects.len());
    }
    assert_eq!(acted.len(), 2);
}

#[test]
fn an_expired_manifest_only_learns_what_was_answered_before() {
    let mut c = carrier(1, quiet());
    c.ask(&manifest(1), NOW);
    let late = outcomes(c.ask(&manifest(2), NOW + 60_001).1);
    assert_eq!(late.keys().copied().collect::<Vec<_>>(), [shipment(0)]);
    assert_eq!(c.ledger().effects.len(), 1);
}

#[test]
fn a_partial_answer_leaves_out_things_done_and_things_not_done() {
    let mut c = carrier(2, CarrierProfile { partial: Chance::ALWAYS, ..quiet() });
    let told = outcomes(c.ask(&manifest(40), NOW).1).len();
    let done = c.ledger().effects.len();
    assert!(told < done && done < 40, "{told} told, {done} done");
}

#[test]
fn a_liar_is_on_record() {
    let (mut strangers, mut flips) = (0, 0);
    for seed in 0..60 {
        let mut c = carrier(seed, CarrierProfile { lies: Chance::ALWAYS, ..quiet() });
        let asked: BTreeSet<_> = (0..4).map(shipment).collect();
        for _ in 0..2 {
            let Answer::Results(results) = c.ask(&manifest(4), NOW).1 else { panic!("no answer") };
            strangers += results.iter().filter(|r| !asked.contains(&r.shipment)).count();
            for denied in results.iter().filter(|r| asked.contains(&r.shipment) && r.outcome.is_err()) {
                flips += 1;
                assert!(c.ledger().lied_about.contains(&denied.shipment));
            }
        }
        assert_eq!(c.ledger().effects.len(), 4);
    }
    assert!(strangers > 20 && flips > 20, "{strangers} strangers, {flips} flips");
}
