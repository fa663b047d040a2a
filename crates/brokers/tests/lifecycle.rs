//! The brokers come up, survive kills on the same ports with their data, and leave no process behind.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests say what must hold")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sluice_brokers::{Brokers, Missing, Options};

/// Set in the child that `nothing_outlives_a_killed_parent` kills.
const CHILD: &str = "SLUICE_BROKERS_CHILD";

fn small(folder: Option<&Path>) -> Options {
    Options { kafka_heap_mb: 512, store_heap_mb: 1024, folder: folder.map(Path::to_owned), ..Options::default() }
}

/// `None`, with a word on standard error, when this machine can't run them.
fn start(options: &Options) -> Option<Brokers> {
    match Brokers::start(options) {
        Ok(brokers) => Some(brokers),
        Err(missing @ (Missing::Program { .. } | Missing::JavaVersion { .. } | Missing::Fetch { .. })) => {
            sluice_brokers::skipped(missing);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn runs(pid: u32) -> bool {
    // A zombie is gone: it only waits for its parent to read how it ended.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Ids of the processes whose command line names `folder`: servers and watchdogs alike.
fn naming(folder: &Path) -> Vec<u32> {
    let folder = folder.to_str().expect("a path in UTF-8");
    let entries = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(folder)
    })
    .collect()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends one CQL statement on a connection of its own; the answer's opcode and body.
fn cql(address: &str, statement: &str) -> (u8, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("connect to the store");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a read timeout");
    let mut startup = 1_u16.to_be_bytes().to_vec();
    for text in ["CQL_VERSION", "3.0.0"] {
        startup.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
        startup.extend(text.as_bytes());
    }
    assert_eq!(frame(&mut stream, 0x01, &startup).0, 0x02, "READY");
    let mut query = u32::try_from(statement.len()).expect("short").to_be_bytes().to_vec();
    query.extend(statement.as_bytes());
    // Consistency ONE, no flags.
    query.extend([0, 1, 0]);
    frame(&mut stream, 0x07, &query)
}

fn frame(stream: &mut TcpStream, opcode: u8, body: &[u8]) -> (u8, Vec<u8>) {
    let mut frame = vec![0x04, 0, 0, 0, opcode];
    frame.extend(u32::try_from(body.len()).expect("short").to_be_bytes());
    frame.extend(body);
    stream.write_all(&frame).expect("write a frame");
    let mut header = [0; 9];
    stream.read_exact(&mut header).expect("a frame's header");
    let length = u32::from_be_bytes(header[5..].try_into().expect("4 bytes"));
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).expect("a frame's body");
    (header[4], body)
}

fn run(address: &str, statement: &str) -> Vec<u8> {
    let (opcode, body) = cql(address, statement);
    assert_eq!(opcode, 0x08, "{statement}: {}", String::from_utf8_lossy(&body));
    body
}

#[test]
fn both_survive_kills_and_leave_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(mut brokers) = start(&small(Some(folder.path()))) else { return };
    if !brokers.can_kill() {
        sluice_brokers::skipped(format_args!("{} can't be killed from here", brokers.describe()));
        return;
    }
    let (kafka, store) = (brokers.kafka().to_owned(), brokers.store().to_owned());
    let before = brokers.pids();
    assert!(before.iter().all(|pid| runs(*pid)));
    TcpStream::connect(&kafka).expect("Kafka accepts connections");
    run(&store, "CREATE KEYSPACE k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}");
    run(&store, "CREATE TABLE k.t (id int PRIMARY KEY, text text)");
    run(&store, "INSERT INTO k.t (id, text) VALUES (1, 'kept through a kill')");
    // The commit log marks what was written every 100 ms; the kill must find the row marked.
    let clock = Instant::now();
    eventually("time passes", || clock.elapsed() > Duration::from_millis(500));

    brokers.kill_kafka();
    brokers.kill_store();
    assert!(before.iter().all(|pid| !runs(*pid)), "killed processes are gone on return");
    assert!(brokers.pids().is_empty());
    assert!(TcpStream::connect(&kafka).is_err() && TcpStream::connect(&store).is_err());

    brokers.start_kafka().expect("Kafka starts again");
    brokers.start_store().expect("the store starts again");
    assert_eq!((brokers.kafka(), brokers.store()), (kafka.as_str(), store.as_str()), "same addresses");
    let rows = run(&store, "SELECT text FROM k.t WHERE id = 1");
    assert!(String::from_utf8_lossy(&rows).contains("kept through a kill"), "the store keeps its data");

    drop(brokers);
    eventually("no process is left after drop", || naming(folder.path()).is_empty());
}

#[test]
fn nothing_outlives_a_killed_parent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = std::env::current_exe().expect("this program's path");
    let mut child = Command::new(program)
        .args(["--exact", "child_waits_to_be_killed", "--nocapture", "--ignored"])
        .env(CHILD, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the child");
    let output = BufReader::new(child.stdout.take().expect("the child's output"));
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains("brokers are up"));
    let running = naming(folder.path());
    child.kill().expect("kill the child");
    child.wait().expect("wait for the child");
    if !ready || running.is_empty() {
        sluice_brokers::skipped("the child started no process of its own");
        return;
    }
    eventually("no process outlives its parent", || naming(folder.path()).is_empty());
}

/// Not a test of its own: the process that the test above kills.
#[test]
#[ignore = "run by another test"]
fn child_waits_to_be_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let Some(_brokers) = start(&Options { with_store: false, ..small(Some(Path::new(&folder))) }) else { return };
    println!("brokers are up");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
