//! The pipeline under the simulator: hundreds of seeds keep every promise, a seed is always the same run, and bugs put in
//! on purpose are found.

use std::sync::LazyLock;

use sluice::simulate::{Options, Planted, SeedReport, run_seed, run_seeds};

/// Seeds that every test run goes through.
const SEEDS: u64 = 300;
/// Seeds within which a planted bug must be found.
const FOUND_WITHIN: u64 = 200;

static OPTIONS: LazyLock<Options> = LazyLock::new(|| Options::load().unwrap());

fn silent(_: &SeedReport) {}

#[test]
fn hundreds_of_seeds_keep_every_promise() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = run_seeds(0..SEEDS, jobs, &OPTIONS, &silent);
    let messages: Vec<&str> = summary.failures.iter().map(|failure| failure.message.as_str()).collect();
    assert!(messages.is_empty(), "{}", messages.join("\n"));
    // Silence proves nothing if nothing happened.
    let t = &summary.tally;
    assert_eq!(summary.seeds, SEEDS);
    assert!(t.power_losses > SEEDS && t.kills > SEEDS / 2, "{t:?}");
    assert!(t.acknowledged > 50 * SEEDS && t.finished > 40 * SEEDS, "{t:?}");
    assert!(t.dead_lettered > SEEDS && t.parked > SEEDS && t.refused > SEEDS && t.replayed > SEEDS / 3, "{t:?}");
    assert!(t.reviewed > SEEDS / 3, "{t:?}");
    assert!(t.retired > 5 * SEEDS, "{t:?}");
    assert!(t.checkpoints > SEEDS && t.calls > 50 * SEEDS && t.rot_found > SEEDS / 4, "{t:?}");
}

#[test]
fn a_seed_is_always_the_same_run() {
    let traced = Options { trace_lines: usize::MAX, ..OPTIONS.clone() };
    for seed in [3, 17, 250] {
        let (first, again) = (run_seed(seed, &traced), run_seed(seed, &traced));
        assert!(first.trace.len() > 100);
        let parted = first.trace.iter().zip(&again.trace).find(|(a, b)| a != b);
        assert_eq!(parted, None, "seed {seed}");
        assert_eq!(first, again, "seed {seed}");
        assert_eq!(run_seed(seed, &OPTIONS).digest, first.digest, "the digest doesn't depend on what is kept");
    }
    assert_ne!(run_seed(3, &OPTIONS).digest, run_seed(17, &OPTIONS).digest);
}

/// Finds `bug` as a break of one of `invariants`, and the seed that shows it passes without it.
fn is_found(bug: Planted, invariants: &[&str]) {
    let options = OPTIONS.with(bug);
    let failures = || (0..FOUND_WITHIN).filter_map(|seed| run_seed(seed, &options).failure.map(|f| (seed, f)));
    let (seed, failure) = failures().next().unwrap_or_else(|| panic!("{} is not found", bug.name()));
    assert!(failure.invariant.is_some_and(|broken| invariants.contains(&broken)), "{}", failure.message);
    assert!(failure.message.contains(&format!("--seed {seed} --trace")), "{}", failure.message);
    assert!(failure.message.contains(&format!("--plant {}", bug.name())), "{}", failure.message);
    assert_eq!(run_seed(seed, &OPTIONS).failure, None, "without the bug");
}

#[test]
fn an_answer_before_the_sync_is_found() {
    // What was answered is lost, or what was decided is, and a carrier knows of it; or the log goes on over a hole.
    let broken = ["durable-before-ack", "decide-before-act", "one-effect", "torn-is-not-rot"];
    is_found(Planted::AckBeforeSync, &broken);
}

#[test]
fn a_new_shipment_id_on_a_retry_is_found() {
    is_found(Planted::NewIdOnRetry, &["decide-before-act", "one-effect"]);
}

#[test]
fn a_call_before_its_decision_is_committed_is_found() {
    is_found(Planted::CallBeforeCommit, &["decide-before-act", "one-effect"]);
}

#[test]
fn an_index_entry_that_survives_an_aborted_batch_is_found() {
    is_found(Planted::IndexSurvivesAbort, &["durable-before-ack", "torn-is-not-rot"]);
}

#[test]
fn a_status_that_may_regress_is_found() {
    is_found(Planted::StatusRegresses, &["monotone-status"]);
}

#[test]
fn a_split_that_drops_an_item_is_found() {
    is_found(Planted::SplitDropsItem, &["conservation"]);
}

#[test]
fn a_timeout_treated_as_a_reject_is_found() {
    is_found(Planted::TimeoutIsReject, &["one-effect"]);
}

#[test]
fn a_skipped_checksum_is_found() {
    is_found(Planted::SkippedChecksum, &["torn-is-not-rot"]);
}
