//! A server's process: started, waited for, killed, and never left behind.
//!
//! The process must end even when this one is killed with SIGKILL and runs no destructor. `PR_SET_PDEATHSIG` fires
//! when the *thread* that spawned the child ends, which here may be a test's thread long before the test program
//! ends, and setting it needs unsafe code. So each server gets a watchdog: a shell that waits on a pipe whose other
//! end only this process holds. End of file means that this process is gone, however it went: the watchdog kills the
//! server. The shell then becomes the server by `exec`, so the child's id is the server's.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Missing;
use crate::error::io;

/// A line on the pipe means that the server was already waited for: its id may be another's by now.
const WATCHED: &str = r#"exec 3<&0
(read -r _ <&3 || kill -9 $$) >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-"#;

/// Removes a folder at the end of a pipe; a server that its own watchdog is just killing may still write for a moment.
const SWEEP: &str = r#"read -r _
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" 2>/dev/null && exit; sleep 0.3; done"#;

/// How long another process may take to leave a folder, say one that its watchdog is just killing.
const LEAVE: Duration = Duration::from_secs(10);
/// How often a process or a server is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(20);

/// A running process with its watchdog. Dropping it kills it at once.
pub(crate) struct Process {
    child: Child,
    watchdog: Option<ChildStdin>,
    log: PathBuf,
    server: &'static str,
}

impl Process {
    /// Runs `program` with its output appended to `log`; `server` is its name in errors.
    pub(crate) fn spawn(server: &'static str, program: &Command, log: &Path) -> Result<Self, Missing> {
        let output = OpenOptions::new().create(true).append(true).open(log);
        let output = output.map_err(io(format!("opening {}", log.display())))?;
        lock(&output, log)?;
        let errors = output.try_clone().map_err(io("duplicating the log's descriptor"))?;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(WATCHED).arg("sh").arg(program.get_program()).args(program.get_args());
        for (key, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        if let Some(folder) = program.get_current_dir() {
            shell.current_dir(folder);
        }
        shell.stdin(Stdio::piped()).stdout(output).stderr(errors);
        // A group of its own: an interrupt at the terminal reaches this process alone, which then stops the server.
        shell.process_group(0);
        let mut child = shell.spawn().map_err(io(format!("starting {server}")))?;
        let watchdog = child.stdin.take();
        Ok(Self { child, watchdog, log: log.to_owned(), server })
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` succeeds, `bound` at most; an early end of the process is an error with its log's tail.
    pub(crate) fn await_ready(
        &mut self,
        address: &str,
        bound: Duration,
        ready: impl Fn() -> Result<(), std::io::Error>,
    ) -> Result<(), Missing> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(io("waiting for a server"))? {
                self.dismiss();
                return Err(Missing::Died {
                    server: self.server,
                    status: status.to_string(),
                    log: self.log.clone(),
                    tail: tail(&self.log),
                });
            }
            match ready() {
                Ok(()) => return Ok(()),
                Err(last) if start.elapsed() > bound => {
                    return Err(Missing::NotReady {
                        server: self.server,
                        address: address.to_owned(),
                        after: bound,
                        last: last.to_string(),
                        tail: tail(&self.log),
                    });
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// Asks the process to end (SIGTERM), without waiting.
    pub(crate) fn ask_to_end(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // Not yet waited for, so the id is still this process's, be it a zombie.
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits for the process to end, `bound` at most; `None` when it still runs.
    pub(crate) fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.dismiss();
                    return Some(status);
                }
                Ok(None) if start.elapsed() < bound => std::thread::sleep(POLL),
                _ => return None,
            }
        }
    }

    /// Ends the process at once (SIGKILL) and waits for it.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.dismiss();
    }

    /// Ends the watchdog of a process that was waited for.
    fn dismiss(&mut self) {
        if let Some(mut pipe) = self.watchdog.take() {
            let _ = pipe.write_all(b"\n");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A temporary folder that is removed when this is dropped, and however else this process ends.
pub(crate) struct Temporary {
    folder: PathBuf,
    sweeper: Child,
}

impl Temporary {
    pub(crate) fn new() -> Result<Self, Missing> {
        let folder = tempfile::Builder::new().prefix("sluice-brokers-").tempdir();
        let folder = folder.map_err(io("creating a temporary folder"))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", SWEEP, "sh"]).arg(folder.path()).stdin(Stdio::piped()).process_group(0);
        let sweeper = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(io("starting a shell"))?;
        Ok(Self { folder: folder.keep(), sweeper })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
    }
}

/// Locks `file` for as long as it is open; `path` is what is named when another process holds it.
///
/// A server inherits its open log, and with it the lock, so the folder stays locked when only this process ends. Two
/// Cassandras on one folder would ruin each other's data; it doesn't look for another one itself.
pub(crate) fn lock(file: &File, path: &Path) -> Result<(), Missing> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if start.elapsed() < LEAVE => std::thread::sleep(POLL),
            Err(error) => {
                let what = format!("locking {} (is another server running on this folder?)", path.display());
                return Err(io(what)(error.into()));
            }
        }
    }
}

/// The last lines of a file, 4 KiB at most; empty when it can't be read.
pub(crate) fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4096)..]);
    text.trim().to_owned()
}
