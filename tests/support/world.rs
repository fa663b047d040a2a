//! One test's world: a folder, carriers, an address that stays its own, and a server that comes and goes; on either
//! engine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use serde_json::Value;
use sluice_carrier::simulated::Ledger;
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::{
    PATIENCE,
    carriers::Carriers,
    client::Client,
    cluster::section,
    engine::Engine,
    fake::Fake,
    orders::now_ms,
    process::{Ended, Process, program},
    setup::Setup,
    wait_at_most,
};

/// Partitions of a world's cluster: few, for every one costs topics and threads; two, so that they can be mixed up.
const PARTITIONS: u16 = 2;

/// A deployment on a cluster that is a world's own.
struct Deployment {
    name: String,
    kafka: String,
    store: String,
}

impl Deployment {
    fn on(engine: &Engine) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let Engine::Cluster(shared) = engine else { return None };
        // Brokers that were given by address may have seen the same test before.
        let name = format!("http_{}_{:x}", NUMBER.fetch_add(1, SeqCst), now_ms());
        let (kafka, store) = (shared.brokers.kafka().to_owned(), shared.brokers.store().to_owned());
        Some(Self { name, kafka, store })
    }
}

/// See the module.
pub struct World {
    pub setup: Setup,
    // Before the folder, so that the processes are gone when it is removed.
    pub carriers: Carriers,
    address: SocketAddr,
    /// Bound to the address and never listening: nobody else is given the port while the server is down.
    _port: TcpSocket,
    data_dir: PathBuf,
    /// `None` on the embedded engine.
    deployment: Option<Deployment>,
    folder: TempDir,
    starts: AtomicU32,
}

impl World {
    /// A world on the embedded engine with its data on the disk that the build is on.
    pub fn new(setup: Setup) -> Self {
        Self::on(&Engine::Embedded, setup)
    }

    /// A world on `engine`; on a cluster with topics and tables of its own.
    pub fn on(engine: &Engine, setup: Setup) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let data_dir = folder.path().join("data");
        Self { deployment: Deployment::on(engine), ..Self::build(setup, folder, data_dir) }
    }

    /// As [`World::on`], with carriers that say whatever `fake` says.
    pub fn faked(engine: &Engine, setup: Setup, fake: &Fake) -> Self {
        let mut world = Self::on(engine, setup);
        world.carriers.url = fake.url();
        world
    }

    /// A world on the embedded engine with its data somewhere else.
    pub fn with_data_in(setup: Setup, data_dir: PathBuf) -> Self {
        Self::build(setup, tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), data_dir)
    }

    fn build(setup: Setup, folder: TempDir, data_dir: PathBuf) -> Self {
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = port.local_addr().unwrap();
        let tells = setup.tells.map(|step_ms| (address, step_ms));
        let carriers = Carriers::telling(folder.path(), &setup.carriers, 1, tells);
        Self { setup, carriers, address, _port: port, data_dir, deployment: None, folder, starts: AtomicU32::new(0) }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whoever has this key.
    pub fn client_of(&self, key: &str) -> Client {
        Client { lags: self.deployment.is_some(), ..Client::new(self.address, key) }
    }

    /// Merchant m-1.
    pub fn client(&self) -> Client {
        self.client_of("key-1")
    }

    /// Merchant m-2.
    pub fn other_client(&self) -> Client {
        self.client_of("key-2")
    }

    /// Whether a request is compared with earlier ones under its key before it is answered. On a cluster the owner does
    /// so afterwards: a repetition is answered as if it were the first, and a conflict shows on the first one's time line.
    pub fn answers_decided(&self) -> bool {
        self.deployment.is_none()
    }

    /// Whether what is durable is in files of the server's own.
    pub fn has_journal(&self) -> bool {
        self.deployment.is_none()
    }

    /// Whether merchants can have webhooks.
    pub fn has_webhooks(&self) -> bool {
        self.deployment.is_none()
    }

    /// Lets a cluster's servers reach the store at another address.
    pub fn reach_store_at(&mut self, address: String) {
        self.deployment.as_mut().unwrap().store = address;
    }

    /// The configuration as it is now.
    pub fn config(&self) -> String {
        let mut setup = self.setup.clone();
        if let Some(Deployment { name, kafka, store }) = &self.deployment {
            setup.top += &section(name, kafka, store, PARTITIONS, self.folder());
        }
        setup.text(self.address, &self.data_dir, &self.carriers.url)
    }

    /// A command that starts a server with the configuration at `config`.
    pub fn command(&self, config: &Path) -> Command {
        let mut command = match self.deployment {
            None => program(&["serve"]),
            Some(_) => program(&["worker", "--all"]),
        };
        command.args(["--json", "--config"]).arg(config);
        command
    }

    /// Starts a server and waits until it takes orders.
    pub fn serve(&self) -> Server {
        self.launch().ready()
    }

    /// Starts a server.
    pub fn launch(&self) -> Server {
        let number = self.starts.fetch_add(1, SeqCst);
        let (config, ready) = (self.folder().join("sluice.toml"), self.folder().join(format!("ready-{number}")));
        std::fs::write(&config, self.config()).unwrap();
        if self.deployment.is_some() && number == 0 {
            let mut migrate = program(&["migrate", "--config"]);
            migrate.arg(&config);
            let ended = Process::run(migrate, self.folder(), "migrate");
            assert_eq!(ended.code, Some(0), "{}", ended.log);
        }
        let mut command = self.command(&config);
        command.arg("--ready-file").arg(&ready);
        let process = Process::start(command, self.folder(), &format!("serve-{number}"));
        Server { process, ready, address: self.address }
    }

    /// Starts a server that is expected to end by itself, and gives how.
    pub fn serve_in_vain(&self) -> Ended {
        self.launch().process.end()
    }

    /// Runs `sluice check` on the data.
    pub fn check(&self) -> Ended {
        let mut command = program(&["check", "--json"]);
        command.arg(&self.data_dir);
        Process::run(command, self.folder(), "check")
    }

    /// What the carriers wrote down.
    pub fn ledger(&self) -> Ledger {
        self.carriers.ledger()
    }
}

/// A running server.
pub struct Server {
    process: Process,
    ready: PathBuf,
    address: SocketAddr,
}

impl Server {
    /// Waits until it takes orders.
    #[track_caller]
    pub fn ready(self) -> Self {
        self.ready_within(PATIENCE)
    }

    #[track_caller]
    pub fn ready_within(mut self, patience: Duration) -> Self {
        wait_at_most(patience, "the server takes orders", || {
            assert!(self.process.ended().is_none(), "the server ended: {}", self.process.log());
            self.ready.exists().then_some(())
        });
        self
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// kill -9.
    pub fn kill(self) -> Ended {
        self.process.kill()
    }

    /// Asks it to read again what can change while it runs.
    pub fn hang_up(&self) {
        self.process.signal("HUP");
    }

    /// Asks it to drain, and doesn't wait.
    pub fn start_drain(&self) {
        self.process.terminate();
    }

    /// Waits for the end of a drain, and gives its receipt.
    #[track_caller]
    pub fn receipt(self) -> Value {
        let ended = self.process.end();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {:?}", ended.out))
    }

    /// Drains it, and gives the receipt.
    #[track_caller]
    pub fn drain(self) -> Value {
        self.start_drain();
        self.receipt()
    }

    /// Waits for its own end.
    pub fn end(self) -> Ended {
        self.process.end()
    }

    /// The value of a metric, by its whole name with labels; `None` if it isn't shown.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = Client::new(self.address, "").get("/metrics").text();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}
