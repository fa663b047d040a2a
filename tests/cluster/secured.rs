//! A node and the commands against servers that ask for TLS, a certificate and a password. What is right works, what is
//! wrong is named by its setting, and no secret is ever shown.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use sluice_brokers::{Authority, Brokers, Missing, Options, Secured};
use tempfile::TempDir;

use crate::support::{
    carriers::Carriers,
    client::Client,
    cluster::section,
    orders::order,
    process::{Ended, Process, program},
    setup::{GOOD, Setup},
    wait_for,
};

/// Variables that the configurations name.
const KAFKA_PASSWORD: &str = "KAFKA_PASSWORD";
const CQL_PASSWORD: &str = "CQL_PASSWORD";

/// `[cluster.kafka]` and `[cluster.cql]`, line by line.
#[derive(Clone)]
struct Access {
    kafka: Vec<(&'static str, String)>,
    cql: Vec<(&'static str, String)>,
}

impl Access {
    /// Everything right: passwords of Kafka from the environment, of the store from a file.
    fn right(secured: &Secured, folder: &Path) -> Self {
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let file = folder.join("store.password");
        fs::write(&file, format!("{}\n", secured.store_password)).unwrap();
        let both = [
            ("tls", "true".to_owned()),
            ("ca_file", quoted(&secured.ca_file)),
            ("cert_file", quoted(&secured.cert_file)),
            ("key_file", quoted(&secured.key_file)),
            ("username", format!("{:?}", secured.username)),
        ];
        let with = |more: &[(&'static str, String)]| [&both[..], more].concat();
        Self {
            kafka: with(&[("sasl", "\"SCRAM-SHA-512\"".into()), ("password_env", format!("{KAFKA_PASSWORD:?}"))]),
            cql: with(&[("password_file", quoted(&file))]),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    fn text(&self) -> String {
        let lines = |lines: &[(&str, String)]| lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let (kafka, cql): (String, String) = (lines(&self.kafka), lines(&self.cql));
        format!("\n[cluster.kafka]\n{kafka}\n[cluster.cql]\n{cql}")
    }
}

/// Sets `key` of a section to `value`, or takes it away.
fn set(section: &mut Vec<(&'static str, String)>, key: &'static str, value: Option<&str>) {
    section.retain(|(other, _)| *other != key);
    section.extend(value.map(|value| (key, value.to_owned())));
}

struct Place {
    brokers: Brokers,
    secured: Secured,
    right: Access,
    carriers: Carriers,
    setup: Setup,
    folder: TempDir,
}

impl Place {
    /// `None`, with a word on standard error, if this machine can't run it.
    fn new() -> Option<Self> {
        let options = Options { kafka_heap_mb: 512, store_heap_mb: 768, secured: true, ..Options::default() };
        let brokers = match Brokers::start(&options) {
            Ok(brokers) => brokers,
            Err(missing @ (Missing::Program { .. } | Missing::JavaVersion { .. } | Missing::Fetch { .. })) => {
                sluice_brokers::skipped(format_args!("no brokers with TLS here: {missing}"));
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let secured = brokers.secured().unwrap().clone();
        let right = Access::right(&secured, folder.path());
        let setup = Setup::with_defaults(&[GOOD]);
        let carriers = Carriers::start(folder.path(), &setup.carriers, 1);
        Some(Self { brokers, secured, right, carriers, setup, folder })
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A command with a configuration of its own, and both passwords in its environment.
    fn command(&self, name: &str, access: &Access, arguments: &[&str]) -> Command {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut text = self.setup.text(anywhere, Path::new("unused"), &self.carriers.url);
        text += &section("secured", self.brokers.kafka(), self.brokers.store(), 2, self.folder.path());
        let mut command = program(arguments);
        command.arg("--config").arg(self.write(&format!("{name}.toml"), &(text + &access.text())));
        // Whatever may be said is said.
        command.env("SLUICE_LOG", "debug");
        command.env(KAFKA_PASSWORD, &self.secured.kafka_password).env(CQL_PASSWORD, &self.secured.store_password);
        command
    }

    fn start(&self, name: &str, access: &Access, arguments: &[&str]) -> Process {
        Process::start(self.command(name, access, arguments), self.folder.path(), name)
    }

    fn run(&self, name: &str, access: &Access, arguments: &[&str]) -> Ended {
        self.start(name, access, arguments).end()
    }

    /// Asserts that nothing that was written down so far has a secret in it.
    fn assert_nothing_is_told(&self) {
        let mut read = 0;
        for entry in fs::read_dir(self.folder.path()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".log") || name.ends_with(".out") {
                let text = fs::read_to_string(entry.path()).unwrap();
                for secret in [&self.secured.kafka_password, &self.secured.store_password, WRONG] {
                    assert!(!text.contains(secret), "{name} has a secret in it: {text}");
                }
                read += 1;
            }
        }
        assert!(read > 10, "only {read} files");
    }
}

/// How errors begin that are about users and passwords.
const KAFKA_LOGIN: &str = "cluster.kafka.username, password_env or password_file, sasl: ";
const CQL_LOGIN: &str = "cluster.cql.username, password_env or password_file: ";
/// A password that nobody has.
const WRONG: &str = "open-sesame-8462";

#[test]
fn servers_that_ask_for_tls_and_passwords() {
    let Some(place) = Place::new() else { return };
    let migrated = place.run("migrate", &place.right, &["migrate"]);
    assert_eq!(migrated.code, Some(0), "{}", migrated.log);
    assert!(migrated.out.contains("secured.orders"), "{}", migrated.out);
    an_order_is_finished(&place);

    // The other way around: from a file, and from the environment.
    let file = place.write("kafka.password", &place.secured.kafka_password);
    let other = place.right.change(|access| {
        set(&mut access.kafka, "sasl", Some("\"PLAIN\""));
        set(&mut access.kafka, "password_env", None);
        set(&mut access.kafka, "password_file", Some(&format!("{:?}", file.display().to_string())));
        set(&mut access.cql, "password_file", None);
        set(&mut access.cql, "password_env", Some(&format!("{CQL_PASSWORD:?}")));
    });
    let again = place.run("again", &other, &["migrate"]);
    assert_eq!(again.code, Some(0), "{}", again.log);
    assert!(again.out.contains("topics created none"), "{}", again.out);

    what_is_wrong_is_named(&place, &other);
    let help = place.run("help", &place.right, &["worker", "--help"]);
    assert_eq!(help.code, Some(0), "{}", help.log);
    place.assert_nothing_is_told();
}

fn an_order_is_finished(place: &Place) {
    let ready = place.folder.path().join("ready");
    let mut command = place.command("worker", &place.right, &["worker", "--all", "--json"]);
    command.arg("--ready-file").arg(&ready);
    let mut worker = Process::start(command, place.folder.path(), "worker");
    let url = wait_for("the node is at work", || {
        assert!(worker.ended().is_none(), "it ended: {}", worker.log());
        fs::read_to_string(&ready).ok()?.strip_suffix('\n').map(str::to_owned)
    });
    let client = Client::new(url.strip_prefix("http://").unwrap().parse().unwrap(), "key-1");
    let id = client.order("k-1", &order()).id();
    wait_for("the order is accepted by its carrier", || {
        let answer = client.get(&format!("/v1/orders/{id}"));
        (answer.status == 200 && answer.json()["status"] == "carrier_accepted").then_some(())
    });
    worker.terminate();
    let ended = worker.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let receipt: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&receipt["accepted"], &receipt["finished"]), (&1.into(), &1.into()), "{receipt}");
    assert_eq!(place.carriers.ledger().orders().count(), 1);
}

/// Starts a command with everything that may be wrong, all at once, and reads what each has to say.
fn what_is_wrong_is_named(place: &Place, plain: &Access) {
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    let stranger = quoted(place.write("stranger.pem", &Authority::new("stranger").unwrap().pem().unwrap()));
    let noise = quoted(place.write("noise.pem", "not a certificate\n"));
    let wrong = quoted(place.write("wrong.password", WRONG));
    let right = &place.right;
    let of_kafka = |key, value: Option<&str>| right.change(|access| set(&mut access.kafka, key, value));
    let of_cql = |key, value: Option<&str>| right.change(|access| set(&mut access.cql, key, value));
    let scram = right.change(|access| {
        set(&mut access.kafka, "password_env", None);
        set(&mut access.kafka, "password_file", Some(&wrong));
    });
    let without = |section: &mut Vec<_>, keys: &[&'static str]| keys.iter().for_each(|key| set(section, key, None));
    let certificate = ["cert_file", "key_file"];
    let tls = ["tls", "ca_file", "cert_file", "key_file"];
    // Configuration, command, exit code, and how the error begins.
    let cases: [(&str, Access, &str, i32, &str); 16] = [
        ("plain-login", plain.change(|a| set(&mut a.kafka, "password_file", Some(&wrong))), "migrate", 3, KAFKA_LOGIN),
        ("scram-login", scram.clone(), "migrate", 3, KAFKA_LOGIN),
        ("worker-login", scram, "worker", 3, KAFKA_LOGIN),
        ("kafka-stranger", of_kafka("ca_file", Some(&stranger)), "migrate", 3, "cluster.kafka.ca_file: "),
        ("kafka-noise", of_kafka("ca_file", Some(&noise)), "migrate", 3, "cluster.kafka.ca_file: "),
        ("kafka-key", of_kafka("key_file", Some(&noise)), "migrate", 3, "cluster.kafka.key_file: "),
        ("kafka-gone", of_kafka("ca_file", Some("\"/no/ca.pem\"")), "migrate", 2, "cluster.kafka.ca_file: /no/ca.pem"),
        ("kafka-tls", of_kafka("tls", None), "migrate", 2, "cluster.kafka.ca_file: needs tls = true"),
        (
            "kafka-nobody",
            right.change(|a| without(&mut a.kafka, &certificate)),
            "rebuild",
            3,
            "cluster.kafka.tls, cert",
        ),
        ("cql-login", of_cql("password_file", Some(&wrong)), "migrate", 3, CQL_LOGIN),
        ("cql-rebuild", of_cql("password_file", Some(&wrong)), "rebuild", 3, CQL_LOGIN),
        ("cql-stranger", of_cql("ca_file", Some(&stranger)), "migrate", 3, "cluster.cql.ca_file: "),
        ("cql-key", of_cql("key_file", Some(&noise)), "worker", 3, "cluster.cql.key_file: "),
        ("cql-user", of_cql("username", None), "migrate", 2, "cluster.cql.username: expected a user and a password"),
        ("cql-nobody", right.change(|a| without(&mut a.cql, &certificate)), "migrate", 3, "cluster.cql.tls, cert_file"),
        (
            "cql-open",
            right.change(|a| without(&mut a.cql, &tls)),
            "worker",
            3,
            "cluster.cql.tls, cert_file, key_file: ",
        ),
    ];
    let started: Vec<Process> = cases
        .iter()
        .map(|(name, access, command, ..)| {
            let all: &[&str] = if *command == "worker" { &["worker", "--all"] } else { &[command] };
            place.start(name, access, all)
        })
        .collect();
    for (process, (name, _, _, code, words)) in started.into_iter().zip(&cases) {
        let ended = process.end();
        let said = ended.log.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or_default();
        assert_eq!((ended.code, ended.out.as_str()), (Some(*code), ""), "{name}: {}", ended.log);
        assert!(said.starts_with(words), "{name} says {said:?}, not {words:?}");
    }
}
