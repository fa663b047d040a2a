//! Keeps ARCHITECTURE.md true: the crates' real dependency arrows, the files it names, and the size of source files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn document() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

/// crate → crates of ours it depends on, of any kind.
fn real_arrows() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |v: &Value| v["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let arrows =
        |p: &Value| p["dependencies"].as_array().unwrap().iter().map(name).filter(|n| ours.contains(n)).collect();
    packages.iter().map(|p| (name(p), arrows(p))).collect()
}

/// crate → crates that the table of ARCHITECTURE.md allows it.
fn allowed_arrows() -> BTreeMap<String, BTreeSet<String>> {
    let text = document();
    let section = text.split("## Arrows").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut allowed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in section.lines().filter(|l| l.starts_with("| sluice")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let mut names: BTreeSet<String> = BTreeSet::new();
        for cell in cells[2].split(',').map(str::trim).filter(|c| !c.is_empty()) {
            if cell == "everything above" {
                names.extend(allowed.keys().filter(|k| *k != "sluice" && *k != "sluice-tests").cloned());
            } else {
                names.insert(cell.to_owned());
            }
        }
        allowed.insert(cells[1].to_owned(), names);
    }
    allowed
}

#[test]
fn dependency_arrows_are_those_of_the_table() {
    let (real, allowed) = (real_arrows(), allowed_arrows());
    let listed: BTreeSet<_> = allowed.keys().collect();
    assert_eq!(real.keys().collect::<BTreeSet<_>>(), listed, "crates of the workspace and rows of the table");
    for (name, uses) in &real {
        let extra: Vec<_> = uses.difference(&allowed[name]).collect();
        assert!(extra.is_empty(), "{name} uses {extra:?}, which ARCHITECTURE.md does not allow");
    }
}

#[test]
fn libraries_stay_where_the_table_puts_them() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let (library, kind) = (dependency["name"].as_str().unwrap(), dependency["kind"].as_str());
            if library == "fjall" && kind.is_none() {
                assert_eq!(name, "sluice-engine-embedded", "fjall");
            }
            if matches!(library, "rdkafka" | "scylla") && kind.is_none() {
                assert_eq!(name, "sluice-engine-kafka-scylla", "{library}");
            }
            // `hyper` serves, too; what speaks to other machines says so by its features.
            let features = dependency["features"].as_array().unwrap();
            let calls = library == "tokio-openssl"
                || (matches!(library, "hyper" | "hyper-util") && features.iter().any(|f| f == "client"));
            if calls && kind.is_none() {
                let callers = ["sluice-carrier", "sluice-webhooks", "sluice"];
                assert!(callers.contains(&name), "{name} is no caller over HTTP");
            }
            assert!(!["common", "utils"].iter().any(|n| name.ends_with(n)), "{name}");
        }
    }
}

#[test]
fn every_path_in_the_code_map_exists() {
    let text = document();
    let map = text.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    for row in map.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let folder = root().join(cells[1].trim_matches('`'));
        assert!(folder.is_dir(), "{}", folder.display());
        for file in cells[3].split(',').map(|f| f.trim().trim_matches('`')) {
            assert!(folder.join(file).is_file(), "{}/{file}", folder.display());
        }
    }
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, out);
        } else if name.ends_with(".rs") {
            out.push(path);
        }
    }
}

#[test]
fn every_source_file_says_why_it_exists_and_stays_short() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 50);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not open with //!", file.display());
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines", file.display());
    }
}
