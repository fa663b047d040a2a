//! What an operator can set of webhooks: `[webhooks]`, and `[[merchant.webhook]]` for endpoints that are there from the start.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use serde::Deserialize;
use sluice_domain::{Fingerprint, OrderId};
use sluice_http::webhook::Secret;
use sluice_schemas::event::EventType;
use sluice_webhooks::{
    WebhookConfig,
    guard::{Guard, Network, Target},
    model::{Endpoint, OldSecret},
};

use crate::config::{ConfigError, Environment, Hidden, MerchantConfig, read_secret, resolve};

/// Characters that the name of an endpoint of the configuration may have.
const MAX_ID: usize = 64;

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
                    let key = if webhook.id.is_some() { "id" } else { "url" };
                    let problem = "is given twice; give each of them an id of its own";
                    return Err(ConfigError::at(format!("merchant {:?}: webhook: {key}", merchant.id), problem));
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
    /// Its name in the configuration, by which it is the same endpoint under another URL. Without one another URL is another
    /// endpoint.
    pub id: Option<String>,
    /// Where events are posted.
    pub url: String,
    /// What they are signed with: `whsec_…`, or two with a space between them while one replaces the other, the new one first.
    pub secret: Option<Hidden>,
    /// … or the environment variable that holds it,
    pub secret_env: Option<String>,
    /// … or the file.
    pub secret_file: Option<PathBuf>,
    /// Types of events that are posted; all if empty.
    #[serde(default)]
    pub types: Vec<String>,
}

impl MerchantWebhook {
    /// Takes the secret from its variable or file.
    pub(crate) fn apply(&mut self, merchant: &str, environment: Environment<'_>) -> Result<(), ConfigError> {
        let who = format!("merchant {merchant:?}: webhook");
        resolve(&who, "secret", &mut self.secret, self.secret_env.as_deref(), environment)?;
        let Some(file) = &self.secret_file else { return Ok(()) };
        let at = |problem: String| ConfigError::at(format!("{who}: secret_file"), problem);
        if self.secret.is_some() {
            return Err(at("expected one of secret, secret_env and secret_file, got two".to_owned()));
        }
        self.secret = Some(read_secret(file).map_err(at)?);
        Ok(())
    }

    /// What its id is worked out from: the same after every start.
    fn identity<'a>(&'a self, url: &'a str) -> Result<&'a str, String> {
        let good = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        match self.id.as_deref() {
            // No URL is such a text.
            Some(id) if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(good) => Ok(id),
            Some(id) => Err(format!("expected 1 to {MAX_ID} letters, digits, - and _, got {id:?}")),
            None => Ok(url),
        }
    }

    fn endpoint(&self, merchant: &str, guard: &Guard, now_ms: u64) -> Result<Endpoint, ConfigError> {
        let at =
            |key: &str, problem: String| ConfigError::at(format!("merchant {merchant:?}: webhook: {key}"), problem);
        let target = Target::parse(&self.url, guard).map_err(|expected| at("url", format!("expected {expected}")))?;
        let identity = self.identity(&target.url).map_err(|problem| at("id", problem))?;
        let secrets = self.secret.as_ref().ok_or_else(|| at("secret", "is missing".to_owned()))?.reveal();
        let secrets: Vec<&str> = secrets.split(' ').collect();
        for secret in &secrets {
            let _: Secret = secret.parse().map_err(|error| at("secret", format!("{error}")))?;
        }
        let (secret, old_secret) = match secrets[..] {
            [secret] => (secret, None),
            // For as long as it is in the configuration.
            [secret, old] => (secret, Some(OldSecret { secret: old.to_owned(), until_ms: u64::MAX })),
            _ => return Err(at("secret", "expected one secret, or two while one replaces the other".to_owned())),
        };
        if let Some(unknown) = self.types.iter().find(|name| EventType::from_name(name).is_none()) {
            let names = EventType::ALL.map(EventType::name).join(", ");
            return Err(at("types", format!("{unknown:?} is none of {names}")));
        }
        // The same endpoint has the same id after every start, and so goes on where it was.
        let id = OrderId(Fingerprint::of(merchant, identity).0);
        Ok(Endpoint {
            id: format!("whe_{id}"),
            merchant: merchant.to_owned(),
            url: target.url,
            description: String::new(),
            types: self.types.clone(),
            secret: secret.to_owned(),
            old_secret,
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
        let error = endpoints(&twice).unwrap_err();
        assert_eq!(error, "merchant \"m-1\": webhook: url: is given twice; give each of them an id of its own");
        let named = |ids: [&str; 2]| {
            let parts: Vec<&str> = twice.split("url = ").collect();
            let [first, second] = ids.map(|id| format!("id = {id:?}\nurl = "));
            endpoints(&[parts[0], &first, parts[1], &second, parts[2]].concat())
        };
        assert_eq!(named(["a", "b"]).unwrap().len(), 2, "one URL, and two names");
        assert!(named(["a", "a"]).unwrap_err().contains("webhook: id: is given twice"));
        assert!(named(["a", "b c"]).unwrap_err().contains("webhook: id: expected 1 to 64 letters"));
        assert!(named(["", "b"]).is_err() && named(["a", &"x".repeat(65)]).is_err());
        assert!(named([&"x".repeat(64), "b"]).is_ok());
        let error = wrong("whsec_", "whsec_AAAA whsec_");
        assert!(error.starts_with("merchant \"m-1\": webhook: secret: "), "{error}");
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

    #[test]
    fn a_secret_may_come_from_a_file_and_there_may_be_two() {
        let (file, secret) = (tempfile::NamedTempFile::new().unwrap(), "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
        let line = format!("secret_file = {:?}", file.path());
        let text = WEBHOOK.replace(&format!("secret = \"{secret}\""), &line);
        let read = |text: &str, contents: &str| {
            std::fs::write(file.path(), contents).unwrap();
            let mut config = Config::parse("x", text).unwrap();
            config.apply(&|_| None)?;
            Ok(config.webhooks.endpoints(&config.merchants, 5)?.remove(0))
        };
        let one = read(&text, &format!("{secret}\n")).unwrap();
        assert!(one.secret == secret && one.old_secret.is_none());
        let other = "whsec_d2ViaG9vay1leGFtcGxlLXNlY3JldC1jaGFuZ2UtbWU=";
        let two = read(&text, &format!("{other} {secret}")).unwrap();
        assert_eq!((two.secret.as_str(), two.old_secret.unwrap().secret.as_str()), (other, secret));
        let failed = |text: &str, contents: &str| {
            let read: Result<Endpoint, ConfigError> = read(text, contents);
            read.unwrap_err().to_string()
        };
        let error = failed(&text, &format!("{secret} {secret} {secret}"));
        assert_eq!(
            error,
            "merchant \"m-1\": webhook: secret: expected one secret, or two while one replaces the other"
        );
        let both = failed(&format!("{WEBHOOK}{line}"), secret);
        assert!(both.ends_with("secret_file: expected one of secret, secret_env and secret_file, got two"), "{both}");
        drop(file);
    }

    #[test]
    fn a_named_endpoint_is_the_same_under_another_url() {
        let named = WEBHOOK.replace("url =", "id = \"main\"\nurl =");
        let (first, moved) = (endpoints(&named).unwrap(), endpoints(&named.replace("shop", "new-shop")).unwrap());
        assert!(first[0].id == moved[0].id && first[0].url != moved[0].url);
        assert_ne!(endpoints(WEBHOOK).unwrap()[0].id, first[0].id);
        assert_ne!(endpoints(&named.replace("m-1", "m-2")).unwrap()[0].id, first[0].id);
    }
}
