//! What a node classifies goods by: the catalogue of this build, the files that the configuration names, and what reviewers have
//! decided for good. Each of them can be replaced while the node runs; what can't be used leaves everything as it is.

use std::{mem::replace, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sluice_classify::{ByModel, Chain, Knowledge, Learned, MAX_LEARNED, Review, Rules, RulesError, usual_weights};
use sluice_data::Catalogue;
use sluice_domain::Handling;
use sluice_goods::{Model, ModelError};
use sluice_operator::Kept;
use sluice_pipeline::Documents;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{config::Config, topology::StartError};

/// How often a node reads again what reviewers have decided for good, on whatever node: a rule is in force everywhere after so
/// long, and a store of 10,000 of them (3 MB) is not kept busy.
const STUDY: Duration = Duration::from_secs(5);

/// The parts of what is known, and the whole that stages share.
#[derive(Debug)]
pub struct Known {
    whole: Arc<Knowledge>,
    catalogue: Arc<Catalogue>,
    usual_g: Usual,
    parts: Mutex<Parts>,
}

/// Grams of one unit by handling class.
type Usual = [u32; Handling::ALL.len()];

/// What a chain is made of besides the catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub rules: Arc<Rules>,
    pub model: Arc<Model>,
    /// Which lines are held because of what the model says.
    pub review: Review,
    pub learned: Arc<Learned>,
}

/// The rules of `file`, or of this build.
pub(crate) fn rules(file: Option<&Path>) -> Result<Arc<Rules>, RulesError> {
    file.map_or_else(Rules::embedded, Rules::load).map(Arc::new)
}

/// The model of `file`, or of this build.
pub(crate) fn model(file: Option<&Path>) -> Result<Arc<Model>, ModelError> {
    file.map_or_else(Model::embedded, Model::load).map(Arc::new)
}

impl Parts {
    fn read(config: &Config, learned: Arc<Learned>) -> Result<Self, StartError> {
        let (rules, model) = (rules(config.rules.as_deref())?, model(config.model.as_deref())?);
        let review = match (config.review, config.review_above_risk) {
            (false, _) => Review::Never,
            (true, None) => Review::AsTrained,
            (true, Some(risk)) => Review::AboveRisk(risk),
        };
        Ok(Self { rules, model, review, learned })
    }

    pub fn chain(&self, catalogue: &Arc<Catalogue>, usual_g: Usual) -> Chain {
        let model = ByModel::new(Arc::clone(&self.model), usual_g, self.review);
        Chain::standard(Arc::clone(catalogue), Arc::clone(&self.learned), Arc::clone(&self.rules))
            .with_model(Box::new(model))
    }
}

impl Known {
    /// What `config` names.
    ///
    /// # Errors
    /// [`StartError`] if a file can't be used.
    pub fn load(config: &Config) -> Result<Arc<Self>, StartError> {
        let catalogue = Arc::new(sluice_data::catalogue()?);
        let parts = Parts::read(config, Arc::default())?;
        let usual_g = usual_weights(&catalogue);
        let whole = Arc::new(Knowledge::new(parts.chain(&catalogue, usual_g)));
        Ok(Arc::new(Self { whole, usual_g, catalogue, parts: Mutex::new(parts) }))
    }

    /// What stages classify by.
    #[must_use]
    pub fn whole(&self) -> Arc<Knowledge> {
        Arc::clone(&self.whole)
    }

    /// Reads the files again that `config` names.
    ///
    /// # Errors
    /// [`StartError`] if one can't be used; then what was known stays in force.
    pub fn reload(&self, config: &Config) -> Result<(), StartError> {
        let mut parts = self.parts.lock();
        *parts = Parts::read(config, Arc::clone(&parts.learned))?;
        self.whole.replace(parts.chain(&self.catalogue, self.usual_g));
        Ok(())
    }

    /// Replaces what reviewers have decided for good, titles with what each is, if it differs.
    pub fn learn<'a>(&self, decided: impl IntoIterator<Item = (&'a str, Handling)>) {
        let learned = Learned::new(decided, self.usual_g);
        let mut parts = self.parts.lock();
        if learned != *parts.learned {
            parts.learned = Arc::new(learned);
            self.whole.replace(parts.chain(&self.catalogue, self.usual_g));
        }
    }
}

/// Has a node go by what reviewers have decided for good, wherever that is kept.
pub(crate) struct Studies {
    /// `None` where nothing is classified.
    known: Option<Arc<Known>>,
    documents: Arc<dyn Documents>,
    /// The last reading failed, and that was said. Held while one is under way, so that none falls behind an earlier one.
    is_away: Mutex<bool>,
}

impl Studies {
    /// Of what `documents` has, which is read once before this returns.
    pub async fn begun(known: Option<&Arc<Known>>, documents: Arc<dyn Documents>) -> Arc<Self> {
        let own = Arc::new(Self { known: known.cloned(), documents, is_away: Mutex::new(false) });
        own.study_aside().await;
        own
    }

    /// Reads what is kept and goes by it. What can't be read changes nothing, and is said once. Blocks.
    pub fn study(&self) {
        let Some(known) = &self.known else { return };
        let mut is_away = self.is_away.lock();
        match sluice_operator::rules(&*self.documents) {
            Ok(rules) => {
                known.learn(rules.iter().map(|(title, handling)| (title.as_str(), *handling)));
                if replace(&mut *is_away, false) {
                    tracing::info!("what reviewers have decided can be read again");
                }
            }
            Err(error) if !replace(&mut *is_away, true) => {
                tracing::warn!(%error, "what reviewers have decided can't be read; what was known stays in force");
            }
            Err(_) => {}
        }
    }

    /// As [`Studies::study`], on a thread that may block.
    async fn study_aside(self: &Arc<Self>) {
        let own = Arc::clone(self);
        // A panic there is logged there.
        drop(tokio::task::spawn_blocking(move || own.study()).await);
    }

    /// Studies from time to time, until it is aborted.
    pub fn go_on(self: Arc<Self>) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut tick = interval(STUDY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first is at once, and was done before.
            tick.tick().await;
            loop {
                tick.tick().await;
                self.study_aside().await;
            }
        })
    }

    /// Where decisions are kept; this node goes by them at once.
    pub fn kept(self: &Arc<Self>) -> Kept {
        let (documents, own) = (Arc::clone(&self.documents), Arc::clone(self));
        Kept { documents, title_key: Learned::key_of, most_rules: MAX_LEARNED, taught: Arc::new(move || own.study()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use sluice_pipeline::{Change, LogError, documents::Entry};
    use sluice_schemas::order::Line;

    use super::*;

    fn held(known: &Known, title: &str) -> (Handling, bool) {
        let chain = known.whole().now();
        let classified = chain.classify(&Line { sku: "x", title, quantity: 1, unit_price: 1 });
        (classified.handling, classified.hold)
    }

    #[test]
    fn a_file_that_cant_be_used_leaves_everything_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.toml");
        let file = |class: &str| {
            format!(
                "version = 1\n[default]\nhandling = \"ambient_general\"\nweight_g = 1\n[[rule]]\nid = \"a\"\n\
                 any = [\"ODD\"]\nhandling = \"{class}\"\nweight_g = 1\nreview = true\n"
            )
        };
        std::fs::write(&path, file("frozen")).unwrap();
        let config = Config { rules: Some(path.clone()), ..Config::default() };
        let known = Known::load(&config).unwrap();
        assert_eq!(held(&known, "odd thing"), (Handling::Frozen, true));
        let version = known.whole().now().version();
        known.learn([("Odd thing", Handling::Chilled)]);
        assert_eq!(held(&known, "odd thing"), (Handling::Chilled, false), "people know better than rules");
        assert_ne!(known.whole().now().version(), version);
        for damaged in ["version = 1", &file("warm")] {
            std::fs::write(&path, damaged).unwrap();
            assert!(known.reload(&config).is_err() && Known::load(&config).is_err());
            assert_eq!(held(&known, "odd one"), (Handling::Frozen, true));
        }
        std::fs::write(&path, file("live_plant")).unwrap();
        known.reload(&config).unwrap();
        assert_eq!(held(&known, "odd one"), (Handling::LivePlant, true));
        assert_eq!(held(&known, "odd thing"), (Handling::Chilled, false));
        known.learn([]);
        assert_eq!(held(&known, "odd thing"), (Handling::LivePlant, true));
    }
    /// One rule, in a store that may be away.
    struct Store(std::sync::atomic::AtomicBool);

    impl Documents for Store {
        fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
            Ok(None)
        }

        fn scan(&self, _: &[u8], after: Option<&[u8]>, _: usize) -> Result<Vec<Entry>, LogError> {
            if self.0.load(Relaxed) {
                return Err(LogError::Store("away".to_owned()));
            }
            let rule = "{\"title\":\"Odd thing\",\"sku\":\"x\",\"merchant\":\"m\",\"handling\":\"frozen\",\"by\":\"ann\",\
                \"at\":1,\"order\":\"o\",\"parcel\":0}";
            let all = vec![(b"goods/rules/1".to_vec(), rule.into())];
            Ok(if after.is_none() { all } else { Vec::new() })
        }

        fn write(&self, _: &[Change]) -> Result<(), LogError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_store_that_is_away_changes_nothing() {
        let known = Known::load(&Config::default()).unwrap();
        let store = Arc::new(Store(true.into()));
        let before = held(&known, "odd thing");
        let studies = Studies::begun(Some(&known), store.clone()).await;
        assert_eq!(held(&known, "odd thing"), before);
        assert!(*studies.is_away.lock());
        store.0.store(false, Relaxed);
        (studies.kept().taught)();
        assert_eq!(held(&known, "odd thing"), (Handling::Frozen, false));
        store.0.store(true, Relaxed);
        studies.study();
        assert_eq!(held(&known, "odd thing"), (Handling::Frozen, false), "what was known stays in force");
    }
}
