//! What an operator can set of webhooks: `[webhooks]`, and `[[merchant.webhook]]` for endpoints that are there from the start.

use std::{collections::HashSet, time::Duration};

use serde::Deserialize;
use sluice_domain::{Fingerprint, OrderId};
use sluice_http::webhook::Secret;
use sluice_schemas::event::EventType;
use sluice_webhooks::{
    WebhookConfig,
    guard::{Guard, Network, Target},
    model::Endpoint,
};

use crate::config::{ConfigError, Environment, Hidden, MerchantConfig, resolve};

/// `[webhooks]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhooksConfig {
    /// Networks that merchants' URLs may lead to although they aren't public, and without TLS.
    pub allow_private_networks: Vec<String>,
    /// Posts to one endpoint at once.
    pub concurrency: u16,
    /// Seconds a post may take.
    pub timeout_s: u32,
    /// Seconds an event is tried for.
    pub give_up_after_s: u32,
    /// Deliveries kept in the log of one endpoint.
    pub log_entries: u32,
    /// Seconds they are kept.
    pub log_age_s: u32,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        let config = WebhookConfig::default();
        Self {
            allow_private_networks: Vec::new(),
            concurrency: config.concurrency as u16,
            timeout_s: config.timeout.as_secs() as u32,
            give_up_after_s: config.give_up_after.as_secs() as u32,
            log_entries: config.log_entries as u32,
            log_age_s: config.log_age.as_secs() as u32,
        }
    }
}

impl WebhooksConfig {
    /// As the delivery wants it.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub fn delivery(&self) -> Result<WebhookConfig, ConfigError> {
        let bounds: [(&str, u32, u32); 5] = [
            ("concurrency", u32::from(self.concurrency), 64),
            ("timeout_s", self.timeout_s, 300),
            ("give_up_after_s", self.give_up_after_s, 30 * 86_400),
            ("log_entries", self.log_entries, 1_000_000),
            ("log_age_s", self.log_age_s, 366 * 86_400),
        ];
        for (key, value, most) in bounds {
            if !(1..=most).contains(&value) {
                return Err(ConfigError::at(format!("webhooks: {key}"), format!("expected 1 to {most}, got {value}")));
            }
        }
        let network = |text: &String| {
            let network: Result<Network, _> = text.parse();
            network.map_err(|error| ConfigError::at("webhooks: allow_private_networks", error.to_string()))
        };
        Ok(WebhookConfig {
            guard: Guard { allowed: self.allow_private_networks.iter().map(network).collect::<Result<_, _>>()? },
            concurrency: usize::from(self.concurrency),
            timeout: Duration::from_secs(self.timeout_s.into()),
            give_up_after: Duration::from_secs(self.give_up_after_s.into()),
            log_entries: u64::from(self.log_entries),
            log_age: Duration::from_secs(self.log_age_s.into()),
            ..WebhookConfig::default()
        })
    }

    /// Every merchant's endpoints of the configuration; those that were made over the API are elsewhere.
    ///
    /// # Errors
    /// [`ConfigError`] naming merchant and key.
    pub fn endpoints(&self, merchants: &[MerchantConfig], now_ms: u64) -> Result<Vec<Endpoint>, ConfigError> {
        let guard = self.delivery()?.guard;
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for merchant in merchants {
            for webhook in &merchant.webhooks {
                let endpoint = webhook.endpoint(&merchant.id, &guard, now_ms)?;
                if !seen.insert(endpoint.id.clone()) {
                    return Err(ConfigError::at(format!("merchant {:?}: webhook: url", merchant.id), "is given twice"));
                }
                all.push(endpoint);
            }
        }
        Ok(all)
    }
}

/// A `[[merchant.webhook]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MerchantWebhook {
    /// Where events are posted.
    pub url: String,
    /// What they are signed with, `whsec_…`.
    pub secret: Option<Hidden>,
    /// … or the environment variable that holds it.
    pub secret_env: Option<String>,
    /// Types of events that are posted; all if empty.
    #[serde(default)]
    pub types: Vec<String>,
}

impl MerchantWebhook {
    /// Takes the secret from its variable.
    pub(crate) fn apply(&mut self, merchant: &str, environment: Environment<'_>) -> Result<(), ConfigError> {
        let who = format!("merchant {merchant:?}: webhook");
        resolve(&who, "secret", &mut self.secret, self.secret_env.as_deref(), environment)
    }

    fn endpoint(&self, merchant: &str, guard: &Guard, now_ms: u64) -> Result<Endpoint, ConfigError> {
        let at =
            |key: &str, problem: String| ConfigError::at(format!("merchant {merchant:?}: webhook: {key}"), problem);
        let target = Target::parse(&self.url, guard).map_err(|expected| at("url", format!("expected {expected}")))?;
        let secret = self.secret.as_ref().ok_or_else(|| at("secret", "is missing".to_owned()))?.reveal();
        let _: Secret = secret.parse().map_err(|error| at("secret", format!("{error}")))?;
        if let Some(unknown) = self.types.iter().find(|name| EventType::from_name(name).is_none()) {
            let names = EventType::ALL.map(EventType::name).join(", ");
            return Err(at("types", format!("{unknown:?} is none of {names}")));
        }
        // The same endpoint has the same id after every start, and so goes on where it was.
        let id = OrderId(Fingerprint::of(merchant, &target.url).0);
        Ok(Endpoint {
            id: format!("whe_{id}"),
            merchant: merchant.to_owned(),
            url: target.url,
            description: String::new(),
            types: self.types.clone(),
            secret: secret.to_owned(),
            old_secret: None,
            disabled: None,
            created_at_ms: now_ms,
            fixed: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const WEBHOOK: &str = "[[merchant]]\nid = \"m-1\"\napi_key = \"k\"\n[[merchant.webhook]]\n\
        url = \"HTTPS://shop.example/hooks\"\nsecret = \"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\"\n";

    fn endpoints(text: &str) -> Result<Vec<Endpoint>, String> {
        let config = Config::parse("x", text).map_err(|error| error.to_string())?;
        config.webhooks.endpoints(&config.merchants, 5).map_err(|error| error.to_string())
    }

    #[test]
    fn an_endpoint_of_the_configuration_keeps_its_id() {
        let first = endpoints(WEBHOOK).unwrap();
        assert_eq!(
            (first[0].url.as_str(), first[0].fixed, first[0].id.len()),
            ("https://shop.example/hooks", true, 30)
        );
        let again = endpoints(&WEBHOOK.replace("HTTPS", "https")).unwrap();
        assert_eq!(again[0].id, first[0].id);
        assert_ne!(endpoints(&WEBHOOK.replace("m-1", "m-2")).unwrap()[0].id, first[0].id);
    }

    #[test]
    fn mistakes_are_named_and_no_secret_is_shown() {
        let wrong = |from: &str, to: &str| endpoints(&WEBHOOK.replace(from, to)).unwrap_err();
        let error = wrong("HTTPS://shop.example", "https://10.0.0.1");
        assert_eq!(error, "merchant \"m-1\": webhook: url: expected a URL with a public address");
        let error = wrong("whsec_", "hunter2");
        assert!(error.starts_with("merchant \"m-1\": webhook: secret: ") && !error.contains("hunter2"), "{error}");
        assert!(wrong("secret = ", "types = [\"x\"]\nsecret = ").contains("webhook: types: \"x\" is none of"));
        let twice = format!("{WEBHOOK}{}", &WEBHOOK[WEBHOOK.find("[[merchant.webhook").unwrap()..]);
        assert!(endpoints(&twice).unwrap_err().ends_with("webhook: url: is given twice"));
        let inside = format!(
            "{}\n[webhooks]\nallow_private_networks = [\"10.0.0.0/8\"]",
            WEBHOOK.replace("shop.example", "10.0.0.1")
        );
        assert_eq!(endpoints(&inside).unwrap()[0].url, "https://10.0.0.1/hooks");
        let error = endpoints(&inside.replace("10.0.0.0/8", "10.0.0.1/8")).unwrap_err();
        assert!(error.starts_with("webhooks: allow_private_networks: \"10.0.0.1/8\" is not a network"), "{error}");
        let error = endpoints(&format!("{WEBHOOK}[webhooks]\ntimeout_s = 0")).unwrap_err();
        assert_eq!(error, "webhooks: timeout_s: expected 1 to 300, got 0");
    }

    #[test]
    fn a_secret_may_come_from_the_environment() {
        let text = WEBHOOK.replace("secret = \"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\"", "secret_env = \"HOOK\"");
        let mut config = Config::parse("x", &text).unwrap();
        let error = config.clone().apply(&|_| None).unwrap_err().to_string();
        assert_eq!(error, "merchant \"m-1\": webhook: secret_env: the variable HOOK isn't set");
        config.apply(&|_| Some("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".to_owned())).unwrap_or_default();
    }
}
