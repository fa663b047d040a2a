//! The two servers as containers, when a container engine answers.

use std::future::Future;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::KillContainerOptions;
use testcontainers::core::IntoContainerPort;
use testcontainers::core::client::{ClientError, docker_client_instance};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt, TestcontainersError};
use tokio::runtime::{Builder, Runtime};

use crate::Missing;
use crate::jvm::{Kind, SERVER_PROPERTIES};
use crate::{poll, ports, probe};

/// How long the engine may take to say that it is there.
const PING: Duration = Duration::from_secs(2);
/// Longest start of a container whose image is already here.
const START: Duration = Duration::from_secs(180);

/// Removes the container `$0` unless a line comes before the end of the pipe, whose other end only this process holds: it may
/// be killed, or end with the container in a static, which nothing drops.
const WATCH: &str = "read -r _ || docker rm --force --volumes \"$0\"";

const KAFKA_TAG: &str = "4.1.1";
const SCYLLA_TAG: &str = "2025.4.2";

/// A container engine that answers, and the runtime that its client's connections live on.
#[derive(Clone)]
pub(crate) struct Engine(Arc<Shared>);

struct Shared {
    docker: Docker,
    runtime: Background,
}

/// A runtime that may be dropped anywhere: the plain drop waits, which panics inside another runtime.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Background {
    /// Runs `work` to its end, from inside another runtime too: on a thread of its own.
    fn run<T: Send>(&self, work: impl Future<Output = T> + Send) -> Option<T> {
        let runtime = self.0.as_ref()?;
        std::thread::scope(|scope| match scope.spawn(|| runtime.block_on(work)).join() {
            Ok(done) => Some(done),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Engine {
    /// The engine that `DOCKER_HOST` or the usual sockets lead to, if it answers within 2 s.
    pub(crate) fn answering() -> Option<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().ok()?;
        let runtime = Background(Some(runtime));
        let docker = runtime.run(async {
            let ask = async {
                let docker = docker_client_instance().await.ok()?;
                docker.ping().await.ok()?;
                Some(docker)
            };
            tokio::time::timeout(PING, ask).await.ok().flatten()
        });
        let docker = docker.flatten();
        if docker.is_none() {
            tracing::info!("no container engine answers");
        }
        Some(Self(Arc::new(Shared { docker: docker?, runtime })))
    }

    fn run<T: Send>(
        &self,
        kind: Kind,
        work: impl Future<Output = Result<T, TestcontainersError>> + Send,
    ) -> Result<T, Missing> {
        let gone = || TestcontainersError::other("the container client's runtime is gone");
        self.0
            .runtime
            .run(work)
            .unwrap_or_else(|| Err(gone()))
            .map_err(|source| Missing::Container { server: name(kind), source })
    }
}

/// A container of ours, removed on drop, and however else this process ends if there is a `docker` command.
pub(crate) struct Container {
    kind: Kind,
    engine: Engine,
    address: String,
    /// `None` only while it is dropped.
    container: Option<ContainerAsync<GenericImage>>,
    watchdog: Option<Child>,
}

impl Container {
    /// Runs the pinned image (fetched by the engine if need be) and waits until the server accepts requests.
    pub(crate) fn start(kind: Kind, engine: Engine, memory_mb: u32) -> Result<Self, Missing> {
        let [port, controller] = ports::free()?;
        let request = match kind {
            Kind::Kafka => kafka(port, controller, memory_mb),
            Kind::Cassandra => scylla(port, memory_mb),
        };
        let container = engine.run(kind, request.start())?;
        let watchdog = watch(container.id());
        let address = format!("127.0.0.1:{port}");
        let container = Self { kind, engine, address, container: Some(container), watchdog };
        container.await_ready()?;
        Ok(container)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn describe(&self) -> String {
        match self.kind {
            Kind::Kafka => format!("Apache Kafka {KAFKA_TAG}"),
            Kind::Cassandra => format!("ScyllaDB {SCYLLA_TAG}"),
        }
    }

    /// Kills the container's processes (SIGKILL); its file system stays.
    pub(crate) fn kill(&mut self) {
        let Some(container) = &self.container else { return };
        let docker = &self.engine.0.docker;
        let kill = async {
            let killed = docker.kill_container(container.id(), None::<KillContainerOptions>).await;
            killed.map_err(|error| TestcontainersError::Client(ClientError::StopContainer(error)))
        };
        if let Err(error) = self.engine.run(self.kind, kill) {
            tracing::warn!(%error, "killing a container");
        }
    }

    /// Starts a killed container again and waits until the server accepts requests.
    pub(crate) fn restart(&mut self) -> Result<(), Missing> {
        if let Some(container) = &self.container {
            self.engine.run(self.kind, container.start())?;
        }
        self.await_ready()
    }

    fn await_ready(&self) -> Result<(), Missing> {
        match self.kind {
            Kind::Kafka => poll(name(self.kind), &self.address, START, probe::kafka),
            Kind::Cassandra => poll(name(self.kind), &self.address, START, probe::cql),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(container) = self.container.take()
            && let Err(error) = self.engine.run(self.kind, container.rm())
        {
            tracing::warn!(%error, "removing a container");
        }
        if let Some(mut watchdog) = self.watchdog.take() {
            // It may have ended by itself.
            let _ = watchdog.stdin.take().map(|mut pipe| pipe.write_all(b"\n"));
            let _ = watchdog.wait();
        }
    }
}

/// `None`: it can't be started, and the container is removed on drop alone.
fn watch(id: &str) -> Option<Child> {
    let mut shell = Command::new("sh");
    shell.args(["-c", WATCH, id]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: an interrupt at the terminal is for this process.
    shell.process_group(0).spawn().ok()
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Kafka => "Apache Kafka",
        Kind::Cassandra => "ScyllaDB",
    }
}

/// Kafka with the same settings as the JVM process, which the image takes as variables.
///
/// The port is the same inside and outside, so that the address that clients are told is right for the broker too:
/// it writes transactions' markers to itself through that address.
fn kafka(port: u16, controller: u16, heap_mb: u32) -> ContainerRequest<GenericImage> {
    let properties = SERVER_PROPERTIES
        .replace("listeners=PLAINTEXT://127.0.0.1:@PORT@,", "listeners=PLAINTEXT://0.0.0.0:@PORT@,")
        .replace("@PORT@", &port.to_string())
        .replace("@CONTROLLER_PORT@", &controller.to_string())
        .replace("@FOLDER@", "/tmp/sluice");
    let mut request = GenericImage::new("apache/kafka", KAFKA_TAG)
        .with_mapped_port(port, port.tcp())
        .with_env_var("KAFKA_HEAP_OPTS", format!("-Xms{heap_mb}m -Xmx{heap_mb}m"));
    for (key, value) in settings(&properties) {
        request = request.with_env_var(key, value);
    }
    request
}

/// One shard; the address that drivers are told is the one that they can reach.
fn scylla(port: u16, memory_mb: u32) -> ContainerRequest<GenericImage> {
    let memory = format!("{}M", memory_mb.max(1024));
    GenericImage::new("scylladb/scylla", SCYLLA_TAG).with_mapped_port(port, 9042.tcp()).with_cmd([
        "--smp",
        "1",
        "--memory",
        &memory,
        "--overprovisioned",
        "1",
        "--developer-mode",
        "1",
        "--broadcast-rpc-address",
        "127.0.0.1",
        "--batch-size-warn-threshold-in-kb",
        "8192",
        "--batch-size-fail-threshold-in-kb",
        "10240",
    ])
}

/// `a.b=c` as the image's variable `KAFKA_A_B` with the value `c`.
fn settings(properties: &str) -> impl Iterator<Item = (String, &str)> {
    properties.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        Some((format!("KAFKA_{}", key.replace('.', "_").to_uppercase()), value))
    })
}

#[cfg(test)]
mod tests {
    //! What can be checked without an engine: the settings that the image is given.
    use super::*;

    #[test]
    fn settings_are_the_images_variables() {
        let text = "# a comment=1\n\nauto.create.topics.enable=false\nlisteners=A://0.0.0.0:1,B://127.0.0.1:2\n";
        let found: Vec<_> = settings(text).collect();
        assert_eq!(found[0], ("KAFKA_AUTO_CREATE_TOPICS_ENABLE".to_owned(), "false"));
        assert_eq!(found[1], ("KAFKA_LISTENERS".to_owned(), "A://0.0.0.0:1,B://127.0.0.1:2"));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn every_setting_can_be_a_variable() {
        assert!(settings(SERVER_PROPERTIES).count() > 20);
        assert!(settings(SERVER_PROPERTIES).all(|(key, _)| !key.contains(['-', '@']) && !key.contains("__")));
    }
}
