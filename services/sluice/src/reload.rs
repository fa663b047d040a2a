//! What a running process takes over from its configuration when it gets SIGHUP: merchants' and operators' keys, the
//! certificate, and what goods are classified by. What can't be used changes nothing and is logged; everything else in the
//! configuration takes a restart.

use std::{path::Path, path::PathBuf, sync::Arc};

use sluice_domain::{Merchants, Operators};

use crate::{
    config::{Config, ConfigError},
    knowledge::Known,
    signals::Hangup,
    tls::Tls,
};

/// What can be replaced while the process runs.
#[derive(Debug, Clone)]
pub struct Live {
    /// Who may post, and with which keys.
    pub merchants: Arc<Merchants>,
    /// Who sees every merchant's orders.
    pub operators: Arc<Operators>,
    /// The certificate. Which files it is in takes a restart.
    pub tls: Option<Arc<Tls>>,
    /// What goods are classified by, where that is done.
    pub known: Option<Arc<Known>>,
}

impl Live {
    /// Reads the configuration at `path` again at every signal, until the runtime ends.
    pub fn watch(self, mut hangup: Hangup, path: PathBuf) {
        let live = Arc::new(self);
        if let Some(tls) = &live.tls {
            Arc::clone(tls).watch();
        }
        tokio::spawn(async move {
            loop {
                hangup.next().await;
                let (live, path) = (Arc::clone(&live), path.clone());
                drop(tokio::task::spawn_blocking(move || live.renew(&path)).await);
            }
        });
    }

    fn renew(&self, path: &Path) {
        match self.reload(path) {
            Ok(config) => {
                tracing::info!("merchants' and operators' keys were read again");
                if let Some(Err(error)) = self.known.as_ref().map(|known| known.reload(&config)) {
                    tracing::error!(%error, "goods are classified as before");
                }
            }
            Err(error) => tracing::error!(%error, "nothing was read again: the configuration can't be used"),
        }
        if let Some(tls) = &self.tls {
            tls.refresh();
        }
    }

    /// Takes over what `path` says now of keys, and gives it all; the variables that hold secrets are those the process was started with.
    ///
    /// # Errors
    /// [`ConfigError`]; then nothing has changed.
    fn reload(&self, path: &Path) -> Result<Config, ConfigError> {
        let (config, _) = Config::load(path, &|name: &str| std::env::var(name).ok())?;
        let (merchants, operators) = (config.merchant_table()?, config.operators()?);
        let restart = |error| ConfigError::at("merchant", format!("{error}; merchants come and go at a restart"));
        self.merchants.take_keys(&merchants).map_err(restart)?;
        self.operators.take_keys(&operators);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EXAMPLE;

    #[test]
    fn keys_are_replaced_and_a_wrong_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sluice.toml");
        let merchants = Arc::new(Config::parse("x", EXAMPLE).unwrap().merchant_table().unwrap());
        let live = Live { merchants, operators: Arc::default(), tls: None, known: None };
        let reload = |text: &str| {
            std::fs::write(&path, text).unwrap();
            live.reload(&path).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(reload(&EXAMPLE.replace("\"change-me\"", "\"other\"")), Ok(()));
        assert!(live.merchants.by_key("change-me").is_none() && live.merchants.by_key("other").is_some());
        assert_eq!(reload(&EXAMPLE.replace("# operator_key = \"", "operator_key = \"")), Ok(()));
        assert!(live.operators.knows("change-me-operator"));
        assert!(
            reload(&EXAMPLE.replace("# operator_key = \"change-me-operator", "operator_key = \"change-me")).is_err()
        );
        assert!(live.operators.knows("change-me-operator"), "a merchant's key is refused, and nothing has changed");
        assert_eq!(reload(&EXAMPLE.replace("\"change-me\"", "\"other\"")), Ok(()));
        assert!(!live.operators.knows("change-me-operator"));
        assert!(reload("listen = 5").unwrap_err().contains("listen"));
        let error = reload(&EXAMPLE.replace("id = \"m-1\"", "id = \"m-2\"")).unwrap_err();
        assert!(error.contains("m-2") && error.contains("restart"), "{error}");
        assert!(live.merchants.by_key("other").is_some());
        assert_eq!(reload(&EXAMPLE.replace("revoked = false", "revoked = true")), Ok(()));
        assert!(live.merchants.by_key("other").is_none() && live.merchants.by_key("change-me").is_none());
    }
}
