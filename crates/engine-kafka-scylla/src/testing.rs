//! The brokers that the tests of this crate share: one log and one store for the whole run. Each test keeps to topics and a
//! keyspace of its own; one that kills a server has both alone.

use std::{
    io::Write as _,
    ops::{Deref, DerefMut},
    sync::{
        Arc, OnceLock,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use rdkafka::{
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use sluice_brokers::{Brokers, Options, skipped};

use crate::config::LogConfig;

/// Longest use of the brokers by one test, several times what the slowest takes.
const LONGEST: Duration = Duration::from_secs(900);

/// The brokers while a test uses them.
pub(crate) struct Held<G> {
    brokers: G,
    /// Dropped when the test ends.
    _bound: Sender<()>,
}

/// The brokers, together with other tests. `None`, loudly, if none can be had.
pub(crate) fn shared() -> Option<Held<RwLockReadGuard<'static, Brokers>>> {
    Some(held(brokers()?.read()))
}

/// The brokers, with no other test beside this one, which may kill them and leaves them running. `None`, loudly, if none can
/// be had or they are somebody else's.
pub(crate) fn alone() -> Option<Held<RwLockWriteGuard<'static, Brokers>>> {
    let brokers = brokers()?.write();
    if !brokers.can_kill() {
        skipped("the brokers were given by address, so they can't be killed");
        return None;
    }
    Some(held(brokers))
}

fn brokers() -> Option<&'static RwLock<Brokers>> {
    static BROKERS: OnceLock<Result<RwLock<Brokers>, String>> = OnceLock::new();
    let start = || {
        let options = Options { kafka_heap_mb: 512, store_heap_mb: 768, ..Options::default() };
        let brokers = Brokers::start(&options).map_err(|missing| missing.to_string())?;
        // Past the harness, which would swallow it.
        let _ = writeln!(std::io::stderr(), "tests of the cluster run on {}", brokers.describe());
        Ok(RwLock::new(brokers))
    };
    match BROKERS.get_or_init(start) {
        Ok(brokers) => Some(brokers),
        Err(missing) => {
            skipped(format_args!("no brokers here: {missing}"));
            None
        }
    }
}

/// A deployment of its own at `brokers`.
pub(crate) fn log(brokers: &Brokers, name: &str, partitions: u16, carriers: &[&str]) -> LogConfig {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let mut config = LogConfig::new(brokers.kafka(), carriers.iter().copied().map(Arc::from).collect());
    config.prefix = format!("{name}-{}-{since}", std::process::id());
    (config.replication, config.partitions) = (1, partitions);
    config
}

/// Has the brokers forget `group`, which nobody is in.
pub(crate) async fn forget(config: &LogConfig, group: &str) {
    let admin: AdminClient<DefaultClientContext> = config.client().create().unwrap();
    let forgotten = admin.delete_groups(&[group], &AdminOptions::new()).await.unwrap();
    assert!(forgotten.iter().all(Result::is_ok), "{forgotten:?}");
}

/// The harness would wait for a test that hangs for ever: it ends the run instead, and says which it was.
fn held<G>(brokers: G) -> Held<G> {
    let (bound, ended) = channel::<()>();
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    std::thread::spawn(move || {
        if ended.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            let _ = writeln!(std::io::stderr(), "HANGS: {test} has had the brokers for {LONGEST:?}");
            std::process::abort();
        }
    });
    Held { brokers, _bound: bound }
}

impl<G: Deref<Target = Brokers>> Deref for Held<G> {
    type Target = Brokers;

    fn deref(&self) -> &Brokers {
        &self.brokers
    }
}

impl<G: DerefMut<Target = Brokers>> DerefMut for Held<G> {
    fn deref_mut(&mut self) -> &mut Brokers {
        &mut self.brokers
    }
}
