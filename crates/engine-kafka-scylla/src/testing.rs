//! The broker that the tests of this crate share.

use std::{io::Write as _, sync::OnceLock};

use parking_lot::RwLock;
use sluice_brokers::{Brokers, Options};

/// A broker without a store. Tests share it; one that kills it has it alone. `None`, loudly, if none can be had.
pub(crate) fn kafka() -> Option<&'static RwLock<Brokers>> {
    static BROKER: OnceLock<Option<RwLock<Brokers>>> = OnceLock::new();
    let start = || {
        let options = Options { kafka_heap_mb: 512, with_store: false, ..Options::default() };
        match Brokers::start(&options) {
            Ok(brokers) => Some(RwLock::new(brokers)),
            Err(missing) => {
                skipped(&missing.to_string());
                None
            }
        }
    };
    BROKER.get_or_init(start).as_ref()
}

/// Says it past the test harness, which would swallow it.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: tests against a broker: {why}");
}
