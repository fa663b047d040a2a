//! The notifier's rules one by one, with time and answers by hand.

use std::time::Duration;

use sluice_pipeline::{Answer, ShipmentAnswer};
use sluice_schemas::outcome::OutcomeKind::{Accepted, GivenUp, Rejected, Unknown};

use super::{
    BreakerState, CallId, Next, NotifierConfig,
    testing::{Bench, START_MS, accept, accept_all, batch, config, shipment},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const REFUSED: Answer = Answer::Refused { retry_after_ms: None };

fn ambiguous() -> Answer {
    Answer::Ambiguous("no answer".to_owned())
}

fn not_sent() -> Answer {
    Answer::NotSent("connection refused".to_owned())
}

#[test]
fn manifests_are_bounded_by_count_and_age() {
    let mut b = Bench::new(config(true));
    b.push(1..25);
    let sends = b.sends();
    assert_eq!(sends.iter().map(|(_, m)| m.shipments.entries.len()).collect::<Vec<_>>(), [10, 10]);
    b.wait(4 * MS);
    assert!(b.sends().is_empty());
    b.wait(MS);
    let (_, last) = b.send();
    assert_eq!(last.shipments.entries.iter().map(|e| e.position).collect::<Vec<_>>(), [21, 22, 23, 24]);
    assert_eq!(last.expires_at_ms, START_MS + 1_000 + 24 * 3_600_000);
}

#[test]
fn manifests_are_bounded_by_bytes() {
    let size = batch(1..2).bytes.len();
    let mut b = Bench::new(NotifierConfig { manifest_bytes: size * 3, ..config(true) });
    b.push(1..8);
    assert_eq!(b.sends().iter().map(|(_, m)| m.shipments.entries.len()).collect::<Vec<_>>(), [3, 3]);
    let mut b = Bench::new(NotifierConfig { manifest_bytes: 1, ..config(true) });
    b.push(1..4);
    assert_eq!(b.sends().len(), 2, "a shipment over the bound goes alone");
}

#[test]
fn calls_in_flight_and_entries_held_are_bounded() {
    let mut b = Bench::new(NotifierConfig { window_entries: 100, ..config(true) });
    assert_eq!(b.notifier.room(), 100);
    b.push(1..101);
    assert_eq!(b.notifier.room(), 0);
    let sends = b.sends();
    assert_eq!(sends.len(), 4);
    b.notifier.answered(sends[2].0, accept_all(&sends[2].1), b.now());
    assert_eq!(b.notifier.room(), 0, "outcomes that wait are still held");
    b.hand_over();
    assert_eq!((b.notifier.room(), b.sends().len()), (10, 1));
    let small = Bench::new(NotifierConfig { window_bytes: 1 << 20, ..config(true) });
    assert_eq!(small.notifier.room(), (1 << 20) / super::core::MAX_ENTRY_BYTES);
}

#[test]
fn answers_settle_one_by_one_and_the_position_follows_the_oldest() {
    let mut b = Bench::new(config(true));
    b.push(1..11);
    b.push(11..21);
    let sends = b.sends();
    b.answer(sends[1].0, accept_all(&sends[1].1));
    assert_eq!(b.notifier.settled_position(), Some(0));
    let results = vec![
        accept(shipment(3)),
        ShipmentAnswer { shipment: shipment(1), outcome: Err("no such place".to_owned()) },
        ShipmentAnswer { shipment: shipment(1), outcome: Ok("later".to_owned()) },
        accept(shipment(15)),
        accept(shipment(2)),
    ];
    b.answer(sends[0].0, Answer::Results(results));
    assert_eq!(b.notifier.settled_position(), Some(3));
    assert_eq!(b.kinds()[10..], [Accepted, Rejected, Accepted]);
    assert_eq!(b.reports[11].text, "no such place");
    let counters = b.notifier.counters();
    assert_eq!((counters.alien_results, counters.repeated_results), (1, 1));
    let (_, call, rest) = b.wait_for_send(SECOND);
    assert_eq!(rest.shipments.entries.iter().map(|e| e.position).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9, 10]);
    assert_ne!(rest.id, sends[0].1.id);
    b.answer(call, accept_all(&rest));
    assert_eq!((b.notifier.settled_position(), b.notifier.held()), (Some(20), 0));
    assert!(b.notifier.drained() && matches!(b.notifier.next(b.now(), 0), Next::Idle));
}

#[test]
fn nothing_is_settled_before_it_is_handed_over() {
    let mut b = Bench::new(config(true));
    b.push(5..15);
    let (call, manifest) = b.send();
    b.notifier.answered(call, accept_all(&manifest), b.now());
    assert_eq!(b.notifier.settled_position(), Some(4));
    b.notifier.hand_over(|waiting| drop(waiting.drain(..3)));
    assert_eq!((b.notifier.settled_position(), b.notifier.outcomes().len()), (Some(7), 7));
    b.notifier.hand_over(|_| {});
    assert_eq!(b.notifier.settled_position(), Some(7));
    assert!(!b.notifier.drained());
    b.hand_over();
    assert_eq!(b.notifier.settled_position(), Some(14));
}

#[test]
fn an_idempotent_carrier_is_asked_again_with_the_same_ids() {
    for failure in [REFUSED, not_sent(), ambiguous(), Answer::Results(Vec::new())] {
        let mut b = Bench::new(config(true));
        b.push(1..11);
        let (call, first) = b.send();
        b.answer(call, failure.clone());
        assert!(b.reports.is_empty(), "{failure:?} is no outcome");
        let (_, call, again) = b.wait_for_send(SECOND);
        assert_eq!((&again.id, again.expires_at_ms), (&first.id, first.expires_at_ms));
        let ids = |m: &sluice_pipeline::Manifest| m.shipments.entries.iter().map(|e| e.shipment).collect::<Vec<_>>();
        assert_eq!(ids(&again), ids(&first));
        b.answer(call, accept_all(&again));
        assert_eq!(b.kinds(), [Accepted; 10]);
    }
}

#[test]
fn a_carrier_that_forgets_is_never_asked_twice_once_it_may_have_acted() {
    for failure in [REFUSED, not_sent()] {
        let mut b = Bench::new(config(false));
        b.push(1..11);
        let (call, first) = b.send();
        b.answer(call, failure);
        assert!(b.reports.is_empty());
        let (_, _, again) = b.wait_for_send(SECOND);
        assert_eq!(again.id, first.id);
    }
    let mut b = Bench::new(config(false));
    b.push(1..11);
    let (call, _) = b.send();
    b.answer(call, ambiguous());
    assert_eq!(b.kinds(), [Unknown; 10]);
    assert!(b.reports[0].text.contains("no answer"));
    b.push(11..21);
    let (call, _) = b.send();
    b.answer(call, Answer::Results((11..16).map(|p| accept(shipment(p))).collect()));
    assert_eq!(b.kinds()[10..], [[Accepted; 5], [Unknown; 5]].concat());
    b.wait(Duration::from_secs(100_000));
    assert!(b.sends().is_empty() && b.notifier.drained());
    assert_eq!(b.notifier.counters().retried_shipments, 0);
}

#[test]
fn what_an_earlier_run_may_have_sent_is_parked_or_asked_again() {
    for idempotent in [false, true] {
        let mut b = Bench::new(config(idempotent));
        let mut earlier = batch(1..4);
        earlier.entries[0].maybe_sent = true;
        earlier.entries[1].maybe_sent = true;
        b.notifier.push(&earlier, b.now());
        b.wait(5 * MS);
        let (_, manifest) = b.send();
        b.hand_over();
        let sent: Vec<_> = manifest.shipments.entries.iter().map(|e| e.position).collect();
        if idempotent {
            assert_eq!((sent, b.kinds()), (vec![1, 2, 3], vec![]));
        } else {
            assert_eq!((sent, b.kinds()), (vec![3], vec![Unknown; 2]));
            assert_eq!(b.notifier.settled_position(), Some(2));
        }
    }
}

#[test]
fn a_carrier_that_forgets_is_called_only_up_to_the_durable_mark() {
    let mut b = Bench::new(config(false));
    b.hold_mark = true;
    b.push(1..65);
    assert!(b.sends().is_empty());
    assert_eq!(b.marks, [40], "one mark for as many manifests as may be under way");
    b.wait(99 * MS);
    assert!(b.sends().is_empty() && b.marks.len() == 1);
    b.wait(MS);
    assert!(b.sends().is_empty());
    assert_eq!(b.marks, [40, 40], "the first may have been refused for want of room");
    b.marks.truncate(1);
    b.mark = 25;
    let sends = b.sends();
    assert_eq!(sends.iter().map(|(_, m)| m.shipments.entries.last().unwrap().position).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(b.marks, [40]);
    b.mark = 40;
    assert_eq!(b.sends().len(), 2);
    b.answer(sends[0].0, accept_all(&sends[0].1));
    assert!(b.sends().is_empty());
    assert_eq!(b.marks, [40, 50]);
}

#[test]
fn a_manifest_that_waits_for_its_mark_takes_no_more() {
    let mut b = Bench::new(config(false));
    b.hold_mark = true;
    b.push(1..5);
    b.wait(5 * MS);
    assert!(b.sends().is_empty());
    assert_eq!(b.marks, [4]);
    // If it grew, its mark would have to be asked for again, and again.
    b.push(5..7);
    b.mark = 4;
    let (_, manifest) = b.send();
    assert_eq!(manifest.shipments.entries.iter().map(|e| e.position).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn retry_after_holds_everything_back() {
    let mut b = Bench::new(config(true));
    b.push(1..11);
    let (call, _) = b.send();
    b.answer(call, Answer::Refused { retry_after_ms: Some(3_000) });
    b.push(11..21);
    b.wait(2_999 * MS);
    assert!(b.sends().is_empty());
    b.wait(MS);
    let (_, fresh) = b.send();
    assert_eq!(fresh.shipments.entries[0].position, 11);
    assert!(b.notifier.health().latency_us >= 3_000_000, "a quick refusal is not a quick carrier");
    // Longer than the cap: asked again after the cap.
    let mut b = Bench::new(NotifierConfig { retry_after_cap: SECOND, ..config(true) });
    b.push(1..11);
    let (call, _) = b.send();
    b.answer(call, Answer::Refused { retry_after_ms: Some(u64::MAX) });
    let (waited, ..) = b.wait_for_send(2 * SECOND);
    assert!(waited >= SECOND);
}

#[test]
fn waits_grow_and_are_capped() {
    let mut b = Bench::new(config(true));
    b.push(1..11);
    let (mut call, _) = b.send();
    let mut longest = Duration::ZERO;
    for failures in 1..200 {
        b.answer(call, not_sent());
        let (waited, next, _) = b.wait_for_send(Duration::from_secs(60));
        if failures == 1 {
            assert!(waited <= 50 * MS, "{waited:?}");
        }
        longest = longest.max(waited);
        call = next;
    }
    assert!(longest > 9 * SECOND && longest <= 20 * SECOND, "the breaker's pause and the last backoff: {longest:?}");
}

#[test]
fn the_breaker_opens_probes_and_closes() {
    let mut b = Bench::new(config(true));
    b.push(1..201);
    let mut calls = 0;
    while b.notifier.breaker() == BreakerState::Closed {
        let (_, call, _) = b.wait_for_send(SECOND);
        b.answer(call, ambiguous());
        calls += 1;
    }
    assert_eq!(calls, 10);
    assert!(!b.notifier.health().available);
    assert!((700..800).contains(&b.notifier.health().failures_permille));
    b.wait(499 * MS);
    assert!(b.sends().is_empty());
    b.wait(501 * MS);
    let (probe, manifest) = b.send();
    assert_eq!((b.notifier.breaker(), b.notifier.health().available), (BreakerState::HalfOpen, false));
    b.answer(probe, accept_all(&manifest));
    assert_eq!((b.notifier.breaker(), b.notifier.health().available), (BreakerState::Closed, true));
    assert_eq!(b.sends().len(), 4);
}

#[test]
fn a_carrier_with_nothing_left_to_probe_it_with_becomes_available_again() {
    let mut b = Bench::new(config(false));
    for n in 0..10 {
        b.push(n * 10 + 1..n * 10 + 11);
        let (call, _) = b.send();
        b.answer(call, ambiguous());
    }
    assert!(b.notifier.drained() && !b.notifier.health().available);
    let Next::WaitUntil(at) = b.notifier.next(b.now(), b.mark) else { panic!("the pause has an end") };
    b.now_us = at;
    assert!(matches!(b.notifier.next(b.now(), b.mark), Next::Idle));
    assert!(b.notifier.health().available);
    b.push(200..210);
    assert!(!b.notifier.health().available);
    assert_eq!(b.sends().len(), 1);
}

#[test]
fn a_silent_success_is_a_failure_to_the_breaker() {
    let mut b = Bench::new(config(true));
    b.push(1..201);
    for _ in 0..10 {
        let (_, call, _) = b.wait_for_send(SECOND);
        b.answer(call, Answer::Results(Vec::new()));
    }
    assert_eq!(b.notifier.breaker(), BreakerState::Open);
}

#[test]
fn everything_is_given_up_in_the_end() {
    let short = |idempotent| NotifierConfig { give_up_after: 10 * SECOND, ..config(idempotent) };
    for (idempotent, failure, hint) in
        [(true, ambiguous(), "may have taken it"), (true, not_sent(), "refused"), (false, not_sent(), "refused")]
    {
        let mut b = Bench::new(short(idempotent));
        b.push(1..61);
        let end = b.now_us + 10_000_000;
        while b.notifier.held() > 0 {
            match b.notifier.next(b.now(), b.mark) {
                Next::Send(call, _) => b.answer(call, failure.clone()),
                Next::MarkSending(position) => b.mark = position,
                Next::WaitUntil(at) => b.now_us = at,
                Next::Idle => panic!("idle with {} held", b.notifier.held()),
            }
            b.hand_over();
        }
        assert_eq!(b.kinds(), vec![GivenUp; 60]);
        assert!(b.reports.iter().all(|r| r.at_ms == START_MS + end / 1_000), "not when its time was over");
        assert!(b.reports.iter().any(|r| r.text.contains(hint)), "{:?}", b.reports[0].text);
        assert!(matches!(b.notifier.next(b.now(), b.mark), Next::Idle | Next::WaitUntil(_)));
        assert!(b.notifier.drained());
    }
}

#[test]
fn a_call_under_way_at_the_deadline_still_counts() {
    let mut b = Bench::new(NotifierConfig { give_up_after: SECOND, ..config(true) });
    b.push(1..11);
    let (call, manifest) = b.send();
    b.wait(2 * SECOND);
    assert!(b.sends().is_empty());
    b.answer(call, accept_all(&manifest));
    assert_eq!(b.kinds(), [Accepted; 10]);
    b.push(11..21);
    let (call, _) = b.send();
    b.wait(2 * SECOND);
    b.answer(call, ambiguous());
    assert_eq!(b.kinds()[10..], [GivenUp; 10]);
}

#[test]
fn over_long_texts_are_bounded() {
    let mut b = Bench::new(config(true));
    b.push(1..11);
    let (call, _) = b.send();
    let with = |position, outcome| ShipmentAnswer { shipment: shipment(position), outcome };
    let results = vec![
        with(1, Ok("x".repeat(64))),
        with(2, Ok("x".repeat(65))),
        with(3, Err("ü".repeat(100))),
        with(4, Err(format!("a{}", "ü".repeat(100)))),
    ];
    b.answer(call, Answer::Results(results));
    let lengths: Vec<_> = b.reports.iter().map(|r| (r.kind, r.text.len())).collect();
    assert_eq!(lengths, [(Accepted, 64), (Accepted, 0), (Rejected, 200), (Rejected, 199)]);
    assert_eq!(b.notifier.counters().overlong_tracking_numbers, 1);
}

#[test]
fn odd_calls_and_entries_change_nothing() {
    let mut b = Bench::new(config(true));
    b.push(1..11);
    b.push(1..11);
    assert_eq!((b.notifier.held(), b.notifier.counters().repeated_entries), (10, 10));
    let (call, manifest) = b.send();
    b.answer(CallId(99), accept_all(&manifest));
    assert_eq!(b.kinds(), []);
    b.answer(call, accept_all(&manifest));
    b.answer(call, ambiguous());
    assert_eq!(b.kinds(), [Accepted; 10]);
}

#[test]
fn what_cannot_be_written_is_given_up_alone() {
    let mut b = Bench::new(config(false));
    b.push(1..11);
    let (call, manifest) = b.send();
    b.notifier.unsendable(call, &[2, 5, 2, 77], "the stored order can't be read", b.now());
    let mut results = accept_all(&manifest);
    if let Answer::Results(results) = &mut results {
        results.retain(|r| ![shipment(3), shipment(6)].contains(&r.shipment));
    }
    b.answer(call, results);
    assert_eq!(b.kinds(), [vec![GivenUp; 2], vec![Accepted; 8]].concat());
    assert!(b.notifier.drained());
}

#[test]
fn a_stopped_notifier_finishes_what_is_under_way_and_nothing_else() {
    let mut b = Bench::new(config(true));
    b.push(1..31);
    let sends = b.sends();
    b.notifier.stop();
    assert_eq!(b.notifier.room(), 0);
    b.answer(sends[0].0, accept_all(&sends[0].1));
    b.answer(sends[1].0, ambiguous());
    assert!(!b.notifier.drained());
    b.answer(sends[2].0, accept_all(&sends[2].1));
    assert!(b.notifier.drained() && b.sends().is_empty());
    assert_eq!((b.notifier.settled_position(), b.notifier.held()), (Some(10), 10));
}
