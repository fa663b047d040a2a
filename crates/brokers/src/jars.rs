//! Fetches the two servers' jars with Maven, once for each version, into a cache that many processes share.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Missing;
use crate::error::io;
use crate::process::{Process, tail};

/// Names both servers' versions; part of the program, so an installed binary needs no source tree.
const POM: &str = include_str!("../jvm/pom.xml");
/// Longest fetch: some 100 MiB over a slow line.
const FETCH: Duration = Duration::from_secs(900);

/// The folder that holds the jars of `profile` (a profile of the POM), fetched if they aren't there yet.
///
/// Two processes may fetch at once: each fetches into a folder of its own, and the first rename wins.
pub(crate) fn of(server: &'static str, profile: &str) -> Result<PathBuf, Missing> {
    let root = cache()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(POM.as_bytes());
    let folder = root.join(format!("jvm-{:016x}", hasher.finish()));
    let jars = folder.join(profile);
    if jars.is_dir() {
        return Ok(jars);
    }
    std::fs::create_dir_all(&folder).map_err(io(format!("creating the cache {}", folder.display())))?;
    let scratch = tempfile::Builder::new().prefix(".fetching-").tempdir_in(&folder);
    let scratch = scratch.map_err(io(format!("creating a folder in the cache {}", folder.display())))?;
    let fetched = fetch(server, profile, scratch.path())?;
    match std::fs::rename(&fetched, &jars) {
        Ok(()) => Ok(jars),
        Err(_) if jars.is_dir() => Ok(jars),
        Err(error) => Err(io(format!("renaming {} to {}", fetched.display(), jars.display()))(error)),
    }
}

fn fetch(server: &'static str, profile: &str, scratch: &Path) -> Result<PathBuf, Missing> {
    let pom = scratch.join("pom.xml");
    std::fs::write(&pom, POM).map_err(io(format!("writing {}", pom.display())))?;
    let jars = scratch.join("jars");
    let log = scratch.join("maven.log");
    if Command::new("mvn").arg("-version").output().is_err() {
        return Err(Missing::Program {
            program: "mvn",
            purpose: "it fetches Apache Kafka and Apache Cassandra",
            install: "Apache Maven",
        });
    }
    tracing::info!(server, "fetching jars with Maven");
    let mut maven = Command::new("mvn");
    maven.args(["-B", "-ntp", "-P", profile, "dependency:copy-dependencies", "-DincludeScope=runtime", "-f"]);
    maven.arg(&pom).arg(format!("-DoutputDirectory={}", jars.display())).current_dir(scratch);
    let mut maven = Process::spawn("Maven", &maven, &log)?;
    match maven.wait(FETCH) {
        Some(status) if status.success() && jars.is_dir() => Ok(jars),
        status => Err(Missing::Fetch {
            server,
            status: status.map_or_else(|| format!("still running after {FETCH:?}"), |status| status.to_string()),
            tail: tail(&log),
        }),
    }
}

/// `$SLUICE_CACHE`, else `sluice` in the user's cache folder.
fn cache() -> Result<PathBuf, Missing> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("SLUICE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("sluice")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/sluice")))
        .map(|folder| std::path::absolute(&folder).unwrap_or(folder))
        .ok_or_else(|| io("finding the cache folder")(std::io::Error::other("neither SLUICE_CACHE nor HOME is set")))
}
