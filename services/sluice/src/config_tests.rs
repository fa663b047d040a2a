//! The example is true, and mistakes are named.

use std::collections::BTreeSet;

use super::*;

fn nothing(_: &str) -> Option<String> {
    None
}

fn example() -> Config {
    Config::parse("sluice.example.toml", EXAMPLE).unwrap()
}

/// The keys that a table knows, as its own error message lists them.
fn keys(text: &str) -> BTreeSet<String> {
    let error = Config::parse("x", text).unwrap_err().to_string();
    let (_, list) = error.split_once(", expected ").unwrap();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_example_is_a_configuration_with_every_default() {
    let mut config = example();
    assert_eq!(config.check().unwrap(), Vec::<String>::new());
    let merchants = std::mem::take(&mut config.merchants);
    let carriers = std::mem::take(&mut config.carriers);
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    let carrier = &carriers[0];
    let defaults = CarrierConfig::new(&carrier.id, &carrier.url, "", &Group::ALL);
    assert_eq!(format!("{carrier:?}"), format!("{defaults:?}"));
    assert_eq!(merchants.len(), 1);
}

#[test]
fn the_example_names_every_key() {
    let mut shown = [(); 7].map(|()| BTreeSet::new());
    let mut table = 0;
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        match line {
            "[[merchant]]" => table = 1,
            "[[carrier]]" => table = 2,
            "[tls]" => table = 3,
            "[webhooks]" => table = 4,
            "[[merchant.webhook]]" => table = 5,
            "[retention]" => table = 6,
            _ => {}
        }
        if let Some((key, _)) = line.split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            shown[table].insert(key.to_owned());
        }
    }
    shown[0].extend(["merchant", "carrier", "cluster", "tls", "webhooks", "retention"].map(str::to_owned));
    shown[1].insert("webhook".to_owned());
    assert_eq!(shown[0], keys("nonsense = 1"));
    assert_eq!(shown[1], keys("[[merchant]]\nid = \"a\"\nnonsense = 1"));
    assert_eq!(shown[2], keys("[[carrier]]\nid = \"a\"\nnonsense = 1"));
    assert_eq!(shown[3], keys("[tls]\nnonsense = 1"));
    assert_eq!(shown[4], keys("[webhooks]\nnonsense = 1"));
    assert_eq!(shown[6], keys("[retention]\nnonsense = 1"));
    assert_eq!(shown[5], keys("[[merchant]]\nid = \"a\"\n[[merchant.webhook]]\nnonsense = 1"));
}

#[test]
fn every_top_level_key_has_its_variable() {
    let mut expected: BTreeSet<String> = keys("nonsense = 1");
    expected
        .retain(|key| !matches!(key.as_str(), "merchant" | "carrier" | "cluster" | "tls" | "webhooks" | "retention"));
    expected.extend(keys("[retention]\nnonsense = 1").iter().map(|key| format!("retention_{key}")));
    let variables: BTreeSet<String> =
        overrides::ALL.iter().map(|(name, _)| name.trim_start_matches("SLUICE_").to_ascii_lowercase()).collect();
    assert_eq!(variables, expected);
}

#[test]
fn the_environment_goes_before_the_file() {
    let mut config = example();
    let environment = |name: &str| match name {
        "SLUICE_LISTEN" => Some("0.0.0.0:0".to_owned()),
        "SLUICE_PARTITIONS" => Some(" 3 ".to_owned()),
        "SLUICE_LOG_FORMAT" => Some("json".to_owned()),
        _ => None,
    };
    config.apply(&environment).unwrap();
    assert_eq!((config.listen.to_string().as_str(), config.partitions), ("0.0.0.0:0", 3));
    assert_eq!(config.log_format, LogFormat::Json);
    let bad = |name: &str| (name == "SLUICE_QUEUE_MB").then(|| "lots".to_owned());
    let error = config.apply(&bad).unwrap_err().to_string();
    assert_eq!(error, "SLUICE_QUEUE_MB: expected a number of MiB, got \"lots\"");
}

#[test]
fn secrets_come_from_either_place_and_are_never_shown() {
    let text = EXAMPLE.replace("api_key = \"change-me\"", "api_key_env = \"KEY\"");
    let mut config = Config::parse("x", &text).unwrap();
    let error = config.clone().apply(&nothing).unwrap_err().to_string();
    assert_eq!(error, "merchant \"m-1\": api_key_env: the variable KEY isn't set");
    config.apply(&|name: &str| (name == "KEY").then(|| "open-sesame".to_owned())).unwrap();
    assert!(config.merchant_table().unwrap().by_key("open-sesame").is_some());
    let shown = format!("{config:?}");
    assert!(!shown.contains("open-sesame") && !shown.contains("whsec_"), "{shown}");
    let mut both = example();
    both.carriers[0].secret_env = Some("KEY".to_owned());
    assert!(both.apply(&nothing).unwrap_err().to_string().contains("either secret or secret_env"));
}

#[test]
fn mistakes_are_named_by_line_and_never_quoted() {
    let error = |text: &str| Config::parse("s.toml", text).unwrap_err().to_string();
    assert!(error("listen = \"127.0.0.1:1\"\npartition = 2").starts_with("s.toml:2: unknown field `partition`"));
    assert!(
        error("partitions = \"two\"").starts_with("s.toml:1: partitions: invalid type: string \"two\", expected u16")
    );
    assert!(error("\n\nlisten = \"here\"").starts_with("s.toml:3: "));
    for text in ["[[merchant]]\nid = \"a\"\napi_keys = \"open\"", "[[merchant]]\nid = \"a\"\napi_key = 12345678"] {
        let error = error(text);
        assert!(error.starts_with("s.toml:3: "), "{error}");
        assert!(!error.contains("open") && !error.contains("12345678"), "{error}");
    }
}

#[test]
fn what_types_cannot_say_is_checked() {
    let error = |change: fn(&mut Config)| {
        let mut config = example();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert_eq!(error(|c| c.review_above_risk = Some(5.0)), "review_above_risk: expected a number from 0 to 1, got 5");
    assert_eq!(error(|c| c.partitions = 0), "partitions: expected 1 to 64, got 0");
    assert!(error(|c| c.merchants.clear()).contains("at least one [[merchant]]"));
    assert!(error(|c| c.carriers.clear()).contains("at least one [[carrier]]"));
    assert!(error(|c| c.merchants.push(c.merchants[0].clone())).contains("\"m-1\": id: is given twice"));
    assert!(error(|c| c.carriers.push(c.carriers[0].clone())).contains("id is that of carrier 1 too"));
    assert!(error(|c| c.carriers[0].handling.push("hot".into())).contains("\"hot\" is no handling group"));
    assert!(error(|c| c.carriers[0].url = "carrier".into()).contains("carrier \"swift\": url"));
    assert!(error(|c| c.carriers[0].timeout_s = 0).contains("timeout_s: expected 1 to 3600"));
    let events = error(|c| c.carriers[0].events_secret = Some(Hidden::new("hunter2 hunter3")));
    assert!(events.contains("carrier \"swift\": events_secret") && !events.contains("hunter"), "{events}");
    let error = error(|c| c.carriers[0].secret = Some(Hidden::new("hunter2")));
    assert!(error.contains("carrier \"swift\": secret") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_group_that_no_carrier_takes_is_a_warning() {
    let mut config = example();
    config.carriers[0].handling.retain(|group| group != "frozen");
    assert_eq!(config.check().unwrap(), ["no carrier takes frozen parcels: they will be dead-lettered"]);
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nowhere/sluice.toml"), &nothing).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/sluice.toml: "), "{error}");
}
