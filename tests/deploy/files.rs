//! docker-compose.yml and its companions, as a test reads them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A file of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A YAML file of the repository, with its aliases and merge keys resolved.
pub fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files under a folder of the repository, as paths from its root.
pub fn under(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true if path.ends_with("/target") => {}
            true => found.extend(under(&path)),
            false => found.push(path),
        }
    }
    found
}

/// What the program is made from, as one text.
pub fn sources() -> String {
    let files = under("crates").into_iter().chain(under("services"));
    files.filter(|path| path.ends_with(".rs")).map(|path| read(&path)).collect()
}

/// Every word of `text` that begins with `start` and goes on in small letters, digits, dots and dashes.
pub fn dotted(text: &str, start: &str) -> Vec<String> {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    let whole = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
    let words = text.match_indices(start).filter(|(at, _)| whole(*at)).map(|(at, _)| {
        let rest = &text[at..];
        rest[..rest.find(|c| !part(c)).unwrap_or(rest.len())].trim_end_matches(['.', '-']).to_owned()
    });
    words.filter(|word| word.len() > start.len()).collect()
}

/// docker-compose.yml.
pub struct Compose {
    pub value: Value,
}

impl Compose {
    pub fn read() -> Self {
        Self { value: yaml("docker-compose.yml") }
    }

    pub fn services(&self) -> impl Iterator<Item = Service> {
        let services = self.value["services"].as_object().unwrap();
        services.iter().map(|(name, value)| Service { name: name.clone(), value: value.clone() })
    }

    pub fn service(&self, name: &str) -> Service {
        self.services().find(|service| service.name == name).unwrap_or_else(|| panic!("there is no service {name}"))
    }

    /// Those that are built from this repository.
    pub fn ours(&self) -> impl Iterator<Item = Service> {
        self.services().filter(|service| service.value["build"].is_object())
    }
}

/// One service.
pub struct Service {
    pub name: String,
    pub value: Value,
}

/// A port of a container that this machine can reach.
pub struct Port {
    pub address: String,
    pub host: u16,
    pub container: u16,
}

/// A file, folder or volume in a container.
pub struct Mount {
    pub source: String,
    pub target: String,
    pub read_only: bool,
}

impl Mount {
    /// A file or folder of the repository rather than a volume.
    pub fn is_bind(&self) -> bool {
        self.source.starts_with("./")
    }
}

impl Service {
    fn list(&self, key: &str) -> Vec<String> {
        let items = self.value[key].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().map(|item| interpolated(item.as_str().unwrap())).collect()
    }

    pub fn command(&self) -> Vec<String> {
        match self.value["command"].as_str() {
            Some(line) => line.split_whitespace().map(str::to_owned).collect(),
            None => self.list("command"),
        }
    }

    pub fn environment(&self) -> BTreeMap<String, String> {
        let variables = self.value["environment"].as_object();
        variables.into_iter().flatten().map(|(k, v)| (k.clone(), interpolated(v.as_str().unwrap()))).collect()
    }

    pub fn ports(&self) -> Vec<Port> {
        let port = |text: String| {
            let [address, host, container] = text.split(':').collect::<Vec<_>>().try_into().unwrap();
            Port { address: address.to_owned(), host: host.parse().unwrap(), container: container.parse().unwrap() }
        };
        self.list("ports").into_iter().map(port).collect()
    }

    pub fn mounts(&self) -> Vec<Mount> {
        let mount = |text: String| {
            let mut parts = text.split(':').map(str::to_owned);
            let (source, target) = (parts.next().unwrap(), parts.next().unwrap());
            Mount { source, target, read_only: parts.next().as_deref() == Some("ro") }
        };
        self.list("volumes").into_iter().map(mount).collect()
    }

    pub fn healthcheck(&self) -> Vec<String> {
        let test = self.value["healthcheck"]["test"].as_array();
        test.into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
    }

    /// Which services it waits for, and until when.
    pub fn dependencies(&self) -> BTreeMap<String, String> {
        let all = self.value["depends_on"].as_object();
        all.into_iter().flatten().map(|(k, v)| (k.clone(), v["condition"].as_str().unwrap().to_owned())).collect()
    }
}

/// What compose makes of `${NAME:-default}` and `$$` where nothing is set.
fn interpolated(text: &str) -> String {
    let Some((before, rest)) = text.split_once('$') else { return text.to_owned() };
    if let Some(rest) = rest.strip_prefix('$') {
        return format!("{before}${}", interpolated(rest));
    }
    let variable = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let (variable, after) = variable.unwrap_or_else(|| panic!("expected ${{NAME:-default}}: {text}"));
    let (_, default) = variable.split_once(":-").unwrap_or_else(|| panic!("{variable} has no default"));
    format!("{before}{default}{}", interpolated(after))
}

#[test]
fn variables_are_resolved_as_compose_does() {
    assert_eq!(interpolated("a${X:-b==}c$$d"), "ab==c$d");
    assert_eq!(
        dotted("read sluice.order-events. No sluice, no xsluice.y; sluice.a.<b>", "sluice."),
        ["sluice.order-events", "sluice.a"]
    );
}
