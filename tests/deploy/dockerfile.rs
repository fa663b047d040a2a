//! The Dockerfile builds the program with what the sources ask for, from files that reach the build.

use super::files::{read, root, under};

/// Instructions, with continued lines joined and comments left out.
fn instructions() -> Vec<(String, String)> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| line.split_once(' ').unwrap()).map(|(word, rest)| (word.to_owned(), rest.to_owned())).collect()
}

fn all(word: &str) -> Vec<String> {
    instructions().into_iter().filter(|(found, _)| found == word).map(|(_, rest)| rest).collect()
}

/// Whether .dockerignore keeps a file from the build.
fn is_ignored(path: &str) -> bool {
    let text = read(".dockerignore");
    let mut patterns = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    patterns.any(|pattern| {
        if let Some(name) = pattern.strip_prefix("**/") {
            let fits = |part: &str| name.strip_prefix('*').map_or(part == name, |end| part.ends_with(end));
            return path.split('/').any(fits);
        }
        if let Some(end) = pattern.strip_prefix('*') {
            return !path.contains('/') && path.ends_with(end);
        }
        path == pattern || path.starts_with(&format!("{pattern}/"))
    })
}

#[test]
fn the_builder_is_the_toolchain_that_the_sources_ask_for() {
    let images = all("FROM");
    let manifest = read("Cargo.toml");
    let asked = manifest.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(images[0].starts_with(&format!("rust:{asked}.")), "{}", images[0]);
    assert!(images.iter().all(|image| !image.contains("latest") && image.contains("bookworm")), "{images:?}");
    let build = all("RUN").into_iter().find(|run| run.contains("cargo build")).unwrap();
    assert!(build.contains("--release --locked -p sluice "), "{build}");
}

#[test]
fn what_is_copied_exists_and_reaches_the_build() {
    let copied = all("COPY").into_iter().filter(|copy| !copy.contains("--from="));
    let sources: Vec<String> =
        copied.map(|copy| copy.split(' ').find(|word| !word.starts_with("--")).unwrap().to_owned()).collect();
    assert_eq!(sources, [".", "deploy/ready.sh"]);
    assert!(root().join("deploy/ready.sh").is_file() && !is_ignored("deploy/ready.sh"));
    assert!(is_ignored("target/debug/sluice") && is_ignored(".git/config") && is_ignored("README.md"));
    // Cargo reads the manifest and looks for the targets of every member, built or not.
    for file in ["schemas", "data", "crates", "services", "tests", "benches/src", "benches/benches"].map(under).concat()
    {
        assert!(!is_ignored(&file), "{file} doesn't reach the build");
    }
    for file in ["Cargo.toml", "Cargo.lock", "benches/Cargo.toml"] {
        assert!(!is_ignored(file), "{file} doesn't reach the build");
    }
}

#[test]
fn the_image_runs_the_program_as_nobody_special() {
    assert_eq!(all("ENTRYPOINT"), [r#"["sluice"]"#]);
    assert_eq!(all("USER"), ["sluice"]);
    assert!(all("HEALTHCHECK").is_empty(), "compose says what healthy means");
    let listen = read(super::CONFIG);
    let port = listen.split("listen = \"0.0.0.0:").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert_eq!(all("EXPOSE"), [port]);
    // What health checks call is what is copied there.
    let script = all("COPY").into_iter().find(|copy| copy.contains("deploy/ready.sh")).unwrap();
    assert!(script.ends_with("/usr/local/bin/sluice-ready") && script.contains("--chmod=0755"), "{script}");
}
