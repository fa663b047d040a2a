//! Brings up a Kafka broker and a store that speaks CQL, for tests, benchmarks and the demo.
//!
//! Each of the two is found on its own, in this order: an address from the environment ([`KAFKA`], [`STORE`]); a
//! container, when a container engine answers; a JVM process, fetched once with Maven. The store is ScyllaDB in a
//! container and Apache Cassandra, which speaks the same CQL, as a JVM process; [`Brokers::describe`] says which.

mod containers;
mod error;
mod jars;
mod jvm;
mod ports;
mod probe;
mod process;
mod secured;

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::containers::{Container, Engine};
use crate::jvm::{Jvm, Kind};
use crate::process::Temporary;

pub use crate::error::Missing;
pub use crate::secured::{Authority, Secured};

/// Environment variable with the bootstrap servers of a running Kafka (a list of `host:port`).
pub const KAFKA: &str = "SLUICE_TEST_KAFKA";
/// Environment variable with the address of a running store (`host:port`).
pub const STORE: &str = "SLUICE_TEST_STORE";

/// Environment variable that, set to anything, has containers passed over: what is not given by address are processes.
pub const NO_CONTAINERS: &str = "SLUICE_TEST_NO_CONTAINERS";

/// Environment variable with the file to which [`skipped`] adds a line, for whoever counts.
pub const SKIPPED: &str = "SLUICE_TEST_SKIPPED";

/// Says which test can't be run here and why, past the harness, which would swallow it and count the test as passed.
pub fn skipped(why: impl Display) {
    let thread = std::thread::current();
    let line = format!("SKIPPED: {}: {why}\n", thread.name().unwrap_or("a test"));
    // In one piece: other tests write, too. Nobody is left to be told if that fails.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os(SKIPPED) {
        let file = OpenOptions::new().create(true).append(true).open(file);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// How long an address from the environment may take to answer.
const GIVEN: Duration = Duration::from_secs(20);

/// What to start and with how much memory.
#[derive(Debug, Clone)]
pub struct Options {
    /// Heap of a Kafka that is started here, in MiB (at least 256).
    pub kafka_heap_mb: u32,
    /// Heap of a store that is started here, in MiB (at least 512).
    pub store_heap_mb: u32,
    /// Whether a store is wanted at all.
    pub with_store: bool,
    /// Where JVM processes keep their data and logs, across runs; without it, in a temporary folder that is removed
    /// on drop. Containers keep nothing after drop.
    pub folder: Option<PathBuf>,
    /// Port of 127.0.0.1 at which a proxy listens that passes connections on to [`Brokers::kafka_behind_proxy`]: clients
    /// that bootstrap there are told no other address. Honoured by a JVM process only.
    pub kafka_proxy: Option<u16>,
    /// Whether a store that is a JVM process answers only once its commit log is synced, so that what it has acknowledged
    /// outlives kill -9. As servers do by default, it syncs now and then otherwise: of three nodes two would have it.
    pub store_synced: bool,
    /// TLS with certificates on both sides, and passwords, for both servers: see [`Brokers::secured`]. They are JVM processes
    /// then, whatever else there is, in a folder without data of earlier runs; and Kafka has no listener for a proxy.
    pub secured: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kafka_heap_mb: 1024,
            store_heap_mb: 2048,
            with_store: true,
            folder: None,
            kafka_proxy: None,
            store_synced: true,
            secured: false,
        }
    }
}

/// Where one of the two servers runs.
enum Server {
    /// Somebody else's, by address.
    Given { kind: Kind, address: String },
    /// In a container of ours.
    Container(Box<Container>),
    /// A process of ours.
    Jvm(Box<Jvm>),
}

/// One Kafka broker and one store that accept requests.
///
/// Dropping it stops what it started (in order first, by force after 20 s) and removes its temporary folder. What it
/// started also ends when this process is killed, and so does the folder: see the watchdogs in `process.rs`. Containers
/// too, if there is a `docker` command.
pub struct Brokers {
    kafka: Server,
    store: Option<Server>,
    secured: Option<Box<Secured>>,
    /// After the servers: fields are dropped in this order, and they write into it until they end.
    _temporary: Option<Temporary>,
}

impl Brokers {
    /// Starts or finds both servers and returns once both accept requests; seconds, or minutes at the first fetch.
    ///
    /// # Errors
    /// [`Missing`] says what there is to install or to set.
    pub fn start(options: &Options) -> Result<Self, Missing> {
        let (folder, temporary) = match &options.folder {
            Some(folder) => (folder.clone(), None),
            None => {
                let folder = Temporary::new()?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let secured = options.secured.then(|| Secured::new(&folder.join("secured")).map(Box::new)).transpose()?;
        let given =
            |name: &str| std::env::var(name).ok().filter(|address| !address.trim().is_empty() && !options.secured);
        let (kafka, store) = (given(KAFKA), given(STORE));
        // Asked only when it is needed.
        let wanted = (kafka.is_none() || options.with_store && store.is_none()) && !options.secured;
        let containers = std::env::var_os(NO_CONTAINERS).is_none_or(|value| value.is_empty());
        let engine = if wanted && containers { Engine::answering() } else { None };
        let (kafka, store) = std::thread::scope(|scope| {
            let store = options.with_store.then(|| {
                let (engine, folder, secured) = (engine.clone(), &folder, secured.as_deref());
                scope.spawn(move || Server::start(Kind::Cassandra, store, engine, folder, options, secured))
            });
            let kafka = Server::start(Kind::Kafka, kafka, engine.clone(), &folder, options, secured.as_deref());
            let store = store.map(|store| match store.join() {
                Ok(store) => store,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            (kafka, store)
        });
        Ok(Self { kafka: kafka?, store: store.transpose()?, secured, _temporary: temporary })
    }

    /// Bootstrap servers of Kafka: a list of `host:port`, separated by commas.
    pub fn kafka(&self) -> &str {
        self.kafka.address()
    }

    /// Where a proxy at [`Options::kafka_proxy`] has to pass connections on to, `host:port`; `None` if nobody asked for it
    /// or Kafka is no JVM process.
    pub fn kafka_behind_proxy(&self) -> Option<&str> {
        match &self.kafka {
            Server::Jvm(jvm) => jvm.behind_proxy(),
            _ => None,
        }
    }

    /// Address of the store, `host:port`; empty without a store.
    pub fn store(&self) -> &str {
        self.store.as_ref().map_or("", Server::address)
    }

    /// What lets a client in, if [`Options::secured`] was asked for.
    pub fn secured(&self) -> Option<&Secured> {
        self.secured.as_deref()
    }

    /// What runs and where, for the heading of a measurement.
    pub fn describe(&self) -> String {
        let store = self.store.as_ref().map(Server::describe);
        std::iter::once(self.kafka.describe()).chain(store).collect::<Vec<_>>().join(", ")
    }

    /// Whether both servers (one, without a store) can be killed and started again from here.
    pub fn can_kill(&self) -> bool {
        let ours = |server: &Server| !matches!(server, Server::Given { .. });
        ours(&self.kafka) && self.store.as_ref().is_none_or(ours)
    }

    /// Kills Kafka (SIGKILL) and returns once it is gone; does nothing to one that was given by address.
    pub fn kill_kafka(&mut self) {
        self.kafka.kill();
    }

    /// Starts a killed Kafka on the same port with the same data; returns once it accepts requests.
    ///
    /// Takes 4 s and more after a kill: the broker's old session has to run out first.
    ///
    /// # Errors
    /// [`Missing::NotOurs`] for one that was given by address; else why it didn't start.
    pub fn start_kafka(&mut self) -> Result<(), Missing> {
        self.kafka.restart()
    }

    /// Kills the store (SIGKILL) and returns once it is gone; does nothing to one that was given by address.
    pub fn kill_store(&mut self) {
        if let Some(store) = &mut self.store {
            store.kill();
        }
    }

    /// Starts a killed store on the same port with the same data; returns once it accepts requests.
    ///
    /// # Errors
    /// [`Missing::NotOurs`] for one that was given by address; else why it didn't start.
    pub fn start_store(&mut self) -> Result<(), Missing> {
        self.store.as_mut().map_or(Ok(()), Server::restart)
    }

    /// Process ids of the JVM processes that run now, Kafka's first; none for addresses and containers.
    pub fn pids(&self) -> Vec<u32> {
        let pid = |server: &Server| match server {
            Server::Jvm(jvm) => jvm.pid(),
            _ => None,
        };
        pid(&self.kafka).into_iter().chain(self.store.as_ref().and_then(pid)).collect()
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        // Both are asked before either is waited for.
        for server in std::iter::once(&mut self.kafka).chain(self.store.as_mut()) {
            if let Server::Jvm(jvm) = server {
                jvm.ask_to_end();
            }
        }
    }
}

impl Server {
    fn start(
        kind: Kind,
        given: Option<String>,
        engine: Option<Engine>,
        folder: &Path,
        options: &Options,
        secured: Option<&Secured>,
    ) -> Result<Self, Missing> {
        let heap_mb = match kind {
            Kind::Kafka => options.kafka_heap_mb.max(256),
            Kind::Cassandra => options.store_heap_mb.max(512),
        };
        if let Some(address) = given {
            await_given(kind, &address)?;
            return Ok(Self::Given { kind, address });
        }
        if let Some(engine) = engine {
            match Container::start(kind, engine, heap_mb) {
                Ok(container) => return Ok(Self::Container(Box::new(container))),
                Err(error) => tracing::warn!(%error, "a container could not be used; trying a JVM process"),
            }
        }
        Jvm::start(kind, folder, heap_mb, options, secured).map(Box::new).map(Self::Jvm)
    }

    fn address(&self) -> &str {
        match self {
            Self::Given { address, .. } => address,
            Self::Container(container) => container.address(),
            Self::Jvm(jvm) => jvm.address(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Given { kind: Kind::Kafka, address } => format!("Kafka at {address} ({KAFKA})"),
            Self::Given { kind: Kind::Cassandra, address } => format!("store at {address} ({STORE})"),
            Self::Container(container) => format!("{} (container)", container.describe()),
            Self::Jvm(jvm) => format!("{} (JVM process)", jvm.describe()),
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Given { address, .. } => tracing::warn!(%address, "not killed: given by address"),
            Self::Container(container) => container.kill(),
            Self::Jvm(jvm) => jvm.kill(),
        }
    }

    fn restart(&mut self) -> Result<(), Missing> {
        match self {
            Self::Given { kind, .. } => Err(Missing::NotOurs { server: role(*kind) }),
            Self::Container(container) => container.restart(),
            Self::Jvm(jvm) => jvm.run(),
        }
    }
}

fn await_given(kind: Kind, address: &str) -> Result<(), Missing> {
    match kind {
        Kind::Kafka => poll(role(kind), address, GIVEN, probe::kafka),
        Kind::Cassandra => poll(role(kind), address, GIVEN, probe::cql),
    }
}

/// What a server is to us, when we don't know which program it is.
const fn role(kind: Kind) -> &'static str {
    match kind {
        Kind::Kafka => "Kafka",
        Kind::Cassandra => "the store",
    }
}

/// Asks a server that no process of ours is known for, until it answers.
fn poll(
    server: &'static str,
    address: &str,
    bound: Duration,
    ask: impl Fn(&str) -> Result<(), std::io::Error>,
) -> Result<(), Missing> {
    let start = Instant::now();
    loop {
        match ask(address) {
            Ok(()) => return Ok(()),
            Err(last) if start.elapsed() > bound => {
                return Err(Missing::NotReady {
                    server,
                    address: address.to_owned(),
                    after: bound,
                    last: last.to_string(),
                    tail: String::new(),
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
