//! Why a broker or a store could not be had; each variant says what to install or set.

use std::path::PathBuf;
use std::time::Duration;

/// What is missing for a Kafka broker or a CQL store to be up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// A program that the JVM processes need is not there.
    #[error(
        "{program} is not installed ({purpose}): install {install}, or start a container engine, or set \
         SLUICE_TEST_KAFKA and SLUICE_TEST_STORE to the addresses of running servers"
    )]
    Program {
        /// Name of the program, as it is looked up in `PATH`.
        program: &'static str,
        /// What it is needed for.
        purpose: &'static str,
        /// What to install.
        install: &'static str,
    },
    /// Java is there in a version that a server does not run on.
    #[error("{server} needs {needed}; found Java {found}: install it and set JAVA_HOME to it")]
    JavaVersion {
        /// Name of the server.
        server: &'static str,
        /// Version that the server runs on.
        needed: &'static str,
        /// Major version found.
        found: u32,
    },
    /// Maven could not fetch a server's jars.
    #[error("fetching the jars of {server} with Maven failed ({status}); its output ends:\n{tail}")]
    Fetch {
        /// Name of the server.
        server: &'static str,
        /// How Maven ended.
        status: String,
        /// Last lines of Maven's output.
        tail: String,
    },
    /// The server's process ended before it accepted requests.
    #[error("{server} ended while starting ({status}); its log {log} ends:\n{tail}")]
    Died {
        /// Name of the server.
        server: &'static str,
        /// How the process ended.
        status: String,
        /// Path of the log (gone with a temporary folder).
        log: PathBuf,
        /// Last lines of the log.
        tail: String,
    },
    /// The server did not accept requests in time.
    #[error("{server} at {address} accepted no request within {after:?}: {last}\n{tail}")]
    NotReady {
        /// Name of the server.
        server: &'static str,
        /// Address that was asked.
        address: String,
        /// How long it was asked.
        after: Duration,
        /// Outcome of the last request.
        last: String,
        /// Last lines of the server's log, empty if there is none to read.
        tail: String,
    },
    /// The container engine answers, yet it can't run the server.
    #[error("{server} could not be run in a container: {source}")]
    Container {
        /// Name of the server.
        server: &'static str,
        /// What the engine said.
        #[source]
        source: testcontainers::TestcontainersError,
    },
    /// The server was not started here, so it can't be started again here.
    #[error("{server} was given by address and is not controlled from here")]
    NotOurs {
        /// Name of the server.
        server: &'static str,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// Gives an I/O error the context that a reader needs.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Missing {
    let what = what.into();
    move |source| Missing::Io { what, source }
}
