//! The dashboard asks for metrics, labels and label values that the sources have, and is where Grafana looks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::files::{Compose, read, root, sources, under, yaml};

/// Of Prometheus itself.
const JOINED: [&str; 3] = ["le", "job", "instance"];

fn dashboards() -> Vec<(String, Value)> {
    let files = under("deploy/grafana/dashboards");
    files.into_iter().map(|path| (path.clone(), serde_json::from_str(&read(&path)).unwrap())).collect()
}

/// What one query names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
    values: BTreeSet<String>,
}

impl Query {
    fn read(text: &str) -> Self {
        let mut query = Self::default();
        let mut rest = without_durations(text);
        while let Some((before, after)) = rest.split_once('{') {
            let (selector, after) = after.split_once('}').unwrap_or_else(|| panic!("no end of a selector: {text}"));
            // Braces within quotes: the path of an order has them.
            let (selector, after) = match selector.matches('"').count() % 2 {
                0 => (selector.to_owned(), after.to_owned()),
                _ => {
                    let (more, after) = after.split_once('}').unwrap();
                    (format!("{selector}}}{more}"), after.to_owned())
                }
            };
            query.select(&selector);
            rest = format!("{before} {after}");
        }
        while let Some((before, after)) = rest.split_once("by (") {
            let (labels, after) = after.split_once(')').unwrap();
            query.labels.extend(labels.split(',').map(|label| label.trim().to_owned()));
            rest = format!("{before}{after}");
        }
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut words = rest.as_str();
        while let Some(start) = words.find(|c: char| c.is_ascii_alphabetic()) {
            let end = words[start..].find(|c| !part(c)).map_or(words.len(), |end| start + end);
            let (word, after) = (&words[start..end], &words[end..]);
            let called = after.trim_start().starts_with('(');
            if !called && !["or", "and", "unless"].contains(&word) {
                query.metrics.insert(word.to_owned());
            }
            words = after;
        }
        query
    }

    /// `label="value",other=~"a|b"`
    fn select(&mut self, selector: &str) {
        let mut rest = selector;
        while let Some((label, quoted)) = rest.split_once('"') {
            self.labels.insert(label.trim_matches([',', ' ', '=', '!', '~']).to_owned());
            let (values, after) = quoted.split_once('"').unwrap();
            self.values.extend(values.split('|').map(str::to_owned));
            rest = after;
        }
    }
}

/// `[5m]` and `[$__rate_interval]` say how far back to look.
fn without_durations(text: &str) -> String {
    let mut parts = text.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once(']').map_or("", |(_, after)| after))
}

/// The name that the source has for a series: a histogram has three.
fn is_recorded(sources: &str, name: &str) -> bool {
    let quoted = |name: &str| sources.contains(&format!("\"{name}\""));
    let of_histogram = || ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end).is_some_and(quoted));
    quoted(name) || of_histogram()
}

#[test]
fn a_query_is_taken_apart() {
    let query = Query::read(r#"a(0.9, sum by (le, x) (rate(m_bucket{r="G /{id}",s!~"u|v"}[$__i]))) > 0 or max(n{})"#);
    let set = |all: &[&str]| all.iter().map(|&word| word.to_owned()).collect();
    let expected = Query {
        metrics: set(&["m_bucket", "n"]),
        labels: set(&["le", "x", "r", "s"]),
        values: set(&["G /{id}", "u", "v"]),
    };
    assert_eq!(query, expected);
}

#[test]
fn every_metric_that_the_dashboard_shows_is_recorded() {
    let sources = sources();
    let mut shown = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let (text, title) = (target["expr"].as_str().unwrap(), &panel["title"]);
                let query = Query::read(text);
                assert!(!query.metrics.is_empty(), "{file}: {title}: {text}");
                for metric in &query.metrics {
                    assert!(is_recorded(&sources, metric), "{file}: {title}: nothing records {metric}");
                }
                let mut labels = query.labels;
                let legend = target["legendFormat"].as_str().unwrap();
                labels.extend(legend.split("{{").skip(1).map(|l| l.split("}}").next().unwrap().trim().to_owned()));
                for label in labels.iter().filter(|label| !JOINED.contains(&label.as_str())) {
                    assert!(sources.contains(&format!("\"{label}\" =>")), "{file}: {title}: no label {label}");
                }
                for value in &query.values {
                    assert!(sources.contains(&format!("\"{value}\"")), "{file}: {title}: no label has {value:?}");
                }
                shown.extend(query.metrics);
            }
        }
    }
    assert!(shown.len() > 20, "{shown:?}");
}

#[test]
fn panels_have_an_id_a_title_and_a_place_of_their_own() {
    for (file, dashboard) in dashboards() {
        let panels = dashboard["panels"].as_array().unwrap();
        let mut ids = BTreeSet::new();
        let mut places = BTreeSet::new();
        for panel in panels {
            let title = panel["title"].as_str().unwrap();
            assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{file}: {title}");
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{file}: {title} is too wide");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(places.insert((x, y)), "{file}: {title} lies over another panel");
                }
            }
        }
    }
}

#[test]
fn grafana_finds_dashboards_and_prometheus() {
    let compose = Compose::read();
    let grafana = compose.service("grafana");
    let mounts = grafana.mounts();
    let source = |target: &str| mounts.iter().find(|mount| mount.target == target).map(|mount| mount.source.as_str());
    assert_eq!(source("/etc/grafana/provisioning"), Some("./deploy/grafana/provisioning"));
    let providers = yaml("deploy/grafana/provisioning/dashboards/sluice.yml");
    let folder = providers["providers"][0]["options"]["path"].as_str().unwrap();
    let files = source(folder).unwrap_or_else(|| panic!("nothing is mounted at {folder}"));
    let home = &grafana.environment()["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    let home = home.strip_prefix(folder).unwrap().trim_start_matches('/');
    assert!(root().join(files).join(home).is_file(), "{home}");

    let datasources = yaml("deploy/grafana/provisioning/datasources/prometheus.yml");
    let datasource = &datasources["datasources"][0];
    let listened = compose.service("prometheus").ports()[0].container;
    assert_eq!(datasource["url"], format!("http://prometheus:{listened}"));
    let interval = yaml("deploy/prometheus.yml")["global"]["scrape_interval"].clone();
    assert_eq!(datasource["jsonData"]["timeInterval"], interval);
    for (file, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
            let targets = panel["targets"].as_array().unwrap();
            for one in std::iter::once(panel).chain(targets) {
                assert_eq!(one["datasource"]["uid"], datasource["uid"], "{file}: {}", panel["title"]);
            }
        }
    }
}
