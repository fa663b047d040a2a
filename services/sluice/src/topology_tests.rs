//! The pipeline starts, refuses to start, and drains. What it does in between is tested from outside, over HTTP.

use sluice_domain::Group;

use super::*;
use crate::config::MerchantConfig;

fn config(folder: &std::path::Path) -> Config {
    // Nobody listens at port 9; nothing is ever sent there.
    let secret = "whsec_c2x1aWNlLWV4YW1wbGUtc2VjcmV0LWNoYW5nZS1tZQ==";
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir: folder.join("data"),
        segment_mb: 40,
        merchants: vec![MerchantConfig::new("m-1", "key")],
        carriers: vec![CarrierConfig::new("swift", "http://127.0.0.1:9/", secret, &Group::ALL)],
        ..Config::default()
    }
}

async fn refused(config: Config) -> (String, u8) {
    let error = Pipeline::start(config).await.err().unwrap();
    (error.to_string(), error.exit_code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_refuses_a_second_one_and_drains() {
    let folder = tempfile::tempdir().unwrap();
    let first = Pipeline::start(config(folder.path())).await.unwrap();
    assert_eq!((first.counts(), first.recovered().orders), (Counts::default(), 0));

    let (why, code) = refused(config(folder.path())).await;
    assert!(why.contains("another process uses this data folder"), "{why}");
    assert_eq!(code, exit::IN_USE);

    let other = tempfile::tempdir().unwrap();
    let (why, code) = refused(Config { listen: first.address(), ..config(other.path()) }).await;
    assert!(why.contains(&first.address().to_string()), "{why}");
    assert_eq!(code, exit::NO_ADDRESS);
    assert!(!other.path().join("data").exists(), "an address that is taken is found out first");

    let receipt = first.drain(Duration::from_secs(5)).await;
    assert_eq!((receipt.accepted, receipt.left_in_journal), (Some(0), 0));
    assert!(receipt.seconds < 4.0, "{receipt:?}");
    let again = Pipeline::start(config(folder.path())).await.unwrap();
    again.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn a_bad_configuration_is_found_before_anything_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (_, code) = refused(Config { merchants: Vec::new(), ..config(folder.path()) }).await;
    assert_eq!(code, exit::USAGE);
    let rules = Some(folder.path().join("none.toml"));
    let (why, code) = refused(Config { rules, ..config(folder.path()) }).await;
    assert!(why.contains("none.toml"), "{why}");
    assert_eq!(code, exit::USAGE);
    assert!(!folder.path().join("data").exists());
}
