//! How a simulated carrier behaves, as data: the same keys on the command line, in a file and in a run-time patch.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One carrier's behaviour. Rates are probabilities in `0.0..=1.0`.
///
/// The rates of whole manifests (`error_429` to `malformed`) exclude each other: one draw per manifest picks at most one
/// of them, so they may add up to 1 at most. `reject` is drawn for each shipment from its id and the seed, so it does not
/// depend on the order in which shipments arrive; a rate that is patched later therefore rejects more or fewer of the
/// same shipments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Refuses every manifest with 503, without effect.
    pub down: bool,
    /// Tells nothing of what it takes from now on, although the process was told where to tell.
    pub silent: bool,
    /// Remembers the final answer to each shipment id and gives it again without a second effect. Otherwise each
    /// acceptance is a new effect. Only what was answered while `true` is remembered.
    pub idempotent: bool,
    /// Milliseconds between the effect and the answer.
    pub latency_ms: u32,
    /// Up to this many milliseconds more, uniform.
    pub latency_jitter_ms: u32,
    /// Rejects heavier shipments as `overweight`, in grams. `None`: no limit.
    pub max_weight_g: Option<u64>,
    /// Shipments rejected for a reason of the carrier's own.
    pub reject: f64,
    /// Voids refused although nothing has moved yet.
    pub refuse_void: f64,
    /// Manifests refused with 429 and `Retry-After`, without effect.
    pub error_429: f64,
    /// The `Retry-After` of a 429, in seconds.
    pub retry_after_s: u32,
    /// Manifests refused with 500 or 503 (half each), without effect.
    pub error_5xx: f64,
    /// Manifests whose connection is reset before they had an effect.
    pub reset_before: f64,
    /// Manifests whose connection is reset after they had their effect.
    pub reset_after: f64,
    /// Manifests that have their effect but get no answer until the client gives up.
    pub timeout_after_accept: f64,
    /// Manifests whose answer comes `trickle_bytes` at a time.
    pub trickle: f64,
    /// Bytes of one drop of a trickled answer, at least 1.
    pub trickle_bytes: u32,
    /// Milliseconds between two drops.
    pub trickle_pause_ms: u32,
    /// Manifests whose answer leaves one shipment out although it had its effect.
    pub omit_result: f64,
    /// Manifests whose answer names a shipment that nobody asked for.
    pub alien_result: f64,
    /// Manifests whose answer breaks off in the middle of the JSON text, with a matching length and status 200.
    pub malformed: f64,
}

impl Default for Behaviour {
    /// A well-behaved idempotent carrier that answers at once.
    fn default() -> Self {
        Self {
            down: false,
            silent: false,
            idempotent: true,
            latency_ms: 0,
            latency_jitter_ms: 0,
            max_weight_g: None,
            reject: 0.0,
            refuse_void: 0.0,
            error_429: 0.0,
            retry_after_s: 1,
            error_5xx: 0.0,
            reset_before: 0.0,
            reset_after: 0.0,
            timeout_after_accept: 0.0,
            trickle: 0.0,
            trickle_bytes: 64,
            trickle_pause_ms: 5,
            omit_result: 0.0,
            alien_result: 0.0,
            malformed: 0.0,
        }
    }
}

/// Why a description is no behaviour.
#[derive(Debug, thiserror::Error)]
pub enum BehaviourError {
    /// A key that does not exist or a value of the wrong kind.
    #[error("{0}")]
    Key(#[from] serde_json::Error),
    /// A rate outside `0.0..=1.0`.
    #[error("{key} is a probability between 0 and 1, not {value}")]
    Rate {
        /// The key.
        key: &'static str,
        /// What was given.
        value: f64,
    },
    /// Rates of whole manifests that add up to more than 1.
    #[error("the rates of whole manifests add up to {0}, which is more than 1")]
    Sum(f64),
    /// `trickle_bytes` of 0 would never end.
    #[error("trickle_bytes is at least 1")]
    TrickleBytes,
    /// Neither `key=value` nor a whole description.
    #[error("{0:?} is not of the form id:key=value,key=value")]
    Form(String),
    /// A pair on the command line whose key does not exist or whose value is of the wrong kind.
    #[error("{pair}: {source}")]
    Pair {
        /// As it was written.
        pair: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// What happens to one manifest as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answer,
    TooManyRequests,
    InternalError,
    Unavailable,
    ResetBefore,
    ResetAfter,
    Silence,
    Trickle,
    OmitResult,
    AlienResult,
    Malformed,
}

impl Behaviour {
    /// This behaviour with some keys changed, as `POST /control/carriers/{id}` does it. `reset` is short for half of
    /// its value in each of `reset_before` and `reset_after`.
    ///
    /// # Errors
    /// [`BehaviourError`]; nothing is changed then.
    pub fn patched(&self, patch: &Map<String, Value>) -> Result<Self, BehaviourError> {
        let Value::Object(mut keys) = serde_json::to_value(self)? else {
            return Err(BehaviourError::Form(String::new()));
        };
        for (key, value) in patch {
            match (key.as_str(), value.as_f64()) {
                ("reset", Some(rate)) => {
                    keys.insert("reset_before".into(), Value::from(rate / 2.0));
                    keys.insert("reset_after".into(), Value::from(rate / 2.0));
                }
                _ => {
                    keys.insert(key.clone(), value.clone());
                }
            }
        }
        let behaviour: Self = serde_json::from_value(Value::Object(keys))?;
        behaviour.check()?;
        Ok(behaviour)
    }

    /// Checks what the types cannot say: rates are probabilities, and those of whole manifests add up to 1 at most.
    ///
    /// # Errors
    /// The first [`BehaviourError`] found.
    pub fn check(&self) -> Result<(), BehaviourError> {
        let fates = self.fates();
        let rates = fates
            .iter()
            .map(|(key, rate, _)| (*key, *rate))
            .chain([("reject", self.reject), ("refuse_void", self.refuse_void)]);
        for (key, value) in rates {
            // Also refuses NaN.
            if !(0.0..=1.0).contains(&value) {
                return Err(BehaviourError::Rate { key, value });
            }
        }
        let sum: f64 = fates.iter().map(|(_, rate, _)| rate).sum();
        // Decimal fractions such as ten times 0.1 don't add up exactly.
        if sum > 1.0 + 1e-9 {
            return Err(BehaviourError::Sum(sum));
        }
        if self.trickle_bytes == 0 {
            return Err(BehaviourError::TrickleBytes);
        }
        Ok(())
    }

    /// The fate of a manifest whose draw (uniform in `0.0..1.0`) is `draw`.
    pub(super) fn fate(&self, draw: f64) -> Fate {
        if self.down {
            return Fate::Unavailable;
        }
        let mut below = 0.0;
        for (_, rate, fate) in self.fates() {
            below += rate;
            if draw < below {
                return fate;
            }
        }
        Fate::Answer
    }

    /// Every fate with its key and rate.
    fn fates(&self) -> [(&'static str, f64, Fate); 10] {
        [
            ("error_429", self.error_429, Fate::TooManyRequests),
            ("error_5xx", self.error_5xx / 2.0, Fate::InternalError),
            ("error_5xx", self.error_5xx / 2.0, Fate::Unavailable),
            ("reset_before", self.reset_before, Fate::ResetBefore),
            ("reset_after", self.reset_after, Fate::ResetAfter),
            ("timeout_after_accept", self.timeout_after_accept, Fate::Silence),
            ("trickle", self.trickle, Fate::Trickle),
            ("omit_result", self.omit_result, Fate::OmitResult),
            ("alien_result", self.alien_result, Fate::AlienResult),
            ("malformed", self.malformed, Fate::Malformed),
        ]
    }
}

/// A carrier's id and behaviour as written on the command line: `swift:latency_ms=5,error_429=0.02,idempotent=true`.
/// `swift` alone is a well-behaved carrier. Values are written as in JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct CarrierSpec {
    /// The carrier's id.
    pub id: String,
    /// The behaviour, defaults where no key was given.
    pub behaviour: Behaviour,
}

impl FromStr for CarrierSpec {
    type Err = BehaviourError;

    fn from_str(text: &str) -> Result<Self, BehaviourError> {
        let form = || BehaviourError::Form(text.to_owned());
        let (id, keys) = text.split_once(':').unwrap_or((text, ""));
        if id.is_empty() {
            return Err(form());
        }
        let mut patch = Map::new();
        for pair in keys.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(form)?;
            // What isn't JSON is a string, which no key takes: the error then says what the key takes.
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            let alone = Map::from_iter([(key.to_owned(), value)]);
            if let Err(BehaviourError::Key(source)) = Behaviour::default().patched(&alone) {
                return Err(BehaviourError::Pair { pair: pair.to_owned(), source });
            }
            patch.extend(alone);
        }
        Ok(Self { id: id.to_owned(), behaviour: Behaviour::default().patched(&patch)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_sets_every_key_it_names() {
        let text = "swift:latency_ms=5,error_429=0.02,retry_after_s=1,error_5xx=0.01,reject=0.05,\
                    timeout_after_accept=0.01,reset=0.01,trickle=0.01,idempotent=false,max_weight_g=30000";
        let spec: CarrierSpec = text.parse().unwrap();
        let expected = Behaviour {
            latency_ms: 5,
            error_429: 0.02,
            error_5xx: 0.01,
            reject: 0.05,
            timeout_after_accept: 0.01,
            reset_before: 0.005,
            reset_after: 0.005,
            trickle: 0.01,
            idempotent: false,
            max_weight_g: Some(30_000),
            ..Behaviour::default()
        };
        assert_eq!(spec, CarrierSpec { id: "swift".into(), behaviour: expected });
        assert_eq!("swift".parse::<CarrierSpec>().unwrap().behaviour, Behaviour::default());
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        for (text, named) in [
            ("", "form"),
            (":down=true", "form"),
            ("swift:down", "form"),
            ("swift:down=yes", "down=yes: invalid type: string \"yes\", expected a boolean"),
            ("swift:latency_ms=x", "latency_ms=x: invalid type: string \"x\", expected u32"),
            ("swift:downn=true", "downn"),
            ("swift:latency_ms=-1", "-1"),
            ("swift:reject=1.1", "reject"),
            ("swift:error_429=-0.1", "error_429"),
            ("swift:error_5xx=2.2", "error_5xx"),
            ("swift:error_429=0.6,trickle=0.5", "add up"),
            ("swift:trickle_bytes=0", "trickle_bytes"),
        ] {
            let error = text.parse::<CarrierSpec>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_patch_changes_only_its_keys() {
        let before: Behaviour = Behaviour { latency_ms: 9, max_weight_g: Some(5), ..Behaviour::default() };
        let Value::Object(patch) = serde_json::json!({"down": true, "max_weight_g": null}) else { panic!() };
        let after = before.patched(&patch).unwrap();
        assert_eq!(after, Behaviour { down: true, max_weight_g: None, ..before });
    }

    #[test]
    fn fates_follow_their_rates() {
        let behaviour = Behaviour { error_429: 0.25, error_5xx: 0.5, malformed: 0.25, ..Behaviour::default() };
        assert_eq!(behaviour.fate(0.0), Fate::TooManyRequests);
        assert_eq!(behaviour.fate(0.24), Fate::TooManyRequests);
        assert_eq!(behaviour.fate(0.25), Fate::InternalError);
        assert_eq!(behaviour.fate(0.5), Fate::Unavailable);
        assert_eq!(behaviour.fate(0.999), Fate::Malformed);
        assert_eq!(Behaviour::default().fate(0.0), Fate::Answer);
        assert_eq!(Behaviour { down: true, ..behaviour }.fate(0.0), Fate::Unavailable);
    }
}
