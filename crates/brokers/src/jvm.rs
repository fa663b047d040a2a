//! The two servers as plain JVM processes, for machines without a container engine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::io;
use crate::process::Process;
use crate::secured::Secured;
use crate::{Missing, Options};
use crate::{jars, ports, probe, process};

pub(crate) const SERVER_PROPERTIES: &str = include_str!("../jvm/server.properties");
const LOG4J2: &str = include_str!("../jvm/log4j2.properties");
const CASSANDRA_YAML: &str = include_str!("../jvm/cassandra.yaml");
const CASSANDRA_OPTIONS: &str = include_str!("../jvm/cassandra.options");
const LOGBACK: &str = include_str!("../jvm/logback.xml");

/// What was acknowledged outlives kill -9 of a single node.
const SYNC_BEFORE_ANSWER: &str = "commitlog_sync: group\ncommitlog_sync_group_window: 5ms";
/// Cassandra's default: what was acknowledged outlives the loss of a node because others have it.
const SYNC_NOW_AND_THEN: &str = "commitlog_sync: periodic\ncommitlog_sync_period: 10000ms";

/// Any 16 bytes in base64: one cluster never meets another.
const CLUSTER: &str = "c2x1aWNlLXRlc3QtMDAwMQ";
/// Longest start: two JVMs on two busy cores, with data to recover.
const START: Duration = Duration::from_secs(180);
/// Longest orderly stop; a kill follows.
const STOP: Duration = Duration::from_secs(20);

/// Which of the two servers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Apache Kafka, one combined controller and broker.
    Kafka,
    /// Apache Cassandra, one node.
    Cassandra,
}

impl Kind {
    /// The program that runs as a JVM process.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "Apache Kafka",
            Self::Cassandra => "Apache Cassandra",
        }
    }

    const fn profile(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Cassandra => "cassandra",
        }
    }

    /// The jar whose name ends with the server's version.
    const fn jar(self) -> &'static str {
        match self {
            Self::Kafka => "kafka_2.13-",
            Self::Cassandra => "cassandra-all-",
        }
    }
}

/// One server: its configuration stays while its process comes and goes.
pub(crate) struct Jvm {
    kind: Kind,
    address: String,
    behind_proxy: Option<String>,
    /// Where to look whether it is ready; the store is asked as a client that has to log in.
    probed: String,
    secured: Option<Secured>,
    version: String,
    command: Command,
    log: PathBuf,
    process: Option<Process>,
    /// Keeps others from rewriting the configuration while this is ours.
    _lock: File,
}

impl Jvm {
    /// Prepares `folder` (its data is kept if it has any), and starts the server. Kafka also listens for a proxy if there
    /// is one at this port and it isn't secured.
    pub(crate) fn start(
        kind: Kind,
        folder: &Path,
        heap_mb: u32,
        options: &Options,
        secured: Option<&Secured>,
    ) -> Result<Self, Missing> {
        let java = java(kind)?;
        let jars = jars::of(kind.name(), kind.profile())?;
        let folder = std::path::absolute(folder.join(kind.profile())).map_err(io("making a path absolute"))?;
        std::fs::create_dir_all(&folder).map_err(io(format!("creating {}", folder.display())))?;
        let lock = File::create(folder.join("lock")).map_err(io(format!("creating a lock in {}", folder.display())))?;
        process::lock(&lock, &folder)?;
        let ports = ports_of(&folder)?;
        let proxy = options.kafka_proxy.filter(|_| kind == Kind::Kafka && secured.is_none());
        let command = match kind {
            Kind::Kafka => kafka(&java, &jars, &folder, heap_mb, ports, proxy, secured)?,
            Kind::Cassandra => cassandra(&java, &jars, &folder, (heap_mb, options.store_synced), ports, secured)?,
        };
        let probed = if kind == Kind::Kafka && secured.is_some() { ports[2] } else { ports[0] };
        let mut jvm = Self {
            kind,
            address: format!("127.0.0.1:{}", ports[0]),
            behind_proxy: proxy.map(|_| format!("127.0.0.1:{}", ports[2])),
            probed: format!("127.0.0.1:{probed}"),
            secured: secured.cloned(),
            version: version(kind, &jars),
            command,
            log: folder.join(format!("{}.log", kind.profile())),
            process: None,
            _lock: lock,
        };
        jvm.run()?;
        Ok(jvm)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn behind_proxy(&self) -> Option<&str> {
        self.behind_proxy.as_deref()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub(crate) fn describe(&self) -> String {
        match self.kind {
            Kind::Kafka => format!("Apache Kafka {}", self.version),
            Kind::Cassandra => format!("Apache Cassandra {} in place of ScyllaDB", self.version),
        }
    }

    /// Starts the process if it isn't running and waits until it serves.
    pub(crate) fn run(&mut self) -> Result<(), Missing> {
        if let Some(process) = &mut self.process
            && process.wait(Duration::ZERO).is_none()
        {
            return Ok(());
        }
        let mut process = Process::spawn(self.kind.name(), &self.command, &self.log)?;
        process.await_ready(&self.address, START, || match (self.kind, &self.secured) {
            (Kind::Kafka, _) => probe::kafka(&self.probed),
            (Kind::Cassandra, None) => probe::cql(&self.probed),
            (Kind::Cassandra, Some(secured)) => secured.admit(&self.probed),
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills the process (SIGKILL) and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Asks the process to end, without waiting.
    pub(crate) fn ask_to_end(&mut self) {
        if let Some(process) = &mut self.process {
            process.ask_to_end();
        }
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        self.ask_to_end();
        if let Some(mut process) = self.process.take() {
            process.wait(STOP);
        }
    }
}

/// The client's port and two more, as they were when the folder was last used, unless somebody took one since.
fn ports_of(folder: &Path) -> Result<[u16; 3], Missing> {
    let file = folder.join("ports");
    if let Ok(text) = std::fs::read_to_string(&file) {
        let known: Vec<u16> = text.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        if let Ok(ports) = <[u16; 3]>::try_from(known)
            && ports.iter().all(|port| ports::is_free(*port))
        {
            return Ok(ports);
        }
    }
    let ports = ports::free()?;
    write(&file, &ports.map(|port| port.to_string()).join(" "))?;
    Ok(ports)
}

fn kafka(
    java: &Path,
    jars: &Path,
    folder: &Path,
    heap_mb: u32,
    ports: [u16; 3],
    proxy: Option<u16>,
    secured: Option<&Secured>,
) -> Result<Command, Missing> {
    let properties = folder.join("server.properties");
    let text = secured.map_or_else(
        || with_proxy(SERVER_PROPERTIES, proxy.map(|port| (ports[2], port))),
        |secured| secured.kafka(SERVER_PROPERTIES, ports[2]),
    );
    let text = text
        .replace("@PORT@", &ports[0].to_string())
        .replace("@CONTROLLER_PORT@", &ports[1].to_string())
        .replace("@FOLDER@", &folder.display().to_string());
    write(&properties, &text)?;
    let log4j2 = folder.join("log4j2.properties");
    write(&log4j2, LOG4J2)?;
    let base = |heap_mb: u32| {
        let mut command = Command::new(java);
        command.args([format!("-Xms{heap_mb}m"), format!("-Xmx{heap_mb}m")]);
        command.args(["-XX:-UsePerfData", "-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true"]);
        command.arg(format!("-Dlog4j2.configurationFile={}", log4j2.display()));
        command.arg("-cp").arg(jars.join("*")).current_dir(folder);
        command
    };
    let log = folder.join("format.log");
    let mut format = base(128);
    format.args(["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER, "-c"]).arg(&properties);
    if let Some(secured) = secured {
        format.args(["--add-scram", &secured.scram()]);
    }
    let mut format = Process::spawn(Kind::Kafka.name(), &format, &log)?;
    match format.wait(START) {
        Some(status) if status.success() => {}
        status => {
            return Err(Missing::Died {
                server: Kind::Kafka.name(),
                status: status.map_or_else(|| "still formatting its folder".to_owned(), |status| status.to_string()),
                tail: process::tail(&log),
                log,
            });
        }
    }
    let mut command = base(heap_mb);
    command.args(["-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExitOnOutOfMemoryError"]);
    command.arg("kafka.Kafka").arg(&properties);
    Ok(command)
}

/// The properties with a listener on the first port that tells clients of the second.
fn with_proxy(properties: &str, ports: Option<(u16, u16)>) -> String {
    let Some((port, advertised)) = ports else { return properties.to_owned() };
    let line = |line: &str| match line.split_once('=') {
        Some(("listeners", _)) => format!("{line},PROXIED://127.0.0.1:{port}\n"),
        Some(("advertised.listeners", _)) => format!("{line},PROXIED://127.0.0.1:{advertised}\n"),
        Some(("listener.security.protocol.map", _)) => format!("{line},PROXIED:PLAINTEXT\n"),
        _ => format!("{line}\n"),
    };
    properties.lines().map(line).collect()
}

fn cassandra(
    java: &Path,
    jars: &Path,
    folder: &Path,
    (heap_mb, synced): (u32, bool),
    ports: [u16; 3],
    secured: Option<&Secured>,
) -> Result<Command, Missing> {
    let yaml = folder.join("cassandra.yaml");
    let text = secured.map_or_else(|| CASSANDRA_YAML.to_owned(), |secured| secured.cassandra(CASSANDRA_YAML));
    let text = text
        .replace("@COMMITLOG_SYNC@", if synced { SYNC_BEFORE_ANSWER } else { SYNC_NOW_AND_THEN })
        .replace("@CQL_PORT@", &ports[0].to_string())
        .replace("@STORAGE_PORT@", &ports[1].to_string())
        .replace("@SSL_STORAGE_PORT@", &ports[2].to_string())
        .replace("@FOLDER@", &folder.display().to_string());
    write(&yaml, &text)?;
    let logback = folder.join("logback.xml");
    write(&logback, LOGBACK)?;
    let mut command = Command::new(java);
    command.args([format!("-Xms{heap_mb}m"), format!("-Xmx{heap_mb}m")]);
    // Measures the memory of objects, which bounds memtables and caches.
    command.arg(format!("-javaagent:{}", named(jars, "jamm-").unwrap_or_default().display()));
    command.args(CASSANDRA_OPTIONS.lines().filter(|line| !line.is_empty()));
    command.arg(format!("-Dcassandra.config=file://{}", yaml.display()));
    command.arg(format!("-Dcassandra.storagedir={}", folder.display()));
    command.arg(format!("-Dcassandra.logdir={}", folder.display()));
    command.arg(format!("-Dlogback.configurationFile={}", logback.display()));
    command.arg("-cp").arg(jars.join("*")).current_dir(folder);
    command.arg("org.apache.cassandra.service.CassandraDaemon");
    Ok(command)
}

/// The program `java`, of a version that the server runs on.
fn java(kind: Kind) -> Result<PathBuf, Missing> {
    let java = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let java = java.filter(|java| java.is_file()).unwrap_or_else(|| PathBuf::from("java"));
    let output = Command::new(&java).arg("-version").output().map_err(|_| Missing::Program {
        program: "java",
        purpose: "it runs Apache Kafka and Apache Cassandra",
        install: "a Java 17 runtime",
    })?;
    // `openjdk version "17.0.15" 2025-04-15`, on standard error.
    let text = String::from_utf8_lossy(&output.stderr);
    let major = text.split('"').nth(1).and_then(|version| version.split(['.', '-', '+']).next()?.parse().ok());
    match (kind, major) {
        (Kind::Kafka, Some(found @ ..17)) => {
            Err(Missing::JavaVersion { server: kind.name(), needed: "Java 17 or newer", found })
        }
        (Kind::Cassandra, Some(found)) if found != 17 => {
            Err(Missing::JavaVersion { server: kind.name(), needed: "Java 17", found })
        }
        _ => Ok(java),
    }
}

/// The version in the name of the server's own jar.
fn version(kind: Kind, jars: &Path) -> String {
    let jar = named(jars, kind.jar()).unwrap_or_default();
    let stem = jar.file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_prefix(kind.jar()).unwrap_or("of unknown version").to_owned()
}

fn named(jars: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(jars).ok()?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
}

fn write(path: &Path, text: &str) -> Result<(), Missing> {
    std::fs::write(path, text).map_err(io(format!("writing {}", path.display())))
}
