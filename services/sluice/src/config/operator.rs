//! `operator_key`: who sees every merchant's orders.

use sluice_domain::{KeyHash, Operators, merchants::MAX_API_KEY};

use super::{Config, ConfigError};

impl Config {
    /// Who is an operator; nobody without a key.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key that can't be one, or that is a merchant's.
    pub fn operators(&self) -> Result<Operators, ConfigError> {
        let merchants = self.merchant_table()?;
        let mut keys = Vec::new();
        if let Some(key) = &self.operator_key {
            let expected = || {
                let problem = format!("expected 1 to {MAX_API_KEY} visible ASCII characters");
                ConfigError::at("operator_key", problem)
            };
            keys.push(("operator_key", KeyHash::of(key.reveal()).ok_or_else(expected)?));
        }
        if let Some(hash) = &self.operator_key_hash {
            let parsed = hash.reveal().parse::<KeyHash>();
            keys.push((
                "operator_key_hash",
                parsed.map_err(|error| ConfigError::at("operator_key_hash", error.to_string()))?,
            ));
        }
        match keys.iter().find(|(_, key)| merchants.has_key(key)) {
            Some((name, _)) => Err(ConfigError::at(*name, "is a merchant's key, which must not see what is others'")),
            None => Ok(Operators::new(keys.into_iter().map(|(_, key)| key).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::EXAMPLE;
    use super::*;

    fn of(top: &str) -> Result<Operators, String> {
        let config = Config::parse("x", &format!("{top}\n{EXAMPLE}")).map_err(|error| error.to_string())?;
        config.operators().map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_comes_in_either_form_and_none_lets_nobody_in() {
        let hash = blake3::hash(b"hashed").to_hex();
        let both = of(&format!("operator_key = \"plain\"\noperator_key_hash = \"{hash}\"")).unwrap();
        assert!(both.knows("plain") && both.knows("hashed") && !both.knows(hash.as_str()));
        assert!(!of("").unwrap().knows("plain"));
        let wrong = of("operator_key_hash = \"open-sesame\"").unwrap_err();
        assert_eq!(wrong, "operator_key_hash: expected the BLAKE3 hash of a key: 64 hexadecimal digits");
        assert_eq!(of("operator_key = \"\"").unwrap_err(), "operator_key: expected 1 to 256 visible ASCII characters");
    }

    #[test]
    fn a_merchants_key_is_no_operators() {
        let hash = blake3::hash(b"change-me").to_hex();
        for top in ["operator_key = \"change-me\"".to_owned(), format!("operator_key_hash = \"{hash}\"")] {
            assert!(of(&top).unwrap_err().contains("is a merchant's key"), "{top}");
        }
    }

    #[test]
    fn the_variable_goes_before_the_file() {
        let environment = |name: &str| match name {
            "SLUICE_OPERATOR_KEY" => Some("from-environment".to_owned()),
            "KEY" => Some("named".to_owned()),
            _ => None,
        };
        let apply = |top: &str, environment: super::super::Environment<'_>| {
            let mut config = Config::parse("x", &format!("{top}\n{EXAMPLE}")).unwrap();
            config.apply(environment).map_err(|error| error.to_string())?;
            config.operators().map_err(|error| error.to_string())
        };
        assert!(apply("operator_key_env = \"KEY\"", &environment).unwrap().knows("from-environment"));
        let named = |name: &str| environment(name).filter(|_| name == "KEY");
        assert!(apply("operator_key_env = \"KEY\"", &named).unwrap().knows("named"));
        let missing = apply("operator_key_env = \"NONE\"", &named).unwrap_err();
        assert_eq!(missing, "operator_key_env: the variable NONE isn't set");
        let both = apply("operator_key = \"a\"\noperator_key_env = \"KEY\"", &named).unwrap_err();
        assert!(both.contains("either operator_key or operator_key_env"), "{both}");
    }
}
