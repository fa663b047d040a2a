//! Keeps the files for running a cluster true. Images and a container engine may be out of reach where tests run, so each
//! command, port, path, topic, variable and metric that docker-compose.yml, Dockerfile and deploy/ name is held against
//! the program that they are about.

mod dashboard;
mod dockerfile;
mod files;
mod ready;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    process::Command,
    time::Duration,
};

use clap::{CommandFactory, Parser};
use sluice::{
    carrier_sim::CarrierSimArgs,
    cli::{Cli, Command as Subcommand},
    cluster::Role,
    config::Config,
};
use sluice_engine_kafka_scylla::topics::Names;

use files::{Compose, Service, read, root, yaml};

/// Where the file that every node reads lies in this repository.
const CONFIG: &str = "deploy/sluice.toml";

/// The command line of one of our services, as the program understands it.
fn parse(service: &Service) -> Subcommand {
    let words = service.command();
    let known = Cli::command();
    let subcommand = known.find_subcommand(&words[0]);
    let subcommand = subcommand.unwrap_or_else(|| panic!("{}: there is no sluice {}", service.name, words[0]));
    // What the program would take from its environment, which here is this test's.
    let environment = service.environment();
    let from_environment = subcommand.get_arguments().filter_map(|arg| {
        let value = environment.get(arg.get_env()?.to_str()?)?;
        Some(format!("--{}={value}", arg.get_long()?))
    });
    let line: Vec<String> =
        std::iter::once("sluice".to_owned()).chain(words.iter().cloned()).chain(from_environment).collect();
    Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{}: {error}", service.name)).command
}

/// The configuration that `service` would read from `path`, a path in its container.
fn load(service: &Service, path: &Path) -> Config {
    let mounts = service.mounts();
    let source = mounts.iter().find(|mount| Path::new(&mount.target) == path);
    let source = source.unwrap_or_else(|| panic!("{}: nothing is mounted at {}", service.name, path.display()));
    assert_eq!(source.source, format!("./{CONFIG}"), "{}", service.name);
    let environment = service.environment();
    let (config, warnings) = Config::load(&root().join(&source.source), &|name| environment.get(name).cloned())
        .unwrap_or_else(|error| panic!("{}: {error}", service.name));
    assert!(warnings.is_empty(), "{}: {warnings:?}", service.name);
    let listened: IpAddr = config.listen.ip();
    assert!(listened.is_unspecified(), "{}: {listened} can't be reached from other containers", service.name);
    config
}

/// What our services are, by what they do.
struct Cluster {
    workers: BTreeMap<String, (Role, Config)>,
    migrate: String,
    carriers: (String, CarrierSimArgs),
}

impl Cluster {
    fn new(compose: &Compose) -> Self {
        let (mut workers, mut migrate, mut carriers) = (BTreeMap::new(), None, None);
        for service in compose.ours() {
            match parse(&service) {
                Subcommand::Worker(args) => {
                    assert_eq!(args.roles().len(), 1, "{}: each service in a container of its own", service.name);
                    let config = load(&service, args.config.as_ref().unwrap());
                    workers.insert(service.name.clone(), (args.roles()[0], config));
                }
                Subcommand::Migrate(args) => {
                    load(&service, &args.config);
                    assert!(migrate.replace(service.name).is_none(), "one is enough");
                }
                Subcommand::CarrierSim(args) => assert!(carriers.replace((service.name, args)).is_none()),
                other => panic!("{}: {other:?} has no place in a cluster", service.name),
            }
        }
        Self { workers, migrate: migrate.unwrap(), carriers: carriers.unwrap() }
    }

    fn config(&self) -> &Config {
        &self.workers.values().next().unwrap().1
    }

    /// The port at which one of our services listens.
    fn listens(&self, service: &str) -> Option<u16> {
        if let Some((_, config)) = self.workers.get(service) {
            return Some(config.listen.port());
        }
        (service == self.carriers.0).then(|| self.carriers.1.listen.port())
    }
}

#[test]
fn compose_accepts_its_file() {
    let docker = |arguments: &[&str]| Command::new("docker").arg("compose").args(arguments).output();
    if !docker(&["version"]).is_ok_and(|output| output.status.success()) {
        sluice_brokers::skipped("there is no `docker compose` here, so `docker compose config` was not asked");
        return;
    }
    let file = root().join("docker-compose.yml");
    let output = docker(&["-f", file.to_str().unwrap(), "config", "--quiet"]).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaints.contains("level=warning"), "{complaints}");
}

#[test]
fn every_service_has_a_command_that_the_program_takes() {
    let cluster = Cluster::new(&Compose::read());
    let roles: BTreeSet<Role> = cluster.workers.values().map(|(role, _)| *role).collect();
    assert_eq!(roles, BTreeSet::from(Role::ALL));
    for (name, (role, _)) in &cluster.workers {
        assert_eq!(name, role.name(), "a service is called what it does");
    }
}

#[test]
fn variables_are_those_that_the_program_reads() {
    let compose = Compose::read();
    let (sources, toml) = (files::sources(), read(CONFIG));
    for service in compose.ours() {
        for name in service.environment().keys() {
            let quoted = format!("\"{name}\"");
            assert!(sources.contains(&quoted) || toml.contains(&quoted), "{}: nothing reads {name}", service.name);
        }
    }
}

#[test]
fn brokers_and_store_are_reached_where_they_listen() {
    let compose = Compose::read();
    let cluster = Cluster::new(&compose);
    let kafka = compose.service("kafka").environment();
    for (name, (_, config)) in &cluster.workers {
        let known = config.cluster.as_ref().unwrap_or_else(|| panic!("{name}: no [cluster]"));
        let advertised: Vec<&str> = kafka["KAFKA_ADVERTISED_LISTENERS"].split(',').collect();
        assert!(advertised.contains(&format!("INTERNAL://{}", known.brokers).as_str()), "{name}: {}", known.brokers);
        assert_eq!(known.store, ["scylla:9042"], "{name}");
        assert_eq!((known.replication, known.store_replication), (1, 1), "{name}: there is one of each");
    }
    let port = |listener: &str| listener.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let listeners: BTreeMap<&str, u16> =
        kafka["KAFKA_LISTENERS"].split(',').map(|l| (l.split("://").next().unwrap(), port(l))).collect();
    for advertised in kafka["KAFKA_ADVERTISED_LISTENERS"].split(',') {
        assert_eq!(listeners[advertised.split("://").next().unwrap()], port(advertised), "{advertised}");
    }
    let published = compose.service("kafka").ports();
    assert_eq!(published.iter().map(|p| (p.host, p.container)).collect::<Vec<_>>(), [(9092, listeners["HOST"])]);
    assert!(kafka["KAFKA_ADVERTISED_LISTENERS"].contains("HOST://127.0.0.1:9092"));
}

#[test]
fn carriers_are_those_that_are_simulated() {
    let cluster = Cluster::new(&Compose::read());
    let (service, simulated) = &cluster.carriers;
    let ids: BTreeSet<&str> = simulated.carriers.iter().map(|spec| spec.id.as_str()).collect();
    for (_, config) in cluster.workers.values() {
        assert_eq!(config.carriers.iter().map(|c| c.id.as_str()).collect::<BTreeSet<_>>(), ids);
        for carrier in &config.carriers {
            let port = simulated.listen.port();
            assert_eq!(carrier.url, format!("http://{service}:{port}/carriers/{}/manifests", carrier.id));
            assert_eq!(carrier.secret.as_ref(), Some(&simulated.secret), "{}", carrier.id);
            assert_eq!(carrier.events_secret, simulated.telling.events_secret, "{}", carrier.id);
            let really = simulated.carriers.iter().find(|spec| spec.id == carrier.id).unwrap();
            assert_eq!(carrier.idempotent, really.behaviour.idempotent, "{}", carrier.id);
        }
    }
    let told_at = simulated.telling.events_url.as_deref().and_then(|url| url.strip_prefix("http://")).unwrap();
    let (node, port) = told_at.split_once(':').unwrap();
    assert_eq!((cluster.workers[node].0, cluster.listens(node)), (Role::Carrier, port.parse().ok()), "{told_at}");
    let ledger = simulated.ledger.to_str().unwrap();
    let compose = Compose::read();
    let mounts = compose.service(service).mounts();
    assert!(mounts.iter().any(|mount| !mount.is_bind() && ledger.starts_with(&mount.target)), "{ledger} is not kept");
}

#[test]
fn ports_are_those_that_services_listen_at() {
    let compose = Compose::read();
    let cluster = Cluster::new(&compose);
    let mut taken = BTreeSet::new();
    for service in compose.services() {
        for port in service.ports() {
            assert_eq!(port.address, "127.0.0.1", "{}: bound to this machine alone", service.name);
            assert!(taken.insert(port.host), "{}: {} is taken", service.name, port.host);
            if let Some(listened) = cluster.listens(&service.name) {
                assert_eq!(port.container, listened, "{}", service.name);
            }
        }
    }
    let host = |service: &str| compose.service(service).ports()[0].host;
    assert_eq!((host("checkout"), host("status")), (8080, 8081), "as the README says");
    for service in compose.ours().filter(|service| service.name != cluster.migrate) {
        let test = service.healthcheck();
        let listened = cluster.listens(&service.name).unwrap().to_string();
        assert_eq!(&test[..4], ["CMD", "sluice-ready", "127.0.0.1", &listened], "{}", service.name);
    }
}

#[test]
fn prometheus_scrapes_every_worker_where_it_listens() {
    let cluster = Cluster::new(&Compose::read());
    let mut scraped = BTreeSet::new();
    for job in yaml("deploy/prometheus.yml")["scrape_configs"].as_array().unwrap() {
        for discovered in job["dns_sd_configs"].as_array().unwrap() {
            assert_eq!(discovered["type"], "A");
            for name in discovered["names"].as_array().unwrap() {
                let name = name.as_str().unwrap();
                assert_eq!(Some(discovered["port"].as_u64().unwrap() as u16), cluster.listens(name), "{name}");
                assert_eq!(job["job_name"], name);
                scraped.insert(name.to_owned());
            }
        }
    }
    assert_eq!(scraped, cluster.workers.keys().cloned().collect());
}

#[test]
fn files_are_where_they_are_mounted_from() {
    let compose = Compose::read();
    let volumes = compose.value["volumes"].as_object().unwrap();
    for service in compose.services() {
        for mount in service.mounts() {
            if mount.is_bind() {
                let path = root().join(&mount.source);
                assert!(path.exists(), "{}: {}", service.name, path.display());
                assert!(mount.read_only, "{}: {} may be changed", service.name, mount.source);
            } else {
                assert!(volumes.contains_key(&mount.source), "{}: volume {}", service.name, mount.source);
            }
        }
    }
    let prometheus = compose.service("prometheus");
    let flag = "--config.file=";
    let path = prometheus.command().iter().find_map(|word| word.strip_prefix(flag).map(str::to_owned)).unwrap();
    assert!(prometheus.mounts().iter().any(|mount| mount.target == path), "{path}");
}

#[test]
fn services_start_in_order_and_stop_in_time() {
    let compose = Compose::read();
    let cluster = Cluster::new(&compose);
    for service in compose.services() {
        let one_shot = service.name == cluster.migrate;
        let restart = if one_shot { "no" } else { "unless-stopped" };
        assert_eq!(service.value["restart"], restart, "{}", service.name);
        assert_eq!(service.value["healthcheck"].is_object(), !one_shot, "{}: health check", service.name);
        for (other, condition) in service.dependencies() {
            let expected = if other == cluster.migrate { "service_completed_successfully" } else { "service_healthy" };
            assert_eq!(condition, expected, "{} after {other}", service.name);
            assert!(compose.services().any(|s| s.name == other), "{} after {other}", service.name);
        }
    }
    let waits_for = |service: &str, other: &str| {
        assert!(compose.service(service).dependencies().contains_key(other), "{service} must wait for {other}");
    };
    ["kafka", "scylla"].iter().for_each(|other| waits_for(&cluster.migrate, other));
    for (name, (role, config)) in &cluster.workers {
        ["kafka", "scylla", &cluster.migrate].iter().for_each(|other| waits_for(name, other));
        if *role == Role::Carrier {
            waits_for(name, &cluster.carriers.0);
        }
        let grace = compose.service(name).value["stop_grace_period"].as_str().unwrap().to_owned();
        let grace = Duration::from_secs(grace.strip_suffix('s').unwrap().parse().unwrap());
        // After the drain come calls, connections and transactions under way.
        let needed = Duration::from_secs(u64::from(config.drain_deadline_s) + 15);
        assert!(grace >= needed, "{name}: {grace:?}, needed {needed:?}");
    }
}

#[test]
fn images_are_pinned_and_those_that_the_tests_know() {
    let compose = Compose::read();
    let mut images = BTreeMap::new();
    for service in compose.services() {
        let image = service.value["image"].as_str().unwrap().to_owned();
        let (name, tag) = image.split_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        assert!(!tag.contains("latest"), "{image}");
        let ours = service.value["build"].is_object();
        assert!(ours || tag.chars().filter(|&c| c == '.').count() >= 2, "{image}: expected a whole version");
        images.insert(name.to_owned(), tag.to_owned());
    }
    let containers = read("crates/brokers/src/containers.rs");
    for (constant, image) in [("KAFKA_TAG", "apache/kafka"), ("SCYLLA_TAG", "scylladb/scylla")] {
        let tested = containers.split(&format!("{constant}: &str = \"")).nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(images[image], tested, "{image}");
    }
}

#[test]
fn topics_and_groups_are_those_that_are_made() {
    let cluster = Cluster::new(&Compose::read());
    let config = cluster.config();
    let names = Names::new(&config.cluster.as_ref().unwrap().prefix);
    let mut known = BTreeSet::from([
        names.orders(),
        names.decisions(),
        names.events(),
        names.dead_letters(),
        names.deployment(),
        names.owners(),
        names.status(),
        names.checkouts(),
    ]);
    for carrier in &config.carriers {
        known.extend([names.shipments(&carrier.id), names.notifiers(&carrier.id)]);
    }
    let mut found = 0;
    let mut texts = vec!["docker-compose.yml".to_owned(), "Dockerfile".to_owned(), "README.md".to_owned()];
    texts.extend(files::under("deploy"));
    for file in texts {
        for name in files::dotted(&read(&file), "sluice.") {
            let is_file = [".toml", ".yml", ".json", ".sh"].iter().any(|end| name.ends_with(end));
            // With the carrier's id left open: sluice.shipments.<carrier>.
            let open = known.iter().any(|whole| whole.starts_with(&format!("{name}.")));
            assert!(is_file || open || known.contains(&name), "{file}: nothing makes {name}");
            found += usize::from(known.contains(&name));
        }
    }
    assert!(found > 0, "no topic is named anywhere");
}
