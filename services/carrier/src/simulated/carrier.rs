//! One simulated carrier: decides a manifest, records the effects, words the answer. No sockets, no waiting.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;

use super::answers::{Answers, MAX_REMEMBERED, Outcome};
use super::behaviour::{Behaviour, Fate};
use super::ledger::{Effect, LedgerError, LedgerWriter, Line};
use super::manifest::{MAX_ID_BYTES, Manifest, Shipment, Void};
use super::seeded::{Fingerprint, Seeded, carrier_seed, fingerprint, unit_of};
use super::teller::Tells;
use super::tracking::{TRACKING_BYTES, Tracking};
use crate::webhook::Secret;

/// Why a shipment is rejected; an outcome's code is an index into this.
const REASONS: [&str; Outcome::CODES - 1] =
    ["overweight", "address_not_served", "capacity", "goods_not_carried", "paperwork_incomplete", "customs"];
const OVERWEIGHT: usize = 0;
/// Why a void is refused, and which of the codes stands for that in the memory.
const VOID_REFUSAL: &str = "already_moving";
const VOID_REFUSED: usize = 0;
/// The shipment that an `alien_result` names: a well-formed id of no order.
const ALIEN: &str = "00000000000000000000000000-0-0";
/// Room for one result's punctuation, keys and reason beside its id.
const RESULT_BYTES: usize = 80;
/// Room for one ledger line's time, effect, tabs and tracking beside its ids.
const LINE_BYTES: usize = 13 + 17 + 6 + TRACKING_BYTES;

/// What a carrier did since it started, as `GET /stats` shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CarrierCounts {
    /// Signed, well-formed manifests.
    pub manifests: u64,
    /// Shipments that were decided or answered again; those of refused manifests are not counted.
    pub shipments: u64,
    /// Effects: accepted shipments.
    pub accepted: u64,
    /// Effects: rejected shipments.
    pub rejected: u64,
    /// Effects: shipments forgotten on request.
    pub voided: u64,
    /// Voids refused.
    pub voids_refused: u64,
    /// Answers given again.
    pub duplicate_requests: u64,
    /// Manifests refused with 429.
    pub refused_429: u64,
    /// Manifests refused with 500 or 503.
    pub refused_5xx: u64,
    /// Connections reset before an effect.
    pub reset_before: u64,
    /// Connections reset after the effect.
    pub reset_after: u64,
    /// Manifests that had their effect and got no answer.
    pub silent: u64,
    /// Answers that came in drops.
    pub trickled: u64,
    /// Answers that lied: left a shipment out, named an alien one, or broke off.
    pub lies: u64,
    /// Requests refused with 401.
    pub bad_signatures: u64,
    /// Requests refused with 400 or 413.
    pub bad_requests: u64,
}

/// What the connection has to do about a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Refuse with this status. Nothing happened.
    Refuse { status: u16, retry_after_s: Option<u32> },
    /// Reset the connection.
    Reset,
    /// Say nothing until the client has gone.
    Silence,
    /// Answer 200 after `delay`.
    Answer { body: Bytes, delay: Duration, drops: Option<Drops> },
}

/// An answer that comes a few bytes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drops {
    pub(super) bytes: usize,
    pub(super) pause: Duration,
}

/// One carrier of the process.
pub(super) struct Carrier {
    id: Arc<str>,
    secret: Secret,
    seed: u64,
    /// Where it says what it took.
    pub(super) tells: Option<Tells>,
    state: Mutex<State>,
}

/// Held for the whole of a manifest, its ledger lines included: a second request for the same shipment must not see the
/// remembered answer before the effect is in the ledger.
struct State {
    behaviour: Behaviour,
    draws: Seeded,
    answers: Answers,
    counts: CarrierCounts,
}

impl Carrier {
    pub(super) fn new(id: String, secret: Secret, behaviour: Behaviour, run_seed: u64) -> Self {
        let seed = carrier_seed(run_seed, &id);
        let state =
            State { behaviour, draws: Seeded::new(seed), answers: Answers::new(), counts: CarrierCounts::default() };
        Self { id: id.into(), secret, seed, tells: None, state: Mutex::new(state) }
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) fn counts(&self) -> CarrierCounts {
        self.state.lock().counts
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut CarrierCounts)) {
        change(&mut self.state.lock().counts);
    }

    /// Replaces the behaviour by what `change` makes of it, from the next manifest on.
    pub(super) fn change<E>(&self, change: impl FnOnce(&Behaviour) -> Result<Behaviour, E>) -> Result<Behaviour, E> {
        let mut state = self.state.lock();
        state.behaviour = change(&state.behaviour)?;
        Ok(state.behaviour.clone())
    }

    /// Takes an effect of an earlier process into the memory.
    pub(super) fn recall(&self, line: &Line<'_>, remembered: &AtomicU64) {
        let outcome = match line.effect {
            Effect::Accepted => Outcome::ACCEPTED,
            Effect::Rejected => {
                let reason = REASONS.iter().position(|reason| reason.as_bytes() == line.tracking);
                Outcome::rejected(reason.unwrap_or(REASONS.len() - 1))
            }
            Effect::Voided => Outcome::ACCEPTED,
            Effect::VoidRefused => Outcome::rejected(VOID_REFUSED),
            Effect::DuplicateRequest => return,
        };
        let mut state = self.state.lock();
        let shipment = fingerprint(line.shipment_id);
        if state.behaviour.idempotent && state.answers.get(&shipment).is_none() {
            state.answers.insert(&shipment, outcome);
            remembered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Decides a manifest whose signature was verified. Its effects are in the ledger when this returns.
    ///
    /// # Errors
    /// Only if the ledger can't be written. What happened is unknown then, and the process must not go on.
    pub(super) fn handle(
        &self,
        manifest: &Manifest<'_>,
        ledger: &LedgerWriter,
        remembered: &AtomicU64,
        now_ms: u64,
    ) -> Result<Verdict, LedgerError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.counts.manifests += 1;
        let draw = state.draws.unit();
        let fate = state.behaviour.fate(draw);
        let refusal = match fate {
            Fate::TooManyRequests => refuse(429, Some(state.behaviour.retry_after_s)),
            Fate::InternalError => refuse(500, None),
            Fate::Unavailable => refuse(503, None),
            Fate::ResetBefore => Some(Verdict::Reset),
            _ if state.is_full(manifest, remembered) => refuse(503, None),
            _ => None,
        };
        if let Some(refusal) = refusal {
            state.counts.count_refusal(&refusal);
            return Ok(refusal);
        }
        let omitted = match (fate, manifest.shipments.len() as u64) {
            (Fate::OmitResult, shipments @ 1..) => Some(state.draws.up_to(shipments - 1) as usize),
            _ => None,
        };
        let mut answer = Answer::new(manifest);
        let mut lines = Vec::with_capacity(
            manifest.shipments.len() * (LINE_BYTES + self.id.len() + MAX_ID_BYTES / 2 + manifest.manifest_id.len()),
        );
        for (index, shipment) in manifest.shipments.iter().enumerate() {
            let id = fingerprint(&shipment.shipment_id);
            let (effect, outcome) = state.decide(shipment, &id, self.seed, remembered);
            let tracking = Tracking::of(&id);
            let told = outcome.reason().map_or(tracking.as_bytes(), |reason| REASONS[reason].as_bytes());
            let line = Line {
                unix_ms: now_ms,
                carrier: &self.id,
                effect,
                shipment_id: &shipment.shipment_id,
                manifest_id: &manifest.manifest_id,
                tracking: told,
            };
            line.write(&mut lines);
            if let (Effect::Accepted, Some(tells), false) = (effect, &self.tells, state.behaviour.silent) {
                tells.taken(&self.id, &shipment.shipment_id);
            }
            if omitted != Some(index) {
                answer.push(&shipment.shipment_id, outcome, told);
            }
        }
        for void in &manifest.voids {
            let (effect, outcome) = state.forget(void, self, remembered);
            let line = Line {
                unix_ms: now_ms,
                carrier: &self.id,
                effect,
                shipment_id: &void.void_id,
                manifest_id: &manifest.manifest_id,
                tracking: void.shipment_id.as_bytes(),
            };
            line.write(&mut lines);
            answer.push_void(&void.void_id, outcome);
        }
        ledger.append(&lines)?;
        Ok(state.word(fate, answer))
    }
}

impl State {
    fn is_full(&self, manifest: &Manifest<'_>, remembered: &AtomicU64) -> bool {
        let more = (manifest.shipments.len() + manifest.voids.len()) as u64;
        self.behaviour.idempotent && remembered.load(Ordering::Relaxed) + more > MAX_REMEMBERED
    }

    fn decide(
        &mut self,
        shipment: &Shipment<'_>,
        id: &Fingerprint,
        seed: u64,
        remembered: &AtomicU64,
    ) -> (Effect, Outcome) {
        self.counts.shipments += 1;
        let idempotent = self.behaviour.idempotent;
        if let Some(outcome) = idempotent.then(|| self.answers.get(id)).flatten() {
            self.counts.duplicate_requests += 1;
            return (Effect::DuplicateRequest, outcome);
        }
        let outcome = if self.behaviour.max_weight_g.is_some_and(|most| shipment.weight_g > most) {
            Outcome::rejected(OVERWEIGHT)
        } else if unit_of(seed, id) < self.behaviour.reject {
            let others = REASONS.len() - 1;
            Outcome::rejected(1 + (id.key[0] % others as u64) as usize)
        } else {
            Outcome::ACCEPTED
        };
        if idempotent {
            self.answers.insert(id, outcome);
            remembered.fetch_add(1, Ordering::Relaxed);
        }
        if outcome == Outcome::ACCEPTED {
            self.counts.accepted += 1;
            (Effect::Accepted, outcome)
        } else {
            self.counts.rejected += 1;
            (Effect::Rejected, outcome)
        }
    }

    /// Forgets a shipment that was taken and has not moved.
    fn forget(&mut self, void: &Void<'_>, carrier: &Carrier, remembered: &AtomicU64) -> (Effect, Outcome) {
        let idempotent = self.behaviour.idempotent;
        let (id, shipment) = (fingerprint(&void.void_id), fingerprint(&void.shipment_id));
        if let Some(outcome) = idempotent.then(|| self.answers.get(&id)).flatten() {
            self.counts.duplicate_requests += 1;
            return (Effect::DuplicateRequest, outcome);
        }
        // One that remembers nothing can only believe what it is told.
        let taken = !idempotent || self.answers.get(&shipment) == Some(Outcome::ACCEPTED);
        let willing = taken && unit_of(carrier.seed, &id) >= self.behaviour.refuse_void;
        let tells = carrier.tells.as_ref().filter(|_| !self.behaviour.silent);
        let forgotten = willing && tells.is_none_or(|tells| tells.forget(&void.shipment_id));
        let (effect, outcome) = match forgotten {
            true => (Effect::Voided, Outcome::ACCEPTED),
            false => (Effect::VoidRefused, Outcome::rejected(VOID_REFUSED)),
        };
        if idempotent {
            self.answers.insert(&id, outcome);
            remembered.fetch_add(1, Ordering::Relaxed);
        }
        self.counts.voided += u64::from(forgotten);
        self.counts.voids_refused += u64::from(!forgotten);
        (effect, outcome)
    }

    /// The verdict on a manifest that had its effects.
    fn word(&mut self, fate: Fate, mut answer: Answer) -> Verdict {
        let mut drops = None;
        match fate {
            Fate::ResetAfter => {
                self.counts.reset_after += 1;
                return Verdict::Reset;
            }
            Fate::Silence => {
                self.counts.silent += 1;
                return Verdict::Silence;
            }
            Fate::Trickle => {
                self.counts.trickled += 1;
                drops = Some(Drops {
                    bytes: self.behaviour.trickle_bytes as usize,
                    pause: Duration::from_millis(u64::from(self.behaviour.trickle_pause_ms)),
                });
            }
            Fate::AlienResult => {
                let tracking = Tracking::of(&fingerprint(ALIEN));
                answer.push(ALIEN, Outcome::ACCEPTED, tracking.as_bytes());
            }
            _ => {}
        }
        let mut body = answer.finish();
        if fate == Fate::Malformed {
            body.truncate(body.len() / 2);
        }
        let lie = matches!(fate, Fate::OmitResult | Fate::AlienResult | Fate::Malformed);
        self.counts.lies += u64::from(lie);
        let jitter_ms = match self.behaviour.latency_jitter_ms {
            0 => 0,
            most => self.draws.up_to(u64::from(most)),
        };
        let delay = Duration::from_millis(u64::from(self.behaviour.latency_ms) + jitter_ms);
        Verdict::Answer { body: body.into(), delay, drops }
    }
}

impl CarrierCounts {
    fn count_refusal(&mut self, refusal: &Verdict) {
        match refusal {
            Verdict::Refuse { status: 429, .. } => self.refused_429 += 1,
            Verdict::Refuse { .. } => self.refused_5xx += 1,
            _ => self.reset_before += 1,
        }
    }
}

fn refuse(status: u16, retry_after_s: Option<u32>) -> Option<Verdict> {
    Some(Verdict::Refuse { status, retry_after_s })
}

/// The JSON of an answer, written straight into one buffer: nothing in it needs escaping, as ids were checked.
struct Answer {
    body: Vec<u8>,
    any: bool,
}

impl Answer {
    fn new(manifest: &Manifest<'_>) -> Self {
        let ids: usize = manifest.shipments.iter().map(|shipment| shipment.shipment_id.len()).sum();
        // One more, in case an alien result joins.
        let voids = manifest.voids.len() * (MAX_ID_BYTES + RESULT_BYTES);
        let mut body = Vec::with_capacity(ids + (manifest.shipments.len() + 2) * RESULT_BYTES + voids);
        body.extend_from_slice(br#"{"results":["#);
        Self { body, any: false }
    }

    fn push(&mut self, shipment_id: &str, outcome: Outcome, told: &[u8]) {
        let keys: &[u8] = match outcome.reason() {
            None => br#"","outcome":"accepted","tracking_number":""#,
            Some(_) => br#"","outcome":"rejected","reason":""#,
        };
        let start: &[u8] = if self.any { br#",{"shipment_id":""# } else { br#"{"shipment_id":""# };
        self.any = true;
        for part in [start, shipment_id.as_bytes(), keys, told, br#""}"#] {
            self.body.extend_from_slice(part);
        }
    }

    fn push_void(&mut self, void_id: &str, outcome: Outcome) {
        let start: &[u8] = if self.any { br#",{"void_id":""# } else { br#"{"void_id":""# };
        self.any = true;
        let keys = match outcome.reason() {
            None => r#"","outcome":"accepted"}"#.to_owned(),
            Some(_) => format!(r#"","outcome":"rejected","reason":"{VOID_REFUSAL}"}}"#),
        };
        for part in [start, void_id.as_bytes(), keys.as_bytes()] {
            self.body.extend_from_slice(part);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.body.extend_from_slice(b"]}");
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::HashSet;

    struct Bench {
        dir: tempfile::TempDir,
        ledger: LedgerWriter,
        remembered: AtomicU64,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let ledger = LedgerWriter::open(&dir.path().join("ledger.tsv"), |_| {}).unwrap();
            Self { dir, ledger, remembered: AtomicU64::new(0) }
        }

        fn send(&self, carrier: &Carrier, shipments: std::ops::Range<u64>) -> Verdict {
            let shipments =
                shipments.map(|n| Shipment { shipment_id: format!("o{n}-1-1").into(), weight_g: n * 100 }).collect();
            let manifest = Manifest { manifest_id: "m".into(), shipments, ..Manifest::default() };
            carrier.handle(&manifest, &self.ledger, &self.remembered, 1).unwrap()
        }

        fn ledger_text(&self) -> String {
            std::fs::read_to_string(self.dir.path().join("ledger.tsv")).unwrap()
        }
    }

    fn carrier(keys: &str) -> Carrier {
        let spec: super::super::CarrierSpec = format!("swift:{keys}").parse().unwrap();
        Carrier::new(spec.id, Secret::from_bytes(&[1; 32]).unwrap(), spec.behaviour, 7)
    }

    fn results(verdict: &Verdict) -> Vec<Value> {
        let Verdict::Answer { body, .. } = verdict else { panic!("{verdict:?}") };
        let answer: Value = serde_json::from_slice(body).unwrap();
        answer["results"].as_array().unwrap().clone()
    }

    #[test]
    fn accepted_and_rejected_shipments_are_answered_and_recorded() {
        let bench = Bench::new();
        let swift = carrier("max_weight_g=100");
        let results = results(&bench.send(&swift, 0..3));
        assert_eq!(results[0]["outcome"], "accepted");
        assert_eq!(results[0]["tracking_number"], super::super::tracking_number("o0-1-1"));
        assert_eq!(results[2]["shipment_id"], "o2-1-1");
        assert_eq!(results[2]["reason"], "overweight");
        assert_eq!(results[2]["tracking_number"], Value::Null);
        let text = bench.ledger_text();
        assert_eq!(text.lines().nth(2), Some("1\tswift\trejected\to2-1-1\tm\toverweight"));
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn an_idempotent_carrier_repeats_itself_whatever_has_changed() {
        let bench = Bench::new();
        let swift = carrier("reject=0.5");
        let first = bench.send(&swift, 0..100);
        swift.change(|behaviour| Ok::<_, ()>(Behaviour { reject: 1.0, ..behaviour.clone() })).unwrap();
        assert_eq!(bench.send(&swift, 0..100), first);
        let counts = swift.counts();
        assert_eq!((counts.accepted + counts.rejected, counts.duplicate_requests), (100, 100));
        assert!((30..70).contains(&counts.rejected), "{counts:?}");
        assert_eq!(bench.remembered.load(Ordering::Relaxed), 100);
        assert_eq!(bench.ledger_text().matches("duplicate_request").count(), 100);
    }

    #[test]
    fn another_carrier_accepts_again() {
        let bench = Bench::new();
        let careless = carrier("idempotent=false");
        bench.send(&careless, 0..5);
        bench.send(&careless, 0..5);
        assert_eq!(careless.counts().accepted, 10);
        assert_eq!(bench.ledger_text().matches("\taccepted\t").count(), 10);
        assert_eq!(bench.remembered.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        let run = |seed| {
            let bench = Bench::new();
            let behaviour = carrier("reject=0.3,error_429=0.3,malformed=0.3,latency_jitter_ms=9")
                .change(|b| Ok::<_, ()>(b.clone()));
            let swift = Carrier::new("swift".into(), Secret::from_bytes(&[1; 32]).unwrap(), behaviour.unwrap(), seed);
            (0..50).map(|n| bench.send(&swift, n * 3..n * 3 + 3)).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn refusals_have_no_effect() {
        let bench = Bench::new();
        for (keys, expected) in [
            ("error_429=1,retry_after_s=9", Verdict::Refuse { status: 429, retry_after_s: Some(9) }),
            ("down=true", Verdict::Refuse { status: 503, retry_after_s: None }),
            ("reset_before=1", Verdict::Reset),
        ] {
            assert_eq!(bench.send(&carrier(keys), 0..3), expected);
        }
        let failing = carrier("error_5xx=1");
        let seen: HashSet<_> = (0..50).map(|_| format!("{:?}", bench.send(&failing, 0..1))).collect();
        assert_eq!(seen.len(), 2);
        assert_eq!(failing.counts().refused_5xx, 50);
        assert_eq!(bench.ledger_text(), "");
        bench.remembered.store(MAX_REMEMBERED - 2, Ordering::Relaxed);
        let full = Verdict::Refuse { status: 503, retry_after_s: None };
        assert_eq!(bench.send(&carrier(""), 0..3), full);
        assert_ne!(bench.send(&carrier(""), 0..2), full);
    }

    #[test]
    fn what_happens_after_the_effect_leaves_the_effect() {
        for (keys, expected) in [("reset_after=1", Verdict::Reset), ("timeout_after_accept=1", Verdict::Silence)] {
            let bench = Bench::new();
            assert_eq!(bench.send(&carrier(keys), 0..3), expected);
            assert_eq!(bench.ledger_text().lines().count(), 3);
        }
    }

    #[test]
    fn lies_are_only_in_the_answer() {
        let bench = Bench::new();
        assert_eq!(results(&bench.send(&carrier("omit_result=1"), 0..3)).len(), 2);
        let alien = results(&bench.send(&carrier("alien_result=1"), 3..6));
        assert_eq!((alien.len(), alien[3]["shipment_id"].as_str()), (4, Some(ALIEN)));
        let Verdict::Answer { body, .. } = bench.send(&carrier("malformed=1"), 6..9) else { panic!() };
        serde_json::from_slice::<Value>(&body).unwrap_err();
        assert_eq!(bench.ledger_text().lines().count(), 9);
        assert!(!bench.ledger_text().contains(ALIEN));
        // Nothing to leave out.
        assert!(results(&bench.send(&carrier("omit_result=1"), 0..0)).is_empty());
    }

    #[test]
    fn effects_of_an_earlier_process_are_recalled() {
        let bench = Bench::new();
        let first = bench.send(&carrier("reject=0.5"), 0..20);
        let later = carrier("");
        let path = bench.dir.path().join("ledger.tsv");
        LedgerWriter::open(&path, |line| later.recall(&line, &bench.remembered)).unwrap();
        assert_eq!(bench.send(&later, 0..20), first);
        assert_eq!(later.counts().duplicate_requests, 20);
    }
}
