//! Child processes of the program under test. Each is ended by its own id, at the latest when its guard is dropped, so a
//! test that panics leaves nothing running; nor do tests that are killed: see [`WATCH`].

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use super::wait_for;

/// The program under test, built from the same sources as these tests.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-under-test");
/// Lines of a process's log shown when its test fails.
const SHOWN: usize = 30;

/// Ends the process `$0` unless a line comes before the end of the pipe, whose other end only the tests hold.
const WATCH: &str = "read -r _ || kill -KILL \"$0\"";

/// A running process, with everything it says in files.
pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    out: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it says goes to `{name}.out` and `{name}.log` in `folder`.
    pub fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let (out, log) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.log")));
        command.stdin(Stdio::piped()).stdout(File::create(&out).unwrap()).stderr(File::create(&log).unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, &child.id().to_string()]).stdin(Stdio::piped());
        // A group of its own: what an interrupt at the terminal ends are the tests.
        let watchdog = watch.process_group(0).spawn().unwrap();
        Self { name: name.to_owned(), child, watchdog, out, log }
    }

    /// Runs `command` to its end.
    pub fn run(command: Command, folder: &Path, name: &str) -> Ended {
        Self::start(command, folder, name).end()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.end()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends the signal of this name, such as STOP.
    pub fn signal(&self, signal: &str) {
        let command = format!("kill -{signal} \"$0\"");
        let sent = Command::new("sh").args(["-c", &command, &self.id().to_string()]).status().unwrap();
        assert!(sent.success(), "SIG{signal} to {}", self.name);
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let name = self.name.clone();
        let status = wait_for(&format!("the end of {name}"), || self.ended());
        Ended { code: status.code(), out: self.out(), log: self.log() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Only now may its id be another's.
        let _ = self.watchdog.stdin.as_mut().map(|pipe| pipe.write_all(b"\n"));
        let _ = self.watchdog.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            eprintln!("---- last lines of {}:\n{last}\n----", self.name);
        }
    }
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// `None`: by a signal.
    pub code: Option<i32>,
    pub out: String,
    pub log: String,
}

/// The program with these arguments, and nothing of this machine's configuration.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICE_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").args(arguments);
    command
}
