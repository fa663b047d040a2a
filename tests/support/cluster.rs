//! A cluster of real processes: one broker and one store that all tests share, nodes of each role, carriers.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use sluice_brokers::{Brokers, Missing, Options};
use sluice_carrier::simulated::Ledger;
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::{
    LOOK, PATIENCE,
    carriers::Carriers,
    client::Client,
    judge::Court,
    process::{Ended, Process, program},
    proxy::Proxy,
    setup::{Carrier, OPERATOR_KEY, Setup},
    wait_at_most,
};

/// How long a node may take to start: the brokers may have just been started themselves.
const START: Duration = Duration::from_secs(90);
/// A worker that is silent for so long loses its partitions, ms.
pub const SESSION_MS: u64 = 2_000;
/// Partitions of a deployment.
pub const PARTITIONS: u16 = 4;

/// Broker and store, with a proxy in front of the broker. Whoever holds it has them alone.
pub struct Shared {
    pub brokers: Brokers,
    pub proxy: Proxy,
}

type Brought = Option<Result<Shared, String>>;

static SHARED: RwLock<Brought> = RwLock::new(None);

/// Broker and store, started when first asked for and kept until the end; waits for whoever has them now. `None`, with a
/// word on standard error, if this machine can't run them.
pub fn brokers() -> Option<Taken> {
    let mut guard = SHARED.write().unwrap_or_else(PoisonError::into_inner);
    match guard.get_or_insert_with(start) {
        Ok(shared) => {
            // A test that failed may have left one of them dead.
            shared.brokers.start_kafka().or_else(given).unwrap();
            shared.brokers.start_store().or_else(given).unwrap();
        }
        Err(missing) => {
            sluice_brokers::skipped(format_args!("no brokers here: {missing}"));
            return None;
        }
    }
    SHARED.clear_poison();
    Some(Taken(guard))
}

/// As [`brokers`], for a test that does nothing to them: any number of such tests have them at a time. A thread that has
/// them must not ask again: it would wait for whoever wants them alone, who waits for it.
pub fn lend() -> Option<Lent> {
    // Poisoned: a test failed while it had them alone.
    if let Ok(guard) = SHARED.read()
        && matches!(*guard, Some(Ok(_)))
    {
        return Some(Lent(guard));
    }
    brokers().map(|taken| Lent(RwLockWriteGuard::downgrade(taken.0)))
}

fn given(missing: Missing) -> Result<(), Missing> {
    if matches!(missing, Missing::NotOurs { .. }) { Ok(()) } else { Err(missing) }
}

fn start() -> Result<Shared, String> {
    let proxy = Proxy::start().map_err(|error| error.to_string())?;
    let folder = folder();
    let options = Options {
        kafka_heap_mb: 768,
        store_heap_mb: 1_024,
        folder: Some(folder),
        kafka_proxy: Some(proxy.port()),
        ..Options::default()
    };
    match Brokers::start(&options) {
        Ok(brokers) => {
            // Past the harness, which would swallow it.
            let _ = writeln!(std::io::stderr(), "cluster tests run on {}", brokers.describe());
            if let Some(upstream) = brokers.kafka_behind_proxy() {
                proxy.lead_to(upstream.parse().unwrap());
            }
            Ok(Shared { brokers, proxy })
        }
        Err(missing @ (Missing::Program { .. } | Missing::JavaVersion { .. } | Missing::Fetch { .. })) => {
            Err(missing.to_string())
        }
        Err(error) => panic!("{error}"),
    }
}

/// A folder by this process's id. Nothing runs when statics end, so those of processes that are gone are removed here.
fn folder() -> PathBuf {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for entry in fs::read_dir(parent).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_prefix("brokers-").and_then(|id| id.parse::<u32>().ok());
        if id.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    parent.join(format!("brokers-{}", std::process::id()))
}

/// Broker and store, held together with others.
pub struct Lent(RwLockReadGuard<'static, Brought>);

impl std::ops::Deref for Lent {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        self.0.as_ref().and_then(|shared| shared.as_ref().ok()).unwrap()
    }
}

/// Broker and store, held alone.
pub struct Taken(RwLockWriteGuard<'static, Brought>);

impl std::ops::Deref for Taken {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        self.0.as_ref().and_then(|shared| shared.as_ref().ok()).unwrap()
    }
}

impl std::ops::DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut Shared {
        self.0.as_mut().and_then(|shared| shared.as_mut().ok()).unwrap()
    }
}

/// The `[cluster]` section of a deployment of its own.
pub fn section(name: &str, kafka: &str, store: &str, partitions: u16, scratch: &Path) -> String {
    format!(
        "\n[cluster]\nbrokers = {kafka:?}\nstore = [{store:?}]\nprefix = {name:?}\nkeyspace = {name:?}\n\
         partitions = {partitions}\nreplication = 1\nstore_replication = 1\nowner_threads = 1\n\
         session_timeout_ms = {SESSION_MS}\nscratch_dir = {scratch:?}\n"
    )
}

/// One node: its role and its address stay while its process comes and goes.
pub struct Node {
    pub role: &'static str,
    name: String,
    pub address: SocketAddr,
    /// Bound to the address and never listening: nobody else is given the port while the node is down.
    _port: TcpSocket,
    process: Option<Process>,
    starts: u32,
}

/// A deployment with its nodes.
pub struct Cluster {
    pub setup: Setup,
    // Before the folder, so that the processes are gone when it is removed.
    pub nodes: Vec<Node>,
    pub carriers: Carriers,
    /// First part of the names of its topics, and its keyspace.
    pub name: String,
    /// Where its nodes reach Kafka.
    pub kafka: String,
    config: PathBuf,
    folder: TempDir,
    /// Times that somebody asked where to read: status nodes take turns.
    asked: AtomicUsize,
}

impl Cluster {
    /// Creates a deployment, and no node. `name` is new, of letters and digits.
    pub fn new(name: &str, kafka: &str, store: &str, carriers: &[Carrier], seed: u64) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let top = format!("placed_at_window_s = 3600\noperator_key = {OPERATOR_KEY:?}\n");
        let setup = Setup::with_defaults(carriers).with(&top);
        let carriers = Carriers::start(folder.path(), &setup.carriers, seed);
        let config = folder.path().join("cluster.toml");
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut text = setup.text(anywhere, &folder.path().join("unused"), &carriers.url);
        text += &section(name, kafka, store, PARTITIONS, folder.path());
        text += "\n[webhooks]\nallow_private_networks = [\"127.0.0.0/8\"]\n";
        fs::write(&config, text).unwrap();
        let mut migrate = program(&["migrate", "--config"]);
        migrate.arg(&config);
        let ended = Process::run(migrate, folder.path(), "migrate");
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        Self {
            setup,
            nodes: Vec::new(),
            carriers,
            name: name.to_owned(),
            kafka: kafka.to_owned(),
            config,
            folder,
            asked: AtomicUsize::new(0),
        }
    }

    /// Starts one more node of this role, and gives its number.
    pub fn add(&mut self, role: &'static str) -> usize {
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (number, address) = (self.nodes.len(), port.local_addr().unwrap());
        let name = format!("{role}-{number}");
        self.nodes.push(Node { role, name, address, _port: port, process: None, starts: 0 });
        self.start(number);
        number
    }

    /// Starts a node of this role that is down, or one more if all are up.
    pub fn start_spare(&mut self, role: &'static str) -> usize {
        let Some(down) = self.of(role).into_iter().find(|&number| !self.is_up(number)) else { return self.add(role) };
        self.start(down);
        down
    }

    /// Whether a node has a process.
    pub fn is_up(&self, number: usize) -> bool {
        self.nodes[number].process.is_some()
    }

    /// What the running nodes of this role have logged.
    pub fn logs(&self, role: &str) -> String {
        let processes = self.nodes.iter().filter(|node| node.role == role).filter_map(|node| node.process.as_ref());
        processes.map(Process::log).collect()
    }

    /// Starts a node's process, and doesn't wait for it.
    pub fn start(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        assert!(node.process.is_none(), "{} runs already", node.name);
        node.starts += 1;
        let mut command = program(&["worker", node.role, "--json", "--config"]);
        command.arg(&self.config).arg("--ready-file").arg(ready(self.folder.path(), node));
        command.env("SLUICE_LISTEN", node.address.to_string());
        let name = format!("{}-{}", node.name, node.starts);
        node.process = Some(Process::start(command, self.folder.path(), &name));
    }

    /// A command on this deployment, such as `migrate --partitions 8`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.arg("--config").arg(&self.config);
        command
    }

    /// A command on this deployment as if its rows were in another keyspace, which need not be there.
    pub fn in_keyspace(&self, keyspace: &str, arguments: &[&str]) -> Command {
        let (ours, theirs) = (format!("keyspace = {:?}", self.name), format!("keyspace = {keyspace:?}"));
        let text = fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(&ours), "{text}");
        let config = self.folder.path().join(format!("{keyspace}.toml"));
        fs::write(&config, text.replace(&ours, &theirs)).unwrap();
        let mut command = program(arguments);
        command.arg("--config").arg(config);
        command
    }

    /// Where everything is that its processes say.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until a node is at work.
    #[track_caller]
    pub fn ready(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let file = ready(self.folder.path(), node);
        let process = node.process.as_mut().unwrap();
        wait_at_most(START, &format!("{} is at work", node.name), || {
            assert!(process.ended().is_none(), "{} ended: {}", node.name, process.log());
            file.exists().then_some(())
        });
    }

    /// Waits until every node that was started is at work.
    #[track_caller]
    pub fn all_ready(&mut self) {
        for number in 0..self.nodes.len() {
            if self.nodes[number].process.is_some() {
                self.ready(number);
            }
        }
    }

    /// Numbers of the nodes of this role.
    pub fn of(&self, role: &str) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&number| self.nodes[number].role == role).collect()
    }

    /// kill -9.
    pub fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let mut process = node.process.take().unwrap();
        assert!(process.ended().is_none(), "{} ended by itself: {}", node.name, process.log());
        process.kill();
    }

    /// Sends a signal by name.
    pub fn signal(&self, number: usize, signal: &str) {
        self.nodes[number].process.as_ref().unwrap().signal(signal);
    }

    /// SIGTERM to these nodes at once; asserts that each ends well, and gives their receipts.
    #[track_caller]
    pub fn drain(&mut self, numbers: &[usize]) -> Vec<Value> {
        numbers.iter().for_each(|&number| self.signal(number, "TERM"));
        let receipt = |&number: &usize| {
            let node = &mut self.nodes[number];
            let ended = node.process.take().unwrap().end();
            assert_eq!(ended.code, Some(0), "{}: {}", node.name, ended.log);
            serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{}: {error}: {:?}", node.name, ended.out))
        };
        numbers.iter().map(receipt).collect()
    }

    /// Waits until a node has ended by itself.
    #[track_caller]
    pub fn ended(&mut self, number: usize) -> Ended {
        self.nodes[number].process.take().unwrap().end()
    }

    /// Asserts that every process that was started still runs.
    pub fn assert_alive(&mut self) {
        self.carriers.assert_alive();
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                assert!(process.ended().is_none(), "{} ended by itself: {}", node.name, process.log());
            }
        }
    }

    /// Waits until the owners have decided everything, the folds have written it, and carriers have answered it.
    pub fn wait_for_no_lag(&self) {
        let number = self.of("status")[0];
        let until = Instant::now() + PATIENCE;
        let lag = |topic| self.metric(number, &format!("sluice_lag_records{{topic=\"{topic}\"}}"));
        let told = || self.of("carrier").iter().filter(|&&node| self.is_up(node)).all(|&node| self.is_told(node));
        while lag("orders") != Some(0.0) || lag("decisions") != Some(0.0) || !told() {
            assert!(Instant::now() < until, "lag back to zero: waited {PATIENCE:?} in vain\n{}", self.lags());
            std::thread::sleep(LOOK);
        }
    }

    /// Whether nothing that a carrier node has taken from its outboxes waits for an outcome.
    fn is_told(&self, number: usize) -> bool {
        let Ok(answer) = Client::new(self.nodes[number].address, "").try_send("GET /metrics", &[], b"") else {
            return false;
        };
        let text = answer.text();
        let mut unsettled = text.lines().filter(|line| line.starts_with("sluice_outbox_unsettled{")).peekable();
        unsettled.peek().is_some() && unsettled.all(|line| line.ends_with(" 0"))
    }

    /// What every node says of how far it is.
    fn lags(&self) -> String {
        let mut said = String::new();
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            said.extend([&node.name, ":\n"]);
            let Ok(answer) = Client::new(node.address, "").try_send("GET /metrics", &[], b"") else { continue };
            let of_lag = |line: &&str| {
                let wanted = ["sluice_lag", "sluice_fold_lag", "sluice_owner_partitions", "sluice_outbox_unsettled"];
                wanted.iter().any(|name| line.starts_with(name))
            };
            answer.text().lines().filter(of_lag).for_each(|line| said.extend(["  ", line, "\n"]));
        }
        said
    }

    /// The value of a node's metric, by its whole name with labels; `None` if it isn't shown.
    pub fn metric(&self, number: usize, name: &str) -> Option<f64> {
        let answer = Client::new(self.nodes[number].address, "").try_send("GET /metrics", &[], b"").ok()?;
        answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Merchant m-1 at a node.
    pub fn client(&self, number: usize) -> Client {
        Client::new(self.nodes[number].address, "key-1")
    }
}

fn ready(folder: &Path, node: &Node) -> PathBuf {
    folder.join(format!("{}-{}.ready", node.name, node.starts))
}

impl Court for Cluster {
    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn address(&self) -> SocketAddr {
        let up: Vec<usize> = self.of("status").into_iter().filter(|&number| self.is_up(number)).collect();
        self.nodes[up[self.asked.fetch_add(1, Relaxed) % up.len()]].address
    }

    fn ledger(&self) -> Ledger {
        self.carriers.ledger()
    }

    fn lags(&self) -> bool {
        true
    }
}

/// Logs are what a failed test is understood by: they are kept if `SLUICE_KEEP_LOGS` names a folder.
impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(kept) = std::env::var_os("SLUICE_KEEP_LOGS").filter(|_| std::thread::panicking()) else { return };
        // Stopped processes can't be waited for by anything but a kill, which their own drop does.
        let copied =
            Command::new("cp").arg("-r").arg(self.folder.path()).arg(Path::new(&kept).join(&self.name)).status();
        eprintln!("logs of {} kept: {copied:?}", self.name);
    }
}
