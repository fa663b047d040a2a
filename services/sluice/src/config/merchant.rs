//! `[[merchant]]`: who may post orders, with which keys, and how many.

use std::{collections::HashSet, sync::Arc};

use serde::{Deserialize, Deserializer, de::Error as _};
use sluice_checkout::{MerchantLimit, Rate};
use sluice_domain::{KeyHash, Merchants, merchants::MAX_API_KEY};

use super::{Config, ConfigError, Environment, Hidden, resolve};
use crate::webhooks::MerchantWebhook;

/// Most orders a second, and most orders at once, that a limit may say.
pub const MAX_RATE: u32 = 10_000_000;
/// Most that a merchant may weigh.
pub const MAX_WEIGHT: u32 = 1_000;

/// A `[[merchant]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MerchantConfig {
    /// Its id.
    pub id: String,
    /// Its API key.
    pub api_key: Option<Hidden>,
    /// … or the environment variable that holds it.
    pub api_key_env: Option<String>,
    /// Further keys, while one replaces the other.
    #[serde(default, deserialize_with = "hidden")]
    pub api_keys: Vec<Hidden>,
    /// Further keys as BLAKE3 hashes, 64 hexadecimal digits each.
    #[serde(default, deserialize_with = "hidden")]
    pub api_key_hashes: Vec<Hidden>,
    /// True: none of its keys is valid. Its orders go on.
    #[serde(default)]
    pub revoked: bool,
    /// Orders a second it may post; 0: as many as it likes. Absent: what the top level says.
    pub rate_limit: Option<u32>,
    /// Orders it may post at once before that counts; 0: one second's. Absent: what the top level says.
    pub burst: Option<u32>,
    /// Its share of a node that is under pressure, beside that of the others.
    #[serde(default = "weight")]
    pub weight: u32,
    /// Where it is told what happens, besides what it sets over the API.
    #[serde(default, rename = "webhook")]
    pub webhooks: Vec<MerchantWebhook>,
}

fn weight() -> u32 {
    1
}

/// A list of texts that are never shown, by way of values for the same reason as [`Hidden`] itself.
fn hidden<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Hidden>, D::Error> {
    let text = |value| match value {
        toml::Value::String(text) => Some(Hidden::new(text)),
        _ => None,
    };
    let texts = match toml::Value::deserialize(from)? {
        toml::Value::Array(values) => values.into_iter().map(text).collect(),
        _ => None,
    };
    texts.ok_or_else(|| D::Error::custom("expected a list of texts in quotes"))
}

impl MerchantConfig {
    /// A merchant with its key.
    pub fn new(id: impl Into<String>, api_key: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            api_key: Some(Hidden::new(api_key)),
            api_key_env: None,
            api_keys: Vec::new(),
            api_key_hashes: Vec::new(),
            revoked: false,
            rate_limit: None,
            burst: None,
            weight: weight(),
            webhooks: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, environment: Environment<'_>) -> Result<(), ConfigError> {
        let who = format!("merchant {:?}", self.id);
        resolve(&who, "api_key", &mut self.api_key, self.api_key_env.as_deref(), environment)?;
        self.webhooks.iter_mut().try_for_each(|webhook| webhook.apply(&self.id, environment))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("rate_limit", self.rate_limit.unwrap_or(0), 0, MAX_RATE),
            ("burst", self.burst.unwrap_or(0), 0, MAX_RATE),
            ("weight", self.weight, 1, MAX_WEIGHT),
        ];
        for (key, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(self.at(key, format!("expected {least} to {most}, got {value}")));
            }
        }
        Ok(())
    }

    /// The hashes of its keys; none if it is revoked.
    fn keys(&self) -> Result<Vec<KeyHash>, ConfigError> {
        let mut keys = Vec::new();
        let plain = self.api_key.iter().map(|key| ("api_key", key));
        for (name, key) in plain.chain(self.api_keys.iter().map(|key| ("api_keys", key))) {
            let expected = || self.at(name, format!("expected keys of 1 to {MAX_API_KEY} visible ASCII characters"));
            keys.push(KeyHash::of(key.reveal()).ok_or_else(expected)?);
        }
        for hash in &self.api_key_hashes {
            keys.push(hash.reveal().parse().map_err(|error| self.at("api_key_hashes", format!("{error}")))?);
        }
        if self.revoked {
            keys.clear();
        } else if keys.is_empty() {
            let problem = "is missing: expected api_key, api_key_env, api_keys, api_key_hashes, or revoked = true";
            return Err(self.at("api_key", problem));
        }
        Ok(keys)
    }

    fn at(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::at(format!("merchant {:?}: {key}", self.id), problem)
    }
}

impl Config {
    /// Who may post.
    ///
    /// # Errors
    /// [`ConfigError`] naming the merchant.
    pub fn merchant_table(&self) -> Result<Merchants, ConfigError> {
        let mut seen = HashSet::new();
        let mut table = Vec::new();
        for merchant in &self.merchants {
            if !seen.insert(&merchant.id) {
                return Err(merchant.at("id", "is given twice"));
            }
            table.push((&merchant.id, merchant.keys()?));
        }
        if table.is_empty() {
            return Err(ConfigError::at("merchant", "expected at least one [[merchant]] with id and api_key"));
        }
        Merchants::hashed(table).map_err(|error| ConfigError::at("merchant", error.to_string()))
    }

    /// What each merchant may post, in the order of [`Config::merchant_table`].
    #[must_use]
    pub fn merchant_limits(&self) -> Arc<[MerchantLimit]> {
        let limit = |merchant: &MerchantConfig| {
            let per_second = merchant.rate_limit.unwrap_or(self.rate_limit);
            let burst = match merchant.burst.unwrap_or(self.burst) {
                0 => per_second,
                burst => burst,
            };
            MerchantLimit { rate: (per_second > 0).then_some(Rate { per_second, burst }), weight: merchant.weight }
        };
        self.merchants.iter().map(limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_merchants_own_or_everybodys() {
        let mut config = Config { rate_limit: 100, burst: 0, ..Config::default() };
        let own =
            |rate_limit, burst, weight| MerchantConfig { rate_limit, burst, weight, ..MerchantConfig::new("m", "k") };
        config.merchants =
            vec![own(None, None, 1), own(Some(0), None, 2), own(Some(7), Some(3), 1), own(None, Some(9), 1)];
        let limits = config.merchant_limits();
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        assert_eq!(limits.iter().map(|l| l.rate).collect::<Vec<_>>(), [rate(100, 100), None, rate(7, 3), rate(100, 9)]);
        assert_eq!(limits[1].weight, 2);
        config.merchants[0].weight = 0;
        let error = config.merchants[0].check().unwrap_err().to_string();
        assert_eq!(error, "merchant \"m\": weight: expected 1 to 1000, got 0");
    }

    #[test]
    fn keys_come_in_every_form_and_are_all_gone_when_revoked() {
        let hash = blake3_of("hashed");
        let text = format!(
            "[[merchant]]\nid = \"m-1\"\napi_key = \"one\"\napi_keys = [\"two\"]\napi_key_hashes = [\"{hash}\"]\n"
        );
        let table = Config::parse("x", &text).unwrap().merchant_table().unwrap();
        assert!(["one", "two", "hashed"].iter().all(|key| table.by_key(key).is_some()));
        assert!(table.by_key(&hash).is_none(), "a hash is no key");
        let table = Config::parse("x", &(text.clone() + "revoked = true\n")).unwrap().merchant_table().unwrap();
        assert!(["one", "two", "hashed"].iter().all(|key| table.by_key(key).is_none()) && table.len() == 1);
        let wrong = text.replace(&hash, "open-sesame");
        let error = Config::parse("x", &wrong).unwrap().merchant_table().unwrap_err().to_string();
        assert_eq!(error, "merchant \"m-1\": api_key_hashes: expected the BLAKE3 hash of a key: 64 hexadecimal digits");
    }

    #[test]
    fn the_hash_in_the_example_is_that_of_the_key_beside_it() {
        let value = |key: &str| {
            let line = crate::config::EXAMPLE.lines().find_map(|line| line.strip_prefix(&format!("# {key} = [\"")));
            line.and_then(|rest| rest.strip_suffix("\"]")).unwrap()
        };
        assert_eq!(value("api_key_hashes"), blake3_of(value("api_keys")));
    }

    fn blake3_of(key: &str) -> String {
        blake3::hash(key.as_bytes()).to_hex().to_string()
    }
}
