//! The rows are dropped and folded anew from the log: everybody sees what they saw, whatever happens on the way.

use serde_json::Value;

use super::town::{Town, assert_refused};
use crate::support::process::{Ended, Process};

/// One node of each role.
const ROLES: &[&str] = &["checkout", "classify", "carrier", "status"];
/// What it logs once there are no rows.
const DROPPED: &str = "the rows were dropped";

/// Rebuilds, and gives what it says it has done: records and rows.
fn rebuild(town: &Town) -> (u64, u64) {
    judged(&town.run(&["rebuild", "--json"]))
}

fn judged(ended: &Ended) -> (u64, u64) {
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["damaged"], 0, "{report}");
    // How far it is, where nobody watches a bar: at the beginning and at the end.
    let told: Vec<&str> = ended.log.lines().filter(|line| line.contains(DROPPED)).collect();
    assert!(told.len() >= 2 && told[0].contains("done=0 "), "{}", ended.log);
    (report["records"].as_u64().unwrap(), report["rows"].as_u64().unwrap())
}

/// What is shown by the nodes that are started now, once the folds have nothing left to do.
fn shown_by(town: &mut Town, roles: &[&'static str]) -> Vec<Value> {
    town.start(roles);
    town.cluster.wait_for_no_lag();
    town.views()
}

#[test]
fn rows_are_rebuilt_as_they_were() {
    let Some(mut town) = Town::new("rebuild") else { return };
    town.start(ROLES);
    town.post(40);
    let running = format!("{}.status (1 members)", town.cluster.name);
    assert_refused(&town.run(&["rebuild"]), &["stop all nodes first", &running]);
    town.settle();
    let before = town.views();
    town.stop();

    let (records, rows) = rebuild(&town);
    // Accepted, and an answer for each parcel.
    assert!(rows >= 2 * before.len() as u64 && records > 0, "{rows} rows from {records} records");
    assert_eq!(shown_by(&mut town, &["status"]), before);
    town.stop();

    // A keyspace that isn't there, as if all of it had been dropped.
    let elsewhere = town.cluster.in_keyspace("rebuild_gone", &["rebuild", "--json"]);
    assert_eq!(judged(&Process::run(elsewhere, town.cluster.folder(), "rebuild-gone")), (records, rows));

    // Killed on its way: it is run again, or the next status node does the rest.
    if !town.kill_at(DROPPED, &["rebuild"]) {
        return;
    }
    assert_eq!(rebuild(&town).1, rows);
    assert_eq!(shown_by(&mut town, &["status"]), before);
    town.stop();
    town.kill_at(DROPPED, &["rebuild"]);
    assert_eq!(shown_by(&mut town, ROLES), before);
    town.repeat();
    town.post(10);
    town.settle();
    assert_eq!(town.views()[..before.len()], before);
    town.stop();
}
